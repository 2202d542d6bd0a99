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
    return dtype == CABE_Q8_0 || dtype == CABE_Q4_0;
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

/* GGUF blocks, bit by bit: only their places change. */
static enum cabe_status pack_blocks(enum cabe_dtype to, const uint8_t *row, int64_t k, int64_t number, int output,
                                    uint8_t *out, struct cabe_error *err)
{
    uint8_t *quants = out + cabe_panel_quants(to, k);

    for (int64_t b = 0; b < k / 32; b++) {
        const uint8_t *block = row + cabe_dtype_bytes(to, b * 32), *q = block + 2;
        uint16_t scale;

        memcpy(&scale, block, sizeof scale);
        if ((scale & 0x7C00) == 0x7C00)
            return cabe_fail(err, CABE_ERR_FORMAT, "row %lld, columns %lld to %lld: scale %g is not a finite number",
                             (long long)number, (long long)b * 32, (long long)b * 32 + 31,
                             (double)cabe_f16_to_f32(scale));
        memcpy(out + (b * CABE_PANEL + output) * 2, &scale, sizeof scale);
        if (to == CABE_Q8_0)
            for (int i = 0; i < 32; i++)
                quants[b * 512 + i / 4 * 64 + output * 4 + i % 4] = q[i];
        else
            for (int i = 0; i < 16; i++) /* a byte of the file already has elements i and i + 16 */
                quants[b * 256 + i / 4 * 64 + output * 4 + i % 4] = q[i];
    }
    return CABE_OK;
}

static enum cabe_status pack_row(const struct packing *p, const uint8_t *row, int64_t number, uint8_t *panel,
                                 struct cabe_error *err)
{
    int output = (int)(number % CABE_PANEL);
    enum cabe_status status;

    if (is_blocks(p->from))
        return pack_blocks(p->to, row, p->k, number, output, panel, err);
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

    if (!(from_floats || (is_blocks(from) && from == to)) || !cabe_packed_ok(to, CABE_PANELS, n_rows, k))
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
