/* Slots for heavy work. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/memory.h"
#include "runtime/slots.h"

static void the_error_names_who_holds(void **state)
{
    struct cabe_slots *slots;
    struct cabe_slots_state now;
    struct cabe_error err;
    uint64_t begin_ns;
    int a, b, c;

    (void)state;
    assert_int_equal(cabe_slots_open(&slots, 2, NULL), CABE_OK);
    assert_int_equal(cabe_slots_acquire(slots, "coreference of a.txt", CABE_CLASS_NORMAL, 1, NULL, &a, &err), CABE_OK);
    usleep(2000);
    assert_int_equal(cabe_slots_acquire(slots, "embedding of b.txt", CABE_CLASS_LOW, 1, NULL, &b, &err), CABE_OK);
    assert_int_equal(cabe_slots_acquire(slots, "third", CABE_CLASS_CRITICAL, 0, NULL, &c, &err), CABE_ERR_BUSY);
    assert_int_equal(c, -1);
    begin_ns = cabe_clock_ns();
    assert_int_equal(cabe_slots_acquire(slots, "third", CABE_CLASS_CRITICAL, 0.05, NULL, &c, &err), CABE_ERR_BUSY);
    assert_true(cabe_clock_ns() - begin_ns >= 49000000);
    assert_non_null(strstr(err.text, "third"));
    assert_non_null(strstr(err.text, "coreference of a.txt ")); /* and for how many seconds */
    assert_non_null(strstr(err.text, "embedding of b.txt "));
    cabe_slots_state(slots, &now);
    assert_int_equal(now.n_slots, 2);
    assert_int_equal(now.n_held, 2);
    assert_int_equal(now.n_timed_out, 2);
    assert_string_equal(now.holder[0].name, "coreference of a.txt");
    assert_string_equal(now.holder[1].name, "embedding of b.txt");
    assert_int_equal(now.holder[1].class_, CABE_CLASS_LOW);
    assert_true(now.holder[0].held_s >= now.holder[1].held_s);
    cabe_slots_release(slots, a);
    cabe_slots_release(slots, b);
    cabe_slots_release(slots, -1);
    cabe_slots_state(slots, &now);
    assert_int_equal(now.n_held, 0);
    cabe_slots_close(slots);
    cabe_slots_close(NULL);
}

static void arguments_and_memory(void **state)
{
    struct cabe_slots *slots;
    struct cabe_error err;

    (void)state;
    assert_int_equal(cabe_slots_open(&slots, 0, &err), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_slots_open(&slots, CABE_SLOTS_MAX + 1, &err), CABE_ERR_ARGUMENT);
    cabe_memory_fail_at(1);
    assert_int_equal(cabe_slots_open(&slots, 1, &err), CABE_ERR_OOM);
    cabe_memory_fail_at(0);
    assert_null(slots);
}

/* A name that does not fit is cut between characters; many holders do not overrun the message. */
static void long_names(void **state)
{
    struct cabe_slots *slots;
    struct cabe_slots_state now;
    struct cabe_error err;
    char name[200];
    int slot[CABE_SLOTS_MAX], more;

    (void)state;
    for (size_t i = 0; i + 2 < sizeof name; i += 2)
        memcpy(name + i, "\xc3\xa9", 3);
    assert_int_equal(cabe_slots_open(&slots, CABE_SLOTS_MAX, NULL), CABE_OK);
    for (int i = 0; i < CABE_SLOTS_MAX; i++)
        assert_int_equal(cabe_slots_acquire(slots, name, CABE_CLASS_LOW, 0, NULL, &slot[i], NULL), CABE_OK);
    assert_int_equal(cabe_slots_acquire(slots, name, CABE_CLASS_LOW, 0, NULL, &more, &err), CABE_ERR_BUSY);
    cabe_slots_state(slots, &now);
    assert_int_equal(strlen(now.holder[5].name), CABE_SLOT_NAME_MAX - 2);
    for (int i = 0; i < CABE_SLOTS_MAX; i++)
        cabe_slots_release(slots, slot[i]);
    cabe_slots_close(slots);
}

struct waiting {
    struct cabe_slots *slots;
    enum cabe_class class_;
    int number;
    struct cabe_cancel *cancel;
    int *order;
    atomic_int *n;
    enum cabe_status status;
};

static void *wait_main(void *arg)
{
    struct waiting *w = arg;
    int slot;

    w->status = cabe_slots_acquire(w->slots, "waiter", w->class_, -1, w->cancel, &slot, NULL);
    if (w->status == CABE_OK)
        w->order[atomic_fetch_add(w->n, 1)] = w->number;
    cabe_slots_release(w->slots, slot);
    return NULL;
}

