/*
 * The self-join: every pair of rows once.
 *
 * Rows are cut into blocks of columns. A member takes a block, packs its rows as the weights of a product,
 * and multiplies the rows from the block's first to the last one with it, a tile at a time: the half of the
 * square below the diagonal. Each tile is scanned for scores over the threshold while it is in cache. A score
 * is one chain of fused multiply-adds along the row, the same whichever of the two rows is the weight.
 *
 * Every row keeps its k best hits in a heap; several members may offer to one row, so heaps are guarded by a
 * few spin locks. The order of hits is total: what a heap holds in the end does not depend on who offered
 * first.
 */
#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "index/best.h"
#include "index/exact.h"

#define PLACE_OUTPUT "join output"
#define PLACE_WORK "join"
#define COLUMNS_MAX 256 /* of a block */
#define ROWS_MAX 240    /* of a tile */
#define LOCKS 1024      /* a power of two */

struct list {
    atomic_int_fast32_t n; /* guarded by the row's lock; read without it only to skip (see offer) */
    _Atomic float floor;   /* once full: no hit below it can enter; only rises */
};

struct cabe_join {
    struct cabe_ledger *ledger;
    void *pages;
    uint64_t page_bytes;
    int64_t n_rows;
    int32_t k;
    struct list *list;     /* [n_rows] */
    struct cabe_hit *hits; /* [n_rows][k] */
};

struct member {
    struct cabe_exact_view columns, rows;
    void *panels, *packing, *matmul;
    float *scores;   /* [ROWS_MAX][columns] */
    uint32_t *found; /* [columns] */
    enum cabe_status status;
    struct cabe_error err;
};

struct work {
    const struct cabe_exact *exact;
    const struct cabe_index_run *run;
    struct cabe_join *join;
    float threshold;
    int64_t columns; /* of a block */
    int n_members;
    atomic_flag *lock; /* [LOCKS] */
    struct member *member;
    atomic_int stop;           /* relaxed: only a wish to end early */
    atomic_uint_fast64_t done; /* pairs, for progress */
    uint64_t reported_ns;
};

static void place_output(struct cabe_join *join, struct cabe_arena *arena)
{
    join->list = cabe_arena_take(arena, (uint64_t)join->n_rows, sizeof *join->list, 64);
    join->hits = cabe_arena_take(arena, (uint64_t)join->n_rows, (uint64_t)join->k * sizeof *join->hits, 64);
}

static void place_work(struct work *w, struct cabe_arena *arena)
{
    const struct cabe_index *head = &w->exact->head;
    int64_t dim = head->config.dim;
    struct member one;

    w->lock = cabe_arena_take(arena, LOCKS, sizeof *w->lock, 64);
    w->member = cabe_arena_take(arena, (uint64_t)w->n_members, sizeof *w->member, 64);
    for (int i = 0; i < w->n_members; i++) {
        struct member *m = w->member ? &w->member[i] : &one;

        cabe_exact_view_place(w->exact, arena, w->columns, &m->columns);
        cabe_exact_view_place(w->exact, arena, ROWS_MAX, &m->rows);
        m->panels = cabe_arena_take(arena, 1, cabe_packed_bytes(CABE_F32, CABE_PANELS, w->columns, dim), 64);
        m->packing = cabe_arena_take(arena, 1, cabe_matmul_pack_scratch_bytes(dim), 64);
        m->matmul = cabe_arena_take(arena, 1, cabe_matmul_scratch_bytes(head->kernels, ROWS_MAX, dim), 64);
        m->scores = cabe_arena_take(arena, ROWS_MAX, (uint64_t)w->columns * sizeof(float), 64);
        m->found = cabe_arena_take(arena, (uint64_t)w->columns, sizeof *m->found, 64);
    }
}

