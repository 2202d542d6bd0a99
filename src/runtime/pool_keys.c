/* What the pool remembers of keys: pins, time to live, how often they are used and what is asked for after them. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "runtime/pool_impl.h"

#define HALF_LIFE_NS 6e11             /* after which a use counts half: ten minutes */
#define SOON_NS UINT64_C(60000000000) /* what is asked for later than that does not follow */
#define FOLLOWED_MIN 3
#define FOLLOWED_MAX 64 /* then all counts are halved: habits change */

struct cabe_pool_key *cabe_pool_key_find(struct cabe_pool *pool, const char *name)
{
    for (int i = 0; i < CABE_POOL_MAX; i++)
        if (pool->keys[i].name && strcmp(pool->keys[i].name, name) == 0)
            return &pool->keys[i];
    return NULL;
}

static int can_forget(const struct cabe_pool_key *key)
{
    return key->held == 0 && !key->pinned;
}

static void forget(struct cabe_pool *pool, struct cabe_pool_key *key)
{
    int32_t index = (int32_t)(key - pool->keys);

    cabe_free(key->name);
    *key = (struct cabe_pool_key){0};
    if (pool->last_key == index)
        pool->last_key = -1;
    for (int i = 0; i < CABE_POOL_MAX; i++)
        for (int s = 0; s < CABE_POOL_SUCCESSORS; s++)
            if (pool->keys[i].name && pool->keys[i].successor[s].key == index)
                pool->keys[i].successor[s].key = -1;
}

/* A place: a free one, or that of the key that nobody has asked for the longest. */
static struct cabe_pool_key *free_place(struct cabe_pool *pool)
{
    struct cabe_pool_key *oldest = NULL;

    for (int i = 0; i < CABE_POOL_MAX; i++) {
        struct cabe_pool_key *key = &pool->keys[i];

        if (!key->name)
            return key;
        if (can_forget(key) && (!oldest || key->asked_ns < oldest->asked_ns))
            oldest = key;
    }
    if (oldest)
        forget(pool, oldest);
    return oldest;
}

struct cabe_pool_key *cabe_pool_key_get(struct cabe_pool *pool, const char *name, enum cabe_status *status)
{
    struct cabe_pool_key *key = cabe_pool_key_find(pool, name);
    size_t bytes = strlen(name) + 1;
    char *copy;

    *status = CABE_OK;
    if (key)
        return key;
    *status = CABE_ERR_OOM;
    copy = cabe_malloc(bytes);
    if (!copy)
        return NULL;
    memcpy(copy, name, bytes);
    *status = CABE_ERR_LIMIT;
    key = free_place(pool);
    if (!key) {
        cabe_free(copy);
        return NULL;
    }
    *key = (struct cabe_pool_key){.name = copy, .keep_alive_ns = UINT64_MAX};
    for (int s = 0; s < CABE_POOL_SUCCESSORS; s++)
        key->successor[s].key = -1;
    *status = CABE_OK;
    return key;
}

void cabe_pool_keys_free(struct cabe_pool *pool)
{
    for (int i = 0; i < CABE_POOL_MAX; i++)
        cabe_free(pool->keys[i].name);
}

/* ---- use ---- */

static double uses_now(const struct cabe_pool_key *key, uint64_t now_ns)
{
    return now_ns > key->asked_ns ? key->uses * exp2(-(double)(now_ns - key->asked_ns) / HALF_LIFE_NS) : key->uses;
}

/* One more time that `next` came after `key`. The successor that came least gives up its place. */
static void count_successor(struct cabe_pool_key *key, int32_t next)
{
    int least = 0;

    if (++key->n_followed > FOLLOWED_MAX) {
        key->n_followed /= 2;
        for (int s = 0; s < CABE_POOL_SUCCESSORS; s++)
            key->successor[s].n /= 2;
    }
    for (int s = 0; s < CABE_POOL_SUCCESSORS; s++) {
        if (key->successor[s].key == next) {
            key->successor[s].n++;
            return;
        }
        if (key->successor[least].key >= 0 &&
            (key->successor[s].key < 0 || key->successor[s].n < key->successor[least].n))
            least = s;
    }
    key->successor[least].key = next;
    key->successor[least].n = 1;
}

void cabe_pool_key_asked(struct cabe_pool *pool, struct cabe_pool_key *key)
{
    uint64_t now_ns = cabe_pool_now(pool);
    int32_t index = (int32_t)(key - pool->keys);

    if (pool->last_key >= 0 && pool->last_key != index) {
        struct cabe_pool_key *last = &pool->keys[pool->last_key];

        if (now_ns - last->asked_ns <= SOON_NS)
            count_successor(last, index);
    }
    key->uses = uses_now(key, now_ns) + 1;
    key->asked_ns = now_ns;
    pool->last_key = index;
}

