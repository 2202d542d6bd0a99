#include "runtime/pool_impl.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/utf8.h"

/* How often one load is tried again after the ledger refused it although the pool had seen room. */
#define TRIES_MAX 8
#define CANCEL_LOOK_NS UINT64_C(50000000)
/* Of a step inside cabe_pool_acquire(): things have changed, look the key up again. */
#define LOOK_AGAIN ((enum cabe_status)0x7FFF)

uint64_t cabe_pool_now(const struct cabe_pool *pool)
{
    return pool->config.clock ? pool->config.clock(pool->config.clock_self) : cabe_clock_ns();
}

enum cabe_status cabe_pool_open(struct cabe_pool **out, struct cabe_ledger *ledger, struct cabe_log *log,
                                struct cabe_error *err)
{
    struct cabe_pool *pool = cabe_calloc(1, sizeof *pool);
    pthread_condattr_t attributes;

    *out = NULL;
    if (!pool)
        return cabe_fail(err, CABE_ERR_OOM, "pool: %zu bytes", sizeof *pool);
    pool->ledger = ledger;
    pool->log = log;
    pool->last_key = -1;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&pool->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    *out = pool;
    return CABE_OK;
}

void cabe_pool_configure(struct cabe_pool *pool, const struct cabe_pool_config *config)
{
    pthread_mutex_lock(&pool->lock);
    pool->config = *config;
    pthread_cond_broadcast(&pool->changed);
    pthread_mutex_unlock(&pool->lock);
}

/* ---- The list. All under the lock. ---- */

struct cabe_pool_use *cabe_pool_find(struct cabe_pool *pool, const char *key)
{
    struct cabe_pool_use *entry = pool->first;

    while (entry && strcmp(entry->key, key) != 0)
        entry = entry->next;
    return entry;
}

static void link_last(struct cabe_pool *pool, struct cabe_pool_use *entry)
{
    entry->previous = pool->last;
    entry->next = NULL;
    *(pool->last ? &pool->last->next : &pool->first) = entry;
    pool->last = entry;
    entry->is_linked = 1;
    pool->n_entries++;
}

static void unlink_entry(struct cabe_pool *pool, struct cabe_pool_use *entry)
{
    *(entry->previous ? &entry->previous->next : &pool->first) = entry->next;
    *(entry->next ? &entry->next->previous : &pool->last) = entry->previous;
    entry->is_linked = 0;
    pool->n_entries--;
}

void cabe_pool_free_if_unheld(struct cabe_pool_use *entry)
{
    if (entry->is_linked || entry->n_uses > 0 || entry->n_waiting > 0)
        return;
    if (entry->memory)
        entry->memory->held--;
    cabe_free(entry);
}

static void announce(struct cabe_pool *pool)
{
    pool->n_ended++;
    pthread_cond_broadcast(&pool->changed);
}

void cabe_pool_wait(struct cabe_pool *pool, uint64_t until_ns, const struct cabe_cancel *cancel)
{
    uint64_t now_ns = cabe_pool_now(pool), wait_ns = until_ns > now_ns ? until_ns - now_ns : 1;
    struct timespec until;

    if (!cancel && until_ns == 0) {
        pthread_cond_wait(&pool->changed, &pool->lock);
        return;
    }
    if (until_ns == 0 || (cancel && wait_ns > CANCEL_LOOK_NS))
        wait_ns = CANCEL_LOOK_NS;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(wait_ns / 1000000000);
    until.tv_nsec += (long)(wait_ns % 1000000000);
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&pool->changed, &pool->lock, &until);
}

/* ---- Unloading ---- */

