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
 * fetched every four k: the weights of the next call come from far while these are used.
 */
INLINE void tile(const float *x, int64_t x_stride, const float *w, int64_t w_stride, int64_t k, float *acc,
                 int64_t acc_stride, int first, const char *ahead, int64_t ahead_step, const int m, const int p)
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
        _mm_prefetch(ahead, _MM_HINT_T1);
        ahead += ahead_step;
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
        int64_t m = rows >= 2 * ROWS || rows == ROWS ? ROWS : rows > ROWS ? (rows + 1) / 2 : rows;

        switch (m) {
        case 1:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, ahead, ahead_step, 1, 4);
            break;
        case 2:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, ahead, ahead_step, 2, 2);
            break;
        case 3:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, ahead, ahead_step, 3, 2);
            break;
        case 4:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, ahead, ahead_step, 4, 1);
            break;
        case 5:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, ahead, ahead_step, 5, 1);
            break;
        default:
            panels(x, x_stride, w, w_stride, n_panels, k, acc, acc_stride, first, ahead, ahead_step, 6, 1);
            break;
        }
        rows -= m;
        x += m * x_stride;
        acc += m * CABE_PANEL;
        ahead += k / 4 * ahead_step;
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

/* Eight weights of a float type. */
INLINE __m256 eight_weights(const uint8_t *at, const enum cabe_dtype dtype)
{
    if (dtype == CABE_F32)
        return _mm256_load_ps((const float *)(const void *)at);
    if (dtype == CABE_F16)
        return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)at));
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_load_si128((const __m128i *)(const void *)at)), 16));
}

#define FEW_AHEAD 4096 /* bytes; more of two panels at once would push each other out of L1 */

/* m rows by p panels, panel_bytes apart, from memory. */
INLINE void few_tile(const float *x, int64_t x_stride, const uint8_t *w, uint64_t panel_bytes, int64_t k, float *acc,
                     const enum cabe_dtype dtype, const int m, const int p)
{
    const int64_t half = dtype == CABE_F32 ? 32 : 16; /* bytes of eight weights */
    __m256 sum[8];

#pragma GCC unroll 8
    for (int j = 0; j < m * p * 2; j++)
        sum[j] = _mm256_setzero_ps();
    for (int64_t i = 0; i < k; i++, w += 2 * half) {
#pragma GCC unroll 2
        for (int q = 0; q < p; q++) {
            const uint8_t *at = w + (uint64_t)q * panel_bytes;
            __m256 w0 = eight_weights(at, dtype), w1 = eight_weights(at + half, dtype);

            if (half == 32 || i % 2 == 0)
                _mm_prefetch((const char *)at + FEW_AHEAD, _MM_HINT_T0);
#pragma GCC unroll 4
            for (int r = 0; r < m; r++) {
                __m256 a = _mm256_broadcast_ss(x + r * x_stride + i);

                sum[(q * m + r) * 2] = _mm256_fmadd_ps(a, w0, sum[(q * m + r) * 2]);
                sum[(q * m + r) * 2 + 1] = _mm256_fmadd_ps(a, w1, sum[(q * m + r) * 2 + 1]);
            }
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < m * p * 2; j++)
        _mm256_store_ps(acc + j * 8, sum[j]);
}

/* One panel and m rows: the first of more than four rows bring it in, the others find it in cache. */
INLINE void few_rows(const float *x, int64_t x_stride, int64_t m, const uint8_t *w, int64_t k, float *acc,
                     const enum cabe_dtype dtype)
{
    if (m == 1)
        few_tile(x, x_stride, w, 0, k, acc, dtype, 1, 1);
    else if (m == 2)
        few_tile(x, x_stride, w, 0, k, acc, dtype, 2, 1);
    else if (m == 3)
        few_tile(x, x_stride, w, 0, k, acc, dtype, 3, 1);
    else
        few_tile(x, x_stride, w, 0, k, acc, dtype, 4, 1);
}

INLINE void few_of(const float *x, int64_t x_stride, int64_t rows, const uint8_t *w, uint64_t panel_bytes,
                   int64_t n_panels, int64_t k, float *acc, const enum cabe_dtype dtype)
{
    for (int64_t p = 0; p < n_panels; p++) {
        const uint8_t *at = w + (uint64_t)p * panel_bytes;
        float *to = acc + p * rows * CABE_PANEL;

        if (rows <= 2 && p + 1 < n_panels) {
            if (rows == 1)
                few_tile(x, x_stride, at, panel_bytes, k, to, dtype, 1, 2);
            else
                few_tile(x, x_stride, at, panel_bytes, k, to, dtype, 2, 2);
            p++;
            continue;
        }
        for (int64_t r = 0, m; r < rows; r += m) {
            m = rows - r == 5 || rows - r == 6 ? 3 : rows - r < 4 ? rows - r : 4;
            few_rows(x + r * x_stride, x_stride, m, at, k, to + r * CABE_PANEL, dtype);
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

/* Four inputs of eight outputs, one signed byte each in a 32-bit lane, times the outputs' scales. */
INLINE void widen_group(__m256i quants, __m256 scale, float *out)
{
    _mm256_store_ps(out, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(quants, 24), 24)), scale));
    _mm256_store_ps(out + 16, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(quants, 16), 24)), scale));
    _mm256_store_ps(out + 32, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(quants, 8), 24)), scale));
    _mm256_store_ps(out + 48, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srai_epi32(quants, 24)), scale));
}

