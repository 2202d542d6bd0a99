/* The specification of matmul_level.h in plain loops. */
#include <math.h>
#include <string.h>

#include "kernel/matmul_level.h"

static void f32(const float *x, int64_t x_stride, int64_t rows, const float *w, int64_t w_stride, int64_t n_panels,
                int64_t k, float *acc, int first)
{
    for (int64_t p = 0; p < n_panels; p++)
        for (int64_t r = 0; r < rows; r++)
            for (int j = 0; j < CABE_PANEL; j++) {
                float *out = &acc[(p * rows + r) * CABE_PANEL + j], sum = first ? 0.0f : *out;

                for (int64_t i = 0; i < k; i++)
                    sum = fmaf(x[r * x_stride + i], w[p * w_stride + i * CABE_PANEL + j], sum);
                *out = sum;
            }
}

static float scale_f16(const uint8_t *panel, int64_t block, int output)
{
    uint16_t bits;

    memcpy(&bits, panel + (block * CABE_PANEL + output) * 2, sizeof bits);
    return cabe_f16_to_f32(bits);
}

static float scale_f32(const uint8_t *panel, int64_t block, int output)
{
    float scale;

    memcpy(&scale, panel + (block * CABE_PANEL + output) * 4, sizeof scale);
    return scale;
}

/* The quant of one weight; for Q4_0 0..15. */
static int quant(enum cabe_dtype dtype, const uint8_t *quants, int64_t i, int output)
{
    if (dtype == CABE_Q4_0) {
        int64_t in = i % 32;
        uint8_t byte = quants[i / 32 * 256 + in % 16 / 4 * 64 + output * 4 + in % 4];

        return in < 16 ? byte & 15 : byte >> 4;
    }
    return (int8_t)quants[i / 4 * 64 + output * 4 + i % 4];
}

static float weight(enum cabe_dtype dtype, const uint8_t *panel, int64_t k, int64_t i, int output)
{
    const uint8_t *quants = panel + cabe_panel_quants(dtype, k), *at = panel;
    uint16_t bits;
    float value;

    switch (dtype) {
    case CABE_F32:
        memcpy(&value, at + (i * CABE_PANEL + output) * 4, sizeof value);
        return value;
    case CABE_F16:
    case CABE_BF16:
        memcpy(&bits, at + (i * CABE_PANEL + output) * 2, sizeof bits);
        return dtype == CABE_F16 ? cabe_f16_to_f32(bits) : cabe_bf16_to_f32(bits);
    case CABE_I8:
        return (float)quant(dtype, quants, i, output) * scale_f32(panel, i / CABE_I8_BLOCK, output);
    case CABE_Q8_0:
        return (float)quant(dtype, quants, i, output) * scale_f16(panel, i / 32, output);
    default:
        return (float)(quant(dtype, quants, i, output) - 8) * scale_f16(panel, i / 32, output);
    }
}

static void widen(enum cabe_dtype dtype, const uint8_t *panel, int64_t k, int64_t begin, int64_t end, float *out)
{
    for (int64_t i = begin; i < end; i++)
        for (int j = 0; j < CABE_PANEL; j++)
            *out++ = weight(dtype, panel, k, i, j);
}

/* Not a number becomes `least`. */
static float clamp(float value, float least, float most)
{
    return fminf(fmaxf(value, least), most);
}

static void quantise_unsigned(const float *x, int64_t n, uint8_t *q, struct cabe_matmul_meta *meta)
{
    float lo = 0, hi = 0, inverse, zero;

    for (int64_t i = 0; i < n; i++) {
        lo = fminf(lo, x[i]);
        hi = fmaxf(hi, x[i]);
    }
    inverse = hi - lo < CABE_A8_TINY ? 0.0f : 127.0f / (hi - lo);
    meta->scale = hi - lo < CABE_A8_TINY ? 0.0f : (hi - lo) / 127.0f;
    zero = clamp(rintf(-lo * inverse), 0, 127);
    meta->offset = (int32_t)zero;
    for (int64_t i = 0; i < n; i++)
        q[i] = (uint8_t)clamp(rintf(x[i] * inverse) + zero, 0, 127);
}

