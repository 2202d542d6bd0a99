#include "runtime/slots.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "runtime/queue.h"

#define CANCEL_LOOK_NS UINT64_C(50000000)

struct waiter { /* on the stack of who waits */
    struct cabe_queue_item item;
    pthread_cond_t granted;
    const char *name;
    int slot; /* -1: none yet */
};

struct cabe_slots {
    pthread_mutex_t lock;
    int n_slots, n_held;
    struct cabe_queue queue;
    uint64_t n_acquired, n_timed_out, n_cancelled;
    struct {
        int is_held;
        char name[CABE_SLOT_NAME_MAX];
        enum cabe_class class_;
        uint64_t since_ns;
    } slot[CABE_SLOTS_MAX];
};

enum cabe_status cabe_slots_open(struct cabe_slots **out, int n_slots, struct cabe_error *err)
{
    struct cabe_slots *slots;

    *out = NULL;
    if (n_slots < 1 || n_slots > CABE_SLOTS_MAX)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%d slots for heavy work; wanted 1 to %d", n_slots, CABE_SLOTS_MAX);
    slots = cabe_calloc(1, sizeof *slots);
    if (!slots)
        return cabe_fail(err, CABE_ERR_OOM, "slots for heavy work: %zu bytes", sizeof *slots);
    slots->n_slots = n_slots;
    cabe_queue_init(&slots->queue, &(struct cabe_queue_config){0});
    pthread_mutex_init(&slots->lock, NULL);
    *out = slots;
    return CABE_OK;
}

void cabe_slots_close(struct cabe_slots *slots)
{
    if (!slots)
        return;
    assert(slots->n_held == 0 && slots->queue.n == 0);
    pthread_mutex_destroy(&slots->lock);
    cabe_free(slots);
}

/* Under the lock; there is a free one. */
static int take(struct cabe_slots *slots, const char *name, enum cabe_class class_)
{
    int s = 0;

    while (slots->slot[s].is_held)
        s++;
    assert(s < slots->n_slots);
    slots->slot[s].is_held = 1;
    slots->slot[s].class_ = class_;
    slots->slot[s].since_ns = cabe_clock_ns();
    memset(slots->slot[s].name, 0, sizeof slots->slot[s].name);
    memcpy(slots->slot[s].name, name, cabe_utf8_cut(name, sizeof slots->slot[s].name - 1));
    slots->n_held++;
    slots->n_acquired++;
    return s;
}

/* "a 3.2 s, b 0.1 s": the longest first, as far as there is room. */
static void name_holders(struct cabe_slots *slots, char *out, size_t n)
{
    uint64_t now_ns = cabe_clock_ns();
    int named[CABE_SLOTS_MAX] = {0};
    size_t used = 0;

    out[0] = 0;
    for (int i = 0; i < slots->n_held && used < n; i++) {
        int longest = -1, wrote;

        for (int s = 0; s < slots->n_slots; s++)
            if (slots->slot[s].is_held && !named[s] &&
                (longest < 0 || slots->slot[s].since_ns < slots->slot[longest].since_ns))
                longest = s;
        named[longest] = 1;
        wrote = snprintf(out + used, n - used, "%s%s %.1f s", i ? ", " : "", slots->slot[longest].name,
                         (double)(now_ns - slots->slot[longest].since_ns) / 1e9);
        used += wrote > 0 ? (size_t)wrote : 0;
    }
}

static enum cabe_status refuse(struct cabe_slots *slots, const char *name, double timeout_s, struct cabe_error *err)
{
    char holders[CABE_ERROR_TEXT_MAX / 2];

    slots->n_timed_out++;
    name_holders(slots, holders, sizeof holders);
    return cabe_fail(err, CABE_ERR_BUSY, "%s: no slot for heavy work within %.1f s; held by %s", name,
                     timeout_s > 0 ? timeout_s : 0, holders);
}

static void sleep_until(struct cabe_slots *slots, struct waiter *w, uint64_t until_ns)
{
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000), .tv_nsec = (long)(until_ns % 1000000000)};

    if (until_ns == UINT64_MAX)
        pthread_cond_wait(&w->granted, &slots->lock);
    else
        pthread_cond_timedwait(&w->granted, &slots->lock, &until);
}

