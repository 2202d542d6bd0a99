/*
 * Matrix products on the shapes of all-MiniLM-L6-v2, each as a share of this machine's arithmetic peak, which a loop
 * on registers measures right before it in the same round. Prints the median and the best of the rounds.
 *
 *   matmul_bench [--level NAME] [--dtype NAME] [--threads N] [--rows T] [--rounds N] [--clock wall|cpu]
 *
 * --clock cpu counts processor time, for a machine that others use too; with one thread only, because a member that
 * sleeps at a barrier uses none and the rate would come out too high.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../tests/support/matmul_shapes.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kernel/kernel.h"

#define PEAK_STEPS 400000
#define RUN_NS 6000000u /* a shape is repeated this long a round */
#define ROUNDS_MAX 101

struct setting {
    const struct cabe_kernels *kernels;
    const char *dtype;
    int threads, rounds, cpu_clock;
    int64_t rows;
};

struct job { /* what the members do together */
    const struct cabe_kernels *kernels;
    struct cabe_matmul mm;
    uint8_t *shared, *scratch;
    uint64_t scratch_bytes;
    int64_t times;
    int integers, cpu_clock;
};

static void *pages(uint64_t bytes)
{
    void *out;

    if (cabe_pages_map(&out, bytes, 1, NULL) != CABE_OK) {
        fprintf(stderr, "matmul_bench: no memory\n");
        exit(1);
    }
    return out;
}

#if defined(__x86_64__)
#define CHAIN(n) "vfmadd231ps %%ymm15, %%ymm14, %%ymm" #n "\n\t"

