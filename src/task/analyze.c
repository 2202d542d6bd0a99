#include "task/analyze.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "index/index.h"
#include "runtime/monitor.h"
#include "task/ideas.h"

#define PHASES_MAX 8
#define CHUNK_PREFERRED 256 /* sentences encoded at once */
#define SENTENCE_BYTES_MAX 4096 /* of a sentence that are embedded; far more than a model reads */
#define ECHO_BYTES_MAX 2048 /* of a sentence whose words are compared */
#define CHARS_PER_TOKEN 4.2 /* of prose, for predicted time only */

struct cabe_analyze_job {
    struct cabe_session *session;
    struct cabe_ledger *ledger;
    struct cabe_encoder *encoder; /* its headers, where there is a lender */
    struct cabe_analyze_lender lender;
    struct cabe_analyze_wishes wishes;
    struct cabe_document *document;
    int n_documents;
    uint64_t n_sentences, n_compared, compared_bytes;
    struct cabe_analyze_watch watch;

    /* of a run */
    struct cabe_sentence *sentence;
    void *kept, *reported;
    uint64_t kept_bytes, reported_bytes;
    uint64_t n_found; /* sentences kept so far */
    struct cabe_index *index;
    struct cabe_ideas ideas;
    struct cabe_analyze_phase phase[PHASES_MAX];
    int n_phases;
};

/* ---- opening: what there is ---- */

static int is_compared(const struct cabe_analyze_job *job, const struct cabe_sentence *sentence)
{
    return (int64_t)sentence->n_words >= job->wishes.min_words;
}

static enum cabe_status count_sentence(void *self, const struct cabe_sentence *sentence, struct cabe_error *err)
{
    struct cabe_analyze_job *job = self;

    (void)err;
    job->n_sentences++;
    if (is_compared(job, sentence)) {
        job->n_compared++;
        job->compared_bytes += sentence->span.end - sentence->span.begin;
    }
    return CABE_OK;
}

static enum cabe_status each_sentence(struct cabe_analyze_job *job,
                                      enum cabe_status (*found)(void *self, const struct cabe_sentence *sentence,
                                                                struct cabe_error *err),
                                      struct cabe_error *err)
{
    char *window = cabe_malloc(CABE_DOCUMENT_WINDOW_BYTES);
    enum cabe_status status = CABE_OK;

    if (!window)
        return cabe_fail(err, CABE_ERR_OOM, "reading window");
    for (int i = 0; i < job->n_documents && status == CABE_OK; i++)
        status = cabe_document_sentences(&job->document[i], (uint32_t)i, window, found, job, job->session->cancel, err);
    cabe_free(window);
    return status;
}

enum cabe_status cabe_analyze_open(struct cabe_analyze_job **out, struct cabe_session *session,
                                   struct cabe_encoder *encoder, const char *const *paths, int n_paths,
                                   const struct cabe_analyze_wishes *wishes, struct cabe_error *err)
{
    struct cabe_analyze_job *job = cabe_calloc(1, sizeof *job);
    enum cabe_status status = CABE_OK;

    *out = NULL;
    if (!job || !(job->document = cabe_calloc((size_t)n_paths, sizeof *job->document))) {
        cabe_free(job);
        return cabe_fail(err, CABE_ERR_OOM, "analysis");
    }
    job->session = session;
    job->ledger = session->ledger;
    job->encoder = encoder;
    job->wishes = *wishes;
    if (job->wishes.threshold == 0)
        job->wishes.threshold = CABE_ANALYZE_THRESHOLD;
    if (job->wishes.min_words == 0)
        job->wishes.min_words = CABE_ANALYZE_MIN_WORDS;
    if (job->wishes.per_sentence == 0)
        job->wishes.per_sentence = CABE_ANALYZE_PER_SENTENCE;
    for (int i = 0; i < n_paths && status == CABE_OK; i++) {
        status = cabe_document_open(&job->document[i], paths[i], err);
        job->n_documents += status == CABE_OK;
    }
    if (status == CABE_OK)
        status = each_sentence(job, count_sentence, err);
    if (status == CABE_OK && job->n_compared > UINT32_MAX)
        status = cabe_fail(err, CABE_ERR_LIMIT, "%" PRIu64 " sentences, at most %u", job->n_compared, UINT32_MAX);
    if (status != CABE_OK) {
        cabe_analyze_close(job);
        return status;
    }
    *out = job;
    return CABE_OK;
}

