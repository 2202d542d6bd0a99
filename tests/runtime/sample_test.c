#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/clock.h"
#include "base/memory.h"
#include "runtime/logits.h"
#include "runtime/sample.h"
#include "sanitizer.h"

#define N_BIG 49152
#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static float big[N_BIG];
static unsigned seed = 11;

static float uniform_float(void)
{
    return (float)rand_r(&seed) / (float)RAND_MAX;
}

static struct cabe_sampler *open_sampler(int32_t n)
{
    struct cabe_sampler *sampler;
    struct cabe_error err;

    assert_int_equal(cabe_sampler_open(&sampler, n, &err), CABE_OK);
    return sampler;
}

static int32_t sample_at(struct cabe_sampler *sampler, const struct cabe_sampling *params, const float *z,
                         int32_t n, uint64_t position, struct cabe_sampled *out)
{
    struct cabe_error err = {.text = ""};

    if (cabe_sample(sampler, params, z, n, NULL, 0, 5, position, out, &err) != CABE_OK)
        fail_msg("%s", err.text);
    return out->token;
}

/* The known answers of the Random123 distribution (kat_vectors, philox4x32 10). */
static void test_philox(void **state)
{
    (void)state;
    assert_true(cabe_sample_uniform(0, 0, 0) == (double)(0xe169c58d6627e8d5u >> 11) * 0x1p-53);
    assert_true(cabe_sample_uniform(UINT64_MAX, UINT64_MAX, UINT64_MAX) ==
                (double)(0x41c83b0e408f276du >> 11) * 0x1p-53);
    assert_true(cabe_sample_uniform(0x299f31d0a4093822u, 0x0370734413198a2eu, 0x85a308d3243f6a88u) ==
                (double)(0x94fdccebd16cfe09u >> 11) * 0x1p-53);
}

static double number(const json_t *object, const char *name)
{
    return json_number_value(json_object_get(object, name));
}

static size_t read_params(const json_t *p, struct cabe_sampling *params, struct cabe_logit_bias *bias)
{
    json_t *pair;
    size_t i;

    cabe_sampling_defaults(params);
    params->temperature = (float)number(p, "temperature");
    params->top_k = (int32_t)number(p, "top_k");
    params->top_p = (float)number(p, "top_p");
    params->min_p = (float)number(p, "min_p");
    params->repetition_penalty = (float)number(p, "repetition_penalty");
    params->frequency_penalty = (float)number(p, "frequency_penalty");
    params->presence_penalty = (float)number(p, "presence_penalty");
    params->penalty_last_n = (int32_t)number(p, "penalty_last_n");
    params->seed = (uint64_t)json_integer_value(json_object_get(p, "seed"));
    params->n_logprobs = 5;
    json_array_foreach(json_object_get(p, "bias"), i, pair)
    {
        const json_t *value = json_array_get(pair, 1);

        bias[i].token = (int32_t)json_integer_value(json_array_get(pair, 0));
        bias[i].bias = json_is_null(value) ? -INFINITY : (float)json_number_value(value);
    }
    params->bias = bias;
    return params->n_bias = i;
}

/* Every draw is one that may be, as often as its probability says: chi-square with cells of at least 5. */
static void check_frequencies(const uint32_t *seen, const json_t *ids, const json_t *probabilities,
                              unsigned n_draws)
{
    double chi = 0, rest_p = 0, rest = 0, cells = 0, total = 0;

    for (size_t i = 0; i < json_array_size(ids); i++) {
        double p = json_number_value(json_array_get(probabilities, i)) * n_draws;
        double count = seen[json_integer_value(json_array_get(ids, i))];

        total += count;
        if (p < 5) {
            rest_p += p;
            rest += count;
            continue;
        }
        chi += (count - p) * (count - p) / p;
        cells++;
    }
    if (rest_p >= 5) {
        chi += (rest - rest_p) * (rest - rest_p) / rest_p;
        cells++;
    }
    assert_true(total == n_draws);
    /* Five standard deviations above the mean of chi-square with cells - 1 degrees. */
    assert_true(chi <= cells - 1 + 5 * sqrt(2 * fmax(cells - 1, 0)) + 1e-6);
}

