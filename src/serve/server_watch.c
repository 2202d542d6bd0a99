/*
 * The watch thread: opens what stands behind HTTP, loads the start models, then looks at it twice a second.
 *
 * It is not the loop, which must never wait for a lock of the service, nor a worker, which may be busy.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/threads.h"
#include "base/utf8.h"
#include "machine/pressure.h"
#include "runtime/kv.h"
#include "serve/events.h"
#include "serve/jobs.h"
#include "serve/metrics.h"
#include "serve/server_impl.h"
#include "text/sentences.h"
#include "text/template.h"

#define LOOK_MS 500
#define DRAIN_LOOK_MS 50
#define STALLED_S 4.0 /* with LOOK_MS: /ready says so within 5 s */
#define TRIM_S 20.0   /* free heap goes back to the system after so long without work */
#define GIVE_WAY_S 10.0 /* idle models are unloaded once in so long while others stall for memory */
#define NO_LIMIT_S 1e9
#define SLACK_BYTES (UINT64_C(5) << 18) /* of heap; libraries are warm when it is measured, what requests take is itemised */
#define LAST_WORDS_S 1 /* for answers that are still being sent when the drain is over */

/* ---- opening ---- */

static enum cabe_status open_session(struct cabe_server *s, struct cabe_error *err)
{
    struct cabe_session_config config = {.memory_bytes = s->config->memory,
                                         .n_threads = (int)s->config->threads,
                                         .slack_bytes = SLACK_BYTES,
                                         .log = s->log,
                                         .cancel = &s->impl->cancel};

    enum cabe_status status = cabe_session_open(&s->session, &config, 0, err);

    if (status == CABE_OK)
        cabe_team_give_way(s->session->team);
    return status;
}

/* The service takes 0 for its own default. */
static double time_or(double seconds, double for_zero)
{
    return seconds == 0 ? for_zero : seconds;
}

static enum cabe_status open_service(struct cabe_server *s, struct cabe_error *err)
{
    const struct cabe_serve_config *c = s->config;
    struct cabe_service_config config = {.session = s->session,
                                         .monitor = s->monitor,
                                         .context = c->context,
                                         .n_seqs = (int32_t)c->parallel,
                                         .kv = c->kv[0] ? (int)cabe_kv_format_find(c->kv) : -1,
                                         .dtype = -1,
                                         .queue_requests = c->queue_requests,
                                         .queue_tokens = c->queue_tokens,
                                         .keep_alive_s = time_or(c->keep_alive, 1e-3),
                                         .first_token_s = time_or(c->generation_timeout, NO_LIMIT_S),
                                         .stall_s = time_or(c->generation_timeout, NO_LIMIT_S)};

    (void)!cabe_pool_policy_parse(c->eviction, &config.eviction, NULL); /* checked with the settings */
    return cabe_service_open(&s->service, &config, err);
}

/* ---- what comes with first use ---- */

static enum cabe_status pass_over(void *self, struct cabe_span span, struct cabe_error *err)
{
    (void)self;
    (void)span;
    (void)err;
    return CABE_OK;
}

/*
 * Code and tables of libraries (ICU's above all) become resident when they are first used, more than a MiB. They are used
 * once before the process is measured, so that what it has reserved for itself is what it will be.
 */
static void warm_up(void)
{
    static const char *const texts[] = {
        "Dr. Smith wrote to Mrs. Jones at 9 a.m. \"Where is it?\" she said. Nobody knew, e.g. the captain.\n\nThe end.",
        "El Sr. P\u00e9rez lleg\u00f3 tarde. \u00bfQui\u00e9n lo vio? La se\u00f1ora dijo que no. Fin.",
        "O Sr. Silva chegou tarde. Quem o viu? A senhora disse que n\u00e3o. Fim.",
        "Il dott. Rossi arriv\u00f2 tardi. Chi lo vide? La signora disse di no. Fine."};
    static const char chat[] = "{% for m in messages %}{{ m.role | upper }}: {{ m['content'] | trim }}\n{% endfor %}";
    struct cabe_template *template = NULL;
    json_t *variables = json_pack("{s:[{s:s,s:s}]}", "messages", "role", "user", "content", " hello ");
    char *text = NULL;
    size_t n;

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        (void)!cabe_sentences(texts[i], strlen(texts[i]), NULL, pass_over, NULL, NULL);
    if (cabe_template_compile(&template, chat, sizeof chat - 1, "warm", NULL) == CABE_OK &&
        cabe_template_render(template, variables, NULL, &text, &n, NULL) == CABE_OK)
        cabe_free(text);
    cabe_template_close(template);
    json_decref(variables);
    cabe_memory_trim();
}

