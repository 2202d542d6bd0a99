/*
 * The row kernels' cases: a level against scalar within the bounds of kernel/rows.h, over lengths
 * with tails, unaligned pointers, extreme values and guard bytes. Shared by rows_test.c and the
 * emulated run.
 */
#ifndef CABE_TESTS_ROWS_CASES_H
#define CABE_TESTS_ROWS_CASES_H

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "kernel/levels.h"

#define ROOM_BYTES (1u << 22)
#define GUARD 0xA5

static const int64_t lengths[] = {0,  1,  2,  3,  4,  7,  8,   9,   15,  16,   17,
                                  31, 32, 33, 63, 64, 65, 100, 384, 385, 1000, 1536};
#define N_LENGTHS (sizeof lengths / sizeof lengths[0])

static const struct cabe_row_kernels *under_test;
static const char *level_name;
static uint64_t seed, random_state;

static uint32_t random_u32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}

static float random_unit(void) /* -1 .. 1 */
{
    return (float)((double)random_u32() / 2147483648.0 - 1.0);
}

static float random_normal(void)
{
    float sum = 0.0f;

    for (int i = 0; i < 6; i++)
        sum += random_unit();
    return sum * 0.7071f;
}

static void seed_from_environment(void)
{
    const char *text = getenv("CABE_SEED");

    seed = text ? strtoull(text, NULL, 10) : (uint64_t)time(NULL);
    random_state = seed * 2654435761u + 88172645463325252u;
    printf("rows: seed %llu (CABE_SEED repeats it)\n", (unsigned long long)seed);
}

/* Blocks with guard bytes around `bytes`, `shift` bytes off an aligned address. */
struct block {
    uint8_t *memory, *data;
    size_t bytes;
};

static struct block block_new(size_t bytes, size_t shift)
{
    struct block b = {.memory = NULL, .data = NULL, .bytes = bytes};

    assert_int_equal(posix_memalign((void **)&b.memory, 64, bytes + 256), 0);
    memset(b.memory, GUARD, bytes + 256);
    b.data = b.memory + 64 + shift;
    return b;
}

static void block_check(const struct block *b, const char *what)
{
    for (uint8_t *p = b->memory; p < b->memory + b->bytes + 256; p++)
        if ((p < b->data || p >= b->data + b->bytes) && *p != GUARD)
            fail_msg("%s %s: byte %td outside the output was written", level_name, what,
                     p - b->data);
}

static void block_free(struct block *b)
{
    free(b->memory);
}

static float *floats_new(int64_t n, float (*next)(void))
{
    float *x = malloc(((size_t)n + 1) * sizeof *x);

    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = next();
    return x;
}

static float any_float(void)
{
    static const float odd[] = {
        0.0f,      -0.0f,    1.0f,      -1.0f,      0.5f,     127.0f,       -128.0f,
        FLT_MIN,   -FLT_MIN, 0x1p-149f, -0x1p-140f, 65504.0f, 65519.9f,     65520.0f,
        -65536.0f, 0x1p-24f, 0x1p-25f,  0x1.8p-25f, 0x1p-14f, 0x1.ffcp-15f, FLT_MAX,
        -FLT_MAX,  INFINITY, -INFINITY, 3.14159f,   2.5f};

    switch (random_u32() % 4) {
    case 0:
        return odd[random_u32() % (sizeof odd / sizeof odd[0])];
    case 1:
        return random_unit() * 70000.0f;
    default:
        return ldexpf(random_unit(), (int)(random_u32() % 60) - 40);
    }
}

static float any_bits(void)
{
    uint32_t bits = random_u32();
    float x;

    memcpy(&x, &bits, sizeof x);
    return random_u32() % 2 ? any_float() : x;
}

static void same_bits(const char *what, const void *got, const void *want, size_t bytes, int64_t n)
{
    const uint8_t *g = got, *w = want;

    for (size_t i = 0; i < bytes; i++)
        if (g[i] != w[i])
            fail_msg("%s %s, n = %lld: byte %zu is %02x, scalar %02x (seed %llu)", level_name, what,
                     (long long)n, i, g[i], w[i], (unsigned long long)seed);
}

