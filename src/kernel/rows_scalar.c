/* The specification of the row kernels: plain loops, sums in double, functions of the C library. */
#include <math.h>
#include <string.h>

#include "kernel/levels.h"
#include "kernel/rows_shared.h"

#define BLOCK 32
#define SUPER 256

static uint16_t load_u16(const uint8_t *bytes)
{
    uint16_t value;

    memcpy(&value, bytes, sizeof value);
    return value;
}

static void store_u16(uint8_t *bytes, uint16_t value)
{
    memcpy(bytes, &value, sizeof value);
}

static void widen_q8_0(const uint8_t *in, float *out, int64_t n_blocks)
{
    for (int64_t b = 0; b < n_blocks; b++, in += 34, out += BLOCK) {
        float d = cabe_f16_to_f32(load_u16(in));

        for (int i = 0; i < BLOCK; i++)
            out[i] = (float)(int8_t)in[2 + i] * d;
    }
}

static void widen_q4_0(const uint8_t *in, float *out, int64_t n_blocks)
{
    for (int64_t b = 0; b < n_blocks; b++, in += 18, out += BLOCK) {
        float d = cabe_f16_to_f32(load_u16(in));

        for (int i = 0; i < BLOCK / 2; i++) {
            out[i] = (float)((in[2 + i] & 15) - 8) * d;
            out[i + BLOCK / 2] = (float)((in[2 + i] >> 4) - 8) * d;
        }
    }
}

static void widen_q4_1(const uint8_t *in, float *out, int64_t n_blocks)
{
    for (int64_t b = 0; b < n_blocks; b++, in += 20, out += BLOCK) {
        float d = cabe_f16_to_f32(load_u16(in)), m = cabe_f16_to_f32(load_u16(in + 2));

        for (int i = 0; i < BLOCK / 2; i++) {
            out[i] = (float)(in[4 + i] & 15) * d + m;
            out[i + BLOCK / 2] = (float)(in[4 + i] >> 4) * d + m;
        }
    }
}

static void widen_q4_k(const uint8_t *in, float *out, int64_t n_supers)
{
    for (int64_t s = 0; s < n_supers; s++, in += 144, out += SUPER) {
        float d = cabe_f16_to_f32(load_u16(in)), dmin = cabe_f16_to_f32(load_u16(in + 2));

        for (int b = 0; b < SUPER / BLOCK; b++) {
            const uint8_t *quants = in + 16 + b / 2 * BLOCK;
            int scale, least, shift = b % 2 * 4;

            q4_k_scales(in + 4, b, &scale, &least);
            for (int i = 0; i < BLOCK; i++)
                out[b * BLOCK + i] =
                    (float)(quants[i] >> shift & 15) * (d * (float)scale) - dmin * (float)least;
        }
    }
}

static void widen_q5_k(const uint8_t *in, float *out, int64_t n_supers)
{
    for (int64_t s = 0; s < n_supers; s++, in += 176, out += SUPER) {
        float d = cabe_f16_to_f32(load_u16(in)), dmin = cabe_f16_to_f32(load_u16(in + 2));

        for (int b = 0; b < SUPER / BLOCK; b++) {
            const uint8_t *high = in + 16, *quants = in + 48 + b / 2 * BLOCK;
            int scale, least, shift = b % 2 * 4;

            q4_k_scales(in + 4, b, &scale, &least);
            for (int i = 0; i < BLOCK; i++)
                out[b * BLOCK + i] = (float)((quants[i] >> shift & 15) | (high[i] >> b & 1) << 4) *
                                         (d * (float)scale) -
                                     dmin * (float)least;
        }
    }
}

static void widen_q6_k(const uint8_t *in, float *out, int64_t n_supers)
{
    for (int64_t s = 0; s < n_supers; s++, in += 210, out += SUPER) {
        const uint8_t *low = in, *high = in + 128;
        const int8_t *scales = (const int8_t *)in + 192;
        float d = cabe_f16_to_f32(load_u16(in + 208));

        for (int i = 0; i < SUPER; i++) {
            int half = i / 128, part = i % 128 / 32, l = i % 32;
            int nibble = low[half * 64 + part % 2 * 32 + l] >> part / 2 * 4 & 15;
            int pair = high[half * 32 + l] >> part * 2 & 3;

            out[i] = (float)((nibble | pair << 4) - 32) * (d * (float)scales[i / 16]);
        }
    }
}

