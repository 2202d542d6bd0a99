#include "task/generator.h"

#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "runtime/stop.h"
#include "task/net.h"

#define CONTEXT_PREFERRED 4096
#define CONTEXT_SHORT 1024 /* shorter ones come last */
#define CONTEXT_MIN 256
#define BATCH_PREFERRED 512
#define BATCH_MIN 16

struct cabe_generator {
    struct cabe_net net;
    struct cabe_generator_wishes wishes;

    /* loaded */
    struct cabe_kv *kv;
    struct cabe_engine *engine;
};

enum cabe_status cabe_generator_find(struct cabe_generator **out, struct cabe_session *session, const char *path,
                                     const struct cabe_generator_wishes *wishes, struct cabe_error *err)
{
    struct cabe_generator *g = cabe_calloc(1, sizeof *g);
    enum cabe_status status;

    *out = NULL;
    if (!g)
        return cabe_fail(err, CABE_ERR_OOM, "%s: generator", path);
    g->wishes = *wishes;
    status = cabe_net_open(&g->net, session, path, wishes->dtype, err);
    if (status == CABE_OK && cabe_model_config(g->net.model)->kind != CABE_MODEL_DECODER)
        status = cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: a %s model embeds text; wanted one that writes it", path,
                           cabe_model_kind_name(cabe_model_config(g->net.model)->kind));
    if (status != CABE_OK) {
        cabe_generator_close(g);
        return status;
    }
    *out = g;
    return CABE_OK;
}

void cabe_generator_close(struct cabe_generator *g)
{
    if (!g)
        return;
    cabe_generator_unload(g);
    cabe_net_close(&g->net);
    cabe_free(g);
}

const struct cabe_model *cabe_generator_model(const struct cabe_generator *g)
{
    return g->net.model;
}

/* ---- plan ---- */

static struct cabe_kv_config kv_config(const struct cabe_generator *g, const struct cabe_knobs *knobs)
{
    int64_t context = knobs->value[CABE_KNOB_CONTEXT], n_seqs = knobs->value[CABE_KNOB_SEQUENCES];
    /* Whole pages: sequences do not share their last ones. */
    int64_t n_tokens = (context + CABE_PAGE_TOKENS - 1) / CABE_PAGE_TOKENS * CABE_PAGE_TOKENS * n_seqs;
    enum cabe_kv_format format = (enum cabe_kv_format)knobs->value[CABE_KNOB_KV];
    struct cabe_kv_config config = {.device = g->net.session->device,
                                    .shape = cabe_model_kv_shape(g->net.model),
                                    .keys = format,
                                    .values = format,
                                    .n_tokens = n_tokens,
                                    .n_seqs = (int32_t)n_seqs,
                                    .seq_tokens = context,
                                    .place = g->net.place};

    if (g->wishes.kv_tokens > 0 && g->wishes.kv_tokens < n_tokens)
        config.n_tokens = g->wishes.kv_tokens > context ? g->wishes.kv_tokens : context;
    return config;
}

/* Nothing is drawn from weights that are not known to be whole, or that somebody has changed since. */
static enum cabe_status check_weights(void *self, struct cabe_error *err)
{
    return cabe_fitted_check(self, err);
}

static struct cabe_engine_config engine_config(const struct cabe_generator *g, const struct cabe_knobs *knobs)
{
    struct cabe_engine_config config = {.program = g->net.program,
                                        .graph = g->net.graph,
                                        .kv = g->kv,
                                        .ledger = g->net.session->ledger,
                                        .n_vocab = (int32_t)cabe_model_config(g->net.model)->n_vocab,
                                        .step_tokens = knobs->value[CABE_KNOB_BATCH],
                                        .n_seqs = (int32_t)knobs->value[CABE_KNOB_SEQUENCES],
                                        .n_ctx = knobs->value[CABE_KNOB_CONTEXT],
                                        .place = g->net.place,
                                        .check = check_weights,
                                        .check_self = g->net.fitted};

