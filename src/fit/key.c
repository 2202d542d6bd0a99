#include "fit/key.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/memory.h"

#define DEPTH_MAX 2

/* Sums do not depend on the order in which a folder is read. */
static void add_file(struct cabe_fit_key *key, const char *name, const struct stat *info)
{
    uint64_t facts[3] = {(uint64_t)info->st_size,
                         (uint64_t)info->st_mtim.tv_sec * 1000000000u + (uint64_t)info->st_mtim.tv_nsec,
                         XXH3_64bits(name, strlen(name))};

    key->bytes += facts[0];
    if (facts[1] > key->mtime_ns)
        key->mtime_ns = facts[1];
    key->identity += XXH3_64bits(facts, sizeof facts);
}

static enum cabe_status add_folder(struct cabe_fit_key *key, const char *path, int depth, struct cabe_error *err)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    enum cabe_status status = CABE_OK;

    if (!dir)
        return cabe_fail_errno(err, errno, "%s", path);
    while (status == CABE_OK && (entry = readdir(dir))) {
        char child[PATH_MAX];
        struct stat info;

        if (entry->d_name[0] == '.' ||
            snprintf(child, sizeof child, "%s/%s", path, entry->d_name) >= (int)sizeof child || stat(child, &info) != 0)
            continue;
        if (S_ISREG(info.st_mode))
            add_file(key, entry->d_name, &info);
        else if (S_ISDIR(info.st_mode) && depth < DEPTH_MAX)
            status = add_folder(key, child, depth + 1, err);
    }
    closedir(dir);
    return status;
}

static int ends_in(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);

    return n >= m && strcmp(name + n - m, end) == 0;
}

/* A llama2.c checkpoint has its tokenizer in a file beside it: tok<vocabulary>.bin or tokenizer.bin. */
static void add_tokenizers_beside(struct cabe_fit_key *key, const char *path)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    char folder[PATH_MAX] = ".";
    struct dirent *entry;
    DIR *dir;

    if (slash && snprintf(folder, sizeof folder, "%.*s", (int)(slash + 1 - path), path) >= (int)sizeof folder)
        return;
    dir = opendir(folder);
    while (dir && (entry = readdir(dir))) {
        char beside[PATH_MAX + 2];
        struct stat info;

        if (strncmp(entry->d_name, "tok", 3) == 0 && ends_in(entry->d_name, ".bin") && strcmp(entry->d_name, base) != 0 &&
            snprintf(beside, sizeof beside, "%s/%s", folder, entry->d_name) < (int)sizeof beside &&
            stat(beside, &info) == 0 && S_ISREG(info.st_mode))
            add_file(key, entry->d_name, &info);
    }
    if (dir)
        closedir(dir);
}

enum cabe_status cabe_fit_key_read(struct cabe_fit_key *key, const char *path, struct cabe_error *err)
{
    char absolute[PATH_MAX];
    struct stat info;
    enum cabe_status status = CABE_OK;
    uint64_t all[5];

    memset(key, 0, sizeof *key);
    if (!realpath(path, absolute) || stat(absolute, &info) != 0)
        return cabe_fail_errno(err, errno, "%s", path);
    key->path_hash = XXH3_64bits(absolute, strlen(absolute)) & INT64_MAX;
    if (S_ISDIR(info.st_mode))
        status = add_folder(key, absolute, 0, err);
    else
        add_file(key, "", &info);
    if (S_ISREG(info.st_mode) && ends_in(path, ".bin"))
        add_tokenizers_beside(key, path);
    all[0] = key->bytes;
    all[1] = key->mtime_ns;
    all[2] = key->path_hash;
    all[3] = key->identity;
    all[4] = CABE_FIT_LAYOUT_VERSION;
    key->identity = XXH3_64bits(all, sizeof all) & INT64_MAX;
    return status;
}

void cabe_fit_key_name(char out[CABE_FIT_NAME_MAX], const struct cabe_fit_key *key, const char *path,
                       const struct cabe_model_choice *choice)
{
    const char *base = strrchr(path, '/');
    char name[64];
    size_t n = 0;

    base = base && base[1] ? base + 1 : path;
    for (; *base && n < sizeof name - 1; base++)
        name[n++] = isalnum((unsigned char)*base) || *base == '.' ? (char)tolower((unsigned char)*base) : '-';
    name[n] = '\0';
    snprintf(out, CABE_FIT_NAME_MAX, "%s-%08" PRIx32 "-%016" PRIx64 "-%s.gguf", name, (uint32_t)key->path_hash,
             key->identity, cabe_dtype_name(choice->dtype));
}
