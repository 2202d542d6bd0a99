#include "base/turns.h"

#include <assert.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define GAP_UNKNOWN UINT64_C(1000000000)
#define GAP_SLACK_NS UINT64_C(50000) /* a thread is that much late now and then */

enum { ASLEEP, LOOK, GO }; /* of a waiter's word: look whether the pause is over; it holds the turn */

struct cabe_turn_waiter {
    struct cabe_turn_waiter *next;
    enum cabe_class class_;
    uint64_t since_ns;
    atomic_uint word; /* written under the lock; release/acquire: GO hands over what the last holder wrote */
};

void cabe_turns_open(struct cabe_turn_order *turns)
{
    *turns = (struct cabe_turn_order){0};
    pthread_mutex_init(&turns->lock, NULL);
    for (int c = 0; c < CABE_N_CLASSES; c++)
        turns->by_class[c].gap_ns = GAP_UNKNOWN;
}

void cabe_turns_close(struct cabe_turn_order *turns)
{
    assert(!turns->taken);
    pthread_mutex_destroy(&turns->lock);
}

/* ---- all under the lock ---- */

static struct cabe_turn_waiter *aged(const struct cabe_turn_order *t, uint64_t now_ns)
{
    struct cabe_turn_waiter *oldest = NULL;

    for (int c = 0; c < CABE_N_CLASSES; c++) {
        struct cabe_turn_waiter *w = t->by_class[c].first;

        if (w && now_ns - w->since_ns >= CABE_TURN_AGE_NS && (!oldest || w->since_ns < oldest->since_ns))
            oldest = w;
    }
    return oldest;
}

/* Where the class would stand in virtual time after a region as long as its last one: the least goes first. */
static double end_of(const struct cabe_turn_order *t, int class_)
{
    return t->by_class[class_].used + t->by_class[class_].last_cost;
}

/* The class whose turn it is by weight; CABE_N_CLASSES: nobody waits. */
static int by_weight(const struct cabe_turn_order *t)
{
    int best = CABE_N_CLASSES;

    for (int c = 0; c < CABE_N_CLASSES; c++)
        if (t->by_class[c].first && (best == CABE_N_CLASSES || end_of(t, c) < end_of(t, best)))
            best = c;
    return best;
}

/* The team is the class's from now on. */
static void begin(struct cabe_turn_order *t, enum cabe_class class_, uint64_t now_ns, int by_age)
{
    t->taken = 1;
    t->paused_until_ns = 0;
    t->holder = class_;
    t->since_ns = now_ns;
    if (!by_age && t->by_class[class_].used > t->now) /* an aged turn says nothing of the others' shares */
        t->now = t->by_class[class_].used;
    t->by_class[class_].counts.n_turns++;
}

