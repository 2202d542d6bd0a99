/*
 * A device that computes on the CPU with the manners of a GPU: memory of its own that the host cannot touch,
 * a capacity, copies that are counted. A host pointer that leaks into a run, or a device pointer that leaks
 * out of one, dies here instead of on a machine with a GPU.
 */
#include <string.h>
#include <sys/mman.h>

#include "base/memory.h"
#include "device/backend.h"
#include "device/exec.h"

/*
 * Rights are those of the holders together. mprotect on a whole mapping of ours only fails for lack of
 * memory.
 */
static enum cabe_status guard(struct cabe_buffer *buffer, int rights, struct cabe_error *err)
{
    if (mprotect(buffer->host, cabe_pages_round(buffer->bytes), rights) != 0)
        return cabe_fail(err, CABE_ERR_OOM, "the system could not change the rights of %llu bytes",
                         (unsigned long long)buffer->bytes);
    return CABE_OK;
}

static enum cabe_status alloc(struct cabe_buffer *buffer, struct cabe_error *err)
{
    enum cabe_status status = cabe_host_alloc(buffer, err);

    return status == CABE_OK ? guard(buffer, PROT_NONE, err) : status;
}

static enum cabe_status open_buffer(struct cabe_buffer *buffer, struct cabe_error *err)
{
    enum cabe_status status = buffer->n_open ? CABE_OK : guard(buffer, PROT_READ | PROT_WRITE, err);

    buffer->n_open += status == CABE_OK;
    return status;
}

static void close_buffer(struct cabe_buffer *buffer)
{
    if (--buffer->n_open == 0)
        (void)guard(buffer, PROT_NONE, NULL); /* at worst the guard is missing */
}

static enum cabe_status upload(struct cabe_buffer *buffer, uint64_t offset, const void *data, uint64_t bytes,
                               struct cabe_error *err)
{
    enum cabe_status status = open_buffer(buffer, err);

    if (status != CABE_OK)
        return status;
    memcpy(buffer->host + offset, data, bytes);
    close_buffer(buffer);
    return CABE_OK;
}

static enum cabe_status download(struct cabe_buffer *buffer, uint64_t offset, void *data, uint64_t bytes,
                                 struct cabe_error *err)
{
    enum cabe_status status = open_buffer(buffer, err);

    if (status != CABE_OK)
        return status;
    memcpy(data, buffer->host + offset, bytes);
    close_buffer(buffer);
    return CABE_OK;
}

static const struct cabe_backend backend = {
    .name = "sim",
    .alloc = alloc,
    .free = cabe_host_free,
    .upload = upload,
    .download = download,
    .open = open_buffer,
    .close = close_buffer,
    .supports = cabe_exec_supports,
    .compile = cabe_exec_compile,
    .release = cabe_exec_release,
    .submit = cabe_exec_submit,
    .wait = cabe_exec_wait,
};

enum cabe_status cabe_sim_device_open(struct cabe_device **out, const struct cabe_device_config *config,
                                      struct cabe_error *err)
{
    return cabe_device_open(out, &backend, config, err);
}
