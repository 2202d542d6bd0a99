/*
 * The inside of a source, shared by the files that read each format. Not for other rooms.
 *
 * What opening finds is written once, by the opening thread. What is read later, on demand (array data, large
 * documents), hangs from `lazy` under its mutex.
 */
#ifndef CABE_FORMAT_SOURCE_PARTS_H
#define CABE_FORMAT_SOURCE_PARTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "format/input.h"
#include "format/source.h"

#define CABE_SOURCE_FILES_MAX 1024
#define CABE_SOURCE_TENSORS_MAX (1u << 20)
#define CABE_SOURCE_NAME_MAX 1024u /* bytes of a tensor's name */

/* GGUF's types of a metadata value, as numbered in the file. */
enum cabe_gguf_type {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY,
    GGUF_U64, GGUF_I64, GGUF_F64, GGUF_N_TYPES
};

/* Every MARK-th string of an array has its offset kept, so that any string is found in constant time. */
#define CABE_GGUF_MARK 8u

struct cabe_gguf_key {
    const char *name;
    uint8_t type;
    uint8_t element; /* of an array */
    union {
        uint64_t u; /* bool and the unsigned types */
        int64_t i;
        double f;
    } value;
    const char *text;  /* of a string */
    uint64_t n;        /* bytes of a string, elements of an array */
    uint64_t offset;   /* of an array's first element in the file */
    uint64_t bytes;    /* of an array's elements in the file */
    uint32_t *marks;   /* of an array of strings: offsets from its first element */
};

struct cabe_source_document {
    const char *name; /* "1_Pooling/config.json" */
    int file;         /* that holds it */
    int later;        /* read on demand, into lazy->json */
    json_t *json;     /* read when the source was opened */
};

/* Written under the mutex, once; release and acquire order what a pointer leads to. */
struct cabe_source_lazy {
    pthread_mutex_t mutex;
    _Atomic(uint8_t *) *array; /* per GGUF key */
    _Atomic(json_t *) *json;   /* per document */
    atomic_size_t last_key;    /* that was asked for; relaxed: only a guess of which comes next */
};

struct cabe_source {
    enum cabe_source_kind kind;
    char *path;
    const char *module; /* folder of the first module, where it is not the root: "0_StaticEmbedding"; or "" */
    struct cabe_input *files;
    int n_files;
    int gguf; /* which file has the metadata */
    int tokenizer; /* which file has it, of a llama2.c checkpoint; 0: none */
    struct cabe_source_tensor *tensors; /* sorted by name once opened */
    size_t n_tensors, tensors_capacity;
    struct cabe_gguf_key *keys; /* sorted by name once opened */
    size_t n_keys;
    struct cabe_source_document *documents;
    size_t n_documents, documents_capacity;
    struct cabe_text_chunk *texts; /* names and strings */
    struct cabe_source_lazy *lazy;
};

/* Keeps a copy of `bytes` bytes and a NUL; NULL when memory is refused. */
char *cabe_source_keep(struct cabe_source *source, const char *bytes, size_t n);
/* Room for `bytes` bytes and a NUL, which it writes. */
char *cabe_source_room(struct cabe_source *source, size_t n);
/* Opens one more file; *index is its place in source->files. */
CABE_CHECKED enum cabe_status cabe_source_add_file(struct cabe_source *source, const char *path, int *index,
                                                   struct cabe_error *err);
/* Copies `tensor`; its name must have been kept. */
CABE_CHECKED enum cabe_status cabe_source_add_tensor(struct cabe_source *source,
                                                     const struct cabe_source_tensor *tensor,
                                                     struct cabe_error *err);
/* Sets shape and n_dims from `n` dimensions, outermost first; *count is their product. 0: overflow. */
int cabe_source_set_shape(struct cabe_source_tensor *tensor, const uint64_t *dims, int n, uint64_t *count);

/* The readers: file `file` of the source holds a GGUF, or a safetensors whose tensors get `prefix` before names. */
CABE_CHECKED enum cabe_status cabe_gguf_read(struct cabe_source *source, int file, struct cabe_error *err);
/* *is_one: whether the file is a llama2.c checkpoint at all. */
CABE_CHECKED enum cabe_status cabe_llama2c_read(struct cabe_source *source, int file, int *is_one,
                                                struct cabe_error *err);
void cabe_gguf_clear(struct cabe_source *source);
CABE_CHECKED enum cabe_status cabe_safetensors_read(struct cabe_source *source, int file, const char *prefix,
                                                    struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_folder_read(struct cabe_source *source, const char *path,
                                               struct cabe_error *err);
void cabe_folder_clear(struct cabe_source *source);

/* 1 for a path that stays inside the folder it is relative to, by its words alone: no "..", not absolute. */
int cabe_path_is_inside(const char *path);

#endif
