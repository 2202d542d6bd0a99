/* Answers of OpenAI's Responses API: an object with items of output, or a stream of typed events. */
#include <string.h>

#include "base/memory.h"
#include "serve/api_impl.h"

#define ITEMS_MAX 160

struct items { /* of a stream, in the order they were opened */
    int n, open; /* the last one is a message that text still goes to */
    struct {
        int call; /* -1: a message with bytes [begin, end) of the choice's text */
        size_t begin, end;
    } item[ITEMS_MAX];
};

static struct items *items_of(struct api_answer *answer)
{
    if (!answer->extra) {
        answer->extra = cabe_calloc(1, sizeof(struct items));
        if (!answer->extra)
            answer->out.failed = 1;
    }
    return (struct items *)answer->extra;
}

/* ---- objects ---- */

static void put_item_id(struct api_answer *answer, int index, int is_call)
{
    api_printf(&answer->out, "\"%s_%.40s%02d\"", is_call ? "fc" : "msg", answer->id + 5, index);
}

/* {"type": "output_text", ...} of bytes of the text. */
static void put_part(struct api_answer *answer, size_t begin, size_t end)
{
    const struct api_text *text = &answer->choices[0].text;

    api_puts(&answer->out, "{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":");
    api_put_string(&answer->out, text->bytes ? text->bytes + begin : "", end - begin);
    api_puts(&answer->out, "}");
}

static void put_message(struct api_answer *answer, int index, size_t begin, size_t end, const char *status)
{
    api_puts(&answer->out, "{\"type\":\"message\",\"id\":");
    put_item_id(answer, index, 0);
    api_printf(&answer->out, ",\"status\":\"%s\",\"role\":\"assistant\",\"content\":[", status);
    if (strcmp(status, "in_progress") != 0)
        put_part(answer, begin, end);
    api_puts(&answer->out, "]}");
}

static void put_call(struct api_answer *answer, int index, const struct api_call *call, int is_new)
{
    api_puts(&answer->out, "{\"type\":\"function_call\",\"id\":");
    put_item_id(answer, index, 1);
    api_printf(&answer->out, ",\"status\":\"%s\",\"call_id\":\"%s\",\"name\":", is_new ? "in_progress" : "completed",
               call->id);
    api_put_string(&answer->out, call->name, strlen(call->name));
    api_puts(&answer->out, ",\"arguments\":");
    api_put_string(&answer->out, is_new ? "" : call->arguments, is_new ? 0 : strlen(call->arguments));
    api_puts(&answer->out, "}");
}

static int is_cut(const struct api_answer *answer)
{
    const struct api_choice *choice = &answer->choices[0];

    return choice->finished && choice->scan.n_calls == 0 &&
           (choice->finish == CABE_SERVICE_LENGTH || choice->finish == CABE_SERVICE_TIMEOUT);
}

static void put_output(struct api_answer *answer)
{
    const struct api_choice *choice = &answer->choices[0];
    const struct items *items = (const struct items *)answer->extra;
    const char *status = is_cut(answer) ? "incomplete" : "completed";
    int n = 0;

    for (int i = 0; items && i < items->n; i++) {
        api_puts(&answer->out, i ? "," : "");
        if (items->item[i].call >= 0)
            put_call(answer, i, &choice->scan.calls[items->item[i].call], 0);
        else
            put_message(answer, i, items->item[i].begin, items->item[i].end, status);
    }
    if (items)
        return;
    if (choice->text.n > 0 || choice->scan.n_calls == 0)
        put_message(answer, n++, 0, choice->text.n, status);
    for (int k = 0; k < choice->scan.n_calls; k++) {
        api_puts(&answer->out, n ? "," : "");
        put_call(answer, n++, &choice->scan.calls[k], 0);
    }
}

static void put_field(struct api_answer *answer, const char *name, const char *fallback)
{
    const json_t *value = json_object_get(answer->request.body, name);

    api_printf(&answer->out, ",\"%s\":", name);
    if (value && !json_is_null(value))
        api_put_json(&answer->out, value);
    else
        api_puts(&answer->out, fallback);
}

static void put_response_usage(struct api_answer *answer)
{
    const struct cabe_service_counts *c = &answer->counts;

    api_printf(&answer->out,
               ",\"usage\":{\"input_tokens\":%lld,\"input_tokens_details\":{\"cached_tokens\":%lld},\"output_tokens\":%lld,"
               "\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":%lld}",
               (long long)c->n_prompt, (long long)c->n_cached, (long long)c->n_new,
               (long long)(c->n_prompt + c->n_new));
}

