/* Shapes of matrix products, for the kernel driver (matmul_test.c) and the bench (matmul_bench.c). */
#ifndef CABE_TESTS_MATMUL_SHAPES_H
#define CABE_TESTS_MATMUL_SHAPES_H

#include <stdint.h>

#include "tensor/dtype.h"

/* What a product can meet: no row, one, a tile and one less and more, many; the same of outputs; odd k. */
static const int64_t matmul_t[] = {0, 1, 2, 3, 4, 5, 6, 7, 11, 13, 64, 100};
static const int64_t matmul_n[] = {1, 15, 16, 17, 48, 384};
static const int64_t matmul_k[] = {0, 1, 7, 32, 33, 64, 96, 160, 256, 384, 400, 1280, 1536};

static const enum cabe_dtype matmul_dtypes[] = {CABE_F32, CABE_F16, CABE_BF16, CABE_I8, CABE_Q8_0, CABE_Q4_0,
                                               CABE_Q4_1, CABE_Q4_K, CABE_Q6_K};

/* all-MiniLM-L6-v2: query, key and value; attention output; up; down. */
static const struct {
    int64_t k, n;
} matmul_minilm[] = {{384, 1152}, {384, 384}, {384, 1536}, {1536, 384}};

/* The layers of decoders: query, key and value; attention output; gate and up; down. A Llama of 1.1 B, SmolLM2-135M. */
#define MATMUL_LAYER 4
static const struct {
    const char *name;
    struct {
        int64_t k, n;
    } shape[MATMUL_LAYER];
} matmul_decoders[] = {{"llama", {{2048, 2560}, {2048, 2048}, {2048, 11264}, {5632, 2048}}},
                       {"smollm2", {{576, 960}, {576, 576}, {576, 3072}, {1536, 576}}}};

#define COUNT_OF(array) (sizeof(array) / sizeof(array)[0])

#endif
