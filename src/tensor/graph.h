/*
 * A network as a graph: values (what a tensor is called, its shape, its dtype) and nodes (what is done).
 *
 * Shapes have four dimensions, row-major, dim[3] contiguous; images are channels-last, [n, height, width,
 * channels]. A dimension is a constant times a symbol, so one graph serves every batch up to a bound:
 * `tokens` counts the tokens of all sequences packed end to end (no padding token exists), `sequences` the
 * sequences.
 *
 * A network declares segments (an encoder layer, a UNet block): weights of a segment lie together and are
 * streamed or offloaded together. Segment 0 is what comes before the first declared one. Nodes run in the
 * order they were added, segments never go back.
 *
 * Building never fails half-way: the first error is kept and given by cabe_graph_finish().
 *
 * Owner: who opens it; the device copies what it needs. Immutable after finish; then any thread may read it.
 */
#ifndef CABE_TENSOR_GRAPH_H
#define CABE_TENSOR_GRAPH_H

#include <stdint.h>

#include "cabe/status.h"
#include "tensor/dtype.h"
#include "tensor/packed.h"
#include "tensor/pages.h"

enum cabe_symbol {
    CABE_SYM_ONE,       /* always 1 */
    CABE_SYM_TOKENS,    /* tokens of this run, all sequences together */
    CABE_SYM_SEQUENCES, /* sequences of this run */
    CABE_SYM_PAGES,     /* entries of all page tables of this run */
    CABE_SYM_OUTPUTS,   /* rows whose logits this run wants; may be 0 */
    CABE_N_SYMBOLS
};

struct cabe_dim {
    int64_t n;               /* the constant factor */
    enum cabe_symbol symbol; /* size = n * value of the symbol */
    int64_t plus;            /* size = n * symbol + plus: offsets have one more than sequences */
};

typedef int32_t cabe_value; /* index of a value in its graph; -1: none */
#define CABE_NO_VALUE (-1)

/* STATE: memory outside the graph that runs read and write (pages of a KV store). */
enum cabe_value_kind { CABE_INPUT, CABE_WEIGHT, CABE_TEMP, CABE_OUTPUT, CABE_STATE };

enum cabe_op {
    CABE_OP_GATHER, /* in: table [v, c], ids i32 [t], row_scale f32 [v] or none -> [t, c]. The table is a weight in
                       ROWS or PANELS (a tied head), or computed */
    CABE_OP_MATMUL, /* in: x [t, k], w PANELS [n, k], bias f32 [n] or none, residual [t, n] or none -> [t, n], or n
                       columns of a wider value from first_col on; act */
    CABE_OP_NORM,   /* in: x [t, c], gamma f32 [c], beta f32 [c] or none, residual [t, c] or none -> norm(x +
                       residual) */
    CABE_OP_ATTENTION, /* in: qkv [t, (h + 2 g) * d], offsets i32 [s + 1] -> [t, h * d] */
    CABE_OP_ADD,       /* in: a [t, c], b [t, c] or [1, c] -> [t, c] */
    CABE_OP_MUL,       /* as ADD */
    CABE_OP_ACT,       /* in: x -> act(x) */
    CABE_OP_POOL,      /* in: x [t, c], offsets i32 [s + 1], row_weight f32 [t] or none -> [s, c] */
    CABE_OP_UNIT,      /* in: x [s, c] -> rows divided by max(their L2 norm, eps) */
    CABE_OP_ANGLES,    /* in: positions i32 [t], inv_freq f32 [n] -> [t, 2 n]: cosines, then sines, of position *
                          inv_freq, each times scale */
    CABE_OP_ROPE,      /* in: qkv [t, (h + 2 g) * d], angles [t, n_rot], q_gamma f32 [d] or none, k_gamma f32 [d] or
                          none -> the same shape: heads of q and k divided by their RMS and times gamma where it is
                          given, then their first n_rot channels turned; v as it was */
    CABE_OP_GLU,       /* in: x [t, 2 f] -> [t, f]: act(x[:, :f]) * x[:, f:] */
    CABE_OP_CACHED,    /* in: qkv [t, (h + 2 g) * d], cache STATE, offsets i32 [s + 1], starts i32 [s], page_offsets i32
                          [s + 1], pages i32 [p, 2] (struct cabe_page) -> [t, h * d]: writes keys and values of the rows
                          of sequence s to slots starts[s], starts[s] + 1, ... of its pages, then attends, causally */
    CABE_N_OPS
};

enum cabe_act {
    CABE_ACT_NONE,
    CABE_ACT_GELU_ERF,
    CABE_ACT_GELU_TANH,
    CABE_ACT_SILU,
    CABE_ACT_RELU,
    CABE_ACT_TANH
};
enum cabe_norm { CABE_NORM_LAYER, CABE_NORM_RMS };
enum cabe_pooling { CABE_POOL_MEAN, CABE_POOL_FIRST, CABE_POOL_LAST };
enum cabe_mask { CABE_MASK_NONE, CABE_MASK_CAUSAL };
/* Which channels of a head turn together: 2i and 2i + 1, or i and i + n_rot / 2. */
enum cabe_rope { CABE_ROPE_ADJACENT, CABE_ROPE_HALVES };
/* How activations enter a matmul: as f32, or as int8 quantised per token row and block ("precision"). */
enum cabe_precision { CABE_PRECISION_HIGH, CABE_PRECISION_INT8 };

