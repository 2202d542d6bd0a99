/* Threads that share one team. Times are printed, not judged: the machine has other work too. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/threads.h"
#include "sanitizer.h"

#define N_THREADS 8
#define N_REGIONS 500

struct shared {
    struct cabe_team *team;
    int64_t count; /* plain: only the region that runs may touch it */
    atomic_int n_inside, n_wrong;
};

static void count_body(struct cabe_team *team, int member, void *arg)
{
    struct shared *s = arg;

    if (member == 0) {
        if (atomic_fetch_add(&s->n_inside, 1) != 0)
            atomic_fetch_add(&s->n_wrong, 1);
        s->count++;
    }
    cabe_team_barrier(team, member);
    if (member == 1)
        s->count++;
    cabe_team_barrier(team, member);
    if (member == 0)
        atomic_fetch_sub(&s->n_inside, 1);
}

struct counter {
    struct shared *shared;
    enum cabe_class class_;
};

static void *count_main(void *arg)
{
    struct counter *c = arg;

    if (cabe_thread_class(c->class_) != CABE_CLASS_NORMAL)
        atomic_fetch_add(&c->shared->n_wrong, 1);
    for (int i = 0; i < N_REGIONS; i++)
        cabe_team_run(c->shared->team, count_body, c->shared);
    return NULL;
}

