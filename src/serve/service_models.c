/* Models by name: those of the store and those that were added; loading, unloading, pins; their tokenizers. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "base/home.h"
#include "base/memory.h"
#include "serve/service_impl.h"

#define LET_GO_NS UINT64_C(1000000000)

/* ---- entries ---- */

/* Under the lock. */
static struct cabe_service_entry *find(struct cabe_service *service, const char *name)
{
    for (struct cabe_service_entry *e = service->entries; e; e = e->next)
        if (strcmp(e->view.name, name) == 0)
            return e;
    return NULL;
}

static uint64_t folder_bytes(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    struct stat info;
    uint64_t bytes = 0;

    if (!dir)
        return 0;
    while ((entry = readdir(dir)))
        if (entry->d_name[0] != '.' && fstatat(dirfd(dir), entry->d_name, &info, 0) == 0 && S_ISREG(info.st_mode))
            bytes += (uint64_t)info.st_size;
    closedir(dir);
    return bytes;
}

void cabe_model_learn_file(struct cabe_service_model *view, const char *path)
{
    struct stat info;

    if (stat(path, &info) != 0)
        return;
    view->modified_s = (int64_t)info.st_mtim.tv_sec;
    view->file_bytes = S_ISREG(info.st_mode) ? (uint64_t)info.st_size : folder_bytes(path);
}

static struct cabe_service_entry *new_entry(struct cabe_service *service, const char *name, const char *path)
{
    const struct cabe_service_config *config = &service->config;
    struct cabe_queue_config limits = {.n_max = config->queue_requests, .tokens_max = config->queue_tokens};
    struct cabe_service_entry *e = cabe_calloc(1, sizeof *e);
    pthread_condattr_t attributes;

    if (!e)
        return NULL;
    for (int c = 0; c < CABE_N_CLASSES; c++) /* aged in time to begin in time */
        limits.age_ns[c] = (uint64_t)(config->first_token_s / 3 * 1e9);
    e->service = service;
    snprintf(e->view.name, sizeof e->view.name, "%s", name);
    snprintf(e->view.path, sizeof e->view.path, "%.*s", (int)sizeof e->view.path - 1, path);
    snprintf(e->path, sizeof e->path, "%s", path);
    e->view.keep_alive_s = config->keep_alive_s;
    e->kind = -1;
    e->bytes_per_token = CABE_BYTES_PER_TOKEN;
    cabe_queue_init(&e->queue, &limits);
    cabe_model_learn_file(&e->view, path);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&e->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    return e;
}

/* Makes the entry, unless somebody has just made it. */
static enum cabe_status enter(struct cabe_service_entry **out, struct cabe_service *service, const char *name,
                              const char *path, struct cabe_error *err)
{
    struct cabe_service_entry *made = new_entry(service, name, path), *e;
    enum cabe_status status = CABE_OK;

    if (!made)
        return cabe_fail(err, CABE_ERR_OOM, "%s: its entry", name);
    pthread_mutex_lock(&service->lock);
    e = find(service, name);
    if (!e && service->n_entries == CABE_ENTRIES_MAX)
        status = cabe_fail(err, CABE_ERR_LIMIT, "%d models were asked for, and there is room for no more",
                           CABE_ENTRIES_MAX);
    if (!e && status == CABE_OK) {
        made->next = service->entries;
        service->entries = e = made;
        service->n_entries++;
        made = NULL;
    }
    pthread_mutex_unlock(&service->lock);
    if (made) {
        pthread_cond_destroy(&made->wake);
        cabe_free(made);
    }
    *out = e;
    return status;
}

enum cabe_status cabe_entry_find(struct cabe_service_entry **out, struct cabe_service *service, const char *name,
                                 struct cabe_error *err)
{
    char path[CABE_STORE_PATH_MAX];
    enum cabe_status status;

