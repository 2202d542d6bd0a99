/* Every level of matrix products that this CPU has, against scalar; scalar against plain arithmetic; packing. */
#include "matmul_cases.h"

/* Scalar, precision HIGH: the widened weights, multiplied in double. */
static double plain_sum(const struct product *p, int64_t row, int64_t output, double *magnitude)
{
    const uint8_t *panel = p->w.data + (uint64_t)(output / 16) * cabe_panel_bytes(p->mm.dtype, p->mm.k);
    double sum = 0;

    *magnitude = 0;
    for (int64_t i = 0; i < p->mm.k; i++) {
        float some[16], x = p->mm.x[row * p->mm.x_stride + i];

        cabe_matmul_floats_scalar.widen(p->mm.dtype, panel, p->mm.k, i, i + 1, some);
        sum += (double)some[output % 16] * (double)x;
        *magnitude += fabs((double)some[output % 16] * (double)x);
    }
    return sum;
}

static void scalar_is_arithmetic(void **state)
{
    (void)state;
    under_test = cabe_kernels_at(CABE_LEVEL_SCALAR);
    for (size_t d = 0; d < COUNT_OF(matmul_dtypes); d++)
        for (int precision = 0; precision < 2; precision++) {
            int64_t k = cabe_dtype_block(matmul_dtypes[d]) == 256 ? 512 : 320;
            struct product p = product_new(matmul_dtypes[d], 3, 19, k, RANDOM, 0, 1, 1);
            struct guarded out = out_new(&p, 0);
            /* An INT8 product is off by half a step of activations, which outliers of 20 stretch. */
            double bound = precision ? 0.1 : 1e-6;

            p.mm.precision = (enum cabe_precision)precision;
            product_run(under_test, &p, &out);
            for (int64_t r = 0; r < p.mm.t; r++)
                for (int64_t j = 0; j < p.mm.n; j++) {
                    double magnitude, sum = plain_sum(&p, r, j, &magnitude);

                    sum += (double)p.mm.bias[j] + (double)p.mm.residual[r * p.mm.out_stride + j];
                    assert_true(fabs((double)p.mm.out[r * p.mm.out_stride + j] - sum) < bound * (magnitude + 2));
                }
            guarded_free(&out, "out");
            product_free(&p);
        }
}

/* GGUF blocks come back bit by bit; floats as the dtype rounds them; int8 within half a step. */
static void packing_keeps_values(void **state)
{
    enum { N = 18, K = 96 };
    float source[N * K], wide[16 * K], back[N * K];
    uint8_t rows[N * K * 4], panels[2 * K * 64 + 256] __attribute__((aligned(64)));
    uint8_t scratch[8192] __attribute__((aligned(64)));

    (void)state;
    assert_true(cabe_matmul_pack_scratch_bytes(K) <= sizeof scratch);
    for (size_t d = 0; d < COUNT_OF(matmul_dtypes) && !only_from_blocks(matmul_dtypes[d]); d++) {
        enum cabe_dtype dtype = matmul_dtypes[d];
        enum cabe_dtype from = dtype == CABE_I8 ? CABE_F32 : dtype;
        uint64_t bytes = cabe_panel_bytes(dtype, K);

        for (int i = 0; i < N * K; i++)
            source[i] = random_unit();
        cabe_rows_scalar.from_f32(from, source, rows, N * K);
        cabe_rows_scalar.to_f32(from, rows, back, N * K);
        assert_int_equal(cabe_matmul_pack(from, rows, N, dtype, K, 0, 2, scratch, panels, NULL), CABE_OK);
        for (int panel = 0; panel < 2; panel++) {
            cabe_matmul_floats_scalar.widen(dtype, panels + (uint64_t)panel * bytes, K, 0, K, wide);
            for (int j = 0; j < 16; j++)
                for (int i = 0; i < K; i++) {
                    int output = panel * 16 + j;
                    float wanted = output < N ? back[output * K + i] : 0.0f;

                    if (dtype == CABE_I8)
                        assert_float_equal(wide[i * 16 + j], wanted, 0.5f / 64 + 1e-6f);
                    else
                        assert_true(wide[i * 16 + j] == wanted);
                }
        }
    }
}

