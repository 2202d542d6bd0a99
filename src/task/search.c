#include "task/search.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/memory.h"
#include "index/index.h"
#include "task/lines.h"

#define CHUNK_LINES 1000

struct cabe_search_job {
    struct cabe_session *session;
    struct cabe_encoder *encoder;
    const char *path;
    const char *const *queries;
    int n_queries;
    struct cabe_search_wishes wishes;
    uint64_t n_lines, n_bytes;

    /* of a run */
    struct cabe_index *index;
    void *block;
    uint64_t block_bytes;
    struct answers {
        struct cabe_hit *found; /* [queries][k] */
        struct cabe_search_hit *hit;
        int32_t *n_hits;
        char *text;
        float *query_rows;
    } answers;
};

static enum cabe_status count_lines(struct cabe_search_job *job, struct cabe_error *err)
{
    char piece[65536];
    FILE *file = fopen(job->path, "re");
    size_t n;
    char last = '\n';

    if (!file)
        return cabe_fail_errno(err, errno, "%s", job->path);
    while ((n = fread(piece, 1, sizeof piece, file)) > 0) {
        for (size_t i = 0; i < n; i++)
            job->n_lines += piece[i] == '\n';
        job->n_bytes += n;
        last = piece[n - 1];
    }
    job->n_lines += last != '\n';
    if (ferror(file)) {
        fclose(file);
        return cabe_fail_errno(err, errno, "%s: reading", job->path);
    }
    fclose(file);
    if (job->n_lines == 0)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: no line to search", job->path);
    if (job->n_lines > CABE_INDEX_ROWS_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: %" PRIu64 " lines, at most %" PRId64, job->path, job->n_lines,
                         CABE_INDEX_ROWS_MAX);
    return CABE_OK;
}

enum cabe_status cabe_search_open(struct cabe_search_job **out, struct cabe_session *session,
                                  struct cabe_encoder *encoder, const char *path, const char *const *queries,
                                  int n_queries, const struct cabe_search_wishes *wishes, struct cabe_error *err)
{
    struct cabe_search_job *job = cabe_calloc(1, sizeof *job);
    enum cabe_status status;

    *out = NULL;
    if (!job)
        return cabe_fail(err, CABE_ERR_OOM, "search");
    job->session = session;
    job->encoder = encoder;
    job->path = path;
    job->queries = queries;
    job->n_queries = n_queries;
    job->wishes = *wishes;
    status = count_lines(job, err);
    if (status != CABE_OK) {
        cabe_search_close(job);
        return status;
    }
    *out = job;
    return CABE_OK;
}

static void end_run(struct cabe_search_job *job)
{
    cabe_index_close(job->index);
    cabe_pages_unmap(job->block, job->block_bytes);
    if (job->block_bytes)
        cabe_ledger_release(job->session->ledger, CABE_HOST, CABE_PURPOSE_INDEX, job->block_bytes, "answers");
    job->index = NULL;
    job->block = NULL;
    job->block_bytes = 0;
}

void cabe_search_close(struct cabe_search_job *job)
{
    if (!job)
        return;
    end_run(job);
    cabe_free(job);
}

/* ---- plan ---- */

static void place_answers(struct answers *a, struct cabe_arena *arena, const struct cabe_search_job *job)
{
    uint64_t queries = (uint64_t)job->n_queries, k = (uint64_t)job->wishes.k;

    a->found = cabe_arena_take(arena, queries * k, sizeof *a->found, 64);
    a->hit = cabe_arena_take(arena, queries * k, sizeof *a->hit, 64);
    a->text = cabe_arena_take(arena, queries * k, CABE_SEARCH_TEXT_MAX, 64);
    a->n_hits = cabe_arena_take(arena, queries, sizeof *a->n_hits, 64);
    a->query_rows = cabe_arena_take(arena, queries * (uint64_t)cabe_encoder_config(job->encoder)->width,
                                    sizeof *a->query_rows, 64);
}

static uint64_t answers_bytes(const struct cabe_search_job *job)
{
    struct cabe_arena arena = {0};
    struct answers answers;

    place_answers(&answers, &arena, job);
    return cabe_pages_round(arena.used_bytes);
}

static struct cabe_index_config index_config(const struct cabe_search_job *job, const struct cabe_knobs *knobs)
{
    struct cabe_index_config config = {.kind = "exact",
                                       .dim = cabe_encoder_config(job->encoder)->width,
                                       .dtype = (enum cabe_dtype)knobs->value[CABE_KNOB_ROWS],
                                       .metric = CABE_METRIC_COSINE,
                                       .capacity = (int64_t)job->n_lines};

    return config;
}

static uint64_t rows_bytes(const struct cabe_search_job *job, int64_t chunk)
{
    return cabe_pages_round((uint64_t)chunk * (uint64_t)cabe_encoder_config(job->encoder)->width * sizeof(float));
}

