/*
 * Sentences of a text as byte ranges of the original, by ICU's rules and its lists of abbreviations.
 *
 * A blank line always ends a sentence; a single line end inside a paragraph is a space. Ranges are trimmed of white
 * space, never empty, in order, and do not overlap.
 */
#ifndef CABE_TEXT_SENTENCES_H
#define CABE_TEXT_SENTENCES_H

#include <stddef.h>
#include <stdint.h>

#include "cabe/status.h"

struct cabe_span { /* bytes [begin, end) of a document */
    uint64_t begin, end;
};

/*
 * Calls `found` for each sentence in order; a status other than CABE_OK from it stops and is returned. `language` is
 * a BCP 47 tag, or NULL for a guess from the text (text/language.h). Text is taken in pieces of at most 64 KiB,
 * whatever its size; a sentence longer than that is cut after a space. Ill-formed UTF-8 is CABE_ERR_FORMAT with its
 * byte offset, before any call.
 */
CABE_CHECKED enum cabe_status cabe_sentences(const char *text, uint64_t bytes, const char *language,
                                             enum cabe_status (*found)(void *self, struct cabe_span span,
                                                                       struct cabe_error *err),
                                             void *self, struct cabe_error *err);

/* The offset of the first byte that is not well-formed UTF-8, or `bytes`. */
uint64_t cabe_utf8_valid(const char *text, uint64_t bytes);

#endif
