#include "format/aside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
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
