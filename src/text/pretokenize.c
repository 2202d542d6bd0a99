#include <string.h>

#include "text/bpe.h"
#include "text/unicode.h"

struct words {
    const struct cabe_tokenizer *tokenizer;
    struct cabe_encode_work *work;
    struct cabe_encoding *encoding;
};

static enum cabe_status pass_on(const struct words *w, size_t stage, const struct cabe_piece *piece,
                                struct cabe_error *err);

static uint32_t character(const struct cabe_tokenizer *tokenizer, uint32_t c)
{
    if (c < CABE_CHARACTERS)
        return tokenizer->characters[c];
    if ((c >= 0x4E00 && c <= 0x9FFF) || (c >= 0xAC00 && c <= 0xD7A3))
        return 0;
    return (cabe_char_is_space(c) ? CABE_CHARACTER_SPACE : 0) |
           (cabe_char_is_bert_punctuation(c) ? CABE_CHARACTER_PUNCTUATION : 0);
}

static enum cabe_status hand(const struct words *w, size_t stage, const struct cabe_piece *piece, size_t begin,
                             size_t end, struct cabe_error *err)
{
    struct cabe_piece part;

    if (begin == end)
        return CABE_OK;
    part = cabe_piece_part(piece, begin, end);
    return pass_on(w, stage, &part, err);
}

/* Of a word of BPE that is cut for speed alone: what is unknown at the end of one part goes on in the next. */
static enum cabe_status part(const struct words *w, size_t stage, const struct cabe_piece *piece, size_t begin,
                             size_t end, struct cabe_error *err)
{
    struct cabe_piece word = cabe_piece_part(piece, begin, end);

    if (stage < w->tokenizer->n_pretokenizers || w->tokenizer->header->model != CABE_MODEL_BPE)
        return pass_on(w, stage, &word, err);
    return cabe_bpe(w->tokenizer, w->work, &word, w->encoding, err);
}

static int is_enough(const struct words *w)
{
    return w->encoding->n >= w->work->n_stop;
}

/* Cuts at characters that carry a flag of `removed`, which vanish, or of `isolated`, which stand alone. */
static enum cabe_status split_flags(const struct words *w, size_t stage, const struct cabe_piece *piece,
                                    uint32_t removed, uint32_t isolated, struct cabe_error *err)
{
    const uint32_t *characters = w->tokenizer->characters;
    enum cabe_status status = CABE_OK;
    size_t begin = 0, at = 0;

    while (at < piece->n && status == CABE_OK && !is_enough(w)) {
        uint8_t first = piece->bytes[at];
        size_t step = 1;
        uint32_t flags = first < 0x80 ? characters[first]
                                      : character(w->tokenizer, cabe_utf8_get(piece->bytes + at, &step));

        if (flags & (removed | isolated)) {
            status = hand(w, stage, piece, begin, at, err);
            begin = at + step;
            if (status == CABE_OK && (flags & isolated))
                status = hand(w, stage, piece, at, begin, err);
        }
        at += step;
    }
    return status == CABE_OK && at >= piece->n ? hand(w, stage, piece, begin, piece->n, err) : status;
}

enum word_class { WORD_SPACE, WORD_LETTER, WORD_SIGN, WORD_DIGIT, WORD_NOT_DIGIT };

static enum word_class classify(const struct words *w, const struct cabe_step *rule, uint32_t c)
{
    if (rule->kind == CABE_PRE_DIGITS)
        return cabe_char_is_numeric(c) ? WORD_DIGIT : WORD_NOT_DIGIT;
    if (character(w->tokenizer, c) & CABE_CHARACTER_SPACE)
        return WORD_SPACE;
    return cabe_char_is_word(c) ? WORD_LETTER : WORD_SIGN;
}

/* Cuts where the class of characters changes; white space vanishes; with `single`, digits stand alone. */
static enum cabe_status split_classes(const struct words *w, size_t stage, const struct cabe_piece *piece,
                                      const struct cabe_step *rule, struct cabe_error *err)
{
    int single = rule->kind == CABE_PRE_DIGITS && (rule->flags & CABE_DIGITS_SINGLE);
    enum word_class current = WORD_SPACE;
    enum cabe_status status = CABE_OK;
    size_t begin = 0;

    for (size_t at = 0, step; at < piece->n && status == CABE_OK && !is_enough(w); at += step) {
        enum word_class next = classify(w, rule, cabe_utf8_get(piece->bytes + at, &step));

        if (at > 0 && (next != current || (single && next == WORD_DIGIT))) {
            if (current != WORD_SPACE)
                status = hand(w, stage, piece, begin, at, err);
            begin = at;
        }
        current = next;
    }
    return status == CABE_OK && current != WORD_SPACE ? hand(w, stage, piece, begin, piece->n, err) : status;
}

