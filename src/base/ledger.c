#include "cabe/ledger.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/registry.h"
#include "base/utf8.h"

/*
 * Holders are kept by (device, purpose, place) in an open-addressed table, at most half full. Places beyond
 * PLACES_MAX are summed, by device and purpose, in a holder named OTHERS: the sums stay exact, only the names
 * blur.
 */
#define TABLE_SIZE 1024u
#define PLACES_MAX (TABLE_SIZE / 2)
#define PLACE_BYTES sizeof(((struct cabe_ledger_holder *)0)->place)
#define OTHERS "(others)"
#define PAGES_MAX 1024u /* ranges of pages; more count as touched */

struct pages {
    const void *at;
    uint64_t bytes;
    int device;
    enum cabe_purpose purpose;
};

struct cabe_ledger {
    pthread_mutex_t own;
    pthread_mutex_t *lock; /* own; of a share, its parent's: both change in one step */
    struct cabe_ledger_view now;
    uint64_t beyond[CABE_DEVICES_MAX][CABE_N_PURPOSES]; /* held by places that the table had no room for */
    size_t n_places;
    struct cabe_ledger_holder table[TABLE_SIZE]; /* bytes 0: free */
    struct cabe_registry *registry;              /* NULL: not shared */
    struct cabe_ledger *shares;                  /* that are open */
    pthread_mutex_t pages_lock; /* of the two below; taken before `lock`, and held while the system is asked about them */
    struct pages pages[PAGES_MAX];
    size_t n_pages;

    /* of a share */
    struct cabe_ledger *parent, *next;
    struct cabe_ledger_holder promise; /* what of it the parent still holds for it */
    uint64_t beside_high_bytes;
};

const char *cabe_purpose_name(enum cabe_purpose purpose)
{
    static const char *const names[] = {
#define X(symbol, name) name,
        CABE_PURPOSE_MAP(X)
#undef X
    };

    return (size_t)purpose < CABE_N_PURPOSES ? names[purpose] : "unknown";
}

static struct cabe_ledger_holder make_key(int device, enum cabe_purpose purpose, const char *place)
{
    struct cabe_ledger_holder key = {.device = device, .purpose = purpose};

    if (place)
        memcpy(key.place, place, cabe_utf8_cut(place, PLACE_BYTES - 1));
    return key;
}

static size_t home_of(const struct cabe_ledger_holder *key)
{
    uint64_t words[PLACE_BYTES / 8];
    uint64_t hash = (uint64_t)key->device * CABE_N_PURPOSES + (uint64_t)key->purpose;

    memcpy(words, key->place, sizeof words);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        hash = (hash ^ words[i]) * UINT64_C(0x9E3779B97F4A7C15);
        hash ^= hash >> 32;
    }
    return hash % TABLE_SIZE;
}

static int is_same(const struct cabe_ledger_holder *a, const struct cabe_ledger_holder *b)
{
    return a->device == b->device && a->purpose == b->purpose && memcmp(a->place, b->place, PLACE_BYTES) == 0;
}

/* The holder of `key`, or the free place where it would be. */
static struct cabe_ledger_holder *find(struct cabe_ledger *ledger, const struct cabe_ledger_holder *key)
{
    size_t at = home_of(key);

    while (ledger->table[at].bytes > 0 && !is_same(&ledger->table[at], key))
        at = (at + 1) % TABLE_SIZE;
    return &ledger->table[at];
}

static void hold(struct cabe_ledger *ledger, const struct cabe_ledger_holder *key, uint64_t bytes)
{
    struct cabe_ledger_holder *holder = find(ledger, key);

    if (holder->bytes == 0) {
        if (ledger->n_places == PLACES_MAX) {
            ledger->beyond[key->device][key->purpose] += bytes;
            return;
        }
        ledger->n_places++;
        *holder = *key;
    }
    holder->bytes += bytes;
}

/* Frees a slot and moves back those that a search would no longer reach across it. */
static void remove_holder(struct cabe_ledger *ledger, struct cabe_ledger_holder *holder)
{
    size_t hole = (size_t)(holder - ledger->table), at = hole;

    ledger->n_places--;
    for (;;) {
        at = (at + 1) % TABLE_SIZE;
        if (ledger->table[at].bytes == 0)
            break;
        if ((at - home_of(&ledger->table[at])) % TABLE_SIZE >= (at - hole) % TABLE_SIZE) {
            ledger->table[hole] = ledger->table[at];
            hole = at;
        }
    }
    ledger->table[hole].bytes = 0;
}

