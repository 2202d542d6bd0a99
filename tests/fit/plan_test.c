/* The planner alone, over made-up components whose bytes are plain functions of the knobs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fit/plan.h"

#define MIB (UINT64_C(1) << 20)

static struct cabe_error err;
static struct cabe_plan plan;

/* 40 MiB in f32, 10 in int8; 5 MiB of staging while it loads. */
static enum cabe_status measure_weights(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *resident,
                                        struct cabe_fit_bytes *loading, struct cabe_error *e)
{
    (void)self;
    (void)e;
    resident->bytes[CABE_HOST][CABE_PURPOSE_WEIGHTS] = knobs->value[CABE_KNOB_DTYPE] == CABE_F32 ? 40 * MIB : 10 * MIB;
    loading->bytes[CABE_HOST][CABE_PURPOSE_STAGING] = 5 * MIB;
    return CABE_OK;
}

/* A KiB a token, and 3 MiB kept from then on. */
static enum cabe_status measure_first(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *working,
                                      struct cabe_fit_bytes *kept, struct cabe_graph_work *work, struct cabe_error *e)
{
    (void)self;
    (void)e;
    working->bytes[CABE_HOST][CABE_PURPOSE_ACTIVATIONS] = (uint64_t)knobs->value[CABE_KNOB_BATCH] << 10;
    kept->bytes[CABE_HOST][CABE_PURPOSE_INDEX] = 3 * MIB;
    work->matmul_ops[CABE_F32][CABE_PRECISION_HIGH] = 1e9;
    return CABE_OK;
}

static enum cabe_status measure_second(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *working,
                                       struct cabe_fit_bytes *kept, struct cabe_graph_work *work, struct cabe_error *e)
{
    (void)self;
    (void)knobs;
    (void)kept;
    (void)work;
    (void)e;
    working->bytes[CABE_HOST][CABE_PURPOSE_INDEX] = 20 * MIB;
    return CABE_OK;
}

static enum cabe_status measure_broken(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *working,
                                       struct cabe_fit_bytes *kept, struct cabe_graph_work *work, struct cabe_error *e)
{
    (void)self;
    (void)knobs;
    (void)working;
    (void)kept;
    (void)work;
    return cabe_fail(e, CABE_ERR_FORMAT, "a bad header");
}

static struct cabe_fit_task make_task(void)
{
    struct cabe_fit_task task;

    memset(&task, 0, sizeof task);
    task.name = "made up";
    task.component[0] = (struct cabe_fit_component){"weights", NULL, measure_weights};
    task.n_components = 1;
    task.stage[0] = (struct cabe_fit_stage){"first", 1, NULL, measure_first};
    task.stage[1] = (struct cabe_fit_stage){"second", 0, NULL, measure_second};
    task.n_stages = 2;
    task.always.bytes[CABE_HOST][CABE_PURPOSE_PROCESS] = 2 * MIB;
    task.preferred.value[CABE_KNOB_BATCH] = 8192;
    task.preferred.value[CABE_KNOB_DTYPE] = CABE_F32;
    task.step[0] = (struct cabe_fit_step){CABE_KNOB_BATCH, 4096, "smaller"};
    task.step[1] = (struct cabe_fit_step){CABE_KNOB_BATCH, 1024, "smallest"};
    task.step[2] = (struct cabe_fit_step){CABE_KNOB_CHUNK, 7, "changes nothing"};
    task.step[3] = (struct cabe_fit_step){CABE_KNOB_DTYPE, CABE_I8, "less exact"};
    task.n_steps = 4;
    return task;
}

static void make(const struct cabe_fit_task *task, uint64_t budget)
{
    assert_int_equal(cabe_plan_make(&plan, task, &budget, 1, NULL, 1, &err), CABE_OK);
}

static uint64_t peak_of(const char *phase)
{
    const struct cabe_plan_phase *found = cabe_plan_phase_find(&plan, phase);

    assert_non_null(found);
    return cabe_fit_total(&found->bytes, CABE_HOST);
}

static void sums_every_phase(void **state)
{
    struct cabe_fit_task task = make_task();

    (void)state;
    make(&task, 1024 * MIB);
    assert_true(plan.fits);
    assert_int_equal(plan.n_rungs, 1);
    assert_int_equal(plan.n_phases, 3);
    assert_int_equal(peak_of("weights_load"), 47 * MIB); /* process, weights, staging */
    assert_int_equal(peak_of("first"), 53 * MIB);        /* process, weights, 8 working, 3 kept */
    assert_int_equal(peak_of("second"), 25 * MIB);       /* process, 3 kept, 20 working; the weights are gone */
    assert_int_equal(plan.peak_bytes[CABE_HOST], 53 * MIB);
    assert_int_equal(cabe_plan_refuse(&plan, &err), CABE_OK);
}

