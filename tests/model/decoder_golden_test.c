/* Logits of tiny decoders of every family beside those of transformers; see tests/golden/README.md. */
#include <math.h>

#include "decoder_run.h"

#define N_IDS 40
#define VOCABULARY 96

static const struct cabe_model_choice f32 = {CABE_F32, CABE_PRECISION_HIGH};

struct golden {
    json_t *json;
    int32_t ids[N_IDS];
};

static void read_golden(struct golden *golden, const char *name)
{
    json_error_t error;
    char path[200];

    snprintf(path, sizeof path, "tests/golden/decoder-%s.json", name);
    golden->json = json_load_file(path, 0, &error);
    if (!golden->json)
        fail_msg("%s: %s", path, error.text);
    assert_int_equal(json_array_size(json_object_get(golden->json, "ids")), N_IDS);
    for (size_t i = 0; i < N_IDS; i++)
        golden->ids[i] = (int32_t)json_integer_value(json_array_get(json_object_get(golden->json, "ids"), i));
}

/* The largest difference, relative to the largest logit of the row. */
static double difference(const struct golden *golden, const float *logits)
{
    const json_t *position;
    double worst = 0;
    size_t p;

    json_array_foreach(json_object_get(golden->json, "positions"), p, position) {
        const json_t *row = json_array_get(json_object_get(golden->json, "logits"), p);
        double largest = 0, apart = 0;

        for (size_t i = 0; i < VOCABULARY; i++) {
            double want = json_number_value(json_array_get(row, i));
            double found = (double)logits[(size_t)json_integer_value(position) * VOCABULARY + i];

            largest = fmax(largest, fabs(want));
            apart = fmax(apart, fabs(want - found));
        }
        assert_true(largest > 0.1);
        worst = fmax(worst, apart / largest);
    }
    return worst;
}

static void run_in(struct decoder_run *run, const struct golden *golden, const int *chunks, float *logits)
{
    int32_t done = 0;

    run->n_past = 0;
    for (; done < N_IDS; done += *chunks++)
        decoder_step(run, golden->ids + done, *chunks, logits + (size_t)done * VOCABULARY);
    assert_int_equal(done, N_IDS);
}

static void check_family(const char *name)
{
    static const int whole[] = {40}, parts[] = {1, 15, 16, 7, 1}, odd[] = {17, 3, 20};
    static float logits[N_IDS * VOCABULARY], again[N_IDS * VOCABULARY];
    struct golden golden;
    const json_t *file;
    size_t i;

    read_golden(&golden, name);
    json_array_foreach(json_object_get(golden.json, "models"), i, file) {
        struct decoder_run run;
        char path[300];
        double apart;

        snprintf(path, sizeof path, "%s/%s", CABE_GOLDEN_MODELS, json_string_value(file));
        decoder_open(&run, path, &f32);
        assert_int_equal(cabe_model_config(run.model)->kind, CABE_MODEL_DECODER);
        run_in(&run, &golden, whole, logits);
        apart = difference(&golden, logits);
        if (!(apart <= json_number_value(json_object_get(golden.json, "tolerance"))))
            fail_msg("%s: logits differ by %g of the largest", json_string_value(file), apart);
        run_in(&run, &golden, parts, again);
        assert_memory_equal(logits, again, sizeof logits);
        run_in(&run, &golden, odd, again);
        assert_memory_equal(logits, again, sizeof logits);
        decoder_close(&run);
    }
    json_decref(golden.json);
}

#define FAMILY(name)                     \
    static void name(void **state)       \
    {                                    \
        (void)state;                     \
        check_family(#name);             \
    }
FAMILY(llama2)
FAMILY(llama3)
FAMILY(mistral)
FAMILY(qwen2)
FAMILY(qwen3)
FAMILY(mixed)

/* Neither heads nor widths are whole vectors of any level. */
static void small_heads(void **state)
{
    (void)state;
    check_family("llama-4");
    check_family("qwen3-12");
    check_family("mistral-20");
}

static void mixed_and_tied(void **state)
{
    (void)state;
    check_family("mixed-tied");
}

static void mixed_with_five_bits(void **state)
{
    (void)state;
    check_family("mixed-fives");
}

/* Activations of eight bits, as quantised models run by default: near, and the same in any chunks. */
static void int8_activations_are_near(void **state)
{
    static const struct {
        const char *golden, *file;
        enum cabe_dtype dtype;
        double tolerance;
    } cases[] = {
        {"mixed", "mixed.gguf", CABE_F16, 0.05},  {"mixed-tied", "mixed-tied.gguf", CABE_F16, 0.05},
        {"llama3", "llama3", CABE_I8, 0.15},      {"qwen2", "qwen2-f32.gguf", CABE_I8, 0.15},
        {"qwen3", "qwen3", CABE_I8, 0.15},        {"llama2", "llama2.bin", CABE_Q8_0, 0.05},
        {"llama3", "llama3", CABE_Q4_0, 0.5},     {"llama2", "llama2", CABE_Q4_0, 0.5},
        {"llama-4", "llama-4", CABE_I8, 0.15},    {"qwen3-12", "qwen3-12-f32.gguf", CABE_I8, 0.15},
        {"llama-4", "llama-4.bin", CABE_Q8_0, 0.05}, {"mistral-20", "mistral-20", CABE_Q4_0, 0.5},
    };
    static const int whole[] = {40}, parts[] = {1, 15, 16, 7, 1};
    static float logits[N_IDS * VOCABULARY], again[N_IDS * VOCABULARY];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct cabe_model_choice choice = {cases[i].dtype, CABE_PRECISION_INT8};
        struct decoder_run run;
        struct golden golden;
        char path[300];
        double apart;

        read_golden(&golden, cases[i].golden);
        snprintf(path, sizeof path, "%s/%s", CABE_GOLDEN_MODELS, cases[i].file);
        decoder_open(&run, path, &choice);
        run_in(&run, &golden, whole, logits);
        apart = difference(&golden, logits);
        if (!(apart <= cases[i].tolerance))
            fail_msg("%s: logits differ by %g of the largest", cases[i].file, apart);
        run_in(&run, &golden, parts, again);
        assert_memory_equal(logits, again, sizeof logits);
        decoder_close(&run);
        json_decref(golden.json);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama2),         cmocka_unit_test(llama3),
        cmocka_unit_test(mistral),        cmocka_unit_test(qwen2),
        cmocka_unit_test(qwen3),          cmocka_unit_test(mixed),
        cmocka_unit_test(mixed_and_tied), cmocka_unit_test(mixed_with_five_bits),
        cmocka_unit_test(small_heads),    cmocka_unit_test(int8_activations_are_near),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
