#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <dirent.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/threads.h"
#include "serve/jobs.h"
#include "serve/metrics_impl.h"

/*
 * Names: those that vLLM has carry `field` ("cabe_", or "vllm:"), those of our own always "cabe_" or the prefix that
 * was configured; those of requests and of the process none at all where vLLM's are wanted, as there.
 */
struct page {
    char *text;
    size_t n, room;
    int is_lost;
    const char *field, *own, *http;
    struct cabe_metrics *metrics;
    struct cabe_service_model *models;
    size_t n_models;
    struct cabe_service_stats stats;
};

static void put(struct page *page, const char *format, ...) CABE_PRINTF(2, 3);
static void put(struct page *page, const char *format, ...)
{
    va_list args;
    int n;

    if (page->is_lost)
        return;
    for (;;) {
        va_start(args, format);
        n = vsnprintf(page->text ? page->text + page->n : NULL, page->room - page->n, format, args);
        va_end(args);
        if (n < 0)
            return;
        if ((size_t)n < page->room - page->n)
            break;
        char *grown = cabe_realloc(page->text, (page->room + (size_t)n) * 2 + 4096, 1);

        if (!grown) {
            page->is_lost = 1;
            return;
        }
        page->text = grown;
        page->room = (page->room + (size_t)n) * 2 + 4096;
    }
    page->n += (size_t)n;
}

/* A label's value: backslash, quote and line feed escaped, as the format wants. */
static const char *escaped(const char *text, char out[2 * CABE_SERVICE_NAME_MAX])
{
    size_t n = 0;

    for (; *text && n + 3 < 2 * CABE_SERVICE_NAME_MAX; text++) {
        if (*text == '\\' || *text == '"' || *text == '\n')
            out[n++] = '\\';
        out[n++] = *text == '\n' ? 'n' : *text;
    }
    out[n] = '\0';
    return out;
}

static void begin(struct page *page, const char *prefix, const char *name, const char *type, const char *help)
{
    put(page, "# HELP %s%s %s\n# TYPE %s%s %s\n", prefix, name, help, prefix, name, type);
}

static void one(struct page *page, const char *prefix, const char *name, const char *type, const char *help,
                double value)
{
    begin(page, prefix, name, type, help);
    put(page, "%s%s %.17g\n", prefix, name, value);
}

static void histogram(struct page *page, const char *prefix, const char *name, const char *labels,
                      const struct cabe_histogram *h)
{
    uint64_t sum = 0;

    for (int i = 0; i < h->bounds->n; i++) {
        sum += h->count[i];
        put(page, "%s%s_bucket{%s,le=\"%g\"} %" PRIu64 "\n", prefix, name, labels, h->bounds->at[i], sum);
    }
    put(page, "%s%s_bucket{%s,le=\"+Inf\"} %" PRIu64 "\n", prefix, name, labels, h->n);
    put(page, "%s%s_sum{%s} %.9g\n%s%s_count{%s} %" PRIu64 "\n", prefix, name, labels, h->sum, prefix, name, labels,
        h->n);
}

/* ---- what vLLM has too ---- */

/* One line a model of the service, from one of its numbers. */
static void each_model(struct page *page, const char *name, const char *type, const char *help,
                       double (*value)(const struct cabe_service_model *model), int writes_only)
{
    char label[2 * CABE_SERVICE_NAME_MAX];

    begin(page, page->field, name, type, help);
    for (size_t i = 0; i < page->n_models; i++) {
        const struct cabe_service_model *model = &page->models[i];

        if (model->state == CABE_SERVICE_ABSENT && model->n_waiting == 0 && model->n_requests == 0)
            continue; /* the store may hold hundreds that nobody asks for */
        if (!writes_only || model->writes)
            put(page, "%s%s{model_name=\"%s\"} %.17g\n", page->field, name, escaped(model->name, label), value(model));
    }
}

static double running_of(const struct cabe_service_model *model)
{
    return (double)model->n_running;
}

static double waiting_of(const struct cabe_service_model *model)
{
    return (double)model->n_waiting;
}

static double waiting_tokens_of(const struct cabe_service_model *model)
{
    return (double)model->waiting_tokens;
}

static double kv_usage_of(const struct cabe_service_model *model)
{
    return model->kv_pages > 0 ? (double)model->kv_pages_used / (double)model->kv_pages : 0;
}

