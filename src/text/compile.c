#include <string.h>

#include "base/arena.h"
#include "base/memory.h"
#include "text/sentences.h"
#include "text/spec.h"
#include "text/unicode.h"
#include "text/work.h"

#define TEMPLATE_BYTES_MAX (16u << 20)

struct cabe_spec cabe_spec_new(const char *name)
{
    struct cabe_spec spec = {.name = name, .unk_id = -1};

    for (int i = 0; i < CABE_N_TOKEN_ROLES; i++)
        spec.roles[i] = -1;
    return spec;
}

void cabe_spec_clear(struct cabe_spec *spec)
{
    cabe_free(spec->tokens);
    cabe_free(spec->pool);
    cabe_free(spec->added);
    cabe_free(spec->merges);
    cabe_free(spec->strings);
    cabe_free(spec->charsmap);
    *spec = (struct cabe_spec){0};
}

enum cabe_status cabe_spec_token(struct cabe_spec *spec, int64_t id, struct cabe_spec_token **token,
                                 struct cabe_error *err)
{
    if (id < 0 || id >= (int64_t)CABE_SPEC_TOKENS_MAX)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: token id %lld: wanted 0 to %u", spec->name, (long long)id,
                         CABE_SPEC_TOKENS_MAX - 1);
    if ((size_t)id >= spec->token_capacity) {
        size_t capacity = spec->token_capacity ? spec->token_capacity : 1024;
        void *grown;

        while (capacity <= (size_t)id)
            capacity *= 2;
        grown = cabe_realloc(spec->tokens, capacity, sizeof *spec->tokens);
        if (!grown)
            return cabe_fail(err, CABE_ERR_OOM, "%s: %zu tokens", spec->name, capacity);
        spec->tokens = grown;
        memset(spec->tokens + spec->token_capacity, 0, (capacity - spec->token_capacity) * sizeof *spec->tokens);
        spec->token_capacity = capacity;
    }
    if ((size_t)id >= spec->n_tokens)
        spec->n_tokens = (size_t)id + 1;
    *token = &spec->tokens[id];
    return CABE_OK;
}

enum cabe_status cabe_spec_string(struct cabe_spec *spec, const char *text, size_t bytes, uint32_t *offset,
                                  struct cabe_error *err)
{
    char *grown;

    if (bytes > 1u << 20 || spec->n_strings > 1u << 24)
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: text of %zu bytes in a normaliser", spec->name, bytes);
    grown = cabe_realloc(spec->strings, spec->n_strings + bytes + 1, 1);
    if (!grown)
        return cabe_fail(err, CABE_ERR_OOM, "%s: text of %zu bytes", spec->name, bytes);
    spec->strings = grown;
    memcpy(grown + spec->n_strings, text, bytes);
    *offset = (uint32_t)spec->n_strings;
    spec->n_strings += bytes;
    return CABE_OK;
}

enum cabe_status cabe_spec_step(struct cabe_spec *spec, int is_normalizer, struct cabe_step step,
                                struct cabe_error *err)
{
    struct cabe_step *steps = is_normalizer ? spec->normalizers : spec->pretokenizers;
    size_t *n = is_normalizer ? &spec->n_normalizers : &spec->n_pretokenizers;

    if (*n == CABE_STEPS_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: more than %d %s", spec->name, CABE_STEPS_MAX,
                         is_normalizer ? "normalizers" : "pre_tokenizers");
    for (size_t i = 0; i < *n; i++)
        if (steps[i].kind == step.kind &&
            (is_normalizer ? step.kind == CABE_NORM_BERT || step.kind == CABE_NORM_PRECOMPILED
                           : step.kind == CABE_PRE_METASPACE || step.kind == CABE_PRE_SPACES))
            return cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: two %s of one kind", spec->name,
                             is_normalizer ? "normalizers" : "pre_tokenizers");
    steps[(*n)++] = step;
    return CABE_OK;
}

enum cabe_status cabe_spec_special(struct cabe_spec *spec, int is_after, int64_t id, struct cabe_error *err)
{
    uint32_t *n = is_after ? &spec->n_after : &spec->n_before;

