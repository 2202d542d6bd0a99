/*
 * What a model file says of its tokenizer, before it is compiled. Internal to text/.
 *
 * Readers of one format each fill a spec; cabe_spec_compile() makes the block. Text is borrowed from the source, or
 * lies in the spec's own pool.
 */
#ifndef CABE_TEXT_SPEC_H
#define CABE_TEXT_SPEC_H

#include <jansson.h>

#include "text/block.h"

#define CABE_SPEC_TOKENS_MAX (1u << 24)

struct cabe_spec_token {
    const char *text; /* NULL: no token has this id */
    size_t bytes;
    double score;
    int is_added; /* known only as an added token, not to the model */
};

struct cabe_spec_added {
    const char *text;
    size_t bytes;
    int32_t id;
    uint32_t flags;
};

struct cabe_spec_merge {
    const char *left, *right; /* as in the file */
    uint32_t left_bytes, right_bytes;
};

struct cabe_spec {
    const char *name; /* in messages */
    enum cabe_tokenizer_model model;
    uint32_t flags;
    struct cabe_spec_token *tokens; /* by id */
    size_t n_tokens, token_capacity;
    char *pool; /* text that the source does not hold in this form */
    struct cabe_spec_added *added;
    size_t n_added;
    struct cabe_spec_merge *merges; /* of BPE, the first one first */
    size_t n_merges;
    int first_merge_counts; /* of two that are equal; otherwise the last */
    int has_marks;          /* tokens of BPE have U+2581 for a space */
    struct cabe_step normalizers[CABE_STEPS_MAX], pretokenizers[CABE_STEPS_MAX];
    size_t n_normalizers, n_pretokenizers;
    char *strings; /* what steps refer to */
    size_t n_strings;
    uint8_t *charsmap;
    size_t charsmap_bytes;
    int32_t unk_id;
    uint32_t word_characters_max;
    uint32_t prefix, prefix_bytes; /* in strings */
    uint64_t truncate_tokens;
    int32_t before[CABE_SPECIALS_MAX], after[CABE_SPECIALS_MAX];
    uint32_t n_before, n_after;
    int32_t roles[CABE_N_TOKEN_ROLES]; /* -1: none */
    int32_t ends[CABE_ENDS_MAX];
    uint32_t n_ends;
    const char *chat_template;
    size_t chat_template_bytes;
};

struct cabe_spec cabe_spec_new(const char *name);
void cabe_spec_clear(struct cabe_spec *spec);
/* tokens[id], with the array grown as needed; an id far beyond what the file can hold is refused. */
CABE_CHECKED enum cabe_status cabe_spec_token(struct cabe_spec *spec, int64_t id, struct cabe_spec_token **token,
                                              struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_spec_string(struct cabe_spec *spec, const char *text, size_t bytes,
                                               uint32_t *offset, struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_spec_step(struct cabe_spec *spec, int is_normalizer, struct cabe_step step,
                                             struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_spec_special(struct cabe_spec *spec, int is_after, int64_t id,
                                                struct cabe_error *err);
/* The id of a token of the model by its text, or -1; linear. */
int32_t cabe_spec_find(const struct cabe_spec *spec, const char *text, size_t bytes);

/* Tokens with a meaning and the chat template, as a GGUF or a folder's configurations say; absent ones are none. */
void cabe_spec_roles(struct cabe_spec *spec, const struct cabe_source *source);
/* What of BPE's steps can be done at once is, and words are not rewritten: to be called when all steps are read. */
CABE_CHECKED enum cabe_status cabe_spec_bpe_steps(struct cabe_spec *spec, struct cabe_error *err);
/* Reads a parsed tokenizer.json. */
CABE_CHECKED enum cabe_status cabe_spec_json(struct cabe_spec *spec, const json_t *document, struct cabe_error *err);

CABE_CHECKED enum cabe_status cabe_spec_compile(struct cabe_spec *spec, void **block, size_t *bytes,
                                                struct cabe_error *err);

/* ---- parts of the compiled block that BPE has ---- */

struct cabe_bpe_tables {
    struct cabe_word *words;
    struct cabe_merge *merges;
    struct cabe_classes *classes;
    uint8_t *pairs;
    size_t n_words, n_merges, classes_bytes, pair_bytes; /* slots, bytes */
    size_t token_bytes_max;
    int32_t byte_ids[256];
};

/* Turns the spec's tokens into the bytes that they stand for, and makes the tables. */
CABE_CHECKED enum cabe_status cabe_bpe_tables(struct cabe_spec *spec, struct cabe_bpe_tables *tables,
                                              struct cabe_error *err);
void cabe_bpe_tables_clear(struct cabe_bpe_tables *tables);
/* Finds which tokens of a laid out block are whole words, and notes it there. */
CABE_CHECKED enum cabe_status cabe_bpe_mark_whole(void *block, size_t bytes, const char *name,
                                                  struct cabe_error *err);
/* Makes the checksums of a block anew. */
void cabe_block_seal(struct cabe_block_header *header);

#endif
