/* Every operation through a graph, on cpu and sim, against plain loops in double. */
#include "fixture.h"

#include <math.h>

#define T 37
#define S 5
static const int64_t symbols[CABE_N_SYMBOLS] = {1, T, S};
static const int64_t bounds[CABE_N_SYMBOLS] = {1, T + 20, S + 3};
static const int32_t offsets[S + 1] = {0, 1, 1, 20, 28, T};

static cabe_value row_weight(struct cabe_graph *g, const char *name, int64_t c)
{
    return cabe_graph_weight(g, name, CABE_F32, CABE_ROWS, 1, c);
}

/* Finishes `g`, runs it with `inputs` by name, leaves output "y" in `out`; `plain` may take the weights' f32.
 */
struct given {
    const char *name;
    const void *data;
    uint64_t bytes;
};

static void run(struct cabe_graph *g, const struct given *inputs, float *out, int64_t n_out,
                void (*reference)(const struct store *store, const struct cabe_graph *g,
                                  const struct given *inputs, double *want),
                double bound)
{
    double *want = calloc((size_t)n_out, sizeof *want), largest = 1e-30;
    float *first = NULL;

    OK(cabe_graph_finish(g, &why));
    for (int kind = ON_CPU; kind <= ON_SIM; kind++) {
        struct cabe_event *event;
        struct machine m;
        struct store store;
        struct loaded l;

        machine_open(&m, (enum kind)kind, kind == ON_SIM ? 3 : 1, 0);
        store_open(&store, g, m.kernels, 99);
        OK(load(&l, &m, g, &store, RESIDENT, bounds, &why));
        for (const struct given *in = inputs; in->name; in++)
            OK(cabe_program_upload(l.program, cabe_graph_find(g, in->name), in->data, in->bytes, &why));
        OK(cabe_program_submit(l.program, symbols, NULL, &event, &why));
        OK(cabe_event_wait(event, &why));
        OK(cabe_program_download(l.program, cabe_graph_find(g, "y"), out, (uint64_t)n_out * sizeof(float),
                                 &why));
        reference(&store, g, inputs, want);
        for (int64_t i = 0; i < n_out; i++)
            largest = fabs(want[i]) > largest ? fabs(want[i]) : largest;
        for (int64_t i = 0; i < n_out; i++)
            if (!(fabs((double)out[i] - want[i]) <= bound * largest))
                fail_msg("element %lld: %g, wanted %g", (long long)i, (double)out[i], want[i]);
        if (first)
            assert_memory_equal(first, out, (size_t)n_out * sizeof(float));
        else
            first = memcpy(malloc((size_t)n_out * sizeof(float)), out, (size_t)n_out * sizeof(float));
        unload(&l);
        store_close(&store);
        machine_close(&m);
    }
    free(first);
    free(want);
    cabe_graph_close(g);
}

static struct cabe_graph *new_graph(void)
{
    struct cabe_graph *g = NULL;

    OK(cabe_graph_open(&g, &why));
    return g;
}

static float *random_floats(int64_t n, uint64_t seed)
{
    float *x = malloc((size_t)n * sizeof *x);

    for (int64_t i = 0; i < n; i++)
        x[i] = rnd_float(&seed) * 3.0f;
    return x;
}

static const float *weight_of(const struct store *store, const struct cabe_graph *g, const char *name)
{
    return store->plain[cabe_graph_find(g, name)];
}

static int n_rows_of_x, n_cols; /* of the present test, for its reference */

static const float *x_of(const struct given *inputs)
{
    return inputs[0].data;
}

static void gather_reference(const struct store *store, const struct cabe_graph *g,
                             const struct given *inputs, double *want)
{
    const int32_t *ids = inputs[0].data;
    const float *scale = weight_of(store, g, "scale");

    for (int t = 0; t < T; t++)
        for (int i = 0; i < n_cols; i++)
            want[t * n_cols + i] =
                (double)weight_of(store, g, "table")[ids[t] * n_cols + i] * (double)scale[ids[t]];
}

