#include "runtime/monitor.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/memory.h"
#include "sanitizer.h"

#define MIB (UINT64_C(1) << 20)

static struct cabe_monitor *open_monitor(const struct cabe_monitor_config *config)
{
    struct cabe_monitor *monitor;

    assert_int_equal(cabe_monitor_open(&monitor, config, NULL), CABE_OK);
    return monitor;
}

/* Resident for `ms`, then gone. */
static void hold(uint64_t bytes, unsigned ms)
{
    void *pages;

    assert_int_equal(cabe_pages_map(&pages, bytes, 1, NULL), CABE_OK);
    usleep(ms * 1000);
    cabe_pages_unmap(pages, bytes);
}

static void assert_near(uint64_t found, uint64_t wanted, uint64_t slack)
{
    if (found + slack < wanted || found > wanted + slack)
        fail_msg("%llu is not within %llu of %llu", (unsigned long long)found, (unsigned long long)slack,
                 (unsigned long long)wanted);
}

static void peaks_are_of_the_phase(void **state)
{
    struct cabe_monitor_config config = {0};
    struct cabe_monitor *monitor = open_monitor(&config);
    struct cabe_phase phases[4];
    void *kept;
    int phase;

    (void)state;
    cabe_monitor_begin(monitor, "high", 0, &phase);
    hold(96 * MIB, 0);
    cabe_monitor_end(monitor, phase);
    cabe_monitor_begin(monitor, "low", 0, &phase);
    hold(24 * MIB, 0);
    cabe_monitor_end(monitor, phase);
    cabe_monitor_begin(monitor, "kept", 0, &phase);
    assert_int_equal(cabe_pages_map(&kept, 32 * MIB, 1, NULL), CABE_OK);
    cabe_monitor_end(monitor, phase);
    cabe_monitor_begin(monitor, "open", 0, &phase);

    assert_int_equal(cabe_monitor_read(monitor, phases, 4), 4);
    assert_string_equal(phases[0].name, "high");
    assert_string_equal(phases[3].name, "open");
    assert_true(phases[3].is_open && !phases[0].is_open);
    if (phases[0].is_sampled) {
        printf("skip: the high-water mark cannot be reset here\n");
    } else {
        assert_near(phases[0].peak_bytes - phases[0].rss_begin_bytes, 96 * MIB, 3 * MIB);
        assert_near(phases[1].peak_bytes - phases[1].rss_begin_bytes, 24 * MIB, 3 * MIB);
    }
    assert_near(phases[0].rss_end_bytes, phases[0].rss_begin_bytes, 3 * MIB);
    assert_near(phases[2].rss_end_bytes - phases[2].rss_begin_bytes, 32 * MIB, 3 * MIB);
    assert_true(cabe_monitor_peak_bytes(monitor) >= phases[0].peak_bytes);
    assert_int_equal(cabe_monitor_read(monitor, phases, 2), 2);
    cabe_pages_unmap(kept, 32 * MIB);
    cabe_monitor_close(monitor);
    cabe_monitor_close(NULL);
}

/* An inner phase neither inherits the outer one's peak nor hides it. */
static void phases_nest(void **state)
{
    struct cabe_monitor_config config = {0};
    struct cabe_monitor *monitor = open_monitor(&config);
    struct cabe_phase phases[2];
    int outer, inner;

    (void)state;
    cabe_monitor_begin(monitor, "outer", 0, &outer);
    hold(80 * MIB, 0);
    cabe_monitor_begin(monitor, "inner", 0, &inner);
    hold(16 * MIB, 0);
    cabe_monitor_end(monitor, inner);
    cabe_monitor_end(monitor, outer);
    assert_int_equal(cabe_monitor_read(monitor, phases, 2), 2);
    assert_string_equal(phases[0].name, "inner");
    if (!phases[0].is_sampled) {
        assert_near(phases[0].peak_bytes - phases[0].rss_begin_bytes, 16 * MIB, 3 * MIB);
        assert_near(phases[1].peak_bytes - phases[1].rss_begin_bytes, 80 * MIB, 3 * MIB);
    }
    cabe_monitor_close(monitor);
}

