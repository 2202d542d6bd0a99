#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "machine/cgroup.h"
#include "machine/probe.h"
#include "machine/sysfile.h"

static const struct {
    const char *flag; /* as /proc/cpuinfo names it */
    enum cabe_simd simd;
} flags[] = {
    {"sse4_2", CABE_SIMD_SSE42},
    {"avx", CABE_SIMD_AVX},
    {"f16c", CABE_SIMD_F16C},
    {"fma", CABE_SIMD_FMA},
    {"avx2", CABE_SIMD_AVX2},
    {"avx_vnni", CABE_SIMD_AVXVNNI},
    {"avx512_vnni", CABE_SIMD_AVX512VNNI},
    {"avx512_bf16", CABE_SIMD_AVX512BF16},
    {"avx512_fp16", CABE_SIMD_AVX512FP16},
    {"amx_int8", CABE_SIMD_AMX_INT8},
    {"amx_bf16", CABE_SIMD_AMX_BF16},
    {"asimd", CABE_SIMD_NEON},
    {"asimdhp", CABE_SIMD_FP16},
    {"asimddp", CABE_SIMD_DOTPROD},
    {"i8mm", CABE_SIMD_I8MM},
    {"bf16", CABE_SIMD_BF16},
    {"sve", CABE_SIMD_SVE},
    {"sve2", CABE_SIMD_SVE2},
};

/* What the first processor of /proc/cpuinfo says, and how many there are. */
struct cpuinfo {
    struct cabe_cpu *cpu;
    char implementer[32], part[32];
    unsigned avx512; /* bits: F, BW, DQ, VL */
    uint64_t siblings, cores;
    int n_processors;
};

static void take_flags(struct cpuinfo *info, char *words)
{
    static const char *const avx512[] = {"avx512f", "avx512bw", "avx512dq", "avx512vl"};
    char *save = NULL;

    for (char *word = strtok_r(words, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
        for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++)
            if (strcmp(word, flags[i].flag) == 0)
                info->cpu->simd |= CABE_SIMD_BIT(flags[i].simd);
        for (unsigned i = 0; i < 4; i++)
            if (strcmp(word, avx512[i]) == 0)
                info->avx512 |= 1u << i;
    }
}

static int take_cpuinfo(void *self, char *line)
{
    struct cpuinfo *info = self;
    char *value = strchr(line, ':'), *end = value;

    if (!value)
        return 1;
    while (end > line && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    *end = '\0';
    value++;
    value += *value == ' ';
    if (strcmp(line, "processor") == 0)
        info->n_processors++;
    if (info->n_processors > 1) /* the others are taken to be like the first */
        return 1;
    if (strcmp(line, "vendor_id") == 0)
        snprintf(info->cpu->vendor, sizeof info->cpu->vendor, "%.31s", value);
    else if (strcmp(line, "model name") == 0)
        snprintf(info->cpu->model, sizeof info->cpu->model, "%.95s", value);
    else if (strcmp(line, "CPU implementer") == 0)
        snprintf(info->implementer, sizeof info->implementer, "%.31s", value);
    else if (strcmp(line, "CPU part") == 0)
        snprintf(info->part, sizeof info->part, "%.31s", value);
    else if (strcmp(line, "cpu MHz") == 0)
        info->cpu->mhz = strtod(value, NULL);
    else if (strcmp(line, "siblings") == 0)
        info->siblings = strtoul(value, NULL, 10);
    else if (strcmp(line, "cpu cores") == 0)
        info->cores = strtoul(value, NULL, 10);
    else if (strcmp(line, "flags") == 0 || strcmp(line, "Features") == 0)
        take_flags(info, value);
    return 1;
}

/* Where /proc/cpuinfo says nothing, the instruction that it is made from. */
static void ask_cpu(struct cabe_cpu *cpu)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        cpu->simd |= cabe_simd_parse("avx2", 4);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        cpu->simd |= cabe_simd_parse("avx512", 6);
    if (__builtin_cpu_supports("avx512vnni"))
        cpu->simd |= cabe_simd_parse("avx512vnni", 10);
#elif defined(__aarch64__)
    cpu->simd |= CABE_SIMD_BIT(CABE_SIMD_NEON);
#else
    (void)cpu;
#endif
}

