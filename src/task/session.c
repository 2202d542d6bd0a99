#include "task/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/home.h"
#include "base/memory.h"
#include "base/process.h"

#define MIB (UINT64_C(1) << 20)
#define CACHE_LIMIT_BYTES (UINT64_C(20) << 30)

static uint64_t process_bytes(int n_threads, uint64_t slack_bytes)
{
    struct cabe_rss rss;
    uint64_t bytes;

    cabe_rss_read(&rss);
    bytes = rss.rss_bytes + slack_bytes + (uint64_t)(n_threads - 1) * CABE_TEAM_STACK_BYTES;
    return bytes > CABE_SESSION_LEAST_BYTES ? bytes : CABE_SESSION_LEAST_BYTES;
}

uint64_t cabe_session_process_bytes(int n_threads)
{
    return process_bytes(n_threads, CABE_SESSION_SLACK_BYTES);
}

/* Where cabe processes of this user see each other's reservations; NULL where there is no home. */
static const char *shared_dir(char out[CABE_HOME_PATH_MAX])
{
    return cabe_home_dir(out, CABE_HOME_STATE, NULL) == CABE_OK ? out : NULL;
}

/* What other cabe processes have reserved and not touched is still available by the system's count: it is theirs. */
static void leave_to_others(struct cabe_session *s)
{
    char dir[CABE_HOME_PATH_MAX];
    uint64_t promised = cabe_ledger_promised_bytes(shared_dir(dir)), budget = s->budget_bytes[CABE_HOST];

    if (promised < MIB)
        return;
    s->budget_bytes[CABE_HOST] = budget > promised ? budget - promised : 0;
    if (s->budget_bytes[CABE_HOST] < budget / 8)
        s->budget_bytes[CABE_HOST] = budget / 8;
    snprintf(s->budget_reason, sizeof s->budget_reason, "%llu MiB less %llu that other cabe processes have reserved",
             (unsigned long long)(budget / MIB), (unsigned long long)(promised / MIB));
}

static enum cabe_status choose_machine(struct cabe_session *s, const struct cabe_session_config *config,
                                       struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;

    if (config->machine)
        s->machine = *config->machine;
    else
        status = cabe_machine_probe(&s->machine, NULL, err);
    if (status != CABE_OK)
        return status;
    s->n_threads = config->n_threads > 0 ? config->n_threads : cabe_machine_threads(&s->machine);
    if (s->n_threads > CABE_TEAM_MAX)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%d threads, wanted 1 to %d", s->n_threads, CABE_TEAM_MAX);
    s->budget_bytes[0] = cabe_machine_budget(&s->machine, s->budget_reason);
    if (config->memory_bytes) {
        s->budget_bytes[0] = config->memory_bytes;
        snprintf(s->budget_reason, sizeof s->budget_reason, "as asked for");
    } else if (!config->machine) {
        leave_to_others(s);
    }
    s->n_devices = 1;
    if (config->device == CABE_DEVICE_SIM) {
        s->n_devices = 2;
        s->budget_bytes[1] = config->device_cap_bytes ? config->device_cap_bytes : CABE_UNLIMITED;
    }
    return CABE_OK;
}

static void choose_cache(struct cabe_session *s, const struct cabe_session_config *config)
{
    const char *limit = getenv("CABE_CACHE_LIMIT_MB");
    char dir[CABE_HOME_PATH_MAX];

    s->cache_limit_bytes = limit && atoll(limit) > 0 ? (uint64_t)atoll(limit) << 20 : CACHE_LIMIT_BYTES;
    if (config->cache_dir)
        snprintf(s->cache_dir, sizeof s->cache_dir, "%s", config->cache_dir);
    else if (cabe_home_file(dir, CABE_HOME_CACHE, "fitted/.", NULL) == CABE_OK ||
             cabe_home_path(dir, CABE_HOME_CACHE, NULL) == CABE_OK) {
        size_t n = strlen(dir);

        if (n > 2 && strcmp(dir + n - 2, "/.") == 0)
            dir[n - 2] = '\0';
        snprintf(s->cache_dir, sizeof s->cache_dir, "%s", dir);
    }
}

