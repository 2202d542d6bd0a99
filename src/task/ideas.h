/*
 * Repeated ideas: from near pairs of sentences to their kind and to groups.
 *
 * Groups grow from the strongest pairs. A pair of two free sentences founds one; a free sentence that is paired with
 * a founder joins, unless that pair is weaker than the founding one by more than CABE_IDEAS_SPREAD: so no chain of
 * small steps joins what is far apart, and something said twice word for word is not lost among what is merely like
 * it. Each sentence is in one group.
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
    uint32_t *of;            /* by sentence: its group plus 1; 0: free */
    uint32_t *founder;       /* by group: two sentences */
};

#define CABE_IDEAS_SPREAD 0.15f

/* Takes the arrays for `n_sentences` and at most `max_pairs` from the arena. */
void cabe_ideas_place(struct cabe_ideas *ideas, struct cabe_arena *arena, uint64_t n_sentences, uint64_t max_pairs);
/* From pairs with scores (n_pairs of them are set, echo is set) to groups; sorts both. */
void cabe_ideas_group(struct cabe_ideas *ideas, uint64_t n_sentences);
/* How the words of two texts are related. */
enum cabe_echo cabe_ideas_echo(const char *a, size_t a_bytes, const char *b, size_t b_bytes);

#endif
