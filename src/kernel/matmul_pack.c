/* Weights to panels (tensor/packed.h says how they lie), sixteen rows at a time. */
#include <math.h>
#include <string.h>

#include "kernel/matmul.h"
#include "kernel/matmul_level.h"

struct packing {
    enum cabe_dtype from, to;
    int64_t k;
    float *wide;     /* one row as f32 */
    uint8_t *blocks; /* one row as GGUF blocks */
};

static uint64_t wide_bytes(int64_t k)
{
    return ((uint64_t)k * sizeof(float) + 63) / 64 * 64;
}

uint64_t cabe_matmul_pack_scratch_bytes(int64_t k)
{
    return wide_bytes(k) + (((uint64_t)k + 31) / 32 * 34 + 63) / 64 * 64;
}

static int is_blocks(enum cabe_dtype dtype)
{
    return dtype == CABE_Q8_0 || dtype == CABE_Q4_0 || dtype == CABE_Q4_1 || dtype == CABE_Q4_K || dtype == CABE_Q6_K;
}

static uint32_t word(const uint8_t *at)
{
    uint32_t value;

    memcpy(&value, at, sizeof value);
    return value;
}

static void put(uint8_t *at, uint32_t value)
{
    memcpy(at, &value, sizeof value);
}

static enum cabe_status check_finite(const float *row, int64_t k, int64_t number, struct cabe_error *err)
{
    for (int64_t i = 0; i < k; i++)
        if (!isfinite(row[i]))
            return cabe_fail(err, CABE_ERR_FORMAT, "row %lld, column %lld: %g is not a finite number",
                             (long long)number, (long long)i, (double)row[i]);
    return CABE_OK;
}

static enum cabe_status pack_f32(const float *row, int64_t k, int64_t number, int output, uint8_t *out,
                                 struct cabe_error *err)
{
    (void)number;
    (void)err;
    for (int64_t i = 0; i < k; i++)
        memcpy(out + (i * CABE_PANEL + output) * 4, &row[i], sizeof row[i]);
    return CABE_OK;
}

static enum cabe_status pack_16(enum cabe_dtype to, const float *row, int64_t k, int64_t number, int output,
                                uint8_t *out, struct cabe_error *err)
{
    for (int64_t i = 0; i < k; i++) {
        uint16_t bits = to == CABE_F16 ? cabe_f32_to_f16(row[i]) : cabe_f32_to_bf16(row[i]);
        uint16_t exponent = to == CABE_F16 ? 0x7C00 : 0x7F80;

        if ((bits & exponent) == exponent)
            return cabe_fail(err, CABE_ERR_FORMAT, "row %lld, column %lld: %g is too large for %s", (long long)number,
                             (long long)i, (double)row[i], cabe_dtype_name(to));
        memcpy(out + (i * CABE_PANEL + output) * 2, &bits, sizeof bits);
    }
    return CABE_OK;
}

/* F16 or BF16 as it is. */
static enum cabe_status copy_16(enum cabe_dtype dtype, const uint8_t *row, int64_t k, int64_t number, int output,
                                uint8_t *out, struct cabe_error *err)
{
    const uint16_t exponent = dtype == CABE_F16 ? 0x7C00 : 0x7F80;

    for (int64_t i = 0; i < k; i++) {
        uint16_t bits;

        memcpy(&bits, row + i * 2, sizeof bits);
        if ((bits & exponent) == exponent)
            return cabe_fail(err, CABE_ERR_FORMAT, "row %lld, column %lld: %g is not a finite number",
                             (long long)number, (long long)i,
                             (double)(dtype == CABE_F16 ? cabe_f16_to_f32(bits) : cabe_bf16_to_f32(bits)));
        memcpy(out + (i * CABE_PANEL + output) * 2, &bits, sizeof bits);
    }
    return CABE_OK;
}

/* Quants to nearest even of x / scale, scale the largest magnitude of the block over CABE_I8_MAX. */
static void pack_i8(const float *row, int64_t k, int output, uint8_t *out)
{
    uint8_t *quants = out + cabe_panel_quants(CABE_I8, k);
    int64_t blocks = (k + CABE_I8_BLOCK - 1) / CABE_I8_BLOCK;

    for (int64_t b = 0; b < blocks; b++) {
        int64_t begin = b * CABE_I8_BLOCK, end = begin + CABE_I8_BLOCK < k ? begin + CABE_I8_BLOCK : k;
        float most = 0, scale, inverse;
        int32_t sum = 0;

        for (int64_t i = begin; i < end; i++)
            most = fmaxf(most, fabsf(row[i]));
        scale = most < CABE_A8_TINY ? 0.0f : most / CABE_I8_MAX;
        inverse = most < CABE_A8_TINY ? 0.0f : CABE_I8_MAX / most;
        for (int64_t i = begin; i < end; i++) {
            int value = (int)fminf(fmaxf(rintf(row[i] * inverse), -CABE_I8_MAX), CABE_I8_MAX);

            quants[i / 4 * 64 + output * 4 + i % 4] = (uint8_t)value;
            sum += value;
        }
        memcpy(out + (b * CABE_PANEL + output) * 4, &scale, sizeof scale);
        memcpy(out + ((blocks + b) * CABE_PANEL + output) * 4, &sum, sizeof sum);
    }
}

