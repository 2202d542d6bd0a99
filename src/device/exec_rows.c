/* Steps of nodes that work row by row. */
#include <math.h>
#include <string.h>

#include "device/exec_impl.h"

/*
 * Elementwise kernels are told rows, one at a time where a row is not whole vectors: what an element comes to
 * may depend on whether it is in the tail of a vector, and must not depend on which rows a member got.
 */
static void run_elementwise(const struct cabe_exec *exec, const struct cabe_node *node, int64_t begin,
                            int64_t end)
{
    const struct cabe_row_kernels *row = &exec->kernels->row;
    int64_t c = n_cols(exec, node->out);
    const float *a = floats(exec, node->in[0]), *b = floats(exec, node->in[1]);
    int64_t b_stride = b && n_rows(exec, node->in[1]) == 1 && n_rows(exec, node->in[0]) != 1 ? 0 : c;
    int64_t at_once = b && b_stride == 0 ? 1 : c % 16 == 0 ? end - begin : 1;
    float *out = floats(exec, node->out);

    for (int64_t r = begin; r < end; r += at_once) {
        if (node->op == CABE_OP_ADD)
            row->add(a + r * c, b + r * b_stride, out + r * c, at_once * c);
        else if (node->op == CABE_OP_MUL)
            row->mul(a + r * c, b + r * b_stride, out + r * c, at_once * c);
        else
            row->act(node->act, a + r * c, out + r * c, at_once * c);
    }
}

static void run_norm(const struct cabe_exec *exec, const struct cabe_node *node, int64_t begin, int64_t end)
{
    const float *x = floats(exec, node->in[0]), *residual = floats(exec, node->in[3]);
    float *out = floats(exec, node->out);

    if (residual == out) { /* the kernel writes over x only, and a sum does not mind */
        residual = x;
        x = out;
    }
    exec->kernels->row.norm(node->norm, node->eps, x, residual, floats(exec, node->in[1]),
                            floats(exec, node->in[2]), out, n_cols(exec, node->out), begin, end);
}

static void run_gather(const struct cabe_exec *exec, const struct cabe_node *node, int64_t begin, int64_t end)
{
    const struct cabe_value_info *table = &exec->program->values[node->in[0]];
    const int32_t *ids = integers(exec, node->in[1]);
    const float *row_scale = floats(exec, node->in[2]);
    float *out = floats(exec, node->out);
    int64_t c = n_cols(exec, node->out);

    if (table->packing == CABE_ROWS) {
        exec->kernels->row.gather(table->dtype, exec->data[node->in[0]], n_rows(exec, node->in[0]), c, ids, row_scale,
                                  out, begin, end);
        return;
    }
    for (int64_t r = begin; r < end; r++) {
        cabe_panel_row(table->dtype, exec->data[node->in[0]], c, ids[r], out + r * c);
        for (int64_t i = 0; row_scale && i < c; i++)
            out[r * c + i] *= row_scale[ids[r]];
    }
}

static void run_rope(const struct cabe_exec *exec, const struct cabe_node *node, int64_t begin, int64_t end)
{
    struct cabe_rope_heads heads = {.style = node->rope,
                                    .n_heads = node->n_heads,
                                    .n_kv_heads = node->n_kv_heads,
                                    .head_dim = node->head_dim,
                                    .n_rot = (int32_t)n_cols(exec, node->in[1]),
                                    .q_gamma = floats(exec, node->in[2]),
                                    .k_gamma = floats(exec, node->in[3]),
                                    .eps = node->eps};

    exec->kernels->row.rope(&heads, floats(exec, node->in[0]), floats(exec, node->in[1]), floats(exec, node->out),
                            begin, end);
}

/* Rows [begin, end) of one node that is no matmul and no attention. */
static void run_rows(const struct cabe_exec *exec, const struct cabe_node *node, int64_t begin, int64_t end)
{
    const struct cabe_row_kernels *row = &exec->kernels->row;
    int64_t c = n_cols(exec, node->out);

    switch (node->op) {
    case CABE_OP_GATHER:
        run_gather(exec, node, begin, end);
        break;
    case CABE_OP_NORM:
        run_norm(exec, node, begin, end);
        break;
    case CABE_OP_POOL:
        row->pool(node->pool, floats(exec, node->in[0]), integers(exec, node->in[1]),
                  floats(exec, node->in[2]), c, floats(exec, node->out), begin, end);
        break;
    case CABE_OP_UNIT:
        row->unit(node->eps, floats(exec, node->in[0]), floats(exec, node->out), c, begin, end);
        break;
    case CABE_OP_ADD:
    case CABE_OP_MUL:
    case CABE_OP_ACT:
        run_elementwise(exec, node, begin, end);
        break;
    case CABE_OP_ANGLES:
        row->angles(integers(exec, node->in[0]), floats(exec, node->in[1]), c / 2, node->scale,
                    floats(exec, node->out), begin, end);
        break;
    case CABE_OP_ROPE:
        run_rope(exec, node, begin, end);
        break;
    case CABE_OP_GLU:
        for (int64_t r = begin; r < end; r++) {
            const float *gate = floats(exec, node->in[0]) + r * 2 * c;

            row->glu(node->act, gate, gate + c, floats(exec, node->out) + r * c, c);
        }
        break;
    case CABE_OP_MATMUL:
    case CABE_OP_ATTENTION:
    case CABE_OP_CACHED:
    case CABE_N_OPS:
        break;
    }
}

