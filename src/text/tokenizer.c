/* Opening a compiled block, and what can be asked of it without encoding. */
#include "text/tokenizer.h"

#include <string.h>

#include "base/memory.h"
#include "text/bpe.h"
#include "text/sentences.h"
#include "text/unicode.h"

uint64_t cabe_block_checksum(const void *bytes, size_t n)
{
    /* Four independent lanes, so that it runs at the speed of memory; every bit of input reaches the result. */
    const uint64_t prime = 0x9E3779B97F4A7C15u;
    uint64_t lanes[4] = {1, 2, 3, 4}, word;
    const uint8_t *at = bytes;
    uint64_t sum = n * prime;

    for (; n >= 32; n -= 32, at += 32)
        for (int i = 0; i < 4; i++) {
            memcpy(&word, at + 8 * i, 8);
            lanes[i] = (lanes[i] ^ word) * prime;
            lanes[i] ^= lanes[i] >> 29;
        }
    for (int i = 0; i < 4; i++)
        sum = (sum ^ lanes[i]) * prime ^ sum >> 31;
    for (; n > 0; n--, at++) {
        sum = (sum ^ *at) * prime;
        sum ^= sum >> 29;
    }
    return sum;
}

static const void *section(const struct cabe_block_header *header, enum cabe_section which, size_t *bytes)
{
    *bytes = (size_t)header->sections[which].bytes;
    return *bytes > 0 ? (const uint8_t *)header + header->sections[which].offset : NULL;
}

static enum cabe_status damaged(const char *name, const char *what, struct cabe_error *err)
{
    return cabe_fail(err, CABE_ERR_FORMAT, "%s: compiled tokenizer: %s", name, what);
}

static enum cabe_status check_header(const struct cabe_block_header *header, size_t bytes, const char *name,
                                     struct cabe_error *err)
{
    struct cabe_block_header copy;

    if (bytes < sizeof *header || header->magic != CABE_BLOCK_MAGIC)
        return damaged(name, "not one", err);
    if (header->version != CABE_BLOCK_VERSION || header->header_bytes != sizeof *header)
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: compiled tokenizer: version %u, wanted %u", name,
                         header->version, CABE_BLOCK_VERSION);
    if (header->bytes != bytes)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: compiled tokenizer: %zu bytes, wanted %llu", name, bytes,
                         (unsigned long long)header->bytes);
    copy = *header;
    copy.header_checksum = 0;
    if (cabe_block_checksum(&copy, sizeof copy) != header->header_checksum)
        return damaged(name, "checksum of the header", err);
    return CABE_OK;
}

static enum cabe_status check_sections(const struct cabe_block_header *header, const char *name,
                                       struct cabe_error *err)
{
    for (int i = 0; i < CABE_N_SECTIONS; i++) {
        const struct cabe_block_section *s = &header->sections[i];

        if (s->bytes == 0)
            continue;
        if (s->offset < sizeof *header || s->offset % 8 != 0 || s->offset > header->bytes ||
            s->bytes > header->bytes - s->offset)
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: compiled tokenizer: section %d: %llu bytes at %llu of %llu",
                             name, i, (unsigned long long)s->bytes, (unsigned long long)s->offset,
                             (unsigned long long)header->bytes);
        if (cabe_block_checksum((const uint8_t *)header + s->offset, (size_t)s->bytes) != s->checksum)
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: compiled tokenizer: checksum of section %d", name, i);
    }
    return CABE_OK;
}

static int is_id(const struct cabe_block_header *header, int32_t id)
{
    return id >= 0 && (uint32_t)id < header->n_tokens;
}

static int ids_are_sound(const struct cabe_block_header *header)
{
    if (header->n_before > CABE_SPECIALS_MAX || header->n_after > CABE_SPECIALS_MAX || header->n_tokens == 0 ||
        header->n_tokens > INT32_MAX)
        return 0;
    for (uint32_t i = 0; i < header->n_before; i++)
        if (!is_id(header, header->before[i]))
            return 0;
    for (uint32_t i = 0; i < header->n_after; i++)
        if (!is_id(header, header->after[i]))
            return 0;
    for (int i = 0; i < CABE_N_TOKEN_ROLES; i++)
        if (header->roles[i] != -1 && !is_id(header, header->roles[i]))
            return 0;
    if (header->n_ends > CABE_ENDS_MAX)
        return 0;
    for (uint32_t i = 0; i < header->n_ends; i++)
        if (!is_id(header, header->ends[i]))
            return 0;
    for (int i = 0; i < 256; i++)
        if (header->byte_ids[i] != -1 && !is_id(header, header->byte_ids[i]))
            return 0;
    return is_id(header, header->unk_id) || (header->unk_id == -1 && header->model == CABE_MODEL_BPE);
}

