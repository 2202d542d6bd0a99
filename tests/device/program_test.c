/* A small BERT: the same bytes whatever the threads, the batch, the device and the place of the weights. */
#include "fixture.h"

#define N_TEXTS 24

struct expected {
    float embedding[N_TEXTS][64];
    float states[N_TEXTS][64 * 64];
};

static void compare(const struct expected *want, const struct batch *b, const int *texts, const char *what)
{
    for (int64_t s = 0; s < b->symbols[CABE_SYM_SEQUENCES]; s++) {
        if (memcmp(want->embedding[texts[s]], &b->embeddings[s * 64], 64 * sizeof(float)) != 0 ||
            memcmp(want->states[texts[s]], &b->states[(int64_t)b->offsets[s] * 64],
                   (size_t)sequence_length(texts[s]) * 64 * sizeof(float)) != 0)
            fail_msg("%s: text %d differs", what, texts[s]);
    }
}

/* Every text by itself, on one thread. */
static void run_alone(struct expected *want, const struct cabe_graph *g, const struct store *store)
{
    struct machine m;
    struct loaded l;
    static struct batch b;

    machine_open(&m, ON_CPU, 1, 0);
    OK(load(&l, &m, g, store, RESIDENT, batch_bounds, &why));
    for (int i = 0; i < N_TEXTS; i++) {
        memset(&b, 0, sizeof b);
        batch_add(&b, i);
        OK(batch_run(l.program, g, &b, NULL, &why));
        memcpy(want->embedding[i], b.embeddings, sizeof want->embedding[i]);
        memcpy(want->states[i], b.states, (size_t)sequence_length(i) * 64 * sizeof(float));
    }
    unload(&l);
    machine_close(&m);
}

static void run_batches(const struct expected *want, const struct cabe_graph *g, const struct store *store,
                        enum kind kind, enum place place, int n_threads)
{
    static struct batch b;
    struct machine m;
    struct loaded l;
    uint64_t seed = (uint64_t)n_threads;
    char what[64];

    snprintf(what, sizeof what, "device %d, place %d, %d threads", (int)kind, (int)place, n_threads);
    machine_open(&m, kind, n_threads, 0);
    OK(load(&l, &m, g, store, place, batch_bounds, &why));
    for (int round = 0; round < 4; round++) {
        int texts[BATCH_SEQUENCES], n = round == 0 ? N_TEXTS : 1 + (int)(rnd(&seed) % N_TEXTS);
        uint64_t before;

        memset(&b, 0, sizeof b);
        for (int i = 0; i < n; i++) {
            texts[i] = round == 0 ? i : (int)(rnd(&seed) % N_TEXTS);
            if (b.symbols[CABE_SYM_TOKENS] + sequence_length(texts[i]) <= BATCH_TOKENS)
                batch_add(&b, texts[i]);
            else
                break;
        }
        before = cabe_memory_count();
        OK(batch_run(l.program, g, &b, NULL, &why));
        assert_int_equal(cabe_memory_count(), before);
        compare(want, &b, texts, what);
    }
    unload(&l);
    machine_close(&m);
}

static void check_everywhere(enum cabe_dtype dtype, enum cabe_precision precision)
{
    static struct expected want;
    struct cabe_graph *g = bert_open(3, dtype, precision);
    const struct cabe_kernels *kernels;
    struct store store;

    assert_non_null(g);
    OK(cabe_kernels_choose(&kernels, &why));
    store_open(&store, g, kernels, 42);
    run_alone(&want, g, &store);
    run_batches(&want, g, &store, ON_CPU, RESIDENT, 1);
    run_batches(&want, g, &store, ON_CPU, ADOPTED, 2);
    run_batches(&want, g, &store, ON_CPU, STREAMED, 2);
    run_batches(&want, g, &store, ON_CPU, MIXED, 7);
    run_batches(&want, g, &store, ON_SIM, RESIDENT, 2);
    run_batches(&want, g, &store, ON_SIM, RESIDENT, 3);
    run_batches(&want, g, &store, ON_SIM, STREAMED, 7);
    run_batches(&want, g, &store, ON_SIM, MIXED, 2);
    store_close(&store);
    cabe_graph_close(g);
}

static void f32_is_the_same_everywhere(void **state)
{
    (void)state;
    check_everywhere(CABE_F32, CABE_PRECISION_HIGH);
}

