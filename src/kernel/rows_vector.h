/* The row kernels written once over simd.h; a level file includes this and exports the table. */
#ifndef CABE_KERNEL_ROWS_VECTOR_H
#define CABE_KERNEL_ROWS_VECTOR_H

#include <math.h>
#include <string.h>

#include "kernel/attention_vector.h"
#include "kernel/levels.h"
#include "kernel/rows_shared.h"
#include "kernel/simd.h"

#define BLOCK 32
#define SUPER 256

/* Short runs of narrow elements go through a buffer, so that nothing past the end is touched. */
static void widen_tail(enum cabe_dtype from, const void *in, float *out, int64_t n)
{
    uint16_t buffer[LANES] = {0};

    memcpy(buffer, in, (size_t)n * (from == CABE_I8 ? 1 : 2));
    if (from == CABE_I8)
        v_store_n(out, v_from_i8((const int8_t *)buffer), n);
    else
        v_store_n(out, from == CABE_F16 ? v_from_f16(buffer) : v_from_bf16(buffer), n);
}

static void widen_f16(const uint16_t *in, float *out, int64_t n)
{
    int64_t i = 0;

    for (; i + LANES <= n; i += LANES)
        v_store(out + i, v_from_f16(in + i));
    if (i < n)
        widen_tail(CABE_F16, in + i, out + i, n - i);
}

static void widen_bf16(const uint16_t *in, float *out, int64_t n)
{
    int64_t i = 0;

    for (; i + LANES <= n; i += LANES)
        v_store(out + i, v_from_bf16(in + i));
    if (i < n)
        widen_tail(CABE_BF16, in + i, out + i, n - i);
}

/* `scale` 1 is exact, so one loop serves scaled and plain rows. */
static void from_i8(const int8_t *in, float scale, float *out, int64_t n)
{
    int64_t i = 0;

    for (; i + LANES <= n; i += LANES)
        v_store(out + i, v_mul(v_from_i8(in + i), v_set(scale)));
    if (i < n) {
        widen_tail(CABE_I8, in + i, out + i, n - i);
        v_store_n(out + i, v_mul(v_load_n(out + i, n - i), v_set(scale)), n - i);
    }
}

static float block_scale(const uint8_t *bytes)
{
    uint16_t bits;

    memcpy(&bits, bytes, sizeof bits);
    return v_one_f16(bits);
}

/* Of 16 bytes the low nibbles, minus `bias`, to low[16], the high ones to high[16]. */
SIMD void nibbles(const uint8_t *in, int bias, int8_t *low, int8_t *high)
{
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)in), mask = _mm_set1_epi8(15);
    __m128i minus = _mm_set1_epi8((char)bias);

    _mm_storeu_si128((__m128i *)(void *)low, _mm_sub_epi8(_mm_and_si128(x, mask), minus));
    _mm_storeu_si128((__m128i *)(void *)high,
                     _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(x, 4), mask), minus));
}

static void widen_q4_0(const uint8_t *in, float *out, int64_t n_blocks)
{
    int8_t q[BLOCK];

    for (int64_t b = 0; b < n_blocks; b++, in += 18, out += BLOCK) {
        nibbles(in + 2, 8, q, q + BLOCK / 2);
        from_i8(q, block_scale(in), out, BLOCK);
    }
}

/* Products of block formats are exact, so a fused sum rounds as scalar's does. */
SIMD void widen_block(const int8_t *q, float scale, float least, float *out, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES)
        v_store(out + i, v_fma(v_from_i8(q + i), v_set(scale), v_set(least)));
}

static void widen_q4_1(const uint8_t *in, float *out, int64_t n_blocks)
{
    int8_t q[BLOCK];

    for (int64_t b = 0; b < n_blocks; b++, in += 20, out += BLOCK) {
        nibbles(in + 4, 0, q, q + BLOCK / 2);
        widen_block(q, block_scale(in), block_scale(in + 2), out, BLOCK);
    }
}