static void near(const char *what, float got, float want, double bound, int64_t n, int64_t i)
{
    if (isnan(want)   ? isnan(got)
        : isinf(want) ? got == want
                      : fabs((double)got - (double)want) <= bound)
        return;
    fail_msg("%s %s, n = %lld: element %lld is %.9g, scalar %.9g, bound %.3g (seed %llu)",
             level_name, what, (long long)n, (long long)i, (double)got, (double)want, bound,
             (unsigned long long)seed);
}

static void conversions(void **state)
{
    static const enum cabe_dtype both[] = {CABE_F32, CABE_F16, CABE_BF16, CABE_Q8_0, CABE_Q4_0};

    (void)state;
    for (size_t d = 0; d < sizeof both / sizeof both[0]; d++)
        for (size_t l = 0; l < N_LENGTHS; l++)
            for (size_t shift = 0; shift < 16; shift += 4) {
                int64_t n = lengths[l] / cabe_dtype_block(both[d]) * cabe_dtype_block(both[d]);
                size_t bytes = (size_t)cabe_dtype_bytes(both[d], n);
                int blocks = cabe_dtype_block(both[d]) > 1;
                float *x = floats_new(n, blocks ? random_normal : any_bits);
                struct block got = block_new(bytes, shift / 2), want = block_new(bytes, 0);
                struct block wide = block_new((size_t)n * 4, shift),
                             wide_want = block_new((size_t)n * 4, 0);

                if (blocks && n > 0) {
                    x[random_u32() % (uint64_t)n] = 0x1p-130f;
                    if (shift == 4)
                        memset(x, 0, 32 * sizeof *x);
                    if (shift == 8)
                        for (int64_t i = 0; i < n; i++)
                            x[i] = (float)((int)(random_u32() % 512) - 256) * 0.5f; /* ties */
                    if (shift == 12)
                        for (int64_t i = 0; i < n; i++)
                            x[i] *= 0x1p-126f;
                }
                under_test->from_f32(both[d], x, got.data, n);
                cabe_rows_scalar.from_f32(both[d], x, want.data, n);
                block_check(&got, "from_f32");
                same_bits(cabe_dtype_name(both[d]), got.data, want.data, bytes, n);

                if (both[d] == CABE_F16) /* every bit pattern there is, in turn */
                    for (size_t i = 0; i < bytes; i++)
                        want.data[i] = (uint8_t)random_u32();
                memcpy(got.data, want.data, bytes);
                under_test->to_f32(both[d], got.data, (float *)(void *)wide.data, n);
                cabe_rows_scalar.to_f32(both[d], want.data, (float *)(void *)wide_want.data, n);
                block_check(&wide, "to_f32");
                same_bits(cabe_dtype_name(both[d]), wide.data, wide_want.data, (size_t)n * 4, n);
                block_free(&got);
                block_free(&want);
                block_free(&wide);
                block_free(&wide_want);
                free(x);
            }
}

/* Blocks that are read only: any bytes, with scales that are numbers. */
static void random_blocks(enum cabe_dtype dtype, uint8_t *out, int64_t n_blocks)
{
    int64_t bytes = (int64_t)cabe_dtype_bytes(dtype, cabe_dtype_block(dtype));

    for (int64_t i = 0; i < n_blocks * bytes; i++)
        out[i] = (uint8_t)random_u32();
    for (int64_t b = 0; b < n_blocks; b++)
        for (int scale = 0; scale < (dtype == CABE_Q6_K ? 1 : 2); scale++) {
            uint16_t bits = random_u32() % 8 ? cabe_f32_to_f16(random_normal() * 0.01f)
                                             : (uint16_t)(random_u32() & 0x83FF); /* subnormal */

            memcpy(out + b * bytes + (dtype == CABE_Q6_K ? 208 : 2 * scale), &bits, sizeof bits);
        }
}

