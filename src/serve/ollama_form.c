/* Ollama's answers, one JSON object a line. */
#include <string.h>

#include "base/clock.h"
#include "serve/api_impl.h"

static void put_head(struct api_answer *answer)
{
    char stamp[API_TIME_MAX];

    api_puts(&answer->out, "{\"model\":");
    api_put_string(&answer->out, answer->model, strlen(answer->model));
    api_printf(&answer->out, ",\"created_at\":\"%s\",", api_time(0, stamp));
}

static void put_calls(struct api_text *out, const struct api_call *calls, int n)
{
    for (int i = 0; i < n; i++) {
        json_t *arguments = json_loads(calls[i].arguments, 0, NULL);

        api_puts(out, i ? ",{\"function\":{\"name\":" : ",\"tool_calls\":[{\"function\":{\"name\":");
        api_put_string(out, calls[i].name, strlen(calls[i].name));
        api_puts(out, ",\"arguments\":");
        if (arguments)
            api_put_json(out, arguments);
        else
            api_puts(out, "{}");
        api_puts(out, i + 1 == n ? "}}]" : "}}");
        json_decref(arguments);
    }
}

static void put_text(struct api_answer *answer, int is_chat, const char *bytes, size_t n, const struct api_call *calls,
                     int n_calls)
{
    api_puts(&answer->out, is_chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"response\":");
    api_put_string(&answer->out, bytes, n);
    if (is_chat) {
        put_calls(&answer->out, calls, n_calls);
        api_puts(&answer->out, "}");
    }
}

static void put_end(struct api_answer *answer)
{
    const struct cabe_service_counts *c = &answer->counts;
    const struct api_choice *choice = &answer->choices[0];

    api_printf(&answer->out,
               ",\"done\":true,\"done_reason\":\"%s\",\"total_duration\":%llu,\"load_duration\":%llu,"
               "\"prompt_eval_count\":%lld,\"prompt_eval_duration\":%llu,\"eval_count\":%lld,\"eval_duration\":%llu}\n",
               choice->finish == CABE_SERVICE_STOP || choice->finish == CABE_SERVICE_TOOLS ? "stop" : "length",
               (unsigned long long)(cabe_clock_ns() - answer->begun_ns), (unsigned long long)(c->load_s * 1e9),
               (long long)c->n_prompt, (unsigned long long)(c->prompt_s * 1e9), (long long)c->n_new,
               (unsigned long long)(c->answer_s * 1e9));
}

static void piece(struct api_answer *answer, int is_chat, const char *bytes, size_t n, const struct api_call *call)
{
    put_head(answer);
    put_text(answer, is_chat, bytes, n, call, call != NULL);
    api_puts(&answer->out, ",\"done\":false}\n");
}

static void chat_piece(struct api_answer *answer, int32_t index, const char *bytes, size_t n)
{
    (void)index;
    piece(answer, 1, bytes, n, NULL);
}

static void generate_piece(struct api_answer *answer, int32_t index, const char *bytes, size_t n)
{
    (void)index;
    piece(answer, 0, bytes, n, NULL);
}

static void chat_call(struct api_answer *answer, int32_t index, const struct api_call *call, int nth)
{
    (void)index;
    (void)nth;
    piece(answer, 1, "", 0, call);
}

static void end(struct api_answer *answer, int is_chat)
{
    put_head(answer);
    put_text(answer, is_chat, "", 0, NULL, 0);
    put_end(answer);
}

static void chat_end(struct api_answer *answer)
{
    end(answer, 1);
}

static void generate_end(struct api_answer *answer)
{
    end(answer, 0);
}

static void whole(struct api_answer *answer, int is_chat)
{
    const struct api_choice *choice = &answer->choices[0];

    put_head(answer);
    put_text(answer, is_chat, choice->text.bytes, choice->text.n, choice->scan.calls, choice->scan.n_calls);
    put_end(answer);
}

static void chat_whole(struct api_answer *answer)
{
    whole(answer, 1);
}

static void generate_whole(struct api_answer *answer)
{
    whole(answer, 0);
}

static void error(struct api_answer *answer, const struct api_fault *fault)
{
    api_puts(&answer->out, "{\"error\":");
    api_put_string(&answer->out, fault->text, strlen(fault->text));
    api_puts(&answer->out, "}\n");
}

const struct api_form api_form_ollama_chat = {.stream_type = "application/x-ndjson",
                                              .piece = chat_piece,
                                              .call = chat_call,
                                              .end = chat_end,
                                              .error = error,
                                              .whole = chat_whole};

const struct api_form api_form_ollama_generate = {.stream_type = "application/x-ndjson",
                                                  .piece = generate_piece,
                                                  .end = generate_end,
                                                  .error = error,
                                                  .whole = generate_whole};
