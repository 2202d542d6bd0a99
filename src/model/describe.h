/* Shared by the networks of this room: a description under construction. */
#ifndef CABE_MODEL_DESCRIBE_H
#define CABE_MODEL_DESCRIBE_H

#include "model/model.h"

struct cabe_model {
    struct cabe_model_config config;
    struct cabe_model_weight *weight;
    int32_t n_weights, capacity;
};

/* Adds a weight without parts; NULL when memory is refused (err is filled) or an earlier error is in *status. */
struct cabe_model_weight *cabe_describe_add(struct cabe_model *model, const char *name, enum cabe_model_role role,
                                            int64_t rows, int64_t cols, enum cabe_status *status,
                                            struct cabe_error *err);
/*
 * Appends rows [first_row, first_row + n_rows) of the source's tensor `tensor_name` to a weight; its columns must be
 * the weight's, its dtype that of the parts before.
 */
void cabe_describe_part(const struct cabe_source *source, struct cabe_model_weight *weight, const char *tensor_name,
                        int64_t first_row, int64_t n_rows, enum cabe_status *status, struct cabe_error *err);

/* A network fills its part: configuration and weights from a source, a graph from a description. */
struct cabe_network {
    enum cabe_model_kind kind;
    const char *name;
    /* Whether the source is of this network; says so in the words of its file. */
    int (*claims)(const struct cabe_source *source);
    enum cabe_status (*describe)(struct cabe_model *model, const struct cabe_source *source,
                                 struct cabe_error *err);
    void (*build)(struct cabe_graph *graph, const struct cabe_model *model, const struct cabe_model_choice *choice,
                  int flags);
    /* NULL, or what it keeps of its own configuration: 0 when memory is refused; read and checked. */
    int (*write_config)(const struct cabe_model_config *config, json_t *json);
    enum cabe_status (*read_config)(struct cabe_model_config *config, const json_t *json, struct cabe_error *err);
};

extern const struct cabe_network cabe_network_bert;
extern const struct cabe_network cabe_network_static;
extern const struct cabe_network cabe_network_decoder;

/* Inside build(): the graph's weight for a described one, CABE_NO_VALUE where the model has none of that name. */
cabe_value cabe_describe_value(struct cabe_graph *graph, const struct cabe_model *model,
                               const struct cabe_model_choice *choice, const char *name);
/* The precision of a product with that weight under a choice: float weights always take float activations. */
enum cabe_precision cabe_describe_precision(const struct cabe_model *model, const struct cabe_model_choice *choice,
                                            const char *name);

/* Configuration values: a member of a JSON object, or a GGUF key; 0 and untouched where absent. */
int cabe_describe_json_i64(const json_t *object, const char *key, int64_t *out);
int cabe_describe_json_f64(const json_t *object, const char *key, double *out);
const char *cabe_describe_json_text(const json_t *object, const char *key);
/* The integer of that name in the object, or in the source's metadata where there is none: wanted, and in range. */
enum cabe_status cabe_describe_wanted(const struct cabe_source *source, const json_t *json, const char *key,
                                      int64_t min, int64_t max, int64_t *out, struct cabe_error *err);
/* The activation of that name in a config.json. */
enum cabe_status cabe_describe_act(struct cabe_model_config *config, const char *name, struct cabe_error *err);
/* Copies a text, cut to size, always terminated. */
void cabe_describe_copy(char *out, size_t out_bytes, const char *text, size_t text_bytes);

/* Which prefixes a family wants, from its name; for models whose files do not say. */
void cabe_describe_prefixes(struct cabe_model_config *config, const struct cabe_source *source);

/* The frequencies of a decoder's RoPE, n_rot / 2 of them, from its configuration. */
void cabe_decoder_frequencies(const struct cabe_decoder_config *config, float *out);
/* Builds a decoder's graph. */
void cabe_decoder_build(struct cabe_graph *graph, const struct cabe_model *model,
                        const struct cabe_model_choice *choice, int flags);

#endif
