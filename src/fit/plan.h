/*
 * The plan: what fits, and how, before anything is allocated.
 *
 * A task is a list of stages; a stage needs components and a working set. Each of them answers measure() with the
 * bytes that its own placing code will reserve, by device and purpose, under given knobs; nothing here knows a
 * formula. The planner walks a ladder: it starts from the preferred knobs and turns one after another, in the order
 * given, until the peak is within every budget; then it takes back what it gave up, the last first, as far as there is
 * room: of the segments of a network that must be streamed, as many stay as there is room for. It keeps what it tried.
 *
 * A plan is a pure function of (what measure() answers, budgets, ladder). Thread: one plan, one thread.
 */
#ifndef CABE_FIT_PLAN_H
#define CABE_FIT_PLAN_H

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#include "cabe/ledger.h"
#include "cabe/machine.h"
#include "cabe/status.h"
#include "tensor/graph.h"

/* symbol, name in messages and JSON */
#define CABE_KNOB_MAP(X)                                                                                     \
    X(BATCH, "batch_tokens")  /* tokens of one run, all sequences together */                                \
    X(CHUNK, "chunk_rows")    /* rows of a join or search handled at once; texts read at once */             \
    X(ROWS, "rows")           /* enum cabe_dtype of stored embeddings */                                     \
    X(DTYPE, "dtype")         /* enum cabe_dtype of unquantised matrices */                                  \
    X(PRECISION, "precision") /* enum cabe_precision */                                                      \
    X(CONTEXT, "context")     /* tokens of one sequence that is generated */                                 \
    X(SEQUENCES, "sequences") /* generated at a time */                                                      \
    X(KV, "kv")               /* enum cabe_kv_format of keys and values */                                   \
    X(STREAM, "stream")       /* segments of the network that are read from disk or host before each use; 0: none */

enum cabe_knob {
#define X(symbol, name) CABE_KNOB_##symbol,
    CABE_KNOB_MAP(X)
#undef X
    CABE_N_KNOBS
};

struct cabe_knobs {
    int64_t value[CABE_N_KNOBS];
};

const char *cabe_knob_name(enum cabe_knob knob);
/* The value in words: "int8", "512", "yes"; returns `out`. */
#define CABE_KNOB_TEXT_MAX 24
const char *cabe_knob_text(enum cabe_knob knob, int64_t value, char out[CABE_KNOB_TEXT_MAX]);

struct cabe_fit_bytes { /* sums by device and purpose */
    uint64_t bytes[CABE_DEVICES_MAX][CABE_N_PURPOSES];
};
void cabe_fit_add(struct cabe_fit_bytes *sum, const struct cabe_fit_bytes *more);
uint64_t cabe_fit_total(const struct cabe_fit_bytes *sum, int device);

struct cabe_fit_component {
    const char *name;
    void *self;
    /* `resident`: held while the component is in use. `loading`: held besides while it is brought in. Both zeroed before. */
    enum cabe_status (*measure)(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *resident,
                                struct cabe_fit_bytes *loading, struct cabe_error *err);
};

struct cabe_fit_stage {
    const char *name;
    uint32_t components; /* bit i: needs component i of the task; released after its last stage */
    void *self;
    /*
     * `working`: held during the stage. `kept`: held from its start to the end of the task. `work`: operations of the
     * whole stage, for its predicted time, may be left zero. All zeroed before.
     */
    enum cabe_status (*measure)(void *self, const struct cabe_knobs *knobs, struct cabe_fit_bytes *working,
                                struct cabe_fit_bytes *kept, struct cabe_graph_work *work, struct cabe_error *err);
};

struct cabe_fit_step { /* one rung of the ladder: turn `knob` to `value` and keep it there */
    enum cabe_knob knob;
    int64_t value;
    const char *why; /* what it costs: "less parallel work per run" */
};

