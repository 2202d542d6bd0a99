/* Requests of every API from any JSON, and answers to those that are fine; calls of tools in any text. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "serve/api_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* The service takes everything; its callbacks are called here. */
static struct cabe_service_ask taken;
static int n_taken;

enum cabe_status cabe_service_ask(struct cabe_service *service, const struct cabe_service_ask *ask,
                                  struct cabe_service_ticket **ticket, struct cabe_service_refusal *refusal,
                                  struct cabe_error *err)
{
    (void)service;
    (void)refusal;
    if (n_taken++ > 0)
        return cabe_fail(err, CABE_ERR_LIMIT, "one at a time");
    taken = *ask;
    *ticket = (struct cabe_service_ticket *)&taken;
    return CABE_OK;
}

void cabe_service_cancel(struct cabe_service *service, struct cabe_service_ticket *ticket)
{
    (void)service;
    (void)ticket;
}

struct sunk {
    size_t n;
    int n_released;
};

static void sink_begin(void *self, const char *type)
{
    (void)self;
    (void)type;
}

static enum cabe_status sink_send(void *self, const void *bytes, size_t n)
{
    struct sunk *sunk = (struct sunk *)self;

    if (memchr(bytes, '\0', n)) /* text is text */
        abort();
    sunk->n += n;
    return sunk->n > 65536 ? CABE_ERR_LIMIT : CABE_OK;
}

static void sink_end(void *self)
{
    (void)self;
}

static void sink_reply(void *self, const char *type, const void *bytes, size_t n)
{
    json_t *json = json_loadb((const char *)bytes, n, JSON_ALLOW_NUL, NULL);

    (void)self;
    (void)type;
    if (!json) /* whatever was asked for, an answer is JSON */
        abort();
    json_decref(json);
}

static void sink_refuse(void *self, const struct api_fault *fault, const struct cabe_error *err,
                        const struct cabe_service_refusal *refusal)
{
    (void)self;
    (void)err;
    (void)refusal;
    if (fault->status < 400)
        abort();
}

static void sink_release(void *self, struct api_answer *answer)
{
    (void)answer;
    ((struct sunk *)self)->n_released++;
}

static void play(const char *text, size_t n)
{
    const struct cabe_service_counts counts = {.n_prompt = 5, .n_new = 4};

    taken.started(taken.self, &counts);
    for (int32_t choice = 0; choice < taken.n_choices; choice++) {
        for (size_t i = 0; i < n; i += 7)
            taken.text(taken.self, choice, text + i, n - i < 7 ? n - i : 7, NULL, NULL);
        taken.finished(taken.self, choice, CABE_SERVICE_STOP);
    }
    taken.ended(taken.self, CABE_OK, NULL, &counts);
}

static void answer(json_t *body, api_reader *read, const struct api_form *form, const char *text, size_t n)
{
    struct sunk sunk = {0};
    const struct api_sink sink = {.self = &sunk,
                                  .begin = sink_begin,
                                  .send = sink_send,
                                  .end = sink_end,
                                  .reply = sink_reply,
                                  .refuse = sink_refuse,
                                  .release = sink_release};
    struct api_request request;
    struct api_fault fault = {0};
    struct api_answer *made;

    n_taken = 0;
    api_request_init(&request, json_incref(body));
    read(&request, &fault);
    if (!fault.status && !request.messages && request.n_prompts == 0)
        api_refuse(&fault, 400, "nothing", NULL, "only to load");
    made = fault.status ? NULL : api_answer_open(&request, form, &sink, "");
    if (!made) {
        api_request_clear(&request);
        return;
    }
    api_answer_ask(made, NULL);
    if (n_taken > 0)
        play(text, n);
    if (sunk.n_released != 1)
        abort();
    api_answer_release(made);
}

static void embed(json_t *body, enum api_embed_form form)
{
    struct api_embed wish = {.form = form, .body = json_incref(body)};
    struct api_fault fault = {0};

    if (form == API_EMBED_OPENAI)
        api_read_embeddings(&wish, &fault);
    else
        api_read_ollama_embed(&wish, &fault);
    api_embed_clear(&wish);
}

/* A JSON object; what is behind its first NUL byte is what the model writes. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const char *text = n ? (const char *)memchr(data, '\0', n) : NULL;
    size_t n_json = text ? (size_t)(text - (const char *)data) : n, n_text = text ? n - n_json - 1 : 0;
    json_t *body = json_loadb((const char *)data, n_json, JSON_REJECT_DUPLICATES, NULL);

    text = text ? text + 1 : "";
    if (json_is_object(body)) {
        answer(body, api_read_chat, &api_form_chat, text, n_text);
        answer(body, api_read_completion, &api_form_completion, text, n_text);
        answer(body, api_read_response, &api_form_response, text, n_text);
        answer(body, api_read_ollama_chat, &api_form_ollama_chat, text, n_text);
        answer(body, api_read_ollama_generate, &api_form_ollama_generate, text, n_text);
        embed(body, API_EMBED_OPENAI);
        embed(body, API_EMBED_OLLAMA);
        embed(body, API_EMBED_OLLAMA_OLD);
    }
    json_decref(body);
    return 0;
}