void cabe_pool_unload_entry(struct cabe_pool *pool, struct cabe_pool_use *entry)
{
    assert(entry->state == CABE_POOL_IDLE);
    entry->state = CABE_POOL_UNLOADING;
    pool->n_busy++;
    pthread_mutex_unlock(&pool->lock);
    entry->unload(entry->object);
    cabe_memory_trim();
    cabe_log(pool->log, CABE_LOG_INFO, "unloaded", "{s:o}", "key",
             cabe_json_text(entry->key, strlen(entry->key)));
    pthread_mutex_lock(&pool->lock);
    pool->n_busy--;
    pool->stats.n_unloads++;
    pool->stats.n_resident--;
    unlink_entry(pool, entry);
    announce(pool);
    cabe_pool_free_if_unheld(entry);
}

/* ---- Loading ---- */

/*
 * After a load that the ledger refused: makes a change for the better, or waits for one; 0 when none can
 * come. `n_ended` was the pool's count when the load began.
 */
static int can_try_again(struct cabe_pool *pool, uint64_t n_ended, const struct cabe_cancel *cancel)
{
    struct cabe_pool_use *victim = cabe_pool_least(pool);

    if (victim) {
        pool->stats.n_evictions++;
        cabe_pool_unload_entry(pool, victim);
        return 1;
    }
    if (pool->n_busy > 0) {
        cabe_pool_wait(pool, 0, cancel);
        return 1;
    }
    return pool->n_ended != n_ended;
}

static void log_load(struct cabe_pool *pool, const char *key, enum cabe_status status, uint64_t load_ns)
{
    cabe_log(pool->log, status == CABE_OK ? CABE_LOG_INFO : CABE_LOG_WARN, "loaded", "{s:o,s:s,s:f}", "key",
             cabe_json_text(key, strlen(key)), "status", cabe_status_name(status), "seconds",
             (double)load_ns / 1e9);
}

/* Under the lock, which it gives up while source->load() runs. */
static enum cabe_status load(struct cabe_pool *pool, struct cabe_pool_use *entry,
                             const struct cabe_pool_source *source, const struct cabe_cancel *cancel,
                             struct cabe_error *err)
{
    enum cabe_status status;

    for (int attempt = 1;; attempt++) {
        uint64_t n_ended, load_ns;
        void *object = NULL;

        status = cabe_pool_room(pool, entry->key, entry->bytes.peak, cancel, err);
        if (status != CABE_OK)
            return status;
        n_ended = pool->n_ended;
        pool->n_busy++;
        load_ns = cabe_pool_now(pool);
        pthread_mutex_unlock(&pool->lock);
        status = source->load(source->self, cancel, &object, err);
        pthread_mutex_lock(&pool->lock);
        load_ns = cabe_pool_now(pool) - load_ns;
        log_load(pool, entry->key, status, load_ns);
        pool->n_busy--;
        if (status == CABE_OK) {
            entry->object = object;
            entry->load_ns = load_ns;
            return CABE_OK;
        }
        if (status != CABE_ERR_BUDGET || attempt == TRIES_MAX || cabe_cancelled(cancel) ||
            !can_try_again(pool, n_ended, cancel))
            return status;
    }
}

static struct cabe_pool_use *new_entry(const char *key, struct cabe_pool_key *memory,
                                       const struct cabe_pool_source *source)
{
    size_t bytes = strlen(key) + 1;
    struct cabe_pool_use *entry = cabe_calloc(1, sizeof *entry + bytes);

    if (!entry)
        return NULL;
    memcpy(entry->key, key, bytes);
    entry->state = CABE_POOL_LOADING;
    entry->unload = source->unload;
    entry->memory = memory;
    if (memory)
        memory->held++;
    return entry;
}

/* Under the lock. Who waits for the entry gets a use at once, so that nobody can evict it before they wake.
 */
static void load_succeeded(struct cabe_pool *pool, struct cabe_pool_use *entry)
{
    entry->n_uses = 1 + entry->n_waiting;
    entry->n_acquires = (uint64_t)entry->n_uses;
    entry->state = CABE_POOL_IN_USE;
    pool->stats.n_loads++;
    pool->stats.n_resident++;
    pool->stats.load_ns += entry->load_ns;
    if (entry->memory)
        entry->memory->load_ns = entry->load_ns;
    unlink_entry(pool, entry);
    link_last(pool, entry);
}