static void let_go(struct cabe_ledger *ledger, const struct cabe_ledger_holder *key, uint64_t bytes)
{
    struct cabe_ledger_holder *holder = find(ledger, key);
    uint64_t here = bytes < holder->bytes ? bytes : holder->bytes;
    uint64_t *beyond = &ledger->beyond[key->device][key->purpose];

    if (here > 0) {
        holder->bytes -= here;
        if (holder->bytes == 0)
            remove_holder(ledger, holder);
    }
    assert(bytes - here <= *beyond);
    *beyond -= bytes - here < *beyond ? bytes - here : *beyond;
}

enum cabe_status cabe_ledger_open(struct cabe_ledger **out, const struct cabe_ledger_config *config,
                                  struct cabe_error *err)
{
    struct cabe_ledger *ledger;

    *out = NULL;
    if (config->n_devices < 1 || config->n_devices > CABE_DEVICES_MAX)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "ledger: %d devices, wanted 1 to %d", config->n_devices,
                         CABE_DEVICES_MAX);
    ledger = cabe_calloc(1, sizeof *ledger);
    if (!ledger)
        return cabe_fail(err, CABE_ERR_OOM, "ledger: %zu bytes", sizeof *ledger);
    pthread_mutex_init(&ledger->own, NULL); /* glibc: never fails */
    pthread_mutex_init(&ledger->pages_lock, NULL);
    ledger->lock = &ledger->own;
    ledger->now.n_devices = config->n_devices;
    for (int d = 0; d < config->n_devices; d++)
        ledger->now.device[d].budget_bytes = config->budget_bytes[d];
    if (config->shared_dir)
        ledger->registry = cabe_registry_open(config->shared_dir);
    *out = ledger;
    return CABE_OK;
}

/* ---- under the lock: taking and giving back ---- */

static void add_bytes(struct cabe_ledger *ledger, const struct cabe_ledger_holder *key, uint64_t bytes)
{
    struct cabe_ledger_view *now = &ledger->now;
    uint64_t *used = &now->device[key->device].used_bytes;
    uint64_t *purpose = &now->device[key->device].purpose_bytes[key->purpose];

    *used += bytes;
    *purpose += bytes;
    if (*used > now->device[key->device].high_bytes)
        now->device[key->device].high_bytes = *used;
    if (*purpose > now->device[key->device].purpose_high_bytes[key->purpose])
        now->device[key->device].purpose_high_bytes[key->purpose] = *purpose;
    if (bytes > 0)
        hold(ledger, key, bytes);
}

static void remove_bytes(struct cabe_ledger *ledger, const struct cabe_ledger_holder *key, uint64_t bytes)
{
    uint64_t *purpose = &ledger->now.device[key->device].purpose_bytes[key->purpose];

    assert(bytes <= *purpose);
    if (bytes > *purpose) /* without asserts: the account ends at nothing rather than at 2^64 */
        bytes = *purpose;
    *purpose -= bytes;
    ledger->now.device[key->device].used_bytes -= bytes;
    let_go(ledger, key, bytes);
}

static uint64_t beside_bytes(const struct cabe_ledger *share)
{
    const struct cabe_ledger *parent = share->parent;

    return parent->now.device[CABE_HOST].used_bytes -
           parent->now.device[CABE_HOST].purpose_bytes[CABE_PURPOSE_PROMISED] - share->now.device[CABE_HOST].used_bytes;
}

static void look_beside(struct cabe_ledger *ledger)
{
    for (struct cabe_ledger *share = ledger->shares; share; share = share->next)
        if (beside_bytes(share) > share->beside_high_bytes)
            share->beside_high_bytes = beside_bytes(share);
}

/* Changes nothing when there is no room. */
static int take(struct cabe_ledger *ledger, const struct cabe_ledger_holder *key, uint64_t bytes)
{
    const struct cabe_ledger_view *now = &ledger->now;
    struct cabe_ledger *parent = ledger->parent;

    if (bytes > now->device[key->device].budget_bytes - now->device[key->device].used_bytes)
        return -1;
    if (parent && bytes > 0) { /* the parent's sum stays what it is */
        remove_bytes(parent, &ledger->promise, bytes);
        add_bytes(parent, key, bytes);
    }
    add_bytes(ledger, key, bytes);
    look_beside(parent ? parent : ledger);
    cabe_registry_publish(ledger->registry, key->device, now->device[key->device].used_bytes);
    return 0;
}