/* Ids below n_tokens, lengths as they are, and ranks that are not those of no merge. */
static int words_are_sound(const struct cabe_tokenizer *t)
{
    uint32_t n_tokens = t->header->n_tokens, is_bad = 0;

    for (size_t i = 0; i < t->n_words; i++) {
        uint32_t id_bytes = t->words[i].id_bytes;

        is_bad |= id_bytes != CABE_WORD_EMPTY && id_bytes >> 8 >= n_tokens;
        is_bad |= (t->words[i].rank & ~CABE_WORD_WHOLE) == ~CABE_WORD_WHOLE;
    }
    return !is_bad && t->n_words <= UINT32_MAX;
}

static int merges_are_sound(const struct cabe_tokenizer *t)
{
    uint32_t n_tokens = t->header->n_tokens, is_bad = 0;

    for (size_t i = 0; i < t->n_merges; i++) {
        const struct cabe_merge *merge = &t->merges[i];
        uint32_t is_empty = merge->word[0] == UINT32_MAX && merge->word[1] == UINT32_MAX;

        is_bad |= !is_empty & (cabe_merge_id(merge) >= n_tokens);
    }
    return !is_bad && t->n_merges <= UINT32_MAX;
}

static int classes_are_sound(const struct cabe_tokenizer *t, size_t bytes)
{
    size_t n_pages = bytes > sizeof *t->classes ? (bytes - sizeof *t->classes) / 256 : 0;

    for (size_t i = 0; t->classes && n_pages > 0 && i < CABE_CLASS_PAGES; i++)
        if (t->classes->pages[i] >= n_pages)
            return 0;
    return t->classes && n_pages > 0;
}

static enum cabe_status open_bpe(struct cabe_tokenizer *t, const char *name, struct cabe_error *err)
{
    size_t word_bytes, merge_bytes, class_bytes, pair_bytes;

    t->trie = NULL;
    t->words = section(t->header, CABE_SECTION_WORDS, &word_bytes);
    t->merges = section(t->header, CABE_SECTION_MERGES, &merge_bytes);
    t->classes = section(t->header, CABE_SECTION_CLASSES, &class_bytes);
    t->pairs = section(t->header, CABE_SECTION_PAIRS, &pair_bytes);
    t->n_words = word_bytes / sizeof *t->words;
    t->n_merges = merge_bytes / sizeof *t->merges;
    if (t->n_words == 0 || pair_bytes != CABE_PAIR_BYTES || t->header->n_tokens >= 1u << 24)
        return damaged(name, "size of a table", err);
    if (!words_are_sound(t) || !merges_are_sound(t))
        return damaged(name, "table of words or merges", err);
    if (!classes_are_sound(t, class_bytes))
        return damaged(name, "classes of characters", err);
    memcpy(t->byte_ids, t->header->byte_ids, sizeof t->byte_ids);
    for (int c = 0; c < 128; c++) {
        uint8_t byte = (uint8_t)c;
        const struct cabe_word *word = cabe_word_find(t, &byte, 1);

        t->byte_class[c] = cabe_class_of(t->classes, byte);
        if (!(t->header->flags & CABE_FLAG_BYTE_LEVEL))
            t->byte_ids[c] = word ? (int32_t)(word->id_bytes >> 8) : -1;
    }
    return CABE_OK;
}

static enum cabe_status open_tokens(struct cabe_tokenizer *t, const char *name, struct cabe_error *err)
{
    const struct cabe_block_header *header = t->header;
    size_t text_bytes, ends_bytes, score_bytes, trie_bytes, kind_bytes, wanted;
    uint32_t before = 0, ordered = 1;
    const void *scores;

