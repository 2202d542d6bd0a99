/* The bounded queue by class. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/queue.h"

#define SECOND UINT64_C(1000000000)

struct thing {
    int number;
    struct cabe_queue_item item;
};

static int number_of(struct cabe_queue_item *item)
{
    return item ? CABE_QUEUE_OF(item, struct thing, item)->number : -1;
}

static void first_in_first_out_within_a_class(void **state)
{
    struct cabe_queue q;
    struct thing things[5] = {{0, {0}}, {1, {0}}, {2, {0}}, {3, {0}}, {4, {0}}};

    (void)state;
    cabe_queue_init(&q, &(struct cabe_queue_config){0});
    assert_null(cabe_queue_peek(&q, 0));
    assert_null(cabe_queue_pop(&q, 0));
    for (int i = 0; i < 5; i++)
        assert_int_equal(cabe_queue_push(&q, &things[i].item, CABE_CLASS_NORMAL, i * 100, (uint64_t)i, NULL), CABE_OK);
    assert_int_equal(q.n, 5);
    assert_int_equal(q.tokens, 1 + 100 + 200 + 300 + 400);
    assert_ptr_equal(cabe_queue_oldest(&q, CABE_N_CLASSES), &things[0].item);
    assert_null(cabe_queue_oldest(&q, CABE_CLASS_LOW));
    cabe_queue_remove(&things[2].item);
    cabe_queue_remove(&things[2].item);
    assert_int_equal(number_of(cabe_queue_pop(&q, 9)), 0);
    assert_int_equal(number_of(cabe_queue_pop(&q, 9)), 1);
    assert_int_equal(number_of(cabe_queue_pop(&q, 9)), 3);
    cabe_queue_put_back(&q, &things[3].item);
    assert_int_equal(number_of(cabe_queue_peek(&q, 9)), 3);
    assert_int_equal(number_of(cabe_queue_pop(&q, 9)), 3);
    cabe_queue_remove(&things[4].item);
    assert_int_equal(q.n, 0);
    assert_int_equal(q.tokens, 0);
}

/* One class fills the queue; then each of the others has its own share beside it. */
static void limits_by_class(void **state)
{
    static const int shares[CABE_N_CLASSES] = {4, 4, 4, 2};
    struct cabe_error err;

    (void)state;
    for (int full = 0; full < CABE_N_CLASSES; full++)
        for (int by_tokens = 0; by_tokens < 2; by_tokens++) {
            struct cabe_queue_config config = {.n_max = by_tokens ? 0 : 16, .tokens_max = by_tokens ? 16000 : 0};
            struct cabe_queue q;
            struct thing things[64] = {0};
            int used = 0;

            cabe_queue_init(&q, &config);
            for (int i = 0; i < CABE_N_CLASSES; i++) {
                enum cabe_class class_ = (enum cabe_class)((full + i) % CABE_N_CLASSES);
                int n = 0;

                while (cabe_queue_push(&q, &things[used].item, class_, 1000, 0, &err) == CABE_OK)
                    n++, used++;
                assert_int_equal(n, i == 0 ? 16 : shares[class_]);
                assert_int_equal(err.status, CABE_ERR_LIMIT);
                assert_non_null(strstr(err.text, cabe_class_name(class_)));
                assert_null(things[used].item.queue);
            }
        }
}

static void a_huge_one_is_taken_alone(void **state)
{
    struct cabe_queue q;
    struct thing a = {0}, b = {0}, c = {0};

    (void)state;
    cabe_queue_init(&q, &(struct cabe_queue_config){.n_max = 1, .tokens_max = 100});
    assert_int_equal(cabe_queue_push(&q, &a.item, CABE_CLASS_LOW, INT64_MAX / 2, 0, NULL), CABE_OK);
    assert_int_equal(cabe_queue_push(&q, &b.item, CABE_CLASS_CRITICAL, 26, 0, NULL), CABE_ERR_LIMIT);
    assert_int_equal(cabe_queue_push(&q, &b.item, CABE_CLASS_CRITICAL, 25, 0, NULL), CABE_OK);
    assert_int_equal(cabe_queue_push(&q, &c.item, CABE_CLASS_LOW, 1, 0, NULL), CABE_ERR_LIMIT);
    cabe_queue_remove(&b.item);
    assert_ptr_equal(cabe_queue_pop(&q, 0), &a.item);
    assert_int_equal(cabe_queue_push(&q, &b.item, CABE_CLASS_CRITICAL, 1, 0, NULL), CABE_OK);
}

static int chance(unsigned *seed, int of)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (int)((*seed >> 8) % (unsigned)of);
}

