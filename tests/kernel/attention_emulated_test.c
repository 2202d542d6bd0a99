/* The AVX-512 attention over pages, emulated, against scalar: on CPUs that lack AVX-512 too. */
#include "avx512_emulated.h"

#if CABE_HAVE_SIMDE && defined(__x86_64__)
#include "kernel/levels.h"

#define cabe_rows_avx512 cabe_rows_scalar /* conversions are the same bits */
#define cabe_attention_avx512 attention_emulated /* the library has the real one */
extern const struct cabe_attention_kernels attention_emulated;
#include "../../src/kernel/attention_avx512.c"

#include "attention_cases.h"

int main(void)
{
    seed_from_environment();
    return run_cases(&attention_emulated, "avx512 emulated");
}
#else
#include <stdio.h>

int main(void)
{
    puts("skip: libsimde-dev or x86-64 is missing");
    return 77;
}
#endif