static void run_block(const struct cabe_exec *exec, const struct cabe_step *step, const struct cabe_matmul *mm,
                      int64_t begin, int64_t end)
{
    const struct cabe_program *program = exec->program;

    for (int32_t i = step->node; i < step->node + step->n_nodes; i++)
        run_rows(exec, &program->nodes[i], begin, end);
    if (step->prepare >= 0)
        cabe_matmul_prepare(exec->kernels, mm, program->block->host + program->placing.shared, begin, end);
}

void cabe_exec_rows(const struct cabe_exec *exec, struct cabe_team *team, const struct cabe_step *step)
{
    int64_t rows = n_rows(exec, step->rows_of),
            share = (rows + 2 * exec->n_members - 1) / (2 * exec->n_members);
    int64_t block = share < 1 ? 1 : share < step->block ? share : step->block, begin, end;
    struct cabe_matmul mm;

    if (step->prepare >= 0)
        describe_matmul(exec, &exec->program->nodes[step->prepare], &mm);
    while (cabe_team_next(team, rows, block, &begin, &end))
        run_block(exec, step, &mm, begin, end);
}

int cabe_exec_is_small(const struct cabe_exec *exec, const struct cabe_step *step)
{
    return step->kind == CABE_STEP_ROWS && n_rows(exec, step->rows_of) <= 1;
}

void cabe_exec_rows_alone(const struct cabe_exec *exec, const struct cabe_step *step)
{
    struct cabe_matmul mm;

    if (step->prepare >= 0)
        describe_matmul(exec, &exec->program->nodes[step->prepare], &mm);
    run_block(exec, step, &mm, 0, n_rows(exec, step->rows_of));
}

enum cabe_status cabe_exec_look(const struct cabe_exec *exec, const struct cabe_node *node, struct cabe_error *err)
{
    const struct cabe_program *program = exec->program;
    const char *segment = program->segments[node->segment].name, *name = NULL;
    int64_t rows = n_rows(exec, node->out), stride = n_cols(exec, node->out);
    int64_t c = node->op == CABE_OP_MATMUL ? n_rows(exec, node->in[1]) : stride;
    const float *out = floats(exec, node->out) + node->first_col;
    size_t prefix = strlen(segment);
    int is_finite = 1;

    for (int64_t r = 0; r < rows && is_finite; r++)
        for (int64_t i = 0; i < c; i++)
            is_finite &= isfinite(out[r * stride + i]) != 0;
    if (is_finite)
        return CABE_OK;
    for (int k = CABE_NODE_INPUTS_MAX - 1; k >= 0; k--)
        if (node->in[k] != CABE_NO_VALUE && program->values[node->in[k]].kind == CABE_WEIGHT)
            name = program->values[node->in[k]].name;
    if (node->op == CABE_OP_MATMUL)
        name = program->values[node->in[1]].name;
    if (name && strncmp(name, segment, prefix) == 0 && name[prefix] == '.')
        name += prefix + 1;
    return cabe_fail(err, CABE_ERR_FORMAT, "%s: the %s%s%s%s is not finite", segment,
                     node->op == CABE_OP_MATMUL ? "product" : cabe_op_name(node->op), name ? " \"" : "",
                     name ? name : "", name ? "\"" : "");
}

enum cabe_status cabe_exec_look_rows(const struct cabe_exec *exec, const struct cabe_step *step,
                                     struct cabe_error *err)
{
    const struct cabe_program *program = exec->program;
    enum cabe_status status = CABE_OK;
    struct cabe_matmul mm;

    for (int32_t i = step->node; i < step->node + step->n_nodes && status == CABE_OK; i++) {
        run_rows(exec, &program->nodes[i], 0, n_rows(exec, program->nodes[i].out));
        status = cabe_exec_look(exec, &program->nodes[i], err);
    }
    if (step->prepare >= 0 && status == CABE_OK) {
        describe_matmul(exec, &program->nodes[step->prepare], &mm);
        cabe_matmul_prepare(exec->kernels, &mm, program->block->host + program->placing.shared, 0, mm.t);
    }
    return status;
}
