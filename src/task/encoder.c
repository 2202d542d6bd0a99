#include "task/encoder.h"

#include <assert.h>
#include <string.h>

#include "base/arena.h"
#include "base/memory.h"
#include "fit/fitted.h"
#include "text/sentences.h"
#include "text/tokenizer.h"

#define BATCH_TOKENS_PREFERRED 1024
#define BATCH_TOKENS_MIN 64
#define PLACE_MAX 48
#define UPLOAD_PIECE_BYTES (UINT64_C(4) << 20)

struct batch { /* what is collected for one run; one block */
    int32_t *ids, *positions, *offsets;
    float *weights;
    size_t *row; /* of the output, by sequence */
    float *out;  /* [sequences][width] */
    char *joined; /* prefix and text */
    int64_t n_tokens, n_sequences;
    int64_t max_tokens, max_sequences;
};

struct candidate { /* what is known of the fitted copy under one dtype */
    int looked, found;
};

struct cabe_encoder {
    struct cabe_session *session;
    char *path;
    char place[PLACE_MAX];
    struct cabe_encoder_wishes wishes;
    struct cabe_source *source;  /* open while headers or weights are needed */
    struct cabe_model *model;    /* from the source, or ... */
    struct cabe_fitted *first;   /* ... from this copy, which then owns it */
    uint64_t caches_bytes;       /* of a copy: exact when one was seen, else a bound */
    struct candidate candidate[CABE_N_DTYPES];

    /* loaded */
    struct cabe_fitted *fitted;
    struct cabe_model_choice choice;
    struct cabe_graph *graph;
    struct cabe_segment_weights *segments;
    struct cabe_buffer *memory;   /* the adopted map, or weights on the device */
    struct cabe_program *program;
    struct cabe_tokenizer *tokenizer;
    struct cabe_encoding encoding;
    struct batch batch;
    void *batch_block;
    uint64_t batch_bytes;
    cabe_value ids, positions, offsets, weights, embeddings;
    const int32_t *token_row;
    const float *token_weight;
};

/* ---- candidates ---- */

static struct cabe_fitted_config fitted_config(const struct cabe_encoder *e, const struct cabe_model_choice *choice)
{
    const struct cabe_session *s = e->session;
    struct cabe_fitted_config config = {.path = e->path,
                                        .choice = *choice,
                                        .cache_dir = s->cache_dir[0] ? s->cache_dir : NULL,
                                        .cache_limit_bytes = s->cache_limit_bytes,
                                        .ledger = s->ledger,
                                        .log = s->log,
                                        .cancel = s->cancel,
                                        .progress = &s->progress};

    return config;
}

/* R2.6: the machine's memory chooses, for weights that a person did not fix. */
static enum cabe_dtype dtype_by_memory(const struct cabe_session *s)
{
    uint64_t gib = s->budget_bytes[s->n_devices - 1] >> 30;

    return gib < 8 ? CABE_I8 : gib < 12 ? CABE_F16 : CABE_F32;
}

static enum cabe_dtype preferred_dtype(const struct cabe_encoder *e)
{
    if (e->model && cabe_model_is_quantised(e->model))
        return cabe_model_main_dtype(e->model);
    return e->wishes.dtype >= 0 ? (enum cabe_dtype)e->wishes.dtype : dtype_by_memory(e->session);
}

/* What is left unquantised in a quantised file stays as it is. */
static struct cabe_model_choice choice_of(const struct cabe_encoder *e, const struct cabe_knobs *knobs)
{
    struct cabe_model_choice choice = {(enum cabe_dtype)knobs->value[CABE_KNOB_DTYPE],
                                       (enum cabe_precision)knobs->value[CABE_KNOB_PRECISION]};

    if (cabe_model_is_quantised(e->model))
        choice.dtype = CABE_F32;
    return choice;
}

static enum cabe_status open_source(struct cabe_encoder *e, struct cabe_error *err)
{
    enum cabe_status status;

