#include "tensor/graph_impl.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

#define WEIGHT_ALIGN 64u
#define SEGMENT_ALIGN 4096u
#define DIM_MAX (INT64_C(1) << 40) /* of each constant of a dimension: sizes are then far from overflow */

static const char *const op_names[CABE_N_OPS] = {"gather", "matmul", "norm", "attention", "add",
                                                 "mul",    "act",    "pool", "unit"};
static const char *const symbol_names[CABE_N_SYMBOLS] = {"1", "tokens", "sequences"};

const char *cabe_op_name(enum cabe_op op)
{
    return (unsigned)op < CABE_N_OPS ? op_names[op] : "?";
}

struct cabe_dim cabe_dim_tidy(struct cabe_dim dim)
{
    if (dim.symbol == CABE_SYM_ONE || dim.n == 0) {
        dim.n = dim.symbol == CABE_SYM_ONE ? dim.n + dim.plus : dim.plus;
        dim.symbol = CABE_SYM_ONE;
        dim.plus = 0;
    }
    return dim;
}

int cabe_dim_same(struct cabe_dim a, struct cabe_dim b)
{
    a = cabe_dim_tidy(a);
    b = cabe_dim_tidy(b);
    return a.n == b.n && a.symbol == b.symbol && a.plus == b.plus;
}

enum cabe_status cabe_graph_open(struct cabe_graph **out, struct cabe_error *err)
{
    struct cabe_graph *graph = cabe_calloc(1, sizeof *graph);

    *out = NULL;
    if (!graph)
        return cabe_fail(err, CABE_ERR_OOM, "graph: no memory for its handle");
    pthread_mutex_init(&graph->lock, NULL);
    cabe_graph_segment(graph, "begin");
    if (graph->first.status != CABE_OK) {
        if (err)
            *err = graph->first;
        cabe_graph_close(graph);
        return CABE_ERR_OOM;
    }
    *out = graph;
    return CABE_OK;
}

void cabe_graph_close(struct cabe_graph *graph)
{
    if (!graph)
        return;
    pthread_mutex_destroy(&graph->lock);
    cabe_free(graph->values);
    cabe_free(graph->nodes);
    cabe_free(graph->segments);
    cabe_free(graph->items);
    cabe_free(graph->root);
    cabe_free(graph->sorted);
    cabe_free(graph->placed);
    cabe_free(graph);
}

/* Building goes on only while nothing is wrong. */
static int good(const struct cabe_graph *graph)
{
    assert(!graph->finished);
    return graph->first.status == CABE_OK;
}

/* Room for one more item at `*items`. */
static int grow(struct cabe_graph *graph, void **items, int32_t n, int32_t *max, int32_t limit,
                size_t item_bytes)
{
    int32_t wanted = *max ? *max * 2 : 32;
    void *grown;

    if (n < *max)
        return 1;
    if (n >= limit) {
        (void)cabe_fail(&graph->first, CABE_ERR_LIMIT, "graph: more than %d values, nodes or segments",
                        (int)limit);
        return 0;
    }
    grown = cabe_realloc(*items, (size_t)wanted, item_bytes);
    if (!grown) {
        (void)cabe_fail(&graph->first, CABE_ERR_OOM, "graph: no memory for %d values, nodes or segments",
                        (int)wanted);
        return 0;
    }
    *items = grown;
    *max = wanted;
    return 1;
}

static int grow_values(struct cabe_graph *graph)
{
    void *items = graph->values;
    int ok =
        grow(graph, &items, graph->n_values, &graph->values_max, GRAPH_VALUES_MAX, sizeof *graph->values);

    graph->values = items;
    return ok;
}

static int grow_nodes(struct cabe_graph *graph)
{
    void *items = graph->nodes;
    int ok = grow(graph, &items, graph->n_nodes, &graph->nodes_max, GRAPH_VALUES_MAX, sizeof *graph->nodes);

    graph->nodes = items;
    return ok;
}

