/* Decoders: attention over pages, what stands around it, and that no schedule changes a bit. */
#include "fixture.h"

#include <math.h>

#define PAGES ((struct cabe_dim){1, CABE_SYM_PAGES, 0})
#define OUTPUTS ((struct cabe_dim){1, CABE_SYM_OUTPUTS, 0})
#define LAYERS 2
#define HEADS 4
#define KV_HEADS 2
#define DIM 16
#define WIDTH (HEADS * DIM)
#define QKV ((HEADS + 2 * KV_HEADS) * DIM)
#define VOCAB 50
#define SEQS 3
#define TOKENS_MAX 640
#define SEQ_PAGES 40 /* of a sequence */
#define N_PAGES (SEQS * SEQ_PAGES)

static const struct cabe_kv_shape kv_shape = {LAYERS, KV_HEADS, DIM};
static const int64_t bounds[CABE_N_SYMBOLS] = {1, TOKENS_MAX, SEQS, N_PAGES, TOKENS_MAX};

/* ---- the graph ---- */

struct inputs {
    cabe_value offsets, starts, page_offsets, pages, cache;
};

static void add_inputs(struct cabe_graph *g, struct inputs *in)
{
    in->offsets = cabe_graph_input(g, "offsets", CABE_I32, OFFSETS, ONE(1));
    in->starts = cabe_graph_input(g, "starts", CABE_I32, SEQUENCES, ONE(1));
    in->page_offsets = cabe_graph_input(g, "page_offsets", CABE_I32, OFFSETS, ONE(1));
    in->pages = cabe_graph_input(g, "pages", CABE_I32, PAGES, ONE(2));
    in->cache = cabe_graph_state(g, "cache", &kv_shape);
}

static cabe_value cached(struct cabe_graph *g, const struct inputs *in, cabe_value qkv, int layer, int64_t window)
{
    return cabe_graph_cached(g, qkv, in->cache, in->offsets, in->starts, in->page_offsets, in->pages, layer, HEADS,
                             KV_HEADS, DIM, 0.25f, window);
}

static cabe_value named(struct cabe_graph *g, int layer, const char *what, enum cabe_dtype dtype, int64_t n, int64_t k)
{
    char name[64];

    snprintf(name, sizeof name, "layer.%d.%s", layer, what);
    return cabe_graph_weight(g, name, dtype, dtype == CABE_F32 && n == 1 ? CABE_ROWS : CABE_PANELS, n, k);
}

/* q, k and v side by side, v of another dtype. */
static cabe_value apart(struct cabe_graph *g, cabe_value x, int layer, enum cabe_dtype dtype, enum cabe_dtype other,
                        enum cabe_precision precision)
{
    cabe_value wide = cabe_graph_wide(g, x, QKV);
    const int64_t q = HEADS * DIM, k = KV_HEADS * DIM;

    cabe_graph_matmul_into(g, x, named(g, layer, "q", dtype, q, WIDTH), CABE_NO_VALUE, CABE_ACT_NONE, precision, wide,
                           0);
    cabe_graph_matmul_into(g, x, named(g, layer, "k", dtype, k, WIDTH), CABE_NO_VALUE, CABE_ACT_NONE, precision, wide,
                           q);
    return cabe_graph_matmul_into(g, x, named(g, layer, "v", other, k, WIDTH), named(g, layer, "v_bias", CABE_F32, 1, k),
                                  CABE_ACT_NONE, precision, wide, q + k);
}

static cabe_value layer_of(struct cabe_graph *g, const struct inputs *in, cabe_value h, cabe_value angles, int i,
                           enum cabe_dtype dtype, enum cabe_precision precision)
{
    enum cabe_dtype other = dtype == CABE_F32 ? CABE_F16 : CABE_Q8_0;
    cabe_value q_norm = i ? named(g, i, "q_norm", CABE_F32, 1, DIM) : CABE_NO_VALUE;
    cabe_value k_norm = i ? named(g, i, "k_norm", CABE_F32, 1, DIM) : CABE_NO_VALUE;
    cabe_value x = cabe_graph_norm(g, h, named(g, i, "attn_norm", CABE_F32, 1, WIDTH), CABE_NO_VALUE, CABE_NO_VALUE,
                                   CABE_NORM_RMS, 1e-5f);

