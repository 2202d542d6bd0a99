/*
 * Where temporaries, inputs and outputs lie: greedy by size over live intervals, each into the smallest gap
 * that takes it (Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net Inference, 2020).
 *
 * Inputs share their bytes with nobody, so that one may be uploaded once and used by many runs, and the next
 * inputs may arrive before the last outputs have left. Outputs live from their node to the end. A node that
 * works element by element writes over an operand whose life ends there.
 */
#include "tensor/graph_impl.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#define ALIGN 64u

/* Whether the value lies in the block. */
static int has_bytes(const struct cabe_value_info *info)
{
    return info->kind != CABE_WEIGHT && info->kind != CABE_STATE;
}

/* How often node reads `value`. */
static int uses(const struct cabe_node *node, cabe_value value)
{
    int n = 0;

    for (int i = 0; i < CABE_NODE_INPUTS_MAX; i++)
        n += node->in[i] == value;
    return n;
}

/*
 * The operand of node `i` that its output may overwrite, or CABE_NO_VALUE. `last[value]`: the node that reads
 * it last.
 */
static cabe_value dying_operand(const struct cabe_graph *graph, int32_t i, const int32_t *last)
{
    const struct cabe_node *node = &graph->nodes[i];
    cabe_value candidates[2] = {CABE_NO_VALUE, CABE_NO_VALUE};

    switch (node->op) {
    case CABE_OP_ADD:
    case CABE_OP_MUL:
        candidates[0] = node->in[0];
        candidates[1] = node->in[1];
        break;
    case CABE_OP_NORM: /* x + residual is residual + x; the residual has lived longer, so it is the better
                          home */
        candidates[0] = node->in[3];
        candidates[1] = node->in[0];
        break;
    case CABE_OP_ACT:
    case CABE_OP_UNIT:
    case CABE_OP_ROPE:
        candidates[0] = node->in[0];
        break;
    case CABE_OP_MATMUL: /* a tile reads its part of the residual before it writes it */
        candidates[0] = node->in[3];
        break;
    case CABE_OP_GATHER:
    case CABE_OP_ATTENTION:
    case CABE_OP_POOL:
    case CABE_OP_ANGLES:
    case CABE_OP_GLU:
    case CABE_OP_CACHED:
    case CABE_N_OPS:
        break;
    }
    for (int c = 0; c < 2; c++) {
        cabe_value v = candidates[c];

        if (v == CABE_NO_VALUE || graph->values[v].kind != CABE_TEMP || last[v] != i || uses(node, v) != 1)
            continue;
        if (cabe_dim_same(graph->values[v].dim[2], graph->values[node->out].dim[2]) &&
            cabe_dim_same(graph->values[v].dim[3], graph->values[node->out].dim[3]))
            return v;
    }
    return CABE_NO_VALUE;
}

/* Fills root[] and items[] (indexed by root at first) from the order of the nodes. */
static void find_lives(struct cabe_graph *graph, int32_t *last)
{
    int32_t n_kept = 0;

    for (int32_t v = 0; v < graph->n_values; v++) {
        graph->root[v] = v;
        last[v] = -1;
        graph->items[v] = (struct layout_item){.root = v, .begin = 0, .end = graph->n_nodes};
    }
    for (int32_t i = 0; i < graph->n_nodes; i++)
        for (int k = 0; k < CABE_NODE_INPUTS_MAX; k++)
            if (graph->nodes[i].in[k] != CABE_NO_VALUE)
                last[graph->nodes[i].in[k]] = i;
    for (int32_t i = 0; i < graph->n_nodes; i++) {
        cabe_value out = graph->nodes[i].out, over = dying_operand(graph, i, last);
        int32_t end = graph->values[out].kind == CABE_OUTPUT ? graph->n_nodes : last[out] > i ? last[out] : i;

        if (over != CABE_NO_VALUE) {
            graph->root[out] = graph->root[over];
            graph->items[graph->root[out]].end = end;
        } else {
            if (graph->nodes[i].first_col == 0) /* else a part that is written later than the first */
                graph->items[out].begin = i;
            graph->items[out].end = end;
        }
    }
    for (int32_t v = 0; v < graph->n_values; v++)
        if (has_bytes(&graph->values[v]) && graph->root[v] == v)
            graph->items[n_kept++] = graph->items[v];
    graph->n_items = n_kept;
}

enum cabe_status cabe_layout_prepare(struct cabe_graph *graph)
{
    size_t n = (size_t)graph->n_values;
    int32_t *last = cabe_malloc(n * sizeof *last);

