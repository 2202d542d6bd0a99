/*
 * Top-k search: queries are the weights of a matrix product, packed a block at a time; members take blocks of
 * rows, and each keeps the k best of every query for itself. The k best of those lists are the k best of all
 * rows, whoever saw them, because the order of hits is total.
 */
#include <stdatomic.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "index/best.h"
#include "index/exact.h"

#define PLACE "index search"
#define QUERIES_MAX 128 /* of one block: with a few hundred values each they stay in L2 */
#define ROWS_MAX 240

struct member {
    struct cabe_exact_view view;
    float *scores;         /* [ROWS_MAX][queries] */
    struct cabe_hit *best; /* [queries][k] */
    int64_t *n_best;       /* [queries] */
    void *matmul;
    enum cabe_status status;
    struct cabe_error err;
};

struct search {
    const struct cabe_exact *exact;
    const struct cabe_index_run *run;
    const float *queries;
    int64_t n_queries, k, block; /* queries of a block */
    int n_members;
    struct cabe_hit *hits;
    int32_t *n_hits;
    float *unit; /* [block][dim], COSINE */
    void *panels, *packing;
    struct member *member;
    atomic_int stop;          /* relaxed: only a wish to end early; the barriers order the rest */
    atomic_int_fast64_t done; /* rows times blocks, for progress */
    uint64_t reported_ns;
};

/* Measures and places. */
static void place(struct search *s, struct cabe_arena *arena)
{
    const struct cabe_index *head = &s->exact->head;
    uint64_t dim = (uint64_t)head->config.dim, block = (uint64_t)s->block;
    struct member one;

    s->unit = head->config.metric == CABE_METRIC_COSINE
                  ? cabe_arena_take(arena, block * dim, sizeof(float), 64)
                  : NULL;
    s->panels =
        cabe_arena_take(arena, 1, cabe_packed_bytes(CABE_F32, CABE_PANELS, s->block, (int64_t)dim), 64);
    s->packing = cabe_arena_take(arena, 1, cabe_matmul_pack_scratch_bytes((int64_t)dim), 64);
    s->member = cabe_arena_take(arena, (uint64_t)s->n_members, sizeof *s->member, 64);
    for (int m = 0; m < s->n_members; m++) {
        struct member *to = s->member ? &s->member[m] : &one;

        cabe_exact_view_place(s->exact, arena, ROWS_MAX, &to->view);
        to->scores = cabe_arena_take(arena, ROWS_MAX * block, sizeof(float), 64);
        to->best = cabe_arena_take(arena, block * (uint64_t)s->k, sizeof *to->best, 64);
        to->n_best = cabe_arena_take(arena, block, sizeof *to->n_best, 64);
        to->matmul =
            cabe_arena_take(arena, 1, cabe_matmul_scratch_bytes(head->kernels, ROWS_MAX, (int64_t)dim), 64);
    }
}

static void set_sizes(struct search *s, const struct cabe_index *index, int64_t n_queries, int64_t k,
                      int n_members)
{
    memset(s, 0, sizeof *s);
    s->exact = (const struct cabe_exact *)index;
    s->n_queries = n_queries;
    s->k = k < index->n_rows ? k : index->n_rows;
    s->block = n_queries < QUERIES_MAX ? n_queries : QUERIES_MAX;
    s->n_members = n_members;
}

uint64_t cabe_exact_search_bytes(const struct cabe_index *index, int64_t n_queries, int64_t k, int n_members)
{
    struct cabe_arena arena = {0};
    struct search s;

    set_sizes(&s, index, n_queries, k, n_members);
    if (s.k == 0 || n_queries == 0)
        return 0;
    place(&s, &arena);
    return arena.used_bytes == UINT64_MAX ? UINT64_MAX : cabe_pages_round(arena.used_bytes);
}

uint64_t cabe_index_search_plan(const struct cabe_index_config *config, int64_t n_rows, int64_t n_queries,
                                int64_t k, const struct cabe_kernels *kernels, int n_members)
{
    struct cabe_exact outline;

    cabe_exact_outline(&outline, config, n_rows, kernels);
    return cabe_exact_search_bytes(&outline.head, n_queries, k, n_members);
}

static void fail(struct search *s, struct member *m, enum cabe_status status)
{
    m->status = status;
    atomic_store_explicit(&s->stop, 1, memory_order_relaxed);
}

/* Whether to go on; the caller's thread also tells how far the work is. */
static int go_on(struct search *s, int member)
{
    struct member *m = &s->member[member];

    if (cabe_cancelled(s->run->cancel) && m->status == CABE_OK)
        fail(s, m, cabe_fail(&m->err, CABE_ERR_CANCELLED, "search stopped on request"));
    if (member == 0 && cabe_clock_ns() - s->reported_ns > 250000000u) {
        int64_t blocks = (s->n_queries + s->block - 1) / s->block;

        s->reported_ns = cabe_clock_ns();
        cabe_progress_report(s->run->progress, "search",
                             (uint64_t)atomic_load_explicit(&s->done, memory_order_relaxed),
                             (uint64_t)(blocks * s->exact->head.n_rows), "rows");
    }
    return !atomic_load_explicit(&s->stop, memory_order_relaxed);
}

