/* Making fitted copies while processes are killed or race, caches are full and memory is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fitted_setup.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "base/memory.h"

#define MODEL "bert-mean-f32.gguf"
#define KILLS 30

static struct cabe_error err;

static void must(enum cabe_status status)
{
    if (status != CABE_OK)
        fail_msg("%s", err.text);
}

/* A whole copy, by its checksums, or none. */
static int found_whole(const struct setup *s)
{
    struct cabe_fitted *fitted;
    enum cabe_status status = cabe_fitted_find(&fitted, &s->config, &err);

    if (status == CABE_ERR_NOT_FOUND)
        return 0;
    must(status);
    must(cabe_fitted_verify(fitted, &err));
    cabe_fitted_close(fitted);
    return 1;
}

/* Lets what killed processes left rest for longer than the sweep asks. */
static void age_leftovers(const char *folder)
{
    DIR *dir = opendir(folder);
    struct timespec old[2] = {{1000000000, 0}, {1000000000, 0}};
    struct dirent *entry;

    assert_non_null(dir);
    while ((entry = readdir(dir)))
        if (strncmp(entry->d_name, ".cabe-", 6) == 0)
            utimensat(dirfd(dir), entry->d_name, old, 0);
    closedir(dir);
}

static pid_t start_maker(const struct setup *s)
{
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        struct cabe_fitted *fitted;
        enum cabe_status status = make_copy(s, &fitted, NULL);

        if (status == CABE_OK)
            status = cabe_fitted_verify(fitted, NULL);
        _exit(status == CABE_OK ? 0 : 1);
    }
    return child;
}

static int64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void a_killed_maker_leaves_a_whole_copy_or_none(void **state)
{
    int whole = 0, none = 0, leftovers = 0, exit_status;
    struct cabe_fitted *fitted;
    struct setup s;
    uint64_t freed;
    int64_t span;

    (void)state;
    setup_begin(&s, MODEL, CABE_F32);
    span = now_us();
    waitpid(start_maker(&s), &exit_status, 0);
    span = now_us() - span;
    assert_true(WIFEXITED(exit_status) && WEXITSTATUS(exit_status) == 0);
    for (int i = 0; i < KILLS; i++) {
        pid_t child;

        must(cabe_fitted_remove(s.cache, s.source_path, &freed, &err));
        child = start_maker(&s);
        usleep((useconds_t)(span * i / (KILLS - 1) + 1));
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, NULL, 0), child);
        if (found_whole(&s))
            whole++;
        else
            none++;
        leftovers += count_in(s.cache, ".cabe-") > 0;
    }
    print_message("%d kills: %d whole copies, %d without one; left-overs after %d\n", KILLS, whole, none, leftovers);
    age_leftovers(s.cache);
    must(make_copy(&s, &fitted, &err));
    cabe_fitted_close(fitted);
    assert_true(found_whole(&s));
    assert_int_equal(count_in(s.cache, NULL), 1); /* swept */
    setup_end(&s);
}

static void makers_race_and_all_win(void **state)
{
    enum { N = 4 };
    struct setup s;

    (void)state;
    setup_begin(&s, MODEL, CABE_F32);
    for (int round = 0; round < 5; round++) {
        pid_t child[N];
        uint64_t freed;

        must(cabe_fitted_remove(s.cache, s.source_path, &freed, &err));
        for (int i = 0; i < N; i++)
            child[i] = start_maker(&s);
        for (int i = 0; i < N; i++) {
            int exit_status;

            assert_int_equal(waitpid(child[i], &exit_status, 0), child[i]);
            assert_true(WIFEXITED(exit_status) && WEXITSTATUS(exit_status) == 0);
        }
        assert_true(found_whole(&s));
        assert_int_equal(count_in(s.cache, NULL), 1);
    }
    setup_end(&s);
}

static uint64_t cache_bytes(const char *folder)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    struct stat info;
    uint64_t sum = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir)))
        if (fstatat(dirfd(dir), entry->d_name, &info, 0) == 0 && S_ISREG(info.st_mode))
            sum += (uint64_t)info.st_size;
    closedir(dir);
    return sum;
}

