/* The nodes of a graph, each checked against the shapes of what it reads. */
#include <stdio.h>

#include "tensor/graph_impl.h"

/* A dimension in a message: "384", "tokens", "3 * tokens", "sequences + 1". */
static const char *dim_text(struct cabe_dim dim, char text[64])
{
    char plus[24] = "";

    dim = cabe_dim_tidy(dim);
    if (dim.symbol == CABE_SYM_ONE) {
        snprintf(text, 64, "%lld", (long long)dim.n);
        return text;
    }
    if (dim.plus)
        snprintf(plus, sizeof plus, " + %lld", (long long)dim.plus);
    if (dim.n == 1)
        snprintf(text, 64, "%s%s", cabe_symbol_name(dim.symbol), plus);
    else
        snprintf(text, 64, "%lld * %s%s", (long long)dim.n, cabe_symbol_name(dim.symbol), plus);
    return text;
}

static struct cabe_dim constant(int64_t n)
{
    return (struct cabe_dim){n, CABE_SYM_ONE, 0};
}

static int is_one(struct cabe_dim dim)
{
    return cabe_dim_same(dim, constant(1));
}

static int there(const struct cabe_graph *graph, cabe_value value)
{
    return value >= 0 && value < graph->n_values;
}

/* Whether `value` is there, and whole, to be read by node `what`. */
static int present(struct cabe_graph *graph, cabe_value value, const char *what, const char *role)
{
    if (!there(graph, value))
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: node %d has no %s", what, (int)graph->n_nodes,
                        role);
    else if (graph->values[value].missing)
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: reads %s before its last %lld columns are written",
                        what, graph->values[value].name, (long long)graph->values[value].missing);
    return graph->first.status == CABE_OK;
}

static int typed(struct cabe_graph *graph, cabe_value value, enum cabe_dtype dtype)
{
    const struct cabe_value_info *info = &graph->values[value];

    if (info->kind == CABE_STATE) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: pages of a store are no value to compute with",
                        info->name);
        return 0;
    }
    if (info->dtype == dtype && info->packing == CABE_ROWS)
        return 1;
    (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: %s in %s, wanted %s in rows", info->name,
                    cabe_dtype_name(info->dtype), info->packing == CABE_PANELS ? "panels" : "rows",
                    cabe_dtype_name(dtype));
    return 0;
}

static int shaped(struct cabe_graph *graph, cabe_value value, struct cabe_dim rows, struct cabe_dim cols)
{
    const struct cabe_value_info *info = &graph->values[value];
    char text[4][64];

    if (cabe_dim_same(info->dim[2], rows) && cabe_dim_same(info->dim[3], cols))
        return 1;
    (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: shape [%s, %s], wanted [%s, %s]", info->name,
                    dim_text(info->dim[2], text[0]), dim_text(info->dim[3], text[1]), dim_text(rows, text[2]),
                    dim_text(cols, text[3]));
    return 0;
}

/* A row or a column of `length`; `role` absent is fine where `optional`. */
static int vector(struct cabe_graph *graph, cabe_value value, enum cabe_dtype dtype, struct cabe_dim length,
                  int optional, const char *what, const char *role)
{
    const struct cabe_value_info *info;

    if (value == CABE_NO_VALUE && optional)
        return 1;
    if (!present(graph, value, what, role) || !typed(graph, value, dtype))
        return 0;
    info = &graph->values[value];
    if (is_one(info->dim[3]) && cabe_dim_same(info->dim[2], length))
        return 1;
    return shaped(graph, value, constant(1), length);
}

/* Of a row or a column. */
static struct cabe_dim length_of(const struct cabe_graph *graph, cabe_value value)
{
    const struct cabe_value_info *info = &graph->values[value];

    return is_one(info->dim[3]) ? info->dim[2] : info->dim[3];
}

static int activations(struct cabe_graph *graph, cabe_value value, const char *what, const char *role)
{
    return present(graph, value, what, role) && typed(graph, value, CABE_F32);
}