static void put_response(struct api_answer *answer, const char *status, const struct api_fault *fault)
{
    int is_over = strcmp(status, "in_progress") != 0;

    api_printf(&answer->out, "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\",\"model\":",
               answer->id, (long long)answer->created_s, status);
    api_put_string(&answer->out, answer->model, strlen(answer->model));
    api_puts(&answer->out, ",\"output\":[");
    if (is_over && !fault)
        put_output(answer);
    api_puts(&answer->out, "],\"error\":");
    if (fault) {
        api_printf(&answer->out, "{\"code\":\"%s\",\"message\":", fault->code ? fault->code : "server_error");
        api_put_string(&answer->out, fault->text, strlen(fault->text));
        api_puts(&answer->out, "}");
    } else {
        api_puts(&answer->out, "null");
    }
    api_puts(&answer->out, is_over && is_cut(answer) ? ",\"incomplete_details\":{\"reason\":\"max_output_tokens\"}"
                                                     : ",\"incomplete_details\":null");
    put_field(answer, "instructions", "null");
    put_field(answer, "max_output_tokens", "null");
    put_field(answer, "metadata", "{}");
    put_field(answer, "tool_choice", "\"auto\"");
    put_field(answer, "tools", "[]");
    put_field(answer, "user", "null");
    api_printf(&answer->out,
               ",\"temperature\":%g,\"top_p\":%g,\"parallel_tool_calls\":true,\"previous_response_id\":null,"
               "\"store\":false,\"truncation\":\"disabled\",\"text\":{\"format\":{\"type\":\"text\"}},"
               "\"reasoning\":{\"effort\":null,\"summary\":null}",
               (double)answer->request.sampling.temperature, (double)answer->request.sampling.top_p);
    if (is_over && !fault)
        put_response_usage(answer);
    else
        api_puts(&answer->out, ",\"usage\":null");
    api_puts(&answer->out, "}");
}

/* ---- events ---- */

static void begin_event(struct api_answer *answer, const char *type)
{
    api_printf(&answer->out, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%lld", type, type,
               (long long)answer->sequence++);
}

static void end_event(struct api_answer *answer)
{
    api_puts(&answer->out, "}\n\n");
}

static void put_event_response(struct api_answer *answer, const char *type, const char *status,
                               const struct api_fault *fault)
{
    begin_event(answer, type);
    api_puts(&answer->out, ",\"response\":");
    put_response(answer, status, fault);
    end_event(answer);
}

/* An event of an item, with its index and id. */
static void begin_item_event(struct api_answer *answer, const char *type, int index, int is_call)
{
    begin_event(answer, type);
    api_printf(&answer->out, ",\"output_index\":%d,\"item_id\":", index);
    put_item_id(answer, index, is_call);
}

static void begin_response(struct api_answer *answer)
{
    put_event_response(answer, "response.created", "in_progress", NULL);
    put_event_response(answer, "response.in_progress", "in_progress", NULL);
}

static void open_message(struct api_answer *answer, struct items *items, size_t begin)
{
    int index = items->n++;

    items->open = 1;
    items->item[index].call = -1;
    items->item[index].begin = items->item[index].end = begin;
    begin_event(answer, "response.output_item.added");
    api_printf(&answer->out, ",\"output_index\":%d,\"item\":", index);
    put_message(answer, index, 0, 0, "in_progress");
    end_event(answer);
    begin_item_event(answer, "response.content_part.added", index, 0);
    api_puts(&answer->out, ",\"content_index\":0,\"part\":");
    put_part(answer, 0, 0);
    end_event(answer);
}