static enum cabe_status meta_fill(const struct words *w, const struct cabe_step *rule,
                                  const struct cabe_piece *piece, struct cabe_error *err)
{
    const uint8_t *mark = w->tokenizer->strings + rule->a;
    size_t mark_bytes = rule->a_bytes, n_spaces = 0;
    struct cabe_aligned *out = &w->work->meta;
    struct cabe_range first = cabe_piece_align(piece, 0, cabe_utf8_length(piece->bytes[0]));
    int has_mark = piece->bytes[0] == ' ' ||
                   (piece->n >= mark_bytes && memcmp(piece->bytes, mark, mark_bytes) == 0);
    int is_start = (rule->flags & CABE_META_PREPEND_ALWAYS) ||
                   ((rule->flags & CABE_META_PREPEND_FIRST) && first.begin == 0);
    int prepends = is_start && !has_mark && first.begin != w->work->cut_at;
    enum cabe_status status;

    for (size_t i = 0; i < piece->n; i++)
        n_spaces += piece->bytes[i] == ' ';
    out->n = 0;
    status = cabe_aligned_reserve(out, piece->n + (n_spaces + 1) * mark_bytes, err);
    if (status != CABE_OK)
        return status;
    for (size_t i = 0; prepends && i < mark_bytes; i++) {
        out->bytes[out->n] = mark[i];
        out->align[out->n++] = first;
    }
    for (size_t at = 0, step; at < piece->n; at += step) {
        const uint8_t *from = piece->bytes + at;
        struct cabe_range align;
        size_t n;

        step = cabe_utf8_length(*from);
        align = cabe_piece_align(piece, at, step);
        n = *from == ' ' ? mark_bytes : step;
        from = *from == ' ' ? mark : from;
        for (size_t i = 0; i < n; i++) {
            out->bytes[out->n] = from[i];
            out->align[out->n++] = align;
        }
    }
    return CABE_OK;
}

static enum cabe_status metaspace(const struct words *w, size_t stage, const struct cabe_piece *piece,
                                  const struct cabe_step *rule, struct cabe_error *err)
{
    const uint8_t *mark = w->tokenizer->strings + rule->a;
    enum cabe_status status = meta_fill(w, rule, piece, err);
    struct cabe_piece marked;
    size_t begin = 0;

    if (status != CABE_OK)
        return status;
    marked = cabe_piece_of(&w->work->meta);
    for (size_t at = 1; (rule->flags & CABE_META_SPLIT) && at + rule->a_bytes <= marked.n; at++) {
        if (marked.bytes[at] != mark[0] || memcmp(marked.bytes + at, mark, rule->a_bytes) != 0)
            continue;
        status = hand(w, stage, &marked, begin, at, err);
        if (status != CABE_OK || is_enough(w))
            return status;
        begin = at;
    }
    return hand(w, stage, &marked, begin, marked.n, err);
}

/* Puts a space before [0, end) of a piece, which takes its first character's place in the text. */
static enum cabe_status put_space(struct cabe_encode_work *work, const struct cabe_piece *piece, size_t end,
                                  struct cabe_error *err)
{
    struct cabe_aligned *out = &work->meta;
    enum cabe_status status;

    out->n = 0;
    status = cabe_aligned_reserve(out, end + 1, err);
    if (status != CABE_OK)
        return status;
    out->bytes[out->n] = ' ';
    out->align[out->n++] = cabe_piece_align(piece, 0, cabe_utf8_length(piece->bytes[0]));
    for (size_t at = 0, step; at < end; at += step) {
        step = cabe_utf8_length(piece->bytes[at]);
        for (size_t i = 0; i < step; i++) {
            out->bytes[out->n] = piece->bytes[at + i];
            out->align[out->n++] = cabe_piece_align(piece, piece->align ? at + i : at, step);
        }
    }
    return CABE_OK;
}

/* The end of a part that nothing beyond can merge with. */
static size_t part_end(const struct cabe_tokenizer *t, const struct cabe_piece *piece, size_t at, int at_spaces)
{
    for (at++; at < piece->n; at++) {
        uint8_t c = piece->bytes[at];

        if ((c & 0xC0) != 0x80 && (!cabe_pair_is_used(t, piece->bytes[at - 1], c) || (at_spaces && c == ' ')))
            break;
    }
    return at;
}

