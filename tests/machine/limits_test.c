#include "machine/limits.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/threads.h"
#include "machine_tree.h"

static struct cabe_machine here(void)
{
    struct cabe_probe_config config = {.nvml = "", .limits = ""};
    struct cabe_machine machine;

    assert_int_equal(cabe_machine_probe(&machine, &config, NULL), CABE_OK);
    return machine;
}

static const struct cabe_measure_config quick = {.seconds = 0.01, .read_bytes = 4 << 20};

static void test_measure_and_keep(void **state)
{
    struct cabe_machine machine = here(), again = here();
    struct cabe_probe_config config = {.nvml = ""};
    char path[CABE_HOME_PATH_MAX];
    struct cabe_error err = {0};
    struct stat info;

    (void)state;
    assert_int_equal(machine.limits.origin, CABE_ORIGIN_ESTIMATED);
    if (cabe_limits_measure(&machine, &quick, &err) != CABE_OK)
        fail_msg("%s", err.text);
    assert_int_equal(machine.limits.origin, CABE_ORIGIN_MEASURED);
    assert_int_equal(machine.limits.n_threads, machine.cpu.n_usable);
    assert_true(machine.limits.read_one_bytes_s > 1e8 && machine.limits.read_all_bytes_s > 1e8);
    assert_true(machine.limits.n_peaks >= 2);
    for (int i = 0; i < machine.limits.n_peaks; i++)
        assert_true(machine.limits.peak[i].one_ops_s > 1e6 && machine.limits.peak[i].one_ops_s < 1e14);
    assert_true(machine.limits.one_ops_s[CABE_ARITH_F32] > 0 &&
                machine.limits.one_ops_s[CABE_ARITH_INT8] > 0);

    assert_int_equal(cabe_limits_save(&machine, NULL, path, &err), CABE_OK);
    assert_non_null(strstr(path, tree_root));
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 022, 0);
    assert_int_equal(cabe_machine_probe(&again, &config, NULL), CABE_OK);
    assert_int_equal(again.limits.origin, CABE_ORIGIN_MEASURED);
    assert_int_equal(again.limits.n_peaks, machine.limits.n_peaks);
    assert_true(again.limits.read_all_bytes_s > 0.999 * machine.limits.read_all_bytes_s &&
                again.limits.read_all_bytes_s < 1.001 * machine.limits.read_all_bytes_s);
    assert_string_equal(again.limits.measured_at, machine.limits.measured_at);

    /* Another CPU, or as many cores as another machine has, does not take them. */
    again = here();
    again.cpu.n_usable++;
    assert_false(cabe_limits_load(&again, path));
    again = here();
    snprintf(again.cpu.model, sizeof again.cpu.model, "another");
    assert_false(cabe_limits_load(&again, path));
    assert_int_equal(again.limits.origin, CABE_ORIGIN_ESTIMATED);
}

static void test_read_meter(void **state)
{
    struct cabe_machine machine = here();
    struct cabe_read_meter *meter = NULL;
    struct cabe_team *team;
    struct cabe_error err = {0};
    enum cabe_status status = CABE_ERR_OOM;

    (void)state;
    assert_int_equal(cabe_team_open(&team, 2, &err), CABE_OK);
    for (uint64_t n = 1; status != CABE_OK && n < 10; n++) {
        cabe_memory_fail_at(n);
        status = cabe_read_meter_open(&meter, &machine, team, 4 << 20, &err);
        cabe_memory_fail_at(0);
        assert_true(status == CABE_OK || (status == CABE_ERR_OOM && !meter && n < 5));
    }
    assert_int_equal(status, CABE_OK);
    for (int i = 0; i < 3; i++)
        assert_true(cabe_read_meter_bytes_s(meter, 0.001) > 0);
    cabe_read_meter_close(meter);
    cabe_read_meter_close(NULL);
    cabe_team_close(team);
}

static void test_damaged_files(void **state)
{
    static const char *const texts[] = {
        "", "{", "[]", "null", "{\"version\": 1}", "{\"version\": 2, \"cpu\": \"x\"}"};
    struct cabe_machine machine = here();
    char path[128], whole[8192];
    struct cabe_error err;
    FILE *file;
    size_t n;

    (void)state;
    snprintf(path, sizeof path, "%s/damaged", tree_root);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        tree_put("/damaged", "%s", texts[i]);
        assert_false(cabe_limits_load(&machine, path));
    }
    assert_int_equal(cabe_limits_measure(&machine, &quick, &err), CABE_OK);
    assert_int_equal(cabe_limits_save(&machine, path, NULL, &err), CABE_OK);
    file = fopen(path, "r");
    assert_non_null(file);
    n = fread(whole, 1, sizeof whole, file);
    fclose(file);
    for (size_t cut = 0; cut + 2 < n;
         cut++) { /* every truncation: refused; the document's end is its last brace */
        struct cabe_machine other = here();

        tree_bytes("/damaged", whole, cut);
        if (cabe_limits_load(&other, path))
            fail_msg("a file cut at %zu of %zu was taken", cut, n);
    }
    for (size_t at = 0; at < n; at++) { /* every damaged byte: taken or not, the values stay sane */
        struct cabe_machine other = here();
        char kept = whole[at];

        whole[at] ^= 0x15;
        tree_bytes("/damaged", whole, n);
        if (cabe_limits_load(&other, path))
            assert_true(other.limits.read_all_bytes_s > 0 && other.limits.read_all_bytes_s < 1e18);
        whole[at] = kept;
    }
}

