/*
 * The pages of a KV store one by one: who holds them, by which hash they are known, which one goes next. The parts of
 * kv.c.
 *
 * Known pages form trees: the parent of a page is the page of the tokens before it, not only one with their hash. So
 * a lookup that compares the parent and the tokens has compared all tokens before them.
 *
 * An unshifted sequence that holds a known page holds its ancestors. A shifted one may hold a page whose ancestors are
 * held by nobody: they can go, and what descends from them is then no longer known.
 */
#ifndef CABE_RUNTIME_KV_PAGES_H
#define CABE_RUNTIME_KV_PAGES_H

#include "runtime/kv.h"

#define CABE_KV_NONE (-1)

struct cabe_kv_key {
    uint64_t word[2];
};

struct cabe_kv_page {
    struct cabe_kv_key key;      /* of a known page */
    uint64_t salt[2];            /* of a known page without parent: whose it is */
    uint64_t taken_ns, used_ns;  /* where somebody watches */
    double worth;                /* log2 of what its uses count, at a time that is the same for all pages */
    int32_t n_refs;              /* sequences */
    int32_t parent, first_child; /* of a known page */
    int32_t previous, next;      /* siblings of a known page */
    int32_t link;                /* known: the next in its bucket; free: the next free one */
    int32_t rank;                /* cached: its place in the heap */
    uint8_t is_known;
    uint8_t is_used; /* it may hold other than zeros */
};

struct cabe_kv_seq {
    struct cabe_kv *kv;
    struct cabe_page *table; /* [kv->seq_pages] */
    uint64_t *tokens;        /* [kv->seq_pages * CABE_PAGE_TOKENS] */
    int64_t length, dropped;
    int32_t n_pages; /* in the table */
    int32_t n_known; /* the first ones, each the parent of the next */
    int32_t gap;     /* pages before the first that was dropped by a shift; NONE */
    int32_t link;    /* the next closed one */
    int is_open;
    enum cabe_class class_;
    uint64_t salt[2];
};

struct cabe_kv {
    struct cabe_kv_config config;
    char place[48];
    struct cabe_ledger *ledger;
    struct cabe_buffer *buffer;
    uint64_t page_bytes, host_bytes;
    int32_t n_pages, seq_pages;
    uint32_t page_units, formats;
    uint32_t n_buckets; /* a power of two */

    struct cabe_kv_page *pages;
    uint64_t (*tokens)[CABE_PAGE_TOKENS]; /* of known pages */
    int32_t *buckets;                     /* known pages by their keys */
    int32_t *heap;                        /* cached pages, the one to go next first */
    struct cabe_kv_seq *seqs;

    struct cabe_kv_key key_mask;
    struct cabe_kv_watch watch;
    uint64_t clock;    /* releases */
    double half_life;  /* of them; 0: only the last counts */
    int32_t free_page, n_free, n_cached, n_shared;
    int32_t free_seq, n_open;
    uint64_t queried_tokens, hit_tokens, n_evictions, n_copies, n_collisions;
};

/* A page that nobody holds, now held once; there is one: n_free + n_cached > 0. Its bytes are what they were. */
int32_t cabe_kv_page_take(struct cabe_kv *kv);
void cabe_kv_page_hold(struct cabe_kv *kv, int32_t page);
void cabe_kv_page_reuse(struct cabe_kv *kv, int32_t page); /* holds one that a lookup has found */
/* A known one is cached, another free. */
void cabe_kv_page_release(struct cabe_kv *kv, int32_t page, enum cabe_class class_);

/* `salt` counts where there is no parent: pages after it are told apart by their parents. */
struct cabe_kv_key cabe_kv_key_of(const struct cabe_kv *kv, int32_t parent, const uint64_t salt[2],
                                  const uint64_t *tokens);
/* The known page of these tokens after `parent` (or NONE), or NONE; *n_collisions counts others of its key. */
int32_t cabe_kv_page_find(const struct cabe_kv *kv, int32_t parent, const uint64_t salt[2], struct cabe_kv_key key,
                          const uint64_t *tokens, uint64_t *n_collisions);
void cabe_kv_page_know(struct cabe_kv *kv, int32_t page, int32_t parent, const uint64_t salt[2], struct cabe_kv_key key,
                       const uint64_t *tokens);
void cabe_kv_page_forget(struct cabe_kv *kv, int32_t page); /* with all that descends from it */

#endif
