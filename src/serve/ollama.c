/* Ollama's endpoints. */
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "format/source.h"
#include "serve/api_impl.h"

/* A version of Ollama whose endpoints these are: clients look at it to know what they may ask for. */
#define OLLAMA_VERSION "0.12.6"

const char *api_ollama_name(struct cabe_server *server, const char *name, char out[CABE_SERVICE_NAME_MAX])
{
    struct cabe_service_model *model;
    const char *tag = strrchr(name, ':');

    if (!tag || strcmp(tag, ":latest") != 0 || strlen(name) >= CABE_SERVICE_NAME_MAX)
        return name;
    model = (struct cabe_service_model *)cabe_calloc(1, sizeof *model);
    if (model && cabe_service_model(server->service, name, model, NULL) != CABE_OK) {
        memcpy(out, name, (size_t)(tag - name));
        out[tag - name] = '\0';
        name = out;
    }
    cabe_free(model);
    return name;
}

/* ---- what there is ---- */

/* 64 hexadecimal digits that tell this file from another; not a digest of its content, which would have to be read. */
static void put_identity(const struct cabe_service_model *model, char out[65])
{
    for (int k = 0; k < 4; k++) {
        uint64_t hash = UINT64_C(0xcbf29ce484222325) + (uint64_t)k * UINT64_C(0x9E3779B97F4A7C15);
        const uint64_t numbers[2] = {model->file_bytes, (uint64_t)model->modified_s};

        for (const char *c = model->path; *c; c++)
            hash = (hash ^ (unsigned char)*c) * UINT64_C(0x100000001b3);
        for (size_t i = 0; i < sizeof numbers; i++)
            hash = (hash ^ ((const unsigned char *)numbers)[i]) * UINT64_C(0x100000001b3);
        hash ^= hash >> 29;
        snprintf(out + 16 * k, 17, "%016llx", (unsigned long long)hash);
    }
}

/* Quantised types of more than a byte come from GGUF files only. */
static int is_gguf(const struct cabe_service_model *model)
{
    size_t n = strlen(model->path);

    return (n > 5 && strcmp(model->path + n - 5, ".gguf") == 0) || model->quantisation[0] == 'q' ||
           model->quantisation[0] == 'Q';
}

static json_t *details_json(const struct cabe_service_model *model)
{
    const char *format = is_gguf(model) ? "gguf" : "safetensors";
    char size[24] = "", level[sizeof model->quantisation];

    if (model->n_parameters >= 1000000000)
        snprintf(size, sizeof size, "%.1fB", (double)model->n_parameters / 1e9);
    else if (model->n_parameters >= 1000000)
        snprintf(size, sizeof size, "%.1fM", (double)model->n_parameters / 1e6);
    else if (model->n_parameters > 0)
        snprintf(size, sizeof size, "%.0fK", (double)model->n_parameters / 1e3);
    for (size_t i = 0; i < sizeof level; i++) /* "Q4_K", as Ollama's clients know it */
        level[i] = (char)(model->quantisation[i] >= 'a' && model->quantisation[i] <= 'z' ? model->quantisation[i] - 32
                                                                                           : model->quantisation[i]);
    return json_pack("{s:s,s:s,s:s,s:[s],s:s,s:s}", "parent_model", "", "format", format, "family", model->family,
                     "families", model->family, "parameter_size", size, "quantization_level", level);
}

static json_t *tag_json(const struct cabe_service_model *model)
{
    char stamp[API_TIME_MAX], digest[65];

    put_identity(model, digest);
    return json_pack("{s:o,s:o,s:s,s:o,s:s,s:o}", "name", cabe_json_text(model->name, strlen(model->name)), "model",
                     cabe_json_text(model->name, strlen(model->name)), "modified_at",
                     api_time(model->modified_s > 0 ? model->modified_s : 1, stamp), "size",
                     cabe_json_count(model->file_bytes), "digest", digest, "details", details_json(model));
}