    t->tokens = section(header, CABE_SECTION_TOKENS, &text_bytes);
    t->token_ends = section(header, CABE_SECTION_TOKEN_ENDS, &ends_bytes);
    scores = section(header, CABE_SECTION_SCORES, &score_bytes);
    t->trie = section(header, CABE_SECTION_TRIE, &trie_bytes);
    if (!ids_are_sound(header))
        return damaged(name, "a token id out of range", err);
    if (ends_bytes != (size_t)header->n_tokens * sizeof *t->token_ends)
        return damaged(name, "size of the token table", err);
    for (uint32_t i = 0; i < header->n_tokens; i++) {
        ordered &= before <= t->token_ends[i];
        if (t->token_ends[i] - before > t->decode_max)
            t->decode_max = t->token_ends[i] - before;
        before = t->token_ends[i];
    }
    t->kinds = section(header, CABE_SECTION_KINDS, &kind_bytes);
    if (kind_bytes != header->n_tokens)
        return damaged(name, "size of the table of kinds", err);
    t->decode_max += header->model == CABE_MODEL_WORDPIECE; /* the space before a word */
    t->chat_template = section(header, CABE_SECTION_TEMPLATE, &t->chat_template_bytes);
    if (!ordered || before > text_bytes)
        return damaged(name, "order of the token table", err);
    if (header->model == CABE_MODEL_BPE)
        return open_bpe(t, name, err);
    if (!t->trie || trie_bytes % sizeof *t->trie != 0 ||
        !cabe_trie_is_sound(t->trie, trie_bytes / sizeof *t->trie, header->n_tokens))
        return damaged(name, "trie", err);
    if (header->model == CABE_MODEL_WORDPIECE)
        return CABE_OK;
    if (header->model != CABE_MODEL_UNIGRAM)
        return damaged(name, "kind of model", err);
    wanted = header->flags & CABE_FLAG_SCORES_F32 ? sizeof(float) : sizeof(double);
    if (score_bytes != header->n_tokens * wanted)
        return damaged(name, "size of the scores", err);
    t->scores_f32 = header->flags & CABE_FLAG_SCORES_F32 ? scores : NULL;
    t->scores_f64 = header->flags & CABE_FLAG_SCORES_F32 ? NULL : scores;
    return CABE_OK;
}

static int is_text(const struct cabe_tokenizer *t, size_t string_bytes, uint32_t begin, uint32_t bytes)
{
    return begin <= string_bytes && bytes <= string_bytes - begin &&
           cabe_utf8_valid((const char *)t->strings + begin, bytes) == bytes;
}

/* The steps that need tables of BPE. */
static int is_split_sound(const struct cabe_tokenizer *t, const struct cabe_step *step)
{
    if (step->kind == CABE_PRE_SPLIT)
        return t->classes && step->number > 0 && step->number < CABE_N_SPLIT_RULES;
    return step->kind != CABE_PRE_SPACES || t->pairs;
}

static int steps_are_sound(const struct cabe_tokenizer *t, const struct cabe_step *steps, size_t n, uint32_t n_kinds,
                           size_t string_bytes)
{
    for (size_t i = 0; i < n; i++)
        if (steps[i].kind == 0 || steps[i].kind >= n_kinds ||
            (n_kinds == CABE_N_PRETOKENIZERS && !is_split_sound(t, &steps[i])) ||
            !is_text(t, string_bytes, steps[i].a, steps[i].a_bytes) ||
            !is_text(t, string_bytes, steps[i].b, steps[i].b_bytes))
            return 0;
    return n <= CABE_STEPS_MAX;
}

static enum cabe_status open_steps(struct cabe_tokenizer *t, const char *name, struct cabe_error *err)
{
    size_t string_bytes, map_bytes, bytes;
    const void *map = section(t->header, CABE_SECTION_CHARSMAP, &map_bytes);
    int n_metaspace = 0;

