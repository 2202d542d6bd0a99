#include "fit/fitted.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/file.h"
#include "base/guard.h"
#include "base/memory.h"
#include "fit/container.h"
#include "fit/key.h"
#include "text/tokenizer.h"

#define HEADER_GUESS_BYTES (UINT64_C(16) << 10) /* description and checksums of a common encoder */
#define VERIFY_PIECE (UINT64_C(1) << 20)
#define POPULATE_PIECE (UINT64_C(2) << 20)
#define DIRECT_ALIGN UINT64_C(512)
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define CHECK_STACK_BYTES (1024u * 1024u) /* what a sanitizer has to say is said on this stack */
#else
#define CHECK_STACK_BYTES (64u * 1024u)
#endif

struct cabe_fitted {
    char path[PATH_MAX]; /* of the copy; "(memory)" */
    struct cabe_source *source; /* the copy, read as the GGUF file it is */
    struct cabe_model *model;
    int fd;
    int direct; /* struct cabe_fitted_config */
    uint64_t file_bytes;
    int32_t n_segments;

    /* after load() */
    struct cabe_ledger *ledger;
    char place[48];
    uint64_t weights_bytes, caches_bytes;
    int64_t n_streamed;
    uint8_t *map; /* the file, with a hole where streamed segments are; or only its head where none stays */
    uint64_t map_bytes, hole_begin, hole_end;
    struct cabe_guard *guard[2]; /* before and behind the hole */

    /* streaming: the first read of each tensor is summed as it comes */
    int direct_fd;     /* past the page cache; -1: not wanted or not possible */
    uint8_t *verified; /* by tensor */
    XXH3_state_t sum;
    uint64_t summed; /* where in the file the next byte of that sum is */

    pthread_t checker;
    int checking;
    int unchecked; /* loaded, and the check has not begun */
    enum cabe_status check_status;
    struct cabe_error check_error;
};

/* ---- opening ---- */

static uint64_t get_u64(const struct cabe_source *source, const char *key)
{
    int64_t value = 0;

    cabe_source_get_i64(source, key, &value);
    return (uint64_t)value;
}

static const struct cabe_source_tensor *tensor_named(const struct cabe_fitted *f, const char *format, int number)
{
    char name[64];

    snprintf(name, sizeof name, format, number);
    return cabe_source_find(f->source, name);
}

static enum cabe_status check_header(struct cabe_fitted *f, struct cabe_error *err)
{
    const struct cabe_source_tensor *first = cabe_source_find(f->source, "tokenizer");
    uint64_t bytes = first ? first->offset : UINT64_MAX, sum;
    uint8_t *header, *key;
    enum cabe_status status = CABE_OK;

    if (bytes > f->file_bytes || bytes > (UINT64_C(1) << 28))
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: no tokenizer behind the header", f->path);
    header = cabe_malloc(bytes);
    if (!header)
        return cabe_fail(err, CABE_ERR_OOM, "%s: header", f->path);
    if (pread(f->fd, header, bytes, 0) != (ssize_t)bytes) {
        status = cabe_fail(err, CABE_ERR_CHANGED, "%s: header cannot be read", f->path);
    } else {
        key = memmem(header, bytes, CABE_KEY_HEADER, strlen(CABE_KEY_HEADER));
        if (!key || (uint64_t)(key - header) + strlen(CABE_KEY_HEADER) + 12 > bytes) {
            status = cabe_fail(err, CABE_ERR_FORMAT, "%s: no " CABE_KEY_HEADER, f->path);
        } else {
            key += strlen(CABE_KEY_HEADER) + 4;
            memcpy(&sum, key, sizeof sum);
            if (sum != cabe_container_header_sum(header, bytes, (uint64_t)(key - header)))
                status = cabe_fail(err, CABE_ERR_FORMAT, "%s: the header's checksum is wrong", f->path);
        }
    }
    cabe_free(header);
    return status;
}

static enum cabe_status read_model(struct cabe_fitted *f, struct cabe_error *err)
{
    const char *text;
    size_t bytes;
    json_error_t where;
    json_t *json;
    enum cabe_status status;

    if (!cabe_source_get_string(f->source, CABE_KEY_MODEL, &text, &bytes))
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: no " CABE_KEY_MODEL, f->path);
    json = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &where);
    if (!json && json_error_code(&where) == json_error_out_of_memory)
        return cabe_fail(err, CABE_ERR_OOM, "%s: " CABE_KEY_MODEL, f->path);
    if (!json)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: " CABE_KEY_MODEL ": %s", f->path, where.text);
    status = cabe_model_from_json(&f->model, json, f->path, err);
    json_decref(json);
    return status;
}

