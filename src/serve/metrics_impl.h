/* What the parts of the metrics share: metrics.c counts, metrics_text.c and observe.c show. */
#ifndef CABE_SERVE_METRICS_IMPL_H
#define CABE_SERVE_METRICS_IMPL_H

#include <pthread.h>

#include "machine/pressure.h"
#include "serve/metrics.h"
#include "serve/metrics_histogram.h"

#define CABE_METRICS_ROUTES_MAX 192
#define CABE_METRICS_OPERATIONS_MAX 64
#define CABE_METRICS_MODELS_MAX 128 /* that answered; the names of more are counted as "other" */
#define CABE_METRICS_STATUSES_MAX 16
#define CABE_METRICS_HISTORY 600 /* samples: ten minutes */
#define CABE_METRICS_SLOW 32
#define CABE_METRICS_DEVICES 4 /* in samples */

struct cabe_metrics_route {
    enum cabe_http_method method;
    char route[96];
    struct {
        int status;
        uint64_t n;
    } status[CABE_METRICS_STATUSES_MAX];
    struct cabe_histogram seconds;
};

struct cabe_metrics_operation_count {
    char name[48];
    uint64_t n_slow;
    struct cabe_histogram seconds;
};

#define CABE_METRICS_FINISH_MAP(X) X(STOP, "stop") X(LENGTH, "length") X(TIMEOUT, "timeout") X(TOOLS, "tool_calls") \
    X(ABORT, "abort") X(ERROR, "error")
enum cabe_metrics_finish {
#define X(symbol, name) CABE_METRICS_##symbol,
    CABE_METRICS_FINISH_MAP(X)
#undef X
    CABE_METRICS_N_FINISHES
};

struct cabe_metrics_model {
    char name[CABE_SERVICE_NAME_MAX];
    uint64_t finished[CABE_METRICS_N_FINISHES];
    uint64_t prompt_tokens, cached_tokens, new_tokens;
    struct cabe_histogram first_token, whole, queue, time[CABE_SERVICE_N_TIMES];
};

struct cabe_metrics_sample {
    int64_t time_ms; /* Unix */
    uint64_t rss_bytes, available_bytes;
    int n_devices;
    struct {
        uint64_t budget_bytes, used_bytes, touched_bytes, others_bytes;
        uint64_t purpose_bytes[CABE_N_PURPOSES];
    } device[CABE_METRICS_DEVICES];
    int64_t n_running, n_waiting, n_jobs_waiting, n_jobs_running;
    uint64_t n_connections;
    uint64_t prompt_tokens, new_tokens, queried_tokens, hit_tokens; /* ever */
    double tokens_per_s, prompt_per_s;                              /* over the last seconds */
    double cpu_percent, memory_percent;                             /* pressure; below 0: not known */
};

struct cabe_metrics_slow {
    int64_t time_ms;
    char name[48], detail[96];
    double seconds;
};

struct cabe_metrics {
    struct cabe_server *server;
    uint64_t opened_ns;
    struct cabe_pressure_meter meter; /* of who samples */
    pthread_mutex_t lock;             /* of everything below; held for microseconds */
    struct cabe_metrics_route *route[CABE_METRICS_ROUTES_MAX];
    struct cabe_metrics_operation_count *operation[CABE_METRICS_OPERATIONS_MAX];
    struct cabe_metrics_model *model[CABE_METRICS_MODELS_MAX];
    int n_routes, n_operations, n_models;
    struct cabe_metrics_sample history[CABE_METRICS_HISTORY]; /* a ring */
    int n_history, next_history;
    struct cabe_metrics_slow slow[CABE_METRICS_SLOW]; /* a ring */
    int n_slow, next_slow;
    uint64_t sampled_ns;  /* when the last sample was done; 0: never */
    uint64_t sampling_ns; /* when the one under way was begun; 0: none */
    double stalled_s;     /* as the service said then */
};

/* The whole text; cabe_malloc'ed, NULL without memory. */
char *cabe_metrics_text(struct cabe_metrics *metrics, size_t *n);
/* `history`: with the samples of the last minutes. A new reference, NULL without memory. */
json_t *cabe_metrics_json(struct cabe_metrics *metrics, int history);
json_t *cabe_metrics_sample_json(const struct cabe_metrics *metrics, const struct cabe_metrics_sample *sample);
const char *cabe_metrics_device_name(const struct cabe_metrics *metrics, int device);
/* All the service knows; cabe_malloc'ed, NULL without memory or service. */
struct cabe_service_model *cabe_metrics_models(struct cabe_metrics *metrics, size_t *n);

#endif
