#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "serve/analyze.h"
#include "serve/jobs_impl.h"

#define LIST_MAX 200
#define LIST_DEFAULT 50

/* The store is a disk: what reads it runs on a worker, one errand a request. */
struct errand {
    struct cabe_server *server;
    struct cabe_http_exchange *exchange;
    char id[CABE_JOB_ID_MAX];
};

/* The record, from the living or the store; 0: it has been answered. */
static int find(struct errand *errand, struct cabe_job_record *record, char **wish)
{
    struct cabe_jobs *jobs = errand->server->jobs;
    struct cabe_job *job = cabe_jobs_find(jobs, errand->id);
    struct cabe_jobs_store *store;
    struct cabe_error err;
    enum cabe_status status;

    if (wish)
        *wish = NULL;
    if (job) {
        cabe_job_read(job, record);
        if (wish)
            *wish = cabe_stream_line(job->wish);
        cabe_job_put(job);
        return 1;
    }
    if (cabe_jobs_recent(jobs, errand->id, record))
        return 1;
    status = cabe_jobs_store(jobs, &store, &err);
    if (status == CABE_OK)
        status = cabe_jobs_store_get(store, errand->id, record, wish, &err);
    if (status == CABE_OK)
        return 1;
    cabe_reply_status(errand->exchange, &err, NULL);
    return 0;
}

/* ---- list, get ---- */

static int state_of(const char *name)
{
    for (int i = 0; i <= CABE_JOB_CANCELLED; i++)
        if (strcmp(cabe_job_state_name((enum cabe_job_state)i), name) == 0)
            return i;
    return -1;
}

/* The stored ones as they are in memory, where they are: with progress. */
static void freshen(struct cabe_jobs *jobs, struct cabe_job_record *record)
{
    struct cabe_job *job = record->state <= CABE_JOB_RUNNING ? cabe_jobs_find(jobs, record->id) : NULL;

    if (job) {
        cabe_job_read(job, record);
        cabe_job_put(job);
    }
}

/* Of n records those whose id comes before; returns how many. */
static int keep_before(struct cabe_job_record *records, int n, const char *before)
{
    int kept = 0;

    for (int i = 0; i < n; i++)
        if (!before || strcmp(records[i].id, before) < 0)
            records[kept++] = records[i];
    return kept;
}

static void list_now(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    struct cabe_jobs *jobs = server->jobs;
    const char *state_name = cabe_http_query(exchange, "state");
    const char *limit = cabe_http_query(exchange, "limit");
    const char *before = cabe_http_query(exchange, "before");
    int state = state_name ? state_of(state_name) : -1, n_max = limit ? atoi(limit) : LIST_DEFAULT, n = 0, first = 0, n_all;
    struct cabe_job_record *records = NULL;
    struct cabe_jobs_store *store;
    struct cabe_error err;
    enum cabe_status status;
    json_t *data;

    (void)tail;
    if ((state_name && state < 0) || n_max < 1 || n_max > LIST_MAX) {
        cabe_reply_error(exchange, 400, "invalid_value", state_name && state < 0 ? "state" : "limit",
                         "wanted state=waiting, running, done, failed or cancelled, and limit=1 to %d", LIST_MAX);
        return;
    }
    records = cabe_calloc((size_t)n_max + CABE_JOBS_UNSTORED_MAX + 1, sizeof *records);
    if (!records) {
        cabe_reply_no_memory(exchange, "the list of jobs");
        return;
    }
    first = keep_before(records, cabe_jobs_unstored(jobs, state, records), before);
    status = cabe_jobs_store(jobs, &store, &err);
    if (status == CABE_OK)
        status = cabe_jobs_store_list(store, state, before, n_max + 1, records + first, &n, &err);
    if (status != CABE_OK && first == 0) {
        cabe_reply_status(exchange, &err, NULL);
    } else {
        data = json_array();
        n_all = first + n;
        qsort(records, (size_t)n_all, sizeof *records, cabe_job_newer);
        for (int i = 0; i < n_all && i < n_max; i++) {
            freshen(jobs, &records[i]);
            json_array_append_new(data, cabe_job_json(&records[i]));
        }
        cabe_reply_json(exchange, 200,
                        json_pack("{s:s,s:o,s:b}", "object", "list", "data", data, "has_more", n_all > n_max));
    }
    cabe_free(records);
}

static void get(struct errand *errand)
{
    struct cabe_job_record record;
    json_t *json;
    char *wish;

    if (!find(errand, &record, &wish))
        return;
    json = cabe_job_json(&record);
    if (json && wish)
        json_object_set_new(json, "wish", json_loads(wish, JSON_DECODE_ANY, NULL));
    cabe_free(wish);
    cabe_reply_json(errand->exchange, 200, json);
}

/* ---- the result: parts of one name in a row are one array, or the last of them ---- */

struct result_text { /* its room is known beforehand: the record counts the bytes of the parts */
    char *bytes;
    size_t n, room;
    char name[64];
    size_t value_at; /* of the last name */
};

