#include "serve/http_impl.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/threads.h"

#define GRANULE (256u << 10) /* the ledger is asked for so much at a time */
#define SWEEP_NS 250000000u
#define EVENTS 128
#define ROUNDS_MAX 16 /* over the inbox in one turn */
#define NS 1000000000ull

/* The loop that this thread runs. */
static _Thread_local const struct cabe_http *loop_here;

int cabe_http_on_loop(const struct cabe_http *http)
{
    return loop_here == http;
}

/* ---- the account ---- */

/* Under the account's lock: until what is reserved covers what is used. */
static enum cabe_status cover(struct cabe_http *http, struct cabe_ledger *ledger, struct cabe_error *err)
{
    for (;;) {
        uint64_t used = atomic_load(&http->used), reserved = atomic_load(&http->reserved), more;
        enum cabe_status status;

        if (used <= reserved)
            return CABE_OK;
        more = used - reserved > GRANULE ? used - reserved : GRANULE;
        status = cabe_ledger_reserve(ledger, CABE_HOST, CABE_PURPOSE_NETWORK, more, "http", err);
        if (status != CABE_OK)
            return status;
        atomic_store(&http->reserved, reserved + more);
    }
}

static int reserve_more(struct cabe_http *http, struct cabe_ledger *ledger)
{
    enum cabe_status status;

    pthread_mutex_lock(&http->account_lock);
    status = cover(http, ledger, NULL);
    pthread_mutex_unlock(&http->account_lock);
    return status == CABE_OK;
}

enum cabe_status cabe_http_charge(struct cabe_http *http, struct cabe_ledger *ledger, struct cabe_error *err)
{
    enum cabe_status status;

    pthread_mutex_lock(&http->account_lock);
    if (atomic_load(&http->ledger)) {
        status = cabe_fail(err, CABE_ERR_ARGUMENT, "http: a ledger is charged already");
    } else {
        /* Sequentially consistent: whoever took bytes before it saw the ledger is in `used` when that is read. */
        atomic_store(&http->ledger, ledger);
        status = cover(http, ledger, err);
        if (status != CABE_OK) {
            uint64_t reserved = atomic_exchange(&http->reserved, 0);

            atomic_store(&http->ledger, NULL);
            if (reserved > 0)
                cabe_ledger_release(ledger, CABE_HOST, CABE_PURPOSE_NETWORK, reserved, "http");
        }
    }
    pthread_mutex_unlock(&http->account_lock);
    return status;
}

/* Gives the ledger back what has not been used for a while. */
static void reserve_less(struct cabe_http *http)
{
    struct cabe_ledger *ledger = atomic_load(&http->ledger);
    uint64_t used, reserved, less;

    if (!ledger)
        return;
    pthread_mutex_lock(&http->account_lock);
    used = atomic_load(&http->used);
    reserved = atomic_load(&http->reserved);
    if (reserved > used && reserved - used > 4 * GRANULE) {
        less = reserved - used - GRANULE;
        /* Sequentially consistent: whoever adds to `used` now sees the new limit, or is seen here. */
        atomic_store(&http->reserved, reserved - less);
        if (atomic_load(&http->used) > reserved - less)
            atomic_store(&http->reserved, reserved);
        else
            cabe_ledger_release(ledger, CABE_HOST, CABE_PURPOSE_NETWORK, less, "http");
    }
    pthread_mutex_unlock(&http->account_lock);
}

int cabe_http_take(struct cabe_http *http, size_t n)
{
    uint64_t used = atomic_fetch_add(&http->used, n) + n;
    struct cabe_ledger *ledger = atomic_load(&http->ledger);

    if (!ledger || used <= atomic_load(&http->reserved) || reserve_more(http, ledger))
        return 1;
    atomic_fetch_sub(&http->used, n);
    return 0;
}

void cabe_http_give(struct cabe_http *http, size_t n)
{
    atomic_fetch_sub(&http->used, n);
}

int cabe_http_bytes_room(struct cabe_http *http, struct cabe_http_bytes *bytes, size_t extra)
{
    size_t size = bytes->size < 256 ? 256 : bytes->size, want;
    char *data;

    if (extra <= bytes->size - bytes->n)
        return 1;
    if (__builtin_add_overflow(bytes->n, extra, &want))
        return 0;
    while (size < want)
        if (__builtin_add_overflow(size, size < (1u << 20) ? size : size / 4, &size))
            return 0;
    if (!cabe_http_take(http, size - bytes->size))
        return 0;
    data = cabe_realloc(bytes->data, size, 1);
    if (!data) {
        cabe_http_give(http, size - bytes->size);
        return 0;
    }
    bytes->data = data;
    bytes->size = size;
    return 1;
}