static void int8_is_the_same_everywhere(void **state)
{
    (void)state;
    check_everywhere(CABE_I8, CABE_PRECISION_INT8);
}

static void q4_is_the_same_everywhere(void **state)
{
    (void)state;
    check_everywhere(CABE_Q4_0, CABE_PRECISION_INT8);
    check_everywhere(CABE_Q8_0, CABE_PRECISION_HIGH);
}

/* What measure() says is what compile reserves, and the smallest budget that does. */
static void measures_what_it_reserves(void **state)
{
    (void)state;
    for (int kind = ON_CPU; kind <= ON_SIM; kind++)
        for (int p = 0; p < 3; p++) {
            static const enum place places[] = {RESIDENT, STREAMED, MIXED};
            enum place place = places[p];
            struct cabe_graph *g = bert_open(3, CABE_F16, CABE_PRECISION_HIGH);
            uint8_t streamed[4];
            struct cabe_program_bytes bytes;
            struct machine m;
            struct store store;
            struct loaded l;
            uint64_t host, device;

            machine_open(&m, (enum kind)kind, 2, 0);
            store_open(&store, g, m.kernels, 1);
            for (int s = 0; s < 4; s++)
                streamed[s] = place == STREAMED || (place == MIXED && s % 2);
            cabe_program_measure(g, batch_bounds, streamed, kind == ON_CPU, m.kernels, 2, &bytes);
            assert_int_equal(bytes.staging > 0, place != RESIDENT);
            OK(load(&l, &m, g, &store, place, batch_bounds, &why));
            host = kind == ON_CPU ? bytes.activations + bytes.window + bytes.staging : bytes.staging;
            device = kind == ON_CPU ? 0 : bytes.activations + bytes.window;
            if (place != STREAMED)
                *(kind == ON_CPU ? &host : &device) += store.bytes;
            assert_int_equal(ledger_used(&m, 0), host);
            assert_int_equal(ledger_used(&m, 1), device);
            unload(&l);
            store_close(&store);
            machine_close(&m);
            cabe_graph_close(g);
        }
}

/* A table that is larger than all layers together costs its bytes once, not twice. */
static void a_large_segment_is_not_counted_twice(void **state)
{
    struct cabe_graph *g;
    struct cabe_program_bytes bytes;
    const struct cabe_kernels *kernels;
    const uint8_t streamed[3] = {1, 1, 1};
    cabe_value x;

    (void)state;
    OK(cabe_kernels_choose(&kernels, &why));
    OK(cabe_graph_open(&g, &why));
    x = cabe_graph_gather(g, cabe_graph_weight(g, "table", CABE_F32, CABE_ROWS, 100000, 16),
                          cabe_graph_input(g, "ids", CABE_I32, TOKENS, ONE(1)), CABE_NO_VALUE);
    for (int i = 0; i < 2; i++) {
        cabe_graph_segment(g, "layer");
        x = cabe_graph_add(g, x, vector(g, i, "b", 16));
    }
    cabe_graph_output(g, x, "y");
    OK(cabe_graph_finish(g, &why));
    cabe_program_measure(g, batch_bounds, streamed, 1, kernels, 1, &bytes);
    assert_int_equal(bytes.window, cabe_graph_segment_bytes(g, 0) + 4096);
    cabe_graph_close(g);
}

static void refuses_one_page_too_little(void **state)
{
    struct cabe_graph *g = bert_open(2, CABE_F32, CABE_PRECISION_HIGH);
    struct cabe_program_bytes bytes;
    struct machine m;
    struct store store;
    struct loaded l;
    struct cabe_error err;

    (void)state;
    machine_open(&m, ON_SIM, 1, 0);
    store_open(&store, g, m.kernels, 1);
    cabe_program_measure(g, batch_bounds, NULL, 0, m.kernels, 1, &bytes);
    machine_close(&m);

    machine_open(&m, ON_SIM, 1, store.bytes + bytes.activations - 4096);
    assert_int_equal(load(&l, &m, g, &store, RESIDENT, batch_bounds, &err), CABE_ERR_BUDGET);
    assert_int_equal(err.missing_bytes, 4096);
    unload(&l);
    machine_close(&m);

    machine_open(&m, ON_SIM, 1, store.bytes + bytes.activations);
    OK(load(&l, &m, g, &store, RESIDENT, batch_bounds, &why));
    unload(&l);
    machine_close(&m);
    store_close(&store);
    cabe_graph_close(g);
}

