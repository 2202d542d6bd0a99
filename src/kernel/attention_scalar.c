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

/* Slots [first, last] of a part: weighted values, their largest score and their total. */
static void attend_part(const struct cabe_paged *paged, const float *q, int64_t first, int64_t last, float scale,
                        double *sums, float *state)
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
        state[d] = (float)sums[d];
    state[dim] = (float)largest;
    state[dim + 1] = (float)total;
}

/* Adds a part to `out`, whose largest score and total are in `whole`; of the first it is a copy. */
static void join_part(float *out, float whole[2], const float *state, int32_t dim, int is_first)
{
    float largest = state[dim], most = is_first || largest > whole[0] ? largest : whole[0];
    double before = is_first ? 0.0 : exp((double)whole[0] - (double)most), now = exp((double)largest - (double)most);

    if (is_first) {
        memcpy(out, state, (size_t)dim * sizeof *out);
        memcpy(whole, state + dim, 2 * sizeof *whole);
        return;
    }
    whole[0] = most;
    whole[1] = (float)(whole[1] * before + state[dim + 1] * now);
    for (int32_t d = 0; d < dim; d++)
        out[d] = (float)(out[d] * before + state[d] * now);
}

static void finish(float *out, float total, int32_t dim)
{
    for (int32_t d = 0; d < dim; d++)
        out[d] /= total;
}

/* Slots of `part` that query row i sees. */
static void attend_slots(const struct cabe_paged *paged, const struct cabe_attend *a, int64_t i, int64_t h,
                         int64_t part, float *state, double *sums)
{
    int64_t begin = part * CABE_ATTEND_PART, end = begin + CABE_ATTEND_PART - 1, first = first_slot(a, i);

    attend_part(paged, a->q + i * a->q_stride + h * paged->head_dim, first > begin ? first : begin,
                a->slot + i < end ? a->slot + i : end, a->scale, sums, state);
}

static void attend(const struct cabe_paged *paged, const struct cabe_attend *a, void *scratch)
{
    double *sums = scratch;
    float *state = (float *)(sums + paged->head_dim);

    for (int64_t i = 0; i < a->n; i++)
        for (int64_t h = 0; h < a->group; h++) {
            float *out = a->out + i * a->out_stride + h * paged->head_dim, whole[2] = {0.0f, 0.0f};
            int64_t first, n = cabe_attend_parts(a->slot + i, a->window, &first);

            for (int64_t part = first; part < first + n; part++) {
                attend_slots(paged, a, i, h, part, state, sums);
                join_part(out, whole, state, paged->head_dim, part == first);
            }
            finish(out, whole[1], paged->head_dim);
        }
}

static void part(const struct cabe_paged *paged, const struct cabe_attend *a, int64_t number, float *state,
                 void *scratch)
{
    for (int64_t h = 0; h < a->group; h++)
        attend_slots(paged, a, 0, h, number, state + h * cabe_attend_part_floats(1, paged->head_dim), scratch);
}

static void join(const struct cabe_attend *a, int32_t head_dim, const float *states, int64_t n_parts)
{
    const int64_t head = cabe_attend_part_floats(1, head_dim), each = cabe_attend_part_floats(a->group, head_dim);

    for (int64_t h = 0; h < a->group; h++) {
        float *out = a->out + h * head_dim, whole[2] = {0.0f, 0.0f};

        for (int64_t i = 0; i < n_parts; i++)
            join_part(out, whole, states + i * each + h * head, head_dim, i == 0);
        finish(out, whole[1], head_dim);
    }
}

static void write(const struct cabe_paged *paged, int64_t slot, const float *k, const float *v, int64_t stride,
                  int64_t n)
{
    kv_write(&cabe_rows_scalar, paged, slot, k, v, stride, n);
}

const struct cabe_attention_kernels cabe_attention_scalar = {
    .write = write, .attend = attend, .part = part, .join = join};
