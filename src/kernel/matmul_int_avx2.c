/* Precision INT8 on AVX2: blocks of integer products, their scales, and panels unpacked for many rows. */
#include "kernel/matmul_sums_avx2.h"

/* acc = fma(sum, scale_a * scale_w, acc) of eight outputs; the first block starts from zero. */
INLINE void add_block(__m256i sum, float scale_a, __m256 scale_w, float *acc, int first)
{
    __m256 scale = _mm256_mul_ps(_mm256_set1_ps(scale_a), scale_w);
    __m256 old = first ? _mm256_setzero_ps() : _mm256_load_ps(acc);

    _mm256_store_ps(acc, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, old));
}

/* And then acc = fma(a * sum(q), least, acc). */
INLINE void add_block_least(__m256i sum, const struct cabe_matmul_meta *meta, __m256 scale_w, __m256 least, float *acc,
                            int first)
{
    __m256 scale = _mm256_mul_ps(_mm256_set1_ps(meta->scale), scale_w);
    __m256 old = first ? _mm256_setzero_ps() : _mm256_load_ps(acc);

    old = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, old);
    _mm256_store_ps(acc, _mm256_fmadd_ps(_mm256_set1_ps(meta->sum), least, old));
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

enum quants { Q8, NIBBLES, NIBBLES_PACKED, SIX, SIX_PACKED };
enum scales { F16, F16_LEAST, F32_LEAST, F32_HALVES, BYTES_LEAST };

/*
 * What an unpacked chunk of a panel is: a byte for each quant, [inputs/4][16][4]; then, for each block,
 *   Q4_K  f32 [16] scales, f32 [16] minimums.
 *   Q6_K  f32 [16] scales, i16 [2][16][2] scales of the halves, each twice.
 * Q4_0 and Q4_1 take their scales from the panel, where they can be read as they are.
 */
#define SCALES_Q4_K 128
#define SCALES_Q6_K 192

/* Where the blocks of a call begin. */
struct blocks {
    const uint8_t *records, *meta; /* of the first row */
    uint64_t record_bytes, meta_bytes;
    const uint8_t *w, *scales;
    int64_t n, w_bytes, scale_bytes; /* blocks; from one to the next */
    const uint8_t *ahead;            /* to be fetched during the first block */
    int64_t ahead_bytes;             /* during each */
    int first;                       /* sums begin at zero */
};

/*
 * Few rows are as fast as memory: what is fetched runs evenly through the panels, scales and quants alike, a part of
 * it with every block and every tile of rows. One to three rows fetch to L2 and leave every other line to the CPU's own
 * fetching, which together have more lines on their way than L1 has room for: 0.92 of what plain reading of the same
 * bytes reaches, against 0.87 to L1 line by line.
 */
#define FEW_AHEAD 4096

/* Of a block of 32 inputs, a share of scales that stand elsewhere included; 0 for I8, of which nothing is fetched. */
INLINE int64_t packed_bytes(enum cabe_dtype dtype)
{
    switch (dtype) {
    case CABE_Q8_0:
        return 544;
    case CABE_Q4_1:
        return 320;
    case CABE_Q6_K:
        return 420;
    default:
        return dtype == CABE_I8 ? 0 : 288;
    }
}

INLINE void fetch(const uint8_t *at, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)(at + i), _MM_HINT_T0);
}

INLINE void fetch_few(const uint8_t *at, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 128)
        _mm_prefetch((const char *)(at + i), _MM_HINT_T1);
}

/* Scales of the halves of a block of Q6_K, from the panel: two for one multiplication of pairs. */
INLINE void half_scales(const uint8_t *bytes, __m256i out[2])
{
    __m256i scales = _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)(const void *)bytes));

    scales = _mm256_permute4x64_epi64(scales, 0xD8);
    out[0] = _mm256_unpacklo_epi16(scales, scales);
    out[1] = _mm256_unpackhi_epi16(scales, scales);
}

INLINE __m256i two_sums(const uint8_t *meta, const int second)
{
    int32_t two;

    memcpy(&two, meta + 4 + second * 4, sizeof two);
    return _mm256_set1_epi32(two);
}

