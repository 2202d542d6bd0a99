#include "runtime/pool.h"

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
#include "base/process.h"
#include "sanitizer.h"

#define MIB (UINT64_C(1) << 20)

/* What a test's model is, and how its load is to go. */
struct recipe {
    struct cabe_ledger *ledger;
    const char *place;
    uint64_t resident_bytes, staging_bytes;
    int device;
    unsigned load_ms;
    enum cabe_status fails_with;
    int n_blocks; /* small pieces of heap that it holds */
    int is_cancellable;
    atomic_int *n_loads;
};

struct model {
    struct recipe recipe;
    void *pages;
    void **blocks;
};

static atomic_int n_alive;

static enum cabe_status measure_model(void *self, struct cabe_pool_bytes *bytes, struct cabe_error *err)
{
    const struct recipe *recipe = self;

    (void)err;
    bytes->resident[recipe->device] = recipe->resident_bytes;
    bytes->peak[recipe->device] = recipe->resident_bytes + recipe->staging_bytes;
    return CABE_OK;
}

static void unload_model(void *object)
{
    struct model *model = object;

    cabe_pages_unmap(model->pages, 64 * 1024);
    for (int i = 0; i < model->recipe.n_blocks; i++)
        cabe_free(model->blocks[i]);
    cabe_free(model->blocks);
    cabe_ledger_release(model->recipe.ledger, model->recipe.device, CABE_PURPOSE_WEIGHTS,
                        model->recipe.resident_bytes, model->recipe.place);
    cabe_free(model);
    atomic_fetch_sub(&n_alive, 1);
}

static enum cabe_status load_model(void *self, const struct cabe_cancel *cancel, void **object,
                                   struct cabe_error *err)
{
    const struct recipe *recipe = self;
    enum cabe_status status;
    struct model *model;

    if (recipe->n_loads)
        atomic_fetch_add(recipe->n_loads, 1);
    for (unsigned ms = 0; ms < recipe->load_ms; ms++) {
        if (recipe->is_cancellable && cabe_cancelled(cancel))
            return cabe_fail(err, CABE_ERR_CANCELLED, "%s: stopped", recipe->place);
        usleep(1000);
    }
    if (recipe->fails_with != CABE_OK)
        return cabe_fail(err, recipe->fails_with, "%s: as the recipe says", recipe->place);
    status = cabe_ledger_reserve(recipe->ledger, recipe->device, CABE_PURPOSE_WEIGHTS, recipe->resident_bytes,
                                 recipe->place, err);
    if (status != CABE_OK)
        return status;
    status = cabe_ledger_reserve(recipe->ledger, recipe->device, CABE_PURPOSE_STAGING, recipe->staging_bytes,
                                 recipe->place, err);
    if (status == CABE_OK) {
        usleep(recipe->staging_bytes > 0 ? 200 : 0);
        cabe_ledger_release(recipe->ledger, recipe->device, CABE_PURPOSE_STAGING, recipe->staging_bytes,
                            recipe->place);
    }
    model = status == CABE_OK ? cabe_calloc(1, sizeof *model) : NULL;
    if (!model) {
        cabe_ledger_release(recipe->ledger, recipe->device, CABE_PURPOSE_WEIGHTS, recipe->resident_bytes,
                            recipe->place);
        return status != CABE_OK ? status : cabe_fail(err, CABE_ERR_OOM, "%s: model", recipe->place);
    }
    atomic_fetch_add(&n_alive, 1);
    model->recipe = *recipe;
    model->recipe.n_blocks = 0;
    model->blocks = cabe_calloc((size_t)recipe->n_blocks, sizeof *model->blocks);
    status = model->blocks ? cabe_pages_map(&model->pages, 64 * 1024, 1, err) : CABE_ERR_OOM;
    for (int i = 0; status == CABE_OK && i < recipe->n_blocks; i++, model->recipe.n_blocks++) {
        model->blocks[i] = cabe_malloc(3000);
        if (!model->blocks[i])
            status = cabe_fail(err, CABE_ERR_OOM, "%s: block", recipe->place);
        else
            memset(model->blocks[i], i, 3000);
    }
    if (status != CABE_OK) {
        unload_model(model);
        return status;
    }
    *object = model;
    return CABE_OK;
}

static struct cabe_ledger *open_ledger(uint64_t bytes)
{
    struct cabe_ledger_config config = {.n_devices = 2, .budget_bytes = {bytes, bytes}};
    struct cabe_ledger *ledger;

