/* What answers look like: schemas of the OpenAPI description, and which route gives which; tests/e2e/openapi.py holds
 * a running server to it. */
#include <stddef.h>

#include "serve/openapi_impl.h"

#define TEXT "{\"type\":\"string\"}"
#define FLAG "{\"type\":\"boolean\"}"
#define WHOLE "{\"type\":\"integer\",\"minimum\":0}"
#define NUMBER "{\"type\":\"number\"}"
#define OR_NULL(type) "{\"type\":[" type ",\"null\"]}"
#define CONST(text) "{\"const\":\"" text "\"}"
#define ENUM(words) "{\"enum\":[" words "]}"
#define REF(name) "{\"$ref\":\"#/components/schemas/" name "\"}"
#define ARRAY(of) "{\"type\":\"array\",\"items\":" of "}"
#define OBJECT(required, properties)                                                                                   \
    "{\"type\":\"object\",\"required\":[" required "],\"properties\":{" properties "}}"
#define CALLS(arguments, required)                                                                                     \
    ARRAY(OBJECT(required, "\"id\":" TEXT ",\"type\":" CONST("function") ",\"function\":" OBJECT(                      \
                               "\"name\",\"arguments\"", "\"name\":" TEXT ",\"arguments\":" arguments)))
#define HEAD(kind) "\"id\":" TEXT ",\"object\":" CONST(kind) ",\"created\":" WHOLE ",\"model\":" TEXT
#define FINISH "\"finish_reason\":" ENUM("\"stop\",\"length\",\"tool_calls\",\"timeout\"")
#define OLLAMA_HEAD "\"model\":" TEXT ",\"created_at\":" TEXT ",\"done\":{\"const\":true},\"done_reason\":" TEXT
#define OLLAMA_COUNTS                                                                                                  \
    "\"total_duration\":" WHOLE ",\"load_duration\":" WHOLE ",\"prompt_eval_count\":" WHOLE                            \
    ",\"prompt_eval_duration\":" WHOLE ",\"eval_count\":" WHOLE ",\"eval_duration\":" WHOLE

