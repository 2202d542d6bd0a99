/* The adaptive delay, with a clock of its own. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/pace.h"

static void doubles_and_shrinks(void **state)
{
    struct cabe_pace pace;
    double now = 100, delay = 0, steps[] = {0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5};
    size_t at = 0;

    (void)state;
    cabe_pace_init(&pace, NULL);
    for (; now < 102; now += 1)
        assert_true(cabe_pace_update(&pace, now, 95, 10) == 0);
    for (; at < sizeof steps / sizeof steps[0]; at++, now += 1) {
        delay = cabe_pace_update(&pace, now, 95, 10);
        assert_true(fabs(delay - steps[at]) < 1e-9);
    }
    assert_true(pace.pressed && cabe_pace_sheds(&pace, CABE_CLASS_LOW) && !cabe_pace_sheds(&pace, CABE_CLASS_NORMAL));
    assert_true(cabe_pace_delay(&pace, CABE_CLASS_CRITICAL) == 0);
    assert_true(cabe_pace_delay(&pace, CABE_CLASS_LOW) > cabe_pace_delay(&pace, CABE_CLASS_NORMAL));
    /* Between the marks: shrinks, stays pressed, and at the base it stays. */
    for (int i = 0; i < 100; i++, now += 1) {
        double next = cabe_pace_update(&pace, now, 75, 10);

        assert_true(fabs(next - delay * (i ? 0.9 * 0.9 * 0.9 * 0.9 : 0.9)) < 1e-9 || next == 0.1);
        delay = next;
    }
    assert_true(pace.pressed && delay == 0.1);
    for (int i = 0; i < 20; i++, now += 1)
        delay = cabe_pace_update(&pace, now, 20, 10);
    assert_true(!pace.pressed && delay == 0);
    assert_int_equal(pace.n_changes, 2);
}

static void memory_counts_too_and_the_unknown_does_not(void **state)
{
    struct cabe_pace pace;

    (void)state;
    cabe_pace_init(&pace, NULL);
    for (int i = 0; i < 10; i++)
        assert_true(cabe_pace_update(&pace, i, -1, -1) == 0);
    for (int i = 10; i < 20; i++)
        cabe_pace_update(&pace, i, -1, 86);
    assert_true(pace.pressed);
}

/* A reading now and then, or after a long pause of the caller, does what one each second does. */
static void seldom_readings(void **state)
{
    struct cabe_pace pace;

    (void)state;
    cabe_pace_init(&pace, NULL);
    cabe_pace_update(&pace, 0, 95, 0);
    assert_true(cabe_pace_update(&pace, 1e6, 95, 0) == 0.1);
    assert_true(cabe_pace_update(&pace, 2e6, 95, 0) == 5);
    assert_true(cabe_pace_update(&pace, 3e6, 10, 0) == 0.1 && pace.pressed);
    assert_true(cabe_pace_update(&pace, 4e6, 10, 0) == 0 && !pace.pressed);
}

/*
 * Ten minutes of a load that comes and goes, for all periods: the state changes at most twice a period, never sooner than
 * a while after the last time, not at all when the period is short; and the delay never jumps.
 */
static void a_square_wave(void **state)
{
    (void)state;
    for (double period = 1; period <= 300; period *= 1.3) {
        for (int duty = 1; duty <= 9; duty++) {
            struct cabe_pace pace;
            double last_change = -1e9, before = 0;
            uint64_t n_changes = 0;

            cabe_pace_init(&pace, NULL);
            for (double now = 0; now < 600; now += 0.5) {
                int high = fmod(now, period) < period * duty / 10;
                double delay = cabe_pace_update(&pace, now, high ? 99 : 5, 40);

                assert_true(delay <= 5 && delay >= 0);
                if (before > 0 && delay > 0)
                    assert_true(delay <= before * 2.0001 && delay >= before * 0.9 * 0.9 * 0.9 - 1e-9);
                before = delay;
                if (pace.n_changes == n_changes)
                    continue;
                n_changes = pace.n_changes;
                assert_true(now - last_change >= (pace.pressed ? 2 : 15));
                last_change = now;
            }
            if (period <= 15 && n_changes > 1)
                fail_msg("period %.1f s, %d0 %% of it high: %d changes", period, duty, (int)n_changes);
            assert_true((double)n_changes <= 2 * 600 / period + 2 && n_changes <= 600 / 17 * 2);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(doubles_and_shrinks),
        cmocka_unit_test(memory_counts_too_and_the_unknown_does_not),
        cmocka_unit_test(seldom_readings),
        cmocka_unit_test(a_square_wave),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