int cabe_http_bytes_add(struct cabe_http *http, struct cabe_http_bytes *bytes, const void *data, size_t n)
{
    if (!cabe_http_bytes_room(http, bytes, n))
        return 0;
    if (n > 0)
        memcpy(bytes->data + bytes->n, data, n);
    bytes->n += n;
    return 1;
}

void cabe_http_bytes_free(struct cabe_http *http, struct cabe_http_bytes *bytes)
{
    cabe_http_give(http, bytes->size);
    cabe_free(bytes->data);
    *bytes = (struct cabe_http_bytes){0};
}

/* ---- the inbox ---- */

/* An edge-triggered eventfd: every write is one event, nobody reads it. A signal handler may. */
static void ring(const struct cabe_http *http)
{
    uint64_t one = 1;
    ssize_t n = write(http->wake.fd, &one, sizeof one);

    (void)n; /* full: it has been rung often enough */
}

/* Under the inbox's lock: whether to ring. */
static int must_ring(struct cabe_http *http)
{
    int must = !http->signalled && !cabe_http_on_loop(http);

    http->signalled |= must;
    return must;
}

int cabe_http_wake_for(struct cabe_http_exchange *e)
{
    struct cabe_http *http = e->http;
    int must = 0, heard;

    pthread_mutex_lock(&http->inbox_lock);
    heard = !http->ended;
    if (!e->is_queued && heard) {
        e->is_queued = 1;
        e->next = NULL;
        atomic_fetch_add_explicit(&e->refs, 1, memory_order_relaxed);
        *http->ready_end = e;
        http->ready_end = &e->next;
        must = must_ring(http);
    }
    pthread_mutex_unlock(&http->inbox_lock);
    if (must)
        ring(http);
    return heard;
}

enum cabe_status cabe_http_post(struct cabe_http *http, void (*fn)(void *arg), void *arg)
{
    struct cabe_http_post *post = cabe_malloc(sizeof *post);
    int must = 0, ended;

    if (!post)
        return CABE_ERR_OOM;
    *post = (struct cabe_http_post){.fn = fn, .arg = arg};
    pthread_mutex_lock(&http->inbox_lock);
    ended = http->ended;
    if (!ended) {
        *http->posts_end = post;
        http->posts_end = &post->next;
        must = must_ring(http);
    }
    pthread_mutex_unlock(&http->inbox_lock);
    if (must)
        ring(http);
    if (ended)
        cabe_free(post);
    return ended ? CABE_ERR_CANCELLED : CABE_OK;
}

/* One round; 0: the inbox was empty. */
static int read_inbox(struct cabe_http *http)
{
    struct cabe_http_exchange *e;
    struct cabe_http_post *post;

    pthread_mutex_lock(&http->inbox_lock);
    e = http->ready;
    post = http->posts;
    http->ready = NULL;
    http->ready_end = &http->ready;
    http->posts = NULL;
    http->posts_end = &http->posts;
    http->signalled = 0;
    pthread_mutex_unlock(&http->inbox_lock);
    if (!e && !post)
        return 0;
    while (e) {
        struct cabe_http_exchange *next;

        pthread_mutex_lock(&http->inbox_lock); /* may be queued again from here on */
        next = e->next;
        e->is_queued = 0;
        pthread_mutex_unlock(&http->inbox_lock);
        cabe_http_exchange_attend(e);
        if (e->connection)
            cabe_http_connection_go_on(e->connection);
        cabe_http_exchange_unref(e);
        e = next;
    }
    while (post) {
        struct cabe_http_post *next = post->next;

        post->fn(post->arg);
        cabe_free(post);
        post = next;
    }
    return 1;
}

static int inbox_is_empty(struct cabe_http *http)
{
    int empty;

    pthread_mutex_lock(&http->inbox_lock);
    empty = !http->ready && !http->posts;
    pthread_mutex_unlock(&http->inbox_lock);
    return empty;
}

/* ---- time ---- */

enum cabe_status cabe_http_every(struct cabe_http *http, unsigned ms, void (*fn)(void *self), void *self)
{
    if (http->n_timers == CABE_HTTP_TIMERS_MAX)
        return CABE_ERR_LIMIT;
    if (ms == 0)
        return CABE_ERR_ARGUMENT;
    http->timers[http->n_timers++] = (struct cabe_http_timer){
        .fn = fn, .self = self, .every_ns = ms * 1000000ull, .next_ns = cabe_clock_ns() + ms * 1000000ull};
    return CABE_OK;
}