    if (id < 0 || id >= (int64_t)spec->n_tokens)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: special token %lld of %zu", spec->name, (long long)id,
                         spec->n_tokens);
    if (*n == CABE_SPECIALS_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: more than %d special tokens on one side", spec->name,
                         CABE_SPECIALS_MAX);
    (is_after ? spec->after : spec->before)[(*n)++] = (int32_t)id;
    return CABE_OK;
}

int32_t cabe_spec_find(const struct cabe_spec *spec, const char *text, size_t bytes)
{
    for (size_t i = 0; i < spec->n_tokens; i++)
        if (spec->tokens[i].text && spec->tokens[i].bytes == bytes &&
            memcmp(spec->tokens[i].text, text, bytes) == 0)
            return (int32_t)i;
    return -1;
}

/* What is made before the block can be laid out. */
struct parts {
    struct cabe_trie_unit *trie, *added_trie, *normal_trie;
    size_t n_trie, n_added_trie, n_normal_trie;
    size_t token_bytes, token_bytes_max;
    double score_min;
    struct cabe_bpe_tables bpe;
};

static void parts_clear(struct parts *parts)
{
    cabe_free(parts->trie);
    cabe_free(parts->added_trie);
    cabe_free(parts->normal_trie);
    cabe_bpe_tables_clear(&parts->bpe);
}

static enum cabe_status build_bpe(struct cabe_spec *spec, struct parts *parts, struct cabe_error *err)
{
    enum cabe_status status = cabe_bpe_tables(spec, &parts->bpe, err);

    for (size_t i = 0; i < spec->n_tokens; i++)
        parts->token_bytes += spec->tokens[i].bytes;
    parts->token_bytes_max = parts->bpe.token_bytes_max;
    if (status == CABE_OK && parts->token_bytes > UINT32_MAX)
        status = cabe_fail(err, CABE_ERR_LIMIT, "%s: %zu bytes of tokens", spec->name, parts->token_bytes);
    return status;
}

static enum cabe_status build_model_trie(const struct cabe_spec *spec, struct parts *parts, struct cabe_error *err)
{
    struct cabe_trie_key *keys = cabe_calloc(spec->n_tokens, sizeof *keys);
    enum cabe_status status;
    size_t n = 0;

    if (!keys)
        return cabe_fail(err, CABE_ERR_OOM, "%s: %zu tokens", spec->name, spec->n_tokens);
    for (size_t i = 0; i < spec->n_tokens; i++) {
        const struct cabe_spec_token *token = &spec->tokens[i];

        parts->token_bytes += token->bytes;
        if (!token->text || token->is_added || token->bytes == 0 ||
            cabe_utf8_valid(token->text, token->bytes) != token->bytes)
            continue;
        if (token->bytes > CABE_TRIE_KEY_MAX) {
            cabe_free(keys);
            return cabe_fail(err, CABE_ERR_LIMIT, "%s: token %zu: %zu bytes, at most %d", spec->name, i,
                             token->bytes, CABE_TRIE_KEY_MAX);
        }
        keys[n++] = (struct cabe_trie_key){token->text, (uint32_t)token->bytes, (int32_t)i};
        if (token->bytes > parts->token_bytes_max)
            parts->token_bytes_max = token->bytes;
    }
    status = cabe_trie_build(keys, n, &parts->trie, &parts->n_trie, err);
    cabe_free(keys);
    if (status == CABE_OK && parts->token_bytes > UINT32_MAX)
        status = cabe_fail(err, CABE_ERR_LIMIT, "%s: %zu bytes of tokens", spec->name, parts->token_bytes);
    return status;
}

