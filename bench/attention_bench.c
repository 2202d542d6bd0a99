/*
 * Attention over KV pages at every level that this CPU has, one thread: a token of decoding at 4,096 tokens of context
 * and a prompt of 512, beside how fast this thread reads memory and multiplies at that level.
 *
 *     attention_bench [name of a level [head size]]
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "kernel/kernel.h"
#include "machine/peak.h"

enum { LAYERS = 16, CONTEXT = 4096, PROMPT = 512, N_PAGES = CONTEXT / CABE_PAGE_TOKENS, RUNS = 9 };

static int32_t dim = 64; /* of a head */
static uint8_t *buffer;
static uint64_t buffer_bytes;
static struct cabe_page pages[N_PAGES];
static float *q, *out;
static void *scratch;
static const struct cabe_peak_set *limits; /* of the level being measured */
static volatile uint64_t seen;

static const struct cabe_peak_set *const sets[CABE_N_LEVELS] = {
    &cabe_peaks_scalar,
#if defined(__x86_64__)
    &cabe_peaks_avx2,
    &cabe_peaks_avx512,
    &cabe_peaks_avx512,
#endif
};

static double read_gb_s(void)
{
    uint64_t start = cabe_clock_ns();

    if (!limits->read)
        return INFINITY;
    seen ^= limits->read(buffer, buffer_bytes);
    return (double)buffer_bytes / (double)(cabe_clock_ns() - start);
}

static double peak_gflop_s(void)
{
    const uint64_t rounds = 100000;
    double best = 0.0;

    for (int i = 0; i < limits->n_ways; i++) {
        uint64_t start = cabe_clock_ns();

        if (limits->way[i].arith != CABE_ARITH_F32)
            continue;
        seen ^= (uint64_t)limits->way[i].run(rounds);
        best = fmax(best, (double)(rounds * limits->way[i].round_ops) / (double)(cabe_clock_ns() - start));
    }
    return best;
}

static void fill(const struct cabe_attention_kernels *kernels, const struct cabe_kv_shape *shape,
                 enum cabe_kv_format format)
{
    uint64_t bytes = cabe_page_bytes(format, format, shape);

    for (int i = 0; i < N_PAGES; i++)
        pages[i] = (struct cabe_page){(uint32_t)((uint64_t)i * bytes / CABE_PAGE_UNIT),
                                      cabe_page_formats(format, format)};
    for (int32_t index = 0; index < shape->n_layers * shape->n_heads; index++) {
        struct cabe_paged paged = {buffer, pages, shape->head_dim, index};

        for (int64_t s = 0; s < CONTEXT; s += PROMPT)
            kernels->write(&paged, s, q, q + dim, 2 * dim, PROMPT);
    }
}

/* Every layer's heads, for queries [slot, slot + n). */
static void step(const struct cabe_attention_kernels *kernels, const struct cabe_kv_shape *shape, int32_t group,
                 int64_t slot, int64_t n, int32_t n_layers)
{
    int64_t stride = (int64_t)shape->n_heads * group * dim, rows = cabe_attend_rows(group);

    for (int32_t index = 0; index < n_layers * shape->n_heads; index++) {
        struct cabe_paged paged = {buffer, pages, shape->head_dim, index};
        int64_t head = (int64_t)(index % shape->n_heads) * group * dim;

        for (int64_t i = 0; i < n; i += rows) {
            struct cabe_attend a = {.q = q + i * stride + head,
                                    .q_stride = stride,
                                    .out = out + i * stride + head,
                                    .out_stride = stride,
                                    .n = n - i < rows ? n - i : rows,
                                    .slot = slot + i,
                                    .group = group,
                                    .scale = 1.0f / sqrtf((float)dim)};

            kernels->attend(&paged, &a, scratch);
        }
    }
}

struct figures { /* medians of the runs */
    double us, least_us, of_reading, of_peak;
};

static double median(double *x)
{
    for (int i = 1; i < RUNS; i++)
        for (int at = i; at > 0 && x[at - 1] > x[at]; at--) {
            double swap = x[at];

            x[at] = x[at - 1];
            x[at - 1] = swap;
        }
    return x[RUNS / 2];
}

