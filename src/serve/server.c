#include "serve/server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "serve/metrics.h"
#include "serve/server_impl.h"

#define TICK_MS 250
#define REQUEST_ID_MAX 128
#define DRAIN_MARGIN_S 5.0 /* after its time the loop ends without the watch thread */

/* ---- one request ---- */

/* An id that a client may choose: visible ASCII, so that it can be logged and sent back. */
static int is_request_id(const char *text)
{
    size_t n = 0;

    for (; text && text[n]; n++)
        if (text[n] <= ' ' || text[n] > '~' || n >= REQUEST_ID_MAX)
            return 0;
    return n > 0;
}

static void set_request_id(const struct cabe_server *s, struct cabe_http_exchange *exchange)
{
    const char *asked = cabe_http_header(exchange, "x-request-id");
    char text[48];

    if (!is_request_id(asked)) {
        snprintf(text, sizeof text, "req_%08llx%08llx", (unsigned long long)(s->impl->request_prefix & 0xffffffffu),
                 (unsigned long long)cabe_http_id(exchange));
        asked = text;
    }
    cabe_http_set(exchange, "x-request-id", asked);
}

static void log_request(const struct cabe_server *s, struct cabe_http_exchange *exchange, int status, double seconds)
{
    const char *path = cabe_http_path(exchange), *method = cabe_http_method_name(exchange);

    cabe_log(s->log, CABE_LOG_INFO, "request", "{s:I,s:o,s:o,s:i,s:f,s:s}", "id", (json_int_t)cabe_http_id(exchange),
             "method", cabe_json_text(method, strlen(method)), "path", cabe_json_text(path, strlen(path)), "status",
             status, "seconds", seconds, "peer", cabe_http_peer(exchange));
}

/* The answer has left, or the client. */
static void on_done(void *self, struct cabe_http_exchange *exchange)
{
    struct cabe_server *s = self;
    enum cabe_http_method method = cabe_http_method(exchange);
    struct cabe_route_found found = cabe_route_find(method, cabe_http_path(exchange));
    double seconds = (double)(cabe_clock_ns() - cabe_http_started_ns(exchange)) / 1e9;
    int status = cabe_http_status(exchange);

    status = status ? status : 499; /* left before there was an answer */
    if (s->config->performance_log)
        log_request(s, exchange, status, seconds);
    if (cabe_server_up(s))
        cabe_metrics_request(s->metrics, method, found.route ? found.route->path : "", status, seconds);
}

static void refuse_method(struct cabe_http_exchange *exchange, const struct cabe_route_found *found)
{
    char allowed[CABE_ROUTE_METHODS_MAX];

    cabe_http_set(exchange, "allow", cabe_route_methods(found->methods, allowed));
    cabe_reply_error(exchange, 405, "method_not_allowed", NULL, "%s is not possible here, %s are",
                     cabe_http_method_name(exchange), allowed);
}

static void refuse_access(struct cabe_http_exchange *exchange, enum cabe_access_answer why)
{
    if (why == CABE_ACCESS_ORIGIN) {
        cabe_reply_error(exchange, 403, "origin_not_allowed", NULL,
                         "pages of this origin may not ask; --cors-origins lists those that may");
    } else if (why == CABE_ACCESS_HOST) {
        cabe_reply_error(exchange, 403, "host_not_allowed", NULL,
                         "a server on loopback without keys answers to localhost, 127.0.0.1 and [::1] only");
    } else {
        cabe_http_set(exchange, "www-authenticate", "Bearer realm=\"cabe\"");
        cabe_reply_error(exchange, 401, "invalid_api_key", NULL, "a key is wanted: Authorization: Bearer KEY");
    }
}

static void answer_options(const struct cabe_server *s, struct cabe_http_exchange *exchange,
                           const struct cabe_route_found *found)
{
    char allowed[CABE_ROUTE_METHODS_MAX];

    cabe_http_set(exchange, "allow", cabe_route_methods(found->methods, allowed));
    if (cabe_http_header(exchange, "origin") && cabe_http_header(exchange, "access-control-request-method"))
        cabe_access_preflight(s->impl->access, exchange, allowed);
    cabe_http_reply(exchange, 204, NULL, NULL, 0);
}

/* Whether the server is so far, or still there, that the route can be called; otherwise it has been answered. */
static int can_serve(struct cabe_server *s, struct cabe_http_exchange *exchange, const struct cabe_route *route)
{
    enum cabe_http_method method = cabe_http_method(exchange);

    if (route->flags & CABE_ROUTE_EARLY)
        return 1;
    if (!cabe_server_up(s)) {
        cabe_reply_error(exchange, 503, "starting", NULL, "the server has just been started; /ready says when it is");
        return 0;
    }
    if (cabe_server_draining(s) && method != CABE_HTTP_GET && method != CABE_HTTP_HEAD) {
        cabe_reply_retry_after(exchange, 5);
        cabe_http_set(exchange, "connection", "close");
        cabe_reply_error(exchange, 503, "draining", NULL, "the server is being stopped and takes nothing new");
        return 0;
    }
    return 1;
}

