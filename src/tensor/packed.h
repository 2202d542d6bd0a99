/*
 * How a weight lies in memory once it is fitted: the layouts that kernels read and the fitted copy stores.
 *
 * ROWS: rows one after another, each a run of dtype blocks; I8 rows are followed, after the last, by one f32 scale
 * per row. Gather tables, vectors and index rows.
 *
 * PANELS: a matrix [n, k] (n outputs, k inputs) as ceil(n/16) panels, each holding all k of 16 outputs, so that one
 * row of activations and many rows run the same sums. Outputs past n are zeros. A panel is a multiple of 64 bytes and
 * the same on every CPU:
 *
 *   F32, F16, BF16  [k][16] elements, zero up to 64 bytes.
 *   Q8_0            [k/32][16] f16 scales, zero up to 64 bytes; then quants [k/4][16][4], signed bytes.
 *   Q4_0            scales likewise; then [k/32][4][16][4] bytes. Byte (g, j, i) of a block holds, of output j, the
 *                   element 4 g + i in its low nibble and 16 + 4 g + i in its high one; values are 0..15, minus 8.
 *   Q4_1            [k/32][2][16] f16 scales and minimums, block by block; then quants as those of Q4_0, not minus 8.
 *   Q4_K            [k/256] super-blocks of 2304 bytes: [16] f16 d, [16] f16 dmin, [12][16] bytes of scales (dtype.h),
 *                   then [8] blocks of quants as those of Q4_0, not minus 8.
 *   Q6_K            [k/256][16] f16 d, zero up to 64 bytes; then [k/256] super-blocks of 3328 bytes: [16][16] signed
 *                   byte scales, then [8] blocks of 32: nibbles as those of Q4_0, then [2][16][4] bytes of upper bits:
 *                   byte (h, j, i) holds, lowest first, those of elements 8 h + i, 8 h + 4 + i, 16 + 8 h + i and
 *                   20 + 8 h + i. Values are 0..63, minus 32.
 *   I8              [blocks][16] f32 scales; [blocks][16] i32 sums of a block's quants; quants [kp/4][16][4], signed
 *                   bytes in -64..64. kp is k rounded up to 32, zeros past k; a block is CABE_I8_BLOCK inputs, the
 *                   last may have fewer. Seven bits, because four products with activations of seven bits then add
 *                   up in int16 (4 * 127 * 64 = 32512), which makes AVX2 a third faster than eight bits would.
 *
 * Everything here is arithmetic on sizes: no data is read.
 */
#ifndef CABE_TENSOR_PACKED_H
#define CABE_TENSOR_PACKED_H

#include <stdint.h>

#include "tensor/dtype.h"

enum cabe_packing { CABE_ROWS, CABE_PANELS };

#define CABE_PANEL 16     /* outputs side by side in a panel */
#define CABE_I8_BLOCK 128 /* inputs that share a scale in an I8 panel */
#define CABE_I8_MAX 64    /* largest magnitude of a quant in an I8 panel */

#define CABE_Q4_K_SUPER 2304 /* bytes of a super-block of a panel, and where its quants begin */
#define CABE_Q4_K_QUANTS 256
#define CABE_Q6_K_SUPER 3328
#define CABE_Q6_K_QUANTS 256
#define CABE_Q6_K_BLOCK 384 /* bytes of 32 inputs: nibbles, then from 256 on upper bits */

/* Whether a matrix of k inputs can be kept so (k a multiple of the block, a dtype that has such kernels). */
int cabe_packed_ok(enum cabe_dtype dtype, enum cabe_packing packing, int64_t n, int64_t k);
/* Exact bytes of [n, k]; a multiple of 64 for PANELS. UINT64_MAX on overflow. */
uint64_t cabe_packed_bytes(enum cabe_dtype dtype, enum cabe_packing packing, int64_t n, int64_t k);
/* Bytes from one panel to the next; panels can be packed and read one by one. UINT64_MAX on overflow. */
uint64_t cabe_panel_bytes(enum cabe_dtype dtype, int64_t k);
/* Where the quants of a Q8_0, Q4_0, Q4_1 or I8 panel begin, the super-blocks of Q4_K (0) and Q6_K: after scales, sums. */
uint64_t cabe_panel_quants(enum cabe_dtype dtype, int64_t k);

#endif