void cabe_graph_segment(struct cabe_graph *graph, const char *name)
{
    void *items = graph->segments;
    struct graph_segment *segment;

    if (!good(graph))
        return;
    if (!grow(graph, &items, graph->n_segments, &graph->segments_max, GRAPH_SEGMENTS_MAX, sizeof *segment))
        return;
    graph->segments = items;
    segment = &graph->segments[graph->n_segments++];
    memset(segment, 0, sizeof *segment);
    segment->foreign = CABE_NO_VALUE;
    snprintf(segment->name, sizeof segment->name, "%s", name);
}

/* Names are how weights, inputs and outputs are found: one each, whole. */
static int check_name(struct cabe_graph *graph, const char *name)
{
    if (name[0] == '\0' || strlen(name) >= sizeof graph->values[0].name) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: a name has 1 to %zu bytes, this one %zu", name,
                        sizeof graph->values[0].name - 1, strlen(name));
        return 0;
    }
    if (cabe_graph_find(graph, name) != CABE_NO_VALUE) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: this name is taken", name);
        return 0;
    }
    return 1;
}

static cabe_value add_value(struct cabe_graph *graph, const char *name, enum cabe_value_kind kind,
                            enum cabe_dtype dtype, enum cabe_packing packing, struct cabe_dim rows,
                            struct cabe_dim cols)
{
    struct cabe_value_info *info;

    if (!grow_values(graph))
        return CABE_NO_VALUE;
    info = &graph->values[graph->n_values];
    memset(info, 0, sizeof *info);
    snprintf(info->name, sizeof info->name, "%s", name);
    info->kind = kind;
    info->dtype = dtype;
    info->packing = packing;
    info->dim[0] = info->dim[1] = (struct cabe_dim){1, CABE_SYM_ONE, 0};
    info->dim[2] = cabe_dim_tidy(rows);
    info->dim[3] = cabe_dim_tidy(cols);
    info->segment = graph->n_segments - 1;
    return graph->n_values++;
}

static int dim_usable(struct cabe_dim dim)
{
    if ((unsigned)dim.symbol >= CABE_N_SYMBOLS || dim.n < 0 || dim.n > DIM_MAX || dim.plus < 0 ||
        dim.plus > DIM_MAX)
        return 0;
    dim = cabe_dim_tidy(dim);
    return dim.n > 0;
}

cabe_value cabe_graph_input(struct cabe_graph *graph, const char *name, enum cabe_dtype dtype,
                            struct cabe_dim rows, struct cabe_dim cols)
{
    if (!good(graph) || !check_name(graph, name))
        return CABE_NO_VALUE;
    if ((unsigned)dtype >= CABE_N_DTYPES || cabe_dtype_block(dtype) != 1) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: an input cannot be %s", name,
                        cabe_dtype_name(dtype));
        return CABE_NO_VALUE;
    }
    if (!dim_usable(rows) || !dim_usable(cols)) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT,
                        "%s: shape [%lld * symbol %d + %lld, %lld * symbol %d + %lld] is not one", name,
                        (long long)rows.n, (int)rows.symbol, (long long)rows.plus, (long long)cols.n,
                        (int)cols.symbol, (long long)cols.plus);
        return CABE_NO_VALUE;
    }
    return add_value(graph, name, CABE_INPUT, dtype, CABE_ROWS, rows, cols);
}

cabe_value cabe_graph_weight(struct cabe_graph *graph, const char *name, enum cabe_dtype dtype,
                             enum cabe_packing packing, int64_t rows, int64_t cols)
{
    if (!good(graph) || !check_name(graph, name))
        return CABE_NO_VALUE;
    if (rows < 1 || cols < 1 || rows > DIM_MAX || cols > DIM_MAX || (unsigned)dtype >= CABE_N_DTYPES ||
        !cabe_packed_ok(dtype, packing, rows, cols) ||
        cabe_packed_bytes(dtype, packing, rows, cols) > INT64_MAX) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: shape [%lld, %lld] cannot be kept as %s in %s",
                        name, (long long)rows, (long long)cols, cabe_dtype_name(dtype),
                        packing == CABE_PANELS ? "panels" : "rows");
        return CABE_NO_VALUE;
    }
    return add_value(graph, name, CABE_WEIGHT, dtype, packing, (struct cabe_dim){rows, CABE_SYM_ONE, 0},
                     (struct cabe_dim){cols, CABE_SYM_ONE, 0});
}

