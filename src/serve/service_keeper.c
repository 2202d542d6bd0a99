/*
 * The keeper: a thread for what must not wait for a host that loads or computes. Requests that are cancelled or late
 * while they wait, loads that nobody waits for, steps that last too long, models that were idle for too long.
 */
#include <time.h>

#include "base/clock.h"
#include "serve/service_impl.h"

#define TICK_NS UINT64_C(1000000000)

/* Under the lock. Takes those that end out of the queue; `*next_ns` becomes when to look again. */
static struct cabe_service_ticket *sort_out(struct cabe_service_entry *e, uint64_t now_ns, uint64_t *next_ns)
{
    struct cabe_service_ticket *out = NULL;
    struct cabe_error err;

    for (int class_ = 0; class_ < CABE_N_CLASSES; class_++) {
        struct cabe_queue_item *item = cabe_queue_oldest(&e->queue, (enum cabe_class)class_), *next;

        for (; item; item = next) {
            struct cabe_service_ticket *t = CABE_QUEUE_OF(item, struct cabe_service_ticket, item);
            uint64_t deadline_ns = cabe_ticket_deadline(t);

            next = item->next;
            if (e->service->closing || cabe_ticket_overdue(t, now_ns, &err) != CABE_OK) {
                cabe_queue_remove(item);
                t->next = out;
                out = t;
            } else if (deadline_ns < *next_ns) {
                *next_ns = deadline_ns;
            }
        }
    }
    return out;
}

/* Under the lock. A load for nobody ends; a step past the stall limit is broken off, and its late requests with it. */
static void look_at_host(struct cabe_service_entry *e, uint64_t now_ns, uint64_t *next_ns)
{
    uint64_t stall_ns = (uint64_t)(e->service->config.stall_s * 1e9);

    if (e->is_acquiring && e->queue.n == 0 && !e->loads)
        atomic_store_explicit(&e->load_cancel.wanted, 1, memory_order_relaxed);
    if (!e->step_ns)
        return;
    if (now_ns >= cabe_host_alive_ns(e) && now_ns - cabe_host_alive_ns(e) > stall_ns)
        atomic_store_explicit(&e->step_cancel.wanted, 1, memory_order_relaxed);
    if (now_ns + TICK_NS < *next_ns)
        *next_ns = now_ns + TICK_NS;
}

/* Under the lock, which it gives up for those it ends. When to look again. */
static uint64_t look(struct cabe_service *service)
{
    uint64_t now_ns = cabe_clock_ns(), next_ns = UINT64_MAX;
    struct cabe_service_ticket *out = NULL;
    struct cabe_error err;

    for (struct cabe_service_entry *e = service->entries; e; e = e->next) {
        struct cabe_service_ticket *late = sort_out(e, now_ns, &next_ns), *next;

        for (; late; late = next) {
            next = late->next;
            late->next = out;
            out = late;
        }
        look_at_host(e, now_ns, &next_ns);
        if (e->view.state == CABE_SERVICE_READY && now_ns + TICK_NS < next_ns)
            next_ns = now_ns + TICK_NS;
    }
    while (out) {
        struct cabe_service_ticket *t = out;
        enum cabe_status status = cabe_ticket_overdue(t, now_ns, &err);

        out = t->next;
        if (status == CABE_OK)
            status = cabe_fail(&err, CABE_ERR_CANCELLED, "the service ends");
        pthread_mutex_unlock(&service->lock);
        cabe_ticket_end(t, status, &err);
        pthread_mutex_lock(&service->lock);
    }
    return next_ns;
}

void *cabe_keeper_main(void *self)
{
    struct cabe_service *service = self;
    uint64_t ticked_ns = 0;

    pthread_mutex_lock(&service->lock);
    for (;;) {
        uint64_t next_ns = look(service), now_ns = cabe_clock_ns();

        if (service->closing && service->n_tickets == 0 && service->n_hosts == 0)
            break;
        if (now_ns - ticked_ns >= TICK_NS) {
            ticked_ns = now_ns;
            pthread_mutex_unlock(&service->lock);
            cabe_pool_tick(service->pool);
            pthread_mutex_lock(&service->lock);
        }
        if (service->closing)
            next_ns = now_ns + TICK_NS / 100;
        if (service->keeper_called) {
            service->keeper_called = 0;
        } else if (next_ns == UINT64_MAX) {
            pthread_cond_wait(&service->keeper_wake, &service->lock);
        } else {
            struct timespec until = {(time_t)(next_ns / 1000000000u), (long)(next_ns % 1000000000u)};

            (void)pthread_cond_timedwait(&service->keeper_wake, &service->lock, &until);
        }
    }
    pthread_mutex_unlock(&service->lock);
    return NULL;
}

void cabe_keeper_call(struct cabe_service *service)
{
    service->keeper_called = 1;
    pthread_cond_signal(&service->keeper_wake);
}
