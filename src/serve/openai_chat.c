/* OpenAI's chat completions: the request, and its answer as one object or as a stream of chunks. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "serve/api_impl.h"

/* What both kinds of completions have. */
static void read_common(struct api_request *request, const struct api_object *object)
{
    const json_t *options;
    int64_t n;

    if (!api_get_string(object, "model", &request->model, NULL))
        api_refuse(object->fault, 400, "missing_required_parameter", "model", "model: wanted the name of a model");
    api_get_flag(object, "stream", &request->stream);
    if (api_get_object(object, "stream_options", &options)) {
        struct api_object inner = {options, "stream_options.", object->fault};

        api_get_flag(&inner, "include_usage", &request->with_usage);
    }
    if (api_get_integer(object, "n", 1, CABE_SERVICE_CHOICES_MAX, &n))
        request->n = (int32_t)n;
    api_read_sampling(request, object, API_NAMES_OPENAI);
    api_read_stop(request, object);
    api_get_flag(object, "ignore_eos", &request->ignore_end);
    if (!api_get_string(object, "cache_salt", &request->salt, NULL))
        api_get_string(object, "prompt_cache_key", &request->salt, NULL);
    api_get_number(object, "keep_alive", -1e9, 1e9, &request->keep_alive_s);
}

static void read_format(const struct api_object *object)
{
    const json_t *format;
    const char *type = NULL;

    if (!api_get_object(object, "response_format", &format))
        return;
    type = json_string_value(json_object_get(format, "type"));
    if (!type || strcmp(type, "text") != 0)
        api_refuse(object->fault, 400, "unsupported_value", "response_format",
                   "response_format: only {\"type\": \"text\"}; constrained output (%.40s) does not exist yet",
                   type ? type : "without a type");
}

static void read_modalities(const struct api_object *object)
{
    const json_t *modalities;
    size_t i;
    json_t *item;

    if (!api_get_array(object, "modalities", &modalities))
        return;
    json_array_foreach(modalities, i, item)
        if (!json_is_string(item) || strcmp(json_string_value(item), "text") != 0)
            api_refuse(object->fault, 400, "unsupported_value", "modalities", "modalities: only [\"text\"] is written");
}

static void read_logprobs(struct api_request *request, const struct api_object *object)
{
    int64_t n = 0;
    int wanted = 0, given;

    api_get_flag(object, "logprobs", &wanted);
    given = api_get_integer(object, "top_logprobs", 0, CABE_SAMPLE_TOP_MAX, &n);
    if (given && n > 0 && !wanted)
        api_refuse(object->fault, 400, "invalid_value", "top_logprobs", "top_logprobs: wants \"logprobs\": true");
    if (wanted) {
        request->with_logprobs = 1;
        request->sampling.n_logprobs = (int32_t)n;
    }
}

/* Fields that change what is asked for and that nothing here would do; others that are unknown are passed over. */
static void refuse_rest(const struct api_object *object, const char *const *names, const char *const *why)
{
    for (int i = 0; names[i]; i++) {
        const json_t *value = json_object_get(object->json, names[i]);

        if (value && !json_is_null(value) && !json_is_false(value) &&
            !(json_is_array(value) && json_array_size(value) == 0) &&
            !(json_is_string(value) && json_string_length(value) == 0))
            api_refuse(object->fault, 400, "unsupported_parameter", names[i], "%s: %s", names[i], why[i]);
    }
}

void api_read_chat(struct api_request *request, struct api_fault *fault)
{
    static const char *const names[] = {"functions", "function_call", "audio", "web_search_options", NULL};
    static const char *const why[] = {"deprecated; use tools", "deprecated; use tool_choice", "only text is written",
                                      "there is no web search"};
    const struct api_object object = {request->body, "", fault};
    const json_t *extra;

    read_common(request, &object);
    api_read_messages(request, json_object_get(request->body, "messages"), "messages", fault);
    if (!api_get_integer(&object, "max_completion_tokens", 1, INT32_MAX, &request->max_new))
        api_get_integer(&object, "max_tokens", 1, INT32_MAX, &request->max_new);
    read_logprobs(request, &object);
    read_format(&object);
    read_modalities(&object);
    api_read_tools(request, &object);
    if (api_get_object(&object, "chat_template_kwargs", &extra))
        request->extra = json_incref((json_t *)(uintptr_t)extra);
    refuse_rest(&object, names, why);
}