/* The published formulas, element by element of a super-block, written apart from the kernels. */
static float element_q4_k(const uint8_t *block, int i)
{
    const uint8_t *six = block + 4, *nibbles = block + 16 + i / 64 * 32;
    int b = i / 32, scale = six[b & 3] & 63, least = six[4 + (b & 3)] & 63;
    uint16_t d, dmin;

    if (b >= 4) {
        scale = (six[b + 4] & 0xF) | ((six[b - 4] >> 6) << 4);
        least = (six[b + 4] >> 4) | ((six[b] >> 6) << 4);
    }
    memcpy(&d, block, sizeof d);
    memcpy(&dmin, block + 2, sizeof dmin);
    return cabe_f16_to_f32(d) * (float)scale * (float)(b % 2 ? nibbles[i % 32] >> 4 : nibbles[i % 32] & 15) -
           cabe_f16_to_f32(dmin) * (float)least;
}

static float element_q6_k(const uint8_t *block, int i)
{
    const uint8_t *low = block + i / 128 * 64 + i % 64, *high = block + 128 + i / 128 * 32 + i % 32;
    int nibble = i % 128 < 64 ? *low & 15 : *low >> 4, pair = *high >> (i % 128 / 32 * 2) & 3;
    uint16_t d;

    memcpy(&d, block + 208, sizeof d);
    return cabe_f16_to_f32(d) * (float)(int8_t)block[192 + i / 16] * (float)((nibble | pair << 4) - 32);
}

static float element_q4_1(const uint8_t *block, int i)
{
    uint16_t d, m;

    memcpy(&d, block, sizeof d);
    memcpy(&m, block + 2, sizeof m);
    return cabe_f16_to_f32(d) * (float)(i < 16 ? block[4 + i] & 15 : block[4 + i - 16] >> 4) + cabe_f16_to_f32(m);
}

/* Blocks that files only have: what a panel holds, widened at each level and row by row, to the bit. */
static void packing_keeps_blocks(void **state)
{
    enum { N = 18, K = 768 };
    static const struct {
        enum cabe_dtype dtype;
        float (*element)(const uint8_t *block, int i);
    } cases[] = {{CABE_Q4_1, element_q4_1}, {CABE_Q4_K, element_q4_k}, {CABE_Q6_K, element_q6_k}};
    static uint8_t rows[N * K * 2], panels[2 * K * 16] __attribute__((aligned(64)));
    static float wide[384 * 16] __attribute__((aligned(64)));
    uint8_t scratch[8192] __attribute__((aligned(64)));

    (void)state;
    for (size_t c = 0; c < COUNT_OF(cases); c++) {
        enum cabe_dtype dtype = cases[c].dtype;
        int block = (int)cabe_dtype_block(dtype);
        uint64_t row_bytes = cabe_dtype_bytes(dtype, K), bytes = cabe_panel_bytes(dtype, K);

        assert_true(bytes * 2 <= sizeof panels);
        assert_true((double)bytes <= 1.03 * 16 * (double)row_bytes);
        random_blocks(dtype, RANDOM, N * K, rows);
        assert_int_equal(cabe_matmul_pack(dtype, rows, N, dtype, K, 0, 2, scratch, panels, NULL), CABE_OK);
        for (int level = 0; level < CABE_N_LEVELS; level++) {
            const struct cabe_kernels *kernels = cabe_kernels_at((enum cabe_level)level);

            for (int at = 0; kernels && at < 2 * K; at += 384) {
                const uint8_t *panel = panels + (uint64_t)(at / K) * bytes;

                kernels->matmul.floats->widen(dtype, panel, K, at % K, at % K + 384, wide);
                for (int i = 0; i < 384 * 16; i++) {
                    int output = at / K * 16 + i % 16, k = at % K + i / 16;
                    const uint8_t *source =
                        rows + (uint64_t)output * row_bytes + cabe_dtype_bytes(dtype, k / block * block);
                    float wanted = output < N ? cases[c].element(source, k % block) : wide[i];

                    assert_true(output < N || wide[i] == 0.0f);
                    assert_memory_equal(&wide[i], &wanted, sizeof wanted);
                }
            }
        }
    }
}

