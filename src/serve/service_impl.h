/*
 * Inside the service. One lock (service->lock) guards everything here but what is said to be of one thread.
 *
 * Entry: a model by name, from when it is first asked for until close. Its host is a thread that lives while there is
 * work or the model is in memory; it loads (through the pool), serves, and lets go when nothing waits.
 * Ticket: a request. It waits in its entry's queue, is then the host's, and ends once, on whatever thread ends it; what
 * the keeper (a thread for what must not wait for a host: time-outs, cancelled waiters, keep-alive) ends was in a queue.
 */
#ifndef CABE_SERVE_SERVICE_IMPL_H
#define CABE_SERVE_SERVICE_IMPL_H

#include <pthread.h>

#include "base/cancel.h"
#include "format/store.h"
#include "runtime/forecast.h"
#include "runtime/pace.h"
#include "runtime/queue.h"
#include "runtime/stop.h"
#include "serve/service.h"
#include "task/encoder.h"
#include "task/generator.h"
#include "text/chat_tokens.h"

/* Of a loaded model beside what its plan says: the host's stack as far as it is used, its chat template, texts on the way. */
#define CABE_HOST_BYTES (UINT64_C(1536) << 10)
#define CABE_HOST_STACK_BYTES (UINT64_C(1) << 20)
#define CABE_ENTRIES_MAX 1024
#define CABE_BYTES_PER_TOKEN 3.5 /* until prompts were seen */
#define CABE_RATE_SECONDS 8
#define CABE_POOL_PATIENCE_NS UINT64_C(30000000000) /* a load waits so long for models in use */
#define CABE_RENDERS_MAX 2
#define CABE_EMBED_ROWS 256 /* texts of one run */
#define CABE_EMBED_REQUESTS 20
#define CABE_EMBED_BYTES (16u << 10) /* of texts of one run, or one text */
#define CABE_EMBED_WAIT_S 0.1

/* ---- tickets ---- */

enum cabe_ticket_phase {
    CABE_TICKET_WAITS,   /* in the queue */
    CABE_TICKET_TAKEN,   /* the host's; its prompt is still text */
    CABE_TICKET_READING, /* its prompt is being made into tokens on another thread */
    CABE_TICKET_READY,   /* has its tokens, or could not get them */
    CABE_TICKET_RUNS
};

struct cabe_service_ticket {
    struct cabe_service *service;
    struct cabe_service_entry *entry;
    struct cabe_queue_item item; /* under the lock */
    enum cabe_class class_;
    struct cabe_cancel cancel;
    enum cabe_ticket_phase phase; /* the host's, but READING to READY: under the lock */
    int embeds;
    struct cabe_service_ask ask;     /* copies of what it points to */
    struct cabe_service_embed embed; /* likewise */
    struct cabe_service_ticket *next; /* in lists of the host or the keeper */
    void *block;                     /* texts and arrays of ask or embed */
    uint64_t charged_bytes;
    int64_t estimated_tokens, bytes; /* of the prompt */
    uint64_t key;                    /* who asks the same again */
    uint64_t admitted_ns, taken_ns, ready_ns, first_ns, text_ns, last_ns;
    uint64_t read_ns; /* its prompt got on last */
    uint64_t load_ns; /* of its wait, the model was loading so long */
    int started;      /* n_running counts it */

    /* the prompt */
    int renders_much; /* its template wants more than is granted to each: on a thread of its own */
    int32_t *own_ids;
    const int32_t *prompt; /* these, or the request's */
    size_t n_prompt;
    enum cabe_status read_status;
    struct cabe_error err;

    /* answers */
    int32_t n_begun, n_ended; /* of its choices */
    int told;                 /* started() was called */
    int64_t n_new, n_cached;
    enum cabe_service_finish finish; /* of the last choice */

    /* embeddings */
    float *rows;
    uint64_t rows_bytes;
    size_t n_rows, part; /* done; of the present run */
    int64_t width;
    uint64_t n_tokens;
    int rows_lent; /* who asked has brought them */
};

