/*
 * What the thread team and the ledger cost: a region, a barrier, a chunk; alone, and with a second process
 * that does the same on the same CPUs. Each figure is the median of several runs, with the least and the
 * greatest. And what it costs to ask which pages of a ledger are there.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/threads.h"
#include "cabe/ledger.h"

#define N_REPEATS 15
#define N_STEPS 4000

static void nothing(struct cabe_team *team, int member, void *arg)
{
    (void)team, (void)member, (void)arg;
}

static void barriers(struct cabe_team *team, int member, void *arg)
{
    (void)arg;
    for (int i = 0; i < N_STEPS; i++)
        cabe_team_barrier(team, member);
}

static void chunks(struct cabe_team *team, int member, void *arg)
{
    int64_t begin, end;

    (void)member, (void)arg;
    while (cabe_team_next(team, N_STEPS, 1, &begin, &end))
        ;
}

static void regions(struct cabe_team *team, void *arg)
{
    (void)arg;
    for (int i = 0; i < N_STEPS; i++)
        cabe_team_run(team, nothing, NULL);
}

static void run_barriers(struct cabe_team *team, void *arg)
{
    (void)arg;
    cabe_team_run(team, barriers, NULL);
}

static void run_chunks(struct cabe_team *team, void *arg)
{
    (void)arg;
    cabe_team_run(team, chunks, NULL);
}

static void reserve_and_release(struct cabe_team *team, void *arg)
{
    (void)team;
    for (int i = 0; i < N_STEPS / 2; i++)
        if (cabe_ledger_reserve(arg, CABE_HOST, CABE_PURPOSE_KV, 4096, "all-minilm-l6-v2", NULL) == CABE_OK)
            cabe_ledger_release(arg, CABE_HOST, CABE_PURPOSE_KV, 4096, "all-minilm-l6-v2");
}

#define TOUCHED_BYTES (UINT64_C(500) << 20)

static void read_touched(struct cabe_team *team, void *arg)
{
    static struct cabe_ledger_touched touched;
    static struct cabe_ledger_view view;

    (void)team;
    cabe_ledger_read_touched(arg, &view, &touched);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* `work` makes n_calls of what is measured. */
static void measure_calls(const char *what, int n_calls, void (*work)(struct cabe_team *team, void *arg),
                          struct cabe_team *team, void *arg)
{
    double us[N_REPEATS];

    for (int i = 0; i < N_REPEATS; i++) {
        uint64_t start_ns = cabe_clock_ns();

        work(team, arg);
        us[i] = (double)(cabe_clock_ns() - start_ns) / (1e3 * n_calls);
    }
    qsort(us, N_REPEATS, sizeof us[0], by_value);
    printf("%-36s %9.3f us  (%.3f to %.3f)\n", what, us[N_REPEATS / 2], us[0], us[N_REPEATS - 1]);
}

static void measure(const char *what, void (*work)(struct cabe_team *team, void *arg), struct cabe_team *team,
                    void *arg)
{
    measure_calls(what, N_STEPS, work, team, arg);
}

/* What a ledger with 500 MB of pages costs to read: untouched, small pages, huge ones. */
static void measure_touched(struct cabe_ledger *ledger)
{
    static const char *const names[] = {"read touched, 500 MiB not touched", "read touched, 500 MiB of small pages",
                                        "read touched, 500 MiB of huge pages"};
    void *pages;

    for (int k = 0; k < 3; k++) {
        if (cabe_ledger_reserve(ledger, CABE_HOST, CABE_PURPOSE_KV, TOUCHED_BYTES, "kv", NULL) != CABE_OK ||
            cabe_pages_map(&pages, TOUCHED_BYTES, 0, NULL) != CABE_OK)
            return;
        cabe_ledger_add_pages(ledger, CABE_HOST, CABE_PURPOSE_KV, pages, TOUCHED_BYTES);
        if (k == 1)
            (void)madvise(pages, TOUCHED_BYTES, MADV_NOHUGEPAGE);
        if (k > 0)
            memset(pages, 1, TOUCHED_BYTES);
        measure_calls(names[k], 1, read_touched, NULL, ledger);
        cabe_ledger_remove_pages(ledger, pages);
        cabe_pages_unmap(pages, TOUCHED_BYTES);
        cabe_ledger_release(ledger, CABE_HOST, CABE_PURPOSE_KV, TOUCHED_BYTES, "kv");
    }
}

static void measure_team(int n_members, const char *where)
{
    struct cabe_team *team;
    char what[64];

    if (cabe_team_open(&team, n_members, NULL) != CABE_OK)
        return;
    snprintf(what, sizeof what, "region, %d members%s", n_members, where);
    measure(what, regions, team, NULL);
    snprintf(what, sizeof what, "barrier, %d members%s", n_members, where);
    measure(what, run_barriers, team, NULL);
    snprintf(what, sizeof what, "chunk, %d members%s", n_members, where);
    measure(what, run_chunks, team, NULL);
    cabe_team_close(team);
}

int main(void)
{
    int n_cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
    struct cabe_ledger_config config = {.n_devices = 1, .budget_bytes = {CABE_UNLIMITED}};
    struct cabe_ledger *ledger;
    pid_t other;

    n_cpus = n_cpus > CABE_TEAM_MAX / 2 ? CABE_TEAM_MAX / 2 : n_cpus;
    if (cabe_ledger_open(&ledger, &config, NULL) == CABE_OK) {
        measure("ledger, reserve or release", reserve_and_release, NULL, ledger);
        measure_touched(ledger);
        cabe_ledger_close(ledger);
    }
    measure_team(1, "");
    measure_team(n_cpus, "");
    measure_team(2 * n_cpus, "");
    fflush(stdout);
    other = fork();
    if (other == 0) {
        struct cabe_team *team;

        if (cabe_team_open(&team, n_cpus, NULL) != CABE_OK)
            _exit(1);
        for (;;)
            run_barriers(team, NULL);
    }
    measure_team(n_cpus, ", beside another");
    if (other > 0) {
        kill(other, SIGKILL);
        waitpid(other, NULL, 0);
    }
    return 0;
}
