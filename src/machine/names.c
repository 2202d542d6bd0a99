#include <string.h>

#include "machine/probe.h"

static const char *const simd_names[] = {
#define X(symbol, name) name,
    CABE_SIMD_MAP(X)
#undef X
};
static const char *const arith_names[] = {
#define X(symbol, name) name,
    CABE_ARITH_MAP(X)
#undef X
};
static const char *const family_names[] = {
#define X(symbol, name) name,
    CABE_FAMILY_MAP(X)
#undef X
};
static const char *const advice_names[] = {
#define X(symbol, name) name,
    CABE_ADVICE_MAP(X)
#undef X
};

const char *cabe_simd_name(enum cabe_simd simd)
{
    return (unsigned)simd < CABE_N_SIMD ? simd_names[simd] : "?";
}

const char *cabe_arith_name(enum cabe_arith arith)
{
    return (unsigned)arith < CABE_N_ARITH ? arith_names[arith] : "?";
}

const char *cabe_family_name(enum cabe_family family)
{
    return (unsigned)family < CABE_N_FAMILIES ? family_names[family] : "?";
}

const char *cabe_advice_name(enum cabe_advice advice)
{
    return (unsigned)advice < CABE_N_ADVICE ? advice_names[advice] : "?";
}

const char *cabe_origin_name(enum cabe_origin origin)
{
    static const char *const names[] = {"estimated", "described", "probed", "measured"};

    return (unsigned)origin < 4 ? names[origin] : "?";
}

const char *cabe_tier_name(enum cabe_tier tier)
{
    static const char *const names[] = {"low", "medium", "high"};

    return (unsigned)tier < 3 ? names[tier] : "?";
}

#define BIT(name) CABE_SIMD_BIT(CABE_SIMD_##name)
#define UP_TO_AVX2 (BIT(SSE42) | BIT(AVX) | BIT(F16C) | BIT(FMA) | BIT(AVX2))

const char *cabe_simd_level(uint32_t simd)
{
    const uint32_t avx2 = BIT(AVX2) | BIT(FMA) | BIT(F16C);
    const uint32_t avx512 = avx2 | BIT(AVX512);

    if ((simd & avx512) == avx512)
        return simd & BIT(AVX512VNNI) ? "avx512vnni" : "avx512";
    if ((simd & avx2) == avx2)
        return "avx2";
    return simd & BIT(NEON) ? "neon" : "scalar";
}

/* What CPUs with a level have in any case. */
static uint32_t included(enum cabe_simd simd)
{
    switch (simd) {
    case CABE_SIMD_AVX2:
    case CABE_SIMD_FMA:
    case CABE_SIMD_F16C:
    case CABE_SIMD_AVXVNNI:
    case CABE_SIMD_AVX512:
        return UP_TO_AVX2;
    case CABE_SIMD_AVX:
        return BIT(SSE42);
    case CABE_SIMD_AVX512VNNI:
        return UP_TO_AVX2 | BIT(AVX512);
    case CABE_SIMD_AVX512BF16:
    case CABE_SIMD_AVX512FP16:
    case CABE_SIMD_AMX_INT8:
    case CABE_SIMD_AMX_BF16:
        return UP_TO_AVX2 | BIT(AVX512) | BIT(AVX512VNNI);
    case CABE_SIMD_FP16:
    case CABE_SIMD_DOTPROD:
    case CABE_SIMD_I8MM:
    case CABE_SIMD_BF16:
    case CABE_SIMD_SVE:
    case CABE_SIMD_SVE2:
        return BIT(NEON);
    default:
        return 0;
    }
}

uint32_t cabe_simd_parse(const char *name, size_t n)
{
    for (int i = 0; i < CABE_N_SIMD; i++)
        if (strlen(simd_names[i]) == n && strncmp(simd_names[i], name, n) == 0)
            return CABE_SIMD_BIT(i) | included((enum cabe_simd)i);
    return 0;
}

void cabe_tidy_name(char *name)
{
    size_t begin = strspn(name, " \t"), n = strlen(name);

    while (n > begin && (name[n - 1] == ' ' || name[n - 1] == '\t'))
        n--;
    for (size_t i = begin; i < n; i++)
        name[i - begin] = (unsigned char)name[i] < 0x20 || (unsigned char)name[i] > 0x7E ? '?' : name[i];
    name[n - begin] = '\0';
}
