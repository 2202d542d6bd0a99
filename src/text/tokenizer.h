/*
 * Text to token ids, with byte offsets into the original text.
 *
 * Two forms: a tokenizer is compiled once from what a model file says (tokenizer.json or GGUF fields) into one flat
 * block of bytes, position-independent, with no pointers; a compiled block is opened where it lies (in a mapped
 * fitted copy) without parsing. Everything read from a block is checked when it is opened, so that a damaged one is
 * an error.
 *
 * Owner: who compiles frees the block with cabe_free(); an opened tokenizer borrows the block.
 * Thread: encoding from any thread, each with its own cabe_encoding.
 */
#ifndef CABE_TEXT_TOKENIZER_H
#define CABE_TEXT_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "cabe/status.h"
#include "format/source.h"

struct cabe_tokenizer;

/* Compiles the source's tokenizer (WordPiece or unigram for now) into *block, cabe_malloc'ed, *bytes long. */
CABE_CHECKED enum cabe_status cabe_tokenizer_compile(const struct cabe_source *source, void **block, size_t *bytes,
                                                     struct cabe_error *err);
/* Opens a compiled block, aligned to 8, that must outlive the tokenizer; name is used in messages. */
CABE_CHECKED enum cabe_status cabe_tokenizer_open(struct cabe_tokenizer **out, const void *block, size_t bytes,
                                                  const char *name, struct cabe_error *err);
void cabe_tokenizer_close(struct cabe_tokenizer *tokenizer); /* NULL is fine */

int32_t cabe_tokenizer_n_tokens(const struct cabe_tokenizer *tokenizer);
/* Bytes of the token's text, not NUL-terminated; NULL for an id out of range. */
const char *cabe_tokenizer_token(const struct cabe_tokenizer *tokenizer, int32_t id, size_t *bytes);
/* The id of an exact token, or -1. */
int32_t cabe_tokenizer_find(const struct cabe_tokenizer *tokenizer, const char *token, size_t bytes);

struct cabe_encoding { /* grows as needed, reused between texts; zero-initialise, then free with _clear */
    int32_t *ids;
    uint32_t *begin, *end; /* bytes of the text each token covers; special tokens cover an empty range */
    size_t n, capacity;
    void *work; /* of the tokenizer */
    size_t work_bytes;
};
void cabe_encoding_clear(struct cabe_encoding *encoding);

struct cabe_encode_options {
    int add_special;   /* <s> ... </s>, [CLS] ... [SEP], as the tokenizer says */
    size_t max_tokens; /* 0: no limit; otherwise cut at the end, special tokens kept, as the references do */
};

/*
 * `text` is `bytes` of UTF-8; ill-formed sequences are CABE_ERR_FORMAT with the byte offset. Linear time in bytes on any input.
 * Replaces what the encoding held.
 */
CABE_CHECKED enum cabe_status cabe_tokenizer_encode(const struct cabe_tokenizer *tokenizer, const char *text,
                                                    size_t bytes, const struct cabe_encode_options *options,
                                                    struct cabe_encoding *encoding, struct cabe_error *err);

#endif
