/* Ollama's endpoints that change the store: what `cabe pull` and `cabe rm` do. */
#include <stdlib.h>
#include <string.h>

#include "base/home.h"
#include "base/json.h"
#include "base/memory.h"
#include "fit/fitted.h"
#include "format/store.h"
#include "serve/api_impl.h"

void api_ollama_no(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    (void)server;
    (void)tail;
    cabe_reply_error(exchange, 501, "unsupported", NULL,
                     "%s does not exist here; models come from files, by /api/pull or 'cabe pull'",
                     cabe_http_path(exchange));
}

struct pulling {
    struct cabe_http_exchange *exchange;
    int stream;
    struct cabe_cancel cancel;
    char what[96];
};

static void send_json(struct pulling *pulling, json_t *json)
{
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    struct api_text line = {0};

    json_decref(json);
    if (text && pulling->stream) {
        api_puts(&line, text);
        api_puts(&line, "\n");
        (void)!cabe_http_send(pulling->exchange, line.bytes, line.n);
    }
    api_text_clear(&line);
    free(text);
}

static void on_progress(void *self, const char *what, uint64_t done, uint64_t total, const char *unit)
{
    struct pulling *pulling = (struct pulling *)self;

    (void)unit;
    send_json(pulling, json_pack("{s:s,s:s,s:o,s:o}", "status", what ? what : "copying", "digest", "", "total",
                                 cabe_json_count(total), "completed", cabe_json_count(done)));
}

static void on_pull_gone(void *self)
{
    atomic_store_explicit(&((struct pulling *)self)->cancel.wanted, 1, memory_order_relaxed);
}

/* What is meant: a path of this machine, or a name that is in the store already. */
static const char *pull_path(const json_t *body, const char *name, struct api_fault *fault)
{
    const struct api_object object = {body, "", fault};
    const char *path = NULL;

    if (api_get_string(&object, "path", &path, NULL))
        ;
    else if (name && strchr(name, '/'))
        path = name;
    if (path && path[0] != '/')
        api_refuse(fault, 400, "invalid_value", "path", "path: wanted an absolute path on the server's machine, got '%.80s'",
                   path);
    return path;
}

static enum cabe_status pull(struct pulling *pulling, const char *path, const char *name, struct cabe_error *err)
{
    const struct cabe_progress progress = {on_progress, pulling};
    struct cabe_store_pull wish = {.path = path, .cancel = &pulling->cancel, .progress = &progress};
    char made[CABE_STORE_NAME_MAX + 1], there[CABE_STORE_PATH_MAX];

    if (!path) {
        if (cabe_store_path(name, there, NULL) == CABE_OK)
            return CABE_OK;
        return cabe_fail(err, CABE_ERR_NOT_FOUND,
                         "%s is not in the store, and there is no registry to fetch it from; name a file or folder of "
                         "the server's machine by its absolute path",
                         name);
    }
    if (name && strchr(name, '/') == NULL)
        wish.name = name;
    return cabe_store_pull(&wish, made, err);
}

static void pull_now(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    json_t *body = cabe_request_json(exchange);
    struct api_fault fault = {0};
    struct pulling pulling = {.exchange = exchange, .stream = 1};
    const char *name, *path;
    struct cabe_error err = {0};
    enum cabe_status status;

    (void)server;
    (void)tail;
    if (!body)
        return;
    name = api_ollama_model(body, &fault);
    path = pull_path(body, name, &fault);
    api_get_flag(&(const struct api_object){body, "", &fault}, "stream", &pulling.stream);
    if (fault.status) {
        api_reply_fault(exchange, &fault);
        json_decref(body);
        return;
    }
    if (pulling.stream)
        cabe_http_begin(exchange, 200, "application/x-ndjson");
    cabe_http_on_gone(exchange, on_pull_gone, &pulling);
    send_json(&pulling, json_pack("{s:s}", "status", "pulling manifest"));
    status = pull(&pulling, path, name, &err);
    cabe_http_on_gone(exchange, NULL, NULL);
    if (status == CABE_OK && pulling.stream)
        send_json(&pulling, json_pack("{s:s}", "status", "success"));
    else if (status == CABE_OK)
        cabe_reply_json(exchange, 200, json_pack("{s:s}", "status", "success"));
    else if (pulling.stream)
        send_json(&pulling, json_pack("{s:o}", "error", cabe_json_text(err.text, strlen(err.text))));
    else
        cabe_reply_status(exchange, &err, NULL);
    if (pulling.stream)
        cabe_http_end(exchange);
    json_decref(body);
}

void api_ollama_pull(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    cabe_handle_later(server, exchange, tail, pull_now);
}

static void delete_now(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    json_t *body = cabe_request_json(exchange);
    struct api_fault fault = {0};
    char path[CABE_STORE_PATH_MAX], cache[CABE_HOME_PATH_MAX], buffer[CABE_SERVICE_NAME_MAX];
    struct cabe_error err = {0};
    enum cabe_status status;
    const char *name;
    uint64_t bytes;

    (void)tail;
    if (!body)
        return;
    name = api_ollama_model(body, &fault);
    if (fault.status) {
        api_reply_fault(exchange, &fault);
        json_decref(body);
        return;
    }
    name = api_ollama_name(server, name, buffer);
    status = cabe_store_path(name, path, &err);
    if (status == CABE_ERR_NOT_FOUND || status == CABE_ERR_ARGUMENT) /* not where it was looked for */
        status = cabe_fail(&err, CABE_ERR_NOT_FOUND, "model '%.200s' not found", name);
    if (status == CABE_OK) {
        status = cabe_service_unload(server->service, name, &err);
        if (status != CABE_ERR_BUSY)
            status = CABE_OK; /* not in memory is as well */
    }
    if (status == CABE_OK && cabe_home_path(cache, CABE_HOME_CACHE, NULL) == CABE_OK &&
        strlen(cache) + 8 < sizeof cache)
        (void)!cabe_fitted_remove(strcat(cache, "/fitted"), path, &bytes, NULL);
    if (status == CABE_OK)
        status = cabe_store_remove(name, &bytes, &err);
    if (status == CABE_OK)
        cabe_http_reply(exchange, 200, "application/json", "{}", 2);
    else
        cabe_reply_status(exchange, &err, NULL);
    json_decref(body);
}

void api_ollama_delete(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    cabe_handle_later(server, exchange, tail, delete_now);
}
