/*
 * The inner loops of integer products on AVX2: products of unsigned by signed bytes in pairs (vpmaddubsw), which
 * saturate at 16 bits. For matmul_int_avx2.c.
 *
 *   I8       activations 0..127 by weights -64..64: two pairs add up in 16 bits before they are widened.
 *   Q8_0     |w| by a with the sign of w: one pair, at most 2 * 128 * 127. Activations are never -128.
 *   nibbles  0..15 by activations: a whole block of 8 pairs adds up in 16 bits, at most 16 * 15 * 127, and there is
 *            room for - 8 sum(a), at most 32 * 8 * 127 the other way.
 *   Q6_K     0..63 by activations: the 4 pairs of a half block and - 32 times the sum of their activations add up
 *            modulo 2^16, and what comes out, at most 8 * 32 * 127, fits again.
 */
#ifndef CABE_KERNEL_MATMUL_SUMS_AVX2_H
#define CABE_KERNEL_MATMUL_SUMS_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "kernel/matmul_level.h"

#define ROWS 4 /* of a full tile: eight sums, and registers for what flows through them */
#define INLINE static inline __attribute__((always_inline))

INLINE __m256i load(const uint8_t *at)
{
    return _mm256_load_si256((const __m256i *)(const void *)at);
}

INLINE __m256i four_inputs(const uint8_t *record)
{
    int32_t four;

    memcpy(&four, record, sizeof four);
    return _mm256_set1_epi32(four);
}

/*
 * The inner steps of four rows are in assembler: eight sums and what flows through them fill the registers, and
 * compilers spill half of the sums. Rows are x0, x0 + stride, x0 + 2 stride and x3.
 */
#define SUMS(sum)                                                                                                      \
    [s0] "+x"(sum[0]), [s1] "+x"(sum[1]), [s2] "+x"(sum[2]), [s3] "+x"(sum[3]), [s4] "+x"(sum[4]), [s5] "+x"(sum[5]),  \
        [s6] "+x"(sum[6]), [s7] "+x"(sum[7])