#define CABE_NODE_INPUTS_MAX 6

struct cabe_node {
    enum cabe_op op;
    int32_t segment;
    cabe_value in[CABE_NODE_INPUTS_MAX]; /* CABE_NO_VALUE where absent */
    cabe_value out;
    enum cabe_act act;             /* MATMUL, ACT, GLU */
    enum cabe_precision precision; /* MATMUL */
    enum cabe_norm norm;           /* NORM */
    float eps;                     /* NORM, UNIT, ROPE */
    enum cabe_pooling pool;           /* POOL */
    enum cabe_mask mask;           /* ATTENTION */
    enum cabe_rope rope;           /* ROPE */
    int32_t n_heads, n_kv_heads, head_dim;
    float scale;       /* ATTENTION, CACHED: of q.k; ANGLES */
    int32_t layer;     /* CACHED: of the cache */
    int64_t window;    /* CACHED: a row sees so many slots, its own included; 0: all */
    int64_t first_col; /* MATMUL: of `out`, where its columns go */
};

struct cabe_value_info {
    char name[64];
    enum cabe_value_kind kind;
    enum cabe_dtype dtype;
    enum cabe_packing packing; /* weights; others are ROWS */
    struct cabe_dim dim[4]; /* STATE: of a page: layers, kv heads, tokens, head_dim */
    int64_t missing; /* columns of a wide value that no node has written so far */
    int32_t segment; /* weights: where they lie */
    uint64_t offset; /* weights: byte offset in their segment, aligned to 64; set by finish */
};

struct cabe_graph;

CABE_CHECKED enum cabe_status cabe_graph_open(struct cabe_graph **out, struct cabe_error *err);
void cabe_graph_close(struct cabe_graph *graph); /* NULL is fine */

/*
 * Values. Shapes are given as [rows, cols] of the common case; dim[0] and dim[1] are then 1. Where a node
 * wants a vector [n], both [1, n] and [n, 1] will do. Names are unique, 1 to 63 bytes. Ids and offsets are
 * inputs.
 */
cabe_value cabe_graph_input(struct cabe_graph *graph, const char *name, enum cabe_dtype dtype,
                            struct cabe_dim rows, struct cabe_dim cols);
cabe_value cabe_graph_weight(struct cabe_graph *graph, const char *name, enum cabe_dtype dtype,
                             enum cabe_packing packing, int64_t rows, int64_t cols);
cabe_value cabe_graph_state(struct cabe_graph *graph, const char *name, const struct cabe_kv_shape *shape);
/* Makes a TEMP an OUTPUT. */
void cabe_graph_output(struct cabe_graph *graph, cabe_value value, const char *name);
/* What is added next belongs to a new segment. */
void cabe_graph_segment(struct cabe_graph *graph, const char *name);

/* Nodes; each gives its output value, f32, checked against the shapes of its inputs. */
cabe_value cabe_graph_gather(struct cabe_graph *graph, cabe_value table, cabe_value ids,
                             cabe_value row_scale);
cabe_value cabe_graph_matmul(struct cabe_graph *graph, cabe_value x, cabe_value w, cabe_value bias,
                             cabe_value residual, enum cabe_act act, enum cabe_precision precision);
/*
 * Products side by side: wide() makes a value with the rows of `x`, matmul_into() writes columns [first_col, first_col +
 * n) of it and returns it. Parts follow each other from column 0 on; it is read when all are there.
 */
cabe_value cabe_graph_wide(struct cabe_graph *graph, cabe_value x, int64_t n_cols);
cabe_value cabe_graph_matmul_into(struct cabe_graph *graph, cabe_value x, cabe_value w, cabe_value bias,
                                  enum cabe_act act, enum cabe_precision precision, cabe_value into,
                                  int64_t first_col);
cabe_value cabe_graph_norm(struct cabe_graph *graph, cabe_value x, cabe_value gamma, cabe_value beta,
                           cabe_value residual, enum cabe_norm norm, float eps);
cabe_value cabe_graph_attention(struct cabe_graph *graph, cabe_value qkv, cabe_value offsets, int n_heads,
                                int n_kv_heads, int head_dim, float scale, enum cabe_mask mask);
cabe_value cabe_graph_add(struct cabe_graph *graph, cabe_value a, cabe_value b);
cabe_value cabe_graph_mul(struct cabe_graph *graph, cabe_value a, cabe_value b);
cabe_value cabe_graph_act(struct cabe_graph *graph, cabe_value x, enum cabe_act act);
cabe_value cabe_graph_pool(struct cabe_graph *graph, cabe_value x, cabe_value offsets, cabe_value row_weight,
                           enum cabe_pooling pool);
