/* Attention over KV pages at every level that this CPU has. */
#include "kernel/kernel.h"

#include "attention_cases.h"

int main(void)
{
    int failed = 0;

    seed_from_environment();
    for (int level = CABE_LEVEL_SCALAR; level < CABE_N_LEVELS; level++)
        if (cabe_level_here((enum cabe_level)level))
            failed += run_cases(&cabe_kernels_at((enum cabe_level)level)->attention,
                                cabe_level_name((enum cabe_level)level));
    return failed != 0;
}