/* The trie of the added tokens that are matched in the text as it is (or, with texts, in normalised text). */
static enum cabe_status build_added_trie(const struct cabe_spec *spec, uint32_t normalized,
                                         const struct cabe_aligned *texts, struct cabe_trie_unit **units,
                                         size_t *n_units, struct cabe_error *err)
{
    struct cabe_trie_key *keys = cabe_calloc(spec->n_added, sizeof *keys);
    enum cabe_status status = CABE_OK;
    size_t n = 0;

    if (!keys)
        return cabe_fail(err, CABE_ERR_OOM, "%s: %zu added tokens", spec->name, spec->n_added);
    for (size_t i = 0; status == CABE_OK && i < spec->n_added; i++) {
        const char *text = texts ? (const char *)texts[i].bytes : spec->added[i].text;
        size_t bytes = texts ? texts[i].n : spec->added[i].bytes;

        if ((spec->added[i].flags & CABE_ADDED_NORMALIZED) != normalized || bytes == 0)
            continue;
        if (bytes > CABE_TRIE_KEY_MAX)
            status = cabe_fail(err, CABE_ERR_LIMIT, "%s: added token %zu: %zu bytes, at most %d", spec->name, i,
                               bytes, CABE_TRIE_KEY_MAX);
        else
            keys[n++] = (struct cabe_trie_key){text, (uint32_t)bytes, (int32_t)i};
    }
    if (status == CABE_OK && n > 0)
        status = cabe_trie_build(keys, n, units, n_units, err);
    cabe_free(keys);
    return status;
}

/* The block's pieces in their order: measures with arena->base NULL, places otherwise. */
static void place(struct cabe_arena *arena, const struct cabe_spec *spec, const struct parts *parts,
                  void *at[CABE_N_SECTIONS], uint64_t sizes[CABE_N_SECTIONS])
{
    const struct {
        uint64_t n, item_bytes;
    } wanted[CABE_N_SECTIONS] = {
        [CABE_SECTION_TOKENS] = {parts->token_bytes, 1},
        [CABE_SECTION_TOKEN_ENDS] = {spec->n_tokens, sizeof(uint32_t)},
        [CABE_SECTION_SCORES] = {spec->model == CABE_MODEL_UNIGRAM ? spec->n_tokens : 0,
                                 spec->flags & CABE_FLAG_SCORES_F32 ? sizeof(float) : sizeof(double)},
        [CABE_SECTION_TRIE] = {parts->n_trie, sizeof *parts->trie},
        [CABE_SECTION_ADDED] = {spec->n_added, sizeof(struct cabe_added)},
        [CABE_SECTION_ADDED_TRIE] = {parts->n_added_trie, sizeof *parts->trie},
        [CABE_SECTION_NORMAL_TRIE] = {parts->n_normal_trie, sizeof *parts->trie},
        [CABE_SECTION_NORMALIZERS] = {spec->n_normalizers, sizeof(struct cabe_step)},
        [CABE_SECTION_PRETOKENIZERS] = {spec->n_pretokenizers, sizeof(struct cabe_step)},
        [CABE_SECTION_STRINGS] = {spec->n_strings, 1},
        [CABE_SECTION_CHARSMAP] = {spec->charsmap_bytes, 1},
        [CABE_SECTION_CHARACTERS] = {CABE_CHARACTERS, sizeof(uint32_t)},
        [CABE_SECTION_KINDS] = {spec->n_tokens, 1},
        [CABE_SECTION_TEMPLATE] = {spec->chat_template_bytes, 1},
        [CABE_SECTION_WORDS] = {parts->bpe.n_words, sizeof *parts->bpe.words},
        [CABE_SECTION_MERGES] = {parts->bpe.n_merges, sizeof *parts->bpe.merges},
        [CABE_SECTION_CLASSES] = {parts->bpe.classes_bytes, 1},
        [CABE_SECTION_PAIRS] = {parts->bpe.pair_bytes, 1},
    };

    cabe_arena_take(arena, 1, sizeof(struct cabe_block_header), 8);
    for (int i = 0; i < CABE_N_SECTIONS; i++) {
        at[i] = cabe_arena_take(arena, wanted[i].n, wanted[i].item_bytes, 8);
        sizes[i] = wanted[i].n * wanted[i].item_bytes;
    }
    cabe_arena_take(arena, 0, 1, 8);
}

static void fill_characters(const struct cabe_spec *spec, uint32_t *entries)
{
    uint32_t flags = 0;

    for (size_t i = 0; i < spec->n_normalizers; i++)
        if (spec->normalizers[i].kind == CABE_NORM_BERT)
            flags = spec->normalizers[i].flags;
    for (uint32_t c = 0; c < CABE_CHARACTERS; c++)
        entries[c] = (flags ? cabe_bert_character(c, flags) : c) |
                     (cabe_char_is_space(c) ? CABE_CHARACTER_SPACE : 0) |
                     (cabe_char_is_bert_punctuation(c) ? CABE_CHARACTER_PUNCTUATION : 0) |
                     (cabe_char_is_plain(c) ? CABE_CHARACTER_PLAIN : 0);
}

