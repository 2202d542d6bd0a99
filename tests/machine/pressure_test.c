#include "machine/pressure.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "machine_tree.h"

#define MB (1024ull * 1024)

static void put_ticks(unsigned user, unsigned idle, unsigned own)
{
    tree_put("/proc/stat", "cpu  %u 0 0 %u 0 0 0 0 0 0\ncpu0 1 2 3\n", user, idle);
    tree_put("/proc/self/stat",
             "77 (a name) with) blanks) S 1 77 77 0 -1 4 1 0 0 0 %u 0 0 0 20 0 1 0 5 6 7\n", own);
}

static struct cabe_pressure read_now(struct cabe_pressure_meter *meter, uint64_t bytes, int threads)
{
    struct cabe_pressure_config config = {.root = tree_root};
    struct cabe_planned planned = {.bytes = bytes, .threads = threads};
    struct cabe_pressure pressure;

    cabe_pressure_read(&pressure, meter, &planned, &config);
    return pressure;
}

/* Four CPUs, all busy: 80 ticks of 100 are this process's. */
static void test_cpu(void **state)
{
    struct cabe_pressure_meter meter = {0};
    struct cabe_pressure pressure;

    (void)state;
    tree_new();
    tree_cpus(4, 1);
    put_ticks(1000, 1000, 500);
    pressure = read_now(&meter, 0, 4);
    assert_true(pressure.cpu_percent < 0);
    assert_false(pressure.cpu_high);

    put_ticks(1100, 1000, 580);
    pressure = read_now(&meter, 0, 4);
    assert_true(pressure.cpu_raw_percent == 100);
    assert_true(pressure.cpu_percent == 20); /* what cabe planned is no pressure */
    assert_false(pressure.cpu_high);

    put_ticks(1200, 1000, 660);
    pressure = read_now(&meter, 0, 1); /* one thread planned, so a quarter of the time is: the rest counts */
    assert_true(pressure.cpu_percent == 75);

    put_ticks(1300, 1000, 660);
    pressure = read_now(&meter, 0, 4); /* all of it others' */
    assert_true(pressure.cpu_percent == 100);
    assert_true(pressure.cpu_high);

    put_ticks(1200, 900, 660); /* counters that went back: no reading */
    pressure = read_now(&meter, 0, 4);
    assert_true(pressure.cpu_percent < 0);
}

static void test_memory(void **state)
{
    struct cabe_pressure_meter meter = {0};
    struct cabe_pressure pressure;

    (void)state;
    tree_new();
    tree_memory(10000, 1000);
    pressure = read_now(&meter, 0, 0);
    assert_true(pressure.memory_percent > 89.9 && pressure.memory_percent < 90.1);
    assert_true(pressure.memory_high);
    assert_int_equal(pressure.available_bytes, 1000 * MB);

    tree_put("/proc/self/status", "VmRSS:\t9 kB\nRssAnon:\t%llu kB\nRssFile:\t99999999 kB\nRssShmem:\t0 kB\n",
             5000ull << 10);
    pressure = read_now(&meter, 8000 * MB, 0); /* 5000 MB of what was planned are there */
    assert_true(pressure.memory_percent > 39.9 && pressure.memory_percent < 40.1);
    assert_true(pressure.memory_raw_percent > 89.9);
    assert_false(pressure.memory_high);
    pressure = read_now(&meter, 100 * MB, 0); /* more than planned: only the plan is forgiven */
    assert_true(pressure.memory_percent > 88.9 && pressure.memory_percent < 89.1);
    assert_true(pressure.memory_high);
}

static void test_stalls(void **state)
{
    struct cabe_pressure_meter meter = {0};
    struct cabe_pressure pressure;

    (void)state;
    tree_new();
    tree_memory(10000, 9000);
    tree_put("/proc/pressure/memory", "some avg10=19.00 avg60=0 avg300=0 total=0\n");
    assert_false(read_now(&meter, 0, 0).memory_high);
    tree_put("/proc/pressure/memory", "some avg10=21.00 avg60=0 avg300=0 total=0\n");
    pressure = read_now(&meter, 0, 0);
    assert_true(pressure.memory_high);
    assert_true(pressure.psi_some_avg10 == 21);
}

static void test_nothing_to_read(void **state)
{
    struct cabe_pressure_meter meter = {0};
    struct cabe_pressure pressure;
    uint64_t before = cabe_memory_count();

    (void)state;
    tree_new();
    for (int i = 0; i < 2; i++) {
        pressure = read_now(&meter, UINT64_MAX, 1 << 30);
        assert_false(pressure.cpu_high);
        assert_false(pressure.memory_high);
        assert_true(pressure.cpu_percent < 0);
    }
    tree_put("/proc/self/stat", "1 (x");
    tree_put("/proc/stat", "cpu  \n");
    read_now(&meter, 0, 0);
    cabe_pressure_read(&pressure, &meter, NULL, NULL); /* this machine */
    assert_true(pressure.limit_bytes > 0);
    assert_int_equal(cabe_memory_count(), before);
}

static int drop(void **state)
{
    (void)state;
    tree_drop();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_stalls),
        cmocka_unit_test(test_nothing_to_read),
    };

    return cmocka_run_group_tests(tests, NULL, drop);
}