static void run_timers(struct cabe_http *http)
{
    for (int i = 0; i < http->n_timers; i++) {
        struct cabe_http_timer *timer = &http->timers[i];

        if (http->now_ns >= timer->next_ns) {
            timer->fn(timer->self);
            timer->next_ns = http->now_ns + timer->every_ns;
        }
    }
}

static void sweep(struct cabe_http *http)
{
    struct cabe_http_connection *next;

    http->next_sweep_ns = http->now_ns + SWEEP_NS;
    for (struct cabe_http_connection *c = http->connections; c; c = next) {
        next = c->next;
        cabe_http_connection_check_time(c);
    }
    cabe_http_accept_again(http);
    reserve_less(http);
}

/* Milliseconds until something is due, at most `ms` where that is not -1. */
static int wait_ms(const struct cabe_http *http, int ms)
{
    uint64_t due = UINT64_MAX, left;

    for (int i = 0; i < http->n_timers; i++)
        if (http->timers[i].next_ns < due)
            due = http->timers[i].next_ns;
    if ((http->connections || http->stop_ns > 0 || http->accept_again_ns > 0) && http->next_sweep_ns < due)
        due = http->next_sweep_ns;
    if (due == UINT64_MAX)
        return ms;
    left = due > http->now_ns ? (due - http->now_ns + 999999) / 1000000 : 0;
    if (left > 1000)
        left = 1000;
    return ms >= 0 && (uint64_t)ms < left ? ms : (int)left;
}

/* ---- the loop ---- */

static void free_dead(struct cabe_http *http)
{
    while (http->dead) {
        struct cabe_http_connection *c = http->dead;

        http->dead = c->next;
        cabe_http_give(http, sizeof *c);
        cabe_free(c);
    }
}

static void dispatch(struct cabe_http *http, const struct epoll_event *event)
{
    enum cabe_http_kind kind = *(const enum cabe_http_kind *)event->data.ptr;

    if (kind == CABE_HTTP_LISTENER)
        cabe_http_accept(http, event->data.ptr);
    else if (kind == CABE_HTTP_CONNECTION)
        cabe_http_connection_event(event->data.ptr, event->events);
}

void cabe_http_turn(struct cabe_http *http, int ms)
{
    const struct cabe_http *outer = loop_here;
    struct epoll_event events[EVENTS];
    int n;

    loop_here = http;
    http->now_ns = cabe_clock_ns();
    n = epoll_wait(http->epoll, events, EVENTS, inbox_is_empty(http) ? wait_ms(http, ms) : 0);
    http->now_ns = cabe_clock_ns();
    for (int i = 0; i < n; i++)
        dispatch(http, &events[i]);
    for (int i = 0; i < ROUNDS_MAX && read_inbox(http); i++)
        ;
    run_timers(http);
    if (http->now_ns >= http->next_sweep_ns)
        sweep(http);
    free_dead(http);
    loop_here = outer;
}

/* 1: the loop is to end now. */
static int is_over(struct cabe_http *http)
{
    int calls = atomic_load(&http->stop_calls);

    if (calls == 0)
        return 0;
    if (http->stop_ns == 0) {
        struct cabe_http_connection *next;

        http->now_ns = cabe_clock_ns();
        http->stop_ns = http->now_ns + atomic_load(&http->stop_seconds) * NS;
        cabe_http_listen_close(http);
        for (struct cabe_http_connection *c = http->connections; c; c = next) {
            next = c->next;
            cabe_http_connection_go_on(c);
        }
        free_dead(http);
    }
    return calls > 1 || !http->connections || cabe_clock_ns() >= http->stop_ns;
}

/* Nothing comes after this: who is still there is sent away, and what was posted is called. */
static void end_loop(struct cabe_http *http)
{
    while (http->connections)
        cabe_http_connection_drop(http->connections);
    for (int more = 1; more;) {
        while (read_inbox(http))
            ;
        pthread_mutex_lock(&http->inbox_lock);
        more = http->ready || http->posts;
        http->ended = !more;
        pthread_mutex_unlock(&http->inbox_lock);
    }
    free_dead(http);
}

enum cabe_status cabe_http_run(struct cabe_http *http, struct cabe_error *err)
{
    if (http->ended)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "http: the loop has ended");
    loop_here = http;
    cabe_thread_slice(CABE_SLICE_ANSWER_NS);
    while (!is_over(http))
        cabe_http_turn(http, -1);
    end_loop(http);
    loop_here = NULL;
    return CABE_OK;
}

