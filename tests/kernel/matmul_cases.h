/*
 * The cases of matrix products: a level against scalar, bit by bit. Shared by matmul_test.c, which runs the levels
 * that this CPU has, and the emulated run of the levels that it lacks.
 */
#ifndef CABE_TESTS_MATMUL_CASES_H
#define CABE_TESTS_MATMUL_CASES_H

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

#include "base/memory.h"
#include "kernel/kernel.h"
#include "kernel/matmul_level.h"
#include "matmul_shapes.h"

#define GUARD 0xA5
#define GUARD_BYTES 256
#ifdef CABE_SIMD_EMULATED /* slower still, and the driver has been tested with the levels that are here */
#define WORK_MAX 8000
#define MANY_ROWS 29
#define MANY_OUTPUTS 70
#else
#define WORK_MAX 200000 /* multiply-adds of one case: scalar is slow */
#define MANY_ROWS 215
#define MANY_OUTPUTS 400
#endif

static const struct cabe_kernels *under_test, *scalar;
static uint64_t random_state;

static uint32_t random_u32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}

static float random_unit(void)
{
    return (float)((double)random_u32() / 2147483648.0 - 1.0);
}

static void seed_from_environment(void)
{
    const char *text = getenv("CABE_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 10) : (uint64_t)time(NULL);

    random_state = seed * 2654435761u + 88172645463325252u;
    printf("matmul: seed %llu (CABE_SEED repeats it)\n", (unsigned long long)seed);
}

/* `bytes` at `shift` off a multiple of 64, between guards. */
struct guarded {
    uint8_t *memory, *data;
    size_t bytes;
};

static struct guarded guarded_new(size_t bytes, size_t shift)
{
    struct guarded g = {.bytes = bytes};
    void *memory = NULL;

    assert_int_equal(posix_memalign(&memory, 64, bytes + 2 * GUARD_BYTES), 0);
    g.memory = memory;
    memset(g.memory, GUARD, bytes + 2 * GUARD_BYTES);
    g.data = g.memory + 64 + shift;
    return g;
}

static void guarded_free(struct guarded *g, const char *what)
{
    for (uint8_t *at = g->memory; at < g->memory + g->bytes + 2 * GUARD_BYTES; at++)
        if ((at < g->data || at >= g->data + g->bytes) && *at != GUARD)
            fail_msg("%s: byte %td outside was written", what, at - g->data);
    free(g->memory);
}

/* One product with everything it needs. */
struct product {
    struct cabe_matmul mm;
    struct guarded w, x, bias, residual, shared, scratch;
    float *source; /* the weights before packing, [n, k] */
};

enum values { RANDOM, EXTREME, TINY, ZEROS, N_VALUES };

static float value_of(enum values values, int64_t i)
{
    switch (values) {
    case RANDOM:
        return random_unit() * (random_u32() % 50 == 0 ? 20.0f : 1.0f);
    case EXTREME: /* only the ends of the range: the largest sums of integers */
        return i / 64 % 2 ? 127.0f : random_u32() % 4 ? -127.0f : 127.0f;
    case TINY: /* scales next to and below the smallest that count */
        return random_unit() * (i / 32 % 2 ? 0x1p-99f : 0x1p-130f);
    default:
        return 0.0f;
    }
}

static int only_from_blocks(enum cabe_dtype dtype)
{
    return dtype == CABE_Q4_1 || dtype == CABE_Q4_K || dtype == CABE_Q6_K;
}

/* Any bytes are blocks, but for the scales: finite, and mostly not tiny. */
static void random_blocks(enum cabe_dtype dtype, enum values values, int64_t n, uint8_t *out)
{
    const uint64_t bytes = cabe_dtype_bytes(dtype, cabe_dtype_block(dtype));
    const int n_scales = dtype == CABE_Q6_K ? 1 : 2;

    for (int64_t b = 0; b < n / cabe_dtype_block(dtype); b++, out += bytes) {
        uint8_t *scales = dtype == CABE_Q6_K ? out + 208 : out;

        uint8_t ends = (uint8_t)(random_u32() % 2 ? 0xFF : 0);

        for (uint64_t i = 0; i < bytes; i++) /* EXTREME: the ends of every range, whole blocks of them */
            out[i] = values != EXTREME ? (uint8_t)random_u32() : random_u32() % 64 ? ends : (uint8_t)~ends;
        for (int i = 0; values == EXTREME && dtype == CABE_Q6_K && i < 16; i++)
            out[192 + i] = (uint8_t)(random_u32() % 4 ? 0x80 : 0x7F);
        for (int i = 0; i < n_scales; i++) {
            uint16_t bits = cabe_f32_to_f16(random_unit() * (random_u32() % 8 ? 0.05f : 0x1p-20f));

            memcpy(scales + i * 2, &bits, sizeof bits);
        }
    }
}

static void pack_source(const float *source, enum cabe_dtype dtype, int64_t n, int64_t k, uint8_t *panels)
{
    struct guarded scratch = guarded_new((size_t)cabe_matmul_pack_scratch_bytes(k), 0);
    struct cabe_error err;

    if (cabe_matmul_pack(CABE_F32, source, n, dtype, k, 0, (n + 15) / 16, scratch.data, panels, &err) != CABE_OK)
        fail_msg("%s", err.text);
    guarded_free(&scratch, "pack scratch");
}

static void pack_random(enum cabe_dtype dtype, enum values values, int64_t n, int64_t k, uint8_t *panels)
{
    struct guarded scratch = guarded_new((size_t)cabe_matmul_pack_scratch_bytes(k), 0);
    struct guarded rows = guarded_new((size_t)cabe_dtype_bytes(dtype, n * k), 0);
    struct cabe_error err;

    random_blocks(dtype, values, n * k, rows.data);
    if (cabe_matmul_pack(dtype, rows.data, n, dtype, k, 0, (n + 15) / 16, scratch.data, panels, &err) != CABE_OK)
        fail_msg("%s", err.text);
    guarded_free(&scratch, "pack scratch");
    guarded_free(&rows, "blocks");
}

static struct product product_new(enum cabe_dtype dtype, int64_t t, int64_t n, int64_t k, enum values values,
                                  size_t shift, int with_bias, int with_residual)
{
    struct product p = {.mm = {.dtype = dtype, .t = t, .n = n, .k = k}};
    int64_t x_stride = k + (int64_t)(random_u32() % 5), out_stride = n + (int64_t)(random_u32() % 5);

    p.w = guarded_new((size_t)cabe_packed_bytes(dtype, CABE_PANELS, n, k), 0);
    p.x = guarded_new((size_t)(t * x_stride) * 4, shift);
    p.bias = guarded_new((size_t)n * 4, shift);
    p.residual = guarded_new((size_t)(t * out_stride) * 4, shift);
    p.shared = guarded_new((size_t)cabe_matmul_shared_bytes(under_test, t, k), 0);
    p.scratch = guarded_new((size_t)cabe_matmul_scratch_bytes(under_test, t, k), 0);
    p.source = calloc((size_t)(n * k + 1), sizeof(float));
    assert_non_null(p.source);
    for (int64_t i = 0; i < n * k; i++)
        p.source[i] = value_of(values == EXTREME ? EXTREME : RANDOM, i);
    for (int64_t i = 0; i < t * x_stride; i++)
        ((float *)(void *)p.x.data)[i] = value_of(values, i % (x_stride ? x_stride : 1));
    for (int64_t i = 0; i < n; i++)
        ((float *)(void *)p.bias.data)[i] = random_unit();
    for (int64_t i = 0; i < t * out_stride; i++)
        ((float *)(void *)p.residual.data)[i] = random_unit();
    if (only_from_blocks(dtype))
        pack_random(dtype, values, n, k, p.w.data);
    else
        pack_source(p.source, dtype, n, k, p.w.data);
    p.mm.w = p.w.data;
    p.mm.x = (const float *)(void *)p.x.data;
    p.mm.x_stride = x_stride;
    p.mm.out_stride = out_stride;
    p.mm.bias = with_bias ? (const float *)(void *)p.bias.data : NULL;
    p.mm.residual = with_residual ? (const float *)(void *)p.residual.data : NULL;
    return p;
}

static void product_free(struct product *p)
{
    guarded_free(&p->w, "weights");
    guarded_free(&p->x, "x");
    guarded_free(&p->bias, "bias");
    guarded_free(&p->residual, "residual");
    guarded_free(&p->shared, "shared");
    guarded_free(&p->scratch, "scratch");
    free(p->source);
}

/* The gaps between rows of out must stay as they were. */
static void product_run(const struct cabe_kernels *kernels, struct product *p, struct guarded *out)
{
    p->mm.out = (float *)(void *)out->data;
    memset(out->data, GUARD, out->bytes);
    memset(p->shared.data, 0x7F, p->shared.bytes);
    memset(p->scratch.data, 0x7F, p->scratch.bytes);
    cabe_matmul_prepare(kernels, &p->mm, p->shared.data, 0, p->mm.t);
    cabe_matmul_run(kernels, &p->mm, p->shared.data, p->scratch.data, 0, cabe_matmul_tiles(kernels, &p->mm));
    for (int64_t r = 0; r < p->mm.t; r++)
        for (int64_t i = p->mm.n * 4; i < p->mm.out_stride * 4; i++)
            assert_int_equal(out->data[r * p->mm.out_stride * 4 + i], GUARD);
}

static struct guarded out_new(const struct product *p, size_t shift)
{
    return guarded_new((size_t)(p->mm.t * p->mm.out_stride) * 4, shift);
}

static void describe(const struct product *p, const char *what)
{
    print_error("%s: %s %s precision %d, t %lld, n %lld, k %lld\n", under_test->name, what,
                cabe_dtype_name(p->mm.dtype), (int)p->mm.precision, (long long)p->mm.t, (long long)p->mm.n,
                (long long)p->mm.k);
}

static void same_bits(const struct product *p, const struct guarded *a, const struct guarded *b, const char *what)
{
    if (memcmp(a->data, b->data, a->bytes) == 0)
        return;
    describe(p, what);
    for (size_t i = 0; i < a->bytes / 4; i++)
        if (memcmp(a->data + i * 4, b->data + i * 4, 4) != 0)
            fail_msg("element %zu: %.9g, wanted %.9g", i, (double)((float *)(void *)a->data)[i],
                     (double)((float *)(void *)b->data)[i]);
}

/* A product by the level and by scalar. */
static void check_product(struct product *p, size_t shift)
{
    struct guarded got = out_new(p, shift), wanted = out_new(p, shift);
    uint64_t allocations = cabe_memory_count();

    product_run(under_test, p, &got);
    assert_int_equal(cabe_memory_count(), allocations);
    product_run(scalar, p, &wanted);
    same_bits(p, &got, &wanted, "product");
    guarded_free(&got, "out");
    guarded_free(&wanted, "out");
}

static void each_shape(enum values values)
{
    for (size_t d = 0; d < COUNT_OF(matmul_dtypes); d++)
        for (size_t t = 0; t < COUNT_OF(matmul_t); t++)
            for (size_t n = 0; n < COUNT_OF(matmul_n); n++)
                for (size_t k = 0; k < COUNT_OF(matmul_k); k++) {
                    size_t shift = random_u32() % 2 * 4;
                    struct product p;

                    if (!cabe_packed_ok(matmul_dtypes[d], CABE_PANELS, matmul_n[n], matmul_k[k]) ||
                        matmul_t[t] * matmul_n[n] * matmul_k[k] > WORK_MAX ||
                        (values != RANDOM && (matmul_t[t] > 7 || matmul_n[n] > 17)))
                        continue;
                    p = product_new(matmul_dtypes[d], matmul_t[t], matmul_n[n], matmul_k[k], values, shift,
                                    random_u32() % 2, random_u32() % 2);
                    for (int precision = 0; precision < 2; precision++) {
                        p.mm.precision = (enum cabe_precision)precision;
                        check_product(&p, shift);
                    }
                    product_free(&p);
                }
}

static void shapes(void **state)
{
    (void)state;
    for (int values = 0; values < N_VALUES; values++)
        each_shape((enum values)values);
}

/* Row blocks and panel groups, beyond one tile. */
static void many_tiles(void **state)
{
    (void)state;
    for (size_t d = 0; d < COUNT_OF(matmul_dtypes); d++)
        for (int precision = 0; precision < 2; precision++) {
            int64_t k = cabe_dtype_block(matmul_dtypes[d]) == 256 ? 768 : 608;
            struct product p = product_new(matmul_dtypes[d], MANY_ROWS, MANY_OUTPUTS / 3, k, RANDOM, 0, 1, 1);

            p.mm.precision = (enum cabe_precision)precision;
            check_product(&p, 0);
            product_free(&p);
        }
}

/* A quant of -128 exists in files only, and both ends of Q4_0. */
static void hostile_quants(void **state)
{
    static const int8_t quants[] = {-128, 127, -127, -1, 0};

    (void)state;
    for (size_t q = 0; q < COUNT_OF(quants); q++)
        for (int64_t t = 1; t <= 13; t++) {
            struct product p = product_new(CABE_Q8_0, t, 17, 96, EXTREME, 0, 0, 0);
            struct product p4 = product_new(CABE_Q4_0, t, 17, 96, EXTREME, 0, 0, 0);
            uint64_t at = cabe_panel_quants(CABE_Q8_0, 96), at4 = cabe_panel_quants(CABE_Q4_0, 96);

            for (uint64_t panel = 0; panel < 2; panel++) {
                memset(p.w.data + panel * cabe_panel_bytes(CABE_Q8_0, 96) + at, (uint8_t)quants[q], 16 * 96);
                memset(p4.w.data + panel * cabe_panel_bytes(CABE_Q4_0, 96) + at4, (uint8_t)quants[q], 8 * 96);
            }
            for (int precision = 0; precision < 2; precision++) {
                p.mm.precision = p4.mm.precision = (enum cabe_precision)precision;
                check_product(&p, 0);
                check_product(&p4, 0);
            }
            product_free(&p);
            product_free(&p4);
        }
}

/* What is not a number in a row of activations leaves no number in that row of the product, and no mark on others. */
static void not_a_number(void **state)
{
    const int64_t most = 9, outputs = 21;
    const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};

    (void)state;
    for (size_t d = 0; d < COUNT_OF(matmul_dtypes); d++)
        for (int precision = 0; precision < 2; precision++)
            for (int64_t rows = 1; rows <= most; rows += most - 1)
                for (int round = 0; round < 8; round++) {
                    int64_t k = 256 * (1 + (int64_t)(random_u32() % 3)), row = (int64_t)(random_u32() % (uint32_t)rows);
                    struct product p = product_new(matmul_dtypes[d], rows, outputs, k, RANDOM, 0, 0, 0);
                    struct guarded out = out_new(&p, 0);
                    const float *y = (const float *)(const void *)out.data;

                    p.mm.precision = (enum cabe_precision)precision;
                    ((float *)(void *)p.x.data)[row * p.mm.x_stride + random_u32() % (uint32_t)k] = bad[round % 4];
                    product_run(under_test, &p, &out);
                    for (int64_t r = 0; r < rows; r++)
                        for (int64_t j = 0; j < outputs; j++)
                            if ((isfinite(y[r * p.mm.out_stride + j]) != 0) == (r == row)) {
                                describe(&p, "not a number");
                                fail_msg("row %lld, output %lld is %g", (long long)r, (long long)j,
                                         (double)y[r * p.mm.out_stride + j]);
                            }
                    guarded_free(&out, "out");
                    product_free(&p);
                }
}