#define FOUR_ROWS(ROW, at)                                                                                             \
    ROW(#at "(%[x0])", s0, s1) ROW(#at "(%[x0],%[stride])", s2, s3) ROW(#at "(%[x0],%[stride],2)", s4, s5)             \
        ROW(#at "(%[x3])", s6, s7)

/* Weights: ymm13 and ymm14 inputs 0..3, ymm12 and memory inputs 4..7. */
#define I8_ROW(x, sum0, sum1)                                                                                          \
    "vpbroadcastd " x ", %%ymm8\n\tvpbroadcastd 4+" x ", %%ymm9\n\t"                                                  \
    "vpmaddubsw %%ymm13, %%ymm8, %%ymm10\n\tvpmaddubsw %%ymm14, %%ymm8, %%ymm8\n\t"                                  \
    "vpmaddubsw %%ymm12, %%ymm9, %%ymm11\n\tvpmaddubsw 96(%[w]), %%ymm9, %%ymm9\n\t"                                 \
    "vpaddw %%ymm11, %%ymm10, %%ymm10\n\tvpaddw %%ymm9, %%ymm8, %%ymm8\n\t"                                          \
    "vpmaddwd %%ymm15, %%ymm10, %%ymm10\n\tvpmaddwd %%ymm15, %%ymm8, %%ymm8\n\t"                                     \
    "vpaddd %%ymm10, %[" #sum0 "], %[" #sum0 "]\n\tvpaddd %%ymm8, %[" #sum1 "], %[" #sum1 "]\n\t"

INLINE void i8_sums4(const uint8_t *x, int64_t stride, const uint8_t *w, int64_t pairs, __m256i sum[ROWS * 2])
{
    const uint8_t *x3 = x + 3 * stride;

    __asm__("vpcmpeqw %%ymm15, %%ymm15, %%ymm15\n\tvpabsw %%ymm15, %%ymm15\n\t"
            "1:\n\t"
            "vmovdqa (%[w]), %%ymm13\n\tvmovdqa 32(%[w]), %%ymm14\n\tvmovdqa 64(%[w]), %%ymm12\n\t"
            FOUR_ROWS(I8_ROW, 0)
            "add $128, %[w]\n\tadd $8, %[x0]\n\tadd $8, %[x3]\n\tdec %[pairs]\n\tjnz 1b\n\t"
            : SUMS(sum), [x0] "+r"(x), [x3] "+r"(x3), [w] "+r"(w), [pairs] "+r"(pairs)
            : [stride] "r"(stride)
            : "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "memory", "cc");
}

/* `pairs` times eight inputs of m rows; sums go on from `sum` [row][half]. */
INLINE void i8_sums(const uint8_t *const row[ROWS], const uint8_t *w, int64_t pairs, __m256i sum[ROWS * 2], const int m)
{
    const __m256i ones = _mm256_set1_epi16(1);
    int64_t at = 0;

    if (m == ROWS) {
        i8_sums4(row[0], row[1] - row[0], w, pairs, sum);
        return;
    }
    for (; pairs > 0; pairs--, at += 8, w += 128)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            __m256i w0 = load(w + half * 32), w1 = load(w + 64 + half * 32);

#pragma GCC unroll 4
            for (int r = 0; r < m; r++) {
                __m256i s = _mm256_add_epi16(_mm256_maddubs_epi16(four_inputs(row[r] + at), w0),
                                             _mm256_maddubs_epi16(four_inputs(row[r] + at + 4), w1));

                sum[r * 2 + half] = _mm256_add_epi32(sum[r * 2 + half], _mm256_madd_epi16(s, ones));
            }
        }
}

/* Weights: ymm13 and ymm14, their magnitudes ymm11 and ymm12. */
#define Q8_ROW(x, sum0, sum1)                                                                                          \
    "vpbroadcastd " x ", %%ymm8\n\t"                                                                                  \
    "vpsignb %%ymm13, %%ymm8, %%ymm9\n\tvpsignb %%ymm14, %%ymm8, %%ymm8\n\t"                                         \
    "vpmaddubsw %%ymm9, %%ymm11, %%ymm9\n\tvpmaddubsw %%ymm8, %%ymm12, %%ymm8\n\t"                                   \
    "vpmaddwd %%ymm15, %%ymm9, %%ymm9\n\tvpmaddwd %%ymm15, %%ymm8, %%ymm8\n\t"                                       \
    "vpaddd %%ymm9, %[" #sum0 "], %[" #sum0 "]\n\tvpaddd %%ymm8, %[" #sum1 "], %[" #sum1 "]\n\t"
#define Q8_STEP(at, w0, w1)                                                                                            \
    "vmovdqa " #w0 "(%[w]), %%ymm13\n\tvmovdqa " #w1 "(%[w]), %%ymm14\n\t"                                           \
    "vpabsb %%ymm13, %%ymm11\n\tvpabsb %%ymm14, %%ymm12\n\t" FOUR_ROWS(Q8_ROW, at)

INLINE void q8_sums4(const uint8_t *x, int64_t stride, const uint8_t *w, __m256i sum[ROWS * 2])
{
    const uint8_t *x3 = x + 3 * stride;
    int64_t pairs = 4;

    __asm__("vpcmpeqw %%ymm15, %%ymm15, %%ymm15\n\tvpabsw %%ymm15, %%ymm15\n\t"
            "1:\n\t" Q8_STEP(0, 0, 32) Q8_STEP(4, 64, 96)
            "add $128, %[w]\n\tadd $8, %[x0]\n\tadd $8, %[x3]\n\tdec %[pairs]\n\tjnz 1b\n\t"
            : SUMS(sum), [x0] "+r"(x), [x3] "+r"(x3), [w] "+r"(w), [pairs] "+r"(pairs)
            : [stride] "r"(stride)
            : "xmm8", "xmm9", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "memory", "cc");
}

/* 32 inputs of Q8_0; sums of products. */
INLINE void q8_sums(const uint8_t *const row[ROWS], const uint8_t *w, __m256i sum[ROWS * 2], const int m)
{
    const __m256i ones = _mm256_set1_epi16(1);

#pragma GCC unroll 8
    for (int j = 0; j < m * 2; j++)
        sum[j] = _mm256_setzero_si256();
    if (m == ROWS) {
        q8_sums4(row[0], row[1] - row[0], w, sum);
        return;
    }
    for (int at = 0; at < 32; at += 4, w += 64)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            __m256i signs = load(w + half * 32), magnitude = _mm256_abs_epi8(signs);

#pragma GCC unroll 4
            for (int r = 0; r < m; r++) {
                __m256i a = _mm256_sign_epi8(four_inputs(row[r] + at), signs);

                sum[r * 2 + half] = _mm256_add_epi32(
                    sum[r * 2 + half], _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, a), ones));
            }
        }
}

#define NIBBLE_ROW(x, sum0, sum1)                                                                                      \
    "vpbroadcastd " x ", %%ymm8\n\t"                                                                                  \
    "vpmaddubsw %%ymm8, %%ymm13, %%ymm9\n\tvpmaddubsw %%ymm8, %%ymm14, %%ymm8\n\t"                                   \
    "vpaddw %%ymm9, %[" #sum0 "], %[" #sum0 "]\n\tvpaddw %%ymm8, %[" #sum1 "], %[" #sum1 "]\n\t"
#define NIBBLE_STEP(at, w0, w1)                                                                                        \
    "vmovdqa " #w0 "(%[w]), %%ymm13\n\tvmovdqa " #w1 "(%[w]), %%ymm14\n\t" FOUR_ROWS(NIBBLE_ROW, at)
/* The first group: sums begin. */
#define FIRST_ROW(x, sum0, sum1)                                                                                       \
    "vpbroadcastd " x ", %%ymm8\n\t"                                                                                  \
    "vpmaddubsw %%ymm8, %%ymm13, %[" #sum0 "]\n\tvpmaddubsw %%ymm8, %%ymm14, %[" #sum1 "]\n\t"