static void expect_refusal(const struct loaded *l, const struct cabe_graph *g, struct batch *b,
                           const char *message)
{
    struct cabe_error err;

    assert_int_equal(batch_run(l->program, g, b, NULL, &err), CABE_ERR_ARGUMENT);
    assert_string_equal(err.text, message);
}

static void refuses_bad_inputs(void **state)
{
    struct cabe_graph *g = bert_open(1, CABE_F32, CABE_PRECISION_HIGH);
    static struct batch b;
    struct cabe_event *event;
    struct machine m;
    struct store store;
    struct loaded l;
    struct cabe_error err;

    (void)state;
    for (int kind = ON_CPU; kind <= ON_SIM; kind++) {
        machine_open(&m, (enum kind)kind, 2, 0);
        store_open(&store, g, m.kernels, 1);
        OK(load(&l, &m, g, &store, RESIDENT, batch_bounds, &why));
        memset(&b, 0, sizeof b);
        batch_add(&b, 0);
        batch_add(&b, 3);
        assert_int_equal(cabe_program_submit(l.program, b.symbols, NULL, &event, &err), CABE_ERR_ARGUMENT);
        assert_string_equal(err.text, "test: input ids was not given");
        b.ids[3] = 50;
        expect_refusal(&l, g, &b, "test: ids[3] is 50, words has 50 rows");
        b.ids[3] = -1;
        expect_refusal(&l, g, &b, "test: ids[3] is -1, words has 50 rows");
        b.ids[3] = 49;
        b.positions[21] = 80;
        expect_refusal(&l, g, &b, "test: positions[21] is 80, places has 80 rows");
        b.positions[21] = 79;
        b.offsets[1] = 23;
        expect_refusal(&l, g, &b, "test: offsets[2] is 22 after 23");
        b.offsets[1] = 0; /* an empty sequence is one */
        OK(batch_run(l.program, g, &b, NULL, &why));
        b.offsets[0] = 1;
        expect_refusal(&l, g, &b, "test: offsets go from 1 to 22, wanted from 0 to 22");
        b.offsets[0] = 0;
        b.offsets[2] = 21;
        expect_refusal(&l, g, &b, "test: offsets go from 0 to 21, wanted from 0 to 22");
        b.offsets[2] = 22;
        OK(batch_give(l.program, g, &b, &why));
        b.symbols[CABE_SYM_TOKENS] = BATCH_TOKENS + 1;
        assert_int_equal(cabe_program_submit(l.program, b.symbols, NULL, &event, &err), CABE_ERR_ARGUMENT);
        assert_string_equal(err.text, "test: 601 tokens, compiled for 1 to 600");
        b.symbols[CABE_SYM_TOKENS] = 21;
        assert_int_equal(cabe_program_submit(l.program, b.symbols, NULL, &event, &err), CABE_ERR_ARGUMENT);
        assert_string_equal(err.text, "test: input ids has 88 bytes, this run wants 84");
        assert_int_equal(cabe_program_upload(l.program, cabe_graph_find(g, "words"), &b, 4, &err),
                         CABE_ERR_ARGUMENT);
        assert_int_equal(cabe_program_download(l.program, cabe_graph_find(g, "ids"), &b, 4, &err),
                         CABE_ERR_ARGUMENT);
        assert_int_equal(cabe_program_download(l.program, cabe_graph_find(g, "states"), &b, 4, &err),
                         CABE_ERR_ARGUMENT);
        unload(&l);
        store_close(&store);
        machine_close(&m);
    }
    cabe_graph_close(g);
}

