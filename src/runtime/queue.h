/*
 * A bounded queue by class: what waits, in the order in which it should be taken.
 *
 * Among classes: weighted fair by tokens, so that under load each gets its weight's share of what is taken. Within a
 * class: first in, first out. Ageing is a tier apart, so that a class keeps its meaning: when something has waited longer
 * than its class's bound, every CABE_QUEUE_AGED_EVERY-th pop takes the oldest such item, the others go on by weight. So
 * an item is taken after at most (its bound) and then CABE_QUEUE_AGED_EVERY pops for each item that was aged before it.
 *
 * Limits: n_max items and tokens_max tokens in all. A class may go past them as long as a quarter of them (LOW: an eighth)
 * is not its own, so that a queue full of others' work shuts nobody out: at most 15/8 of the limits. An item larger than
 * the limit is taken into an empty queue.
 *
 * Items are the caller's, with a struct cabe_queue_item inside; nothing is allocated. Time is the caller's.
 *
 * Owner: a plain value. Thread: one at a time (the caller's lock).
 */
#ifndef CABE_RUNTIME_QUEUE_H
#define CABE_RUNTIME_QUEUE_H

#include <stddef.h>
#include <stdint.h>

#include "base/class.h"
#include "cabe/status.h"

#define CABE_QUEUE_AGED_EVERY 8

struct cabe_queue;

struct cabe_queue_item { /* zeroed before its first push */
    struct cabe_queue *queue; /* where it waits; NULL: nowhere */
    struct cabe_queue_item *next, *previous;
    enum cabe_class class_;
    int64_t tokens;      /* at least 1 are counted */
    double work;         /* for forecasts, as the caller counts it; not a limit */
    uint64_t entered_ns; /* first push; it keeps its age when it is put back */
};

struct cabe_queue_config {
    int64_t n_max, tokens_max;          /* 0: without limit */
    uint64_t age_ns[CABE_N_CLASSES];    /* from when on an item is aged; 0: CABE_QUEUE_AGE_NS */
};
#define CABE_QUEUE_AGE_NS UINT64_C(15000000000)

struct cabe_queue {
    struct cabe_queue_config config;
    struct {
        struct cabe_queue_item *first, *last;
        int64_t n, tokens;
        double work;
        double used; /* virtual time: tokens taken against the weight */
    } by_class[CABE_N_CLASSES];
    int64_t n, tokens;
    double now;          /* virtual time of what was taken last */
    unsigned since_aged; /* pops since one of the aged tier */
};

void cabe_queue_init(struct cabe_queue *queue, const struct cabe_queue_config *config);

/* CABE_ERR_LIMIT: the queue is full for this class; the message says of what. */
CABE_CHECKED enum cabe_status cabe_queue_push(struct cabe_queue *queue, struct cabe_queue_item *item, enum cabe_class class_,
                                              int64_t tokens, uint64_t now_ns, struct cabe_error *err);
/* What was popped and could not be served: back to the head of its class, never refused, with its age. */
void cabe_queue_put_back(struct cabe_queue *queue, struct cabe_queue_item *item);
/* What pop() would take; NULL when nothing waits. */
struct cabe_queue_item *cabe_queue_peek(const struct cabe_queue *queue, uint64_t now_ns);
struct cabe_queue_item *cabe_queue_pop(struct cabe_queue *queue, uint64_t now_ns);
/* One that is not its turn, before the others: counted as taken. */
void cabe_queue_take(struct cabe_queue_item *item);
/* Sets the work of one that waits. */
void cabe_queue_weigh(struct cabe_queue_item *item, double work);
void cabe_queue_remove(struct cabe_queue_item *item); /* from wherever it waits; nowhere is fine */

/* The oldest of a class (CABE_N_CLASSES: of all), NULL when nothing waits. The next in its class: item->next. */
struct cabe_queue_item *cabe_queue_oldest(const struct cabe_queue *queue, enum cabe_class class_);
/* What must be taken, by weight and without ageing, before an item that is pushed now, in tokens. */
int64_t cabe_queue_ahead(const struct cabe_queue *queue, enum cabe_class class_);

#define CABE_QUEUE_OF(item, type, member) ((type *)(void *)((char *)(item) - offsetof(type, member)))

#endif
