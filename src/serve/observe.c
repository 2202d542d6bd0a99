#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "serve/jobs.h"
#include "serve/metrics_impl.h"

#define HOLDERS 10 /* that hold most */

const char *cabe_metrics_device_name(const struct cabe_metrics *metrics, int device)
{
    static const char *const names[] = {"host", "device1", "device2", "device3"};

    if (device == 1 && metrics->server->session && metrics->server->session->device_kind == CABE_DEVICE_SIM)
        return "sim";
    return (unsigned)device < sizeof names / sizeof *names ? names[device] : "device";
}

static void add(json_t *to, const char *name, json_t *value)
{
    json_object_set_new(to, name, value); /* without memory the name is missing */
}

/* ---- samples ---- */

json_t *cabe_metrics_sample_json(const struct cabe_metrics *metrics, const struct cabe_metrics_sample *sample)
{
    json_t *devices = json_array(), *json;

    for (int d = 0; d < sample->n_devices; d++) {
        json_t *purposes = json_object();

        for (int p = 0; p < CABE_N_PURPOSES; p++)
            if (sample->device[d].purpose_bytes[p])
                add(purposes, cabe_purpose_name((enum cabe_purpose)p), cabe_json_count(sample->device[d].purpose_bytes[p]));
        json_array_append_new(
            devices, json_pack("{s:s,s:o,s:o,s:o,s:o,s:o}", "name", cabe_metrics_device_name(metrics, d), "budget_bytes",
                               cabe_json_count(sample->device[d].budget_bytes), "reserved_bytes",
                               cabe_json_count(sample->device[d].used_bytes), "touched_bytes",
                               cabe_json_count(sample->device[d].touched_bytes), "others_bytes",
                               cabe_json_count(sample->device[d].others_bytes), "purposes", purposes));
    }
    json = json_pack("{s:f,s:{s:o,s:o,s:o},s:{s:I,s:I},s:{s:I,s:I},s:{s:o,s:o},s:f,s:f,s:o}", "time",
                     (double)sample->time_ms / 1e3, "memory", "rss_bytes", cabe_json_count(sample->rss_bytes),
                     "available_bytes", cabe_json_count(sample->available_bytes), "devices", devices, "requests",
                     "running", (json_int_t)sample->n_running, "waiting", (json_int_t)sample->n_waiting, "jobs", "running",
                     (json_int_t)sample->n_jobs_running, "waiting", (json_int_t)sample->n_jobs_waiting, "cache",
                     "queried_tokens", cabe_json_count(sample->queried_tokens), "hit_tokens",
                     cabe_json_count(sample->hit_tokens), "tokens_per_s", sample->tokens_per_s, "prompt_tokens_per_s",
                     sample->prompt_per_s, "connections", cabe_json_count(sample->n_connections));
    if (json && sample->cpu_percent >= 0)
        add(json, "pressure", json_pack("{s:f,s:f}", "cpu_percent", sample->cpu_percent, "memory_percent",
                                        sample->memory_percent));
    return json;
}

static json_t *history_json(struct cabe_metrics *metrics)
{
    struct cabe_metrics_sample *samples = cabe_calloc(CABE_METRICS_HISTORY, sizeof *samples);
    json_t *list = json_array();
    int n = 0;

    if (samples) {
        pthread_mutex_lock(&metrics->lock);
        for (; n < metrics->n_history; n++)
            samples[n] = metrics->history[(metrics->next_history + CABE_METRICS_HISTORY - metrics->n_history + n) %
                                          CABE_METRICS_HISTORY];
        pthread_mutex_unlock(&metrics->lock);
    }
    for (int i = 0; i < n; i++)
        json_array_append_new(list, cabe_metrics_sample_json(metrics, &samples[i]));
    cabe_free(samples);
    return list;
}

/* ---- the parts of /v1/stats ---- */

