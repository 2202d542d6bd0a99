/*
 * BERT encoders (Devlin et al. 2018, post-norm) as sentence-transformers uses them: token, position and type
 * embeddings, layers of attention and feed-forward, pooling, normalisation.
 *
 * Sources: Hugging Face folders of model_type bert, roberta, xlm-roberta (tensor names with or without a prefix), and
 * GGUF of architecture bert.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/describe.h"

#define N_LAYERS_MAX 1024

struct naming { /* how a family of files calls the tensors */
    const char *word, *position, *type, *norm_w, *norm_b;
    const char *layer; /* printf format of a layer's prefix */
    const char *q, *k, *v, *o, *norm1, *up, *down, *norm2;
};

static const struct naming hf_names = {
    .word = "embeddings.word_embeddings.weight",
    .position = "embeddings.position_embeddings.weight",
    .type = "embeddings.token_type_embeddings.weight",
    .norm_w = "embeddings.LayerNorm.weight",
    .norm_b = "embeddings.LayerNorm.bias",
    .layer = "encoder.layer.%d.",
    .q = "attention.self.query",
    .k = "attention.self.key",
    .v = "attention.self.value",
    .o = "attention.output.dense",
    .norm1 = "attention.output.LayerNorm",
    .up = "intermediate.dense",
    .down = "output.dense",
    .norm2 = "output.LayerNorm",
};

static const struct naming gguf_names = {
    .word = "token_embd.weight",
    .position = "position_embd.weight",
    .type = "token_types.weight",
    .norm_w = "token_embd_norm.weight",
    .norm_b = "token_embd_norm.bias",
    .layer = "blk.%d.",
    .q = "attn_q",
    .k = "attn_k",
    .v = "attn_v",
    .o = "attn_output",
    .norm1 = "attn_output_norm",
    .up = "ffn_up",
    .down = "ffn_down",
    .norm2 = "layer_output_norm",
};

static int gguf_claims(const struct cabe_source *source)
{
    const char *text;
    size_t bytes;

    return cabe_source_get_string(source, "general.architecture", &text, &bytes) && bytes == 4 &&
           memcmp(text, "bert", 4) == 0;
}

static int claims(const struct cabe_source *source)
{
    const char *type = cabe_describe_json_text(cabe_source_document(source, "config.json"), "model_type");

    return gguf_claims(source) ||
           (type && (strcmp(type, "bert") == 0 || strcmp(type, "roberta") == 0 || strcmp(type, "xlm-roberta") == 0));
}

/* ---- configuration ---- */

static enum cabe_status check_shape(const struct cabe_model_config *config, struct cabe_error *err)
{
    if (config->width % config->n_heads != 0)
        return cabe_fail(err, CABE_ERR_FORMAT, "width %lld is not a multiple of %lld heads",
                         (long long)config->width, (long long)config->n_heads);
    if (!(config->eps > 0 && config->eps < 0.1f))
        return cabe_fail(err, CABE_ERR_FORMAT, "layer norm epsilon %g, wanted 0 to 0.1", (double)config->eps);
    return CABE_OK;
}

/* modules.json names the pooling module's folder; without it, mean pooling is what such models are trained for. */
static enum cabe_status read_modules(struct cabe_model_config *config, const struct cabe_source *source,
                                     struct cabe_error *err)
{
    const json_t *modules = cabe_source_document(source, "modules.json"), *module, *pooling = NULL;
    size_t i;