static void pack(struct search *s, int64_t first, int64_t n)
{
    const struct cabe_index *head = &s->exact->head;
    int64_t dim = head->config.dim;
    const float *queries = s->queries + first * dim;
    enum cabe_status status;

    if (s->unit) {
        head->kernels->row.unit(0.0f, queries, s->unit, dim, 0, n);
        queries = s->unit;
    }
    status = cabe_matmul_pack(CABE_F32, queries, n, CABE_F32, dim, 0, (n + CABE_PANEL - 1) / CABE_PANEL,
                              s->packing, s->panels, &s->member[0].err);
    if (status != CABE_OK)
        fail(s, &s->member[0], status);
}

/* One run of rows against the block of queries. */
static void score(struct search *s, struct member *m, int64_t n_queries, int64_t begin, int64_t end)
{
    const struct cabe_index *head = &s->exact->head;
    struct cabe_matmul mm = {.w = s->panels,
                             .dtype = CABE_F32,
                             .n = n_queries,
                             .k = head->config.dim,
                             .t = end - begin,
                             .x_stride = head->config.dim,
                             .out = m->scores,
                             .out_stride = n_queries,
                             .act = CABE_ACT_NONE,
                             .precision = CABE_PRECISION_HIGH};
    enum cabe_status status = cabe_exact_rows(s->exact, &m->view, begin, end - begin, &mm.x, &m->err);

    if (status != CABE_OK) {
        fail(s, m, status);
        return;
    }
    cabe_matmul_run(head->kernels, &mm, NULL, m->matmul, 0, cabe_matmul_tiles(head->kernels, &mm));
    for (int64_t i = begin; i < end; i++)
        for (int64_t q = 0; q < n_queries; q++) {
            struct cabe_hit hit = {.score = m->scores[(i - begin) * n_queries + q], .row = (uint32_t)i};
            struct cabe_hit *best = m->best + q * s->k;

            if (hit.score == hit.score && (m->n_best[q] < s->k || hit.score >= best[0].score))
                m->n_best[q] = cabe_best_offer(best, m->n_best[q], s->k, hit);
        }
    atomic_fetch_add_explicit(&s->done, end - begin, memory_order_relaxed);
}

/* Every member takes a share of the queries and joins the members' lists. */
static void merge(struct search *s, int member, int64_t first, int64_t n)
{
    for (int64_t q = member; q < n; q += s->n_members) {
        struct cabe_hit *out = s->hits + (first + q) * s->k;
        int64_t found = 0;

        for (int m = 0; m < s->n_members; m++)
            for (int64_t i = 0; i < s->member[m].n_best[q]; i++)
                found = cabe_best_offer(out, found, s->k, s->member[m].best[q * s->k + i]);
        cabe_best_sort(out, found);
        s->n_hits[first + q] = (int32_t)found;
    }
}

static void search_member(struct cabe_team *team, int member, void *arg)
{
    struct search *s = arg;
    struct member *m = &s->member[member];
    int64_t rows = s->exact->head.n_rows;

    for (int64_t first = 0; first < s->n_queries; first += s->block) {
        int64_t n = s->n_queries - first < s->block ? s->n_queries - first : s->block, begin, end;

        memset(m->n_best, 0, (size_t)n * sizeof *m->n_best);
        if (member == 0)
            pack(s, first, n);
        cabe_team_barrier(team, member);
        while (cabe_team_next(team, rows, ROWS_MAX, &begin, &end)) /* to its end even when stopping */
            if (go_on(s, member))
                score(s, m, n, begin, end);
        cabe_team_barrier(team, member);
        /* from this barrier to the next nobody can set `stop`: all members see one value and leave together */
        if (atomic_load_explicit(&s->stop, memory_order_relaxed))
            return;
        merge(s, member, first, n);
        cabe_team_barrier(team, member);
    }
}

/* Hits were written k' = min(k, rows) apart; spreads them k apart. */
static void spread(const struct search *s, int64_t k)
{
    if (s->k < k)
        for (int64_t q = s->n_queries - 1; q > 0; q--)
            memmove(s->hits + q * k, s->hits + q * s->k, (size_t)s->n_hits[q] * sizeof *s->hits);
}

enum cabe_status cabe_exact_search(struct cabe_index *index, const float *queries, int64_t n_queries,
                                   int64_t k, struct cabe_hit *hits, int32_t *n_hits,
                                   const struct cabe_index_run *run, struct cabe_error *err)
{
    int n_members = cabe_team_size(run->team);
    uint64_t bytes = cabe_exact_search_bytes(index, n_queries, k, n_members);
    struct cabe_arena arena = {.size_bytes = bytes};
    enum cabe_status status;
    struct search s;
    void *pages;

    memset(n_hits, 0, (size_t)n_queries * sizeof *n_hits);
    if (index->n_rows == 0)
        return CABE_OK;
    set_sizes(&s, index, n_queries, k, n_members);
    s.run = run;
    s.queries = queries;
    s.hits = hits;
    s.n_hits = n_hits;
    status = cabe_exact_take(s.exact, &pages, bytes, PLACE, err);
    if (status != CABE_OK)
        return status;
    arena.base = pages;
    place(&s, &arena);
    s.reported_ns = cabe_clock_ns();
    cabe_team_run(run->team, search_member, &s);
    for (int m = 0; m < n_members && status == CABE_OK; m++)
        if (s.member[m].status != CABE_OK) {
            status = s.member[m].status;
            if (err)
                *err = s.member[m].err;
        }
    if (status == CABE_OK)
        spread(&s, k);
    cabe_exact_give(index->ledger, pages, bytes, PLACE);
    return status;
}
