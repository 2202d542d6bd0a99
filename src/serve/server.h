/*
 * The server: configuration, HTTP, service, jobs and metrics put together.
 *
 * Each API registers its routes in a table; the server finds the route, checks the key, sets CORS headers, calls the
 * handler on the loop's thread, and counts and logs what came of it. A handler that would take more than a fraction of a
 * millisecond goes on in cabe_handle_later().
 *
 * HTTP answers first. Session, monitor, service, events, metrics and jobs are opened behind it, in this order, on the
 * server's watch thread; handlers are called when all of them are there (before that who asks gets 503), so they need
 * not look. The same thread then takes samples, passes on pressure, and sees to it that a drain comes to its end.
 */
#ifndef CABE_SERVE_SERVER_H
#define CABE_SERVE_SERVER_H

#include <jansson.h>

#include "serve/config.h"
#include "serve/http.h"
#include "serve/service.h"
#include "serve/workers.h"

struct cabe_jobs;
struct cabe_metrics;
struct cabe_events;

struct cabe_server {
    const struct cabe_serve_config *config;
    struct cabe_session *session;
    struct cabe_http *http;
    struct cabe_service *service;
    struct cabe_monitor *monitor;
    struct cabe_jobs *jobs;       /* serve/jobs.h */
    struct cabe_metrics *metrics; /* serve/metrics.h */
    struct cabe_events *events;   /* serve/events.h */
    struct cabe_log *log;
    struct cabe_server_impl *impl; /* server_impl.h */
};

/* A handler owns the answer: it replies, begins, or keeps the exchange (cabe_http_hold) and does so later. `tail` is what
 * "*" at the end of the route's path stood for, or "". */
typedef void cabe_handler(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail);

enum {
    CABE_ROUTE_OPEN = 1,   /* needs no key */
    CABE_ROUTE_OLLAMA = 2, /* errors as {"error": "text"} */
    CABE_ROUTE_EARLY = 4,  /* served before the session and the service are there, and while draining */
    CABE_ROUTE_UPLOAD = 8  /* its body may be as large as a document */
};

struct cabe_route {
    enum cabe_http_method method;
    const char *path; /* "/v1/models", or "/v1/jobs/" followed by "*" */
    cabe_handler *handler;
    unsigned flags;
    const char *summary; /* for the OpenAPI description and --help */
};

/* Tables that end with a NULL path, one a file. */
extern const struct cabe_route cabe_openai_routes[], cabe_responses_routes[], cabe_ollama_routes[], cabe_own_routes[],
    cabe_job_routes[], cabe_observe_routes[], cabe_event_routes[], cabe_dashboard_routes[];

/* Runs fn(arg) on a worker; or expired(arg), on another thread, when no worker took it within worker_wait, or at the
 * server's end: to answer 503 there, see cabe_reply_no_worker(). CABE_ERR_LIMIT: too many wait. */
CABE_CHECKED enum cabe_status cabe_server_later_or(struct cabe_server *server, void (*fn)(void *arg),
                                                   void (*expired)(void *arg), void *arg);
/* Runs a handler on a worker, with the exchange held until it returns; answers 503 where none takes it (later.c). */
void cabe_handle_later(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail,
                       cabe_handler *handler);
void cabe_server_workers(struct cabe_server *server, struct cabe_workers_stats *stats);
/* An operator has taken notice of a start model that failed: it leaves the list soon. 0: none of this name has. */
int cabe_server_notice(struct cabe_server *server, const char *model);
/* 1: start models are there, no drain, nothing stalls; 0 with why. Any thread. */
int cabe_server_ready(struct cabe_server *server, char *why, size_t n);

/* ---- help for handlers (reply.c) ---- */

/* Answers with JSON and takes the reference; NULL: cabe_reply_no_memory(). */
void cabe_reply_json(struct cabe_http_exchange *exchange, int status, json_t *json);
/*
 * Answers with an error object in the route's form: OpenAI's {"error": {message, type, param, code}} or Ollama's
 * {"error": message}. `param` and `code` may be NULL. Every 503 has a Retry-After: of one second, unless the caller has set
 * another before.
 */
void cabe_reply_error(struct cabe_http_exchange *exchange, int status, const char *code, const char *param,
                      const char *format, ...) CABE_PRINTF(5, 6);
/* No memory now, as it may be there a moment later: 503 with "out_of_memory"; `what` it was for. */
void cabe_reply_no_memory(struct cabe_http_exchange *exchange, const char *what);
/* What a status is over HTTP, and its code. */
int cabe_reply_code(enum cabe_status why, const char **code);
/* The HTTP status and code of a cabe status: NOT_FOUND 404, ARGUMENT and FORMAT 400, LIMIT 429, BUSY 503, BUDGET 507... With a
 * refusal that has a time: Retry-After and retry-after-ms. */
void cabe_reply_status(struct cabe_http_exchange *exchange, const struct cabe_error *err,
                       const struct cabe_service_refusal *refusal);
/* 503 that says that no worker was free within worker_wait. */
void cabe_reply_no_worker(struct cabe_server *server, struct cabe_http_exchange *exchange);
/* Depth and values of a JSON text, as far as brackets and commas outside strings say; it may be malformed. Returns the bytes
 * that it becomes in memory, at most. */
uint64_t cabe_request_extent(const char *text, size_t n, int64_t *depth, int64_t *values);
/* The body as a JSON object; NULL: it has been answered (400, with line and column). Depth and the number of values are
 * limited, a name twice in one object is refused. What it becomes in memory is on the ledger until the exchange's end. */
#define CABE_REQUEST_VALUES_MAX (1 << 18)
json_t *cabe_request_json(struct cabe_http_exchange *exchange);
/* Class of a request: header x-cabe-class, field "priority" (a name, or a number, lower is sooner: -2 critical, -1 high,
 * 0 normal, 1 low), field "service_tier" ("priority": high, "flex": low); `fallback` otherwise. */
enum cabe_class cabe_request_class(const struct cabe_http_exchange *exchange, const json_t *body,
                                   enum cabe_class fallback);

/* ---- the whole ---- */

CABE_CHECKED enum cabe_status cabe_server_open(struct cabe_server **out, const struct cabe_serve_config *config,
                                               struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_server_run(struct cabe_server *server, struct cabe_error *err);
void cabe_server_stop(struct cabe_server *server); /* a signal handler may; drains, the second call ends at once */
void cabe_server_close(struct cabe_server *server);

#endif
