/*
 * The driver: tiles of rows and panels, scratch, and what happens to a finished tile.
 *
 * A tile is a block of rows, small enough that its activations stay in L2, times a group of panels. Tiles are
 * numbered with the groups of one block of rows side by side, so that a member that takes neighbours reuses them.
 */
#include "kernel/matmul.h"

#include <assert.h>
#include <stddef.h>

#include "kernel/kernel.h"
#include "kernel/matmul_level.h"

#define L2_SHARE (192 * 1024) /* of activations in a tile; the smallest L2 met has 256 KiB */
#define TILE_OPS 6e6          /* multiply-adds count two; about 0.1 ms, so that the last tile of a member is short */
#define TILES_MIN 16          /* few rows: still enough tiles for the members */
#define ROWS_STEP 12          /* a multiple of what every level takes at once */
#define HIGH_ROWS 144  /* a chunk of them is 221 KB, and stays in L2 for the panels of a call */
#define HIGH_PANELS 8
#define MANY_ROWS 48 /* from here on a chunk of weights matters less than that of the rows */
#define ROWS_AT_ONCE 24 /* between one finish and the next: what they store drains during the next sums */

struct scratch {
    float *acc;      /* HIGH: [CABE_MATMUL_PANELS_MAX][rows][16]; INT8: [CABE_MATMUL_INTS_PANELS][rows][16] */
    float *wide;       /* [CABE_MATMUL_PANELS_MAX][CABE_MATMUL_CHUNK][16] */
    uint8_t *unpacked; /* a chunk of a panel, the same bytes: a product uses one of the two */
};

int cabe_matmul_quantises(enum cabe_dtype dtype, enum cabe_precision precision)
{
    return precision == CABE_PRECISION_INT8 && (dtype == CABE_I8 || dtype == CABE_Q8_0 || dtype == CABE_Q4_0 ||
                                                dtype == CABE_Q4_1 || dtype == CABE_Q4_K || dtype == CABE_Q6_K);
}

static int in_integers(const struct cabe_matmul *mm)
{
    return cabe_matmul_quantises(mm->dtype, mm->precision);
}

static int64_t up(int64_t value, int64_t step)
{
    return (value + step - 1) / step;
}

static int64_t clamp(int64_t value, int64_t least, int64_t most)
{
    return value < least ? least : value > most ? most : value;
}

/* Whether blocks of rows are large enough that a level unpacks weights first. */
static int unpacks(const struct cabe_kernels *kernels, const struct cabe_matmul *mm)
{
    const struct cabe_matmul_ints *ints = kernels->matmul.ints;

    return ints->unpack && mm->dtype != CABE_I8 && mm->t >= ints->unpack_rows;
}

static int is_float(enum cabe_dtype dtype)
{
    return dtype == CABE_F32 || dtype == CABE_F16 || dtype == CABE_BF16;
}

/* Whether weights are widened in registers, for few rows. */
static int is_few(const struct cabe_kernels *kernels, const struct cabe_matmul *mm)
{
    return kernels->matmul.floats->few && is_float(mm->dtype) &&
           mm->t <= (mm->dtype == CABE_F32 ? CABE_MATMUL_FEW : CABE_MATMUL_FEW_16);
}

/* Precision HIGH: whether a chunk of the rows stays in cache for several panels, not all inputs for one. */
static int by_chunks(const struct cabe_kernels *kernels, const struct cabe_matmul *mm)
{
    return !in_integers(mm) && mm->k > CABE_MATMUL_CHUNK && mm->t > CABE_MATMUL_FEW && !is_few(kernels, mm);
}

/* Panels of one call. */
static int64_t step_of(const struct cabe_kernels *kernels, const struct cabe_matmul *mm)
{
    const struct cabe_matmul_floats *floats = kernels->matmul.floats;

    if (in_integers(mm))
        return unpacks(kernels, mm) && mm->t >= MANY_ROWS ? CABE_MATMUL_INTS_PANELS : 1;
    if (by_chunks(kernels, mm))
        return HIGH_PANELS;
    return is_few(kernels, mm) || mm->t <= CABE_MATMUL_FEW ? floats->panels_few : floats->panels_many;
}