static const enum cabe_dtype read_only[] = {CABE_Q4_1, CABE_Q4_K, CABE_Q6_K};
#define N_READ_ONLY (sizeof read_only / sizeof read_only[0])

static void super_blocks(void **state)
{
    (void)state;
    for (size_t d = 0; d < N_READ_ONLY; d++)
        for (int64_t n_blocks = 0; n_blocks < 40; n_blocks++) {
            int64_t n = n_blocks * cabe_dtype_block(read_only[d]);
            size_t bytes = (size_t)cabe_dtype_bytes(read_only[d], n);
            struct block in = block_new(bytes, (size_t)n_blocks % 16),
                         got = block_new((size_t)n * 4, 4);
            float *want = floats_new(n, random_unit);

            random_blocks(read_only[d], in.data, n_blocks);
            under_test->to_f32(read_only[d], in.data, (float *)(void *)got.data, n);
            cabe_rows_scalar.to_f32(read_only[d], in.data, want, n);
            block_check(&got, "to_f32");
            same_bits(cabe_dtype_name(read_only[d]), got.data, want, (size_t)n * 4, n);
            block_free(&in);
            block_free(&got);
            free(want);
        }
}

static void every_half(void **state)
{
    uint16_t *bits = malloc(65536 * sizeof *bits), back[8];
    float *x = malloc(65536 * sizeof *x);

    (void)state;
    for (uint32_t i = 0; i < 65536; i++)
        bits[i] = (uint16_t)i;
    for (int d = CABE_F16; d <= CABE_BF16; d++) {
        under_test->to_f32((enum cabe_dtype)d, bits, x, 65536);
        for (uint32_t i = 0; i < 65536; i++) {
            float want =
                d == CABE_F16 ? cabe_f16_to_f32((uint16_t)i) : cabe_bf16_to_f32((uint16_t)i);

            same_bits("half", &x[i], &want, 4, (int64_t)i);
            if (i % 8 == 7 && !isnan(want)) {
                under_test->from_f32((enum cabe_dtype)d, x + i - 7, back, 8);
                same_bits("back to half", &back[7], &bits[i], 2, (int64_t)i);
            }
        }
    }
    free(bits);
    free(x);
}

static void small_integers(void **state)
{
    static const enum cabe_dtype others[] = {CABE_I8, CABE_U8, CABE_I32, CABE_I64, CABE_F64};
    uint64_t raw[64];
    float got[40], want[40];

    (void)state;
    for (size_t d = 0; d < sizeof others / sizeof others[0]; d++)
        for (int64_t n = 0; n < 40; n++) {
            for (size_t i = 0; i < 64; i++)
                raw[i] = (uint64_t)random_u32() << 32 | random_u32();
            if (others[d] == CABE_F64)
                for (size_t i = 0; i < 64; i++) {
                    double x = (double)random_normal();

                    memcpy(&raw[i], &x, sizeof x);
                }
            memset(got, GUARD, sizeof got);
            memset(want, GUARD, sizeof want);
            under_test->to_f32(others[d], raw, got, n);
            cabe_rows_scalar.to_f32(others[d], raw, want, n);
            same_bits(cabe_dtype_name(others[d]), got, want, sizeof got, n);
        }
}