static void read_cpuinfo(struct cpuinfo *info, const char *root)
{
    struct cabe_cpu *cpu = info->cpu;
    uint64_t khz;

    cabe_sysfile_lines(root, "/proc/cpuinfo", take_cpuinfo, info);
    if (info->avx512 == 15)
        cpu->simd |= CABE_SIMD_BIT(CABE_SIMD_AVX512);
    else
        cpu->simd &= ~(CABE_SIMD_BIT(CABE_SIMD_AVX512VNNI) | CABE_SIMD_BIT(CABE_SIMD_AVX512BF16) |
                       CABE_SIMD_BIT(CABE_SIMD_AVX512FP16));
    if (!root && cpu->simd == 0)
        ask_cpu(cpu);
    if (cabe_sysfile_u64(root, "/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", &khz) &&
        khz < 100000000)
        cpu->mhz = (double)khz / 1000;
    if (!(cpu->mhz > 0 && cpu->mhz < 100000))
        cpu->mhz = 0;
    if (!cpu->vendor[0] && info->implementer[0])
        snprintf(cpu->vendor, sizeof cpu->vendor, "arm %.26s", info->implementer);
    if (!cpu->model[0])
        snprintf(cpu->model, sizeof cpu->model, info->part[0] ? "part %s" : "unknown%s", info->part);
}

static void find_online(struct cpuset *online, const struct cpuinfo *info, const char *root)
{
    char text[1024];
    long n = 0;

    if (cabe_sysfile_text(root, "/sys/devices/system/cpu/online", text, sizeof text) > 0 &&
        cabe_cpuset_parse(online, text))
        return;
    memset(online, 0, sizeof *online);
    n = info->n_processors;
    if (n == 0 && !root)
        n = sysconf(_SC_NPROCESSORS_ONLN);
    for (int cpu = 0; cpu < n || cpu == 0; cpu++)
        cabe_cpuset_add(online, cpu);
}

/* The lowest numbered CPU of the core that `cpu` is a thread of; -1: not known. */
static int core_of(int cpu, const char *root)
{
    static const char *const files[] = {"core_cpus_list", "thread_siblings_list"};
    char path[128], text[512];
    struct cpuset siblings;

    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/%s", cpu, files[i]);
        if (cabe_sysfile_text(root, path, text, sizeof text) > 0 && cabe_cpuset_parse(&siblings, text) &&
            cabe_cpuset_has(&siblings, cpu))
            return cabe_cpuset_first(&siblings);
    }
    return -1;
}

/* Counts different cores among the online CPUs and among the usable ones; 0 where the topology is not known.
 */
static int count_cores(struct cabe_cpu *cpu, const struct cpuset *online, const struct cpuset *usable,
                       const char *root)
{
    struct cpuset all = {{0}}, mine = {{0}};

    for (int i = 0; i < CPUSET_MAX; i++) {
        int core;

        if (!cabe_cpuset_has(online, i))
            continue;
        core = core_of(i, root);
        if (core < 0)
            return 0;
        cabe_cpuset_add(&all, core);
        if (cabe_cpuset_has(usable, i))
            cabe_cpuset_add(&mine, core);
    }
    cpu->n_physical = cabe_cpuset_count(&all);
    cpu->n_usable_physical = cabe_cpuset_count(&mine);
    return 1;
}

static void assume_cores(struct cabe_cpu *cpu, const struct cpuinfo *info)
{
    uint64_t threads = 2; /* a core, as most have */

    cpu->cores_assumed = 1;
    if (info->cores > 0 && info->siblings >= info->cores && info->siblings / info->cores <= 8) {
        threads = info->siblings / info->cores;
        cpu->cores_assumed = 0;
    }
    cpu->n_physical = cpu->n_logical / (int)threads;
    cpu->n_usable_physical = cpu->n_usable_logical / (int)threads;
}

void cabe_cpu_settle(struct cabe_cpu *cpu)
{
    double whole;

    if (cpu->n_logical < 1)
        cpu->n_logical = 1;
    if (cpu->n_physical < 1)
        cpu->n_physical = 1;
    if (cpu->n_usable_physical < 1)
        cpu->n_usable_physical = 1;
    cpu->n_usable = cpu->n_usable_physical;
    /* To the nearest whole: of 1.5 CPUs two threads get more than one does, of 1.1 they do not. */
    whole = cpu->quota_cpus + 0.5;
    if (cpu->quota_cpus > 0 && whole < cpu->n_usable)
        cpu->n_usable = whole >= 1 ? (int)whole : 1;
}

