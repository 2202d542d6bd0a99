#include "serve/http_impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"

#define EXTRA_MAX (16u << 10) /* header lines of an answer */
#define KEPT_BYTES 1024u      /* of an empty buffer that stays with a stream */

/* ---- from a request to an exchange ---- */

/* The query "a=1&b" as "a" NUL "1" NUL "b" NUL NUL; `out` has room. SIZE_MAX: malformed. */
static size_t decode_query(const char *query, char *out)
{
    size_t n = 0;

    while (*query) {
        size_t length = strcspn(query, "&"), n_name = strcspn(query, "=&");
        size_t n_value = length > n_name ? length - n_name - 1 : 0, done;

        if (length > 0) {
            memcpy(out + n, query, n_name);
            done = cabe_http_unescape(out + n, n_name, 1);
            if (done == CABE_HTTP_MALFORMED)
                return CABE_HTTP_MALFORMED;
            n += done;
            out[n++] = '\0';
            memcpy(out + n, query + length - n_value, n_value);
            done = cabe_http_unescape(out + n, n_value, 1);
            if (done == CABE_HTTP_MALFORMED)
                return CABE_HTTP_MALFORMED;
            n += done;
            out[n++] = '\0';
        }
        query += length;
        query += *query == '&';
    }
    return n;
}

struct cabe_http_exchange *cabe_http_exchange_new(struct cabe_http_connection *connection,
                                                  const struct cabe_http_head *head, const char *text, size_t n)
{
    struct cabe_http *http = connection->http;
    size_t n_fields = head->n_fields * sizeof(struct cabe_http_field);
    size_t n_query = 2 * strlen(text + head->query) + 2; /* "a&b" becomes longer by as much */
    size_t bytes = sizeof(struct cabe_http_exchange) + n_fields + n + 1 + n_query;
    struct cabe_http_exchange *e;

    if (!cabe_http_take(http, bytes))
        return NULL;
    e = cabe_malloc(bytes);
    if (!e) {
        cabe_http_give(http, bytes);
        return NULL;
    }
    memset(e, 0, sizeof *e);
    if (pthread_mutex_init(&e->lock, NULL) != 0) {
        cabe_http_give(http, bytes);
        cabe_free(e);
        return NULL;
    }
    atomic_init(&e->refs, 1);
    e->n_charged = bytes;
    e->http = http;
    e->connection = connection;
    e->id = ++http->n_ids;
    e->started_ns = connection->first_ns;
    e->method = head->method;
    e->minor = head->minor;
    e->keep_alive = head->keep_alive;
    e->is_upgrade = head->upgrade;
    e->method_name = head->method_name;
    e->path = head->path;
    e->key = head->key;
    e->n_fields = head->n_fields;
    memcpy(e->fields, head->fields, n_fields);
    e->text = (char *)e->fields + n_fields;
    memcpy(e->text, text, n);
    e->text[n] = '\0';
    e->query = (uint32_t)(n + 1);
    e->n_query = decode_query(text + head->query, e->text + e->query);
    memcpy(e->peer, connection->peer, sizeof e->peer);
    atomic_fetch_add_explicit(&http->open_exchanges, 1, memory_order_relaxed);
    return e;
}

int cabe_http_charge_more(struct cabe_http_exchange *e, size_t n)
{
    if (!cabe_http_take(e->http, n))
        return 0;
    e->n_charged += n;
    return 1;
}

static void exchange_free(struct cabe_http_exchange *e)
{
    struct cabe_http *http = e->http;

    cabe_http_bytes_free(http, &e->body);
    cabe_http_bytes_free(http, &e->out);
    cabe_http_bytes_free(http, &e->extra);
    pthread_mutex_destroy(&e->lock);
    cabe_http_give(http, e->n_charged);
    atomic_fetch_sub_explicit(&http->open_exchanges, 1, memory_order_relaxed);
    cabe_free(e);
}

void cabe_http_exchange_unref(struct cabe_http_exchange *e)
{
    /* acq_rel: what others did to it comes before its end. */
    if (atomic_fetch_sub_explicit(&e->refs, 1, memory_order_acq_rel) == 1)
        exchange_free(e);
}

static void ref(struct cabe_http_exchange *e)
{
    atomic_fetch_add_explicit(&e->refs, 1, memory_order_relaxed);
}

/* ---- what it asks ---- */