static void on_request(void *self, struct cabe_http_exchange *exchange)
{
    struct cabe_server *s = self;
    enum cabe_http_method method = cabe_http_method(exchange);
    const char *path = cabe_http_path(exchange);
    struct cabe_route_found found = cabe_route_find(method, path);
    enum cabe_access_answer access;
    int is_open = method == CABE_HTTP_OPTIONS || (found.route && (found.route->flags & CABE_ROUTE_OPEN));

    cabe_http_on_done(exchange, on_done, s);
    set_request_id(s, exchange);
    access = cabe_access_check(s->impl->access, exchange, is_open);
    if (access != CABE_ACCESS_GRANTED)
        refuse_access(exchange, access);
    else if (found.methods == 0)
        cabe_reply_error(exchange, 404, "not_found", NULL, "nothing is at %.200s", path);
    else if (method == CABE_HTTP_OPTIONS && !found.route)
        answer_options(s, exchange, &found);
    else if (!found.route)
        refuse_method(exchange, &found);
    else if (can_serve(s, exchange, found.route))
        found.route->handler(s, exchange, found.tail);
}

static uint64_t body_limit(void *self, const char *path)
{
    const struct cabe_server *s = self;
    struct cabe_route_found found = cabe_route_find(CABE_HTTP_POST, path);

    return found.route && (found.route->flags & CABE_ROUTE_UPLOAD) ? s->config->upload : s->config->body;
}

/* ---- work ---- */

enum cabe_status cabe_server_later_or(struct cabe_server *s, void (*fn)(void *arg), void (*expired)(void *arg),
                                      void *arg)
{
    return cabe_workers_submit(s->impl->workers, fn, expired, arg, NULL);
}

void cabe_server_workers(struct cabe_server *s, struct cabe_workers_stats *stats)
{
    cabe_workers_stats(s->impl->workers, stats);
}

/* ---- the whole ---- */

/* On the loop: what must go on even when the watch thread hangs. */
static void on_tick(void *self)
{
    struct cabe_server *s = self;
    uint64_t now = cabe_clock_ns();

    if (!cabe_server_draining(s))
        return;
    if (!s->impl->drain_since_ns)
        s->impl->drain_since_ns = now;
    if ((double)(now - s->impl->drain_since_ns) / 1e9 > s->config->drain + DRAIN_MARGIN_S)
        cabe_http_stop(s->http, 0);
}

/* systemd is told that we live as long as the loop does and no engine hangs. */
static void on_watchdog(void *self)
{
    struct cabe_server *s = self;
    uint64_t beat_ns = atomic_load_explicit(&s->impl->beat_ns, memory_order_relaxed);

    if (!cabe_server_up(s) || cabe_clock_ns() - beat_ns < 30u * UINT64_C(1000000000))
        cabe_notify_send(&s->impl->notify, "WATCHDOG=1");
}

static enum cabe_status open_http(struct cabe_server *s, struct cabe_error *err)
{
    const struct cabe_serve_config *c = s->config;
    int fds[CABE_HTTP_LISTEN_MAX], n_fds;
    struct cabe_http_config http = {.unix_path = c->unix_socket[0] ? c->unix_socket : NULL,
                                    .fds = fds,
                                    .tls_certificate = c->tls_certificate[0] ? c->tls_certificate : NULL,
                                    .tls_key = c->tls_key[0] ? c->tls_key : NULL,
                                    .header_bytes = c->header,
                                    .body_bytes = c->body,
                                    .n_connections = (int)c->connections,
                                    .body_limit = body_limit,
                                    .request = on_request,
                                    .self = s,
                                    .log = s->log};
    enum cabe_status status = cabe_listen_fds(fds, CABE_HTTP_LISTEN_MAX, &n_fds, err);

    if (status != CABE_OK)
        return status;
    http.n_fds = n_fds;
    s->impl->activated = n_fds > 0;
    s->impl->is_local = cabe_access_is_loopback(c->host);
    for (int i = 0; i < n_fds; i++)
        s->impl->is_local = (i == 0 || s->impl->is_local) && cabe_listen_is_local(fds[i]);
    if (!s->impl->is_local)
        cabe_access_any_host(s->impl->access);
    if (n_fds == 0) { /* sockets that were handed over stand for host and port */
        http.host = c->host;
        http.port = (int)c->port;
    }
    status = cabe_http_open(&s->http, &http, err);
    if (status == CABE_OK)
        status = cabe_http_every(s->http, TICK_MS, on_tick, s);
    if (status == CABE_OK && s->impl->notify.watchdog_ms)
        status = cabe_http_every(s->http, s->impl->notify.watchdog_ms / 2 + 1, on_watchdog, s);
    return status;
}

