#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "machine/probe.h"

static struct cabe_machine described(const char *text)
{
    struct cabe_error err = {0};
    struct cabe_machine machine;

    if (cabe_machine_describe(&machine, text, &err) != CABE_OK)
        fail_msg("\"%s\": %s", text, err.text);
    return machine;
}

static void test_the_three_tiers(void **state)
{
    struct cabe_machine machine;

    (void)state;
    machine = described("8 cores, 16 GB, gpu 6 GB");
    assert_int_equal(machine.origin, CABE_ORIGIN_DESCRIBED);
    assert_int_equal(machine.cpu.n_physical, 8);
    assert_int_equal(machine.memory.total_bytes, 16384 * CABE_MB);
    assert_int_equal(machine.memory.available_bytes, 16384 * CABE_MB);
    assert_int_equal(machine.n_gpus, 1);
    assert_int_equal(machine.gpu[0].total_bytes, 6 * CABE_GB);
    assert_int_equal(machine.gpu[0].free_bytes, 6 * CABE_GB);
    assert_false(machine.gpu[0].low_vram);
    assert_int_equal(cabe_machine_tier(&machine, NULL), CABE_TIER_HIGH);
    machine = described("8 cores, 16 GB, 6 GB GPU");
    assert_int_equal(cabe_machine_tier(&machine, NULL), CABE_TIER_HIGH);
    machine = described("4 cores, 8 GB");
    assert_int_equal(cabe_machine_tier(&machine, NULL), CABE_TIER_MEDIUM);
    machine = described("2 cores, 4 GB");
    assert_int_equal(cabe_machine_tier(&machine, NULL), CABE_TIER_LOW);
}

static void test_ways_to_say_it(void **state)
{
    static const char *const texts[] = {
        "8 cores, 16 GB",        "8-core, 16GB ram",       "16384 MB; 8 physical cores",
        "ram 16 GB, 8 Cores,",   "8 CORES\n16 GiB memory", "8 cores, memory: 16 GB",
        "16 gb of ram + 8 core",
    };

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct cabe_machine machine = described(texts[i]);

        assert_int_equal(machine.cpu.n_physical, 8);
        assert_int_equal(machine.memory.limit_bytes, 16384 * CABE_MB);
        assert_int_equal(machine.n_gpus, 0);
        assert_string_equal(cabe_simd_level(machine.cpu.simd), "avx2");
    }
}

static void test_gpus(void **state)
{
    struct cabe_machine machine;

    (void)state;
    machine = described("gpu RTX 3060 12 GB free 10 GB cc 8.6, gpu 2 GB");
    assert_int_equal(machine.n_gpus, 2);
    assert_string_equal(machine.gpu[0].name, "RTX 3060");
    assert_int_equal(machine.gpu[0].total_bytes, 12 * CABE_GB);
    assert_int_equal(machine.gpu[0].free_bytes, 10 * CABE_GB);
    assert_int_equal(machine.gpu[0].compute_major, 8);
    assert_int_equal(machine.gpu[0].compute_minor, 6);
    assert_true(machine.gpu[1].low_vram);
    machine = described("gpu Tesla T4 16 GB 3 GB free");
    assert_string_equal(machine.gpu[0].name, "Tesla T4");
    assert_int_equal(machine.gpu[0].free_bytes, 3 * CABE_GB);
    machine = described("2 x gpu 8 GB, gpu A100 80 GB");
    assert_int_equal(machine.n_gpus, 3);
    assert_int_equal(machine.gpu[1].total_bytes, 8 * CABE_GB);
    assert_int_equal(cabe_machine_best_gpu(&machine), 2);
    machine = described("gpu Apple M2 unified, 8 cores, 16 GB");
    assert_true(machine.gpu[0].unified && !machine.gpu[0].low_vram);
    assert_string_equal(machine.gpu[0].name, "Apple M2");
    machine = described("gpu, 8 cores, 16 GB"); /* how much it has is not known: low */
    assert_true(machine.gpu[0].low_vram);
    machine = described("no gpu, 2 cores");
    assert_int_equal(machine.n_gpus, 0);
    machine = described("16 gpu 4 GB");
    assert_int_equal(machine.n_gpus, 16);
}

