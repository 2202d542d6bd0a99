/*
 * Every network from every format against its reference (tests/golden/README.md): the whole way, from headers over
 * plan, fitted copy and tokenizer to embeddings. Then the same bytes whatever the threads, batch and device.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/memory.h"
#include "task/embed.h"

#define TOLERANCE 2e-5f

struct run { /* how a model is run */
    int n_threads;
    enum cabe_device_kind device;
    uint64_t cap_bytes;
    int64_t batch_tokens;
    int dtype, precision, stream;
};

static struct cabe_error err;

/* Rows of all texts; freed by the caller. */
static float *embed(const char *path, const char *cache, const json_t *texts, enum cabe_prefix prefix,
                    const struct run *run, size_t *width)
{
    struct cabe_session_config config = {.memory_bytes = UINT64_C(1) << 30,
                                         .n_threads = run->n_threads,
                                         .device = run->device,
                                         .device_cap_bytes = run->cap_bytes,
                                         .cache_dir = cache};
    struct cabe_encoder_wishes wishes = {run->dtype, run->precision, run->batch_tokens};
    static struct cabe_plan plan;
    struct cabe_fit_task task;
    struct cabe_session *session;
    struct cabe_encoder *encoder = NULL;
    struct cabe_embed_job job = {0};
    struct cabe_ledger_view view;
    size_t n = json_array_size(texts);
    struct cabe_text *text = calloc(n, sizeof *text);
    float *rows;

    if (cabe_session_open(&session, &config, 0, &err) != CABE_OK ||
        cabe_encoder_find(&encoder, session, path, &wishes, &err) != CABE_OK)
        fail_msg("%s: %s", path, err.text);
    job.session = session;
    job.encoder = encoder;
    cabe_embed_task(&job, &task);
    assert_int_equal(cabe_session_plan(session, &plan, &task, &err), CABE_OK);
    assert_true(plan.fits);
    if (run->stream)
        plan.knobs.value[CABE_KNOB_STREAM] = 100;
    if (cabe_encoder_load(encoder, &plan.knobs, &err) != CABE_OK)
        fail_msg("%s: %s", path, err.text);
    *width = (size_t)cabe_encoder_config(encoder)->width;
    for (size_t i = 0; i < n; i++)
        text[i] = (struct cabe_text){json_string_value(json_array_get(texts, i)),
                                     json_string_length(json_array_get(texts, i))};
    rows = malloc(n * *width * sizeof *rows);
    if (cabe_encoder_encode(encoder, text, n, prefix, rows, NULL, &err) != CABE_OK)
        fail_msg("%s: %s", path, err.text);
    free(text);
    cabe_encoder_close(encoder);
    cabe_ledger_read(session->ledger, &view);
    assert_int_equal(view.device[0].used_bytes, session->process_bytes);
    cabe_session_close(session);
    return rows;
}

static double cosine(const float *a, const float *b, size_t n)
{
    double ab = 0, aa = 0, bb = 0;

    for (size_t i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return aa == 0 && bb == 0 ? 1 : ab / sqrt(aa * bb);
}

static json_t *load_golden(const char *name)
{
    char path[300];
    json_error_t where;
    json_t *golden;

    snprintf(path, sizeof path, "tests/golden/%s", name);
    golden = json_load_file(path, 0, &where);
    if (!golden)
        fail_msg("%s: %s", path, where.text);
    return golden;
}

static enum cabe_prefix prefix_of(const json_t *golden)
{
    const char *prefix = json_string_value(json_object_get(golden, "prefix"));

    return !prefix || !*prefix ? CABE_PREFIX_NONE : strcmp(prefix, "query: ") == 0 ? CABE_PREFIX_QUERY : CABE_PREFIX_PASSAGE;
}

static void compare(const char *model, const json_t *golden, float tolerance, double least_cosine)
{
    const json_t *texts = json_object_get(golden, "texts"), *wanted = json_object_get(golden, "embeddings");
    struct run run = {.n_threads = 2, .dtype = CABE_F32, .precision = CABE_PRECISION_HIGH};
    char path[300];
    size_t width;
    float *rows;

    snprintf(path, sizeof path, "%s/%s", CABE_GOLDEN_MODELS, model);
    rows = embed(path, "", texts, prefix_of(golden), &run, &width);
    assert_int_equal(width, json_array_size(json_array_get(wanted, 0)));
    for (size_t i = 0; i < json_array_size(texts); i++) {
        float row[4096];

        for (size_t k = 0; k < width; k++) {
            row[k] = (float)json_number_value(json_array_get(json_array_get(wanted, i), k));
            if (!(fabsf(rows[i * width + k] - row[k]) <= tolerance))
                fail_msg("%s, text %zu, value %zu: %.7f, wanted %.7f", model, i, k, (double)rows[i * width + k],
                         (double)row[k]);
        }
        if (cosine(rows + i * width, row, width) < least_cosine)
            fail_msg("%s, text %zu: cosine %.7f", model, i, cosine(rows + i * width, row, width));
    }
    free(rows);
}

static void each_model_meets_its_golden_vectors(void **state)
{
    static const char *const files[] = {"bert-mean.json", "bert-mean-48.json", "bert-mean-q8_0.json",
                                        "bert-mean-q4_0.json", "bert-cls.json", "bert-shards.json",
                                        "e5.json", "e5-q4_0.json", "static.json",
                                        "static-int8.json", "static-vocab.json"};

    (void)state;
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
        json_t *golden = load_golden(files[f]);
        const json_t *model;
        size_t i;

        json_array_foreach(json_object_get(golden, "models"), i, model)
        {
            int half = strstr(json_string_value(model), "static-f16") != NULL;
            /* Not normalised values are larger than 1; the bound is relative to them. */
            float scale = json_is_false(json_object_get(golden, "normalize")) ? 4.0f : 1.0f;

            compare(json_string_value(model), golden, half ? 2e-3f : TOLERANCE * scale, half ? 0.9999 : 0.99999);
        }
        json_decref(golden);
    }
}

