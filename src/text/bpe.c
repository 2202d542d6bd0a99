/*
 * Byte-pair encoding of one word: of all neighbours that can merge, those that rank best do, the leftmost first.
 *
 * Most words of a text are tokens, and one look finds them. Short words keep their symbols in small arrays; in long
 * ones a heap of pairs finds the best, so that time is n log n in the bytes of a piece, whose length is bounded.
 */
#include "text/bpe.h"

#include <string.h>

#include "base/memory.h"
#include "text/unicode.h"

#define SHORT_SYMBOLS 48u
#define NO_RANK UINT32_MAX
#define NO_SYMBOL UINT32_MAX
#define UNKNOWN (-1)

struct bpe {
    const struct cabe_tokenizer *tokenizer;
    int *was_unknown; /* the token before is the unknown one */
    const struct cabe_piece *word;
    struct cabe_encoding *encoding;
};

const struct cabe_word *cabe_word_find(const struct cabe_tokenizer *tokenizer, const uint8_t *text, size_t n)
{
    uint64_t key = cabe_word_key(text, n);
    size_t slot = cabe_word_slot(key, n, tokenizer->n_words);
    uint32_t length = n < 255 ? (uint32_t)n : 255;

    for (uint32_t probe = 0; probe < CABE_PROBES_MAX; probe++) {
        const struct cabe_word *word = &tokenizer->words[slot];

        if (word->id_bytes == CABE_WORD_EMPTY)
            return NULL;
        if (word->key == key && (word->id_bytes & 0xFF) == length) {
            uint32_t id = word->id_bytes >> 8, begin = id > 0 ? tokenizer->token_ends[id - 1] : 0;

            if (n <= CABE_WORD_SHORT || (tokenizer->token_ends[id] - begin == n &&
                                         memcmp(tokenizer->tokens + begin, text, n) == 0))
                return word;
        }
        slot = slot + 1 < tokenizer->n_words ? slot + 1 : 0;
    }
    return NULL;
}

/* The rank of the pair [begin, middle) [middle, end) of ids left and right, and what it becomes. */
static uint32_t pair_rank(const struct bpe *b, int32_t left, int32_t right, size_t begin, size_t end, int32_t *id)
{
    const struct cabe_tokenizer *t = b->tokenizer;
    size_t slot;

    if (t->header->flags & CABE_FLAG_BY_SCORE) {
        const struct cabe_word *word =
            end - begin <= t->header->token_bytes_max ? cabe_word_find(t, b->word->bytes + begin, end - begin) : NULL;

        if (!word)
            return NO_RANK;
        *id = (int32_t)(word->id_bytes >> 8);
        return word->rank & ~CABE_WORD_WHOLE;
    }
    if (left < 0 || right < 0 || t->n_merges == 0)
        return NO_RANK;
    slot = cabe_merge_slot((uint32_t)left, (uint32_t)right, t->n_merges);
    for (uint32_t probe = 0; probe < CABE_PROBES_MAX; probe++) {
        const struct cabe_merge *merge = &t->merges[slot];

        if (merge->word[0] == UINT32_MAX && merge->word[1] == UINT32_MAX)
            return NO_RANK;
        if (cabe_merge_left(merge) == (uint32_t)left && cabe_merge_right(merge) == (uint32_t)right) {
            *id = (int32_t)cabe_merge_id(merge);
            return cabe_merge_rank(merge);
        }
        slot = slot + 1 < t->n_merges ? slot + 1 : 0;
    }
    return NO_RANK;
}

/* The symbol that begins at `at`: its id and length. */
static int32_t first_symbol(const struct cabe_tokenizer *t, const struct cabe_piece *word, size_t at, size_t *step)
{
    const struct cabe_word *found;
    uint8_t first = word->bytes[at];

    *step = t->header->flags & CABE_FLAG_BYTE_LEVEL ? 1 : cabe_utf8_length(first);
    if (*step == 1)
        return t->byte_ids[first];
    found = cabe_word_find(t, word->bytes + at, *step);
    return found ? (int32_t)(found->id_bytes >> 8) : UNKNOWN;
}

/* What [begin, end) of the word stands for in the text, in whole characters. */
static struct cabe_range range_of(const struct cabe_piece *word, size_t begin, size_t end)
{
    if (!word->align) {
        while (begin > 0 && (word->bytes[begin] & 0xC0) == 0x80)
            begin--;
        while (end < word->n && (word->bytes[end] & 0xC0) == 0x80)
            end++;
    }
    return cabe_piece_range(word, begin, end);
}

