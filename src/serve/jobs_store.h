/*
 * Where jobs are kept: one SQLite file, a writer and a reader.
 *
 * A server marks its jobs with a number that it holds as a lock beside the file for as long as it lives, so that the
 * next one knows which jobs have lost theirs, and two servers can share the file.
 *
 * Errors: CABE_ERR_NO_SPACE, _PERMISSION (read-only too), _IO (also: not ours, or damaged), _BUSY; each names the file.
 * Nothing is half written: each call is one transaction.
 *
 * Thread: every function from any thread.
 */
#ifndef CABE_SERVE_JOBS_STORE_H
#define CABE_SERVE_JOBS_STORE_H

#include <stdint.h>

#include "base/class.h"
#include "serve/jobs.h"

#define CABE_JOB_ID_MAX 40
#define CABE_JOBS_KEPT 1000                          /* finished ones; the oldest go */
#define CABE_JOBS_KEPT_BYTES (UINT64_C(256) << 20)   /* of their results */

struct cabe_job_record {
    char id[CABE_JOB_ID_MAX];
    char kind[32];
    enum cabe_job_state state;
    enum cabe_class class_;
    int64_t created_ms, started_ms, ended_ms; /* Unix time; 0: not yet */
    enum cabe_status error_status;
    char error[CABE_ERROR_TEXT_MAX];
    uint64_t n_parts, result_bytes;
    int is_others;   /* of another server that is alive */
    int is_streamed; /* not stored: its result went to who asked */
    /* of a job that is alive here, not stored */
    char what[64], unit[32];
    uint64_t done, total;
};

struct cabe_jobs_store;

/* Jobs that nobody runs any more become failed: "the server stopped"; `n_lost` says how many. */
CABE_CHECKED enum cabe_status cabe_jobs_store_open(struct cabe_jobs_store **out, const char *path, int *n_lost,
                                                   struct cabe_error *err);
void cabe_jobs_store_close(struct cabe_jobs_store *store); /* NULL is fine */

CABE_CHECKED enum cabe_status cabe_jobs_store_insert(struct cabe_jobs_store *store,
                                                     const struct cabe_job_record *record, const char *wish,
                                                     struct cabe_error *err);
/* State, times and error. A finished one may push out the oldest. */
CABE_CHECKED enum cabe_status cabe_jobs_store_update(struct cabe_jobs_store *store,
                                                     const struct cabe_job_record *record, struct cabe_error *err);
/* Part number `n` from 1. */
CABE_CHECKED enum cabe_status cabe_jobs_store_part(struct cabe_jobs_store *store, const char *id, uint64_t n,
                                                   const char *name, const char *data, struct cabe_error *err);
/* `*wish` (may be NULL) is cabe_malloc'ed. */
CABE_CHECKED enum cabe_status cabe_jobs_store_get(struct cabe_jobs_store *store, const char *id,
                                                  struct cabe_job_record *record, char **wish, struct cabe_error *err);
/* Newest first, those created before the job `before` (NULL: from the newest); `state` -1: all. */
CABE_CHECKED enum cabe_status cabe_jobs_store_list(struct cabe_jobs_store *store, int state, const char *before, int n_max,
                                                   struct cabe_job_record *out, int *n, struct cabe_error *err);
/* What SQLite's caches grow to, of all stores of a process: it gives pages back rather than take more. */
#define CABE_JOBS_STORE_BYTES (UINT64_C(768) << 10)

/* The parts after number `after`, in order, until `each` returns something else than CABE_OK. */
CABE_CHECKED enum cabe_status cabe_jobs_store_parts(struct cabe_jobs_store *store, const char *id, uint64_t after,
                                                    enum cabe_status (*each)(void *self, uint64_t n, const char *name,
                                                                             const char *data),
                                                    void *self, struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_jobs_store_remove(struct cabe_jobs_store *store, const char *id,
                                                     struct cabe_error *err);

#endif