/* Opens the file behind `fd`, which is then the handle's in any case. */
static enum cabe_status open_copy(struct cabe_fitted **out, int fd, const char *path, const char *shown,
                                  const struct cabe_fit_key *key, int direct, struct cabe_error *err)
{
    struct cabe_fitted *f = cabe_calloc(1, sizeof *f);
    struct stat info;
    uint64_t n = 0;
    enum cabe_status status;

    *out = NULL;
    if (!f) {
        close(fd);
        return cabe_fail(err, CABE_ERR_OOM, "%s: handle", shown);
    }
    f->fd = fd;
    f->direct_fd = -1;
    f->direct = direct;
    snprintf(f->path, sizeof f->path, "%s", shown);
    if (fstat(fd, &info) != 0) {
        status = cabe_fail_errno(err, errno, "%s", shown);
        goto fail;
    }
    f->file_bytes = (uint64_t)info.st_size;
    status = cabe_source_open(&f->source, path, err);
    if (status != CABE_OK)
        goto fail;
    if (get_u64(f->source, CABE_KEY_VERSION) != CABE_FIT_LAYOUT_VERSION ||
        get_u64(f->source, CABE_KEY_IDENTITY) != key->identity || cabe_source_n_tensors(f->source) == 0 ||
        !cabe_source_get_array(f->source, CABE_KEY_CHECKSUMS, &n) || n != cabe_source_n_tensors(f->source)) {
        status = cabe_fail(err, CABE_ERR_NOT_FOUND, "%s: a fitted copy of something else", shown);
        goto fail;
    }
    status = check_header(f, err);
    if (status == CABE_OK) /* now: a sum that cannot be read later would look like a wrong one */
        status = cabe_source_array_load(f->source, CABE_KEY_CHECKSUMS, err);
    if (status == CABE_OK)
        status = read_model(f, err);
    if (status != CABE_OK)
        goto fail;
    while (tensor_named(f, "segment.%d", f->n_segments))
        f->n_segments++;
    *out = f;
    return CABE_OK;

fail:
    cabe_fitted_close(f);
    return status;
}

static int copy_path(char out[PATH_MAX], const struct cabe_fitted_config *config, const struct cabe_fit_key *key)
{
    char name[CABE_FIT_NAME_MAX];

    cabe_fit_key_name(name, key, config->path, &config->choice);
    return snprintf(out, PATH_MAX, "%s/%s", config->cache_dir, name) < PATH_MAX;
}

/* Whatever a reader of GGUF makes of wrong bytes: the file is cabe's own, so nothing in it is of a kind not known. */
static int says_damaged(enum cabe_status status)
{
    return status == CABE_ERR_FORMAT || status == CABE_ERR_UNSUPPORTED || status == CABE_ERR_LIMIT ||
           status == CABE_ERR_CHANGED || status == CABE_ERR_NOT_FOUND;
}

/* Whether the source still is what it was: from the first header that was looked at to the last byte of the copy. */
static enum cabe_status check_source(const struct cabe_fitted_config *config, uint64_t identity, struct cabe_error *err)
{
    struct cabe_fit_key now;
    enum cabe_status status = cabe_fit_key_read(&now, config->path, err);

    if (status == CABE_ERR_NOT_FOUND || (status == CABE_OK && now.identity != identity))
        return cabe_fail(err, CABE_ERR_CHANGED, "%s: has changed while it was read; start again", config->path);
    return status;
}

enum cabe_status cabe_fitted_find(struct cabe_fitted **out, const struct cabe_fitted_config *config,
                                  struct cabe_error *err)
{
    struct cabe_fit_key key;
    char path[PATH_MAX];
    enum cabe_status status = cabe_fit_key_read(&key, config->path, err);
    int fd;

    *out = NULL;
    if (status == CABE_OK && config->identity)
        status = check_source(config, config->identity, err);
    if (status != CABE_OK)
        return status;
    if (!config->cache_dir || !copy_path(path, config, &key))
        return cabe_fail(err, CABE_ERR_NOT_FOUND, "%s: no fitted copy", config->path);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return cabe_fail(err, CABE_ERR_NOT_FOUND, "%s: no fitted copy", config->path);
    status = open_copy(out, fd, path, path, &key, config->direct, err);
    if (says_damaged(status)) {
        cabe_log(config->log, CABE_LOG_WARN, "fitted_copy_damaged", "{s:s,s:s}", "path", path, "reason",
                 err ? err->text : "");
        unlink(path);
        return cabe_fail(err, CABE_ERR_NOT_FOUND, "%s: its fitted copy was damaged", config->path);
    }
    return status;
}

void cabe_fitted_close(struct cabe_fitted *f)
{
    if (!f)
        return;
    if (f->checking)
        pthread_join(f->checker, NULL);
    cabe_guard_remove(f->guard[0]);
    cabe_guard_remove(f->guard[1]);
    if (f->map)
        munmap(f->map, f->map_bytes);
    if (f->ledger) {
        cabe_ledger_release(f->ledger, CABE_HOST, CABE_PURPOSE_WEIGHTS, f->weights_bytes, f->place);
        cabe_ledger_release(f->ledger, CABE_HOST, CABE_PURPOSE_CACHES, f->caches_bytes, f->place);
    }
    cabe_free(f->verified);
    cabe_model_close(f->model);
    cabe_source_close(f->source);
    if (f->direct_fd >= 0)
        close(f->direct_fd);
    if (f->fd >= 0)
        close(f->fd);
    cabe_free(f);
}

