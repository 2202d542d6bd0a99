/*
 * What a call answers.
 *
 * Every fallible function returns an enum cabe_status and fills a caller-owned struct cabe_error, which may
 * be NULL. The library keeps no global error, and never prints, exits or aborts on input.
 */
#ifndef CABE_STATUS_H
#define CABE_STATUS_H

#include <stdint.h>

#if defined(__GNUC__)
#define CABE_API __attribute__((visibility("default")))
#define CABE_CHECKED __attribute__((warn_unused_result))
#define CABE_PRINTF(format_arg, first_arg) __attribute__((format(printf, format_arg, first_arg)))
#else
#define CABE_API
#define CABE_CHECKED
#define CABE_PRINTF(format_arg, first_arg)
#endif

/* symbol, name in messages and JSON, exit code of the program, what it means */
#define CABE_STATUS_MAP(X)                                                                                   \
    X(OK, "ok", 0, "done")                                                                                   \
    X(ERR_INTERNAL, "internal", 1, "a fault of cabe's own")                                                  \
    X(ERR_ARGUMENT, "argument", 2, "the call or the command line is wrong")                                  \
    X(ERR_NOT_FOUND, "not_found", 3, "no such file, model, tensor or field")                                 \
    X(ERR_FORMAT, "format", 4, "a file or text does not follow its format")                                  \
    X(ERR_UNSUPPORTED, "unsupported", 5, "well formed, but not something cabe can do")                       \
    X(ERR_BUDGET, "budget", 6, "does not fit the memory budget; nothing was allocated")                      \
    X(ERR_OOM, "oom", 7, "the system refused memory that the ledger had granted")                            \
    X(ERR_IO, "io", 8, "reading or writing failed")                                                          \
    X(ERR_NO_SPACE, "no_space", 9, "the disk or quota is full")                                              \
    X(ERR_PERMISSION, "permission", 10, "the system does not allow it")                                      \
    X(ERR_CHANGED, "changed", 11, "a file is not what it was: replaced, truncated or damaged")                \
    X(ERR_LIMIT, "limit", 12, "over a stated maximum")                                                       \
    X(ERR_BUSY, "busy", 13, "in use; try later")                                                             \
    X(ERR_CANCELLED, "cancelled", 130, "stopped on request")

enum cabe_status {
#define X(symbol, name, exit_code, meaning) CABE_##symbol,
    CABE_STATUS_MAP(X)
#undef X
};

#define CABE_ERROR_TEXT_MAX 512

struct cabe_error {
    enum cabe_status status;
    uint64_t missing_bytes;         /* with CABE_ERR_BUDGET: by how much it does not fit; otherwise 0 */
    char text[CABE_ERROR_TEXT_MAX]; /* UTF-8, one line, names and numbers: "a.gguf: offset 9 past end 8" */
};

CABE_API const char *cabe_status_name(enum cabe_status status);
CABE_API const char *cabe_status_meaning(enum cabe_status status);
CABE_API int cabe_status_exit_code(enum cabe_status status);

/*
 * Fills `err` (may be NULL; a message too long ends in "...") and returns `status`, so that a caller can
 * return it.
 */
CABE_API enum cabe_status cabe_fail(struct cabe_error *err, enum cabe_status status, const char *format, ...)
    CABE_PRINTF(3, 4);
/*
 * The same with `errno` explained at the end; ENOENT, ENOSPC, EDQUOT, EACCES, EPERM, EROFS, ENOMEM choose the
 * status.
 */
CABE_API enum cabe_status cabe_fail_errno(struct cabe_error *err, int error_number, const char *format, ...)
    CABE_PRINTF(3, 4);
/* Puts "prefix: " before the message already in `err` (may be NULL) and returns `status`. */
CABE_API enum cabe_status cabe_fail_in(struct cabe_error *err, enum cabe_status status, const char *format,
                                       ...)
    CABE_PRINTF(3, 4);

#endif
