/*
 * Programs: what compile prepares and reserves, and the way in and out of a run; the run itself is the
 * backend's.
 */
#include "device/program.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

#define NOT_UPLOADED UINT64_MAX

/* Of those that a graph need not have. */
static int is_used(const struct cabe_graph *graph, int symbol)
{
    for (int32_t v = 0; v < cabe_graph_n_values(graph); v++)
        for (int d = 0; d < 4; d++)
            if ((int)cabe_graph_value(graph, v)->dim[d].symbol == symbol)
                return 1;
    return symbol == CABE_SYM_TOKENS || symbol == CABE_SYM_SEQUENCES;
}

/* Copies them, symbols that the graph does not use as 0. */
static enum cabe_status take_bounds(const struct cabe_graph *graph, const int64_t bounds[CABE_N_SYMBOLS],
                                    const char *place, int64_t taken[CABE_N_SYMBOLS], struct cabe_error *err)
{
    taken[CABE_SYM_ONE] = 1;
    for (int s = CABE_SYM_ONE + 1; s < CABE_N_SYMBOLS; s++) {
        taken[s] = is_used(graph, s) ? bounds[s] : 0;
        if ((taken[s] < 1 && is_used(graph, s)) || taken[s] > INT32_MAX)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %s up to %lld; wanted 1 to %d", place,
                             cabe_symbol_name((enum cabe_symbol)s), (long long)bounds[s], INT32_MAX);
    }
    return CABE_OK;
}

/* Every segment with weights has a place to read them from, aligned as kernels want it. */
static enum cabe_status check_weights(const struct cabe_device *device, const struct cabe_graph *graph,
                                      const struct cabe_weights *weights, const char *place,
                                      struct cabe_error *err)
{
    for (int32_t s = 0; s < cabe_graph_n_segments(graph); s++) {
        uint64_t bytes = cabe_graph_segment_bytes(graph, s);
        const struct cabe_segment_weights *where = weights ? &weights->segment[s] : NULL;
        cabe_value foreign = cabe_graph_segment_foreign(graph, s);

        if (bytes == 0)
            continue;
        if (!where || (!where->buffer && !weights->read))
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: segment %s has weights and no place for them",
                             place, cabe_graph_segment_name(graph, s));
        if (!where->buffer && foreign != CABE_NO_VALUE)
            return cabe_fail(err, CABE_ERR_UNSUPPORTED,
                             "%s: segment %s cannot be streamed: another one reads its weight %s", place,
                             cabe_graph_segment_name(graph, s), cabe_graph_value(graph, foreign)->name);
        if (!where->buffer)
            continue;
        if (where->buffer->device != device)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: segment %s is in a buffer of another device", place,
                             cabe_graph_segment_name(graph, s));
        if (where->offset % 64 != 0 || ((uintptr_t)where->buffer->host & 63) != 0)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: segment %s begins at %llu, not at a multiple of 64",
                             place, cabe_graph_segment_name(graph, s), (unsigned long long)where->offset);
        if (where->offset > where->buffer->bytes || bytes > where->buffer->bytes - where->offset)
            return cabe_fail(err, CABE_ERR_ARGUMENT,
                             "%s: segment %s has %llu bytes at %llu of a buffer of %llu", place,
                             cabe_graph_segment_name(graph, s), (unsigned long long)bytes,
                             (unsigned long long)where->offset, (unsigned long long)where->buffer->bytes);
    }
    return CABE_OK;
}