    t->strings = section(t->header, CABE_SECTION_STRINGS, &string_bytes);
    if (!t->strings)
        t->strings = (const uint8_t *)"";
    t->normalizers = section(t->header, CABE_SECTION_NORMALIZERS, &bytes);
    t->n_normalizers = bytes / sizeof *t->normalizers;
    t->pretokenizers = section(t->header, CABE_SECTION_PRETOKENIZERS, &bytes);
    t->n_pretokenizers = bytes / sizeof *t->pretokenizers;
    t->characters = section(t->header, CABE_SECTION_CHARACTERS, &bytes);
    if (!steps_are_sound(t, t->normalizers, t->n_normalizers, CABE_N_NORMALIZERS, string_bytes) ||
        !steps_are_sound(t, t->pretokenizers, t->n_pretokenizers, CABE_N_PRETOKENIZERS, string_bytes))
        return damaged(name, "a step of normalising or splitting", err);
    if (bytes != CABE_CHARACTERS * sizeof *t->characters)
        return damaged(name, "size of the character table", err);
    for (uint32_t c = 0; c < CABE_CHARACTERS; c++) {
        uint32_t to = t->characters[c] & CABE_CHARACTER_MASK;

        if (to > 0x10FFFF || (to >= 0xD800 && to <= 0xDFFF))
            return damaged(name, "character table", err);
    }
    if (map && !cabe_charsmap_open(&t->charsmap, map, map_bytes))
        return damaged(name, "precompiled character map", err);
    for (size_t i = 0; i < t->n_normalizers; i++)
        if ((t->normalizers[i].kind == CABE_NORM_PRECOMPILED && !t->charsmap.units) ||
            (t->normalizers[i].kind == CABE_NORM_REPLACE && t->normalizers[i].a_bytes == 0) ||
            (t->normalizers[i].kind == CABE_NORM_REPLACE_RUN && t->normalizers[i].number == 0))
            return damaged(name, "a step of normalising", err);
    for (size_t i = 0; i < t->n_pretokenizers; i++)
        if (t->pretokenizers[i].kind == CABE_PRE_METASPACE &&
            (t->pretokenizers[i].a_bytes == 0 || n_metaspace++ > 0))
            return damaged(name, "a step of splitting", err);
    return CABE_OK;
}

static enum cabe_status open_added(struct cabe_tokenizer *t, const char *name, struct cabe_error *err)
{
    size_t bytes, plain_bytes, normal_bytes;

    t->added = section(t->header, CABE_SECTION_ADDED, &bytes);
    t->n_added = bytes / sizeof *t->added;
    t->added_trie = section(t->header, CABE_SECTION_ADDED_TRIE, &plain_bytes);
    t->normal_trie = section(t->header, CABE_SECTION_NORMAL_TRIE, &normal_bytes);
    for (size_t i = 0; i < t->n_added; i++)
        if (!is_id(t->header, t->added[i].id))
            return damaged(name, "id of an added token", err);
    if ((t->added_trie && !cabe_trie_is_sound(t->added_trie, plain_bytes / sizeof *t->added_trie,
                                              (uint32_t)t->n_added)) ||
        (t->normal_trie && !cabe_trie_is_sound(t->normal_trie, normal_bytes / sizeof *t->normal_trie,
                                               (uint32_t)t->n_added)))
        return damaged(name, "trie of added tokens", err);
    for (uint32_t c = 0; t->added_trie && c < 256; c++) {
        uint32_t state = cabe_trie_root(t->added_trie);
        int32_t value;

        t->added_first[c] = (uint8_t)cabe_trie_step(t->added_trie, &state, (uint8_t)c, &value);
    }
    return CABE_OK;
}

static int bert_flags(const struct cabe_tokenizer *t, uint32_t *flags)
{
    for (size_t i = 0; i < t->n_normalizers; i++)
        if (t->normalizers[i].kind == CABE_NORM_BERT) {
            *flags = t->normalizers[i].flags;
            return 1;
        }
    return 0;
}

static void fill_ascii(struct cabe_tokenizer *t)
{
    uint32_t flags = 0;

    if (!bert_flags(t, &flags))
        return;
    for (uint32_t c = 0; c < 128; c++) {
        int is_break = c == '\t' || c == '\n' || c == '\r';
        uint8_t to = (uint8_t)(flags & CABE_BERT_LOWERCASE && c >= 'A' && c <= 'Z' ? c + 32 : c);

        if (flags & CABE_BERT_CLEAN)
            to = is_break ? ' ' : c < 32 || c == 127 ? 0xFF : to;
        t->ascii_bert[c] = to;
    }
}

static int has_space(const struct cabe_tokenizer *t, uint32_t begin, uint32_t bytes)
{
    return bytes > 0 && memchr(t->strings + begin, ' ', bytes) != NULL;
}

