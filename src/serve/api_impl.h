/*
 * What the APIs share: reading requests, writing JSON, and one answer in the form of any API.
 *
 * Reading is sticky: after the first fault of a request every getter does nothing, so that a reader asks once at its
 * end. A fault names the parameter as the client wrote it ("messages[2].role").
 *
 * An answer (struct api_answer) goes from a request that has been read to its last byte: it asks the service, gets its
 * callbacks, and writes in a form (struct api_form) to a sink. The sink is an HTTP exchange, or a test's.
 */
#ifndef CABE_SERVE_API_IMPL_H
#define CABE_SERVE_API_IMPL_H

#include <jansson.h>
#include <pthread.h>
#include <stdint.h>

#include "serve/server.h"
#include "text/tokenizer.h"

/* ---- text that grows (api_text.c) ---- */

#define API_TEXT_MAX (UINT64_C(256) << 20)

struct api_text { /* zero-initialise, then clear */
    char *bytes;
    size_t n, capacity;
    int failed; /* no memory, or over API_TEXT_MAX: what was put since is missing */
};

void api_put(struct api_text *text, const char *bytes, size_t n);
void api_puts(struct api_text *text, const char *string);
void api_printf(struct api_text *text, const char *format, ...) CABE_PRINTF(2, 3);
/* A JSON string with its quotes; what is not UTF-8 becomes U+FFFD. */
void api_put_string(struct api_text *text, const char *bytes, size_t n);
/* A number as JSON; NaN and infinities become null, or `low` for -infinity. */
void api_put_number(struct api_text *text, double value, double low);
void api_put_json(struct api_text *text, const json_t *json);
void api_text_clear(struct api_text *text); /* gives its memory back */
/* Bytes of the text's end that may begin a character or `mark`, a word that is looked for; 0: none. */
size_t api_partial(const char *bytes, size_t n, const char *mark);
/* "2026-11-21T09:58:01.123456Z" of the clock, or of Unix seconds where they are above 0. */
#define API_TIME_MAX 96
const char *api_time(int64_t unix_s, char out[API_TIME_MAX]);
/* `prefix` and 32 random letters and digits. */
#define API_ID_MAX 64
const char *api_id(const char *prefix, char out[API_ID_MAX]);

/* ---- reading (api_fields.c) ---- */

struct api_fault {
    int status; /* of HTTP; 0: none */
    const char *code;
    char param[96];
    char text[CABE_ERROR_TEXT_MAX];
};
/* The first one stays. `param` may be NULL. */
void api_refuse(struct api_fault *fault, int status, const char *code, const char *param, const char *format, ...)
    CABE_PRINTF(5, 6);
void api_refuse_memory(struct api_fault *fault); /* 503, as cabe_reply_no_memory() */
/* What the status of work for a model means over HTTP. */
void api_fault_of(struct api_fault *fault, const struct cabe_error *err);
/* OpenAI's type of an HTTP status: "invalid_request_error"... */
const char *api_error_type(int status);

struct api_object { /* a JSON object and what it is called */
    const json_t *json;
    const char *prefix; /* "options." or "" */
    struct api_fault *fault;
};
/* Each gives 1 when the field is there, and not null. Of another type or out of range: a fault, and 0. */
int api_get_number(const struct api_object *object, const char *name, double least, double most, double *out);
int api_get_integer(const struct api_object *object, const char *name, int64_t least, int64_t most, int64_t *out);
int api_get_flag(const struct api_object *object, const char *name, int *out);
int api_get_string(const struct api_object *object, const char *name, const char **out, size_t *bytes);
int api_get_array(const struct api_object *object, const char *name, const json_t **out);
int api_get_object(const struct api_object *object, const char *name, const json_t **out);
/* "a string" of a value, for messages. */
const char *api_kind(const json_t *json);

/* ---- a request, read (api_request.c) ---- */

#define API_PROMPTS_MAX 32

enum api_sampling_names { API_NAMES_OPENAI, API_NAMES_OLLAMA };

