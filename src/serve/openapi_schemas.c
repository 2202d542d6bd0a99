/* What requests look like: schemas of the OpenAPI description, and which route takes which. */
#include <stddef.h>

#include "serve/openapi_impl.h"

#define TEXT "{\"type\":\"string\"}"
#define FLAG "{\"type\":\"boolean\"}"
#define COUNT "{\"type\":\"integer\",\"minimum\":1}"
#define MESSAGES "{\"type\":\"array\",\"minItems\":1,\"items\":{\"$ref\":\"#/components/schemas/Message\"}}"
#define TOOLS "{\"type\":\"array\",\"items\":{\"type\":\"object\"}}"
#define STOP "{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"array\",\"maxItems\":15,\"items\":{\"type\":\"string\"}}]}"
#define KEEP "{\"oneOf\":[{\"type\":\"number\"},{\"type\":\"string\"}],\"description\":\"seconds, or 5m; -1: for ever; 0: unload\"}"
#define SAMPLING                                                                                                       \
    "\"temperature\":{\"type\":\"number\",\"minimum\":0,\"maximum\":2,\"default\":0.8},"                               \
    "\"top_p\":{\"type\":\"number\",\"minimum\":0,\"maximum\":1,\"default\":0.95},"                                    \
    "\"top_k\":{\"type\":\"integer\",\"minimum\":-1,\"default\":40},"                                                  \
    "\"min_p\":{\"type\":\"number\",\"minimum\":0,\"maximum\":1,\"default\":0.05},"                                    \
    "\"frequency_penalty\":{\"type\":\"number\",\"minimum\":-2,\"maximum\":2},"                                        \
    "\"presence_penalty\":{\"type\":\"number\",\"minimum\":-2,\"maximum\":2},"                                         \
    "\"repetition_penalty\":{\"type\":\"number\",\"minimum\":0.01,\"maximum\":100},"                                   \
    "\"repeat_last_n\":{\"type\":\"integer\",\"minimum\":-1},\"seed\":{\"type\":\"integer\"},"                         \
    "\"logit_bias\":{\"type\":\"object\",\"additionalProperties\":{\"type\":\"number\"}},"
#define COMMON                                                                                                         \
    "\"model\":" TEXT ",\"stream\":" FLAG ",\"stream_options\":{\"type\":\"object\",\"properties\":{"                  \
    "\"include_usage\":" FLAG "}},\"n\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":16},\"stop\":" STOP ","        \
    "\"ignore_eos\":" FLAG ",\"cache_salt\":" TEXT ",\"prompt_cache_key\":" TEXT ",\"priority\":{\"oneOf\":["          \
    "{\"type\":\"integer\"},{\"enum\":[\"critical\",\"high\",\"normal\",\"low\"]}]},\"service_tier\":" TEXT "," SAMPLING

#define ANALYZE_WISHES                                                                                                 \
    "\"model\":{\"type\":\"string\",\"default\":\"all-minilm-l6-v2\"},"                                               \
    "\"threshold\":{\"type\":\"number\",\"exclusiveMinimum\":0,\"maximum\":1},\"min_words\":" COUNT ","                 \
    "\"limit\":{\"type\":\"integer\",\"minimum\":1,\"default\":1000},\"rows\":{\"enum\":[\"f32\",\"f16\",\"int8\"]}"