    if (e->source)
        return CABE_OK;
    status = cabe_source_open(&e->source, e->path, err);
    if (status != CABE_OK || e->model)
        return status;
    return cabe_model_describe(&e->model, e->source, err);
}

/* Tokenizer, host tables and header of a copy that was not made yet. */
static uint64_t caches_bound(const struct cabe_encoder *e)
{
    uint64_t bytes = cabe_tokenizer_bound(e->source) + CABE_TEXT_BYTES_MAX;

    for (int32_t i = 0; i < cabe_model_n_weights(e->model); i++) {
        const struct cabe_model_weight *weight = cabe_model_weight(e->model, i);

        if (weight->role == CABE_ROLE_HOST)
            bytes += cabe_pages_round(cabe_dtype_bytes(weight->to, weight->cols));
    }
    return cabe_pages_round(bytes);
}

enum cabe_status cabe_encoder_find(struct cabe_encoder **out, struct cabe_session *session, const char *path,
                                   const struct cabe_encoder_wishes *wishes, struct cabe_error *err)
{
    /* The copies that may be there: of an unquantised model under the preferred dtype, or of a quantised one. */
    struct cabe_model_choice choices[2] = {{CABE_F32, CABE_PRECISION_HIGH}, {CABE_F32, CABE_PRECISION_HIGH}};
    struct cabe_encoder *e = cabe_calloc(1, sizeof *e);
    enum cabe_status status = CABE_ERR_NOT_FOUND;
    const char *base = strrchr(path, '/');
    uint64_t weights;

    *out = NULL;
    if (!e || !(e->path = cabe_strdup(path))) {
        cabe_encoder_close(e);
        return cabe_fail(err, CABE_ERR_OOM, "%s: encoder", path);
    }
    e->session = session;
    e->wishes = *wishes;
    strncpy(e->place, base && base[1] ? base + 1 : path, sizeof e->place - 1);
    choices[0].dtype = preferred_dtype(e);
    for (int i = 0; i < 2 && status == CABE_ERR_NOT_FOUND; i++) {
        struct cabe_fitted_config config = fitted_config(e, &choices[i]);

        status = cabe_fitted_find(&e->first, &config, err);
        /* A copy in f32 of a model that is not quantised says nothing about the dtype wanted, but knows the model. */
    }
    if (status == CABE_OK) {
        e->model = (struct cabe_model *)(uintptr_t)cabe_fitted_model(e->first);
        cabe_fitted_bytes(e->first, CABE_KEEP_NONE, &weights, &e->caches_bytes);
    } else if (status == CABE_ERR_NOT_FOUND) {
        status = open_source(e, err);
        if (status == CABE_OK)
            e->caches_bytes = caches_bound(e);
    }
    if (status != CABE_OK) {
        cabe_encoder_close(e);
        return status;
    }
    *out = e;
    return CABE_OK;
}

void cabe_encoder_close(struct cabe_encoder *e)
{
    if (!e)
        return;
    cabe_encoder_unload(e);
    if (!e->first)
        cabe_model_close(e->model);
    cabe_fitted_close(e->first);
    cabe_source_close(e->source);
    cabe_free(e->path);
    cabe_free(e);
}

const struct cabe_model_config *cabe_encoder_config(const struct cabe_encoder *e)
{
    return cabe_model_config(e->model);
}

const struct cabe_model *cabe_encoder_model(const struct cabe_encoder *e)
{
    return e->model;
}

/* ---- plan ---- */

static int has_copy(struct cabe_encoder *e, const struct cabe_model_choice *choice)
{
    struct candidate *candidate = &e->candidate[choice->dtype];
    struct cabe_fitted_config config = fitted_config(e, choice);
    struct cabe_fitted *fitted;

    if (!candidate->looked) {
        candidate->looked = 1;
        candidate->found = cabe_fitted_find(&fitted, &config, NULL) == CABE_OK;
        if (candidate->found)
            cabe_fitted_close(fitted);
    }
    return candidate->found;
}

