#include "task/encoder.h"

#include <math.h>
#include <string.h>

#include "base/arena.h"
#include "base/memory.h"
#include "task/net.h"

#define BATCH_TOKENS_PREFERRED 1024
#define BATCH_TOKENS_MIN 64

struct batch { /* what is collected for one run; one block */
    int32_t *ids, *positions, *offsets;
    float *weights;
    size_t *row; /* of the output, by sequence */
    float *out;  /* [sequences][width] */
    char *joined; /* prefix and text */
    int64_t n_tokens, n_sequences;
    int64_t max_tokens, max_sequences;
};

struct cabe_encoder {
    struct cabe_net net;
    struct cabe_encoder_wishes wishes;

    /* loaded */
    struct cabe_encoding encoding;
    struct batch batch;
    void *batch_block;
    uint64_t batch_bytes;
    cabe_value ids, positions, offsets, weights, embeddings;
    const int32_t *token_row;
    const float *token_weight;
};

enum cabe_status cabe_encoder_find(struct cabe_encoder **out, struct cabe_session *session, const char *path,
                                   const struct cabe_encoder_wishes *wishes, struct cabe_error *err)
{
    struct cabe_encoder *e = cabe_calloc(1, sizeof *e);
    enum cabe_status status;

    *out = NULL;
    if (!e)
        return cabe_fail(err, CABE_ERR_OOM, "%s: encoder", path);
    e->wishes = *wishes;
    status = cabe_net_open(&e->net, session, path, wishes->dtype, err);
    if (status == CABE_OK && cabe_model_config(e->net.model)->kind == CABE_MODEL_DECODER)
        status = cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: a model that writes text, wanted one that embeds it", path);
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
    cabe_net_close(&e->net);
    cabe_free(e);
}

const struct cabe_model_config *cabe_encoder_config(const struct cabe_encoder *e)
{
    return cabe_model_config(e->net.model);
}

const struct cabe_model *cabe_encoder_model(const struct cabe_encoder *e)
{
    return e->net.model;
}

/* ---- plan ---- */

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

static enum cabe_status measure(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *resident,
                                struct cabe_fit_bytes *loading, struct cabe_error *err)
{
    struct cabe_encoder *e = self;
    int64_t bounds[CABE_N_SYMBOLS];
    struct cabe_arena arena = {0};
    struct batch batch;

    bounds_of(e, knobs, bounds);
    place_batch(&batch, &arena, bounds, cabe_encoder_config(e)->width);
    return cabe_net_measure(&e->net, knobs, bounds, cabe_pages_round(arena.used_bytes), 0, resident, loading, err);
}

int cabe_encoder_plan(struct cabe_encoder *e, struct cabe_fit_task *task)
{
    const struct cabe_model_config *config = cabe_encoder_config(e);
    int64_t least = config->max_tokens > BATCH_TOKENS_MIN ? config->max_tokens : BATCH_TOKENS_MIN;
    int64_t batch = e->wishes.batch_tokens > 0 ? e->wishes.batch_tokens : BATCH_TOKENS_PREFERRED;
    int index = task->n_components++;

    if (batch < least)
        batch = least;
    task->component[index] = (struct cabe_fit_component){"model", e, measure};
    task->preferred.value[CABE_KNOB_BATCH] = batch;
    for (int64_t n = batch / 2; n > least; n /= 2)
        cabe_net_step(task, CABE_KNOB_BATCH, n, "less parallel work per run");
    cabe_net_step(task, CABE_KNOB_BATCH, least, "the longest text still fits");
    cabe_net_plan(&e->net, e->wishes.precision, task);
    return index;
}