cabe_value cabe_graph_unit(struct cabe_graph *graph, cabe_value x, float eps);
cabe_value cabe_graph_angles(struct cabe_graph *graph, cabe_value positions, cabe_value inv_freq, float scale);
cabe_value cabe_graph_rope(struct cabe_graph *graph, cabe_value qkv, cabe_value angles, cabe_value q_gamma,
                           cabe_value k_gamma, float eps, enum cabe_rope style, int n_heads, int n_kv_heads,
                           int head_dim);
cabe_value cabe_graph_glu(struct cabe_graph *graph, cabe_value x, enum cabe_act act);
cabe_value cabe_graph_cached(struct cabe_graph *graph, cabe_value qkv, cabe_value cache, cabe_value offsets,
                             cabe_value starts, cabe_value page_offsets, cabe_value pages, int layer, int n_heads,
                             int n_kv_heads, int head_dim, float scale, int64_t window);

/* Lays the weights out in their segments. CABE_ERR_ARGUMENT with the first mistake of the building calls. */
CABE_CHECKED enum cabe_status cabe_graph_finish(struct cabe_graph *graph, struct cabe_error *err);

/* Reading. Pointers live as long as the graph. */
int32_t cabe_graph_n_values(const struct cabe_graph *graph);
const struct cabe_value_info *cabe_graph_value(const struct cabe_graph *graph, cabe_value value);
cabe_value cabe_graph_find(const struct cabe_graph *graph, const char *name); /* or CABE_NO_VALUE */
int32_t cabe_graph_n_nodes(const struct cabe_graph *graph);
const struct cabe_node *cabe_graph_node(const struct cabe_graph *graph, int32_t node);
int32_t cabe_graph_n_segments(const struct cabe_graph *graph);
const char *cabe_graph_segment_name(const struct cabe_graph *graph, int32_t segment);
/*
 * A weight of this segment that a node of another segment reads, so that it cannot be streamed; or
 * CABE_NO_VALUE.
 */
cabe_value cabe_graph_segment_foreign(const struct cabe_graph *graph, int32_t segment);
const char *cabe_op_name(enum cabe_op op);
const char *cabe_symbol_name(enum cabe_symbol symbol); /* "tokens" */
/* Bytes of the weights of one segment, padding to 4096 included. */
uint64_t cabe_graph_segment_bytes(const struct cabe_graph *graph, int32_t segment);

int cabe_dim_same(struct cabe_dim a, struct cabe_dim b); /* whatever the symbols are */
/*
 * Elements of one dimension, and bytes of a value, when the symbols have these sizes; INT64_MAX, UINT64_MAX
 * on overflow.
 */
int64_t cabe_value_dim(const struct cabe_value_info *info, int dim, const int64_t symbols[CABE_N_SYMBOLS]);
uint64_t cabe_value_bytes(const struct cabe_value_info *info, const int64_t symbols[CABE_N_SYMBOLS]);

/*
 * Where the temporaries, inputs and outputs of a graph lie in one block when no symbol exceeds its bound:
 * values whose lives do not overlap share bytes; an input keeps its own between runs, an output from its node
 * until the next run. `offsets[value]` (multiples of 64) is set for every value but weights and states (may be NULL to
 * measure only). Returns the bytes of the block, UINT64_MAX on overflow. The same function measures for the
 * plan and places for the device; it allocates nothing. The output of ADD, MUL, ACT, UNIT and NORM may lie on
 * an operand, that of ROPE on qkv, that of MATMUL on the residual, where the life of that one ends.
 */
uint64_t cabe_graph_layout(const struct cabe_graph *graph, const int64_t bounds[CABE_N_SYMBOLS],
                           uint64_t *offsets);

/* Operations of one run (a multiply-add counts two) and bytes of weights it reads; for predicted time. */
struct cabe_graph_work {
    double matmul_ops[CABE_N_DTYPES][2]; /* by weight dtype and enum cabe_precision */
    double matmul_bytes[CABE_N_DTYPES][2];  /* of weights, likewise */
    double matmul_values[CABE_N_DTYPES][2]; /* how many weights that is */
    double matmul_outputs[CABE_N_DTYPES][2]; /* for how many outputs */
    double attention_ops[2]; /* over caches: one row a sequence, several; not in other_ops */
    double attention_heads;  /* kv heads of all sequences, where a layer's attention has one row a sequence */
    double attention_slots;  /* that each of them goes over */
    double rows;             /* tokens of the run */
    double other_ops;
    double weight_bytes; /* of products and gathered rows */
    double kv_values; /* numbers in the KV pages that it reads, each once; their format says the bytes */
    double n_nodes;
    /* What the graph does not know; whoever does may set it: */
    int kv_format;       /* enum cabe_kv_format, and the bytes that kv_values then are */
    double kv_bytes;
    double drawn;        /* logits that tokens are drawn from */
    double stream_bytes; /* of weights: read anew in this run, in n_streamed segments */
    double n_streamed;
    int stream_direct;   /* from disk, not from the system's page cache */
};
/* Attention is counted for sequences of tokens / sequences each, that of caches for contexts of 16 * pages / sequences. */
void cabe_graph_work(const struct cabe_graph *graph, const int64_t symbols[CABE_N_SYMBOLS],
                     struct cabe_graph_work *work);

#endif