/* Two monitors, as of two analyses in a server: neither takes the process's mark, or the ledger's, from the other. */
static void monitors_overlap(void **state)
{
    struct cabe_ledger_config ledger_config = {.n_devices = 1, .budget_bytes = {1000 * MIB}};
    struct cabe_monitor_config config = {0};
    struct cabe_monitor *first, *second;
    struct cabe_phase phases[2], seen;
    int outer, inner;

    (void)state;
    assert_int_equal(cabe_ledger_open(&config.ledger, &ledger_config, NULL), CABE_OK);
    first = open_monitor(&config);
    cabe_monitor_begin(first, "first", 0, &outer);
    hold(80 * MIB, 0);
    assert_int_equal(cabe_ledger_reserve(config.ledger, 0, CABE_PURPOSE_KV, 50 * MIB, "kv", NULL), CABE_OK);
    cabe_ledger_release(config.ledger, 0, CABE_PURPOSE_KV, 50 * MIB, "kv");
    second = open_monitor(&config);
    cabe_monitor_begin(second, "second", 0, &inner);
    hold(16 * MIB, 0);
    cabe_monitor_end(second, inner);
    assert_int_equal(cabe_monitor_read(second, &seen, 1), 1);
    cabe_monitor_close(second);
    cabe_monitor_end(first, outer);
    assert_int_equal(cabe_monitor_read(first, phases, 2), 1);
    assert_int_equal(phases[0].device[0].peak_bytes, 50 * MIB);
    assert_int_equal(phases[0].purpose_peak_bytes[CABE_PURPOSE_KV], 50 * MIB);
    assert_int_equal(seen.device[0].peak_bytes, 0);
    if (!phases[0].is_sampled) {
        assert_near(phases[0].peak_bytes - phases[0].rss_begin_bytes, 80 * MIB, 3 * MIB);
        assert_near(seen.peak_bytes - seen.rss_begin_bytes, 16 * MIB, 3 * MIB);
    }
    cabe_monitor_close(first);
    cabe_ledger_close(config.ledger);
}

static void samples_where_marks_do_not_go(void **state)
{
    struct cabe_monitor_config config = {.must_sample = 1};
    struct cabe_monitor *monitor;
    struct cabe_phase phases[2];
    int phase;

    (void)state;
    hold(160 * MIB, 0); /* the process's own mark is above all that follows */
    monitor = open_monitor(&config);
    cabe_monitor_begin(monitor, "sampled", 0, &phase);
    hold(64 * MIB, 200);
    cabe_monitor_end(monitor, phase);
    cabe_monitor_begin(monitor, "above the mark", 0, &phase);
    hold(256 * MIB, 0); /* too short to be sampled for sure, but the mark rises */
    cabe_monitor_end(monitor, phase);
    assert_int_equal(cabe_monitor_read(monitor, phases, 2), 2);
    assert_true(phases[0].is_sampled);
    assert_near(phases[0].peak_bytes - phases[0].rss_begin_bytes, 64 * MIB, 3 * MIB);
    /* On a busy machine a sample may come in time after all; the peak is the same. */
    assert_near(phases[1].peak_bytes - phases[1].rss_begin_bytes, 256 * MIB, 3 * MIB);
    cabe_monitor_close(monitor);
}

