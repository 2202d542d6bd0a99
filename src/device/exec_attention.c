/* Steps of attention: over packed sequences, and over KV pages. */
#include "device/exec_impl.h"

/*
 * One item is one head of one sequence, the longest sequences first, so that no member is left with a long
 * one.
 */
void cabe_exec_attention(const struct cabe_exec *exec, struct cabe_team *team, int member,
                         const struct cabe_step *step)
{
    const struct cabe_program *program = exec->program;
    const struct cabe_node *node = &program->nodes[step->node];
    const int32_t *offsets = integers(exec, node->in[1]);
    const int32_t *order = (const int32_t *)(const void *)(program->block->host + program->placing.order) +
                           (int64_t)step->order * program->bounds[CABE_SYM_SEQUENCES];
    int64_t n_items = program->symbols[CABE_SYM_SEQUENCES] * node->n_heads, begin, end;
    int64_t chunk = 1 + n_items / ((int64_t)CHUNKS_A_MEMBER * exec->n_members);
    int64_t d = node->head_dim, group = node->n_heads / node->n_kv_heads;
    int64_t stride = n_cols(exec, node->in[0]), out_stride = n_cols(exec, node->out);

    while (cabe_team_next(team, n_items, chunk, &begin, &end))
        for (int64_t item = begin; item < end; item++) {
            int64_t s = order[item / node->n_heads], h = item % node->n_heads;
            const float *qkv = floats(exec, node->in[0]) + offsets[s] * stride;
            const float *k = qkv + (node->n_heads + h / group) * d;

            if (offsets[s + 1] > offsets[s])
                exec->kernels->row.attention(qkv + h * d, k, k + node->n_kv_heads * d, stride,
                                             offsets[s + 1] - offsets[s], d, node->scale, node->mask,
                                             floats(exec, node->out) + offsets[s] * out_stride + h * d,
                                             out_stride, member_scratch(exec, member));
        }
}


struct cached { /* a step over KV pages */
    const struct cabe_node *node;
    const int32_t *offsets, *starts, *page_offsets, *order;
    const struct cabe_page *pages;
    uint8_t *base;
    const float *qkv;
    float *out;
    int64_t stride, out_stride, n_sequences, group;
    int64_t rows;    /* of an item */
    int64_t n_items; /* blocks of rows times kv heads */
    int is_single;   /* no sequence has more rows than an item: who writes them reads them */
};

static int64_t n_blocks(const struct cached *c, int64_t s)
{
    return (c->offsets[s + 1] - c->offsets[s] + c->rows - 1) / c->rows;
}

static void describe_cached(const struct cabe_exec *exec, const struct cabe_step *step, struct cached *c)
{
    const struct cabe_program *program = exec->program;
    const struct cabe_node *node = &program->nodes[step->node];

    *c = (struct cached){
        .node = node,
        .offsets = integers(exec, node->in[2]),
        .starts = integers(exec, node->in[3]),
        .page_offsets = integers(exec, node->in[4]),
        .order = (const int32_t *)(const void *)(program->block->host + program->placing.order) +
                 (int64_t)step->order * program->bounds[CABE_SYM_SEQUENCES],
        .pages = (const struct cabe_page *)(const void *)exec->data[node->in[5]],
        .base = exec->data[node->in[1]],
        .qkv = floats(exec, node->in[0]),
        .out = floats(exec, node->out),
        .stride = n_cols(exec, node->in[0]),
        .out_stride = n_cols(exec, node->out),
        .n_sequences = program->symbols[CABE_SYM_SEQUENCES],
        .group = node->n_heads / node->n_kv_heads,
        .rows = cabe_attend_rows(node->n_heads / node->n_kv_heads),
        .is_single = 1,
    };
    for (int64_t s = 0; s < c->n_sequences; s++) {
        c->n_items += n_blocks(c, s) * node->n_kv_heads;
        c->is_single &= n_blocks(c, s) <= 1;
    }
}

static struct cabe_paged paged_of(const struct cached *c, int64_t s, int64_t head)
{
    return (struct cabe_paged){.base = c->base,
                               .pages = c->pages + c->page_offsets[s],
                               .head_dim = c->node->head_dim,
                               .index = c->node->layer * c->node->n_kv_heads + (int32_t)head};
}

static void write_head(const struct cabe_exec *exec, const struct cached *c, int64_t s, int64_t head)
{
    const struct cabe_node *node = c->node;
    const float *k = c->qkv + c->offsets[s] * c->stride + (node->n_heads + head) * node->head_dim;
    struct cabe_paged paged = paged_of(c, s, head);

    if (c->offsets[s + 1] > c->offsets[s])
        exec->kernels->attention.write(&paged, c->starts[s], k, k + (int64_t)node->n_kv_heads * node->head_dim,
                                       c->stride, c->offsets[s + 1] - c->offsets[s]);
}

static void attend_block(const struct cabe_exec *exec, const struct cached *c, int64_t s, int64_t head, int64_t block,
                         void *scratch)
{
    const struct cabe_node *node = c->node;
    int64_t first = block * c->rows, left = c->offsets[s + 1] - c->offsets[s] - first;
    int64_t row = c->offsets[s] + first, column = head * c->group * node->head_dim;
    struct cabe_paged paged = paged_of(c, s, head);
    struct cabe_attend attend = {.q = c->qkv + row * c->stride + column,
                                 .q_stride = c->stride,
                                 .out = c->out + row * c->out_stride + column,
                                 .out_stride = c->out_stride,
                                 .n = left < c->rows ? left : c->rows,
                                 .slot = c->starts[s] + first,
                                 .window = node->window,
                                 .group = (int32_t)c->group,
                                 .scale = node->scale};

    exec->kernels->attention.attend(&paged, &attend, scratch);
}

/*
 * First all keys and values of this run are written, then blocks of rows attend, those with the longest contexts first.
 * Where a sequence's rows are one block, as in decoding, the member that attends has written what is new of its head,
 * and no barrier is needed.
 */
void cabe_exec_cached(const struct cabe_exec *exec, struct cabe_team *team, int member, const struct cabe_step *step)
{
    int64_t begin, end, at = 0, before = 0; /* items of the sequences before the at-th */
    struct cached c;
    int64_t heads;

    describe_cached(exec, step, &c);
    heads = c.node->n_kv_heads;
    if (!c.is_single) {
        while (cabe_team_next(team, c.n_sequences * heads, 1, &begin, &end))
            write_head(exec, &c, c.order[begin / heads], begin % heads);
        cabe_team_barrier(team, member);
    }
    while (cabe_team_next(team, c.n_items, 1, &begin, &end)) {
        int64_t blocks, s;

        for (; begin - before >= n_blocks(&c, c.order[at]) * heads; at++)
            before += n_blocks(&c, c.order[at]) * heads;
        s = c.order[at];
        blocks = n_blocks(&c, s);
        if (c.is_single)
            write_head(exec, &c, s, (begin - before) % heads);
        attend_block(exec, &c, s, (begin - before) % heads, blocks - 1 - (begin - before) / heads,
                     member_scratch(exec, member));
    }
}