/* A sequence has two special tokens at least, or is a static embedding's; empty texts never reach the device. */
static void bounds_of(const struct cabe_encoder *e, const struct cabe_knobs *knobs, int64_t bounds[CABE_N_SYMBOLS])
{
    bounds[CABE_SYM_ONE] = 1;
    bounds[CABE_SYM_TOKENS] = knobs->value[CABE_KNOB_BATCH];
    bounds[CABE_SYM_SEQUENCES] = knobs->value[CABE_KNOB_BATCH] / (cabe_encoder_config(e)->add_special ? 2 : 1);
    if (bounds[CABE_SYM_SEQUENCES] < 1)
        bounds[CABE_SYM_SEQUENCES] = 1;
}

/* Measures the batch, or places it. */
static void place_batch(struct batch *b, struct cabe_arena *arena, const int64_t bounds[CABE_N_SYMBOLS], int64_t width)
{
    uint64_t tokens = (uint64_t)bounds[CABE_SYM_TOKENS], sequences = (uint64_t)bounds[CABE_SYM_SEQUENCES];

    b->max_tokens = bounds[CABE_SYM_TOKENS];
    b->max_sequences = bounds[CABE_SYM_SEQUENCES];
    b->ids = cabe_arena_take(arena, tokens, sizeof *b->ids, 64);
    b->positions = cabe_arena_take(arena, tokens, sizeof *b->positions, 64);
    b->weights = cabe_arena_take(arena, tokens, sizeof *b->weights, 64);
    b->offsets = cabe_arena_take(arena, sequences + 1, sizeof *b->offsets, 64);
    b->row = cabe_arena_take(arena, sequences, sizeof *b->row, 64);
    b->out = cabe_arena_take(arena, sequences * (uint64_t)width, sizeof *b->out, 64);
    b->joined = cabe_arena_take(arena, CABE_TEXT_BYTES_MAX + CABE_PREFIX_MAX, 1, 64);
}

/* Layers are; what comes before them holds the tables that rows are gathered from, and stays. */
static int is_streamed(int32_t segment, int stream)
{
    return stream && segment > 0;
}

static enum cabe_status measure(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *resident,
                                struct cabe_fit_bytes *loading, struct cabe_error *err)
{
    struct cabe_encoder *e = self;
    const struct cabe_session *s = e->session;
    struct cabe_model_choice choice = choice_of(e, knobs);
    int on_host = s->device_kind == CABE_DEVICE_CPU, device = on_host ? CABE_HOST : 1;
    uint64_t *host = resident->bytes[CABE_HOST], *there = resident->bytes[device];
    int64_t bounds[CABE_N_SYMBOLS];
    struct cabe_program_bytes program;
    struct cabe_arena arena = {0};
    struct batch batch;
    struct cabe_graph *graph;
    uint64_t transfer = 0, later;
    uint8_t *streamed;
    enum cabe_status status = cabe_model_graph(&graph, e->model, &choice, 0, err);

    if (status != CABE_OK)
        return status;
    streamed = cabe_malloc((size_t)cabe_graph_n_segments(graph));
    if (!streamed) {
        cabe_graph_close(graph);
        return cabe_fail(err, CABE_ERR_OOM, "plan of %s", e->path);
    }
    for (int32_t i = 0; i < cabe_graph_n_segments(graph); i++)
        streamed[i] = (uint8_t)is_streamed(i, (int)knobs->value[CABE_KNOB_STREAM]);
    bounds_of(e, knobs, bounds);
    cabe_program_measure(graph, bounds, streamed, on_host, s->kernels, s->n_threads, &program);
    place_batch(&batch, &arena, bounds, cabe_encoder_config(e)->width);
    host[CABE_PURPOSE_CACHES] += e->caches_bytes;
    host[CABE_PURPOSE_ACTIVATIONS] += cabe_pages_round(arena.used_bytes);
    host[CABE_PURPOSE_STAGING] += program.staging;
    there[CABE_PURPOSE_ACTIVATIONS] += program.activations;
    there[CABE_PURPOSE_STAGING] += program.window;
    for (int32_t i = 0; i < cabe_graph_n_segments(graph); i++)
        there[CABE_PURPOSE_WEIGHTS] += streamed[i] ? 0 : cabe_graph_segment_bytes(graph, i);
    /* Copy and upload are over before the working set is there: what they hold beyond it is held besides. */
    if (!has_copy(e, &choice))
        transfer = cabe_fitted_making_bytes(e->model, &choice);
    if (!on_host && transfer < UPLOAD_PIECE_BYTES)
        transfer = UPLOAD_PIECE_BYTES;
    later = cabe_pages_round(arena.used_bytes) + program.staging + (on_host ? program.activations + program.window : 0);
    if (transfer > later)
        loading->bytes[CABE_HOST][CABE_PURPOSE_STAGING] += transfer - later;
    cabe_free(streamed);
    cabe_graph_close(graph);
    return CABE_OK;
}

