/*
 * Attention over KV pages: what this step's tokens add is written to the pages first, then every query reads keys and
 * values from pages in their stored format, so that it makes no difference in which step a token came.
 *
 * Keys are taken in tiles of CABE_ATTEND_TILE slots anchored at slot 0; softmax is online over the tiles of a part of
 * CABE_ATTEND_PART slots, and what the parts give is joined from the first to the last. So a query's result depends on
 * its own vector, its slot and the pages; not on the other queries of the call, nor on who computed which part.
 *
 * Scalar is the specification; bounds against it are stated beside each entry.
 */
#ifndef CABE_KERNEL_ATTENTION_H
#define CABE_KERNEL_ATTENTION_H

#include <stdint.h>

#include "tensor/pages.h"

#define CABE_ATTEND_TILE 64 /* slots; a multiple of CABE_PAGE_TOKENS */
#define CABE_ATTEND_PART 256 /* slots; a multiple of CABE_ATTEND_TILE */

struct cabe_paged { /* one kv head of one layer of one sequence */
    uint8_t *base;                 /* of the buffer that the pages lie in, aligned to 64 */
    const struct cabe_page *pages; /* page of slot s: pages[s / CABE_PAGE_TOKENS] */
    int32_t head_dim;
    int32_t index;                 /* layer * n_heads + head: which pair of blocks of a page */
};

struct cabe_attend {
    const float *q;      /* of the first query row and the first head of the group */
    int64_t q_stride;    /* floats from row to row; heads of the group follow each other, head_dim apart */
    float *out;          /* laid out like q */
    int64_t out_stride;
    int64_t n;           /* query rows */
    int64_t slot;        /* of the first; row i sees slots up to slot + i */
    int64_t window;      /* and no more than so many of them, itself included; 0: all */
    int32_t group;       /* query heads that share the kv head */
    float scale;         /* of q.k */
};

struct cabe_attention_kernels {
    /*
     * Rows of k and v, `stride` floats apart, into slots [slot, slot + n). The formats are those of each page.
     * F32 and F16 (nearest even) bit-identical at every level; Q8: scale = max|x| / 127, to nearest even, also.
     */
    void (*write)(const struct cabe_paged *paged, int64_t slot, const float *k, const float *v, int64_t stride,
                  int64_t n);
    /* 4e-6 relative to max|v| while scaled scores stay within +-20. `scratch`: aligned to 64. */
    void (*attend)(const struct cabe_paged *paged, const struct cabe_attend *attend, void *scratch);
    /*
     * attend() in two: the `part` of the context that its one query row sees of slots from part * CABE_ATTEND_PART on,
     * which must not be nothing, into cabe_attend_part_floats() at `state`; then, when all parts of the row have been
     * made, from its first on one behind the other, these to `out`, with the same bits as attend() gives.
     */
    void (*part)(const struct cabe_paged *paged, const struct cabe_attend *attend, int64_t part, float *state,
                 void *scratch);
    void (*join)(const struct cabe_attend *attend, int32_t head_dim, const float *states, int64_t n_parts);
};

/* Scratch of one member; the same at every level, whatever n and the context are. */
uint64_t cabe_attend_scratch_bytes(int32_t group, int32_t head_dim);
/* Parts that a query at `slot` sees: from `*first` on so many. */
int64_t cabe_attend_parts(int64_t slot, int64_t window, int64_t *first);
/* Of a part of one query row, all heads of the group. */
int64_t cabe_attend_part_floats(int32_t group, int32_t head_dim);
/* Query rows that a member best takes at once. */
int64_t cabe_attend_rows(int32_t group);

#endif