void cabe_http_stop(struct cabe_http *http, unsigned seconds)
{
    atomic_store(&http->stop_seconds, seconds);
    atomic_fetch_add(&http->stop_calls, 1);
    ring(http);
}

/* ---- open and close ---- */

static void fill_defaults(struct cabe_http_config *c)
{
    c->header_bytes = c->header_bytes ? c->header_bytes : 16u << 10;
    c->body_bytes = c->body_bytes ? c->body_bytes : 32u << 20;
    c->stream_bytes = c->stream_bytes ? c->stream_bytes : 1u << 20;
    c->n_connections = c->n_connections > 0 ? c->n_connections : 4096;
    c->header_s = c->header_s ? c->header_s : 10;
    c->body_s = c->body_s ? c->body_s : 60;
    c->idle_s = c->idle_s ? c->idle_s : 75;
    if (c->header_bytes > (1u << 20)) /* offsets into a head are 32 bits; a megabyte is enough for anyone */
        c->header_bytes = 1u << 20;
}

static enum cabe_status open_loop(struct cabe_http *http, struct cabe_error *err)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = &http->wake};

    http->wake.kind = CABE_HTTP_WAKE;
    http->epoll = epoll_create1(EPOLL_CLOEXEC);
    http->wake.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (http->epoll < 0 || http->wake.fd < 0 || epoll_ctl(http->epoll, EPOLL_CTL_ADD, http->wake.fd, &event) != 0)
        return cabe_fail_errno(err, errno, "http: event loop");
    http->scratch = cabe_malloc(CABE_HTTP_SCRATCH);
    if (!http->scratch || !cabe_http_take(http, CABE_HTTP_SCRATCH))
        return cabe_fail(err, CABE_ERR_OOM, "http: %u bytes to read into", CABE_HTTP_SCRATCH);
    return CABE_OK;
}

enum cabe_status cabe_http_open(struct cabe_http **out, const struct cabe_http_config *config, struct cabe_error *err)
{
    struct cabe_http *http = cabe_calloc(1, sizeof *http);
    enum cabe_status status;

    *out = NULL;
    if (!http)
        return cabe_fail(err, CABE_ERR_OOM, "http server");
    http->config = *config;
    fill_defaults(&http->config);
    atomic_init(&http->ledger, config->ledger);
    http->epoll = http->wake.fd = -1;
    http->ready_end = &http->ready;
    http->posts_end = &http->posts;
    pthread_mutex_init(&http->inbox_lock, NULL);
    pthread_mutex_init(&http->gone_lock, NULL);
    pthread_mutex_init(&http->account_lock, NULL);
    pthread_cond_init(&http->gone_over, NULL);
    status = open_loop(http, err);
    if (status == CABE_OK && config->tls_certificate)
        status = cabe_http_tls_open(http, config->tls_certificate, config->tls_key, err);
    if (status == CABE_OK)
        status = cabe_http_listen(http, err);
    if (status != CABE_OK) {
        cabe_http_close(http);
        return status;
    }
    *out = http;
    return CABE_OK;
}

void cabe_http_close(struct cabe_http *http)
{
    if (!http)
        return;
    if (http->epoll >= 0) {
        loop_here = http;
        if (!http->ended)
            end_loop(http);
        loop_here = NULL;
    }
    cabe_http_listen_close(http);
    cabe_http_tls_close(http);
    if (http->epoll >= 0)
        close(http->epoll);
    if (http->wake.fd >= 0)
        close(http->wake.fd);
    cabe_free(http->scratch);
    if (atomic_load(&http->reserved) > 0)
        cabe_ledger_release(atomic_load(&http->ledger), CABE_HOST, CABE_PURPOSE_NETWORK,
                            atomic_load(&http->reserved), "http");
    pthread_cond_destroy(&http->gone_over);
    pthread_mutex_destroy(&http->account_lock);
    pthread_mutex_destroy(&http->gone_lock);
    pthread_mutex_destroy(&http->inbox_lock);
    cabe_free(http);
}

int cabe_http_port(const struct cabe_http *http)
{
    return http->port;
}

void cabe_http_stats(const struct cabe_http *http, struct cabe_http_stats *stats)
{
#define READ(field) atomic_load_explicit(&http->field, memory_order_relaxed)
    *stats = (struct cabe_http_stats){.n_connections = READ(open_connections),
                                      .n_accepted = READ(accepted),
                                      .n_refused = READ(refused),
                                      .n_exchanges = READ(open_exchanges),
                                      .n_requests = READ(requests),
                                      .bytes_in = READ(bytes_in),
                                      .bytes_out = READ(bytes_out)};
#undef READ
}
