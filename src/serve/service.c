#include "serve/service.h"

#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "serve/service_impl.h"

static void fill_defaults(struct cabe_service_config *config)
{
    config->queue_requests = config->queue_requests > 0 ? config->queue_requests : 256;
    config->queue_tokens = config->queue_tokens > 0 ? config->queue_tokens : 262144;
    config->keep_alive_s = config->keep_alive_s == 0 ? 300 : config->keep_alive_s;
    config->first_token_s = config->first_token_s > 0 ? config->first_token_s : 30;
    config->stall_s = config->stall_s > 0 ? config->stall_s : 30;
    for (int c = 0; c < CABE_N_CLASSES; c++)
        config->total_s[c] = config->total_s[c] > 0 ? config->total_s[c] : 600;
}

static enum cabe_status start(struct cabe_service *service, struct cabe_error *err)
{
    struct cabe_pool_config pool = {.policy = service->config.eviction, .patience_ns = CABE_POOL_PATIENCE_NS};
    pthread_attr_t attributes;
    enum cabe_status status =
        cabe_pool_open(&service->pool, service->config.session->ledger, service->config.session->log, err);
    int failed;

    if (status != CABE_OK)
        return status;
    cabe_pool_configure(service->pool, &pool);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, CABE_HOST_STACK_BYTES);
    failed = pthread_create(&service->keeper, &attributes, cabe_keeper_main, service);
    pthread_attr_destroy(&attributes);
    if (failed)
        return cabe_fail_errno(err, failed, "the service's thread");
    service->has_keeper = 1;
    return CABE_OK;
}

enum cabe_status cabe_service_open(struct cabe_service **out, const struct cabe_service_config *config,
                                   struct cabe_error *err)
{
    struct cabe_service *service = cabe_calloc(1, sizeof *service);
    pthread_condattr_t attributes;
    enum cabe_status status;

    *out = NULL;
    if (!service)
        return cabe_fail(err, CABE_ERR_OOM, "service");
    service->config = *config;
    fill_defaults(&service->config);
    cabe_pace_init(&service->pace, NULL);
    pthread_mutex_init(&service->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&service->changed, &attributes);
    pthread_cond_init(&service->keeper_wake, &attributes);
    pthread_condattr_destroy(&attributes);
    status = start(service, err);
    if (status != CABE_OK) {
        cabe_service_close(service);
        return status;
    }
    *out = service;
    return CABE_OK;
}

/* Everything ends: waiters by the keeper, what runs by its host, a load by its cancel. */
static void end_all(struct cabe_service *service)
{
    pthread_mutex_lock(&service->lock);
    service->draining = service->closing = 1;
    for (struct cabe_service_entry *e = service->entries; e; e = e->next) {
        atomic_store_explicit(&e->load_cancel.wanted, 1, memory_order_relaxed);
        pthread_cond_signal(&e->wake);
    }
    cabe_keeper_call(service);
    while (service->n_tickets > 0 || service->n_hosts > 0)
        pthread_cond_wait(&service->changed, &service->lock);
    cabe_keeper_call(service);
    pthread_mutex_unlock(&service->lock);
}

void cabe_service_close(struct cabe_service *service)
{
    if (!service)
        return;
    if (service->has_keeper) {
        end_all(service);
        pthread_join(service->keeper, NULL);
    }
    for (struct cabe_service_entry *e = service->entries; e; e = e->next)
        if (e->has_thread)
            pthread_join(e->thread, NULL);
    cabe_pool_close(service->pool);
    while (service->entries) {
        struct cabe_service_entry *e = service->entries;

        service->entries = e->next;
        pthread_cond_destroy(&e->wake);
        cabe_free(e);
    }
    pthread_cond_destroy(&service->keeper_wake);
    pthread_cond_destroy(&service->changed);
    pthread_mutex_destroy(&service->lock);
    cabe_free(service);
}

void cabe_service_drain(struct cabe_service *service)
{
    pthread_mutex_lock(&service->lock);
    service->draining = 1;
    pthread_mutex_unlock(&service->lock);
}

struct cabe_pool *cabe_service_pool(struct cabe_service *service)
{
    return service->pool;
}

/*
 * For how long the model's host has done nothing although there is work: since its last step, or the last node of the
 * step that runs; or, when nothing runs, since the oldest that could be taken came. Under the lock.
 */
static double stalled(const struct cabe_service_entry *e, uint64_t now_ns)
{
    const struct cabe_queue_item *oldest = cabe_queue_oldest(&e->queue, CABE_N_CLASSES);
    uint64_t next_ns;

    if (e->view.n_running > 0)
        return e->step_ns ? cabe_seconds(cabe_host_alive_ns(e), now_ns) : 0;
    if (!oldest || e->view.state != CABE_SERVICE_READY || e->is_acquiring || !cabe_host_next(e, now_ns, &next_ns))
        return 0;
    return cabe_seconds(oldest->entered_ns > e->loaded_ns ? oldest->entered_ns : e->loaded_ns, now_ns);
}

void cabe_service_stats(struct cabe_service *service, struct cabe_service_stats *stats)
{
    uint64_t now_ns = cabe_clock_ns();

    pthread_mutex_lock(&service->lock);
    *stats = service->stats;
    for (const struct cabe_service_entry *e = service->entries; e; e = e->next) {
        double since_s = stalled(e, now_ns);

        stats->n_running += e->view.n_running;
        stats->n_waiting += e->queue.n;
        stats->stalled_s = since_s > stats->stalled_s ? since_s : stats->stalled_s;
    }
    pthread_mutex_unlock(&service->lock);
    cabe_pool_stats(service->pool, &stats->pool);
}

void cabe_service_on_event(struct cabe_service *service,
                           void (*event)(void *self, enum cabe_service_event event, const char *model, double seconds),
                           void *self)
{
    service->event = event;
    service->event_self = self;
}

void cabe_service_on_answer(struct cabe_service *service,
                            void (*answer)(void *self, const char *model, enum cabe_class class_,
                                           enum cabe_status status, enum cabe_service_finish finish,
                                           const struct cabe_service_counts *counts),
                            void *self)
{
    service->answer = answer;
    service->answer_self = self;
}

void cabe_service_on_time(struct cabe_service *service,
                          void (*seen)(void *self, const char *model, enum cabe_service_time what, double seconds),
                          void *self)
{
    service->seen = seen;
    service->seen_self = self;
}

void cabe_service_tell(struct cabe_service *service, enum cabe_service_event event, const char *model, double seconds)
{
    if (service->event)
        service->event(service->event_self, event, model, seconds);
}
