#include "machine/probe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "machine_tree.h"

static char library[512];

static struct cabe_machine probe(const char *part)
{
    struct cabe_probe_config config = {.root = tree_root, .nvml = library};
    struct cabe_machine machine;

    setenv("FAKE_NVML", part, 1);
    assert_int_equal(cabe_machine_probe(&machine, &config, NULL), CABE_OK);
    return machine;
}

/* One low on memory, one whose memory cannot be asked for, one good. */
static void test_three(void **state)
{
    struct cabe_machine machine;
    struct cabe_recommendation advice;

    (void)state;
    machine = probe("two");
    assert_int_equal(machine.n_gpus, 3);
    assert_string_equal(machine.gpu[0].name, "Fake A");
    assert_int_equal(machine.gpu[0].total_bytes, 4 * CABE_GB);
    assert_int_equal(machine.gpu[0].free_bytes, 3 * CABE_GB);
    assert_true(machine.gpu[0].low_vram && machine.gpu[0].usable && machine.gpu[0].memory_known);
    assert_int_equal(machine.gpu[0].compute_major * 10 + machine.gpu[0].compute_minor, 86);
    assert_true(machine.gpu[1].low_vram && !machine.gpu[1].memory_known && !machine.gpu[1].unified);
    assert_int_equal(machine.gpu[1].total_bytes, 0);
    assert_false(machine.gpu[2].low_vram);
    assert_int_equal(cabe_machine_best_gpu(&machine), 2);
    cabe_machine_recommend(&advice, &machine, 0);
    assert_int_equal(advice.embedding_batch, 64);
    assert_int_equal(advice.family_device[CABE_FAMILY_EMBEDDINGS], 3);
}

/* Not supported: the GPU shares the host's memory, and is not low for being unknown. */
static void test_unified(void **state)
{
    struct cabe_machine machine;

    (void)state;
    tree_new();
    tree_memory(65536, 60000);
    machine = probe("unified");
    assert_int_equal(machine.n_gpus, 1);
    assert_true(machine.gpu[0].unified);
    assert_false(machine.gpu[0].low_vram);
    assert_false(machine.gpu[0].memory_known);
}

static void test_odd_answers(void **state)
{
    struct cabe_machine machine;

    (void)state;
    machine = probe("no_init");
    assert_int_equal(machine.n_gpus, 0);
    machine = probe("many");
    assert_int_equal(machine.n_gpus, CABE_MACHINE_GPUS_MAX);
    machine = probe("strange");
    assert_int_equal(machine.n_gpus, 2);
    assert_int_equal(machine.gpu[0].free_bytes, 8 * CABE_GB); /* never more than there is */
    assert_int_equal(machine.gpu[0].name[0], '?');
    assert_int_equal(strlen(machine.gpu[0].name), sizeof machine.gpu[0].name - 1);
    assert_false(machine.gpu[1].memory_known); /* a total of nothing is no reading */
    assert_true(machine.gpu[1].low_vram);
}

static void test_visible_devices(void **state)
{
    struct cabe_machine machine;

    (void)state;
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    assert_int_equal(probe("two").n_gpus, 0);
    setenv("CUDA_VISIBLE_DEVICES", "-1", 1);
    assert_int_equal(probe("two").n_gpus, 0);
    setenv("CUDA_VISIBLE_DEVICES", "2,0", 1);
    assert_int_equal(probe("two").n_gpus, 2);
    setenv("CUDA_VISIBLE_DEVICES", "GPU-0000000b", 1);
    machine = probe("two");
    assert_int_equal(machine.n_gpus, 1);
    assert_string_equal(machine.gpu[0].name, "Fake B");
    unsetenv("CUDA_VISIBLE_DEVICES");
}

static void test_no_library(void **state)
{
    struct cabe_probe_config config = {.root = tree_root, .nvml = "/nowhere/libnvidia-ml.so.1"};
    struct cabe_machine machine;

    (void)state;
    assert_int_equal(cabe_machine_probe(&machine, &config, NULL), CABE_OK);
    assert_int_equal(machine.n_gpus, 0);
    config.nvml = "libm.so.6"; /* a library, but not that one */
    assert_int_equal(cabe_machine_probe(&machine, &config, NULL), CABE_OK);
    assert_int_equal(machine.n_gpus, 0);
}

/* Other makes are reported, and nothing is put on them. */
static void test_reported(void **state)
{
    struct cabe_probe_config config = {.root = tree_root};
    struct cabe_machine machine;

    (void)state;
    tree_new();
    tree_put("/sys/class/drm/card0/device/vendor", "0x1002\n");
    tree_put("/sys/class/drm/card0/device/product_name", "Radeon Test\n");
    tree_put("/sys/class/drm/card0/device/mem_info_vram_total", "17163091968\n");
    tree_put("/sys/class/drm/card0/device/mem_info_vram_used", "1000000\n");
    tree_put("/sys/class/drm/card1/device/uevent", "DRIVER=asahi\nOF_COMPATIBLE_0=apple,agx-t8103\n");
    tree_put("/sys/class/drm/card2/device/vendor", "0x8086\n");
    tree_put("/sys/class/drm/card3/device/vendor", "0x1af4\n"); /* of a virtual machine */
    tree_put("/sys/class/drm/card4/device/vendor", "0x10de\n");
    assert_int_equal(cabe_machine_probe(&machine, &config, NULL), CABE_OK);
    assert_int_equal(machine.n_gpus, 4);
    assert_string_equal(machine.gpu[0].name, "Radeon Test");
    assert_int_equal(machine.gpu[0].free_bytes, 17163091968ull - 1000000);
    assert_string_equal(machine.gpu[1].vendor, "apple");
    assert_true(machine.gpu[1].unified && !machine.gpu[1].low_vram);
    assert_string_equal(machine.gpu[2].vendor, "intel");
    assert_string_equal(machine.gpu[3].vendor, "nvidia");
    for (int i = 0; i < machine.n_gpus; i++)
        assert_false(machine.gpu[i].usable);
    assert_int_equal(cabe_machine_best_gpu(&machine), -1);
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
        cmocka_unit_test(test_three),       cmocka_unit_test(test_unified),
        cmocka_unit_test(test_odd_answers), cmocka_unit_test(test_visible_devices),
        cmocka_unit_test(test_no_library),  cmocka_unit_test(test_reported),
    };
    char self[400] = "";

    if (readlink("/proc/self/exe", self, sizeof self - 1) <= 0)
        return 1;
    *strrchr(self, '/') = '\0';
    snprintf(library, sizeof library, "%s/machine.fake_nvml_module.so", self);
    unsetenv("CUDA_VISIBLE_DEVICES");
    tree_new();
    return cmocka_run_group_tests(tests, NULL, drop);
}