/* ---- making ---- */

struct making {
    const struct cabe_fitted_config *config;
    const struct cabe_source *source;
    const struct cabe_model *model;
    struct cabe_graph *graph;
    struct cabe_container *container;
    void *tokenizer;
    size_t tokenizer_bytes;
    void *work;
    uint64_t work_bytes;
    uint64_t done_bytes, all_bytes;
};

uint64_t cabe_fitted_making_bytes(const struct cabe_model *model, const struct cabe_model_choice *choice)
{
    return cabe_pages_round(cabe_model_convert_bytes(model, choice));
}

static enum cabe_status write_piece(void *self, const void *data, uint64_t bytes, struct cabe_error *err)
{
    struct making *m = self;

    if (cabe_cancelled(m->config->cancel))
        return cabe_fail(err, CABE_ERR_CANCELLED, "fitting %s was stopped", m->config->path);
    m->done_bytes += bytes;
    cabe_progress_report(m->config->progress, "fitting", m->done_bytes >> 20, m->all_bytes >> 20, "MiB");
    return cabe_container_write(m->container, data, bytes, err);
}

static enum cabe_status declare_all(struct making *m, struct cabe_error *err)
{
    enum cabe_status status = cabe_container_declare(m->container, "tokenizer", m->tokenizer_bytes, err);
    char name[80];

    for (int32_t i = 0; i < cabe_model_n_weights(m->model) && status == CABE_OK; i++) {
        const struct cabe_model_weight *weight = cabe_model_weight(m->model, i);

        if (weight->role != CABE_ROLE_HOST)
            continue;
        snprintf(name, sizeof name, "host.%.50s", weight->name);
        status = cabe_container_declare(m->container, name, cabe_dtype_bytes(weight->to, weight->cols), err);
    }
    for (int32_t s = 0; s < cabe_graph_n_segments(m->graph) && status == CABE_OK; s++) {
        snprintf(name, sizeof name, "segment.%d", s);
        status = cabe_container_declare(m->container, name, cabe_graph_segment_bytes(m->graph, s), err);
        m->all_bytes += cabe_graph_segment_bytes(m->graph, s);
    }
    return status;
}

static enum cabe_status write_hosts(struct making *m, const struct cabe_model_sink *sink, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;

    for (int32_t i = 0; i < cabe_model_n_weights(m->model) && status == CABE_OK; i++) {
        const struct cabe_model_weight *weight = cabe_model_weight(m->model, i);

        if (weight->role != CABE_ROLE_HOST)
            continue;
        status = cabe_model_convert(m->model, m->source, weight, &m->config->choice, m->work, sink, err);
        if (status == CABE_OK)
            status = cabe_container_next(m->container, err);
    }
    return status;
}

/* Weights of a segment in the order of their offsets, which is the order in which the graph declared them. */
static enum cabe_status write_segment(struct making *m, int32_t segment, const struct cabe_model_sink *sink,
                                      struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;

    for (int32_t v = 0; v < cabe_graph_n_values(m->graph) && status == CABE_OK; v++) {
        const struct cabe_value_info *info = cabe_graph_value(m->graph, v);

        if (info->kind != CABE_WEIGHT || info->segment != segment)
            continue;
        status = cabe_container_pad(m->container, info->offset, err);
        if (status == CABE_OK)
            status = cabe_model_convert(m->model, m->source, cabe_model_find(m->model, info->name),
                                        &m->config->choice, m->work, sink, err);
    }
    if (status == CABE_OK)
        status = cabe_container_pad(m->container, cabe_graph_segment_bytes(m->graph, segment), err);
    return status == CABE_OK ? cabe_container_next(m->container, err) : status;
}

static enum cabe_status write_copy(struct making *m, const struct cabe_container_out *to, const char *path,
                                   const struct cabe_fit_key *key, struct cabe_error *err)
{
    struct cabe_model_sink sink = {write_piece, m};
    json_t *json = cabe_model_json(m->model);
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    char hash_text[33] = "", absolute[PATH_MAX];
    uint8_t hash[16];
    struct cabe_container_facts facts = {absolute, key, hash_text, cabe_dtype_name(m->config->choice.dtype), text};
    enum cabe_status status;

    json_decref(json);
    if (!text)
        return cabe_fail(err, CABE_ERR_OOM, "%s: description", path);
    if (!realpath(m->config->path, absolute))
        snprintf(absolute, sizeof absolute, "%s", m->config->path);
    m->all_bytes = m->done_bytes = 0;
    status = cabe_source_hash(m->source, hash, err);
    for (int i = 0; i < 16; i++)
        snprintf(hash_text + 2 * i, 3, "%02x", hash[i]);
    if (status == CABE_OK)
        status = cabe_container_open(&m->container, to, path, err);
    if (status == CABE_OK)
        status = declare_all(m, err);
    if (status == CABE_OK)
        status = cabe_container_begin(m->container, &facts, err);
    if (status == CABE_OK)
        status = cabe_container_write(m->container, m->tokenizer, m->tokenizer_bytes, err);
    if (status == CABE_OK)
        status = cabe_container_next(m->container, err);
    if (status == CABE_OK)
        status = write_hosts(m, &sink, err);
    for (int32_t s = 0; s < cabe_graph_n_segments(m->graph) && status == CABE_OK; s++)
        status = write_segment(m, s, &sink, err);
    if (status == CABE_OK)
        status = cabe_container_finish(m->container, err);
    cabe_container_close(m->container);
    m->container = NULL;
    free(text);
    return status;
}