static void wake(struct cabe_turn_waiter *w, unsigned word)
{
    atomic_store_explicit(&w->word, word, memory_order_release);
    syscall(SYS_futex, &w->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void unlink_first(struct cabe_turn_order *t, int class_)
{
    struct cabe_turn_waiter *w = t->by_class[class_].first;

    t->by_class[class_].first = w->next;
    if (!w->next)
        t->by_class[class_].last = NULL;
    t->by_class[class_].counts.n_waiting--;
}

/* To whom it is due, if anybody waits. */
static void hand_over(struct cabe_turn_order *t, uint64_t now_ns)
{
    struct cabe_turn_waiter *old = aged(t, now_ns);
    int class_ = old ? (int)old->class_ : by_weight(t);
    struct cabe_turn_waiter *w;
    struct cabe_turns *counts;
    uint64_t waited_ns;

    if (class_ == CABE_N_CLASSES)
        return;
    w = t->by_class[class_].first;
    counts = &t->by_class[class_].counts;
    waited_ns = now_ns - w->since_ns;
    unlink_first(t, class_);
    counts->wait_ns += waited_ns;
    counts->wait_max_ns = waited_ns > counts->wait_max_ns ? waited_ns : counts->wait_max_ns;
    begin(t, (enum cabe_class)class_, now_ns, old != NULL);
    wake(w, GO);
}

/*
 * Whether class `left`, which has just given the team back, is waited for although another class wants it: it usually
 * comes back soon, and the other has had more than its share.
 */
static int is_worth_a_pause(const struct cabe_turn_order *t, int left, int next, uint64_t now_ns)
{
    return next != CABE_N_CLASSES && next != left && end_of(t, left) < end_of(t, next) &&
           t->by_class[left].gap_ns <= CABE_TURN_PAUSE_NS / 2 && !aged(t, now_ns);
}

static void count_gap(struct cabe_turn_order *t, int class_, uint64_t now_ns)
{
    uint64_t *gap_ns = &t->by_class[class_].gap_ns, left_ns = t->by_class[class_].left_ns, new_ns;

    if (left_ns == 0)
        return;
    new_ns = now_ns - left_ns < 10 * CABE_TURN_PAUSE_NS ? now_ns - left_ns : 10 * CABE_TURN_PAUSE_NS;
    *gap_ns = *gap_ns == GAP_UNKNOWN ? new_ns : (3 * *gap_ns + new_ns) / 4;
    t->by_class[class_].left_ns = 0;
}

/* ---- the two ends of a region ---- */

static void sleep_on(struct cabe_turn_waiter *w, unsigned word, uint64_t until_ns)
{
    uint64_t now_ns = cabe_clock_ns(), left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
    struct timespec left = {.tv_sec = (time_t)(left_ns / 1000000000), .tv_nsec = (long)(left_ns % 1000000000)};

    if (until_ns == 0 || left_ns > 0)
        syscall(SYS_futex, &w->word, FUTEX_WAIT_PRIVATE, word, until_ns ? &left : NULL, NULL, 0);
}

static void wait_for_turn(struct cabe_turn_order *t, struct cabe_turn_waiter *w)
{
    unsigned word;

    while ((word = atomic_load_explicit(&w->word, memory_order_acquire)) != GO) {
        uint64_t until_ns = 0, now_ns;

        if (word == LOOK) {
            pthread_mutex_lock(&t->lock);
            now_ns = cabe_clock_ns();
            until_ns = t->paused_until_ns;
            if (until_ns > 0 && now_ns >= until_ns) {
                t->paused_until_ns = 0;
                hand_over(t, now_ns);
            } else if (until_ns == 0 && atomic_load_explicit(&w->word, memory_order_relaxed) == LOOK) {
                atomic_store_explicit(&w->word, ASLEEP, memory_order_relaxed); /* the pause ended otherwise */
                word = ASLEEP;
            }
            pthread_mutex_unlock(&t->lock);
            if (until_ns > 0 && now_ns >= until_ns)
                continue;
        }
        sleep_on(w, word, until_ns);
    }
}

uint64_t cabe_turns_take(struct cabe_turn_order *t, enum cabe_class class_)
{
    struct cabe_turn_waiter w = {.class_ = class_};
    uint64_t now_ns;
    int can_go;

    pthread_mutex_lock(&t->lock);
    now_ns = cabe_clock_ns(); /* under the lock times only grow */
    count_gap(t, (int)class_, now_ns);
    if (!t->by_class[class_].first && t->by_class[class_].used < t->now)
        t->by_class[class_].used = t->now; /* who was away has saved nothing up */
    /* In a pause: who is waited for, or who has had less. */
    can_go = !t->taken && (!t->paused_until_ns || class_ == t->expected ||
                           (end_of(t, (int)class_) <= end_of(t, (int)t->expected) && !t->by_class[class_].first));
    if (can_go) {
        begin(t, class_, now_ns, 0);
        pthread_mutex_unlock(&t->lock);
        return 0;
    }
    w.since_ns = now_ns;
    *(t->by_class[class_].last ? &t->by_class[class_].last->next : &t->by_class[class_].first) = &w;
    t->by_class[class_].last = &w;
    t->by_class[class_].counts.n_waits++;
    t->by_class[class_].counts.n_waiting++;
    pthread_mutex_unlock(&t->lock);
    wait_for_turn(t, &w);
    return cabe_clock_ns() - w.since_ns;
}

void cabe_turns_give(struct cabe_turn_order *t)
{
    uint64_t now_ns, took_ns;
    int class_, next;

    pthread_mutex_lock(&t->lock);
    now_ns = cabe_clock_ns();
    class_ = (int)t->holder;
    took_ns = now_ns - t->since_ns;
    t->by_class[class_].last_cost = (double)took_ns / cabe_class_weight((enum cabe_class)class_);
    t->by_class[class_].used += t->by_class[class_].last_cost;
    t->by_class[class_].counts.used_ns += took_ns;
    t->by_class[class_].left_ns = now_ns;
    t->taken = 0;
    next = by_weight(t);
    if (is_worth_a_pause(t, class_, next, now_ns)) {
        uint64_t pause_ns = 2 * t->by_class[class_].gap_ns + GAP_SLACK_NS;

        t->expected = (enum cabe_class)class_;
        t->paused_until_ns = now_ns + (pause_ns < CABE_TURN_PAUSE_NS ? pause_ns : CABE_TURN_PAUSE_NS);
        wake(t->by_class[next].first, LOOK);
    } else {
        hand_over(t, now_ns);
    }
    pthread_mutex_unlock(&t->lock);
}
