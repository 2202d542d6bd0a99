#include "text/chat_tokens.h"

#include <string.h>

#include "base/memory.h"

struct cabe_chat_tokens {
    const struct cabe_tokenizer *tokenizer;
    struct cabe_chat *chat;
    size_t n; /* special tokens */
    const char **special;
    size_t *bytes;
};

/* The token of a role as a string of ours, NULL where there is none. */
static enum cabe_status copy_token(const struct cabe_tokenizer *tokenizer, enum cabe_token_role role,
                                   char **out, struct cabe_error *err)
{
    size_t bytes = 0;
    int32_t id = cabe_tokenizer_special(tokenizer, role);
    const char *text = id >= 0 ? cabe_tokenizer_token(tokenizer, id, &bytes) : NULL;

    *out = NULL;
    if (!text)
        return CABE_OK;
    *out = cabe_malloc(bytes + 1);
    if (!*out)
        return cabe_fail(err, CABE_ERR_OOM, "a special token of %zu bytes", bytes);
    memcpy(*out, text, bytes);
    (*out)[bytes] = '\0';
    return CABE_OK;
}

static enum cabe_status open_chat(struct cabe_chat_tokens *tokens, struct cabe_error *err)
{
    const struct cabe_tokenizer *tokenizer = tokens->tokenizer;
    struct cabe_chat_config config = {.has_im_start =
                                          cabe_tokenizer_find(tokenizer, "<|im_start|>", 12) >= 0};
    char *bos = NULL, *eos = NULL, *unk = NULL, *pad = NULL;
    enum cabe_status status;

    config.chat_template = cabe_tokenizer_chat_template(tokenizer, &config.template_bytes);
    status = copy_token(tokenizer, CABE_TOKEN_BOS, &bos, err);
    if (status == CABE_OK)
        status = copy_token(tokenizer, CABE_TOKEN_EOS, &eos, err);
    if (status == CABE_OK)
        status = copy_token(tokenizer, CABE_TOKEN_UNK, &unk, err);
    if (status == CABE_OK)
        status = copy_token(tokenizer, CABE_TOKEN_PAD, &pad, err);
    if (status == CABE_OK) {
        config.bos_token = config.chat_template || cabe_tokenizer_adds_bos(tokenizer) ? bos : NULL;
        config.eos_token = eos;
        config.unk_token = unk;
        config.pad_token = pad;
        status = cabe_chat_open(&tokens->chat, &config, err);
    }
    cabe_free(bos);
    cabe_free(eos);
    cabe_free(unk);
    cabe_free(pad);
    return status;
}

static enum cabe_status list_special(struct cabe_chat_tokens *tokens, struct cabe_error *err)
{
    int32_t n_tokens = cabe_tokenizer_n_tokens(tokens->tokenizer);
    size_t n = 0;

    for (int32_t id = 0; id < n_tokens; id++)
        n += cabe_tokenizer_is_special(tokens->tokenizer, id) != 0;
    tokens->special = cabe_calloc(n, sizeof *tokens->special);
    tokens->bytes = cabe_calloc(n, sizeof *tokens->bytes);
    if (!tokens->special || !tokens->bytes)
        return cabe_fail(err, CABE_ERR_OOM, "%zu special tokens", n);
    for (int32_t id = 0; id < n_tokens; id++) {
        size_t bytes = 0;
        const char *text = cabe_tokenizer_is_special(tokens->tokenizer, id)
                               ? cabe_tokenizer_token(tokens->tokenizer, id, &bytes)
                               : NULL;

        if (!text || bytes == 0)
            continue;
        tokens->special[tokens->n] = text;
        tokens->bytes[tokens->n++] = bytes;
    }
    return CABE_OK;
}

enum cabe_status cabe_chat_tokens_open(struct cabe_chat_tokens **out, const struct cabe_tokenizer *tokenizer,
                                       struct cabe_error *err)
{
    struct cabe_chat_tokens *tokens = cabe_calloc(1, sizeof *tokens);
    enum cabe_status status;

    *out = NULL;
    if (!tokens)
        return cabe_fail(err, CABE_ERR_OOM, "a chat's tokens");
    tokens->tokenizer = tokenizer;
    status = open_chat(tokens, err);
    if (status == CABE_OK)
        status = list_special(tokens, err);
    if (status != CABE_OK) {
        cabe_chat_tokens_close(tokens);
        return status;
    }
    *out = tokens;
    return CABE_OK;
}

void cabe_chat_tokens_close(struct cabe_chat_tokens *tokens)
{
    if (!tokens)
        return;
    cabe_chat_close(tokens->chat);
    cabe_free(tokens->special);
    cabe_free(tokens->bytes);
    cabe_free(tokens);
}

const struct cabe_chat *cabe_chat_of(const struct cabe_chat_tokens *tokens)
{
    return tokens->chat;
}

void cabe_chat_ids_clear(struct cabe_chat_ids *ids)
{
    cabe_free(ids->ids);
    cabe_encoding_clear(&ids->encoding);
    *ids = (struct cabe_chat_ids){0};
}

static enum cabe_status add_ids(struct cabe_chat_ids *ids, struct cabe_error *err)
{
    size_t n = ids->n + ids->encoding.n;

    if (n > ids->capacity) {
        size_t capacity = n < 2 * ids->capacity ? 2 * ids->capacity : n;
        int32_t *grown = cabe_realloc(ids->ids, capacity, sizeof *grown);

        if (!grown)
            return cabe_fail(err, CABE_ERR_OOM, "%zu tokens of a prompt", n);
        ids->ids = grown;
        ids->capacity = capacity;
    }
    if (ids->encoding.n)
        memcpy(ids->ids + ids->n, ids->encoding.ids, ids->encoding.n * sizeof *ids->ids);
    ids->n = n;
    return CABE_OK;
}

enum cabe_status cabe_chat_encode(const struct cabe_chat_tokens *tokens,
                                  const struct cabe_template_result *prompt, struct cabe_chat_ids *ids,
                                  struct cabe_error *err)
{
    struct cabe_chat_segment segment = {0, 0, 0};
    enum cabe_status status = CABE_OK;

    ids->n = 0;
    while (status == CABE_OK &&
           cabe_chat_next_segment(prompt, tokens->special, tokens->bytes, tokens->n, segment.end, &segment)) {
        struct cabe_encode_options options = {.parse_special = segment.special};

        status = cabe_tokenizer_encode(tokens->tokenizer, prompt->text + segment.begin,
                                       segment.end - segment.begin, &options, &ids->encoding, err);
        if (status == CABE_OK)
            status = add_ids(ids, err);
    }
    return status;
}