static void walks_only_as_far_as_it_must(void **state)
{
    struct cabe_fit_task task = make_task();

    (void)state;
    make(&task, 53 * MIB);
    assert_int_equal(plan.n_rungs, 1);
    make(&task, 53 * MIB - 1);
    assert_true(plan.fits);
    assert_int_equal(plan.n_rungs, 2);
    assert_int_equal(plan.knobs.value[CABE_KNOB_BATCH], 4096);
    assert_int_equal(plan.knobs.value[CABE_KNOB_DTYPE], CABE_F32);
    /* At 47 MiB only the dtype helps: the load itself is the peak with the smallest batch. */
    make(&task, 47 * MIB - 1);
    assert_true(plan.fits);
    assert_int_equal(plan.knobs.value[CABE_KNOB_DTYPE], CABE_I8);
    assert_int_equal(plan.knobs.value[CABE_KNOB_CHUNK], 0);
    assert_int_equal(plan.rung[3].verdict, CABE_RUNG_NO_GAIN);
    assert_int_equal(plan.rung[plan.n_rungs - 1].verdict, CABE_RUNG_FITS);
}

static void refuses_with_numbers(void **state)
{
    struct cabe_fit_task task = make_task();

    (void)state;
    make(&task, 20 * MIB);
    assert_false(plan.fits);
    assert_int_equal(plan.peak_bytes[CABE_HOST], 25 * MIB);
    assert_int_equal(plan.missing_bytes, 5 * MIB);
    assert_int_equal(plan.smallest_budget_bytes, 25 * MIB);
    assert_non_null(strstr(plan.smallest_change, "--memory 25600K"));
    assert_int_equal(cabe_plan_refuse(&plan, &err), CABE_ERR_BUDGET);
    assert_int_equal(err.missing_bytes, 5 * MIB);
    assert_non_null(strstr(err.text, "5242880"));
    make(&task, plan.smallest_budget_bytes);
    assert_true(plan.fits); /* the change it names is enough */
}

static void keeps_what_a_person_fixed(void **state)
{
    struct cabe_fit_task task = make_task();

    (void)state;
    task.pinned = 1u << CABE_KNOB_DTYPE;
    make(&task, 30 * MIB);
    assert_false(plan.fits);
    assert_int_equal(plan.knobs.value[CABE_KNOB_DTYPE], CABE_F32);
    assert_int_equal(plan.rung[plan.n_rungs - 1].verdict, CABE_RUNG_PINNED);
    assert_non_null(strstr(plan.smallest_change, "dtype int8"));
}

static void is_a_pure_function(void **state)
{
    struct cabe_fit_task task = make_task();
    json_t *first, *second;

    (void)state;
    make(&task, 30 * MIB);
    first = cabe_plan_json(&plan);
    make(&task, 30 * MIB);
    second = cabe_plan_json(&plan);
    assert_non_null(first);
    assert_true(json_equal(first, second));
    assert_true(json_is_true(json_object_get(first, "fits")));
    json_decref(first);
    json_decref(second);
}

static void two_devices_have_two_budgets(void **state)
{
    struct cabe_fit_task task = make_task();
    uint64_t budgets[2] = {1024 * MIB, MIB};

    (void)state;
    task.always.bytes[1][CABE_PURPOSE_WEIGHTS] = 3 * MIB;
    assert_int_equal(cabe_plan_make(&plan, &task, budgets, 2, NULL, 1, &err), CABE_OK);
    assert_false(plan.fits);
    assert_int_equal(plan.worst_device, 1);
    assert_int_equal(plan.missing_bytes, 2 * MIB);
}

static void sums_saturate(void **state)
{
    struct cabe_fit_task task = make_task();

    (void)state;
    task.always.bytes[CABE_HOST][CABE_PURPOSE_DOCUMENTS] = UINT64_MAX - 1;
    make(&task, 1024 * MIB);
    assert_false(plan.fits);
    assert_int_equal(plan.peak_bytes[CABE_HOST], UINT64_MAX);
}

/* 40 MiB in 10 segments; streamed ones share room for two. A MiB of working set a token of the batch. */
static enum cabe_status measure_segments(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *resident,
                                         struct cabe_fit_bytes *loading, struct cabe_error *e)
{
    uint64_t streamed = (uint64_t)knobs->value[CABE_KNOB_STREAM];

    (void)self;
    (void)loading;
    (void)e;
    resident->bytes[CABE_HOST][CABE_PURPOSE_WEIGHTS] = (10 - streamed) * 4 * MIB;
    resident->bytes[CABE_HOST][CABE_PURPOSE_STAGING] = (streamed < 2 ? streamed : 2) * 4 * MIB;
    resident->bytes[CABE_HOST][CABE_PURPOSE_ACTIVATIONS] = (uint64_t)knobs->value[CABE_KNOB_BATCH] * MIB;
    resident->bytes[CABE_HOST][CABE_PURPOSE_KV] = (uint64_t)knobs->value[CABE_KNOB_CONTEXT] * MIB;
    return CABE_OK;
}