static void give_back(struct cabe_ledger *ledger, const struct cabe_ledger_holder *key, uint64_t bytes)
{
    remove_bytes(ledger, key, bytes);
    if (ledger->parent) {
        remove_bytes(ledger->parent, key, bytes);
        add_bytes(ledger->parent, &ledger->promise, bytes);
    }
    cabe_registry_publish(ledger->registry, key->device, ledger->now.device[key->device].used_bytes);
}

/* What fills the device, for the message: the three purposes with most bytes. */
static void name_purposes(char *out, size_t room, const struct cabe_ledger_view *view, int device)
{
    uint64_t left[CABE_N_PURPOSES];
    size_t n = 0;

    memcpy(left, view->device[device].purpose_bytes, sizeof left);
    out[0] = '\0';
    for (int i = 0; i < 3; i++) {
        int most = 0;

        for (int p = 1; p < CABE_N_PURPOSES; p++)
            if (left[p] > left[most])
                most = p;
        if (left[most] == 0)
            break;
        n += (size_t)snprintf(out + n, room - n, "%s%s %llu", i == 0 ? ": " : ", ",
                              cabe_purpose_name((enum cabe_purpose)most), (unsigned long long)left[most]);
        left[most] = 0;
    }
}

static enum cabe_status refuse(const struct cabe_ledger_view *view, const struct cabe_ledger_holder *key,
                               uint64_t bytes, struct cabe_error *err)
{
    uint64_t budget = view->device[key->device].budget_bytes, used = view->device[key->device].used_bytes;
    uint64_t missing = bytes - (budget - used);
    char device[24] = "host", purposes[160];

    if (!err)
        return CABE_ERR_BUDGET;
    if (key->device != CABE_HOST)
        snprintf(device, sizeof device, "device %d", key->device);
    name_purposes(purposes, sizeof purposes, view, key->device);
    cabe_fail(err, CABE_ERR_BUDGET,
              "%s: %s asks for %llu bytes of %s memory; the budget is %llu, in use are %llu%s; %llu bytes "
              "are missing",
              key->place, cabe_purpose_name(key->purpose), (unsigned long long)bytes, device,
              (unsigned long long)budget, (unsigned long long)used, purposes, (unsigned long long)missing);
    err->missing_bytes = missing;
    return CABE_ERR_BUDGET;
}

static int is_account(const struct cabe_ledger *ledger, int device, enum cabe_purpose purpose)
{
    return device >= 0 && device < ledger->now.n_devices && (size_t)purpose < CABE_N_PURPOSES;
}

enum cabe_status cabe_ledger_reserve(struct cabe_ledger *ledger, int device, enum cabe_purpose purpose,
                                     uint64_t bytes, const char *place, struct cabe_error *err)
{
    struct cabe_ledger_holder key = make_key(device, purpose, place);
    struct cabe_ledger_view view;

    if (!is_account(ledger, device, purpose))
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: no account for device %d of %d, purpose %d", key.place,
                         device, ledger->now.n_devices, (int)purpose);
    pthread_mutex_lock(ledger->lock);
    if (take(ledger, &key, bytes) == 0) {
        pthread_mutex_unlock(ledger->lock);
        return CABE_OK;
    }
    ledger->now.n_refused++;
    view = ledger->now;
    pthread_mutex_unlock(ledger->lock);
    return refuse(&view, &key, bytes, err);
}

void cabe_ledger_release(struct cabe_ledger *ledger, int device, enum cabe_purpose purpose, uint64_t bytes,
                         const char *place)
{
    struct cabe_ledger_holder key = make_key(device, purpose, place);

    assert(is_account(ledger, device, purpose));
    if (bytes == 0 || !is_account(ledger, device, purpose))
        return;
    pthread_mutex_lock(ledger->lock);
    give_back(ledger, &key, bytes);
    pthread_mutex_unlock(ledger->lock);
}

/* ---- shares ---- */

