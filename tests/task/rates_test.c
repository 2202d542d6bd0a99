/* The rates that predicted times are made of: all are measured, kept in the file of limits, and used. No times here. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/memory.h"
#include "fit/seconds.h"
#include "machine/limits.h"
#include "task/rates.h"

static struct cabe_error err;
static struct cabe_machine machine, again;

static int begin(void **state)
{
    const struct cabe_probe_config probe = {.limits = ""};

    (void)state;
    if (cabe_machine_probe(&machine, &probe, &err) != CABE_OK)
        return -1;
    machine.limits.origin = CABE_ORIGIN_MEASURED; /* as if; a file without peaks is not taken */
    machine.limits.peak[machine.limits.n_peaks++] = (struct cabe_peak){"avx2", CABE_ARITH_F32, 1e11, 2e11};
    machine.limits.peak[machine.limits.n_peaks++] = (struct cabe_peak){"avx2", CABE_ARITH_INT8, 2e11, 4e11};
    again = machine;
    return 0;
}

static void every_rate_is_measured_and_kept(void **state)
{
    static const char *const names[] = {
        "read f32 high",    "few f16 high", "ops bf16 high",   "read int8 int8", "ops int8 high", "few q8_0 int8",
        "read q4_0 int8",   "ops q4_1 high", "read q4_K int8", "ops q6_K int8",  "rows",          "draw",
        "attend f16",       "attend_rows q8", "attend f32",    "attend_group q8", "row", "few_narrow q4_0 int8", "ops_narrow f16 high", "file",
        "memory"};
    struct cabe_rates_config config = {.folder = "/tmp", .quick = 1};
    char path[] = "/tmp/cabe-limits-XXXXXX", used[CABE_HOME_PATH_MAX];
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    close(fd);
    if (cabe_rates_measure(&machine, &config, &err) != CABE_OK)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!(cabe_machine_rate(&machine, names[i]) > 0))
            fail_msg("%s is not measured", names[i]);
    assert_true(cabe_machine_rate(&machine, "nothing of the kind") == 0);
    assert_true(machine.limits.n_rates <= CABE_RATES_MAX);
    assert_int_equal(cabe_limits_save(&machine, path, used, &err), CABE_OK);
    assert_true(cabe_limits_load(&again, path));
    assert_int_equal(again.limits.n_rates, machine.limits.n_rates);
    for (int i = 0; i < machine.limits.n_rates; i++)
        assert_true(fabs(cabe_machine_rate(&again, machine.limits.rate[i].name) / machine.limits.rate[i].per_s - 1) < 1e-4);
    unlink(path);
}

static void a_folder_that_is_not_there_leaves_files_out(void **state)
{
    struct cabe_rates_config config = {.folder = "/nowhere/at/all", .quick = 1};

    (void)state;
    assert_int_equal(cabe_rates_measure(&machine, &config, &err), CABE_OK);
    assert_true(cabe_machine_rate(&machine, "disk") == 0 && cabe_machine_rate(&machine, "file") == 0);
    assert_true(cabe_machine_rate(&machine, "rows") > 0);
}

static void measuring_can_be_stopped(void **state)
{
    struct cabe_cancel cancel = {.wanted = 1};
    struct cabe_rates_config config = {.cancel = &cancel, .quick = 1};
    struct cabe_limits before = machine.limits;

    (void)state;
    assert_int_equal(cabe_rates_measure(&machine, &config, &err), CABE_ERR_CANCELLED);
    assert_memory_equal(&machine.limits, &before, sizeof before);
}

static void every_allocation_may_fail(void **state)
{
    struct cabe_rates_config config = {.quick = 1};
    uint64_t before = cabe_memory_count(), n;

    (void)state;
    assert_int_equal(cabe_rates_measure(&machine, &config, &err), CABE_OK);
    n = cabe_memory_count() - before;
    for (uint64_t i = 0; i < n; i += 1 + n / 60) {
        enum cabe_status status;

        cabe_memory_fail_at(i + 1);
        status = cabe_rates_measure(&machine, &config, &err);
        cabe_memory_fail_at(0);
        if (status != CABE_OK && status != CABE_ERR_OOM)
            fail_msg("allocation %llu: %s", (unsigned long long)i, err.text);
    }
}

