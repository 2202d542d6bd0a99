/* The thread of a model: loads it when something waits, serves, and ends when the model is no longer in memory. */
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/threads.h"
#include "serve/service_impl.h"

#define WINDOW_LOADS 5.0
#define WINDOW_S_MAX 10.0
#define PREFETCH_LIKELY 0.5
#define PREFETCH_SPARE_BYTES (UINT64_C(64) << 20) /* that stay free for requests */

/*
 * From when on it may be taken: while others press the machine, new work is held back by its class. That spaces the work
 * out; a model that has rested for as long already answers a person who asks now and then at once.
 */
static uint64_t due_ns(const struct cabe_service_entry *e, const struct cabe_queue_item *item)
{
    const struct cabe_service_ticket *t = CABE_QUEUE_OF(item, const struct cabe_service_ticket, item);
    uint64_t from_ns = item->entered_ns;

    if (t->embed.goes_on)
        return item->entered_ns;
    if (e->view.n_running == 0 && e->idle_since_ns < from_ns)
        from_ns = e->idle_since_ns;
    return from_ns + (uint64_t)(cabe_pace_delay(&e->service->pace, item->class_) * 1e9);
}

struct cabe_queue_item *cabe_host_next(const struct cabe_service_entry *e, uint64_t now_ns, uint64_t *next_ns)
{
    struct cabe_queue_item *item = cabe_queue_peek(&e->queue, now_ns);

    *next_ns = UINT64_MAX;
    if (!item || due_ns(e, item) <= now_ns)
        return item;
    for (int class_ = 0; class_ < CABE_N_CLASSES; class_++) {
        item = cabe_queue_oldest(&e->queue, (enum cabe_class)class_);
        if (item && due_ns(e, item) <= now_ns)
            return item;
        if (item && due_ns(e, item) < *next_ns)
            *next_ns = due_ns(e, item);
    }
    return NULL;
}

struct cabe_service_ticket *cabe_host_take_item(struct cabe_service_entry *e, struct cabe_queue_item *item,
                                                uint64_t now_ns)
{
    struct cabe_service_ticket *t = CABE_QUEUE_OF(item, struct cabe_service_ticket, item);

    if (item == cabe_queue_peek(&e->queue, now_ns))
        (void)cabe_queue_pop(&e->queue, now_ns);
    else
        cabe_queue_take(item);
    t->phase = t->embeds ? CABE_TICKET_READY : CABE_TICKET_TAKEN;
    t->taken_ns = now_ns;
    if (e->loaded_ns > t->admitted_ns) {
        uint64_t from = e->acquire_ns > t->admitted_ns ? e->acquire_ns : t->admitted_ns;

        t->load_ns = e->loaded_ns > from ? e->loaded_ns - from : 0;
    }
    t->started = 1;
    t->next = NULL;
    e->view.n_running++;
    return t;
}

struct cabe_service_ticket *cabe_host_take(struct cabe_service_entry *e, uint64_t now_ns)
{
    uint64_t next_ns;
    struct cabe_queue_item *item = cabe_host_next(e, now_ns, &next_ns);

    return item ? cabe_host_take_item(e, item, now_ns) : NULL;
}

/* ---- under the lock ---- */

static int has_work(const struct cabe_service_entry *e)
{
    return e->queue.n > 0 || e->loads;
}

/* 1: there is work that may begin; 0: the host has nothing to live for. */
static int wait_for_work(struct cabe_service_entry *e)
{
    struct cabe_service *service = e->service;
    uint64_t next_ns;

    for (;;) {
        if (e->loads || cabe_host_next(e, cabe_clock_ns(), &next_ns) || (service->closing && has_work(e)))
            return 1;
        if (e->queue.n == 0 && (service->closing || e->view.state == CABE_SERVICE_ABSENT))
            return 0;
        if (next_ns == UINT64_MAX) {
            pthread_cond_wait(&e->wake, &service->lock);
        } else {
            struct timespec until = {(time_t)(next_ns / 1000000000u), (long)(next_ns % 1000000000u)};

            (void)pthread_cond_timedwait(&e->wake, &service->lock, &until);
        }
    }
}

