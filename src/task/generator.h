/*
 * A text generator: a decoder as a component of plans, and prompts to answers when it is loaded.
 *
 * As a candidate (cabe_generator_find) it knows headers only and answers measure() for any knobs. Loaded it owns the
 * network, a KV store and the engine that drives them (runtime/engine.h).
 *
 * Owner: who opens it; the session outlives it. Thread: one.
 */
#ifndef CABE_TASK_GENERATOR_H
#define CABE_TASK_GENERATOR_H

#include <stdint.h>

#include "cabe/status.h"
#include "fit/plan.h"
#include "runtime/engine.h"
#include "runtime/monitor.h"
#include "task/session.h"
#include "text/chat_tokens.h"

struct cabe_generator;

struct cabe_generator_wishes { /* what a person fixed; 0 or negative: free */
    int dtype;                 /* enum cabe_dtype */
    int precision;             /* enum cabe_precision */
    int kv;                    /* enum cabe_kv_format */
    int64_t context;           /* tokens of one sequence */
    int64_t context_enough;    /* where `context` is free: rather so much than f16 keys, as far as the model goes */
    int64_t batch_tokens;      /* of one run */
    int32_t n_seqs;            /* at a time; 0: one */
    int64_t kv_tokens;         /* of all sequences together; 0: as many as all may have. At least one's */
};

CABE_CHECKED enum cabe_status cabe_generator_find(struct cabe_generator **out, struct cabe_session *session,
                                                  const char *path, const struct cabe_generator_wishes *wishes,
                                                  struct cabe_error *err);
void cabe_generator_close(struct cabe_generator *generator); /* NULL is fine */
const struct cabe_model *cabe_generator_model(const struct cabe_generator *generator);

/* The component and its ladder into a task; returns the component's index. */
int cabe_generator_plan(struct cabe_generator *generator, struct cabe_fit_task *task);
/*
 * Work of one run of `n_tokens` in `n_seqs` sequences with so much context each, for predicted time.
 */
CABE_CHECKED enum cabe_status cabe_generator_work(struct cabe_generator *generator, const struct cabe_knobs *knobs,
                                                  int64_t n_tokens, int64_t n_seqs, int64_t context,
                                                  struct cabe_graph_work *work, struct cabe_error *err);
/* A task of its own: stages "prompt", one run of the planned tokens, and "answer", one step of the planned sequences. */
void cabe_generator_task(struct cabe_generator *generator, struct cabe_fit_task *task);
/*
 * Predicted tokens a second under a plan of that task, from the machine's measured limits: of prompts, and of answers, all
 * sequences together, behind CABE_GENERATOR_TYPICAL tokens each. 0: not known, as for weights that are streamed where
 * nobody has measured what they are read from.
 */
#define CABE_GENERATOR_TYPICAL 512
void cabe_generator_speed(const struct cabe_plan *plan, double *prompt_tokens_s, double *answer_tokens_s);

/* Loads under the knobs of a plan that fits, making the fitted copy first where there is none. */
CABE_CHECKED enum cabe_status cabe_generator_load(struct cabe_generator *generator, const struct cabe_knobs *knobs,
                                                  struct cabe_error *err);
void cabe_generator_unload(struct cabe_generator *generator);
/* Waits until the copy has been checked; before the first result is handed out. */
CABE_CHECKED enum cabe_status cabe_generator_check(struct cabe_generator *generator, struct cabe_error *err);

/* Loaded. */
struct cabe_engine *cabe_generator_engine(struct cabe_generator *generator);
struct cabe_kv *cabe_generator_kv(struct cabe_generator *generator);
const struct cabe_tokenizer *cabe_generator_tokenizer(const struct cabe_generator *generator);

/* One prompt to its answer, as text. */
struct cabe_generation {
    const int32_t *ids; /* the prompt */
    size_t n_ids;
    struct cabe_sampling sampling;
    int64_t max_new;    /* 0: until the context is full */
    int64_t shift_keep; /* see struct cabe_request */
    int special;        /* the text of control tokens is given too */
    int ignore_end;     /* go on after the end token */
    const char *const *stop; /* strings that end the text, not given */
    size_t n_stop;
    /* Whole characters, as they come; anything but CABE_OK ends the generation with it. `sampled` is the token that
     * made them appear; NULL for what was held back at the end. */
    enum cabe_status (*text)(void *self, const char *bytes, size_t n_bytes, const struct cabe_sampled *sampled,
                             struct cabe_error *err);
    void *self;
};

struct cabe_generated {
    enum cabe_finish finish;
    int64_t n_prompt, n_cached, n_new;
    double prompt_seconds, new_seconds; /* until the first token; from there on */
    double first_seconds;               /* from the call until the first text */
    uint64_t begun_ns;                  /* cabe_clock_ns() when the prompt began to be computed; 0: it never did */
};

/* CABE_ERR_CANCELLED: `cancel`; what was generated stays in *result. */
CABE_CHECKED enum cabe_status cabe_generate(struct cabe_generator *generator, const struct cabe_generation *generation,
                                            const struct cabe_cancel *cancel, struct cabe_generated *result,
                                            struct cabe_error *err);

#endif