static double bytes_of(const struct cabe_service_model *model)
{
    return model->state == CABE_SERVICE_READY ? (double)model->bytes : 0;
}

static double ready_of(const struct cabe_service_model *model)
{
    return model->state == CABE_SERVICE_READY;
}

static double loads_of(const struct cabe_service_model *model)
{
    return (double)model->n_loads;
}

static double requests_of(const struct cabe_service_model *model)
{
    return (double)model->n_requests;
}

static double load_seconds_of(const struct cabe_service_model *model)
{
    return model->load_s;
}

static void models(struct page *page)
{
    each_model(page, "num_requests_running", "gauge", "Requests that are being answered.", running_of, 0);
    each_model(page, "num_requests_waiting", "gauge", "Requests that wait.", waiting_of, 0);
    each_model(page, "waiting_prompt_tokens", "gauge", "Prompt tokens that wait, estimated.", waiting_tokens_of, 0);
    each_model(page, "kv_cache_usage_perc", "gauge", "Share of the pages of keys and values in use, 0 to 1.",
               kv_usage_of, 1);
    const char *field = page->field;

    page->field = page->own;
    each_model(page, "model_loaded", "gauge", "1: in memory and ready.", ready_of, 0);
    each_model(page, "model_bytes", "gauge", "Bytes a model that is in memory holds, as planned.", bytes_of, 0);
    each_model(page, "model_loads_total", "counter", "Times a model was loaded.", loads_of, 0);
    each_model(page, "model_requests_total", "counter", "Requests that were admitted.", requests_of, 0);
    each_model(page, "model_load_seconds", "gauge", "Duration of the last load.", load_seconds_of, 0);
    page->field = field;
}

static void answers(struct page *page)
{
    static const char *const finishes[] = {
#define X(symbol, name) name,
        CABE_METRICS_FINISH_MAP(X)
#undef X
    };
    static const struct {
        const char *name, *help;
        size_t at;
    } counters[] = {
        {"prompt_tokens_total", "Tokens of prompts.", offsetof(struct cabe_metrics_model, prompt_tokens)},
        {"generation_tokens_total", "Tokens of answers.", offsetof(struct cabe_metrics_model, new_tokens)},
        {"prefix_cache_queries_total", "Prompt tokens that were looked up in the cache.",
         offsetof(struct cabe_metrics_model, prompt_tokens)},
        {"prefix_cache_hits_total", "Prompt tokens that were found in the cache.",
         offsetof(struct cabe_metrics_model, cached_tokens)},
    }, histograms[] = {
        {"time_to_first_token_seconds", "From admission to the first text.",
         offsetof(struct cabe_metrics_model, first_token)},
        {"inter_token_latency_seconds", "Between two tokens of an answer.",
         offsetof(struct cabe_metrics_model, time[CABE_SERVICE_BETWEEN_TOKENS])},
        {"e2e_request_latency_seconds", "From admission to the end.", offsetof(struct cabe_metrics_model, whole)},
        {"request_queue_time_seconds", "In the queue.", offsetof(struct cabe_metrics_model, queue)},
        {"kv_block_lifetime_seconds", "Of a cached page of keys and values that had to go: since it was taken.",
         offsetof(struct cabe_metrics_model, time[CABE_SERVICE_KV_LIFETIME])},
        {"kv_block_idle_before_evict_seconds", "Of the same: since its last use.",
         offsetof(struct cabe_metrics_model, time[CABE_SERVICE_KV_IDLE_BEFORE_EVICT])},
        {"kv_block_reuse_gap_seconds", "Of a page that was found in the cache: since its last use.",
         offsetof(struct cabe_metrics_model, time[CABE_SERVICE_KV_REUSE_GAP])},
    };
    struct cabe_metrics *metrics = page->metrics;
    char label[2 * CABE_SERVICE_NAME_MAX], labels[2 * CABE_SERVICE_NAME_MAX + 32];

    for (size_t c = 0; c < sizeof counters / sizeof *counters; c++) {
        begin(page, page->field, counters[c].name, "counter", counters[c].help);
        for (int i = 0; i < metrics->n_models; i++)
            put(page, "%s%s{model_name=\"%s\"} %" PRIu64 "\n", page->field, counters[c].name,
                escaped(metrics->model[i]->name, label),
                *(const uint64_t *)(const void *)((const char *)metrics->model[i] + counters[c].at));
    }
    begin(page, page->field, "request_success_total", "counter", "Answers that ended, by how.");
    for (int i = 0; i < metrics->n_models; i++)
        for (int f = 0; f < CABE_METRICS_N_FINISHES; f++)
            put(page, "%srequest_success_total{model_name=\"%s\",finished_reason=\"%s\"} %" PRIu64 "\n", page->field,
                escaped(metrics->model[i]->name, label), finishes[f], metrics->model[i]->finished[f]);
    for (size_t h = 0; h < sizeof histograms / sizeof *histograms; h++) {
        begin(page, page->field, histograms[h].name, "histogram", histograms[h].help);
        for (int i = 0; i < metrics->n_models; i++) {
            snprintf(labels, sizeof labels, "model_name=\"%s\"", escaped(metrics->model[i]->name, label));
            histogram(page, page->field, histograms[h].name, labels,
                      (const struct cabe_histogram *)(const void *)((const char *)metrics->model[i] + histograms[h].at));
        }
    }
}