static void one_row(void **state)
{
    enum { N = 35, K = 768 };
    static float wide[K * 16] __attribute__((aligned(64))), row[K];

    (void)state;
    under_test = cabe_kernels_at(CABE_LEVEL_SCALAR);
    for (size_t d = 0; d < COUNT_OF(matmul_dtypes); d++)
        for (int64_t k = cabe_dtype_block(matmul_dtypes[d]); k <= K; k += k % 32 ? 250 : 256) {
            struct product p = product_new(matmul_dtypes[d], 0, N, k, RANDOM, 0, 0, 0);

            for (int64_t n = 0; n < N; n++) {
                const uint8_t *panel = p.w.data + (uint64_t)(n / 16) * cabe_panel_bytes(p.mm.dtype, k);

                cabe_matmul_floats_scalar.widen(p.mm.dtype, panel, k, 0, k, wide);
                cabe_panel_row(p.mm.dtype, p.w.data, k, n, row);
                for (int64_t i = 0; i < k; i++)
                    assert_memory_equal(&row[i], &wide[i * 16 + n % 16], sizeof(float));
            }
            product_free(&p);
        }
}

static void packing_in_chunks(void **state)
{
    enum { N = 70, K = 416 };
    float *source = calloc(N * K, sizeof(float));
    uint8_t scratch[8192] __attribute__((aligned(64)));

    (void)state;
    assert_true(source && cabe_matmul_pack_scratch_bytes(K) <= sizeof scratch);
    for (int i = 0; i < N * K; i++)
        source[i] = random_unit();
    for (size_t d = 0; d < COUNT_OF(matmul_dtypes) && !only_from_blocks(matmul_dtypes[d]); d++) {
        enum cabe_dtype dtype = matmul_dtypes[d];
        uint64_t bytes = cabe_panel_bytes(dtype, K);
        struct guarded once = guarded_new((size_t)bytes * 5, 0), parts = guarded_new((size_t)bytes * 5, 0);

        assert_int_equal(cabe_packed_bytes(dtype, CABE_PANELS, N, K), bytes * 5);
        assert_int_equal(cabe_matmul_pack(CABE_F32, source, N, dtype, K, 0, 5, scratch, once.data, NULL), CABE_OK);
        for (int64_t panel = 4; panel >= 0; panel -= 2) {
            int64_t begin = panel ? panel - 1 : 0, end = panel + 1;
            int64_t n = end * 16 < N ? (end - begin) * 16 : N - begin * 16;

            assert_int_equal(cabe_matmul_pack(CABE_F32, source + begin * 16 * K, n, dtype, K, begin, end, scratch,
                                              parts.data + (uint64_t)begin * bytes, NULL),
                             CABE_OK);
        }
        assert_memory_equal(once.data, parts.data, bytes * 5);
        guarded_free(&once, "panels");
        guarded_free(&parts, "panels");
    }
    free(source);
}

