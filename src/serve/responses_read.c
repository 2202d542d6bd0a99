/* A request of OpenAI's Responses API, as far as text goes, in the words of a conversation. */
#include <string.h>

#include "serve/api_impl.h"

/* A function call that the model made before: of an assistant's message, the last one where that made calls too. */
static void add_call(json_t *messages, const json_t *item, const char *name, struct api_fault *fault)
{
    json_t *last = json_array_get(messages, json_array_size(messages) - 1), *calls;
    const char *function = json_string_value(json_object_get(item, "name"));
    const char *arguments = json_string_value(json_object_get(item, "arguments"));
    const char *id = json_string_value(json_object_get(item, "call_id"));

    if (!function || !arguments) {
        api_refuse(fault, 400, "invalid_value", name, "%s: a function_call wants name and arguments", name);
        return;
    }
    calls = json_object_get(last, "tool_calls");
    if (!calls) {
        calls = json_array();
        json_array_append_new(messages, json_pack("{s:s,s:s,s:o}", "role", "assistant", "content", "", "tool_calls", calls));
    }
    json_array_append_new(calls, json_pack("{s:s,s:s,s:{s:s,s:s}}", "id", id ? id : "", "type", "function", "function",
                                           "name", function, "arguments", arguments));
}

static void add_item(json_t *messages, json_t *item, const char *name, struct api_fault *fault)
{
    const char *type = json_string_value(json_object_get(item, "type"));
    const char *id = json_string_value(json_object_get(item, "call_id"));
    char param[96];

    if (!json_is_object(item)) {
        api_refuse(fault, 400, "invalid_type", name, "%s: wanted an object, got %s", name, api_kind(item));
    } else if (!type || strcmp(type, "message") == 0) {
        json_t *message = json_copy(item);

        json_object_del(message, "type");
        json_object_del(message, "id");
        json_object_del(message, "status");
        json_array_append_new(messages, message);
    } else if (strcmp(type, "function_call") == 0) {
        add_call(messages, item, name, fault);
    } else if (strcmp(type, "function_call_output") == 0) {
        json_t *content;

        snprintf(param, sizeof param, "%.80s.output", name);
        content = api_read_content(json_object_get(item, "output"), param, fault);
        if (content)
            json_array_append_new(messages, json_pack("{s:s,s:s,s:o}", "role", "tool", "tool_call_id", id ? id : "",
                                                      "content", content));
    } else if (strcmp(type, "reasoning") != 0) {
        api_refuse(fault, 400, "unsupported_value", name,
                   "%s: items of type '%.40s' are not supported; only message, function_call and function_call_output",
                   name, type);
    }
}

static json_t *read_input(const json_t *body, struct api_fault *fault)
{
    const json_t *input = json_object_get(body, "input"), *instructions = json_object_get(body, "instructions");
    json_t *messages = json_array(), *item;
    size_t i;

    if (json_is_string(instructions) && json_string_length(instructions) > 0)
        json_array_append_new(messages, json_pack("{s:s,s:O}", "role", "system", "content", instructions));
    else if (instructions && !json_is_null(instructions) && !json_is_string(instructions))
        api_refuse(fault, 400, "invalid_type", "instructions", "instructions: wanted a string, got %s",
                   api_kind(instructions));
    if (json_is_string(input)) {
        json_array_append_new(messages, json_pack("{s:s,s:O}", "role", "user", "content", input));
    } else if (!json_is_array(input) || json_array_size(input) == 0) {
        api_refuse(fault, 400, input && !json_is_null(input) ? "invalid_type" : "missing_required_parameter", "input",
                   "input: wanted a string or an array of at least one item");
    } else {
        json_array_foreach(input, i, item) {
            char name[40];

            snprintf(name, sizeof name, "input[%zu]", i);
            add_item(messages, item, name, fault);
        }
    }
    return messages;
}

static void refuse_state(const json_t *body, struct api_fault *fault)
{
    static const char *const names[] = {"previous_response_id", "conversation", "prompt", NULL};
    const json_t *value = json_object_get(body, "truncation");
    int64_t n;

    for (int i = 0; names[i]; i++) {
        const json_t *given = json_object_get(body, names[i]);

        if (given && !json_is_null(given))
            api_refuse(fault, 400, i == 0 ? "previous_response_not_found" : "unsupported_parameter", names[i],
                       "%s: responses are not stored here; give the whole conversation as input", names[i]);
    }
    if (json_is_true(json_object_get(body, "background")))
        api_refuse(fault, 400, "unsupported_parameter", "background", "background: responses are not stored here");
    if (json_is_string(value) && strcmp(json_string_value(value), "disabled") != 0)
        api_refuse(fault, 400, "unsupported_value", "truncation", "truncation: only \"disabled\"");
    if (api_get_integer(&(const struct api_object){body, "", fault}, "top_logprobs", 0, 20, &n) && n > 0)
        api_refuse(fault, 400, "unsupported_parameter", "top_logprobs",
                   "top_logprobs: log-probabilities are given by /v1/chat/completions");
}

static void read_format(const json_t *body, struct api_fault *fault)
{
    const struct api_object object = {body, "", fault};
    const json_t *text;
    const char *type;

    if (!api_get_object(&object, "text", &text))
        return;
    type = json_string_value(json_object_get(json_object_get(text, "format"), "type"));
    if (type && strcmp(type, "text") != 0)
        api_refuse(fault, 400, "unsupported_value", "text.format",
                   "text.format: only {\"type\": \"text\"}; constrained output (%.40s) does not exist yet", type);
}

void api_read_response(struct api_request *request, struct api_fault *fault)
{
    const struct api_object object = {request->body, "", fault};
    json_t *messages;

    if (!api_get_string(&object, "model", &request->model, NULL))
        api_refuse(fault, 400, "missing_required_parameter", "model", "model: wanted the name of a model");
    refuse_state(request->body, fault);
    api_get_flag(&object, "stream", &request->stream);
    api_read_sampling(request, &object, API_NAMES_OPENAI);
    api_get_integer(&object, "max_output_tokens", 1, INT32_MAX, &request->max_new);
    api_get_string(&object, "prompt_cache_key", &request->salt, NULL);
    read_format(request->body, fault);
    api_read_tools(request, &object);
    messages = read_input(request->body, fault);
    api_read_messages(request, messages, "input", fault);
    json_decref(messages);
}
