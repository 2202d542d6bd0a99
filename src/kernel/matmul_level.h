/*
 * What one CPU level gives the driver of matrix products, and how quantised activations lie in memory.
 *
 * The driver (matmul.c) walks tiles; a level works on `rows` rows of activations and on panels, and leaves f32 sums in
 * acc [n_panels][rows][16]. Scalar is the specification; every entry of every other level gives the same bits, because
 * an output is one chain of operations in ascending k:
 *
 *   f32         acc = fma(x[k], w[k], acc), one k after another.
 *   I8          per block of CABE_I8_BLOCK: s = sum(q w) - zero * sum(w) in integers, acc = fma(s, a * d, acc), where a
 *               is the scale of the activations and d that of the weights.
 *   Q8_0        per block of 32: s = sum(q w) in integers, acc = fma(s, a * d, acc).
 *   Q4_0        likewise, s = sum(q u) - 8 sum(q); u is 0..15.
 *   Q4_1        per block of 32: s = sum(q u), acc = fma(s, a * d, acc), then acc = fma(a * sum(q), m, acc).
 *   Q4_K        as Q4_1 with the block's own scale and minimum d * s and - (dmin * m): both products are exact.
 *   Q6_K        per block of 32, its halves of 16 with scales s0 and s1: S = s0 sum(q (u - 32)) + s1 sum(q (u - 32)) in
 *               integers, less than 2^24; acc = fma(S, a * d, acc).
 *
 * A record is one quantised row of activations: the quants, k rounded up to 32, zeros past k; then, from the next
 * multiple of 64, what cabe_matmul_meta says of each block.
 *   For I8: unsigned 0..127 with a zero point; (q - zero) * scale. The range always includes 0.
 *   For the others: signed -127..127 per block of 32; q * scale. SmolLM2-135M (q4_1, 300 tokens of a novel): a mean KL
 *   divergence of 0.0033 to activations in f32.
 * A block that holds a NaN has NaN for its scale, so that no output of the row is a number.
 */
#ifndef CABE_KERNEL_MATMUL_LEVEL_H
#define CABE_KERNEL_MATMUL_LEVEL_H

#include <stdint.h>

#include "kernel/levels.h"
#include "tensor/packed.h"

#define CABE_MATMUL_CHUNK 384    /* inputs widened at a time; a multiple of 128 */
#define CABE_MATMUL_FEW_CHUNK 64 /* the same for few rows, so that a few panels of it stay in L1; a part of the other */
#define CABE_MATMUL_ROWS_MAX 192 /* rows of a tile */
#define CABE_MATMUL_PANELS_MAX 4 /* panels of one call */
#define CABE_MATMUL_FEW 4        /* rows that are few: a panel comes from memory for them */
#define CABE_MATMUL_FEW_16 32    /* of F16 and BF16, where widening in registers spares a buffer */

#define CABE_MATMUL_INTS_CHUNK 512 /* inputs unpacked at a time; a multiple of every block */
#define CABE_MATMUL_INTS_PANELS 8  /* panels whose sums wait for the next chunk */
#define CABE_MATMUL_AHEAD 8192     /* bytes that few rows fetch ahead */
#define CABE_MATMUL_UNPACKED 24    /* bytes that an input of an unpacked panel has at most */

#define CABE_A8_TINY 0x1p-100f /* a block whose range is below counts as zeros: 127 / range stays finite */

struct cabe_matmul_meta { /* all but Q6_K */
    float scale;
    union {
        int32_t offset; /* I8: the zero point; Q8_0: the sum of the block's quants; Q4_0: - 8 times the sum */
        float sum;      /* Q4_1, Q4_K: scale times the sum of the quants */
    };
};

struct cabe_matmul_meta6 { /* Q6_K */
    float scale;
    int16_t offset[2][2]; /* of each half of 16: - 32 times the sum of quants i % 4 < 2, and of the others */
};

