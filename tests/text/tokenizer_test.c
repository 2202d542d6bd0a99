/* Tokenizers that are written here, small enough to follow by hand. */
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

static const char wordpiece_json[] =
    "{\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##\","
    "\"max_input_chars_per_word\":10,\"vocab\":{\"[UNK]\":0,\"[CLS]\":1,\"[SEP]\":2,\"un\":3,\"##aff\":4,"
    "\"##able\":5,\"cafe\":6,\",\":7,\"\xE4\xB8\xAD\":8,\"a\":9,\"##a\":10,\"##aa\":11}},"
    "\"added_tokens\":[{\"id\":1,\"content\":\"[CLS]\",\"special\":true,\"normalized\":false},"
    "{\"id\":12,\"content\":\"<tag>\",\"lstrip\":true,\"rstrip\":true,\"single_word\":true,\"normalized\":false},"
    "{\"id\":13,\"content\":\"Caf\xC3\xA9s\",\"normalized\":true}],"
    "\"normalizer\":{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,"
    "\"strip_accents\":null,\"lowercase\":true},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},"
    "\"truncation\":{\"max_length\":32},"
    "\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"[SEP]\",2],\"cls\":[\"[CLS]\",1]}}";

static const char unigram_json[] =
    "{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"byte_fallback\":true,\"vocab\":[[\"<unk>\",0],"
    "[\"\xE2\x96\x81\",-3],[\"\xE2\x96\x81he\",-2],[\"l\",-4],[\"lo\",-3],[\"llo\",-9.5],[\"<0xC3>\",-20],"
    "[\"<0xA9>\",-20],[\"\xE2\x96\x81hello\",-9],[\"o\",-5]]},"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Replace\","
    "\"pattern\":{\"Regex\":\" {2,}\"},\"content\":\" \"},{\"type\":\"Strip\",\"strip_left\":false,"
    "\"strip_right\":true}]},"
    "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xE2\x96\x81\",\"prepend_scheme\":\"always\"}}";

struct opened {
    void *block;
    size_t bytes;
    struct cabe_tokenizer *tokenizer;
    struct cabe_encoding encoding;
};

static struct opened open_json(const char *text)
{
    struct opened o = {0};
    struct cabe_error err = {0};
    json_error_t parse;
    json_t *document = json_loads(text, JSON_ALLOW_NUL, &parse);

    assert_non_null(document);
    if (cabe_tokenizer_compile_json(document, "test.json", &o.block, &o.bytes, &err) != CABE_OK ||
        cabe_tokenizer_open(&o.tokenizer, o.block, o.bytes, "test", &err) != CABE_OK)
        fail_msg("%s", err.text);
    json_decref(document);
    return o;
}

static void close_opened(struct opened *o)
{
    cabe_encoding_clear(&o->encoding);
    cabe_tokenizer_close(o->tokenizer);
    cabe_free(o->block);
}

/* `wanted`: "id:begin-end" for each token. */
static void check(struct opened *o, const char *text, size_t max_tokens, const char *wanted)
{
    struct cabe_encode_options options = {1, max_tokens, 1};
    struct cabe_error err = {0};
    char found[1024] = "";
    size_t n = 0;

    if (cabe_tokenizer_encode(o->tokenizer, text, strlen(text), &options, &o->encoding, &err) != CABE_OK)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < o->encoding.n && n < 1000; i++)
        n += (size_t)snprintf(found + n, sizeof found - n, "%s%d:%u-%u", i ? " " : "", o->encoding.ids[i],
                              o->encoding.begin[i], o->encoding.end[i]);
    assert_string_equal(found, wanted);
}