static enum cabe_status open_all(struct cabe_server *s, struct cabe_error *err)
{
    struct cabe_monitor_config monitor = {.log = s->log};
    enum cabe_status status = open_session(s, err);

    if (status == CABE_OK) {
        monitor.ledger = s->session->ledger;
        monitor.limit_bytes = s->session->budget_bytes[CABE_HOST];
        status = cabe_monitor_open(&s->monitor, &monitor, err);
    }
    if (status == CABE_OK)
        status = cabe_http_charge(s->http, s->session->ledger, err);
    if (status == CABE_OK)
        status = open_service(s, err);
    if (status == CABE_OK)
        status = cabe_events_open(&s->events, s, err);
    if (status == CABE_OK)
        status = cabe_metrics_open(&s->metrics, s, err);
    if (status == CABE_OK)
        status = cabe_jobs_open(&s->jobs, s, err);
    /* What is resident now is the process itself; models come on top. */
    if (status == CABE_OK)
        warm_up();
    if (status == CABE_OK)
        status = cabe_session_settle(s->session, err);
    return status;
}

void cabe_server_watch_close(struct cabe_server *s)
{
    cabe_jobs_close(s->jobs);
    cabe_service_close(s->service);
    cabe_events_close(s->events);
    cabe_metrics_close(s->metrics);
    cabe_monitor_close(s->monitor);
    while (s->impl->failures) {
        struct cabe_start_failure *failure = s->impl->failures;

        s->impl->failures = failure->next;
        cabe_free(failure);
    }
}

/* ---- start models ---- */

/* "NAME", "NAME=PATH" or "PATH", which is then named as its file without ".gguf". */
static enum cabe_status name_model(struct cabe_server *s, const char *item, char name[CABE_SERVICE_NAME_MAX],
                                   struct cabe_error *err)
{
    const char *equals = strchr(item, '='), *slash = strrchr(item, '/'), *path = equals ? equals + 1 : item;
    size_t n;

    if (equals) {
        n = (size_t)(equals - item);
    } else if (slash) {
        item = slash + 1;
        n = strlen(item);
        n -= n > 5 && strcmp(item + n - 5, ".gguf") == 0 ? 5 : 0;
    } else {
        path = NULL;
        n = strlen(item);
    }
    if (n == 0 || n >= CABE_SERVICE_NAME_MAX)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "models: a name of %zu bytes, wanted 1 to %d", n,
                         CABE_SERVICE_NAME_MAX - 1);
    memcpy(name, item, n);
    name[n] = '\0';
    return path ? cabe_service_add(s->service, name, path, err) : CABE_OK;
}

static void note_failed(struct cabe_server *s, const char *what, int was_loading, const struct cabe_error *err)
{
    struct cabe_start_failure *failure = cabe_calloc(1, sizeof *failure);

    cabe_log(s->log, CABE_LOG_ERROR, "start_model_failed", "{s:o,s:s,s:o}", "model", cabe_json_text(what, strlen(what)),
             "status", cabe_status_name(err->status), "reason", cabe_json_text(err->text, strlen(err->text)));
    if (!failure)
        return; /* the log has it */
    snprintf(failure->model, sizeof failure->model, "%.*s", (int)cabe_utf8_cut(what, sizeof failure->model - 1), what);
    snprintf(failure->reason, sizeof failure->reason, "%.*s", (int)cabe_utf8_cut(err->text, sizeof failure->reason - 1),
             err->text);
    failure->was_loading = was_loading;
    pthread_mutex_lock(&s->impl->lock);
    failure->next = s->impl->failures;
    s->impl->failures = failure;
    pthread_mutex_unlock(&s->impl->lock);
}

