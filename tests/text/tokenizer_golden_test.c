/* Ids and offsets of the reference, over the tiny tokenizers of tools/golden/make_tokenizer_golden.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "text/tokenizer.h"

static const char *const names[] = {"wordpiece_uncased", "wordpiece_cased", "wordpiece_accents", "wordpiece_added",
                                    "unigram_words",     "unigram_bytes",   "unigram_nfkc",      "unigram_nfd",
                                    "bpe_gpt2",          "bpe_smollm",      "bpe_llama3",        "bpe_qwen2",
                                    "bpe_gpt4o",         "bpe_llama",       "bpe_metaspace",     "bpe_unknown"};

static json_t *next_line(FILE *file)
{
    json_error_t err;
    json_t *line = json_loadf(file, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, &err);

    if (!line && !feof(file))
        fail_msg("%s", err.text);
    return line;
}

static int64_t at(const json_t *array, size_t i)
{
    return json_integer_value(json_array_get(array, i));
}

static void compare(const struct cabe_encoding *found, const json_t *line, const char *name)
{
    const json_t *ids = json_object_get(line, "ids"), *offsets = json_object_get(line, "offsets");
    const char *text = json_string_value(json_object_get(line, "text"));

    for (size_t i = 0; i < found->n && i < json_array_size(ids); i++) {
        const json_t *offset = json_array_get(offsets, i);

        if (found->ids[i] != at(ids, i) || found->begin[i] != at(offset, 0) || found->end[i] != at(offset, 1))
            fail_msg("%s: \"%s\": token %zu: %d [%u, %u), wanted %lld [%lld, %lld)", name, text, i, found->ids[i],
                     found->begin[i], found->end[i], (long long)at(ids, i), (long long)at(offset, 0),
                     (long long)at(offset, 1));
    }
    if (found->n != json_array_size(ids))
        fail_msg("%s: \"%s\": %zu tokens, wanted %zu", name, text, found->n, json_array_size(ids));
}

static void test_golden(void **state)
{
    const char *name = *state;
    char path[128];
    FILE *file;
    json_t *line;
    void *block;
    size_t bytes, n = 0;
    struct cabe_tokenizer *tokenizer;
    struct cabe_encoding encoding = {0};
    struct cabe_error err = {0};
    struct cabe_encode_options options = {1, 0, 1};

    snprintf(path, sizeof path, "tests/golden/tokenizer_%s.jsonl", name);
    file = fopen(path, "rb");
    assert_non_null(file);
    line = next_line(file);
    if (cabe_tokenizer_compile_json(json_object_get(line, "tokenizer"), name, &block, &bytes, &err) != CABE_OK ||
        cabe_tokenizer_open(&tokenizer, block, bytes, name, &err) != CABE_OK)
        fail_msg("%s", err.text);
    json_decref(line); /* the block borrows nothing */
    for (; (line = next_line(file)); n++) {
        const json_t *text = json_object_get(line, "text");

        if (cabe_tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), &options, &encoding,
                                  &err) != CABE_OK)
            fail_msg("%s: %s", name, err.text);
        compare(&encoding, line, name);
        json_decref(line);
    }
    assert_true(n > 50);
    if (strcmp(name, "unigram_words") == 0) { /* where the reference's offsets would be one character early */
        assert_int_equal(cabe_tokenizer_encode(tokenizer, "\x01\x02light", 7, &options, &encoding, &err), CABE_OK);
        assert_true(encoding.n > 2 && encoding.begin[1] == 2 && encoding.end[encoding.n - 2] == 7);
    }
    cabe_encoding_clear(&encoding);
    cabe_tokenizer_close(tokenizer);
    cabe_free(block);
    fclose(file);
}

int main(void)
{
    enum { N = sizeof names / sizeof names[0] };
    struct CMUnitTest tests[N];

    for (int i = 0; i < N; i++)
        tests[i] = (struct CMUnitTest){names[i], test_golden, NULL, NULL, (void *)(uintptr_t)names[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