    *out = NULL;
    if (!name || !name[0] || strlen(name) >= CABE_SERVICE_NAME_MAX)
        return cabe_fail(err, CABE_ERR_NOT_FOUND, "no model was named");
    pthread_mutex_lock(&service->lock);
    *out = find(service, name);
    pthread_mutex_unlock(&service->lock);
    if (*out)
        return CABE_OK;
    status = cabe_store_path(name, path, err);
    if (status == CABE_ERR_ARGUMENT || status == CABE_ERR_NOT_FOUND)
        return cabe_fail(err, CABE_ERR_NOT_FOUND, "model '%.200s' not found", name);
    if (status != CABE_OK)
        return cabe_fail(err, status, "model '%.200s' cannot be looked for", name);
    return enter(out, service, name, path, err);
}

enum cabe_status cabe_service_add(struct cabe_service *service, const char *name, const char *path,
                                  struct cabe_error *err)
{
    struct cabe_service_entry *e;
    struct stat info;
    enum cabe_status status;

    if (!name[0] || strlen(name) >= CABE_SERVICE_NAME_MAX || strlen(path) >= CABE_STORE_PATH_MAX)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%.64s: a name of 1 to %d bytes is wanted", name,
                         CABE_SERVICE_NAME_MAX - 1);
    if (stat(path, &info) != 0)
        return cabe_fail(err, CABE_ERR_NOT_FOUND, "%s: no such file or folder", path);
    status = enter(&e, service, name, path, err);
    if (status != CABE_OK)
        return status;
    if (strcmp(e->path, path) != 0)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: is already %s", name, e->path);
    pthread_mutex_lock(&service->lock);
    e->is_added = 1;
    pthread_mutex_unlock(&service->lock);
    return CABE_OK;
}

/* Every `what` in the text becomes `by`; what does not fit any more is cut. */
static void replace(char text[CABE_ERROR_TEXT_MAX], const char *what, const char *by)
{
    size_t n_what = strlen(what), n_by = strlen(by);
    char *at = text;

    while (n_what > 0 && (at = strstr(at, what))) {
        size_t before = (size_t)(at - text), rest = strlen(at + n_what), room = CABE_ERROR_TEXT_MAX - 1 - before;
        size_t put = n_by < room ? n_by : room;

        rest = rest < room - put ? rest : room - put;
        memmove(at + put, at + n_what, rest);
        memcpy(at, by, put);
        at += put;
        at[rest] = '\0';
    }
}

void cabe_model_hide_path(const struct cabe_service_entry *e, struct cabe_error *err)
{
    char cache[CABE_HOME_PATH_MAX];

    replace(err->text, e->path, e->view.name);
    if (cabe_home_path(cache, CABE_HOME_CACHE, NULL) == CABE_OK)
        replace(err->text, cache, "the cache");
}

/* ---- views ---- */

/* Under the lock. */
static void view_of(const struct cabe_service_entry *e, struct cabe_service_model *out)
{
    uint64_t now_ns = cabe_clock_ns();

    *out = e->view;
    out->idle_s = e->queue.n == 0 && e->view.n_running == 0 && e->idle_since_ns ? cabe_seconds(e->idle_since_ns, now_ns)
                                                                                : 0;
    out->n_waiting = e->queue.n;
    out->waiting_tokens = e->queue.tokens;
    out->tokens_per_s = cabe_meter_rate(&e->meter, now_ns);
}

/* Family, type and parameters, from the headers of its files. */
static void read_headers(const char *path, struct cabe_service_model *view, int *kind)
{
    struct cabe_source_summary summary;
    struct cabe_source *source;
    struct cabe_model *model;

    if (cabe_source_open(&source, path, NULL) != CABE_OK)
        return;
    cabe_source_summarise(source, &summary);
    snprintf(view->family, sizeof view->family, "%.*s", (int)sizeof view->family - 1, summary.architecture);
    snprintf(view->quantisation, sizeof view->quantisation, "%.*s", (int)sizeof view->quantisation - 1, summary.type);
    view->n_parameters = summary.n_params;
    if (cabe_model_describe(&model, source, NULL) == CABE_OK) {
        *kind = cabe_model_config(model)->kind == CABE_MODEL_DECODER;
        view->writes = *kind;
        view->width = cabe_model_config(model)->width;
        cabe_model_close(model);
    }
    cabe_source_close(source);
}

