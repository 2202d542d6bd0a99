/*
 * Matrix products with packed weights: out[t, n] = act(x[t, k] . w[n, k]^T + bias[n]) + residual[t, n].
 *
 * One driver (matmul.c) walks rows and panels; a level provides micro-kernels and unpackers. Each output adds along
 * k in one order, whatever t and the partition, so one row and many rows agree to the bit.
 *
 * Precision HIGH: activations f32, weights widened to f32 in cache. INT8: activations quantised per row and block,
 * products in integers, scales applied per block; it concerns I8 and GGUF's quantised weights, floats are always HIGH.
 * Every CPU level gives the same bits, the activation function aside (rows.h).
 *
 * Packing is done once, when a model is fitted, a run of panels at a time, so that a conversion needs little memory.
 */
#ifndef CABE_KERNEL_MATMUL_H
#define CABE_KERNEL_MATMUL_H

#include <stdint.h>

#include "cabe/status.h"
#include "tensor/graph.h"
#include "tensor/packed.h"

struct cabe_kernels;

struct cabe_matmul { /* one product */
    const void *w;     /* PANELS of `dtype`, aligned to 64 */
    enum cabe_dtype dtype;
    int64_t n, k;
    const float *x;    /* [t, k], rows x_stride floats apart */
    int64_t t, x_stride;
    float *out;        /* [t, n], rows out_stride floats apart */
    int64_t out_stride;
    const float *bias;     /* [n] or NULL */
    const float *residual; /* [t, n], rows out_stride apart, or NULL; may be `out` itself */
    enum cabe_act act;
    enum cabe_precision precision;
};

/* Micro-kernels of a level; the owner of kernel/matmul.c decides what is in here. */
struct cabe_matmul_kernels {
    const struct cabe_matmul_floats *floats;
    const struct cabe_matmul_ints *ints;
};

/* Whether a product of such weights quantises its activations: prepare() has something to do. */
int cabe_matmul_quantises(enum cabe_dtype dtype, enum cabe_precision precision);

/* Bytes of scratch that one member needs for any product with t <= t_max, k <= k_max, aligned to 64. */
uint64_t cabe_matmul_scratch_bytes(const struct cabe_kernels *kernels, int64_t t_max, int64_t k_max);
/* Bytes of scratch shared by all members (quantised activations of the whole product), likewise. */
uint64_t cabe_matmul_shared_bytes(const struct cabe_kernels *kernels, int64_t t_max, int64_t k_max);

/*
 * The product in two steps, with a barrier between: prepare() quantises the activations of rows [begin, end) into
 * `shared` (nothing to do for HIGH); run() computes tiles. cabe_matmul_tiles() says how many tiles there are; members
 * take tile numbers in any order, each tile writes its own part of `out`.
 */
void cabe_matmul_prepare(const struct cabe_kernels *kernels, const struct cabe_matmul *mm, void *shared,
                         int64_t row_begin, int64_t row_end);
int64_t cabe_matmul_tiles(const struct cabe_kernels *kernels, const struct cabe_matmul *mm);
void cabe_matmul_run(const struct cabe_kernels *kernels, const struct cabe_matmul *mm, const void *shared,
                     void *scratch, int64_t tile_begin, int64_t tile_end);

/*
 * How a product is cut into tiles: for who runs few tiles at a time and wants to cut once. Up to CABE_MATMUL_OWN rows a
 * product takes as long as its weights take to read, and tiles are as small as they can be: take many at a time.
 */
#define CABE_MATMUL_OWN 8
struct cabe_matmul_plan {
    int64_t rows, n_row_blocks;       /* rows of a tile; the last block may have fewer */
    int64_t panels, n_groups;         /* panels of a tile; the last group may have fewer */
    int64_t n_panels, step;           /* of the product; of one call of a kernel */
    uint64_t panel_bytes, record_bytes;
    int in_integers, unpacks, is_few; /* weights are unpacked first; they are widened in registers */
};
void cabe_matmul_cut(const struct cabe_kernels *kernels, const struct cabe_matmul *mm, struct cabe_matmul_plan *plan);
/* Tiles are plan->n_row_blocks * plan->n_groups. */
void cabe_matmul_run_cut(const struct cabe_kernels *kernels, const struct cabe_matmul *mm,
                         const struct cabe_matmul_plan *plan, const void *shared, void *scratch, int64_t tile_begin,
                         int64_t tile_end);

/*
 * Packs panels [panel_begin, panel_end) of a matrix into `out` (cabe_panel_bytes() each). `rows` holds the source
 * rows of those panels (panel_begin * 16 is its first row), row-major, of dtype `from`; `n_rows` of them are real and
 * the rest of the last panel becomes zeros. F32, F16, BF16 to F32, F16, BF16, I8, Q8_0, Q4_0; Q8_0, Q4_0, Q4_1, Q4_K
 * and Q6_K each to itself. `scratch` has cabe_matmul_pack_scratch_bytes(k) bytes.
 * A NaN or infinity in the source is CABE_ERR_FORMAT naming row and column.
 */
uint64_t cabe_matmul_pack_scratch_bytes(int64_t k);
CABE_CHECKED enum cabe_status cabe_matmul_pack(enum cabe_dtype from, const void *rows, int64_t n_rows,
                                               enum cabe_dtype to, int64_t k, int64_t panel_begin, int64_t panel_end,
                                               void *scratch, void *out, struct cabe_error *err);

/* Output `row` of a matrix in panels as `k` floats, bit by bit what its dtype says: an embedding out of a tied head. */
void cabe_panel_row(enum cabe_dtype dtype, const void *panels, int64_t k, int64_t row, float *out);

#endif
