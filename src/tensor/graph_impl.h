/* The body of a graph, for the files of this room that build, lay out and count it. */
#ifndef CABE_TENSOR_GRAPH_IMPL_H
#define CABE_TENSOR_GRAPH_IMPL_H

#include <pthread.h>

#include "tensor/graph.h"

#define GRAPH_VALUES_MAX (1 << 20)
#define GRAPH_SEGMENTS_MAX (1 << 16)
#define CABE_GRAPH_DIM_MAX (INT64_C(1) << 40) /* constants of a dimension: sizes are then far from overflow */

struct graph_segment {
    char name[64];
    uint64_t bytes;     /* of its weights, padded; after finish */
    cabe_value foreign; /* a weight of it that a node of another segment reads, or CABE_NO_VALUE */
};

/* A value, or several that share their bytes one after another, while offsets are chosen. */
struct layout_item {
    cabe_value root;
    int32_t begin, end; /* first and last node during which the bytes are in use */
    uint64_t bytes, offset;
};

struct cabe_graph {
    struct cabe_error first; /* CABE_OK while building goes well */
    int finished;
    struct cabe_value_info *values;
    struct cabe_node *nodes;
    struct graph_segment *segments;
    int32_t n_values, values_max;
    int32_t n_nodes, nodes_max;
    int32_t n_segments, segments_max;

    /* Set by finish. */
    struct layout_item *items; /* lives, by root; bytes and offset unused */
    cabe_value *root;          /* per value: whose bytes it has; itself where it has its own */
    int32_t n_items;

    pthread_mutex_t
        lock; /* guards the two below: choosing offsets needs room, and must not fail for lack of it */
    struct layout_item *sorted;
    struct layout_item *placed;
};

/* Finds who shares bytes with whom and how long; needs everything but `items` and what follows it. */
enum cabe_status cabe_layout_prepare(struct cabe_graph *graph);

/* Building goes on only while nothing is wrong. */
int cabe_graph_good(const struct cabe_graph *graph);
int cabe_graph_grow_nodes(struct cabe_graph *graph); /* room for one more; 0: there is none, which is kept */
cabe_value cabe_graph_add_value(struct cabe_graph *graph, const char *name, enum cabe_value_kind kind,
                                enum cabe_dtype dtype, enum cabe_packing packing, struct cabe_dim rows,
                                struct cabe_dim cols);

/* A dimension without a symbol has its whole size in n; one with n == 0 has no symbol. */
struct cabe_dim cabe_dim_tidy(struct cabe_dim dim);

#endif
