/*
 * The memory of an analysis, and its encoder.
 *
 * Admission: all that the plan says is taken at once, as a share of the ledger. What can never fit is refused before
 * anything begins; what does not fit now waits. Idle models make room. The encoder is the pool's: one that is there is
 * borrowed at once; for one that is not the share has room, which the load then takes.
 */
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "serve/analyze_impl.h"

#define PAUSE_NS 250000000L
#define LOOK_NS UINT64_C(50000000)
#define PLACE "analysis"

/* ---- what there is ---- */

struct room {
    uint64_t free_bytes, idle_bytes; /* idle: of models that may go, the encoder apart */
    uint64_t ever_bytes;             /* when nothing is left but the process, what is pinned, and the encoder */
    uint64_t others_bytes;           /* held by what will end: requests, models, other analyses */
};

static void look_for_room(const struct analysis *a, struct room *room)
{
    struct cabe_pool_item *items = cabe_calloc(CABE_POOL_MAX, sizeof *items);
    size_t n = items ? cabe_pool_list(cabe_service_pool(a->server->service), items, CABE_POOL_MAX) : 0;
    uint64_t budget = a->server->session->budget_bytes[CABE_HOST], stay = a->session.process_bytes, used;
    uint64_t encoder = a->encoder_bytes;

    *room = (struct room){.free_bytes = cabe_ledger_free_bytes(a->server->session->ledger, CABE_HOST)};
    for (size_t i = 0; i < n; i++) {
        int is_encoder = strncmp(items[i].key, a->upload->model, sizeof items[i].key - 1) == 0;

        if (is_encoder)
            encoder = items[i].bytes.resident[CABE_HOST];
        else if (items[i].pinned)
            stay += items[i].bytes.resident[CABE_HOST];
        else if (items[i].state == CABE_POOL_IDLE)
            room->idle_bytes += items[i].bytes.resident[CABE_HOST];
    }
    cabe_free(items);
    used = budget - room->free_bytes;
    room->ever_bytes = budget > stay + encoder ? budget - stay - encoder : 0;
    room->others_bytes = used > stay ? used - stay : 0;
}

static enum cabe_status plan_within(struct analysis *a, uint64_t bytes, struct cabe_error *err)
{
    struct cabe_fit_task *task = cabe_malloc(sizeof *task);
    enum cabe_status status;

    if (!task)
        return cabe_fail(err, CABE_ERR_OOM, "plan of an analysis");
    a->session.budget_bytes[CABE_HOST] = a->session.process_bytes + bytes;
    cabe_analyze_task(a->analysis, task);
    status = cabe_session_plan(&a->session, a->plan, task, err);
    cabe_free(task);
    return status == CABE_OK ? cabe_plan_refuse(a->plan, err) : status;
}

/* As it is preferred, if that is free as things are; or else with the room of idle models; or with a smaller encoder. */
static enum cabe_status plan_now(struct analysis *a, const struct room *room, struct cabe_error *err)
{
    uint64_t encoder = a->encoder_bytes, all = room->free_bytes + room->idle_bytes;
    enum cabe_status status = CABE_ERR_BUDGET;

    if (room->free_bytes > encoder)
        status = plan_within(a, room->free_bytes - encoder, err);
    if (status == CABE_OK && a->plan->n_rungs == 1)
        return CABE_OK;
    if ((status == CABE_OK || status == CABE_ERR_BUDGET) && all > encoder)
        status = plan_within(a, all - encoder, err);
    if (status == CABE_ERR_BUDGET)
        status = plan_within(a, all, err);
    return status;
}

/* ---- admission ---- */

static uint64_t own_bytes(const struct analysis *a)
{
    return a->plan->peak_bytes[CABE_HOST] - a->session.process_bytes;
}

static enum cabe_status take_share(struct analysis *a, const struct room *room, struct cabe_error *err)
{
    uint64_t own = own_bytes(a), all = room->free_bytes + room->idle_bytes;
    enum cabe_status status = CABE_OK;