static enum cabe_status measure_embed(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *working,
                                      struct cabe_fit_bytes *kept, struct cabe_graph_work *work, struct cabe_error *err)
{
    const struct cabe_search_job *job = self;
    struct cabe_index_config config = index_config(job, knobs);
    int64_t chunk = knobs->value[CABE_KNOB_CHUNK];

    working->bytes[CABE_HOST][CABE_PURPOSE_DOCUMENTS] += cabe_lines_bytes(chunk);
    working->bytes[CABE_HOST][CABE_PURPOSE_INDEX] += rows_bytes(job, chunk);
    kept->bytes[CABE_HOST][CABE_PURPOSE_INDEX] += cabe_index_bytes(&config) + answers_bytes(job);
    return cabe_encoder_work(job->encoder, knobs, (double)job->n_bytes / 4.2, (double)job->n_lines, work, err);
}

static enum cabe_status measure_search(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *working,
                                       struct cabe_fit_bytes *kept, struct cabe_graph_work *work,
                                       struct cabe_error *err)
{
    const struct cabe_search_job *job = self;
    struct cabe_index_config config = index_config(job, knobs);

    (void)kept;
    (void)err;
    working->bytes[CABE_HOST][CABE_PURPOSE_INDEX] +=
        cabe_index_search_plan(&config, (int64_t)job->n_lines, job->n_queries, job->wishes.k,
                                  job->session->kernels, job->session->n_threads);
    working->bytes[CABE_HOST][CABE_PURPOSE_DOCUMENTS] += cabe_lines_bytes(CHUNK_LINES);
    work->matmul_ops[CABE_F32][CABE_PRECISION_HIGH] += 2.0 * (double)job->n_lines * (double)config.dim * job->n_queries;
    return CABE_OK;
}

void cabe_search_task(struct cabe_search_job *job, struct cabe_fit_task *task)
{
    int encoder;

    cabe_session_task(job->session, task, "search");
    task->preferred.value[CABE_KNOB_CHUNK] = CHUNK_LINES;
    task->preferred.value[CABE_KNOB_ROWS] = job->wishes.rows >= 0 ? job->wishes.rows : CABE_F32;
    if (job->wishes.rows >= 0)
        task->pinned |= 1u << CABE_KNOB_ROWS;
    task->step[task->n_steps++] = (struct cabe_fit_step){CABE_KNOB_CHUNK, 100, "fewer lines at once"};
    task->step[task->n_steps++] = (struct cabe_fit_step){CABE_KNOB_ROWS, CABE_F16, "stored embeddings half as large"};
    task->step[task->n_steps++] =
        (struct cabe_fit_step){CABE_KNOB_ROWS, CABE_I8, "stored embeddings a quarter as large"};
    encoder = cabe_encoder_plan(job->encoder, task);
    task->stage[0] = (struct cabe_fit_stage){"embed", UINT32_C(1) << encoder, job, measure_embed};
    task->stage[1] = (struct cabe_fit_stage){"search", 0, job, measure_search};
    task->n_stages = 2;
}

/* ---- run ---- */

static enum cabe_status embed_lines(struct cabe_search_job *job, FILE *file, int64_t chunk, float *rows,
                                    struct cabe_error *err)
{
    struct cabe_lines *lines;
    uint64_t done = 0;
    enum cabe_status status = cabe_lines_open(&lines, file, job->path, chunk, job->session->ledger, err);

    while (status == CABE_OK) {
        const struct cabe_text *texts;
        size_t n;

        status = cabe_lines_next(lines, &texts, &n, err);
        if (status != CABE_OK || n == 0)
            break;
        if (done + n > job->n_lines) { /* the index has room for what was counted */
            status = cabe_fail(err, CABE_ERR_CHANGED, "%s: more lines than the %" PRIu64 " that were counted", job->path,
                               job->n_lines);
            break;
        }
        status = cabe_encoder_encode(job->encoder, texts, n, CABE_PREFIX_PASSAGE, rows, NULL, err);
        if (status == CABE_OK)
            status = cabe_index_add(job->index, rows, (int64_t)n, err);
        done += n;
        cabe_progress_report(&job->session->progress, "embedding", done, job->n_lines, "lines");
    }
    cabe_lines_close(lines);
    return status;
}

static enum cabe_status embed_queries(struct cabe_search_job *job, struct cabe_error *err)
{
    size_t width = (size_t)cabe_encoder_config(job->encoder)->width;
    enum cabe_status status = CABE_OK;

    for (int q = 0; q < job->n_queries && status == CABE_OK; q++) {
        struct cabe_text text = {job->queries[q], strlen(job->queries[q])};

        status = cabe_encoder_encode(job->encoder, &text, 1, CABE_PREFIX_QUERY,
                                     job->answers.query_rows + (size_t)q * width, NULL, err);
        if (status != CABE_OK)
            return cabe_fail_in(err, status, "query %d", q + 1);
    }
    return status;
}