/* Blocks small enough that every member gets several; results do not depend on it. */
static int64_t columns_for(int64_t n_rows, int n_members)
{
    int64_t columns = n_rows / (8 * n_members) / CABE_PANEL * CABE_PANEL;

    return columns < CABE_PANEL ? CABE_PANEL : columns < COLUMNS_MAX ? columns : COLUMNS_MAX;
}

static void set_sizes(struct work *w, struct cabe_join *join, const struct cabe_index *index,
                      const struct cabe_join_config *config, int n_members)
{
    memset(w, 0, sizeof *w);
    w->exact = (const struct cabe_exact *)index;
    w->join = join;
    w->threshold = config->threshold;
    w->n_members = n_members;
    w->columns = columns_for(index->n_rows, n_members);
    join->n_rows = index->n_rows;
    join->k = config->k;
}

struct cabe_join_bytes cabe_join_measure(const struct cabe_index *index,
                                         const struct cabe_join_config *config, int n_members)
{
    struct cabe_arena output = {0}, work = {0};
    struct cabe_join_bytes bytes = {0};
    struct cabe_join join = {0};
    struct work w;

    set_sizes(&w, &join, index, config, n_members);
    if (join.n_rows == 0)
        return bytes;
    place_output(&join, &output);
    place_work(&w, &work);
    bytes.output_bytes = output.used_bytes == UINT64_MAX ? UINT64_MAX : cabe_pages_round(output.used_bytes);
    bytes.work_bytes = work.used_bytes == UINT64_MAX ? UINT64_MAX : cabe_pages_round(work.used_bytes);
    return bytes;
}

struct cabe_join_bytes cabe_join_plan(const struct cabe_index_config *index, int64_t n_rows,
                                      const struct cabe_join_config *config,
                                      const struct cabe_kernels *kernels, int n_members)
{
    struct cabe_exact outline;

    cabe_exact_outline(&outline, index, n_rows, kernels);
    return cabe_join_measure(&outline.head, config, n_members);
}

static void offer(struct work *w, int64_t row, struct cabe_hit hit)
{
    struct cabe_join *join = w->join;
    struct list *list = &join->list[row];
    struct cabe_hit *heap = join->hits + row * join->k;
    atomic_flag *lock = &w->lock[(uint64_t)row & (LOCKS - 1)];
    int64_t n;

    /* floor is -infinity until the heap is full; an old value lets through what the heap then refuses */
    if (hit.score < atomic_load_explicit(&list->floor, memory_order_relaxed))
        return;
    for (int spins = 1; atomic_flag_test_and_set_explicit(lock, memory_order_acquire); spins++)
        if (spins % 64 == 0)
            sched_yield(); /* the holder may have lost its core */
    n = cabe_best_offer(heap, atomic_load_explicit(&list->n, memory_order_relaxed), join->k, hit);
    atomic_store_explicit(&list->n, (int_fast32_t)n, memory_order_relaxed);
    if (n == join->k)
        atomic_store_explicit(&list->floor, heap[0].score, memory_order_relaxed);
    atomic_flag_clear_explicit(lock, memory_order_release);
}

static void fail(struct work *w, struct member *m, enum cabe_status status)
{
    m->status = status;
    atomic_store_explicit(&w->stop, 1, memory_order_relaxed);
}

/* Whether to go on; the caller's thread also tells how far the work is. */
static int go_on(struct work *w, int member)
{
    struct member *m = &w->member[member];
    uint64_t n = (uint64_t)w->join->n_rows;

    if (cabe_cancelled(w->run->cancel) && m->status == CABE_OK)
        fail(w, m, cabe_fail(&m->err, CABE_ERR_CANCELLED, "self-join stopped on request"));
    if (member == 0 && cabe_clock_ns() - w->reported_ns > 250000000u) {
        w->reported_ns = cabe_clock_ns();
        cabe_progress_report(w->run->progress, "compare",
                             atomic_load_explicit(&w->done, memory_order_relaxed), n * (n - 1) / 2, "pairs");
    }
    return !atomic_load_explicit(&w->stop, memory_order_relaxed);
}

