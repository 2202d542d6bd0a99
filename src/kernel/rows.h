/*
 * Everything that is not a matrix product: conversions, norms, activations, gather, pooling, RoPE,
 * attention of packed sequences, and the scan of a row of scores.
 *
 * Error bounds against scalar are stated beside each entry; where none is stated the result is
 * bit-identical. Pointers need only the alignment of their type. n, c and ranges may be 0. A NaN or
 * an infinity in the input gives something that is not finite in the outputs that depend on it,
 * except where a comment says otherwise; it never reaches another row.
 */
#ifndef CABE_KERNEL_ROWS_H
#define CABE_KERNEL_ROWS_H

#include <stdint.h>

#include "tensor/graph.h"

struct cabe_rope_heads {
    enum cabe_rope style;
    int32_t n_heads, n_kv_heads, head_dim;
    int32_t n_rot;                  /* even, at most head_dim */
    const float *q_gamma, *k_gamma; /* [head_dim] each, or NULL: no norm */
    float eps;
};

struct cabe_row_kernels {
    /*
     * n elements of any dtype (blocks whole) to f32, and back for F32, F16, BF16, Q8_0, Q4_0.
     * Bit-identical, and equal to tensor/dtype.h and to GGUF's reference quantisers. I8 is widened
     * without its scale. Quantisers need finite input.
     */
    void (*to_f32)(enum cabe_dtype from, const void *in, float *out, int64_t n);
    void (*from_f32)(enum cabe_dtype to, const float *in, void *out, int64_t n);
    /*
     * A row to int8: scale = max|x| / 127, out = x * (127 / max|x|) to nearest even, within
     * -127..127; returns the scale. A row whose largest is below 2^-100 is zero with scale 0. What
     * is not finite makes the scale NaN.
     */
    float (*to_i8)(const float *in, int8_t *out, int64_t n);
    /* out = in * scale. */
    void (*from_i8)(const int8_t *in, float scale, float *out, int64_t n);

    /* Rows [begin, end) of: out = norm(x + residual) * gamma + beta. residual, beta may be NULL;
     * out may be x. 2e-6 relative to the row's largest. */
    void (*norm)(enum cabe_norm norm, float eps, const float *x, const float *residual,
                 const float *gamma, const float *beta, float *out, int64_t c, int64_t begin,
                 int64_t end);
    /* Elementwise over n. 2e-6 absolute + 2e-6 relative. In place is fine. */
    void (*act)(enum cabe_act act, const float *x, float *out, int64_t n);
    /* out = act(gate) * up, elementwise over n; out may be gate or up. The bound of act, times
     * |up|. */
    void (*glu)(enum cabe_act act, const float *gate, const float *up, float *out, int64_t n);
    /* out = a + b, a * b; out may be a or b. */
    void (*add)(const float *a, const float *b, float *out, int64_t n);
    void (*mul)(const float *a, const float *b, float *out, int64_t n);
    /*
     * Rows [begin, end) of out[t] = table[ids[t]] (* row_scale[ids[t]]); table is ROWS of `dtype`,
     * v rows, so that I8 is also multiplied by its own scale. Every id is in 0..v-1 (the caller
     * checks).
     */
    void (*gather)(enum cabe_dtype dtype, const void *table, int64_t v, int64_t c,
                   const int32_t *ids, const float *row_scale, float *out, int64_t begin,
                   int64_t end);
    /*
     * Sequences [begin, end): out[s] from rows offsets[s] .. offsets[s+1]. MEAN with row_weight is
     * sum(w x) / rows, the mean of scaled rows; FIRST and LAST ignore it. An empty sequence gives
     * zeros.
     */
    void (*pool)(enum cabe_pooling pool, const float *x, const int32_t *offsets,
                 const float *row_weight, int64_t c, float *out, int64_t begin, int64_t end);
    /* Rows [begin, end) divided by max(their L2 norm, eps); out may be x. 1e-6 relative. */
    void (*unit)(float eps, const float *x, float *out, int64_t c, int64_t begin, int64_t end);

    /*
     * Rows [begin, end) of the angles of RoPE: n cosines, then n sines, of positions[t] *
     * inv_freq[i], each times scale. In double and rounded once, so right to 1e-7 at any position;
     * the same code at every level.
     */
    void (*angles)(const int32_t *positions, const float *inv_freq, int64_t n, float scale,
                   float *out, int64_t begin, int64_t end);
    /*
     * Rows [begin, end) of out, laid out as x [t, (n_heads + 2 n_kv_heads) head_dim]: heads of q
     * and k divided by their RMS and times gamma where it is given, then their first n_rot channels
     * turned by the row's angles [t, n_rot]; v is copied. out may be x. 2e-6 relative to the head's
     * largest.
     */
    void (*rope)(const struct cabe_rope_heads *heads, const float *x, const float *angles,
                 float *out, int64_t begin, int64_t end);

    /*
     * One head of one sequence: q, k, v begin at the sequence's first row, rows `stride` floats
     * apart; n rows. Online softmax in tiles of keys anchored at 0, so a row depends on nothing but
     * its own sequence. `out` is none of the inputs. scratch: cabe_attention_scratch_bytes(),
     * aligned to 64. 4e-6 relative to max|v| while the scaled scores stay within +-20.
     */
    void (*attention)(const float *q, const float *k, const float *v, int64_t stride, int64_t n,
                      int64_t head_dim, float scale, enum cabe_mask mask, float *out,
                      int64_t out_stride, void *scratch);

    /* The positions i, ascending, where x[i] >= threshold; returns how many. `out` has room for n <
     * 2^32. */
    int64_t (*scan_ge)(const float *x, int64_t n, float threshold, uint32_t *out);
};

/* Scratch of one member for sequences of up to n_max rows; the same at every level. */
uint64_t cabe_attention_scratch_bytes(int64_t n_max, int64_t head_dim);

#endif
