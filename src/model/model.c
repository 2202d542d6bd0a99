#include "model/model.h"

#include <string.h>

#include "base/memory.h"
#include "model/describe.h"

#define N_WEIGHTS_MAX 100000
#define N_LAYERS_MAX 1024
#define SUPPORTED "llama, mistral, qwen2, qwen3, bert, xlm-roberta, roberta, model2vec"
#define WIDTH_MAX (1 << 20)
#define ROWS_MAX (INT64_C(1) << 31)

static const struct cabe_network *const networks[] = {&cabe_network_bert, &cabe_network_static, &cabe_network_decoder};
#define N_NETWORKS (sizeof networks / sizeof networks[0])

const char *cabe_model_kind_name(enum cabe_model_kind kind)
{
    for (size_t i = 0; i < N_NETWORKS; i++)
        if (networks[i]->kind == kind)
            return networks[i]->name;
    return "?";
}

static const struct cabe_network *network_of(enum cabe_model_kind kind)
{
    for (size_t i = 0; i < N_NETWORKS; i++)
        if (networks[i]->kind == kind)
            return networks[i];
    return NULL;
}

static enum cabe_status unknown_network(const struct cabe_source *source, struct cabe_error *err)
{
    const json_t *config = cabe_source_document(source, "config.json");
    const char *text = cabe_describe_json_text(config, "model_type");
    size_t bytes = text ? strlen(text) : 0;

    if (!text && !cabe_source_get_string(source, "general.architecture", &text, &bytes))
        return cabe_fail(err, CABE_ERR_UNSUPPORTED,
                         "%s: names no architecture (general.architecture or config.json's model_type); "
                         "supported: " SUPPORTED,
                         cabe_source_path(source));
    return cabe_fail(err, CABE_ERR_UNSUPPORTED,
                     "%s: architecture '%.*s'; supported: " SUPPORTED,
                     cabe_source_path(source), (int)(bytes < 64 ? bytes : 64), text);
}

enum cabe_status cabe_model_describe(struct cabe_model **out, const struct cabe_source *source,
                                     struct cabe_error *err)
{
    struct cabe_model *model;
    enum cabe_status status;

    *out = NULL;
    for (size_t i = 0; i < N_NETWORKS; i++) {
        if (!networks[i]->claims(source))
            continue;
        if (!(model = cabe_calloc(1, sizeof *model)))
            return cabe_fail(err, CABE_ERR_OOM, "%s: model description", cabe_source_path(source));
        model->config.kind = networks[i]->kind;
        status = networks[i]->describe(model, source, err);
        if (status != CABE_OK) {
            cabe_model_close(model);
            return cabe_fail_in(err, status, "%s", cabe_source_path(source));
        }
        *out = model;
        return CABE_OK;
    }
    return unknown_network(source, err);
}

void cabe_model_close(struct cabe_model *model)
{
    if (!model)
        return;
    cabe_free(model->weight);
    cabe_free(model);
}

const struct cabe_model_config *cabe_model_config(const struct cabe_model *model)
{
    return &model->config;
}

int32_t cabe_model_n_weights(const struct cabe_model *model)
{
    return model->n_weights;
}

const struct cabe_model_weight *cabe_model_weight(const struct cabe_model *model, int32_t index)
{
    return &model->weight[index];
}

const struct cabe_model_weight *cabe_model_find(const struct cabe_model *model, const char *name)
{
    for (int32_t i = 0; i < model->n_weights; i++)
        if (strcmp(model->weight[i].name, name) == 0)
            return &model->weight[i];
    return NULL;
}

uint64_t cabe_model_n_params(const struct cabe_model *model)
{
    uint64_t n = 0;

    for (int32_t i = 0; i < model->n_weights; i++)
        if (model->weight[i].role != CABE_ROLE_HOST && !model->weight[i].is_computed)
            n += (uint64_t)model->weight[i].rows * (uint64_t)model->weight[i].cols;
    return n;
}

static int is_quantised(enum cabe_dtype dtype)
{
    return dtype == CABE_I8 || (cabe_dtype_block(dtype) > 1 && dtype != CABE_Q5_K);
}

enum cabe_dtype cabe_model_main_dtype(const struct cabe_model *model)
{
    const struct cabe_model_weight *table = NULL;
    double elements[CABE_N_DTYPES] = {0};
    int most = -1;

    for (int32_t i = 0; i < model->n_weights; i++) {
        const struct cabe_model_weight *weight = &model->weight[i];

        if (weight->role == CABE_ROLE_TABLE && !table)
            table = weight;
        if (weight->role != CABE_ROLE_MATRIX)
            continue;
        elements[weight->from] += (double)weight->rows * (double)weight->cols;
        if (most < 0 || elements[weight->from] > elements[most])
            most = (int)weight->from;
    }
    return most >= 0 ? (enum cabe_dtype)most : table ? table->from : CABE_F32;
}

int cabe_model_is_quantised(const struct cabe_model *model)
{
    return is_quantised(cabe_model_main_dtype(model));
}