static void quantise_signed(const float *x, int64_t n, uint8_t *q, struct cabe_matmul_meta *meta, int factor)
{
    float most = 0, inverse;

    for (int64_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(x[i]));
    inverse = most < CABE_A8_TINY ? 0.0f : 127.0f / most;
    meta->scale = most < CABE_A8_TINY ? 0.0f : most / 127.0f;
    meta->offset = 0;
    for (int64_t i = 0; i < n; i++) {
        int value = (int)clamp(rintf(x[i] * inverse), -127, 127);

        q[i] = (uint8_t)value;
        meta->offset += factor * value;
    }
}

static void quantise(enum cabe_dtype dtype, const float *x, int64_t k, uint8_t *record)
{
    int64_t block = cabe_a8_block(dtype);

    for (int64_t begin = 0; begin < k; begin += block) {
        int64_t n = k - begin < block ? k - begin : block;
        struct cabe_matmul_meta meta;

        if (dtype == CABE_I8)
            quantise_unsigned(x + begin, n, record + begin, &meta);
        else
            quantise_signed(x + begin, n, record + begin, &meta, dtype == CABE_Q4_0 ? -8 : 1);
        memcpy(record + cabe_record_meta(k) + (uint64_t)(begin / block) * sizeof meta, &meta, sizeof meta);
    }
    for (int64_t i = k; i < cabe_record_k(k); i++)
        record[i] = 0;
}

static float dot_one(enum cabe_dtype dtype, const uint8_t *record, const uint8_t *panel, int64_t k, int output)
{
    const uint8_t *quants = panel + cabe_panel_quants(dtype, k);
    int64_t block = cabe_a8_block(dtype), blocks = (k + block - 1) / block;
    float acc = 0.0f;

    for (int64_t b = 0; b < blocks; b++) {
        int64_t begin = b * block, end = begin + block < k ? begin + block : k;
        struct cabe_matmul_meta meta;
        int32_t sum = 0, weights;

        memcpy(&meta, record + cabe_record_meta(k) + (uint64_t)b * sizeof meta, sizeof meta);
        for (int64_t i = begin; i < end; i++)
            sum += (dtype == CABE_I8 ? record[i] : (int8_t)record[i]) * quant(dtype, quants, i, output);
        if (dtype == CABE_I8) {
            memcpy(&weights, panel + (uint64_t)((blocks + b) * CABE_PANEL + output) * 4, sizeof weights);
            sum = (int32_t)((uint32_t)sum - (uint32_t)meta.offset * (uint32_t)weights);
        } else if (dtype == CABE_Q4_0) {
            sum += meta.offset;
        }
        acc = fmaf((float)sum,
                   meta.scale * (dtype == CABE_I8 ? scale_f32(panel, b, output) : scale_f16(panel, b, output)), acc);
    }
    return acc;
}

static void dot(enum cabe_dtype dtype, const uint8_t *records, int64_t rows, const uint8_t *panel,
                const uint8_t *unpacked, int64_t k, float *acc)
{
    (void)unpacked;
    for (int64_t r = 0; r < rows; r++)
        for (int j = 0; j < CABE_PANEL; j++)
            acc[r * CABE_PANEL + j] =
                dot_one(dtype, records + (uint64_t)r * cabe_record_bytes(dtype, k), panel, k, j);
}

static void unpack(const uint8_t *panel, int64_t k, uint8_t *out)
{
    const uint8_t *quants = panel + cabe_panel_quants(CABE_Q4_0, k);

    for (int64_t i = 0; i < k; i++)
        for (int j = 0; j < CABE_PANEL; j++)
            out[i / 4 * 64 + j * 4 + i % 4] = (uint8_t)quant(CABE_Q4_0, quants, i, j);
}

static void store(const float *acc, int64_t rows, const float *bias, const float *residual, float *out,
                  int64_t out_stride)
{
    for (int64_t r = 0; r < rows; r++)
        for (int j = 0; j < CABE_PANEL; j++) {
            float value = acc[r * CABE_PANEL + j];

            if (bias)
                value += bias[j];
            if (residual)
                value += residual[r * out_stride + j];
            out[r * out_stride + j] = value;
        }
}

const struct cabe_matmul_floats cabe_matmul_floats_scalar = {
    .f32 = f32, .widen = widen, .store = store, .panels_many = 1, .panels_few = 1};
const struct cabe_matmul_ints cabe_matmul_ints_scalar = {
    .quantise = quantise, .unpack = unpack, .dot = dot};