static void add_step(struct cabe_fit_task *task, enum cabe_knob knob, int64_t value, const char *why)
{
    assert(task->n_steps < CABE_FIT_STEPS_MAX);
    task->step[task->n_steps++] = (struct cabe_fit_step){knob, value, why};
}

static int is_float(enum cabe_dtype dtype)
{
    return dtype == CABE_F32 || dtype == CABE_F16 || dtype == CABE_BF16;
}

int cabe_encoder_plan(struct cabe_encoder *e, struct cabe_fit_task *task)
{
    static const enum cabe_dtype smaller[] = {CABE_F16, CABE_I8, CABE_Q4_0};
    const struct cabe_model_config *config = cabe_encoder_config(e);
    int64_t least = config->max_tokens > BATCH_TOKENS_MIN ? config->max_tokens : BATCH_TOKENS_MIN;
    int64_t batch = e->wishes.batch_tokens > 0 ? e->wishes.batch_tokens : BATCH_TOKENS_PREFERRED;
    enum cabe_dtype dtype = preferred_dtype(e);
    int index = task->n_components++;

    if (batch < least)
        batch = least;
    task->component[index] = (struct cabe_fit_component){"model", e, measure};
    task->preferred.value[CABE_KNOB_BATCH] = batch;
    task->preferred.value[CABE_KNOB_DTYPE] = dtype;
    task->preferred.value[CABE_KNOB_PRECISION] =
        e->wishes.precision >= 0 ? e->wishes.precision : is_float(dtype) ? CABE_PRECISION_HIGH : CABE_PRECISION_INT8;
    for (int64_t n = batch / 2; n > least; n /= 2)
        add_step(task, CABE_KNOB_BATCH, n, "less parallel work per run");
    add_step(task, CABE_KNOB_BATCH, least, "the longest text still fits");
    if (e->wishes.dtype >= 0 || cabe_model_is_quantised(e->model))
        task->pinned |= 1u << CABE_KNOB_DTYPE;
    if (!cabe_model_is_quantised(e->model)) {
        if (e->wishes.precision < 0)
            add_step(task, CABE_KNOB_PRECISION, CABE_PRECISION_INT8, "int8 products where weights become int8 or less");
        for (size_t i = 0; i < sizeof smaller / sizeof smaller[0]; i++)
            if (smaller[i] > dtype || dtype == CABE_F32)
                add_step(task, CABE_KNOB_DTYPE, smaller[i], "smaller weights, a little less exact");
    }
    add_step(task, CABE_KNOB_STREAM, 1, "layers are read before each use: slower");
    return index;
}

