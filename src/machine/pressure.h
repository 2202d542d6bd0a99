/*
 * How pressed the machine is, by what cabe did not plan itself.
 *
 * cabe's own threads and memory are no pressure: they are what the plan asked for. What others use is, and so
 * is what cabe uses beyond its plan, and what the kernel cannot take back. Mapped weights are page cache,
 * which available memory already leaves out.
 *
 * Owner: the meter is a plain value, zeroed at first. Thread: one at a time per meter.
 */
#ifndef CABE_MACHINE_PRESSURE_H
#define CABE_MACHINE_PRESSURE_H

#include <stdint.h>

#include "cabe/machine.h"

#define CABE_PRESSURE_CPU_PERCENT 80.0 /* defaults of struct cabe_pressure_config */
#define CABE_PRESSURE_MEMORY_PERCENT 85.0
#define CABE_PRESSURE_STALL_PERCENT 20.0

struct cabe_pressure_config {
    const char *root;                                  /* as in struct cabe_probe_config */
    double cpu_percent, memory_percent, stall_percent; /* where pressure begins; 0: the default */
};

struct cabe_planned { /* what cabe holds by plan at the moment */
    uint64_t bytes;   /* reserved on the host */
    int threads;      /* computing */
};

struct cabe_pressure_meter {   /* counters of the reading before */
    uint64_t busy, total, own; /* ticks */
    int ready;
};

struct cabe_pressure {
    double
        cpu_percent; /* of all CPUs, others' use since the reading before; -1: first reading or not known */
    double memory_percent;  /* of the limit, used and not planned */
    double cpu_raw_percent; /* the same with cabe's own use in it; -1: as above */
    double memory_raw_percent;
    double psi_some_avg10, psi_full_avg10; /* memory stalls, percent of time; -1: not known */
    uint64_t available_bytes;
    uint64_t limit_bytes;
    int cpu_high, memory_high; /* over the thresholds */
};

/* Never fails: what cannot be read is not pressure. `config` may be NULL. Allocates nothing. */
void cabe_pressure_read(struct cabe_pressure *out, struct cabe_pressure_meter *meter,
                        const struct cabe_planned *planned, const struct cabe_pressure_config *config);

#endif
