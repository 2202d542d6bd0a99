/*
 * Precision INT8 on AVX2: products of unsigned by signed bytes in pairs (vpmaddubsw), which saturate at 16 bits.
 *
 *   I8    activations 0..127 by weights -64..64: two pairs add up in 16 bits before they are widened.
 *   Q8_0  |w| by a with the sign of w: one pair, at most 2 * 128 * 127. Activations are never -128.
 *   Q4_0  weights 0..15 by activations: a whole block of 8 pairs adds up in 16 bits, at most 16 * 15 * 127, and there
 *         is room for - 8 sum(a), at most 32 * 8 * 127 the other way.
 */
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

/* acc = fma(sum, scale_a * scale_w, acc) of eight outputs; the first block starts from zero. */
INLINE void add_block(__m256i sum, float scale_a, __m256 scale_w, float *acc, int first)
{
    __m256 scale = _mm256_mul_ps(_mm256_set1_ps(scale_a), scale_w);
    __m256 old = first ? _mm256_setzero_ps() : _mm256_load_ps(acc);

    _mm256_store_ps(acc, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, old));
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

INLINE void i8_rows(const uint8_t *records, uint64_t record_bytes, const uint8_t *panel, int64_t k, float *acc,
                    const int m)
{
    int64_t blocks = (k + CABE_I8_BLOCK - 1) / CABE_I8_BLOCK, left = cabe_record_k(k);
    const uint8_t *w = panel + cabe_panel_quants(CABE_I8, k), *row[ROWS];
    const float *scales = (const float *)(const void *)panel;
    const struct cabe_matmul_meta *meta = (const void *)(records + cabe_record_meta(k));

#pragma GCC unroll 4
    for (int r = 0; r < m; r++) {
        row[r] = records + (uint64_t)r * record_bytes;
        __asm__("" : "+r"(row[r]));
    }
    for (int64_t b = 0; b < blocks; b++, left -= CABE_I8_BLOCK) {
        const uint8_t *weight_sums = panel + (uint64_t)(blocks + b) * CABE_PANEL * 4;
        __m256i sum[ROWS * 2];

#pragma GCC unroll 4
        for (int r = 0; r < m; r++) { /* - zero * sum(w), both within 16 bits: the upper half is times zero */
            const struct cabe_matmul_meta *of_row = (const void *)((const uint8_t *)&meta[b] + (uint64_t)r * record_bytes);
            __m256i zero = _mm256_set1_epi32(-of_row->offset & 0xFFFF);

            sum[r * 2] = _mm256_madd_epi16(load(weight_sums), zero);
            sum[r * 2 + 1] = _mm256_madd_epi16(load(weight_sums + 32), zero);
        }
        i8_sums(row, w, (left < CABE_I8_BLOCK ? left : CABE_I8_BLOCK) / 8, sum, m);
#pragma GCC unroll 4
        for (int r = 0; r < m; r++) {
            const struct cabe_matmul_meta *of_row = (const void *)((const uint8_t *)&meta[b] + (uint64_t)r * record_bytes);

            add_block(sum[r * 2], of_row->scale, _mm256_load_ps(scales), acc + r * 16, b == 0);
            add_block(sum[r * 2 + 1], of_row->scale, _mm256_load_ps(scales + 8), acc + r * 16 + 8, b == 0);
            row[r] += CABE_I8_BLOCK;
        }
        w += CABE_I8_BLOCK * CABE_PANEL;
        scales += CABE_PANEL;
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

#define Q4_ROW(x, sum0, sum1)                                                                                          \
    "vpbroadcastd " x ", %%ymm8\n\t"                                                                                  \
    "vpmaddubsw %%ymm8, %%ymm13, %%ymm9\n\tvpmaddubsw %%ymm8, %%ymm14, %%ymm8\n\t"                                   \
    "vpaddw %%ymm9, %[" #sum0 "], %[" #sum0 "]\n\tvpaddw %%ymm8, %[" #sum1 "], %[" #sum1 "]\n\t"
#define Q4_STEP(at, w0, w1)                                                                                            \
    "vmovdqa " #w0 "(%[w]), %%ymm13\n\tvmovdqa " #w1 "(%[w]), %%ymm14\n\t" FOUR_ROWS(Q4_ROW, at)

INLINE void q4_sums4(const uint8_t *x, int64_t stride, const uint8_t *w, __m256i sum[ROWS * 2])
{
    const uint8_t *x3 = x + 3 * stride;
    int64_t pairs = 4;

    __asm__("1:\n\t" Q4_STEP(0, 0, 32) Q4_STEP(4, 64, 96)
            "add $128, %[w]\n\tadd $8, %[x0]\n\tadd $8, %[x3]\n\tdec %[pairs]\n\tjnz 1b\n\t"
            : SUMS(sum), [x0] "+r"(x), [x3] "+r"(x3), [w] "+r"(w), [pairs] "+r"(pairs)
            : [stride] "r"(stride)
            : "xmm8", "xmm9", "xmm13", "xmm14", "memory", "cc");
}

/* 32 inputs of Q4_0 whose quants are bytes already: sums go on from `sum` in 16 bits, pairs side by side. */
INLINE void q4_sums(const uint8_t *const row[ROWS], const uint8_t *w, __m256i sum[ROWS * 2], const int m)
{
    if (m == ROWS) {
        q4_sums4(row[0], row[1] - row[0], w, sum);
        return;
    }
    for (int g = 0; g < 8; g++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            __m256i quants = load(w + g * 64 + half * 32);

#pragma GCC unroll 4
            for (int r = 0; r < m; r++)
                sum[r * 2 + half] = _mm256_add_epi16(sum[r * 2 + half],
                                                     _mm256_maddubs_epi16(quants, four_inputs(row[r] + g * 4)));
        }
}

/* The same from packed quants. */
INLINE void q4_packed_sums(const uint8_t *const row[ROWS], const uint8_t *w, __m256i sum[ROWS * 2], const int m)
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

enum quants { Q8, Q4_UNPACKED, Q4_PACKED };

INLINE void block32_rows(const uint8_t *records, uint64_t record_bytes, const uint8_t *panel, const uint8_t *w, int64_t k,
                         int64_t begin, int64_t end, float *acc, const int m, const enum quants quants)
{
    const __m256i ones = _mm256_set1_epi16(1);
    const uint8_t *row[ROWS], *scales = panel + begin;
    const uint8_t *meta = records + cabe_record_meta(k) + (uint64_t)begin / 32 * sizeof(struct cabe_matmul_meta);

#pragma GCC unroll 4
    for (int r = 0; r < m; r++) {
        row[r] = records + begin + (uint64_t)r * record_bytes;
        __asm__("" : "+r"(row[r]));
    }
    for (int64_t b = begin / 32; b < end / 32; b++, scales += 32, meta += sizeof(struct cabe_matmul_meta)) {
        __m256i sum[ROWS * 2];
        __m256 scale[2];

        if (quants != Q8)
#pragma GCC unroll 8
            for (int j = 0; j < m * 2; j++) { /* - 8 sum(a) begins the lower half of each pair; it stays in 16 bits */
                const struct cabe_matmul_meta *of_row = (const void *)(meta + (uint64_t)(j / 2) * record_bytes);

                sum[j] = _mm256_set1_epi32(of_row->offset & 0xFFFF);
            }
        if (quants == Q8)
            q8_sums(row, w, sum, m);
        else if (quants == Q4_UNPACKED)
            q4_sums(row, w, sum, m);
        else
            q4_packed_sums(row, w, sum, m);
        w += quants == Q4_PACKED ? 256 : 512;
        scale[0] = _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)scales));
        scale[1] = _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)(scales + 16)));