    x = i ? cabe_graph_matmul(g, x, named(g, i, "qkv", dtype, QKV, WIDTH), CABE_NO_VALUE, CABE_NO_VALUE, CABE_ACT_NONE,
                              precision)
          : apart(g, x, i, dtype, other, precision);
    x = cabe_graph_rope(g, x, angles, q_norm, k_norm, 1e-6f, i ? CABE_ROPE_HALVES : CABE_ROPE_ADJACENT, HEADS,
                        KV_HEADS, DIM);
    x = cached(g, in, x, i, i ? 270 : 0);
    h = cabe_graph_matmul(g, x, named(g, i, "o", dtype, WIDTH, WIDTH), CABE_NO_VALUE, h, CABE_ACT_NONE, precision);
    x = cabe_graph_norm(g, h, named(g, i, "ffn_norm", CABE_F32, 1, WIDTH), CABE_NO_VALUE, CABE_NO_VALUE, CABE_NORM_RMS,
                        1e-5f);
    x = cabe_graph_matmul(g, x, named(g, i, "gate_up", dtype, 192, WIDTH), CABE_NO_VALUE, CABE_NO_VALUE, CABE_ACT_NONE,
                          precision);
    x = cabe_graph_glu(g, x, CABE_ACT_SILU);
    return cabe_graph_matmul(g, x, named(g, i, "down", dtype, WIDTH, 96), CABE_NO_VALUE, h, CABE_ACT_NONE, precision);
}

/* A decoder whose head is its embedding. */
static struct cabe_graph *decoder(enum cabe_dtype dtype, enum cabe_precision precision)
{
    struct cabe_graph *g;
    struct inputs in;
    cabe_value h, angles, table, rows;

    if (cabe_graph_open(&g, &why) != CABE_OK)
        return NULL;
    add_inputs(g, &in);
    table = cabe_graph_weight(g, "token_embedding", dtype, CABE_PANELS, VOCAB, WIDTH);
    angles = cabe_graph_angles(g, cabe_graph_input(g, "positions", CABE_I32, TOKENS, ONE(1)),
                               cabe_graph_weight(g, "inv_freq", CABE_F32, CABE_ROWS, 1, DIM / 2), 1.0f);
    h = cabe_graph_gather(g, table, cabe_graph_input(g, "ids", CABE_I32, TOKENS, ONE(1)), CABE_NO_VALUE);
    for (int i = 0; i < LAYERS; i++) {
        char name[32];

        snprintf(name, sizeof name, "layer.%d", i);
        cabe_graph_segment(g, name);
        h = layer_of(g, &in, h, angles, i, dtype, precision);
    }
    cabe_graph_segment(g, "head");
    rows = cabe_graph_input(g, "rows", CABE_I32, OUTPUTS, ONE(1));
    h = cabe_graph_gather(g, h, rows, CABE_NO_VALUE);
    h = cabe_graph_norm(g, h, cabe_graph_weight(g, "final_norm", CABE_F32, CABE_ROWS, 1, WIDTH), CABE_NO_VALUE,
                        CABE_NO_VALUE, CABE_NORM_RMS, 1e-5f);
    cabe_graph_output(
        g, cabe_graph_matmul(g, h, table, CABE_NO_VALUE, CABE_NO_VALUE, CABE_ACT_NONE, precision), "logits");
    if (cabe_graph_finish(g, &why) == CABE_OK)
        return g;
    cabe_graph_close(g);
    return NULL;
}

/* ---- runs ---- */

struct part { /* rows [first, first + n) of sequence s in one run */
    int s, first, n;
};

struct step {
    int64_t symbols[CABE_N_SYMBOLS];
    int32_t ids[TOKENS_MAX], positions[TOKENS_MAX], offsets[SEQS + 1], starts[SEQS], page_offsets[SEQS + 1];
    int32_t rows[TOKENS_MAX];
    struct cabe_page pages[N_PAGES];
};

static int32_t token_of(int s, int position)
{
    return (s * 31 + position * 17 + position * position) % VOCAB;
}

static int only_f32; /* pages */

/* Pages of a sequence lie apart from each other and are of several formats. */
static struct cabe_page page_of(int s, int p)
{
    uint64_t most = cabe_page_bytes(CABE_KV_F32, CABE_KV_F32, &kv_shape);
    static const enum cabe_kv_format formats[] = {CABE_KV_F32, CABE_KV_Q8, CABE_KV_F16};
    int at = (p * 7 + s * 5) % SEQ_PAGES * SEQS + s;

    return (struct cabe_page){(uint32_t)((uint64_t)at * most / CABE_PAGE_UNIT),
                              only_f32 ? 0 : cabe_page_formats(formats[p % 3], formats[(p + s) % 3])};
}

static void make_step(struct step *step, const struct part *parts, int n_parts)
{
    int64_t t = 0, p = 0;

    memset(step, 0, sizeof *step);
    for (int i = 0; i < n_parts; i++) {
        for (int r = 0; r < parts[i].n; r++, t++) {
            step->ids[t] = token_of(parts[i].s, parts[i].first + r);
            step->positions[t] = parts[i].first + r;
            step->rows[t] = (int32_t)t;
        }
        for (int k = 0; k < (parts[i].first + parts[i].n + 15) / 16; k++)
            step->pages[p++] = page_of(parts[i].s, k);
        step->starts[i] = parts[i].first;
        step->offsets[i + 1] = (int32_t)t;
        step->page_offsets[i + 1] = (int32_t)p;
    }
    step->symbols[CABE_SYM_TOKENS] = t;
    step->symbols[CABE_SYM_SEQUENCES] = n_parts;
    step->symbols[CABE_SYM_PAGES] = p;
    step->symbols[CABE_SYM_OUTPUTS] = t;
}

