/*
 * Precision HIGH on AVX-512 (F, BW, DQ, VL): a panel is one register wide.
 *
 * Many rows: tiles of 8 rows by two panels, sixteen accumulators; few rows: four panels at once.
 */
#ifndef CABE_SIMD_EMULATED /* a test that runs this on another CPU has declared the intrinsics itself */
#include <immintrin.h>
#endif
#include <string.h>

#include "kernel/matmul_level.h"

#define ROWS 8 /* of a full tile */
#define INLINE static inline __attribute__((always_inline))

/* m rows by p panels (both constants after inlining); a line `ahead` is fetched every four k. */
INLINE void tile(const float *x, int64_t x_stride, const float *w, int64_t w_stride, int64_t k, float *acc,
                 int64_t acc_stride, int first, const char *ahead, int64_t ahead_step, const int m, const int p)
{
    __m512 sum[ROWS * 2];
    const float *row[ROWS];

#pragma GCC unroll 8
    for (int r = 0; r < m; r++) { /* one register each: the compiler would else add strides in the loop */
        row[r] = x + r * x_stride;
        __asm__("" : "+r"(row[r]));
    }
#pragma GCC unroll 16
    for (int j = 0; j < m * p; j++)
        sum[j] = first ? _mm512_setzero_ps() : _mm512_load_ps(acc + j / m * acc_stride + j % m * CABE_PANEL);
    for (int64_t i = 0; i < k; i++, w += CABE_PANEL) {
        if (i % 4 == 0) {
            __builtin_prefetch(ahead, 0, 2);
            ahead += ahead_step;
        }
#pragma GCC unroll 4
        for (int q = 0; q < p; q++) {
            __m512 weights = _mm512_load_ps(w + q * w_stride);

#pragma GCC unroll 8
            for (int r = 0; r < m; r++)
                sum[q * m + r] = _mm512_fmadd_ps(_mm512_set1_ps(row[r][i]), weights, sum[q * m + r]);
        }
    }
#pragma GCC unroll 16
    for (int j = 0; j < m * p; j++)
        _mm512_store_ps(acc + j / m * acc_stride + j % m * CABE_PANEL, sum[j]);
}

/* m rows and every panel, p at a time. */
INLINE void panels(const float *x, int64_t x_stride, const float *w, int64_t w_stride, int64_t n_panels, int64_t k,
                   float *acc, int64_t acc_stride, int first, const char *ahead, int64_t ahead_step, const int m,
                   const int p)
{
    for (; n_panels >= p; n_panels -= p, w += p * w_stride, acc += p * acc_stride)
        tile(x, x_stride, w, w_stride, k, acc, acc_stride, first, ahead, ahead_step, m, p);
    for (; n_panels > 0; n_panels--, w += w_stride, acc += acc_stride)
        tile(x, x_stride, w, w_stride, k, acc, acc_stride, first, ahead, ahead_step, m, 1);
}

static void f32(const float *x, int64_t x_stride, int64_t rows, const float *w, int64_t w_stride, int64_t n_panels,
                int64_t k, float *acc, int first, const char *ahead, int64_t ahead_step)
{
    int64_t acc_stride = rows * CABE_PANEL;

    while (rows > 0) {
        int64_t m = rows >= 8 ? 8 : rows >= 4 ? 4 : rows;

        switch (m) {
        case 1:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, ahead, ahead_step, 1, 4);
            break;
        case 2:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, ahead, ahead_step, 2, 4);
            break;
        case 3:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, ahead, ahead_step, 3, 4);
            break;
        case 4:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, ahead, ahead_step, 4, 4);
            break;
        default:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, ahead, ahead_step, 8, 2);
            break;
        }
        rows -= m;
        x += m * x_stride;
        acc += m * CABE_PANEL;
        ahead += k / 4 * ahead_step;
    }
}

/* Sixteen weights of a float type. */
INLINE __m512 sixteen_weights(const uint8_t *at, const enum cabe_dtype dtype)
{
    if (dtype == CABE_F32)
        return _mm512_loadu_ps(at);
    if (dtype == CABE_F16)
        return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)at));
    return _mm512_castsi512_ps(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)at)), 16));
}