/* Like `activations`, but of the shape of `x`, and absent is fine. */
static int alike(struct cabe_graph *graph, cabe_value value, struct cabe_dim rows, struct cabe_dim cols,
                 const char *what, const char *role)
{
    if (value == CABE_NO_VALUE)
        return 1;
    return activations(graph, value, what, role) && shaped(graph, value, rows, cols);
}

/* Ids and offsets are checked against their tables before a run, so they must be known before it. */
static int is_input(struct cabe_graph *graph, cabe_value value, const char *what)
{
    if (graph->values[value].kind == CABE_INPUT)
        return 1;
    (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: %s must be an input of the graph", what,
                    graph->values[value].name);
    return 0;
}

/* A node that writes `node->out`. */
static cabe_value append_node(struct cabe_graph *graph, struct cabe_node *node)
{
    if (!cabe_graph_grow_nodes(graph))
        return CABE_NO_VALUE;
    for (int i = 0; i < CABE_NODE_INPUTS_MAX; i++) {
        cabe_value in = node->in[i];

        /* A weight read outside its segment cannot be streamed with it. */
        if (in != CABE_NO_VALUE && graph->values[in].kind == CABE_WEIGHT &&
            graph->values[in].segment != graph->n_segments - 1)
            graph->segments[graph->values[in].segment].foreign = in;
    }
    node->segment = graph->n_segments - 1;
    graph->nodes[graph->n_nodes++] = *node;
    return node->out;
}

/* A node with an output of its own. */
static cabe_value add_node(struct cabe_graph *graph, struct cabe_node *node, const char *about,
                           struct cabe_dim rows, struct cabe_dim cols)
{
    char name[96];

    snprintf(name, sizeof name, "%s:%s", cabe_op_name(node->op), about);
    node->out = cabe_graph_add_value(graph, name, CABE_TEMP, CABE_F32, CABE_ROWS, rows, cols);
    return node->out == CABE_NO_VALUE ? CABE_NO_VALUE : append_node(graph, node);
}

static struct cabe_node new_node(enum cabe_op op, cabe_value a, cabe_value b, cabe_value c, cabe_value d)
{
    return (struct cabe_node){.op = op, .in = {a, b, c, d, CABE_NO_VALUE, CABE_NO_VALUE}};
}

static const char *name_of(const struct cabe_graph *graph, cabe_value value)
{
    return value >= 0 && value < graph->n_values ? graph->values[value].name : "?";
}

cabe_value cabe_graph_gather(struct cabe_graph *graph, cabe_value table, cabe_value ids, cabe_value row_scale)
{
    struct cabe_node node = new_node(CABE_OP_GATHER, table, ids, row_scale, CABE_NO_VALUE);
    const struct cabe_value_info *t;
    struct cabe_dim count;

    if (!cabe_graph_good(graph) || !present(graph, table, "gather", "table") || !present(graph, ids, "gather", "ids"))
        return CABE_NO_VALUE;
    t = &graph->values[table];
    if ((t->kind != CABE_WEIGHT && t->dtype != CABE_F32) || t->kind == CABE_STATE || t->dtype == CABE_I32 ||
        (t->packing == CABE_ROWS && !cabe_packed_ok(t->dtype, CABE_ROWS, 1, cabe_dtype_block(t->dtype)))) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: %s in %s cannot be gathered from", t->name,
                        cabe_dtype_name(t->dtype), t->packing == CABE_PANELS ? "panels" : "rows");
        return CABE_NO_VALUE;
    }
    count = length_of(graph, ids);
    if (!vector(graph, ids, CABE_I32, count, 0, t->name, "ids") || !is_input(graph, ids, t->name) ||
        !vector(graph, row_scale, CABE_F32, t->dim[2], 1, t->name, "row scales"))
        return CABE_NO_VALUE;
    return add_node(graph, &node, t->name, count, t->dim[3]);
}