/* Copies the request; CABE_ERR_ARGUMENT, CABE_ERR_OOM, CABE_ERR_BUDGET: no room for it. */
enum cabe_status cabe_ticket_ask(struct cabe_service_ticket **out, struct cabe_service_entry *entry,
                                 const struct cabe_service_ask *ask, struct cabe_error *err);
enum cabe_status cabe_ticket_embed(struct cabe_service_ticket **out, struct cabe_service_entry *entry,
                                   const struct cabe_service_embed *embed, struct cabe_error *err);
/* Bytes of prompt that a request has, without looking into them. */
int64_t cabe_ticket_prompt_bytes(const struct cabe_service_ask *ask);
/* A name for what is asked, the same when it is asked again. */
uint64_t cabe_ticket_key_ask(const struct cabe_service_ask *ask);
uint64_t cabe_ticket_key_embed(const struct cabe_service_embed *embed);
void cabe_ticket_free(struct cabe_service_ticket *ticket); /* one that was never admitted */
/* Calls ended() and frees; without the lock. `err` may be NULL with CABE_OK. */
void cabe_ticket_end(struct cabe_service_ticket *ticket, enum cabe_status status, const struct cabe_error *err);
void cabe_ticket_counts(const struct cabe_service_ticket *ticket, struct cabe_service_counts *counts);
/* CABE_OK; CABE_ERR_CANCELLED; CABE_ERR_LIMIT: a time-out, err says which. */
enum cabe_status cabe_ticket_overdue(const struct cabe_service_ticket *ticket, uint64_t now_ns, struct cabe_error *err);
/* When a waiting one is overdue. */
uint64_t cabe_ticket_deadline(const struct cabe_service_ticket *ticket);

/* ---- models ---- */

struct cabe_load_waiter {
    struct cabe_load_waiter *next;
    void (*done)(void *self, enum cabe_status status, const struct cabe_error *err);
    void *self;
    int64_t context; /* wished for */
};

/* A model in memory: the pool's object. Immutable but for its engine, which is the host's; the tokenizer is anyone's. */
struct cabe_loaded {
    struct cabe_service *service;
    struct cabe_service_entry *entry;
    struct cabe_session session; /* with a cancel of its own and the budget that was left */
    struct cabe_generator *generator;
    struct cabe_encoder *encoder;
    struct cabe_chat_tokens *chat;
    struct cabe_knobs knobs;
    struct cabe_pool_bytes bytes;
    double prompt_speed, answer_speed; /* planned tokens a second; 0: not known */
    float *rows;                       /* of an encoder: [CABE_EMBED_ROWS][width] */
    uint64_t rows_bytes, host_bytes;   /* reserved */
    int64_t context;                   /* that requests ask for; 0: any */
    int kind;                          /* as its entry's */
    int beside_busy;                   /* planned into what models in use leave */
    uint64_t stay_bytes;               /* of the budget, what is not there for the plan, but will or may be again */
    int plan_refused;                  /* nothing fits into the rest of it */
    int is_taken;                      /* it became the pool's */
};

struct cabe_meter { /* tokens by the second */
    uint64_t second[CABE_RATE_SECONDS];
    int64_t n[CABE_RATE_SECONDS];
};

struct cabe_service_entry {
    struct cabe_service_entry *next;
    struct cabe_service *service;
    struct cabe_service_model view; /* what is known; counts and states as of now */
    char path[CABE_STORE_PATH_MAX];
    int kind; /* 1: writes; 0: embeds; -1: not known yet */
    int is_added;
    int is_seen; /* its headers were read, as its file is */
    struct cabe_queue queue;
    struct cabe_load_waiter *loads; /* who wants it in memory */
    int64_t context_asked;          /* at least the most that somebody who waits asks for */
    int64_t context_vain;           /* what was asked of the last load, which got less; 0: it got it */
    uint64_t asked_ns;              /* since more is asked than there is; 0: it is not */
    uint64_t grow_after_ns;         /* not again before */
    int n_borrowers;
    uint64_t idle_since_ns;
    double bytes_per_token;
    struct cabe_forecast forecast;
    double mean_new;                  /* tokens of an answer, lately; 0: not known */
    double place_s[CABE_N_CLASSES];   /* until one of the class could begin, if nothing waited; the host's, each step */
    struct cabe_meter meter;

