/*
 * Everything that is not a matrix product: conversions, norms, activations, gather, pooling, attention of packed
 * sequences, dot products of stored rows.
 *
 * Error bounds against scalar are stated beside each entry; where none is stated the result is bit-identical.
 */
#ifndef CABE_KERNEL_ROWS_H
#define CABE_KERNEL_ROWS_H

#include <stdint.h>

#include "tensor/graph.h"

struct cabe_row_kernels {
    /* n elements of any dtype (blocks whole) to f32, and back for F32, F16, BF16, Q8_0, Q4_0. Bit-identical. */
    void (*to_f32)(enum cabe_dtype from, const void *in, float *out, int64_t n);
    void (*from_f32)(enum cabe_dtype to, const float *in, void *out, int64_t n);
    /* A row to int8: scale = max|x| / 127, round to nearest even; returns the scale (0 for a zero row). Bit-identical. */
    float (*to_i8)(const float *in, int8_t *out, int64_t n);

    /* Rows [begin, end) of: out = norm(x + residual) * gamma + beta. residual, beta may be NULL; out may be x. 2e-6 relative to the row's largest. */
    void (*norm)(enum cabe_norm norm, float eps, const float *x, const float *residual, const float *gamma,
                 const float *beta, float *out, int64_t c, int64_t begin, int64_t end);
    /* Elementwise over n. 2e-6 absolute + 2e-6 relative. In place is fine. */
    void (*act)(enum cabe_act act, const float *x, float *out, int64_t n);
    /* out = a + b, a * b. */
    void (*add)(const float *a, const float *b, float *out, int64_t n);
    void (*mul)(const float *a, const float *b, float *out, int64_t n);
    /* Rows [begin, end) of out[t] = table[ids[t]] (* row_scale[ids[t]]); table is ROWS of `dtype`, v rows. */
    void (*gather)(enum cabe_dtype dtype, const void *table, int64_t v, int64_t c, const int32_t *ids,
                   const float *row_scale, float *out, int64_t begin, int64_t end);
    /* Sequences [begin, end): out[s] from rows offsets[s] .. offsets[s+1]. An empty sequence gives zeros. */
    void (*pool)(enum cabe_pool pool, const float *x, const int32_t *offsets, const float *row_weight, int64_t c,
                 float *out, int64_t begin, int64_t end);
    void (*unit)(float eps, const float *x, float *out, int64_t c, int64_t begin, int64_t end);

    /*
     * One head of one sequence: q, k, v begin at the sequence's first row, rows `stride` floats apart; n rows.
     * Online softmax in tiles of keys anchored at 0. scratch: cabe_attention_scratch_bytes(). 4e-6 relative to max|v|.
     */
    void (*attention)(const float *q, const float *k, const float *v, int64_t stride, int64_t n, int64_t head_dim,
                      float scale, enum cabe_mask mask, float *out, int64_t out_stride, void *scratch);
};

/* Scratch of one member for sequences of up to n_max rows. */
uint64_t cabe_attention_scratch_bytes(int64_t n_max, int64_t head_dim);

#endif