static enum cabe_status open_parts(struct cabe_server *s, struct cabe_error *err)
{
    struct cabe_workers_config workers = {.n_workers = (int)s->config->workers, .wait_s = s->config->worker_wait};
    enum cabe_status status =
        cabe_log_open(&s->log, stderr, isatty(STDERR_FILENO) ? CABE_LOG_HUMAN : CABE_LOG_JSON, CABE_LOG_INFO, err);

    if (status == CABE_OK)
        status = cabe_access_open(&s->impl->access, s->config, err);
    if (status == CABE_OK)
        status = cabe_workers_open(&s->impl->workers, &workers, err);
    if (status == CABE_OK)
        status = open_http(s, err);
    return status;
}

enum cabe_status cabe_server_open(struct cabe_server **out, const struct cabe_serve_config *config,
                                  struct cabe_error *err)
{
    struct cabe_server *s = cabe_calloc(1, sizeof *s);
    enum cabe_status status;

    *out = NULL;
    if (s)
        s->impl = cabe_calloc(1, sizeof *s->impl);
    if (!s || !s->impl) {
        cabe_free(s);
        return cabe_fail(err, CABE_ERR_OOM, "server");
    }
    s->config = config;
    cabe_notify_open(&s->impl->notify);
    pthread_mutex_init(&s->impl->lock, NULL);
    sem_init(&s->impl->wake, 0, 0);
    snprintf(s->impl->why, sizeof s->impl->why, "starting");
    if (getrandom(&s->impl->request_prefix, sizeof s->impl->request_prefix, GRND_NONBLOCK) < 0)
        s->impl->request_prefix = cabe_clock_ns();
    status = open_parts(s, err);
    if (status != CABE_OK) {
        cabe_server_close(s);
        return status;
    }
    *out = s;
    return CABE_OK;
}

static void log_listening(const struct cabe_server *s)
{
    const struct cabe_serve_config *c = s->config;

    cabe_log(s->log, CABE_LOG_INFO, "listening", "{s:s,s:i,s:s,s:b,s:b,s:I}", "host", c->host, "port",
             cabe_http_port(s->http), "unix_socket", c->unix_socket, "activated", s->impl->activated, "tls",
             c->tls_certificate[0] != '\0', "keys", (json_int_t)cabe_access_n_keys(s->impl->access));
    if (!s->impl->is_local && cabe_access_n_keys(s->impl->access) == 0)
        cabe_log(s->log, CABE_LOG_WARN, "open_to_all", "{s:s,s:s}", "host", c->host, "reason",
                 "whoever reaches this address may ask: no api_keys");
}

enum cabe_status cabe_server_run(struct cabe_server *s, struct cabe_error *err)
{
    enum cabe_status status;
    int failed = pthread_create(&s->impl->watch, NULL, cabe_server_watch_main, s);

    if (failed)
        return cabe_fail_errno(err, failed, "watch thread");
    s->impl->has_watch = 1;
    log_listening(s);
    cabe_notify_send(&s->impl->notify, "READY=1\nSTATUS=listening; loading models");
    status = cabe_http_run(s->http, err);
    cabe_notify_send(&s->impl->notify, "STOPPING=1\nSTATUS=stopping");
    atomic_fetch_add_explicit(&s->impl->stops, 1, memory_order_relaxed);
    atomic_store_explicit(&s->impl->cancel.wanted, 1, memory_order_relaxed);
    sem_post(&s->impl->wake);
    pthread_join(s->impl->watch, NULL);
    s->impl->has_watch = 0;
    if (status == CABE_OK && s->impl->error.status != CABE_OK) {
        if (err)
            *err = s->impl->error;
        status = s->impl->error.status;
    }
    return status;
}

/* Only what a signal handler may do. */
void cabe_server_stop(struct cabe_server *s)
{
    int before = atomic_fetch_add_explicit(&s->impl->stops, 1, memory_order_relaxed);

    if (before > 0) {
        atomic_store_explicit(&s->impl->cancel.wanted, 1, memory_order_relaxed);
        cabe_http_stop(s->http, 0);
    }
    sem_post(&s->impl->wake);
}

void cabe_server_close(struct cabe_server *s)
{
    if (!s)
        return;
    cabe_workers_close(s->impl->workers); /* what waited is told, what runs ends: both use the parts below */
    cabe_server_watch_close(s);
    cabe_http_close(s->http);
    cabe_session_close(s->session);
    cabe_access_close(s->impl->access);
    cabe_notify_close(&s->impl->notify);
    cabe_log_close(s->log);
    sem_destroy(&s->impl->wake);
    pthread_mutex_destroy(&s->impl->lock);
    cabe_free(s->impl);
    cabe_free(s);
}
