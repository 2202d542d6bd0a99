/* How much of a prompt goes beside answers, on machines that are made up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "runtime/engine_chunk.h"

struct machine {
    double alone_s, token_s;  /* a step with no prompt; a token beside, at the beginning of a prompt */
    double attention;         /* how much dearer it is behind 32,768 others */
    int free_tokens;          /* that cost nothing beside the rest: weights are read once */
    int tile;                 /* tokens are paid for in so many */
    double noise;
    double prompt_rate; /* tokens a second of the prompt that are wanted */
};

static double uniform(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (double)(*seed >> 8) / (1 << 24);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* A prompt of 32 K joins four that generate: the steps' 95th percentile beside the one without it. */
static void a_long_prompt_holds_nobody_up(void **state)
{
    static const struct machine machines[] = {
        {.alone_s = 0.005, .token_s = 0.0005, .attention = 1, .tile = 1, .prompt_rate = 400},
        {.alone_s = 0.100, .token_s = 0.0100, .attention = 3, .tile = 2, .prompt_rate = 8},
        {.alone_s = 0.020, .token_s = 0.0005, .attention = 8, .free_tokens = 6, .tile = 6, .prompt_rate = 200},
        {.alone_s = 0.005, .token_s = 0.0002, .attention = 20, .tile = 1, .noise = 0.2, .prompt_rate = 100},
        {.alone_s = 0.010, .token_s = 0.0001, .attention = 2, .tile = 8, .noise = 0.1, .prompt_rate = 1000},
    };
    static double step_s[40000];

    (void)state;
    for (size_t m = 0; m < sizeof machines / sizeof machines[0]; m++) {
        const struct machine *machine = &machines[m];
        struct cabe_chunk chunk = {0};
        unsigned seed = 5;
        int64_t done = 0, n_steps = 0;
        double whole_s = 0;

        while (done < 32768 && n_steps < 40000) {
            int64_t n = cabe_chunk_limit(&chunk, 4, 512, 1.75);
            int64_t paid = n <= machine->free_tokens ? 0 : (n + machine->tile - 1) / machine->tile * machine->tile;
            double price = machine->token_s * (1 + machine->attention * (double)done / 32768), seconds;

            seconds = (machine->alone_s + (double)paid * price) * (1 + machine->noise * uniform(&seed));
            cabe_chunk_learn(&chunk, 4, n, seconds);
            step_s[n_steps++] = seconds;
            whole_s += seconds;
            done += n;
        }
        assert_true(done >= 32768);
        qsort(step_s, (size_t)n_steps, sizeof *step_s, by_value);
        printf("step %.0f ms, token %.1f ms: 95th percentile %.2f of it, %.0f tokens/s of the prompt in %d steps\n",
               machine->alone_s * 1e3, machine->token_s * 1e3, step_s[n_steps * 95 / 100] / machine->alone_s,
               32768 / whole_s, (int)n_steps);
        assert_true(step_s[n_steps * 95 / 100] <= 2.0 * machine->alone_s * (1 + machine->noise / 2));
        assert_true(32768 / whole_s > machine->prompt_rate); /* and the prompt gets on */
    }
}

/* One step that took very long (the machine did something else) changes little, many do. */
static void an_outlier_is_no_news(void **state)
{
    struct cabe_chunk chunk = {0};
    int64_t before, after;

    (void)state;
    for (int i = 0; i < 50; i++) {
        int64_t n = cabe_chunk_limit(&chunk, 1, 512, 2);

        cabe_chunk_learn(&chunk, 1, n, 0.01 + 0.0005 * (double)n);
    }
    before = cabe_chunk_limit(&chunk, 1, 512, 2);
    assert_true(before >= 12 && before <= 21);
    cabe_chunk_learn(&chunk, 1, before, 60);
    after = cabe_chunk_limit(&chunk, 1, 512, 2);
    assert_true(after >= before / 2);
    for (int i = 0; i < 200; i++) {
        int64_t n = cabe_chunk_limit(&chunk, 1, 512, 2);

        cabe_chunk_learn(&chunk, 1, n, 0.01 + 0.002 * (double)n);
    }
    after = cabe_chunk_limit(&chunk, 1, 512, 2);
    assert_true(after >= 3 && after <= 6);
}

static void limits(void **state)
{
    struct cabe_chunk chunk = {0};

    (void)state;
    assert_int_equal(cabe_chunk_limit(&chunk, 1, 512, 1.75), 0); /* nothing is known: first a step without */
    cabe_chunk_learn(&chunk, 1, 0, 0.01);
    assert_int_equal(cabe_chunk_limit(&chunk, 1, 3, 1.75), 3);
    for (int i = 0; i < 9; i++)
        cabe_chunk_learn(&chunk, 1, cabe_chunk_limit(&chunk, 1, 512, 1.75), 1);
    assert_int_equal(cabe_chunk_limit(&chunk, 1, 512, 1.75), 1); /* never none for long */
    assert_int_equal(cabe_chunk_limit(&chunk, 1, 512, 0.5), 1);
    assert_int_equal(cabe_chunk_limit(&chunk, 1, 0, 1.75), 0);
    assert_int_equal(cabe_chunk_limit(&chunk, 1000, 512, 1.75), 0);
    cabe_chunk_learn(&chunk, 1000, 0, 0.1);
    assert_true(cabe_chunk_limit(&chunk, 999, 512, 1.75) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_long_prompt_holds_nobody_up),
                                       cmocka_unit_test(an_outlier_is_no_news), cmocka_unit_test(limits)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