static int n_waiting(struct cabe_slots *slots)
{
    struct cabe_slots_state now;
    int n = 0;

    cabe_slots_state(slots, &now);
    for (int c = 0; c < CABE_N_CLASSES; c++)
        n += now.n_waiting[c];
    return n;
}

static void by_class_then_in_order(void **state)
{
    enum { N = 6 };
    static const enum cabe_class classes[N] = {CABE_CLASS_NORMAL,   CABE_CLASS_NORMAL, CABE_CLASS_LOW,
                                               CABE_CLASS_CRITICAL, CABE_CLASS_NORMAL, CABE_CLASS_CRITICAL};
    static const int wanted[N - 1] = {3, 5, 0, 1, 2};
    struct cabe_cancel cancel = {0};
    struct waiting w[N];
    pthread_t threads[N];
    struct cabe_slots *slots;
    int order[N], held, place[N] = {0};
    atomic_int n = 0;

    (void)state;
    assert_int_equal(cabe_slots_open(&slots, 1, NULL), CABE_OK);
    assert_int_equal(cabe_slots_acquire(slots, "holder", CABE_CLASS_LOW, 0, NULL, &held, NULL), CABE_OK);
    for (int i = 0; i < N; i++) {
        w[i] = (struct waiting){slots, classes[i], i, i == 4 ? &cancel : NULL, order, &n, CABE_ERR_INTERNAL};
        assert_int_equal(pthread_create(&threads[i], NULL, wait_main, &w[i]), 0);
        while (n_waiting(slots) < i + 1)
            usleep(100);
    }
    atomic_store(&cancel.wanted, 1);
    while (n_waiting(slots) == N)
        usleep(100);
    cabe_slots_release(slots, held);
    for (int i = 0; i < N; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(w[4].status, CABE_ERR_CANCELLED);
    assert_int_equal(atomic_load(&n), N - 1);
    for (int i = 0; i < N - 1; i++)
        place[order[i]] = i;
    assert_true(place[3] < place[5]); /* in order within a class */
    assert_true(place[0] < place[1]);
    assert_int_equal(order[0], wanted[0]); /* the most important first */
    assert_true(place[5] < place[1] && place[5] < place[2]);
    cabe_slots_close(slots);
}

struct crowd {
    struct cabe_slots *slots;
    atomic_int inside, most, n_done, n_refused;
};

static enum cabe_status work(void *arg, struct cabe_error *err)
{
    struct crowd *crowd = arg;
    int now = atomic_fetch_add(&crowd->inside, 1) + 1, most = atomic_load(&crowd->most);

    while (now > most && !atomic_compare_exchange_weak(&crowd->most, &most, now))
        ;
    usleep(100);
    atomic_fetch_sub(&crowd->inside, 1);
    return atomic_fetch_add(&crowd->n_done, 1) % 3 ? CABE_OK : cabe_fail(err, CABE_ERR_INTERNAL, "it went wrong");
}

static void *crowd_main(void *arg)
{
    struct crowd *crowd = arg;

    for (int i = 0; i < 100; i++) {
        enum cabe_status status = cabe_slots_run(crowd->slots, "crowd", (enum cabe_class)(i % CABE_N_CLASSES),
                                                 i % 7 ? 0.002 : -1, NULL, work, crowd, NULL);

        if (status == CABE_ERR_BUSY)
            atomic_fetch_add(&crowd->n_refused, 1);
    }
    return NULL;
}

/* Never more than there are slots, and all come back whatever the work returned. */
static void a_crowd(void **state)
{
    struct crowd crowd = {0};
    struct cabe_slots_state now;
    pthread_t threads[8];

    (void)state;
    assert_int_equal(cabe_slots_open(&crowd.slots, 3, NULL), CABE_OK);
    for (int i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, crowd_main, &crowd), 0);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    assert_true(atomic_load(&crowd.most) <= 3);
    assert_int_equal(atomic_load(&crowd.n_done) + atomic_load(&crowd.n_refused), 800);
    cabe_slots_state(crowd.slots, &now);
    assert_int_equal(now.n_held, 0);
    assert_int_equal(now.n_acquired, atomic_load(&crowd.n_done));
    assert_int_equal(now.n_timed_out, atomic_load(&crowd.n_refused));
    cabe_slots_close(crowd.slots);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_error_names_who_holds), cmocka_unit_test(arguments_and_memory),
        cmocka_unit_test(long_names),                cmocka_unit_test(by_class_then_in_order),
        cmocka_unit_test(a_crowd),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
