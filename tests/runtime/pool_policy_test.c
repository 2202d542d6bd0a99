/* What the pool keeps, what it lets go, and who waits for whom. Models are numbers in a ledger; time is made up. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/memory.h"
#include "runtime/pool.h"

#define SECOND UINT64_C(1000000000)

static _Atomic uint64_t clock_ns;

static uint64_t read_clock(void *self)
{
    (void)self;
    return atomic_load(&clock_ns);
}

struct recipe {
    struct cabe_ledger *ledger;
    char name[16];
    uint64_t bytes, load_ns; /* load_ns of the made-up clock */
    unsigned real_us;        /* and of the real one */
    atomic_int n_loads;
};

static enum cabe_status measure_model(void *self, struct cabe_pool_bytes *bytes, struct cabe_error *err)
{
    const struct recipe *recipe = self;

    (void)err;
    bytes->resident[CABE_HOST] = recipe->bytes;
    return CABE_OK;
}

static enum cabe_status load_model(void *self, const struct cabe_cancel *cancel, void **object, struct cabe_error *err)
{
    struct recipe *recipe = self;

    atomic_fetch_add(&recipe->n_loads, 1);
    for (unsigned us = 0; us < recipe->real_us; us += 500) {
        if (cabe_cancelled(cancel))
            return cabe_fail(err, CABE_ERR_CANCELLED, "%s: stopped", recipe->name);
        usleep(500);
    }
    atomic_fetch_add(&clock_ns, recipe->load_ns);
    *object = recipe;
    return cabe_ledger_reserve(recipe->ledger, CABE_HOST, CABE_PURPOSE_WEIGHTS, recipe->bytes, recipe->name, err);
}

static void unload_model(void *object)
{
    struct recipe *recipe = object;

    cabe_ledger_release(recipe->ledger, CABE_HOST, CABE_PURPOSE_WEIGHTS, recipe->bytes, recipe->name);
}

static struct cabe_pool *open_pool(struct cabe_ledger **ledger, uint64_t bytes, const struct cabe_pool_config *config)
{
    struct cabe_ledger_config ledger_config = {.n_devices = 1, .budget_bytes = {bytes}};
    struct cabe_pool *pool;

    assert_int_equal(cabe_ledger_open(ledger, &ledger_config, NULL), CABE_OK);
    assert_int_equal(cabe_pool_open(&pool, *ledger, NULL, NULL), CABE_OK);
    cabe_pool_configure(pool, config);
    return pool;
}

static void close_pool(struct cabe_pool *pool, struct cabe_ledger *ledger)
{
    struct cabe_ledger_view view;

    cabe_pool_close(pool);
    cabe_ledger_read(ledger, &view);
    assert_int_equal(view.device[0].used_bytes, 0);
    cabe_ledger_close(ledger);
}

static enum cabe_status acquire(struct cabe_pool *pool, struct recipe *recipe, const struct cabe_cancel *cancel,
                                struct cabe_pool_use **use, struct cabe_error *err)
{
    struct cabe_pool_source source = {measure_model, load_model, unload_model, recipe};

    return cabe_pool_acquire(pool, recipe->name, &source, cancel, use, err);
}

static void use_at(struct cabe_pool *pool, struct recipe *recipe, uint64_t seconds)
{
    struct cabe_pool_use *use;

    if (seconds * SECOND > atomic_load(&clock_ns))
        atomic_store(&clock_ns, seconds * SECOND);
    assert_int_equal(acquire(pool, recipe, NULL, &use, NULL), CABE_OK);
    cabe_pool_release(pool, use);
}

static const char *resident(struct cabe_pool *pool)
{
    static char names[256];
    struct cabe_pool_item items[16];
    size_t n = cabe_pool_list(pool, items, 16), used = 0;

    names[0] = 0;
    for (char c = 'a'; c <= 'z'; c++)
        for (size_t i = 0; i < n; i++)
            if (items[i].key[0] == c)
                used += (size_t)snprintf(names + used, sizeof names - used, "%s", items[i].key);
    return names;
}

