#include "machine/peak.h"

#include <stddef.h>

#if defined(__x86_64__)
#include <immintrin.h>

#define CHAINS 12

static double run_f32(uint64_t n)
{
    __m512 sum[CHAINS], scale = _mm512_set1_ps(0.999f), add = _mm512_set1_ps(0.001f);
    double total = 0;

    for (int i = 0; i < CHAINS; i++)
        sum[i] = _mm512_set1_ps((float)i);
    for (uint64_t round = 0; round < n; round++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            sum[i] = _mm512_fmadd_ps(sum[i], scale, add);
    }
    for (int i = 0; i < CHAINS; i++)
        total += (double)_mm512_cvtss_f32(sum[i]);
    return total;
}

static double run_int8(uint64_t n)
{
    __m512i sum[4], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5), ones = _mm512_set1_epi16(1);
    double total = 0;

    for (int i = 0; i < 4; i++)
        sum[i] = _mm512_setzero_si512();
    for (uint64_t round = 0; round < n; round++) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            __asm__ volatile("" : "+v"(a)); /* so that the product is made anew */
            sum[i] = _mm512_add_epi32(sum[i], _mm512_madd_epi16(_mm512_maddubs_epi16(a, b), ones));
        }
    }
    for (int i = 0; i < 4; i++)
        total += _mm_cvtsi128_si32(_mm512_castsi512_si128(sum[i]));
    return total;
}

/*
 * Half precision and bf16 are no part of the level's flags: these two functions alone are compiled for them.
 * ISO C has no type for the halves, and clang 14 no intrinsics, so the instruction stands here itself.
 */
__attribute__((target("avx512fp16"))) static double run_f16(uint64_t n)
{
    __m512i sum[CHAINS], half = _mm512_set1_epi16(0x3800), quarter = _mm512_set1_epi16(0x3400);
    double total = 0;

    for (int i = 0; i < CHAINS; i++)
        sum[i] = quarter;
    for (uint64_t round = 0; round < n; round++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            __asm__("vfmadd213ph %2, %1, %0" : "+v"(sum[i]) : "v"(half), "v"(quarter));
    }
    for (int i = 0; i < CHAINS; i++)
        total += _mm_cvtsi128_si32(_mm512_castsi512_si128(sum[i]));
    return total;
}

__attribute__((target("avx512bf16"))) static double run_bf16(uint64_t n)
{
    __m512 sum[CHAINS];
    __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(0.5f));
    double total = 0;

    for (int i = 0; i < CHAINS; i++)
        sum[i] = _mm512_set1_ps((float)i);
    for (uint64_t round = 0; round < n; round++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            sum[i] = _mm512_dpbf16_ps(sum[i], a, a);
    }
    for (int i = 0; i < CHAINS; i++)
        total += (double)_mm512_cvtss_f32(sum[i]);
    return total;
}

#define NEEDS (CABE_SIMD_BIT(CABE_SIMD_AVX512) | CABE_SIMD_BIT(CABE_SIMD_FMA))

static const struct cabe_peak_way ways[] = {
    {"avx512", CABE_ARITH_F32, NEEDS, UINT64_C(2) * 16 * CHAINS, run_f32},
    {"avx512", CABE_ARITH_INT8, NEEDS, UINT64_C(2) * 64 * 4, run_int8},
    {"avx512fp16", CABE_ARITH_F16, NEEDS | CABE_SIMD_BIT(CABE_SIMD_AVX512FP16), UINT64_C(2) * 32 * CHAINS,
     run_f16},
    {"avx512bf16", CABE_ARITH_BF16, NEEDS | CABE_SIMD_BIT(CABE_SIMD_AVX512BF16), UINT64_C(2) * 32 * CHAINS,
     run_bf16},
};

const struct cabe_peak_set cabe_peaks_avx512 = {ways, sizeof ways / sizeof ways[0], NULL, 0};
#endif
