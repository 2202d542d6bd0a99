/*
 * Loops that do nothing but one kind of arithmetic, to see how fast it can be. Operands stay in registers;
 * each level has a file of its own, with its flags. A multiply-add counts two operations.
 */
#ifndef CABE_MACHINE_PEAK_H
#define CABE_MACHINE_PEAK_H

#include <stdint.h>

#include "cabe/machine.h"

struct cabe_peak_way {
    const char *level;
    enum cabe_arith arith;
    uint32_t simd;      /* CABE_SIMD_BIT()s that it needs */
    uint64_t round_ops; /* operations of one round */
    /* Runs `n` rounds; what it returns is of no use, but it keeps the compiler from leaving the work out. */
    double (*run)(uint64_t n);
};

/* Reads `n` bytes (a multiple of 256, aligned to 64) once, and returns a sum of them. */
typedef uint64_t cabe_read_loop(const void *data, uint64_t n);

struct cabe_peak_set {
    const struct cabe_peak_way *way;
    int n_ways;
    cabe_read_loop *read; /* NULL: none of this level */
    uint32_t read_simd;
};

extern const struct cabe_peak_set cabe_peaks_scalar;
#if defined(__x86_64__)
extern const struct cabe_peak_set cabe_peaks_avx2;
extern const struct cabe_peak_set cabe_peaks_avx512;
extern const struct cabe_peak_set cabe_peaks_avx512vnni;
#elif defined(__aarch64__)
extern const struct cabe_peak_set cabe_peaks_neon;
#endif

#endif
