#include "runtime/pool.h"

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
#define CANCEL_LOOK_MS 50
/* Of a step inside cabe_pool_acquire(): things have changed, look the key up again. */
#define LOOK_AGAIN ((enum cabe_status)0x7FFF)

/*
 * An object, or its making. Linked in the pool while it can be asked for; a use holds the entry by n_uses, a
 * thread that waits for its load or unload by n_waiting. What is neither linked nor held is freed.
 */
struct cabe_pool_use {
    struct cabe_pool_use *next, *previous; /* least recently used first */
    int is_linked;
    int is_failed;
    int is_measured;
    enum cabe_pool_state state;
    int n_uses, n_waiting;
    void *object;
    void (*unload)(void *object);
    struct cabe_pool_bytes bytes;
    struct cabe_error error; /* of a failed load: its waiters read it */
    uint64_t load_ns, idle_since_ns, n_acquires;
    char key[];
};

struct cabe_pool {
    struct cabe_ledger *ledger;
    struct cabe_log *log;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a load or an unload ended, a use was released */
    struct cabe_pool_use *first, *last;
    int n_entries;
    int n_busy;       /* loads and unloads that run now: each ends without waiting for another */
    uint64_t n_ended; /* loads, unloads and uses that have ended: when it moves, room may have appeared */
    struct cabe_pool_stats stats;
};

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
    pthread_mutex_init(&pool->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&pool->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    *out = pool;
    return CABE_OK;
}

/* ---- The list. All under the lock. ---- */

static struct cabe_pool_use *find(struct cabe_pool *pool, const char *key)
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

static void free_if_unheld(struct cabe_pool_use *entry)
{
    if (!entry->is_linked && entry->n_uses == 0 && entry->n_waiting == 0)
        cabe_free(entry);
}

static void announce(struct cabe_pool *pool)
{
    pool->n_ended++;
    pthread_cond_broadcast(&pool->changed);
}

/* Waits for any change; with a `cancel` to look at, not for long. */
static void wait_for_change(struct cabe_pool *pool, const struct cabe_cancel *cancel)
{
    struct timespec until;

    if (!cancel) {
        pthread_cond_wait(&pool->changed, &pool->lock);
        return;
    }
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += CANCEL_LOOK_MS * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&pool->changed, &pool->lock, &until);
}

/* ---- Unloading ---- */

/* Under the lock, which it gives up meanwhile. The entry is idle; nobody finds it so afterwards. */
static void unload_entry(struct cabe_pool *pool, struct cabe_pool_use *entry)
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
    free_if_unheld(entry);
}

/* ---- Making room. All under the lock. ---- */

static uint64_t free_bytes(const struct cabe_pool *pool, int device)
{
    return cabe_ledger_free_bytes(pool->ledger, device);
}

static int is_enough(const struct cabe_pool *pool, const uint64_t wanted[CABE_DEVICES_MAX])
{
    for (int d = 0; d < CABE_DEVICES_MAX; d++)
        if (wanted[d] > 0 && free_bytes(pool, d) < wanted[d])
            return 0;
    return 1;
}

