/* Reads the tokenizer.ggml.* fields of a GGUF file, and chooses the reader for a source. */
#include <string.h>

#include "base/memory.h"
#include "text/bpe.h"
#include "text/sentences.h"
#include "text/spec.h"

#define KEY(name) "tokenizer.ggml." name

enum token_type { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER_DEFINED, TYPE_UNUSED, TYPE_BYTE };

static const char phantom_space[] = "\xE2\x96\x81"; /* before tokens that begin a word */

static int64_t type_at(const struct cabe_source *source, uint64_t i)
{
    int64_t type = TYPE_NORMAL;

    cabe_source_array_i64(source, KEY("token_type"), i, &type);
    return type;
}

static enum cabe_status read_tokens(struct cabe_spec *spec, const struct cabe_source *source, struct cabe_error *err)
{
    uint64_t n = 0, n_scores = 0;
    int has_scores = cabe_source_get_array(source, KEY("scores"), &n_scores);
    int wants_scores = spec->model == CABE_MODEL_UNIGRAM || (spec->flags & CABE_FLAG_BY_SCORE);

    if (!cabe_source_get_array(source, KEY("tokens"), &n) || n == 0 || n > CABE_SPEC_TOKENS_MAX)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: " KEY("tokens") ": %llu tokens, wanted 1 to %u", spec->name,
                         (unsigned long long)n, CABE_SPEC_TOKENS_MAX);
    if (wants_scores && (!has_scores || n_scores != n))
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: " KEY("scores") ": %llu, wanted %llu as of tokens", spec->name,
                         (unsigned long long)n_scores, (unsigned long long)n);
    for (uint64_t i = 0; i < n; i++) {
        struct cabe_spec_token *token;
        enum cabe_status status = cabe_spec_token(spec, (int64_t)i, &token, err);

        if (status != CABE_OK)
            return status;
        if (!cabe_source_array_string(source, KEY("tokens"), i, &token->text, &token->bytes) ||
            (wants_scores &&
             !cabe_source_array_f64(source, KEY("scores"), i, &token->score)))
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: token %llu: wanted a string and a score", spec->name,
                             (unsigned long long)i);
    }
    return CABE_OK;
}

/* Unigram models' mask takes the space before it; GGUF has no field for that. */
static int is_mask(const struct cabe_spec_token *token)
{
    return token->bytes == 6 && memcmp(token->text, "<mask>", 6) == 0;
}

/* Control tokens and the person's own are found in the text as it is. */
static enum cabe_status read_added(struct cabe_spec *spec, const struct cabe_source *source, struct cabe_error *err)
{
    size_t n = 0;

    for (size_t i = 0; i < spec->n_tokens; i++) {
        int64_t type = type_at(source, i);

        n += type == TYPE_CONTROL || type == TYPE_USER_DEFINED || type == TYPE_UNKNOWN;
    }
    if (!(spec->added = cabe_calloc(n, sizeof *spec->added)))
        return cabe_fail(err, CABE_ERR_OOM, "%s: %zu added tokens", spec->name, n);
    for (size_t i = 0; i < spec->n_tokens && spec->n_added < n; i++) {
        const struct cabe_spec_token *token = &spec->tokens[i];
        int64_t type = type_at(source, i);

        if ((type != TYPE_CONTROL && type != TYPE_USER_DEFINED && type != TYPE_UNKNOWN) || token->bytes == 0)
            continue;
        spec->added[spec->n_added++] =
            (struct cabe_spec_added){token->text, token->bytes, (int32_t)i,
                                     (type == TYPE_USER_DEFINED ? 0 : CABE_ADDED_SPECIAL) |
                                         (is_mask(token) ? CABE_ADDED_LSTRIP : 0)};
    }
    return CABE_OK;
}

static int64_t id_field(const struct cabe_source *source, const char *key, const char *other_key, int64_t otherwise)
{
    int64_t id = otherwise;

    if (!cabe_source_get_i64(source, key, &id) && other_key)
        cabe_source_get_i64(source, other_key, &id);
    return id;
}

static int begins(const struct cabe_spec_token *token, const char *with)
{
    size_t n = strlen(with);

    return token->bytes >= n && memcmp(token->text, with, n) == 0;
}