    pthread_t thread;
    int has_thread, thread_ended;
    pthread_cond_t wake;           /* of the host: something to do, or a reader is done */
    struct cabe_cancel load_cancel; /* nobody waits for it any more */
    int is_acquiring;               /* the host is in the pool */
    int is_serving;                 /* the host holds the model */
    uint64_t acquire_ns;            /* since */
    uint64_t loaded_ns;             /* the last load ended */
    uint64_t step_ns;               /* the last step ended; 0: it does not step */
    struct cabe_cancel step_cancel; /* a step that lasts too long */
};

struct cabe_service {
    struct cabe_service_config config;
    struct cabe_pool *pool;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a ticket has ended, or a host */
    pthread_cond_t keeper_wake;
    pthread_t keeper;
    int has_keeper, keeper_called;
    struct cabe_service_entry *entries;
    int n_entries, n_hosts;
    int draining, closing;
    int64_t n_tickets; /* admitted and not ended */
    int n_renders;     /* of templates, that need much; at most CABE_RENDERS_MAX */
    struct cabe_pace pace;
    struct cabe_service_stats stats; /* the counters of it */
    void (*event)(void *self, enum cabe_service_event event, const char *model, double seconds);
    void *event_self;
    void (*answer)(void *self, const char *model, enum cabe_class class_, enum cabe_status status,
                   enum cabe_service_finish finish, const struct cabe_service_counts *counts);
    void *answer_self;
    void (*seen)(void *self, const char *model, enum cabe_service_time what, double seconds);
    void *seen_self;
};

/* For tests: cabe_service_pressure() on a clock of theirs. */
void cabe_service_pressure_at(struct cabe_service *service, double now_s, double cpu, double memory);

/* The entry of a name; one is made when the store has it. */
enum cabe_status cabe_entry_find(struct cabe_service_entry **out, struct cabe_service *service, const char *name,
                                 struct cabe_error *err);
/* Under the lock, before who brings it waits. NAN: as it is, or the service's for a model that is not there. */
void cabe_keep_alive_set(struct cabe_service_entry *entry, double keep_alive_s);
/* In what a client is told stands the model's name, not where its files are. */
void cabe_model_hide_path(const struct cabe_service_entry *entry, struct cabe_error *err);
void cabe_model_learn_file(struct cabe_service_model *view, const char *path);
void cabe_service_tell(struct cabe_service *service, enum cabe_service_event event, const char *model, double seconds);
double cabe_seconds(uint64_t from_ns, uint64_t to_ns); /* 0 where it is not after */

/* Under the lock. */
void cabe_meter_add(struct cabe_meter *meter, uint64_t now_ns, int64_t n);
double cabe_meter_rate(const struct cabe_meter *meter, uint64_t now_ns);

/* ---- waiting (service_wait.c); under the lock ---- */

struct cabe_wait { /* of one that asks */
    enum cabe_class class_;
    int64_t tokens;  /* of its prompt, estimated */
    double work;
    uint64_t key;
};
/* Seconds that it takes of the engine. n_choices 0: an embedding. */
double cabe_wait_work(const struct cabe_service_entry *entry, int64_t prompt_tokens, int64_t max_new, int32_t n_choices,
                      int ignore_end);
/* The same of an ask: one whose prompt is scored takes as long as if the prompt were an answer. */
double cabe_wait_work_ask(const struct cabe_service_entry *entry, int64_t prompt_tokens, const struct cabe_service_ask *ask);
/*
 * Whether it is let in, as far as its wait is concerned; otherwise CABE_ERR_LIMIT, and in *retry_s when it will be.
 * Nothing is changed but promises.
 */
enum cabe_status cabe_wait_check(struct cabe_service_entry *entry, const struct cabe_wait *wait, uint64_t now_ns,
                                 double *retry_s, struct cabe_error *err);
