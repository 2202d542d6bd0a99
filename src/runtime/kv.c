#include "runtime/kv.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include <xxhash.h>

#include "base/arena.h"
#include "base/memory.h"
#include "runtime/kv_pages.h"

#define NONE CABE_KV_NONE
#define TOKENS CABE_PAGE_TOKENS

static int64_t pages_of(int64_t n_tokens)
{
    return n_tokens / TOKENS + (n_tokens % TOKENS != 0);
}

/* Everything on the host, from one block; `kv` has the sizes and gets the addresses. */
static void place(struct cabe_kv *kv, struct cabe_arena *arena)
{
    uint64_t n = (uint64_t)kv->n_pages, n_seqs = (uint64_t)kv->config.n_seqs;
    uint64_t n_tables = n_seqs * (uint64_t)kv->seq_pages; /* of 31 bits each */
    struct cabe_page *tables;
    uint64_t *tokens;

    cabe_arena_take(arena, 1, sizeof *kv, 64); /* the store itself is the block's first */
    kv->pages = cabe_arena_take(arena, n, sizeof *kv->pages, 64);
    kv->tokens = cabe_arena_take(arena, n, sizeof *kv->tokens, 64);
    kv->buckets = cabe_arena_take(arena, kv->n_buckets, sizeof *kv->buckets, 64);
    kv->heap = cabe_arena_take(arena, n, sizeof *kv->heap, 64);
    kv->seqs = cabe_arena_take(arena, n_seqs, sizeof *kv->seqs, 64);
    tables = cabe_arena_take(arena, n_tables, sizeof *tables, 64);
    tokens = cabe_arena_take(arena, n_tables, TOKENS * sizeof *tokens, 64);
    for (int32_t i = 0; arena->base && i < kv->config.n_seqs; i++) {
        kv->seqs[i].table = tables + (size_t)i * (size_t)kv->seq_pages;
        kv->seqs[i].tokens = tokens + (size_t)i * (size_t)kv->seq_pages * TOKENS;
    }
}

/* Fills the sizes that follow from `config`; 0 where there is no such store. */
static int size_up(struct cabe_kv *kv, const struct cabe_kv_config *config)
{
    struct cabe_arena arena = {NULL, 0, 0};
    uint64_t bytes;

    *kv = (struct cabe_kv){.config = *config};
    if (config->n_tokens < 1 || config->seq_tokens < 1 || config->seq_tokens > config->n_tokens ||
        config->n_seqs < 1 || (int)config->keys < 0 || config->keys >= CABE_N_KV_FORMATS ||
        (int)config->values < 0 || config->values >= CABE_N_KV_FORMATS || config->shape.n_layers < 1 ||
        config->shape.n_heads < 1 || config->shape.head_dim < 1 || config->shape.head_dim > CABE_HEAD_DIM_MAX ||
        pages_of(config->n_tokens) > INT32_MAX / 2)
        return 0;
    kv->page_bytes = cabe_page_bytes(config->keys, config->values, &config->shape);
    kv->n_pages = (int32_t)pages_of(config->n_tokens);
    kv->seq_pages = (int32_t)pages_of(config->seq_tokens);
    if (kv->page_bytes == 0 || kv->page_bytes % CABE_PAGE_UNIT != 0 ||
        __builtin_mul_overflow(kv->page_bytes, (uint64_t)kv->n_pages, &bytes) ||
        bytes / CABE_PAGE_UNIT > UINT32_MAX)
        return 0;
    kv->page_units = (uint32_t)(kv->page_bytes / CABE_PAGE_UNIT);
    kv->formats = cabe_page_formats(config->keys, config->values);
    for (kv->n_buckets = 1; kv->n_buckets < (uint32_t)kv->n_pages;)
        kv->n_buckets *= 2;
    place(kv, &arena);
    if (arena.used_bytes > INT64_MAX)
        return 0;
    kv->host_bytes = cabe_pages_round(arena.used_bytes);
    return 1;
}

void cabe_kv_measure(const struct cabe_kv_config *config, uint64_t *device_bytes, uint64_t *host_bytes)
{
    struct cabe_kv kv;

    *device_bytes = *host_bytes = UINT64_MAX;
    if (!size_up(&kv, config))
        return;
    *device_bytes = cabe_pages_round(kv.page_bytes * (uint64_t)kv.n_pages);
    *host_bytes = kv.host_bytes;
}

static void fill_lists(struct cabe_kv *kv)
{
    for (uint32_t i = 0; i < kv->n_buckets; i++)
        kv->buckets[i] = NONE;
    for (int32_t i = 0; i < kv->n_pages; i++)
        kv->pages[i] = (struct cabe_kv_page){
            .parent = NONE, .first_child = NONE, .link = i + 1 < kv->n_pages ? i + 1 : NONE};
    kv->n_free = kv->n_pages;
    for (int32_t i = 0; i < kv->config.n_seqs; i++) {
        kv->seqs[i].kv = kv;
        kv->seqs[i].link = i + 1 < kv->config.n_seqs ? i + 1 : NONE;
    }
}

