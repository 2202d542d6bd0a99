/* Admission: a request is taken or refused at once, by what waits and what it would add, before it is looked into. */
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "serve/service_impl.h"

#define RETRY_LEAST_S 0.1
#define RETRY_MOST_S 600.0
#define RETRY_DRAINING_S 5.0
#define WAITED_NS UINT64_C(2000000)
#define RATE_LEAST 4
#define WAIT_SHARE 0.8 /* of the time until the first token, that waiting may be expected to take */

/* ---- rates ---- */

void cabe_rate_take(struct cabe_rate *rate, uint64_t admitted_ns, uint64_t now_ns, int64_t tokens)
{
    uint64_t since_ns = rate->last_ns > admitted_ns ? rate->last_ns : admitted_ns;
    unsigned at = rate->n % CABE_RATE_STARTS;

    rate->last_ns = now_ns;
    if (now_ns - admitted_ns < WAITED_NS)
        return; /* there was room: that says nothing of how fast the queue goes down */
    rate->take[at].seconds = cabe_seconds(since_ns, now_ns);
    rate->take[at].tokens = tokens;
    rate->n++;
}

static double rate_of(const struct cabe_rate *rate, int of_tokens)
{
    unsigned n = rate->n < CABE_RATE_STARTS ? rate->n : CABE_RATE_STARTS;
    double sum = 0, seconds = 0;

    if (n < RATE_LEAST)
        return 0;
    for (unsigned i = 0; i < n; i++) {
        sum += of_tokens ? (double)rate->take[i].tokens : 1;
        seconds += rate->take[i].seconds;
    }
    return seconds > 0 ? sum / seconds : 0;
}

double cabe_rate_requests(const struct cabe_rate *rate)
{
    return rate_of(rate, 0);
}

double cabe_rate_tokens(const struct cabe_rate *rate)
{
    return rate_of(rate, 1);
}

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

/*
 * When there is room for a request of so many tokens: when what waits has gone down to what the queue may hold, at the
 * rate that it goes down. Under the lock.
 */
static double retry_after(const struct cabe_service_entry *e, int64_t tokens)
{
    const struct cabe_queue_config *limits = &e->queue.config;
    double requests = cabe_rate_requests(&e->rate), by_tokens = cabe_rate_tokens(&e->rate), wait_s = 0;

    if (requests <= 0)
        return e->view.load_s > 1 ? within(e->view.load_s) : 1;
    if (e->queue.n >= limits->n_max)
        wait_s = (double)(e->queue.n - limits->n_max + 1) / requests;
    if (by_tokens > 0 && e->queue.tokens + tokens > limits->tokens_max) {
        double for_tokens = (double)(e->queue.tokens + tokens - limits->tokens_max) / by_tokens;

        wait_s = for_tokens > wait_s ? for_tokens : wait_s;
    }
    return within(wait_s > 0 ? wait_s : 1 / requests);
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

/* Whether it could begin before its time is over; when not, it is told at once. Under the lock. */
static enum cabe_status check_wait(struct cabe_service_entry *e, enum cabe_class class_,
                                   struct cabe_service_refusal *refusal, struct cabe_error *err)
{
    double rate = cabe_rate_tokens(&e->rate), limit_s = WAIT_SHARE * e->service->config.first_token_s, wait_s;

    if (rate <= 0 || e->queue.n == 0 || e->kind == 0)
        return CABE_OK;
    wait_s = (double)cabe_queue_ahead(&e->queue, class_) / rate;
    if (wait_s <= limit_s)
        return CABE_OK;
    e->service->stats.n_refused_tokens++;
    return refuse(refusal, within(wait_s - limit_s), 0,
                  cabe_fail(err, CABE_ERR_LIMIT, "%lld requests wait: one of class %s would wait %.0f s, past the %g s until "
                            "a first token",
                            (long long)e->queue.n, cabe_class_name(class_), wait_s, e->service->config.first_token_s));
}

/* Whether the queue has room; nothing is changed but counters. Under the lock. */
static enum cabe_status check_queue(struct cabe_service_entry *e, enum cabe_class class_, int64_t tokens,
                                    struct cabe_service_refusal *refusal, struct cabe_error *err)
{
    struct cabe_queue_item probe = {0};
    enum cabe_status status = cabe_queue_push(&e->queue, &probe, class_, tokens, cabe_clock_ns(), err);

    if (status == CABE_OK) {
        cabe_queue_remove(&probe);
        return check_wait(e, class_, refusal, err);
    }
    if (e->queue.n >= e->queue.config.n_max)
        e->service->stats.n_refused_requests++;
    else
        e->service->stats.n_refused_tokens++;
    return refuse(refusal, retry_after(e, tokens), 0, status);
}

static int64_t estimate(const struct cabe_service_entry *e, int64_t bytes, size_t n_ids)
{
    return n_ids ? (int64_t)n_ids : (int64_t)((double)bytes / e->bytes_per_token) + 1;
}

static enum cabe_status check(struct cabe_service_entry *e, int writes, enum cabe_class class_, int goes_on, int64_t bytes,
                              size_t n_ids, struct cabe_service_refusal *refusal, struct cabe_error *err)
{
    struct cabe_service *service = e->service;
    enum cabe_status status = CABE_OK;

    pthread_mutex_lock(&service->lock);
    if (e->kind == !writes)
        status = cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: a model that %s", e->view.name,
                           writes ? "embeds text; wanted one that writes it" : "writes text; wanted one that embeds it");
    if (status == CABE_OK)
        status = check_service(service, class_, goes_on, refusal, err);
    if (status == CABE_OK)
        status = check_queue(e, class_, estimate(e, bytes, n_ids), refusal, err);
    pthread_mutex_unlock(&service->lock);
    return status;
}

