/*
 * Precision HIGH on AVX2, FMA and F16C.
 *
 * Many rows: tiles of 6 rows by one panel, twelve accumulators, activations broadcast straight from their rows. Few
 * rows: several panels at once, so that enough independent chains hide the latency of the multiply-add.
 */
#include <immintrin.h>
#include <string.h>

#include "kernel/matmul_level.h"

#define ROWS 6 /* of a full tile */
#define INLINE static inline __attribute__((always_inline))

/* m rows by p panels (both constants after inlining); acc panels are acc_stride floats apart. */
INLINE void tile(const float *x, int64_t x_stride, const float *w, int64_t w_stride, int64_t k, float *acc,
                 int64_t acc_stride, int first, const int m, const int p)
{
    __m256 sum[ROWS * 2];

#pragma GCC unroll 12
    for (int i = 0; i < m * p * 2; i++)
        sum[i] = first ? _mm256_setzero_ps()
                       : _mm256_load_ps(acc + i / (2 * m) * acc_stride + i % (2 * m) * 8);
    for (int64_t i = 0; i < k; i++) {
#pragma GCC unroll 4
        for (int q = 0; q < p; q++) {
            __m256 w0 = _mm256_load_ps(w + q * w_stride), w1 = _mm256_load_ps(w + q * w_stride + 8);

#pragma GCC unroll 6
            for (int r = 0; r < m; r++) {
                __m256 a = _mm256_broadcast_ss(x + r * x_stride);

                sum[(q * m + r) * 2] = _mm256_fmadd_ps(a, w0, sum[(q * m + r) * 2]);
                sum[(q * m + r) * 2 + 1] = _mm256_fmadd_ps(a, w1, sum[(q * m + r) * 2 + 1]);
            }
        }
        x++;
        w += CABE_PANEL;
    }
#pragma GCC unroll 12
    for (int i = 0; i < m * p * 2; i++)
        _mm256_store_ps(acc + i / (2 * m) * acc_stride + i % (2 * m) * 8, sum[i]);
}

/* m rows and every panel, p at a time. */
INLINE void panels(const float *x, int64_t x_stride, const float *w, int64_t w_stride, int64_t n_panels, int64_t k,
                   float *acc, int64_t acc_stride, int first, const int m, const int p)
{
    for (; n_panels >= p; n_panels -= p, w += p * w_stride, acc += p * acc_stride)
        tile(x, x_stride, w, w_stride, k, acc, acc_stride, first, m, p);
    for (; n_panels > 0; n_panels--, w += w_stride, acc += acc_stride)
        tile(x, x_stride, w, w_stride, k, acc, acc_stride, first, m, 1);
}

static void f32(const float *x, int64_t x_stride, int64_t rows, const float *w, int64_t w_stride, int64_t n_panels,
                int64_t k, float *acc, int first)
{
    int64_t acc_stride = rows * CABE_PANEL;

    while (rows > 0) {
        int64_t m = rows >= 2 * ROWS || rows == ROWS ? ROWS : rows > ROWS ? (rows + 1) / 2 : rows;

        switch (m) {
        case 1:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, 1, 4);
            break;
        case 2:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, 2, 2);
            break;
        case 3:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, 3, 2);
            break;
        case 4:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, 4, 1);
            break;
        case 5:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, 5, 1);
            break;
        default:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, 6, 1);
            break;
        }
        rows -= m;
        x += m * x_stride;
        acc += m * CABE_PANEL;
    }
}

static void widen_16(enum cabe_dtype dtype, const uint8_t *in, int64_t n, float *out)
{
    for (int64_t i = 0; i < n * CABE_PANEL; i += 8) {
        __m128i bits = _mm_load_si128((const __m128i *)(const void *)(in + i * 2));

        if (dtype == CABE_F16)
            _mm256_store_ps(out + i, _mm256_cvtph_ps(bits));
        else
            _mm256_store_ps(out + i,
                            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16)));
    }
}

