#include "model/describe.h"

#include <string.h>
#include <strings.h>

#include "base/memory.h"

struct cabe_model_weight *cabe_describe_add(struct cabe_model *model, const char *name, enum cabe_model_role role,
                                            int64_t rows, int64_t cols, enum cabe_status *status,
                                            struct cabe_error *err)
{
    struct cabe_model_weight *weight;

    if (*status != CABE_OK)
        return NULL;
    if (model->n_weights == model->capacity) {
        int32_t capacity = model->capacity ? model->capacity * 2 : 64;
        struct cabe_model_weight *grown = cabe_realloc(model->weight, (size_t)capacity, sizeof *grown);

        if (!grown) {
            *status = cabe_fail(err, CABE_ERR_OOM, "%s: model description", name);
            return NULL;
        }
        model->weight = grown;
        model->capacity = capacity;
    }
    weight = &model->weight[model->n_weights++];
    memset(weight, 0, sizeof *weight);
    cabe_describe_copy(weight->name, sizeof weight->name, name, strlen(name));
    weight->role = role;
    weight->rows = rows;
    weight->cols = cols;
    weight->to = CABE_F32;
    return weight;
}

void cabe_describe_part(const struct cabe_source *source, struct cabe_model_weight *weight, const char *tensor_name,
                        int64_t first_row, int64_t n_rows, enum cabe_status *status, struct cabe_error *err)
{
    const struct cabe_source_tensor *tensor;
    enum cabe_dtype dtype;
    int64_t rows, cols;

    if (*status != CABE_OK || !weight)
        return;
    tensor = cabe_source_find(source, tensor_name);
    if (!tensor) {
        *status = cabe_fail(err, CABE_ERR_NOT_FOUND, "tensor '%s' is missing", tensor_name);
        return;
    }
    rows = tensor->shape[2];
    cols = tensor->shape[3];
    if (tensor->shape[0] != 1 || tensor->shape[1] != 1 || cols != weight->cols || first_row > rows ||
        n_rows > rows - first_row) {
        *status = cabe_fail(err, CABE_ERR_FORMAT,
                            "tensor '%s': shape [%lld, %lld, %lld, %lld], wanted %lld rows from row %lld of %lld",
                            tensor_name, (long long)tensor->shape[0], (long long)tensor->shape[1], (long long)rows,
                            (long long)cols, (long long)n_rows, (long long)first_row, (long long)weight->cols);
        return;
    }
    dtype = cabe_dtype_find(tensor->type);
    switch (dtype) {
    case CABE_F32:
    case CABE_F16:
    case CABE_BF16:
    case CABE_Q8_0:
    case CABE_Q4_0:
    case CABE_Q4_1:
    case CABE_Q4_K:
    case CABE_Q5_K:
    case CABE_Q6_K:
        break;
    case CABE_I8:
        if (weight->role == CABE_ROLE_TABLE)
            break;
        goto unsupported;
    case CABE_F64:
    case CABE_I32:
    case CABE_I64:
        if (weight->role == CABE_ROLE_HOST)
            break;
        goto unsupported;
    default:
    unsupported:
        *status = cabe_fail(err, CABE_ERR_UNSUPPORTED,
                            "tensor '%s': type %s; supported: f32, f16, bf16, q8_0, q4_0, q4_1, q4_k, q5_k, q6_k",
                            tensor_name, tensor->type);
        return;
    }
    if (weight->n_parts > 0 && weight->from != dtype) {
        *status = cabe_fail(err, CABE_ERR_UNSUPPORTED, "tensor '%s': type %s, but '%s' of the same matrix has %s",
                            tensor_name, tensor->type, weight->part[0].tensor->name, cabe_dtype_name(weight->from));
        return;
    }
    weight->from = dtype;
    weight->part[weight->n_parts].tensor = tensor;
    weight->part[weight->n_parts].first_row = first_row;
    weight->part[weight->n_parts].n_rows = n_rows;
    weight->n_parts++;
}

cabe_value cabe_describe_value(struct cabe_graph *graph, const struct cabe_model *model,
                               const struct cabe_model_choice *choice, const char *name)
{
    const struct cabe_model_weight *weight = cabe_model_find(model, name);

    if (!weight)
        return CABE_NO_VALUE;
    return cabe_graph_weight(graph, name, cabe_model_dtype(weight, choice),
                             weight->role == CABE_ROLE_MATRIX ? CABE_PANELS : CABE_ROWS, weight->rows,
                             weight->cols);
}

