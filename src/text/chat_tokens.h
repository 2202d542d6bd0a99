/*
 * A chat with its tokenizer: from messages to the ids that the model reads.
 *
 * Owner: who opens closes; the tokenizer is borrowed and outlives the chat. Thread: a chat may be used by any
 * number of threads at once, each with its own ids.
 */
#ifndef CABE_TEXT_CHAT_TOKENS_H
#define CABE_TEXT_CHAT_TOKENS_H

#include "text/chat.h"
#include "text/tokenizer.h"

struct cabe_chat_tokens;

/* The chat template and special tokens that the tokenizer has, or the form without a template. */
CABE_CHECKED enum cabe_status cabe_chat_tokens_open(struct cabe_chat_tokens **out,
                                                    const struct cabe_tokenizer *tokenizer,
                                                    struct cabe_error *err);
void cabe_chat_tokens_close(struct cabe_chat_tokens *tokens);                /* NULL is fine */
const struct cabe_chat *cabe_chat_of(const struct cabe_chat_tokens *tokens); /* to render with */

struct cabe_chat_ids { /* grows as needed, reused; zero-initialise, then free with _clear */
    int32_t *ids;
    size_t n, capacity;
    struct cabe_encoding encoding; /* work */
};
void cabe_chat_ids_clear(struct cabe_chat_ids *ids);

/*
 * The ids of a rendered prompt, replacing what `ids` held. A special token counts where the template wrote
 * it; spelled in a message it is plain text. Nothing is added: the BOS is there where the template writes it.
 */
CABE_CHECKED enum cabe_status cabe_chat_encode(const struct cabe_chat_tokens *tokens,
                                               const struct cabe_template_result *prompt,
                                               struct cabe_chat_ids *ids, struct cabe_error *err);

#endif