static void check_case(const json_t *object)
{
    const json_t *ids = json_object_get(object, "ids"), *top = json_object_get(object, "top"), *list, *pair;
    struct cabe_logit_bias bias[4];
    struct cabe_sampling params;
    struct cabe_sampled out = {0};
    struct cabe_sampler *sampler;
    struct cabe_error err = {.text = ""};
    float z[256];
    int32_t history[32], n, n_history;
    uint32_t seen[256] = {0};
    size_t i;

    read_params(json_object_get(object, "params"), &params, bias);
    list = json_object_get(object, "logits");
    n = (int32_t)json_array_size(list);
    for (i = 0; i < (size_t)n; i++)
        z[i] = (float)json_number_value(json_array_get(list, i));
    list = json_object_get(object, "history");
    n_history = (int32_t)json_array_size(list);
    for (i = 0; i < (size_t)n_history; i++)
        history[i] = (int32_t)json_integer_value(json_array_get(list, i));
    assert_int_equal(cabe_sampling_check(&params, n, &err), CABE_OK);
    sampler = open_sampler(n);
    json_array_foreach(json_object_get(object, "draws"), i, pair)
    {
        uint64_t position = (uint64_t)json_integer_value(json_array_get(pair, 0));

        assert_int_equal(
            cabe_sample(sampler, &params, z, n, history, (size_t)n_history, 5, position, &out, &err),
            CABE_OK);
        assert_int_equal(out.token, json_integer_value(json_array_get(pair, 1)));
        assert_int_equal(out.n_kept, json_array_size(ids));
        assert_int_equal(out.n_top, json_array_size(top));
        for (size_t k = 0; k < (size_t)out.n_top; k++) {
            const json_t *wanted = json_array_get(top, k);

            assert_int_equal(out.top[k].token, json_integer_value(json_array_get(wanted, 0)));
            assert_true(fabs((double)out.top[k].logprob - json_number_value(json_array_get(wanted, 1))) <
                        2e-6);
            if (out.top[k].token == out.token)
                assert_true(out.top[k].logprob == out.logprob);
        }
    }
    params.n_logprobs = -1;
    for (uint64_t k = 0; k < 4000; k++) {
        assert_int_equal(
            cabe_sample(sampler, &params, z, n, history, (size_t)n_history, k, k / 3, &out, &err), CABE_OK);
        seen[out.token]++;
    }
    check_frequencies(seen, ids, json_object_get(object, "probabilities"), 4000);
    cabe_sampler_close(sampler);
}

static void test_golden(void **state)
{
    json_error_t error;
    json_t *cases = json_load_file("tests/golden/sampling.json", 0, &error), *object;
    size_t i;

    (void)state;
    if (!cases)
        fail_msg("sampling.json:%d: %s", error.line, error.text);
    json_array_foreach(cases, i, object) check_case(object);
    assert_int_equal(i, 24);
    json_decref(cases);
}

static int descending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? 1 : x > y ? -1 : 0;
}

/* Rows that a selection may find hard: normal, equal, rising, falling, few values, mostly -infinity. */
static void fill(float *z, int32_t n, int kind)
{
    for (int32_t i = 0; i < n; i++) {
        float normal = -6.0f;

        for (int k = 0; k < 12; k++)
            normal += uniform_float();
        z[i] = kind == 0   ? normal * 3
               : kind == 1 ? 1.5f
               : kind == 2 ? (float)i * 1e-3f
               : kind == 3 ? (float)-i * 1e-3f
               : kind == 4 ? (float)(rand_r(&seed) >> 8 & 3)
                           : (i % 97 == 5 ? normal : -INFINITY);
    }
}

