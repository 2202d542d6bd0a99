/* Which kernels this machine runs. */
#include "kernel/kernel.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/matmul_level.h"

#if CABE_HAVE_X86
#include <cpuid.h>
#endif

/* What a level is made of; a part that a level lacks is the one below. */
struct parts {
    const char *name;
    const struct cabe_matmul_floats *floats;
    const struct cabe_matmul_ints *ints;
    const struct cabe_row_kernels *rows;
    const struct cabe_attention_kernels *attention;
    int proven; /* its kernels have passed the kernel driver on real silicon, not only emulated */
};

static const struct parts parts[CABE_N_LEVELS] = {
    [CABE_LEVEL_SCALAR] = {"scalar", &cabe_matmul_floats_scalar, &cabe_matmul_ints_scalar, &cabe_rows_scalar,
                           &cabe_attention_scalar, 1},
#if CABE_HAVE_X86
    [CABE_LEVEL_AVX2] = {"avx2", &cabe_matmul_floats_avx2, &cabe_matmul_ints_avx2, &cabe_rows_avx2,
                         &cabe_attention_avx2, 1},
    [CABE_LEVEL_AVX512] = {"avx512", &cabe_matmul_floats_avx512, NULL, &cabe_rows_avx512, &cabe_attention_avx512, 0},
    [CABE_LEVEL_AVX512VNNI] = {"avx512vnni", NULL, &cabe_matmul_ints_avx512vnni, NULL, NULL, 0},
#else
    [CABE_LEVEL_AVX2] = {.name = "avx2"},
    [CABE_LEVEL_AVX512] = {.name = "avx512"},
    [CABE_LEVEL_AVX512VNNI] = {.name = "avx512vnni"},
#endif
};

static struct cabe_kernels tables[CABE_N_LEVELS];
static int here[CABE_N_LEVELS];
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static enum cabe_level best; /* without CABE_CPU */
static pthread_once_t best_once = PTHREAD_ONCE_INIT;

#if CABE_HAVE_X86
/* What the system saves of the registers (XCR0): 6 is SSE and AVX, 0xE6 AVX-512 too. */
static unsigned long long saved_registers(void)
{
    unsigned low, high;

    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (unsigned long long)high << 32 | low;
}

static void look_at_cpu(void)
{
    unsigned a, b, c, d, leaf1_c;
    unsigned long long saved;
    const unsigned need1 = 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29;     /* FMA, OSXSAVE, AVX, F16C */
    const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;    /* F, DQ, BW, VL */

    if (!__get_cpuid(1, &a, &b, &leaf1_c, &d) || (leaf1_c & need1) != need1)
        return;
    saved = saved_registers();
    if ((saved & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & 1u << 5))
        return;
    here[CABE_LEVEL_AVX2] = 1;
    if ((saved & 0xE6) != 0xE6 || (b & avx512) != avx512)
        return;
    here[CABE_LEVEL_AVX512] = 1;
    here[CABE_LEVEL_AVX512VNNI] = (c & 1u << 11) != 0;
}
#else
static void look_at_cpu(void)
{
}
#endif

static void fill_tables(void)
{
    struct cabe_kernels table = {.level = CABE_LEVEL_SCALAR};

    here[CABE_LEVEL_SCALAR] = 1;
    look_at_cpu();
    for (int level = 0; level < CABE_N_LEVELS; level++) {
        const struct parts *p = &parts[level];

        table.level = (enum cabe_level)level;
        table.name = p->name;
        if (p->floats)
            table.matmul.floats = p->floats;
        if (p->ints)
            table.matmul.ints = p->ints;
        if (p->rows)
            table.row = *p->rows;
        if (p->attention)
            table.attention = *p->attention;
        tables[level] = table;
    }
}

static void find_best(void)
{
    for (int level = CABE_N_LEVELS - 1; level > 0; level--)
        if (cabe_level_here((enum cabe_level)level) &&
            (parts[level].proven || cabe_kernels_selftest((enum cabe_level)level))) {
            best = (enum cabe_level)level;
            return;
        }
    best = CABE_LEVEL_SCALAR;
}

const char *cabe_level_name(enum cabe_level level)
{
    return (unsigned)level < CABE_N_LEVELS ? parts[level].name : "?";
}

int cabe_level_here(enum cabe_level level)
{
    pthread_once(&tables_once, fill_tables);
    return (unsigned)level < CABE_N_LEVELS && here[level];
}

const struct cabe_kernels *cabe_kernels_at(enum cabe_level level)
{
    return cabe_level_here(level) ? &tables[level] : NULL;
}

enum cabe_status cabe_kernels_choose(const struct cabe_kernels **out, struct cabe_error *err)
{
    const char *wanted = getenv("CABE_CPU");

    *out = NULL;
    if (!wanted || !*wanted) {
        pthread_once(&best_once, find_best);
        *out = cabe_kernels_at(best);
        return CABE_OK;
    }
    for (int level = 0; level < CABE_N_LEVELS; level++)
        if (strcmp(wanted, parts[level].name) == 0) {
            *out = cabe_kernels_at((enum cabe_level)level);
            return *out ? CABE_OK
                        : cabe_fail(err, CABE_ERR_ARGUMENT, "CABE_CPU: this machine cannot run %s", wanted);
        }
    return cabe_fail(err, CABE_ERR_ARGUMENT, "CABE_CPU: '%s' is not one of scalar, avx2, avx512, avx512vnni", wanted);
}
