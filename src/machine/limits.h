/*
 * What this machine can do at best: memory read and arithmetic, measured once and kept, or estimated.
 *
 * Kept in <data folder>/limits/<cpu model>-<cores>cpu-<level>.json: a CPU of the same model with as many
 * cores and the same instructions reads it back; another one does not.
 */
#ifndef CABE_MACHINE_LIMITS_H
#define CABE_MACHINE_LIMITS_H

#include "base/cancel.h"
#include "base/home.h"
#include "cabe/machine.h"

/* Replaces machine->limits by those of `path` (NULL: the file of this CPU); 0 where there are none that fit.
 */
int cabe_limits_load(struct cabe_machine *machine, const char *path);

/* Writes machine->limits, beside and renamed. NULL: the file of this CPU. `used` (may be NULL) gets the path.
 */
CABE_CHECKED enum cabe_status cabe_limits_save(const struct cabe_machine *machine, const char *path,
                                               char used[CABE_HOME_PATH_MAX], struct cabe_error *err);

struct cabe_measure_config {
    double seconds;      /* for all of it; 0: 4 */
    uint64_t read_bytes; /* of the buffer that is read; 0: 8 times the L3 caches, at least 256 MB */
    const struct cabe_cancel *cancel;
    const struct cabe_progress *progress;
};

/*
 * Measures into machine->limits with machine->cpu.n_usable threads, every way in turn, several times;
 * the best of each, for what disturbs only takes away. Takes a quarter of the available memory at most. On failure machine->limits is as it was.
 */
CABE_CHECKED enum cabe_status cabe_limits_measure(struct cabe_machine *machine,
                                                  const struct cabe_measure_config *config,
                                                  struct cabe_error *err);

/*
 * How fast memory is read at this moment, by the threads of `team`: the limit beside which something else is measured in
 * the same run, for a machine that is shared reads at another rate from one minute to the next.
 */
struct cabe_read_meter;
struct cabe_team;

/* Maps `bytes` (rounded down; past the caches, or it measures those). Owner: who opens; `team` outlives it. */
CABE_CHECKED enum cabe_status cabe_read_meter_open(struct cabe_read_meter **out, const struct cabe_machine *machine,
                                                   struct cabe_team *team, uint64_t bytes, struct cabe_error *err);
void cabe_read_meter_close(struct cabe_read_meter *meter); /* NULL is fine */
/* Bytes a second over about `seconds`, in one stretch. Thread: the one that runs the team. */
double cabe_read_meter_bytes_s(struct cabe_read_meter *meter, double seconds);

#endif
