/*
 * The service: models by name on one budget, and requests to them. What every API (OpenAI's, Ollama's, our own) calls.
 *
 * A request names a model. It is admitted or refused at once, by class, count and tokens that wait, before anything is
 * tokenised; then it waits in the model's queue; the model is loaded by the pool if it is not there (one load for all
 * who wait); its thread serves it. Generation: continuous batching on the model's engine, classes sharing steps by
 * weight, the lowest class preempted when pages run out. Embeddings: an idle encoder starts at once, a busy one collects
 * what comes for up to 20 requests or 100 ms.
 *
 * A request may ask for a context (Ollama's num_ctx). What is loaded has as much, up to what the model was made for and
 * memory allows; with struct cabe_service_config.context only that. A model in memory with less is loaded again when
 * what runs has ended, each time with at least twice the context, and not for a wish that was already tried in vain. Who
 * would hold others back for long is served with the context there is.
 *
 * Models that compute at the same time take turns on the session's team (base/threads.h), by class.
 *
 * Owner: who opens it; the session outlives it. Thread: every function from any thread. Callbacks of a request come from
 * one thread at a time, in order, never under a lock of the service; they may call cabe_service_cancel() but must not
 * wait.
 */
#ifndef CABE_SERVE_SERVICE_H
#define CABE_SERVE_SERVICE_H

#include <jansson.h>
#include <stdint.h>

#include "base/class.h"
#include "cabe/embed.h"
#include "cabe/status.h"
#include "fit/plan.h"
#include "runtime/engine.h"
#include "runtime/kv.h"
#include "runtime/monitor.h"
#include "runtime/pool.h"
#include "task/session.h"

struct cabe_service;
struct cabe_tokenizer;
struct cabe_service_ticket; /* a request that was admitted */

#define CABE_SERVICE_NAME_MAX 256
#define CABE_SERVICE_CHOICES_MAX 16 /* answers to one prompt */
#define CABE_SERVICE_STOPS_MAX 16

struct cabe_service_config {
    struct cabe_session *session;
    struct cabe_monitor *monitor; /* may be NULL */
    int64_t context;              /* tokens of a sequence; 0: planned */
    int32_t n_seqs;               /* answers at a time of one model; 0: 4 */
    int kv, dtype;                /* as struct cabe_generator_wishes; -1: planned */
    int64_t queue_requests;       /* waiting of one model; 0: 256 */
    int64_t queue_tokens;         /* prompt tokens waiting of one model, estimated; 0: 262144 */
    double keep_alive_s;          /* an idle model stays this long; below 0: for ever. 0: 300 */
    enum cabe_pool_policy eviction;     /* which idle model goes first for room */
    double first_token_s, stall_s;      /* time-outs; 0: 30, 30 */
    double total_s[CABE_N_CLASSES];     /* cap of a whole answer; 0: 600 each */
};

CABE_CHECKED enum cabe_status cabe_service_open(struct cabe_service **out, const struct cabe_service_config *config,
                                                struct cabe_error *err);
void cabe_service_close(struct cabe_service *service); /* NULL is fine; cancels what runs and waits for it */
/* No new requests (CABE_ERR_BUSY); what was admitted goes on. */
void cabe_service_drain(struct cabe_service *service);

/* ---- models ---- */

enum cabe_service_state {
    CABE_SERVICE_ABSENT, /* known, not in memory */
    CABE_SERVICE_LOADING,
    CABE_SERVICE_READY,
    CABE_SERVICE_UNLOADING
};

