/* Real vocabularies, where ../shared/data is: every id that the references gave. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "text/tokenizer.h"

#define BGE "../shared/data/gguf-vocab/ggml-vocab-bert-bge.gguf"
#define E5 "../shared/data/emb-e5-small/multilingual-e5-small-q4_0.gguf"
#define E5_GOLDEN "../shared/data/emb-e5-small/golden.jsonl"

static int n_skipped;

struct opened {
    void *block;
    struct cabe_tokenizer *tokenizer;
    struct cabe_encoding encoding;
};

static int is_here(const char *path)
{
    FILE *file = fopen(path, "rb");

    if (file)
        fclose(file);
    else
        printf("skip: %s is not here\n", path);
    n_skipped += !file;
    return file != NULL;
}

static struct opened open_model(const char *path)
{
    struct opened o = {0};
    struct cabe_source *source;
    struct cabe_error err = {0};
    size_t bytes;

    if (cabe_source_open(&source, path, &err) != CABE_OK ||
        cabe_tokenizer_compile(source, &o.block, &bytes, &err) != CABE_OK ||
        cabe_tokenizer_open(&o.tokenizer, o.block, bytes, path, &err) != CABE_OK)
        fail_msg("%s", err.text);
    cabe_source_close(source);
    return o;
}

static void close_model(struct opened *o)
{
    cabe_encoding_clear(&o->encoding);
    cabe_tokenizer_close(o->tokenizer);
    cabe_free(o->block);
}

static void encode(struct opened *o, const char *text, size_t bytes, int add_special, size_t max)
{
    struct cabe_encode_options options = {add_special, max, 1};
    struct cabe_error err = {0};

    if (cabe_tokenizer_encode(o->tokenizer, text, bytes, &options, &o->encoding, &err) != CABE_OK)
        fail_msg("%s", err.text);
}

static char *read_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    char *text = calloc(1, 1 << 16);

    assert_true(file && text && fread(text, 1, (1 << 16) - 1, file) > 0);
    fclose(file);
    return text;
}

/* llama.cpp's own file of texts and ids: one line of ids a text. */
static void test_bge(void **state)
{
    static const char mark[] = "\n__ggml_vocab_test__\n";
    struct opened o;
    char *texts, *ids;

    (void)state;
    if (!is_here(BGE))
        return;
    o = open_model(BGE);
    texts = read_file(BGE ".inp");
    ids = read_file(BGE ".out");
    for (char *text = texts, *line = ids; text;) {
        char *next = strstr(text, mark), *end = line + strcspn(line, "\n");

        encode(&o, text, next ? (size_t)(next - text) : strlen(text), 0, 0);
        for (size_t i = 0; i < o.encoding.n; i++)
            assert_int_equal(strtol(line, &line, 10), o.encoding.ids[i]);
        assert_true(strspn(line, " ") == (size_t)(end - line));
        text = next ? next + sizeof mark - 1 : NULL;
        line = end + (*end != 0);
    }
    free(texts);
    free(ids);
    close_model(&o);
}

static void test_e5(void **state)
{
    struct opened o;
    FILE *file;
    json_t *line;
    size_t n = 0;

    (void)state;
    if (!is_here(E5) || !is_here(E5_GOLDEN))
        return;
    o = open_model(E5);
    file = fopen(E5_GOLDEN, "rb");
    assert_non_null(file);
    for (; (line = json_loadf(file, JSON_DISABLE_EOF_CHECK, NULL)); n++) {
        const json_t *text = json_object_get(line, "text"), *ids = json_object_get(line, "ids");
        size_t n_ids = json_array_size(ids);

        /* that file cuts at 512 without keeping the last special token */
        encode(&o, json_string_value(text), json_string_length(text), 1, 0);
        assert_true(o.encoding.n == n_ids || (o.encoding.n > 512 && n_ids == 512));
        for (size_t i = 0; i < n_ids; i++)
            assert_int_equal(o.encoding.ids[i], json_integer_value(json_array_get(ids, i)));
        json_decref(line);
    }
    assert_true(n > 90);
    fclose(file);
    close_model(&o);
}

static void test_unsupported_kinds_are_named(void **state)
{
    static const char path[] = "../shared/data/gguf-vocab/ggml-vocab-gpt-2.gguf";
    struct cabe_source *source;
    struct cabe_error err = {0};
    void *block;
    size_t bytes;

    (void)state;
    if (!is_here(path))
        return;
    assert_int_equal(cabe_source_open(&source, path, &err), CABE_OK);
    assert_int_equal(cabe_tokenizer_compile(source, &block, &bytes, &err), CABE_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "gpt2: not supported; supported: bert (WordPiece), t5 (unigram)"));
    cabe_source_close(source);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bge),
        cmocka_unit_test(test_e5),
        cmocka_unit_test(test_unsupported_kinds_are_named),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);

    return failed == 0 && n_skipped > 0 ? 77 : failed;
}