#define FIRST_STEP                                                                                                     \
    "vmovdqa (%[w]), %%ymm13\n\tvmovdqa 32(%[w]), %%ymm14\n\t" FOUR_ROWS(FIRST_ROW, 0)
#define NEW_SUMS(sum)                                                                                                  \
    [s0] "=&x"(sum[0]), [s1] "=&x"(sum[1]), [s2] "=&x"(sum[2]), [s3] "=&x"(sum[3]), [s4] "=&x"(sum[4]),                \
        [s5] "=&x"(sum[5]), [s6] "=&x"(sum[6]), [s7] "=&x"(sum[7])
#define NIBBLE_INPUTS                                                                                                  \
    [x0] "r"(x), [x3] "r"(x + 3 * stride), [w] "r"(w), [stride] "r"(stride)                                            \
        : "xmm8", "xmm9", "xmm13", "xmm14", "memory"

/* Four groups of four inputs of four rows. */
INLINE void quarter_sums4(const uint8_t *x, int64_t stride, const uint8_t *w, __m256i sum[ROWS * 2])
{
    __asm__(NIBBLE_STEP(0, 0, 32) NIBBLE_STEP(4, 64, 96) NIBBLE_STEP(8, 128, 160) NIBBLE_STEP(12, 192, 224)
            : SUMS(sum)
            : NIBBLE_INPUTS);
}

/* Eight groups, from zero. */
INLINE void block_sums4(const uint8_t *x, int64_t stride, const uint8_t *w, __m256i sum[ROWS * 2])
{
    __asm__(FIRST_STEP NIBBLE_STEP(4, 64, 96) NIBBLE_STEP(8, 128, 160) NIBBLE_STEP(12, 192, 224)
            : NEW_SUMS(sum)
            : NIBBLE_INPUTS);
    quarter_sums4(x + 16, stride, w + 256, sum);
}

/* `groups` (a multiple of 4) of four inputs whose quants are unsigned bytes: sums go on from `sum` in 16 bits, pairs
 * side by side. */
INLINE void byte_sums(const uint8_t *const row[ROWS], const uint8_t *w, __m256i sum[ROWS * 2], const int groups,
                      const int m)
{
    if (m == ROWS) {
#pragma GCC unroll 2
        for (int g = 0; g < groups; g += 4)
            quarter_sums4(row[0] + g * 4, row[1] - row[0], w + g * 64, sum);
        return;
    }
#pragma GCC unroll 8
    for (int g = 0; g < groups; g++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            __m256i quants = load(w + g * 64 + half * 32);

#pragma GCC unroll 4
            for (int r = 0; r < m; r++)
                sum[r * 2 + half] = _mm256_add_epi16(sum[r * 2 + half],
                                                     _mm256_maddubs_epi16(quants, four_inputs(row[r] + g * 4)));
        }
}

/* A block of nibbles as the panel holds them. */
INLINE void nibble_sums(const uint8_t *const row[ROWS], const uint8_t *w, __m256i sum[ROWS * 2], const int m)
{
    const __m256i low = _mm256_set1_epi8(15);

#pragma GCC unroll 4
    for (int g = 0; g < 4; g++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            __m256i packed = load(w + g * 64 + half * 32), first = _mm256_and_si256(packed, low);
            __m256i second = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low);

#pragma GCC unroll 4
            for (int r = 0; r < m; r++) {
                __m256i s = _mm256_add_epi16(_mm256_maddubs_epi16(first, four_inputs(row[r] + g * 4)),
                                             _mm256_maddubs_epi16(second, four_inputs(row[r] + g * 4 + 16)));

                sum[r * 2 + half] = _mm256_add_epi16(sum[r * 2 + half], s);
            }
        }
}

/* 32 bytes of group g (0..7) of a block of Q6_K: eight outputs, the lower or the upper half of the panel. */
INLINE __m256i six_bits(const uint8_t *w, const int g, const int half)
{
    const __m256i low = _mm256_set1_epi8(15), pair = _mm256_set1_epi8(0x30);
    __m256i nibbles = load(w + g % 4 * 64 + half * 32), upper = load(w + 256 + g % 4 / 2 * 64 + half * 32);
    const int field = g / 4 * 2 + g % 2;

    nibbles = _mm256_and_si256(g < 4 ? nibbles : _mm256_srli_epi16(nibbles, 4), low);
    upper = field < 2 ? _mm256_slli_epi16(upper, 4 - 2 * field) : _mm256_srli_epi16(upper, 2 * field - 4);
    return _mm256_or_si256(nibbles, _mm256_and_si256(upper, pair));
}

/* A half block of Q6_K as the panel holds it. */
INLINE void six_sums(const uint8_t *const row[ROWS], const uint8_t *w, __m256i sum[ROWS * 2], const int second,
                     const int m)
{
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            __m256i quants = six_bits(w, second * 4 + g, half);

#pragma GCC unroll 4
            for (int r = 0; r < m; r++)
                sum[r * 2 + half] = _mm256_add_epi16(sum[r * 2 + half],
                                                     _mm256_maddubs_epi16(quants, four_inputs(row[r] + g * 4)));
        }
}

#endif
