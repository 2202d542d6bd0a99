/*
 * The exact self-join against the machine's arithmetic: how much longer than its multiply-adds alone would
 * take at the fp32 peak measured in the same run, turn and turn about; medians.
 *
 *     join_bench [rows] [dim] [threads]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "index/index.h"

enum { RUNS = 5, CHAINS = 12, STEPS = 40000 };

/* Independent chains of fused multiply-adds, in registers: the peak of the best level here. */
#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2,fma"))) static double spin_avx2(void)
{
    __m256 a[CHAINS], x = _mm256_set1_ps(0.999999f), y = _mm256_set1_ps(1e-7f);
    float out[8];

#pragma GCC unroll 12
    for (int c = 0; c < CHAINS; c++)
        a[c] = _mm256_set1_ps((float)c);
    for (int i = 0; i < STEPS; i++) {
#pragma GCC unroll 12
        for (int c = 0; c < CHAINS; c++)
            a[c] = _mm256_fmadd_ps(a[c], x, y);
    }
#pragma GCC unroll 12
    for (int c = 1; c < CHAINS; c++)
        a[0] = _mm256_add_ps(a[0], a[c]);
    _mm256_storeu_ps(out, a[0]);
    return (double)out[0];
}

__attribute__((target("avx512f"))) static double spin_avx512(void)
{
    __m512 a[CHAINS], x = _mm512_set1_ps(0.999999f), y = _mm512_set1_ps(1e-7f);
    float out[16];

#pragma GCC unroll 12
    for (int c = 0; c < CHAINS; c++)
        a[c] = _mm512_set1_ps((float)c);
    for (int i = 0; i < STEPS; i++) {
#pragma GCC unroll 12
        for (int c = 0; c < CHAINS; c++)
            a[c] = _mm512_fmadd_ps(a[c], x, y);
    }
#pragma GCC unroll 12
    for (int c = 1; c < CHAINS; c++)
        a[0] = _mm512_add_ps(a[0], a[c]);
    _mm512_storeu_ps(out, a[0]);
    return (double)out[0];
}

static int lanes(void)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        return 16;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 8 : 0;
}

static double spin(void)
{
    return lanes() == 16 ? spin_avx512() : spin_avx2();
}
#else
static int lanes(void)
{
    return 0;
}

static double spin(void)
{
    return 0.0;
}
#endif

static double sink[CABE_TEAM_MAX];

static void spin_member(struct cabe_team *team, int member, void *arg)
{
    (void)team, (void)arg;
    for (int i = 0; i < 100; i++)
        sink[member] += spin();
}

/* Seconds of the clock, and of all threads: the second hardly feels what else the machine does. */
struct times {
    double wall, cpu;
};

static struct times now(void)
{
    struct timespec cpu;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    return (struct times){(double)cabe_clock_ns() / 1e9, (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9};
}

static struct times since(struct times start)
{
    struct times end = now();

    return (struct times){end.wall - start.wall, end.cpu - start.cpu};
}

/* GFLOP/s of all members together (wall) and of one thread (cpu); a multiply-add counts two. */
static struct times peak(struct cabe_team *team)
{
    double gflop = 100.0 * STEPS * CHAINS * lanes() * 2 * cabe_team_size(team) / 1e9;
    struct times start = now(), spent;

    cabe_team_run(team, spin_member, NULL);
    spent = since(start);
    return (struct times){gflop / spent.wall, gflop / spent.cpu};
}

static int by_size(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;

    return (d > 0) - (d < 0);
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, by_size);
    return x[n / 2];
}

