/* The host itself as a device: buffers are its memory, and memory of others can be adopted. */
#include <string.h>

#include "device/backend.h"
#include "device/exec.h"

static enum cabe_status upload(struct cabe_buffer *buffer, uint64_t offset, const void *data, uint64_t bytes,
                               struct cabe_error *err)
{
    (void)err;
    memcpy(buffer->host + offset, data, bytes);
    return CABE_OK;
}

static enum cabe_status download(struct cabe_buffer *buffer, uint64_t offset, void *data, uint64_t bytes,
                                 struct cabe_error *err)
{
    (void)err;
    memcpy(data, buffer->host + offset, bytes);
    return CABE_OK;
}

static const struct cabe_backend backend = {
    .name = "cpu",
    .is_host = 1,
    .alloc = cabe_host_alloc,
    .free = cabe_host_free,
    .upload = upload,
    .download = download,
    .supports = cabe_exec_supports,
    .compile = cabe_exec_compile,
    .release = cabe_exec_release,
    .submit = cabe_exec_submit,
    .wait = cabe_exec_wait,
};

enum cabe_status cabe_cpu_device_open(struct cabe_device **out, const struct cabe_device_config *config,
                                      struct cabe_error *err)
{
    return cabe_device_open(out, &backend, config, err);
}
