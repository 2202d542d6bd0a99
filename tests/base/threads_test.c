#include "base/threads.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/memory.h"
#include "sanitizer.h"

#define N 10007

struct sum {
    int64_t chunk;
    int64_t values[N];
    int64_t seen[CABE_TEAM_MAX][16]; /* a member's partial sum, on a line of its own */
    int n_calls[CABE_TEAM_MAX];
};

/* Two loops: fill, barrier, add up what others have filled. */
static void sum_body(struct cabe_team *team, int member, void *arg)
{
    struct sum *sum = arg;
    int64_t begin, end;

    sum->n_calls[member]++;
    sum->seen[member][0] = 0;
    while (cabe_team_next(team, N, sum->chunk, &begin, &end))
        for (int64_t i = begin; i < end; i++)
            sum->values[i] = sum->values[i] + i;
    cabe_team_barrier(team, member);
    while (cabe_team_next(team, N, sum->chunk, &begin, &end))
        for (int64_t i = begin; i < end; i++)
            sum->seen[member][0] += sum->values[N - 1 - i];
}

static void every_item_once(void **state)
{
    static const int sizes[] = {1, 2, 3, 8};
    static const int64_t chunks[] = {1, 64, N - 1, N, N + 1, INT64_MAX};
    static struct sum sum;

    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (size_t c = 0; c < sizeof chunks / sizeof chunks[0]; c++) {
            struct cabe_team *team;
            int64_t total = 0;

            memset(&sum, 0, sizeof sum);
            sum.chunk = chunks[c];
            assert_int_equal(cabe_team_open(&team, sizes[s], NULL), CABE_OK);
            assert_int_equal(cabe_team_size(team), sizes[s]);
            for (int repeat = 0; repeat < 5; repeat++)
                cabe_team_run(team, sum_body, &sum);
            for (int m = 0; m < CABE_TEAM_MAX; m++) {
                assert_int_equal(sum.n_calls[m], m < sizes[s] ? 5 : 0);
                total += sum.seen[m][0];
            }
            assert_true(total == 5 * (int64_t)N * (N - 1) / 2);
            cabe_team_close(team);
        }
}

static void empty_loop(struct cabe_team *team, int member, void *arg)
{
    int64_t begin, end;

    (void)member, (void)arg;
    assert_int_equal(cabe_team_next(team, 0, 1, &begin, &end), 0);
    assert_int_equal(cabe_team_next(team, -1, 1, &begin, &end), 0);
}

struct stress {
    int n_rounds;
    int at[CABE_TEAM_MAX][16];
    atomic_int n_wrong;
};

/* Nobody may be a round ahead or behind between two barriers. */
static void stress_body(struct cabe_team *team, int member, void *arg)
{
    struct stress *stress = arg;
    int n = cabe_team_size(team);

    for (int round = 0; round < stress->n_rounds; round++) {
        stress->at[member][0] = round;
        cabe_team_barrier(team, member);
        for (int m = 0; m < n; m++)
            if (stress->at[m][0] != round)
                atomic_fetch_add(&stress->n_wrong, 1);
        cabe_team_barrier(team, member);
    }
}

static void barriers_hold(void **state)
{
    static const int sizes[] = {1, 2, 4, 8};
    static struct stress stress;

    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        struct cabe_team *team;
        uint64_t start_ns;

        memset(&stress, 0, sizeof stress);
        stress.n_rounds = 2000;
        assert_int_equal(cabe_team_open(&team, sizes[s], NULL), CABE_OK);
        cabe_team_run(team, empty_loop, NULL);
        start_ns = cabe_clock_ns();
        cabe_team_run(team, stress_body, &stress);
        printf("%d members: %.2f us a barrier\n", sizes[s],
               (double)(cabe_clock_ns() - start_ns) / (2e3 * stress.n_rounds));
        assert_int_equal(atomic_load(&stress.n_wrong), 0);
        /* Eight members on two cores: 4,000 barriers in far less than a time slice each. */
        assert_true(cabe_clock_ns() - start_ns < 20000000000u);
        cabe_team_close(team);
    }
}

