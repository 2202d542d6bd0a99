#include "machine/probe.h"
#include "machine/sysfile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "machine_tree.h"

static struct cabe_machine probe(void)
{
    struct cabe_probe_config config = {.root = tree_root};
    struct cabe_machine machine;

    assert_int_equal(cabe_machine_probe(&machine, &config, NULL), CABE_OK);
    return machine;
}

static void test_nothing_there(void **state)
{
    struct cabe_machine machine;

    (void)state;
    tree_new();
    machine = probe();
    assert_int_equal(machine.cpu.n_logical, 1);
    assert_int_equal(machine.cpu.n_physical, 1);
    assert_int_equal(machine.cpu.n_usable, 1);
    assert_true(machine.cpu.cores_assumed);
    assert_true(machine.memory.total_assumed);
    assert_int_equal(machine.memory.total_bytes, 4096 * CABE_MB);
    assert_int_equal(machine.memory.limit_bytes, 4096 * CABE_MB);
    assert_true(machine.memory.psi_some_avg10 < 0);
    assert_true(machine.cpu.load_1m < 0);
    assert_int_equal(machine.n_gpus, 0);
    assert_int_equal(cabe_machine_tier(&machine, NULL), CABE_TIER_LOW);
}

static void test_hyperthreads(void **state)
{
    struct cabe_machine machine;

    (void)state;
    tree_new();
    tree_cpus(16, 2);
    tree_memory(32768, 30000);
    tree_put("/proc/loadavg", "1.25 0.5 0.1 1/100 4242\n");
    machine = probe();
    assert_int_equal(machine.cpu.n_logical, 16);
    assert_int_equal(machine.cpu.n_physical, 8);
    assert_int_equal(machine.cpu.n_usable, 8);
    assert_false(machine.cpu.cores_assumed);
    assert_string_equal(machine.cpu.model, "Test CPU @ 3.00GHz");
    assert_string_equal(cabe_simd_level(machine.cpu.simd), "avx512vnni");
    assert_true(machine.cpu.load_1m == 1.25);
    assert_int_equal(machine.memory.available_bytes, 30000 * CABE_MB);
    assert_int_equal(machine.memory.limited_by[0], 0);
    assert_int_equal(machine.limits.origin, CABE_ORIGIN_ESTIMATED);
    assert_true(machine.limits.all_ops_s[CABE_ARITH_INT8] > machine.limits.all_ops_s[CABE_ARITH_F32]);
}

/* Siblings are often numbered far apart: 0 and 4 share a core. */
static void test_siblings_far_apart(void **state)
{
    char path[128];
    struct cabe_machine machine;

    (void)state;
    tree_new();
    tree_put("/sys/devices/system/cpu/online", "0-7\n");
    for (int i = 0; i < 8; i++) {
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", i);
        tree_put(path, "%d,%d\n", i % 4, i % 4 + 4);
    }
    tree_put("/proc/self/status", "Name:\tx\nCpus_allowed:\t31\nCpus_allowed_list:\t0,4-5\n");
    machine = probe();
    assert_int_equal(machine.cpu.n_physical, 4);
    assert_int_equal(machine.cpu.n_usable_logical, 3);
    assert_int_equal(machine.cpu.n_usable_physical, 2);
    assert_int_equal(machine.cpu.n_usable, 2);
}

static void test_offline_cpus(void **state)
{
    struct cabe_machine machine;

    (void)state;
    tree_new();
    tree_cpus(4, 1);
    tree_put("/sys/devices/system/cpu/online", "0,2\n");
    machine = probe();
    assert_int_equal(machine.cpu.n_logical, 2);
    assert_int_equal(machine.cpu.n_physical, 2);
}

/* Without topology: by /proc/cpuinfo's ratio, and without that half of the logical ones. */
static void test_no_topology(void **state)
{
    struct cabe_machine machine;

    (void)state;
    tree_new();
    tree_put("/sys/devices/system/cpu/online", "0-11\n");
    machine = probe();
    assert_int_equal(machine.cpu.n_logical, 12);
    assert_int_equal(machine.cpu.n_physical, 6);
    assert_true(machine.cpu.cores_assumed);

    tree_put("/proc/cpuinfo", "processor : 0\nsiblings\t: 12\ncpu cores\t: 12\n");
    machine = probe();
    assert_int_equal(machine.cpu.n_physical, 12);
    assert_false(machine.cpu.cores_assumed);

    tree_new();
    tree_put("/proc/cpuinfo", "processor : 0\n\nprocessor : 1\n\nprocessor : 2\n\nprocessor : 3\n");
    machine = probe();
    assert_int_equal(machine.cpu.n_logical, 4);
    assert_int_equal(machine.cpu.n_physical, 2);
}

