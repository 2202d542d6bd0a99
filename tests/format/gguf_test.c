#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>

#include "base/clock.h"
#include "base/memory.h"
#include "format/source.h"
#include "format_files.h"

/* Every kind of value, three tensors. */
static void make_small(struct bytes *b, uint32_t version)
{
    const uint64_t matrix[2] = {64, 3}, vector[1] = {5}, cube[3] = {2, 3, 4};
    float f = 0.5f;
    double d = -2.25;

    gguf_begin(b, version, 3, 17);
    gguf_key_text(b, "general.architecture", "bert");
    gguf_key(b, "u8", 0), put_number(b, 200, 1);
    gguf_key(b, "i8", 1), put_number(b, 0x80, 1);
    gguf_key(b, "u16", 2), put_number(b, 65535, 2);
    gguf_key(b, "i16", 3), put_number(b, 0xFFFE, 2);
    gguf_key_u32(b, "u32", 4000000000u);
    gguf_key(b, "i32", 5), put_number(b, 0xFFFFFFFF, 4);
    gguf_key(b, "f32", 6), put(b, &f, 4);
    gguf_key(b, "bool", 7), put_number(b, 1, 1);
    gguf_key(b, "u64", 10), put_u64(b, UINT64_MAX);
    gguf_key(b, "i64", 11), put_u64(b, (uint64_t)-7);
    gguf_key(b, "f64", 12), put(b, &d, 8);
    gguf_key_array(b, "words", 8, 20);
    for (int i = 0; i < 20; i++) {
        char word[32];

        snprintf(word, sizeof word, "%.*s%d", i, "abcdefghijklmnopqrst", i);
        put_text(b, word);
    }
    gguf_key_array(b, "floats", 6, 3);
    for (int i = 0; i < 3; i++) {
        f = (float)i / 4;
        put(b, &f, 4);
    }
    gguf_key_array(b, "shorts", 3, 2), put_number(b, 0xFFFF, 2), put_number(b, 9, 2);
    gguf_key_array(b, "nothing", 8, 0);
    gguf_key_u32(b, "general.alignment", 64);
    gguf_tensor(b, "m", 2, matrix, 2, 0);
    gguf_tensor(b, "v", 1, vector, 0, 128);
    gguf_tensor(b, "c", 3, cube, 1, 192);
    put_align(b, 64);
    for (int i = 0; i < 192 + 48; i++)
        put_number(b, (uint64_t)i, 1);
}

static enum cabe_status open_bytes(struct cabe_source **out, const struct bytes *b, struct cabe_error *err)
{
    char path[64];
    int fd = memory_file(b->data, b->n, path);
    enum cabe_status status = cabe_source_open(out, path, err);

    close(fd);
    return status;
}

static void check_refused(struct bytes *b, enum cabe_status wanted, const char *words)
{
    struct cabe_source *source;
    struct cabe_error err = {0};
    enum cabe_status status = open_bytes(&source, b, &err);

    if (status != wanted || !strstr(err.text, words))
        fail_msg("%s: '%s', wanted %s: '%s'", cabe_status_name(status), err.text, cabe_status_name(wanted), words);
    assert_null(source);
    bytes_clear(b);
}

