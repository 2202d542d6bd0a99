#include <string.h>

#include "base/memory.h"
#include "text/bpe.h"
#include "text/sentences.h"
#include "text/unicode.h"

#define PIECE_WANTED (16u << 10) /* text that may be cut is taken in pieces of about this many bytes */
#define GROWTH_MAX 16u           /* normalised bytes per byte; the worst of Unicode's own is 11 */

enum cabe_status cabe_encoding_grow(struct cabe_encoding *encoding, struct cabe_error *err)
{
    size_t capacity = encoding->capacity ? 2 * encoding->capacity : 128;
    void *grown;

    if ((grown = cabe_realloc(encoding->ids, capacity, sizeof *encoding->ids)))
        encoding->ids = grown;
    if (grown && (grown = cabe_realloc(encoding->begin, capacity, sizeof *encoding->begin)))
        encoding->begin = grown;
    if (grown && (grown = cabe_realloc(encoding->end, capacity, sizeof *encoding->end)))
        encoding->end = grown;
    if (!grown)
        return cabe_fail(err, CABE_ERR_OOM, "encoding of %zu tokens", capacity);
    encoding->capacity = capacity;
    return CABE_OK;
}

static void aligned_free(struct cabe_aligned *text)
{
    cabe_free(text->bytes);
    cabe_free(text->align);
}

void cabe_encoding_clear(struct cabe_encoding *encoding)
{
    struct cabe_encode_work *work = encoding->work;

    if (work) {
        for (int i = 0; i < 2; i++) {
            aligned_free(&work->text[i]);
            aligned_free(&work->run[i]);
        }
        aligned_free(&work->meta);
        cabe_free(work->nodes);
        cabe_free(work->symbols);
        cabe_free(work->pairs);
        cabe_free(work->pending.items);
        cabe_free(work->sorted.items);
        cabe_free(work->blocked.items);
        cabe_free(work);
    }
    cabe_free(encoding->ids);
    cabe_free(encoding->begin);
    cabe_free(encoding->end);
    *encoding = (struct cabe_encoding){0};
}

static size_t work_bytes(const struct cabe_encode_work *work)
{
    size_t per_byte = 1 + sizeof(struct cabe_range);
    size_t chars = work->pending.capacity + work->sorted.capacity + work->blocked.capacity;
    size_t text = work->text[0].capacity + work->text[1].capacity + work->run[0].capacity +
                  work->run[1].capacity + work->meta.capacity;

    return sizeof *work + text * per_byte + work->n_nodes * sizeof *work->nodes +
           work->n_symbols * (sizeof *work->symbols + 3 * sizeof *work->pairs) + chars * sizeof *work->pending.items;
}

/* What one text is encoded with. */
struct encoder {
    int parse_special;
    const struct cabe_tokenizer *tokenizer;
    struct cabe_encode_work *work;
    struct cabe_encoding *encoding;
    const uint8_t *text;
    size_t bytes;
};

struct match { /* of an added token: bytes [begin, end) of a piece */
    size_t begin, end;
    const struct cabe_added *added;
};

static int is_word_before(const uint8_t *text, size_t at)
{
    size_t begin = at, step;

    if (at == 0)
        return 0;
    do
        begin--;
    while (begin > 0 && (text[begin] & 0xC0) == 0x80);
    return cabe_char_is_word(cabe_utf8_get(text + begin, &step));
}

static int is_word_at(const uint8_t *text, size_t bytes, size_t at)
{
    size_t step;

    return at < bytes && cabe_char_is_word(cabe_utf8_get(text + at, &step));
}

/* The white space that a token with lstrip or rstrip takes with it. */
static void widen(struct match *m, const uint8_t *text, size_t bytes, size_t floor)
{
    size_t step;

    while ((m->added->flags & CABE_ADDED_LSTRIP) && m->begin > floor) {
        size_t before = m->begin - 1;

        while (before > floor && (text[before] & 0xC0) == 0x80)
            before--;
        if (!cabe_char_is_space(cabe_utf8_get(text + before, &step)))
            break;
        m->begin = before;
    }
    while ((m->added->flags & CABE_ADDED_RSTRIP) && m->end < bytes &&
           cabe_char_is_space(cabe_utf8_get(text + m->end, &step)))
        m->end += step;
}

/* The leftmost, then longest, added token from `at` on; `floor` is where the token before ended. 0: none. */
static int find_added(const struct encoder *e, const struct cabe_trie_unit *trie, const uint8_t *first,
                      const uint8_t *text, size_t bytes, size_t at, size_t floor, struct match *m)
{
    const struct cabe_tokenizer *tokenizer = e->tokenizer;

    for (; at < bytes; at++) {
        uint32_t state = cabe_trie_root(trie);
        int32_t value, found = -1;
        size_t end = at;

        if (first && !first[text[at]])
            continue;
        for (size_t i = at; i < bytes && i - at < CABE_TRIE_KEY_MAX; i++) {
            if (!cabe_trie_step(trie, &state, text[i], &value))
                break;
            if (value >= 0 && (e->parse_special || !(tokenizer->added[value].flags & CABE_ADDED_SPECIAL))) {
                found = value;
                end = i + 1;
            }
        }
        if (found < 0)
            continue;
        *m = (struct match){at, end, &tokenizer->added[found]};
        if ((m->added->flags & CABE_ADDED_SINGLE_WORD) &&
            (is_word_before(text, at) || is_word_at(text, bytes, end))) {
            at = end - 1;
            continue;
        }
        widen(m, text, bytes, floor);
        return 1;
    }
    return 0;
}