static void to_int8(void **state)
{
    (void)state;
    for (size_t l = 0; l < N_LENGTHS; l++)
        for (int kind = 0; kind < 6; kind++) {
            int64_t n = lengths[l];
            float *x = floats_new(n, kind < 3 ? random_normal : any_float), a, b;
            struct block got = block_new((size_t)n, 3), want = block_new((size_t)n, 0);

            for (int64_t i = 0; i < n; i++)
                x[i] *= kind == 1 ? 0x1p-105f : kind == 2 ? 0x1p100f : 1.0f;
            if (kind == 4 && n)
                x[random_u32() % (uint64_t)n] = NAN;
            if (kind == 5)
                memset(x, 0, (size_t)n * sizeof *x);
            a = under_test->to_i8(x, (int8_t *)got.data, n);
            b = cabe_rows_scalar.to_i8(x, (int8_t *)want.data, n);
            block_check(&got, "to_i8");
            same_bits("to_i8 scale", &a, &b, 4, n);
            same_bits("to_i8", got.data, want.data, (size_t)n, n);
            for (int64_t i = 0; i < n; i++) {
                assert_true((int8_t)got.data[i] >= -127);
                assert_true(isfinite(x[i]) || isnan(a));
            }
            if (isfinite(a)) {
                struct block wide = block_new((size_t)n * 4, 4);

                under_test->from_i8((const int8_t *)got.data, a, (float *)(void *)wide.data, n);
                cabe_rows_scalar.from_i8((const int8_t *)want.data, a, x, n);
                block_check(&wide, "from_i8");
                same_bits("from_i8", wide.data, x, (size_t)n * 4, n);
                block_free(&wide);
            }
            block_free(&got);
            block_free(&want);
            free(x);
        }
}

/* How much a norm may enlarge the rounding of its input: near 1, unless the row's values are nearly
 * equal. */
static double norm_condition(const float *x, const float *r, int64_t c)
{
    double mean = 0, largest = 0, square = 0;

    for (int64_t i = 0; i < c; i++)
        mean += ((double)x[i] + (r ? (double)r[i] : 0)) / (double)c;
    for (int64_t i = 0; i < c; i++) {
        double value = (double)x[i] + (r ? (double)r[i] : 0);

        largest = fmax(largest, fabs(value));
        square += (value - mean) * (value - mean) / (double)c;
    }
    return 1 + largest / sqrt(square + 1e-5);
}

static void norms(void **state)
{
    (void)state;
    for (size_t l = 1; l < N_LENGTHS; l++)
        for (int kind = 0; kind < 16; kind++) {
            int64_t c = lengths[l], rows = 3;
            enum cabe_norm norm = kind & 1 ? CABE_NORM_RMS : CABE_NORM_LAYER;
            float *x = floats_new(rows * c, random_normal),
                  *r = floats_new(rows * c, random_normal);
            float *g = floats_new(c, random_normal), *b = floats_new(c, random_normal);
            struct block got = block_new((size_t)(rows * c) * 4, 4),
                         want = block_new((size_t)(rows * c) * 4, 0);
            float *gf = (float *)(void *)got.data, *wf = (float *)(void *)want.data;

            if (kind & 8)
                for (int64_t i = 0; i < rows * c; i++)
                    x[i] *= 1000.0f;
            memcpy(gf, x, (size_t)(rows * c) * 4);
            memcpy(wf, x, (size_t)(rows * c) * 4);
            under_test->norm(norm, 1e-5f, gf, kind & 2 ? r : NULL, g, kind & 4 ? b : NULL, gf, c, 1,
                             rows);
            cabe_rows_scalar.norm(norm, 1e-5f, x, kind & 2 ? r : NULL, g, kind & 4 ? b : NULL, wf,
                                  c, 1, rows);
            block_check(&got, "norm");
            same_bits("norm left row 0", gf, x, (size_t)c * 4, c);
            for (int64_t t = 1; t < rows; t++) {
                double largest = 1e-3,
                       bound = 2e-6 * norm_condition(x + t * c, kind & 2 ? r + t * c : NULL, c);

                for (int64_t i = 0; i < c; i++)
                    largest = fmax(largest, fabs((double)wf[t * c + i]));
                for (int64_t i = 0; i < c; i++)
                    near("norm", gf[t * c + i], wf[t * c + i], bound * largest, c, i);
            }
            block_free(&got);
            block_free(&want);
            free(x), free(r), free(g), free(b);
        }
}

