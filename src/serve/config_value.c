/* Texts as values of settings, and back. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/json.h"
#include "serve/config.h"

#define TEXT_BYTES (sizeof((struct cabe_serve_config *)0)->host)

struct unit {
    const char *name;
    double factor;
};

static const struct unit size_units[] = {
    {"", 1},          {"b", 1},           {"k", 0x1p10},   {"kb", 0x1p10},  {"kib", 0x1p10}, {"m", 0x1p20},
    {"mb", 0x1p20},   {"mib", 0x1p20},    {"g", 0x1p30},   {"gb", 0x1p30},  {"gib", 0x1p30}, {"t", 0x1p40},
    {"tb", 0x1p40},   {"tib", 0x1p40},    {NULL, 0},
};
static const struct unit time_units[] = {
    {"", 1}, {"s", 1}, {"ms", 1e-3}, {"m", 60}, {"min", 60}, {"h", 3600}, {"d", 86400}, {NULL, 0},
};
static const struct unit no_units[] = {{"", 1}, {NULL, 0}};

/* A finite number with one of the units; 0: it is none. No hexadecimal, no "inf". */
static int number(const char *text, const struct unit *units, double *out)
{
    char *end;

    if (text[0] == '\0' || strspn(text, "+-.0123456789") == 0)
        return 0;
    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
        return 0;
    *out = strtod(text, &end);
    if (end == text || !isfinite(*out))
        return 0;
    while (*end == ' ')
        end++;
    for (; units->name; units++) {
        if (strcasecmp(end, units->name) == 0) {
            *out *= units->factor;
            return isfinite(*out);
        }
    }
    return 0;
}

static int integer(const char *text, int64_t *out)
{
    char *end;
    long long value;

    if (text[0] == '\0' || strspn(text, "+-0123456789") != strlen(text))
        return 0;
    errno = 0;
    value = strtoll(text, &end, 10);
    *out = value;
    return *end == '\0' && end != text && errno == 0;
}

static int boolean(const char *text, int *out)
{
    static const char *const words[] = {"false", "true", "off", "on", "no", "yes", "0", "1"};

    for (int i = 0; i < 8; i++) {
        if (strcasecmp(text, words[i]) == 0) {
            *out = i % 2;
            return 1;
        }
    }
    return 0;
}

static const char *wanted(const struct cabe_setting *s, char *out, size_t n)
{
    switch (s->kind) {
    case CABE_SETTING_KIND_BOOL:
        snprintf(out, n, "true or false");
        break;
    case CABE_SETTING_KIND_BYTES:
        snprintf(out, n, "a size as 512M or 1.5G%s", s->least > 0 ? ", at least 1K" : "");
        break;
    case CABE_SETTING_KIND_SECONDS:
        snprintf(out, n, "a time from %g to %g s, as 30, 500ms or 5m", s->least, s->most);
        break;
    case CABE_SETTING_KIND_RATIO:
        snprintf(out, n, "a number from %g to %g", s->least, s->most);
        break;
    default:
        snprintf(out, n, "a whole number from %.0f to %.0f", s->least, s->most);
    }
    return out;
}

static enum cabe_status parse_text(char *field, const struct cabe_setting *s, const char *value, const char *origin,
                                   struct cabe_error *err)
{
    size_t n = strlen(value);

    if (n >= TEXT_BYTES)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %s of %zu bytes, wanted at most %zu", origin, s->name, n,
                         TEXT_BYTES - 1);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)value[i] < ' ' || value[i] == 0x7f)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %s has a control character", origin, s->name);
    memmove(field, value, n + 1);
    return CABE_OK;
}

enum cabe_status cabe_setting_parse(void *field, const struct cabe_setting *s, const char *value, const char *origin,
                                    struct cabe_error *err)
{
    char range[96];
    double real = 0;
    int64_t whole = 0;
    int good = 0, truth = 0;

    switch (s->kind) {
    case CABE_SETTING_KIND_TEXT:
        return parse_text(field, s, value, origin, err);
    case CABE_SETTING_KIND_INT:
        good = integer(value, &whole) && (double)whole >= s->least && (double)whole <= s->most;
        if (good)
            *(int64_t *)field = whole;
        break;
    case CABE_SETTING_KIND_BYTES:
        good = number(value, size_units, &real) && real >= s->least && real <= s->most && real < 0x1p63;
        if (good)
            *(uint64_t *)field = (uint64_t)real;
        break;
    case CABE_SETTING_KIND_SECONDS:
    case CABE_SETTING_KIND_RATIO:
        good = number(value, s->kind == CABE_SETTING_KIND_RATIO ? no_units : time_units, &real) && real >= s->least &&
               real <= s->most;
        if (good)
            *(double *)field = real;
        break;
    case CABE_SETTING_KIND_BOOL:
        good = boolean(value, &truth);
        if (good)
            *(int *)field = truth;
        break;
    }
    if (good)
        return CABE_OK;
    return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %s '%.80s', wanted %s", origin, s->name, value,
                     wanted(s, range, sizeof range));
}

json_t *cabe_setting_json(const void *field, const struct cabe_setting *s)
{
    switch (s->kind) {
    case CABE_SETTING_KIND_TEXT:
        return cabe_json_text(field, strlen(field));
    case CABE_SETTING_KIND_INT:
        return json_integer(*(const int64_t *)field);
    case CABE_SETTING_KIND_BYTES:
        return cabe_json_count(*(const uint64_t *)field);
    case CABE_SETTING_KIND_BOOL:
        return json_boolean(*(const int *)field);
    default:
        return json_real(*(const double *)field);
    }
}
