/*
 * Long work with a name: analyses, pulls, later training. A job has a state, progress, a result that comes in parts, and
 * can be cancelled. Jobs are kept in a database: after a restart a job that ran is failed, with the reason, never lost.
 *
 * Heavy jobs take a slot (runtime/slots.h) and wait for it by class.
 *
 * Thread: every function from any thread.
 */
#ifndef CABE_SERVE_JOBS_H
#define CABE_SERVE_JOBS_H

#include "base/cancel.h"
#include "runtime/slots.h"
#include "serve/server.h"

struct cabe_job;

enum cabe_job_state { CABE_JOB_WAITING, CABE_JOB_RUNNING, CABE_JOB_DONE, CABE_JOB_FAILED, CABE_JOB_CANCELLED };

struct cabe_job_kind {
    const char *name; /* "analyze" */
    int heavy;        /* takes a slot */
    enum cabe_class class_;
    /* On a worker thread. `wish` is what was asked; parts of the result are given by cabe_job_part(). */
    enum cabe_status (*run)(struct cabe_server *server, struct cabe_job *job, const json_t *wish,
                            struct cabe_error *err);
};

CABE_CHECKED enum cabe_status cabe_jobs_open(struct cabe_jobs **out, struct cabe_server *server, struct cabe_error *err);
void cabe_jobs_close(struct cabe_jobs *jobs); /* NULL is fine; cancels what runs and waits for it */

/* `wish` is stored; takes the reference. `id` receives the job's name (at least 40 bytes). */
CABE_CHECKED enum cabe_status cabe_jobs_start(struct cabe_jobs *jobs, const struct cabe_job_kind *kind, json_t *wish,
                                              enum cabe_class class_, char *id, struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_jobs_cancel(struct cabe_jobs *jobs, const char *id, struct cabe_error *err);
/* The slots of heavy work, for whoever else does such work, and for reports. */
struct cabe_slots *cabe_jobs_slots(struct cabe_jobs *jobs);
void cabe_jobs_counts(struct cabe_jobs *jobs, int64_t *n_waiting, int64_t *n_running);

/* For run(). */
const struct cabe_cancel *cabe_job_cancel(const struct cabe_job *job);
void cabe_job_progress(struct cabe_job *job, const char *what, uint64_t done, uint64_t total, const char *unit);
/* Takes the reference; streamed to who listens, and kept. */
void cabe_job_part(struct cabe_job *job, const char *name, json_t *part);

#endif
