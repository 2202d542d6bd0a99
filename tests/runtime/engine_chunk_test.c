/* How much of a prompt goes beside answers, on machines that are made up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "runtime/engine_chunk.h"

#define N_STEPS 600000

struct machine {
    double alone_s, token_s;  /* a step with no prompt; a token beside, at the beginning of a prompt */
    double attention;         /* how much dearer it is behind 32,768 others */
    double read;              /* the cache of 32,768 tokens is read once a step, in tokens */
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

static const struct cabe_chunk_depth shallow;

static double step_of(const struct machine *machine, int64_t n, int64_t depth, unsigned *seed)
{
    int64_t paid = n <= machine->free_tokens ? 0 : (n + machine->tile - 1) / machine->tile * machine->tile;
    double deep = (double)depth / 32768, seconds = machine->alone_s;

    if (n > 0)
        seconds += machine->token_s * ((double)paid * (1 + machine->attention * deep) + machine->read * deep);
    return seconds * (1 + machine->noise * uniform(seed));
}

/* What a piece may take, beside what is not known beforehand. */
static double longest(const struct machine *machine)
{
    double steps = CABE_CHUNK_LONG_STEPS * machine->alone_s;

    return machine->alone_s + 1.5 * (steps > CABE_CHUNK_PIECE_S ? steps : CABE_CHUNK_PIECE_S) * (1 + machine->noise);
}

static int64_t limit_of(struct cabe_chunk *chunk, int64_t done)
{
    struct cabe_chunk_depth depth = {(double)done, (double)done};

    return cabe_chunk_limit(chunk, 4, &depth, 512, 1.75);
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
        /* one token is too much for a step: a small model, measured */
        {.alone_s = 0.0044, .token_s = 0.0014, .attention = 14, .read = 25, .tile = 1, .noise = 0.3, .prompt_rate = 15},
        {.alone_s = 0.040, .token_s = 0.004, .attention = 2, .read = 12, .tile = 1, .noise = 0.1, .prompt_rate = 15},
    };
    static double step_s[N_STEPS];

    (void)state;
    for (size_t m = 0; m < sizeof machines / sizeof machines[0]; m++) {
        const struct machine *machine = &machines[m];
        struct cabe_chunk chunk = {0};
        unsigned seed = 5;
        int64_t done = 0, n_steps = 0;
        double whole_s = 0;

        while (done < 32768 && n_steps < N_STEPS) {
            int64_t n = limit_of(&chunk, done);
            struct cabe_chunk_depth depth = {(double)done + (double)n / 2, (double)done};
            double seconds = step_of(machine, n, done, &seed);

            cabe_chunk_learn(&chunk, 4, n, &depth, seconds);
            step_s[n_steps++] = seconds;
            whole_s += seconds;
            done += n;
        }
        assert_true(done >= 32768);
        qsort(step_s, (size_t)n_steps, sizeof *step_s, by_value);
        printf("step %.0f ms, token %.1f ms: 95th percentile %.2f of it, longest %.2f, %.0f tokens/s of the prompt in %d steps\n",
               machine->alone_s * 1e3, machine->token_s * 1e3, step_s[n_steps * 95 / 100] / machine->alone_s,
               step_s[n_steps - 1] / machine->alone_s, 32768 / whole_s, (int)n_steps);
        assert_true(step_s[n_steps - 1] <= longest(machine));
        assert_true(step_s[n_steps * 95 / 100] <= 2.0 * machine->alone_s * (1 + machine->noise / 2));
        assert_true(32768 / whole_s > machine->prompt_rate); /* and the prompt gets on */
    }
}

static void learn_line(struct cabe_chunk *chunk, int64_t n, double seconds)
{
    cabe_chunk_learn(chunk, 1, n, &shallow, seconds);
}

