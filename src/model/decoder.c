/*
 * Decoders of the Llama kind: RMS norms before attention and feed-forward, RoPE, grouped heads, a gated feed-forward.
 * One description serves Llama 2 and 3, SmolLM2, Mistral, Qwen2, Qwen2.5 and Qwen3; a family fills in what it has.
 *
 * Sources: Hugging Face folders of model_type llama, mistral, qwen2, qwen3; GGUF of architecture llama, mistral,
 * qwen2, qwen3; llama2.c checkpoints, which look like a GGUF of architecture llama.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/describe.h"

#define N_LAYERS_MAX 1024
#define HEADS_MAX (1 << 12)
#define WIDTH_MAX (1 << 17)
#define FFN_MAX (1 << 20)
#define CTX_MAX (1 << 26)
#define VOCAB_MAX (1 << 26)

struct family {
    const char *name;
    enum cabe_rope gguf_rope; /* folders always have halves; llama's converter puts pairs side by side */
    int qk_norm, qkv_bias;
};

static const struct family families[] = {
    {"llama", CABE_ROPE_ADJACENT, 0, 0},
    {"mistral", CABE_ROPE_ADJACENT, 0, 0},
    {"qwen2", CABE_ROPE_HALVES, 0, 1},
    {"qwen3", CABE_ROPE_HALVES, 1, 0},
};

struct naming { /* how a kind of file calls the tensors */
    const char *word, *norm, *head;
    const char *layer; /* printf format of a layer's prefix */
    const char *norm1, *q, *k, *v, *o, *q_norm, *k_norm, *norm2, *gate, *up, *down;
};

static const struct naming hf_names = {
    .word = "embed_tokens.weight",
    .norm = "norm.weight",
    .head = "lm_head.weight",
    .layer = "layers.%d.",
    .norm1 = "input_layernorm",
    .q = "self_attn.q_proj",
    .k = "self_attn.k_proj",
    .v = "self_attn.v_proj",
    .o = "self_attn.o_proj",
    .q_norm = "self_attn.q_norm",
    .k_norm = "self_attn.k_norm",
    .norm2 = "post_attention_layernorm",
    .gate = "mlp.gate_proj",
    .up = "mlp.up_proj",
    .down = "mlp.down_proj",
};

static const struct naming gguf_names = {
    .word = "token_embd.weight",
    .norm = "output_norm.weight",
    .head = "output.weight",
    .layer = "blk.%d.",
    .norm1 = "attn_norm",
    .q = "attn_q",
    .k = "attn_k",
    .v = "attn_v",
    .o = "attn_output",
    .q_norm = "attn_q_norm",
    .k_norm = "attn_k_norm",
    .norm2 = "ffn_norm",
    .gate = "ffn_gate",
    .up = "ffn_up",
    .down = "ffn_down",
};

static const struct family *find_family(const char *name, size_t bytes)
{
    for (size_t i = 0; name && i < sizeof families / sizeof families[0]; i++)
        if (strlen(families[i].name) == bytes && memcmp(families[i].name, name, bytes) == 0)
            return &families[i];
    return NULL;
}

/* A folder's config.json says, or the metadata of a GGUF. */
static const struct family *family_of(const struct cabe_source *source, int *is_gguf)
{
    const char *name = NULL;
    size_t bytes = 0;

    *is_gguf = cabe_source_get_string(source, "general.architecture", &name, &bytes);
    if (!*is_gguf && (name = cabe_describe_json_text(cabe_source_document(source, "config.json"), "model_type")))
        bytes = strlen(name);
    return find_family(name, bytes);
}

static int claims(const struct cabe_source *source)
{
    int is_gguf;

    return family_of(source, &is_gguf) != NULL;
}

/* ---- configuration ---- */

static enum cabe_status out_of_range(const char *what, double found, const char *wanted, struct cabe_error *err)
{
    return cabe_fail(err, CABE_ERR_FORMAT, "%s: %g, wanted %s", what, found, wanted);
}