/* The queue refused it: when it will not. */
double cabe_wait_full(struct cabe_service_entry *entry, const struct cabe_wait *wait, uint64_t now_ns);
void cabe_wait_learn(struct cabe_service_entry *entry, int64_t n_new); /* an answer has ended */
/* Tokens that an answer will probably still have; 0 where that cannot be told. */
double cabe_wait_left(const struct cabe_service_entry *entry, int64_t n_new, int64_t max_new, int ignore_end);
/* It was let in and waits. */
void cabe_wait_begin(struct cabe_service_entry *entry, struct cabe_service_ticket *ticket, double work);

/* ---- loading ---- */

/* The model, loaded if need be, on the calling thread; without the lock. */
enum cabe_status cabe_loaded_acquire(struct cabe_service_entry *entry, const struct cabe_cancel *cancel,
                                     struct cabe_pool_use **use, struct cabe_error *err);

/* ---- contexts (service_context.c); under the lock ---- */

/* Somebody who is about to wait asks for so much. */
void cabe_context_ask(struct cabe_service_entry *entry, int64_t context);
/* What the next load should have room for; 0: nobody asks. */
int64_t cabe_context_wanted(struct cabe_service_entry *entry);
/* After a load was planned for `wanted`. */
void cabe_context_planned(struct cabe_service_entry *entry, int64_t wanted);
/* Whether nothing should begin, so that the model can be loaded again with more. */
int cabe_context_grows(struct cabe_service_entry *entry, uint64_t now_ns);
void cabe_context_wait(struct cabe_service_entry *entry, uint64_t now_ns); /* growing failed: not again soon */
/* What a load that need not wait for others would hold at its highest point; without the lock. */
enum cabe_status cabe_loaded_measure(struct cabe_service_entry *entry, uint64_t *bytes, struct cabe_error *err);

/* ---- hosts ---- */

/* Under the lock: sees to it that the entry has a host, and wakes it. */
enum cabe_status cabe_host_start(struct cabe_service_entry *entry, struct cabe_error *err);
/* When the host that steps last ended a step, or within one a node of the graph. Under the lock. */
uint64_t cabe_host_alive_ns(const struct cabe_service_entry *entry);
/* Under the lock: what take() would take; NULL: nothing yet, look again at *next_ns. */
struct cabe_queue_item *cabe_host_next(const struct cabe_service_entry *entry, uint64_t now_ns, uint64_t *next_ns);
/* Under the lock: how long the model stays when nobody uses it. */
uint64_t cabe_entry_keep_alive_ns(const struct cabe_service_entry *entry);
/* Under the lock: the next one from the queue, counted as running; NULL when nothing waits. */
struct cabe_service_ticket *cabe_host_take(struct cabe_service_entry *entry, uint64_t now_ns);
struct cabe_service_ticket *cabe_host_take_item(struct cabe_service_entry *entry, struct cabe_queue_item *item,
                                                uint64_t now_ns);
/* Serve until nothing waits, the room is wanted, or the model is broken (then not CABE_OK); without the lock. */
enum cabe_status cabe_host_decode(struct cabe_service_entry *entry, struct cabe_loaded *loaded,
                                  struct cabe_pool_use *use, struct cabe_error *err);
enum cabe_status cabe_host_encode(struct cabe_service_entry *entry, struct cabe_loaded *loaded,
                                  struct cabe_pool_use *use, struct cabe_error *err);

struct cabe_reading { /* working memory, reused */
    struct cabe_chat_ids chat;
    struct cabe_encoding encoding;
};
void cabe_reading_clear(struct cabe_reading *reading);
/* Makes tokens of a ticket's prompt; the result is in the ticket. CABE_ERR_LIMIT and renders_much: read it as a long one. */
void cabe_ticket_read(struct cabe_service_ticket *ticket, const struct cabe_loaded *loaded, struct cabe_reading *reading);
/* The same for a long one, whose working memory the ledger must have room for. */
void cabe_ticket_read_long(struct cabe_service_ticket *ticket, const struct cabe_loaded *loaded);

void *cabe_keeper_main(void *service);
void cabe_keeper_call(struct cabe_service *service); /* under the lock: it looks at once */

#endif