static void to_f32(enum cabe_dtype from, const void *in, float *out, int64_t n)
{
    switch (from) {
    case CABE_F32:
        memmove(out, in, (size_t)n * sizeof *out);
        break;
    case CABE_F16:
        for (int64_t i = 0; i < n; i++)
            out[i] = cabe_f16_to_f32(((const uint16_t *)in)[i]);
        break;
    case CABE_BF16:
        for (int64_t i = 0; i < n; i++)
            out[i] = cabe_bf16_to_f32(((const uint16_t *)in)[i]);
        break;
    case CABE_I8:
        for (int64_t i = 0; i < n; i++)
            out[i] = (float)((const int8_t *)in)[i];
        break;
    case CABE_U8:
        for (int64_t i = 0; i < n; i++)
            out[i] = (float)((const uint8_t *)in)[i];
        break;
    case CABE_I32:
        for (int64_t i = 0; i < n; i++)
            out[i] = (float)((const int32_t *)in)[i];
        break;
    case CABE_I64:
        for (int64_t i = 0; i < n; i++)
            out[i] = (float)((const int64_t *)in)[i];
        break;
    case CABE_F64:
        for (int64_t i = 0; i < n; i++)
            out[i] = (float)((const double *)in)[i];
        break;
    case CABE_Q8_0:
        widen_q8_0(in, out, n / BLOCK);
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
    case CABE_Q5_K:
        widen_q5_k(in, out, n / SUPER);
        break;
    case CABE_Q6_K:
        widen_q6_k(in, out, n / SUPER);
        break;
    case CABE_N_DTYPES:
        break;
    }
}

/* As ggml's quantize_row_q8_0_ref: halves go away from zero. */
static void narrow_q8_0(const float *in, uint8_t *out, int64_t n_blocks)
{
    for (int64_t b = 0; b < n_blocks; b++, in += BLOCK, out += 34) {
        float largest = 0.0f, d, inverse;

        for (int i = 0; i < BLOCK; i++)
            largest = fabsf(in[i]) > largest ? fabsf(in[i]) : largest;
        d = largest / 127.0f;
        inverse = d != 0.0f ? 1.0f / d : 0.0f;
        store_u16(out, cabe_f32_to_f16(d));
        for (int i = 0; i < BLOCK; i++) {
            float q = roundf(in[i] * inverse);

            /* 1/d is infinite or coarse where d is subnormal; such a block has an f16 scale of 0
             * anyway */
            out[2 + i] = (uint8_t)(int8_t)(q > 127.0f ? 127.0f : q > -127.0f ? q : -127.0f);
        }
    }
}

static uint8_t nibble(float scaled)
{
    float q = scaled + 8.5f;

    return (uint8_t)(q > 15.0f ? 15.0f : q > 0.0f ? q : 0.0f);
}

/* As ggml's quantize_row_q4_0_ref: the value of largest magnitude becomes -8. */
static void narrow_q4_0(const float *in, uint8_t *out, int64_t n_blocks)
{
    for (int64_t b = 0; b < n_blocks; b++, in += BLOCK, out += 18) {
        float largest = 0.0f, value = 0.0f, d, inverse;

        for (int i = 0; i < BLOCK; i++)
            if (largest < fabsf(in[i])) {
                largest = fabsf(in[i]);
                value = in[i];
            }
        d = value / -8.0f;
        inverse = d != 0.0f ? 1.0f / d : 0.0f;
        store_u16(out, cabe_f32_to_f16(d));
        for (int i = 0; i < BLOCK / 2; i++)
            out[2 + i] =
                (uint8_t)(nibble(in[i] * inverse) | nibble(in[i + BLOCK / 2] * inverse) << 4);
    }
}

static void from_f32(enum cabe_dtype to, const float *in, void *out, int64_t n)
{
    switch (to) {
    case CABE_F32:
        memmove(out, in, (size_t)n * sizeof *in);
        break;
    case CABE_F16:
        for (int64_t i = 0; i < n; i++)
            ((uint16_t *)out)[i] = cabe_f32_to_f16(in[i]);
        break;
    case CABE_BF16:
        for (int64_t i = 0; i < n; i++)
            ((uint16_t *)out)[i] = cabe_f32_to_bf16(in[i]);
        break;
    case CABE_Q8_0:
        narrow_q8_0(in, out, n / BLOCK);
        break;
    case CABE_Q4_0:
        narrow_q4_0(in, out, n / BLOCK);
        break;
    default: /* the caller's mistake; rows.h names what there is */
        break;
    }
}

