/* Admission: a request is taken or refused at once, by what waits and what it would add, before it is looked into. */
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "serve/service_impl.h"

#define RETRY_LEAST_S 0.1
#define RETRY_MOST_S 600.0
#define RETRY_DRAINING_S 5.0

/* ---- tokens a second ---- */

void cabe_meter_add(struct cabe_meter *meter, uint64_t now_ns, int64_t n)
{
    uint64_t second = now_ns / 1000000000u;
    unsigned at = (unsigned)(second % CABE_RATE_SECONDS);

    if (meter->second[at] != second) {
        meter->second[at] = second;
        meter->n[at] = 0;
    }
    meter->n[at] += n;
}

double cabe_meter_rate(const struct cabe_meter *meter, uint64_t now_ns)
{
    uint64_t second = now_ns / 1000000000u;
    double sum = 0;

    for (unsigned i = 0; i < CABE_RATE_SECONDS; i++)
        if (meter->second[i] < second && second - meter->second[i] < CABE_RATE_SECONDS)
            sum += (double)meter->n[i];
    return sum / (CABE_RATE_SECONDS - 1);
}

/* ---- refusals ---- */

static double within(double seconds)
{
    return seconds < RETRY_LEAST_S ? RETRY_LEAST_S : seconds > RETRY_MOST_S ? RETRY_MOST_S : seconds;
}

static enum cabe_status refuse(struct cabe_service_refusal *refusal, double retry_after_s, int overloaded,
                               enum cabe_status status)
{
    if (refusal)
        *refusal = (struct cabe_service_refusal){retry_after_s, overloaded};
    return status;
}

/* Whether the service as a whole takes it. Under the lock. */
static enum cabe_status check_service(struct cabe_service *service, enum cabe_class class_, int goes_on,
                                      struct cabe_service_refusal *refusal, struct cabe_error *err)
{
    if (service->draining || service->closing) {
        service->stats.n_refused_draining++;
        return refuse(refusal, RETRY_DRAINING_S, 1, cabe_fail(err, CABE_ERR_BUSY, "the server is shutting down"));
    }
    if (!goes_on && cabe_pace_sheds(&service->pace, class_)) {
        service->stats.n_refused_pressure++;
        return refuse(refusal, within(service->pace.config.leave_s), 1,
                      cabe_fail(err, CABE_ERR_BUSY, "the machine is under pressure: requests of class %s are refused",
                                cabe_class_name(class_)));
    }
    return CABE_OK;
}

/* Whether the queue has room and it would begin in time; nothing is changed but counters and promises. Under the lock. */
static enum cabe_status check_queue(struct cabe_service_entry *e, const struct cabe_wait *wait,
                                    struct cabe_service_refusal *refusal, struct cabe_error *err)
{
    struct cabe_queue_item probe = {0};
    uint64_t now_ns = cabe_clock_ns();
    enum cabe_status status = cabe_queue_push(&e->queue, &probe, wait->class_, wait->tokens, now_ns, err);
    double retry_s = 0;

    if (status == CABE_OK) {
        cabe_queue_remove(&probe);
        status = cabe_wait_check(e, wait, now_ns, &retry_s, err);
    } else {
        retry_s = cabe_wait_full(e, wait, now_ns);
    }
    if (status == CABE_OK)
        return CABE_OK;
    if (e->queue.config.n_max > 0 && e->queue.n >= e->queue.config.n_max)
        e->service->stats.n_refused_requests++;
    else
        e->service->stats.n_refused_tokens++;
    return refuse(refusal, within(retry_s), 0, status);
}

static int64_t estimate(const struct cabe_service_entry *e, int64_t bytes, size_t n_ids)
{
    return n_ids ? (int64_t)n_ids : (int64_t)((double)bytes / e->bytes_per_token) + 1;
}

/* Under the lock. */
static void wait_of_ask(const struct cabe_service_entry *e, const struct cabe_service_ask *ask, enum cabe_class class_,
                        int64_t bytes, uint64_t key, struct cabe_wait *wait)
{
    *wait = (struct cabe_wait){.class_ = class_, .tokens = estimate(e, bytes, ask->n_ids), .key = key};
    wait->work = cabe_wait_work_ask(e, wait->tokens, ask);
}