/* Each row alone gives what it gives among others, and so does each tile, in any order. */
static void rows_and_tiles(void **state)
{
    (void)state;
    for (size_t d = 0; d < COUNT_OF(matmul_dtypes); d++)
        for (int precision = 0; precision < 2; precision++) {
            int64_t k = cabe_dtype_block(matmul_dtypes[d]) == 256 ? 256 : 160;
            struct product p = product_new(matmul_dtypes[d], MANY_ROWS, MANY_OUTPUTS, k, RANDOM, 4, 1, 1);
            struct guarded all = out_new(&p, 0), some = out_new(&p, 0);
            int64_t tiles;

            p.mm.precision = (enum cabe_precision)precision;
            p.mm.act = CABE_ACT_GELU_ERF;
            product_run(under_test, &p, &all);
            memset(some.data, GUARD, some.bytes);
            for (int64_t r = 0; r < p.mm.t; r++) {
                struct cabe_matmul one = p.mm;

                one.t = 1;
                one.x += r * one.x_stride;
                one.residual += r * one.out_stride;
                one.out = (float *)(void *)some.data + r * one.out_stride;
                cabe_matmul_prepare(under_test, &one, p.shared.data, 0, 1);
                cabe_matmul_run(under_test, &one, p.shared.data, p.scratch.data, 0,
                                cabe_matmul_tiles(under_test, &one));
            }
            same_bits(&p, &some, &all, "rows one by one");

            memset(some.data, GUARD, some.bytes);
            p.mm.out = (float *)(void *)some.data;
            for (int64_t r = p.mm.t; r-- > 0;)
                cabe_matmul_prepare(under_test, &p.mm, p.shared.data, r, r + 1);
            tiles = cabe_matmul_tiles(under_test, &p.mm);
            assert_true(tiles > 1);
            for (int64_t tile = tiles; tile-- > 0;)
                cabe_matmul_run(under_test, &p.mm, p.shared.data, p.scratch.data, tile, tile + 1);
            same_bits(&p, &some, &all, "tiles one by one");
            guarded_free(&all, "out");
            guarded_free(&some, "out");
            product_free(&p);
        }
}

