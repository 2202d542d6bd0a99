/* How large a compiled tokenizer can be, from the lengths of its tokens alone. */
#include <string.h>

#include "text/block.h"
#include "text/tokenizer.h"

#define SMALL_BYTES (UINT64_C(256) << 10) /* header, steps, characters and the tries of added tokens */
#define TRIE_SLACK 1.15 /* units of a double array that stay empty; measured at 1.02 to 1.1 */

struct lengths {
    uint64_t n_tokens, bytes, charsmap_bytes;
};

static void from_gguf(const struct cabe_source *source, struct lengths *l)
{
    const char *text;
    size_t bytes;
    uint64_t n = 0;

    if (!cabe_source_get_array(source, "tokenizer.ggml.tokens", &l->n_tokens))
        return;
    for (uint64_t i = 0; i < l->n_tokens; i++)
        if (cabe_source_array_string(source, "tokenizer.ggml.tokens", i, &text, &bytes))
            l->bytes += bytes;
    if (cabe_source_get_array(source, "tokenizer.ggml.precompiled_charsmap", &n))
        l->charsmap_bytes = n;
}

/* vocab is {token: id} or [[token, score], ...]. */
static void from_json(const json_t *tokenizer, struct lengths *l)
{
    const json_t *model = json_object_get(tokenizer, "model"), *vocab = json_object_get(model, "vocab");
    const json_t *normalizer = json_object_get(tokenizer, "normalizer"), *item;
    const char *key;
    size_t i;

    json_object_foreach((json_t *)(uintptr_t)vocab, key, item) l->bytes += strlen(key);
    json_array_foreach(vocab, i, item) l->bytes += json_string_length(json_array_get(item, 0));
    l->n_tokens = json_object_size(vocab) + json_array_size(vocab);
    l->charsmap_bytes = json_string_length(json_object_get(normalizer, "precompiled_charsmap"));
    json_array_foreach(json_object_get(normalizer, "normalizers"), i, item)
        l->charsmap_bytes += json_string_length(json_object_get(item, "precompiled_charsmap"));
}

uint64_t cabe_tokenizer_bound(const struct cabe_source *source)
{
    const json_t *tokenizer = cabe_source_document(source, "tokenizer.json");
    struct lengths l = {0};

    if (tokenizer)
        from_json(tokenizer, &l);
    else
        from_gguf(source, &l);
    /* Every byte of every token a state of its own: tokens that share beginnings need fewer. */
    return SMALL_BYTES + l.bytes + l.n_tokens * (sizeof(uint32_t) + sizeof(double)) + l.charsmap_bytes +
           (uint64_t)((double)l.bytes * TRIE_SLACK) * sizeof(struct cabe_trie_unit);
}