/* Whether such a product can be; the residual is the caller's to check. */
static int matmul_ok(struct cabe_graph *graph, cabe_value x, cabe_value w, cabe_value bias)
{
    const struct cabe_value_info *wi;

    if (!present(graph, w, "matmul", "weight") || !activations(graph, x, name_of(graph, w), "activations"))
        return 0;
    wi = &graph->values[w];
    if (wi->kind != CABE_WEIGHT || wi->packing != CABE_PANELS) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: a matmul wants a weight in panels", wi->name);
        return 0;
    }
    return shaped(graph, w, wi->dim[2], graph->values[x].dim[3]) &&
           vector(graph, bias, CABE_F32, wi->dim[2], 1, wi->name, "bias");
}

cabe_value cabe_graph_matmul(struct cabe_graph *graph, cabe_value x, cabe_value w, cabe_value bias,
                             cabe_value residual, enum cabe_act act, enum cabe_precision precision)
{
    struct cabe_node node = new_node(CABE_OP_MATMUL, x, w, bias, residual);
    struct cabe_dim rows, cols;

    if (!cabe_graph_good(graph) || !matmul_ok(graph, x, w, bias))
        return CABE_NO_VALUE;
    rows = graph->values[x].dim[2];
    cols = graph->values[w].dim[2];
    if (!alike(graph, residual, rows, cols, name_of(graph, w), "residual"))
        return CABE_NO_VALUE;
    node.act = act;
    node.precision = precision;
    return add_node(graph, &node, name_of(graph, w), rows, cols);
}

cabe_value cabe_graph_wide(struct cabe_graph *graph, cabe_value x, int64_t n_cols)
{
    cabe_value value;
    char name[96];

    if (!cabe_graph_good(graph) || !present(graph, x, "wide", "rows"))
        return CABE_NO_VALUE;
    if (n_cols < 1 || n_cols > CABE_GRAPH_DIM_MAX) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "wide: %lld columns", (long long)n_cols);
        return CABE_NO_VALUE;
    }
    snprintf(name, sizeof name, "wide:%s", name_of(graph, x));
    value = cabe_graph_add_value(graph, name, CABE_TEMP, CABE_F32, CABE_ROWS, graph->values[x].dim[2],
                                 constant(n_cols));
    if (value != CABE_NO_VALUE)
        graph->values[value].missing = n_cols;
    return value;
}

cabe_value cabe_graph_matmul_into(struct cabe_graph *graph, cabe_value x, cabe_value w, cabe_value bias,
                                  enum cabe_act act, enum cabe_precision precision, cabe_value into,
                                  int64_t first_col)
{
    struct cabe_node node = new_node(CABE_OP_MATMUL, x, w, bias, CABE_NO_VALUE);
    struct cabe_value_info *wide;
    int64_t n;

    if (!cabe_graph_good(graph) || !matmul_ok(graph, x, w, bias))
        return CABE_NO_VALUE;
    n = graph->values[w].dim[2].n;
    wide = there(graph, into) ? &graph->values[into] : NULL;
    if (!wide || wide->missing < n || first_col != wide->dim[3].n - wide->missing ||
        !cabe_dim_same(wide->dim[2], graph->values[x].dim[2])) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT,
                        "%s: %s has no room for %lld columns from %lld on, which follow what is written",
                        name_of(graph, w), name_of(graph, into), (long long)n, (long long)first_col);
        return CABE_NO_VALUE;
    }
    wide->missing -= n;
    node.act = act;
    node.precision = precision;
    node.first_col = first_col;
    node.out = into;
    return append_node(graph, &node);
}

cabe_value cabe_graph_norm(struct cabe_graph *graph, cabe_value x, cabe_value gamma, cabe_value beta,
                           cabe_value residual, enum cabe_norm norm, float eps)
{
    struct cabe_node node = new_node(CABE_OP_NORM, x, gamma, beta, residual);
    const char *what = name_of(graph, gamma);
    struct cabe_dim rows, cols;

    if (!cabe_graph_good(graph) || !activations(graph, x, what, "activations"))
        return CABE_NO_VALUE;
    rows = graph->values[x].dim[2];
    cols = graph->values[x].dim[3];
    if (!vector(graph, gamma, CABE_F32, cols, 0, "norm", "gamma") ||
        !vector(graph, beta, CABE_F32, cols, 1, what, "beta") ||
        !alike(graph, residual, rows, cols, what, "residual"))
        return CABE_NO_VALUE;
    node.norm = norm;
    node.eps = eps;
    return add_node(graph, &node, what, rows, cols);
}

