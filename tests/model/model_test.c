/* Descriptions: from headers, as JSON and back, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/memory.h"
#include "model/model.h"

static struct cabe_error err;
static const struct cabe_model_choice f32 = {CABE_F32, CABE_PRECISION_HIGH}, int8 = {CABE_I8, CABE_PRECISION_INT8};

static struct cabe_model *describe(const char *name, struct cabe_source **source)
{
    struct cabe_model *model = NULL;
    char path[300];

    snprintf(path, sizeof path, "%s/%s", CABE_GOLDEN_MODELS, name);
    if (cabe_source_open(source, path, &err) != CABE_OK || cabe_model_describe(&model, *source, &err) != CABE_OK)
        fail_msg("%s: %s", name, err.text);
    return model;
}

static uint64_t graph_bytes(const struct cabe_model *model, const struct cabe_model_choice *choice)
{
    struct cabe_graph *graph;
    uint64_t bytes = 0;

    assert_int_equal(cabe_model_graph(&graph, model, choice, 1, &err), CABE_OK);
    for (int32_t i = 0; i < cabe_graph_n_segments(graph); i++)
        bytes += cabe_graph_segment_bytes(graph, i);
    cabe_graph_close(graph);
    return bytes;
}

static void json_says_the_same(void **state)
{
    static const char *const names[] = {"bert-mean", "bert-cls-f32.gguf", "bert-mean-q4_0.gguf", "e5", "static-vocab",
                                         "llama3-f32.gguf", "qwen2", "qwen3", "mistral", "mixed.gguf", "llama2.bin",
                                         "llama-4.bin", "qwen3-12", "mistral-20"};

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct cabe_source *source;
        struct cabe_model *model = describe(names[i], &source), *again;
        json_t *json = cabe_model_json(model), *twice;

        assert_non_null(json);
        assert_int_equal(cabe_model_from_json(&again, json, names[i], &err), CABE_OK);
        twice = cabe_model_json(again);
        assert_true(json_equal(json, twice));
        assert_int_equal(graph_bytes(model, &f32), graph_bytes(again, &f32));
        assert_int_equal(graph_bytes(model, &int8), graph_bytes(again, &int8));
        assert_int_equal(cabe_model_n_params(model), cabe_model_n_params(again));
        json_decref(json);
        json_decref(twice);
        cabe_model_close(again);
        cabe_model_close(model);
        cabe_source_close(source);
    }
}

static void quantised_weights_keep_their_dtype(void **state)
{
    struct cabe_source *source;
    struct cabe_model *model = describe("bert-mean-q4_0.gguf", &source);
    const struct cabe_model_weight *matrix = cabe_model_find(model, "blk.0.qkv.w");

    (void)state;
    assert_true(cabe_model_is_quantised(model));
    assert_non_null(matrix);
    assert_int_equal(cabe_model_dtype(matrix, &f32), CABE_Q4_0);
    assert_int_equal(cabe_model_dtype(matrix, &int8), CABE_Q4_0);
    assert_int_equal(cabe_model_dtype(cabe_model_find(model, "norm.g"), &int8), CABE_F32);
    cabe_model_close(model);
    cabe_source_close(source);
}

static void smaller_dtypes_are_smaller(void **state)
{
    struct cabe_source *source;
    struct cabe_model *model = describe("bert-mean-f32.gguf", &source);
    struct cabe_model_choice f16 = {CABE_F16, CABE_PRECISION_HIGH};

    (void)state;
    assert_true(graph_bytes(model, &int8) < graph_bytes(model, &f16));
    assert_true(graph_bytes(model, &f16) < graph_bytes(model, &f32));
    cabe_model_close(model);
    cabe_source_close(source);
}

struct counting { /* a sink that only counts */
    uint64_t bytes;
};

static enum cabe_status count(void *self, const void *data, uint64_t bytes, struct cabe_error *e)
{
    (void)data;
    (void)e;
    ((struct counting *)self)->bytes += bytes;
    return CABE_OK;
}

