/* A machine as a folder: files of /proc and /sys that a test writes, below a temporary root. */
#ifndef CABE_TESTS_MACHINE_TREE_H
#define CABE_TESTS_MACHINE_TREE_H

#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char tree_root[64];

static inline int tree_remove_one(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info;
    (void)kind;
    (void)where;
    return remove(path);
}

static inline void tree_drop(void)
{
    if (tree_root[0])
        nftw(tree_root, tree_remove_one, 16, FTW_DEPTH | FTW_PHYS);
    tree_root[0] = '\0';
}

/* A new, empty machine. */
static inline void tree_new(void)
{
    tree_drop();
    snprintf(tree_root, sizeof tree_root, "/tmp/cabe_machine_XXXXXX");
    if (!mkdtemp(tree_root)) {
        perror("mkdtemp");
        exit(1);
    }
}

static inline void tree_bytes(const char *path, const void *data, size_t n)
{
    char full[1024];
    FILE *file;

    snprintf(full, sizeof full, "%s%s", tree_root, path);
    for (char *at = full + strlen(tree_root) + 1; (at = strchr(at, '/')); at++) {
        *at = '\0';
        mkdir(full, 0700);
        *at = '/';
    }
    file = fopen(full, "w");
    if (!file || fwrite(data, 1, n, file) != n || fclose(file) != 0) {
        perror(full);
        exit(1);
    }
}

__attribute__((format(printf, 2, 3))) static inline void tree_put(const char *path, const char *format, ...)
{
    char text[8192];
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    tree_bytes(path, text, (size_t)n);
}

/* `n` CPUs, each core of `threads` neighbours; the usual caches. */
static inline void tree_cpus(int n, int threads)
{
    char path[128];

    tree_put("/sys/devices/system/cpu/online", "0-%d\n", n - 1);
    tree_put(
        "/proc/cpuinfo",
        "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Test CPU @ 3.00GHz\ncpu MHz\t\t: 3000.000\n"
        "flags\t\t: fpu sse4_2 avx f16c fma avx2 avx512f avx512bw avx512dq avx512vl avx512_vnni\n\n");
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/core_cpus_list", i);
        if (threads == 1)
            tree_put(path, "%d\n", i);
        else
            tree_put(path, "%d-%d\n", i / threads * threads, i / threads * threads + threads - 1);
    }
}

static inline void tree_memory(unsigned long long total_mb, unsigned long long available_mb)
{
    tree_put("/proc/meminfo", "MemTotal:  %8llu kB\nMemFree:  %8llu kB\nMemAvailable:  %8llu kB\n",
             total_mb << 10, available_mb << 9, available_mb << 10);
}

#endif
