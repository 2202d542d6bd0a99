/*
 * The tables that the files of a CPU level export, and nothing else of theirs is seen. kernel.c assembles them.
 *
 * Every table of rows and of attention is complete. On another architecture only scalar exists.
 */
#ifndef CABE_KERNEL_LEVELS_H
#define CABE_KERNEL_LEVELS_H

#include "kernel/attention.h"
#include "kernel/rows.h"

#if defined(__x86_64__)
#define CABE_HAVE_X86 1
#else
#define CABE_HAVE_X86 0
#endif

extern const struct cabe_row_kernels cabe_rows_scalar;
extern const struct cabe_attention_kernels cabe_attention_scalar;
#if CABE_HAVE_X86
extern const struct cabe_row_kernels cabe_rows_avx2;   /* AVX2, FMA, F16C */
extern const struct cabe_row_kernels cabe_rows_avx512; /* AVX-512 F, BW, DQ, VL */
extern const struct cabe_attention_kernels cabe_attention_avx2;
extern const struct cabe_attention_kernels cabe_attention_avx512;
#endif

#endif
