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

        lives[node->out].begin = lives[node->out].end = i;
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

        if (ia->kind == CABE_WEIGHT)
            continue;
        assert_int_equal(offsets[a] % 64, 0);
        assert_true(offsets[a] + bytes_a <= block);
        for (cabe_value b = a + 1; b < n; b++) {
            const struct cabe_value_info *ib = cabe_graph_value(g, b);

            if (ib->kind == CABE_WEIGHT || lives[a].end < lives[b].begin || lives[b].end < lives[a].begin)
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
        cmocka_unit_test(refuses_to_overflow),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
