/*
 * The KV store: pages of all sequences of one model, from one buffer that the ledger knows.
 *
 * A sequence is a list of tokens and the pages that hold their keys and values. Full pages are known by a chained
 * 128-bit hash of (domain, the tokens up to their end, formats); a new sequence that begins with the same tokens shares
 * them. On a hit the tokens themselves are compared. Shared pages are read-only: who writes into one gets a copy first.
 *
 * A page is referenced (by sequences) or cached (by its hash only) or free. When a page is wanted and none is free, the
 * cached one goes that is least worth keeping: leaves of the chain first, then by worth. Each sequence that lets a page go
 * adds its class's weight to the page's worth, which halves as other pages come and go: a page used often outlives one
 * used once, one of a high class outlives one of a low class, and none is kept for ever. Referenced pages are never
 * taken: CABE_ERR_BUDGET says how many pages are missing.
 *
 * A token is an identity of 64 bits: a token id, or a hash of what stands in its place (an image), see
 * cabe_kv_content(). The store never looks into pages, save to copy and to zero them: a page is zeroed when it is taken.
 *
 * Everything is reserved at open; afterwards nothing is allocated.
 *
 * Owner: who opens it; sequences are closed before. Thread: one at a time.
 */
#ifndef CABE_RUNTIME_KV_H
#define CABE_RUNTIME_KV_H

#include <stddef.h>
#include <stdint.h>

#include "base/class.h"
#include "cabe/status.h"
#include "device/device.h"
#include "tensor/pages.h"

struct cabe_kv;
struct cabe_kv_seq;

struct cabe_kv_config {
    struct cabe_device *device;          /* its buffer holds the pages, purpose KV */
    struct cabe_kv_shape shape;
    enum cabe_kv_format keys, values;    /* of new pages */
    int64_t n_tokens;                    /* that all sequences together may hold; rounded up to pages */
    int32_t n_seqs;                      /* open at a time */
    int64_t seq_tokens;                  /* that one sequence may hold, at most n_tokens */
    uint8_t domain[16];                  /* of the hashes: what else the keys depend on (model, tenant) */
    const char *place;                   /* in the ledger */
};

/* Exactly what open() reserves: pages on the device (KV), tables on the host (KV too). UINT64_MAX: no such size. */
void cabe_kv_measure(const struct cabe_kv_config *config, uint64_t *device_bytes, uint64_t *host_bytes);
CABE_CHECKED enum cabe_status cabe_kv_open(struct cabe_kv **out, const struct cabe_kv_config *config,
                                           struct cabe_ledger *ledger, struct cabe_error *err);
void cabe_kv_close(struct cabe_kv *kv); /* NULL is fine */
struct cabe_buffer *cabe_kv_buffer(struct cabe_kv *kv); /* to bind to programs */

/* Identity of position `index` of a piece of content that is no token; never equal to a token id's. */
uint64_t cabe_kv_content(const uint8_t hash[16], int64_t index);

/* CABE_ERR_LIMIT: n_seqs are open. */
CABE_CHECKED enum cabe_status cabe_kv_seq_open(struct cabe_kv_seq **out, struct cabe_kv *kv, struct cabe_error *err);
/*
 * For an empty sequence: whose pages it may share, and how long its own are kept beside those of other classes; NORMAL
 * and no salt at first. 0 is no salt: then pages are shared by all that have none.
 */
void cabe_kv_seq_begin(struct cabe_kv_seq *seq, enum cabe_class class_, const uint8_t salt[16]);
/* Of a text; never all zero. */
void cabe_kv_salt(const char *text, size_t n, uint8_t salt[16]);
/* Full pages stay cached by their hashes. NULL is fine. */
void cabe_kv_seq_close(struct cabe_kv_seq *seq);
/*
 * A second sequence with the same tokens; shares every page. What `seq` has reserved and not committed is given back:
 * reserve before the next step, so that the last page is copied.
 */
CABE_CHECKED enum cabe_status cabe_kv_seq_fork(struct cabe_kv_seq **out, struct cabe_kv_seq *seq,
                                               struct cabe_error *err);