static void activations(void **state)
{
    enum { N = 20011 };
    float *x = malloc(N * sizeof *x), *got = malloc((N + 1) * sizeof *got),
          *want = malloc(N * sizeof *want);

    (void)state;
    for (int act = CABE_ACT_NONE; act <= CABE_ACT_TANH; act++) {
        for (int i = 0; i < N; i++)
            x[i] =
                i < 16000 ? (float)(i - 8000) * 0.00125f : random_unit() * (i % 2 ? 200.0f : 1e-3f);
        x[N - 1] = 3e38f, x[N - 2] = -3e38f, x[N - 3] = 0.0f, x[N - 4] = 0x1p-140f;
        x[N - 5] = NAN, x[N - 6] = INFINITY; /* -inf * 0 is the C library's matter */
        got[N] = 42.0f;
        under_test->act((enum cabe_act)act, x, got, N);
        cabe_rows_scalar.act((enum cabe_act)act, x, want, N);
        assert_true(got[N] == 42.0f);
        for (int i = 0; i < N; i++)
            near("act", got[i], want[i], 2e-6 + 2e-6 * fabs((double)want[i]), act, i);
        for (int64_t n = 0; n < 40; n++) { /* tails give what whole vectors give; in place */
            float copy[41];

            memcpy(copy, x + 8000, sizeof copy);
            under_test->act((enum cabe_act)act, copy, copy, n);
            same_bits("act tail", copy, got + 8000, (size_t)n * 4, n);
            same_bits("act past the end", copy + n, x + 8000 + n, (size_t)(41 - n) * 4, n);
        }
    }
    free(x), free(got), free(want);
}

static void gated(void **state)
{
    static const enum cabe_act acts[] = {CABE_ACT_NONE, CABE_ACT_SILU, CABE_ACT_GELU_TANH,
                                         CABE_ACT_GELU_ERF};

    (void)state;
    for (size_t l = 0; l < N_LENGTHS; l++)
        for (size_t a = 0; a < sizeof acts / sizeof acts[0]; a++)
            for (int in_place = 0; in_place < 3; in_place++) {
                int64_t n = lengths[l];
                float *gate = floats_new(n, random_normal), *up = floats_new(n, random_normal);
                float *want = floats_new(n, random_unit);
                struct block got = block_new((size_t)n * 4, 4);
                float *out = (float *)(void *)got.data;

                cabe_rows_scalar.glu(acts[a], gate, up, want, n);
                if (n)
                    memcpy(out, in_place == 2 ? up : gate, (size_t)n * 4);
                under_test->glu(acts[a], in_place == 1 ? out : gate, in_place == 2 ? out : up, out,
                                n);
                block_check(&got, "glu");
                for (int64_t i = 0; i < n; i++) {
                    double factor = fabs((double)up[i]);

                    near("glu", out[i], want[i], factor * 2e-6 + 2.2e-6 * fabs((double)want[i]), n,
                         i);
                }
                block_free(&got);
                free(gate), free(up), free(want);
            }
}

/* q and k of random heads: turned as by scalar, the length of each pair kept, v left alone, in
 * place too. */