    assert_int_equal(cabe_ledger_open(&ledger, &config, NULL), CABE_OK);
    return ledger;
}

static uint64_t used_bytes(const struct cabe_ledger *ledger, int device)
{
    struct cabe_ledger_view view;

    cabe_ledger_read(ledger, &view);
    return view.device[device].used_bytes;
}

static struct cabe_pool *open_pool(struct cabe_ledger *ledger)
{
    struct cabe_pool *pool;

    assert_int_equal(cabe_pool_open(&pool, ledger, NULL, NULL), CABE_OK);
    return pool;
}

static enum cabe_status acquire(struct cabe_pool *pool, const struct recipe *recipe,
                                struct cabe_pool_use **use, struct cabe_error *err)
{
    struct cabe_pool_source source = {measure_model, load_model, unload_model, (void *)(uintptr_t)recipe};

    return cabe_pool_acquire(pool, recipe->place, &source, NULL, use, err);
}

static void use_once(struct cabe_pool *pool, const struct recipe *recipe)
{
    struct cabe_pool_use *use;

    assert_int_equal(acquire(pool, recipe, &use, NULL), CABE_OK);
    assert_string_equal(((struct model *)cabe_pool_object(use))->recipe.place, recipe->place);
    cabe_pool_release(pool, use);
}

static struct cabe_pool_stats stats_of(struct cabe_pool *pool)
{
    struct cabe_pool_stats stats;

    cabe_pool_stats(pool, &stats);
    return stats;
}

static int is_resident(struct cabe_pool *pool, const char *key)
{
    struct cabe_pool_item items[CABE_POOL_MAX];
    size_t n = cabe_pool_list(pool, items, CABE_POOL_MAX);

    for (size_t i = 0; i < n; i++)
        if (strcmp(items[i].key, key) == 0)
            return 1;
    return 0;
}

static void kept_until_there_is_no_room(void **state)
{
    struct cabe_ledger *ledger = open_ledger(100);
    struct cabe_pool *pool = open_pool(ledger);
    struct recipe a = {.ledger = ledger, .place = "a", .resident_bytes = 40};
    struct recipe b = {.ledger = ledger, .place = "b", .resident_bytes = 40};
    struct recipe c = {.ledger = ledger, .place = "c", .resident_bytes = 30};
    struct cabe_pool_item items[4];

    (void)state;
    cabe_pool_configure(pool, &(struct cabe_pool_config){.policy = CABE_POOL_LRU});
    use_once(pool, &a);
    use_once(pool, &b);
    use_once(pool, &a); /* now b is the least recently used */
    assert_int_equal(stats_of(pool).n_hits, 1);
    assert_int_equal(cabe_pool_list(pool, items, 4), 2);
    assert_string_equal(items[0].key, "b");
    assert_int_equal(items[1].n_acquires, 2);
    assert_int_equal(items[1].state, CABE_POOL_IDLE);
    use_once(pool, &c);
    assert_true(is_resident(pool, "a") && is_resident(pool, "c") && !is_resident(pool, "b"));
    assert_int_equal(stats_of(pool).n_evictions, 1);
    assert_int_equal(used_bytes(ledger, 0), 70);
    assert_int_equal(cabe_pool_unload_idle(pool), 2);
    assert_int_equal(used_bytes(ledger, 0), 0);
    assert_int_equal(stats_of(pool).n_resident, 0);
    cabe_pool_close(pool);
    cabe_pool_close(NULL);
    cabe_ledger_close(ledger);
}

static void only_what_is_needed_goes(void **state)
{
    struct cabe_ledger *ledger = open_ledger(100);
    struct cabe_pool *pool = open_pool(ledger);
    struct recipe small = {.ledger = ledger, .place = "small", .resident_bytes = 5};
    struct recipe large = {.ledger = ledger, .place = "large", .resident_bytes = 90};
    struct recipe next = {.ledger = ledger, .place = "next", .resident_bytes = 60, .staging_bytes = 30};
    struct recipe giant = {.ledger = ledger, .place = "giant", .resident_bytes = 101};
    struct cabe_pool_use *use;
    struct cabe_error err;

    (void)state;
    use_once(pool, &small); /* the oldest, and too small to matter */
    use_once(pool, &large);
    use_once(pool, &next);
    assert_true(is_resident(pool, "small") && !is_resident(pool, "large"));
    assert_int_equal(stats_of(pool).n_evictions, 1);
    /* What cannot fit evicts nothing. */
    assert_int_equal(acquire(pool, &giant, &use, &err), CABE_ERR_BUDGET);
    assert_null(use);
    assert_int_equal(err.missing_bytes, 1);
    assert_string_equal(
        err.text, "giant: needs 101 bytes of host memory; free are 35, idle objects hold 65, objects in "
                  "use 0; 1 bytes are missing");
    assert_int_equal(stats_of(pool).n_evictions, 1);
    cabe_pool_close(pool);
    cabe_ledger_close(ledger);
}

