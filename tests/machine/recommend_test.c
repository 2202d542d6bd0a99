#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "machine/probe.h"

static struct cabe_machine described(const char *text)
{
    struct cabe_error err = {0};
    struct cabe_machine machine;

    if (cabe_machine_describe(&machine, text, &err) != CABE_OK)
        fail_msg("\"%s\": %s", text, err.text);
    return machine;
}

static struct cabe_recommendation advice_for(const char *text, uint32_t families)
{
    struct cabe_machine machine = described(text);
    struct cabe_recommendation advice;

    cabe_machine_recommend(&advice, &machine, families);
    for (int i = 0; i < CABE_N_ADVICE; i++)
        if (strlen(advice.reason[i]) < 5)
            fail_msg("\"%s\": %s has no reason", text, cabe_advice_name((enum cabe_advice)i));
    return advice;
}

static void test_tiers(void **state)
{
    static const struct {
        const char *text;
        enum cabe_tier tier;
    } cases[] = {
        {"8 cores, 16384 MB, gpu 6144 MB", CABE_TIER_HIGH},
        {"7 cores, 16384 MB, gpu 6144 MB", CABE_TIER_MEDIUM},
        {"8 cores, 16383 MB, gpu 6144 MB", CABE_TIER_MEDIUM},
        {"8 cores, 16384 MB, gpu 6143 MB", CABE_TIER_MEDIUM},
        {"64 cores, 512 GB", CABE_TIER_MEDIUM},
        {"8 cores, 16 GB, gpu", CABE_TIER_MEDIUM},
        {"8 cores, 16 GB, gpu unified", CABE_TIER_HIGH},
        {"4 cores, 8192 MB", CABE_TIER_MEDIUM},
        {"4 cores, 8191 MB", CABE_TIER_LOW},
        {"3 cores, 8192 MB, gpu 24 GB", CABE_TIER_LOW},
        {"8 cores, quota 2, 64 GB, gpu 24 GB", CABE_TIER_LOW},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cabe_recommendation advice = advice_for(cases[i].text, 0);

        if (advice.tier != cases[i].tier)
            fail_msg("\"%s\" is %s", cases[i].text, cabe_tier_name(advice.tier));
    }
}

static void test_workers(void **state)
{
    (void)state;
    assert_int_equal(advice_for("1 core, 1 GB", 0).workers, 1);
    assert_int_equal(advice_for("8 cores, 64 GB", 0).workers, 7);
    assert_int_equal(advice_for("64 cores, 512 GB", 0).workers, 8);
    assert_int_equal(advice_for("8 cores, 64 GB, free 5 GB", 0).workers, 2);
    assert_int_equal(advice_for("8 cores, 64 GB, free 1 GB", 0).workers, 1);
    assert_int_equal(advice_for("8 cores, 16 threads, 64 GB", 0).threads, 8);
}

static void test_batches(void **state)
{
    struct cabe_recommendation advice;

    (void)state;
    advice = advice_for("8 cores, 16 GB", 0);
    assert_int_equal(advice.embedding_batch, 16);
    assert_int_equal(advice.gpu_batch, 0);
    assert_int_equal(advice.nlp_batch, 100);
    assert_int_equal(advice.heavy_tasks, 1);
    advice = advice_for("8 cores, 16 GB, gpu 4 GB", 0);
    assert_int_equal(advice.embedding_batch, 32);
    assert_int_equal(advice.gpu_batch, 8);
    advice = advice_for("8 cores, 16 GB, gpu 6 GB", 0);
    assert_int_equal(advice.embedding_batch, 64);
    assert_int_equal(advice.gpu_batch, 32);
    advice = advice_for("8 cores, 16 GB, gpu 8 GB", 0);
    assert_int_equal(advice.gpu_batch, 64);
    advice = advice_for("8 cores, 16 GB, gpu 24 GB free 3 GB", 0); /* what others use counts */
    assert_int_equal(advice.gpu_batch, 8);

    assert_int_equal(cabe_machine_batch(64, 4 * CABE_GB - 1), 8);
    assert_int_equal(cabe_machine_batch(16, 2 * CABE_GB), 4);
    assert_int_equal(cabe_machine_batch(64, 4 * CABE_GB), 16);
    assert_int_equal(cabe_machine_batch(16, 5 * CABE_GB), 8);
    assert_int_equal(cabe_machine_batch(64, 6 * CABE_GB), 32);
    assert_int_equal(cabe_machine_batch(16, 7 * CABE_GB), 16);
    assert_int_equal(cabe_machine_batch(64, 8 * CABE_GB), 64);
}