const struct openapi_schema openapi_schemas[] = {
    {"Error", "{\"type\":\"object\",\"required\":[\"error\"],\"properties\":{\"error\":{\"type\":\"object\",\"properties\":{"
              "\"message\":" TEXT ",\"type\":" TEXT ",\"param\":{\"type\":[\"string\",\"null\"]},"
              "\"code\":{\"type\":[\"string\",\"null\"]}}}}}"},
    {"OllamaError", "{\"type\":\"object\",\"required\":[\"error\"],\"properties\":{\"error\":" TEXT "}}"},
    {"Message", "{\"type\":\"object\",\"required\":[\"role\"],\"properties\":{\"role\":{\"enum\":[\"system\",\"developer\","
                "\"user\",\"assistant\",\"tool\"]},\"content\":{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"null\"},"
                "{\"type\":\"array\",\"items\":{\"type\":\"object\",\"properties\":{\"type\":{\"const\":\"text\"},"
                "\"text\":" TEXT "}}}]},\"tool_calls\":" TOOLS ",\"tool_call_id\":" TEXT "}}"},
    {"ChatRequest", "{\"type\":\"object\",\"required\":[\"model\",\"messages\"],\"properties\":{" COMMON
                    "\"messages\":" MESSAGES ",\"max_tokens\":" COUNT ",\"max_completion_tokens\":" COUNT ","
                    "\"logprobs\":" FLAG ",\"top_logprobs\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":20},"
                    "\"tools\":" TOOLS ",\"tool_choice\":{\"enum\":[\"auto\",\"none\"]},"
                    "\"response_format\":{\"type\":\"object\",\"properties\":{\"type\":{\"const\":\"text\"}}},"
                    "\"chat_template_kwargs\":{\"type\":\"object\"}}}"},
    {"CompletionRequest",
     "{\"type\":\"object\",\"required\":[\"model\",\"prompt\"],\"properties\":{" COMMON
     "\"prompt\":{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"array\",\"items\":{}}]},"
     "\"max_tokens\":{\"type\":\"integer\",\"minimum\":0,\"default\":16},\"echo\":" FLAG ","
     "\"logprobs\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":20}}}"},
    {"EmbeddingRequest",
     "{\"type\":\"object\",\"required\":[\"model\",\"input\"],\"properties\":{\"model\":" TEXT ",\"input\":{\"oneOf\":["
     "{\"type\":\"string\"},{\"type\":\"array\",\"maxItems\":4096,\"items\":{\"type\":\"string\"}}]},"
     "\"encoding_format\":{\"enum\":[\"float\",\"base64\"]},\"dimensions\":" COUNT ","
     "\"input_type\":{\"enum\":[\"query\",\"passage\"]}}}"},
    {"ResponseRequest",
     "{\"type\":\"object\",\"required\":[\"model\",\"input\"],\"properties\":{\"model\":" TEXT ",\"input\":{\"oneOf\":["
     "{\"type\":\"string\"},{\"type\":\"array\",\"items\":{\"type\":\"object\"}}]},\"instructions\":" TEXT ","
     "\"max_output_tokens\":" COUNT "," SAMPLING "\"stream\":" FLAG ",\"tools\":" TOOLS "}}"},
    {"OllamaOptions",
     "{\"type\":\"object\",\"properties\":{" SAMPLING "\"num_predict\":{\"type\":\"integer\",\"minimum\":-2},"
     "\"num_ctx\":{\"type\":\"integer\",\"description\":\"tokens of context, at least; up to what the model, the memory and --context allow\"},"
     "\"repeat_penalty\":{\"type\":\"number\"},\"stop\":" STOP "}}"},
    {"OllamaChatRequest",
     "{\"type\":\"object\",\"required\":[\"model\"],\"properties\":{\"model\":" TEXT ",\"messages\":" MESSAGES ","
     "\"stream\":{\"type\":\"boolean\",\"default\":true},\"tools\":" TOOLS ",\"think\":" FLAG ",\"keep_alive\":" KEEP ","
     "\"options\":{\"$ref\":\"#/components/schemas/OllamaOptions\"}}}"},
    {"OllamaGenerateRequest",
     "{\"type\":\"object\",\"required\":[\"model\"],\"properties\":{\"model\":" TEXT ",\"prompt\":" TEXT ",\"system\":" TEXT ","
     "\"raw\":" FLAG ",\"stream\":{\"type\":\"boolean\",\"default\":true},\"think\":" FLAG ",\"keep_alive\":" KEEP ","
     "\"options\":{\"$ref\":\"#/components/schemas/OllamaOptions\"}}}"},
    {"OllamaEmbedRequest",
     "{\"type\":\"object\",\"required\":[\"model\"],\"properties\":{\"model\":" TEXT ",\"prompt\":" TEXT ",\"input\":{\"oneOf\":["
     "{\"type\":\"string\"},{\"type\":\"array\",\"items\":{\"type\":\"string\"}}]},\"keep_alive\":" KEEP "}}"},
    {"ModelRequest", "{\"type\":\"object\",\"required\":[\"model\"],\"properties\":{\"model\":" TEXT ",\"stream\":" FLAG ","
                     "\"path\":{\"type\":\"string\",\"description\":\"of a pull: a file or folder of the server\"}}}"},
    {"PlanRequest",
     "{\"type\":\"object\",\"required\":[\"model\"],\"properties\":{\"model\":" TEXT ",\"memory\":{\"oneOf\":["
     "{\"type\":\"integer\"},{\"type\":\"string\"}]},\"describe\":{\"type\":\"string\",\"examples\":[\"8 cores, 16 GB, "
     "gpu 6 GB\"]},\"threads\":" COUNT ",\"context\":" COUNT ",\"parallel\":" COUNT ",\"batch\":" COUNT ",\"dtype\":" TEXT ","
     "\"kv\":{\"enum\":[\"f32\",\"f16\",\"q8\"]}}}"},
    {"TokenizeRequest", "{\"type\":\"object\",\"required\":[\"model\",\"text\"],\"properties\":{\"model\":" TEXT ","
                        "\"text\":" TEXT "}}"},
    {"DetokenizeRequest", "{\"type\":\"object\",\"required\":[\"model\",\"tokens\"],\"properties\":{\"model\":" TEXT ","
                          "\"tokens\":{\"type\":\"array\",\"items\":{\"type\":\"integer\",\"minimum\":0}}}}"},
    {"AnalyzeRequest",
     "{\"type\":\"object\",\"properties\":{\"text\":" TEXT ",\"name\":{\"type\":\"string\",\"description\":\"of text\"},"
     "\"documents\":{\"type\":\"array\",\"maxItems\":64,\"items\":{\"type\":\"object\",\"required\":[\"text\"],\"properties\":{"
     "\"name\":" TEXT ",\"text\":" TEXT "}}}," ANALYZE_WISHES "}}"},
    {"AnalyzeForm",
     "{\"type\":\"object\",\"description\":\"every part with a file name is a document\",\"properties\":{"
     "\"file\":{\"type\":\"string\",\"format\":\"binary\"}," ANALYZE_WISHES "}}"},
    {NULL, NULL},
};