static void add_loading(struct cabe_server *s, int n)
{
    pthread_mutex_lock(&s->impl->lock);
    s->impl->n_loading += n;
    pthread_mutex_unlock(&s->impl->lock);
    sem_post(&s->impl->wake);
}

struct start_model {
    struct cabe_server *server;
    char name[CABE_SERVICE_NAME_MAX];
};

static void on_loaded(void *self, enum cabe_status status, const struct cabe_error *err)
{
    struct start_model *model = self;

    if (status != CABE_OK)
        note_failed(model->server, model->name, 1, err);
    add_loading(model->server, -1);
    cabe_free(model);
}

static enum cabe_status load_model(struct cabe_server *s, const char *name, struct cabe_error *err)
{
    struct start_model *model = cabe_malloc(sizeof *model);
    enum cabe_status status;

    if (!model)
        return cabe_fail(err, CABE_ERR_OOM, "start model");
    model->server = s;
    snprintf(model->name, sizeof model->name, "%s", name);
    add_loading(s, 1);
    status = cabe_service_load(s->service, name, on_loaded, model, err);
    if (status != CABE_OK) {
        add_loading(s, -1);
        cabe_free(model);
    }
    return status;
}

static int is_listed(const char *list, const char *item)
{
    char other[1024];

    while (cabe_serve_list_next(&list, other, sizeof other))
        if (strcmp(other, item) == 0)
            return 1;
    return 0;
}

/* A pin that is no start model is one all the same. */
static void load_models(struct cabe_server *s, const char *list, int are_pins)
{
    const char *models = s->config->models, *pins = s->config->pins;
    char item[1024], name[CABE_SERVICE_NAME_MAX];

    while (cabe_serve_list_next(&list, item, sizeof item)) {
        struct cabe_error err;
        enum cabe_status status;

        if (are_pins && is_listed(models, item))
            continue;
        status = name_model(s, item, name, &err);
        if (status == CABE_OK && (is_listed(pins, item) || is_listed(pins, name)))
            status = cabe_service_pin(s->service, name, 1, &err);
        if (status == CABE_OK)
            status = load_model(s, name, &err);
        if (status != CABE_OK)
            note_failed(s, item, 0, &err);
    }
}

/* ---- looking ---- */

struct look {
    struct cabe_pressure_meter meter;
    uint64_t busy_ns; /* when there was work the last time */
    int trimmed, was_ready;
    uint64_t drain_since_ns, gave_way_ns;
};

static double share(double percent)
{
    return percent < 0 ? 0 : percent > 100 ? 1 : percent / 100;
}

/* Time stalled for memory, on the scale of memory used: where the one begins to be pressure, the other does. */
static double share_of_stall(double percent)
{
    return share(percent * (CABE_PRESSURE_MEMORY_PERCENT / CABE_PRESSURE_STALL_PERCENT));
}

/* The system cannot take back enough: what nobody uses goes before somebody is killed. */
static void give_way(struct cabe_server *s, struct look *look)
{
    uint64_t now = cabe_clock_ns();
    int n;

    if (look->gave_way_ns && (double)(now - look->gave_way_ns) / 1e9 < GIVE_WAY_S)
        return;
    look->gave_way_ns = now;
    n = cabe_pool_unload_idle(cabe_service_pool(s->service));
    cabe_memory_trim();
    cabe_log(s->log, CABE_LOG_WARN, "memory_stall", "{s:i}", "unloaded", n);
}

static void pass_on_pressure(struct cabe_server *s, struct look *look)
{
    struct cabe_pressure_config config = {.root = s->impl->machine_root};
    struct cabe_planned planned = {.threads = s->session->n_threads};
    struct cabe_ledger_view view;
    struct cabe_pressure pressure;
    double stall;

    cabe_ledger_read(s->session->ledger, &view);
    planned.bytes = view.device[CABE_HOST].used_bytes;
    cabe_pressure_read(&pressure, &look->meter, &planned, &config);
    stall = share_of_stall(pressure.psi_some_avg10);
    cabe_service_pressure(s->service, share(pressure.cpu_percent), fmax(share(pressure.memory_percent), stall));
    if (pressure.psi_some_avg10 > CABE_PRESSURE_STALL_PERCENT)
        give_way(s, look);
}