/* Six-bit scales of eight outputs of a block of Q4_K, or minimums. */
INLINE __m256 six_bits(const uint8_t *bytes, int64_t block, int is_min, int half)
{
    const uint8_t *low = bytes + half * 8, *high = low + ((block & 3) + (is_min ? 4 : 0)) * CABE_PANEL;
    __m128i top = _mm_loadl_epi64((const __m128i *)(const void *)high), rest;

    if (block < 4)
        return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_and_si128(top, _mm_set1_epi8(63))));
    rest = _mm_loadl_epi64((const __m128i *)(const void *)(low + (block + 4) * CABE_PANEL));
    rest = _mm_and_si128(is_min ? _mm_srli_epi16(rest, 4) : rest, _mm_set1_epi8(15));
    top = _mm_and_si128(_mm_srli_epi16(top, 2), _mm_set1_epi8(0x30));
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_or_si128(rest, top)));
}

INLINE __m256 eight_halves(const uint8_t *at)
{
    return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)at));
}

/* Four unsigned quants a lane: scale * q + least, or for Q6_K, without `least`, scale * (q - 32). */
INLINE void widen_four(__m256i quants, __m256 scale, __m256 least, const int six, float *out)
{
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++, quants = _mm256_srli_epi32(quants, 8)) {
        __m256i q = _mm256_and_si256(quants, _mm256_set1_epi32(255));

        if (six)
            _mm256_store_ps(out + i * CABE_PANEL,
                            _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_sub_epi32(q, _mm256_set1_epi32(32)))));
        else
            _mm256_store_ps(out + i * CABE_PANEL, _mm256_add_ps(_mm256_mul_ps(scale, _mm256_cvtepi32_ps(q)), least));
    }
}

/* Block b of Q4_1, Q4_K and Q6_K: eight outputs at a time. */
static void widen_least(enum cabe_dtype dtype, const uint8_t *panel, int64_t k, int64_t b, float *out)
{
    const __m256i low = _mm256_set1_epi8(15), pair = _mm256_set1_epi8(3);
    const uint8_t *quants = panel + cabe_panel_quants(dtype, k), *super = quants;

    for (int half = 0; half < 2; half++) {
        __m256 scale[2], least = _mm256_setzero_ps(); /* of no use to Q6_K */

        if (dtype == CABE_Q4_1) {
            scale[0] = eight_halves(panel + b * 64 + half * 16);
            least = eight_halves(panel + b * 64 + 32 + half * 16);
            quants = super + b * 256;
        } else if (dtype == CABE_Q4_K) {
            const uint8_t *at = super + b / 8 * CABE_Q4_K_SUPER;

            scale[0] = _mm256_mul_ps(eight_halves(at + half * 16), six_bits(at + 64, b % 8, 0, half));
            least = _mm256_mul_ps(eight_halves(at + 32 + half * 16), six_bits(at + 64, b % 8, 1, half));
            least = _mm256_xor_ps(_mm256_set1_ps(-0.0f), least);
            quants = at + CABE_Q4_K_QUANTS + b % 8 * 256;
        } else {
            const uint8_t *at = super + b / 8 * CABE_Q6_K_SUPER;

            for (int second = 0; second < 2; second++) {
                __m128i bytes = _mm_loadl_epi64(
                    (const __m128i *)(const void *)(at + (b % 8 * 2 + second) * CABE_PANEL + half * 8));

                scale[second] = _mm256_mul_ps(eight_halves(panel + b / 8 * 32 + half * 16),
                                              _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
            }
            quants = at + CABE_Q6_K_QUANTS + b % 8 * CABE_Q6_K_BLOCK;
        }
        for (int g = 0; g < 4; g++) {
            __m256i packed = _mm256_load_si256((const __m256i *)(const void *)(quants + g * 64 + half * 32));
            __m256i first = _mm256_and_si256(packed, low);
            __m256i second = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low);

            if (dtype == CABE_Q6_K) {
                const uint8_t *pairs = quants + 256 + g / 2 * 64 + half * 32;
                __m256i upper = _mm256_load_si256((const __m256i *)(const void *)pairs);

                upper = g % 2 ? _mm256_srli_epi16(upper, 2) : upper;
                first = _mm256_or_si256(first, _mm256_slli_epi16(_mm256_and_si256(upper, pair), 4));
                upper = _mm256_and_si256(_mm256_srli_epi16(upper, 4), pair);
                second = _mm256_or_si256(second, _mm256_slli_epi16(upper, 4));
                widen_four(first, scale[0], least, 1, out + g * 64 + half * 8);
                widen_four(second, scale[1], least, 1, out + (g + 4) * 64 + half * 8);
            } else {
                widen_four(first, scale[0], least, 0, out + g * 64 + half * 8);
                widen_four(second, scale[0], least, 0, out + (g + 4) * 64 + half * 8);
            }
        }
    }
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
        for (int64_t i = begin; i < end; i += 32, out += 32 * CABE_PANEL)
            widen_least(dtype, panel, k, i / 32, out);
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
    .f32 = f32, .few = few, .widen = widen, .store = store, .panels_many = 1, .panels_few = 4};