/* Whether an added token of normalised text could reach over a space, or take it along. */
static int added_spans_space(const struct cabe_tokenizer *t)
{
    size_t n = (size_t)t->header->sections[CABE_SECTION_NORMAL_TRIE].bytes / sizeof *t->normal_trie;

    for (size_t i = 1; t->normal_trie && i < n; i++) {
        int32_t value = t->normal_trie[i].value;

        if (value != CABE_TRIE_UNUSED && (t->normal_trie[i].state_label & 0xFF) == ' ')
            return 1;
        if (value >= 0 && (t->added[value].flags & CABE_ADDED_RSTRIP))
            return 1;
    }
    return 0;
}

/* Whether what stands beside an added token of normalised text matters; notes the bytes of all of them. */
static int added_looks_around(struct cabe_tokenizer *t)
{
    size_t n = (size_t)t->header->sections[CABE_SECTION_NORMAL_TRIE].bytes / sizeof *t->normal_trie;
    int looks = 0;

    for (size_t i = 1; t->normal_trie && i < n; i++) {
        int32_t value = t->normal_trie[i].value;

        if (value != CABE_TRIE_UNUSED)
            t->normal_bytes[t->normal_trie[i].state_label & 0xFF] = 1;
        looks |= value >= 0 && (t->added[value].flags &
                                (CABE_ADDED_LSTRIP | CABE_ADDED_RSTRIP | CABE_ADDED_SINGLE_WORD));
    }
    return looks;
}

/*
 * Where "word| next" may be cut at the bar with nothing changed: no normaliser looks past a single space between
 * ASCII letters, and the splitting into words cuts there anyway.
 */
static enum cabe_cut may_cut(struct cabe_tokenizer *t)
{
    enum cabe_cut cuts = CABE_CUT_NONE, cut;
    int by_pairs = 0;

    for (size_t i = 0; i < t->n_normalizers; i++) {
        const struct cabe_step *s = &t->normalizers[i];

        if (s->kind == CABE_NORM_REPLACE && has_space(t, s->a, s->a_bytes))
            return CABE_CUT_NONE;
        if (s->kind == CABE_NORM_REPLACE_RUN && s->number < 2 && has_space(t, s->b, s->b_bytes) == 0)
            return CABE_CUT_NONE;
    }
    for (size_t i = 0; i < t->n_pretokenizers; i++) {
        const struct cabe_step *s = &t->pretokenizers[i];

        if (s->kind == CABE_PRE_BERT || s->kind == CABE_PRE_WHITESPACE_SPLIT || s->kind == CABE_PRE_WHITESPACE ||
            ((s->kind == CABE_PRE_METASPACE || s->kind == CABE_PRE_SPACES) && (s->flags & CABE_META_SPLIT)))
            cuts = CABE_CUT_WORDS;
        cut = s->kind == CABE_PRE_SPLIT ? cabe_split_cuts((enum cabe_split_rule)s->number) : CABE_CUT_NONE;
        cuts = cut > cuts ? cut : cuts;
        by_pairs |= s->kind == CABE_PRE_SPACES && (s->flags & CABE_META_WORDS);
    }
    if (cuts == CABE_CUT_NONE && by_pairs)
        return added_looks_around(t) ? CABE_CUT_NONE : CABE_CUT_PAIRS;
    return added_spans_space(t) ? CABE_CUT_NONE : cuts;
}

static void find_continuing(struct cabe_tokenizer *t)
{
    const struct cabe_block_header *header = t->header;
    int32_t value;

    if (!t->trie)
        return;
    t->continuing_state = cabe_trie_root(t->trie);
    t->has_continuing = 1;
    for (uint32_t i = 0; i < header->prefix_bytes && t->has_continuing; i++)
        t->has_continuing = cabe_trie_step(t->trie, &t->continuing_state, t->strings[header->prefix + i], &value);
}

enum cabe_status cabe_tokenizer_open(struct cabe_tokenizer **out, const void *block, size_t bytes, const char *name,
                                     struct cabe_error *err)
{
    const struct cabe_block_header *header = block;
    struct cabe_tokenizer *t;
    enum cabe_status status;
    size_t string_bytes;