/* Holds for what a file says and for what a fitted copy says. */
static enum cabe_status check(const struct cabe_model_config *config, struct cabe_error *err)
{
    const struct cabe_decoder_config *d = &config->decoder;
    const struct {
        const char *name;
        int64_t value, min, max;
    } ranges[] = {
        {"width", config->width, 1, WIDTH_MAX},
        {"layers", config->n_layers, 1, N_LAYERS_MAX},
        {"heads", config->n_heads, 1, HEADS_MAX},
        {"inner width", config->n_ffn, 1, FFN_MAX},
        {"vocabulary", config->n_vocab, 1, VOCAB_MAX},
        {"key and value heads", d->n_kv_heads, 1, config->n_heads},
        {"head size", d->head_dim, 1, CABE_HEAD_DIM_MAX},
        {"context", d->n_ctx, 1, CTX_MAX},
        {"window", d->window, 0, INT32_MAX},
        {"turning channels", d->n_rot, 2, d->head_dim},
    };

    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (ranges[i].value < ranges[i].min || ranges[i].value > ranges[i].max)
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: %lld, wanted %lld to %lld", ranges[i].name,
                             (long long)ranges[i].value, (long long)ranges[i].min, (long long)ranges[i].max);
    if (config->n_heads % d->n_kv_heads != 0)
        return cabe_fail(err, CABE_ERR_FORMAT, "%lld heads are not a multiple of %lld key and value heads",
                         (long long)config->n_heads, (long long)d->n_kv_heads);
    if (d->n_rot % 2 != 0)
        return out_of_range("turning channels", (double)d->n_rot, "an even number", err);
    if (!(config->eps > 0 && config->eps < 0.1f))
        return out_of_range("norm epsilon", (double)config->eps, "0 to 0.1", err);
    if (!(d->theta >= 1 && d->theta <= 1e12))
        return out_of_range("RoPE base", d->theta, "1 to 1e12", err);
    if (d->scaling != CABE_ROPE_PLAIN && !(d->factor > 0 && d->factor <= 1e6))
        return out_of_range("RoPE factor", d->factor, "0 to 1e6", err);
    if (d->scaling == CABE_ROPE_LLAMA3 &&
        !(d->low_factor > 0 && d->high_factor > d->low_factor && d->high_factor < 1e6 && d->first_ctx >= 1 &&
          d->first_ctx <= CTX_MAX))
        return cabe_fail(err, CABE_ERR_FORMAT, "RoPE scaling llama3: factors %g and %g of %g positions", d->low_factor,
                         d->high_factor, d->first_ctx);
    if (!(d->angle_scale > 0 && d->angle_scale < 100 && d->attention_scale > 0 && d->attention_scale < 100))
        return cabe_fail(err, CABE_ERR_FORMAT, "scales %g of angles, %g of attention, wanted 0 to 100",
                         d->angle_scale, d->attention_scale);
    return CABE_OK;
}

/* What follows from the rest where the file says nothing. */
static void set_defaults(struct cabe_model_config *config, const struct family *family)
{
    struct cabe_decoder_config *d = &config->decoder;

    config->act = CABE_ACT_SILU;
    config->add_special = 1;
    d->theta = 10000;
    d->angle_scale = 1;
    d->rope = CABE_ROPE_HALVES;
    d->qk_norm = family->qk_norm;
}

static void set_derived(struct cabe_model_config *config)
{
    config->n_positions = config->decoder.n_ctx;
    config->max_tokens = config->decoder.n_ctx;
    if (config->decoder.head_dim > 0)
        config->decoder.attention_scale = 1 / sqrt((double)config->decoder.head_dim);
}

/* rope_scaling of transformers 4, or rope_parameters of 5, which has the base too. */
static enum cabe_status read_scaling(struct cabe_decoder_config *d, const json_t *config, struct cabe_error *err)
{
    const json_t *json = json_object_get(config, "rope_scaling");
    const char *type;

