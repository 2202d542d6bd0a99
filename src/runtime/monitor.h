/*
 * The phase monitor: what each phase of the work did to memory, beside what the plan said it would do.
 *
 *     cabe_monitor_begin(monitor, "model_load", plan_peak_bytes, &phase);
 *     ...
 *     cabe_monitor_end(monitor, phase);
 *
 * Peak: the process's high-water mark is reset when a phase begins (where the system permits it; otherwise a
 * thread samples every SAMPLE_MS and the phase says so). Phases may nest and overlap, those of several monitors
 * too: each has its own peak, which is that of the process while it lasted, whoever took the memory.
 * Device memory and the purposes are the ledger's; the monitor is the one that starts its marks anew
 * (cabe_ledger_read_and_mark).
 *
 * A phase past a threshold is warned about in the log and in the report. Events in the log, with GiB as
 * psutil counts them: memory_usage_before_<phase> {rss_gb, available_gb}, memory_usage_after_<phase> {and
 * peak_gb, delta_gb, seconds}, memory_warning {phase, reason, bytes, limit_bytes}, ready {seconds}.
 *
 * Limits: the last CABE_MONITOR_PHASES phases are kept; CABE_MONITOR_OPEN may be open at a time.
 * Thread: every function from any thread.
 */
#ifndef CABE_RUNTIME_MONITOR_H
#define CABE_RUNTIME_MONITOR_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/log.h"
#include "cabe/ledger.h"
#include "cabe/status.h"

#define CABE_MONITOR_PHASES 256
#define CABE_MONITOR_OPEN 16
#define CABE_MONITOR_NAME_BYTES 48

/* symbol, name in log and JSON, what it means to a person */
#define CABE_PHASE_WARNING_MAP(X)                                                                            \
    X(RSS, "rss", "resident memory at the end above the threshold")                                          \
    X(PEAK, "peak", "peak above its share of the memory")                                                    \
    X(DEVICE, "device", "device memory above its share")                                                     \
    X(DELTA, "delta", "grew by more than the threshold")                                                     \
    X(PREDICTED, "predicted", "peak above the predicted one")

enum cabe_phase_warning {
#define X(symbol, name, meaning) CABE_PHASE_WARNING_##symbol,
    CABE_PHASE_WARNING_MAP(X)
#undef X
    CABE_N_PHASE_WARNINGS
};

struct cabe_monitor_config {
    struct cabe_ledger *ledger; /* NULL: no device memory and no purposes; must outlive the monitor */
    struct cabe_log *log;       /* NULL: no events; must outlive the monitor */
    uint64_t limit_bytes;       /* the memory this process may use (RAM or cgroup); 0: that of the machine */
    /* Bytes that could be had now; NULL: MemAvailable of the system. */
    uint64_t (*available)(void *self);
    void *self;
    /* Thresholds; 0 takes the default in brackets. */
    uint64_t warn_rss_bytes;      /* [2 GiB] */
    uint64_t warn_delta_bytes;    /* [500 MiB] */
    unsigned warn_peak_percent;   /* of limit_bytes [80] */
    unsigned warn_device_percent; /* of the device's budget [85] */
    int must_sample;              /* for tests: as if the high-water mark could not be reset */
};

struct cabe_phase {
    char name[CABE_MONITOR_NAME_BYTES];
    uint64_t begin_ns;   /* after the monitor was opened */
    uint64_t elapsed_ns; /* so far, when it is still open */
    int is_open;
    int is_sampled; /* the peak is what samples saw: short ones may be missing */
    uint64_t rss_begin_bytes, rss_end_bytes;
    uint64_t peak_bytes;
    uint64_t predicted_bytes; /* 0: nobody predicted */
    int n_devices;            /* of the ledger; 0 without one */
    struct {
        uint64_t begin_bytes, end_bytes, peak_bytes; /* reserved, by the ledger */
    } device[CABE_DEVICES_MAX];
    uint64_t purpose_peak_bytes[CABE_N_PURPOSES]; /* on the host */
    unsigned warnings;                            /* bit 1 << enum cabe_phase_warning */
};

struct cabe_monitor;

CABE_CHECKED enum cabe_status cabe_monitor_open(struct cabe_monitor **out,
                                                const struct cabe_monitor_config *config,
                                                struct cabe_error *err);
void cabe_monitor_close(struct cabe_monitor *monitor); /* NULL is fine */

/*
 * Begins a phase; `monitor` may be NULL in begin and end: nothing happens. `name` is cut to fit; in event
 * names every byte but letters and digits becomes '_'. `predicted_bytes`: the process's peak by plan, 0
 * unknown. `*phase` is for end. More than CABE_MONITOR_OPEN phases are not measured: *phase is then -1, and
 * end ignores it.
 */
void cabe_monitor_begin(struct cabe_monitor *monitor, const char *name, uint64_t predicted_bytes, int *phase);
void cabe_monitor_end(struct cabe_monitor *monitor, int phase);
/* The event "ready", with the seconds since the process began. */
void cabe_monitor_ready(struct cabe_monitor *monitor);

/* The phases that are kept, finished ones first, in order of their end; returns how many were written. */
size_t cabe_monitor_read(struct cabe_monitor *monitor, struct cabe_phase *out, size_t n_max);
/* Thresholds passed so far, and finished phases that are no longer kept. */
void cabe_monitor_counts(struct cabe_monitor *monitor, uint64_t *n_warnings, uint64_t *n_forgotten);
const char *cabe_phase_warning_name(enum cabe_phase_warning warning);
/* The highest resident size that any phase saw. */
uint64_t cabe_monitor_peak_bytes(struct cabe_monitor *monitor);

/* The report as a table, to be freed with cabe_free(); NULL without memory. */
char *cabe_monitor_table(struct cabe_monitor *monitor);
/* {"phases": [...], "peak_bytes", "n_warnings", "n_forgotten"}; a new reference, NULL without memory. */
json_t *cabe_monitor_json(struct cabe_monitor *monitor);

#endif