static void gathers(void **state)
{
    static const struct {
        enum cabe_dtype dtype;
        double bound;
    } cases[] = {{CABE_F32, 1e-6}, {CABE_F16, 1e-3},  {CABE_BF16, 1e-2},
                 {CABE_I8, 1e-2},  {CABE_Q8_0, 2e-2}, {CABE_Q4_0, 0.15}};
    int32_t ids[T];
    float out[T * 96];

    (void)state;
    for (int t = 0; t < T; t++)
        ids[t] = (t * 7) % 19;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct cabe_graph *g = new_graph();
        struct given inputs[] = {{"ids", ids, sizeof ids}, {NULL, NULL, 0}};
        cabe_value in = cabe_graph_input(g, "ids", CABE_I32, ONE(1), TOKENS);
        cabe_value table = cabe_graph_weight(g, "table", cases[c].dtype, CABE_ROWS, 19, 96);

        n_cols = 96;
        cabe_graph_output(g, cabe_graph_gather(g, table, in, row_weight(g, "scale", 19)), "y");
        run(g, inputs, out, T * 96, gather_reference, cases[c].bound);
    }
}

static double gelu(double x)
{
    return 0.5 * x * erfc(-x / sqrt(2.0));
}

static void matmul_reference(const struct store *store, const struct cabe_graph *g,
                             const struct given *inputs, double *want)
{
    const float *x = x_of(inputs), *w = weight_of(store, g, "w"), *bias = weight_of(store, g, "bias");
    const float *residual = inputs[1].data;

    for (int t = 0; t < T; t++)
        for (int j = 0; j < 40; j++) {
            double sum = (double)bias[j];

            for (int i = 0; i < n_cols; i++)
                sum += (double)x[t * n_cols + i] * (double)w[j * n_cols + i];
            want[t * 40 + j] = gelu(sum) + (double)residual[t * 40 + j];
        }
}

static void multiplies(void **state)
{
    static const struct {
        enum cabe_dtype dtype;
        enum cabe_precision precision;
        double bound;
    } cases[] = {
        {CABE_F32, CABE_PRECISION_HIGH, 2e-6},  {CABE_F16, CABE_PRECISION_HIGH, 1e-3},
        {CABE_BF16, CABE_PRECISION_HIGH, 1e-2}, {CABE_I8, CABE_PRECISION_INT8, 3e-2},
        {CABE_Q8_0, CABE_PRECISION_INT8, 3e-2}, {CABE_Q4_0, CABE_PRECISION_INT8, 0.2},
        {CABE_Q8_0, CABE_PRECISION_HIGH, 3e-2}, {CABE_F32, CABE_PRECISION_INT8, 2e-6},
    };
    float *x = random_floats(T * 96, 5), *residual = random_floats(T * 40, 6), out[T * 40];

    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct cabe_graph *g = new_graph();
        struct given inputs[] = {{"x", x, T * 96 * 4}, {"r", residual, T * 40 * 4}, {NULL, NULL, 0}};
        cabe_value in = cabe_graph_input(g, "x", CABE_F32, TOKENS, ONE(96));
        cabe_value r = cabe_graph_input(g, "r", CABE_F32, TOKENS, ONE(40));
        cabe_value w = cabe_graph_weight(g, "w", cases[c].dtype, CABE_PANELS, 40, 96);

        n_cols = 96;
        cabe_graph_output(
            g,
            cabe_graph_matmul(g, in, w, row_weight(g, "bias", 40), r, CABE_ACT_GELU_ERF, cases[c].precision),
            "y");
        run(g, inputs, out, T * 40, matmul_reference, cases[c].bound);
    }
    free(x);
    free(residual);
}

/* norm(x + r), then norm of that over itself: in place over the dying residual. */
static void norm_rows(double *x, int c, const float *gamma, const float *beta, int layer)
{
    for (int t = 0; t < n_rows_of_x; t++) {
        double mean = 0, square = 0;

        for (int i = 0; i < c; i++)
            mean += layer ? x[t * c + i] / c : 0;
        for (int i = 0; i < c; i++)
            square += (x[t * c + i] - mean) * (x[t * c + i] - mean) / c;
        for (int i = 0; i < c; i++)
            x[t * c + i] =
                (x[t * c + i] - mean) / sqrt(square + 1e-5) * (double)gamma[i] + (beta ? (double)beta[i] : 0);
    }
}

