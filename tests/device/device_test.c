/* Buffers: ranges, capacity, counters, and that nobody touches the memory of a sim behind its back. */
#include "fixture.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device/backend.h"

static void buffers_keep_bytes(void **state)
{
    (void)state;
    for (int kind = ON_CPU; kind <= ON_SIM; kind++) {
        uint8_t data[100], back[100];
        struct cabe_device_stats stats;
        struct cabe_buffer *buffer;
        struct cabe_error err;
        struct machine m;

        machine_open(&m, (enum kind)kind, 1, 0);
        assert_string_equal(cabe_device_name(m.device), kind == ON_SIM ? "sim" : "cpu");
        assert_int_equal(cabe_device_is_host(m.device), kind == ON_CPU);
        OK(cabe_buffer_alloc(&buffer, m.device, 5000, CABE_PURPOSE_KV, "kv", &why));
        assert_int_equal(cabe_buffer_bytes(buffer), 5000);
        assert_int_equal(ledger_used(&m, m.ledger_device), 8192);
        OK(cabe_buffer_download(buffer, 4900, back, 100, &why));
        for (int i = 0; i < 100; i++) {
            assert_int_equal(back[i], 0);
            data[i] = (uint8_t)(i + 1);
        }
        OK(cabe_buffer_upload(buffer, 4900, data, 100, &why));
        OK(cabe_buffer_download(buffer, 4900, back, 100, &why));
        assert_memory_equal(back, data, 100);
        assert_int_equal(cabe_buffer_upload(buffer, 4901, data, 100, &err), CABE_ERR_ARGUMENT);
        assert_string_equal(err.text, "kv: bytes 4901 + 100 of a buffer of 5000");
        assert_int_equal(cabe_buffer_download(buffer, UINT64_MAX, back, 100, &err), CABE_ERR_ARGUMENT);
        cabe_device_stats(m.device, &stats);
        assert_int_equal(stats.held_bytes, 8192);
        assert_int_equal(stats.n_uploads, 1);
        assert_int_equal(stats.uploaded_bytes, 100);
        assert_int_equal(stats.n_downloads, 2);
        assert_int_equal(stats.downloaded_bytes, 200);
        if (kind == ON_SIM)
            assert_int_equal(stats.copy_ns, 300); /* at 1 GB/s */
        cabe_buffer_free(buffer);
        cabe_device_stats(m.device, &stats);
        assert_int_equal(stats.held_bytes, 0);
        assert_int_equal(stats.held_high_bytes, 8192);
        assert_int_equal(cabe_buffer_alloc(&buffer, m.device, UINT64_MAX, CABE_PURPOSE_KV, "kv", &err),
                         CABE_ERR_LIMIT);
        cabe_buffer_free(NULL);
        machine_close(&m);
    }
}

/* What a buffer holds is reserved at once and touched as it is written; a resident one is touched at once. */
static void buffers_are_touched_as_they_are_written(void **state)
{
    const uint64_t page = cabe_pages_round(1);

    (void)state;
    for (enum kind kind = ON_CPU; kind <= ON_SIM; kind++) {
        struct cabe_ledger_touched touched;
        struct cabe_ledger_view view;
        struct cabe_buffer *buffer, *resident;
        struct machine m;

        machine_open(&m, kind, 1, 0);
        OK(cabe_buffer_alloc(&buffer, m.device, 8 * page, CABE_PURPOSE_KV, "kv", &why));
        OK(cabe_buffer_alloc_resident(&resident, m.device, 2 * page, CABE_PURPOSE_ACTIVATIONS, "a", &why));
        cabe_ledger_read_touched(m.ledger, &view, &touched);
        assert_int_equal(view.device[m.ledger_device].used_bytes, 10 * page);
        assert_int_equal(touched.device[m.ledger_device].purpose_bytes[CABE_PURPOSE_ACTIVATIONS], 2 * page);
        if (touched.device[m.ledger_device].purpose_bytes[CABE_PURPOSE_KV] == 8 * page) {
            printf("skip: this system does not say which pages are there\n");
        } else {
            assert_int_equal(touched.device[m.ledger_device].bytes, 2 * page);
            OK(cabe_buffer_upload(buffer, 3 * page - 1, "ab", 2, &why));
            cabe_ledger_read_touched(m.ledger, &view, &touched);
            assert_in_range(touched.device[m.ledger_device].purpose_bytes[CABE_PURPOSE_KV], 2 * page, 8 * page);
        }
        cabe_buffer_free(buffer);
        cabe_buffer_free(resident);
        machine_close(&m);
    }
}

static void a_cap_is_never_passed(void **state)
{
    struct cabe_buffer *a, *b;
    struct cabe_error err;
    struct machine m;

    (void)state;
    machine_open(&m, ON_SIM, 1, 10 * 4096);
    OK(cabe_buffer_alloc(&a, m.device, 7 * 4096, CABE_PURPOSE_WEIGHTS, "a", &why));
    assert_int_equal(cabe_buffer_alloc(&b, m.device, 3 * 4096 + 1, CABE_PURPOSE_WEIGHTS, "b", &err),
                     CABE_ERR_BUDGET);
    assert_int_equal(err.missing_bytes, 4096);
    assert_null(b);
    assert_int_equal(cabe_buffer_alloc(&b, m.device, 12 * 4096, CABE_PURPOSE_WEIGHTS, "b", &err),
                     CABE_ERR_BUDGET);
    assert_int_equal(err.missing_bytes, 9 * 4096);
    OK(cabe_buffer_alloc(&b, m.device, 3 * 4096, CABE_PURPOSE_WEIGHTS, "b", &why));
    cabe_buffer_free(a);
    cabe_buffer_free(b);
    machine_close(&m);
}