enum cabe_status cabe_encoder_work(struct cabe_encoder *e, const struct cabe_knobs *knobs, double n_tokens,
                                   double n_texts, struct cabe_graph_work *work, struct cabe_error *err)
{
    struct cabe_model_choice choice = choice_of(e, knobs);
    int64_t symbols[CABE_N_SYMBOLS];
    double runs = n_tokens / (double)knobs->value[CABE_KNOB_BATCH];
    struct cabe_graph_work one;
    struct cabe_graph *graph;
    enum cabe_status status = cabe_model_graph(&graph, e->model, &choice, 0, err);

    if (status != CABE_OK)
        return status;
    bounds_of(e, knobs, symbols);
    if (n_texts > 0 && n_tokens / n_texts > 1)
        symbols[CABE_SYM_SEQUENCES] = (int64_t)((double)symbols[CABE_SYM_TOKENS] / (n_tokens / n_texts)) + 1;
    cabe_graph_work(graph, symbols, &one);
    for (int dtype = 0; dtype < CABE_N_DTYPES; dtype++)
        for (int p = 0; p < 2; p++)
            work->matmul_ops[dtype][p] += one.matmul_ops[dtype][p] * runs;
    work->other_ops += one.other_ops * runs;
    work->weight_bytes += one.weight_bytes * runs;
    cabe_graph_close(graph);
    return CABE_OK;
}

/* ---- loading ---- */

static enum cabe_status open_copy(struct cabe_encoder *e, struct cabe_error *err)
{
    struct cabe_fitted_config config = fitted_config(e, &e->choice);
    enum cabe_status status = cabe_fitted_find(&e->fitted, &config, err);
    struct cabe_model *described = NULL;

    if (status != CABE_ERR_NOT_FOUND)
        return status;
    status = open_source(e, err);
    if (status == CABE_OK)
        status = cabe_model_describe(&described, e->source, err);
    if (status == CABE_OK)
        status = cabe_fitted_make(&e->fitted, &config, e->source, described, err);
    cabe_model_close(described);
    /* Headers and documents of the source were needed for the conversion alone. */
    if (status == CABE_OK && (e->first || cabe_fitted_path(e->fitted)[0] != '(')) {
        if (!e->first) {
            cabe_model_close(e->model);
            e->model = NULL;
            status = cabe_fitted_find(&e->first, &config, err);
            if (status != CABE_OK)
                return status;
            e->model = (struct cabe_model *)(uintptr_t)cabe_fitted_model(e->first);
        }
        cabe_source_close(e->source);
        e->source = NULL;
        cabe_memory_trim();
    }
    return status;
}

/* Weights to a device that has memory of its own, a piece at a time. */
static enum cabe_status upload_weights(struct cabe_encoder *e, uint64_t bytes, uint64_t first, struct cabe_error *err)
{
    struct cabe_session *s = e->session;
    void *piece;
    enum cabe_status status = cabe_ledger_reserve(s->ledger, CABE_HOST, CABE_PURPOSE_STAGING, UPLOAD_PIECE_BYTES,
                                                  e->place, err);

    if (status != CABE_OK)
        return status;
    status = cabe_pages_map(&piece, UPLOAD_PIECE_BYTES, 0, err);
    if (status == CABE_OK)
        status = cabe_buffer_alloc(&e->memory, s->device, bytes, CABE_PURPOSE_WEIGHTS, e->place, err);
    for (uint64_t at = 0; at < bytes && status == CABE_OK; at += UPLOAD_PIECE_BYTES) {
        uint64_t n = bytes - at < UPLOAD_PIECE_BYTES ? bytes - at : UPLOAD_PIECE_BYTES;

        status = cabe_fitted_read(e->fitted, first + at, piece, n, err);
        if (status == CABE_OK)
            status = cabe_buffer_upload(e->memory, at, piece, n, err);
    }
    cabe_pages_unmap(piece, UPLOAD_PIECE_BYTES);
    cabe_ledger_release(s->ledger, CABE_HOST, CABE_PURPOSE_STAGING, UPLOAD_PIECE_BYTES, e->place);
    return status;
}

static enum cabe_status bind_weights(struct cabe_encoder *e, int stream, struct cabe_error *err)
{
    int32_t n = cabe_graph_n_segments(e->graph);
    int on_host = e->session->device_kind == CABE_DEVICE_CPU;
    uint64_t first, last, bytes;
    enum cabe_status status;
    const void *map;

