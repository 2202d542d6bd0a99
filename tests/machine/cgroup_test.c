/* Limits of control groups, as trees: v1, v2, both, nested, in containers, broken. */
#include "machine/cgroup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "machine/probe.h"
#include "machine_tree.h"

#define MB (1024ull * 1024)
#define V1_NONE UINT64_C(9223372036854771712)

static struct cabe_machine probe(void)
{
    struct cabe_probe_config config = {.root = tree_root};
    struct cabe_machine machine;

    assert_int_equal(cabe_machine_probe(&machine, &config, NULL), CABE_OK);
    return machine;
}

static void new_host(void)
{
    tree_new();
    tree_cpus(16, 2);
    tree_memory(65536, 60000);
}

static void mount_v2(const char *base)
{
    tree_put("/proc/self/mountinfo",
             "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:26 %s /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 "
             "cgroup2 "
             "rw,nsdelegate\n",
             base);
    tree_put("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n");
}

static void put_u64(const char *path, uint64_t value)
{
    tree_put(path, "%llu\n", (unsigned long long)value);
}

static void test_v2_nested(void **state)
{
    struct cabe_machine machine;

    (void)state;
    new_host();
    mount_v2("/");
    tree_put("/proc/self/cgroup", "0::/a.slice/b.service/c\n");
    tree_put("/sys/fs/cgroup/a.slice/memory.max", "%llu\n", 8192 * MB);
    tree_put("/sys/fs/cgroup/a.slice/memory.current", "%llu\n", 2048 * MB);
    tree_put("/sys/fs/cgroup/a.slice/memory.stat",
             "anon 1\ninactive_file %llu\nactive_file %llu\n"
             "slab_reclaimable %llu\n",
             512 * MB, 256 * MB, 256 * MB);
    tree_put("/sys/fs/cgroup/a.slice/b.service/memory.max", "%llu\n", 2048 * MB);
    tree_put("/sys/fs/cgroup/a.slice/b.service/memory.current", "%llu\n", 100 * MB);
    tree_put("/sys/fs/cgroup/a.slice/b.service/c/memory.max", "max\n");
    tree_put("/sys/fs/cgroup/a.slice/b.service/c/memory.current", "%llu\n", 50 * MB);
    machine = probe();
    assert_int_equal(machine.memory.limit_bytes, 2048 * MB);
    assert_string_equal(machine.memory.limited_by, "/sys/fs/cgroup/a.slice/b.service/memory.max");
    assert_int_equal(machine.memory.available_bytes, 1948 * MB);

    /* The outer group is larger but nearly full: what is available is bound by it. */
    put_u64("/sys/fs/cgroup/a.slice/memory.current", 8000 * MB);
    machine = probe();
    assert_int_equal(machine.memory.limit_bytes, 2048 * MB);
    assert_int_equal(machine.memory.available_bytes, (8192 - 8000 + 1024) * MB);
    assert_int_equal(machine.memory.reclaimable_bytes, 1024 * MB);
    assert_string_equal(machine.memory.available_by, "/sys/fs/cgroup/a.slice/memory.max");
}

static void test_v2_high_and_over_the_limit(void **state)
{
    struct cabe_machine machine;

    (void)state;
    new_host();
    mount_v2("/");
    tree_put("/proc/self/cgroup", "0::/a\n");
    put_u64("/sys/fs/cgroup/a/memory.max", 4096 * MB);
    put_u64("/sys/fs/cgroup/a/memory.high", 3072 * MB);
    put_u64("/sys/fs/cgroup/a/memory.current", 3500 * MB);
    machine = probe();
    assert_int_equal(machine.memory.limit_bytes, 3072 * MB);
    assert_int_equal(machine.memory.available_bytes, 0);
    assert_true(machine.memory.percent_used == 100);
    assert_int_equal(cabe_machine_budget(&machine, NULL), 0);
}

/* A limit above the host's memory, "max", garbage, zero or nothing: the host is the limit. */
static void test_no_limits(void **state)
{
    static const char *const values[] = {"max\n",
                                         "",
                                         "lots\n",
                                         "0\n",
                                         "-1\n",
                                         "9223372036854771712\n",
                                         "99999999999999999999999\n",
                                         "12 34\n",
                                         "18446744073709551615\n"};

    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        struct cabe_machine machine;

        new_host();
        mount_v2("/");
        tree_put("/proc/self/cgroup", "0::/a\n");
        tree_put("/sys/fs/cgroup/a/memory.max", "%s", values[i]);
        put_u64("/sys/fs/cgroup/a/memory.current", 100 * MB);
        machine = probe();
        assert_int_equal(machine.memory.limit_bytes, 65536 * MB);
        assert_int_equal(machine.memory.available_bytes, 60000 * MB);
        assert_string_equal(machine.memory.limited_by, "");
    }
}