/* A quantised source is never widened nor quantised again. A shape that the wish does not suit is kept in f16 or f32. */
enum cabe_dtype cabe_model_dtype(const struct cabe_model_weight *weight, const struct cabe_model_choice *choice)
{
    static const enum cabe_dtype fallback[] = {CABE_F16, CABE_F32};
    enum cabe_packing packing = weight->role == CABE_ROLE_MATRIX ? CABE_PANELS : CABE_ROWS;
    enum cabe_dtype wish = choice->dtype;

    if (weight->role == CABE_ROLE_HOST)
        return weight->to;
    if (weight->role == CABE_ROLE_VECTOR)
        return CABE_F32;
    /* No product reads Q5_K. Eight bits add an eighth of its own rounding. */
    if (weight->from == CABE_Q5_K)
        return wish == CABE_F32 || wish == CABE_F16 || wish == CABE_BF16 ? CABE_F16 : CABE_Q8_0;
    if (is_quantised(weight->from))
        return weight->from;
    /* A table is read a row at a time: below 8 bits it would lose more than it saves. */
    if (weight->role == CABE_ROLE_TABLE && wish == CABE_Q4_0)
        wish = CABE_I8;
    /* So would embeddings that are the head too, and the head: four bits of it are what logits suffer most from. */
    if (wish == CABE_Q4_0 && (strcmp(weight->name, "token_embedding") == 0 || strcmp(weight->name, "head") == 0))
        wish = CABE_Q8_0;
    if (cabe_packed_ok(wish, packing, weight->rows, weight->cols))
        return wish;
    for (size_t i = 0; i < 2; i++)
        if (cabe_packed_ok(fallback[i], packing, weight->rows, weight->cols))
            return fallback[i];
    return CABE_F32;
}

struct cabe_kv_shape cabe_model_kv_shape(const struct cabe_model *model)
{
    const struct cabe_model_config *config = &model->config;

    return (struct cabe_kv_shape){(int32_t)config->n_layers, (int32_t)config->decoder.n_kv_heads,
                                  (int32_t)config->decoder.head_dim};
}

uint64_t cabe_model_weight_bytes(const struct cabe_model_weight *weight, const struct cabe_model_choice *choice)
{
    return cabe_packed_bytes(cabe_model_dtype(weight, choice),
                             weight->role == CABE_ROLE_MATRIX ? CABE_PANELS : CABE_ROWS, weight->rows,
                             weight->cols);
}

enum cabe_status cabe_model_graph(struct cabe_graph **out, const struct cabe_model *model,
                                  const struct cabe_model_choice *choice, int flags, struct cabe_error *err)
{
    struct cabe_graph *graph;
    enum cabe_status status = cabe_graph_open(&graph, err);

    *out = NULL;
    if (status != CABE_OK)
        return status;
    network_of(model->config.kind)->build(graph, model, choice, flags);
    status = cabe_graph_finish(graph, err);
    if (status != CABE_OK) {
        cabe_graph_close(graph);
        return cabe_fail_in(err, status, "%s", model->config.name);
    }
    *out = graph;
    return CABE_OK;
}

/* ---- description as JSON ---- */

#define CONFIG_INTEGERS(X)                                                                                   \
    X(width) X(n_layers) X(n_heads) X(n_ffn) X(n_vocab) X(n_positions) X(max_tokens) X(unknown_id)
#define CONFIG_SMALL(X) X(normalise) X(add_special) X(drop_unknown)

json_t *cabe_model_json(const struct cabe_model *model)
{
    const struct cabe_model_config *config = &model->config;
    json_t *json, *weights = json_array();
    int refused = 0; /* an incomplete description would be taken for a damaged one later */

    for (int32_t i = 0; i < model->n_weights; i++) {
        const struct cabe_model_weight *w = &model->weight[i];

        refused |= json_array_append_new(weights, json_pack("[s,i,I,I,i,i,b]", w->name, w->role, (json_int_t)w->rows,
                                                            (json_int_t)w->cols, w->from, w->to, w->is_computed)) != 0;
    }
    json = json_pack("{s:s,s:s,s:i,s:f,s:i,s:s,s:s,s:o}", "kind", cabe_model_kind_name(config->kind), "name",
                     config->name, "act", config->act, "eps", (double)config->eps, "pool", config->pool,
                     "prefix_query", config->prefix_query, "prefix_passage", config->prefix_passage, "weights",
                     weights);
#define X(field) refused |= json_object_set_new(json, #field, json_integer((json_int_t)config->field)) != 0;
    CONFIG_INTEGERS(X)
    CONFIG_SMALL(X)
#undef X
    if (network_of(config->kind)->write_config)
        refused |= !network_of(config->kind)->write_config(config, json);
    if (!refused)
        return json;
    json_decref(json);
    return NULL;
}

static enum cabe_status read_weight(struct cabe_model_weight *out, const json_t *item, struct cabe_error *err)
{
    const char *name;
    int role, from, to;
    json_int_t rows, cols;
    json_t *mutable_item = (json_t *)(uintptr_t)item; /* json_unpack() only reads */

