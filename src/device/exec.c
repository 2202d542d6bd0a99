#include "device/exec.h"

#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "device/program.h"
#include "device/steps.h"

#define CHUNKS_A_MEMBER 64 /* that a member takes of a big loop: enough to even out, few to ask for */

struct cabe_exec {
    struct cabe_program *program;
    const struct cabe_kernels *kernels;
    struct cabe_step *steps;
    int32_t n_steps;
    int32_t n_members;
    uint8_t **data; /* per value: where it lies; fixed, because buffers and slots are */

    /* Of the present run. */
    const struct cabe_cancel *cancel;
    int stop[2]; /* member 0 writes [step & 1] before the barrier that begins a step, all read it after */
    enum cabe_status status;
    struct cabe_error err;
};

int cabe_exec_supports(const struct cabe_device *device, const struct cabe_graph *graph,
                       const struct cabe_node *node)
{
    (void)device;
    (void)graph;
    return (unsigned)node->op < CABE_N_OPS && node->op != CABE_OP_CACHED; /* the graph lets no dtype in that the kernels lack */
}

static void find_data(struct cabe_exec *exec)
{
    const struct cabe_program *program = exec->program;

    for (int32_t v = 0; v < program->n_values; v++) {
        const struct cabe_value_info *info = &program->values[v];
        const struct cabe_program_segment *segment = &program->segments[info->segment];

        if (info->kind == CABE_STATE)
            continue; /* bound later */
        if (info->kind != CABE_WEIGHT)
            exec->data[v] = program->block->host + program->offsets[v];
        else if (segment->buffer)
            exec->data[v] = segment->buffer->host + segment->offset + info->offset;
    }
}

enum cabe_status cabe_exec_compile(struct cabe_program *program, struct cabe_error *err)
{
    struct cabe_exec *exec = cabe_calloc(1, sizeof *exec);

    if (!exec)
        return cabe_fail(err, CABE_ERR_OOM, "%s: no memory for its executor", program->place);
    program->exec = exec;
    exec->program = program;
    exec->kernels = program->device->config.kernels;
    exec->n_members = cabe_team_size(program->device->config.team);
    exec->steps = cabe_calloc(2 * (size_t)program->n_nodes, sizeof *exec->steps);
    exec->data = cabe_calloc((size_t)program->n_values, sizeof *exec->data);
    if (!exec->steps || !exec->data)
        return cabe_fail(err, CABE_ERR_OOM, "%s: no memory for %d steps", program->place,
                         (int)program->n_nodes);
    exec->n_steps = cabe_steps_build(program, exec->steps);
    find_data(exec);
    return CABE_OK;
}

void cabe_exec_release(struct cabe_program *program)
{
    struct cabe_exec *exec = program->exec;

    cabe_free(exec->steps);
    cabe_free(exec->data);
    cabe_free(exec);
    program->exec = NULL;
}

static float *floats(const struct cabe_exec *exec, cabe_value value)
{
    return value == CABE_NO_VALUE ? NULL : (float *)(void *)exec->data[value];
}

static const int32_t *integers(const struct cabe_exec *exec, cabe_value value)
{
    return (const int32_t *)(const void *)exec->data[value];
}

static int64_t n_rows(const struct cabe_exec *exec, cabe_value value)
{
    return cabe_value_dim(&exec->program->values[value], 2, exec->program->symbols);
}

static int64_t n_cols(const struct cabe_exec *exec, cabe_value value)
{
    return cabe_value_dim(&exec->program->values[value], 3, exec->program->symbols);
}

static void describe_matmul(const struct cabe_exec *exec, const struct cabe_node *node,
                            struct cabe_matmul *mm)
{
    *mm = (struct cabe_matmul){
        .w = exec->data[node->in[1]],
        .dtype = exec->program->values[node->in[1]].dtype,
        .n = n_rows(exec, node->in[1]),
        .k = n_cols(exec, node->in[1]),
        .x = floats(exec, node->in[0]),
        .t = n_rows(exec, node->in[0]),
        .x_stride = n_cols(exec, node->in[0]),
        .out = floats(exec, node->out) + node->first_col,
        .out_stride = n_cols(exec, node->out),
        .bias = floats(exec, node->in[2]),
        .residual = floats(exec, node->in[3]),
        .act = node->act,
        .precision = node->precision,
    };
}

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