void cabe_matmul_cut(const struct cabe_kernels *kernels, const struct cabe_matmul *mm, struct cabe_matmul_plan *plan)
{
    int64_t row_bytes = mm->k * (in_integers(mm) ? 1 : (int64_t)sizeof(float)) + 1;
    int64_t most = clamp(L2_SHARE / row_bytes / ROWS_STEP * ROWS_STEP, ROWS_STEP, CABE_MATMUL_ROWS_MAX);
    double panel_ops;

    *plan = (struct cabe_matmul_plan){.n_panels = up(mm->n, CABE_PANEL),
                                      .step = step_of(kernels, mm),
                                      .panel_bytes = cabe_panel_bytes(mm->dtype, mm->k),
                                      .record_bytes = cabe_record_bytes(mm->dtype, mm->k),
                                      .in_integers = in_integers(mm),
                                      .unpacks = unpacks(kernels, mm),
                                      .is_few = is_few(kernels, mm)};
    if (plan->in_integers && plan->unpacks) /* a chunk of the rows stays in L2 for the panels of a call */
        most = CABE_MATMUL_ROWS_MAX;
    else if (by_chunks(kernels, mm))
        most = HIGH_ROWS;
    else if (plan->is_few) /* the weights come once */
        most = CABE_MATMUL_ROWS_MAX;
    if (mm->t == 0 || mm->n == 0)
        return;
    plan->rows = clamp(up(up(mm->t, up(mm->t, most)), ROWS_STEP) * ROWS_STEP, ROWS_STEP, most);
    plan->n_row_blocks = up(mm->t, plan->rows);
    panel_ops = 2.0 * CABE_PANEL * (double)mm->k * (double)(mm->t < plan->rows ? mm->t : plan->rows) + 1;
    plan->panels = panel_ops * (double)plan->n_panels < TILE_OPS ? plan->n_panels : (int64_t)(TILE_OPS / panel_ops);
    if (plan->n_row_blocks < TILES_MIN)
        plan->panels = clamp(plan->panels, 1, up(plan->n_panels, up(TILES_MIN, plan->n_row_blocks)));
    if (mm->t <= CABE_MATMUL_OWN)
        plan->panels = plan->step;
    plan->panels = up(clamp(plan->panels, 1, plan->n_panels), plan->step) * plan->step;
    plan->n_groups = up(plan->n_panels, plan->panels);
}

#define ACC_BYTES ((uint64_t)CABE_MATMUL_INTS_PANELS * CABE_MATMUL_ROWS_MAX * CABE_PANEL * sizeof(float))
#define WIDE_BYTES ((uint64_t)CABE_MATMUL_PANELS_MAX * CABE_MATMUL_CHUNK * CABE_PANEL * sizeof(float))
#define UNPACKED_BYTES ((uint64_t)CABE_MATMUL_INTS_CHUNK * CABE_PANEL * CABE_MATMUL_UNPACKED)

uint64_t cabe_matmul_scratch_bytes(const struct cabe_kernels *kernels, int64_t t_max, int64_t k_max)
{
    (void)kernels;
    (void)t_max;
    (void)k_max;
    return ACC_BYTES + (UNPACKED_BYTES > WIDE_BYTES ? UNPACKED_BYTES : WIDE_BYTES);
}

static struct scratch scratch_in(void *scratch)
{
    uint8_t *rest = (uint8_t *)scratch + ACC_BYTES;

    return (struct scratch){.acc = scratch, .wide = (float *)(void *)rest, .unpacked = rest};
}

uint64_t cabe_matmul_shared_bytes(const struct cabe_kernels *kernels, int64_t t_max, int64_t k_max)
{
    (void)kernels;
    return (uint64_t)t_max * cabe_record_bytes(CABE_Q6_K, k_max); /* no other is larger */
}