    graph->items = cabe_calloc(n, sizeof *graph->items);
    graph->sorted = cabe_calloc(n, sizeof *graph->sorted);
    graph->placed = cabe_calloc(n, sizeof *graph->placed);
    graph->root = cabe_calloc(n, sizeof *graph->root);
    if (!last || !graph->items || !graph->sorted || !graph->placed || !graph->root) {
        cabe_free(last);
        return cabe_fail(&graph->first, CABE_ERR_OOM, "graph: no memory to lay out %zu values", n);
    }
    find_lives(graph, last);
    cabe_free(last);
    return CABE_OK;
}

static int by_size(const void *a, const void *b)
{
    const struct layout_item *x = a, *y = b;

    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->root > y->root) - (x->root < y->root);
}

static int by_begin(const void *a, const void *b)
{
    const struct layout_item *x = a, *y = b;

    return x->begin != y->begin ? (x->begin < y->begin ? -1 : 1) : by_size(a, b);
}

/* Heap sort: qsort() may allocate, and measuring must not. */
static void sort_items(struct layout_item *items, int32_t n, int (*order)(const void *, const void *))
{
    for (int32_t begin = n / 2, end = n; end > 1;) {
        struct layout_item moved;
        int32_t hole;

        if (begin > 0) {
            moved = items[hole = --begin];
        } else {
            moved = items[--end];
            items[end] = items[hole = 0];
        }
        for (int32_t child; (child = 2 * hole + 1) < end; hole = child) {
            if (child + 1 < end && order(&items[child + 1], &items[child]) > 0)
                child++;
            if (order(&items[child], &moved) <= 0)
                break;
            items[hole] = items[child];
        }
        items[hole] = moved;
    }
}

/*
 * The offset of the tightest gap of `bytes` between placed items that live when `item` does. placed[] is by
 * offset.
 */
static uint64_t best_gap(const struct layout_item *placed, int32_t n, const struct layout_item *item)
{
    uint64_t low = 0, best = UINT64_MAX, best_room = UINT64_MAX;

    for (int32_t i = 0; i < n; i++) {
        const struct layout_item *other = &placed[i];
        uint64_t end;

        if (other->end < item->begin || other->begin > item->end)
            continue;
        if (other->offset > low && other->offset - low >= item->bytes && other->offset - low < best_room) {
            best_room = other->offset - low;
            best = low;
        }
        end = other->offset + other->bytes;
        if (end > low)
            low = end;
    }
    return best_room != UINT64_MAX ? best : low;
}

/* Places items in the given order; returns the bytes of the block, or UINT64_MAX. */
static uint64_t place_items(struct layout_item *items, struct layout_item *placed, int32_t n)
{
    uint64_t block = 0;

    for (int32_t i = 0; i < n; i++) {
        struct layout_item *item = &items[i];
        int32_t at = i;
        uint64_t end;

        item->offset = best_gap(placed, i, item);
        if (__builtin_add_overflow(item->offset, item->bytes, &end) || end > INT64_MAX)
            return UINT64_MAX;
        if (end > block)
            block = end;
        for (; at > 0 && placed[at - 1].offset > item->offset; at--)
            placed[at] = placed[at - 1];
        placed[at] = *item;
    }
    return block;
}

uint64_t cabe_graph_layout(const struct cabe_graph *graph, const int64_t bounds[CABE_N_SYMBOLS],
                           uint64_t *offsets)
{
    struct cabe_graph *g = (struct cabe_graph *)(uintptr_t)graph; /* only its lock and what the lock guards */
    int (*const orders[])(const void *, const void *) = {by_size, by_begin};
    uint64_t blocks[2], block;
    int best;

    pthread_mutex_lock(&g->lock);
    for (int32_t i = 0; i < g->n_items; i++) {
        uint64_t bytes = cabe_value_bytes(&g->values[g->items[i].root], bounds);

        if (bytes > INT64_MAX) {
            pthread_mutex_unlock(&g->lock);
            return UINT64_MAX;
        }
        g->sorted[i] = g->items[i];
        g->sorted[i].bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    }
    for (int o = 0; o < 2; o++) {
        sort_items(g->sorted, g->n_items, orders[o]);
        blocks[o] = place_items(g->sorted, g->placed, g->n_items);
    }
    best = blocks[1] < blocks[0];
    block = blocks[best];
    if (!best) { /* the offsets at hand are those of the last order tried */
        sort_items(g->sorted, g->n_items, orders[0]);
        block = place_items(g->sorted, g->placed, g->n_items);
    }
    if (offsets && block != UINT64_MAX) {
        for (int32_t i = 0; i < g->n_items; i++)
            offsets[g->sorted[i].root] = g->sorted[i].offset;
        for (int32_t v = 0; v < g->n_values; v++)
            if (has_bytes(&g->values[v]))
                offsets[v] = offsets[g->root[v]];
    }
    pthread_mutex_unlock(&g->lock);
    return block;
}
