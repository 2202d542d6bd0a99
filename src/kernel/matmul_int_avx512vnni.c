/*
 * Precision INT8 on AVX-512 VNNI: vpdpbusd adds four products of unsigned by signed bytes in 32 bits, exactly.
 *
 *   I8    activations 0..127 by weights; sums begin at - zero * sum(w).
 *   Q8_0  weights + 128 by activations; sums begin at - 128 sum(a).
 *   Q4_0  weights 0..15 by activations; sums begin at - 8 sum(a). Q4_1, Q4_K: at zero.
 *   Q6_K  weights 0..63 by activations; sums of each half begin at - 32 sum(a).
 */
#ifndef CABE_SIMD_EMULATED /* a test that runs this on another CPU has declared the intrinsics itself */
#include <immintrin.h>
#include <math.h>
#endif
#include <string.h>

#include "kernel/matmul_level.h"

#ifdef CABE_SIMD_EMULATED /* each intrinsic is a loop there: unrolled, they would take minutes to compile */
#define UNROLL(n)
#else
#define UNROLL(n) PRAGMA(GCC unroll n)
#define PRAGMA(text) _Pragma(#text)
#endif

#define ROWS 12 /* of a full tile: enough sums for two units of latency five */
#define INLINE static inline __attribute__((always_inline))

enum quants { I8, Q8, NIBBLES, NIBBLES_PACKED, SIX, SIX_PACKED };
enum scales { F32, F16, F16_LEAST, F32_LEAST };
#define SCALES_Q4_K 128 /* bytes of the scales of an unpacked block */

INLINE __m512i four_inputs(const uint8_t *record)
{
    int32_t four;

    memcpy(&four, record, sizeof four);
    return _mm512_set1_epi32(four);
}

/* Four inputs of m rows. */
INLINE void step(const uint8_t *x, uint64_t stride, __m512i sum[ROWS], __m512i w, int weights_signed, const int m)
{
    UNROLL(12)
    for (int r = 0; r < m; r++) {
        __m512i a = four_inputs(x + (uint64_t)r * stride);

        sum[r] = weights_signed ? _mm512_dpbusd_epi32(sum[r], a, w) : _mm512_dpbusd_epi32(sum[r], w, a);
    }
}

/* `groups` of four inputs whose weights are bytes: unsigned, or signed for I8 and Q8_0. */
INLINE void byte_sums(const uint8_t *x, uint64_t stride, __m512i sum[ROWS], const uint8_t *w, int64_t groups,
                      const enum quants quants, const int m)
{
    const __m512i sign = _mm512_set1_epi32((int32_t)0x80808080);

    UNROLL(2)
    for (int64_t g = 0; g < groups; g++) {
        __m512i weights = _mm512_loadu_si512(w + g * 64);

        step(x + g * 4, stride, sum, quants == Q8 ? _mm512_xor_si512(weights, sign) : weights, quants == I8, m);
    }
}

/* 64 bytes of group g (0..7) of a block as the panel holds it. */
INLINE __m512i nibbles_of(const uint8_t *w, int g)
{
    __m512i packed = _mm512_loadu_si512(w + g % 4 * 64);

    return _mm512_and_si512(g < 4 ? packed : _mm512_srli_epi16(packed, 4), _mm512_set1_epi8(15));
}

INLINE __m512i six_bits(const uint8_t *w, int g)
{
    __m512i upper = _mm512_loadu_si512(w + 256 + g % 4 / 2 * 64);
    const int field = g / 4 * 2 + g % 2;

    upper = field == 0   ? _mm512_slli_epi16(upper, 4)
            : field == 1 ? _mm512_slli_epi16(upper, 2)
            : field == 3 ? _mm512_srli_epi16(upper, 2)
                         : upper;
    return _mm512_or_si512(nibbles_of(w, g), _mm512_and_si512(upper, _mm512_set1_epi8(0x30)));
}

