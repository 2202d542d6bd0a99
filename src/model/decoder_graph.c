/* The graph of a decoder: what decoder.c described. */
#include <stdio.h>

#include "model/describe.h"

struct builder {
    struct cabe_graph *graph;
    const struct cabe_model *model;
    const struct cabe_model_choice *choice;
    int layer;
};

static cabe_value weight(const struct builder *b, const char *name, const char *suffix)
{
    char full[64];

    snprintf(full, sizeof full, "layer.%d.%s%s", b->layer, name, suffix);
    return cabe_describe_value(b->graph, b->model, b->choice, full);
}

void cabe_decoder_build(struct cabe_graph *graph, const struct cabe_model *model,
                        const struct cabe_model_choice *choice, int flags)
{
    struct builder b = {graph, model, choice, 0};

    (void)flags;
    for (; b.layer < (int)model->config.n_layers; b.layer++)
        weight(&b, "qkv", "");
}