    return config;
}

static enum cabe_status measure(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *resident,
                                struct cabe_fit_bytes *loading, struct cabe_error *err)
{
    struct cabe_generator *g = self;
    struct cabe_kv_config kv = kv_config(g, knobs);
    struct cabe_engine_config engine = engine_config(g, knobs);
    int device = cabe_net_device(&g->net);
    int64_t bounds[CABE_N_SYMBOLS];
    uint64_t on_device, on_host;

    cabe_engine_bounds(&engine, bounds);
    cabe_kv_measure(&kv, &on_device, &on_host);
    if (on_device > UINT64_MAX / 4 || on_host > UINT64_MAX / 4)
        return cabe_fail(err, CABE_ERR_LIMIT, "a context of %lld tokens has no size that can be counted",
                         (long long)knobs->value[CABE_KNOB_CONTEXT]);
    resident->bytes[device][CABE_PURPOSE_KV] += on_device;
    resident->bytes[CABE_HOST][CABE_PURPOSE_KV] += on_host;
    return cabe_net_measure(&g->net, knobs, bounds, cabe_engine_measure(&engine),
                            on_host + (device == CABE_HOST ? on_device : 0), resident, loading, err);
}

static int64_t at_least(int64_t value, int64_t least)
{
    return value > least ? value : least;
}

static int64_t at_most(int64_t value, int64_t most)
{
    return value < most ? value : most;
}

/* Shorter contexts, of at least `least` tokens; returns where to go on. */
static int64_t shorten(struct cabe_fit_task *task, int64_t from, int64_t least)
{
    int64_t n = from;

    for (; n >= least; n /= 2)
        cabe_net_step(task, CABE_KNOB_CONTEXT, n, "a shorter context");
    return n;
}

int cabe_generator_plan(struct cabe_generator *g, struct cabe_fit_task *task)
{
    int64_t trained = cabe_model_config(g->net.model)->decoder.n_ctx, enough = g->wishes.context_enough, rest;
    int64_t context = at_most(at_least(enough, CONTEXT_PREFERRED), trained);
    int64_t n_seqs = g->wishes.n_seqs > 0 ? g->wishes.n_seqs : 1;
    int64_t batch = g->wishes.batch_tokens > 0 ? g->wishes.batch_tokens : BATCH_PREFERRED;
    int index = task->n_components++;

    if (g->wishes.context > 0)
        context = g->wishes.context;
    batch = at_least(batch, n_seqs);
    task->component[index] = (struct cabe_fit_component){"model", g, measure};
    task->preferred.value[CABE_KNOB_CONTEXT] = context;
    task->preferred.value[CABE_KNOB_SEQUENCES] = n_seqs;
    task->preferred.value[CABE_KNOB_BATCH] = batch;
    task->preferred.value[CABE_KNOB_KV] = g->wishes.kv >= 0 ? g->wishes.kv : CABE_KV_F16;
    task->pinned |= g->wishes.context > 0 ? 1u << CABE_KNOB_CONTEXT : 0;
    task->pinned |= g->wishes.kv >= 0 ? 1u << CABE_KNOB_KV : 0;
    task->pinned |= g->wishes.batch_tokens > 0 ? 1u << CABE_KNOB_BATCH : 0;
    rest = shorten(task, context / 2, at_least(at_most(enough, trained), CONTEXT_SHORT));
    if (enough > 0)
        cabe_net_step(task, CABE_KNOB_KV, CABE_KV_Q8, "keys and values half as large");
    shorten(task, rest, CONTEXT_SHORT);
    for (int64_t n = batch / 2; n >= at_least(BATCH_MIN, n_seqs); n /= 2)
        cabe_net_step(task, CABE_KNOB_BATCH, n, "prompts in smaller pieces: slower");
    if (enough <= 0)
        cabe_net_step(task, CABE_KNOB_KV, CABE_KV_Q8, "keys and values half as large");
    cabe_net_plan(&g->net, g->wishes.precision, task);
    for (int64_t n = CONTEXT_SHORT / 2; n >= CONTEXT_MIN; n /= 2)
        if (n < context)
            cabe_net_step(task, CABE_KNOB_CONTEXT, n, "a very short context");
    return index;
}

