#include "text/chat.h"

#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"

struct cabe_chat {
    enum cabe_chat_kind kind;
    struct cabe_template *template;
    json_t *tokens; /* the variables bos_token and so on */
    int has_tools;  /* the template speaks of them */
};

/* Both are templates of ours, so that marks and limits are those of all the others. */
static const char chatml[] = "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n"
                             "{{ message.content }}<|im_end|>\n"
                             "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
static const char plain[] =
    "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";

static int set_token(json_t *tokens, const char *name, const char *text)
{
    return !text || json_object_set_new(tokens, name, json_string(text)) == 0;
}

enum cabe_status cabe_chat_open(struct cabe_chat **out, const struct cabe_chat_config *config,
                                struct cabe_error *err)
{
    struct cabe_chat *chat = cabe_calloc(1, sizeof *chat);
    const char *text = config->chat_template;
    size_t bytes = config->template_bytes;
    enum cabe_status status;

    *out = NULL;
    if (!chat)
        return cabe_fail(err, CABE_ERR_OOM, "chat template");
    chat->kind = text ? CABE_CHAT_TEMPLATE : config->has_im_start ? CABE_CHAT_CHATML : CABE_CHAT_PLAIN;
    if (!text) {
        text = config->has_im_start ? chatml : plain;
        bytes = strlen(text);
    }
    chat->has_tools = memmem(text, bytes, "tools", strlen("tools")) != NULL;
    chat->tokens = json_object();
    if (!chat->tokens || !set_token(chat->tokens, "bos_token", config->bos_token) ||
        !set_token(chat->tokens, "eos_token", config->eos_token) ||
        !set_token(chat->tokens, "unk_token", config->unk_token) ||
        !set_token(chat->tokens, "pad_token", config->pad_token))
        status = cabe_fail(err, CABE_ERR_OOM, "chat template: its tokens, or one is not UTF-8");
    else
        status = cabe_template_compile(&chat->template, text, bytes, "chat template", err);
    if (status != CABE_OK) {
        cabe_chat_close(chat);
        return status;
    }
    *out = chat;
    return CABE_OK;
}

void cabe_chat_close(struct cabe_chat *chat)
{
    if (!chat)
        return;
    cabe_template_close(chat->template);
    json_decref(chat->tokens);
    cabe_free(chat);
}

enum cabe_chat_kind cabe_chat_kind(const struct cabe_chat *chat)
{
    return chat->kind;
}

const char *cabe_chat_stop(const struct cabe_chat *chat)
{
    return chat->kind == CABE_CHAT_PLAIN ? "\nuser:" : chat->kind == CABE_CHAT_CHATML ? "<|im_end|>" : NULL;
}

enum cabe_status cabe_chat_render_json(const struct cabe_chat *chat, const json_t *messages,
                                       const json_t *tools, int add_generation_prompt, const json_t *extra,
                                       const struct cabe_template_limits *limits,
                                       struct cabe_template_result *out, struct cabe_error *err)
{
    static const char *const outside[] = {"messages", "tools", "documents", NULL};
    json_t *variables = json_copy(chat->tokens);
    enum cabe_status status;

    *out = (struct cabe_template_result){0};
    if (tools && json_array_size(tools) > 0 && !chat->has_tools) {
        json_decref(variables);
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "tools: the model has no chat template that tells it of them");
    }
    if (!variables || (extra && json_object_update(variables, (json_t *)(uintptr_t)extra) != 0) ||
        json_object_set(variables, "messages", (json_t *)(uintptr_t)messages) != 0 ||
        (tools && json_object_set(variables, "tools", (json_t *)(uintptr_t)tools) != 0) ||
        json_object_set_new(variables, "add_generation_prompt", json_boolean(add_generation_prompt)) != 0)
        status = cabe_fail(err, CABE_ERR_OOM, "the variables of a chat template");
    else
        status = cabe_template_render_marked(chat->template, variables, outside, limits, out, err);
    json_decref(variables);
    return status;
}

static enum cabe_status add_message(json_t *list, const struct cabe_chat_message *message, size_t index,
                                    struct cabe_error *err)
{
    json_t *object, *content;

