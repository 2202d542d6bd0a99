/*
 * The adaptive delay: how long new work is held back while the machine is pressed by others.
 *
 * Pressed: CPU or memory above its high mark for as long as `enter_s`. Calm again: both below their low marks for
 * `leave_s`. In between and meanwhile nothing changes, so that a load that comes and goes does not make the state go
 * with it. While pressed and over a high mark the delay doubles each `step_s`, from the base to the longest; otherwise it
 * shrinks by a tenth each `calm_step_s`, from the longest to the base in ten seconds, and below the base it is 0.
 *
 * What is fed in leaves out what cabe does by plan (machine/pressure.h). Time is the caller's.
 *
 * Owner: a plain value. Thread: one at a time.
 */
#ifndef CABE_RUNTIME_PACE_H
#define CABE_RUNTIME_PACE_H

#include <stdint.h>

#include "base/class.h"

struct cabe_pace_config { /* 0: the default */
    double base_s, max_s;              /* 0.1, 5 */
    double cpu_high, cpu_low;          /* percent: 80, 70 */
    double memory_high, memory_low;    /* 85, 80 */
    double enter_s, leave_s;           /* 2, 15 */
    double step_s, calm_step_s;        /* 1, 0.25 */
};

struct cabe_pace {
    struct cabe_pace_config config;
    int pressed;
    double delay_s;
    double since_s;             /* the state began; seconds of the caller's clock */
    double over_s, under_s;     /* since when readings are over a high mark, under both low ones; NAN: not now */
    double step_at_s;           /* the delay changes next */
    uint64_t n_changes;         /* of the state */
};

void cabe_pace_init(struct cabe_pace *pace, const struct cabe_pace_config *config); /* NULL: the defaults */
/* A reading, about each second; below 0: not known, counts as none. Returns the delay. */
double cabe_pace_update(struct cabe_pace *pace, double now_s, double cpu_percent, double memory_percent);
/*
 * Of one class: CRITICAL is never held back, HIGH a quarter of the delay, NORMAL the delay, LOW twice as long.
 */
double cabe_pace_delay(const struct cabe_pace *pace, enum cabe_class class_);
/* Whether work of this class is to be refused: LOW when the delay has reached the longest. */
int cabe_pace_sheds(const struct cabe_pace *pace, enum cabe_class class_);

#endif