    if (!json_is_object(json))
        json = json_object_get(config, "rope_parameters");
    if (!json_is_object(json))
        return CABE_OK;
    type = cabe_describe_json_text(json, "rope_type");
    if (!type)
        type = cabe_describe_json_text(json, "type");
    cabe_describe_json_f64(json, "rope_theta", &d->theta);
    cabe_describe_json_f64(json, "factor", &d->factor);
    cabe_describe_json_f64(json, "low_freq_factor", &d->low_factor);
    cabe_describe_json_f64(json, "high_freq_factor", &d->high_factor);
    cabe_describe_json_f64(json, "original_max_position_embeddings", &d->first_ctx);
    if (!type || strcmp(type, "default") == 0)
        return CABE_OK;
    if (strcmp(type, "linear") == 0)
        d->scaling = CABE_ROPE_LINEAR;
    else if (strcmp(type, "llama3") == 0)
        d->scaling = CABE_ROPE_LLAMA3;
    else
        return cabe_fail(err, CABE_ERR_UNSUPPORTED,
                         "config.json: rope_scaling '%.32s'; supported: default, linear, llama3", type);
    return CABE_OK;
}

static enum cabe_status read_window(struct cabe_model_config *config, const json_t *json, const struct family *family,
                                    struct cabe_error *err)
{
    int64_t first = config->n_layers;

    if (strcmp(family->name, "mistral") == 0) {
        cabe_describe_json_i64(json, "sliding_window", &config->decoder.window);
        return CABE_OK;
    }
    if (!json_is_true(json_object_get(json, "use_sliding_window")))
        return CABE_OK;
    cabe_describe_json_i64(json, "max_window_layers", &first);
    if (first > 0 && first < config->n_layers)
        return cabe_fail(err, CABE_ERR_UNSUPPORTED,
                         "config.json: max_window_layers %lld of %lld layers; supported: a window for all or none",
                         (long long)first, (long long)config->n_layers);
    if (first <= 0)
        cabe_describe_json_i64(json, "sliding_window", &config->decoder.window);
    return CABE_OK;
}

static enum cabe_status read_folder(struct cabe_model_config *config, const struct cabe_source *source,
                                    const struct family *family, struct cabe_error *err)
{
    const json_t *json = cabe_source_document(source, "config.json");
    struct cabe_decoder_config *d = &config->decoder;
    const char *name = cabe_describe_json_text(json, "_name_or_path");
    const char *act = cabe_describe_json_text(json, "hidden_act");
    double eps = 1e-6, part = 1;
    enum cabe_status status = CABE_OK;
    struct {
        const char *key;
        int64_t max, *out;
    } wanted[] = {
        {"hidden_size", WIDTH_MAX, &config->width},
        {"num_hidden_layers", N_LAYERS_MAX, &config->n_layers},
        {"num_attention_heads", HEADS_MAX, &config->n_heads},
        {"intermediate_size", FFN_MAX, &config->n_ffn},
        {"max_position_embeddings", CTX_MAX, &d->n_ctx},
        {"vocab_size", VOCAB_MAX, &config->n_vocab},
    };

    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        status = cabe_describe_wanted(source, json, wanted[i].key, 1, wanted[i].max, wanted[i].out, err);
        if (status != CABE_OK)
            return status;
    }
    d->n_kv_heads = config->n_heads;
    d->head_dim = config->width / config->n_heads;
    cabe_describe_json_i64(json, "num_key_value_heads", &d->n_kv_heads);
    cabe_describe_json_i64(json, "head_dim", &d->head_dim);
    cabe_describe_json_f64(json, "rms_norm_eps", &eps);
    cabe_describe_json_f64(json, "rope_theta", &d->theta);
    cabe_describe_json_f64(json, "partial_rotary_factor", &part);
    if (!(part > 0 && part <= 1))
        return out_of_range("partial_rotary_factor", part, "0 to 1", err);
    if (d->head_dim < 1 || d->head_dim > CABE_HEAD_DIM_MAX) /* before it is multiplied */
        return cabe_fail(err, CABE_ERR_FORMAT, "head_dim: %lld, wanted 1 to %d", (long long)d->head_dim,
                         CABE_HEAD_DIM_MAX);
    d->n_rot = (int64_t)((double)d->head_dim * part);
    config->eps = (float)eps;
    d->tied = json_is_true(json_object_get(json, "tie_word_embeddings"));
    d->qkv_bias = family->qkv_bias || json_is_true(json_object_get(json, "attention_bias"));
    d->o_bias = json_is_true(json_object_get(json, "attention_bias"));
    if (json_is_true(json_object_get(json, "mlp_bias")))
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "mlp_bias: true; supported: false");
    if (name)
        cabe_describe_copy(config->name, sizeof config->name, name, strlen(name));
    status = cabe_describe_act(config, act ? act : "silu", err);
    if (status == CABE_OK)
        status = read_scaling(d, json, err);
    return status == CABE_OK ? read_window(config, json, family, err) : status;
}