/* Folder entries of one cache that match; `visit` is given path, size and time of last use. */
static void each_copy(const char *dir, void (*visit)(void *self, const char *path, const char *name,
                                                     const struct stat *info),
                      void *self)
{
    DIR *folder = opendir(dir);
    struct dirent *entry;

    if (!folder)
        return;
    while ((entry = readdir(folder))) {
        char path[PATH_MAX];
        struct stat info;

        if (entry->d_name[0] != '.' && snprintf(path, sizeof path, "%s/%s", dir, entry->d_name) < PATH_MAX &&
            stat(path, &info) == 0 && S_ISREG(info.st_mode))
            visit(self, path, entry->d_name, &info);
    }
    closedir(folder);
}

struct sweep {
    const char *of_path; /* "-<path hash>-": copies of one source; NULL: all */
    const char *keep;    /* "-<path hash>-<identity>-": but not these */
    uint64_t total_bytes, freed_bytes;
    char oldest[PATH_MAX];
    struct timespec oldest_use;
};

static void sweep_stale(void *self, const char *path, const char *name, const struct stat *info)
{
    struct sweep *sweep = self;
    struct timespec used;
    int stale = !sweep->of_path || (strstr(name, sweep->of_path) && !(sweep->keep && strstr(name, sweep->keep)));

    if (stale) {
        if (unlink(path) == 0)
            sweep->freed_bytes += (uint64_t)info->st_size;
        return;
    }
    sweep->total_bytes += (uint64_t)info->st_size;
    used = info->st_atim.tv_sec > info->st_mtim.tv_sec ? info->st_atim : info->st_mtim;
    if (!sweep->oldest[0] || used.tv_sec < sweep->oldest_use.tv_sec) {
        snprintf(sweep->oldest, sizeof sweep->oldest, "%s", path);
        sweep->oldest_use = used;
    }
}

/* Bytes of the copy, its header aside: tensors, each rounded up to pages. */
static uint64_t copy_bytes(const struct making *m)
{
    uint64_t bytes = cabe_pages_round(m->tokenizer_bytes);

    for (int32_t i = 0; i < cabe_model_n_weights(m->model); i++) {
        const struct cabe_model_weight *weight = cabe_model_weight(m->model, i);

        if (weight->role == CABE_ROLE_HOST)
            bytes += cabe_pages_round(cabe_dtype_bytes(weight->to, weight->cols));
    }
    for (int32_t s = 0; s < cabe_graph_n_segments(m->graph); s++)
        bytes += cabe_pages_round(cabe_graph_segment_bytes(m->graph, s));
    return bytes + HEADER_GUESS_BYTES;
}

/* Stale copies of this source go, then the least recently used ones until `bytes` more fit the limit. */
static void make_room(const struct cabe_fitted_config *config, const struct cabe_fit_key *key, uint64_t bytes)
{
    char of_path[16], keep[40];
    struct sweep sweep;

    snprintf(of_path, sizeof of_path, "-%08" PRIx32 "-", (uint32_t)key->path_hash);
    snprintf(keep, sizeof keep, "-%08" PRIx32 "-%016" PRIx64 "-", (uint32_t)key->path_hash, key->identity);
    for (;;) {
        memset(&sweep, 0, sizeof sweep);
        sweep.of_path = of_path;
        sweep.keep = keep;
        each_copy(config->cache_dir, sweep_stale, &sweep);
        if (!config->cache_limit_bytes || sweep.total_bytes + bytes <= config->cache_limit_bytes ||
            !sweep.oldest[0] || unlink(sweep.oldest) != 0)
            return;
        cabe_log(config->log, CABE_LOG_INFO, "fitted_copy_evicted", "{s:s}", "path", sweep.oldest);
    }
}

static enum cabe_status disk_append(void *self, const void *data, uint64_t bytes, struct cabe_error *err)
{
    return cabe_outfile_write(self, data, bytes, err);
}

static enum cabe_status disk_rewrite(void *self, uint64_t offset, const void *data, uint64_t bytes,
                                     struct cabe_error *err)
{
    return cabe_outfile_write_at(self, offset, data, bytes, err);
}

static enum cabe_status disk_reserve(void *self, uint64_t bytes, struct cabe_error *err)
{
    return cabe_outfile_reserve(self, bytes, err);
}

