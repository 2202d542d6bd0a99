#include "serve/metrics.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/process.h"
#include "serve/events.h"
#include "serve/jobs.h"
#include "serve/metrics_impl.h"

#define RATE_SAMPLES 5     /* a rate is taken over so many seconds */
#define SAMPLE_LEAST_MS 950 /* who looks more often changes nothing about what is kept */

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- requests ---- */

static struct cabe_metrics_route *route_of(struct cabe_metrics *metrics, enum cabe_http_method method,
                                           const char *name)
{
    struct cabe_metrics_route *route;

    for (int i = 0; i < metrics->n_routes; i++)
        if (metrics->route[i]->method == method && strcmp(metrics->route[i]->route, name) == 0)
            return metrics->route[i];
    if (metrics->n_routes == CABE_METRICS_ROUTES_MAX)
        return NULL;
    route = cabe_calloc(1, sizeof *route);
    if (!route)
        return NULL;
    route->method = method;
    snprintf(route->route, sizeof route->route, "%s", name);
    route->seconds.bounds = &cabe_bounds_request;
    return metrics->route[metrics->n_routes++] = route;
}

static void count_status(struct cabe_metrics_route *route, int status)
{
    int i = 0;

    while (i < CABE_METRICS_STATUSES_MAX - 1 && route->status[i].n > 0 && route->status[i].status != status)
        i++;
    route->status[i].status = route->status[i].n > 0 && route->status[i].status != status ? 0 : status;
    route->status[i].n++;
}

void cabe_metrics_request(struct cabe_metrics *metrics, enum cabe_http_method method, const char *route, int status,
                          double seconds)
{
    struct cabe_metrics_route *at;

    if (!metrics)
        return;
    pthread_mutex_lock(&metrics->lock);
    at = route_of(metrics, method, route && route[0] ? route : "none");
    if (at) {
        count_status(at, status);
        cabe_histogram_add(&at->seconds, seconds, 1);
    }
    pthread_mutex_unlock(&metrics->lock);
}

/* ---- operations, and the log of the slow ones ---- */

static struct cabe_metrics_operation_count *operation_of(struct cabe_metrics *metrics, const char *name)
{
    struct cabe_metrics_operation_count *operation;

    for (int i = 0; i < metrics->n_operations; i++)
        if (strcmp(metrics->operation[i]->name, name) == 0)
            return metrics->operation[i];
    if (metrics->n_operations == CABE_METRICS_OPERATIONS_MAX || !(operation = cabe_calloc(1, sizeof *operation)))
        return NULL;
    snprintf(operation->name, sizeof operation->name, "%s", name);
    operation->seconds.bounds = &cabe_bounds_operation;
    return metrics->operation[metrics->n_operations++] = operation;
}

static void remember_slow(struct cabe_metrics *metrics, const char *name, const char *detail, double seconds)
{
    struct cabe_metrics_slow *slow = &metrics->slow[metrics->next_slow];

    slow->time_ms = now_ms();
    snprintf(slow->name, sizeof slow->name, "%s", name);
    snprintf(slow->detail, sizeof slow->detail, "%s", detail);
    slow->seconds = seconds;
    metrics->next_slow = (metrics->next_slow + 1) % CABE_METRICS_SLOW;
    if (metrics->n_slow < CABE_METRICS_SLOW)
        metrics->n_slow++;
}

void cabe_metrics_operation(struct cabe_metrics *metrics, const char *name, const char *detail, double seconds)
{
    struct cabe_metrics_operation_count *operation;
    const struct cabe_serve_config *config;
    int is_slow;

    if (!metrics)
        return;
    config = metrics->server->config;
    is_slow = seconds * 1000 >= (double)config->slow_ms;
    if (!detail)
        detail = "";
    pthread_mutex_lock(&metrics->lock);
    operation = operation_of(metrics, name);
    if (operation) {
        cabe_histogram_add(&operation->seconds, seconds, 1);
        operation->n_slow += (uint64_t)is_slow;
    }
    if (is_slow)
        remember_slow(metrics, name, detail, seconds);
    pthread_mutex_unlock(&metrics->lock);
    if (is_slow) {
        cabe_log(metrics->server->log, CABE_LOG_INFO, "slow_operation", "{s:s,s:s,s:f,s:I}", "operation", name, "detail",
                 detail, "seconds", seconds, "threshold_ms", (json_int_t)config->slow_ms);
        cabe_events_publish(metrics->server->events, "slow",
                            json_pack("{s:s,s:s,s:f}", "operation", name, "detail", detail, "seconds", seconds));
    } else if (config->performance_log) {
        cabe_log(metrics->server->log, CABE_LOG_INFO, "operation", "{s:s,s:s,s:f}", "operation", name, "detail", detail,
                 "seconds", seconds);
    }
}