#define CABE_FIT_COMPONENTS_MAX 32
#define CABE_FIT_STAGES_MAX 16
#define CABE_FIT_STEPS_MAX 32
#define CABE_FIT_PHASES_MAX (CABE_FIT_COMPONENTS_MAX + CABE_FIT_STAGES_MAX)

struct cabe_fit_task {
    const char *name;
    struct cabe_fit_component component[CABE_FIT_COMPONENTS_MAX];
    int n_components;
    struct cabe_fit_stage stage[CABE_FIT_STAGES_MAX];
    int n_stages;
    struct cabe_fit_bytes always; /* held throughout: the process, teams */
    struct cabe_knobs preferred;
    struct cabe_fit_step step[CABE_FIT_STEPS_MAX];
    int n_steps;
    uint32_t pinned; /* bit of an enum cabe_knob that the person fixed: its rungs are passed over */
    /*
     * Bit of a knob of which every value up to a rung's is one that frees less and costs less: when the rung fits, the
     * least value that does is looked for. Before that, what `dear` names is taken back: knobs whose smaller values cost
     * more once this one is turned.
     */
    uint32_t searched, dear;
    int64_t n_segments; /* that may be streamed; 0: nothing of this task may */
};

struct cabe_plan_phase {
    char name[48]; /* "model_load", "embed" */
    struct cabe_fit_bytes bytes;
    double seconds; /* predicted; 0: not known */
};

struct cabe_plan_rung {
    enum cabe_knob knob; /* CABE_N_KNOBS: the preferred knobs, the first rung */
    int64_t from, to;
    uint64_t peak_bytes[CABE_DEVICES_MAX];
    enum { CABE_RUNG_FITS, CABE_RUNG_TOO_BIG, CABE_RUNG_PINNED, CABE_RUNG_NO_GAIN } verdict;
    const char *why; /* of the step */
};

struct cabe_plan {
    const char *task;
    int fits;
    int n_devices;
    uint64_t budget_bytes[CABE_DEVICES_MAX];
    uint64_t peak_bytes[CABE_DEVICES_MAX];
    int worst_device;       /* where most is missing, when it does not fit */
    uint64_t missing_bytes; /* there */
    char smallest_change[160]; /* in words, when it does not fit */
    uint64_t smallest_budget_bytes; /* with which the last rung would fit on worst_device */
    struct cabe_knobs knobs;
    struct cabe_plan_phase phase[CABE_FIT_PHASES_MAX];
    int n_phases;
    struct cabe_plan_rung rung[3 * CABE_FIT_STEPS_MAX + 2];
    int n_rungs;
    int64_t n_segments; /* of the task */
};

/*
 * CABE_OK with fits == 0 when nothing fits: refusing is the caller's, by cabe_plan_refuse(). `machine` gives the
 * measured limits for predicted time (NULL: none). `budget_bytes[device]` per device, n_devices of them.
 */
CABE_CHECKED enum cabe_status cabe_plan_make(struct cabe_plan *plan, const struct cabe_fit_task *task,
                                             const uint64_t *budget_bytes, int n_devices,
                                             const struct cabe_machine *machine, int n_threads,
                                             struct cabe_error *err);
/* CABE_ERR_BUDGET with the numbers and the smallest change; CABE_OK for a plan that fits. */
CABE_CHECKED enum cabe_status cabe_plan_refuse(const struct cabe_plan *plan, struct cabe_error *err);
json_t *cabe_plan_json(const struct cabe_plan *plan);     /* new reference */
json_t *cabe_knobs_json(const struct cabe_knobs *knobs); /* the same; those that the task has */
/* Aligned text for a person, to `to`. */
void cabe_plan_print(const struct cabe_plan *plan, FILE *to);
const struct cabe_plan_phase *cabe_plan_phase_find(const struct cabe_plan *plan, const char *name); /* or NULL */
/* What the process should measure at most in that phase; a simulated device is in it. 0: no such phase. */
uint64_t cabe_plan_phase_bytes(const struct cabe_plan *plan, const char *name);

#endif