/* Looks for the added tokens of normalised text in a piece; words between them go on. */
static enum cabe_status split_normalized(const struct encoder *e, const struct cabe_piece *piece,
                                         struct cabe_error *err)
{
    const struct cabe_trie_unit *trie = e->tokenizer->normal_trie;
    enum cabe_status status = CABE_OK;
    struct cabe_piece part;
    struct match m;
    size_t at = 0;

    while (status == CABE_OK && trie && at < piece->n && e->encoding->n < e->work->n_stop &&
           find_added(e, trie, NULL, piece->bytes, piece->n, at, at, &m)) {
        part = cabe_piece_part(piece, at, m.begin);
        status = cabe_pretokenize(e->tokenizer, e->work, &part, e->encoding, err);
        if (status == CABE_OK)
            status = cabe_encoding_push(e->encoding, m.added->id, cabe_piece_range(piece, m.begin, m.end), err);
        at = m.end;
    }
    if (status != CABE_OK || at >= piece->n)
        return status;
    part = cabe_piece_part(piece, at, piece->n);
    return cabe_pretokenize(e->tokenizer, e->work, &part, e->encoding, err);
}

static int is_letter(uint8_t c)
{
    return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
}

/*
 * A space between words: not after white space, and before a character that joins nothing to its left. Or any place in
 * ASCII where nothing merges across.
 */
static int is_cut(const struct cabe_tokenizer *t, const uint8_t *text, size_t at)
{
    uint8_t before = text[at - 1], after = text[at + 1];

    if (t->may_cut == CABE_CUT_PAIRS)
        return before < 0x80 && text[at] < 0x80 && t->byte_ids[before] >= 0 &&
               !cabe_pair_is_used(t, before, text[at]) && !(t->normal_bytes[before] && t->normal_bytes[text[at]]);
    if (t->may_cut == CABE_CUT_LETTERS && !(is_letter(before) && is_letter(after)))
        return 0;
    return text[at] == ' ' && before > ' ' && ((after > ' ' && after < 0x7F) || (after >= 0xE4 && after <= 0xE9));
}

/* Where text without such a space is cut: best after a full stop of Chinese or Japanese, else anywhere. */
static size_t forced_cut(const uint8_t *text, size_t begin, size_t last)
{
    size_t floor = last - begin > 8192 ? last - 8192 : begin;

    while ((text[last] & 0xC0) == 0x80)
        last--;
    for (size_t i = last; i > floor + 3; i--)
        if (memcmp(text + i - 3, "\xE3\x80\x82", 3) == 0)
            return i;
    return last;
}

/* Where the piece that begins at `at` ends: before a space between two words where text may be cut there. */
static size_t piece_end(const struct encoder *e, size_t at, size_t end)
{
    size_t last = at + CABE_WORK_PIECE_BYTES;

    if (end - at <= (e->tokenizer->may_cut ? PIECE_WANTED : CABE_WORK_PIECE_BYTES))
        return end;
    if (e->tokenizer->may_cut)
        for (size_t i = at + PIECE_WANTED; i + 1 < (last < end ? last : end); i++)
            if (is_cut(e->tokenizer, e->text, i))
                return i;
    return last < end ? forced_cut(e->text, at, last) : end;
}

/* Text without added tokens. */
static enum cabe_status encode_between(const struct encoder *e, size_t begin, size_t end, struct cabe_error *err)
{
    e->work->segment = (uint32_t)begin;
    for (size_t at = begin; at < end && e->encoding->n < e->work->n_stop;) {
        size_t stop = piece_end(e, at, end);
        struct cabe_piece piece = {e->text + at, NULL, stop - at, (uint32_t)at};
        enum cabe_status status;

        e->work->cut_at = at > begin && e->text[at] != ' ' ? (uint32_t)at : UINT32_MAX;
        e->work->output_max = GROWTH_MAX * (piece.n < 256 ? 256 : piece.n);
        status = cabe_normalize(e->tokenizer, e->work, &piece, at == begin, stop == end, err);
        if (status == CABE_OK)
            status = split_normalized(e, &piece, err);
        if (status != CABE_OK)
            return status;
        at = stop;
    }
    return CABE_OK;
}

static enum cabe_status encode_text(const struct encoder *e, struct cabe_error *err)
{
    const struct cabe_tokenizer *t = e->tokenizer;
    enum cabe_status status = CABE_OK;
    struct match m;
    size_t at = 0;