static void only_the_host_adopts(void **state)
{
    static const uint8_t memory[64] = {1, 2, 3};
    struct cabe_buffer *buffer;
    struct cabe_error err;
    struct machine m;
    uint8_t back[3];

    (void)state;
    machine_open(&m, ON_CPU, 1, 0);
    OK(cabe_buffer_adopt(&buffer, m.device, memory, 64, &why));
    assert_int_equal(ledger_used(&m, 0), 0);
    OK(cabe_buffer_download(buffer, 0, back, 3, &why));
    assert_memory_equal(back, memory, 3);
    assert_int_equal(cabe_buffer_upload(buffer, 0, back, 3, &err), CABE_ERR_PERMISSION);
    cabe_buffer_free(buffer);
    machine_close(&m);
    machine_open(&m, ON_SIM, 1, 0);
    assert_int_equal(cabe_buffer_adopt(&buffer, m.device, memory, 64, &err), CABE_ERR_UNSUPPORTED);
    assert_null(buffer);
    machine_close(&m);
}

/* What a child that touches `memory` ends with: 0, or the signal. */
static int touch(volatile uint8_t *memory, int write)
{
    int status;
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        if (write)
            *memory = 1;
        else
            (void)*memory;
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void the_host_cannot_touch_a_sim(void **state)
{
    struct cabe_graph *g = bert_open(1, CABE_F32, CABE_PRECISION_HIGH);
    static struct batch b;
    struct cabe_buffer *buffer;
    struct machine m;
    struct store store;
    struct loaded l;
    uint8_t byte = 7;

    (void)state;
    machine_open(&m, ON_SIM, 1, 0); /* one thread: nothing else runs when the child is made */
    OK(cabe_buffer_alloc(&buffer, m.device, 10000, CABE_PURPOSE_WEIGHTS, "w", &why));
    assert_int_equal(touch(buffer->host, 0), SIGSEGV);
    OK(cabe_buffer_upload(buffer, 0, &byte, 1, &why));
    assert_int_equal(touch(buffer->host, 0), SIGSEGV);
    assert_int_equal(touch(buffer->host + 9999, 1), SIGSEGV);
    OK(cabe_buffer_open(buffer, &why));
    assert_int_equal(touch(buffer->host, 1), 0);
    cabe_buffer_close(buffer);
    cabe_buffer_free(buffer);

    store_open(&store, g, m.kernels, 1);
    OK(load(&l, &m, g, &store, RESIDENT, batch_bounds, &why));
    memset(&b, 0, sizeof b);
    batch_add(&b, 0);
    OK(batch_run(l.program, g, &b, NULL, &why));
    assert_int_equal(touch(l.weights->host, 0), SIGSEGV);
    b.ids[0] = 1000; /* a refused run closes what it opened, too */
    assert_int_equal(batch_run(l.program, g, &b, NULL, &why), CABE_ERR_ARGUMENT);
    assert_int_equal(touch(l.weights->host, 0), SIGSEGV);
    unload(&l);
    store_close(&store);
    machine_close(&m);
    cabe_graph_close(g);
}

/* Streamed weights are copies of a sim, and counted. */
static void copies_are_counted(void **state)
{
    struct cabe_graph *g = bert_open(3, CABE_F32, CABE_PRECISION_HIGH);
    struct cabe_device_stats before, after;
    static struct batch b;
    struct machine m;
    struct store store;
    struct loaded l;

    (void)state;
    machine_open(&m, ON_SIM, 2, 0);
    store_open(&store, g, m.kernels, 1);
    OK(load(&l, &m, g, &store, STREAMED, batch_bounds, &why));
    memset(&b, 0, sizeof b);
    batch_add(&b, 0);
    OK(batch_give(l.program, g, &b, &why));
    cabe_device_stats(m.device, &before);
    OK(batch_run(l.program, g, &b, NULL, &why));
    cabe_device_stats(m.device, &after);
    assert_int_equal(after.n_uploads - before.n_uploads, 3 + 4);
    assert_int_equal(after.uploaded_bytes - before.uploaded_bytes, 5 * 4 * 2 + 8 + store.bytes);
    assert_int_equal(after.n_runs - before.n_runs, 1);
    unload(&l);
    store_close(&store);
    machine_close(&m);
    cabe_graph_close(g);
}

static void refuses_half_a_configuration(void **state)
{
    struct cabe_device_config config = {.ledger_device = 0};
    struct cabe_device *device;
    struct cabe_error err;

    (void)state;
    assert_int_equal(cabe_cpu_device_open(&device, &config, &err), CABE_ERR_ARGUMENT);
    assert_null(device);
    assert_int_equal(cabe_sim_device_open(&device, &config, &err), CABE_ERR_ARGUMENT);
    cabe_device_close(NULL);
    cabe_program_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buffers_are_touched_as_they_are_written),
        cmocka_unit_test(buffers_keep_bytes),   cmocka_unit_test(a_cap_is_never_passed),
        cmocka_unit_test(only_the_host_adopts), cmocka_unit_test(the_host_cannot_touch_a_sim),
        cmocka_unit_test(copies_are_counted),   cmocka_unit_test(refuses_half_a_configuration),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