/* A block of Q6_K: sums of m rows, each half times its scale. */
INLINE void six_block(const uint8_t *const row[ROWS], const uint8_t *meta, uint64_t record_bytes, const uint8_t *w,
                      const uint8_t *scales, __m256i sum[ROWS * 2], const int m, const int packed)
{
    __m256i half[ROWS * 2], factor[2];

#pragma GCC unroll 2
    for (int second = 0; second < 2; second++) {
        const uint8_t *at[ROWS];

#pragma GCC unroll 4
        for (int r = 0; r < m; r++) {
            at[r] = row[r] + second * 16;
            half[r * 2] = half[r * 2 + 1] = two_sums(meta + (uint64_t)r * record_bytes, second);
        }
        if (packed) {
            six_sums(at, w, half, second, m);
            half_scales(scales + second * 16, factor);
        } else {
            byte_sums(at, w + second * 256, half, 4, m);
            factor[0] = load(scales + 64 + second * 64);
            factor[1] = load(scales + 96 + second * 64);
        }
#pragma GCC unroll 8
        for (int j = 0; j < m * 2; j++) {
            half[j] = _mm256_madd_epi16(half[j], factor[j % 2]);
            sum[j] = second ? _mm256_add_epi32(sum[j], half[j]) : half[j];
        }
    }
}

/* A block of nibbles: sums of m rows in 32 bits. */
INLINE void nibble_block(const uint8_t *const row[ROWS], const uint8_t *meta, uint64_t record_bytes, const uint8_t *w,
                         __m256i sum[ROWS * 2], const int m, const int packed, const int offset)
{
    if (!packed && m == ROWS) {
        block_sums4(row[0], row[1] - row[0], w, sum);
    } else {
#pragma GCC unroll 8
        for (int j = 0; j < m * 2; j++)
            sum[j] = _mm256_setzero_si256();
        if (packed)
            nibble_sums(row, w, sum, m);
        else
            byte_sums(row, w, sum, 8, m);
    }
#pragma GCC unroll 8
    for (int j = 0; j < m * 2; j++) {
        const struct cabe_matmul_meta *of_row = (const void *)(meta + (uint64_t)(j / 2) * record_bytes);

        sum[j] = _mm256_madd_epi16(sum[j], _mm256_set1_epi16(1));
        if (offset)
            sum[j] = _mm256_add_epi32(sum[j], _mm256_set1_epi32(of_row->offset));
    }
}

INLINE __m256 eight_bytes(const uint8_t *at)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)at)));
}

/* `super` (of BYTES_LEAST): d of both halves of the panel, then - dmin. */
INLINE void block_scales(const uint8_t *at, const __m256 super[4], __m256 scale[2], __m256 least[2],
                         const enum scales scales)
{
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        if (scales == F16 || scales == F16_LEAST)
            scale[half] = _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)(at + half * 16)));
        else if (scales == BYTES_LEAST)
            scale[half] = _mm256_mul_ps(eight_bytes(at + half * 8), super[half]);
        else
            scale[half] = _mm256_load_ps((const float *)(const void *)(at + half * 32));
        if (scales == F16_LEAST)
            least[half] = _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)(at + 32 + half * 16)));
        if (scales == F32_LEAST)
            least[half] = _mm256_load_ps((const float *)(const void *)(at + 64 + half * 32));
        if (scales == BYTES_LEAST)
            least[half] = _mm256_mul_ps(eight_bytes(at + 128 + half * 8), super[2 + half]);
    }
}

/*
 * Blocks of 32 of m rows. For SIX_PACKED, `scales` are f16 of the super-block and `halves` its signed bytes; `super` is
 * for block_scales().
 */