enum cabe_status cabe_generator_work(struct cabe_generator *g, const struct cabe_knobs *knobs, int64_t n_tokens,
                                     int64_t n_seqs, int64_t context, struct cabe_graph_work *work,
                                     struct cabe_error *err)
{
    struct cabe_model_choice choice = cabe_net_choice(&g->net, knobs);
    enum cabe_kv_format kv = (enum cabe_kv_format)knobs->value[CABE_KNOB_KV];
    int32_t head_dim = cabe_model_kv_shape(g->net.model).head_dim;
    double value_bytes = (double)cabe_kv_block_bytes(kv, head_dim) / (CABE_PAGE_TOKENS * head_dim);
    int64_t symbols[CABE_N_SYMBOLS];
    struct cabe_graph *graph;
    enum cabe_status status = cabe_model_graph(&graph, g->net.model, &choice, 0, err);

    if (status != CABE_OK)
        return status;
    symbols[CABE_SYM_ONE] = 1;
    symbols[CABE_SYM_TOKENS] = n_tokens;
    symbols[CABE_SYM_SEQUENCES] = n_seqs;
    symbols[CABE_SYM_PAGES] = n_seqs * ((context + CABE_PAGE_TOKENS - 1) / CABE_PAGE_TOKENS);
    symbols[CABE_SYM_OUTPUTS] = n_seqs;
    cabe_graph_work(graph, symbols, work);
    work->kv_format = (int)kv;
    work->kv_bytes = work->kv_values * value_bytes;
    work->drawn = (double)n_seqs * (double)cabe_model_config(g->net.model)->n_vocab;
    cabe_net_stream_work(&g->net, graph, knobs, work);
    cabe_graph_close(graph);
    return CABE_OK;
}

/* All that generating holds is the component's; a stage only says how long a stated piece of it takes. */
static enum cabe_status measure_prompt(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *working,
                                       struct cabe_fit_bytes *kept, struct cabe_graph_work *work, struct cabe_error *err)
{
    int64_t n = knobs->value[CABE_KNOB_BATCH];

    (void)working, (void)kept;
    return cabe_generator_work(self, knobs, n, 1, n, work, err);
}

static enum cabe_status measure_answer(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *working,
                                       struct cabe_fit_bytes *kept, struct cabe_graph_work *work, struct cabe_error *err)
{
    int64_t n_seqs = knobs->value[CABE_KNOB_SEQUENCES];

    (void)working, (void)kept;
    return cabe_generator_work(self, knobs, n_seqs, n_seqs, CABE_GENERATOR_TYPICAL, work, err);
}

void cabe_generator_task(struct cabe_generator *g, struct cabe_fit_task *task)
{
    int index;

    cabe_session_task(g->net.session, task, "generate");
    index = cabe_generator_plan(g, task);
    task->stage[task->n_stages++] = (struct cabe_fit_stage){"prompt", UINT32_C(1) << index, g, measure_prompt};
    task->stage[task->n_stages++] = (struct cabe_fit_stage){"answer", UINT32_C(1) << index, g, measure_answer};
}

void cabe_generator_speed(const struct cabe_plan *plan, double *prompt_tokens_s, double *answer_tokens_s)
{
    const struct cabe_plan_phase *prompt = cabe_plan_phase_find(plan, "prompt");
    const struct cabe_plan_phase *answer = cabe_plan_phase_find(plan, "answer");

    *prompt_tokens_s =
        prompt && prompt->seconds > 0 ? (double)plan->knobs.value[CABE_KNOB_BATCH] / prompt->seconds : 0;
    *answer_tokens_s =
        answer && answer->seconds > 0 ? (double)plan->knobs.value[CABE_KNOB_SEQUENCES] / answer->seconds : 0;
}

