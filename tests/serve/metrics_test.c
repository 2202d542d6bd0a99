#include "serve/metrics.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/memory.h"
#include "serve/jobs.h"
#include "fakes.h"
#include "serve/metrics_impl.h"

/* ---- a service that says what the test wants ---- */

static struct cabe_service_stats service_stats;
static struct cabe_service_model service_model = {.name = "tiny \"llama\"",
                                                  .writes = 1,
                                                  .state = CABE_SERVICE_READY,
                                                  .bytes = 1 << 20,
                                                  .n_running = 2,
                                                  .n_waiting = 3,
                                                  .kv_pages = 8,
                                                  .kv_pages_used = 2};
static atomic_int service_hangs;
static void (*answered)(void *self, const char *model, enum cabe_class class_, enum cabe_status status,
                        enum cabe_service_finish finish, const struct cabe_service_counts *counts);
static void *answered_self;

void cabe_service_on_answer(struct cabe_service *service,
                            void (*answer)(void *self, const char *model, enum cabe_class class_,
                                           enum cabe_status status, enum cabe_service_finish finish,
                                           const struct cabe_service_counts *counts),
                            void *self)
{
    (void)service;
    answered = answer;
    answered_self = self;
}

static void (*seen)(void *self, const char *model, enum cabe_service_time what, double seconds);

void cabe_service_on_time(struct cabe_service *service,
                          void (*on_time)(void *self, const char *model, enum cabe_service_time what, double seconds),
                          void *self)
{
    (void)service;
    (void)self; /* as of on_answer() */
    seen = on_time;
}

void cabe_service_stats(struct cabe_service *service, struct cabe_service_stats *stats)
{
    (void)service;
    while (atomic_load(&service_hangs))
        usleep(1000);
    *stats = service_stats;
}

size_t cabe_service_models(struct cabe_service *service, struct cabe_service_model *out, size_t n_max)
{
    (void)service;
    if (n_max)
        out[0] = service_model;
    return 1;
}

static char published[4096];

void cabe_events_publish(struct cabe_events *events, const char *event, json_t *data);
void cabe_events_publish(struct cabe_events *events, const char *event, json_t *data)
{
    char *text = json_dumps(data, JSON_COMPACT);

    (void)events;
    snprintf(published, sizeof published, "%s %s", event, text);
    free(text);
    json_decref(data);
}

size_t cabe_events_n_listeners(struct cabe_events *events);
size_t cabe_events_n_listeners(struct cabe_events *events)
{
    (void)events;
    return 1;
}

void cabe_jobs_counts(struct cabe_jobs *jobs, int64_t *n_waiting, int64_t *n_running)
{
    (void)jobs;
    *n_waiting = 0;
    *n_running = 1;
}

struct cabe_slots *cabe_jobs_slots(struct cabe_jobs *jobs)
{
    (void)jobs;
    return NULL;
}

static struct cabe_serve_config config;
static struct cabe_server server = {.config = &config, .service = (struct cabe_service *)&server};

static struct cabe_metrics *open_metrics(void)
{
    memset(&config, 0, sizeof config);
    config.slow_ms = 100;
    snprintf(config.metrics_prefix, sizeof config.metrics_prefix, "cabe_");
    assert_int_equal(cabe_metrics_open(&server.metrics, &server, NULL), CABE_OK);
    return server.metrics;
}

static char *get(const char *path, const char *type)
{
    struct cabe_http_exchange x;
    char *text;

    fake_open(&x);
    x.query[0] = "history";
    x.query[1] = "1";
    fake_call(&server, cabe_observe_routes, &x, CABE_HTTP_GET, path);
    assert_int_equal(x.status, 200);
    assert_int_equal(strncmp(x.type, type, strlen(type)), 0);
    text = fake_sent(&x);
    fake_close(&x);
    return text;
}

static double value(const char *text, const char *line)
{
    const char *at = text;
    size_t n = strlen(line);

    while ((at = strstr(at, line))) {
        if ((at == text || at[-1] == '\n') && at[n] == ' ')
            return strtod(at + n, NULL);
        at += n;
    }
    fail_msg("no line '%s' in\n%s", line, text);
    return 0;
}

