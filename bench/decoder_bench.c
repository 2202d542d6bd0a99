/*
 * The matrix products of a decoder (a Llama of 1.1 B, SmolLM2-135M), layer after layer, from weights that no cache holds. Few rows are one step
 * of decoding: the share of the read bandwidth that a plain loop over the same bytes reaches, in the same round. Many
 * rows are a prompt: the share of the level's own kernel with everything in L1.
 *
 *   decoder_bench [--model llama|smollm2] [--dtype NAME] [--rows T,T,...] [--layers N] [--threads N] [--rounds N]
 *                 [--precision high|int8] [--level NAME] [--clock wall|cpu]
 *
 * --clock cpu counts processor time, for a machine that others use too, with one thread only (matmul_bench.c).
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
#include "kernel/matmul_level.h"

#define ROUNDS_MAX 101
#define ROWS_MAX 1024
#define WIDEST 11264
#define DEEPEST 5632
#define L1_ROWS 12
#define L1_TIMES 400

struct setting {
    const struct cabe_kernels *kernels;
    const char *dtype, *rows;
    int threads, rounds, layers, precision, cpu_clock, model;
};

struct job {
    const struct setting *set;
    enum cabe_dtype dtype;
    int64_t t;
    uint8_t *weights, *shared, *scratch, *records;
    uint64_t weight_bytes, scratch_bytes;
    float *x, *out;
    uint64_t sums[CABE_TEAM_MAX * 8];
};

static int64_t rows_of(const struct setting *set, size_t i)
{
    return matmul_decoders[set->model].shape[i].n;
}

static int64_t inputs_of(const struct setting *set, size_t i)
{
    return matmul_decoders[set->model].shape[i].k;
}

static void *pages(uint64_t bytes)
{
    void *out;

    if (cabe_pages_map(&out, bytes, 1, NULL) != CABE_OK) {
        fprintf(stderr, "decoder_bench: no memory\n");
        exit(1);
    }
    return out;
}

/* Each member reads one half, or whatever its part is, in order. */
static void read_body(struct cabe_team *team, int member, void *arg)
{
    struct job *job = arg;
    uint64_t part = job->weight_bytes / 64 / (uint64_t)cabe_team_size(team) * 64;
    const uint64_t *at = (const uint64_t *)(const void *)(job->weights + part * (uint64_t)member);
    uint64_t a = 0, b = 0, c = 0, d = 0;

    for (uint64_t i = 0; i < part / 8; i += 8) {
        __builtin_prefetch(at + i + 256);
        a += at[i] ^ at[i + 1];
        b += at[i + 2] ^ at[i + 3];
        c += at[i + 4] ^ at[i + 5];
        d += at[i + 6] ^ at[i + 7];
    }
    job->sums[member * 8] = a + b + c + d;
}

static void product(const struct job *job, struct cabe_team *team, int member, const uint8_t *w, int64_t n, int64_t k)
{
    const struct cabe_kernels *kernels = job->set->kernels;
    const struct cabe_matmul mm = {.w = w,
                                   .dtype = job->dtype,
                                   .n = n,
                                   .k = k,
                                   .x = job->x,
                                   .t = job->t,
                                   .x_stride = k,
                                   .out = job->out,
                                   .out_stride = n,
                                   .precision = (enum cabe_precision)job->set->precision};
    int64_t tiles = cabe_matmul_tiles(kernels, &mm), begin, end;

    while (cabe_team_next(team, job->t, 16, &begin, &end))
        cabe_matmul_prepare(kernels, &mm, job->shared, begin, end);
    cabe_team_barrier(team, member);
    while (cabe_team_next(team, tiles, 1, &begin, &end))
        cabe_matmul_run(kernels, &mm, job->shared, job->scratch + (uint64_t)member * job->scratch_bytes, begin, end);
    cabe_team_barrier(team, member);
}

static void layers_body(struct cabe_team *team, int member, void *arg)
{
    struct job *job = arg;
    const uint8_t *w = job->weights;

    for (int layer = 0; layer < job->set->layers; layer++)
        for (size_t i = 0; i < MATMUL_LAYER; i++) {
            int64_t n = rows_of(job->set, i), k = inputs_of(job->set, i);

            product(job, team, member, w, n, k);
            w += cabe_packed_bytes(job->dtype, CABE_PANELS, n, k);
        }
}

