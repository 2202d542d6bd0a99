#include "task/net.h"

#include <assert.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "fit/key.h"

#define UPLOAD_PIECE_BYTES (UINT64_C(4) << 20)
#define TOKENIZER_SLACK_BYTES (UINT64_C(64) << 10) /* the header of a copy */

/* ---- candidates ---- */

int cabe_net_reads_direct(const struct cabe_net *net)
{
    const struct cabe_session *s = net->session;
    struct stat info;
    uint64_t file = stat(net->path, &info) == 0 && S_ISREG(info.st_mode) ? (uint64_t)info.st_size : 0;

    return s->machine.memory.available_bytes < s->budget_bytes[CABE_HOST] ||
           s->machine.memory.available_bytes - s->budget_bytes[CABE_HOST] < 2 * file;
}

static struct cabe_fitted_config fitted_config(const struct cabe_net *net, const struct cabe_model_choice *choice)
{
    const struct cabe_session *s = net->session;
    struct cabe_fitted_config config = {.path = net->path,
                                        .choice = *choice,
                                        .cache_dir = s->cache_dir[0] ? s->cache_dir : NULL,
                                        .cache_limit_bytes = s->cache_limit_bytes,
                                        .ledger = s->ledger,
                                        .log = s->log,
                                        .cancel = s->cancel,
                                        .progress = &s->progress,
                                        .identity = net->identity,
                                        .direct = cabe_net_reads_direct(net)};

    return config;
}

static enum cabe_dtype dtype_by_memory(const struct cabe_session *s)
{
    uint64_t gib = s->budget_bytes[s->n_devices - 1] >> 30;

    return gib < 8 ? CABE_I8 : gib < 12 ? CABE_F16 : CABE_F32;
}

enum cabe_dtype cabe_net_preferred_dtype(const struct cabe_net *net)
{
    enum cabe_dtype by_memory = dtype_by_memory(net->session), of_file;

    if (net->dtype >= 0 && !(net->model && cabe_model_is_quantised(net->model)))
        return (enum cabe_dtype)net->dtype;
    of_file = net->model ? cabe_model_main_dtype(net->model) : by_memory;
    if (net->model && cabe_model_is_quantised(net->model))
        return of_file;
    /* A decoder reads all its weights for every token: what the file has in 16 bits is not made twice as large. */
    if (by_memory == CABE_F32 && (of_file == CABE_F16 || of_file == CABE_BF16) &&
        cabe_model_config(net->model)->kind == CABE_MODEL_DECODER)
        return of_file;
    return by_memory;
}

struct cabe_model_choice cabe_net_choice(const struct cabe_net *net, const struct cabe_knobs *knobs)
{
    struct cabe_model_choice choice = {(enum cabe_dtype)knobs->value[CABE_KNOB_DTYPE],
                                       (enum cabe_precision)knobs->value[CABE_KNOB_PRECISION]};

    if (cabe_model_is_quantised(net->model))
        choice.dtype = CABE_F32;
    return choice;
}

static enum cabe_status open_source(struct cabe_net *net, struct cabe_error *err)
{
    enum cabe_status status;

    if (net->source)
        return CABE_OK;
    status = cabe_source_open(&net->source, net->path, err);
    if (status != CABE_OK || net->model)
        return status;
    return cabe_model_describe(&net->model, net->source, err);
}

/* Tokenizer, host tables and header of a copy that was not made yet. */
static uint64_t caches_bound(const struct cabe_net *net)
{
    uint64_t bytes = cabe_tokenizer_bound(net->source) + TOKENIZER_SLACK_BYTES;

    for (int32_t i = 0; i < cabe_model_n_weights(net->model); i++) {
        const struct cabe_model_weight *weight = cabe_model_weight(net->model, i);

        if (weight->role == CABE_ROLE_HOST)
            bytes += cabe_pages_round(cabe_dtype_bytes(weight->to, weight->cols));
    }
    return cabe_pages_round(bytes);
}

