/*
 * Serving embeddings. An idle encoder starts with what is there. While it runs requests collect; the next run takes up to
 * CABE_EMBED_REQUESTS of them. After a run of several it waits a moment for as many as that had, since clients that have
 * just been answered ask again at once: a fourth of what the run took, at most CABE_EMBED_WAIT_S.
 */
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/threads.h"
#include "serve/service_impl.h"

#define BORROWED_LOOK_NS UINT64_C(50000000) /* with nothing to do: is the room of a borrowed model wanted? */

struct encoding_host {
    struct cabe_service_entry *entry;
    struct cabe_loaded *loaded;
    struct cabe_pool_use *use;
    struct cabe_service_ticket *first; /* taken, by class */
    int32_t tokens[CABE_EMBED_ROWS];   /* of the texts of a run */
    int n;
    int yields;
    int n_before;         /* requests of the last run */
    uint64_t run_ns, ended_ns; /* it took; it ended */
};

/* Behind those of its class. */
static void insert(struct encoding_host *h, struct cabe_service_ticket *t)
{
    struct cabe_service_ticket **at = &h->first;

    while (*at && (*at)->class_ <= t->class_)
        at = &(*at)->next;
    t->next = *at;
    *at = t;
    h->n++;
}

static void wait_until(struct cabe_service_entry *e, uint64_t ns)
{
    struct timespec until = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};

    (void)pthread_cond_timedwait(&e->wake, &e->service->lock, &until);
}

/* Under the lock. */
static void collect_moment(struct encoding_host *h)
{
    struct cabe_service_entry *e = h->entry;
    uint64_t wait_ns = h->run_ns / 4, until;

    if (h->n_before < 2 || h->n > 0)
        return;
    if (wait_ns > (uint64_t)(CABE_EMBED_WAIT_S * 1e9))
        wait_ns = (uint64_t)(CABE_EMBED_WAIT_S * 1e9);
    until = h->ended_ns + wait_ns;
    while (e->queue.n < h->n_before && cabe_clock_ns() < until && !e->service->closing)
        wait_until(e, until);
}

/* Under the lock. A borrowed model is held, also when nothing is asked of it. */
static void wait_for_borrower(struct encoding_host *h)
{
    struct cabe_service_entry *e = h->entry;
    uint64_t next_ns;

    while (e->n_borrowers > 0 && h->n == 0 && !e->loads && !e->service->closing &&
           !cabe_host_next(e, cabe_clock_ns(), &next_ns) &&
           !(h->yields = cabe_pool_should_yield(e->service->pool, h->use))) {
        uint64_t look_ns = cabe_clock_ns() + BORROWED_LOOK_NS;

        e->step_ns = look_ns - BORROWED_LOOK_NS; /* it does not hang */
        wait_until(e, next_ns < look_ns ? next_ns : look_ns);
    }
}

/* Ends those that were cancelled or are late; returns whether any are left. */
static int collect(struct encoding_host *h)
{
    struct cabe_service_entry *e = h->entry;
    struct cabe_service_ticket *t;
    uint64_t now_ns;

    h->yields = cabe_pool_should_yield(e->service->pool, h->use);
    pthread_mutex_lock(&e->service->lock);
    if (!h->yields)
        collect_moment(h);
    if (!h->yields)
        wait_for_borrower(h);
    now_ns = cabe_clock_ns();
    e->step_ns = now_ns;
    while (h->n < CABE_EMBED_REQUESTS && !h->yields && (t = cabe_host_take(e, now_ns)))
        insert(h, t);
    pthread_mutex_unlock(&e->service->lock);
    return h->n > 0;
}

static void end_at(struct encoding_host *h, struct cabe_service_ticket **at, enum cabe_status status,
                   const struct cabe_error *err)
{
    struct cabe_service_ticket *t = *at;

    *at = t->next;
    h->n--;
    cabe_ticket_end(t, status, err);
}

static void end_overdue(struct encoding_host *h)
{
    struct cabe_service_ticket **at = &h->first;
    struct cabe_error err;

    while (*at) {
        enum cabe_status status;

        pthread_mutex_lock(&h->entry->service->lock);
        status = h->entry->service->closing ? cabe_fail(&err, CABE_ERR_CANCELLED, "the service ends")
                                            : cabe_ticket_overdue(*at, cabe_clock_ns(), &err);
        pthread_mutex_unlock(&h->entry->service->lock);
        if (status != CABE_OK)
            end_at(h, at, status, &err);
        else
            at = &(*at)->next;
    }
}

static enum cabe_status open_rows(struct cabe_service_ticket *t, int64_t width, struct cabe_error *err)
{
    uint64_t bytes = (uint64_t)t->embed.n_texts * (uint64_t)width * sizeof(float);
    enum cabe_status status;

    if (t->rows_lent && t->embed.width != width)
        return cabe_fail(err, CABE_ERR_CHANGED, "%s: has embeddings of %lld numbers now, %lld were expected",
                         t->entry->view.name, (long long)width, (long long)t->embed.width);
    t->width = width;
    if (t->rows || t->embed.n_texts == 0)
        return CABE_OK;
    status = cabe_ledger_reserve(t->service->config.session->ledger, CABE_HOST, CABE_PURPOSE_NETWORK, bytes, "requests",
                                 err);
    if (status != CABE_OK)
        return status == CABE_ERR_BUDGET ? cabe_fail_in(err, CABE_ERR_BUSY, "no room for it now") : status;
    t->charged_bytes += bytes;
    t->rows = cabe_malloc(bytes);
    return t->rows ? CABE_OK : cabe_fail(err, CABE_ERR_OOM, "%zu embeddings", t->embed.n_texts);
}