static enum cabe_status check_scale(const uint8_t *at, int64_t number, int64_t begin, int64_t n, uint16_t *scale,
                                    struct cabe_error *err)
{
    memcpy(scale, at, sizeof *scale);
    if ((*scale & 0x7C00) != 0x7C00)
        return CABE_OK;
    return cabe_fail(err, CABE_ERR_FORMAT, "row %lld, columns %lld to %lld: scale %g is not a finite number",
                     (long long)number, (long long)begin, (long long)(begin + n - 1),
                     (double)cabe_f16_to_f32(*scale));
}

/* GGUF blocks, bit by bit: only their places change. A block of 32 and its output's place in the panel. */
static enum cabe_status pack_block(enum cabe_dtype to, const uint8_t *block, int64_t k, int64_t b, int64_t number,
                                   int output, uint8_t *out, struct cabe_error *err)
{
    uint8_t *quants = out + cabe_panel_quants(to, k) + output * 4;
    const int two = to == CABE_Q4_1; /* scale and minimum */
    const uint8_t *q = block + 2 + 2 * two;
    uint16_t scale;

    for (int i = 0; i <= two; i++) {
        enum cabe_status status = check_scale(block + i * 2, number, b * 32, 32, &scale, err);

        if (status != CABE_OK)
            return status;
        memcpy(out + ((b * (1 + two) + i) * CABE_PANEL + output) * 2, &scale, sizeof scale);
    }
    if (to == CABE_Q8_0)
        for (int i = 0; i < 32; i += 4)
            put(quants + b * 512 + i * 16, word(q + i));
    else
        for (int i = 0; i < 16; i += 4) /* a byte of the file already has elements i and i + 16 */
            put(quants + b * 256 + i * 16, word(q + i));
    return CABE_OK;
}

static enum cabe_status pack_q4_k(const uint8_t *block, int64_t k, int64_t b, int64_t number, int output, uint8_t *out,
                                  struct cabe_error *err)
{
    const uint32_t low = 0x0F0F0F0F;
    uint8_t *quants = out + CABE_Q4_K_QUANTS + output * 4;

    (void)k;
    for (int i = 0; i < 2; i++) {
        uint16_t scale;
        enum cabe_status status = check_scale(block + i * 2, number, b * 256, 256, &scale, err);

        if (status != CABE_OK)
            return status;
        memcpy(out + (i * CABE_PANEL + output) * 2, &scale, sizeof scale);
    }
    for (int i = 0; i < 12; i++)
        out[64 + i * CABE_PANEL + output] = block[4 + i];
    block += 16;
    for (int pair = 0; pair < 4; pair++, block += 32)
        for (int i = 0; i < 16; i += 4) {
            uint32_t first = word(block + i), second = word(block + i + 16);

            put(quants + pair * 512 + i * 16, (first & low) | (second & low) << 4);
            put(quants + pair * 512 + 256 + i * 16, (first >> 4 & low) | (second & ~low));
        }
    return CABE_OK;
}

static enum cabe_status pack_q6_k(const uint8_t *block, int64_t k, int64_t b, int64_t number, int output, uint8_t *out,
                                  struct cabe_error *err)
{
    const uint32_t low = 0x0F0F0F0F, pairs = 0x03030303;
    uint8_t *super = out + cabe_panel_quants(CABE_Q6_K, k) + b * CABE_Q6_K_SUPER;
    uint16_t scale;
    enum cabe_status status = check_scale(block + 208, number, b * 256, 256, &scale, err);