struct cabe_service_model {
    char name[CABE_SERVICE_NAME_MAX]; /* as requests name it */
    char path[1024];
    char family[32], quantisation[32]; /* "llama", "Q4_1"; "" not known yet */
    int writes; /* 1: a decoder; 0: it embeds */
    enum cabe_service_state state;
    uint64_t file_bytes, n_parameters;
    int64_t modified_s;                /* Unix time of the file */
    uint64_t bytes, peak_bytes;        /* planned, host; 0: not planned yet */
    struct cabe_knobs knobs;           /* of the last plan */
    int64_t context, width;            /* tokens of a sequence; of an embedding. 0: not known yet */
    int64_t context_most;              /* that the model was made for; 0: not known yet */
    int32_t n_seqs;
    int pinned;
    double keep_alive_s, idle_s;       /* idle_s: since the last request ended */
    double load_s;                     /* the last load took */
    int64_t n_waiting, n_running;      /* requests */
    int64_t waiting_tokens;            /* of prompts, estimated */
    uint64_t n_requests, n_loads;
    double tokens_per_s;               /* answers, all sequences, over the last seconds */
    struct cabe_engine_stats engine;   /* zero without an engine */
    int64_t kv_pages_used, kv_pages;   /* of a decoder that is there */
    uint64_t prefix_queried_tokens, prefix_hit_tokens;
    char failed[CABE_ERROR_TEXT_MAX];  /* of the last load; "" when it went well */
};

/* Names that may be asked for: the store's, and files that were added. Writes at most n_max; returns how many there are. */
size_t cabe_service_models(struct cabe_service *service, struct cabe_service_model *out, size_t n_max);
CABE_CHECKED enum cabe_status cabe_service_model(struct cabe_service *service, const char *name,
                                                 struct cabe_service_model *out, struct cabe_error *err);
/* A file or folder beside the store, under a name. */
CABE_CHECKED enum cabe_status cabe_service_add(struct cabe_service *service, const char *name, const char *path,
                                               struct cabe_error *err);
/* Begins to load in the background, if it is not there; `done` (may be NULL) is called when it is, or has failed. */
CABE_CHECKED enum cabe_status cabe_service_load(struct cabe_service *service, const char *name,
                                                void (*done)(void *self, enum cabe_status status,
                                                             const struct cabe_error *err),
                                                void *self, struct cabe_error *err);
/* The same with wishes, which count for a model that is there too. */
struct cabe_service_load {
    const char *name;
    double keep_alive_s; /* NAN: the service's */
    int64_t context;     /* tokens of a sequence, at least; 0: any */
    void (*done)(void *self, enum cabe_status status, const struct cabe_error *err);
    void *self;
};
CABE_CHECKED enum cabe_status cabe_service_load_as(struct cabe_service *service, const struct cabe_service_load *wish,
                                                   struct cabe_error *err);
/* Unloads it now, or when its last request ends; one that is not in memory is fine. */
CABE_CHECKED enum cabe_status cabe_service_expire(struct cabe_service *service, const char *name,
                                                  struct cabe_error *err);
/* CABE_ERR_BUSY: in use. Of one whose load failed: the failure is forgotten (CABE_OK). */
CABE_CHECKED enum cabe_status cabe_service_unload(struct cabe_service *service, const char *name, struct cabe_error *err);
/* A pinned model is not unloaded to make room, nor for being idle. */
CABE_CHECKED enum cabe_status cabe_service_pin(struct cabe_service *service, const char *name, int pinned,
                                               struct cabe_error *err);

/* ---- answers ---- */

enum cabe_service_finish {
    CABE_SERVICE_STOP,    /* the model, or a stop string */
    CABE_SERVICE_LENGTH,  /* max_new tokens, or the context is full */
    CABE_SERVICE_TIMEOUT, /* stalled, or over the class's cap: the text so far counts */
    CABE_SERVICE_TOOLS    /* the text is a tool call */
};

struct cabe_service_counts {
    int64_t n_prompt, n_cached; /* tokens of the prompt; of them, found in the cache */
    int64_t n_new;              /* of all choices so far */
    double queue_s, load_s, prompt_s, answer_s, first_s; /* first_s: admission to first text */
};

/* All is copied by cabe_service_ask() except what is said to be borrowed. */
struct cabe_service_ask {
    const char *model;
    enum cabe_class class_;
    /* What is asked: a conversation (rendered with the model's template), or a text to go on with, or tokens. */
    const json_t *messages, *tools, *template_extra; /* borrowed until the end, not changed meanwhile: increfed */
    const char *prompt;
    size_t prompt_bytes;
    int raw; /* the prompt is given to the model as it is, without its beginning-of-text token */
    const int32_t *ids;
    size_t n_ids;
    int32_t n_choices;              /* 0: 1 */
    struct cabe_sampling sampling;  /* with its bias */
    int64_t max_new;                /* as struct cabe_request */
    int64_t shift_keep;             /* as struct cabe_request; -1: no shift */
    int ignore_end, special;        /* as struct cabe_generation */
    const char *const *stop;        /* n_stop strings */
    size_t n_stop;
    const char *salt;     /* requests with different salts share no cache; may be NULL */
    double keep_alive_s;  /* NAN: as it is; the service's for a model that is not there */
    int64_t context;      /* tokens of a sequence that the model should have room for; 0: any */