static void widen_q4_k(const uint8_t *in, float *out, int64_t n_supers)
{
    int8_t q[2 * BLOCK];

    for (int64_t s = 0; s < n_supers; s++, in += 144, out += SUPER) {
        float d = block_scale(in), dmin = block_scale(in + 2);

        for (int b = 0; b < SUPER / BLOCK; b += 2) {
            const uint8_t *quants = in + 16 + b / 2 * BLOCK;
            int scale, least;

            nibbles(quants, 0, q, q + BLOCK);
            nibbles(quants + 16, 0, q + 16, q + BLOCK + 16);
            q4_k_scales(in + 4, b, &scale, &least);
            widen_block(q, d * (float)scale, -(dmin * (float)least), out + b * BLOCK, BLOCK);
            q4_k_scales(in + 4, b + 1, &scale, &least);
            widen_block(q + BLOCK, d * (float)scale, -(dmin * (float)least), out + (b + 1) * BLOCK,
                        BLOCK);
        }
    }
}

static void widen_q6_k(const uint8_t *in, float *out, int64_t n_supers)
{
    int8_t q[SUPER];

    for (int64_t s = 0; s < n_supers; s++, in += 210, out += SUPER) {
        const int8_t *scales = (const int8_t *)in + 192;
        float d = block_scale(in + 208);

        for (int part = 0; part < 8; part++) {
            const uint8_t *low = in + part / 4 * 64 + part % 2 * 32,
                          *high = in + 128 + part / 4 * 32;
            int nibble = part % 4 / 2 * 4, pair = part % 4 * 2;

            for (int l = 0; l < 32; l++)
                q[part * 32 + l] =
                    (int8_t)(((low[l] >> nibble & 15) | (high[l] >> pair & 3) << 4) - 32);
        }
        for (int i = 0; i < 16; i++)
            from_i8(q + i * 16, d * (float)scales[i], out + i * 16, 16);
    }
}

static void to_f32(enum cabe_dtype from, const void *in, float *out, int64_t n)
{
    switch (from) {
    case CABE_F16:
        widen_f16(in, out, n);
        break;
    case CABE_BF16:
        widen_bf16(in, out, n);
        break;
    case CABE_I8:
        from_i8(in, 1.0f, out, n);
        break;
    case CABE_Q8_0:
        for (int64_t b = 0; b < n / BLOCK; b++) {
            const uint8_t *block = (const uint8_t *)in + b * 34;

            from_i8((const int8_t *)block + 2, block_scale(block), out + b * BLOCK, BLOCK);
        }
        break;
    case CABE_Q4_0:
        widen_q4_0(in, out, n / BLOCK);
        break;
    case CABE_Q4_1:
        widen_q4_1(in, out, n / BLOCK);
        break;
    case CABE_Q4_K:
        widen_q4_k(in, out, n / SUPER);
        break;
    case CABE_Q6_K:
        widen_q6_k(in, out, n / SUPER);
        break;
    default:
        cabe_rows_scalar.to_f32(from, in, out, n);
    }
}

static void narrow(enum cabe_dtype to, const float *in, uint16_t *out, int64_t n)
{
    uint16_t buffer[LANES];
    int64_t i = 0;

    for (; i + LANES <= n; i += LANES)
        if (to == CABE_F16)
            v_to_f16(out + i, v_load(in + i));
        else
            v_to_bf16(out + i, v_load(in + i));
    if (i == n)
        return;
    if (to == CABE_F16)
        v_to_f16(buffer, v_load_n(in + i, n - i));
    else
        v_to_bf16(buffer, v_load_n(in + i, n - i));
    memcpy(out + i, buffer, (size_t)(n - i) * sizeof buffer[0]);
}

/* Weights are quantised once, when a model is fitted: the blocks stay scalar's. */
static void from_f32(enum cabe_dtype to, const float *in, void *out, int64_t n)
{
    if (to == CABE_F16 || to == CABE_BF16)
        narrow(to, in, out, n);
    else
        cabe_rows_scalar.from_f32(to, in, out, n);
}