#pragma GCC unroll 4
        for (int r = 0; r < m; r++) {
            const struct cabe_matmul_meta *of_row = (const void *)(meta + (uint64_t)r * record_bytes);

#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                __m256i s = sum[r * 2 + half];

                if (quants != Q8)
                    s = _mm256_madd_epi16(s, ones);
                add_block(s, of_row->scale, scale[half], acc + r * 16 + half * 8, b == 0);
            }
            row[r] += 32;
        }
    }
}

INLINE void some_rows(enum cabe_dtype dtype, const uint8_t *records, uint64_t record_bytes, const uint8_t *panel,
                      const uint8_t *unpacked, int64_t k, int64_t begin, int64_t end, float *acc, const int m)
{
    const uint8_t *quants = panel + cabe_panel_quants(dtype, k);

    if (dtype == CABE_I8)
        i8_rows(records, record_bytes, panel, k, acc, m);
    else if (dtype == CABE_Q8_0)
        block32_rows(records, record_bytes, panel, quants + begin * 16, k, begin, end, acc, m, Q8);
    else if (unpacked)
        block32_rows(records, record_bytes, panel, unpacked, k, begin, end, acc, m, Q4_UNPACKED);
    else
        block32_rows(records, record_bytes, panel, quants + begin * 8, k, begin, end, acc, m, Q4_PACKED);
}