/* What take_pages() took; `bytes` 0: nothing. */
static void give_pages(struct cabe_analyze_job *job, enum cabe_purpose purpose, void *pages, uint64_t bytes, const char *place)
{
    cabe_ledger_remove_pages(job->ledger, pages);
    cabe_pages_unmap(pages, bytes);
    if (bytes)
        cabe_ledger_release(job->ledger, CABE_HOST, purpose, bytes, place);
}

static void end_run(struct cabe_analyze_job *job)
{
    cabe_index_close(job->index);
    give_pages(job, CABE_PURPOSE_DOCUMENTS, job->kept, job->kept_bytes, "sentences");
    give_pages(job, CABE_PURPOSE_INDEX, job->reported, job->reported_bytes, "repeated ideas");
    job->index = NULL;
    job->kept = job->reported = NULL;
    job->kept_bytes = job->reported_bytes = 0;
}

void cabe_analyze_close(struct cabe_analyze_job *job)
{
    if (!job)
        return;
    end_run(job);
    for (int i = 0; i < job->n_documents; i++)
        cabe_document_close(&job->document[i]);
    cabe_free(job->document);
    cabe_free(job);
}

void cabe_analyze_lend(struct cabe_analyze_job *job, const struct cabe_analyze_lender *lender)
{
    job->lender = *lender;
}

void cabe_analyze_charge(struct cabe_analyze_job *job, struct cabe_ledger *ledger)
{
    job->ledger = ledger;
}

const struct cabe_document *cabe_analyze_document(const struct cabe_analyze_job *job, uint32_t number)
{
    return &job->document[number];
}

/* ---- bytes: each function measures for the plan and sizes what the run places ---- */

static uint64_t sentences_bytes(const struct cabe_analyze_job *job)
{
    return cabe_pages_round((job->n_compared + 1) * sizeof(struct cabe_sentence));
}

struct chunk { /* texts on their way to the encoder, and their rows */
    struct cabe_text *text;
    char *bytes;
    float *rows;
};

static void place_chunk(struct chunk *chunk, struct cabe_arena *arena, const struct cabe_analyze_job *job, int64_t n)
{
    uint64_t width = (uint64_t)cabe_encoder_config(job->encoder)->width;

    chunk->text = cabe_arena_take(arena, (uint64_t)n, sizeof *chunk->text, 64);
    chunk->bytes = cabe_arena_take(arena, (uint64_t)n, SENTENCE_BYTES_MAX, 64);
    chunk->rows = cabe_arena_take(arena, (uint64_t)n * width, sizeof *chunk->rows, 64);
}

static uint64_t chunk_bytes(const struct cabe_analyze_job *job, int64_t n)
{
    struct cabe_arena arena = {0};
    struct chunk chunk;

    place_chunk(&chunk, &arena, job, n);
    return cabe_pages_round(arena.used_bytes);
}

static struct cabe_index_config index_config(const struct cabe_analyze_job *job, const struct cabe_knobs *knobs)
{
    struct cabe_index_config config = {.kind = "exact",
                                       .dim = cabe_encoder_config(job->encoder)->width,
                                       .dtype = (enum cabe_dtype)knobs->value[CABE_KNOB_ROWS],
                                       .metric = CABE_METRIC_COSINE,
                                       .capacity = job->n_compared ? (int64_t)job->n_compared : 1};

    return config;
}

static struct cabe_join_config join_config(const struct cabe_analyze_job *job)
{
    struct cabe_join_config config = {job->wishes.threshold, job->wishes.per_sentence};

    return config;
}

static uint64_t max_pairs(const struct cabe_analyze_job *job)
{
    return job->n_compared * (uint64_t)job->wishes.per_sentence;
}

static uint64_t ideas_bytes(const struct cabe_analyze_job *job)
{
    struct cabe_arena arena = {0};
    struct cabe_ideas ideas;

    cabe_ideas_place(&ideas, &arena, job->n_compared, max_pairs(job));
    return cabe_pages_round(arena.used_bytes);
}

static enum cabe_status measure_read(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *working,
                                     struct cabe_fit_bytes *kept, struct cabe_graph_work *work, struct cabe_error *err)
{
    const struct cabe_analyze_job *job = self;

    (void)knobs;
    (void)work;
    (void)err;
    working->bytes[CABE_HOST][CABE_PURPOSE_DOCUMENTS] += CABE_DOCUMENT_WINDOW_BYTES;
    kept->bytes[CABE_HOST][CABE_PURPOSE_DOCUMENTS] += sentences_bytes(job);
    return CABE_OK;
}