static void test_candidates(void **state)
{
    static const int32_t sizes[] = {1, 2, 31, 63, 64, 65, 128, 1000, 5000};
    static uint64_t keys[5000], wanted[5000];
    static float block_max[5000 / CABE_LOGITS_BLOCK + 1];

    (void)state;
    for (size_t s = 0; s < COUNT(sizes); s++)
        for (int kind = 0; kind < 6; kind++) {
            int32_t n = sizes[s];
            struct cabe_logits row = {.z = big, .n = n, .block_max = block_max};
            size_t n_all;

            fill(big, n, kind);
            assert_int_equal(cabe_logits_scan(&row), -1);
            for (int32_t i = 0; i < n; i++)
                assert_true(big[i] <= row.max && (big[i] < row.max || i >= row.best));
            n_all = cabe_candidates_from(&row, -INFINITY, wanted);
            qsort(wanted, n_all, sizeof wanted[0], descending);
            for (size_t i = 0; i < n_all; i++) {
                assert_true(cabe_candidate_logit(wanted[i]) == big[cabe_candidate_id(wanted[i])]);
                assert_true(i == 0 || wanted[i] < wanted[i - 1]);
            }
            for (size_t k = 1; k <= (size_t)n; k = k * 3 / 2 + 1) {
                size_t got = cabe_candidates_top(&row, k, keys);

                assert_int_equal(got, k < n_all ? k : n_all);
                if (got)
                    assert_true(keys[got - 1] == wanted[got - 1]);
                qsort(keys, got, sizeof keys[0], descending);
                assert_memory_equal(keys, wanted, got * sizeof keys[0]);
            }
            for (float p = 0.05f; n_all && p < 1; p += 0.1f) {
                struct cabe_weigh weigh = {row.max, 0.7f};
                double mass = cabe_candidates_mass(wanted, n_all, weigh), sum = 0;
                size_t got, least = 0;

                while (least < n_all && sum < (double)p * mass)
                    sum += cabe_candidates_mass(wanted + least++, 1, weigh);
                memcpy(keys, wanted, n_all * sizeof keys[0]);
                for (size_t i = n_all; i > 1; i--) {
                    size_t j = (size_t)rand_r(&seed) % i;
                    uint64_t held = keys[j];

                    keys[j] = keys[i - 1];
                    keys[i - 1] = held;
                }
                got = cabe_candidates_prefix(keys, n_all, weigh, (double)p * mass, 0);
                assert_true(got + 1 >= least && got <= least + 1); /* sums in another order */
                qsort(keys, got, sizeof keys[0], descending);
                assert_memory_equal(keys, wanted, got * sizeof keys[0]);
            }
        }
}

static void test_mass(void **state)
{
    float block_max[1000 / CABE_LOGITS_BLOCK + 1];
    struct cabe_logits row = {.z = big, .n = 1000, .block_max = block_max};

    (void)state;
    for (int kind = 0; kind < 6; kind++) {
        double sum = 0;

        fill(big, row.n, kind);
        big[3] = -1e30f;
        assert_int_equal(cabe_logits_scan(&row), -1);
        for (int32_t i = 0; i < row.n; i++)
            sum += exp((double)big[i] - (double)row.max);
        assert_true(fabs(cabe_logits_mass(&row) - sum) <= 1e-6 * sum);
    }
}

/* Looking among the highest first finds the same ones as looking among all. */
static void test_best(void **state)
{
    static uint64_t keys[5000], wanted[5000];
    static float block_max[5000 / CABE_LOGITS_BLOCK + 1];
    static const int32_t sizes[] = {1, 63, 64, 65, 1500};

    (void)state;
    for (size_t s = 0; s < COUNT(sizes); s++)
        for (int kind = 0; kind < 6; kind++)
            for (float depth = 2; depth < 90; depth *= 3) {
                struct cabe_logits row = {.z = big, .n = sizes[s], .block_max = block_max};
                struct cabe_weigh weigh = {0, 0.8f};
                float floor;
                double mass;
                size_t n_all, n;
                int32_t n_mass;

                fill(big, row.n, kind);
                big[0] = kind == 5 ? 2.0f : big[0];
                assert_int_equal(cabe_logits_scan(&row), -1);
                weigh.max = row.max;
                floor = row.max - depth;
                n_all = cabe_candidates_from(&row, floor, wanted);
                mass = cabe_logits_mass_from(&row, floor, weigh, &n_mass);
                assert_int_equal(n_mass, n_all);
                assert_true(fabs(mass - cabe_candidates_mass(wanted, n_all, weigh)) <= 1e-6 * mass);
                qsort(wanted, n_all, sizeof wanted[0], descending);
                for (float p = 0; p < 1; p += 0.07f) {
                    size_t least = 1;

                    while (least < n_all &&
                           cabe_candidates_mass(wanted, least, weigh) <= (double)p * mass)
                        least++;
                    n = cabe_candidates_best(&row, floor, weigh, (double)p * mass, 1, keys);
                    assert_true(n + 1 >= least && n <= least + 1); /* sums in another order */
                    assert_true(keys[n - 1] == wanted[n - 1]);
                    qsort(keys, n, sizeof keys[0], descending);
                    assert_memory_equal(keys, wanted, n * sizeof keys[0]);
                }
            }
}

