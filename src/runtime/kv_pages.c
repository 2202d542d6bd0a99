#include "runtime/kv_pages.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include <xxhash.h>

#include "base/clock.h"

#define NONE CABE_KV_NONE

/* Whether cached page `a` goes before `b`: leaves first, then the one worth least. */
static int goes_before(const struct cabe_kv *kv, int32_t a, int32_t b)
{
    const struct cabe_kv_page *p = &kv->pages[a], *q = &kv->pages[b];
    int p_leaf = p->first_child == NONE, q_leaf = q->first_child == NONE;

    return p_leaf != q_leaf ? p_leaf : p->worth < q->worth;
}

static void heap_set(struct cabe_kv *kv, int32_t at, int32_t page)
{
    kv->heap[at] = page;
    kv->pages[page].rank = at;
}

/* Puts `page` where it belongs, from place `at` of the heap, whose own page is elsewhere or the same. */
static void heap_sift(struct cabe_kv *kv, int32_t at, int32_t page)
{
    while (at > 0 && goes_before(kv, page, kv->heap[(at - 1) / 2])) {
        heap_set(kv, at, kv->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (int64_t below; (below = 2 * (int64_t)at + 1) < kv->n_cached; at = (int32_t)below) {
        if (below + 1 < kv->n_cached && goes_before(kv, kv->heap[below + 1], kv->heap[below]))
            below++;
        if (!goes_before(kv, kv->heap[below], page))
            break;
        heap_set(kv, at, kv->heap[below]);
    }
    heap_set(kv, at, page);
}

static void cache_put(struct cabe_kv *kv, int32_t page)
{
    int32_t at = kv->n_cached++;

    heap_sift(kv, at, page);
}

static void cache_remove(struct cabe_kv *kv, int32_t page)
{
    int32_t at = kv->pages[page].rank, last = kv->heap[--kv->n_cached];

    if (last != page)
        heap_sift(kv, at, last);
}

static uint64_t now_ns(const struct cabe_kv *kv)
{
    if (!kv->watch.seen)
        return 0;
    return kv->watch.clock ? kv->watch.clock(kv->watch.self) : cabe_clock_ns();
}

static void tell(const struct cabe_kv *kv, enum cabe_kv_time what, uint64_t from_ns, uint64_t to_ns)
{
    if (kv->watch.seen)
        kv->watch.seen(kv->watch.self, what, to_ns > from_ns ? (double)(to_ns - from_ns) / 1e9 : 0);
}

static void free_put(struct cabe_kv *kv, int32_t page)
{
    kv->pages[page].link = kv->free_page;
    kv->free_page = page;
    kv->n_free++;
}

int32_t cabe_kv_page_take(struct cabe_kv *kv)
{
    int32_t page;

    if (kv->n_free == 0) {
        assert(kv->n_cached > 0);
        cabe_kv_page_forget(kv, kv->heap[0]);
    }
    page = kv->free_page;
    kv->free_page = kv->pages[page].link;
    kv->n_free--;
    kv->pages[page].n_refs = 1;
    kv->pages[page].taken_ns = kv->pages[page].used_ns = now_ns(kv);
    return page;
}

void cabe_kv_page_hold(struct cabe_kv *kv, int32_t page)
{
    int32_t n_refs = kv->pages[page].n_refs++;

    if (n_refs == 0)
        cache_remove(kv, page);
    kv->n_shared += n_refs == 1;
}

void cabe_kv_page_reuse(struct cabe_kv *kv, int32_t page)
{
    uint64_t now = now_ns(kv);

    tell(kv, CABE_KV_REUSE_GAP, kv->pages[page].used_ns, now);
    kv->pages[page].used_ns = now;
    cabe_kv_page_hold(kv, page);
}

/*
 * A use of a page: w * 2^(now / half life) more, the logarithm of which grows with time instead of all others halving.
 * No use is later than this one, so `more` is the larger part save for a page of many uses or a higher class.
 */
static void count_use(struct cabe_kv *kv, struct cabe_kv_page *page, enum cabe_class class_)
{
    double now = (double)++kv->clock, more, larger, smaller;

    if (kv->half_life <= 0) {
        page->worth = now;
        return;
    }
    more = now / kv->half_life + log2(cabe_class_weight(class_));
    larger = more > page->worth ? more : page->worth;
    smaller = more > page->worth ? page->worth : more;
    page->worth = larger + log1p(exp2(smaller - larger)) / M_LN2;
}

void cabe_kv_page_release(struct cabe_kv *kv, int32_t page, enum cabe_class class_)
{
    int32_t n_refs = --kv->pages[page].n_refs;

    if (kv->pages[page].is_known) {
        count_use(kv, &kv->pages[page], class_);
        kv->pages[page].used_ns = now_ns(kv);
    }
    assert(n_refs >= 0);
    kv->n_shared -= n_refs == 1;
    if (n_refs > 0)
        return;
    if (kv->pages[page].is_known)
        cache_put(kv, page);
    else
        free_put(kv, page);
}

struct cabe_kv_key cabe_kv_key_of(const struct cabe_kv *kv, int32_t parent, const uint64_t salt[2],
                                  const uint64_t *tokens)
{
    struct {
        struct cabe_kv_key parent;
        uint64_t tokens[CABE_PAGE_TOKENS];
        uint8_t domain[16];
        uint64_t salt[2], formats, has_parent;
    } input = {.formats = kv->formats, .has_parent = parent != NONE};
    XXH128_hash_t hash;

    if (parent != NONE)
        input.parent = kv->pages[parent].key;
    else
        memcpy(input.salt, salt, sizeof input.salt);
    memcpy(input.tokens, tokens, sizeof input.tokens);
    memcpy(input.domain, kv->config.domain, sizeof input.domain);
    hash = XXH3_128bits(&input, sizeof input);
    return (struct cabe_kv_key){{hash.low64 & kv->key_mask.word[0], hash.high64 & kv->key_mask.word[1]}};
}

static int32_t *bucket_of(const struct cabe_kv *kv, struct cabe_kv_key key)
{
    return &kv->buckets[key.word[0] & (kv->n_buckets - 1)];
}

int32_t cabe_kv_page_find(const struct cabe_kv *kv, int32_t parent, const uint64_t salt[2], struct cabe_kv_key key,
                          const uint64_t *tokens, uint64_t *n_collisions)
{
    for (int32_t page = *bucket_of(kv, key); page != NONE; page = kv->pages[page].link) {
        const struct cabe_kv_page *p = &kv->pages[page];

        if (p->key.word[0] != key.word[0] || p->key.word[1] != key.word[1])
            continue;
        if (p->parent == parent && (parent != NONE || memcmp(p->salt, salt, sizeof p->salt) == 0) &&
            memcmp(kv->tokens[page], tokens, sizeof kv->tokens[page]) == 0)
            return page;
        ++*n_collisions;
    }
    return NONE;
}

/* After the children of `page` have changed. */
static void rerank(struct cabe_kv *kv, int32_t page)
{
    if (kv->pages[page].n_refs == 0)
        heap_sift(kv, kv->pages[page].rank, page);
}

void cabe_kv_page_know(struct cabe_kv *kv, int32_t page, int32_t parent, const uint64_t salt[2], struct cabe_kv_key key,
                       const uint64_t *tokens)
{
    struct cabe_kv_page *p = &kv->pages[page];
    int32_t *bucket = bucket_of(kv, key);

    assert(!p->is_known && p->n_refs > 0);
    memcpy(kv->tokens[page], tokens, sizeof kv->tokens[page]);
    p->is_known = 1;
    p->worth = -INFINITY;
    memcpy(p->salt, salt, sizeof p->salt);
    p->key = key;
    p->link = *bucket;
    *bucket = page;
    p->parent = parent;
    p->first_child = p->previous = p->next = NONE;
    if (parent == NONE)
        return;
    p->next = kv->pages[parent].first_child;
    if (p->next != NONE)
        kv->pages[p->next].previous = page;
    kv->pages[parent].first_child = page;
    rerank(kv, parent);
}

static void forget_leaf(struct cabe_kv *kv, int32_t page)
{
    struct cabe_kv_page *p = &kv->pages[page];
    int32_t *link = bucket_of(kv, p->key);
    uint64_t now;

    while (*link != page)
        link = &kv->pages[*link].link;
    *link = p->link;
    if (p->next != NONE)
        kv->pages[p->next].previous = p->previous;
    if (p->previous != NONE) {
        kv->pages[p->previous].next = p->next;
    } else if (p->parent != NONE) {
        kv->pages[p->parent].first_child = p->next;
        rerank(kv, p->parent);
    }
    p->is_known = 0;
    if (p->n_refs > 0)
        return;
    cache_remove(kv, page);
    free_put(kv, page);
    kv->n_evictions++;
    now = now_ns(kv);
    tell(kv, CABE_KV_LIFETIME, p->taken_ns, now);
    tell(kv, CABE_KV_IDLE_BEFORE_EVICT, p->used_ns, now);
}

void cabe_kv_page_forget(struct cabe_kv *kv, int32_t page)
{
    for (int32_t at = page, up;; at = up) {
        while (kv->pages[at].first_child != NONE)
            at = kv->pages[at].first_child;
        up = kv->pages[at].parent;
        forget_leaf(kv, at);
        if (at == page)
            return;
    }
}