static enum cabe_status measure_embed(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *working,
                                      struct cabe_fit_bytes *kept, struct cabe_graph_work *work, struct cabe_error *err)
{
    const struct cabe_analyze_job *job = self;
    struct cabe_index_config config = index_config(job, knobs);

    working->bytes[CABE_HOST][CABE_PURPOSE_DOCUMENTS] += chunk_bytes(job, knobs->value[CABE_KNOB_CHUNK]);
    kept->bytes[CABE_HOST][CABE_PURPOSE_INDEX] += cabe_index_bytes(&config);
    return cabe_encoder_work(job->encoder, knobs, (double)job->compared_bytes / CHARS_PER_TOKEN,
                             (double)job->n_compared, work, err);
}

static struct cabe_join_bytes join_bytes(const struct cabe_analyze_job *job, const struct cabe_knobs *knobs)
{
    struct cabe_index_config index = index_config(job, knobs);
    struct cabe_join_config join = join_config(job);

    return cabe_join_plan(&index, (int64_t)job->n_compared, &join, job->session->kernels, job->session->n_threads);
}

static enum cabe_status measure_compare(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *working,
                                        struct cabe_fit_bytes *kept, struct cabe_graph_work *work,
                                        struct cabe_error *err)
{
    const struct cabe_analyze_job *job = self;
    struct cabe_join_bytes bytes = join_bytes(job, knobs);
    double n = (double)job->n_compared;

    (void)kept;
    (void)err;
    working->bytes[CABE_HOST][CABE_PURPOSE_INDEX] += bytes.output_bytes + bytes.work_bytes;
    work->matmul_ops[CABE_F32][CABE_PRECISION_HIGH] += n * n * (double)index_config(job, knobs).dim;
    return CABE_OK;
}

static enum cabe_status measure_report(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *working,
                                       struct cabe_fit_bytes *kept, struct cabe_graph_work *work,
                                       struct cabe_error *err)
{
    const struct cabe_analyze_job *job = self;
    struct cabe_join_bytes bytes = join_bytes(job, knobs);

    (void)work;
    (void)err;
    working->bytes[CABE_HOST][CABE_PURPOSE_INDEX] += bytes.output_bytes;
    kept->bytes[CABE_HOST][CABE_PURPOSE_INDEX] += ideas_bytes(job);
    return CABE_OK;
}

/* The lender counts it. */
static enum cabe_status measure_lent(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *resident,
                                     struct cabe_fit_bytes *loading, struct cabe_error *err)
{
    (void)self;
    (void)knobs;
    (void)resident;
    (void)loading;
    (void)err;
    return CABE_OK;
}

/* The encoder as a component; a lent one has knobs for the time that it takes, and no rungs. */
static int plan_encoder(struct cabe_analyze_job *job, struct cabe_fit_task *task)
{
    int encoder = cabe_encoder_plan(job->encoder, task);

    if (job->lender.embed) {
        task->component[encoder] = (struct cabe_fit_component){task->component[encoder].name, job, measure_lent};
        task->n_steps = 0;
        task->n_segments = 0;
        task->searched = task->dear = 0;
    }
    return encoder;
}

void cabe_analyze_task(struct cabe_analyze_job *job, struct cabe_fit_task *task)
{
    int encoder;

    cabe_session_task(job->session, task, "analyze");
    task->preferred.value[CABE_KNOB_CHUNK] = CHUNK_PREFERRED;
    task->preferred.value[CABE_KNOB_ROWS] = job->wishes.rows >= 0 ? job->wishes.rows : CABE_F32;
    if (job->wishes.rows >= 0)
        task->pinned |= 1u << CABE_KNOB_ROWS;
    encoder = plan_encoder(job, task);
    /* Before weights are made smaller: fewer texts at once, then smaller rows. */
    memmove(task->step + 3, task->step, (size_t)task->n_steps * sizeof *task->step);
    task->step[0] = (struct cabe_fit_step){CABE_KNOB_CHUNK, 32, "fewer sentences at once"};
    task->step[1] = (struct cabe_fit_step){CABE_KNOB_ROWS, CABE_F16, "stored embeddings half as large"};
    task->step[2] = (struct cabe_fit_step){CABE_KNOB_ROWS, CABE_I8, "stored embeddings a quarter as large"};
    task->n_steps += 3;
    task->stage[0] = (struct cabe_fit_stage){"read", 0, job, measure_read};
    task->stage[1] = (struct cabe_fit_stage){"embed", UINT32_C(1) << encoder, job, measure_embed};
    task->stage[2] = (struct cabe_fit_stage){"compare", 0, job, measure_compare};
    task->stage[3] = (struct cabe_fit_stage){"report", 0, job, measure_report};
    task->n_stages = 4;
}

