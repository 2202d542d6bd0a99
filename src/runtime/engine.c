#include "runtime/engine_impl.h"

#include <string.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/threads.h"
#include "model/model.h"

static int64_t seq_pages(const struct cabe_engine_config *config)
{
    return (config->n_ctx + CABE_PAGE_TOKENS - 1) / CABE_PAGE_TOKENS;
}

void cabe_engine_bounds(const struct cabe_engine_config *config, int64_t bounds[CABE_N_SYMBOLS])
{
    bounds[CABE_SYM_ONE] = 1;
    bounds[CABE_SYM_TOKENS] = config->step_tokens;
    bounds[CABE_SYM_SEQUENCES] = config->n_seqs;
    bounds[CABE_SYM_PAGES] = config->n_seqs * seq_pages(config);
    bounds[CABE_SYM_OUTPUTS] = config->n_seqs;
}

/* Measures, or places. */
static void place(struct cabe_engine *e, struct cabe_arena *arena)
{
    const struct cabe_engine_config *c = &e->config;
    uint64_t tokens = (uint64_t)c->step_tokens, seqs = (uint64_t)c->n_seqs, n_ctx = (uint64_t)c->n_ctx;

    e->n_slots = CABE_ENGINE_SLOTS(c->n_seqs);
    e->slots = cabe_arena_take(arena, (uint64_t)e->n_slots, sizeof *e->slots, 64);
    for (int32_t s = 0; s < e->n_slots; s++) {
        int32_t *room = cabe_arena_take(arena, n_ctx + 1, sizeof *room, 64);

        if (e->slots)
            e->slots[s].tokens = room;
    }
    e->step_ids = cabe_arena_take(arena, tokens, sizeof *e->step_ids, 64);
    e->step_positions = cabe_arena_take(arena, tokens, sizeof *e->step_positions, 64);
    e->step_offsets = cabe_arena_take(arena, seqs + 1, sizeof *e->step_offsets, 64);
    e->step_starts = cabe_arena_take(arena, seqs, sizeof *e->step_starts, 64);
    e->step_page_offsets = cabe_arena_take(arena, seqs + 1, sizeof *e->step_page_offsets, 64);
    e->step_rows = cabe_arena_take(arena, seqs, sizeof *e->step_rows, 64);
    e->step_pages = cabe_arena_take(arena, seqs * (uint64_t)seq_pages(c), sizeof *e->step_pages, 64);
    e->identities = cabe_arena_take(arena, n_ctx, sizeof *e->identities, 64);
    e->step_logits = cabe_arena_take(arena, seqs * (uint64_t)c->n_vocab, sizeof *e->step_logits, 64);
    e->sampler = cabe_sampler_place(arena, c->n_vocab);
}

uint64_t cabe_engine_measure(const struct cabe_engine_config *config)
{
    struct cabe_engine measured = {.config = *config};
    struct cabe_arena arena = {0};

    place(&measured, &arena);
    return cabe_pages_round(arena.used_bytes);
}

static enum cabe_status find_values(struct cabe_engine *e, struct cabe_error *err)
{
    static const char *const names[] = {CABE_MODEL_IDS,          CABE_MODEL_POSITIONS, CABE_MODEL_OFFSETS, CABE_MODEL_STARTS,
                                        CABE_MODEL_PAGE_OFFSETS, CABE_MODEL_PAGES,     CABE_MODEL_ROWS,    CABE_MODEL_LOGITS};
    cabe_value *values[] = {&e->ids,          &e->positions, &e->offsets, &e->starts,
                            &e->page_offsets, &e->pages,     &e->rows,    &e->logits};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        *values[i] = cabe_graph_find(e->config.graph, names[i]);
        if (*values[i] == CABE_NO_VALUE)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: the network has no \"%s\"", e->config.place, names[i]);
    }
    return CABE_OK;
}

enum cabe_status cabe_engine_open(struct cabe_engine **out, const struct cabe_engine_config *config,
                                  struct cabe_error *err)
{
    struct cabe_engine *e = cabe_calloc(1, sizeof *e);
    struct cabe_arena arena = {0};
    enum cabe_status status;

