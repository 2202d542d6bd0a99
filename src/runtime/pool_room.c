/* How the pool makes room. All under its lock. */
#include <stdio.h>
#include <string.h>

#include "runtime/pool_impl.h"

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

static int is_pinned(const struct cabe_pool_use *entry)
{
    return entry->memory && entry->memory->pinned;
}

/* Entries in the order in which they should go. */
struct ranking {
    int n;
    struct cabe_pool_use *entry[CABE_POOL_MAX];
    double worth[CABE_POOL_MAX];
};

/* The idle ones; with `busy` also those in use, behind them. Not what is pinned. */
static void rank(struct cabe_pool *pool, struct ranking *r, int busy)
{
    uint64_t now_ns = cabe_pool_now(pool);

    r->n = 0;
    for (struct cabe_pool_use *e = pool->first; e; e = e->next) {
        double worth = cabe_pool_worth(pool, e, now_ns);
        int at = r->n;

        if (is_pinned(e) || (e->state != CABE_POOL_IDLE && !(busy && e->state == CABE_POOL_IN_USE)))
            continue;
        for (; at > 0; at--) {
            int is_later = e->state != r->entry[at - 1]->state ? e->state == CABE_POOL_IN_USE
                                                               : worth >= r->worth[at - 1];

            if (is_later)
                break;
            r->entry[at] = r->entry[at - 1];
            r->worth[at] = r->worth[at - 1];
        }
        r->entry[at] = e;
        r->worth[at] = worth;
        r->n++;
    }
}

struct cabe_pool_use *cabe_pool_least(struct cabe_pool *pool)
{
    struct ranking r;

    rank(pool, &r, 0);
    return r.n > 0 ? r.entry[0] : NULL;
}

/* By how much `wanted` does not fit into `room` and what the first `n` entries but number `skipped` hold; and where. */
static uint64_t missing_after(const struct ranking *r, const uint64_t room[CABE_DEVICES_MAX],
                              const uint64_t wanted[CABE_DEVICES_MAX], int n, int skipped, int *device)
{
    for (int d = 0; d < CABE_DEVICES_MAX; d++) {
        uint64_t sum = room[d];

        for (int i = 0; i < n && i < r->n; i++)
            if (i != skipped)
                sum = add(sum, r->entry[i]->bytes.resident[d]);
        if (sum < wanted[d]) {
            *device = d;
            return wanted[d] - sum;
        }
    }
    return 0;
}

/*
 * The entry of the ranking to unload first for `wanted`: of the fewest that make enough room in their order, leaving
 * out those without which the others would do (a small one survives where a large one must go anyway). NULL: all
 * together would not do, *missing says by how much; or there is room by now, *missing is 0.
 */
static struct cabe_pool_use *choose(const struct cabe_pool *pool, const struct ranking *r,
                                    const uint64_t wanted[CABE_DEVICES_MAX], uint64_t *missing, int *device)
{
    uint64_t room[CABE_DEVICES_MAX]; /* one reading: the ledger has other customers */
    int n = 0, ignored;

    for (int d = 0; d < CABE_DEVICES_MAX; d++)
        room[d] = wanted[d] > 0 ? free_bytes(pool, d) : 0;
    *missing = missing_after(r, room, wanted, r->n, -1, device);
    if (*missing > 0) {
        /* Nobody knows what an entry without measure() holds: it may be enough. */
        for (int i = 0; i < r->n; i++)
            if (r->entry[i]->state == CABE_POOL_IDLE && !r->entry[i]->is_measured)
                return r->entry[i];
        return NULL;
    }
    while (missing_after(r, room, wanted, n, -1, &ignored) > 0)
        n++;
    for (int i = 0; i < n; i++)
        if (missing_after(r, room, wanted, n, i, &ignored) > 0)
            return r->entry[i]; /* the last of the n is such a one, if no other is */
    return NULL;
}

