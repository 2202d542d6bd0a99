#include "tensor/dtype.h"

#include <assert.h>
#include <string.h>

static const struct {
    const char *name;
    int64_t block;
    uint64_t bytes;
} dtypes[CABE_N_DTYPES] = {
#define X(symbol, name, block, bytes) {name, block, bytes},
    CABE_DTYPE_MAP(X)
#undef X
};

const char *cabe_dtype_name(enum cabe_dtype dtype)
{
    return (unsigned)dtype < CABE_N_DTYPES ? dtypes[dtype].name : "?";
}

enum cabe_dtype cabe_dtype_find(const char *name)
{
    for (int i = 0; i < CABE_N_DTYPES; i++)
        if (strcmp(dtypes[i].name, name) == 0)
            return (enum cabe_dtype)i;
    return strcmp(name, "i8") == 0     ? CABE_I8
           : strcmp(name, "q4_k") == 0 ? CABE_Q4_K
           : strcmp(name, "q5_k") == 0 ? CABE_Q5_K
           : strcmp(name, "q6_k") == 0 ? CABE_Q6_K
                                       : CABE_N_DTYPES;
}

int64_t cabe_dtype_block(enum cabe_dtype dtype)
{
    return dtypes[dtype].block;
}

uint64_t cabe_dtype_bytes(enum cabe_dtype dtype, int64_t n)
{
    assert(n >= 0 && n % dtypes[dtype].block == 0);
    return (uint64_t)(n / dtypes[dtype].block) * dtypes[dtype].bytes;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

float cabe_f16_to_f32(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    uint32_t exponent = (bits >> 10) & 31u, mantissa = bits & 0x3FFu;

    if (exponent == 31)
        return float_of(sign | 0x7F800000u | mantissa << 13 | (mantissa ? 0x400000u : 0));
    if (exponent == 0) { /* zero or subnormal: mantissa * 2^-24, exact in f32 */
        float magnitude = (float)mantissa * 0x1p-24f;

        return float_of(sign | bits_of(magnitude));
    }
    return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
}

/* To nearest even at bit `shift`; a carry runs into the exponent as it should. */
static uint32_t round_even(uint32_t bits, int shift)
{
    uint32_t half = 1u << (shift - 1);

    return (bits + half - 1 + ((bits >> shift) & 1u)) >> shift;
}

uint16_t cabe_f32_to_f16(float value)
{
    uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7FFFFFFFu;

    if (magnitude > 0x7F800000u)
        return (uint16_t)(sign | 0x7E00u | (magnitude >> 13 & 0x3FFu));
    if (magnitude >= 0x477FF000u) /* 65520 and above */
        return (uint16_t)(sign | 0x7C00u);
    if (magnitude < 0x38800000u) { /* below 2^-14: adding 2^-1 leaves the subnormal in the low bits, rounded */
        float shifted = float_of(magnitude) + 0.5f;

        return (uint16_t)(sign | (bits_of(shifted) - 0x3F000000u));
    }
    return (uint16_t)(sign | (round_even(magnitude, 13) - (112u << 10)));
}

float cabe_bf16_to_f32(uint16_t bits)
{
    return float_of((uint32_t)bits << 16);
}

uint16_t cabe_f32_to_bf16(float value)
{
    uint32_t bits = bits_of(value);

    if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)round_even(bits, 16);
}
