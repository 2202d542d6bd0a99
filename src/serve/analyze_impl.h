/* An analysis on its way: analyze_run.c runs and reports it, analyze_room.c finds its memory and lends it an encoder. */
#ifndef CABE_SERVE_ANALYZE_IMPL_H
#define CABE_SERVE_ANALYZE_IMPL_H

#include "serve/analyze.h"
#include "serve/jobs_impl.h"

#define CABE_ANALYSIS_PHASES 8

struct analysis {
    struct cabe_server *server;
    struct cabe_job *job;
    const struct cabe_upload *upload;
    struct cabe_session session; /* the server's, with our wish to stop */
    struct cabe_encoder *encoder; /* its headers: what works is the service's */
    struct cabe_analyze_job *analysis;
    struct cabe_plan *plan;
    struct cabe_analyze_result result;
    int is_told; /* documents and plan are part of the result already */

    /* admitted */
    struct cabe_ledger *share;  /* all that it will take, and what the load of the encoder will */
    uint64_t encoder_bytes;     /* of the share; 0: it was there, and is borrowed already */
    int is_borrowed;
    uint64_t beside_bytes[CABE_ANALYSIS_PHASES]; /* the most that the rest of the server held in each phase */
    int n_phases;
};

/*
 * Makes the plan and takes what it says at once: CABE_OK, or CABE_ERR_BUDGET when it can never fit, or when it has waited
 * in vain as long as heavy work waits for a slot. `*until_ns` (0: not known yet) is when that is.
 */
CABE_CHECKED enum cabe_status cabe_analysis_admit(struct analysis *a, uint64_t *until_ns, struct cabe_error *err);
/* One pause of waiting, told as progress; CABE_ERR_CANCELLED, or `status` with *err as it is when the time is over. */
CABE_CHECKED enum cabe_status cabe_analysis_wait(struct analysis *a, uint64_t until_ns, enum cabe_status status,
                                                 struct cabe_error *err);
/* Gives back what was admitted; the run holds nothing any more. */
void cabe_analysis_dismiss(struct analysis *a);
void cabe_analysis_end(struct analysis *a);
/* The service as the lender of the encoder. */
void cabe_analysis_lender(struct analysis *a, struct cabe_analyze_lender *lender);

#endif