/* A draw depends on seed, sequence and position: not on what was drawn before, nor on an unused parameter. */
static void test_place_decides(void **state)
{
    struct cabe_sampler *one = open_sampler(300), *two = open_sampler(1000);
    struct cabe_sampling params;
    struct cabe_sampled out;
    struct cabe_error err;
    int32_t forward[100], differ = 0;

    (void)state;
    fill(big, 300, 0);
    cabe_sampling_defaults(&params);
    params.temperature = 3;
    for (uint64_t i = 0; i < 100; i++)
        forward[i] = sample_at(one, &params, big, 300, i, &out);
    for (uint64_t i = 100; i-- > 0;) {
        params.n_logprobs = (int32_t)(i % 4);
        assert_int_equal(sample_at(two, &params, big, 300, i, &out), forward[i]);
        assert_int_equal(cabe_sample(two, &params, big, 300, NULL, 0, 6, i, &out, &err), CABE_OK);
        differ += out.token != forward[i];
    }
    assert_true(differ > 50);
    cabe_sampler_close(one);
    cabe_sampler_close(two);
}

static void test_edges(void **state)
{
    static const float nan_row[] = {0, 1, NAN, 2}, inf_row[] = {0, INFINITY, 1, 2},
                       none[] = {-INFINITY, -INFINITY}, zeros[] = {-3, -0.0f, 0.0f, -0.0f};
    struct cabe_sampler *sampler = open_sampler(100);
    struct cabe_sampling params;
    struct cabe_sampled out;
    struct cabe_error err;
    float z[100];

    (void)state;
    cabe_sampling_defaults(&params);
    for (int greedy = 0; greedy < 2; greedy++) {
        params.temperature = greedy ? 0.0f : 1.0f;
        for (params.n_logprobs = -1; params.n_logprobs < 2; params.n_logprobs++) {
            assert_int_equal(cabe_sample(sampler, &params, nan_row, 4, NULL, 0, 0, 0, &out, &err),
                             CABE_ERR_INTERNAL);
            assert_string_equal(err.text, "logit 2 of 4 is not a number");
            assert_int_equal(cabe_sample(sampler, &params, inf_row, 4, NULL, 0, 0, 0, &out, &err),
                             CABE_ERR_INTERNAL);
            assert_string_equal(err.text, "logit 1 of 4 is infinite");
            assert_int_equal(cabe_sample(sampler, &params, none, 2, NULL, 0, 0, 0, &out, &err),
                             CABE_ERR_ARGUMENT);
            assert_int_equal(cabe_sample(sampler, &params, none, 101, NULL, 0, 0, 0, &out, &err),
                             CABE_ERR_ARGUMENT);
        }
    }
    for (int32_t n = 1; n <= 100; n++) /* a NaN is found wherever it is, in whole blocks and tails */
        for (int32_t i = 0; i < n; i++) {
            for (int32_t k = 0; k < n; k++)
                z[k] = k == i ? NAN : 1;
            assert_int_equal(cabe_sample(sampler, &params, z, n, NULL, 0, 0, 0, &out, &err),
                             CABE_ERR_INTERNAL);
        }
    params.temperature = 0;
    params.n_logprobs = -1;
    assert_int_equal(sample_at(sampler, &params, zeros, 4, 0, &out), 1);
    assert_true(isnan(out.logprob));
    params.temperature = 1e-38f; /* as good as greedy, and no NaN on the way */
    params.top_k = 0;
    params.top_p = 1;
    params.min_p = 0;
    fill(z, 100, 0);
    z[41] = 100;
    for (uint64_t i = 0; i < 50; i++)
        assert_int_equal(sample_at(sampler, &params, z, 100, i, &out), 41);
    params.temperature = 100;
    z[41] = 3e38f;
    z[40] = -3e38f;
    assert_int_equal(sample_at(sampler, &params, z, 100, 3, &out), 41);
    cabe_sampler_close(sampler);
}

static void refused(const struct cabe_sampling *params, const char *wanted)
{
    struct cabe_error err;

    assert_int_equal(cabe_sampling_check(params, 10, &err), CABE_ERR_ARGUMENT);
    if (!strstr(err.text, wanted))
        fail_msg("\"%s\" is not in \"%s\"", wanted, err.text);
}