/* Those who wanted it in memory by now; gives up the lock meanwhile. */
static void tell_waiters(struct cabe_service_entry *e, enum cabe_status status, const struct cabe_error *err)
{
    struct cabe_load_waiter *waiter = e->loads, *next;

    e->loads = NULL;
    pthread_mutex_unlock(&e->service->lock);
    for (; waiter; waiter = next) {
        next = waiter->next;
        if (waiter->done)
            waiter->done(waiter->self, status, err);
        cabe_free(waiter);
    }
    pthread_mutex_lock(&e->service->lock);
}

/* What waits by now ends with the error of the load; gives up the lock meanwhile. */
static void fail_all(struct cabe_service_entry *e, enum cabe_status status, const struct cabe_error *err)
{
    struct cabe_service_ticket *first = NULL, **last = &first, *t;
    uint64_t now_ns = cabe_clock_ns();

    while (e->queue.n > 0) {
        t = cabe_host_take_item(e, cabe_queue_peek(&e->queue, now_ns), now_ns);
        *last = t;
        last = &t->next;
    }
    cabe_forecast_forget_rate(&e->forecast);
    pthread_mutex_unlock(&e->service->lock);
    while ((t = first)) {
        first = t->next;
        cabe_ticket_end(t, status, err);
    }
    pthread_mutex_lock(&e->service->lock);
    tell_waiters(e, status, err);
}

uint64_t cabe_entry_keep_alive_ns(const struct cabe_service_entry *e)
{
    return e->view.keep_alive_s < 0 || e->view.keep_alive_s > 1e9 ? UINT64_MAX
                                                                  : (uint64_t)(e->view.keep_alive_s * 1e9);
}

/*
 * Models that do not fit together take turns, at most two in a time that is some loads long: what loads in milliseconds
 * may come and go with each request, what takes seconds serves a while.
 */
static void set_window(struct cabe_service *service)
{
    struct cabe_pool_config config = {.policy = service->config.eviction, .patience_ns = CABE_POOL_PATIENCE_NS};
    double load_s = 0;

    for (const struct cabe_service_entry *e = service->entries; e; e = e->next)
        if (e->view.state == CABE_SERVICE_READY && e->view.load_s > load_s)
            load_s = e->view.load_s;
    config.window_ns = (uint64_t)(1e9 * (load_s < WINDOW_S_MAX / WINDOW_LOADS ? WINDOW_LOADS * load_s : WINDOW_S_MAX));
    cabe_pool_configure(service->pool, &config);
}

static enum cabe_status acquire(struct cabe_service_entry *e, struct cabe_pool_use **use, struct cabe_error *err)
{
    struct cabe_service *service = e->service;
    enum cabe_status status;

    atomic_store_explicit(&e->load_cancel.wanted, 0, memory_order_relaxed);
    e->is_acquiring = 1;
    e->acquire_ns = cabe_clock_ns();
    pthread_mutex_unlock(&service->lock);
    status = cabe_loaded_acquire(e, &e->load_cancel, use, err);
    pthread_mutex_lock(&service->lock);
    e->is_acquiring = 0;
    e->is_serving = status == CABE_OK;
    e->loaded_ns = cabe_clock_ns();
    cabe_keeper_call(service); /* waiting times count from here */
    set_window(service);
    return status;
}

uint64_t cabe_host_alive_ns(const struct cabe_service_entry *e)
{
    uint64_t node_ns = atomic_load_explicit(&e->step_cancel.alive_ns, memory_order_relaxed);

    return node_ns > e->step_ns ? node_ns : e->step_ns;
}

/* Whatever pins it. */
static void unload(struct cabe_service_entry *e, int is_pinned)
{
    struct cabe_pool *pool = e->service->pool;

    (void)!cabe_pool_pin(pool, e->view.name, 0, NULL);
    (void)!cabe_pool_unload(pool, e->view.name, NULL);
    (void)!cabe_pool_pin(pool, e->view.name, is_pinned, NULL);
}

static void release(struct cabe_service_entry *e, struct cabe_pool_use *use, enum cabe_status status)
{
    struct cabe_service *service = e->service;
    uint64_t keep_ns;
    int is_pinned;

    pthread_mutex_lock(&service->lock);
    e->step_ns = 0;
    memset(e->place_s, 0, sizeof e->place_s);
    is_pinned = e->view.pinned;
    keep_ns = cabe_entry_keep_alive_ns(e);
    pthread_mutex_unlock(&service->lock);
    /* No room to remember it: it then stays until others need the room. */
    (void)!cabe_pool_keep_alive(service->pool, e->view.name, keep_ns, NULL);
    cabe_pool_release(service->pool, use);
    if (status != CABE_OK) { /* broken: whoever asks next gets it fresh */
        unload(e, is_pinned);
    } else if (keep_ns == 0) {
        cabe_pool_tick(service->pool);
    }
}

