#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "tensor/graph.h"

#define ONE(count) ((struct cabe_dim){count, CABE_SYM_ONE, 0})
static const struct cabe_dim tokens = {1, CABE_SYM_TOKENS, 0};
static const struct cabe_dim sequences = {1, CABE_SYM_SEQUENCES, 0};
static const struct cabe_dim n_offsets = {1, CABE_SYM_SEQUENCES, 1};

static struct cabe_graph *new_graph(void)
{
    struct cabe_graph *graph;
    struct cabe_error err;

    assert_int_equal(cabe_graph_open(&graph, &err), CABE_OK);
    return graph;
}

static cabe_value weight(struct cabe_graph *graph, const char *prefix, int layer, int64_t rows, int64_t cols)
{
    char name[64];

    snprintf(name, sizeof name, "blk.%d.%s", layer, prefix);
    return cabe_graph_weight(graph, name, CABE_F32, rows == 1 ? CABE_ROWS : CABE_PANELS, rows, cols);
}

/* A BERT of `n_layers` layers of width c and a feed-forward of f. */
static struct cabe_graph *bert(int n_layers, int64_t c, int64_t f, int n_heads)
{
    struct cabe_graph *g = new_graph();
    cabe_value ids = cabe_graph_input(g, "ids", CABE_I32, tokens, ONE(1));
    cabe_value positions = cabe_graph_input(g, "positions", CABE_I32, tokens, ONE(1));
    cabe_value offsets = cabe_graph_input(g, "offsets", CABE_I32, n_offsets, ONE(1));
    cabe_value words = cabe_graph_weight(g, "words", CABE_F16, CABE_ROWS, 1000, c);
    cabe_value places = cabe_graph_weight(g, "places", CABE_F32, CABE_ROWS, 128, c);
    cabe_value h = cabe_graph_add(g, cabe_graph_gather(g, words, ids, CABE_NO_VALUE),
                                  cabe_graph_gather(g, places, positions, CABE_NO_VALUE));

    h = cabe_graph_norm(g, h, weight(g, "norm", -1, 1, c), weight(g, "beta", -1, 1, c), CABE_NO_VALUE,
                        CABE_NORM_LAYER, 1e-12f);
    for (int i = 0; i < n_layers; i++) {
        cabe_value a, u;
        char name[32];

        snprintf(name, sizeof name, "layer %d", i);
        cabe_graph_segment(g, name);
        a = cabe_graph_matmul(g, h, weight(g, "qkv", i, 3 * c, c), weight(g, "qkv_b", i, 1, 3 * c),
                              CABE_NO_VALUE, CABE_ACT_NONE, CABE_PRECISION_HIGH);
        a = cabe_graph_attention(g, a, offsets, n_heads, n_heads, (int)(c / n_heads), 0.1f, CABE_MASK_NONE);
        a = cabe_graph_matmul(g, a, weight(g, "out", i, c, c), weight(g, "out_b", i, 1, c), CABE_NO_VALUE,
                              CABE_ACT_NONE, CABE_PRECISION_HIGH);
        h = cabe_graph_norm(g, a, weight(g, "n1", i, 1, c), weight(g, "n1_b", i, 1, c), h, CABE_NORM_LAYER,
                            1e-12f);
        u = cabe_graph_matmul(g, h, weight(g, "up", i, f, c), weight(g, "up_b", i, 1, f), CABE_NO_VALUE,
                              CABE_ACT_GELU_ERF, CABE_PRECISION_HIGH);
        u = cabe_graph_matmul(g, u, weight(g, "down", i, c, f), weight(g, "down_b", i, 1, c), h,
                              CABE_ACT_NONE, CABE_PRECISION_HIGH);
        h = cabe_graph_norm(g, u, weight(g, "n2", i, 1, c), weight(g, "n2_b", i, 1, c), CABE_NO_VALUE,
                            CABE_NORM_LAYER, 1e-12f);
    }
    h = cabe_graph_unit(g, cabe_graph_pool(g, h, offsets, CABE_NO_VALUE, CABE_POOL_MEAN), 1e-12f);
    cabe_graph_output(g, h, "embedding");
    return g;
}