static void test_wordpiece(void **state)
{
    struct opened o = open_json(wordpiece_json);

    (void)state;
    assert_int_equal(cabe_tokenizer_n_tokens(o.tokenizer), 14);
    assert_int_equal(cabe_tokenizer_truncation(o.tokenizer), 32);
    assert_int_equal(cabe_tokenizer_n_special(o.tokenizer), 2);
    check(&o, "", 0, "1:0-0 2:0-0");
    check(&o, "Unaffable", 0, "1:0-0 3:0-2 4:2-5 5:5-9 2:0-0");
    check(&o, " caf\xC3\xA9, unx", 0, "1:0-0 6:1-6 7:6-7 0:8-11 2:0-0");
    check(&o, "cafe\xCC\x81", 0, "1:0-0 6:0-4 2:0-0"); /* a mark by itself: not in the token's range */
    check(&o, "a\xE4\xB8\xAD" "a", 0, "1:0-0 9:0-1 8:1-4 9:4-5 2:0-0");
    check(&o, "a\x01\xC2\xAD" "a", 0, "1:0-0 9:0-1 10:4-5 2:0-0");
    check(&o, "aaaaaaaaaa", 0, "1:0-0 9:0-1 11:1-3 11:3-5 11:5-7 11:7-9 10:9-10 2:0-0");
    check(&o, "aaaaaaaaaaa", 0, "1:0-0 0:0-11 2:0-0"); /* longer than max_input_chars_per_word */
    check(&o, "a a a a", 4, "1:0-0 9:0-1 9:2-3 2:0-0");
    check(&o, "a a a a", 2, "1:0-0 2:0-0");
    close_opened(&o);
}

static void test_added_tokens(void **state)
{
    struct opened o = open_json(wordpiece_json);
    size_t bytes;

    (void)state;
    check(&o, "a[CLS]a", 0, "1:0-0 9:0-1 1:1-6 9:6-7 2:0-0");
    check(&o, "a  <tag> \t a", 0, "1:0-0 9:0-1 12:1-11 9:11-12 2:0-0");
    check(&o, "a<tag>", 0, "1:0-0 9:0-1 0:1-2 0:2-5 0:5-6 2:0-0"); /* not a single word */
    check(&o, "CAFES a", 0, "1:0-0 13:0-5 9:6-7 2:0-0");
    assert_int_equal(cabe_tokenizer_find(o.tokenizer, "<tag>", 5), 12);
    assert_int_equal(cabe_tokenizer_find(o.tokenizer, "##aff", 5), 4);
    assert_int_equal(cabe_tokenizer_find(o.tokenizer, "##af", 4), -1);
    assert_memory_equal(cabe_tokenizer_token(o.tokenizer, 12, &bytes), "<tag>", 5);
    assert_int_equal(bytes, 5);
    assert_null(cabe_tokenizer_token(o.tokenizer, 14, &bytes));
    assert_null(cabe_tokenizer_token(o.tokenizer, -1, &bytes));
    close_opened(&o);
}

static void test_unigram(void **state)
{
    struct opened o = open_json(unigram_json);

    (void)state;
    check(&o, "hello", 0, "8:0-5"); /* -9 as one; he + l + lo is -9 too, and the first found stays */
    check(&o, "hell  lo", 0, "2:0-2 3:2-3 3:3-4 1:5-6 4:6-8");
    check(&o, "x\xC3\xA9", 0, "1:0-1 0:0-3"); /* x has no byte token, so the two are one unknown */
    check(&o, "l\xC3\xA9", 0, "1:0-1 3:0-1 6:1-3 7:1-3");
    check(&o, "le\xCC\x81 ", 0, "1:0-1 3:0-1 6:1-2 7:1-2"); /* composed: as in the reference, the first's range */
    check(&o, "   ", 0, "");
    close_opened(&o);
}

static void test_ill_formed_text(void **state)
{
    struct opened o = open_json(wordpiece_json);
    struct cabe_encode_options options = {1, 0, 1};
    struct cabe_error err = {0};

    (void)state;
    assert_int_equal(cabe_tokenizer_encode(o.tokenizer, "0123456789\xC3(", 12, &options, &o.encoding, &err),
                     CABE_ERR_FORMAT);
    assert_non_null(strstr(err.text, "byte 10"));
    options.max_tokens = 1;
    assert_int_equal(cabe_tokenizer_encode(o.tokenizer, "a", 1, &options, &o.encoding, &err), CABE_ERR_ARGUMENT);
    close_opened(&o);
}

