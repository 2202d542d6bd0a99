/* The simplest form of what runtime/ will have; weak, so that it gives way. */
#include <string.h>

#include "runtime/engine.h"
#include "runtime/pace.h"
#include "runtime/pool.h"
#include "runtime/queue.h"

#define WEAK __attribute__((weak))

WEAK void cabe_queue_init(struct cabe_queue *q, const struct cabe_queue_config *config)
{
    memset(q, 0, sizeof *q);
    q->config = *config;
}

WEAK enum cabe_status cabe_queue_push(struct cabe_queue *q, struct cabe_queue_item *item, enum cabe_class class_,
                                      int64_t tokens, uint64_t now_ns, struct cabe_error *err)
{
    if (q->n >= q->config.n_max || (q->n > 0 && q->tokens + tokens > q->config.tokens_max))
        return cabe_fail(err, CABE_ERR_LIMIT, "%lld requests with %lld tokens wait", (long long)q->n,
                         (long long)q->tokens);
    item->queue = q;
    item->class_ = class_;
    item->tokens = tokens;
    item->entered_ns = now_ns;
    item->next = NULL;
    item->previous = q->by_class[class_].last;
    *(item->previous ? &item->previous->next : &q->by_class[class_].first) = item;
    q->by_class[class_].last = item;
    q->n++;
    q->tokens += tokens;
    return CABE_OK;
}

WEAK struct cabe_queue_item *cabe_queue_peek(const struct cabe_queue *q, uint64_t now_ns)
{
    (void)now_ns;
    for (int c = 0; c < CABE_N_CLASSES; c++)
        if (q->by_class[c].first)
            return q->by_class[c].first;
    return NULL;
}

WEAK void cabe_queue_remove(struct cabe_queue_item *item)
{
    struct cabe_queue *q = item->queue;

    if (!q)
        return;
    *(item->previous ? &item->previous->next : &q->by_class[item->class_].first) = item->next;
    *(item->next ? &item->next->previous : &q->by_class[item->class_].last) = item->previous;
    q->n--;
    q->tokens -= item->tokens;
    item->queue = NULL;
}

WEAK struct cabe_queue_item *cabe_queue_pop(struct cabe_queue *q, uint64_t now_ns)
{
    struct cabe_queue_item *item = cabe_queue_peek(q, now_ns);

    if (item)
        cabe_queue_remove(item);
    return item;
}

WEAK struct cabe_queue_item *cabe_queue_oldest(const struct cabe_queue *q, enum cabe_class class_)
{
    return q->by_class[class_].first;
}

WEAK void cabe_pace_init(struct cabe_pace *pace, const struct cabe_pace_config *config)
{
    (void)config;
    memset(pace, 0, sizeof *pace);
}

WEAK double cabe_pace_update(struct cabe_pace *pace, double now_s, double cpu_percent, double memory_percent)
{
    (void)pace, (void)now_s, (void)cpu_percent, (void)memory_percent;
    return 0;
}

WEAK int cabe_pace_sheds(const struct cabe_pace *pace, enum cabe_class class_)
{
    (void)pace, (void)class_;
    return 0;
}

WEAK double cabe_pace_delay(const struct cabe_pace *pace, enum cabe_class class_)
{
    (void)pace, (void)class_;
    return 0;
}

WEAK void cabe_pool_configure(struct cabe_pool *pool, const struct cabe_pool_config *config)
{
    (void)pool, (void)config;
}

WEAK int cabe_pool_should_yield(struct cabe_pool *pool, const struct cabe_pool_use *use)
{
    (void)pool, (void)use;
    return 0;
}

WEAK enum cabe_status cabe_pool_pin(struct cabe_pool *pool, const char *key, int pinned, struct cabe_error *err)
{
    (void)pool, (void)key, (void)pinned, (void)err;
    return CABE_OK;
}

WEAK enum cabe_status cabe_pool_keep_alive(struct cabe_pool *pool, const char *key, uint64_t keep_alive_ns,
                                           struct cabe_error *err)
{
    (void)err;
    if (keep_alive_ns == 0)
        (void)!cabe_pool_unload(pool, key, NULL);
    return CABE_OK;
}

WEAK int cabe_pool_tick(struct cabe_pool *pool)
{
    (void)pool;
    return 0;
}

WEAK int cabe_engine_has_room(const struct cabe_engine *engine, enum cabe_class class_)
{
    (void)engine, (void)class_;
    return 1;
}

WEAK void cabe_kv_salt(const char *text, size_t n, uint8_t salt[16])
{
    memset(salt, 0, 16);
    memcpy(salt, text, n < 16 ? n : 16);
}
