/* The graph of a decoder: what decoder.c described. */
#include <stdio.h>

#include "model/describe.h"

struct builder {
    struct cabe_graph *graph;
    const struct cabe_model *model;
    const struct cabe_model_choice *choice;
    int layer;
    cabe_value cache, offsets, starts, page_offsets, pages, angles;
};

/* A weight of the layer; none where the model has none of that name. */
static cabe_value weight(const struct builder *b, const char *name, const char *suffix)
{
    char full[64];

    snprintf(full, sizeof full, "layer.%d.%s%s", b->layer, name, suffix);
    return cabe_describe_value(b->graph, b->model, b->choice, full);
}

static enum cabe_precision precision(const struct builder *b, const char *name)
{
    char full[64];

    snprintf(full, sizeof full, "layer.%d.%s", b->layer, name);
    return cabe_describe_precision(b->model, b->choice, full);
}

static cabe_value linear(const struct builder *b, cabe_value x, const char *name, cabe_value residual)
{
    return cabe_graph_matmul(b->graph, x, weight(b, name, ""), weight(b, name, "_bias"), residual, CABE_ACT_NONE,
                             precision(b, name));
}

/* One product where the parts are stacked; else one a part, side by side. */
static cabe_value parts(const struct builder *b, cabe_value x, const char *stacked, const char *const *names, int n)
{
    const struct cabe_model_weight *found;
    char full[64];
    cabe_value wide;
    int64_t n_cols = 0, at = 0;

    snprintf(full, sizeof full, "layer.%d.%s", b->layer, stacked);
    if (cabe_model_find(b->model, full))
        return linear(b, x, stacked, CABE_NO_VALUE);
    for (int i = 0; i < n; i++) {
        snprintf(full, sizeof full, "layer.%d.%s", b->layer, names[i]);
        found = cabe_model_find(b->model, full);
        n_cols += found ? found->rows : 0;
    }
    wide = cabe_graph_wide(b->graph, x, n_cols);
    for (int i = 0; i < n; i++) {
        snprintf(full, sizeof full, "layer.%d.%s", b->layer, names[i]);
        found = cabe_model_find(b->model, full);
        wide = cabe_graph_matmul_into(b->graph, x, weight(b, names[i], ""), weight(b, names[i], "_bias"),
                                      CABE_ACT_NONE, precision(b, names[i]), wide, at);
        at += found ? found->rows : 0;
    }
    return wide;
}

static cabe_value norm(const struct builder *b, cabe_value x, cabe_value gamma)
{
    return cabe_graph_norm(b->graph, x, gamma, CABE_NO_VALUE, CABE_NO_VALUE, CABE_NORM_RMS, b->model->config.eps);
}

static cabe_value build_layer(const struct builder *b, cabe_value x)
{
    static const char *const qkv[] = {"q", "k", "v"}, *const gate_up[] = {"gate", "up"};
    const struct cabe_model_config *config = &b->model->config;
    const struct cabe_decoder_config *d = &config->decoder;
    int n_heads = (int)config->n_heads, n_kv_heads = (int)d->n_kv_heads, head_dim = (int)d->head_dim;
    cabe_value y, q_norm, k_norm;

    y = parts(b, norm(b, x, weight(b, "attn_norm", "")), "qkv", qkv, 3);
    q_norm = weight(b, "q_norm", "");
    k_norm = weight(b, "k_norm", "");
    y = cabe_graph_rope(b->graph, y, b->angles, q_norm, k_norm, config->eps, d->rope, n_heads, n_kv_heads, head_dim);
    y = cabe_graph_cached(b->graph, y, b->cache, b->offsets, b->starts, b->page_offsets, b->pages, b->layer, n_heads,
                          n_kv_heads, head_dim, (float)d->attention_scale, d->window);
    x = linear(b, y, "o", x);
    y = parts(b, norm(b, x, weight(b, "ffn_norm", "")), "gate_up", gate_up, 2);
    return linear(b, cabe_graph_glu(b->graph, y, config->act), "down", x);
}