/* ---- the service, the pool ---- */

static void service(struct page *page)
{
    const struct cabe_service_stats *s = &page->stats;

    one(page, page->field, "num_preemptions_total", "counter", "Answers that gave their pages to others and began again.",
        (double)s->n_preempted);
    begin(page, page->field, "admission_rejections_total", "counter", "Requests that were refused at once, by why.");
    put(page, "%sadmission_rejections_total{reason=\"queue_full\"} %" PRIu64 "\n", page->field, s->n_refused_requests);
    put(page, "%sadmission_rejections_total{reason=\"queue_tokens\"} %" PRIu64 "\n", page->field, s->n_refused_tokens);
    put(page, "%sadmission_rejections_total{reason=\"draining\"} %" PRIu64 "\n", page->field, s->n_refused_draining);
    put(page, "%sadmission_rejections_total{reason=\"pressure\"} %" PRIu64 "\n", page->field, s->n_refused_pressure);
    one(page, page->own, "requests_admitted_total", "counter", "Requests that were admitted.", (double)s->n_admitted);
    one(page, page->own, "requests_cancelled_total", "counter", "Requests whose client left.", (double)s->n_cancelled);
    one(page, page->own, "requests_timed_out_total", "counter", "Requests over a time-out.", (double)s->n_timed_out);
    one(page, page->own, "embedded_texts_total", "counter", "Texts that were embedded.", (double)s->embedded_texts);
    one(page, page->own, "embedded_tokens_total", "counter", "Their tokens.", (double)s->embedded_tokens);
    one(page, page->own, "engine_stalled_seconds", "gauge", "Since a model that has work made its last step; 0: none waits.",
        s->stalled_s);
    one(page, page->own, "pool_resident_models", "gauge", "Models in memory.", s->pool.n_resident);
    one(page, page->own, "pool_hits_total", "counter", "Models that were asked for and there.", (double)s->pool.n_hits);
    one(page, page->own, "pool_loads_total", "counter", "Models that were loaded.", (double)s->pool.n_loads);
    one(page, page->own, "pool_failed_loads_total", "counter", "Loads that failed.", (double)s->pool.n_failed_loads);
    one(page, page->own, "pool_evictions_total", "counter", "Models that were unloaded to make room.",
        (double)s->pool.n_evictions);
    one(page, page->own, "pool_unloads_total", "counter", "Models that were unloaded.", (double)s->pool.n_unloads);
    one(page, page->own, "pool_load_seconds_total", "counter", "Time of all loads.", (double)s->pool.load_ns / 1e9);
}

/* ---- turns, memory, phases ---- */

/* What classes got of the threads that compute, and waited for them. */
static void turns(struct page *page)
{
    static const char *const names[] = {"turns_total", "turns_waited_total", "turn_seconds_total",
                                        "turn_wait_seconds_total"};
    static const char *const helps[] = {"Regions that ran on the team of threads.",
                                        "Of them, those that waited for another thread's.", "Time that they took.",
                                        "Time that they waited."};
    struct cabe_session *session = page->metrics->server->session;
    struct cabe_turns turn[CABE_N_CLASSES];

    if (!session || !session->team)
        return;
    cabe_team_turns(session->team, turn);
    for (int k = 0; k < 4; k++) {
        begin(page, page->own, names[k], "counter", helps[k]);
        for (int c = 0; c < CABE_N_CLASSES; c++)
            put(page, "%s%s{class=\"%s\"} %.9g\n", page->own, names[k], cabe_class_name((enum cabe_class)c),
                k == 0   ? (double)turn[c].n_turns
                : k == 1 ? (double)turn[c].n_waits
                : k == 2 ? (double)turn[c].used_ns / 1e9
                         : (double)turn[c].wait_ns / 1e9);
    }
}

