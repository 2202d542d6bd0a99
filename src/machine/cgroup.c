#include "machine/cgroup.h"

#include <stdio.h>
#include <string.h>

#define GROUP_MAX 480

/* A hierarchy that governs one controller for this process. */
struct hierarchy {
    char mount[GROUP_MAX / 2]; /* where it is mounted */
    char base[GROUP_MAX];      /* which of its groups is mounted there */
    char group[GROUP_MAX];     /* this process's; container runtimes make long ones */
    int found_mount, found_group;
};

struct hierarchies {
    const char *controller; /* of v1 */
    struct hierarchy v1, v2;
};

static void copy(char *out, size_t n, const char *text)
{
    size_t used = strnlen(text, n - 1);

    memcpy(out, text, used);
    out[used] = '\0';
}

/* Whether `word` is one of a comma-separated list. */
static int listed(const char *list, const char *word)
{
    size_t n = strlen(word);

    for (const char *at = list; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strncmp(at, word, n) == 0 && (at[n] == '\0' || at[n] == ','))
            return 1;
    return 0;
}

/* A line of /proc/self/cgroup: "4:memory:/a/b", and "0::/a/b" for v2. */
static int take_group(void *self, char *line)
{
    struct hierarchies *all = self;
    char *controllers = strchr(line, ':');
    char *group = controllers ? strchr(controllers + 1, ':') : NULL;

    if (!group)
        return 1;
    *group++ = '\0';
    controllers++;
    if (strncmp(line, "0:", 2) == 0 && *controllers == '\0') {
        copy(all->v2.group, sizeof all->v2.group, group);
        all->v2.found_group = 1;
    } else if (listed(controllers, all->controller)) {
        copy(all->v1.group, sizeof all->v1.group, group);
        all->v1.found_group = 1;
    }
    return 1;
}

/* The kernel writes blanks and backslashes of paths as \040 and the like. */
static void unescape(char *text)
{
    char *out = text;

    for (; *text; text++) {
        if (text[0] == '\\' && text[1] >= '0' && text[1] <= '3' && text[2] >= '0' && text[2] <= '7' &&
            text[3] >= '0' && text[3] <= '7') {
            *out++ = (char)((text[1] - '0') * 64 + (text[2] - '0') * 8 + (text[3] - '0'));
            text += 3;
        } else {
            *out++ = *text;
        }
    }
    *out = '\0';
}

/* "31 23 0:28 BASE MOUNT options [optional...] - TYPE source superoptions" */
static int take_mount(void *self, char *line)
{
    struct hierarchies *all = self;
    struct hierarchy *into = NULL;
    char *field[5] = {NULL}, *save = NULL, *tail, *type, *options;

    tail = strstr(line, " - ");
    if (!tail)
        return 1;
    *tail = '\0';
    type = strtok_r(tail + 3, " ", &save);
    if (!type || strncmp(type, "cgroup", 6) != 0)
        return 1;
    strtok_r(NULL, " ", &save);
    options = strtok_r(NULL, " ", &save);
    save = NULL;
    for (int i = 0; i < 5; i++)
        field[i] = strtok_r(i ? NULL : line, " ", &save);
    if (!field[4])
        return 1;
    if (strcmp(type, "cgroup2") == 0)
        into = &all->v2;
    else if (options && listed(options, all->controller))
        into = &all->v1;
    if (!into || into->found_mount || strlen(field[3]) >= sizeof into->base ||
        strlen(field[4]) >= sizeof into->mount)
        return 1;
    unescape(field[3]);
    unescape(field[4]);
    copy(into->base, sizeof into->base, strcmp(field[3], "/") == 0 ? "" : field[3]);
    copy(into->mount, sizeof into->mount, field[4]);
    into->found_mount = 1;
    return 1;
}

/* Turns `group` into the path below the mount: "" is the root of the mount. */
static void make_relative(struct hierarchy *h)
{
    size_t n = strlen(h->base);

    if (strncmp(h->group, h->base, n) == 0 && (h->group[n] == '/' || h->group[n] == '\0'))
        memmove(h->group, h->group + n, strlen(h->group + n) + 1);
    else
        h->group[0] = '\0'; /* outside of what is mounted here */
    if (strstr(h->group, "/..") || h->group[0] != '/' || h->group[1] == '\0')
        h->group[0] = '\0';
}