enum cabe_status cabe_ledger_open_share(struct cabe_ledger **out, struct cabe_ledger *parent, uint64_t bytes,
                                        const char *place, struct cabe_error *err)
{
    struct cabe_ledger_config config = {.n_devices = 1, .budget_bytes = {bytes}};
    struct cabe_ledger *share;
    enum cabe_status status = cabe_ledger_open(&share, &config, err);

    *out = NULL;
    assert(!parent->parent);
    if (status != CABE_OK)
        return status;
    status = cabe_ledger_reserve(parent, CABE_HOST, CABE_PURPOSE_PROMISED, bytes, place, err);
    if (status != CABE_OK) {
        cabe_ledger_close(share);
        return status;
    }
    pthread_mutex_lock(parent->lock);
    share->parent = parent;
    share->lock = parent->lock;
    share->promise = make_key(CABE_HOST, CABE_PURPOSE_PROMISED, place);
    share->next = parent->shares;
    parent->shares = share;
    share->beside_high_bytes = beside_bytes(share);
    pthread_mutex_unlock(parent->lock);
    *out = share;
    return CABE_OK;
}

void cabe_ledger_shrink_share(struct cabe_ledger *share, uint64_t bytes)
{
    uint64_t *budget = &share->now.device[CABE_HOST].budget_bytes, left;

    pthread_mutex_lock(share->lock);
    left = *budget - share->now.device[CABE_HOST].used_bytes;
    bytes = bytes < left ? bytes : left;
    *budget -= bytes;
    if (bytes > 0)
        give_back(share->parent, &share->promise, bytes);
    pthread_mutex_unlock(share->lock);
}

void cabe_ledger_beside(struct cabe_ledger *share, uint64_t *now_bytes, uint64_t *high_bytes)
{
    pthread_mutex_lock(share->lock);
    *now_bytes = beside_bytes(share);
    *high_bytes = share->beside_high_bytes;
    share->beside_high_bytes = *now_bytes;
    pthread_mutex_unlock(share->lock);
}

static void leave_parent(struct cabe_ledger *share)
{
    struct cabe_ledger **link = &share->parent->shares;

    assert(share->now.device[CABE_HOST].used_bytes == 0);
    cabe_ledger_shrink_share(share, UINT64_MAX);
    pthread_mutex_lock(share->lock);
    while (*link != share)
        link = &(*link)->next;
    *link = share->next;
    pthread_mutex_unlock(share->lock);
}

void cabe_ledger_close(struct cabe_ledger *ledger)
{
    if (!ledger)
        return;
    assert(!ledger->shares);
    if (ledger->parent)
        leave_parent(ledger);
    cabe_registry_close(ledger->registry);
    assert(ledger->n_pages == 0);
    pthread_mutex_destroy(&ledger->pages_lock);
    pthread_mutex_destroy(&ledger->own);
    cabe_free(ledger);
}

/* The lock is not part of what a reader is promised not to change. */
static struct cabe_ledger *locked(const struct cabe_ledger *ledger)
{
    struct cabe_ledger *writable = (struct cabe_ledger *)(uintptr_t)ledger;

    pthread_mutex_lock(writable->lock);
    return writable;
}

void cabe_ledger_read(const struct cabe_ledger *ledger, struct cabe_ledger_view *view)
{
    struct cabe_ledger *l = locked(ledger);
    uint64_t others[CABE_DEVICES_MAX] = {0};

    *view = l->now;
    pthread_mutex_unlock(l->lock);
    cabe_registry_others(ledger->registry, others);
    for (int d = 0; d < view->n_devices; d++)
        view->device[d].others_bytes = others[d];
}

/* ---- what is touched ---- */

void cabe_ledger_add_pages(struct cabe_ledger *ledger, int device, enum cabe_purpose purpose, const void *pages,
                           uint64_t bytes)
{
    struct cabe_ledger *l = ledger->parent ? ledger->parent : ledger;

    assert(is_account(l, device, purpose));
    if (!pages || bytes == 0)
        return;
    pthread_mutex_lock(&l->pages_lock);
    if (l->n_pages < PAGES_MAX)
        l->pages[l->n_pages++] = (struct pages){pages, bytes, device, purpose};
    pthread_mutex_unlock(&l->pages_lock);
}

void cabe_ledger_remove_pages(struct cabe_ledger *ledger, const void *pages)
{
    struct cabe_ledger *l;

    if (!pages)
        return;
    l = ledger->parent ? ledger->parent : ledger;
    pthread_mutex_lock(&l->pages_lock);
    for (size_t i = 0; i < l->n_pages; i++)
        if (l->pages[i].at == pages) {
            l->pages[i] = l->pages[--l->n_pages];
            break;
        }
    pthread_mutex_unlock(&l->pages_lock);
}

