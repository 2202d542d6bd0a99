/*
 * How large a compiled tokenizer will be, from its tokens alone, in a few milliseconds.
 *
 * The trie has a unit for every distinct beginning of a token. They are counted by linear counting (Whang et al. 1990):
 * each beginning's hash sets a bit of a map, and the share of bits still clear tells how many there were.
 */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "text/bpe.h"
#include "text/tokenizer.h"

#define SMALL_BYTES (UINT64_C(128) << 10) /* header, steps, characters and the tries of added tokens */
#define MAP_BITS (1u << 23)               /* 1 MiB; 0.1 % of error at a million beginnings */
#define CLASS_BYTES (UINT64_C(80) << 10)  /* of characters: 250 pages of Unicode 15 that differ */
#define ADDED_UNITS 2u                    /* of its trie for a byte of an added token */
#define SLACK 1.02 /* the count's error, and units that stay empty: at most 1.2 % of them seen */
#define SLACK_UNITS 4096.0

struct lengths {
    uint64_t n_tokens, bytes, charsmap_bytes, score_bytes, template_bytes, added_bytes, n_merges;
    int is_bpe;
    uint64_t *map; /* NULL: no memory for it; then every byte of every token counts as a beginning */
};

static void add_token(struct lengths *l, const char *text, size_t n)
{
    uint64_t hash = 0xCBF29CE484222325u;

    l->bytes += n;
    for (size_t i = 0; i < n && l->map; i++) {
        uint64_t bit;

        hash = (hash ^ (unsigned char)text[i]) * 0x100000001B3u;
        bit = (hash ^ hash >> 29) * 0x9E3779B97F4A7C15u >> 41; /* 23 bits */
        l->map[bit / 64] |= UINT64_C(1) << (bit % 64);
    }
}

static double n_beginnings(const struct lengths *l)
{
    uint64_t clear = MAP_BITS;

    for (size_t i = 0; l->map && i < MAP_BITS / 64; i++)
        clear -= (uint64_t)__builtin_popcountll(l->map[i]);
    if (!l->map || clear == 0)
        return (double)l->bytes;
    return fmin((double)l->bytes, -(double)MAP_BITS * log((double)clear / MAP_BITS));
}

static void from_gguf(const struct cabe_source *source, struct lengths *l)
{
    const char *text;
    size_t bytes;
    uint64_t n = 0;

    if (!cabe_source_get_array(source, "tokenizer.ggml.tokens", &l->n_tokens))
        return;
    for (uint64_t i = 0; i < l->n_tokens; i++)
        if (cabe_source_array_string(source, "tokenizer.ggml.tokens", i, &text, &bytes))
            add_token(l, text, bytes);
    for (uint64_t i = 0; i < l->n_tokens; i++) {
        int64_t type = 1;

        if (cabe_source_array_i64(source, "tokenizer.ggml.token_type", i, &type) && type >= 2 && type <= 4 &&
            cabe_source_array_string(source, "tokenizer.ggml.tokens", i, &text, &bytes))
            l->added_bytes += sizeof(struct cabe_added) + bytes * ADDED_UNITS * sizeof(struct cabe_trie_unit);
    }
    l->score_bytes = sizeof(float);
    if (cabe_source_get_string(source, "tokenizer.ggml.model", &text, &bytes))
        l->is_bpe = (bytes == 4 && memcmp(text, "gpt2", 4) == 0) || (bytes == 5 && memcmp(text, "llama", 5) == 0);
    if (!cabe_source_get_array(source, "tokenizer.ggml.merges", &l->n_merges))
        l->n_merges = 0;
    if (cabe_source_get_string(source, "tokenizer.chat_template", &text, &bytes))
        l->template_bytes = bytes;
    if (cabe_source_get_array(source, "tokenizer.ggml.precompiled_charsmap", &n))
        l->charsmap_bytes = n;
}