#define RESULT_NAME_BYTES 72 /* a name, its quotes, colon and comma */

static int put(struct result_text *r, const char *text)
{
    size_t n = strlen(text);

    if (n >= r->room - r->n)
        return 0;
    memcpy(r->bytes + r->n, text, n + 1);
    r->n += n;
    return 1;
}

static enum cabe_status add_part(void *self, uint64_t n, const char *name, const char *data)
{
    struct result_text *r = self;
    int is_same = r->value_at > 0 && strcmp(r->name, name) == 0, is_put;

    (void)n;
    if (is_same && data[0] == '[' && r->bytes[r->value_at] == '[') {
        if (strcmp(data, "[]") == 0)
            return CABE_OK;
        is_put = r->bytes[--r->n - 1] == '[' || put(r, ",");
        return is_put && put(r, data + 1) ? CABE_OK : CABE_ERR_LIMIT;
    }
    if (is_same) {
        r->n = r->value_at;
        return put(r, data) ? CABE_OK : CABE_ERR_LIMIT;
    }
    is_put = snprintf(r->name, sizeof r->name, "%s", name) < (int)sizeof r->name;
    is_put = is_put && put(r, r->value_at > 0 ? ",\"" : "\"") && put(r, name) && put(r, "\":");
    r->value_at = r->n;
    return is_put && put(r, data) ? CABE_OK : CABE_ERR_LIMIT;
}

/* {..., "result": {...}}: the stored parts as they are, not parsed and written again. */
static void reply_result(struct errand *errand, struct cabe_jobs_store *store, const struct cabe_job_record *record)
{
    json_t *json = cabe_job_json(record);
    char *head = json ? json_dumps(json, JSON_COMPACT) : NULL;
    struct result_text r = {.room = record->result_bytes + (record->n_parts + 1) * RESULT_NAME_BYTES +
                                    (head ? strlen(head) : 0)};
    struct cabe_error err = {0};
    enum cabe_status status;

    json_decref(json);
    if (!cabe_http_charge_more(errand->exchange, r.room)) {
        cabe_reply_error(errand->exchange, 503, "overloaded", NULL, "no memory for a result of %zu bytes now", r.room);
        cabe_free(head);
        return;
    }
    r.bytes = cabe_malloc(r.room);
    if (!head || !r.bytes) {
        status = cabe_fail(&err, CABE_ERR_OOM, "a result of %zu bytes", r.room);
    } else {
        head[strlen(head) - 1] = '\0';
        (void)(put(&r, head) && put(&r, ",\"result\":{"));
        status = cabe_jobs_store_parts(store, record->id, 0, add_part, &r, &err);
    }
    if (status == CABE_OK && put(&r, "}}"))
        cabe_http_reply(errand->exchange, 200, "application/json", r.bytes, r.n);
    else if (status != CABE_OK && status != CABE_ERR_LIMIT)
        cabe_reply_status(errand->exchange, &err, NULL);
    else
        cabe_reply_error(errand->exchange, 500, "internal", NULL, "the result of %s is longer than it was", record->id);
    cabe_free(r.bytes);
    cabe_free(head);
}

static void result(struct errand *errand)
{
    struct cabe_job_record record;
    struct cabe_jobs_store *store;
    struct cabe_error err;

    if (!find(errand, &record, NULL))
        return;
    if (record.state <= CABE_JOB_RUNNING) {
        cabe_http_set(errand->exchange, "retry-after", "1");
        cabe_reply_error(errand->exchange, 409, "not_finished", NULL, "%s is %s", record.id,
                         cabe_job_state_name(record.state));
        return;
    }
    if (record.is_streamed) {
        cabe_reply_error(errand->exchange, 410, "not_kept", NULL,
                         "the result of %s went to who asked for it; ask with 'Prefer: respond-async' for one that is kept",
                         record.id);
        return;
    }
    if (cabe_jobs_store(errand->server->jobs, &store, &err) == CABE_OK)
        reply_result(errand, store, &record);
    else
        cabe_reply_status(errand->exchange, &err, NULL);
}

/* ---- cancel, remove, follow ---- */

static void cancel(struct errand *errand)
{
    struct cabe_job_record record;
    struct cabe_error err;

    if (!find(errand, &record, NULL))
        return;
    if (record.state > CABE_JOB_RUNNING) {
        cabe_reply_error(errand->exchange, 409, "finished", NULL, "%s is %s already", record.id,
                         cabe_job_state_name(record.state));
        return;
    }
    if (cabe_jobs_cancel(errand->server->jobs, errand->id, &err) != CABE_OK) {
        cabe_reply_status(errand->exchange, &err, NULL);
        return;
    }
    cabe_reply_json(errand->exchange, 202, cabe_job_json(&record));
}