static float to_i8(const float *in, int8_t *out, int64_t n)
{
    vf most = v_zero(), zeros = v_zero(), inverse, limit = v_set(127.0f), low = v_set(-127.0f), x;
    float largest;
    int64_t i = 0;

    for (; i + LANES <= n; i += LANES) {
        x = v_load(in + i);
        most = v_max(v_abs(x), most);
        zeros = v_fma(x, v_zero(), zeros); /* NaN from what is not finite */
    }
    if (i < n) {
        x = v_load_n(in + i, n - i);
        most = v_max(v_abs(x), most);
        zeros = v_fma(x, v_zero(), zeros);
    }
    largest = v_sum(zeros) == 0.0f ? v_largest(most) : NAN;
    if (largest < I8_ROW_MIN) {
        memset(out, 0, (size_t)n);
        return 0.0f;
    }
    inverse = v_set(127.0f / largest);
    for (i = 0; i + LANES <= n; i += LANES)
        v_to_i8(out + i, v_min(v_max(v_mul(v_load(in + i), inverse), low), limit));
    if (i < n) {
        int8_t buffer[LANES];

        v_to_i8(buffer, v_min(v_max(v_mul(v_load_n(in + i, n - i), inverse), low), limit));
        memcpy(out + i, buffer, (size_t)(n - i));
    }
    return largest / 127.0f;
}

/* Sum over a row in a fixed order of four vectors; with `mean`, of squared differences. */
SIMD float row_sum(const float *x, int64_t c, int squared, float mean)
{
    vf s[4] = {v_zero(), v_zero(), v_zero(), v_zero()}, m = v_set(mean), d;
    int64_t i = 0;

    for (; i + 4 * LANES <= c; i += 4 * LANES)
#pragma GCC unroll 4
        for (int a = 0; a < 4; a++) {
            d = v_sub(v_load(x + i + a * LANES), m);
            s[a] = squared ? v_fma(d, d, s[a]) : v_add(s[a], d);
        }
    for (; i + LANES <= c; i += LANES) {
        d = v_sub(v_load(x + i), m);
        s[0] = squared ? v_fma(d, d, s[0]) : v_add(s[0], d);
    }
    if (i < c) {
        d = v_first(v_sub(v_load_n(x + i, c - i), m), v_zero(), c - i);
        s[1] = squared ? v_fma(d, d, s[1]) : v_add(s[1], d);
    }
    return v_sum(v_add(v_add(s[0], s[1]), v_add(s[2], s[3])));
}

static void norm_row(enum cabe_norm kind, float eps, const float *x, const float *gamma,
                     const float *beta, float *out, int64_t c)
{
    float mean = kind == CABE_NORM_LAYER ? row_sum(x, c, 0, 0.0f) / (float)c : 0.0f;
    vf m = v_set(mean), inverse = v_set(1.0f / sqrtf(row_sum(x, c, 1, mean) / (float)c + eps)), y;
    int64_t i = 0;

    for (; i + LANES <= c; i += LANES) {
        y = v_mul(v_sub(v_load(x + i), m), inverse);
        v_store(out + i,
                beta ? v_fma(y, v_load(gamma + i), v_load(beta + i)) : v_mul(y, v_load(gamma + i)));
    }
    if (i < c) {
        y = v_mul(v_sub(v_load_n(x + i, c - i), m), inverse);
        y = v_fma(y, v_load_n(gamma + i, c - i), beta ? v_load_n(beta + i, c - i) : v_zero());
        v_store_n(out + i, y, c - i);
    }
}

static void add(const float *a, const float *b, float *out, int64_t n)
{
    int64_t i = 0;

    for (; i + LANES <= n; i += LANES)
        v_store(out + i, v_add(v_load(a + i), v_load(b + i)));
    if (i < n)
        v_store_n(out + i, v_add(v_load_n(a + i, n - i), v_load_n(b + i, n - i)), n - i);
}

static void mul(const float *a, const float *b, float *out, int64_t n)
{
    int64_t i = 0;

    for (; i + LANES <= n; i += LANES)
        v_store(out + i, v_mul(v_load(a + i), v_load(b + i)));
    if (i < n)
        v_store_n(out + i, v_mul(v_load_n(a + i, n - i), v_load_n(b + i, n - i)), n - i);
}

static void norm(enum cabe_norm kind, float eps, const float *x, const float *residual,
                 const float *gamma, const float *beta, float *out, int64_t c, int64_t begin,
                 int64_t end)
{
    for (int64_t t = begin; t < end; t++) {
        const float *row = x + t * c;

        if (residual) {
            add(row, residual + t * c, out + t * c, c);
            row = out + t * c;
        }
        norm_row(kind, eps, row, gamma, beta, out + t * c, c);
    }
}