    /* The prompt has been read: tokens are about to come. May be NULL. */
    void (*started)(void *self, const struct cabe_service_counts *counts);
    /*
     * Not NULL: the prompt is scored (struct cabe_request), and told token by token between started() and the first text, for
     * every choice. The first token has no log-probability: NAN.
     */
    void (*prompted)(void *self, int32_t choice, const struct cabe_sampled *token, const struct cabe_tokenizer *tokenizer);
    /* Whole characters of a choice; `sampled` NULL for text that was held back. */
    void (*text)(void *self, int32_t choice, const char *bytes, size_t n, const struct cabe_sampled *sampled,
                 const struct cabe_tokenizer *tokenizer);
    void (*finished)(void *self, int32_t choice, enum cabe_service_finish finish);
    /* Once, last: CABE_OK after every choice has finished; otherwise why not. The ticket is gone when it returns. */
    void (*ended)(void *self, enum cabe_status status, const struct cabe_error *err,
                  const struct cabe_service_counts *counts);
    void *self;
};

/* A refusal says when it is worth asking again. */
struct cabe_service_refusal {
    double retry_after_s; /* 0: never */
    int overloaded;       /* 1: the service (503); 0: this queue (429) */
};

/*
 * CABE_ERR_NOT_FOUND: no such model. CABE_ERR_UNSUPPORTED: it does not write. CABE_ERR_LIMIT, CABE_ERR_BUSY: refused, see
 * `*refusal` (may be NULL). CABE_ERR_BUDGET: it can never fit. Later errors come by ended(): CABE_ERR_ARGUMENT a prompt
 * longer than the context, or that the template refuses; CABE_ERR_CANCELLED; CABE_ERR_LIMIT a time-out before the first
 * token. `*ticket` is set before any callback comes.
 */
CABE_CHECKED enum cabe_status cabe_service_ask(struct cabe_service *service, const struct cabe_service_ask *ask,
                                               struct cabe_service_ticket **ticket,
                                               struct cabe_service_refusal *refusal, struct cabe_error *err);
/* The request ends soon, with ended(CABE_ERR_CANCELLED); its pages are free within one step. Not after ended(). */
void cabe_service_cancel(struct cabe_service *service, struct cabe_service_ticket *ticket);

/* ---- embeddings ---- */

struct cabe_service_embed {
    const char *model;
    enum cabe_class class_;
    const struct cabe_text *texts; /* copied */
    size_t n_texts;
    enum cabe_prefix prefix;
    double keep_alive_s; /* NAN: the service's */
    /*
     * Not NULL: room for [n_texts][width] of who asks; then the texts are not copied either, and both stay until ended().
     * A model of another width is CABE_ERR_CHANGED.
     */
    float *rows;
    int64_t width;
    int goes_on; /* part of work that was admitted as a whole: not held back piece by piece when others press the machine */
    /* Once: rows [n_texts][width], normalised, valid during the call; NULL with an error. */
    void (*ended)(void *self, enum cabe_status status, const struct cabe_error *err, const float *rows, int64_t width,
                  uint64_t n_tokens);
    void *self;
};
CABE_CHECKED enum cabe_status cabe_service_embed(struct cabe_service *service, const struct cabe_service_embed *embed,
                                                 struct cabe_service_ticket **ticket,
                                                 struct cabe_service_refusal *refusal, struct cabe_error *err);