static json_t *memory_json(struct cabe_metrics *metrics)
{
    struct cabe_ledger_holder top[HOLDERS];
    struct cabe_session *session = metrics->server->session;
    json_t *holders = json_array();
    size_t n = session ? cabe_ledger_top(session->ledger, top, HOLDERS) : 0;

    for (size_t i = 0; i < n; i++)
        json_array_append_new(holders, json_pack("{s:o,s:s,s:s,s:o}", "place",
                                                 cabe_json_text(top[i].place, strlen(top[i].place)), "device",
                                                 cabe_metrics_device_name(metrics, top[i].device), "purpose",
                                                 cabe_purpose_name(top[i].purpose), "bytes", cabe_json_count(top[i].bytes)));
    return holders;
}

static json_t *quantiles_json(const struct cabe_histogram *h)
{
    return json_pack("{s:o,s:f,s:f,s:f,s:f}", "n", cabe_json_count(h->n), "p50", cabe_histogram_quantile(h, 0.5), "p95",
                     cabe_histogram_quantile(h, 0.95), "largest", h->largest, "mean",
                     h->n ? h->sum / (double)h->n : 0.0);
}

/* Under the lock, as the two after it. */
static json_t *answers_json(const struct cabe_metrics *metrics)
{
    json_t *list = json_array();

    for (int i = 0; i < metrics->n_models; i++) {
        const struct cabe_metrics_model *m = metrics->model[i];
        uint64_t n = 0;

        for (int f = 0; f < CABE_METRICS_N_FINISHES; f++)
            n += m->finished[f];
        json_array_append_new(
            list, json_pack("{s:s,s:o,s:o,s:o,s:o,s:f,s:o,s:o,s:o,s:o}", "model", m->name, "answers", cabe_json_count(n),
                            "prompt_tokens", cabe_json_count(m->prompt_tokens), "cached_tokens",
                            cabe_json_count(m->cached_tokens), "new_tokens", cabe_json_count(m->new_tokens), "hit_rate",
                            m->prompt_tokens ? (double)m->cached_tokens / (double)m->prompt_tokens : 0.0,
                            "first_token_s", quantiles_json(&m->first_token), "between_tokens_s",
                            quantiles_json(&m->time[CABE_SERVICE_BETWEEN_TOKENS]), "whole_s", quantiles_json(&m->whole), "queue_s",
                            quantiles_json(&m->queue)));
    }
    return list;
}

static json_t *endpoints_json(const struct cabe_metrics *metrics)
{
    static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "OTHER"};
    json_t *list = json_array();

    for (int i = 0; i < metrics->n_routes; i++) {
        const struct cabe_metrics_route *route = metrics->route[i];
        json_t *statuses = json_object();

        for (int s = 0; s < CABE_METRICS_STATUSES_MAX && route->status[s].n; s++) {
            char name[16];

            snprintf(name, sizeof name, "%d", route->status[s].status);
            add(statuses, name, cabe_json_count(route->status[s].n));
        }
        json_array_append_new(list, json_pack("{s:s,s:s,s:o,s:o}", "handler", route->route, "method",
                                              methods[(unsigned)route->method <= CABE_HTTP_OTHER ? route->method : 7],
                                              "statuses", statuses, "seconds", quantiles_json(&route->seconds)));
    }
    return list;
}

static json_t *operations_json(const struct cabe_metrics *metrics, json_t **slow)
{
    json_t *list = json_array();

    for (int i = 0; i < metrics->n_operations; i++)
        json_array_append_new(list, json_pack("{s:s,s:o,s:o}", "operation", metrics->operation[i]->name, "slow",
                                              cabe_json_count(metrics->operation[i]->n_slow), "seconds",
                                              quantiles_json(&metrics->operation[i]->seconds)));
    *slow = json_array();
    for (int i = 0; i < metrics->n_slow; i++) { /* the newest first */
        const struct cabe_metrics_slow *s =
            &metrics->slow[(metrics->next_slow + CABE_METRICS_SLOW - 1 - i) % CABE_METRICS_SLOW];

        json_array_append_new(*slow, json_pack("{s:f,s:s,s:o,s:f}", "time", (double)s->time_ms / 1e3, "operation", s->name,
                                               "detail", cabe_json_text(s->detail, strlen(s->detail)), "seconds",
                                               s->seconds));
    }
    return list;
}