/* What run() does with a chunk of one panel, from L1. */
static void l1_body(struct cabe_team *team, int member, void *arg)
{
    const struct job *job = arg;
    const struct cabe_kernels *kernels = job->set->kernels;
    const int64_t k = CABE_MATMUL_INTS_CHUNK;
    uint8_t *scratch = job->scratch + (uint64_t)member * job->scratch_bytes;
    float *acc = (float *)(void *)scratch;
    uint8_t *unpacked = scratch + 64 * 1024, *records = unpacked + k * CABE_PANEL * 4;

    (void)team;
    if (!cabe_matmul_quantises(job->dtype, (enum cabe_precision)job->set->precision)) {
        kernels->matmul.floats->widen(job->dtype, job->weights, k, 0, CABE_MATMUL_CHUNK, (float *)(void *)unpacked);
        for (int i = 0; i < L1_TIMES; i++)
            kernels->matmul.floats->f32(job->x, CABE_MATMUL_CHUNK, L1_ROWS / 2, (float *)(void *)unpacked, 0, 1,
                                        CABE_MATMUL_CHUNK, acc, 1, (char *)unpacked, 0);
        return;
    }
    for (int r = 0; r < L1_ROWS; r++)
        kernels->matmul.ints->quantise(job->dtype, job->x + r * k, k,
                                       records + (uint64_t)r * cabe_record_bytes(job->dtype, k));
    if (kernels->matmul.ints->unpack)
        kernels->matmul.ints->unpack(job->dtype, job->weights, k, 0, k, unpacked);
    for (int i = 0; i < L1_TIMES; i++)
        kernels->matmul.ints->dot(job->dtype, records, L1_ROWS, job->weights,
                                  kernels->matmul.ints->unpack ? unpacked : NULL, k, 0, k, 0, acc);
}

static double l1_ops(const struct job *job)
{
    if (!cabe_matmul_quantises(job->dtype, (enum cabe_precision)job->set->precision))
        return 2.0 * CABE_PANEL * CABE_MATMUL_CHUNK * (L1_ROWS / 2) * L1_TIMES;
    return 2.0 * CABE_PANEL * CABE_MATMUL_INTS_CHUNK * L1_ROWS * L1_TIMES;
}

