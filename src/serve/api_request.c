#include "serve/api_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/memory.h"

void api_check_memory(struct api_fault *fault, uint64_t n_refused)
{
    if (cabe_memory_refused() == n_refused)
        return;
    *fault = (struct api_fault){0};
    api_refuse_memory(fault);
}

void api_request_init(struct api_request *request, json_t *body)
{
    *request = (struct api_request){.body = body,
                                    .class_ = CABE_CLASS_NORMAL,
                                    .n = 1,
                                    .shift_keep = -1,
                                    .keep_alive_s = (double)NAN};
    cabe_sampling_defaults(&request->sampling);
    if (getrandom(&request->sampling.seed, sizeof request->sampling.seed, GRND_NONBLOCK) < 0)
        request->sampling.seed = cabe_clock_ns();
}

void api_request_clear(struct api_request *request)
{
    for (int i = 0; i < API_PROMPTS_MAX; i++)
        cabe_free(request->ids[i]);
    cabe_free(request->bias);
    json_decref(request->messages);
    json_decref(request->tools);
    json_decref(request->extra);
    json_decref(request->body);
    *request = (struct api_request){0};
}

/* ---- sampling ---- */

static void read_bias(struct api_request *request, const struct api_object *object)
{
    const json_t *map, *value;
    const char *key;
    char param[96];
    size_t n = 0;

    if (!api_get_object(object, "logit_bias", &map) || json_object_size(map) == 0)
        return;
    if (json_object_size(map) > CABE_SAMPLE_BIAS_MAX) {
        api_refuse(object->fault, 400, "invalid_value", "logit_bias", "logit_bias: at most %d tokens, got %zu",
                   CABE_SAMPLE_BIAS_MAX, json_object_size(map));
        return;
    }
    request->bias = (struct cabe_logit_bias *)cabe_calloc(json_object_size(map), sizeof *request->bias);
    if (!request->bias) {
        api_refuse_memory(object->fault);
        return;
    }
    json_object_foreach((json_t *)(uintptr_t)map, key, value) {
        char *end;
        long token = strtol(key, &end, 10);
        double bias = json_number_value(value);

        snprintf(param, sizeof param, "logit_bias.%.40s", key);
        if (!*key || *end || token < 0 || token > INT32_MAX)
            api_refuse(object->fault, 400, "invalid_value", param, "logit_bias: '%.40s' is no token id", key);
        else if (!json_is_number(value) || !(bias >= -100 && bias <= 100))
            api_refuse(object->fault, 400, "invalid_value", param, "%s: wanted a number from -100 to 100", param);
        else
            request->bias[n++] =
                (struct cabe_logit_bias){.token = (int32_t)token, .bias = bias <= -100 ? -INFINITY : (float)bias};
    }
    request->sampling.bias = request->bias;
    request->sampling.n_bias = n;
}

static void read_float(const struct api_object *object, const char *name, double least, double most, float *out)
{
    double value;

    if (api_get_number(object, name, least, most, &value))
        *out = (float)value;
}

void api_read_sampling(struct api_request *request, const struct api_object *object, enum api_sampling_names names)
{
    struct cabe_sampling *s = &request->sampling;
    int64_t number;

    read_float(object, "temperature", 0, names == API_NAMES_OPENAI ? 2 : 100, &s->temperature);
    read_float(object, "top_p", 0, 1, &s->top_p);
    read_float(object, "min_p", 0, 1, &s->min_p);
    read_float(object, "frequency_penalty", -2, 2, &s->frequency_penalty);
    read_float(object, "presence_penalty", -2, 2, &s->presence_penalty);
    read_float(object, names == API_NAMES_OPENAI ? "repetition_penalty" : "repeat_penalty", 0.01, 100,
               &s->repetition_penalty);
    if (api_get_integer(object, "top_k", -1, INT32_MAX, &number))
        s->top_k = number < 0 ? 0 : (int32_t)number;
    if (api_get_integer(object, "repeat_last_n", -1, INT32_MAX, &number))
        s->penalty_last_n = (int32_t)number;
    if (api_get_integer(object, "seed", INT64_MIN, INT64_MAX, &number))
        s->seed = (uint64_t)number;
    if (names == API_NAMES_OPENAI)
        read_bias(request, object);
}