static void answer(const char *model, enum cabe_status status, enum cabe_service_finish finish, int64_t n_new)
{
    struct cabe_service_counts counts = {.n_prompt = 10, .n_cached = 4, .n_new = n_new, .queue_s = 0.01,
                                         .prompt_s = 0.02, .answer_s = 0.05 * (double)n_new, .first_s = 0.03};

    answered(answered_self, model, CABE_CLASS_NORMAL, status, finish, &counts);
}

static void test_counters_are_what_was_counted(void **state)
{
    struct cabe_metrics *metrics = open_metrics();
    char *text;

    (void)state;
    for (int i = 0; i < 7; i++)
        answer("tiny \"llama\"", CABE_OK, i < 5 ? CABE_SERVICE_STOP : CABE_SERVICE_LENGTH, 3);
    answer("tiny \"llama\"", CABE_ERR_CANCELLED, CABE_SERVICE_STOP, 0);
    answer("other\nline", CABE_ERR_ARGUMENT, CABE_SERVICE_STOP, 0);
    for (int i = 0; i < 100; i++)
        cabe_metrics_request(metrics, CABE_HTTP_POST, "/v1/chat/completions", i % 10 ? 200 : 429, 0.004);
    cabe_metrics_request(metrics, CABE_HTTP_GET, "", 404, 0.001);
    service_stats.n_refused_requests = 10;
    for (int i = 0; i < 14; i++) /* each gap as it was: a pause is seen */
        seen(answered_self, "tiny \"llama\"", CABE_SERVICE_BETWEEN_TOKENS, i == 7 ? 3 : 0.02);
    seen(answered_self, "tiny \"llama\"", CABE_SERVICE_KV_LIFETIME, 90);
    seen(answered_self, "tiny \"llama\"", CABE_SERVICE_KV_IDLE_BEFORE_EVICT, 45);
    seen(answered_self, "tiny \"llama\"", CABE_SERVICE_KV_REUSE_GAP, 0.004);
    text = get("/metrics", "text/plain; version=0.0.4");
#define M "{model_name=\"tiny \\\"llama\\\"\"}"
#define ML "model_name=\"tiny \\\"llama\\\"\""
    assert_float_equal(value(text, "cabe_prompt_tokens_total" M), 80, 0);
    assert_float_equal(value(text, "cabe_generation_tokens_total" M), 21, 0);
    assert_float_equal(value(text, "cabe_prefix_cache_hits_total" M), 32, 0);
    assert_float_equal(value(text, "cabe_request_success_total{" ML ",finished_reason=\"stop\"}"), 5, 0);
    assert_float_equal(value(text, "cabe_request_success_total{" ML ",finished_reason=\"length\"}"), 2, 0);
    assert_float_equal(value(text, "cabe_request_success_total{" ML ",finished_reason=\"abort\"}"), 1, 0);
    assert_float_equal(value(text, "cabe_request_success_total{model_name=\"other\\nline\",finished_reason=\"error\"}"), 1,
                       0);
    assert_float_equal(value(text, "cabe_inter_token_latency_seconds_count{" ML "}"), 14, 0);
    assert_float_equal(value(text, "cabe_inter_token_latency_seconds_bucket{" ML ",le=\"0.025\"}"), 13, 0);
    assert_float_equal(value(text, "cabe_inter_token_latency_seconds_bucket{" ML ",le=\"2.5\"}"), 13, 0);
    assert_float_equal(value(text, "cabe_inter_token_latency_seconds_bucket{" ML ",le=\"5\"}"), 14, 0);
    assert_float_equal(value(text, "cabe_kv_block_lifetime_seconds_bucket{" ML ",le=\"60\"}"), 0, 0);
    assert_float_equal(value(text, "cabe_kv_block_lifetime_seconds_bucket{" ML ",le=\"120\"}"), 1, 0);
    assert_float_equal(value(text, "cabe_kv_block_idle_before_evict_seconds_sum{" ML "}"), 45, 0);
    assert_float_equal(value(text, "cabe_kv_block_reuse_gap_seconds_bucket{" ML ",le=\"0.005\"}"), 1, 0);
    assert_float_equal(value(text, "cabe_time_to_first_token_seconds_bucket{" ML ",le=\"0.02\"}"), 0, 0);
    assert_float_equal(value(text, "cabe_time_to_first_token_seconds_bucket{" ML ",le=\"0.04\"}"), 7, 0);
    assert_float_equal(value(text, "cabe_time_to_first_token_seconds_bucket{" ML ",le=\"+Inf\"}"), 7, 0);
    assert_float_equal(value(text, "cabe_num_requests_running" M), 2, 0);
    assert_float_equal(value(text, "cabe_kv_cache_usage_perc" M), 0.25, 0);
    assert_float_equal(value(text, "cabe_admission_rejections_total{reason=\"queue_full\"}"), 10, 0);
    assert_float_equal(
        value(text, "cabe_http_requests_total{handler=\"/v1/chat/completions\",method=\"POST\",status=\"200\"}"), 90, 0);
    assert_float_equal(
        value(text, "cabe_http_requests_total{handler=\"/v1/chat/completions\",method=\"POST\",status=\"429\"}"), 10, 0);
    assert_float_equal(value(text, "cabe_http_requests_total{handler=\"none\",method=\"GET\",status=\"404\"}"), 1, 0);
    assert_float_equal(
        value(text, "cabe_http_request_duration_seconds_bucket{handler=\"/v1/chat/completions\",method=\"POST\",le=\"0.005\"}"),
        100, 0);
    assert_true(value(text, "process_resident_memory_bytes") > 1e5);
    assert_true(fabs(value(text, "process_start_time_seconds") - (double)time(NULL)) < 60);
    free(text);

    snprintf(config.metrics_prefix, sizeof config.metrics_prefix, "vllm:");
    text = get("/metrics", "text/plain");
    assert_float_equal(value(text, "vllm:generation_tokens_total" M), 21, 0);
    assert_float_equal(value(text, "http_requests_total{handler=\"none\",method=\"GET\",status=\"404\"}"), 1, 0);
    assert_float_equal(value(text, "cabe_model_loaded" M), 1, 0);
    free(text);
    cabe_metrics_close(metrics);
}