static enum cabe_status make_on_disk(struct cabe_fitted **out, struct making *m, const struct cabe_fit_key *key,
                                     struct cabe_error *err)
{
    struct cabe_container_out to = {disk_append, disk_rewrite, disk_reserve, NULL};
    struct cabe_outfile *file = NULL;
    char path[PATH_MAX];
    enum cabe_status status;
    int fd;

    if (!copy_path(path, m->config, key))
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: path too long", m->config->cache_dir);
    cabe_outfile_sweep(m->config->cache_dir);
    status = cabe_outfile_open(&file, path, err);
    to.self = file;
    if (status == CABE_OK)
        status = write_copy(m, &to, path, key, err);
    if (status == CABE_OK)
        status = check_source(m->config, key->identity, err);
    if (status == CABE_OK)
        status = cabe_outfile_commit(file, err);
    cabe_outfile_close(file);
    if (status != CABE_OK)
        return status;
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return cabe_fail_errno(err, errno, "%s", path);
    return open_copy(out, fd, path, path, key, m->config->direct, err);
}

/* ---- the copy in memory: a file without a name ---- */

struct memory_file {
    int fd;
    uint64_t at;
};

static enum cabe_status memory_rewrite(void *self, uint64_t offset, const void *data, uint64_t bytes,
                                       struct cabe_error *err)
{
    const struct memory_file *file = self;

    for (uint64_t done = 0; done < bytes;) {
        ssize_t n = pwrite(file->fd, (const uint8_t *)data + done, bytes - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return cabe_fail_errno(err, n < 0 ? errno : EIO, "fitted copy in memory");
        done += (uint64_t)n;
    }
    return CABE_OK;
}

static enum cabe_status memory_append(void *self, const void *data, uint64_t bytes, struct cabe_error *err)
{
    struct memory_file *file = self;
    enum cabe_status status = memory_rewrite(file, file->at, data, bytes, err);

    file->at += bytes;
    return status;
}

static enum cabe_status memory_reserve(void *self, uint64_t bytes, struct cabe_error *err)
{
    const struct memory_file *file = self;

    return ftruncate(file->fd, (off_t)bytes) == 0 ? CABE_OK : cabe_fail_errno(err, errno, "fitted copy in memory");
}

static enum cabe_status make_in_memory(struct cabe_fitted **out, struct making *m, const struct cabe_fit_key *key,
                                       struct cabe_error *err)
{
    struct memory_file file = {memfd_create("cabe-fitted", MFD_CLOEXEC), 0};
    struct cabe_container_out to = {memory_append, memory_rewrite, memory_reserve, &file};
    char path[64];
    enum cabe_status status;

    if (file.fd < 0)
        return cabe_fail_errno(err, errno, "fitted copy in memory");
    status = write_copy(m, &to, "(memory)", key, err);
    if (status == CABE_OK)
        status = check_source(m->config, key->identity, err);
    if (status != CABE_OK) {
        close(file.fd);
        return status;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", file.fd);
    return open_copy(out, file.fd, path, "(memory)", key, 0, err);
}

enum cabe_status cabe_fitted_make(struct cabe_fitted **out, const struct cabe_fitted_config *config,
                                  const struct cabe_source *source, const struct cabe_model *model,
                                  struct cabe_error *err)
{
    struct making m = {.config = config, .source = source, .model = model};
    struct cabe_fit_key key;
    enum cabe_status status;
    int on_disk = config->cache_dir != NULL, charged = 0;