/* a: small, loads fast, used often. b: large, loads slowly, used often. c: large, loads fast, used once, last. */
static void each_policy_keeps_its_own(void **state)
{
    static const struct {
        enum cabe_pool_policy policy;
        const char *left;
    } cases[] = {{CABE_POOL_LRU, "bcd"}, {CABE_POOL_LFU, "abd"}, {CABE_POOL_LARGEST, "acd"}, {CABE_POOL_COST, "abd"}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cabe_pool_config config = {.policy = cases[i].policy, .clock = read_clock};
        struct cabe_ledger *ledger;
        struct cabe_pool *pool = open_pool(&ledger, 100, &config);
        struct recipe a = {.ledger = ledger, .name = "a", .bytes = 20, .load_ns = SECOND};
        struct recipe b = {.ledger = ledger, .name = "b", .bytes = 40, .load_ns = 8 * SECOND};
        struct recipe c = {.ledger = ledger, .name = "c", .bytes = 35, .load_ns = SECOND};
        struct recipe d = {.ledger = ledger, .name = "d", .bytes = 20, .load_ns = SECOND};
        enum cabe_pool_policy parsed;

        atomic_store(&clock_ns, SECOND);
        for (uint64_t k = 0; k < 5; k++) {
            use_at(pool, &a, 100 + 20 * k);
            use_at(pool, &b, 110 + 20 * k);
        }
        use_at(pool, &c, 300);
        use_at(pool, &d, 310);
        assert_string_equal(resident(pool), cases[i].left);
        assert_int_equal(cabe_pool_policy_parse(cabe_pool_policy_name(cases[i].policy), &parsed, NULL), CABE_OK);
        assert_int_equal(parsed, cases[i].policy);
        assert_int_equal(cabe_pool_policy_parse("random", &parsed, NULL), CABE_ERR_ARGUMENT);
        close_pool(pool, ledger);
    }
}

static void pinned_ones_stay(void **state)
{
    struct cabe_pool_config config = {.clock = read_clock, .patience_ns = 5 * SECOND};
    struct cabe_ledger *ledger;
    struct cabe_pool *pool = open_pool(&ledger, 100, &config);
    struct recipe a = {.ledger = ledger, .name = "a", .bytes = 60}, b = {.ledger = ledger, .name = "b", .bytes = 60};
    struct cabe_pool_use *use;
    struct cabe_pool_item item;
    struct cabe_error err;

    (void)state;
    assert_int_equal(cabe_pool_pin(pool, "a", 1, &err), CABE_OK); /* before it is there */
    use_at(pool, &a, 1);
    assert_int_equal(cabe_pool_list(pool, &item, 1), 1);
    assert_true(item.pinned && item.keep_alive_ns == UINT64_MAX);
    assert_int_equal(acquire(pool, &b, NULL, &use, &err), CABE_ERR_BUDGET); /* at once: no patience helps */
    assert_non_null(strstr(err.text, "pinned"));
    assert_int_equal(cabe_pool_keep_alive(pool, "a", SECOND, &err), CABE_OK);
    atomic_fetch_add(&clock_ns, 100 * SECOND);
    assert_int_equal(cabe_pool_tick(pool), 0);
    assert_int_equal(cabe_pool_unload_idle(pool), 0);
    assert_int_equal(cabe_pool_pin(pool, "a", 0, &err), CABE_OK);
    use_at(pool, &b, 200);
    assert_string_equal(resident(pool), "b");
    close_pool(pool, ledger);
}