const struct openapi_schema openapi_answer_schemas[] = {
    {"Usage", OBJECT("\"prompt_tokens\",\"total_tokens\"",
                     "\"prompt_tokens\":" WHOLE ",\"completion_tokens\":" WHOLE ",\"total_tokens\":" WHOLE
                     ",\"prompt_tokens_details\":" OBJECT("\"cached_tokens\"", "\"cached_tokens\":" WHOLE))},
    {"ChatAnswer",
     OBJECT("\"id\",\"object\",\"created\",\"model\",\"choices\",\"usage\"",
            HEAD("chat.completion") ",\"system_fingerprint\":" TEXT ",\"usage\":" REF("Usage") ",\"choices\":" ARRAY(OBJECT(
                "\"index\",\"message\",\"finish_reason\"",
                "\"index\":" WHOLE "," FINISH ",\"logprobs\":" OR_NULL("\"object\"") ",\"message\":" OBJECT(
                    "\"role\",\"content\"", "\"role\":" CONST("assistant") ",\"content\":" OR_NULL("\"string\"")
                    ",\"tool_calls\":" CALLS(TEXT, "\"id\",\"type\",\"function\"")))))},
    {"CompletionAnswer",
     OBJECT("\"id\",\"object\",\"created\",\"model\",\"choices\",\"usage\"",
            HEAD("text_completion") ",\"system_fingerprint\":" TEXT ",\"usage\":" REF("Usage") ",\"choices\":" ARRAY(OBJECT(
                "\"index\",\"text\",\"finish_reason\"",
                "\"index\":" WHOLE ",\"text\":" TEXT "," FINISH ",\"logprobs\":" OR_NULL("\"object\""))))},
    {"EmbeddingAnswer",
     OBJECT("\"object\",\"model\",\"data\",\"usage\"",
            "\"object\":" CONST("list") ",\"model\":" TEXT ",\"usage\":" REF("Usage") ",\"data\":" ARRAY(OBJECT(
                "\"object\",\"index\",\"embedding\"", "\"object\":" CONST("embedding") ",\"index\":" WHOLE
                ",\"embedding\":{\"oneOf\":[" ARRAY(NUMBER) ",{\"type\":\"string\",\"description\":\"base64 of f32\"}]}")))},
    {"ResponseAnswer",
     OBJECT("\"id\",\"object\",\"created_at\",\"status\",\"model\",\"output\",\"usage\"",
            "\"id\":" TEXT ",\"object\":" CONST("response") ",\"created_at\":" WHOLE ",\"model\":" TEXT ",\"status\":" ENUM(
                "\"completed\",\"incomplete\"") ",\"output\":" ARRAY(OBJECT("\"type\",\"id\",\"status\"",
            "\"type\":" ENUM("\"message\",\"function_call\"") ",\"id\":" TEXT ",\"status\":" TEXT)) ",\"usage\":" OBJECT(
                "\"input_tokens\",\"output_tokens\",\"total_tokens\"",
                "\"input_tokens\":" WHOLE ",\"output_tokens\":" WHOLE ",\"total_tokens\":" WHOLE))},
    {"Model", OBJECT("\"id\",\"object\",\"created\",\"owned_by\",\"capabilities\",\"state\"",
                     "\"id\":" TEXT ",\"object\":" CONST("model") ",\"created\":" WHOLE ",\"owned_by\":" CONST("cabe")
                     ",\"capabilities\":" ARRAY(ENUM("\"generate\",\"embed\"")) ",\"state\":" ENUM(
                         "\"absent\",\"loading\",\"ready\",\"unloading\"") ",\"pinned\":" FLAG ",\"bytes\":" WHOLE
                     ",\"file_bytes\":" WHOLE ",\"dimensions\":" WHOLE ",\"max_model_len\":" WHOLE
                     ",\"settings\":{\"type\":\"object\"},\"failed\":" TEXT)},
    {"Models", OBJECT("\"object\",\"data\"", "\"object\":" CONST("list") ",\"data\":" ARRAY(REF("Model")))},
    {"ModelChange", OBJECT("\"model\"", "\"model\":" TEXT ",\"state\":" ENUM("\"ready\",\"absent\"") ",\"pinned\":" FLAG)},
    {"OllamaChatAnswer",
     OBJECT("\"model\",\"created_at\",\"message\",\"done\",\"done_reason\"",
            OLLAMA_HEAD "," OLLAMA_COUNTS ",\"message\":" OBJECT(
                "\"role\",\"content\"", "\"role\":" CONST("assistant") ",\"content\":" TEXT ",\"tool_calls\":" CALLS(
                    "{\"type\":\"object\"}", "\"function\"")))},
    {"OllamaGenerateAnswer", OBJECT("\"model\",\"created_at\",\"response\",\"done\",\"done_reason\"",
                                    OLLAMA_HEAD "," OLLAMA_COUNTS ",\"response\":" TEXT)},
    {"OllamaEmbedAnswer", OBJECT("\"model\",\"embeddings\"",
                                 "\"model\":" TEXT ",\"embeddings\":" ARRAY(ARRAY(NUMBER)) ",\"total_duration\":" WHOLE
                                 ",\"load_duration\":" WHOLE ",\"prompt_eval_count\":" WHOLE)},
    {"OllamaEmbedding", OBJECT("\"embedding\"", "\"embedding\":" ARRAY(NUMBER))},
    {"OllamaDetails", OBJECT("\"format\",\"family\",\"parameter_size\",\"quantization_level\"",
                             "\"parent_model\":" TEXT ",\"format\":" TEXT ",\"family\":" TEXT ",\"families\":" ARRAY(TEXT)
                             ",\"parameter_size\":" TEXT ",\"quantization_level\":" TEXT)},
    {"OllamaModels",
     OBJECT("\"models\"", "\"models\":" ARRAY(OBJECT("\"name\",\"model\",\"size\",\"digest\",\"details\"",
            "\"name\":" TEXT ",\"model\":" TEXT ",\"modified_at\":" TEXT ",\"size\":" WHOLE ",\"digest\":" TEXT
            ",\"details\":" REF("OllamaDetails") ",\"size_vram\":" WHOLE ",\"context_length\":" WHOLE ",\"expires_at\":" TEXT)))},
    {"OllamaModel",
     OBJECT("\"details\",\"model_info\",\"capabilities\",\"template\"",
            "\"modelfile\":" TEXT ",\"parameters\":" TEXT ",\"template\":" TEXT ",\"details\":" REF("OllamaDetails")
            ",\"model_info\":{\"type\":\"object\"},\"modified_at\":" TEXT ",\"capabilities\":" ARRAY(TEXT))},
    {"OllamaVersion", OBJECT("\"version\"", "\"version\":" TEXT ",\"cabe\":" TEXT)},
    {"OllamaStatus", OBJECT("\"status\"", "\"status\":" TEXT)},
    {"Machine", OBJECT("\"tier\",\"cpu\",\"memory\",\"recommendation\"",
                       "\"tier\":" TEXT ",\"cpu\":{\"type\":\"object\"},\"memory\":{\"type\":\"object\"},"
                       "\"recommendation\":{\"type\":\"object\"}")},
    {"Plan", OBJECT("\"task\",\"fits\",\"peak_bytes\",\"settings\",\"phases\"",
                    "\"task\":" TEXT ",\"fits\":" FLAG ",\"budget_bytes\":" OR_NULL("\"integer\"") ",\"peak_bytes\":" WHOLE
                    ",\"settings\":{\"type\":\"object\"},\"phases\":" ARRAY(OBJECT(
                        "\"name\",\"peak_bytes\"", "\"name\":" TEXT ",\"peak_bytes\":" WHOLE ",\"seconds\":" OR_NULL(
                            "\"number\""))))},
    {"Tokens", OBJECT("\"model\",\"count\",\"tokens\"", "\"model\":" TEXT ",\"count\":" WHOLE ",\"tokens\":" ARRAY(WHOLE))},
    {"Text", OBJECT("\"model\",\"text\"", "\"model\":" TEXT ",\"text\":" TEXT)},
    {"DeviceMemory",
     OBJECT("\"device\",\"budget_bytes\",\"used_bytes\",\"touched_bytes\",\"purposes\",\"touched\"",
            "\"device\":" TEXT ",\"budget_bytes\":" OR_NULL("\"integer\"") ",\"used_bytes\":" WHOLE ",\"high_bytes\":" WHOLE
            ",\"touched_bytes\":{\"type\":\"integer\",\"description\":\"of used_bytes, those that the system has given pages "
            "for; what is reserved and was never written has none\"},\"others_bytes\":" WHOLE
            ",\"purposes\":{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}"
            ",\"touched\":{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}")},
    {"State", OBJECT("\"tier\",\"recommendation\",\"workers\",\"slots\",\"memory\",\"work\",\"models\"",
                     "\"tier\":" TEXT ",\"recommendation\":{\"type\":\"object\"},\"workers\":" OBJECT(
                         "\"all\",\"free\",\"waiting\"", "\"all\":" WHOLE ",\"free\":" WHOLE ",\"waiting\":" WHOLE)
                     ",\"memory\":" OBJECT("\"devices\",\"holders\"", "\"devices\":" ARRAY(REF("DeviceMemory"))
                                           ",\"holders\":" ARRAY("{\"type\":\"object\"}"))
                     ",\"work\":{\"type\":\"object\"},\"models\":" ARRAY("{\"type\":\"object\"}"))},
    {"Stats", OBJECT("\"time\",\"version\",\"uptime_s\",\"now\",\"service\",\"models\"",
                     "\"time\":" TEXT ",\"version\":" TEXT ",\"uptime_s\":" NUMBER ",\"now\":{\"type\":\"object\"},"
                     "\"service\":{\"type\":\"object\"},\"models\":" ARRAY("{\"type\":\"object\"}"))},
    {"Health", OBJECT("\"status\",\"version\"", "\"status\":" TEXT ",\"timestamp\":" TEXT ",\"model_loaded\":" FLAG
                      ",\"version\":" TEXT)},
    {"Ready", OBJECT("\"ready\",\"status\"", "\"ready\":" FLAG ",\"status\":" TEXT)},
    {"Job", OBJECT("\"id\",\"object\",\"kind\",\"state\"",
                   "\"id\":" TEXT ",\"object\":" CONST("job") ",\"kind\":" TEXT ",\"state\":" ENUM(
                       "\"waiting\",\"running\",\"done\",\"failed\",\"cancelled\"") ",\"class\":" TEXT ",\"created_at\":" NUMBER
                   ",\"started_at\":" OR_NULL("\"number\"") ",\"ended_at\":" OR_NULL("\"number\"") ",\"streamed\":" FLAG
                   ",\"parts\":" WHOLE ",\"result_bytes\":" WHOLE ",\"progress\":{\"type\":\"object\"},\"error\":"
                   "{\"type\":\"object\"},\"wish\":{\"type\":\"object\"},\"result\":{\"type\":\"object\"}")},
    {"Jobs", OBJECT("\"object\",\"data\",\"has_more\"",
                    "\"object\":" CONST("list") ",\"data\":" ARRAY(REF("Job")) ",\"has_more\":" FLAG)},
    {"Deleted", OBJECT("\"id\",\"deleted\"", "\"id\":" TEXT ",\"deleted\":{\"const\":true}")},
    {"Nothing", "{\"type\":\"object\"}"},
    {NULL, NULL},
};

