/* Reads Hugging Face's tokenizer.json. */
#include <string.h>

#include "base/memory.h"
#include "text/bpe.h"
#include "text/sentences.h"
#include "text/spec.h"
#include "text/unicode.h"

#define NESTING_MAX 8

static const char *string_or(const json_t *object, const char *key, const char *otherwise, size_t *bytes)
{
    const json_t *value = json_object_get(object, key);

    if (json_is_string(value)) {
        *bytes = json_string_length(value);
        return json_string_value(value);
    }
    *bytes = otherwise ? strlen(otherwise) : 0;
    return otherwise;
}

static int bool_or(const json_t *object, const char *key, int otherwise)
{
    const json_t *value = json_object_get(object, key);

    return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

static const char *type_of(const json_t *object)
{
    const char *type = json_string_value(json_object_get(object, "type"));

    return type ? type : "(none)";
}

static enum cabe_status unsupported(const struct cabe_spec *spec, const char *field, const char *found,
                                    const char *supported, struct cabe_error *err)
{
    return cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: %s %s: not supported; supported: %s", spec->name, field, found,
                     supported);
}

/* ---- model ---- */

/* {token: id} */
static enum cabe_status read_vocab(struct cabe_spec *spec, const json_t *model, struct cabe_error *err)
{
    json_t *vocab = json_object_get(model, "vocab"), *value;
    size_t limit = 2 * json_object_size(vocab) + 65536;
    const char *key;
    enum cabe_status status;

    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: model.vocab: wanted tokens and their ids", spec->name);
    json_object_foreach(vocab, key, value) {
        struct cabe_spec_token *token;

        if (!json_is_integer(value) || (uint64_t)json_integer_value(value) >= limit)
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: model.vocab: %.40s: wanted an id from 0 to %zu", spec->name,
                             key, limit - 1);
        status = cabe_spec_token(spec, json_integer_value(value), &token, err);
        if (status != CABE_OK)
            return status;
        if (token->text)
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: model.vocab: %.40s and %.40s have the id %lld", spec->name,
                             token->text, key, (long long)json_integer_value(value));
        *token = (struct cabe_spec_token){.text = key, .bytes = strlen(key)};
    }
    return CABE_OK;
}

static enum cabe_status read_wordpiece(struct cabe_spec *spec, const json_t *model, struct cabe_error *err)
{
    const json_t *max = json_object_get(model, "max_input_chars_per_word");
    enum cabe_status status = read_vocab(spec, model, err);
    const char *text;
    size_t bytes;

    if (status != CABE_OK)
        return status;
    text = string_or(model, "unk_token", "[UNK]", &bytes);
    spec->unk_id = cabe_spec_find(spec, text, bytes);
    if (spec->unk_id < 0)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: model.unk_token: %.40s is not in the vocabulary", spec->name,
                         text);
    spec->word_characters_max = 100;
    if (json_is_integer(max) && json_integer_value(max) >= 0)
        spec->word_characters_max =
            json_integer_value(max) < UINT32_MAX ? (uint32_t)json_integer_value(max) : UINT32_MAX;
    text = string_or(model, "continuing_subword_prefix", "##", &bytes);
    spec->prefix_bytes = (uint32_t)bytes;
    return cabe_spec_string(spec, text, bytes, &spec->prefix, err);
}

static enum cabe_status read_unigram(struct cabe_spec *spec, const json_t *model, struct cabe_error *err)
{
    const json_t *vocab = json_object_get(model, "vocab"), *unk = json_object_get(model, "unk_id");
    size_t n = json_array_size(vocab);

