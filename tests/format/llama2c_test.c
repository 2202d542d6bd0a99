/* llama2.c checkpoints: no magic number, so the size decides. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/memory.h"
#include "format/source.h"

static struct cabe_error err;
static char folder[] = "/tmp/cabe-llama2c-XXXXXX";
static char model[80], tokenizer[80];

static void write_file(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

/* width 16, inner 24, 2 layers, 2 heads, 1 of keys, 10 tokens, 8 positions; then f32 that count up. */
static const int32_t plain[7] = {16, 24, 2, 2, 1, 10, 8};
#define LAYER (16 + 16 * 16 + 8 * 16 + 8 * 16 + 16 * 16 + 16 + 3 * 16 * 24)
#define N_PLAIN (10 * 16 + 2 * LAYER + 16 + 8 * 8)

static void write_model(const int32_t header[7], size_t n)
{
    static float values[N_PLAIN + 10 * 16];
    FILE *file = fopen(model, "wb");

    assert_true(n <= sizeof values / sizeof values[0]);
    for (size_t i = 0; i < n; i++)
        values[i] = (float)i;
    assert_non_null(file);
    assert_int_equal(fwrite(header, 4, 7, file), 7);
    assert_int_equal(fwrite(values, 4, n, file), n);
    assert_int_equal(fclose(file), 0);
}

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(model, sizeof model, "%s/model.bin", folder);
    snprintf(tokenizer, sizeof tokenizer, "%s/tok10.bin", folder);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(model);
    unlink(tokenizer);
    return rmdir(folder);
}

static void expect(const struct cabe_source *source, const char *name, int64_t rows, int64_t cols, float first)
{
    const struct cabe_source_tensor *tensor = cabe_source_find(source, name);
    float value;

    assert_non_null(tensor);
    assert_int_equal(tensor->shape[2], rows);
    assert_int_equal(tensor->shape[3], cols);
    assert_int_equal(tensor->bytes, rows * cols * 4);
    assert_int_equal(cabe_source_read(source, tensor, 0, 4, &value, &err), CABE_OK);
    assert_true(value == first);
}

static void reads_what_is_there(void **state)
{
    struct cabe_source_summary summary;
    struct cabe_source *source;
    int64_t value = 0;
    size_t bytes;
    void *file;

    (void)state;
    write_model(plain, N_PLAIN);
    write_file(tokenizer, "tokens", 6);
    assert_int_equal(cabe_source_open(&source, model, &err), CABE_OK);
    assert_int_equal(cabe_source_kind(source), CABE_SOURCE_LLAMA2C);
    assert_int_equal(cabe_source_n_tensors(source), 2 + 2 * 9);
    expect(source, "token_embd.weight", 10, 16, 0);
    expect(source, "blk.0.attn_norm.weight", 1, 16, 160);
    expect(source, "blk.1.attn_norm.weight", 1, 16, 176);
    expect(source, "blk.1.attn_q.weight", 16, 16, 160 + 2 * 16 + 256);
    expect(source, "blk.0.attn_k.weight", 8, 16, 160 + 2 * 16 + 2 * 256);
    expect(source, "blk.1.ffn_down.weight", 16, 24, 160 + 2 * (LAYER - 16 * 24) - 16 * 24);
    expect(source, "output_norm.weight", 1, 16, 160 + 2 * LAYER);
    assert_null(cabe_source_find(source, "output.weight"));
    assert_int_equal(cabe_source_get_i64(source, "llama.attention.head_count_kv", &value), 1);
    assert_int_equal(value, 1);
    cabe_source_summarise(source, &summary);
    assert_string_equal(summary.format, "llama2.c");
    assert_string_equal(summary.architecture, "llama");
    assert_int_equal(cabe_source_tokenizer_file(source, &file, &bytes, &err), CABE_OK);
    assert_int_equal(bytes, 6);
    assert_memory_equal(file, "tokens", 6);
    cabe_free(file);
    cabe_source_close(source);
    unlink(tokenizer);
    assert_int_equal(cabe_source_open(&source, model, &err), CABE_OK);
    assert_int_equal(cabe_source_tokenizer_file(source, &file, &bytes, &err), CABE_ERR_NOT_FOUND);
    cabe_source_close(source);
}

static void a_negative_vocabulary_has_a_head(void **state)
{
    int32_t header[7];
    struct cabe_source *source;

    (void)state;
    memcpy(header, plain, sizeof header);
    header[5] = -10;
    write_model(header, N_PLAIN + 160);
    assert_int_equal(cabe_source_open(&source, model, &err), CABE_OK);
    expect(source, "output.weight", 10, 16, N_PLAIN);
    cabe_source_close(source);
}

static void what_lies_is_refused(void **state)
{
    static const int32_t extremes[] = {INT32_MIN, -1, 0, INT32_MAX, 1 << 26};
    struct cabe_source *source;

    (void)state;
    write_model(plain, N_PLAIN - 1);
    assert_int_equal(cabe_source_open(&source, model, &err), CABE_ERR_FORMAT);
    assert_non_null(strstr(err.text, "llama2.c"));
    write_model(plain, N_PLAIN + 1);
    assert_int_equal(cabe_source_open(&source, model, &err), CABE_ERR_FORMAT);
    for (int field = 0; field < 7; field++)
        for (size_t i = 0; i < sizeof extremes / sizeof extremes[0]; i++) {
            int32_t header[7];

            memcpy(header, plain, sizeof header);
            header[field] = extremes[i];
            write_model(header, N_PLAIN);
            assert_int_equal(cabe_source_open(&source, model, &err), CABE_ERR_FORMAT);
            assert_null(source);
        }
}

static void every_allocation_may_fail(void **state)
{
    struct cabe_source *source;
    uint64_t n;

    (void)state;
    write_model(plain, N_PLAIN);
    write_file(tokenizer, "tokens", 6);
    n = cabe_memory_count();
    assert_int_equal(cabe_source_open(&source, model, &err), CABE_OK);
    cabe_source_close(source);
    n = cabe_memory_count() - n;
    for (uint64_t i = 1; i <= n; i++) {
        cabe_memory_fail_at(i);
        assert_int_equal(cabe_source_open(&source, model, &err), CABE_ERR_OOM);
        assert_null(source);
    }
    cabe_memory_fail_at(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_is_there),
        cmocka_unit_test(a_negative_vocabulary_has_a_head),
        cmocka_unit_test(what_lies_is_refused),
        cmocka_unit_test(every_allocation_may_fail),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