static void devices_and_purposes(void **state)
{
    struct cabe_ledger_config ledger_config = {.n_devices = 2, .budget_bytes = {1000 * MIB, 100 * MIB}};
    struct cabe_ledger *ledger;
    struct cabe_monitor_config config = {0};
    struct cabe_monitor *monitor;
    struct cabe_phase phases[3];
    int phase;

    (void)state;
    assert_int_equal(cabe_ledger_open(&ledger, &ledger_config, NULL), CABE_OK);
    config.ledger = ledger;
    monitor = open_monitor(&config);
    cabe_monitor_begin(monitor, "first", 0, &phase);
    assert_int_equal(cabe_ledger_reserve(ledger, 1, CABE_PURPOSE_WEIGHTS, 90 * MIB, "m", NULL), CABE_OK);
    assert_int_equal(cabe_ledger_reserve(ledger, 0, CABE_PURPOSE_STAGING, 10 * MIB, "m", NULL), CABE_OK);
    cabe_ledger_release(ledger, 0, CABE_PURPOSE_STAGING, 10 * MIB, "m");
    cabe_ledger_release(ledger, 1, CABE_PURPOSE_WEIGHTS, 70 * MIB, "m");
    cabe_monitor_end(monitor, phase);
    cabe_monitor_begin(monitor, "second", 0, &phase);
    cabe_monitor_end(monitor, phase);
    assert_int_equal(cabe_monitor_read(monitor, phases, 3), 2);
    assert_int_equal(phases[0].n_devices, 2);
    assert_true(phases[0].device[1].peak_bytes == 90 * MIB);
    assert_true(phases[0].device[1].end_bytes == 20 * MIB);
    assert_true(phases[0].device[0].peak_bytes == 10 * MIB);
    assert_true(phases[0].purpose_peak_bytes[CABE_PURPOSE_STAGING] == 10 * MIB);
    assert_int_equal(phases[0].warnings, 1u << CABE_PHASE_WARNING_DEVICE);
    assert_true(phases[1].device[1].peak_bytes == 20 * MIB);
    assert_true(phases[1].purpose_peak_bytes[CABE_PURPOSE_STAGING] == 0);
    assert_int_equal(phases[1].warnings, 0);
    cabe_monitor_close(monitor);
    cabe_ledger_release(ledger, 1, CABE_PURPOSE_WEIGHTS, 20 * MIB, "m");
    cabe_ledger_close(ledger);
}

static uint64_t three_gib(void *self)
{
    (void)self;
    return 3 * 1024 * MIB;
}

struct sink {
    char *text;
    size_t n;
    FILE *stream;
    struct cabe_log *log;
};

static void open_sink(struct sink *sink, enum cabe_log_form form)
{
    *sink = (struct sink){0};
    sink->stream = open_memstream(&sink->text, &sink->n);
    assert_int_equal(cabe_log_open(&sink->log, sink->stream, form, CABE_LOG_INFO, NULL), CABE_OK);
}

static void close_sink(struct sink *sink)
{
    cabe_log_close(sink->log);
    fclose(sink->stream);
    free(sink->text);
}

static int count(const char *text, const char *word)
{
    int n = 0;

    for (; (text = strstr(text, word)); text++)
        n++;
    return n;
}

static void warnings_and_events(void **state)
{
    struct cabe_monitor_config config = {
        .available = three_gib, .limit_bytes = 10 * MIB, .warn_rss_bytes = MIB, .warn_delta_bytes = 20 * MIB};
    struct cabe_monitor *monitor;
    struct cabe_phase phase;
    struct sink sink;
    json_t *first;
    void *pages;
    int number;

    (void)state;
    open_sink(&sink, CABE_LOG_JSON);
    config.log = sink.log;
    monitor = open_monitor(&config);
    cabe_monitor_begin(monitor, "model load", 5 * MIB, &number);
    assert_int_equal(cabe_pages_map(&pages, 32 * MIB, 1, NULL), CABE_OK);
    cabe_monitor_end(monitor, number);
    cabe_monitor_ready(monitor);
    cabe_pages_unmap(pages, 32 * MIB);
    assert_int_equal(cabe_monitor_read(monitor, &phase, 1), 1);
    assert_int_equal(phase.warnings, 1u << CABE_PHASE_WARNING_RSS | 1u << CABE_PHASE_WARNING_PEAK |
                                         1u << CABE_PHASE_WARNING_DELTA | 1u << CABE_PHASE_WARNING_PREDICTED);
    assert_int_equal(count(sink.text, "\"memory_warning\""), 4);
    assert_non_null(strstr(sink.text, "\"event\":\"memory_usage_after_model_load\""));
    assert_non_null(strstr(sink.text, "\"event\":\"ready\",\"seconds\":"));
    first = json_loads(sink.text, JSON_DISABLE_EOF_CHECK, NULL);
    assert_string_equal(json_string_value(json_object_get(first, "event")), "memory_usage_before_model_load");
    assert_true(json_real_value(json_object_get(first, "available_gb")) == 3.0);
    assert_true(json_real_value(json_object_get(first, "rss_gb")) > 0);
    json_decref(first);
    cabe_monitor_close(monitor);
    close_sink(&sink);
}

