/* Endpoints of our own: the machine, models in memory, tokens, and the state of everything. */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "cabe/machine.h"
#include "format/source.h"
#include "machine/json.h"
#include "serve/api_impl.h"
#include "serve/jobs.h"

/* ---- the machine ---- */

/* As `cabe machine --json`. */
static json_t *machine_json(const struct cabe_machine *machine)
{
    struct cabe_recommendation advice;
    json_t *json = cabe_machine_json(machine);

    cabe_machine_recommend(&advice, machine, CABE_FAMILIES_ALL);
    if (json && json_object_set_new(json, "recommendation", cabe_recommendation_json(&advice)) != 0) {
        json_decref(json);
        json = NULL;
    }
    return json;
}

static void machine_now(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    struct cabe_machine *machine = (struct cabe_machine *)cabe_calloc(1, sizeof *machine);
    const char *words = cabe_http_query(exchange, "describe");
    struct cabe_error err = {0};
    enum cabe_status status;

    (void)server;
    (void)tail;
    if (!machine)
        status = cabe_fail(&err, CABE_ERR_OOM, "a machine");
    else if (words)
        status = cabe_machine_describe(machine, words, &err);
    else
        status = cabe_machine_probe(machine, NULL, &err);
    if (status == CABE_OK)
        cabe_reply_json(exchange, 200, machine_json(machine));
    else
        cabe_reply_status(exchange, &err, NULL);
    cabe_free(machine);
}

static void machine(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    cabe_handle_later(server, exchange, tail, machine_now); /* reads many small files */
}

/* ---- models in memory ---- */

struct loading {
    struct cabe_http_exchange *exchange;
    struct cabe_service *service;
    char *name;
    int pin;
};

static void reply_state(struct cabe_http_exchange *exchange, const char *name, const char *state, double load_s)
{
    json_t *json = json_pack("{s:o,s:s}", "model", cabe_json_text(name, strlen(name)), "state", state);

    if (json && load_s > 0)
        json_object_set_new(json, "load_s", json_real(load_s));
    cabe_reply_json(exchange, 200, json);
}

void api_reply_model(struct cabe_http_exchange *exchange, const struct cabe_error *err)
{
    if (err->status == CABE_ERR_NOT_FOUND)
        cabe_reply_error(exchange, 404, "model_not_found", "model", "%s", err->text);
    else
        cabe_reply_status(exchange, err, NULL);
}

static void on_loaded(void *self, enum cabe_status status, const struct cabe_error *err)
{
    struct loading *loading = (struct loading *)self;

    if (status == CABE_OK)
        reply_state(loading->exchange, loading->name, "ready", 0);
    else
        api_reply_model(loading->exchange, err);
    cabe_http_release(loading->exchange);
    cabe_free(loading->name);
    cabe_free(loading);
}

/* Answers when the model is there, or with why it is not. */
static void load(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *name)
{
    struct loading *loading = (struct loading *)cabe_calloc(1, sizeof *loading);
    struct cabe_error err = {0};

    if (loading)
        loading->name = cabe_strdup(name);
    if (!loading || !loading->name) {
        cabe_free(loading);
        cabe_reply_no_memory(exchange, "loading a model");
        return;
    }
    loading->exchange = exchange;
    cabe_http_hold(exchange);
    if (cabe_service_load(server->service, name, on_loaded, loading, &err) == CABE_OK)
        return;
    api_reply_model(exchange, &err);
    cabe_http_release(exchange);
    cabe_free(loading->name);
    cabe_free(loading);
}

static void unload(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *name)
{
    struct cabe_error err = {0};
    struct cabe_service_model *model = (struct cabe_service_model *)cabe_calloc(1, sizeof *model);
    enum cabe_status status;

    if (!model)
        status = cabe_fail(&err, CABE_ERR_OOM, "a model");
    else
        status = cabe_service_model(server->service, name, model, &err);
    if (status == CABE_OK && (model->state != CABE_SERVICE_ABSENT || model->failed[0]))
        status = cabe_service_unload(server->service, name, &err);
    if (cabe_server_notice(server, name) && status == CABE_ERR_NOT_FOUND)
        status = CABE_OK; /* a start model that there never was */
    if (status == CABE_OK)
        reply_state(exchange, name, "absent", 0);
    else if (status == CABE_ERR_BUSY)
        cabe_reply_error(exchange, 409, "model_in_use", "model", "%s", err.text);
    else
        api_reply_model(exchange, &err);
    cabe_free(model);
}