static void norm_reference(const struct store *store, const struct cabe_graph *g, const struct given *inputs,
                           double *want)
{
    const float *x = x_of(inputs), *gamma = weight_of(store, g, "gamma"), *beta = weight_of(store, g, "beta");

    for (int i = 0; i < T * n_cols; i++) /* u = x + x, v = x * x, norm(u + v) */
        want[i] = 2.0 * (double)x[i] + (double)x[i] * (double)x[i];
    norm_rows(want, n_cols, gamma, beta, 1);
    for (int i = 0; i < T * n_cols; i++)
        want[i] += (double)x[i];
    norm_rows(want, n_cols, gamma, NULL, 0);
}

static void norms(void **state)
{
    static const int widths[] = {64, 13};

    (void)state;
    for (int k = 0; k < 2; k++) {
        int64_t c = widths[k];
        struct cabe_graph *g = new_graph();
        float *x = random_floats(T * c, 7), out[T * 64];
        struct given inputs[] = {{"x", x, (uint64_t)(T * c * 4)}, {NULL, NULL, 0}};
        cabe_value in = cabe_graph_input(g, "x", CABE_F32, TOKENS, ONE(c));
        cabe_value gamma = row_weight(g, "gamma", c), beta = row_weight(g, "beta", c), u, v;

        n_cols = (int)c;
        n_rows_of_x = T;
        u = cabe_graph_add(g, in, in);
        v = cabe_graph_mul(g, in, in);
        u = cabe_graph_norm(g, u, gamma, beta, v, CABE_NORM_LAYER, 1e-5f);
        u = cabe_graph_norm(g, in, gamma, CABE_NO_VALUE, u, CABE_NORM_RMS, 1e-5f);
        cabe_graph_output(g, u, "y");
        run(g, inputs, out, T * c, norm_reference, 1e-5);
        free(x);
    }
}

static enum cabe_act the_act;

static double act_of(double x)
{
    switch (the_act) {
    case CABE_ACT_GELU_ERF:
        return gelu(x);
    case CABE_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case CABE_ACT_SILU:
        return x / (1 + exp(-x));
    case CABE_ACT_RELU:
        return x > 0 ? x : 0;
    case CABE_ACT_TANH:
        return tanh(x);
    case CABE_ACT_NONE:
        break;
    }
    return x;
}

/* act(x) * w + b with rows that are the same for all, then + act(x). */
static void elementwise_reference(const struct store *store, const struct cabe_graph *g,
                                  const struct given *inputs, double *want)
{
    for (int t = 0; t < T; t++)
        for (int i = 0; i < n_cols; i++) {
            double a = act_of((double)x_of(inputs)[t * n_cols + i]);

            want[t * n_cols + i] =
                a * (double)weight_of(store, g, "w")[i] + (double)weight_of(store, g, "b")[i] + a;
        }
}

static void elementwise(void **state)
{
    (void)state;
    for (int k = CABE_ACT_NONE; k <= CABE_ACT_TANH; k++) {
        int64_t c = k % 2 ? 48 : 27;
        struct cabe_graph *g = new_graph();
        float *x = random_floats(T * c, 8), out[T * 48];
        struct given inputs[] = {{"x", x, (uint64_t)(T * c * 4)}, {NULL, NULL, 0}};
        cabe_value in = cabe_graph_input(g, "x", CABE_F32, TOKENS, ONE(c)), a, y;

        n_cols = (int)c;
        the_act = (enum cabe_act)k;
        a = cabe_graph_act(g, in, the_act);
        y = cabe_graph_mul(g, a, row_weight(g, "w", c));
        y = cabe_graph_add(g, y, row_weight(g, "b", c));
        cabe_graph_output(g, cabe_graph_add(g, y, a), "y");
        run(g, inputs, out, T * c, elementwise_reference, 1e-5);
        free(x);
    }
}

static int heads, kv_heads, causal;

static void attention_reference(const struct store *store, const struct cabe_graph *g,
                                const struct given *inputs, double *want)
{
    const int d = 24, stride = (heads + 2 * kv_heads) * d;
    const float *qkv = x_of(inputs);

    (void)store;
    (void)g;
    for (int s = 0; s < S; s++)
        for (int i = offsets[s]; i < offsets[s + 1]; i++)
            for (int h = 0; h < heads; h++) {
                const float *q = qkv + i * stride + h * d;
                int kv = heads + h / (heads / kv_heads), end = causal ? i + 1 : offsets[s + 1];
                double total = 0, *out = want + (i * heads + h) * d;

                memset(out, 0, (size_t)d * sizeof *out);
                for (int j = offsets[s]; j < end; j++) {
                    const float *k = qkv + j * stride + kv * d, *v = k + kv_heads * d;
                    double score = 0;

                    for (int e = 0; e < d; e++)
                        score += (double)q[e] * (double)k[e];
                    score = exp(score * 0.125);
                    total += score;
                    for (int e = 0; e < d; e++)
                        out[e] += score * (double)v[e];
                }
                for (int e = 0; e < d; e++)
                    out[e] /= total;
            }
}