/* Several processes that each believe to have the CPUs for themselves: spinning is bounded, so all get on. */
static void beside_other_processes(void **state)
{
    enum { N_PROCESSES = 4, N_BARRIERS = 2 * 2000 };
    uint64_t start_ns = cabe_clock_ns();
    pid_t children[N_PROCESSES];

    (void)state;
    for (int i = 0; i < N_PROCESSES; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0) {
            static struct stress stress = {.n_rounds = N_BARRIERS / 2};
            struct cabe_team *team;

            if (cabe_team_open(&team, 2, NULL) != CABE_OK)
                _exit(2);
            cabe_team_run(team, stress_body, &stress);
            cabe_team_close(team);
            _exit(atomic_load(&stress.n_wrong) != 0);
        }
    }
    for (int i = 0; i < N_PROCESSES; i++) {
        int result;

        assert_true(waitpid(children[i], &result, 0) == children[i]);
        assert_int_equal(result, 0);
    }
    printf("%d processes of 2 members: %.2f us a barrier\n", N_PROCESSES,
           (double)(cabe_clock_ns() - start_ns) / (1e3 * N_BARRIERS));
    assert_true(cabe_clock_ns() - start_ns < 20000000000u);
}

static void count_body(struct cabe_team *team, int member, void *arg)
{
    (void)team, (void)member;
    atomic_fetch_add((atomic_int *)arg, 1);
}

static void many_regions(void **state)
{
    struct cabe_team *team;
    atomic_int n = 0;
    uint64_t start_ns;

    (void)state;
    assert_int_equal(cabe_team_open(&team, 2, NULL), CABE_OK);
    start_ns = cabe_clock_ns();
    for (int i = 0; i < 20000; i++)
        cabe_team_run(team, count_body, &n);
    printf("2 members: %.2f us a region\n", (double)(cabe_clock_ns() - start_ns) / 2e7);
    assert_int_equal(atomic_load(&n), 40000);
    /* After a pause the members sleep: the region wakes them. */
    usleep(20000);
    cabe_team_run(team, count_body, &n);
    assert_int_equal(atomic_load(&n), 40002);
    cabe_team_close(team);
}

static void idle_members_use_no_cpu(void **state)
{
    struct cabe_team *team;
    struct rusage before, after;
    int64_t used_us;

    (void)state;
    assert_int_equal(cabe_team_open(&team, 4, NULL), CABE_OK);
    usleep(20000);
    getrusage(RUSAGE_SELF, &before);
    usleep(200000);
    getrusage(RUSAGE_SELF, &after);
    used_us = (after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000000 + after.ru_utime.tv_usec -
              before.ru_utime.tv_usec;
    assert_true(used_us < 50000);
    cabe_team_close(team);
}

static void bad_arguments(void **state)
{
    static const int sizes[] = {-1, 0, CABE_TEAM_MAX + 1};
    struct cabe_error err;

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct cabe_team *team = (struct cabe_team *)&err;

        assert_int_equal(cabe_team_open(&team, sizes[i], &err), CABE_ERR_ARGUMENT);
        assert_null(team);
        assert_non_null(strstr(err.text, "256"));
    }
    cabe_team_close(NULL);
}

static void no_memory(void **state)
{
    struct cabe_team *team;
    struct cabe_error err;

    (void)state;
    cabe_memory_fail_at(1);
    assert_int_equal(cabe_team_open(&team, 2, &err), CABE_ERR_OOM);
    assert_null(team);
    cabe_memory_fail_at(0);
}

/* A system that refuses the n-th thread: those already there end, the answer is a status. */
static void no_threads(void **state)
{
    pid_t child;
    int result;

    (void)state;
    if (TEST_SANITIZED) {
        printf("skip: a sanitizer's address space does not fit a limit\n");
        skip();
    }
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        /* 256 stacks of 256 KiB need 64 MiB. */
        struct rlimit limit = {.rlim_cur = 40u << 20, .rlim_max = 40u << 20};
        struct cabe_team *team;
        struct cabe_error err;
        enum cabe_status status;

        setrlimit(RLIMIT_AS, &limit);
        status = cabe_team_open(&team, CABE_TEAM_MAX, &err);
        _exit(status == CABE_ERR_OOM && !team && strstr(err.text, "thread") ? 0 : 1);
    }
    assert_true(waitpid(child, &result, 0) == child);
    assert_int_equal(result, 0);
}

static void note_signals(struct cabe_team *team, int member, void *arg)
{
    sigset_t set;

    (void)team;
    pthread_sigmask(SIG_SETMASK, NULL, &set);
    if (member > 0) {
        assert_true(sigismember(&set, SIGINT) == 1);
        assert_true(sigismember(&set, SIGBUS) == 0);
    }
    ((int *)arg)[member] = sigismember(&set, SIGINT);
}