static float to_i8(const float *in, int8_t *out, int64_t n)
{
    float largest = 0.0f, inverse;

    for (int64_t i = 0; i < n; i++)
        largest = !isfinite(in[i]) || isnan(largest) ? NAN : fabsf(in[i]) > largest ? fabsf(in[i]) : largest;
    if (largest < I8_ROW_MIN) {
        memset(out, 0, (size_t)n);
        return 0.0f;
    }
    inverse = 127.0f / largest;
    for (int64_t i = 0; i < n; i++) {
        float scaled = in[i] * inverse;

        scaled = scaled > -127.0f ? scaled : -127.0f;
        scaled = scaled < 127.0f ? scaled : 127.0f;
        out[i] = (int8_t)rintf(scaled);
    }
    return largest / 127.0f;
}

static void from_i8(const int8_t *in, float scale, float *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)in[i] * scale;
}

static void norm_row(enum cabe_norm norm, float eps, const float *x, const float *residual,
                     const float *gamma, const float *beta, float *out, int64_t c)
{
    double mean = 0.0, square = 0.0, inverse;

    for (int64_t i = 0; i < c; i++) {
        out[i] = residual ? x[i] + residual[i] : x[i];
        mean += (double)out[i];
    }
    mean = norm == CABE_NORM_LAYER ? mean / (double)c : 0.0;
    for (int64_t i = 0; i < c; i++)
        square += ((double)out[i] - mean) * ((double)out[i] - mean);
    inverse = 1.0 / sqrt(square / (double)c + (double)eps);
    for (int64_t i = 0; i < c; i++)
        out[i] = (float)(((double)out[i] - mean) * inverse * (double)gamma[i] +
                         (beta ? (double)beta[i] : 0.0));
}

static void norm(enum cabe_norm kind, float eps, const float *x, const float *residual,
                 const float *gamma, const float *beta, float *out, int64_t c, int64_t begin,
                 int64_t end)
{
    for (int64_t t = begin; t < end; t++)
        norm_row(kind, eps, x + t * c, residual ? residual + t * c : NULL, gamma, beta, out + t * c,
                 c);
}

static double act_one(enum cabe_act act, double x)
{
    switch (act) {
    case CABE_ACT_GELU_ERF:
        return 0.5 * x * erfc(-x * 0.70710678118654752440);
    case CABE_ACT_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    case CABE_ACT_SILU:
        return x / (1.0 + exp(-x));
    case CABE_ACT_RELU:
        return x < 0.0 ? 0.0 : x;
    case CABE_ACT_TANH:
        return tanh(x);
    case CABE_ACT_NONE:
        break;
    }
    return x;
}

static void act(enum cabe_act kind, const float *x, float *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)act_one(kind, (double)x[i]);
}

static void glu(enum cabe_act kind, const float *gate, const float *up, float *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)(act_one(kind, (double)gate[i]) * (double)up[i]);
}

static void add(const float *a, const float *b, float *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = a[i] + b[i];
}

static void mul(const float *a, const float *b, float *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = a[i] * b[i];
}

static void gather(enum cabe_dtype dtype, const void *table, int64_t v, int64_t c,
                   const int32_t *ids, const float *row_scale, float *out, int64_t begin,
                   int64_t end)
{
    uint64_t row_bytes = cabe_dtype_bytes(dtype, c);

    for (int64_t t = begin; t < end; t++) {
        const uint8_t *row = (const uint8_t *)table + (uint64_t)ids[t] * row_bytes;
        float scale = gather_scale(dtype, table, v, row_bytes, ids[t], row_scale);

        to_f32(dtype, row, out + t * c, c);
        if (dtype == CABE_I8 || row_scale)
            for (int64_t i = 0; i < c; i++)
                out[t * c + i] *= scale;
    }
}

static void pool_mean(const float *x, const float *weight, int64_t n, int64_t c, float *out)
{
    memset(out, 0, (size_t)c * sizeof *out);
    for (int64_t t = 0; t < n; t++)
        for (int64_t i = 0; i < c; i++)
            out[i] += weight ? weight[t] * x[t * c + i] : x[t * c + i];
    for (int64_t i = 0; i < c; i++)
        out[i] /= (float)n;
}

static void pool(enum cabe_pooling kind, const float *x, const int32_t *offsets,
                 const float *row_weight, int64_t c, float *out, int64_t begin, int64_t end)
{
    for (int64_t s = begin; s < end; s++) {
        int64_t first = offsets[s], n = offsets[s + 1] - first;

        if (n <= 0)
            memset(out + s * c, 0, (size_t)c * sizeof *out);
        else if (kind == CABE_POOL_MEAN)
            pool_mean(x + first * c, row_weight ? row_weight + first : NULL, n, c, out + s * c);
        else
            memcpy(out + s * c, x + (kind == CABE_POOL_FIRST ? first : first + n - 1) * c,
                   (size_t)c * sizeof *out);
    }
}

