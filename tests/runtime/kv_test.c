#include "runtime/kv.h"

#include "kv_fixture.h"

/* n tokens of text `text`: two texts differ everywhere. */
static const uint64_t *words(uint64_t text, int64_t n)
{
    static uint64_t tokens[64 * PAGE];

    assert_true(n <= (int64_t)(sizeof tokens / sizeof tokens[0]));
    for (int64_t i = 0; i < n; i++)
        tokens[i] = text * 1000 + (uint64_t)i;
    return tokens;
}

static uint64_t value_of(uint64_t text, int64_t slot)
{
    return (text << 32 | (uint64_t)slot) * 0x9E3779B97F4A7C15u | 1;
}

static struct cabe_kv_seq *seq_new(struct bench *b)
{
    struct cabe_kv_seq *seq;

    OK(cabe_kv_seq_open(&seq, b->kv, &why));
    return seq;
}

/* The tokens from..to of a text, reserved, computed and committed. */
static void extend(struct cabe_kv_seq *seq, uint64_t text, int64_t to)
{
    int64_t from = cabe_kv_seq_length(seq);

    OK(cabe_kv_seq_reserve(seq, to - from, &why));
    for (int64_t i = from; i < to; i++)
        slot_write(seq, i, value_of(text, i));
    cabe_kv_seq_commit(seq, words(text, to) + from, to - from);
}

static void expect_text(const struct cabe_kv_seq *seq, uint64_t text, int64_t from, int64_t to)
{
    for (int64_t i = from; i < to; i++)
        assert_true(slot_is(seq, i, value_of(text, i)));
}

static struct cabe_kv_stats stats_of(const struct bench *b)
{
    struct cabe_kv_stats stats;

    cabe_kv_stats(b->kv, &stats);
    return stats;
}

static void test_prefix_is_shared(void **state)
{
    struct cabe_kv_seq *first, *second;
    struct bench b;

    (void)state;
    bench_start(&b, 16, 4);
    first = seq_new(&b);
    extend(first, 1, 50);
    assert_int_equal(cabe_kv_probe(b.kv, words(1, 64), 64), 48);
    assert_int_equal(cabe_kv_probe(b.kv, words(1, 64), 48), 32); /* one token is left to compute */
    assert_int_equal(cabe_kv_probe(b.kv, words(1, 64), 16), 0);
    assert_int_equal(cabe_kv_probe(b.kv, words(1, 64), 0), 0);
    assert_int_equal(cabe_kv_probe(b.kv, words(2, 64), 64), 0);
    second = seq_new(&b);
    assert_int_equal(cabe_kv_seq_match(second, words(1, 64), 64), 48);
    expect_text(second, 1, 0, 48);
    assert_int_equal(stats_of(&b).n_referenced, 4);
    assert_int_equal(stats_of(&b).n_shared, 3);
    extend(second, 2, 60);
    expect_text(first, 1, 0, 50);
    expect_text(second, 1, 0, 48);
    expect_text(second, 2, 48, 60);
    cabe_kv_seq_close(first);
    expect_text(second, 1, 0, 48);
    cabe_kv_seq_close(second);
    assert_int_equal(stats_of(&b).n_cached, 3);
    assert_int_equal(stats_of(&b).queried_tokens, 64);
    assert_int_equal(stats_of(&b).hit_tokens, 48);
    bench_close(&b);
}

/* Two sequences that compute the same text at a time end with the same pages. */
static void test_same_pages_become_one(void **state)
{
    struct cabe_kv_seq *first, *second;
    struct bench b;

    (void)state;
    bench_start(&b, 8, 2);
    first = seq_new(&b);
    second = seq_new(&b);
    extend(first, 1, 20);
    extend(second, 1, 10);
    assert_int_equal(stats_of(&b).n_referenced, 3);
    extend(second, 1, 40);
    assert_int_equal(stats_of(&b).n_referenced, 4);
    assert_int_equal(stats_of(&b).n_shared, 1);
    extend(first, 1, 40);
    assert_int_equal(stats_of(&b).n_referenced, 4); /* two known ones, two that are not full */
    assert_int_equal(stats_of(&b).n_shared, 2);
    expect_text(first, 1, 0, 40);
    expect_text(second, 1, 0, 40);
    cabe_kv_seq_close(first);
    cabe_kv_seq_close(second);
    bench_close(&b);
}

