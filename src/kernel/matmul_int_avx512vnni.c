/*
 * Precision INT8 on AVX-512 VNNI: vpdpbusd adds four products of unsigned by signed bytes in 32 bits, exactly.
 *
 *   I8    activations 0..127 by weights; sums begin at - zero * sum(w).
 *   Q8_0  weights + 128 by activations; sums begin at - 128 sum(a).
 *   Q4_0  weights 0..15 by activations; sums begin at - 8 sum(a).
 */
#ifndef CABE_SIMD_EMULATED /* a test that runs this on another CPU has declared the intrinsics itself */
#include <immintrin.h>
#endif
#include <string.h>

#include "kernel/matmul_level.h"

#define ROWS 12 /* of a full tile: enough sums for two units of latency five */
#define INLINE static inline __attribute__((always_inline))

INLINE __m512i four_inputs(const uint8_t *record)
{
    int32_t four;

    memcpy(&four, record, sizeof four);
    return _mm512_set1_epi32(four);
}

/* Four inputs of m rows. */
INLINE void step(const uint8_t *x, uint64_t stride, __m512i sum[ROWS], __m512i w, int weights_signed, const int m)
{
#pragma GCC unroll 12
    for (int r = 0; r < m; r++) {
        __m512i a = four_inputs(x + (uint64_t)r * stride);

        sum[r] = weights_signed ? _mm512_dpbusd_epi32(sum[r], a, w) : _mm512_dpbusd_epi32(sum[r], w, a);
    }
}

INLINE void block_sums(enum cabe_dtype dtype, const uint8_t *x, uint64_t stride, __m512i sum[ROWS], const uint8_t *w,
                       int64_t inputs, const int m)
{
    const __m512i low = _mm512_set1_epi8(15), sign = _mm512_set1_epi32((int32_t)0x80808080);

    if (dtype == CABE_Q4_0) {
#pragma GCC unroll 4
        for (int at = 0; at < 16; at += 4, w += 64) {
            __m512i packed = _mm512_loadu_si512(w);

            step(x + at, stride, sum, _mm512_and_si512(packed, low), 0, m);
            step(x + at + 16, stride, sum, _mm512_and_si512(_mm512_srli_epi16(packed, 4), low), 0, m);
        }
        return;
    }
#pragma GCC unroll 2
    for (int64_t at = 0; at < inputs; at += 4, w += 64) {
        if (dtype == CABE_I8)
            step(x + at, stride, sum, _mm512_loadu_si512(w), 1, m);
        else
            step(x + at, stride, sum, _mm512_xor_si512(_mm512_loadu_si512(w), sign), 0, m);
    }
}

/* Where the sums of a block begin. */
INLINE __m512i offset_of(enum cabe_dtype dtype, int32_t offset, const uint8_t *weight_sums)
{
    if (dtype == CABE_I8)
        return _mm512_mullo_epi32(_mm512_loadu_si512(weight_sums), _mm512_set1_epi32(-offset));
    return _mm512_set1_epi32(dtype == CABE_Q8_0 ? -128 * offset : offset);
}

INLINE void rows_of(enum cabe_dtype dtype, const uint8_t *records, uint64_t record_bytes, const uint8_t *panel, int64_t k,
                    float *acc, const int m)
{
    const int64_t block = cabe_a8_block(dtype), blocks = (k + block - 1) / block;
    const uint8_t *w = panel + cabe_panel_quants(dtype, k), *meta = records + cabe_record_meta(k);
    int64_t left = cabe_record_k(k);

    for (int64_t i = 0; i < blocks; i++, left -= block, meta += sizeof(struct cabe_matmul_meta)) {
        const uint8_t *weight_sums = panel + (uint64_t)(blocks + i) * CABE_PANEL * 4;
        __m512 scale = dtype == CABE_I8
                           ? _mm512_load_ps((const float *)(const void *)panel + i * CABE_PANEL)
                           : _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)(panel + i * 32)));
        __m512i sum[ROWS];

#pragma GCC unroll 12
        for (int r = 0; r < m; r++) {
            const struct cabe_matmul_meta *of_row = (const void *)(meta + (uint64_t)r * record_bytes);

            sum[r] = offset_of(dtype, of_row->offset, weight_sums);
        }
        block_sums(dtype, records + i * block, record_bytes, sum, w, left < block ? left : block, m);
#pragma GCC unroll 12
        for (int r = 0; r < m; r++) {
            const struct cabe_matmul_meta *of_row = (const void *)(meta + (uint64_t)r * record_bytes);
            __m512 both = _mm512_mul_ps(_mm512_set1_ps(of_row->scale), scale);
            __m512 old = i ? _mm512_load_ps(acc + r * CABE_PANEL) : _mm512_setzero_ps();

            _mm512_store_ps(acc + r * CABE_PANEL, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r]), both, old));
        }
        w += dtype == CABE_Q4_0 ? block * CABE_PANEL / 2 : block * CABE_PANEL;
    }
}

INLINE void some_rows(enum cabe_dtype dtype, const uint8_t *records, uint64_t record_bytes, const uint8_t *panel,
                      int64_t k, float *acc, const int m)
{
    if (dtype == CABE_I8)
        rows_of(CABE_I8, records, record_bytes, panel, k, acc, m);
    else if (dtype == CABE_Q8_0)
        rows_of(CABE_Q8_0, records, record_bytes, panel, k, acc, m);
    else
        rows_of(CABE_Q4_0, records, record_bytes, panel, k, acc, m);
}

