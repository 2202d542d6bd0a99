#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/threads.h"
#include "machine/limits.h"
#include "machine/peak.h"
#include "machine/probe.h"

#define ROUNDS_MAX 48
#define SAMPLE_NS 1500000u /* below a scheduler's slice, so that some samples run alone on a busy machine */
#define READ_PARTS 8       /* a sample reads the next of these: by the time one comes again, caches have lost it */
#define WAYS_MAX CABE_PEAKS_MAX
#define READ_ALIGN 4096u

struct sample { /* what all rounds gave, one thread and all */
    double one[ROUNDS_MAX], all[ROUNDS_MAX];
};

struct run {
    struct cabe_team *team;
    int n_threads;
    const struct cabe_peak_way *way[WAYS_MAX];
    uint64_t n[WAYS_MAX]; /* rounds of a sample */
    int n_ways;
    cabe_read_loop *read;
    void *data;
    uint64_t read_bytes; /* of all parts */
    int read_part;       /* whose turn it is */
    struct sample peak[WAYS_MAX], read_rate;
};

struct job { /* of one parallel region */
    const struct run *run;
    int way; /* -1: read */
    double seconds;
};

/* What the loops return is nothing anybody wants; the empty instruction counts as a use of it. */
static void do_share(const struct run *run, int way, int member, int n_members)
{
    if (way >= 0) {
        double unused = run->way[way]->run(run->n[way]);

        __asm__ volatile("" : : "m"(unused));
    } else {
        const char *part = (const char *)run->data + (uint64_t)run->read_part * (run->read_bytes / READ_PARTS);
        uint64_t pages = run->read_bytes / READ_PARTS / READ_ALIGN, n = (uint64_t)n_members;
        uint64_t begin = pages * (uint64_t)member / n, end = pages * ((uint64_t)member + 1) / n;
        uint64_t unused = run->read(part + begin * READ_ALIGN, (end - begin) * READ_ALIGN);

        __asm__ volatile("" : : "m"(unused));
    }
}

static void on_member(struct cabe_team *team, int member, void *arg)
{
    struct job *job = arg;
    uint64_t begin;

    cabe_team_barrier(team, member);
    begin = cabe_clock_ns();
    do_share(job->run, job->way, member, cabe_team_size(team));
    cabe_team_barrier(team, member);
    if (member == 0)
        job->seconds = (double)(cabe_clock_ns() - begin) * 1e-9;
}

static double time_all(const struct run *run, int way)
{
    struct job job = {.run = run, .way = way};

    cabe_team_run(run->team, on_member, &job);
    return job.seconds;
}

static double time_one(const struct run *run, int way)
{
    uint64_t begin = cabe_clock_ns();

    do_share(run, way, 0, 1);
    return (double)(cabe_clock_ns() - begin) * 1e-9;
}

static void add_ways(struct run *run, const struct cabe_peak_set *set, uint32_t simd)
{
    for (int i = 0; i < set->n_ways && run->n_ways < WAYS_MAX; i++)
        if ((set->way[i].simd & simd) == set->way[i].simd)
            run->way[run->n_ways++] = &set->way[i];
    if (set->read && (set->read_simd & simd) == set->read_simd)
        run->read = set->read;
}

static void choose_ways(struct run *run, uint32_t simd)
{
    add_ways(run, &cabe_peaks_scalar, simd);
#if defined(__x86_64__)
    add_ways(run, &cabe_peaks_avx2, simd);
    add_ways(run, &cabe_peaks_avx512, simd);
    add_ways(run, &cabe_peaks_avx512vnni, simd);
#elif defined(__aarch64__)
    add_ways(run, &cabe_peaks_neon, simd);
#endif
}

/* Rounds that take about SAMPLE_NS. */
static void calibrate(struct run *run)
{
    for (int way = 0; way < run->n_ways; way++) {
        double ns = 0;

        for (run->n[way] = 1000; run->n[way] < UINT64_C(1) << 40; run->n[way] *= 4) {
            ns = time_one(run, way) * 1e9;
            if (ns > SAMPLE_NS / 8)
                break;
        }
        run->n[way] = (uint64_t)((double)run->n[way] * (SAMPLE_NS / ns)) + 1;
    }
}

/* What disturbs a round only takes away: the best one is nearest to the limit. */
static double best(const double *values, int n)
{
    double most = 0;

    for (int i = 0; i < n; i++)
        most = values[i] > most ? values[i] : most;
    return most;
}

/* One pass over every way, so that what disturbs the machine disturbs all of them. */
static void one_round(struct run *run, int round)
{
    for (int way = 0; way < run->n_ways; way++) {
        double ops = (double)run->n[way] * (double)run->way[way]->round_ops;

        run->peak[way].one[round] = ops / time_one(run, way);
        run->peak[way].all[round] = ops * run->n_threads / time_all(run, way);
    }
    run->read_part = 2 * round % READ_PARTS;
    run->read_rate.one[round] = (double)(run->read_bytes / READ_PARTS) / time_one(run, -1);
    run->read_part++;
    run->read_rate.all[round] = (double)(run->read_bytes / READ_PARTS) / time_all(run, -1);
}