    if (!json_is_array(vocab) || n == 0)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: model.vocab: wanted pairs of token and score", spec->name);
    for (size_t i = 0; i < n; i++) {
        const json_t *pair = json_array_get(vocab, i);
        const json_t *text = json_array_get(pair, 0), *score = json_array_get(pair, 1);
        struct cabe_spec_token *token;
        enum cabe_status status;

        if (json_array_size(pair) != 2 || !json_is_string(text) || !json_is_number(score))
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: model.vocab[%zu]: wanted [token, score]", spec->name, i);
        status = cabe_spec_token(spec, (int64_t)i, &token, err);
        if (status != CABE_OK)
            return status;
        *token = (struct cabe_spec_token){json_string_value(text), json_string_length(text),
                                          json_number_value(score), 0};
    }
    if (!json_is_integer(unk) || json_integer_value(unk) < 0 || (uint64_t)json_integer_value(unk) >= n)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: model.unk_id: wanted 0 to %zu", spec->name, n - 1);
    spec->unk_id = (int32_t)json_integer_value(unk);
    if (bool_or(model, "byte_fallback", 0))
        spec->flags |= CABE_FLAG_BYTE_FALLBACK;
    return CABE_OK;
}

/* "left right", or both in an array. */
static enum cabe_status read_merges(struct cabe_spec *spec, const json_t *merges, struct cabe_error *err)
{
    size_t n = json_array_size(merges);

    if (!json_is_array(merges) || !(spec->merges = cabe_calloc(n, sizeof *spec->merges)))
        return cabe_fail(err, json_is_array(merges) ? CABE_ERR_OOM : CABE_ERR_FORMAT,
                         "%s: model.merges: wanted pairs of tokens (%zu)", spec->name, n);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(merges, i);
        const json_t *left = json_array_get(item, 0), *right = json_array_get(item, 1);
        const char *text = json_string_value(item), *space = text ? strchr(text, ' ') : NULL;
        struct cabe_spec_merge *merge = &spec->merges[spec->n_merges++];

        if (json_array_size(item) == 2 && json_string_length(left) < UINT32_MAX &&
            json_string_length(right) < UINT32_MAX)
            *merge = (struct cabe_spec_merge){json_string_value(left), json_string_value(right),
                                              (uint32_t)json_string_length(left), (uint32_t)json_string_length(right)};
        else if (space && strlen(text) < UINT32_MAX)
            *merge = (struct cabe_spec_merge){text, space + 1, (uint32_t)(space - text), (uint32_t)strlen(space + 1)};
        if (merge->left_bytes == 0 || merge->right_bytes == 0)
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: model.merges[%zu]: wanted two tokens", spec->name, i);
    }
    return CABE_OK;
}

static enum cabe_status read_bpe(struct cabe_spec *spec, const json_t *model, struct cabe_error *err)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const char *unk = json_string_value(json_object_get(model, "unk_token"));
    enum cabe_status status;

    for (int i = 0; i < 2; i++) {
        const char *affix = json_string_value(json_object_get(model, affixes[i]));

        if (affix && *affix)
            return unsupported(spec, affixes[i], affix, "none", err);
    }
    if (json_number_value(json_object_get(model, "dropout")) > 0)
        return unsupported(spec, "model.dropout", "above 0", "none", err);
    status = read_vocab(spec, model, err);
    if (status != CABE_OK)
        return status;
    if (unk)
        spec->unk_id = cabe_spec_find(spec, unk, strlen(unk));
    if (bool_or(model, "byte_fallback", 0))
        spec->flags |= CABE_FLAG_BYTE_FALLBACK;
    if (bool_or(model, "fuse_unk", 0))
        spec->flags |= CABE_FLAG_FUSE_UNK;
    if (bool_or(model, "ignore_merges", 0))
        spec->flags |= CABE_FLAG_WHOLE_WORDS;
    return read_merges(spec, json_object_get(model, "merges"), err);
}

static enum cabe_status read_model(struct cabe_spec *spec, const json_t *model, struct cabe_error *err)
{
    const char *type = json_string_value(json_object_get(model, "type"));