/*
 * Long work that embeds again and again (an analysis) borrows the model meanwhile: the one that is there or, when it is
 * not, the pool's next, which requests of others then share. A borrowed model is in use, and so not unloaded to make
 * room, nor on demand; where a load has waited for its room it is given up between two runs, as with requests, and the
 * borrower's next one brings it back. Waits for the load, until `cancel` (may be NULL): not on a thread that must not wait.
 * CABE_ERR_BUDGET: it cannot fit; CABE_ERR_BUSY: not beside what is in use now.
 */
CABE_CHECKED enum cabe_status cabe_service_borrow(struct cabe_service *service, const char *model,
                                                  const struct cabe_cancel *cancel, struct cabe_error *err);
void cabe_service_give_back(struct cabe_service *service, const char *model);
/* What a load of the model would hold at most, on the host; 0 when it is there. Reads its headers and plans. */
CABE_CHECKED enum cabe_status cabe_service_load_bytes(struct cabe_service *service, const char *model, uint64_t *bytes,
                                                      struct cabe_error *err);

/* ---- tokens, without waiting for a turn ---- */

/* Tokens of a text, nothing added, control tokens written in it counted as such; *ids is cabe_malloc'ed. Loads the model
 * first if need be: not on a thread that must not wait. */
CABE_CHECKED enum cabe_status cabe_service_tokenize(struct cabe_service *service, const char *model, const char *text,
                                                    size_t n, int32_t **ids, size_t *n_ids, struct cabe_error *err);
/* And back: *text is cabe_malloc'ed and NUL-terminated. */
CABE_CHECKED enum cabe_status cabe_service_detokenize(struct cabe_service *service, const char *model,
                                                      const int32_t *ids, size_t n, char **text, size_t *n_bytes,
                                                      struct cabe_error *err);

/* ---- what goes on ---- */

struct cabe_service_stats {
    int64_t n_running, n_waiting;
    uint64_t n_admitted, n_preempted, n_cancelled, n_timed_out;
    uint64_t n_refused_requests, n_refused_tokens, n_refused_draining, n_refused_pressure;
    uint64_t prompt_tokens, new_tokens, embedded_texts, embedded_tokens;
    uint64_t prefix_queried_tokens, prefix_hit_tokens;
    double stalled_s; /* since an engine that has work made its last step; 0: none waits */
    struct cabe_pool_stats pool;
};
void cabe_service_stats(struct cabe_service *service, struct cabe_service_stats *stats);
struct cabe_pool *cabe_service_pool(struct cabe_service *service);

/* Load of others (0..1, 1: none to spare), from the machine's pressure; slows and sheds LOW first. Any thread. */
void cabe_service_pressure(struct cabe_service *service, double cpu, double memory);

/* News for /v1/events and metrics: called on service threads, must not wait. Set before the first request. */
enum cabe_service_event {
    CABE_SERVICE_EVENT_LOADING,
    CABE_SERVICE_EVENT_LOADED,
    CABE_SERVICE_EVENT_LOAD_FAILED,
    CABE_SERVICE_EVENT_UNLOADED,
    CABE_SERVICE_EVENT_PREEMPTED,
    CABE_SERVICE_EVENT_TIMED_OUT
};
void cabe_service_on_event(struct cabe_service *service,
                           void (*event)(void *self, enum cabe_service_event event, const char *model, double seconds),
                           void *self);
/* Every finished answer, for histograms: seconds to first token, whole, in the queue. */
void cabe_service_on_answer(struct cabe_service *service,
                            void (*answer)(void *self, const char *model, enum cabe_class class_,
                                           enum cabe_status status, enum cabe_service_finish finish,
                                           const struct cabe_service_counts *counts),
                            void *self);

/* Times on the way, each as it was: between two tokens of an answer, and what pages of keys and values see. */
enum cabe_service_time {
    CABE_SERVICE_BETWEEN_TOKENS,
    CABE_SERVICE_KV_LIFETIME, /* this and what follows: as enum cabe_kv_time */
    CABE_SERVICE_KV_IDLE_BEFORE_EVICT,
    CABE_SERVICE_KV_REUSE_GAP,
    CABE_SERVICE_N_TIMES
};
void cabe_service_on_time(struct cabe_service *service,
                          void (*seen)(void *self, const char *model, enum cabe_service_time what, double seconds),
                          void *self);

#endif