static void test_long_text_is_the_same_in_pieces(void **state)
{
    static const char *const files[] = {wordpiece_json, unigram_json};
    static const char sentence[] = "hello  caf\xC3\xA9, un\xCC\x81" "a a a lo ";
    size_t n = sizeof sentence - 1, times = 20000;
    char *text = malloc(n * times);

    (void)state;
    assert_non_null(text);
    for (size_t i = 0; i < times; i++)
        memcpy(text + i * n, sentence, n);
    for (int f = 0; f < 2; f++) {
        struct opened o = open_json(files[f]);
        struct cabe_encode_options options = {0, 0, 1};
        struct cabe_error err = {0};
        struct cabe_encoding all = {0};
        size_t period;

        assert_int_equal(cabe_tokenizer_encode(o.tokenizer, text, 3 * n, &options, &o.encoding, &err), CABE_OK);
        assert_int_equal(cabe_tokenizer_encode(o.tokenizer, text, n * times, &options, &all, &err), CABE_OK);
        period = o.encoding.n / 3;
        assert_int_equal(all.n / times, period);
        for (size_t i = period; i + period < all.n; i++) {
            assert_int_equal(all.ids[i], all.ids[period + i % period]);
            assert_int_equal(all.begin[i] + n, all.begin[i + period]);
        }
        cabe_encoding_clear(&all);
        close_opened(&o);
    }
    free(text);
}

/* Longer than any piece and without a space: cut, but still one word. */
static void test_long_word_is_one_word(void **state)
{
    struct opened o = open_json(unigram_json);
    struct cabe_encode_options options = {0, 0, 1};
    struct cabe_error err = {0};
    size_t n = 600000;
    char *text = malloc(n);

    (void)state;
    assert_non_null(text);
    memset(text, 'l', n);
    assert_int_equal(cabe_tokenizer_encode(o.tokenizer, text, n, &options, &o.encoding, &err), CABE_OK);
    assert_int_equal(o.encoding.n, n + 1);
    assert_int_equal(o.encoding.ids[0], 1);
    for (size_t i = 1; i <= n; i++)
        assert_true(o.encoding.ids[i] == 3 && o.encoding.end[i] == i);
    assert_true(o.encoding.work_bytes < 32u << 20);
    free(text);
    close_opened(&o);
}

static void expect_refusal(const char *text, enum cabe_status wanted, const char *part)
{
    struct cabe_error err = {0};
    json_t *document = json_loads(text, 0, NULL);
    void *block = NULL;
    size_t bytes = 0;

    assert_non_null(document);
    assert_int_equal(cabe_tokenizer_compile_json(document, "t.json", &block, &bytes, &err), wanted);
    assert_null(block);
    if (!strstr(err.text, part))
        fail_msg("%s: wanted %s in it", err.text, part);
    json_decref(document);
}

#define MODEL "\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"[UNK]\":0}}"

static void test_refusals(void **state)
{
    (void)state;
    expect_refusal("{}", CABE_ERR_FORMAT, "model");
    expect_refusal("{\"model\":{\"type\":\"WordLevel\"}}", CABE_ERR_UNSUPPORTED,
                   "WordLevel: not supported; supported: WordPiece, Unigram, BPE");
    expect_refusal("{\"model\":{\"vocab\":{},\"merges\":[]}}", CABE_ERR_FORMAT, "vocab");
    expect_refusal("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}}", CABE_ERR_FORMAT, "[UNK]");
    expect_refusal("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":-1}}}", CABE_ERR_FORMAT, "an id from 0");
    expect_refusal("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":99999999}}}", CABE_ERR_FORMAT, "an id from 0");
    expect_refusal("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":1,\"b\":1}}}", CABE_ERR_FORMAT,
                   "have the id 1");
    expect_refusal("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",-1]]}}", CABE_ERR_FORMAT, "unk_id");
    expect_refusal("{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"a\"]]}}", CABE_ERR_FORMAT,
                   "vocab[0]");
    expect_refusal("{" MODEL ",\"normalizer\":{\"type\":\"ByteLevel\"}}", CABE_ERR_UNSUPPORTED, "ByteLevel");
    expect_refusal("{" MODEL ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a|b\"},"
                   "\"content\":\"\"}}", CABE_ERR_UNSUPPORTED, "a|b");
    expect_refusal("{" MODEL ",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA\"}}",
                   CABE_ERR_FORMAT, "precompiled_charsmap");
    expect_refusal("{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\"}}", CABE_ERR_UNSUPPORTED, "Split");
    expect_refusal("{" MODEL ",\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"a\",0],\"cls\":[\"b\",9]}}",
                   CABE_ERR_FORMAT, "9");
    expect_refusal("{" MODEL ",\"added_tokens\":[{\"id\":0,\"content\":\"x\"}]}", CABE_ERR_FORMAT,
                   "added_tokens[0]");
}

