/* OpenAI's completions, of chats and of texts, as they are written. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "serve/api_impl.h"

#define NO_LOGPROB (-9999.0) /* what OpenAI writes for minus infinity */

const char *api_finish_name(const struct api_choice *choice)
{
    if (choice->scan.n_calls > 0)
        return "tool_calls";
    return choice->finish == CABE_SERVICE_STOP || choice->finish == CABE_SERVICE_TOOLS ? "stop" : "length";
}

void api_put_usage(struct api_text *out, const struct cabe_service_counts *counts)
{
    api_printf(out,
               "\"usage\":{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld,"
               "\"prompt_tokens_details\":{\"cached_tokens\":%lld}}",
               (long long)counts->n_prompt, (long long)counts->n_new, (long long)(counts->n_prompt + counts->n_new),
               (long long)counts->n_cached);
}

void api_put_token_text(struct api_text *out, const struct cabe_tokenizer *tokenizer, int32_t token,
                        struct api_text *bytes)
{
    size_t room = cabe_tokenizer_decode_max(tokenizer), n;
    char small[256], *text = room <= sizeof small ? small : (char *)cabe_malloc(room);

    if (!text) {
        out->failed = 1;
        return;
    }
    n = cabe_tokenizer_decode(tokenizer, token, CABE_DECODE_SPECIAL, text);
    api_put_string(out, text, n);
    for (size_t i = 0; bytes && i < n; i++)
        api_printf(bytes, "%s%u", i ? "," : "", (unsigned char)text[i]);
    if (text != small)
        cabe_free(text);
}

void api_put_token(struct api_text *out, const struct cabe_tokenizer *tokenizer, int32_t token, double logprob)
{
    struct api_text bytes = {0};

    api_puts(out, "\"token\":");
    api_put_token_text(out, tokenizer, token, &bytes);
    api_puts(out, ",\"logprob\":");
    api_put_number(out, logprob, NO_LOGPROB);
    api_puts(out, ",\"bytes\":[");
    api_put(out, bytes.bytes, bytes.n);
    api_puts(out, "]");
    out->failed |= bytes.failed;
    api_text_clear(&bytes);
}

static void chat_logprob(struct api_answer *answer, struct api_choice *choice, const struct cabe_sampled *sampled,
                         const struct cabe_tokenizer *tokenizer)
{
    struct api_text *out = &choice->logprob[0];

    (void)answer;
    if (isnan(sampled->logprob))
        return;
    api_puts(out, out->n ? ",{" : "{");
    api_put_token(out, tokenizer, sampled->token, (double)sampled->logprob);
    api_puts(out, ",\"top_logprobs\":[");
    for (int32_t i = 0; i < sampled->n_top; i++) {
        api_puts(out, i ? ",{" : "{");
        api_put_token(out, tokenizer, sampled->top[i].token, (double)sampled->top[i].logprob);
        api_puts(out, "}");
    }
    api_puts(out, "]}");
}

/* As OpenAI names tokens in these lists: by their text, or what is part of a character by its bytes: "bytes:\xc3". */
static void put_token_name(struct api_text *out, const struct cabe_tokenizer *tokenizer, int32_t token)
{
    char small[256], *text = small;
    size_t room = cabe_tokenizer_decode_max(tokenizer), n, whole = 0, length;
    struct api_text bytes = {0};

    if (room > sizeof small)
        text = (char *)cabe_malloc(room);
    if (!text) {
        out->failed = 1;
        return;
    }
    n = cabe_tokenizer_decode(tokenizer, token, CABE_DECODE_SPECIAL, text);
    while (whole < n && (length = cabe_utf8_length(text + whole, n - whole)) > 0)
        whole += length;
    if (whole == n) {
        api_put_string(out, text, n);
    } else {
        api_puts(&bytes, "bytes:");
        for (size_t i = 0; i < n; i++)
            api_printf(&bytes, text[i] >= ' ' && text[i] < 127 ? "%c" : "\\x%02x", (unsigned char)text[i]);
        api_put_string(out, bytes.bytes, bytes.n);
        out->failed |= bytes.failed;
        api_text_clear(&bytes);
    }
    if (text != small)
        cabe_free(text);
}