static double bytes_of(const struct cabe_pool_use *entry)
{
    double sum = 1;

    for (int d = 0; d < CABE_DEVICES_MAX; d++)
        sum += (double)entry->bytes.resident[d];
    return sum;
}

double cabe_pool_worth(const struct cabe_pool *pool, const struct cabe_pool_use *entry, uint64_t now_ns)
{
    double uses = entry->memory ? uses_now(entry->memory, now_ns) : 0;

    switch (pool->config.policy) {
    case CABE_POOL_LRU:
        return (double)entry->idle_since_ns;
    case CABE_POOL_LFU:
        return uses;
    case CABE_POOL_LARGEST:
        return -bytes_of(entry);
    case CABE_POOL_COST:
    case CABE_N_POOL_POLICIES:
        break;
    }
    return uses * ((double)entry->load_ns + 1) / bytes_of(entry);
}

/* ---- what others set and ask ---- */

static const char *const policy_names[CABE_N_POOL_POLICIES] = {
    [CABE_POOL_COST] = "cost", [CABE_POOL_LRU] = "lru", [CABE_POOL_LFU] = "lfu", [CABE_POOL_LARGEST] = "largest"};

const char *cabe_pool_policy_name(enum cabe_pool_policy policy)
{
    return (unsigned)policy < CABE_N_POOL_POLICIES ? policy_names[policy] : "?";
}

enum cabe_status cabe_pool_policy_parse(const char *name, enum cabe_pool_policy *policy, struct cabe_error *err)
{
    for (int p = 0; p < CABE_N_POOL_POLICIES; p++)
        if (strcmp(name, policy_names[p]) == 0) {
            *policy = (enum cabe_pool_policy)p;
            return CABE_OK;
        }
    return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: no policy of eviction; there are cost, lru, lfu and largest", name);
}

static enum cabe_status remember(struct cabe_pool *pool, const char *name, struct cabe_pool_key **key,
                                 struct cabe_error *err)
{
    enum cabe_status status;

    *key = cabe_pool_key_get(pool, name, &status);
    if (*key)
        return CABE_OK;
    return cabe_fail(err, status, status == CABE_ERR_OOM ? "%s: no memory to remember it" : "%s: %d keys are remembered",
                     name, CABE_POOL_MAX);
}

enum cabe_status cabe_pool_pin(struct cabe_pool *pool, const char *name, int pinned, struct cabe_error *err)
{
    struct cabe_pool_key *key;
    enum cabe_status status;

    pthread_mutex_lock(&pool->lock);
    status = remember(pool, name, &key, err);
    if (status == CABE_OK)
        key->pinned = pinned != 0;
    pool->n_ended++;
    pthread_cond_broadcast(&pool->changed);
    pthread_mutex_unlock(&pool->lock);
    return status;
}

enum cabe_status cabe_pool_keep_alive(struct cabe_pool *pool, const char *name, uint64_t keep_alive_ns,
                                      struct cabe_error *err)
{
    struct cabe_pool_key *key;
    enum cabe_status status;

    pthread_mutex_lock(&pool->lock);
    status = remember(pool, name, &key, err);
    if (status == CABE_OK)
        key->keep_alive_ns = keep_alive_ns;
    pthread_mutex_unlock(&pool->lock);
    return status;
}

int cabe_pool_next(struct cabe_pool *pool, const char *name, char *next, size_t n, double *likely)
{
    const struct cabe_pool_key *key, *best = NULL;
    double most = 0;

    pthread_mutex_lock(&pool->lock);
    key = cabe_pool_key_find(pool, name);
    for (int s = 0; key && s < CABE_POOL_SUCCESSORS; s++) {
        if (key->successor[s].key < 0 || key->successor[s].n <= most ||
            cabe_pool_find(pool, pool->keys[key->successor[s].key].name))
            continue;
        best = &pool->keys[key->successor[s].key];
        most = key->successor[s].n;
    }
    if (!best || most < FOLLOWED_MIN || most * 2 < key->n_followed)
        best = NULL;
    if (best) {
        size_t length = cabe_utf8_cut(best->name, n - 1);

        memcpy(next, best->name, length);
        next[length] = 0;
        *likely = most / key->n_followed;
    }
    pthread_mutex_unlock(&pool->lock);
    return best != NULL;
}
