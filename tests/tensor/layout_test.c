/* Random graphs: what lives at the same time never shares bytes, unless a node works in place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "random_graph.h"
#include "tensor/graph.h"

#define N_MAX RANDOM_GRAPH_NODES_MAX

static const struct cabe_dim tokens = {1, CABE_SYM_TOKENS, 0};
static const struct cabe_dim n_offsets = {1, CABE_SYM_SEQUENCES, 1};

/* The oracle: what must be intact when, written down from the nodes alone. */
struct life {
    int32_t begin, end;
};

static void find_lives(const struct cabe_graph *g, struct life *lives)
{
    int32_t n_nodes = cabe_graph_n_nodes(g);

    for (cabe_value v = 0; v < cabe_graph_n_values(g); v++)
        lives[v] = (struct life){0, n_nodes};
    for (int32_t i = 0; i < n_nodes; i++) {
        const struct cabe_node *node = cabe_graph_node(g, i);

        if (node->first_col == 0) /* else a later part of a wide value */
            lives[node->out].begin = i;
        lives[node->out].end = i;
        for (int k = 0; k < CABE_NODE_INPUTS_MAX; k++)
            if (node->in[k] != CABE_NO_VALUE && cabe_graph_value(g, node->in[k])->kind == CABE_TEMP)
                lives[node->in[k]].end = i;
    }
    for (cabe_value v = 0; v < cabe_graph_n_values(g); v++)
        if (cabe_graph_value(g, v)->kind == CABE_OUTPUT)
            lives[v].end = n_nodes;
}

static int may_share(const struct cabe_graph *g, cabe_value a, cabe_value b, const struct life *lives,
                     const uint64_t *offsets)
{
    for (int swap = 0; swap < 2; swap++, a ^= b, b ^= a, a ^= b) {
        const struct cabe_node *node;

        if (lives[a].end != lives[b].begin || offsets[a] != offsets[b])
            continue;
        if (cabe_graph_value(g, a)->kind != CABE_TEMP || cabe_graph_value(g, b)->kind == CABE_INPUT)
            continue;
        node = cabe_graph_node(g, lives[b].begin);
        switch (node->op) {
        case CABE_OP_MATMUL:
            return node->in[3] == a && node->in[0] != a;
        case CABE_OP_NORM:
            return (node->in[0] == a) + (node->in[3] == a) == 1;
        case CABE_OP_ADD:
        case CABE_OP_MUL:
            return (node->in[0] == a) + (node->in[1] == a) == 1;
        case CABE_OP_ACT:
        case CABE_OP_UNIT:
        case CABE_OP_ROPE:
            return node->in[0] == a;
        default:
            return 0;
        }
    }
    return 0;
}

static void check_layout(const struct cabe_graph *g, const int64_t bounds[CABE_N_SYMBOLS], double slack)
{
    static uint64_t offsets[8 * N_MAX];
    static struct life lives[8 * N_MAX];
    uint64_t before = cabe_memory_count(), block = cabe_graph_layout(g, bounds, offsets), most = 0;
    int32_t n = cabe_graph_n_values(g);

    assert_true(n <= 8 * N_MAX);
    assert_int_equal(block, cabe_graph_layout(g, bounds, NULL));
    assert_int_equal(cabe_memory_count(), before);
    find_lives(g, lives);
    for (cabe_value a = 0; a < n; a++) {
        const struct cabe_value_info *ia = cabe_graph_value(g, a);
        uint64_t bytes_a = cabe_value_bytes(ia, bounds);

        if (ia->kind == CABE_WEIGHT || ia->kind == CABE_STATE)
            continue;
        assert_int_equal(offsets[a] % 64, 0);
        assert_true(offsets[a] + bytes_a <= block);
        for (cabe_value b = a + 1; b < n; b++) {
            const struct cabe_value_info *ib = cabe_graph_value(g, b);

            if (ib->kind == CABE_WEIGHT || ib->kind == CABE_STATE || lives[a].end < lives[b].begin || lives[b].end < lives[a].begin)
                continue;
            if (offsets[a] + bytes_a > offsets[b] && offsets[b] + cabe_value_bytes(ib, bounds) > offsets[a])
                assert_true(may_share(g, a, b, lives, offsets));
        }
    }
    for (int32_t i = 0; i <= cabe_graph_n_nodes(g); i++) {
        uint64_t sum = 0;

        for (cabe_value v = 0; v < n; v++)
            if (cabe_graph_value(g, v)->kind != CABE_WEIGHT && lives[v].begin <= i && i <= lives[v].end)
                sum += (cabe_value_bytes(cabe_graph_value(g, v), bounds) + 63) / 64 * 64;
        if (sum > most)
            most = sum;
    }
    if (slack > 0 && (double)block > slack * (double)most)
        fail_msg("block %llu, most that lives at once %llu", (unsigned long long)block,
                 (unsigned long long)most);
}