static void check_small(const struct cabe_source *source)
{
    const struct cabe_source_tensor *t = cabe_source_find(source, "m");
    const char *text;
    uint8_t row[8];
    int64_t i;
    uint64_t n;
    size_t bytes;
    double d;
    int flag;

    assert_int_equal(cabe_source_kind(source), CABE_SOURCE_GGUF);
    assert_int_equal(cabe_source_n_tensors(source), 3);
    assert_non_null(t);
    assert_string_equal(t->type, "q4_0");
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->shape[0], 1);
    assert_int_equal(t->shape[2], 3);
    assert_int_equal(t->shape[3], 64);
    assert_int_equal(t->bytes, 3 * 36);
    t = cabe_source_find(source, "c");
    assert_int_equal(t->shape[1], 4);
    assert_int_equal(t->shape[3], 2);
    assert_int_equal(cabe_source_read(source, t, 3, 4, row, NULL), CABE_OK);
    assert_int_equal(row[0], 195);
    assert_int_equal(cabe_source_read(source, t, 45, 4, row, NULL), CABE_ERR_ARGUMENT);
    assert_null(cabe_source_find(source, "x"));

    assert_true(cabe_source_get_string(source, "general.architecture", &text, &bytes));
    assert_int_equal(bytes, 4);
    assert_memory_equal(text, "bert", 4);
    assert_true(cabe_source_get_i64(source, "u8", &i) && i == 200);
    assert_true(cabe_source_get_i64(source, "i8", &i) && i == -128);
    assert_true(cabe_source_get_i64(source, "u16", &i) && i == 65535);
    assert_true(cabe_source_get_i64(source, "i16", &i) && i == -2);
    assert_true(cabe_source_get_i64(source, "u32", &i) && i == 4000000000);
    assert_true(cabe_source_get_i64(source, "i32", &i) && i == -1);
    assert_true(cabe_source_get_i64(source, "i64", &i) && i == -7);
    assert_false(cabe_source_get_i64(source, "u64", &i)); /* too large */
    assert_false(cabe_source_get_i64(source, "f32", &i));
    assert_true(cabe_source_get_f64(source, "f32", &d) && d == 0.5);
    assert_true(cabe_source_get_f64(source, "f64", &d) && d == -2.25);
    assert_true(cabe_source_get_bool(source, "bool", &flag) && flag);
    assert_false(cabe_source_get_bool(source, "absent", &flag));

    assert_true(cabe_source_get_array(source, "words", &n) && n == 20);
    for (uint64_t k = 20; k-- > 0;) {
        assert_true(cabe_source_array_string(source, "words", k, &text, &bytes));
        assert_int_equal(bytes, k + (k < 10 ? 1 : 2));
        assert_memory_equal(text, "abcdefghijklmnopqrst", k);
    }
    assert_false(cabe_source_array_string(source, "words", 20, &text, &bytes));
    assert_false(cabe_source_array_string(source, "floats", 0, &text, &bytes));
    assert_true(cabe_source_get_array(source, "nothing", &n) && n == 0);
    assert_false(cabe_source_array_string(source, "nothing", 0, &text, &bytes));
    assert_true(cabe_source_array_f64(source, "floats", 2, &d) && d == 0.5);
    assert_false(cabe_source_array_f64(source, "floats", 3, &d));
    assert_true(cabe_source_array_i64(source, "shorts", 0, &i) && i == -1);
    assert_true(cabe_source_array_i64(source, "shorts", 1, &i) && i == 9);
    assert_false(cabe_source_array_i64(source, "floats", 1, &i));
    assert_int_equal(cabe_source_array_load(source, "floats", NULL), CABE_OK);
    assert_int_equal(cabe_source_array_load(source, "u8", NULL), CABE_ERR_NOT_FOUND);
}

static void reads_every_kind_of_value(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        struct cabe_source *source;
        struct bytes b = {0};

        make_small(&b, version);
        assert_int_equal(open_bytes(&source, &b, NULL), CABE_OK);
        check_small(source);
        cabe_source_trim(source);
        check_small(source);
        cabe_source_close(source);
        bytes_clear(&b);
    }
}

