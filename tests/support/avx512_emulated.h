/*
 * AVX-512 on a CPU that lacks it: SIMDe's functions under the names of the intrinsics, and those it does not have.
 *
 * A test includes this, then a level's .c file, whose code is then plain C of the same meaning.
 */
#ifndef CABE_TESTS_AVX512_EMULATED_H
#define CABE_TESTS_AVX512_EMULATED_H

#define CABE_SIMD_EMULATED
#define SIMDE_ENABLE_NATIVE_ALIASES

#if defined(__has_include)
#if __has_include(<simde/x86/avx512.h>)
#define CABE_HAVE_SIMDE 1
#endif
#endif
#ifndef CABE_HAVE_SIMDE
#define CABE_HAVE_SIMDE 0
#endif

#if CABE_HAVE_SIMDE
#include <math.h>
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#include <stdint.h>
#include <string.h>

#include "tensor/dtype.h"

#undef _MM_FROUND_TO_NEAREST_INT
#undef _MM_FROUND_NO_EXC
#define _MM_FROUND_TO_NEAREST_INT SIMDE_MM_FROUND_TO_NEAREST_INT
#define _MM_FROUND_NO_EXC SIMDE_MM_FROUND_NO_EXC

typedef simde__mmask16 __mmask16; /* the masks have no aliases in SIMDE's */
typedef simde__mmask64 __mmask64;

#define EMULATED static inline __attribute__((unused))
#define EACH_LANE(i, n) for (int i = 0; i < (n); i++)

EMULATED __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void *p)
{
    float x[16] = {0};

    EACH_LANE(i, 16)
        if (mask >> i & 1)
            memcpy(&x[i], (const float *)p + i, sizeof x[i]);
    return _mm512_loadu_ps(x);
}

EMULATED void _mm512_mask_storeu_ps(void *p, __mmask16 mask, __m512 a)
{
    float x[16];

    _mm512_storeu_ps(x, a);
    EACH_LANE(i, 16)
        if (mask >> i & 1)
            memcpy((float *)p + i, &x[i], sizeof x[i]);
}

/* SIMDe's rounds twice. */
#undef _mm512_fmadd_ps
EMULATED __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c)
{
    float x[16], y[16], z[16];

    _mm512_storeu_ps(x, a);
    _mm512_storeu_ps(y, b);
    _mm512_storeu_ps(z, c);
    EACH_LANE(i, 16)
        z[i] = fmaf(x[i], y[i], z[i]);
    return _mm512_loadu_ps(z);
}

EMULATED __m512i _mm512_srai_epi32(__m512i a, unsigned bits)
{
    int32_t x[16];

    _mm512_storeu_si512(x, a);
    EACH_LANE(i, 16)
        x[i] >>= bits;
    return _mm512_loadu_si512(x);
}

EMULATED __m512i _mm512_cvtps_epi32(__m512 a)
{
    float x[16];
    int32_t y[16];

    _mm512_storeu_ps(x, a);
    EACH_LANE(i, 16)
        y[i] = x[i] >= -2147483648.0f && x[i] < 2147483648.0f ? (int32_t)rintf(x[i]) : INT32_MIN;
    return _mm512_loadu_si512(y);
}

EMULATED __m512 _mm512_cvtepi32_ps(__m512i a)
{
    int32_t x[16];
    float y[16];

    _mm512_storeu_si512(x, a);
    EACH_LANE(i, 16)
        y[i] = (float)x[i];
    return _mm512_loadu_ps(y);
}

EMULATED __m512i _mm512_cvtepi8_epi32(__m128i a)
{
    int8_t x[16];
    int32_t y[16];

    memcpy(x, &a, sizeof x);
    EACH_LANE(i, 16)
        y[i] = x[i];
    return _mm512_loadu_si512(y);
}

EMULATED __m512i _mm512_cvtepu8_epi32(__m128i a)
{
    uint8_t x[16];
    int32_t y[16];

    memcpy(x, &a, sizeof x);
    EACH_LANE(i, 16)
        y[i] = x[i];
    return _mm512_loadu_si512(y);
}

EMULATED __m128i _mm512_cvtepi32_epi8(__m512i a)
{
    int32_t x[16];
    uint8_t y[16];
    __m128i out;

    _mm512_storeu_si512(x, a);
    EACH_LANE(i, 16)
        y[i] = (uint8_t)((uint32_t)x[i] & 0xFF);
    memcpy(&out, y, sizeof out);
    return out;
}

EMULATED __m512i _mm512_cvtepu16_epi32(__m256i a)
{
    uint16_t x[16];
    int32_t y[16];

    memcpy(x, &a, sizeof x);
    EACH_LANE(i, 16)
        y[i] = x[i];
    return _mm512_loadu_si512(y);
}

EMULATED __m256i _mm512_cvtepi32_epi16(__m512i a)
{
    int32_t x[16];
    uint16_t y[16];
    __m256i out;

    _mm512_storeu_si512(x, a);
    EACH_LANE(i, 16)
        y[i] = (uint16_t)((uint32_t)x[i] & 0xFFFF);
    memcpy(&out, y, sizeof out);
    return out;
}

EMULATED __m512 _mm512_cvtph_ps(__m256i a)
{
    uint16_t x[16];
    float y[16];

    memcpy(x, &a, sizeof x);
    EACH_LANE(i, 16)
        y[i] = cabe_f16_to_f32(x[i]);
    return _mm512_loadu_ps(y);
}

EMULATED __m256i _mm512_cvtps_ph(__m512 a, int rounding)
{
    float x[16];
    uint16_t y[16];
    __m256i out;

    (void)rounding;
    _mm512_storeu_ps(x, a);
    EACH_LANE(i, 16)
        y[i] = cabe_f32_to_f16(x[i]);
    memcpy(&out, y, sizeof out);
    return out;
}

/* In the order of the compilers' own: halves onto each other. */
EMULATED float _mm512_reduce_add_ps(__m512 a)
{
    float x[16];

    _mm512_storeu_ps(x, a);
    for (int half = 8; half > 0; half /= 2)
        EACH_LANE(i, half)
            x[i] += x[i + half];
    return x[0];
}

EMULATED float _mm512_reduce_max_ps(__m512 a)
{
    float x[16];

    _mm512_storeu_ps(x, a);
    for (int half = 8; half > 0; half /= 2)
        EACH_LANE(i, half)
            x[i] = x[i] > x[i + half] ? x[i] : x[i + half];
    return x[0];
}
#endif

#endif