INLINE void rows_of(const struct blocks *p, const uint8_t *halves, const __m256 super[4], float *acc, const int m,
                    const enum quants quants, const enum scales scales, const int offset)
{
    const uint8_t *row[ROWS], *meta = p->meta, *w = p->w, *at = p->scales;
    const int64_t whole = quants == Q8 ? 544 : quants == SIX_PACKED ? 420 : scales == F16_LEAST ? 320 : 288;

#pragma GCC unroll 4
    for (int r = 0; r < m; r++) {
        row[r] = p->records + (uint64_t)r * p->record_bytes;
        __asm__("" : "+r"(row[r]));
    }
    for (int64_t b = 0; b < p->n; b++) {
        const int first = p->first && b == 0;
        __m256i sum[ROWS * 2];
        __m256 scale[2], least[2];

        if (m < ROWS && p->ahead_bytes == whole)
            fetch_few(p->ahead + b * whole, whole);
        else
            fetch(p->ahead + b * p->ahead_bytes, p->ahead_bytes);
        if (quants == Q8)
            q8_sums(row, w, sum, m);
        else if (quants == SIX || quants == SIX_PACKED)
            six_block(row, meta, p->record_bytes, w, quants == SIX ? at : halves + b * 32, sum, m,
                      quants == SIX_PACKED);
        else
            nibble_block(row, meta, p->record_bytes, w, sum, m, quants == NIBBLES_PACKED, offset);
        block_scales(at, super, scale, least, scales);
#pragma GCC unroll 4
        for (int r = 0; r < m; r++) {
            const struct cabe_matmul_meta *of_row = (const void *)(meta + (uint64_t)r * p->record_bytes);

#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                float *to = acc + r * 16 + half * 8;

                if (scales == F16_LEAST || scales == F32_LEAST || scales == BYTES_LEAST)
                    add_block_least(sum[r * 2 + half], of_row, scale[half], least[half], to, first);
                else
                    add_block(sum[r * 2 + half], of_row->scale, scale[half], to, first);
            }
            row[r] += 32;
        }
        meta += p->meta_bytes;
        w += p->w_bytes;
        at += p->scale_bytes;
    }
}

/* A super-block of Q4_K: its scales and minimums as bytes, [2][8][16], and d and - dmin as block_scales() wants them. */
INLINE void scales_q4_k(const uint8_t *at, uint8_t bytes[2][128], __m256 super[4])
{
    const __m256i six = _mm256_set1_epi8(63), four = _mm256_set1_epi8(15), two = _mm256_set1_epi8(0x30);
    const uint8_t *in = at + 64;

#pragma GCC unroll 2
    for (int pair = 0; pair < 2; pair++) { /* 32 bytes are two blocks */
        __m256i s = load(in + pair * 32), m = load(in + 64 + pair * 32), low = load(in + 128 + pair * 32);
        __m256i s_top = _mm256_and_si256(_mm256_srli_epi16(s, 2), two);
        __m256i m_top = _mm256_and_si256(_mm256_srli_epi16(m, 2), two);
        __m256i m_low = _mm256_and_si256(_mm256_srli_epi16(low, 4), four);

        _mm256_store_si256((__m256i *)(void *)(bytes[0] + pair * 32), _mm256_and_si256(s, six));
        _mm256_store_si256((__m256i *)(void *)(bytes[1] + pair * 32), _mm256_and_si256(m, six));
        _mm256_store_si256((__m256i *)(void *)(bytes[0] + 64 + pair * 32),
                           _mm256_or_si256(_mm256_and_si256(low, four), s_top));
        _mm256_store_si256((__m256i *)(void *)(bytes[1] + 64 + pair * 32), _mm256_or_si256(m_low, m_top));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        super[i] = _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)(at + i * 16)));
        if (i >= 2)
            super[i] = _mm256_xor_ps(_mm256_set1_ps(-0.0f), super[i]);
    }
}

/* The same as floats, [8][2][16], for panels that many rows read. */
static void float_scales_q4_k(const uint8_t *at, float *out)
{
    uint8_t bytes[2][128] __attribute__((aligned(32)));
    __m256 super[4];

    scales_q4_k(at, bytes, super);
    for (int b = 0; b < 8; b++, out += 32) {
        __m256 scale[2], least[2];

        block_scales(bytes[0] + b * 16, super, scale, least, BYTES_LEAST);
        _mm256_store_ps(out, scale[0]);
        _mm256_store_ps(out + 8, scale[1]);
        _mm256_store_ps(out + 16, least[0]);
        _mm256_store_ps(out + 24, least[1]);
    }
}

