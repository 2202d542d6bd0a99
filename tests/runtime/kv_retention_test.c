/* Which cached pages go first, and who shares none. */
#include "kv_fixture.h"

/* A sequence of whole pages of its own, by the class and the salt; returns the tokens that were cached. */
static int64_t put(struct bench *b, uint64_t number, int64_t n_pages, enum cabe_class class_, const char *salt_text)
{
    uint64_t tokens[16 * PAGE];
    uint8_t salt[16] = {0};
    struct cabe_kv_seq *seq;
    int64_t matched, n = n_pages * PAGE;

    assert_true(n_pages <= 16);
    for (int64_t i = 0; i < n; i++)
        tokens[i] = number * 1000 + (uint64_t)i / PAGE;
    if (salt_text)
        cabe_kv_salt(salt_text, strlen(salt_text), salt);
    OK(cabe_kv_seq_open(&seq, b->kv, &why));
    cabe_kv_seq_begin(seq, class_, salt);
    matched = cabe_kv_seq_match(seq, tokens, n + 1);
    OK(cabe_kv_seq_reserve(seq, n - matched, &why));
    cabe_kv_seq_commit(seq, tokens + matched, n - matched);
    assert_int_equal(cabe_kv_seq_own_pages(seq), n_pages);
    cabe_kv_seq_close(seq);
    return matched;
}

/* Pages of the sequence that are cached, without touching them. */
static int64_t cached(struct bench *b, uint64_t number, int64_t n_pages)
{
    uint64_t tokens[16 * PAGE + 1];

    for (int64_t i = 0; i < n_pages * PAGE; i++)
        tokens[i] = number * 1000 + (uint64_t)i / PAGE;
    tokens[n_pages * PAGE] = 0;
    return cabe_kv_probe(b->kv, tokens, n_pages * PAGE + 1) / PAGE;
}

/* The high class's are older, and stay while the low class's go. */
static void low_classes_go_first(void **state)
{
    struct bench b;

    (void)state;
    bench_start(&b, 16, 1);
    put(&b, 1, 4, CABE_CLASS_CRITICAL, NULL);
    put(&b, 2, 4, CABE_CLASS_LOW, NULL);
    put(&b, 3, 4, CABE_CLASS_NORMAL, NULL);
    put(&b, 4, 4, CABE_CLASS_LOW, NULL);
    put(&b, 5, 4, CABE_CLASS_NORMAL, NULL);
    assert_int_equal(cached(&b, 1, 4), 4);
    assert_int_equal(cached(&b, 2, 4), 0);
    put(&b, 6, 4, CABE_CLASS_NORMAL, NULL);
    assert_int_equal(cached(&b, 4, 4), 0);
    assert_int_equal(cached(&b, 1, 4), 4);
    assert_int_equal(cached(&b, 3, 4), 4);
    bench_close(&b);
}

/* But not for ever. */
static void the_high_go_in_the_end(void **state)
{
    struct bench b;
    uint64_t n = 100;

    (void)state;
    bench_start(&b, 16, 1);
    put(&b, 1, 4, CABE_CLASS_CRITICAL, NULL);
    while (cached(&b, 1, 4) > 0 && n < 1000)
        put(&b, n++, 4, CABE_CLASS_LOW, NULL);
    assert_true(n > 110 && n < 200); /* four doublings of its weight are eight fills of the store */
    bench_close(&b);
}

/* A prefix that is used now and then outlives ten times the store's capacity of prompts that are used once. */
static void a_scan_leaves_the_used(void **state)
{
    struct bench b;
    int64_t hits = 0;

    (void)state;
    for (int lru = 0; lru < 2; lru++) {
        bench_start(&b, 32, 1);
        if (lru)
            cabe_kv_half_life(b.kv, 0);
        for (int i = 0; i < 4; i++)
            put(&b, 1, 4, CABE_CLASS_NORMAL, NULL);
        hits = 0;
        for (uint64_t i = 0; i < 80; i++) {
            put(&b, 100 + i, 4, CABE_CLASS_NORMAL, NULL);
            if (i % 12 == 11)
                hits += put(&b, 1, 4, CABE_CLASS_NORMAL, NULL) / PAGE;
        }
        assert_int_equal(hits, lru ? 0 : 6 * 4);
        bench_close(&b);
    }
}

static void salts_keep_apart(void **state)
{
    uint8_t a[16], zero[16] = {0};
    struct bench b;

    (void)state;
    for (int bits = 0; bits <= 128; bits += 128) { /* also when all keys collide */
        bench_start(&b, 64, 1);
        cabe_kv_hash_bits(b.kv, bits);
        assert_int_equal(put(&b, 1, 4, CABE_CLASS_NORMAL, NULL), 0);
        assert_int_equal(put(&b, 1, 4, CABE_CLASS_NORMAL, "a"), 0);
        assert_int_equal(put(&b, 1, 4, CABE_CLASS_NORMAL, "b"), 0);
        assert_int_equal(put(&b, 1, 4, CABE_CLASS_NORMAL, "a"), 4 * PAGE);
        assert_int_equal(put(&b, 1, 4, CABE_CLASS_NORMAL, "b"), 4 * PAGE);
        assert_int_equal(put(&b, 1, 4, CABE_CLASS_NORMAL, NULL), 4 * PAGE);
        assert_int_equal(put(&b, 1, 4, CABE_CLASS_NORMAL, ""), 0); /* an empty salt is one too */
        bench_close(&b);
    }
    cabe_kv_salt("", 0, a);
    assert_memory_not_equal(a, zero, sizeof a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(low_classes_go_first), cmocka_unit_test(the_high_go_in_the_end),
                                       cmocka_unit_test(a_scan_leaves_the_used), cmocka_unit_test(salts_keep_apart)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
