/* Folders with all that is in them. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/store_parts.h"

#define DEPTH_MAX 64 /* each level holds a descriptor */

struct walk {
    int removing;
    uint64_t bytes;
};

/* 0, or the errno of the first failure. */
static int walk_folder(struct walk *walk, int parent, const char *name, int depth)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), failed = 0;
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *entry;

    if (!dir) {
        failed = errno;
        if (fd >= 0)
            close(fd);
        return failed;
    }
    while ((entry = readdir(dir))) {
        struct stat info;
        int why = 0;

        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (fstatat(fd, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0)
            why = errno;
        else if (S_ISDIR(info.st_mode))
            why = depth < DEPTH_MAX ? walk_folder(walk, fd, entry->d_name, depth + 1) : ELOOP;
        else
            walk->bytes += (uint64_t)info.st_size;
        if (why == 0 && walk->removing && unlinkat(fd, entry->d_name, S_ISDIR(info.st_mode) ? AT_REMOVEDIR : 0) != 0)
            why = errno;
        if (why != 0 && failed == 0)
            failed = why;
    }
    if (!walk->removing && fsync(fd) != 0 && errno != EINVAL && failed == 0)
        failed = errno;
    closedir(dir);
    return failed;
}

enum cabe_status cabe_tree_remove(const char *path, uint64_t *bytes, struct cabe_error *err)
{
    struct walk walk = {.removing = 1};
    struct stat info;
    int failed = 0;

    if (lstat(path, &info) != 0)
        return cabe_fail_errno(err, errno, "%s", path);
    if (S_ISDIR(info.st_mode))
        failed = walk_folder(&walk, AT_FDCWD, path, 0);
    if (failed == 0 && (S_ISDIR(info.st_mode) ? rmdir(path) : unlink(path)) != 0)
        failed = errno;
    if (bytes)
        *bytes += walk.bytes;
    return failed == 0 ? CABE_OK : cabe_fail_errno(err, failed, "%s: remove", path);
}

enum cabe_status cabe_tree_sync(const char *path, struct cabe_error *err)
{
    struct walk walk = {.removing = 0};
    int failed = walk_folder(&walk, AT_FDCWD, path, 0);

    return failed == 0 ? CABE_OK : cabe_fail_errno(err, failed, "%s: sync", path);
}
