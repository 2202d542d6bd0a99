/* Random operations on a KV store, beside a model that knows what every slot of every sequence must hold. */
#include "kv_fixture.h"

#define N_SEQS 8
#define N_PAGES 48
#define SEQ_TOKENS 300

struct twin { /* of an open sequence */
    struct cabe_kv_seq *seq;
    int64_t length, dropped;
    uint64_t tokens[SEQ_TOKENS], contents[SEQ_TOKENS];
};

struct world {
    struct bench b;
    struct twin twins[N_SEQS];
    uint64_t seed;
    uint64_t n_refused, n_hits;
};

static uint64_t draw(struct world *w, uint64_t n)
{
    w->seed ^= w->seed << 13;
    w->seed ^= w->seed >> 7;
    w->seed ^= w->seed << 17;
    return (w->seed >> 11) % n;
}

static uint64_t mix(uint64_t before, uint64_t token)
{
    uint64_t x = (before ^ token * 0x9E3779B97F4A7C15u) + 0x632BE59BD9B4E019u;

    x = (x ^ x >> 29) * 0xBF58476D1CE4E5B9u;
    return (x ^ x >> 32) | 1;
}

/* Few words, mostly the same: many sequences begin alike. */
static uint64_t some_token(struct world *w, int64_t at)
{
    return draw(w, 60) ? (uint64_t)(at % 3) : cabe_kv_content(w->b.config.domain, (int64_t)draw(w, 2));
}

static void check_contents(const struct twin *t)
{
    int32_t n_pages;

    (void)cabe_kv_seq_pages(t->seq, &n_pages);
    assert_int_equal(cabe_kv_seq_length(t->seq), t->length);
    assert_int_equal(cabe_kv_seq_dropped(t->seq), t->dropped);
    assert_true((int64_t)n_pages * PAGE >= t->length);
    assert_memory_equal(cabe_kv_seq_tokens(t->seq), t->tokens, (size_t)t->length * sizeof t->tokens[0]);
    for (int64_t i = 0; i < t->length; i++)
        assert_true(slot_is(t->seq, i, t->contents[i]));
}

static void count_refs(const struct world *w, int32_t refs[N_PAGES])
{
    memset(refs, 0, N_PAGES * sizeof *refs);
    for (int i = 0; i < N_SEQS; i++) {
        const struct cabe_page *pages;
        int32_t n = 0;

        if (!w->twins[i].seq)
            continue;
        pages = cabe_kv_seq_pages(w->twins[i].seq, &n);
        for (int32_t k = 0; k < n; k++) {
            assert_int_equal(pages[k].formats, cabe_page_formats(CABE_KV_F32, CABE_KV_F32));
            assert_int_equal(pages[k].unit % w->b.kv->page_units, 0);
            refs[pages[k].unit / w->b.kv->page_units]++;
        }
    }
}

/* The tree, the buckets, the heap and the free list agree with each other and with the sequences. */
static void check_pages(const struct world *w)
{
    const struct cabe_kv *kv = w->b.kv;
    int32_t refs[N_PAGES], n_shared = 0, n_referenced = 0, n_known = 0, n_listed = 0, n_children = 0;
    struct cabe_kv_stats stats;

    count_refs(w, refs);
    for (int32_t i = 0; i < N_PAGES; i++) {
        const struct cabe_kv_page *p = &kv->pages[i];

        assert_int_equal(p->n_refs, refs[i]);
        n_referenced += refs[i] > 0;
        n_shared += refs[i] > 1;
        n_known += p->is_known;
        if (!p->is_known)
            continue;
        for (int32_t child = p->first_child; child != CABE_KV_NONE; child = kv->pages[child].next, n_children++)
            assert_true(kv->pages[child].is_known && kv->pages[child].parent == i);
        n_children += p->parent == CABE_KV_NONE;
        if (refs[i] == 0)
            assert_true(p->rank >= 0 && p->rank < kv->n_cached && kv->heap[p->rank] == i);
    }
    assert_int_equal(n_children, n_known);
    for (uint32_t i = 0; i < kv->n_buckets; i++)
        for (int32_t page = kv->buckets[i]; page != CABE_KV_NONE; page = kv->pages[page].link)
            n_known -= kv->pages[page].is_known;
    assert_int_equal(n_known, 0);
    for (int32_t page = kv->free_page; page != CABE_KV_NONE; page = kv->pages[page].link, n_listed++)
        assert_true(refs[page] == 0 && !kv->pages[page].is_known);
    cabe_kv_stats(kv, &stats);
    assert_int_equal(stats.n_pages, N_PAGES);
    assert_int_equal(stats.n_referenced, n_referenced);
    assert_int_equal(stats.n_shared, n_shared);
    assert_int_equal(stats.n_free, n_listed);
    assert_int_equal(stats.n_free + stats.n_cached + stats.n_referenced, N_PAGES);
}