static int is_bracketed(const struct cabe_spec_token *token)
{
    return token->bytes >= 2 && token->text[0] == '[' && token->text[token->bytes - 1] == ']';
}

/* From tokens that say where a word begins to tokens that say where one goes on: "_he", "llo" to "he", "##llo". */
static enum cabe_status undo_phantom_space(struct cabe_spec *spec, struct cabe_error *err)
{
    size_t total = 0, n_phantom = 0, n = 0;

    for (size_t i = 0; i < spec->n_tokens; i++) {
        total += spec->tokens[i].bytes + 2;
        n_phantom += (size_t)begins(&spec->tokens[i], phantom_space);
    }
    if (n_phantom == 0)
        return CABE_OK;
    if (!(spec->pool = cabe_malloc(total)))
        return cabe_fail(err, CABE_ERR_OOM, "%s: %zu bytes of tokens", spec->name, total);
    for (size_t i = 0; i < spec->n_tokens; i++) {
        struct cabe_spec_token *token = &spec->tokens[i];

        if (begins(token, phantom_space)) {
            token->text += 3;
            token->bytes -= 3;
        } else if (!is_bracketed(token)) {
            memcpy(spec->pool + n, "##", 2);
            memcpy(spec->pool + n + 2, token->text, token->bytes);
            token->text = spec->pool + n;
            token->bytes += 2;
            n += token->bytes;
        }
    }
    return CABE_OK;
}

/* GGUF does not say whether a WordPiece model is cased; its vocabulary does. */
static int is_cased(const struct cabe_spec *spec)
{
    size_t n_upper = 0;

    for (size_t i = 0; i < spec->n_tokens; i++)
        for (size_t k = 0; k < spec->tokens[i].bytes && !is_bracketed(&spec->tokens[i]); k++)
            if (spec->tokens[i].text[k] >= 'A' && spec->tokens[i].text[k] <= 'Z') {
                n_upper++;
                break;
            }
    return n_upper > spec->n_tokens / 100;
}

static enum cabe_status read_bert(struct cabe_spec *spec, const struct cabe_source *source, struct cabe_error *err)
{
    struct cabe_step normalizer = {.kind = CABE_NORM_BERT, .flags = CABE_BERT_CLEAN | CABE_BERT_CJK};
    int64_t cls, sep;
    enum cabe_status status = undo_phantom_space(spec, err);

    if (status != CABE_OK)
        return status;
    if (!is_cased(spec))
        normalizer.flags |= CABE_BERT_LOWERCASE | CABE_BERT_STRIP_ACCENTS;
    spec->unk_id = (int32_t)id_field(source, KEY("unknown_token_id"), NULL, cabe_spec_find(spec, "[UNK]", 5));
    spec->word_characters_max = 100;
    spec->prefix_bytes = 2;
    status = cabe_spec_string(spec, "##", 2, &spec->prefix, err);
    if (status == CABE_OK)
        status = cabe_spec_step(spec, 1, normalizer, err);
    if (status == CABE_OK)
        status = cabe_spec_step(spec, 0, (struct cabe_step){.kind = CABE_PRE_BERT}, err);
    cls = id_field(source, KEY("cls_token_id"), KEY("bos_token_id"), cabe_spec_find(spec, "[CLS]", 5));
    /* "seperator" is how GGUF spells it */
    sep = id_field(source, KEY("seperator_token_id"), KEY("eos_token_id"), cabe_spec_find(spec, "[SEP]", 5));
    if (status == CABE_OK)
        status = cabe_spec_special(spec, 0, cls, err);
    return status == CABE_OK ? cabe_spec_special(spec, 1, sep, err) : status;
}

static enum cabe_status read_charsmap(struct cabe_spec *spec, const struct cabe_source *source,
                                      struct cabe_error *err)
{
    struct cabe_charsmap map;
    uint64_t n = 0;

