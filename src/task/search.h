/*
 * Search by meaning: the lines of a file nearest to queries, exactly.
 *
 * Stages: "embed" (lines, then queries, into an exact index) and "search". The lines found are read again from the
 * file. Lines are embedded as passages and queries as queries, where the model has such prefixes.
 *
 * Owner: who opens it; session and encoder outlive it. Thread: one.
 */
#ifndef CABE_TASK_SEARCH_H
#define CABE_TASK_SEARCH_H

#include "fit/plan.h"
#include "task/encoder.h"

struct cabe_search_wishes {
    int rows;  /* enum cabe_dtype of stored embeddings, -1: free */
    int64_t k; /* hits of each query */
};

#define CABE_SEARCH_TEXT_MAX 1024

struct cabe_search_hit {
    float score;
    uint64_t line;    /* from 1 */
    const char *text; /* cut to CABE_SEARCH_TEXT_MAX bytes between characters */
    size_t n_bytes;
};

struct cabe_search_result {
    uint64_t n_lines;
    const struct cabe_search_hit *hit; /* k for each query, best first */
    const int32_t *n_hits;             /* by query */
};

struct cabe_search_job;

/* Counts the lines of `path`. */
CABE_CHECKED enum cabe_status cabe_search_open(struct cabe_search_job **out, struct cabe_session *session,
                                               struct cabe_encoder *encoder, const char *path,
                                               const char *const *queries, int n_queries,
                                               const struct cabe_search_wishes *wishes, struct cabe_error *err);
void cabe_search_close(struct cabe_search_job *job); /* NULL is fine */
void cabe_search_task(struct cabe_search_job *job, struct cabe_fit_task *task);
/* `*result` lives as long as the job. */
CABE_CHECKED enum cabe_status cabe_search_run(struct cabe_search_job *job, const struct cabe_plan *plan,
                                              struct cabe_search_result *result, struct cabe_error *err);

#endif