static void conclude(struct cabe_limits *out, const struct run *run, int n_rounds)
{
    time_t now = time(NULL);
    struct tm utc;

    memset(out, 0, sizeof *out);
    out->origin = CABE_ORIGIN_MEASURED;
    out->n_threads = run->n_threads;
    out->read_one_bytes_s = best(run->read_rate.one, n_rounds);
    out->read_all_bytes_s = best(run->read_rate.all, n_rounds);
    for (int way = 0; way < run->n_ways; way++) {
        struct cabe_peak *peak = &out->peak[out->n_peaks++];
        int arith = (int)run->way[way]->arith;

        snprintf(peak->level, sizeof peak->level, "%s", run->way[way]->level);
        peak->arith = run->way[way]->arith;
        peak->one_ops_s = best(run->peak[way].one, n_rounds);
        peak->all_ops_s = best(run->peak[way].all, n_rounds);
        if (peak->all_ops_s > out->all_ops_s[arith]) {
            out->all_ops_s[arith] = peak->all_ops_s;
            out->one_ops_s[arith] = peak->one_ops_s;
        }
    }
    if (gmtime_r(&now, &utc))
        strftime(out->measured_at, sizeof out->measured_at, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

/* Past the caches of all cores, yet a small part of the memory that is there. */
static uint64_t choose_read_bytes(const struct cabe_machine *machine, uint64_t wanted)
{
    uint64_t bytes = wanted, most = machine->memory.available_bytes / 4;

    if (bytes == 0) {
        bytes = 8 * machine->cpu.l3_bytes * (uint64_t)(machine->cpu.n_l3 > 0 ? machine->cpu.n_l3 : 1);
        if (bytes < 256 * CABE_MB)
            bytes = 256 * CABE_MB;
        if (bytes > 2 * CABE_GB)
            bytes = 2 * CABE_GB;
    }
    if (bytes > most)
        bytes = most;
    if (bytes < READ_PARTS * READ_ALIGN * CABE_TEAM_MAX)
        bytes = READ_PARTS * READ_ALIGN * CABE_TEAM_MAX;
    return bytes / (READ_PARTS * READ_ALIGN) * (READ_PARTS * READ_ALIGN);
}

/* As many rounds as end before the deadline, but at least one: on a busy machine one may take a second. */
static enum cabe_status run_rounds(struct run *run, const struct cabe_measure_config *config,
                                   uint64_t deadline_ns, int *n_rounds, struct cabe_error *err)
{
    uint64_t round_ns = 0;

    calibrate(run);
    time_all(run, -1); /* every thread has run */
    for (*n_rounds = 0; *n_rounds < ROUNDS_MAX; ++*n_rounds) {
        uint64_t begin = cabe_clock_ns();

        if (*n_rounds >= 1 && begin + round_ns > deadline_ns)
            break;
        if (cabe_cancelled(config->cancel))
            return cabe_fail(err, CABE_ERR_CANCELLED, "measuring the machine was stopped");
        cabe_progress_report(config->progress, "measure", (uint64_t)*n_rounds, ROUNDS_MAX, "rounds");
        one_round(run, *n_rounds);
        round_ns = cabe_clock_ns() - begin;
    }
    return CABE_OK;
}

enum cabe_status cabe_limits_measure(struct cabe_machine *machine, const struct cabe_measure_config *config,
                                     struct cabe_error *err)
{
    static const struct cabe_measure_config defaults = {0};
    struct run run = {0};
    enum cabe_status status;
    uint64_t deadline_ns;
    int n_rounds = 0;

    if (!config)
        config = &defaults;
    if (machine->origin != CABE_ORIGIN_PROBED)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "a machine that is not here cannot be measured");
    deadline_ns = cabe_clock_ns() + (uint64_t)((config->seconds > 0 ? config->seconds : 4) * 1e9);
    run.n_threads = machine->cpu.n_usable < CABE_TEAM_MAX ? machine->cpu.n_usable : CABE_TEAM_MAX;
    run.read_bytes = choose_read_bytes(machine, config->read_bytes);
    choose_ways(&run, machine->cpu.simd);
    status = cabe_pages_map(&run.data, run.read_bytes, 1, err);
    if (status == CABE_OK)
        status = cabe_team_open(&run.team, run.n_threads, err);
    if (status == CABE_OK)
        status = run_rounds(&run, config, deadline_ns, &n_rounds, err);
    if (status == CABE_OK)
        conclude(&machine->limits, &run, n_rounds);
    cabe_team_close(run.team);
    cabe_pages_unmap(run.data, run.read_bytes);
    return status;
}

/* ---- the meter ---- */

struct cabe_read_meter {
    struct run run;
};

enum cabe_status cabe_read_meter_open(struct cabe_read_meter **out, const struct cabe_machine *machine,
                                      struct cabe_team *team, uint64_t bytes, struct cabe_error *err)
{
    struct cabe_read_meter *meter = cabe_calloc(1, sizeof *meter);
    enum cabe_status status;

    *out = NULL;
    if (!meter)
        return cabe_fail(err, CABE_ERR_OOM, "a meter of read bandwidth");
    meter->run.team = team;
    meter->run.n_threads = cabe_team_size(team);
    meter->run.read_bytes = choose_read_bytes(machine, bytes);
    choose_ways(&meter->run, machine->cpu.simd);
    status = cabe_pages_map(&meter->run.data, meter->run.read_bytes, 1, err);
    if (status != CABE_OK) {
        cabe_free(meter);
        return status;
    }
    *out = meter;
    return CABE_OK;
}

void cabe_read_meter_close(struct cabe_read_meter *meter)
{
    if (meter)
        cabe_pages_unmap(meter->run.data, meter->run.read_bytes);
    cabe_free(meter);
}

double cabe_read_meter_bytes_s(struct cabe_read_meter *meter, double seconds)
{
    uint64_t begin_ns = cabe_clock_ns(), parts = 0;
    double passed;

    do {
        (void)time_all(&meter->run, -1);
        meter->run.read_part = (meter->run.read_part + 1) % READ_PARTS;
        parts++;
        passed = (double)(cabe_clock_ns() - begin_ns) * 1e-9;
    } while (passed < seconds);
    return (double)(meter->run.read_bytes / READ_PARTS * parts) / passed;
}