static void scan(struct work *w, struct member *m, int64_t column, int64_t columns, int64_t row, int64_t rows)
{
    const struct cabe_row_kernels *kernels = &w->exact->head.kernels->row;
    uint64_t pairs = 0;

    for (int64_t i = row; i < row + rows; i++) {
        const float *scores = m->scores + (i - row) * columns;
        int64_t n = i - column < columns ? i - column : columns; /* columns before the row itself */
        int64_t n_found = kernels->scan_ge(scores, n, w->threshold, m->found);

        for (int64_t f = 0; f < n_found; f++) {
            int64_t j = column + m->found[f];
            float score = scores[m->found[f]];

            offer(w, i, (struct cabe_hit){.score = score, .row = (uint32_t)j});
            offer(w, j, (struct cabe_hit){.score = score, .row = (uint32_t)i});
        }
        pairs += (uint64_t)n;
    }
    atomic_fetch_add_explicit(&w->done, pairs, memory_order_relaxed);
}

/* One block of columns against the rows from its first to the last of all. */
static void join_block(struct work *w, int member, int64_t column)
{
    const struct cabe_index *head = &w->exact->head;
    struct member *m = &w->member[member];
    int64_t n = head->n_rows, dim = head->config.dim;
    int64_t columns = n - column < w->columns ? n - column : w->columns;
    enum cabe_status status;
    const float *block;

    status = cabe_exact_rows(w->exact, &m->columns, column, columns, &block, &m->err);
    if (status == CABE_OK)
        status = cabe_matmul_pack(CABE_F32, block, columns, CABE_F32, dim, 0,
                                  (columns + CABE_PANEL - 1) / CABE_PANEL, m->packing, m->panels, &m->err);
    for (int64_t row = column; status == CABE_OK && row < n && go_on(w, member); row += ROWS_MAX) {
        struct cabe_matmul mm = {.w = m->panels,
                                 .dtype = CABE_F32,
                                 .k = dim,
                                 .x_stride = dim,
                                 .out = m->scores,
                                 .act = CABE_ACT_NONE,
                                 .precision = CABE_PRECISION_HIGH};

        mm.t = n - row < ROWS_MAX ? n - row : ROWS_MAX;
        mm.n = row + mm.t - column < columns ? row + mm.t - column : columns;
        mm.out_stride = mm.n;
        status = cabe_exact_rows(w->exact, &m->rows, row, mm.t, &mm.x, &m->err);
        if (status != CABE_OK)
            break;
        cabe_matmul_run(head->kernels, &mm, NULL, m->matmul, 0, cabe_matmul_tiles(head->kernels, &mm));
        scan(w, m, column, mm.n, row, mm.t);
    }
    if (status != CABE_OK)
        fail(w, m, status);
}

static void join_member(struct cabe_team *team, int member, void *arg)
{
    struct work *w = arg;
    struct cabe_join *join = w->join;
    int64_t begin, end;

    for (int64_t i = member; i < LOCKS; i += w->n_members)
        atomic_flag_clear_explicit(&w->lock[i], memory_order_relaxed);
    for (int64_t i = member; i < join->n_rows; i += w->n_members) {
        atomic_init(&join->list[i].n, 0);
        atomic_init(&join->list[i].floor, -INFINITY);
    }
    cabe_team_barrier(team, member);
    /* the first blocks have most rows: they go first, so that members end together */
    while (cabe_team_next(team, (join->n_rows + w->columns - 1) / w->columns, 1, &begin, &end))
        if (go_on(w, member))
            join_block(w, member, begin * w->columns);
    cabe_team_barrier(team, member);
    for (int64_t i = member; i < join->n_rows; i += w->n_members)
        cabe_best_sort(join->hits + i * join->k,
                       atomic_load_explicit(&join->list[i].n, memory_order_relaxed));
}