/* int8 activations and weights keep close to the reference. */
static void int8_stays_near(void **state)
{
    json_t *golden = load_golden("bert-mean.json");
    const json_t *texts = json_object_get(golden, "texts"), *wanted = json_object_get(golden, "embeddings");
    struct run run = {.n_threads = 1, .dtype = CABE_I8, .precision = CABE_PRECISION_INT8};
    double sum = 0;
    size_t width;
    float *rows = embed(CABE_GOLDEN_MODELS "/bert-mean-f32.gguf", "", texts, CABE_PREFIX_NONE, &run, &width);

    (void)state;
    for (size_t i = 0; i < json_array_size(texts); i++) {
        float row[4096];

        for (size_t k = 0; k < width; k++)
            row[k] = (float)json_number_value(json_array_get(json_array_get(wanted, i), k));
        sum += cosine(rows + i * width, row, width);
    }
    assert_true(sum / (double)json_array_size(texts) >= 0.995);
    free(rows);
    json_decref(golden);
}

static void same_bytes_however_it_runs(void **state)
{
    static const struct run runs[] = {
        {.n_threads = 2},
        {.n_threads = 3, .batch_tokens = 64},
        {.n_threads = 1, .batch_tokens = 4096},
        {.n_threads = 2, .stream = 1},
        {.n_threads = 2, .device = CABE_DEVICE_SIM},
        {.n_threads = 1, .device = CABE_DEVICE_SIM, .cap_bytes = 4 << 20, .batch_tokens = 64},
        {.n_threads = 2, .device = CABE_DEVICE_SIM, .stream = 1},
    };
    static const struct {
        const char *model;
        int dtype, precision;
    } models[] = {{"bert-mean-f32.gguf", CABE_F32, CABE_PRECISION_HIGH},
                  {"bert-mean-f32.gguf", CABE_I8, CABE_PRECISION_INT8},
                  {"bert-mean-q4_0.gguf", -1, CABE_PRECISION_INT8},
                  {"bert-mean-q8_0.gguf", -1, CABE_PRECISION_HIGH},
                  {"static-f32", CABE_F32, CABE_PRECISION_HIGH}};
    json_t *golden = load_golden("bert-mean.json");
    const json_t *texts = json_object_get(golden, "texts");

    (void)state;
    for (size_t m = 0; m < sizeof models / sizeof models[0]; m++) {
        struct run first = {.n_threads = 1};
        char path[300];
        size_t width;
        float *wanted;

        snprintf(path, sizeof path, "%s/%s", CABE_GOLDEN_MODELS, models[m].model);
        first.dtype = models[m].dtype;
        first.precision = models[m].precision;
        wanted = embed(path, "", texts, CABE_PREFIX_NONE, &first, &width);
        for (size_t r = 0; r < sizeof runs / sizeof runs[0]; r++) {
            struct run run = runs[r];
            float *rows;

            run.dtype = models[m].dtype;
            run.precision = models[m].precision;
            rows = embed(path, "", texts, CABE_PREFIX_NONE, &run, &width);
            if (memcmp(rows, wanted, json_array_size(texts) * width * sizeof *rows) != 0)
                fail_msg("%s: run %zu gives other bytes", models[m].model, r);
            free(rows);
        }
        for (size_t i = 0; i < json_array_size(texts); i++) { /* alone */
            json_t *one = json_pack("[O]", json_array_get(texts, i));
            float *row = embed(path, "", one, CABE_PREFIX_NONE, &first, &width);

            assert_memory_equal(row, wanted + i * width, width * sizeof *row);
            free(row);
            json_decref(one);
        }
        free(wanted);
    }
    json_decref(golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_model_meets_its_golden_vectors),
        cmocka_unit_test(int8_stays_near),
        cmocka_unit_test(same_bytes_however_it_runs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
