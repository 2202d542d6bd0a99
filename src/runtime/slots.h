/*
 * Slots for heavy work: so many at a time, others go past or wait.
 *
 * Who waits is served by class (runtime/queue.h), first in, first out within a class. A wait that takes too long ends
 * with an error that names who holds the slots and for how long.
 *
 * Limit:  CABE_SLOTS_MAX slots.
 * Owner:  who opens it closes it, when nobody holds or waits. Thread: every function from any thread.
 */
#ifndef CABE_RUNTIME_SLOTS_H
#define CABE_RUNTIME_SLOTS_H

#include <stdint.h>

#include "base/cancel.h"
#include "base/class.h"
#include "cabe/status.h"

struct cabe_slots;

#define CABE_SLOTS_MAX 64
#define CABE_SLOTS_TIMEOUT_S 30.0
#define CABE_SLOT_NAME_MAX 64

CABE_CHECKED enum cabe_status cabe_slots_open(struct cabe_slots **out, int n_slots, struct cabe_error *err);
void cabe_slots_close(struct cabe_slots *slots); /* NULL is fine */

/*
 * Waits for a slot; timeout_s 0: does not wait; below 0: for ever. `cancel` may be NULL. `*slot` is to be released.
 * CABE_ERR_BUSY: the time is over, the message names the holders; CABE_ERR_CANCELLED.
 */
CABE_CHECKED enum cabe_status cabe_slots_acquire(struct cabe_slots *slots, const char *name, enum cabe_class class_,
                                                 double timeout_s, const struct cabe_cancel *cancel, int *slot,
                                                 struct cabe_error *err);
void cabe_slots_release(struct cabe_slots *slots, int slot); /* below 0 is fine */

/* Acquires, calls `work`, releases whatever it returned; its status, or that of the wait. */
CABE_CHECKED enum cabe_status cabe_slots_run(struct cabe_slots *slots, const char *name, enum cabe_class class_,
                                             double timeout_s, const struct cabe_cancel *cancel,
                                             enum cabe_status (*work)(void *arg, struct cabe_error *err), void *arg,
                                             struct cabe_error *err);

struct cabe_slots_state {
    int n_slots, n_held;
    int n_waiting[CABE_N_CLASSES];
    double oldest_wait_s; /* 0: nobody waits */
    uint64_t n_acquired, n_timed_out, n_cancelled;
    struct {
        char name[CABE_SLOT_NAME_MAX];
        enum cabe_class class_;
        double held_s;
    } holder[CABE_SLOTS_MAX]; /* n_held of them, the longest first */
};
void cabe_slots_state(struct cabe_slots *slots, struct cabe_slots_state *state);

#endif