static int measure(struct cabe_index *index, struct cabe_team *team)
{
    const struct cabe_index_run run = {.team = team};
    const struct cabe_join_config config = {.threshold = 0.8f, .k = 16};
    double n = (double)cabe_index_rows(index), dim = (double)cabe_index_config(index)->dim;
    double gflop = n * (n - 1) * dim / 1e9, seconds[RUNS], peaks[RUNS], ratios[RUNS], cpu_ratios[RUNS];
    struct cabe_join_bytes bytes = cabe_join_measure(index, &config, cabe_team_size(team));
    uint64_t n_pairs = 0;

    for (int r = 0; r < RUNS; r++) {
        struct times before = peak(team), start, spent, after;
        struct cabe_error err;
        struct cabe_join *join;

        start = now();
        if (cabe_join_run(&join, index, &config, &run, &err) != CABE_OK) {
            fprintf(stderr, "%s\n", err.text);
            return 1;
        }
        spent = since(start);
        n_pairs = cabe_join_pairs(join, NULL, 0);
        cabe_join_close(join);
        after = peak(team);
        seconds[r] = spent.wall;
        peaks[r] = (before.wall + after.wall) / 2;
        ratios[r] = spent.wall * peaks[r] / gflop;
        cpu_ratios[r] = spent.cpu * (before.cpu + after.cpu) / 2 / gflop;
    }
    printf("%-5s %.0f x %.0f, %d threads: %.3f s (median of %d), %llu pairs, output %.1f MB, work %.1f MB\n",
           cabe_dtype_name(cabe_index_config(index)->dtype), n, dim, cabe_team_size(team),
           median(seconds, RUNS), RUNS, (unsigned long long)n_pairs, (double)bytes.output_bytes / 1e6,
           (double)bytes.work_bytes / 1e6);
    printf("      %.1f GFLOP of the half at the measured peak of %.1f GFLOP/s: %.3f s; ratio %.3f, in CPU "
           "time %.3f (wanted <= 1.35)\n",
           gflop, median(peaks, RUNS), gflop / median(peaks, RUNS), median(ratios, RUNS),
           median(cpu_ratios, RUNS));
    return 0;
}

int main(int argc, char **argv)
{
    static const enum cabe_dtype dtypes[] = {CABE_F32, CABE_F16, CABE_I8};
    int64_t n = argc > 1 ? atoll(argv[1]) : 20000, dim = argc > 2 ? atoll(argv[2]) : 384;
    int n_members = argc > 3 ? atoi(argv[3]) : 2, failed = 0;
    struct cabe_ledger_config ledger_config = {.n_devices = 1, .budget_bytes = {CABE_UNLIMITED}};
    const struct cabe_kernels *kernels;
    struct cabe_ledger *ledger;
    struct cabe_team *team;
    struct cabe_error err;
    float *rows = malloc((size_t)(n * dim) * sizeof *rows);

    if (!rows || cabe_kernels_choose(&kernels, &err) != CABE_OK ||
        cabe_ledger_open(&ledger, &ledger_config, &err) != CABE_OK ||
        cabe_team_open(&team, n_members, &err) != CABE_OK)
        return 1;
    printf("kernels: %s\n", kernels->name);
    srand(1);
    /* every tenth row is near the one before, so that there is something to find */
    for (int64_t i = 0; i < n; i++)
        for (int64_t d = 0; d < dim; d++)
            rows[i * dim + d] = (float)rand() / (float)RAND_MAX - 0.5f +
                                (i % 10 == 9 ? 2.0f * rows[(i - 1) * dim + d] : 0.0f);
    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0] && !failed; d++) {
        struct cabe_index_config config = {
            .kind = "exact", .dim = dim, .dtype = dtypes[d], .metric = CABE_METRIC_COSINE, .capacity = n};
        struct cabe_index *index;

        failed = cabe_index_open(&index, &config, ledger, kernels, &err) != CABE_OK ||
                 cabe_index_add(index, rows, n, &err) != CABE_OK || measure(index, team) != 0;
        cabe_index_close(index);
    }
    if (failed)
        fprintf(stderr, "%s\n", err.text);
    free(rows);
    cabe_team_close(team);
    cabe_ledger_close(ledger);
    return failed;
}