/* Under the lock. Who gives a slot back gives it to the next waiter, so nobody overtakes. */
static enum cabe_status wait_for_slot(struct cabe_slots *slots, struct waiter *w, double timeout_s,
                                      const struct cabe_cancel *cancel, struct cabe_error *err)
{
    uint64_t begin_ns = cabe_clock_ns(), end_ns = UINT64_MAX;
    enum cabe_status status = CABE_OK;

    if (timeout_s >= 0 && timeout_s < 1e9)
        end_ns = begin_ns + (uint64_t)(timeout_s * 1e9);
    while (w->slot < 0 && status == CABE_OK) {
        uint64_t now_ns = cabe_clock_ns(), look_ns = cancel ? now_ns + CANCEL_LOOK_NS : UINT64_MAX;

        if (cabe_cancelled(cancel)) {
            slots->n_cancelled++;
            status = cabe_fail(err, CABE_ERR_CANCELLED, "%s: cancelled while it waited for a slot", w->name);
        } else if (now_ns >= end_ns) {
            status = refuse(slots, w->name, timeout_s, err);
        } else {
            sleep_until(slots, w, look_ns < end_ns ? look_ns : end_ns);
        }
    }
    cabe_queue_remove(&w->item);
    return status;
}

static void open_waiter(struct waiter *w, const char *name)
{
    pthread_condattr_t attributes;

    *w = (struct waiter){.name = name, .slot = -1};
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&w->granted, &attributes);
    pthread_condattr_destroy(&attributes);
}

enum cabe_status cabe_slots_acquire(struct cabe_slots *slots, const char *name, enum cabe_class class_,
                                    double timeout_s, const struct cabe_cancel *cancel, int *slot,
                                    struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;
    struct waiter w;

    *slot = -1;
    pthread_mutex_lock(&slots->lock);
    if (slots->n_held < slots->n_slots) { /* then nobody waits */
        *slot = take(slots, name, class_);
    } else if (timeout_s == 0) {
        status = refuse(slots, name, timeout_s, err);
    } else {
        open_waiter(&w, name);
        status = cabe_queue_push(&slots->queue, &w.item, class_, 1, cabe_clock_ns(), err);
        if (status == CABE_OK)
            status = wait_for_slot(slots, &w, timeout_s, cancel, err);
        *slot = w.slot;
        pthread_cond_destroy(&w.granted);
    }
    pthread_mutex_unlock(&slots->lock);
    return status;
}

void cabe_slots_release(struct cabe_slots *slots, int slot)
{
    struct cabe_queue_item *next;
    struct waiter *w;

    if (slot < 0)
        return;
    pthread_mutex_lock(&slots->lock);
    assert(slot < slots->n_slots && slots->slot[slot].is_held);
    slots->slot[slot].is_held = 0;
    slots->n_held--;
    next = cabe_queue_pop(&slots->queue, cabe_clock_ns());
    if (next) {
        w = CABE_QUEUE_OF(next, struct waiter, item);
        w->slot = take(slots, w->name, next->class_);
        pthread_cond_signal(&w->granted);
    }
    pthread_mutex_unlock(&slots->lock);
}

enum cabe_status cabe_slots_run(struct cabe_slots *slots, const char *name, enum cabe_class class_, double timeout_s,
                                const struct cabe_cancel *cancel,
                                enum cabe_status (*work)(void *arg, struct cabe_error *err), void *arg,
                                struct cabe_error *err)
{
    int slot;
    enum cabe_status status = cabe_slots_acquire(slots, name, class_, timeout_s, cancel, &slot, err);

    if (status != CABE_OK)
        return status;
    status = work(arg, err);
    cabe_slots_release(slots, slot);
    return status;
}

void cabe_slots_state(struct cabe_slots *slots, struct cabe_slots_state *state)
{
    const struct cabe_queue_item *oldest;
    uint64_t now_ns;
    int order[CABE_SLOTS_MAX], n = 0;

    *state = (struct cabe_slots_state){0};
    pthread_mutex_lock(&slots->lock);
    now_ns = cabe_clock_ns();
    state->n_slots = slots->n_slots;
    state->n_held = slots->n_held;
    state->n_acquired = slots->n_acquired;
    state->n_timed_out = slots->n_timed_out;
    state->n_cancelled = slots->n_cancelled;
    for (int c = 0; c < CABE_N_CLASSES; c++)
        state->n_waiting[c] = (int)slots->queue.by_class[c].n;
    oldest = cabe_queue_oldest(&slots->queue, CABE_N_CLASSES);
    if (oldest)
        state->oldest_wait_s = (double)(now_ns - oldest->entered_ns) / 1e9;
    for (int s = 0; s < slots->n_slots; s++) {
        int at = n;

        if (!slots->slot[s].is_held)
            continue;
        for (; at > 0 && slots->slot[order[at - 1]].since_ns > slots->slot[s].since_ns; at--)
            order[at] = order[at - 1];
        order[at] = s;
        n++;
    }
    for (int i = 0; i < n; i++) {
        memcpy(state->holder[i].name, slots->slot[order[i]].name, sizeof state->holder[i].name);
        state->holder[i].class_ = slots->slot[order[i]].class_;
        state->holder[i].held_s = (double)(now_ns - slots->slot[order[i]].since_ns) / 1e9;
    }
    pthread_mutex_unlock(&slots->lock);
}