static enum cabe_status check_nodes(const struct cabe_device *device, const struct cabe_graph *graph,
                                    const char *place, struct cabe_error *err)
{
    for (int32_t i = 0; i < cabe_graph_n_nodes(graph); i++) {
        const struct cabe_node *node = cabe_graph_node(graph, i);
        const struct cabe_value_info *a = cabe_graph_value(graph, node->in[0]);
        const struct cabe_value_info *b = node->op == CABE_OP_MATMUL ? cabe_graph_value(graph, node->in[1])
                                                                     : cabe_graph_value(graph, node->out);

        if (!cabe_device_supports(device, graph, node))
            return cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: %s cannot do node %d, %s of %s %s and %s %s",
                             place, cabe_device_name(device), (int)i, cabe_op_name(node->op),
                             cabe_dtype_name(a->dtype), a->name, cabe_dtype_name(b->dtype), b->name);
    }
    return CABE_OK;
}

static void copy_graph(struct cabe_program *program, const struct cabe_graph *graph)
{
    for (int32_t v = 0; v < program->n_values; v++) {
        program->values[v] = *cabe_graph_value(graph, v);
        program->uploaded[v] = NOT_UPLOADED;
    }
    for (int32_t i = 0; i < program->n_nodes; i++) {
        const struct cabe_node *node = cabe_graph_node(graph, i);

        program->nodes[i] = *node;
        cabe_program_add_checks(program, i);
    }
}

static void copy_segments(struct cabe_program *program, const struct cabe_graph *graph,
                          const struct cabe_weights *weights)
{
    for (int32_t s = 0; s < program->n_segments; s++) {
        struct cabe_program_segment *segment = &program->segments[s];

        snprintf(segment->name, sizeof segment->name, "%s", cabe_graph_segment_name(graph, s));
        segment->bytes = cabe_graph_segment_bytes(graph, s);
        segment->stream = -1;
        if (segment->bytes == 0)
            continue;
        if (weights->segment[s].buffer) {
            segment->buffer = weights->segment[s].buffer;
            segment->offset = weights->segment[s].offset;
        } else if (cabe_segment_streams(graph, s)) {
            segment->source = weights->segment[s].offset;
            segment->stream = program->n_streamed++;
        }
    }
}

/* Handle and tables, in that order of need; what is there is freed by close. */
static enum cabe_status new_program(struct cabe_program **out, struct cabe_device *device,
                                    const struct cabe_graph *graph, const char *place, struct cabe_error *err)
{
    struct cabe_program *program = cabe_calloc(1, sizeof *program);
    size_t n_values = (size_t)cabe_graph_n_values(graph), n_nodes = (size_t)cabe_graph_n_nodes(graph);

    *out = program;
    if (!program)
        return cabe_fail(err, CABE_ERR_OOM, "%s: no memory for the handle of a program", place);
    program->device = device;
    atomic_fetch_add_explicit(&device->n_programs, 1, memory_order_relaxed);
    snprintf(program->place, sizeof program->place, "%s", place);
    program->event.program = program;
    program->n_values = (int32_t)n_values;
    program->n_nodes = (int32_t)n_nodes;
    program->n_segments = cabe_graph_n_segments(graph);
    program->values = cabe_calloc(n_values, sizeof *program->values);
    program->nodes = cabe_calloc(n_nodes, sizeof *program->nodes);
    program->checks = cabe_calloc(CABE_CHECKS_A_NODE * n_nodes, sizeof *program->checks);
    program->bound = cabe_calloc(n_values, sizeof *program->bound);
    program->offsets = cabe_calloc(n_values, sizeof *program->offsets);
    program->uploaded = cabe_calloc(n_values, sizeof *program->uploaded);
    program->segments = cabe_calloc((size_t)program->n_segments, sizeof *program->segments);
    if (!program->values || !program->nodes || !program->checks || !program->offsets || !program->bound ||
        !program->uploaded || !program->segments)
        return cabe_fail(err, CABE_ERR_OOM, "%s: no memory for the tables of a program of %zu nodes", place,
                         n_nodes);
    return CABE_OK;
}

/* Staging is the host's, whatever the device. */
static enum cabe_status alloc_staging(struct cabe_program *program, struct cabe_error *err)
{
    uint64_t bytes = cabe_pages_round(program->placing.staging_bytes);
    enum cabe_status status;

