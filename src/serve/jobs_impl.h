/* What the parts of the jobs share: jobs.c runs them, jobs_routes.c answers for them, analyze.c starts one. */
#ifndef CABE_SERVE_JOBS_IMPL_H
#define CABE_SERVE_JOBS_IMPL_H

#include <pthread.h>

#include "serve/events_stream.h"
#include "serve/jobs.h"
#include "serve/jobs_store.h"

#define CABE_JOBS_ALIVE_MAX 64 /* waiting and running */
#define CABE_JOBS_RECENT_MAX 16 /* streamed ones that have ended, of which the record is remembered */
#define CABE_JOBS_UNSTORED_MAX (CABE_JOBS_ALIVE_MAX + CABE_JOBS_RECENT_MAX)

struct cabe_job_follower {
    struct cabe_stream stream;
    struct cabe_job_follower *next;
};

struct cabe_job {
    struct cabe_jobs *jobs;
    char id[CABE_JOB_ID_MAX]; /* the record's; does not change */
    struct cabe_job_kind kind;
    json_t *wish;
    int is_fleeting; /* not stored: its result goes to who asked, and ends when he leaves */
    void *payload;   /* of who started it */
    void (*drop)(void *payload);
    struct cabe_cancel cancel;

    pthread_mutex_t lock; /* of what follows, held while it is told, be it to a slow reader; before the other locks */
    struct cabe_job_follower *followers;
    uint64_t progress_ns;     /* when progress was last told */
    struct cabe_error broken; /* a part could not be kept */

    pthread_mutex_t record_lock; /* of the record, which the job's thread alone changes; held for moments */
    struct cabe_job_record record;

    /* under the lock of the jobs */
    pthread_t thread;
    int n_refs;
    int is_over, is_unsaved; /* its end has been told; and could not be stored */
    int is_ended;             /* its thread has nothing left to do */
    struct cabe_job *next;
};

struct cabe_job_start {
    const struct cabe_job_kind *kind;
    json_t *wish; /* taken, also with an error */
    enum cabe_class class_;
    /* Follows the job from its beginning; NULL: nobody does. When this client leaves, a fleeting job is cancelled. */
    struct cabe_http_exchange *exchange;
    enum cabe_stream_form form;
    int is_fleeting;
    void *payload; /* given to drop() at the end of the job, or at once with an error */
    void (*drop)(void *payload);
};

CABE_CHECKED enum cabe_status cabe_jobs_begin(struct cabe_jobs *jobs, const struct cabe_job_start *start, char *id,
                                              struct cabe_error *err);
void *cabe_job_payload(const struct cabe_job *job);
const char *cabe_job_id(const struct cabe_job *job);

/* NULL: not alive here. To be given back with cabe_job_put(). */
struct cabe_job *cabe_jobs_find(struct cabe_jobs *jobs, const char *id);
void cabe_job_put(struct cabe_job *job);
/* For qsort() of records: the newest first. */
int cabe_job_newer(const void *a, const void *b);
/* Records of the fleeting (the last ones that have ended, too) and of the unsaved ones, in any order; how many. */
int cabe_jobs_unstored(struct cabe_jobs *jobs, int state, struct cabe_job_record out[CABE_JOBS_UNSTORED_MAX]);
/* Of a fleeting one that has ended; 0: not known, or no longer. */
int cabe_jobs_recent(struct cabe_jobs *jobs, const char *id, struct cabe_job_record *record);
/* Forgets it. */
void cabe_jobs_forget(struct cabe_jobs *jobs, const char *id);
/* Of a living job: what it is now. */
void cabe_job_read(struct cabe_job *job, struct cabe_job_record *record);
/* The store, opened (again) if it must be. */
CABE_CHECKED enum cabe_status cabe_jobs_store(struct cabe_jobs *jobs, struct cabe_jobs_store **store,
                                              struct cabe_error *err);
json_t *cabe_job_json(const struct cabe_job_record *record);
const char *cabe_job_state_name(enum cabe_job_state state);
/* Adds a listener, who first gets the stored parts after number `after`. */
void cabe_job_follow(struct cabe_job *job, struct cabe_http_exchange *exchange, uint64_t after);

#endif