static void assume_mount(struct hierarchy *h, const char *root, const char *path)
{
    if (h->found_mount || !cabe_sysfile_is_dir(root, path))
        return;
    copy(h->mount, sizeof h->mount, path);
    h->base[0] = '\0';
    h->found_mount = 1;
}

static void find_hierarchies(struct hierarchies *all, const char *controller, const char *root)
{
    char path[CABE_MACHINE_PATH_MAX];
    char unused[8];

    memset(all, 0, sizeof *all);
    all->controller = controller;
    cabe_sysfile_lines(root, "/proc/self/cgroup", take_group, all);
    cabe_sysfile_lines(root, "/proc/self/mountinfo", take_mount, all);

    snprintf(path, sizeof path, "/sys/fs/cgroup/%s", controller);
    if (all->v1.found_group || !all->v2.found_mount)
        assume_mount(&all->v1, root, path);
    if (cabe_sysfile_text(root, "/sys/fs/cgroup/cgroup.controllers", unused, sizeof unused) >= 0)
        assume_mount(&all->v2, root, "/sys/fs/cgroup");
    else
        assume_mount(&all->v2, root, "/sys/fs/cgroup/unified");
    make_relative(&all->v1);
    make_relative(&all->v2);
}

/* Calls `visit(folder)` for the process's group and every group above it, the innermost first. */
static void each_group(const struct hierarchy *h, void (*visit)(void *self, const char *folder), void *self)
{
    char folder[2 * GROUP_MAX];
    size_t stop = strlen(h->mount);
    char *slash;

    if (!h->found_mount)
        return;
    snprintf(folder, sizeof folder, "%s%s", h->mount, h->group);
    for (;;) {
        visit(self, folder);
        slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < stop)
            return;
        *slash = '\0';
    }
}

struct memory_walk {
    struct cgroup_memory *out;
    const char *root;
};

struct memory_stat {
    uint64_t file_bytes, total_file_bytes, slab_bytes, hierarchical_limit;
    int has_total;
};

static int take_stat(void *self, char *line)
{
    struct memory_stat *stat = self;
    const char *number = strchr(line, ' ');
    size_t n = number ? (size_t)(number - line) : 0;
    uint64_t value;

    if (!number || !cabe_parse_u64(&number, &value))
        return 1;
    line[n] = '\0';
    if (strcmp(line, "inactive_file") == 0 || strcmp(line, "active_file") == 0) {
        stat->file_bytes += value;
    } else if (strcmp(line, "total_inactive_file") == 0 || strcmp(line, "total_active_file") == 0) {
        stat->total_file_bytes += value;
        stat->has_total = 1;
    } else if (strcmp(line, "slab_reclaimable") == 0) {
        stat->slab_bytes = value;
    } else if (strcmp(line, "hierarchical_memory_limit") == 0) {
        stat->hierarchical_limit = value;
    }
    return 1;
}

/* One limit of one group; `use` is what the group holds that the kernel cannot take back at once. */
static void apply_limit(struct cgroup_memory *out, uint64_t limit, uint64_t use, uint64_t reclaimable,
                        const char *file)
{
    uint64_t available;

    if (limit == 0) /* nothing can run in no memory: a reading that means something else */
        return;
    if (limit < out->limit_bytes) {
        out->limit_bytes = limit;
        copy(out->limited_by, sizeof out->limited_by, file);
    }
    available = use < limit ? limit - use : 0;
    if (available < out->available_bytes) {
        out->available_bytes = available;
        out->reclaimable_bytes = reclaimable;
        copy(out->available_by, sizeof out->available_by, file);
    }
}

static void read_group(struct memory_walk *walk, const char *folder, const char *const limits[],
                       const char *usage_file)
{
    char path[SYSFILE_PATH_MAX];
    struct memory_stat stat = {0};
    uint64_t usage = 0, limit, reclaimable;

    snprintf(path, sizeof path, "%s/%s", folder, usage_file);
    cabe_sysfile_u64(walk->root, path, &usage);
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    cabe_sysfile_lines(walk->root, path, take_stat, &stat);
    reclaimable = stat.has_total ? stat.total_file_bytes : stat.file_bytes;
    if (__builtin_add_overflow(reclaimable, stat.slab_bytes, &reclaimable) || reclaimable > usage)
        reclaimable = usage;
    for (int i = 0; limits[i]; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, limits[i]);
        if (cabe_sysfile_u64(walk->root, path, &limit))
            apply_limit(walk->out, limit, usage - reclaimable, reclaimable, path);
    }
    /* v1 tells the smallest limit of all groups above, those too that a container cannot see. */
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    apply_limit(walk->out, stat.hierarchical_limit, usage - reclaimable, reclaimable, path);
}