/* Keys of a GGUF begin with its architecture. */
struct keys {
    const struct cabe_source *source;
    const struct family *family;
    char name[96];
};

static const char *key(struct keys *k, const char *name)
{
    snprintf(k->name, sizeof k->name, "%s.%s", k->family->name, name);
    return k->name;
}

static enum cabe_status read_gguf_scaling(struct cabe_decoder_config *d, struct keys *k, struct cabe_error *err)
{
    const char *type;
    size_t bytes;

    if (cabe_source_get_f64(k->source, key(k, "rope.scale_linear"), &d->factor) && d->factor != 1)
        d->scaling = CABE_ROPE_LINEAR;
    if (!cabe_source_get_string(k->source, key(k, "rope.scaling.type"), &type, &bytes) ||
        (bytes == 4 && memcmp(type, "none", 4) == 0))
        return CABE_OK;
    if (bytes != 6 || memcmp(type, "linear", 6) != 0)
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: '%.*s'; supported: none, linear",
                         key(k, "rope.scaling.type"), (int)(bytes < 32 ? bytes : 32), type);
    d->scaling = CABE_ROPE_LINEAR;
    cabe_source_get_f64(k->source, key(k, "rope.scaling.factor"), &d->factor);
    return CABE_OK;
}

static enum cabe_status read_gguf(struct cabe_model_config *config, const struct cabe_source *source,
                                  const struct family *family, struct cabe_error *err)
{
    const struct cabe_source_tensor *word = cabe_source_find(source, gguf_names.word);
    struct cabe_decoder_config *d = &config->decoder;
    struct keys k = {.source = source, .family = family};
    double eps = 1e-5;
    int64_t experts = 0, value_dim;
    const char *name;
    size_t bytes;
    struct {
        const char *key;
        int64_t max, *out;
    } wanted[] = {
        {"embedding_length", WIDTH_MAX, &config->width},
        {"block_count", N_LAYERS_MAX, &config->n_layers},
        {"attention.head_count", HEADS_MAX, &config->n_heads},
        {"feed_forward_length", FFN_MAX, &config->n_ffn},
        {"context_length", CTX_MAX, &d->n_ctx},
    };

    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        enum cabe_status status =
            cabe_describe_wanted(source, NULL, key(&k, wanted[i].key), 1, wanted[i].max, wanted[i].out, err);

        if (status != CABE_OK)
            return status;
    }
    if (cabe_source_get_i64(source, key(&k, "expert_count"), &experts) && experts > 0)
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: %lld; supported: 0", k.name, (long long)experts);
    if (!word)
        return cabe_fail(err, CABE_ERR_NOT_FOUND, "tensor '%s' is missing", gguf_names.word);
    config->n_vocab = word->shape[2];
    d->n_kv_heads = config->n_heads;
    d->head_dim = config->width / config->n_heads;
    cabe_source_get_i64(source, key(&k, "attention.head_count_kv"), &d->n_kv_heads);
    cabe_source_get_i64(source, key(&k, "attention.key_length"), &d->head_dim);
    if (cabe_source_get_i64(source, key(&k, "attention.value_length"), &value_dim) && value_dim != d->head_dim)
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: %lld; supported: the keys' %lld", k.name,
                         (long long)value_dim, (long long)d->head_dim);
    d->n_rot = d->head_dim;
    cabe_source_get_i64(source, key(&k, "rope.dimension_count"), &d->n_rot);
    cabe_source_get_i64(source, key(&k, "attention.sliding_window"), &d->window);
    cabe_source_get_f64(source, key(&k, "rope.freq_base"), &d->theta);
    cabe_source_get_f64(source, key(&k, "attention.layer_norm_rms_epsilon"), &eps);
    config->eps = (float)eps;
    d->rope = family->gguf_rope;
    d->tied = cabe_source_find(source, gguf_names.head) == NULL;
    d->qkv_bias = family->qkv_bias || cabe_source_find(source, "blk.0.attn_q.bias") != NULL;
    d->o_bias = cabe_source_find(source, "blk.0.attn_output.bias") != NULL;
    if (cabe_source_get_string(source, "general.name", &name, &bytes))
        cabe_describe_copy(config->name, sizeof config->name, name, bytes);
    return read_gguf_scaling(d, &k, err);
}