static void step_rows(const struct cabe_exec *exec, struct cabe_team *team, const struct cabe_step *step)
{
    const struct cabe_program *program = exec->program;
    int64_t rows = n_rows(exec, step->rows_of),
            share = (rows + 2 * exec->n_members - 1) / (2 * exec->n_members);
    int64_t block = share < step->block ? share : step->block, begin, end;
    uint8_t *shared = program->block->host + program->placing.shared;
    struct cabe_matmul mm;

    if (step->prepare >= 0)
        describe_matmul(exec, &program->nodes[step->prepare], &mm);
    while (cabe_team_next(team, rows, block, &begin, &end)) {
        for (int32_t i = step->node; i < step->node + step->n_nodes; i++)
            run_rows(exec, &program->nodes[i], begin, end);
        if (step->prepare >= 0)
            cabe_matmul_prepare(exec->kernels, &mm, shared, begin, end);
    }
}

static void *member_scratch(const struct cabe_exec *exec, int member)
{
    const struct cabe_placing *placing = &exec->program->placing;

    return exec->program->block->host + placing->member + placing->member_bytes * (uint64_t)member;
}

static void step_matmul(const struct cabe_exec *exec, struct cabe_team *team, int member,
                        const struct cabe_step *step)
{
    const struct cabe_program *program = exec->program;
    const uint8_t *shared = program->block->host + program->placing.shared;
    int64_t tiles, chunk, begin, end;
    struct cabe_matmul mm;

    describe_matmul(exec, &program->nodes[step->node], &mm);
    tiles = cabe_matmul_tiles(exec->kernels, &mm);
    chunk = 1 + tiles / ((int64_t)CHUNKS_A_MEMBER * exec->n_members);
    while (cabe_team_next(team, tiles, chunk, &begin, &end))
        cabe_matmul_run(exec->kernels, &mm, shared, member_scratch(exec, member), begin, end);
}

/*
 * One item is one head of one sequence, the longest sequences first, so that no member is left with a long
 * one.
 */
