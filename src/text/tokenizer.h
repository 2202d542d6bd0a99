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

/*
 * Compiles the source's tokenizer (WordPiece or unigram for now) into *block, cabe_malloc'ed, *bytes long. Of another
 * kind, or with a part that cabe does not have: CABE_ERR_UNSUPPORTED, which names it.
 */
CABE_CHECKED enum cabe_status cabe_tokenizer_compile(const struct cabe_source *source, void **block, size_t *bytes,
                                                     struct cabe_error *err);
/* The same from a parsed tokenizer.json; `name` is used in messages. */
CABE_CHECKED enum cabe_status cabe_tokenizer_compile_json(const json_t *document, const char *name, void **block,
                                                          size_t *bytes, struct cabe_error *err);
/* At least the bytes of the block that compiling this source would give, without compiling; for plans. */
uint64_t cabe_tokenizer_bound(const struct cabe_source *source);
/* Opens a compiled block, aligned to 8, that must outlive the tokenizer; name is used in messages. */
CABE_CHECKED enum cabe_status cabe_tokenizer_open(struct cabe_tokenizer **out, const void *block, size_t bytes,
                                                  const char *name, struct cabe_error *err);
void cabe_tokenizer_close(struct cabe_tokenizer *tokenizer); /* NULL is fine */

int32_t cabe_tokenizer_n_tokens(const struct cabe_tokenizer *tokenizer);
/* Bytes of the token's text, not NUL-terminated; NULL for an id out of range. */
const char *cabe_tokenizer_token(const struct cabe_tokenizer *tokenizer, int32_t id, size_t *bytes);
/* The id of an exact token, or -1. */
int32_t cabe_tokenizer_find(const struct cabe_tokenizer *tokenizer, const char *token, size_t bytes);

/* What the source says of cutting, in tokens with the special ones; 0: nothing. */
size_t cabe_tokenizer_truncation(const struct cabe_tokenizer *tokenizer);
/* How many special tokens add_special adds to a text. */
size_t cabe_tokenizer_n_special(const struct cabe_tokenizer *tokenizer);

struct cabe_encoding { /* grows as needed, reused between texts; zero-initialise, then free with _clear */
    int32_t *ids;
    uint32_t *begin, *end; /* bytes of the text each token covers; special tokens cover [0, 0) */
    size_t n, capacity;
    void *work;        /* of the tokenizer */
    size_t work_bytes; /* that `work` now takes */
};
void cabe_encoding_clear(struct cabe_encoding *encoding);

struct cabe_encode_options {
    int add_special;   /* <s> ... </s>, [CLS] ... [SEP], as the tokenizer says */
    size_t max_tokens; /* 0: no limit; otherwise cut at the end, special tokens kept, as the references do */
};

/*
 * `text` is `bytes` of UTF-8, less than 4 GiB; an ill-formed sequence is CABE_ERR_FORMAT with its byte offset.
 * Replaces what the encoding held.
 *
 * Ids and offsets are the reference's (Hugging Face tokenizers), with two differences: where its precompiled map
 * deletes characters at the very beginning of a text, its offsets are wrong by these from there on and ours are
 * right; and a run of more than 256 KiB without a space between words is cut.
 *
 * Time is linear in bytes on any input. Memory: 12 bytes a token, and the work, which depends on the longest run
 * without a space between words and not on the text: 0.5 MB in prose of any length, 20 MB with such runs, at most
 * 256 MB where in addition all characters become the longest thing that Unicode has. A normaliser that makes more
 * than 16 bytes of one is CABE_ERR_LIMIT. Nothing is allocated once both have grown.
 */
CABE_CHECKED enum cabe_status cabe_tokenizer_encode(const struct cabe_tokenizer *tokenizer, const char *text,
                                                    size_t bytes, const struct cabe_encode_options *options,
                                                    struct cabe_encoding *encoding, struct cabe_error *err);

#endif