enum cabe_status cabe_encoder_work(struct cabe_encoder *e, const struct cabe_knobs *knobs, double n_tokens,
                                   double n_texts, struct cabe_graph_work *work, struct cabe_error *err)
{
    struct cabe_model_choice choice = cabe_net_choice(&e->net, knobs);
    int64_t symbols[CABE_N_SYMBOLS];
    double runs = n_tokens / (double)knobs->value[CABE_KNOB_BATCH];
    struct cabe_graph_work one;
    struct cabe_graph *graph;
    enum cabe_status status = cabe_model_graph(&graph, e->net.model, &choice, 0, err);

    if (status != CABE_OK)
        return status;
    bounds_of(e, knobs, symbols);
    if (n_texts > 0 && n_tokens / n_texts > 1)
        symbols[CABE_SYM_SEQUENCES] = (int64_t)((double)symbols[CABE_SYM_TOKENS] / (n_tokens / n_texts)) + 1;
    cabe_graph_work(graph, symbols, &one);
    cabe_net_stream_work(&e->net, graph, knobs, &one);
    for (int dtype = 0; dtype < CABE_N_DTYPES; dtype++)
        for (int p = 0; p < 2; p++) {
            work->matmul_ops[dtype][p] += one.matmul_ops[dtype][p] * runs;
            work->matmul_bytes[dtype][p] += one.matmul_bytes[dtype][p] * runs;
            work->matmul_values[dtype][p] += one.matmul_values[dtype][p] * runs;
            work->matmul_outputs[dtype][p] += one.matmul_outputs[dtype][p] * runs;
        }
    work->other_ops += one.other_ops * runs;
    work->weight_bytes += one.weight_bytes * runs;
    work->n_nodes += one.n_nodes * runs;
    work->stream_bytes += one.stream_bytes * runs;
    work->n_streamed += one.n_streamed * runs;
    work->stream_direct = one.stream_direct;
    cabe_graph_close(graph);
    return CABE_OK;
}

/* ---- loading ---- */

static enum cabe_status open_batch(struct cabe_encoder *e, const int64_t bounds[CABE_N_SYMBOLS], struct cabe_error *err)
{
    struct cabe_arena arena = {0};
    enum cabe_status status;

    place_batch(&e->batch, &arena, bounds, cabe_encoder_config(e)->width);
    e->batch_bytes = cabe_pages_round(arena.used_bytes);
    status = cabe_ledger_reserve(e->net.session->ledger, CABE_HOST, CABE_PURPOSE_ACTIVATIONS, e->batch_bytes, e->net.place, err);
    if (status != CABE_OK) {
        e->batch_bytes = 0;
        return status;
    }
    status = cabe_pages_map(&e->batch_block, e->batch_bytes, 0, err);
    if (status != CABE_OK)
        return status;
    cabe_ledger_add_pages(e->net.session->ledger, CABE_HOST, CABE_PURPOSE_ACTIVATIONS, e->batch_block, e->batch_bytes);
    arena = (struct cabe_arena){e->batch_block, 0, e->batch_bytes};
    place_batch(&e->batch, &arena, bounds, cabe_encoder_config(e)->width);
    return CABE_OK;
}

static enum cabe_status load(struct cabe_encoder *e, const struct cabe_knobs *knobs, struct cabe_error *err)
{
    int64_t bounds[CABE_N_SYMBOLS];
    enum cabe_status status;

    bounds_of(e, knobs, bounds);
    status = cabe_net_load(&e->net, knobs, bounds, err);
    if (status != CABE_OK)
        return status;
    e->ids = cabe_graph_find(e->net.graph, CABE_MODEL_IDS);
    e->positions = cabe_graph_find(e->net.graph, CABE_MODEL_POSITIONS);
    e->offsets = cabe_graph_find(e->net.graph, CABE_MODEL_OFFSETS);
    e->weights = cabe_graph_find(e->net.graph, CABE_MODEL_ROW_WEIGHT);
    e->embeddings = cabe_graph_find(e->net.graph, CABE_MODEL_EMBEDDINGS);
    e->token_row = cabe_fitted_host(e->net.fitted, "token.row");
    e->token_weight = cabe_fitted_host(e->net.fitted, "token.weight");
    return open_batch(e, bounds, err);
}

enum cabe_status cabe_encoder_load(struct cabe_encoder *e, const struct cabe_knobs *knobs, struct cabe_error *err)
{
    enum cabe_status status;

    if (e->net.program)
        return CABE_OK;
    status = load(e, knobs, err);
    if (status != CABE_OK)
        cabe_encoder_unload(e);
    return status;
}

void cabe_encoder_unload(struct cabe_encoder *e)
{
    cabe_encoding_clear(&e->encoding);
    if (e->batch_block)
        cabe_ledger_remove_pages(e->net.session->ledger, e->batch_block);
    cabe_pages_unmap(e->batch_block, e->batch_bytes);
    if (e->batch_bytes)
        cabe_ledger_release(e->net.session->ledger, CABE_HOST, CABE_PURPOSE_ACTIVATIONS, e->batch_bytes, e->net.place);
    e->batch_block = NULL;
    e->batch_bytes = 0;
    cabe_net_unload(&e->net);
}