/* What is known of its files is read once, and again when they have changed. */
static void look_at_file(struct cabe_service_entry *e)
{
    struct cabe_service_model seen = {0};
    int kind = -1, looked;

    cabe_model_learn_file(&seen, e->path);
    pthread_mutex_lock(&e->service->lock);
    looked = e->is_seen && e->view.modified_s == seen.modified_s && e->view.file_bytes == seen.file_bytes;
    pthread_mutex_unlock(&e->service->lock);
    if (looked)
        return;
    read_headers(e->path, &seen, &kind);
    pthread_mutex_lock(&e->service->lock);
    e->is_seen = 1;
    e->view.modified_s = seen.modified_s;
    e->view.file_bytes = seen.file_bytes;
    memcpy(e->view.family, seen.family, sizeof seen.family);
    memcpy(e->view.quantisation, seen.quantisation, sizeof seen.quantisation);
    e->view.n_parameters = seen.n_parameters;
    if (e->view.state == CABE_SERVICE_ABSENT && kind >= 0) {
        e->kind = kind;
        e->view.writes = seen.writes;
        e->view.width = seen.width;
    }
    pthread_mutex_unlock(&e->service->lock);
}

enum cabe_status cabe_service_model(struct cabe_service *service, const char *name, struct cabe_service_model *out,
                                    struct cabe_error *err)
{
    struct cabe_service_entry *e;
    enum cabe_status status = cabe_entry_find(&e, service, name, err);

    if (status != CABE_OK)
        return status;
    look_at_file(e);
    pthread_mutex_lock(&service->lock);
    view_of(e, out);
    pthread_mutex_unlock(&service->lock);
    return CABE_OK;
}

static int is_stored(const struct cabe_store_entry *stored, size_t n_stored, const char *name)
{
    for (size_t i = 0; i < n_stored; i++)
        if (strcmp(stored[i].name, name) == 0)
            return 1;
    return 0;
}

size_t cabe_service_models(struct cabe_service *service, struct cabe_service_model *out, size_t n_max)
{
    struct cabe_store_entry *stored = NULL;
    struct cabe_service_entry *e;
    size_t n_stored = 0, n = 0;

    if (cabe_store_list(&stored, &n_stored, NULL) != CABE_OK)
        n_stored = 0;
    for (size_t i = 0; i < n_stored; i++)
        (void)!cabe_entry_find(&e, service, stored[i].name, NULL);
    pthread_mutex_lock(&service->lock);
    for (e = service->entries; e; e = e->next) { /* entries stay, new ones come in front */
        if (!e->is_added && e->view.state == CABE_SERVICE_ABSENT && !is_stored(stored, n_stored, e->view.name))
            continue; /* removed from the store since it was asked for */
        pthread_mutex_unlock(&service->lock);
        look_at_file(e);
        pthread_mutex_lock(&service->lock);
        if (n < n_max)
            view_of(e, &out[n]);
        n++;
    }
    pthread_mutex_unlock(&service->lock);
    cabe_free(stored);
    return n;
}

/* ---- in and out of memory ---- */

enum cabe_status cabe_service_load(struct cabe_service *service, const char *name,
                                   void (*done)(void *self, enum cabe_status status, const struct cabe_error *err),
                                   void *self, struct cabe_error *err)
{
    struct cabe_service_load wish = {name, (double)NAN, 0, done, self};

    return cabe_service_load_as(service, &wish, err);
}

void cabe_keep_alive_set(struct cabe_service_entry *e, double keep_alive_s)
{
    int is_there = e->view.state == CABE_SERVICE_READY || e->view.state == CABE_SERVICE_LOADING || e->is_acquiring;

    if (keep_alive_s == keep_alive_s)
        e->view.keep_alive_s = keep_alive_s;
    else if (!is_there && e->queue.n == 0 && !e->loads)
        e->view.keep_alive_s = e->service->config.keep_alive_s; /* a wish goes with the model */
}

