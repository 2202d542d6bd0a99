/*
 * The kernels, one table per CPU level.
 *
 * `scalar` is the specification: plain loops. Every other level is compared with it within the bound stated beside
 * each function. A level's file exports its table entries and nothing else; selection starts from scalar and
 * overwrites upward. Kernels work on host pointers, allocate nothing, and are called by one member of a team on a
 * range of rows or panels; ranges never change results.
 *
 * Legend: t rows of activations (tokens), k inputs, n outputs, c channels, s sequences.
 */
#ifndef CABE_KERNEL_KERNEL_H
#define CABE_KERNEL_KERNEL_H

#include <stdint.h>

#include "kernel/attention.h"
#include "kernel/matmul.h"
#include "kernel/rows.h"

enum cabe_level { CABE_LEVEL_SCALAR, CABE_LEVEL_AVX2, CABE_LEVEL_AVX512, CABE_LEVEL_AVX512VNNI, CABE_N_LEVELS };

struct cabe_kernels {
    enum cabe_level level;
    const char *name; /* "scalar", "avx2", "avx512", "avx512vnni" */
    struct cabe_matmul_kernels matmul;
    struct cabe_row_kernels row;
    struct cabe_attention_kernels attention;
};

const char *cabe_level_name(enum cabe_level level);
/* Whether this CPU and build can run the level. */
int cabe_level_here(enum cabe_level level);
/* The table of a level; NULL where cabe_level_here() is 0. */
const struct cabe_kernels *cabe_kernels_at(enum cabe_level level);
/*
 * Whether the level's kernels agree with scalar on small shapes, here and now: 1 or 0 (also where the level is not
 * here). Under 50 ms; 768 KiB of heap while it runs, 0 where that is refused.
 */
int cabe_kernels_selftest(enum cabe_level level);
/*
 * The table for this machine: the level that CABE_CPU names (an unknown name, or one that this CPU lacks, is
 * CABE_ERR_ARGUMENT), else the best one here that has passed the kernel driver on real silicon. A level that never
 * has is taken only after its self-test has passed on this very CPU; that runs once in a process. Thread: any.
 */
CABE_CHECKED enum cabe_status cabe_kernels_choose(const struct cabe_kernels **out, struct cabe_error *err);

#endif