static void put_named(struct api_text *out, const struct cabe_tokenizer *tokenizer, int32_t token, double logprob, int is_first)
{
    if (!is_first)
        api_puts(out, ",");
    put_token_name(out, tokenizer, token);
    api_puts(out, ":");
    api_put_number(out, logprob, NO_LOGPROB);
}

/* Lists: tokens, token_logprobs, top_logprobs, text_offset. The likeliest, and the token itself where it is not among them. */
static void text_logprob(struct api_answer *answer, struct api_choice *choice, const struct cabe_sampled *sampled,
                         const struct cabe_tokenizer *tokenizer)
{
    struct api_text *list = choice->logprob;
    int is_among = 0;

    (void)answer;
    for (int i = 0; i < 4; i++)
        if (list[i].n)
            api_puts(&list[i], ",");
    put_token_name(&list[0], tokenizer, sampled->token);
    api_printf(&list[3], "%zu", choice->offset);
    if (isnan(sampled->logprob)) { /* the first of a prompt */
        api_puts(&list[1], "null");
        api_puts(&list[2], "null");
        return;
    }
    api_put_number(&list[1], (double)sampled->logprob, NO_LOGPROB);
    api_puts(&list[2], "{");
    for (int32_t i = 0; i < sampled->n_top; i++) {
        is_among |= sampled->top[i].token == sampled->token;
        put_named(&list[2], tokenizer, sampled->top[i].token, (double)sampled->top[i].logprob, i == 0);
    }
    if (!is_among)
        put_named(&list[2], tokenizer, sampled->token, (double)sampled->logprob, sampled->n_top == 0);
    api_puts(&list[2], "}");
}

/* Writes what a choice has collected, and forgets it. */
static void put_chat_logprobs(struct api_answer *answer, struct api_choice *choice)
{
    struct api_text *list = choice->logprob;

    if (!answer->request.with_logprobs) {
        api_puts(&answer->out, ",\"logprobs\":null");
        return;
    }
    api_puts(&answer->out, ",\"logprobs\":{\"content\":[");
    api_put(&answer->out, list[0].bytes, list[0].n);
    api_puts(&answer->out, "],\"refusal\":null}");
    answer->out.failed |= list[0].failed;
    list[0].n = 0;
}

static void put_text_logprobs(struct api_answer *answer, struct api_choice *choice)
{
    static const char *const names[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};

    if (!answer->request.with_logprobs) {
        api_puts(&answer->out, ",\"logprobs\":null");
        return;
    }
    api_puts(&answer->out, ",\"logprobs\":");
    for (int i = 0; i < 4; i++) {
        struct api_text *list = &choice->logprob[i];

        api_printf(&answer->out, "%c\"%s\":[", i ? ',' : '{', names[i]);
        api_put(&answer->out, list->bytes, list->n);
        api_puts(&answer->out, "]");
        answer->out.failed |= list->failed;
        list->n = 0;
    }
    api_puts(&answer->out, "}");
}

static void put_head(struct api_answer *answer, const char *object)
{
    api_puts(&answer->out, "{\"id\":");
    api_put_string(&answer->out, answer->id, strlen(answer->id));
    api_printf(&answer->out, ",\"object\":\"%s\",\"created\":%lld,\"model\":", object, (long long)answer->created_s);
    api_put_string(&answer->out, answer->model, strlen(answer->model));
    api_puts(&answer->out, ",\"system_fingerprint\":\"cabe-" CABE_VERSION "\",\"choices\":[");
}