static void rotations(void **state)
{
    static const int32_t dims[][2] = {{2, 2},   {8, 8},   {16, 8},    {24, 24},
                                      {40, 20}, {48, 46}, {64, 64},   {64, 32},
                                      {80, 80}, {96, 0},  {128, 128}, {128, 66}};
    enum { T = 3 };
    static const int32_t positions[T] = {0, 7, 1000003};

    (void)state;
    for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++)
        for (int kind = 0; kind < 16; kind++) {
            int64_t dim = dims[d][0], n = dims[d][1] / 2,
                    row = 9 * dim; /* 5 heads, 2 of keys and values */
            float *x = floats_new(T * row, random_normal),
                  *gamma = floats_new(2 * dim, random_normal);
            float *want = floats_new(T * row, random_unit), *inv_freq = floats_new(n, random_unit);
            struct block got = block_new((size_t)(T * row) * 4, 4),
                         turn = block_new((size_t)(T * 2 * n) * 4, 4);
            float *angles = (float *)(void *)turn.data, *out = (float *)(void *)got.data;
            struct cabe_rope_heads heads = {.style =
                                                kind & 1 ? CABE_ROPE_HALVES : CABE_ROPE_ADJACENT,
                                            .n_heads = 5,
                                            .n_kv_heads = 2,
                                            .head_dim = (int32_t)dim,
                                            .n_rot = (int32_t)(2 * n),
                                            .q_gamma = kind & 2 ? gamma : NULL,
                                            .k_gamma = kind & 4 ? gamma + dim : NULL,
                                            .eps = 1e-6f};

            under_test->angles(positions, inv_freq, n, 1.0f, angles, 0, T);
            block_check(&turn, "angles");
            memcpy(want, x, (size_t)(T * row) * 4);
            memcpy(out, x, (size_t)(T * row) * 4);
            cabe_rows_scalar.rope(&heads, x, angles, want, 1, T);
            under_test->rope(&heads, kind & 8 ? out : x, angles, out, 1, T);
            block_check(&got, "rope");
            same_bits("rope left row 0", out, x, (size_t)row * 4, dim);
            for (int64_t h = 0; h < 9 * T; h++) {
                double largest = 1e-3;

                for (int64_t i = h * dim; i < (h + 1) * dim; i++)
                    largest = fmax(largest, fabs((double)want[i]));
                for (int64_t i = h * dim; i < (h + 1) * dim; i++)
                    near("rope", out[i], want[i], h % 9 >= 7 ? 0.0 : 2e-6 * largest, dim, i);
            }
            block_free(&got);
            block_free(&turn);
            free(x), free(gamma), free(want), free(inv_freq);
        }
}

static void sums(void **state)
{
    (void)state;
    for (size_t l = 0; l < N_LENGTHS; l++) {
        int64_t n = lengths[l];
        float *a = floats_new(n, any_float), *b = floats_new(n, any_float),
              *want = floats_new(n, random_unit);
        struct block got = block_new((size_t)n * 4, 4);
        uint32_t *found = malloc(((size_t)n + 1) * 4), *found_want = malloc(((size_t)n + 1) * 4);

        under_test->add(a, b, (float *)(void *)got.data, n);
        cabe_rows_scalar.add(a, b, want, n);
        for (int64_t i = 0; i < n; i++) /* inf - inf: any NaN */
            near("add", ((float *)(void *)got.data)[i], want[i], 0.0, n, i);
        under_test->mul(a, b, (float *)(void *)got.data, n);
        cabe_rows_scalar.mul(a, b, want, n);
        for (int64_t i = 0; i < n; i++)
            near("mul", ((float *)(void *)got.data)[i], want[i], 0.0, n, i);
        block_check(&got, "add, mul");
        for (int kind = 0; kind < 4; kind++) {
            float threshold = kind == 0 || n == 0 ? 0.0f
                              : kind == 1         ? a[n / 2]
                              : kind == 2         ? -INFINITY
                                                  : 1e30f;
            int64_t n_want = cabe_rows_scalar.scan_ge(a, n, threshold, found_want);

            if (n)
                a[n - 1] = NAN;
            n_want = cabe_rows_scalar.scan_ge(a, n, threshold, found_want);
            found[n] = 42;
            assert_int_equal(under_test->scan_ge(a, n, threshold, found), n_want);
            assert_true(n_want == n || found[n] == 42);
            same_bits("scan_ge", found, found_want, (size_t)n_want * 4, n);
        }
        block_free(&got);
        free(a), free(b), free(want), free(found), free(found_want);
    }
}