/* As /api/tags, with what /api/ps says of a model in memory. */
static json_t *running_json(const struct cabe_service_model *model)
{
    double left = model->keep_alive_s < 0 || model->pinned ? 1e9 : model->keep_alive_s - model->idle_s;
    char stamp[API_TIME_MAX];
    json_t *json = tag_json(model);

    json_object_set_new(json, "size", cabe_json_count(model->bytes));
    json_object_set_new(json, "size_vram", json_integer(0));
    json_object_set_new(json, "context_length", json_integer(model->context));
    json_object_set_new(json, "expires_at",
                        json_string(api_time((int64_t)time(NULL) + (int64_t)(left > 0 ? left : 0), stamp)));
    return json;
}

static void list(struct cabe_server *server, struct cabe_http_exchange *exchange, int is_running)
{
    size_t n;
    struct cabe_service_model *models = api_models(server, exchange, &n);
    json_t *all;

    if (!models)
        return;
    all = json_array();
    for (size_t i = 0; i < n; i++)
        if (!is_running)
            json_array_append_new(all, tag_json(&models[i]));
        else if (models[i].state == CABE_SERVICE_READY)
            json_array_append_new(all, running_json(&models[i]));
    cabe_free(models);
    cabe_reply_json(exchange, 200, json_pack("{s:o}", "models", all));
}

static void list_tags(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    (void)tail;
    list(server, exchange, 0);
}

static void list_running(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    (void)tail;
    list(server, exchange, 1);
}

/* The headers of the files as model_info, with Ollama's two names that clients look for. */
static json_t *info_json(const struct cabe_service_model *model)
{
    struct cabe_source *source;
    struct cabe_source_summary summary;
    json_t *info = json_object();
    char key[96];

    if (cabe_source_open(&source, model->path, NULL) != CABE_OK)
        return info;
    cabe_source_summarise(source, &summary);
    for (size_t i = 0; cabe_source_key(source, i); i++) {
        const char *name = cabe_source_key(source, i), *text;
        size_t bytes;
        int64_t number;
        double real;
        int flag;

        if (strncmp(name, "tokenizer.", 10) == 0)
            continue;
        if (cabe_source_get_i64(source, name, &number))
            json_object_set_new(info, name, json_integer(number));
        else if (cabe_source_get_f64(source, name, &real))
            json_object_set_new(info, name, json_real(real));
        else if (cabe_source_get_bool(source, name, &flag))
            json_object_set_new(info, name, json_boolean(flag));
        else if (cabe_source_get_string(source, name, &text, &bytes) && bytes < 256)
            json_object_set_new(info, name, cabe_json_text(text, bytes));
    }
    json_object_set_new(info, "general.architecture", json_string(summary.architecture));
    json_object_set_new(info, "general.parameter_count", cabe_json_count(summary.n_params));
    snprintf(key, sizeof key, "%.70s.context_length", summary.architecture);
    if (!json_object_get(info, key) && model->context > 0)
        json_object_set_new(info, key, json_integer(model->context));
    snprintf(key, sizeof key, "%.70s.embedding_length", summary.architecture);
    if (!json_object_get(info, key) && model->width > 0)
        json_object_set_new(info, key, json_integer(model->width));
    cabe_source_close(source);
    return info;
}

/* The chat template as the files have it; "" where they have none. */
static json_t *template_json(const struct cabe_service_model *model)
{
    struct cabe_source *source;
    json_t *out = NULL;
    const json_t *document;
    const char *text;
    size_t bytes;

    if (cabe_source_open(&source, model->path, NULL) != CABE_OK)
        return json_string("");
    document = cabe_source_document(source, "chat_template.jinja");
    if (!json_is_string(document))
        document = json_object_get(cabe_source_document(source, "tokenizer_config.json"), "chat_template");
    if (json_is_string(document))
        out = json_copy((json_t *)(uintptr_t)document);
    else if (cabe_source_get_string(source, "tokenizer.chat_template", &text, &bytes))
        out = cabe_json_text(text, bytes);
    cabe_source_close(source);
    return out ? out : json_string("");
}

