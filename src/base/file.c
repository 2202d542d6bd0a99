#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"

#define TEMP_PREFIX ".cabe-"
#define TEMP_SUFFIX ".tmp"
#define TEMP_FORMAT TEMP_PREFIX "%08x" TEMP_SUFFIX
#define TEMP_BYTES sizeof(TEMP_PREFIX "12345678" TEMP_SUFFIX)

#define SWEEP_AGE_S 10
#define HUGE_PAGE (UINT64_C(2) << 20)

struct cabe_outfile {
    char *shown;  /* the path as the caller gave it: for messages */
    char *target; /* links followed */
    char temp[TEMP_BYTES];
    int folder; /* of the target; -1 when written directly */
    int fd;
    int is_regular;
    uint64_t written; /* by the system's count: what is not in the buffer */
    uint64_t reserved, prepared; /* the size announced; up to where the system's cache has huge pages */
    struct cabe_error failed;
    uint32_t n_buffered;
    uint8_t buffer[CABE_OUTFILE_BUFFER_BYTES];
};

/* Notes the first error of a file; later calls repeat it. */
static enum cabe_status fail_io(struct cabe_outfile *file, int error_number, const char *what, uint64_t at,
                                struct cabe_error *err)
{
    cabe_fail_errno(&file->failed, error_number, "%s: %s at byte %llu", file->shown, what,
                    (unsigned long long)at);
    if (err)
        *err = file->failed;
    return file->failed.status;
}

static enum cabe_status failed_before(const struct cabe_outfile *file, struct cabe_error *err)
{
    if (file->failed.status != CABE_OK && err)
        *err = file->failed;
    return file->failed.status;
}

