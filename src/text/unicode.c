#include "text/unicode.h"

#include <unicode/uchar.h>
#include <unicode/unorm2.h>

#define CATEGORY_VERSION 8
#define NORMALIZE_VERSION 9

static int is_younger(uint32_t c, int version)
{
    UVersionInfo age;

    u_charAge((UChar32)c, age);
    return age[0] > version;
}

int cabe_char_is_space(uint32_t c)
{
    if (c < 0x80)
        return c == ' ' || (c >= '\t' && c <= '\r');
    return u_isUWhiteSpace((UChar32)c);
}

static uint32_t category(uint32_t c)
{
    return U_MASK(u_charType((UChar32)c));
}

/* The category that Unicode 8 gave to characters that have another one now; 0 for all others. */
static uint32_t old_category(uint32_t c)
{
    switch (c) {
    case 0x166D:
    case 0x111C9:
        return U_GC_PO_MASK;
    case 0x1734:
        return U_GC_MN_MASK;
    case 0xA9BD:
        return U_GC_MC_MASK;
    case 0x1885:
    case 0x1886:
        return U_GC_LO_MASK;
    default:
        return 0;
    }
}

static uint32_t reference_category(uint32_t c)
{
    uint32_t old = old_category(c);

    return old ? old : is_younger(c, CATEGORY_VERSION) ? U_GC_CN_MASK : category(c);
}

int cabe_char_is_bert_punctuation(uint32_t c)
{
    if (c < 0x80)
        return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
    return (reference_category(c) & U_GC_P_MASK) != 0;
}

int cabe_char_is_other(uint32_t c)
{
    return (reference_category(c) & (U_GC_CC_MASK | U_GC_CF_MASK | U_GC_CO_MASK)) != 0;
}

int cabe_char_is_nonspacing_mark(uint32_t c)
{
    return reference_category(c) == U_GC_MN_MASK;
}

int cabe_char_is_mark(uint32_t c)
{
    return (category(c) & U_GC_M_MASK) != 0 && !is_younger(c, NORMALIZE_VERSION);
}

int cabe_char_is_word(uint32_t c)
{
    return (category(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0 ||
           u_hasBinaryProperty((UChar32)c, UCHAR_ALPHABETIC) ||
           u_hasBinaryProperty((UChar32)c, UCHAR_JOIN_CONTROL);
}

int cabe_char_is_numeric(uint32_t c)
{
    return (category(c) & (U_GC_ND_MASK | U_GC_NL_MASK | U_GC_NO_MASK)) != 0;
}

int cabe_char_is_cjk(uint32_t c)
{
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

uint8_t cabe_char_combining_class(uint32_t c)
{
    return is_younger(c, NORMALIZE_VERSION) ? 0 : u_getCombiningClass((UChar32)c);
}

int cabe_char_lower(uint32_t c, uint32_t out[CABE_LOWER_MAX])
{
    if (c == 0x130) { /* the only one that is two characters in lower case */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    out[0] = (uint32_t)u_tolower((UChar32)c);
    return 1;
}

int cabe_char_decompose(uint32_t c, int compatible, uint32_t out[CABE_DECOMPOSITION_MAX])
{
    UErrorCode status = U_ZERO_ERROR;
    const UNormalizer2 *form = compatible ? unorm2_getNFKDInstance(&status) : unorm2_getNFDInstance(&status);
    UChar units[2 * CABE_DECOMPOSITION_MAX];
    int32_t n_units = 0;
    int n = 0;

    if (U_SUCCESS(status) && !is_younger(c, NORMALIZE_VERSION))
        n_units = unorm2_getDecomposition(form, (UChar32)c, units, 2 * CABE_DECOMPOSITION_MAX, &status);
    if (U_FAILURE(status) || n_units <= 0) {
        out[0] = c;
        return 1;
    }
    for (int32_t i = 0; i < n_units && n < CABE_DECOMPOSITION_MAX; i++) {
        uint32_t d = units[i];

        if (d >= 0xD800 && d <= 0xDBFF && i + 1 < n_units)
            d = 0x10000 + ((d - 0xD800) << 10) + (units[++i] - 0xDC00u);
        out[n++] = d;
    }
    return n;
}

uint32_t cabe_char_compose(uint32_t first, uint32_t second)
{
    UErrorCode status = U_ZERO_ERROR;
    const UNormalizer2 *form = unorm2_getNFCInstance(&status);
    UChar32 c = U_FAILURE(status) ? -1 : unorm2_composePair(form, (UChar32)first, (UChar32)second);

    return c <= 0 || is_younger((uint32_t)c, NORMALIZE_VERSION) ? 0 : (uint32_t)c;
}

static UGraphemeClusterBreak break_class(uint32_t c)
{
    /* Marks of Unicode 16 and 17, which the reference's clusters know and older ICU does not. */
    if (c == 0x897 || (c >= 0x1ACF && c <= 0x1ADD) || (c >= 0x1AE0 && c <= 0x1AEB))
        return U_GCB_EXTEND;
    return (UGraphemeClusterBreak)u_getIntPropertyValue((UChar32)c, UCHAR_GRAPHEME_CLUSTER_BREAK);
}

static int is_pictographic(uint32_t c)
{
    return u_hasBinaryProperty((UChar32)c, UCHAR_EXTENDED_PICTOGRAPHIC);
}

int cabe_char_is_plain(uint32_t c)
{
    return break_class(c) == U_GCB_OTHER && !is_pictographic(c);
}

static int is_hangul_pair(UGraphemeClusterBreak a, UGraphemeClusterBreak b)
{
    switch (a) {
    case U_GCB_L:
        return b == U_GCB_L || b == U_GCB_V || b == U_GCB_LV || b == U_GCB_LVT;
    case U_GCB_LV:
    case U_GCB_V:
        return b == U_GCB_V || b == U_GCB_T;
    case U_GCB_LVT:
    case U_GCB_T:
        return b == U_GCB_T;
    default:
        return 0;
    }
}

/* UAX 29, rules GB3 to GB13. */
size_t cabe_grapheme_end(const uint8_t *text, size_t bytes, size_t at)
{
    size_t step;
    uint32_t c = cabe_utf8_get(text + at, &step);
    UGraphemeClusterBreak left = break_class(c);
    int picture = is_pictographic(c); /* ... Extended_Pictographic Extend* so far */
    int joined = 0;                   /* ... and then a ZWJ */
    int flags = left == U_GCB_REGIONAL_INDICATOR;

    for (at += step; at < bytes; at += step) {
        UGraphemeClusterBreak right;

        c = cabe_utf8_get(text + at, &step);
        right = break_class(c);
        if (left == U_GCB_CR && right == U_GCB_LF)
            return at + step;
        if (left == U_GCB_CONTROL || left == U_GCB_CR || left == U_GCB_LF || right == U_GCB_CONTROL ||
            right == U_GCB_CR || right == U_GCB_LF)
            return at;
        if (!(is_hangul_pair(left, right) || right == U_GCB_EXTEND || right == U_GCB_ZWJ ||
              right == U_GCB_SPACING_MARK || left == U_GCB_PREPEND || (joined && is_pictographic(c)) ||
              (flags == 1 && right == U_GCB_REGIONAL_INDICATOR)))
            return at;
        flags = right == U_GCB_REGIONAL_INDICATOR ? flags + 1 : 0;
        joined = picture && right == U_GCB_ZWJ;
        picture = is_pictographic(c) || (picture && right == U_GCB_EXTEND);
        left = right;
    }
    return at;
}
