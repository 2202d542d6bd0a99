/* A connection: bytes in, requests out, answers on their way, time limits. All of it on the loop's thread. */
#include "serve/http_impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

#define NS 1000000000ull
#define BODY_AT_ONCE (64u << 10) /* of a body's stated length; more is only believed when it comes */
#define BODY_BYTES_PER_S 1024u   /* a body slower than this runs out of time */
#define READS_MAX 16             /* of one connection in one turn, where one event may stand for many */

ssize_t cabe_http_connection_read(struct cabe_http_connection *c, void *bytes, size_t n)
{
    ssize_t got;

    if (c->tls) {
        got = cabe_http_tls_read(c, bytes, n);
    } else {
        do
            got = recv(c->fd, bytes, n, MSG_DONTWAIT);
        while (got < 0 && errno == EINTR);
        if (got < 0)
            got = errno == EWOULDBLOCK ? -EAGAIN : -errno;
    }
    if (got > 0)
        atomic_fetch_add_explicit(&c->http->bytes_in, (uint64_t)got, memory_order_relaxed);
    return got;
}

ssize_t cabe_http_connection_write(struct cabe_http_connection *c, const void *bytes, size_t n)
{
    ssize_t put;

    if (c->tls) {
        put = cabe_http_tls_write(c, bytes, n);
    } else {
        do
            put = send(c->fd, bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        while (put < 0 && errno == EINTR);
        if (put < 0)
            put = errno == EWOULDBLOCK ? -EAGAIN : -errno;
    }
    if (put > 0) {
        atomic_fetch_add_explicit(&c->http->bytes_out, (uint64_t)put, memory_order_relaxed);
        if (c->deadline_ns > 0 && c->blocked == 0 &&
            (c->state == CABE_HTTP_STATE_ANSWER || c->state == CABE_HTTP_STATE_SOCKET))
            c->deadline_ns = c->http->now_ns + c->http->config.body_s * NS; /* it reads, if slowly */
    }
    return put;
}

/* ---- the end ---- */

static void leave_list(struct cabe_http_connection *c)
{
    struct cabe_http *http = c->http;

    if (c->previous)
        c->previous->next = c->next;
    else
        http->connections = c->next;
    if (c->next)
        c->next->previous = c->previous;
    if (c->is_refused)
        http->n_refused--;
    else
        http->n_connections--;
    atomic_fetch_sub_explicit(&http->open_connections, 1, memory_order_relaxed);
    c->next = http->dead;
    http->dead = c;
}

static void let_exchange_go(struct cabe_http_connection *c)
{
    struct cabe_http_exchange *e = c->exchange;

    c->exchange = NULL;
    if (e)
        cabe_http_exchange_detach(e);
}

void cabe_http_connection_drop(struct cabe_http_connection *c)
{
    if (c->state == CABE_HTTP_STATE_DEAD)
        return;
    c->state = CABE_HTTP_STATE_DEAD;
    cabe_http_tls_end(c, 0);
    epoll_ctl(c->http->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    c->fd = -1;
    leave_list(c);
    cabe_http_bytes_free(c->http, &c->in);
    cabe_http_bytes_free(c->http, &c->message);
    let_exchange_go(c);
}

/* Nothing more is sent; what the client still sends is thrown away for a while, or the system would reset the
 * connection and take the answer back. */
static void linger(struct cabe_http_connection *c)
{
    if (c->eof) {
        cabe_http_connection_drop(c);
        return;
    }
    c->state = CABE_HTTP_STATE_LINGER;
    c->first_ns = c->http->now_ns;
    c->deadline_ns = c->http->now_ns + CABE_HTTP_LINGER_NS;
    c->blocked = 0;
    cabe_http_tls_end(c, 1);
    shutdown(c->fd, SHUT_WR);
}

void cabe_http_connection_refuse(struct cabe_http_connection *c, int status)
{
    static const struct {
        int status;
        const char *code, *why;
    } whys[] = {{400, "malformed_request", "malformed request"},
                {408, "request_timeout", "the request took too long"},
                {411, "length_required", "a body needs Content-Length or Transfer-Encoding: chunked"},
                {413, "body_too_large", "the request's body is too large"},
                {417, "expectation_failed", "only 100-continue can be expected"},
                {426, "websocket_version", "WebSocket version 13 is spoken here"},
                {431, "header_too_large", "the request's header is too large"},
                {501, "unsupported_encoding", "only the transfer encoding chunked is known"},
                {503, "overloaded", "too many connections, or no memory"},
                {505, "http_version", "only HTTP/1.1 and HTTP/1.0 are spoken here"}};
    const char *why = cabe_http_reason(status), *code = "refused";
    char body[256], text[640];
    int n_body, n;

    for (size_t i = 0; i < sizeof whys / sizeof *whys; i++)
        if (whys[i].status == status) {
            why = whys[i].why;
            code = whys[i].code;
        }
    cabe_log(c->http->config.log, CABE_LOG_DEBUG, "http_refused", "{s:i,s:s}", "status", status, "peer", c->peer);
    n_body = snprintf(body, sizeof body,
                      "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":\"%s\"}}", why,
                      status < 500    ? "invalid_request_error"
                      : status == 503 ? "overloaded_error"
                                      : "server_error",
                      code);
    n = snprintf(text, sizeof text,
                 "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
                 "%s%s\r\n%s",
                 status, cabe_http_reason(status), n_body, status == 503 ? "Retry-After: 1\r\n" : "",
                 status == 426 ? "Sec-WebSocket-Version: 13\r\n" : "", body);
    let_exchange_go(c);
    if (cabe_http_connection_write(c, text, (size_t)n) > 0)
        linger(c);
    else
        cabe_http_connection_drop(c);
}

/* ---- requests ---- */

static void announce(struct cabe_http_connection *c)
{
    struct cabe_http *http = c->http;
    struct cabe_http_exchange *e = c->exchange;

    c->state = CABE_HTTP_STATE_ANSWER;
    c->deadline_ns = c->first_ns = 0;
    e->announced = 1;
    atomic_fetch_add_explicit(&e->refs, 1, memory_order_relaxed); /* the answer that is due */
    atomic_fetch_add_explicit(&http->requests, 1, memory_order_relaxed);
    http->serving = e;
    http->config.request(http->config.self, e);
    http->serving = NULL;
}

static void set_body_deadline(struct cabe_http_connection *c)
{
    const struct cabe_http_config *config = &c->http->config;
    uint64_t silent = c->http->now_ns + config->body_s * NS;
    uint64_t whole = c->first_ns + (config->header_s + config->body_s) * NS +
                     c->exchange->body.n * (NS / BODY_BYTES_PER_S);

    c->deadline_ns = silent < whole ? silent : whole;
}

/* 0, or the status that refuses the body a head speaks of. */
static int check_body(struct cabe_http_connection *c, const struct cabe_http_head *head, const char *path,
                      uint64_t *max)
{
    const struct cabe_http_config *config = &c->http->config;
    int wants_body =
        head->method == CABE_HTTP_POST || head->method == CABE_HTTP_PUT || head->method == CABE_HTTP_PATCH;

    *max = config->body_limit ? config->body_limit(config->self, path) : 0;
    *max = *max ? *max : config->body_bytes;
    if (head->has_length && (head->n_body > *max || head->n_body > SIZE_MAX / 4))
        return 413;
    if (wants_body && head->has_type && !head->has_length && !head->chunked)
        return 411;
    return 0;
}

/* An exchange for a head; 0, or the status that refuses it. */
static int begin_exchange(struct cabe_http_connection *c, const struct cabe_http_head *head, const char *text,
                          size_t n)
{
    uint64_t max;
    int status = check_body(c, head, text + head->path, &max);
    struct cabe_http_exchange *e;

    if (status != 0)
        return status;
    e = cabe_http_exchange_new(c, head, text, n);
    if (!e)
        return 503;
    c->exchange = e;
    if (e->n_query == CABE_HTTP_MALFORMED)
        return 400;
    e->body_max = head->chunked ? max : head->n_body;
    c->chunks = (struct cabe_http_chunks){0};
    if (!head->chunked && head->n_body > 0 &&
        !cabe_http_bytes_room(c->http, &e->body,
                              head->n_body < BODY_AT_ONCE ? (size_t)head->n_body + 1 : BODY_AT_ONCE))
        return 503;
    return 0;
}

static size_t read_head(struct cabe_http_connection *c, char *data, size_t n)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    struct cabe_http *http = c->http;
    struct cabe_http_head head;
    size_t length;
    int status;

    if (n == 0)
        return 0;
    if (c->first_ns == 0) {
        c->first_ns = cabe_clock_ns();
        c->deadline_ns = c->first_ns + http->config.header_s * NS;
        c->scanned = 0;
    }
    if (data[0] == '\r' && n == 1)
        return 0;
    if (data[0] == '\r' && data[1] == '\n') /* some clients end a body with one too many */
        return 2;
    length = (unsigned char)data[0] <= ' ' || (unsigned char)data[0] >= 0x7F ? CABE_HTTP_MALFORMED
                                                                            : cabe_http_head_end(data, n, &c->scanned);
    if (length == 0 && n < http->config.header_bytes)
        return 0;
    c->scanned = 0;
    if (length == CABE_HTTP_MALFORMED)
        status = 400;
    else if (length == 0 || length > http->config.header_bytes)
        status = 431;
    else
        status = cabe_http_head_read(&head, data, length);
    if (status == 0)
        status = begin_exchange(c, &head, data, length);
    if (status != 0) {
        cabe_http_connection_refuse(c, status);
        return n;
    }
    if (!head.chunked && head.n_body == 0) {
        announce(c);
        return length;
    }
    c->state = head.chunked ? CABE_HTTP_STATE_CHUNKS : CABE_HTTP_STATE_BODY;
    set_body_deadline(c);
    if (head.expects_continue && length == n)
        (void)!cabe_http_connection_write(c, go_on, sizeof go_on - 1); /* the buffer of the system is empty */
    return length;
}

/* The body is whole: handlers may read a NUL behind it. */
static void end_body(struct cabe_http_connection *c)
{
    struct cabe_http_bytes *body = &c->exchange->body;

    if (!cabe_http_bytes_room(c->http, body, 1)) {
        cabe_http_connection_refuse(c, 503);
        return;
    }
    body->data[body->n] = '\0';
    announce(c);
}

static size_t read_body(struct cabe_http_connection *c, const char *data, size_t n)
{
    struct cabe_http_exchange *e = c->exchange;
    size_t left = (size_t)e->body_max - e->body.n;

    n = n < left ? n : left;
    if (!cabe_http_bytes_add(c->http, &e->body, data, n)) {
        cabe_http_connection_refuse(c, 503);
        return n;
    }
    if (n > 0)
        set_body_deadline(c);
    if (n == left)
        end_body(c);
    return n;
}

static size_t read_chunks(struct cabe_http_connection *c, const char *data, size_t n)
{
    struct cabe_http_exchange *e = c->exchange;
    size_t used = 0, now, n_piece;
    const char *piece;

    while (used < n) {
        int status = cabe_http_chunks_read(&c->chunks, data + used, n - used, &now, &piece, &n_piece);

        used += now;
        if (status < 100 && (n_piece > e->body_max - e->body.n || c->chunks.left > e->body_max))
            status = 413;
        else if (status < 100 && !cabe_http_bytes_add(c->http, &e->body, piece, n_piece))
            status = 503;
        if (status >= 100) {
            cabe_http_connection_refuse(c, status);
            return n;
        }
        if (status == CABE_HTTP_CHUNKS_END) {
            end_body(c);
            return used;
        }
    }
    if (n > 0)
        set_body_deadline(c);
    return used;
}

/* ---- answers ---- */

static void finish(struct cabe_http_connection *c)
{
    struct cabe_http_exchange *e = c->exchange;
    int stays = e->keep_alive && c->http->stop_ns == 0 && c->state == CABE_HTTP_STATE_ANSWER;

    let_exchange_go(c);
    if (!stays) {
        linger(c);
        return;
    }
    c->state = CABE_HTTP_STATE_HEAD;
    c->deadline_ns = c->http->now_ns + c->http->config.idle_s * NS;
}

/* Sends what waits. */
static void answer(struct cabe_http_connection *c)
{
    int went;

    if (c->blocked)
        return;
    went = cabe_http_exchange_flush(c->exchange);
    if (went < 0) {
        cabe_http_connection_drop(c);
    } else if (went == 3) {
        cabe_http_connection_refuse(c, 503);
    } else if (went == 1) {
        c->blocked = 1;
        if (c->deadline_ns == 0)
            c->deadline_ns = c->http->now_ns + c->http->config.body_s * NS;
    } else {
        c->deadline_ns = 0;
        if (went == 2)
            finish(c);
        else if (cabe_http_exchange_is_socket(c->exchange))
            c->state = CABE_HTTP_STATE_SOCKET;
    }
}

static size_t converse(struct cabe_http_connection *c, char *data, size_t n)
{
    int over = 0;
    size_t used;

    answer(c);
    if (c->state != CABE_HTTP_STATE_SOCKET)
        return 0;
    used = cabe_http_websocket_read(c, data, n, &over);
    if (over) {
        cabe_http_exchange_flush(c->exchange); /* our side of the farewell */
        let_exchange_go(c);
        linger(c);
    } else if (used > 0) {
        answer(c);
    }
    return used;
}

/* One step with the bytes that are there; how many were used. */
static size_t advance(struct cabe_http_connection *c, char *data, size_t n)
{
    switch (c->state) {
    case CABE_HTTP_STATE_HEAD:
        return read_head(c, data, n);
    case CABE_HTTP_STATE_BODY:
        return read_body(c, data, n);
    case CABE_HTTP_STATE_CHUNKS:
        return read_chunks(c, data, n);
    case CABE_HTTP_STATE_ANSWER:
        answer(c);
        return 0;
    case CABE_HTTP_STATE_SOCKET:
        return converse(c, data, n);
    case CABE_HTTP_STATE_LINGER:
        if (n > 0 && c->http->now_ns - c->first_ns < CABE_HTTP_LINGER_MOST_NS)
            c->deadline_ns = c->http->now_ns + CABE_HTTP_LINGER_NS;
        return n;
    case CABE_HTTP_STATE_TLS:
    case CABE_HTTP_STATE_DEAD:
        break;
    }
    return 0;
}

/* Goes on with `n` bytes, which are c->in's or the scratch's, until they are used up or something has to be waited for.
 * What is left is kept. */
static void work(struct cabe_http_connection *c, char *data, size_t n)
{
    enum cabe_http_state before;
    size_t used = 0, step;

    do {
        before = c->state;
        step = advance(c, data + used, n - used);
        used += step;
    } while (c->state != CABE_HTTP_STATE_DEAD && (step > 0 || c->state != before));
    if (c->state == CABE_HTTP_STATE_DEAD)
        return;
    if (data == c->in.data && used < n) {
        memmove(data, data + used, n - used);
        c->in.n = n - used;
    } else if (used == n) {
        cabe_http_bytes_free(c->http, &c->in);
    } else if (!cabe_http_bytes_add(c->http, &c->in, data + used, n - used)) {
        cabe_http_connection_drop(c);
    }
}

/* ---- events ---- */

static void ask_events(struct cabe_http_connection *c)
{
    uint32_t wanted = EPOLLIN | EPOLLRDHUP;
    struct epoll_event event = {.data.ptr = c};

    if (c->state == CABE_HTTP_STATE_DEAD)
        return;
    if (c->eof)
        wanted = 0;
    else if (c->state == CABE_HTTP_STATE_ANSWER && c->in.n >= c->http->config.header_bytes)
        wanted = EPOLLRDHUP;
    if (c->blocked || c->tls_wants_write)
        wanted |= EPOLLOUT;
    if (wanted == c->events)
        return;
    event.events = c->events = wanted;
    epoll_ctl(c->http->epoll, EPOLL_CTL_MOD, c->fd, &event);
}

/* The client sends no more: it has left, unless it only waits for the rest of an answer. */
static void at_eof(struct cabe_http_connection *c)
{
    c->eof = 1;
    if (c->state != CABE_HTTP_STATE_ANSWER || !cabe_http_exchange_has_ended(c->exchange))
        cabe_http_connection_drop(c);
}

/* How much may be read now: while an answer is on its way, only as much as a next request may wait. */
static size_t room_to_read(const struct cabe_http_connection *c)
{
    size_t most = (size_t)c->http->config.header_bytes;

    if (c->state != CABE_HTTP_STATE_ANSWER)
        return CABE_HTTP_SCRATCH;
    if (c->in.n >= most)
        return 0;
    return most - c->in.n < CABE_HTTP_SCRATCH ? most - c->in.n : CABE_HTTP_SCRATCH;
}

static void read_some(struct cabe_http_connection *c, int has_left)
{
    struct cabe_http *http = c->http;
    int reads = c->tls || c->state == CABE_HTTP_STATE_LINGER ? READS_MAX : 1;

    for (int i = 0; (i < reads || has_left) && c->state != CABE_HTTP_STATE_DEAD && !c->eof; i++) {
        size_t room = room_to_read(c);
        ssize_t n = room > 0 ? cabe_http_connection_read(c, http->scratch, room) : -EAGAIN;

        if (n == -EAGAIN) {
            if (has_left && room == 0)
                at_eof(c);
            return;
        }
        if (n < 0) {
            cabe_http_connection_drop(c);
            return;
        }
        if (n == 0) {
            at_eof(c);
            return;
        }
        if (c->in.n == 0) {
            work(c, http->scratch, (size_t)n);
        } else if (cabe_http_bytes_add(http, &c->in, http->scratch, (size_t)n)) {
            work(c, c->in.data, c->in.n);
        } else {
            cabe_http_connection_drop(c);
        }
    }
}

/* With TLS, bytes may wait where epoll does not see them. */
static void settle(struct cabe_http_connection *c)
{
    if (c->tls && c->state != CABE_HTTP_STATE_TLS && c->state != CABE_HTTP_STATE_DEAD && !c->eof)
        read_some(c, 0);
    if (c->eof && c->state == CABE_HTTP_STATE_HEAD)
        cabe_http_connection_drop(c);
    ask_events(c);
}

static void shake(struct cabe_http_connection *c)
{
    int went = cabe_http_tls_shake(c);

    if (went == 1) {
        c->state = CABE_HTTP_STATE_HEAD;
        c->deadline_ns = c->http->now_ns + c->http->config.idle_s * NS;
    } else if (went != -EAGAIN) {
        cabe_http_connection_drop(c);
    }
}

void cabe_http_connection_event(struct cabe_http_connection *c, uint32_t events)
{
    if (c->state == CABE_HTTP_STATE_DEAD)
        return;
    if (events & (EPOLLERR | EPOLLHUP)) {
        cabe_http_connection_drop(c);
        return;
    }
    if (events & EPOLLOUT)
        c->blocked = c->tls_wants_write = 0;
    if (c->state == CABE_HTTP_STATE_TLS)
        shake(c);
    if (c->state != CABE_HTTP_STATE_TLS && (events & (EPOLLIN | EPOLLRDHUP)))
        read_some(c, (events & EPOLLRDHUP) != 0);
    if (events & EPOLLOUT)
        cabe_http_connection_go_on(c);
    else
        settle(c);
}

void cabe_http_connection_go_on(struct cabe_http_connection *c)
{
    static char nothing[1];

    if (c->state == CABE_HTTP_STATE_DEAD)
        return;
    if (c->http->stop_ns > 0 && (c->state == CABE_HTTP_STATE_TLS ||
                                 (c->state == CABE_HTTP_STATE_HEAD && c->first_ns == 0 && c->in.n == 0))) {
        cabe_http_connection_drop(c); /* nobody waits for anything */
        return;
    }
    work(c, c->in.n > 0 ? c->in.data : nothing, c->in.n);
    settle(c);
}

void cabe_http_connection_check_time(struct cabe_http_connection *c)
{
    if (c->deadline_ns == 0 || c->http->now_ns < c->deadline_ns)
        return;
    if ((c->state == CABE_HTTP_STATE_HEAD && c->first_ns > 0) || c->state == CABE_HTTP_STATE_BODY ||
        c->state == CABE_HTTP_STATE_CHUNKS) {
        cabe_http_connection_refuse(c, 408);
        ask_events(c);
    } else {
        cabe_http_connection_drop(c);
    }
}

/* ---- the beginning ---- */

struct cabe_http_connection *cabe_http_adopt(struct cabe_http *http, int fd, const char *peer, int is_tls)
{
    struct cabe_http_connection *c = NULL;
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP};
    int is_refused = http->n_connections >= http->config.n_connections;

    if (is_refused)
        atomic_fetch_add_explicit(&http->refused, 1, memory_order_relaxed);
    if ((is_refused && (is_tls || http->n_refused >= CABE_HTTP_REFUSED_MAX)) || !cabe_http_take(http, sizeof *c)) {
        close(fd);
        return NULL;
    }
    c = cabe_calloc(1, sizeof *c);
    event.data.ptr = c;
    if (!c || epoll_ctl(http->epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        close(fd);
        cabe_free(c);
        cabe_http_give(http, sizeof *c);
        return NULL;
    }
    c->kind = CABE_HTTP_CONNECTION;
    c->fd = fd;
    c->http = http;
    c->events = event.events;
    c->is_refused = is_refused;
    c->state = is_tls ? CABE_HTTP_STATE_TLS : CABE_HTTP_STATE_HEAD;
    c->deadline_ns = http->now_ns + (is_tls ? http->config.header_s : http->config.idle_s) * NS;
    snprintf(c->peer, sizeof c->peer, "%s", peer);
    c->next = http->connections;
    if (c->next)
        c->next->previous = c;
    http->connections = c;
    if (is_refused)
        http->n_refused++;
    else
        http->n_connections++;
    atomic_fetch_add_explicit(&http->open_connections, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&http->accepted, 1, memory_order_relaxed);
    if (is_tls && !cabe_http_tls_begin(c))
        cabe_http_connection_drop(c);
    else if (is_refused)
        cabe_http_connection_refuse(c, 503);
    return c->state == CABE_HTTP_STATE_DEAD ? NULL : c;
}