/* ---- the stages ---- */

static enum cabe_status keep_sentence(void *self, const struct cabe_sentence *sentence, struct cabe_error *err)
{
    struct cabe_analyze_job *job = self;

    if (!is_compared(job, sentence))
        return CABE_OK;
    if (job->n_found == job->n_compared)
        return cabe_fail(err, CABE_ERR_CHANGED, "%s: has more sentences than when it was counted",
                         job->document[sentence->document].path);
    job->sentence[job->n_found++] = *sentence;
    return CABE_OK;
}

/* Reserves, then maps. *out_bytes: what is to be given back, whether or not the second went well. */
static enum cabe_status take_pages(struct cabe_analyze_job *job, enum cabe_purpose purpose, uint64_t bytes,
                                   const char *place, void **out, uint64_t *out_bytes, struct cabe_error *err)
{
    enum cabe_status status = cabe_ledger_reserve(job->ledger, CABE_HOST, purpose, bytes, place, err);

    if (status != CABE_OK)
        return status;
    *out_bytes = bytes;
    status = cabe_pages_map(out, bytes, 0, err);
    if (status == CABE_OK)
        cabe_ledger_add_pages(job->ledger, CABE_HOST, purpose, *out, bytes);
    return status;
}

static enum cabe_status read_stage(struct cabe_analyze_job *job, struct cabe_error *err)
{
    struct cabe_ledger *ledger = job->ledger;
    enum cabe_status status = take_pages(job, CABE_PURPOSE_DOCUMENTS, sentences_bytes(job), "sentences", &job->kept,
                                         &job->kept_bytes, err);

    if (status != CABE_OK)
        return status;
    job->sentence = job->kept;
    job->n_found = 0;
    status = cabe_ledger_reserve(ledger, CABE_HOST, CABE_PURPOSE_DOCUMENTS, CABE_DOCUMENT_WINDOW_BYTES, "window", err);
    if (status != CABE_OK)
        return status;
    status = each_sentence(job, keep_sentence, err);
    cabe_ledger_release(ledger, CABE_HOST, CABE_PURPOSE_DOCUMENTS, CABE_DOCUMENT_WINDOW_BYTES, "window");
    if (status == CABE_OK && job->n_found != job->n_compared)
        return cabe_fail(err, CABE_ERR_CHANGED, "the documents changed while they were read");
    return status;
}

static enum cabe_status load_encoder(struct cabe_analyze_job *job, const struct cabe_knobs *knobs, struct cabe_error *err)
{
    return job->lender.embed ? job->lender.borrow(job->lender.self, err) : cabe_encoder_load(job->encoder, knobs, err);
}

static void unload_encoder(struct cabe_analyze_job *job)
{
    if (job->lender.embed)
        job->lender.give_back(job->lender.self);
    else
        cabe_encoder_unload(job->encoder);
}

static enum cabe_status encode(struct cabe_analyze_job *job, const struct chunk *chunk, size_t n, enum cabe_prefix prefix,
                               uint64_t *n_tokens, struct cabe_error *err)
{
    return job->lender.embed
               ? job->lender.embed(job->lender.self, chunk->text, n, prefix, chunk->rows, n_tokens, err)
               : cabe_encoder_encode(job->encoder, chunk->text, n, prefix, chunk->rows, n_tokens, err);
}

static enum cabe_status embed_chunks(struct cabe_analyze_job *job, const struct chunk *chunk, int64_t chunk_n,
                                     uint64_t *n_tokens, struct cabe_error *err)
{
    /* Both sides of a comparison are of one kind: where a model has prefixes, the query's serves for symmetric tasks. */
    enum cabe_prefix prefix = CABE_PREFIX_QUERY;
    enum cabe_status status = CABE_OK;

    if (cabe_encoder_config(job->encoder)->prefix_passage[0] == '\0')
        prefix = CABE_PREFIX_NONE;
    for (uint64_t at = 0; at < job->n_compared && status == CABE_OK; at += (uint64_t)chunk_n) {
        uint64_t left = job->n_compared - at, n = left < (uint64_t)chunk_n ? left : (uint64_t)chunk_n;

        for (uint64_t i = 0; i < n && status == CABE_OK; i++) {
            const struct cabe_sentence *sentence = &job->sentence[at + i];
            char *to = chunk->bytes + i * SENTENCE_BYTES_MAX;

            chunk->text[i].bytes = to;
            status = cabe_document_read(&job->document[sentence->document], sentence->span, to, SENTENCE_BYTES_MAX,
                                        &chunk->text[i].n_bytes, err);
        }
        if (status == CABE_OK)
            status = encode(job, chunk, n, prefix, n_tokens, err);
        if (status == CABE_OK)
            status = cabe_index_add(job->index, chunk->rows, (int64_t)n, err);
        cabe_progress_report(&job->session->progress, "embedding", at + n, job->n_compared, "sentences");
    }
    return status;
}