/* Twelve chains of zeros: enough for two units of latency five. */
static void peak_f32(void)
{
    __asm__ volatile("vzeroall" ::: "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                     "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    for (int step = 0; step < PEAK_STEPS; step++)
        __asm__ volatile(CHAIN(0) CHAIN(1) CHAIN(2) CHAIN(3) CHAIN(4) CHAIN(5) CHAIN(6) CHAIN(7) CHAIN(8) CHAIN(9)
                             CHAIN(10) CHAIN(11)::
                                 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                                   "xmm10", "xmm11");
    __asm__ volatile("vzeroupper");
}

/* As kernels of seven bits do: two maddubs added in int16, one widening, one addition in int32. */
#define STEP(a, b, n)                                                                                        \
    "vpmaddubsw %%ymm15, %%ymm14, %%ymm" #a "\n\tvpmaddubsw %%ymm15, %%ymm14, %%ymm" #b "\n\t"               \
    "vpaddw %%ymm" #a ", %%ymm" #b ", %%ymm" #a "\n\tvpmaddwd %%ymm13, %%ymm" #a ", %%ymm" #a "\n\t"         \
    "vpaddd %%ymm" #a ", %%ymm" #n ", %%ymm" #n "\n\t"

static void peak_int8(void)
{
    __asm__ volatile("vzeroall" ::: "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                     "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    for (int step = 0; step < PEAK_STEPS; step++)
        __asm__ volatile(STEP(8, 9, 0) STEP(10, 11, 1) STEP(8, 9, 2) STEP(10, 11, 3) STEP(8, 9, 4)
                             STEP(10, 11, 5)::
                                 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm8", "xmm9", "xmm10", "xmm11");
    __asm__ volatile("vzeroupper");
}
#else
static void peak_f32(void)
{
}

static void peak_int8(void)
{
}
#endif

static void peak_body(struct cabe_team *team, int member, void *arg)
{
    const struct job *job = arg;

    (void)team;
    (void)member;
    if (job->integers)
        peak_int8();
    else
        peak_f32();
}

static void matmul_body(struct cabe_team *team, int member, void *arg)
{
    const struct job *job = arg;
    int64_t tiles = cabe_matmul_tiles(job->kernels, &job->mm), begin, end;

    for (int64_t time = 0; time < job->times; time++) {
        while (cabe_team_next(team, job->mm.t, 16, &begin, &end))
            cabe_matmul_prepare(job->kernels, &job->mm, job->shared, begin, end);
        cabe_team_barrier(team, member);
        while (cabe_team_next(team, tiles, 1, &begin, &end))
            cabe_matmul_run(job->kernels, &job->mm, job->shared,
                            job->scratch + (uint64_t)member * job->scratch_bytes, begin, end);
        cabe_team_barrier(team, member);
    }
}

static double now(struct cabe_team *team, const struct job *job)
{
    struct timespec time;

    if (!job->cpu_clock)
        return (double)cabe_clock_ns() * 1e-9;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return ((double)time.tv_sec + (double)time.tv_nsec * 1e-9) / cabe_team_size(team);
}

static double seconds(struct cabe_team *team, void (*body)(struct cabe_team *, int, void *), struct job *job)
{
    double start = now(team, job);

    cabe_team_run(team, body, job);
    return now(team, job) - start;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double peak_of(struct cabe_team *team, struct job *job, int integers)
{
    double ops = (integers ? 6.0 * 128 : 12.0 * 16) * PEAK_STEPS * cabe_team_size(team);

    job->integers = integers;
    return ops / seconds(team, peak_body, job);
}

static void fill(const struct setting *set, struct job *job, enum cabe_dtype dtype)
{
    int64_t n = job->mm.n, k = job->mm.k;
    float *rows = pages((uint64_t)(n * k) * 4);
    void *scratch = pages(cabe_matmul_pack_scratch_bytes(k));
    void *w = pages(cabe_packed_bytes(dtype, CABE_PANELS, n, k));
    float *x = pages((uint64_t)(set->rows * k) * 4);
    struct cabe_error err;

    for (int64_t i = 0; i < n * k; i++)
        rows[i] = (float)(i * 7919 % 1009) / 1009.0f - 0.5f;
    for (int64_t i = 0; i < set->rows * k; i++)
        x[i] = (float)(i * 104729 % 997) / 997.0f - 0.5f;
    if (cabe_matmul_pack(CABE_F32, rows, n, dtype, k, 0, (n + 15) / 16, scratch, w, &err) != CABE_OK) {
        fprintf(stderr, "matmul_bench: %s\n", err.text);
        exit(1);
    }
    cabe_pages_unmap(rows, (uint64_t)(n * k) * 4);
    cabe_pages_unmap(scratch, cabe_matmul_pack_scratch_bytes(k));
    job->mm.w = w;
    job->mm.x = x;
    job->mm.out = pages((uint64_t)(set->rows * n) * 4);
    job->shared = pages(cabe_matmul_shared_bytes(set->kernels, set->rows, k));
}

static void empty(const struct setting *set, struct job *job)
{
    int64_t n = job->mm.n, k = job->mm.k;

    cabe_pages_unmap((void *)(uintptr_t)job->mm.w, cabe_packed_bytes(job->mm.dtype, CABE_PANELS, n, k));
    cabe_pages_unmap((void *)(uintptr_t)job->mm.x, (uint64_t)(set->rows * k) * 4);
    cabe_pages_unmap(job->mm.out, (uint64_t)(set->rows * n) * 4);
    cabe_pages_unmap(job->shared, cabe_matmul_shared_bytes(set->kernels, set->rows, k));
}

/* One line. Shares are ratios within one round, so that a busy neighbour hits both sides. */
static void measure(const struct setting *set, struct cabe_team *team, enum cabe_dtype dtype, int precision,
                    int64_t k, int64_t n)
{
    struct job job = {.kernels = set->kernels,
                      .mm = {.dtype = dtype,
                             .n = n,
                             .k = k,
                             .t = set->rows,
                             .x_stride = k,
                             .out_stride = n,
                             .precision = (enum cabe_precision)precision},
                      .scratch_bytes = cabe_matmul_scratch_bytes(set->kernels, set->rows, k),
                      .times = 1,
                      .cpu_clock = set->cpu_clock};
    double ops = 2.0 * (double)n * (double)k * (double)set->rows, once;
    double rate[ROUNDS_MAX], share32[ROUNDS_MAX], share8[ROUNDS_MAX], best_peak = 0;

    fill(set, &job, dtype);
    job.scratch = pages(job.scratch_bytes * (uint64_t)set->threads);
    (void)seconds(team, matmul_body, &job);
    once = seconds(team, matmul_body, &job);
    job.times = (int64_t)(RUN_NS * 1e-9 / once) + 1;
    for (int round = 0; round < set->rounds; round++) {
        double before = peak_of(team, &job, 0), before8 = peak_of(team, &job, 1), after;

        rate[round] = ops * (double)job.times / seconds(team, matmul_body, &job);
        after = peak_of(team, &job, 0);
        share32[round] = rate[round] / (before > after ? before : after);
        share8[round] = rate[round] / before8;
        best_peak = before > best_peak ? before : best_peak;
    }
    qsort(rate, (size_t)set->rounds, sizeof(double), ascending);
    qsort(share32, (size_t)set->rounds, sizeof(double), ascending);
    qsort(share8, (size_t)set->rounds, sizeof(double), ascending);
    printf("%-5s %-5s t %-5lld k %-5lld n %-5lld %7.1f Gop/s, %5.3f of fp32 peak; best %7.1f, %5.3f", cabe_dtype_name(dtype),
           precision ? "int8" : "high", (long long)set->rows, (long long)k, (long long)n,
           rate[set->rounds / 2] * 1e-9, share32[set->rounds / 2], rate[set->rounds - 1] * 1e-9,
           rate[set->rounds - 1] / best_peak);
    if (precision)
        printf("; %5.3f of int8 peak", share8[set->rounds / 2]);
    if (set->rows <= 8)
        printf("; weights %5.1f GB/s", rate[set->rounds / 2] / ops * 1e-9 *
                                           (double)cabe_packed_bytes(dtype, CABE_PANELS, n, k));
    printf("\n");
    fflush(stdout);
    cabe_pages_unmap(job.scratch, job.scratch_bytes * (uint64_t)set->threads);
    empty(set, &job);
}

static int parse(struct setting *set, int n_args, char **args)
{
    struct cabe_error err;

    for (int i = 1; i + 1 < n_args; i += 2) {
        if (strcmp(args[i], "--level") == 0)
            setenv("CABE_CPU", args[i + 1], 1);
        else if (strcmp(args[i], "--dtype") == 0)
            set->dtype = args[i + 1];
        else if (strcmp(args[i], "--threads") == 0)
            set->threads = atoi(args[i + 1]);
        else if (strcmp(args[i], "--rows") == 0)
            set->rows = atoll(args[i + 1]);
        else if (strcmp(args[i], "--rounds") == 0)
            set->rounds = atoi(args[i + 1]);
        else if (strcmp(args[i], "--clock") == 0)
            set->cpu_clock = strcmp(args[i + 1], "cpu") == 0;
        else
            return 0;
    }
    if (n_args % 2 == 0 || set->threads < 1 || set->threads > CABE_TEAM_MAX || (set->cpu_clock && set->threads != 1) || set->rows < 1 || set->rounds < 1 ||
        set->rounds > ROUNDS_MAX)
        return 0;
    if (cabe_kernels_choose(&set->kernels, &err) != CABE_OK) {
        fprintf(stderr, "matmul_bench: %s\n", err.text);
        return 0;
    }
    return 1;
}

int main(int n_args, char **args)
{
    struct setting set = {.threads = 2, .rows = 1024, .rounds = 25};
    struct cabe_team *team;
    struct cabe_error err;

    if (!parse(&set, n_args, args)) {
        fprintf(stderr, "usage: matmul_bench [--level NAME] [--dtype NAME] [--threads N] [--rows T] [--rounds N] "
                        "[--clock wall|cpu]\n");
        return 2;
    }
    if (cabe_team_open(&team, set.threads, &err) != CABE_OK) {
        fprintf(stderr, "matmul_bench: %s\n", err.text);
        return 1;
    }
    printf("%s, %d threads\n", set.kernels->name, set.threads);
    for (size_t d = 0; d < COUNT_OF(matmul_dtypes); d++) {
        enum cabe_dtype dtype = matmul_dtypes[d];
        int quantised = dtype == CABE_I8 || dtype == CABE_Q8_0 || dtype == CABE_Q4_0;

        if (set.dtype && cabe_dtype_find(set.dtype) != dtype)
            continue;
        for (int precision = 0; precision <= quantised; precision++)
            for (size_t shape = 0; shape < COUNT_OF(matmul_minilm); shape++)
                measure(&set, team, dtype, precision, matmul_minilm[shape].k, matmul_minilm[shape].n);
    }
    cabe_team_close(team);
    return 0;
}