enum cabe_status cabe_net_open(struct cabe_net *net, struct cabe_session *session, const char *path, int dtype,
                               struct cabe_error *err)
{
    /* The copies that may be there: of an unquantised model under the preferred dtype, or of a quantised one. */
    struct cabe_model_choice choices[2] = {{CABE_F32, CABE_PRECISION_HIGH}, {CABE_F32, CABE_PRECISION_HIGH}};
    enum cabe_status status = CABE_ERR_NOT_FOUND;
    const char *base = strrchr(path, '/');
    struct cabe_fit_key key;
    uint64_t weights;

    *net = (struct cabe_net){.session = session, .path = cabe_strdup(path), .dtype = dtype};
    if (!net->path)
        return cabe_fail(err, CABE_ERR_OOM, "%s: its path", path);
    strncpy(net->place, base && base[1] ? base + 1 : path, sizeof net->place - 1);
    if (cabe_fit_key_read(&key, path, NULL) == CABE_OK)
        net->identity = key.identity;
    choices[0].dtype = cabe_net_preferred_dtype(net);
    for (int i = 0; i < 2 && status == CABE_ERR_NOT_FOUND; i++) {
        struct cabe_fitted_config config = fitted_config(net, &choices[i]);

        status = cabe_fitted_find(&net->first, &config, err);
        /* A copy in f32 of a model that is not quantised says nothing about the dtype wanted, but knows the model. */
    }
    if (status == CABE_OK) {
        net->model = (struct cabe_model *)(uintptr_t)cabe_fitted_model(net->first);
        cabe_fitted_bytes(net->first, CABE_KEEP_NONE, &weights, &net->caches_bytes);
    } else if (status == CABE_ERR_NOT_FOUND) {
        status = open_source(net, err);
        if (status == CABE_OK)
            net->caches_bytes = caches_bound(net);
    }
    return status;
}

void cabe_net_close(struct cabe_net *net)
{
    cabe_net_unload(net);
    if (!net->first)
        cabe_model_close(net->model);
    cabe_fitted_close(net->first);
    cabe_source_close(net->source);
    cabe_free(net->path);
    *net = (struct cabe_net){0};
}

int cabe_net_device(const struct cabe_net *net)
{
    return net->session->device_kind == CABE_DEVICE_CPU ? CABE_HOST : 1;
}

/* ---- plan ---- */

static int has_copy(struct cabe_net *net, const struct cabe_model_choice *choice)
{
    struct cabe_fitted_config config = fitted_config(net, choice);
    struct cabe_fitted *fitted;

    if (!net->copy[choice->dtype].looked) {
        net->copy[choice->dtype].looked = 1;
        net->copy[choice->dtype].found = cabe_fitted_find(&fitted, &config, NULL) == CABE_OK;
        if (net->copy[choice->dtype].found)
            cabe_fitted_close(fitted);
    }
    return net->copy[choice->dtype].found;
}

enum cabe_status cabe_net_measure(struct cabe_net *net, const struct cabe_knobs *knobs,
                                  const int64_t bounds[CABE_N_SYMBOLS], uint64_t working, uint64_t after,
                                  struct cabe_fit_bytes *resident, struct cabe_fit_bytes *loading,
                                  struct cabe_error *err)
{
    const struct cabe_session *s = net->session;
    struct cabe_model_choice choice = cabe_net_choice(net, knobs);
    int on_host = s->device_kind == CABE_DEVICE_CPU;
    uint64_t *host = resident->bytes[CABE_HOST], *there = resident->bytes[cabe_net_device(net)];
    struct cabe_program_bytes program;
    struct cabe_graph *graph;
    uint64_t transfer = 0, later;
    uint8_t *streamed;
    enum cabe_status status = cabe_model_graph(&graph, net->model, &choice, 0, err);