    if (!json_is_object(model))
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: model: wanted an object", spec->name);
    if (!type) /* old files do not say */
        type = json_is_array(json_object_get(model, "vocab"))                  ? "Unigram"
               : json_is_array(json_object_get(model, "merges"))               ? "BPE"
               : json_is_string(json_object_get(model, "continuing_subword_prefix")) ? "WordPiece"
                                                                               : "(none)";
    if (strcmp(type, "WordPiece") == 0) {
        spec->model = CABE_MODEL_WORDPIECE;
        return read_wordpiece(spec, model, err);
    }
    if (strcmp(type, "Unigram") == 0) {
        spec->model = CABE_MODEL_UNIGRAM;
        return read_unigram(spec, model, err);
    }
    if (strcmp(type, "BPE") == 0) {
        spec->model = CABE_MODEL_BPE;
        return read_bpe(spec, model, err);
    }
    return unsupported(spec, "model.type", type, "WordPiece, Unigram, BPE", err);
}

/* ---- added tokens ---- */

static enum cabe_status read_added(struct cabe_spec *spec, const json_t *list, struct cabe_error *err)
{
    size_t n = json_array_size(list), n_model = spec->n_tokens;
    enum cabe_status status = CABE_OK;

    if (n == 0)
        return CABE_OK;
    if (!(spec->added = cabe_calloc(n, sizeof *spec->added)))
        return cabe_fail(err, CABE_ERR_OOM, "%s: %zu added tokens", spec->name, n);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, i), *id = json_object_get(item, "id");
        struct cabe_spec_added *added = &spec->added[spec->n_added];
        struct cabe_spec_token *token;

        added->text = string_or(item, "content", NULL, &added->bytes);
        if (!added->text || !json_is_integer(id) || json_integer_value(id) < 0 ||
            (uint64_t)json_integer_value(id) >= 2 * (n_model + n) + 65536)
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: added_tokens[%zu]: wanted a content and an id", spec->name,
                             i);
        if (added->bytes == 0)
            continue;
        added->id = (int32_t)json_integer_value(id);
        status = cabe_spec_token(spec, added->id, &token, err);
        if (status != CABE_OK)
            return status;
        if (!token->text)
            *token = (struct cabe_spec_token){added->text, added->bytes, 0, 1};
        else if (token->bytes != added->bytes || memcmp(token->text, added->text, added->bytes) != 0)
            added->id = cabe_spec_find(spec, added->text, added->bytes); /* the model's own id counts */
        if (added->id < 0)
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: added_tokens[%zu]: id %lld is %.40s, not %.40s", spec->name,
                             i, (long long)json_integer_value(id), token->text, added->text);
        added->flags = (bool_or(item, "single_word", 0) ? CABE_ADDED_SINGLE_WORD : 0) |
                       (bool_or(item, "lstrip", 0) ? CABE_ADDED_LSTRIP : 0) |
                       (bool_or(item, "rstrip", 0) ? CABE_ADDED_RSTRIP : 0) |
                       (bool_or(item, "normalized", !bool_or(item, "special", 0)) ? CABE_ADDED_NORMALIZED : 0) |
                       (bool_or(item, "special", 0) ? CABE_ADDED_SPECIAL : 0);
        spec->n_added++;
    }
    return CABE_OK;
}

/* ---- normalisers ---- */

static enum cabe_status decode_base64(struct cabe_spec *spec, const char *text, size_t bytes,
                                      struct cabe_error *err)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t values[256];
    uint32_t bits = 0;
    int n_bits = 0;
    size_t n = 0;

    while (bytes > 0 && text[bytes - 1] == '=')
        bytes--;
    memset(values, 0xFF, sizeof values);
    for (uint8_t i = 0; i < 64; i++)
        values[(uint8_t)digits[i]] = i;
    if (!(spec->charsmap = cabe_malloc(bytes / 4 * 3 + 4)))
        return cabe_fail(err, CABE_ERR_OOM, "%s: precompiled_charsmap", spec->name);
    for (size_t i = 0; i < bytes; i++) {
        uint8_t value = values[(uint8_t)text[i]];

        if (value == 0xFF)
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: precompiled_charsmap: byte %zu is not base64", spec->name, i);
        bits = bits << 6 | value;
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            spec->charsmap[n++] = (uint8_t)(bits >> n_bits);
        }
    }
    spec->charsmap_bytes = n;
    return CABE_OK;
}

