/*
 * Measures how fast cabe's own code is on this machine: the rates that predicted times are made of (fit/seconds.h).
 *
 * Each is a graph or a function of the kind that a task runs, on weights larger than the caches, with all threads; the
 * median of several rounds. A machine's limits say what is possible, these what is done.
 *
 * Thread: one. Takes about 7 s and 270 MiB.
 */
#ifndef CABE_TASK_RATES_H
#define CABE_TASK_RATES_H

#include "base/cancel.h"
#include "cabe/machine.h"
#include "cabe/status.h"

struct cabe_rates_config {
    const char *folder; /* a file is made there and read, as streamed weights are; NULL: not measured */
    const struct cabe_cancel *cancel;
    const struct cabe_progress *progress;
    int quick; /* little data and few runs: that it works, not what it says; for tests */
};

/* Into machine->limits.rate. A folder that cannot be written to leaves its rates out. */
CABE_CHECKED enum cabe_status cabe_rates_measure(struct cabe_machine *machine, const struct cabe_rates_config *config,
                                                 struct cabe_error *err);

#endif