static void wait_of_embed(const struct cabe_service_entry *e, enum cabe_class class_, int64_t bytes, uint64_t key,
                          struct cabe_wait *wait)
{
    *wait = (struct cabe_wait){.class_ = class_, .tokens = estimate(e, bytes, 0), .key = key};
    wait->work = cabe_wait_work(e, wait->tokens, 0, 0, 0);
}

static enum cabe_class class_of(enum cabe_class class_)
{
    return (unsigned)class_ < CABE_N_CLASSES ? class_ : CABE_CLASS_NORMAL;
}

/* `ask` NULL: an embedding. */
static enum cabe_status check(struct cabe_service_entry *e, const struct cabe_service_ask *ask, enum cabe_class class_,
                              int goes_on, int64_t bytes, uint64_t key, struct cabe_service_refusal *refusal,
                              struct cabe_error *err)
{
    int writes = ask != NULL;
    struct cabe_wait wait;
    struct cabe_service *service = e->service;
    enum cabe_status status = CABE_OK;

    pthread_mutex_lock(&service->lock);
    if (e->kind == !writes)
        status = cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: a model that %s", e->view.name,
                           writes ? "embeds text; wanted one that writes it" : "writes text; wanted one that embeds it");
    if (status == CABE_OK)
        status = check_service(service, class_, goes_on, refusal, err);
    if (ask)
        wait_of_ask(e, ask, class_, bytes, key, &wait);
    else
        wait_of_embed(e, class_, bytes, key, &wait);
    if (status == CABE_OK) {
        cabe_forecast_came(&e->forecast, class_, wait.work, e->queue.n, cabe_clock_ns());
        status = check_queue(e, &wait, refusal, err);
    }
    pthread_mutex_unlock(&service->lock);
    return status;
}

static enum cabe_status admit(struct cabe_service_ticket *t, double keep_alive_s, struct cabe_service_ticket **ticket,
                              struct cabe_service_refusal *refusal, struct cabe_error *err)
{
    struct cabe_service *service = t->service;
    struct cabe_service_entry *e = t->entry;
    struct cabe_wait wait;
    enum cabe_status status;

    pthread_mutex_lock(&service->lock);
    t->admitted_ns = cabe_clock_ns();
    if (t->embeds)
        wait_of_embed(e, t->class_, t->bytes, t->key, &wait);
    else
        wait_of_ask(e, &t->ask, t->class_, t->bytes, t->key, &wait);
    t->estimated_tokens = wait.tokens;
    status = check_service(service, t->class_, t->embed.goes_on, refusal, err);
    if (status == CABE_OK)
        status = check_queue(e, &wait, refusal, err);
    if (status == CABE_OK) {
        cabe_keep_alive_set(e, keep_alive_s);
        cabe_context_ask(e, t->ask.context);
        status = cabe_queue_push(&e->queue, &t->item, t->class_, t->estimated_tokens, t->admitted_ns, err);
    }
    if (status == CABE_OK) {
        *ticket = t;
        status = cabe_host_start(e, err);
        if (status != CABE_OK)
            cabe_queue_remove(&t->item);
    }
    if (status == CABE_OK) {
        cabe_wait_begin(e, t, wait.work);
        e->view.n_requests++;
        service->stats.n_admitted++;
        if (service->n_tickets++ == 0)
            cabe_keeper_call(service);
    }
    pthread_mutex_unlock(&service->lock);
    if (status != CABE_OK) {
        *ticket = NULL;
        cabe_ticket_free(t);
    }
    return status;
}

/* ---- the face ---- */