static void quiet_when_all_is_well(void **state)
{
    struct cabe_monitor_config config = {.limit_bytes = 64 * 1024 * MIB};
    struct cabe_monitor *monitor;
    struct sink sink;
    int phase;

    (void)state;
    open_sink(&sink, CABE_LOG_HUMAN);
    config.log = sink.log;
    monitor = open_monitor(&config);
    cabe_monitor_begin(monitor, "small", 60 * 1024 * MIB, &phase);
    cabe_monitor_end(monitor, phase);
    assert_null(strstr(sink.text, "warning"));
    assert_non_null(strstr(sink.text, "memory_usage_before_small rss_gb="));
    cabe_monitor_close(monitor);
    close_sink(&sink);
}

static void reports(void **state)
{
    struct cabe_monitor_config config = {.limit_bytes = 64 * 1024 * MIB};
    struct cabe_monitor *monitor = open_monitor(&config);
    json_t *report, *phase;
    char *table;
    int number;

    (void)state;
    cabe_monitor_begin(monitor, "lectura \xC3\xB1", 1024 * MIB, &number);
    cabe_monitor_end(monitor, number);
    cabe_monitor_begin(monitor, "\xFF and\x1b much longer than the room that a name has here", MIB, &number);
    cabe_monitor_end(monitor, number);
    cabe_monitor_begin(monitor, "going", 0, &number);
    table = cabe_monitor_table(monitor);
    assert_non_null(table);
    printf("%s", table);
    assert_int_equal(count(table, "\n"), 5);
    assert_non_null(strstr(table, "? and? much"));
    assert_non_null(strstr(table, "!predicted"));
    assert_non_null(strstr(table, "(running)"));
    cabe_free(table);
    report = cabe_monitor_json(monitor);
    assert_non_null(report);
    assert_int_equal(json_array_size(json_object_get(report, "phases")), 3);
    assert_int_equal(json_integer_value(json_object_get(report, "n_warnings")), 1);
    phase = json_array_get(json_object_get(report, "phases"), 0);
    assert_string_equal(json_string_value(json_object_get(phase, "name")), "lectura \xC3\xB1");
    assert_int_equal(json_integer_value(json_object_get(phase, "predicted_peak_bytes")), 1024 * MIB);
    assert_true(json_integer_value(json_object_get(phase, "peak_bytes")) > 0);
    json_decref(report);
    cabe_monitor_close(monitor);
}

/* More phases than are kept, more open than are measured, ends without a begin. */
static void limits(void **state)
{
    struct cabe_monitor_config config = {.limit_bytes = 64 * 1024 * MIB};
    struct cabe_monitor *monitor = open_monitor(&config);
    static struct cabe_phase phases[CABE_MONITOR_PHASES + CABE_MONITOR_OPEN];
    int numbers[CABE_MONITOR_OPEN + 2];
    json_t *report;

    (void)state;
    for (int i = 0; i < CABE_MONITOR_OPEN + 2; i++) {
        cabe_monitor_begin(monitor, "at once", 0, &numbers[i]);
        assert_int_equal(numbers[i], i < CABE_MONITOR_OPEN ? i : -1);
    }
    for (int i = 0; i < CABE_MONITOR_OPEN + 2; i++)
        cabe_monitor_end(monitor, numbers[i]);
    cabe_monitor_end(monitor, 0);
    cabe_monitor_end(monitor, 999);
    for (int i = 0; i < CABE_MONITOR_PHASES + 5; i++) {
        char name[16];

        snprintf(name, sizeof name, "n%d", i);
        cabe_monitor_begin(monitor, name, 0, &numbers[0]);
        cabe_monitor_end(monitor, numbers[0]);
    }
    assert_int_equal(cabe_monitor_read(monitor, phases, sizeof phases / sizeof phases[0]),
                     CABE_MONITOR_PHASES);
    assert_string_equal(phases[0].name, "n5");
    assert_string_equal(phases[CABE_MONITOR_PHASES - 1].name, "n260");
    report = cabe_monitor_json(monitor);
    assert_int_equal(json_integer_value(json_object_get(report, "n_forgotten")), CABE_MONITOR_OPEN + 5);
    json_decref(report);
    cabe_monitor_close(monitor);
    cabe_monitor_begin(NULL, "none", 0, &numbers[0]);
    assert_int_equal(numbers[0], -1);
    cabe_monitor_end(NULL, 0);
    cabe_monitor_ready(NULL);
}

