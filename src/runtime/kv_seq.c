/* Sequences of a KV store: their tables and tokens. */
#include <assert.h>
#include <string.h>

#include "runtime/kv_pages.h"

#define NONE CABE_KV_NONE
#define TOKENS CABE_PAGE_TOKENS

static int32_t page_at(const struct cabe_kv_seq *seq, int32_t index)
{
    return (int32_t)(seq->table[index].unit / seq->kv->page_units);
}

static void set_page(struct cabe_kv_seq *seq, int32_t index, int32_t page)
{
    seq->table[index] = (struct cabe_page){(uint32_t)page * seq->kv->page_units, seq->kv->formats};
}

static uint64_t offset_of(const struct cabe_kv *kv, int32_t page)
{
    return (uint64_t)page * kv->page_bytes;
}

/* The last one first, so that the beginning, which more may share, is the most recently used. */
static void drop_pages(struct cabe_kv_seq *seq, int32_t n_left)
{
    while (seq->n_pages > n_left)
        cabe_kv_page_release(seq->kv, page_at(seq, --seq->n_pages), seq->class_);
}

enum cabe_status cabe_kv_seq_open(struct cabe_kv_seq **out, struct cabe_kv *kv, struct cabe_error *err)
{
    struct cabe_kv_seq *seq;

    *out = NULL;
    if (kv->free_seq == NONE)
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: %d sequences are open", kv->place, kv->n_open);
    seq = &kv->seqs[kv->free_seq];
    kv->free_seq = seq->link;
    kv->n_open++;
    seq->length = seq->dropped = 0;
    seq->n_pages = seq->n_known = 0;
    seq->gap = NONE;
    seq->is_open = 1;
    seq->class_ = CABE_CLASS_NORMAL;
    seq->salt[0] = seq->salt[1] = 0;
    *out = seq;
    return CABE_OK;
}

void cabe_kv_seq_begin(struct cabe_kv_seq *seq, enum cabe_class class_, const uint8_t salt[16])
{
    assert(seq->length == 0 && seq->n_known == 0);
    seq->class_ = class_;
    memcpy(seq->salt, salt, sizeof seq->salt);
}

void cabe_kv_seq_close(struct cabe_kv_seq *seq)
{
    struct cabe_kv *kv;

    if (!seq)
        return;
    kv = seq->kv;
    assert(seq->is_open);
    drop_pages(seq, 0);
    seq->is_open = 0;
    seq->link = kv->free_seq;
    kv->free_seq = (int32_t)(seq - kv->seqs);
    kv->n_open--;
}

enum cabe_status cabe_kv_seq_fork(struct cabe_kv_seq **out, struct cabe_kv_seq *seq, struct cabe_error *err)
{
    enum cabe_status status = cabe_kv_seq_open(out, seq->kv, err);
    struct cabe_kv_seq *fork = *out;

    if (status != CABE_OK)
        return status;
    cabe_kv_seq_truncate(seq, seq->length);
    for (; fork->n_pages < seq->n_pages; fork->n_pages++) {
        fork->table[fork->n_pages] = seq->table[fork->n_pages];
        cabe_kv_page_hold(seq->kv, page_at(seq, fork->n_pages));
    }
    memcpy(fork->tokens, seq->tokens, (size_t)seq->length * sizeof *seq->tokens);
    fork->length = seq->length;
    fork->dropped = seq->dropped;
    fork->n_known = seq->n_known;
    fork->gap = seq->gap;
    fork->class_ = seq->class_;
    memcpy(fork->salt, seq->salt, sizeof fork->salt);
    return CABE_OK;
}

/* The page after `parent` that `tokens`, n of them, begin with; at least one token is left over. */
static int32_t find_next(const struct cabe_kv *kv, int32_t parent, const uint64_t salt[2], const uint64_t *tokens,
                         int64_t n, uint64_t *n_collisions)
{
    if (n <= TOKENS)
        return NONE;
    return cabe_kv_page_find(kv, parent, salt, cabe_kv_key_of(kv, parent, salt, tokens), tokens, n_collisions);
}

