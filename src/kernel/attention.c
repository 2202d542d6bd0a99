#include "kernel/attention.h"

#include "kernel/attention_shared.h"

int64_t cabe_attend_rows(int32_t group)
{
    int64_t rows = ATTEND_ROWS_MAX / (group > 0 ? group : 1);

    return rows < 1 ? 1 : rows > CABE_ATTEND_TILE ? CABE_ATTEND_TILE : rows;
}

/*
 * A vector level keeps a tile of keys and one of values as f32, the scores of a few rows, and for each row of a pass
 * its largest score and its sum; scalar keeps head_dim doubles.
 */
uint64_t cabe_attend_scratch_bytes(int32_t group, int32_t head_dim)
{
    uint64_t rows = group > ATTEND_ROWS_MAX ? (uint64_t)group : ATTEND_ROWS_MAX;
    uint64_t floats = 2 * CABE_ATTEND_TILE * (uint64_t)head_dim + ATTEND_SCORES + 2 * rows;

    return (floats * sizeof(float) + 63) & ~UINT64_C(63);
}