    if (own > all)
        return cabe_fail(err, CABE_ERR_BUDGET, "an analysis of %" PRIu64 " bytes, %" PRIu64 " are free", own, all);
    if (a->encoder_bytes > all - own)
        a->encoder_bytes = all - own; /* it will be loaded smaller */
    if (own + a->encoder_bytes > room->free_bytes)
        status = cabe_pool_make_room(cabe_service_pool(a->server->service), CABE_HOST, own + a->encoder_bytes, err);
    if (status == CABE_OK)
        status = cabe_ledger_open_share(&a->share, a->server->session->ledger, own + a->encoder_bytes, PLACE, err);
    if (status == CABE_OK)
        cabe_analyze_charge(a->analysis, a->share);
    return status;
}

static enum cabe_status find_encoder(struct analysis *a, struct cabe_error *err)
{
    struct cabe_service *service = a->server->service;
    enum cabe_status status = cabe_service_load_bytes(service, a->upload->model, &a->encoder_bytes, err);

    if (status != CABE_OK || a->encoder_bytes > 0)
        return status;
    status = cabe_service_borrow(service, a->upload->model, a->session.cancel, err); /* before others make room of it */
    a->is_borrowed = status == CABE_OK;
    return status;
}

static enum cabe_status try_once(struct analysis *a, int *is_final, struct cabe_error *err)
{
    struct cabe_error own = {0};
    struct room room;
    enum cabe_status status = find_encoder(a, &own);

    look_for_room(a, &room);
    if (status == CABE_ERR_BUDGET)
        *is_final = own.missing_bytes > room.others_bytes;
    if (status == CABE_OK)
        status = plan_now(a, &room, &own);
    if (status == CABE_ERR_BUDGET && !*is_final && plan_within(a, room.ever_bytes, err) == CABE_ERR_BUDGET) {
        *is_final = 1;
        return cabe_fail_in(err, CABE_ERR_BUDGET, "beside %s", a->upload->model);
    }
    if (status == CABE_OK)
        status = take_share(a, &room, &own);
    if (status != CABE_OK && err)
        *err = own;
    return status;
}

enum cabe_status cabe_analysis_wait(struct analysis *a, uint64_t until_ns, enum cabe_status status, struct cabe_error *err)
{
    const struct timespec pause = {0, PAUSE_NS};

    if (cabe_cancelled(a->session.cancel))
        return cabe_fail(err, CABE_ERR_CANCELLED, "the analysis was stopped while it waited for memory");
    if (cabe_clock_ns() >= until_ns)
        return status;
    cabe_job_progress(a->job, "waiting for memory", 0, err->missing_bytes, "bytes");
    nanosleep(&pause, NULL);
    return CABE_OK;
}

enum cabe_status cabe_analysis_admit(struct analysis *a, uint64_t *until_ns, struct cabe_error *err)
{
    double wait_s = a->server->config->slot_wait;
    enum cabe_status status;

    if (json_is_number(json_object_get(a->job->wish, "slot_wait")))
        wait_s = json_number_value(json_object_get(a->job->wish, "slot_wait"));
    if (*until_ns == 0)
        *until_ns = wait_s < 0 ? UINT64_MAX : cabe_clock_ns() + (uint64_t)(wait_s * 1e9);
    for (;;) {
        int is_final = 0;

        status = try_once(a, &is_final, err);
        if (status == CABE_OK)
            return CABE_OK;
        cabe_analysis_dismiss(a);
        if (is_final || (status != CABE_ERR_BUDGET && status != CABE_ERR_BUSY))
            return status;
        status = cabe_analysis_wait(a, *until_ns, status, err);
        if (status != CABE_OK)
            return cabe_fail_in(err, status, status == CABE_ERR_CANCELLED ? "analysis" : "no memory for it in %g s", wait_s);
    }
}

static void give_back(void *self)
{
    struct analysis *a = self;

    if (a->is_borrowed)
        cabe_service_give_back(a->server->service, a->upload->model);
    a->is_borrowed = 0;
}

void cabe_analysis_dismiss(struct analysis *a)
{
    give_back(a);
    cabe_analyze_charge(a->analysis, a->server->session->ledger);
    cabe_ledger_close(a->share);
    a->share = NULL;
}

void cabe_analysis_end(struct analysis *a)
{
    give_back(a);
    cabe_analyze_close(a->analysis); /* its result lies in the share */
    cabe_ledger_close(a->share);
    cabe_encoder_close(a->encoder);
    cabe_free(a->plan);
    cabe_free(a);
}

