#include "machine/peak.h"

#include <stddef.h>

#if defined(__aarch64__)
#include <arm_neon.h>

#define CHAINS 16

static double run_f32(uint64_t n)
{
    float32x4_t sum[CHAINS], scale = vdupq_n_f32(0.999f), add = vdupq_n_f32(0.001f);
    double total = 0;

    for (int i = 0; i < CHAINS; i++)
        sum[i] = vdupq_n_f32((float)i);
    for (uint64_t round = 0; round < n; round++) {
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++)
            sum[i] = vfmaq_f32(sum[i], scale, add);
    }
    for (int i = 0; i < CHAINS; i++)
        total += (double)vgetq_lane_f32(sum[i], 0);
    return total;
}

static const struct cabe_peak_way ways[] = {
    {"neon", CABE_ARITH_F32, CABE_SIMD_BIT(CABE_SIMD_NEON), UINT64_C(2) * 4 * CHAINS, run_f32},
};

const struct cabe_peak_set cabe_peaks_neon = {ways, sizeof ways / sizeof ways[0], NULL, 0};
#endif
