/*
 * How many tokens of prompts a step may take beside sequences that are generating, so that it lasts at most `slowdown`
 * times as long as it would without them. Learned from the times of steps: it depends on the machine, the model and how
 * long the sequences are, and not smoothly (weights are read once for several tokens). So the number grows while steps
 * are short enough, falls when one is not, and what was too much is not tried again for a while.
 *
 * A token costs more the more of its prompt is behind it, until a step with a single one would be too long: its prompt's
 * cache is read for it. Then prompts take part in one of CABE_CHUNK_SPACED steps only, with a piece that is worth it:
 * 95 of 100 tokens of the others come as fast as ever, and prompts have the same share of the time. The piece is at most
 * CABE_CHUNK_PIECE_S long, or CABE_CHUNK_LONG_STEPS steps.
 *
 * What a step computes does not depend on it.
 *
 * Owner: a plain value, zeroed at first. Thread: one at a time.
 */
#ifndef CABE_RUNTIME_ENGINE_CHUNK_H
#define CABE_RUNTIME_ENGINE_CHUNK_H

#include <stdint.h>

#define CABE_CHUNK_SEQS 32 /* with more of them the times of this many are taken */
#define CABE_CHUNK_SPACED 32
#define CABE_CHUNK_PIECE_S 0.1
#define CABE_CHUNK_LONG_STEPS 10

/* What a token of a prompt adds to a step: base + depth x deeper, and for each prompt once: its depth x read. */
struct cabe_chunk_cost {
    double base, deeper, read; /* seconds; depths in CABE_CHUNK_DEPTH tokens */
    int64_t n_seen;
};
#define CABE_CHUNK_DEPTH 1024.0

struct cabe_chunk_depth { /* of the prompts in a step, in tokens that are computed already */
    double mean; /* by token of the step */
    double sum;  /* over prompts */
};

struct cabe_chunk {
    double alone_s[CABE_CHUNK_SEQS]; /* a step of so many sequences (from 1) and no prompts; 0: not known */
    int64_t n;                       /* tokens that are allowed now; 0: not known */
    int64_t n_bad;                   /* so many made a step too long lately; 0: none did */
    int n_long;                      /* steps that were too long, one after the other */
    int bad_for;                     /* steps with prompts until that is forgotten */
    int n_mixed;                     /* steps since the last one without prompts */
    int64_t n_piece;                 /* of the last piece */
    int n_since;                     /* steps with generating sequences since the last piece */
    int is_spaced;                   /* the last limit was that of pieces */
    double slowdown;                 /* of the last limit */
    struct cabe_chunk_cost beside, apart; /* while others generate; when nobody does */
};

/*
 * Tokens that prompts so deep may take beside `n_generating` > 0 sequences, at most n_max; 0 now and then, so that the
 * time of a step without prompts stays known, and between pieces.
 */
int64_t cabe_chunk_limit(struct cabe_chunk *chunk, int32_t n_generating, const struct cabe_chunk_depth *depth,
                         int64_t n_max, double slowdown);
/* Tokens of prompts so deep that take about `seconds` when nobody generates; n_max where that is not known. */
int64_t cabe_chunk_tokens(const struct cabe_chunk *chunk, double seconds, const struct cabe_chunk_depth *depth,
                          int64_t n_max);
/* A step has taken `seconds`; of no prompts, or of prompts that kept to the limit, or nobody generated. */
void cabe_chunk_learn(struct cabe_chunk *chunk, int32_t n_generating, int64_t n_prompt_tokens,
                      const struct cabe_chunk_depth *depth, double seconds);
/* Seconds of a token near the beginning of a prompt; of one of an answer, where as many as were seen, and at most
 * n_seqs, are written at a time. 0: not known. */
double cabe_chunk_prompt_s(const struct cabe_chunk *chunk);
double cabe_chunk_answer_s(const struct cabe_chunk *chunk, int32_t n_seqs);

#endif