    config->pool = CABE_POOL_MEAN;
    config->normalise = modules == NULL;
    json_array_foreach(modules, i, module) {
        const char *type = cabe_describe_json_text(module, "type");
        const char *path = cabe_describe_json_text(module, "path");
        char name[300];

        if (type && path && strstr(type, "Pooling")) {
            snprintf(name, sizeof name, "%s/config.json", path);
            pooling = cabe_source_document(source, name);
        }
        if (type && strstr(type, "Normalize"))
            config->normalise = 1;
        if (type && strstr(type, "Dense"))
            return cabe_fail(err, CABE_ERR_UNSUPPORTED, "modules.json: module %zu is a Dense layer", i);
    }
    if (!pooling)
        pooling = cabe_source_document(source, "1_Pooling/config.json");
    if (json_is_true(json_object_get(pooling, "pooling_mode_cls_token")))
        config->pool = CABE_POOL_FIRST;
    else if (json_is_true(json_object_get(pooling, "pooling_mode_lasttoken")))
        config->pool = CABE_POOL_LAST;
    else if (pooling && !json_is_true(json_object_get(pooling, "pooling_mode_mean_tokens")))
        return cabe_fail(err, CABE_ERR_UNSUPPORTED,
                         "pooling config: none of the modes mean, cls, lasttoken is on");
    return CABE_OK;
}

static enum cabe_status read_folder(struct cabe_model_config *config, const struct cabe_source *source,
                                    int64_t *first_position, struct cabe_error *err)
{
    const json_t *json = cabe_source_document(source, "config.json");
    const char *type = cabe_describe_json_text(json, "model_type");
    const char *name = cabe_describe_json_text(json, "_name_or_path");
    const char *kind = cabe_describe_json_text(json, "position_embedding_type");
    const char *act = cabe_describe_json_text(json, "hidden_act");
    int64_t pad = 1, limit;
    double eps = 1e-12;
    enum cabe_status status;
    struct {
        const char *key;
        int64_t max, *out;
    } wanted[] = {
        {"hidden_size", 1 << 16, &config->width},
        {"num_hidden_layers", N_LAYERS_MAX, &config->n_layers},
        {"num_attention_heads", 1 << 12, &config->n_heads},
        {"intermediate_size", 1 << 18, &config->n_ffn},
        {"max_position_embeddings", 1 << 20, &config->n_positions},
        {"vocab_size", 1 << 26, &config->n_vocab},
    };

    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        status = cabe_describe_wanted(source, json, wanted[i].key, 1, wanted[i].max, wanted[i].out, err);
        if (status != CABE_OK)
            return cabe_fail_in(err, status, "config.json");
    }
    if (kind && strcmp(kind, "absolute") != 0)
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "config.json: position_embedding_type '%.32s', supported: absolute",
                         kind);
    /* RoBERTa counts positions from the padding index on (fairseq's habit). */
    *first_position = 0;
    if (strcmp(type, "bert") != 0) {
        cabe_describe_json_i64(json, "pad_token_id", &pad);
        if (pad < 0 || pad + 1 >= config->n_positions)
            return cabe_fail(err, CABE_ERR_FORMAT, "config.json: pad_token_id %lld of %lld positions",
                             (long long)pad, (long long)config->n_positions);
        *first_position = pad + 1;
        config->n_positions -= pad + 1;
    }
    cabe_describe_json_f64(json, "layer_norm_eps", &eps);
    config->eps = (float)eps;
    config->max_tokens = config->n_positions;
    if (cabe_describe_json_i64(cabe_source_document(source, "sentence_bert_config.json"), "max_seq_length", &limit) &&
        limit > 2 && limit < config->max_tokens)
        config->max_tokens = limit;
    if (name)
        cabe_describe_copy(config->name, sizeof config->name, name, strlen(name));
    status = cabe_describe_act(config, act ? act : "gelu", err);
    return status == CABE_OK ? read_modules(config, source, err) : status;
}