    if (json_unpack(mutable_item, "[s,i,I,I,i,i]", &name, &role, &rows, &cols, &from, &to) != 0 ||
        strlen(name) >= sizeof out->name || role < 0 || role > CABE_ROLE_HOST || rows < 1 || rows > ROWS_MAX ||
        cols < 1 || cols > ROWS_MAX || from < 0 || from >= CABE_N_DTYPES || to < 0 || to >= CABE_N_DTYPES)
        return cabe_fail(err, CABE_ERR_FORMAT, "weight list: an entry is not [name, role, rows, cols, from, to]");
    cabe_describe_copy(out->name, sizeof out->name, name, strlen(name));
    out->role = (enum cabe_model_role)role;
    out->rows = rows;
    out->cols = cols;
    out->from = (enum cabe_dtype)from;
    out->to = (enum cabe_dtype)to;
    out->is_computed = json_is_true(json_array_get(item, 6));
    return CABE_OK;
}

static enum cabe_status read_config(struct cabe_model_config *config, const json_t *json, struct cabe_error *err)
{
    const char *kind = cabe_describe_json_text(json, "kind");
    const char *name = cabe_describe_json_text(json, "name");
    const char *query = cabe_describe_json_text(json, "prefix_query");
    const char *passage = cabe_describe_json_text(json, "prefix_passage");
    int64_t act = -1, pool = -1, small;
    double eps = -1;
    size_t i;

    for (i = 0; i < N_NETWORKS && (!kind || strcmp(networks[i]->name, kind) != 0); i++)
        ;
    cabe_describe_json_i64(json, "act", &act);
    cabe_describe_json_i64(json, "pool", &pool);
    cabe_describe_json_f64(json, "eps", &eps);
    if (i == N_NETWORKS || !name || !query || !passage || act < 0 || act > CABE_ACT_TANH || pool < 0 ||
        pool > CABE_POOL_LAST || !(eps >= 0 && eps < 1))
        return cabe_fail(err, CABE_ERR_FORMAT, "model description: a field is missing or out of range");
    config->kind = networks[i]->kind;
    config->act = (enum cabe_act)act;
    config->pool = (enum cabe_pooling)pool;
    config->eps = (float)eps;
    cabe_describe_copy(config->name, sizeof config->name, name, strlen(name));
    cabe_describe_copy(config->prefix_query, sizeof config->prefix_query, query, strlen(query));
    cabe_describe_copy(config->prefix_passage, sizeof config->prefix_passage, passage, strlen(passage));
#define X(field)                                                                                             \
    if (!cabe_describe_json_i64(json, #field, &config->field) || config->field < -1 || config->field > ROWS_MAX) \
        return cabe_fail(err, CABE_ERR_FORMAT, "model description: " #field " is missing or out of range");
    CONFIG_INTEGERS(X)
#undef X
#define X(field)                                                                                             \
    if (!cabe_describe_json_i64(json, #field, &small) || small < 0 || small > 1)                             \
        return cabe_fail(err, CABE_ERR_FORMAT, "model description: " #field " is missing or out of range");  \
    config->field = (int)small;
    CONFIG_SMALL(X)
#undef X
    if (config->width < 1 || config->width > WIDTH_MAX || config->max_tokens < 1)
        return cabe_fail(err, CABE_ERR_FORMAT, "model description: width or max_tokens out of range");
    if (config->kind == CABE_MODEL_BERT &&
        (config->n_layers < 1 || config->n_layers > N_LAYERS_MAX || config->n_heads < 1 ||
         config->width % config->n_heads != 0))
        return cabe_fail(err, CABE_ERR_FORMAT, "model description: %lld layers, %lld heads of a width of %lld",
                         (long long)config->n_layers, (long long)config->n_heads, (long long)config->width);
    return networks[i]->read_config ? networks[i]->read_config(config, json, err) : CABE_OK;
}

enum cabe_status cabe_model_from_json(struct cabe_model **out, const json_t *json, const char *name,
                                      struct cabe_error *err)
{
    const json_t *weights = json_object_get(json, "weights");
    size_t n = json_array_size(weights);
    struct cabe_model *model = cabe_calloc(1, sizeof *model);
    enum cabe_status status = CABE_OK;

    *out = NULL;
    if (!model)
        return cabe_fail(err, CABE_ERR_OOM, "%s: model description", name);
    if (n < 1 || n > N_WEIGHTS_MAX) {
        status = cabe_fail(err, CABE_ERR_FORMAT, "model description: %zu weights", n);
        goto fail;
    }
    status = read_config(&model->config, json, err);
    if (status != CABE_OK)
        goto fail;
    if (!(model->weight = cabe_calloc(n, sizeof *model->weight))) {
        status = cabe_fail(err, CABE_ERR_OOM, "model description");
        goto fail;
    }
    for (size_t i = 0; i < n; i++) {
        status = read_weight(&model->weight[i], json_array_get(weights, i), err);
        if (status != CABE_OK)
            goto fail;
        model->n_weights++;
    }
    *out = model;
    return CABE_OK;

fail:
    cabe_model_close(model);
    return cabe_fail_in(err, status, "%s", name);
}
