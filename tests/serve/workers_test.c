#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/memory.h"
#include "serve/workers.h"

static atomic_int n_done, n_expired, hold;

static void work(void *arg)
{
    (void)arg;
    while (atomic_load(&hold))
        usleep(1000);
    atomic_fetch_add(&n_done, 1);
}

static void expired(void *arg)
{
    (void)arg;
    atomic_fetch_add(&n_expired, 1);
}

static struct cabe_workers *open_pool(int n_workers, int n_waiting, double wait_s)
{
    struct cabe_workers_config config = {.n_workers = n_workers, .n_waiting = n_waiting, .wait_s = wait_s};
    struct cabe_workers *workers;

    atomic_store(&n_done, 0);
    atomic_store(&n_expired, 0);
    atomic_store(&hold, 0);
    assert_int_equal(cabe_workers_open(&workers, &config, NULL), CABE_OK);
    return workers;
}

static void until(atomic_int *counter, int wanted)
{
    for (int i = 0; i < 5000 && atomic_load(counter) < wanted; i++)
        usleep(1000);
    assert_int_equal(atomic_load(counter), wanted);
}

static void all_work_is_done(void **state)
{
    struct cabe_workers *workers = open_pool(3, 0, 30);
    struct cabe_workers_stats stats;

    (void)state;
    for (int i = 0; i < 1000; i++)
        assert_int_equal(cabe_workers_submit(workers, work, i % 2 ? expired : NULL, NULL, NULL), CABE_OK);
    until(&n_done, 1000);
    while (cabe_workers_stats(workers, &stats), stats.n_busy > 0)
        usleep(1000);
    assert_int_equal(stats.n_workers, 3);
    assert_int_equal(stats.n_waiting, 0);
    assert_int_equal(stats.n_done, 1000);
    assert_int_equal(stats.n_expired, 0);
    cabe_workers_close(workers);
}

static void too_many_are_refused(void **state)
{
    struct cabe_workers *workers = open_pool(1, 2, 30);
    struct cabe_workers_stats stats;
    struct cabe_error err;

    (void)state;
    atomic_store(&hold, 1);
    assert_int_equal(cabe_workers_submit(workers, work, NULL, NULL, &err), CABE_OK);
    while (cabe_workers_stats(workers, &stats), stats.n_busy == 0)
        usleep(1000);
    assert_int_equal(cabe_workers_submit(workers, work, NULL, NULL, &err), CABE_OK);
    assert_int_equal(cabe_workers_submit(workers, work, NULL, NULL, &err), CABE_OK);
    assert_int_equal(cabe_workers_submit(workers, work, NULL, NULL, &err), CABE_ERR_LIMIT);
    assert_non_null(strstr(err.text, "2 pieces of work wait for 1 workers"));
    cabe_workers_stats(workers, &stats);
    assert_int_equal(stats.n_refused, 1);
    assert_int_equal(stats.n_waiting, 2);
    atomic_store(&hold, 0);
    until(&n_done, 3);
    cabe_workers_close(workers);
}

static void who_waits_too_long_is_told(void **state)
{
    struct cabe_workers *workers = open_pool(1, 0, 0.05);
    struct cabe_workers_stats stats;
    struct cabe_error err;

    (void)state;
    atomic_store(&hold, 1);
    assert_int_equal(cabe_workers_submit(workers, work, NULL, NULL, &err), CABE_OK);
    while (cabe_workers_stats(workers, &stats), stats.n_busy == 0)
        usleep(1000);
    assert_int_equal(cabe_workers_submit(workers, work, NULL, NULL, &err), CABE_OK); /* is kept */
    for (int i = 0; i < 5; i++)
        assert_int_equal(cabe_workers_submit(workers, work, expired, NULL, &err), CABE_OK);
    until(&n_expired, 5);
    assert_int_equal(cabe_workers_submit(workers, work, NULL, NULL, &err), CABE_ERR_BUSY);
    assert_non_null(strstr(err.text, "no worker of 1 was free"));
    cabe_workers_stats(workers, &stats);
    assert_int_equal(stats.n_expired, 5);
    assert_int_equal(stats.n_waiting, 1);
    assert_true(stats.waited_s >= 0.05);
    atomic_store(&hold, 0);
    until(&n_done, 2);
    assert_int_equal(cabe_workers_submit(workers, work, expired, NULL, &err), CABE_OK);
    until(&n_done, 3);
    cabe_workers_close(workers);
}

static void the_end_loses_nothing(void **state)
{
    (void)state;
    for (int round = 0; round < 50; round++) {
        struct cabe_workers *workers = open_pool(2, 0, 30);

        for (int i = 0; i < 20; i++)
            assert_int_equal(cabe_workers_submit(workers, work, i % 2 ? expired : NULL, NULL, NULL), CABE_OK);
        cabe_workers_close(workers);
        assert_int_equal(atomic_load(&n_done) + atomic_load(&n_expired), 20);
    }
}

static void no_memory_is_an_error(void **state)
{
    struct cabe_workers_config config = {.n_workers = 2, .wait_s = 1};
    struct cabe_workers *workers;
    uint64_t before;

    (void)state;
    for (uint64_t n = 1;; n++) {
        enum cabe_status status;

        before = cabe_memory_count();
        cabe_memory_fail_at(n);
        status = cabe_workers_open(&workers, &config, NULL);
        if (status == CABE_OK) {
            cabe_memory_fail_at(1);
            assert_int_equal(cabe_workers_submit(workers, work, NULL, NULL, NULL), CABE_ERR_OOM);
            cabe_workers_close(workers);
            assert_true(cabe_memory_count() - before < n + 2);
            break;
        }
        assert_int_equal(status, CABE_ERR_OOM);
        assert_null(workers);
    }
    cabe_memory_fail_at(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_work_is_done),          cmocka_unit_test(too_many_are_refused),
        cmocka_unit_test(who_waits_too_long_is_told), cmocka_unit_test(the_end_loses_nothing),
        cmocka_unit_test(no_memory_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
