#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "serve/analyze_impl.h"
#include "serve/events.h"
#include "serve/metrics.h"

#define PIECE 100      /* pairs, or members of groups, of one part of the result */
#define TEXT_SHOWN 400 /* bytes of a sentence in the report */

/* ---- the report ---- */

static json_t *place_json(const struct analysis *a, uint32_t number)
{
    const struct cabe_sentence *sentence = &a->result.sentence[number];
    const char *name = a->upload->file[sentence->document].name;
    char raw[TEXT_SHOWN], text[TEXT_SHOWN + 4];
    size_t n = 0, kept = 0;

    if (cabe_document_read(cabe_analyze_document(a->analysis, sentence->document), sentence->span, raw, sizeof raw, &n,
                           NULL) != CABE_OK)
        n = 0;
    for (size_t i = 0; i < n; i++) { /* white space as single spaces */
        int space = (unsigned char)raw[i] <= ' ';

        if (!space)
            text[kept++] = raw[i];
        else if (kept > 0 && text[kept - 1] != ' ')
            text[kept++] = ' ';
    }
    while (kept > 0 && sentence->span.end - sentence->span.begin > TEXT_SHOWN && ((unsigned char)text[kept - 1] & 0x80))
        kept--; /* not a character in half */
    strcpy(text + kept, sentence->span.end - sentence->span.begin > TEXT_SHOWN ? "..." : "");
    return json_pack("{s:o,s:I,s:I,s:I,s:I,s:o}", "document", cabe_json_text(name, strlen(name)), "line",
                     (json_int_t)sentence->line, "sentence", (json_int_t)sentence->number, "begin",
                     (json_int_t)sentence->span.begin, "end", (json_int_t)sentence->span.end, "text",
                     cabe_json_text(text, strlen(text)));
}

static void put_pairs(const struct analysis *a, uint64_t n)
{
    for (uint64_t from = 0; from < n; from += PIECE) {
        json_t *piece = json_array();

        for (uint64_t i = from; i < n && i < from + PIECE; i++) {
            const struct cabe_idea_pair *pair = &a->result.pair[i];

            json_array_append_new(piece, json_pack("{s:f,s:s,s:o,s:o}", "score", (double)pair->score, "kind",
                                                   cabe_echo_name(pair->echo), "a", place_json(a, pair->a), "b",
                                                   place_json(a, pair->b)));
        }
        cabe_job_part(a->job, "pairs", piece);
    }
}

static void put_groups(const struct analysis *a, uint64_t n)
{
    json_t *piece = json_array();
    uint64_t held = 0;

    for (uint64_t g = 0; g < n; g++) {
        const struct cabe_idea_group *group = &a->result.group[g];
        json_t *members = json_array();

        for (uint32_t i = 0; i < group->n && i < PIECE; i++)
            json_array_append_new(members, place_json(a, a->result.member[group->first + i]));
        json_array_append_new(piece, json_pack("{s:f,s:I,s:o}", "score", (double)group->score, "n",
                                               (json_int_t)group->n, "members", members));
        held += group->n < PIECE ? group->n : PIECE;
        if (held >= PIECE && g + 1 < n) {
            cabe_job_part(a->job, "groups", piece);
            piece = json_array();
            held = 0;
        }
    }
    cabe_job_part(a->job, "groups", piece);
}

/*
 * The process is measured whole: what is expected of it is what the plan says of this phase, and beside that what the
 * ledger said of the rest at its highest.
 */
static json_t *phase_json(const struct analysis *a, const struct cabe_analyze_phase *phase, uint64_t beside_bytes)
{
    uint64_t own = phase->predicted_bytes > a->session.process_bytes ? phase->predicted_bytes - a->session.process_bytes : 0;

    return json_pack("{s:s,s:I,s:I,s:I,s:I,s:I,s:f,s:f}", "name", phase->name, "predicted_peak_bytes",
                     (json_int_t)(own + beside_bytes), "measured_peak_bytes", (json_int_t)phase->measured_bytes,
                     "own_bytes", (json_int_t)own, "start_bytes", (json_int_t)phase->start_bytes, "end_bytes",
                     (json_int_t)phase->end_bytes, "seconds", phase->seconds, "predicted_seconds",
                     phase->predicted_seconds);
}

static void put_report(const struct analysis *a)
{
    uint64_t limit = (uint64_t)a->upload->limit;
    uint64_t n_pairs = a->result.n_pairs < limit ? a->result.n_pairs : limit;
    uint64_t n_groups = a->result.n_groups < limit ? a->result.n_groups : limit;
    json_t *phases = json_array();

    put_pairs(a, n_pairs);
    put_groups(a, n_groups);
    for (int i = 0; i < a->result.n_phases; i++)
        json_array_append_new(phases, phase_json(a, &a->result.phase[i], i < a->n_phases ? a->beside_bytes[i] : 0));
    cabe_job_part(a->job, "report",
                  json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:o}", "sentences", (json_int_t)a->result.n_sentences,
                            "compared", (json_int_t)a->result.n_compared, "tokens", (json_int_t)a->result.n_tokens, "pairs",
                            (json_int_t)a->result.n_pairs, "pairs_given", (json_int_t)n_pairs, "groups",
                            (json_int_t)a->result.n_groups, "groups_given", (json_int_t)n_groups, "peak_bytes",
                            (json_int_t)a->result.peak_bytes, "phases", phases));
}

/* ---- news on the way ---- */

static void progress(void *self, const char *what, uint64_t done, uint64_t total, const char *unit)
{
    struct analysis *a = self;

    cabe_job_progress(a->job, what, done, total, unit);
}

