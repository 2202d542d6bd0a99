/*
 * Random graphs compute the same bytes when values share memory, nodes work in place and rows go through
 * groups of nodes a few at a time, as when every value has bytes of its own and one thread walks.
 */
#include "fixture.h"

#include "random_graph.h"

#define T 90
#define S 7
static const int64_t bounds[CABE_N_SYMBOLS] = {1, T, S};

struct outcome {
    int n;
    char name[128][64];
    float *data[128];
    uint64_t bytes[128];
};

static void run(struct outcome *out, enum cabe_dtype dtype, enum cabe_precision precision, int all_out,
                enum kind kind, enum place place, int n_threads, uint64_t seed)
{
    int64_t symbols[CABE_N_SYMBOLS] = {1, 1, 1};
    int32_t ids[T], offsets[S + 1];
    struct cabe_event *event;
    struct cabe_graph *g;
    struct machine m;
    struct store store;
    struct loaded l;

    random_state = seed;
    g = random_graph(dtype, precision, all_out);
    random_state = seed;
    symbols[CABE_SYM_TOKENS] = 1 + random_below(T);
    symbols[CABE_SYM_SEQUENCES] = 1 + random_below(S);
    for (int t = 0; t < T; t++)
        ids[t] = (int32_t)random_below(10);
    for (int64_t s = 0; s <= symbols[CABE_SYM_SEQUENCES]; s++)
        offsets[s] = (int32_t)(s * symbols[CABE_SYM_TOKENS] / symbols[CABE_SYM_SEQUENCES]);
    machine_open(&m, kind, n_threads, 0);
    store_open(&store, g, m.kernels, seed);
    OK(load(&l, &m, g, &store, place, bounds, &why));
    OK(cabe_program_upload(l.program, cabe_graph_find(g, "ids"), ids, (uint64_t)symbols[CABE_SYM_TOKENS] * 4,
                           &why));
    OK(cabe_program_upload(l.program, cabe_graph_find(g, "offsets"), offsets,
                           (uint64_t)symbols[CABE_SYM_SEQUENCES] * 4 + 4, &why));
    OK(cabe_program_submit(l.program, symbols, NULL, &event, &why));
    OK(cabe_event_wait(event, &why));
    out->n = 0;
    for (cabe_value v = 0; v < cabe_graph_n_values(g); v++) {
        const struct cabe_value_info *info = cabe_graph_value(g, v);

        if (info->kind != CABE_OUTPUT || strncmp(info->name, "hidden", 6) == 0)
            continue;
        assert_true(out->n < 128);
        out->bytes[out->n] = cabe_value_bytes(info, symbols);
        out->data[out->n] = malloc(out->bytes[out->n]);
        strcpy(out->name[out->n], info->name);
        OK(cabe_program_download(l.program, v, out->data[out->n], out->bytes[out->n], &why));
        out->n++;
    }
    unload(&l);
    store_close(&store);
    machine_close(&m);
    cabe_graph_close(g);
}

static void release(struct outcome *out)
{
    for (int i = 0; i < out->n; i++)
        free(out->data[i]);
}

static void compare(const struct outcome *want, const struct outcome *got, uint64_t seed, const char *what)
{
    assert_int_equal(want->n, got->n);
    for (int i = 0; i < want->n; i++) {
        assert_string_equal(want->name[i], got->name[i]);
        assert_int_equal(want->bytes[i], got->bytes[i]);
        for (uint64_t k = 0; k < want->bytes[i] / 4; k++)
            if (memcmp(&want->data[i][k], &got->data[i][k], 4) != 0)
                fail_msg("seed %llu, %s: %s[%llu] is %g, wanted %g", (unsigned long long)seed, what,
                         want->name[i], (unsigned long long)k, (double)got->data[i][k],
                         (double)want->data[i][k]);
    }
}

static void sharing_changes_nothing(void **state)
{
    static const enum cabe_dtype dtypes[] = {CABE_F32, CABE_I8, CABE_F16};
    static struct outcome want, got;

    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        enum cabe_dtype dtype = dtypes[seed % 3];
        enum cabe_precision precision = dtype == CABE_I8 ? CABE_PRECISION_INT8 : CABE_PRECISION_HIGH;

        run(&want, dtype, precision, 1, ON_CPU, RESIDENT, 1, seed);
        run(&got, dtype, precision, 0, ON_CPU, RESIDENT, 1, seed);
        compare(&want, &got, seed, "one thread");
        release(&got);
        run(&got, dtype, precision, 0, seed % 2 ? ON_CPU : ON_SIM, seed % 4 < 2 ? RESIDENT : STREAMED,
            2 + (int)(seed % 4), seed);
        compare(&want, &got, seed, "many threads");
        release(&got);
        release(&want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sharing_changes_nothing)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
