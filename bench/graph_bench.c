/*
 * Where the time of a graph goes: a MiniLM (6 layers of 384, feed-forward 1536, 12 heads) with random
 * weights, on sequences of 32 tokens.
 *
 *     graph_bench [threads] [dtype] [tokens...]      dtype: f32 f16 bf16 int8 q8_0 q4_0
 *
 * A line per size: tokens/s, GFLOP/s of the products, and the share of matmul, attention and everything else.
 * The median of several runs; seconds are those of the calling thread.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "device/device.h"

#define N_LAYERS 6
#define C 384
#define F 1536
#define N_HEADS 12
#define N_WORDS 30522
#define LENGTH 32
#define N_RUNS 15

static struct cabe_error err;

static void must(enum cabe_status status)
{
    if (status != CABE_OK) {
        fprintf(stderr, "graph_bench: %s\n", err.text);
        exit(1);
    }
}

static enum cabe_dtype panel_dtype;
static enum cabe_precision precision;

static cabe_value weight(struct cabe_graph *g, int layer, const char *what, int64_t rows, int64_t cols)
{
    char name[64];

    snprintf(name, sizeof name, "%d.%s", layer, what);
    return rows == 1 ? cabe_graph_weight(g, name, CABE_F32, CABE_ROWS, 1, cols)
                     : cabe_graph_weight(g, name, panel_dtype, CABE_PANELS, rows, cols);
}

static cabe_value matmul(struct cabe_graph *g, int layer, const char *what, cabe_value x, int64_t n,
                         int64_t k, cabe_value residual, enum cabe_act act)
{
    char bias[32];

    snprintf(bias, sizeof bias, "%s.b", what);
    return cabe_graph_matmul(g, x, weight(g, layer, what, n, k), weight(g, layer, bias, 1, n), residual, act,
                             precision);
}

static cabe_value norm(struct cabe_graph *g, int layer, const char *what, cabe_value x)
{
    char beta[32];

    snprintf(beta, sizeof beta, "%s.b", what);
    return cabe_graph_norm(g, x, weight(g, layer, what, 1, C), weight(g, layer, beta, 1, C), CABE_NO_VALUE,
                           CABE_NORM_LAYER, 1e-12f);
}

static struct cabe_graph *build(void)
{
    const struct cabe_dim one = {1, CABE_SYM_ONE, 0}, tokens = {1, CABE_SYM_TOKENS, 0};
    struct cabe_graph *g;
    cabe_value ids, positions, offsets, x, y;

    must(cabe_graph_open(&g, &err));
    ids = cabe_graph_input(g, "ids", CABE_I32, one, tokens);
    positions = cabe_graph_input(g, "positions", CABE_I32, one, tokens);
    offsets = cabe_graph_input(g, "offsets", CABE_I32, one, (struct cabe_dim){1, CABE_SYM_SEQUENCES, 1});
    x = cabe_graph_gather(g, cabe_graph_weight(g, "words", CABE_F16, CABE_ROWS, N_WORDS, C), ids,
                          CABE_NO_VALUE);
    y = cabe_graph_gather(g, cabe_graph_weight(g, "places", CABE_F32, CABE_ROWS, 512, C), positions,
                          CABE_NO_VALUE);
    y = cabe_graph_add(g, y, weight(g, -1, "type", 1, C));
    x = norm(g, -1, "norm", cabe_graph_add(g, x, y));
    for (int i = 0; i < N_LAYERS; i++) {
        cabe_graph_segment(g, "layer");
        y = matmul(g, i, "qkv", x, 3 * C, C, CABE_NO_VALUE, CABE_ACT_NONE);
        y = cabe_graph_attention(g, y, offsets, N_HEADS, N_HEADS, C / N_HEADS, 0.176776695f, CABE_MASK_NONE);
        x = norm(g, i, "n1", matmul(g, i, "out", y, C, C, x, CABE_ACT_NONE));
        y = matmul(g, i, "up", x, F, C, CABE_NO_VALUE, CABE_ACT_GELU_ERF);
        x = norm(g, i, "n2", matmul(g, i, "down", y, C, F, x, CABE_ACT_NONE));
    }
    x = cabe_graph_unit(g, cabe_graph_pool(g, x, offsets, CABE_NO_VALUE, CABE_POOL_MEAN), 1e-12f);
    cabe_graph_output(g, x, "embeddings");
    must(cabe_graph_finish(g, &err));
    return g;
}

/* Small random numbers in whatever form the weight has; norms get ones, so that nothing dies out. */
static void fill(const struct cabe_graph *g, const struct cabe_kernels *kernels, uint8_t *memory,
                 struct cabe_segment_weights *segment)
{
    float *plain = malloc((size_t)N_WORDS * C * sizeof *plain);
    uint64_t at = 0;