    status = cabe_ledger_reserve(program->device->config.ledger, CABE_HOST, CABE_PURPOSE_STAGING, bytes,
                                 program->place, err);
    if (status != CABE_OK)
        return status;
    program->staged_bytes = bytes;
    if (program->placing.chunk_bytes == 0)
        return CABE_OK;
    return cabe_pages_map(&program->chunk, program->placing.chunk_bytes, 0, err);
}

/* The block, the window and staging, as measured. */
static enum cabe_status alloc_memory(struct cabe_program *program, struct cabe_error *err)
{
    const struct cabe_placing *placing = &program->placing;
    enum cabe_status status;

    if (placing->block_bytes > INT64_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT,
                         "%s: the working memory for %lld tokens and %lld sequences has no size",
                         program->place, (long long)program->bounds[CABE_SYM_TOKENS],
                         (long long)program->bounds[CABE_SYM_SEQUENCES]);
    status = cabe_buffer_alloc_resident(&program->block, program->device, placing->block_bytes,
                                        CABE_PURPOSE_ACTIVATIONS, program->place, err);
    if (status != CABE_OK || placing->window_bytes == 0)
        return status;
    status = cabe_buffer_alloc_resident(&program->window, program->device, placing->window_bytes,
                                        CABE_PURPOSE_STAGING, program->place, err);
    if (status != CABE_OK)
        return status;
    for (int32_t s = 0; s < program->n_segments; s++)
        if (program->segments[s].stream >= 0) {
            program->segments[s].buffer = program->window;
            program->segments[s].offset = program->segments[s].stream % 2 ? placing->slot_bytes[0] : 0;
        }
    return alloc_staging(program, err);
}

static enum cabe_status place_program(struct cabe_program *program, const struct cabe_graph *graph,
                                      struct cabe_error *err)
{
    const struct cabe_device *device = program->device;
    uint8_t *streamed = cabe_calloc((size_t)program->n_segments, 1);

    if (!streamed)
        return cabe_fail(err, CABE_ERR_OOM, "%s: no memory for its segments", program->place);
    for (int32_t s = 0; s < program->n_segments; s++)
        streamed[s] = program->segments[s].stream >= 0;
    cabe_program_place(graph, program->bounds, streamed, device->backend->is_host, device->config.kernels,
                       cabe_team_size(device->config.team), program->offsets, &program->placing);
    cabe_free(streamed);
    return CABE_OK;
}

enum cabe_status cabe_program_compile(struct cabe_program **out, struct cabe_device *device,
                                      const struct cabe_graph *graph, const int64_t bounds[CABE_N_SYMBOLS],
                                      const struct cabe_weights *weights, const char *place,
                                      struct cabe_error *err)
{
    struct cabe_program *program = NULL;
    int64_t taken[CABE_N_SYMBOLS];
    enum cabe_status status;

    *out = NULL;
    if ((status = take_bounds(graph, bounds, place, taken, err)) != CABE_OK ||
        (status = check_weights(device, graph, weights, place, err)) != CABE_OK ||
        (status = check_nodes(device, graph, place, err)) != CABE_OK)
        return status;
    status = new_program(&program, device, graph, place, err);
    if (status != CABE_OK)
        goto fail;
    memcpy(program->bounds, taken, sizeof taken);
    copy_graph(program, graph);
    copy_segments(program, graph, weights);
    if ((status = place_program(program, graph, err)) != CABE_OK ||
        (status = alloc_memory(program, err)) != CABE_OK ||
        (status = device->backend->compile(program, err)) != CABE_OK)
        goto fail;
    if (program->n_streamed &&
        (status = cabe_stream_open(&program->stream, program, weights, err)) != CABE_OK)
        goto fail;
    *out = program;
    return CABE_OK;

fail:
    cabe_program_close(program);
    return status;
}