static json_t *models_json(struct cabe_metrics *metrics)
{
    static const char *const states[] = {"absent", "loading", "ready", "unloading"};
    struct cabe_service_model *models;
    json_t *list = json_array();
    size_t n;

    models = cabe_metrics_models(metrics, &n);
    for (size_t i = 0; i < n; i++) {
        const struct cabe_service_model *m = &models[i];

        json_array_append_new(
            list,
            json_pack("{s:s,s:s,s:b,s:s,s:s,s:o,s:o,s:b,s:I,s:I,s:I,s:o,s:f,s:f,s:f,s:I,s:I,s:s}", "name", m->name, "state",
                      states[m->state & 3], "writes", m->writes, "family", m->family, "quantisation", m->quantisation,
                      "bytes", cabe_json_count(m->bytes), "file_bytes", cabe_json_count(m->file_bytes), "pinned", m->pinned,
                      "running", (json_int_t)m->n_running, "waiting", (json_int_t)m->n_waiting, "context",
                      (json_int_t)m->context, "requests", cabe_json_count(m->n_requests), "tokens_per_s", m->tokens_per_s,
                      "idle_s", m->idle_s, "load_s", m->load_s, "kv_pages_used", (json_int_t)m->kv_pages_used, "kv_pages",
                      (json_int_t)m->kv_pages, "failed", m->failed));
    }
    cabe_free(models);
    return list;
}

static json_t *service_json(struct cabe_metrics *metrics)
{
    struct cabe_service_stats s = {0};

    if (metrics->server->service)
        cabe_service_stats(metrics->server->service, &s);
    return json_pack(
        "{s:I,s:I,s:o,s:o,s:o,s:o,s:{s:o,s:o,s:o,s:o},s:{s:o,s:o,s:f},s:{s:o,s:o},s:f,s:{s:b,s:i,s:o,s:o,s:o,s:o}}",
        "running", (json_int_t)s.n_running, "waiting", (json_int_t)s.n_waiting, "admitted", cabe_json_count(s.n_admitted),
        "preempted", cabe_json_count(s.n_preempted), "cancelled", cabe_json_count(s.n_cancelled), "timed_out",
        cabe_json_count(s.n_timed_out), "refused", "queue_full", cabe_json_count(s.n_refused_requests), "queue_tokens",
        cabe_json_count(s.n_refused_tokens), "draining", cabe_json_count(s.n_refused_draining), "pressure",
        cabe_json_count(s.n_refused_pressure), "cache", "queried_tokens", cabe_json_count(s.prefix_queried_tokens),
        "hit_tokens", cabe_json_count(s.prefix_hit_tokens), "hit_rate",
        s.prefix_queried_tokens ? (double)s.prefix_hit_tokens / (double)s.prefix_queried_tokens : 0.0, "embedded", "texts",
        cabe_json_count(s.embedded_texts), "tokens", cabe_json_count(s.embedded_tokens), "stalled_s", s.stalled_s, "pool",
        "active", 1, "resident", s.pool.n_resident, "hits", cabe_json_count(s.pool.n_hits), "loads",
        cabe_json_count(s.pool.n_loads), "failed_loads", cabe_json_count(s.pool.n_failed_loads), "evictions",
        cabe_json_count(s.pool.n_evictions));
}