static void test_arm(void **state)
{
    struct cabe_machine machine;

    (void)state;
    tree_new();
    tree_put("/proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp i8mm bf16\n"
                              "CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n\nprocessor\t: 1\n");
    machine = probe();
    assert_string_equal(machine.cpu.vendor, "arm 0x41");
    assert_string_equal(machine.cpu.model, "part 0xd0c");
    assert_string_equal(cabe_simd_level(machine.cpu.simd), "neon");
    assert_true(machine.cpu.simd & CABE_SIMD_BIT(CABE_SIMD_I8MM));
    assert_true(machine.limits.all_ops_s[CABE_ARITH_F16] > 0);
}

/* AVX-512 without one of its four parts is not the level, nor are the extensions on top. */
static void test_partial_avx512(void **state)
{
    struct cabe_machine machine;

    (void)state;
    tree_new();
    tree_put("/proc/cpuinfo",
             "processor : 0\nflags : avx avx2 fma f16c avx512f avx512dq avx512vl avx512_vnni\n");
    machine = probe();
    assert_string_equal(cabe_simd_level(machine.cpu.simd), "avx2");
    assert_false(machine.cpu.simd & CABE_SIMD_BIT(CABE_SIMD_AVX512VNNI));
}

static void test_caches(void **state)
{
    struct cabe_machine machine;

    (void)state;
    tree_new();
    tree_cpus(8, 1);
    for (int i = 0; i < 4; i++) {
        static const char *const level[] = {"1", "1", "2", "3"};
        static const char *const type[] = {"Data", "Instruction", "Unified", "Unified"};
        static const char *const size[] = {"48K", "32K", "2M", "32768K"};
        char path[128];

        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", i);
        tree_put(path, "%s\n", level[i]);
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/type", i);
        tree_put(path, "%s\n", type[i]);
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        tree_put(path, "%s\n", size[i]);
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/shared_cpu_list", i);
        tree_put(path, "0-3\n");
    }
    machine = probe();
    assert_int_equal(machine.cpu.l1d_bytes, 48 << 10);
    assert_int_equal(machine.cpu.l2_bytes, 2 << 20);
    assert_int_equal(machine.cpu.l3_bytes, 32 << 20);
    assert_int_equal(machine.cpu.n_l3, 2);
}

static void test_weird_meminfo(void **state)
{
    struct cabe_machine machine;

    (void)state;
    tree_new();
    tree_put("/proc/meminfo",
             "MemTotal: 8388608 kB\nMemFree: 1048576 kB\nBuffers: 2048 kB\nCached: 2097152 kB\n"
             "Shmem: 1048576 kB\nSReclaimable: 4096 kB\n"); /* before MemAvailable was there */
    machine = probe();
    assert_int_equal(machine.memory.available_bytes, (1048576 + 1024 + 524288 + 2048) * UINT64_C(1024));

    tree_put("/proc/meminfo", "MemTotal: 1048576 kB\nMemAvailable: 99999999 kB\n");
    machine = probe();
    assert_int_equal(machine.memory.available_bytes, CABE_GB);
    assert_true(machine.memory.percent_used == 0);

    tree_put("/proc/meminfo", "MemTotal: 0 kB\nMemAvailable: lots\n");
    machine = probe();
    assert_true(machine.memory.total_assumed);

    tree_put("/proc/meminfo",
             "MemTotal: 99999999999999999999999 kB\nMemAvailable: 18446744073709551615 kB\n");
    machine = probe();
    assert_int_equal(machine.memory.limit_bytes, 4096 * CABE_MB);

    tree_put("/proc/meminfo", "MemTotal");
    machine = probe();
    assert_true(machine.memory.total_assumed);
}

static void test_pressure_stalls(void **state)
{
    struct cabe_machine machine;

    (void)state;
    tree_new();
    tree_put("/proc/pressure/memory", "some avg10=12.50 avg60=1.00 avg300=0.10 total=1\n"
                                      "full avg10=3.25 avg60=0.00 avg300=0.00 total=1\n");
    machine = probe();
    assert_true(machine.memory.psi_some_avg10 == 12.5);
    assert_true(machine.memory.psi_full_avg10 == 3.25);
    tree_put("/proc/pressure/memory", "some avg10=nan\nfull\n");
    machine = probe();
    assert_true(machine.memory.psi_some_avg10 < 0);
}