/* ---- loading ---- */

static enum cabe_status load(struct cabe_generator *g, const struct cabe_knobs *knobs, struct cabe_error *err)
{
    struct cabe_kv_config kv = kv_config(g, knobs);
    struct cabe_engine_config engine = engine_config(g, knobs);
    int64_t bounds[CABE_N_SYMBOLS];
    enum cabe_status status;

    cabe_engine_bounds(&engine, bounds);
    status = cabe_net_load(&g->net, knobs, bounds, err);
    if (status == CABE_OK)
        status = cabe_kv_open(&g->kv, &kv, g->net.session->ledger, err);
    if (status == CABE_OK)
        status = cabe_program_bind(g->net.program, cabe_graph_find(g->net.graph, CABE_MODEL_CACHE),
                                   cabe_kv_buffer(g->kv), err);
    if (status != CABE_OK)
        return status;
    engine = engine_config(g, knobs); /* now with the program and the store */
    return cabe_engine_open(&g->engine, &engine, err);
}

enum cabe_status cabe_generator_load(struct cabe_generator *g, const struct cabe_knobs *knobs, struct cabe_error *err)
{
    enum cabe_status status;

    if (g->engine)
        return CABE_OK;
    status = load(g, knobs, err);
    if (status != CABE_OK)
        cabe_generator_unload(g);
    return status;
}

void cabe_generator_unload(struct cabe_generator *g)
{
    cabe_engine_close(g->engine);
    cabe_program_close(g->net.program); /* before the store, whose buffer it is bound to */
    g->net.program = NULL;
    cabe_kv_close(g->kv);
    g->engine = NULL;
    g->kv = NULL;
    cabe_net_unload(&g->net);
}

enum cabe_status cabe_generator_check(struct cabe_generator *g, struct cabe_error *err)
{
    return cabe_fitted_check(g->net.fitted, err);
}

struct cabe_engine *cabe_generator_engine(struct cabe_generator *g)
{
    return g->engine;
}

struct cabe_kv *cabe_generator_kv(struct cabe_generator *g)
{
    return g->kv;
}

const struct cabe_tokenizer *cabe_generator_tokenizer(const struct cabe_generator *g)
{
    return g->net.tokenizer;
}

/* ---- one prompt ---- */

struct writing { /* of one answer, from tokens to text */
    struct cabe_generator *generator;
    const struct cabe_generation *generation;
    struct cabe_decoder decoder;
    struct cabe_stop *stop;
    char *decoded, *shown;
    uint64_t begin_ns, first_ns, text_ns;
    int ended; /* by an end token */
    enum cabe_status status;
    struct cabe_error *err;
};

/* Hands `n` decoded bytes on, as far as no stop string may begin in them. */
static void show(struct writing *w, size_t n, const struct cabe_sampled *sampled, int last)
{
    size_t ready = cabe_stop_push(w->stop, w->decoded, n, w->shown);

    if (last && cabe_stop_which(w->stop) < 0)
        ready += cabe_stop_flush(w->stop, w->shown + ready);
    if (ready > 0 && w->text_ns == 0)
        w->text_ns = cabe_clock_ns();
    if (w->status == CABE_OK && (ready > 0 || sampled) && w->generation->text)
        w->status = w->generation->text(w->generation->self, w->shown, ready, sampled, w->err);
}

static int on_token(void *self, const struct cabe_sampled *sampled)
{
    struct writing *w = self;
    const struct cabe_tokenizer *tokenizer = w->generator->net.tokenizer;

    if (w->first_ns == 0)
        w->first_ns = cabe_clock_ns();
    if (!w->generation->ignore_end && cabe_tokenizer_is_end(tokenizer, sampled->token)) {
        w->ended = 1;
        return 1;
    }
    show(w, cabe_decoder_put(&w->decoder, tokenizer, sampled->token, w->decoded), sampled, 0);
    return w->status != CABE_OK || cabe_stop_which(w->stop) >= 0;
}