static void builds_a_bert(void **state)
{
    struct cabe_graph *g = bert(3, 64, 256, 4);
    struct cabe_error err;
    const struct cabe_value_info *info;
    uint64_t end = 0;

    (void)state;
    assert_int_equal(cabe_graph_finish(g, &err), CABE_OK);
    assert_int_equal(cabe_graph_n_segments(g), 4);
    assert_string_equal(cabe_graph_segment_name(g, 2), "layer 1");
    info = cabe_graph_value(g, cabe_graph_find(g, "embedding"));
    assert_int_equal(info->kind, CABE_OUTPUT);
    assert_int_equal(info->dim[2].symbol, CABE_SYM_SEQUENCES);
    assert_int_equal(info->dim[3].n, 64);
    for (int s = 0; s < 4; s++) {
        assert_int_equal(cabe_graph_segment_bytes(g, s) % 4096, 0);
        assert_int_equal(cabe_graph_segment_foreign(g, s), CABE_NO_VALUE);
    }
    for (cabe_value v = 0; v < cabe_graph_n_values(g); v++) {
        info = cabe_graph_value(g, v);
        if (info->kind != CABE_WEIGHT || info->segment != 1)
            continue;
        assert_int_equal(info->offset % 64, 0);
        assert_true(info->offset >= end);
        end = info->offset + cabe_packed_bytes(info->dtype, info->packing, info->dim[2].n, info->dim[3].n);
    }
    assert_true(end <= cabe_graph_segment_bytes(g, 1) && end + 4096 > cabe_graph_segment_bytes(g, 1));
    assert_int_equal(cabe_graph_find(g, "no such"), CABE_NO_VALUE);
    assert_null(cabe_graph_value(g, -1));
    assert_null(cabe_graph_node(g, cabe_graph_n_nodes(g)));
    cabe_graph_close(g);
}

/* Finishes `g` and expects the message. */
static void expect(struct cabe_graph *g, const char *message)
{
    struct cabe_error err;

    assert_int_equal(cabe_graph_finish(g, &err), CABE_ERR_ARGUMENT);
    assert_string_equal(err.text, message);
    cabe_graph_close(g);
}

static void keeps_the_first_mistake(void **state)
{
    struct cabe_graph *g = new_graph();
    cabe_value x = cabe_graph_input(g, "x", CABE_F32, tokens, ONE(1024));
    cabe_value w = cabe_graph_weight(g, "blk.3.attn_q", CABE_F32, CABE_PANELS, 4096, 4096);

    (void)state;
    assert_int_equal(
        cabe_graph_matmul(g, x, w, CABE_NO_VALUE, CABE_NO_VALUE, CABE_ACT_NONE, CABE_PRECISION_HIGH),
        CABE_NO_VALUE);
    cabe_graph_output(g, 77, "");
    expect(g, "blk.3.attn_q: shape [4096, 4096], wanted [4096, 1024]");
}

static void names_what_is_wrong(void **state)
{
    struct cabe_graph *g;
    cabe_value x, y, w;

    (void)state;
    g = new_graph();
    x = cabe_graph_input(g, "x", CABE_F32, tokens, ONE(64));
    y = cabe_graph_input(g, "y", CABE_F32, sequences, ONE(64));
    cabe_graph_add(g, x, y);
    expect(g, "y: shape [sequences, 64], wanted [tokens, 64]");

    g = new_graph();
    x = cabe_graph_input(g, "x", CABE_F32, tokens, ONE(64));
    w = cabe_graph_weight(g, "gamma", CABE_F32, CABE_ROWS, 1, 65);
    cabe_graph_norm(g, x, w, CABE_NO_VALUE, CABE_NO_VALUE, CABE_NORM_RMS, 1e-6f);
    expect(g, "gamma: shape [1, 65], wanted [1, 64]");

    g = new_graph();
    x = cabe_graph_input(g, "x", CABE_F32, tokens, ONE(64));
    y = cabe_graph_input(g, "starts", CABE_I32, sequences, ONE(1));
    cabe_graph_pool(g, x, y, CABE_NO_VALUE, CABE_POOL_MEAN);
    expect(g, "starts: shape [sequences, 1], wanted [1, sequences + 1]");

    g = new_graph();
    cabe_graph_input(g, "x", CABE_F32, tokens, ONE(64));
    cabe_graph_input(g, "x", CABE_F32, tokens, ONE(64));
    expect(g, "x: this name is taken");

    g = new_graph();
    x = cabe_graph_input(g, "ids", CABE_I32, tokens, ONE(1));
    cabe_graph_act(g, x, CABE_ACT_RELU);
    expect(g, "ids: i32 in rows, wanted f32 in rows");

    g = new_graph();
    x = cabe_graph_input(g, "x", CABE_F32, tokens, ONE(64));
    cabe_graph_norm(g, x, CABE_NO_VALUE, CABE_NO_VALUE, CABE_NO_VALUE, CABE_NORM_RMS, 1e-6f);
    expect(g, "norm: node 0 has no gamma");

    g = new_graph();
    cabe_graph_input(g, "x", CABE_F32, tokens, ONE(64));
    expect(g, "graph: no value is an output");

    g = new_graph();
    x = cabe_graph_input(g, "x", CABE_F32, tokens, ONE(64));
    cabe_graph_output(g, x, "y");
    expect(g, "y: only what a node gives can be an output, and once");

    g = new_graph();
    cabe_graph_weight(g, "w", CABE_Q4_0, CABE_PANELS, 16, 33);
    expect(g, "w: shape [16, 33] cannot be kept as q4_0 in panels");

    g = new_graph();
    cabe_graph_weight(g, "w", CABE_F32, CABE_ROWS, INT64_MAX / 2, INT64_MAX / 2);
    expect(g, "w: shape [4611686018427387903, 4611686018427387903] cannot be kept as f32 in rows");
}

