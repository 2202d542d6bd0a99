/*
 * Byte-pair encoding: the tables of a compiled block, and merging. Internal to text/.
 *
 * A token's text in the block is the bytes that it stands for: byte-level characters are undone and the mark that
 * SentencePiece has for a space is a space. Text is then never rewritten before it is encoded.
 */
#ifndef CABE_TEXT_BPE_H
#define CABE_TEXT_BPE_H

#include <string.h>

#include "text/work.h"

static inline uint64_t cabe_load64(const uint8_t *at)
{
    uint64_t word;

    memcpy(&word, at, 8);
    return word;
}

static inline uint32_t cabe_load32(const uint8_t *at)
{
    uint32_t word;

    memcpy(&word, at, 4);
    return word;
}

#define CABE_WORD_SHORT 8u /* bytes that are their own key */

static inline uint64_t cabe_word_key(const uint8_t *text, size_t n)
{
    const uint64_t prime = 0x9E3779B97F4A7C15u;
    uint64_t h = n * prime;

    if (n <= 3)
        return n == 0 ? 0
                      : text[0] | (uint64_t)text[n / 2] << (8 * (n / 2)) | (uint64_t)text[n - 1] << (8 * (n - 1));
    if (n <= 8) /* two words that overlap; equal bytes fall on each other */
        return cabe_load32(text) | (uint64_t)cabe_load32(text + n - 4) << (8 * (n - 4));
    for (size_t i = 0; i + 8 < n; i += 8) {
        h = (h ^ cabe_load64(text + i)) * prime;
        h ^= h >> 32;
    }
    h = (h ^ cabe_load64(text + n - 8)) * prime;
    return h ^ h >> 32;
}

/* A number below n that a key leads to. */
static inline size_t cabe_hash_slot(uint64_t key, size_t n)
{
    uint64_t h = key * 0xD6E8FEB86659FD93u;

    h = (h ^ h >> 32) * 0xD6E8FEB86659FD93u;
    return (size_t)((h >> 32) * (uint64_t)n >> 32);
}

static inline size_t cabe_word_slot(uint64_t key, size_t bytes, size_t n_slots)
{
    return cabe_hash_slot(key + bytes * 0x9E3779B97F4A7C15u, n_slots);
}

static inline size_t cabe_merge_slot(uint32_t left, uint32_t right, size_t n_slots)
{
    return cabe_hash_slot((uint64_t)left << 32 | right, n_slots);
}

static inline uint32_t cabe_merge_left(const struct cabe_merge *m)
{
    return m->word[0] & 0xFFFFFF;
}

static inline uint32_t cabe_merge_right(const struct cabe_merge *m)
{
    return m->word[0] >> 24 | (m->word[1] & 0xFFFF) << 8;
}

static inline uint32_t cabe_merge_rank(const struct cabe_merge *m)
{
    return m->word[1] >> 16 | (m->word[2] & 0xFF) << 16;
}

static inline uint32_t cabe_merge_id(const struct cabe_merge *m)
{
    return m->word[2] >> 8;
}

/* How many slots n entries get; the same for measuring and placing. */
static inline uint64_t cabe_hash_slots(uint64_t n)
{
    return n + n / 2 + 1;
}

/* The entry of a text, or NULL. */
const struct cabe_word *cabe_word_find(const struct cabe_tokenizer *tokenizer, const uint8_t *text, size_t n);

/* One word to tokens. */
CABE_CHECKED enum cabe_status cabe_bpe(const struct cabe_tokenizer *tokenizer, struct cabe_encode_work *work,
                                       const struct cabe_piece *word, struct cabe_encoding *encoding,
                                       struct cabe_error *err);
/* The same by merging alone, without looking for the whole word; for compiling. */
CABE_CHECKED enum cabe_status cabe_bpe_merge(const struct cabe_tokenizer *tokenizer, struct cabe_encode_work *work,
                                             const struct cabe_piece *word, struct cabe_encoding *encoding,
                                             struct cabe_error *err);

/* 1 where some token has these two bytes side by side: only there can text of two sides merge. */
static inline int cabe_pair_is_used(const struct cabe_tokenizer *tokenizer, uint8_t left, uint8_t right)
{
    return tokenizer->pairs[left * 32u + right / 8u] >> (right % 8) & 1;
}

/* ---- splitting ---- */

static inline uint8_t cabe_class_of(const struct cabe_classes *classes, uint32_t c)
{
    return classes->classes[(size_t)classes->pages[c >> 8] * 256 + (c & 0xFF)];
}

/*
 * The next piece of [at, n) by a rule: a match, or the text up to one. Gives its end, beyond at.
 */
size_t cabe_split_end(const struct cabe_tokenizer *tokenizer, enum cabe_split_rule rule, const uint8_t *text,
                      size_t at, size_t n);
/* Where a rule always splits. */
enum cabe_cut cabe_split_cuts(enum cabe_split_rule rule);

/* The rule that a regular expression of tokenizer.json stands for; 0: unknown. */
enum cabe_split_rule cabe_split_find(const char *regex, size_t bytes);

#define CABE_SPLIT_STEPS_MAX 6
struct cabe_pre { /* of tokenizer.ggml.pre */
    const char *names; /* between spaces */
    enum cabe_split_rule rules[CABE_SPLIT_STEPS_MAX]; /* up to a 0 */
    int whole_words;   /* a word that is a token is not merged */
    int adds_bos;      /* unless the file says otherwise */
};
/* NULL: unknown. */
const struct cabe_pre *cabe_pre_find(const char *name, size_t bytes);
/* Of all known, for messages. */
extern const char cabe_pre_names[];

#endif