void api_read_stop(struct api_request *request, const struct api_object *object)
{
    const json_t *stop = json_object_get(object->json, "stop");
    size_t n = json_is_array(stop) ? json_array_size(stop) : json_is_string(stop) ? 1 : 0;
    char param[96];

    if (!stop || json_is_null(stop))
        return;
    snprintf(param, sizeof param, "%sstop", object->prefix);
    if (!json_is_array(stop) && !json_is_string(stop))
        api_refuse(object->fault, 400, "invalid_type", param, "%s: wanted a string or an array of them, got %s", param,
                   api_kind(stop));
    if (n > CABE_SERVICE_STOPS_MAX - 1) {
        api_refuse(object->fault, 400, "invalid_value", param, "%s: at most %d strings, got %zu", param,
                   CABE_SERVICE_STOPS_MAX - 1, n);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_is_array(stop) ? json_array_get(stop, i) : stop;

        if (!json_is_string(item) || json_string_length(item) == 0) {
            snprintf(param, sizeof param, "%sstop[%zu]", object->prefix, i);
            api_refuse(object->fault, 400, "invalid_value", param, "%s: wanted a string that is not empty", param);
            return;
        }
        request->stop[request->n_stop++] = json_string_value(item);
    }
}

/* ---- messages ---- */

json_t *api_read_content(const json_t *content, const char *name, struct api_fault *fault)
{
    struct api_text text = {0};
    json_t *joined;
    size_t i;
    json_t *part;

    if (!content || json_is_null(content))
        return json_string("");
    if (json_is_string(content))
        return json_copy((json_t *)(uintptr_t)content);
    if (!json_is_array(content)) {
        api_refuse(fault, 400, "invalid_type", name, "%s: wanted a string or an array of parts, got %s", name,
                   api_kind(content));
        return NULL;
    }
    json_array_foreach(content, i, part) {
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *words = json_object_get(part, type && strcmp(type, "refusal") == 0 ? "refusal" : "text");
        char param[96];

        snprintf(param, sizeof param, "%.70s[%zu]", name, i);
        if (json_is_string(part))
            words = part;
        else if (!type)
            api_refuse(fault, 400, "invalid_type", param, "%s: wanted a part with a type, got %s", param,
                       api_kind(part));
        else if (strstr(type, "text") == NULL && strcmp(type, "refusal") != 0)
            api_refuse(fault, 400, "unsupported_content", param,
                       "%s: parts of type '%.40s' are not supported, only text", param, type);
        else if (!json_is_string(words))
            api_refuse(fault, 400, "invalid_type", param, "%s.text: wanted a string", param);
        if (json_is_string(words))
            api_put(&text, json_string_value(words), json_string_length(words));
    }
    joined = fault->status ? NULL : json_stringn(text.bytes ? text.bytes : "", text.n);
    if (!fault->status && (text.failed || !joined))
        api_refuse_memory(fault);
    if (fault->status) {
        json_decref(joined);
        joined = NULL;
    }
    api_text_clear(&text);
    return joined;
}

/* The calls of an assistant's message with their arguments as objects, as templates print them. A new reference. */
static json_t *read_calls(const json_t *calls, const char *name, struct api_fault *fault)
{
    json_t *out = json_array();
    size_t i;
    json_t *call;

    json_array_foreach(calls, i, call) {
        const json_t *function = json_object_get(call, "function");
        json_t *copy = json_deep_copy(call), *arguments = json_object_get(function, "arguments"), *parsed;

        if (!json_is_string(json_object_get(function, "name"))) {
            api_refuse(fault, 400, "invalid_value", name, "%s.tool_calls[%zu].function.name: wanted a string", name, i);
            json_decref(copy);
            break;
        }
        if (json_is_string(arguments)) {
            parsed = json_loadb(json_string_value(arguments), json_string_length(arguments), 0, NULL);
            if (parsed)
                json_object_set_new(json_object_get(copy, "function"), "arguments", parsed);
        }
        json_array_append_new(out, copy);
    }
    return out;
}

static json_t *read_message(const json_t *message, const char *name, struct api_fault *fault)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool", "developer", "function", NULL};
    const char *role = json_string_value(json_object_get(message, "role"));
    const json_t *calls = json_object_get(message, "tool_calls");
    char param[96];
    json_t *out, *content;
    int i = 0;

    if (!json_is_object(message)) {
        api_refuse(fault, 400, "invalid_type", name, "%s: wanted an object, got %s", name, api_kind(message));
        return NULL;
    }
    while (roles[i] && (!role || strcmp(roles[i], role) != 0))
        i++;
    snprintf(param, sizeof param, "%.80s.role", name);
    if (!roles[i]) {
        api_refuse(fault, 400, "invalid_value", param, "%s: wanted system, user, assistant, tool or developer, got %.40s",
                   param, role ? role : "nothing");
        return NULL;
    }
    snprintf(param, sizeof param, "%.80s.content", name);
    content = api_read_content(json_object_get(message, "content"), param, fault);
    if (!content)
        return NULL;
    out = json_copy((json_t *)(uintptr_t)message);
    if (!out) {
        json_decref(content);
        api_refuse_memory(fault);
        return NULL;
    }
    json_object_set_new(out, "content", content);
    if (strcmp(role, "developer") == 0)
        json_object_set_new(out, "role", json_string("system"));
    else if (strcmp(role, "function") == 0)
        json_object_set_new(out, "role", json_string("tool"));
    if (calls && json_is_array(calls) && json_array_size(calls) > 0)
        json_object_set_new(out, "tool_calls", read_calls(calls, name, fault));
    else
        json_object_del(out, "tool_calls");
    return out;
}