enum cabe_status cabe_service_load_as(struct cabe_service *service, const struct cabe_service_load *wish,
                                      struct cabe_error *err)
{
    struct cabe_service_entry *e;
    struct cabe_load_waiter *waiter;
    enum cabe_status status = cabe_entry_find(&e, service, wish->name, err);

    if (status != CABE_OK)
        return status;
    waiter = cabe_calloc(1, sizeof *waiter);
    if (!waiter)
        return cabe_fail(err, CABE_ERR_OOM, "%s: loading it", wish->name);
    waiter->done = wish->done;
    waiter->self = wish->self;
    waiter->context = wish->context;
    pthread_mutex_lock(&service->lock);
    if (service->closing || service->draining)
        status = cabe_fail(err, CABE_ERR_BUSY, "the server is shutting down");
    else
        status = cabe_host_start(e, err);
    if (status == CABE_OK) {
        cabe_keep_alive_set(e, wish->keep_alive_s);
        cabe_context_ask(e, wish->context);
        waiter->next = e->loads;
        e->loads = waiter;
        waiter = NULL;
        cabe_keeper_call(service); /* it looks after a model that is there */
    }
    pthread_mutex_unlock(&service->lock);
    cabe_free(waiter);
    return status;
}

enum cabe_status cabe_service_expire(struct cabe_service *service, const char *name, struct cabe_error *err)
{
    struct cabe_service_entry *e;
    enum cabe_status status = cabe_entry_find(&e, service, name, err);
    int is_busy_now;

    if (status != CABE_OK)
        return status;
    pthread_mutex_lock(&service->lock);
    e->view.keep_alive_s = 0; /* whoever uses it last unloads it */
    is_busy_now = e->queue.n > 0 || e->view.n_running > 0 || e->loads || e->is_serving || e->is_acquiring;
    pthread_mutex_unlock(&service->lock);
    if (is_busy_now)
        return CABE_OK;
    (void)!cabe_pool_keep_alive(service->pool, e->view.name, 0, NULL);
    status = cabe_pool_unload(service->pool, e->view.name, err);
    return status == CABE_ERR_NOT_FOUND || status == CABE_ERR_BUSY ? CABE_OK : status;
}

/*
 * Under the lock. Whether somebody uses it. A host whose last request has ended lets go of the model in a moment: that
 * is waited for.
 */
static int is_busy(struct cabe_service_entry *e)
{
    uint64_t until_ns = cabe_clock_ns() + LET_GO_NS;
    struct timespec until = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};

    while (e->queue.n == 0 && e->view.n_running == 0 && !e->loads && e->n_borrowers == 0 && e->is_serving && cabe_clock_ns() < until_ns)
        (void)pthread_cond_timedwait(&e->service->changed, &e->service->lock, &until);
    return e->queue.n > 0 || e->view.n_running > 0 || e->loads || e->n_borrowers > 0 || e->is_serving;
}

enum cabe_status cabe_service_unload(struct cabe_service *service, const char *name, struct cabe_error *err)
{
    struct cabe_service_entry *e;
    enum cabe_status status = cabe_entry_find(&e, service, name, err);
    int busy;

    if (status != CABE_OK)
        return status;
    pthread_mutex_lock(&service->lock);
    if (e->view.state == CABE_SERVICE_ABSENT && e->view.failed[0] && !is_busy(e)) { /* that is noted, and forgotten */
        e->view.failed[0] = '\0';
        pthread_mutex_unlock(&service->lock);
        return CABE_OK;
    }
    busy = is_busy(e);
    pthread_mutex_unlock(&service->lock);
    if (busy)
        return cabe_fail(err, CABE_ERR_BUSY, "%s: is in use", name);
    return cabe_pool_unload(service->pool, e->view.name, err);
}

enum cabe_status cabe_service_pin(struct cabe_service *service, const char *name, int pinned, struct cabe_error *err)
{
    struct cabe_service_entry *e;
    enum cabe_status status = cabe_entry_find(&e, service, name, err);

    if (status == CABE_OK)
        status = cabe_pool_pin(service->pool, e->view.name, pinned, err);
    if (status != CABE_OK)
        return status;
    pthread_mutex_lock(&service->lock);
    e->view.pinned = pinned != 0;
    pthread_mutex_unlock(&service->lock);
    return CABE_OK;
}