    *out = NULL;
    if (!e)
        return cabe_fail(err, CABE_ERR_OOM, "%s: engine", config->place);
    e->config = *config;
    status = find_values(e, err);
    if (status == CABE_OK)
        status = cabe_ledger_reserve(config->ledger, CABE_HOST, CABE_PURPOSE_ACTIVATIONS, cabe_engine_measure(config),
                                     config->place, err);
    if (status == CABE_OK) {
        e->block_bytes = cabe_engine_measure(config);
        status = cabe_pages_map(&e->block, e->block_bytes, 0, err);
    }
    if (status != CABE_OK) {
        cabe_engine_close(e);
        return status;
    }
    cabe_ledger_add_pages(config->ledger, CABE_HOST, CABE_PURPOSE_ACTIVATIONS, e->block, e->block_bytes);
    arena = (struct cabe_arena){e->block, 0, e->block_bytes};
    place(e, &arena);
    *out = e;
    return CABE_OK;
}

void cabe_engine_close(struct cabe_engine *e)
{
    if (!e)
        return;
    for (int32_t s = 0; e->slots && s < e->n_slots; s++)
        cabe_engine_remove(e, s);
    cabe_ledger_remove_pages(e->config.ledger, e->block);
    cabe_pages_unmap(e->block, e->block_bytes);
    if (e->block_bytes)
        cabe_ledger_release(e->config.ledger, CABE_HOST, CABE_PURPOSE_ACTIVATIONS, e->block_bytes, e->config.place);
    cabe_free(e);
}

const char *cabe_finish_name(enum cabe_finish finish)
{
    static const char *const names[] = {"running", "stop", "length", "context", "memory", "error"};

    return (unsigned)finish < sizeof names / sizeof names[0] ? names[finish] : "?";
}

/* ---- sequences ---- */

static enum cabe_status check_request(const struct cabe_engine *e, const struct cabe_request *r, struct cabe_error *err)
{
    if (r->n_prompt < 1)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "the prompt is empty");
    if (r->n_prompt >= e->config.n_ctx)
        return cabe_fail(err, CABE_ERR_LIMIT, "the prompt has %lld tokens, the context has room for %lld",
                         (long long)r->n_prompt, (long long)e->config.n_ctx - 1);
    for (int64_t i = 0; i < r->n_prompt; i++)
        if (r->prompt[i] < 0 || r->prompt[i] >= e->config.n_vocab)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "token %lld of the prompt is %d, the model has %d",
                             (long long)i, r->prompt[i], e->config.n_vocab);
    return CABE_OK;
}

enum cabe_status cabe_engine_add(struct cabe_engine *e, const struct cabe_request *request, int32_t *slot,
                                 struct cabe_error *err)
{
    enum cabe_status status = check_request(e, request, err);
    struct slot *s = NULL;

    if (status != CABE_OK)
        return status;
    if (!cabe_engine_has_room(e, request->class_))
        return cabe_fail(err, CABE_ERR_LIMIT, "%d sequences are running, as many as there is room for at class %s",
                         cabe_engine_n_running(e), cabe_class_name(request->class_));
    for (int32_t i = 0; i < e->n_slots && !s; i++)
        if (!e->slots[i].used) {
            s = &e->slots[i];
            *slot = i;
        }
    if (cabe_engine_n_running(e) > 0)
        e->met_ns = cabe_clock_ns();
    (void)cabe_engine_make_place(e, request->class_);
    memcpy(s->tokens, request->prompt, (size_t)request->n_prompt * sizeof *s->tokens);
    *s = (struct slot){.request = *request,
                       .tokens = s->tokens,
                       .n_tokens = request->n_prompt,
                       .n_prompt = request->n_prompt,
                       .order = ++e->n_joined,
                       .n_scored = request->scored != NULL,
                       .output = -1};
    s->request.prompt = NULL; /* the caller's */
    e->came_ns[request->class_] = cabe_clock_ns();
    status = cabe_engine_unpark(e, s, err);
    s->used = status == CABE_OK;
    s->n_cached = s->n_high;
    return status;
}

enum cabe_status cabe_engine_unpark(struct cabe_engine *e, struct slot *s, struct cabe_error *err)
{
    int64_t n = s->n_tokens < e->config.n_ctx ? s->n_tokens : e->config.n_ctx, n_matched = 0;
    enum cabe_status status = cabe_kv_seq_open(&s->seq, e->config.kv, err);