void cabe_decoder_frequencies(const struct cabe_decoder_config *config, float *out)
{
    const double turn = 6.283185307179586;

    for (int64_t i = 0; i < config->n_rot / 2; i++) {
        double f = pow(config->theta, -2.0 * (double)i / (double)config->n_rot);
        double turns = config->first_ctx * f / turn; /* in the first context */
        double kept;

        if (config->scaling == CABE_ROPE_LINEAR)
            f /= config->factor;
        if (config->scaling == CABE_ROPE_LLAMA3) {
            /* Fast ones stay, slow ones are stretched, between them it goes over. */
            kept = (turns - config->low_factor) / (config->high_factor - config->low_factor);
            kept = kept < 0 ? 0 : kept > 1 ? 1 : kept;
            f = kept * f + (1 - kept) * f / config->factor;
        }
        out[i] = (float)f;
    }
}

/* ---- weights ---- */

struct maker { /* what the helpers below share */
    struct cabe_model *model;
    const struct cabe_source *source;
    const struct naming *names;
    const char *prefix; /* before a folder's tensors: "model.", or "" */
    int layer;
    enum cabe_status status;
    struct cabe_error *err;
};

struct piece { /* one tensor of a weight */
    const char *ours, *theirs;
    int64_t rows;
};

static void tensor_name(const struct maker *m, char out[300], const char *part, const char *suffix)
{
    char head[32];

    snprintf(head, sizeof head, m->names->layer, m->layer);
    snprintf(out, 300, "%s%s%s.%s", m->prefix, head, part, suffix);
}

static void our_name(const struct maker *m, char out[64], const char *name, const char *suffix)
{
    snprintf(out, 64, "layer.%d.%s%s", m->layer, name, suffix);
}

static void add_vector(struct maker *m, const char *name, int64_t n, const char *tensor)
{
    struct cabe_model_weight *weight =
        cabe_describe_add(m->model, name, CABE_ROLE_VECTOR, 1, n, &m->status, m->err);

    cabe_describe_part(m->source, weight, tensor, 0, 1, &m->status, m->err);
}

static void add_norm(struct maker *m, const char *name, int64_t n, const char *part)
{
    char ours[64], tensor[300];

    our_name(m, ours, name, "");
    tensor_name(m, tensor, part, "weight");
    add_vector(m, ours, n, tensor);
}

static void check_rows(struct maker *m, const char *tensor, int64_t rows)
{
    const struct cabe_source_tensor *found = cabe_source_find(m->source, tensor);

    if (m->status == CABE_OK && found && found->shape[2] != rows)
        m->status = cabe_fail(m->err, CABE_ERR_FORMAT, "tensor '%s': %lld rows, wanted %lld", tensor,
                              (long long)found->shape[2], (long long)rows);
}

/* A matrix [rows, cols] alone under its name. */
static void add_matrix(struct maker *m, enum cabe_model_role role, const char *name, int64_t rows, int64_t cols,
                       const char *tensor)
{
    struct cabe_model_weight *weight = cabe_describe_add(m->model, name, role, rows, cols, &m->status, m->err);

    check_rows(m, tensor, rows);
    cabe_describe_part(m->source, weight, tensor, 0, rows, &m->status, m->err);
}

static int same_types(const struct maker *m, const struct piece *pieces, int n)
{
    const struct cabe_source_tensor *first = NULL;
    char tensor[300];

    for (int i = 0; i < n; i++) {
        const struct cabe_source_tensor *found;

        tensor_name(m, tensor, pieces[i].theirs, "weight");
        found = cabe_source_find(m->source, tensor);
        if (found && first && strcmp(found->type, first->type) != 0)
            return 0;
        first = found ? found : first;
    }
    return 1;
}