static void the_least_recently_used_copy_is_evicted(void **state)
{
    struct timespec old[2] = {{1000000000, 0}, {1000000000, 0}}, older[2] = {{900000000, 0}, {900000000, 0}};
    char path[3][PATH_MAX];
    struct setup s, other;
    struct cabe_fitted *fitted;
    uint64_t bytes;

    (void)state;
    setup_begin(&s, MODEL, CABE_F32);
    for (int i = 0; i < 2; i++) {
        s.config.choice.dtype = i ? CABE_F16 : CABE_F32;
        must(make_copy(&s, &fitted, &err));
        snprintf(path[i], PATH_MAX, "%s", cabe_fitted_path(fitted));
        cabe_fitted_close(fitted);
    }
    assert_int_equal(utimensat(AT_FDCWD, path[0], old, 0), 0);
    assert_int_equal(utimensat(AT_FDCWD, path[1], older, 0), 0);
    setup_begin(&other, "e5-q4_0.gguf", CABE_F32);
    bytes = cache_bytes(s.cache);
    other.config.cache_dir = s.cache;
    other.config.cache_limit_bytes = bytes + 4096; /* not quite room for both and a third */
    must(make_copy(&other, &fitted, &err));
    snprintf(path[2], PATH_MAX, "%s", cabe_fitted_path(fitted));
    cabe_fitted_close(fitted);
    assert_int_equal(access(path[0], F_OK), 0);
    assert_int_equal(access(path[1], F_OK), -1); /* the older one */
    assert_int_equal(access(path[2], F_OK), 0);
    other.config.cache_limit_bytes = 1; /* nothing fits: the new one is there alone */
    other.config.choice.dtype = CABE_F16;
    must(make_copy(&other, &fitted, &err));
    assert_int_equal(count_in(s.cache, NULL), 1);
    must(cabe_fitted_verify(fitted, &err));
    cabe_fitted_close(fitted);
    setup_end(&other);
    setup_end(&s);
}

/* A copy larger than its source: the limit holds all the same. */
static void the_limit_counts_the_copy_not_the_source(void **state)
{
    struct setup s, other;
    struct cabe_fitted *fitted;
    uint64_t large, limit;

    (void)state;
    setup_begin(&other, "bert-mean-f16.gguf", CABE_F32); /* twice its source */
    must(make_copy(&other, &fitted, &err));
    large = cabe_fitted_file_bytes(fitted);
    cabe_fitted_close(fitted);
    setup_begin(&s, MODEL, CABE_F32);
    must(make_copy(&s, &fitted, &err));
    limit = large + cabe_fitted_file_bytes(fitted) - 1;
    cabe_fitted_close(fitted);
    other.config.cache_dir = s.cache;
    other.config.cache_limit_bytes = limit;
    must(make_copy(&other, &fitted, &err));
    cabe_fitted_close(fitted);
    assert_true(cache_bytes(s.cache) <= limit);
    setup_end(&s);
    setup_end(&other);
}

/* The n-th allocation fails, for every n, over making and loading: an error, no leak in the ledger, no left-over. */
static enum cabe_status make_and_load(const struct setup *s, struct cabe_error *error)
{
    struct cabe_fitted *fitted;
    enum cabe_status status = make_copy(s, &fitted, error);

    if (status == CABE_OK)
        status = cabe_fitted_load(fitted, s->ledger, CABE_KEEP_FIRST, "model", error);
    if (status == CABE_OK)
        status = cabe_fitted_check(fitted, error);
    cabe_fitted_close(fitted);
    return status;
}

static void every_allocation_may_fail(void **state)
{
    struct setup s;
    uint64_t n, failed = 0;

    (void)state;
    setup_begin(&s, "bert-mean-q4_0.gguf", CABE_F32);
    for (int on_disk = 0; on_disk < 2; on_disk++) {
        s.config.cache_dir = on_disk ? s.cache : NULL;
        for (n = 1;; n++) {
            uint64_t before = cabe_memory_count(), freed;
            enum cabe_status status;

            cabe_memory_fail_at(n);
            status = make_and_load(&s, &err);
            cabe_memory_fail_at(0);
            assert_int_equal(used_bytes(&s), 0);
            assert_int_equal(count_in(s.cache, ".cabe-"), 0);
            if (status != CABE_OK && status != CABE_ERR_OOM)
                fail_msg("allocation %llu: %s", (unsigned long long)n, err.text);
            failed += status != CABE_OK;
            if (cabe_memory_count() - before < n)
                break;
            if (on_disk) {
                found_whole(&s);
                must(cabe_fitted_remove(s.cache, s.source_path, &freed, &err));
            }
        }
        assert_true(n > 20 && failed > n / 2);
    }
    print_message("%llu allocations refused in turn\n", (unsigned long long)failed);
    setup_end(&s);
}