static void give(struct cabe_program *program, const struct cabe_graph *g, const char *name, const void *data,
                 int64_t n)
{
    if (cabe_graph_find(g, name) != CABE_NO_VALUE)
        OK(cabe_program_upload(program, cabe_graph_find(g, name), data, (uint64_t)n * 4, &why));
}

static void give_step(struct cabe_program *program, const struct cabe_graph *g, const struct step *step)
{
    const int64_t *symbols = step->symbols;

    give(program, g, "ids", step->ids, symbols[CABE_SYM_TOKENS]);
    give(program, g, "positions", step->positions, symbols[CABE_SYM_TOKENS]);
    give(program, g, "offsets", step->offsets, symbols[CABE_SYM_SEQUENCES] + 1);
    give(program, g, "starts", step->starts, symbols[CABE_SYM_SEQUENCES]);
    give(program, g, "page_offsets", step->page_offsets, symbols[CABE_SYM_SEQUENCES] + 1);
    give(program, g, "pages", step->pages, 2 * symbols[CABE_SYM_PAGES]);
    give(program, g, "rows", step->rows, symbols[CABE_SYM_OUTPUTS]);
}

static enum cabe_status run_step(struct cabe_program *program, const struct cabe_graph *g, const struct step *step,
                                 const char *output, float *out, int64_t n, struct cabe_error *err)
{
    struct cabe_event *event;
    enum cabe_status status;

    give_step(program, g, step);
    if ((status = cabe_program_submit(program, step->symbols, NULL, &event, err)) != CABE_OK ||
        (status = cabe_event_wait(event, err)) != CABE_OK)
        return status;
    return cabe_program_download(program, cabe_graph_find(g, output), out, (uint64_t)n * 4, err);
}

/* A machine with a program on it and a cache. */
struct rig {
    struct machine m;
    struct store store;
    struct loaded l;
    struct cabe_buffer *cache;
};

/* With three threads every second segment is streamed. */
static void rig_open(struct rig *rig, struct cabe_graph *g, enum kind kind, int n_threads)
{
    uint64_t page = cabe_page_bytes(CABE_KV_F32, CABE_KV_F32, &kv_shape);

    machine_open(&rig->m, kind, n_threads, 0);
    store_open(&rig->store, g, rig->m.kernels, 7);
    OK(load(&rig->l, &rig->m, g, &rig->store, n_threads == 3 ? MIXED : RESIDENT, bounds, &why));
    OK(cabe_buffer_alloc(&rig->cache, rig->m.device, N_PAGES * page, CABE_PURPOSE_KV, "cache", &why));
    OK(cabe_program_bind(rig->l.program, cabe_graph_find(g, "cache"), rig->cache, &why));
}

static void rig_close(struct rig *rig)
{
    unload(&rig->l);
    cabe_buffer_free(rig->cache);
    store_close(&rig->store);
    machine_close(&rig->m);
}

/* ---- attention over pages ---- */

static float qkv_of(int s, int position, int column)
{
    uint64_t seed = (uint64_t)s * 1000003 + (uint64_t)position * 1009 + (uint64_t)column;

    rnd(&seed);
    rnd(&seed);
    return rnd_float(&seed) * 2.0f;
}

static void plain_attention(int s, int position, int head, int64_t window, double out[DIM])
{
    int k = (HEADS + head / (HEADS / KV_HEADS)) * DIM, v = k + KV_HEADS * DIM;
    int first = window && position + 1 > window ? position + 1 - (int)window : 0;
    double total = 0.0;

    memset(out, 0, DIM * sizeof *out);
    for (int slot = first; slot <= position; slot++) {
        double score = 0.0;

        for (int d = 0; d < DIM; d++)
            score += (double)qkv_of(s, position, head * DIM + d) * (double)qkv_of(s, slot, k + d);
        score = exp(score * 0.25);
        total += score;
        for (int d = 0; d < DIM; d++)
            out[d] += score * (double)qkv_of(s, slot, v + d);
    }
    for (int d = 0; d < DIM; d++)
        out[d] /= total;
}

static void check_rows(const struct part *part, const float *out, int64_t window, double bound)
{
    for (int r = 0; r < part->n; r++)
        for (int h = 0; h < HEADS; h++) {
            double want[DIM];

            plain_attention(part->s, part->first + r, h, window, want);
            for (int d = 0; d < DIM; d++)
                if (!(fabs((double)out[r * WIDTH + h * DIM + d] - want[d]) <= bound))
                    fail_msg("sequence %d, row %d, head %d: %g, wanted %g", part->s, part->first + r, h,
                             (double)out[r * WIDTH + h * DIM + d], want[d]);
        }
}