/*
 * For an empty sequence (what it has reserved is given back): takes the longest run of cached full pages that `tokens` begin with, at most n - 1 tokens (one
 * must be computed). Returns the tokens taken.
 */
int64_t cabe_kv_seq_match(struct cabe_kv_seq *seq, const uint64_t *tokens, int64_t n);
/* What match() would take, without taking it; of those without a salt. */
int64_t cabe_kv_probe(const struct cabe_kv *kv, const uint64_t *tokens, int64_t n);

/*
 * Room for n more tokens, all or nothing: new pages, and a copy of a shared last page that would be written to.
 * CABE_ERR_BUDGET: pages are missing; CABE_ERR_LIMIT: past seq_tokens.
 */
CABE_CHECKED enum cabe_status cabe_kv_seq_reserve(struct cabe_kv_seq *seq, int64_t n, struct cabe_error *err);
/*
 * After the step that wrote them: these n tokens, which were reserved, are in the pages. Full pages become known by
 * their hashes; where another sequence has made the same page before, its page takes the place of this one's.
 */
void cabe_kv_seq_commit(struct cabe_kv_seq *seq, const uint64_t *tokens, int64_t n);
/*
 * Forgets the tokens after the first n, n <= length, and gives back what is reserved. Down to the first gap of a
 * shifted sequence or further: it is then as if it had never been shifted.
 */
void cabe_kv_seq_truncate(struct cabe_kv_seq *seq, int64_t n);
/*
 * Context shift: drops `n_pages` pages after the first `keep` tokens (rounded up to a page). Slots move down, positions
 * (of RoPE) do not: the next token's is length + dropped. The sequence is no longer known by hashes from there on.
 * CABE_ERR_ARGUMENT: there are not that many full pages.
 */
CABE_CHECKED enum cabe_status cabe_kv_seq_shift(struct cabe_kv_seq *seq, int64_t keep, int64_t n_pages,
                                                struct cabe_error *err);

/* Pages that only this sequence holds: what closing it would give back. */
int32_t cabe_kv_seq_own_pages(const struct cabe_kv_seq *seq);
int64_t cabe_kv_seq_length(const struct cabe_kv_seq *seq);   /* tokens committed = the next slot */
int64_t cabe_kv_seq_dropped(const struct cabe_kv_seq *seq);  /* by shifts */
const uint64_t *cabe_kv_seq_tokens(const struct cabe_kv_seq *seq); /* [length] */
/* The table, for a graph: pages of all reserved slots. */
const struct cabe_page *cabe_kv_seq_pages(const struct cabe_kv_seq *seq, int32_t *n_pages);

struct cabe_kv_stats {
    int64_t n_pages, n_referenced, n_cached, n_free;
    int64_t n_shared;                    /* referenced more than once */
    uint64_t queried_tokens, hit_tokens; /* of match() */
    uint64_t n_evictions, n_copies, n_collisions;
    uint64_t page_bytes;
};
void cabe_kv_stats(const struct cabe_kv *kv, struct cabe_kv_stats *stats);

/* Times that pages see. */
enum cabe_kv_time {
    CABE_KV_LIFETIME,          /* of a cached page that goes: since it was taken */
    CABE_KV_IDLE_BEFORE_EVICT, /* of the same: since it was last held or let go */
    CABE_KV_REUSE_GAP          /* of one that match() finds: since then */
};
struct cabe_kv_watch {
    void (*seen)(void *self, enum cabe_kv_time what, double seconds); /* on the store's thread; NULL: nobody looks */
    uint64_t (*clock)(void *self);                                    /* for tests; NULL: cabe_clock_ns() */
    void *self;
};
/* Before the first sequence. */
void cabe_kv_watch(struct cabe_kv *kv, const struct cabe_kv_watch *watch);

/*
 * Releases of pages after which a use counts half; at first CABE_KV_HALF_LIFE times the pages of the store. 0: the
 * least recently used goes first, whatever its class.
 */
#define CABE_KV_HALF_LIFE 2.0
void cabe_kv_half_life(struct cabe_kv *kv, double n_releases);

/* For tests: keys keep this many bits, so that they collide. Before the first sequence. */
void cabe_kv_hash_bits(struct cabe_kv *kv, int n_bits);

#endif