void *cabe_http_self(const struct cabe_http_exchange *e)
{
    return e->http->config.self;
}

enum cabe_http_method cabe_http_method(const struct cabe_http_exchange *e)
{
    return e->method;
}

const char *cabe_http_method_name(const struct cabe_http_exchange *e)
{
    return e->text + e->method_name;
}

const char *cabe_http_path(const struct cabe_http_exchange *e)
{
    return e->text + e->path;
}

const char *cabe_http_query(const struct cabe_http_exchange *e, const char *name)
{
    const char *at = e->text + e->query, *end = at + e->n_query;

    while (at < end) {
        const char *value = at + strlen(at) + 1;

        if (strcmp(at, name) == 0)
            return value;
        at = value + strlen(value) + 1;
    }
    return NULL;
}

const char *cabe_http_header(const struct cabe_http_exchange *e, const char *name)
{
    for (uint32_t i = 0; i < e->n_fields; i++)
        if (strcmp(e->text + e->fields[i].name, name) == 0)
            return e->text + e->fields[i].value;
    return NULL;
}

const char *cabe_http_body(const struct cabe_http_exchange *e, size_t *n_bytes)
{
    if (n_bytes)
        *n_bytes = e->body.n;
    return e->body.n > 0 ? e->body.data : "";
}

const char *cabe_http_peer(const struct cabe_http_exchange *e)
{
    return e->peer;
}

uint64_t cabe_http_started_ns(const struct cabe_http_exchange *e)
{
    return e->started_ns;
}

uint64_t cabe_http_id(const struct cabe_http_exchange *e)
{
    return e->id;
}

int cabe_http_is_upgrade(const struct cabe_http_exchange *e)
{
    return e->is_upgrade;
}

/* ---- the answer ---- */

const char *cabe_http_reason(int status)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {{101, "Switching Protocols"},
                   {200, "OK"},
                   {201, "Created"},
                   {202, "Accepted"},
                   {204, "No Content"},
                   {206, "Partial Content"},
                   {301, "Moved Permanently"},
                   {302, "Found"},
                   {303, "See Other"},
                   {304, "Not Modified"},
                   {307, "Temporary Redirect"},
                   {308, "Permanent Redirect"},
                   {400, "Bad Request"},
                   {401, "Unauthorized"},
                   {403, "Forbidden"},
                   {404, "Not Found"},
                   {405, "Method Not Allowed"},
                   {406, "Not Acceptable"},
                   {408, "Request Timeout"},
                   {409, "Conflict"},
                   {410, "Gone"},
                   {411, "Length Required"},
                   {412, "Precondition Failed"},
                   {413, "Content Too Large"},
                   {415, "Unsupported Media Type"},
                   {416, "Range Not Satisfiable"},
                   {417, "Expectation Failed"},
                   {422, "Unprocessable Content"},
                   {426, "Upgrade Required"},
                   {429, "Too Many Requests"},
                   {431, "Request Header Fields Too Large"},
                   {499, "Client Closed Request"},
                   {500, "Internal Server Error"},
                   {501, "Not Implemented"},
                   {502, "Bad Gateway"},
                   {503, "Service Unavailable"},
                   {504, "Gateway Timeout"},
                   {505, "HTTP Version Not Supported"},
                   {507, "Insufficient Storage"}};

    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (reasons[i].status == status)
            return reasons[i].reason;
    return "Status";
}