const struct cabe_tokenizer *cabe_encoder_tokenizer(const struct cabe_encoder *e)
{
    return e->net.tokenizer;
}

/* ---- encoding ---- */

static enum cabe_status upload(struct cabe_encoder *e, cabe_value value, const void *data, int64_t n,
                               struct cabe_error *err)
{
    return value == CABE_NO_VALUE ? CABE_OK : cabe_program_upload(e->net.program, value, data, (uint64_t)n * 4, err);
}

/* Which layer made what is no number: the run is repeated, looked at after every node. */
static enum cabe_status check_numbers(struct cabe_encoder *e, const int64_t symbols[CABE_N_SYMBOLS],
                                      struct cabe_error *err)
{
    int64_t n = symbols[CABE_SYM_SEQUENCES] * cabe_encoder_config(e)->width;
    struct cabe_error found;
    int are_finite = 1;

    for (int64_t i = 0; i < n; i++)
        are_finite &= isfinite(e->batch.out[i]) != 0;
    if (are_finite)
        return CABE_OK;
    if (cabe_program_find_nan(e->net.program, symbols, &found) == CABE_OK)
        return cabe_fail(err, CABE_ERR_INTERNAL, "an embedding is not finite");
    return cabe_fail(err, CABE_ERR_INTERNAL, "%s", found.text);
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
        status = cabe_program_submit(e->net.program, symbols, e->net.session->cancel, &event, err);
    if (status == CABE_OK)
        status = cabe_event_wait(event, err);
    if (status == CABE_OK)
        status = cabe_program_download(e->net.program, e->embeddings, b->out,
                                       (uint64_t)b->n_sequences * width * sizeof(float), err);
    if (status == CABE_OK) /* no result leaves before the copy is known to be whole, and still there */
        status = cabe_fitted_check(e->net.fitted, err);
    if (status == CABE_OK)
        status = check_numbers(e, symbols, err);
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

static enum cabe_status encode(struct cabe_encoder *e, const struct cabe_text *texts, size_t n, enum cabe_prefix prefix,
                               float *out, uint64_t *n_tokens, int32_t *counts, struct cabe_error *err)
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

        if (cabe_cancelled(e->net.session->cancel))
            return cabe_fail(err, CABE_ERR_CANCELLED, "embedding was stopped after %zu of %zu texts", i, n);
        status = cabe_tokenizer_encode(e->net.tokenizer, bytes, n_bytes, &options, &e->encoding, err);
        if (status != CABE_OK)
            return cabe_fail_in(err, status, "text %zu", i + 1);
        for (size_t t = 0; t < e->encoding.n; t++)
            if (e->encoding.ids[t] < 0 || e->encoding.ids[t] >= config->n_vocab)
                return cabe_fail(err, CABE_ERR_FORMAT, "%s: the tokenizer gives id %d, the model has %lld tokens",
                                 e->net.path, e->encoding.ids[t], (long long)config->n_vocab);
        if (n_tokens)
            *n_tokens += e->encoding.n;
        if (counts)
            counts[i] = (int32_t)e->encoding.n;
        if (b->n_tokens + (int64_t)e->encoding.n > b->max_tokens || b->n_sequences == b->max_sequences)
            status = flush(e, out, err);
        if (status == CABE_OK)
            append(e, i);
    }
    return status == CABE_OK ? flush(e, out, err) : status;
}

enum cabe_status cabe_encoder_encode(struct cabe_encoder *e, const struct cabe_text *texts, size_t n,
                                     enum cabe_prefix prefix, float *out, uint64_t *n_tokens, struct cabe_error *err)
{
    return encode(e, texts, n, prefix, out, n_tokens, NULL, err);
}

enum cabe_status cabe_encoder_encode_counted(struct cabe_encoder *e, const struct cabe_text *texts, size_t n,
                                             enum cabe_prefix prefix, float *out, int32_t *counts,
                                             struct cabe_error *err)
{
    return encode(e, texts, n, prefix, out, NULL, counts, err);
}