/* Whether it stands no longer: the model is there after all, or an operator who unloaded it has taken notice. */
static int is_settled(struct cabe_server *s, const struct cabe_start_failure *failure)
{
    struct cabe_service_model *model = cabe_calloc(1, sizeof *model);
    int is_settled = atomic_load_explicit(&failure->is_noticed, memory_order_relaxed); /* the flag alone */

    is_settled = is_settled ||
                 (model && cabe_service_model(s->service, failure->model, model, NULL) == CABE_OK &&
                  (model->state == CABE_SERVICE_READY || (failure->was_loading && model->failed[0] == '\0')));

    cabe_free(model);
    return is_settled;
}

int cabe_server_notice(struct cabe_server *s, const char *model)
{
    size_t n = strlen(model);
    int found = 0;

    pthread_mutex_lock(&s->impl->lock);
    for (struct cabe_start_failure *f = s->impl->failures; f; f = f->next) {
        /* "NAME=PATH" where the path cannot be taken */
        if (strncmp(f->model, model, n) != 0 || (f->model[n] != '\0' && f->model[n] != '='))
            continue;
        atomic_store_explicit(&f->is_noticed, 1, memory_order_relaxed);
        found = 1;
    }
    pthread_mutex_unlock(&s->impl->lock);
    if (found)
        sem_post(&s->impl->wake);
    return found;
}

/* Only this thread takes failures out of the list, so one may be looked at without the lock. */
static void review_failures(struct cabe_server *s)
{
    struct cabe_start_failure *failure, **at;

    pthread_mutex_lock(&s->impl->lock);
    failure = s->impl->failures;
    pthread_mutex_unlock(&s->impl->lock);
    while (failure) {
        struct cabe_start_failure *next = failure->next;

        if (is_settled(s, failure)) {
            pthread_mutex_lock(&s->impl->lock);
            for (at = &s->impl->failures; *at != failure;)
                at = &(*at)->next;
            *at = next;
            pthread_mutex_unlock(&s->impl->lock);
            cabe_free(failure);
        }
        failure = next;
    }
}

/* Why the server cannot be asked, "" when it can. */
static void find_why(struct cabe_server *s, char why[CABE_SERVER_WHY_MAX])
{
    char text[CABE_SERVER_WHY_MAX] = "";

    why[0] = '\0';
    if (cabe_metrics_stalled(s->metrics, STALLED_S, text, sizeof text)) {
        snprintf(why, CABE_SERVER_WHY_MAX, "stalled: %.200s", text);
        return;
    }
    pthread_mutex_lock(&s->impl->lock);
    if (s->impl->n_loading > 0)
        snprintf(why, CABE_SERVER_WHY_MAX, "loading %d model%s", s->impl->n_loading,
                 s->impl->n_loading == 1 ? "" : "s");
    else if (s->impl->failures)
        snprintf(why, CABE_SERVER_WHY_MAX, "%.80s: %.160s", s->impl->failures->model, s->impl->failures->reason);
    pthread_mutex_unlock(&s->impl->lock);
}

static void set_why(struct cabe_server *s, struct look *look, const char *why)
{
    int changed;

    pthread_mutex_lock(&s->impl->lock);
    changed = strcmp(s->impl->why, why) != 0;
    snprintf(s->impl->why, sizeof s->impl->why, "%s", why);
    pthread_mutex_unlock(&s->impl->lock);
    if (!changed)
        return;
    if (why[0] == '\0' && !look->was_ready) {
        cabe_monitor_ready(s->monitor);
        look->was_ready = 1;
    } else {
        cabe_log(s->log, why[0] && look->was_ready ? CABE_LOG_WARN : CABE_LOG_INFO, why[0] ? "not_ready" : "ready_again", "{s:o}",
                 "reason", cabe_json_text(why, strlen(why)));
    }
    cabe_notify_send(&s->impl->notify, "STATUS=%s", why[0] ? why : "ready");
}

