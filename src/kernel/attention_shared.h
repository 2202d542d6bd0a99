/* What the attention kernels of all levels agree on: where a block lies, which slots a query sees, how rows enter. */
#ifndef CABE_KERNEL_ATTENTION_SHARED_H
#define CABE_KERNEL_ATTENTION_SHARED_H

#include <stdint.h>
#include <string.h>

#include "kernel/attention.h"
#include "kernel/rows.h"

#define ATTEND_SCORES (16 * CABE_ATTEND_TILE) /* of the rows that are in registers at a time */
#define ATTEND_ROWS_MAX 256 /* rows (queries times heads of the group) of one pass, unless the group has more */

struct kv_block {
    enum cabe_kv_format format;
    uint8_t *at;
};

static inline struct kv_block kv_block(const struct cabe_paged *paged, const struct cabe_page *page, int values)
{
    enum cabe_kv_format k = (enum cabe_kv_format)(page->formats & 0xFF);
    enum cabe_kv_format v = (enum cabe_kv_format)(page->formats >> 8 & 0xFF);
    uint8_t *pair = paged->base + (uint64_t)page->unit * CABE_PAGE_UNIT +
                    (uint64_t)paged->index * cabe_kv_pair_bytes(k, v, paged->head_dim);

    if (!values)
        return (struct kv_block){k, pair};
    return (struct kv_block){v, pair + cabe_kv_block_bytes(k, paged->head_dim)};
}

/* The scales of a Q8 block, one a token. */
static inline float *kv_scales(const struct kv_block *block, int32_t head_dim)
{
    return (float *)(void *)(block->at + CABE_PAGE_TOKENS * (uint64_t)head_dim);
}

/* Query row i sees slots [first_slot, slot + i]. */
static inline int64_t first_slot(const struct cabe_attend *attend, int64_t i)
{
    int64_t last = attend->slot + i;

    return attend->window > 0 && last >= attend->window ? last - attend->window + 1 : 0;
}

/* One row into token `j` of a block, its elements `step` apart (16 for keys, 1 for values). */
static inline void kv_put(const struct cabe_row_kernels *rows, const struct kv_block *block, int64_t j, int64_t first,
                          int64_t step, const float *x, int32_t dim)
{
    union {
        uint16_t half[CABE_HEAD_DIM_MAX];
        int8_t byte[CABE_HEAD_DIM_MAX];
    } made;

    switch (block->format) {
    case CABE_KV_F32:
        for (int64_t d = 0; d < dim; d++)
            ((float *)(void *)block->at)[first + d * step] = x[d];
        break;
    case CABE_KV_F16:
        rows->from_f32(CABE_F16, x, made.half, dim);
        for (int64_t d = 0; d < dim; d++)
            ((uint16_t *)(void *)block->at)[first + d * step] = made.half[d];
        break;
    case CABE_KV_Q8:
        kv_scales(block, dim)[j] = rows->to_i8(x, made.byte, dim);
        for (int64_t d = 0; d < dim; d++)
            ((int8_t *)block->at)[first + d * step] = made.byte[d];
        break;
    case CABE_N_KV_FORMATS:
        break;
    }
}

static inline void kv_write(const struct cabe_row_kernels *rows, const struct cabe_paged *paged, int64_t slot,
                            const float *k, const float *v, int64_t stride, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const struct cabe_page *page = &paged->pages[(slot + i) / CABE_PAGE_TOKENS];
        int64_t j = (slot + i) % CABE_PAGE_TOKENS;
        struct kv_block keys = kv_block(paged, page, 0), values = kv_block(paged, page, 1);

        kv_put(rows, &keys, j, j, CABE_PAGE_TOKENS, k + i * stride, paged->head_dim);
        kv_put(rows, &values, j, j * paged->head_dim, 1, v + i * stride, paged->head_dim);
    }
}

#endif
