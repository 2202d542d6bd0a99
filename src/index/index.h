/*
 * Vector indexes: one interface, many kinds. "exact" is the one built in: rows as they were stored, every one
 * compared.
 *
 * A row is `dim` floats, kept as f32, f16 or int8 (with one scale a row). With CABE_METRIC_COSINE rows and
 * queries are divided by their length as they come in (a zero row stays zero), so a score is always the dot
 * product of a query in f32 with a row as it is stored. Scores of the exact kind are sums in one order
 * (kernel/matmul.h): the same bits whatever the threads, the tiling or the other queries.
 *
 * Hits are ordered: higher score first, then lower row number. NaN scores are never hits.
 *
 * Owner:  who opens or loads an index closes it; rows are charged to `ledger` as CABE_PURPOSE_INDEX until
 *         then, the working memory of a search or join only while it runs.
 * Thread: one call at a time per index. Searches and joins use the team they are given.
 */
#ifndef CABE_INDEX_INDEX_H
#define CABE_INDEX_INDEX_H

#include <stdint.h>

#include "base/cancel.h"
#include "base/threads.h"
#include "cabe/ledger.h"
#include "cabe/status.h"
#include "kernel/kernel.h"

#define CABE_INDEX_DIM_MAX 65536
#define CABE_INDEX_ROWS_MAX INT64_C(4294967295)

enum cabe_metric { CABE_METRIC_COSINE, CABE_METRIC_DOT };
/* Where the rows of a loaded index are: in charged memory, or read from the file block by block at every
 * search. */
enum cabe_index_place { CABE_INDEX_RESIDENT, CABE_INDEX_STREAMED };

struct cabe_index;

struct cabe_index_config {
    const char *kind; /* "exact" */
    int64_t dim;
    enum cabe_dtype dtype; /* F32, F16, I8 */
    enum cabe_metric metric;
    int64_t capacity; /* rows that add() will take, all together */
};

struct cabe_hit {
    float score;
    uint32_t row;
};

/* What long work runs on; cancel and progress may be NULL. */
struct cabe_index_run {
    struct cabe_team *team;
    const struct cabe_cancel *cancel;
    const struct cabe_progress *progress;
};

const char *cabe_metric_name(enum cabe_metric metric); /* "cosine", "dot" */

/* Bytes that cabe_index_open() charges for `config`; exact. UINT64_MAX: config is not valid. */
uint64_t cabe_index_bytes(const struct cabe_index_config *config);

/* On CABE_OK `*out` is empty and lives until cabe_index_close(). Kernels and ledger must outlive it. */
CABE_CHECKED enum cabe_status cabe_index_open(struct cabe_index **out, const struct cabe_index_config *config,
                                              struct cabe_ledger *ledger, const struct cabe_kernels *kernels,
                                              struct cabe_error *err);
void cabe_index_close(struct cabe_index *index); /* NULL is fine */

int64_t cabe_index_rows(const struct cabe_index *index);
const struct cabe_index_config *cabe_index_config(const struct cabe_index *index);

/* Learns from sample rows what a kind must know before add(); the exact kind needs none. */
CABE_CHECKED enum cabe_status cabe_index_train(struct cabe_index *index, const float *rows, int64_t n,
                                               const struct cabe_index_run *run, struct cabe_error *err);
/* Appends n rows. All or none. A NaN or infinity is CABE_ERR_FORMAT, more than the capacity CABE_ERR_LIMIT. */
CABE_CHECKED enum cabe_status cabe_index_add(struct cabe_index *index, const float *rows, int64_t n,
                                             struct cabe_error *err);
/* Row `row` as it is stored, widened to `out` [dim]. */
CABE_CHECKED enum cabe_status cabe_index_get(const struct cabe_index *index, int64_t row, float *out,
                                             struct cabe_error *err);

/* Bytes charged while a search of n_queries runs. */
uint64_t cabe_index_search_bytes(const struct cabe_index *index, int64_t n_queries, int64_t k, int n_members);
/* The same before there is an index, for plans: a resident one of n_rows. */
uint64_t cabe_index_search_plan(const struct cabe_index_config *config, int64_t n_rows, int64_t n_queries,
                                int64_t k, const struct cabe_kernels *kernels, int n_members);
/* The k >= 1 best rows of each query: hits[q * k ...], n_hits[q] of them (fewer where there are fewer rows). */
CABE_CHECKED enum cabe_status cabe_index_search(struct cabe_index *index, const float *queries,
                                                int64_t n_queries, int64_t k, struct cabe_hit *hits,
                                                int32_t *n_hits, const struct cabe_index_run *run,
                                                struct cabe_error *err);

/* Written beside, synced, renamed: the file is the old one or the new one. index/file.h says what is in it. */
CABE_CHECKED enum cabe_status cabe_index_save(const struct cabe_index *index, const char *path,
                                              struct cabe_error *err);
/* Bytes that cabe_index_load() charges. Reads the header only. */
CABE_CHECKED enum cabe_status cabe_index_load_bytes(uint64_t *out, const char *path,
                                                    enum cabe_index_place place, struct cabe_error *err);
/* A resident load checks every byte; a streamed one the header and the size (cabe_index_verify() does the
 * rest). */
CABE_CHECKED enum cabe_status cabe_index_load(struct cabe_index **out, const char *path,
                                              enum cabe_index_place place, struct cabe_ledger *ledger,
                                              const struct cabe_kernels *kernels, struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_index_verify(const char *path, struct cabe_error *err);

/*
 * Self-join of an exact index: all pairs of rows with a score >= threshold, of which every row keeps its k
 * best. A pair is kept while it is among the k best of at least one of its rows.
 */
struct cabe_join;

struct cabe_join_config {
    float threshold;
    int32_t k; /* candidates that a row keeps, >= 1 */
};

struct cabe_pair { /* a < b */
    uint32_t a, b;
    float score;
};

/* Bytes charged while the join runs (output and working memory), and of these while its output lives; exact. */
struct cabe_join_bytes {
    uint64_t output_bytes, work_bytes;
};
struct cabe_join_bytes cabe_join_measure(const struct cabe_index *index,
                                         const struct cabe_join_config *config, int n_members);
/* The same before there is an index, for plans: a resident one of n_rows. */
struct cabe_join_bytes cabe_join_plan(const struct cabe_index_config *index, int64_t n_rows,
                                      const struct cabe_join_config *config,
                                      const struct cabe_kernels *kernels, int n_members);
CABE_CHECKED enum cabe_status cabe_join_run(struct cabe_join **out, struct cabe_index *index,
                                            const struct cabe_join_config *config,
                                            const struct cabe_index_run *run, struct cabe_error *err);
void cabe_join_close(struct cabe_join *join); /* NULL is fine; before the ledger closes */

/* The candidates of a row, best first; `*n` of them. */
const struct cabe_hit *cabe_join_hits(const struct cabe_join *join, int64_t row, int32_t *n);
/* Each kept pair once, in the order of the first row that lists it, best first. `out` NULL: only counts.
 * Returns the count. */
uint64_t cabe_join_pairs(const struct cabe_join *join, struct cabe_pair *out, uint64_t n_max);

#endif