/* Precision HIGH. */
struct cabe_matmul_floats {
    /* w: f32 [k][16] panels, w_stride floats apart. `first`: start from zero; else go on from acc. A line is fetched
     * from `ahead`, and ahead_step bytes on, with every four k of a tile of rows. */
    void (*f32)(const float *x, int64_t x_stride, int64_t rows, const float *w, int64_t w_stride, int64_t n_panels,
                int64_t k, float *acc, int first, const char *ahead, int64_t ahead_step);
    /* The same of few rows (up to CABE_MATMUL_FEW_16) and all k, from zero, with panels of F32, F16 or BF16 as they lie
     * in memory, panel_bytes apart. NULL: rows are few only to f32(). */
    void (*few)(enum cabe_dtype dtype, const float *x, int64_t x_stride, int64_t rows, const uint8_t *w,
                uint64_t panel_bytes, int64_t n_panels, int64_t k, float *acc);
    /* Inputs [begin, end) of a panel to f32 [end - begin][16]; begin is a multiple of CABE_MATMUL_FEW_CHUNK. */
    void (*widen)(enum cabe_dtype dtype, const uint8_t *panel, int64_t k, int64_t begin, int64_t end, float *out);
    /* out = acc + bias + residual for 16 outputs; bias, residual may be NULL; residual rows are out_stride apart. */
    void (*store)(const float *acc, int64_t rows, const float *bias, const float *residual, float *out,
                  int64_t out_stride);
    int panels_many, panels_few; /* panels that one call takes best with many rows, and with up to four */
};

/* Precision INT8. */
struct cabe_matmul_ints {
    /* One row of activations to a record for weights of `dtype`. */
    void (*quantise)(enum cabe_dtype dtype, const float *x, int64_t k, uint8_t *record);
    /* Inputs [begin, end) of a panel as dot() of this level likes to read them again and again, aligned to 64; at most
     * CABE_MATMUL_UNPACKED bytes an input. NULL where it has no use for them; none for I8. */
    void (*unpack)(enum cabe_dtype dtype, const uint8_t *panel, int64_t k, int64_t begin, int64_t end, uint8_t *out);
    /* Products of inputs [begin, end) of records with one panel, from zero where begin is 0, else on from acc.
     * `unpacked` is NULL or what unpack() made of the same inputs. begin is a multiple of CABE_MATMUL_INTS_CHUNK; I8
     * takes all inputs at once. As many bytes of weights as are used are fetched from `ahead` bytes further; 0: none. */
    void (*dot)(enum cabe_dtype dtype, const uint8_t *records, int64_t rows, const uint8_t *panel,
                const uint8_t *unpacked, int64_t k, int64_t begin, int64_t end, int64_t ahead, float *acc);
    int unpack_rows; /* so many rows pay for unpacking */
};

extern const struct cabe_matmul_floats cabe_matmul_floats_scalar;
extern const struct cabe_matmul_ints cabe_matmul_ints_scalar;
#if CABE_HAVE_X86
extern const struct cabe_matmul_floats cabe_matmul_floats_avx2; /* AVX2, FMA, F16C */
extern const struct cabe_matmul_ints cabe_matmul_ints_avx2;
void cabe_matmul_quantise_avx2(enum cabe_dtype dtype, const float *x, int64_t k, uint8_t *record); /* its quantise */
extern const struct cabe_matmul_floats cabe_matmul_floats_avx512; /* AVX-512 F, BW, DQ, VL */
extern const struct cabe_matmul_ints cabe_matmul_ints_avx512vnni;
#endif

static inline int64_t cabe_a8_block(enum cabe_dtype dtype)
{
    return dtype == CABE_I8 ? CABE_I8_BLOCK : 32;
}

/* Quants of a record, and where its meta begins. */
static inline int64_t cabe_record_k(int64_t k)
{
    return (k + 31) / 32 * 32;
}

static inline uint64_t cabe_record_meta(int64_t k)
{
    return (uint64_t)(k + 63) / 64 * 64;
}

static inline uint64_t cabe_meta_bytes(enum cabe_dtype dtype)
{
    return dtype == CABE_Q6_K ? sizeof(struct cabe_matmul_meta6) : sizeof(struct cabe_matmul_meta);
}

static inline uint64_t cabe_record_bytes(enum cabe_dtype dtype, int64_t k)
{
    uint64_t blocks = (uint64_t)((k + cabe_a8_block(dtype) - 1) / cabe_a8_block(dtype));

    return cabe_record_meta(k) + (blocks * cabe_meta_bytes(dtype) + 63) / 64 * 64;
}

#endif
