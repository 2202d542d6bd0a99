/* Sizes and names of KV pages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tensor/pages.h"

static void names(void **state)
{
    (void)state;
    assert_string_equal(cabe_kv_format_name(CABE_KV_Q8), "q8");
    assert_string_equal(cabe_kv_format_name(CABE_N_KV_FORMATS), "?");
    for (int f = 0; f < CABE_N_KV_FORMATS; f++)
        assert_int_equal(cabe_kv_format_find(cabe_kv_format_name((enum cabe_kv_format)f)), f);
    assert_int_equal(cabe_kv_format_find(""), CABE_N_KV_FORMATS);
    assert_int_equal(cabe_kv_format_find("F16"), CABE_N_KV_FORMATS);
}

static void sizes(void **state)
{
    const struct cabe_kv_shape llama = {.n_layers = 22, .n_heads = 4, .head_dim = 64};

    (void)state;
    assert_int_equal(cabe_kv_block_bytes(CABE_KV_F32, 64), 4096);
    assert_int_equal(cabe_kv_block_bytes(CABE_KV_F16, 64), 2048);
    assert_int_equal(cabe_kv_block_bytes(CABE_KV_Q8, 64), 1024 + 64);
    assert_int_equal(cabe_kv_pair_bytes(CABE_KV_F16, CABE_KV_Q8, 64), 2048 + 1088);
    assert_int_equal(cabe_page_bytes(CABE_KV_F16, CABE_KV_F16, &llama), 22 * 4 * 4096);
    assert_int_equal(cabe_kv_block_bytes(CABE_KV_F16, 5), 192); /* 160 of elements */
    assert_int_equal(cabe_kv_block_bytes(CABE_KV_Q8, 6), 192);  /* 96, and 64 of scales */
    for (int32_t d = 1; d <= CABE_HEAD_DIM_MAX; d++)
        for (int f = 0; f < CABE_N_KV_FORMATS; f++) {
            uint64_t least = f == CABE_KV_Q8 ? 16 * (uint64_t)d + 64 : (f == CABE_KV_F16 ? 32 : 64) * (uint64_t)d;
            uint64_t bytes = cabe_kv_block_bytes((enum cabe_kv_format)f, d);

            assert_int_equal(bytes % CABE_PAGE_UNIT, 0);
            assert_true(bytes >= least && bytes < least + CABE_PAGE_UNIT);
            assert_true(d % 4 != 0 || bytes == least);
        }
}

static void what_does_not_fit(void **state)
{
    const struct cabe_kv_shape huge = {.n_layers = INT32_MAX, .n_heads = INT32_MAX, .head_dim = 512};
    const struct cabe_kv_shape negative = {.n_layers = -1, .n_heads = 1, .head_dim = 8};

    (void)state;
    assert_true(cabe_page_bytes(CABE_KV_F32, CABE_KV_F32, &huge) == UINT64_MAX);
    assert_true(cabe_page_bytes(CABE_KV_F32, CABE_KV_F32, &negative) == UINT64_MAX);
    assert_true(cabe_kv_block_bytes(CABE_KV_F32, -8) == UINT64_MAX);
    assert_true(cabe_kv_block_bytes(CABE_N_KV_FORMATS, 8) == UINT64_MAX);
    assert_true(cabe_kv_pair_bytes(CABE_KV_F32, CABE_N_KV_FORMATS, 8) == UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(names), cmocka_unit_test(sizes),
                                       cmocka_unit_test(what_does_not_fit)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