static enum cabe_status refuse(const struct cabe_pool *pool, const char *key, const uint64_t wanted[CABE_DEVICES_MAX],
                               uint64_t missing, int device, struct cabe_error *err)
{
    char name[24] = "host", pins[64] = "";
    uint64_t idle = 0, used = 0, pinned = 0;

    for (const struct cabe_pool_use *e = pool->first; e; e = e->next)
        if (e->state != CABE_POOL_LOADING)
            *(is_pinned(e) ? &pinned : e->state == CABE_POOL_IDLE ? &idle : &used) += e->bytes.resident[device];
    if (device != CABE_HOST)
        snprintf(name, sizeof name, "device %d", device);
    if (pinned)
        snprintf(pins, sizeof pins, ", pinned ones %llu", (unsigned long long)pinned);
    cabe_fail(err, CABE_ERR_BUDGET,
              "%s: needs %llu bytes of %s memory; free are %llu, idle objects hold %llu, objects in use %llu%s; %llu "
              "bytes are missing",
              key, (unsigned long long)wanted[device], name, (unsigned long long)free_bytes(pool, device),
              (unsigned long long)idle, (unsigned long long)used, pins, (unsigned long long)missing);
    if (err)
        err->missing_bytes = missing;
    return CABE_ERR_BUDGET;
}

/* ---- swaps ---- */

/* Whether the object would be missed at once: then its going is a swap. */
static int is_recent(const struct cabe_pool *pool, const struct cabe_pool_use *entry)
{
    return pool->config.window_ns > 0 && cabe_pool_now(pool) - entry->idle_since_ns < pool->config.window_ns;
}

/* When the next swap may be; 0: now. */
static uint64_t next_swap_ns(const struct cabe_pool *pool)
{
    uint64_t at_ns = pool->swap_ns[0] > 0 ? add(pool->swap_ns[0], pool->config.window_ns) : 0;

    return at_ns > cabe_pool_now(pool) ? at_ns : 0;
}

static void count_swap(struct cabe_pool *pool)
{
    uint64_t now_ns = cabe_pool_now(pool);

    pool->swap_ns[0] = pool->swap_ns[1];
    pool->swap_ns[1] = now_ns > 0 ? now_ns : 1;
}

/* ---- waiting ---- */

struct making { /* of room, for one load */
    struct cabe_pool *pool;
    const uint64_t *wanted;
    const struct cabe_cancel *cancel;
    uint64_t end_ns; /* of the patience with objects in use */
    int is_waiting, has_swapped, has_evicted;
    struct cabe_pool_waiter waiter;
    int n_marked;
    struct cabe_pool_use *marked[CABE_POOL_MAX]; /* wanted from those who use them */
};

static void join_waiters(struct making *m)
{
    struct cabe_pool *pool = m->pool;

    if (m->is_waiting)
        return;
    m->is_waiting = 1;
    m->waiter.next = NULL;
    if (!pool->first_waiter)
        pool->last_waiter = &pool->first_waiter;
    *pool->last_waiter = &m->waiter;
    pool->last_waiter = &m->waiter.next;
    pool->stats.n_waiting++;
}

static void unmark(struct making *m)
{
    while (m->n_marked > 0) {
        struct cabe_pool_use *entry = m->marked[--m->n_marked];

        entry->is_wanted--;
        entry->n_waiting--;
        cabe_pool_free_if_unheld(entry);
    }
}

static void leave_waiters(struct making *m)
{
    struct cabe_pool_waiter **link = &m->pool->first_waiter;

    unmark(m);
    if (!m->is_waiting)
        return;
    while (*link != &m->waiter)
        link = &(*link)->next;
    *link = m->waiter.next;
    if (!*link)
        m->pool->last_waiter = link;
    m->pool->stats.n_waiting--;
    pthread_cond_broadcast(&m->pool->changed); /* the next waiter is the first now, others may use what was wanted */
}

static int is_first(const struct making *m)
{
    return !m->pool->first_waiter || m->pool->first_waiter == &m->waiter;
}