/* ---- answers ---- */

static struct cabe_metrics_model *model_of(struct cabe_metrics *metrics, const char *name)
{
    struct cabe_metrics_model *model;

    if (metrics->n_models == CABE_METRICS_MODELS_MAX - 1)
        name = "other";
    for (int i = 0; i < metrics->n_models; i++)
        if (strcmp(metrics->model[i]->name, name) == 0)
            return metrics->model[i];
    if (metrics->n_models == CABE_METRICS_MODELS_MAX || !(model = cabe_calloc(1, sizeof *model)))
        return NULL;
    snprintf(model->name, sizeof model->name, "%s", name);
    model->first_token.bounds = &cabe_bounds_first_token;
    for (int t = 0; t < CABE_SERVICE_N_TIMES; t++)
        model->time[t].bounds = t == CABE_SERVICE_BETWEEN_TOKENS ? &cabe_bounds_between_tokens : &cabe_bounds_page;
    model->whole.bounds = model->queue.bounds = &cabe_bounds_answer;
    return metrics->model[metrics->n_models++] = model;
}

static enum cabe_metrics_finish finish_of(enum cabe_status status, enum cabe_service_finish finish)
{
    if (status == CABE_ERR_CANCELLED)
        return CABE_METRICS_ABORT;
    if (status != CABE_OK)
        return CABE_METRICS_ERROR;
    return (unsigned)finish <= CABE_SERVICE_TOOLS ? (enum cabe_metrics_finish)finish : CABE_METRICS_ERROR;
}

static void on_answer(void *self, const char *name, enum cabe_class class_, enum cabe_status status,
                      enum cabe_service_finish finish, const struct cabe_service_counts *counts)
{
    struct cabe_metrics *metrics = self;
    struct cabe_metrics_model *model;
    double whole = counts->queue_s + counts->load_s + counts->prompt_s + counts->answer_s;

    (void)class_;
    pthread_mutex_lock(&metrics->lock);
    model = model_of(metrics, name);
    if (model) {
        model->finished[finish_of(status, finish)]++;
        model->prompt_tokens += (uint64_t)counts->n_prompt;
        model->cached_tokens += (uint64_t)counts->n_cached;
        model->new_tokens += (uint64_t)counts->n_new;
        if (counts->n_new > 0) {
            cabe_histogram_add(&model->first_token, counts->first_s, 1);
            cabe_histogram_add(&model->whole, whole, 1);
            cabe_histogram_add(&model->queue, counts->queue_s, 1);
        }
    }
    pthread_mutex_unlock(&metrics->lock);
    cabe_metrics_operation(metrics, "answer", name, whole);
}

static void on_time(void *self, const char *name, enum cabe_service_time what, double seconds)
{
    struct cabe_metrics *metrics = self;
    struct cabe_metrics_model *model;

    pthread_mutex_lock(&metrics->lock);
    model = model_of(metrics, name);
    if (model)
        cabe_histogram_add(&model->time[what], seconds, 1);
    pthread_mutex_unlock(&metrics->lock);
}

/* ---- samples ---- */