static enum cabe_status embed_stage(struct cabe_search_job *job, const struct cabe_plan *plan, FILE *file,
                                    struct cabe_error *err)
{
    struct cabe_index_config config = index_config(job, &plan->knobs);
    int64_t chunk = plan->knobs.value[CABE_KNOB_CHUNK];
    uint64_t bytes = rows_bytes(job, chunk);
    struct cabe_ledger *ledger = job->session->ledger;
    void *rows = NULL;
    enum cabe_status status = cabe_index_open(&job->index, &config, ledger, job->session->kernels, err);

    if (status == CABE_OK)
        status = cabe_ledger_reserve(ledger, CABE_HOST, CABE_PURPOSE_INDEX, bytes, "rows", err);
    if (status != CABE_OK)
        return status;
    status = cabe_pages_map(&rows, bytes, 0, err);
    if (status == CABE_OK)
        status = embed_lines(job, file, chunk, rows, err);
    if (status == CABE_OK)
        status = embed_queries(job, err);
    cabe_pages_unmap(rows, bytes);
    cabe_ledger_release(ledger, CABE_HOST, CABE_PURPOSE_INDEX, bytes, "rows");
    return status;
}

/* The texts of the hits, in one pass over the file. */
static enum cabe_status fetch_texts(struct cabe_search_job *job, FILE *file, struct cabe_error *err)
{
    struct answers *a = &job->answers;
    struct cabe_lines *lines;
    uint64_t line = 0;
    enum cabe_status status = cabe_lines_open(&lines, file, job->path, CHUNK_LINES, job->session->ledger, err);

    while (status == CABE_OK) {
        const struct cabe_text *texts;
        size_t n;

        status = cabe_lines_next(lines, &texts, &n, err);
        if (status != CABE_OK || n == 0)
            break;
        for (int64_t i = 0; i < job->n_queries * job->wishes.k; i++) {
            struct cabe_search_hit *hit = &a->hit[i];
            size_t bytes;

            if (i % job->wishes.k >= a->n_hits[i / job->wishes.k] || hit->line <= line || hit->line > line + n)
                continue;
            bytes = texts[hit->line - line - 1].n_bytes;
            if (bytes > CABE_SEARCH_TEXT_MAX) {
                bytes = CABE_SEARCH_TEXT_MAX;
                while (bytes > 0 && ((unsigned char)texts[hit->line - line - 1].bytes[bytes] & 0xC0) == 0x80)
                    bytes--;
            }
            memcpy(a->text + i * CABE_SEARCH_TEXT_MAX, texts[hit->line - line - 1].bytes, bytes);
            hit->text = a->text + i * CABE_SEARCH_TEXT_MAX;
            hit->n_bytes = bytes;
        }
        line += n;
    }
    cabe_lines_close(lines);
    if (status == CABE_OK && line != job->n_lines)
        return cabe_fail(err, CABE_ERR_CHANGED, "%s: %" PRIu64 " lines now, %" PRIu64 " when it was counted", job->path,
                         line, job->n_lines);
    return status;
}

static enum cabe_status search_stage(struct cabe_search_job *job, FILE *file, struct cabe_error *err)
{
    struct cabe_index_run run = {job->session->team, job->session->cancel, &job->session->progress};
    struct answers *a = &job->answers;
    enum cabe_status status = cabe_index_search(job->index, a->query_rows, job->n_queries, job->wishes.k, a->found,
                                                a->n_hits, &run, err);

    if (status != CABE_OK)
        return status;
    for (int64_t i = 0; i < job->n_queries * job->wishes.k; i++)
        a->hit[i] = (struct cabe_search_hit){a->found[i].score, (uint64_t)a->found[i].row + 1, "", 0};
    rewind(file);
    return fetch_texts(job, file, err);
}

static enum cabe_status run_stages(struct cabe_search_job *job, const struct cabe_plan *plan, struct cabe_error *err)
{
    FILE *file = fopen(job->path, "re");
    enum cabe_status status;

    if (!file)
        return cabe_fail_errno(err, errno, "%s", job->path);
    status = cabe_encoder_load(job->encoder, &plan->knobs, err);
    if (status == CABE_OK)
        status = embed_stage(job, plan, file, err);
    cabe_encoder_unload(job->encoder);
    if (status == CABE_OK)
        status = search_stage(job, file, err);
    fclose(file);
    return status;
}

enum cabe_status cabe_search_run(struct cabe_search_job *job, const struct cabe_plan *plan,
                                 struct cabe_search_result *result, struct cabe_error *err)
{
    uint64_t bytes = answers_bytes(job);
    struct cabe_arena arena;
    enum cabe_status status;

    end_run(job);
    status = cabe_ledger_reserve(job->session->ledger, CABE_HOST, CABE_PURPOSE_INDEX, bytes, "answers", err);
    if (status != CABE_OK)
        return status;
    job->block_bytes = bytes;
    status = cabe_pages_map(&job->block, bytes, 0, err);
    if (status != CABE_OK)
        return status;
    arena = (struct cabe_arena){job->block, 0, bytes};
    place_answers(&job->answers, &arena, job);
    status = run_stages(job, plan, err);
    *result = (struct cabe_search_result){job->n_lines, job->answers.hit, job->answers.n_hits};
    return status;
}
