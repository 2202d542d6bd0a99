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

#define VOCABS "../shared/data/gguf-vocab/ggml-vocab-"
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
    size_t bytes = 0;

    if (cabe_source_open(&source, path, &err) != CABE_OK ||
        cabe_tokenizer_compile(source, &o.block, &bytes, &err) != CABE_OK ||
        cabe_tokenizer_open(&o.tokenizer, o.block, bytes, path, &err) != CABE_OK)
        fail_msg("%s", err.text);
    assert_true(bytes <= cabe_tokenizer_bound(source));
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
    struct cabe_encode_options options = {add_special, max, 0};
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

/* llama.cpp's own file of texts and ids: one line of ids a text. Gives how many differ. */
static int compare_vectors(struct opened *o, const char *name)
{
    static const char mark[] = "\n__ggml_vocab_test__\n";
    char path[200], *texts, *ids;
    int n = 0, n_bad = 0;

    snprintf(path, sizeof path, VOCABS "%s.gguf.inp", name);
    texts = read_file(path);
    snprintf(path, sizeof path, VOCABS "%s.gguf.out", name);
    ids = read_file(path);
    for (char *text = texts, *line = ids; text; n++) {
        char *next = strstr(text, mark), *end = line + strcspn(line, "\n");
        int is_same = 1;

        encode(o, text, next ? (size_t)(next - text) : strlen(text), 0, 0);
        for (size_t i = 0; i < o->encoding.n; i++)
            is_same &= strtol(line, &line, 10) == o->encoding.ids[i];
        is_same &= line <= end && strspn(line, " ") == (size_t)(end - line);
        if (!is_same)
            printf("%s: text %d differs\n", name, n);
        n_bad += !is_same;
        text = next ? next + sizeof mark - 1 : NULL;
        line = end + (*end != 0);
    }
    assert_true(n > 40);
    free(texts);
    free(ids);
    return n_bad;
}

static void test_vocabularies(void **state)
{
    static const char *const names[] = {"bert-bge",  "gpt-2",        "llama-spm",      "phi-3",  "deepseek-llm",
                                        "starcoder", "refact",       "deepseek-coder", "falcon", "mpt"};
    int n_bad = 0;

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[200];
        struct opened o;

        snprintf(path, sizeof path, VOCABS "%s.gguf", names[i]);
        if (!is_here(path))
            continue;
        o = open_model(path);
        n_bad += compare_vectors(&o, names[i]);
        close_model(&o);
    }
    assert_int_equal(n_bad, 0);
}

/* What begins and ends texts, where the files say it in different ways. */
static void test_roles(void **state)
{
    static const struct {
        const char *path;
        int32_t bos, eos, eot;
        int adds_bos;
    } wanted[] = {{VOCABS "llama-spm.gguf", 1, 2, 2, 1},
                  {VOCABS "phi-3.gguf", 1, 32000, 32007, 1},
                  {VOCABS "gpt-2.gguf", 50256, 50256, 50256, 0},
                  {"../shared/data/llm-tinystories656k", 1, 2, 2, 1},
                  {"../shared/data/llm-stories260k/stories260K.bin", 1, 2, 2, 1}};

    (void)state;
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        struct opened o;

        if (strncmp(wanted[i].path, VOCABS, 10) == 0 && !is_here(VOCABS "gpt-2.gguf"))
            continue;
        o = open_model(wanted[i].path);
        assert_int_equal(cabe_tokenizer_special(o.tokenizer, CABE_TOKEN_BOS), wanted[i].bos);
        assert_int_equal(cabe_tokenizer_special(o.tokenizer, CABE_TOKEN_EOS), wanted[i].eos);
        assert_int_equal(cabe_tokenizer_special(o.tokenizer, CABE_TOKEN_EOT), wanted[i].eot);
        assert_int_equal(cabe_tokenizer_adds_bos(o.tokenizer), wanted[i].adds_bos);
        assert_true(cabe_tokenizer_is_end(o.tokenizer, wanted[i].eos) &&
                    cabe_tokenizer_is_end(o.tokenizer, wanted[i].eot));
        assert_false(cabe_tokenizer_is_end(o.tokenizer, 100));
        close_model(&o);
    }
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vocabularies),
        cmocka_unit_test(test_e5),
        cmocka_unit_test(test_roles),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);

    return failed == 0 && n_skipped > 0 ? 77 : failed;
}