    while (status == CABE_OK && t->added_trie && e->encoding->n < e->work->n_stop &&
           find_added(e, t->added_trie, t->added_first, e->text, e->bytes, at, at, &m)) {
        status = encode_between(e, at, m.begin, err);
        if (status == CABE_OK)
            status = cabe_encoding_push(e->encoding, m.added->id,
                                        (struct cabe_range){(uint32_t)m.begin, (uint32_t)m.end}, err);
        at = m.end;
    }
    return status == CABE_OK ? encode_between(e, at, e->bytes, err) : status;
}

/* The white space that an added token took with it. */
static void trim_added(const struct encoder *e, uint32_t *begin, uint32_t *end)
{
    size_t step;

    while (*begin < *end && cabe_char_is_space(cabe_utf8_get(e->text + *begin, &step)))
        *begin += (uint32_t)step;
    while (*end > *begin) {
        uint32_t last = *end - 1; /* and where the last character begins */

        while (last > *begin && (e->text[last] & 0xC0) == 0x80)
            last--;
        if (!cabe_char_is_space(cabe_utf8_get(e->text + last, &step)))
            break;
        *end = last;
    }
}

/* White space at the ends of a token is not part of what it covers, but for the space put before a text. */
static void trim_offsets(const struct encoder *e, size_t first)
{
    struct cabe_encoding *encoding = e->encoding;

    for (size_t i = first; i < encoding->n; i++) {
        uint32_t *begin = &encoding->begin[i], *end = &encoding->end[i], left = 0, right = 0;
        size_t bytes;
        const char *text = cabe_tokenizer_token(e->tokenizer, encoding->ids[i], &bytes);

        if (e->tokenizer->kinds[encoding->ids[i]] & CABE_KIND_ADDED) {
            trim_added(e, begin, end);
            continue;
        }
        while (left < bytes && text[left] == ' ')
            left++;
        while (right < bytes && text[bytes - 1 - right] == ' ')
            right++;
        if (left > 0 && (e->tokenizer->header->flags & CABE_FLAG_TRIM_PREFIX) && (i == first || *begin == 0))
            left--;
        /* the reference counts in characters, also where the space covers one that is none */
        for (; left > 0 && *begin < *end; left--)
            *begin += (uint32_t)cabe_utf8_length(e->text[*begin]);
        for (; right > 0 && *end > *begin; right--)
            do
                --*end;
            while (*end > *begin && (e->text[*end] & 0xC0) == 0x80);
    }
}

static enum cabe_status push_specials(struct cabe_encoding *encoding, const int32_t *ids, uint32_t n,
                                      struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;

    for (uint32_t i = 0; status == CABE_OK && i < n; i++)
        status = cabe_encoding_push(encoding, ids[i], (struct cabe_range){0, 0}, err);
    return status;
}

static enum cabe_status check(const struct cabe_tokenizer *tokenizer, const char *text, size_t bytes,
                              const struct cabe_encode_options *options, struct cabe_error *err)
{
    const struct cabe_block_header *header = tokenizer->header;
    uint64_t valid;

    if (bytes > UINT32_MAX - 8)
        return cabe_fail(err, CABE_ERR_LIMIT, "text of %zu bytes: at most %u in one piece", bytes, UINT32_MAX - 8);
    if (options->max_tokens > 0 && options->add_special &&
        options->max_tokens < header->n_before + header->n_after)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "max_tokens %zu: the special tokens alone are %u",
                         options->max_tokens, header->n_before + header->n_after);
    valid = cabe_utf8_valid(text, bytes);
    if (valid < bytes)
        return cabe_fail(err, CABE_ERR_FORMAT, "text: byte %llu (0x%02X) is not well-formed UTF-8",
                         (unsigned long long)valid, (unsigned)(uint8_t)text[valid]);
    return CABE_OK;
}

enum cabe_status cabe_tokenizer_encode(const struct cabe_tokenizer *tokenizer, const char *text, size_t bytes,
                                       const struct cabe_encode_options *options, struct cabe_encoding *encoding,
                                       struct cabe_error *err)
{
    const struct cabe_block_header *header = tokenizer->header;
    struct encoder e = {options->parse_special, tokenizer, encoding->work, encoding, (const uint8_t *)text, bytes};
    uint32_t n_before = options->add_special ? header->n_before : 0;
    uint32_t n_after = options->add_special ? header->n_after : 0;
    enum cabe_status status = check(tokenizer, text, bytes, options, err);

    encoding->n = 0;
    if (status != CABE_OK)
        return status;
    if (!e.work && !(encoding->work = e.work = cabe_calloc(1, sizeof *e.work)))
        return cabe_fail(err, CABE_ERR_OOM, "encoding");
    e.work->n_stop = options->max_tokens > 0 ? options->max_tokens - n_after : SIZE_MAX;
    status = push_specials(encoding, header->before, n_before, err);
    if (status == CABE_OK)
        status = encode_text(&e, err);
    if (status == CABE_OK) {
        if (encoding->n > e.work->n_stop)
            encoding->n = e.work->n_stop;
        if (header->flags & CABE_FLAG_TRIM_OFFSETS)
            trim_offsets(&e, n_before);
        status = push_specials(encoding, header->after, n_after, err);
    }
    if (status != CABE_OK)
        encoding->n = 0;
    encoding->work_bytes = work_bytes(e.work);
    return status;
}