/* Whether `qkv` holds such heads of queries, keys and values side by side. */
static int heads_ok(struct cabe_graph *graph, cabe_value qkv, int n_heads, int n_kv_heads, int head_dim)
{
    if (n_heads < 1 || n_kv_heads < 1 || head_dim < 1 || n_heads % n_kv_heads != 0 || n_heads > 65536 ||
        head_dim > 65536) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT,
                        "attention of %s: %d heads, %d of keys, of %d: not a way to share",
                        name_of(graph, qkv), n_heads, n_kv_heads, head_dim);
        return 0;
    }
    return shaped(graph, qkv, graph->values[qkv].dim[2],
                  constant(((int64_t)n_heads + 2 * (int64_t)n_kv_heads) * head_dim));
}

cabe_value cabe_graph_attention(struct cabe_graph *graph, cabe_value qkv, cabe_value offsets, int n_heads,
                                int n_kv_heads, int head_dim, float scale, enum cabe_mask mask)
{
    struct cabe_node node = new_node(CABE_OP_ATTENTION, qkv, offsets, CABE_NO_VALUE, CABE_NO_VALUE);
    struct cabe_dim rows, n_offsets;

    if (!cabe_graph_good(graph) || !activations(graph, qkv, "attention", "qkv") ||
        !present(graph, offsets, "attention", "offsets"))
        return CABE_NO_VALUE;
    if (!heads_ok(graph, qkv, n_heads, n_kv_heads, head_dim))
        return CABE_NO_VALUE;
    rows = graph->values[qkv].dim[2];
    n_offsets = (struct cabe_dim){1, CABE_SYM_SEQUENCES, 1};
    if (!vector(graph, offsets, CABE_I32, n_offsets, 0, "attention", "offsets") ||
        !is_input(graph, offsets, "attention"))
        return CABE_NO_VALUE;
    node.n_heads = n_heads;
    node.n_kv_heads = n_kv_heads;
    node.head_dim = head_dim;
    node.scale = scale;
    node.mask = mask;
    return add_node(graph, &node, name_of(graph, qkv), rows, constant((int64_t)n_heads * head_dim));
}

static cabe_value pairwise(struct cabe_graph *graph, enum cabe_op op, cabe_value a, cabe_value b)
{
    struct cabe_node node = new_node(op, a, b, CABE_NO_VALUE, CABE_NO_VALUE);
    const struct cabe_value_info *ai, *bi;

    if (!cabe_graph_good(graph) || !activations(graph, a, cabe_op_name(op), "first operand") ||
        !activations(graph, b, cabe_op_name(op), "second operand"))
        return CABE_NO_VALUE;
    ai = &graph->values[a];
    bi = &graph->values[b];
    if (!(is_one(bi->dim[2]) && cabe_dim_same(bi->dim[3], ai->dim[3])) &&
        !shaped(graph, b, ai->dim[2], ai->dim[3]))
        return CABE_NO_VALUE;
    return add_node(graph, &node, bi->name, ai->dim[2], ai->dim[3]);
}

cabe_value cabe_graph_add(struct cabe_graph *graph, cabe_value a, cabe_value b)
{
    return pairwise(graph, CABE_OP_ADD, a, b);
}

cabe_value cabe_graph_mul(struct cabe_graph *graph, cabe_value a, cabe_value b)
{
    return pairwise(graph, CABE_OP_MUL, a, b);
}

cabe_value cabe_graph_act(struct cabe_graph *graph, cabe_value x, enum cabe_act act)
{
    struct cabe_node node = new_node(CABE_OP_ACT, x, CABE_NO_VALUE, CABE_NO_VALUE, CABE_NO_VALUE);

    if (!cabe_graph_good(graph) || !activations(graph, x, "act", "activations"))
        return CABE_NO_VALUE;
    node.act = act;
    return add_node(graph, &node, name_of(graph, x), graph->values[x].dim[2], graph->values[x].dim[3]);
}