    if (status != CABE_OK)
        return status;
    cabe_kv_seq_begin(s->seq, s->request.class_, s->request.salt);
    for (int64_t i = 0; i < n; i++)
        e->identities[i] = (uint64_t)(uint32_t)s->tokens[i];
    if (!s->request.fresh && !s->request.scored)
        n_matched = cabe_kv_seq_match(s->seq, e->identities, n);
    s->n_high = n_matched > s->n_high ? n_matched : s->n_high;
    return CABE_OK;
}

void cabe_engine_finish(struct slot *s, enum cabe_finish finish)
{
    s->finish = finish;
    s->stays = 0;
    cabe_kv_seq_close(s->seq);
    s->seq = NULL;
}

void cabe_engine_remove(struct cabe_engine *e, int32_t slot)
{
    struct slot *s = &e->slots[slot];

    if (!s->used)
        return;
    cabe_kv_seq_close(s->seq);
    s->seq = NULL;
    s->used = 0;
}

int32_t cabe_engine_n_running(const struct cabe_engine *e)
{
    int32_t n = 0;

    for (int32_t i = 0; i < e->n_slots; i++)
        n += e->slots[i].used && e->slots[i].finish == CABE_FINISH_NOT;
    return n;
}

void cabe_engine_view(const struct cabe_engine *e, int32_t slot, struct cabe_engine_view *view)
{
    const struct slot *s = &e->slots[slot];
    int64_t done = s->used ? s->n_high + s->n_dropped : 0;

    *view = (struct cabe_engine_view){.finish = s->finish,
                                      .n_prompt = s->n_prompt,
                                      .n_cached = s->n_cached,
                                      .n_done = done < s->n_prompt ? done : s->n_prompt,
                                      .n_new = s->n_new,
                                      .parked = s->used && !s->seq && s->finish == CABE_FINISH_NOT,
                                      .n_parked = s->n_parked};
}

const float *cabe_engine_logits(const struct cabe_engine *e, int32_t slot)
{
    int32_t row = e->slots[slot].output;

    return row >= 0 ? e->step_logits + (int64_t)row * e->config.n_vocab : NULL;
}

void cabe_engine_stats(const struct cabe_engine *e, struct cabe_engine_stats *stats)
{
    *stats = e->stats;
    stats->prompt_s = cabe_chunk_prompt_s(&e->chunk);
    stats->answer_s = cabe_chunk_answer_s(&e->chunk, e->config.n_seqs);
}

/* ---- a step ---- */

/* Appends the slot's rows to the step. */
static void append(struct cabe_engine *e, struct slot *s)
{
    int64_t *n_tokens = &e->symbols[CABE_SYM_TOKENS], *n_seqs = &e->symbols[CABE_SYM_SEQUENCES];
    int64_t *n_pages = &e->symbols[CABE_SYM_PAGES], *n_outputs = &e->symbols[CABE_SYM_OUTPUTS];
    int64_t length = cabe_kv_seq_length(s->seq), dropped = cabe_kv_seq_dropped(s->seq);
    int32_t pages;
    const struct cabe_page *table = cabe_kv_seq_pages(s->seq, &pages);

    e->step_offsets[*n_seqs] = (int32_t)*n_tokens;
    e->step_starts[*n_seqs] = (int32_t)length;
    e->step_page_offsets[*n_seqs] = (int32_t)*n_pages;
    memcpy(e->step_pages + *n_pages, table, (size_t)pages * sizeof *table);
    for (int64_t i = 0; i < s->chunk; i++) {
        e->step_ids[*n_tokens + i] = s->tokens[length + i];
        e->step_positions[*n_tokens + i] = (int32_t)(length + dropped + i);
    }
    s->first_row = (int32_t)*n_outputs;
    for (int64_t i = 0; i < s->chunk; i++)
        if (cabe_engine_scores(s, length + i))
            e->step_rows[(*n_outputs)++] = (int32_t)(*n_tokens + i);
    s->n_rows = (int32_t)*n_outputs - s->first_row;
    *n_tokens += s->chunk;
    *n_pages += pages;
    (*n_seqs)++;
    if (length + s->chunk == s->n_tokens && (s->request.max_new >= 0 || s->n_tokens > s->n_prompt)) {
        s->output = (int32_t)*n_outputs;
        e->step_rows[(*n_outputs)++] = (int32_t)*n_tokens - 1;
    }
}

