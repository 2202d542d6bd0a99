/* OpenAI's endpoints. */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "serve/api_impl.h"

#define MODELS_MAX 1024

/* All models, cabe_malloc'ed; NULL: answered. */
struct cabe_service_model *api_models(struct cabe_server *server, struct cabe_http_exchange *exchange, size_t *n)
{
    struct cabe_service_model *models;
    size_t n_max = cabe_service_models(server->service, NULL, 0);

    n_max = n_max < MODELS_MAX ? n_max + 8 : MODELS_MAX;
    models = (struct cabe_service_model *)cabe_calloc(n_max, sizeof *models);
    if (!models) {
        cabe_reply_no_memory(exchange, "the list of models");
        return NULL;
    }
    *n = cabe_service_models(server->service, models, n_max);
    if (*n > n_max)
        *n = n_max;
    return models;
}

/* OpenAI's four fields, and ours behind. */
static json_t *model_json(const struct cabe_service_model *model)
{
    static const char *const states[] = {"absent", "loading", "ready", "unloading"};
    json_t *can = model->family[0] ? json_pack("[s]", model->writes ? "generate" : "embed") : json_array(); /* not known yet */
    json_t *json = json_pack("{s:o,s:s,s:I,s:s,s:o,s:s,s:b,s:o,s:o}", "id",
                             cabe_json_text(model->name, strlen(model->name)), "object", "model", "created",
                             (json_int_t)model->modified_s, "owned_by", "cabe", "capabilities", can, "state",
                             states[model->state <= CABE_SERVICE_UNLOADING ? model->state : 0], "pinned", model->pinned,
                             "bytes", cabe_json_count(model->bytes), "file_bytes", cabe_json_count(model->file_bytes));

    if (json && model->context > 0)
        json_object_set_new(json, "max_model_len", json_integer(model->context));
    if (json && !model->writes && model->width > 0)
        json_object_set_new(json, "dimensions", json_integer(model->width));
    if (json && model->state == CABE_SERVICE_READY)
        json_object_set_new(json, "settings", cabe_knobs_json(&model->knobs));
    if (json && model->failed[0])
        json_object_set_new(json, "failed", cabe_json_text(model->failed, strlen(model->failed)));
    return json;
}

static void list_models(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    json_t *data = json_array();
    size_t n;
    struct cabe_service_model *models = api_models(server, exchange, &n);

    (void)tail;
    if (!models) {
        json_decref(data);
        return;
    }
    for (size_t i = 0; i < n; i++)
        json_array_append_new(data, model_json(&models[i]));
    cabe_free(models);
    cabe_reply_json(exchange, 200, json_pack("{s:s,s:o}", "object", "list", "data", data));
}

static void show_model(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    struct cabe_service_model *model = (struct cabe_service_model *)cabe_calloc(1, sizeof *model);
    struct cabe_error err = {0};

    if (!model)
        cabe_reply_no_memory(exchange, "a model");
    else if (cabe_service_model(server->service, tail, model, &err) != CABE_OK)
        cabe_reply_error(exchange, err.status == CABE_ERR_NOT_FOUND ? 404 : 500, "model_not_found", "model", "%s",
                         err.text);
    else
        cabe_reply_json(exchange, 200, model_json(model));
    cabe_free(model);
}

static void chat_now(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    (void)tail;
    api_serve_answer(server, exchange, api_read_chat, &api_form_chat, "chatcmpl-");
}

static void chat(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    if (api_is_large(exchange))
        cabe_handle_later(server, exchange, tail, chat_now);
    else
        chat_now(server, exchange, tail);
}

static void complete_now(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    (void)tail;
    api_serve_answer(server, exchange, api_read_completion, &api_form_completion, "cmpl-");
}

static void complete(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    if (api_is_large(exchange))
        cabe_handle_later(server, exchange, tail, complete_now);
    else
        complete_now(server, exchange, tail);
}

static void embed(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    (void)tail;
    api_serve_embed(server, exchange, API_EMBED_OPENAI);
}

const struct cabe_route cabe_openai_routes[] = {
    {CABE_HTTP_GET, "/v1/models", list_models, 0, "The models that can be asked for"},
    {CABE_HTTP_GET, "/v1/models/*", show_model, 0, "One model"},
    {CABE_HTTP_POST, "/v1/chat/completions", chat, 0, "Answers a conversation"},
    {CABE_HTTP_POST, "/v1/completions", complete, 0, "Goes on with a text"},
    {CABE_HTTP_POST, "/v1/embeddings", embed, 0, "Texts as vectors"},
    {.path = NULL},
};