static void one_run_at_a_time(void **state)
{
    struct cabe_graph *g = bert_open(1, CABE_F32, CABE_PRECISION_HIGH);
    static struct batch b;
    struct cabe_event *event, *second;
    struct machine m;
    struct store store;
    struct loaded l;
    struct cabe_error err;

    (void)state;
    machine_open(&m, ON_CPU, 1, 0);
    store_open(&store, g, m.kernels, 1);
    OK(load(&l, &m, g, &store, RESIDENT, batch_bounds, &why));
    memset(&b, 0, sizeof b);
    batch_add(&b, 0);
    OK(batch_give(l.program, g, &b, &why));
    OK(cabe_program_submit(l.program, b.symbols, NULL, &event, &why));
    assert_int_equal(cabe_program_submit(l.program, b.symbols, NULL, &second, &err), CABE_ERR_BUSY);
    OK(cabe_event_wait(event, &why));
    assert_int_equal(cabe_event_wait(event, &err), CABE_ERR_ARGUMENT);
    OK(cabe_program_submit(l.program, b.symbols, NULL, &event,
                           &why)); /* inputs stay until they are replaced */
    unload(&l);                    /* not waited for: close does */
    store_close(&store);
    machine_close(&m);
    cabe_graph_close(g);
}

/* A run that stops or fails half-way says why, and the next one is whole. */
static void stops_and_goes_on(void **state)
{
    struct cabe_graph *g = bert_open(5, CABE_F32, CABE_PRECISION_HIGH);
    static struct batch b, want;
    struct cabe_cancel cancel = {0};
    struct machine m;
    struct store store;
    struct loaded l;
    struct cabe_error err;

    (void)state;
    for (int kind = ON_CPU; kind <= ON_SIM; kind++) {
        machine_open(&m, (enum kind)kind, 2, 0);
        store_open(&store, g, m.kernels, 1);
        OK(load(&l, &m, g, &store, STREAMED, batch_bounds, &why));
        memset(&b, 0, sizeof b);
        batch_add(&b, 0);
        batch_add(&b, 1);
        want = b;
        OK(batch_run(l.program, g, &want, NULL, &why));

        atomic_store(&cancel.wanted, 1);
        assert_int_equal(batch_run(l.program, g, &b, &cancel, &err), CABE_ERR_CANCELLED);
        assert_int_equal(
            cabe_program_download(l.program, cabe_graph_find(g, "embeddings"), b.embeddings, 512, &err),
            CABE_ERR_ARGUMENT);
        atomic_store(&cancel.wanted, 0);
        l.source.n_reads = 0;
        l.source.cancel_at_read = &cancel;
        assert_int_equal(batch_run(l.program, g, &b, &cancel, &err), CABE_ERR_CANCELLED);
        l.source.cancel_at_read = NULL;
        atomic_store(&cancel.wanted, 0);
        atomic_store(&cancel.alive_ns, 0);
        OK(batch_run(l.program, g, &b, &cancel, &why)); /* the window now holds the last two segments */
        assert_true(atomic_load(&cancel.alive_ns) > 0); /* it told that it got on */

        for (int s = 0; s < 6; s++) {
            char text[64];

            l.source.fail_offset = store.offset[s] + 5;
            assert_int_equal(batch_run(l.program, g, &b, &cancel, &err), CABE_ERR_IO);
            snprintf(text, sizeof text, "test: segment %s: weights.bin: offset",
                     cabe_graph_segment_name(g, s));
            assert_memory_equal(err.text, text, strlen(text));
            l.source.fail_offset = UINT64_MAX;
            OK(batch_run(l.program, g, &b, &cancel, &why));
            assert_memory_equal(b.embeddings, want.embeddings, 2 * 64 * sizeof(float));
        }
        unload(&l);
        store_close(&store);
        machine_close(&m);
    }
    cabe_graph_close(g);
}

/* Two streamed segments fit the window: they are read once. */
static void reads_what_stays_once(void **state)
{
    struct cabe_graph *g = bert_open(3, CABE_F32, CABE_PRECISION_HIGH);
    static struct batch b;
    struct machine m;
    struct store store;
    struct loaded l;

    (void)state;
    machine_open(&m, ON_CPU, 2, 0);
    store_open(&store, g, m.kernels, 1);
    OK(load(&l, &m, g, &store, MIXED, batch_bounds, &why));
    memset(&b, 0, sizeof b);
    batch_add(&b, 0);
    for (int i = 0; i < 3; i++)
        OK(batch_run(l.program, g, &b, NULL, &why));
    assert_int_equal(l.source.n_reads, 2);
    unload(&l);
    OK(load(&l, &m, g, &store, STREAMED, batch_bounds, &why));
    for (int i = 0; i < 3; i++)
        OK(batch_run(l.program, g, &b, NULL, &why));
    assert_int_equal(l.source.n_reads, 12);
    unload(&l);
    store_close(&store);
    machine_close(&m);
    cabe_graph_close(g);
}

