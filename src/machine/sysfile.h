/*
 * Small files of /proc and /sys, below an optional root prefix so that a test can give a machine as a tree.
 *
 * Nothing here allocates or fails: what cannot be read is absent. Thread: any.
 */
#ifndef CABE_MACHINE_SYSFILE_H
#define CABE_MACHINE_SYSFILE_H

#include <stddef.h>
#include <stdint.h>

#define SYSFILE_PATH_MAX 1536
#define SYSFILE_LINE_MAX 8192 /* the flags of a CPU are past 2 KB; longer lines are skipped */

/* The file's text, cut to n - 1 bytes and ended by NUL, without trailing blanks; its length, or -1. */
long cabe_sysfile_text(const char *root, const char *path, char *out, size_t n);

/* A file that holds one number, or NULL where it may hold none; 0 where it does not. "max" is no number. */
int cabe_sysfile_u64(const char *root, const char *path, uint64_t *value);

/* Calls `line` for each line until it answers 0; -1 where the file cannot be read. */
int cabe_sysfile_lines(const char *root, const char *path, int (*line)(void *self, char *text), void *self);

int cabe_sysfile_is_dir(const char *root, const char *path);

/* A number at *text, which moves past it; 0 where there is none or it does not fit. Leading blanks are
 * skipped. */
int cabe_parse_u64(const char **text, uint64_t *value);

/* Sets of CPUs, as the kernel lists them: "0-3,8". */
#define CPUSET_MAX 4096
struct cpuset {
    uint64_t word[CPUSET_MAX / 64];
};

int cabe_cpuset_parse(struct cpuset *set,
                      const char *list); /* 0: not a list, or empty; `set` is then empty */
int cabe_cpuset_count(const struct cpuset *set);
int cabe_cpuset_first(const struct cpuset *set); /* -1: empty */

static inline int cabe_cpuset_has(const struct cpuset *set, int cpu)
{
    return cpu >= 0 && cpu < CPUSET_MAX && (set->word[cpu / 64] >> (cpu % 64) & 1);
}

static inline void cabe_cpuset_add(struct cpuset *set, int cpu)
{
    if (cpu >= 0 && cpu < CPUSET_MAX)
        set->word[cpu / 64] |= UINT64_C(1) << (cpu % 64);
}

/* Leaves in `set` what is also in `other`, unless nothing would be left. */
void cabe_cpuset_intersect(struct cpuset *set, const struct cpuset *other);

#endif