/*
 * The model is there with less context than who waits asks for: it goes, to come again with more. 1: it went. Under the
 * lock, which it gives up; `use` is given back then.
 */
static int make_way(struct cabe_service_entry *e, struct cabe_pool_use *use)
{
    struct cabe_service *service = e->service;
    int is_pinned = e->view.pinned;

    (void)cabe_context_wanted(e);
    if (service->closing || !cabe_context_grows(e, cabe_clock_ns()))
        return 0;
    e->asked_ns = 0;
    pthread_mutex_unlock(&service->lock);
    cabe_pool_release(service->pool, use);
    unload(e, is_pinned);
    pthread_mutex_lock(&service->lock);
    e->is_serving = 0;
    if (e->view.state != CABE_SERVICE_ABSENT)
        cabe_context_wait(e, cabe_clock_ns()); /* somebody reads its tokens */
    return 1;
}

/* What usually is asked for next is loaded beside this one, where there is room for it as things are. */
static void prefetch(struct cabe_service_entry *e)
{
    struct cabe_service *service = e->service;
    char name[CABE_SERVICE_NAME_MAX];
    uint64_t free_bytes = cabe_ledger_free_bytes(service->config.session->ledger, CABE_HOST);
    double likely = 0;
    int fits = 0;

    if (!cabe_pool_next(service->pool, e->view.name, name, sizeof name, &likely) || likely < PREFETCH_LIKELY)
        return;
    pthread_mutex_lock(&service->lock);
    for (const struct cabe_service_entry *next = service->entries; next; next = next->next)
        if (strcmp(next->view.name, name) == 0)
            fits = next->view.peak_bytes > 0 && next->view.peak_bytes + PREFETCH_SPARE_BYTES <= free_bytes &&
                   !service->draining;
    pthread_mutex_unlock(&service->lock);
    if (fits)
        (void)!cabe_service_load(service, name, NULL, NULL, NULL);
}

static void *host_main(void *self)
{
    struct cabe_service_entry *e = self;
    struct cabe_service *service = e->service;
    struct cabe_pool_use *use;
    struct cabe_error err;
    enum cabe_status status;

    pthread_mutex_lock(&service->lock);
    while (wait_for_work(e)) {
        status = acquire(e, &use, &err);
        if (status == CABE_ERR_CANCELLED && !service->closing && has_work(e))
            continue; /* who wanted it went away, and somebody else came */
        if (status != CABE_OK) {
            fail_all(e, status, &err);
            continue;
        }
        if (make_way(e, use))
            continue;
        tell_waiters(e, CABE_OK, NULL);
        pthread_mutex_unlock(&service->lock);
        prefetch(e);
        {
            struct cabe_loaded *loaded = cabe_pool_object(use);

            status = loaded->generator ? cabe_host_decode(e, loaded, use, &err)
                                       : cabe_host_encode(e, loaded, use, &err);
        }
        release(e, use, status);
        pthread_mutex_lock(&service->lock);
        e->is_serving = 0;
        pthread_cond_broadcast(&service->changed);
        if (status == CABE_ERR_OOM) /* loading it again would not help who waits */
            fail_all(e, status, &err);
    }
    e->thread_ended = 1;
    service->n_hosts--;
    pthread_cond_broadcast(&service->changed);
    pthread_mutex_unlock(&service->lock);
    return NULL;
}

enum cabe_status cabe_host_start(struct cabe_service_entry *e, struct cabe_error *err)
{
    pthread_attr_t attributes;
    int failed;

    if (e->has_thread && !e->thread_ended) {
        pthread_cond_signal(&e->wake);
        return CABE_OK;
    }
    if (e->has_thread)
        pthread_join(e->thread, NULL); /* it has let go of the lock and returns */
    e->has_thread = 0;
    e->thread_ended = 0;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, CABE_HOST_STACK_BYTES);
    failed = pthread_create(&e->thread, &attributes, host_main, e);
    pthread_attr_destroy(&attributes);
    if (failed)
        return cabe_fail_errno(err, failed, "%s: a thread for it", e->view.name);
    e->has_thread = 1;
    e->service->n_hosts++;
    return CABE_OK;
}