static void test_quantiles_and_slow_operations(void **state)
{
    struct cabe_metrics *metrics = open_metrics();
    json_t *json, *answers, *slow, *first;
    char *text;

    (void)state;
    for (int i = 1; i <= 100; i++)
        cabe_metrics_request(metrics, CABE_HTTP_GET, "/a", 200, i * 0.001);
    answer("m", CABE_OK, CABE_SERVICE_STOP, 10); /* 0.53 s: slow */
    assert_non_null(strstr(published, "slow "));
    cabe_metrics_operation(metrics, "load", "m", 0.2);
    cabe_metrics_operation(metrics, "load", "m", 0.05);
    cabe_metrics_sample(metrics);
    assert_non_null(strstr(published, "sample "));
    text = get("/v1/stats", "application/json");
    json = json_loads(text, 0, NULL);
    assert_non_null(json);
    slow = json_object_get(json, "slow");
    assert_int_equal(json_array_size(slow), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(slow, 0), "operation")), "load");
    answers = json_object_get(json_array_get(json_object_get(json, "endpoints"), 0), "seconds");
    assert_true(fabs(json_real_value(json_object_get(answers, "p50")) - 0.050) < 0.050 / 15);
    assert_true(fabs(json_real_value(json_object_get(answers, "p95")) - 0.095) < 0.095 / 15);
    first = json_array_get(json_object_get(json, "answers"), 0);
    assert_true(fabs(json_real_value(json_object_get(first, "hit_rate")) - 0.4) < 1e-9);
    assert_int_equal(json_array_size(json_object_get(json, "history")), 1);
    json_decref(json);
    free(text);
    cabe_metrics_close(metrics);
}

static void *sampler(void *arg)
{
    cabe_metrics_sample(arg);
    return NULL;
}

/* A machine that stops this test for a second is no stall of ours: it may be asked again. */
static void is_well(struct cabe_metrics *metrics)
{
    char why[128];

    for (int i = 0; i < 20; i++) {
        cabe_metrics_sample(metrics);
        if (!cabe_metrics_stalled(metrics, 0.2, why, sizeof why))
            return;
    }
    fail_msg("%s", why);
}