static void idle_ones_go_in_time(void **state)
{
    struct cabe_pool_config config = {.clock = read_clock};
    struct cabe_ledger *ledger;
    struct cabe_pool *pool = open_pool(&ledger, 100, &config);
    struct recipe a = {.ledger = ledger, .name = "a", .bytes = 10}, b = {.ledger = ledger, .name = "b", .bytes = 10};
    struct cabe_pool_stats stats;
    struct cabe_pool_use *use;

    (void)state;
    atomic_store(&clock_ns, 0);
    use_at(pool, &a, 1);
    use_at(pool, &b, 1);
    assert_int_equal(cabe_pool_keep_alive(pool, "a", 10 * SECOND, NULL), CABE_OK);
    atomic_store(&clock_ns, 10 * SECOND);
    assert_int_equal(cabe_pool_tick(pool), 0);
    assert_int_equal(acquire(pool, &a, NULL, &use, NULL), CABE_OK);
    atomic_store(&clock_ns, 30 * SECOND);
    assert_int_equal(cabe_pool_tick(pool), 0); /* in use */
    cabe_pool_release(pool, use);
    atomic_store(&clock_ns, 39 * SECOND);
    assert_int_equal(cabe_pool_tick(pool), 0);
    atomic_store(&clock_ns, 40 * SECOND);
    assert_int_equal(cabe_pool_tick(pool), 1);
    assert_string_equal(resident(pool), "b"); /* for ever, unless said otherwise */
    use_at(pool, &a, 50);
    atomic_store(&clock_ns, 60 * SECOND);
    assert_int_equal(cabe_pool_tick(pool), 1); /* remembered over the unload */
    assert_int_equal(cabe_pool_keep_alive(pool, "b", 0, NULL), CABE_OK);
    assert_int_equal(cabe_pool_tick(pool), 1);
    cabe_pool_stats(pool, &stats);
    assert_int_equal(stats.n_expired, 3);
    assert_int_equal(stats.n_swaps, 0);
    close_pool(pool, ledger);
}

static void what_usually_follows(void **state)
{
    struct cabe_pool_config config = {.clock = read_clock};
    struct cabe_ledger *ledger;
    struct cabe_pool *pool = open_pool(&ledger, 100, &config);
    struct recipe a = {.ledger = ledger, .name = "a", .bytes = 10}, b = {.ledger = ledger, .name = "b", .bytes = 10},
                  c = {.ledger = ledger, .name = "c", .bytes = 10};
    uint64_t t = 1000;
    char next[16];
    double likely;

    (void)state;
    for (int i = 0; i < 12; i++, t += 1000) { /* b follows soon, c much later */
        assert_int_equal(cabe_pool_next(pool, "a", next, sizeof next, &likely), 0);
        use_at(pool, &a, t);
        use_at(pool, &a, t + 1);
        if (i % 4 != 3)
            use_at(pool, &b, t + 5);
        use_at(pool, &c, t + 500);
    }
    assert_int_equal(cabe_pool_next(pool, "a", next, sizeof next, &likely), 0); /* it is there */
    assert_int_equal(cabe_pool_unload(pool, "b", NULL), CABE_OK);
    assert_int_equal(cabe_pool_next(pool, "a", next, sizeof next, &likely), 1);
    assert_string_equal(next, "b");
    assert_true(likely >= 0.5);
    assert_int_equal(cabe_pool_unload(pool, "c", NULL), CABE_OK);
    assert_int_equal(cabe_pool_next(pool, "b", next, sizeof next, &likely), 0);
    assert_int_equal(cabe_pool_next(pool, "nobody", next, sizeof next, &likely), 0);
    close_pool(pool, ledger);
}