void cabe_matmul_prepare(const struct cabe_kernels *kernels, const struct cabe_matmul *mm, void *shared,
                         int64_t row_begin, int64_t row_end)
{
    uint64_t record = cabe_record_bytes(mm->dtype, mm->k);

    if (!in_integers(mm))
        return;
    for (int64_t r = row_begin; r < row_end; r++)
        kernels->matmul.ints->quantise(mm->dtype, mm->x + r * mm->x_stride, mm->k,
                                        (uint8_t *)shared + (uint64_t)r * record);
}

int64_t cabe_matmul_tiles(const struct cabe_kernels *kernels, const struct cabe_matmul *mm)
{
    struct cabe_matmul_plan plan;

    cabe_matmul_cut(kernels, mm, &plan);
    return plan.n_row_blocks * plan.n_groups;
}

/* The outputs of the last panel that exist. */
static void store_few(const struct cabe_matmul *mm, const float *acc, int64_t rows, int64_t n, const float *bias,
                      const float *residual, float *out)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < n; j++) {
            float value = acc[r * CABE_PANEL + j];

            if (bias)
                value += bias[j];
            if (residual)
                value += residual[r * mm->out_stride + j];
            out[r * mm->out_stride + j] = value;
        }
}

static void finish(const struct cabe_kernels *kernels, const struct cabe_matmul *mm, float *acc, int64_t row,
                   int64_t rows, int64_t panel)
{
    const struct cabe_matmul_floats *level = kernels->matmul.floats;
    int64_t column = panel * CABE_PANEL, n = clamp(mm->n - column, 0, CABE_PANEL);
    const float *bias = mm->bias ? mm->bias + column : NULL;
    const float *residual = mm->residual ? mm->residual + row * mm->out_stride + column : NULL;
    float *out = mm->out + row * mm->out_stride + column;

    if (mm->act != CABE_ACT_NONE) {
        float some[CABE_PANEL] = {0};

        for (int64_t j = 0; bias && j < n; j++)
            some[j] = bias[j];
        if (bias)
            level->store(acc, rows, some, NULL, acc, CABE_PANEL);
        kernels->row.act(mm->act, acc, acc, rows * CABE_PANEL);
        bias = NULL;
    }
    if (n == CABE_PANEL)
        level->store(acc, rows, bias, residual, out, mm->out_stride);
    else
        store_few(mm, acc, rows, n, bias, residual, out);
}

/* Brings what finish() will write into cache during the sums; without it f32 loses 3 %. */
static void fetch_out(const struct cabe_matmul *mm, int64_t row, int64_t rows, int64_t panel)
{
    for (int64_t r = row; r < row + rows; r++)
        __builtin_prefetch(mm->out + r * mm->out_stride + panel * CABE_PANEL, 1);
}

struct high { /* rows, panels and inputs of one pass over weights in L1 */
    int64_t row, rows, panel, n_panels, k, n;
};