/* Every byte of a block changed in turn is noticed, except that padding between sections says nothing. */
static void test_damaged_blocks(void **state)
{
    struct opened o = open_json(unigram_json);
    struct cabe_tokenizer *t;
    struct cabe_error err = {0};
    uint8_t *copy = malloc(o.bytes);
    size_t n_noticed = 0, n_tried = 0;

    (void)state;
    assert_non_null(copy);
    memcpy(copy, o.block, o.bytes);
    for (size_t i = 0; i < o.bytes; i += i < 4096 ? 1 : 97, n_tried++) {
        copy[i] ^= 0x10;
        if (cabe_tokenizer_open(&t, copy, o.bytes, "damaged", &err) != CABE_OK)
            n_noticed++;
        else
            cabe_tokenizer_close(t);
        copy[i] ^= 0x10;
    }
    assert_true(n_tried - n_noticed < 64);
    for (size_t bytes = 0; bytes < o.bytes; bytes += 1 + o.bytes / 50)
        assert_int_not_equal(cabe_tokenizer_open(&t, copy, bytes, "short", &err), CABE_OK);
    free(copy);
    close_opened(&o);
}

static void compile_and_encode(const json_t *document, enum cabe_status *status)
{
    struct opened o = {0};
    struct cabe_encode_options options = {1, 0, 1};
    struct cabe_error err;
    static const char text[] = "hello caf\xC3\xA9 \xE4\xB8\xAD <tag> Cafe\xCC\x81s \xE3\x80\xAE\xCC\x80 [CLS]";

    *status = cabe_tokenizer_compile_json(document, "t.json", &o.block, &o.bytes, &err);
    if (*status == CABE_OK)
        *status = cabe_tokenizer_open(&o.tokenizer, o.block, o.bytes, "t", &err);
    if (*status == CABE_OK)
        *status = cabe_tokenizer_encode(o.tokenizer, text, sizeof text - 1, &options, &o.encoding, &err);
    close_opened(&o);
}

static void test_every_allocation_may_fail(void **state)
{
    static const char *const files[] = {wordpiece_json, unigram_json};

    (void)state;
    for (int f = 0; f < 2; f++) {
        json_t *document = json_loads(files[f], 0, NULL);
        enum cabe_status status = CABE_ERR_OOM;
        uint64_t n = 0;

        assert_non_null(document);
        while (status != CABE_OK) {
            cabe_memory_fail_at(++n);
            compile_and_encode(document, &status);
            cabe_memory_fail_at(0);
            assert_true(status == CABE_OK || status == CABE_ERR_OOM);
        }
        assert_true(n > 10);
        json_decref(document);
    }
}

static void test_encoding_again_allocates_nothing(void **state)
{
    struct opened o = open_json(wordpiece_json);
    struct cabe_encode_options options = {1, 0, 1};
    struct cabe_error err;
    static const char text[] = "unaffable caf\xC3\xA9 \xE4\xB8\xAD <tag> \xE3\x80\xAE\xCC\x80";
    uint64_t before = 0;

    (void)state;
    for (int i = 0; i < 3; i++) {
        if (i == 1)
            before = cabe_memory_count();
        assert_int_equal(cabe_tokenizer_encode(o.tokenizer, text, sizeof text - 1, &options, &o.encoding, &err),
                         CABE_OK);
    }
    assert_int_equal(cabe_memory_count(), before);
    close_opened(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wordpiece),
        cmocka_unit_test(test_added_tokens),
        cmocka_unit_test(test_unigram),
        cmocka_unit_test(test_ill_formed_text),
        cmocka_unit_test(test_long_text_is_the_same_in_pieces),
        cmocka_unit_test(test_long_word_is_one_word),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_damaged_blocks),
        cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_encoding_again_allocates_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