SIMD void act_run(enum cabe_act kind, const float *x, float *out, int64_t n)
{
    int64_t i = 0;

    for (; i + 4 * LANES <= n; i += 4 * LANES) { /* four chains of dependent sums at a time */
        vf a = v_act(kind, v_load(x + i)), b = v_act(kind, v_load(x + i + LANES));
        vf c = v_act(kind, v_load(x + i + 2 * LANES)), d = v_act(kind, v_load(x + i + 3 * LANES));

        v_store(out + i, a);
        v_store(out + i + LANES, b);
        v_store(out + i + 2 * LANES, c);
        v_store(out + i + 3 * LANES, d);
    }
    for (; i + LANES <= n; i += LANES)
        v_store(out + i, v_act(kind, v_load(x + i)));
    if (i < n)
        v_store_n(out + i, v_act(kind, v_load_n(x + i, n - i)), n - i);
}

static void act(enum cabe_act kind, const float *x, float *out, int64_t n)
{
    switch (kind) {
    case CABE_ACT_GELU_ERF:
        act_run(CABE_ACT_GELU_ERF, x, out, n);
        break;
    case CABE_ACT_GELU_TANH:
        act_run(CABE_ACT_GELU_TANH, x, out, n);
        break;
    case CABE_ACT_SILU:
        act_run(CABE_ACT_SILU, x, out, n);
        break;
    case CABE_ACT_RELU:
        act_run(CABE_ACT_RELU, x, out, n);
        break;
    case CABE_ACT_TANH:
        act_run(CABE_ACT_TANH, x, out, n);
        break;
    case CABE_ACT_NONE:
        memmove(out, x, (size_t)n * sizeof *x);
        break;
    }
}

SIMD void glu_run(enum cabe_act kind, const float *gate, const float *up, float *out, int64_t n)
{
    int64_t i = 0;

    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        vf a = v_act(kind, v_load(gate + i)), b = v_act(kind, v_load(gate + i + LANES));

        a = v_mul(a, v_load(up + i));
        b = v_mul(b, v_load(up + i + LANES));
        v_store(out + i, a);
        v_store(out + i + LANES, b);
    }
    for (; i < n; i += LANES) {
        int64_t left = n - i < LANES ? n - i : LANES;

        v_store_n(out + i, v_mul(v_act(kind, v_load_n(gate + i, left)), v_load_n(up + i, left)),
                  left);
    }
}

static void glu(enum cabe_act kind, const float *gate, const float *up, float *out, int64_t n)
{
    switch (kind) {
    case CABE_ACT_SILU:
        glu_run(CABE_ACT_SILU, gate, up, out, n);
        break;
    case CABE_ACT_GELU_TANH:
        glu_run(CABE_ACT_GELU_TANH, gate, up, out, n);
        break;
    case CABE_ACT_GELU_ERF:
        glu_run(CABE_ACT_GELU_ERF, gate, up, out, n);
        break;
    default: /* no network has these */
        cabe_rows_scalar.glu(kind, gate, up, out, n);
    }
}

static void angles(const int32_t *positions, const float *inv_freq, int64_t n, float scale,
                   float *out, int64_t begin, int64_t end)
{
    cabe_rows_scalar.angles(positions, inv_freq, n, scale, out, begin, end);
}

/* Up to LANES channels of a head, as its norm leaves them. */
SIMD vf head_part(const float *x, const float *gamma, vf inverse, int64_t n)
{
    vf y = n == LANES ? v_load(x) : v_load_n(x, n);

    return gamma ? v_mul(v_mul(y, inverse), n == LANES ? v_load(gamma) : v_load_n(gamma, n)) : y;
}