static enum cabe_status run_work(struct cabe_join *join, struct work *w, uint64_t bytes,
                                 struct cabe_error *err)
{
    struct cabe_arena arena = {.size_bytes = bytes};
    enum cabe_status status;
    void *pages;

    status = cabe_exact_take(w->exact, &pages, bytes, PLACE_WORK, err);
    if (status != CABE_OK)
        return status;
    arena.base = pages;
    place_work(w, &arena);
    w->reported_ns = cabe_clock_ns();
    cabe_team_run(w->run->team, join_member, w);
    for (int i = 0; i < w->n_members && status == CABE_OK; i++)
        if (w->member[i].status != CABE_OK) {
            status = w->member[i].status;
            if (err)
                *err = w->member[i].err;
        }
    cabe_exact_give(join->ledger, pages, bytes, PLACE_WORK);
    return status;
}

enum cabe_status cabe_join_run(struct cabe_join **out, struct cabe_index *index,
                               const struct cabe_join_config *config, const struct cabe_index_run *run,
                               struct cabe_error *err)
{
    struct cabe_join_bytes bytes;
    enum cabe_status status;
    struct cabe_join *join;
    struct work w;

    *out = NULL;
    if (index->kind != &cabe_index_exact)
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "a self-join needs an exact index, this is \"%s\"",
                         index->kind->name);
    if (config->k < 1 || !(config->threshold == config->threshold))
        return cabe_fail(err, CABE_ERR_ARGUMENT, "self-join: %d candidates a row from a score of %g",
                         config->k, (double)config->threshold);
    join = cabe_calloc(1, sizeof *join);
    if (!join)
        return cabe_fail(err, CABE_ERR_OOM, "self-join handle");
    join->ledger = index->ledger;
    set_sizes(&w, join, index, config, cabe_team_size(run->team));
    w.run = run;
    bytes = cabe_join_measure(index, config, w.n_members);
    status = cabe_exact_take(w.exact, &join->pages, bytes.output_bytes, PLACE_OUTPUT, err);
    if (status == CABE_OK && join->n_rows > 0) {
        struct cabe_arena arena = {.base = join->pages, .size_bytes = bytes.output_bytes};

        join->page_bytes = bytes.output_bytes;
        place_output(join, &arena);
        status = run_work(join, &w, bytes.work_bytes, err);
    }
    if (status != CABE_OK) {
        cabe_join_close(join);
        return status;
    }
    *out = join;
    return CABE_OK;
}

void cabe_join_close(struct cabe_join *join)
{
    if (!join)
        return;
    cabe_exact_give(join->ledger, join->pages, join->page_bytes, PLACE_OUTPUT);
    cabe_free(join);
}

const struct cabe_hit *cabe_join_hits(const struct cabe_join *join, int64_t row, int32_t *n)
{
    *n = (int32_t)atomic_load_explicit(&join->list[row].n, memory_order_relaxed);
    return join->hits + row * join->k;
}

static int lists(const struct cabe_join *join, int64_t row, uint32_t other)
{
    int32_t n;
    const struct cabe_hit *hits = cabe_join_hits(join, row, &n);

    for (int32_t i = 0; i < n; i++)
        if (hits[i].row == other)
            return 1;
    return 0;
}

uint64_t cabe_join_pairs(const struct cabe_join *join, struct cabe_pair *out, uint64_t n_max)
{
    uint64_t found = 0;

    for (int64_t i = 0; i < join->n_rows; i++) {
        int32_t n;
        const struct cabe_hit *hits = cabe_join_hits(join, i, &n);

        for (int32_t h = 0; h < n; h++) {
            uint32_t row = (uint32_t)i, other = hits[h].row;

            if (other < row && lists(join, other, row))
                continue; /* told when the other row was at its turn */
            if (out && found < n_max)
                out[found] = (struct cabe_pair){
                    .a = other < row ? other : row, .b = other < row ? row : other, .score = hits[h].score};
            found++;
        }
    }
    return found;
}
