/*
 * How many tokens of prompts a step may take beside sequences that are generating, so that it lasts at most `slowdown`
 * times as long as it would without them. Learned from the times of steps: it depends on the machine, the model and how
 * long the sequences are, and not smoothly (weights are read once for several tokens). So the number grows while steps
 * are short enough, falls when one is not, and what was too much is not tried again for a while.
 * What a step computes does not depend on it.
 *
 * Owner: a plain value, zeroed at first. Thread: one at a time.
 */
#ifndef CABE_RUNTIME_ENGINE_CHUNK_H
#define CABE_RUNTIME_ENGINE_CHUNK_H

#include <stdint.h>

#define CABE_CHUNK_SEQS 32 /* with more of them the times of this many are taken */

struct cabe_chunk {
    double alone_s[CABE_CHUNK_SEQS]; /* a step of so many sequences (from 1) and no prompts; 0: not known */
    int64_t n;                       /* tokens that are allowed now; 0: not known */
    int64_t n_bad;                   /* so many made a step too long lately; 0: none did */
    int bad_for;                     /* steps with prompts until that is forgotten */
    int n_mixed;                     /* steps since the last one without prompts */
    double slowdown;                 /* of the last limit */
    double token_s;                  /* of a prompt when nobody generates; 0: not known */
};

/*
 * Tokens that prompts may take beside `n_generating` > 0 sequences, at most n_max; 0 now and then, so that the time of a
 * step without prompts stays known.
 */
int64_t cabe_chunk_limit(struct cabe_chunk *chunk, int32_t n_generating, int64_t n_max, double slowdown);
/* Tokens of prompts that take about `seconds` when nobody generates; n_max where that is not known. */
int64_t cabe_chunk_tokens(const struct cabe_chunk *chunk, double seconds, int64_t n_max);
/* A step has taken `seconds`; of no prompts, or of prompts that kept to the limit, or nobody generated. */
void cabe_chunk_learn(struct cabe_chunk *chunk, int32_t n_generating, int64_t n_prompt_tokens, double seconds);

#endif