SIMD void rope_halves(const float *x, const float *gamma, vf inverse, const float *cosines,
                      float *out, int64_t half)
{
    const float *sines = cosines + half;

    for (int64_t i = 0; i < half; i += LANES) {
        int64_t n = half - i < LANES ? half - i : LANES;
        vf a = head_part(x + i, gamma ? gamma + i : NULL, inverse, n);
        vf b = head_part(x + half + i, gamma ? gamma + half + i : NULL, inverse, n);
        vf c = n == LANES ? v_load(cosines + i) : v_load_n(cosines + i, n);
        vf s = n == LANES ? v_load(sines + i) : v_load_n(sines + i, n);
        vf low = v_sub(v_mul(a, c), v_mul(b, s)), high = v_fma(a, s, v_mul(b, c));

        if (n == LANES) {
            v_store(out + i, low);
            v_store(out + half + i, high);
        } else {
            v_store_n(out + i, low, n);
            v_store_n(out + half + i, high, n);
        }
    }
}

SIMD void rope_adjacent(const float *x, const float *gamma, vf inverse, const float *cosines,
                        float *out, int64_t half)
{
    float c[LANES / 2] = {0.0f}, s[LANES / 2] = {0.0f};

    for (int64_t i = 0; i < 2 * half; i += LANES) {
        int64_t n = 2 * half - i < LANES ? 2 * half - i : LANES;
        const float *cosine = cosines + i / 2, *sine = cosine + half;
        vf y = head_part(x + i, gamma ? gamma + i : NULL, inverse, n);

        if (n < LANES) {
            memcpy(c, cosine, (size_t)n / 2 * sizeof *c);
            memcpy(s, sine, (size_t)n / 2 * sizeof *s);
            cosine = c;
            sine = s;
        }
        y = v_fma_turn(y, v_twice(cosine), v_mul(v_swap(y), v_twice(sine)));
        if (n == LANES)
            v_store(out + i, y);
        else
            v_store_n(out + i, y, n);
    }
}

SIMD void rope_head(const struct cabe_rope_heads *heads, const float *gamma, const float *x,
                    const float *cosines, float *out)
{
    int64_t dim = heads->head_dim;
    vf inverse = v_zero();

    if (gamma)
        inverse = v_set(1.0f / sqrtf(row_sum(x, dim, 1, 0.0f) / (float)dim + heads->eps));
    if (heads->style == CABE_ROPE_HALVES)
        rope_halves(x, gamma, inverse, cosines, out, heads->n_rot / 2);
    else
        rope_adjacent(x, gamma, inverse, cosines, out, heads->n_rot / 2);
    if (!gamma && out == x)
        return;
    for (int64_t i = heads->n_rot; i < dim; i += LANES) {
        int64_t n = dim - i < LANES ? dim - i : LANES;

        v_store_n(out + i, head_part(x + i, gamma ? gamma + i : NULL, inverse, n), n);
    }
}

static void rope(const struct cabe_rope_heads *heads, const float *x, const float *angles_of,
                 float *out, int64_t begin, int64_t end)
{
    int64_t dim = heads->head_dim, n_turned = heads->n_heads + heads->n_kv_heads,
            n_values = heads->n_kv_heads;

    for (int64_t t = begin; t < end; t++) {
        int64_t row = t * (n_turned + n_values) * dim;

        for (int64_t h = 0; h < n_turned; h++)
            rope_head(heads, h < heads->n_heads ? heads->q_gamma : heads->k_gamma,
                      x + row + h * dim, angles_of + t * heads->n_rot, out + row + h * dim);
        if (out != x)
            memcpy(out + row + n_turned * dim, x + row + n_turned * dim,
                   (size_t)(n_values * dim) * sizeof *x);
    }
}

static void gather(enum cabe_dtype dtype, const void *table, int64_t v, int64_t c,
                   const int32_t *ids, const float *row_scale, float *out, int64_t begin,
                   int64_t end)
{
    uint64_t row_bytes = cabe_dtype_bytes(dtype, c);

    for (int64_t t = begin; t < end; t++) {
        const uint8_t *row = (const uint8_t *)table + (uint64_t)ids[t] * row_bytes;
        float *to = out + t * c,
              scale = gather_scale(dtype, table, v, row_bytes, ids[t], row_scale);

        if (dtype == CABE_I8) {
            from_i8((const int8_t *)row, scale, to, c);
            continue;
        }
        to_f32(dtype, row, to, c);
        if (!row_scale)
            continue;
        for (int64_t i = 0; i < c; i += LANES) {
            int64_t n = c - i < LANES ? c - i : LANES;

            v_store_n(to + i, v_mul(v_load_n(to + i, n), v_set(scale)), n);
        }
    }
}

