/*
 * Row kernels of every level that this CPU has, on the shapes of MiniLM and of one row of a 1.1 B
 * Llama: median and least of several runs, one thread.
 *
 *     rows_bench [name of a level]
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kernel/kernel.h"

enum { TOKENS = 512, C = 384, WIDE = 1536, HEADS = 12, DIM = 32, RUNS = 15 };

static float *x, *y, *out;
static void *bytes, *scratch;
static int32_t ids[TOKENS], offsets[TOKENS + 1];
static float gamma_row[C], beta_row[C];
static uint32_t found[TOKENS * WIDE];

struct job {
    const char *name;
    void (*run)(const struct cabe_row_kernels *k);
    double items, bytes, flops; /* of one run: items are what ns are told for */
    const char *item;
};

static void run_gelu_erf(const struct cabe_row_kernels *k)
{
    k->act(CABE_ACT_GELU_ERF, x, out, TOKENS * WIDE);
}

static void run_gelu_tanh(const struct cabe_row_kernels *k)
{
    k->act(CABE_ACT_GELU_TANH, x, out, TOKENS * WIDE);
}

static void run_silu(const struct cabe_row_kernels *k)
{
    k->act(CABE_ACT_SILU, x, out, TOKENS * WIDE);
}

static void run_norm(const struct cabe_row_kernels *k)
{
    k->norm(CABE_NORM_LAYER, 1e-12f, x, y, gamma_row, beta_row, out, C, 0, TOKENS);
}

static void attend(const struct cabe_row_kernels *k, int64_t length)
{
    const int64_t stride = 3 * HEADS * DIM;

    for (int64_t s = 0; s + length <= TOKENS; s += length)
        for (int64_t h = 0; h < HEADS; h++) {
            const float *q = x + s * stride + h * DIM;

            k->attention(q, q + C, q + 2 * C, stride, length, DIM, 0.1767767f, CABE_MASK_NONE,
                         out + s * C + h * DIM, C, scratch);
        }
}

static void run_attention_32(const struct cabe_row_kernels *k)
{
    attend(k, 32);
}

static void run_attention_512(const struct cabe_row_kernels *k)
{
    attend(k, 512);
}

static void run_f16(const struct cabe_row_kernels *k)
{
    k->to_f32(CABE_F16, bytes, out, TOKENS * C);
}

static void run_q4_0(const struct cabe_row_kernels *k)
{
    k->to_f32(CABE_Q4_0, bytes, out, TOKENS * C);
}

static void run_to_i8(const struct cabe_row_kernels *k)
{
    for (int t = 0; t < TOKENS; t++)
        k->to_i8(x + t * C, (int8_t *)bytes + t * C, C);
}

static void run_gather(const struct cabe_row_kernels *k)
{
    k->gather(CABE_I8, bytes, TOKENS, C, ids, NULL, out, 0, TOKENS);
}

static void run_pool(const struct cabe_row_kernels *k)
{
    k->pool(CABE_POOL_MEAN, x, offsets, NULL, C, out, 0, TOKENS / 32);
}

static void run_unit(const struct cabe_row_kernels *k)
{
    k->unit(1e-12f, x, out, C, 0, TOKENS);
}

static void run_scan(const struct cabe_row_kernels *k)
{
    k->scan_ge(x, TOKENS * WIDE, 3.9f, found);
}

/* Rows of the decoder, one at a time as a step of one sequence has them; x stands in for gamma. */
static void run_rms(const struct cabe_row_kernels *k)
{
    for (int t = 0; t < TOKENS / 4; t++)
        k->norm(CABE_NORM_RMS, 1e-5f, x, NULL, y, NULL, out, 2048, 0, 1);
}

static void run_glu(const struct cabe_row_kernels *k)
{
    for (int t = 0; t < TOKENS / 4; t++)
        k->glu(CABE_ACT_SILU, x, x + 5632, out, 5632);
}

static void rope_rows(const struct cabe_row_kernels *k, enum cabe_rope style, const float *gamma)
{
    struct cabe_rope_heads heads = {.style = style,
                                    .n_heads = 32,
                                    .n_kv_heads = 4,
                                    .head_dim = 64,
                                    .n_rot = 64,
                                    .q_gamma = gamma,
                                    .k_gamma = gamma,
                                    .eps = 1e-6f};

    for (int t = 0; t < TOKENS / 4; t++)
        k->rope(&heads, x, y, out, 0, 1);
}

static void run_rope_adjacent(const struct cabe_row_kernels *k)
{
    rope_rows(k, CABE_ROPE_ADJACENT, NULL);
}

static void run_rope_normed(const struct cabe_row_kernels *k)
{
    rope_rows(k, CABE_ROPE_HALVES, y);
}

static void run_angles(const struct cabe_row_kernels *k)
{
    k->angles(ids, y, 32, 1.0f, out, 0, TOKENS / 4);
}

static void run_q4_1(const struct cabe_row_kernels *k)
{
    k->to_f32(CABE_Q4_1, bytes, out, TOKENS * C);
}

static void run_q4_k(const struct cabe_row_kernels *k)
{
    k->to_f32(CABE_Q4_K, bytes, out, TOKENS * C);
}