static enum cabe_status embed_stage(struct cabe_analyze_job *job, const struct cabe_knobs *knobs, uint64_t *n_tokens,
                                    struct cabe_error *err)
{
    struct cabe_index_config config = index_config(job, knobs);
    int64_t n = knobs->value[CABE_KNOB_CHUNK];
    struct cabe_arena arena = {0};
    struct chunk chunk;
    void *block = NULL;
    uint64_t bytes = 0;
    enum cabe_status status = cabe_index_open(&job->index, &config, job->ledger, job->session->kernels, err);

    if (status == CABE_OK)
        status = take_pages(job, CABE_PURPOSE_DOCUMENTS, chunk_bytes(job, n), "texts", &block, &bytes, err);
    if (status == CABE_OK) {
        arena = (struct cabe_arena){block, 0, bytes};
        place_chunk(&chunk, &arena, job, n);
        status = embed_chunks(job, &chunk, n, n_tokens, err);
    }
    give_pages(job, CABE_PURPOSE_DOCUMENTS, block, bytes, "texts");
    return status;
}

static enum cabe_status echo_of(struct cabe_analyze_job *job, struct cabe_idea_pair *pair, struct cabe_error *err)
{
    char a[ECHO_BYTES_MAX], b[ECHO_BYTES_MAX];
    const struct cabe_sentence *left = &job->sentence[pair->a], *right = &job->sentence[pair->b];
    size_t a_bytes = 0, b_bytes = 0;
    enum cabe_status status = cabe_document_read(&job->document[left->document], left->span, a, sizeof a, &a_bytes, err);

    if (status == CABE_OK)
        status = cabe_document_read(&job->document[right->document], right->span, b, sizeof b, &b_bytes, err);
    if (status == CABE_OK)
        pair->echo = cabe_ideas_echo(a, a_bytes, b, b_bytes);
    return status;
}

static enum cabe_status report_stage(struct cabe_analyze_job *job, const struct cabe_join *join, struct cabe_error *err)
{
    struct cabe_arena arena = {0};
    enum cabe_status status = take_pages(job, CABE_PURPOSE_INDEX, ideas_bytes(job), "repeated ideas", &job->reported,
                                         &job->reported_bytes, err);

    if (status != CABE_OK)
        return status;
    arena = (struct cabe_arena){job->reported, 0, job->reported_bytes};
    cabe_ideas_place(&job->ideas, &arena, job->n_compared, max_pairs(job));
    job->ideas.n_pairs = cabe_join_pairs(join, job->ideas.found, job->ideas.max_pairs);
    for (uint64_t i = 0; i < job->ideas.n_pairs && status == CABE_OK; i++) {
        const struct cabe_pair *found = &job->ideas.found[i];

        if (cabe_cancelled(job->session->cancel))
            return cabe_fail(err, CABE_ERR_CANCELLED, "the report was stopped");
        job->ideas.pair[i] = (struct cabe_idea_pair){found->a, found->b, fminf(found->score, 1.0f),
                                                        CABE_ECHO_PARAPHRASE};
        status = echo_of(job, &job->ideas.pair[i], err);
    }
    if (status == CABE_OK)
        cabe_ideas_group(&job->ideas, job->n_compared);
    return status;
}

/* ---- the run and its phases ---- */

struct tracking {
    struct cabe_analyze_job *job;
    const struct cabe_plan *plan;
    struct cabe_monitor *monitor;
    int phase;
};

static void begin(struct tracking *t, const char *name)
{
    uint64_t predicted_bytes = cabe_plan_phase_bytes(t->plan, name);

    /* With a lender others run beside it, whose bytes are in no plan of this job: the monitor has no limit to watch. */
    cabe_monitor_begin(t->monitor, name, t->job->lender.embed ? 0 : predicted_bytes, &t->phase);
    if (t->job->watch.begun)
        t->job->watch.begun(t->job->watch.self, name, predicted_bytes);
}

