#include "kernel/rows.h"

#include "kernel/rows_shared.h"

/*
 * A vector level keeps a tile of keys turned to [head_dim][keys], the scores of a few query rows, and for every
 * query row its largest score and its sum; scalar keeps head_dim doubles.
 */
uint64_t cabe_attention_scratch_bytes(int64_t n_max, int64_t head_dim)
{
    uint64_t rows = (uint64_t)(n_max > 0 ? n_max : 0) + ATTENTION_ROWS, dim = (uint64_t)head_dim + 16;
    uint64_t floats = dim * ATTENTION_KEYS + ATTENTION_ROWS * (ATTENTION_KEYS + dim) + 2 * rows;
    uint64_t bytes = floats * sizeof(float);

    return (bytes + 63) & ~UINT64_C(63);
}