/* Under the lock. The entry lives on for those who wait for it, and nobody else finds it. */
static void load_failed(struct cabe_pool *pool, struct cabe_pool_use *entry, const struct cabe_error *error)
{
    entry->is_failed = 1;
    entry->error = *error;
    pool->stats.n_failed_loads++;
    unlink_entry(pool, entry);
}

/* measure() runs outside the lock; the entry is already in its place, so that others wait for it. */
static enum cabe_status measure(struct cabe_pool *pool, struct cabe_pool_use *entry,
                                const struct cabe_pool_source *source, struct cabe_error *err)
{
    struct cabe_pool_bytes bytes = {0};
    enum cabe_status status = CABE_OK;

    if (!source->measure)
        return CABE_OK;
    pthread_mutex_unlock(&pool->lock);
    status = source->measure(source->self, &bytes, err);
    pthread_mutex_lock(&pool->lock);
    for (int d = 0; d < CABE_DEVICES_MAX; d++)
        if (bytes.peak[d] < bytes.resident[d])
            bytes.peak[d] = bytes.resident[d];
    entry->bytes = bytes;
    entry->is_measured = 1;
    return status;
}

static enum cabe_status load_first(struct cabe_pool *pool, const char *key, struct cabe_pool_key *memory,
                                   const struct cabe_pool_source *source, const struct cabe_cancel *cancel,
                                   struct cabe_pool_use **use, struct cabe_error *err)
{
    struct cabe_error error = {0};
    struct cabe_pool_use *entry;
    enum cabe_status status;

    while (pool->n_entries >= CABE_POOL_MAX) {
        entry = cabe_pool_least(pool);
        if (!entry)
            return cabe_fail(err, CABE_ERR_LIMIT, "%s: %d objects are in use, and the pool holds no more",
                             key, CABE_POOL_MAX);
        pool->stats.n_evictions++;
        cabe_pool_unload_entry(pool, entry);
        if (cabe_pool_find(pool, key))
            return LOOK_AGAIN; /* somebody began to load it meanwhile */
    }
    entry = new_entry(key, memory, source);
    if (!entry)
        return cabe_fail(err, CABE_ERR_OOM, "%s: pool entry", key);
    link_last(pool, entry);
    status = measure(pool, entry, source, &error);
    if (status == CABE_OK)
        status = load(pool, entry, source, cancel, &error);
    if (status == CABE_OK) {
        load_succeeded(pool, entry);
        *use = entry;
    } else {
        error.status = status;
        load_failed(pool, entry, &error);
        if (err)
            *err = error;
    }
    announce(pool);
    cabe_pool_free_if_unheld(entry);
    return status;
}

/* Waits until the entry is no longer loading or unloading. */
static enum cabe_status wait_for(struct cabe_pool *pool, struct cabe_pool_use *entry,
                                 const struct cabe_cancel *cancel, struct cabe_pool_use **use,
                                 struct cabe_error *err)
{
    int is_load = entry->state == CABE_POOL_LOADING;
    enum cabe_status status = LOOK_AGAIN;

    entry->n_waiting++;
    while (is_load ? entry->state == CABE_POOL_LOADING && !entry->is_failed : entry->is_linked) {
        if (cabe_cancelled(cancel)) {
            entry->n_waiting--;
            cabe_pool_free_if_unheld(entry);
            return cabe_fail(err, CABE_ERR_CANCELLED, "%s: cancelled while it was loaded", entry->key);
        }
        cabe_pool_wait(pool, 0, cancel);
    }
    entry->n_waiting--;
    if (is_load && !entry->is_failed) {
        pool->stats.n_joined++;
        *use = entry;
        return CABE_OK; /* load_succeeded() has counted this use */
    }
    if (is_load && entry->error.status != CABE_ERR_CANCELLED) {
        pool->stats.n_joined++;
        status = entry->error.status;
        if (err)
            *err = entry->error;
    }
    cabe_pool_free_if_unheld(entry);
    return status;
}