static void delete_job(struct errand *errand)
{
    struct cabe_job_record record;
    struct cabe_jobs_store *store;
    struct cabe_error err;

    if (!find(errand, &record, NULL))
        return;
    if (record.state <= CABE_JOB_RUNNING) {
        cabe_reply_error(errand->exchange, 409, "not_finished", NULL, "%s is %s: cancel it first", record.id,
                         cabe_job_state_name(record.state));
        return;
    }
    if (record.is_streamed)
        cabe_jobs_forget(errand->server->jobs, record.id);
    else if (cabe_jobs_store(errand->server->jobs, &store, &err) != CABE_OK ||
        cabe_jobs_store_remove(store, errand->id, &err) != CABE_OK) {
        cabe_reply_status(errand->exchange, &err, NULL);
        return;
    }
    cabe_reply_json(errand->exchange, 200, json_pack("{s:s,s:b}", "id", record.id, "deleted", 1));
}

static enum cabe_status replay_part(void *self, uint64_t n, const char *name, const char *data)
{
    return cabe_stream_put(self, n, name, data);
}

static void follow(struct errand *errand)
{
    const char *last = cabe_http_header(errand->exchange, "last-event-id");
    uint64_t after = last ? strtoull(last, NULL, 10) : 0;
    struct cabe_job *job = cabe_jobs_find(errand->server->jobs, errand->id);
    struct cabe_job_record record;
    struct cabe_jobs_store *store;
    struct cabe_stream stream;
    json_t *json;
    char *text;

    if (job) {
        cabe_job_follow(job, errand->exchange, after);
        cabe_job_put(job);
        return;
    }
    if (!find(errand, &record, NULL))
        return;
    cabe_stream_begin(&stream, errand->exchange, cabe_stream_wanted(errand->exchange), NULL, NULL);
    if (!record.is_streamed && cabe_jobs_store(errand->server->jobs, &store, NULL) == CABE_OK)
        (void)!cabe_jobs_store_parts(store, record.id, after, replay_part, &stream, NULL);
    json = cabe_job_json(&record);
    text = cabe_stream_line(json);
    json_decref(json);
    if (text)
        (void)!cabe_stream_put(&stream, 0, record.state > CABE_JOB_RUNNING ? "end" : "state", text);
    cabe_free(text);
    cabe_stream_end(&stream);
}

/* ---- routes: what follows the name chooses the errand ---- */

static void get_jobs(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    cabe_handle_later(server, exchange, tail, list_now);
}

/* "ID/what" into the name and what; NULL: the name is too long to be one. */
static const char *split(const char *tail, char id[CABE_JOB_ID_MAX])
{
    size_t n = strcspn(tail, "/");

    if (n == 0 || n >= CABE_JOB_ID_MAX)
        return NULL;
    memcpy(id, tail, n);
    id[n] = '\0';
    return tail[n] ? tail + n + 1 : "";
}

struct choice {
    const char *what;
    void (*run)(struct errand *errand);
};

/* `choices` end with NULL. */
static void run_choice(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail,
                       const struct choice *choices)
{
    struct errand errand = {.server = server, .exchange = exchange};
    const char *rest = split(tail, errand.id);

    for (; rest && choices->what; choices++) {
        if (strcmp(rest, choices->what) == 0) {
            choices->run(&errand);
            return;
        }
    }
    cabe_reply_error(exchange, 404, "not_found", NULL, "no job '%.64s'", tail);
}

static void get_now(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    static const struct choice choices[] = {{"", get}, {"result", result}, {"events", follow}, {NULL, NULL}};

    run_choice(server, exchange, tail, choices);
}

static void delete_now(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    static const struct choice choices[] = {{"", delete_job}, {NULL, NULL}};

    run_choice(server, exchange, tail, choices);
}

static void post_now(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    static const struct choice choices[] = {{"cancel", cancel}, {NULL, NULL}};

    run_choice(server, exchange, tail, choices);
}

static void get_job(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    cabe_handle_later(server, exchange, tail, get_now);
}

static void delete_one(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    cabe_handle_later(server, exchange, tail, delete_now);
}

static void post_job(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    cabe_handle_later(server, exchange, tail, post_now);
}

const struct cabe_route cabe_job_routes[] = {
    {CABE_HTTP_POST, "/v1/analyze", cabe_analyze_post, CABE_ROUTE_UPLOAD,
     "repeated ideas of documents, a stream by phase; Prefer: respond-async: a job"},
    {CABE_HTTP_GET, "/v1/jobs", get_jobs, 0, "jobs, newest first: state, limit, before"},
    {CABE_HTTP_GET, "/v1/jobs/*", get_job, 0, "one job; ID/result: what it found; ID/events: as it goes, a stream"},
    {CABE_HTTP_DELETE, "/v1/jobs/*", delete_one, 0, "removes a finished job and its result"},
    {CABE_HTTP_POST, "/v1/jobs/*", post_job, 0, "ID/cancel: stops a job"},
    {0, NULL, NULL, 0, NULL},
};
