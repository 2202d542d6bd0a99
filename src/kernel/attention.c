#include "kernel/attention.h"

#include "kernel/attention_shared.h"

int64_t cabe_attend_rows(int32_t group)
{
    int64_t rows = ATTEND_ROWS_MAX / (group > 0 ? group : 1);

    return rows < 1 ? 1 : rows > CABE_ATTEND_TILE ? CABE_ATTEND_TILE : rows;
}

int64_t cabe_attend_parts(int64_t slot, int64_t window, int64_t *first)
{
    *first = window > 0 && slot >= window ? (slot - window + 1) / CABE_ATTEND_PART : 0;
    return slot / CABE_ATTEND_PART - *first + 1;
}

int64_t cabe_attend_part_floats(int32_t group, int32_t head_dim)
{
    return (int64_t)group * (head_dim + 2);
}

/*
 * A vector level keeps a tile of keys and one of values as f32, the scores of a few rows, and for each row of a pass
 * the sums of a part with their largest score and total, and these two of the parts before; scalar keeps head_dim
 * doubles and the state of a part.
 */
uint64_t cabe_attend_scratch_bytes(int32_t group, int32_t head_dim)
{
    uint64_t rows = group > ATTEND_ROWS_MAX ? (uint64_t)group : ATTEND_ROWS_MAX;
    uint64_t floats = 2 * CABE_ATTEND_TILE * (uint64_t)head_dim + ATTEND_SCORES + rows * ((uint64_t)head_dim + 4);

    return (floats * sizeof(float) + 63) & ~UINT64_C(63);
}