#define EVENTS "text/event-stream"
#define LINES "application/x-ndjson"

const struct openapi_answer openapi_answers[] = {
    {CABE_HTTP_GET, "/", 200, NULL, "text/html"},
    {CABE_HTTP_HEAD, "/", 200, NULL, "text/plain"},
    {CABE_HTTP_GET, "/health", 200, "Health", NULL},
    {CABE_HTTP_GET, "/ready", 200, "Ready", NULL},
    {CABE_HTTP_GET, "/metrics", 200, NULL, "text/plain"},
    {CABE_HTTP_GET, "/openapi.json", 200, "Nothing", NULL},
    {CABE_HTTP_GET, "/v1/events", 200, NULL, EVENTS},
    {CABE_HTTP_GET, "/v1/stats", 200, "Stats", NULL},
    {CABE_HTTP_GET, "/v1/state", 200, "State", NULL},
    {CABE_HTTP_GET, "/v1/machine", 200, "Machine", NULL},
    {CABE_HTTP_POST, "/v1/plan", 200, "Plan", NULL},
    {CABE_HTTP_POST, "/v1/tokenize", 200, "Tokens", NULL},
    {CABE_HTTP_POST, "/v1/detokenize", 200, "Text", NULL},
    {CABE_HTTP_GET, "/v1/models", 200, "Models", NULL},
    {CABE_HTTP_GET, "/v1/models/*", 200, "Model", NULL},
    {CABE_HTTP_POST, "/v1/models/*", 200, "ModelChange", NULL},
    {CABE_HTTP_POST, "/v1/chat/completions", 200, "ChatAnswer", EVENTS},
    {CABE_HTTP_POST, "/v1/completions", 200, "CompletionAnswer", EVENTS},
    {CABE_HTTP_POST, "/v1/embeddings", 200, "EmbeddingAnswer", NULL},
    {CABE_HTTP_POST, "/v1/responses", 200, "ResponseAnswer", EVENTS},
    {CABE_HTTP_POST, "/v1/analyze", 200, NULL, EVENTS},
    {CABE_HTTP_POST, "/v1/analyze", 202, "Job", NULL},
    {CABE_HTTP_GET, "/v1/jobs", 200, "Jobs", NULL},
    {CABE_HTTP_GET, "/v1/jobs/*", 200, "Job", EVENTS},
    {CABE_HTTP_POST, "/v1/jobs/*", 202, "Job", NULL},
    {CABE_HTTP_DELETE, "/v1/jobs/*", 200, "Deleted", NULL},
    {CABE_HTTP_POST, "/api/chat", 200, "OllamaChatAnswer", LINES},
    {CABE_HTTP_POST, "/api/generate", 200, "OllamaGenerateAnswer", LINES},
    {CABE_HTTP_POST, "/api/embed", 200, "OllamaEmbedAnswer", NULL},
    {CABE_HTTP_POST, "/api/embeddings", 200, "OllamaEmbedding", NULL},
    {CABE_HTTP_GET, "/api/tags", 200, "OllamaModels", NULL},
    {CABE_HTTP_GET, "/api/ps", 200, "OllamaModels", NULL},
    {CABE_HTTP_POST, "/api/show", 200, "OllamaModel", NULL},
    {CABE_HTTP_POST, "/api/pull", 200, "OllamaStatus", LINES},
    {CABE_HTTP_DELETE, "/api/delete", 200, "Nothing", NULL},
    {CABE_HTTP_GET, "/api/version", 200, "OllamaVersion", NULL},
    {CABE_HTTP_GET, NULL, 0, NULL, NULL},
};
