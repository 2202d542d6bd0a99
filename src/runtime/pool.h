/*
 * The pool of resident objects (models): loaded when first asked for, kept while there is room.
 *
 * - Many threads asking for one key load it once; all get the object, or the error of that load.
 * - An object in use is never unloaded, nor is one that is pinned. An idle one stays until the ledger refuses a load:
 * then those go that the policy values least, no more of them than are needed, and none when even all of them would not
 * make room; or until nobody has asked for it as long as it is kept alive (cabe_pool_tick()).
 * - Before a load is refused for lack of room, loads and unloads that are under way are waited for. With
 * cabe_pool_config.patience_ns also objects that are in use are waited for, so long: cabe_pool_should_yield() tells
 * their users.
 * - Loads that put something else out ("swaps") are at most two in cabe_pool_config.window_ns: between them the requests
 * for what is there are served, others wait. So no load waits longer than a window for that reason.
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
    int pinned;
    uint64_t keep_alive_ns;
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
    uint64_t n_swaps;     /* loads that put something else out */
    uint64_t n_expired;   /* unloaded for being idle */
    int n_waiting;        /* for room, now */
};

/* The default loads for less time than the others on 17 of 18 loads of bench/pool_bench, often half of LRU's. */
enum cabe_pool_policy {
    CABE_POOL_COST,    /* what goes first: the least time of loading again, times uses, by byte */
    CABE_POOL_LRU,     /* the longest unused */
    CABE_POOL_LFU,     /* the least used, old uses counting less */
    CABE_POOL_LARGEST, /* the largest */
    CABE_N_POOL_POLICIES
};
const char *cabe_pool_policy_name(enum cabe_pool_policy policy);
/* CABE_ERR_ARGUMENT: no such name. */
CABE_CHECKED enum cabe_status cabe_pool_policy_parse(const char *name, enum cabe_pool_policy *policy,
                                                     struct cabe_error *err);

struct cabe_pool_config { /* zero: the defaults of an open pool */
    enum cabe_pool_policy policy;
    uint64_t patience_ns; /* how long a load waits for objects in use before it is refused; 0: not */
    uint64_t window_ns;   /* of swaps; 0: no bound on them */
    uint64_t (*clock)(void *self); /* for tests and simulations; NULL: cabe_clock_ns() */
    void *clock_self;
};

/* `ledger` must outlive the pool; `log` may be NULL. */
CABE_CHECKED enum cabe_status cabe_pool_open(struct cabe_pool **out, struct cabe_ledger *ledger,
                                             struct cabe_log *log, struct cabe_error *err);
void cabe_pool_close(struct cabe_pool *pool); /* NULL is fine; no use may be left */
/* At any time; from here on. */
void cabe_pool_configure(struct cabe_pool *pool, const struct cabe_pool_config *config);

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
/* 1: a load waits for this object's room. Who can should finish what runs, begin nothing new and release. */
int cabe_pool_should_yield(struct cabe_pool *pool, const struct cabe_pool_use *use);
void cabe_pool_release(struct cabe_pool *pool, struct cabe_pool_use *use); /* NULL is fine */

/*
 * Unloads idle objects, the least valued first, until `bytes` are free on `device`; CABE_ERR_BUDGET when that cannot
 * be.
 */
CABE_CHECKED enum cabe_status cabe_pool_make_room(struct cabe_pool *pool, int device, uint64_t bytes,
                                                  struct cabe_error *err);
/* CABE_ERR_BUSY: in use or loading. CABE_ERR_NOT_FOUND: not resident. */
CABE_CHECKED enum cabe_status cabe_pool_unload(struct cabe_pool *pool, const char *key,
                                               struct cabe_error *err);
/* Unloads everything that is idle and not pinned; returns how many. */
int cabe_pool_unload_idle(struct cabe_pool *pool);

/*
 * Of keys, resident or not: remembered, also over unloads, for CABE_POOL_MAX keys (CABE_ERR_LIMIT). A pinned object is not
 * unloaded to make room nor for being idle. keep_alive_ns: unloaded when it was idle so long; UINT64_MAX: never (the
 * default); 0: at once.
 */
CABE_CHECKED enum cabe_status cabe_pool_pin(struct cabe_pool *pool, const char *key, int pinned, struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_pool_keep_alive(struct cabe_pool *pool, const char *key, uint64_t keep_alive_ns,
                                                   struct cabe_error *err);
/* Unloads what has been idle for too long; call it about each second. Returns how many. */
int cabe_pool_tick(struct cabe_pool *pool);
/*
 * What is usually asked for soon after `key` and is not there: 1, with its key (cut to n bytes) and how likely it is.
 * From at least three times; a hint to load it, at class LOW, if there is room without unloading anything.
 */
int cabe_pool_next(struct cabe_pool *pool, const char *key, char *next, size_t n, double *likely);

void cabe_pool_stats(struct cabe_pool *pool, struct cabe_pool_stats *stats);
/* Least recently used first; returns how many were written. */
size_t cabe_pool_list(struct cabe_pool *pool, struct cabe_pool_item *out, size_t n_max);

#endif
