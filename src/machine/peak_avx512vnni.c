#include "machine/peak.h"

#include <stddef.h>

#if defined(__x86_64__)
#include <immintrin.h>

#define CHAINS 12

static double run_int8(uint64_t n)
{
    __m512i sum[CHAINS], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
    double total = 0;

    for (int i = 0; i < CHAINS; i++)
        sum[i] = _mm512_set1_epi32(i);
    for (uint64_t round = 0; round < n; round++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
    }
    for (int i = 0; i < CHAINS; i++)
        total += _mm_cvtsi128_si32(_mm512_castsi512_si128(sum[i]));
    return total;
}

static const struct cabe_peak_way ways[] = {
    {"avx512vnni", CABE_ARITH_INT8, CABE_SIMD_BIT(CABE_SIMD_AVX512) | CABE_SIMD_BIT(CABE_SIMD_AVX512VNNI),
     UINT64_C(2) * 64 * CHAINS, run_int8},
};

const struct cabe_peak_set cabe_peaks_avx512vnni = {ways, sizeof ways / sizeof ways[0], NULL, 0};
#endif
