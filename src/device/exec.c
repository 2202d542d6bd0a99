#include "device/exec.h"

#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "device/exec_impl.h"

int cabe_exec_supports(const struct cabe_device *device, const struct cabe_graph *graph,
                       const struct cabe_node *node)
{
    (void)device;
    (void)graph;
    return (unsigned)node->op < CABE_N_OPS; /* the graph lets no dtype in that the kernels lack */
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
    exec->taken = cabe_calloc((size_t)exec->n_members, sizeof *exec->taken);
    if (!exec->steps || !exec->data || !exec->taken)
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
    cabe_free(exec->taken);
    cabe_free(exec);
    program->exec = NULL;
}

/* The streamed segment after `step`'s, or -1. */
static int32_t next_stream(const struct cabe_exec *exec, int32_t after)
{
    for (int32_t s = after + 1; s < exec->n_steps; s++)
        if (exec->steps[s].stream >= 0)
            return exec->steps[s].stream;
    return -1;
}

/* While all wait: whether the run goes on with step s. */
static int may_begin(struct cabe_exec *exec, int32_t s)
{
    struct cabe_program *program = exec->program;
    int32_t stream = exec->steps[s].stream;

    if (exec->status != CABE_OK) /* found by looking */
        return 0;
    cabe_cancel_alive(exec->cancel, exec->then_ns);
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

/* Books the time since the present step began, and begins another. */
static void count_time(struct cabe_exec *exec, enum cabe_step_kind kind)
{
    struct cabe_program_times *times = &exec->program->times;
    uint64_t now_ns = cabe_clock_ns();

    *(kind == CABE_STEP_MATMUL ? &times->matmul_ns
      : kind == CABE_STEP_ROWS ? &times->rows_ns
                               : &times->attention_ns) += now_ns - exec->then_ns;
    exec->then_ns = now_ns;
}

static void run_step(const struct cabe_exec *exec, struct cabe_team *team, int member,
                     const struct cabe_step *step)
{
    switch (step->kind) {
    case CABE_STEP_ROWS:
        cabe_exec_rows(exec, team, step);
        break;
    case CABE_STEP_MATMUL:
        cabe_exec_matmul(exec, team, member, step);
        break;
    case CABE_STEP_ATTENTION:
        cabe_exec_attention(exec, team, member, step);
        break;
    case CABE_STEP_CACHED:
        cabe_exec_cached(exec, team, member, step);
        break;
    }
}

/* As run_step(), and member 0 looks at what it gives; the barrier that begins the next step ends its looking. */
static void run_step_looking(struct cabe_exec *exec, struct cabe_team *team, int member, const struct cabe_step *step)
{
    if (step->kind == CABE_STEP_ROWS) {
        if (member == 0)
            exec->status = cabe_exec_look_rows(exec, step, &exec->err);
        return;
    }
    run_step(exec, team, member, step);
    cabe_team_barrier(team, member);
    for (int32_t i = step->node; i < step->node + step->n_nodes && member == 0 && exec->status == CABE_OK; i++)
        exec->status = cabe_exec_look(exec, &exec->program->nodes[i], &exec->err);
}

/*
 * Goes on to step s, or to the first from there on that is worth sharing out: all members wait, and one does what is not.
 */
static void begin_step(struct cabe_exec *exec, int32_t s)
{
    for (; s < exec->n_steps; s++) {
        const struct cabe_step *step = &exec->steps[s];

        if (!may_begin(exec, s)) {
            s = exec->n_steps;
            break;
        }
        if (exec->program->looks_for_nan || !cabe_exec_is_small(exec, step))
            break;
        if (step->stream >= 0)
            exec->then_ns = cabe_clock_ns();
        cabe_exec_rows_alone(exec, step);
        count_time(exec, step->kind);
    }
    if (s < exec->n_steps && exec->steps[s].stream >= 0)
        exec->then_ns = cabe_clock_ns();
    for (int32_t m = 0; m < exec->n_members; m++)
        atomic_store_explicit(&exec->taken[m].next, 0, memory_order_relaxed);
    exec->step = s;
}

/* The last member to end a step: the slot of a streamed segment that is done with may be read into now. */
static void end_step(void *arg)
{
    struct cabe_exec *exec = arg;

    count_time(exec, exec->steps[exec->step].kind);
    begin_step(exec, exec->step + 1);
}

static void run_member(struct cabe_team *team, int member, void *arg)
{
    struct cabe_exec *exec = arg;

    for (int32_t s; (s = exec->step) < exec->n_steps;) {
        if (exec->program->looks_for_nan)
            run_step_looking(exec, team, member, &exec->steps[s]);
        else
            run_step(exec, team, member, &exec->steps[s]);
        cabe_team_barrier_then(team, member, end_step, exec);
    }
}

struct lengths { /* how long a sequence takes */
    const int32_t *offsets, *starts; /* starts: what it has in its pages; may be NULL */
};

static int64_t length_of(const struct lengths *l, int64_t s)
{
    return (int64_t)l->offsets[s + 1] - l->offsets[s] + (l->starts ? l->starts[s] : 0);
}

static void sift(int32_t *order, int64_t hole, int64_t n, const struct lengths *l)
{
    int32_t moved = order[hole];

    for (int64_t child; (child = 2 * hole + 1) < n; hole = child) {
        if (child + 1 < n && length_of(l, order[child + 1]) < length_of(l, order[child]))
            child++;
        if (length_of(l, order[child]) >= length_of(l, moved))
            break;
        order[hole] = order[child];
    }
    order[hole] = moved;
}

/* Heap sort with the shortest on top: longest first at the end. qsort() may allocate. */
static void sort_by_length(int32_t *order, int64_t n, const struct lengths *l)
{
    int sorted = 1;

    for (int64_t s = 0; s < n; s++) {
        order[s] = (int32_t)s;
        sorted &= s == 0 || length_of(l, s) <= length_of(l, s - 1);
    }
    if (sorted)
        return;
    for (int64_t i = n / 2; i-- > 0;)
        sift(order, i, n, l);
    for (int64_t end = n - 1; end > 0; end--) {
        int32_t shortest = order[0];

        order[0] = order[end];
        order[end] = shortest;
        sift(order, 0, end, l);
    }
}

static void make_orders(const struct cabe_exec *exec)
{
    const struct cabe_program *program = exec->program;
    int32_t *orders = (int32_t *)(void *)(program->block->host + program->placing.order);

    for (int32_t c = 0; c < program->n_checks; c++) {
        const struct cabe_program_check *check = &program->checks[c];
        struct lengths lengths = {integers(exec, check->input), NULL};

        if (check->order < 0)
            continue;
        if (check->kind == CABE_CHECK_PAGES)
            lengths.starts = integers(exec, program->nodes[check->node].in[3]);
        sort_by_length(orders + check->order * program->bounds[CABE_SYM_SEQUENCES],
                       program->symbols[CABE_SYM_SEQUENCES], &lengths);
    }
}

/* The i-th buffer that the run touches, or NULL: the block, those of segments, those of states. */
static struct cabe_buffer *buffer_at(const struct cabe_program *program, int32_t i)
{
    if (i == 0)
        return program->block;
    return i <= program->n_segments ? program->segments[i - 1].buffer : program->bound[i - 1 - program->n_segments];
}

static int32_t n_buffers(const struct cabe_program *program)
{
    return 1 + program->n_segments + program->n_values;
}

/* Access to everything that the run touches; a buffer that is met several times is opened as often. */
static void close_buffers(struct cabe_program *program, int32_t n)
{
    while (n-- > 0)
        if (buffer_at(program, n))
            cabe_buffer_close(buffer_at(program, n));
}

static enum cabe_status open_buffers(struct cabe_program *program, struct cabe_error *err)
{
    for (int32_t i = 0; i < n_buffers(program); i++) {
        struct cabe_buffer *buffer = buffer_at(program, i);
        enum cabe_status status = buffer ? cabe_buffer_open(buffer, err) : CABE_OK;

        if (status != CABE_OK) {
            close_buffers(program, i);
            return cabe_fail_in(err, status, "%s", program->place);
        }
    }
    return CABE_OK;
}

/* What a run before this one, and other buffers, have left. */
static void begin_run(struct cabe_exec *exec, const struct cabe_cancel *cancel)
{
    const struct cabe_program *program = exec->program;

    for (int32_t v = 0; v < program->n_values; v++)
        if (program->values[v].kind == CABE_STATE)
            exec->data[v] = program->bound[v]->host;
    exec->cancel = cancel;
    exec->status = CABE_OK;
    make_orders(exec);
    exec->then_ns = cabe_clock_ns();
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
        begin_run(exec, cancel);
        if (first >= 0)
            cabe_stream_request(program->stream, first, cancel);
        begin_step(exec, 0);
        if (exec->step < exec->n_steps)
            cabe_team_run(program->device->config.team, run_member, exec);
        if (first >= 0)
            cabe_stream_idle(program->stream);
        exec->cancel = NULL;
        program->times.n_runs++;
        program->times.total_ns += cabe_clock_ns() - begin_ns;
    }
    close_buffers(program, n_buffers(program));
    return status;
}

enum cabe_status cabe_exec_wait(struct cabe_program *program, struct cabe_error *err)
{
    const struct cabe_exec *exec = program->exec;

    if (exec->status != CABE_OK && err)
        *err = exec->err;
    return exec->status;
}