static void attends_over_pages(void **state)
{
    static const struct part runs[][SEQS] = {
        {{0, 0, 75}, {1, 0, 1}, {2, 0, 30}}, {{2, 30, 33}, {0, 75, 1}, {1, 1, 100}}, {{1, 101, 1}, {2, 63, 1}}};
    static float qkv[TOKENS_MAX * QKV], out[TOKENS_MAX * WIDTH];
    static struct step step;

    (void)state;
    for (int turn = 0; turn < 4; turn++)
        for (int64_t window = 0; window <= 40; window += 40) {
            enum kind kind = turn % 2 ? ON_SIM : ON_CPU;
            struct cabe_graph *g;
            struct inputs in;
            struct rig rig;

            OK(cabe_graph_open(&g, &why));
            add_inputs(g, &in);
            cabe_graph_output(g, cached(g, &in, cabe_graph_input(g, "qkv", CABE_F32, TOKENS, ONE(QKV)), 1, window),
                              "y");
            OK(cabe_graph_finish(g, &why));
            only_f32 = turn < 2;
            rig_open(&rig, g, kind, kind == ON_SIM ? 2 : 1);
            for (int i = 0; i < 3; i++) {
                int n_parts = i == 2 ? 2 : 3, t = 0;

                make_step(&step, runs[i], n_parts);
                for (int p = 0; p < n_parts; p++)
                    for (int r = 0; r < runs[i][p].n; r++, t++)
                        for (int c = 0; c < QKV; c++)
                            qkv[t * QKV + c] = qkv_of(runs[i][p].s, runs[i][p].first + r, c);
                give(rig.l.program, g, "qkv", qkv, t * QKV);
                OK(run_step(rig.l.program, g, &step, "y", out, t * WIDTH, &why));
                for (int p = 0; p < n_parts; p++) /* with Q8 among the pages a hundredth or two is lost */
                    check_rows(&runs[i][p], out + step.offsets[p] * WIDTH, window, only_f32 ? 8e-6 : 0.04);
            }
            rig_close(&rig);
            cabe_graph_close(g);
        }
    only_f32 = 0;
}

/* ---- schedules ---- */

static const int lengths[SEQS] = {70, 300, 621};

/* All sequences, each alone and at once; logits [sequence][position]. */
static void run_alone(const struct rig *rig, const struct cabe_graph *g, float *logits)
{
    static struct step step;

    for (int s = 0; s < SEQS; s++) {
        struct part part = {s, 0, lengths[s]};

        make_step(&step, &part, 1);
        OK(run_step(rig->l.program, g, &step, "logits", logits + s * TOKENS_MAX * VOCAB, lengths[s] * VOCAB, &why));
    }
}

/* In pieces, beside each other, some one row at a time. */
static void run_mixed(const struct rig *rig, const struct cabe_graph *g, uint64_t seed, float *logits)
{
    static float out[TOKENS_MAX * VOCAB];
    static struct step step;
    int done[SEQS] = {0};

    for (;;) {
        struct part parts[SEQS];
        int n = 0, one = rnd(&seed) % 2 == 0, t = 0;

        for (int i = 0, turn = (int)(rnd(&seed) % SEQS); i < SEQS; i++) {
            int s = (i + turn) % SEQS, left = lengths[s] - done[s], some = one ? 1 : 1 + (int)(rnd(&seed) % 50);

            if (left > 0 && rnd(&seed) % 4)
                parts[n++] = (struct part){s, done[s], some < left ? some : left};
        }
        if (done[0] == lengths[0] && done[1] == lengths[1] && done[2] == lengths[2])
            return;
        if (n == 0)
            continue;
        make_step(&step, parts, n);
        OK(run_step(rig->l.program, g, &step, "logits", out, step.symbols[CABE_SYM_OUTPUTS] * VOCAB, &why));
        for (int i = 0; i < n; t += parts[i++].n) {
            memcpy(logits + (parts[i].s * TOKENS_MAX + parts[i].first) * VOCAB, out + t * VOCAB,
                   (size_t)(parts[i].n * VOCAB) * sizeof(float));
            done[parts[i].s] += parts[i].n;
        }
    }
}

