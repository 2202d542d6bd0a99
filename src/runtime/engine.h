/*
 * The batch engine: many sequences of one decoder, a step at a time.
 *
 * A step is one run of the network. Sequences that are generating come first, one token each; what is left of the
 * step's tokens is shared among the prompts by the weights of their classes. While others generate, prompts of no higher
 * class than theirs take only so many tokens that a step lasts at most `slowdown` times as long as one without
 * (runtime/engine_chunk.h), or where a single token is too much for that, one step in many is longer: a long prompt holds
 * nobody up. A prompt of class CRITICAL with CABE_ENGINE_SHORT tokens to go
 * is not held back, and while there are prompts of several classes a step is not filled up with the lesser ones'. Steps
 * of prompts alone last about CABE_ENGINE_PIECE_S while more important sequences come now and then, and CABE_CHUNK_PIECE_S
 * where any do: who comes joins after the step that runs. Sequences join and
 * leave between steps. What a sequence says depends on nothing but its own tokens, its sampling and the plan.
 *
 * When a sequence needs a page and the store has none, and when one joins and all places in the step are taken, the
 * running one of the lowest class is parked (of those, the one that costs least to compute again for what it frees): its
 * full pages stay in the store as long as there is room, its place and its other pages are given up. It goes on by
 * itself, before anything of its class or lower that joins, and says what it would have said. Nothing is parked for a
 * sequence of its own class or a lower one; only when no page is left for anybody, the youngest of the same class is.
 *
 * Prompts that begin alike share their pages (runtime/kv.h), if their salts are alike.
 *
 * Everything is reserved at open; a step allocates nothing.
 *
 * Owner: who opens it; program and store outlive it. Thread: one at a time.
 */
#ifndef CABE_RUNTIME_ENGINE_H
#define CABE_RUNTIME_ENGINE_H

#include <stdint.h>

#include "base/cancel.h"
#include "base/class.h"
#include "cabe/status.h"
#include "device/device.h"
#include "runtime/kv.h"
#include "runtime/sample.h"

struct cabe_engine;

#define CABE_ENGINE_SLOWDOWN 1.65
#define CABE_ENGINE_SHORT 256
#define CABE_ENGINE_PIECE_S 0.04
/* Those in a step, as many parked beside them, and as many again that CRITICAL alone takes: it finds a place at once. */
#define CABE_ENGINE_SLOTS(n_seqs) (3 * (n_seqs))
#define CABE_ENGINE_PARK_AGE_NS UINT64_C(10000000000) /* parked so long: nothing joins before it but CRITICAL by parking */

struct cabe_engine_config {
    struct cabe_program *program; /* of `graph`, compiled for cabe_engine_bounds(); its cache bound to the store's buffer */
    const struct cabe_graph *graph;
    struct cabe_kv *kv;
    struct cabe_ledger *ledger;
    int32_t n_vocab;
    int64_t step_tokens; /* of one run, at least n_seqs */
    int32_t n_seqs;      /* in one step */
    double slowdown;     /* 0: CABE_ENGINE_SLOWDOWN; below 0: prompts take all that is left of a step */
    int64_t n_ctx;       /* tokens of one sequence; seq_tokens of the store */
    const char *place;   /* in the ledger */
    /*
     * May be NULL. Asked after every run that logits are wanted of, before anything is drawn from them: whether the
     * weights are still what they were. Anything but CABE_OK is the step's error, and the step is as if it had not been.
     */
    enum cabe_status (*check)(void *self, struct cabe_error *err);
    void *check_self;
};

/* Bounds that the program must be compiled for, and the bytes of the host that open() reserves (ACTIVATIONS). */
void cabe_engine_bounds(const struct cabe_engine_config *config, int64_t bounds[CABE_N_SYMBOLS]);
uint64_t cabe_engine_measure(const struct cabe_engine_config *config);

CABE_CHECKED enum cabe_status cabe_engine_open(struct cabe_engine **out, const struct cabe_engine_config *config,
                                               struct cabe_error *err);
void cabe_engine_close(struct cabe_engine *engine); /* NULL is fine; ends what still runs */