/* K-quants as the panel holds them, a super-block at a time. */
INLINE void supers(struct blocks p, enum cabe_dtype dtype, const uint8_t *panel, int64_t k, int64_t begin, int64_t end,
                   float *acc, const int m)
{
    const uint8_t *super = panel + cabe_panel_quants(dtype, k) +
                           begin / 256 * (dtype == CABE_Q4_K ? CABE_Q4_K_SUPER : CABE_Q6_K_SUPER);
    uint8_t bytes[2][128] __attribute__((aligned(32)));
    __m256 of_super[4];

    p.n = 8;
    for (int64_t i = begin; i < end; i += 256) {
        if (dtype == CABE_Q4_K) {
            scales_q4_k(super, bytes, of_super);
            p.w = super + CABE_Q4_K_QUANTS;
            p.w_bytes = 256;
            p.scales = bytes[0];
            p.scale_bytes = CABE_PANEL;
            rows_of(&p, NULL, of_super, acc, m, NIBBLES_PACKED, BYTES_LEAST, 0);
            super += CABE_Q4_K_SUPER;
        } else {
            p.w = super + CABE_Q6_K_QUANTS;
            p.w_bytes = CABE_Q6_K_BLOCK;
            p.scales = panel + i / 256 * 32;
            p.scale_bytes = 0;
            rows_of(&p, super, NULL, acc, m, SIX_PACKED, F16, 0);
            super += CABE_Q6_K_SUPER;
        }
        p.records += 256;
        p.meta += 8 * p.meta_bytes;
        p.ahead += 8 * p.ahead_bytes;
        p.first = 0;
    }
}

INLINE void some_rows(enum cabe_dtype dtype, const uint8_t *records, const uint8_t *panel, const uint8_t *unpacked,
                      int64_t k, int64_t begin, int64_t end, const uint8_t *ahead, int64_t ahead_bytes, float *acc,
                      const int m)
{
    const uint8_t *quants = panel + cabe_panel_quants(dtype, k);
    struct blocks p = {.records = records + begin,
                       .meta = records + cabe_record_meta(k) + (uint64_t)begin / 32 * cabe_meta_bytes(dtype),
                       .record_bytes = cabe_record_bytes(dtype, k),
                       .meta_bytes = cabe_meta_bytes(dtype),
                       .w = unpacked ? unpacked : quants + begin * 8,
                       .scales = panel + begin,
                       .n = (end - begin) / 32,
                       .w_bytes = unpacked ? 512 : 256,
                       .scale_bytes = 32,
                       .ahead = ahead,
                       .ahead_bytes = ahead_bytes,
                       .first = begin == 0};

    switch (dtype) {
    case CABE_I8:
        i8_rows(records, p.record_bytes, panel, k, acc, m);
        return;
    case CABE_Q8_0:
        p.w = quants + begin * 16;
        p.w_bytes = 512;
        rows_of(&p, NULL, NULL, acc, m, Q8, F16, 0);
        return;
    case CABE_Q4_0:
        if (unpacked)
            rows_of(&p, NULL, NULL, acc, m, NIBBLES, F16, 1);
        else
            rows_of(&p, NULL, NULL, acc, m, NIBBLES_PACKED, F16, 1);
        return;
    case CABE_Q4_1:
        p.scales = panel + begin * 2;
        p.scale_bytes = 64;
        if (unpacked)
            rows_of(&p, NULL, NULL, acc, m, NIBBLES, F16_LEAST, 0);
        else
            rows_of(&p, NULL, NULL, acc, m, NIBBLES_PACKED, F16_LEAST, 0);
        return;
    default:
        p.scales = unpacked + (end - begin) * CABE_PANEL;
        p.scale_bytes = dtype == CABE_Q4_K ? SCALES_Q4_K : SCALES_Q6_K;
        if (!unpacked)
            supers(p, dtype, panel, k, begin, end, acc, m);
        else if (dtype == CABE_Q4_K)
            rows_of(&p, NULL, NULL, acc, m, NIBBLES, F32_LEAST, 0);
        else
            rows_of(&p, NULL, NULL, acc, m, SIX, F32_HALVES, 0);
    }
}