static void schedules_do_not_matter(void **state)
{
    static const struct {
        enum cabe_dtype dtype;
        enum cabe_precision precision;
    } cases[] = {{CABE_F32, CABE_PRECISION_HIGH}, {CABE_Q4_0, CABE_PRECISION_INT8}, {CABE_Q8_0, CABE_PRECISION_HIGH}};
    static float want[SEQS * TOKENS_MAX * VOCAB], got[SEQS * TOKENS_MAX * VOCAB];

    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct cabe_graph *g = decoder(cases[c].dtype, cases[c].precision);
        struct rig rig;

        if (!g)
            fail_msg("%s", why.text);
        for (int n_threads = 1; n_threads <= 3; n_threads++) {
            enum kind kind = n_threads == 2 ? ON_SIM : ON_CPU;

            rig_open(&rig, g, kind, n_threads);
            memset(got, 0, sizeof got);
            run_alone(&rig, g, n_threads == 1 ? want : got);
            if (n_threads > 1)
                assert_memory_equal(got, want, sizeof want);
            rig_close(&rig);
            rig_open(&rig, g, kind, n_threads);
            memset(got, 0, sizeof got);
            run_mixed(&rig, g, (uint64_t)n_threads, got);
            assert_memory_equal(got, want, sizeof want);
            rig_close(&rig);
        }
        assert_true(want[0] != want[1] && isfinite(want[0]));
        cabe_graph_close(g);
    }
}

/* ---- what stands around ---- */

static void embeds_out_of_the_head(void **state)
{
    struct cabe_graph *g;
    cabe_value table, ids;
    struct rig rig;
    static struct step step;
    struct part part = {0, 0, 20};
    static float out[20 * 64], want[64];
    static const enum cabe_dtype dtypes[] = {CABE_F32, CABE_F16, CABE_Q8_0, CABE_Q4_0};
    struct inputs in;

    (void)state;
    for (int i = 0; i < 4; i++) {
        OK(cabe_graph_open(&g, &why));
        add_inputs(g, &in);
        table = cabe_graph_weight(g, "table", dtypes[i], CABE_PANELS, VOCAB, 64);
        ids = cabe_graph_input(g, "ids", CABE_I32, TOKENS, ONE(1));
        cabe_graph_output(g,
                          cabe_graph_gather(g, table, ids, cabe_graph_weight(g, "scale", CABE_F32, CABE_ROWS, VOCAB, 1)),
                          "y");
        OK(cabe_graph_finish(g, &why));
        rig_open(&rig, g, ON_CPU, 2);
        make_step(&step, &part, 1);
        OK(run_step(rig.l.program, g, &step, "y", out, 20 * 64, &why));
        for (int r = 0; r < 20; r++) {
            const float *scale = rig.store.plain[cabe_graph_find(g, "scale")];

            cabe_panel_row(dtypes[i], rig.store.memory + cabe_graph_value(g, table)->offset, 64, step.ids[r], want);
            for (int k = 0; k < 64; k++)
                assert_true(out[r * 64 + k] == want[k] * scale[step.ids[r]]);
        }
        rig_close(&rig);
        cabe_graph_close(g);
    }
}

/* Parts of a wide value are, bit by bit, what each product is alone. */
static void products_lie_side_by_side(void **state)
{
    static const enum cabe_dtype dtypes[] = {CABE_Q4_0, CABE_Q4_0, CABE_Q8_0};
    static const int64_t n[] = {40, 16, 24};
    static float x[64 * 64], wide[64 * 80], alone[64 * 40];
    static struct step step;

    (void)state;
    for (int rows = 1; rows <= 64; rows += 63) {
        struct cabe_graph *g;
        cabe_value in, into, w[3];
        struct inputs inputs;
        struct part part = {0, 0, rows};
        struct rig rig;
        int64_t column = 0;

        OK(cabe_graph_open(&g, &why));
        add_inputs(g, &inputs);
        in = cabe_graph_input(g, "x", CABE_F32, TOKENS, ONE(64));
        into = cabe_graph_wide(g, in, 80);
        for (int i = 0; i < 3; column += n[i++]) {
            char name[8];

            snprintf(name, sizeof name, "w%d", i);
            w[i] = cabe_graph_weight(g, name, dtypes[i], CABE_PANELS, n[i], 64);
            assert_int_equal(cabe_graph_matmul_into(g, in, w[i], CABE_NO_VALUE, CABE_ACT_SILU, CABE_PRECISION_INT8,
                                                    into, column),
                             into);
        }
        cabe_graph_output(g, into, "wide");
        for (int i = 0; i < 3; i++) {
            char name[8];

            snprintf(name, sizeof name, "y%d", i);
            cabe_graph_output(g,
                              cabe_graph_matmul(g, in, w[i], CABE_NO_VALUE, CABE_NO_VALUE, CABE_ACT_SILU,
                                                CABE_PRECISION_INT8),
                              name);
        }
        OK(cabe_graph_finish(g, &why));
        rig_open(&rig, g, ON_SIM, 2);
        for (uint64_t seed = 5, i = 0; i < 64 * 64; i++)
            x[i] = rnd_float(&seed);
        give(rig.l.program, g, "x", x, rows * 64);
        make_step(&step, &part, 1);
        OK(run_step(rig.l.program, g, &step, "wide", wide, rows * 80, &why));
        column = 0;
        for (int i = 0; i < 3; column += n[i++]) {
            char name[8];

            snprintf(name, sizeof name, "y%d", i);
            OK(cabe_program_download(rig.l.program, cabe_graph_find(g, name), alone, (uint64_t)(rows * n[i]) * 4,
                                     &why));
            for (int r = 0; r < rows; r++)
                assert_memory_equal(wide + r * 80 + column, alone + r * n[i], (size_t)n[i] * 4);
        }
        rig_close(&rig);
        cabe_graph_close(g);
    }
}