    if (n != cabe_fitted_n_segments(e->fitted))
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: %d segments, wanted %d", cabe_fitted_path(e->fitted),
                         cabe_fitted_n_segments(e->fitted), n);
    status = cabe_fitted_load(e->fitted, e->session->ledger,
                              !on_host ? CABE_KEEP_NONE
                              : stream ? CABE_KEEP_FIRST
                                       : CABE_KEEP_ALL,
                              e->place, err);
    if (status != CABE_OK)
        return status;
    e->segments = cabe_calloc((size_t)n, sizeof *e->segments);
    if (!e->segments)
        return cabe_fail(err, CABE_ERR_OOM, "%s: segments", e->path);
    first = cabe_fitted_segment_offset(e->fitted, 0);
    last = cabe_fitted_segment_offset(e->fitted, stream ? 0 : n - 1) +
           cabe_graph_segment_bytes(e->graph, stream ? 0 : n - 1);
    if (on_host) {
        map = cabe_fitted_memory(e->fitted, &bytes);
        status = cabe_buffer_adopt(&e->memory, e->session->device, map, bytes, err);
    } else {
        status = upload_weights(e, last - first, first, err);
    }
    for (int32_t i = 0; i < n; i++) {
        int streamed = is_streamed(i, stream);

        e->segments[i].buffer = streamed ? NULL : e->memory;
        e->segments[i].offset = cabe_fitted_segment_offset(e->fitted, i) - (!streamed && !on_host ? first : 0);
    }
    return status;
}

static enum cabe_status open_batch(struct cabe_encoder *e, const int64_t bounds[CABE_N_SYMBOLS], struct cabe_error *err)
{
    struct cabe_arena arena = {0};
    enum cabe_status status;

    place_batch(&e->batch, &arena, bounds, cabe_encoder_config(e)->width);
    e->batch_bytes = cabe_pages_round(arena.used_bytes);
    status = cabe_ledger_reserve(e->session->ledger, CABE_HOST, CABE_PURPOSE_ACTIVATIONS, e->batch_bytes, e->place, err);
    if (status != CABE_OK) {
        e->batch_bytes = 0;
        return status;
    }
    status = cabe_pages_map(&e->batch_block, e->batch_bytes, 0, err);
    if (status != CABE_OK)
        return status;
    arena = (struct cabe_arena){e->batch_block, 0, e->batch_bytes};
    place_batch(&e->batch, &arena, bounds, cabe_encoder_config(e)->width);
    return CABE_OK;
}

static enum cabe_status load(struct cabe_encoder *e, const struct cabe_knobs *knobs, struct cabe_error *err)
{
    struct cabe_weights weights = {.read = cabe_fitted_read};
    int64_t bounds[CABE_N_SYMBOLS];
    const void *block;
    size_t block_bytes = 0;
    enum cabe_status status;

    e->choice = choice_of(e, knobs);
    bounds_of(e, knobs, bounds);
    status = open_copy(e, err);
    if (status == CABE_OK)
        status = cabe_model_graph(&e->graph, e->model, &e->choice, 0, err);
    if (status == CABE_OK)
        status = bind_weights(e, (int)knobs->value[CABE_KNOB_STREAM], err);
    if (status != CABE_OK)
        return status;
    block = cabe_fitted_tokenizer(e->fitted, &block_bytes);
    status = cabe_tokenizer_open(&e->tokenizer, block, block_bytes, cabe_fitted_path(e->fitted), err);
    if (status != CABE_OK)
        return status;
    weights.segment = e->segments;
    weights.self = e->fitted;
    status = cabe_program_compile(&e->program, e->session->device, e->graph, bounds, &weights, e->place, err);
    if (status != CABE_OK)
        return status;
    e->ids = cabe_graph_find(e->graph, CABE_MODEL_IDS);
    e->positions = cabe_graph_find(e->graph, CABE_MODEL_POSITIONS);
    e->offsets = cabe_graph_find(e->graph, CABE_MODEL_OFFSETS);
    e->weights = cabe_graph_find(e->graph, CABE_MODEL_ROW_WEIGHT);
    e->embeddings = cabe_graph_find(e->graph, CABE_MODEL_EMBEDDINGS);
    e->token_row = cabe_fitted_host(e->fitted, "token.row");
    e->token_weight = cabe_fitted_host(e->fitted, "token.weight");
    return open_batch(e, bounds, err);
}