static void refuses_strange_headers(void **state)
{
    const uint64_t dims[4] = {32, 1, 1, 1}, huge[4] = {1ull << 62, 4, 4, 1}, zero[1] = {UINT64_MAX};
    struct bytes b = {0};

    (void)state;
    put(&b, "GGUF\0\0\0\3xxxxxxxxxxxxxxxx", 24);
    check_refused(&b, CABE_ERR_UNSUPPORTED, "big-endian");
    gguf_begin(&b, 1, 0, 0);
    check_refused(&b, CABE_ERR_UNSUPPORTED, "version 1, wanted 2 or 3");
    gguf_begin(&b, 4, 0, 0);
    check_refused(&b, CABE_ERR_UNSUPPORTED, "version 4");
    put(&b, "not a model at all", 18);
    check_refused(&b, CABE_ERR_FORMAT, "wanted a GGUF");
    put(&b, "PK\3\4......", 10);
    check_refused(&b, CABE_ERR_UNSUPPORTED, "cabe pull");
    put(&b, "GGUF", 4);
    check_refused(&b, CABE_ERR_FORMAT, "4 bytes");
    check_refused(&b, CABE_ERR_FORMAT, "0 bytes");
    gguf_begin(&b, 3, UINT64_MAX, 0);
    check_refused(&b, CABE_ERR_FORMAT, "18446744073709551615 tensors");
    gguf_begin(&b, 3, 0, 1ull << 40);
    check_refused(&b, CABE_ERR_FORMAT, "1099511627776 metadata keys");

    gguf_begin(&b, 3, 1, 0);
    gguf_tensor(&b, "t", 5, (const uint64_t[5]){1, 1, 1, 1, 1}, 0, 0);
    check_refused(&b, CABE_ERR_UNSUPPORTED, "tensor 't': 5 dimensions, at most 4");
    gguf_begin(&b, 3, 1, 0);
    gguf_tensor(&b, "t", 4, huge, 0, 0);
    check_refused(&b, CABE_ERR_FORMAT, "more elements than can be counted");
    gguf_begin(&b, 3, 1, 0);
    gguf_tensor(&b, "t", 1, zero, 0, 0);
    check_refused(&b, CABE_ERR_FORMAT, "more elements");
    gguf_begin(&b, 3, 1, 0);
    gguf_tensor(&b, "t", 1, dims, 4, 0);
    check_refused(&b, CABE_ERR_UNSUPPORTED, "tensor 't': type 4 is not known");
    gguf_begin(&b, 3, 1, 0);
    gguf_tensor(&b, "t", 1, (const uint64_t[1]){33}, 8, 0);
    check_refused(&b, CABE_ERR_FORMAT, "rows of 33, wanted a multiple of 32 for q8_0");
    gguf_begin(&b, 3, 1, 0);
    gguf_tensor(&b, "t", 1, dims, 0, 4);
    check_refused(&b, CABE_ERR_FORMAT, "offset 4, wanted a multiple of 32");
    gguf_begin(&b, 3, 1, 0);
    gguf_tensor(&b, "blk.3.attn_q.weight", 1, dims, 0, UINT64_MAX - 31);
    check_refused(&b, CABE_ERR_FORMAT, "tensor 'blk.3.attn_q.weight': offset 18446744073709551584 past end");
    gguf_begin(&b, 3, 1, 0);
    gguf_tensor(&b, "t", 1, dims, 0, 0);
    put_align(&b, 32);
    put_zeros(&b, 127);
    check_refused(&b, CABE_ERR_FORMAT, "tensor 't': 128 bytes at offset");
    gguf_begin(&b, 3, 2, 0);
    gguf_tensor(&b, "same", 1, dims, 0, 0);
    gguf_tensor(&b, "same", 1, dims, 0, 0);
    put_zeros(&b, 256);
    check_refused(&b, CABE_ERR_FORMAT, "tensor 'same' occurs twice");
    gguf_begin(&b, 3, 1, 0);
    put_u64(&b, 3), put(&b, "a\0b", 3), put_zeros(&b, 64);
    check_refused(&b, CABE_ERR_FORMAT, "NUL");
}

static void refuses_strange_metadata(void **state)
{
    struct bytes b = {0};

    (void)state;
    gguf_begin(&b, 3, 0, 2);
    gguf_key_u32(&b, "k", 1);
    gguf_key_u32(&b, "k", 2);
    check_refused(&b, CABE_ERR_FORMAT, "key 'k' occurs twice");
    gguf_begin(&b, 3, 0, 1);
    gguf_key_u32(&b, "general.alignment", 48);
    check_refused(&b, CABE_ERR_FORMAT, "general.alignment 48, wanted a power of two");
    gguf_begin(&b, 3, 0, 1);
    gguf_key_u32(&b, "general.alignment", 0);
    check_refused(&b, CABE_ERR_FORMAT, "general.alignment 0");
    gguf_begin(&b, 3, 0, 1);
    gguf_key_u32(&b, "split.count", 3);
    check_refused(&b, CABE_ERR_UNSUPPORTED, "one of 3 parts");
    gguf_begin(&b, 3, 0, 1);
    gguf_key(&b, "k", 13), put_zeros(&b, 8);
    check_refused(&b, CABE_ERR_FORMAT, "key 'k': type 13, wanted 0 to 12");
    gguf_begin(&b, 3, 0, 1);
    gguf_key(&b, "k", 7), put_number(&b, 2, 1);
    check_refused(&b, CABE_ERR_FORMAT, "bool 2, wanted 0 or 1");
    gguf_begin(&b, 3, 0, 1);
    gguf_key_array(&b, "k", 9, 1), put_zeros(&b, 16);
    check_refused(&b, CABE_ERR_UNSUPPORTED, "array of arrays");
    gguf_begin(&b, 3, 0, 1);
    gguf_key_array(&b, "k", 12, 1ull << 61);
    check_refused(&b, CABE_ERR_FORMAT, "2305843009213693952 elements of 8 bytes");
    gguf_begin(&b, 3, 0, 1);
    gguf_key_array(&b, "k", 8, UINT64_MAX / 2);
    check_refused(&b, CABE_ERR_FORMAT, "strings at offset");
    gguf_begin(&b, 3, 0, 1);
    gguf_key_array(&b, "k", 8, 2), put_text(&b, "fine"), put_u64(&b, UINT64_MAX);
    check_refused(&b, CABE_ERR_FORMAT, "past end");
    gguf_begin(&b, 3, 0, 1);
    gguf_key(&b, "k", 8), put_u64(&b, UINT64_MAX);
    check_refused(&b, CABE_ERR_FORMAT, "length 18446744073709551615");
    gguf_begin(&b, 3, 0, 1);
    put_u64(&b, 1ull << 50), put_zeros(&b, 32);
    check_refused(&b, CABE_ERR_FORMAT, "metadata key: length 1125899906842624");
}