static void test_forks_do_not_disturb(void **state)
{
    struct cabe_kv_seq *seq, *fork, *none;
    struct bench b;

    (void)state;
    bench_start(&b, 8, 2);
    seq = seq_new(&b);
    extend(seq, 1, 24);
    OK(cabe_kv_seq_reserve(seq, 40, &why)); /* given back by the fork */
    OK(cabe_kv_seq_fork(&fork, seq, &why));
    assert_int_equal(cabe_kv_seq_fork(&none, seq, &why), CABE_ERR_LIMIT);
    assert_null(none);
    assert_int_equal(stats_of(&b).n_referenced, 2);
    extend(fork, 2, 30);
    assert_int_equal(stats_of(&b).n_copies, 1);
    extend(seq, 3, 32);
    assert_int_equal(stats_of(&b).n_copies, 1); /* by then the page was its own */
    extend(seq, 3, 40);
    expect_text(fork, 1, 0, 24);
    expect_text(fork, 2, 24, 30);
    expect_text(seq, 1, 0, 24);
    expect_text(seq, 3, 24, 40);
    cabe_kv_seq_close(seq);
    extend(fork, 2, 40);
    expect_text(fork, 2, 24, 40);
    cabe_kv_seq_close(fork);
    bench_close(&b);
}

/* Writing into a page that is only known keeps it for others; into it where there is no other page left. */
static void test_truncated_then_written(void **state)
{
    struct cabe_kv_seq *seq, *other;
    struct bench b;

    (void)state;
    bench_start(&b, 3, 2);
    seq = seq_new(&b);
    extend(seq, 1, 32);
    cabe_kv_seq_truncate(seq, 20);
    extend(seq, 2, 24);
    assert_int_equal(cabe_kv_probe(b.kv, words(1, 40), 40), 32);
    assert_int_equal(stats_of(&b).n_copies, 1);
    other = seq_new(&b);
    assert_int_equal(cabe_kv_seq_match(other, words(1, 40), 40), 32);
    expect_text(other, 1, 0, 32);
    expect_text(seq, 1, 0, 20);
    expect_text(seq, 2, 20, 24);
    cabe_kv_seq_close(seq);
    seq = seq_new(&b);
    extend(seq, 3, 1); /* the third page */
    cabe_kv_seq_truncate(other, 20);
    extend(other, 4, 24);
    assert_int_equal(stats_of(&b).n_copies, 1);
    assert_int_equal(cabe_kv_probe(b.kv, words(1, 40), 40), 16);
    expect_text(other, 1, 0, 20);
    expect_text(other, 4, 20, 24);
    cabe_kv_seq_close(seq);
    cabe_kv_seq_close(other);
    bench_close(&b);
}

static void run_text(struct bench *b, uint64_t text, int64_t n)
{
    struct cabe_kv_seq *seq = seq_new(b);

    cabe_kv_seq_match(seq, words(text, n + 1), n + 1);
    extend(seq, text, n);
    cabe_kv_seq_close(seq);
}

static int64_t cached_of(const struct bench *b, uint64_t text)
{
    return cabe_kv_probe(b->kv, words(text, 4 * PAGE), 4 * PAGE) / PAGE;
}

static void test_eviction_order(void **state)
{
    struct cabe_kv_seq *seq, *held;
    struct bench b;

    (void)state;
    bench_start(&b, 10, 3);
    run_text(&b, 1, 3 * PAGE);
    run_text(&b, 2, 3 * PAGE);
    run_text(&b, 3, 3 * PAGE);
    held = seq_new(&b);
    assert_int_equal(cabe_kv_seq_match(held, words(3, 2 * PAGE), 2 * PAGE), PAGE); /* pins the root of text 3 */
    run_text(&b, 1, 3 * PAGE);                                                 /* now later than text 2 */
    assert_int_equal(stats_of(&b).n_free, 1);
    seq = seq_new(&b);
    extend(seq, 4, PAGE);
    for (int64_t i = 1; i <= 8; i++) { /* 3 of text 2 and 2 of text 3, then 3 of text 1 */
        static const int64_t left[9][3] = {{3, 3, 3}, {3, 2, 3}, {3, 1, 3}, {3, 0, 3}, {3, 0, 2},
                                           {3, 0, 1}, {2, 0, 1}, {1, 0, 1}, {0, 0, 1}};

        extend(seq, 4, (1 + i) * PAGE);
        for (uint64_t text = 1; text <= 3; text++)
            assert_int_equal(cached_of(&b, text), left[i][text - 1]);
        assert_int_equal(stats_of(&b).n_evictions, i);
    }
    expect_text(held, 3, 0, PAGE);
    assert_int_equal(cabe_kv_seq_reserve(seq, 1, &why), CABE_ERR_BUDGET);
    cabe_kv_seq_close(seq);
    cabe_kv_seq_close(held);
    bench_close(&b);
}