static void packing_refuses(void **state)
{
    float rows[2 * 32] = {0};
    uint8_t block[2 * 34] = {0}, super[2 * 210] = {0};
    uint8_t out[4096] __attribute__((aligned(64))), scratch[1024] __attribute__((aligned(64)));
    struct cabe_error err;

    (void)state;
    rows[32 + 5] = INFINITY;
    assert_int_equal(cabe_matmul_pack(CABE_F32, rows, 2, CABE_I8, 32, 3, 4, scratch, out, &err), CABE_ERR_FORMAT);
    assert_string_equal(err.text, "row 49, column 5: inf is not a finite number");
    rows[32 + 5] = NAN;
    assert_int_equal(cabe_matmul_pack(CABE_F32, rows, 2, CABE_F16, 32, 0, 1, scratch, out, &err), CABE_ERR_FORMAT);
    rows[32 + 5] = 70000;
    assert_int_equal(cabe_matmul_pack(CABE_F32, rows, 2, CABE_F16, 32, 0, 1, scratch, out, &err), CABE_ERR_FORMAT);
    assert_string_equal(err.text, "row 1, column 5: 70000 is too large for f16");
    assert_int_equal(cabe_matmul_pack(CABE_F32, rows, 2, CABE_BF16, 32, 0, 1, scratch, out, &err), CABE_OK);
    super[2 * 7 + 1] = 0x7C;
    assert_int_equal(cabe_matmul_pack(CABE_F16, super, 1, CABE_F16, 32, 1, 2, scratch, out, &err), CABE_ERR_FORMAT);
    assert_string_equal(err.text, "row 16, column 7: inf is not a finite number");
    super[2 * 7 + 1] = 0;
    super[144 + 3] = 0x7C;
    assert_int_equal(cabe_matmul_pack(CABE_Q4_K, super, 2, CABE_Q4_K, 256, 0, 1, scratch, out, &err), CABE_ERR_FORMAT);
    assert_string_equal(err.text, "row 1, columns 0 to 255: scale inf is not a finite number");
    super[209] = 0xFE;
    assert_int_equal(cabe_matmul_pack(CABE_Q6_K, super, 1, CABE_Q6_K, 256, 0, 1, scratch, out, &err), CABE_ERR_FORMAT);
    assert_int_equal(cabe_matmul_pack(CABE_Q4_K, super, 1, CABE_Q4_1, 256, 0, 1, scratch, out, &err),
                     CABE_ERR_UNSUPPORTED);
    assert_int_equal(cabe_matmul_pack(CABE_F32, rows, 1, CABE_Q4_1, 32, 0, 1, scratch, out, &err),
                     CABE_ERR_UNSUPPORTED);
    block[34 + 1] = 0x7C; /* an infinite scale */
    assert_int_equal(cabe_matmul_pack(CABE_Q8_0, block, 2, CABE_Q8_0, 32, 0, 1, scratch, out, &err),
                     CABE_ERR_FORMAT);
    assert_int_equal(cabe_matmul_pack(CABE_Q8_0, block, 1, CABE_F32, 32, 0, 1, scratch, out, &err),
                     CABE_ERR_UNSUPPORTED);
    assert_int_equal(cabe_matmul_pack(CABE_F32, rows, 1, CABE_Q8_0, 31, 0, 1, scratch, out, &err),
                     CABE_ERR_UNSUPPORTED);
    assert_int_equal(cabe_matmul_pack(CABE_I64, rows, 1, CABE_F32, 32, 0, 1, scratch, out, &err),
                     CABE_ERR_UNSUPPORTED);
    assert_int_equal(cabe_matmul_pack(CABE_F32, rows, 17, CABE_F32, 2, 0, 1, scratch, out, &err), CABE_ERR_ARGUMENT);
}