static void close_message(struct api_answer *answer, struct items *items)
{
    const struct api_text *text = &answer->choices[0].text;
    int index = items->n - 1;
    size_t begin, end;

    if (!items->open)
        return;
    items->open = 0;
    begin = items->item[index].begin;
    end = items->item[index].end;
    begin_item_event(answer, "response.output_text.done", index, 0);
    api_puts(&answer->out, ",\"content_index\":0,\"logprobs\":[],\"text\":");
    api_put_string(&answer->out, text->bytes ? text->bytes + begin : "", end - begin);
    end_event(answer);
    begin_item_event(answer, "response.content_part.done", index, 0);
    api_puts(&answer->out, ",\"content_index\":0,\"part\":");
    put_part(answer, begin, end);
    end_event(answer);
    begin_event(answer, "response.output_item.done");
    api_printf(&answer->out, ",\"output_index\":%d,\"item\":", index);
    put_message(answer, index, begin, end, is_cut(answer) ? "incomplete" : "completed");
    end_event(answer);
}

static void put_piece(struct api_answer *answer, int32_t choice, const char *bytes, size_t n)
{
    struct items *items = items_of(answer);
    size_t end = answer->choices[choice].text.n; /* these bytes are its end already */

    if (!items || n == 0)
        return;
    if (!items->open && items->n < ITEMS_MAX)
        open_message(answer, items, end - n);
    items->item[items->n - 1].end = end;
    begin_item_event(answer, "response.output_text.delta", items->n - 1, 0);
    api_puts(&answer->out, ",\"content_index\":0,\"logprobs\":[],\"delta\":");
    api_put_string(&answer->out, bytes, n);
    end_event(answer);
}

static void tell_call(struct api_answer *answer, int32_t choice, const struct api_call *call, int nth)
{
    struct items *items = items_of(answer);
    int index;

    (void)choice;
    if (!items || items->n >= ITEMS_MAX)
        return;
    close_message(answer, items);
    index = items->n++;
    items->item[index].call = nth;
    begin_event(answer, "response.output_item.added");
    api_printf(&answer->out, ",\"output_index\":%d,\"item\":", index);
    put_call(answer, index, call, 1);
    end_event(answer);
    begin_item_event(answer, "response.function_call_arguments.delta", index, 1);
    api_puts(&answer->out, ",\"delta\":");
    api_put_string(&answer->out, call->arguments, strlen(call->arguments));
    end_event(answer);
    begin_item_event(answer, "response.function_call_arguments.done", index, 1);
    api_puts(&answer->out, ",\"name\":");
    api_put_string(&answer->out, call->name, strlen(call->name));
    api_puts(&answer->out, ",\"arguments\":");
    api_put_string(&answer->out, call->arguments, strlen(call->arguments));
    end_event(answer);
    begin_event(answer, "response.output_item.done");
    api_printf(&answer->out, ",\"output_index\":%d,\"item\":", index);
    put_call(answer, index, call, 0);
    end_event(answer);
}

static void finish_items(struct api_answer *answer, int32_t choice)
{
    struct items *items = items_of(answer);

    (void)choice;
    if (!items)
        return;
    if (items->n == 0) /* not a word: an empty message */
        open_message(answer, items, 0);
    close_message(answer, items);
}

static void end_response(struct api_answer *answer)
{
    int cut = is_cut(answer);

    put_event_response(answer, cut ? "response.incomplete" : "response.completed", cut ? "incomplete" : "completed", NULL);
}

static void tell_error(struct api_answer *answer, const struct api_fault *fault)
{
    begin_event(answer, "error");
    api_printf(&answer->out, ",\"code\":\"%s\",\"param\":null,\"message\":", fault->code ? fault->code : "server_error");
    api_put_string(&answer->out, fault->text, strlen(fault->text));
    end_event(answer);
    put_event_response(answer, "response.failed", "failed", fault);
}

static void whole_response(struct api_answer *answer)
{
    put_response(answer, is_cut(answer) ? "incomplete" : "completed", NULL);
}

const struct api_form api_form_response = {.stream_type = "text/event-stream",
                                           .begin = begin_response,
                                           .piece = put_piece,
                                           .call = tell_call,
                                           .finish = finish_items,
                                           .end = end_response,
                                           .error = tell_error,
                                           .whole = whole_response};