/* One step that took very long (the machine did something else) changes little, many do. */
static void an_outlier_is_no_news(void **state)
{
    struct cabe_chunk chunk = {0};
    int64_t before, after;

    (void)state;
    for (int i = 0; i < 50; i++) {
        int64_t n = cabe_chunk_limit(&chunk, 1, &shallow, 512, 2);

        learn_line(&chunk, n, 0.01 + 0.0005 * (double)n);
    }
    before = cabe_chunk_limit(&chunk, 1, &shallow, 512, 2);
    assert_true(before >= 12 && before <= 21);
    learn_line(&chunk, before, 60);
    after = cabe_chunk_limit(&chunk, 1, &shallow, 512, 2);
    assert_true(after >= before / 2);
    for (int i = 0; i < 200; i++) {
        int64_t n = cabe_chunk_limit(&chunk, 1, &shallow, 512, 2);

        learn_line(&chunk, n, 0.01 + 0.002 * (double)n);
    }
    after = cabe_chunk_limit(&chunk, 1, &shallow, 512, 2);
    assert_true(after >= 3 && after <= 6);
}

static void limits(void **state)
{
    struct cabe_chunk chunk = {0};

    (void)state;
    assert_int_equal(cabe_chunk_limit(&chunk, 1, &shallow, 512, 1.75), 0); /* nothing is known: first a step without */
    learn_line(&chunk, 0, 0.01);
    assert_int_equal(cabe_chunk_limit(&chunk, 1, &shallow, 3, 1.75), 3);
    assert_int_equal(cabe_chunk_limit(&chunk, 1, &shallow, 512, 0.5), 3);
    assert_int_equal(cabe_chunk_limit(&chunk, 1, &shallow, 0, 1.75), 0);
    assert_int_equal(cabe_chunk_limit(&chunk, 1000, &shallow, 512, 1.75), 0);
    cabe_chunk_learn(&chunk, 1000, 0, &shallow, 0.1);
    assert_true(cabe_chunk_limit(&chunk, 999, &shallow, 512, 1.75) > 0);
}

/* A single token is too long for a step: one step in so many has some all the same, the others none. */
static void pieces_are_spaced(void **state)
{
    struct cabe_chunk chunk = {0};
    int since = 0, longest_wait = 0, n_pieces = 0;

    (void)state;
    for (int i = 0; i < 2000; i++) {
        int64_t n = cabe_chunk_limit(&chunk, 1, &shallow, 512, 1.75);

        learn_line(&chunk, n, 0.004 + 0.02 * (double)n);
        since = n > 0 ? 0 : since + 1;
        n_pieces += n > 0 && i >= 200;
        longest_wait = since > longest_wait ? since : longest_wait;
        if (i >= 200)
            assert_true(n == 0 || (chunk.is_spaced && n >= 2 && n <= 5)); /* 0.1 s, or a share of 32 steps */
    }
    assert_true(longest_wait < CABE_CHUNK_SPACED);
    assert_int_equal(n_pieces, 1800 / CABE_CHUNK_SPACED);
}

/* The first of a prompt beside others is as large as what is known of prompts alone allows, not larger. */
static void the_first_fits(void **state)
{
    struct cabe_chunk chunk = {0};
    struct cabe_chunk_depth deep = {8192, 8192};
    int64_t first, n;

    (void)state;
    for (int i = 0; i < 64; i++) {
        struct cabe_chunk_depth depth = {(double)(i * 128 + 64), (double)(i * 128)};

        n = cabe_chunk_tokens(&chunk, 0.1, &depth, 128);
        cabe_chunk_learn(&chunk, 0, n, &depth, (double)n * 0.001 * (1 + depth.mean / 4096));
    }
    n = cabe_chunk_tokens(&chunk, 0.1, &shallow, 512);
    assert_true(n >= 70 && n <= 140);
    n = cabe_chunk_tokens(&chunk, 0.1, &deep, 512);
    assert_true(n >= 20 && n <= 45);
    assert_int_equal(cabe_chunk_tokens(&chunk, 0.1, &deep, 3), 3);
    learn_line(&chunk, 0, 0.02);
    first = cabe_chunk_limit(&chunk, 1, &shallow, 512, 2);
    assert_true(first >= 14 && first <= 28); /* 20 ms of 1 ms each */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_long_prompt_holds_nobody_up),
                                       cmocka_unit_test(an_outlier_is_no_news), cmocka_unit_test(limits),
                                       cmocka_unit_test(pieces_are_spaced), cmocka_unit_test(the_first_fits)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