enum cabe_status cabe_kv_open(struct cabe_kv **out, const struct cabe_kv_config *config,
                              struct cabe_ledger *ledger, struct cabe_error *err)
{
    struct cabe_kv sizes, *kv;
    struct cabe_arena arena;
    enum cabe_status status;
    void *block;

    *out = NULL;
    if (!config->device || !ledger)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "KV store: wants a device and a ledger");
    if (!size_up(&sizes, config))
        return cabe_fail(err, CABE_ERR_ARGUMENT,
                         "KV store: %lld tokens, %d sequences of %lld, %d layers of %d heads of %d",
                         (long long)config->n_tokens, config->n_seqs, (long long)config->seq_tokens,
                         config->shape.n_layers, config->shape.n_heads, config->shape.head_dim);
    sizes.ledger = ledger;
    sizes.half_life = CABE_KV_HALF_LIFE * sizes.n_pages;
    sizes.key_mask = (struct cabe_kv_key){{UINT64_MAX, UINT64_MAX}};
    snprintf(sizes.place, sizeof sizes.place, "%s", config->place ? config->place : "kv");
    sizes.config.place = NULL; /* the caller's, who may free it */
    status = cabe_ledger_reserve(ledger, CABE_HOST, CABE_PURPOSE_KV, sizes.host_bytes, sizes.place, err);
    if (status != CABE_OK)
        return status;
    status = cabe_pages_map(&block, sizes.host_bytes, 0, err);
    if (status != CABE_OK) {
        cabe_ledger_release(ledger, CABE_HOST, CABE_PURPOSE_KV, sizes.host_bytes, sizes.place);
        return cabe_fail_in(err, status, "%s: KV tables", sizes.place);
    }
    cabe_ledger_add_pages(ledger, CABE_HOST, CABE_PURPOSE_KV, block, sizes.host_bytes);
    kv = block;
    *kv = sizes;
    arena = (struct cabe_arena){block, 0, sizes.host_bytes};
    place(kv, &arena);
    fill_lists(kv);
    status = cabe_buffer_alloc(&kv->buffer, config->device, kv->page_bytes * (uint64_t)kv->n_pages,
                               CABE_PURPOSE_KV, kv->place, err);
    if (status != CABE_OK) {
        cabe_kv_close(kv);
        return status;
    }
    *out = kv;
    return CABE_OK;
}

void cabe_kv_close(struct cabe_kv *kv)
{
    struct cabe_kv last;

    if (!kv)
        return;
    assert(kv->n_open == 0);
    last = *kv; /* it lies in the block itself */
    cabe_buffer_free(last.buffer);
    cabe_ledger_remove_pages(last.ledger, kv);
    cabe_pages_unmap(kv, last.host_bytes);
    cabe_ledger_release(last.ledger, CABE_HOST, CABE_PURPOSE_KV, last.host_bytes, last.place);
}

struct cabe_buffer *cabe_kv_buffer(struct cabe_kv *kv)
{
    return kv->buffer;
}

void cabe_kv_hash_bits(struct cabe_kv *kv, int n_bits)
{
    assert(kv->n_free == kv->n_pages && n_bits >= 0);
    for (int i = 0; i < 2; i++, n_bits -= 64)
        kv->key_mask.word[i] = n_bits >= 64  ? UINT64_MAX
                               : n_bits <= 0 ? 0
                                             : (UINT64_C(1) << n_bits) - 1;
}

void cabe_kv_watch(struct cabe_kv *kv, const struct cabe_kv_watch *watch)
{
    assert(kv->n_free == kv->n_pages);
    kv->watch = *watch;
}

void cabe_kv_half_life(struct cabe_kv *kv, double n_releases)
{
    assert(kv->n_cached == 0);
    kv->half_life = n_releases;
}

void cabe_kv_salt(const char *text, size_t n, uint8_t salt[16])
{
    XXH128_hash_t hash = XXH3_128bits(text, n);
    uint64_t words[2] = {hash.low64, hash.high64 | 1};

    memcpy(salt, words, sizeof words);
}

uint64_t cabe_kv_content(const uint8_t hash[16], int64_t index)
{
    return XXH3_64bits_withSeed(hash, 16, (uint64_t)index) | UINT64_C(1) << 63; /* ids have 32 bits */
}

void cabe_kv_stats(const struct cabe_kv *kv, struct cabe_kv_stats *stats)
{
    *stats = (struct cabe_kv_stats){
        .n_pages = kv->n_pages,
        .n_referenced = kv->n_pages - kv->n_free - kv->n_cached,
        .n_cached = kv->n_cached,
        .n_free = kv->n_free,
        .n_shared = kv->n_shared,
        .queried_tokens = kv->queried_tokens,
        .hit_tokens = kv->hit_tokens,
        .n_evictions = kv->n_evictions,
        .n_copies = kv->n_copies,
        .n_collisions = kv->n_collisions,
        .page_bytes = kv->page_bytes,
    };
}
