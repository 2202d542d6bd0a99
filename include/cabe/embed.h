/*
 * Sentence embeddings inside a byte budget.
 *
 *     struct cabe_embedder *embedder;
 *     struct cabe_error err;
 *     struct cabe_embedder_config config = {.model = "all-minilm-l6-v2", .memory_bytes = 256u << 20};
 *
 *     if (cabe_embedder_open(&embedder, &config, &err) != CABE_OK)
 *         return report(err.text);
 *     float *rows = malloc(n * cabe_embedder_width(embedder) * sizeof *rows);
 *     status = cabe_embedder_encode(embedder, texts, n, CABE_PREFIX_NONE, rows, &err);
 *     cabe_embedder_close(embedder);
 *
 * Opening plans first: what does not fit the budget is refused before anything is loaded, with the bytes that are
 * missing (err.missing_bytes). The first opening of a model converts its weights once into a fitted copy under
 * CABE_HOME; later ones map it. Rows are the same bytes whatever the threads and the other texts of a call.
 *
 * Owner:  who opens it. Thread: one call at a time per embedder; different embedders are independent.
 */
#ifndef CABE_EMBED_H
#define CABE_EMBED_H

#include <stddef.h>
#include <stdint.h>

#include "cabe/status.h"

/* What goes before each text, where the model was trained with prefixes. */
enum cabe_prefix { CABE_PREFIX_NONE, CABE_PREFIX_QUERY, CABE_PREFIX_PASSAGE };

struct cabe_text { /* UTF-8, not NUL-terminated; longer than the model reads: cut */
    const char *bytes;
    size_t n_bytes;
};

struct cabe_embedder;

struct cabe_embedder_config {
    const char *model;     /* a short name of `cabe list`, or the path of a file or folder */
    uint64_t memory_bytes; /* budget of the whole process; 0: what the machine allows */
    int n_threads;         /* 0: usable physical cores */
    const char *dtype;     /* "f32", "f16", "bf16", "int8", "q8_0", "q4_0"; NULL: by memory */
    int high_precision;    /* f32 activations in quantised products too */
};

/* CABE_ERR_BUDGET, _NOT_FOUND, _FORMAT, _UNSUPPORTED, _ARGUMENT, _IO, _OOM. On any of them *out is NULL. */
CABE_API CABE_CHECKED enum cabe_status cabe_embedder_open(struct cabe_embedder **out,
                                                          const struct cabe_embedder_config *config,
                                                          struct cabe_error *err);
CABE_API void cabe_embedder_close(struct cabe_embedder *embedder); /* NULL is fine */

CABE_API size_t cabe_embedder_width(const struct cabe_embedder *embedder);
/* The peak of the process that the plan promised, in bytes. */
CABE_API uint64_t cabe_embedder_planned_bytes(const struct cabe_embedder *embedder);

/* Embeds n texts into out[n][width], f32, in order. Ill-formed UTF-8 is CABE_ERR_FORMAT, naming text and byte. */
CABE_API CABE_CHECKED enum cabe_status cabe_embedder_encode(struct cabe_embedder *embedder,
                                                            const struct cabe_text *texts, size_t n,
                                                            enum cabe_prefix prefix, float *out,
                                                            struct cabe_error *err);

#endif
