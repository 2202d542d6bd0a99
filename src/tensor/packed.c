#include "tensor/packed.h"

#define LARGEST_K (INT64_C(1) << 56) /* no sum or product of a panel's sizes overflows below it */

static uint64_t round_up(uint64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static int has_panels(enum cabe_dtype dtype)
{
    return dtype == CABE_F32 || dtype == CABE_F16 || dtype == CABE_BF16 || dtype == CABE_I8 || dtype == CABE_Q8_0 ||
           dtype == CABE_Q4_0 || dtype == CABE_Q4_1 || dtype == CABE_Q4_K || dtype == CABE_Q6_K;
}

static int has_rows(enum cabe_dtype dtype)
{
    return has_panels(dtype) || dtype == CABE_I32;
}

int cabe_packed_ok(enum cabe_dtype dtype, enum cabe_packing packing, int64_t n, int64_t k)
{
    if ((unsigned)dtype >= CABE_N_DTYPES || n < 0 || k < 0 || k % cabe_dtype_block(dtype) != 0)
        return 0;
    if (!(packing == CABE_PANELS ? has_panels(dtype) : has_rows(dtype)))
        return 0;
    return cabe_packed_bytes(dtype, packing, n, k) != UINT64_MAX;
}

uint64_t cabe_panel_quants(enum cabe_dtype dtype, int64_t k)
{
    uint64_t blocks = (uint64_t)(k + CABE_I8_BLOCK - 1) / CABE_I8_BLOCK;

    switch (dtype) {
    case CABE_Q8_0:
    case CABE_Q4_0:
        return round_up((uint64_t)k / 32 * CABE_PANEL * sizeof(uint16_t));
    case CABE_Q4_1:
        return (uint64_t)k / 32 * 2 * CABE_PANEL * sizeof(uint16_t);
    case CABE_Q6_K:
        return round_up((uint64_t)k / 256 * CABE_PANEL * sizeof(uint16_t));
    case CABE_I8:
        return blocks * CABE_PANEL * (sizeof(float) + sizeof(int32_t));
    default:
        return 0;
    }
}

uint64_t cabe_panel_bytes(enum cabe_dtype dtype, int64_t k)
{
    uint64_t padded;

    if (k < 0 || k > LARGEST_K)
        return UINT64_MAX;
    switch (dtype) {
    case CABE_Q8_0:
        return cabe_panel_quants(dtype, k) + (uint64_t)k * CABE_PANEL;
    case CABE_Q4_0:
    case CABE_Q4_1:
        return cabe_panel_quants(dtype, k) + (uint64_t)k * CABE_PANEL / 2;
    case CABE_Q4_K:
        return (uint64_t)k / 256 * CABE_Q4_K_SUPER;
    case CABE_Q6_K:
        return cabe_panel_quants(dtype, k) + (uint64_t)k / 256 * CABE_Q6_K_SUPER;
    case CABE_I8:
        padded = ((uint64_t)k + 31) / 32 * 32;
        return cabe_panel_quants(dtype, k) + padded * CABE_PANEL;
    default:
        return round_up(cabe_dtype_bytes(dtype, k) * CABE_PANEL);
    }
}

uint64_t cabe_packed_bytes(enum cabe_dtype dtype, enum cabe_packing packing, int64_t n, int64_t k)
{
    uint64_t row, bytes, scales;

    if (n < 0 || k < 0 || k > LARGEST_K)
        return UINT64_MAX;
    if (packing == CABE_PANELS) {
        uint64_t panels = (uint64_t)n / CABE_PANEL + (n % CABE_PANEL != 0);

        return __builtin_mul_overflow(panels, cabe_panel_bytes(dtype, k), &bytes) ? UINT64_MAX : bytes;
    }
    row = cabe_dtype_bytes(dtype, k);
    if (__builtin_mul_overflow((uint64_t)n, row, &bytes))
        return UINT64_MAX;
    scales = dtype == CABE_I8 ? (uint64_t)n * sizeof(float) : 0;
    if ((uint64_t)n > UINT64_MAX / sizeof(float) || __builtin_add_overflow(bytes, scales, &bytes))
        return UINT64_MAX;
    return bytes;
}