int64_t cabe_kv_seq_match(struct cabe_kv_seq *seq, const uint64_t *tokens, int64_t n)
{
    struct cabe_kv *kv = seq->kv;
    int64_t n_max = n < kv->config.seq_tokens ? n : kv->config.seq_tokens;
    int32_t page = NONE;

    assert(seq->length == 0 && n >= 0);
    drop_pages(seq, 0);
    seq->gap = NONE; /* it may be empty because all was dropped */
    seq->dropped = 0;
    while ((page = find_next(kv, page, seq->salt, tokens + seq->length, n_max - seq->length,
                             &kv->n_collisions)) !=
           NONE) {
        cabe_kv_page_reuse(kv, page);
        set_page(seq, seq->n_pages++, page);
        seq->length += TOKENS;
    }
    seq->n_known = seq->n_pages;
    memcpy(seq->tokens, tokens, (size_t)seq->length * sizeof *tokens);
    kv->queried_tokens += (uint64_t)n;
    kv->hit_tokens += (uint64_t)seq->length;
    return seq->length;
}

int64_t cabe_kv_probe(const struct cabe_kv *kv, const uint64_t *tokens, int64_t n)
{
    int64_t n_max = n < kv->config.seq_tokens ? n : kv->config.seq_tokens, at = 0;
    uint64_t n_collisions = 0, none[2] = {0, 0};
    int32_t page = NONE;

    while ((page = find_next(kv, page, none, tokens + at, n_max - at, &n_collisions)) != NONE)
        at += TOKENS;
    return at;
}

/* Gives the sequence a copy of its page `index`, which others read. */
static enum cabe_status copy_page(struct cabe_kv_seq *seq, int32_t index, struct cabe_error *err)
{
    struct cabe_kv *kv = seq->kv;
    int32_t old = page_at(seq, index), page = cabe_kv_page_take(kv);
    enum cabe_status status =
        cabe_buffer_copy(kv->buffer, offset_of(kv, page), offset_of(kv, old), kv->page_bytes, err);

    kv->pages[page].is_used = 1;
    if (status != CABE_OK) {
        cabe_kv_page_release(kv, page, seq->class_);
        return status;
    }
    set_page(seq, index, page);
    cabe_kv_page_release(kv, old, seq->class_);
    kv->n_copies++;
    return CABE_OK;
}

static enum cabe_status add_page(struct cabe_kv_seq *seq, struct cabe_error *err)
{
    struct cabe_kv *kv = seq->kv;
    int32_t page = cabe_kv_page_take(kv);

    set_page(seq, seq->n_pages++, page);
    if (kv->pages[page].is_used)
        return cabe_buffer_zero(kv->buffer, offset_of(kv, page), kv->page_bytes, err);
    kv->pages[page].is_used = 1;
    return CABE_OK;
}

static enum cabe_status refuse(const struct cabe_kv *kv, int64_t n_wanted, int64_t n_there,
                               struct cabe_error *err)
{
    uint64_t missing = (uint64_t)(n_wanted - n_there) * kv->page_bytes;

    (void)cabe_fail(err, CABE_ERR_BUDGET,
                    "%s: %lld KV pages wanted, %lld of %d not in use: %lld pages (%llu bytes) missing",
                    kv->place, (long long)n_wanted, (long long)n_there, kv->n_pages,
                    (long long)(n_wanted - n_there), (unsigned long long)missing);
    if (err)
        err->missing_bytes = missing;
    return CABE_ERR_BUDGET;
}

enum cabe_status cabe_kv_seq_reserve(struct cabe_kv_seq *seq, int64_t n, struct cabe_error *err)
{
    struct cabe_kv *kv = seq->kv;
    int32_t n_before = seq->n_pages, n_after, last = (int32_t)(seq->length / TOKENS);
    int64_t n_there = (int64_t)kv->n_free + kv->n_cached, n_new;
    enum cabe_status status = CABE_OK;
    int is_shared = 0, copies = 0;

    if (n < 0 || n > kv->config.seq_tokens - seq->length)
        return cabe_fail(err, n < 0 ? CABE_ERR_ARGUMENT : CABE_ERR_LIMIT,
                         "%s: %lld tokens more than %lld, at most %lld in a sequence", kv->place,
                         (long long)n, (long long)seq->length, (long long)kv->config.seq_tokens);
    if (n == 0)
        return CABE_OK;
    n_after = (int32_t)((seq->length + n + TOKENS - 1) / TOKENS);
    n_new = n_after > n_before ? n_after - n_before : 0;
    if (seq->length % TOKENS != 0) {
        const struct cabe_kv_page *page = &kv->pages[page_at(seq, last)];

        is_shared = page->n_refs > 1;
        copies = is_shared || page->is_known;
    }
    if (n_new + is_shared > n_there)
        return refuse(kv, n_new + is_shared, n_there, err);
    if (n_new + copies > n_there) { /* known and held by nobody else: what is cached goes, nobody waits */
        cabe_kv_page_forget(kv, page_at(seq, last));
        copies = 0;
    }
    while (seq->n_pages < n_after && status == CABE_OK)
        status = add_page(seq, err);
    if (status == CABE_OK && copies)
        status = copy_page(seq, last, err);
    if (status != CABE_OK)
        drop_pages(seq, n_before);
    return status;
}

