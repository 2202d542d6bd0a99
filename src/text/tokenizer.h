/*
 * Text to token ids, with byte offsets into the original text, and back.
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
 * Compiles the source's tokenizer (WordPiece, unigram, byte-level BPE, SentencePiece BPE) into *block, cabe_malloc'ed,
 * *bytes long. Of another kind, or with a part that cabe does not have: CABE_ERR_UNSUPPORTED, which names it.
 */
CABE_CHECKED enum cabe_status cabe_tokenizer_compile(const struct cabe_source *source, void **block, size_t *bytes,
                                                     struct cabe_error *err);
/* The same from a parsed tokenizer.json; `name` is used in messages. */
CABE_CHECKED enum cabe_status cabe_tokenizer_compile_json(const json_t *document, const char *name, void **block,
                                                          size_t *bytes, struct cabe_error *err);
/*
 * The same from the tokenizer.bin of a llama2.c checkpoint with n_vocab tokens, 1 and 2 of which begin and end a text.
 */
CABE_CHECKED enum cabe_status cabe_tokenizer_compile_llama2c(const void *file, size_t file_bytes, uint32_t n_vocab,
                                                             const char *name, void **block, size_t *bytes,
                                                             struct cabe_error *err);
/* At least the bytes of the block that compiling this source would give, without compiling; for plans. */
uint64_t cabe_tokenizer_bound(const struct cabe_source *source);
/* Opens a compiled block, aligned to 8, that must outlive the tokenizer; name is used in messages. */
CABE_CHECKED enum cabe_status cabe_tokenizer_open(struct cabe_tokenizer **out, const void *block, size_t bytes,
                                                  const char *name, struct cabe_error *err);
void cabe_tokenizer_close(struct cabe_tokenizer *tokenizer); /* NULL is fine */

int32_t cabe_tokenizer_n_tokens(const struct cabe_tokenizer *tokenizer);
/*
 * Bytes of the token's text, not NUL-terminated; NULL for an id out of range. For WordPiece and unigram it is the
 * text as in the file ("##ing"); a token of BPE is the bytes that it stands for (" the", where the file has a mark
 * for the space), which need not be whole characters.
 */
const char *cabe_tokenizer_token(const struct cabe_tokenizer *tokenizer, int32_t id, size_t *bytes);
/* The id of an exact token, or -1. */
int32_t cabe_tokenizer_find(const struct cabe_tokenizer *tokenizer, const char *token, size_t bytes);

/* Tokens with a meaning of their own. */
enum cabe_token_role {
    CABE_TOKEN_BOS, /* begins a text; [CLS] where that is it */
    CABE_TOKEN_EOS, /* ends a text */
    CABE_TOKEN_EOT, /* ends a turn of a chat; the EOS where no other does */
    CABE_TOKEN_UNK,
    CABE_TOKEN_PAD,
    CABE_N_TOKEN_ROLES
};
int32_t cabe_tokenizer_special(const struct cabe_tokenizer *tokenizer, enum cabe_token_role role); /* -1: none */
/* 1 where generating stops at this token: the EOS, and whatever else ends a text or a turn. */
int cabe_tokenizer_is_end(const struct cabe_tokenizer *tokenizer, int32_t id);
/* 1 where the token is a control token, not text; what cabe_tokenizer_decode() leaves out unless asked. */
int cabe_tokenizer_is_special(const struct cabe_tokenizer *tokenizer, int32_t id);
/* 1 where add_special puts the BOS before a text. */
int cabe_tokenizer_adds_bos(const struct cabe_tokenizer *tokenizer);
/* The chat template (Jinja), not NUL-terminated; NULL where the model has none. */
const char *cabe_tokenizer_chat_template(const struct cabe_tokenizer *tokenizer, size_t *bytes);

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
    int parse_special; /* 1: control tokens written in the text ("<|im_end|>") are those tokens, as in the text of a
                          chat template; 0: they are plain text, as a person's words in a chat must be */
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

/* ---- ids to text ---- */

#define CABE_DECODE_FIRST 1u   /* begins a text: the space that SentencePiece put before its first word is left out */
#define CABE_DECODE_SPECIAL 2u /* control tokens give their text; otherwise nothing */

/* The most bytes that one token decodes to. */
size_t cabe_tokenizer_decode_max(const struct cabe_tokenizer *tokenizer);
/*
 * The bytes that a token stands for, at most cabe_tokenizer_decode_max(), written to out; gives how many, 0 for an id
 * out of range. They need not be whole characters.
 */
size_t cabe_tokenizer_decode(const struct cabe_tokenizer *tokenizer, int32_t id, unsigned flags, char *out);

/*
 * A stream of tokens to text that is UTF-8 at every moment: an unfinished character is held back until it is whole;
 * what cannot become one is replaced by U+FFFD. Zero-initialise; the first token put is the first of its text unless
 * `is_inside` says that it goes on.
 */
struct cabe_decoder {
    unsigned char held[4];
    unsigned char n_held;
    unsigned char is_inside; /* some token was put */
    unsigned char special;   /* 1: control tokens give their text */
};
/* Room that `out` needs. */
size_t cabe_decoder_room(const struct cabe_tokenizer *tokenizer);
/* Gives the bytes written, whole characters. */
size_t cabe_decoder_put(struct cabe_decoder *decoder, const struct cabe_tokenizer *tokenizer, int32_t id, char *out);
/* What is still held back, as U+FFFD; the decoder is then as new. */
size_t cabe_decoder_end(struct cabe_decoder *decoder, char *out);

#endif
