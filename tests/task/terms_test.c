/*
 * The ledger against the plan, term by term: while rows are handed out, each purpose on each device holds
 * exactly what the plan's phase says, for every model, dtype, device, and for layers that stream.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fit/fitted.h"
#include "task/embed.h"

struct run {
    const char *model;
    int dtype, precision;
    enum cabe_device_kind device;
    uint64_t cap_bytes;
    int stream, n_threads;
    int64_t batch_tokens;
};

static struct cabe_error err;
static char cache[64];

static void must(enum cabe_status status)
{
    if (status != CABE_OK)
        fail_msg("%s", err.text);
}

struct watch { /* what compares while rows are written, the moment at which everything is held */
    const struct run *run;
    const struct cabe_session *session;
    const struct cabe_plan *plan;
    int is_first, n_looks;
};

static void compare(struct watch *watch)
{
    const struct cabe_plan_phase *phase = cabe_plan_phase_find(watch->plan, "embed");
    struct cabe_ledger_view view;

    assert_non_null(phase);
    cabe_ledger_read(watch->session->ledger, &view);
    for (int d = 0; d < watch->session->n_devices; d++)
        for (int p = 0; p < CABE_N_PURPOSES; p++) {
            uint64_t held = view.device[d].purpose_bytes[p], said = phase->bytes.bytes[d][p];

            /* Before a copy was made the size of its tokenizer is a bound. */
            if (watch->is_first && p == CABE_PURPOSE_CACHES ? held <= said : held == said)
                continue;
            fail_msg("%s, dtype %d, device %d of kind %d, stream %d, %s start: %s holds %llu bytes, planned %llu",
                     watch->run->model, watch->run->dtype, d, (int)watch->run->device, watch->run->stream,
                     watch->is_first ? "first" : "second", cabe_purpose_name((enum cabe_purpose)p),
                     (unsigned long long)held, (unsigned long long)said);
        }
    for (int d = 0; d < watch->session->n_devices; d++)
        assert_true(view.device[d].high_bytes <= cabe_fit_total(&phase->bytes, d));
    watch->n_looks++;
}

static enum cabe_status look(void *self, const struct cabe_text *texts, const float *rows, size_t n,
                             struct cabe_error *error)
{
    (void)texts;
    (void)rows;
    (void)n;
    (void)error;
    compare(self);
    return CABE_OK;
}

static FILE *some_lines(void)
{
    FILE *file = tmpfile();

    assert_non_null(file);
    for (int i = 0; i < 50; i++)
        fprintf(file, "The %d-th of many lines about winter, letters and an engine that hums.\n", i);
    rewind(file);
    return file;
}

/* One session: plan, run, compare, close; the ledger is empty in the end. */
static void one_start(const struct run *run, int is_first)
{
    struct cabe_session_config config = {.memory_bytes = UINT64_C(1) << 30,
                                         .n_threads = run->n_threads,
                                         .device = run->device,
                                         .device_cap_bytes = run->cap_bytes,
                                         .cache_dir = cache};
    struct cabe_encoder_wishes wishes = {run->dtype, run->precision, run->batch_tokens};
    struct cabe_embed_result result;
    struct cabe_embed_job job = {0};
    static struct cabe_plan plan;
    struct watch watch = {.run = run, .plan = &plan, .is_first = is_first};
    struct cabe_embed_sink sink = {look, &watch};
    struct cabe_session *session;
    struct cabe_ledger_view view;
    struct cabe_fit_task task;
    char path[300];
    FILE *file = some_lines();

    snprintf(path, sizeof path, "%s/%s", CABE_GOLDEN_MODELS, run->model);
    must(cabe_session_open(&session, &config, 0, &err));
    must(cabe_encoder_find(&job.encoder, session, path, &wishes, &err));
    must(cabe_session_settle(session, &err));
    job.session = session;
    cabe_embed_task(&job, &task);
    if (run->stream)
        task.preferred.value[CABE_KNOB_STREAM] = run->stream;
    must(cabe_session_plan(session, &plan, &task, &err));
    assert_true(plan.fits);
    assert_int_equal(plan.knobs.value[CABE_KNOB_STREAM], run->stream);
    watch.session = session;
    must(cabe_embed_run(&job, &plan, file, "lines", &sink, &result, &err));
    assert_int_equal(result.n_texts, 50);
    assert_int_equal(watch.n_looks, 1);
    cabe_encoder_close(job.encoder);
    cabe_ledger_read(session->ledger, &view);
    for (int d = 0; d < session->n_devices; d++)
        for (int p = 0; p < CABE_N_PURPOSES; p++)
            assert_int_equal(view.device[d].purpose_bytes[p],
                             d == CABE_HOST && p == CABE_PURPOSE_PROCESS ? session->process_bytes : 0);
    cabe_session_close(session);
    fclose(file);
}

