#include "cabe/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

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

/* Puts `text` into the error: one line of valid text, whatever bytes hostile names brought, cut at its room.
 */
static void set_text(struct cabe_error *err, const char *text, int wanted_bytes)
{
    size_t n = strlen(text), at = 0;

    if (wanted_bytes >= CABE_ERROR_TEXT_MAX)
        n = cabe_utf8_cut(text, CABE_ERROR_TEXT_MAX - 4);
    while (at < n) {
        size_t length = cabe_utf8_length(text + at, n - at);

        if (length == 0 || (unsigned char)text[at] < 0x20 || text[at] == 0x7F) {
            err->text[at++] = '?';
            continue;
        }
        memcpy(err->text + at, text + at, length);
        at += length;
    }
    strcpy(err->text + n, wanted_bytes >= CABE_ERROR_TEXT_MAX ? "..." : "");
}

enum cabe_status cabe_fail(struct cabe_error *err, enum cabe_status status, const char *format, ...)
{
    char text[CABE_ERROR_TEXT_MAX]; /* the arguments may point into `err` */
    va_list args;
    int n;

    if (!err)
        return status;
    va_start(args, format);
    n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    err->status = status;
    err->missing_bytes = 0;
    set_text(err, text, n);
    return status;
}

enum cabe_status cabe_fail_errno(struct cabe_error *err, int error_number, const char *format, ...)
{
    enum cabe_status status;
    char text[CABE_ERROR_TEXT_MAX];
    const char *meaning;
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
    meaning = strerrordesc_np(error_number);
    return cabe_fail(err, status, "%s: %s", text, meaning ? meaning : "unknown error of the system");
}

enum cabe_status cabe_fail_in(struct cabe_error *err, enum cabe_status status, const char *format, ...)
{
    char prefix[CABE_ERROR_TEXT_MAX];
    char text[2 * CABE_ERROR_TEXT_MAX];
    va_list args;

    if (!err)
        return status;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    err->text[CABE_ERROR_TEXT_MAX - 1] = '\0';
    err->status = status;
    set_text(err, text, snprintf(text, sizeof text, "%s: %s", prefix, err->text));
    return status;
}