static void attends(void **state)
{
    static const int shapes[][3] = {{4, 4, 0}, {4, 2, 1}, {6, 1, 0}};

    (void)state;
    for (int k = 0; k < 3; k++) {
        struct cabe_graph *g = new_graph();
        int64_t c = (shapes[k][0] + 2 * shapes[k][1]) * 24;
        float *x = random_floats(T * c, 9), out[T * 144];
        struct given inputs[] = {
            {"x", x, (uint64_t)(T * c * 4)}, {"offsets", offsets, sizeof offsets}, {NULL, NULL, 0}};
        cabe_value in = cabe_graph_input(g, "x", CABE_F32, TOKENS, ONE(c));
        cabe_value at = cabe_graph_input(g, "offsets", CABE_I32, OFFSETS, ONE(1));

        heads = shapes[k][0];
        kv_heads = shapes[k][1];
        causal = shapes[k][2];
        cabe_graph_output(g,
                          cabe_graph_attention(g, in, at, heads, kv_heads, 24, 0.125f,
                                               causal ? CABE_MASK_CAUSAL : CABE_MASK_NONE),
                          "y");
        run(g, inputs, out, T * heads * 24, attention_reference, 1e-5);
        free(x);
    }
}

static enum cabe_pooling the_pool;
static int weighted;

static void pool_reference(const struct store *store, const struct cabe_graph *g, const struct given *inputs,
                           double *want)
{
    const float *x = x_of(inputs), *row = inputs[2].data;

    (void)store;
    (void)g;
    for (int s = 0; s < S; s++) {
        double *out = want + s * n_cols, total = 0, length = 0;
        int first = offsets[s], last = offsets[s + 1] - 1;

        memset(out, 0, (size_t)n_cols * sizeof *out);
        for (int t = first; t <= last; t++) {
            double share = the_pool == CABE_POOL_MEAN ? (weighted ? (double)row[t] : 1)
                                                      : t == (the_pool == CABE_POOL_FIRST ? first : last);

            total += share;
            for (int i = 0; i < n_cols; i++)
                out[i] += share * (double)x[t * n_cols + i];
        }
        for (int i = 0; i < n_cols; i++)
            length += out[i] * out[i];
        if (total > 0)
            for (int i = 0; i < n_cols; i++)
                out[i] /= sqrt(length);
    }
}

static void pools(void **state)
{
    (void)state;
    for (int k = 0; k < 4; k++) {
        struct cabe_graph *g = new_graph();
        int64_t c = 33;
        float *x = random_floats(T * c, 10), *row = random_floats(T, 11), out[S * 33];
        struct given inputs[] = {{"x", x, (uint64_t)(T * c * 4)},
                                 {"offsets", offsets, sizeof offsets},
                                 {"row", row, T * 4},
                                 {NULL, NULL, 0}};
        cabe_value in = cabe_graph_input(g, "x", CABE_F32, TOKENS, ONE(c));
        cabe_value at = cabe_graph_input(g, "offsets", CABE_I32, OFFSETS, ONE(1));
        cabe_value shares = cabe_graph_input(g, "row", CABE_F32, ONE(1), TOKENS);

        for (int t = 0; t < T; t++)
            row[t] = fabsf(row[t]) + 0.1f;
        n_cols = (int)c;
        the_pool = k < 2 ? CABE_POOL_MEAN : k == 2 ? CABE_POOL_FIRST : CABE_POOL_LAST;
        weighted = k == 1;
        in = cabe_graph_pool(g, in, at, weighted ? shares : CABE_NO_VALUE, the_pool);
        cabe_graph_output(g, cabe_graph_unit(g, in, 1e-12f), "y");
        run(g, inputs, out, S * c, pool_reference, 1e-5);
        free(x);
        free(row);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gathers),     cmocka_unit_test(multiplies), cmocka_unit_test(norms),
        cmocka_unit_test(elementwise), cmocka_unit_test(attends),    cmocka_unit_test(pools),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