static void step_attention(const struct cabe_exec *exec, struct cabe_team *team, int member,
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

/* The streamed segment after `step`'s, or -1. */
static int32_t next_stream(const struct cabe_exec *exec, int32_t after)
{
    for (int32_t s = after + 1; s < exec->n_steps; s++)
        if (exec->steps[s].stream >= 0)
            return exec->steps[s].stream;
    return -1;
}

/* Member 0, while the others wait: whether the run goes on with step s. */
static int may_begin(struct cabe_exec *exec, int32_t s)
{
    struct cabe_program *program = exec->program;
    int32_t stream = exec->steps[s].stream;

    if (cabe_cancelled(exec->cancel)) {
        exec->status = cabe_fail(&exec->err, CABE_ERR_CANCELLED, "%s: cancelled at step %d of %d",
                                 program->place, (int)s, (int)exec->n_steps);
        return 0;
    }
    if (stream >= 0) {
        uint64_t begin_ns = cabe_clock_ns();
        int32_t next = next_stream(exec, s);

        exec->status = cabe_stream_wait(program->stream, stream, &exec->err);
        program->times.stream_ns += cabe_clock_ns() - begin_ns;
        if (exec->status != CABE_OK)
            return 0;
        if (next >= 0)
            cabe_stream_request(program->stream, next, exec->cancel);
    }
    return 1;
}

/* Books the time since `then_ns`; returns the time now. */
static uint64_t count_time(struct cabe_exec *exec, enum cabe_step_kind kind, uint64_t then_ns)
{
    struct cabe_program_times *times = &exec->program->times;
    uint64_t now_ns = cabe_clock_ns();

    *(kind == CABE_STEP_MATMUL      ? &times->matmul_ns
      : kind == CABE_STEP_ATTENTION ? &times->attention_ns
                                    : &times->rows_ns) += now_ns - then_ns;
    return now_ns;
}

static void run_step(const struct cabe_exec *exec, struct cabe_team *team, int member,
                     const struct cabe_step *step)
{
    switch (step->kind) {
    case CABE_STEP_ROWS:
        step_rows(exec, team, step);
        break;
    case CABE_STEP_MATMUL:
        step_matmul(exec, team, member, step);
        break;
    case CABE_STEP_ATTENTION:
        step_attention(exec, team, member, step);
        break;
    }
}

/*
 * A barrier between steps. Before a streamed segment there are two: the first says that the one before it is
 * done with, so that its slot can be read into; the second that the segment has come.
 */
static void run_member(struct cabe_team *team, int member, void *arg)
{
    struct cabe_exec *exec = arg;
    uint64_t then_ns = cabe_clock_ns();

    for (int32_t s = 0; s < exec->n_steps; s++) {
        int waits = exec->steps[s].stream >= 0;

        if (s > 0 && waits) {
            cabe_team_barrier(team, member);
            if (member == 0)
                then_ns = count_time(exec, exec->steps[s - 1].kind, then_ns);
        }
        if (member == 0)
            exec->stop[s & 1] = !may_begin(exec, s);
        cabe_team_barrier(team, member);
        if (exec->stop[s & 1])
            return;
        if (member == 0)
            then_ns = s > 0 && !waits ? count_time(exec, exec->steps[s - 1].kind, then_ns) : cabe_clock_ns();
        run_step(exec, team, member, &exec->steps[s]);
    }
    if (member == 0) /* the others may still be at it, but not for long */
        (void)count_time(exec, exec->steps[exec->n_steps - 1].kind, then_ns);
}

static void sift(int32_t *order, int64_t hole, int64_t n, const int32_t *offsets)
{
    int32_t moved = order[hole];
    int32_t length = offsets[moved + 1] - offsets[moved];

    for (int64_t child; (child = 2 * hole + 1) < n; hole = child) {
        if (child + 1 < n && offsets[order[child + 1] + 1] - offsets[order[child + 1]] <
                                 offsets[order[child] + 1] - offsets[order[child]])
            child++;
        if (offsets[order[child] + 1] - offsets[order[child]] >= length)
            break;
        order[hole] = order[child];
    }
    order[hole] = moved;
}

/* Heap sort with the shortest on top: longest first at the end. qsort() may allocate. */
static void sort_by_length(int32_t *order, int64_t n, const int32_t *offsets)
{
    int sorted = 1;

    for (int64_t s = 0; s < n; s++) {
        order[s] = (int32_t)s;
        sorted &= s == 0 || offsets[s + 1] - offsets[s] <= offsets[s] - offsets[s - 1];
    }
    if (sorted)
        return;
    for (int64_t i = n / 2; i-- > 0;)
        sift(order, i, n, offsets);
    for (int64_t end = n - 1; end > 0; end--) {
        int32_t shortest = order[0];

        order[0] = order[end];
        order[end] = shortest;
        sift(order, 0, end, offsets);
    }
}

static void make_orders(const struct cabe_exec *exec)
{
    const struct cabe_program *program = exec->program;
    int32_t *orders = (int32_t *)(void *)(program->block->host + program->placing.order);

    for (int32_t c = 0; c < program->n_checks; c++)
        if (program->checks[c].kind == CABE_CHECK_OFFSETS && program->checks[c].order >= 0)
            sort_by_length(orders + program->checks[c].order * program->bounds[CABE_SYM_SEQUENCES],
                           program->symbols[CABE_SYM_SEQUENCES], integers(exec, program->checks[c].input));
}

/* Access to everything that the run touches; a buffer that holds several segments is opened as often. */
static void close_buffers(struct cabe_program *program, int32_t n_segments)
{
    for (int32_t s = 0; s < n_segments; s++)
        if (program->segments[s].buffer)
            cabe_buffer_close(program->segments[s].buffer);
    cabe_buffer_close(program->block);
}

static enum cabe_status open_buffers(struct cabe_program *program, struct cabe_error *err)
{
    enum cabe_status status = cabe_buffer_open(program->block, err);

    if (status != CABE_OK)
        return status;
    for (int32_t s = 0; s < program->n_segments; s++)
        if (program->segments[s].buffer &&
            (status = cabe_buffer_open(program->segments[s].buffer, err)) != CABE_OK) {
            close_buffers(program, s);
            return cabe_fail_in(err, status, "%s", program->place);
        }
    return CABE_OK;
}

enum cabe_status cabe_exec_submit(struct cabe_program *program, const struct cabe_cancel *cancel,
                                  struct cabe_error *err)
{
    struct cabe_exec *exec = program->exec;
    enum cabe_status status = open_buffers(program, err);
    int32_t first = next_stream(exec, -1);
    uint64_t begin_ns = cabe_clock_ns();

    if (status != CABE_OK)
        return status;
    status = cabe_program_check_inputs(program, program->block->host, err);
    if (status == CABE_OK) {
        exec->cancel = cancel;
        exec->status = CABE_OK;
        make_orders(exec);
        if (first >= 0)
            cabe_stream_request(program->stream, first, cancel);
        cabe_team_run(program->device->config.team, run_member, exec);
        if (first >= 0)
            cabe_stream_idle(program->stream);
        exec->cancel = NULL;
        program->times.n_runs++;
        program->times.total_ns += cabe_clock_ns() - begin_ns;
    }
    close_buffers(program, program->n_segments);
    return status;
}

enum cabe_status cabe_exec_wait(struct cabe_program *program, struct cabe_error *err)
{
    const struct cabe_exec *exec = program->exec;

    if (exec->status != CABE_OK && err)
        *err = exec->err;
    return exec->status;
}