struct between {
    int at[8][16];
    int n_members, round, n_wrong; /* plain: only the last to arrive writes them, and all read them after */
};

static void one_does_it(void *arg)
{
    struct between *b = arg;

    for (int m = 0; m < b->n_members; m++)
        b->n_wrong += b->at[m][0] != b->round;
    b->round++;
}

static void between_body(struct cabe_team *team, int member, void *arg)
{
    struct between *b = arg;

    for (int round = 0; b->round < 1000 && b->round == round; round++) {
        b->at[member][0] = round;
        cabe_team_barrier_then(team, member, one_does_it, b);
    }
}

static void one_member_between_barriers(void **state)
{
    static const int sizes[] = {1, 2, 3, 8};

    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        static struct between between;
        struct cabe_team *team;

        between = (struct between){.n_members = sizes[s]};
        assert_int_equal(cabe_team_open(&team, sizes[s], NULL), CABE_OK);
        cabe_team_run(team, between_body, &between);
        assert_int_equal(between.round, 1000);
        assert_int_equal(between.n_wrong, 0);
        cabe_team_close(team);
    }
}

static void members_leave_signals_alone(void **state)
{
    struct cabe_team *team;
    int blocked[3] = {-1, -1, -1};

    (void)state;
    assert_int_equal(cabe_team_open(&team, 3, NULL), CABE_OK);
    cabe_team_run(team, note_signals, blocked);
    assert_int_equal(blocked[0], 0);
    assert_int_equal(blocked[1], 1);
    assert_int_equal(blocked[2], 1);
    cabe_team_close(team);
}

struct ways {
    int nice[3];
    uint64_t slice_ns[3];
};

static void note_way(struct cabe_team *team, int member, void *arg)
{
    struct ways *ways = arg;
    uint64_t attributes[6] = {0}; /* size and policy, flags, nice and priority, runtime, ... */

    (void)team;
    ways->nice[member] = getpriority(PRIO_PROCESS, 0);
    if (syscall(SYS_sched_getattr, 0, attributes, sizeof attributes, 0) == 0)
        ways->slice_ns[member] = attributes[3];
}

static void *compute_and_note(void *arg)
{
    struct ways *before = arg, *after = before + 1, *again = before + 2;
    struct cabe_team *team;

    if (cabe_team_open(&team, 3, NULL) != CABE_OK)
        return NULL;
    cabe_team_run(team, note_way, before);
    cabe_team_give_way(team);
    cabe_team_run(team, note_way, after);
    cabe_team_run(team, note_way, again);
    cabe_team_close(team);
    return arg;
}

/* Nothing else changes: not the policy's weight before, and none twice. */
static void who_computes_gives_way(void **state)
{
    struct ways ways[3] = {0};
    pthread_t thread;
    void *done = NULL;
    int nice = getpriority(PRIO_PROCESS, 0), wanted = nice + CABE_TEAM_NICE < 19 ? nice + CABE_TEAM_NICE : 19;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, compute_and_note, ways), 0); /* it stays so */
    assert_int_equal(pthread_join(thread, &done), 0);
    assert_non_null(done);
    for (int member = 0; member < 3; member++) {
        assert_int_equal(ways[0].nice[member], nice);
        assert_int_equal(ways[1].nice[member], wanted);
        assert_int_equal(ways[2].nice[member], wanted);
        assert_int_equal(ways[2].slice_ns[member], ways[1].slice_ns[member]);
        if (ways[0].slice_ns[member] > 0 && ways[1].slice_ns[member] != ways[0].slice_ns[member])
            assert_int_equal(ways[1].slice_ns[member], CABE_SLICE_COMPUTE_NS);
    }
    assert_int_equal(getpriority(PRIO_PROCESS, 0), nice);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_once),
        cmocka_unit_test(barriers_hold),
        cmocka_unit_test(one_member_between_barriers),
        cmocka_unit_test(beside_other_processes),
        cmocka_unit_test(many_regions),
        cmocka_unit_test(idle_members_use_no_cpu),
        cmocka_unit_test(bad_arguments),
        cmocka_unit_test(no_memory),
        cmocka_unit_test(no_threads),
        cmocka_unit_test(members_leave_signals_alone),
        cmocka_unit_test(who_computes_gives_way),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