enum cabe_status cabe_encoder_load(struct cabe_encoder *e, const struct cabe_knobs *knobs, struct cabe_error *err)
{
    enum cabe_status status;

    if (e->program)
        return CABE_OK;
    status = load(e, knobs, err);
    if (status != CABE_OK)
        cabe_encoder_unload(e);
    return status;
}

enum cabe_status cabe_encoder_fit(struct cabe_encoder *e, const struct cabe_knobs *knobs,
                                  struct cabe_model_choice *choice, const char **copy, struct cabe_error *err)
{
    enum cabe_status status;

    cabe_encoder_unload(e);
    e->choice = choice_of(e, knobs);
    status = open_copy(e, err);
    *choice = e->choice;
    *copy = e->fitted ? cabe_fitted_path(e->fitted) : "";
    return status;
}

void cabe_encoder_unload(struct cabe_encoder *e)
{
    cabe_program_close(e->program);
    cabe_encoding_clear(&e->encoding);
    cabe_tokenizer_close(e->tokenizer);
    cabe_buffer_free(e->memory);
    cabe_free(e->segments);
    cabe_graph_close(e->graph);
    cabe_fitted_close(e->fitted);
    cabe_pages_unmap(e->batch_block, e->batch_bytes);
    if (e->batch_bytes)
        cabe_ledger_release(e->session->ledger, CABE_HOST, CABE_PURPOSE_ACTIVATIONS, e->batch_bytes, e->place);
    e->program = NULL;
    e->tokenizer = NULL;
    e->memory = NULL;
    e->segments = NULL;
    e->graph = NULL;
    e->fitted = NULL;
    e->batch_block = NULL;
    e->batch_bytes = 0;
    cabe_memory_trim();
}

/* ---- encoding ---- */

static enum cabe_status upload(struct cabe_encoder *e, cabe_value value, const void *data, int64_t n,
                               struct cabe_error *err)
{
    return value == CABE_NO_VALUE ? CABE_OK : cabe_program_upload(e->program, value, data, (uint64_t)n * 4, err);
}

/* Runs what was collected and puts the rows where they belong. */
static enum cabe_status flush(struct cabe_encoder *e, float *out, struct cabe_error *err)
{
    struct batch *b = &e->batch;
    int64_t symbols[CABE_N_SYMBOLS] = {1, b->n_tokens, b->n_sequences};
    size_t width = (size_t)cabe_encoder_config(e)->width;
    struct cabe_event *event;
    enum cabe_status status;

    if (b->n_sequences == 0)
        return CABE_OK;
    b->offsets[b->n_sequences] = (int32_t)b->n_tokens;
    status = upload(e, e->ids, b->ids, b->n_tokens, err);
    if (status == CABE_OK)
        status = upload(e, e->positions, b->positions, b->n_tokens, err);
    if (status == CABE_OK)
        status = upload(e, e->weights, b->weights, b->n_tokens, err);
    if (status == CABE_OK)
        status = upload(e, e->offsets, b->offsets, b->n_sequences + 1, err);
    if (status == CABE_OK)
        status = cabe_program_submit(e->program, symbols, e->session->cancel, &event, err);
    if (status == CABE_OK)
        status = cabe_event_wait(event, err);
    if (status == CABE_OK)
        status = cabe_program_download(e->program, e->embeddings, b->out,
                                       (uint64_t)b->n_sequences * width * sizeof(float), err);
    if (status == CABE_OK) /* no result leaves before the copy is known to be whole, and still there */
        status = cabe_fitted_check(e->fitted, err);
    for (int64_t i = 0; i < b->n_sequences && status == CABE_OK; i++)
        memcpy(out + b->row[i] * width, b->out + (size_t)i * width, width * sizeof(float));
    b->n_tokens = 0;
    b->n_sequences = 0;
    return status;
}