static void high_chunk(const struct cabe_kernels *kernels, const struct cabe_matmul *mm, const struct scratch *s,
                       const struct high *h, float *acc)
{
    const struct cabe_matmul_floats *level = kernels->matmul.floats;
    const uint64_t panel_bytes = cabe_panel_bytes(mm->dtype, mm->k);
    const uint8_t *w = (const uint8_t *)mm->w + (uint64_t)h->panel * panel_bytes;
    const int64_t bytes = mm->dtype == CABE_F32 ? 64 : is_float(mm->dtype) ? 32 : 0; /* of an input */
    const char *ahead = (const char *)w + (uint64_t)h->n_panels * panel_bytes + h->k * bytes;
    const int64_t tiles = up(clamp(h->rows, 0, ROWS_AT_ONCE), ROWS_STEP / 2); /* of rows, each to fetch its part */
    const int last = h->k + h->n == mm->k;
    int64_t stride = h->n * CABE_PANEL;
    const float *wide = s->wide;

    if (mm->dtype == CABE_F32) {
        wide = (const float *)(const void *)w + h->k * CABE_PANEL;
        stride = (int64_t)(panel_bytes / sizeof(float));
    } else {
        for (int64_t p = 0; p < h->n_panels; p++)
            level->widen(mm->dtype, w + (uint64_t)p * panel_bytes, mm->k, h->k, h->k + h->n, s->wide + p * stride);
    }
    for (int64_t r = 0; r < h->rows; r += ROWS_AT_ONCE) {
        int64_t some = clamp(h->rows - r, 0, ROWS_AT_ONCE);

        if (last)
            fetch_out(mm, h->row + r, some, h->panel);
        level->f32(mm->x + (h->row + r) * mm->x_stride + h->k, mm->x_stride, some, wide, stride, h->n_panels, h->n, acc,
                   h->k == 0, r ? (const char *)wide : ahead, r ? 0 : clamp(bytes * 4 / tiles, 0, 64));
        for (int64_t p = 0; last && p < h->n_panels; p++)
            finish(kernels, mm, acc + p * some * CABE_PANEL, h->row + r, some, h->panel + p);
        acc += some * h->n_panels * CABE_PANEL;
    }
}

/* A block of rows with n_panels panels, precision HIGH. */
static void run_high(const struct cabe_kernels *kernels, const struct cabe_matmul *mm,
                     const struct cabe_matmul_plan *plan, const struct scratch *s, int64_t row, int64_t rows,
                     int64_t panel, int64_t n_panels)
{
    const struct cabe_matmul_floats *level = kernels->matmul.floats;
    const uint64_t panel_bytes = plan->panel_bytes;
    const uint8_t *w = (const uint8_t *)mm->w + (uint64_t)panel * panel_bytes;
    const int is_few = mm->t <= CABE_MATMUL_FEW;
    const int64_t at_once = is_few ? level->panels_few : level->panels_many;
    const int64_t chunk = is_few && mm->dtype != CABE_F32 ? CABE_MATMUL_FEW_CHUNK : CABE_MATMUL_CHUNK;
    int64_t k = 0;

    if (plan->is_few) {
        level->few(mm->dtype, mm->x + row * mm->x_stride, mm->x_stride, rows, w, panel_bytes, n_panels, mm->k, s->acc);
        for (int64_t p = 0; p < n_panels; p++)
            finish(kernels, mm, s->acc + p * rows * CABE_PANEL, row, rows, panel + p);
        return;
    }
    do { /* once even when there are no inputs */
        int64_t n = clamp(mm->k - k, 0, chunk);

        for (int64_t p = 0; p < n_panels; p += at_once)
            high_chunk(kernels, mm, s, &(struct high){row, rows, panel + p, clamp(n_panels - p, 0, at_once), k, n},
                       s->acc + p * rows * CABE_PANEL);
        k += chunk;
    } while (k < mm->k);
}