/* Every class always has something waiting, of random sizes: what is taken follows the weights. */
static void shares_converge(void **state)
{
    enum { EACH = 64, POPS = 40000 };
    static struct thing things[CABE_N_CLASSES][EACH];

    (void)state;
    for (unsigned seed = 1; seed <= 5; seed++) {
        unsigned random = seed;
        double taken[CABE_N_CLASSES] = {0}, sum = 0, weights = 0;
        struct cabe_queue q;

        memset(things, 0, sizeof things);
        cabe_queue_init(&q, &(struct cabe_queue_config){.age_ns = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX}});
        for (int c = 0; c < CABE_N_CLASSES; c++)
            for (int i = 0; i < EACH; i++)
                assert_int_equal(cabe_queue_push(&q, &things[c][i].item, (enum cabe_class)c, chance(&random, 4000), 0, NULL),
                                 CABE_OK);
        for (int i = 0; i < POPS; i++) {
            struct cabe_queue_item *item = cabe_queue_pop(&q, 0);
            enum cabe_class class_ = item->class_;

            taken[class_] += (double)item->tokens;
            assert_int_equal(cabe_queue_push(&q, item, class_, chance(&random, class_ == CABE_CLASS_LOW ? 8000 : 1000), 0, NULL),
                             CABE_OK);
        }
        for (int c = 0; c < CABE_N_CLASSES; c++) {
            sum += taken[c];
            weights += cabe_class_weight((enum cabe_class)c);
        }
        for (int c = 0; c < CABE_N_CLASSES; c++) {
            double share = taken[c] / sum, wanted = cabe_class_weight((enum cabe_class)c) / weights;

            if (share < wanted * 0.97 || share > wanted * 1.03)
                fail_msg("seed %u: %s had %.4f, wanted %.4f", seed, cabe_class_name((enum cabe_class)c), share, wanted);
        }
    }
}

/* Who was away does not come back with a claim on the past. */
static void nothing_is_saved_up(void **state)
{
    struct cabe_queue q;
    struct thing low[64] = {0}, critical[64] = {0};
    int n_critical = 0;

    (void)state;
    cabe_queue_init(&q, &(struct cabe_queue_config){0});
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(cabe_queue_push(&q, &low[0].item, CABE_CLASS_LOW, 10, 0, NULL), CABE_OK);
        assert_ptr_equal(cabe_queue_pop(&q, 0), &low[0].item);
    }
    for (int i = 0; i < 64; i++) {
        assert_int_equal(cabe_queue_push(&q, &low[i].item, CABE_CLASS_LOW, 10, 0, NULL), CABE_OK);
        assert_int_equal(cabe_queue_push(&q, &critical[i].item, CABE_CLASS_CRITICAL, 10, 0, NULL), CABE_OK);
    }
    for (int i = 0; i < 34; i++)
        n_critical += cabe_queue_pop(&q, 0)->class_ == CABE_CLASS_CRITICAL;
    assert_true(n_critical >= 31 && n_critical < 34);
}

/*
 * Ten times more comes than can be served, for ten minutes: nobody who was let in waits longer than the stated bound,
 * and CRITICAL, which asks for less than its share, hardly waits.
 */
static void nobody_starves(void **state)
{
    enum { N = 512 };
    static struct thing things[N];
    const uint64_t service_ns = SECOND / 100, age_ns = 2 * SECOND;
    struct cabe_queue q;

    (void)state;
    for (unsigned seed = 1; seed <= 5; seed++) {
        unsigned random = seed * 77;
        uint64_t now_ns = 0, worst[CABE_N_CLASSES] = {0}, n_served[CABE_N_CLASSES] = {0};
        struct cabe_queue_config config = {.n_max = 64};
        int used = 0;

        for (int c = 0; c < CABE_N_CLASSES; c++)
            config.age_ns[c] = age_ns;
        memset(things, 0, sizeof things);
        cabe_queue_init(&q, &config);
        for (int tick = 0; tick < 60000; tick++, now_ns += service_ns) {
            struct cabe_queue_item *item;

            for (int i = 0; i < 10; i++) {
                int kind = chance(&random, 100);
                enum cabe_class class_ = kind < 3    ? CABE_CLASS_CRITICAL
                                         : kind < 20 ? CABE_CLASS_HIGH
                                         : kind < 60 ? CABE_CLASS_NORMAL
                                                     : CABE_CLASS_LOW;

                while (things[used].item.queue)
                    used = (used + 1) % N;
                if (cabe_queue_push(&q, &things[used].item, class_, 1 + chance(&random, 100), now_ns, NULL) == CABE_OK)
                    used = (used + 1) % N;
            }
            item = cabe_queue_pop(&q, now_ns);
            assert_non_null(item);
            if (now_ns - item->entered_ns > worst[item->class_])
                worst[item->class_] = now_ns - item->entered_ns;
            n_served[item->class_]++;
        }
        for (int c = 0; c < CABE_N_CLASSES; c++) {
            uint64_t bound_ns = age_ns + 120 * CABE_QUEUE_AGED_EVERY * service_ns; /* 120: all that may wait */

            if (seed == 1)
                printf("%-8s %6llu served, longest wait %.2f s\n", cabe_class_name((enum cabe_class)c),
                       (unsigned long long)n_served[c], (double)worst[c] / 1e9);
            assert_true(worst[c] <= bound_ns);
        }
        assert_true(worst[CABE_CLASS_CRITICAL] <= SECOND);
    }
}