/* Opens and, where that succeeds, touches everything. */
static void exercise(const uint8_t *data, size_t n)
{
    struct bytes b = {.data = (uint8_t *)(uintptr_t)data, .n = n};
    struct cabe_source *source;
    struct cabe_error err = {0};
    char bytes[256];

    if (open_bytes(&source, &b, &err) != CABE_OK) {
        assert_true(err.text[0] != '\0');
        return;
    }
    for (size_t i = 0; i < cabe_source_n_tensors(source); i++) {
        const struct cabe_source_tensor *t = cabe_source_tensor(source, i);

        assert_int_equal(cabe_source_read(source, t, 0, t->bytes < sizeof bytes ? t->bytes : sizeof bytes, bytes,
                                          &err), CABE_OK);
    }
    for (uint64_t i = 0; i < 32; i++) {
        const char *text;
        size_t length;
        double d;

        if (cabe_source_array_string(source, "words", i, &text, &length) && length > 0)
            bytes[0] = text[length - 1];
        cabe_source_array_f64(source, "floats", i, &d);
    }
    cabe_source_close(source);
}

static void survives_truncation_anywhere(void **state)
{
    struct bytes b = {0};
    struct cabe_source *source;

    (void)state;
    make_small(&b, 3);
    for (size_t n = 0; n < b.n; n++) {
        struct bytes cut = {.data = b.data, .n = n};

        assert_int_not_equal(open_bytes(&source, &cut, NULL), CABE_OK);
    }
    bytes_clear(&b);
}

static void survives_flipped_bits(void **state)
{
    struct bytes b = {0};

    (void)state;
    make_small(&b, 3);
    for (size_t i = 0; i < b.n - 240; i++)
        for (int bit = 0; bit < 8; bit++) {
            b.data[i] ^= (uint8_t)(1 << bit);
            exercise(b.data, b.n);
            b.data[i] ^= (uint8_t)(1 << bit);
        }
    bytes_clear(&b);
}

static void survives_refused_memory(void **state)
{
    struct bytes b = {0};
    struct cabe_source *source = NULL;
    struct cabe_error err;
    enum cabe_status status = CABE_ERR_OOM;

    (void)state;
    make_small(&b, 3);
    for (uint64_t n = 1; status != CABE_OK; n++) {
        assert_true(n < 1000);
        cabe_memory_fail_at(n);
        status = open_bytes(&source, &b, &err);
        if (status == CABE_OK)
            status = cabe_source_array_load(source, "words", &err);
        cabe_memory_fail_at(0);
        if (status != CABE_OK)
            assert_int_equal(status, CABE_ERR_OOM);
        cabe_source_close(source);
        source = NULL;
    }
    bytes_clear(&b);
}

static void notices_a_file_that_shrinks(void **state)
{
    struct bytes b = {0};
    struct cabe_source *source;
    struct cabe_error err;
    char path[64], bytes[16];
    const char *text;
    size_t n;
    int fd;

    (void)state;
    make_small(&b, 3);
    fd = memory_file(b.data, b.n, path);
    assert_int_equal(cabe_source_open(&source, path, NULL), CABE_OK);
    assert_int_equal(ftruncate(fd, (off_t)b.n - 1), 0);
    assert_int_equal(cabe_source_read(source, cabe_source_find(source, "m"), 0, 8, bytes, &err), CABE_ERR_CHANGED);
    assert_int_equal(cabe_source_array_load(source, "words", &err), CABE_ERR_CHANGED);
    assert_false(cabe_source_array_string(source, "words", 0, &text, &n));
    cabe_source_close(source);
    close(fd);
    bytes_clear(&b);
}

