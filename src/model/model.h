/*
 * A network, described from the headers of its files alone.
 *
 * A description knows the configuration, and for every weight the network wants: its name, shape, what dtype the file
 * has, and which tensors of the file it is made of. From it come the graph (for any choice of dtypes), the exact
 * bytes, and, a bounded piece at a time, the converted weights. It can be written as JSON and read back, so that a
 * fitted copy starts without its source.
 *
 * Networks: BERT encoders (all-MiniLM, e5, bge, gte), static embeddings (the model2vec layout) and decoders (Llama 2
 * and 3, SmolLM2, Mistral, Qwen2, Qwen2.5, Qwen3), from GGUF, Hugging Face folders and llama2.c checkpoints.
 *
 * Owner: who opens it. Immutable, any thread may read.
 */
#ifndef CABE_MODEL_MODEL_H
#define CABE_MODEL_MODEL_H

#include <jansson.h>
#include <stdint.h>

#include "cabe/status.h"
#include "format/source.h"
#include "tensor/graph.h"
#include "tensor/pages.h"

enum cabe_model_kind { CABE_MODEL_BERT, CABE_MODEL_STATIC, CABE_MODEL_DECODER };

/* How the frequencies of RoPE are stretched for a longer context than the model was first trained with. */
enum cabe_rope_scaling { CABE_ROPE_PLAIN, CABE_ROPE_LINEAR, CABE_ROPE_LLAMA3 };

struct cabe_decoder_config { /* width, n_layers, n_heads, n_ffn, n_vocab, act and eps stand beside it */
    int64_t n_kv_heads;
    int64_t head_dim; /* at most CABE_HEAD_DIM_MAX */
    int64_t n_ctx;    /* positions it was trained for */
    int64_t window;   /* a token attends to so many, itself included; 0: all */
    int64_t n_rot;    /* channels of a head that turn; even */
    enum cabe_rope rope;
    enum cabe_rope_scaling scaling;
    double theta;
    double factor;                     /* LINEAR, LLAMA3 */
    double low_factor, high_factor;    /* LLAMA3 */
    double first_ctx;                  /* LLAMA3: positions before the stretching */
    double angle_scale;                /* of cosines and sines */
    double attention_scale;            /* of q.k */
    int qk_norm;                       /* heads of q and k are divided by their RMS */
    int qkv_bias, o_bias;
    int tied;                          /* the head is the token embedding */
};

#define CABE_PREFIX_MAX 128

struct cabe_model_config {
    enum cabe_model_kind kind;
    char name[64];                       /* as the files call it */
    int64_t width;                       /* of an embedding */
    int64_t n_layers, n_heads, n_ffn;    /* BERT, decoders */
    int64_t n_vocab;                     /* token ids are below this */
    int64_t n_positions;                 /* BERT: rows of the position table that may be used */
    int64_t max_tokens;                  /* of one text, special tokens included; longer ones are cut */
    enum cabe_act act;
    float eps;
    enum cabe_pooling pool;
    int normalise;
    int add_special;                     /* whether texts get their special tokens */
    int drop_unknown;                    /* static: unknown tokens are left out; the id is `unknown_id` */
    int64_t unknown_id;
    char prefix_query[CABE_PREFIX_MAX];  /* "" where the model has none */
    char prefix_passage[CABE_PREFIX_MAX];
    struct cabe_decoder_config decoder;
};

enum cabe_model_role {
    CABE_ROLE_MATRIX, /* PANELS of the chosen dtype */
    CABE_ROLE_TABLE,  /* ROWS of the chosen table dtype */
    CABE_ROLE_VECTOR, /* f32 */
    CABE_ROLE_HOST    /* read by the host, not part of the graph: f32 or i32, see `to` */
};

#define CABE_MODEL_PARTS_MAX 3

struct cabe_model_weight {
    char name[64];
    enum cabe_model_role role;
    int64_t rows, cols;   /* a vector is [1, n] */
    enum cabe_dtype from; /* what the file has */
    enum cabe_dtype to;   /* HOST: F32 or I32 */
    int is_computed;      /* from the configuration: the frequencies of RoPE, divided by the part where there is one */
    int n_parts;          /* stacked by rows; 0 when read back from JSON */
    struct {
        const struct cabe_source_tensor *tensor; /* of the source, which must outlive its use */
        int64_t first_row, n_rows;
    } part[CABE_MODEL_PARTS_MAX];
};

/* What the plan decides about a model. */
struct cabe_model_choice {
    enum cabe_dtype dtype;         /* of unquantised matrices; quantised ones keep theirs */
    enum cabe_precision precision; /* how activations enter matrices that are int8 or quantised */
};

struct cabe_model;