void cabe_program_close(struct cabe_program *program)
{
    if (!program)
        return;
    if (program->event.pending && cabe_event_wait(&program->event, NULL) != CABE_OK)
        program->has_results = 0; /* nobody is left to be told */
    cabe_stream_close(program->stream);
    if (program->exec)
        program->device->backend->release(program);
    cabe_buffer_free(program->window);
    cabe_buffer_free(program->block);
    cabe_pages_unmap(program->chunk, program->placing.chunk_bytes);
    if (program->staged_bytes)
        cabe_ledger_release(program->device->config.ledger, CABE_HOST, CABE_PURPOSE_STAGING,
                            program->staged_bytes, program->place);
    atomic_fetch_sub_explicit(&program->device->n_programs, 1, memory_order_relaxed);
    cabe_free(program->values);
    cabe_free(program->nodes);
    cabe_free(program->checks);
    cabe_free(program->offsets);
    cabe_free(program->bound);
    cabe_free(program->uploaded);
    cabe_free(program->segments);
    cabe_free(program);
}

static enum cabe_status check_value(const struct cabe_program *program, cabe_value value,
                                    enum cabe_value_kind kind, struct cabe_error *err)
{
    if (value >= 0 && value < program->n_values && program->values[value].kind == kind)
        return CABE_OK;
    return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: value %d is not one of its %s", program->place, (int)value,
                     kind == CABE_INPUT ? "inputs" : kind == CABE_STATE ? "states" : "outputs");
}

enum cabe_status cabe_program_upload(struct cabe_program *program, cabe_value input, const void *data,
                                     uint64_t bytes, struct cabe_error *err)
{
    enum cabe_status status = check_value(program, input, CABE_INPUT, err);
    uint64_t most;

    if (status != CABE_OK)
        return status;
    most = cabe_value_bytes(&program->values[input], program->bounds);
    if (bytes > most)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: input %s has %llu bytes, room for %llu", program->place,
                         program->values[input].name, (unsigned long long)bytes, (unsigned long long)most);
    status = cabe_buffer_upload(program->block, program->offsets[input], data, bytes, err);
    program->uploaded[input] = status == CABE_OK ? bytes : NOT_UPLOADED;
    return status;
}

enum cabe_status cabe_program_download(struct cabe_program *program, cabe_value output, void *data,
                                       uint64_t bytes, struct cabe_error *err)
{
    enum cabe_status status = check_value(program, output, CABE_OUTPUT, err);
    uint64_t has;

    if (status != CABE_OK)
        return status;
    if (!program->has_results)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: output %s: no run has ended well", program->place,
                         program->values[output].name);
    has = cabe_value_bytes(&program->values[output], program->symbols);
    if (bytes != has)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: output %s has %llu bytes, %llu are wanted",
                         program->place, program->values[output].name, (unsigned long long)has,
                         (unsigned long long)bytes);
    return cabe_buffer_download(program->block, program->offsets[output], data, bytes, err);
}

/* Copies the symbols of a run; those that the graph does not use are 0. */
static enum cabe_status take_symbols(const struct cabe_program *program, const int64_t symbols[CABE_N_SYMBOLS],
                                     int64_t run[CABE_N_SYMBOLS], struct cabe_error *err)
{
    run[CABE_SYM_ONE] = 1;
    for (int s = CABE_SYM_ONE + 1; s < CABE_N_SYMBOLS; s++) {
        int64_t least = s == CABE_SYM_OUTPUTS ? 0 : 1;

        run[s] = program->bounds[s] ? symbols[s] : 0;
        if (program->bounds[s] && (run[s] < least || run[s] > program->bounds[s]))
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %lld %s, compiled for %lld to %lld", program->place,
                             (long long)run[s], cabe_symbol_name((enum cabe_symbol)s), (long long)least,
                             (long long)program->bounds[s]);
    }
    return CABE_OK;
}

