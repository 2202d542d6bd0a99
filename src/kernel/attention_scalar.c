/* Attention over KV pages, the specification: one query after another, sums in double. */
#include <math.h>

#include "kernel/attention_shared.h"
#include "kernel/levels.h"

static double element(const struct kv_block *block, int64_t i)
{
    switch (block->format) {
    case CABE_KV_F32:
        return (double)((const float *)(const void *)block->at)[i];
    case CABE_KV_F16:
        return (double)cabe_f16_to_f32(((const uint16_t *)(const void *)block->at)[i]);
    default:
        return (double)((const int8_t *)block->at)[i];
    }
}

static double token_scale(const struct kv_block *block, int64_t j, int32_t dim)
{
    return block->format == CABE_KV_Q8 ? (double)kv_scales(block, dim)[j] : 1.0;
}

static double score(const struct cabe_paged *paged, const float *q, int64_t slot)
{
    struct kv_block keys = kv_block(paged, &paged->pages[slot / CABE_PAGE_TOKENS], 0);
    int64_t j = slot % CABE_PAGE_TOKENS;
    double sum = 0.0;

    for (int64_t d = 0; d < paged->head_dim; d++)
        sum += (double)q[d] * element(&keys, d * CABE_PAGE_TOKENS + j);
    return sum * token_scale(&keys, j, paged->head_dim);
}

static void attend_row(const struct cabe_paged *paged, const float *q, float *out, int64_t first, int64_t last,
                       float scale, double *sums)
{
    int32_t dim = paged->head_dim;
    double largest = -INFINITY, total = 0.0;

    memset(sums, 0, (size_t)dim * sizeof *sums);
    for (int64_t slot = first; slot <= last; slot++) {
        struct kv_block values = kv_block(paged, &paged->pages[slot / CABE_PAGE_TOKENS], 1);
        int64_t j = slot % CABE_PAGE_TOKENS;
        double s = score(paged, q, slot) * (double)scale, weight;

        if (s > largest) {
            double shrink = exp(largest - s);

            total *= shrink;
            for (int32_t d = 0; d < dim; d++)
                sums[d] *= shrink;
            largest = s;
        }
        weight = exp(s - largest);
        total += weight;
        weight *= token_scale(&values, j, dim);
        for (int32_t d = 0; d < dim; d++)
            sums[d] += weight * element(&values, j * dim + d);
    }
    for (int32_t d = 0; d < dim; d++)
        out[d] = (float)(sums[d] / total);
}

static void attend(const struct cabe_paged *paged, const struct cabe_attend *a, void *scratch)
{
    for (int64_t i = 0; i < a->n; i++)
        for (int64_t h = 0; h < a->group; h++)
            attend_row(paged, a->q + i * a->q_stride + h * paged->head_dim,
                       a->out + i * a->out_stride + h * paged->head_dim, first_slot(a, i), a->slot + i, a->scale,
                       scratch);
}

static void write(const struct cabe_paged *paged, int64_t slot, const float *k, const float *v, int64_t stride,
                  int64_t n)
{
    kv_write(&cabe_rows_scalar, paged, slot, k, v, stride, n);
}

const struct cabe_attention_kernels cabe_attention_scalar = {.write = write, .attend = attend};