static void refuses_weights_that_are_not_there(void **state)
{
    struct cabe_graph *g = bert_open(1, CABE_F32, CABE_PRECISION_HIGH);
    struct cabe_segment_weights segment[2] = {{NULL, 0}, {NULL, 0}};
    struct cabe_weights weights = {segment, NULL, NULL};
    int64_t bounds[CABE_N_SYMBOLS] = {1, 10, 0};
    struct cabe_program *program;
    struct cabe_buffer *buffer;
    struct machine m;
    struct cabe_error err;

    (void)state;
    machine_open(&m, ON_CPU, 1, 0);
    assert_int_equal(cabe_program_compile(&program, m.device, g, bounds, &weights, "p", &err),
                     CABE_ERR_ARGUMENT);
    assert_string_equal(err.text, "p: sequences up to 0; wanted 1 to 2147483647");
    bounds[CABE_SYM_SEQUENCES] = 1;
    assert_int_equal(cabe_program_compile(&program, m.device, g, bounds, NULL, "p", &err), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_program_compile(&program, m.device, g, bounds, &weights, "p", &err),
                     CABE_ERR_ARGUMENT);
    assert_string_equal(err.text, "p: segment begin has weights and no place for them");
    OK(cabe_buffer_alloc(&buffer, m.device, 4096, CABE_PURPOSE_WEIGHTS, "small", &why));
    segment[0].buffer = segment[1].buffer = buffer;
    assert_int_equal(cabe_program_compile(&program, m.device, g, bounds, &weights, "p", &err),
                     CABE_ERR_ARGUMENT);
    assert_null(program);
    segment[0].offset = 32;
    assert_int_equal(cabe_program_compile(&program, m.device, g, bounds, &weights, "p", &err),
                     CABE_ERR_ARGUMENT);
    assert_string_equal(err.text, "p: segment begin begins at 32, not at a multiple of 64");
    cabe_buffer_free(buffer);
    machine_close(&m);
    cabe_graph_close(g);
}

/* The n-th allocation fails, for every n: a status, and nothing stays reserved. */
static void survives_no_memory(void **state)
{
    static struct batch b;
    int done = 0;

    (void)state;
    memset(&b, 0, sizeof b);
    batch_add(&b, 0);
    for (uint64_t n = 1; !done; n++)
        for (int kind = ON_CPU; kind <= ON_SIM; kind++) {
            struct cabe_graph *g = bert_open(3, CABE_F32, CABE_PRECISION_HIGH);
            struct machine m;
            struct store store;
            struct loaded l;
            struct cabe_error err = {.status = CABE_OK};
            enum cabe_status status;
            uint64_t before;

            machine_open(&m, (enum kind)kind, 2, 0);
            store_open(&store, g, m.kernels, 1);
            before = cabe_memory_count();
            cabe_memory_fail_at(n);
            status = load(&l, &m, g, &store, n % 2 ? MIXED : STREAMED, batch_bounds, &err);
            if (status == CABE_OK)
                status = batch_run(l.program, g, &b, NULL, &err);
            cabe_memory_fail_at(0);
            if (cabe_memory_count() - before < n) {
                assert_int_equal(status, CABE_OK);
                done = 1;
            } else {
                assert_int_equal(status, CABE_ERR_OOM);
                assert_int_equal(err.status, CABE_ERR_OOM);
            }
            unload(&l);
            store_close(&store);
            machine_close(&m);
            cabe_graph_close(g);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_is_the_same_everywhere),
        cmocka_unit_test(int8_is_the_same_everywhere),
        cmocka_unit_test(q4_is_the_same_everywhere),
        cmocka_unit_test(measures_what_it_reserves),
        cmocka_unit_test(a_large_segment_is_not_counted_twice),
        cmocka_unit_test(refuses_one_page_too_little),
        cmocka_unit_test(refuses_bad_inputs),
        cmocka_unit_test(one_run_at_a_time),
        cmocka_unit_test(stops_and_goes_on),
        cmocka_unit_test(reads_what_stays_once),
        cmocka_unit_test(refuses_weights_that_are_not_there),
        cmocka_unit_test(survives_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
