/* Copies and zeros within the device: no transfer, not counted as one. */
#include <string.h>

#include "device/backend.h"

#define BOUNCE_BYTES 4096 /* where a backend has no host mapping of its buffers */

static enum cabe_status check(const struct cabe_buffer *buffer, uint64_t offset, uint64_t bytes, int writes,
                              struct cabe_error *err)
{
    if (offset > buffer->bytes || bytes > buffer->bytes - offset)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: bytes %llu + %llu of a buffer of %llu", buffer->place,
                         (unsigned long long)offset, (unsigned long long)bytes,
                         (unsigned long long)buffer->bytes);
    if (writes && !buffer->held_bytes)
        return cabe_fail(err, CABE_ERR_PERMISSION, "adopted memory is read-only");
    return CABE_OK;
}

static enum cabe_status bounce(struct cabe_buffer *to, uint64_t to_offset, struct cabe_buffer *from,
                               uint64_t from_offset, uint64_t bytes, struct cabe_error *err)
{
    uint8_t block[BOUNCE_BYTES] = {0};
    enum cabe_status status = CABE_OK;

    for (uint64_t at = 0, n; at < bytes && status == CABE_OK; at += n) {
        n = bytes - at < sizeof block ? bytes - at : sizeof block;
        if (from)
            status = from->device->backend->download(from, from_offset + at, block, n, err);
        if (status == CABE_OK)
            status = to->device->backend->upload(to, to_offset + at, block, n, err);
    }
    return status;
}

enum cabe_status cabe_buffer_copy(struct cabe_buffer *buffer, uint64_t to, uint64_t from, uint64_t bytes,
                                  struct cabe_error *err)
{
    enum cabe_status status = check(buffer, to, bytes, 1, err);

    if (status == CABE_OK)
        status = check(buffer, from, bytes, 0, err);
    if (status == CABE_OK && (to < from ? from - to : to - from) < bytes)
        status = cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %llu bytes copied from %llu to %llu overlap",
                           buffer->place, (unsigned long long)bytes, (unsigned long long)from,
                           (unsigned long long)to);
    if (status != CABE_OK)
        return status;
    if (!buffer->host)
        return bounce(buffer, to, buffer, from, bytes, err);
    status = cabe_buffer_open(buffer, err);
    if (status != CABE_OK)
        return cabe_fail_in(err, status, "%s", buffer->place);
    memcpy(buffer->host + to, buffer->host + from, bytes);
    cabe_buffer_close(buffer);
    return CABE_OK;
}

enum cabe_status cabe_buffer_zero(struct cabe_buffer *buffer, uint64_t offset, uint64_t bytes,
                                  struct cabe_error *err)
{
    enum cabe_status status = check(buffer, offset, bytes, 1, err);

    if (status != CABE_OK)
        return status;
    if (!buffer->host)
        return bounce(buffer, offset, NULL, 0, bytes, err);
    status = cabe_buffer_open(buffer, err);
    if (status != CABE_OK)
        return cabe_fail_in(err, status, "%s", buffer->place);
    memset(buffer->host + offset, 0, bytes);
    cabe_buffer_close(buffer);
    return CABE_OK;
}
