/* The avx512vnni part of matrix products, emulated, against scalar: on CPUs that lack it too. */
#include "avx512_emulated.h"

#if CABE_HAVE_SIMDE && defined(__x86_64__)
#define cabe_matmul_ints_avx512vnni cabe_matmul_ints_avx512vnni_emulated /* the library has the real one */
#include "../../src/kernel/matmul_int_avx512vnni.c"

#include "matmul_cases.h"

int main(void)
{
    struct cabe_kernels kernels = *cabe_kernels_at(CABE_LEVEL_SCALAR);

    kernels.name = "avx512vnni emulated";
    kernels.matmul.ints = &cabe_matmul_ints_avx512vnni;
    seed_from_environment();
    return run_cases(&kernels);
}
#else
#include <stdio.h>

int main(void)
{
    puts("skip: libsimde-dev or x86-64 is missing");
    return 77;
}
#endif