/* The same over finding and loading what is there. */
static void every_allocation_of_a_second_start_may_fail(void **state)
{
    struct cabe_fitted *fitted;
    struct setup s;

    (void)state;
    setup_begin(&s, "bert-mean-q4_0.gguf", CABE_F32);
    must(make_copy(&s, &fitted, &err));
    cabe_fitted_close(fitted);
    for (uint64_t n = 1;; n++) {
        uint64_t before = cabe_memory_count();
        enum cabe_status status;

        cabe_memory_fail_at(n);
        status = cabe_fitted_find(&fitted, &s.config, &err);
        if (status == CABE_OK)
            status = cabe_fitted_load(fitted, s.ledger, CABE_KEEP_ALL, "model", &err);
        if (status == CABE_OK)
            status = cabe_fitted_check(fitted, &err);
        if (status == CABE_OK)
            status = cabe_fitted_verify(fitted, &err);
        cabe_memory_fail_at(0);
        cabe_fitted_close(fitted);
        assert_int_equal(used_bytes(&s), 0);
        if (cabe_memory_count() - before < n) {
            must(status);
            break;
        }
        if (status != CABE_OK && status != CABE_ERR_OOM)
            fail_msg("allocation %llu: %s", (unsigned long long)n, err.text);
        if (!found_whole(&s)) /* a lack of memory is no damage */
            fail_msg("allocation %llu: the copy was removed: %s", (unsigned long long)n, err.text);
    }
    setup_end(&s);
}

static void a_budget_that_is_too_small_is_refused(void **state)
{
    struct cabe_fitted *fitted;
    uint64_t weights, caches, hold;
    struct setup s;

    (void)state;
    setup_begin(&s, MODEL, CABE_F32);
    hold = (UINT64_C(1) << 30) - 4096;
    must(cabe_ledger_reserve(s.ledger, CABE_HOST, CABE_PURPOSE_INDEX, hold, "test", &err));
    assert_int_equal(make_copy(&s, &fitted, &err), CABE_ERR_BUDGET);
    assert_true(err.missing_bytes > 0);
    assert_null(fitted);
    assert_int_equal(count_in(s.cache, NULL), 0);
    cabe_ledger_release(s.ledger, CABE_HOST, CABE_PURPOSE_INDEX, hold, "test");
    must(make_copy(&s, &fitted, &err));
    cabe_fitted_bytes(fitted, CABE_KEEP_ALL, &weights, &caches);
    hold = (UINT64_C(1) << 30) - weights; /* weights fit, caches do not */
    must(cabe_ledger_reserve(s.ledger, CABE_HOST, CABE_PURPOSE_INDEX, hold, "test", &err));
    assert_int_equal(cabe_fitted_load(fitted, s.ledger, CABE_KEEP_ALL, "model", &err), CABE_ERR_BUDGET);
    assert_int_equal(used_bytes(&s), hold);
    cabe_ledger_release(s.ledger, CABE_HOST, CABE_PURPOSE_INDEX, hold, "test");
    must(cabe_fitted_load(fitted, s.ledger, CABE_KEEP_ALL, "model", &err)); /* it may be tried again */
    cabe_fitted_close(fitted);
    assert_int_equal(used_bytes(&s), 0);
    setup_end(&s);
}

static void a_cancelled_making_leaves_nothing(void **state)
{
    struct cabe_cancel cancel = {.wanted = 1};
    struct cabe_fitted *fitted;
    struct setup s;

    (void)state;
    setup_begin(&s, MODEL, CABE_F32);
    s.config.cancel = &cancel;
    assert_int_equal(make_copy(&s, &fitted, &err), CABE_ERR_CANCELLED);
    assert_int_equal(count_in(s.cache, NULL), 0);
    assert_int_equal(used_bytes(&s), 0);
    setup_end(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_killed_maker_leaves_a_whole_copy_or_none),
        cmocka_unit_test(makers_race_and_all_win),
        cmocka_unit_test(the_least_recently_used_copy_is_evicted),
        cmocka_unit_test(the_limit_counts_the_copy_not_the_source),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(every_allocation_of_a_second_start_may_fail),
        cmocka_unit_test(a_budget_that_is_too_small_is_refused),
        cmocka_unit_test(a_cancelled_making_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