static void test_stalls_are_seen(void **state)
{
    struct cabe_metrics *metrics = open_metrics();
    pthread_t thread;
    char why[128];

    (void)state;
    assert_int_equal(cabe_metrics_stalled(metrics, 0.2, why, sizeof why), 0);
    service_stats.stalled_s = 0;
    is_well(metrics);
    service_stats.stalled_s = 0.3;
    cabe_metrics_sample(metrics);
    assert_int_equal(cabe_metrics_stalled(metrics, 0.2, why, sizeof why), 1);
    assert_non_null(strstr(why, "no step"));
    service_stats.stalled_s = 0;
    is_well(metrics);

    atomic_store(&service_hangs, 1); /* a service that does not even say how it is */
    pthread_create(&thread, NULL, sampler, metrics);
    why[0] = '\0';
    for (int i = 0; i < 30000 && !cabe_metrics_stalled(metrics, 0.2, why, sizeof why); i++)
        usleep(1000);
    assert_non_null(strstr(why, "not answered"));
    atomic_store(&service_hangs, 0);
    pthread_join(thread, NULL);
    is_well(metrics);
    cabe_metrics_close(metrics);
}

static void test_histogram(void **state)
{
    struct cabe_histogram h = {.bounds = &cabe_bounds_request};
    uint64_t sum = 0;

    (void)state;
    assert_float_equal(cabe_histogram_quantile(&h, 0.5), 0, 0);
    cabe_histogram_add(&h, -1, 1); /* a clock that went back counts as nothing, not as a crash */
    cabe_histogram_add(&h, 0, 1);
    cabe_histogram_add(&h, NAN, 1);
    cabe_histogram_add(&h, INFINITY, 1);
    cabe_histogram_add(&h, 1e300, 1);
    cabe_histogram_add(&h, 1e-300, 1);
    cabe_histogram_add(&h, 0.001, 3);
    for (int i = 0; i <= h.bounds->n; i++)
        sum += h.count[i];
    assert_int_equal(sum, 7);
    assert_int_equal(h.n, 7);
    assert_int_equal(h.count[0], 6); /* a bound is in its bucket */
    for (int b = 1; b < cabe_bounds_answer.n; b++)
        assert_true(cabe_bounds_answer.at[b] > cabe_bounds_answer.at[b - 1]);
    for (int b = 1; b < cabe_bounds_first_token.n; b++)
        assert_true(cabe_bounds_first_token.at[b] > cabe_bounds_first_token.at[b - 1]);
}

static void test_limits_and_memory(void **state)
{
    struct cabe_metrics *metrics = open_metrics();
    char name[32];

    (void)state;
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "n%d", i);
        cabe_metrics_request(metrics, CABE_HTTP_GET, name, 200 + i % 40, 0.1);
        cabe_metrics_operation(metrics, name, NULL, 0.01);
        answer(name, CABE_OK, CABE_SERVICE_STOP, 1);
    }
    for (int i = 0; i < 40; i++)
        cabe_metrics_request(metrics, CABE_HTTP_GET, "n1", 300 + i, 0.1);
    assert_true(metrics->n_models <= CABE_METRICS_MODELS_MAX);
    assert_string_equal(metrics->model[metrics->n_models - 1]->name, "other");
    free(get("/metrics", "text/plain"));
    cabe_metrics_close(metrics);
    for (uint64_t n = 1; n < 30; n++) {
        struct cabe_http_exchange x;

        server.metrics = NULL;
        fake_open(&x);
        cabe_memory_fail_at(n);
        if (cabe_metrics_open(&server.metrics, &server, NULL) == CABE_OK) {
            cabe_metrics_request(server.metrics, CABE_HTTP_GET, "/", 200, 0.1);
            cabe_metrics_operation(server.metrics, "load", "", 0.01);
            answer("m", CABE_OK, CABE_SERVICE_STOP, 1);
            cabe_metrics_sample(server.metrics);
            fake_call(&server, cabe_observe_routes, &x, CABE_HTTP_GET, n & 1 ? "/metrics" : "/v1/stats");
        }
        cabe_memory_fail_at(0);
        cabe_metrics_close(server.metrics);
        assert_int_equal(x.n_holds, 0);
        fake_close(&x);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counters_are_what_was_counted), cmocka_unit_test(test_quantiles_and_slow_operations),
        cmocka_unit_test(test_stalls_are_seen),               cmocka_unit_test(test_histogram),
        cmocka_unit_test(test_limits_and_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