/* Makes full page `index` known, or takes the known page of the same tokens in its place. */
static void publish(struct cabe_kv_seq *seq, int32_t index)
{
    struct cabe_kv *kv = seq->kv;
    const uint64_t *tokens = seq->tokens + (size_t)index * TOKENS;
    int32_t own = page_at(seq, index), parent = index ? page_at(seq, index - 1) : NONE, same;
    struct cabe_kv_key key = cabe_kv_key_of(kv, parent, seq->salt, tokens);

    same = cabe_kv_page_find(kv, parent, seq->salt, key, tokens, &kv->n_collisions);
    if (same == own)
        return;
    if (same == NONE) {
        cabe_kv_page_know(kv, own, parent, seq->salt, key, tokens);
        return;
    }
    cabe_kv_page_hold(kv, same);
    set_page(seq, index, same);
    cabe_kv_page_release(kv, own, seq->class_);
}

void cabe_kv_seq_commit(struct cabe_kv_seq *seq, const uint64_t *tokens, int64_t n)
{
    assert(n >= 0 && n <= (int64_t)seq->n_pages * TOKENS - seq->length);
    memcpy(seq->tokens + seq->length, tokens, (size_t)n * sizeof *tokens);
    seq->length += n;
    while (seq->gap == NONE && seq->n_known < seq->length / TOKENS)
        publish(seq, seq->n_known++);
}

void cabe_kv_seq_truncate(struct cabe_kv_seq *seq, int64_t n)
{
    assert(n >= 0 && n <= seq->length);
    drop_pages(seq, (int32_t)((n + TOKENS - 1) / TOKENS));
    if (n < seq->length && n <= (int64_t)seq->gap * TOKENS) {
        seq->gap = NONE;
        seq->dropped = 0;
    }
    seq->length = n;
    if (seq->n_known > n / TOKENS)
        seq->n_known = (int32_t)(n / TOKENS);
}

enum cabe_status cabe_kv_seq_shift(struct cabe_kv_seq *seq, int64_t keep, int64_t n_pages,
                                   struct cabe_error *err)
{
    int64_t first = keep / TOKENS + (keep % TOKENS != 0), n_full = seq->length / TOKENS;

    if (keep < 0 || n_pages < 0 || first > n_full || n_pages > n_full - first)
        return cabe_fail(err, CABE_ERR_ARGUMENT,
                         "%s: a shift by %lld pages after %lld tokens, of %lld tokens", seq->kv->place,
                         (long long)n_pages, (long long)keep, (long long)seq->length);
    if (n_pages == 0)
        return CABE_OK;
    for (int64_t i = first + n_pages; i-- > first;)
        cabe_kv_page_release(seq->kv, page_at(seq, (int32_t)i), seq->class_);
    memmove(seq->table + first, seq->table + first + n_pages,
            (size_t)(seq->n_pages - first - n_pages) * sizeof *seq->table);
    memmove(seq->tokens + first * TOKENS, seq->tokens + (first + n_pages) * TOKENS,
            (size_t)(seq->length - (first + n_pages) * TOKENS) * sizeof *seq->tokens);
    seq->n_pages -= (int32_t)n_pages;
    seq->length -= n_pages * TOKENS;
    seq->dropped += n_pages * TOKENS;
    if (seq->gap == NONE || seq->gap > first)
        seq->gap = (int32_t)first;
    if (seq->n_known > seq->gap)
        seq->n_known = seq->gap;
    return CABE_OK;
}

int32_t cabe_kv_seq_own_pages(const struct cabe_kv_seq *seq)
{
    int32_t n = 0;

    for (int32_t i = 0; i < seq->n_pages; i++)
        n += seq->kv->pages[page_at(seq, i)].n_refs == 1;
    return n;
}

int64_t cabe_kv_seq_length(const struct cabe_kv_seq *seq)
{
    return seq->length;
}

int64_t cabe_kv_seq_dropped(const struct cabe_kv_seq *seq)
{
    return seq->dropped;
}

const uint64_t *cabe_kv_seq_tokens(const struct cabe_kv_seq *seq)
{
    return seq->tokens;
}

const struct cabe_page *cabe_kv_seq_pages(const struct cabe_kv_seq *seq, int32_t *n_pages)
{
    *n_pages = seq->n_pages;
    return seq->table;
}