/* Made-up rates: what is one, a few and many rows, and what lies between. */
static void time_follows_the_rates(void **state)
{
    struct cabe_machine m;
    struct cabe_graph_work work;
    static const struct {
        double rows, seconds;
    } cases[] = {{1, 1}, {4.5, 1.5}, {8, 2}, {36, 5}, {64, 8}, {128, 16}};

    (void)state;
    memset(&m, 0, sizeof m);
    m.limits.n_threads = 2;
    m.limits.read_one_bytes_s = m.limits.read_all_bytes_s = 1e12;
    m.limits.one_ops_s[CABE_ARITH_F32] = m.limits.all_ops_s[CABE_ARITH_F32] = 1e15;
    m.limits.rate[m.limits.n_rates++] = (struct cabe_work_rate){"read f16 high", 2e9};
    m.limits.rate[m.limits.n_rates++] = (struct cabe_work_rate){"few f16 high", 8e9};
    m.limits.rate[m.limits.n_rates++] = (struct cabe_work_rate){"ops f16 high", 16e9};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        memset(&work, 0, sizeof work);
        work.matmul_values[CABE_F16][CABE_PRECISION_HIGH] = 1e9;
        work.matmul_bytes[CABE_F16][CABE_PRECISION_HIGH] = 2e9;
        work.matmul_ops[CABE_F16][CABE_PRECISION_HIGH] = 2e9 * cases[i].rows;
        assert_true(fabs(cabe_fit_seconds(&m, 2, &work) - cases[i].seconds) < 1e-3);
    }
    /* On a machine that reads half as fast, or gives half of its CPUs' time, what that bounds takes twice as long. */
    work.matmul_ops[CABE_F16][CABE_PRECISION_HIGH] = 2e9;
    assert_true(fabs(cabe_fit_seconds_at(&m, 2, &work, (struct cabe_tempo){.5, 1}) - 2) < 1e-3);
    work.matmul_ops[CABE_F16][CABE_PRECISION_HIGH] = 2e9 * 128;
    assert_true(fabs(cabe_fit_seconds_at(&m, 2, &work, (struct cabe_tempo){1, .5}) - 32) < 1e-3);
    /* Streamed: not known; out of the page cache both; from disk reading, or computing where that is longer. */
    work.weight_bytes = 2e9;
    work.stream_bytes = 1e9;
    work.n_streamed = 10;
    assert_true(cabe_fit_seconds(&m, 2, &work) == 0);
    m.limits.rate[m.limits.n_rates++] = (struct cabe_work_rate){"file", 1e7};
    assert_true(fabs(cabe_fit_seconds(&m, 2, &work) - (100 + 16)) < 1e-3);
    work.stream_direct = 1; /* that is another rate */
    assert_true(cabe_fit_seconds(&m, 2, &work) == 0);
    m.limits.rate[m.limits.n_rates++] = (struct cabe_work_rate){"disk", 1e7};
    assert_true(fabs(cabe_fit_seconds(&m, 2, &work) - (100 + 0.8)) < 1e-3);
    m.limits.rate[m.limits.n_rates - 1].per_s = 1e12;
    assert_true(fabs(cabe_fit_seconds(&m, 2, &work) - 16) < 1e-3);
}

/* More of anything never takes less time, whatever the rates are: they are measured, and so not in order. */
static void more_work_takes_longer(void **state)
{
    static const char *const names[] = {"read q4_K int8", "few q4_K int8",  "ops q4_K int8", "attend f16", "attend_group f16",
                                        "attend_rows f16", "row", "rows", "nodes", "draw", "few_narrow q4_K int8",
                                        "ops_narrow q4_K int8"};
    uint32_t seed = 7;

    (void)state;
    for (int turn = 0; turn < 200; turn++) {
        const double heads = 1 + turn % 5, group = 1 + turn % 11;
        double by_rows = 0, by_context = 0;
        struct cabe_machine m;

        memset(&m, 0, sizeof m);
        m.limits.n_threads = 4;
        m.limits.read_one_bytes_s = m.limits.read_all_bytes_s = 3e10;
        m.limits.one_ops_s[CABE_ARITH_F32] = m.limits.all_ops_s[CABE_ARITH_F32] = 1e11;
        m.limits.one_ops_s[CABE_ARITH_INT8] = m.limits.all_ops_s[CABE_ARITH_INT8] = 3e11;
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            seed = seed * 1664525u + 1013904223u;
            if (seed >> 29) { /* one in eight was not measured */
                snprintf(m.limits.rate[m.limits.n_rates].name, sizeof m.limits.rate[0].name, "%s", names[i]);
                m.limits.rate[m.limits.n_rates++].per_s = 1e9 * (1 + (seed >> 8) % 100);
            }
        }
        for (int n = 1; n < 700; n++) {
            struct cabe_graph_work prompt = {.rows = n, .other_ops = 1e6 * n, .n_nodes = 100};
            struct cabe_graph_work token = {.rows = 1, .other_ops = 1e6, .n_nodes = 100};
            double seconds;

            prompt.matmul_values[CABE_Q4_K][1] = 1e8;
            prompt.matmul_bytes[CABE_Q4_K][1] = 6e7;
            prompt.matmul_ops[CABE_Q4_K][1] = 2e8 * n;
            prompt.matmul_outputs[CABE_Q4_K][1] = 1e8 / (256 << turn % 5);
            prompt.attention_ops[n > 1] = 256 * heads * group * n * (n + 1) / 2;
            prompt.kv_values = 128 * heads * n;
            prompt.kv_format = token.kv_format = CABE_KV_F16;
            seconds = cabe_fit_seconds(&m, 1 + turn % 4, &prompt);
            if (n > 2) /* attention of one row has a rate of its own */
                assert_true(seconds >= by_rows);
            by_rows = seconds;
            token.attention_heads = heads;
            token.attention_slots = 16 * n;
            token.attention_ops[0] = 256 * heads * group * token.attention_slots;
            token.kv_values = 128 * heads * token.attention_slots;
            token.kv_bytes = 2 * token.kv_values;
            seconds = cabe_fit_seconds(&m, 1 + turn % 4, &token);
            assert_true(seconds >= by_context * (1 - 1e-12));
            by_context = seconds;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rate_is_measured_and_kept), cmocka_unit_test(a_folder_that_is_not_there_leaves_files_out),
        cmocka_unit_test(measuring_can_be_stopped), cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(time_follows_the_rates), cmocka_unit_test(more_work_takes_longer)};

    return cmocka_run_group_tests(tests, begin, NULL);
}