/* 0, or the error number. */
static int make_temp(struct cabe_outfile *file, mode_t mode, int keeps_mode)
{
    for (int attempt = 0; attempt < 100; attempt++) {
        unsigned number = 0;

        if (getrandom(&number, sizeof number, 0) != sizeof number)
            return EIO;
        snprintf(file->temp, sizeof file->temp, TEMP_FORMAT, number);
        file->fd = openat(file->folder, file->temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
        if (file->fd >= 0)
            break;
        if (errno != EEXIST)
            break;
    }
    if (file->fd < 0) {
        file->temp[0] = '\0';
        return errno;
    }
    flock(file->fd, LOCK_EX | LOCK_NB); /* says that its writer lives; ends with the process */
    if (keeps_mode && fchmod(file->fd, mode) != 0)
        return errno;
    return 0;
}

/* 0, or the error number. */
static int open_beside(struct cabe_outfile *file, mode_t mode, int keeps_mode)
{
    char *slash = strrchr(file->target, '/');

    if (file->target[0] == '\0')
        return ENOENT;
    if (slash && slash[1] == '\0')
        return EISDIR;
    if (!slash) {
        file->folder = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    } else {
        *slash = '\0';
        file->folder = open(slash == file->target ? "/" : file->target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        *slash = '/';
    }
    return file->folder < 0 ? errno : make_temp(file, mode, keeps_mode);
}

/* 0, or the error number. */
static int open_target(struct cabe_outfile *file, const char *path)
{
    struct stat info;
    char *real;

    if (stat(path, &info) != 0) {
        if (errno != ENOENT)
            return errno;
        file->is_regular = 1;
        return open_beside(file, 0666, 0);
    }
    if (S_ISDIR(info.st_mode))
        return EISDIR;
    /* /dev/stdout may be a plain file that somebody appends to: not one to replace. */
    if (!S_ISREG(info.st_mode) || strncmp(path, "/dev/", 5) == 0 || strncmp(path, "/proc/", 6) == 0) {
        file->fd = open(path, O_WRONLY | O_CLOEXEC);
        return file->fd < 0 ? errno : 0;
    }
    real = realpath(path, NULL);
    if (!real)
        return errno;
    cabe_free(file->target);
    file->target = cabe_strdup(real);
    free(real);
    if (!file->target)
        return ENOMEM;
    /* Replacing needs no right to write the file itself; a file that its owner made read-only stays. */
    if (access(file->target, W_OK) != 0)
        return errno;
    file->is_regular = 1;
    return open_beside(file, info.st_mode & 07777, 1);
}

enum cabe_status cabe_outfile_open(struct cabe_outfile **out, const char *path, struct cabe_error *err)
{
    struct cabe_outfile *file = cabe_malloc(sizeof *file);
    int error;

    *out = NULL;
    if (!file)
        return cabe_fail(err, CABE_ERR_OOM, "%s: buffer of %u bytes", path, CABE_OUTFILE_BUFFER_BYTES);
    memset(file, 0, offsetof(struct cabe_outfile, buffer));
    file->folder = file->fd = -1;
    file->shown = cabe_strdup(path);
    file->target = cabe_strdup(path);
    error = !file->shown || !file->target ? ENOMEM : open_target(file, path);
    if (error) {
        cabe_outfile_close(file);
        return cabe_fail_errno(err, error, "%s: opening for writing", path);
    }
    *out = file;
    return CABE_OK;
}

/*
 * Makes the system keep what is to be written up to `end` in huge pages: a program that maps the file while it is still
 * in the system's cache reads it faster by 2 to 20 %. A hole that is read through a mapping that asks for them comes in
 * huge pages, and writing fills those. Where that is not so, nothing is lost; commit cuts the file to its size.
 */
static void prepare(struct cabe_outfile *file, uint64_t end)
{
    uint64_t at = file->prepared;

    for (; at < end && at + HUGE_PAGE <= file->reserved; at += HUGE_PAGE) {
        void *map;

        if (ftruncate(file->fd, (off_t)(at + HUGE_PAGE)) != 0)
            break;
        map = mmap(NULL, HUGE_PAGE, PROT_READ, MAP_SHARED, file->fd, (off_t)at);
        if (map == MAP_FAILED)
            break;
        if (madvise(map, HUGE_PAGE, MADV_HUGEPAGE) == 0)
            madvise(map, 1, MADV_POPULATE_READ);
        munmap(map, HUGE_PAGE);
    }
    file->prepared = at < end ? UINT64_MAX : at; /* what is left over at the end is not worth a huge page */
}

static enum cabe_status put(struct cabe_outfile *file, const uint8_t *data, uint64_t bytes,
                            struct cabe_error *err)
{
    if (file->written + bytes > file->prepared && file->reserved >= HUGE_PAGE)
        prepare(file, file->written + bytes);
    while (bytes > 0) {
        ssize_t n = write(file->fd, data, bytes < (1u << 30) ? bytes : 1u << 30);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fail_io(file, n < 0 ? errno : EIO, "writing", file->written, err);
        data += n;
        bytes -= (uint64_t)n;
        file->written += (uint64_t)n;
    }
    return CABE_OK;
}

enum cabe_status cabe_outfile_flush(struct cabe_outfile *file, struct cabe_error *err)
{
    uint32_t n = file->n_buffered;

    if (failed_before(file, err) != CABE_OK)
        return file->failed.status;
    file->n_buffered = 0;
    return put(file, file->buffer, n, err);
}

enum cabe_status cabe_outfile_write(struct cabe_outfile *file, const void *data, uint64_t bytes,
                                    struct cabe_error *err)
{
    if (failed_before(file, err) != CABE_OK)
        return file->failed.status;
    if (bytes > CABE_OUTFILE_BUFFER_BYTES - file->n_buffered && cabe_outfile_flush(file, err) != CABE_OK)
        return file->failed.status;
    if (bytes > CABE_OUTFILE_BUFFER_BYTES)
        return put(file, data, bytes, err);
    if (bytes > 0)
        memcpy(file->buffer + file->n_buffered, data, bytes);
    file->n_buffered += (uint32_t)bytes;
    return CABE_OK;
}

enum cabe_status cabe_outfile_write_at(struct cabe_outfile *file, uint64_t offset, const void *data,
                                       uint64_t bytes, struct cabe_error *err)
{
    const uint8_t *from = data;

    if (cabe_outfile_flush(file, err) != CABE_OK)
        return file->failed.status;
    if (!file->is_regular)
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: not a plain file: byte %llu cannot be written again",
                         file->shown, (unsigned long long)offset);
    if (offset > file->written || bytes > file->written - offset)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %llu bytes at %llu are past the %llu written",
                         file->shown, (unsigned long long)bytes, (unsigned long long)offset,
                         (unsigned long long)file->written);
    while (bytes > 0) {
        ssize_t n = pwrite(file->fd, from, bytes < (1u << 30) ? bytes : 1u << 30, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fail_io(file, n < 0 ? errno : EIO, "writing", offset, err);
        from += n;
        bytes -= (uint64_t)n;
        offset += (uint64_t)n;
    }
    return CABE_OK;
}

uint64_t cabe_outfile_bytes(const struct cabe_outfile *file)
{
    return file->written + file->n_buffered;
}

enum cabe_status cabe_outfile_reserve(struct cabe_outfile *file, uint64_t bytes, struct cabe_error *err)
{
    if (failed_before(file, err) != CABE_OK)
        return file->failed.status;
    if (!file->is_regular || bytes == 0)
        return CABE_OK;
    if (bytes > INT64_MAX)
        return fail_io(file, EFBIG, "reserving room", bytes, err);
    while (fallocate(file->fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes) != 0) {
        if (errno == EINTR)
            continue;
        if (errno == EOPNOTSUPP || errno == ENOSYS)
            return CABE_OK; /* then a full disk is found out later */
        return fail_io(file, errno, "reserving room", bytes, err);
    }
    file->reserved = bytes;
    return CABE_OK;
}

enum cabe_status cabe_outfile_commit(struct cabe_outfile *file, struct cabe_error *err)
{
    const char *slash;

    if (cabe_outfile_flush(file, err) != CABE_OK || !file->is_regular)
        return file->failed.status;
    /* Gives back what was reserved and not needed. */
    if (ftruncate(file->fd, (off_t)file->written) != 0 || fsync(file->fd) != 0)
        return fail_io(file, errno, "syncing", file->written, err);
    slash = strrchr(file->target, '/');
    if (renameat(file->folder, file->temp, file->folder, slash ? slash + 1 : file->target) != 0)
        return fail_io(file, errno, "renaming into place", file->written, err);
    file->temp[0] = '\0';
    /* The file is in place; a file system that cannot sync folders says EINVAL. */
    if (fsync(file->folder) != 0 && errno != EINVAL && errno != EROFS)
        return fail_io(file, errno, "syncing the folder", file->written, err);
    return CABE_OK;
}

void cabe_outfile_close(struct cabe_outfile *file)
{
    if (!file)
        return;
    if (file->temp[0] != '\0')
        unlinkat(file->folder, file->temp, 0);
    if (file->fd >= 0)
        close(file->fd);
    if (file->folder >= 0)
        close(file->folder);
    cabe_free(file->shown);
    cabe_free(file->target);
    cabe_free(file);
}

static int is_temp_name(const char *name)
{
    unsigned number;
    char again[TEMP_BYTES];

    if (strlen(name) != TEMP_BYTES - 1 || sscanf(name, TEMP_PREFIX "%8x", &number) != 1)
        return 0;
    snprintf(again, sizeof again, TEMP_FORMAT, number);
    return strcmp(name, again) == 0;
}

int cabe_outfile_sweep(const char *folder)
{
    DIR *entries = opendir(folder);
    struct dirent *entry;
    int n = 0;

    if (!entries)
        return 0;
    while ((entry = readdir(entries))) {
        struct stat info;
        int fd;

        if (!is_temp_name(entry->d_name))
            continue;
        fd = openat(dirfd(entries), entry->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0)
            continue;
        /* Between its making and its lock a file looks abandoned: the young are left alone. */
        if (fstat(fd, &info) == 0 && info.st_mtime < time(NULL) - SWEEP_AGE_S &&
            flock(fd, LOCK_EX | LOCK_NB) == 0 && unlinkat(dirfd(entries), entry->d_name, 0) == 0)
            n++;
        close(fd);
    }
    closedir(entries);
    return n;
}