/* More keys than can be remembered: the pinned and the resident are, the rest comes and goes. */
static void many_keys(void **state)
{
    struct cabe_pool_config config = {.clock = read_clock};
    struct cabe_ledger *ledger;
    struct cabe_pool *pool = open_pool(&ledger, 100, &config);
    struct recipe recipe = {.ledger = ledger, .bytes = 40};
    struct cabe_error err;

    (void)state;
    assert_int_equal(cabe_pool_pin(pool, "k7", 1, NULL), CABE_OK);
    for (int i = 0; i < 3 * CABE_POOL_MAX; i++) {
        static struct recipe recipes[3 * CABE_POOL_MAX];

        recipes[i] = recipe;
        snprintf(recipes[i].name, sizeof recipes[i].name, "k%d", i);
        use_at(pool, &recipes[i], (uint64_t)i);
    }
    assert_non_null(strstr(resident(pool), "k7"));
    for (int i = 0; i < CABE_POOL_MAX; i++) {
        char name[16];

        snprintf(name, sizeof name, "p%d", i);
        if (cabe_pool_pin(pool, name, 1, &err) != CABE_OK) {
            assert_int_equal(err.status, CABE_ERR_LIMIT);
            assert_true(i >= CABE_POOL_MAX - 8);
            break;
        }
        assert_true(i < CABE_POOL_MAX - 1);
    }
    use_at(pool, &recipe, 100000); /* and without being remembered it works */
    close_pool(pool, ledger);
}

/* ---- waiting; real time ---- */

struct client {
    struct cabe_pool *pool;
    struct recipe *recipe;
    const struct cabe_cancel *cancel;
    atomic_int *stop;
    int n_done, n_failed, yields;
    uint64_t longest_ns;
};

/* Asks for its model again and again, a request at a time. */
static void *ask_main(void *arg)
{
    struct client *c = arg;

    while (!atomic_load(c->stop)) {
        uint64_t begin_ns = cabe_clock_ns();
        struct cabe_pool_use *use;

        if (acquire(c->pool, c->recipe, c->cancel, &use, NULL) != CABE_OK) {
            c->n_failed++;
            continue;
        }
        if (cabe_clock_ns() - begin_ns > c->longest_ns)
            c->longest_ns = cabe_clock_ns() - begin_ns;
        usleep(1000);
        c->n_done++;
        cabe_pool_release(c->pool, use);
        usleep(200);
    }
    return NULL;
}

/* Two models that do not fit together, four clients that want them in turn: at most two swaps in a window. */
static void no_thrashing(void **state)
{
    const uint64_t window_ns = SECOND / 4;
    struct cabe_pool_config config = {.window_ns = window_ns, .patience_ns = 20 * SECOND};
    struct cabe_ledger *ledger;
    struct cabe_pool *pool = open_pool(&ledger, 100, &config);
    struct recipe models[2] = {{.ledger = ledger, .name = "a", .bytes = 60, .real_us = 2000},
                               {.ledger = ledger, .name = "b", .bytes = 60, .real_us = 2000}};
    struct client clients[4];
    struct cabe_pool_stats stats;
    uint64_t begin_ns = cabe_clock_ns(), took_ns;
    pthread_t threads[4];
    atomic_int stop = 0;
    int n_done = 0;

    (void)state;
    for (int i = 0; i < 4; i++) {
        clients[i] = (struct client){.pool = pool, .recipe = &models[i % 2], .stop = &stop};
        assert_int_equal(pthread_create(&threads[i], NULL, ask_main, &clients[i]), 0);
    }
    usleep(2000000);
    atomic_store(&stop, 1);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(clients[i].n_failed, 0);
        n_done += clients[i].n_done;
    }
    took_ns = cabe_clock_ns() - begin_ns;
    cabe_pool_stats(pool, &stats);
    printf("%d requests, %d swaps in %.1f windows; longest wait %.2f windows\n", n_done, (int)stats.n_swaps,
           (double)took_ns / (double)window_ns, (double)clients[0].longest_ns / (double)window_ns);
    assert_true((double)stats.n_swaps <= 2 * (double)took_ns / (double)window_ns + 2);
    assert_true(n_done > 0);
    assert_int_equal(stats.n_waiting, 0);
    close_pool(pool, ledger);
}

/* Holds its use until it is asked to yield. */
static void *hold_main(void *arg)
{
    struct client *c = arg;
    struct cabe_pool_use *use;

    if (acquire(c->pool, c->recipe, NULL, &use, NULL) != CABE_OK) {
        c->n_failed++;
        return NULL;
    }
    c->n_done++;
    while (!atomic_load(c->stop)) {
        if (cabe_pool_should_yield(c->pool, use)) {
            c->yields++;
            break;
        }
        usleep(500);
    }
    cabe_pool_release(c->pool, use);
    return NULL;
}

