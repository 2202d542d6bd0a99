/*
 * A wish to stop, the sign of life of who might be stopped, and news of how far long work has come. Thread: set from any
 * thread or signal handler, read from any.
 */
#ifndef CABE_BASE_CANCEL_H
#define CABE_BASE_CANCEL_H

#include <stdatomic.h>
#include <stdint.h>

#include "cabe/status.h"

struct cabe_cancel {
    atomic_int wanted;      /* relaxed: it carries no data, only the wish */
    atomic_ullong alive_ns; /* relaxed: the clock when the work last got on; 0: it does not say */
};

static inline int cabe_cancelled(const struct cabe_cancel *cancel)
{
    return cancel &&
           atomic_load_explicit(&((struct cabe_cancel *)(uintptr_t)cancel)->wanted, memory_order_relaxed);
}

/* Work that looks at `cancel` (may be NULL) got on at now_ns: who waits for it can tell what is long from what hangs. */
static inline void cabe_cancel_alive(const struct cabe_cancel *cancel, uint64_t now_ns)
{
    if (cancel)
        atomic_store_explicit(&((struct cabe_cancel *)(uintptr_t)cancel)->alive_ns, now_ns, memory_order_relaxed);
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
