#include "serve/workers.h"

#include <pthread.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/threads.h"

#define STACK_BYTES (1024 * 1024) /* a plan is made on it, in sanitized builds on wider frames */

struct work {
    void (*fn)(void *arg);
    void (*expired)(void *arg);
    void *arg;
    uint64_t since_ns;
    struct work *next;
};

struct cabe_workers {
    pthread_mutex_t lock;
    pthread_cond_t wake; /* workers: there is work, or the end */
    pthread_cond_t tick; /* the clock: the first work waits, or the end */
    uint64_t wait_ns;
    int n_waiting_max;
    pthread_t *threads;
    int n_threads; /* started */
    pthread_t clock;
    int has_clock;
    /* under lock: */
    struct work *first, **last;
    int closing, clock_idle;
    struct cabe_workers_stats stats;
};

static struct work *take_first(struct cabe_workers *w)
{
    struct work *work = w->first;

    w->first = work->next;
    if (!w->first)
        w->last = &w->first;
    w->stats.n_waiting--;
    return work;
}

static void *worker_main(void *self)
{
    struct cabe_workers *w = self;

    cabe_thread_slice(CABE_SLICE_ANSWER_NS);
    pthread_mutex_lock(&w->lock);
    for (;;) {
        struct work *work;
        int closing;

        while (!w->first && !w->closing)
            pthread_cond_wait(&w->wake, &w->lock);
        if (!w->first)
            break;
        work = take_first(w);
        w->stats.n_busy++;
        closing = w->closing;
        pthread_mutex_unlock(&w->lock);
        if (closing && work->expired)
            work->expired(work->arg);
        else
            work->fn(work->arg);
        cabe_free(work);
        pthread_mutex_lock(&w->lock);
        w->stats.n_busy--;
        w->stats.n_done++;
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* The first that has waited too long and can be told so, taken out of the queue; NULL: none, and when to look again. */
static struct work *take_expired(struct cabe_workers *w, uint64_t *again_ns)
{
    uint64_t now = cabe_clock_ns();

    *again_ns = UINT64_MAX;
    for (struct work **at = &w->first; *at; at = &(*at)->next) {
        struct work *work = *at;

        if (!work->expired)
            continue;
        if (now - work->since_ns < w->wait_ns) {
            *again_ns = work->since_ns + w->wait_ns - now;
            return NULL; /* those behind it came later */
        }
        *at = work->next;
        if (!*at)
            w->last = at;
        w->stats.n_waiting--;
        w->stats.n_expired++;
        return work;
    }
    return NULL;
}

static void *clock_main(void *self)
{
    struct cabe_workers *w = self;

    pthread_mutex_lock(&w->lock);
    while (!w->closing) {
        uint64_t again_ns;
        struct work *work = take_expired(w, &again_ns);

        if (work) {
            pthread_mutex_unlock(&w->lock);
            work->expired(work->arg);
            cabe_free(work);
            pthread_mutex_lock(&w->lock);
        } else if (again_ns == UINT64_MAX) {
            w->clock_idle = 1;
            pthread_cond_wait(&w->tick, &w->lock);
            w->clock_idle = 0;
        } else {
            uint64_t until_ns = cabe_clock_ns() + again_ns;
            struct timespec until = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};

            pthread_cond_timedwait(&w->tick, &w->lock, &until);
        }
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static enum cabe_status start_threads(struct cabe_workers *w, const struct cabe_workers_config *config,
                                      struct cabe_error *err)
{
    pthread_attr_t attributes;
    int failed = 0;

    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, config->stack_bytes > 0 ? (size_t)config->stack_bytes : STACK_BYTES);
    for (int i = 0; i < config->n_workers && !failed; i++) {
        failed = pthread_create(&w->threads[i], &attributes, worker_main, w);
        w->n_threads += !failed;
    }
    if (!failed && w->wait_ns) {
        failed = pthread_create(&w->clock, &attributes, clock_main, w);
        w->has_clock = !failed;
    }
    pthread_attr_destroy(&attributes);
    w->stats.n_workers = w->n_threads;
    return failed ? cabe_fail_errno(err, failed, "worker thread %d of %d", w->n_threads + 1, config->n_workers)
                  : CABE_OK;
}

enum cabe_status cabe_workers_open(struct cabe_workers **out, const struct cabe_workers_config *config,
                                   struct cabe_error *err)
{
    struct cabe_workers *w = cabe_calloc(1, sizeof *w);
    pthread_condattr_t attributes;
    enum cabe_status status;

    *out = NULL;
    if (!w)
        return cabe_fail(err, CABE_ERR_OOM, "worker pool");
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&w->tick, &attributes);
    pthread_condattr_destroy(&attributes);
    w->last = &w->first;
    w->n_waiting_max = config->n_waiting > 0 ? config->n_waiting : CABE_WORKERS_WAITING_MAX;
    w->wait_ns = config->wait_s > 0 ? (uint64_t)(config->wait_s * 1e9) : 0;
    w->threads = cabe_calloc((size_t)config->n_workers, sizeof *w->threads);
    status = w->threads ? start_threads(w, config, err)
                        : cabe_fail(err, CABE_ERR_OOM, "pool of %d workers", config->n_workers);
    if (status != CABE_OK) {
        cabe_workers_close(w);
        return status;
    }
    *out = w;
    return CABE_OK;
}

void cabe_workers_close(struct cabe_workers *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->closing = 1;
    pthread_cond_broadcast(&w->wake);
    pthread_cond_broadcast(&w->tick);
    pthread_mutex_unlock(&w->lock);
    for (int i = 0; i < w->n_threads; i++)
        pthread_join(w->threads[i], NULL);
    if (w->has_clock)
        pthread_join(w->clock, NULL);
    pthread_cond_destroy(&w->wake);
    pthread_cond_destroy(&w->tick);
    pthread_mutex_destroy(&w->lock);
    cabe_free(w->threads);
    cabe_free(w);
}

/* Why one more may not wait. Under the lock. */
static enum cabe_status refuse(const struct cabe_workers *w, int can_expire, struct cabe_error *err)
{
    double waited_s;

    if (w->closing)
        return cabe_fail(err, CABE_ERR_BUSY, "the worker pool is closing");
    if (w->stats.n_waiting >= w->n_waiting_max)
        return cabe_fail(err, CABE_ERR_LIMIT, "%d pieces of work wait for %d workers, which is the limit",
                         w->stats.n_waiting, w->n_threads);
    if (can_expire || !w->wait_ns || !w->first || cabe_clock_ns() - w->first->since_ns < w->wait_ns)
        return CABE_OK;
    waited_s = (double)(cabe_clock_ns() - w->first->since_ns) / 1e9;
    return cabe_fail(err, CABE_ERR_BUSY, "no worker of %d was free for %.1f s (limit %.1f s)", w->n_threads, waited_s,
                     (double)w->wait_ns / 1e9);
}

enum cabe_status cabe_workers_submit(struct cabe_workers *w, void (*fn)(void *arg), void (*expired)(void *arg),
                                     void *arg, struct cabe_error *err)
{
    struct work *work = cabe_malloc(sizeof *work);
    enum cabe_status status;

    if (!work)
        return cabe_fail(err, CABE_ERR_OOM, "a piece of work for the worker pool");
    *work = (struct work){fn, expired, arg, cabe_clock_ns(), NULL};
    pthread_mutex_lock(&w->lock);
    status = refuse(w, expired != NULL, err);
    if (status == CABE_OK) {
        *w->last = work;
        w->last = &work->next;
        w->stats.n_waiting++;
        pthread_cond_signal(&w->wake);
        if (expired && w->clock_idle)
            pthread_cond_signal(&w->tick);
    } else {
        w->stats.n_refused++;
    }
    pthread_mutex_unlock(&w->lock);
    if (status != CABE_OK)
        cabe_free(work);
    return status;
}

void cabe_workers_stats(struct cabe_workers *w, struct cabe_workers_stats *stats)
{
    pthread_mutex_lock(&w->lock);
    *stats = w->stats;
    stats->waited_s = w->first ? (double)(cabe_clock_ns() - w->first->since_ns) / 1e9 : 0;
    pthread_mutex_unlock(&w->lock);
}