static int n_waiting(struct cabe_pool *pool)
{
    struct cabe_pool_stats stats;

    cabe_pool_stats(pool, &stats);
    return stats.n_waiting;
}

static void users_are_asked_to_yield(void **state)
{
    struct cabe_pool_config config = {.patience_ns = 20 * SECOND};
    struct cabe_ledger *ledger;
    struct cabe_pool *pool = open_pool(&ledger, 100, &config);
    struct recipe a = {.ledger = ledger, .name = "a", .bytes = 60}, small = {.ledger = ledger, .name = "s", .bytes = 10},
                  b = {.ledger = ledger, .name = "b", .bytes = 60}, huge = {.ledger = ledger, .name = "h", .bytes = 101};
    struct cabe_pool_use *use, *mine, *other;
    struct cabe_cancel cancel = {0};
    atomic_int stop = 0, never = 0;
    struct client holder = {.pool = pool, .recipe = &a, .stop = &stop};
    struct client asker = {.pool = pool, .recipe = &b, .stop = &never, .cancel = &cancel};
    struct cabe_error err;
    pthread_t thread;

    (void)state;
    assert_int_equal(acquire(pool, &small, NULL, &mine, NULL), CABE_OK);
    assert_int_equal(pthread_create(&thread, NULL, hold_main, &holder), 0);
    while (!strstr(resident(pool), "a"))
        usleep(200);
    assert_int_equal(acquire(pool, &huge, NULL, &use, &err), CABE_ERR_BUDGET); /* at once: it can never fit */
    assert_string_equal(resident(pool), "as");
    assert_int_equal(acquire(pool, &b, NULL, &use, &err), CABE_OK);
    pthread_join(thread, NULL);
    assert_int_equal(holder.yields, 1);
    assert_int_equal(cabe_pool_should_yield(pool, mine), 0); /* its room would not have helped */
    assert_string_equal(resident(pool), "bs");
    cabe_pool_release(pool, use);
    /* A wait that is cancelled, and one whose patience ends. */
    holder = (struct client){.pool = pool, .recipe = &a, .stop = &stop};
    assert_int_equal(acquire(pool, &a, NULL, &use, NULL), CABE_OK);
    assert_int_equal(pthread_create(&thread, NULL, ask_main, &asker), 0);
    while (n_waiting(pool) == 0)
        usleep(200);
    assert_int_equal(cabe_pool_should_yield(pool, use), 1);
    atomic_store(&never, 1);
    atomic_store(&cancel.wanted, 1);
    pthread_join(thread, NULL);
    assert_int_equal(asker.n_failed, 1);
    assert_int_equal(cabe_pool_should_yield(pool, use), 0);
    config.patience_ns = SECOND / 50;
    cabe_pool_configure(pool, &config);
    assert_int_equal(acquire(pool, &b, NULL, &other, &err), CABE_ERR_BUDGET);
    cabe_pool_release(pool, use);
    cabe_pool_release(pool, mine);
    close_pool(pool, ledger);
}

/* ---- everything at once ---- */

#define N_MODELS 8
#define N_THREADS 6
#define N_EVENTS 1200

struct chaos {
    struct cabe_pool *pool;
    struct recipe *recipes;
    unsigned seed;
    int n_events, n_wrong, n_ok;
};

static int chance(unsigned *seed, int of)
{
    return (int)((unsigned)rand_r(seed) % (unsigned)of);
}