static void what_is_used_stays(void **state)
{
    struct cabe_ledger *ledger = open_ledger(100);
    struct cabe_pool *pool = open_pool(ledger);
    struct recipe a = {.ledger = ledger, .place = "a", .resident_bytes = 60};
    struct recipe b = {.ledger = ledger, .place = "b", .resident_bytes = 60};
    struct recipe far = {.ledger = ledger, .place = "far", .resident_bytes = 60, .device = 1};
    struct cabe_pool_use *first, *second, *other, *none;
    struct cabe_error err;

    (void)state;
    assert_int_equal(acquire(pool, &a, &first, NULL), CABE_OK);
    assert_int_equal(acquire(pool, &a, &second, NULL), CABE_OK);
    assert_ptr_equal(cabe_pool_object(first), cabe_pool_object(second));
    cabe_pool_release(pool, first);
    assert_int_equal(acquire(pool, &b, &none, &err), CABE_ERR_BUDGET);
    assert_int_equal(err.missing_bytes, 20);
    assert_int_equal(cabe_pool_unload(pool, "a", &err), CABE_ERR_BUSY);
    assert_int_equal(acquire(pool, &far, &other, NULL), CABE_OK); /* room on another device is its own */
    cabe_pool_release(pool, second);
    assert_int_equal(acquire(pool, &b, &first, NULL), CABE_OK);
    assert_false(is_resident(pool, "a"));
    assert_int_equal(cabe_pool_unload(pool, "a", &err), CABE_ERR_NOT_FOUND);
    cabe_pool_release(pool, first);
    cabe_pool_release(pool, other);
    cabe_pool_release(pool, NULL);

    assert_int_equal(cabe_pool_make_room(pool, 0, 40, NULL), CABE_OK);
    assert_true(is_resident(pool, "b"));
    assert_int_equal(cabe_pool_make_room(pool, 0, 101, &err), CABE_ERR_BUDGET);
    assert_true(is_resident(pool, "b"));
    assert_int_equal(cabe_pool_make_room(pool, 0, 41, NULL), CABE_OK);
    assert_true(!is_resident(pool, "b") && is_resident(pool, "far"));
    assert_int_equal(cabe_pool_make_room(pool, 99, 1, &err), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_pool_unload(pool, "far", &err), CABE_OK);
    cabe_pool_close(pool);
    cabe_ledger_close(ledger);
}

static void without_measure(void **state)
{
    struct cabe_ledger *ledger = open_ledger(100);
    struct cabe_pool *pool = open_pool(ledger);
    struct recipe recipes[3] = {{.ledger = ledger, .place = "a", .resident_bytes = 40},
                                {.ledger = ledger, .place = "b", .resident_bytes = 40},
                                {.ledger = ledger, .place = "c", .resident_bytes = 90}};
    struct cabe_pool_use *use;

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct cabe_pool_source source = {NULL, load_model, unload_model, &recipes[i]};

        assert_int_equal(cabe_pool_acquire(pool, recipes[i].place, &source, NULL, &use, NULL), CABE_OK);
        cabe_pool_release(pool, use);
    }
    assert_int_equal(stats_of(pool).n_evictions, 2);
    use_once(pool, &recipes[0]); /* measured: the one of unknown size goes */
    assert_int_equal(stats_of(pool).n_resident, 1);
    cabe_pool_close(pool);
    cabe_ledger_close(ledger);
}

struct asker {
    struct cabe_pool *pool;
    const struct recipe *recipe;
    struct cabe_cancel *cancel;
    struct cabe_pool_use *use;
    enum cabe_status status;
    struct cabe_error err;
};

