#include "device/device.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "device/backend.h"

static void count(_Atomic uint64_t *c, uint64_t n)
{
    atomic_fetch_add_explicit(c, n, memory_order_relaxed);
}

static uint64_t read_counter(const _Atomic uint64_t *c)
{
    return atomic_load_explicit((_Atomic uint64_t *)(uintptr_t)c, memory_order_relaxed);
}

enum cabe_status cabe_device_open(struct cabe_device **out, const struct cabe_backend *backend,
                                  const struct cabe_device_config *config, struct cabe_error *err)
{
    struct cabe_device *device;

    *out = NULL;
    if (!config->ledger || !config->team || !config->kernels || config->ledger_device < 0 ||
        config->ledger_device >= CABE_DEVICES_MAX)
        return cabe_fail(err, CABE_ERR_ARGUMENT,
                         "%s device: wants a ledger, a team and kernels; ledger device %d", backend->name,
                         config->ledger_device);
    device = cabe_calloc(1, sizeof *device);
    if (!device)
        return cabe_fail(err, CABE_ERR_OOM, "%s device: no memory for its handle", backend->name);
    device->backend = backend;
    device->config = *config;
    *out = device;
    return CABE_OK;
}

void cabe_device_close(struct cabe_device *device)
{
    if (!device)
        return;
    assert(device->n_buffers == 0 && device->n_programs == 0);
    cabe_free(device);
}

const char *cabe_device_name(const struct cabe_device *device)
{
    return device->backend->name;
}

int cabe_device_is_host(const struct cabe_device *device)
{
    return device->backend->is_host;
}

void cabe_device_stats(const struct cabe_device *device, struct cabe_device_stats *stats)
{
    *stats = (struct cabe_device_stats){
        .held_bytes = read_counter(&device->held_bytes),
        .held_high_bytes = read_counter(&device->held_high_bytes),
        .n_uploads = read_counter(&device->n_uploads),
        .uploaded_bytes = read_counter(&device->uploaded_bytes),
        .n_downloads = read_counter(&device->n_downloads),
        .downloaded_bytes = read_counter(&device->downloaded_bytes),
        .n_runs = read_counter(&device->n_runs),
        .copy_ns = read_counter(&device->copy_ns),
    };
}

int cabe_device_supports(const struct cabe_device *device, const struct cabe_graph *graph,
                         const struct cabe_node *node)
{
    return device->backend->supports(device, graph, node);
}

/* The device's own limit, which holds whatever the ledger would grant. */
static enum cabe_status check_cap(const struct cabe_device *device, uint64_t bytes, const char *place,
                                  struct cabe_error *err)
{
    uint64_t cap = device->config.cap_bytes, held = read_counter(&device->held_bytes), missing;

    if (cap == 0 || (bytes <= cap && held <= cap - bytes))
        return CABE_OK;
    missing = bytes > cap ? bytes - cap + held : held - (cap - bytes);
    (void)cabe_fail(err, CABE_ERR_BUDGET,
                    "%s: %llu bytes on %s pass its capacity: %llu of %llu in use, %llu missing", place,
                    (unsigned long long)bytes, device->backend->name, (unsigned long long)held,
                    (unsigned long long)cap, (unsigned long long)missing);
    if (err)
        err->missing_bytes = missing;
    return CABE_ERR_BUDGET;
}

static struct cabe_buffer *new_buffer(struct cabe_device *device, uint64_t bytes, enum cabe_purpose purpose,
                                      const char *place, struct cabe_error *err)
{
    struct cabe_buffer *buffer = cabe_calloc(1, sizeof *buffer);

    if (!buffer) {
        (void)cabe_fail(err, CABE_ERR_OOM, "%s: no memory for the handle of a buffer", place);
        return NULL;
    }
    buffer->device = device;
    buffer->bytes = bytes;
    buffer->purpose = purpose;
    snprintf(buffer->place, sizeof buffer->place, "%s", place);
    atomic_fetch_add_explicit(&device->n_buffers, 1, memory_order_relaxed);
    return buffer;
}

static enum cabe_status alloc_buffer(struct cabe_buffer **out, struct cabe_device *device, uint64_t bytes,
                                     enum cabe_purpose purpose, const char *place, int populate,
                                     struct cabe_error *err)
{
    uint64_t held = cabe_pages_round(bytes), now;
    struct cabe_buffer *buffer;
    enum cabe_status status;

