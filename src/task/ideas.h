/*
 * Repeated ideas: from near pairs of sentences to their kind and to groups.
 *
 * A group is a centre and the sentences that are paired with it, so that no chain of small steps joins what is far
 * apart. The sentence with the strongest pairs becomes a centre first, and each sentence is in one group.
 *
 * All memory is one block of the caller's, measured and placed by one function. Deterministic.
 */
#ifndef CABE_TASK_IDEAS_H
#define CABE_TASK_IDEAS_H

#include "base/arena.h"
#include "index/index.h"
#include "task/analyze.h"

struct cabe_ideas {
    struct cabe_idea_pair *pair;
    uint64_t n_pairs, max_pairs;
    struct cabe_idea_group *group;
    uint64_t n_groups;
    uint32_t *member;
    /* working */
    struct cabe_pair *found; /* what the join gives */
    uint64_t *first;   /* by sentence: its pairs in `link`; [n + 1] */
    uint32_t *link;    /* pair numbers, two a pair */
    float *strength;   /* by sentence: sum of its pairs' scores */
    uint32_t *order;   /* sentences, strongest first */
    uint8_t *taken;
};

/* Takes the arrays for `n_sentences` and at most `max_pairs` from the arena. */
void cabe_ideas_place(struct cabe_ideas *ideas, struct cabe_arena *arena, uint64_t n_sentences, uint64_t max_pairs);
/* From pairs with scores (n_pairs of them are set, echo is set) to groups; sorts both. */
void cabe_ideas_group(struct cabe_ideas *ideas, uint64_t n_sentences);
/* How the words of two texts are related. */
enum cabe_echo cabe_ideas_echo(const char *a, size_t a_bytes, const char *b, size_t b_bytes);

#endif