struct seen {
    uint64_t now_s;
    double seconds[3]; /* by what, the sum */
    int n[3];
};

static void see(void *self, enum cabe_kv_time what, double seconds)
{
    struct seen *seen = self;

    seen->seconds[what] += seconds;
    seen->n[what]++;
}

static uint64_t clock_of(void *self)
{
    return ((struct seen *)self)->now_s * 1000000000u;
}

/* Times of pages, on a clock of the test. */
static void test_times(void **state)
{
    struct seen seen = {.now_s = 100};
    struct cabe_kv_seq *seq;
    struct bench b;

    (void)state;
    bench_start(&b, 4, 2);
    cabe_kv_watch(b.kv, &(const struct cabe_kv_watch){see, clock_of, &seen});
    run_text(&b, 1, 2 * PAGE); /* taken and let go at 100 */
    seen.now_s = 105;
    seq = seq_new(&b);
    assert_int_equal(cabe_kv_seq_match(seq, words(1, 3 * PAGE), 3 * PAGE), 2 * PAGE);
    assert_true(seen.n[CABE_KV_REUSE_GAP] == 2 && seen.seconds[CABE_KV_REUSE_GAP] == 10);
    seen.now_s = 107;
    cabe_kv_seq_close(seq);
    assert_true(seen.n[CABE_KV_LIFETIME] == 0 && seen.n[CABE_KV_IDLE_BEFORE_EVICT] == 0);
    seen.now_s = 120;
    seq = seq_new(&b);
    extend(seq, 2, 3 * PAGE); /* two are free, one cached page goes */
    assert_true(seen.n[CABE_KV_LIFETIME] == 1 && seen.seconds[CABE_KV_LIFETIME] == 20);
    assert_true(seen.n[CABE_KV_IDLE_BEFORE_EVICT] == 1 && seen.seconds[CABE_KV_IDLE_BEFORE_EVICT] == 13);
    assert_int_equal(seen.n[CABE_KV_REUSE_GAP], 2);
    cabe_kv_seq_close(seq);
    bench_close(&b);
}

static void test_refusals(void **state)
{
    struct cabe_kv_seq *seq, *other, *third;
    struct bench b;
    int32_t n_pages;

    (void)state;
    bench_open(&b, 0, CABE_UNLIMITED, 6, 2);
    b.config.seq_tokens = 70;
    OK(cabe_kv_open(&b.kv, &b.config, b.ledger, &why));
    seq = seq_new(&b);
    other = seq_new(&b);
    assert_int_equal(cabe_kv_seq_open(&third, b.kv, &why), CABE_ERR_LIMIT);
    assert_int_equal(cabe_kv_seq_reserve(seq, 71, &why), CABE_ERR_LIMIT);
    assert_int_equal(cabe_kv_seq_reserve(seq, INT64_MAX, &why), CABE_ERR_LIMIT);
    assert_int_equal(cabe_kv_seq_reserve(seq, -1, &why), CABE_ERR_ARGUMENT);
    OK(cabe_kv_seq_reserve(seq, 70, &why));
    OK(cabe_kv_seq_reserve(seq, 70, &why)); /* nothing was committed: the same room */
    assert_int_equal(cabe_kv_seq_reserve(other, 70, &why), CABE_ERR_BUDGET);
    assert_int_equal(why.missing_bytes, 4 * stats_of(&b).page_bytes);
    assert_non_null(strstr(why.text, "4 pages"));
    cabe_kv_seq_pages(other, &n_pages);
    assert_int_equal(n_pages, 0);
    OK(cabe_kv_seq_reserve(other, 16, &why));
    cabe_kv_seq_truncate(seq, 0);
    OK(cabe_kv_seq_reserve(other, 70, &why));
    cabe_kv_seq_close(seq);
    cabe_kv_seq_close(other);
    bench_close(&b);
}

