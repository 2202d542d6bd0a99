/*
 * Whose region of a team comes next; see threads.h. The part of threads.c that decides.
 *
 * Thread: any.
 */
#ifndef CABE_BASE_TURNS_H
#define CABE_BASE_TURNS_H

#include <pthread.h>

#include "base/class.h"
#include "base/threads.h"

struct cabe_turn_waiter; /* on the stack of who waits */

struct cabe_turn_order {
    pthread_mutex_t lock;
    int taken; /* a region runs, or the thread that may has been woken */
    enum cabe_class holder;
    uint64_t since_ns; /* the holder's region began */
    double now;        /* virtual time of the last turn that was given by weight */
    uint64_t paused_until_ns; /* not taken, and `expected` is waited for; 0: no pause */
    enum cabe_class expected;
    struct {
        struct cabe_turn_waiter *first, *last;
        double used, last_cost;    /* virtual time: ns against the weight; of the last region */
        uint64_t left_ns, gap_ns;  /* the last region ended; until the next is asked for, smoothed */
        struct cabe_turns counts;
    } by_class[CABE_N_CLASSES];
};

void cabe_turns_open(struct cabe_turn_order *turns);
void cabe_turns_close(struct cabe_turn_order *turns);
/* Returns how long it has waited. */
uint64_t cabe_turns_take(struct cabe_turn_order *turns, enum cabe_class class_);
void cabe_turns_give(struct cabe_turn_order *turns);

#endif