/* Random pushes, pops and removals beside a plain list. */
static void counts_are_exact(void **state)
{
    enum { N = 100 };
    static struct thing things[N];
    unsigned random = 4242;
    uint64_t now_ns = 0;
    struct cabe_queue q;

    (void)state;
    memset(things, 0, sizeof things);
    cabe_queue_init(&q, &(struct cabe_queue_config){.n_max = 40, .tokens_max = 3000});
    for (int step = 0; step < 50000; step++, now_ns += SECOND) {
        struct thing *t = &things[chance(&random, N)];
        int64_t n = 0, tokens = 0, by_class[CABE_N_CLASSES] = {0};
        int kind = chance(&random, 4);

        if (kind < 2 && !t->item.queue) {
            (void)!cabe_queue_push(&q, &t->item, (enum cabe_class)chance(&random, 4), chance(&random, 300), now_ns, NULL);
        } else if (kind == 2) {
            cabe_queue_remove(&t->item);
        } else {
            struct cabe_queue_item *wanted = cabe_queue_peek(&q, now_ns), *item = cabe_queue_pop(&q, now_ns);

            assert_ptr_equal(item, wanted);
            if (item && chance(&random, 3) == 0)
                cabe_queue_put_back(&q, item);
        }
        for (int i = 0; i < N; i++) {
            if (!things[i].item.queue)
                continue;
            n++;
            tokens += things[i].item.tokens;
            by_class[things[i].item.class_]++;
        }
        assert_int_equal(q.n, n);
        assert_int_equal(q.tokens, tokens);
        for (int c = 0; c < CABE_N_CLASSES; c++) {
            assert_int_equal(q.by_class[c].n, by_class[c]);
            assert_true(cabe_queue_ahead(&q, (enum cabe_class)c) >= q.by_class[c].tokens);
            for (struct cabe_queue_item *i = q.by_class[c].first; i && i->next; i = i->next)
                assert_true(i->entered_ns <= i->next->entered_ns);
        }
    }
}

/* Who goes before his turn pays for it all the same. */
static void out_of_turn_is_counted(void **state)
{
    struct cabe_queue q;
    struct thing high[4] = {{0, {0}}, {1, {0}}, {2, {0}}, {3, {0}}}, normal[2] = {{10, {0}}, {11, {0}}};

    (void)state;
    cabe_queue_init(&q, &(struct cabe_queue_config){0});
    for (int i = 0; i < 4; i++)
        assert_int_equal(cabe_queue_push(&q, &high[i].item, CABE_CLASS_HIGH, 100, 0, NULL), CABE_OK);
    for (int i = 0; i < 2; i++)
        assert_int_equal(cabe_queue_push(&q, &normal[i].item, CABE_CLASS_NORMAL, 100, 0, NULL), CABE_OK);
    cabe_queue_take(&high[0].item);
    cabe_queue_take(&high[1].item);
    cabe_queue_take(&high[1].item); /* nowhere */
    cabe_queue_take(&high[2].item);
    assert_int_equal(q.by_class[CABE_CLASS_HIGH].n, 1);
    assert_int_equal(number_of(cabe_queue_pop(&q, 0)), 10); /* 25 beside 50 */
    assert_int_equal(number_of(cabe_queue_pop(&q, 0)), 3);
    assert_int_equal(number_of(cabe_queue_pop(&q, 0)), 11);
}

static void work_is_summed(void **state)
{
    struct cabe_queue q;
    struct thing a = {0}, b = {0};

    (void)state;
    cabe_queue_init(&q, &(struct cabe_queue_config){0});
    assert_int_equal(cabe_queue_push(&q, &a.item, CABE_CLASS_LOW, 1, 0, NULL), CABE_OK);
    assert_int_equal(cabe_queue_push(&q, &b.item, CABE_CLASS_LOW, 1, 0, NULL), CABE_OK);
    cabe_queue_weigh(&a.item, 3);
    cabe_queue_weigh(&b.item, 5);
    cabe_queue_weigh(&a.item, 1);
    assert_true(q.by_class[CABE_CLASS_LOW].work > 5.9 && q.by_class[CABE_CLASS_LOW].work < 6.1);
    assert_ptr_equal(cabe_queue_pop(&q, 0), &a.item);
    assert_true(q.by_class[CABE_CLASS_LOW].work > 4.9 && q.by_class[CABE_CLASS_LOW].work < 5.1);
    cabe_queue_put_back(&q, &a.item);
    assert_true(q.by_class[CABE_CLASS_LOW].work > 5.9 && q.by_class[CABE_CLASS_LOW].work < 6.1);
    cabe_queue_remove(&a.item);
    cabe_queue_remove(&b.item);
    assert_true(q.by_class[CABE_CLASS_LOW].work == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_in_first_out_within_a_class),
        cmocka_unit_test(limits_by_class),
        cmocka_unit_test(a_huge_one_is_taken_alone),
        cmocka_unit_test(shares_converge),
        cmocka_unit_test(nothing_is_saved_up),
        cmocka_unit_test(nobody_starves),
        cmocka_unit_test(counts_are_exact),
        cmocka_unit_test(out_of_turn_is_counted),
        cmocka_unit_test(work_is_summed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
