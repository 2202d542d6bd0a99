/* What handlers answer with, and how they read what was asked. */
#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "serve/api_impl.h"
#include "serve/route.h"
#include "serve/server.h"
#include "serve/server_impl.h"

#define JSON_VALUE_BYTES 176  /* of a parsed body: a pair of an object, its key and a number; beside the text itself */
#define JSON_OBJECT_BYTES 192 /* of an object besides: its table */
#define MESSAGE_BYTES 1024
#define PARSE_ROOM_BYTES 65536
#define JSON_TYPE "application/json"
#define RETRY_S 1 /* of a 503 that does not know better */

/* There was none for the answer either: it is written without. */
static void reply_no_memory(struct cabe_http_exchange *exchange)
{
    static const char body[] = "{\"error\":{\"message\":\"out of memory\",\"type\":\"overloaded_error\",\"param\":null,"
                               "\"code\":\"out_of_memory\"}}";
    static const char of_ollama[] = "{\"error\":\"out of memory\"}";
    int is_ollama = cabe_route_is_ollama(cabe_http_path(exchange));

    if (!cabe_http_is_set(exchange, "retry-after"))
        cabe_reply_retry_after(exchange, RETRY_S);
    cabe_http_reply(exchange, 503, JSON_TYPE, is_ollama ? of_ollama : body,
                    is_ollama ? sizeof of_ollama - 1 : sizeof body - 1);
}

void cabe_reply_json(struct cabe_http_exchange *exchange, int status, json_t *json)
{
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;

    json_decref(json);
    if (!text) {
        reply_no_memory(exchange);
        return;
    }
    cabe_http_reply(exchange, status, JSON_TYPE, text, strlen(text));
    cabe_free(text);
}

static json_t *nullable(const char *text)
{
    return text ? json_string(text) : json_null();
}

static void reply_error_text(struct cabe_http_exchange *exchange, int status, const char *code, const char *param,
                             const char *message)
{
    json_t *text = cabe_json_text(message, strlen(message));

    if (status == 503 && !cabe_http_is_set(exchange, "retry-after"))
        cabe_reply_retry_after(exchange, RETRY_S);
    if (cabe_route_is_ollama(cabe_http_path(exchange)))
        cabe_reply_json(exchange, status, json_pack("{s:o}", "error", text));
    else
        cabe_reply_json(exchange, status,
                        json_pack("{s:{s:o,s:s,s:o,s:o}}", "error", "message", text, "type", api_error_type(status),
                                  "param", nullable(param), "code", nullable(code)));
}

void cabe_reply_error(struct cabe_http_exchange *exchange, int status, const char *code, const char *param,
                      const char *format, ...)
{
    char message[MESSAGE_BYTES];
    va_list args;

    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    reply_error_text(exchange, status, code, param, message);
}

void cabe_reply_no_memory(struct cabe_http_exchange *exchange, const char *what)
{
    cabe_reply_error(exchange, 503, "out_of_memory", NULL, "out of memory: %s", what);
}

/* Whole seconds for proxies, milliseconds for clients that know them. */
void cabe_reply_retry_after(struct cabe_http_exchange *exchange, double seconds)
{
    char text[32];

    snprintf(text, sizeof text, "%.0f", ceil(seconds));
    cabe_http_set(exchange, "retry-after", text);
    snprintf(text, sizeof text, "%.0f", ceil(seconds * 1000));
    cabe_http_set(exchange, "retry-after-ms", text);
}

void cabe_reply_status(struct cabe_http_exchange *exchange, const struct cabe_error *err,
                       const struct cabe_service_refusal *refusal)
{
    const char *code;
    int status = cabe_reply_code(err->status, &code);

    if (refusal && (err->status == CABE_ERR_LIMIT || err->status == CABE_ERR_BUSY)) {
        status = refusal->overloaded ? 503 : 429;
        code = refusal->overloaded ? "overloaded" : "rate_limit_exceeded";
        if (refusal->retry_after_s > 0)
            cabe_reply_retry_after(exchange, refusal->retry_after_s);
    } else if (status == 429) {
        cabe_reply_retry_after(exchange, RETRY_S);
    }
    reply_error_text(exchange, status, code, NULL, err->text);
}

void cabe_reply_no_worker(struct cabe_server *server, struct cabe_http_exchange *exchange)
{
    cabe_reply_error(exchange, 503, "overloaded", NULL, "no worker of %lld was free within %g s",
                     (long long)server->config->workers, server->config->worker_wait);
}

/* ---- the request ---- */