static void live_values_never_overlap(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        int64_t bounds[CABE_N_SYMBOLS] = {1, 1, 1};
        struct cabe_graph *g;

        random_state = seed;
        g = random_graph(CABE_F32, CABE_PRECISION_HIGH, 0);
        bounds[CABE_SYM_TOKENS] = 1 + random_below(500);
        bounds[CABE_SYM_SEQUENCES] = 1 + random_below(30);
        check_layout(g, bounds, 0);
        cabe_graph_close(g);
    }
}

static void a_bert_is_tight(void **state)
{
    int64_t bounds[CABE_N_SYMBOLS] = {1, 2048, 64};
    int64_t c = 384;

    (void)state;
    for (int variant = 0; variant < 4; variant++) {
        struct cabe_graph *g;
        struct cabe_error err;
        cabe_value ids, offsets, table, h, gamma;
        char name[32];

        assert_int_equal(cabe_graph_open(&g, &err), CABE_OK);
        ids = cabe_graph_input(g, "ids", CABE_I32, tokens, ONE(1));
        offsets = cabe_graph_input(g, "offsets", CABE_I32, n_offsets, ONE(1));
        table = cabe_graph_weight(g, "table", CABE_F32, CABE_ROWS, 100, c);
        gamma = cabe_graph_weight(g, "gamma", CABE_F32, CABE_ROWS, 1, c);
        h = cabe_graph_gather(g, table, ids, CABE_NO_VALUE);
        for (int i = 0; i < 12; i++) {
            cabe_value w[4], a, u;
            int64_t f = variant & 1 ? 4 * c : 2 * c;
            int64_t shape[4][2] = {{3 * c, c}, {c, c}, {f, c}, {c, f}};

            for (int k = 0; k < 4; k++) {
                snprintf(name, sizeof name, "w.%d.%d", i, k);
                w[k] = cabe_graph_weight(g, name, CABE_F32, CABE_PANELS, shape[k][0], shape[k][1]);
            }
            a = cabe_graph_matmul(g, h, w[0], CABE_NO_VALUE, CABE_NO_VALUE, CABE_ACT_NONE,
                                  CABE_PRECISION_HIGH);
            a = cabe_graph_attention(g, a, offsets, 12, 12, (int)c / 12, 0.1f, CABE_MASK_NONE);
            a = cabe_graph_matmul(g, a, w[1], CABE_NO_VALUE, variant & 2 ? h : CABE_NO_VALUE, CABE_ACT_NONE,
                                  CABE_PRECISION_HIGH);
            h = cabe_graph_norm(g, a, gamma, CABE_NO_VALUE, variant & 2 ? CABE_NO_VALUE : h, CABE_NORM_LAYER,
                                1e-9f);
            u = cabe_graph_matmul(g, h, w[2], CABE_NO_VALUE, CABE_NO_VALUE, CABE_ACT_GELU_ERF,
                                  CABE_PRECISION_HIGH);
            u = cabe_graph_matmul(g, u, w[3], CABE_NO_VALUE, h, CABE_ACT_NONE, CABE_PRECISION_HIGH);
            h = cabe_graph_norm(g, u, gamma, CABE_NO_VALUE, CABE_NO_VALUE, CABE_NORM_LAYER, 1e-9f);
        }
        cabe_graph_output(g, cabe_graph_pool(g, h, offsets, CABE_NO_VALUE, CABE_POOL_MEAN), "embedding");
        assert_int_equal(cabe_graph_finish(g, &err), CABE_OK);
        check_layout(g, bounds, 1.1);
        cabe_graph_close(g);
    }
}

