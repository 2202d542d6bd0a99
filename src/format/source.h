/*
 * A model on disk, whatever its format, as named tensors and typed fields.
 *
 * A source is a GGUF file, a llama2.c checkpoint, a safetensors file, a set of shards with an index, or a Hugging Face folder (config.json,
 * tokenizer.json, modules.json with its pooling config, weights). Opening reads headers only, checks every offset and
 * count against the file, and keeps the file open: later reads are pread(2), so a file that shrinks is an error
 * (CABE_ERR_CHANGED), never a crash.
 *
 * Owner: who opens it. Thread: reading from any thread.
 */
#ifndef CABE_FORMAT_SOURCE_H
#define CABE_FORMAT_SOURCE_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "cabe/status.h"

/*
 * A folder whose weights are a GGUF is a GGUF that has documents too. A llama2.c checkpoint has the tensors and keys of
 * a GGUF of architecture "llama".
 */
enum cabe_source_kind { CABE_SOURCE_GGUF, CABE_SOURCE_SAFETENSORS, CABE_SOURCE_FOLDER, CABE_SOURCE_LLAMA2C };

struct cabe_source_tensor {
    const char *name; /* as in the file */
    /* GGUF's name for the type, lower case ("f32", "q8_0", "q4_k", ...), safetensors' mapped to the same words
       ("f32", "f16", "bf16", "f64", "i8", "u8", "i32", "i64"). Compare with cabe_dtype_find(). */
    const char *type;
    int n_dims; /* as the file says; 0 for one number */
    int64_t shape[4]; /* row-major, outermost first; unused ones are 1 and stand first: a vector is [1, 1, 1, n] */
    uint64_t bytes;
    uint64_t offset; /* in its file */
    int file;        /* which of the source's files */
};

struct cabe_source;

/* Identity of the content, for keys of fitted copies. */
struct cabe_source_identity {
    uint64_t bytes;     /* of all files */
    uint64_t mtime_ns;  /* newest */
    uint64_t name_hash; /* of the absolute path it was opened by */
};

/* `path`: a file or a folder. Errors name file, field, found and wanted. */
CABE_CHECKED enum cabe_status cabe_source_open(struct cabe_source **out, const char *path, struct cabe_error *err);
void cabe_source_close(struct cabe_source *source); /* NULL is fine */

enum cabe_source_kind cabe_source_kind(const struct cabe_source *source);
const char *cabe_source_path(const struct cabe_source *source);
void cabe_source_identity(const struct cabe_source *source, struct cabe_source_identity *out);
/* A 128-bit hash of all content, read once from end to end (seconds for large models). */
CABE_CHECKED enum cabe_status cabe_source_hash(const struct cabe_source *source, uint8_t out[16],
                                               struct cabe_error *err);

size_t cabe_source_n_tensors(const struct cabe_source *source);
const struct cabe_source_tensor *cabe_source_tensor(const struct cabe_source *source, size_t index);
const struct cabe_source_tensor *cabe_source_find(const struct cabe_source *source, const char *name); /* or NULL */
/* Copies bytes [begin, begin + bytes) of a tensor. */
CABE_CHECKED enum cabe_status cabe_source_read(const struct cabe_source *source,
                                               const struct cabe_source_tensor *tensor, uint64_t begin,
                                               uint64_t bytes, void *out, struct cabe_error *err);

/*
 * Fields. For GGUF: its metadata keys. For a folder: "config.json", "tokenizer.json", "tokenizer_config.json",
 * "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"... as parsed documents, "chat_template.jinja"
 * as a JSON string; absent ones are NULL.
 */
const json_t *cabe_source_document(const struct cabe_source *source, const char *name);
/*
 * The same, with the reason where it is not given: CABE_ERR_NOT_FOUND when absent. Configurations are read when the
 * source is opened; tokenizer.json and others that may be large, or that a model may do without, on the first call.
 */
CABE_CHECKED enum cabe_status cabe_source_document_get(const struct cabe_source *source, const char *name,
                                                       const json_t **out, struct cabe_error *err);

/* The documents there are, in the order they were found; NULL past the last. */
const char *cabe_source_document_name(const struct cabe_source *source, size_t index);
/* The metadata keys of a GGUF, sorted; NULL past the last. */
const char *cabe_source_key(const struct cabe_source *source, size_t index);

/* GGUF metadata. Each gives 0 and leaves *out alone where the key is absent or of another type. */
int cabe_source_get_i64(const struct cabe_source *source, const char *key, int64_t *out);
int cabe_source_get_f64(const struct cabe_source *source, const char *key, double *out);
int cabe_source_get_bool(const struct cabe_source *source, const char *key, int *out);
/* Not NUL-terminated; may hold any byte. */
int cabe_source_get_string(const struct cabe_source *source, const char *key, const char **out, size_t *bytes);
/* Arrays: how many elements; then by index. A type mismatch gives 0. */
int cabe_source_get_array(const struct cabe_source *source, const char *key, uint64_t *n);
int cabe_source_array_string(const struct cabe_source *source, const char *key, uint64_t i, const char **out,
                             size_t *bytes);
int cabe_source_array_f64(const struct cabe_source *source, const char *key, uint64_t i, double *out);
int cabe_source_array_i64(const struct cabe_source *source, const char *key, uint64_t i, int64_t *out);

/*
 * Array elements and tokenizer.json are read from the file when first asked for. To know why that failed (the array
 * getters then give 0), ask before: CABE_ERR_NOT_FOUND where `key` is not an array of the metadata.
 */
CABE_CHECKED enum cabe_status cabe_source_array_load(const struct cabe_source *source, const char *key,
                                                     struct cabe_error *err);
/* Gives back what was read on demand; pointers into it end. No other call on the source may be running. */
void cabe_source_trim(struct cabe_source *source);

/* The tokenizer that lies beside a llama2.c checkpoint, cabe_malloc'ed. CABE_ERR_NOT_FOUND: there is none. */
CABE_CHECKED enum cabe_status cabe_source_tokenizer_file(const struct cabe_source *source, void **out, size_t *bytes,
                                                         struct cabe_error *err);

/* What a source is, in a few words and numbers, from headers alone. */
struct cabe_source_summary {
    char format[16];       /* "gguf", "safetensors", "llama2.c" */
    char architecture[64]; /* general.architecture, model_type; "static" for static embeddings; or "?" */
    const char *type;      /* of tensors: that with most bytes; "?" without tensors */
    uint64_t n_params;     /* elements of all tensors */
    uint64_t bytes;        /* of all files */
    int n_files;
};
void cabe_source_summarise(const struct cabe_source *source, struct cabe_source_summary *out);

#endif