#define FEW_AHEAD 2048 /* bytes of each panel */

/* m rows by p panels, panel_bytes apart, from memory. */
INLINE void few_tile(const float *x, int64_t x_stride, const uint8_t *w, uint64_t panel_bytes, int64_t k, float *acc,
                     const enum cabe_dtype dtype, const int m, const int p)
{
    const int64_t bytes = dtype == CABE_F32 ? 64 : 32; /* of sixteen weights */
    __m512 sum[16];

#pragma GCC unroll 16
    for (int j = 0; j < m * p; j++)
        sum[j] = _mm512_setzero_ps();
    for (int64_t i = 0; i < k; i++, w += bytes) {
#pragma GCC unroll 4
        for (int q = 0; q < p; q++) {
            const uint8_t *at = w + (uint64_t)q * panel_bytes;
            __m512 weights = sixteen_weights(at, dtype);

            if (bytes == 64 || i % 2 == 0)
                __builtin_prefetch(at + FEW_AHEAD);
#pragma GCC unroll 4
            for (int r = 0; r < m; r++)
                sum[q * m + r] = _mm512_fmadd_ps(_mm512_set1_ps(x[r * x_stride + i]), weights, sum[q * m + r]);
        }
    }
#pragma GCC unroll 16
    for (int j = 0; j < m * p; j++)
        _mm512_store_ps(acc + j * CABE_PANEL, sum[j]);
}

INLINE void few_of(const float *x, int64_t x_stride, int64_t rows, const uint8_t *w, uint64_t panel_bytes,
                   int64_t n_panels, int64_t k, float *acc, const enum cabe_dtype dtype)
{
    for (int64_t p = 0, n; p < n_panels; p += n) {
        const uint8_t *at = w + (uint64_t)p * panel_bytes;

        n = rows <= 4 && p + 4 <= n_panels ? 4 : 1;
        for (int64_t r = 0, m; r < rows; r += m) { /* more than four: the first bring the panel in */
            const float *in = x + r * x_stride;
            float *to = acc + (p * rows + r) * CABE_PANEL;

            m = n == 4 ? rows : rows - r >= 4 ? 4 : rows - r >= 2 ? 2 : 1;
            if (n == 4 && m == 1)
                few_tile(in, x_stride, at, panel_bytes, k, to, dtype, 1, 4);
            else if (n == 4 && m == 2)
                few_tile(in, x_stride, at, panel_bytes, k, to, dtype, 2, 4);
            else if (n == 4 && m == 3)
                few_tile(in, x_stride, at, panel_bytes, k, to, dtype, 3, 4);
            else if (n == 4)
                few_tile(in, x_stride, at, panel_bytes, k, to, dtype, 4, 4);
            else if (m == 1)
                few_tile(in, x_stride, at, 0, k, to, dtype, 1, 1);
            else if (m == 2)
                few_tile(in, x_stride, at, 0, k, to, dtype, 2, 1);
            else
                few_tile(in, x_stride, at, 0, k, to, dtype, 4, 1);
        }
    }
}

static void few(enum cabe_dtype dtype, const float *x, int64_t x_stride, int64_t rows, const uint8_t *w,
                uint64_t panel_bytes, int64_t n_panels, int64_t k, float *acc)
{
    if (dtype == CABE_F32)
        few_of(x, x_stride, rows, w, panel_bytes, n_panels, k, acc, CABE_F32);
    else if (dtype == CABE_F16)
        few_of(x, x_stride, rows, w, panel_bytes, n_panels, k, acc, CABE_F16);
    else
        few_of(x, x_stride, rows, w, panel_bytes, n_panels, k, acc, CABE_BF16);
}

static void widen_16(enum cabe_dtype dtype, const uint8_t *in, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++, in += 32, out += CABE_PANEL) {
        __m256i bits = _mm256_load_si256((const __m256i *)(const void *)in);

        if (dtype == CABE_F16)
            _mm512_store_ps(out, _mm512_cvtph_ps(bits));
        else
            _mm512_store_ps(out, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)));
    }
}

