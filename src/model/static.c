/*
 * Static embeddings (the model2vec layout): one row per token, averaged.
 *
 * "embeddings" [rows, width]; where the vocabulary was quantised, "mapping" [vocabulary] gives each token's row and
 * "weights" [vocabulary] its weight. Unknown tokens are left out.
 */
#include <string.h>

#include "model/describe.h"

/* A text is cut here, as the reference does by default. */
#define MAX_TOKENS 512

static int claims(const struct cabe_source *source)
{
    const json_t *config = cabe_source_document(source, "config.json");
    const char *type = cabe_describe_json_text(config, "model_type");

    return (type && strcmp(type, "model2vec") == 0) ||
           (!type && cabe_source_find(source, "embeddings") && cabe_source_document(source, "tokenizer.json"));
}

static void add_host(struct cabe_model *model, const struct cabe_source *source, const char *name, const char *tensor,
                     enum cabe_dtype to, enum cabe_status *status, struct cabe_error *err)
{
    const struct cabe_source_tensor *found = cabe_source_find(source, tensor);
    struct cabe_model_weight *weight;

    if (!found || *status != CABE_OK)
        return;
    if (found->shape[3] != model->config.n_vocab) {
        *status = cabe_fail(err, CABE_ERR_FORMAT, "tensor '%s': %lld entries, wanted %lld as the vocabulary", tensor,
                            (long long)found->shape[3], (long long)model->config.n_vocab);
        return;
    }
    weight = cabe_describe_add(model, name, CABE_ROLE_HOST, 1, found->shape[3], status, err);
    cabe_describe_part(source, weight, tensor, 0, 1, status, err);
    if (weight)
        weight->to = to;
}

/* The id of the unknown token, if the tokenizer has one. */
static void read_unknown(struct cabe_model_config *config, const json_t *tokenizer)
{
    const json_t *model = json_object_get(tokenizer, "model");
    const char *token = cabe_describe_json_text(model, "unk_token");

    config->unknown_id = -1;
    if (token)
        cabe_describe_json_i64(json_object_get(model, "vocab"), token, &config->unknown_id);
    else
        cabe_describe_json_i64(model, "unk_id", &config->unknown_id);
    config->drop_unknown = config->unknown_id >= 0;
}

static enum cabe_status describe(struct cabe_model *model, const struct cabe_source *source, struct cabe_error *err)
{
    struct cabe_model_config *config = &model->config;
    const json_t *json = cabe_source_document(source, "config.json");
    const json_t *tokenizer = cabe_source_document(source, "tokenizer.json");
    const struct cabe_source_tensor *table = cabe_source_find(source, "embeddings");
    const struct cabe_source_tensor *mapping = cabe_source_find(source, "mapping");
    const char *table_name = table ? "embeddings" : "embedding.weight";
    const char *name = cabe_describe_json_text(json, "tokenizer_name");
    struct cabe_model_weight *weight;
    enum cabe_status status = CABE_OK;

    if (!table)
        table = cabe_source_find(source, table_name);
    if (!table)
        return cabe_fail(err, CABE_ERR_NOT_FOUND, "tensor 'embeddings' is missing");
    config->width = table->shape[3];
    config->n_vocab = mapping ? mapping->shape[3] : table->shape[2];
    config->max_tokens = MAX_TOKENS;
    config->pool = CABE_POOL_MEAN;
    config->normalise = !json_is_false(json_object_get(json, "normalize"));
    read_unknown(config, tokenizer);
    if (name)
        cabe_describe_copy(config->name, sizeof config->name, name, strlen(name));
    weight = cabe_describe_add(model, "word", CABE_ROLE_TABLE, table->shape[2], config->width, &status, err);
    cabe_describe_part(source, weight, table_name, 0, table->shape[2], &status, err);
    add_host(model, source, "token.row", "mapping", CABE_I32, &status, err);
    add_host(model, source, "token.weight", "weights", CABE_F32, &status, err);
    return status;
}

static void build(struct cabe_graph *graph, const struct cabe_model *model, const struct cabe_model_choice *choice,
                  int flags)
{
    struct cabe_dim tokens = {1, CABE_SYM_TOKENS, 0}, one = {1, CABE_SYM_ONE, 0}, ends = {1, CABE_SYM_SEQUENCES, 1};
    cabe_value ids = cabe_graph_input(graph, CABE_MODEL_IDS, CABE_I32, one, tokens);
    cabe_value offsets = cabe_graph_input(graph, CABE_MODEL_OFFSETS, CABE_I32, one, ends);
    cabe_value scale = CABE_NO_VALUE, x;

    if (cabe_model_find(model, "token.weight"))
        scale = cabe_graph_input(graph, CABE_MODEL_ROW_WEIGHT, CABE_F32, one, tokens);
    x = cabe_graph_gather(graph, cabe_describe_value(graph, model, choice, "word"), ids, CABE_NO_VALUE);
    if (flags & CABE_GRAPH_STATES)
        cabe_graph_output(graph, x, CABE_MODEL_STATES);
    x = cabe_graph_pool(graph, x, offsets, scale, CABE_POOL_MEAN);
    if (model->config.normalise)
        x = cabe_graph_unit(graph, x, 1e-32f);
    cabe_graph_output(graph, x, CABE_MODEL_EMBEDDINGS);
}

const struct cabe_network cabe_network_static = {CABE_MODEL_STATIC, "static", claims, describe, build, NULL, NULL};