static int take_allowed(void *self, char *line)
{
    static const char name[] = "Cpus_allowed_list:";

    if (strncmp(line, name, sizeof name - 1) != 0)
        return 1;
    cabe_cpuset_parse(self, line + sizeof name - 1);
    return 0;
}

static void find_usable(struct cpuset *usable, const struct cpuset *online, const struct cgroup_cpu *group,
                        const char *root)
{
    struct cpuset allowed = {{0}};
    cpu_set_t mask;

    *usable = *online;
    if (group->has_cpuset)
        cabe_cpuset_intersect(usable, &group->cpuset);
    cabe_sysfile_lines(root, "/proc/self/status", take_allowed, &allowed);
    if (cabe_cpuset_first(&allowed) < 0 && !root && sched_getaffinity(0, sizeof mask, &mask) == 0)
        for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
            if (CPU_ISSET(cpu, &mask))
                cabe_cpuset_add(&allowed, (int)cpu);
    if (cabe_cpuset_first(&allowed) >= 0)
        cabe_cpuset_intersect(usable, &allowed);
}

/* "512K" */
static uint64_t cache_size(const char *text)
{
    uint64_t size;

    if (!cabe_parse_u64(&text, &size) || size > UINT64_C(1) << 40)
        return 0;
    return *text == 'K' ? size << 10 : *text == 'M' ? size << 20 : *text == 'G' ? size << 30 : size;
}

static void read_caches(struct cabe_cpu *cpu, int of_cpu, const char *root)
{
    char path[128], type[32], size[32], shared[512];
    struct cpuset set;
    uint64_t level;
    size_t n;

    for (int i = 0; i < 8; i++) {
        n = (size_t)snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cache/index%d/", of_cpu, i);
        snprintf(path + n, sizeof path - n, "level");
        if (!cabe_sysfile_u64(root, path, &level))
            return;
        snprintf(path + n, sizeof path - n, "type");
        cabe_sysfile_text(root, path, type, sizeof type);
        snprintf(path + n, sizeof path - n, "size");
        if (strcmp(type, "Instruction") == 0 || cabe_sysfile_text(root, path, size, sizeof size) <= 0)
            continue;
        if (level == 1)
            cpu->l1d_bytes = cache_size(size);
        else if (level == 2)
            cpu->l2_bytes = cache_size(size);
        else if (level == 3)
            cpu->l3_bytes = cache_size(size);
        snprintf(path + n, sizeof path - n, "shared_cpu_list");
        if (level == 3 && cabe_sysfile_text(root, path, shared, sizeof shared) > 0 &&
            cabe_cpuset_parse(&set, shared))
            cpu->n_l3 = (cpu->n_logical + cabe_cpuset_count(&set) - 1) / cabe_cpuset_count(&set);
    }
}

void cabe_probe_load(struct cabe_cpu *cpu, const char *root)
{
    char text[128], *end;

    cpu->load_1m = -1;
    if (cabe_sysfile_text(root, "/proc/loadavg", text, sizeof text) > 0) {
        double load = strtod(text, &end);

        if (end != text && load >= 0 && load < 1e9)
            cpu->load_1m = load;
    }
}

void cabe_probe_cpu(struct cabe_cpu *cpu, const char *root)
{
    struct cpuinfo info = {.cpu = cpu};
    struct cpuset online, usable;
    struct cgroup_cpu group;

    memset(cpu, 0, sizeof *cpu);
    read_cpuinfo(&info, root);
    find_online(&online, &info, root);
    cabe_cgroup_cpu(&group, root);
    find_usable(&usable, &online, &group, root);
    cpu->n_logical = cabe_cpuset_count(&online);
    cpu->n_usable_logical = cabe_cpuset_count(&usable);
    cpu->quota_cpus = group.quota_cpus;
    if (!count_cores(cpu, &online, &usable, root))
        assume_cores(cpu, &info);
    cabe_cpu_settle(cpu);
    read_caches(cpu, cabe_cpuset_first(&usable), root);
    cabe_tidy_name(cpu->vendor);
    cabe_tidy_name(cpu->model);
    cabe_probe_load(cpu, root);
}