static void read_phase(const struct tracking *t, const struct cabe_phase *measured, struct cabe_analyze_phase *phase)
{
    const struct cabe_plan_phase *planned = cabe_plan_phase_find(t->plan, measured->name);

    memset(phase, 0, sizeof *phase);
    memcpy(phase->name, measured->name, sizeof phase->name);
    phase->measured_bytes = measured->peak_bytes;
    phase->start_bytes = measured->rss_begin_bytes;
    phase->end_bytes = measured->rss_end_bytes;
    phase->seconds = (double)measured->elapsed_ns / 1e9;
    phase->predicted_bytes = cabe_plan_phase_bytes(t->plan, measured->name);
    phase->predicted_seconds = planned ? planned->seconds : 0;
}

static void end(struct tracking *t)
{
    struct cabe_phase measured[PHASES_MAX];
    struct cabe_analyze_phase phase;
    size_t n;

    cabe_monitor_end(t->monitor, t->phase);
    if (!t->job->watch.ended || (n = cabe_monitor_read(t->monitor, measured, PHASES_MAX)) == 0)
        return;
    read_phase(t, &measured[n - 1], &phase);
    t->job->watch.ended(t->job->watch.self, &phase);
}

void cabe_analyze_watch(struct cabe_analyze_job *job, const struct cabe_analyze_watch *watch)
{
    job->watch = watch ? *watch : (struct cabe_analyze_watch){0};
}

static enum cabe_status run_stages(struct tracking *t, const struct cabe_knobs *knobs,
                                   struct cabe_analyze_result *result, struct cabe_error *err)
{
    struct cabe_analyze_job *job = t->job;
    struct cabe_join_config config = join_config(job);
    struct cabe_index_run run = {job->session->team, job->session->cancel, &job->session->progress};
    struct cabe_join *join = NULL;
    enum cabe_status status;

    begin(t, "read");
    status = read_stage(job, err);
    end(t);
    if (status != CABE_OK)
        return status;
    begin(t, "model_load");
    status = load_encoder(job, knobs, err);
    end(t);
    if (status != CABE_OK)
        return status;
    begin(t, "embed");
    status = embed_stage(job, knobs, &result->n_tokens, err);
    unload_encoder(job);
    end(t);
    if (status != CABE_OK || job->n_compared == 0)
        return status;
    begin(t, "compare");
    status = cabe_join_run(&join, job->index, &config, &run, err);
    end(t);
    if (status != CABE_OK)
        return status;
    begin(t, "report");
    status = report_stage(job, join, err);
    cabe_join_close(join);
    end(t);
    return status;
}

static void read_phases(struct tracking *t)
{
    struct cabe_phase phases[PHASES_MAX];
    size_t n = cabe_monitor_read(t->monitor, phases, PHASES_MAX);

    for (size_t i = 0; i < n; i++)
        read_phase(t, &phases[i], &t->job->phase[t->job->n_phases++]);
}

enum cabe_status cabe_analyze_run(struct cabe_analyze_job *job, const struct cabe_plan *plan,
                                  struct cabe_analyze_result *result, struct cabe_error *err)
{
    struct cabe_monitor_config config = {.ledger = job->ledger,
                                         .log = job->session->log,
                                         .limit_bytes = job->session->machine.memory.limit_bytes};
    struct tracking tracking = {.job = job, .plan = plan};
    enum cabe_status status;

    memset(result, 0, sizeof *result);
    end_run(job);
    job->n_phases = 0;
    status = cabe_monitor_open(&tracking.monitor, &config, err);
    if (status == CABE_OK)
        status = run_stages(&tracking, &plan->knobs, result, err);
    if (status == CABE_OK) {
        read_phases(&tracking);
        result->peak_bytes = cabe_monitor_peak_bytes(tracking.monitor);
    }
    cabe_monitor_close(tracking.monitor);
    if (status != CABE_OK) {
        end_run(job);
        return status;
    }
    result->n_sentences = job->n_sentences;
    result->n_compared = job->n_compared;
    result->sentence = job->sentence;
    result->pair = job->ideas.pair;
    result->n_pairs = job->ideas.n_pairs;
    result->group = job->ideas.group;
    result->n_groups = job->ideas.n_groups;
    result->member = job->ideas.member;
    result->phase = job->phase;
    result->n_phases = job->n_phases;
    return CABE_OK;
}