static void test_lists_of_cpus(void **state)
{
    static const char *const bad[] = {"", "x", "3-1", "1-", "0-99999", "1;2", "99999999999999999999"};
    struct cpuset set;

    (void)state;
    assert_true(cabe_cpuset_parse(&set, "0-3,8,10-11\n"));
    assert_int_equal(cabe_cpuset_count(&set), 7);
    assert_true(cabe_cpuset_has(&set, 8));
    assert_false(cabe_cpuset_has(&set, 9));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(cabe_cpuset_parse(&set, bad[i]));
    assert_int_equal(cabe_cpuset_first(&set), -1);
}

/* Bytes that are no text, in every file that is read. */
static void test_garbage(void **state)
{
    static const char *const files[] = {"/proc/cpuinfo",
                                        "/proc/meminfo",
                                        "/proc/self/cgroup",
                                        "/proc/self/mountinfo",
                                        "/proc/self/status",
                                        "/proc/loadavg",
                                        "/proc/pressure/memory",
                                        "/sys/devices/system/cpu/online",
                                        "/sys/devices/system/cpu/cpu0/topology/core_cpus_list",
                                        "/sys/devices/system/cpu/cpu0/cache/index0/level",
                                        "/sys/fs/cgroup/cgroup.controllers",
                                        "/sys/fs/cgroup/memory.max",
                                        "/sys/fs/cgroup/memory.stat",
                                        "/sys/fs/cgroup/cpu.max",
                                        "/sys/fs/cgroup/cpuset.cpus.effective",
                                        "/sys/class/drm/card0/device/vendor"};
    unsigned seed = 1;
    char noise[20000];

    (void)state;
    for (int round = 0; round < 20; round++) {
        tree_new();
        for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
            size_t n = (size_t)(rand_r(&seed) % (int)sizeof noise);

            for (size_t i = 0; i < n; i++)
                noise[i] = "0123456789 \n:-,/maxkB.\xff\x01"[rand_r(&seed) % 24];
            tree_bytes(files[f], noise, n);
        }
        {
            struct cabe_machine machine = probe();

            assert_true(machine.cpu.n_usable >= 1);
            assert_true(machine.memory.limit_bytes > 0);
            assert_true(machine.memory.available_bytes <= machine.memory.limit_bytes);
        }
    }
}

static void test_this_machine(void **state)
{
    struct cabe_probe_config config = {.limits = ""};
    struct cabe_machine machine, again;
    uint64_t n_allocations = cabe_memory_count();

    (void)state;
    assert_int_equal(cabe_machine_probe(&machine, &config, NULL), CABE_OK);
    assert_true(machine.cpu.n_usable >= 1 && machine.cpu.n_usable <= machine.cpu.n_logical);
    assert_true(machine.memory.available_bytes > 0 &&
                machine.memory.available_bytes <= machine.memory.limit_bytes);
    assert_true(machine.limits.all_ops_s[CABE_ARITH_F32] > 0);
    cabe_machine_refresh(&machine, NULL);
    assert_true(machine.memory.available_bytes > 0);

    /* It does without an allocation, so none can fail it. */
    cabe_memory_fail_at(1);
    assert_int_equal(cabe_machine_probe(&again, &config, NULL), CABE_OK);
    cabe_memory_fail_at(0);
    assert_int_equal(cabe_memory_count(), n_allocations);
    assert_string_equal(machine.cpu.model, again.cpu.model);
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
        cmocka_unit_test(test_nothing_there),      cmocka_unit_test(test_hyperthreads),
        cmocka_unit_test(test_siblings_far_apart), cmocka_unit_test(test_offline_cpus),
        cmocka_unit_test(test_no_topology),        cmocka_unit_test(test_arm),
        cmocka_unit_test(test_partial_avx512),     cmocka_unit_test(test_caches),
        cmocka_unit_test(test_weird_meminfo),      cmocka_unit_test(test_pressure_stalls),
        cmocka_unit_test(test_lists_of_cpus),      cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_this_machine),
    };

    return cmocka_run_group_tests(tests, NULL, drop);
}