static void pin(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *name, int pinned)
{
    struct cabe_error err = {0};

    if (cabe_service_pin(server->service, name, pinned, &err) == CABE_OK)
        cabe_reply_json(exchange, 200, json_pack("{s:o,s:b}", "model", cabe_json_text(name, strlen(name)), "pinned", pinned));
    else
        api_reply_model(exchange, &err);
}

/* POST /v1/models/NAME/load and the like; a name may have slashes. On a worker: unloading may wait a moment. */
static void change_model_now(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    const char *slash = strrchr(tail, '/');
    char name[CABE_SERVICE_NAME_MAX];
    size_t n = slash ? (size_t)(slash - tail) : 0;

    if (n == 0 || n >= sizeof name) {
        cabe_reply_error(exchange, 404, "not_found", NULL, "wanted /v1/models/NAME/load, unload, pin or unpin");
        return;
    }
    memcpy(name, tail, n);
    name[n] = '\0';
    if (strcmp(slash, "/load") == 0)
        load(server, exchange, name);
    else if (strcmp(slash, "/unload") == 0)
        unload(server, exchange, name);
    else if (strcmp(slash, "/pin") == 0)
        pin(server, exchange, name, 1);
    else if (strcmp(slash, "/unpin") == 0)
        pin(server, exchange, name, 0);
    else
        cabe_reply_error(exchange, 404, "not_found", NULL, "'%.40s': wanted load, unload, pin or unpin", slash + 1);
}

static void change_model(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    cabe_handle_later(server, exchange, tail, change_model_now);
}

/* ---- tokens ---- */

#define TEXT_MAX (4u << 20)

static const char *read_model(const struct api_object *object)
{
    const char *model = NULL;

    if (!api_get_string(object, "model", &model, NULL))
        api_refuse(object->fault, 400, "missing_required_parameter", "model", "model: wanted the name of a model");
    return model;
}

static void begin_tokens(struct api_text *out, const char *model)
{
    api_puts(out, "{\"model\":");
    api_put_string(out, model, strlen(model));
}

/* Sends what was put, with its last brace, and gives its memory back. */
static void reply_tokens(struct cabe_http_exchange *exchange, struct api_text *out)
{
    api_puts(out, "}");
    if (out->failed)
        cabe_reply_no_memory(exchange, "the answer");
    else
        cabe_http_reply(exchange, 200, "application/json", out->bytes, out->n);
    api_text_clear(out);
}

static void tokenize_now(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    json_t *body = cabe_request_json(exchange);
    struct api_fault fault = {0};
    const struct api_object object = {body, "", &fault};
    const char *model, *text = NULL;
    struct cabe_error err = {0};
    struct api_text out = {0};
    size_t bytes = 0, n_ids = 0;
    int32_t *ids = NULL;

    (void)tail;
    if (!body)
        return;
    model = read_model(&object);
    if (!api_get_string(&object, "text", &text, &bytes) && !api_get_string(&object, "content", &text, &bytes) &&
        !api_get_string(&object, "prompt", &text, &bytes))
        api_refuse(&fault, 400, "missing_required_parameter", "text", "text: wanted a string");
    if (bytes > TEXT_MAX)
        api_refuse(&fault, 400, "invalid_value", "text", "text: at most %u bytes, got %zu", TEXT_MAX, bytes);
    if (fault.status) {
        api_reply_fault(exchange, &fault);
    } else if (cabe_service_tokenize(server->service, model, text, bytes, &ids, &n_ids, &err) != CABE_OK) {
        api_reply_model(exchange, &err);
    } else {
        begin_tokens(&out, model);
        api_printf(&out, ",\"count\":%zu,\"tokens\":[", n_ids);
        for (size_t i = 0; i < n_ids; i++)
            api_printf(&out, "%s%d", i ? "," : "", ids[i]);
        api_puts(&out, "]");
        reply_tokens(exchange, &out);
    }
    cabe_free(ids);
    json_decref(body);
}

static void tokenize(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    cabe_handle_later(server, exchange, tail, tokenize_now); /* may load the model */
}

