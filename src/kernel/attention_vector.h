/*
 * Attention of one head of one sequence, over simd.h.
 *
 * Keys go in tiles of ATTENTION_KEYS anchored at 0. A tile is turned to [head_dim][keys], so that the scores
 * of a few query rows against two vectors of keys are sums in registers; V is read where it lies. Query rows
 * go in groups of ATTENTION_ROWS, the last group repeating its last row, so each row runs the same sums
 * whatever its neighbours. Between tiles a row keeps its largest score, its sum of weights, and its weighted
 * values in `out`.
 *
 * Scores are kept times log2 e, so that weights are powers of 2.
 */
#ifndef CABE_KERNEL_ATTENTION_VECTOR_H
#define CABE_KERNEL_ATTENTION_VECTOR_H

#include <math.h>

#include "kernel/rows_shared.h"
#include "kernel/simd.h"

#define PAIR (2 * LANES)
#define ROWS ATTENTION_ROWS

struct head {
    const float *q, *k, *v;
    float *out;
    int64_t stride, out_stride, n, dim;
    float scale; /* times log2 e */
    int causal;
    float *keys;            /* [dim][width] of the tile */
    float *weights;         /* [ROWS][ATTENTION_KEYS] */
    float *largest, *total; /* [n] */
};

struct tile {
    int64_t first, n; /* keys */
    int64_t width;    /* n up to a multiple of PAIR */
};

SIMD void turn4(const float *in, int64_t stride, float *out, int64_t width)
{
    __m128 a = _mm_loadu_ps(in), b = _mm_loadu_ps(in + stride);
    __m128 c = _mm_loadu_ps(in + 2 * stride), d = _mm_loadu_ps(in + 3 * stride);

    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(out, a);
    _mm_storeu_ps(out + width, b);
    _mm_storeu_ps(out + 2 * width, c);
    _mm_storeu_ps(out + 3 * width, d);
}

static void turn_keys(const struct head *h, const struct tile *tile)
{
    const float *k = h->k + tile->first * h->stride;
    int64_t n4 = tile->n & ~INT64_C(3), dim4 = h->dim & ~INT64_C(3);

    for (int64_t j = 0; j < n4; j += 4)
        for (int64_t d = 0; d < dim4; d += 4)
            turn4(k + j * h->stride + d, h->stride, h->keys + d * tile->width + j, tile->width);
    for (int64_t j = 0; j < tile->n; j++)
        for (int64_t d = j < n4 ? dim4 : 0; d < h->dim; d++)
            h->keys[d * tile->width + j] = k[j * h->stride + d];
    for (int64_t d = 0; d < h->dim; d++)
        for (int64_t j = tile->n; j < tile->width; j++)
            h->keys[d * tile->width + j] = 0.0f;
}