    *out = NULL;
    m.work_bytes = cabe_fitted_making_bytes(model, &config->choice);
    status = cabe_fit_key_read(&key, config->path, err);
    if (status == CABE_OK && config->identity)
        status = check_source(config, config->identity, err);
    if (status == CABE_OK)
        status = cabe_model_graph(&m.graph, model, &config->choice, 0, err);
    if (status == CABE_OK) {
        status = cabe_ledger_reserve(config->ledger, CABE_HOST, CABE_PURPOSE_STAGING, m.work_bytes, "fitting", err);
        charged = status == CABE_OK;
    }
    if (status == CABE_OK)
        status = cabe_pages_map(&m.work, m.work_bytes, 0, err);
    if (status == CABE_OK)
        status = cabe_tokenizer_compile(source, &m.tokenizer, &m.tokenizer_bytes, err);
    if (status == CABE_OK && on_disk) {
        make_room(config, &key, copy_bytes(&m));
        status = make_on_disk(out, &m, &key, err);
        if (status == CABE_ERR_NO_SPACE || status == CABE_ERR_PERMISSION || status == CABE_ERR_IO ||
            status == CABE_ERR_NOT_FOUND) {
            cabe_log(config->log, CABE_LOG_WARN, "fitted_copy_in_memory", "{s:s}", "reason", err ? err->text : "");
            on_disk = 0;
            status = CABE_OK;
        }
    }
    if (status == CABE_OK && !on_disk)
        status = make_in_memory(out, &m, &key, err);
    cabe_free(m.tokenizer);
    cabe_pages_unmap(m.work, m.work_bytes);
    if (charged)
        cabe_ledger_release(config->ledger, CABE_HOST, CABE_PURPOSE_STAGING, m.work_bytes, "fitting");
    cabe_graph_close(m.graph);
    return status;
}

/* ---- reading ---- */

const struct cabe_model *cabe_fitted_model(const struct cabe_fitted *f)
{
    return f->model;
}

const char *cabe_fitted_path(const struct cabe_fitted *f)
{
    return f->path;
}

uint64_t cabe_fitted_file_bytes(const struct cabe_fitted *f)
{
    return f->file_bytes;
}

int32_t cabe_fitted_n_segments(const struct cabe_fitted *f)
{
    return f->n_segments;
}

uint64_t cabe_fitted_segment_offset(const struct cabe_fitted *f, int32_t segment)
{
    const struct cabe_source_tensor *tensor = tensor_named(f, "segment.%d", segment);

    return tensor ? tensor->offset : 0;
}

static uint64_t page_end(uint64_t offset)
{
    return (offset + CABE_CONTAINER_ALIGN - 1) / CABE_CONTAINER_ALIGN * CABE_CONTAINER_ALIGN;
}

int cabe_fitted_streams(int32_t segment, int32_t n_segments, int64_t n)
{
    int32_t last = n_segments - 1;

    if (n <= 0 || segment <= 0 || segment > last)
        return 0;
    return segment == last ? n >= last : segment >= last - n;
}

/* The file is [header, tokenizer, host tables][segment 0][segment 1]...: the part of it that need not stay. */
static void find_hole(const struct cabe_fitted *f, int64_t n_streamed, uint64_t *begin, uint64_t *end)
{
    int32_t from = 0, to;

    *begin = *end = f->file_bytes;
    while (from < f->n_segments && n_streamed >= 0 && !cabe_fitted_streams(from, f->n_segments, n_streamed))
        from++;
    for (to = from; to < f->n_segments && (n_streamed < 0 || cabe_fitted_streams(to, f->n_segments, n_streamed));)
        to++;
    if (from < to)
        *begin = cabe_fitted_segment_offset(f, from);
    if (to < f->n_segments)
        *end = cabe_fitted_segment_offset(f, to);
}

void cabe_fitted_bytes(const struct cabe_fitted *f, int64_t n_streamed, uint64_t *weights, uint64_t *caches)
{
    uint64_t begin, end;

    find_hole(f, n_streamed, &begin, &end);
    end = end > begin ? page_end(end) : begin;
    *caches = f->n_segments > 0 ? cabe_fitted_segment_offset(f, 0) : page_end(f->file_bytes);
    *weights = page_end(f->file_bytes) - *caches - (end - begin);
}

/* Sums are in the order of the tensors in the file, which need not be that of the source's list. */
static uint64_t checksum_of(const struct cabe_fitted *f, const struct cabe_source_tensor *tensor)
{
    uint64_t rank = 0;
    int64_t sum = 0;

    for (size_t i = 0; i < cabe_source_n_tensors(f->source); i++)
        rank += cabe_source_tensor(f->source, i)->offset < tensor->offset;
    cabe_source_array_i64(f->source, CABE_KEY_CHECKSUMS, rank, &sum);
    return (uint64_t)sum;
}

void cabe_fitted_discard(const struct cabe_fitted *f)
{
    if (f->path[0] != '(')
        unlink(f->path);
}

static enum cabe_status wrong_sum(const struct cabe_fitted *f, const char *tensor, struct cabe_error *err)
{
    cabe_fitted_discard(f);
    return cabe_fail(err, CABE_ERR_CHANGED, "%s: %s: the checksum is wrong; the damaged copy was removed, start again",
                     f->path, tensor);
}

/*
 * Makes a tensor's pages resident and gives its sum. In pieces: the kernel holds the lock on the address space for as
 * long as one takes, and the thread that starts the program maps memory meanwhile.
 */
static uint64_t populate_and_sum(const struct cabe_fitted *f, const struct cabe_source_tensor *tensor)
{
    XXH3_state_t state;

    XXH3_64bits_reset(&state);
    for (uint64_t at = 0; at < tensor->bytes; at += POPULATE_PIECE) {
        uint64_t n = tensor->bytes - at < POPULATE_PIECE ? tensor->bytes - at : POPULATE_PIECE;
        uint8_t *piece = f->map + tensor->offset + at;

        madvise(piece, page_end(n), MADV_POPULATE_READ); /* kernels before 5.14: the sum touches every page */
        XXH3_64bits_update(&state, piece, n);
    }
    return XXH3_64bits_digest(&state) & INT64_MAX;
}

/* Populates and checks what is resident, in the order of the file, which is that of its use. */
static void *check_resident(void *self)
{
    struct cabe_fitted *f = self;

    /* Read from disk into huge pages, where the file system has them: 2 to 20 % more bytes a second. */
    (void)madvise(f->map, f->map_bytes, MADV_HUGEPAGE);
    for (size_t i = 0; i < cabe_source_n_tensors(f->source); i++) {
        const struct cabe_source_tensor *tensor = cabe_source_tensor(f->source, i);

        if (tensor->offset >= f->hole_begin && tensor->offset < f->hole_end)
            continue;
        if (populate_and_sum(f, tensor) != checksum_of(f, tensor)) {
            f->check_status = wrong_sum(f, tensor->name, &f->check_error);
            return NULL;
        }
    }
    return NULL;
}

static enum cabe_status start_check(struct cabe_fitted *f, struct cabe_error *err)
{
    pthread_attr_t attributes;
    int failed;

    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, CHECK_STACK_BYTES);
    failed = pthread_create(&f->checker, &attributes, check_resident, f);
    pthread_attr_destroy(&attributes);
    if (failed)
        return cabe_fail_errno(err, failed, "%s: checking thread", f->path);
    f->checking = 1;
    return CABE_OK;
}

/* Maps what stays, each side of the hole under a guard of its own. */
static enum cabe_status map_kept(struct cabe_fitted *f, struct cabe_error *err)
{
    uint64_t hole = f->hole_end - f->hole_begin, behind = f->file_bytes - f->hole_end;
    enum cabe_status status;