/* One thread reads the array from the file, all read it from memory. */
static void *read_words(void *source)
{
    const char *text;
    size_t n;

    for (uint64_t i = 0; i < 2000; i++)
        if (!cabe_source_array_string(source, i % 2 ? "words" : "names", i / 2 % 20, &text, &n) || text[n - 1] < '0')
            return source;
    return NULL;
}

static void reads_from_many_threads(void **state)
{
    struct bytes b = {0};

    (void)state;
    gguf_begin(&b, 3, 0, 2);
    for (int a = 0; a < 2; a++) {
        gguf_key_array(&b, a ? "words" : "names", 8, 20);
        for (int i = 0; i < 20; i++)
            put_text(&b, a ? "word7" : "n1");
    }
    for (int round = 0; round < 8; round++) {
        struct cabe_source *source;
        pthread_t thread[4];

        assert_int_equal(open_bytes(&source, &b, NULL), CABE_OK);
        for (int i = 0; i < 4; i++)
            assert_int_equal(pthread_create(&thread[i], NULL, read_words, source), 0);
        for (int i = 0; i < 4; i++) {
            void *failed;

            assert_int_equal(pthread_join(thread[i], &failed), 0);
            assert_null(failed);
        }
        cabe_source_close(source);
    }
    bytes_clear(&b);
}

/* The identity and the hash follow the content. */
static void tells_contents_apart(void **state)
{
    struct cabe_source_identity identity;
    struct cabe_source *source;
    struct bytes b = {0};
    uint8_t hashes[3][16];

    (void)state;
    make_small(&b, 3);
    for (int i = 0; i < 3; i++) {
        b.data[b.n - 1] = (uint8_t)(i == 2);
        assert_int_equal(open_bytes(&source, &b, NULL), CABE_OK);
        cabe_source_identity(source, &identity);
        assert_int_equal(identity.bytes, b.n);
        assert_true(identity.mtime_ns != 0);
        cabe_source_close(source);
        {
            char path[64];
            int fd = memory_file(b.data, b.n, path);

            assert_int_equal(cabe_source_open(&source, path, NULL), CABE_OK);
            assert_int_equal(cabe_source_hash(source, hashes[i], NULL), CABE_OK);
            cabe_source_close(source);
            close(fd);
        }
    }
    assert_memory_equal(hashes[0], hashes[1], 16);
    assert_memory_not_equal(hashes[0], hashes[2], 16);
    bytes_clear(&b);
}

static void opens_real_files(void **state)
{
    static const char *const paths[] = {
        "../shared/data/emb-e5-small/multilingual-e5-small-q4_0.gguf",
        "../shared/data/gguf-vocab/ggml-vocab-bert-bge.gguf",
        "../shared/data/gguf-vocab/ggml-vocab-llama-spm.gguf",
        "../shared/data/llm-random-gguf/llama-2-tiny-random.gguf",
        "../shared/data/sd-taesd/taesd-decoder.gguf",
    };

    (void)state;
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        struct cabe_source *source;
        struct cabe_error err = {0};
        uint64_t begin = cabe_clock_ns(), n, sum = 0;
        const char *text;
        size_t bytes;

        if (access(paths[i], R_OK) != 0) {
            printf("skip: %s is not here\n", paths[i]);
            continue;
        }
        if (cabe_source_open(&source, paths[i], &err) != CABE_OK)
            fail_msg("%s", err.text);
        printf("%s: %zu tensors, opened in %.2f ms\n", strrchr(paths[i], '/') + 1, cabe_source_n_tensors(source),
               (double)(cabe_clock_ns() - begin) / 1e6);
        begin = cabe_clock_ns();
        if (cabe_source_get_array(source, "tokenizer.ggml.tokens", &n)) {
            for (uint64_t k = 0; k < n; k++) {
                assert_true(cabe_source_array_string(source, "tokenizer.ggml.tokens", k, &text, &bytes));
                sum += bytes;
            }
            printf("  %llu tokens of %llu bytes in %.2f ms\n", (unsigned long long)n, (unsigned long long)sum,
                   (double)(cabe_clock_ns() - begin) / 1e6);
        }
        cabe_source_close(source);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_kind_of_value),   cmocka_unit_test(refuses_strange_headers),
        cmocka_unit_test(refuses_strange_metadata),    cmocka_unit_test(survives_truncation_anywhere),
        cmocka_unit_test(survives_flipped_bits),       cmocka_unit_test(survives_refused_memory),
        cmocka_unit_test(notices_a_file_that_shrinks), cmocka_unit_test(tells_contents_apart),
        cmocka_unit_test(reads_from_many_threads),     cmocka_unit_test(opens_real_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
