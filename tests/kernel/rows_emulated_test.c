/* The AVX-512 row kernels, emulated, against scalar: on CPUs that lack AVX-512 too. */
#include "avx512_emulated.h"

#if CABE_HAVE_SIMDE && defined(__x86_64__)
#define cabe_rows_avx512 rows_emulated /* the library has the real one */
extern const struct cabe_row_kernels rows_emulated;
#include "../../src/kernel/rows_avx512.c"

#include "rows_cases.h"

int main(void)
{
    seed_from_environment();
    return run_cases(&rows_emulated, "avx512 emulated");
}
#else
#include <stdio.h>

int main(void)
{
    puts("skip: libsimde-dev or x86-64 is missing");
    return 77;
}
#endif