static void show_now(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    json_t *body = cabe_request_json(exchange), *template, *json;
    struct api_fault fault = {0};
    struct cabe_service_model *model;
    struct cabe_error err = {0};
    char buffer[CABE_SERVICE_NAME_MAX], stamp[API_TIME_MAX];
    const char *name;

    (void)tail;
    if (!body)
        return;
    name = api_ollama_model(body, &fault);
    model = (struct cabe_service_model *)cabe_calloc(1, sizeof *model);
    if (!model)
        api_refuse_memory(&fault);
    if (!fault.status && cabe_service_model(server->service, api_ollama_name(server, name, buffer), model, &err) != CABE_OK)
        api_fault_of(&fault, &err);
    if (fault.status) {
        api_reply_fault(exchange, &fault);
    } else {
        template = template_json(model);
        json = json_pack("{s:s,s:s,s:O,s:o,s:o,s:s,s:o}", "modelfile", "", "parameters", "", "template", template,
                         "details", details_json(model), "model_info", info_json(model), "modified_at",
                         api_time(model->modified_s > 0 ? model->modified_s : 1, stamp), "capabilities",
                         json_pack("[s]", model->writes ? "completion" : "embedding"));
        if (json && strstr(json_string_value(template) ? json_string_value(template) : "", "tools"))
            json_array_append_new(json_object_get(json, "capabilities"), json_string("tools"));
        json_decref(template);
        cabe_reply_json(exchange, 200, json);
    }
    cabe_free(model);
    json_decref(body);
}

static void show(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    cabe_handle_later(server, exchange, tail, show_now); /* reads files */
}

/* ---- answers ---- */

struct loading { /* a request that only loads */
    struct cabe_http_exchange *exchange;
    char *model;
    int is_chat;
};

static void reply_loaded(struct cabe_http_exchange *exchange, const char *model, int is_chat, const char *reason)
{
    char stamp[API_TIME_MAX];
    json_t *json = json_pack("{s:s,s:s,s:b,s:s}", "model", model, "created_at", api_time(0, stamp), "done", 1,
                             "done_reason", reason);

    if (json && is_chat)
        json_object_set_new(json, "message", json_pack("{s:s,s:s}", "role", "assistant", "content", ""));
    else if (json)
        json_object_set_new(json, "response", json_string(""));
    cabe_reply_json(exchange, 200, json);
}

static void on_loaded(void *self, enum cabe_status status, const struct cabe_error *err)
{
    struct loading *loading = (struct loading *)self;

    if (status == CABE_OK)
        reply_loaded(loading->exchange, loading->model, loading->is_chat, "load");
    else
        cabe_reply_status(loading->exchange, err, NULL);
    cabe_http_release(loading->exchange);
    cabe_free(loading->model);
    cabe_free(loading);
}

static void unload(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *model, int is_chat)
{
    struct cabe_error err = {0};

    if (cabe_service_expire(server->service, model, &err) == CABE_OK)
        reply_loaded(exchange, model, is_chat, "unload");
    else
        cabe_reply_status(exchange, &err, NULL);
}

static void load(struct cabe_server *server, struct cabe_http_exchange *exchange, const struct api_request *request,
                 int is_chat)
{
    struct cabe_service_load wish = {request->model, request->keep_alive_s, request->context, on_loaded, NULL};
    struct loading *loading = (struct loading *)cabe_calloc(1, sizeof *loading);
    struct cabe_error err = {0};

    if (loading)
        loading->model = cabe_strdup(request->model);
    if (!loading || !loading->model) {
        cabe_free(loading);
        cabe_reply_no_memory(exchange, "loading a model");
        return;
    }
    loading->exchange = exchange;
    loading->is_chat = is_chat;
    wish.self = loading;
    cabe_http_hold(exchange);
    if (cabe_service_load_as(server->service, &wish, &err) == CABE_OK)
        return;
    cabe_reply_status(exchange, &err, NULL);
    cabe_http_release(exchange);
    cabe_free(loading->model);
    cabe_free(loading);
}

static cabe_handler chat_on_worker, generate_on_worker;