static void run_q6_k(const struct cabe_row_kernels *k)
{
    k->to_f32(CABE_Q6_K, bytes, out, TOKENS * C);
}

#define T ((double)TOKENS)
#define R ((double)TOKENS / 4)
static const struct job jobs[] = {
    {"gelu_erf 1536", run_gelu_erf, T, T *WIDE * 8, 0, "token"},
    {"gelu_tanh 1536", run_gelu_tanh, T, T *WIDE * 8, 0, "token"},
    {"silu 1536", run_silu, T, T *WIDE * 8, 0, "token"},
    {"layer norm + residual 384", run_norm, T, T *C * 12, 0, "token"},
    {"attention n=32, 12 x 32", run_attention_32, T, T *C * 16, T *HEADS * 32 * DIM * 4, "token"},
    {"attention n=512, 12 x 32", run_attention_512, T, T *C * 16, T *HEADS * 512 * DIM * 4,
     "token"},
    {"f16 to f32", run_f16, T *C, T *C * 6, 0, "element"},
    {"q4_0 to f32", run_q4_0, T *C, T *C * 4.56, 0, "element"},
    {"q4_1 to f32", run_q4_1, T *C, T *C * 4.63, 0, "element"},
    {"q4_k to f32", run_q4_k, T *C, T *C * 4.56, 0, "element"},
    {"q6_k to f32", run_q6_k, T *C, T *C * 4.82, 0, "element"},
    {"rms norm 2048", run_rms, R, R * 2048 * 12, 0, "row"},
    {"swiglu 5632", run_glu, R, R * 5632 * 12, 0, "row"},
    {"rope adjacent, 36 x 64", run_rope_adjacent, R, R * 40 * 64 * 8, 0, "row"},
    {"rope halves + norm, 36 x 64", run_rope_normed, R, R * 40 * 64 * 8, 0, "row"},
    {"angles of 32 pairs", run_angles, R, R * 64 * 4, 0, "row"},
    {"to int8, rows of 384", run_to_i8, T, T *C * 5, 0, "row"},
    {"gather int8, rows of 384", run_gather, T, T *C * 5, 0, "row"},
    {"pool mean of 32 x 384", run_pool, T / 32, T *C * 4, 0, "sequence"},
    {"unit 384", run_unit, T, T *C * 8, 0, "row"},
    {"scan_ge", run_scan, T *WIDE, T *WIDE * 4, 0, "element"},
};

static int by_time(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;

    return (d > 0) - (d < 0);
}

static void measure(const char *level, const struct cabe_row_kernels *k)
{
    for (size_t j = 0; j < sizeof jobs / sizeof jobs[0]; j++) {
        double ns[RUNS];

        jobs[j].run(k);
        for (int r = 0; r < RUNS; r++) {
            uint64_t start = cabe_clock_ns();

            jobs[j].run(k);
            ns[r] = (double)(cabe_clock_ns() - start);
        }
        qsort(ns, RUNS, sizeof ns[0], by_time);
        printf("%-8s %-28s median %10.2f ns/%-8s least %10.2f  %7.2f GB/s", level, jobs[j].name,
               ns[RUNS / 2] / jobs[j].items, jobs[j].item, ns[0] / jobs[j].items,
               jobs[j].bytes / ns[RUNS / 2]);
        if (jobs[j].flops > 0)
            printf("  %6.1f GFLOP/s", jobs[j].flops / ns[RUNS / 2]);
        putchar('\n');
    }
}

int main(int argc, char **argv)
{
    const char *only = argc > 1 ? argv[1] : NULL;

    x = aligned_alloc(64, (size_t)TOKENS * WIDE * 4);
    y = aligned_alloc(64, (size_t)TOKENS * WIDE * 4);
    out = aligned_alloc(64, (size_t)TOKENS * WIDE * 4);
    bytes = aligned_alloc(64, (size_t)TOKENS * WIDE * 4);
    scratch = aligned_alloc(64, (size_t)cabe_attention_scratch_bytes(TOKENS, DIM));
    if (!x || !y || !out || !bytes || !scratch)
        return 1;
    srand(1);
    for (int i = 0; i < TOKENS * WIDE; i++)
        x[i] = y[i] = ((float)rand() / (float)RAND_MAX - 0.5f) * 8.0f;
    for (int i = 0; i < C; i++)
        gamma_row[i] = 1.0f;
    for (int i = 0; i < TOKENS; i++) {
        ids[i] = (i * 77) % TOKENS;
        offsets[i] = i * 32 < TOKENS ? i * 32 : TOKENS;
    }
    memset(bytes, 1, (size_t)TOKENS * WIDE * 4);
    for (int level = CABE_LEVEL_SCALAR; level < CABE_N_LEVELS; level++) {
        const char *name = cabe_level_name((enum cabe_level)level);

        if ((!only || strcmp(only, name) == 0) && cabe_level_here((enum cabe_level)level))
            measure(name, &cabe_kernels_at((enum cabe_level)level)->row);
    }
    free(x), free(y), free(out), free(bytes), free(scratch);
    return 0;
}