static void fill_tokens(const struct cabe_spec *spec, char *text, uint32_t *ends, void *scores)
{
    uint32_t end = 0;

    for (size_t i = 0; i < spec->n_tokens; i++) {
        const struct cabe_spec_token *token = &spec->tokens[i];

        if (token->bytes > 0)
            memcpy(text + end, token->text, token->bytes);
        end += (uint32_t)token->bytes;
        ends[i] = end;
        if (spec->model != CABE_MODEL_UNIGRAM)
            continue;
        if (spec->flags & CABE_FLAG_SCORES_F32)
            ((float *)scores)[i] = (float)token->score;
        else
            ((double *)scores)[i] = token->score;
    }
}

static void copy(void *to, const void *from, uint64_t bytes)
{
    if (bytes > 0)
        memcpy(to, from, (size_t)bytes);
}

static void fill_sections(const struct cabe_spec *spec, const struct parts *parts, void *const at[CABE_N_SECTIONS],
                          const uint64_t sizes[CABE_N_SECTIONS])
{
    struct cabe_added *added = at[CABE_SECTION_ADDED];
    uint8_t *kinds = at[CABE_SECTION_KINDS];

    fill_tokens(spec, at[CABE_SECTION_TOKENS], at[CABE_SECTION_TOKEN_ENDS], at[CABE_SECTION_SCORES]);
    for (size_t i = 0; i < spec->n_added; i++) {
        added[i] = (struct cabe_added){spec->added[i].id, spec->added[i].flags};
        kinds[added[i].id] |=
            (uint8_t)(CABE_KIND_ADDED | (added[i].flags & CABE_ADDED_SPECIAL ? CABE_KIND_SPECIAL : 0));
    }
    copy(at[CABE_SECTION_TRIE], parts->trie, sizes[CABE_SECTION_TRIE]);
    copy(at[CABE_SECTION_ADDED_TRIE], parts->added_trie, sizes[CABE_SECTION_ADDED_TRIE]);
    copy(at[CABE_SECTION_NORMAL_TRIE], parts->normal_trie, sizes[CABE_SECTION_NORMAL_TRIE]);
    copy(at[CABE_SECTION_WORDS], parts->bpe.words, sizes[CABE_SECTION_WORDS]);
    copy(at[CABE_SECTION_MERGES], parts->bpe.merges, sizes[CABE_SECTION_MERGES]);
    copy(at[CABE_SECTION_CLASSES], parts->bpe.classes, sizes[CABE_SECTION_CLASSES]);
    copy(at[CABE_SECTION_PAIRS], parts->bpe.pairs, sizes[CABE_SECTION_PAIRS]);
    copy(at[CABE_SECTION_NORMALIZERS], spec->normalizers, sizes[CABE_SECTION_NORMALIZERS]);
    copy(at[CABE_SECTION_PRETOKENIZERS], spec->pretokenizers, sizes[CABE_SECTION_PRETOKENIZERS]);
    copy(at[CABE_SECTION_STRINGS], spec->strings, sizes[CABE_SECTION_STRINGS]);
    copy(at[CABE_SECTION_TEMPLATE], spec->chat_template, sizes[CABE_SECTION_TEMPLATE]);
    copy(at[CABE_SECTION_CHARSMAP], spec->charsmap, sizes[CABE_SECTION_CHARSMAP]);
    fill_characters(spec, at[CABE_SECTION_CHARACTERS]);
}

