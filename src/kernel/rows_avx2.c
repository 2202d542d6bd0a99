/* Row kernels at AVX2, FMA, F16C. */
#include "kernel/levels.h"

#if CABE_HAVE_X86
#include "kernel/rows_vector.h"

const struct cabe_row_kernels cabe_rows_avx2 = CABE_ROWS_TABLE;
#endif