static void test_refusals(void **state)
{
    struct cabe_machine machine = here();
    struct cabe_cancel cancel = {.wanted = 1};
    struct cabe_measure_config config = quick;
    struct cabe_error err;

    (void)state;
    config.cancel = &cancel;
    assert_int_equal(cabe_limits_measure(&machine, &config, &err), CABE_ERR_CANCELLED);
    assert_int_equal(machine.limits.origin, CABE_ORIGIN_ESTIMATED);
    assert_int_not_equal(cabe_limits_save(&machine, "/nowhere/at/all.json", NULL, &err), CABE_OK);
    assert_non_null(strstr(err.text, "/nowhere/at/all.json"));
    assert_int_equal(cabe_machine_describe(&machine, "4 cores", &err), CABE_OK);
    assert_int_equal(cabe_limits_measure(&machine, &quick, &err), CABE_ERR_ARGUMENT);
}

static void test_allocation_failure(void **state)
{
    struct cabe_error err;
    int n_failed = 0;

    (void)state;
    for (uint64_t n = 1; n < 50; n++) {
        struct cabe_machine machine = here();
        enum cabe_status status;

        cabe_memory_fail_at(n);
        status = cabe_limits_measure(&machine, &quick, &err);
        cabe_memory_fail_at(0);
        if (status == CABE_OK)
            break;
        assert_int_equal(status, CABE_ERR_OOM);
        assert_int_equal(machine.limits.origin, CABE_ORIGIN_ESTIMATED);
        n_failed++;
    }
    assert_true(n_failed >= 1 && n_failed < 49);
}

/* Killed at any moment of a save: the file is one that was written, whole. */
static void test_killed_while_saving(void **state)
{
    enum { KILLS = 200 };
    struct cabe_machine machine = here(), again;
    char path[CABE_HOME_PATH_MAX];
    struct cabe_error err;
    uint32_t random = 1;

    (void)state;
    assert_int_equal(cabe_limits_measure(&machine, &quick, &err), CABE_OK);
    machine.limits.read_one_bytes_s = 1e9;
    assert_int_equal(cabe_limits_save(&machine, NULL, path, &err), CABE_OK);
    for (int k = 0; k < KILLS; k++) {
        pid_t child = fork();
        int status;

        assert_true(child >= 0);
        if (child == 0)
            for (int i = 0;; i++) {
                machine.limits.read_one_bytes_s = i % 2 ? 1e9 : 2e9;
                if (cabe_limits_save(&machine, NULL, NULL, NULL) != CABE_OK)
                    _exit(1);
            }
        random = random * 1664525u + 1013904223u;
        usleep(random % 4000);
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        again = here();
        assert_true(cabe_limits_load(&again, path));
        assert_true(again.limits.read_one_bytes_s == 1e9 || again.limits.read_one_bytes_s == 2e9);
    }
}

static void test_between(void **state)
{
    struct cabe_machine machine = here();

    (void)state;
    machine.limits = (struct cabe_limits){.n_threads = 5,
                                          .read_one_bytes_s = 10e9,
                                          .read_all_bytes_s = 25e9,
                                          .one_ops_s = {100e9},
                                          .all_ops_s = {400e9}};
    assert_true(cabe_machine_read_bytes_s(&machine, 0) == 10e9);
    assert_true(cabe_machine_read_bytes_s(&machine, 2) == 20e9);
    assert_true(cabe_machine_read_bytes_s(&machine, 3) == 25e9);
    assert_true(cabe_machine_read_bytes_s(&machine, 50) == 25e9);
    assert_true(cabe_machine_ops_s(&machine, CABE_ARITH_F32, 3) == 250e9);
    assert_true(cabe_machine_ops_s(&machine, CABE_ARITH_F32, 9) == 400e9);
    assert_true(cabe_machine_ops_s(&machine, CABE_ARITH_F16, 2) == 0);
}

static int make(void **state)
{
    (void)state;
    tree_new();
    return setenv("CABE_HOME", tree_root, 1);
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
        cmocka_unit_test(test_measure_and_keep),
        cmocka_unit_test(test_read_meter), cmocka_unit_test(test_damaged_files),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_allocation_failure),
        cmocka_unit_test(test_killed_while_saving), cmocka_unit_test(test_between),
    };

    return cmocka_run_group_tests(tests, make, drop);
}
