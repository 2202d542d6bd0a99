#include "device/steps.h"

#define CACHE_BYTES (96 * 1024) /* of the rows that a group of nodes writes: a part of a small L2 */
#define BLOCK_MAX 64

static int quantises(const struct cabe_program *program, const struct cabe_node *node)
{
    enum cabe_dtype dtype = program->values[node->in[1]].dtype;

    return node->op == CABE_OP_MATMUL && cabe_matmul_quantises(dtype, node->precision);
}

static int is_single_row(struct cabe_dim rows)
{
    return cabe_dim_same(rows, (struct cabe_dim){1, CABE_SYM_ONE, 0});
}

/* Whether row r of the output needs row r of this operand only. */
static int row_by_row(const struct cabe_program *program, const struct cabe_node *node, int operand)
{
    switch (node->op) {
    case CABE_OP_NORM:
        return operand == 0 || operand == 3;
    case CABE_OP_GLU:
        return operand == 0;
    case CABE_OP_ROPE:
        return operand < 2;
    case CABE_OP_ACT:
    case CABE_OP_UNIT:
        return 1;
    case CABE_OP_ADD:
    case CABE_OP_MUL:
        return operand == 0 || !is_single_row(program->values[node->in[1]].dim[2]) ||
               is_single_row(program->values[node->in[0]].dim[2]);
    default:
        return 0;
    }
}

/* Whether the bytes of two values of the block meet other than row on row. */
static int clash(const struct cabe_program *program, cabe_value a, int a_by_row, cabe_value b, int b_by_row)
{
    const struct cabe_value_info *ia = &program->values[a], *ib = &program->values[b];
    uint64_t begin_a = program->offsets[a], begin_b = program->offsets[b];

    if (ia->kind == CABE_WEIGHT || ib->kind == CABE_WEIGHT || ia->kind == CABE_STATE || ib->kind == CABE_STATE ||
        begin_a + cabe_value_bytes(ia, program->bounds) <= begin_b ||
        begin_b + cabe_value_bytes(ib, program->bounds) <= begin_a)
        return 0;
    return !(a_by_row && b_by_row && begin_a == begin_b && cabe_dim_same(ia->dim[3], ib->dim[3]));
}

/* Whether `late` can run on some rows before `early` has run on all. Both write row by row. */
static int independent(const struct cabe_program *program, const struct cabe_node *early,
                       const struct cabe_node *late)
{
    if (clash(program, early->out, 1, late->out, 1))
        return 0;
    for (int k = 0; k < CABE_NODE_INPUTS_MAX; k++) {
        if (late->in[k] != CABE_NO_VALUE &&
            clash(program, early->out, 1, late->in[k], row_by_row(program, late, k)))
            return 0;
        if (early->in[k] != CABE_NO_VALUE &&
            clash(program, early->in[k], row_by_row(program, early, k), late->out, 1))
            return 0;
    }
    return 1;
}

/* Whether a node whose rows are those of `value` may join the group; no node: only the rows count. */
static int joins(const struct cabe_program *program, const struct cabe_step *group,
                 const struct cabe_node *node, int32_t segment, cabe_value value)
{
    if (!group || group->kind != CABE_STEP_ROWS || group->prepare >= 0 || group->segment != segment ||
        !cabe_dim_same(program->values[group->rows_of].dim[2], program->values[value].dim[2]))
        return 0;
    for (int32_t i = group->node; node && i < group->node + group->n_nodes; i++)
        if (!independent(program, &program->nodes[i], node))
            return 0;
    return 1;
}

static struct cabe_step *add_step(struct cabe_step *steps, int32_t *n, enum cabe_step_kind kind, int32_t node,
                                  int32_t segment)
{
    struct cabe_step *step = &steps[(*n)++];

    *step = (struct cabe_step){.kind = kind, .node = node, .prepare = -1, .segment = segment, .stream = -1};
    return step;
}

/* The group that takes rows like those of `value` next: the last step, or a new one. */
static struct cabe_step *group_for(const struct cabe_program *program, struct cabe_step *steps, int32_t *n,
                                   int32_t i, const struct cabe_node *node, cabe_value value)
{
    struct cabe_step *last = *n ? &steps[*n - 1] : NULL;
    int32_t segment = program->nodes[i].segment;

    if (!joins(program, last, node, segment, value)) {
        last = add_step(steps, n, CABE_STEP_ROWS, i, segment);
        last->rows_of = value;
    }
    return last;
}

