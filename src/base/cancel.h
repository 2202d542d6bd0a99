/*
 * A wish to stop, and news of how far long work has come. Thread: set from any thread or signal handler, read
 * from any.
 */
#ifndef CABE_BASE_CANCEL_H
#define CABE_BASE_CANCEL_H

#include <stdatomic.h>
#include <stdint.h>

#include "cabe/status.h"

struct cabe_cancel {
    atomic_int wanted; /* relaxed: it carries no data, only the wish */
};

static inline int cabe_cancelled(const struct cabe_cancel *cancel)
{
    return cancel &&
           atomic_load_explicit(&((struct cabe_cancel *)(uintptr_t)cancel)->wanted, memory_order_relaxed);
}

/*
 * Called on the working thread, at most a few times a second; `done` of `total` in `unit`s; total 0: not
 * known.
 */
struct cabe_progress {
    void (*report)(void *self, const char *what, uint64_t done, uint64_t total, const char *unit);
    void *self;
};

static inline void cabe_progress_report(const struct cabe_progress *progress, const char *what, uint64_t done,
                                        uint64_t total, const char *unit)
{
    if (progress && progress->report)
        progress->report(progress->self, what, done, total, unit);
}

#endif