struct api_request {
    json_t *body;     /* what strings below point into */
    const char *model;
    json_t *messages, *tools, *extra; /* ours */
    const char *prompt[API_PROMPTS_MAX];
    size_t prompt_bytes[API_PROMPTS_MAX];
    int32_t *ids[API_PROMPTS_MAX]; /* instead of a text */
    size_t n_ids[API_PROMPTS_MAX];
    int n_prompts; /* 0: messages */
    int raw;
    enum cabe_class class_;
    int32_t n; /* choices of each prompt */
    struct cabe_sampling sampling;
    struct cabe_logit_bias *bias;
    int64_t max_new;
    int64_t shift_keep;
    int ignore_end;
    const char *stop[CABE_SERVICE_STOPS_MAX];
    size_t n_stop;
    const char *salt;
    double keep_alive_s;
    int64_t context; /* that the model should have room for; 0: any */
    int stream, with_usage, reads_tools;
    int echo;  /* the prompt stands before the text */
    int score; /* and comes token by token: its text is wanted of ids, or its log-probabilities are */
    int with_logprobs; /* sampling.n_logprobs of them */
    char note[160];    /* goes to a message about the context: "num_ctx 8192 was asked for" */
};

/* Takes the reference to `body`. */
void api_request_init(struct api_request *request, json_t *body);
/* A reader that lacked memory for a part may have left it out, or blamed the request: when this thread was refused any since
 * cabe_memory_refused() was `n_refused`, that is the fault. */
void api_check_memory(struct api_fault *fault, uint64_t n_refused);
void api_request_clear(struct api_request *request);
/* temperature, top_p, penalties, seed, stop, logit_bias... of OpenAI and its servers, or of Ollama's options. */
void api_read_sampling(struct api_request *request, const struct api_object *object, enum api_sampling_names names);
void api_read_stop(struct api_request *request, const struct api_object *object);
/* Messages in OpenAI's form, normalised for templates: content a string, arguments of calls objects. */
void api_read_messages(struct api_request *request, const json_t *messages, const char *name, struct api_fault *fault);
/* `tools` in OpenAI's form, and tool_choice. */
void api_read_tools(struct api_request *request, const struct api_object *object);
/* The text of a content: a string or parts; NULL with a fault: images and the like. A new reference. */
json_t *api_read_content(const json_t *content, const char *name, struct api_fault *fault);

/* ---- calls of tools in what a model writes (api_tools.c) ---- */

/*
 * What the families write:
 *
 *     Qwen, Hermes, SmolLM2   <tool_call>{"name", "arguments"}</tool_call>, an object or an array of them
 *     Llama 3                 the object alone, {"name", "parameters"}, one or several, also behind <|python_tag|>
 *     Mistral                 [TOOL_CALLS][{...}], or [TOOL_CALLS]name[ARGS]{...}
 *     Functionary             <function=name>{...}</function>
 *     Nemotron, Firefunction  <TOOLCALL>[{...}]</TOOLCALL>, functools[{...}]
 *
 * What looks like a call is held back until it is one or is not; what is not, is text. An object alone is a call only
 * where it names a tool of the request.
 */
#define API_CALL_ID_BYTES 9 /* Mistral's templates want exactly so many letters and digits */

struct api_call {
    char id[API_ID_MAX];
    char *name;
    char *arguments; /* JSON text of an object */
};
struct api_scan { /* zero-initialise with `on` set, then clear */
    int on;
    const json_t *tools; /* borrowed; NULL: any */
    int begun, bare;     /* text was shown; the whole answer may be calls */
    int inside;          /* a mark was seen: its number, from 1 */
    size_t n_looked;     /* bytes that were searched for its end */
    struct api_text held;
    struct api_call *calls;
    int n_calls;
};
/* Adds text; what may be shown is put to `shown`. Calls that are complete are in `calls`. */
void api_scan_put(struct api_scan *scan, const char *bytes, size_t n, struct api_text *shown);
/* A token behind that text: where it is a control token that marks calls, which the text does not show, it counts. */
void api_scan_token(struct api_scan *scan, const struct cabe_tokenizer *tokenizer, int32_t token,
                    struct api_text *shown);
void api_scan_end(struct api_scan *scan, struct api_text *shown);
void api_scan_clear(struct api_scan *scan);