static enum cabe_status read_precompiled(struct cabe_spec *spec, const json_t *item, struct cabe_error *err)
{
    size_t bytes;
    const char *text = string_or(item, "precompiled_charsmap", NULL, &bytes);
    struct cabe_charsmap map;
    enum cabe_status status;

    if (!text)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: precompiled_charsmap: wanted base64", spec->name);
    status = cabe_spec_step(spec, 1, (struct cabe_step){.kind = CABE_NORM_PRECOMPILED}, err);
    if (status == CABE_OK)
        status = decode_base64(spec, text, bytes, err);
    if (status == CABE_OK && !cabe_charsmap_open(&map, spec->charsmap, spec->charsmap_bytes))
        status = cabe_fail(err, CABE_ERR_FORMAT, "%s: precompiled_charsmap: %zu bytes that are not one", spec->name,
                           spec->charsmap_bytes);
    return status;
}

static enum cabe_status read_bert(struct cabe_spec *spec, const json_t *item, struct cabe_error *err)
{
    int lowers = bool_or(item, "lowercase", 1);
    struct cabe_step step = {
        .kind = CABE_NORM_BERT,
        .flags = (bool_or(item, "clean_text", 1) ? CABE_BERT_CLEAN : 0) |
                 (bool_or(item, "handle_chinese_chars", 1) ? CABE_BERT_CJK : 0) |
                 (bool_or(item, "strip_accents", lowers) ? CABE_BERT_STRIP_ACCENTS : 0) |
                 (lowers ? CABE_BERT_LOWERCASE : 0)};

    return step.flags ? cabe_spec_step(spec, 1, step, err) : CABE_OK;
}

/*
 * The regular expressions that tokenizers in use have in Replace: plain text; or one character, \s or [c], repeated:
 * x+ or x{n,}. Gives 0 for any other.
 */
static int read_pattern(const char *text, size_t bytes, struct cabe_step *step, const char **a, size_t *a_bytes)
{
    const char *end = text + bytes;

    *a = text;
    if (bytes >= 2 && text[0] == '\\') {
        step->flags = text[1] == 's' ? CABE_RUN_SPACE : 0;
        *a = text[1] == 'n' ? "\n" : text[1] == 't' ? "\t" : text + 1;
        if (strchr("snt.+*?()[]{}|^$\\", text[1]) == NULL)
            return 0;
        text += 2;
        *a_bytes = 1;
    } else if (bytes >= 3 && text[0] == '[' && text[1] != '^' && text[1] != '\\' && (uint8_t)text[1] < 0x80 &&
               text[2] == ']') {
        *a = text + 1;
        text += 3;
        *a_bytes = 1;
    } else if (bytes > 0 && strchr(".+*?()[]{}|^$\\", text[0]) == NULL) {
        *a_bytes = cabe_utf8_length((uint8_t)text[0]);
        text += *a_bytes;
    } else {
        return 0;
    }
    step->kind = CABE_NORM_REPLACE_RUN;
    step->number = 1;
    if (end - text == 1 && *text == '+')
        return 1;
    if (end - text == 4 && text[0] == '{' && text[1] >= '1' && text[1] <= '9' && text[2] == ',' && text[3] == '}') {
        step->number = (uint32_t)(text[1] - '0');
        return 1;
    }
    if (step->flags & CABE_RUN_SPACE)
        return 0;
    step->kind = CABE_NORM_REPLACE; /* plain text */
    if (text == end)
        return 1;
    for (const char *c = *a; c < end; c++)
        if (*a != end - bytes || *c == 0 || strchr(".+*?()[]{}|^$\\", *c) != NULL)
            return 0;
    *a_bytes = bytes;
    return 1;
}

static enum cabe_status read_replace(struct cabe_spec *spec, const json_t *item, struct cabe_error *err)
{
    const json_t *pattern = json_object_get(item, "pattern");
    size_t a_bytes = 0, b_bytes, regex_bytes;
    const char *b = string_or(item, "content", NULL, &b_bytes);
    const char *a = string_or(pattern, "String", NULL, &a_bytes);
    const char *regex = string_or(pattern, "Regex", NULL, &regex_bytes);
    struct cabe_step step = {.kind = CABE_NORM_REPLACE};
    enum cabe_status status;