/* Groups [from, to) of a block as the panel holds it. */
INLINE void packed_sums(const uint8_t *x, uint64_t stride, __m512i sum[ROWS], const uint8_t *w, const int from,
                        const int to, const enum quants quants, const int m)
{
    UNROLL(8)
    for (int g = from; g < to; g++)
        step(x + g * 4, stride, sum, quants == SIX_PACKED ? six_bits(w, g) : nibbles_of(w, g), 0, m);
}

/* Where the sums of a row begin, but for Q6_K's. */
INLINE __m512i offset_of(const uint8_t *meta, const uint8_t *weight_sums, const enum quants quants, const int offset)
{
    const struct cabe_matmul_meta *of_row = (const void *)meta;

    if (quants == I8)
        return _mm512_mullo_epi32(_mm512_loadu_si512(weight_sums), _mm512_set1_epi32(-of_row->offset));
    if (!offset)
        return _mm512_setzero_si512();
    return _mm512_set1_epi32(quants == Q8 ? -128 * of_row->offset : of_row->offset);
}

/* A block of Q6_K: each half begins at - 32 times the sum of its activations, and is multiplied by its scale. */
INLINE void six_block(const uint8_t *x, const uint8_t *meta, uint64_t stride, const uint8_t *w, const uint8_t *halves,
                      __m512i sum[ROWS], const enum quants quants, const int m)
{
    __m512i half[ROWS];

    UNROLL(12)
    for (int r = 0; r < m; r++)
        sum[r] = _mm512_setzero_si512();
    UNROLL(2)
    for (int second = 0; second < 2; second++) {
        __m512i factor = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(halves + second * 16)));

        UNROLL(12)
        for (int r = 0; r < m; r++) {
            const struct cabe_matmul_meta6 *of_row = (const void *)(meta + (uint64_t)r * stride);

            half[r] = _mm512_set1_epi32(of_row->offset[second][0] + of_row->offset[second][1]);
        }
        if (quants == SIX)
            byte_sums(x + second * 16, stride, half, w + second * 256, 4, SIX, m);
        else
            packed_sums(x, stride, half, w, second * 4, second * 4 + 4, SIX_PACKED, m);
        UNROLL(12)
        for (int r = 0; r < m; r++) {
            half[r] = _mm512_mullo_epi32(half[r], factor);
            sum[r] = _mm512_add_epi32(sum[r], half[r]);
        }
    }
}

/* Where the blocks of a call begin. */
struct blocks {
    const uint8_t *records, *meta; /* of the first row */
    uint64_t stride, meta_bytes;   /* from row to row, and from block to block */
    const uint8_t *w, *scales, *weight_sums, *halves;
    int64_t n, inputs, left, w_bytes, scale_bytes; /* blocks; inputs of a block, and of all */
    const uint8_t *ahead;                          /* to be fetched during the first block */
    int64_t ahead_bytes;                           /* during each */
    int first;                                     /* sums begin at zero */
};

INLINE __m512 sixteen_halves(const uint8_t *at)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)at));
}

