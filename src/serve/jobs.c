#include "serve/jobs.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/clock.h"
#include "base/home.h"
#include "base/json.h"
#include "base/memory.h"
#include "serve/events.h"
#include "serve/jobs_impl.h"
#include "serve/metrics.h"

#define STACK_BYTES (UINT64_C(1) << 20) /* of a job's thread; touched as far as it is used */
#define PROGRESS_NS UINT64_C(100000000)
#define RETRY_NS UINT64_C(5000000000) /* between attempts to open a store that would not open */
#define SLOW_READER_NS UINT64_C(10000000000)
#define SLOW_READER_POLL_NS 20000000L

struct cabe_jobs {
    struct cabe_server *server;
    struct cabe_slots *slots;
    char path[CABE_HOME_PATH_MAX];

    pthread_mutex_t store_lock; /* of opening the store */
    struct cabe_jobs_store *store;
    struct cabe_error store_err;
    uint64_t store_tried_ns;
    uint64_t charged_bytes; /* of its caches */

    pthread_mutex_t lock; /* of what follows */
    struct cabe_job *jobs; /* newest first */
    int n_alive, is_closing;
    uint64_t last_ms; /* of an id: two in one millisecond stay in order */
    struct cabe_job_record recent[CABE_JOBS_RECENT_MAX]; /* fleeting ones that have ended; a ring. "": none */
    unsigned n_recent;
};

static const char *const state_names[] = {"waiting", "running", "done", "failed", "cancelled"};