static void write_and_commit(struct world *w, struct twin *t, int64_t n)
{
    uint64_t tokens[SEQ_TOKENS];

    for (int64_t i = 0; i < n; i++) {
        int64_t at = t->length + i;
        uint64_t before = at ? t->contents[at - 1] : 1;

        tokens[i] = t->tokens[at] = some_token(w, at);
        t->contents[at] = mix(before, tokens[i]);
        slot_write(t->seq, at, t->contents[at]);
    }
    if (draw(w, 8) == 0) { /* the step failed */
        cabe_kv_seq_truncate(t->seq, t->length);
        return;
    }
    cabe_kv_seq_commit(t->seq, tokens, n);
    t->length += n;
}

static void append(struct world *w, struct twin *t)
{
    int64_t n = 1 + (int64_t)draw(w, draw(w, 3) ? 3 : 40), wanted, n_there;
    struct cabe_kv_stats stats;
    struct cabe_error err;
    enum cabe_status status;
    int32_t refs[N_PAGES], n_pages, n_after;
    const struct cabe_page *pages = cabe_kv_seq_pages(t->seq, &n_pages);

    count_refs(w, refs);
    cabe_kv_stats(w->b.kv, &stats);
    n_there = stats.n_free + stats.n_cached;
    wanted = (t->length + n + PAGE - 1) / PAGE - n_pages;
    wanted = wanted > 0 ? wanted : 0;
    if (t->length % PAGE)
        wanted += refs[pages[t->length / PAGE].unit / w->b.kv->page_units] > 1;
    status = cabe_kv_seq_reserve(t->seq, n, &err);
    (void)cabe_kv_seq_pages(t->seq, &n_after);
    if (t->length + n > SEQ_TOKENS || wanted > n_there) {
        assert_int_equal(status, t->length + n > SEQ_TOKENS ? CABE_ERR_LIMIT : CABE_ERR_BUDGET);
        if (status == CABE_ERR_BUDGET)
            assert_int_equal(err.missing_bytes, (uint64_t)(wanted - n_there) * stats.page_bytes);
        assert_int_equal(n_after, n_pages);
        w->n_refused++;
        return;
    }
    assert_int_equal(status, CABE_OK);
    for (int64_t i = (int64_t)n_pages * PAGE; i < (int64_t)n_after * PAGE; i++)
        assert_true(slot_is(t->seq, i, 0));
    write_and_commit(w, t, n);
}

static void match(struct world *w, struct twin *t)
{
    uint64_t tokens[SEQ_TOKENS];
    int64_t n = (int64_t)draw(w, SEQ_TOKENS), n_probed;

    if (t->length > 0)
        return;
    for (int64_t i = 0; i < n; i++)
        tokens[i] = some_token(w, i);
    n_probed = cabe_kv_probe(w->b.kv, tokens, n);
    t->length = cabe_kv_seq_match(t->seq, tokens, n);
    t->dropped = 0;
    assert_int_equal(t->length, n_probed);
    assert_true(t->length % PAGE == 0 && (t->length < n || n == 0));
    for (int64_t i = 0; i < t->length; i++) {
        t->tokens[i] = tokens[i];
        t->contents[i] = mix(i ? t->contents[i - 1] : 1, tokens[i]);
    }
    w->n_hits += t->length > 0;
}

static void shift(struct world *w, struct twin *t)
{
    int64_t keep = (int64_t)draw(w, 40), n_pages = (int64_t)draw(w, 4), first = (keep + PAGE - 1) / PAGE;
    enum cabe_status status = cabe_kv_seq_shift(t->seq, keep, n_pages, NULL);
    int64_t after = first + n_pages;

    if (first > t->length / PAGE || after > t->length / PAGE) {
        assert_int_equal(status, CABE_ERR_ARGUMENT);
        return;
    }
    assert_int_equal(status, CABE_OK);
    memmove(t->tokens + first * PAGE, t->tokens + after * PAGE,
            (size_t)(t->length - after * PAGE) * sizeof t->tokens[0]);
    memmove(t->contents + first * PAGE, t->contents + after * PAGE,
            (size_t)(t->length - after * PAGE) * sizeof t->contents[0]);
    t->length -= n_pages * PAGE;
    t->dropped += n_pages * PAGE;
}