INLINE void rows_of(const struct blocks *p, float *acc, const enum quants quants, const enum scales scales,
                    const int offset, const int m)
{
    const uint8_t *x = p->records, *meta = p->meta, *w = p->w, *at = p->scales;
    int64_t left = p->left;

    for (int64_t b = 0; b < p->n; b++) {
        __m512 scale = scales == F16 || scales == F16_LEAST ? sixteen_halves(at) : _mm512_loadu_ps(at);
        __m512 least = scales == F16_LEAST   ? sixteen_halves(at + 32)
                       : scales == F32_LEAST ? _mm512_loadu_ps(at + 64)
                                             : _mm512_setzero_ps();
        __m512i sum[ROWS];

        for (int64_t i = 0; i < p->ahead_bytes; i += 64)
            __builtin_prefetch(p->ahead + b * p->ahead_bytes + i);
        if (quants == SIX || quants == SIX_PACKED) {
            six_block(x, meta, p->stride, w, p->halves + b * 32, sum, quants, m);
        } else {
            UNROLL(12)
            for (int r = 0; r < m; r++)
                sum[r] = offset_of(meta + (uint64_t)r * p->stride, p->weight_sums + b * 64, quants, offset);
            if (quants == NIBBLES_PACKED)
                packed_sums(x, p->stride, sum, w, 0, 8, quants, m);
            else
                byte_sums(x, p->stride, sum, w, (left < p->inputs ? left : p->inputs) / 4, quants, m);
        }
        UNROLL(12)
        for (int r = 0; r < m; r++) {
            const struct cabe_matmul_meta *of_row = (const void *)(meta + (uint64_t)r * p->stride);
            __m512 both = _mm512_mul_ps(_mm512_set1_ps(of_row->scale), scale);
            __m512 old = p->first && b == 0 ? _mm512_setzero_ps() : _mm512_load_ps(acc + r * CABE_PANEL);

            old = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r]), both, old);
            if (scales == F16_LEAST || scales == F32_LEAST)
                old = _mm512_fmadd_ps(_mm512_set1_ps(of_row->sum), least, old);
            _mm512_store_ps(acc + r * CABE_PANEL, old);
        }
        x += p->inputs;
        left -= p->inputs;
        meta += p->meta_bytes;
        w += p->w_bytes;
        at += p->scale_bytes;
    }
}

/* Scales and minimums of a super-block of Q4_K as floats, [8][2][16]. */
INLINE void scales_q4_k(const uint8_t *super, float *out)
{
    const __m512 d = sixteen_halves(super), least = _mm512_sub_ps(_mm512_set1_ps(-0.0f), sixteen_halves(super + 32));
    const __m512i six = _mm512_set1_epi32(63), four = _mm512_set1_epi32(15);

    for (int b = 0; b < 8; b++) {
        const uint8_t *at = super + 64 + (b & 3) * 16;
        __m512i s = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)at));
        __m512i m = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(at + 64)));

        if (b >= 4) {
            __m512i low = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(at + 128)));

            s = _mm512_or_si512(_mm512_and_si512(low, four), _mm512_slli_epi32(_mm512_srli_epi32(s, 6), 4));
            m = _mm512_or_si512(_mm512_srli_epi32(low, 4), _mm512_slli_epi32(_mm512_srli_epi32(m, 6), 4));
        }
        _mm512_storeu_ps(out + b * 32, _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_and_si512(s, six)), d));
        _mm512_storeu_ps(out + b * 32 + 16, _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_and_si512(m, six)), least));
    }
}

/* K-quants as the panel holds them, a super-block at a time. */
INLINE void supers(struct blocks p, enum cabe_dtype dtype, const uint8_t *panel, int64_t k, int64_t begin, int64_t end,
                   float *acc, const int m)
{
    const uint8_t *super = panel + cabe_panel_quants(dtype, k) +
                           begin / 256 * (dtype == CABE_Q4_K ? CABE_Q4_K_SUPER : CABE_Q6_K_SUPER);
    float scales[8 * 2 * 16] __attribute__((aligned(64)));

    p.n = 8;
    for (int64_t i = begin; i < end; i += 256) {
        if (dtype == CABE_Q4_K) {
            scales_q4_k(super, scales);
            p.w = super + CABE_Q4_K_QUANTS;
            p.scales = (const uint8_t *)scales;
            p.scale_bytes = SCALES_Q4_K;
            rows_of(&p, acc, NIBBLES_PACKED, F32_LEAST, 0, m);
            super += CABE_Q4_K_SUPER;
        } else {
            p.w = super + CABE_Q6_K_QUANTS;
            p.w_bytes = CABE_Q6_K_BLOCK;
            p.halves = super;
            p.scales = panel + i / 256 * 32;
            p.scale_bytes = 0;
            rows_of(&p, acc, SIX_PACKED, F16, 0, m);
            super += CABE_Q6_K_SUPER;
        }
        p.records += 256;
        p.meta += 8 * p.meta_bytes;
        p.ahead += 8 * p.ahead_bytes;
        p.first = 0;
    }
}