void cabe_graph_output(struct cabe_graph *graph, cabe_value value, const char *name)
{
    struct cabe_value_info *info;

    if (!good(graph) || !check_name(graph, name))
        return;
    if (value < 0 || value >= graph->n_values || graph->values[value].kind != CABE_TEMP) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT,
                        "%s: only what a node gives can be an output, and once", name);
        return;
    }
    info = &graph->values[value];
    info->kind = CABE_OUTPUT;
    snprintf(info->name, sizeof info->name, "%s", name);
}

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
        snprintf(text, 64, "%s%s", symbol_names[dim.symbol], plus);
    else
        snprintf(text, 64, "%lld * %s%s", (long long)dim.n, symbol_names[dim.symbol], plus);
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

/* Whether `value` is there to be read by node `what`, as activations or as a table of plain rows. */
static int present(struct cabe_graph *graph, cabe_value value, const char *what, const char *role)
{
    if (value >= 0 && value < graph->n_values)
        return 1;
    (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: node %d has no %s", what, (int)graph->n_nodes,
                    role);
    return 0;
}

static int typed(struct cabe_graph *graph, cabe_value value, enum cabe_dtype dtype)
{
    const struct cabe_value_info *info = &graph->values[value];

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

static cabe_value add_node(struct cabe_graph *graph, struct cabe_node *node, const char *about,
                           struct cabe_dim rows, struct cabe_dim cols)
{
    char name[96];

    if (!grow_nodes(graph))
        return CABE_NO_VALUE;
    for (int i = 0; i < CABE_NODE_INPUTS_MAX; i++) {
        cabe_value in = node->in[i];

        /* A weight read outside its segment cannot be streamed with it. */
        if (in != CABE_NO_VALUE && graph->values[in].kind == CABE_WEIGHT &&
            graph->values[in].segment != graph->n_segments - 1)
            graph->segments[graph->values[in].segment].foreign = in;
    }
    snprintf(name, sizeof name, "%s:%s", op_names[node->op], about);
    node->segment = graph->n_segments - 1;
    node->out = add_value(graph, name, CABE_TEMP, CABE_F32, CABE_ROWS, rows, cols);
    if (node->out == CABE_NO_VALUE)
        return CABE_NO_VALUE;
    graph->nodes[graph->n_nodes++] = *node;
    return node->out;
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

    if (!good(graph) || !present(graph, table, "gather", "table") || !present(graph, ids, "gather", "ids"))
        return CABE_NO_VALUE;
    t = &graph->values[table];
    if (t->packing != CABE_ROWS || (t->kind != CABE_WEIGHT && t->dtype != CABE_F32) || t->dtype == CABE_I32 ||
        !cabe_packed_ok(t->dtype, CABE_ROWS, 1, cabe_dtype_block(t->dtype))) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: %s in %s cannot be gathered from", t->name,
                        cabe_dtype_name(t->dtype), t->packing == CABE_PANELS ? "panels" : "rows");
        return CABE_NO_VALUE;
    }
    count = is_one(graph->values[ids].dim[3]) ? graph->values[ids].dim[2] : graph->values[ids].dim[3];
    if (!vector(graph, ids, CABE_I32, count, 0, t->name, "ids") || !is_input(graph, ids, t->name) ||
        !vector(graph, row_scale, CABE_F32, t->dim[2], 1, t->name, "row scales"))
        return CABE_NO_VALUE;
    return add_node(graph, &node, t->name, count, t->dim[3]);
}