static cabe_value panels(struct cabe_graph *g, const char *what, int layer, int64_t n, int64_t k)
{
    char name[32];

    snprintf(name, sizeof name, "%s.%d", what, layer);
    return cabe_graph_weight(g, name, CABE_F16, CABE_PANELS, n, k);
}

/* q, k and v side by side; every second layer has them stacked. */
static cabe_value decoder_layer(struct cabe_graph *g, int i, cabe_value h, cabe_value angles, cabe_value gamma,
                                const cabe_value in[5])
{
    const enum cabe_precision high = CABE_PRECISION_HIGH;
    const int64_t c = 256, f = 704;
    cabe_value x = cabe_graph_norm(g, h, gamma, CABE_NO_VALUE, CABE_NO_VALUE, CABE_NORM_RMS, 1e-5f), wide;

    if (i % 2) {
        x = cabe_graph_matmul(g, x, panels(g, "qkv", i, 2 * c, c), CABE_NO_VALUE, CABE_NO_VALUE, CABE_ACT_NONE, high);
    } else {
        wide = cabe_graph_wide(g, x, 2 * c);
        cabe_graph_matmul_into(g, x, panels(g, "q", i, c, c), CABE_NO_VALUE, CABE_ACT_NONE, high, wide, 0);
        cabe_graph_matmul_into(g, x, panels(g, "k", i, c / 2, c), CABE_NO_VALUE, CABE_ACT_NONE, high, wide, c);
        x = cabe_graph_matmul_into(g, x, panels(g, "v", i, c / 2, c), CABE_NO_VALUE, CABE_ACT_NONE, high, wide,
                                   c + c / 2);
    }
    x = cabe_graph_rope(g, x, angles, CABE_NO_VALUE, CABE_NO_VALUE, 0.0f, CABE_ROPE_HALVES, 4, 2, 64);
    x = cabe_graph_cached(g, x, in[0], in[1], in[2], in[3], in[4], i, 4, 2, 64, 0.125f, 0);
    h = cabe_graph_matmul(g, x, panels(g, "o", i, c, c), CABE_NO_VALUE, h, CABE_ACT_NONE, high);
    x = cabe_graph_norm(g, h, gamma, CABE_NO_VALUE, CABE_NO_VALUE, CABE_NORM_RMS, 1e-5f);
    x = cabe_graph_matmul(g, x, panels(g, "gate_up", i, 2 * f, c), CABE_NO_VALUE, CABE_NO_VALUE, CABE_ACT_NONE, high);
    x = cabe_graph_glu(g, x, CABE_ACT_SILU);
    return cabe_graph_matmul(g, x, panels(g, "down", i, c, f), CABE_NO_VALUE, h, CABE_ACT_NONE, high);
}

static struct cabe_graph *decoder(int n_layers)
{
    const struct cabe_kv_shape shape = {n_layers, 2, 64};
    const struct cabe_dim sequences = {1, CABE_SYM_SEQUENCES, 0}, pages = {1, CABE_SYM_PAGES, 0};
    struct cabe_graph *g;
    cabe_value in[5], h, angles, gamma, table;