static enum cabe_status open_writing(struct writing *w, struct cabe_generator *g, const struct cabe_generation *generation,
                                     struct cabe_error *err)
{
    size_t lengths[CABE_STOP_MAX], room = cabe_decoder_room(g->net.tokenizer) + 8;

    *w = (struct writing){.generator = g, .generation = generation, .err = err, .begin_ns = cabe_clock_ns()};
    w->decoder.special = (unsigned char)(generation->special != 0);
    if (generation->n_stop > CABE_STOP_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT, "%zu stop strings, at most %d", generation->n_stop, CABE_STOP_MAX);
    for (size_t i = 0; i < generation->n_stop; i++)
        lengths[i] = strlen(generation->stop[i]);
    w->decoded = cabe_malloc(room);
    w->shown = cabe_malloc(room + 2 * CABE_STOP_BYTES_MAX);
    if (!w->decoded || !w->shown)
        return cabe_fail(err, CABE_ERR_OOM, "an answer's text");
    return cabe_stop_open(&w->stop, generation->stop, lengths, generation->n_stop, err);
}

static enum cabe_status run(struct writing *w, const struct cabe_cancel *cancel, struct cabe_generated *result,
                            struct cabe_error *err)
{
    const struct cabe_generation *generation = w->generation;
    struct cabe_engine *engine = w->generator->engine;
    struct cabe_request request = {.prompt = generation->ids,
                                   .n_prompt = (int64_t)generation->n_ids,
                                   .class_ = CABE_CLASS_NORMAL,
                                   .sampling = generation->sampling,
                                   .max_new = generation->max_new,
                                   .shift_keep = generation->shift_keep,
                                   .token = on_token,
                                   .self = w};
    struct cabe_engine_view view;
    int32_t slot;
    enum cabe_status status = cabe_sampling_check(
        &request.sampling, (int32_t)cabe_model_config(w->generator->net.model)->n_vocab, err);

    if (status == CABE_OK)
        status = cabe_engine_add(engine, &request, &slot, err);
    if (status != CABE_OK)
        return status;
    result->begun_ns = cabe_clock_ns();
    do {
        status = cabe_engine_step(engine, cancel, err);
        cabe_engine_view(engine, slot, &view);
    } while (status == CABE_OK && view.finish == CABE_FINISH_NOT);
    cabe_engine_remove(engine, slot);
    if (status == CABE_OK && w->status == CABE_OK)
        show(w, cabe_decoder_end(&w->decoder, w->decoded), NULL, 1);
    result->finish = view.finish;
    result->n_prompt = view.n_prompt;
    result->n_cached = view.n_cached;
    result->n_new = view.n_new;
    return status == CABE_OK ? w->status : status;
}

enum cabe_status cabe_generate(struct cabe_generator *g, const struct cabe_generation *generation,
                               const struct cabe_cancel *cancel, struct cabe_generated *result, struct cabe_error *err)
{
    struct writing w;
    enum cabe_status status = open_writing(&w, g, generation, err);
    uint64_t end_ns;

    memset(result, 0, sizeof *result);
    if (status == CABE_OK)
        status = run(&w, cancel, result, err);
    end_ns = cabe_clock_ns();
    if (w.first_ns) {
        result->prompt_seconds = (double)(w.first_ns - w.begin_ns) / 1e9;
        result->new_seconds = (double)(end_ns - w.first_ns) / 1e9;
    }
    if (w.text_ns)
        result->first_seconds = (double)(w.text_ns - w.begin_ns) / 1e9;
    cabe_stop_close(w.stop);
    cabe_free(w.decoded);
    cabe_free(w.shown);
    return status;
}