static void dot(enum cabe_dtype dtype, const uint8_t *records, int64_t rows, const uint8_t *panel,
                const uint8_t *unpacked, int64_t k, int64_t begin, int64_t end, float *acc)
{
    uint64_t record_bytes = cabe_record_bytes(dtype, k);

    if (dtype == CABE_Q4_1 || dtype == CABE_Q4_K || dtype == CABE_Q6_K) {
        cabe_matmul_ints_scalar.dot(dtype, records, rows, panel, unpacked, k, begin, end, acc);
        return;
    }
    if (k == 0)
        memset(acc, 0, (size_t)rows * CABE_PANEL * sizeof(float));
    while (rows > 0 && k > 0) {
        int64_t m = rows >= ROWS ? ROWS : rows;

        switch (m) {
        case 1:
            some_rows(dtype, records, record_bytes, panel, unpacked, k, begin, end, acc, 1);
            break;
        case 2:
            some_rows(dtype, records, record_bytes, panel, unpacked, k, begin, end, acc, 2);
            break;
        case 3:
            some_rows(dtype, records, record_bytes, panel, unpacked, k, begin, end, acc, 3);
            break;
        default:
            some_rows(dtype, records, record_bytes, panel, unpacked, k, begin, end, acc, 4);
            break;
        }
        rows -= m;
        records += (uint64_t)m * record_bytes;
        acc += m * CABE_PANEL;
    }
}

static void unpack(enum cabe_dtype dtype, const uint8_t *panel, int64_t k, int64_t begin, int64_t end, uint8_t *out)
{
    const uint8_t *quants = panel + cabe_panel_quants(CABE_Q4_0, k) + begin * 8;
    const __m256i low = _mm256_set1_epi8(15);

    if (dtype != CABE_Q4_0)
        return;
    for (int64_t b = begin / 32; b < end / 32; b++, quants += 256, out += 512)
        for (int i = 0; i < 256; i += 32) {
            __m256i packed = load(quants + i);

            _mm256_store_si256((__m256i *)(void *)(out + i), _mm256_and_si256(packed, low));
            _mm256_store_si256((__m256i *)(void *)(out + 256 + i), _mm256_and_si256(_mm256_srli_epi16(packed, 4), low));
        }
}

INLINE float largest(__m256 x)
{
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));

    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