/* Reads "tokens"; NULL with a fault. */
static int32_t *read_tokens(const json_t *body, size_t *n, struct api_fault *fault)
{
    const struct api_object object = {body, "", fault};
    const json_t *list;
    int32_t *ids;
    size_t i;
    json_t *id;

    if (!api_get_array(&object, "tokens", &list)) {
        api_refuse(fault, 400, "missing_required_parameter", "tokens", "tokens: wanted an array of token ids");
        return NULL;
    }
    *n = json_array_size(list);
    ids = (int32_t *)cabe_calloc(*n ? *n : 1, sizeof *ids);
    if (!ids)
        api_refuse_memory(fault);
    json_array_foreach(list, i, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
            api_refuse(fault, 400, "invalid_value", "tokens", "tokens[%zu]: wanted a token id", i);
        else if (ids)
            ids[i] = (int32_t)json_integer_value(id);
    }
    if (fault->status) {
        cabe_free(ids);
        return NULL;
    }
    return ids;
}

static void detokenize_now(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    json_t *body = cabe_request_json(exchange);
    struct api_fault fault = {0};
    const struct api_object object = {body, "", &fault};
    const char *model;
    struct cabe_error err = {0};
    struct api_text out = {0};
    size_t n = 0, bytes = 0;
    int32_t *ids;
    char *text = NULL;

    (void)tail;
    if (!body)
        return;
    model = read_model(&object);
    ids = fault.status ? NULL : read_tokens(body, &n, &fault);
    if (fault.status) {
        api_reply_fault(exchange, &fault);
    } else if (cabe_service_detokenize(server->service, model, ids, n, &text, &bytes, &err) != CABE_OK) {
        api_reply_model(exchange, &err);
    } else {
        begin_tokens(&out, model);
        api_puts(&out, ",\"text\":");
        api_put_string(&out, text, bytes);
        reply_tokens(exchange, &out);
    }
    cabe_free(text);
    cabe_free(ids);
    json_decref(body);
}

static void detokenize(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    cabe_handle_later(server, exchange, tail, detokenize_now);
}

/* ---- the state ---- */

static json_t *purposes_json(const uint64_t bytes[CABE_N_PURPOSES])
{
    json_t *purposes = json_object();

    for (int p = 0; p < CABE_N_PURPOSES; p++)
        json_object_set_new(purposes, cabe_purpose_name((enum cabe_purpose)p), cabe_json_count(bytes[p]));
    return purposes;
}

static json_t *memory_json(const struct cabe_ledger *ledger)
{
    struct cabe_ledger_touched touched;
    struct cabe_ledger_view view;
    struct cabe_ledger_holder top[10];
    json_t *devices = json_array(), *holders = json_array();
    size_t n;

    cabe_ledger_read_touched(ledger, &view, &touched);
    for (int d = 0; d < view.n_devices; d++) {
        uint64_t budget = view.device[d].budget_bytes;

        json_array_append_new(devices, json_pack("{s:s,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "device", d == 0 ? "host" : "device",
                                                 "budget_bytes", budget == CABE_UNLIMITED ? json_null() : cabe_json_count(budget),
                                                 "used_bytes", cabe_json_count(view.device[d].used_bytes), "high_bytes",
                                                 cabe_json_count(view.device[d].high_bytes), "touched_bytes",
                                                 cabe_json_count(touched.device[d].bytes), "others_bytes",
                                                 cabe_json_count(view.device[d].others_bytes), "purposes",
                                                 purposes_json(view.device[d].purpose_bytes), "touched",
                                                 purposes_json(touched.device[d].purpose_bytes)));
    }
    n = cabe_ledger_top(ledger, top, sizeof top / sizeof top[0]);
    for (size_t i = 0; i < n; i++)
        json_array_append_new(holders, json_pack("{s:o,s:i,s:s,s:o}", "place",
                                                 cabe_json_text(top[i].place, strlen(top[i].place)), "device",
                                                 top[i].device, "purpose", cabe_purpose_name(top[i].purpose), "bytes",
                                                 cabe_json_count(top[i].bytes)));
    return json_pack("{s:o,s:o,s:o}", "devices", devices, "holders", holders, "n_refused",
                     cabe_json_count(view.n_refused));
}

static json_t *work_json(struct cabe_service *service)
{
    struct cabe_service_stats s;

    cabe_service_stats(service, &s);
    return json_pack("{s:I,s:I,s:o,s:o,s:o,s:o,s:o,s:o,s:i}", "running", (json_int_t)s.n_running, "waiting",
                     (json_int_t)s.n_waiting, "admitted", cabe_json_count(s.n_admitted), "refused",
                     cabe_json_count(s.n_refused_requests + s.n_refused_tokens + s.n_refused_draining + s.n_refused_pressure),
                     "preempted", cabe_json_count(s.n_preempted), "cancelled", cabe_json_count(s.n_cancelled),
                     "timed_out", cabe_json_count(s.n_timed_out), "stalled_ms",
                     cabe_json_count((uint64_t)(s.stalled_s * 1000)), "models_resident", s.pool.n_resident);
}

