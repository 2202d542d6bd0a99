/* The specification of matmul_level.h in plain loops. */
#include <math.h>
#include <string.h>

#include "kernel/matmul_level.h"

static void f32(const float *x, int64_t x_stride, int64_t rows, const float *w, int64_t w_stride, int64_t n_panels,
                int64_t k, float *acc, int first, const char *ahead, int64_t ahead_step)
{
    (void)ahead;
    (void)ahead_step;
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

/* A block of 32 of a panel, its scale and minimum for one output. */
struct block {
    const uint8_t *quants;
    float scale, least; /* least: what a quant of 0 adds, Q4_1 and Q4_K */
};

/* Six-bit scale or minimum of a block, from the twelve bytes of each output. */
static float six_bits(const uint8_t *bytes, int64_t block, int is_min, int output)
{
    const uint8_t *low = bytes + output, *high = low + ((block & 3) + (is_min ? 4 : 0)) * CABE_PANEL;

    if (block < 4)
        return (float)(*high & 63);
    low += (block + 4) * CABE_PANEL;
    return (float)((is_min ? *low >> 4 : *low & 15) | *high >> 6 << 4);
}

static struct block block_of(enum cabe_dtype dtype, const uint8_t *panel, int64_t k, int64_t b, int output)
{
    const uint8_t *quants = panel + cabe_panel_quants(dtype, k);
    const uint8_t *super = quants + b / 8 * (dtype == CABE_Q4_K ? CABE_Q4_K_SUPER : CABE_Q6_K_SUPER);

    switch (dtype) {
    case CABE_Q4_1:
        return (struct block){quants + b * 256, scale_f16(panel, b * 2, output), scale_f16(panel, b * 2 + 1, output)};
    case CABE_Q4_K:
        return (struct block){super + CABE_Q4_K_QUANTS + b % 8 * 256,
                              scale_f16(super, 0, output) * six_bits(super + 64, b % 8, 0, output),
                              -(scale_f16(super, 1, output) * six_bits(super + 64, b % 8, 1, output))};
    case CABE_Q6_K:
        return (struct block){super + CABE_Q6_K_QUANTS + b % 8 * CABE_Q6_K_BLOCK, scale_f16(panel, b / 8, output), 0};
    case CABE_I8:
        return (struct block){quants + b * 32 * CABE_PANEL, scale_f32(panel, b * 32 / CABE_I8_BLOCK, output), 0};
    default:
        return (struct block){quants + b * (dtype == CABE_Q4_0 ? 256 : 512), scale_f16(panel, b, output), 0};
    }
}

/* The quant of input `in` of a block as it is stored: 0..15, 0..63 or a signed byte. */
static int quant(enum cabe_dtype dtype, const uint8_t *quants, int64_t in, int output)
{
    uint8_t byte = quants[in % 16 / 4 * 64 + output * 4 + in % 4];
    int nibble = in < 16 ? byte & 15 : byte >> 4;
    int64_t pair = in / 16 * 2 + in / 4 % 2;

    if (dtype == CABE_I8 || dtype == CABE_Q8_0)
        return (int8_t)quants[in / 4 * 64 + output * 4 + in % 4];
    if (dtype != CABE_Q6_K)
        return nibble;
    return nibble | (quants[256 + in % 16 / 8 * 64 + output * 4 + in % 4] >> (2 * pair) & 3) << 4;
}

/* Scale of a half of a block of Q6_K. */
static int half_scale(const uint8_t *panel, int64_t k, int64_t half, int output)
{
    const uint8_t *super = panel + cabe_panel_quants(CABE_Q6_K, k) + half / 16 * CABE_Q6_K_SUPER;

    return (int8_t)super[half % 16 * CABE_PANEL + output];
}

static float weight(enum cabe_dtype dtype, const uint8_t *panel, int64_t k, int64_t i, int output)
{
    struct block block;
    uint16_t bits;
    float value;
    int q;

    switch (dtype) {
    case CABE_F32:
        memcpy(&value, panel + (i * CABE_PANEL + output) * 4, sizeof value);
        return value;
    case CABE_F16:
    case CABE_BF16:
        memcpy(&bits, panel + (i * CABE_PANEL + output) * 2, sizeof bits);
        return dtype == CABE_F16 ? cabe_f16_to_f32(bits) : cabe_bf16_to_f32(bits);
    default:
        block = block_of(dtype, panel, k, i / 32, output);
        q = quant(dtype, block.quants, i % 32, output);
    }
    switch (dtype) {
    case CABE_Q4_0:
        return (float)(q - 8) * block.scale;
    case CABE_Q6_K:
        return block.scale * (float)half_scale(panel, k, i / 16, output) * (float)(q - 32);
    case CABE_Q4_1:
    case CABE_Q4_K:
        return (float)q * block.scale + block.least;
    default:
        return (float)q * block.scale;
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
        hi = isnan(hi) || isnan(x[i]) ? NAN : fmaxf(hi, x[i]);
    }
    inverse = hi - lo < CABE_A8_TINY ? 0.0f : 127.0f / (hi - lo);
    meta->scale = hi - lo < CABE_A8_TINY ? 0.0f : (hi - lo) / 127.0f;
    zero = clamp(rintf(-lo * inverse), 0, 127);
    meta->offset = (int32_t)zero;
    for (int64_t i = 0; i < n; i++)
        q[i] = (uint8_t)clamp(rintf(x[i] * inverse) + zero, 0, 127);
}

/* Block b of 32 with its meta. */
static void quantise_signed(enum cabe_dtype dtype, const float *x, uint8_t *q, uint8_t *metas, int64_t b)
{
    struct cabe_matmul_meta meta = {0};
    struct cabe_matmul_meta6 meta6 = {0};
    float most = 0, inverse;
    int sum = 0;

    for (int i = 0; i < 32; i++)
        most = isnan(most) || isnan(x[i]) ? NAN : fmaxf(most, fabsf(x[i]));
    inverse = most < CABE_A8_TINY ? 0.0f : 127.0f / most;
    meta6.scale = meta.scale = most < CABE_A8_TINY ? 0.0f : most / 127.0f;
    for (int i = 0; i < 32; i++) {
        int value = (int)clamp(rintf(x[i] * inverse), -127, 127);

        q[i] = (uint8_t)value;
        sum += value;
        meta6.offset[i / 16][i / 2 % 2] = (int16_t)(meta6.offset[i / 16][i / 2 % 2] - 32 * value);
    }
    if (dtype == CABE_Q4_1 || dtype == CABE_Q4_K)
        meta.sum = meta.scale * (float)sum;
    else
        meta.offset = dtype == CABE_Q4_0 ? -8 * sum : sum;
    if (dtype == CABE_Q6_K)
        memcpy(metas + (uint64_t)b * sizeof meta6, &meta6, sizeof meta6);
    else
        memcpy(metas + (uint64_t)b * sizeof meta, &meta, sizeof meta);
}

static void quantise(enum cabe_dtype dtype, const float *x, int64_t k, uint8_t *record)
{
    uint8_t *metas = record + cabe_record_meta(k);
    struct cabe_matmul_meta meta;

    for (int64_t b = 0; dtype != CABE_I8 && b < k / 32; b++)
        quantise_signed(dtype, x + b * 32, record + b * 32, metas, b);
    for (int64_t begin = 0; dtype == CABE_I8 && begin < k; begin += CABE_I8_BLOCK) {
        int64_t n = k - begin < CABE_I8_BLOCK ? k - begin : CABE_I8_BLOCK;

        quantise_unsigned(x + begin, n, record + begin, &meta);
        memcpy(metas + (uint64_t)(begin / CABE_I8_BLOCK) * sizeof meta, &meta, sizeof meta);
    }
    for (int64_t i = k; i < cabe_record_k(k); i++)
        record[i] = 0;
}

static float dot_i8(const uint8_t *record, const uint8_t *panel, int64_t k, int output)
{
    int64_t blocks = (k + CABE_I8_BLOCK - 1) / CABE_I8_BLOCK;
    float acc = 0.0f;

    for (int64_t b = 0; b < blocks; b++) {
        int64_t begin = b * CABE_I8_BLOCK, end = begin + CABE_I8_BLOCK < k ? begin + CABE_I8_BLOCK : k;
        struct block block = block_of(CABE_I8, panel, k, begin / 32, output);
        struct cabe_matmul_meta meta;
        int32_t sum = 0, weights;

        memcpy(&meta, record + cabe_record_meta(k) + (uint64_t)b * sizeof meta, sizeof meta);
        for (int64_t i = begin; i < end; i++)
            sum += record[i] * quant(CABE_I8, block.quants, i - begin, output);
        memcpy(&weights, panel + (uint64_t)((blocks + b) * CABE_PANEL + output) * 4, sizeof weights);
        sum = (int32_t)((uint32_t)sum - (uint32_t)meta.offset * (uint32_t)weights);
        acc = fmaf((float)sum, meta.scale * block.scale, acc);
    }
    return acc;
}

/* Block b of 32 of all but I8. */
static float dot_block(enum cabe_dtype dtype, const uint8_t *record, const uint8_t *panel, int64_t k, int64_t b,
                       int output, float acc)
{
    struct block block = block_of(dtype, panel, k, b, output);
    const uint8_t *metas = record + cabe_record_meta(k) + (uint64_t)b * cabe_meta_bytes(dtype);
    struct cabe_matmul_meta meta;
    int32_t sums[2] = {0}, sum;

    memcpy(&meta, metas, sizeof meta); /* the scale of Q6_K's is in the same place */
    for (int64_t i = 0; i < 32; i++) {
        int q = quant(dtype, block.quants, i, output);

        sums[i / 16] += (int8_t)record[b * 32 + i] * (dtype == CABE_Q6_K ? q - 32 : q);
    }
    sum = sums[0] + sums[1];
    if (dtype == CABE_Q6_K)
        sum = half_scale(panel, k, b * 2, output) * sums[0] + half_scale(panel, k, b * 2 + 1, output) * sums[1];
    if (dtype == CABE_Q4_0)
        sum += meta.offset;
    acc = fmaf((float)sum, meta.scale * block.scale, acc);
    return dtype == CABE_Q4_1 || dtype == CABE_Q4_K ? fmaf(meta.sum, block.least, acc) : acc;
}

static void dot(enum cabe_dtype dtype, const uint8_t *records, int64_t rows, const uint8_t *panel,
                const uint8_t *unpacked, int64_t k, int64_t begin, int64_t end, int64_t ahead, float *acc)
{
    (void)unpacked;
    (void)ahead;
    for (int64_t r = 0; r < rows; r++)
        for (int j = 0; j < CABE_PANEL; j++) {
            const uint8_t *record = records + (uint64_t)r * cabe_record_bytes(dtype, k);
            float sum = begin ? acc[r * CABE_PANEL + j] : 0.0f;

            if (dtype == CABE_I8)
                sum = dot_i8(record, panel, k, j);
            else
                for (int64_t b = begin / 32; b < end / 32; b++)
                    sum = dot_block(dtype, record, panel, k, b, j, sum);
            acc[r * CABE_PANEL + j] = sum;
        }
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
    .quantise = quantise, .unpack = NULL, .dot = dot};