    for (size_t i = 0; i < (size_t)N_WORDS * C; i++)
        plain[i] = (float)((int)(i * 2654435761u >> 8) % 2001 - 1000) / 20000.0f;
    for (int32_t s = 0; s < cabe_graph_n_segments(g); s++) {
        segment[s].offset = at;
        at += cabe_graph_segment_bytes(g, s);
    }
    for (cabe_value v = 0; v < cabe_graph_n_values(g); v++) {
        const struct cabe_value_info *info = cabe_graph_value(g, v);
        int64_t rows = info->dim[2].n, cols = info->dim[3].n;
        uint8_t *out = memory + segment[info->segment].offset + info->offset;

        if (info->kind != CABE_WEIGHT)
            continue;
        if (info->packing == CABE_PANELS) {
            void *scratch = aligned_alloc(64, (cabe_matmul_pack_scratch_bytes(cols) / 64 + 2) * 64);

            must(cabe_matmul_pack(CABE_F32, plain, rows, info->dtype, cols, 0, (rows + 15) / 16, scratch, out,
                                  &err));
            free(scratch);
        } else {
            kernels->row.from_f32(info->dtype, plain, out, rows * cols);
        }
    }
    free(plain);
}

static int by_total(const void *a, const void *b)
{
    const struct cabe_program_times *x = a, *y = b;

    return (x->total_ns > y->total_ns) - (x->total_ns < y->total_ns);
}

static void give(struct cabe_program *program, const struct cabe_graph *g, int64_t tokens,
                 int64_t n_sequences)
{
    int32_t *ids = malloc((size_t)(tokens + 1) * sizeof *ids);

    for (int64_t t = 0; t < tokens; t++)
        ids[t] = (int32_t)((uint64_t)t * 7919 % N_WORDS);
    must(cabe_program_upload(program, cabe_graph_find(g, "ids"), ids, (uint64_t)tokens * 4, &err));
    for (int64_t t = 0; t < tokens; t++)
        ids[t] = (int32_t)(t % LENGTH);
    must(cabe_program_upload(program, cabe_graph_find(g, "positions"), ids, (uint64_t)tokens * 4, &err));
    for (int64_t s = 0; s <= n_sequences; s++)
        ids[s] = (int32_t)(s * LENGTH < tokens ? s * LENGTH : tokens);
    must(cabe_program_upload(program, cabe_graph_find(g, "offsets"), ids, (uint64_t)n_sequences * 4 + 4,
                             &err));
    free(ids);
}

