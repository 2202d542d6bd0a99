/* Every level of row kernels that this CPU has, against scalar; and scalar against known values. */
#include "kernel/kernel.h"
#include "rows_cases.h"

static void gguf_blocks(void **state)
{
    uint8_t q8[34], q4[18];
    float x[32], back[32];

    (void)state;
    for (int i = 0; i < 32; i++)
        x[i] = (float)(i - 16) / 16.0f; /* largest magnitude -1 */
    cabe_rows_scalar.from_f32(CABE_Q8_0, x, q8, 32);
    assert_int_equal(q8[0] | q8[1] << 8, cabe_f32_to_f16(1.0f / 127.0f));
    assert_int_equal((int8_t)q8[2], -127);
    assert_int_equal((int8_t)q8[2 + 24], 64); /* 63.5 goes away from zero */
    assert_int_equal((int8_t)q8[2 + 8], -64);
    cabe_rows_scalar.from_f32(CABE_Q4_0, x, q4, 32);
    assert_int_equal(q4[0] | q4[1] << 8, 0x3000); /* -1 / -8 */
    assert_int_equal(q4[2], 0x80);                /* element 0 is -8, element 16 is 0 */
    cabe_rows_scalar.to_f32(CABE_Q4_0, q4, back, 32);
    assert_true(back[0] == -1.0f && back[16] == 0.0f && back[31] == 0.875f);
}

static void known_values(void **state)
{
    const float x[] = {-1.0f, 0.5f, 3.0f}, gamma[] = {1.0f, 1.0f, 2.0f}, eps = 0.0f;
    float out[3];

    (void)state;
    cabe_rows_scalar.act(CABE_ACT_GELU_ERF, x, out, 3);
    assert_float_equal(out[0], -0.15865525f, 1e-7f);
    assert_float_equal(out[1], 0.34573123f, 1e-7f);
    cabe_rows_scalar.act(CABE_ACT_GELU_TANH, x, out, 3);
    assert_float_equal(out[0], -0.15880801f, 1e-7f);
    cabe_rows_scalar.act(CABE_ACT_SILU, x, out, 3);
    assert_float_equal(out[2], 2.8577224f, 1e-6f);
    cabe_rows_scalar.norm(CABE_NORM_RMS, eps, x, NULL, gamma, NULL, out, 3, 0, 1);
    assert_float_equal(out[2], 3.2460107f, 1e-6f);
    cabe_rows_scalar.norm(CABE_NORM_LAYER, eps, x, NULL, gamma, x, out, 3, 0, 1);
    assert_float_equal(out[0], -2.1111678f, 1e-6f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gguf_blocks), cmocka_unit_test(known_values)};
    int failed;

    seed_from_environment();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (int level = CABE_LEVEL_SCALAR; level < CABE_N_LEVELS; level++)
        if (cabe_level_here((enum cabe_level)level))
            failed += run_cases(&cabe_kernels_at((enum cabe_level)level)->row,
                                cabe_level_name((enum cabe_level)level));
    return failed != 0;
}