static enum cabe_status encode(struct encoding_host *h, const struct cabe_text *texts, size_t n, enum cabe_prefix prefix,
                               struct cabe_error *err)
{
    uint64_t begun_ns = cabe_clock_ns();
    enum cabe_status status =
        cabe_encoder_encode_counted(h->loaded->encoder, texts, n, prefix, h->loaded->rows, h->tokens, err);

    h->ended_ns = cabe_clock_ns();
    h->run_ns = h->ended_ns - begun_ns;
    return status;
}

static void take_rows(struct encoding_host *h, struct cabe_service_ticket *t, size_t first)
{
    size_t width = (size_t)t->width;

    if (t->part == 0)
        return;
    memcpy(t->rows + t->n_rows * width, h->loaded->rows + first * width, t->part * width * sizeof(float));
    for (size_t i = 0; i < t->part; i++)
        t->n_tokens += (uint64_t)h->tokens[first + i];
    t->n_rows += t->part;
}

/* Texts that cannot be read, are too long, or of which the model makes what is no number. */
static int is_of_a_request(enum cabe_status status)
{
    return status == CABE_ERR_FORMAT || status == CABE_ERR_LIMIT || status == CABE_ERR_ARGUMENT ||
           status == CABE_ERR_INTERNAL;
}

/* Which of the run's requests it was: each part alone. What belongs to the model is returned, what belongs to a request
 * ends it. */
static enum cabe_status one_by_one(struct encoding_host *h, struct cabe_error *err)
{
    struct cabe_service_ticket **at = &h->first;
    enum cabe_status status;

    while (*at) {
        struct cabe_service_ticket *t = *at;

        status = t->part ? encode(h, t->embed.texts + t->n_rows, t->part, t->embed.prefix, err) : CABE_OK;
        if (status == CABE_OK) {
            take_rows(h, t, 0);
            at = &t->next;
        } else if (is_of_a_request(status)) {
            end_at(h, at, status == CABE_ERR_LIMIT ? CABE_ERR_ARGUMENT : status, err);
        } else {
            return status;
        }
    }
    return CABE_OK;
}

/* The texts of a run: of requests with the prefix of the first, in order. */
static size_t gather(struct encoding_host *h, struct cabe_text texts[CABE_EMBED_ROWS])
{
    size_t n = 0, bytes = 0;

    for (struct cabe_service_ticket *t = h->first; t; t = t->next) {
        t->part = 0;
        if (t->embed.prefix != h->first->embed.prefix)
            continue;
        for (size_t i = t->n_rows; i < t->embed.n_texts && n < CABE_EMBED_ROWS && bytes < CABE_EMBED_BYTES; i++) {
            texts[n++] = t->embed.texts[i];
            bytes += t->embed.texts[i].n_bytes;
            t->part++;
        }
    }
    return n;
}

static enum cabe_status run(struct encoding_host *h, struct cabe_error *err)
{
    struct cabe_text texts[CABE_EMBED_ROWS];
    size_t n = gather(h, texts), first = 0;
    enum cabe_status status;

    h->n_before = h->n;
    status = encode(h, texts, n, h->first->embed.prefix, err);
    if (is_of_a_request(status))
        return one_by_one(h, err);
    for (struct cabe_service_ticket *t = h->first; t && status == CABE_OK; t = t->next) {
        take_rows(h, t, first);
        first += t->part;
    }
    return status;
}

/* Who has had a part and is not done goes behind the others of its class. */
static void rotate(struct encoding_host *h)
{
    struct cabe_service_ticket *t = h->first;

    if (!t || t->part == 0)
        return;
    h->first = t->next;
    h->n--;
    insert(h, t);
}

static void end_finished(struct encoding_host *h)
{
    struct cabe_service_ticket **at = &h->first;

    while (*at) {
        if ((*at)->n_rows == (*at)->embed.n_texts)
            end_at(h, at, CABE_OK, NULL);
        else
            at = &(*at)->next;
    }
}

static void begin_all(struct encoding_host *h)
{
    int64_t width = cabe_encoder_config(h->loaded->encoder)->width;
    struct cabe_service_ticket **at = &h->first;
    struct cabe_error err;

    while (*at) {
        enum cabe_status status = CABE_OK;

        if (!(*at)->embeds)
            status = cabe_fail(&err, CABE_ERR_UNSUPPORTED, "%s: a model that embeds text; wanted one that writes it",
                               h->entry->view.name);
        else
            status = open_rows(*at, width, &err);
        if (status != CABE_OK)
            end_at(h, at, status, &err);
        else
            at = &(*at)->next;
    }
}

enum cabe_status cabe_host_encode(struct cabe_service_entry *e, struct cabe_loaded *loaded, struct cabe_pool_use *use,
                                  struct cabe_error *err)
{
    struct encoding_host h = {.entry = e, .loaded = loaded, .use = use};
    enum cabe_status status = CABE_OK;

    while (status == CABE_OK && collect(&h)) {
        begin_all(&h);
        end_overdue(&h);
        end_finished(&h);
        if (h.n == 0)
            continue;
        cabe_thread_class(h.first->class_);
        status = run(&h, err);
        if (status == CABE_ERR_CANCELLED) { /* it lasted too long, or the service ends */
            atomic_store_explicit(&e->step_cancel.wanted, 0, memory_order_relaxed);
            status = CABE_OK;
        }
        if (status == CABE_OK) {
            end_finished(&h);
            rotate(&h);
        }
    }
    while (h.first)
        end_at(&h, &h.first, status, err);
    return status;
}
