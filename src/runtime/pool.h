/*
 * The pool of resident objects (models): loaded when first asked for, kept while there is room.
 *
 * - Many threads asking for one key load it once; all get the object, or the error of that load.
 * - An object in use is never unloaded. An idle one stays until the ledger refuses a load: then the least
 * recently used go, no more of them than are needed, and none when even all of them would not make room.
 * - Before a load is refused for lack of room, loads and unloads that are under way are waited for.
 * - What is unloaded goes back to the system, not only to the heap.
 *
 * The pool reserves nothing itself: load() reserves what it allocates and unload() releases it. measure()
 * tells the pool beforehand how much that will be.
 *
 * Limit:  CABE_POOL_MAX objects.
 * Owner:  who opens it closes it, after every use is released.
 * Thread: every function from any thread. load() runs on the thread that asked first, unload() on the one
 * that needs the room; neither under a lock, and neither may call the pool.
 */
#ifndef CABE_RUNTIME_POOL_H
#define CABE_RUNTIME_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "base/cancel.h"
#include "base/log.h"
#include "cabe/ledger.h"
#include "cabe/status.h"

#define CABE_POOL_MAX 256

struct cabe_pool;
struct cabe_pool_use; /* a right to use an object; as many as there are users */

struct cabe_pool_bytes {                 /* by device, as the ledger numbers them */
    uint64_t resident[CABE_DEVICES_MAX]; /* held while loaded */
    uint64_t peak[CABE_DEVICES_MAX];     /* held at the highest point of the load; 0 counts as resident */
};

struct cabe_pool_source {
    /* NULL: not known; then room is made only when the load is refused. `bytes` comes zeroed. */
    enum cabe_status (*measure)(void *self, struct cabe_pool_bytes *bytes, struct cabe_error *err);
    enum cabe_status (*load)(void *self, const struct cabe_cancel *cancel, void **object,
                             struct cabe_error *err);
    void (*unload)(void *object);
    void *self; /* for measure and load: used only during cabe_pool_acquire() */
};

enum cabe_pool_state { CABE_POOL_LOADING, CABE_POOL_IDLE, CABE_POOL_IN_USE, CABE_POOL_UNLOADING };

struct cabe_pool_item {
    char key[64]; /* cut */
    enum cabe_pool_state state;
    int n_uses;
    struct cabe_pool_bytes bytes;
    uint64_t load_ns; /* what the load took */
    uint64_t idle_ns; /* since the last use ended; 0 in use */
    uint64_t n_acquires;
};

struct cabe_pool_stats {
    int n_resident;
    uint64_t n_hits;   /* asked for and there */
    uint64_t n_joined; /* waited for another's load */
    uint64_t n_loads;
    uint64_t n_failed_loads;
    uint64_t n_evictions; /* unloaded to make room */
    uint64_t n_unloads;   /* all, evictions too */
    uint64_t load_ns;     /* of all loads */
};

/* `ledger` must outlive the pool; `log` may be NULL. */
CABE_CHECKED enum cabe_status cabe_pool_open(struct cabe_pool **out, struct cabe_ledger *ledger,
                                             struct cabe_log *log, struct cabe_error *err);
void cabe_pool_close(struct cabe_pool *pool); /* NULL is fine; no use may be left */

/*
 * The object of `key`, loaded from `source` when it is not there. `cancel` may be NULL; it is handed to
 * load(), and whoever waits for a load that its own asker cancelled starts it again. CABE_ERR_BUDGET: no
 * room, even without the idle objects (err->missing_bytes). CABE_ERR_LIMIT: CABE_POOL_MAX objects are in use.
 * Otherwise what load() said.
 */
CABE_CHECKED enum cabe_status cabe_pool_acquire(struct cabe_pool *pool, const char *key,
                                                const struct cabe_pool_source *source,
                                                const struct cabe_cancel *cancel, struct cabe_pool_use **use,
                                                struct cabe_error *err);
void *cabe_pool_object(const struct cabe_pool_use *use);
void cabe_pool_release(struct cabe_pool *pool, struct cabe_pool_use *use); /* NULL is fine */

/*
 * Unloads idle objects, oldest first, until `bytes` are free on `device`; CABE_ERR_BUDGET when that cannot
 * be.
 */
CABE_CHECKED enum cabe_status cabe_pool_make_room(struct cabe_pool *pool, int device, uint64_t bytes,
                                                  struct cabe_error *err);
/* CABE_ERR_BUSY: in use or loading. CABE_ERR_NOT_FOUND: not resident. */
CABE_CHECKED enum cabe_status cabe_pool_unload(struct cabe_pool *pool, const char *key,
                                               struct cabe_error *err);
/* Unloads everything that is idle; returns how many. */
int cabe_pool_unload_idle(struct cabe_pool *pool);

void cabe_pool_stats(struct cabe_pool *pool, struct cabe_pool_stats *stats);
/* Least recently used first; returns how many were written. */
size_t cabe_pool_list(struct cabe_pool *pool, struct cabe_pool_item *out, size_t n_max);

#endif