/* Columns [i, i + LANES) or the first `n` of them, summed over rows in order. */
SIMD void pool_columns(const float *x, const float *weight, int64_t rows, int64_t c, float total,
                       float *out, int64_t n)
{
    vf sum = v_zero();

    for (int64_t t = 0; t < rows; t++) {
        vf row = n == LANES ? v_load(x + t * c) : v_load_n(x + t * c, n);

        sum = v_add(sum, weight ? v_mul(v_set(weight[t]), row) : row);
    }
    sum = v_div(sum, v_set(total));
    if (n == LANES)
        v_store(out, sum);
    else
        v_store_n(out, sum, n);
}

static void pool_mean(const float *x, const float *weight, int64_t rows, int64_t c, float *out)
{
    float total = (float)rows;
    int64_t i = 0;

    for (; i + LANES <= c; i += LANES)
        pool_columns(x + i, weight, rows, c, total, out + i, LANES);
    if (i < c)
        pool_columns(x + i, weight, rows, c, total, out + i, c - i);
}

static void pool(enum cabe_pooling kind, const float *x, const int32_t *offsets,
                 const float *row_weight, int64_t c, float *out, int64_t begin, int64_t end)
{
    for (int64_t s = begin; s < end; s++) {
        int64_t first = offsets[s], n = offsets[s + 1] - first;

        if (kind == CABE_POOL_MEAN && n > 0)
            pool_mean(x + first * c, row_weight ? row_weight + first : NULL, n, c, out + s * c);
        else
            cabe_rows_scalar.pool(kind, x, offsets, row_weight, c, out, s, s + 1);
    }
}

static void unit(float eps, const float *x, float *out, int64_t c, int64_t begin, int64_t end)
{
    for (int64_t t = begin; t < end; t++) {
        const float *row = x + t * c;
        double sums[8] = {0.0}, length;
        int64_t i = 0;
        vf inverse;

        for (; i + 8 <= c; i += 8) /* in double: squares of small floats would vanish */
#pragma GCC unroll 8
            for (int a = 0; a < 8; a++)
                sums[a] += (double)row[i + a] * (double)row[i + a];
        for (; i < c; i++)
            sums[i & 7] += (double)row[i] * (double)row[i];
        length = sqrt(((sums[0] + sums[1]) + (sums[2] + sums[3])) +
                      ((sums[4] + sums[5]) + (sums[6] + sums[7])));
        length = length < (double)eps ? (double)eps : length;
        if (length < 1e-30 || length > 1e30) { /* 1 / length would leave the range of f32 */
            cabe_rows_scalar.unit(eps, x, out, c, t, t + 1);
            continue;
        }
        inverse = v_set((float)(1.0 / length));
        for (i = 0; i + LANES <= c; i += LANES)
            v_store(out + t * c + i, v_mul(v_load(row + i), inverse));
        if (i < c)
            v_store_n(out + t * c + i, v_mul(v_load_n(row + i, c - i), inverse), c - i);
    }
}

static int64_t scan_ge(const float *x, int64_t n, float threshold, uint32_t *out)
{
    vf t = v_set(threshold);
    int64_t found = 0, i = 0;

    for (; i < n; i += LANES) {
        int64_t left = n - i;
        uint32_t bits = v_ge_bits(left >= LANES ? v_load(x + i) : v_load_n(x + i, left), t);

        bits &= left >= LANES ? ~0u : (1u << left) - 1u;
        for (; bits; bits &= bits - 1)
            out[found++] = (uint32_t)(i + __builtin_ctz(bits));
    }
    return found;
}

#define CABE_ROWS_TABLE                                                                            \
    {                                                                                              \
        .to_f32 = to_f32, .from_f32 = from_f32, .to_i8 = to_i8, .from_i8 = from_i8, .norm = norm,  \
        .act = act, .glu = glu, .add = add, .mul = mul, .gather = gather, .pool = pool,            \
        .unit = unit, .angles = angles, .rope = rope, .attention = attention, .scan_ge = scan_ge   \
    }

#endif
