/* One output out of a matrix in panels (tensor/packed.h says how they lie). */
#include <string.h>

#include "kernel/matmul.h"

static float half_at(const uint8_t *at)
{
    uint16_t bits;

    memcpy(&bits, at, sizeof bits);
    return cabe_f16_to_f32(bits);
}

static void floats(enum cabe_dtype dtype, const uint8_t *at, int64_t k, float *out)
{
    for (int64_t i = 0; i < k; i++, at += CABE_PANEL * cabe_dtype_bytes(dtype, 1)) {
        uint16_t bits;

        memcpy(&bits, at, sizeof bits);
        if (dtype == CABE_F32)
            memcpy(out + i, at, sizeof *out);
        else
            out[i] = dtype == CABE_F16 ? cabe_f16_to_f32(bits) : cabe_bf16_to_f32(bits);
    }
}

/* n inputs of bytes, four side by side every 64. */
static void bytes(const uint8_t *quants, int64_t n, float scale, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)(int8_t)quants[i / 4 * 64 + i % 4] * scale;
}

/* A block of 32 of nibbles. Adding a `least` of -0 changes no bit. */
static void nibbles(const uint8_t *quants, float scale, int zero, float least, float *out)
{
    for (int i = 0; i < 16; i++) {
        uint8_t byte = quants[i / 4 * 64 + i % 4];

        out[i] = (float)((byte & 15) - zero) * scale + least;
        out[16 + i] = (float)((byte >> 4) - zero) * scale + least;
    }
}

/* A super-block of Q4_K. */
static void super_q4_k(const uint8_t *super, int output, float *out)
{
    const uint8_t *low = super + 64 + output;
    float d = half_at(super + output * 2), dmin = half_at(super + 32 + output * 2);

    for (int b = 0; b < 8; b++) {
        int scale = low[(b & 3) * CABE_PANEL], least = low[(4 + (b & 3)) * CABE_PANEL];

        if (b >= 4) {
            scale = (low[(b + 4) * CABE_PANEL] & 15) | scale >> 6 << 4;
            least = low[(b + 4) * CABE_PANEL] >> 4 | least >> 6 << 4;
        }
        nibbles(super + CABE_Q4_K_QUANTS + b * 256 + output * 4, d * (float)(scale & 63), 0,
                -(dmin * (float)(least & 63)), out + b * 32);
    }
}

/* A super-block of Q6_K. */
static void super_q6_k(const uint8_t *super, float d, int output, float *out)
{
    for (int b = 0; b < 8; b++)
        for (int i = 0; i < 32; i++) {
            const uint8_t *quants = super + CABE_Q6_K_QUANTS + b * CABE_Q6_K_BLOCK + output * 4 + i % 4;
            float scale = d * (float)(int8_t)super[(b * 2 + i / 16) * CABE_PANEL + output];
            int low = quants[i % 16 / 4 * 64], high = quants[256 + i % 16 / 8 * 64] >> (i / 16 * 4 + i / 4 % 2 * 2);

            low = i < 16 ? low & 15 : low >> 4;
            out[b * 32 + i] = scale * (float)((low | (high & 3) << 4) - 32);
        }
}

void cabe_panel_row(enum cabe_dtype dtype, const void *panels, int64_t k, int64_t row, float *out)
{
    const uint8_t *panel = (const uint8_t *)panels + (uint64_t)(row / CABE_PANEL) * cabe_panel_bytes(dtype, k);
    const uint8_t *quants = panel + cabe_panel_quants(dtype, k);
    int output = (int)(row % CABE_PANEL);
    float scale;

    switch (dtype) {
    case CABE_F32:
    case CABE_F16:
    case CABE_BF16:
        floats(dtype, panel + (uint64_t)output * cabe_dtype_bytes(dtype, 1), k, out);
        break;
    case CABE_I8:
        for (int64_t i = 0; i < k; i += CABE_I8_BLOCK) {
            memcpy(&scale, panel + (i / CABE_I8_BLOCK * CABE_PANEL + output) * 4, sizeof scale);
            bytes(quants + i * CABE_PANEL + output * 4, k - i < CABE_I8_BLOCK ? k - i : CABE_I8_BLOCK, scale, out + i);
        }
        break;
    case CABE_Q4_K:
        for (int64_t b = 0; b < k / 256; b++)
            super_q4_k(panel + b * CABE_Q4_K_SUPER, output, out + b * 256);
        break;
    case CABE_Q6_K:
        for (int64_t b = 0; b < k / 256; b++)
            super_q6_k(quants + b * CABE_Q6_K_SUPER, half_at(panel + (b * CABE_PANEL + output) * 2), output,
                       out + b * 256);
        break;
    default:
        for (int64_t b = 0; b < k / 32; b++) {
            const uint8_t *at = panel + ((dtype == CABE_Q4_1 ? b * 2 : b) * CABE_PANEL + output) * 2;

            if (dtype == CABE_Q8_0)
                bytes(quants + b * 512 + output * 4, 32, half_at(at), out + b * 32);
            else
                nibbles(quants + b * 256 + output * 4, half_at(at), dtype == CABE_Q4_0 ? 8 : 0,
                        dtype == CABE_Q4_1 ? half_at(at + 32) : -0.0f, out + b * 32);
        }
    }
}
