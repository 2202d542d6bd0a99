/* POST /v1/plan: what fits and how, for this machine or one that is described, before anything is loaded. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "serve/api_impl.h"
#include "task/embed.h"
#include "task/encoder.h"
#include "task/generator.h"
#include "task/net.h"

struct wish {
    const char *model, *describe;
    struct cabe_session_config session;
    struct cabe_generator_wishes generator;
    struct cabe_encoder_wishes encoder;
};

/* "512M", "1.5G" or a number of bytes. */
static void read_bytes(const struct api_object *object, const char *name, uint64_t *out)
{
    static const char units[] = "KMGT";
    const json_t *value = json_object_get(object->json, name);
    const char *text = json_string_value(value), *unit;
    double number = json_number_value(value);
    char *end = NULL;

    if (!value || json_is_null(value))
        return;
    if (text) {
        number = strtod(text, &end);
        unit = end && *end ? strchr(units, *end >= 'a' ? *end - 32 : *end) : NULL;
        for (const char *u = units; unit && u <= unit; u++)
            number *= 1024;
        if (end == text || (*end && (!unit || (strcmp(end + 1, "") != 0 && strcmp(end + 1, "iB") != 0 &&
                                               strcmp(end + 1, "B") != 0))))
            number = -1;
    }
    if ((!text && !json_is_number(value)) || !(number >= 1 && number < 9e18)) {
        api_refuse(object->fault, 400, "invalid_value", name, "%s: wanted bytes, as 536870912 or \"512M\"", name);
        return;
    }
    *out = (uint64_t)number;
}

static void read_wish(struct wish *wish, const struct api_object *object)
{
    const char *word;
    int64_t number;

    *wish = (struct wish){.generator = {.dtype = -1, .precision = -1, .kv = -1}, .encoder = {.dtype = -1, .precision = -1}};
    if (!api_get_string(object, "model", &wish->model, NULL))
        api_refuse(object->fault, 400, "missing_required_parameter", "model", "model: wanted the name of a model");
    api_get_string(object, "describe", &wish->describe, NULL);
    read_bytes(object, "memory", &wish->session.memory_bytes);
    if (api_get_integer(object, "threads", 1, CABE_TEAM_MAX, &number))
        wish->session.n_threads = (int)number;
    if (api_get_integer(object, "context", 1, 1 << 24, &number))
        wish->generator.context = number;
    if (api_get_integer(object, "parallel", 1, 256, &number))
        wish->generator.n_seqs = (int32_t)number;
    if (api_get_integer(object, "batch", 1, 1 << 20, &number))
        wish->generator.batch_tokens = wish->encoder.batch_tokens = number;
    if (api_get_string(object, "dtype", &word, NULL)) {
        wish->generator.dtype = wish->encoder.dtype = (int)cabe_dtype_find(word);
        if (cabe_dtype_find(word) >= CABE_N_DTYPES)
            api_refuse(object->fault, 400, "invalid_value", "dtype", "dtype: '%.40s' is none", word);
    }
    if (api_get_string(object, "kv", &word, NULL)) {
        wish->generator.kv = (int)cabe_kv_format_find(word);
        if (cabe_kv_format_find(word) >= CABE_N_KV_FORMATS)
            api_refuse(object->fault, 400, "invalid_value", "kv", "kv: wanted f32, f16 or q8, got '%.40s'", word);
    }
}

static enum cabe_status plan_model(const struct wish *wish, const char *path, struct cabe_session *session,
                                   struct cabe_plan *plan, struct cabe_error *err)
{
    struct cabe_encoder *encoder = NULL;
    struct cabe_generator *generator = NULL;
    struct cabe_embed_job job = {.session = session};
    struct cabe_fit_task *task = (struct cabe_fit_task *)cabe_calloc(1, sizeof *task);
    struct cabe_net net;
    int writes;
    enum cabe_status status;

    if (!task)
        return cabe_fail(err, CABE_ERR_OOM, "a task");
    status = cabe_net_open(&net, session, path, wish->generator.dtype, err);
    writes = status == CABE_OK && cabe_model_config(net.model)->kind == CABE_MODEL_DECODER;
    cabe_net_close(&net);
    if (status == CABE_OK)
        status = writes ? cabe_generator_find(&generator, session, path, &wish->generator, err)
                        : cabe_encoder_find(&encoder, session, path, &wish->encoder, err);
    if (status == CABE_OK) {
        job.encoder = encoder;
        if (writes)
            cabe_generator_task(generator, task);
        else
            cabe_embed_task(&job, task);
        status = cabe_session_plan(session, plan, task, err);
    }
    cabe_encoder_close(encoder);
    cabe_generator_close(generator);
    cabe_free(task);
    return status;
}

static json_t *plan_json(const struct cabe_plan *plan, const struct wish *wish)
{
    json_t *json = cabe_plan_json(plan);
    double prompt, answer;

    cabe_generator_speed(plan, &prompt, &answer);
    if (json && prompt > 0)
        json_object_set_new(json, "prompt_tokens_per_s", json_real(prompt));
    if (json && answer > 0)
        json_object_set_new(json, "tokens_per_s", json_real(answer));
    if (json)
        json_object_set_new(json, "model", json_string(wish->model));
    return json;
}

static enum cabe_status make_plan(struct cabe_server *server, struct wish *wish, json_t **out, struct cabe_error *err)
{
    struct cabe_service_model *model = (struct cabe_service_model *)cabe_calloc(1, sizeof *model);
    struct cabe_machine *machine = (struct cabe_machine *)cabe_calloc(1, sizeof *machine);
    struct cabe_plan *plan = (struct cabe_plan *)cabe_calloc(1, sizeof *plan);
    struct cabe_session *session = NULL;
    enum cabe_status status = CABE_OK;

    if (!model || !machine || !plan)
        status = cabe_fail(err, CABE_ERR_OOM, "a plan");
    if (status == CABE_OK)
        status = cabe_service_model(server->service, wish->model, model, err);
    if (status == CABE_OK && wish->describe) {
        status = cabe_machine_describe(machine, wish->describe, err);
        wish->session.machine = machine;
    } else if (status == CABE_OK) { /* this one: the budget that the server has, unless another is asked for */
        wish->session.machine = &server->session->machine;
        if (wish->session.memory_bytes == 0)
            wish->session.memory_bytes = server->session->budget_bytes[0];
    }
    wish->session.cache_dir = server->session->cache_dir;
    if (status == CABE_OK)
        status = cabe_session_open(&session, &wish->session, 1, err);
    if (status == CABE_OK) {
        session->process_bytes = server->session->process_bytes; /* measured now it would count the models in memory */
        status = plan_model(wish, model->path, session, plan, err);
    }
    *out = status == CABE_OK ? plan_json(plan, wish) : NULL;
    cabe_session_close(session);
    cabe_free(model);
    cabe_free(machine);
    cabe_free(plan);
    return status;
}

static void plan_now(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    json_t *body = cabe_request_json(exchange), *json;
    struct api_fault fault = {0};
    struct cabe_error err = {0};
    struct wish wish;

    (void)tail;
    if (!body)
        return;
    read_wish(&wish, &(const struct api_object){body, "", &fault});
    if (fault.status)
        api_reply_fault(exchange, &fault);
    else if (make_plan(server, &wish, &json, &err) != CABE_OK)
        api_reply_model(exchange, &err);
    else
        cabe_reply_json(exchange, 200, json);
    json_decref(body);
}

void api_own_plan(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    cabe_handle_later(server, exchange, tail, plan_now);
}
