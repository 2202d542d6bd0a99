/* Answers and embeddings over HTTP: what reads requests and writes forms, and an exchange between them. */
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "serve/api_impl.h"

#define NUMBER_BYTES 16 /* of an embedding, as it is written */
#define NUMBERS_FREE_BYTES ((size_t)64 << 10) /* so many are not counted one by one */

/* ---- an exchange as a sink ---- */

static void sink_begin(void *self, const char *type)
{
    cabe_http_begin((struct cabe_http_exchange *)self, 200, type);
}

static enum cabe_status sink_send(void *self, const void *bytes, size_t n)
{
    return cabe_http_send((struct cabe_http_exchange *)self, bytes, n);
}

static void sink_end(void *self)
{
    struct cabe_http_exchange *exchange = (struct cabe_http_exchange *)self;

    if (cabe_http_status(exchange) == 0)
        cabe_http_reply(exchange, 499, NULL, NULL, 0); /* to nobody, for the log */
    else
        cabe_http_end(exchange);
}

static void sink_cut(void *self)
{
    cabe_http_cut((struct cabe_http_exchange *)self);
}

static void sink_reply(void *self, const char *type, const void *bytes, size_t n)
{
    cabe_http_reply((struct cabe_http_exchange *)self, 200, type, bytes, n);
}

static void sink_refuse(void *self, const struct api_fault *fault, const struct cabe_error *err,
                        const struct cabe_service_refusal *refusal)
{
    struct cabe_http_exchange *exchange = (struct cabe_http_exchange *)self;

    if (err && (refusal->retry_after_s > 0 || refusal->overloaded)) {
        cabe_reply_status(exchange, err, refusal);
    } else {
        api_reply_fault(exchange, fault);
    }
}

static int sink_charge(void *self, size_t n)
{
    return cabe_http_charge_more((struct cabe_http_exchange *)self, n);
}

static void sink_release(void *self, struct api_answer *answer)
{
    struct cabe_http_exchange *exchange = (struct cabe_http_exchange *)self;

    cabe_http_on_gone(exchange, NULL, NULL);
    cabe_http_release(exchange);
    api_answer_release(answer); /* what gone() used */
}

static void on_gone(void *self)
{
    api_answer_gone((struct api_answer *)self);
}

void api_reply_fault(struct cabe_http_exchange *exchange, const struct api_fault *fault)
{
    cabe_reply_error(exchange, fault->status, fault->code, fault->param[0] ? fault->param : NULL, "%s", fault->text);
}

void api_serve_request(struct cabe_server *server, struct cabe_http_exchange *exchange, struct api_request *request,
                       const struct api_form *form, const char *id_prefix)
{
    const struct api_sink sink = {.self = exchange,
                                  .begin = sink_begin,
                                  .send = sink_send,
                                  .end = sink_end,
                                  .cut = sink_cut,
                                  .reply = sink_reply,
                                  .refuse = sink_refuse,
                                  .charge = sink_charge,
                                  .release = sink_release};
    struct api_answer *answer = api_answer_open(request, form, &sink, id_prefix);

    if (!answer) {
        api_request_clear(request);
        cabe_reply_no_memory(exchange, "the answer");
        return;
    }
    api_answer_hold(answer); /* for gone(), until the sink is released */
    cabe_http_hold(exchange);
    cabe_http_on_gone(exchange, on_gone, answer);
    api_answer_ask(answer, server->service);
    api_answer_release(answer);
}

void api_serve_answer(struct cabe_server *server, struct cabe_http_exchange *exchange, api_reader *read,
                      const struct api_form *form, const char *id_prefix)
{
    uint64_t n_refused = cabe_memory_refused();
    json_t *body = cabe_request_json(exchange);
    struct api_fault fault = {0};
    struct api_request request;

    if (!body)
        return;
    api_request_init(&request, body);
    read(&request, &fault);
    api_check_memory(&fault, n_refused);
    request.class_ = cabe_request_class(exchange, body, CABE_CLASS_NORMAL);
    if (fault.status) {
        api_request_clear(&request);
        api_reply_fault(exchange, &fault);
        return;
    }
    api_serve_request(server, exchange, &request, form, id_prefix);
}

int api_is_large(struct cabe_http_exchange *exchange)
{
    size_t n = 0;

    cabe_http_body(exchange, &n);
    return n > API_SMALL_BODY;
}

/* ---- embeddings ---- */

struct embedding {
    struct api_embed embed;
    struct cabe_http_exchange *exchange;
    struct cabe_service *service;
    struct cabe_service_ticket *ticket;
    pthread_mutex_t lock; /* recursive: cancelling may call back */
    int gone, ended, n_refs;
};

static void release_embedding(struct embedding *e)
{
    int left;

    pthread_mutex_lock(&e->lock);
    left = --e->n_refs;
    pthread_mutex_unlock(&e->lock);
    if (left > 0)
        return;
    pthread_mutex_destroy(&e->lock);
    api_embed_clear(&e->embed);
    cabe_free(e);
}

static void embedding_gone(void *self)
{
    struct embedding *e = (struct embedding *)self;

    pthread_mutex_lock(&e->lock);
    e->gone = 1;
    if (!e->ended && e->ticket)
        cabe_service_cancel(e->service, e->ticket);
    pthread_mutex_unlock(&e->lock);
}