static void gathers(void **state)
{
    static const enum cabe_dtype dtypes[] = {CABE_F32,  CABE_F16,  CABE_BF16, CABE_I8,  CABE_Q8_0,
                                             CABE_Q4_0, CABE_Q4_1, CABE_Q4_K, CABE_Q6_K};
    enum { V = 7, T = 9 };
    int32_t ids[T];

    (void)state;
    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++)
        for (size_t l = 0; l < N_LENGTHS; l++)
            for (int scaled = 0; scaled < 2; scaled++) {
                int64_t c = lengths[l] / cabe_dtype_block(dtypes[d]) * cabe_dtype_block(dtypes[d]);
                size_t row_bytes = (size_t)cabe_dtype_bytes(dtypes[d], c);
                uint8_t *table = calloc(V, row_bytes + 4);
                float *scale = floats_new(V, random_unit), *row = floats_new(c, random_unit);
                float *want = floats_new(T * c, random_unit);
                struct block got = block_new((size_t)(T * c) * 4, 8);

                for (int v = 0; v < V; v++) {
                    for (int64_t i = 0; i < c; i++)
                        row[i] = random_normal();
                    if (dtypes[d] == CABE_I8) {
                        float s =
                            cabe_rows_scalar.to_i8(row, (int8_t *)table + (size_t)v * row_bytes, c);

                        memcpy(table + V * row_bytes + (size_t)v * 4, &s, 4);
                    } else if (dtypes[d] >= CABE_Q4_1) {
                        random_blocks(dtypes[d], table + (size_t)v * row_bytes,
                                      c / cabe_dtype_block(dtypes[d]));
                    } else {
                        cabe_rows_scalar.from_f32(dtypes[d], row, table + (size_t)v * row_bytes, c);
                    }
                }
                for (int t = 0; t < T; t++)
                    ids[t] = (int32_t)(random_u32() % V);
                memcpy(got.data, want, (size_t)(T * c) * 4);
                under_test->gather(dtypes[d], table, V, c, ids, scaled ? scale : NULL,
                                   (float *)(void *)got.data, 2, T);
                cabe_rows_scalar.gather(dtypes[d], table, V, c, ids, scaled ? scale : NULL, want, 2,
                                        T);
                block_check(&got, "gather");
                same_bits(cabe_dtype_name(dtypes[d]), got.data, want, (size_t)(T * c) * 4, c);
                block_free(&got);
                free(table), free(scale), free(row), free(want);
            }
}

static void pools(void **state)
{
    static const int32_t offsets[] = {0, 1, 1, 4, 9, 40};
    enum { S = 5, T = 40 };

    (void)state;
    for (size_t l = 0; l < N_LENGTHS; l++)
        for (int kind = 0; kind < 6; kind++) {
            int64_t c = lengths[l];
            float *x = floats_new(T * c, random_normal), *w = floats_new(T, random_unit);
            float *want = floats_new(S * c, random_unit);
            struct block got = block_new((size_t)(S * c) * 4, 4);
            float *gf = (float *)(void *)got.data;

            memset(w + 4, 0, 5 * sizeof *w); /* sequence 3 weighs nothing */
            memcpy(gf, want, (size_t)(S * c) * 4);
            under_test->pool((enum cabe_pooling)(kind % 3), x, offsets, kind > 2 ? w : NULL, c, gf, 0,
                             S);
            cabe_rows_scalar.pool((enum cabe_pooling)(kind % 3), x, offsets, kind > 2 ? w : NULL, c,
                                  want, 0, S);
            block_check(&got, "pool");
            same_bits("pool", gf, want, (size_t)(S * c) * 4, c);

            if (c)
                memset(want, 0, (size_t)c * sizeof *want);
            memcpy(gf, want, (size_t)(S * c) * 4);
            under_test->unit(1e-12f, gf, gf, c, 0, S);
            cabe_rows_scalar.unit(1e-12f, want, want, c, 0, S);
            block_check(&got, "unit");
            for (int64_t i = 0; i < S * c; i++)
                near("unit", gf[i], want[i], 1e-6 * fabs((double)want[i]), c, i);
            block_free(&got);
            free(x), free(w), free(want);
        }
}