/* out may be the residual; activation functions keep the bound of rows.h, doubled for the addition after. */
static void epilogue(void **state)
{
    (void)state;
    for (int act = CABE_ACT_NONE; act <= CABE_ACT_TANH; act++)
        for (int parts = 0; parts < 4; parts++)
            for (int64_t n = 15; n <= 49; n += 17) {
                struct product p = product_new(CABE_F32, 9, n, 400, RANDOM, 4, parts & 1, parts & 2);
                struct guarded got = out_new(&p, 4), wanted = out_new(&p, 4);

                p.mm.act = (enum cabe_act)act;
                product_run(under_test, &p, &got);
                product_run(scalar, &p, &wanted);
                for (size_t i = 0; i < got.bytes / 4; i++) {
                    float a = ((float *)(void *)got.data)[i], b = ((float *)(void *)wanted.data)[i];

                    if (fabsf(a - b) > 4e-6f + 4e-6f * (fabsf(b) + 1.0f)) {
                        describe(&p, "act");
                        fail_msg("act %d element %zu: %.9g, wanted %.9g", act, i, (double)a, (double)b);
                    }
                }
                if (p.mm.residual) {
                    memcpy(wanted.data, p.residual.data, wanted.bytes);
                    p.mm.residual = p.mm.out = (float *)(void *)wanted.data;
                    for (int64_t r = 0; r < p.mm.t; r++) /* the gaps, as product_run leaves them */
                        memset(wanted.data + (r * p.mm.out_stride + n) * 4, GUARD,
                               (size_t)(p.mm.out_stride - n) * 4);
                    cabe_matmul_run(under_test, &p.mm, p.shared.data, p.scratch.data, 0,
                                    cabe_matmul_tiles(under_test, &p.mm));
                    same_bits(&p, &wanted, &got, "residual in place");
                }
                guarded_free(&got, "out");
                guarded_free(&wanted, "out");
                product_free(&p);
            }
}

static int run_cases(const struct cabe_kernels *kernels)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(shapes), cmocka_unit_test(many_tiles),
                                       cmocka_unit_test(hostile_quants), cmocka_unit_test(not_a_number),
                                       cmocka_unit_test(rows_and_tiles), cmocka_unit_test(epilogue)};

    scalar = cabe_kernels_at(CABE_LEVEL_SCALAR);
    under_test = kernels;
    return cmocka_run_group_tests_name(kernels->name, tests, NULL, NULL);
}

#endif