static void reply_embedding(struct embedding *e, enum cabe_status status, const struct cabe_error *err,
                            const float *rows, int64_t width, uint64_t n_tokens)
{
    struct api_text out = {0};
    struct api_fault fault = {0};
    size_t room = e->embed.n_texts * (size_t)width * NUMBER_BYTES;

    if (status == CABE_OK && room > NUMBERS_FREE_BYTES && !cabe_http_charge_more(e->exchange, room))
        api_refuse_memory(&fault);
    else if (status == CABE_OK)
        api_put_embeddings(&e->embed, rows, width, n_tokens, &out, &fault);
    else if (status == CABE_ERR_CANCELLED)
        api_refuse(&fault, 503, "cancelled", NULL, "the server ended this request");
    else if (status == CABE_ERR_LIMIT && err)
        api_refuse(&fault, 503, "timeout", NULL, "%s", err->text);
    else if (err)
        api_fault_of(&fault, err);
    if (out.failed)
        api_refuse_memory(&fault);
    else if (status != CABE_OK)
        api_refuse(&fault, 500, "internal", NULL, "no embeddings"); /* unless it is said above why */
    if (fault.status)
        api_reply_fault(e->exchange, &fault);
    else
        cabe_http_reply(e->exchange, 200, "application/json", out.bytes, out.n);
    api_text_clear(&out);
}

static void embedding_ended(void *self, enum cabe_status status, const struct cabe_error *err, const float *rows,
                            int64_t width, uint64_t n_tokens)
{
    struct embedding *e = (struct embedding *)self;

    pthread_mutex_lock(&e->lock);
    e->ended = 1;
    pthread_mutex_unlock(&e->lock);
    cabe_http_on_gone(e->exchange, NULL, NULL);
    reply_embedding(e, status, err, rows, width, n_tokens);
    cabe_http_release(e->exchange);
    release_embedding(e);
}

static struct embedding *open_embedding(struct cabe_server *server, struct cabe_http_exchange *exchange,
                                        struct api_embed *embed)
{
    struct embedding *e = (struct embedding *)cabe_calloc(1, sizeof *e);
    pthread_mutexattr_t kind;

    if (!e)
        return NULL;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&e->lock, &kind);
    pthread_mutexattr_destroy(&kind);
    e->embed = *embed;
    e->exchange = exchange;
    e->service = server->service;
    e->n_refs = 2; /* ours and the service's */
    return e;
}

static void ask_embedding(struct cabe_server *server, struct cabe_http_exchange *exchange, struct api_embed *embed)
{
    struct cabe_service_embed ask;
    struct cabe_service_refusal refusal = {0};
    struct cabe_error err = {0};
    enum cabe_status status;
    struct embedding *e = open_embedding(server, exchange, embed);

    if (!e) {
        api_embed_clear(embed);
        cabe_reply_no_memory(exchange, "the answer");
        return;
    }
    if (e->embed.form != API_EMBED_OPENAI)
        e->embed.model = api_ollama_name(server, e->embed.model, e->embed.name);
    ask = (struct cabe_service_embed){.model = e->embed.model,
                                      .class_ = e->embed.class_,
                                      .texts = e->embed.texts,
                                      .n_texts = e->embed.n_texts,
                                      .prefix = e->embed.prefix,
                                      .keep_alive_s = e->embed.keep_alive_s,
                                      .ended = embedding_ended,
                                      .self = e};
    cabe_http_hold(exchange);
    cabe_http_hold(exchange);
    cabe_http_on_gone(exchange, embedding_gone, e);
    pthread_mutex_lock(&e->lock); /* gone() finds the ticket, or nothing */
    status = cabe_service_embed(server->service, &ask, &e->ticket, &refusal, &err);
    if (status == CABE_OK && e->gone && !e->ended)
        cabe_service_cancel(e->service, e->ticket);
    e->ended |= status != CABE_OK;
    pthread_mutex_unlock(&e->lock);
    if (status != CABE_OK) {
        cabe_http_on_gone(exchange, NULL, NULL);
        cabe_reply_status(exchange, &err, &refusal);
        cabe_http_release(exchange);
        release_embedding(e);
    }
    cabe_http_release(exchange);
    release_embedding(e);
}

static void embed_now(struct cabe_server *server, struct cabe_http_exchange *exchange, enum api_embed_form form)
{
    struct api_embed embed = {.keep_alive_s = (double)NAN, .begun_ns = cabe_clock_ns()};
    uint64_t n_refused = cabe_memory_refused();
    struct api_fault fault = {0};

    embed.form = form;
    embed.body = cabe_request_json(exchange);
    if (!embed.body)
        return;
    if (form == API_EMBED_OPENAI)
        api_read_embeddings(&embed, &fault);
    else
        api_read_ollama_embed(&embed, &fault);
    api_check_memory(&fault, n_refused);
    embed.class_ = cabe_request_class(exchange, embed.body, CABE_CLASS_HIGH);
    if (fault.status) {
        api_embed_clear(&embed);
        api_reply_fault(exchange, &fault);
        return;
    }
    ask_embedding(server, exchange, &embed);
}

static void embed_openai(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    (void)tail;
    embed_now(server, exchange, API_EMBED_OPENAI);
}

static void embed_ollama(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    (void)tail;
    embed_now(server, exchange, API_EMBED_OLLAMA);
}

void api_serve_embed(struct cabe_server *server, struct cabe_http_exchange *exchange, enum api_embed_form form)
{
    if (api_is_large(exchange) && form != API_EMBED_OLLAMA_OLD)
        cabe_handle_later(server, exchange, "", form == API_EMBED_OPENAI ? embed_openai : embed_ollama);
    else
        embed_now(server, exchange, form);
}