static void fill_header(const struct cabe_spec *spec, const struct parts *parts, struct cabe_block_header *header,
                        uint8_t *kinds)
{
    header->magic = CABE_BLOCK_MAGIC;
    header->version = CABE_BLOCK_VERSION;
    header->header_bytes = sizeof *header;
    header->model = spec->model;
    header->flags = spec->flags;
    header->n_tokens = (uint32_t)spec->n_tokens;
    header->token_bytes_max = (uint32_t)parts->token_bytes_max;
    header->unk_id = spec->unk_id;
    header->word_characters_max = spec->word_characters_max;
    header->prefix = spec->prefix;
    header->prefix_bytes = spec->prefix_bytes;
    header->score_min = parts->score_min;
    header->truncate_tokens = spec->truncate_tokens;
    header->n_before = spec->n_before;
    header->n_after = spec->n_after;
    memcpy(header->before, spec->before, sizeof header->before);
    memcpy(header->after, spec->after, sizeof header->after);
    memcpy(header->roles, spec->roles, sizeof header->roles);
    memcpy(header->ends, spec->ends, sizeof header->ends);
    header->n_ends = spec->n_ends;
    for (int i = 0; i < 256; i++) {
        char name[7] = "<0x00>";

        name[3] = "0123456789ABCDEF"[i / 16];
        name[4] = "0123456789ABCDEF"[i % 16];
        if (spec->model == CABE_MODEL_BPE)
            header->byte_ids[i] = parts->bpe.byte_ids[i];
        else
            header->byte_ids[i] =
                spec->flags & CABE_FLAG_BYTE_FALLBACK ? cabe_trie_find(parts->trie, name, 6) : CABE_TRIE_NONE;
        if (header->byte_ids[i] >= 0 && (spec->flags & CABE_FLAG_BYTE_FALLBACK))
            kinds[header->byte_ids[i]] |= CABE_KIND_BYTE;
    }
}

void cabe_block_seal(struct cabe_block_header *header)
{
    for (int i = 0; i < CABE_N_SECTIONS; i++) {
        struct cabe_block_section *s = &header->sections[i];

        s->checksum = cabe_block_checksum((const uint8_t *)header + s->offset, (size_t)s->bytes);
    }
    header->header_checksum = 0;
    header->header_checksum = cabe_block_checksum(header, sizeof *header);
}

static enum cabe_status lay_out(const struct cabe_spec *spec, const struct parts *parts, void **block, size_t *bytes,
                                struct cabe_error *err)
{
    struct cabe_arena arena = {0};
    void *at[CABE_N_SECTIONS];
    uint64_t sizes[CABE_N_SECTIONS];
    struct cabe_block_header *header;

    place(&arena, spec, parts, at, sizes);
    header = arena.used_bytes < SIZE_MAX ? cabe_calloc(1, (size_t)arena.used_bytes) : NULL;
    if (!header)
        return cabe_fail(err, CABE_ERR_OOM, "%s: compiled tokenizer of %llu bytes", spec->name,
                         (unsigned long long)arena.used_bytes);
    arena = (struct cabe_arena){(uint8_t *)header, 0, arena.used_bytes};
    place(&arena, spec, parts, at, sizes);
    fill_header(spec, parts, header, at[CABE_SECTION_KINDS]);
    fill_sections(spec, parts, at, sizes);
    header->bytes = arena.used_bytes;
    for (int i = 0; i < CABE_N_SECTIONS; i++) {
        header->sections[i].bytes = sizes[i];
        header->sections[i].offset = (uint64_t)((uint8_t *)at[i] - (uint8_t *)header);
    }
    cabe_block_seal(header);
    *block = header;
    *bytes = (size_t)arena.used_bytes;
    return CABE_OK;
}

/* Normalises one added token's text with the tokenizer that is being made. */
static enum cabe_status normalize_added(const struct cabe_tokenizer *tokenizer, struct cabe_encode_work *work,
                                        const struct cabe_spec_added *added, struct cabe_aligned *text,
                                        struct cabe_error *err)
{
    struct cabe_piece piece = {(const uint8_t *)added->text, NULL, added->bytes, 0};
    enum cabe_status status;

    work->output_max = 64 * added->bytes + 4096;
    status = cabe_normalize(tokenizer, work, &piece, 1, 1, err);
    if (status == CABE_OK)
        status = cabe_aligned_reserve(text, piece.n, err);
    if (status == CABE_OK) {
        memcpy(text->bytes, piece.bytes, piece.n);
        text->n = piece.n;
    }
    return status;
}