static void visit_memory_v1(void *self, const char *folder)
{
    static const char *const limits[] = {"memory.limit_in_bytes", NULL};

    read_group(self, folder, limits, "memory.usage_in_bytes");
}

/* memory.high counts as a limit: past it the kernel stalls the group rather than letting it grow. */
static void visit_memory_v2(void *self, const char *folder)
{
    static const char *const limits[] = {"memory.max", "memory.high", NULL};
    struct memory_walk *walk = self;
    char path[SYSFILE_PATH_MAX], text[8];

    read_group(walk, folder, limits, "memory.current");
    if (walk->out->pressure_file[0])
        return;
    snprintf(path, sizeof path, "%s/memory.pressure", folder);
    if (cabe_sysfile_text(walk->root, path, text, sizeof text) > 0)
        copy(walk->out->pressure_file, sizeof walk->out->pressure_file, path);
}

void cabe_cgroup_memory(struct cgroup_memory *out, const char *root)
{
    struct memory_walk walk = {out, root};
    struct hierarchies all;

    memset(out, 0, sizeof *out);
    out->limit_bytes = out->available_bytes = UINT64_MAX;
    find_hierarchies(&all, "memory", root);
    each_group(&all.v1, visit_memory_v1, &walk);
    each_group(&all.v2, visit_memory_v2, &walk);
}

struct cpu_walk {
    struct cgroup_cpu *out;
    const char *root;
};

static void apply_quota(struct cgroup_cpu *out, uint64_t quota_us, uint64_t period_us)
{
    double cpus = period_us ? (double)quota_us / (double)period_us : 0;

    if (cpus > 0 && (out->quota_cpus == 0 || cpus < out->quota_cpus))
        out->quota_cpus = cpus;
}

static void visit_quota_v1(void *self, const char *folder)
{
    struct cpu_walk *walk = self;
    char path[SYSFILE_PATH_MAX];
    uint64_t quota, period;

    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!cabe_sysfile_u64(walk->root, path, &quota)) /* -1: none */
        return;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    if (!cabe_sysfile_u64(walk->root, path, &period))
        period = 100000;
    apply_quota(walk->out, quota, period);
}

static void visit_cpuset(struct cpu_walk *walk, const char *folder, const char *const files[])
{
    char path[SYSFILE_PATH_MAX], text[SYSFILE_LINE_MAX];

    for (int i = 0; files[i] && !walk->out->has_cpuset; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        if (cabe_sysfile_text(walk->root, path, text, sizeof text) > 0)
            walk->out->has_cpuset = cabe_cpuset_parse(&walk->out->cpuset, text);
    }
}

static void visit_cpuset_v1(void *self, const char *folder)
{
    static const char *const files[] = {"cpuset.effective_cpus", "cpuset.cpus", NULL};

    visit_cpuset(self, folder, files);
}

static void visit_cpu_v2(void *self, const char *folder)
{
    static const char *const files[] = {"cpuset.cpus.effective", "cpuset.cpus", NULL};
    struct cpu_walk *walk = self;
    char path[SYSFILE_PATH_MAX], text[64];
    const char *at = text;
    uint64_t quota, period = 100000;

    visit_cpuset(walk, folder, files);
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (cabe_sysfile_text(walk->root, path, text, sizeof text) <= 0 || !cabe_parse_u64(&at, &quota))
        return; /* "max 100000": none */
    cabe_parse_u64(&at, &period);
    apply_quota(walk->out, quota, period);
}

void cabe_cgroup_cpu(struct cgroup_cpu *out, const char *root)
{
    struct cpu_walk walk = {out, root};
    struct hierarchies all;

    memset(out, 0, sizeof *out);
    find_hierarchies(&all, "cpuset", root);
    each_group(&all.v1, visit_cpuset_v1, &walk);
    find_hierarchies(&all, "cpu", root);
    each_group(&all.v1, visit_quota_v1, &walk);
    each_group(&all.v2, visit_cpu_v2, &walk);
}