static void device_line(struct page *page, const char *name, int device, const char *more, uint64_t value)
{
    put(page, "%s%s{device=\"%s\"%s} %" PRIu64 "\n", page->own, name, cabe_metrics_device_name(page->metrics, device), more,
        value);
}

static void purpose_lines(struct page *page, const char *name, int device, const uint64_t bytes[CABE_N_PURPOSES])
{
    char label[64];

    for (int p = 0; p < CABE_N_PURPOSES; p++) {
        snprintf(label, sizeof label, ",purpose=\"%s\"", cabe_purpose_name((enum cabe_purpose)p));
        device_line(page, name, device, label, bytes[p]);
    }
}

static void memory(struct page *page)
{
    struct cabe_session *session = page->metrics->server->session;
    struct cabe_ledger_touched touched;
    struct cabe_ledger_view view;

    if (!session)
        return;
    cabe_ledger_read_touched(session->ledger, &view, &touched);
    begin(page, page->own, "memory_budget_bytes", "gauge", "Bytes that may be held.");
    for (int d = 0; d < view.n_devices; d++)
        device_line(page, "memory_budget_bytes", d, "", view.device[d].budget_bytes);
    begin(page, page->own, "memory_reserved_bytes", "gauge", "Bytes that are held, by the ledger.");
    for (int d = 0; d < view.n_devices; d++)
        device_line(page, "memory_reserved_bytes", d, "", view.device[d].used_bytes);
    begin(page, page->own, "memory_others_bytes", "gauge", "Bytes of other cabe processes.");
    for (int d = 0; d < view.n_devices; d++)
        device_line(page, "memory_others_bytes", d, "", view.device[d].others_bytes);
    begin(page, page->own, "memory_touched_bytes", "gauge", "Bytes of those held that the system has given pages for.");
    for (int d = 0; d < view.n_devices; d++)
        device_line(page, "memory_touched_bytes", d, "", touched.device[d].bytes);
    begin(page, page->own, "memory_purpose_bytes", "gauge", "Bytes that are held, by what for.");
    for (int d = 0; d < view.n_devices; d++)
        purpose_lines(page, "memory_purpose_bytes", d, view.device[d].purpose_bytes);
    begin(page, page->own, "memory_purpose_touched_bytes", "gauge", "Bytes of those that have pages, by what for.");
    for (int d = 0; d < view.n_devices; d++)
        purpose_lines(page, "memory_purpose_touched_bytes", d, touched.device[d].purpose_bytes);
    one(page, page->own, "memory_refusals_total", "counter", "Reservations that the ledger refused.",
        (double)view.n_refused);
}

/* The last one of each name. */
static void phases(struct page *page)
{
    struct cabe_phase *phase = cabe_calloc(CABE_MONITOR_PHASES, sizeof *phase);
    static const char *const names[] = {"phase_seconds", "phase_peak_bytes", "phase_predicted_bytes"};
    static const char *const helps[] = {"Duration of the last phase of a name.", "Its peak of resident memory.",
                                        "Its peak as the plan said; 0: nobody did."};
    char label[2 * CABE_SERVICE_NAME_MAX];
    size_t n;

    if (!phase || !page->metrics->server->monitor) {
        cabe_free(phase);
        return;
    }
    n = cabe_monitor_read(page->metrics->server->monitor, phase, CABE_MONITOR_PHASES);
    for (int k = 0; k < 3; k++) {
        begin(page, page->own, names[k], "gauge", helps[k]);
        for (size_t i = 0; i < n; i++) {
            int again = phase[i].is_open;

            for (size_t j = i + 1; j < n && !again; j++)
                again = !phase[j].is_open && strcmp(phase[i].name, phase[j].name) == 0;
            if (!again)
                put(page, "%s%s{phase=\"%s\"} %.9g\n", page->own, names[k], escaped(phase[i].name, label),
                    k == 0   ? (double)phase[i].elapsed_ns / 1e9
                    : k == 1 ? (double)phase[i].peak_bytes
                             : (double)phase[i].predicted_bytes);
        }
    }
    cabe_free(phase);
}

