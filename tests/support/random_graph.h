/* Graphs that no model has: nodes of every kind joined at random. */
#ifndef CABE_TESTS_RANDOM_GRAPH_H
#define CABE_TESTS_RANDOM_GRAPH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tensor/graph.h"

#define RANDOM_GRAPH_NODES_MAX 400
#ifndef ONE
#define ONE(count) ((struct cabe_dim){count, CABE_SYM_ONE, 0})
#endif

static uint64_t random_state;

static inline uint32_t random_below(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % n;
}

/*
 * Values of one of four widths, joined at random from random_state; outputs out0, out1... and "last". With
 * `all_out` every value is an output, so that none shares its bytes; otherwise the graph is the same.
 */
static inline struct cabe_graph *random_graph(enum cabe_dtype dtype, enum cabe_precision precision,
                                              int all_out)
{
    static const int64_t widths[] = {16, 48, 64, 256};
    struct cabe_graph *g;
    struct cabe_error err;
    cabe_value pool[RANDOM_GRAPH_NODES_MAX];
    int width[RANDOM_GRAPH_NODES_MAX], is_out, n = 0, n_nodes = 5 + (int)random_below(60);
    cabe_value offsets, ids, w[4][4], table[4], gamma[4], angles, wide;
    char name[32];

    assert_int_equal(cabe_graph_open(&g, &err), CABE_OK);
    offsets = cabe_graph_input(g, "offsets", CABE_I32, (struct cabe_dim){1, CABE_SYM_SEQUENCES, 1}, ONE(1));
    ids = cabe_graph_input(g, "ids", CABE_I32, (struct cabe_dim){1, CABE_SYM_TOKENS, 0}, ONE(1));
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "table%d", i);
        table[i] = cabe_graph_weight(g, name, CABE_F32, CABE_ROWS, 10, widths[i]);
        snprintf(name, sizeof name, "gamma%d", i);
        gamma[i] = cabe_graph_weight(g, name, CABE_F32, CABE_ROWS, 1, widths[i]);
        for (int j = 0; j < 4; j++) {
            snprintf(name, sizeof name, "w%d%d", i, j);
            w[i][j] = cabe_graph_weight(g, name, dtype, CABE_PANELS, widths[j], widths[i]);
        }
    }
    angles = cabe_graph_angles(g, ids, cabe_graph_weight(g, "inv_freq", CABE_F32, CABE_ROWS, 1, 8), 1.0f);
    for (int k = 0; k < n_nodes; k++) {
        int i = n ? (int)random_below((uint32_t)n) : 0, j, op = n ? (int)random_below(10) : 0,
            to = (int)random_below(4);
        cabe_value other = CABE_NO_VALUE;

        for (j = 0; n && j < 8 && other == CABE_NO_VALUE; j++) {
            int candidate = (int)random_below((uint32_t)n);

            if (width[candidate] == width[i])
                other = pool[candidate];
        }
        width[n] = n ? width[i] : to;
        switch (op) {
        case 0:
            width[n] = to;
            pool[n] = cabe_graph_gather(g, table[to], ids, CABE_NO_VALUE);
            break;
        case 1:
        case 2:
            width[n] = to;
            pool[n] = cabe_graph_matmul(g, pool[i], w[width[i]][to], CABE_NO_VALUE,
                                        width[i] == to ? other : CABE_NO_VALUE, CABE_ACT_NONE, precision);
            break;
        case 3:
            pool[n] =
                cabe_graph_norm(g, pool[i], gamma[width[i]], CABE_NO_VALUE, other, CABE_NORM_RMS, 1e-6f);
            break;
        case 4:
            pool[n] = cabe_graph_add(g, pool[i], other != CABE_NO_VALUE ? other : pool[i]);
            break;
        case 5:
            pool[n] = cabe_graph_unit(g, pool[i], 1e-6f); /* products of products would leave the range */
            pool[n] = cabe_graph_mul(g, pool[n], other != CABE_NO_VALUE ? other : gamma[width[i]]);
            break;
        case 6:
            pool[n] = cabe_graph_act(g, pool[i], CABE_ACT_SILU);
            break;
        case 7: /* two products side by side, and one times the other */
            width[n] = to;
            pool[n] = cabe_graph_unit(g, pool[i], 1e-6f);
            wide = cabe_graph_wide(g, pool[n], 2 * widths[to]);
            for (j = 0; j < 2; j++)
                cabe_graph_matmul_into(g, pool[n], w[width[i]][to], CABE_NO_VALUE, j ? CABE_ACT_RELU : CABE_ACT_NONE,
                                       precision, wide, j * widths[to]);
            pool[n] = cabe_graph_glu(g, wide, CABE_ACT_SILU);
            break;
        case 8:
            if (width[i] == 1)
                pool[n] = cabe_graph_rope(g, pool[i], angles, CABE_NO_VALUE, CABE_NO_VALUE, 0.0f, CABE_ROPE_HALVES, 1,
                                          1, 16);
            else
                pool[n] = cabe_graph_act(g, pool[i], CABE_ACT_TANH);
            break;
        default: /* q, k and v of one head of 16, from a value of 48 */
            if (width[i] != 1) {
                pool[n] = cabe_graph_unit(g, pool[i], 1e-6f);
            } else {
                pool[n] = cabe_graph_attention(g, pool[i], offsets, 1, 1, 16, 0.25f, CABE_MASK_NONE);
                width[n] = 0;
            }
        }
        is_out = random_below(10) == 0;
        if (is_out || all_out) {
            snprintf(name, sizeof name, "%s%d", is_out ? "out" : "hidden", k);
            cabe_graph_output(g, pool[n], name);
        }
        n++;
    }
    cabe_graph_output(g, cabe_graph_unit(g, pool[n - 1], 1e-6f), "last");
    assert_int_equal(cabe_graph_finish(g, &err), CABE_OK);
    return g;
}

#endif
