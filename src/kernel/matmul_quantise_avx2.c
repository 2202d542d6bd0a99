/* Activations to integers on AVX2, for matmul_int_avx2.c; matmul_level.h says what a record is. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernel/matmul_level.h"

#define INLINE static inline __attribute__((always_inline))

INLINE float largest(__m256 x)
{
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));

    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

/* 32 values already scaled, rounded and clamped within int8, to bytes in order. */
INLINE __m256i to_bytes(const __m256 v[4])
{
    __m256i a = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
    __m256i b = _mm256_packs_epi32(_mm256_cvtps_epi32(v[2]), _mm256_cvtps_epi32(v[3]));

    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

INLINE __m256 rounded(__m256 x)
{
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* Of magnitudes as integers, which puts what is not a number above all others. */
INLINE float largest_bits(__m256i x)
{
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));

    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xB1));
    return _mm_cvtss_f32(_mm_castsi128_ps(four));
}

/* n is a multiple of 32. The operand order of min and max ignores what is not a number. */
INLINE void quantise_unsigned(const float *x, int64_t n, uint8_t *q, struct cabe_matmul_meta *meta)
{
    __m256 lo = _mm256_setzero_ps(), hi = _mm256_setzero_ps(), zeros = _mm256_setzero_ps();
    const __m256 most = _mm256_set1_ps(127.0f);
    __m256 none = _mm256_setzero_ps(); /* where a NaN was */
    float least, range, zero;

    for (int64_t i = 0; i < n; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);

        lo = _mm256_min_ps(v, lo);
        hi = _mm256_max_ps(v, hi);
        none = _mm256_or_ps(none, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    }
    least = -largest(_mm256_sub_ps(_mm256_setzero_ps(), lo));
    range = _mm256_movemask_ps(none) ? NAN : largest(hi) - least;
    meta->scale = range < CABE_A8_TINY ? 0.0f : range / 127.0f;
    range = range < CABE_A8_TINY ? 0.0f : 127.0f / range;
    zero = _mm_cvtss_f32(_mm_round_ss(_mm_setzero_ps(), _mm_set_ss(-least * range), _MM_FROUND_TO_NEAREST_INT));
    zero = zero > 0.0f ? zero < 127.0f ? zero : 127.0f : 0.0f;
    meta->offset = (int32_t)zero;
    for (int64_t i = 0; i < n; i += 32) {
        __m256 v[4];

        for (int j = 0; j < 4; j++) {
            v[j] = rounded(_mm256_mul_ps(_mm256_loadu_ps(x + i + j * 8), _mm256_set1_ps(range)));
            v[j] = _mm256_min_ps(_mm256_max_ps(_mm256_add_ps(v[j], _mm256_set1_ps(zero)), zeros), most);
        }
        _mm256_storeu_si256((__m256i *)(void *)(q + i), to_bytes(v));
    }
}

/* 32 values to quants; their scale. 127 / magnitude times a value rounds to 127 at most, so that only what is not a
 * number, and becomes -127, needs a limit. */
INLINE __m256i quantise_signed(const float *x, uint8_t *q, float *scale)
{
    const __m256 sign = _mm256_set1_ps(-0.0f), least = _mm256_set1_ps(-127.0f);
    __m256i bytes, hi = _mm256_setzero_si256();
    float magnitude, inverse;
    __m256 v[4];

#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        v[j] = _mm256_loadu_ps(x + j * 8);
        hi = _mm256_max_epi32(_mm256_castps_si256(_mm256_andnot_ps(sign, v[j])), hi);
    }
    magnitude = largest_bits(hi);
    inverse = magnitude < CABE_A8_TINY ? 0.0f : 127.0f / magnitude;
    *scale = magnitude < CABE_A8_TINY ? 0.0f : magnitude / 127.0f;
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++)
        v[j] = _mm256_max_ps(_mm256_mul_ps(v[j], _mm256_set1_ps(inverse)), least);
    bytes = to_bytes(v);
    _mm256_storeu_si256((__m256i *)(void *)q, bytes);
    return bytes;
}

/* Sums of pairs of 32 quants, 16 bits each. */
INLINE __m256i pair_sums(__m256i quants)
{
    return _mm256_maddubs_epi16(_mm256_set1_epi8(1), quants);
}

INLINE int32_t block_sum(__m256i quants)
{
    __m256i sum = _mm256_madd_epi16(pair_sums(quants), _mm256_set1_epi16(1));
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));

    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xB1)));
}

/* - 32 times the sums of even and of odd pairs, of each half of the block. */
INLINE void half_sums(__m256i quants, int16_t offset[2][2])
{
    __m256i sum = pair_sums(quants);

    sum = _mm256_add_epi16(sum, _mm256_shuffle_epi32(sum, 0x4E));
    sum = _mm256_add_epi16(sum, _mm256_shuffle_epi32(sum, 0xB1));
    sum = _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_slli_epi16(sum, 5));
    for (int half = 0; half < 2; half++) {
        int32_t two = half ? _mm256_extract_epi32(sum, 4) : _mm256_extract_epi32(sum, 0);

        memcpy(offset[half], &two, sizeof two);
    }
}

static void quantise_blocks(enum cabe_dtype dtype, const float *x, int64_t k, uint8_t *record)
{
    uint8_t *metas = record + cabe_record_meta(k);

    for (int64_t i = 0; i < k; i += 32, metas += cabe_meta_bytes(dtype)) {
        float scale;
        __m256i quants = quantise_signed(x + i, record + i, &scale);

        if (dtype == CABE_Q6_K) {
            struct cabe_matmul_meta6 *meta = (void *)metas;

            meta->scale = scale;
            half_sums(quants, meta->offset);
        } else {
            struct cabe_matmul_meta *meta = (void *)metas;

            meta->scale = scale;
            if (dtype == CABE_Q4_1 || dtype == CABE_Q4_K)
                meta->sum = scale * (float)block_sum(quants);
            else
                meta->offset = block_sum(quants) * (dtype == CABE_Q4_0 ? -8 : 1);
        }
    }
}

void cabe_matmul_quantise_avx2(enum cabe_dtype dtype, const float *x, int64_t k, uint8_t *record)
{
    struct cabe_matmul_meta *meta = (void *)(record + cabe_record_meta(k));
    float last[CABE_I8_BLOCK] = {0};
    int64_t i = 0;

    if (dtype != CABE_I8) {
        quantise_blocks(dtype, x, k, record);
        return;
    }
    for (; i + CABE_I8_BLOCK <= k; i += CABE_I8_BLOCK)
        quantise_unsigned(x + i, CABE_I8_BLOCK, record + i, meta++);
    if (i < k) { /* zeros change neither the range nor, as their weights are zeros, the sums */
        memcpy(last, x + i, (size_t)(k - i) * sizeof(float));
        quantise_unsigned(last, cabe_record_k(k) - i, record + i, meta);
    }
}