uint64_t cabe_request_extent(const char *text, size_t n, int64_t *depth, int64_t *values)
{
    int64_t open = 0;
    uint64_t n_objects = 0;
    int in_string = 0;

    *depth = 0;
    *values = 1;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];

        if (in_string) {
            i += c == '\\';
            in_string = c != '"';
        } else if (c == '"') {
            in_string = 1;
        } else if (c == '[' || c == '{') {
            *depth = ++open > *depth ? open : *depth;
            ++*values;
            n_objects += c == '{';
        } else if (c == ']' || c == '}') {
            open--;
        } else if (c == ',') {
            ++*values;
        }
    }
    return n + JSON_VALUE_BYTES * (uint64_t)*values + JSON_OBJECT_BYTES * n_objects;
}

/*
 * As json_loadb(). jansson 2.14 reads past its buffer when there is no memory to let a token grow (it ignores what
 * strbuffer_append_byte() says): so that there is some is seen to beforehand.
 */
static json_t *parse(const char *body, size_t n, json_error_t *why)
{
    void *room = cabe_malloc(PARSE_ROOM_BYTES + 2 * n);
    json_t *json = NULL;

    cabe_free(room);
    if (!room)
        return NULL;
    cabe_memory_steadfast(1);
    json = json_loadb(body, n, JSON_REJECT_DUPLICATES, why);
    cabe_memory_steadfast(0);
    return json;
}

json_t *cabe_request_json(struct cabe_http_exchange *exchange)
{
    const struct cabe_server *server = cabe_http_self(exchange);
    int64_t depth_max = server->config->json_depth, depth, values;
    uint64_t n_refused = cabe_memory_refused(), bytes;
    json_error_t why;
    json_t *json;
    size_t n;
    const char *body = cabe_http_body(exchange, &n);

    if (n == 0) {
        cabe_reply_error(exchange, 400, "invalid_json", NULL, "the body is empty, wanted a JSON object");
        return NULL;
    }
    bytes = cabe_request_extent(body, n, &depth, &values);
    if (depth > depth_max || values > CABE_REQUEST_VALUES_MAX) {
        cabe_reply_error(exchange, 400, "invalid_json", NULL, "the body has %lld %s, at most %lld are taken",
                         (long long)(depth > depth_max ? depth : values),
                         depth > depth_max ? "levels of nesting" : "values",
                         (long long)(depth > depth_max ? depth_max : CABE_REQUEST_VALUES_MAX));
        return NULL;
    }
    if (!cabe_http_charge_more(exchange, bytes)) {
        cabe_reply_error(exchange, 503, "overloaded", NULL, "no memory for the body's %lld values now", (long long)values);
        return NULL;
    }
    json = parse(body, n, &why);
    if (cabe_memory_refused() != n_refused) {
        json_decref(json);
        reply_no_memory(exchange);
        return NULL;
    }
    if (!json) {
        cabe_reply_error(exchange, 400, "invalid_json", NULL, "the body is not JSON: line %d, column %d: %s", why.line,
                         why.column, why.text);
        return NULL;
    }
    if (json_is_object(json))
        return json;
    json_decref(json);
    cabe_reply_error(exchange, 400, "invalid_json", NULL, "the body is JSON but not an object");
    return NULL;
}

static int class_named(const char *name, enum cabe_class *out)
{
    for (int c = 0; name && c < CABE_N_CLASSES; c++) {
        if (strcmp(name, cabe_class_name((enum cabe_class)c)) == 0) {
            *out = (enum cabe_class)c;
            return 1;
        }
    }
    return 0;
}

enum cabe_class cabe_request_class(const struct cabe_http_exchange *exchange, const json_t *body,
                                   enum cabe_class fallback)
{
    const json_t *priority = json_object_get(body, "priority");
    const char *tier = json_string_value(json_object_get(body, "service_tier"));
    enum cabe_class class_;

    if (class_named(cabe_http_header(exchange, "x-cabe-class"), &class_) ||
        class_named(json_string_value(priority), &class_))
        return class_;
    if (json_is_integer(priority)) {
        json_int_t number = json_integer_value(priority);

        return number <= -2   ? CABE_CLASS_CRITICAL
               : number == -1 ? CABE_CLASS_HIGH
               : number == 0  ? CABE_CLASS_NORMAL
                              : CABE_CLASS_LOW;
    }
    if (tier && strcmp(tier, "priority") == 0)
        return CABE_CLASS_HIGH;
    if (tier && strcmp(tier, "flex") == 0)
        return CABE_CLASS_LOW;
    return fallback;
}