static void *run_phases(void *arg)
{
    for (int i = 0; i < 200; i++) {
        int phase;

        cabe_monitor_begin(arg, "thread", 0, &phase);
        if (i % 20 == 0)
            cabe_free(cabe_monitor_table(arg));
        cabe_monitor_end(arg, phase);
    }
    return NULL;
}

static void from_many_threads(void **state)
{
    (void)state;
    for (int sampled = 0; sampled < 2; sampled++) {
        struct cabe_monitor_config config = {.must_sample = sampled, .limit_bytes = 64 * 1024 * MIB};
        struct cabe_monitor *monitor = open_monitor(&config);
        pthread_t threads[4];
        json_t *report;

        for (int i = 0; i < 4; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, run_phases, monitor), 0);
        for (int i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
        report = cabe_monitor_json(monitor);
        assert_int_equal(json_integer_value(json_object_get(report, "n_forgotten")),
                         800 - CABE_MONITOR_PHASES);
        json_decref(report);
        cabe_monitor_close(monitor);
    }
}

static void no_memory(void **state)
{
    struct cabe_monitor_config config = {0};
    struct cabe_monitor *monitor;
    struct cabe_error err;
    int phase;

    (void)state;
    cabe_memory_fail_at(1);
    assert_int_equal(cabe_monitor_open(&monitor, &config, &err), CABE_ERR_OOM);
    assert_null(monitor);
    monitor = open_monitor(&config);
    cabe_monitor_begin(monitor, "a\xFF", 5, &phase);
    cabe_monitor_end(monitor, phase);
    cabe_monitor_begin(monitor, "b", 0, &phase);
    json_set_alloc_funcs(cabe_malloc, cabe_free);
    for (uint64_t n = 1;; n++) {
        json_t *report;
        char *table;

        cabe_memory_fail_at(n);
        report = cabe_monitor_json(monitor);
        cabe_memory_fail_at(n);
        table = cabe_monitor_table(monitor);
        cabe_memory_fail_at(0);
        assert_true(n > 2 || !table);
        cabe_free(table);
        if (report) {
            json_decref(report);
            assert_true(n > 10);
            break;
        }
    }
    json_set_alloc_funcs(malloc, free);
    cabe_monitor_close(monitor);
}

int main(void)
{
    const struct CMUnitTest measured[] = {
        cmocka_unit_test(peaks_are_of_the_phase),
        cmocka_unit_test(phases_nest),
        cmocka_unit_test(monitors_overlap),
        cmocka_unit_test(samples_where_marks_do_not_go),
    };
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(devices_and_purposes),
        cmocka_unit_test(warnings_and_events),
        cmocka_unit_test(quiet_when_all_is_well),
        cmocka_unit_test(reports),
        cmocka_unit_test(limits),
        cmocka_unit_test(from_many_threads),
        cmocka_unit_test(no_memory),
    };
    int n_failed = 0;

    if (TEST_SANITIZED)
        printf("a sanitizer's memory is not measured\n");
    else
        n_failed += cmocka_run_group_tests(measured, NULL, NULL);
    return n_failed + cmocka_run_group_tests(tests, NULL, NULL);
}
