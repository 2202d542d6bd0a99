/* Ollama's requests to generate, in the words of a request. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "serve/api_impl.h"

/* "5m", "1h30m", "300s", "-1", or a number of seconds; below 0: for ever. */
static int read_duration(const char *text, double *out)
{
    double sum = 0, sign = 1;
    const char *at = text;

    if (*at == '-') {
        sign = -1;
        at++;
    }
    if (!*at)
        return 0;
    while (*at) {
        char *end;
        double value, unit = 1;

        if (*at < '0' || *at > '9')
            return 0;
        value = strtod(at, &end);
        at = end;
        if (strncmp(at, "ms", 2) == 0)
            unit = 1e-3, at += 2;
        else if (*at == 'h')
            unit = 3600, at++;
        else if (*at == 'm')
            unit = 60, at++;
        else if (*at == 's')
            at++;
        else if (*at)
            return 0;
        sum += value * unit;
    }
    *out = sign * sum;
    return isfinite(sum);
}

void api_read_keep_alive(const struct api_object *object, double *out)
{
    const json_t *value = json_object_get(object->json, "keep_alive");

    if (!value || json_is_null(value))
        return;
    if (json_is_number(value) && isfinite(json_number_value(value)))
        *out = json_number_value(value);
    else if (!json_is_string(value) || !read_duration(json_string_value(value), out))
        api_refuse(object->fault, 400, "invalid_value", "keep_alive",
                   "keep_alive: wanted a number of seconds, or a time like \"5m\"; -1: for ever");
    if (isfinite(*out) && *out < 0)
        *out = -1;
}

const char *api_ollama_model(const json_t *body, struct api_fault *fault)
{
    const struct api_object object = {body, "", fault};
    const char *model = NULL;

    if (!api_get_string(&object, "model", &model, NULL) && !api_get_string(&object, "name", &model, NULL))
        api_refuse(fault, 400, "missing_required_parameter", "model", "model is required");
    return model;
}

static void read_options(struct api_request *request, const struct api_object *body)
{
    const json_t *options;
    struct api_object object = {NULL, "options.", body->fault};
    int64_t number;

    if (!api_get_object(body, "options", &options))
        return;
    object.json = options;
    api_read_sampling(request, &object, API_NAMES_OLLAMA);
    api_read_stop(request, &object);
    if (api_get_integer(&object, "num_predict", -2, INT32_MAX, &number))
        request->max_new = number > 0 ? number : 0; /* -1, -2: until the context is full */
    if (api_get_integer(&object, "num_ctx", 1, INT32_MAX, &number)) {
        request->context = number;
        snprintf(request->note, sizeof request->note,
                 "num_ctx %lld was asked for, and this is what the model, the memory and the server's --context allow",
                 (long long)number);
    }
}

static void read_common(struct api_request *request, struct api_fault *fault)
{
    const struct api_object object = {request->body, "", fault};
    const json_t *format = json_object_get(request->body, "format");

    request->model = api_ollama_model(request->body, fault);
    request->stream = 1;
    api_get_flag(&object, "stream", &request->stream);
    api_read_keep_alive(&object, &request->keep_alive_s);
    read_options(request, &object);
    if (format && !json_is_null(format) && !(json_is_string(format) && json_string_length(format) == 0))
        api_refuse(fault, 400, "unsupported_value", "format", "format: constrained output does not exist yet");
}

static void refuse_images(const json_t *object, const char *name, struct api_fault *fault)
{
    const json_t *images = json_object_get(object, "images");

    if (images && !json_is_null(images) && !(json_is_array(images) && json_array_size(images) == 0))
        api_refuse(fault, 400, "unsupported_content", name, "%s: images are not supported, only text", name);
}

/* "think" as templates know it. */
static void read_think(struct api_request *request, struct api_fault *fault)
{
    const json_t *think = json_object_get(request->body, "think");

    if (!think || json_is_null(think) || fault->status)
        return;
    request->extra = json_pack("{s:b}", "enable_thinking", !json_is_false(think));
}

void api_read_ollama_chat(struct api_request *request, struct api_fault *fault)
{
    const struct api_object object = {request->body, "", fault};
    const json_t *messages = json_object_get(request->body, "messages");
    size_t i;
    json_t *message;

    read_common(request, fault);
    read_think(request, fault);
    if (!messages || json_is_null(messages) || (json_is_array(messages) && json_array_size(messages) == 0))
        return; /* only to load, or to unload */
    json_array_foreach(messages, i, message) {
        char name[64];

        snprintf(name, sizeof name, "messages[%zu].images", i);
        refuse_images(message, name, fault);
    }
    api_read_messages(request, messages, "messages", fault);
    api_read_tools(request, &object);
}

void api_read_ollama_generate(struct api_request *request, struct api_fault *fault)
{
    const struct api_object object = {request->body, "", fault};
    const json_t *context = NULL;
    const char *prompt = NULL, *system = NULL, *other = NULL;
    size_t n = 0, n_system = 0, n_other = 0;

    read_common(request, fault);
    read_think(request, fault);
    api_get_flag(&object, "raw", &request->raw);
    api_get_string(&object, "prompt", &prompt, &n);
    api_get_string(&object, "system", &system, &n_system);
    if (api_get_string(&object, "suffix", &other, &n_other) && n_other > 0)
        api_refuse(fault, 400, "unsupported_parameter", "suffix", "suffix: inserting before a suffix is not supported");
    if (api_get_string(&object, "template", &other, &n_other) && n_other > 0)
        api_refuse(fault, 400, "unsupported_parameter", "template",
                   "template: the model's own is used; give \"raw\": true to write the whole prompt");
    if (api_get_array(&object, "context", &context) && json_array_size(context) > 0)
        api_refuse(fault, 400, "unsupported_parameter", "context",
                   "context: a conversation goes to /api/chat as messages");
    refuse_images(request->body, "images", fault);
    if (fault->status || n == 0)
        return;
    if (request->raw) {
        request->prompt[0] = prompt;
        request->prompt_bytes[0] = n;
        request->n_prompts = 1;
        return;
    }
    request->messages = json_array();
    if (n_system > 0)
        json_array_append_new(request->messages,
                              json_pack("{s:s,s:s%}", "role", "system", "content", system, n_system));
    json_array_append_new(request->messages, json_pack("{s:s,s:s%}", "role", "user", "content", prompt, n));
    if (json_array_size(request->messages) != (size_t)(n_system > 0) + 1)
        api_refuse_memory(fault);
}
