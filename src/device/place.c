/* Where the parts of a program lie: one function for the plan, which measures, and for compile, which places.
 */
#include "base/arena.h"
#include "base/memory.h"
#include "device/program.h"

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t times(uint64_t a, uint64_t b)
{
    uint64_t product;

    return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

int cabe_same_pages(const struct cabe_node *a, const struct cabe_node *b)
{
    if (a->op != CABE_OP_CACHED || b->op != CABE_OP_CACHED)
        return 0;
    for (int i = 1; i < CABE_NODE_INPUTS_MAX; i++)
        if (a->in[i] != b->in[i])
            return 0;
    return 1;
}

/* How many different inputs divide rows into sequences for attention; each gets a list of the longest. */
static int count_orders(const struct cabe_graph *graph)
{
    int n = 0;

    for (int32_t i = 0; i < cabe_graph_n_nodes(graph); i++) {
        const struct cabe_node *node = cabe_graph_node(graph, i);
        int seen = node->op != CABE_OP_ATTENTION && node->op != CABE_OP_CACHED;

        for (int32_t j = 0; j < i && !seen; j++) {
            const struct cabe_node *other = cabe_graph_node(graph, j);

            seen = cabe_same_pages(node, other) || (node->op == CABE_OP_ATTENTION &&
                                                    other->op == CABE_OP_ATTENTION && other->in[1] == node->in[1]);
        }
        n += !seen;
    }
    return n;
}

int cabe_segment_streams(const struct cabe_graph *graph, int32_t segment)
{
    if (cabe_graph_segment_bytes(graph, segment) == 0)
        return 0;
    for (int32_t i = 0; i < cabe_graph_n_nodes(graph); i++)
        if (cabe_graph_node(graph, i)->segment == segment)
            return 1;
    return 0;
}

struct needs {
    int64_t t, k;               /* largest of any matmul */
    int64_t t_shared, k_shared; /* of those that quantise their activations */
    uint64_t member, shared;
};

/* What attention makes of parts of contexts, for a few sequences: see cabe_exec_cached(). */
static uint64_t parts_bytes(const struct cabe_node *node, const int64_t bounds[CABE_N_SYMBOLS])
{
    uint64_t n = (uint64_t)bounds[CABE_SYM_PAGES] / (CABE_ATTEND_PART / CABE_PAGE_TOKENS) +
                 (uint64_t)bounds[CABE_SYM_SEQUENCES];
    int64_t floats = cabe_attend_part_floats(node->n_heads / node->n_kv_heads, node->head_dim);

    return times(times(n, (uint64_t)node->n_kv_heads), (uint64_t)floats * sizeof(float));
}

static void look_at(const struct cabe_graph *graph, const struct cabe_node *node,
                    const int64_t bounds[CABE_N_SYMBOLS], struct needs *needs)
{
    const struct cabe_value_info *x = cabe_graph_value(graph, node->in[0]);
    int64_t t = cabe_value_dim(x, 2, bounds), k = cabe_value_dim(x, 3, bounds);

    if (node->op == CABE_OP_ATTENTION)
        needs->member = larger(needs->member, cabe_attention_scratch_bytes(t, node->head_dim));
    if (node->op == CABE_OP_CACHED) {
        needs->member =
            larger(needs->member, cabe_attend_scratch_bytes(node->n_heads / node->n_kv_heads, node->head_dim));
        needs->shared = larger(needs->shared, parts_bytes(node, bounds));
    }
    if (node->op != CABE_OP_MATMUL)
        return;
    needs->t = t > needs->t ? t : needs->t;
    needs->k = k > needs->k ? k : needs->k;
    if (node->precision != CABE_PRECISION_INT8)
        return;
    needs->t_shared = t > needs->t_shared ? t : needs->t_shared;
    needs->k_shared = k > needs->k_shared ? k : needs->k_shared;
}

static void place_window(const struct cabe_graph *graph, const uint8_t *streamed, int is_host_device,
                         struct cabe_placing *placing)
{
    uint64_t largest, *slot = placing->slot_bytes;
    int32_t n_streamed = 0;

    for (int32_t s = 0; s < cabe_graph_n_segments(graph); s++)
        if (streamed && streamed[s] && cabe_segment_streams(graph, s)) {
            slot[n_streamed % 2] = larger(slot[n_streamed % 2], cabe_graph_segment_bytes(graph, s));
            n_streamed++;
        }
    if (n_streamed == 0)
        return;
    if (__builtin_add_overflow(slot[0], slot[1], &placing->window_bytes))
        placing->window_bytes = UINT64_MAX;
    largest = larger(slot[0], slot[1]);
    if (!is_host_device)
        placing->chunk_bytes = largest < CABE_STREAM_CHUNK_BYTES ? largest : CABE_STREAM_CHUNK_BYTES;
    placing->staging_bytes = CABE_STREAM_STACK_BYTES + placing->chunk_bytes;
}

void cabe_program_place(const struct cabe_graph *graph, const int64_t bounds[CABE_N_SYMBOLS],
                        const uint8_t *streamed, int is_host_device, const struct cabe_kernels *kernels,
                        int n_members, uint64_t *offsets, struct cabe_placing *placing)
{
    struct needs needs = {.t = 0};
    struct cabe_arena arena = {NULL, 0, 0};
    uint64_t shared = 0;

    *placing = (struct cabe_placing){.n_orders = count_orders(graph)};
    for (int32_t i = 0; i < cabe_graph_n_nodes(graph); i++)
        look_at(graph, cabe_graph_node(graph, i), bounds, &needs);
    if (needs.k)
        needs.member = larger(needs.member, cabe_matmul_scratch_bytes(kernels, needs.t, needs.k));
    if (needs.k_shared)
        shared = cabe_matmul_shared_bytes(kernels, needs.t_shared, needs.k_shared);
    shared = larger(shared, needs.shared); /* activations are prepared after the step before has read these */
    placing->shared_bytes = shared;
    placing->member_bytes = (needs.member + 63) / 64 * 64;

    cabe_arena_take(&arena, cabe_graph_layout(graph, bounds, offsets), 1, 64);
    placing->shared = (arena.used_bytes + 63) / 64 * 64;
    cabe_arena_take(&arena, shared, 1, 64);
    placing->member = (arena.used_bytes + 63) / 64 * 64;
    cabe_arena_take(&arena, times(placing->member_bytes, (uint64_t)n_members), 1, 64);
    placing->order = (arena.used_bytes + 63) / 64 * 64;
    cabe_arena_take(&arena, times((uint64_t)placing->n_orders, (uint64_t)bounds[CABE_SYM_SEQUENCES]),
                    sizeof(int32_t), 64);
    placing->block_bytes = arena.used_bytes;
    place_window(graph, streamed, is_host_device, placing);
}

void cabe_program_measure(const struct cabe_graph *graph, const int64_t bounds[CABE_N_SYMBOLS],
                          const uint8_t *streamed, int is_host_device, const struct cabe_kernels *kernels,
                          int n_members, struct cabe_program_bytes *bytes)
{
    struct cabe_placing placing;

    cabe_program_place(graph, bounds, streamed, is_host_device, kernels, n_members, NULL, &placing);
    bytes->activations = cabe_pages_round(placing.block_bytes);
    bytes->window = placing.window_bytes ? cabe_pages_round(placing.window_bytes) : 0;
    bytes->staging = placing.staging_bytes ? cabe_pages_round(placing.staging_bytes) : 0;
}