INLINE void some_rows(enum cabe_dtype dtype, struct blocks p, const uint8_t *panel, const uint8_t *unpacked, int64_t k,
                      int64_t begin, int64_t end, float *acc, const int m)
{
    switch (dtype) {
    case CABE_I8:
        rows_of(&p, acc, I8, F32, 1, m);
        return;
    case CABE_Q8_0:
        rows_of(&p, acc, Q8, F16, 1, m);
        return;
    case CABE_Q4_0:
        if (unpacked)
            rows_of(&p, acc, NIBBLES, F16, 1, m);
        else
            rows_of(&p, acc, NIBBLES_PACKED, F16, 1, m);
        return;
    case CABE_Q4_1:
        if (unpacked)
            rows_of(&p, acc, NIBBLES, F16_LEAST, 0, m);
        else
            rows_of(&p, acc, NIBBLES_PACKED, F16_LEAST, 0, m);
        return;
    default:
        if (!unpacked)
            supers(p, dtype, panel, k, begin, end, acc, m);
        else if (dtype == CABE_Q4_K)
            rows_of(&p, acc, NIBBLES, F32_LEAST, 0, m);
        else
            rows_of(&p, acc, SIX, F16, 0, m);
    }
}

INLINE int64_t packed_bytes(enum cabe_dtype dtype) /* of a block of 32 inputs */
{
    return (int64_t)cabe_dtype_bytes(dtype, cabe_dtype_block(dtype)) * 32 / cabe_dtype_block(dtype) * CABE_PANEL;
}

static struct blocks blocks_of(enum cabe_dtype dtype, const uint8_t *records, const uint8_t *panel,
                               const uint8_t *unpacked, int64_t k, int64_t begin, int64_t end)
{
    const int64_t block = cabe_a8_block(dtype), all = (k + block - 1) / block;
    struct blocks p = {.records = records + begin,
                       .meta = records + cabe_record_meta(k) + (uint64_t)(begin / block) * cabe_meta_bytes(dtype),
                       .stride = cabe_record_bytes(dtype, k),
                       .meta_bytes = cabe_meta_bytes(dtype),
                       .w = unpacked,
                       .w_bytes = 512,
                       .scales = panel + begin,
                       .scale_bytes = 32,
                       .weight_sums = panel,
                       .n = (end - begin + block - 1) / block,
                       .inputs = block,
                       .left = cabe_record_k(end) - begin,
                       .first = begin == 0};

    if (dtype == CABE_I8) {
        p.w = panel + cabe_panel_quants(dtype, k);
        p.w_bytes = CABE_I8_BLOCK * CABE_PANEL;
        p.scale_bytes = CABE_PANEL * (int64_t)sizeof(float);
        p.weight_sums = panel + all * p.scale_bytes;
    } else if (dtype == CABE_Q8_0) {
        p.w = panel + cabe_panel_quants(dtype, k) + begin * 16;
    } else if (!unpacked) {
        p.w = panel + cabe_panel_quants(dtype, k) + begin * 8;
        p.w_bytes = 256;
    }
    if (dtype == CABE_Q4_1) {
        p.scales = panel + begin * 2;
        p.scale_bytes = 64;
    } else if (unpacked && dtype == CABE_Q4_K) {
        p.scales = unpacked + (end - begin) * CABE_PANEL;
        p.scale_bytes = SCALES_Q4_K;
    } else if (unpacked && dtype == CABE_Q6_K) {
        p.scales = unpacked + (end - begin) * CABE_PANEL;
        p.halves = p.scales + p.n * 32;
    }
    return p;
}