static void *ask(void *arg)
{
    struct asker *asker = arg;
    struct cabe_pool_source source = {measure_model, load_model, unload_model,
                                      (void *)(uintptr_t)asker->recipe};

    asker->status = cabe_pool_acquire(asker->pool, asker->recipe->place, &source, asker->cancel, &asker->use,
                                      &asker->err);
    return NULL;
}

#define N_ASKERS 8

static void many_ask_and_one_loads(void **state)
{
    struct cabe_ledger *ledger = open_ledger(100);
    struct cabe_pool *pool = open_pool(ledger);
    atomic_int n_loads = 0;

    (void)state;
    for (int fails = 0; fails < 2; fails++) {
        struct recipe recipe = {.ledger = ledger,
                                .place = "a",
                                .resident_bytes = 60,
                                .load_ms = 100,
                                .fails_with = fails ? CABE_ERR_FORMAT : CABE_OK,
                                .n_loads = &n_loads};
        struct asker askers[N_ASKERS];
        pthread_t threads[N_ASKERS];

        atomic_store(&n_loads, 0);
        for (int i = 0; i < N_ASKERS; i++) {
            askers[i] = (struct asker){.pool = pool, .recipe = &recipe};
            assert_int_equal(pthread_create(&threads[i], NULL, ask, &askers[i]), 0);
        }
        for (int i = 0; i < N_ASKERS; i++)
            pthread_join(threads[i], NULL);
        assert_int_equal(atomic_load(&n_loads), 1);
        for (int i = 0; i < N_ASKERS; i++) {
            assert_int_equal(askers[i].status, recipe.fails_with);
            if (fails)
                assert_string_equal(askers[i].err.text, "a: as the recipe says");
            else
                assert_ptr_equal(cabe_pool_object(askers[i].use), cabe_pool_object(askers[0].use));
            cabe_pool_release(pool, askers[i].use);
        }
        assert_int_equal(cabe_pool_unload_idle(pool), fails ? 0 : 1);
    }
    assert_int_equal(stats_of(pool).n_joined, 2 * (N_ASKERS - 1));
    assert_int_equal(stats_of(pool).n_failed_loads, 1);
    cabe_pool_close(pool);
    cabe_ledger_close(ledger);
}

/* The one who loads gives up: who waits loads again. One who waits gives up: the load goes on. */
static void cancelled(void **state)
{
    struct cabe_ledger *ledger = open_ledger(100);
    struct cabe_pool *pool = open_pool(ledger);
    atomic_int n_loads = 0;
    struct recipe recipe = {.ledger = ledger,
                            .place = "a",
                            .resident_bytes = 60,
                            .load_ms = 200,
                            .is_cancellable = 1,
                            .n_loads = &n_loads};
    struct cabe_cancel cancels[3] = {0};
    struct asker askers[3];
    pthread_t threads[3];

    (void)state;
    for (int i = 0; i < 3; i++) {
        askers[i] = (struct asker){.pool = pool, .recipe = &recipe, .cancel = &cancels[i]};
        assert_int_equal(pthread_create(&threads[i], NULL, ask, &askers[i]), 0);
        while (atomic_load(&n_loads) == 0)
            usleep(1000);
    }
    usleep(20000);
    atomic_store(&cancels[2].wanted, 1);
    pthread_join(threads[2], NULL);
    atomic_store(&cancels[0].wanted, 1);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    assert_int_equal(askers[0].status, CABE_ERR_CANCELLED);
    assert_int_equal(askers[2].status, CABE_ERR_CANCELLED);
    assert_int_equal(askers[1].status, CABE_OK);
    assert_int_equal(atomic_load(&n_loads), 2);
    cabe_pool_release(pool, askers[1].use);
    cabe_pool_close(pool);
    cabe_ledger_close(ledger);
}

/* Two loads that fit one after the other but not at once, because of what each needs while it loads. */
static void loads_wait_for_loads(void **state)
{
    struct cabe_ledger *ledger = open_ledger(100);
    struct cabe_pool *pool = open_pool(ledger);
    struct recipe recipes[2] = {
        {.ledger = ledger, .place = "a", .resident_bytes = 30, .staging_bytes = 40, .load_ms = 30},
        {.ledger = ledger, .place = "b", .resident_bytes = 30, .staging_bytes = 40, .load_ms = 30}};

    (void)state;
    for (int round = 0; round < 10; round++) {
        struct asker askers[2];
        pthread_t threads[2];

        for (int i = 0; i < 2; i++) {
            askers[i] = (struct asker){.pool = pool, .recipe = &recipes[i]};
            assert_int_equal(pthread_create(&threads[i], NULL, ask, &askers[i]), 0);
        }
        for (int i = 0; i < 2; i++) {
            pthread_join(threads[i], NULL);
            if (askers[i].status != CABE_OK)
                fail_msg("round %d: %s", round, askers[i].err.text);
        }
        for (int i = 0; i < 2; i++)
            cabe_pool_release(pool, askers[i].use);
        assert_int_equal(cabe_pool_unload_idle(pool), 2);
    }
    cabe_pool_close(pool);
    cabe_ledger_close(ledger);
}