/* Takes off what is not there; the account ends at nothing whatever its holders said. */
static void take_off(struct cabe_ledger_touched *touched, int device, enum cabe_purpose purpose, uint64_t bytes)
{
    uint64_t *held = &touched->device[device].purpose_bytes[purpose];

    bytes = bytes < *held ? bytes : *held;
    *held -= bytes;
    touched->device[device].bytes -= bytes;
}

void cabe_ledger_read_touched(const struct cabe_ledger *ledger, struct cabe_ledger_view *view,
                              struct cabe_ledger_touched *touched)
{
    struct cabe_ledger *l = (struct cabe_ledger *)(uintptr_t)ledger; /* as in locked() */
    uint64_t absent[CABE_DEVICES_MAX][CABE_N_PURPOSES] = {{0}};

    assert(!ledger->parent);
    pthread_mutex_lock(&l->pages_lock); /* so that what is noted is still reserved when the view is taken */
    for (size_t i = 0; i < l->n_pages; i++)
        absent[l->pages[i].device][l->pages[i].purpose] +=
            l->pages[i].bytes - cabe_pages_touched(l->pages[i].at, l->pages[i].bytes);
    cabe_ledger_read(ledger, view);
    pthread_mutex_unlock(&l->pages_lock);
    memset(touched, 0, sizeof *touched);
    for (int d = 0; d < view->n_devices; d++) {
        touched->device[d].bytes = view->device[d].used_bytes;
        memcpy(touched->device[d].purpose_bytes, view->device[d].purpose_bytes, sizeof touched->device[d].purpose_bytes);
        take_off(touched, d, CABE_PURPOSE_PROMISED, UINT64_MAX);
        for (int p = 0; p < CABE_N_PURPOSES; p++)
            take_off(touched, d, (enum cabe_purpose)p, absent[d][p]);
    }
}

uint64_t cabe_ledger_promised_bytes(const char *shared_dir)
{
    return shared_dir ? cabe_registry_promised(shared_dir) : 0;
}

uint64_t cabe_ledger_free_bytes(const struct cabe_ledger *ledger, int device)
{
    struct cabe_ledger *l;
    uint64_t bytes;

    if (!is_account(ledger, device, CABE_PURPOSE_PROCESS))
        return 0;
    l = locked(ledger);
    bytes = l->now.device[device].budget_bytes - l->now.device[device].used_bytes;
    pthread_mutex_unlock(l->lock);
    return bytes;
}

void cabe_ledger_read_and_mark(struct cabe_ledger *ledger, struct cabe_ledger_view *view)
{
    pthread_mutex_lock(ledger->lock);
    *view = ledger->now;
    for (int d = 0; d < ledger->now.n_devices; d++) {
        ledger->now.device[d].high_bytes = ledger->now.device[d].used_bytes;
        memcpy(ledger->now.device[d].purpose_high_bytes, ledger->now.device[d].purpose_bytes,
               sizeof ledger->now.device[d].purpose_bytes);
    }
    pthread_mutex_unlock(ledger->lock);
}

void cabe_ledger_mark(struct cabe_ledger *ledger)
{
    struct cabe_ledger_view view;

    cabe_ledger_read_and_mark(ledger, &view);
}

/* Keeps out[0..n) the largest seen so far, largest first; of equals, the first seen. */
static size_t insert_top(struct cabe_ledger_holder *out, size_t n, size_t n_max,
                         const struct cabe_ledger_holder *holder)
{
    size_t at = n;

    while (at > 0 && out[at - 1].bytes < holder->bytes)
        at--;
    if (at == n_max)
        return n;
    if (n < n_max)
        n++;
    memmove(out + at + 1, out + at, (n - 1 - at) * sizeof *out);
    out[at] = *holder;
    return n;
}

size_t cabe_ledger_top(const struct cabe_ledger *ledger, struct cabe_ledger_holder *out, size_t n_max)
{
    struct cabe_ledger *l = locked(ledger);
    size_t n = 0;

    for (size_t i = 0; i < TABLE_SIZE; i++)
        if (l->table[i].bytes > 0)
            n = insert_top(out, n, n_max, &l->table[i]);
    for (int d = 0; d < l->now.n_devices; d++)
        for (int p = 0; p < CABE_N_PURPOSES; p++) {
            struct cabe_ledger_holder rest = {OTHERS, d, (enum cabe_purpose)p, l->beyond[d][p]};

            if (rest.bytes > 0)
                n = insert_top(out, n, n_max, &rest);
        }
    pthread_mutex_unlock(l->lock);
    return n;
}