/* 32 values already scaled, rounded and clamped within int8, to bytes in order. */
INLINE __m256i to_bytes(const __m256 v[4])
{
    __m256i a = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
    __m256i b = _mm256_packs_epi32(_mm256_cvtps_epi32(v[2]), _mm256_cvtps_epi32(v[3]));

    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

INLINE __m256 rounded(__m256 x)
{
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* n is a multiple of 32. The operand order of min and max ignores what is not a number, as scalar does. */
INLINE void quantise_unsigned(const float *x, int64_t n, uint8_t *q, struct cabe_matmul_meta *meta)
{
    __m256 lo = _mm256_setzero_ps(), hi = _mm256_setzero_ps(), zeros = _mm256_setzero_ps();
    const __m256 most = _mm256_set1_ps(127.0f);
    float least, range, zero;

    for (int64_t i = 0; i < n; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);

        lo = _mm256_min_ps(v, lo);
        hi = _mm256_max_ps(v, hi);
    }
    least = -largest(_mm256_sub_ps(_mm256_setzero_ps(), lo));
    range = largest(hi) - least;
    meta->scale = range < CABE_A8_TINY ? 0.0f : range / 127.0f;
    range = range < CABE_A8_TINY ? 0.0f : 127.0f / range;
    zero = _mm_cvtss_f32(_mm_round_ss(_mm_setzero_ps(), _mm_set_ss(-least * range), _MM_FROUND_TO_NEAREST_INT));
    zero = zero > 0.0f ? zero < 127.0f ? zero : 127.0f : 0.0f;
    meta->offset = (int32_t)zero;
    for (int64_t i = 0; i < n; i += 32) {
        __m256 v[4];

        for (int j = 0; j < 4; j++) {
            v[j] = rounded(_mm256_mul_ps(_mm256_loadu_ps(x + i + j * 8), _mm256_set1_ps(range)));
            v[j] = _mm256_min_ps(_mm256_max_ps(_mm256_add_ps(v[j], _mm256_set1_ps(zero)), zeros), most);
        }
        _mm256_storeu_si256((__m256i *)(void *)(q + i), to_bytes(v));
    }
}

/* 32 values. */
INLINE void quantise_signed(const float *x, uint8_t *q, struct cabe_matmul_meta *meta, int factor)
{
    const __m256 sign = _mm256_set1_ps(-0.0f), most = _mm256_set1_ps(127.0f), least = _mm256_set1_ps(-127.0f);
    __m256 hi = _mm256_setzero_ps(), v[4];
    __m256i bytes, sum;
    float magnitude, inverse;

    for (int j = 0; j < 4; j++)
        hi = _mm256_max_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(x + j * 8)), hi);
    magnitude = largest(hi);
    meta->scale = magnitude < CABE_A8_TINY ? 0.0f : magnitude / 127.0f;
    inverse = magnitude < CABE_A8_TINY ? 0.0f : 127.0f / magnitude;
    for (int j = 0; j < 4; j++)
        v[j] = _mm256_min_ps(
            _mm256_max_ps(rounded(_mm256_mul_ps(_mm256_loadu_ps(x + j * 8), _mm256_set1_ps(inverse))), least), most);
    bytes = to_bytes(v);
    _mm256_storeu_si256((__m256i *)(void *)q, bytes);
    sum = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes), _mm256_set1_epi16(1));
    sum = _mm256_add_epi32(sum, _mm256_permute2x128_si256(sum, sum, 1));
    sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(sum, 0x4E));
    sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(sum, 0xB1));
    meta->offset = factor * _mm256_extract_epi32(sum, 0);
}

static void quantise(enum cabe_dtype dtype, const float *x, int64_t k, uint8_t *record)
{
    struct cabe_matmul_meta *meta = (void *)(record + cabe_record_meta(k));
    float last[CABE_I8_BLOCK] = {0};
    int64_t i = 0;

    if (dtype == CABE_Q4_1 || dtype == CABE_Q4_K || dtype == CABE_Q6_K) {
        cabe_matmul_ints_scalar.quantise(dtype, x, k, record);
        return;
    }
    if (dtype != CABE_I8) {
        for (; i < k; i += 32)
            quantise_signed(x + i, record + i, meta++, dtype == CABE_Q4_0 ? -8 : 1);
        return;
    }
    for (; i + CABE_I8_BLOCK <= k; i += CABE_I8_BLOCK)
        quantise_unsigned(x + i, CABE_I8_BLOCK, record + i, meta++);
    if (i < k) { /* zeros change neither the range nor, as their weights are zeros, the sums */
        memcpy(last, x + i, (size_t)(k - i) * sizeof(float));
        quantise_unsigned(last, cabe_record_k(k) - i, record + i, meta);
    }
}

const struct cabe_matmul_ints cabe_matmul_ints_avx2 = {.quantise = quantise, .unpack = unpack, .dot = dot, .unpack_rows = 16};