/* Every weight gives exactly the bytes that plans count, using no more than the work it asks for. */
static void conversion_gives_the_bytes_it_promised(void **state)
{
    static const char *const names[] = {"bert-shards", "bert-cls", "bert-mean-q8_0.gguf", "static-int8", "static-vocab",
                                         "llama3-f32.gguf", "qwen2", "mixed-fives.gguf", "mixed-tied.gguf", "llama-4",
                                         "qwen3-12"};

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct cabe_source *source;
        struct cabe_model *model = describe(names[i], &source);
        const struct cabe_model_choice *choices[] = {&f32, &int8};

        for (int c = 0; c < 2; c++) {
            uint64_t work_bytes = cabe_model_convert_bytes(model, choices[c]);
            char *work = aligned_alloc(64, (work_bytes + 127) / 64 * 64);

            memset(work + work_bytes, 0x5A, 64);
            for (int32_t w = 0; w < cabe_model_n_weights(model); w++) {
                const struct cabe_model_weight *weight = cabe_model_weight(model, w);
                struct counting counted = {0};
                struct cabe_model_sink sink = {count, &counted};

                if (cabe_model_convert(model, source, weight, choices[c], work, &sink, &err) != CABE_OK)
                    fail_msg("%s: %s: %s", names[i], weight->name, err.text);
                if (weight->role != CABE_ROLE_HOST)
                    assert_int_equal(counted.bytes, cabe_model_weight_bytes(weight, choices[c]));
            }
            for (int k = 0; k < 64; k++)
                assert_int_equal(work[work_bytes + (uint64_t)k], 0x5A);
            free(work);
        }
        cabe_model_close(model);
        cabe_source_close(source);
    }
}

static void damaged_descriptions_are_refused(void **state)
{
    static const struct {
        const char *key;
        int value;
    } wrong[] = {{"width", 0}, {"n_layers", 1 << 30}, {"n_heads", 0}, {"n_heads", 7}, {"pool", 9}, {"act", -1},
                 {"max_tokens", 0}, {"normalise", 2}};
    struct cabe_source *source;
    struct cabe_model *model = describe("bert-mean", &source), *again;
    json_t *json = cabe_model_json(model);

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        json_t *bad = json_deep_copy(json);

        json_object_set_new(bad, wrong[i].key, json_integer(wrong[i].value));
        assert_int_equal(cabe_model_from_json(&again, bad, "bad", &err), CABE_ERR_FORMAT);
        assert_null(again);
        json_object_del(bad, wrong[i].key);
        assert_int_equal(cabe_model_from_json(&again, bad, "bad", &err), CABE_ERR_FORMAT);
        json_decref(bad);
    }
    json_array_clear(json_object_get(json, "weights"));
    assert_int_equal(cabe_model_from_json(&again, json, "bad", &err), CABE_ERR_FORMAT);
    json_decref(json);
    cabe_model_close(model);
    cabe_source_close(source);
}

static void damaged_decoders_are_refused(void **state)
{
    static const struct {
        const char *key;
        double value;
    } wrong[] = {{"n_kv_heads", 0},   {"n_kv_heads", 3},  {"head_dim", 12},   {"head_dim", 513}, {"n_ctx", 0},
                 {"window", -1},      {"n_rot", 3},       {"n_rot", 1000},    {"theta", 0},          {"rope", 2},
                 {"scaling", 3},      {"factor", -1},     {"low_factor", 9},  {"tied", 2},           {"first_ctx", 0},
                 {"angle_scale", -1}, {"qk_norm", 7},     {"attention_scale", 0}};
    struct cabe_source *source;
    struct cabe_model *model = describe("llama3", &source), *again;
    json_t *json = cabe_model_json(model);

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        json_t *bad = json_deep_copy(json), *own = json_object_get(bad, "decoder");
        double value = wrong[i].value;

        json_object_set_new(own, wrong[i].key,
                            json_is_integer(json_object_get(own, wrong[i].key)) ? json_integer((json_int_t)value)
                                                                                : json_real(value));
        if (cabe_model_from_json(&again, bad, "bad", &err) != CABE_ERR_FORMAT &&
            cabe_model_from_json(&again, bad, "bad", &err) != CABE_ERR_UNSUPPORTED)
            fail_msg("%s %g is taken", wrong[i].key, value);
        assert_null(again);
        json_object_del(own, wrong[i].key);
        assert_int_equal(cabe_model_from_json(&again, bad, "bad", &err), CABE_ERR_FORMAT);
        json_decref(bad);
    }
    json_object_del(json, "decoder");
    assert_int_equal(cabe_model_from_json(&again, json, "bad", &err), CABE_ERR_FORMAT);
    json_decref(json);
    cabe_model_close(model);
    cabe_source_close(source);
}

