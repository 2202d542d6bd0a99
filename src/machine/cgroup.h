/*
 * What the control groups around this process allow: v1, v2, both at once, nested, seen from inside a
 * container.
 *
 * A limit holds for a group and all below it, so every group from this process's up to the root of the mount
 * is read and the smallest wins. Where the process's group is not visible below the mount, the root of the
 * mount is it.
 */
#ifndef CABE_MACHINE_CGROUP_H
#define CABE_MACHINE_CGROUP_H

#include <stdint.h>

#include "cabe/machine.h"
#include "machine/sysfile.h"

struct cgroup_memory {
    uint64_t limit_bytes;       /* UINT64_MAX: none */
    uint64_t available_bytes;   /* smallest of limit - use + reclaimable page cache; UINT64_MAX: none */
    uint64_t reclaimable_bytes; /* at the group that set available_bytes */
    char limited_by[CABE_MACHINE_PATH_MAX];
    char available_by[CABE_MACHINE_PATH_MAX];
    char pressure_file[CABE_MACHINE_PATH_MAX]; /* memory.pressure of the nearest group that has one; empty:
                                                  none */
};

struct cgroup_cpu {
    double quota_cpus; /* 0: none */
    int has_cpuset;
    struct cpuset cpuset;
};

void cabe_cgroup_memory(struct cgroup_memory *out, const char *root);
void cabe_cgroup_cpu(struct cgroup_cpu *out, const char *root);

#endif
