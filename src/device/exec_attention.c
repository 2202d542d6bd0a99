/* Steps of attention: over packed sequences, and over KV pages. */
#include "device/exec_impl.h"

#define FEW_ITEMS 8 /* of a member: fewer are made more by cutting contexts */

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
    int64_t n_parts; /* where parts of contexts are the items, of all sequences and kv heads; else 0 */
    int64_t part_floats;
    float *states; /* [n_parts][part_floats] */
};

static int64_t n_blocks(const struct cached *c, int64_t s)
{
    return (c->offsets[s + 1] - c->offsets[s] + c->rows - 1) / c->rows;
}

static int64_t parts_of(const struct cached *c, int64_t s, int64_t *first)
{
    *first = 0;
    return c->offsets[s + 1] > c->offsets[s] ? cabe_attend_parts(c->starts[s], c->node->window, first) : 0;
}

/*
 * Few heads of few sequences that are decoded leave members with nothing to do or with different lengths; then the
 * parts of their contexts are shared out. That changes no bit, so it may depend on how many members there are.
 */
static void look_at_parts(const struct cabe_exec *exec, struct cached *c)
{
    const struct cabe_placing *placing = &exec->program->placing;
    int64_t first, most = 0, sum = 0;

    c->part_floats = cabe_attend_part_floats((int32_t)c->group, c->node->head_dim);
    c->states = (float *)(void *)(exec->program->block->host + placing->shared);
    if (exec->n_members == 1 || c->n_items >= (int64_t)FEW_ITEMS * exec->n_members)
        return;
    for (int64_t s = 0; s < c->n_sequences; s++) {
        int64_t n = parts_of(c, s, &first);

        if (c->offsets[s + 1] - c->offsets[s] > 1)
            return;
        most = n > most ? n : most;
        sum += n * c->node->n_kv_heads;
    }
    if (most > 1 && (uint64_t)(sum * c->part_floats) * sizeof(float) <= placing->shared_bytes)
        c->n_parts = sum;
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
    look_at_parts(exec, c);
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

static struct cabe_attend rows_of(const struct cached *c, int64_t s, int64_t head, int64_t first, int64_t n)
{
    int64_t row = c->offsets[s] + first, column = head * c->group * c->node->head_dim;

    return (struct cabe_attend){.q = c->qkv + row * c->stride + column,
                                .q_stride = c->stride,
                                .out = c->out + row * c->out_stride + column,
                                .out_stride = c->out_stride,
                                .n = n,
                                .slot = c->starts[s] + first,
                                .window = c->node->window,
                                .group = (int32_t)c->group,
                                .scale = c->node->scale};
}

static void attend_block(const struct cabe_exec *exec, const struct cached *c, int64_t s, int64_t head, int64_t block,
                         void *scratch)
{
    int64_t first = block * c->rows, left = c->offsets[s + 1] - c->offsets[s] - first;
    struct cabe_paged paged = paged_of(c, s, head);
    struct cabe_attend attend = rows_of(c, s, head, first, left < c->rows ? left : c->rows);

    exec->kernels->attention.attend(&paged, &attend, scratch);
}

struct cursor { /* over the parts, from one on */
    int64_t at, s;            /* the at-th sequence of the order is s */
    int64_t before;           /* parts of those before it, all heads */
    int64_t first, n;         /* parts of a head of it */
};

/* On to `item`, which is not before where the cursor stands. */
static void go_to(const struct cached *c, struct cursor *cursor, int64_t item)
{
    for (;;) {
        cursor->s = c->order[cursor->at];
        cursor->n = parts_of(c, cursor->s, &cursor->first);
        if (item < cursor->before + cursor->n * c->node->n_kv_heads)
            return;
        cursor->before += cursor->n * c->node->n_kv_heads;
        cursor->at++;
    }
}

/* Items [begin, end). Who takes the last part of a head writes what is new of it. */
static void attend_parts(const struct cabe_exec *exec, const struct cached *c, int64_t begin, int64_t end, void *scratch)
{
    struct cursor cursor = {0};

    for (int64_t item = begin; item < end; item++) {
        struct cabe_attend attend;
        struct cabe_paged paged;
        int64_t head, part;

        go_to(c, &cursor, item);
        head = (item - cursor.before) / cursor.n;
        part = (item - cursor.before) % cursor.n;
        if (part == cursor.n - 1)
            write_head(exec, c, cursor.s, head);
        paged = paged_of(c, cursor.s, head);
        attend = rows_of(c, cursor.s, head, 0, 1);
        exec->kernels->attention.part(&paged, &attend, cursor.first + part, c->states + item * c->part_floats, scratch);
    }
}

/* Every member's n-th head of all sequences. */
static void join_parts(const struct cabe_exec *exec, const struct cached *c, int member)
{
    const int64_t heads = c->node->n_kv_heads;
    int64_t before = 0, first;

    for (int64_t at = 0, n = 0; at < c->n_sequences; at++, before += n * heads) {
        int64_t s = c->order[at];

        n = parts_of(c, s, &first);
        for (int64_t head = (member + at) % exec->n_members; head < heads && n > 0; head += exec->n_members) {
            struct cabe_attend attend = rows_of(c, s, head, 0, 1);

            exec->kernels->attention.join(&attend, c->node->head_dim, c->states + (before + head * n) * c->part_floats,
                                          n);
        }
    }
}

/* Members begin with a run of their own, so that the pages of a head are read one behind the other. */
static void attend_split(const struct cabe_exec *exec, struct cabe_team *team, int member, const struct cached *c)
{
    const int64_t n = exec->n_members;

    for (int64_t i = 0; i < n; i++) {
        int64_t owner = (member + i) % n, first = c->n_parts * owner / n, begin, end;

        while (exec_take(&exec->taken[owner], c->n_parts * (owner + 1) / n - first, &begin, &end))
            attend_parts(exec, c, first + begin, first + end, member_scratch(exec, member));
    }
    cabe_team_barrier(team, member);
    join_parts(exec, c, member);
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
    if (c.n_parts > 0) {
        attend_split(exec, team, member, &c);
        return;
    }
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
