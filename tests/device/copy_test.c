#include "device/backend.h"

#include "fixture.h"

#define BYTES 20000

/* A backend that keeps its buffers to itself, as one with memory of its own does. */
static enum cabe_status far_alloc(struct cabe_buffer *buffer, struct cabe_error *err)
{
    buffer->handle = cabe_calloc(1, buffer->bytes);
    return buffer->handle ? CABE_OK : cabe_fail(err, CABE_ERR_OOM, "far");
}

static void far_free(struct cabe_buffer *buffer)
{
    cabe_free(buffer->handle);
}

static enum cabe_status far_upload(struct cabe_buffer *buffer, uint64_t offset, const void *data,
                                   uint64_t bytes, struct cabe_error *err)
{
    (void)err;
    memcpy((uint8_t *)buffer->handle + offset, data, bytes);
    return CABE_OK;
}

static enum cabe_status far_download(struct cabe_buffer *buffer, uint64_t offset, void *data, uint64_t bytes,
                                     struct cabe_error *err)
{
    (void)err;
    memcpy(data, (uint8_t *)buffer->handle + offset, bytes);
    return CABE_OK;
}

static const struct cabe_backend far_backend = {
    .name = "far", .alloc = far_alloc, .free = far_free, .upload = far_upload, .download = far_download};

static void copy_and_zero(struct cabe_device *device)
{
    static const uint64_t cases[][3] = {/* to, from, bytes */
                                        {10000, 0, 10000}, {3, 9000, 8997}, {0, 1, 1}, {5, 5, 0},
                                        {BYTES, BYTES, 0}, {0, 15000, 5000}};
    uint8_t wanted[BYTES], got[BYTES];
    struct cabe_device_stats before, after;
    struct cabe_buffer *buffer;

    for (int i = 0; i < BYTES; i++)
        wanted[i] = (uint8_t)(i * 7 + i / 256);
    OK(cabe_buffer_alloc(&buffer, device, BYTES, CABE_PURPOSE_KV, "copy", &why));
    OK(cabe_buffer_upload(buffer, 0, wanted, BYTES, &why));
    cabe_device_stats(device, &before);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        OK(cabe_buffer_copy(buffer, cases[i][0], cases[i][1], cases[i][2], &why));
        memcpy(wanted + cases[i][0], wanted + cases[i][1], cases[i][2]);
    }
    OK(cabe_buffer_zero(buffer, 12345, 6789, &why));
    memset(wanted + 12345, 0, 6789);
    OK(cabe_buffer_zero(buffer, BYTES, 0, &why));
    assert_int_equal(cabe_buffer_copy(buffer, 0, 9, 10, &why), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_buffer_copy(buffer, 9, 0, 10, &why), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_buffer_copy(buffer, 0, BYTES - 9, 10, &why), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_buffer_copy(buffer, UINT64_MAX, 0, 10, &why), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_buffer_zero(buffer, BYTES - 9, 10, &why), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_buffer_zero(buffer, 1, UINT64_MAX, &why), CABE_ERR_ARGUMENT);
    cabe_device_stats(device, &after);
    assert_int_equal(after.n_uploads, before.n_uploads);
    OK(cabe_buffer_download(buffer, 0, got, BYTES, &why));
    assert_memory_equal(got, wanted, BYTES);
    cabe_buffer_free(buffer);
}

static void test_cpu_and_sim(void **state)
{
    (void)state;
    for (int kind = ON_CPU; kind <= ON_SIM; kind++) {
        struct machine m;

        machine_open(&m, (enum kind)kind, 1, 0);
        copy_and_zero(m.device);
        machine_close(&m);
    }
}

static void test_far(void **state)
{
    struct cabe_device_config config;
    struct cabe_device *device;
    struct machine m;

    (void)state;
    machine_open(&m, ON_CPU, 1, 0);
    config = (struct cabe_device_config){.ledger = m.ledger, .team = m.team, .kernels = m.kernels};
    OK(cabe_device_open(&device, &far_backend, &config, &why));
    copy_and_zero(device);
    cabe_device_close(device);
    machine_close(&m);
}

static void test_adopted(void **state)
{
    static const uint8_t memory[64] = {1};
    struct cabe_buffer *buffer;
    struct machine m;

    (void)state;
    machine_open(&m, ON_CPU, 1, 0);
    OK(cabe_buffer_adopt(&buffer, m.device, memory, sizeof memory, &why));
    assert_int_equal(cabe_buffer_copy(buffer, 32, 0, 32, &why), CABE_ERR_PERMISSION);
    assert_int_equal(cabe_buffer_zero(buffer, 0, 1, &why), CABE_ERR_PERMISSION);
    cabe_buffer_free(buffer);
    machine_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu_and_sim),
        cmocka_unit_test(test_far),
        cmocka_unit_test(test_adopted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