static json_t *jobs_json(struct cabe_metrics *metrics)
{
    struct cabe_slots_state *slots = cabe_calloc(1, sizeof *slots);
    json_t *holders = json_array(), *json;
    int64_t n_waiting, n_running;

    cabe_jobs_counts(metrics->server->jobs, &n_waiting, &n_running);
    if (slots && metrics->server->jobs)
        cabe_slots_state(cabe_jobs_slots(metrics->server->jobs), slots);
    for (int i = 0; slots && i < slots->n_held; i++)
        json_array_append_new(holders, json_pack("{s:s,s:s,s:f}", "name", slots->holder[i].name, "class",
                                                 cabe_class_name(slots->holder[i].class_), "held_s",
                                                 slots->holder[i].held_s));
    json = json_pack("{s:I,s:I,s:{s:i,s:i,s:o}}", "waiting", (json_int_t)n_waiting, "running", (json_int_t)n_running,
                     "slots", "slots", slots ? slots->n_slots : 0, "held", slots ? slots->n_held : 0, "holders", holders);
    cabe_free(slots);
    return json;
}

static json_t *workers_json(struct cabe_metrics *metrics)
{
    struct cabe_workers_stats stats = {0};

    cabe_server_workers(metrics->server, &stats);
    return json_pack("{s:i,s:i,s:o,s:o,s:o,s:f}", "workers", stats.n_workers, "busy", stats.n_busy, "waiting",
                     cabe_json_count((uint64_t)stats.n_waiting), "done", cabe_json_count(stats.n_done), "expired",
                     cabe_json_count(stats.n_expired), "waited_s", stats.waited_s);
}

json_t *cabe_metrics_json(struct cabe_metrics *metrics, int history)
{
    struct cabe_server *server = metrics->server;
    struct cabe_metrics_sample last = {0};
    json_t *json = json_object(), *slow;
    char stamp[CABE_CLOCK_STAMP_BYTES];

    pthread_mutex_lock(&metrics->lock);
    if (metrics->n_history)
        last = metrics->history[(metrics->next_history + CABE_METRICS_HISTORY - 1) % CABE_METRICS_HISTORY];
    pthread_mutex_unlock(&metrics->lock);
    cabe_clock_stamp(stamp);
    add(json, "time", json_string(stamp));
    add(json, "version", json_string(CABE_VERSION));
    add(json, "uptime_s", json_real((double)(cabe_clock_ns() - metrics->opened_ns) / 1e9));
    add(json, "now", cabe_metrics_sample_json(metrics, &last));
    add(json, "holders", memory_json(metrics));
    add(json, "service", service_json(metrics));
    add(json, "models", models_json(metrics));
    add(json, "jobs", jobs_json(metrics));
    add(json, "workers", workers_json(metrics));
    if (server->monitor)
        add(json, "phases", cabe_monitor_json(server->monitor));
    pthread_mutex_lock(&metrics->lock);
    add(json, "answers", answers_json(metrics));
    add(json, "endpoints", endpoints_json(metrics));
    add(json, "operations", operations_json(metrics, &slow));
    pthread_mutex_unlock(&metrics->lock);
    add(json, "slow", slow);
    if (history)
        add(json, "history", history_json(metrics));
    return json;
}

/* ---- routes: on a worker, as the service may have to be waited for ---- */

static void metrics_now(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    size_t n = 0;
    char *text = cabe_metrics_text(server->metrics, &n);

    (void)tail;
    if (text)
        cabe_http_reply(exchange, 200, "text/plain; version=0.0.4; charset=utf-8", text, n);
    else
        cabe_reply_no_memory(exchange, "the metrics");
    cabe_free(text);
}

static void stats_now(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    const char *history = cabe_http_query(exchange, "history");

    (void)tail;
    cabe_reply_json(exchange, 200, cabe_metrics_json(server->metrics, history && strcmp(history, "0") != 0));
}

static void get_metrics(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    cabe_handle_later(server, exchange, tail, metrics_now);
}

static void get_stats(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    cabe_handle_later(server, exchange, tail, stats_now);
}

const struct cabe_route cabe_observe_routes[] = {
    {CABE_HTTP_GET, "/metrics", get_metrics, 0, "Prometheus' text"},
    {CABE_HTTP_GET, "/v1/stats", get_stats, 0,
     "memory, queues, models, latencies, slow operations; ?history=1: the last ten minutes too"},
    {0, NULL, NULL, 0, NULL},
};