static void measure(struct cabe_device *device, const struct cabe_graph *g,
                    const struct cabe_weights *weights, int64_t tokens)
{
    int64_t symbols[CABE_N_SYMBOLS] = {1, tokens, (tokens + LENGTH - 1) / LENGTH};
    struct cabe_program_times runs[N_RUNS], last = {0}, now;
    struct cabe_program *program;
    struct cabe_graph_work work;
    double ops = 0, total;

    must(cabe_program_compile(&program, device, g, symbols, weights, "bench", &err));
    give(program, g, tokens, symbols[CABE_SYM_SEQUENCES]);
    for (int i = -2; i < N_RUNS; i++) {
        struct cabe_event *event;

        must(cabe_program_submit(program, symbols, NULL, &event, &err));
        must(cabe_event_wait(event, &err));
        cabe_program_times(program, &now);
        if (i >= 0)
            runs[i] = (struct cabe_program_times){.total_ns = now.total_ns - last.total_ns,
                                                  .matmul_ns = now.matmul_ns - last.matmul_ns,
                                                  .attention_ns = now.attention_ns - last.attention_ns,
                                                  .rows_ns = now.rows_ns - last.rows_ns};
        last = now;
    }
    qsort(runs, N_RUNS, sizeof runs[0], by_total);
    now = runs[N_RUNS / 2];
    total = (double)now.total_ns;
    cabe_graph_work(g, symbols, &work);
    for (int d = 0; d < CABE_N_DTYPES; d++)
        ops += work.matmul_ops[d][0] + work.matmul_ops[d][1];
    printf("%6lld tokens  %8.3f ms  %8.0f tokens/s  %6.1f GFLOP/s in matmul   matmul %5.1f %%  attention "
           "%5.1f %%  "
           "rows %5.1f %%  rest %5.1f %%\n",
           (long long)tokens, total / 1e6, (double)tokens * 1e9 / total, ops / (double)now.matmul_ns,
           100 * (double)now.matmul_ns / total, 100 * (double)now.attention_ns / total,
           100 * (double)now.rows_ns / total,
           100 * (total - (double)(now.matmul_ns + now.attention_ns + now.rows_ns)) / total);
    cabe_program_close(program);
}

int main(int argc, char **argv)
{
    static const int64_t sizes[] = {1, 8, 32, 128, 512, 1024, 2048};
    struct cabe_ledger_config limits = {.n_devices = 1, .budget_bytes = {CABE_UNLIMITED}};
    struct cabe_device_config config = {.ledger_device = CABE_HOST};
    struct cabe_segment_weights segment[N_LAYERS + 1];
    struct cabe_weights weights = {segment, NULL, NULL};
    int n_threads = argc > 1 ? atoi(argv[1]) : 2;
    struct cabe_graph *g;
    struct cabe_device *device;
    struct cabe_buffer *buffer;
    void *memory;
    uint64_t bytes = 0;

    panel_dtype = cabe_dtype_find(argc > 2 ? argv[2] : "f32");
    precision = panel_dtype == CABE_I8 || panel_dtype == CABE_Q8_0 || panel_dtype == CABE_Q4_0
                    ? CABE_PRECISION_INT8
                    : CABE_PRECISION_HIGH;
    must(cabe_ledger_open(&config.ledger, &limits, &err));
    must(cabe_team_open(&config.team, n_threads, &err));
    must(cabe_kernels_choose(&config.kernels, &err));
    must(cabe_cpu_device_open(&device, &config, &err));
    g = build();
    for (int32_t s = 0; s < cabe_graph_n_segments(g); s++)
        bytes += cabe_graph_segment_bytes(g, s);
    must(cabe_pages_map(&memory, bytes, 1, &err));
    fill(g, config.kernels, memory, segment);
    must(cabe_buffer_adopt(&buffer, device, memory, bytes, &err));
    for (int32_t s = 0; s < cabe_graph_n_segments(g); s++)
        segment[s].buffer = buffer;
    printf("MiniLM, %s, %d threads, %s, sequences of %d; %.1f MB of weights\n", cabe_dtype_name(panel_dtype),
           n_threads, config.kernels->name, LENGTH, (double)bytes / 1e6);
    if (argc > 3)
        for (int i = 3; i < argc; i++)
            measure(device, g, &weights, atoll(argv[i]) > 0 ? atoll(argv[i]) : 1);
    else
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            measure(device, g, &weights, sizes[i]);
    cabe_buffer_free(buffer);
    cabe_pages_unmap(memory, bytes);
    cabe_graph_close(g);
    cabe_device_close(device);
    cabe_team_close(config.team);
    cabe_ledger_close(config.ledger);
    return 0;
}
