/*
 * A disk that fails, for LD_PRELOAD: the n-th thing that a process does to files under a folder (creating, writing,
 * syncing, renaming, allocating) fails, or kills the process as a power cut would.
 *
 * FAULT_UNDER: the folder. FAULT_AT: n, from 1. FAULT_WITH: an errno, or "kill". FAULT_ON: "1": everything after it fails
 * too. FAULT_COUNT: a file that gets the count of what was done, at the end.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long n_done;

static int is_under(const char *path)
{
    const char *under = getenv("FAULT_UNDER");

    return under && path && strncmp(path, under, strlen(under)) == 0;
}

static int is_fd_under(int fd)
{
    char link[64], path[PATH_MAX];
    ssize_t n;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof path - 1);
    if (n < 0)
        return 0;
    path[n] = '\0';
    return is_under(path);
}

/* 1: this one fails, with errno set. */
static int fails(int under)
{
    const char *at = getenv("FAULT_AT"), *with = getenv("FAULT_WITH");
    long n;

    if (!under || !at || !with)
        return 0;
    n = atomic_fetch_add(&n_done, 1) + 1;
    if (n != atol(at) && !(getenv("FAULT_ON") && n > atol(at)))
        return 0;
    if (strcmp(with, "kill") == 0)
        raise(SIGKILL);
    errno = atoi(with);
    return 1;
}

__attribute__((destructor)) static void write_count(void)
{
    const char *path = getenv("FAULT_COUNT");
    FILE *file = path ? fopen(path, "w") : NULL;

    if (file) {
        fprintf(file, "%ld\n", atomic_load(&n_done));
        fclose(file);
    }
}

#define REAL(type, name) __typeof__(type) *real = (__typeof__(type) *)(uintptr_t)dlsym(RTLD_NEXT, name)
#define EXPORT __attribute__((visibility("default")))

EXPORT ssize_t write(int fd, const void *bytes, size_t n)
{
    REAL(ssize_t(int, const void *, size_t), "write");

    return fails(is_fd_under(fd)) ? -1 : real(fd, bytes, n);
}

/* Large files are on: these names are those of the 64-bit functions, as the program calls them. */
EXPORT ssize_t pwrite(int fd, const void *bytes, size_t n, off_t offset)
{
    REAL(ssize_t(int, const void *, size_t, off_t), "pwrite64");

    return fails(is_fd_under(fd)) ? -1 : real(fd, bytes, n, offset);
}

EXPORT ssize_t copy_file_range(int from, off_t *from_at, int to, off_t *to_at, size_t n, unsigned flags)
{
    REAL(ssize_t(int, off_t *, int, off_t *, size_t, unsigned), "copy_file_range");

    return fails(is_fd_under(to)) ? -1 : real(from, from_at, to, to_at, n, flags);
}

EXPORT int fsync(int fd)
{
    REAL(int(int), "fsync");

    return fails(is_fd_under(fd)) ? -1 : real(fd);
}

EXPORT int fdatasync(int fd)
{
    REAL(int(int), "fdatasync");

    return fails(is_fd_under(fd)) ? -1 : real(fd);
}

EXPORT int ftruncate(int fd, off_t n)
{
    REAL(int(int, off_t), "ftruncate");

    return fails(is_fd_under(fd)) ? -1 : real(fd, n);
}

EXPORT int posix_fallocate(int fd, off_t offset, off_t n)
{
    REAL(int(int, off_t, off_t), "posix_fallocate");

    return fails(is_fd_under(fd)) ? errno : real(fd, offset, n);
}

EXPORT int fallocate(int fd, int mode, off_t offset, off_t n)
{
    REAL(int(int, int, off_t, off_t), "fallocate");

    return fails(is_fd_under(fd)) ? -1 : real(fd, mode, offset, n);
}

EXPORT int rename(const char *from, const char *to)
{
    REAL(int(const char *, const char *), "rename");

    return fails(is_under(to)) ? -1 : real(from, to);
}

EXPORT int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    REAL(int(int, const char *, int, const char *), "renameat");

    return fails(is_under(to) || is_fd_under(to_fd)) ? -1 : real(from_fd, from, to_fd, to);
}

EXPORT int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    REAL(int(int, const char *, int, const char *, unsigned), "renameat2");

    return fails(is_under(to) || is_fd_under(to_fd)) ? -1 : real(from_fd, from, to_fd, to, flags);
}

EXPORT int mkdir(const char *path, mode_t mode)
{
    REAL(int(const char *, mode_t), "mkdir");

    return fails(is_under(path)) ? -1 : real(path, mode);
}

EXPORT int symlink(const char *to, const char *path)
{
    REAL(int(const char *, const char *), "symlink");

    return fails(is_under(path)) ? -1 : real(to, path);
}

#define MODE(flags)                                    \
    mode_t mode = 0;                                   \
    if ((flags) & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) { \
        va_list args;                                  \
        va_start(args, flags);                         \
        mode = va_arg(args, mode_t);                   \
        va_end(args);                                  \
    }

EXPORT int open(const char *path, int flags, ...)
{
    REAL(int(const char *, int, ...), "open64");
    MODE(flags)

    return fails((flags & (O_CREAT | O_WRONLY | O_RDWR)) && is_under(path)) ? -1 : real(path, flags, mode);
}

EXPORT int openat(int fd, const char *path, int flags, ...)
{
    REAL(int(int, const char *, int, ...), "openat");
    MODE(flags)

    return fails((flags & (O_CREAT | O_WRONLY | O_RDWR)) && (is_under(path) || is_fd_under(fd))) ? -1
                                                                                                 : real(fd, path, flags, mode);
}