const char *cabe_job_state_name(enum cabe_job_state state)
{
    return (unsigned)state < sizeof state_names / sizeof *state_names ? state_names[state] : "?";
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

json_t *cabe_job_json(const struct cabe_job_record *record)
{
    json_t *json = json_pack("{s:s,s:s,s:s,s:s,s:s,s:f,s:b,s:I,s:I}", "id", record->id, "object", "job", "kind",
                             record->kind, "state", cabe_job_state_name(record->state), "class",
                             cabe_class_name(record->class_), "created_at", (double)record->created_ms / 1e3,
                             "streamed", record->is_streamed, "parts", (json_int_t)record->n_parts, "result_bytes",
                             (json_int_t)record->result_bytes);

    if (!json)
        return NULL;
    json_object_set_new(json, "started_at", record->started_ms ? json_real((double)record->started_ms / 1e3) : json_null());
    json_object_set_new(json, "ended_at", record->ended_ms ? json_real((double)record->ended_ms / 1e3) : json_null());
    if (record->what[0])
        json_object_set_new(json, "progress",
                            json_pack("{s:s,s:o,s:o,s:s}", "what", record->what, "done", cabe_json_count(record->done),
                                      "total", cabe_json_count(record->total), "unit", record->unit));
    if (record->error[0])
        json_object_set_new(json, "error",
                            json_pack("{s:s,s:o}", "type", cabe_status_name(record->error_status), "message",
                                      cabe_json_text(record->error, strlen(record->error))));
    return json;
}

/* ---- the store ---- */

enum cabe_status cabe_jobs_store(struct cabe_jobs *jobs, struct cabe_jobs_store **store, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;
    int n_lost = 0;

    pthread_mutex_lock(&jobs->store_lock);
    if (!jobs->store && (!jobs->store_tried_ns || cabe_clock_ns() - jobs->store_tried_ns > RETRY_NS)) {
        jobs->store_tried_ns = cabe_clock_ns();
        if (cabe_jobs_store_open(&jobs->store, jobs->path, &n_lost, &jobs->store_err) != CABE_OK)
            cabe_log(jobs->server->log, CABE_LOG_WARN, "jobs_not_kept", "{s:s}", "why", jobs->store_err.text);
        else if (n_lost > 0)
            cabe_log(jobs->server->log, CABE_LOG_WARN, "jobs_failed_by_restart", "{s:i}", "jobs", n_lost);
    }
    *store = jobs->store;
    if (!jobs->store) {
        if (err)
            *err = jobs->store_err;
        status = jobs->store_err.status;
    }
    pthread_mutex_unlock(&jobs->store_lock);
    return status;
}

enum cabe_status cabe_jobs_open(struct cabe_jobs **out, struct cabe_server *server, struct cabe_error *err)
{
    struct cabe_jobs *jobs = cabe_calloc(1, sizeof *jobs);
    struct cabe_jobs_store *store;
    enum cabe_status status = CABE_OK;

    *out = NULL;
    if (!jobs)
        return cabe_fail(err, CABE_ERR_OOM, "jobs");
    jobs->server = server;
    pthread_mutex_init(&jobs->lock, NULL);
    pthread_mutex_init(&jobs->store_lock, NULL);
    if (server->config->jobs_path[0])
        snprintf(jobs->path, sizeof jobs->path, "%s", server->config->jobs_path);
    else
        status = cabe_home_file(jobs->path, CABE_HOME_STATE, "jobs.db", err);
    if (status == CABE_OK)
        status = cabe_slots_open(&jobs->slots, (int)server->config->heavy_slots, err);
    if (status == CABE_OK && server->session) {
        status = cabe_ledger_reserve(server->session->ledger, CABE_HOST, CABE_PURPOSE_CACHES, CABE_JOBS_STORE_BYTES, "jobs",
                                     err);
        jobs->charged_bytes = status == CABE_OK ? CABE_JOBS_STORE_BYTES : 0;
    }
    if (status != CABE_OK) {
        cabe_jobs_close(jobs);
        return status;
    }
    /* A server whose disk is full or read-only still chats; who starts a job is told why it cannot be kept. */
    (void)!cabe_jobs_store(jobs, &store, NULL);
    *out = jobs;
    return CABE_OK;
}

struct cabe_slots *cabe_jobs_slots(struct cabe_jobs *jobs)
{
    return jobs->slots;
}

/* ---- the living ---- */

static void free_job(struct cabe_job *job)
{
    if (job->drop)
        job->drop(job->payload);
    json_decref(job->wish);
    pthread_mutex_destroy(&job->lock);
    pthread_mutex_destroy(&job->record_lock);
    cabe_free(job);
}

struct cabe_job *cabe_jobs_find(struct cabe_jobs *jobs, const char *id)
{
    struct cabe_job *job;

    pthread_mutex_lock(&jobs->lock);
    for (job = jobs->jobs; job; job = job->next)
        if (strcmp(job->id, id) == 0 && (!job->is_over || job->is_unsaved))
            break; /* otherwise the store knows more */
    if (job)
        job->n_refs++;
    pthread_mutex_unlock(&jobs->lock);
    return job;
}

void cabe_job_put(struct cabe_job *job)
{
    struct cabe_jobs *jobs = job->jobs;

    pthread_mutex_lock(&jobs->lock);
    job->n_refs--;
    pthread_mutex_unlock(&jobs->lock);
}

void cabe_job_read(struct cabe_job *job, struct cabe_job_record *record)
{
    pthread_mutex_lock(&job->record_lock);
    *record = job->record;
    pthread_mutex_unlock(&job->record_lock);
}

int cabe_job_newer(const void *a, const void *b)
{
    return strcmp(((const struct cabe_job_record *)b)->id, ((const struct cabe_job_record *)a)->id);
}

int cabe_jobs_unstored(struct cabe_jobs *jobs, int state, struct cabe_job_record out[CABE_JOBS_UNSTORED_MAX])
{
    struct cabe_job *found[CABE_JOBS_ALIVE_MAX];
    int n = 0, kept = 0;

    pthread_mutex_lock(&jobs->lock);
    for (int i = 0; i < CABE_JOBS_RECENT_MAX; i++)
        if (jobs->recent[i].id[0] && (state < 0 || (int)jobs->recent[i].state == state))
            out[kept++] = jobs->recent[i];
    for (struct cabe_job *job = jobs->jobs; job && n < CABE_JOBS_ALIVE_MAX; job = job->next) {
        if (job->is_fleeting ? job->is_over : !job->is_unsaved)
            continue;
        job->n_refs++;
        found[n++] = job;
    }
    pthread_mutex_unlock(&jobs->lock);
    for (int i = 0; i < n; i++) {
        cabe_job_read(found[i], &out[kept]);
        kept += state < 0 || (int)out[kept].state == state;
        cabe_job_put(found[i]);
    }
    return kept;
}

/* Under the lock; NULL: not there. */
static struct cabe_job_record *find_recent(struct cabe_jobs *jobs, const char *id)
{
    for (int i = 0; i < CABE_JOBS_RECENT_MAX; i++)
        if (jobs->recent[i].id[0] && strcmp(jobs->recent[i].id, id) == 0)
            return &jobs->recent[i];
    return NULL;
}

int cabe_jobs_recent(struct cabe_jobs *jobs, const char *id, struct cabe_job_record *record)
{
    const struct cabe_job_record *found;

    pthread_mutex_lock(&jobs->lock);
    found = find_recent(jobs, id);
    if (found)
        *record = *found;
    pthread_mutex_unlock(&jobs->lock);
    return found != NULL;
}

void cabe_jobs_forget(struct cabe_jobs *jobs, const char *id)
{
    struct cabe_job_record *found;

    pthread_mutex_lock(&jobs->lock);
    found = find_recent(jobs, id);
    if (found)
        found->id[0] = '\0';
    pthread_mutex_unlock(&jobs->lock);
}

/* Jobs whose thread has ended: joined, tried to be saved where that failed, and freed. */
static void reap(struct cabe_jobs *jobs)
{
    struct cabe_job *ended = NULL;
    struct cabe_jobs_store *store = NULL;

    pthread_mutex_lock(&jobs->lock);
    for (struct cabe_job **at = &jobs->jobs; *at;) {
        struct cabe_job *job = *at;

        if (job->is_ended && job->is_unsaved && !jobs->is_closing && cabe_jobs_store(jobs, &store, NULL) == CABE_OK &&
            cabe_jobs_store_update(store, &job->record, NULL) == CABE_OK)
            job->is_unsaved = 0;
        if (job->is_ended && job->n_refs == 0 && (!job->is_unsaved || jobs->is_closing)) {
            *at = job->next;
            job->next = ended;
            ended = job;
        } else {
            at = &job->next;
        }
    }
    pthread_mutex_unlock(&jobs->lock);
    while (ended) {
        struct cabe_job *job = ended;

        ended = job->next;
        pthread_join(job->thread, NULL);
        free_job(job);
    }
}

void cabe_jobs_close(struct cabe_jobs *jobs)
{
    const struct timespec pause = {0, 2000000};
    int n_left = 1;

    if (!jobs)
        return;
    pthread_mutex_lock(&jobs->lock);
    jobs->is_closing = 1;
    for (struct cabe_job *job = jobs->jobs; job; job = job->next)
        atomic_store_explicit(&job->cancel.wanted, 1, memory_order_relaxed);
    pthread_mutex_unlock(&jobs->lock);
    while (n_left) {
        reap(jobs);
        pthread_mutex_lock(&jobs->lock);
        n_left = jobs->jobs != NULL;
        pthread_mutex_unlock(&jobs->lock);
        if (n_left)
            nanosleep(&pause, NULL);
    }
    cabe_slots_close(jobs->slots);
    cabe_jobs_store_close(jobs->store);
    if (jobs->charged_bytes)
        cabe_ledger_release(jobs->server->session->ledger, CABE_HOST, CABE_PURPOSE_CACHES, jobs->charged_bytes, "jobs");
    pthread_mutex_destroy(&jobs->store_lock);
    pthread_mutex_destroy(&jobs->lock);
    cabe_free(jobs);
}

void cabe_jobs_counts(struct cabe_jobs *jobs, int64_t *n_waiting, int64_t *n_running)
{
    *n_waiting = *n_running = 0;
    if (!jobs)
        return;
    pthread_mutex_lock(&jobs->lock);
    for (struct cabe_job *job = jobs->jobs; job; job = job->next) {
        pthread_mutex_lock(&job->record_lock);
        *n_waiting += job->record.state == CABE_JOB_WAITING;
        *n_running += job->record.state == CABE_JOB_RUNNING;
        pthread_mutex_unlock(&job->record_lock);
    }
    pthread_mutex_unlock(&jobs->lock);
}

/* ---- who follows ---- */

static void cancel_job(void *self)
{
    struct cabe_job *job = self;

    atomic_store_explicit(&job->cancel.wanted, 1, memory_order_relaxed);
}

/*
 * One piece to one follower. Who asked for a fleeting job is waited for a while when he reads slowly, or when there is no
 * memory for the piece at this moment, as there is no second way to the result; others come back with Last-Event-ID.
 */
static enum cabe_status put_patiently(struct cabe_job *job, struct cabe_job_follower *follower, uint64_t id,
                                      const char *event, const char *data)
{
    const struct timespec pause = {0, SLOW_READER_POLL_NS};
    uint64_t began = cabe_clock_ns();
    enum cabe_status status;

    do {
        status = cabe_stream_put(&follower->stream, id, event, data);
        if ((status != CABE_ERR_LIMIT && status != CABE_ERR_OOM) || !job->is_fleeting)
            return status;
        nanosleep(&pause, NULL);
    } while (cabe_clock_ns() - began < SLOW_READER_NS && !cabe_cancelled(&job->cancel));
    return status;
}

/* Under the job's lock. */
static void tell(struct cabe_job *job, uint64_t id, const char *event, const char *data)
{
    for (struct cabe_job_follower **at = &job->followers; *at;) {
        struct cabe_job_follower *follower = *at;

        if (put_patiently(job, follower, id, event, data) == CABE_OK) {
            at = &follower->next;
            continue;
        }
        if (job->is_fleeting)
            cancel_job(job);
        *at = follower->next;
        cabe_stream_end(&follower->stream);
        cabe_free(follower);
    }
}

static void tell_json(struct cabe_job *job, uint64_t id, const char *event, json_t *json)
{
    char *text = cabe_stream_line(json);

    json_decref(json);
    if (text)
        tell(job, id, event, text);
    cabe_free(text);
}

static enum cabe_status replay_part(void *self, uint64_t n, const char *name, const char *data)
{
    struct cabe_job_follower *follower = self;

    return cabe_stream_put(&follower->stream, n, name, data);
}

void cabe_job_follow(struct cabe_job *job, struct cabe_http_exchange *exchange, uint64_t after)
{
    struct cabe_job_follower *follower = cabe_calloc(1, sizeof *follower);
    struct cabe_job_record record;
    struct cabe_jobs_store *store;
    json_t *json;
    char *state;

    if (!follower) {
        cabe_reply_no_memory(exchange, "a listener");
        return;
    }
    pthread_mutex_lock(&job->lock); /* nothing new is told while the old is told again */
    cabe_stream_begin(&follower->stream, exchange, cabe_stream_wanted(exchange), NULL, NULL);
    if (!job->is_fleeting && cabe_jobs_store(job->jobs, &store, NULL) == CABE_OK)
        (void)!cabe_jobs_store_parts(store, job->record.id, after, replay_part, follower, NULL);
    follower->next = job->followers;
    job->followers = follower;
    cabe_job_read(job, &record);
    json = cabe_job_json(&record);
    state = cabe_stream_line(json);
    json_decref(json);
    if (state)
        (void)!cabe_stream_put(&follower->stream, 0, record.state > CABE_JOB_RUNNING ? "end" : "state", state);
    cabe_free(state);
    if (record.state > CABE_JOB_RUNNING) { /* it ended meanwhile */
        job->followers = follower->next;
        cabe_stream_end(&follower->stream);
        cabe_free(follower);
    }
    pthread_mutex_unlock(&job->lock);
}

/* ---- what run() may call ---- */

const struct cabe_cancel *cabe_job_cancel(const struct cabe_job *job)
{
    return &job->cancel;
}

void *cabe_job_payload(const struct cabe_job *job)
{
    return job->payload;
}

const char *cabe_job_id(const struct cabe_job *job)
{
    return job->id;
}

void cabe_job_progress(struct cabe_job *job, const char *what, uint64_t done, uint64_t total, const char *unit)
{
    uint64_t now = cabe_clock_ns();

    pthread_mutex_lock(&job->lock);
    if (now - job->progress_ns >= PROGRESS_NS || (total && done == total) || strcmp(job->record.what, what) != 0) {
        job->progress_ns = now;
        pthread_mutex_lock(&job->record_lock);
        snprintf(job->record.what, sizeof job->record.what, "%s", what);
        snprintf(job->record.unit, sizeof job->record.unit, "%s", unit ? unit : "");
        job->record.done = done;
        job->record.total = total;
        pthread_mutex_unlock(&job->record_lock);
        if (job->followers)
            tell_json(job, 0, "progress",
                      json_pack("{s:s,s:o,s:o,s:s}", "what", job->record.what, "done", cabe_json_count(done), "total",
                                cabe_json_count(total), "unit", job->record.unit));
    }
    pthread_mutex_unlock(&job->lock);
}

void cabe_job_part(struct cabe_job *job, const char *name, json_t *part)
{
    char *text = cabe_stream_line(part);
    struct cabe_jobs_store *store;
    struct cabe_error err;
    enum cabe_status status = CABE_OK;
    uint64_t n;

    json_decref(part);
    pthread_mutex_lock(&job->lock);
    if (job->broken.status != CABE_OK) {
        pthread_mutex_unlock(&job->lock);
        cabe_free(text);
        return;
    }
    n = job->record.n_parts + 1;
    if (!text)
        status = cabe_fail(&err, CABE_ERR_OOM, "part '%s' of a result", name);
    else if (!job->is_fleeting && (status = cabe_jobs_store(job->jobs, &store, &err)) == CABE_OK)
        status = cabe_jobs_store_part(store, job->record.id, n, name, text, &err);
    if (status == CABE_OK) {
        pthread_mutex_lock(&job->record_lock);
        job->record.n_parts = n;
        job->record.result_bytes += strlen(text);
        pthread_mutex_unlock(&job->record_lock);
        tell(job, n, name, text);
    } else { /* a result with a hole in it is none */
        job->broken = err;
        cancel_job(job);
    }
    pthread_mutex_unlock(&job->lock);
    cabe_free(text);
}

/* ---- the life of a job ---- */

static enum cabe_status store_record(struct cabe_job *job, const struct cabe_job_record *record, struct cabe_error *err)
{
    struct cabe_jobs_store *store;
    enum cabe_status status = CABE_OK;

    if (!job->is_fleeting && (status = cabe_jobs_store(job->jobs, &store, err)) == CABE_OK)
        status = cabe_jobs_store_update(store, record, err);
    return status;
}

static void publish(const struct cabe_job_record *record, struct cabe_server *server)
{
    cabe_events_publish(server->events, "job", cabe_job_json(record));
}

static void set_record(struct cabe_job *job, const struct cabe_job_record *record)
{
    pthread_mutex_lock(&job->record_lock);
    job->record = *record;
    pthread_mutex_unlock(&job->record_lock);
}

static enum cabe_status run_job(struct cabe_job *job, struct cabe_error *err)
{
    struct cabe_server *server = job->jobs->server;
    double wait_s = server->config->slot_wait;
    struct cabe_job_record record;
    enum cabe_status status = CABE_OK;
    char name[CABE_SLOT_NAME_MAX];
    int slot = -1;

    if (json_is_number(json_object_get(job->wish, "slot_wait")))
        wait_s = json_number_value(json_object_get(job->wish, "slot_wait"));
    snprintf(name, sizeof name, "%s %s", job->kind.name, job->record.id);
    if (job->kind.heavy)
        status = cabe_slots_acquire(job->jobs->slots, name, job->record.class_, wait_s, &job->cancel, &slot, err);
    if (status != CABE_OK)
        return status;
    pthread_mutex_lock(&job->lock);
    record = job->record;
    record.state = CABE_JOB_RUNNING;
    record.started_ms = now_ms();
    status = store_record(job, &record, err);
    set_record(job, &record);
    tell_json(job, 0, "state", cabe_job_json(&record));
    pthread_mutex_unlock(&job->lock);
    publish(&record, server);
    if (status == CABE_OK)
        status = job->kind.run(server, job, job->wish, err);
    if (slot >= 0)
        cabe_slots_release(job->jobs->slots, slot);
    return status;
}

static struct cabe_job_record last_record(const struct cabe_job *job, enum cabe_status status, const struct cabe_error *why,
                                          int is_closing)
{
    struct cabe_job_record record = job->record;
    int is_broken = job->broken.status != CABE_OK, is_stopped;

    if (is_broken) {
        status = job->broken.status;
        why = &job->broken;
    }
    is_stopped = status == CABE_ERR_CANCELLED && !is_broken;
    record.ended_ms = now_ms();
    record.error_status = status;
    record.state = status == CABE_OK            ? CABE_JOB_DONE
                   : is_stopped && !is_closing ? CABE_JOB_CANCELLED
                                               : CABE_JOB_FAILED;
    if (status != CABE_OK)
        snprintf(record.error, sizeof record.error, "%s", is_stopped && is_closing ? "the server stopped" : why->text);
    return record;
}

/* What is told at the end is stored before it is told, and who asks then finds it there. */
static void end_job(struct cabe_job *job, enum cabe_status status, const struct cabe_error *why)
{
    struct cabe_jobs *jobs = job->jobs;
    struct cabe_job_record record;
    struct cabe_error err;
    int is_closing, is_unsaved;

    pthread_mutex_lock(&jobs->lock);
    is_closing = jobs->is_closing;
    pthread_mutex_unlock(&jobs->lock);
    pthread_mutex_lock(&job->lock);
    record = last_record(job, status, why, is_closing);
    is_unsaved = store_record(job, &record, &err) != CABE_OK;
    if (is_unsaved)
        cabe_log(jobs->server->log, CABE_LOG_WARN, "job_not_kept", "{s:s,s:s}", "job", record.id, "why", err.text);
    pthread_mutex_lock(&jobs->lock);
    set_record(job, &record);
    job->is_unsaved = is_unsaved;
    job->is_over = 1;
    if (job->is_fleeting)
        jobs->recent[jobs->n_recent++ % CABE_JOBS_RECENT_MAX] = record;
    pthread_mutex_unlock(&jobs->lock);
    tell_json(job, 0, "end", cabe_job_json(&record));
    while (job->followers) {
        struct cabe_job_follower *follower = job->followers;

        job->followers = follower->next;
        cabe_stream_end(&follower->stream);
        cabe_free(follower);
    }
    pthread_mutex_unlock(&job->lock);
}

static void *job_thread(void *arg)
{
    struct cabe_job *job = arg;
    struct cabe_jobs *jobs = job->jobs;
    struct cabe_job_record record;
    struct cabe_error err = {0};
    uint64_t began = cabe_clock_ns();
    enum cabe_status status;
    char name[48];

    pthread_mutex_lock(&job->lock); /* who started it has done his part */
    record = job->record;
    pthread_mutex_unlock(&job->lock);
    publish(&record, jobs->server);
    status = run_job(job, &err);
    end_job(job, status, &err);
    cabe_job_read(job, &record);
    publish(&record, jobs->server);
    snprintf(name, sizeof name, "job.%s", record.kind);
    cabe_metrics_operation(jobs->server->metrics, name, record.id, (double)(cabe_clock_ns() - began) / 1e9);
    pthread_mutex_lock(&jobs->lock);
    job->is_ended = 1; /* now another thread may join and free it */
    jobs->n_alive--;
    pthread_mutex_unlock(&jobs->lock);
    return NULL;
}

/* Sorts by time; the second half keeps two servers apart. Under the lock. */
static void name_job(struct cabe_jobs *jobs, struct cabe_job_record *record)
{
    uint64_t ms = (uint64_t)record->created_ms, random = 0;

    if (ms <= jobs->last_ms)
        ms = jobs->last_ms + 1;
    jobs->last_ms = ms;
    if (getrandom(&random, sizeof random, GRND_NONBLOCK) != sizeof random)
        random = cabe_clock_ns() * UINT64_C(0x9E3779B97F4A7C15);
    snprintf(record->id, sizeof record->id, "job-%011" PRIx64 "%010" PRIx64, ms & UINT64_C(0xFFFFFFFFFFF),
             random & UINT64_C(0xFFFFFFFFFF));
}

static struct cabe_job *make_job(struct cabe_jobs *jobs, const struct cabe_job_start *start)
{
    struct cabe_job *job = cabe_calloc(1, sizeof *job);

    if (!job)
        return NULL;
    job->jobs = jobs;
    job->kind = *start->kind;
    job->is_fleeting = start->is_fleeting;
    job->record.is_streamed = start->is_fleeting;
    job->record.class_ = start->class_;
    job->record.created_ms = now_ms();
    snprintf(job->record.kind, sizeof job->record.kind, "%s", start->kind->name);
    pthread_mutex_init(&job->lock, NULL);
    pthread_mutex_init(&job->record_lock, NULL);
    pthread_mutex_lock(&jobs->lock);
    name_job(jobs, &job->record);
    memcpy(job->id, job->record.id, sizeof job->id);
    pthread_mutex_unlock(&jobs->lock);
    return job;
}

static enum cabe_status keep_new(struct cabe_job *job, const json_t *wish, struct cabe_error *err)
{
    struct cabe_jobs_store *store;
    enum cabe_status status = cabe_jobs_store(job->jobs, &store, err);
    char *text;

    if (status != CABE_OK)
        return status;
    text = cabe_stream_line(wish);
    status = text ? cabe_jobs_store_insert(store, &job->record, text, err)
                  : cabe_fail(err, CABE_ERR_OOM, "wish of a job");
    cabe_free(text);
    return status;
}

/* Into the list, with its thread; the job's lock is held, so that the thread waits. */
static enum cabe_status launch(struct cabe_job *job, struct cabe_error *err)
{
    struct cabe_jobs *jobs = job->jobs;
    enum cabe_status status = CABE_OK;
    pthread_attr_t attr;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    pthread_mutex_lock(&jobs->lock);
    if (jobs->is_closing)
        status = cabe_fail(err, CABE_ERR_BUSY, "the server is stopping");
    else if (jobs->n_alive >= CABE_JOBS_ALIVE_MAX)
        status = cabe_fail(err, CABE_ERR_LIMIT, "%d jobs wait or run already", CABE_JOBS_ALIVE_MAX);
    else if (pthread_create(&job->thread, &attr, job_thread, job) != 0)
        status = cabe_fail(err, CABE_ERR_OOM, "thread of a job");
    if (status == CABE_OK) {
        jobs->n_alive++;
        job->next = jobs->jobs;
        jobs->jobs = job;
    }
    pthread_mutex_unlock(&jobs->lock);
    pthread_attr_destroy(&attr);
    return status;
}

/* A job that was stored but could not be launched is not left behind as waiting. */
static void take_back(struct cabe_job *job)
{
    struct cabe_jobs_store *store;

    if (!job->is_fleeting && cabe_jobs_store(job->jobs, &store, NULL) == CABE_OK)
        (void)!cabe_jobs_store_remove(store, job->record.id, NULL);
}

enum cabe_status cabe_jobs_begin(struct cabe_jobs *jobs, const struct cabe_job_start *start, char *id,
                                 struct cabe_error *err)
{
    struct cabe_job_follower *follower = start->exchange ? cabe_calloc(1, sizeof *follower) : NULL;
    struct cabe_job *job = make_job(jobs, start);
    enum cabe_status status = CABE_OK;

    reap(jobs);
    if (!job || (start->exchange && !follower)) {
        json_decref(start->wish);
        if (start->drop)
            start->drop(start->payload);
        cabe_free(follower);
        if (job)
            free_job(job);
        return cabe_fail(err, CABE_ERR_OOM, "job");
    }
    job->wish = start->wish;
    job->payload = start->payload;
    job->drop = start->drop;
    if (!job->is_fleeting)
        status = keep_new(job, job->wish, err);
    if (status == CABE_OK) {
        pthread_mutex_lock(&job->lock);
        snprintf(id, CABE_JOB_ID_MAX, "%s", job->record.id);
        status = launch(job, err);
        if (status == CABE_OK && follower) {
            cabe_stream_begin(&follower->stream, start->exchange, start->form, job->is_fleeting ? cancel_job : NULL, job);
            job->followers = follower;
            tell_json(job, 0, "state", cabe_job_json(&job->record));
        }
        pthread_mutex_unlock(&job->lock);
        if (status == CABE_OK)
            return CABE_OK;
        take_back(job);
    }
    cabe_free(follower);
    free_job(job);
    return status;
}

enum cabe_status cabe_jobs_start(struct cabe_jobs *jobs, const struct cabe_job_kind *kind, json_t *wish,
                                 enum cabe_class class_, char *id, struct cabe_error *err)
{
    struct cabe_job_start start = {.kind = kind, .wish = wish, .class_ = class_};

    return cabe_jobs_begin(jobs, &start, id, err);
}

enum cabe_status cabe_jobs_cancel(struct cabe_jobs *jobs, const char *id, struct cabe_error *err)
{
    struct cabe_job *job = cabe_jobs_find(jobs, id);
    struct cabe_job_record record;
    struct cabe_jobs_store *store;
    enum cabe_status status;

    if (job) {
        cancel_job(job);
        cabe_job_put(job);
        return CABE_OK;
    }
    status = cabe_jobs_store(jobs, &store, err);
    if (status == CABE_OK)
        status = cabe_jobs_store_get(store, id, &record, NULL, err);
    if (status == CABE_OK && record.state <= CABE_JOB_RUNNING)
        return cabe_fail(err, CABE_ERR_BUSY, "%s: another server runs it", id);
    return status;
}