static void put_call(struct api_text *out, const struct api_call *call)
{
    api_puts(out, "\"id\":");
    api_put_string(out, call->id, strlen(call->id));
    api_puts(out, ",\"type\":\"function\",\"function\":{\"name\":");
    api_put_string(out, call->name, strlen(call->name));
    api_puts(out, ",\"arguments\":");
    api_put_string(out, call->arguments, strlen(call->arguments));
    api_puts(out, "}");
}

/* ---- chunks ---- */

static void begin_chunk(struct api_answer *answer, const char *object, int32_t index)
{
    api_puts(&answer->out, "data: ");
    put_head(answer, object);
    api_printf(&answer->out, "{\"index\":%d,", index);
}

static void end_chunk(struct api_answer *answer, const char *finish)
{
    if (finish)
        api_printf(&answer->out, ",\"finish_reason\":\"%s\"}]", finish);
    else
        api_puts(&answer->out, ",\"finish_reason\":null}]");
    api_puts(&answer->out, answer->request.with_usage ? ",\"usage\":null}\n\n" : "}\n\n");
}

#define CHAT_CHUNK "chat.completion.chunk"
#define TEXT "text_completion"

static void chat_begin(struct api_answer *answer)
{
    for (int32_t i = 0; i < answer->n_choices; i++) {
        begin_chunk(answer, CHAT_CHUNK, i);
        api_puts(&answer->out, "\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},\"logprobs\":null");
        end_chunk(answer, NULL);
    }
}

static void chat_piece(struct api_answer *answer, int32_t index, const char *bytes, size_t n)
{
    begin_chunk(answer, CHAT_CHUNK, index);
    api_puts(&answer->out, "\"delta\":{\"content\":");
    api_put_string(&answer->out, bytes, n);
    api_puts(&answer->out, "}");
    put_chat_logprobs(answer, &answer->choices[index]);
    end_chunk(answer, NULL);
}

static void chat_call(struct api_answer *answer, int32_t index, const struct api_call *call, int nth)
{
    begin_chunk(answer, CHAT_CHUNK, index);
    api_printf(&answer->out, "\"delta\":{\"tool_calls\":[{\"index\":%d,", nth);
    put_call(&answer->out, call);
    api_puts(&answer->out, "}]},\"logprobs\":null");
    end_chunk(answer, NULL);
}

static void chat_finish(struct api_answer *answer, int32_t index)
{
    begin_chunk(answer, CHAT_CHUNK, index);
    api_puts(&answer->out, "\"delta\":{},\"logprobs\":null");
    end_chunk(answer, api_finish_name(&answer->choices[index]));
}

static void end_stream(struct api_answer *answer, const char *object)
{
    if (answer->request.with_usage) {
        api_puts(&answer->out, "data: ");
        put_head(answer, object);
        api_puts(&answer->out, "],");
        api_put_usage(&answer->out, &answer->counts);
        api_puts(&answer->out, "}\n\n");
    }
    api_puts(&answer->out, "data: [DONE]\n\n");
}

static void chat_end(struct api_answer *answer)
{
    end_stream(answer, CHAT_CHUNK);
}

static void stream_error(struct api_answer *answer, const struct api_fault *fault)
{
    api_puts(&answer->out, "data: {\"error\":{\"message\":");
    api_put_string(&answer->out, fault->text, strlen(fault->text));
    api_printf(&answer->out, ",\"type\":\"%s\",\"param\":", api_error_type(fault->status));
    if (fault->param[0])
        api_put_string(&answer->out, fault->param, strlen(fault->param));
    else
        api_puts(&answer->out, "null");
    api_printf(&answer->out, ",\"code\":\"%s\"}}\n\ndata: [DONE]\n\n", fault->code ? fault->code : "error");
}

