#include "machine/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/memory.h"

static struct cabe_machine described(const char *text)
{
    struct cabe_machine machine;

    assert_int_equal(cabe_machine_describe(&machine, text, NULL), CABE_OK);
    return machine;
}

static const char *text_at(const json_t *document, const char *object, const char *key)
{
    return json_string_value(json_object_get(json_object_get(document, object), key));
}

static void test_keys(void **state)
{
    struct cabe_machine machine = described("8 cores, 16 GB, gpu 4 GB, gpu unified cc 9.0, avx512vnni");
    struct cabe_recommendation advice;
    json_t *document = cabe_machine_json(&machine), *recommended, *gpus;

    (void)state;
    assert_non_null(document);
    assert_string_equal(json_string_value(json_object_get(document, "tier")), "high");
    assert_string_equal(json_string_value(json_object_get(document, "origin")), "described");
    assert_string_equal(text_at(document, "cpu", "level"), "avx512vnni");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(document, "memory"), "limit_bytes")),
                     INT64_C(16) << 30);
    assert_true(json_is_null(json_object_get(json_object_get(document, "memory"), "limited_by")));
    assert_true(json_is_null(json_object_get(json_object_get(document, "cpu"), "quota_cpus")));
    gpus = json_object_get(document, "gpus");
    assert_int_equal(json_array_size(gpus), 2);
    assert_true(json_is_true(json_object_get(json_array_get(gpus, 0), "low_vram")));
    assert_true(json_is_null(json_object_get(json_array_get(gpus, 1), "total_bytes")));
    assert_string_equal(json_string_value(json_object_get(json_array_get(gpus, 1), "compute_capability")), "9.0");

    cabe_machine_recommend(&advice, &machine, CABE_FAMILY_BIT(CABE_FAMILY_EMBEDDINGS));
    recommended = cabe_recommendation_json(&advice);
    assert_non_null(recommended);
    assert_string_equal(text_at(recommended, "families", "embeddings"), "gpu1");
    assert_null(text_at(recommended, "families", "llm"));
    assert_int_equal(json_object_size(json_object_get(recommended, "reasons")), CABE_N_ADVICE);
    json_decref(recommended);
    json_decref(document);
}

/* A document is whole or not there. */
static void test_allocation_failure(void **state)
{
    struct cabe_machine machine = described("8 cores, 16 GB, gpu 4 GB");
    struct cabe_recommendation advice;
    uint64_t n = 1, n_failed = 0;

    (void)state;
    cabe_machine_recommend(&advice, &machine, 0);
    json_set_alloc_funcs(cabe_malloc, cabe_free);
    for (;; n++) {
        json_t *document, *recommended;
        uint64_t before = cabe_memory_count();
        int reached;

        cabe_memory_fail_at(n);
        document = cabe_machine_json(&machine);
        recommended = cabe_recommendation_json(&advice);
        cabe_memory_fail_at(0);
        reached = cabe_memory_count() - before >= n;
        if (reached && document && recommended)
            fail_msg("allocation %llu failed and nobody noticed", (unsigned long long)n);
        n_failed += reached ? 1u : 0u;
        json_decref(document);
        json_decref(recommended);
        if (!reached)
            break;
    }
    assert_true(n_failed > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_allocation_failure),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