/* "Date: ..." of this second; made once a second and thread. */
static size_t put_date(char *out, size_t size)
{
    static const char *const days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                         "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    static _Thread_local char line[48];
    static _Thread_local size_t n_line;
    static _Thread_local time_t at;
    struct timespec now;
    struct tm tm;

    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (n_line == 0 || now.tv_sec != at) {
        int n;

        gmtime_r(&now.tv_sec, &tm);
        n = snprintf(line, sizeof line, "Date: %s, %02d %s %04d %02d:%02d:%02d GMT\r\n", days[tm.tm_wday % 7],
                     tm.tm_mday, months[tm.tm_mon % 12], tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
        n_line = n > 0 && (size_t)n < sizeof line ? (size_t)n : 0;
        at = now.tv_sec;
    }
    if (n_line < size)
        memcpy(out, line, n_line);
    return n_line < size ? n_line : 0;
}

static int fits_a_header(const char *text, int is_name)
{
    const unsigned char *at = (const unsigned char *)text;

    if (is_name)
        return *text && strspn(text, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
                                     "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == strlen(text);
    for (; *at; at++)
        if ((*at < 0x20 && *at != '\t') || *at == 0x7F)
            return 0;
    return 1;
}

void cabe_http_set(struct cabe_http_exchange *e, const char *name, const char *value)
{
    size_t n_name = strlen(name), n_value = strlen(value);
    struct cabe_http_bytes *x = &e->extra;

    if (!fits_a_header(name, 1) || !fits_a_header(value, 0))
        return;
    pthread_mutex_lock(&e->lock);
    if (e->status == 0 && n_name < EXTRA_MAX && n_value < EXTRA_MAX && x->n + n_name + n_value + 4 <= EXTRA_MAX &&
        cabe_http_bytes_room(e->http, x, n_name + n_value + 4)) {
        memcpy(x->data + x->n, name, n_name);
        memcpy(x->data + x->n + n_name, ": ", 2);
        memcpy(x->data + x->n + n_name + 2, value, n_value);
        memcpy(x->data + x->n + n_name + 2 + n_value, "\r\n", 2);
        x->n += n_name + n_value + 4;
    }
    pthread_mutex_unlock(&e->lock);
}

int cabe_http_is_set(const struct cabe_http_exchange *exchange, const char *name)
{
    struct cabe_http_exchange *e = (struct cabe_http_exchange *)(uintptr_t)exchange;
    size_t n = strlen(name), at = 0;
    int found = 0;

    pthread_mutex_lock(&e->lock);
    while (at < e->extra.n && !found) { /* each is a line with its end */
        const char *line = (const char *)e->extra.data + at, *end = memchr(line, '\n', e->extra.n - at);

        found = e->extra.n - at > n && strncasecmp(line, name, n) == 0 && line[n] == ':';
        at += end ? (size_t)(end - line) + 1 : e->extra.n - at;
    }
    pthread_mutex_unlock(&e->lock);
    return found;
}

/* What follows the header fields of the handler. */
enum ending { WHOLE, CHUNKED, UNTIL_CLOSE, WEBSOCKET, NO_BODY };

/* The head of an answer into `out`. Under the lock. 0: no memory. */
static int put_head(struct cabe_http_exchange *e, int status, const char *type, enum ending ending, size_t n_body)
{
    struct cabe_http_bytes *out = &e->out;
    size_t n_type = type ? strlen(type) : 0, room = 512 + n_type + e->extra.n;
    char *start, *at, *end;

    if (type && !fits_a_header(type, 0))
        n_type = 0;
    if (!cabe_http_bytes_room(e->http, out, room + n_body))
        return 0;
    if (atomic_load_explicit(&e->http->stop_calls, memory_order_relaxed) > 0)
        e->keep_alive = 0;
    start = at = out->data + out->n;
    end = start + room;
#define PUT(...) at += snprintf(at, (size_t)(end - at), __VA_ARGS__)
    PUT("HTTP/1.1 %d %s\r\n", status, cabe_http_reason(status));
    at += put_date(at, (size_t)(end - at));
    if (ending == WEBSOCKET) {
        char accept[32];

        cabe_http_websocket_accept(e->text + e->key, accept);
        PUT("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n", accept);
    } else if (!e->keep_alive) {
        PUT("Connection: close\r\n");
    } else if (e->minor == 0) {
        PUT("Connection: keep-alive\r\n");
    }
    if (n_type > 0)
        PUT("Content-Type: %s\r\n", type);
    if (n_type >= 17 && strncasecmp(type, "text/event-stream", 17) == 0 && ending != WHOLE)
        PUT("Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n");
    if (ending == WHOLE)
        PUT("Content-Length: %zu\r\n", n_body);
    else if (ending == CHUNKED)
        PUT("Transfer-Encoding: chunked\r\n");
#undef PUT
    if (e->extra.n > 0)
        memcpy(at, e->extra.data, e->extra.n);
    at += e->extra.n;
    memcpy(at, "\r\n", 2);
    out->n += (size_t)(at + 2 - start);
    cabe_http_bytes_free(e->http, &e->extra);
    return 1;
}

static int has_no_body(int status)
{
    return status < 200 || status == 204 || status == 304;
}

/* There is something to send. While request() runs on the loop, the loop looks anyway. */
static void wake(struct cabe_http_exchange *e)
{
    if (!cabe_http_on_loop(e->http) || e->http->serving != e)
        cabe_http_wake_for(e);
}

/* The answer has ended: the loop is to know, and the answer's own reference goes. Without the lock. */
static void announce_end(struct cabe_http_exchange *e)
{
    wake(e);
    cabe_http_exchange_unref(e);
}

void cabe_http_reply(struct cabe_http_exchange *e, int status, const char *type, const void *body, size_t n)
{
    int bodiless = has_no_body(status);

    pthread_mutex_lock(&e->lock);
    if (e->status != 0) {
        pthread_mutex_unlock(&e->lock);
        return;
    }
    if (e->left) {
        e->status = status;
    } else if (put_head(e, status, type, bodiless ? NO_BODY : WHOLE, n)) {
        e->status = status;
        if (!bodiless && n > 0 && e->method != CABE_HTTP_HEAD) {
            memcpy(e->out.data + e->out.n, body, n);
            e->out.n += n;
        }
    } else {
        e->status = 503;
        e->unsaid = 1;
    }
    e->ended = 1;
    pthread_mutex_unlock(&e->lock);
    announce_end(e);
}

void cabe_http_begin(struct cabe_http_exchange *e, int status, const char *type)
{
    enum ending ending = has_no_body(status) ? NO_BODY : e->minor == 1 ? CHUNKED : UNTIL_CLOSE;

    if (status == 101 && !e->is_upgrade) {
        cabe_http_reply(e, 500, NULL, NULL, 0);
        return;
    }
    pthread_mutex_lock(&e->lock);
    if (e->status != 0) {
        pthread_mutex_unlock(&e->lock);
        return;
    }
    e->status = status;
    e->bodiless = status != 101 && (ending == NO_BODY || e->method == CABE_HTTP_HEAD);
    if (status == 101) {
        e->is_websocket = 1;
        ending = WEBSOCKET;
    } else if (ending == UNTIL_CLOSE) {
        e->keep_alive = 0;
    }
    e->chunked = ending == CHUNKED;
    if (!e->left && !put_head(e, status, type, ending, 0))
        e->unsaid = e->broken = 1;
    pthread_mutex_unlock(&e->lock);
    wake(e);
}

/* A piece as it goes over the wire. Under the lock. */
static int put_piece(struct cabe_http_exchange *e, const void *bytes, size_t n)
{
    struct cabe_http_bytes *out = &e->out;
    char head[24];
    size_t n_head = 0;

    if (e->is_websocket)
        n_head = cabe_http_websocket_frame(head, CABE_HTTP_TEXT, n);
    else if (e->chunked)
        n_head = (size_t)snprintf(head, sizeof head, "%zx\r\n", n);
    if (!cabe_http_bytes_room(e->http, out, n_head + n + 2))
        return 0;
    memcpy(out->data + out->n, head, n_head);
    memcpy(out->data + out->n + n_head, bytes, n);
    out->n += n_head + n;
    if (e->chunked) {
        memcpy(out->data + out->n, "\r\n", 2);
        out->n += 2;
    }
    return 1;
}

enum cabe_status cabe_http_send(struct cabe_http_exchange *e, const void *bytes, size_t n)
{
    enum cabe_status status = CABE_OK;
    int taken = 0;

    pthread_mutex_lock(&e->lock);
    if (e->left || e->broken) {
        status = CABE_ERR_CANCELLED;
    } else if (e->status == 0 || e->ended) {
        status = CABE_ERR_ARGUMENT;
    } else if (e->bodiless || (n == 0 && !e->is_websocket)) {
        status = CABE_OK;
    } else if (n > e->http->config.stream_bytes || e->out.n - e->sent > e->http->config.stream_bytes - n) {
        status = CABE_ERR_LIMIT;
    } else if (!put_piece(e, bytes, n)) {
        status = CABE_ERR_OOM;
    } else {
        taken = 1;
    }
    pthread_mutex_unlock(&e->lock);
    if (taken)
        wake(e);
    return status;
}

void cabe_http_end(struct cabe_http_exchange *e)
{
    static const char close_frame[] = {(char)0x88, 2, 0x03, (char)0xE8}; /* 1000: done */

    pthread_mutex_lock(&e->lock);
    if (e->ended) {
        pthread_mutex_unlock(&e->lock);
        return;
    }
    if (e->status == 0) { /* never begun */
        pthread_mutex_unlock(&e->lock);
        cabe_http_reply(e, 500, NULL, NULL, 0);
        return;
    }
    if (!e->left && !e->bodiless && !e->broken) {
        if (e->is_websocket)
            e->broken = !cabe_http_bytes_add(e->http, &e->out, close_frame, sizeof close_frame);
        else if (e->chunked)
            e->broken = !cabe_http_bytes_add(e->http, &e->out, "0\r\n\r\n", 5);
    }
    e->ended = 1;
    pthread_mutex_unlock(&e->lock);
    announce_end(e);
}

void cabe_http_cut(struct cabe_http_exchange *e)
{
    pthread_mutex_lock(&e->lock);
    e->broken |= e->status != 0 && !e->ended;
    pthread_mutex_unlock(&e->lock);
    cabe_http_end(e);
}

size_t cabe_http_unsent(struct cabe_http_exchange *e)
{
    size_t n;

    pthread_mutex_lock(&e->lock);
    n = e->out.n - e->sent;
    pthread_mutex_unlock(&e->lock);
    return n;
}

int cabe_http_status(const struct cabe_http_exchange *exchange)
{
    struct cabe_http_exchange *e = (struct cabe_http_exchange *)exchange; /* its lock is not part of what it says */
    int status;

    pthread_mutex_lock(&e->lock);
    status = e->status;
    pthread_mutex_unlock(&e->lock);
    return status;
}

/* ---- on the loop ---- */

void cabe_http_exchange_message(struct cabe_http_exchange *e, const char *text, size_t n)
{
    void (*message)(void *self, const char *text, size_t n);
    void *self;

    pthread_mutex_lock(&e->lock);
    message = e->ended ? NULL : e->message;
    self = e->message_self;
    pthread_mutex_unlock(&e->lock);
    if (message)
        message(self, text, n);
}

int cabe_http_exchange_frame(struct cabe_http_exchange *e, int opcode, const char *bytes, size_t n)
{
    char head[16];
    size_t n_head = cabe_http_websocket_frame(head, opcode, n);
    int done = 0;

    pthread_mutex_lock(&e->lock);
    if (!e->ended && e->out.n - e->sent <= e->http->config.stream_bytes &&
        cabe_http_bytes_room(e->http, &e->out, n_head + n)) {
        memcpy(e->out.data + e->out.n, head, n_head);
        memcpy(e->out.data + e->out.n + n_head, bytes, n);
        e->out.n += n_head + n;
        done = 1;
    }
    pthread_mutex_unlock(&e->lock);
    return done;
}

int cabe_http_exchange_has_ended(struct cabe_http_exchange *e)
{
    int ended;

    pthread_mutex_lock(&e->lock);
    ended = e->ended;
    pthread_mutex_unlock(&e->lock);
    return ended;
}

int cabe_http_exchange_is_socket(struct cabe_http_exchange *e)
{
    int is;

    pthread_mutex_lock(&e->lock);
    is = e->is_websocket;
    pthread_mutex_unlock(&e->lock);
    return is;
}

int cabe_http_exchange_flush(struct cabe_http_exchange *e)
{
    struct cabe_http_connection *c = e->connection;
    int answer = 0;

    pthread_mutex_lock(&e->lock);
    while (e->sent < e->out.n) {
        ssize_t n = cabe_http_connection_write(c, e->out.data + e->sent, e->out.n - e->sent);

        if (n <= 0) {
            answer = n == -EAGAIN ? 1 : -1;
            break;
        }
        e->sent += (size_t)n;
    }
    if (e->sent == e->out.n) {
        e->sent = e->out.n = 0;
        if (e->out.size > KEPT_BYTES)
            cabe_http_bytes_free(e->http, &e->out);
    } else if (e->sent > e->out.n / 2) {
        memmove(e->out.data, e->out.data + e->sent, e->out.n - e->sent);
        e->out.n -= e->sent;
        e->sent = 0;
    }
    if (answer == 0 && e->unsaid)
        answer = 3;
    else if (answer == 0 && e->broken)
        answer = -1;
    else if (answer == 0 && e->ended)
        answer = 2;
    pthread_mutex_unlock(&e->lock);
    return answer;
}

/* Calls gone(), with other threads waiting for its end in cabe_http_on_gone(). */
static void call_gone(struct cabe_http_exchange *e)
{
    struct cabe_http *http = e->http;
    void (*gone)(void *self);
    void *self;

    pthread_mutex_lock(&e->lock);
    gone = e->gone;
    self = e->gone_self;
    e->gone = NULL;
    if (gone) {
        pthread_mutex_lock(&http->gone_lock);
        http->gone_of = e;
        pthread_mutex_unlock(&http->gone_lock);
    }
    pthread_mutex_unlock(&e->lock);
    if (!gone)
        return;
    gone(self);
    pthread_mutex_lock(&http->gone_lock);
    http->gone_of = NULL;
    pthread_cond_broadcast(&http->gone_over);
    pthread_mutex_unlock(&http->gone_lock);
}

static void call_done(struct cabe_http_exchange *e)
{
    void (*done)(void *self, struct cabe_http_exchange *exchange);
    void *self;

    pthread_mutex_lock(&e->lock);
    done = e->done;
    self = e->done_self;
    e->done = NULL;
    pthread_mutex_unlock(&e->lock);
    if (done)
        done(self, e);
}

void cabe_http_exchange_detach(struct cabe_http_exchange *e)
{
    int ended;

    e->connection = NULL;
    pthread_mutex_lock(&e->lock);
    ended = e->ended;
    e->left = 1;
    e->finished = e->announced;
    e->sent = 0;
    cabe_http_bytes_free(e->http, &e->out);
    pthread_mutex_unlock(&e->lock);
    if (e->announced) {
        if (!ended)
            call_gone(e);
        call_done(e);
    }
    cabe_http_exchange_unref(e);
}

void cabe_http_exchange_attend(struct cabe_http_exchange *e)
{
    int let_go, answered, finished;

    pthread_mutex_lock(&e->lock);
    let_go = e->was_held && e->n_holds == 0 && !e->ended;
    answered = e->status != 0;
    finished = e->finished;
    if (let_go && answered)
        e->broken = 1; /* a stream without its end must not look whole */
    pthread_mutex_unlock(&e->lock);
    if (let_go && answered)
        cabe_http_end(e);
    else if (let_go)
        cabe_http_reply(e, 500, NULL, NULL, 0);
    if (finished)
        call_done(e);
}

/* ---- callbacks and holders ---- */

void cabe_http_on_gone(struct cabe_http_exchange *e, void (*gone)(void *self), void *self)
{
    struct cabe_http *http = e->http;
    int has_left;

    pthread_mutex_lock(&e->lock);
    has_left = e->left && !e->ended;
    e->gone = has_left ? NULL : gone;
    e->gone_self = self;
    pthread_mutex_unlock(&e->lock);
    if (!cabe_http_on_loop(http)) {
        pthread_mutex_lock(&http->gone_lock);
        while (http->gone_of == e)
            pthread_cond_wait(&http->gone_over, &http->gone_lock);
        pthread_mutex_unlock(&http->gone_lock);
    }
    if (has_left && gone)
        gone(self);
}

void cabe_http_on_message(struct cabe_http_exchange *e, void (*message)(void *self, const char *text, size_t n),
                          void *self)
{
    pthread_mutex_lock(&e->lock);
    e->message = message;
    e->message_self = self;
    pthread_mutex_unlock(&e->lock);
}

void cabe_http_on_done(struct cabe_http_exchange *e, void (*done)(void *self, struct cabe_http_exchange *exchange),
                       void *self)
{
    int late;

    pthread_mutex_lock(&e->lock);
    e->done = done;
    e->done_self = self;
    late = e->finished;
    pthread_mutex_unlock(&e->lock);
    if (late)
        cabe_http_wake_for(e);
}

void cabe_http_hold(struct cabe_http_exchange *e)
{
    ref(e);
    pthread_mutex_lock(&e->lock);
    e->n_holds++;
    e->was_held = 1;
    pthread_mutex_unlock(&e->lock);
}

void cabe_http_release(struct cabe_http_exchange *e)
{
    int let_go;

    pthread_mutex_lock(&e->lock);
    let_go = --e->n_holds == 0 && !e->ended;
    pthread_mutex_unlock(&e->lock);
    if (let_go && !cabe_http_wake_for(e)) /* perhaps for good: the loop looks when its callback has returned */
        cabe_http_exchange_attend(e);
    cabe_http_exchange_unref(e);
}