static void names_what_a_decoder_lacks(void **state)
{
    struct cabe_graph *g = new_graph();
    cabe_value x, y, w, wide;

    (void)state;
    x = cabe_graph_input(g, "x", CABE_F32, tokens, ONE(64));
    w = cabe_graph_weight(g, "w", CABE_F32, CABE_PANELS, 48, 64);
    wide = cabe_graph_wide(g, x, 64);
    cabe_graph_matmul_into(g, x, w, CABE_NO_VALUE, CABE_ACT_NONE, CABE_PRECISION_HIGH, wide, 0);
    cabe_graph_act(g, wide, CABE_ACT_RELU);
    expect(g, "act: reads wide:x before its last 16 columns are written");

    g = new_graph();
    x = cabe_graph_input(g, "x", CABE_F32, tokens, ONE(64));
    w = cabe_graph_weight(g, "w", CABE_F32, CABE_PANELS, 48, 64);
    cabe_graph_output(g, cabe_graph_wide(g, x, 64), "y");
    expect(g, "y: nothing gives its last 64 columns");

    g = new_graph();
    x = cabe_graph_input(g, "x", CABE_F32, tokens, ONE(64));
    w = cabe_graph_weight(g, "w", CABE_F32, CABE_PANELS, 48, 64);
    wide = cabe_graph_wide(g, x, 64);
    cabe_graph_matmul_into(g, x, w, CABE_NO_VALUE, CABE_ACT_NONE, CABE_PRECISION_HIGH, wide, 16);
    expect(g, "w: wide:x has no room for 48 columns from 16 on, which follow what is written");

    g = new_graph();
    x = cabe_graph_input(g, "x", CABE_F32, tokens, ONE(63));
    cabe_graph_glu(g, x, CABE_ACT_SILU);
    expect(g, "glu: x has no two halves");

    g = new_graph();
    x = cabe_graph_input(g, "x", CABE_F32, tokens, ONE(64));
    y = cabe_graph_input(g, "angles", CABE_F32, tokens, ONE(18));
    cabe_graph_rope(g, x, y, CABE_NO_VALUE, CABE_NO_VALUE, 0.0f, CABE_ROPE_HALVES, 2, 1, 16);
    expect(g, "rope of x: angles has 18 columns for heads of 16");

    g = new_graph();
    cabe_graph_state(g, "cache", &(struct cabe_kv_shape){2, 1, 513});
    expect(g, "cache: 2 layers of 1 heads of 513 are not kept in pages");

    g = new_graph();
    x = cabe_graph_input(g, "x", CABE_F32, tokens, ONE(64));
    y = cabe_graph_state(g, "cache", &(struct cabe_kv_shape){2, 1, 16});
    w = cabe_graph_input(g, "offsets", CABE_I32, n_offsets, ONE(1));
    cabe_graph_cached(g, x, y, w, w, w, w, 2, 2, 1, 16, 1.0f, 0);
    expect(g, "cache: not a cache with a layer 2 of 1 heads of 16");

    g = new_graph();
    x = cabe_graph_input(g, "x", CABE_F32, tokens, ONE(64));
    y = cabe_graph_state(g, "cache", &(struct cabe_kv_shape){2, 1, 16});
    w = cabe_graph_input(g, "offsets", CABE_I32, n_offsets, ONE(1));
    cabe_graph_cached(g, x, y, w, w, w, w, 1, 2, 1, 16, 1.0f, 0);
    expect(g, "offsets: shape [sequences + 1, 1], wanted [1, sequences]");

    g = new_graph();
    y = cabe_graph_state(g, "cache", &(struct cabe_kv_shape){2, 1, 16});
    cabe_graph_act(g, y, CABE_ACT_RELU);
    expect(g, "cache: pages of a store are no value to compute with");
}