/* The pieces below each other as one weight, and their biases end to end. */
static void add_stacked(struct maker *m, const char *name, int64_t cols, const struct piece *pieces, int n, int bias)
{
    struct cabe_model_weight *weight;
    char ours[64], tensor[300];
    int64_t rows = 0;

    for (int i = 0; i < n; i++)
        rows += pieces[i].rows;
    our_name(m, ours, name, "");
    weight = cabe_describe_add(m->model, ours, CABE_ROLE_MATRIX, rows, cols, &m->status, m->err);
    for (int i = 0; i < n; i++) {
        tensor_name(m, tensor, pieces[i].theirs, "weight");
        check_rows(m, tensor, pieces[i].rows);
        cabe_describe_part(m->source, weight, tensor, 0, pieces[i].rows, &m->status, m->err);
    }
    if (!bias)
        return;
    our_name(m, ours, name, "_bias");
    weight = cabe_describe_add(m->model, ours, CABE_ROLE_VECTOR, 1, rows, &m->status, m->err);
    for (int i = 0; i < n; i++) {
        tensor_name(m, tensor, pieces[i].theirs, "bias");
        if (weight)
            weight->cols = pieces[i].rows;
        cabe_describe_part(m->source, weight, tensor, 0, 1, &m->status, m->err);
    }
    if (weight)
        weight->cols = rows;
}

/* Stacked, so that they are one product, where the file has them in one type. */
static void add_pieces(struct maker *m, const char *name, int64_t cols, const struct piece *pieces, int n, int bias)
{
    if (same_types(m, pieces, n)) {
        add_stacked(m, name, cols, pieces, n, bias);
        return;
    }
    for (int i = 0; i < n; i++)
        add_stacked(m, pieces[i].ours, cols, &pieces[i], 1, bias);
}

static void add_layer(struct maker *m)
{
    const struct cabe_model_config *config = &m->model->config;
    const struct cabe_decoder_config *d = &config->decoder;
    const struct naming *names = m->names;
    int64_t kv = d->n_kv_heads * d->head_dim, inner = config->n_heads * d->head_dim;
    const struct piece qkv[] = {{"q", names->q, inner}, {"k", names->k, kv}, {"v", names->v, kv}};
    const struct piece gate_up[] = {{"gate", names->gate, config->n_ffn}, {"up", names->up, config->n_ffn}};
    const struct piece o = {"o", names->o, config->width}, down = {"down", names->down, config->width};

    add_norm(m, "attn_norm", config->width, names->norm1);
    add_pieces(m, "qkv", config->width, qkv, 3, d->qkv_bias);
    if (d->qk_norm) {
        add_norm(m, "q_norm", d->head_dim, names->q_norm);
        add_norm(m, "k_norm", d->head_dim, names->k_norm);
    }
    add_stacked(m, "o", inner, &o, 1, d->o_bias);
    add_norm(m, "ffn_norm", config->width, names->norm2);
    add_pieces(m, "gate_up", config->width, gate_up, 2, 0);
    add_stacked(m, "down", config->n_ffn, &down, 1, 0);
}

/* Llama 3's GGUF has its scaling as a vector that the plain frequencies are divided by. */
static void add_frequencies(struct maker *m)
{
    int64_t n = m->model->config.decoder.n_rot / 2;
    struct cabe_model_weight *weight =
        cabe_describe_add(m->model, "inv_freq", CABE_ROLE_VECTOR, 1, n, &m->status, m->err);

    if (weight)
        weight->is_computed = 1;
    if (m->names == &gguf_names && cabe_source_find(m->source, "rope_freqs.weight"))
        cabe_describe_part(m->source, weight, "rope_freqs.weight", 0, 1, &m->status, m->err);
}