static void one_region_at_a_time(void **state)
{
    struct shared s = {0};
    struct counter counters[N_THREADS];
    pthread_t threads[N_THREADS];
    struct cabe_turns turns[CABE_N_CLASSES];

    (void)state;
    assert_int_equal(cabe_team_open(&s.team, 2, NULL), CABE_OK);
    for (int i = 0; i < N_THREADS; i++) {
        counters[i] = (struct counter){&s, (enum cabe_class)(i % CABE_N_CLASSES)};
        assert_int_equal(pthread_create(&threads[i], NULL, count_main, &counters[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&s.n_wrong), 0);
    assert_int_equal(s.count, 2 * N_THREADS * N_REGIONS);
    cabe_team_turns(s.team, turns);
    for (int c = 0; c < CABE_N_CLASSES; c++) {
        assert_int_equal(turns[c].n_turns, N_THREADS / CABE_N_CLASSES * N_REGIONS);
        assert_true(turns[c].n_waits <= turns[c].n_turns && turns[c].wait_max_ns <= turns[c].wait_ns);
        assert_int_equal(turns[c].n_waiting, 0);
    }
    cabe_team_close(s.team);
}

struct user {
    struct cabe_team *team;
    enum cabe_class class_;
    uint64_t region_ns, gap_ns;
    atomic_int *stop;
};

static void spin_until(uint64_t end_ns)
{
    while (cabe_clock_ns() < end_ns)
        ;
}

static void spin_body(struct cabe_team *team, int member, void *arg)
{
    const struct user *u = arg;

    (void)team;
    if (member == 0)
        spin_until(cabe_clock_ns() + u->region_ns);
}

static void *user_main(void *arg)
{
    struct user *u = arg;

    cabe_thread_class(u->class_);
    while (!atomic_load(u->stop)) {
        cabe_team_run(u->team, spin_body, u);
        spin_until(cabe_clock_ns() + u->gap_ns);
    }
    return NULL;
}

static void use_together(struct user *users, int n, uint64_t for_ns, struct cabe_turns turns[CABE_N_CLASSES])
{
    pthread_t threads[N_THREADS];
    struct cabe_team *team;
    atomic_int stop = 0;

    assert_int_equal(cabe_team_open(&team, 1, NULL), CABE_OK);
    for (int i = 0; i < n; i++) {
        users[i].team = team;
        users[i].stop = &stop;
        assert_int_equal(pthread_create(&threads[i], NULL, user_main, &users[i]), 0);
    }
    usleep((useconds_t)(for_ns / 1000));
    atomic_store(&stop, 1);
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    cabe_team_turns(team, turns);
    cabe_team_close(team);
}

static void print_turns(const char *what, const struct cabe_turns turns[CABE_N_CLASSES])
{
    for (int c = 0; c < CABE_N_CLASSES; c++)
        if (turns[c].n_turns)
            printf("%s: %s %llu turns, %.1f ms, %llu waits, longest %.2f ms\n", what, cabe_class_name((enum cabe_class)c),
                   (unsigned long long)turns[c].n_turns, (double)turns[c].used_ns / 1e6,
                   (unsigned long long)turns[c].n_waits, (double)turns[c].wait_max_ns / 1e6);
}

/* All classes want it all the time, with regions of different lengths: time is shared by weight. */
static void shares_follow_weights(void **state)
{
    struct user users[] = {
        {.class_ = CABE_CLASS_CRITICAL, .region_ns = 300000}, {.class_ = CABE_CLASS_CRITICAL, .region_ns = 200000},
        {.class_ = CABE_CLASS_HIGH, .region_ns = 1000000},    {.class_ = CABE_CLASS_HIGH, .region_ns = 300000},
        {.class_ = CABE_CLASS_NORMAL, .region_ns = 300000},   {.class_ = CABE_CLASS_NORMAL, .region_ns = 200000},
        {.class_ = CABE_CLASS_LOW, .region_ns = 2000000},     {.class_ = CABE_CLASS_LOW, .region_ns = 2000000},
    };
    struct cabe_turns turns[CABE_N_CLASSES];

    (void)state;
    use_together(users, 8, 1500000000, turns);
    print_turns("all", turns);
    for (int c = 0; c < CABE_N_CLASSES; c++)
        assert_true(turns[c].n_turns > 0); /* the shares are printed: a busy machine has its own */
}

/*
 * One thread each: when the first gives the team back, only the other waits. Without a pause they would take turns one
 * by one, and the second with its long regions would have almost all the time.
 */
static void a_short_gap_keeps_the_claim(void **state)
{
    struct user users[] = {{.class_ = CABE_CLASS_HIGH, .region_ns = 1000000, .gap_ns = 50000},
                           {.class_ = CABE_CLASS_LOW, .region_ns = 5000000}};
    struct cabe_turns turns[CABE_N_CLASSES];

    (void)state;
    if (TEST_SANITIZED || sysconf(_SC_NPROCESSORS_ONLN) < 2)
        skip(); /* a gap of 50 us is none there */
    use_together(users, 2, 1500000000, turns);
    print_turns("two", turns);
    assert_true(turns[CABE_CLASS_HIGH].n_turns > 0 && turns[CABE_CLASS_LOW].n_turns > 0);
}

/* A long gap is not waited for. */
static void a_long_gap_is_used(void **state)
{
    struct user users[] = {{.class_ = CABE_CLASS_HIGH, .region_ns = 200000, .gap_ns = 5000000},
                           {.class_ = CABE_CLASS_LOW, .region_ns = 500000}};
    struct cabe_turns turns[CABE_N_CLASSES];

    (void)state;
    use_together(users, 2, 1000000000, turns);
    print_turns("gap", turns);
    assert_true(turns[CABE_CLASS_HIGH].n_turns > 0 && turns[CABE_CLASS_LOW].n_turns > 0);
}

/* A region of LOW that took 0.4 s is 6.4 s of CRITICAL: its next one comes by age before. */
static void the_aged_go_next(void **state)
{
    struct user users[N_THREADS] = {{.class_ = CABE_CLASS_LOW, .region_ns = 400000000}};
    struct cabe_turns turns[CABE_N_CLASSES];

    (void)state;
    for (int i = 1; i < N_THREADS; i++) /* so many that one always waits, also on a busy machine */
        users[i] = (struct user){.class_ = CABE_CLASS_CRITICAL, .region_ns = 3000000};
    use_together(users, N_THREADS, 3100000000, turns);
    print_turns("age", turns);
    assert_true(turns[CABE_CLASS_CRITICAL].n_turns > 0 && turns[CABE_CLASS_LOW].n_turns > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_region_at_a_time), cmocka_unit_test(shares_follow_weights),
        cmocka_unit_test(a_short_gap_keeps_the_claim), cmocka_unit_test(a_long_gap_is_used),
        cmocka_unit_test(the_aged_go_next),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
