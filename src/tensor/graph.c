#include "tensor/graph_impl.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

#define WEIGHT_ALIGN 64u
#define SEGMENT_ALIGN 4096u
#define KV_MAX 65536 /* layers, and heads, of a cache */

static const char *const op_names[CABE_N_OPS] = {"gather", "matmul", "norm", "attention", "add",  "mul", "act",
                                                 "pool",   "unit",   "angles", "rope",    "glu", "cached"};
static const char *const symbol_names[CABE_N_SYMBOLS] = {"1", "tokens", "sequences", "pages", "outputs"};

const char *cabe_op_name(enum cabe_op op)
{
    return (unsigned)op < CABE_N_OPS ? op_names[op] : "?";
}

const char *cabe_symbol_name(enum cabe_symbol symbol)
{
    return (unsigned)symbol < CABE_N_SYMBOLS ? symbol_names[symbol] : "?";
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

int cabe_graph_good(const struct cabe_graph *graph)
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

int cabe_graph_grow_nodes(struct cabe_graph *graph)
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

    if (!cabe_graph_good(graph))
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

cabe_value cabe_graph_add_value(struct cabe_graph *graph, const char *name, enum cabe_value_kind kind,
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
    if ((unsigned)dim.symbol >= CABE_N_SYMBOLS || dim.n < 0 || dim.n > CABE_GRAPH_DIM_MAX || dim.plus < 0 ||
        dim.plus > CABE_GRAPH_DIM_MAX)
        return 0;
    dim = cabe_dim_tidy(dim);
    return dim.n > 0;
}

cabe_value cabe_graph_input(struct cabe_graph *graph, const char *name, enum cabe_dtype dtype,
                            struct cabe_dim rows, struct cabe_dim cols)
{
    if (!cabe_graph_good(graph) || !check_name(graph, name))
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
    return cabe_graph_add_value(graph, name, CABE_INPUT, dtype, CABE_ROWS, rows, cols);
}

cabe_value cabe_graph_weight(struct cabe_graph *graph, const char *name, enum cabe_dtype dtype,
                             enum cabe_packing packing, int64_t rows, int64_t cols)
{
    if (!cabe_graph_good(graph) || !check_name(graph, name))
        return CABE_NO_VALUE;
    if (rows < 1 || cols < 1 || rows > CABE_GRAPH_DIM_MAX || cols > CABE_GRAPH_DIM_MAX || (unsigned)dtype >= CABE_N_DTYPES ||
        !cabe_packed_ok(dtype, packing, rows, cols) ||
        cabe_packed_bytes(dtype, packing, rows, cols) > INT64_MAX) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: shape [%lld, %lld] cannot be kept as %s in %s",
                        name, (long long)rows, (long long)cols, cabe_dtype_name(dtype),
                        packing == CABE_PANELS ? "panels" : "rows");
        return CABE_NO_VALUE;
    }
    return cabe_graph_add_value(graph, name, CABE_WEIGHT, dtype, packing, (struct cabe_dim){rows, CABE_SYM_ONE, 0},
                     (struct cabe_dim){cols, CABE_SYM_ONE, 0});
}

cabe_value cabe_graph_state(struct cabe_graph *graph, const char *name, const struct cabe_kv_shape *shape)
{
    cabe_value value;

    if (!cabe_graph_good(graph) || !check_name(graph, name))
        return CABE_NO_VALUE;
    if (shape->n_layers < 1 || shape->n_layers > KV_MAX || shape->n_heads < 1 || shape->n_heads > KV_MAX ||
        shape->head_dim < 1 || shape->head_dim > CABE_HEAD_DIM_MAX) {
        (void)cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: %d layers of %d heads of %d are not kept in pages",
                        name, (int)shape->n_layers, (int)shape->n_heads, (int)shape->head_dim);
        return CABE_NO_VALUE;
    }
    value = cabe_graph_add_value(graph, name, CABE_STATE, CABE_F32, CABE_ROWS,
                                 (struct cabe_dim){CABE_PAGE_TOKENS, CABE_SYM_ONE, 0},
                                 (struct cabe_dim){shape->head_dim, CABE_SYM_ONE, 0});
    if (value != CABE_NO_VALUE) {
        graph->values[value].dim[0].n = shape->n_layers;
        graph->values[value].dim[1].n = shape->n_heads;
    }
    return value;
}

void cabe_graph_output(struct cabe_graph *graph, cabe_value value, const char *name)
{
    struct cabe_value_info *info;

    if (!cabe_graph_good(graph) || !check_name(graph, name))
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
    for (int32_t v = 0; v < graph->n_values; v++) {
        has_output |= graph->values[v].kind == CABE_OUTPUT;
        if (status == CABE_OK && graph->values[v].missing)
            status = cabe_fail(&graph->first, CABE_ERR_ARGUMENT, "%s: nothing gives its last %lld columns",
                               graph->values[v].name, (long long)graph->values[v].missing);
    }
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
