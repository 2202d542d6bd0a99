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

/* One k of m rows by p panels. */
INLINE void step(const float *const row[ROWS], int64_t i, const float *w, int64_t w_stride, __m256 sum[ROWS * 2],
                 const int m, const int p)
{
#pragma GCC unroll 4
    for (int q = 0; q < p; q++) {
        __m256 w0 = _mm256_load_ps(w + q * w_stride), w1 = _mm256_load_ps(w + q * w_stride + 8);

#pragma GCC unroll 6
        for (int r = 0; r < m; r++) {
            __m256 a = _mm256_broadcast_ss(row[r] + i);

            sum[(q * m + r) * 2] = _mm256_fmadd_ps(a, w0, sum[(q * m + r) * 2]);
            sum[(q * m + r) * 2 + 1] = _mm256_fmadd_ps(a, w1, sum[(q * m + r) * 2 + 1]);
        }
    }
}

/*
 * Four k of six rows by one panel. In assembler because twelve sums, two weights and an activation leave one register
 * of sixteen: compilers spill a sum, and then lose a tenth. x3 is row 3, stride in bytes.
 */
#define ROW(x, s0, s1)                                                                                                 \
    "vbroadcastss " x ", %%ymm15\n\t"                                                                                 \
    "vfmadd231ps %%ymm13, %%ymm15, %[" #s0 "]\n\t"                                                                    \
    "vfmadd231ps %%ymm14, %%ymm15, %[" #s1 "]\n\t"
#define STEP(at, w0, w1)                                                                                               \
    "vmovaps " #w0 "(%[w]), %%ymm13\n\tvmovaps " #w1 "(%[w]), %%ymm14\n\t" ROW(#at "(%[x0])", s0, s1)                 \
        ROW(#at "(%[x0],%[stride])", s2, s3) ROW(#at "(%[x0],%[stride],2)", s4, s5) ROW(#at "(%[x3])", s6, s7)         \
            ROW(#at "(%[x3],%[stride])", s8, s9) ROW(#at "(%[x3],%[stride],2)", s10, s11)

INLINE void four_steps(const float *x0, const float *x3, int64_t stride, const float *w, __m256 sum[ROWS * 2])
{
    __asm__(STEP(0, 0, 32) STEP(4, 64, 96) STEP(8, 128, 160) STEP(12, 192, 224)
            : [s0] "+x"(sum[0]), [s1] "+x"(sum[1]), [s2] "+x"(sum[2]), [s3] "+x"(sum[3]), [s4] "+x"(sum[4]),
              [s5] "+x"(sum[5]), [s6] "+x"(sum[6]), [s7] "+x"(sum[7]), [s8] "+x"(sum[8]), [s9] "+x"(sum[9]),
              [s10] "+x"(sum[10]), [s11] "+x"(sum[11])
            : [x0] "r"(x0), [x3] "r"(x3), [stride] "r"(stride), [w] "r"(w)
            : "xmm13", "xmm14", "xmm15", "memory");
}

/*
 * m rows by p panels (both constants after inlining); acc panels are acc_stride floats apart. A line `ahead` is
 * fetched every four k: the weights of the next call come from L3 while these are used.
 */
INLINE void tile(const float *x, int64_t x_stride, const float *w, int64_t w_stride, int64_t k, float *acc,
                 int64_t acc_stride, int first, const float *ahead, const int m, const int p)
{
    __m256 sum[ROWS * 2];
    const float *row[ROWS];
    int64_t i = 0;

#pragma GCC unroll 6
    for (int r = 0; r < m; r++) { /* one register each: the compiler would else add strides in the loop */
        row[r] = x + r * x_stride;
        __asm__("" : "+r"(row[r]));
    }
#pragma GCC unroll 12
    for (int j = 0; j < m * p * 2; j++)
        sum[j] = first ? _mm256_setzero_ps()
                       : _mm256_load_ps(acc + j / (2 * m) * acc_stride + j % (2 * m) * 8);
    for (; i + 4 <= k; i += 4) {
        _mm_prefetch((const char *)ahead, _MM_HINT_T1);
        ahead += CABE_PANEL;
        if (m == ROWS)
            four_steps(row[0] + i, row[3] + i, x_stride * (int64_t)sizeof(float), w, sum);
        else
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++)
                step(row, i + j, w + j * CABE_PANEL, w_stride, sum, m, p);
        w += 4 * CABE_PANEL;
    }
    for (; i < k; i++, w += CABE_PANEL)
        step(row, i, w, w_stride, sum, m, p);
#pragma GCC unroll 12
    for (int j = 0; j < m * p * 2; j++)
        _mm256_store_ps(acc + j / (2 * m) * acc_stride + j % (2 * m) * 8, sum[j]);
}

/* m rows and every panel, p at a time. */
INLINE void panels(const float *x, int64_t x_stride, const float *w, int64_t w_stride, int64_t n_panels, int64_t k,
                   float *acc, int64_t acc_stride, int first, const float *ahead, const int m, const int p)
{
    for (; n_panels >= p; n_panels -= p, w += p * w_stride, acc += p * acc_stride)
        tile(x, x_stride, w, w_stride, k, acc, acc_stride, first, ahead, m, p);
    for (; n_panels > 0; n_panels--, w += w_stride, acc += acc_stride)
        tile(x, x_stride, w, w_stride, k, acc, acc_stride, first, ahead, m, 1);
}

static void f32(const float *x, int64_t x_stride, int64_t rows, const float *w, int64_t w_stride, int64_t n_panels,
                int64_t k, float *acc, int first)
{
    int64_t acc_stride = rows * CABE_PANEL;
    const float *ahead = w + k * CABE_PANEL; /* four tiles of rows fetch one panel */

    while (rows > 0) {
        int64_t m = rows >= 2 * ROWS || rows == ROWS ? ROWS : rows > ROWS ? (rows + 1) / 2 : rows;

        switch (m) {
        case 1:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, ahead, 1, 4);
            break;
        case 2:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, ahead, 2, 2);
            break;
        case 3:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, ahead, 3, 2);
            break;
        case 4:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, ahead, 4, 1);
            break;
        case 5:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, ahead, 5, 1);
            break;
        default:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, ahead, 6, 1);
            break;
        }
        rows -= m;
        x += m * x_stride;
        acc += m * CABE_PANEL;
        ahead += k / 4 * CABE_PANEL;
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
