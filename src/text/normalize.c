#include <string.h>

#include "base/memory.h"
#include "text/unicode.h"
#include "text/transform.h"

enum cabe_status cabe_aligned_reserve(struct cabe_aligned *text, size_t n, struct cabe_error *err)
{
    size_t wanted = text->n + n, capacity = text->capacity ? text->capacity : 256;
    void *grown;

    if (wanted <= text->capacity)
        return CABE_OK;
    while (capacity < wanted)
        capacity *= 2;
    grown = cabe_realloc(text->bytes, capacity, 1);
    if (grown) {
        text->bytes = grown;
        grown = cabe_realloc(text->align, capacity, sizeof *text->align);
    }
    if (!grown)
        return cabe_fail(err, CABE_ERR_OOM, "normalised text of %zu bytes", capacity);
    text->align = grown;
    text->capacity = capacity;
    return CABE_OK;
}

/* Appends without a check for room. */
static void append(struct cabe_aligned *out, uint32_t c, struct cabe_range align)
{
    size_t n = cabe_utf8_put(out->bytes + out->n, c);

    for (size_t i = 0; i < n; i++)
        out->align[out->n + i] = align;
    out->n += n;
}

enum cabe_status cabe_aligned_put(struct cabe_encode_work *work, struct cabe_aligned *out, uint32_t c,
                            struct cabe_range align, struct cabe_error *err)
{
    enum cabe_status status;

    if (out->n + 4 > work->output_max)
        return cabe_fail(err, CABE_ERR_LIMIT, "normalised text: more than %zu bytes from one piece",
                         work->output_max);
    status = cabe_aligned_reserve(out, 4, err);
    if (status == CABE_OK)
        append(out, c, align);
    return status;
}

static enum cabe_status put_bytes(struct cabe_encode_work *work, struct cabe_aligned *out, const uint8_t *bytes,
                                  size_t n, struct cabe_range align, struct cabe_error *err)
{
    enum cabe_status status;

    if (out->n + n > work->output_max)
        return cabe_fail(err, CABE_ERR_LIMIT, "normalised text: more than %zu bytes from one piece",
                         work->output_max);
    status = cabe_aligned_reserve(out, n, err);
    for (size_t i = 0; status == CABE_OK && i < n; i++) {
        out->bytes[out->n] = bytes[i];
        out->align[out->n++] = align;
    }
    return status;
}

void cabe_transform_consume(struct cabe_transform *t)
{
    size_t step = cabe_utf8_length(t->in->bytes[t->at]);

    t->last = cabe_piece_align(t->in, t->at, step);
    t->at += step;
}

enum cabe_status cabe_transform_emit(struct cabe_transform *t, uint32_t c, int32_t change,
                                     struct cabe_error *err)
{
    struct cabe_range align = t->last;

    if (change <= 0 && t->at < t->in->n) {
        cabe_transform_consume(t);
        align = t->last;
    }
    for (; change < 0 && t->at < t->in->n; change++)
        cabe_transform_consume(t);
    return cabe_aligned_put(t->work, t->out, c, align, err);
}

struct cabe_transform cabe_transform_begin(struct cabe_encode_work *work, const struct cabe_piece *in,
                                           struct cabe_aligned *out)
{
    struct cabe_range first = cabe_piece_align(in, 0, 0);

    out->n = 0;
    return (struct cabe_transform){work, in, out, 0, {first.begin, first.begin}};
}

/* ---- passes that look at one character at a time ---- */

/* Writes what becomes of c to out and gives how many; 0 deletes it. */
typedef int (*char_rule)(uint32_t c, uint32_t out[3]);

static enum cabe_status map_chars(struct cabe_encode_work *work, const struct cabe_piece *in,
                                  struct cabe_aligned *out, char_rule rule, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;

    out->n = 0;
    for (size_t at = 0, step; at < in->n; at += step) {
        uint32_t parts[3];
        int n = rule(cabe_utf8_get(in->bytes + at, &step), parts);

        for (int i = 0; status == CABE_OK && i < n; i++)
            status = cabe_aligned_put(work, out, parts[i], cabe_piece_align(in, at, step), err);
        if (status != CABE_OK)
            return status;
    }
    return CABE_OK;
}