/* `may_wait`: not on the loop. */
static void answer_now(struct cabe_server *server, struct cabe_http_exchange *exchange, int is_chat, int may_wait)
{
    uint64_t n_refused = cabe_memory_refused();
    json_t *body = cabe_request_json(exchange);
    struct api_fault fault = {0};
    struct api_request request;
    char buffer[CABE_SERVICE_NAME_MAX];

    if (!body)
        return;
    api_request_init(&request, body);
    if (is_chat)
        api_read_ollama_chat(&request, &fault);
    else
        api_read_ollama_generate(&request, &fault);
    api_check_memory(&fault, n_refused);
    request.class_ = cabe_request_class(exchange, body, CABE_CLASS_NORMAL);
    if (fault.status) {
        api_reply_fault(exchange, &fault);
        api_request_clear(&request);
        return;
    }
    request.model = api_ollama_name(server, request.model, buffer);
    if (!request.messages && request.n_prompts == 0) {
        if (!(request.keep_alive_s >= 0 && request.keep_alive_s < 1e-9))
            load(server, exchange, &request, is_chat);
        else if (may_wait)
            unload(server, exchange, request.model, is_chat);
        else
            cabe_handle_later(server, exchange, "", is_chat ? chat_on_worker : generate_on_worker);
        api_request_clear(&request);
        return;
    }
    api_serve_request(server, exchange, &request, is_chat ? &api_form_ollama_chat : &api_form_ollama_generate, "");
}

static void chat_on_worker(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    (void)tail;
    answer_now(server, exchange, 1, 1);
}

static void generate_on_worker(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    (void)tail;
    answer_now(server, exchange, 0, 1);
}

static void chat(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    if (api_is_large(exchange))
        cabe_handle_later(server, exchange, tail, chat_on_worker);
    else
        answer_now(server, exchange, 1, 0);
}

static void generate(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    if (api_is_large(exchange))
        cabe_handle_later(server, exchange, tail, generate_on_worker);
    else
        answer_now(server, exchange, 0, 0);
}

static void embed(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    (void)tail;
    api_serve_embed(server, exchange, API_EMBED_OLLAMA);
}

static void embed_old(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    (void)tail;
    api_serve_embed(server, exchange, API_EMBED_OLLAMA_OLD);
}

static void version(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    (void)server;
    (void)tail;
    cabe_reply_json(exchange, 200, json_pack("{s:s,s:s}", "version", OLLAMA_VERSION, "cabe", CABE_VERSION));
}

static void alive(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    (void)server;
    (void)tail;
    cabe_http_reply(exchange, 200, "text/plain", "cabe is running", 15);
}

const struct cabe_route cabe_ollama_routes[] = {
    {CABE_HTTP_HEAD, "/", alive, CABE_ROUTE_OPEN | CABE_ROUTE_OLLAMA, "Whether the server is there"},
    {CABE_HTTP_POST, "/api/generate", generate, CABE_ROUTE_OLLAMA, "Answers a prompt, as Ollama"},
    {CABE_HTTP_POST, "/api/chat", chat, CABE_ROUTE_OLLAMA, "Answers a conversation, as Ollama"},
    {CABE_HTTP_POST, "/api/embed", embed, CABE_ROUTE_OLLAMA, "Texts as vectors, as Ollama"},
    {CABE_HTTP_POST, "/api/embeddings", embed_old, CABE_ROUTE_OLLAMA, "One text as a vector, as Ollama before"},
    {CABE_HTTP_GET, "/api/tags", list_tags, CABE_ROUTE_OLLAMA, "The models that can be asked for, as Ollama"},
    {CABE_HTTP_GET, "/api/ps", list_running, CABE_ROUTE_OLLAMA, "The models in memory, as Ollama"},
    {CABE_HTTP_POST, "/api/show", show, CABE_ROUTE_OLLAMA, "One model, as Ollama"},
    {CABE_HTTP_POST, "/api/pull", api_ollama_pull, CABE_ROUTE_OLLAMA, "Takes a model into the store, as Ollama"},
    {CABE_HTTP_DELETE, "/api/delete", api_ollama_delete, CABE_ROUTE_OLLAMA, "Removes a model, as Ollama"},
    {CABE_HTTP_POST, "/api/create", api_ollama_no, CABE_ROUTE_OLLAMA, "Not supported; says so"},
    {CABE_HTTP_POST, "/api/copy", api_ollama_no, CABE_ROUTE_OLLAMA, "Not supported; says so"},
    {CABE_HTTP_POST, "/api/push", api_ollama_no, CABE_ROUTE_OLLAMA, "Not supported; says so"},
    {CABE_HTTP_GET, "/api/version", version, CABE_ROUTE_OPEN | CABE_ROUTE_OLLAMA, "The version, as Ollama"},
    {.path = NULL},
};