/* ---- tokens ---- */

static enum cabe_status borrow(struct cabe_service *service, const char *model, struct cabe_pool_use **use,
                               const struct cabe_tokenizer **tokenizer, struct cabe_error *err)
{
    struct cabe_service_entry *e;
    const struct cabe_loaded *loaded;
    uint64_t keep_ns;
    enum cabe_status status = cabe_entry_find(&e, service, model, err);

    if (status == CABE_OK)
        status = cabe_loaded_acquire(e, NULL, use, err);
    if (status != CABE_OK)
        return status;
    loaded = cabe_pool_object(*use);
    *tokenizer = loaded->generator ? cabe_generator_tokenizer(loaded->generator)
                                   : cabe_encoder_tokenizer(loaded->encoder);
    pthread_mutex_lock(&service->lock);
    e->idle_since_ns = cabe_clock_ns();
    keep_ns = cabe_entry_keep_alive_ns(e);
    cabe_keeper_call(service);
    pthread_mutex_unlock(&service->lock);
    (void)!cabe_pool_keep_alive(service->pool, e->view.name, keep_ns, NULL); /* it may have been loaded for this alone */
    return CABE_OK;
}

enum cabe_status cabe_service_tokenize(struct cabe_service *service, const char *model, const char *text, size_t n,
                                       int32_t **ids, size_t *n_ids, struct cabe_error *err)
{
    struct cabe_encode_options options = {.parse_special = 1};
    struct cabe_encoding encoding = {0};
    const struct cabe_tokenizer *tokenizer;
    struct cabe_pool_use *use;
    enum cabe_status status = borrow(service, model, &use, &tokenizer, err);

    *ids = NULL;
    *n_ids = 0;
    if (status != CABE_OK)
        return status;
    status = cabe_tokenizer_encode(tokenizer, text, n, &options, &encoding, err);
    if (status == CABE_OK) {
        *ids = cabe_malloc(encoding.n * sizeof **ids);
        *n_ids = encoding.n;
        if (*ids && encoding.n)
            memcpy(*ids, encoding.ids, encoding.n * sizeof **ids);
        else if (!*ids)
            status = cabe_fail(err, CABE_ERR_OOM, "%zu tokens", encoding.n);
    }
    cabe_encoding_clear(&encoding);
    cabe_pool_release(service->pool, use);
    return status;
}

static enum cabe_status decode(const struct cabe_tokenizer *tokenizer, const int32_t *ids, size_t n, char **text,
                               size_t *n_bytes, struct cabe_error *err)
{
    struct cabe_decoder decoder = {.special = 1};
    size_t room = cabe_decoder_room(tokenizer) + 8, capacity = 256 + room, used = 0;
    char *out = cabe_malloc(capacity);

    for (size_t i = 0; i < n && out; i++) {
        if (capacity - used < room + 8) {
            char *grown = cabe_realloc(out, 2 * capacity, 1);

            if (!grown)
                cabe_free(out);
            out = grown;
            capacity *= 2;
        }
        if (out)
            used += cabe_decoder_put(&decoder, tokenizer, ids[i], out + used);
    }
    if (!out)
        return cabe_fail(err, CABE_ERR_OOM, "the text of %zu tokens", n);
    used += cabe_decoder_end(&decoder, out + used);
    out[used] = '\0';
    *text = out;
    *n_bytes = used;
    return CABE_OK;
}

enum cabe_status cabe_service_detokenize(struct cabe_service *service, const char *model, const int32_t *ids, size_t n,
                                         char **text, size_t *n_bytes, struct cabe_error *err)
{
    const struct cabe_tokenizer *tokenizer;
    struct cabe_pool_use *use;
    enum cabe_status status = borrow(service, model, &use, &tokenizer, err);

    *text = NULL;
    *n_bytes = 0;
    if (status != CABE_OK)
        return status;
    status = decode(tokenizer, ids, n, text, n_bytes, err);
    cabe_pool_release(service->pool, use);
    return status;
}
