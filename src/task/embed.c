#include "task/embed.h"

#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "runtime/monitor.h"
#include "task/lines.h"

static uint64_t rows_bytes(const struct cabe_embed_job *job, int64_t chunk)
{
    return cabe_pages_round((uint64_t)chunk * (uint64_t)cabe_encoder_config(job->encoder)->width * sizeof(float));
}

static enum cabe_status measure(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *working,
                                struct cabe_fit_bytes *kept, struct cabe_graph_work *work, struct cabe_error *err)
{
    struct cabe_embed_job *job = self;
    int64_t chunk = knobs->value[CABE_KNOB_CHUNK];

    (void)kept;
    working->bytes[CABE_HOST][CABE_PURPOSE_DOCUMENTS] += cabe_lines_bytes(chunk);
    working->bytes[CABE_HOST][CABE_PURPOSE_INDEX] += rows_bytes(job, chunk);
    if (job->n_tokens > 0)
        return cabe_encoder_work(job->encoder, knobs, job->n_tokens, job->n_texts, work, err);
    return CABE_OK;
}

void cabe_embed_task(struct cabe_embed_job *job, struct cabe_fit_task *task)
{
    int encoder;

    cabe_session_task(job->session, task, "embed");
    task->preferred.value[CABE_KNOB_CHUNK] = CABE_EMBED_CHUNK;
    task->preferred.value[CABE_KNOB_ROWS] = CABE_F32;
    task->step[task->n_steps++] = (struct cabe_fit_step){CABE_KNOB_CHUNK, 100, "results come in smaller pieces"};
    encoder = cabe_encoder_plan(job->encoder, task);
    task->stage[task->n_stages++] = (struct cabe_fit_stage){"embed", UINT32_C(1) << encoder, job, measure};
}

static enum cabe_status run_chunks(struct cabe_embed_job *job, struct cabe_lines *lines, float *rows,
                                   const struct cabe_embed_sink *sink, struct cabe_embed_result *result,
                                   struct cabe_error *err)
{
    uint64_t begun = cabe_clock_ns();

    for (;;) {
        const struct cabe_text *texts;
        size_t n;
        enum cabe_status status = cabe_lines_next(lines, &texts, &n, err);

        if (status != CABE_OK || n == 0)
            return status;
        status = cabe_encoder_encode(job->encoder, texts, n, job->prefix, rows, &result->n_tokens, err);
        if (status == CABE_OK)
            status = sink->write(sink->self, texts, rows, n, err);
        if (status != CABE_OK)
            return status;
        result->n_texts += n;
        result->seconds = (double)(cabe_clock_ns() - begun) / 1e9;
        if (result->first_seconds == 0)
            result->first_seconds = result->seconds;
        cabe_progress_report(&job->session->progress, "embedding", result->n_texts, (uint64_t)job->n_texts, "texts");
    }
}

static enum cabe_status embed_stage(struct cabe_embed_job *job, const struct cabe_plan *plan, FILE *in,
                                    const char *name, const struct cabe_embed_sink *sink,
                                    struct cabe_embed_result *result, struct cabe_error *err)
{
    int64_t chunk = plan->knobs.value[CABE_KNOB_CHUNK];
    uint64_t bytes = rows_bytes(job, chunk);
    struct cabe_ledger *ledger = job->session->ledger;
    struct cabe_lines *lines = NULL;
    void *rows = NULL;
    enum cabe_status status = cabe_ledger_reserve(ledger, CABE_HOST, CABE_PURPOSE_INDEX, bytes, "rows", err);

    if (status != CABE_OK)
        return status;
    status = cabe_pages_map(&rows, bytes, 0, err);
    if (status == CABE_OK)
        status = cabe_lines_open(&lines, in, name, chunk, ledger, err);
    if (status == CABE_OK)
        status = run_chunks(job, lines, rows, sink, result, err);
    cabe_lines_close(lines);
    cabe_pages_unmap(rows, bytes);
    cabe_ledger_release(ledger, CABE_HOST, CABE_PURPOSE_INDEX, bytes, "rows");
    return status;
}

enum cabe_status cabe_embed_run(struct cabe_embed_job *job, const struct cabe_plan *plan, FILE *in, const char *name,
                                const struct cabe_embed_sink *sink, struct cabe_embed_result *result,
                                struct cabe_error *err)
{
    struct cabe_monitor_config config = {.ledger = job->session->ledger,
                                         .log = job->session->log,
                                         .limit_bytes = job->session->machine.memory.limit_bytes};
    struct cabe_monitor *monitor;
    enum cabe_status status = cabe_monitor_open(&monitor, &config, err);
    int phase;

    memset(result, 0, sizeof *result);
    if (status != CABE_OK)
        return status;
    cabe_monitor_begin(monitor, "model_load", cabe_plan_phase_bytes(plan, "model_load"), &phase);
    status = cabe_encoder_load(job->encoder, &plan->knobs, err);
    cabe_monitor_end(monitor, phase);
    if (status == CABE_OK) {
        cabe_monitor_ready(monitor);
        cabe_monitor_begin(monitor, "embed", cabe_plan_phase_bytes(plan, "embed"), &phase);
        status = embed_stage(job, plan, in, name, sink, result, err);
        cabe_monitor_end(monitor, phase);
    }
    result->peak_bytes = cabe_monitor_peak_bytes(monitor);
    cabe_monitor_close(monitor);
    return status;
}