static void collect(struct cabe_engine *e)
{
    memset(e->symbols, 0, sizeof e->symbols);
    e->symbols[CABE_SYM_ONE] = 1;
    for (int32_t i = 0; i < e->n_slots; i++)
        if (e->slots[i].used && e->slots[i].chunk > 0)
            append(e, &e->slots[i]);
    e->step_offsets[e->symbols[CABE_SYM_SEQUENCES]] = (int32_t)e->symbols[CABE_SYM_TOKENS];
    e->step_page_offsets[e->symbols[CABE_SYM_SEQUENCES]] = (int32_t)e->symbols[CABE_SYM_PAGES];
}

static enum cabe_status upload(struct cabe_engine *e, struct cabe_error *err)
{
    const int64_t *n = e->symbols;
    const struct {
        cabe_value value;
        const void *data;
        int64_t words;
    } inputs[] = {
        {e->ids, e->step_ids, n[CABE_SYM_TOKENS]},
        {e->positions, e->step_positions, n[CABE_SYM_TOKENS]},
        {e->offsets, e->step_offsets, n[CABE_SYM_SEQUENCES] + 1},
        {e->starts, e->step_starts, n[CABE_SYM_SEQUENCES]},
        {e->page_offsets, e->step_page_offsets, n[CABE_SYM_SEQUENCES] + 1},
        {e->pages, e->step_pages, n[CABE_SYM_PAGES] * 2},
        {e->rows, e->step_rows, n[CABE_SYM_OUTPUTS]},
    };
    enum cabe_status status = CABE_OK;

    for (size_t i = 0; i < sizeof inputs / sizeof inputs[0] && status == CABE_OK; i++)
        status = cabe_program_upload(e->config.program, inputs[i].value, inputs[i].data, (uint64_t)inputs[i].words * 4,
                                     err);
    return status;
}

static enum cabe_status run(struct cabe_engine *e, const struct cabe_cancel *cancel, struct cabe_error *err)
{
    int64_t outputs = e->symbols[CABE_SYM_OUTPUTS];
    struct cabe_event *event;
    enum cabe_status status;

    status = upload(e, err);
    if (status == CABE_OK)
        status = cabe_program_submit(e->config.program, e->symbols, cancel, &event, err);
    if (status == CABE_OK)
        status = cabe_event_wait(event, err);
    if (status == CABE_OK && outputs > 0)
        status = cabe_program_download(e->config.program, e->logits, e->step_logits,
                                       (uint64_t)outputs * (uint64_t)e->config.n_vocab * sizeof(float), err);
    if (status == CABE_OK && outputs > 0 && e->config.check)
        status = e->config.check(e->config.check_self, err);
    return status;
}

/* What the step wrote is in the pages now. */
static void commit(struct cabe_engine *e, struct slot *s)
{
    int64_t length = cabe_kv_seq_length(s->seq), end = length + s->chunk;
    int64_t again = s->n_high < end ? s->n_high - length : s->chunk;

    for (int64_t i = 0; i < s->chunk; i++)
        e->identities[i] = (uint64_t)(uint32_t)s->tokens[length + i];
    cabe_kv_seq_commit(s->seq, e->identities, s->chunk);
    e->stats.again_tokens += (uint64_t)again;
    if (cabe_kv_seq_dropped(s->seq) == 0 && s->n_high < s->n_prompt)
        e->stats.prompt_tokens += (uint64_t)((end < s->n_prompt ? end : s->n_prompt) - (length + again));
    s->n_high = end > s->n_high ? end : s->n_high;
}

static enum cabe_status draw(struct cabe_engine *e, struct slot *s, struct cabe_error *err)
{
    const float *logits = e->step_logits + (int64_t)s->output * e->config.n_vocab;
    uint64_t position = (uint64_t)(s->n_tokens + cabe_kv_seq_dropped(s->seq));
    struct cabe_sampled sampled;
    enum cabe_status status = cabe_sample(e->sampler, &s->request.sampling, logits, e->config.n_vocab, s->tokens,
                                          (size_t)s->n_tokens, s->request.sequence, position, &sampled, err);

    if (status != CABE_OK)
        return status;
    s->tokens[s->n_tokens++] = sampled.token;
    s->n_new++;
    e->stats.new_tokens++;
    if (s->request.token && s->request.token(s->request.self, &sampled) != 0)
        s->finish = CABE_FINISH_STOP;
    else if (s->request.max_new > 0 && s->n_new >= s->request.max_new)
        s->finish = CABE_FINISH_LENGTH;
    return CABE_OK;
}