/* Lays out once more, with the trie of added tokens that are found after normalising. */
static enum cabe_status add_normalized(const struct cabe_spec *spec, struct parts *parts, void **block,
                                       size_t *bytes, struct cabe_error *err)
{
    struct cabe_aligned *texts = cabe_calloc(spec->n_added, sizeof *texts);
    struct cabe_encoding encoding = {.work = cabe_calloc(1, sizeof(struct cabe_encode_work))};
    struct cabe_tokenizer *tokenizer = NULL;
    enum cabe_status status = cabe_fail(err, CABE_ERR_OOM, "%s: %zu added tokens", spec->name, spec->n_added);

    if (texts && encoding.work)
        status = cabe_tokenizer_open(&tokenizer, *block, *bytes, spec->name, err);
    for (size_t i = 0; status == CABE_OK && i < spec->n_added; i++)
        if (spec->added[i].flags & CABE_ADDED_NORMALIZED)
            status = normalize_added(tokenizer, encoding.work, &spec->added[i], &texts[i], err);
    cabe_tokenizer_close(tokenizer);
    cabe_encoding_clear(&encoding);
    if (status == CABE_OK)
        status = build_added_trie(spec, CABE_ADDED_NORMALIZED, texts, &parts->normal_trie, &parts->n_normal_trie,
                                  err);
    for (size_t i = 0; texts && i < spec->n_added; i++) {
        cabe_free(texts[i].bytes);
        cabe_free(texts[i].align);
    }
    cabe_free(texts);
    cabe_free(*block);
    *block = NULL;
    return status == CABE_OK ? lay_out(spec, parts, block, bytes, err) : status;
}

static enum cabe_status check_spec(struct cabe_spec *spec, struct parts *parts, struct cabe_error *err)
{
    int are_f32 = 1, has_scores = spec->model == CABE_MODEL_UNIGRAM || (spec->flags & CABE_FLAG_BY_SCORE);

    if (spec->chat_template_bytes > TEMPLATE_BYTES_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: chat template of %zu bytes, at most %u", spec->name,
                         spec->chat_template_bytes, TEMPLATE_BYTES_MAX);
    if (spec->n_tokens == 0)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: no tokens", spec->name);
    if (spec->unk_id == -1 && spec->model == CABE_MODEL_BPE)
        ; /* it may do without */
    else if (spec->unk_id < 0 || (size_t)spec->unk_id >= spec->n_tokens)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: unknown token %d of %zu", spec->name, spec->unk_id,
                         spec->n_tokens);
    parts->score_min = 0;
    for (size_t i = 0, n = 0; i < spec->n_tokens && has_scores; i++) {
        double score = spec->tokens[i].score;

        if (!spec->tokens[i].text || spec->tokens[i].is_added)
            continue;
        if (!(score >= -1e30 && score <= 1e30))
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: token %zu: score %g", spec->name, i, score);
        if (n++ == 0 || score < parts->score_min)
            parts->score_min = score;
        are_f32 &= (double)(float)score == score;
    }
    if (are_f32)
        spec->flags |= CABE_FLAG_SCORES_F32;
    return CABE_OK;
}

enum cabe_status cabe_spec_compile(struct cabe_spec *spec, void **block, size_t *bytes, struct cabe_error *err)
{
    struct parts parts = {0};
    enum cabe_status status = check_spec(spec, &parts, err);
    uint32_t normalized = 0;

    *block = NULL;
    *bytes = 0;
    for (size_t i = 0; i < spec->n_added; i++)
        normalized |= spec->added[i].flags & CABE_ADDED_NORMALIZED;
    if (status == CABE_OK)
        status = spec->model == CABE_MODEL_BPE ? build_bpe(spec, &parts, err) : build_model_trie(spec, &parts, err);
    if (status == CABE_OK)
        status = build_added_trie(spec, 0, NULL, &parts.added_trie, &parts.n_added_trie, err);
    if (status == CABE_OK)
        status = lay_out(spec, &parts, block, bytes, err);
    if (status == CABE_OK && normalized)
        status = add_normalized(spec, &parts, block, bytes, err);
    if (status == CABE_OK && spec->model == CABE_MODEL_BPE)
        status = cabe_bpe_mark_whole(*block, *bytes, spec->name, err);
    parts_clear(&parts);
    if (status != CABE_OK) {
        cabe_free(*block);
        *block = NULL;
    }
    if (status != CABE_OK)
        *bytes = 0;
    return status;
}