static void dot(enum cabe_dtype dtype, const uint8_t *records, int64_t rows, const uint8_t *panel,
                const uint8_t *unpacked, int64_t k, int64_t begin, int64_t end, int64_t ahead, float *acc)
{
    uint64_t record_bytes = cabe_record_bytes(dtype, k);

    if (dtype == CABE_Q4_1 || dtype == CABE_Q4_K || dtype == CABE_Q6_K) {
        cabe_matmul_ints_scalar.dot(dtype, records, rows, panel, unpacked, k, begin, end, ahead, acc);
        return;
    }
    if (k == 0)
        memset(acc, 0, (size_t)rows * CABE_PANEL * sizeof(float));
    while (rows > 0 && k > 0) {
        int64_t m = rows >= 12 ? 12 : rows >= 6 ? 6 : rows >= 3 ? 3 : 1;

        switch (m) {
        case 1:
            some_rows(dtype, records, record_bytes, panel, k, acc, 1);
            break;
        case 3:
            some_rows(dtype, records, record_bytes, panel, k, acc, 3);
            break;
        case 6:
            some_rows(dtype, records, record_bytes, panel, k, acc, 6);
            break;
        default:
            some_rows(dtype, records, record_bytes, panel, k, acc, 12);
            break;
        }
        rows -= m;
        records += (uint64_t)m * record_bytes;
        acc += m * CABE_PANEL;
    }
}

/* Rounded to the nearest even, at least `least` and at most 127; what is not a number becomes `least`. */
INLINE __m512 quant_of(__m512 x, __m512 inverse, __m512 zero, __m512 least)
{
    __m512 value = _mm512_add_ps(_mm512_roundscale_ps(_mm512_mul_ps(x, inverse), _MM_FROUND_TO_NEAREST_INT), zero);

    return _mm512_min_ps(_mm512_max_ps(value, least), _mm512_set1_ps(127.0f));
}

/* n is a multiple of 32. The operand order of min and max ignores what is not a number, as scalar does. */
static void quantise_unsigned(const float *x, int64_t n, uint8_t *q, struct cabe_matmul_meta *meta)
{
    __m512 lo = _mm512_setzero_ps(), hi = _mm512_setzero_ps();
    const __m512 none = _mm512_setzero_ps();
    float least, range, inverse, zero[16];

    for (int64_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_loadu_ps(x + i);

        lo = _mm512_max_ps(_mm512_sub_ps(none, v), lo);
        hi = _mm512_max_ps(v, hi);
    }
    least = -_mm512_reduce_max_ps(lo);
    range = _mm512_reduce_max_ps(hi) - least;
    inverse = range < CABE_A8_TINY ? 0.0f : 127.0f / range;
    meta->scale = range < CABE_A8_TINY ? 0.0f : range / 127.0f;
    _mm512_storeu_ps(zero, quant_of(_mm512_set1_ps(-least), _mm512_set1_ps(inverse), none, none));
    meta->offset = (int32_t)zero[0];
    for (int64_t i = 0; i < n; i += 16) {
        __m512 value = quant_of(_mm512_loadu_ps(x + i), _mm512_set1_ps(inverse), _mm512_set1_ps(zero[0]), none);

        _mm_storeu_si128((__m128i *)(void *)(q + i), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(value)));
    }
}

/* 32 values. */
static void quantise_signed(const float *x, uint8_t *q, struct cabe_matmul_meta *meta, int factor)
{
    const __m512 none = _mm512_setzero_ps();
    __m512 v[2] = {_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16)}, hi = none;
    float most, inverse;
    int32_t sum[16];
    __m512i both = _mm512_set1_epi32(0);

    for (int j = 0; j < 2; j++)
        hi = _mm512_max_ps(v[j], _mm512_max_ps(_mm512_sub_ps(none, v[j]), hi));
    most = _mm512_reduce_max_ps(hi);
    inverse = most < CABE_A8_TINY ? 0.0f : 127.0f / most;
    meta->scale = most < CABE_A8_TINY ? 0.0f : most / 127.0f;
    for (int j = 0; j < 2; j++) {
        __m512i values =
            _mm512_cvtps_epi32(quant_of(v[j], _mm512_set1_ps(inverse), none, _mm512_set1_ps(-127.0f)));

        _mm_storeu_si128((__m128i *)(void *)(q + j * 16), _mm512_cvtepi32_epi8(values));
        both = _mm512_add_epi32(both, values);
    }
    _mm512_storeu_si512(sum, both);
    meta->offset = 0;
    for (int j = 0; j < 16; j++)
        meta->offset += factor * sum[j];
}

static void quantise(enum cabe_dtype dtype, const float *x, int64_t k, uint8_t *record)
{
    struct cabe_matmul_meta *meta = (void *)(record + cabe_record_meta(k));
    float last[CABE_I8_BLOCK] = {0};
    int64_t i = 0;

    if (dtype == CABE_Q4_1 || dtype == CABE_Q4_K || dtype == CABE_Q6_K) {
        cabe_matmul_ints_scalar.quantise(dtype, x, k, record);
        return;
    }
    if (dtype != CABE_I8) {
        for (; i < k; i += 32)
            quantise_signed(x + i, record + i, meta++, dtype == CABE_Q4_0 ? -8 : 1);
        return;
    }
    for (; i + CABE_I8_BLOCK <= k; i += CABE_I8_BLOCK)
        quantise_unsigned(x + i, CABE_I8_BLOCK, record + i, meta++);
    if (i < k) { /* zeros change neither the range nor, as their weights are zeros, the sums */
        memcpy(last, x + i, (size_t)(k - i) * sizeof(float));
        quantise_unsigned(last, cabe_record_k(k) - i, record + i, meta);
    }
}

const struct cabe_matmul_ints cabe_matmul_ints_avx512vnni = {.quantise = quantise, .unpack = NULL, .dot = dot};