static void turns_and_gates(void **state)
{
    struct cabe_graph *g;
    cabe_value qkv, angles;
    struct inputs in;
    struct rig rig;
    static struct step step;
    struct part part = {0, 5, 50};
    static float x[50 * QKV], y[50 * QKV], z[50 * QKV / 2];
    const float *freq;

    (void)state;
    OK(cabe_graph_open(&g, &why));
    add_inputs(g, &in);
    qkv = cabe_graph_input(g, "qkv", CABE_F32, TOKENS, ONE(QKV));
    angles = cabe_graph_angles(g, cabe_graph_input(g, "positions", CABE_I32, TOKENS, ONE(1)),
                               cabe_graph_weight(g, "inv_freq", CABE_F32, CABE_ROWS, 4, 1), 1.5f);
    cabe_graph_output(g,
                      cabe_graph_rope(g, qkv, angles, CABE_NO_VALUE, CABE_NO_VALUE, 0.0f, CABE_ROPE_ADJACENT, HEADS,
                                      KV_HEADS, DIM),
                      "y");
    cabe_graph_output(g, cabe_graph_glu(g, qkv, CABE_ACT_SILU), "z");
    OK(cabe_graph_finish(g, &why));
    rig_open(&rig, g, ON_SIM, 2);
    freq = rig.store.plain[cabe_graph_find(g, "inv_freq")];
    for (int r = 0; r < 50; r++)
        for (int c = 0; c < QKV; c++)
            x[r * QKV + c] = qkv_of(1, r, c);
    give(rig.l.program, g, "qkv", x, 50 * QKV);
    make_step(&step, &part, 1);
    OK(run_step(rig.l.program, g, &step, "y", y, 50 * QKV, &why));
    OK(cabe_program_download(rig.l.program, cabe_graph_find(g, "z"), z, sizeof z, &why));
    for (int r = 0; r < 50; r++) {
        for (int c = 0; c < QKV; c++) {
            int head = c / DIM, d = c % DIM, is_v = head >= HEADS + KV_HEADS;
            double angle = (r + 5) * (double)freq[d / 2 % 4], co = 1.5 * cos(angle), si = 1.5 * sin(angle);
            const float *row = x + r * QKV;
            double want = is_v || d >= 8 ? (double)row[c]
                          : d % 2        ? (double)row[c - 1] * si + (double)row[c] * co
                                         : (double)row[c] * co - (double)row[c + 1] * si;

            assert_true(fabs((double)y[r * QKV + c] - want) < 2e-5);
        }
        for (int c = 0; c < QKV / 2; c++) {
            double gate = (double)x[r * QKV + c];

            assert_true(fabs((double)z[r * QKV / 2 + c] - gate / (1 + exp(-gate)) * (double)x[r * QKV + QKV / 2 + c]) <
                        2e-5);
        }
    }
    rig_close(&rig);
    cabe_graph_close(g);
}

/* ---- what is refused ---- */

static void expect_refused(const struct rig *rig, const struct cabe_graph *g, const struct step *step,
                           const char *message)
{
    struct cabe_error err = {.status = CABE_OK};
    float out[4];

    assert_int_equal(run_step(rig->l.program, g, step, "logits", out, 0, &err), CABE_ERR_ARGUMENT);
    assert_string_equal(err.text, message);
}