static void dot(enum cabe_dtype dtype, const uint8_t *records, int64_t rows, const uint8_t *panel,
                const uint8_t *unpacked, int64_t k, int64_t begin, int64_t end, int64_t ahead, float *acc)
{
    struct blocks p = blocks_of(dtype, records, panel, unpacked, k, begin, end);

    if (ahead && dtype != CABE_I8) {
        p.ahead = panel + ahead + begin / 32 * packed_bytes(dtype);
        p.ahead_bytes = packed_bytes(dtype) / ((rows + ROWS - 1) / ROWS);
    }
    if (k == 0)
        memset(acc, 0, (size_t)rows * CABE_PANEL * sizeof(float));
    while (rows > 0 && k > 0) {
        int64_t m = rows >= 12 ? 12 : rows >= 6 ? 6 : rows >= 3 ? 3 : 1;

        switch (m) {
        case 1:
            some_rows(dtype, p, panel, unpacked, k, begin, end, acc, 1);
            break;
        case 3:
            some_rows(dtype, p, panel, unpacked, k, begin, end, acc, 3);
            break;
        case 6:
            some_rows(dtype, p, panel, unpacked, k, begin, end, acc, 6);
            break;
        default:
            some_rows(dtype, p, panel, unpacked, k, begin, end, acc, 12);
            break;
        }
        rows -= m;
        p.records += (uint64_t)m * p.stride;
        p.meta += (uint64_t)m * p.stride;
        p.ahead += p.n * p.ahead_bytes;
        acc += m * CABE_PANEL;
    }
}

/* Bytes, [inputs/4][16][4]; then for Q4_K f32 [blocks][2][16] scales and minimums; for Q6_K f16 [blocks][16] scales and
 * signed bytes [blocks][2][16] scales of the halves. */
static void unpack(enum cabe_dtype dtype, const uint8_t *panel, int64_t k, int64_t begin, int64_t end, uint8_t *out)
{
    const uint8_t *quants = panel + cabe_panel_quants(dtype, k);
    const int64_t n = (end - begin) / 32, super = dtype == CABE_Q4_K ? CABE_Q4_K_SUPER : CABE_Q6_K_SUPER;
    uint8_t *scales = out + (end - begin) * CABE_PANEL;

    for (int64_t b = 0; b < n && dtype != CABE_Q8_0; b++, out += 512) {
        const int64_t block = begin / 32 + b;
        const uint8_t *w = quants + block * 256, *s = quants + block / 8 * super;

        if (dtype == CABE_Q4_K)
            w = s + CABE_Q4_K_QUANTS + block % 8 * 256;
        if (dtype == CABE_Q6_K)
            w = s + CABE_Q6_K_QUANTS + block % 8 * CABE_Q6_K_BLOCK;
        UNROLL(8)
        for (int g = 0; g < 8; g++)
            _mm512_storeu_si512(out + g * 64, dtype == CABE_Q6_K ? six_bits(w, g) : nibbles_of(w, g));
        if (dtype == CABE_Q4_K && block % 8 == 0)
            scales_q4_k(s, (float *)(void *)(scales + b * SCALES_Q4_K));
        if (dtype == CABE_Q6_K) {
            memcpy(scales + b * 32, panel + block / 8 * 32, 32);
            memcpy(scales + (n + b) * 32, s + block % 8 * 32, 32);
        }
    }
}

/* Rounded to the nearest even, at least `least` and at most 127; what is not a number becomes `least`. */
INLINE __m512 quant_of(__m512 x, __m512 inverse, __m512 zero, __m512 least)
{
    __m512 value = _mm512_add_ps(_mm512_roundscale_ps(_mm512_mul_ps(x, inverse), _MM_FROUND_TO_NEAREST_INT), zero);

    return _mm512_min_ps(_mm512_max_ps(value, least), _mm512_set1_ps(127.0f));
}