cabe_value cabe_graph_matmul(struct cabe_graph *graph, cabe_value x, cabe_value w, cabe_value bias,
                             cabe_value residual, enum cabe_act act, enum cabe_precision precision)
{
    struct cabe_node node = new_node(CABE_OP_MATMUL, x, w, bias, residual);
    const struct cabe_value_info *wi, *xi;

    if (!good(graph) || !present(graph, w, "matmul", "weight") ||
        !activations(graph, x, name_of(graph, w), "activations"))
        return CABE_NO_VALUE;
    wi = &graph->values[w];
    xi = &graph->values[x];
    if (wi->kind != CABE_WEIGHT || wi->packing != CABE_PANELS) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: a matmul wants a weight in panels", wi->name);
        return CABE_NO_VALUE;
    }
    if (!shaped(graph, w, wi->dim[2], xi->dim[3]) ||
        !vector(graph, bias, CABE_F32, wi->dim[2], 1, wi->name, "bias") ||
        !alike(graph, residual, xi->dim[2], wi->dim[2], wi->name, "residual"))
        return CABE_NO_VALUE;
    node.act = act;
    node.precision = precision;
    return add_node(graph, &node, wi->name, xi->dim[2], wi->dim[2]);
}

cabe_value cabe_graph_norm(struct cabe_graph *graph, cabe_value x, cabe_value gamma, cabe_value beta,
                           cabe_value residual, enum cabe_norm norm, float eps)
{
    struct cabe_node node = new_node(CABE_OP_NORM, x, gamma, beta, residual);
    const char *what = name_of(graph, gamma);
    struct cabe_dim rows, cols;

    if (!good(graph) || !activations(graph, x, what, "activations"))
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

cabe_value cabe_graph_attention(struct cabe_graph *graph, cabe_value qkv, cabe_value offsets, int n_heads,
                                int n_kv_heads, int head_dim, float scale, enum cabe_mask mask)
{
    struct cabe_node node = new_node(CABE_OP_ATTENTION, qkv, offsets, CABE_NO_VALUE, CABE_NO_VALUE);
    struct cabe_dim rows, n_offsets;

    if (!good(graph) || !activations(graph, qkv, "attention", "qkv") ||
        !present(graph, offsets, "attention", "offsets"))
        return CABE_NO_VALUE;
    if (n_heads < 1 || n_kv_heads < 1 || head_dim < 1 || n_heads % n_kv_heads != 0 || n_heads > 65536 ||
        head_dim > 65536) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT,
                        "attention of %s: %d heads, %d of keys, of %d: not a way to share",
                        name_of(graph, qkv), n_heads, n_kv_heads, head_dim);
        return CABE_NO_VALUE;
    }
    rows = graph->values[qkv].dim[2];
    n_offsets = (struct cabe_dim){1, CABE_SYM_SEQUENCES, 1};
    if (!shaped(graph, qkv, rows, constant(((int64_t)n_heads + 2 * (int64_t)n_kv_heads) * head_dim)) ||
        !vector(graph, offsets, CABE_I32, n_offsets, 0, "attention", "offsets") ||
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

    if (!good(graph) || !activations(graph, a, op_names[op], "first operand") ||
        !activations(graph, b, op_names[op], "second operand"))
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

    if (!good(graph) || !activations(graph, x, "act", "activations"))
        return CABE_NO_VALUE;
    node.act = act;
    return add_node(graph, &node, name_of(graph, x), graph->values[x].dim[2], graph->values[x].dim[3]);
}

cabe_value cabe_graph_pool(struct cabe_graph *graph, cabe_value x, cabe_value offsets, cabe_value row_weight,
                           enum cabe_pool pool)
{
    struct cabe_node node = new_node(CABE_OP_POOL, x, offsets, row_weight, CABE_NO_VALUE);
    struct cabe_dim sequences = {1, CABE_SYM_SEQUENCES, 0}, n_offsets = {1, CABE_SYM_SEQUENCES, 1};