static int32_t order_of(const struct cabe_program *program, const struct cabe_node *node)
{
    for (int32_t c = 0; c < program->n_checks; c++) {
        const struct cabe_program_check *check = &program->checks[c];

        if (node->op == CABE_OP_CACHED
                ? check->kind == CABE_CHECK_PAGES && cabe_same_pages(&program->nodes[check->node], node)
                : check->kind == CABE_CHECK_OFFSETS && check->input == node->in[1] && check->order >= 0)
            return check->order;
    }
    return 0;
}

/* Whether the product can go with those of the last step: a part of the same value, of activations alike prepared. */
static int goes_with(const struct cabe_program *program, const struct cabe_step *last, const struct cabe_node *node)
{
    const struct cabe_node *before;

    if (!last || last->kind != CABE_STEP_MATMUL || last->n_nodes == CABE_STEP_MATMULS || node->first_col == 0)
        return 0;
    before = &program->nodes[last->node + last->n_nodes - 1];
    return last->node + last->n_nodes == (int32_t)(node - program->nodes) && before->out == node->out &&
           before->in[0] == node->in[0] && before->segment == node->segment &&
           quantises(program, before) == quantises(program, node) &&
           (!quantises(program, node) ||
            program->values[before->in[1]].dtype == program->values[node->in[1]].dtype);
}

static void add_matmul(const struct cabe_program *program, struct cabe_step *steps, int32_t *n, int32_t i)
{
    const struct cabe_node *node = &program->nodes[i];

    if (goes_with(program, *n ? &steps[*n - 1] : NULL, node)) {
        steps[*n - 1].n_nodes++;
        return;
    }
    if (quantises(program, node))
        group_for(program, steps, n, i, NULL, node->in[0])->prepare = i;
    add_step(steps, n, CABE_STEP_MATMUL, i, node->segment)->n_nodes = 1;
}

/* So many rows that what the group writes stays in cache. */
static int32_t block_of(const struct cabe_program *program, const struct cabe_step *step)
{
    int64_t row_bytes = 1, rows;

    for (int32_t i = step->node; i < step->node + step->n_nodes; i++)
        row_bytes += 4 * cabe_value_dim(&program->values[program->nodes[i].out], 3, program->bounds);
    if (step->prepare >= 0)
        row_bytes += 2 * cabe_value_dim(&program->values[step->rows_of], 3, program->bounds);
    rows = CACHE_BYTES / row_bytes;
    return (int32_t)(rows < 1 ? 1 : rows > BLOCK_MAX ? BLOCK_MAX : rows);
}

/* A streamed segment is entered once, at the first step that reads its weights; quantising reads none. */
static void mark_streams(const struct cabe_program *program, struct cabe_step *steps, int32_t n)
{
    int32_t entered = -1;

    for (int32_t s = 0; s < n; s++) {
        int32_t stream = program->segments[steps[s].segment].stream;

        if (stream > entered)
            steps[s].stream = entered = stream;
    }
}

int32_t cabe_steps_build(const struct cabe_program *program, struct cabe_step *steps)
{
    int32_t n = 0;

    for (int32_t i = 0; i < program->n_nodes; i++) {
        const struct cabe_node *node = &program->nodes[i];

        if (node->op == CABE_OP_MATMUL) {
            add_matmul(program, steps, &n, i);
        } else if (node->op == CABE_OP_ATTENTION || node->op == CABE_OP_CACHED) {
            struct cabe_step *step =
                add_step(steps, &n, node->op == CABE_OP_CACHED ? CABE_STEP_CACHED : CABE_STEP_ATTENTION, i,
                         node->segment);

            step->n_nodes = 1;
            step->order = order_of(program, node);
        } else {
            group_for(program, steps, &n, i, node, node->out)->n_nodes++;
        }
    }
    for (int32_t s = 0; s < n; s++)
        steps[s].block = block_of(program, &steps[s]);
    mark_streams(program, steps, n);
    return n;
}