static void test_by_memory(void **state)
{
    (void)state;
    assert_int_equal(advice_for("4 cores, 16 GB, free 4095 MB", 0).document_chunk_chars, 30000);
    assert_int_equal(advice_for("4 cores, 16 GB, free 4096 MB", 0).document_chunk_chars, 50000);
    assert_int_equal(advice_for("4 cores, 16 GB, free 8191 MB", 0).document_chunk_chars, 50000);
    assert_int_equal(advice_for("4 cores, 16 GB, free 8192 MB", 0).document_chunk_chars, 100000);
    assert_false(advice_for("2 cores, 4 GB", 0).semantic_redundancy);
    assert_true(advice_for("4 cores, 8 GB", 0).semantic_redundancy);
    assert_true(advice_for("2 cores, 24 GB", 0).semantic_redundancy);
}

static void test_families(void **state)
{
    struct cabe_recommendation advice;

    (void)state;
    advice = advice_for("8 cores, 16 GB", 0);
    for (int i = 0; i < CABE_N_FAMILIES; i++)
        assert_int_equal(advice.family_device[i], 0);
    advice = advice_for("8 cores, 16 GB, gpu 4 GB, gpu 8 GB", 0); /* enough: all on the better one */
    for (int i = 0; i < CABE_N_FAMILIES; i++)
        assert_int_equal(advice.family_device[i], 2);
    advice = advice_for("8 cores, 16 GB, gpu 4 GB", 0);
    for (int i = 0; i < CABE_N_FAMILIES; i++)
        assert_int_equal(advice.family_device[i], i == CABE_FAMILY_LLM ? 1 : 0);
    advice = advice_for("8 cores, 16 GB, gpu 4 GB",
                        CABE_FAMILY_BIT(CABE_FAMILY_ENTITIES) | CABE_FAMILY_BIT(CABE_FAMILY_EMBEDDINGS));
    assert_int_equal(advice.family_device[CABE_FAMILY_ENTITIES], 1);
    assert_int_equal(advice.family_device[CABE_FAMILY_EMBEDDINGS], 0);
    assert_int_equal(advice.family_device[CABE_FAMILY_LLM], -1);
    advice = advice_for("8 cores, 16 GB, gpu 4 GB", CABE_FAMILY_BIT(CABE_FAMILY_EMBEDDINGS));
    assert_int_equal(advice.family_device[CABE_FAMILY_EMBEDDINGS], 0);
    advice = advice_for("8 cores, 16 GB, gpu 4 GB", CABE_FAMILY_BIT(CABE_FAMILY_IMAGES));
    assert_int_equal(advice.family_device[CABE_FAMILY_IMAGES], 1);
}

/* Whatever the machine: at least half of what is available, never all of it, 15 to 20 % of the limit left. */
static void test_budget(void **state)
{
    struct cabe_machine machine = {0};
    char reason[CABE_REASON_MAX];
    uint64_t seed = 88172645463325252u;

    (void)state;
    for (int i = 0; i < 100000; i++) {
        uint64_t limit, available, budget;

        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        limit = (seed >> 20) % (UINT64_C(1) << (20 + i % 24)) + 4096;
        available = seed % (limit + 1);
        machine.memory.limit_bytes = limit;
        machine.memory.available_bytes = available;
        budget = cabe_machine_budget(&machine, reason);
        assert_true(budget <= available && budget >= available / 2);
        if (available >= limit / 2)
            assert_true((double)(available - budget) >= 0.149 * (double)limit &&
                        (double)(available - budget) <= 0.2001 * (double)limit + 2048);
    }
    machine = described("8 cores, 16 GB");
    assert_int_equal(cabe_machine_budget(&machine, reason) / CABE_MB, 13926);
    assert_non_null(strstr(reason, "15 %"));
    machine = described("2 cores, 2 GB");
    assert_int_equal(cabe_machine_budget(&machine, reason) / CABE_MB, 1638);
    machine = described("8 cores, 16 GB, free 2 GB");
    assert_int_equal(cabe_machine_budget(&machine, reason), CABE_GB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiers),     cmocka_unit_test(test_workers),  cmocka_unit_test(test_batches),
        cmocka_unit_test(test_by_memory), cmocka_unit_test(test_families), cmocka_unit_test(test_budget),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