/* n is a multiple of 32. The operand order of min and max ignores what is not a number. */
static void quantise_unsigned(const float *x, int64_t n, uint8_t *q, struct cabe_matmul_meta *meta)
{
    __m512 lo = _mm512_setzero_ps(), hi = _mm512_setzero_ps();
    const __m512 none = _mm512_setzero_ps();
    float least, range, inverse, zero[16];
    __mmask16 nan = 0;

    for (int64_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_loadu_ps(x + i);

        lo = _mm512_max_ps(_mm512_sub_ps(none, v), lo);
        hi = _mm512_max_ps(v, hi);
        nan |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    }
    least = -_mm512_reduce_max_ps(lo);
    range = nan ? NAN : _mm512_reduce_max_ps(hi) - least;
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
static void quantise_signed(enum cabe_dtype dtype, const float *x, uint8_t *q, uint8_t *to)
{
    const __m512 none = _mm512_setzero_ps();
    __m512 v[2] = {_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16)}, hi = none;
    struct cabe_matmul_meta meta = {0};
    struct cabe_matmul_meta6 meta6 = {0};
    float most, inverse;
    int32_t values[32], sum = 0;
    __mmask16 nan = 0;

    for (int j = 0; j < 2; j++) {
        hi = _mm512_max_ps(v[j], _mm512_max_ps(_mm512_sub_ps(none, v[j]), hi));
        nan |= _mm512_cmp_ps_mask(v[j], v[j], _CMP_UNORD_Q);
    }
    most = nan ? NAN : _mm512_reduce_max_ps(hi);
    inverse = most < CABE_A8_TINY ? 0.0f : 127.0f / most;
    meta6.scale = meta.scale = most < CABE_A8_TINY ? 0.0f : most / 127.0f;
    for (int j = 0; j < 2; j++) {
        __m512i some =
            _mm512_cvtps_epi32(quant_of(v[j], _mm512_set1_ps(inverse), none, _mm512_set1_ps(-127.0f)));

        _mm_storeu_si128((__m128i *)(void *)(q + j * 16), _mm512_cvtepi32_epi8(some));
        _mm512_storeu_si512(values + j * 16, some);
    }
    for (int j = 0; j < 32; j++) {
        sum += values[j];
        meta6.offset[j / 16][j / 2 % 2] = (int16_t)(meta6.offset[j / 16][j / 2 % 2] - 32 * values[j]);
    }
    if (dtype == CABE_Q4_1 || dtype == CABE_Q4_K)
        meta.sum = meta.scale * (float)sum;
    else
        meta.offset = dtype == CABE_Q4_0 ? -8 * sum : sum;
    if (dtype == CABE_Q6_K)
        memcpy(to, &meta6, sizeof meta6);
    else
        memcpy(to, &meta, sizeof meta);
}

static void quantise(enum cabe_dtype dtype, const float *x, int64_t k, uint8_t *record)
{
    struct cabe_matmul_meta *meta = (void *)(record + cabe_record_meta(k));
    float last[CABE_I8_BLOCK] = {0};
    int64_t i = 0;

    if (dtype != CABE_I8) {
        for (; i < k; i += 32)
            quantise_signed(dtype, x + i, record + i,
                            record + cabe_record_meta(k) + (uint64_t)(i / 32) * cabe_meta_bytes(dtype));
        return;
    }
    for (; i + CABE_I8_BLOCK <= k; i += CABE_I8_BLOCK)
        quantise_unsigned(x + i, CABE_I8_BLOCK, record + i, meta++);
    if (i < k) { /* zeros change neither the range nor, as their weights are zeros, the sums */
        memcpy(last, x + i, (size_t)(k - i) * sizeof(float));
        quantise_unsigned(last, cabe_record_k(k) - i, record + i, meta);
    }
}

const struct cabe_matmul_ints cabe_matmul_ints_avx512vnni = {
    .quantise = quantise, .unpack = unpack, .dot = dot, .unpack_rows = 24};