    if (status != CABE_OK)
        return status;
    streamed = cabe_malloc((size_t)cabe_graph_n_segments(graph));
    if (!streamed) {
        cabe_graph_close(graph);
        return cabe_fail(err, CABE_ERR_OOM, "plan of %s", net->path);
    }
    for (int32_t i = 0; i < cabe_graph_n_segments(graph); i++)
        streamed[i] = (uint8_t)cabe_fitted_streams(i, cabe_graph_n_segments(graph), knobs->value[CABE_KNOB_STREAM]);
    cabe_program_measure(graph, bounds, streamed, on_host, s->kernels, s->n_threads, &program);
    host[CABE_PURPOSE_CACHES] += net->caches_bytes;
    host[CABE_PURPOSE_ACTIVATIONS] += working;
    host[CABE_PURPOSE_STAGING] += program.staging;
    there[CABE_PURPOSE_ACTIVATIONS] += program.activations;
    there[CABE_PURPOSE_STAGING] += program.window;
    for (int32_t i = 0; i < cabe_graph_n_segments(graph); i++)
        there[CABE_PURPOSE_WEIGHTS] += streamed[i] ? 0 : cabe_graph_segment_bytes(graph, i);
    /* Copy and upload are over before the working set is there: what they hold beyond it is held besides. */
    if (!has_copy(net, &choice))
        transfer = cabe_fitted_making_bytes(net->model, &choice);
    if (!on_host && transfer < UPLOAD_PIECE_BYTES)
        transfer = UPLOAD_PIECE_BYTES;
    later = working + after + program.staging + (on_host ? program.activations + program.window : 0);
    if (transfer > later)
        loading->bytes[CABE_HOST][CABE_PURPOSE_STAGING] += transfer - later;
    cabe_free(streamed);
    cabe_graph_close(graph);
    return CABE_OK;
}

void cabe_net_stream_work(const struct cabe_net *net, const struct cabe_graph *graph, const struct cabe_knobs *knobs,
                          struct cabe_graph_work *work)
{
    int32_t n = cabe_graph_n_segments(graph);

    for (int32_t i = 0; i < n; i++)
        if (cabe_fitted_streams(i, n, knobs->value[CABE_KNOB_STREAM]) && cabe_graph_segment_bytes(graph, i) > 0) {
            work->stream_bytes += (double)cabe_graph_segment_bytes(graph, i);
            work->n_streamed++;
        }
    work->stream_direct = cabe_net_reads_direct(net);
}

void cabe_net_step(struct cabe_fit_task *task, enum cabe_knob knob, int64_t value, const char *why)
{
    assert(task->n_steps < CABE_FIT_STEPS_MAX);
    task->step[task->n_steps++] = (struct cabe_fit_step){knob, value, why};
}

static int is_float(enum cabe_dtype dtype)
{
    return dtype == CABE_F32 || dtype == CABE_F16 || dtype == CABE_BF16;
}

/* That may be streamed: all but the first. */
static int64_t n_segments(const struct cabe_net *net)
{
    struct cabe_model_choice choice = {cabe_net_preferred_dtype(net), CABE_PRECISION_HIGH};
    struct cabe_graph *graph;
    int64_t n = 0;

    if (cabe_model_is_quantised(net->model))
        choice.dtype = CABE_F32;
    if (cabe_model_graph(&graph, net->model, &choice, 0, NULL) != CABE_OK)
        return 0;
    n = cabe_graph_n_segments(graph) - 1;
    cabe_graph_close(graph);
    return n;
}

void cabe_net_plan(const struct cabe_net *net, int precision, struct cabe_fit_task *task)
{
    static const enum cabe_dtype smaller[] = {CABE_F16, CABE_I8, CABE_Q4_0};
    enum cabe_dtype dtype = cabe_net_preferred_dtype(net);

    task->preferred.value[CABE_KNOB_DTYPE] = dtype;
    task->preferred.value[CABE_KNOB_PRECISION] =
        precision >= 0 ? precision : is_float(dtype) ? CABE_PRECISION_HIGH : CABE_PRECISION_INT8;
    if (net->dtype >= 0 || cabe_model_is_quantised(net->model))
        task->pinned |= 1u << CABE_KNOB_DTYPE;
    if (!cabe_model_is_quantised(net->model)) {
        if (precision < 0)
            cabe_net_step(task, CABE_KNOB_PRECISION, CABE_PRECISION_INT8,
                          "int8 products where weights become int8 or less");
        for (size_t i = 0; i < sizeof smaller / sizeof smaller[0]; i++)
            if (smaller[i] > dtype || dtype == CABE_F32)
                cabe_net_step(task, CABE_KNOB_DTYPE, smaller[i], "smaller weights, a little less exact");
    }
    task->n_segments = n_segments(net);
    if (task->n_segments < 1)
        return;
    /* A run reads what is streamed once, however many tokens it has. */
    task->searched |= 1u << CABE_KNOB_STREAM;
    task->dear |= 1u << CABE_KNOB_BATCH;
    cabe_net_step(task, CABE_KNOB_STREAM, task->n_segments, "layers are read before each use: slower");
}

