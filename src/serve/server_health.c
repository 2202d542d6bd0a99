/* /health and /ready: the loop lives; the service is fit to be asked. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "serve/metrics.h"
#include "serve/server_impl.h"

#define BEAT_MAX_S 4.0 /* the watch thread looks twice a second */

int cabe_server_ready(struct cabe_server *s, char *why, size_t n)
{
    uint64_t beat_ns = atomic_load_explicit(&s->impl->beat_ns, memory_order_relaxed);
    double silent_s = (double)(cabe_clock_ns() - beat_ns) / 1e9;

    if (cabe_server_draining(s)) {
        snprintf(why, n, "draining");
        return 0;
    }
    if (cabe_server_up(s) && silent_s > BEAT_MAX_S) {
        snprintf(why, n, "the service has not answered for %.1f s", silent_s);
        return 0;
    }
    pthread_mutex_lock(&s->impl->lock);
    snprintf(why, n, "%s", s->impl->why);
    pthread_mutex_unlock(&s->impl->lock);
    return why[0] == '\0';
}

/* Always 200: it says that the loop lives, and nothing else is asked for it. No lock of the service is taken. */
static void get_health(struct cabe_server *s, struct cabe_http_exchange *exchange, const char *tail)
{
    struct cabe_workers_stats workers;
    char stamp[CABE_CLOCK_STAMP_BYTES], body[256];
    int n;

    (void)tail;
    cabe_clock_stamp(stamp);
    cabe_server_workers(s, &workers);
    n = snprintf(body, sizeof body,
                 "{\"status\":\"healthy\",\"timestamp\":\"%s\",\"model_loaded\":%s,\"thread_pool_active\":%s,"
                 "\"version\":\"" CABE_VERSION "\"}",
                 stamp, atomic_load_explicit(&s->impl->n_models, memory_order_relaxed) > 0 ? "true" : "false",
                 workers.n_workers > 0 ? "true" : "false");
    cabe_http_set(exchange, "cache-control", "no-store");
    cabe_http_reply(exchange, 200, "application/json", body, (size_t)n);
}

static json_t *failures_json(struct cabe_server *s)
{
    json_t *failed = json_array();

    pthread_mutex_lock(&s->impl->lock);
    for (const struct cabe_start_failure *f = s->impl->failures; f; f = f->next)
        json_array_append_new(failed, json_pack("{s:o,s:o}", "model", cabe_json_text(f->model, strlen(f->model)), "reason",
                                                cabe_json_text(f->reason, strlen(f->reason))));
    pthread_mutex_unlock(&s->impl->lock);
    return failed;
}

static void get_ready(struct cabe_server *s, struct cabe_http_exchange *exchange, const char *tail)
{
    char why[CABE_SERVER_WHY_MAX];
    int ready = cabe_server_ready(s, why, sizeof why);

    (void)tail;
    cabe_http_set(exchange, "cache-control", "no-store");
    if (!ready)
        cabe_reply_retry_after(exchange, 1);
    cabe_reply_json(exchange, ready ? 200 : 503,
                    ready ? json_pack("{s:b,s:s}", "ready", 1, "status", "ready")
                          : json_pack("{s:b,s:s,s:o,s:o}", "ready", 0, "status", "not ready", "reason",
                                      cabe_json_text(why, strlen(why)), "failed", failures_json(s)));
}

const struct cabe_route cabe_health_routes[] = {
    {CABE_HTTP_GET, "/health", get_health, CABE_ROUTE_OPEN | CABE_ROUTE_EARLY, "the server lives"},
    {CABE_HTTP_GET, "/ready", get_ready, CABE_ROUTE_OPEN | CABE_ROUTE_EARLY,
     "200: start models are loaded and it can be asked; 503 with the reason, and start models that failed"},
    {CABE_HTTP_GET, NULL, NULL, 0, NULL},
};