    *out = NULL;
    if (bytes > INT64_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: a buffer of %llu bytes", place, (unsigned long long)bytes);
    status = check_cap(device, held, place, err);
    if (status != CABE_OK)
        return status;
    buffer = new_buffer(device, bytes, purpose, place, err);
    if (!buffer)
        return CABE_ERR_OOM;
    buffer->populate = populate;
    status = cabe_ledger_reserve(device->config.ledger, device->config.ledger_device, purpose, held,
                                 buffer->place, err);
    if (status == CABE_OK) {
        buffer->held_bytes = held;
        count(&device->held_bytes, held);
        status = device->backend->alloc(buffer, err);
        if (status != CABE_OK)
            status = cabe_fail_in(err, status, "%s", place);
    }
    if (status != CABE_OK) {
        cabe_buffer_free(buffer);
        return status;
    }
    now = read_counter(&device->held_bytes);
    if (now > read_counter(&device->held_high_bytes))
        atomic_store_explicit(&device->held_high_bytes, now, memory_order_relaxed);
    *out = buffer;
    return CABE_OK;
}

enum cabe_status cabe_buffer_alloc(struct cabe_buffer **out, struct cabe_device *device, uint64_t bytes,
                                   enum cabe_purpose purpose, const char *place, struct cabe_error *err)
{
    return alloc_buffer(out, device, bytes, purpose, place, 0, err);
}

enum cabe_status cabe_buffer_alloc_resident(struct cabe_buffer **out, struct cabe_device *device,
                                            uint64_t bytes, enum cabe_purpose purpose, const char *place,
                                            struct cabe_error *err)
{
    return alloc_buffer(out, device, bytes, purpose, place, 1, err);
}

enum cabe_status cabe_buffer_adopt(struct cabe_buffer **out, struct cabe_device *device, const void *memory,
                                   uint64_t bytes, struct cabe_error *err)
{
    struct cabe_buffer *buffer;

    *out = NULL;
    if (!device->backend->is_host)
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s cannot compute in host memory",
                         device->backend->name);
    buffer = new_buffer(device, bytes, CABE_PURPOSE_WEIGHTS, "adopted", err);
    if (!buffer)
        return CABE_ERR_OOM;
    buffer->host = (uint8_t *)(uintptr_t)memory; /* upload refuses to write it: held_bytes is 0 */
    *out = buffer;
    return CABE_OK;
}

void cabe_buffer_free(struct cabe_buffer *buffer)
{
    struct cabe_device *device;

    if (!buffer)
        return;
    device = buffer->device;
    if (buffer->held_bytes) {
        device->backend->free(buffer);
        cabe_ledger_release(device->config.ledger, device->config.ledger_device, buffer->purpose,
                            buffer->held_bytes, buffer->place);
        atomic_fetch_sub_explicit(&device->held_bytes, buffer->held_bytes, memory_order_relaxed);
    }
    atomic_fetch_sub_explicit(&device->n_buffers, 1, memory_order_relaxed);
    cabe_free(buffer);
}

uint64_t cabe_buffer_bytes(const struct cabe_buffer *buffer)
{
    return buffer->bytes;
}

static enum cabe_status check_range(const struct cabe_buffer *buffer, uint64_t offset, uint64_t bytes,
                                    struct cabe_error *err)
{
    if (offset <= buffer->bytes && bytes <= buffer->bytes - offset)
        return CABE_OK;
    return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: bytes %llu + %llu of a buffer of %llu", buffer->place,
                     (unsigned long long)offset, (unsigned long long)bytes,
                     (unsigned long long)buffer->bytes);
}

/* The time a copy took, or is said to take. */
static void count_copy(struct cabe_device *device, uint64_t bytes, uint64_t begin_ns)
{
    double rate = device->config.copy_bytes_per_s;

    count(&device->copy_ns, rate > 0 ? (uint64_t)((double)bytes * 1e9 / rate) : cabe_clock_ns() - begin_ns);
}

enum cabe_status cabe_buffer_upload(struct cabe_buffer *buffer, uint64_t offset, const void *data,
                                    uint64_t bytes, struct cabe_error *err)
{
    struct cabe_device *device = buffer->device;
    enum cabe_status status = check_range(buffer, offset, bytes, err);
    uint64_t begin_ns = cabe_clock_ns();

    if (status != CABE_OK)
        return status;
    if (!buffer->held_bytes)
        return cabe_fail(err, CABE_ERR_PERMISSION, "adopted memory is read-only");
    status = device->backend->upload(buffer, offset, data, bytes, err);
    if (status != CABE_OK)
        return cabe_fail_in(err, status, "%s", buffer->place);
    count(&device->n_uploads, 1);
    count(&device->uploaded_bytes, bytes);
    count_copy(device, bytes, begin_ns);
    return CABE_OK;
}

enum cabe_status cabe_buffer_download(const struct cabe_buffer *buffer, uint64_t offset, void *data,
                                      uint64_t bytes, struct cabe_error *err)
{
    struct cabe_device *device = buffer->device;
    enum cabe_status status = check_range(buffer, offset, bytes, err);
    uint64_t begin_ns = cabe_clock_ns();

    if (status != CABE_OK)
        return status;
    status = device->backend->download((struct cabe_buffer *)(uintptr_t)buffer, offset, data, bytes, err);
    if (status != CABE_OK)
        return cabe_fail_in(err, status, "%s", buffer->place);
    count(&device->n_downloads, 1);
    count(&device->downloaded_bytes, bytes);
    count_copy(device, bytes, begin_ns);
    return CABE_OK;
}

enum cabe_status cabe_buffer_open(struct cabe_buffer *buffer, struct cabe_error *err)
{
    const struct cabe_backend *backend = buffer->device->backend;

    return backend->open ? backend->open(buffer, err) : CABE_OK;
}

void cabe_buffer_close(struct cabe_buffer *buffer)
{
    if (buffer->device->backend->close)
        buffer->device->backend->close(buffer);
}

enum cabe_status cabe_host_alloc(struct cabe_buffer *buffer, struct cabe_error *err)
{
    void *pages;
    enum cabe_status status = cabe_pages_map(&pages, buffer->bytes, buffer->populate, err);

    buffer->host = pages;
    if (status == CABE_OK && !buffer->populate)
        cabe_ledger_add_pages(buffer->device->config.ledger, buffer->device->config.ledger_device, buffer->purpose, pages,
                              buffer->held_bytes);
    return status;
}

void cabe_host_free(struct cabe_buffer *buffer)
{
    cabe_ledger_remove_pages(buffer->device->config.ledger, buffer->host);
    cabe_pages_unmap(buffer->host, buffer->bytes);
}