static enum cabe_status read_gguf(struct cabe_model_config *config, const struct cabe_source *source,
                                  struct cabe_error *err)
{
    const struct cabe_source_tensor *word = cabe_source_find(source, gguf_names.word);
    int64_t pooling = 1, causal = 0;
    int bool_causal = 0;
    double eps = 1e-12;
    const char *name;
    size_t bytes;
    enum cabe_status status;
    struct {
        const char *key;
        int64_t max, *out;
    } wanted[] = {
        {"bert.embedding_length", 1 << 16, &config->width},
        {"bert.block_count", N_LAYERS_MAX, &config->n_layers},
        {"bert.attention.head_count", 1 << 12, &config->n_heads},
        {"bert.feed_forward_length", 1 << 18, &config->n_ffn},
        {"bert.context_length", 1 << 20, &config->n_positions},
    };

    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        status = cabe_describe_wanted(source, NULL, wanted[i].key, 1, wanted[i].max, wanted[i].out, err);
        if (status != CABE_OK)
            return status;
    }
    if (!word)
        return cabe_fail(err, CABE_ERR_NOT_FOUND, "tensor '%s' is missing", gguf_names.word);
    config->n_vocab = word->shape[2];
    cabe_source_get_f64(source, "bert.attention.layer_norm_epsilon", &eps);
    config->eps = (float)eps;
    config->max_tokens = config->n_positions;
    config->act = CABE_ACT_GELU_ERF;
    config->normalise = 1; /* GGUF has no field for it; every family here is used normalised */
    cabe_source_get_i64(source, "bert.pooling_type", &pooling); /* 0 none, 1 mean, 2 cls, 3 last */
    if (pooling < 0 || pooling > 3)
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "bert.pooling_type: %lld; supported: 1 (mean), 2 (cls), 3 (last)",
                         (long long)pooling);
    config->pool = pooling == 2 ? CABE_POOL_FIRST : pooling == 3 ? CABE_POOL_LAST : CABE_POOL_MEAN;
    if ((cabe_source_get_bool(source, "bert.attention.causal", &bool_causal) && bool_causal) ||
        (cabe_source_get_i64(source, "bert.attention.causal", &causal) && causal))
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "bert.attention.causal: true; supported: false");
    if (cabe_source_get_string(source, "general.name", &name, &bytes))
        cabe_describe_copy(config->name, sizeof config->name, name, bytes);
    return CABE_OK;
}

/* ---- weights ---- */

struct maker { /* what the helpers below share */
    struct cabe_model *model;
    const struct cabe_source *source;
    const struct naming *names;
    const char *prefix; /* before every tensor of a folder: "", "bert.", ... */
    enum cabe_status status;
    struct cabe_error *err;
};

/* `part` names one tensor; up to three are stacked. */
static void add(struct maker *m, enum cabe_model_role role, const char *name, int64_t rows, int64_t cols,
                const char *const *parts, int n_parts)
{
    struct cabe_model_weight *weight =
        cabe_describe_add(m->model, name, role, role == CABE_ROLE_VECTOR ? n_parts : rows, cols, &m->status, m->err);
    char full[300];

    for (int i = 0; i < n_parts; i++) {
        snprintf(full, sizeof full, "%s%s", m->prefix, parts[i]);
        cabe_describe_part(m->source, weight, full, 0, role == CABE_ROLE_VECTOR ? 1 : rows / n_parts, &m->status,
                           m->err);
    }
    if (weight && role == CABE_ROLE_VECTOR) { /* vectors stacked lie end to end */
        weight->cols *= n_parts;
        weight->rows = 1;
    }
}

static void add_linear(struct maker *m, int layer, const char *name, int64_t rows, int64_t cols,
                       const char *const *parts, int n_parts)
{
    char head[32], tensor[CABE_MODEL_PARTS_MAX][128], ours[64];
    const char *list[CABE_MODEL_PARTS_MAX];

    snprintf(head, sizeof head, m->names->layer, layer);
    for (int bias = 0; bias < 2; bias++) {
        for (int i = 0; i < n_parts; i++) {
            snprintf(tensor[i], sizeof tensor[i], "%s%s.%s", head, parts[i], bias ? "bias" : "weight");
            list[i] = tensor[i];
        }
        snprintf(ours, sizeof ours, "blk.%d.%s.%s", layer, name, bias ? "b" : "w");
        add(m, bias ? CABE_ROLE_VECTOR : CABE_ROLE_MATRIX, ours, rows, bias ? rows / n_parts : cols, list, n_parts);
    }
}