static void dot(enum cabe_dtype dtype, const uint8_t *records, int64_t rows, const uint8_t *panel,
                const uint8_t *unpacked, int64_t k, int64_t begin, int64_t end, int64_t ahead, float *acc)
{
    const uint64_t record_bytes = cabe_record_bytes(dtype, k);
    const int64_t bytes = rows <= ROWS ? packed_bytes(dtype) : packed_bytes(dtype) / ((rows + ROWS - 1) / ROWS);
    const uint8_t *next =
        panel + (rows < ROWS && ahead > FEW_AHEAD ? FEW_AHEAD : ahead) + begin / 32 * packed_bytes(dtype);

    if (k == 0)
        memset(acc, 0, (size_t)rows * CABE_PANEL * sizeof(float));
    while (rows > 0 && k > 0) {
        int64_t m = rows >= ROWS ? ROWS : rows;

        switch (m) {
        case 1:
            some_rows(dtype, records, panel, unpacked, k, begin, end, next, ahead ? bytes : 0, acc, 1);
            break;
        case 2:
            some_rows(dtype, records, panel, unpacked, k, begin, end, next, ahead ? bytes : 0, acc, 2);
            break;
        case 3:
            some_rows(dtype, records, panel, unpacked, k, begin, end, next, ahead ? bytes : 0, acc, 3);
            break;
        default:
            some_rows(dtype, records, panel, unpacked, k, begin, end, next, ahead ? bytes : 0, acc, 4);
            break;
        }
        rows -= m;
        records += (uint64_t)m * record_bytes;
        acc += m * CABE_PANEL;
        next += (end - begin) / 32 * bytes;
    }
}

static void unpack_nibbles(const uint8_t *quants, uint8_t *out)
{
    const __m256i low = _mm256_set1_epi8(15);

    for (int i = 0; i < 256; i += 32) {
        __m256i packed = load(quants + i);

        _mm256_store_si256((__m256i *)(void *)(out + i), _mm256_and_si256(packed, low));
        _mm256_store_si256((__m256i *)(void *)(out + 256 + i), _mm256_and_si256(_mm256_srli_epi16(packed, 4), low));
    }
}

static void unpack_q6_k(const uint8_t *panel, const uint8_t *super, int64_t block, uint8_t *out, uint8_t *scales)
{
    const uint8_t *w = super + CABE_Q6_K_QUANTS + block % 8 * CABE_Q6_K_BLOCK;

#pragma GCC unroll 8
    for (int g = 0; g < 8; g++)
        for (int half = 0; half < 2; half++)
            _mm256_store_si256((__m256i *)(void *)(out + g * 64 + half * 32), six_bits(w, g, half));
    for (int half = 0; half < 2; half++) {
        const uint8_t *d = panel + block / 8 * 32 + half * 16;
        __m256i factor[2];

        _mm256_store_ps((float *)(void *)(scales + half * 32),
                        _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)d)));
        half_scales(super + block % 8 * 32 + half * 16, factor);
        _mm256_store_si256((__m256i *)(void *)(scales + 64 + half * 64), factor[0]);
        _mm256_store_si256((__m256i *)(void *)(scales + 96 + half * 64), factor[1]);
    }
}

static void unpack(enum cabe_dtype dtype, const uint8_t *panel, int64_t k, int64_t begin, int64_t end, uint8_t *out)
{
    const uint8_t *quants = panel + cabe_panel_quants(dtype, k), *super;
    uint8_t *scales = out + (end - begin) * CABE_PANEL;

    for (int64_t b = begin / 32; b < end / 32; b++, out += 512)
        switch (dtype) {
        case CABE_Q4_K:
            super = quants + b / 8 * CABE_Q4_K_SUPER;
            unpack_nibbles(super + CABE_Q4_K_QUANTS + b % 8 * 256, out);
            if (b % 8 == 0)
                float_scales_q4_k(super, (float *)(void *)(scales + (b - begin / 32) * SCALES_Q4_K));
            break;
        case CABE_Q6_K:
            unpack_q6_k(panel, quants + b / 8 * CABE_Q6_K_SUPER, b, out, scales + (b - begin / 32) * SCALES_Q6_K);
            break;
        case CABE_Q8_0:
            break;
        default:
            unpack_nibbles(quants + b * 256, out);
        }
}

const struct cabe_matmul_ints cabe_matmul_ints_avx2 = {
    .quantise = cabe_matmul_quantise_avx2, .unpack = unpack, .dot = dot, .unpack_rows = 4};