/* ---- the prompt of a completion: a text, tokens, or several of one kind ---- */

static int take_ids(struct api_request *request, const json_t *ids, const char *name, struct api_fault *fault)
{
    size_t i, n = json_array_size(ids);
    int32_t *out;
    json_t *id;

    out = (int32_t *)cabe_calloc(n, sizeof *out);
    if (!out) {
        api_refuse_memory(fault);
        return 0;
    }
    request->ids[request->n_prompts] = out;
    request->n_ids[request->n_prompts] = n;
    json_array_foreach(ids, i, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX) {
            api_refuse(fault, 400, "invalid_value", name, "%s: element %zu is no token id", name, i);
            return 0;
        }
        out[i] = (int32_t)json_integer_value(id);
    }
    return 1;
}

static void take_prompt(struct api_request *request, const json_t *prompt, const char *name, struct api_fault *fault)
{
    if (json_is_string(prompt)) {
        request->prompt[request->n_prompts] = json_string_value(prompt);
        request->prompt_bytes[request->n_prompts] = json_string_length(prompt);
    } else if (!json_is_array(prompt) || json_array_size(prompt) == 0) {
        api_refuse(fault, 400, "invalid_type", name, "%s: wanted a string or an array of token ids, got %s", name,
                   prompt ? api_kind(prompt) : "nothing");
        return;
    } else if (!take_ids(request, prompt, name, fault)) {
        request->n_prompts++; /* so that what was taken is seen */
        return;
    }
    request->n_prompts++;
}

static void read_prompt(struct api_request *request, struct api_fault *fault)
{
    const json_t *prompt = json_object_get(request->body, "prompt");
    size_t i, n = json_array_size(prompt);
    json_t *item;

    if (fault->status)
        return;
    if (!prompt || json_is_null(prompt)) {
        api_refuse(fault, 400, "missing_required_parameter", "prompt", "prompt: wanted a string");
    } else if (!json_is_array(prompt) || json_is_integer(json_array_get(prompt, 0))) {
        take_prompt(request, prompt, "prompt", fault);
    } else if (n == 0 || n > API_PROMPTS_MAX) {
        api_refuse(fault, 400, "invalid_value", "prompt", "prompt: wanted 1 to %d prompts, got %zu", API_PROMPTS_MAX, n);
    } else {
        json_array_foreach(prompt, i, item) {
            char name[40];

            snprintf(name, sizeof name, "prompt[%zu]", i);
            if (!fault->status)
                take_prompt(request, item, name, fault);
        }
    }
}

void api_read_completion(struct api_request *request, struct api_fault *fault)
{
    static const char *const names[] = {"suffix", NULL};
    static const char *const why[] = {"inserting before a suffix is not supported"};
    const struct api_object object = {request->body, "", fault};
    int64_t n;

    read_common(request, &object);
    request->max_new = 16; /* OpenAI's default */
    if (api_get_integer(&object, "max_tokens", 0, INT32_MAX, &request->max_new) && request->max_new == 0)
        request->max_new = -1;
    if (api_get_integer(&object, "logprobs", 0, CABE_SAMPLE_TOP_MAX, &n)) {
        request->with_logprobs = 1;
        request->sampling.n_logprobs = (int32_t)n;
    }
    if (api_get_integer(&object, "best_of", 1, CABE_SERVICE_CHOICES_MAX, &n) && n != request->n)
        api_refuse(fault, 400, "unsupported_value", "best_of", "best_of: only as many as n");
    api_get_flag(&object, "echo", &request->echo);
    read_prompt(request, fault);
    for (int i = 0; i < request->n_prompts; i++)
        request->score |= request->echo && (request->ids[i] || request->with_logprobs);
    read_format(&object);
    refuse_rest(&object, names, why);
}