static enum cabe_status start(struct cabe_session *s, const struct cabe_session_config *config,
                              struct cabe_error *err)
{
    char dir[CABE_HOME_PATH_MAX];
    struct cabe_ledger_config ledger = {.n_devices = s->n_devices, .shared_dir = shared_dir(dir)};
    struct cabe_device_config device;
    enum cabe_status status;

    for (int d = 0; d < s->n_devices; d++)
        ledger.budget_bytes[d] = s->budget_bytes[d];
    status = cabe_ledger_open(&s->ledger, &ledger, err);
    if (status == CABE_OK)
        status = cabe_team_open(&s->team, s->n_threads, err);
    if (status != CABE_OK)
        return status;
    device = (struct cabe_device_config){.ledger = s->ledger,
                                         .ledger_device = s->device_kind == CABE_DEVICE_SIM ? 1 : CABE_HOST,
                                         .team = s->team,
                                         .kernels = s->kernels,
                                         .cap_bytes = config->device_cap_bytes};
    return s->device_kind == CABE_DEVICE_SIM ? cabe_sim_device_open(&s->device, &device, err)
                                             : cabe_cpu_device_open(&s->device, &device, err);
}

enum cabe_status cabe_session_open(struct cabe_session **out, const struct cabe_session_config *config, int plan_only,
                                   struct cabe_error *err)
{
    struct cabe_session *s = cabe_calloc(1, sizeof *s);
    enum cabe_status status;

    *out = NULL;
    if (!s)
        return cabe_fail(err, CABE_ERR_OOM, "session");
    s->device_kind = config->device;
    s->slack_bytes = config->slack_bytes ? config->slack_bytes : CABE_SESSION_SLACK_BYTES;
    s->log = config->log;
    s->cancel = config->cancel;
    s->progress = config->progress;
    status = choose_machine(s, config, err);
    if (status == CABE_OK)
        status = cabe_kernels_choose(&s->kernels, err);
    if (status == CABE_OK) {
        choose_cache(s, config);
        if (!plan_only)
            status = start(s, config, err);
    }
    if (status != CABE_OK) {
        cabe_session_close(s);
        return status;
    }
    *out = s;
    return CABE_OK;
}

void cabe_session_close(struct cabe_session *s)
{
    if (!s)
        return;
    cabe_device_close(s->device);
    cabe_team_close(s->team);
    if (s->ledger && s->process_bytes)
        cabe_ledger_release(s->ledger, CABE_HOST, CABE_PURPOSE_PROCESS, s->process_bytes, "process");
    cabe_ledger_close(s->ledger);
    cabe_free(s);
}

enum cabe_status cabe_session_settle(struct cabe_session *s, struct cabe_error *err)
{
    uint64_t bytes = process_bytes(s->n_threads, s->slack_bytes), others = 0;
    struct cabe_ledger_view view;

    if (!s->ledger) {
        s->process_bytes = bytes;
        return CABE_OK;
    }
    cabe_ledger_read(s->ledger, &view);
    others = view.device[CABE_HOST].used_bytes - view.device[CABE_HOST].purpose_bytes[CABE_PURPOSE_PROCESS];
    bytes = bytes > others + CABE_SESSION_LEAST_BYTES ? bytes - others : CABE_SESSION_LEAST_BYTES;
    if (bytes <= s->process_bytes)
        return CABE_OK;
    bytes -= s->process_bytes;
    {
        enum cabe_status status =
            cabe_ledger_reserve(s->ledger, CABE_HOST, CABE_PURPOSE_PROCESS, bytes, "process", err);

        if (status != CABE_OK)
            return cabe_fail_in(err, status, "the process itself");
    }
    s->process_bytes += bytes;
    return CABE_OK;
}

void cabe_session_task(const struct cabe_session *s, struct cabe_fit_task *task, const char *name)
{
    memset(task, 0, sizeof *task);
    task->name = name;
    task->always.bytes[CABE_HOST][CABE_PURPOSE_PROCESS] = s->process_bytes;
}

enum cabe_status cabe_session_plan(const struct cabe_session *s, struct cabe_plan *plan,
                                   const struct cabe_fit_task *task, struct cabe_error *err)
{
    return cabe_plan_make(plan, task, s->budget_bytes, s->n_devices, &s->machine, s->n_threads, err);
}