static enum cabe_status check_ask(const struct cabe_service_ask *ask, struct cabe_error *err)
{
    if (!ask->messages && !ask->prompt && ask->n_ids == 0)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "nothing is asked");
    if (ask->n_choices < 0 || ask->n_choices > CABE_SERVICE_CHOICES_MAX)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%d choices, wanted 1 to %d", ask->n_choices,
                         CABE_SERVICE_CHOICES_MAX);
    if (ask->n_stop > CABE_SERVICE_STOPS_MAX)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%zu stop strings, at most %d", ask->n_stop, CABE_SERVICE_STOPS_MAX);
    for (size_t i = 0; i < ask->n_stop; i++)
        if (!ask->stop[i] || !ask->stop[i][0] || strlen(ask->stop[i]) > CABE_STOP_BYTES_MAX)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "stop string %zu: wanted 1 to %u bytes", i + 1,
                             CABE_STOP_BYTES_MAX);
    return cabe_sampling_check(&ask->sampling, INT32_MAX, err);
}

/* Of what a ledger without room says. */
static enum cabe_status no_memory(enum cabe_status status, struct cabe_service_refusal *refusal, struct cabe_error *err)
{
    if (status != CABE_ERR_BUDGET && status != CABE_ERR_OOM)
        return status;
    return refuse(refusal, 1, 1, cabe_fail_in(err, CABE_ERR_BUSY, "no room for it now"));
}

enum cabe_status cabe_service_ask(struct cabe_service *service, const struct cabe_service_ask *ask,
                                  struct cabe_service_ticket **ticket, struct cabe_service_refusal *refusal,
                                  struct cabe_error *err)
{
    struct cabe_service_entry *e;
    struct cabe_service_ticket *t;
    enum cabe_status status = check_ask(ask, err);
    uint64_t key;

    *ticket = NULL;
    refuse(refusal, 0, 0, CABE_OK);
    if (status == CABE_OK)
        status = cabe_entry_find(&e, service, ask->model, err);
    if (status != CABE_OK)
        return status;
    key = cabe_ticket_key_ask(ask);
    status = check(e, ask, class_of(ask->class_), 0, cabe_ticket_prompt_bytes(ask), key, refusal, err);
    if (status != CABE_OK)
        return status;
    status = cabe_ticket_ask(&t, e, ask, err);
    if (status != CABE_OK)
        return no_memory(status, refusal, err);
    t->key = key;
    return admit(t, ask->keep_alive_s, ticket, refusal, err);
}

enum cabe_status cabe_service_embed(struct cabe_service *service, const struct cabe_service_embed *embed,
                                    struct cabe_service_ticket **ticket, struct cabe_service_refusal *refusal,
                                    struct cabe_error *err)
{
    struct cabe_service_entry *e;
    struct cabe_service_ticket *t;
    int64_t bytes = 0;
    enum cabe_status status;
    uint64_t key;

    *ticket = NULL;
    refuse(refusal, 0, 0, CABE_OK);
    status = cabe_entry_find(&e, service, embed->model, err);
    if (status != CABE_OK)
        return status;
    for (size_t i = 0; i < embed->n_texts; i++)
        bytes += (int64_t)embed->texts[i].n_bytes;
    key = cabe_ticket_key_embed(embed);
    status = check(e, NULL, class_of(embed->class_), embed->goes_on, bytes, key, refusal, err);
    if (status != CABE_OK)
        return status;
    status = cabe_ticket_embed(&t, e, embed, err);
    if (status != CABE_OK)
        return no_memory(status, refusal, err);
    t->key = key;
    return admit(t, embed->keep_alive_s, ticket, refusal, err);
}

void cabe_service_cancel(struct cabe_service *service, struct cabe_service_ticket *t)
{
    pthread_mutex_lock(&service->lock);
    atomic_store_explicit(&t->cancel.wanted, 1, memory_order_relaxed);
    if (t->item.queue)
        cabe_keeper_call(service);
    else
        pthread_cond_signal(&t->entry->wake);
    pthread_mutex_unlock(&service->lock);
}

void cabe_service_pressure_at(struct cabe_service *service, double now_s, double cpu, double memory)
{
    pthread_mutex_lock(&service->lock);
    cabe_pace_update(&service->pace, now_s, 100 * cpu, 100 * memory);
    pthread_mutex_unlock(&service->lock);
}

void cabe_service_pressure(struct cabe_service *service, double cpu, double memory)
{
    cabe_service_pressure_at(service, (double)cabe_clock_ns() / 1e9, cpu, memory);
}
