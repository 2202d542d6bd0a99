/* The tables of byte-pair encoding: tokens by their bytes, merges by pairs, classes of characters. */
#include <stdlib.h>
#include <string.h>

#include <unicode/uchar.h>

#include "base/memory.h"
#include "text/bpe.h"
#include "text/sentences.h"
#include "text/spec.h"
#include "text/unicode.h"

static const char mark[] = "\xE2\x96\x81"; /* that SentencePiece has for a space */

/* ---- tokens as bytes ---- */

/* The byte that a character of byte-level BPE stands for, or -1: printable ones themselves, others from U+0100 on. */
static int byte_of(uint32_t c)
{
    if ((c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255))
        return (int)c;
    if (c >= 256 && c <= 256 + 32)
        return (int)c - 256;
    if (c > 256 + 32 && c <= 256 + 32 + 34)
        return (int)c - 256 - 33 + 127;
    return c == 256 + 67 ? 173 : -1;
}

/* Bytes written to out, which has room for as many as the text has; 0 where it is not all byte-level characters. */
static size_t undo_bytes(const char *text, size_t bytes, char *out)
{
    size_t n = 0, step;

    if (cabe_utf8_valid(text, bytes) != bytes)
        return 0;
    for (size_t at = 0; at < bytes; at += step) {
        int byte = byte_of(cabe_utf8_get((const uint8_t *)text + at, &step));

        if (byte < 0)
            return 0;
        out[n++] = (char)byte;
    }
    return n;
}

static size_t undo_marks(const char *text, size_t bytes, char *out)
{
    size_t n = 0;

    for (size_t i = 0; i < bytes;) {
        int is_mark = bytes - i >= 3 && memcmp(text + i, mark, 3) == 0;

        out[n++] = is_mark ? ' ' : text[i];
        i += is_mark ? 3 : 1;
    }
    return n;
}