static enum cabe_status admit(struct cabe_service_ticket *t, double keep_alive_s, struct cabe_service_ticket **ticket,
                              struct cabe_service_refusal *refusal, struct cabe_error *err)
{
    struct cabe_service *service = t->service;
    struct cabe_service_entry *e = t->entry;
    enum cabe_status status;

    pthread_mutex_lock(&service->lock);
    t->admitted_ns = cabe_clock_ns();
    t->estimated_tokens = estimate(e, t->bytes, t->ask.n_ids);
    status = check_service(service, t->class_, t->embed.goes_on, refusal, err);
    if (status == CABE_OK)
        status = check_queue(e, t->class_, t->estimated_tokens, refusal, err);
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
static enum cabe_status no_memory(enum cabe_status status, struct cabe_service_refusal *refusal)
{
    return status == CABE_ERR_BUDGET || status == CABE_ERR_OOM ? refuse(refusal, 1, 1, CABE_ERR_BUSY) : status;
}

enum cabe_status cabe_service_ask(struct cabe_service *service, const struct cabe_service_ask *ask,
                                  struct cabe_service_ticket **ticket, struct cabe_service_refusal *refusal,
                                  struct cabe_error *err)
{
    struct cabe_service_entry *e;
    struct cabe_service_ticket *t;
    enum cabe_status status = check_ask(ask, err);

    *ticket = NULL;
    refuse(refusal, 0, 0, CABE_OK);
    if (status == CABE_OK)
        status = cabe_entry_find(&e, service, ask->model, err);
    if (status != CABE_OK)
        return status;
    status = check(e, 1, ask->class_, 0, cabe_ticket_prompt_bytes(ask), ask->n_ids, refusal, err);
    if (status != CABE_OK)
        return status;
    status = cabe_ticket_ask(&t, e, ask, err);
    if (status != CABE_OK)
        return no_memory(status, refusal);
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

    *ticket = NULL;
    refuse(refusal, 0, 0, CABE_OK);
    status = cabe_entry_find(&e, service, embed->model, err);
    if (status != CABE_OK)
        return status;
    for (size_t i = 0; i < embed->n_texts; i++)
        bytes += (int64_t)embed->texts[i].n_bytes;
    status = check(e, 0, embed->class_, embed->goes_on, bytes, 0, refusal, err);
    if (status != CABE_OK)
        return status;
    status = cabe_ticket_embed(&t, e, embed, err);
    if (status != CABE_OK)
        return no_memory(status, refusal);
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