    if (status != CABE_OK)
        return status;
    memcpy(out + (b * CABE_PANEL + output) * 2, &scale, sizeof scale);
    for (int i = 0; i < 16; i++)
        super[i * CABE_PANEL + output] = block[192 + i];
    super += CABE_Q6_K_QUANTS + output * 4;
    for (int f = 0; f < 8; f++, super += CABE_Q6_K_BLOCK) {
        const uint8_t *nibbles = block + f / 4 * 64 + f % 2 * 32, *upper = block + 128 + f / 4 * 32;
        int shift = f % 4 * 2, high = f % 4 / 2 * 4;

        for (int i = 0; i < 16; i += 4)
            put(super + i * 16, (word(nibbles + i) >> high & low) | (word(nibbles + i + 16) >> high & low) << 4);
        for (int i = 0; i < 16; i += 8) {
            uint32_t bits = word(upper + i) >> shift & pairs;

            bits |= (word(upper + i + 4) >> shift & pairs) << 2 | (word(upper + i + 16) >> shift & pairs) << 4;
            put(super + 256 + i * 8, bits | (word(upper + i + 20) >> shift & pairs) << 6);
        }
    }
    return CABE_OK;
}

static enum cabe_status pack_blocks(enum cabe_dtype to, const uint8_t *row, int64_t k, int64_t number, int output,
                                    uint8_t *out, struct cabe_error *err)
{
    int64_t n = k / cabe_dtype_block(to);
    uint64_t bytes = cabe_dtype_bytes(to, cabe_dtype_block(to));
    enum cabe_status status = CABE_OK;

    for (int64_t b = 0; status == CABE_OK && b < n; b++, row += bytes)
        if (to == CABE_Q4_K)
            status = pack_q4_k(row, k, b, number, output, out + b * CABE_Q4_K_SUPER, err);
        else if (to == CABE_Q6_K)
            status = pack_q6_k(row, k, b, number, output, out, err);
        else
            status = pack_block(to, row, k, b, number, output, out, err);
    return status;
}

static enum cabe_status pack_row(const struct packing *p, const uint8_t *row, int64_t number, uint8_t *panel,
                                 struct cabe_error *err)
{
    int output = (int)(number % CABE_PANEL);
    enum cabe_status status;

    if (is_blocks(p->from))
        return pack_blocks(p->to, row, p->k, number, output, panel, err);
    if (p->from == p->to && p->from != CABE_F32)
        return copy_16(p->to, row, p->k, number, output, panel, err);
    cabe_rows_scalar.to_f32(p->from, row, p->wide, p->k);
    status = check_finite(p->wide, p->k, number, err);
    if (status != CABE_OK)
        return status;
    switch (p->to) {
    case CABE_F32:
        return pack_f32(p->wide, p->k, number, output, panel, err);
    case CABE_F16:
    case CABE_BF16:
        return pack_16(p->to, p->wide, p->k, number, output, panel, err);
    case CABE_I8:
        pack_i8(p->wide, p->k, output, panel);
        return CABE_OK;
    default:
        cabe_rows_scalar.from_f32(p->to, p->wide, p->blocks, p->k);
        return pack_blocks(p->to, p->blocks, p->k, number, output, panel, err);
    }
}

enum cabe_status cabe_matmul_pack(enum cabe_dtype from, const void *rows, int64_t n_rows, enum cabe_dtype to,
                                  int64_t k, int64_t panel_begin, int64_t panel_end, void *scratch, void *out,
                                  struct cabe_error *err)
{
    const struct packing p = {
        .from = from, .to = to, .k = k, .wide = scratch, .blocks = (uint8_t *)scratch + wide_bytes(k)};
    int from_floats = from == CABE_F32 || from == CABE_F16 || from == CABE_BF16;
    int64_t n_panels = panel_end - panel_begin;
    uint64_t panel_bytes, row_bytes;

    if (!(from_floats ? to == CABE_F32 || to == CABE_F16 || to == CABE_BF16 || to == CABE_I8 || to == CABE_Q8_0 ||
                            to == CABE_Q4_0
                      : is_blocks(from) && from == to) ||
         !cabe_packed_ok(to, CABE_PANELS, n_rows, k))
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s with rows of %lld to %s panels", cabe_dtype_name(from),
                         (long long)k, cabe_dtype_name(to));
    if (panel_begin < 0 || n_panels < 0 || n_rows > n_panels * CABE_PANEL)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%lld rows for panels %lld to %lld", (long long)n_rows,
                         (long long)panel_begin, (long long)panel_end);
    panel_bytes = cabe_panel_bytes(to, k);
    row_bytes = cabe_dtype_bytes(from, k);
    memset(out, 0, (size_t)(panel_bytes * (uint64_t)n_panels));
    for (int64_t r = 0; r < n_rows; r++) {
        enum cabe_status status =
            pack_row(&p, (const uint8_t *)rows + (uint64_t)r * row_bytes, panel_begin * CABE_PANEL + r,
                     (uint8_t *)out + (uint64_t)(r / CABE_PANEL) * panel_bytes, err);

        if (status != CABE_OK)
            return status;
    }
    return CABE_OK;
}