/* A container with its own cgroup namespace sees its group as "/" and mounts it as the root. */
static void test_v2_container(void **state)
{
    struct cabe_machine machine;

    (void)state;
    new_host();
    mount_v2("/");
    tree_put("/proc/self/cgroup", "0::/\n");
    put_u64("/sys/fs/cgroup/memory.max", 1024 * MB);
    put_u64("/sys/fs/cgroup/memory.current", 24 * MB);
    tree_put("/sys/fs/cgroup/cpu.max", "150000 100000\n");
    tree_put("/sys/fs/cgroup/memory.pressure", "some avg10=7.00 avg60=0 avg300=0 total=0\n");
    machine = probe();
    assert_int_equal(machine.memory.limit_bytes, 1024 * MB);
    assert_int_equal(machine.memory.available_bytes, 1000 * MB);
    assert_true(machine.cpu.quota_cpus == 1.5);
    assert_int_equal(machine.cpu.n_usable, 2);
    assert_true(machine.memory.psi_some_avg10 == 7);
}

/* Without a namespace the path is the host's, and is not there: the root of the mount is the group. */
static void test_path_not_visible(void **state)
{
    struct cabe_machine machine;

    (void)state;
    new_host();
    mount_v2("/");
    tree_put("/proc/self/cgroup", "0::/docker/0123456789abcdef\n");
    put_u64("/sys/fs/cgroup/memory.max", 1024 * MB);
    machine = probe();
    assert_int_equal(machine.memory.limit_bytes, 1024 * MB);

    new_host();
    mount_v2("/docker/0123456789abcdef");
    tree_put("/proc/self/cgroup", "0::/docker/0123456789abcdef/inner\n");
    put_u64("/sys/fs/cgroup/memory.max", 1024 * MB);
    put_u64("/sys/fs/cgroup/inner/memory.max", 512 * MB);
    machine = probe();
    assert_int_equal(machine.memory.limit_bytes, 512 * MB);

    new_host();
    mount_v2("/docker/one");
    tree_put("/proc/self/cgroup", "0::/docker/one-and-more\n"); /* a prefix in letters, not in folders */
    put_u64("/sys/fs/cgroup/memory.max", 1024 * MB);
    put_u64("/sys/fs/cgroup/-and-more/memory.max", 1 * MB);
    machine = probe();
    assert_int_equal(machine.memory.limit_bytes, 1024 * MB);

    new_host();
    mount_v2("/");
    tree_put("/proc/self/cgroup", "0::/../../elsewhere\n");
    put_u64("/sys/fs/cgroup/memory.max", 1024 * MB);
    machine = probe();
    assert_int_equal(machine.memory.limit_bytes, 1024 * MB);
}

static void test_v1(void **state)
{
    struct cabe_machine machine;

    (void)state;
    new_host();
    tree_put("/proc/self/mountinfo",
             "40 22 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
             "41 22 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
             "42 22 0:32 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
             "43 22 0:33 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,name=systemd\n");
    tree_put("/proc/self/cgroup", "12:cpu,cpuacct:/x\n11:memory:/x/y\n10:cpuset:/x\n1:name=systemd:/z\n");
    put_u64("/sys/fs/cgroup/memory/memory.limit_in_bytes", V1_NONE);
    put_u64("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", 3000 * MB);
    put_u64("/sys/fs/cgroup/memory/x/memory.usage_in_bytes", 1000 * MB);
    tree_put("/sys/fs/cgroup/memory/x/memory.stat",
             "cache 1\ninactive_file 5\nactive_file 5\ntotal_inactive_file %llu\ntotal_active_file %llu\n",
             300 * MB, 200 * MB);
    put_u64("/sys/fs/cgroup/memory/x/y/memory.limit_in_bytes", V1_NONE);
    put_u64("/sys/fs/cgroup/memory/x/y/memory.usage_in_bytes", 10 * MB);
    tree_put("/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us", "300000\n");
    tree_put("/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us", "100000\n");
    tree_put("/sys/fs/cgroup/cpuset/x/cpuset.cpus", "0-9\n");
    tree_put("/sys/fs/cgroup/cpuset/x/cpuset.effective_cpus", "0-7\n");
    machine = probe();
    assert_int_equal(machine.memory.limit_bytes, 3000 * MB);
    assert_int_equal(machine.memory.available_bytes, 2500 * MB);
    assert_int_equal(machine.cpu.n_usable_logical, 8);
    assert_int_equal(machine.cpu.n_usable_physical, 4);
    assert_int_equal(machine.cpu.n_usable, 3);
    assert_true(machine.cpu.quota_cpus == 3);

    tree_put("/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us", "-1\n");
    machine = probe();
    assert_int_equal(machine.cpu.n_usable, 4);
    assert_true(machine.cpu.quota_cpus == 0);
}

