/*
 * A conversation as the prompt that a model was trained on.
 *
 * The model's own chat template is rendered (text/template.h). A model without one is written to as ChatML
 * where its vocabulary has <|im_start|>, and otherwise in plain lines, "user: ...", which stop at the next
 * "user:".
 *
 * What people wrote is marked in the prompt byte for byte, through everything that the template does to it,
 * so that a special token spelled out in a message is text and not a command: cut the prompt with
 * cabe_chat_next_segment() and let the tokenizer look for special tokens only where a segment says so.
 *
 * Owner: who opens closes; texts are copied. Thread: a chat may be rendered by any number of threads at once.
 */
#ifndef CABE_TEXT_CHAT_H
#define CABE_TEXT_CHAT_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "cabe/status.h"
#include "text/template.h"

struct cabe_chat;

enum cabe_chat_kind { CABE_CHAT_TEMPLATE, CABE_CHAT_CHATML, CABE_CHAT_PLAIN };

struct cabe_chat_config { /* what the model's files say; NULL: nothing */
    const char *chat_template;
    size_t template_bytes;
    /* Texts of these tokens. Without a template the prompt begins with bos_token where there is one. */
    const char *bos_token, *eos_token, *unk_token, *pad_token;
    int has_im_start; /* the vocabulary has <|im_start|> */
};

struct cabe_chat_message {
    const char *role; /* "system", "user", "assistant", "tool" */
    const char *content;
    size_t content_bytes; /* UTF-8 */
};

/* CABE_ERR_FORMAT, CABE_ERR_UNSUPPORTED: the template, with line and column. */
CABE_CHECKED enum cabe_status cabe_chat_open(struct cabe_chat **out, const struct cabe_chat_config *config,
                                             struct cabe_error *err);
void cabe_chat_close(struct cabe_chat *chat); /* NULL is fine */
enum cabe_chat_kind cabe_chat_kind(const struct cabe_chat *chat);
/* A text that ends an answer although no special token does, for stop strings; NULL: none. */
const char *cabe_chat_stop(const struct cabe_chat *chat);

/*
 * Renders `messages`. `tools` (a JSON array, may be NULL) and `extra` (an object of further variables, such
 * as
 * {"enable_thinking": false}, may be NULL) are for the template; without one that speaks of tools they are
 * CABE_ERR_UNSUPPORTED.
 * `limits` may be NULL. The prompt begins with the bos token where the template writes it: then the tokenizer
 * must not add another. CABE_ERR_ARGUMENT: the template refused, with its words. CABE_ERR_FORMAT: a message
 * is not UTF-8.
 */
CABE_CHECKED enum cabe_status cabe_chat_render(const struct cabe_chat *chat,
                                               const struct cabe_chat_message *messages, size_t n_messages,
                                               const json_t *tools, int add_generation_prompt,
                                               const json_t *extra, const struct cabe_template_limits *limits,
                                               struct cabe_template_result *out, struct cabe_error *err);
/* The same from messages as JSON, with whatever fields they have (tool_calls, parts of content, ...). */
CABE_CHECKED enum cabe_status cabe_chat_render_json(const struct cabe_chat *chat, const json_t *messages,
                                                    const json_t *tools, int add_generation_prompt,
                                                    const json_t *extra,
                                                    const struct cabe_template_limits *limits,
                                                    struct cabe_template_result *out, struct cabe_error *err);
void cabe_chat_result_clear(struct cabe_template_result *result);

struct cabe_chat_segment { /* bytes [begin, end) of the prompt */
    size_t begin, end;
    int special; /* 1: special tokens count; 0: it is plain text, whatever it spells */
};

/*
 * The segment that begins at `begin`; 0 where the prompt has ended. Segments follow each other without gaps.
 * All of it is one segment as long as no token of `special` is spelled with a byte from outside, so that
 * words are cut as the reference cuts the whole prompt; each one that is becomes a segment of its own.
 * `special`: n texts of the tokens that count as control tokens. Linear in the prompt, times n.
 */
int cabe_chat_next_segment(const struct cabe_template_result *prompt, const char *const *special,
                           const size_t *bytes, size_t n, size_t begin, struct cabe_chat_segment *out);

#endif
