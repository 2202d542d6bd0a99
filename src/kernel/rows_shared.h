/* What the row kernels of all levels agree on. */
#ifndef CABE_KERNEL_ROWS_SHARED_H
#define CABE_KERNEL_ROWS_SHARED_H

#include <stdint.h>
#include <string.h>

#include "tensor/dtype.h"

#define I8_ROW_MIN                                                                                 \
    0x1p-100f /* 127 / a largest value below this could overflow; the row counts as zero */

/* Attention: keys of one tile, and query rows that share a pass over it. Fixed: they decide the
 * order of the sums. */
#define ATTENTION_KEYS 128
#define ATTENTION_ROWS 4

/* Scale and minimum, 6 bits each, of block b of a Q4_K super-block; `packed` are its 12 bytes of
 * both. */
static inline void q4_k_scales(const uint8_t *packed, int b, int *scale, int *least)
{
    if (b < 4) {
        *scale = packed[b] & 63;
        *least = packed[4 + b] & 63;
    } else {
        *scale = (packed[4 + b] & 15) | packed[b - 4] >> 6 << 4;
        *least = packed[4 + b] >> 4 | packed[b] >> 6 << 4;
    }
}

/* What row `id` of a table is multiplied by: the scale of an I8 row, the caller's, both or 1. */
static inline float gather_scale(enum cabe_dtype dtype, const void *table, int64_t v,
                                 uint64_t row_bytes, int32_t id, const float *row_scale)
{
    float scale = 1.0f;

    if (dtype == CABE_I8) /* scales lie after the last row, at any alignment */
        memcpy(&scale,
               (const uint8_t *)table + (uint64_t)v * row_bytes + (uint64_t)id * sizeof scale,
               sizeof scale);
    return row_scale ? scale * row_scale[id] : scale;
}

#endif
