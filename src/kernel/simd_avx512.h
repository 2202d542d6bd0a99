/* simd.h on 16 lanes: AVX-512 F, BW, DQ, VL. */
#ifndef CABE_KERNEL_SIMD_AVX512_H
#define CABE_KERNEL_SIMD_AVX512_H

#ifndef CABE_SIMD_EMULATED /* a test that runs these on another CPU has declared the intrinsics    \
                              itself */
#include <immintrin.h>
#endif
#include <stdint.h>
#include <string.h>

#define LANES 16

typedef __m512 vf;
typedef __m512i vi;

#define SIMD static inline __attribute__((always_inline))

/* The first n lanes, 0 <= n <= LANES. */
SIMD __mmask16 v_mask(int64_t n)
{
    return (__mmask16)((1u << n) - 1u);
}

SIMD vf v_zero(void)
{
    return _mm512_setzero_ps();
}

SIMD vf v_set(float x)
{
    return _mm512_set1_ps(x);
}

SIMD vf v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

SIMD vf v_load_n(const float *p, int64_t n)
{
    return _mm512_maskz_loadu_ps(v_mask(n), p);
}

SIMD void v_store(float *p, vf x)
{
    _mm512_storeu_ps(p, x);
}

SIMD void v_store_n(float *p, vf x, int64_t n)
{
    _mm512_mask_storeu_ps(p, v_mask(n), x);
}

/* The first n lanes of x, the others of y. */
SIMD vf v_first(vf x, vf y, int64_t n)
{
    return _mm512_mask_blend_ps(v_mask(n), y, x);
}

SIMD vf v_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

SIMD vf v_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}

SIMD vf v_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

SIMD vf v_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}

SIMD vf v_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* a > b ? a : b, so b where one is NaN; min likewise. */
SIMD vf v_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

SIMD vf v_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

SIMD vf v_abs(vf x)
{
    return _mm512_abs_ps(x);
}

SIMD vf v_round(vf x)
{
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* Two neighbours change places. */
SIMD vf v_swap(vf x)
{
    return _mm512_permutexvar_ps(
        _mm512_setr_epi32(1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14), x);
}

/* LANES / 2 floats, each twice. */
SIMD vf v_twice(const float *p)
{
    __m512 x = _mm512_castps256_ps512(_mm256_loadu_ps(p));

    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7),
                                 x);
}

/* a b - c in even lanes, a b + c in odd ones. */
SIMD vf v_fma_turn(vf a, vf b, vf c)
{
    __m512i sign = _mm512_set1_epi64(INT64_C(0x80000000)); /* of even lanes */

    return _mm512_fmadd_ps(a, b,
                           _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(c), sign)));
}

/* One bit a lane. */
SIMD uint32_t v_ge_bits(vf a, vf b)
{
    return (uint32_t)_mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}

/* 2^x of whole numbers -127..128 (as 0 and infinity at the ends). */
SIMD vf v_pow2(vf whole)
{
    __m512i bits = _mm512_add_epi32(_mm512_cvtps_epi32(whole), _mm512_set1_epi32(127));

    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 23));
}

SIMD float v_sum(vf x)
{
    return _mm512_reduce_add_ps(x);
}

SIMD float v_largest(vf x)
{
    return _mm512_reduce_max_ps(x);
}

SIMD vf v_from_i8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}

/* Whole numbers -128..127. */
SIMD void v_to_i8(int8_t *p, vf whole)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(whole)));
}

SIMD vf v_from_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

SIMD float v_one_f16(uint16_t bits)
{
    __m512 wide = _mm512_cvtph_ps(_mm256_set_epi64x(0, 0, 0, bits));

    return _mm_cvtss_f32(_mm512_castps512_ps128(wide));
}

SIMD void v_to_f16(uint16_t *p, vf x)
{
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

SIMD vf v_from_bf16(const uint16_t *p)
{
    __m512i x = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));

    return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
}

SIMD void v_to_bf16(uint16_t *p, vf x)
{
    __m512i bits = _mm512_castps_si512(x), upper = _mm512_srli_epi32(bits, 16);
    __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    __m512i near = _mm512_srli_epi32(
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF))), 16);
    __m512i quiet = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
    __m512i y = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), near, quiet);

    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(y));
}

#endif
