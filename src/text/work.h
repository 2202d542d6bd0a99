/*
 * The working memory of one encoding, and the passes that use it. Internal to text/.
 *
 * Text that was changed is kept with, for every byte, the range of the original text that its character stands for;
 * a token's range is from the first byte's begin to the last byte's end, as in the reference.
 */
#ifndef CABE_TEXT_WORK_H
#define CABE_TEXT_WORK_H

#include <stddef.h>
#include <stdint.h>

#include "cabe/status.h"
#include "text/block.h"
#include "text/tokenizer.h"

struct cabe_range { /* bytes of the original text */
    uint32_t begin, end;
};

struct cabe_aligned { /* text, and where it is from */
    uint8_t *bytes;
    struct cabe_range *align; /* per byte */
    size_t n, capacity;
};

/* A piece of text: with align NULL, it is the original itself from byte `base` on. */
struct cabe_piece {
    const uint8_t *bytes;
    const struct cabe_range *align;
    size_t n;
    uint32_t base;
};

struct cabe_viterbi_node {
    double score;
    uint32_t from; /* UINT32_MAX: not reached */
    int32_t id;
};

struct cabe_bpe_symbol { /* of a long word; symbols merge to the left */
    uint32_t begin, end, previous, next; /* UINT32_MAX: none */
    int32_t id, merged;                  /* merged: what it and the next become */
    uint32_t rank;                       /* of that pair; UINT32_MAX: it does not merge */
};

struct cabe_normal_char { /* of a decomposition on its way to canonical order */
    uint32_t c;
    int32_t change;
    uint8_t combining_class;
};

struct cabe_normal_chars {
    struct cabe_normal_char *items;
    size_t n, capacity;
};

struct cabe_encode_work {
    struct cabe_aligned text[2];  /* normalisers go from one to the other */
    struct cabe_aligned run[2];   /* a run of characters that the BERT normaliser has no rule for */
    struct cabe_aligned meta;     /* after Metaspace */
    struct cabe_viterbi_node *nodes;
    size_t n_nodes;
    struct cabe_bpe_symbol *symbols;
    uint64_t *pairs; /* three per symbol */
    size_t n_symbols;
    struct cabe_normal_chars pending, sorted, blocked;
    size_t output_max; /* bytes: a normaliser that makes more of one piece is refused */
    size_t n_stop;     /* tokens after which nothing more is wanted */
    uint32_t segment;  /* where the text without added tokens begins that is being encoded */
    int was_unknown;   /* the token before is the unknown one, of this word of BPE */
    uint32_t cut_at;   /* a word was cut here: what begins here begins no word; UINT32_MAX: none was */
};

static inline struct cabe_range cabe_piece_align(const struct cabe_piece *piece, size_t at, size_t char_bytes)
{
    if (piece->align)
        return piece->align[at];
    return (struct cabe_range){piece->base + (uint32_t)at, piece->base + (uint32_t)(at + char_bytes)};
}

static inline struct cabe_piece cabe_piece_of(const struct cabe_aligned *text)
{
    return (struct cabe_piece){text->bytes, text->align, text->n, 0};
}

static inline struct cabe_piece cabe_piece_part(const struct cabe_piece *piece, size_t begin, size_t end)
{
    return (struct cabe_piece){piece->bytes + begin, piece->align ? piece->align + begin : NULL, end - begin,
                               piece->base + (uint32_t)begin};
}

/* Room for `n` more bytes. */
CABE_CHECKED enum cabe_status cabe_aligned_reserve(struct cabe_aligned *text, size_t n, struct cabe_error *err);

/* Runs the normalisers; *piece becomes the result. is_first, is_last: of the pieces of one text. */
CABE_CHECKED enum cabe_status cabe_normalize(const struct cabe_tokenizer *tokenizer, struct cabe_encode_work *work,
                                             struct cabe_piece *piece, int is_first, int is_last,
                                             struct cabe_error *err);
/* What the BERT normaliser with these flags makes of one code point, as an entry of CABE_SECTION_CHARACTERS. */
uint32_t cabe_bert_character(uint32_t c, uint32_t flags);
/* Looks at a precompiled map; 0 where it is not one. */
int cabe_charsmap_open(struct cabe_charsmap *map, const void *bytes, size_t n);

/* Splits a normalised piece into words and gives each to the model. */
CABE_CHECKED enum cabe_status cabe_pretokenize(const struct cabe_tokenizer *tokenizer,
                                               struct cabe_encode_work *work, const struct cabe_piece *piece,
                                               struct cabe_encoding *encoding, struct cabe_error *err);

CABE_CHECKED enum cabe_status cabe_wordpiece(const struct cabe_tokenizer *tokenizer, const struct cabe_piece *word,
                                             struct cabe_encoding *encoding, struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_unigram(const struct cabe_tokenizer *tokenizer, struct cabe_encode_work *work,
                                           const struct cabe_piece *word, struct cabe_encoding *encoding,
                                           struct cabe_error *err);

CABE_CHECKED enum cabe_status cabe_encoding_grow(struct cabe_encoding *encoding, struct cabe_error *err);

static inline enum cabe_status cabe_encoding_push(struct cabe_encoding *encoding, int32_t id,
                                                  struct cabe_range range, struct cabe_error *err)
{
    if (encoding->n == encoding->capacity) {
        enum cabe_status status = cabe_encoding_grow(encoding, err);

        if (status != CABE_OK)
            return status;
    }
    encoding->ids[encoding->n] = id;
    encoding->begin[encoding->n] = range.begin;
    encoding->end[encoding->n++] = range.end;
    return CABE_OK;
}

/* The original bytes that [begin, end) of a piece, which is not empty, stands for. */
static inline struct cabe_range cabe_piece_range(const struct cabe_piece *piece, size_t begin, size_t end)
{
    if (piece->align)
        return (struct cabe_range){piece->align[begin].begin, piece->align[end - 1].end};
    return (struct cabe_range){piece->base + (uint32_t)begin, piece->base + (uint32_t)end};
}

#endif