/* ---- loading ---- */

static enum cabe_status open_copy(struct cabe_net *net, struct cabe_error *err)
{
    struct cabe_fitted_config config = fitted_config(net, &net->choice);
    enum cabe_status status = cabe_fitted_find(&net->fitted, &config, err);
    struct cabe_model *described = NULL;

    if (status != CABE_ERR_NOT_FOUND)
        return status;
    status = open_source(net, err);
    if (status == CABE_OK)
        status = cabe_model_describe(&described, net->source, err);
    if (status == CABE_OK)
        status = cabe_fitted_make(&net->fitted, &config, net->source, described, err);
    cabe_model_close(described);
    /* Headers and documents of the source were needed for the conversion alone. */
    if (status == CABE_OK && (net->first || cabe_fitted_path(net->fitted)[0] != '(')) {
        if (!net->first) {
            cabe_model_close(net->model);
            net->model = NULL;
            status = cabe_fitted_find(&net->first, &config, err);
            if (status != CABE_OK)
                return status;
            net->model = (struct cabe_model *)(uintptr_t)cabe_fitted_model(net->first);
        }
        cabe_source_close(net->source);
        net->source = NULL;
        cabe_memory_trim();
    }
    return status;
}

/* A segment's weights to a device that has memory of its own, a piece at a time. */
static enum cabe_status upload_segment(struct cabe_net *net, int32_t segment, void *piece, struct cabe_error *err)
{
    uint64_t from = cabe_fitted_segment_offset(net->fitted, segment), to = net->segments[segment].offset;
    uint64_t bytes = cabe_graph_segment_bytes(net->graph, segment);
    enum cabe_status status = CABE_OK;

    for (uint64_t at = 0; at < bytes && status == CABE_OK; at += UPLOAD_PIECE_BYTES) {
        uint64_t n = bytes - at < UPLOAD_PIECE_BYTES ? bytes - at : UPLOAD_PIECE_BYTES;

        status = cabe_fitted_read(net->fitted, from + at, piece, n, err);
        if (status == CABE_OK)
            status = cabe_buffer_upload(net->memory, to + at, piece, n, err);
    }
    return status;
}

/* All that stay, one behind the other. */
static enum cabe_status upload_weights(struct cabe_net *net, int64_t stream, struct cabe_error *err)
{
    struct cabe_session *s = net->session;
    int32_t n = cabe_graph_n_segments(net->graph);
    uint64_t bytes = 0;
    void *piece;
    enum cabe_status status = cabe_ledger_reserve(s->ledger, CABE_HOST, CABE_PURPOSE_STAGING, UPLOAD_PIECE_BYTES,
                                                  net->place, err);

    if (status != CABE_OK)
        return status;
    for (int32_t i = 0; i < n; i++)
        if (!cabe_fitted_streams(i, n, stream)) {
            net->segments[i].offset = bytes;
            bytes += cabe_graph_segment_bytes(net->graph, i);
        }
    status = cabe_pages_map(&piece, UPLOAD_PIECE_BYTES, 0, err);
    if (status == CABE_OK)
        status = cabe_buffer_alloc(&net->memory, s->device, bytes, CABE_PURPOSE_WEIGHTS, net->place, err);
    for (int32_t i = 0; i < n && status == CABE_OK; i++)
        if (!cabe_fitted_streams(i, n, stream))
            status = upload_segment(net, i, piece, err);
    cabe_pages_unmap(piece, UPLOAD_PIECE_BYTES);
    cabe_ledger_release(s->ledger, CABE_HOST, CABE_PURPOSE_STAGING, UPLOAD_PIECE_BYTES, net->place);
    return status;
}

static enum cabe_status bind_weights(struct cabe_net *net, int64_t stream, struct cabe_error *err)
{
    int32_t n = cabe_graph_n_segments(net->graph);
    int on_host = net->session->device_kind == CABE_DEVICE_CPU;
    enum cabe_status status;
    const void *map;
    uint64_t bytes;