static void sizes(void **state)
{
    (void)state;
    assert_int_equal(cabe_panel_bytes(CABE_F32, 384), 384 * 64);
    assert_int_equal(cabe_panel_bytes(CABE_F16, 3), 128);
    assert_int_equal(cabe_panel_bytes(CABE_Q8_0, 384), 384 * 17);
    assert_int_equal(cabe_panel_bytes(CABE_Q4_0, 32), 64 + 256);
    assert_int_equal(cabe_panel_bytes(CABE_Q4_1, 96), 16 * 3 * 20);
    assert_int_equal(cabe_panel_bytes(CABE_Q4_K, 512), 16 * 2 * 144);
    assert_int_equal(cabe_panel_bytes(CABE_Q6_K, 512), 16 * 2 * 210);
    assert_int_equal(cabe_panel_bytes(CABE_Q6_K, 256), 16 * 210 + 32);
    assert_false(cabe_packed_ok(CABE_Q4_K, CABE_PANELS, 16, 128));
    assert_int_equal(cabe_panel_bytes(CABE_I8, 384), 384 * 16 + 3 * 128);
    assert_int_equal(cabe_panel_bytes(CABE_I8, 129), 160 * 16 + 2 * 128);
    assert_int_equal(cabe_packed_bytes(CABE_F32, CABE_PANELS, 17, 2), 2 * 128);
    assert_int_equal(cabe_packed_bytes(CABE_I8, CABE_ROWS, 5, 6), 5 * 10);
    assert_true(cabe_packed_bytes(CABE_F32, CABE_PANELS, INT64_MAX, 2) == UINT64_MAX);
    assert_true(cabe_packed_bytes(CABE_F32, CABE_ROWS, INT64_MAX, 2) == UINT64_MAX);
    assert_true(cabe_packed_bytes(CABE_I8, CABE_ROWS, INT64_MAX, 2) == UINT64_MAX);
    assert_true(cabe_packed_bytes(CABE_Q4_0, CABE_PANELS, 16, INT64_MAX) == UINT64_MAX);
    assert_false(cabe_packed_ok(CABE_Q4_0, CABE_PANELS, 16, 48));
    assert_false(cabe_packed_ok(CABE_I64, CABE_PANELS, 16, 32));
    assert_false(cabe_packed_ok(CABE_F32, CABE_PANELS, -1, 32));
    assert_true(cabe_packed_ok(CABE_I8, CABE_PANELS, 16, 33));
}

static void choosing(void **state)
{
    const struct cabe_kernels *kernels;
    struct cabe_error err;

    (void)state;
    unsetenv("CABE_CPU");
    assert_int_equal(cabe_kernels_choose(&kernels, &err), CABE_OK);
    printf("matmul: this machine runs %s\n", kernels->name);
    assert_int_equal(setenv("CABE_CPU", "scalar", 1), 0);
    assert_int_equal(cabe_kernels_choose(&kernels, &err), CABE_OK);
    assert_string_equal(kernels->name, "scalar");
    assert_int_equal(setenv("CABE_CPU", "z80", 1), 0);
    assert_int_equal(cabe_kernels_choose(&kernels, &err), CABE_ERR_ARGUMENT);
    assert_null(kernels);
    assert_string_equal(err.text, "CABE_CPU: 'z80' is not one of scalar, avx2, avx512, avx512vnni");
    for (int level = 0; level < CABE_N_LEVELS; level++) {
        int here = cabe_level_here((enum cabe_level)level);

        assert_int_equal(setenv("CABE_CPU", cabe_level_name((enum cabe_level)level), 1), 0);
        assert_int_equal(cabe_kernels_choose(&kernels, &err), here ? CABE_OK : CABE_ERR_ARGUMENT);
        assert_int_equal(cabe_kernels_selftest((enum cabe_level)level), here);
        cabe_memory_fail_at(1);
        assert_int_equal(cabe_kernels_selftest((enum cabe_level)level), 0);
        cabe_memory_fail_at(0);
    }
    unsetenv("CABE_CPU");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(scalar_is_arithmetic), cmocka_unit_test(packing_keeps_values),
                                       cmocka_unit_test(packing_keeps_blocks), cmocka_unit_test(one_row),
                                       cmocka_unit_test(packing_in_chunks),    cmocka_unit_test(packing_refuses),
                                       cmocka_unit_test(sizes),                cmocka_unit_test(choosing)};
    int failed;

    seed_from_environment();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (int level = CABE_LEVEL_AVX2; level < CABE_N_LEVELS; level++) {
        const struct cabe_kernels *kernels = cabe_kernels_at((enum cabe_level)level);

        if (kernels)
            failed += run_cases(kernels);
        else
            printf("matmul: %s is not here\n", cabe_level_name((enum cabe_level)level));
    }
    return failed != 0;
}
