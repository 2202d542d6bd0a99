/* Sizes of values, and the work of a run, when the symbols have values. */
#include <string.h>

#include "tensor/graph_impl.h"

int64_t cabe_value_dim(const struct cabe_value_info *info, int dim, const int64_t symbols[CABE_N_SYMBOLS])
{
    const struct cabe_dim *d = &info->dim[dim];
    int64_t symbol = d->symbol == CABE_SYM_ONE ? 1 : symbols[d->symbol], size;

    if (symbol < 0)
        symbol = 0;
    if (__builtin_mul_overflow(d->n, symbol, &size) || __builtin_add_overflow(size, d->plus, &size))
        return INT64_MAX;
    return size;
}

uint64_t cabe_value_bytes(const struct cabe_value_info *info, const int64_t symbols[CABE_N_SYMBOLS])
{
    uint64_t bytes;

    if (info->kind == CABE_WEIGHT)
        return cabe_packed_bytes(info->dtype, info->packing, info->dim[2].n, info->dim[3].n);
    if (info->kind == CABE_STATE)
        return 0; /* it is not the graph's */
    bytes = cabe_dtype_bytes(info->dtype, 1); /* inputs, temporaries and outputs have no blocks */
    for (int i = 0; i < 4; i++)
        if (__builtin_mul_overflow(bytes, (uint64_t)cabe_value_dim(info, i, symbols), &bytes))
            return UINT64_MAX;
    return bytes;
}

static double elements(const struct cabe_value_info *info, const int64_t symbols[CABE_N_SYMBOLS])
{
    return (double)cabe_value_dim(info, 2, symbols) * (double)cabe_value_dim(info, 3, symbols);
}

/* Scores and sums over the keys of a sequence of average length; causal sees half of them. */
static double attention_ops(const struct cabe_node *node, double tokens, double mean_length)
{
    double ops = 4.0 * tokens * mean_length * node->n_heads * node->head_dim;

    return node->mask == CABE_MASK_CAUSAL ? ops / 2 : ops;
}

/* A row sees the context that was there, and half of the rows that came with it. */
static void add_cached(const struct cabe_node *node, double rows, const int64_t symbols[CABE_N_SYMBOLS],
                       struct cabe_graph_work *work)
{
    double sequences = symbols[CABE_SYM_SEQUENCES] > 0 ? (double)symbols[CABE_SYM_SEQUENCES] : 1.0;
    double context = (double)symbols[CABE_SYM_PAGES] * CABE_PAGE_TOKENS / sequences, own = rows / sequences;
    double seen = context > own ? context - own / 2 : context / 2 + 0.5;

    if (node->window && seen > (double)node->window)
        seen = (double)node->window;
    if (node->window && context > (double)node->window + own)
        context = (double)node->window + own;
    work->attention_heads = sequences * node->n_kv_heads;
    work->attention_slots = seen > work->attention_slots ? seen : work->attention_slots;
    work->attention_ops[own > 1] += 4.0 * rows * seen * node->n_heads * node->head_dim;
    work->kv_values += 2.0 * sequences * context * node->n_kv_heads * node->head_dim;
}

void cabe_graph_work(const struct cabe_graph *graph, const int64_t symbols[CABE_N_SYMBOLS],
                     struct cabe_graph_work *work)
{
    int64_t sequences = symbols[CABE_SYM_SEQUENCES];

    memset(work, 0, sizeof *work);
    work->n_nodes = (double)graph->n_nodes;
    work->rows = (double)symbols[CABE_SYM_TOKENS];
    for (int32_t i = 0; i < graph->n_nodes; i++) {
        const struct cabe_node *node = &graph->nodes[i];
        const struct cabe_value_info *out = &graph->values[node->out];
        const struct cabe_value_info *in = &graph->values[node->in[0]];
        double n = elements(out, symbols), rows = (double)cabe_value_dim(out, 2, symbols);

        switch (node->op) {
        case CABE_OP_MATMUL: {
            const struct cabe_value_info *w = &graph->values[node->in[1]];

            work->matmul_ops[w->dtype][node->precision] += 2.0 * rows * (double)w->dim[2].n * (double)w->dim[3].n;
            work->matmul_values[w->dtype][node->precision] += (double)w->dim[2].n * (double)w->dim[3].n;
            work->matmul_outputs[w->dtype][node->precision] += (double)w->dim[2].n;
            work->matmul_bytes[w->dtype][node->precision] += (double)cabe_value_bytes(w, symbols);
            work->weight_bytes += (double)cabe_value_bytes(w, symbols);
            break;
        }
        case CABE_OP_GATHER:
            work->other_ops += n;
            if (in->kind == CABE_WEIGHT)
                work->weight_bytes += rows * (double)cabe_dtype_bytes(in->dtype, in->dim[3].n);
            break;
        case CABE_OP_ATTENTION:
            work->other_ops += attention_ops(node, rows, rows / (double)(sequences > 0 ? sequences : 1));
            break;
        case CABE_OP_CACHED:
            add_cached(node, rows, symbols, work);
            break;
        case CABE_OP_ANGLES:
            work->other_ops += 20.0 * n;
            break;
        case CABE_OP_ROPE:
            work->other_ops += 6.0 * n;
            break;
        case CABE_OP_GLU:
            work->other_ops += 21.0 * n;
            break;
        case CABE_OP_NORM:
            work->other_ops += 8.0 * n;
            break;
        case CABE_OP_ACT:
            work->other_ops += 20.0 * n;
            break;
        case CABE_OP_POOL:
            work->other_ops += elements(in, symbols);
            break;
        case CABE_OP_UNIT:
            work->other_ops += 3.0 * n;
            break;
        case CABE_OP_ADD:
        case CABE_OP_MUL:
        case CABE_N_OPS:
            work->other_ops += n;
            break;
        }
    }
}