    if (n != cabe_fitted_n_segments(net->fitted))
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: %d segments, wanted %d", cabe_fitted_path(net->fitted),
                         cabe_fitted_n_segments(net->fitted), n);
    status = cabe_fitted_load(net->fitted, net->session->ledger, on_host ? stream : CABE_KEEP_NONE, net->place, err);
    if (status != CABE_OK)
        return status;
    net->segments = cabe_calloc((size_t)n, sizeof *net->segments);
    if (!net->segments)
        return cabe_fail(err, CABE_ERR_OOM, "%s: segments", net->path);
    for (int32_t i = 0; i < n; i++)
        net->segments[i].offset = cabe_fitted_segment_offset(net->fitted, i);
    if (on_host) {
        map = cabe_fitted_memory(net->fitted, &bytes);
        status = cabe_buffer_adopt(&net->memory, net->session->device, map, bytes, err);
    } else {
        status = upload_weights(net, stream, err);
    }
    for (int32_t i = 0; i < n; i++)
        net->segments[i].buffer = cabe_fitted_streams(i, n, stream) ? NULL : net->memory;
    return status;
}

/* CABE_ERR_CHANGED: it is damaged, and the copy is removed. */
static enum cabe_status open_tokenizer(struct cabe_net *net, struct cabe_error *err)
{
    size_t n = 0;
    const void *block = cabe_fitted_tokenizer(net->fitted, &n);
    enum cabe_status status = cabe_tokenizer_open(&net->tokenizer, block, n, cabe_fitted_path(net->fitted), err);

    if (status != CABE_ERR_FORMAT)
        return status;
    cabe_fitted_discard(net->fitted);
    return cabe_fail_in(err, CABE_ERR_CHANGED, "the damaged copy was removed, start again");
}

/* Copy, weights and tokenizer. */
static enum cabe_status open_all(struct cabe_net *net, int64_t stream, int *is_damaged, struct cabe_error *err)
{
    enum cabe_status status = open_copy(net, err);

    *is_damaged = 0;
    if (status == CABE_OK)
        status = cabe_model_graph(&net->graph, net->model, &net->choice, 0, err);
    if (status == CABE_OK)
        status = bind_weights(net, stream, err);
    if (status != CABE_OK)
        return status;
    status = open_tokenizer(net, err);
    *is_damaged = status == CABE_ERR_CHANGED;
    return status;
}

enum cabe_status cabe_net_load(struct cabe_net *net, const struct cabe_knobs *knobs,
                               const int64_t bounds[CABE_N_SYMBOLS], struct cabe_error *err)
{
    struct cabe_weights weights = {.read = cabe_fitted_read};
    int64_t stream = knobs->value[CABE_KNOB_STREAM];
    int is_damaged;
    enum cabe_status status;

    net->choice = cabe_net_choice(net, knobs);
    status = open_all(net, stream, &is_damaged, err);
    if (is_damaged) { /* with a copy made anew */
        cabe_net_unload(net);
        status = open_all(net, stream, &is_damaged, err);
    }
    if (status != CABE_OK)
        return status;
    weights.segment = net->segments;
    weights.self = net->fitted;
    status = cabe_program_compile(&net->program, net->session->device, net->graph, bounds, &weights, net->place, err);
    return status == CABE_OK ? cabe_fitted_start(net->fitted, err) : status;
}

enum cabe_status cabe_net_fit(struct cabe_net *net, const struct cabe_knobs *knobs, struct cabe_error *err)
{
    cabe_net_unload(net);
    net->choice = cabe_net_choice(net, knobs);
    return open_copy(net, err);
}

void cabe_net_unload(struct cabe_net *net)
{
    cabe_program_close(net->program);
    cabe_tokenizer_close(net->tokenizer);
    cabe_buffer_free(net->memory);
    cabe_free(net->segments);
    cabe_graph_close(net->graph);
    cabe_fitted_close(net->fitted);
    net->program = NULL;
    net->tokenizer = NULL;
    net->memory = NULL;
    net->segments = NULL;
    net->graph = NULL;
    net->fitted = NULL;
    cabe_memory_trim();
}
