/* simd.h on 8 lanes: AVX2, FMA, F16C. */
#ifndef CABE_KERNEL_SIMD_AVX2_H
#define CABE_KERNEL_SIMD_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LANES 8

typedef __m256 vf;
typedef __m256i vi;

#define SIMD static inline __attribute__((always_inline))

/* All ones in the first n lanes, 0 <= n <= LANES. */
SIMD __m256i v_mask(int64_t n)
{
    static const int32_t ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

    return _mm256_loadu_si256((const __m256i *)(const void *)(ones + LANES - n));
}

SIMD vf v_zero(void)
{
    return _mm256_setzero_ps();
}

SIMD vf v_set(float x)
{
    return _mm256_set1_ps(x);
}

SIMD vf v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

SIMD vf v_load_n(const float *p, int64_t n)
{
    return _mm256_maskload_ps(p, v_mask(n));
}

SIMD void v_store(float *p, vf x)
{
    _mm256_storeu_ps(p, x);
}

SIMD void v_store_n(float *p, vf x, int64_t n)
{
    _mm256_maskstore_ps(p, v_mask(n), x);
}

/* The first n lanes of x, the others of y. */
SIMD vf v_first(vf x, vf y, int64_t n)
{
    return _mm256_blendv_ps(y, x, _mm256_castsi256_ps(v_mask(n)));
}

SIMD vf v_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}

SIMD vf v_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}

SIMD vf v_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}

SIMD vf v_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}

SIMD vf v_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

/* a > b ? a : b, so b where one is NaN; min likewise. */
SIMD vf v_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}

SIMD vf v_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}

SIMD vf v_abs(vf x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

SIMD vf v_round(vf x)
{
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* Two neighbours change places. */
SIMD vf v_swap(vf x)
{
    return _mm256_permute_ps(x, 0xB1);
}

/* LANES / 2 floats, each twice. */
SIMD vf v_twice(const float *p)
{
    __m256 x = _mm256_castps128_ps256(_mm_loadu_ps(p));

    return _mm256_permutevar8x32_ps(x, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}

/* a b - c in even lanes, a b + c in odd ones. */
SIMD vf v_fma_turn(vf a, vf b, vf c)
{
    return _mm256_fmaddsub_ps(a, b, c);
}

/* One bit a lane. */
SIMD uint32_t v_ge_bits(vf a, vf b)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ));
}

/* 2^x of whole numbers -127..128 (as 0 and infinity at the ends). */
SIMD vf v_pow2(vf whole)
{
    __m256i bits = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));

    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 23));
}

SIMD float v_sum(vf x)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));

    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

SIMD float v_largest(vf x)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));

    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

SIMD vf v_from_i8(const int8_t *p)
{
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}

/* Whole numbers -128..127. */
SIMD void v_to_i8(int8_t *p, vf whole)
{
    __m256i x = _mm256_cvtps_epi32(whole);
    __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));

    _mm_storel_epi64((__m128i *)(void *)p, _mm_packs_epi16(half, half));
}

SIMD vf v_from_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

SIMD float v_one_f16(uint16_t bits)
{
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
}

SIMD void v_to_f16(uint16_t *p, vf x)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

SIMD vf v_from_bf16(const uint16_t *p)
{
    __m256i x = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));

    return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
}

SIMD void v_to_bf16(uint16_t *p, vf x)
{
    __m256i bits = _mm256_castps_si256(x), upper = _mm256_srli_epi32(bits, 16);
    __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    __m256i near = _mm256_srli_epi32(
        _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF))), 16);
    __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    __m256i y = _mm256_blendv_epi8(near, quiet, nan);

    y = _mm256_permute4x64_epi64(_mm256_packus_epi32(y, y), 0x08);
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_castsi256_si128(y));
}

#endif