static enum cabe_status acquire(struct cabe_pool *pool, const char *key, struct cabe_pool_key *memory,
                                const struct cabe_pool_source *source, const struct cabe_cancel *cancel,
                                struct cabe_pool_use **use, struct cabe_error *err)
{
    struct cabe_pool_use *entry = cabe_pool_find(pool, key);

    if (!entry)
        return load_first(pool, key, memory, source, cancel, use, err);
    if (entry->state == CABE_POOL_LOADING || entry->state == CABE_POOL_UNLOADING)
        return wait_for(pool, entry, cancel, use, err);
    if (entry->state == CABE_POOL_IDLE && entry->is_wanted) { /* it is about to go */
        cabe_pool_wait(pool, 0, cancel);
        return cabe_cancelled(cancel) ? cabe_fail(err, CABE_ERR_CANCELLED, "%s: cancelled", key) : LOOK_AGAIN;
    }
    entry->n_uses++;
    entry->n_acquires++;
    entry->state = CABE_POOL_IN_USE;
    pool->stats.n_hits++;
    *use = entry;
    return CABE_OK;
}

enum cabe_status cabe_pool_acquire(struct cabe_pool *pool, const char *key, const struct cabe_pool_source *source,
                                   const struct cabe_cancel *cancel, struct cabe_pool_use **use,
                                   struct cabe_error *err)
{
    struct cabe_pool_key *memory;
    enum cabe_status status;

    *use = NULL;
    pthread_mutex_lock(&pool->lock);
    memory = cabe_pool_key_get(pool, key, &status);
    if (status == CABE_ERR_OOM) {
        pthread_mutex_unlock(&pool->lock);
        return cabe_fail(err, CABE_ERR_OOM, "%s: pool entry", key);
    }
    if (memory) { /* no room to remember it is no reason to refuse it */
        cabe_pool_key_asked(pool, memory);
        memory->held++;
    }
    do
        status = acquire(pool, key, memory, source, cancel, use, err);
    while (status == LOOK_AGAIN);
    if (memory)
        memory->held--;
    pthread_mutex_unlock(&pool->lock);
    return status;
}

void *cabe_pool_object(const struct cabe_pool_use *use)
{
    return use->object;
}

void cabe_pool_release(struct cabe_pool *pool, struct cabe_pool_use *use)
{
    if (!use)
        return;
    pthread_mutex_lock(&pool->lock);
    assert(use->n_uses > 0);
    if (--use->n_uses == 0) {
        use->state = CABE_POOL_IDLE;
        use->idle_since_ns = cabe_pool_now(pool);
        pool->is_untrimmed = 1;
        unlink_entry(pool, use);
        link_last(pool, use);
        announce(pool);
    }
    pthread_mutex_unlock(&pool->lock);
}

enum cabe_status cabe_pool_make_room(struct cabe_pool *pool, int device, uint64_t bytes,
                                     struct cabe_error *err)
{
    uint64_t wanted[CABE_DEVICES_MAX] = {0};
    enum cabe_status status;

    if (device < 0 || device >= CABE_DEVICES_MAX)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "no device %d", device);
    wanted[device] = bytes;
    pthread_mutex_lock(&pool->lock);
    status = cabe_pool_room(pool, "room", wanted, NULL, err);
    pthread_mutex_unlock(&pool->lock);
    return status;
}

enum cabe_status cabe_pool_unload(struct cabe_pool *pool, const char *key, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;
    struct cabe_pool_use *entry;

    pthread_mutex_lock(&pool->lock);
    entry = cabe_pool_find(pool, key);
    if (!entry)
        status = cabe_fail(err, CABE_ERR_NOT_FOUND, "%s: not loaded", key);
    else if (entry->state != CABE_POOL_IDLE)
        status = cabe_fail(err, CABE_ERR_BUSY, "%s: in use %d times", key, entry->n_uses);
    else
        cabe_pool_unload_entry(pool, entry);
    pthread_mutex_unlock(&pool->lock);
    return status;
}