static void truncate_some(struct world *w, struct twin *t)
{
    int64_t n = draw(w, 3) ? t->length - (int64_t)draw(w, 20) : (int64_t)draw(w, (uint64_t)t->length + 1);

    t->length = n > 0 ? n : 0;
    cabe_kv_seq_truncate(t->seq, t->length);
    assert_true(cabe_kv_seq_dropped(t->seq) == t->dropped || cabe_kv_seq_dropped(t->seq) == 0);
    t->dropped = cabe_kv_seq_dropped(t->seq);
}

static void fork_some(struct world *w, struct twin *t)
{
    struct twin *fork = &w->twins[draw(w, N_SEQS)];

    if (fork->seq)
        return;
    *fork = *t;
    OK(cabe_kv_seq_fork(&fork->seq, t->seq, &why));
    check_contents(fork);
}

static void step(struct world *w)
{
    struct twin *t = &w->twins[draw(w, N_SEQS)];
    uint64_t kind = draw(w, 100);

    if (!t->seq) {
        *t = (struct twin){0};
        OK(cabe_kv_seq_open(&t->seq, w->b.kv, &why));
        match(w, t);
    } else if (kind < 60) {
        append(w, t);
    } else if (kind < 68) {
        truncate_some(w, t);
    } else if (kind < 78) {
        fork_some(w, t);
    } else if (kind < 83) {
        shift(w, t);
    } else if (kind < 88) {
        match(w, t);
    } else if (kind < 92) {
        w->n_refused += cabe_kv_seq_reserve(t->seq, (int64_t)draw(w, 60), NULL) != CABE_OK;
    } else if (kind < 98) {
        cabe_kv_seq_close(t->seq);
        t->seq = NULL;
        return;
    }
    check_contents(t);
}

static void run(int is_sim, int hash_bits, int n_steps, uint64_t seed)
{
    struct world *w = calloc(1, sizeof *w);
    struct cabe_kv_stats stats;
    uint64_t n_allocations;

    assert_non_null(w);
    w->seed = seed;
    bench_open(&w->b, is_sim, CABE_UNLIMITED, N_PAGES, N_SEQS);
    w->b.config.seq_tokens = SEQ_TOKENS;
    OK(cabe_kv_open(&w->b.kv, &w->b.config, w->b.ledger, &why));
    cabe_kv_hash_bits(w->b.kv, hash_bits);
    n_allocations = cabe_memory_count();
    for (int i = 0; i < n_steps; i++) {
        step(w);
        check_pages(w);
        for (int k = 0; i % 64 == 0 && k < N_SEQS; k++)
            if (w->twins[k].seq)
                check_contents(&w->twins[k]);
    }
    assert_int_equal(cabe_memory_count(), n_allocations);
    cabe_kv_stats(w->b.kv, &stats);
    printf("seed %llu, %d bits: %llu refused, %llu matched, %llu of %llu tokens hit, %llu evicted, "
           "%llu copied, %llu collided\n",
           (unsigned long long)seed, hash_bits, (unsigned long long)w->n_refused,
           (unsigned long long)w->n_hits, (unsigned long long)stats.hit_tokens,
           (unsigned long long)stats.queried_tokens, (unsigned long long)stats.n_evictions,
           (unsigned long long)stats.n_copies, (unsigned long long)stats.n_collisions);
    assert_true(w->n_refused > 0 && w->n_hits > 0 && stats.n_evictions > 0 && stats.n_copies > 0);
    assert_true((stats.n_collisions > 0) == (hash_bits < 128));
    for (int k = 0; k < N_SEQS; k++)
        cabe_kv_seq_close(w->twins[k].seq);
    bench_close(&w->b);
    free(w);
}

static void test_random(void **state)
{
    (void)state;
    run(0, 128, 100000, 20261);
}

static void test_random_collisions(void **state)
{
    (void)state;
    run(0, 2, 50000, 20262);
    run(0, 0, 10000, 20263);
}

static void test_random_sim(void **state)
{
    (void)state;
    run(1, 128, 2000, 20264);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_random_collisions),
        cmocka_unit_test(test_random_sim),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