/* ---- an answer (api_answer.c) ---- */

struct api_answer;

struct api_sink {
    void *self;
    void (*begin)(void *self, const char *type);
    enum cabe_status (*send)(void *self, const void *bytes, size_t n);
    void (*end)(void *self);
    void (*cut)(void *self); /* instead of end(): not all was sent, which must be seen; NULL: end() */
    void (*reply)(void *self, const char *type, const void *bytes, size_t n); /* 200 */
    /* Instead of an answer. */
    void (*refuse)(void *self, const struct api_fault *fault, const struct cabe_error *err,
                   const struct cabe_service_refusal *refusal);
    /* Takes n bytes more from the budget, until the end; 0: they are not there. NULL: nobody counts. */
    int (*charge)(void *self, size_t n);
    /* The answer is over; whoever waits for it may go. */
    void (*release)(void *self, struct api_answer *answer);
};

struct api_choice {
    struct api_text text;       /* all that was shown */
    struct api_text logprob[4]; /* elements with commas, since the last piece; completions: four lists */
    struct api_scan scan;
    struct api_text echo; /* of a prompt that is scored */
    struct cabe_decoder decoder;
    int64_t n_prompted;
    size_t offset; /* characters that were shown */
    enum cabe_service_finish finish;
    int finished, n_told; /* calls that were told */
};

/* How an API writes; every function puts to answer->out, which is then sent. */
struct api_form {
    const char *stream_type;
    void (*begin)(struct api_answer *answer);
    void (*piece)(struct api_answer *answer, int32_t choice, const char *bytes, size_t n);
    void (*call)(struct api_answer *answer, int32_t choice, const struct api_call *call, int index);
    void (*finish)(struct api_answer *answer, int32_t choice);
    void (*end)(struct api_answer *answer);
    void (*error)(struct api_answer *answer, const struct api_fault *fault);
    void (*whole)(struct api_answer *answer); /* without a stream */
    /* A token with its log-probabilities (NAN: none), to choice->logprob. NULL: none in this form. */
    void (*logprob)(struct api_answer *answer, struct api_choice *choice, const struct cabe_sampled *sampled,
                    const struct cabe_tokenizer *tokenizer);
};

struct api_part { /* one prompt of an answer */
    struct api_answer *answer;
    int index;
    struct cabe_service_ticket *ticket;
    int asked, ended;
    struct cabe_service_counts counts;
};

struct api_answer {
    pthread_mutex_t lock; /* recursive: a callback may cancel, and cancelling may call back */
    int n_refs;           /* under `lock` */
    struct api_sink sink;
    const struct api_form *form;
    struct cabe_service *service;
    struct api_request request;
    char id[API_ID_MAX], *model;
    int64_t created_s;
    uint64_t begun_ns;
    struct api_part part[API_PROMPTS_MAX];
    int n_parts, n_open; /* parts that have not ended */
    struct api_choice *choices; /* [n_parts][request.n] */
    int32_t n_choices;
    int begun, gone, cancelled, failed; /* the stream has begun; ... */
    struct api_fault fault;             /* of the first failure */
    struct cabe_error err;
    struct cabe_service_refusal refusal;
    struct cabe_service_counts counts; /* of all parts, at the end */
    struct api_text out, shown;
    size_t bytes, charged; /* that its texts and lists have; of them, taken from the budget */
    int64_t sequence; /* of events, for forms that number them */
    void *extra;      /* of the form, cabe_malloc'ed */
};

/* Takes what `request` holds. NULL: no memory, and it still holds it. */
struct api_answer *api_answer_open(struct api_request *request, const struct api_form *form,
                                   const struct api_sink *sink, const char *id_prefix);
void api_answer_hold(struct api_answer *answer);
void api_answer_release(struct api_answer *answer); /* the last one frees */
/* Asks the service for every prompt. Whatever comes of it goes to the sink; the caller's reference stays. */
void api_answer_ask(struct api_answer *answer, struct cabe_service *service);
/* The client is gone. */
void api_answer_gone(struct api_answer *answer);
/* The ask of a part, with its callbacks; for tests. */
void api_answer_fill(struct api_answer *answer, int part, struct cabe_service_ask *ask);