static void sample_memory(struct cabe_metrics *metrics, struct cabe_metrics_sample *sample)
{
    struct cabe_session *session = metrics->server->session;
    struct cabe_planned planned = {0};
    struct cabe_ledger_touched touched;
    struct cabe_pressure pressure;
    struct cabe_ledger_view view;
    struct cabe_rss rss = {0};

    (void)cabe_rss_read(&rss);
    sample->rss_bytes = rss.rss_bytes;
    if (session) {
        cabe_ledger_read_touched(session->ledger, &view, &touched);
        sample->n_devices = view.n_devices < CABE_METRICS_DEVICES ? view.n_devices : CABE_METRICS_DEVICES;
        for (int d = 0; d < sample->n_devices; d++) {
            sample->device[d].budget_bytes = view.device[d].budget_bytes;
            sample->device[d].used_bytes = view.device[d].used_bytes;
            sample->device[d].touched_bytes = touched.device[d].bytes;
            sample->device[d].others_bytes = view.device[d].others_bytes;
            memcpy(sample->device[d].purpose_bytes, view.device[d].purpose_bytes,
                   sizeof sample->device[d].purpose_bytes);
        }
        planned.bytes = view.device[0].used_bytes;
        planned.threads = session->n_threads;
    }
    cabe_pressure_read(&pressure, &metrics->meter, &planned, NULL);
    sample->available_bytes = pressure.available_bytes;
    sample->cpu_percent = pressure.cpu_percent;
    sample->memory_percent = pressure.memory_percent;
}

static double sample_work(struct cabe_metrics *metrics, struct cabe_metrics_sample *sample)
{
    struct cabe_service_stats stats = {0};
    struct cabe_http_stats http = {0};

    if (metrics->server->service)
        cabe_service_stats(metrics->server->service, &stats);
    if (metrics->server->http)
        cabe_http_stats(metrics->server->http, &http);
    cabe_jobs_counts(metrics->server->jobs, &sample->n_jobs_waiting, &sample->n_jobs_running);
    sample->n_running = stats.n_running;
    sample->n_waiting = stats.n_waiting;
    sample->n_connections = http.n_connections;
    sample->prompt_tokens = stats.prompt_tokens;
    sample->new_tokens = stats.new_tokens;
    sample->queried_tokens = stats.prefix_queried_tokens;
    sample->hit_tokens = stats.prefix_hit_tokens;
    return stats.stalled_s;
}

/* Against the sample some seconds ago. Under the lock, before the new one is kept. */
static void set_rates(const struct cabe_metrics *metrics, struct cabe_metrics_sample *sample)
{
    int back = metrics->n_history < RATE_SAMPLES ? metrics->n_history : RATE_SAMPLES;
    const struct cabe_metrics_sample *old;
    double seconds;

    if (back == 0)
        return;
    old = &metrics->history[(metrics->next_history + CABE_METRICS_HISTORY - back) % CABE_METRICS_HISTORY];
    seconds = (double)(sample->time_ms - old->time_ms) / 1000;
    if (seconds > 0 && sample->new_tokens >= old->new_tokens && sample->prompt_tokens >= old->prompt_tokens) {
        sample->tokens_per_s = (double)(sample->new_tokens - old->new_tokens) / seconds;
        sample->prompt_per_s = (double)(sample->prompt_tokens - old->prompt_tokens) / seconds;
    }
}

static void publish_sample(struct cabe_metrics *metrics, const struct cabe_metrics_sample *sample)
{
    static const char *const states[] = {"absent", "loading", "ready", "unloading"};
    struct cabe_service_model *models;
    json_t *json, *list;
    size_t n = 0;

    if (cabe_events_n_listeners(metrics->server->events) == 0)
        return;
    json = cabe_metrics_sample_json(metrics, sample);
    models = cabe_metrics_models(metrics, &n);
    list = json_array();
    for (size_t i = 0; i < n; i++)
        if (models[i].state != CABE_SERVICE_ABSENT || models[i].n_waiting > 0)
            json_array_append_new(list, json_pack("{s:s,s:s,s:I,s:I,s:I,s:f,s:b,s:f,s:I,s:I}", "name", models[i].name,
                                                  "state", states[models[i].state & 3], "bytes",
                                                  (json_int_t)models[i].bytes, "waiting", (json_int_t)models[i].n_waiting,
                                                  "running", (json_int_t)models[i].n_running, "tokens_per_s",
                                                  models[i].tokens_per_s, "pinned", models[i].pinned, "idle_s",
                                                  models[i].idle_s, "kv_pages_used", (json_int_t)models[i].kv_pages_used,
                                                  "kv_pages", (json_int_t)models[i].kv_pages));
    cabe_free(models);
    if (json)
        json_object_set_new(json, "models", list);
    else
        json_decref(list);
    cabe_events_publish(metrics->server->events, "sample", json);
}

static const struct cabe_metrics_sample *last_sample(const struct cabe_metrics *metrics)
{
    return &metrics->history[(metrics->next_history + CABE_METRICS_HISTORY - 1) % CABE_METRICS_HISTORY];
}

