/*
 * Passes over a row of logits: highest, masses, and the highest ones without sorting the rest. The parts of
 * sample.c.
 *
 * A candidate is one u64, descending keys being descending logits and, among equal ones, ascending ids.
 * Weights are exp((logit - max) / temperature). One path for all CPUs, in vectors of four: results depend on
 * the logits alone.
 *
 * Owner: nothing is kept. Thread: any, each with its own memory.
 */
#ifndef CABE_RUNTIME_LOGITS_H
#define CABE_RUNTIME_LOGITS_H

#include <stddef.h>
#include <stdint.h>

#define CABE_LOGITS_BLOCK 64

struct cabe_logits {
    const float *z; /* none is NaN or +infinity, once scanned */
    int32_t n;
    int32_t best; /* the lowest id of the highest logit */
    float max;
    float *block_max; /* of CABE_LOGITS_BLOCK logits each */
    int32_t n_blocks;
};

struct cabe_weigh {         /* what a candidate counts */
    float max, temperature; /* temperature 0: each counts 1 */
};

static inline int32_t cabe_logits_n_blocks(int32_t n)
{
    return n / CABE_LOGITS_BLOCK + (n % CABE_LOGITS_BLOCK != 0);
}

/* Fills all of `row` but z, n and block_max's address. Returns the id of the first logit that is not below
 * +infinity, or -1. n > 0. */
int32_t cabe_logits_scan(struct cabe_logits *row);
/* The sum of exp(z - max); max > -infinity. */
double cabe_logits_mass(const struct cabe_logits *row);
/* The weights of the logits of at least `floor` (finite), and how many these are. */
double cabe_logits_mass_from(const struct cabe_logits *row, float floor, struct cabe_weigh weigh, int32_t *n);

static inline int32_t cabe_candidate_id(uint64_t key)
{
    return (int32_t) ~(uint32_t)key;
}
float cabe_candidate_logit(uint64_t key);

/* All candidates with a logit of at least `floor` and above -infinity, by id; `keys` has room for row->n. */
size_t cabe_candidates_from(const struct cabe_logits *row, float floor, uint64_t *keys);
/* The k highest, lowest last; k >= 1, fewer where there are not so many. `keys` has room for row->n. */
size_t cabe_candidates_top(const struct cabe_logits *row, size_t k, uint64_t *keys);
double cabe_candidates_mass(const uint64_t *keys, size_t n, struct cabe_weigh weigh);
/*
 * Moves the highest candidates to the front until their mass is `target` (or, with `over`, above it), as few
 * as will do and at least one; the lowest of them is last. Returns how many; n where all together are less. n
 * > 0.
 */
size_t cabe_candidates_prefix(uint64_t *keys, size_t n, struct cabe_weigh weigh, double target, int over);
/* The same of all candidates with a logit of at least `floor` (finite); looks among the highest first. */
size_t cabe_candidates_best(const struct cabe_logits *row, float floor, struct cabe_weigh weigh, double target,
                            int over, uint64_t *keys);
void cabe_candidates_sort(uint64_t *keys, size_t n); /* for few */

#endif