    *out = NULL;
    if ((uintptr_t)block % 8 != 0)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: compiled tokenizer: not aligned to 8", name);
    status = check_header(header, bytes, name, err);
    if (status == CABE_OK)
        status = check_sections(header, name, err);
    if (status != CABE_OK)
        return status;
    if (!(t = cabe_calloc(1, sizeof *t)))
        return cabe_fail(err, CABE_ERR_OOM, "tokenizer handle");
    t->header = header;
    status = open_tokens(t, name, err);
    if (status == CABE_OK)
        status = open_steps(t, name, err);
    if (status == CABE_OK)
        status = open_added(t, name, err);
    (void)section(header, CABE_SECTION_STRINGS, &string_bytes);
    if (status == CABE_OK &&
        (header->prefix > string_bytes || header->prefix_bytes > string_bytes - header->prefix))
        status = damaged(name, "mark of continuing pieces", err);
    if (status != CABE_OK) {
        cabe_tokenizer_close(t);
        return status;
    }
    find_continuing(t);
    fill_ascii(t);
    t->may_cut = may_cut(t);
    *out = t;
    return CABE_OK;
}

void cabe_tokenizer_close(struct cabe_tokenizer *tokenizer)
{
    cabe_free(tokenizer);
}

int32_t cabe_tokenizer_n_tokens(const struct cabe_tokenizer *tokenizer)
{
    return (int32_t)tokenizer->header->n_tokens;
}

const char *cabe_tokenizer_token(const struct cabe_tokenizer *tokenizer, int32_t id, size_t *bytes)
{
    uint32_t begin;

    *bytes = 0;
    if (!is_id(tokenizer->header, id))
        return NULL;
    begin = id > 0 ? tokenizer->token_ends[id - 1] : 0;
    *bytes = tokenizer->token_ends[id] - begin;
    return tokenizer->tokens ? (const char *)tokenizer->tokens + begin : "";
}

int32_t cabe_tokenizer_find(const struct cabe_tokenizer *tokenizer, const char *token, size_t bytes)
{
    int32_t id = -1;

    if (bytes > 0 && tokenizer->trie) {
        id = cabe_trie_find(tokenizer->trie, token, bytes);
    } else if (bytes > 0) {
        const struct cabe_word *word = cabe_word_find(tokenizer, (const uint8_t *)token, bytes);

        id = word ? (int32_t)(word->id_bytes >> 8) : -1;
    }

    for (size_t i = 0; id < 0 && bytes > 0 && i < tokenizer->n_added; i++) {
        size_t n;
        const char *text = cabe_tokenizer_token(tokenizer, tokenizer->added[i].id, &n);

        if (n == bytes && memcmp(text, token, n) == 0)
            id = tokenizer->added[i].id;
    }
    return id;
}

size_t cabe_tokenizer_truncation(const struct cabe_tokenizer *tokenizer)
{
    return (size_t)tokenizer->header->truncate_tokens;
}

size_t cabe_tokenizer_n_special(const struct cabe_tokenizer *tokenizer)
{
    return tokenizer->header->n_before + tokenizer->header->n_after;
}

int32_t cabe_tokenizer_special(const struct cabe_tokenizer *tokenizer, enum cabe_token_role role)
{
    return (unsigned)role < CABE_N_TOKEN_ROLES ? tokenizer->header->roles[role] : -1;
}

int cabe_tokenizer_is_end(const struct cabe_tokenizer *tokenizer, int32_t id)
{
    for (uint32_t i = 0; i < tokenizer->header->n_ends; i++)
        if (tokenizer->header->ends[i] == id)
            return 1;
    return 0;
}

int cabe_tokenizer_is_special(const struct cabe_tokenizer *tokenizer, int32_t id)
{
    return is_id(tokenizer->header, id) && (tokenizer->kinds[id] & CABE_KIND_SPECIAL) != 0;
}

int cabe_tokenizer_adds_bos(const struct cabe_tokenizer *tokenizer)
{
    const struct cabe_block_header *header = tokenizer->header;

    return header->n_before > 0 && header->before[0] == header->roles[CABE_TOKEN_BOS];
}

const char *cabe_tokenizer_chat_template(const struct cabe_tokenizer *tokenizer, size_t *bytes)
{
    *bytes = tokenizer->chat_template_bytes;
    return tokenizer->chat_template;
}
