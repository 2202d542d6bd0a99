/*
 * The pool's body, for its parts: pool.c loads and hands out, pool_room.c makes room, pool_keys.c remembers what was
 * asked for.
 */
#ifndef CABE_RUNTIME_POOL_IMPL_H
#define CABE_RUNTIME_POOL_IMPL_H

#include <pthread.h>

#include "runtime/pool.h"

#define CABE_POOL_SUCCESSORS 4

/* What is known of a key, whether its object is there or not. */
struct cabe_pool_key {
    char *name; /* NULL: nobody has this one */
    int pinned;
    int held; /* entries of this key: it may not be forgotten */
    uint64_t keep_alive_ns;
    uint64_t asked_ns; /* last */
    double uses;       /* as of asked_ns: older ones count less */
    uint64_t load_ns;  /* of the last load */
    double n_followed; /* times that another key was asked for next */
    struct {
        int32_t key; /* -1: none */
        double n;
    } successor[CABE_POOL_SUCCESSORS];
};

/*
 * An object, or its making. Linked in the pool while it can be asked for; a use holds the entry by n_uses, a
 * thread that waits for its load or unload by n_waiting. What is neither linked nor held is freed.
 */
struct cabe_pool_use {
    struct cabe_pool_use *next, *previous; /* least recently used first */
    int is_linked;
    int is_failed;
    int is_measured;
    int is_wanted; /* loads that wait for its room: nobody gets it anew when it is idle */
    enum cabe_pool_state state;
    int n_uses, n_waiting;
    void *object;
    void (*unload)(void *object);
    struct cabe_pool_bytes bytes;
    struct cabe_error error; /* of a failed load: its waiters read it */
    uint64_t load_ns, idle_since_ns, n_acquires;
    struct cabe_pool_key *memory;
    char key[];
};

struct cabe_pool_waiter { /* a load that waits for room, on its thread's stack */
    struct cabe_pool_waiter *next;
};

struct cabe_pool {
    struct cabe_ledger *ledger;
    struct cabe_log *log;
    struct cabe_pool_config config;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a load or an unload ended, a use was released */
    struct cabe_pool_use *first, *last;
    int n_entries;
    int n_busy;       /* loads and unloads that run now: each ends without waiting for another */
    uint64_t n_ended; /* loads, unloads and uses that have ended: when it moves, room may have appeared */
    struct cabe_pool_waiter *first_waiter, **last_waiter; /* in the order in which they came */
    uint64_t swap_ns[2]; /* the last two swaps, the older first; 0: none */
    int is_untrimmed;    /* uses have ended since memory was last given back */
    struct cabe_pool_stats stats;
    struct cabe_pool_key keys[CABE_POOL_MAX];
    int32_t last_key; /* asked for; -1: none */
};

/* All under the lock. */

uint64_t cabe_pool_now(const struct cabe_pool *pool);
struct cabe_pool_use *cabe_pool_find(struct cabe_pool *pool, const char *key);
void cabe_pool_free_if_unheld(struct cabe_pool_use *entry);
/* Gives up the lock meanwhile. The entry is idle; nobody finds it so afterwards. */
void cabe_pool_unload_entry(struct cabe_pool *pool, struct cabe_pool_use *entry);
/* Waits for any change; not longer than until `until_ns` of the pool's clock (0: any), and with a `cancel` not for long. */
void cabe_pool_wait(struct cabe_pool *pool, uint64_t until_ns, const struct cabe_cancel *cancel);

/* Until `wanted` is free by device; unloads what is idle, waits for what is in use. */
enum cabe_status cabe_pool_room(struct cabe_pool *pool, const char *key, const uint64_t wanted[CABE_DEVICES_MAX],
                                const struct cabe_cancel *cancel, struct cabe_error *err);
/* The idle entry that is valued least, pinned ones apart; NULL: none. */
struct cabe_pool_use *cabe_pool_least(struct cabe_pool *pool);

/* The memory of a key, made if it is not there; NULL: no room (*status CABE_ERR_LIMIT) or no memory (CABE_ERR_OOM). */
struct cabe_pool_key *cabe_pool_key_get(struct cabe_pool *pool, const char *name, enum cabe_status *status);
struct cabe_pool_key *cabe_pool_key_find(struct cabe_pool *pool, const char *name); /* NULL: not known */
void cabe_pool_key_asked(struct cabe_pool *pool, struct cabe_pool_key *key);
/* What its object is worth keeping: the least goes first. */
double cabe_pool_worth(const struct cabe_pool *pool, const struct cabe_pool_use *entry, uint64_t now_ns);
void cabe_pool_keys_free(struct cabe_pool *pool);

#endif