static enum cabe_status spaces(const struct words *w, size_t stage, const struct cabe_piece *piece,
                               const struct cabe_step *rule, struct cabe_error *err)
{
    uint32_t first = cabe_piece_align(piece, 0, 0).begin;
    int prepends = (rule->flags & CABE_META_PREPEND_BEGIN) && first == w->work->segment;
    size_t at = rule->flags & CABE_META_WORDS ? part_end(w->tokenizer, piece, 0, rule->flags & CABE_META_SPLIT)
                                              : piece->n;
    enum cabe_status status;

    if (piece->bytes[0] != ' ' && first != w->work->cut_at)
        prepends |= (rule->flags & CABE_META_PREPEND_ALWAYS) ||
                    ((rule->flags & CABE_META_PREPEND_FIRST) && first == 0);
    w->work->was_unknown = 0;
    if (prepends) {
        struct cabe_piece marked;

        status = put_space(w->work, piece, at, err);
        marked = cabe_piece_of(&w->work->meta);
        if (status == CABE_OK)
            status = part(w, stage, &marked, 0, marked.n, err);
    } else {
        status = part(w, stage, piece, 0, at, err);
    }
    while (status == CABE_OK && at < piece->n && !is_enough(w)) {
        size_t begin = at;

        at = part_end(w->tokenizer, piece, at, rule->flags & CABE_META_SPLIT);
        status = part(w, stage, piece, begin, at, err);
    }
    return status;
}

static enum cabe_status split(const struct words *w, size_t stage, const struct cabe_piece *piece,
                              const struct cabe_step *rule, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;

    for (size_t at = 0, end; at < piece->n && status == CABE_OK && !is_enough(w); at = end) {
        end = cabe_split_end(w->tokenizer, (enum cabe_split_rule)rule->number, piece->bytes, at, piece->n);
        status = hand(w, stage, piece, at, end, err);
    }
    return status;
}

static enum cabe_status model(const struct words *w, const struct cabe_piece *word, struct cabe_error *err)
{
    switch ((enum cabe_tokenizer_model)w->tokenizer->header->model) {
    case CABE_MODEL_WORDPIECE:
        return cabe_wordpiece(w->tokenizer, word, w->encoding, err);
    case CABE_MODEL_UNIGRAM:
        return cabe_unigram(w->tokenizer, w->work, word, w->encoding, err);
    case CABE_MODEL_BPE:
        w->work->was_unknown = 0;
        return cabe_bpe(w->tokenizer, w->work, word, w->encoding, err);
    }
    return cabe_fail(err, CABE_ERR_INTERNAL, "tokenizer model %u", w->tokenizer->header->model);
}

static enum cabe_status pass_on(const struct words *w, size_t stage, const struct cabe_piece *piece,
                                struct cabe_error *err)
{
    const struct cabe_step *rule;

    if (is_enough(w))
        return CABE_OK;
    if (stage == w->tokenizer->n_pretokenizers)
        return model(w, piece, err);
    rule = &w->tokenizer->pretokenizers[stage];
    switch ((enum cabe_pretokenizer)rule->kind) {
    case CABE_PRE_BERT:
        return split_flags(w, stage + 1, piece, CABE_CHARACTER_SPACE, CABE_CHARACTER_PUNCTUATION, err);
    case CABE_PRE_WHITESPACE_SPLIT:
        return split_flags(w, stage + 1, piece, CABE_CHARACTER_SPACE, 0, err);
    case CABE_PRE_PUNCTUATION:
        return split_flags(w, stage + 1, piece, 0, CABE_CHARACTER_PUNCTUATION, err);
    case CABE_PRE_WHITESPACE:
    case CABE_PRE_DIGITS:
        return split_classes(w, stage + 1, piece, rule, err);
    case CABE_PRE_METASPACE:
        return metaspace(w, stage + 1, piece, rule, err);
    case CABE_PRE_SPACES:
        return spaces(w, stage + 1, piece, rule, err);
    case CABE_PRE_SPLIT:
        return split(w, stage + 1, piece, rule, err);
    case CABE_N_PRETOKENIZERS:
        break;
    }
    return cabe_fail(err, CABE_ERR_INTERNAL, "pre-tokenizer %u", rule->kind);
}

enum cabe_status cabe_pretokenize(const struct cabe_tokenizer *tokenizer, struct cabe_encode_work *work,
                                  const struct cabe_piece *piece, struct cabe_encoding *encoding,
                                  struct cabe_error *err)
{
    const struct words w = {tokenizer, work, encoding};

    return piece->n == 0 ? CABE_OK : pass_on(&w, 0, piece, err);
}