static size_t cut_at_character(const char *bytes, size_t n, size_t limit)
{
    if (n <= limit)
        return n;
    while (limit > 0 && ((unsigned char)bytes[limit] & 0xC0) == 0x80)
        limit--;
    return limit;
}

/* Prefix and text in one piece; the text itself where there is no prefix. */
static const char *join(struct cabe_encoder *e, const struct cabe_text *text, enum cabe_prefix prefix, size_t *n_bytes)
{
    const struct cabe_model_config *config = cabe_encoder_config(e);
    const char *head = prefix == CABE_PREFIX_QUERY     ? config->prefix_query
                       : prefix == CABE_PREFIX_PASSAGE ? config->prefix_passage
                                                       : "";
    size_t n = strlen(head), body = cut_at_character(text->bytes, text->n_bytes, CABE_TEXT_BYTES_MAX);

    *n_bytes = n + body;
    if (n == 0)
        return text->bytes;
    memcpy(e->batch.joined, head, n);
    memcpy(e->batch.joined + n, text->bytes, body);
    return e->batch.joined;
}

/* Adds the tokens of the encoding as one sequence; the batch has room. */
static void append(struct cabe_encoder *e, size_t row)
{
    const struct cabe_model_config *config = cabe_encoder_config(e);
    struct batch *b = &e->batch;
    int64_t begin = b->n_tokens;

    for (size_t i = 0; i < e->encoding.n; i++) {
        int32_t id = e->encoding.ids[i];

        if (config->drop_unknown && id == config->unknown_id)
            continue;
        b->weights[b->n_tokens] = e->token_weight ? e->token_weight[id] : 1.0f;
        b->positions[b->n_tokens] = (int32_t)(b->n_tokens - begin);
        b->ids[b->n_tokens++] = e->token_row ? e->token_row[id] : id;
    }
    if (b->n_tokens == begin)
        return; /* nothing known in it: its row stays zero */
    b->offsets[b->n_sequences] = (int32_t)begin;
    b->row[b->n_sequences++] = row;
}

enum cabe_status cabe_encoder_encode(struct cabe_encoder *e, const struct cabe_text *texts, size_t n,
                                     enum cabe_prefix prefix, float *out, uint64_t *n_tokens, struct cabe_error *err)
{
    const struct cabe_model_config *config = cabe_encoder_config(e);
    struct cabe_encode_options options = {config->add_special, (size_t)config->max_tokens, 1};
    struct batch *b = &e->batch;
    enum cabe_status status = CABE_OK;

    memset(out, 0, n * (size_t)config->width * sizeof *out);
    b->n_tokens = 0;
    b->n_sequences = 0;
    for (size_t i = 0; i < n && status == CABE_OK; i++) {
        size_t n_bytes;
        const char *bytes = join(e, &texts[i], prefix, &n_bytes);

        if (cabe_cancelled(e->session->cancel))
            return cabe_fail(err, CABE_ERR_CANCELLED, "embedding was stopped after %zu of %zu texts", i, n);
        status = cabe_tokenizer_encode(e->tokenizer, bytes, n_bytes, &options, &e->encoding, err);
        if (status != CABE_OK)
            return cabe_fail_in(err, status, "text %zu", i + 1);
        for (size_t t = 0; t < e->encoding.n; t++)
            if (e->encoding.ids[t] < 0 || e->encoding.ids[t] >= config->n_vocab)
                return cabe_fail(err, CABE_ERR_FORMAT, "%s: the tokenizer gives id %d, the model has %lld tokens",
                                 e->path, e->encoding.ids[t], (long long)config->n_vocab);
        if (n_tokens)
            *n_tokens += e->encoding.n;
        if (b->n_tokens + (int64_t)e->encoding.n > b->max_tokens || b->n_sequences == b->max_sequences)
            status = flush(e, out, err);
        if (status == CABE_OK)
            append(e, i);
    }
    return status == CABE_OK ? flush(e, out, err) : status;
}