/* 0 where the text cannot come from any text that is encoded. */
static size_t undo(const struct cabe_spec *spec, const char *text, size_t bytes, char *out)
{
    if (spec->flags & CABE_FLAG_BYTE_LEVEL)
        return undo_bytes(text, bytes, out);
    if (cabe_utf8_valid(text, bytes) != bytes || (spec->has_marks && memchr(text, ' ', bytes)))
        return 0;
    if (spec->has_marks)
        return undo_marks(text, bytes, out);
    memcpy(out, text, bytes);
    return bytes;
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte of "<0x0A>", or -1. */
static int named_byte(const char *text, size_t bytes)
{
    if (bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>' || hex(text[3]) < 0 || hex(text[4]) < 0)
        return -1;
    return hex(text[3]) << 4 | hex(text[4]);
}

/* Every token becomes its bytes; is_word[id] where text that is encoded can become it. */
static enum cabe_status convert_tokens(struct cabe_spec *spec, struct cabe_bpe_tables *tables, uint8_t *is_word,
                                       struct cabe_error *err)
{
    size_t total = 1, n = 0;

    for (size_t i = 0; i < spec->n_tokens; i++)
        total += spec->tokens[i].bytes;
    for (size_t i = 0; i < spec->n_added && (spec->flags & CABE_FLAG_BY_SCORE); i++)
        is_word[spec->added[i].id] = 1; /* SentencePiece never merges to these: their text stays as it is */
    if (total > UINT32_MAX || !(spec->pool = cabe_malloc(total)))
        return cabe_fail(err, CABE_ERR_OOM, "%s: %zu bytes of tokens", spec->name, total);
    for (size_t i = 0; i < spec->n_tokens; i++) {
        struct cabe_spec_token *token = &spec->tokens[i];
        int byte = spec->flags & CABE_FLAG_BYTE_FALLBACK ? named_byte(token->text, token->bytes) : -1;
        int is_other = is_word[i];
        size_t bytes;

        is_word[i] = 0;
        if (!token->text || token->is_added || token->bytes == 0 || is_other)
            continue;
        if (token->bytes > CABE_TRIE_KEY_MAX)
            return cabe_fail(err, CABE_ERR_LIMIT, "%s: token %zu: %zu bytes, at most %d", spec->name, i, token->bytes,
                             CABE_TRIE_KEY_MAX);
        if (byte >= 0) {
            spec->pool[n] = (char)byte;
            bytes = 1;
            tables->byte_ids[byte] = (int32_t)i;
        } else {
            bytes = undo(spec, token->text, token->bytes, spec->pool + n);
            is_word[i] = bytes > 0;
        }
        if (bytes == 0)
            continue;
        token->text = spec->pool + n;
        token->bytes = bytes;
        n += bytes;
        if (is_word[i] && bytes > tables->token_bytes_max)
            tables->token_bytes_max = bytes;
    }
    return CABE_OK;
}

/* ---- words ---- */

static uint32_t word_length(size_t bytes)
{
    return bytes < 255 ? (uint32_t)bytes : 255;
}

static struct cabe_word *find_word(const struct cabe_spec *spec, const struct cabe_bpe_tables *tables,
                                   const char *text, size_t bytes)
{
    uint64_t key = cabe_word_key((const uint8_t *)text, bytes);
    size_t slot = cabe_word_slot(key, bytes, tables->n_words);

    for (uint32_t probe = 0; probe < CABE_PROBES_MAX; probe++) {
        struct cabe_word *word = &tables->words[slot];
        const struct cabe_spec_token *token;

        if (word->id_bytes == CABE_WORD_EMPTY)
            return word;
        token = &spec->tokens[word->id_bytes >> 8];
        if (word->key == key && token->bytes == bytes && memcmp(token->text, text, bytes) == 0)
            return word;
        slot = slot + 1 < tables->n_words ? slot + 1 : 0;
    }
    return NULL;
}

static enum cabe_status fill_words(const struct cabe_spec *spec, struct cabe_bpe_tables *tables,
                                   const uint8_t *is_word, struct cabe_error *err)
{
    tables->n_words = (size_t)cabe_hash_slots(spec->n_tokens);
    tables->words = cabe_calloc(tables->n_words, sizeof *tables->words);
    if (!tables->words)
        return cabe_fail(err, CABE_ERR_OOM, "%s: table of %zu tokens", spec->name, spec->n_tokens);
    for (size_t i = 0; i < tables->n_words; i++)
        tables->words[i].id_bytes = CABE_WORD_EMPTY;
    for (size_t i = 0; i < spec->n_tokens; i++) {
        const struct cabe_spec_token *token = &spec->tokens[i];
        struct cabe_word *word;

        if (!is_word[i])
            continue;
        word = find_word(spec, tables, token->text, token->bytes);
        if (!word)
            return cabe_fail(err, CABE_ERR_LIMIT, "%s: token %zu: more than %u tokens have the same hash", spec->name,
                             i, CABE_PROBES_MAX);
        if (word->id_bytes != CABE_WORD_EMPTY) /* the same bytes again: the first one counts */
            continue;
        *word = (struct cabe_word){cabe_word_key((const uint8_t *)token->text, token->bytes), 0,
                                   (uint32_t)i << 8 | word_length(token->bytes)};
        if ((spec->flags & CABE_FLAG_BYTE_LEVEL) && token->bytes == 1)
            tables->byte_ids[(uint8_t)token->text[0]] = (int32_t)i;
    }
    return CABE_OK;
}

struct ranked {
    double score;
    uint32_t id;
};

static int compare_ranked(const void *a, const void *b)
{
    double x = ((const struct ranked *)a)->score, y = ((const struct ranked *)b)->score;

    return (x < y) - (x > y);
}

/* Ranks by score, the same for the same score. */
static enum cabe_status rank_words(const struct cabe_spec *spec, struct cabe_bpe_tables *tables,
                                   struct cabe_error *err)
{
    struct ranked *ranked = cabe_calloc(spec->n_tokens, sizeof *ranked);
    size_t n = 0;
    uint32_t rank = 0;

    if (!ranked)
        return cabe_fail(err, CABE_ERR_OOM, "%s: scores of %zu tokens", spec->name, spec->n_tokens);
    for (size_t i = 0; i < tables->n_words; i++)
        if (tables->words[i].id_bytes != CABE_WORD_EMPTY) {
            uint32_t id = tables->words[i].id_bytes >> 8;

            ranked[n++] = (struct ranked){spec->tokens[id].score, id};
        }
    qsort(ranked, n, sizeof *ranked, compare_ranked);
    for (size_t i = 0; i < n; i++) {
        const struct cabe_spec_token *token = &spec->tokens[ranked[i].id];

        rank += i > 0 && ranked[i].score < ranked[i - 1].score;
        find_word(spec, tables, token->text, token->bytes)->rank = rank;
    }
    cabe_free(ranked);
    return CABE_OK;
}

/* ---- merges ---- */

static int32_t find_id(const struct cabe_spec *spec, const struct cabe_bpe_tables *tables, const char *text,
                       size_t bytes)
{
    const struct cabe_word *word = bytes > 0 ? find_word(spec, tables, text, bytes) : NULL;

    return word && word->id_bytes != CABE_WORD_EMPTY ? (int32_t)(word->id_bytes >> 8) : -1;
}

static struct cabe_merge make_merge(uint32_t left, uint32_t right, uint32_t rank, uint32_t id)
{
    return (struct cabe_merge){{left | right << 24, right >> 8 | rank << 16, rank >> 16 | id << 8}};
}

static enum cabe_status put_merge(const struct cabe_spec *spec, struct cabe_bpe_tables *tables, uint32_t left,
                                  uint32_t right, uint32_t rank, uint32_t id, struct cabe_error *err)
{
    size_t slot = cabe_merge_slot(left, right, tables->n_merges);

    for (uint32_t probe = 0; probe < CABE_PROBES_MAX; probe++) {
        struct cabe_merge *merge = &tables->merges[slot];
        int is_empty = merge->word[0] == UINT32_MAX && merge->word[1] == UINT32_MAX;

        if (is_empty || (cabe_merge_left(merge) == left && cabe_merge_right(merge) == right)) {
            if (is_empty || !spec->first_merge_counts)
                *merge = make_merge(left, right, rank, id);
            return CABE_OK;
        }
        slot = slot + 1 < tables->n_merges ? slot + 1 : 0;
    }
    return cabe_fail(err, CABE_ERR_LIMIT, "%s: merge %u: more than %u have the same hash", spec->name, rank,
                     CABE_PROBES_MAX);
}

static enum cabe_status fill_merges(const struct cabe_spec *spec, struct cabe_bpe_tables *tables,
                                    struct cabe_error *err)
{
    char text[2 * CABE_TRIE_KEY_MAX];

    if (spec->n_merges >= CABE_SPEC_TOKENS_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: %zu merges, at most %u", spec->name, spec->n_merges,
                         CABE_SPEC_TOKENS_MAX - 1);
    tables->n_merges = (size_t)cabe_hash_slots(spec->n_merges);
    tables->merges = cabe_malloc(tables->n_merges * sizeof *tables->merges);
    if (!tables->merges)
        return cabe_fail(err, CABE_ERR_OOM, "%s: %zu merges", spec->name, spec->n_merges);
    memset(tables->merges, 0xFF, tables->n_merges * sizeof *tables->merges);
    for (size_t i = 0; i < spec->n_merges; i++) {
        const struct cabe_spec_merge *merge = &spec->merges[i];
        size_t left_bytes = 0, right_bytes = 0;
        int32_t left = -1, right = -1, whole = -1;
        enum cabe_status status;

        if (merge->left_bytes <= CABE_TRIE_KEY_MAX && merge->right_bytes <= CABE_TRIE_KEY_MAX) {
            left_bytes = undo(spec, merge->left, merge->left_bytes, text);
            right_bytes = undo(spec, merge->right, merge->right_bytes, text + left_bytes);
            left = find_id(spec, tables, text, left_bytes);
            right = find_id(spec, tables, text + left_bytes, right_bytes);
            whole = find_id(spec, tables, text, left_bytes + right_bytes);
        }
        if (left < 0 || right < 0 || whole < 0)
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: merge %zu, '%.*s' and '%.*s': %s is not in the vocabulary",
                             spec->name, i, (int)(merge->left_bytes < 40 ? merge->left_bytes : 40), merge->left,
                             (int)(merge->right_bytes < 40 ? merge->right_bytes : 40), merge->right,
                             left < 0 ? "the first" : right < 0 ? "the second" : "what they become");
        status = put_merge(spec, tables, (uint32_t)left, (uint32_t)right, (uint32_t)i, (uint32_t)whole, err);
        if (status != CABE_OK)
            return status;
    }
    return CABE_OK;
}

/* ---- classes of characters ---- */

#define N_CODE_POINTS 0x110000u

static uint8_t class_of(uint32_t category)
{
    return (uint8_t)((category & U_GC_Z_MASK ? CABE_CLASS_SPACE : 0) |
                     (category & U_GC_L_MASK ? CABE_CLASS_LETTER : 0) |
                     (category & U_GC_N_MASK ? CABE_CLASS_NUMBER : 0) |
                     (category & U_GC_M_MASK ? CABE_CLASS_MARK : 0) |
                     (category & U_GC_P_MASK ? CABE_CLASS_PUNCTUATION : 0) |
                     (category & U_GC_S_MASK ? CABE_CLASS_SYMBOL : 0) |
                     (category & (U_GC_LU_MASK | U_GC_LT_MASK) ? CABE_CLASS_UPPER : 0) |
                     (category & U_GC_LL_MASK ? CABE_CLASS_LOWER : 0));
}

/* Called by ICU for every run of code points of one category. */
static UBool add_run(const void *context, UChar32 start, UChar32 limit, UCharCategory category)
{
    uint8_t *flat = *(uint8_t *const *)context;

    memset(flat + start, class_of(U_MASK(category)), (size_t)(limit - start));
    return 1;
}

/* The number of a page of classes among those that are there, which it joins if it is new. */
static uint16_t intern(struct cabe_classes *classes, size_t *n, const uint8_t page[256])
{
    for (size_t i = 0; i < *n; i++)
        if (memcmp(classes->classes + i * 256, page, 256) == 0)
            return (uint16_t)i;
    memcpy(classes->classes + *n * 256, page, 256);
    return (uint16_t)(*n)++;
}

static enum cabe_status fill_classes(struct cabe_bpe_tables *tables, struct cabe_error *err)
{
    uint8_t *flat = cabe_calloc(N_CODE_POINTS, 1);
    size_t n = 0;

    tables->classes = cabe_calloc(1, sizeof *tables->classes + CABE_CLASS_PAGES * 256);
    if (!tables->classes || !flat) {
        cabe_free(flat);
        return cabe_fail(err, CABE_ERR_OOM, "classes of characters");
    }
    u_enumCharTypes(add_run, &flat);
    for (uint32_t c = 0; c < 0xA0; c++) /* controls that are white space */
        flat[c] |= cabe_char_is_space(c) ? CABE_CLASS_SPACE : 0;
    for (uint32_t page = 0; page < CABE_CLASS_PAGES; page++) {
        const uint8_t *classes = flat + (size_t)page * 256;
        int is_last = page > 0 && memcmp(classes, classes - 256, 256) == 0;

        tables->classes->pages[page] =
            is_last ? tables->classes->pages[page - 1] : intern(tables->classes, &n, classes);
    }
    tables->classes_bytes = sizeof *tables->classes + n * 256;
    cabe_free(flat);
    return CABE_OK;
}

static enum cabe_status fill_pairs(const struct cabe_spec *spec, struct cabe_bpe_tables *tables,
                                   const uint8_t *is_word, struct cabe_error *err)
{
    tables->pairs = cabe_calloc(1, CABE_PAIR_BYTES);
    if (!tables->pairs)
        return cabe_fail(err, CABE_ERR_OOM, "pairs of bytes");
    tables->pair_bytes = CABE_PAIR_BYTES;
    for (size_t i = 0; i < spec->n_tokens; i++) {
        const uint8_t *text = (const uint8_t *)spec->tokens[i].text;

        for (size_t k = 1; is_word[i] && k < spec->tokens[i].bytes; k++)
            tables->pairs[text[k - 1] * 32u + text[k] / 8u] |= (uint8_t)(1u << (text[k] % 8));
    }
    return CABE_OK;
}

enum cabe_status cabe_bpe_tables(struct cabe_spec *spec, struct cabe_bpe_tables *tables, struct cabe_error *err)
{
    uint8_t *is_word = cabe_calloc(spec->n_tokens, 1);
    enum cabe_status status = CABE_OK;

    for (int i = 0; i < 256; i++)
        tables->byte_ids[i] = -1;
    if (!is_word)
        status = cabe_fail(err, CABE_ERR_OOM, "%s: %zu tokens", spec->name, spec->n_tokens);
    if (status == CABE_OK)
        status = convert_tokens(spec, tables, is_word, err);
    if (status == CABE_OK)
        status = fill_words(spec, tables, is_word, err);
    if (status == CABE_OK)
        status = spec->flags & CABE_FLAG_BY_SCORE ? rank_words(spec, tables, err) : fill_merges(spec, tables, err);
    if (status == CABE_OK)
        status = fill_classes(tables, err);
    if (status == CABE_OK)
        status = fill_pairs(spec, tables, is_word, err);
    cabe_free(is_word);
    return status;
}

void cabe_bpe_tables_clear(struct cabe_bpe_tables *tables)
{
    cabe_free(tables->words);
    cabe_free(tables->merges);
    cabe_free(tables->classes);
    cabe_free(tables->pairs);
    *tables = (struct cabe_bpe_tables){0};
}

enum cabe_status cabe_bpe_mark_whole(void *block, size_t bytes, const char *name, struct cabe_error *err)
{
    struct cabe_block_header *header = block;
    struct cabe_word *words = (struct cabe_word *)((uint8_t *)block + header->sections[CABE_SECTION_WORDS].offset);
    struct cabe_encoding encoding = {.work = cabe_calloc(1, sizeof(struct cabe_encode_work))};
    struct cabe_tokenizer *tokenizer = NULL;
    enum cabe_status status = cabe_tokenizer_open(&tokenizer, block, bytes, name, err);

    if (status == CABE_OK && !encoding.work)
        status = cabe_fail(err, CABE_ERR_OOM, "%s: encoding", name);
    for (size_t i = 0; status == CABE_OK && i < tokenizer->n_words; i++) {
        int32_t id = (int32_t)(words[i].id_bytes >> 8);
        struct cabe_piece word = {.align = NULL};

        if (words[i].id_bytes == CABE_WORD_EMPTY)
            continue;
        word.bytes = (const uint8_t *)cabe_tokenizer_token(tokenizer, id, &word.n);
        encoding.n = 0;
        if (!(header->flags & CABE_FLAG_WHOLE_WORDS))
            status = cabe_bpe_merge(tokenizer, encoding.work, &word, &encoding, err);
        if ((header->flags & CABE_FLAG_WHOLE_WORDS) || (encoding.n == 1 && encoding.ids[0] == id))
            words[i].rank |= CABE_WORD_WHOLE;
    }
    cabe_tokenizer_close(tokenizer);
    cabe_encoding_clear(&encoding);
    if (status == CABE_OK)
        cabe_block_seal(header);
    return status;
}