    if (!b || (!a && !regex))
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: normalizer Replace: wanted a pattern and a content", spec->name);
    if ((regex && !read_pattern(regex, regex_bytes, &step, &a, &a_bytes)) || a_bytes == 0)
        return unsupported(spec, "normalizer Replace with the pattern", regex ? regex : "\"\"",
                           "plain text, x+ and x{n,} with x one character or \\s", err);
    step.a_bytes = (uint32_t)a_bytes;
    step.b_bytes = (uint32_t)b_bytes;
    status = cabe_spec_string(spec, a, a_bytes, &step.a, err);
    if (status == CABE_OK)
        status = cabe_spec_string(spec, b, b_bytes, &step.b, err);
    return status == CABE_OK ? cabe_spec_step(spec, 1, step, err) : status;
}

static enum cabe_status read_prepend(struct cabe_spec *spec, const json_t *item, struct cabe_error *err)
{
    struct cabe_step step = {.kind = CABE_NORM_PREPEND};
    size_t bytes;
    const char *text = string_or(item, "prepend", "", &bytes);
    enum cabe_status status = cabe_spec_string(spec, text, bytes, &step.b, err);

    step.b_bytes = (uint32_t)bytes;
    return status == CABE_OK ? cabe_spec_step(spec, 1, step, err) : status;
}

static enum cabe_status read_normalizer(struct cabe_spec *spec, const json_t *item, int depth,
                                        struct cabe_error *err)
{
    static const struct {
        const char *type;
        enum cabe_normalizer kind;
    } simple[] = {{"NFC", CABE_NORM_NFC},
                  {"NFD", CABE_NORM_NFD},
                  {"NFKC", CABE_NORM_NFKC},
                  {"NFKD", CABE_NORM_NFKD},
                  {"Lowercase", CABE_NORM_LOWERCASE},
                  {"StripAccents", CABE_NORM_STRIP_ACCENTS},
                  {"Nmt", CABE_NORM_NMT}};
    const char *type = type_of(item);
    const json_t *list = json_object_get(item, "normalizers");
    enum cabe_status status = CABE_OK;

    if (json_is_null(item) || !item)
        return CABE_OK;
    if (strcmp(type, "Sequence") == 0 && depth < NESTING_MAX) {
        for (size_t i = 0; status == CABE_OK && i < json_array_size(list); i++)
            status = read_normalizer(spec, json_array_get(list, i), depth + 1, err);
        return status;
    }
    for (size_t i = 0; i < sizeof simple / sizeof simple[0]; i++)
        if (strcmp(type, simple[i].type) == 0)
            return cabe_spec_step(spec, 1, (struct cabe_step){.kind = simple[i].kind}, err);
    if (strcmp(type, "BertNormalizer") == 0)
        return read_bert(spec, item, err);
    if (strcmp(type, "Precompiled") == 0)
        return read_precompiled(spec, item, err);
    if (strcmp(type, "Replace") == 0)
        return read_replace(spec, item, err);
    if (strcmp(type, "Prepend") == 0)
        return read_prepend(spec, item, err);
    if (strcmp(type, "Strip") == 0)
        return cabe_spec_step(spec, 1,
                              (struct cabe_step){.kind = CABE_NORM_STRIP,
                                                 .flags = (bool_or(item, "strip_left", 0) ? CABE_STRIP_LEFT : 0) |
                                                          (bool_or(item, "strip_right", 0) ? CABE_STRIP_RIGHT : 0)},
                              err);
    return unsupported(spec, "normalizer", type,
                       "BertNormalizer, Precompiled, NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Replace, "
                       "Prepend, Strip, Nmt, Sequence",
                       err);
}

/* ---- pre-tokenizers ---- */