static void *chaos_main(void *arg)
{
    struct chaos *c = arg;

    for (; c->n_events < N_EVENTS / N_THREADS; c->n_events++) {
        struct recipe *recipe = &c->recipes[chance(&c->seed, N_MODELS)];
        struct cabe_cancel cancel = {.wanted = chance(&c->seed, 12) == 0};
        struct cabe_pool_use *use;
        struct cabe_error err = {0};
        enum cabe_status status;
        char next[16];
        double likely;

        switch (chance(&c->seed, 12)) {
        case 0:
            (void)!cabe_pool_unload(c->pool, recipe->name, NULL);
            break;
        case 1:
            (void)!cabe_pool_pin(c->pool, recipe->name, chance(&c->seed, 3) == 0, NULL);
            break;
        case 2:
            (void)!cabe_pool_keep_alive(c->pool, recipe->name, (uint64_t)chance(&c->seed, 3) * 1000000, NULL);
            cabe_pool_tick(c->pool);
            break;
        case 3:
            (void)!cabe_pool_make_room(c->pool, CABE_HOST, (uint64_t)chance(&c->seed, 60), NULL);
            break;
        case 4:
            (void)cabe_pool_next(c->pool, recipe->name, next, sizeof next, &likely);
            break;
        case 5:
            cabe_pool_configure(c->pool, &(struct cabe_pool_config){
                                             .policy = (enum cabe_pool_policy)chance(&c->seed, CABE_N_POOL_POLICIES),
                                             .patience_ns = 2000000,
                                             .window_ns = (uint64_t)chance(&c->seed, 2) * 1000000});
            break;
        default:
            status = acquire(c->pool, recipe, &cancel, &use, &err);
            if (status == CABE_OK) {
                c->n_wrong += cabe_pool_object(use) != recipe;
                for (int i = chance(&c->seed, 4); i > 0 && !cabe_pool_should_yield(c->pool, use); i--)
                    usleep(200);
                cabe_pool_release(c->pool, use);
                c->n_ok++;
            } else {
                c->n_wrong += status != CABE_ERR_BUDGET && status != CABE_ERR_CANCELLED;
            }
        }
    }
    return NULL;
}

static void a_thousand_events(void **state)
{
    struct cabe_pool_config config = {.patience_ns = 2000000};
    struct cabe_ledger *ledger;
    struct cabe_pool *pool = open_pool(&ledger, 100, &config);
    struct recipe recipes[N_MODELS];
    struct chaos workers[N_THREADS];
    pthread_t threads[N_THREADS];
    struct cabe_ledger_view view;
    struct cabe_pool_stats stats;
    int n_ok = 0;

    (void)state;
    for (int i = 0; i < N_MODELS; i++) {
        recipes[i] = (struct recipe){.ledger = ledger, .bytes = (uint64_t)(10 + 9 * i), .real_us = 500u * (unsigned)(i % 3)};
        snprintf(recipes[i].name, sizeof recipes[i].name, "%c", 'a' + i);
    }
    for (int i = 0; i < N_THREADS; i++) {
        workers[i] = (struct chaos){.pool = pool, .recipes = recipes, .seed = (unsigned)i + 101};
        assert_int_equal(pthread_create(&threads[i], NULL, chaos_main, &workers[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].n_wrong, 0);
        n_ok += workers[i].n_ok;
    }
    cabe_ledger_read(ledger, &view);
    cabe_pool_stats(pool, &stats);
    printf("%d uses, %d loads, %d evictions, %d expired; at most %d of 100 bytes\n", n_ok, (int)stats.n_loads,
           (int)stats.n_evictions, (int)stats.n_expired, (int)view.device[0].high_bytes);
    assert_true(view.device[0].high_bytes <= 100);
    assert_int_equal(stats.n_waiting, 0);
    assert_true(n_ok > 100);
    close_pool(pool, ledger);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_policy_keeps_its_own), cmocka_unit_test(pinned_ones_stay),
        cmocka_unit_test(idle_ones_go_in_time),      cmocka_unit_test(what_usually_follows),
        cmocka_unit_test(many_keys),                 cmocka_unit_test(no_thrashing),
        cmocka_unit_test(users_are_asked_to_yield),  cmocka_unit_test(a_thousand_events),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
