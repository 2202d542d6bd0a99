/* Byte-pair encoding where no reference is needed: order of merges, files that lie, long words, ids to text. */
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

/* "abc" is a token that merges do not lead to; "Ġ" is a space, "Ã©" the two bytes of e with an accent. */
#define VOCAB \
    "\"a\":0,\"b\":1,\"c\":2,\"\xC4\xA0\":3,\"ab\":4,\"bc\":5,\"\xC4\xA0" "ab\":6,\"abc\":7,\"\xC3\x83\":8,\"\xC2\xA9\":9," \
    "\"\xC3\x83\xC2\xA9\":10,\"1\":11,\"<end>\":12,\"aa\":13,\"aaaa\":14,\"\xC4\x8A\":15"
#define MERGES "\"b c\",\"a b\",\"\xC4\xA0 ab\",\"\xC3\x83 \xC2\xA9\",\"a a\",[\"aa\",\"aa\"]"
#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"
static const char byte_json[] =
    "{\"model\":{\"type\":\"BPE\",\"vocab\":{" VOCAB "},\"merges\":[" MERGES "]},\"pre_tokenizer\":" BYTE_LEVEL ","
    "\"added_tokens\":[{\"id\":12,\"content\":\"<end>\",\"special\":true,\"normalized\":false}]}";

static const char mark_json[] =
    "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"unk_token\":\"<unk>\",\"vocab\":{\"<unk>\":0,\"\xE2\x96\x81\":1,"
    "\"h\":2,\"i\":3,\"\xE2\x96\x81h\":4,\"\xE2\x96\x81hi\":5,\"<0xC3>\":6,\"<0xA9>\":7,\"<0x41>\":8},\"merges\":["
    "\"\xE2\x96\x81 h\",\"\xE2\x96\x81h i\"]},\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\","
    "\"prepend\":\"\xE2\x96\x81\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xE2\x96\x81\"}]}}";

struct opened {
    void *block;
    size_t bytes;
    struct cabe_tokenizer *tokenizer;
    struct cabe_encoding encoding;
};

static void open_block(struct opened *o)
{
    struct cabe_error err = {0};

    if (cabe_tokenizer_open(&o->tokenizer, o->block, o->bytes, "test", &err) != CABE_OK)
        fail_msg("%s", err.text);
}

static struct opened open_json(const char *text)
{
    struct opened o = {0};
    struct cabe_error err = {0};
    json_t *document = json_loads(text, 0, NULL);

    assert_non_null(document);
    if (cabe_tokenizer_compile_json(document, "test.json", &o.block, &o.bytes, &err) != CABE_OK)
        fail_msg("%s", err.text);
    json_decref(document);
    open_block(&o);
    return o;
}

static void close_opened(struct opened *o)
{
    cabe_encoding_clear(&o->encoding);
    cabe_tokenizer_close(o->tokenizer);
    cabe_free(o->block);
}