/* In a v1 container the limits above are not visible as files, but memory.stat tells the smallest. */
static void test_v1_hidden_ancestors(void **state)
{
    struct cabe_machine machine;

    (void)state;
    new_host();
    tree_put("/proc/self/cgroup", "4:memory:/kubepods/pod1/c1\n");
    put_u64("/sys/fs/cgroup/memory/memory.limit_in_bytes", V1_NONE); /* mountinfo missing: the usual place */
    put_u64("/sys/fs/cgroup/memory/memory.usage_in_bytes", 100 * MB);
    tree_put("/sys/fs/cgroup/memory/memory.stat", "hierarchical_memory_limit %llu\ntotal_inactive_file 0\n",
             1500 * MB);
    machine = probe();
    assert_int_equal(machine.memory.limit_bytes, 1500 * MB);
    assert_int_equal(machine.memory.available_bytes, 1400 * MB);
}

/* Both at once: the v2 tree is there but has no memory controller, or both bind and the smaller counts. */
static void test_hybrid(void **state)
{
    struct cabe_machine machine;

    (void)state;
    new_host();
    tree_put("/proc/self/mountinfo", "41 22 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
                                     "42 22 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    tree_put("/proc/self/cgroup", "4:memory:/m\n0::/u\n");
    put_u64("/sys/fs/cgroup/memory/m/memory.limit_in_bytes", 2000 * MB);
    tree_put("/sys/fs/cgroup/unified/u/cpu.max", "50000 100000\n");
    machine = probe();
    assert_int_equal(machine.memory.limit_bytes, 2000 * MB);
    assert_true(machine.cpu.quota_cpus == 0.5);
    assert_int_equal(machine.cpu.n_usable, 1);
    put_u64("/sys/fs/cgroup/unified/u/memory.max", 1000 * MB);
    machine = probe();
    assert_int_equal(machine.memory.limit_bytes, 1000 * MB);
    put_u64("/sys/fs/cgroup/memory/memory.limit_in_bytes", 500 * MB);
    machine = probe();
    assert_int_equal(machine.memory.limit_bytes, 500 * MB);
}

/* A quota of an outer group, and the set of CPUs of the nearest group that tells one. */
static void test_v2_cpu_nested(void **state)
{
    struct cabe_machine machine;

    (void)state;
    new_host();
    mount_v2("/");
    tree_put("/proc/self/cgroup", "0::/a/b\n");
    tree_put("/sys/fs/cgroup/a/cpu.max", "400000 100000\n");
    tree_put("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    tree_put("/sys/fs/cgroup/a/cpuset.cpus.effective", "0-13\n");
    tree_put("/sys/fs/cgroup/a/b/cpuset.cpus", "\n");
    machine = probe();
    assert_int_equal(machine.cpu.n_usable_physical, 7);
    assert_int_equal(machine.cpu.n_usable, 4);

    tree_put("/proc/self/status", "Cpus_allowed_list:\t4-5\n");
    machine = probe();
    assert_int_equal(machine.cpu.n_usable_logical, 2);
    assert_int_equal(machine.cpu.n_usable, 1);
}

/* Blanks in paths, and many mounts before the one that counts. */
static void test_mountinfo_escapes(void **state)
{
    static char text[40000];
    struct cabe_machine machine;
    size_t n = 0;

    (void)state;
    new_host();
    n += (size_t)snprintf(text, sizeof text, "1 1 0:1 / / rw - overlay overlay lowerdir=");
    memset(text + n, 'x', 20000); /* a line that no buffer holds */
    n += 20000;
    n += (size_t)snprintf(text + n, sizeof text - n, "\n");
    for (int i = 0; i < 200; i++)
        n +=
            (size_t)snprintf(text + n, sizeof text - n, "%d 1 0:%d / /mnt/%d rw - tmpfs tmpfs rw\n", i, i, i);
    n += (size_t)snprintf(text + n, sizeof text - n, "9 1 0:9 / /my\\040groups rw - cgroup2 cgroup2 rw\n");
    tree_bytes("/proc/self/mountinfo", text, n);
    tree_put("/proc/self/cgroup", "0::/a\n");
    put_u64("/my groups/a/memory.max", 700 * MB);
    machine = probe();
    assert_int_equal(machine.memory.limit_bytes, 700 * MB);
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
        cmocka_unit_test(test_v2_nested),           cmocka_unit_test(test_v2_high_and_over_the_limit),
        cmocka_unit_test(test_no_limits),           cmocka_unit_test(test_v2_container),
        cmocka_unit_test(test_path_not_visible),    cmocka_unit_test(test_v1),
        cmocka_unit_test(test_v1_hidden_ancestors), cmocka_unit_test(test_hybrid),
        cmocka_unit_test(test_v2_cpu_nested),       cmocka_unit_test(test_mountinfo_escapes),
    };

    return cmocka_run_group_tests(tests, NULL, drop);
}