/* ---- readers and forms ---- */

void api_read_chat(struct api_request *request, struct api_fault *fault);
void api_read_completion(struct api_request *request, struct api_fault *fault);
void api_read_response(struct api_request *request, struct api_fault *fault);
void api_read_ollama_chat(struct api_request *request, struct api_fault *fault);
void api_read_ollama_generate(struct api_request *request, struct api_fault *fault);
/* A time to stay in memory, and the model's name, in Ollama's words. */
void api_read_keep_alive(const struct api_object *object, double *out);
const char *api_ollama_model(const json_t *body, struct api_fault *fault);
extern const struct api_form api_form_chat, api_form_completion, api_form_response, api_form_ollama_chat,
    api_form_ollama_generate;
/* The token's text as a JSON string, and where `bytes` is set its bytes as an array behind. */
void api_put_token_text(struct api_text *out, const struct cabe_tokenizer *tokenizer, int32_t token,
                        struct api_text *bytes);
/* finish_reason of OpenAI's forms. */
const char *api_finish_name(const struct api_choice *choice);
/* "usage": {...} of OpenAI's forms. */
void api_put_usage(struct api_text *out, const struct cabe_service_counts *counts);
/* "token", "logprob" and "bytes": fields of an element of chat's log-probabilities. */
void api_put_token(struct api_text *out, const struct cabe_tokenizer *tokenizer, int32_t token, double logprob);

/* ---- over HTTP (api_http.c) ---- */

typedef void api_reader(struct api_request *request, struct api_fault *fault);
/* Reads the body, asks, answers. */
void api_serve_answer(struct cabe_server *server, struct cabe_http_exchange *exchange, api_reader *read,
                      const struct api_form *form, const char *id_prefix);
/* The same from a request that has been read, and takes what it holds. */
void api_serve_request(struct cabe_server *server, struct cabe_http_exchange *exchange, struct api_request *request,
                       const struct api_form *form, const char *id_prefix);
void api_reply_fault(struct cabe_http_exchange *exchange, const struct api_fault *fault);
/* What came of work for a model that the request names (own.c). */
void api_reply_model(struct cabe_http_exchange *exchange, const struct cabe_error *err);
int api_is_large(struct cabe_http_exchange *exchange); /* the body: better read elsewhere */
/* Bodies above this are read on a worker thread. */
#define API_SMALL_BODY (32u << 10)

/* All models, cabe_malloc'ed; NULL: it has been answered. */
struct cabe_service_model *api_models(struct cabe_server *server, struct cabe_http_exchange *exchange, size_t *n);
/* The model that is meant: "name:latest" is "name" where there is no such other; written to `out` then. */
const char *api_ollama_name(struct cabe_server *server, const char *name, char out[CABE_SERVICE_NAME_MAX]);
cabe_handler api_ollama_pull, api_ollama_delete, api_ollama_no, api_own_plan, api_openapi;
/* The OpenAPI description of all routes; a new reference. */
json_t *api_openapi_json(void);

enum api_embed_form { API_EMBED_OPENAI, API_EMBED_OLLAMA, API_EMBED_OLLAMA_OLD };

/* Embeddings (api_embed.c): what was read, and how it is answered. */
struct api_embed {
    json_t *body;
    const char *model;
    struct cabe_text *texts;
    size_t n_texts;
    enum cabe_prefix prefix;
    enum cabe_class class_;
    double keep_alive_s;
    int base64;
    int64_t dimensions;
    enum api_embed_form form;
    uint64_t begun_ns;
    char name[CABE_SERVICE_NAME_MAX]; /* where `model` is not as it was written */
};
void api_embed_clear(struct api_embed *embed);
void api_read_embeddings(struct api_embed *embed, struct api_fault *fault);
void api_read_ollama_embed(struct api_embed *embed, struct api_fault *fault);
void api_put_embeddings(const struct api_embed *embed, const float *rows, int64_t width, uint64_t n_tokens,
                        struct api_text *out, struct api_fault *fault);
void api_serve_embed(struct cabe_server *server, struct cabe_http_exchange *exchange, enum api_embed_form form);

#endif