static void test_shift(void **state)
{
    struct cabe_kv_seq *seq, *again;
    struct bench b;

    (void)state;
    bench_start(&b, 16, 2);
    seq = seq_new(&b);
    extend(seq, 1, 5 * PAGE + 3);
    assert_int_equal(cabe_kv_seq_shift(seq, 1, 5, &why), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_kv_seq_shift(seq, 1, -1, &why), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_kv_seq_shift(seq, INT64_MAX, 1, &why), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_kv_seq_shift(seq, 1, INT64_MAX, &why), CABE_ERR_ARGUMENT);
    OK(cabe_kv_seq_shift(seq, 1, 2, &why));
    assert_int_equal(cabe_kv_seq_length(seq), 3 * PAGE + 3);
    assert_int_equal(cabe_kv_seq_dropped(seq), 2 * PAGE);
    expect_text(seq, 1, 0, PAGE);
    for (int64_t i = PAGE; i < 3 * PAGE + 3; i++) {
        assert_true(slot_is(seq, i, value_of(1, i + 2 * PAGE)));
        assert_int_equal(cabe_kv_seq_tokens(seq)[i], 1000 + i + 2 * PAGE);
    }
    extend(seq, 1, 5 * PAGE); /* what follows is known to nobody, what was before still is */
    assert_int_equal(cabe_kv_probe(b.kv, words(1, 6 * PAGE), 6 * PAGE), 5 * PAGE);
    again = seq_new(&b);
    assert_int_equal(cabe_kv_seq_match(again, words(1, 6 * PAGE), 6 * PAGE), 5 * PAGE);
    expect_text(again, 1, 0, 5 * PAGE);
    cabe_kv_seq_close(again);
    cabe_kv_seq_truncate(seq, PAGE + 1);
    assert_int_equal(cabe_kv_seq_dropped(seq), 2 * PAGE);
    cabe_kv_seq_truncate(seq, PAGE);
    assert_int_equal(cabe_kv_seq_dropped(seq), 0);
    extend(seq, 1, 2 * PAGE);
    assert_int_equal(stats_of(&b).n_shared, 0);
    assert_int_equal(stats_of(&b).n_referenced, 2); /* the known second page took the place of the new one */
    cabe_kv_seq_close(seq);
    bench_close(&b);
}

/* Every key is the same: reuse rests on the comparison of tokens alone. */
static void test_collisions(void **state)
{
    struct cabe_kv_seq *seq;
    struct bench b;

    (void)state;
    bench_start(&b, 16, 2);
    cabe_kv_hash_bits(b.kv, 0);
    run_text(&b, 1, 3 * PAGE);
    run_text(&b, 2, 3 * PAGE);
    seq = seq_new(&b);
    assert_int_equal(cabe_kv_seq_match(seq, words(2, 4 * PAGE), 4 * PAGE), 3 * PAGE);
    expect_text(seq, 2, 0, 3 * PAGE);
    cabe_kv_seq_close(seq);
    assert_int_equal(cached_of(&b, 3), 0);
    seq = seq_new(&b);
    assert_int_equal(cabe_kv_seq_match(seq, words(2, 3 * PAGE) + PAGE, 2 * PAGE), 0); /* not from the middle */
    cabe_kv_seq_close(seq);
    assert_true(stats_of(&b).n_collisions > 0);
    bench_close(&b);
}

static void test_content_is_no_token(void **state)
{
    uint8_t hash[16] = {1, 2, 3}, other[16] = {1, 2, 4};

    (void)state;
    assert_true(cabe_kv_content(hash, 0) > UINT32_MAX);
    assert_true(cabe_kv_content(hash, 0) == cabe_kv_content(hash, 0));
    assert_true(cabe_kv_content(hash, 0) != cabe_kv_content(hash, 1));
    assert_true(cabe_kv_content(hash, 0) != cabe_kv_content(other, 0));
}

/* The domain and the formats are part of every key. */
static void test_keys_depend(void **state)
{
    struct cabe_kv_key key[3];

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct bench b;

        bench_open(&b, 0, CABE_UNLIMITED, 4, 1);
        b.config.domain[15] = i == 1;
        b.config.values = i == 2 ? CABE_KV_F16 : CABE_KV_F32;
        OK(cabe_kv_open(&b.kv, &b.config, b.ledger, &why));
        key[i] = cabe_kv_key_of(b.kv, CABE_KV_NONE, (const uint64_t[2]){0, 0}, words(1, PAGE));
        bench_close(&b);
    }
    assert_memory_not_equal(&key[0], &key[1], sizeof key[0]);
    assert_memory_not_equal(&key[0], &key[2], sizeof key[0]);
}