static void look_around(struct cabe_server *s, struct look *look)
{
    struct cabe_service_stats stats;
    char why[CABE_SERVER_WHY_MAX];
    uint64_t now;

    cabe_service_stats(s->service, &stats);
    atomic_store_explicit(&s->impl->n_models, stats.pool.n_resident, memory_order_relaxed);
    cabe_metrics_sample(s->metrics);
    pass_on_pressure(s, look);
    review_failures(s);
    find_why(s, why);
    set_why(s, look, why);
    now = cabe_clock_ns();
    if (stats.n_running + stats.n_waiting > 0) {
        look->busy_ns = now;
        look->trimmed = 0;
    } else if (!look->trimmed && (double)(now - look->busy_ns) / 1e9 > TRIM_S) {
        cabe_memory_trim();
        look->trimmed = 1;
    }
    atomic_store_explicit(&s->impl->beat_ns, now, memory_order_relaxed);
}

/* Nothing is left that anybody waits for. Listeners to events never end by themselves. */
static int is_drained(struct cabe_server *s)
{
    struct cabe_service_stats service;
    struct cabe_http_stats http;
    int64_t n_waiting, n_running;

    cabe_service_stats(s->service, &service);
    cabe_http_stats(s->http, &http);
    cabe_jobs_counts(s->jobs, &n_waiting, &n_running);
    return service.n_running + service.n_waiting == 0 && n_waiting + n_running == 0 &&
           http.n_exchanges <= cabe_events_n_listeners(s->events);
}

/* 1: the drain has come to its end. */
static int drain(struct cabe_server *s, struct look *look)
{
    uint64_t now = cabe_clock_ns();

    if (!look->drain_since_ns) {
        look->drain_since_ns = now;
        cabe_log(s->log, CABE_LOG_INFO, "draining", "{s:f}", "seconds", s->config->drain);
        cabe_notify_send(&s->impl->notify, "STOPPING=1\nSTATUS=draining");
        if (s->impl->activated) /* systemd keeps the sockets: who comes now waits for the next process */
            cabe_http_stop(s->http, (unsigned)(s->config->drain + 1));
    }
    if (!is_drained(s) && (double)(now - look->drain_since_ns) / 1e9 < s->config->drain)
        return 0;
    cabe_service_drain(s->service);
    cabe_log(s->log, CABE_LOG_INFO, "drained", "{s:f,s:b}", "seconds", (double)(now - look->drain_since_ns) / 1e9,
             "complete", is_drained(s));
    return 1;
}

static void wait_ms(struct cabe_server *s, long ms)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += ms % 1000 * 1000000;
    until.tv_sec += ms / 1000 + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    while (sem_timedwait(&s->impl->wake, &until) == 0 && sem_trywait(&s->impl->wake) == 0)
        continue;
}

void *cabe_server_watch_main(void *self)
{
    struct cabe_server *s = self;
    struct look look = {.busy_ns = cabe_clock_ns()};
    struct cabe_error err = {0};

    if (open_all(s, &err) != CABE_OK) {
        s->impl->error = err; /* read after this thread has been joined */
        cabe_http_stop(s->http, 0);
        cabe_http_stop(s->http, 0);
        return NULL;
    }
    atomic_store_explicit(&s->impl->beat_ns, cabe_clock_ns(), memory_order_relaxed);
    atomic_store_explicit(&s->impl->stage, CABE_SERVER_UP, memory_order_release);
    load_models(s, s->config->models, 0);
    load_models(s, s->config->pins, 1);
    while (!cabe_cancelled(&s->impl->cancel)) {
        look_around(s, &look);
        if (cabe_server_draining(s) && drain(s, &look))
            break;
        wait_ms(s, cabe_server_draining(s) ? DRAIN_LOOK_MS : LOOK_MS);
    }
    cabe_http_stop(s->http, LAST_WORDS_S);
    return NULL;
}