    if (!good(graph) || !activations(graph, x, "pool", "activations") ||
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

    if (!good(graph) || !activations(graph, x, "unit", "activations"))
        return CABE_NO_VALUE;
    node.eps = eps;
    return add_node(graph, &node, name_of(graph, x), graph->values[x].dim[2], graph->values[x].dim[3]);
}

/* Weights one after another in the order they were declared. */
static enum cabe_status lay_weights(struct cabe_graph *graph)
{
    for (int32_t v = 0; v < graph->n_values; v++) {
        struct cabe_value_info *info = &graph->values[v];
        struct graph_segment *segment = &graph->segments[info->segment];
        uint64_t bytes;

        if (info->kind != CABE_WEIGHT)
            continue;
        bytes = cabe_packed_bytes(info->dtype, info->packing, info->dim[2].n, info->dim[3].n);
        info->offset = (segment->bytes + WEIGHT_ALIGN - 1) / WEIGHT_ALIGN * WEIGHT_ALIGN;
        if (__builtin_add_overflow(info->offset, bytes, &segment->bytes) || segment->bytes > INT64_MAX)
            return cabe_fail(&graph->first, CABE_ERR_LIMIT, "segment %s: its weights pass %lld bytes",
                             segment->name, (long long)INT64_MAX);
    }
    for (int32_t s = 0; s < graph->n_segments; s++)
        graph->segments[s].bytes =
            (graph->segments[s].bytes + SEGMENT_ALIGN - 1) / SEGMENT_ALIGN * SEGMENT_ALIGN;
    return CABE_OK;
}

enum cabe_status cabe_graph_finish(struct cabe_graph *graph, struct cabe_error *err)
{
    enum cabe_status status = graph->first.status;
    int has_output = 0;

    assert(!graph->finished);
    for (int32_t v = 0; v < graph->n_values; v++)
        has_output |= graph->values[v].kind == CABE_OUTPUT;
    if (status == CABE_OK && !has_output)
        status = cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "graph: no value is an output");
    if (status == CABE_OK)
        status = lay_weights(graph);
    if (status == CABE_OK)
        status = cabe_layout_prepare(graph);
    if (status != CABE_OK) {
        if (err)
            *err = graph->first;
        return status;
    }
    graph->finished = 1;
    return CABE_OK;
}

int32_t cabe_graph_n_values(const struct cabe_graph *graph)
{
    return graph->n_values;
}

const struct cabe_value_info *cabe_graph_value(const struct cabe_graph *graph, cabe_value value)
{
    return value >= 0 && value < graph->n_values ? &graph->values[value] : NULL;
}

cabe_value cabe_graph_find(const struct cabe_graph *graph, const char *name)
{
    for (int32_t v = 0; v < graph->n_values; v++)
        if (graph->values[v].kind != CABE_TEMP && strcmp(graph->values[v].name, name) == 0)
            return v;
    return CABE_NO_VALUE;
}

int32_t cabe_graph_n_nodes(const struct cabe_graph *graph)
{
    return graph->n_nodes;
}

const struct cabe_node *cabe_graph_node(const struct cabe_graph *graph, int32_t node)
{
    return node >= 0 && node < graph->n_nodes ? &graph->nodes[node] : NULL;
}

int32_t cabe_graph_n_segments(const struct cabe_graph *graph)
{
    return graph->n_segments;
}

const char *cabe_graph_segment_name(const struct cabe_graph *graph, int32_t segment)
{
    return segment >= 0 && segment < graph->n_segments ? graph->segments[segment].name : "?";
}

uint64_t cabe_graph_segment_bytes(const struct cabe_graph *graph, int32_t segment)
{
    return segment >= 0 && segment < graph->n_segments ? graph->segments[segment].bytes : 0;
}

cabe_value cabe_graph_segment_foreign(const struct cabe_graph *graph, int32_t segment)
{
    return segment >= 0 && segment < graph->n_segments ? graph->segments[segment].foreign : CABE_NO_VALUE;
}
