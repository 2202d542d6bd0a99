/*
 * The worker pool: threads that do what the loop must not wait for, in the order it came.
 *
 * What waits is bounded in number and in time: a piece of work that no worker took within `wait_s` is given to its
 * expired() instead, so that who asked is told.
 *
 * Thread: every function from any thread, open and close from one. expired() runs on the pool's own clock thread.
 */
#ifndef CABE_SERVE_WORKERS_H
#define CABE_SERVE_WORKERS_H

#include <stdint.h>

#include "cabe/status.h"

struct cabe_workers;

#define CABE_WORKERS_WAITING_MAX 4096

struct cabe_workers_config {
    int n_workers;
    int n_waiting;     /* at most; 0: CABE_WORKERS_WAITING_MAX */
    double wait_s;     /* 0: for ever */
    int64_t stack_bytes; /* of a worker; 0: 1 MiB */
};

struct cabe_workers_stats {
    int n_workers, n_busy, n_waiting;
    uint64_t n_done, n_refused, n_expired;
    double waited_s; /* how long the oldest that waits has */
};

CABE_CHECKED enum cabe_status cabe_workers_open(struct cabe_workers **out, const struct cabe_workers_config *config,
                                                struct cabe_error *err);
/* Waits for what runs; what waits is given to its expired(), or where it has none, done. NULL is fine. */
void cabe_workers_close(struct cabe_workers *workers);

/*
 * fn(arg) on a worker; or expired(arg), which may be NULL: then it is kept waiting. CABE_ERR_LIMIT: too many wait.
 * CABE_ERR_BUSY: without expired(), when others have waited past the limit, so that this one would as well.
 */
CABE_CHECKED enum cabe_status cabe_workers_submit(struct cabe_workers *workers, void (*fn)(void *arg),
                                                  void (*expired)(void *arg), void *arg, struct cabe_error *err);
void cabe_workers_stats(struct cabe_workers *workers, struct cabe_workers_stats *stats);

#endif