static double now(const struct job *job)
{
    struct timespec time;

    if (!job->set->cpu_clock)
        return (double)cabe_clock_ns() * 1e-9;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static double seconds(struct cabe_team *team, void (*body)(struct cabe_team *, int, void *), struct job *job)
{
    double start = now(job);

    cabe_team_run(team, body, job);
    return now(job) - start;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* One panel of plausible weights, over and over. Blocks that only files have: any bits, and scales of about 0.01. */
static void fill(struct job *job)
{
    uint64_t bytes = 0;

    for (int layer = 0; layer < job->set->layers; layer++)
        for (size_t i = 0; i < MATMUL_LAYER; i++)
            bytes += cabe_packed_bytes(job->dtype, CABE_PANELS, rows_of(job->set, i), inputs_of(job->set, i));
    job->weight_bytes = bytes;
    job->weights = pages(bytes);
    for (uint64_t i = 0; i < bytes / 2; i++) { /* no bits are an infinity or not a number in any of the types */
        uint16_t bits = (uint16_t)(0x2000u | (i * 40503u >> 3 & 0x93FFu));

        memcpy(job->weights + i * 2, &bits, sizeof bits);
    }
}

static void measure(const struct setting *set, struct cabe_team *team, struct job *job)
{
    double ops = 0, rate[ROUNDS_MAX], share[ROUNDS_MAX], own[ROUNDS_MAX], read[ROUNDS_MAX];
    int middle = set->rounds / 2;

    for (size_t i = 0; i < MATMUL_LAYER; i++)
        ops += 2.0 * (double)rows_of(set, i) * (double)inputs_of(set, i) * (double)job->t * set->layers;
    (void)seconds(team, layers_body, job);
    for (int round = 0; round < set->rounds; round++) {
        double before, after, l1;

        l1 = l1_ops(job) * set->threads / seconds(team, l1_body, job);
        before = (double)job->weight_bytes / seconds(team, read_body, job);
        rate[round] = ops / seconds(team, layers_body, job);
        after = (double)job->weight_bytes / seconds(team, read_body, job);
        read[round] = before > after ? before : after;
        share[round] = rate[round] / ops * (double)job->weight_bytes / read[round];
        after = l1_ops(job) * set->threads / seconds(team, l1_body, job);
        own[round] = after > l1 ? after : l1;
    }
    qsort(rate, (size_t)set->rounds, sizeof(double), ascending);
    qsort(share, (size_t)set->rounds, sizeof(double), ascending);
    qsort(own, (size_t)set->rounds, sizeof(double), ascending);
    qsort(read, (size_t)set->rounds, sizeof(double), ascending);
    printf("%-5s %-4s t %-4lld %7.1f Gop/s (best %7.1f), %5.1f GB/s, %5.3f of reading (%4.1f GB/s; best %5.3f); "
           "from L1 %6.1f (best %6.1f)\n",
           cabe_dtype_name(job->dtype), set->precision ? "int8" : "high", (long long)job->t, rate[middle] * 1e-9,
           rate[set->rounds - 1] * 1e-9, rate[middle] / ops * 1e-9 * (double)job->weight_bytes, share[middle],
           read[middle] * 1e-9, share[set->rounds - 1], own[middle] * 1e-9, own[set->rounds - 1] * 1e-9);
    fflush(stdout);
}

static int parse(struct setting *set, int n_args, char **args)
{
    struct cabe_error err;

    for (int i = 1; i + 1 < n_args; i += 2) {
        if (strcmp(args[i], "--level") == 0)
            setenv("CABE_CPU", args[i + 1], 1);
        else if (strcmp(args[i], "--model") == 0)
            set->model = strcmp(args[i + 1], matmul_decoders[1].name) == 0;
        else if (strcmp(args[i], "--dtype") == 0)
            set->dtype = args[i + 1];
        else if (strcmp(args[i], "--threads") == 0)
            set->threads = atoi(args[i + 1]);
        else if (strcmp(args[i], "--rows") == 0)
            set->rows = args[i + 1];
        else if (strcmp(args[i], "--layers") == 0)
            set->layers = atoi(args[i + 1]);
        else if (strcmp(args[i], "--rounds") == 0)
            set->rounds = atoi(args[i + 1]);
        else if (strcmp(args[i], "--precision") == 0)
            set->precision = strcmp(args[i + 1], "int8") == 0;
        else if (strcmp(args[i], "--clock") == 0)
            set->cpu_clock = strcmp(args[i + 1], "cpu") == 0;
        else
            return 0;
    }
    if (n_args % 2 == 0 || set->threads < 1 || set->threads > CABE_TEAM_MAX || set->rounds < 1 ||
        set->rounds > ROUNDS_MAX || set->layers < 1 || (set->cpu_clock && set->threads != 1))
        return 0;
    if (cabe_kernels_choose(&set->kernels, &err) != CABE_OK) {
        fprintf(stderr, "decoder_bench: %s\n", err.text);
        return 0;
    }
    return 1;
}

static void each_rows(const struct setting *set, struct cabe_team *team, struct job *job)
{
    const char *at = set->rows;

    while (*at) {
        char *end;
        long t = strtol(at, &end, 10);

        if (end == at || t < 1 || t > ROWS_MAX)
            return;
        job->t = t;
        measure(set, team, job);
        at = *end ? end + 1 : end;
    }
}

int main(int n_args, char **args)
{
    struct setting set = {.threads = 2, .rows = "1,8,512", .rounds = 9, .layers = 4, .precision = 1};
    struct cabe_team *team;
    struct cabe_error err;

    if (!parse(&set, n_args, args)) {
        fprintf(stderr, "usage: decoder_bench [--model llama|smollm2] [--level NAME] [--dtype NAME] [--threads N] "
                        "[--rows T,T,...] [--layers N] [--rounds N] [--precision high|int8] [--clock wall|cpu]\n");
        return 2;
    }
    if (cabe_team_open(&team, set.threads, &err) != CABE_OK) {
        fprintf(stderr, "decoder_bench: %s\n", err.text);
        return 1;
    }
    printf("%s, %d threads, %d layers\n", set.kernels->name, set.threads, set.layers);
    for (size_t d = 0; d < COUNT_OF(matmul_dtypes); d++) {
        struct job job = {.set = &set, .dtype = matmul_dtypes[d]};

        if (set.dtype && cabe_dtype_find(set.dtype) != matmul_dtypes[d])
            continue;
        fill(&job);
        job.scratch_bytes = cabe_matmul_scratch_bytes(set.kernels, ROWS_MAX, DEEPEST);
        job.scratch = pages(job.scratch_bytes * (uint64_t)set.threads);
        job.shared = pages(cabe_matmul_shared_bytes(set.kernels, ROWS_MAX, DEEPEST));
        job.x = pages((uint64_t)ROWS_MAX * DEEPEST * sizeof(float));
        job.out = pages((uint64_t)ROWS_MAX * WIDEST * sizeof(float));
        for (int64_t i = 0; i < (int64_t)ROWS_MAX * DEEPEST; i++)
            job.x[i] = (float)(i * 104729 % 997) / 997.0f - 0.5f;
        each_rows(&set, team, &job);
        cabe_pages_unmap(job.weights, job.weight_bytes);
        cabe_pages_unmap(job.scratch, job.scratch_bytes * (uint64_t)set.threads);
        cabe_pages_unmap(job.shared, cabe_matmul_shared_bytes(set.kernels, ROWS_MAX, DEEPEST));
        cabe_pages_unmap(job.x, (uint64_t)ROWS_MAX * DEEPEST * sizeof(float));
        cabe_pages_unmap(job.out, (uint64_t)ROWS_MAX * WIDEST * sizeof(float));
    }
    cabe_team_close(team);
    return 0;
}