    assert_int_equal(cabe_graph_open(&g, &(struct cabe_error){0}), CABE_OK);
    in[0] = cabe_graph_state(g, "cache", &shape);
    in[1] = cabe_graph_input(g, "offsets", CABE_I32, n_offsets, ONE(1));
    in[2] = cabe_graph_input(g, "starts", CABE_I32, sequences, ONE(1));
    in[3] = cabe_graph_input(g, "page_offsets", CABE_I32, n_offsets, ONE(1));
    in[4] = cabe_graph_input(g, "pages", CABE_I32, pages, ONE(2));
    table = cabe_graph_weight(g, "table", CABE_F16, CABE_PANELS, 1000, 256);
    gamma = cabe_graph_weight(g, "gamma", CABE_F32, CABE_ROWS, 1, 256);
    angles = cabe_graph_angles(g, cabe_graph_input(g, "positions", CABE_I32, tokens, ONE(1)),
                               cabe_graph_weight(g, "inv_freq", CABE_F32, CABE_ROWS, 1, 32), 1.0f);
    h = cabe_graph_gather(g, table, cabe_graph_input(g, "ids", CABE_I32, tokens, ONE(1)), CABE_NO_VALUE);
    for (int i = 0; i < n_layers; i++)
        h = decoder_layer(g, i, h, angles, gamma, in);
    h = cabe_graph_gather(
        g, h, cabe_graph_input(g, "rows", CABE_I32, (struct cabe_dim){1, CABE_SYM_OUTPUTS, 0}, ONE(1)), CABE_NO_VALUE);
    cabe_graph_output(g,
                      cabe_graph_matmul(g, h, table, CABE_NO_VALUE, CABE_NO_VALUE, CABE_ACT_NONE, CABE_PRECISION_HIGH),
                      "logits");
    return g;
}

static void a_decoder_is_tight(void **state)
{
    int64_t bounds[CABE_N_SYMBOLS] = {1, 512, 8, 400, 8};
    struct cabe_graph *g = decoder(6);
    struct cabe_error err;

    (void)state;
    assert_int_equal(cabe_graph_finish(g, &err), CABE_OK);
    check_layout(g, bounds, 1.1);
    cabe_graph_close(g);
}

/* Four sequences that decode one token each after contexts of 60. */
static void counts_what_a_decoder_reads(void **state)
{
    int64_t symbols[CABE_N_SYMBOLS] = {1, 4, 4, 16, 4};
    struct cabe_graph *g = decoder(2);
    struct cabe_graph_work work;
    struct cabe_error err;
    double weights = 2.0 * (512 * 256 + 256 * 256 + 3 * 704 * 256) + 1000 * 256;

    (void)state;
    assert_int_equal(cabe_graph_finish(g, &err), CABE_OK);
    cabe_graph_work(g, symbols, &work);
    assert_true(work.matmul_ops[CABE_F16][CABE_PRECISION_HIGH] == 2.0 * 4 * weights);
    assert_true(work.kv_values == 2.0 * 2 * 4 * 64 * 2 * 64); /* layers, k and v, sequences, tokens, heads, channels */
    assert_true(work.weight_bytes > weights * 2 && work.weight_bytes < weights * 2 + 1024 * 16);
    assert_true(work.attention_ops[0] + work.attention_ops[1] > 2.0 * 4 * 4 * 63 * 256);
    cabe_graph_close(g);
}

static void refuses_to_overflow(void **state)
{
    int64_t bounds[CABE_N_SYMBOLS] = {1, INT64_MAX, INT64_MAX};
    struct cabe_graph *g;

    (void)state;
    random_state = 7;
    g = random_graph(CABE_F32, CABE_PRECISION_HIGH, 0);
    assert_true(cabe_graph_layout(g, bounds, NULL) == UINT64_MAX);
    cabe_graph_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(live_values_never_overlap),
        cmocka_unit_test(a_bert_is_tight),
        cmocka_unit_test(a_decoder_is_tight),
        cmocka_unit_test(counts_what_a_decoder_reads),
        cmocka_unit_test(refuses_to_overflow),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