    if (!cabe_source_get_array(source, KEY("precompiled_charsmap"), &n) || n == 0)
        return CABE_OK;
    if (n > 1u << 26 || !(spec->charsmap = cabe_malloc((size_t)n)))
        return cabe_fail(err, CABE_ERR_OOM, "%s: " KEY("precompiled_charsmap") " of %llu bytes", spec->name,
                         (unsigned long long)n);
    for (uint64_t i = 0; i < n; i++) {
        int64_t byte;

        if (!cabe_source_array_i64(source, KEY("precompiled_charsmap"), i, &byte))
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: " KEY("precompiled_charsmap") ": wanted bytes", spec->name);
        spec->charsmap[i] = (uint8_t)byte;
    }
    spec->charsmap_bytes = (size_t)n;
    if (!cabe_charsmap_open(&map, spec->charsmap, spec->charsmap_bytes))
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: " KEY("precompiled_charsmap") ": %llu bytes that are not one",
                         spec->name, (unsigned long long)n);
    return cabe_spec_step(spec, 1, (struct cabe_step){.kind = CABE_NORM_PRECOMPILED}, err);
}

static enum cabe_status read_unigram(struct cabe_spec *spec, const struct cabe_source *source,
                                     struct cabe_error *err)
{
    struct cabe_step meta = {.kind = CABE_PRE_METASPACE, .flags = CABE_META_SPLIT, .a_bytes = 3};
    int adds_space = 1, removes_spaces = 1, adds_bos = 0, adds_eos = 1;
    enum cabe_status status = read_charsmap(spec, source, err);

    cabe_source_get_bool(source, KEY("add_space_prefix"), &adds_space);
    cabe_source_get_bool(source, KEY("remove_extra_whitespaces"), &removes_spaces);
    cabe_source_get_bool(source, KEY("add_bos_token"), &adds_bos);
    cabe_source_get_bool(source, KEY("add_eos_token"), &adds_eos);
    spec->unk_id = (int32_t)id_field(source, KEY("unknown_token_id"), NULL, cabe_spec_find(spec, "<unk>", 5));
    for (size_t i = 0; i < spec->n_tokens; i++)
        if (type_at(source, i) == TYPE_BYTE)
            spec->flags |= CABE_FLAG_BYTE_FALLBACK;
    if (adds_space)
        meta.flags |= CABE_META_PREPEND_ALWAYS;
    if (status == CABE_OK && removes_spaces)
        status = cabe_spec_step(spec, 0, (struct cabe_step){.kind = CABE_PRE_WHITESPACE_SPLIT}, err);
    if (status == CABE_OK)
        status = cabe_spec_string(spec, phantom_space, 3, &meta.a, err);
    if (status == CABE_OK)
        status = cabe_spec_step(spec, 0, meta, err);
    if (status == CABE_OK && adds_bos)
        status = cabe_spec_special(spec, 0, id_field(source, KEY("bos_token_id"), KEY("cls_token_id"), -1), err);
    if (status == CABE_OK && adds_eos)
        status = cabe_spec_special(spec, 1, id_field(source, KEY("eos_token_id"), KEY("seperator_token_id"), -1),
                                   err);
    return status;
}

/* "left right": the space is not the first character. */
static enum cabe_status read_merges(struct cabe_spec *spec, const struct cabe_source *source, struct cabe_error *err)
{
    uint64_t n = 0;

    if (!cabe_source_get_array(source, KEY("merges"), &n) || n >= CABE_SPEC_TOKENS_MAX)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: " KEY("merges") ": %llu, wanted up to %u", spec->name,
                         (unsigned long long)n, CABE_SPEC_TOKENS_MAX - 1);
    if (!(spec->merges = cabe_calloc((size_t)n, sizeof *spec->merges)))
        return cabe_fail(err, CABE_ERR_OOM, "%s: %llu merges", spec->name, (unsigned long long)n);
    for (uint64_t i = 0; i < n; i++) {
        const char *text, *space = NULL;
        size_t bytes;

        if (cabe_source_array_string(source, KEY("merges"), i, &text, &bytes) && bytes > 2)
            space = memchr(text + 1, ' ', bytes - 1);
        if (!space || bytes > UINT32_MAX)
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: " KEY("merges") ": %llu: wanted two tokens", spec->name,
                             (unsigned long long)i);
        spec->merges[i] = (struct cabe_spec_merge){text, space + 1, (uint32_t)(space - text),
                                                   (uint32_t)(bytes - 1 - (size_t)(space - text))};
    }
    spec->n_merges = (size_t)n;
    spec->first_merge_counts = 1;
    return CABE_OK;
}