/* A character that is no token: its bytes, where each of them is a token, or the unknown one, or nothing. */
static enum cabe_status push_unknown(const struct bpe *b, size_t begin, size_t end, struct cabe_error *err)
{
    const struct cabe_block_header *header = b->tokenizer->header;
    struct cabe_encoding *encoding = b->encoding;
    struct cabe_range range = range_of(b->word, begin, end);
    int by_bytes = (header->flags & CABE_FLAG_BYTE_FALLBACK) != 0;
    enum cabe_status status = CABE_OK;

    for (size_t i = begin; by_bytes && i < end; i++)
        by_bytes = header->byte_ids[b->word->bytes[i]] >= 0;
    for (size_t i = begin; by_bytes && status == CABE_OK && i < end; i++)
        status = cabe_encoding_push(encoding, header->byte_ids[b->word->bytes[i]], range, err);
    if (by_bytes || header->unk_id < 0) {
        *b->was_unknown = 0;
        return status;
    }
    if (*b->was_unknown && (header->flags & CABE_FLAG_FUSE_UNK)) {
        encoding->end[encoding->n - 1] = range.end;
        return CABE_OK;
    }
    *b->was_unknown = 1;
    return cabe_encoding_push(encoding, header->unk_id, range, err);
}

static enum cabe_status push_symbol(const struct bpe *b, int32_t id, size_t begin, size_t end,
                                    struct cabe_error *err)
{
    if (id < 0)
        return push_unknown(b, begin, end, err);
    *b->was_unknown = 0;
    return cabe_encoding_push(b->encoding, id, range_of(b->word, begin, end), err);
}

/* ---- words of few symbols ---- */

struct symbols {
    uint32_t n;
    uint32_t ranks[SHORT_SYMBOLS]; /* of the pair that begins here */
    int32_t merged[SHORT_SYMBOLS]; /* what that pair becomes */
    int32_t ids[SHORT_SYMBOLS];
    uint16_t begins[SHORT_SYMBOLS + 1];
};

static void rank_at(const struct bpe *b, struct symbols *s, uint32_t i)
{
    s->ranks[i] = i + 1 < s->n ? pair_rank(b, s->ids[i], s->ids[i + 1], s->begins[i], s->begins[i + 2], &s->merged[i])
                               : NO_RANK;
}

static void drop(struct symbols *s, uint32_t i)
{
    size_t n = s->n - i - 1;

    memmove(s->ids + i, s->ids + i + 1, n * sizeof *s->ids);
    memmove(s->ranks + i, s->ranks + i + 1, n * sizeof *s->ranks);
    memmove(s->merged + i, s->merged + i + 1, n * sizeof *s->merged);
    memmove(s->begins + i, s->begins + i + 1, (n + 1) * sizeof *s->begins);
    s->n--;
}

/* 0 where the word has too many symbols. */
static int fill_short(const struct bpe *b, struct symbols *s)
{
    const struct cabe_piece *word = b->word;

    s->n = 0;
    for (size_t at = 0, step; at < word->n; at += step) {
        if (s->n == SHORT_SYMBOLS)
            return 0;
        s->ids[s->n] = first_symbol(b->tokenizer, word, at, &step);
        s->begins[s->n++] = (uint16_t)at;
    }
    s->begins[s->n] = (uint16_t)word->n;
    return 1;
}

static enum cabe_status merge_short(const struct bpe *b, struct symbols *s, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;

    for (uint32_t i = 0; i < s->n; i++)
        rank_at(b, s, i);
    for (;;) {
        uint32_t best = 0;

        for (uint32_t i = 1; i < s->n; i++)
            best = s->ranks[i] < s->ranks[best] ? i : best;
        if (s->ranks[best] == NO_RANK)
            break;
        s->ids[best] = s->merged[best];
        drop(s, best + 1);
        rank_at(b, s, best);
        if (best > 0)
            rank_at(b, s, best - 1);
    }
    for (uint32_t i = 0; status == CABE_OK && i < s->n; i++)
        status = push_symbol(b, s->ids[i], s->begins[i], s->begins[i + 1], err);
    return status;
}

/* ---- words of many ---- */

struct heap { /* of rank << 32 | symbol */
    uint64_t *items;
    size_t n;
};

static void heap_push(struct heap *h, uint64_t item)
{
    size_t at = h->n++;

    for (; at > 0 && h->items[(at - 1) / 2] > item; at = (at - 1) / 2)
        h->items[at] = h->items[(at - 1) / 2];
    h->items[at] = item;
}

static uint64_t heap_pop(struct heap *h)
{
    uint64_t top = h->items[0], last = h->items[--h->n];
    size_t at = 0;

    for (size_t child; (child = 2 * at + 1) < h->n; at = child) {
        child += child + 1 < h->n && h->items[child + 1] < h->items[child];
        if (h->items[child] >= last)
            break;
        h->items[at] = h->items[child];
    }
    h->items[at] = last;
    return top;
}

