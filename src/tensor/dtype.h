/*
 * What one number, or one block of numbers, looks like in memory.
 *
 * Q8_0, Q4_0 and Q4_1 are GGUF's blocks of 32 along the row: an f16 scale d (Q4_1: and an f16 minimum m), then 32
 * signed bytes, or 16 bytes of two 4-bit values (low nibble: elements 0..15, high: 16..31). A value is d q, d (q - 8)
 * or d q + m. I8 is cabe's own row-wise int8: for a table or a result row, `n` signed bytes in -127..127 and one f32
 * scale per row, kept as packed.h says.
 *
 * Q4_K, Q5_K and Q6_K are GGUF's super-blocks of 256. Files have Q5_K; it is widened when they are converted.
 *   Q4_K  f16 d, f16 dmin, 12 bytes of 6-bit scales and mins, 128 bytes of nibbles. Block b of 32 has scale s and min m:
 *         for b < 4 the low six bits of bytes b and 4 + b; else the low and the high nibble of byte 4 + b, with the
 *         top two bits of bytes b - 4 and b above them. Bytes 32 p .. 32 p + 31 of the nibbles hold block 2 p in the
 *         low and block 2 p + 1 in the high one. A value is (d s) q - (dmin m).
 *   Q5_K  as Q4_K, with 32 bytes before the nibbles: bit b of byte i is the fifth bit of element i of block b.
 *   Q6_K  128 bytes of low nibbles, 64 bytes of high pairs of bits, 16 signed byte scales s of 16 elements, f16 d. Of
 *         elements 128 h + 32 f + l: the nibble is the low (f < 2) or high one of byte 64 h + 32 (f % 2) + l, the pair
 *         number f of byte 32 h + l. A value is (d s) (q - 32).
 * Products in brackets are exact in f32; the one outside rounds once, and then the sum or difference.
 */
#ifndef CABE_TENSOR_DTYPE_H
#define CABE_TENSOR_DTYPE_H

#include <stdint.h>

/* symbol, name, elements of a block, bytes of a block */
#define CABE_DTYPE_MAP(X)                                                                                    \
    X(F32, "f32", 1, 4)                                                                                      \
    X(F16, "f16", 1, 2)                                                                                      \
    X(BF16, "bf16", 1, 2)                                                                                    \
    X(I8, "int8", 1, 1)                                                                                      \
    X(Q8_0, "q8_0", 32, 34)                                                                                  \
    X(Q4_0, "q4_0", 32, 18)                                                                                  \
    X(I32, "i32", 1, 4)                                                                                      \
    X(I64, "i64", 1, 8)                                                                                      \
    X(U8, "u8", 1, 1)                                                                                        \
    X(F64, "f64", 1, 8)                                                                                      \
    X(Q4_1, "q4_1", 32, 20)                                                                                  \
    X(Q4_K, "q4_K", 256, 144)                                                                                \
    X(Q6_K, "q6_K", 256, 210)                                                                                \
    X(Q5_K, "q5_K", 256, 176)

enum cabe_dtype {
#define X(symbol, name, block, bytes) CABE_##symbol,
    CABE_DTYPE_MAP(X)
#undef X
    CABE_N_DTYPES
};

const char *cabe_dtype_name(enum cabe_dtype dtype);
/* The dtype of that name (as in the table; "i8", "q4_k" and "q6_k" too), or CABE_N_DTYPES. */
enum cabe_dtype cabe_dtype_find(const char *name);
int64_t cabe_dtype_block(enum cabe_dtype dtype);
/* Bytes of `n` elements in a row without packing; n must be a multiple of the block. */
uint64_t cabe_dtype_bytes(enum cabe_dtype dtype, int64_t n);

/* IEEE 754 binary16 and bfloat16 as bits, to nearest even; NaN stays NaN. The specification of the vector kernels. */
float cabe_f16_to_f32(uint16_t bits);
uint16_t cabe_f32_to_f16(float value);
float cabe_bf16_to_f32(uint16_t bits);
uint16_t cabe_f32_to_bf16(float value);

#endif
