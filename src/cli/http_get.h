/*
 * One GET, for commands that ask a server of ours. No TLS, no redirects.
 *
 * Thread: any.
 */
#ifndef CABE_CLI_HTTP_GET_H
#define CABE_CLI_HTTP_GET_H

#include <stddef.h>

#include "base/cancel.h"
#include "cabe/status.h"

struct cli_server {
    char host[256], port[8]; /* as in the URL */
    char unix_path[104];     /* "": TCP */
    const char *key;         /* NULL: none */
};

/* "http://host[:port][/]", "host:port", or "unix:PATH". */
CABE_CHECKED enum cabe_status cli_server_parse(struct cli_server *server, const char *url, struct cabe_error *err);
/* The body of a 200, to be freed with cabe_free(). Any other answer is an error with its text. At most 10 s. */
CABE_CHECKED enum cabe_status cli_http_get(const struct cli_server *server, const char *path, char **body, size_t *n,
                                           struct cabe_error *err);

#endif