static void test_measured_is_held(void **state)
{
    (void)state;
    for (int is_sim = 0; is_sim < 2; is_sim++) {
        uint64_t device_bytes, host_bytes;
        struct bench b;

        bench_open(&b, is_sim, CABE_UNLIMITED, 1000, 7);
        cabe_kv_measure(&b.config, &device_bytes, &host_bytes);
        OK(cabe_kv_open(&b.kv, &b.config, b.ledger, &why));
        assert_int_equal(ledger_used(&b, 0), host_bytes + (is_sim ? 0 : device_bytes));
        assert_int_equal(ledger_used(&b, 1), is_sim ? device_bytes : 0);
        assert_true(cabe_buffer_bytes(cabe_kv_buffer(b.kv)) == 1000 * stats_of(&b).page_bytes);
        bench_close(&b);
        bench_open(&b, is_sim, host_bytes + device_bytes - 4096 * (is_sim ? 8u : 1u), 1000, 7);
        b.config.n_tokens = b.config.seq_tokens = is_sim ? 100000 * PAGE : b.config.n_tokens;
        assert_int_equal(cabe_kv_open(&b.kv, &b.config, b.ledger, &why), CABE_ERR_BUDGET);
        assert_true(why.missing_bytes > 0);
        bench_close(&b);
    }
}

static void test_no_such_store(void **state)
{
    uint64_t device_bytes, host_bytes;
    struct cabe_kv_config good;
    struct bench b;

    (void)state;
    bench_open(&b, 0, CABE_UNLIMITED, 4, 1);
    good = b.config;
    for (int i = 0; i < 10; i++) {
        b.config = good;
        switch (i) {
        case 0: b.config.n_tokens = 0; break;
        case 1: b.config.n_seqs = 0; break;
        case 2: b.config.seq_tokens = 0; break;
        case 3: b.config.seq_tokens = good.n_tokens + 1; break;
        case 4: b.config.n_tokens = b.config.seq_tokens = INT64_MAX; break;
        case 5: b.config.shape.head_dim = 0; break;
        case 8: b.config.shape.head_dim = CABE_HEAD_DIM_MAX + 1; break;
        case 6: b.config.shape.n_layers = b.config.shape.n_heads = INT32_MAX; break;
        case 7: b.config.keys = CABE_N_KV_FORMATS; break;
        default: b.config.n_tokens = b.config.seq_tokens = INT32_MAX; b.config.n_seqs = INT32_MAX; break;
        }
        cabe_kv_measure(&b.config, &device_bytes, &host_bytes);
        assert_true(device_bytes == UINT64_MAX && host_bytes == UINT64_MAX);
        assert_int_equal(cabe_kv_open(&b.kv, &b.config, b.ledger, &why), CABE_ERR_ARGUMENT);
        assert_null(b.kv);
    }
    bench_close(&b);
}

static void test_every_allocation_fails(void **state)
{
    uint64_t n = 0;
    struct bench b;
    enum cabe_status status;

    (void)state;
    bench_open(&b, 0, CABE_UNLIMITED, 4, 2);
    do {
        cabe_memory_fail_at(++n);
        status = cabe_kv_open(&b.kv, &b.config, b.ledger, &why);
        cabe_memory_fail_at(0);
        if (status != CABE_OK) {
            assert_int_equal(status, CABE_ERR_OOM);
            assert_null(b.kv);
            assert_int_equal(ledger_used(&b, 0), 0);
        }
    } while (status != CABE_OK);
    assert_true(n > 3);
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefix_is_shared),
        cmocka_unit_test(test_same_pages_become_one),
        cmocka_unit_test(test_forks_do_not_disturb),
        cmocka_unit_test(test_truncated_then_written),
        cmocka_unit_test(test_eviction_order), cmocka_unit_test(test_times),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_shift),
        cmocka_unit_test(test_collisions),
        cmocka_unit_test(test_content_is_no_token),
        cmocka_unit_test(test_keys_depend),
        cmocka_unit_test(test_measured_is_held),
        cmocka_unit_test(test_no_such_store),
        cmocka_unit_test(test_every_allocation_fails),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