static void test_details(void **state)
{
    struct cabe_machine machine;

    (void)state;
    machine = described(
        "4 cores, 8 threads, 16 GB, free 5 GB, avx512vnni, 40 GB/s, 300 GFLOP/s, 1.2 TOP/s int8, 3.2 GHz, "
        "l2 2 MB, l3 32 MB");
    assert_int_equal(machine.cpu.n_logical, 8);
    assert_int_equal(machine.cpu.n_usable, 4);
    assert_int_equal(machine.memory.available_bytes, 5 * CABE_GB);
    assert_string_equal(cabe_simd_level(machine.cpu.simd), "avx512vnni");
    assert_true(machine.cpu.simd & CABE_SIMD_BIT(CABE_SIMD_AVX2));
    assert_int_equal(machine.limits.origin, CABE_ORIGIN_DESCRIBED);
    assert_true(machine.limits.read_all_bytes_s == 40e9);
    assert_true(cabe_machine_read_bytes_s(&machine, 4) == 40e9);
    assert_true(cabe_machine_read_bytes_s(&machine, 1) == 12e9);
    assert_true(cabe_machine_read_bytes_s(&machine, 2) == 24e9);
    assert_true(cabe_machine_ops_s(&machine, CABE_ARITH_F32, 99) == 300e9);
    assert_true(cabe_machine_ops_s(&machine, CABE_ARITH_F32, 1) == 75e9);
    assert_true(cabe_machine_ops_s(&machine, CABE_ARITH_INT8, 4) == 1.2e12);
    assert_true(machine.cpu.mhz == 3200);
    assert_int_equal(machine.cpu.l2_bytes, 2 * CABE_MB);

    machine = described("8 cores, quota 2.5");
    assert_int_equal(machine.cpu.n_usable, 3);
    machine = described("12 threads");
    assert_int_equal(machine.cpu.n_physical, 6);
    assert_true(machine.cpu.cores_assumed);
    machine = described("avx512"); /* the rest as a probe assumes it */
    assert_int_equal(machine.cpu.n_usable, 1);
    assert_int_equal(machine.memory.limit_bytes, 4096 * CABE_MB);
    assert_true(machine.memory.total_assumed);
    machine = described("scalar, 2 cores");
    assert_string_equal(cabe_simd_level(machine.cpu.simd), "scalar");
    machine = described("neon, dotprod");
    assert_string_equal(cabe_simd_level(machine.cpu.simd), "neon");
}

static void test_refused(void **state)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "empty"},
        {" , ;", "empty"},
        {"8", "unit"},
        {"eight cores", "wanted"},
        {"8 coros", "wanted"},
        {"8 cores 16 GB", "commas"},
        {"8 cores, 4 cores", "twice"},
        {"0 cores", "whole numbers"},
        {"2.5 cores", "whole numbers"},
        {"100000 cores", "4096"},
        {"16 GB, 8 GB", "twice"},
        {"free 9 GB, 8 GB", "free"},
        {"4 threads, 8 cores", "fewer"},
        {"0 GB", "wanted"},
        {"99999999999999999999999999 GB", "wanted"},
        {"-4 GB", "wanted"},
        {"16 bananas", "wanted"},
        {"gpu 4 GB free 8 GB", "more memory free"},
        {"gpu 4 GB 5 GB 6 GB", "one size"},
        {"17 x gpu 4 GB", "16"},
        {"9 gpus 4 GB, 9 gpus 4 GB", "16"},
        {"gpu 4 GB, no gpu", "before"},
        {"no gpu, gpu 4 GB", "before"},
        {"gpu 4 GB cc 1000", "capability"},
        {"quota", "quota"},
        {"quota 0", "quota"},
        {"0 GB/s", "rate"},
        {"avx9000", "SIMD"},
        {"l2", "cache"},
    };
    char longer[3000];
    struct cabe_machine machine;
    struct cabe_error err;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (cabe_machine_describe(&machine, cases[i].text, &err) != CABE_ERR_ARGUMENT)
            fail_msg("\"%s\" was accepted", cases[i].text);
        if (!strstr(err.text, cases[i].says))
            fail_msg("\"%s\": \"%s\" does not say \"%s\"", cases[i].text, err.text, cases[i].says);
    }
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    assert_int_equal(cabe_machine_describe(&machine, longer, &err), CABE_ERR_ARGUMENT);
    longer[1000] = '\0';
    assert_int_equal(cabe_machine_describe(&machine, longer, &err), CABE_ERR_ARGUMENT);
}

static void test_allocates_nothing(void **state)
{
    uint64_t before = cabe_memory_count();

    (void)state;
    described("8 cores, 16 GB, gpu RTX 3060 12 GB");
    assert_int_equal(cabe_memory_count(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_three_tiers),
        cmocka_unit_test(test_ways_to_say_it),
        cmocka_unit_test(test_gpus),
        cmocka_unit_test(test_details),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_allocates_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