    for (size_t i = 0, n; i < message->content_bytes; i += n) {
        n = cabe_utf8_length(message->content + i, message->content_bytes - i);
        if (n == 0)
            return cabe_fail(err, CABE_ERR_FORMAT, "message %zu: byte %zu is not UTF-8", index, i);
    }
    object = json_pack("{s:s}", "role", message->role);
    content = json_stringn_nocheck(message->content ? message->content : "", message->content_bytes);
    if (!object || !content || json_object_set(object, "content", content) != 0 ||
        json_array_append(list, object) != 0) {
        json_decref(object);
        json_decref(content);
        return cabe_fail(err, CABE_ERR_OOM, "message %zu, or its role is not UTF-8", index);
    }
    json_decref(object);
    json_decref(content);
    return CABE_OK;
}

enum cabe_status cabe_chat_render(const struct cabe_chat *chat, const struct cabe_chat_message *messages,
                                  size_t n_messages, const json_t *tools, int add_generation_prompt,
                                  const json_t *extra, const struct cabe_template_limits *limits,
                                  struct cabe_template_result *out, struct cabe_error *err)
{
    json_t *list = json_array();
    enum cabe_status status = list ? CABE_OK : cabe_fail(err, CABE_ERR_OOM, "messages");

    *out = (struct cabe_template_result){0};
    for (size_t i = 0; status == CABE_OK && i < n_messages; i++)
        status = add_message(list, &messages[i], i, err);
    if (status == CABE_OK)
        status = cabe_chat_render_json(chat, list, tools, add_generation_prompt, extra, limits, out, err);
    json_decref(list);
    return status;
}

void cabe_chat_result_clear(struct cabe_template_result *result)
{
    cabe_template_result_clear(result);
}

static int is_outside(const struct cabe_template_result *prompt, size_t begin, size_t end)
{
    size_t low = 0, high = prompt->n_outside; /* the first range that ends behind `begin` */

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (prompt->outside[middle].end <= begin)
            low = middle + 1;
        else
            high = middle;
    }
    return low < prompt->n_outside && prompt->outside[low].begin < end;
}

/* The first place in [begin, end) where `token` begins and a byte of it is from outside, or SIZE_MAX. */
static size_t find_token(const struct cabe_template_result *prompt, const char *token, size_t bytes,
                         size_t begin, size_t end)
{
    while (bytes > 0 && begin < end) {
        size_t room =
            prompt->bytes - begin < end - begin + bytes - 1 ? prompt->bytes - begin : end - begin + bytes - 1;
        const char *found = memmem(prompt->text + begin, room, token, bytes);

        if (!found)
            break;
        begin = (size_t)(found - prompt->text);
        if (is_outside(prompt, begin, begin + bytes))
            return begin;
        begin++;
    }
    return SIZE_MAX;
}

/*
 * The first special token from `begin` on that has a byte from outside: its end, 0 for none. The longest at a
 * place. In windows that grow, so that many of them in one text do not make it walk to the end for each.
 */
static size_t find_spelled(const struct cabe_template_result *prompt, const char *const *special,
                           const size_t *bytes, size_t n, size_t begin, size_t *at)
{
    size_t window = 256, end = 0;

    for (size_t from = begin; from < prompt->bytes && end == 0; from += window, window *= 4) {
        size_t to = prompt->bytes - from < window ? prompt->bytes : from + window;

        *at = to;
        for (size_t i = 0; i < n; i++) {
            size_t here = find_token(prompt, special[i], bytes[i], from, *at < to ? *at + 1 : to);

            if (here == SIZE_MAX)
                continue;
            end = here < *at || here + bytes[i] > end ? here + bytes[i] : end;
            *at = here;
        }
    }
    return end;
}

int cabe_chat_next_segment(const struct cabe_template_result *prompt, const char *const *special,
                           const size_t *bytes, size_t n, size_t begin, struct cabe_chat_segment *out)
{
    size_t at = begin, end;

    if (begin >= prompt->bytes)
        return 0;
    end = prompt->n_outside ? find_spelled(prompt, special, bytes, n, begin, &at) : 0;
    if (end == 0)
        *out = (struct cabe_chat_segment){begin, prompt->bytes, 1};
    else if (at > begin)
        *out = (struct cabe_chat_segment){begin, at, 1};
    else
        *out = (struct cabe_chat_segment){begin, end, 0};
    return 1;
}