cabe_value cabe_graph_pool(struct cabe_graph *graph, cabe_value x, cabe_value offsets, cabe_value row_weight,
                           enum cabe_pooling pool)
{
    struct cabe_node node = new_node(CABE_OP_POOL, x, offsets, row_weight, CABE_NO_VALUE);
    struct cabe_dim sequences = {1, CABE_SYM_SEQUENCES, 0}, n_offsets = {1, CABE_SYM_SEQUENCES, 1};

    if (!cabe_graph_good(graph) || !activations(graph, x, "pool", "activations") ||
        !vector(graph, offsets, CABE_I32, n_offsets, 0, "pool", "offsets") ||
        !is_input(graph, offsets, "pool") ||
        !vector(graph, row_weight, CABE_F32, graph->values[x].dim[2], 1, "pool", "row weights"))
        return CABE_NO_VALUE;
    node.pool = pool;
    return add_node(graph, &node, name_of(graph, x), sequences, graph->values[x].dim[3]);
}

cabe_value cabe_graph_unit(struct cabe_graph *graph, cabe_value x, float eps)
{
    struct cabe_node node = new_node(CABE_OP_UNIT, x, CABE_NO_VALUE, CABE_NO_VALUE, CABE_NO_VALUE);

    if (!cabe_graph_good(graph) || !activations(graph, x, "unit", "activations"))
        return CABE_NO_VALUE;
    node.eps = eps;
    return add_node(graph, &node, name_of(graph, x), graph->values[x].dim[2], graph->values[x].dim[3]);
}

cabe_value cabe_graph_angles(struct cabe_graph *graph, cabe_value positions, cabe_value inv_freq, float scale)
{
    struct cabe_node node = new_node(CABE_OP_ANGLES, positions, inv_freq, CABE_NO_VALUE, CABE_NO_VALUE);
    struct cabe_dim rows, n;

    if (!cabe_graph_good(graph) || !present(graph, positions, "angles", "positions") ||
        !present(graph, inv_freq, "angles", "frequencies"))
        return CABE_NO_VALUE;
    rows = length_of(graph, positions);
    n = length_of(graph, inv_freq);
    if (n.symbol != CABE_SYM_ONE || n.n > CABE_GRAPH_DIM_MAX / 2) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "angles: %s is not a list of frequencies",
                        name_of(graph, inv_freq));
        return CABE_NO_VALUE;
    }
    if (!vector(graph, positions, CABE_I32, rows, 0, "angles", "positions") ||
        !is_input(graph, positions, "angles") || !vector(graph, inv_freq, CABE_F32, n, 0, "angles", "frequencies"))
        return CABE_NO_VALUE;
    node.scale = scale;
    return add_node(graph, &node, name_of(graph, positions), rows, constant(2 * n.n));
}

cabe_value cabe_graph_rope(struct cabe_graph *graph, cabe_value qkv, cabe_value angles, cabe_value q_gamma,
                           cabe_value k_gamma, float eps, enum cabe_rope style, int n_heads, int n_kv_heads,
                           int head_dim)
{
    struct cabe_node node = new_node(CABE_OP_ROPE, qkv, angles, q_gamma, k_gamma);
    struct cabe_dim rows, cols;

    if (!cabe_graph_good(graph) || !activations(graph, qkv, "rope", "qkv") ||
        !activations(graph, angles, "rope", "angles") || !heads_ok(graph, qkv, n_heads, n_kv_heads, head_dim))
        return CABE_NO_VALUE;
    rows = graph->values[qkv].dim[2];
    cols = graph->values[angles].dim[3];
    if (cols.symbol != CABE_SYM_ONE || cols.n % 2 != 0 || cols.n > head_dim) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "rope of %s: %s has %lld columns for heads of %d",
                        name_of(graph, qkv), name_of(graph, angles), (long long)cols.n, head_dim);
        return CABE_NO_VALUE;
    }
    if (!shaped(graph, angles, rows, cols) ||
        !vector(graph, q_gamma, CABE_F32, constant(head_dim), 1, "rope", "gamma of q") ||
        !vector(graph, k_gamma, CABE_F32, constant(head_dim), 1, "rope", "gamma of k"))
        return CABE_NO_VALUE;
    node.eps = eps;
    node.rope = style;
    node.n_heads = n_heads;
    node.n_kv_heads = n_kv_heads;
    node.head_dim = head_dim;
    return add_node(graph, &node, name_of(graph, qkv), rows, graph->values[qkv].dim[3]);
}