static enum cabe_status read_metaspace(struct cabe_spec *spec, const json_t *item, struct cabe_error *err)
{
    size_t bytes, scheme_bytes;
    const char *mark = string_or(item, "replacement", "\xE2\x96\x81", &bytes);
    const char *scheme = string_or(item, "prepend_scheme", "always", &scheme_bytes);
    struct cabe_step step = {.kind = CABE_PRE_METASPACE, .a_bytes = (uint32_t)bytes};
    enum cabe_status status;

    if (bytes == 0 || bytes != cabe_utf8_length((uint8_t)mark[0]))
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: pre_tokenizer Metaspace: replacement: wanted one character",
                         spec->name);
    if (!bool_or(item, "add_prefix_space", 1))
        scheme = "never";
    if (strcmp(scheme, "always") == 0)
        step.flags = CABE_META_PREPEND_ALWAYS;
    else if (strcmp(scheme, "first") == 0)
        step.flags = CABE_META_PREPEND_FIRST;
    else if (strcmp(scheme, "never") != 0)
        return unsupported(spec, "pre_tokenizer Metaspace: prepend_scheme", scheme, "always, first, never", err);
    if (bool_or(item, "split", 1))
        step.flags |= CABE_META_SPLIT;
    status = cabe_spec_string(spec, mark, bytes, &step.a, err);
    return status == CABE_OK ? cabe_spec_step(spec, 0, step, err) : status;
}

static enum cabe_status add_split(struct cabe_spec *spec, enum cabe_split_rule rule, struct cabe_error *err)
{
    if (spec->model != CABE_MODEL_BPE)
        return unsupported(spec, "pre_tokenizer Split", "before a model other than BPE", "BPE", err);
    return cabe_spec_step(spec, 0, (struct cabe_step){.kind = CABE_PRE_SPLIT, .number = rule}, err);
}

static enum cabe_status read_split(struct cabe_spec *spec, const json_t *item, struct cabe_error *err)
{
    const json_t *pattern = json_object_get(item, "pattern");
    size_t bytes, behaviour_bytes;
    const char *regex = string_or(pattern, "Regex", NULL, &bytes);
    const char *behaviour = string_or(item, "behavior", "Isolated", &behaviour_bytes);
    enum cabe_split_rule rule = regex ? cabe_split_find(regex, bytes) : 0;
    int is_inverted = bool_or(item, "invert", 0);

    if (!rule)
        return unsupported(spec, "pre_tokenizer Split with the pattern",
                           regex ? regex : string_or(pattern, "String", "(none)", &bytes),
                           "those of GPT-2, GPT-4o, Llama 3, Qwen, Mistral, DeepSeek", err);
    /* To keep what matches and to drop the rest is the same where everything matches. */
    if (!(strcmp(behaviour, "Isolated") == 0 && !is_inverted) &&
        !(strcmp(behaviour, "Removed") == 0 && is_inverted && rule < CABE_SPLIT_DEEPSEEK3))
        return unsupported(spec, "pre_tokenizer Split: behavior", behaviour, "Isolated", err);
    return add_split(spec, rule, err);
}

/* What comes after ByteLevel sees its characters, of which only ASCII is what it was. */
static int is_ascii_split(const json_t *item)
{
    const char *regex = json_string_value(json_object_get(json_object_get(item, "pattern"), "Regex"));

    return strcmp(type_of(item), "Split") == 0 && regex && strcmp(regex, "[0-9][0-9][0-9]") == 0;
}

static enum cabe_status read_byte_level(struct cabe_spec *spec, const json_t *item, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;

    spec->flags |= CABE_FLAG_BYTE_LEVEL;
    if (spec->model != CABE_MODEL_BPE)
        return unsupported(spec, "pre_tokenizer ByteLevel", "before a model other than BPE", "BPE", err);
    if (bool_or(item, "add_prefix_space", 1)) {
        spec->flags |= CABE_FLAG_FIRST_SPACE;
        status = cabe_spec_step(
            spec, 0, (struct cabe_step){.kind = CABE_PRE_SPACES, .flags = CABE_META_PREPEND_ALWAYS}, err);
    }
    if (status == CABE_OK && bool_or(item, "use_regex", 1))
        status = add_split(spec, CABE_SPLIT_GPT2, err);
    return status;
}

