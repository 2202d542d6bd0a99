/*
 * Unicode as the reference tokenizers see it.
 *
 * The reference normalises with the tables of Unicode 9 and takes its categories from those of Unicode 8: a
 * character that is younger has no decomposition, no class and no category there, and so it is here.
 *
 * Thread: all from any thread. ICU is asked only for characters above the tables that a compiled block carries.
 */
#ifndef CABE_TEXT_UNICODE_H
#define CABE_TEXT_UNICODE_H

#include <stddef.h>
#include <stdint.h>

/* The code point at text[0], which is well-formed UTF-8; *bytes is its length, 1 to 4. */
static inline uint32_t cabe_utf8_get(const uint8_t *text, size_t *bytes)
{
    uint32_t c = text[0];

    if (c < 0x80) {
        *bytes = 1;
        return c;
    }
    if (c < 0xE0) {
        *bytes = 2;
        return (c & 0x1F) << 6 | (text[1] & 0x3Fu);
    }
    if (c < 0xF0) {
        *bytes = 3;
        return (c & 0x0F) << 12 | (text[1] & 0x3Fu) << 6 | (text[2] & 0x3Fu);
    }
    *bytes = 4;
    return (c & 0x07) << 18 | (text[1] & 0x3Fu) << 12 | (text[2] & 0x3Fu) << 6 | (text[3] & 0x3Fu);
}

/* Bytes of the character that begins with `first`, in well-formed UTF-8. */
static inline size_t cabe_utf8_length(uint8_t first)
{
    return first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

/* Writes c, which is a scalar value, as 1 to 4 bytes; gives their number. */
static inline size_t cabe_utf8_put(uint8_t *out, uint32_t c)
{
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (uint8_t)(0xC0 | c >> 6);
        out[1] = (uint8_t)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xE0 | c >> 12);
        out[1] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
        out[2] = (uint8_t)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (uint8_t)(0xF0 | c >> 18);
    out[1] = (uint8_t)(0x80 | (c >> 12 & 0x3F));
    out[2] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
    out[3] = (uint8_t)(0x80 | (c & 0x3F));
    return 4;
}

int cabe_char_is_space(uint32_t c);           /* White_Space */
int cabe_char_is_bert_punctuation(uint32_t c); /* ASCII signs and category P */
int cabe_char_is_other(uint32_t c);           /* Cc, Cf, Co */
int cabe_char_is_nonspacing_mark(uint32_t c); /* Mn */
int cabe_char_is_mark(uint32_t c);            /* M */
int cabe_char_is_word(uint32_t c);            /* letters, marks, digits, connectors: \w */
int cabe_char_is_numeric(uint32_t c);         /* N */
int cabe_char_is_cjk(uint32_t c);             /* the ideographs that BERT takes one by one */
uint8_t cabe_char_combining_class(uint32_t c);

#define CABE_LOWER_MAX 2
#define CABE_DECOMPOSITION_MAX 18
int cabe_char_lower(uint32_t c, uint32_t out[CABE_LOWER_MAX]); /* how many code points */
/* The full decomposition, canonical or (compatible) also of compatibility; how many code points, 1 where none. */
int cabe_char_decompose(uint32_t c, int compatible, uint32_t out[CABE_DECOMPOSITION_MAX]);
uint32_t cabe_char_compose(uint32_t first, uint32_t second); /* 0 where the pair does not compose */

/* 1 where the character is a grapheme cluster by itself between two others of this kind. */
int cabe_char_is_plain(uint32_t c);
/* The end of the extended grapheme cluster that begins at text[at]. */
size_t cabe_grapheme_end(const uint8_t *text, size_t bytes, size_t at);

#endif