static enum cabe_status add_ends(struct cabe_spec *spec, const struct cabe_source *source, int adds_bos, int adds_eos,
                                 struct cabe_error *err)
{
    int64_t bos = id_field(source, KEY("bos_token_id"), NULL, -1), eos = id_field(source, KEY("eos_token_id"), NULL, -1);
    enum cabe_status status = CABE_OK;

    cabe_source_get_bool(source, KEY("add_bos_token"), &adds_bos);
    cabe_source_get_bool(source, KEY("add_eos_token"), &adds_eos);
    if (adds_bos && bos >= 0)
        status = cabe_spec_special(spec, 0, bos, err);
    return status == CABE_OK && adds_eos && eos >= 0 ? cabe_spec_special(spec, 1, eos, err) : status;
}

static enum cabe_status read_byte_bpe(struct cabe_spec *spec, const struct cabe_source *source,
                                      struct cabe_error *err)
{
    const char *name = "default";
    size_t bytes = strlen(name);
    const struct cabe_pre *pre;
    enum cabe_status status;
    int puts_space = 0;

    cabe_source_get_string(source, KEY("pre"), &name, &bytes);
    if (!(pre = cabe_pre_find(name, bytes)))
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: " KEY("pre") " %.*s: not supported; supported: %s",
                         spec->name, (int)(bytes < 40 ? bytes : 40), name, cabe_pre_names);
    spec->flags |= pre->whole_words ? CABE_FLAG_WHOLE_WORDS : 0;
    spec->unk_id = (int32_t)id_field(source, KEY("unknown_token_id"), NULL, -1);
    status = cabe_source_array_load(source, KEY("merges"), err);
    if (status == CABE_OK)
        status = read_merges(spec, source, err);
    cabe_source_get_bool(source, KEY("add_space_prefix"), &puts_space);
    if (status == CABE_OK && puts_space)
        status = cabe_spec_step(
            spec, 0, (struct cabe_step){.kind = CABE_PRE_SPACES, .flags = CABE_META_PREPEND_BEGIN}, err);
    for (size_t i = 0; status == CABE_OK && i < CABE_SPLIT_STEPS_MAX && pre->rules[i]; i++)
        status = cabe_spec_step(spec, 0, (struct cabe_step){.kind = CABE_PRE_SPLIT, .number = pre->rules[i]}, err);
    return status == CABE_OK ? add_ends(spec, source, pre->adds_bos, 0, err) : status;
}

static enum cabe_status read_llama(struct cabe_spec *spec, const struct cabe_source *source, struct cabe_error *err)
{
    struct cabe_step marks = {.kind = CABE_NORM_REPLACE, .a_bytes = 3, .b_bytes = 1};
    struct cabe_step spaces = {.kind = CABE_PRE_SPACES, .flags = CABE_META_WORDS};
    int puts_space = 1;
    enum cabe_status status = cabe_spec_string(spec, phantom_space, 3, &marks.a, err);

    cabe_source_get_bool(source, KEY("add_space_prefix"), &puts_space);
    spec->has_marks = 1;
    spec->unk_id = (int32_t)id_field(source, KEY("unknown_token_id"), NULL, 0);
    if (puts_space) {
        spaces.flags |= CABE_META_PREPEND_BEGIN;
        spec->flags |= CABE_FLAG_FIRST_SPACE;
    }
    if (status == CABE_OK)
        status = cabe_spec_string(spec, " ", 1, &marks.b, err);
    if (status == CABE_OK)
        status = cabe_spec_step(spec, 1, marks, err);
    if (status == CABE_OK)
        status = cabe_spec_step(spec, 0, spaces, err);
    return status == CABE_OK ? add_ends(spec, source, 1, 0, err) : status;
}

