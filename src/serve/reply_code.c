/* What a status is over HTTP: one table for whatever answers. */
#include "serve/server.h"

static const struct {
    int status;
    const char *code;
} answers[] = {
    [CABE_OK] = {500, "internal"},
    [CABE_ERR_INTERNAL] = {500, "internal"},
    [CABE_ERR_ARGUMENT] = {400, "invalid_value"},
    [CABE_ERR_NOT_FOUND] = {404, "not_found"},
    [CABE_ERR_FORMAT] = {400, "invalid_format"},
    [CABE_ERR_UNSUPPORTED] = {400, "unsupported"},
    [CABE_ERR_BUDGET] = {507, "insufficient_memory"},
    [CABE_ERR_OOM] = {503, "out_of_memory"},
    [CABE_ERR_IO] = {500, "io"},
    [CABE_ERR_NO_SPACE] = {507, "no_space"},
    [CABE_ERR_PERMISSION] = {403, "permission_denied"},
    [CABE_ERR_CHANGED] = {500, "file_changed"},
    [CABE_ERR_LIMIT] = {429, "rate_limit_exceeded"},
    [CABE_ERR_BUSY] = {503, "overloaded"},
    [CABE_ERR_CANCELLED] = {499, "cancelled"},
};

int cabe_reply_code(enum cabe_status why, const char **code)
{
    if ((unsigned)why >= sizeof answers / sizeof answers[0])
        why = CABE_ERR_INTERNAL;
    *code = answers[why].code;
    return answers[why].status;
}