const struct openapi_body openapi_bodies[] = {
    {"/v1/chat/completions", "ChatRequest"}, {"/v1/completions", "CompletionRequest"},
    {"/v1/embeddings", "EmbeddingRequest"},  {"/v1/responses", "ResponseRequest"},
    {"/api/chat", "OllamaChatRequest"},      {"/api/generate", "OllamaGenerateRequest"},
    {"/api/embed", "OllamaEmbedRequest"},    {"/api/embeddings", "OllamaEmbedRequest"},
    {"/api/show", "ModelRequest"},           {"/api/pull", "ModelRequest"},
    {"/api/delete", "ModelRequest"},         {"/v1/plan", "PlanRequest"},
    {"/v1/tokenize", "TokenizeRequest"},     {"/v1/detokenize", "DetokenizeRequest"},
    {"/v1/analyze", "AnalyzeRequest"},       {NULL, NULL},
};

const struct openapi_form openapi_forms[] = {
    {"/v1/analyze", "text/plain", NULL},
    {"/v1/analyze", "text/markdown", NULL},
    {"/v1/analyze", "multipart/form-data", "AnalyzeForm"},
    {NULL, NULL, NULL},
};

const struct openapi_parameter openapi_parameters[] = {
    {CABE_HTTP_POST, "/v1/analyze", "name", "query", "of a document that is the body itself"},
    {CABE_HTTP_POST, "/v1/analyze", "model", "query", NULL},
    {CABE_HTTP_POST, "/v1/analyze", "threshold", "query", "least similarity of a pair, above 0, at most 1"},
    {CABE_HTTP_POST, "/v1/analyze", "min_words", "query", "shorter sentences are left out"},
    {CABE_HTTP_POST, "/v1/analyze", "limit", "query", "pairs and groups at most"},
    {CABE_HTTP_POST, "/v1/analyze", "rows", "query", "f32, f16 or int8: how vectors are kept"},
    {CABE_HTTP_POST, "/v1/analyze", "Prefer", "header", "respond-async: 202 and the job, not the stream"},
    {CABE_HTTP_GET, "/v1/jobs", "state", "query", "waiting, running, done, failed or cancelled"},
    {CABE_HTTP_GET, "/v1/jobs", "limit", "query", "1 to 200"},
    {CABE_HTTP_GET, "/v1/jobs", "before", "query", "an id: those before it"},
    {CABE_HTTP_GET, "/v1/jobs/*", "Last-Event-ID", "header", "of ID/events: what came after"},
    {CABE_HTTP_GET, "/v1/events", "types", "query", "kinds of news, by commas"},
    {CABE_HTTP_GET, "/v1/events", "since", "query", "what came after this number; as the header Last-Event-ID"},
    {CABE_HTTP_GET, "/v1/stats", "history", "query", "1: the last ten minutes too"},
    {CABE_HTTP_GET, "/v1/machine", "describe", "query", "another machine: 8 cores, 16 GB, gpu 6 GB"},
    {CABE_HTTP_GET, NULL, NULL, NULL, NULL},
};