static json_t *models_json(const struct cabe_service_model *models, size_t n)
{
    json_t *list = json_array();

    for (size_t i = 0; i < n; i++) {
        const struct cabe_service_model *m = &models[i];
        json_t *json;

        if (m->state == CABE_SERVICE_ABSENT)
            continue;
        json = json_pack("{s:o,s:s,s:o,s:b,s:I,s:I,s:f,s:I,s:I}", "model", cabe_json_text(m->name, strlen(m->name)),
                         "state", m->state == CABE_SERVICE_READY ? "ready" : "changing", "bytes",
                         cabe_json_count(m->bytes), "pinned", m->pinned, "running", (json_int_t)m->n_running, "waiting",
                         (json_int_t)m->n_waiting, "idle_s", m->idle_s, "kv_pages_used", (json_int_t)m->kv_pages_used,
                         "kv_pages", (json_int_t)m->kv_pages);
        json_array_append_new(list, json);
    }
    return list;
}

/* Slots of heavy work, and who holds them. */
static json_t *slots_json(struct cabe_server *server)
{
    struct cabe_slots_state *slots = (struct cabe_slots_state *)cabe_calloc(1, sizeof *slots);
    json_t *holders = json_array(), *json = NULL;
    int n_waiting = 0;

    if (slots) {
        cabe_slots_state(cabe_jobs_slots(server->jobs), slots);
        for (int c = 0; c < CABE_N_CLASSES; c++)
            n_waiting += slots->n_waiting[c];
        for (int i = 0; i < slots->n_held; i++)
            json_array_append_new(holders, json_pack("{s:o,s:s,s:f}", "name",
                                                     cabe_json_text(slots->holder[i].name, strlen(slots->holder[i].name)),
                                                     "class", cabe_class_name(slots->holder[i].class_), "held_s",
                                                     slots->holder[i].held_s));
        json = json_pack("{s:i,s:i,s:i,s:O}", "all", slots->n_slots, "held", slots->n_held, "waiting", n_waiting,
                         "holders", holders);
    }
    json_decref(holders);
    cabe_free(slots);
    return json;
}

static void state(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    struct cabe_workers_stats workers;
    struct cabe_recommendation advice;
    size_t n;
    struct cabe_service_model *models = api_models(server, exchange, &n);
    json_t *json;

    (void)tail;
    if (!models)
        return;
    cabe_server_workers(server, &workers);
    cabe_machine_recommend(&advice, &server->session->machine, CABE_FAMILIES_ALL);
    json = json_pack("{s:s,s:o,s:{s:i,s:i,s:i},s:o,s:o,s:o,s:o}", "tier", cabe_tier_name(advice.tier), "recommendation",
                     cabe_recommendation_json(&advice), "workers", "all", workers.n_workers, "free",
                     workers.n_workers - workers.n_busy, "waiting", workers.n_waiting, "slots",
                     slots_json(server), "memory",
                     memory_json(server->session->ledger), "work", work_json(server->service), "models",
                     models_json(models, n));
    cabe_free(models);
    cabe_reply_json(exchange, 200, json);
}

const struct cabe_route cabe_own_routes[] = {
    {CABE_HTTP_GET, "/v1/machine", machine, 0, "This machine, or one that is described, and what suits it"},
    {CABE_HTTP_POST, "/v1/plan", api_own_plan, 0, "What fits and how, before anything is loaded"},
    {CABE_HTTP_POST, "/v1/models/*", change_model, 0, "Loads, unloads, pins or unpins a model"},
    {CABE_HTTP_POST, "/v1/tokenize", tokenize, 0, "A text as token ids of a model"},
    {CABE_HTTP_POST, "/v1/detokenize", detokenize, 0, "Token ids of a model as text"},
    {CABE_HTTP_GET, "/v1/state", state, 0, "Tier, recommendation, workers, memory by purpose, models, queues"},
    {CABE_HTTP_GET, "/openapi.json", api_openapi, CABE_ROUTE_OPEN | CABE_ROUTE_EARLY, "This description"},
    {.path = NULL},
};