static void add_norm(struct maker *m, int layer, const char *name, int64_t width, const char *part)
{
    char head[32], tensor[128], ours[64];
    const char *list[1] = {tensor};

    snprintf(head, sizeof head, m->names->layer, layer);
    for (int bias = 0; bias < 2; bias++) {
        snprintf(tensor, sizeof tensor, "%s%s.%s", head, part, bias ? "bias" : "weight");
        snprintf(ours, sizeof ours, "blk.%d.%s.%s", layer, name, bias ? "b" : "g");
        add(m, CABE_ROLE_VECTOR, ours, 1, width, list, 1);
    }
}

static void add_embeddings(struct maker *m, int64_t first_position)
{
    const struct cabe_model_config *config = &m->model->config;
    struct cabe_model_weight *weight;
    char full[300];

    add(m, CABE_ROLE_TABLE, "word", config->n_vocab, config->width, &m->names->word, 1);
    weight = cabe_describe_add(m->model, "position", CABE_ROLE_TABLE, config->n_positions, config->width, &m->status,
                               m->err);
    snprintf(full, sizeof full, "%s%s", m->prefix, m->names->position);
    cabe_describe_part(m->source, weight, full, first_position, config->n_positions, &m->status, m->err);
    /* Every token of a text is of type 0; the other rows are for pairs. */
    weight = cabe_describe_add(m->model, "type", CABE_ROLE_VECTOR, 1, config->width, &m->status, m->err);
    snprintf(full, sizeof full, "%s%s", m->prefix, m->names->type);
    cabe_describe_part(m->source, weight, full, 0, 1, &m->status, m->err);
    add(m, CABE_ROLE_VECTOR, "norm.g", 1, config->width, &m->names->norm_w, 1);
    add(m, CABE_ROLE_VECTOR, "norm.b", 1, config->width, &m->names->norm_b, 1);
}

static const char *find_prefix(const struct cabe_source *source, const struct naming *names)
{
    static const char *const prefixes[] = {"", "bert.", "roberta.", "model.", "0.auto_model."};
    char full[300];

    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        snprintf(full, sizeof full, "%s%s", prefixes[i], names->word);
        if (cabe_source_find(source, full))
            return prefixes[i];
    }
    return "";
}

static enum cabe_status describe(struct cabe_model *model, const struct cabe_source *source, struct cabe_error *err)
{
    struct cabe_model_config *config = &model->config;
    int is_gguf = gguf_claims(source);
    struct maker m = {model, source, is_gguf ? &gguf_names : &hf_names, "", CABE_OK, err};
    int64_t first_position = 0;

    config->add_special = 1;
    m.status = is_gguf ? read_gguf(config, source, err) : read_folder(config, source, &first_position, err);
    if (m.status == CABE_OK)
        m.status = check_shape(config, err);
    if (m.status != CABE_OK)
        return m.status;
    cabe_describe_prefixes(config, source);
    m.prefix = find_prefix(source, m.names);
    add_embeddings(&m, first_position);
    for (int i = 0; i < (int)config->n_layers && m.status == CABE_OK; i++) {
        const char *qkv[3] = {m.names->q, m.names->k, m.names->v};

        add_linear(&m, i, "qkv", 3 * config->width, config->width, qkv, 3);
        add_linear(&m, i, "out", config->width, config->width, &m.names->o, 1);
        add_norm(&m, i, "norm1", config->width, m.names->norm1);
        add_linear(&m, i, "up", config->n_ffn, config->width, &m.names->up, 1);
        add_linear(&m, i, "down", config->width, config->n_ffn, &m.names->down, 1);
        add_norm(&m, i, "norm2", config->width, m.names->norm2);
    }
    return m.status;
}

/* ---- graph ---- */