/* ---- the encoder ---- */

/* What was kept for its load is let go just before that. */
static enum cabe_status borrow(void *self, struct cabe_error *err)
{
    struct analysis *a = self;
    enum cabe_status status;

    if (a->is_borrowed)
        return CABE_OK;
    cabe_ledger_shrink_share(a->share, a->encoder_bytes);
    status = cabe_service_borrow(a->server->service, a->upload->model, a->session.cancel, err);
    a->is_borrowed = status == CABE_OK;
    return status;
}

struct embedding { /* on the job's stack */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int is_done;
    enum cabe_status status;
    struct cabe_error err;
    uint64_t n_tokens;
};

static void on_embedded(void *self, enum cabe_status status, const struct cabe_error *err, const float *rows, int64_t width,
                        uint64_t n_tokens)
{
    struct embedding *e = self;

    (void)rows;
    (void)width;
    pthread_mutex_lock(&e->lock);
    e->status = status;
    if (status != CABE_OK && err)
        e->err = *err;
    e->n_tokens = n_tokens;
    e->is_done = 1;
    pthread_cond_signal(&e->changed);
    pthread_mutex_unlock(&e->lock);
}

/* A ticket is cancelled at most once, and not when it has ended: both are seen under our lock. */
static void wait_for(struct analysis *a, struct embedding *e, struct cabe_service_ticket *ticket)
{
    int is_cancelled = 0;

    pthread_mutex_lock(&e->lock);
    while (!e->is_done) {
        uint64_t until_ns = cabe_clock_ns() + LOOK_NS;
        struct timespec until = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};

        if (cabe_cancelled(a->session.cancel) && !is_cancelled) {
            cabe_service_cancel(a->server->service, ticket);
            is_cancelled = 1;
        }
        (void)pthread_cond_timedwait(&e->changed, &e->lock, &until);
    }
    pthread_mutex_unlock(&e->lock);
}

static enum cabe_status embed_once(struct analysis *a, const struct cabe_service_embed *request, struct embedding *e,
                                   struct cabe_error *err)
{
    struct cabe_service_ticket *ticket;
    enum cabe_status status;

    e->is_done = 0;
    status = cabe_service_embed(a->server->service, request, &ticket, NULL, err);
    if (status != CABE_OK)
        return status;
    wait_for(a, e, ticket);
    if (e->status != CABE_OK && err)
        *err = e->err;
    return e->status;
}

/* A request like any other, at the job's class. Where it is refused for what goes on now, it comes again. */
static enum cabe_status embed(void *self, const struct cabe_text *texts, size_t n, enum cabe_prefix prefix, float *rows,
                              uint64_t *n_tokens, struct cabe_error *err)
{
    struct analysis *a = self;
    struct cabe_service_embed request = {.model = a->upload->model,
                                         .class_ = a->job->record.class_,
                                         .texts = texts,
                                         .n_texts = n,
                                         .prefix = prefix,
                                         .keep_alive_s = (double)NAN,
                                         .rows = rows,
                                         .width = cabe_encoder_config(a->encoder)->width,
                                         .goes_on = 1,
                                         .ended = on_embedded};
    uint64_t until_ns = cabe_clock_ns() + (uint64_t)(a->server->config->slot_wait * 1e9);
    struct embedding e = {.lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_condattr_t attributes;
    enum cabe_status status;

    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&e.changed, &attributes);
    pthread_condattr_destroy(&attributes);
    request.self = &e;
    for (;;) {
        status = embed_once(a, &request, &e, err);
        if (status != CABE_ERR_BUSY && status != CABE_ERR_LIMIT && status != CABE_ERR_BUDGET)
            break;
        status = cabe_analysis_wait(a, until_ns, status, err);
        if (status != CABE_OK)
            break;
    }
    pthread_cond_destroy(&e.changed);
    if (status == CABE_OK && n_tokens)
        *n_tokens += e.n_tokens;
    return status;
}

void cabe_analysis_lender(struct analysis *a, struct cabe_analyze_lender *lender)
{
    *lender = (struct cabe_analyze_lender){borrow, give_back, embed, a};
}