/* A block of rows with n_panels panels, precision INT8. */
static void run_ints(const struct cabe_kernels *kernels, const struct cabe_matmul *mm,
                     const struct cabe_matmul_plan *plan, const uint8_t *records, const struct scratch *s, int64_t row,
                     int64_t rows, int64_t panel, int64_t n_panels)
{
    const struct cabe_matmul_ints *level = kernels->matmul.ints;
    const uint64_t panel_bytes = plan->panel_bytes, record = plan->record_bytes;
    const int64_t chunk = plan->unpacks ? CABE_MATMUL_INTS_CHUNK : mm->k;
    const int64_t ahead = n_panels == 1 ? CABE_MATMUL_AHEAD : (int64_t)panel_bytes; /* what comes next */
    int64_t k = 0, end;

    do { /* once even when there are no inputs */
        end = clamp(k + chunk, 0, mm->k);
        for (int64_t p = 0; p < n_panels; p++) {
            const uint8_t *w = (const uint8_t *)mm->w + (uint64_t)(panel + p) * panel_bytes, *unpacked = NULL;

            if (plan->unpacks) {
                level->unpack(mm->dtype, w, mm->k, k, end, s->unpacked);
                unpacked = s->unpacked;
            }
            for (int64_t r = 0; r < rows; r += ROWS_AT_ONCE) {
                int64_t some = clamp(rows - r, 0, ROWS_AT_ONCE);
                float *acc = s->acc + (p * rows + r) * CABE_PANEL;

                if (end == mm->k)
                    fetch_out(mm, row + r, some, panel + p);
                level->dot(mm->dtype, records + (uint64_t)(row + r) * record, some, w, unpacked, mm->k, k, end,
                           r ? 0 : ahead, acc);
                if (end == mm->k)
                    finish(kernels, mm, acc, row + r, some, panel + p);
            }
        }
        k = end;
    } while (k < mm->k);
}

static void run_tile(const struct cabe_kernels *kernels, const struct cabe_matmul *mm,
                     const struct cabe_matmul_plan *plan, const uint8_t *records, const struct scratch *s, int64_t tile)
{
    int64_t block = plan->n_row_blocks == 1 ? 0 : tile / plan->n_groups, row = block * plan->rows;
    int64_t rows = clamp(mm->t - row, 0, plan->rows), panel = (tile - block * plan->n_groups) * plan->panels;
    int64_t end = clamp(panel + plan->panels, 0, plan->n_panels);

    for (; panel < end; panel += plan->step) {
        int64_t n = clamp(end - panel, 0, plan->step);

        if (plan->in_integers)
            run_ints(kernels, mm, plan, records, s, row, rows, panel, n);
        else
            run_high(kernels, mm, plan, s, row, rows, panel, n);
    }
}

/* Few rows, precision INT8: nothing but one panel after another. */
static void run_few(const struct cabe_kernels *kernels, const struct cabe_matmul *mm,
                    const struct cabe_matmul_plan *plan, const uint8_t *records, float *acc, int64_t panel, int64_t end)
{
    const struct cabe_matmul_ints *level = kernels->matmul.ints;
    const uint8_t *w = (const uint8_t *)mm->w + (uint64_t)panel * plan->panel_bytes;

    for (; panel < end; panel++, w += plan->panel_bytes) {
        level->dot(mm->dtype, records, mm->t, w, NULL, mm->k, 0, mm->k, CABE_MATMUL_AHEAD, acc);
        finish(kernels, mm, acc, 0, mm->t, panel);
    }
}

void cabe_matmul_run_cut(const struct cabe_kernels *kernels, const struct cabe_matmul *mm,
                         const struct cabe_matmul_plan *plan, const void *shared, void *scratch, int64_t tile_begin,
                         int64_t tile_end)
{
    struct scratch s = scratch_in(scratch);

    if (plan->in_integers && !plan->unpacks && mm->t <= CABE_MATMUL_OWN) {
        int64_t end = tile_end * plan->panels;

        run_few(kernels, mm, plan, shared, s.acc, tile_begin * plan->panels,
                end < plan->n_panels ? end : plan->n_panels);
        return;
    }
    for (int64_t tile = tile_begin; tile < tile_end; tile++)
        run_tile(kernels, mm, plan, shared, &s, tile);
}

void cabe_matmul_run(const struct cabe_kernels *kernels, const struct cabe_matmul *mm, const void *shared,
                     void *scratch, int64_t tile_begin, int64_t tile_end)
{
    struct cabe_matmul_plan plan;

    assert(cabe_packed_ok(mm->dtype, CABE_PANELS, mm->n, mm->k));
    cabe_matmul_cut(kernels, mm, &plan);
    cabe_matmul_run_cut(kernels, mm, &plan, shared, scratch, tile_begin, tile_end);
}