static void sees_weights_used_elsewhere(void **state)
{
    struct cabe_graph *g = new_graph();
    cabe_value x = cabe_graph_input(g, "x", CABE_F32, tokens, ONE(64));
    cabe_value b = cabe_graph_weight(g, "b", CABE_F32, CABE_ROWS, 1, 64);
    struct cabe_error err;

    (void)state;
    cabe_graph_segment(g, "second");
    cabe_graph_output(g, cabe_graph_add(g, x, b), "y");
    assert_int_equal(cabe_graph_finish(g, &err), CABE_OK);
    assert_int_equal(cabe_graph_segment_foreign(g, 0), b);
    assert_int_equal(cabe_graph_segment_foreign(g, 1), CABE_NO_VALUE);
    cabe_graph_close(g);
}

static void counts_work(void **state)
{
    struct cabe_graph *g = bert(1, 64, 256, 4);
    int64_t symbols[CABE_N_SYMBOLS] = {1, 100, 4};
    struct cabe_graph_work work;
    struct cabe_error err;
    double per_token = 2.0 * (64 * 192 + 64 * 64 + 2 * 64 * 256);

    (void)state;
    assert_int_equal(cabe_graph_finish(g, &err), CABE_OK);
    cabe_graph_work(g, symbols, &work);
    assert_true(work.matmul_ops[CABE_F32][CABE_PRECISION_HIGH] == 100 * per_token);
    assert_true(work.matmul_ops[CABE_F16][CABE_PRECISION_HIGH] == 0);
    assert_true(work.other_ops > 4.0 * 100 * 25 * 64 && work.other_ops < 10 * 4.0 * 100 * 25 * 64);
    assert_true(work.weight_bytes == per_token / 2 * 4 + 100 * 64 * 2 + 100 * 64 * 4);
    cabe_graph_close(g);
}

static void build_survives_no_memory(void **state)
{
    (void)state;
    for (uint64_t n = 1;; n++) {
        struct cabe_graph *g;
        struct cabe_error err = {.status = CABE_OK};
        enum cabe_status status;

        cabe_memory_fail_at(n);
        status = cabe_graph_open(&g, &err);
        if (status == CABE_OK) {
            cabe_graph_close(g);
            g = NULL;
            cabe_memory_fail_at(0);
            break;
        }
        assert_null(g);
        assert_int_equal(status, CABE_ERR_OOM);
    }
    for (uint64_t n = 3;; n++) { /* 1 and 2 are those of open */
        uint64_t before = cabe_memory_count();
        struct cabe_graph *g;
        struct cabe_error err = {.status = CABE_OK};
        enum cabe_status status;

        cabe_memory_fail_at(n);
        g = bert(2, 64, 256, 4);
        status = cabe_graph_finish(g, &err);
        cabe_memory_fail_at(0);
        cabe_graph_close(g);
        if (cabe_memory_count() - before < n) {
            assert_int_equal(status, CABE_OK);
            break;
        }
        assert_int_equal(status, CABE_ERR_OOM);
        assert_int_equal(err.status, CABE_ERR_OOM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(builds_a_bert),       cmocka_unit_test(keeps_the_first_mistake),
        cmocka_unit_test(names_what_is_wrong), cmocka_unit_test(names_what_a_decoder_lacks),
        cmocka_unit_test(sees_weights_used_elsewhere),
        cmocka_unit_test(counts_work),         cmocka_unit_test(build_survives_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