/* With fewer weights, or with others' shapes, there is no graph, and nothing falls over. */
static void decoders_miss_their_weights(void **state)
{
    struct cabe_source *source;
    struct cabe_model *model = describe("qwen3", &source), *again;
    struct cabe_graph *graph;

    (void)state;
    for (int32_t i = 0; i < cabe_model_n_weights(model); i++) {
        const char *name = cabe_model_weight(model, i)->name;
        json_t *json = cabe_model_json(model), *list = json_object_get(json, "weights");

        json_array_set_new(json_array_get(list, (size_t)i), 3, json_integer(17));
        assert_int_equal(cabe_model_from_json(&again, json, "bad", &err), CABE_OK);
        if (cabe_model_graph(&graph, again, &f32, 0, &err) == CABE_OK)
            fail_msg("%s may have any shape", name);
        cabe_model_close(again);
        json_array_remove(list, (size_t)i);
        assert_int_equal(cabe_model_from_json(&again, json, "bad", &err), CABE_OK);
        if (cabe_model_graph(&graph, again, &f32, 0, &err) == CABE_OK && !strstr(name, "_norm"))
            fail_msg("%s may be missing", name);
        cabe_graph_close(graph);
        cabe_model_close(again);
        json_decref(json);
    }
    cabe_model_close(model);
    cabe_source_close(source);
}

