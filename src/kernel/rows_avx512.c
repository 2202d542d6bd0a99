/* Row kernels at AVX-512 F, BW, DQ, VL. */
#include "kernel/levels.h"

#if CABE_HAVE_X86
#define CABE_SIMD_AVX512
#include "kernel/rows_vector.h"

const struct cabe_row_kernels cabe_rows_avx512 = CABE_ROWS_TABLE;
#endif
