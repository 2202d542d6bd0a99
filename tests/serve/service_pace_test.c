/* When a request that waits may be taken: how the delay under pressure spaces work out, and whom it leaves alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "serve/service_impl.h"

#define SECOND UINT64_C(1000000000)
#define ENTERED (1000 * SECOND)

static struct cabe_service service;
static struct cabe_service_entry entry;
static struct cabe_service_ticket ticket;

static void press(int seconds)
{
    for (int i = 0; i < seconds; i++)
        cabe_pace_update(&service.pace, i, 95, 10);
}

static void wait_since(enum cabe_class class_)
{
    entry = (struct cabe_service_entry){.service = &service};
    ticket = (struct cabe_service_ticket){.embeds = 1};
    cabe_queue_init(&entry.queue, &(struct cabe_queue_config){0});
    assert_int_equal(cabe_queue_push(&entry.queue, &ticket.item, class_, 1, ENTERED, NULL), CABE_OK);
}

/* Seconds after ENTERED at which it may be taken; 0: at once. */
static double due_after(uint64_t now_ns)
{
    uint64_t next_ns;

    return cabe_host_next(&entry, now_ns, &next_ns) ? 0 : (double)(next_ns - ENTERED) / (double)SECOND;
}

static void test_calm(void **state)
{
    (void)state;
    cabe_pace_init(&service.pace, NULL);
    wait_since(CABE_CLASS_LOW);
    entry.view.n_running = 1;
    assert_true(due_after(ENTERED) == 0);
}

static void test_spaced_out(void **state)
{
    static const struct {
        enum cabe_class class_;
        double s;
    } cases[] = {{CABE_CLASS_CRITICAL, 0}, {CABE_CLASS_HIGH, 1.25}, {CABE_CLASS_NORMAL, 5}, {CABE_CLASS_LOW, 10}};

    (void)state;
    cabe_pace_init(&service.pace, NULL);
    press(30);
    for (int i = 0; i < 4; i++) {
        wait_since(cases[i].class_);
        entry.view.n_running = 1;
        entry.idle_since_ns = ENTERED - 100 * SECOND; /* it runs: of no account */
        assert_true(due_after(ENTERED) == cases[i].s);
        if (cases[i].s > 0)
            assert_true(due_after(ENTERED + SECOND) == cases[i].s);
        assert_true(due_after(ENTERED + (uint64_t)(cases[i].s * 1e9)) == 0);
    }
}

static void test_rested(void **state)
{
    (void)state;
    cabe_pace_init(&service.pace, NULL);
    press(30);
    wait_since(CABE_CLASS_NORMAL); /* nothing ever ran */
    assert_true(due_after(ENTERED) == 0);
    entry.idle_since_ns = ENTERED - 2 * SECOND;
    assert_true(due_after(ENTERED) == 3);
    entry.idle_since_ns = ENTERED - 60 * SECOND;
    assert_true(due_after(ENTERED) == 0);
    entry.idle_since_ns = ENTERED + SECOND; /* what ran ended after it came */
    assert_true(due_after(ENTERED + 2 * SECOND) == 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calm),
        cmocka_unit_test(test_spaced_out),
        cmocka_unit_test(test_rested),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
