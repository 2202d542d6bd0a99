/* The OpenAPI description (3.1), made of the route tables, so that it has what the server has. */
#include <string.h>

#include "serve/api_impl.h"
#include "serve/openapi_impl.h"
#include "serve/route.h"

static const char *method_name(enum cabe_http_method method)
{
    static const char *const names[] = {"get", "head", "post", "put", "patch", "delete", "options"};

    return (unsigned)method < sizeof names / sizeof names[0] ? names[method] : NULL;
}

static const struct openapi_body *body_of(const char *path)
{
    for (const struct openapi_body *body = openapi_bodies; body->path; body++)
        if (strcmp(body->path, path) == 0)
            return body;
    return NULL;
}

static json_t *reference(const char *schema)
{
    char text[96];

    snprintf(text, sizeof text, "#/components/schemas/%s", schema);
    return json_pack("{s:s}", "$ref", text);
}

static json_t *content_of(const char *type, json_t *schema)
{
    return json_pack("{s:{s:o}}", type, "schema", schema);
}

static void put_answer(json_t *responses, const struct openapi_answer *answer)
{
    json_t *content = json_object();
    char status[12];

    if (answer->schema)
        json_object_set_new(content, "application/json", json_pack("{s:o}", "schema", reference(answer->schema)));
    if (answer->type)
        json_object_set_new(content, answer->type, json_object());
    snprintf(status, sizeof status, "%d", answer->status);
    json_object_set_new(responses, status, json_pack("{s:s,s:o}", "description",
                                                     answer->status == 202 ? "begun" : "done", "content", content));
}

static json_t *responses_of(const struct cabe_route *route)
{
    json_t *error = content_of("application/json", reference(route->flags & CABE_ROUTE_OLLAMA ? "OllamaError" : "Error"));
    json_t *responses = json_pack("{s:{s:s,s:o}}", "default", "description",
                                  "refused or failed; 429 and 503 with Retry-After", "content", error);

    for (const struct openapi_answer *answer = openapi_answers; answer->path; answer++)
        if (answer->method == route->method && strcmp(answer->path, route->path) == 0)
            put_answer(responses, answer);
    return responses;
}

/* "operationId": letters and digits of method and path. */
static void put_operation_id(json_t *operation, const char *method, const char *path)
{
    char id[128];
    size_t n = (size_t)snprintf(id, sizeof id, "%s", method);

    for (const char *c = path; *c && n + 1 < sizeof id; c++)
        id[n++] = (*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9') ? *c : '_';
    id[n] = '\0';
    json_object_set_new(operation, "operationId", json_string(id));
}

static json_t *body_json(const struct openapi_body *body)
{
    json_t *content = content_of("application/json", reference(body->schema));

    for (const struct openapi_form *form = openapi_forms; form->path; form++)
        if (strcmp(form->path, body->path) == 0)
            json_object_set_new(content, form->type, json_pack("{s:o}", "schema", form->schema ? reference(form->schema)
                                                                                  : json_pack("{s:s}", "type", "string")));
    return json_pack("{s:b,s:o}", "required", 1, "content", content);
}

/* NULL: none. */
static json_t *parameters_of(const struct cabe_route *route)
{
    size_t n = strlen(route->path);
    json_t *list = json_array();

    if (n > 0 && route->path[n - 1] == '*')
        json_array_append_new(list, json_pack("{s:s,s:s,s:b,s:{s:s}}", "name", "name", "in", "path", "required", 1,
                                              "schema", "type", "string"));
    for (const struct openapi_parameter *p = openapi_parameters; p->path; p++)
        if (p->method == route->method && strcmp(p->path, route->path) == 0)
            json_array_append_new(list, json_pack("{s:s,s:s,s:s*,s:{s:s}}", "name", p->name, "in", p->in, "description",
                                                  p->meaning, "schema", "type", "string"));
    if (json_array_size(list) > 0)
        return list;
    json_decref(list);
    return NULL;
}

static json_t *operation_of(const struct cabe_route *route)
{
    const struct openapi_body *body =
        route->method == CABE_HTTP_GET || route->method == CABE_HTTP_HEAD ? NULL : body_of(route->path);
    json_t *operation = json_pack("{s:s,s:o,s:o*}", "summary", route->summary ? route->summary : "", "responses",
                                  responses_of(route), "parameters", parameters_of(route));

    put_operation_id(operation, method_name(route->method), route->path);
    if (body)
        json_object_set_new(operation, "requestBody", body_json(body));
    if (route->flags & CABE_ROUTE_OPEN)
        json_object_set_new(operation, "security", json_array());
    return operation;
}

static void put_route(json_t *paths, const struct cabe_route *route)
{
    const char *method = method_name(route->method);
    size_t n = strlen(route->path);
    char path[160];
    json_t *item;

    if (!method || n == 0 || n + 8 > sizeof path)
        return;
    memcpy(path, route->path, n + 1);
    if (path[n - 1] == '*')
        memcpy(path + n - 1, "{name}", 7);
    item = json_object_get(paths, path);
    if (!item) {
        item = json_object();
        json_object_set_new(paths, path, item);
    }
    json_object_set_new(item, method, operation_of(route));
}

json_t *api_openapi_json(void)
{
    json_t *paths = json_object(), *schemas = json_object();
    const struct cabe_route *const *tables = cabe_route_tables();

    for (; *tables; tables++)
        for (const struct cabe_route *route = *tables; route->path; route++)
            put_route(paths, route);
    for (const struct openapi_schema *schema = openapi_schemas; schema->name; schema++)
        json_object_set_new(schemas, schema->name, json_loads(schema->json, 0, NULL));
    for (const struct openapi_schema *schema = openapi_answer_schemas; schema->name; schema++)
        json_object_set_new(schemas, schema->name, json_loads(schema->json, 0, NULL));
    return json_pack("{s:s,s:{s:s,s:s,s:s,s:{s:s}},s:[{s:s}],s:[{s:[]},{}],s:o,s:{s:o,s:{s:{s:s,s:s}}}}", "openapi",
                     "3.1.0", "info", "title", "cabe", "version", CABE_VERSION, "description",
                     "Language and embedding models in a byte budget: OpenAI's and Ollama's endpoints, and cabe's own. "
                     "See docs/http.md.",
                     "license", "name", "see LICENSE", "servers", "url", "http://127.0.0.1:11500", "security", "key",
                     "paths", paths, "components", "schemas", schemas, "securitySchemes", "key", "type", "http",
                     "scheme", "bearer");
}

void api_openapi(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    (void)server;
    (void)tail;
    cabe_reply_json(exchange, 200, api_openapi_json());
}