/* Four inputs of eight outputs, one signed byte each in a 32-bit lane, times the outputs' scales. */
INLINE void widen_group(__m256i quants, __m256 scale, float *out)
{
    _mm256_store_ps(out, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(quants, 24), 24)), scale));
    _mm256_store_ps(out + 16, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(quants, 16), 24)), scale));
    _mm256_store_ps(out + 32, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(quants, 8), 24)), scale));
    _mm256_store_ps(out + 48, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srai_epi32(quants, 24)), scale));
}

/* 32 inputs of all 16 outputs; `left` of them are wanted. */
INLINE void widen_block(enum cabe_dtype dtype, const uint8_t *quants, const __m256 scale[2], float *out)
{
    const __m256i low = _mm256_set1_epi8(15), eight = _mm256_set1_epi8(8);

    for (int half = 0; half < 2; half++) {
        if (dtype == CABE_Q4_0) {
            for (int g = 0; g < 4; g++) {
                __m256i packed = _mm256_load_si256((const __m256i *)(const void *)(quants + g * 64 + half * 32));
                __m256i first = _mm256_and_si256(packed, low);
                __m256i second = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low);

                widen_group(_mm256_sub_epi8(first, eight), scale[half], out + g * 64 + half * 8);
                widen_group(_mm256_sub_epi8(second, eight), scale[half], out + (g + 4) * 64 + half * 8);
            }
        } else {
            for (int g = 0; g < 8; g++)
                widen_group(_mm256_load_si256((const __m256i *)(const void *)(quants + g * 64 + half * 32)),
                            scale[half], out + g * 64 + half * 8);
        }
    }
}

static void widen(enum cabe_dtype dtype, const uint8_t *panel, int64_t k, int64_t begin, int64_t end, float *out)
{
    const uint8_t *quants = panel + cabe_panel_quants(dtype, k);
    float last[32 * CABE_PANEL] __attribute__((aligned(32)));

    if (dtype == CABE_F32) {
        memcpy(out, panel + begin * CABE_PANEL * 4, (size_t)(end - begin) * CABE_PANEL * 4);
        return;
    }
    if (dtype == CABE_F16 || dtype == CABE_BF16) {
        widen_16(dtype, panel + begin * CABE_PANEL * 2, end - begin, out);
        return;
    }
    for (int64_t i = begin; i < end; i += 32, out += 32 * CABE_PANEL) {
        float *to = end - i < 32 ? last : out;
        __m256 scale[2];

        for (int half = 0; half < 2; half++)
            scale[half] =
                dtype == CABE_I8
                    ? _mm256_load_ps((const float *)(const void *)panel + i / CABE_I8_BLOCK * CABE_PANEL + half * 8)
                    : _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)(panel + i + half * 16)));
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
    __m256 b0 = bias ? _mm256_loadu_ps(bias) : _mm256_setzero_ps();
    __m256 b1 = bias ? _mm256_loadu_ps(bias + 8) : _mm256_setzero_ps();

    for (int64_t r = 0; r < rows; r++, acc += CABE_PANEL, out += out_stride) {
        __m256 v0 = _mm256_load_ps(acc), v1 = _mm256_load_ps(acc + 8);

        if (bias) {
            v0 = _mm256_add_ps(v0, b0);
            v1 = _mm256_add_ps(v1, b1);
        }
        if (residual) {
            v0 = _mm256_add_ps(v0, _mm256_loadu_ps(residual));
            v1 = _mm256_add_ps(v1, _mm256_loadu_ps(residual + 8));
            residual += out_stride;
        }
        _mm256_storeu_ps(out, v0);
        _mm256_storeu_ps(out + 8, v1);
    }
}

const struct cabe_matmul_floats cabe_matmul_floats_avx2 = {
    .f32 = f32, .widen = widen, .store = store, .panels_many = 1, .panels_few = 4};
