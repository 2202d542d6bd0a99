/* What the build's base level gives, as plain C; the compiler uses the vectors that every such CPU has. */
#include "machine/peak.h"

#define LANES 32

static double run_f32(uint64_t n)
{
    float sum[LANES], scale = 0.999f, add = 0.001f, total = 0;

    for (int i = 0; i < LANES; i++)
        sum[i] = (float)i;
    for (uint64_t round = 0; round < n; round++) {
        for (int i = 0; i < LANES; i++)
            sum[i] = sum[i] * scale + add;
    }
    for (int i = 0; i < LANES; i++)
        total += sum[i];
    return (double)total;
}

static double run_int8(uint64_t n)
{
    int8_t a[LANES], b[LANES];
    int32_t sum[4] = {0};

    for (int i = 0; i < LANES; i++) {
        a[i] = (int8_t)i;
        b[i] = (int8_t)(2 * i);
    }
    for (uint64_t round = 0; round < n; round++) {
        __asm__ volatile("" : "+m"(a), "+m"(b)); /* so that the products are made anew */
        for (int i = 0; i < LANES; i++)
            sum[i % 4] = (int32_t)((uint32_t)sum[i % 4] + (uint32_t)(a[i] * b[i]));
    }
    return (double)sum[0] + sum[1] + sum[2] + sum[3];
}

static uint64_t read_u64(const void *data, uint64_t n)
{
    const uint64_t *word = data;
    uint64_t sum[4] = {0};

    for (uint64_t i = 0; i < n / 8; i += 4)
        for (int lane = 0; lane < 4; lane++)
            sum[lane] += word[i + (uint64_t)lane];
    return sum[0] + sum[1] + sum[2] + sum[3];
}

static const struct cabe_peak_way ways[] = {
    {"scalar", CABE_ARITH_F32, 0, 2 * LANES, run_f32},
    {"scalar", CABE_ARITH_INT8, 0, 2 * LANES, run_int8},
};

const struct cabe_peak_set cabe_peaks_scalar = {ways, sizeof ways / sizeof ways[0], read_u64, 0};