#define N_KEYS 6
#define N_WORKERS 4

struct worker {
    struct cabe_pool *pool;
    const struct recipe *recipes;
    unsigned seed;
    int n_ok, n_refused, n_wrong;
};

static void *use_at_random(void *arg)
{
    struct worker *self = arg;

    for (int step = 0; step < 400; step++) {
        const struct recipe *recipe = &self->recipes[rand_r(&self->seed) % N_KEYS];
        struct cabe_pool_use *use;
        struct cabe_error err = {0};
        enum cabe_status status = acquire(self->pool, recipe, &use, &err);

        if (status == CABE_OK) {
            const struct model *model = cabe_pool_object(use);

            self->n_wrong += strcmp(model->recipe.place, recipe->place) != 0 || model->blocks == NULL;
            if (rand_r(&self->seed) % 4 == 0)
                usleep(100);
            cabe_pool_release(self->pool, use);
            self->n_ok++;
        } else {
            self->n_wrong += status != CABE_ERR_BUDGET || err.missing_bytes == 0;
            self->n_refused++;
        }
        if (rand_r(&self->seed) % 16 == 0)
            (void)!cabe_pool_unload(self->pool, recipe->place, NULL);
        if (rand_r(&self->seed) % 64 == 0)
            cabe_pool_unload_idle(self->pool);
    }
    return NULL;
}

static void many_threads_many_objects(void **state)
{
    struct cabe_ledger *ledger = open_ledger(100);
    struct cabe_pool *pool = open_pool(ledger);
    struct recipe recipes[N_KEYS];
    struct worker workers[N_WORKERS];
    pthread_t threads[N_WORKERS];
    char names[N_KEYS][4];
    struct cabe_ledger_view view;
    int n_ok = 0, n_refused = 0;

    (void)state;
    for (int i = 0; i < N_KEYS; i++) {
        snprintf(names[i], sizeof names[i], "k%d", i);
        recipes[i] = (struct recipe){.ledger = ledger,
                                     .place = names[i],
                                     .resident_bytes = (uint64_t)(15 + 5 * i),
                                     .staging_bytes = (uint64_t)(i * 4),
                                     .n_blocks = 3};
    }
    for (int i = 0; i < N_WORKERS; i++) {
        workers[i] = (struct worker){.pool = pool, .recipes = recipes, .seed = (unsigned)i + 11};
        assert_int_equal(pthread_create(&threads[i], NULL, use_at_random, &workers[i]), 0);
    }
    for (int i = 0; i < N_WORKERS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].n_wrong, 0);
        n_ok += workers[i].n_ok;
        n_refused += workers[i].n_refused;
    }
    cabe_ledger_read(ledger, &view);
    printf("uses %d, refused %d, loads %d, evictions %d\n", n_ok, n_refused, (int)stats_of(pool).n_loads,
           (int)stats_of(pool).n_evictions);
    assert_true(view.device[0].high_bytes <= 100);
    assert_int_equal(stats_of(pool).n_resident, atomic_load(&n_alive));
    cabe_pool_close(pool);
    assert_int_equal(atomic_load(&n_alive), 0);
    assert_int_equal(used_bytes(ledger, 0), 0);
    cabe_ledger_close(ledger);
}

