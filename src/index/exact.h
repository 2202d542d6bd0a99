/* The exact kind: rows as stored, in memory or in a file. Shared by its storage, its search and the
 * self-join. */
#ifndef CABE_INDEX_EXACT_H
#define CABE_INDEX_EXACT_H

#include "base/arena.h"
#include "index/kind.h"

struct cabe_exact {
    struct cabe_index head;
    /* resident: one block of pages, rows then scales */
    void *pages;
    uint64_t page_bytes; /* charged */
    uint8_t *rows;
    float *scales; /* I8 */
    /* streamed */
    int fd; /* -1: resident */
    char *path;
};

/* An exact index of n_rows that holds nothing: enough to be measured. */
void cabe_exact_outline(struct cabe_exact *out, const struct cabe_index_config *config, int64_t n_rows,
                        const struct cabe_kernels *kernels);

/* What one member needs to look at a run of up to n_max rows as f32. */
struct cabe_exact_view {
    float *wide;  /* NULL where rows are f32 in memory */
    uint8_t *raw; /* as in the file; NULL where resident or f32 */
    float *scales;
};

void cabe_exact_view_place(const struct cabe_exact *exact, struct cabe_arena *arena, int64_t n_max,
                           struct cabe_exact_view *view);
/* Rows [first, first + n) as f32 in `*out`, valid until the view is used again. */
enum cabe_status cabe_exact_rows(const struct cabe_exact *exact, const struct cabe_exact_view *view,
                                 int64_t first, int64_t n, const float **out, struct cabe_error *err);

uint64_t cabe_exact_search_bytes(const struct cabe_index *index, int64_t n_queries, int64_t k, int n_members);
enum cabe_status cabe_exact_search(struct cabe_index *index, const float *queries, int64_t n_queries,
                                   int64_t k, struct cabe_hit *hits, int32_t *n_hits,
                                   const struct cabe_index_run *run, struct cabe_error *err);

/* Working memory: reserved, then mapped; and given back. */
enum cabe_status cabe_exact_take(const struct cabe_exact *exact, void **out, uint64_t bytes,
                                 const char *place, struct cabe_error *err);
void cabe_exact_give(struct cabe_ledger *ledger, void *pages, uint64_t bytes, const char *place);

#endif