int cabe_pool_unload_idle(struct cabe_pool *pool)
{
    struct cabe_pool_use *entry;
    int n = 0;

    pthread_mutex_lock(&pool->lock);
    while ((entry = cabe_pool_least(pool))) {
        cabe_pool_unload_entry(pool, entry);
        n++;
    }
    pthread_mutex_unlock(&pool->lock);
    return n;
}

/* Something that has been idle for longer than it is kept alive. */
static struct cabe_pool_use *expired(const struct cabe_pool *pool, uint64_t now_ns)
{
    for (struct cabe_pool_use *e = pool->first; e; e = e->next)
        if (e->state == CABE_POOL_IDLE && e->memory && !e->memory->pinned && e->memory->keep_alive_ns != UINT64_MAX &&
            now_ns - e->idle_since_ns >= e->memory->keep_alive_ns)
            return e;
    return NULL;
}

static int is_quiet(const struct cabe_pool *pool)
{
    for (const struct cabe_pool_use *e = pool->first; e; e = e->next)
        if (e->state != CABE_POOL_IDLE)
            return 0;
    return 1;
}

int cabe_pool_tick(struct cabe_pool *pool)
{
    struct cabe_pool_use *entry;
    int n = 0, trim;

    pthread_mutex_lock(&pool->lock);
    while ((entry = expired(pool, cabe_pool_now(pool)))) {
        pool->stats.n_expired++;
        cabe_pool_unload_entry(pool, entry);
        n++;
    }
    trim = pool->is_untrimmed && is_quiet(pool); /* what requests have left behind on the heap */
    if (trim)
        pool->is_untrimmed = 0;
    pthread_mutex_unlock(&pool->lock);
    if (trim)
        cabe_memory_trim();
    return n;
}

void cabe_pool_close(struct cabe_pool *pool)
{
    if (!pool)
        return;
    for (int i = 0; i < CABE_POOL_MAX; i++)
        pool->keys[i].pinned = 0;
    cabe_pool_unload_idle(pool);
    assert(pool->n_entries == 0);
    cabe_pool_keys_free(pool);
    pthread_cond_destroy(&pool->changed);
    pthread_mutex_destroy(&pool->lock);
    cabe_free(pool);
}

void cabe_pool_stats(struct cabe_pool *pool, struct cabe_pool_stats *stats)
{
    pthread_mutex_lock(&pool->lock);
    *stats = pool->stats;
    pthread_mutex_unlock(&pool->lock);
}

size_t cabe_pool_list(struct cabe_pool *pool, struct cabe_pool_item *out, size_t n_max)
{
    uint64_t now_ns;
    size_t n = 0;

    pthread_mutex_lock(&pool->lock);
    now_ns = cabe_pool_now(pool);
    for (const struct cabe_pool_use *e = pool->first; e && n < n_max; e = e->next, n++) {
        out[n] = (struct cabe_pool_item){.state = e->state,
                                         .n_uses = e->n_uses,
                                         .bytes = e->bytes,
                                         .load_ns = e->load_ns,
                                         .n_acquires = e->n_acquires,
                                         .pinned = e->memory && e->memory->pinned,
                                         .keep_alive_ns = e->memory ? e->memory->keep_alive_ns : UINT64_MAX};
        memcpy(out[n].key, e->key, cabe_utf8_cut(e->key, sizeof out[n].key - 1));
        if (e->state == CABE_POOL_IDLE && now_ns > e->idle_since_ns)
            out[n].idle_ns = now_ns - e->idle_since_ns;
    }
    pthread_mutex_unlock(&pool->lock);
    return n;
}