static void chat_whole(struct api_answer *answer)
{
    put_head(answer, "chat.completion");
    for (int32_t i = 0; i < answer->n_choices; i++) {
        struct api_choice *choice = &answer->choices[i];

        api_printf(&answer->out, "%s{\"index\":%d,\"message\":{\"role\":\"assistant\",\"content\":", i ? "," : "", i);
        if (choice->text.n == 0 && choice->scan.n_calls > 0)
            api_puts(&answer->out, "null");
        else
            api_put_string(&answer->out, choice->text.bytes, choice->text.n);
        api_puts(&answer->out, ",\"refusal\":null");
        for (int k = 0; k < choice->scan.n_calls; k++) {
            api_puts(&answer->out, k ? ",{" : ",\"tool_calls\":[{");
            put_call(&answer->out, &choice->scan.calls[k]);
            api_puts(&answer->out, k + 1 == choice->scan.n_calls ? "}]" : "}");
        }
        api_puts(&answer->out, "}");
        put_chat_logprobs(answer, choice);
        api_printf(&answer->out, ",\"finish_reason\":\"%s\"}", api_finish_name(choice));
    }
    api_puts(&answer->out, "],");
    api_put_usage(&answer->out, &answer->counts);
    api_puts(&answer->out, "}");
}

const struct api_form api_form_chat = {.stream_type = "text/event-stream",
                                       .begin = chat_begin,
                                       .piece = chat_piece,
                                       .call = chat_call,
                                       .finish = chat_finish,
                                       .end = chat_end,
                                       .error = stream_error,
                                       .whole = chat_whole,
                                       .logprob = chat_logprob};

/* ---- texts ---- */

static void text_piece(struct api_answer *answer, int32_t index, const char *bytes, size_t n)
{
    begin_chunk(answer, TEXT, index);
    api_puts(&answer->out, "\"text\":");
    api_put_string(&answer->out, bytes, n);
    put_text_logprobs(answer, &answer->choices[index]);
    end_chunk(answer, NULL);
}

static void text_begin(struct api_answer *answer)
{
    for (int32_t i = 0; answer->request.echo && !answer->request.score && i < answer->n_choices; i++) {
        int part = i / answer->request.n;

        text_piece(answer, i, answer->request.prompt[part], answer->request.prompt_bytes[part]);
    }
}

static void text_finish(struct api_answer *answer, int32_t index)
{
    begin_chunk(answer, TEXT, index);
    api_puts(&answer->out, "\"text\":\"\",\"logprobs\":null");
    end_chunk(answer, api_finish_name(&answer->choices[index]));
}

static void text_end(struct api_answer *answer)
{
    end_stream(answer, TEXT);
}

static void text_whole(struct api_answer *answer)
{
    put_head(answer, TEXT);
    for (int32_t i = 0; i < answer->n_choices; i++) {
        struct api_choice *choice = &answer->choices[i];
        struct api_text all = {0};
        int part = i / answer->request.n;

        if (answer->request.echo && answer->request.prompt[part])
            api_put(&all, answer->request.prompt[part], answer->request.prompt_bytes[part]);
        else if (answer->request.echo)
            api_put(&all, choice->echo.bytes, choice->echo.n);
        api_put(&all, choice->text.bytes, choice->text.n);
        api_printf(&answer->out, "%s{\"index\":%d,\"text\":", i ? "," : "", i);
        api_put_string(&answer->out, all.bytes, all.n);
        answer->out.failed |= all.failed;
        api_text_clear(&all);
        put_text_logprobs(answer, choice);
        api_printf(&answer->out, ",\"finish_reason\":\"%s\"}", api_finish_name(choice));
    }
    api_puts(&answer->out, "],");
    api_put_usage(&answer->out, &answer->counts);
    api_puts(&answer->out, "}");
}

const struct api_form api_form_completion = {.stream_type = "text/event-stream",
                                             .begin = text_begin,
                                             .piece = text_piece,
                                             .finish = text_finish,
                                             .end = text_end,
                                             .error = stream_error,
                                             .whole = text_whole,
                                             .logprob = text_logprob};