struct numbering { /* of calls without a name of their own, as Ollama's clients send them */
    int n_made, n_answered;
};

/* Templates of some families want to know which call a result is of. */
static void number_calls(json_t *message, struct numbering *numbering)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    const json_t *tool_name = json_object_get(message, "tool_name");
    char id[16];
    size_t i;
    json_t *call;

    json_array_foreach(json_object_get(message, "tool_calls"), i, call) {
        if (json_object_get(call, "id"))
            continue;
        snprintf(id, sizeof id, "call%05d", numbering->n_made++ % 100000);
        json_object_set_new(call, "id", json_string(id));
    }
    if (!role || strcmp(role, "tool") != 0)
        return;
    if (json_is_string(tool_name) && !json_object_get(message, "name"))
        json_object_set(message, "name", (json_t *)(uintptr_t)tool_name);
    if (json_object_get(message, "tool_call_id") || numbering->n_answered >= numbering->n_made)
        return;
    snprintf(id, sizeof id, "call%05d", numbering->n_answered++ % 100000);
    json_object_set_new(message, "tool_call_id", json_string(id));
}

void api_read_messages(struct api_request *request, const json_t *messages, const char *name, struct api_fault *fault)
{
    struct numbering numbering = {0};
    size_t i;
    json_t *message;

    if (fault->status)
        return;
    if (!json_is_array(messages) || json_array_size(messages) == 0) {
        api_refuse(fault, 400, messages && !json_is_array(messages) ? "invalid_type" : "missing_required_parameter", name,
                   "%s: wanted an array of at least one message", name);
        return;
    }
    request->messages = json_array();
    json_array_foreach(messages, i, message) {
        char param[64];
        json_t *read;

        snprintf(param, sizeof param, "%.40s[%zu]", name, i);
        read = read_message(message, param, fault);
        if (!read)
            return;
        number_calls(read, &numbering);
        if (json_array_append_new(request->messages, read) != 0) {
            api_refuse_memory(fault);
            return;
        }
    }
}

/* ---- tools ---- */

/* A tool as templates know it: {"type": "function", "function": {name, ...}}; the Responses API writes it flat. */
static json_t *read_tool(const json_t *tool, const char *name, struct api_fault *fault)
{
    const char *type = json_string_value(json_object_get(tool, "type"));
    const json_t *function = json_object_get(tool, "function");
    json_t *flat;

    if (type && strcmp(type, "function") != 0) {
        api_refuse(fault, 400, "unsupported_tool", name, "%s: tools of type '%.40s' do not exist here, only functions",
                   name, type);
        return NULL;
    }
    if (!json_is_string(json_object_get(function ? function : tool, "name"))) {
        api_refuse(fault, 400, "invalid_value", name, "%s: wanted a function with a name", name);
        return NULL;
    }
    if (function)
        return json_incref((json_t *)(uintptr_t)tool);
    flat = json_copy((json_t *)(uintptr_t)tool);
    json_object_del(flat, "type");
    return json_pack("{s:s,s:o}", "type", "function", "function", flat);
}

/* Whether tools may be used: "none" says no; what would force a call needs constrained output. */
static int read_choice(const struct api_object *object)
{
    const json_t *choice = json_object_get(object->json, "tool_choice");
    const char *word = json_string_value(choice);

    if (!choice || json_is_null(choice) || (word && strcmp(word, "auto") == 0))
        return 1;
    if (word && strcmp(word, "none") == 0)
        return 0;
    api_refuse(object->fault, 400, "unsupported_value", "tool_choice",
               "tool_choice: only \"auto\" and \"none\"; to force a call needs constrained output, which does not exist "
               "yet");
    return 0;
}

void api_read_tools(struct api_request *request, const struct api_object *object)
{
    const json_t *tools;
    int wanted = read_choice(object);
    size_t i;
    json_t *tool;

    if (!api_get_array(object, "tools", &tools) || json_array_size(tools) == 0)
        return;
    request->tools = json_array();
    json_array_foreach(tools, i, tool) {
        char param[64];
        json_t *read;

        snprintf(param, sizeof param, "tools[%zu]", i);
        read = read_tool(tool, param, object->fault);
        if (!read)
            return;
        json_array_append_new(request->tools, read);
    }
    if (!wanted) {
        json_decref(request->tools);
        request->tools = NULL;
    }
    request->reads_tools = wanted;
}
