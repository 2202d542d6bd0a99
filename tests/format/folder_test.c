#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "format/source.h"
#include "format_files.h"

static char folder[64];

static int set_up(void **state)
{
    (void)state;
    temp_folder(folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    remove_folder(folder);
    return 0;
}

static void sub_folder(const char *name)
{
    char path[256];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

/* A safetensors file of one f32 tensor of two elements. */
static void write_weights(const char *name, const char *tensor)
{
    struct bytes b = {0};
    char header[256], path[256];

    snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", tensor);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    put_safetensors(&b, header, 8);
    write_file(path, b.data, b.n);
    bytes_clear(&b);
}

static void write_index(const char *map)
{
    char text[1024];

    snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":16},\"weight_map\":%s}", map);
    write_text(folder, "model.safetensors.index.json", text);
}

static void check_refused(enum cabe_status wanted, const char *words)
{
    struct cabe_source *source;
    struct cabe_error err = {0};
    enum cabe_status status = cabe_source_open(&source, folder, &err);

    if (status != wanted || !strstr(err.text, words))
        fail_msg("%s: '%s', wanted %s: '%s'", cabe_status_name(status), err.text, cabe_status_name(wanted), words);
    assert_null(source);
}

static struct cabe_source *open_folder(void)
{
    struct cabe_source *source;
    struct cabe_error err;

    if (cabe_source_open(&source, folder, &err) != CABE_OK)
        fail_msg("%s", err.text);
    return source;
}

static void write_sentence_transformer(void)
{
    write_weights("model.safetensors", "a");
    write_text(folder, "config.json", "{\"model_type\":\"bert\"}");
    write_text(folder, "tokenizer.json", "{\"model\":{\"vocab\":[[\"\\u0000\",1.0]]}}");
    write_text(folder, "modules.json",
               "[{\"idx\":0,\"path\":\"\",\"type\":\"sentence_transformers.models.Transformer\"},"
               "{\"idx\":1,\"path\":\"1_Pooling\",\"type\":\"sentence_transformers.models.Pooling\"},"
               "{\"idx\":2,\"path\":\"2_Dense\",\"type\":\"sentence_transformers.models.Dense\"},"
               "{\"idx\":3,\"path\":\"3_Normalize\",\"type\":\"sentence_transformers.models.Normalize\"}]");
    sub_folder("1_Pooling");
    write_text(folder, "1_Pooling/config.json", "{\"pooling_mode_mean_tokens\":true}");
    sub_folder("2_Dense");
    write_text(folder, "2_Dense/config.json", "{}");
    write_weights("2_Dense/model.safetensors", "linear.weight");
}

static void reads_a_sentence_transformer(void **state)
{
    struct cabe_source *source;
    struct cabe_error err;
    const json_t *json;

    (void)state;
    write_sentence_transformer();
    source = open_folder();
    assert_int_equal(cabe_source_kind(source), CABE_SOURCE_FOLDER);
    assert_int_equal(cabe_source_n_tensors(source), 2);
    assert_non_null(cabe_source_find(source, "a"));
    assert_non_null(cabe_source_find(source, "2_Dense/linear.weight"));
    assert_string_equal(json_string_value(json_object_get(cabe_source_document(source, "config.json"), "model_type")),
                        "bert");
    assert_true(json_is_true(
        json_object_get(cabe_source_document(source, "1_Pooling/config.json"), "pooling_mode_mean_tokens")));
    assert_non_null(cabe_source_document(source, "tokenizer.json"));
    cabe_source_trim(source);
    assert_non_null(cabe_source_document(source, "tokenizer.json"));
    assert_null(cabe_source_document(source, "sentence_bert_config.json"));
    assert_int_equal(cabe_source_document_get(source, "vocab.json", &json, &err), CABE_ERR_NOT_FOUND);
    cabe_source_close(source);
}

/* Where the first module has a folder of its own, its documents are found by their plain names. */
static void reads_a_static_embedding_in_its_folder(void **state)
{
    struct cabe_source *source;

    (void)state;
    write_text(folder, "modules.json",
               "[{\"idx\":0,\"path\":\"0_StaticEmbedding\",\"type\":\"sentence_transformers.models.StaticEmbedding\"}]");
    sub_folder("0_StaticEmbedding");
    write_weights("0_StaticEmbedding/model.safetensors", "embedding.weight");
    write_text(folder, "0_StaticEmbedding/tokenizer.json", "{}");
    source = open_folder();
    assert_non_null(cabe_source_find(source, "embedding.weight"));
    assert_non_null(cabe_source_document(source, "tokenizer.json"));
    assert_non_null(cabe_source_document(source, "0_StaticEmbedding/tokenizer.json"));
    cabe_source_close(source);
}

static void reads_a_folder_with_one_gguf(void **state)
{
    struct bytes b = {0};
    struct cabe_source *source;
    const char *text;
    char path[256];
    size_t n;

    (void)state;
    gguf_begin(&b, 3, 0, 2);
    gguf_key_text(&b, "general.name", "Tiny");
    gguf_key_array(&b, "words", 8, 1), put_text(&b, "hello");
    snprintf(path, sizeof path, "%s/tiny.gguf", folder);
    write_file(path, b.data, b.n);
    write_text(folder, "config.json", "{}");
    source = open_folder();
    assert_int_equal(cabe_source_kind(source), CABE_SOURCE_GGUF);
    assert_true(cabe_source_array_string(source, "words", 0, &text, &n) && n == 5);
    assert_non_null(cabe_source_document(source, "config.json"));
    cabe_source_close(source);
    snprintf(path, sizeof path, "%s/other.gguf", folder);
    write_file(path, b.data, b.n);
    check_refused(CABE_ERR_ARGUMENT, "has 2 .gguf files");
    bytes_clear(&b);
}

/* The hub's cache is a folder of links into another one. */
static void reads_a_folder_of_links(void **state)
{
    struct cabe_source *source;
    char path[256];

    (void)state;
    sub_folder("blobs");
    write_weights("blobs/0123", "a");
    write_text(folder, "blobs/4567", "{}");
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_int_equal(symlink("blobs/0123", path), 0);
    snprintf(path, sizeof path, "%s/config.json", folder);
    assert_int_equal(symlink("blobs/4567", path), 0);
    source = open_folder();
    assert_non_null(cabe_source_find(source, "a"));
    assert_non_null(cabe_source_document(source, "config.json"));
    cabe_source_close(source);
}

static void reads_shards(void **state)
{
    struct cabe_source *source;
    uint8_t bytes[8];

    (void)state;
    write_weights("model-1.safetensors", "a");
    write_weights("model-2.safetensors", "b");
    write_index("{\"a\":\"model-1.safetensors\",\"b\":\"model-2.safetensors\"}");
    source = open_folder();
    assert_int_equal(cabe_source_n_tensors(source), 2);
    assert_int_equal(cabe_source_read(source, cabe_source_find(source, "b"), 0, 8, bytes, NULL), CABE_OK);
    assert_int_equal(bytes[7], 7);
    cabe_source_close(source);
}

static void refuses_broken_shards(void **state)
{
    (void)state;
    write_weights("model-1.safetensors", "a");
    write_weights("model-2.safetensors", "b");
    write_index("{\"a\":\"model-1.safetensors\",\"b\":\"model-3.safetensors\"}");
    check_refused(CABE_ERR_NOT_FOUND, "shard 'model-3.safetensors'");
    write_index("{\"a\":\"../model-1.safetensors\"}");
    check_refused(CABE_ERR_FORMAT, "shard '../model-1.safetensors' leaves the folder");
    write_index("{\"a\":\"/etc/passwd\"}");
    check_refused(CABE_ERR_FORMAT, "leaves the folder");
    write_index("{\"a\":\"x/../../y\"}");
    check_refused(CABE_ERR_FORMAT, "leaves the folder");
    write_index("{\"a\":\"\"}");
    check_refused(CABE_ERR_FORMAT, "leaves the folder");
    write_index("{\"a\":\"model.safetensors.index.json\"}");
    check_refused(CABE_ERR_FORMAT, "lists itself");
    write_index("{\"a\":7}");
    check_refused(CABE_ERR_FORMAT, "its shard is not a string");
    write_index("{}");
    check_refused(CABE_ERR_FORMAT, "weight_map");
    write_index("{\"a\":\"model-1.safetensors\",\"b\":\"model-1.safetensors\"}");
    check_refused(CABE_ERR_FORMAT, "lists 2 tensors, the shards have 1");
    write_index("{\"a\":\"model-2.safetensors\",\"b\":\"model-1.safetensors\"}");
    check_refused(CABE_ERR_FORMAT, "should be in");
    write_index("{\"b\":\"model-2.safetensors\",\"c\":\"model-1.safetensors\"}");
    check_refused(CABE_ERR_FORMAT, "does not list tensor 'a'");
    write_weights("model-2.safetensors", "a");
    write_index("{\"a\":\"model-1.safetensors\",\"b\":\"model-2.safetensors\"}");
    check_refused(CABE_ERR_FORMAT, "tensor 'a'");
    {
        char path[256];

        snprintf(path, sizeof path, "%s/link.safetensors", folder);
        assert_int_equal(symlink("model.safetensors.index.json", path), 0);
        write_index("{\"a\":\"link.safetensors\"}");
        check_refused(CABE_ERR_FORMAT, "link.safetensors");
    }
}

static void refuses_broken_documents(void **state)
{
    struct cabe_source *source;
    struct cabe_error err;
    const json_t *json;

    (void)state;
    check_refused(CABE_ERR_NOT_FOUND, "has no weights");
    write_text(folder, "pytorch_model.bin", "");
    check_refused(CABE_ERR_UNSUPPORTED, "pytorch_model.bin");
    write_weights("model.safetensors", "a");
    write_text(folder, "config.json", "{\"a\":1,\"a\":2}");
    check_refused(CABE_ERR_FORMAT, "config.json: JSON: line 1");
    write_text(folder, "config.json", "{}");
    write_text(folder, "modules.json", "{}");
    check_refused(CABE_ERR_FORMAT, "wanted an array");
    write_text(folder, "modules.json", "[7]");
    check_refused(CABE_ERR_FORMAT, "module 0: path");
    write_text(folder, "modules.json", "[{\"path\":\"\"}]");
    check_refused(CABE_ERR_FORMAT, "module 0: type");
    write_text(folder, "modules.json", "[{\"path\":\"../x\",\"type\":\"t\"}]");
    check_refused(CABE_ERR_FORMAT, "path '../x' leaves the folder");
    write_text(folder, "modules.json", "[{\"path\":\"a//b\",\"type\":\"t\"}]");
    check_refused(CABE_ERR_FORMAT, "leaves the folder");
    write_text(folder, "modules.json", "[]");
    write_text(folder, "tokenizer.json", "{");
    write_text(folder, "generation_config.json", "{\"a\":NaN}"); /* nobody asks for it */
    source = open_folder();
    assert_null(cabe_source_document(source, "tokenizer.json"));
    assert_int_equal(cabe_source_document_get(source, "tokenizer.json", &json, &err), CABE_ERR_FORMAT);
    cabe_source_close(source);
}

/* What stands in real files: a length without limit, a module at ".". */
static void takes_numbers_past_64_bits(void **state)
{
    struct cabe_source *source;
    const json_t *json;

    (void)state;
    write_weights("model.safetensors", "a");
    write_text(folder, "tokenizer_config.json",
               "{\"a\":1000000000000000019884624838656,\"b\":-99999999999999999999,\"c\":9223372036854775807,"
               "\"d\":\"9999999999999999999999\\\"8888888888888888888888\",\"e\":0.12345678901234567890123,"
               "\"f\":12345678901234567890.5,\"g\":9223372036854775808}");
    write_text(folder, "modules.json", "[{\"path\":\".\",\"type\":\"t\"}]");
    source = open_folder();
    json = cabe_source_document(source, "tokenizer_config.json");
    assert_true(json_integer_value(json_object_get(json, "a")) == 999999999999999999);
    assert_true(json_integer_value(json_object_get(json, "b")) == -999999999999999999);
    assert_true(json_integer_value(json_object_get(json, "c")) == INT64_MAX);
    assert_string_equal(json_string_value(json_object_get(json, "d")),
                        "9999999999999999999999\"8888888888888888888888");
    assert_true(json_real_value(json_object_get(json, "e")) > 0.123);
    assert_true(json_real_value(json_object_get(json, "f")) > 1e19);
    assert_true(json_integer_value(json_object_get(json, "g")) == 999999999999999999);
    cabe_source_close(source);
}

static void refuses_what_is_no_model(void **state)
{
    struct cabe_source *source;
    struct cabe_error err;
    char path[256];

    (void)state;
    assert_int_equal(cabe_source_open(&source, "/nowhere/at/all", &err), CABE_ERR_NOT_FOUND);
    assert_int_equal(cabe_source_open(&source, "/dev/null", &err), CABE_ERR_ARGUMENT);
    snprintf(path, sizeof path, "%s/pipe", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(cabe_source_open(&source, path, &err), CABE_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "wanted a regular file"));
}

static void survives_refused_memory(void **state)
{
    struct cabe_source *source = NULL;
    struct cabe_error err;
    const json_t *json;
    enum cabe_status status = CABE_ERR_OOM;

    (void)state;
    write_sentence_transformer();
    assert_int_equal(unlink(strcat(strcpy((char[256]){0}, folder), "/model.safetensors")), 0);
    write_weights("model-1.safetensors", "a");
    write_index("{\"a\":\"model-1.safetensors\"}");
    json_set_alloc_funcs(cabe_malloc, cabe_free);
    for (uint64_t n = 1; status != CABE_OK; n++) {
        assert_true(n < 3000);
        cabe_memory_fail_at(n);
        status = cabe_source_open(&source, folder, &err);
        if (status == CABE_OK)
            status = cabe_source_document_get(source, "tokenizer.json", &json, &err);
        cabe_memory_fail_at(0);
        if (status != CABE_OK)
            if (status != CABE_ERR_OOM && status != CABE_ERR_FORMAT) /* jansson may call it a syntax error */
                fail_msg("allocation %llu: %s", (unsigned long long)n, err.text);
        cabe_source_close(source);
        source = NULL;
    }
    json_set_alloc_funcs(malloc, free);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(reads_a_sentence_transformer),
        TEST(reads_a_static_embedding_in_its_folder),
        TEST(reads_a_folder_with_one_gguf),
        TEST(reads_a_folder_of_links),
        TEST(reads_shards),
        TEST(refuses_broken_shards),
        TEST(refuses_broken_documents),
        TEST(takes_numbers_past_64_bits),
        TEST(refuses_what_is_no_model),
        TEST(survives_refused_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