/* Tells the scores of the step. */
static enum cabe_status score(struct cabe_engine *e, struct slot *s, struct cabe_error *err)
{
    struct cabe_sampled scored;
    int32_t n_logprobs = s->request.sampling.n_logprobs > 0 ? s->request.sampling.n_logprobs : 0;

    for (int32_t i = 0; i < s->n_rows; i++) {
        const float *logits = e->step_logits + (int64_t)(s->first_row + i) * e->config.n_vocab;
        enum cabe_status status = cabe_sample_score(e->sampler, logits, e->config.n_vocab, s->tokens[s->n_scored],
                                                    n_logprobs, &scored, err);

        if (status != CABE_OK)
            return status;
        s->n_scored++;
        if (s->request.scored(s->request.self, &scored) != 0) {
            s->finish = CABE_FINISH_STOP;
            return CABE_OK;
        }
    }
    return CABE_OK;
}

/* What the step has computed of a sequence is told: scores, then the next token. */
static enum cabe_status tell(struct cabe_engine *e, struct slot *s, struct cabe_error *err)
{
    enum cabe_status status = s->n_rows > 0 ? score(e, s, err) : CABE_OK;

    if (status != CABE_OK || s->finish != CABE_FINISH_NOT)
        return status;
    if (s->output >= 0)
        return draw(e, s, err);
    if (s->request.max_new < 0 && cabe_kv_seq_length(s->seq) + s->chunk == s->n_tokens)
        s->finish = CABE_FINISH_LENGTH;
    return CABE_OK;
}

/* Which layer made what is no number: the step is run once more, looked at after every node. */
static enum cabe_status explain(struct cabe_engine *e, enum cabe_status status, struct cabe_error *err)
{
    struct cabe_error found;

    if (status != CABE_ERR_INTERNAL || cabe_program_find_nan(e->config.program, e->symbols, &found) == CABE_OK)
        return status;
    return cabe_fail(err, CABE_ERR_INTERNAL, "%s", found.text);
}

/* A sequence whose logits cannot be drawn from is finished and not committed: what it wrote is never shared. */
static enum cabe_status finish_step(struct cabe_engine *e, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;

    for (int32_t i = 0; i < e->n_slots; i++) {
        struct slot *s = &e->slots[i];
        enum cabe_status drawn = CABE_OK;

        if (!s->used || s->chunk == 0)
            continue;
        drawn = tell(e, s, status == CABE_OK ? err : NULL);
        if (drawn == CABE_OK) {
            commit(e, s);
            if (s->finish != CABE_FINISH_NOT)
                cabe_engine_finish(s, s->finish);
            continue;
        }
        cabe_engine_finish(s, CABE_FINISH_ERROR);
        status = status == CABE_OK ? drawn : status;
    }
    return status == CABE_OK ? CABE_OK : explain(e, status, err);
}

enum cabe_status cabe_engine_step(struct cabe_engine *e, const struct cabe_cancel *cancel, struct cabe_error *err)
{
    uint64_t begin_ns = cabe_clock_ns(), waited_ns = cabe_thread_waited_ns(), run_ns;
    enum cabe_status status;

    cabe_engine_share(e);
    collect(e);
    if (e->symbols[CABE_SYM_TOKENS] == 0)
        return cabe_cancelled(cancel) ? cabe_fail(err, CABE_ERR_CANCELLED, "%s: cancelled", e->config.place) : CABE_OK;
    status = run(e, cancel, err);
    if (status != CABE_OK)
        return status;
    run_ns = cabe_clock_ns();
    waited_ns = cabe_thread_waited_ns() - waited_ns; /* for other models: not what the step took */
    if (!e->is_scored && (e->n_generating == 0 || e->n_prompt_tokens == 0 || e->is_bound))
        cabe_chunk_learn(&e->chunk, e->n_generating, e->n_prompt_tokens, &e->depth,
                         (double)(run_ns - begin_ns - waited_ns) / 1e9);
    status = finish_step(e, err);
    e->stats.n_steps++;
    e->stats.run_ns += run_ns - begin_ns;
    e->stats.draw_ns += cabe_clock_ns() - run_ns;
    return status;
}
