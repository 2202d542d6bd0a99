#include "format/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

/* Bytes of the path before its last name, the slash included. */
static size_t folder_bytes(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? (size_t)(slash + 1 - path) : 0;
}

char *cabe_path_aside(const char *path)
{
    static atomic_uint n_made; /* relaxed: only distinct */
    size_t folder = folder_bytes(path), n = strlen(path) + 80;
    char *aside = cabe_malloc(n);

    if (!aside)
        return NULL;
    /* The name is cut: a name of 255 bytes has no room for more. The clock tells processes of different pid
       namespaces, on one shared folder, apart. */
    snprintf(aside, n, "%.*s.%.100s.%ld.%u.%llx.part", (int)folder, path, path + folder, (long)getpid(),
             atomic_fetch_add_explicit(&n_made, 1, memory_order_relaxed), (unsigned long long)cabe_clock_ns());
    return aside;
}

enum cabe_status cabe_sync_folder_of(const char *path, struct cabe_error *err)
{
    char folder[4096]; /* not of the heap: the rename has happened, memory must not make it an error */
    size_t n = folder_bytes(path);
    enum cabe_status status = CABE_OK;
    int fd;

    if (n >= sizeof folder)
        return cabe_fail(err, CABE_ERR_LIMIT, "%.80s...: path of %zu bytes", path, n);
    memcpy(folder, path, n);
    strcpy(folder + n, n ? "" : ".");
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* EINVAL: a file system that has no such thing. */
    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL))
        status = cabe_fail_errno(err, errno, "%s", folder);
    if (fd >= 0)
        close(fd);
    return status;
}

enum cabe_status cabe_output_open(struct cabe_output *out, const char *path, struct cabe_error *err)
{
    enum cabe_status status;
    struct stat info;
    int exists = stat(path, &info) == 0;
    char *real = exists ? realpath(path, NULL) : NULL;

    memset(out, 0, sizeof *out);
    out->fd = -1;
    if (exists && !S_ISREG(info.st_mode)) {
        status = cabe_fail(err, CABE_ERR_ARGUMENT, "%s: is not a regular file, wanted one to write", path);
        goto fail;
    }
    out->path = cabe_strdup(real ? real : path);
    out->aside = out->path ? cabe_path_aside(out->path) : NULL;
    if (!out->aside) {
        status = cabe_fail(err, CABE_ERR_OOM, "%s: its name", path);
        goto fail;
    }
    out->fd = open(out->aside, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (out->fd < 0) {
        status = cabe_fail_errno(err, errno, "%s", path);
        goto fail;
    }
    free(real); /* from realpath() */
    return CABE_OK;

fail:
    free(real);
    cabe_output_discard(out);
    return status;
}

static enum cabe_status write_at(struct cabe_output *out, uint64_t offset, const void *data, size_t bytes,
                                 struct cabe_error *err)
{
    const uint8_t *from = data;

    while (bytes > 0) {
        ssize_t n = pwrite(out->fd, from, bytes, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return cabe_fail_errno(err, n < 0 ? errno : EIO, "%s: at byte %llu", out->path,
                                   (unsigned long long)offset);
        from += n;
        offset += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return CABE_OK;
}

enum cabe_status cabe_output_write(struct cabe_output *out, const void *data, size_t bytes, struct cabe_error *err)
{
    enum cabe_status status = write_at(out, out->bytes, data, bytes, err);

    if (status == CABE_OK)
        out->bytes += bytes;
    return status;
}

enum cabe_status cabe_output_rewrite(struct cabe_output *out, uint64_t offset, const void *data, size_t bytes,
                                     struct cabe_error *err)
{
    if (offset > out->bytes || bytes > out->bytes - offset)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %zu bytes at %llu, written are %llu", out->path, bytes,
                         (unsigned long long)offset, (unsigned long long)out->bytes);
    return write_at(out, offset, data, bytes, err);
}

enum cabe_status cabe_output_finish(struct cabe_output *out, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;
    int closed;

    if (fsync(out->fd) != 0)
        status = cabe_fail_errno(err, errno, "%s: sync", out->path);
    closed = close(out->fd); /* network file systems report a full disk here */
    out->fd = -1;
    if (status == CABE_OK && closed != 0)
        status = cabe_fail_errno(err, errno, "%s: close", out->path);
    if (status == CABE_OK && rename(out->aside, out->path) != 0)
        status = cabe_fail_errno(err, errno, "%s: rename", out->path);
    if (status == CABE_OK) {
        cabe_free(out->aside); /* it is gone; discard must not touch the name */
        out->aside = NULL;
        status = cabe_sync_folder_of(out->path, err);
    }
    cabe_output_discard(out);
    return status;
}

void cabe_output_discard(struct cabe_output *out)
{
    if (out->fd >= 0)
        close(out->fd);
    if (out->aside) /* a name of ours alone, so that it may be gone already */
        unlink(out->aside);
    out->fd = -1;
    cabe_free(out->path);
    cabe_free(out->aside);
    out->path = out->aside = NULL;
}
