/*
 * Which tokens begin and end texts and turns, and the chat template: from a GGUF's fields, from the configurations
 * beside a tokenizer.json, and, where these are silent, from the names that models in use give to such tokens.
 */
#include <string.h>

#include "text/spec.h"

#define KEY(name) "tokenizer.ggml." name

/* Names of tokens that end a turn, the surest first. */
static const char *const turn_ends[] = {
    "<|eot_id|>",   "<|im_end|>", "<|end|>", "<end_of_turn>", "<|end_of_turn|>",      "<turn|>",
    "<|endofturn|>", "<EOT>",     "_<EOT>",  "[EOT]",         "<end_of_utterance>",
};
/* Of tokens that end a text, or that a model says when it waits for an answer. */
static const char *const text_ends[] = {
    "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "</s>", "<eos>", "[EOS]", "<\xEF\xBD\x9C" "end\xE2\x96\x81of"
    "\xE2\x96\x81sentence\xEF\xBD\x9C>", "<|return|>", "<|call|>",
};

static int is_id(const struct cabe_spec *spec, int64_t id)
{
    return id >= 0 && (uint64_t)id < spec->n_tokens && spec->tokens[id].text;
}

static void set_role(struct cabe_spec *spec, enum cabe_token_role role, int64_t id)
{
    if (is_id(spec, id))
        spec->roles[role] = (int32_t)id;
}

static void add_end(struct cabe_spec *spec, int64_t id)
{
    if (!is_id(spec, id) || spec->n_ends == CABE_ENDS_MAX)
        return;
    for (uint32_t i = 0; i < spec->n_ends; i++)
        if (spec->ends[i] == id)
            return;
    spec->ends[spec->n_ends++] = (int32_t)id;
}

/* Among the added tokens only: what is plain text ends nothing. */
static int32_t find_added(const struct cabe_spec *spec, const char *text, size_t bytes)
{
    for (size_t i = 0; i < spec->n_added; i++)
        if (spec->added[i].bytes == bytes && memcmp(spec->added[i].text, text, bytes) == 0)
            return spec->added[i].id;
    return -1;
}

static int64_t field(const struct cabe_source *source, const char *key, const char *other_key)
{
    int64_t id = -1;

    if (!cabe_source_get_i64(source, key, &id) && other_key)
        cabe_source_get_i64(source, other_key, &id);
    return id;
}

static void from_gguf(struct cabe_spec *spec, const struct cabe_source *source)
{
    set_role(spec, CABE_TOKEN_BOS, field(source, KEY("bos_token_id"), KEY("cls_token_id")));
    set_role(spec, CABE_TOKEN_EOS, field(source, KEY("eos_token_id"), KEY("seperator_token_id")));
    set_role(spec, CABE_TOKEN_EOT, field(source, KEY("eot_token_id"), NULL));
    set_role(spec, CABE_TOKEN_UNK, field(source, KEY("unknown_token_id"), NULL));
    set_role(spec, CABE_TOKEN_PAD, field(source, KEY("padding_token_id"), NULL));
    add_end(spec, field(source, KEY("eom_token_id"), NULL));
    if (!cabe_source_get_string(source, "tokenizer.chat_template", &spec->chat_template, &spec->chat_template_bytes))
        spec->chat_template = NULL;
}

/* "eos_token": "</s>", or an added token as an object. */
static void from_name(struct cabe_spec *spec, enum cabe_token_role role, const json_t *config, const char *key)
{
    const json_t *value = json_object_get(config, key);

    if (json_is_object(value))
        value = json_object_get(value, "content");
    if (!json_is_string(value))
        return;
    set_role(spec, role, find_added(spec, json_string_value(value), json_string_length(value)));
    if (spec->roles[role] < 0)
        set_role(spec, role, cabe_spec_find(spec, json_string_value(value), json_string_length(value)));
}

