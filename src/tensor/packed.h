/*
 * How a weight lies in memory once it is fitted: the layouts that kernels read and the fitted copy stores.
 *
 * ROWS: rows one after another, each a run of dtype blocks; I8 rows are followed, after the last, by one f32 scale
 * per row. Gather tables, vectors and index rows.
 *
 * PANELS: a matrix [n, k] (n outputs, k inputs) as ceil(n/16) panels, each holding all k of 16 outputs, so that one
 * row of activations and many rows run the same sums. Outputs past n are zeros.
 *   F32, F16, BF16: [k][16] elements.
 *   Q8_0, Q4_0, I8: see the functions of kernel/matmul.h; quants of groups of 4 along k interleaved over the 16
 *   outputs, scales side by side.
 *
 * Everything here is arithmetic on sizes: no data is read.
 */
#ifndef CABE_TENSOR_PACKED_H
#define CABE_TENSOR_PACKED_H

#include <stdint.h>

#include "tensor/dtype.h"

enum cabe_packing { CABE_ROWS, CABE_PANELS };

#define CABE_PANEL 16 /* outputs side by side in a panel */

/* Whether a matrix of k inputs can be kept so (k a multiple of the block, a dtype that has such kernels). */
int cabe_packed_ok(enum cabe_dtype dtype, enum cabe_packing packing, int64_t n, int64_t k);
/* Exact bytes of [n, k]; a multiple of 64 for PANELS. UINT64_MAX on overflow. */
uint64_t cabe_packed_bytes(enum cabe_dtype dtype, enum cabe_packing packing, int64_t n, int64_t k);
/* Bytes from one panel to the next; panels can be packed and read one by one. */
uint64_t cabe_panel_bytes(enum cabe_dtype dtype, int64_t k);

#endif