/* Tells the users of those that would have to go; nobody gets them anew when they are idle. */
static void mark(struct making *m, struct ranking *r)
{
    uint64_t room[CABE_DEVICES_MAX];
    int n = 0, ignored;

    unmark(m);
    for (int d = 0; d < CABE_DEVICES_MAX; d++)
        room[d] = m->wanted[d] > 0 ? free_bytes(m->pool, d) : 0;
    while (n < r->n && missing_after(r, room, m->wanted, n, -1, &ignored) > 0)
        n++;
    for (int i = 0; i < n; i++)
        if (missing_after(r, room, m->wanted, n, i, &ignored) > 0) {
            r->entry[i]->is_wanted++;
            r->entry[i]->n_waiting++; /* it may go meanwhile, but not its entry */
            m->marked[m->n_marked++] = r->entry[i];
        }
}

/*
 * What can be done when the idle ones do not suffice: wait for loads and unloads that run, or for objects in use, as long
 * as there is patience and they would suffice. 0: nothing.
 */
static int wait_for_busy(struct making *m)
{
    struct cabe_pool *pool = m->pool;
    struct ranking r;
    uint64_t missing, swap_ns;
    int device;

    if (pool->n_busy > 0) {
        unmark(m); /* entries come and go */
        cabe_pool_wait(pool, 0, m->cancel);
        return 1;
    }
    if (pool->config.patience_ns == 0 || cabe_pool_now(pool) >= m->end_ns)
        return 0;
    rank(pool, &r, 1);
    (void)choose(pool, &r, m->wanted, &missing, &device);
    if (missing > 0)
        return 0;
    join_waiters(m);
    swap_ns = pool->config.window_ns > 0 ? next_swap_ns(pool) : 0;
    if (is_first(m) && swap_ns == 0) /* before that nobody need hurry */
        mark(m, &r);
    cabe_pool_wait(pool, swap_ns > 0 && swap_ns < m->end_ns ? swap_ns : m->end_ns, m->cancel);
    unmark(m);
    return 1;
}

/* Unloads `victim`, unless it is too soon for another swap: then waits. */
static void evict(struct making *m, struct cabe_pool_use *victim)
{
    struct cabe_pool *pool = m->pool;

    if (is_recent(pool, victim) && !m->has_swapped) {
        uint64_t at_ns = next_swap_ns(pool);

        if (at_ns > 0 || !is_first(m)) {
            join_waiters(m);
            cabe_pool_wait(pool, at_ns, m->cancel);
            return;
        }
        m->has_swapped = 1;
        count_swap(pool);
    }
    if (!m->has_evicted)
        pool->stats.n_swaps++;
    m->has_evicted = 1;
    pool->stats.n_evictions++;
    cabe_pool_unload_entry(pool, victim);
}

static enum cabe_status make_room(struct making *m, const char *key, struct cabe_error *err)
{
    struct cabe_pool *pool = m->pool;

    while (!is_enough(pool, m->wanted)) {
        struct ranking r;
        uint64_t missing;
        int device = CABE_HOST;
        struct cabe_pool_use *victim;

        if (cabe_cancelled(m->cancel))
            return cabe_fail(err, CABE_ERR_CANCELLED, "%s: cancelled while room was made", key);
        rank(pool, &r, 0);
        victim = choose(pool, &r, m->wanted, &missing, &device);
        if (victim)
            evict(m, victim);
        else if (missing > 0 && !wait_for_busy(m))
            return refuse(pool, key, m->wanted, missing, device, err);
    }
    return CABE_OK;
}

enum cabe_status cabe_pool_room(struct cabe_pool *pool, const char *key, const uint64_t wanted[CABE_DEVICES_MAX],
                                const struct cabe_cancel *cancel, struct cabe_error *err)
{
    struct making m = {.pool = pool,
                       .wanted = wanted,
                       .cancel = cancel,
                       .end_ns = add(cabe_pool_now(pool), pool->config.patience_ns)};
    enum cabe_status status = make_room(&m, key, err);

    leave_waiters(&m);
    return status;
}

int cabe_pool_should_yield(struct cabe_pool *pool, const struct cabe_pool_use *use)
{
    int is_wanted;

    pthread_mutex_lock(&pool->lock);
    is_wanted = use->is_wanted > 0;
    pthread_mutex_unlock(&pool->lock);
    return is_wanted;
}
