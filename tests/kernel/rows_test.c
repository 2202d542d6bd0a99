/* Every level of row kernels that this CPU has, against scalar; and scalar against known values. */
#include <jansson.h>

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

/* Far positions need more than f32 for the product, and exact reduction. */
static void known_angles(void **state)
{
    const int32_t positions[] = {0, 1, 1000000};
    const float inv_freq[] = {1.0f, 0.01f}; /* 0.01f is 0.00999999977648258 */
    float out[12];

    (void)state;
    cabe_rows_scalar.angles(positions, inv_freq, 2, 2.0f, out, 0, 3);
    assert_true(out[0] == 2.0f && out[1] == 2.0f && out[2] == 0.0f && out[3] == 0.0f);
    assert_float_equal(out[4], 2 * 0.54030230586814f, 1e-6f);
    assert_float_equal(out[6], 2 * 0.84147098480790f, 1e-6f);
    assert_float_equal(out[8], 2 * 0.936752127533f, 1e-6f);
    assert_float_equal(out[10], 2 * -0.349993502171f, 1e-6f);
    assert_float_equal(out[9], 2 * -0.9522236546f, 1e-6f);
    assert_float_equal(out[11], 2 * -0.3054015579f, 1e-6f);
}

static void known_turns(void **state)
{
    const float x[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, angles[] = {0, 0.6f, 1, 0.8f};
    struct cabe_rope_heads heads = {.n_heads = 1, .n_kv_heads = 1, .head_dim = 4, .n_rot = 4};
    float out[12];

    (void)state;
    cabe_rows_scalar.rope(&heads, x, angles, out, 0, 1);
    assert_true(out[0] == -2 && out[1] == 1 && out[4] == -6 && out[5] == 5 && out[8] == 9 &&
                out[11] == 12);
    assert_float_equal(out[2], 3 * 0.6f - 4 * 0.8f, 1e-6f);
    assert_float_equal(out[3], 3 * 0.8f + 4 * 0.6f, 1e-6f);
    heads.style = CABE_ROPE_HALVES;
    cabe_rows_scalar.rope(&heads, x, angles, out, 0, 1);
    assert_true(out[0] == -3 && out[2] == 1 && out[4] == -7 && out[6] == 5);
    assert_float_equal(out[1], 2 * 0.6f - 4 * 0.8f, 1e-6f);
    assert_float_equal(out[3], 2 * 0.8f + 4 * 0.6f, 1e-6f);
}

static uint8_t hex_byte(const char *text)
{
    unsigned value = 0;

    assert_int_equal(sscanf(text, "%2x", &value), 1);
    return (uint8_t)value;
}

/* Blocks as the reference reads them, bit for bit (tests/golden/README.md). */
static void golden_blocks(void **state)
{
    json_t *golden = json_load_file("tests/golden/blocks.json", JSON_REJECT_DUPLICATES, NULL),
           *type;
    const char *name;

    (void)state;
    assert_non_null(golden);
    assert_int_equal(json_object_size(golden), 5);
    json_object_foreach(golden, name, type)
    {
        const char *blocks = json_string_value(json_object_get(type, "blocks"));
        const char *values = json_string_value(json_object_get(type, "values"));
        enum cabe_dtype dtype = cabe_dtype_find(name);
        int64_t n = (int64_t)strlen(values) / 8;
        size_t bytes = strlen(blocks) / 2;
        uint8_t *raw = malloc(bytes);
        float *got = malloc((size_t)n * sizeof *got);

        assert_true(dtype < CABE_N_DTYPES);
        assert_int_equal(cabe_dtype_bytes(dtype, n), bytes);
        for (size_t i = 0; i < bytes; i++)
            raw[i] = hex_byte(blocks + 2 * i);
        cabe_rows_scalar.to_f32(dtype, raw, got, n);
        for (int64_t i = 0; i < n; i++) {
            uint32_t want = 0, bits;

            for (int k = 0; k < 4; k++)
                want = want << 8 | hex_byte(values + 8 * i + 2 * k);
            memcpy(&bits, &got[i], sizeof bits);
            if (bits != want)
                fail_msg("%s: element %lld is %08x, wanted %08x", name, (long long)i, bits, want);
        }
        free(raw);
        free(got);
    }
    json_decref(golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf_blocks), cmocka_unit_test(known_values),
        cmocka_unit_test(known_angles), cmocka_unit_test(known_turns),
        cmocka_unit_test(golden_blocks)};
    int failed;

    seed_from_environment();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (int level = CABE_LEVEL_SCALAR; level < CABE_N_LEVELS; level++)
        if (cabe_level_here((enum cabe_level)level))
            failed += run_cases(&cabe_kernels_at((enum cabe_level)level)->row,
                                cabe_level_name((enum cabe_level)level));
    return failed != 0;
}