void cabe_metrics_sample(struct cabe_metrics *metrics)
{
    struct cabe_metrics_sample sample = {.time_ms = now_ms()};
    double stalled_s;
    int is_kept;

    pthread_mutex_lock(&metrics->lock);
    metrics->sampling_ns = cabe_clock_ns();
    is_kept = metrics->n_history == 0 || sample.time_ms - last_sample(metrics)->time_ms >= SAMPLE_LEAST_MS ||
              sample.time_ms < last_sample(metrics)->time_ms; /* the clock was set back */
    pthread_mutex_unlock(&metrics->lock);
    if (is_kept)
        sample_memory(metrics, &sample);
    stalled_s = sample_work(metrics, &sample);
    pthread_mutex_lock(&metrics->lock);
    if (is_kept) {
        set_rates(metrics, &sample);
        metrics->history[metrics->next_history] = sample;
        metrics->next_history = (metrics->next_history + 1) % CABE_METRICS_HISTORY;
        if (metrics->n_history < CABE_METRICS_HISTORY)
            metrics->n_history++;
    }
    metrics->stalled_s = stalled_s;
    metrics->sampling_ns = 0;
    metrics->sampled_ns = cabe_clock_ns();
    pthread_mutex_unlock(&metrics->lock);
    if (is_kept)
        publish_sample(metrics, &sample);
}

/* Asks nobody who could be stuck: what the last sample said, and whether there still are samples. */
int cabe_metrics_stalled(struct cabe_metrics *metrics, double seconds, char *why, size_t n)
{
    uint64_t now = cabe_clock_ns();
    double age_s, sampling_s, stalled_s;

    pthread_mutex_lock(&metrics->lock);
    age_s = metrics->sampled_ns ? (double)(now - metrics->sampled_ns) / 1e9 : 0;
    sampling_s = metrics->sampling_ns ? (double)(now - metrics->sampling_ns) / 1e9 : 0;
    stalled_s = metrics->stalled_s > 0 ? metrics->stalled_s + age_s : 0;
    pthread_mutex_unlock(&metrics->lock);
    if (why && n)
        why[0] = '\0';
    if (stalled_s > seconds) {
        snprintf(why, why ? n : 0, "a model that has work has made no step for %.1f s", stalled_s);
        return 1;
    }
    if (sampling_s > seconds || age_s > seconds + 1) {
        snprintf(why, why ? n : 0, "the service has not answered for %.1f s", fmax(sampling_s, age_s));
        return 1;
    }
    return 0;
}

struct cabe_service_model *cabe_metrics_models(struct cabe_metrics *metrics, size_t *n)
{
    struct cabe_service_model *models;
    size_t n_max;

    *n = 0;
    if (!metrics->server->service)
        return NULL;
    n_max = cabe_service_models(metrics->server->service, NULL, 0) + 4;
    models = cabe_calloc(n_max, sizeof *models);
    if (models) {
        *n = cabe_service_models(metrics->server->service, models, n_max);
        *n = *n < n_max ? *n : n_max;
    }
    return models;
}

/* ---- open, close ---- */

enum cabe_status cabe_metrics_open(struct cabe_metrics **out, struct cabe_server *server, struct cabe_error *err)
{
    struct cabe_metrics *metrics = cabe_calloc(1, sizeof *metrics);

    *out = NULL;
    if (!metrics)
        return cabe_fail(err, CABE_ERR_OOM, "metrics");
    metrics->server = server;
    metrics->opened_ns = cabe_clock_ns();
    pthread_mutex_init(&metrics->lock, NULL);
    if (server->service) {
        cabe_service_on_answer(server->service, on_answer, metrics);
        cabe_service_on_time(server->service, on_time, metrics);
    }
    *out = metrics;
    return CABE_OK;
}

void cabe_metrics_close(struct cabe_metrics *metrics)
{
    if (!metrics)
        return;
    for (int i = 0; i < metrics->n_routes; i++)
        cabe_free(metrics->route[i]);
    for (int i = 0; i < metrics->n_operations; i++)
        cabe_free(metrics->operation[i]);
    for (int i = 0; i < metrics->n_models; i++)
        cabe_free(metrics->model[i]);
    pthread_mutex_destroy(&metrics->lock);
    cabe_free(metrics);
}