/* Scores of ROWS queries against keys [g, g + PAIR) of the tile; those past a row's end become -infinity. */
SIMD void score_pair(const struct head *h, const struct tile *tile, const float *const q[ROWS],
                     const int64_t n_keys[ROWS], int64_t g, vf most[ROWS])
{
    const float *k = h->keys + g;
    vf s[ROWS][2];

#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++)
        s[r][0] = s[r][1] = v_zero();
    for (int64_t d = 0; d < h->dim; d++, k += tile->width) {
        vf k0 = v_load(k), k1 = v_load(k + LANES);

#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) {
            vf x = v_set(q[r][d]);

            s[r][0] = v_fma(x, k0, s[r][0]);
            s[r][1] = v_fma(x, k1, s[r][1]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int half = 0; half < 2; half++) {
            int64_t left = n_keys[r] - g - half * LANES;
            vf y = v_mul(s[r][half], v_set(h->scale));

            if (left < LANES)
                y = v_first(y, v_set(-INFINITY), left > 0 ? left : 0);
            most[r] = v_max(y, most[r]);
            v_store(h->weights + r * ATTENTION_KEYS + g + half * LANES, y);
        }
}

/* Turns row r's scores into weights relative to its largest so far; returns what older sums are multiplied
 * by. */
SIMD float weigh(const struct head *h, const struct tile *tile, int r, int64_t row, vf most)
{
    float old = tile->first ? h->largest[row] : -INFINITY, new = v_largest(most), shrink = 0.0f, start = 0.0f;
    float *w = h->weights + r * ATTENTION_KEYS;
    vf sum0 = v_zero(), sum1 = v_zero(), top;

    if (tile->first) {
        float power[LANES];

        new = new > old ? new : old;
        v_store(power, v_exp2(v_set(old - new)));
        shrink = power[0];
        start = h->total[row] * shrink;
    }
    top = v_set(new);
    for (int64_t g = 0; g < tile->width; g += PAIR) {
        vf a = v_exp2(v_sub(v_load(w + g), top)), b = v_exp2(v_sub(v_load(w + g + LANES), top));

        sum0 = v_add(sum0, a);
        sum1 = v_add(sum1, b);
        v_store(w + g, a);
        v_store(w + g + LANES, b);
    }
    h->largest[row] = new;
    h->total[row] = start + v_sum(v_add(sum0, sum1));
    return shrink;
}

/* Adds n_keys weighted rows of V to columns [d, d + PAIR) of ROWS outputs; `n` columns of them are real. */
SIMD void mix(const struct head *h, const struct tile *tile, int64_t n_keys, const float shrink[ROWS],
              const float finish[ROWS], float *const out[ROWS], int64_t d, int64_t n)
{
    int whole = n >= PAIR;
    int64_t n0 = n < LANES ? n : LANES, n1 = n - n0 < LANES ? n - n0 : LANES;
    const float *v = h->v + tile->first * h->stride + d, *w = h->weights;
    vf s[ROWS][2];

#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++)
        if (tile->first) {
            s[r][0] = v_mul(v_load_n(out[r] + d, n0), v_set(shrink[r]));
            s[r][1] = v_mul(v_load_n(out[r] + d + n0, n1), v_set(shrink[r]));
        } else {
            s[r][0] = s[r][1] = v_zero();
        }
    for (int64_t j = 0; j < n_keys; j++, v += h->stride) {
        vf v0 = whole ? v_load(v) : v_load_n(v, n0), v1 = whole ? v_load(v + LANES) : v_load_n(v + n0, n1);

#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) {
            vf x = v_set(w[r * ATTENTION_KEYS + j]);

            s[r][0] = v_fma(x, v0, s[r][0]);
            s[r][1] = v_fma(x, v1, s[r][1]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++) {
        v_store_n(out[r] + d, v_mul(s[r][0], v_set(finish[r])), n0);
        v_store_n(out[r] + d + n0, v_mul(s[r][1], v_set(finish[r])), n1);
    }
}

/* Query rows [i, i + ROWS) against one tile. */
static void attend_rows(const struct head *h, const struct tile *tile, int64_t i)
{
    const float *q[ROWS];
    float *out[ROWS], shrink[ROWS], finish[ROWS];
    int64_t n_keys[ROWS], n_most = 0;
    vf most[ROWS];

    for (int r = 0; r < ROWS; r++) {
        int64_t row = i + r < h->n ? i + r : h->n - 1, end = h->causal ? row + 1 : h->n;

        q[r] = h->q + row * h->stride;
        out[r] = h->out + row * h->out_stride;
        n_keys[r] = end - tile->first < tile->n ? end - tile->first : tile->n;
        n_most = n_keys[r] > n_most ? n_keys[r] : n_most;
        most[r] = v_set(-INFINITY);
    }
    for (int64_t g = 0; g < tile->width; g += PAIR)
        score_pair(h, tile, q, n_keys, g, most);
    for (int r = 0; r < ROWS; r++) {
        int64_t row = i + r < h->n ? i + r : h->n - 1, end = h->causal ? row + 1 : h->n;

        if (i + r == row) { /* a repeated row takes what its first turn made */
            shrink[r] = weigh(h, tile, r, row, most[r]);
        } else {
            memcpy(h->weights + r * ATTENTION_KEYS, h->weights + (r - 1) * ATTENTION_KEYS,
                   (size_t)tile->width * sizeof(float));
            shrink[r] = shrink[r - 1];
        }
        finish[r] = tile->first + tile->n >= end ? 1.0f / h->total[row] : 1.0f;
    }
    for (int64_t d = 0; d < h->dim; d += PAIR)
        mix(h, tile, n_most, shrink, finish, out, d, h->dim - d < PAIR ? h->dim - d : PAIR);
}

static void attention(const float *q, const float *k, const float *v, int64_t stride, int64_t n,
                      int64_t head_dim, float scale, enum cabe_mask mask, float *out, int64_t out_stride,
                      void *scratch)
{
    struct head h = {
        .q = q,
        .k = k,
        .v = v,
        .out = out,
        .stride = stride,
        .out_stride = out_stride,
        .n = n,
        .dim = head_dim,
        .scale = scale * 1.44269504088896340736f,
        .causal = mask == CABE_MASK_CAUSAL,
    };

    h.keys = scratch;
    h.weights = h.keys + head_dim * ATTENTION_KEYS;
    h.largest = h.weights + ROWS * ATTENTION_KEYS;
    h.total = h.largest + n;
    for (int64_t first = 0; first < n; first += ATTENTION_KEYS) {
        struct tile tile = {.first = first, .n = n - first < ATTENTION_KEYS ? n - first : ATTENTION_KEYS};

        tile.width = (tile.n + PAIR - 1) / PAIR * PAIR;
        turn_keys(&h, &tile);
        /* ATTENTION_ROWS divides ATTENTION_KEYS: a group of rows begins and ends with one causal tile */
        for (int64_t i = h.causal ? first : 0; i < n; i += ROWS)
            attend_rows(&h, &tile, i);
    }
}

#undef ROWS
#undef PAIR

#endif
