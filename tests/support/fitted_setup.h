/* A folder of its own with a copied source, a cache and a ledger, for tests of fitted copies. */
#ifndef CABE_TESTS_FITTED_SETUP_H
#define CABE_TESTS_FITTED_SETUP_H

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cabe/ledger.h"
#include "fit/fitted.h"
#include "format/source.h"
#include "model/model.h"

#define SETUP_PATH 300

struct setup {
    char root[64], source_path[SETUP_PATH], cache[SETUP_PATH];
    struct cabe_ledger *ledger;
    struct cabe_fitted_config config;
};

static struct cabe_error setup_error;

static void write_file(const char *path, const void *data, size_t n)
{
    FILE *file = fopen(path, "wb");

    if (!file || fwrite(data, 1, n, file) != n || fclose(file) != 0)
        fail_msg("cannot write %s", path);
}

/* The whole file; freed by the caller. */
static uint8_t *read_file(const char *path, size_t *n)
{
    struct stat info;
    FILE *file = fopen(path, "rb");
    uint8_t *data;

    if (!file || fstat(fileno(file), &info) != 0)
        fail_msg("cannot read %s", path);
    *n = (size_t)info.st_size;
    data = malloc(*n + 1);
    if (!data || fread(data, 1, *n, file) != *n)
        fail_msg("cannot read %s", path);
    fclose(file);
    return data;
}

static void setup_begin(struct setup *s, const char *model, enum cabe_dtype dtype)
{
    struct cabe_ledger_config ledger = {.n_devices = 1, .budget_bytes = {UINT64_C(1) << 30}};
    char from[SETUP_PATH];
    uint8_t *data;
    size_t n;

    memset(s, 0, sizeof *s);
    snprintf(s->root, sizeof s->root, "/tmp/cabe-fitted-XXXXXX");
    if (!mkdtemp(s->root))
        fail_msg("no folder in /tmp");
    snprintf(s->source_path, sizeof s->source_path, "%s/%s", s->root, model);
    snprintf(s->cache, sizeof s->cache, "%s/cache", s->root);
    if (mkdir(s->cache, 0700) != 0)
        fail_msg("no cache folder");
    snprintf(from, sizeof from, "%s/%s", CABE_GOLDEN_MODELS, model);
    data = read_file(from, &n);
    write_file(s->source_path, data, n);
    free(data);
    if (cabe_ledger_open(&s->ledger, &ledger, &setup_error) != CABE_OK)
        fail_msg("%s", setup_error.text);
    s->config = (struct cabe_fitted_config){.path = s->source_path,
                                            .choice = {dtype, CABE_PRECISION_HIGH},
                                            .cache_dir = s->cache,
                                            .ledger = s->ledger};
}

static void remove_in(const char *folder)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        char path[SETUP_PATH + 260];

        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlink(path);
    }
    if (dir)
        closedir(dir);
}

static void setup_end(struct setup *s)
{
    cabe_ledger_close(s->ledger);
    remove_in(s->cache);
    rmdir(s->cache);
    remove_in(s->root);
    rmdir(s->root);
}

/* Entries of a folder; `prefix` (may be NULL): only those that begin with it. */
static __attribute__((unused)) int count_in(const char *folder, const char *prefix)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    int n = 0;

    while (dir && (entry = readdir(dir)))
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
             (!prefix || strncmp(entry->d_name, prefix, strlen(prefix)) == 0);
    if (dir)
        closedir(dir);
    return n;
}

/* Opens and describes the source, and makes the copy. */
static enum cabe_status make_copy(const struct setup *s, struct cabe_fitted **out, struct cabe_error *err)
{
    struct cabe_source *source;
    struct cabe_model *model = NULL;
    enum cabe_status status = cabe_source_open(&source, s->source_path, err);

    *out = NULL;
    if (status == CABE_OK)
        status = cabe_model_describe(&model, source, err);
    if (status == CABE_OK)
        status = cabe_fitted_make(out, &s->config, source, model, err);
    cabe_model_close(model);
    cabe_source_close(source);
    return status;
}

static uint64_t used_bytes(const struct setup *s)
{
    struct cabe_ledger_view view;

    cabe_ledger_read(s->ledger, &view);
    return view.device[CABE_HOST].used_bytes;
}

#endif