/* ---- HTTP, operations, jobs ---- */

static const char *method_name(enum cabe_http_method method)
{
    static const char *const names[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "OTHER"};

    return (unsigned)method <= CABE_HTTP_OTHER ? names[method] : "OTHER";
}

static void http(struct page *page)
{
    struct cabe_metrics *metrics = page->metrics;
    struct cabe_http_stats stats = {0};
    char labels[256];

    begin(page, page->http, "http_requests_total", "counter", "Requests that were answered.");
    for (int i = 0; i < metrics->n_routes; i++) {
        const struct cabe_metrics_route *route = metrics->route[i];

        for (int s = 0; s < CABE_METRICS_STATUSES_MAX && route->status[s].n; s++)
            put(page, "%shttp_requests_total{handler=\"%s\",method=\"%s\",status=\"%d\"} %" PRIu64 "\n", page->http,
                route->route, method_name(route->method), route->status[s].status, route->status[s].n);
    }
    begin(page, page->http, "http_request_duration_seconds", "histogram", "From the first byte to the end of the answer.");
    for (int i = 0; i < metrics->n_routes; i++) {
        snprintf(labels, sizeof labels, "handler=\"%s\",method=\"%s\"", metrics->route[i]->route,
                 method_name(metrics->route[i]->method));
        histogram(page, page->http, "http_request_duration_seconds", labels, &metrics->route[i]->seconds);
    }
    if (!metrics->server->http)
        return;
    cabe_http_stats(metrics->server->http, &stats);
    one(page, page->own, "http_connections", "gauge", "Connections now.", (double)stats.n_connections);
    one(page, page->own, "http_connections_accepted_total", "counter", "Connections ever.", (double)stats.n_accepted);
    one(page, page->own, "http_connections_refused_total", "counter", "Connections over the limit.",
        (double)stats.n_refused);
    one(page, page->own, "http_received_bytes_total", "counter", "Bytes of requests.", (double)stats.bytes_in);
    one(page, page->own, "http_sent_bytes_total", "counter", "Bytes of answers.", (double)stats.bytes_out);
}

static void workers(struct page *page)
{
    struct cabe_workers_stats stats = {0};

    cabe_server_workers(page->metrics->server, &stats);
    one(page, page->own, "workers", "gauge", "Threads that read requests.", stats.n_workers);
    one(page, page->own, "workers_busy", "gauge", "Of them, busy.", stats.n_busy);
    one(page, page->own, "workers_waiting", "gauge", "Pieces of work that wait for one.", (double)stats.n_waiting);
    one(page, page->own, "workers_done_total", "counter", "Pieces of work that were done.", (double)stats.n_done);
    one(page, page->own, "workers_expired_total", "counter", "Pieces of work that waited too long.",
        (double)stats.n_expired);
}

static void operations(struct page *page)
{
    struct cabe_metrics *metrics = page->metrics;
    char labels[96];

    begin(page, page->own, "operation_duration_seconds", "histogram", "Operations of every kind: loads, answers, jobs.");
    for (int i = 0; i < metrics->n_operations; i++) {
        snprintf(labels, sizeof labels, "operation=\"%s\"", metrics->operation[i]->name);
        histogram(page, page->own, "operation_duration_seconds", labels, &metrics->operation[i]->seconds);
    }
    begin(page, page->own, "slow_operations_total", "counter", "Operations over the threshold.");
    for (int i = 0; i < metrics->n_operations; i++)
        put(page, "%sslow_operations_total{operation=\"%s\"} %" PRIu64 "\n", page->own, metrics->operation[i]->name,
            metrics->operation[i]->n_slow);
}