/* A folder is told apart by its words: what is wrong is named, with what was wanted. */
static void wrong_folders_are_named(void **state)
{
    static const struct {
        const char *from, *to; /* in config.json of llama3 */
        enum cabe_status status;
        const char *says[2];
    } cases[] = {
        {"\"llama\"", "\"mamba\"", CABE_ERR_UNSUPPORTED, {"'mamba'", "qwen3"}},
        {"\"vocab_size\": 96", "\"vocab_size\": 95", CABE_ERR_FORMAT, {"'model.embed_tokens.weight': 96 rows", "95"}},
        {"\"hidden_size\": 64", "\"hidden_size\": 128", CABE_ERR_FORMAT, {"embed_tokens.weight", "128"}},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", CABE_ERR_NOT_FOUND, {"model.layers.2.", "missing"}},
        {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", CABE_ERR_FORMAT, {"4 heads", "3"}},
        {"\"intermediate_size\": 96", "\"intermediate_size\": 97", CABE_ERR_FORMAT, {"mlp.gate_proj", "97"}},
        {"\"llama3\"", "\"yarn\"", CABE_ERR_UNSUPPORTED, {"'yarn'", "linear"}},
        {"\"silu\"", "\"xielu\"", CABE_ERR_UNSUPPORTED, {"'xielu'", "silu"}},
        {"\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", CABE_ERR_NOT_FOUND, {"lm_head", "missing"}},
        {"\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": -1", CABE_ERR_FORMAT, {"epsilon", "0.1"}},
    };
    char folder[] = "/tmp/cabe-model-XXXXXX", config[80], weights[80], target[400], text[4096];

    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(config, sizeof config, "%s/config.json", folder);
    snprintf(weights, sizeof weights, "%s/model.safetensors", folder);
    snprintf(target, sizeof target, "%s/llama3/model.safetensors", CABE_GOLDEN_MODELS);
    assert_int_equal(symlink(target, weights), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cabe_source *source;
        struct cabe_model *model;
        FILE *file;
        char *at;

        snprintf(target, sizeof target, "%s/llama3/config.json", CABE_GOLDEN_MODELS);
        assert_non_null(file = fopen(target, "r"));
        text[fread(text, 1, sizeof text - 1, file)] = '\0';
        fclose(file);
        assert_non_null(at = strstr(text, cases[i].from));
        assert_non_null(file = fopen(config, "w"));
        fprintf(file, "%.*s%s%s", (int)(at - text), text, cases[i].to, at + strlen(cases[i].from));
        fclose(file);
        assert_int_equal(cabe_source_open(&source, folder, &err), CABE_OK);
        if (cabe_model_describe(&model, source, &err) != cases[i].status || !strstr(err.text, cases[i].says[0]) ||
            !strstr(err.text, cases[i].says[1]))
            fail_msg("%s: %s", cases[i].to, err.text);
        assert_null(model);
        cabe_source_close(source);
    }
    unlink(config);
    unlink(weights);
    rmdir(folder);
}

/* Places of weights are the same whatever the graph has besides. */
static void flags_move_no_weights(void **state)
{
    static const char *const names[] = {"llama3", "qwen3", "mixed.gguf"};

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct cabe_source *source;
        struct cabe_model *model = describe(names[i], &source);
        struct cabe_graph *plain, *other;

        assert_int_equal(cabe_model_graph(&plain, model, &f32, 0, &err), CABE_OK);
        for (int flags = 1; flags <= (CABE_GRAPH_STATES | CABE_GRAPH_INPUTS); flags++) {
            assert_int_equal(cabe_model_graph(&other, model, &f32, flags, &err), CABE_OK);
            for (int32_t w = 0; w < cabe_model_n_weights(model); w++) {
                const char *name = cabe_model_weight(model, w)->name;
                const struct cabe_value_info *a = cabe_graph_value(plain, cabe_graph_find(plain, name));
                const struct cabe_value_info *b = cabe_graph_value(other, cabe_graph_find(other, name));

                assert_int_equal(a->segment, b->segment);
                assert_int_equal(a->offset, b->offset);
            }
            cabe_graph_close(other);
        }
        cabe_graph_close(plain);
        cabe_model_close(model);
        cabe_source_close(source);
    }
}

/* A description that lost weights builds no graph, and does not fall over. */
static void a_graph_misses_its_weights(void **state)
{
    struct cabe_source *source;
    struct cabe_model *model = describe("bert-mean", &source), *again;
    json_t *json = cabe_model_json(model);
    struct cabe_graph *graph;

    (void)state;
    json_array_remove(json_object_get(json, "weights"), 5);
    assert_int_equal(cabe_model_from_json(&again, json, "bad", &err), CABE_OK);
    assert_int_not_equal(cabe_model_graph(&graph, again, &f32, 0, &err), CABE_OK);
    assert_null(graph);
    cabe_model_close(again);
    json_decref(json);
    cabe_model_close(model);
    cabe_source_close(source);
}

static void fail_each(const char *name)
{
    struct cabe_source *source;
    struct cabe_model *model = describe(name, &source), *other;
    uint64_t n = cabe_memory_count();
    struct cabe_graph *graph;

    assert_int_equal(cabe_model_describe(&other, source, &err), CABE_OK);
    cabe_model_close(other);
    n = cabe_memory_count() - n;
    for (uint64_t i = 1; i <= n; i++) {
        cabe_memory_fail_at(i);
        assert_int_equal(cabe_model_describe(&other, source, &err), CABE_ERR_OOM);
        assert_null(other);
    }
    cabe_memory_fail_at(0);
    n = cabe_memory_count();
    assert_int_equal(cabe_model_graph(&graph, model, &f32, 1, &err), CABE_OK);
    cabe_graph_close(graph);
    n = cabe_memory_count() - n;
    for (uint64_t i = 1; i <= n; i++) {
        cabe_memory_fail_at(i);
        assert_int_equal(cabe_model_graph(&graph, model, &f32, 1, &err), CABE_ERR_OOM);
        assert_null(graph);
    }
    cabe_memory_fail_at(0);
    cabe_model_close(model);
    cabe_source_close(source);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    fail_each("bert-mean");
    fail_each("qwen3");
    fail_each("mixed.gguf");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_says_the_same),
        cmocka_unit_test(quantised_weights_keep_their_dtype),
        cmocka_unit_test(smaller_dtypes_are_smaller),
        cmocka_unit_test(conversion_gives_the_bytes_it_promised),
        cmocka_unit_test(damaged_descriptions_are_refused),
        cmocka_unit_test(damaged_decoders_are_refused),
        cmocka_unit_test(decoders_miss_their_weights),
        cmocka_unit_test(wrong_folders_are_named),
        cmocka_unit_test(flags_move_no_weights),
        cmocka_unit_test(a_graph_misses_its_weights),
        cmocka_unit_test(every_allocation_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