static void unit(float eps, const float *x, float *out, int64_t c, int64_t begin, int64_t end)
{
    for (int64_t t = begin; t < end; t++) {
        double square = 0.0, length;

        for (int64_t i = 0; i < c; i++)
            square += (double)x[t * c + i] * (double)x[t * c + i];
        length = sqrt(square);
        length = length < (double)eps ? (double)eps : length;
        for (int64_t i = 0; i < c; i++)
            out[t * c + i] = length == 0.0 ? x[t * c + i] : (float)((double)x[t * c + i] / length);
    }
}

static void angles(const int32_t *positions, const float *inv_freq, int64_t n, float scale,
                   float *out, int64_t begin, int64_t end)
{
    for (int64_t t = begin; t < end; t++)
        for (int64_t i = 0; i < n; i++) {
            double angle = (double)positions[t] * (double)inv_freq[i]; /* exact */

            out[t * 2 * n + i] = (float)(cos(angle) * (double)scale);
            out[t * 2 * n + n + i] = (float)(sin(angle) * (double)scale);
        }
}

static void rope_head(const struct cabe_rope_heads *heads, const float *gamma, const float *x,
                      const float *angles, float *out)
{
    int64_t half = heads->n_rot / 2, apart = heads->style == CABE_ROPE_HALVES ? half : 1;
    double inverse = 1.0;

    if (gamma) {
        double square = 0.0;

        for (int64_t i = 0; i < heads->head_dim; i++)
            square += (double)x[i] * (double)x[i];
        inverse = 1.0 / sqrt(square / (double)heads->head_dim + (double)heads->eps);
    }
    for (int64_t i = 0; i < half; i++) {
        int64_t first = heads->style == CABE_ROPE_HALVES ? i : 2 * i, second = first + apart;
        double a = (double)x[first] * inverse * (gamma ? (double)gamma[first] : 1.0);
        double b = (double)x[second] * inverse * (gamma ? (double)gamma[second] : 1.0);

        out[first] = (float)(a * (double)angles[i] - b * (double)angles[half + i]);
        out[second] = (float)(a * (double)angles[half + i] + b * (double)angles[i]);
    }
    for (int64_t i = 2 * half; i < heads->head_dim; i++)
        out[i] = (float)((double)x[i] * inverse * (gamma ? (double)gamma[i] : 1.0));
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

/* One query row: softmax(q k^T scale) v, kept relative to the largest score so far. sums: head_dim
 * doubles.
 */
static void attend_row(const float *q, const float *k, const float *v, int64_t stride,
                       int64_t n_keys, int64_t head_dim, float scale, float *out, double *sums)
{
    double largest = -INFINITY, total = 0.0;

    memset(sums, 0, (size_t)head_dim * sizeof *sums);
    for (int64_t j = 0; j < n_keys; j++) {
        double score = 0.0, weight;

        for (int64_t d = 0; d < head_dim; d++)
            score += (double)q[d] * (double)k[j * stride + d];
        score *= (double)scale;
        if (score > largest) {
            double shrink = exp(largest - score);

            for (int64_t d = 0; d < head_dim; d++)
                sums[d] *= shrink;
            total *= shrink;
            largest = score;
        }
        weight = exp(score - largest);
        total += weight;
        for (int64_t d = 0; d < head_dim; d++)
            sums[d] += weight * (double)v[j * stride + d];
    }
    for (int64_t d = 0; d < head_dim; d++)
        out[d] = (float)(sums[d] / total);
}

static void attention(const float *q, const float *k, const float *v, int64_t stride, int64_t n,
                      int64_t head_dim, float scale, enum cabe_mask mask, float *out,
                      int64_t out_stride, void *scratch)
{
    for (int64_t i = 0; i < n; i++)
        attend_row(q + i * stride, k, v, stride, mask == CABE_MASK_CAUSAL ? i + 1 : n, head_dim,
                   scale, out + i * out_stride, scratch);
}

static int64_t scan_ge(const float *x, int64_t n, float threshold, uint32_t *out)
{
    int64_t found = 0;

    for (int64_t i = 0; i < n; i++)
        if (x[i] >= threshold)
            out[found++] = (uint32_t)i;
    return found;
}

const struct cabe_row_kernels cabe_rows_scalar = {
    .to_f32 = to_f32,
    .from_f32 = from_f32,
    .to_i8 = to_i8,
    .from_i8 = from_i8,
    .norm = norm,
    .act = act,
    .glu = glu,
    .add = add,
    .mul = mul,
    .gather = gather,
    .pool = pool,
    .unit = unit,
    .angles = angles,
    .rope = rope,
    .attention = attention,
    .scan_ge = scan_ge,
};