static void jobs(struct page *page)
{
    struct cabe_slots_state *slots;
    int64_t n_waiting, n_running;
    int waiting = 0;

    if (!page->metrics->server->jobs || !(slots = cabe_calloc(1, sizeof *slots)))
        return;
    cabe_jobs_counts(page->metrics->server->jobs, &n_waiting, &n_running);
    begin(page, page->own, "jobs", "gauge", "Jobs now, by state.");
    put(page, "%sjobs{state=\"waiting\"} %" PRId64 "\n%sjobs{state=\"running\"} %" PRId64 "\n", page->own, n_waiting,
        page->own, n_running);
    cabe_slots_state(cabe_jobs_slots(page->metrics->server->jobs), slots);
    for (int c = 0; c < CABE_N_CLASSES; c++)
        waiting += slots->n_waiting[c];
    one(page, page->own, "heavy_slots", "gauge", "Slots for heavy tasks.", slots->n_slots);
    one(page, page->own, "heavy_slots_held", "gauge", "Of them, held.", slots->n_held);
    one(page, page->own, "heavy_slots_waiting", "gauge", "Heavy tasks that wait.", waiting);
    one(page, page->own, "heavy_slots_timed_out_total", "counter", "Heavy tasks that waited too long.",
        (double)slots->n_timed_out);
    cabe_free(slots);
}

/* ---- the process, as every client library of Prometheus shows it ---- */

static int open_files(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int n = -3; /* ".", ".." and the folder itself */

    if (!folder)
        return 0;
    while (readdir(folder))
        n++;
    closedir(folder);
    return n;
}

static double virtual_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long pages = 0;

    if (file) {
        if (fscanf(file, "%lu", &pages) != 1)
            pages = 0;
        fclose(file);
    }
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

/* Unix time at which the process began: now, less how long it has lived. */
static double start_seconds(void)
{
    FILE *file = fopen("/proc/self/stat", "r");
    unsigned long long ticks = 0;
    struct timespec now, up;
    char line[1024], *at;

    if (!file)
        return 0;
    at = fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL; /* the name may hold anything */
    fclose(file);
    for (int field = 2; at && field < 22; field++)
        if ((at = strchr(at, ' ')))
            at++;
    if (!at || sscanf(at, "%llu", &ticks) != 1)
        return 0;
    clock_gettime(CLOCK_REALTIME, &now);
    clock_gettime(CLOCK_BOOTTIME, &up);
    return (double)(now.tv_sec - up.tv_sec) + (double)(now.tv_nsec - up.tv_nsec) / 1e9 +
           (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

static void process(struct page *page)
{
    struct cabe_rss rss = {0};
    struct rusage usage;
    struct rlimit files = {0, 0};

    (void)cabe_rss_read(&rss);
    getrusage(RUSAGE_SELF, &usage);
    getrlimit(RLIMIT_NOFILE, &files);
    one(page, "", "process_cpu_seconds_total", "counter", "CPU time, user and system.",
        (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
            (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    one(page, "", "process_resident_memory_bytes", "gauge", "Resident memory.", (double)rss.rss_bytes);
    one(page, "", "process_virtual_memory_bytes", "gauge", "Address space.", virtual_bytes());
    one(page, "", "process_open_fds", "gauge", "Open files.", open_files());
    one(page, "", "process_max_fds", "gauge", "Limit of open files.", (double)files.rlim_cur);
    one(page, "", "process_start_time_seconds", "gauge", "Unix time of the start.", start_seconds());
    begin(page, page->own, "build_info", "gauge", "Always 1; the version is the label.");
    put(page, "%sbuild_info{version=\"" CABE_VERSION "\"} 1\n", page->own);
}

char *cabe_metrics_text(struct cabe_metrics *metrics, size_t *n)
{
    const char *prefix = metrics->server->config->metrics_prefix;
    int is_vllm = strcmp(prefix, "vllm:") == 0;
    struct page page = {.metrics = metrics, .field = prefix, .own = is_vllm ? "cabe_" : prefix,
                        .http = is_vllm ? "" : prefix};

    /* Whoever could be slow is asked before the lock is taken. */
    page.models = cabe_metrics_models(metrics, &page.n_models);
    if (metrics->server->service)
        cabe_service_stats(metrics->server->service, &page.stats);
    models(&page);
    service(&page);
    turns(&page);
    memory(&page);
    phases(&page);
    jobs(&page);
    workers(&page);
    process(&page);
    pthread_mutex_lock(&metrics->lock);
    answers(&page);
    http(&page);
    operations(&page);
    pthread_mutex_unlock(&metrics->lock);
    cabe_free(page.models);
    if (page.is_lost) {
        cabe_free(page.text);
        return NULL;
    }
    *n = page.n;
    return page.text;
}