static enum cabe_status grow_symbols(struct cabe_encode_work *work, size_t n, struct cabe_error *err)
{
    size_t wanted = work->n_symbols ? work->n_symbols : 256;
    void *grown;

    if (n <= work->n_symbols)
        return CABE_OK;
    while (wanted < n)
        wanted *= 2;
    grown = cabe_realloc(work->symbols, wanted, sizeof *work->symbols);
    if (grown) {
        work->symbols = grown;
        /* every symbol has one pair to begin with, every merge makes two more, and one symbol less */
        grown = cabe_realloc(work->pairs, 3 * wanted, sizeof *work->pairs);
    }
    if (!grown) {
        work->n_symbols = 0;
        return cabe_fail(err, CABE_ERR_OOM, "word of %zu symbols", wanted);
    }
    work->pairs = grown;
    work->n_symbols = wanted;
    return CABE_OK;
}

static void push_pair(const struct bpe *b, struct cabe_bpe_symbol *symbols, struct heap *heap, uint32_t i)
{
    struct cabe_bpe_symbol *left = &symbols[i], *right;

    left->rank = NO_RANK;
    if (left->next == NO_SYMBOL)
        return;
    right = &symbols[left->next];
    left->rank = pair_rank(b, left->id, right->id, left->begin, right->end, &left->merged);
    if (left->rank != NO_RANK)
        heap_push(heap, (uint64_t)left->rank << 32 | i);
}

static enum cabe_status merge_long(const struct bpe *b, struct cabe_encode_work *work, struct cabe_error *err)
{
    enum cabe_status status = grow_symbols(work, b->word->n, err);
    struct cabe_bpe_symbol *symbols = work->symbols;
    struct heap heap = {work->pairs, 0};
    uint32_t n = 0;

    if (status != CABE_OK)
        return status;
    for (size_t at = 0, step; at < b->word->n; at += step, n++) {
        int32_t id = first_symbol(b->tokenizer, b->word, at, &step);

        symbols[n] = (struct cabe_bpe_symbol){(uint32_t)at, (uint32_t)(at + step), n - 1, n + 1, id, 0, NO_RANK};
    }
    symbols[n - 1].next = NO_SYMBOL;
    for (uint32_t i = 0; i < n; i++)
        push_pair(b, symbols, &heap, i);
    while (heap.n > 0) {
        uint64_t top = heap_pop(&heap);
        uint32_t i = (uint32_t)top, right = symbols[i].next;

        if (symbols[i].rank != top >> 32) /* the pair is no longer that one, or the symbol is gone */
            continue;
        symbols[i].id = symbols[i].merged;
        symbols[i].end = symbols[right].end;
        symbols[i].next = symbols[right].next;
        symbols[right].rank = NO_RANK;
        if (symbols[i].next != NO_SYMBOL)
            symbols[symbols[i].next].previous = i;
        push_pair(b, symbols, &heap, i);
        if (i > 0)
            push_pair(b, symbols, &heap, symbols[i].previous);
    }
    for (uint32_t i = 0; status == CABE_OK && i != NO_SYMBOL; i = symbols[i].next)
        status = push_symbol(b, symbols[i].id, symbols[i].begin, symbols[i].end, err);
    return status;
}

enum cabe_status cabe_bpe_merge(const struct cabe_tokenizer *tokenizer, struct cabe_encode_work *work,
                                const struct cabe_piece *word, struct cabe_encoding *encoding,
                                struct cabe_error *err)
{
    const struct bpe b = {tokenizer, &work->was_unknown, word, encoding};
    struct symbols symbols;

    if (word->n == 0)
        return CABE_OK;
    if (word->n < UINT16_MAX && fill_short(&b, &symbols))
        return merge_short(&b, &symbols, err);
    return merge_long(&b, work, err);
}

enum cabe_status cabe_bpe(const struct cabe_tokenizer *tokenizer, struct cabe_encode_work *work,
                          const struct cabe_piece *word, struct cabe_encoding *encoding, struct cabe_error *err)
{
    const struct cabe_word *found =
        word->n <= tokenizer->header->token_bytes_max ? cabe_word_find(tokenizer, word->bytes, word->n) : NULL;

    if (found && (found->rank & CABE_WORD_WHOLE)) {
        work->was_unknown = 0;
        return cabe_encoding_push(encoding, (int32_t)(found->id_bytes >> 8), cabe_piece_range(word, 0, word->n), err);
    }
    return cabe_bpe_merge(tokenizer, work, word, encoding, err);
}