/* Four inputs of sixteen outputs, one signed byte each in a 32-bit lane, times the outputs' scales. */
INLINE void widen_group(__m512i quants, __m512 scale, float *out)
{
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m512i value = _mm512_srai_epi32(_mm512_slli_epi32(quants, (unsigned)(24 - 8 * i)), 24);

        _mm512_store_ps(out + i * CABE_PANEL, _mm512_mul_ps(_mm512_cvtepi32_ps(value), scale));
    }
}

/* 32 inputs of all 16 outputs. */
INLINE void widen_block(enum cabe_dtype dtype, const uint8_t *quants, __m512 scale, float *out)
{
    const __m512i low = _mm512_set1_epi8(15), eight = _mm512_set1_epi8(8);

    if (dtype != CABE_Q4_0) {
        for (int g = 0; g < 8; g++)
            widen_group(_mm512_loadu_si512(quants + g * 64), scale, out + g * 64);
        return;
    }
    for (int g = 0; g < 4; g++) {
        __m512i packed = _mm512_loadu_si512(quants + g * 64);
        __m512i first = _mm512_and_si512(packed, low), second = _mm512_and_si512(_mm512_srli_epi16(packed, 4), low);

        widen_group(_mm512_sub_epi8(first, eight), scale, out + g * 64);
        widen_group(_mm512_sub_epi8(second, eight), scale, out + (g + 4) * 64);
    }
}

static void widen(enum cabe_dtype dtype, const uint8_t *panel, int64_t k, int64_t begin, int64_t end, float *out)
{
    const uint8_t *quants = panel + cabe_panel_quants(dtype, k);
    float last[32 * CABE_PANEL] __attribute__((aligned(64)));

    if (dtype == CABE_F32) {
        memcpy(out, panel + begin * CABE_PANEL * 4, (size_t)(end - begin) * CABE_PANEL * 4);
        return;
    }
    if (dtype == CABE_Q4_1 || dtype == CABE_Q4_K || dtype == CABE_Q6_K) {
        cabe_matmul_floats_scalar.widen(dtype, panel, k, begin, end, out);
        return;
    }
    if (dtype == CABE_F16 || dtype == CABE_BF16) {
        widen_16(dtype, panel + begin * CABE_PANEL * 2, end - begin, out);
        return;
    }
    for (int64_t i = begin; i < end; i += 32, out += 32 * CABE_PANEL) {
        float *to = end - i < 32 ? last : out;
        __m512 scale = dtype == CABE_I8
                           ? _mm512_load_ps((const float *)(const void *)panel + i / CABE_I8_BLOCK * CABE_PANEL)
                           : _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)(panel + i)));

        if (dtype == CABE_Q4_0)
            widen_block(CABE_Q4_0, quants + i / 32 * 256, scale, to);
        else
            widen_block(CABE_Q8_0, quants + i / 32 * 512, scale, to);
        if (to == last)
            memcpy(out, last, (size_t)(end - i) * CABE_PANEL * sizeof(float));
    }
}

static void store(const float *acc, int64_t rows, const float *bias, const float *residual, float *out,
                  int64_t out_stride)
{
    __m512 b = bias ? _mm512_loadu_ps(bias) : _mm512_setzero_ps();

    for (int64_t r = 0; r < rows; r++, acc += CABE_PANEL, out += out_stride) {
        __m512 value = _mm512_load_ps(acc);

        if (bias)
            value = _mm512_add_ps(value, b);
        if (residual) {
            value = _mm512_add_ps(value, _mm512_loadu_ps(residual));
            residual += out_stride;
        }
        _mm512_storeu_ps(out, value);
    }
}

const struct cabe_matmul_floats cabe_matmul_floats_avx512 = {
    .f32 = f32, .few = few, .widen = widen, .store = store, .panels_many = 2, .panels_few = 4};