static enum cabe_status read_pretokenizer(struct cabe_spec *spec, const json_t *item, int depth,
                                          struct cabe_error *err)
{
    static const struct {
        const char *type;
        enum cabe_pretokenizer kind;
    } simple[] = {{"BertPreTokenizer", CABE_PRE_BERT},
                  {"WhitespaceSplit", CABE_PRE_WHITESPACE_SPLIT},
                  {"Whitespace", CABE_PRE_WHITESPACE}};
    const char *type = type_of(item);
    const json_t *list = json_object_get(item, "pretokenizers");
    enum cabe_status status = CABE_OK;
    size_t bytes;

    if (json_is_null(item) || !item)
        return CABE_OK;
    if ((spec->flags & CABE_FLAG_BYTE_LEVEL) && !is_ascii_split(item))
        return unsupported(spec, "pre_tokenizer after ByteLevel:", type, "Split at [0-9][0-9][0-9]", err);
    if (strcmp(type, "Sequence") == 0 && depth < NESTING_MAX) {
        for (size_t i = 0; status == CABE_OK && i < json_array_size(list); i++)
            status = read_pretokenizer(spec, json_array_get(list, i), depth + 1, err);
        return status;
    }
    for (size_t i = 0; i < sizeof simple / sizeof simple[0]; i++)
        if (strcmp(type, simple[i].type) == 0)
            return cabe_spec_step(spec, 0, (struct cabe_step){.kind = simple[i].kind}, err);
    if (strcmp(type, "Punctuation") == 0) {
        const char *behaviour = string_or(item, "behavior", "Isolated", &bytes);

        if (strcmp(behaviour, "Contiguous") == 0 && spec->model == CABE_MODEL_BPE)
            return add_split(spec, CABE_SPLIT_PUNCTUATION, err);
        if (strcmp(behaviour, "Isolated") != 0)
            return unsupported(spec, "pre_tokenizer Punctuation: behavior", behaviour, "Isolated", err);
        return cabe_spec_step(spec, 0, (struct cabe_step){.kind = CABE_PRE_PUNCTUATION}, err);
    }
    if (strcmp(type, "Digits") == 0)
        return cabe_spec_step(
            spec, 0,
            (struct cabe_step){.kind = CABE_PRE_DIGITS,
                               .flags = bool_or(item, "individual_digits", 0) ? CABE_DIGITS_SINGLE : 0},
            err);
    if (strcmp(type, "Metaspace") == 0)
        return read_metaspace(spec, item, err);
    if (strcmp(type, "Split") == 0)
        return read_split(spec, item, err);
    if (strcmp(type, "ByteLevel") == 0)
        return read_byte_level(spec, item, err);
    return unsupported(spec, "pre_tokenizer", type,
                       "BertPreTokenizer, ByteLevel, Whitespace, WhitespaceSplit, Punctuation, Digits, Metaspace, Split, "
                       "Sequence",
                       err);
}

/* ---- special tokens around a text ---- */

static enum cabe_status read_template(struct cabe_spec *spec, const json_t *item, struct cabe_error *err)
{
    const json_t *single = json_object_get(item, "single"), *specials = json_object_get(item, "special_tokens");
    enum cabe_status status = CABE_OK;
    int is_after = 0;

    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i), *special = json_object_get(piece, "SpecialToken");
        const char *name = json_string_value(json_object_get(special, "id"));
        const json_t *ids = name ? json_object_get(json_object_get(specials, name), "ids") : NULL;

        if (json_object_get(piece, "Sequence")) {
            if (is_after++)
                return unsupported(spec, "post_processor TemplateProcessing:", "the text twice", "once", err);
            continue;
        }
        if (!name || !json_is_array(ids))
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: post_processor.single[%zu]: wanted a special token or "
                             "the text", spec->name, i);
        for (size_t k = 0; status == CABE_OK && k < json_array_size(ids); k++)
            status = json_is_integer(json_array_get(ids, k))
                         ? cabe_spec_special(spec, is_after, json_integer_value(json_array_get(ids, k)), err)
                         : cabe_fail(err, CABE_ERR_FORMAT, "%s: post_processor: ids of %.40s", spec->name, name);
        if (status != CABE_OK)
            return status;
    }
    if (!is_after)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: post_processor.single: the text is not in it", spec->name);
    return CABE_OK;
}