static void refuses_bad_tables(void **state)
{
    struct cabe_graph *g = decoder(CABE_F32, CABE_PRECISION_HIGH);
    static const struct part parts[] = {{0, 20, 10}, {1, 0, 6}};
    static struct step good, step;
    struct rig rig;

    (void)state;
    rig_open(&rig, g, ON_SIM, 1);
    make_step(&good, parts, 2);
#define REFUSED(change, message)                                                                                      \
    do {                                                                                                             \
        step = good;                                                                                                 \
        change;                                                                                                      \
        expect_refused(&rig, g, &step, message);                                                                     \
    } while (0)
    REFUSED(step.ids[3] = -1, "test: ids[3] is -1, token_embedding has 50 rows");
    REFUSED(step.positions[4] = -2, "test: positions[4] is -2");
    REFUSED(step.rows[1] = 16, "test: rows[1] is 16, matmul:layer.1.down has 16 rows");
    REFUSED(step.offsets[1] = 17, "test: offsets[2] is 16 after 17");
    REFUSED(step.offsets[2] = 15, "test: offsets go from 0 to 15, wanted from 0 to 16");
    REFUSED(step.page_offsets[1] = -1, "test: page_offsets[1] is -1 after 0");
    REFUSED(step.page_offsets[0] = 1, "test: page_offsets go from 1 to 3, wanted from 0 to 3");
    REFUSED(step.starts[0] = 23, "test: sequence 0 has 10 rows from slot 23 on, and 2 pages");
    REFUSED(step.starts[1] = -1, "test: sequence 1 has 6 rows from slot -1 on, and 1 pages");
    REFUSED(step.starts[1] = INT32_MAX, "test: sequence 1 has 6 rows from slot 2147483647 on, and 1 pages");
    REFUSED(step.pages[1].formats = 3, "test: page 1 has formats 0x3");
    REFUSED(step.pages[1].formats = 0x10000, "test: page 1 has formats 0x10000");
    REFUSED(step.pages[2].unit = UINT32_MAX,
            "test: page 2 has 5376 bytes at 274877906880 of the 983040 of cache");
#undef REFUSED
    step = good;
    step.symbols[CABE_SYM_PAGES] = 0;
    give_step(rig.l.program, g, &good);
    {
        struct cabe_event *event;
        struct cabe_error err;

        assert_int_equal(cabe_program_submit(rig.l.program, step.symbols, NULL, &event, &err), CABE_ERR_ARGUMENT);
        assert_string_equal(err.text, "test: 0 pages, compiled for 1 to 120");
    }
    rig_close(&rig);
    cabe_graph_close(g);
}

static void binds_its_own_memory(void **state)
{
    struct cabe_graph *g = decoder(CABE_F32, CABE_PRECISION_HIGH);
    static struct step step;
    struct part part = {0, 0, 4};
    struct cabe_buffer *other;
    struct rig rig;
    struct machine second;
    struct cabe_error err;
    cabe_value cache = cabe_graph_find(g, "cache");
    static _Alignas(64) uint8_t memory[4096];

    (void)state;
    rig_open(&rig, g, ON_CPU, 1);
    make_step(&step, &part, 1);
    assert_int_equal(cabe_program_bind(rig.l.program, cabe_graph_find(g, "ids"), rig.cache, &err), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_program_bind(rig.l.program, -1, rig.cache, &err), CABE_ERR_ARGUMENT);
    OK(cabe_buffer_adopt(&other, rig.m.device, memory, sizeof memory, &why));
    assert_int_equal(cabe_program_bind(rig.l.program, cache, other, &err), CABE_ERR_ARGUMENT);
    cabe_buffer_free(other);
    machine_open(&second, ON_CPU, 1, 0);
    OK(cabe_buffer_alloc(&other, second.device, 4096, CABE_PURPOSE_KV, "other", &why));
    assert_int_equal(cabe_program_bind(rig.l.program, cache, other, &err), CABE_ERR_ARGUMENT);
    assert_string_equal(err.text, "test: cache wants a buffer of cpu's own");
    cabe_buffer_free(other);
    machine_close(&second);
    OK(cabe_program_bind(rig.l.program, cache, NULL, &why));
    expect_refused(&rig, g, &step, "test: cache has no memory bound to it");
    rig_close(&rig);
    cabe_graph_close(g);
}

/* ---- the rest ---- */

/* A run for keys and values only wants no logits; and runs allocate nothing. */
static void runs_allocate_nothing(void **state)
{
    struct cabe_graph *g = decoder(CABE_Q4_0, CABE_PRECISION_INT8);
    static struct step step;
    static float logits[VOCAB];
    struct part prompt = {2, 0, 100}, next = {2, 100, 1};
    struct rig rig;
    uint64_t before;

    (void)state;
    rig_open(&rig, g, ON_SIM, 2);
    before = cabe_memory_count();
    make_step(&step, &prompt, 1);
    step.symbols[CABE_SYM_OUTPUTS] = 0;
    OK(run_step(rig.l.program, g, &step, "logits", logits, 0, &why));
    make_step(&step, &next, 1);
    OK(run_step(rig.l.program, g, &step, "logits", logits, VOCAB, &why));
    assert_int_equal(cabe_memory_count(), before);
    assert_true(isfinite(logits[0]));
    rig_close(&rig);
    cabe_graph_close(g);
}

