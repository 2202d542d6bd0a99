/*
 * The next token, drawn from a row of logits.
 *
 * Steps, in this order (llama.cpp's; a step whose parameter is off is skipped):
 *   1. logit bias is added;
 *   2. penalties, on the tokens of `history`: a logit above 0 is divided by `repetition_penalty`,
 * one below is multiplied; then it loses count * frequency_penalty + presence_penalty;
 *   3. temperature 0: the highest logit, the lowest id of equal ones, and nothing below applies;
 *   4. top_k: the k highest logits, lower ids first among equal ones;
 *   5. top_p: of these, from the highest, the fewest whose probabilities sum to top_p or more of
 * them all;
 *   6. min_p: of these, those at least min_p times as likely as the highest;
 *   7. temperature divides what is left, and one is drawn: in descending order of logits, the first
 * whose cumulative probability exceeds a uniform number in [0, 1). The uniform number is a function
 * of (seed, sequence, position) alone, Philox4x32-10 with the seed as key, never of how many
 * numbers were drawn before, so that batches, forks and restarts do not change an answer. Forks of
 * one prompt differ by `sequence`. At least the highest logit survives every step.
 *
 * Log-probabilities are natural, of the model's own distribution: of the logits before step 1.
 *
 * Owner:  a sampler is working memory, of who places it; it holds nothing between two calls.
 * Thread: one sampler, one thread at a time, for any number of sequences. Nothing is allocated per
 * token.
 */
#ifndef CABE_RUNTIME_SAMPLE_H
#define CABE_RUNTIME_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "cabe/status.h"

#define CABE_SAMPLE_TOP_MAX 20 /* likeliest tokens that can be asked for with each draw */
#define CABE_SAMPLE_BIAS_MAX 1024

struct cabe_logit_bias {
    int32_t token;
    float bias; /* -INFINITY: never this one */
};

struct cabe_sampling {        /* what a request may set; start from cabe_sampling_defaults() */
    float temperature;        /* 0: greedy; default 0.8 */
    int32_t top_k;            /* 0: off; default 40 */
    float top_p;              /* above 0, to 1: off; 0 keeps one; default 0.95 */
    float min_p;              /* 0: off, to 1; default 0.05 */
    float repetition_penalty; /* 1: off; default */
    float frequency_penalty;  /* 0: off; default */
    float presence_penalty;   /* 0: off; default */
    int32_t penalty_last_n;   /* tokens of history that are looked at, from its end; -1: all; default
                                 64 */
    uint64_t seed;            /* default 0 */
    const struct cabe_logit_bias *bias; /* borrowed; a token that comes twice is added twice */
    size_t n_bias;
    int32_t n_logprobs; /* -1: none (default); 0: the drawn token's; n: also of the n likeliest */
};

struct cabe_token_logprob {
    int32_t token;
    float logprob; /* -INFINITY where the logit is */
};

struct cabe_sampled {
    int32_t token;
    int32_t n_kept; /* tokens that could have been drawn; 1 when greedy */
    float logprob;  /* NAN unless n_logprobs >= 0 */
    int32_t n_top;  /* as many as n_logprobs, or as have a logit above -infinity */
    struct cabe_token_logprob top[CABE_SAMPLE_TOP_MAX]; /* descending */
};

struct cabe_sampler; /* the working memory */

void cabe_sampling_defaults(struct cabe_sampling *params);
/* Once per request: CABE_ERR_ARGUMENT names the parameter, its value and its range; tokens below
 * n_vocab. */
CABE_CHECKED enum cabe_status cabe_sampling_check(const struct cabe_sampling *params, int32_t n_vocab,
                                                  struct cabe_error *err);

/*
 * Takes the memory of a sampler for rows of up to n_vocab logits from `arena`, about 16 bytes a
 * logit; NULL while the arena measures. For who owns a working set; otherwise open and close.
 */
struct cabe_sampler *cabe_sampler_place(struct cabe_arena *arena, int32_t n_vocab);
/* What cabe_sampler_open() takes: exact, in whole pages. The caller reserves it in the ledger. */
uint64_t cabe_sampler_measure(int32_t n_vocab);
CABE_CHECKED enum cabe_status cabe_sampler_open(struct cabe_sampler **out, int32_t n_vocab,
                                                struct cabe_error *err);
void cabe_sampler_close(struct cabe_sampler *sampler); /* NULL is fine; only of cabe_sampler_open() */

/*
 * Draws from `logits` (n_vocab, at most the sampler's; not changed). `params` has passed
 * cabe_sampling_check(). `history`: the tokens of the sequence so far that penalties count, oldest
 * first; ids out of range are passed over; may be NULL with n_history 0. `position`: of the token
 * to be drawn, in its sequence.
 *
 * CABE_ERR_INTERNAL: a logit is NaN or +infinity; the message has its index. CABE_ERR_ARGUMENT: all
 * are -infinity, nothing may be drawn.
 */
CABE_CHECKED enum cabe_status cabe_sample(struct cabe_sampler *sampler, const struct cabe_sampling *params,
                                          const float *logits, int32_t n_vocab, const int32_t *history,
                                          size_t n_history, uint64_t sequence, uint64_t position,
                                          struct cabe_sampled *out, struct cabe_error *err);

/* Says of `token` what cabe_sample() with n_logprobs (0 to CABE_SAMPLE_TOP_MAX) would have, had it drawn it. Errors as there. */
CABE_CHECKED enum cabe_status cabe_sample_score(struct cabe_sampler *sampler, const float *logits, int32_t n_vocab,
                                                int32_t token, int32_t n_logprobs, struct cabe_sampled *out,
                                                struct cabe_error *err);

/* The uniform number that cabe_sample() uses, in [0, 1), a multiple of 2^-53. */
double cabe_sample_uniform(uint64_t seed, uint64_t sequence, uint64_t position);

#endif
