/*
 * What every task runs in: the machine, one budget with its ledger, a team, kernels and a device.
 *
 * Owner: who opens it; everything opened in it is closed before. Thread: one.
 */
#ifndef CABE_TASK_SESSION_H
#define CABE_TASK_SESSION_H

#include <stdint.h>

#include "base/cancel.h"
#include "base/log.h"
#include "cabe/ledger.h"
#include "cabe/machine.h"
#include "device/device.h"
#include "fit/plan.h"

enum cabe_device_kind { CABE_DEVICE_CPU, CABE_DEVICE_SIM };

struct cabe_session_config {
    uint64_t memory_bytes; /* budget of the host; 0: as cabe_machine_budget() says */
    int n_threads;         /* 0: as cabe_machine_threads() says */
    enum cabe_device_kind device;
    uint64_t device_cap_bytes; /* sim: its capacity */
    const struct cabe_machine *machine; /* NULL: this one, probed */
    const char *cache_dir; /* fitted copies; NULL: CABE_HOME's; "": kept in memory */
    uint64_t slack_bytes;  /* instead of CABE_SESSION_SLACK_BYTES, for who itemises more; 0: that */
    struct cabe_log *log;  /* may be NULL */
    const struct cabe_cancel *cancel;
    struct cabe_progress progress;
};

struct cabe_session {
    struct cabe_machine machine;
    char budget_reason[CABE_REASON_MAX];
    uint64_t budget_bytes[2]; /* host, sim */
    int n_devices;            /* of the ledger and of plans */
    int n_threads;
    enum cabe_device_kind device_kind;
    struct cabe_ledger *ledger;
    struct cabe_team *team;
    const struct cabe_kernels *kernels;
    struct cabe_device *device;
    uint64_t process_bytes; /* reserved for the process itself */
    uint64_t slack_bytes;   /* of them, for heap that is too small to be itemised */
    char cache_dir[1024];   /* "": none */
    uint64_t cache_limit_bytes;
    struct cabe_log *log;
    const struct cabe_cancel *cancel;
    struct cabe_progress progress;
};

/*
 * `plan_only`: nothing is reserved, no thread and no device is started; for plans of machines that may not be here.
 */
CABE_CHECKED enum cabe_status cabe_session_open(struct cabe_session **out, const struct cabe_session_config *config,
                                                int plan_only, struct cabe_error *err);
void cabe_session_close(struct cabe_session *session); /* NULL is fine */

/*
 * Bytes of the process itself: what is resident now, code, libraries and small heap, plus CABE_SESSION_SLACK_BYTES
 * for the heap that is too small to be itemised, plus the stacks of `n_threads`; at least CABE_SESSION_LEAST_BYTES, so
 * that a plan and the run it was made for, whose libraries may lie a page apart, name the same number.
 */
#define CABE_SESSION_SLACK_BYTES (UINT64_C(5) << 19)
#define CABE_SESSION_LEAST_BYTES (UINT64_C(11) << 20)
uint64_t cabe_session_process_bytes(int n_threads);

/*
 * Measures the process again and reserves what it has grown by; to be called when what is resident is what the ledger
 * says and the process itself: after headers were read, before weights are loaded.
 */
CABE_CHECKED enum cabe_status cabe_session_settle(struct cabe_session *session, struct cabe_error *err);

/* Makes a plan under the session's budgets. */
CABE_CHECKED enum cabe_status cabe_session_plan(const struct cabe_session *session, struct cabe_plan *plan,
                                                const struct cabe_fit_task *task, struct cabe_error *err);
/* Fills what a task needs first: `always` with the process. */
void cabe_session_task(const struct cabe_session *session, struct cabe_fit_task *task, const char *name);

#endif