struct builder {
    struct cabe_graph *graph;
    const struct cabe_model *model;
    const struct cabe_model_choice *choice;
    int layer;
};

static cabe_value weight(const struct builder *b, const char *name, const char *suffix)
{
    char full[64];

    snprintf(full, sizeof full, "blk.%d.%s.%s", b->layer, name, suffix);
    return cabe_describe_value(b->graph, b->model, b->choice, full);
}

static cabe_value linear(const struct builder *b, cabe_value x, const char *name, cabe_value residual,
                         enum cabe_act act)
{
    char full[64];

    snprintf(full, sizeof full, "blk.%d.%s.w", b->layer, name);
    return cabe_graph_matmul(b->graph, x, weight(b, name, "w"), weight(b, name, "b"), residual, act,
                             cabe_describe_precision(b->model, b->choice, full));
}

static cabe_value norm(const struct builder *b, cabe_value x, const char *name)
{
    return cabe_graph_norm(b->graph, x, weight(b, name, "g"), weight(b, name, "b"), CABE_NO_VALUE, CABE_NORM_LAYER,
                           b->model->config.eps);
}

static void build(struct cabe_graph *graph, const struct cabe_model *model, const struct cabe_model_choice *choice,
                  int flags)
{
    const struct cabe_model_config *config = &model->config;
    struct builder b = {graph, model, choice, 0};
    struct cabe_dim tokens = {1, CABE_SYM_TOKENS, 0}, one = {1, CABE_SYM_ONE, 0}, ends = {1, CABE_SYM_SEQUENCES, 1};
    int head_dim = (int)(config->width / config->n_heads), n_heads = (int)config->n_heads;
    cabe_value ids = cabe_graph_input(graph, CABE_MODEL_IDS, CABE_I32, one, tokens);
    cabe_value positions = cabe_graph_input(graph, CABE_MODEL_POSITIONS, CABE_I32, one, tokens);
    cabe_value offsets = cabe_graph_input(graph, CABE_MODEL_OFFSETS, CABE_I32, one, ends);
    cabe_value x, p;

    x = cabe_graph_gather(graph, cabe_describe_value(graph, model, choice, "word"), ids, CABE_NO_VALUE);
    p = cabe_graph_gather(graph, cabe_describe_value(graph, model, choice, "position"), positions, CABE_NO_VALUE);
    p = cabe_graph_add(graph, p, cabe_describe_value(graph, model, choice, "type"));
    x = cabe_graph_norm(graph, x, cabe_describe_value(graph, model, choice, "norm.g"),
                        cabe_describe_value(graph, model, choice, "norm.b"), p, CABE_NORM_LAYER, config->eps);
    for (; b.layer < (int)config->n_layers; b.layer++) {
        char segment[32];
        cabe_value y;

        snprintf(segment, sizeof segment, "layer %d", b.layer);
        cabe_graph_segment(graph, segment);
        y = linear(&b, x, "qkv", CABE_NO_VALUE, CABE_ACT_NONE);
        y = cabe_graph_attention(graph, y, offsets, n_heads, n_heads, head_dim, 1.0f / sqrtf((float)head_dim),
                                 CABE_MASK_NONE);
        x = norm(&b, linear(&b, y, "out", x, CABE_ACT_NONE), "norm1");
        y = linear(&b, x, "up", CABE_NO_VALUE, config->act);
        x = norm(&b, linear(&b, y, "down", x, CABE_ACT_NONE), "norm2");
    }
    if (flags & CABE_GRAPH_STATES)
        cabe_graph_output(graph, x, CABE_MODEL_STATES);
    x = cabe_graph_pool(graph, x, offsets, CABE_NO_VALUE, config->pool);
    if (config->normalise)
        x = cabe_graph_unit(graph, x, 1e-12f);
    cabe_graph_output(graph, x, CABE_MODEL_EMBEDDINGS);
}

const struct cabe_network cabe_network_bert = {CABE_MODEL_BERT, "bert", claims, describe, build, NULL, NULL};