static void both_starts(const struct run *run)
{
    uint64_t freed;

    must(cabe_fitted_remove(cache, NULL, &freed, &err));
    one_start(run, 1);
    one_start(run, 0);
}

static void every_term_of_every_plan(void **state)
{
    static const struct {
        const char *name;
        int dtypes[4], n_dtypes;
    } models[] = {
        {"bert-mean-f32.gguf", {CABE_F32, CABE_F16, CABE_I8, CABE_Q4_0}, 4},
        {"bert-mean-q4_0.gguf", {-1}, 1},
        {"bert-shards", {CABE_F32, CABE_I8}, 2},
        {"e5", {CABE_F16}, 1},
        {"static-f32", {CABE_F32, CABE_I8}, 2},
        {"static-vocab", {CABE_F32}, 1},
    };
    static const struct run ways[] = {
        {.n_threads = 1},
        {.n_threads = 2, .batch_tokens = 2048},
        {.n_threads = 3, .batch_tokens = 64, .stream = 1},
        {.n_threads = 2, .batch_tokens = 64, .stream = 100},
        {.n_threads = 1, .device = CABE_DEVICE_SIM},
        {.n_threads = 2, .device = CABE_DEVICE_SIM, .cap_bytes = 64 << 20, .stream = 1},
        {.n_threads = 2, .device = CABE_DEVICE_SIM, .cap_bytes = 64 << 20, .stream = 100},
    };

    (void)state;
    for (size_t m = 0; m < sizeof models / sizeof models[0]; m++)
        for (int t = 0; t < models[m].n_dtypes; t++)
            for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++) {
                struct run run = ways[w];

                run.model = models[m].name;
                run.dtype = models[m].dtypes[t];
                run.precision = run.dtype == CABE_I8 ? CABE_PRECISION_INT8 : -1;
                both_starts(&run);
            }
}

/* The two places where staging is not a term of its own: making a copy, and upload. */
static void staging_of_a_first_start_is_the_conversion(void **state)
{
    struct cabe_session_config config = {.memory_bytes = UINT64_C(1) << 30, .n_threads = 1, .cache_dir = cache};
    struct cabe_encoder_wishes wishes = {CABE_F32, -1, 0};
    struct cabe_model_choice choice = {CABE_F32, CABE_PRECISION_HIGH};
    struct cabe_session *session;
    struct cabe_encoder *encoder;
    struct cabe_fit_task task;
    static struct cabe_plan plan;
    struct cabe_ledger_view view;
    uint64_t said, freed;

    (void)state;
    must(cabe_fitted_remove(cache, NULL, &freed, &err));
    must(cabe_session_open(&session, &config, 0, &err));
    must(cabe_encoder_find(&encoder, session, CABE_GOLDEN_MODELS "/bert-mean-f32.gguf", &wishes, &err));
    said = cabe_fitted_making_bytes(cabe_encoder_model(encoder), &choice);
    cabe_session_task(session, &task, "test");
    cabe_encoder_plan(encoder, &task);
    must(cabe_session_plan(session, &plan, &task, &err));
    must(cabe_encoder_load(encoder, &plan.knobs, &err));
    cabe_ledger_read(session->ledger, &view);
    assert_int_equal(view.device[CABE_HOST].purpose_high_bytes[CABE_PURPOSE_STAGING], said);
    cabe_encoder_close(encoder);
    cabe_session_close(session);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_term_of_every_plan),
        cmocka_unit_test(staging_of_a_first_start_is_the_conversion),
    };
    uint64_t freed;
    int failed;

    snprintf(cache, sizeof cache, "/tmp/cabe-terms-XXXXXX");
    if (!mkdtemp(cache))
        return 1;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (cabe_fitted_remove(cache, NULL, &freed, NULL) == CABE_OK)
        rmdir(cache);
    return failed;
}
