#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "machine/cgroup.h"
#include "machine/probe.h"
#include "machine/sysfile.h"

enum field { TOTAL, FREE, AVAILABLE, BUFFERS, CACHED, SHMEM, SLAB, SWAP_FREE, N_FIELDS };

struct meminfo {
    uint64_t bytes[N_FIELDS];
    int has[N_FIELDS];
};

static int take_meminfo(void *self, char *line)
{
    static const char *const names[N_FIELDS] = {"MemTotal:", "MemFree:", "MemAvailable:", "Buffers:",
                                                "Cached:",   "Shmem:",   "SReclaimable:", "SwapFree:"};
    struct meminfo *info = self;

    for (int i = 0; i < N_FIELDS; i++) {
        const char *at = line + strlen(names[i]);
        uint64_t kb;

        if (strncmp(line, names[i], strlen(names[i])) == 0 && cabe_parse_u64(&at, &kb) &&
            kb < UINT64_MAX >> 10) {
            info->bytes[i] = kb << 10;
            info->has[i] = 1;
        }
    }
    return 1;
}

/* What kernels before 3.14 did not say: free pages and the caches that can be dropped. */
static uint64_t sum_available(const struct meminfo *info)
{
    uint64_t cached = info->bytes[CACHED] > info->bytes[SHMEM] ? info->bytes[CACHED] - info->bytes[SHMEM] : 0;

    return info->bytes[FREE] + info->bytes[BUFFERS] / 2 + cached / 2 + info->bytes[SLAB] / 2;
}

static void read_host(struct cabe_memory *memory, const char *root)
{
    struct meminfo info = {{0}, {0}};
    long pages = 0, page_bytes = 0;

    cabe_sysfile_lines(root, "/proc/meminfo", take_meminfo, &info);
    memory->total_bytes = info.bytes[TOTAL];
    memory->swap_free_bytes = info.bytes[SWAP_FREE];
    if (memory->total_bytes == 0 && !root && (pages = sysconf(_SC_PHYS_PAGES)) > 0 &&
        (page_bytes = sysconf(_SC_PAGESIZE)) > 0)
        memory->total_bytes = (uint64_t)pages * (uint64_t)page_bytes;
    if (memory->total_bytes == 0) {
        memory->total_bytes = CABE_ASSUMED_MEMORY_BYTES;
        memory->total_assumed = 1;
    }
    if (info.has[AVAILABLE])
        memory->host_available_bytes = info.bytes[AVAILABLE];
    else if (info.has[FREE])
        memory->host_available_bytes = sum_available(&info);
    else
        memory->host_available_bytes = memory->total_bytes;
    if (memory->host_available_bytes > memory->total_bytes)
        memory->host_available_bytes = memory->total_bytes;
}

static double average_of_10s(const char *line)
{
    const char *at = strstr(line, "avg10=");
    char *end;
    double value;

    if (!at)
        return -1;
    value = strtod(at + 6, &end);
    return end != at + 6 && value >= 0 && value <= 100 ? value : -1;
}

static int take_pressure(void *self, char *line)
{
    struct cabe_memory *memory = self;
    double value = average_of_10s(line);

    if (strncmp(line, "some ", 5) == 0 && value > memory->psi_some_avg10)
        memory->psi_some_avg10 = value;
    else if (strncmp(line, "full ", 5) == 0 && value > memory->psi_full_avg10)
        memory->psi_full_avg10 = value;
    return 1;
}

void cabe_probe_memory(struct cabe_memory *memory, const char *root)
{
    struct cgroup_memory group;

    memset(memory, 0, sizeof *memory);
    read_host(memory, root);
    cabe_cgroup_memory(&group, root);

    memory->limit_bytes = memory->total_bytes;
    memory->available_bytes = memory->host_available_bytes;
    snprintf(memory->available_by, sizeof memory->available_by, "/proc/meminfo");
    if (group.limit_bytes < memory->limit_bytes) {
        memory->limit_bytes = group.limit_bytes;
        snprintf(memory->limited_by, sizeof memory->limited_by, "%s", group.limited_by);
    }
    if (group.available_bytes < memory->available_bytes) {
        memory->available_bytes = group.available_bytes;
        memory->reclaimable_bytes = group.reclaimable_bytes;
        snprintf(memory->available_by, sizeof memory->available_by, "%s", group.available_by);
    }
    if (memory->available_bytes > memory->limit_bytes)
        memory->available_bytes = memory->limit_bytes;
    memory->percent_used = 100 - 100 * (double)memory->available_bytes / (double)memory->limit_bytes;

    /* The worse of the host's and the container's: a stall in either is one here. */
    memory->psi_some_avg10 = memory->psi_full_avg10 = -1;
    cabe_sysfile_lines(root, "/proc/pressure/memory", take_pressure, memory);
    if (group.pressure_file[0])
        cabe_sysfile_lines(root, group.pressure_file, take_pressure, memory);
}