    f->map_bytes = behind ? f->file_bytes : f->hole_begin;
    f->map = mmap(NULL, f->map_bytes, PROT_READ, MAP_SHARED, f->fd, 0);
    if (f->map == MAP_FAILED) {
        f->map = NULL;
        return cabe_fail_errno(err, errno, "%s: mapping %" PRIu64 " bytes", f->path, f->map_bytes);
    }
    status = cabe_guard_add(&f->guard[0], f->map, f->hole_begin, CABE_GUARD_READ, f->fd, f->path, err);
    if (status != CABE_OK || !behind || !hole)
        return status;
    if (mmap(f->map + f->hole_begin, hole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) ==
        MAP_FAILED)
        return cabe_fail_errno(err, errno, "%s: hole of %" PRIu64 " bytes", f->path, hole);
    return cabe_guard_add(&f->guard[1], f->map + f->hole_end, behind, CABE_GUARD_READ, f->fd, f->path, err);
}

enum cabe_status cabe_fitted_load(struct cabe_fitted *f, struct cabe_ledger *ledger, int64_t n_streamed,
                                  const char *place, struct cabe_error *err)
{
    enum cabe_status status;

    cabe_fitted_bytes(f, n_streamed, &f->weights_bytes, &f->caches_bytes);
    snprintf(f->place, sizeof f->place, "%s", place);
    find_hole(f, n_streamed, &f->hole_begin, &f->hole_end);
    if (n_streamed != CABE_KEEP_ALL && !(f->verified = cabe_calloc(cabe_source_n_tensors(f->source), 1)))
        return cabe_fail(err, CABE_ERR_OOM, "%s: marks", f->path);
    status = cabe_ledger_reserve(ledger, CABE_HOST, CABE_PURPOSE_WEIGHTS, f->weights_bytes, place, err);
    if (status != CABE_OK)
        return status;
    status = cabe_ledger_reserve(ledger, CABE_HOST, CABE_PURPOSE_CACHES, f->caches_bytes, place, err);
    if (status != CABE_OK) {
        cabe_ledger_release(ledger, CABE_HOST, CABE_PURPOSE_WEIGHTS, f->weights_bytes, place);
        return status;
    }
    f->ledger = ledger;
    if (n_streamed != CABE_KEEP_ALL && f->direct && f->path[0] != '(')
        f->direct_fd = open(f->path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    status = map_kept(f, err);
    f->unchecked = status == CABE_OK;
    return status;
}

enum cabe_status cabe_fitted_start(struct cabe_fitted *f, struct cabe_error *err)
{
    if (!f->unchecked)
        return CABE_OK;
    f->unchecked = 0;
    return start_check(f, err);
}

enum cabe_status cabe_fitted_check(struct cabe_fitted *f, struct cabe_error *err)
{
    enum cabe_status begun = cabe_fitted_start(f, err);

    if (begun != CABE_OK)
        return begun;
    if (f->checking) {
        pthread_join(f->checker, NULL);
        f->checking = 0;
    }
    for (int i = 0; i < 2; i++) {
        enum cabe_status status = f->guard[i] ? cabe_guard_check(f->guard[i], err) : CABE_OK;

        if (status != CABE_OK)
            return status;
    }
    if (f->check_status != CABE_OK && err)
        *err = f->check_error;
    return f->check_status;
}

enum cabe_status cabe_fitted_verify(struct cabe_fitted *f, struct cabe_error *err)
{
    uint8_t *piece = cabe_malloc(VERIFY_PIECE);
    XXH3_state_t *state = XXH3_createState();
    enum cabe_status status = CABE_OK;

    if (!piece || !state)
        status = cabe_fail(err, CABE_ERR_OOM, "%s: checking buffer", f->path);
    for (size_t i = 0; i < cabe_source_n_tensors(f->source) && status == CABE_OK; i++) {
        const struct cabe_source_tensor *tensor = cabe_source_tensor(f->source, i);

        XXH3_64bits_reset(state);
        for (uint64_t at = 0; at < tensor->bytes && status == CABE_OK; at += VERIFY_PIECE) {
            uint64_t n = tensor->bytes - at < VERIFY_PIECE ? tensor->bytes - at : VERIFY_PIECE;

            status = cabe_source_read(f->source, tensor, at, n, piece, err);
            XXH3_64bits_update(state, piece, n);
        }
        if (status == CABE_OK && (XXH3_64bits_digest(state) & INT64_MAX) != checksum_of(f, tensor))
            status = wrong_sum(f, tensor->name, err);
    }
    XXH3_freeState(state);
    cabe_free(piece);
    return status;
}

const void *cabe_fitted_tokenizer(const struct cabe_fitted *f, size_t *bytes)
{
    const struct cabe_source_tensor *tensor = cabe_source_find(f->source, "tokenizer");

    if (!tensor || !f->map)
        return NULL;
    *bytes = tensor->bytes;
    return f->map + tensor->offset;
}

const void *cabe_fitted_host(const struct cabe_fitted *f, const char *name)
{
    const struct cabe_source_tensor *tensor;
    char full[80];

    snprintf(full, sizeof full, "host.%.50s", name);
    tensor = cabe_source_find(f->source, full);
    return tensor && f->map ? f->map + tensor->offset : NULL;
}

const void *cabe_fitted_memory(const struct cabe_fitted *f, uint64_t *bytes)
{
    *bytes = f->map_bytes;
    return f->map;
}

/* The sum of a tensor that is read in order for the first time; read in another way it stays unknown. */
static enum cabe_status sum_first_read(struct cabe_fitted *f, uint64_t offset, const void *data, uint64_t bytes,
                                       struct cabe_error *err)
{
    for (size_t i = 0; f->verified && i < cabe_source_n_tensors(f->source); i++) {
        const struct cabe_source_tensor *tensor = cabe_source_tensor(f->source, i);

        if (offset < tensor->offset || offset + bytes > tensor->offset + tensor->bytes || f->verified[i])
            continue;
        if (offset == tensor->offset)
            XXH3_64bits_reset(&f->sum);
        else if (offset != f->summed)
            continue;
        XXH3_64bits_update(&f->sum, data, bytes);
        f->summed = offset + bytes;
        if (f->summed < tensor->offset + tensor->bytes)
            return CABE_OK;
        if ((XXH3_64bits_digest(&f->sum) & INT64_MAX) != checksum_of(f, tensor))
            return wrong_sum(f, tensor->name, err);
        f->verified[i] = 1;
    }
    return CABE_OK;
}

/* Reads past the page cache want whole blocks of the disk; what is not, or is refused, is read as usual. */
static int is_direct(const struct cabe_fitted *f, uint64_t offset, const void *data, uint64_t bytes)
{
    return f->direct_fd >= 0 && ((offset | bytes | (uintptr_t)data) & (DIRECT_ALIGN - 1)) == 0;
}

enum cabe_status cabe_fitted_read(void *self, uint64_t offset, void *data, uint64_t bytes, struct cabe_error *err)
{
    struct cabe_fitted *f = self;
    int direct = is_direct(f, offset, data, bytes);

    for (uint64_t done = 0; done < bytes;) {
        ssize_t n = pread(direct ? f->direct_fd : f->fd, (uint8_t *)data + done, bytes - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && direct) {
            direct = 0;
            continue;
        }
        if (n < 0)
            return cabe_fail_errno(err, errno, "%s: reading at %" PRIu64, f->path, offset + done);
        if (n == 0)
            return cabe_fail(err, CABE_ERR_CHANGED, "%s: ends at %" PRIu64 ", wanted %" PRIu64 " bytes at %" PRIu64,
                             f->path, offset + done, bytes, offset);
        done += (uint64_t)n;
        direct = direct && done % DIRECT_ALIGN == 0; /* a short read may end anywhere */
    }
    if (!direct && f->direct) /* the same memory for the system, a little later */
        posix_fadvise(f->fd, (off_t)offset, (off_t)bytes, POSIX_FADV_DONTNEED);
    return sum_first_read(f, offset, data, bytes, err);
}

enum cabe_status cabe_fitted_remove(const char *cache_dir, const char *path, uint64_t *freed, struct cabe_error *err)
{
    struct sweep sweep;
    struct cabe_fit_key key;
    char of_path[16];

    memset(&sweep, 0, sizeof sweep);
    if (path) {
        enum cabe_status status = cabe_fit_key_read(&key, path, err);

        if (status != CABE_OK)
            return status;
        snprintf(of_path, sizeof of_path, "-%08" PRIx32 "-", (uint32_t)key.path_hash);
        sweep.of_path = of_path;
    }
    each_copy(cache_dir, sweep_stale, &sweep);
    *freed = sweep.freed_bytes;
    return CABE_OK;
}
