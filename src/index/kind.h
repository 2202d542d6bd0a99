/* What a kind of index provides. index.c checks arguments and dispatches; a kind may rely on what it checked. */
#ifndef CABE_INDEX_KIND_H
#define CABE_INDEX_KIND_H

#include "index/file.h"
#include "index/index.h"

struct cabe_index { /* the head of every kind's own struct */
    const struct cabe_index_kind *kind;
    struct cabe_index_config config;
    int64_t n_rows;
    struct cabe_ledger *ledger;
    const struct cabe_kernels *kernels;
};

struct cabe_index_kind {
    const char *name;
    uint64_t (*bytes)(const struct cabe_index_config *config);
    enum cabe_status (*open)(struct cabe_index **out, const struct cabe_index_config *config,
                             struct cabe_ledger *ledger, const struct cabe_kernels *kernels,
                             struct cabe_error *err);
    void (*close)(struct cabe_index *index);
    enum cabe_status (*train)(struct cabe_index *index, const float *rows, int64_t n,
                              const struct cabe_index_run *run, struct cabe_error *err);
    enum cabe_status (*add)(struct cabe_index *index, const float *rows, int64_t n, struct cabe_error *err);
    enum cabe_status (*get)(const struct cabe_index *index, int64_t row, float *out, struct cabe_error *err);
    uint64_t (*search_bytes)(const struct cabe_index *index, int64_t n_queries, int64_t k, int n_members);
    enum cabe_status (*search)(struct cabe_index *index, const float *queries, int64_t n_queries, int64_t k,
                               struct cabe_hit *hits, int32_t *n_hits, const struct cabe_index_run *run,
                               struct cabe_error *err);
    enum cabe_status (*save)(const struct cabe_index *index, const char *path, struct cabe_error *err);
    uint64_t (*load_bytes)(const struct cabe_index_header *header, enum cabe_index_place place);
    /* Takes `fd`, whatever it answers. */
    enum cabe_status (*load)(struct cabe_index **out, int fd, const struct cabe_index_header *header,
                             enum cabe_index_place place, struct cabe_ledger *ledger,
                             const struct cabe_kernels *kernels, const char *path, struct cabe_error *err);
};

extern const struct cabe_index_kind cabe_index_exact;

#endif