static void finds_what_is_not_finite(void **state)
{
    static const struct {
        const char *weight, *message;
    } cases[] = {{"layer.1.ffn_norm", "layer.1: the norm \"ffn_norm\" is not finite"},
                 {"layer.0.v_bias", "layer.0: the product \"v\" is not finite"},
                 {"layer.1.down", "layer.1: the product \"down\" is not finite"},
                 {"inv_freq", "begin: the angles \"inv_freq\" is not finite"},
                 {"token_embedding", "begin: the gather \"token_embedding\" is not finite"}};
    static struct step step;
    struct part part = {0, 0, 20};
    static float logits[20 * VOCAB];

    (void)state;
    make_step(&step, &part, 1);
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct cabe_graph *g = decoder(CABE_F32, CABE_PRECISION_HIGH);
        const struct cabe_value_info *info = cabe_graph_value(g, cabe_graph_find(g, cases[c].weight));
        const float nan = NAN;
        struct cabe_error err;
        struct rig rig;

        rig_open(&rig, g, c % 2 ? ON_SIM : ON_CPU, 2);
        OK(run_step(rig.l.program, g, &step, "logits", logits, 20 * VOCAB, &why));
        OK(cabe_program_find_nan(rig.l.program, step.symbols, &why));
        OK(cabe_buffer_upload(rig.l.weights, rig.store.offset[info->segment] + info->offset, &nan, sizeof nan, &why));
        assert_int_equal(cabe_program_find_nan(rig.l.program, step.symbols, &err), CABE_ERR_FORMAT);
        assert_string_equal(err.text, cases[c].message);
        rig_close(&rig);
        cabe_graph_close(g);
    }
}

/* Integers and bytes of a cache have no NaN: it must go on through their scales, to where somebody looks. */
static void not_a_number_goes_through_integers(void **state)
{
    static const enum cabe_dtype dtypes[] = {CABE_Q8_0, CABE_Q4_0, CABE_I8};
    static const char *const weights[] = {"layer.0.ffn_norm", "layer.0.v_bias", "layer.1.k_norm"};
    static struct step step;
    struct part part = {0, 0, 40}; /* pages of Q8 among them */
    static float logits[40 * VOCAB];
    const float nan = NAN;

    (void)state;
    make_step(&step, &part, 1);
    for (int turn = 0; turn < 9; turn++) {
        struct cabe_graph *g = decoder(dtypes[turn % 3], CABE_PRECISION_INT8);
        const struct cabe_value_info *info = cabe_graph_value(g, cabe_graph_find(g, weights[turn / 3]));
        struct cabe_error err;
        struct rig rig;

        rig_open(&rig, g, ON_CPU, 2);
        OK(cabe_buffer_upload(rig.l.weights, rig.store.offset[info->segment] + info->offset, &nan, sizeof nan, &why));
        OK(run_step(rig.l.program, g, &step, "logits", logits, 40 * VOCAB, &why));
        for (int i = 0; i < 40 * VOCAB; i++)
            assert_true(!isfinite(logits[i]));
        assert_int_equal(cabe_program_find_nan(rig.l.program, step.symbols, &err), CABE_ERR_FORMAT);
        assert_int_equal(strncmp(err.text, weights[turn / 3], 7), 0);
        rig_close(&rig);
        cabe_graph_close(g);
    }
}

/* The n-th allocation fails, for every n: a status, and nothing stays reserved. */
static void survives_no_memory(void **state)
{
    int done = 0;

    (void)state;
    for (uint64_t n = 1; !done; n++) {
        struct cabe_graph *g = NULL;
        struct machine m;
        struct store store;
        struct loaded l;
        enum cabe_status status = CABE_ERR_OOM;
        struct cabe_error err;
        uint64_t before = cabe_memory_count();

        cabe_memory_fail_at(n);
        g = decoder(CABE_F32, CABE_PRECISION_HIGH);
        cabe_memory_fail_at(0);
        if (!g) {
            assert_int_equal(why.status, CABE_ERR_OOM);
            continue;
        }
        machine_open(&m, ON_SIM, 1, 0);
        store_open(&store, g, m.kernels, 1);
        before = cabe_memory_count();
        cabe_memory_fail_at(n);
        status = load(&l, &m, g, &store, RESIDENT, bounds, &err);
        cabe_memory_fail_at(0);
        done = cabe_memory_count() - before < n;
        assert_int_equal(status, done ? CABE_OK : CABE_ERR_OOM);
        unload(&l);
        store_close(&store);
        machine_close(&m);
        cabe_graph_close(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attends_over_pages),        cmocka_unit_test(schedules_do_not_matter),
        cmocka_unit_test(embeds_out_of_the_head),    cmocka_unit_test(products_lie_side_by_side),
        cmocka_unit_test(turns_and_gates),           cmocka_unit_test(refuses_bad_tables),
        cmocka_unit_test(binds_its_own_memory),      cmocka_unit_test(runs_allocate_nothing),
        cmocka_unit_test(finds_what_is_not_finite),  cmocka_unit_test(survives_no_memory),
        cmocka_unit_test(not_a_number_goes_through_integers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