static void more_objects_than_the_pool_holds(void **state)
{
    static struct cabe_pool_use *uses[CABE_POOL_MAX];
    struct cabe_ledger *ledger = open_ledger(100000);
    struct cabe_pool *pool = open_pool(ledger);
    struct recipe recipe = {.ledger = ledger, .resident_bytes = 1};
    struct cabe_pool_use *extra;
    struct cabe_error err;
    char name[16];

    (void)state;
    recipe.place = name;
    for (int i = 0; i < CABE_POOL_MAX; i++) {
        snprintf(name, sizeof name, "m%d", i);
        assert_int_equal(acquire(pool, &recipe, &uses[i], NULL), CABE_OK);
        ((struct model *)cabe_pool_object(uses[i]))->recipe.place = "m";
        cabe_ledger_release(ledger, 0, CABE_PURPOSE_WEIGHTS, 1, name);
        assert_int_equal(cabe_ledger_reserve(ledger, 0, CABE_PURPOSE_WEIGHTS, 1, "m", NULL), CABE_OK);
    }
    recipe.place = "extra";
    assert_int_equal(acquire(pool, &recipe, &extra, &err), CABE_ERR_LIMIT);
    cabe_pool_release(pool, uses[7]);
    assert_int_equal(acquire(pool, &recipe, &extra, &err), CABE_OK);
    assert_false(is_resident(pool, "m7"));
    cabe_pool_release(pool, extra);
    for (int i = 0; i < CABE_POOL_MAX; i++)
        if (i != 7)
            cabe_pool_release(pool, uses[i]);
    cabe_pool_close(pool);
    cabe_ledger_close(ledger);
}

static void no_memory(void **state)
{
    struct cabe_ledger *ledger = open_ledger(1000);
    struct recipe recipe = {.ledger = ledger, .place = "a", .resident_bytes = 100, .n_blocks = 5};
    struct cabe_pool *pool;
    struct cabe_error err;

    (void)state;
    cabe_memory_fail_at(1);
    assert_int_equal(cabe_pool_open(&pool, ledger, NULL, &err), CABE_ERR_OOM);
    assert_null(pool);
    pool = open_pool(ledger);
    for (uint64_t n = 1;; n++) {
        struct cabe_pool_use *use;
        enum cabe_status status;

        cabe_memory_fail_at(n);
        status = acquire(pool, &recipe, &use, &err);
        cabe_memory_fail_at(0);
        if (status == CABE_OK) {
            assert_true(n > 8);
            cabe_pool_release(pool, use);
            break;
        }
        assert_int_equal(status, CABE_ERR_OOM);
        assert_null(use);
        assert_int_equal(used_bytes(ledger, 0), 0);
        assert_int_equal(stats_of(pool).n_resident, 0);
    }
    cabe_pool_close(pool);
    cabe_ledger_close(ledger);
}

/* Heap in small pieces and pages, loaded and unloaded again and again: the resident size comes back. */
static void memory_goes_back(void **state)
{
    struct recipe recipe = {.place = "a", .resident_bytes = 60 * MIB, .n_blocks = 10000};
    struct cabe_pool *pool;
    void *ballast; /* 2 % of an empty process would be less than the kernel's own rounding */
    uint64_t before, after = 0, held = 0;

    (void)state;
    if (TEST_SANITIZED || cabe_rss_exact() == 0) {
        printf("skip: the resident size of this build is not the library's\n");
        skip();
    }
    recipe.ledger = open_ledger(1000 * MIB);
    pool = open_pool(recipe.ledger);
    assert_int_equal(cabe_pages_map(&ballast, 32 * MIB, 1, NULL), CABE_OK);
    use_once(pool, &recipe);
    cabe_pool_unload_idle(pool);
    before = cabe_rss_exact();
    for (int cycle = 0; cycle < 50; cycle++) {
        use_once(pool, &recipe);
        held = cabe_rss_exact();
        assert_int_equal(cabe_pool_unload(pool, "a", NULL), CABE_OK);
        after = cabe_rss_exact();
    }
    printf("resident: %.1f MiB before, %.1f loaded, %.1f after 50 cycles\n", (double)before / (double)MIB,
           (double)held / (double)MIB, (double)after / (double)MIB);
    assert_true(held > before + 25 * MIB);
    assert_true(after <= before + before / 50);
    cabe_pages_unmap(ballast, 32 * MIB);
    cabe_pool_close(pool);
    cabe_ledger_close(recipe.ledger);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kept_until_there_is_no_room),
        cmocka_unit_test(only_what_is_needed_goes),
        cmocka_unit_test(what_is_used_stays),
        cmocka_unit_test(without_measure),
        cmocka_unit_test(many_ask_and_one_loads),
        cmocka_unit_test(cancelled),
        cmocka_unit_test(loads_wait_for_loads),
        cmocka_unit_test(many_threads_many_objects),
        cmocka_unit_test(more_objects_than_the_pool_holds),
        cmocka_unit_test(no_memory),
        cmocka_unit_test(memory_goes_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
