/*
 * A model's network as a component of plans: found by its fitted copy or by its headers, measured for any knobs, and
 * loaded: weights mapped or uploaded, tokenizer opened, program compiled. What encoders and generators share.
 *
 * Owner: who opens it; the session outlives it. Thread: one.
 */
#ifndef CABE_TASK_NET_H
#define CABE_TASK_NET_H

#include <stdint.h>

#include "cabe/status.h"
#include "fit/fitted.h"
#include "fit/plan.h"
#include "model/model.h"
#include "task/session.h"
#include "text/tokenizer.h"

#define CABE_NET_PLACE_MAX 48

struct cabe_net {
    struct cabe_session *session;
    char *path;
    char place[CABE_NET_PLACE_MAX]; /* the holder's name in the ledger */
    int dtype;                      /* that a person fixed, enum cabe_dtype; -1: by memory */
    struct cabe_source *source;     /* open while headers or weights are needed */
    uint64_t identity;              /* of its files when they were looked at first; 0: not known */
    struct cabe_model *model;       /* from the source, or ... */
    struct cabe_fitted *first;      /* ... from this copy, which then owns it */
    uint64_t caches_bytes;          /* of a copy: exact when one was seen, else a bound */
    struct {
        int looked, found;
    } copy[CABE_N_DTYPES]; /* what is known of the fitted copy under one dtype */

    /* loaded */
    struct cabe_fitted *fitted;
    struct cabe_model_choice choice;
    struct cabe_graph *graph;
    struct cabe_segment_weights *segments;
    struct cabe_buffer *memory; /* the adopted map, or weights on the device */
    struct cabe_program *program;
    struct cabe_tokenizer *tokenizer;
};

/* `path`: a model's file or folder. Opens its fitted copy if there is one, else its headers. */
CABE_CHECKED enum cabe_status cabe_net_open(struct cabe_net *net, struct cabe_session *session, const char *path,
                                            int dtype, struct cabe_error *err);
void cabe_net_close(struct cabe_net *net); /* also one of zeros, or whose open failed */

/* The machine's memory chooses the dtype of weights that nobody fixed. */
enum cabe_dtype cabe_net_preferred_dtype(const struct cabe_net *net);
/* What the knobs mean for the model: what is left unquantised in a quantised file stays as it is. */
struct cabe_model_choice cabe_net_choice(const struct cabe_net *net, const struct cabe_knobs *knobs);
/* Precision, dtypes and streaming into a task: preferred knobs, pins, and their rungs behind those already there. */
void cabe_net_plan(const struct cabe_net *net, int precision, struct cabe_fit_task *task);
/*
 * Whether streamed weights are read past the system's page cache: where it has no room for all of them beside the
 * budget, so that keeping them would only push out other pages, the mapped weights too.
 */
int cabe_net_reads_direct(const struct cabe_net *net);
/* Where the working set that comes with the network is: by device in plans. */
int cabe_net_device(const struct cabe_net *net);
/*
 * Adds what load() holds under the knobs, and `working` bytes of the host that its user takes afterwards (as
 * activations). These, and `after` more that the user counts itself, share room with what the load needs for a while.
 */
CABE_CHECKED enum cabe_status cabe_net_measure(struct cabe_net *net, const struct cabe_knobs *knobs,
                                               const int64_t bounds[CABE_N_SYMBOLS], uint64_t working, uint64_t after,
                                               struct cabe_fit_bytes *resident, struct cabe_fit_bytes *loading,
                                               struct cabe_error *err);

/* Adds what one run of the graph reads of streamed segments. */
void cabe_net_stream_work(const struct cabe_net *net, const struct cabe_graph *graph, const struct cabe_knobs *knobs,
                          struct cabe_graph_work *work);

/* Loads, making the fitted copy first where there is none. After an error: cabe_net_unload(). */
CABE_CHECKED enum cabe_status cabe_net_load(struct cabe_net *net, const struct cabe_knobs *knobs,
                                            const int64_t bounds[CABE_N_SYMBOLS], struct cabe_error *err);
/* Only sees to it that the fitted copy for the knobs is there; it is then open. */
CABE_CHECKED enum cabe_status cabe_net_fit(struct cabe_net *net, const struct cabe_knobs *knobs, struct cabe_error *err);
/* Gives back weights and program; it can be loaded again. */
void cabe_net_unload(struct cabe_net *net);

void cabe_net_step(struct cabe_fit_task *task, enum cabe_knob knob, int64_t value, const char *why);

#endif