/* Reads headers only. CABE_ERR_UNSUPPORTED names architecture or type and what is supported. */
CABE_CHECKED enum cabe_status cabe_model_describe(struct cabe_model **out, const struct cabe_source *source,
                                                  struct cabe_error *err);
/* What cabe_model_json() wrote; checked as any outside bytes. Such a model cannot be converted again. */
CABE_CHECKED enum cabe_status cabe_model_from_json(struct cabe_model **out, const json_t *json, const char *name,
                                                   struct cabe_error *err);
json_t *cabe_model_json(const struct cabe_model *model); /* new reference; NULL when memory is refused */
void cabe_model_close(struct cabe_model *model);         /* NULL is fine */

const struct cabe_model_config *cabe_model_config(const struct cabe_model *model);
const char *cabe_model_kind_name(enum cabe_model_kind kind);
int32_t cabe_model_n_weights(const struct cabe_model *model);
const struct cabe_model_weight *cabe_model_weight(const struct cabe_model *model, int32_t index);
const struct cabe_model_weight *cabe_model_find(const struct cabe_model *model, const char *name); /* or NULL */
uint64_t cabe_model_n_params(const struct cabe_model *model);
/* The dtype that most elements of matrices have (of the table, where there is none): what the file is said to be. */
enum cabe_dtype cabe_model_main_dtype(const struct cabe_model *model);
/* Whether that dtype is one that a choice cannot change. */
int cabe_model_is_quantised(const struct cabe_model *model);

/* What a weight becomes under a choice, and the bytes it then takes. */
enum cabe_dtype cabe_model_dtype(const struct cabe_model_weight *weight, const struct cabe_model_choice *choice);
uint64_t cabe_model_weight_bytes(const struct cabe_model_weight *weight, const struct cabe_model_choice *choice);

/*
 * Names of the graph's inputs and outputs. A decoder has ids (or inputs), positions, offsets, starts, page offsets,
 * pages, rows, the state "cache" and the output "logits".
 */
#define CABE_MODEL_IDS "ids"             /* i32 [tokens] */
#define CABE_MODEL_POSITIONS "positions" /* i32 [tokens]; BERT, decoders */
#define CABE_MODEL_OFFSETS "offsets"     /* i32 [sequences + 1] */
#define CABE_MODEL_ROW_WEIGHT "weights"  /* f32 [tokens]; static with token weights */
#define CABE_MODEL_EMBEDDINGS "embeddings" /* f32 [sequences, width] */
#define CABE_MODEL_STATES "states"       /* f32 [tokens, width]; where asked for; a decoder's after its last norm */
#define CABE_MODEL_INPUTS "inputs"       /* f32 [tokens, width]: embedding rows in place of ids */
#define CABE_MODEL_STARTS "starts"       /* i32 [sequences]: tokens of the sequence in the cache before this run */
#define CABE_MODEL_PAGE_OFFSETS "page_offsets" /* i32 [sequences + 1], into pages */
#define CABE_MODEL_PAGES "pages"         /* i32 [pages, 2]: struct cabe_page */
#define CABE_MODEL_ROWS "rows"           /* i32 [outputs]: tokens of this run whose logits are wanted */
#define CABE_MODEL_CACHE "cache"         /* state: keys and values */
#define CABE_MODEL_LOGITS "logits"       /* f32 [outputs, n_vocab] */

/* The shape of a decoder's cache. */
struct cabe_kv_shape cabe_model_kv_shape(const struct cabe_model *model);

/* What a graph has besides: flags. Weights and their places are the same with any. */
#define CABE_GRAPH_STATES 1 /* token-level outputs */
#define CABE_GRAPH_INPUTS 2 /* a decoder takes embedding rows in place of ids */

/* The network under a choice. Weights carry the names of the description. */
CABE_CHECKED enum cabe_status cabe_model_graph(struct cabe_graph **out, const struct cabe_model *model,
                                               const struct cabe_model_choice *choice, int flags,
                                               struct cabe_error *err);

/*
 * Converts one weight to `dtype` and hands it to `write` in order, in pieces, using `work` of
 * cabe_model_convert_bytes(): source bytes, conversion and result, whatever the size of the weight.
 */
struct cabe_model_sink {
    enum cabe_status (*write)(void *self, const void *data, uint64_t bytes, struct cabe_error *err);
    void *self;
};
uint64_t cabe_model_convert_bytes(const struct cabe_model *model, const struct cabe_model_choice *choice);
CABE_CHECKED enum cabe_status cabe_model_convert(const struct cabe_model *model, const struct cabe_source *source,
                                                 const struct cabe_model_weight *weight,
                                                 const struct cabe_model_choice *choice, void *work,
                                                 const struct cabe_model_sink *sink, struct cabe_error *err);

#endif
