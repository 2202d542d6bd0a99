/*
 * The reference's way of changing text while keeping track of where it is from. Internal to text/.
 *
 * A change of 0 replaces the next character of the input, -n replaces it and deletes n after it, 1 inserts after what
 * was last consumed and shares its range.
 */
#ifndef CABE_TEXT_TRANSFORM_H
#define CABE_TEXT_TRANSFORM_H

#include "text/work.h"

struct cabe_transform {
    struct cabe_encode_work *work;
    const struct cabe_piece *in;
    struct cabe_aligned *out;
    size_t at;              /* bytes consumed */
    struct cabe_range last; /* of the character consumed last */
};

/* Empties out; `in` is not empty. */
struct cabe_transform cabe_transform_begin(struct cabe_encode_work *work, const struct cabe_piece *in,
                                           struct cabe_aligned *out);
void cabe_transform_consume(struct cabe_transform *t);
CABE_CHECKED enum cabe_status cabe_transform_emit(struct cabe_transform *t, uint32_t c, int32_t change,
                                                  struct cabe_error *err);
/* Appends one character to out, within the work's limit. */
CABE_CHECKED enum cabe_status cabe_aligned_put(struct cabe_encode_work *work, struct cabe_aligned *out, uint32_t c,
                                               struct cabe_range align, struct cabe_error *err);

/* Canonical (or compatible) decomposition, and composition after it. */
CABE_CHECKED enum cabe_status cabe_canonical(struct cabe_encode_work *work, const struct cabe_piece *in,
                                             struct cabe_aligned *out, int compatible, int composes,
                                             struct cabe_error *err);
/* Sentencepiece's precompiled map. */
CABE_CHECKED enum cabe_status cabe_precompiled(const struct cabe_tokenizer *tokenizer, struct cabe_encode_work *work,
                                               const struct cabe_piece *in, struct cabe_aligned *out,
                                               struct cabe_error *err);

/* The ideographs that have no decomposition, no case, and no business with their neighbours. */
static inline int cabe_char_is_unified(uint32_t c)
{
    return c >= 0x4E00 && c <= 0x9FFF;
}

#endif