static int rule_clean(uint32_t c, uint32_t out[3])
{
    int is_break = c == '\t' || c == '\n' || c == '\r';

    out[0] = is_break || cabe_char_is_space(c) ? ' ' : c;
    return is_break || !(c == 0 || c == 0xFFFD || cabe_char_is_other(c));
}

static int rule_cjk(uint32_t c, uint32_t out[3])
{
    if (!cabe_char_is_cjk(c)) {
        out[0] = c;
        return 1;
    }
    out[0] = out[2] = ' ';
    out[1] = c;
    return 3;
}

static int rule_no_nonspacing(uint32_t c, uint32_t out[3])
{
    out[0] = c;
    return !cabe_char_is_nonspacing_mark(c);
}

static int rule_no_mark(uint32_t c, uint32_t out[3])
{
    out[0] = c;
    return c < 0x300 || !cabe_char_is_mark(c);
}

static int rule_lower(uint32_t c, uint32_t out[3])
{
    if (c < 0x80) {
        out[0] = c >= 'A' && c <= 'Z' ? c + 32 : c;
        return 1;
    }
    return cabe_char_lower(c, out);
}

static int rule_nmt(uint32_t c, uint32_t out[3])
{
    out[0] = c;
    if ((c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F)
        return 0;
    if (c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 || (c >= 0x200B && c <= 0x200F) ||
        c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD)
        out[0] = ' ';
    return 1;
}

/* ---- BERT ---- */

/* All passes in their order over a piece that fits in run[]; *piece becomes the result. */
static enum cabe_status bert_passes(struct cabe_encode_work *work, struct cabe_piece *piece, uint32_t flags,
                                    struct cabe_error *err)
{
    static const struct {
        uint32_t flag;
        char_rule rule; /* NULL: decompose */
    } passes[] = {{CABE_BERT_CLEAN, rule_clean},
                  {CABE_BERT_CJK, rule_cjk},
                  {CABE_BERT_STRIP_ACCENTS, NULL},
                  {CABE_BERT_STRIP_ACCENTS, rule_no_nonspacing},
                  {CABE_BERT_LOWERCASE, rule_lower}};
    int side = 0;

    for (size_t i = 0; i < sizeof passes / sizeof passes[0]; i++) {
        struct cabe_aligned *out = &work->run[side];
        enum cabe_status status;

        if (!(flags & passes[i].flag))
            continue;
        status = passes[i].rule ? map_chars(work, piece, out, passes[i].rule, err)
                                : cabe_canonical(work, piece, out, 0, 0, err);
        if (status != CABE_OK)
            return status;
        *piece = cabe_piece_of(out);
        if (piece->n == 0)
            return CABE_OK;
        side = 1 - side;
    }
    return CABE_OK;
}

uint32_t cabe_bert_character(uint32_t c, uint32_t flags)
{
    uint32_t parts[CABE_DECOMPOSITION_MAX], one[3], found = c;
    int n = 1, n_found = 0;

    if ((flags & CABE_BERT_CLEAN) && rule_clean(c, one) == 0)
        return c | CABE_CHARACTER_DROP;
    parts[0] = flags & CABE_BERT_CLEAN ? one[0] : c;
    if ((flags & CABE_BERT_CJK) && cabe_char_is_cjk(c))
        return c | CABE_CHARACTER_COMPLEX;
    if (flags & CABE_BERT_STRIP_ACCENTS)
        n = cabe_char_decompose(parts[0], 0, parts);
    for (int i = 0; i < n; i++) {
        if ((flags & CABE_BERT_STRIP_ACCENTS) && cabe_char_is_nonspacing_mark(parts[i]))
            continue;
        one[0] = parts[i];
        if ((n_found += flags & CABE_BERT_LOWERCASE ? rule_lower(parts[i], one) : 1) == 1)
            found = one[0];
    }
    if (n_found == 0)
        return c | CABE_CHARACTER_DROP;
    return n_found > 1 || cabe_char_combining_class(found) != 0 ? c | CABE_CHARACTER_COMPLEX : found;
}

/* The characters from `at` on that need the passes: up to one that has a rule of its own and keeps its place. */
static size_t run_end(const struct cabe_tokenizer *tokenizer, const struct cabe_piece *in, size_t at)
{
    while (at < in->n && in->bytes[at] >= 0x80) {
        size_t step;
        uint32_t c = cabe_utf8_get(in->bytes + at, &step);

        if (cabe_char_is_unified(c))
            break;
        if (c < CABE_CHARACTERS &&
            !(tokenizer->characters[c] & (CABE_CHARACTER_COMPLEX | CABE_CHARACTER_DROP)))
            break;
        at += step;
    }
    return at;
}

/* Whether all of a run is deleted by itself: nothing that stays could change places with it. */
static int is_dropped(const struct cabe_tokenizer *tokenizer, const struct cabe_piece *in, size_t at, size_t end)
{
    size_t step;

    for (; at < end; at += step) {
        uint32_t c = cabe_utf8_get(in->bytes + at, &step);

        if (c >= CABE_CHARACTERS || !(tokenizer->characters[c] & CABE_CHARACTER_DROP))
            return 0;
    }
    return 1;
}

static enum cabe_status bert_run(struct cabe_encode_work *work, struct cabe_piece run, uint32_t flags,
                                 struct cabe_aligned *out, struct cabe_error *err)
{
    enum cabe_status status = bert_passes(work, &run, flags, err);

    if (status != CABE_OK || run.n == 0)
        return status;
    status = cabe_aligned_reserve(out, run.n, err);
    if (status != CABE_OK)
        return status;
    memcpy(out->bytes + out->n, run.bytes, run.n);
    for (size_t i = 0; i < run.n; i++) /* no pass ran at all when align is NULL: the bytes are their own */
        out->align[out->n + i] = run.align ? run.align[i] : cabe_piece_align(&run, i, 1);
    out->n += run.n;
    return CABE_OK;
}

static size_t ascii_end(const uint8_t *bytes, size_t at, size_t n)
{
    uint64_t word;

    for (; at + 8 <= n; at += 8) {
        memcpy(&word, bytes + at, 8);
        if (word & 0x8080808080808080u)
            break;
    }
    while (at < n && bytes[at] < 0x80)
        at++;
    return at;
}

static void bert_ascii(const struct cabe_tokenizer *tokenizer, const struct cabe_piece *in, size_t at, size_t end,
                       struct cabe_aligned *out)
{
    uint8_t *bytes = out->bytes + out->n;
    struct cabe_range *align = out->align + out->n;
    size_t n = 0;

    for (; at < end; at++) {
        uint8_t c = tokenizer->ascii_bert[in->bytes[at]];

        bytes[n] = c;
        align[n] = cabe_piece_align(in, at, 1);
        n += c != 0xFF;
    }
    out->n += n;
}

static enum cabe_status bert(const struct cabe_tokenizer *tokenizer, struct cabe_encode_work *work,
                             const struct cabe_step *rule, const struct cabe_piece *in, struct cabe_aligned *out,
                             struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;
    size_t at = 0;

    out->n = 0;
    while (at < in->n && status == CABE_OK) {
        size_t end = ascii_end(in->bytes, at, in->n), step;
        uint32_t c, entry;

        status = cabe_aligned_reserve(out, end - at + 16, err);
        if (status != CABE_OK)
            break;
        bert_ascii(tokenizer, in, at, end, out);
        at = end;
        if (at == in->n)
            break;
        c = cabe_utf8_get(in->bytes + at, &step);
        entry = c < CABE_CHARACTERS ? tokenizer->characters[c] : CABE_CHARACTER_COMPLEX;
        if (cabe_char_is_unified(c)) {
            struct cabe_range align = cabe_piece_align(in, at, step);

            if (rule->flags & CABE_BERT_CJK)
                append(out, ' ', align);
            append(out, c, align);
            if (rule->flags & CABE_BERT_CJK)
                append(out, ' ', align);
        } else if (entry & (CABE_CHARACTER_COMPLEX | CABE_CHARACTER_DROP)) {
            step = run_end(tokenizer, in, at) - at;
            if (!is_dropped(tokenizer, in, at, at + step))
                status = bert_run(work, cabe_piece_part(in, at, at + step), rule->flags, out, err);
        } else {
            append(out, entry & CABE_CHARACTER_MASK, cabe_piece_align(in, at, step));
        }
        at += step;
    }
    return status;
}

/* ---- replacing ---- */

static enum cabe_status replace_string(const struct cabe_tokenizer *tokenizer, struct cabe_encode_work *work,
                                       const struct cabe_step *rule, const struct cabe_piece *in,
                                       struct cabe_aligned *out, struct cabe_error *err)
{
    const uint8_t *what = tokenizer->strings + rule->a;
    enum cabe_status status = CABE_OK;
    size_t last = 0; /* where the last character of a match begins in it */

    out->n = 0;
    for (size_t i = 0; i < rule->a_bytes; i++)
        if ((what[i] & 0xC0) != 0x80)
            last = i;
    for (size_t at = 0, step; status == CABE_OK && at < in->n; at += step) {
        if (in->n - at >= rule->a_bytes && memcmp(in->bytes + at, what, rule->a_bytes) == 0) {
            step = rule->a_bytes;
            status = put_bytes(work, out, tokenizer->strings + rule->b, rule->b_bytes,
                               cabe_piece_align(in, at + last, step - last), err);
        } else {
            step = cabe_utf8_length(in->bytes[at]);
            status = put_bytes(work, out, in->bytes + at, step, cabe_piece_align(in, at, step), err);
        }
    }
    return status;
}

static int is_of_run(const struct cabe_tokenizer *tokenizer, const struct cabe_step *rule,
                     const struct cabe_piece *in, size_t at, size_t step)
{
    size_t unused;

    if (rule->flags & CABE_RUN_SPACE)
        return cabe_char_is_space(cabe_utf8_get(in->bytes + at, &unused));
    return rule->a_bytes == step && memcmp(in->bytes + at, tokenizer->strings + rule->a, step) == 0;
}

static enum cabe_status replace_run(const struct cabe_tokenizer *tokenizer, struct cabe_encode_work *work,
                                    const struct cabe_step *rule, const struct cabe_piece *in,
                                    struct cabe_aligned *out, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;
    size_t at = 0;

    out->n = 0;
    while (status == CABE_OK && at < in->n) {
        size_t end = at, step = cabe_utf8_length(in->bytes[at]);
        size_t last = at;
        uint32_t n = 0;

        while (end < in->n && is_of_run(tokenizer, rule, in, end, cabe_utf8_length(in->bytes[end]))) {
            last = end;
            end += cabe_utf8_length(in->bytes[end]);
            n++;
        }
        if (n >= rule->number) {
            status = put_bytes(work, out, tokenizer->strings + rule->b, rule->b_bytes,
                               cabe_piece_align(in, last, end - last), err);
            at = end;
            continue;
        }
        for (end = n > 0 ? end : at + step; status == CABE_OK && at < end; at += step) {
            step = cabe_utf8_length(in->bytes[at]);
            status = put_bytes(work, out, in->bytes + at, step, cabe_piece_align(in, at, step), err);
        }
    }
    return status;
}

static enum cabe_status prepend(const struct cabe_tokenizer *tokenizer, struct cabe_encode_work *work,
                                const struct cabe_step *rule, const struct cabe_piece *in,
                                struct cabe_aligned *out, struct cabe_error *err)
{
    enum cabe_status status;

    out->n = 0;
    status = put_bytes(work, out, tokenizer->strings + rule->b, rule->b_bytes,
                       cabe_piece_align(in, 0, cabe_utf8_length(in->bytes[0])), err);
    for (size_t at = 0, step; status == CABE_OK && at < in->n; at += step) {
        step = cabe_utf8_length(in->bytes[at]);
        status = put_bytes(work, out, in->bytes + at, step, cabe_piece_align(in, at, step), err);
    }
    return status;
}

static void strip(struct cabe_piece *piece, int left, int right)
{
    size_t begin = 0, end = piece->n, step;

    while (left && begin < end && cabe_char_is_space(cabe_utf8_get(piece->bytes + begin, &step)))
        begin += step;
    while (right && end > begin) {
        size_t before = end - 1;

        while (before > begin && (piece->bytes[before] & 0xC0) == 0x80)
            before--;
        if (!cabe_char_is_space(cabe_utf8_get(piece->bytes + before, &step)))
            break;
        end = before;
    }
    *piece = cabe_piece_part(piece, begin, end);
}

/* ---- all of them ---- */

/* Characters that canonical composition leaves alone whatever stands beside them. */
static int is_composed(uint32_t c)
{
    return c < 0x300 || (c >= 0x2010 && c <= 0x2027) || (c >= 0x3041 && c <= 0x3094) || cabe_char_is_unified(c) ||
           (c >= 0xFF01 && c <= 0xFF60);
}

/* Whether it is plain, without running it, that a step leaves a piece as it is. */
static int changes_nothing(const struct cabe_tokenizer *tokenizer, const struct cabe_step *rule,
                           const struct cabe_piece *piece)
{
    if (rule->kind == CABE_NORM_REPLACE)
        return memmem(piece->bytes, piece->n, tokenizer->strings + rule->a, rule->a_bytes) == NULL;
    if (rule->kind != CABE_NORM_NFC)
        return 0;
    for (size_t at = 0, step; at < piece->n; at += step) {
        at = ascii_end(piece->bytes, at, piece->n);
        if (at == piece->n)
            break;
        if (!is_composed(cabe_utf8_get(piece->bytes + at, &step)))
            return 0;
    }
    return 1;
}

static enum cabe_status run_step(const struct cabe_tokenizer *tokenizer, struct cabe_encode_work *work,
                             const struct cabe_step *rule, const struct cabe_piece *in, struct cabe_aligned *out,
                             struct cabe_error *err)
{
    switch ((enum cabe_normalizer)rule->kind) {
    case CABE_NORM_BERT:
        return bert(tokenizer, work, rule, in, out, err);
    case CABE_NORM_PRECOMPILED:
        return cabe_precompiled(tokenizer, work, in, out, err);
    case CABE_NORM_NFC:
        return cabe_canonical(work, in, out, 0, 1, err);
    case CABE_NORM_NFD:
        return cabe_canonical(work, in, out, 0, 0, err);
    case CABE_NORM_NFKC:
        return cabe_canonical(work, in, out, 1, 1, err);
    case CABE_NORM_NFKD:
        return cabe_canonical(work, in, out, 1, 0, err);
    case CABE_NORM_LOWERCASE:
        return map_chars(work, in, out, rule_lower, err);
    case CABE_NORM_STRIP_ACCENTS:
        return map_chars(work, in, out, rule_no_mark, err);
    case CABE_NORM_REPLACE:
        return replace_string(tokenizer, work, rule, in, out, err);
    case CABE_NORM_REPLACE_RUN:
        return replace_run(tokenizer, work, rule, in, out, err);
    case CABE_NORM_PREPEND:
        return prepend(tokenizer, work, rule, in, out, err);
    case CABE_NORM_NMT:
        return map_chars(work, in, out, rule_nmt, err);
    case CABE_NORM_STRIP:
    case CABE_N_NORMALIZERS:
        break;
    }
    return cabe_fail(err, CABE_ERR_INTERNAL, "normaliser %u", rule->kind);
}

enum cabe_status cabe_normalize(const struct cabe_tokenizer *tokenizer, struct cabe_encode_work *work,
                                struct cabe_piece *piece, int is_first, int is_last, struct cabe_error *err)
{
    int side = 0;

    for (size_t i = 0; i < tokenizer->n_normalizers && piece->n > 0; i++) {
        const struct cabe_step *rule = &tokenizer->normalizers[i];
        enum cabe_status status;

        if (rule->kind == CABE_NORM_STRIP) {
            strip(piece, is_first && (rule->flags & CABE_STRIP_LEFT), is_last && (rule->flags & CABE_STRIP_RIGHT));
            continue;
        }
        if ((rule->kind == CABE_NORM_PREPEND && !is_first) || changes_nothing(tokenizer, rule, piece))
            continue;
        status = run_step(tokenizer, work, rule, piece, &work->text[side], err);
        if (status != CABE_OK)
            return status;
        *piece = cabe_piece_of(&work->text[side]);
        side = 1 - side;
    }
    return CABE_OK;
}