static enum cabe_status read_cls_sep(struct cabe_spec *spec, const json_t *item, struct cabe_error *err)
{
    const json_t *cls = json_array_get(json_object_get(item, "cls"), 1);
    const json_t *sep = json_array_get(json_object_get(item, "sep"), 1);
    enum cabe_status status;

    if (!json_is_integer(cls) || !json_is_integer(sep))
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: post_processor: wanted cls and sep, each [token, id]",
                         spec->name);
    status = cabe_spec_special(spec, 0, json_integer_value(cls), err);
    return status == CABE_OK ? cabe_spec_special(spec, 1, json_integer_value(sep), err) : status;
}

static enum cabe_status read_processor(struct cabe_spec *spec, const json_t *item, int depth, struct cabe_error *err)
{
    const char *type = type_of(item);
    const json_t *list = json_object_get(item, "processors");
    enum cabe_status status = CABE_OK;

    if (json_is_null(item) || !item)
        return CABE_OK;
    if (strcmp(type, "Sequence") == 0 && depth < NESTING_MAX) {
        for (size_t i = 0; status == CABE_OK && i < json_array_size(list); i++)
            status = read_processor(spec, json_array_get(list, i), depth + 1, err);
        return status;
    }
    if ((strcmp(type, "ByteLevel") == 0 || strcmp(type, "RobertaProcessing") == 0) &&
        (spec->flags & CABE_FLAG_BYTE_LEVEL) && bool_or(item, "trim_offsets", 1))
        spec->flags |= CABE_FLAG_TRIM_OFFSETS | (bool_or(item, "add_prefix_space", 1) ? CABE_FLAG_TRIM_PREFIX : 0);
    if (strcmp(type, "ByteLevel") == 0)
        return CABE_OK;
    if (spec->n_before + spec->n_after > 0)
        return unsupported(spec, "post_processor", "Sequence", "one processor in it", err);
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(spec, item, err);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0)
        return read_cls_sep(spec, item, err);
    return unsupported(spec, "post_processor", type,
                       "TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel, Sequence", err);
}

enum cabe_status cabe_spec_json(struct cabe_spec *spec, const json_t *document, struct cabe_error *err)
{
    const json_t *max = json_object_get(json_object_get(document, "truncation"), "max_length");
    enum cabe_status status = read_model(spec, json_object_get(document, "model"), err);

    if (status == CABE_OK)
        status = read_added(spec, json_object_get(document, "added_tokens"), err);
    if (status == CABE_OK)
        status = read_normalizer(spec, json_object_get(document, "normalizer"), 0, err);
    if (status == CABE_OK)
        status = read_pretokenizer(spec, json_object_get(document, "pre_tokenizer"), 0, err);
    if (status == CABE_OK && spec->model == CABE_MODEL_BPE)
        status = cabe_spec_bpe_steps(spec, err);
    if (status == CABE_OK)
        status = read_processor(spec, json_object_get(document, "post_processor"), 0, err);
    if (status == CABE_OK && json_is_integer(max) && json_integer_value(max) > 0)
        spec->truncate_tokens = (uint64_t)json_integer_value(max);
    return status;
}

enum cabe_status cabe_tokenizer_compile_json(const json_t *document, const char *name, void **block, size_t *bytes,
                                             struct cabe_error *err)
{
    struct cabe_spec spec = cabe_spec_new(name);
    enum cabe_status status = cabe_spec_json(&spec, document, err);

    *block = NULL;
    *bytes = 0;
    if (status == CABE_OK) {
        cabe_spec_roles(&spec, NULL);
        status = cabe_spec_compile(&spec, block, bytes, err);
    }
    cabe_spec_clear(&spec);
    return status;
}