static enum cabe_status measure_nothing(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *working,
                                        struct cabe_fit_bytes *kept, struct cabe_graph_work *work, struct cabe_error *e)
{
    (void)self;
    (void)knobs;
    (void)working;
    (void)kept;
    (void)work;
    (void)e;
    return CABE_OK;
}

static void streams_as_few_segments_as_it_must(void **state)
{
    static const struct {
        uint64_t budget_mib;
        int64_t streamed, batch, context;
    } cases[] = {
        {60, 0, 16, 4}, {56, 0, 8, 4},  {46, 0, 2, 4}, {44, 0, 2, 2}, /* as before */
        {43, 6, 16, 2}, {40, 7, 16, 4}, {30, 9, 16, 2}, {26, 10, 16, 2}, {25, 9, 8, 4}, {12, 10, 2, 2},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cabe_fit_task task;

        memset(&task, 0, sizeof task);
        task.name = "streams";
        task.component[0] = (struct cabe_fit_component){"net", NULL, measure_segments};
        task.n_components = 1;
        task.stage[0] = (struct cabe_fit_stage){"run", 1, NULL, measure_nothing};
        task.n_stages = 1;
        task.preferred.value[CABE_KNOB_BATCH] = 16;
        task.preferred.value[CABE_KNOB_CONTEXT] = 4;
        task.step[0] = (struct cabe_fit_step){CABE_KNOB_BATCH, 8, "smaller"};
        task.step[1] = (struct cabe_fit_step){CABE_KNOB_BATCH, 2, "smallest"};
        task.step[2] = (struct cabe_fit_step){CABE_KNOB_CONTEXT, 2, "shorter"};
        task.step[3] = (struct cabe_fit_step){CABE_KNOB_STREAM, 10, "slower"};
        task.n_steps = 4;
        task.n_segments = 10;
        task.searched = 1u << CABE_KNOB_STREAM;
        task.dear = 1u << CABE_KNOB_BATCH;
        make(&task, cases[i].budget_mib * MIB);
        if (!plan.fits || plan.knobs.value[CABE_KNOB_STREAM] != cases[i].streamed ||
            plan.knobs.value[CABE_KNOB_BATCH] != cases[i].batch ||
            plan.knobs.value[CABE_KNOB_CONTEXT] != cases[i].context)
            fail_msg("%llu MiB: fits %d, %lld streamed, batch %lld, context %lld",
                     (unsigned long long)cases[i].budget_mib, plan.fits, (long long)plan.knobs.value[CABE_KNOB_STREAM],
                     (long long)plan.knobs.value[CABE_KNOB_BATCH], (long long)plan.knobs.value[CABE_KNOB_CONTEXT]);
        assert_true(plan.peak_bytes[CABE_HOST] <= cases[i].budget_mib * MIB);
    }
}

static void an_error_names_its_stage(void **state)
{
    struct cabe_fit_task task = make_task();
    uint64_t budget = MIB;

    (void)state;
    task.stage[1].measure = measure_broken;
    assert_int_equal(cabe_plan_make(&plan, &task, &budget, 1, NULL, 1, &err), CABE_ERR_FORMAT);
    assert_string_equal(err.text, "second: a bad header");
}

static void time_comes_from_the_machine(void **state)
{
    struct cabe_fit_task task = make_task();
    struct cabe_machine machine;
    uint64_t budget = 1024 * MIB;

    (void)state;
    assert_int_equal(cabe_machine_describe(&machine, "2 cores, 4 GB, 100 GFLOP/s, 10 GB/s", &err), CABE_OK);
    assert_int_equal(cabe_plan_make(&plan, &task, &budget, 1, &machine, 2, &err), CABE_OK);
    assert_true(cabe_plan_phase_find(&plan, "first")->seconds > 0.005);
    assert_true(cabe_plan_phase_find(&plan, "first")->seconds < 0.05);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_every_phase),
        cmocka_unit_test(walks_only_as_far_as_it_must),
        cmocka_unit_test(refuses_with_numbers),
        cmocka_unit_test(keeps_what_a_person_fixed),
        cmocka_unit_test(is_a_pure_function),
        cmocka_unit_test(two_devices_have_two_budgets),
        cmocka_unit_test(sums_saturate),
        cmocka_unit_test(streams_as_few_segments_as_it_must),
        cmocka_unit_test(an_error_names_its_stage),
        cmocka_unit_test(time_comes_from_the_machine),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
