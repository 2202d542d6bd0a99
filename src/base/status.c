#include "cabe/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int exit_code;
    const char *meaning;
} statuses[] = {
#define X(symbol, name, exit_code, meaning) {name, exit_code, meaning},
    CABE_STATUS_MAP(X)
#undef X
};

#define N_STATUSES (sizeof statuses / sizeof statuses[0])

static size_t known(enum cabe_status status)
{
    return (size_t)status < N_STATUSES ? (size_t)status : CABE_ERR_INTERNAL;
}

const char *cabe_status_name(enum cabe_status status)
{
    return statuses[known(status)].name;
}

const char *cabe_status_meaning(enum cabe_status status)
{
    return statuses[known(status)].meaning;
}

int cabe_status_exit_code(enum cabe_status status)
{
    return statuses[known(status)].exit_code;
}

/* Marks a cut message and keeps it one line of valid text: control bytes from hostile names become '?'. */
static void tidy(char *text, int wanted_bytes)
{
    size_t n = strlen(text);

    if (wanted_bytes >= CABE_ERROR_TEXT_MAX) {
        n = CABE_ERROR_TEXT_MAX - 4;
        while (n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80)
            n--;
        memcpy(text + n, "...", 4);
        n += 3;
    }
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7F)
            text[i] = '?';
}

enum cabe_status cabe_fail(struct cabe_error *err, enum cabe_status status, const char *format, ...)
{
    va_list args;

    if (!err)
        return status;
    err->status = status;
    err->missing_bytes = 0;
    va_start(args, format);
    tidy(err->text, vsnprintf(err->text, sizeof err->text, format, args));
    va_end(args);
    return status;
}

enum cabe_status cabe_fail_errno(struct cabe_error *err, int error_number, const char *format, ...)
{
    enum cabe_status status;
    char text[CABE_ERROR_TEXT_MAX];
    va_list args;

    switch (error_number) {
    case ENOENT:
    case ENOTDIR:
        status = CABE_ERR_NOT_FOUND;
        break;
    case ENOSPC:
    case EDQUOT:
        status = CABE_ERR_NO_SPACE;
        break;
    case EACCES:
    case EPERM:
    case EROFS:
        status = CABE_ERR_PERMISSION;
        break;
    case ENOMEM:
        status = CABE_ERR_OOM;
        break;
    default:
        status = CABE_ERR_IO;
    }
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return cabe_fail(err, status, "%s: %s", text, strerrordesc_np(error_number));
}

enum cabe_status cabe_fail_in(struct cabe_error *err, enum cabe_status status, const char *format, ...)
{
    char text[CABE_ERROR_TEXT_MAX];
    char inner[CABE_ERROR_TEXT_MAX];
    va_list args;

    if (!err)
        return status;
    memcpy(inner, err->text, sizeof inner);
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    tidy(err->text, snprintf(err->text, sizeof err->text, "%s: %s", text, inner));
    return status;
}
