/*
 * multipart/form-data (RFC 7578): fields and files of one body, found where they lie.
 *
 * Strict: every part begins with a boundary line and ends before one, headers are at most 4 KiB, and what has no name is
 * an error.
 */
#ifndef CABE_SERVE_ANALYZE_FORM_H
#define CABE_SERVE_ANALYZE_FORM_H

#include <stddef.h>

#include "cabe/status.h"

#define CABE_FORM_NAME_MAX 256

struct cabe_form_part {
    char name[CABE_FORM_NAME_MAX];
    char filename[CABE_FORM_NAME_MAX]; /* its last component, "" for a field */
    const char *bytes;                 /* in the body */
    size_t n;
};

/* `type` is the header content-type. Calls `each` for every part in order, until it returns something else than OK. */
CABE_CHECKED enum cabe_status cabe_form_read(const char *type, const char *body, size_t n,
                                             enum cabe_status (*each)(void *self, const struct cabe_form_part *part,
                                                                      struct cabe_error *err),
                                             void *self, struct cabe_error *err);

#endif