enum cabe_finish {
    CABE_FINISH_NOT,     /* it goes on */
    CABE_FINISH_STOP,    /* token() said so */
    CABE_FINISH_LENGTH,  /* max_new tokens */
    CABE_FINISH_CONTEXT, /* n_ctx tokens, and no shift was asked for */
    CABE_FINISH_MEMORY,  /* the store has no page left for it */
    CABE_FINISH_ERROR    /* its logits are not numbers, or nothing may be drawn */
};
const char *cabe_finish_name(enum cabe_finish finish);

struct cabe_request {
    const int32_t *prompt; /* copied; at least one token, less than n_ctx */
    int64_t n_prompt;
    struct cabe_sampling sampling; /* passed cabe_sampling_check(); its bias is borrowed until the end */
    int64_t max_new;               /* 0: until the context is full; below 0: none, it ends when its prompt was computed */
    uint64_t sequence;             /* for the sampler: forks of one prompt differ by it */
    int64_t shift_keep; /* when the context is full half of it is dropped, behind this many tokens; -1: it ends there */
    int fresh;          /* take nothing from the store's cache */
    enum cabe_class class_;
    uint8_t salt[16];   /* shares pages with those of the same salt only; all zero: none (cabe_kv_salt()) */
    /* Every token as it is drawn; anything but 0 ends the sequence. Not called for the prompt. */
    int (*token)(void *self, const struct cabe_sampled *sampled);
    /*
     * Not NULL: the prompt is scored, every token of it behind the first, in order and before any is drawn, with its
     * log-probability and those of the sampling.n_logprobs likeliest; anything but 0 ends the sequence. That wants a row of
     * logits a token: a step takes only so much of such a prompt as there are rows that nobody else needs, and nothing
     * is taken from the store's cache.
     */
    int (*scored)(void *self, const struct cabe_sampled *scored);
    void *self;
};

/* Whether add() would find a place now for a sequence of this class; 2: by parking another. */
int cabe_engine_has_room(const struct cabe_engine *engine, enum cabe_class class_);
/* `*slot` names it until it is removed. CABE_ERR_LIMIT: no room for its class; CABE_ERR_ARGUMENT: the prompt. */
CABE_CHECKED enum cabe_status cabe_engine_add(struct cabe_engine *engine, const struct cabe_request *request,
                                              int32_t *slot, struct cabe_error *err);
/* Ends it; its full pages stay in the store for others. */
void cabe_engine_remove(struct cabe_engine *engine, int32_t slot);

/*
 * One step of all that has not finished; returns at once when all have. `cancel` may be NULL. After an error of the run
 * (cancelled, a file that has shrunk) the sequences are as they were before it, and it can be tried again.
 * CABE_ERR_INTERNAL: the logits of a sequence are not numbers; the message names the layer, that sequence is finished,
 * the others went on.
 */
CABE_CHECKED enum cabe_status cabe_engine_step(struct cabe_engine *engine, const struct cabe_cancel *cancel,
                                               struct cabe_error *err);
int32_t cabe_engine_n_running(const struct cabe_engine *engine); /* not finished */

struct cabe_engine_view { /* of one sequence */
    enum cabe_finish finish;
    int64_t n_prompt, n_cached; /* tokens of the prompt; of them, taken from the store */
    int64_t n_done;             /* of the prompt, computed or cached */
    int64_t n_new;              /* drawn */
    int parked;                 /* it waits for a place or for pages */
    int32_t n_parked;           /* how often it was */
};
void cabe_engine_view(const struct cabe_engine *engine, int32_t slot, struct cabe_engine_view *view);
/* Logits of the last token that a sequence was drawn from, until the next step; NULL before the first. For tests. */
const float *cabe_engine_logits(const struct cabe_engine *engine, int32_t slot);

struct cabe_engine_stats {
    uint64_t n_steps, prompt_tokens, new_tokens;
    uint64_t run_ns, draw_ns; /* in runs of the network; in drawing tokens and handing them out */
    uint64_t n_parked;        /* preemptions */
    uint64_t again_tokens;    /* computed a second time for that */
    int64_t prompt_share;     /* tokens that prompts may take beside others' answers, now */
    double prompt_s, answer_s; /* that a token of a prompt takes, and one of an answer in as full a step as there was; 0: not known */
};
void cabe_engine_stats(const struct cabe_engine *engine, struct cabe_engine_stats *stats);

#endif
