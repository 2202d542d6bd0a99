/* The k best hits seen: a heap with the worst on top. The order is total, so what remains does not depend on
 * the order of arrival. */
#ifndef CABE_INDEX_BEST_H
#define CABE_INDEX_BEST_H

#include "index/index.h"

static inline int cabe_hit_worse(struct cabe_hit a, struct cabe_hit b)
{
    return a.score < b.score || (a.score == b.score && a.row > b.row);
}

static inline void cabe_best_sift(struct cabe_hit *heap, int64_t n, int64_t at, struct cabe_hit hit)
{
    for (;;) {
        int64_t child = 2 * at + 1;

        if (child >= n)
            break;
        if (child + 1 < n && cabe_hit_worse(heap[child + 1], heap[child]))
            child++;
        if (!cabe_hit_worse(heap[child], hit))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = hit;
}

/* Offers a hit to a heap of n; returns the new n, at most k. */
static inline int64_t cabe_best_offer(struct cabe_hit *heap, int64_t n, int64_t k, struct cabe_hit hit)
{
    int64_t at = n;

    if (n == k) {
        if (cabe_hit_worse(heap[0], hit))
            cabe_best_sift(heap, n, 0, hit);
        return n;
    }
    while (at > 0 && cabe_hit_worse(hit, heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = hit;
    return n + 1;
}

/* Turns the heap into a list, best first. */
static inline void cabe_best_sort(struct cabe_hit *heap, int64_t n)
{
    while (n > 1) {
        struct cabe_hit worst = heap[0], last = heap[--n];

        cabe_best_sift(heap, n, 0, last);
        heap[n] = worst;
    }
}

#endif
