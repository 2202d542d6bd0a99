#include "machine/pressure.h"

#include <string.h>

#include "machine/probe.h"
#include "machine/sysfile.h"

struct host_ticks {
    uint64_t busy, total;
};

/* "cpu  user nice system idle iowait irq softirq steal guest guest_nice"; guest time is in user time already.
 */
static int take_stat(void *self, char *line)
{
    struct host_ticks *ticks = self;
    const char *at = line + 4;
    uint64_t value;

    if (strncmp(line, "cpu ", 4) != 0)
        return 1;
    for (int i = 0; i < 8 && cabe_parse_u64(&at, &value); i++) {
        ticks->total += value;
        if (i != 3 && i != 4)
            ticks->busy += value;
    }
    return 0;
}

/* User and system ticks of this process: fields 14 and 15, the first two counted before the name's last ')'.
 */
static uint64_t own_ticks(const char *root)
{
    char text[1024];
    const char *at;
    uint64_t user = 0, system = 0;

    if (cabe_sysfile_text(root, "/proc/self/stat", text, sizeof text) <= 0 || !(at = strrchr(text, ')')))
        return 0;
    at++;
    for (int field = 3; field < 14 && at; field++)
        at = strchr(at + 1, ' ');
    if (!at || !cabe_parse_u64(&at, &user) || !cabe_parse_u64(&at, &system))
        return 0;
    return user + system;
}

static int take_status(void *self, char *line)
{
    static const char *const names[] = {"RssAnon:", "RssShmem:"};
    uint64_t *bytes = self, kb;

    for (int i = 0; i < 2; i++) {
        const char *at = line + strlen(names[i]);

        if (strncmp(line, names[i], strlen(names[i])) == 0 && cabe_parse_u64(&at, &kb) &&
            kb < UINT64_MAX >> 12)
            *bytes += kb << 10;
    }
    return 1;
}

static void read_cpu(struct cabe_pressure *out, struct cabe_pressure_meter *meter, int threads,
                     const char *root)
{
    struct host_ticks now = {0, 0};
    struct cabe_pressure_meter last = *meter;
    char text[256];
    struct cpuset online;
    uint64_t total, busy, own, planned;
    int n_cpus = 1;

    out->cpu_percent = out->cpu_raw_percent = -1;
    cabe_sysfile_lines(root, "/proc/stat", take_stat, &now);
    meter->busy = now.busy;
    meter->total = now.total;
    meter->own = own_ticks(root);
    meter->ready = now.total > 0;
    if (!last.ready || now.total <= last.total || now.busy < last.busy)
        return;
    if (cabe_sysfile_text(root, "/sys/devices/system/cpu/online", text, sizeof text) > 0 &&
        cabe_cpuset_parse(&online, text))
        n_cpus = cabe_cpuset_count(&online);
    total = now.total - last.total;
    busy = now.busy - last.busy;
    own = meter->own > last.own ? meter->own - last.own : 0;
    planned = (uint64_t)((double)total * (threads > 0 ? threads : 0) / n_cpus);
    if (own > planned)
        own = planned;
    out->cpu_raw_percent = 100 * (double)busy / (double)total;
    out->cpu_percent = busy > own ? 100 * (double)(busy - own) / (double)total : 0;
}

static void read_memory(struct cabe_pressure *out, uint64_t planned, const char *root)
{
    struct cabe_memory memory;
    uint64_t used, own = 0;

    cabe_probe_memory(&memory, root);
    cabe_sysfile_lines(root, "/proc/self/status", take_status, &own);
    if (own > planned)
        own = planned;
    used = memory.limit_bytes - memory.available_bytes;
    out->memory_raw_percent = memory.percent_used;
    out->memory_percent = used > own ? 100 * (double)(used - own) / (double)memory.limit_bytes : 0;
    out->available_bytes = memory.available_bytes;
    out->limit_bytes = memory.limit_bytes;
    out->psi_some_avg10 = memory.psi_some_avg10;
    out->psi_full_avg10 = memory.psi_full_avg10;
}

static double threshold(double wanted, double usual)
{
    return wanted > 0 ? wanted : usual;
}

void cabe_pressure_read(struct cabe_pressure *out, struct cabe_pressure_meter *meter,
                        const struct cabe_planned *planned, const struct cabe_pressure_config *config)
{
    static const struct cabe_pressure_config defaults = {0};

    if (!config)
        config = &defaults;
    memset(out, 0, sizeof *out);
    read_cpu(out, meter, planned ? planned->threads : 0, config->root);
    read_memory(out, planned ? planned->bytes : 0, config->root);
    out->cpu_high = out->cpu_percent > threshold(config->cpu_percent, CABE_PRESSURE_CPU_PERCENT);
    /* A stall is one whoever holds the memory: the kernel cannot take back enough. */
    out->memory_high =
        out->memory_percent > threshold(config->memory_percent, CABE_PRESSURE_MEMORY_PERCENT) ||
        out->psi_some_avg10 > threshold(config->stall_percent, CABE_PRESSURE_STALL_PERCENT);
}