cabe_value cabe_graph_glu(struct cabe_graph *graph, cabe_value x, enum cabe_act act)
{
    struct cabe_node node = new_node(CABE_OP_GLU, x, CABE_NO_VALUE, CABE_NO_VALUE, CABE_NO_VALUE);
    struct cabe_dim cols;

    if (!cabe_graph_good(graph) || !activations(graph, x, "glu", "activations"))
        return CABE_NO_VALUE;
    cols = graph->values[x].dim[3];
    if (cols.symbol != CABE_SYM_ONE || cols.n % 2 != 0) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "glu: %s has no two halves", name_of(graph, x));
        return CABE_NO_VALUE;
    }
    node.act = act;
    return add_node(graph, &node, name_of(graph, x), graph->values[x].dim[2], constant(cols.n / 2));
}

/* Whether `cache` has such a layer. */
static int cache_ok(struct cabe_graph *graph, cabe_value cache, int layer, int n_kv_heads, int head_dim)
{
    const struct cabe_value_info *info;

    if (!present(graph, cache, "attention", "cache"))
        return 0;
    info = &graph->values[cache];
    if (info->kind == CABE_STATE && layer >= 0 && layer < info->dim[0].n && n_kv_heads == info->dim[1].n &&
        head_dim == info->dim[3].n)
        return 1;
    (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: not a cache with a layer %d of %d heads of %d", info->name,
                    layer, n_kv_heads, head_dim);
    return 0;
}

cabe_value cabe_graph_cached(struct cabe_graph *graph, cabe_value qkv, cabe_value cache, cabe_value offsets,
                             cabe_value starts, cabe_value page_offsets, cabe_value pages, int layer, int n_heads,
                             int n_kv_heads, int head_dim, float scale, int64_t window)
{
    struct cabe_node node = {.op = CABE_OP_CACHED, .in = {qkv, cache, offsets, starts, page_offsets, pages}};
    const struct cabe_dim n_offsets = {1, CABE_SYM_SEQUENCES, 1}, n_starts = {1, CABE_SYM_SEQUENCES, 0};
    const struct cabe_dim n_pages = {1, CABE_SYM_PAGES, 0};
    static const char what[] = "cached attention";

    if (!cabe_graph_good(graph) || !activations(graph, qkv, what, "qkv") ||
        !heads_ok(graph, qkv, n_heads, n_kv_heads, head_dim) ||
        !cache_ok(graph, cache, layer, n_kv_heads, head_dim) ||
        !vector(graph, offsets, CABE_I32, n_offsets, 0, what, "offsets") ||
        !vector(graph, starts, CABE_I32, n_starts, 0, what, "starts") ||
        !vector(graph, page_offsets, CABE_I32, n_offsets, 0, what, "offsets of pages") ||
        !present(graph, pages, what, "pages") || !typed(graph, pages, CABE_I32) ||
        !shaped(graph, pages, n_pages, constant(2)))
        return CABE_NO_VALUE;
    for (int i = 2; i < CABE_NODE_INPUTS_MAX; i++)
        if (!is_input(graph, node.in[i], what))
            return CABE_NO_VALUE;
    if (window < 0) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: a window of %lld", what, (long long)window);
        return CABE_NO_VALUE;
    }
    node.layer = layer;
    node.n_heads = n_heads;
    node.n_kv_heads = n_kv_heads;
    node.head_dim = head_dim;
    node.scale = scale;
    node.window = window;
    return add_node(graph, &node, name_of(graph, qkv), graph->values[qkv].dim[2],
                    constant((int64_t)n_heads * head_dim));
}