static void add_weights(struct maker *m)
{
    const struct cabe_model_config *config = &m->model->config;
    char tensor[300];

    snprintf(tensor, sizeof tensor, "%s%s", m->prefix, m->names->word);
    if (config->decoder.tied && !cabe_source_find(m->source, tensor)) /* one of the two was left out */
        snprintf(tensor, sizeof tensor, "%s", m->names->head);
    add_matrix(m, config->decoder.tied ? CABE_ROLE_MATRIX : CABE_ROLE_TABLE, "token_embedding", config->n_vocab,
               config->width, tensor);
    add_frequencies(m);
    for (m->layer = 0; m->layer < (int)config->n_layers && m->status == CABE_OK; m->layer++)
        add_layer(m);
    snprintf(tensor, sizeof tensor, "%s%s", m->prefix, m->names->norm);
    add_vector(m, "final_norm", config->width, tensor);
    if (!config->decoder.tied)
        add_matrix(m, CABE_ROLE_MATRIX, "head", config->n_vocab, config->width, m->names->head);
}

static enum cabe_status describe(struct cabe_model *model, const struct cabe_source *source, struct cabe_error *err)
{
    struct cabe_model_config *config = &model->config;
    int is_gguf;
    const struct family *family = family_of(source, &is_gguf);
    struct maker m = {model, source, is_gguf ? &gguf_names : &hf_names, "", 0, CABE_OK, err};

    set_defaults(config, family);
    if (is_gguf) {
        m.status = read_gguf(config, source, family, err);
    } else {
        m.prefix = cabe_source_find(source, "model.norm.weight") ? "model." : "";
        m.status = read_folder(config, source, family, err);
        if (m.status != CABE_OK)
            m.status = cabe_fail_in(err, m.status, "config.json");
    }
    if (m.status != CABE_OK)
        return m.status;
    set_derived(config);
    m.status = check(config, err);
    if (m.status == CABE_OK)
        add_weights(&m);
    return m.status;
}

/* ---- as JSON ---- */

#define INTEGERS(X) X(n_kv_heads) X(head_dim) X(n_ctx) X(window) X(n_rot)
#define NUMBERS(X) X(theta) X(factor) X(low_factor) X(high_factor) X(first_ctx) X(angle_scale) X(attention_scale)
#define FLAGS(X) X(qk_norm) X(qkv_bias) X(o_bias) X(tied)

static int write_config(const struct cabe_model_config *config, json_t *json)
{
    const struct cabe_decoder_config *d = &config->decoder;
    json_t *own = json_object();
    int refused = own == NULL;

#define X(field) refused |= json_object_set_new(own, #field, json_integer((json_int_t)d->field)) != 0;
    INTEGERS(X)
    FLAGS(X)
    X(rope)
    X(scaling)
#undef X
#define X(field) refused |= json_object_set_new(own, #field, json_real(d->field)) != 0;
    NUMBERS(X)
#undef X
    refused |= json_object_set_new(json, "decoder", own) != 0;
    return !refused;
}

static enum cabe_status read_config(struct cabe_model_config *config, const json_t *json, struct cabe_error *err)
{
    struct cabe_decoder_config *d = &config->decoder;
    const json_t *own = json_object_get(json, "decoder");
    int64_t small;
    enum cabe_status status;

#define MISSING(field) \
    return cabe_fail(err, CABE_ERR_FORMAT, "model description: decoder." #field " is missing or out of range")
#define X(field)                                       \
    if (!cabe_describe_json_i64(own, #field, &d->field)) \
        MISSING(field);
    INTEGERS(X)
#undef X
#define X(field)                                       \
    if (!cabe_describe_json_f64(own, #field, &d->field)) \
        MISSING(field);
    NUMBERS(X)
#undef X
    if (!cabe_describe_json_i64(own, "rope", &small) || small < 0 || small > CABE_ROPE_HALVES)
        MISSING(rope);
    d->rope = (enum cabe_rope)small;
    if (!cabe_describe_json_i64(own, "scaling", &small) || small < 0 || small > CABE_ROPE_LLAMA3)
        MISSING(scaling);
    d->scaling = (enum cabe_rope_scaling)small;
#define X(field)                                                                       \
    if (!cabe_describe_json_i64(own, #field, &small) || small < 0 || small > 1)        \
        MISSING(field);                                                                \
    d->field = (int)small;
    FLAGS(X)
#undef X
    status = check(config, err);
    return status == CABE_OK ? status : cabe_fail_in(err, status, "model description");
}

const struct cabe_network cabe_network_decoder = {
    CABE_MODEL_DECODER, "decoder", claims, describe, cabe_decoder_build, write_config, read_config,
};