static uint64_t add(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/*
 * By how much `wanted` does not fit into `room` and what the `n` oldest idle entries but `skipped` hold; and
 * where.
 */
static uint64_t missing_after(const struct cabe_pool *pool, const uint64_t room[CABE_DEVICES_MAX],
                              const uint64_t wanted[CABE_DEVICES_MAX], int n,
                              const struct cabe_pool_use *skipped, int *device)
{
    for (int d = 0; d < CABE_DEVICES_MAX; d++) {
        uint64_t sum = room[d];
        int seen = 0;

        for (const struct cabe_pool_use *e = pool->first; e && seen < n; e = e->next) {
            if (e->state != CABE_POOL_IDLE)
                continue;
            seen++;
            if (e != skipped)
                sum = add(sum, e->bytes.resident[d]);
        }
        if (sum < wanted[d]) {
            *device = d;
            return wanted[d] - sum;
        }
    }
    return 0;
}

/*
 * The idle entry to unload first for `wanted`: the oldest of the fewest oldest that make enough room, leaving
 * out those without which the others would do (a small old one survives where a large younger one must go
 * anyway). NULL: all idle ones together would not do, *missing says by how much; or there is room by now,
 * *missing is 0.
 */
static struct cabe_pool_use *choose_victim(const struct cabe_pool *pool,
                                           const uint64_t wanted[CABE_DEVICES_MAX], uint64_t *missing,
                                           int *device)
{
    uint64_t room[CABE_DEVICES_MAX]; /* one reading: the ledger has other customers */
    int n = 0, ignored;

    for (int d = 0; d < CABE_DEVICES_MAX; d++)
        room[d] = wanted[d] > 0 ? free_bytes(pool, d) : 0;
    *missing = missing_after(pool, room, wanted, CABE_POOL_MAX, NULL, device);
    if (*missing > 0) {
        /* Nobody knows what an entry without measure() holds: it may be enough. */
        for (struct cabe_pool_use *e = pool->first; e; e = e->next)
            if (e->state == CABE_POOL_IDLE && !e->is_measured)
                return e;
        return NULL;
    }
    while (missing_after(pool, room, wanted, n, NULL, &ignored) > 0)
        n++;
    for (struct cabe_pool_use *e = pool->first; e; e = e->next)
        if (e->state == CABE_POOL_IDLE && missing_after(pool, room, wanted, n, e, &ignored) > 0)
            return e; /* the youngest of the n is such a one, if no other is */
    return NULL;
}

static enum cabe_status refuse(const struct cabe_pool *pool, const char *key,
                               const uint64_t wanted[CABE_DEVICES_MAX], uint64_t missing, int device,
                               struct cabe_error *err)
{
    char name[24] = "host";
    uint64_t idle = 0, used = 0;

    for (const struct cabe_pool_use *e = pool->first; e; e = e->next)
        if (e->state != CABE_POOL_LOADING)
            *(e->state == CABE_POOL_IDLE ? &idle : &used) += e->bytes.resident[device];
    if (device != CABE_HOST)
        snprintf(name, sizeof name, "device %d", device);
    cabe_fail(
        err, CABE_ERR_BUDGET,
        "%s: needs %llu bytes of %s memory; free are %llu, idle objects hold %llu, objects in use %llu; %llu "
        "bytes are missing",
        key, (unsigned long long)wanted[device], name, (unsigned long long)free_bytes(pool, device),
        (unsigned long long)idle, (unsigned long long)used, (unsigned long long)missing);
    if (err)
        err->missing_bytes = missing;
    return CABE_ERR_BUDGET;
}

static enum cabe_status make_room(struct cabe_pool *pool, const char *key,
                                  const uint64_t wanted[CABE_DEVICES_MAX], const struct cabe_cancel *cancel,
                                  struct cabe_error *err)
{
    while (!is_enough(pool, wanted)) {
        uint64_t missing;
        int device = CABE_HOST;
        struct cabe_pool_use *victim = choose_victim(pool, wanted, &missing, &device);

        if (cabe_cancelled(cancel))
            return cabe_fail(err, CABE_ERR_CANCELLED, "%s: cancelled while room was made", key);
        if (victim) {
            pool->stats.n_evictions++;
            unload_entry(pool, victim);
        } else if (missing > 0 && pool->n_busy > 0) {
            wait_for_change(pool, cancel);
        } else if (missing > 0) {
            return refuse(pool, key, wanted, missing, device, err);
        }
    }
    return CABE_OK;
}

static struct cabe_pool_use *oldest_idle(struct cabe_pool *pool)
{
    struct cabe_pool_use *entry = pool->first;

    while (entry && entry->state != CABE_POOL_IDLE)
        entry = entry->next;
    return entry;
}

/* ---- Loading ---- */

/*
 * After a load that the ledger refused: makes a change for the better, or waits for one; 0 when none can
 * come. `n_ended` was the pool's count when the load began.
 */
static int can_try_again(struct cabe_pool *pool, uint64_t n_ended, const struct cabe_cancel *cancel)
{
    struct cabe_pool_use *victim = oldest_idle(pool);

    if (victim) {
        pool->stats.n_evictions++;
        unload_entry(pool, victim);
        return 1;
    }
    if (pool->n_busy > 0) {
        wait_for_change(pool, cancel);
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

        status = make_room(pool, entry->key, entry->bytes.peak, cancel, err);
        if (status != CABE_OK)
            return status;
        n_ended = pool->n_ended;
        pool->n_busy++;
        pthread_mutex_unlock(&pool->lock);
        load_ns = cabe_clock_ns();
        status = source->load(source->self, cancel, &object, err);
        load_ns = cabe_clock_ns() - load_ns;
        log_load(pool, entry->key, status, load_ns);
        pthread_mutex_lock(&pool->lock);
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

static struct cabe_pool_use *new_entry(const char *key, const struct cabe_pool_source *source)
{
    size_t bytes = strlen(key) + 1;
    struct cabe_pool_use *entry = cabe_calloc(1, sizeof *entry + bytes);

    if (!entry)
        return NULL;
    memcpy(entry->key, key, bytes);
    entry->state = CABE_POOL_LOADING;
    entry->unload = source->unload;
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

static enum cabe_status load_first(struct cabe_pool *pool, const char *key,
                                   const struct cabe_pool_source *source, const struct cabe_cancel *cancel,
                                   struct cabe_pool_use **use, struct cabe_error *err)
{
    struct cabe_error error = {0};
    struct cabe_pool_use *entry;
    enum cabe_status status;

    while (pool->n_entries >= CABE_POOL_MAX) {
        entry = oldest_idle(pool);
        if (!entry)
            return cabe_fail(err, CABE_ERR_LIMIT, "%s: %d objects are in use, and the pool holds no more",
                             key, CABE_POOL_MAX);
        pool->stats.n_evictions++;
        unload_entry(pool, entry);
        if (find(pool, key))
            return LOOK_AGAIN; /* somebody began to load it meanwhile */
    }
    entry = new_entry(key, source);
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
    free_if_unheld(entry);
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
            free_if_unheld(entry);
            return cabe_fail(err, CABE_ERR_CANCELLED, "%s: cancelled while it was loaded", entry->key);
        }
        wait_for_change(pool, cancel);
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
    free_if_unheld(entry);
    return status;
}

enum cabe_status cabe_pool_acquire(struct cabe_pool *pool, const char *key,
                                   const struct cabe_pool_source *source, const struct cabe_cancel *cancel,
                                   struct cabe_pool_use **use, struct cabe_error *err)
{
    enum cabe_status status = LOOK_AGAIN;

    *use = NULL;
    pthread_mutex_lock(&pool->lock);
    while (status == LOOK_AGAIN) {
        struct cabe_pool_use *entry = find(pool, key);

        if (!entry) {
            status = load_first(pool, key, source, cancel, use, err);
        } else if (entry->state == CABE_POOL_LOADING || entry->state == CABE_POOL_UNLOADING) {
            status = wait_for(pool, entry, cancel, use, err);
        } else {
            entry->n_uses++;
            entry->n_acquires++;
            entry->state = CABE_POOL_IN_USE;
            pool->stats.n_hits++;
            *use = entry;
            status = CABE_OK;
        }
    }
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
        use->idle_since_ns = cabe_clock_ns();
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
    status = make_room(pool, "room", wanted, NULL, err);
    pthread_mutex_unlock(&pool->lock);
    return status;
}

enum cabe_status cabe_pool_unload(struct cabe_pool *pool, const char *key, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;
    struct cabe_pool_use *entry;

    pthread_mutex_lock(&pool->lock);
    entry = find(pool, key);
    if (!entry)
        status = cabe_fail(err, CABE_ERR_NOT_FOUND, "%s: not loaded", key);
    else if (entry->state != CABE_POOL_IDLE)
        status = cabe_fail(err, CABE_ERR_BUSY, "%s: in use %d times", key, entry->n_uses);
    else
        unload_entry(pool, entry);
    pthread_mutex_unlock(&pool->lock);
    return status;
}

int cabe_pool_unload_idle(struct cabe_pool *pool)
{
    struct cabe_pool_use *entry;
    int n = 0;

    pthread_mutex_lock(&pool->lock);
    while ((entry = oldest_idle(pool))) {
        unload_entry(pool, entry);
        n++;
    }
    pthread_mutex_unlock(&pool->lock);
    return n;
}

void cabe_pool_close(struct cabe_pool *pool)
{
    if (!pool)
        return;
    cabe_pool_unload_idle(pool);
    assert(pool->n_entries == 0);
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
    uint64_t now_ns = cabe_clock_ns();
    size_t n = 0;

    pthread_mutex_lock(&pool->lock);
    for (const struct cabe_pool_use *e = pool->first; e && n < n_max; e = e->next, n++) {
        out[n] = (struct cabe_pool_item){.state = e->state,
                                         .n_uses = e->n_uses,
                                         .bytes = e->bytes,
                                         .load_ns = e->load_ns,
                                         .n_acquires = e->n_acquires};
        memcpy(out[n].key, e->key, cabe_utf8_cut(e->key, sizeof out[n].key - 1));
        if (e->state == CABE_POOL_IDLE && now_ns > e->idle_since_ns)
            out[n].idle_ns = now_ns - e->idle_since_ns;
    }
    pthread_mutex_unlock(&pool->lock);
    return n;
}