enum cabe_precision cabe_describe_precision(const struct cabe_model *model, const struct cabe_model_choice *choice,
                                            const char *name)
{
    const struct cabe_model_weight *weight = cabe_model_find(model, name);
    enum cabe_dtype dtype = weight ? cabe_model_dtype(weight, choice) : CABE_F32;

    return dtype == CABE_F32 || dtype == CABE_F16 || dtype == CABE_BF16 ? CABE_PRECISION_HIGH : choice->precision;
}

int cabe_describe_json_i64(const json_t *object, const char *key, int64_t *out)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_integer(value))
        return 0;
    *out = json_integer_value(value);
    return 1;
}

int cabe_describe_json_f64(const json_t *object, const char *key, double *out)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_number(value))
        return 0;
    *out = json_number_value(value);
    return 1;
}

enum cabe_status cabe_describe_wanted(const struct cabe_source *source, const json_t *json, const char *key,
                                      int64_t min, int64_t max, int64_t *out, struct cabe_error *err)
{
    int found = json ? cabe_describe_json_i64(json, key, out) : cabe_source_get_i64(source, key, out);

    if (!found)
        return cabe_fail(err, CABE_ERR_NOT_FOUND, "%s: no integer of that name", key);
    if (*out < min || *out > max)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: %lld, wanted %lld to %lld", key, (long long)*out, (long long)min,
                         (long long)max);
    return CABE_OK;
}

enum cabe_status cabe_describe_act(struct cabe_model_config *config, const char *name, struct cabe_error *err)
{
    if (strcmp(name, "gelu") == 0)
        config->act = CABE_ACT_GELU_ERF;
    else if (strcmp(name, "gelu_new") == 0 || strcmp(name, "gelu_pytorch_tanh") == 0)
        config->act = CABE_ACT_GELU_TANH;
    else if (strcmp(name, "relu") == 0)
        config->act = CABE_ACT_RELU;
    else if (strcmp(name, "silu") == 0 || strcmp(name, "swish") == 0)
        config->act = CABE_ACT_SILU;
    else
        return cabe_fail(err, CABE_ERR_UNSUPPORTED,
                         "hidden_act '%.32s'; supported: gelu, gelu_new, gelu_pytorch_tanh, relu, silu", name);
    return CABE_OK;
}

const char *cabe_describe_json_text(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

void cabe_describe_copy(char *out, size_t out_bytes, const char *text, size_t text_bytes)
{
    size_t n = text_bytes < out_bytes - 1 ? text_bytes : out_bytes - 1;

    while (n > 0 && n < text_bytes && ((unsigned char)text[n] & 0xC0) == 0x80)
        n--;
    memcpy(out, text, n);
    out[n] = '\0';
}

/* sentence-transformers writes {"prompts": {"query": "...", "passage" or "document": "..."}}. */
static int prompts_of(struct cabe_model_config *config, const json_t *document)
{
    const json_t *prompts = json_object_get(document, "prompts");
    const char *query = cabe_describe_json_text(prompts, "query");
    const char *passage = cabe_describe_json_text(prompts, "passage");

    if (!passage)
        passage = cabe_describe_json_text(prompts, "document");
    if (query)
        cabe_describe_copy(config->prefix_query, CABE_PREFIX_MAX, query, strlen(query));
    if (passage)
        cabe_describe_copy(config->prefix_passage, CABE_PREFIX_MAX, passage, strlen(passage));
    return (query && *query) || (passage && *passage);
}

void cabe_describe_prefixes(struct cabe_model_config *config, const struct cabe_source *source)
{
    /* The family is the last part of the name in lower case: intfloat's e5 and BAAI's English bge (v1, v1.5). */
    static const char bge_query[] = "Represent this sentence for searching relevant passages: ";
    const char *path = cabe_source_path(source);

    if (prompts_of(config, cabe_source_document(source, "config_sentence_transformers.json")))
        return;
    for (int i = 0; i < 2; i++) {
        const char *name = i == 0 ? config->name : path;

        if (strcasestr(name, "e5-") && !strcasestr(name, "instruct")) {
            strcpy(config->prefix_query, "query: ");
            strcpy(config->prefix_passage, "passage: ");
            return;
        }
        if (strcasestr(name, "bge-") && strcasestr(name, "-en") && !strcasestr(name, "m3")) {
            strcpy(config->prefix_query, bge_query);
            return;
        }
    }
}