enum cabe_status cabe_program_bind(struct cabe_program *program, cabe_value state, struct cabe_buffer *buffer,
                                   struct cabe_error *err)
{
    enum cabe_status status = check_value(program, state, CABE_STATE, err);

    if (status != CABE_OK)
        return status;
    if (program->event.pending)
        return cabe_fail(err, CABE_ERR_BUSY, "%s: its last run has not been waited for", program->place);
    if (buffer && (buffer->device != program->device || buffer->held_bytes == 0))
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %s wants a buffer of %s's own", program->place,
                         program->values[state].name, cabe_device_name(program->device));
    program->bound[state] = buffer;
    return CABE_OK;
}

static enum cabe_status check_bound(const struct cabe_program *program, struct cabe_error *err)
{
    for (int32_t v = 0; v < program->n_values; v++)
        if (program->values[v].kind == CABE_STATE && !program->bound[v])
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %s has no memory bound to it", program->place,
                             program->values[v].name);
    return CABE_OK;
}

static enum cabe_status check_sizes(const struct cabe_program *program, const int64_t symbols[CABE_N_SYMBOLS],
                                    struct cabe_error *err)
{
    for (int32_t v = 0; v < program->n_values; v++) {
        const struct cabe_value_info *info = &program->values[v];
        uint64_t wanted;

        if (info->kind != CABE_INPUT)
            continue;
        wanted = cabe_value_bytes(info, symbols);
        if (program->uploaded[v] == NOT_UPLOADED)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: input %s was not given", program->place,
                             info->name);
        if (program->uploaded[v] != wanted)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: input %s has %llu bytes, this run wants %llu",
                             program->place, info->name, (unsigned long long)program->uploaded[v],
                             (unsigned long long)wanted);
    }
    return CABE_OK;
}

enum cabe_status cabe_program_submit(struct cabe_program *program, const int64_t symbols[CABE_N_SYMBOLS],
                                     const struct cabe_cancel *cancel, struct cabe_event **event,
                                     struct cabe_error *err)
{
    int64_t run[CABE_N_SYMBOLS];
    enum cabe_status status;

    *event = NULL;
    if (program->event.pending)
        return cabe_fail(err, CABE_ERR_BUSY, "%s: its last run has not been waited for", program->place);
    if ((status = take_symbols(program, symbols, run, err)) != CABE_OK ||
        (status = check_sizes(program, run, err)) != CABE_OK ||
        (status = check_bound(program, err)) != CABE_OK)
        return status;
    memcpy(program->symbols, run, sizeof run);
    program->has_results = 0;
    status = program->device->backend->submit(program, cancel, err);
    if (status != CABE_OK)
        return status;
    program->event.pending = 1;
    *event = &program->event;
    return CABE_OK;
}

enum cabe_status cabe_event_wait(struct cabe_event *event, struct cabe_error *err)
{
    struct cabe_program *program = event->program;
    enum cabe_status status;

    if (!event->pending)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: nothing to wait for", program->place);
    event->pending = 0;
    status = program->device->backend->wait(program, err);
    if (status != CABE_OK)
        return status;
    program->has_results = 1;
    atomic_fetch_add_explicit(&program->device->n_runs, 1, memory_order_relaxed);
    return CABE_OK;
}

enum cabe_status cabe_program_find_nan(struct cabe_program *program, const int64_t symbols[CABE_N_SYMBOLS],
                                       struct cabe_error *err)
{
    struct cabe_event *event;
    enum cabe_status status;

    if (program->event.pending)
        return cabe_fail(err, CABE_ERR_BUSY, "%s: its last run has not been waited for", program->place);
    program->looks_for_nan = 1;
    status = cabe_program_submit(program, symbols, NULL, &event, err);
    if (status == CABE_OK)
        status = cabe_event_wait(event, err);
    program->looks_for_nan = 0;
    return status;
}

void cabe_program_times(const struct cabe_program *program, struct cabe_program_times *times)
{
    *times = program->times;
}