static void add_inputs(struct builder *b)
{
    const struct cabe_dim one = {1, CABE_SYM_ONE, 0}, two = {2, CABE_SYM_ONE, 0};
    const struct cabe_dim sequences = {1, CABE_SYM_SEQUENCES, 0}, ends = {1, CABE_SYM_SEQUENCES, 1};
    const struct cabe_dim pages = {1, CABE_SYM_PAGES, 0};
    struct cabe_kv_shape shape = cabe_model_kv_shape(b->model);

    b->offsets = cabe_graph_input(b->graph, CABE_MODEL_OFFSETS, CABE_I32, one, ends);
    b->starts = cabe_graph_input(b->graph, CABE_MODEL_STARTS, CABE_I32, one, sequences);
    b->page_offsets = cabe_graph_input(b->graph, CABE_MODEL_PAGE_OFFSETS, CABE_I32, one, ends);
    b->pages = cabe_graph_input(b->graph, CABE_MODEL_PAGES, CABE_I32, pages, two);
    b->cache = cabe_graph_state(b->graph, CABE_MODEL_CACHE, &shape);
}

/* Logits of the chosen rows. */
static void build_head(const struct builder *b, cabe_value x, cabe_value table, int flags)
{
    const struct cabe_dim one = {1, CABE_SYM_ONE, 0}, outputs = {1, CABE_SYM_OUTPUTS, 0};
    int tied = b->model->config.decoder.tied;
    cabe_value rows = cabe_graph_input(b->graph, CABE_MODEL_ROWS, CABE_I32, one, outputs), gamma;

    cabe_graph_segment(b->graph, "head");
    gamma = cabe_describe_value(b->graph, b->model, b->choice, "final_norm");
    if (flags & CABE_GRAPH_STATES)
        cabe_graph_output(b->graph, norm(b, x, gamma), CABE_MODEL_STATES);
    x = norm(b, cabe_graph_gather(b->graph, x, rows, CABE_NO_VALUE), gamma);
    x = cabe_graph_matmul(b->graph, x, tied ? table : cabe_describe_value(b->graph, b->model, b->choice, "head"),
                          CABE_NO_VALUE, CABE_NO_VALUE, CABE_ACT_NONE,
                          cabe_describe_precision(b->model, b->choice, tied ? "token_embedding" : "head"));
    cabe_graph_output(b->graph, x, CABE_MODEL_LOGITS);
}

void cabe_decoder_build(struct cabe_graph *graph, const struct cabe_model *model,
                        const struct cabe_model_choice *choice, int flags)
{
    const struct cabe_dim one = {1, CABE_SYM_ONE, 0}, tokens = {1, CABE_SYM_TOKENS, 0};
    const struct cabe_dim width = {model->config.width, CABE_SYM_ONE, 0};
    struct builder b = {.graph = graph, .model = model, .choice = choice};
    /* Declared even where embedding rows come in: the places of weights do not depend on it. */
    cabe_value table = cabe_describe_value(graph, model, choice, "token_embedding"), x, positions;

    if (flags & CABE_GRAPH_INPUTS)
        x = cabe_graph_input(graph, CABE_MODEL_INPUTS, CABE_F32, tokens, width);
    else
        x = cabe_graph_gather(graph, table, cabe_graph_input(graph, CABE_MODEL_IDS, CABE_I32, one, tokens),
                              CABE_NO_VALUE);
    positions = cabe_graph_input(graph, CABE_MODEL_POSITIONS, CABE_I32, one, tokens);
    b.angles = cabe_graph_angles(graph, positions, cabe_describe_value(graph, model, choice, "inv_freq"),
                                 (float)model->config.decoder.angle_scale);
    add_inputs(&b);
    for (; b.layer < (int)model->config.n_layers; b.layer++) {
        char segment[32];

        snprintf(segment, sizeof segment, "layer.%d", b.layer);
        cabe_graph_segment(graph, segment);
        x = build_layer(&b, x);
    }
    build_head(&b, x, table, flags);
}
