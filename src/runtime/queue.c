#include "runtime/queue.h"

#include <assert.h>

void cabe_queue_init(struct cabe_queue *queue, const struct cabe_queue_config *config)
{
    *queue = (struct cabe_queue){.config = *config};
    for (int c = 0; c < CABE_N_CLASSES; c++)
        if (queue->config.age_ns[c] == 0)
            queue->config.age_ns[c] = CABE_QUEUE_AGE_NS;
}

/* What a class may have waiting although the queue is full. */
static int64_t own_share(int64_t most, enum cabe_class class_)
{
    int64_t share = most / (class_ == CABE_CLASS_LOW ? 8 : 4);

    return share > 0 ? share : 1;
}

static double cost_of(const struct cabe_queue_item *item)
{
    return (double)item->tokens / cabe_class_weight(item->class_);
}

enum cabe_status cabe_queue_push(struct cabe_queue *q, struct cabe_queue_item *item, enum cabe_class class_,
                                 int64_t tokens, uint64_t now_ns, struct cabe_error *err)
{
    int64_t n_max = q->config.n_max, tokens_max = q->config.tokens_max;

    assert(!item->queue && (unsigned)class_ < CABE_N_CLASSES);
    if (tokens < 1)
        tokens = 1;
    if (n_max > 0 && q->n >= n_max && q->by_class[class_].n >= own_share(n_max, class_))
        return cabe_fail(err, CABE_ERR_LIMIT, "%lld requests wait, as many as may; %lld of them of class %s",
                         (long long)q->n, (long long)q->by_class[class_].n, cabe_class_name(class_));
    if (tokens_max > 0 && q->n > 0 && tokens > tokens_max - q->tokens &&
        tokens > own_share(tokens_max, class_) - q->by_class[class_].tokens)
        return cabe_fail(err, CABE_ERR_LIMIT, "%lld tokens wait, %lld of them of class %s; with %lld more it would be over %lld",
                         (long long)q->tokens, (long long)q->by_class[class_].tokens, cabe_class_name(class_),
                         (long long)tokens, (long long)tokens_max);
    if (!q->by_class[class_].first && q->by_class[class_].used < q->now)
        q->by_class[class_].used = q->now; /* who had nothing waiting has saved nothing up */
    *item = (struct cabe_queue_item){.queue = q,
                                     .previous = q->by_class[class_].last,
                                     .class_ = class_,
                                     .tokens = tokens,
                                     .entered_ns = now_ns};
    *(item->previous ? &item->previous->next : &q->by_class[class_].first) = item;
    q->by_class[class_].last = item;
    q->by_class[class_].n++;
    q->by_class[class_].tokens += tokens;
    q->n++;
    q->tokens += tokens;
    return CABE_OK;
}

void cabe_queue_remove(struct cabe_queue_item *item)
{
    struct cabe_queue *q = item->queue;

    if (!q)
        return;
    *(item->previous ? &item->previous->next : &q->by_class[item->class_].first) = item->next;
    *(item->next ? &item->next->previous : &q->by_class[item->class_].last) = item->previous;
    q->by_class[item->class_].n--;
    q->by_class[item->class_].tokens -= item->tokens;
    q->by_class[item->class_].work -= item->work;
    if (q->by_class[item->class_].n == 0)
        q->by_class[item->class_].work = 0; /* exactly */
    q->n--;
    q->tokens -= item->tokens;
    item->queue = NULL;
    item->next = item->previous = NULL;
}

void cabe_queue_weigh(struct cabe_queue_item *item, double work)
{
    if (item->queue)
        item->queue->by_class[item->class_].work += work - item->work;
    item->work = work;
}

void cabe_queue_take(struct cabe_queue_item *item)
{
    if (item->queue)
        item->queue->by_class[item->class_].used += cost_of(item);
    cabe_queue_remove(item);
}

void cabe_queue_put_back(struct cabe_queue *q, struct cabe_queue_item *item)
{
    int c = (int)item->class_;

    assert(!item->queue && item->tokens > 0);
    item->queue = q;
    item->previous = NULL;
    item->next = q->by_class[c].first;
    *(item->next ? &item->next->previous : &q->by_class[c].last) = item;
    q->by_class[c].first = item;
    q->by_class[c].n++;
    q->by_class[c].tokens += item->tokens;
    q->by_class[c].work += item->work;
    q->by_class[c].used -= cost_of(item); /* it has taken nothing */
    q->n++;
    q->tokens += item->tokens;
}

/* Where the class would stand in virtual time when the item is taken: the least goes first. */
static double end_of(const struct cabe_queue *q, const struct cabe_queue_item *item)
{
    return q->by_class[item->class_].used + cost_of(item);
}

static struct cabe_queue_item *aged(const struct cabe_queue *q, uint64_t now_ns)
{
    struct cabe_queue_item *oldest = NULL;

    for (int c = 0; c < CABE_N_CLASSES; c++) {
        struct cabe_queue_item *item = q->by_class[c].first;

        if (item && now_ns > item->entered_ns && now_ns - item->entered_ns >= q->config.age_ns[c] &&
            (!oldest || item->entered_ns < oldest->entered_ns))
            oldest = item;
    }
    return oldest;
}

static struct cabe_queue_item *choose(const struct cabe_queue *q, uint64_t now_ns, int *by_age)
{
    struct cabe_queue_item *old = q->since_aged + 1 >= CABE_QUEUE_AGED_EVERY ? aged(q, now_ns) : NULL;
    struct cabe_queue_item *best = NULL;

    *by_age = old != NULL;
    if (old)
        return old;
    for (int c = 0; c < CABE_N_CLASSES; c++)
        if (q->by_class[c].first && (!best || end_of(q, q->by_class[c].first) < end_of(q, best)))
            best = q->by_class[c].first;
    return best;
}

struct cabe_queue_item *cabe_queue_peek(const struct cabe_queue *q, uint64_t now_ns)
{
    int by_age;

    return choose(q, now_ns, &by_age);
}

struct cabe_queue_item *cabe_queue_pop(struct cabe_queue *q, uint64_t now_ns)
{
    int by_age;
    struct cabe_queue_item *item = choose(q, now_ns, &by_age);

    if (!item)
        return NULL;
    if (!by_age && q->by_class[item->class_].used > q->now) /* what goes by age says nothing of the others' shares */
        q->now = q->by_class[item->class_].used;
    q->by_class[item->class_].used += cost_of(item);
    if (by_age)
        q->since_aged = 0;
    else if (q->since_aged < CABE_QUEUE_AGED_EVERY)
        q->since_aged++;
    cabe_queue_remove(item);
    return item;
}

struct cabe_queue_item *cabe_queue_oldest(const struct cabe_queue *q, enum cabe_class class_)
{
    struct cabe_queue_item *oldest = NULL;

    for (int c = 0; c < CABE_N_CLASSES; c++) {
        struct cabe_queue_item *item = q->by_class[c].first;

        if (item && (class_ == CABE_N_CLASSES || (int)class_ == c) &&
            (!oldest || item->entered_ns < oldest->entered_ns))
            oldest = item;
    }
    return oldest;
}

int64_t cabe_queue_ahead(const struct cabe_queue *q, enum cabe_class class_)
{
    double own = (double)q->by_class[class_].tokens + 1, ahead = own - 1;

    for (int c = 0; c < CABE_N_CLASSES; c++) {
        double share = own * cabe_class_weight((enum cabe_class)c) / cabe_class_weight(class_);

        if (c != (int)class_)
            ahead += (double)q->by_class[c].tokens < share ? (double)q->by_class[c].tokens : share;
    }
    return (int64_t)ahead;
}