static void test_check(void **state)
{
    struct cabe_logit_bias bias[] = {{9, -INFINITY}, {0, 5}};
    struct cabe_sampling good, bad;
    struct cabe_error err;

    (void)state;
    cabe_sampling_defaults(&good);
    good.bias = bias;
    good.n_bias = 2;
    assert_int_equal(cabe_sampling_check(&good, 10, &err), CABE_OK);
#define REFUSED(change, wanted)                                                                              \
    do {                                                                                                     \
        bad = good;                                                                                          \
        bad.change;                                                                                          \
        refused(&bad, wanted);                                                                               \
    } while (0)
    REFUSED(temperature = -0.1f, "temperature: -0.1, wanted 0 to 100");
    REFUSED(temperature = NAN, "temperature: ");
    REFUSED(top_k = -1, "top_k: -1");
    REFUSED(top_p = 1.5f, "top_p: 1.5");
    REFUSED(min_p = -1, "min_p: -1");
    REFUSED(repetition_penalty = 0, "repetition_penalty: 0");
    REFUSED(frequency_penalty = INFINITY, "frequency_penalty: inf");
    REFUSED(presence_penalty = NAN, "presence_penalty: ");
    REFUSED(penalty_last_n = -2, "penalty_last_n: -2");
    REFUSED(n_logprobs = 21, "n_logprobs: 21");
    REFUSED(n_bias = CABE_SAMPLE_BIAS_MAX + 1, "logit_bias: 1025 tokens");
    bias[0].token = 10;
    refused(&good, "logit_bias: token 10 of 10");
    bias[0] = (struct cabe_logit_bias){3, NAN};
    refused(&good, "for token 3");
}

static void test_memory(void **state)
{
    struct cabe_arena arena = {NULL, 0, 0};
    struct cabe_sampling params;
    struct cabe_sampler *sampler;
    struct cabe_sampled out;
    struct cabe_error err;
    int32_t history[200];
    uint64_t before;

    (void)state;
    assert_null(cabe_sampler_place(&arena, N_BIG));
    assert_true(arena.used_bytes < 13 * N_BIG);
    assert_true(cabe_sampler_measure(N_BIG) == cabe_pages_round(arena.used_bytes));
    assert_int_equal(cabe_sampler_open(&sampler, 0, &err), CABE_ERR_ARGUMENT);
    assert_null(sampler);
    cabe_sampler_close(NULL);
    sampler = open_sampler(N_BIG);
    fill(big, N_BIG, 0);
    cabe_sampling_defaults(&params);
    params.repetition_penalty = 1.1f;
    params.penalty_last_n = -1;
    params.n_logprobs = 20;
    for (int i = 0; i < 200; i++)
        history[i] = i - 2; /* ids out of range are passed over */
    before = cabe_memory_count();
    assert_int_equal(cabe_sample(sampler, &params, big, N_BIG, history, 200, 0, 0, &out, &err), CABE_OK);
    params.top_k = 0;
    assert_int_equal(cabe_sample(sampler, &params, big, N_BIG, history, 200, 0, 0, &out, &err), CABE_OK);
    assert_true(cabe_memory_count() == before);
    cabe_sampler_close(sampler);
}

/* Prints what a draw takes; nothing is asserted about time. */
static void test_time(void **state)
{
    static const struct {
        const char *name;
        float temperature;
        int32_t top_k;
        float top_p, min_p;
        int32_t n_logprobs;
    } kinds[] = {
        {"greedy", 0, 0, 1, 0, -1},
        {"greedy, 5 logprobs", 0, 0, 1, 0, 5},
        {"default", 0.8f, 40, 0.95f, 0.05f, -1},
        {"top-k 40", 0.8f, 40, 1, 0, -1},
        {"top-p 0.95", 0.8f, 0, 0.95f, 0, -1},
        {"plain", 1, 0, 1, 0, -1},
    };
    struct cabe_sampler *sampler = open_sampler(N_BIG);
    struct cabe_sampling params;
    struct cabe_sampled out;

    (void)state;
    for (int shape = 0; shape < 3; shape += 2) {
        fill(big, N_BIG, shape);
        for (size_t i = 0; i < COUNT(kinds) && !TEST_SANITIZED; i++) {
            uint64_t best = UINT64_MAX;

            cabe_sampling_defaults(&params);
            params.temperature = kinds[i].temperature;
            params.top_k = kinds[i].top_k;
            params.top_p = kinds[i].top_p;
            params.min_p = kinds[i].min_p;
            params.n_logprobs = kinds[i].n_logprobs;
            for (uint64_t k = 0; k < 20; k++) {
                uint64_t begin = cabe_clock_ns(), took;

                sample_at(sampler, &params, big, N_BIG, k, &out);
                took = cabe_clock_ns() - begin;
                best = took < best ? took : best;
            }
            printf("%-7s %-20s %7.1f us, %d kept\n", shape ? "rising" : "normal", kinds[i].name,
                   (double)best / 1e3, out.n_kept);
        }
    }
    cabe_sampler_close(sampler);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox),        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_candidates),    cmocka_unit_test(test_mass),
        cmocka_unit_test(test_edges),         cmocka_unit_test(test_check),
        cmocka_unit_test(test_place_decides), cmocka_unit_test(test_memory),
        cmocka_unit_test(test_time),          cmocka_unit_test(test_best),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