/* `wanted`: "id:begin-end" for each token. */
static void check(struct opened *o, const char *text, int parse_special, const char *wanted)
{
    struct cabe_encode_options options = {0, 0, parse_special};
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

static void test_merges_by_rank(void **state)
{
    struct opened o = open_json(byte_json);

    (void)state;
    check(&o, "abc", 0, "0:0-1 5:1-3"); /* b c ranks before a b, and abc is a token that nothing merges to */
    check(&o, "ab ab", 0, "4:0-2 6:2-5");
    check(&o, "aaaaa", 0, "14:0-4 0:4-5"); /* the leftmost of equal pairs first */
    check(&o, "\xC3\xA9", 0, "10:0-2");
    check(&o, "\xC3\xA9\xC3\xA8", 0, "10:0-2 8:2-4"); /* a byte without a token is nothing */
    check(&o, "a  b", 0, "0:0-1 3:1-2 3:2-3 1:3-4");
    check(&o, "a<end>b", 1, "0:0-1 12:1-6 1:6-7");
    check(&o, "a<end>b", 0, "0:0-1 1:6-7"); /* these letters have no tokens */
    close_opened(&o);
}

static void test_whole_words(void **state)
{
    struct opened o = open_json("{\"model\":{\"type\":\"BPE\",\"ignore_merges\":true,\"vocab\":{" VOCAB "},\"merges\":[" MERGES
                                "]},\"pre_tokenizer\":" BYTE_LEVEL "}");

    (void)state;
    check(&o, "abc abc", 0, "7:0-3 3:3-4 0:4-5 5:5-7");
    close_opened(&o);
}

static void test_marks_and_bytes(void **state)
{
    struct opened o = open_json(mark_json);
    size_t n;

    (void)state;
    check(&o, "hi hi", 0, "5:0-2 5:2-5");
    check(&o, "\xE2\x96\x81hi  hi", 0, "1:0-3 5:0-5 1:5-6 5:6-9"); /* a real mark is a space */
    check(&o, "\xC3\xA9z", 0, "1:0-2 6:0-2 7:0-2 0:2-3");
    assert_memory_equal(cabe_tokenizer_token(o.tokenizer, 5, &n), " hi", 3);
    assert_int_equal(cabe_tokenizer_find(o.tokenizer, " hi", 3), 5);
    assert_int_equal(cabe_tokenizer_find(o.tokenizer, "A", 1), -1); /* only as a byte */
    close_opened(&o);
}

/* Decodes ids one by one; all that was given so far is UTF-8. */
static void check_stream(const struct opened *o, const int32_t *ids, size_t n_ids, int special, const char *wanted)
{
    struct cabe_decoder decoder = {.special = (unsigned char)special};
    char *out = malloc(cabe_decoder_room(o->tokenizer)), text[256] = "";
    size_t n = 0;

    assert_non_null(out);
    for (size_t i = 0; i <= n_ids; i++) {
        size_t bytes = i < n_ids ? cabe_decoder_put(&decoder, o->tokenizer, ids[i], out) : cabe_decoder_end(&decoder, out);

        assert_true(bytes <= cabe_decoder_room(o->tokenizer) && n + bytes < sizeof text);
        memcpy(text + n, out, bytes);
        n += bytes;
    }
    text[n] = 0;
    assert_string_equal(text, wanted);
    free(out);
}

static void test_decoding(void **state)
{
    struct opened bytes = open_json(byte_json), marks = open_json(mark_json);
    char out[64];

    (void)state;
    check_stream(&bytes, (const int32_t[]){6, 8, 9, 3, 12, 0}, 6, 0, " ab\xC3\xA9 a");
    check_stream(&bytes, (const int32_t[]){8, 12, 9}, 3, 1, "\xEF\xBF\xBD<end>\xEF\xBF\xBD");
    check_stream(&bytes, (const int32_t[]){8, 8, 9, 9, 8}, 5, 0, "\xEF\xBF\xBD\xC3\xA9\xEF\xBF\xBD\xEF\xBF\xBD");
    check_stream(&marks, (const int32_t[]){5, 5, 6, 7, 1, 8}, 6, 0, "hi hi\xC3\xA9 A");
    assert_int_equal(cabe_tokenizer_decode(marks.tokenizer, 5, 0, out), 3);
    assert_int_equal(cabe_tokenizer_decode(marks.tokenizer, 5, CABE_DECODE_FIRST, out), 2);
    assert_int_equal(cabe_tokenizer_decode(marks.tokenizer, -1, 0, out), 0);
    assert_int_equal(cabe_tokenizer_decode(marks.tokenizer, 99, 0, out), 0);
    assert_int_equal(cabe_tokenizer_decode(bytes.tokenizer, 12, 0, out), 0);
    assert_int_equal(cabe_tokenizer_decode(bytes.tokenizer, 12, CABE_DECODE_SPECIAL, out), 5);
    assert_true(cabe_tokenizer_decode_max(bytes.tokenizer) >= 5);
    close_opened(&bytes);
    close_opened(&marks);
}

/* ---- llama2.c ---- */

static size_t put_token(uint8_t *file, size_t at, float score, const char *text)
{
    uint32_t n = (uint32_t)strlen(text);

    memcpy(file + at, &score, 4);
    memcpy(file + at + 4, &n, 4);
    memcpy(file + at + 8, text, n);
    return at + 8 + n;
}

static size_t make_llama2c(uint8_t *file, uint32_t *n_vocab)
{
    static const char *const words[] = {" ", "o", "n", "ce", "c", "e", " o", "on", " on", " once", "nce"};
    size_t at = 4;

    memset(file, 0, 4);
    at = put_token(file, at, 0, "<unk>");
    at = put_token(file, at, 0, "\n<s>\n");
    at = put_token(file, at, 0, "\n</s>\n");
    for (int i = 0; i < 256; i++) {
        char name[8];

        snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
        at = put_token(file, at, 0, name);
    }
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        at = put_token(file, at, -(float)i, words[i]);
    *n_vocab = 259 + (uint32_t)(sizeof words / sizeof words[0]);
    return at;
}

static void test_llama2c(void **state)
{
    static uint8_t file[8192];
    uint32_t n_vocab;
    size_t bytes = make_llama2c(file, &n_vocab);
    struct cabe_encode_options options = {1, 0, 0};
    struct cabe_error err = {0};
    struct opened o = {0};

    (void)state;
    if (cabe_tokenizer_compile_llama2c(file, bytes, n_vocab, "t.bin", &o.block, &o.bytes, &err) != CABE_OK)
        fail_msg("%s", err.text);
    open_block(&o);
    check(&o, "once", 0, "268:0-4");
    check(&o, "nce on", 0, "259:0-1 269:0-3 267:3-6");
    check(&o, "\n\x01", 0, "259:0-1 13:0-1 4:1-2");
    assert_int_equal(cabe_tokenizer_encode(o.tokenizer, "", 0, &options, &o.encoding, &err), CABE_OK);
    assert_true(o.encoding.n == 1 && o.encoding.ids[0] == 1);
    assert_int_equal(cabe_tokenizer_special(o.tokenizer, CABE_TOKEN_BOS), 1);
    assert_int_equal(cabe_tokenizer_special(o.tokenizer, CABE_TOKEN_EOT), 2);
    assert_int_equal(cabe_tokenizer_special(o.tokenizer, CABE_TOKEN_PAD), -1);
    assert_true(cabe_tokenizer_is_end(o.tokenizer, 2) && !cabe_tokenizer_is_end(o.tokenizer, 1));
    assert_true(cabe_tokenizer_adds_bos(o.tokenizer) && cabe_tokenizer_is_special(o.tokenizer, 1));
    assert_null(cabe_tokenizer_chat_template(o.tokenizer, &bytes));
    check_stream(&o, (const int32_t[]){1, 265, 262, 13, 265}, 5, 0, "oce\n o");
    close_opened(&o);
    bytes = make_llama2c(file, &n_vocab);
    for (size_t n = 0; n < bytes; n += 1 + n / 40) {
        void *block;
        size_t block_bytes;

        assert_int_equal(cabe_tokenizer_compile_llama2c(file, n, n_vocab, "t.bin", &block, &block_bytes, &err),
                         CABE_ERR_FORMAT);
        assert_null(block);
    }
    assert_int_equal(cabe_tokenizer_compile_llama2c(file, bytes, n_vocab - 1, "t.bin", &o.block, &o.bytes, &err),
                     CABE_ERR_FORMAT);
}

/* ---- limits ---- */

/* A word of megabytes without a place to split: pieces of 256 KiB at most, each in n log n. */
static void test_long_words(void **state)
{
    enum { N = 3 << 20 };
    struct opened o = open_json(byte_json);
    struct cabe_encode_options options = {0, 0, 0};
    struct cabe_error err = {0};
    char *text = malloc(N);

    (void)state;
    assert_non_null(text);
    memset(text, 'a', N);
    assert_int_equal(cabe_tokenizer_encode(o.tokenizer, text, N, &options, &o.encoding, &err), CABE_OK);
    assert_int_equal(o.encoding.n, N / 4);
    assert_true(o.encoding.work_bytes < 64u << 20);
    for (size_t i = 0; i < N; i++)
        text[i] = "abc"[i % 3];
    assert_int_equal(cabe_tokenizer_encode(o.tokenizer, text, N, &options, &o.encoding, &err), CABE_OK);
    assert_true(o.encoding.n >= N / 3 * 2 && o.encoding.n <= N / 3 * 2 + N / (256 << 10));
    memset(text, ' ', N);
    assert_int_equal(cabe_tokenizer_encode(o.tokenizer, text, N, &options, &o.encoding, &err), CABE_OK);
    assert_int_equal(o.encoding.n, N);
    free(text);
    close_opened(&o);
}

/* Text in many pieces gives what it gives in lines. */
static void test_cut_text_is_the_same(void **state)
{
    static const char line[] = " ab \xC3\xA9" "1 abc aa  aab\n c";
    enum { TIMES = 5000, LINE = sizeof line - 1 };
    struct opened o = open_json(byte_json);
    struct cabe_encode_options options = {0, 0, 0};
    struct cabe_encoding one = {0};
    struct cabe_error err = {0};
    char *text = malloc(TIMES * LINE);

    (void)state;
    assert_non_null(text);
    for (size_t i = 0; i < TIMES; i++)
        memcpy(text + i * LINE, line, LINE);
    assert_int_equal(cabe_tokenizer_encode(o.tokenizer, line, LINE, &options, &one, &err), CABE_OK);
    assert_int_equal(cabe_tokenizer_encode(o.tokenizer, text, TIMES * LINE, &options, &o.encoding, &err), CABE_OK);
    assert_int_equal(o.encoding.n, TIMES * one.n);
    for (size_t i = 0; i < o.encoding.n; i++) {
        assert_int_equal(o.encoding.ids[i], one.ids[i % one.n]);
        assert_int_equal(o.encoding.begin[i], one.begin[i % one.n] + i / one.n * LINE);
        assert_int_equal(o.encoding.end[i], one.end[i % one.n] + i / one.n * LINE);
    }
    cabe_encoding_clear(&one);
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

#define MODEL(more) "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}," more
#define SPLIT(regex) "\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex "\"}}}"

static void test_refusals(void **state)
{
    (void)state;
    expect_refusal(MODEL("\"merges\":[\"a b\",\"a c\"]}}"), CABE_ERR_FORMAT, "merge 1, 'a' and 'c': the second");
    expect_refusal(MODEL("\"merges\":[\"b a\"]}}"), CABE_ERR_FORMAT, "what they become");
    expect_refusal(MODEL("\"merges\":[\"ab\"]}}"), CABE_ERR_FORMAT, "merges[0]");
    expect_refusal(MODEL("\"merges\":[[\"a\"]]}}"), CABE_ERR_FORMAT, "merges[0]");
    expect_refusal(MODEL("\"merges\":7}}"), CABE_ERR_FORMAT, "merges");
    expect_refusal(MODEL("\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}"), CABE_ERR_UNSUPPORTED, "</w>");
    expect_refusal(MODEL("\"merges\":[],\"dropout\":0.5}}"), CABE_ERR_UNSUPPORTED, "dropout");
    expect_refusal(MODEL(SPLIT("[aeiou]+")), CABE_ERR_UNSUPPORTED, "[aeiou]+");
    expect_refusal(MODEL("\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[" BYTE_LEVEL
                         ",{\"type\":\"Digits\"}]}}"), CABE_ERR_UNSUPPORTED, "after ByteLevel: Digits");
    expect_refusal("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"[UNK]\":0}},\"pre_tokenizer\":" BYTE_LEVEL "}",
                   CABE_ERR_UNSUPPORTED, "ByteLevel");
}

static void test_damaged_blocks(void **state)
{
    struct opened o = open_json(mark_json);
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
    free(copy);
    close_opened(&o);
}

static void test_every_allocation_may_fail(void **state)
{
    static const char *const files[] = {byte_json, mark_json};
    static char text[400] = "ab abc \xE2\x96\x81hi <end>";

    (void)state;
    memset(text + 22, 'a', sizeof text - 23); /* long enough for the heap of pairs */
    for (int f = 0; f < 2; f++) {
        json_t *document = json_loads(files[f], 0, NULL);
        enum cabe_status status = CABE_ERR_OOM;
        uint64_t n = 0;

        assert_non_null(document);
        while (status != CABE_OK) {
            struct cabe_encode_options options = {1, 0, 1};
            struct opened o = {0};
            struct cabe_error err;

            cabe_memory_fail_at(++n);
            status = cabe_tokenizer_compile_json(document, "t.json", &o.block, &o.bytes, &err);
            if (status == CABE_OK)
                status = cabe_tokenizer_open(&o.tokenizer, o.block, o.bytes, "t", &err);
            if (status == CABE_OK)
                status = cabe_tokenizer_encode(o.tokenizer, text, strlen(text), &options, &o.encoding, &err);
            cabe_memory_fail_at(0);
            assert_true(status == CABE_OK || status == CABE_ERR_OOM);
            close_opened(&o);
        }
        assert_true(n > 10);
        json_decref(document);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges_by_rank),
        cmocka_unit_test(test_whole_words),
        cmocka_unit_test(test_marks_and_bytes),
        cmocka_unit_test(test_decoding),
        cmocka_unit_test(test_llama2c),
        cmocka_unit_test(test_long_words),
        cmocka_unit_test(test_cut_text_is_the_same),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_damaged_blocks),
        cmocka_unit_test(test_every_allocation_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