/* Each run is set beside limits measured just before it, as other work on the machine moves both. */
static struct figures measure(const struct cabe_attention_kernels *kernels, const struct cabe_kv_shape *shape,
                              int32_t group, int64_t slot, int64_t n, int32_t n_layers, double bytes, double flops)
{
    double us[RUNS], of_reading[RUNS], of_peak[RUNS];
    struct figures f;

    step(kernels, shape, group, slot, n, n_layers);
    for (int run = 0; run < RUNS; run++) {
        double gb_s = read_gb_s(), gflop_s = peak_gflop_s(), ns;
        uint64_t start = cabe_clock_ns();

        step(kernels, shape, group, slot, n, n_layers);
        ns = (double)(cabe_clock_ns() - start);
        us[run] = ns / 1e3;
        of_reading[run] = 100.0 * bytes / ns / gb_s;
        of_peak[run] = 100.0 * flops / ns / gflop_s;
    }
    f.us = median(us);
    f.least_us = us[0];
    f.of_reading = median(of_reading);
    f.of_peak = median(of_peak);
    return f;
}

static void run_level(const char *level, const struct cabe_attention_kernels *kernels)
{
    static const int32_t heads[][2] = {{4, 8}, {3, 3}, {4, 1}}; /* kv heads, group */

    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++)
        for (int format = 0; format < CABE_N_KV_FORMATS; format++) {
            const struct cabe_kv_shape shape = {LAYERS, heads[i][0], dim};
            const enum cabe_kv_format as = (enum cabe_kv_format)format;
            double bytes = (double)cabe_page_bytes(as, as, &shape) * N_PAGES;
            double flops = 4.0 * dim * shape.n_heads * heads[i][1], prompt = flops * PROMPT * (PROMPT + 1) / 2.0;
            struct figures f;

            fill(kernels, &shape, as);
            f = measure(kernels, &shape, heads[i][1], CONTEXT - 1, 1, LAYERS, bytes, flops * CONTEXT * LAYERS);
            printf("%-7s %2d/%d heads of %d, %-3s: decode at %d %7.1f us a layer (least %7.1f), %5.1f GB/s, %3.0f%% of "
                   "reading, %3.0f%% of peak;",
                   level, shape.n_heads * heads[i][1], shape.n_heads, dim, cabe_kv_format_name(as), CONTEXT,
                   f.us / LAYERS, f.least_us / LAYERS, bytes / f.us / 1e3, f.of_reading, f.of_peak);
            f = measure(kernels, &shape, heads[i][1], 0, PROMPT, 1, 0.0, prompt);
            printf(" prompt of %d %7.1f us a layer (least %7.1f), %5.1f GFLOP/s, %3.0f%% of peak\n", PROMPT, f.us,
                   f.least_us, prompt / f.us / 1e3, f.of_peak);
        }
}

int main(int argc, char **argv)
{
    const char *only = argc > 1 ? argv[1] : NULL;
    struct cabe_kv_shape largest;
    struct cabe_error err;
    size_t floats;
    void *mapped;

    if (argc > 2)
        dim = atoi(argv[2]);
    if (dim < 1 || dim > CABE_HEAD_DIM_MAX)
        return 2;
    largest = (struct cabe_kv_shape){LAYERS, 4, dim};
    floats = (size_t)PROMPT * 32 * (size_t)dim;
    buffer_bytes = cabe_page_bytes(CABE_KV_F32, CABE_KV_F32, &largest) * N_PAGES;
    if (cabe_pages_map(&mapped, buffer_bytes, 1, &err) != CABE_OK)
        return 1;
    buffer = mapped;
    q = aligned_alloc(64, floats * sizeof *q);
    out = aligned_alloc(64, floats * sizeof *out);
    scratch = aligned_alloc(64, (size_t)cabe_attend_scratch_bytes(8, dim));
    if (!q || !out || !scratch)
        return 1;
    srand(1);
    for (size_t i = 0; i < floats; i++)
        q[i] = ((float)rand() / (float)RAND_MAX - 0.5f) * 4.0f;
    for (int level = CABE_LEVEL_SCALAR; level < CABE_N_LEVELS; level++) {
        const char *name = cabe_level_name((enum cabe_level)level);

        limits = sets[level];
        if ((!only || strcmp(only, name) == 0) && cabe_level_here((enum cabe_level)level) && limits)
            run_level(name, &cabe_kernels_at((enum cabe_level)level)->attention);
    }
    free(q), free(out), free(scratch);
    cabe_pages_unmap(buffer, buffer_bytes);
    return 0;
}