static void phase_begun(void *self, const char *phase, uint64_t predicted_bytes)
{
    struct analysis *a = self;
    uint64_t now_bytes, high_bytes;

    (void)predicted_bytes;
    cabe_ledger_beside(a->share, &now_bytes, &high_bytes); /* its highest begins here */
    cabe_job_progress(a->job, phase, 0, 0, "");
}

static void phase_ended(void *self, const struct cabe_analyze_phase *phase)
{
    struct analysis *a = self;
    uint64_t now_bytes, high_bytes;
    char name[64];

    cabe_ledger_beside(a->share, &now_bytes, &high_bytes);
    if (a->n_phases < CABE_ANALYSIS_PHASES)
        a->beside_bytes[a->n_phases++] = high_bytes;
    snprintf(name, sizeof name, "analyze.%s", phase->name);
    cabe_metrics_operation(a->server->metrics, name, cabe_job_id(a->job), phase->seconds);
    cabe_events_publish(a->server->events, "phase",
                        json_pack("{s:s,s:o}", "job", cabe_job_id(a->job), "phase", phase_json(a, phase, high_bytes)));
    cabe_job_part(a->job, "phase", phase_json(a, phase, high_bytes));
}

/* ---- the run ---- */

static void put_documents(const struct analysis *a, const struct cabe_plan *plan)
{
    json_t *documents = json_array();

    for (int i = 0; i < a->upload->n; i++)
        json_array_append_new(documents,
                              json_pack("{s:o,s:I}", "name",
                                        cabe_json_text(a->upload->file[i].name, strlen(a->upload->file[i].name)), "bytes",
                                        (json_int_t)a->upload->file[i].bytes));
    cabe_job_part(a->job, "documents", documents);
    cabe_job_part(a->job, "plan", cabe_plan_json(plan));
}

static enum cabe_status open_analysis(struct analysis *a, struct cabe_error *err)
{
    const char *paths[CABE_UPLOAD_FILES_MAX];
    struct cabe_encoder_wishes wishes = {.dtype = -1, .precision = -1};
    struct cabe_service_model *model = cabe_calloc(1, sizeof *model);
    enum cabe_status status = CABE_ERR_OOM;

    a->plan = cabe_malloc(sizeof *a->plan);
    if (!model || !a->plan) {
        cabe_free(model);
        return cabe_fail(err, CABE_ERR_OOM, "analysis");
    }
    for (int i = 0; i < a->upload->n; i++)
        paths[i] = a->upload->file[i].path;
    cabe_job_progress(a->job, "reading", 0, 0, "");
    status = cabe_service_model(a->server->service, a->upload->model, model, err);
    if (status == CABE_OK)
        status = cabe_encoder_find(&a->encoder, &a->session, model->path, &wishes, err);
    if (status == CABE_OK)
        status = cabe_analyze_open(&a->analysis, &a->session, a->encoder, paths, a->upload->n, &a->upload->wishes, err);
    cabe_free(model);
    return status;
}

static enum cabe_status run_admitted(struct analysis *a, struct cabe_error *err)
{
    if (!a->is_told)
        put_documents(a, a->plan);
    a->is_told = 1;
    a->n_phases = 0;
    return cabe_analyze_run(a->analysis, a->plan, &a->result, err);
}

/* Who is admitted can only lack room for the encoder, when somebody has come between: then it waits again. */
static enum cabe_status run_when_there_is_room(struct analysis *a, struct cabe_error *err)
{
    uint64_t until_ns = 0;
    enum cabe_status status;

    for (;;) {
        status = cabe_analysis_admit(a, &until_ns, err);
        if (status != CABE_OK)
            return status;
        status = run_admitted(a, err);
        if (status != CABE_ERR_BUDGET && status != CABE_ERR_BUSY)
            return status;
        cabe_analysis_dismiss(a);
        status = cabe_analysis_wait(a, until_ns, status, err);
        if (status != CABE_OK)
            return status;
    }
}

/* Errors name the file as we opened it; the client knows another name. */
static void rename_files(const struct cabe_upload *upload, struct cabe_error *err)
{
    for (int i = upload->n; i-- > 0;) { /* the longer numbers first */
        char *at = strstr(err->text, upload->file[i].path);
        char text[CABE_ERROR_TEXT_MAX];

        if (!at)
            continue;
        *at = '\0';
        snprintf(text, sizeof text, "%s%s%s", err->text, upload->file[i].name, at + strlen(upload->file[i].path));
        memcpy(err->text, text, sizeof text);
        return;
    }
}

enum cabe_status cabe_analyze_job_run(struct cabe_server *server, struct cabe_job *job, const json_t *wish,
                                      struct cabe_error *err)
{
    struct analysis *a = cabe_calloc(1, sizeof *a);
    struct cabe_analyze_watch watch = {phase_begun, phase_ended, a};
    struct cabe_analyze_lender lender;
    enum cabe_status status;

    (void)wish;
    if (!a)
        return cabe_fail(err, CABE_ERR_OOM, "analysis");
    (void)cabe_thread_class(job->record.class_);
    a->server = server;
    a->job = job;
    a->upload = cabe_job_payload(job);
    a->session = *server->session;
    a->session.cancel = cabe_job_cancel(job);
    a->session.progress = (struct cabe_progress){progress, a};
    status = open_analysis(a, err);
    if (status == CABE_OK) {
        cabe_analysis_lender(a, &lender);
        cabe_analyze_watch(a->analysis, &watch);
        cabe_analyze_lend(a->analysis, &lender);
        status = run_when_there_is_room(a, err);
    }
    if (status == CABE_OK)
        put_report(a);
    else
        rename_files(a->upload, err);
    cabe_analysis_end(a);
    cabe_memory_trim();
    return status;
}