/* "eos_token_id": 2, or several: the first has the role, all of them end. */
static void from_id(struct cabe_spec *spec, enum cabe_token_role role, const json_t *config, const char *key)
{
    const json_t *value = json_object_get(config, key);
    size_t n = json_is_array(value) ? json_array_size(value) : 1;

    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(value) ? json_array_get(value, i) : value;

        if (!json_is_integer(id))
            continue;
        if (spec->roles[role] < 0)
            set_role(spec, role, json_integer_value(id));
        if (role == CABE_TOKEN_EOS)
            add_end(spec, json_integer_value(id));
    }
}

/* A text, or a list of named ones of which "default" is taken. */
static const json_t *template_of(const json_t *value)
{
    const json_t *found = NULL;

    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(item, "name"));

        if (!found || (name && strcmp(name, "default") == 0))
            found = json_object_get(item, "template");
    }
    return json_is_array(value) ? found : value;
}

static void from_folder(struct cabe_spec *spec, const struct cabe_source *source)
{
    static const struct {
        enum cabe_token_role role;
        const char *name, *id;
    } keys[] = {{CABE_TOKEN_BOS, "bos_token", "bos_token_id"},
                {CABE_TOKEN_EOS, "eos_token", "eos_token_id"},
                {CABE_TOKEN_UNK, "unk_token", NULL},
                {CABE_TOKEN_PAD, "pad_token", "pad_token_id"},
                {CABE_TOKEN_BOS, "cls_token", NULL},
                {CABE_TOKEN_EOS, "sep_token", NULL}};
    const json_t *config = cabe_source_document(source, "tokenizer_config.json");
    const json_t *map = cabe_source_document(source, "special_tokens_map.json"), *text;

    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (spec->roles[keys[i].role] < 0)
            from_name(spec, keys[i].role, config, keys[i].name);
        if (spec->roles[keys[i].role] < 0)
            from_name(spec, keys[i].role, map, keys[i].name);
        if (keys[i].id) {
            from_id(spec, keys[i].role, cabe_source_document(source, "generation_config.json"), keys[i].id);
            from_id(spec, keys[i].role, cabe_source_document(source, "config.json"), keys[i].id);
        }
    }
    text = cabe_source_document(source, "chat_template.jinja");
    if (!json_is_string(text))
        text = template_of(json_object_get(config, "chat_template"));
    spec->chat_template = json_string_value(text);
    spec->chat_template_bytes = json_string_length(text);
}

void cabe_spec_roles(struct cabe_spec *spec, const struct cabe_source *source)
{
    size_t n_turn_ends = sizeof turn_ends / sizeof turn_ends[0], n_text_ends = sizeof text_ends / sizeof text_ends[0];

    if (source && cabe_source_kind(source) == CABE_SOURCE_GGUF)
        from_gguf(spec, source);
    else if (source)
        from_folder(spec, source);
    if (spec->roles[CABE_TOKEN_UNK] < 0)
        set_role(spec, CABE_TOKEN_UNK, spec->unk_id);
    if (spec->roles[CABE_TOKEN_BOS] < 0 && spec->n_before > 0)
        set_role(spec, CABE_TOKEN_BOS, spec->before[0]);
    if (spec->roles[CABE_TOKEN_EOS] < 0 && spec->n_after > 0)
        set_role(spec, CABE_TOKEN_EOS, spec->after[spec->n_after - 1]);
    add_end(spec, spec->roles[CABE_TOKEN_EOS]);
    add_end(spec, spec->roles[CABE_TOKEN_EOT]);
    for (size_t i = 0; i < n_turn_ends; i++) {
        int32_t id = find_added(spec, turn_ends[i], strlen(turn_ends[i]));

        if (spec->roles[CABE_TOKEN_EOT] < 0)
            set_role(spec, CABE_TOKEN_EOT, id);
        add_end(spec, id);
    }
    for (size_t i = 0; i < n_text_ends; i++)
        add_end(spec, find_added(spec, text_ends[i], strlen(text_ends[i])));
    if (spec->roles[CABE_TOKEN_EOT] < 0)
        spec->roles[CABE_TOKEN_EOT] = spec->roles[CABE_TOKEN_EOS];
}