static const struct {
    const char *name;
    enum cabe_tokenizer_model model;
    uint32_t flags;
    enum cabe_status (*read)(struct cabe_spec *spec, const struct cabe_source *source, struct cabe_error *err);
} readers[] = {
    {"bert", CABE_MODEL_WORDPIECE, 0, read_bert},
    {"t5", CABE_MODEL_UNIGRAM, 0, read_unigram},
    {"gpt2", CABE_MODEL_BPE, CABE_FLAG_BYTE_LEVEL, read_byte_bpe},
    {"llama", CABE_MODEL_BPE, CABE_FLAG_BY_SCORE | CABE_FLAG_BYTE_FALLBACK, read_llama},
};

static enum cabe_status read_gguf(struct cabe_spec *spec, const struct cabe_source *source, struct cabe_error *err)
{
    const char *model = NULL;
    size_t bytes = 0;
    enum cabe_status status;

    if (!cabe_source_get_string(source, KEY("model"), &model, &bytes))
        return cabe_fail(err, CABE_ERR_NOT_FOUND, "%s: no tokenizer: " KEY("model") " is absent", spec->name);
    for (size_t i = 0; i < sizeof readers / sizeof readers[0]; i++) {
        if (strlen(readers[i].name) != bytes || memcmp(readers[i].name, model, bytes) != 0)
            continue;
        spec->model = readers[i].model;
        spec->flags = readers[i].flags;
        status = read_tokens(spec, source, err);
        if (status == CABE_OK)
            status = readers[i].read(spec, source, err);
        return status == CABE_OK ? read_added(spec, source, err) : status;
    }
    return cabe_fail(err, CABE_ERR_UNSUPPORTED,
                     "%s: " KEY("model") " %.*s: not supported; supported: gpt2 (byte-level BPE), llama "
                     "(SentencePiece BPE), bert (WordPiece), t5 (unigram)",
                     spec->name, (int)(bytes < 40 ? bytes : 40), model);
}

/* A llama2.c checkpoint has its tokenizer beside it. */
static enum cabe_status compile_beside(const struct cabe_source *source, void **block, size_t *bytes,
                                       struct cabe_error *err)
{
    void *file;
    size_t file_bytes;
    int64_t n_vocab = 0;
    enum cabe_status status = cabe_source_tokenizer_file(source, &file, &file_bytes, err);

    if (status != CABE_OK)
        return status;
    cabe_source_get_i64(source, "llama.vocab_size", &n_vocab);
    status = cabe_tokenizer_compile_llama2c(file, file_bytes, (uint32_t)n_vocab, cabe_source_path(source), block, bytes,
                                            err);
    cabe_free(file);
    return status;
}

enum cabe_status cabe_tokenizer_compile(const struct cabe_source *source, void **block, size_t *bytes,
                                        struct cabe_error *err)
{
    const char *path = cabe_source_path(source);
    const json_t *document;
    struct cabe_spec spec = cabe_spec_new(path);
    enum cabe_status status;

    *block = NULL;
    *bytes = 0;
    if (cabe_source_kind(source) == CABE_SOURCE_LLAMA2C)
        return compile_beside(source, block, bytes, err);
    if (cabe_source_kind(source) != CABE_SOURCE_GGUF) {
        status = cabe_source_document_get(source, "tokenizer.json", &document, err);
        if (status == CABE_ERR_NOT_FOUND)
            return cabe_fail(err, status, "%s: no tokenizer.json beside the weights", path);
        if (status != CABE_OK) /* it is there and broken; the message names it */
            return status;
        spec.name = "tokenizer.json";
        status = cabe_spec_json(&spec, document, err);
        if (status == CABE_OK) {
            cabe_spec_roles(&spec, source);
            status = cabe_spec_compile(&spec, block, bytes, err);
        }
        cabe_spec_clear(&spec);
        return status == CABE_OK ? status : cabe_fail_in(err, status, "%s", path);
    }
    status = cabe_source_array_load(source, KEY("tokens"), err);
    if (status == CABE_ERR_NOT_FOUND) /* read_gguf() says what is missing */
        status = CABE_OK;
    if (status == CABE_OK)
        status = read_gguf(&spec, source, err);
    if (status == CABE_OK) {
        cabe_spec_roles(&spec, source);
        status = cabe_spec_compile(&spec, block, bytes, err);
    }
    cabe_spec_clear(&spec);
    return status;
}