/* vocab is {token: id} or [[token, score], ...]. */
static void from_json(const json_t *tokenizer, struct lengths *l)
{
    const json_t *model = json_object_get(tokenizer, "model"), *vocab = json_object_get(model, "vocab");
    const json_t *normalizer = json_object_get(tokenizer, "normalizer"), *item;
    const char *key;
    size_t i, n_added_bytes = 0;

    json_object_foreach((json_t *)(uintptr_t)vocab, key, item) add_token(l, key, strlen(key));
    json_array_foreach(vocab, i, item) {
        const json_t *token = json_array_get(item, 0);

        add_token(l, json_string_value(token), json_string_length(token));
    }
    l->n_merges = json_array_size(json_object_get(model, "merges"));
    l->is_bpe = l->n_merges > 0;
    json_array_foreach(json_object_get(tokenizer, "added_tokens"), i, item)
        n_added_bytes += json_string_length(json_object_get(item, "content"));
    l->score_bytes = json_is_array(vocab) ? sizeof(double) : 0;
    l->n_tokens = json_object_size(vocab) + json_array_size(vocab);
    if (l->is_bpe) { /* of many added tokens the small parts are not small */
        l->n_tokens += json_array_size(json_object_get(tokenizer, "added_tokens"));
        l->bytes += n_added_bytes;
        l->added_bytes = n_added_bytes * ADDED_UNITS * sizeof(struct cabe_trie_unit) +
                         json_array_size(json_object_get(tokenizer, "added_tokens")) * sizeof(struct cabe_added);
    }
    l->charsmap_bytes = json_string_length(json_object_get(normalizer, "precompiled_charsmap"));
    json_array_foreach(json_object_get(normalizer, "normalizers"), i, item)
        l->charsmap_bytes += json_string_length(json_object_get(item, "precompiled_charsmap"));
}

/* The file is no shorter than its tokens. */
static void from_llama2c(const struct cabe_source *source, struct lengths *l)
{
    int64_t n_vocab = 0;
    size_t bytes = 0;
    void *file;

    if (cabe_source_tokenizer_file(source, &file, &bytes, NULL) == CABE_OK)
        cabe_free(file);
    cabe_source_get_i64(source, "llama.vocab_size", &n_vocab);
    l->n_tokens = (uint64_t)n_vocab;
    l->bytes = bytes;
    l->is_bpe = 1;
    l->score_bytes = sizeof(float);
}

/* Of a folder; whatever form it takes there, its text is no longer than that. */
static void add_template(const struct cabe_source *source, struct lengths *l)
{
    const json_t *config = cabe_source_document(source, "tokenizer_config.json"), *item;
    const json_t *text = json_object_get(config, "chat_template");
    size_t i;

    l->template_bytes += json_string_length(cabe_source_document(source, "chat_template.jinja")) +
                         json_string_length(text);
    json_array_foreach(text, i, item)
        l->template_bytes += json_string_length(json_object_get(item, "template"));
}

uint64_t cabe_tokenizer_bound(const struct cabe_source *source)
{
    const json_t *tokenizer = cabe_source_document(source, "tokenizer.json");
    struct lengths l = {.map = cabe_calloc(MAP_BITS / 64, sizeof(uint64_t))};
    double units;

    if (tokenizer)
        from_json(tokenizer, &l);
    else if (cabe_source_kind(source) == CABE_SOURCE_LLAMA2C)
        from_llama2c(source, &l);
    else
        from_gguf(source, &l);
    add_template(source, &l);
    if (l.is_bpe) {
        cabe_free(l.map);
        return SMALL_BYTES + CLASS_BYTES + CABE_PAIR_BYTES + l.template_bytes + l.added_bytes + l.bytes +
               l.n_tokens * (sizeof(uint32_t) + 1) + cabe_hash_slots(l.n_tokens) * sizeof(struct cabe_word) +
               (l.n_merges ? cabe_hash_slots(l.n_merges) : 0) * sizeof(struct cabe_merge);
    }
    units = n_beginnings(&l) * SLACK + SLACK_UNITS;
    cabe_free(l.map);
    return SMALL_BYTES + l.template_bytes + l.bytes + l.n_tokens * (sizeof(uint32_t) + 1 + l.score_bytes) +
           l.charsmap_bytes + (uint64_t)units * sizeof(struct cabe_trie_unit);
}