static void attentions(void **state)
{
    static const int64_t rows[] = {0,  1,  2,   3,   4,   5,   15,  16, 17,
                                   32, 33, 100, 127, 128, 129, 257, 300};
    static const int64_t dims[] = {4, 8, 12, 16, 20, 32, 40, 64, 80, 128};

    (void)state;
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++)
        for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++)
            for (int kind = 0; kind < 4; kind++) {
                int64_t n = rows[r], dim = dims[d], stride = 3 * dim + 4;
                float *qkv = floats_new(n * stride, random_normal),
                      *want = floats_new(n * dim, random_unit);
                struct block got = block_new((size_t)(n * dim) * 4, 4);
                uint64_t bytes = cabe_attention_scratch_bytes(n, dim);
                struct block scratch = block_new((size_t)bytes, 0);
                float scale = (kind & 2 ? 4.0f : 1.0f) / sqrtf((float)dim), largest = 0.0f;

                if (n > 300 && dim > 32)
                    n = 0;
                if (kind &
                    2) /* sharp: scores near the bound's range, rising so that the largest moves */
                    for (int64_t i = 0; i < n; i++)
                        for (int64_t j = 0; j < dim; j++)
                            qkv[i * stride + dim + j] *= (float)i / (float)n;
                for (int64_t i = 0; i < n; i++)
                    for (int64_t j = 0; j < dim; j++)
                        largest = fmaxf(largest, fabsf(qkv[i * stride + 2 * dim + j]));
                under_test->attention(qkv, qkv + dim, qkv + 2 * dim, stride, n, dim, scale,
                                      kind & 1 ? CABE_MASK_CAUSAL : CABE_MASK_NONE,
                                      (float *)(void *)got.data, dim, scratch.data);
                block_check(&got, "attention");
                block_check(&scratch, "attention scratch");
                cabe_rows_scalar.attention(qkv, qkv + dim, qkv + 2 * dim, stride, n, dim, scale,
                                           kind & 1 ? CABE_MASK_CAUSAL : CABE_MASK_NONE, want, dim,
                                           scratch.data);
                block_check(&scratch, "attention scratch");
                for (int64_t i = 0; i < n * dim; i++)
                    near("attention", ((float *)(void *)got.data)[i], want[i],
                         4e-6 * (double)largest, n, i);
                block_free(&got);
                block_free(&scratch);
                free(qkv), free(want);
            }
}

/* A NaN in one row of x stays in what depends on that row. */
static void nan_stays(void **state)
{
    enum { C = 48 };
    float x[3 * C], out[3 * C], gamma[C];
    int32_t offsets[] = {0, 1, 2, 3};

    (void)state;
    for (int i = 0; i < 3 * C; i++)
        x[i] = random_normal();
    for (int i = 0; i < C; i++)
        gamma[i] = 1.0f;
    x[C + 5] = NAN;
    under_test->norm(CABE_NORM_LAYER, 1e-5f, x, NULL, gamma, NULL, out, C, 0, 3);
    assert_true(isfinite(out[0]) && isnan(out[C]) && isnan(out[2 * C - 1]) && isfinite(out[2 * C]));
    under_test->unit(1e-12f, x, out, C, 0, 3);
    assert_true(isfinite(out[0]) && isnan(out[C]) && isnan(out[2 * C - 1]) && isfinite(out[2 * C]));
    under_test->pool(CABE_POOL_MEAN, x, offsets, NULL, C, out, 0, 3);
    assert_true(isfinite(out[0]) && isnan(out[C + 5]) && isfinite(out[C + 6]) &&
                isfinite(out[2 * C]));
}

static int run_cases(const struct cabe_row_kernels *level, const char *name)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conversions),    cmocka_unit_test(every_half),
        cmocka_unit_test(small_integers), cmocka_unit_test(to_int8),
        cmocka_unit_test(norms),          cmocka_unit_test(activations),
        cmocka_unit_test(sums),           cmocka_unit_test(gathers),
        cmocka_unit_test(pools),          cmocka_unit_test(attentions),
        cmocka_unit_test(nan_stays),      cmocka_unit_test(gated),
        cmocka_unit_test(rotations),      cmocka_unit_test(super_blocks),
    };

    under_test = level;
    level_name = name;
    printf("rows: level %s\n", name);
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

#endif
