/*
 * Which route a path is.
 *
 * An exact path goes before one with "*" at its end, a longer one with "*" before a shorter; "*" stands for at least one
 * character. HEAD is answered by GET's route where it has none of its own.
 */
#ifndef CABE_SERVE_ROUTE_H
#define CABE_SERVE_ROUTE_H

#include "serve/server.h"

struct cabe_route_found {
    const struct cabe_route *route; /* NULL: none with this method */
    const char *tail;               /* points into the path, or is "" */
    unsigned methods;               /* bit 1 << enum cabe_http_method: that the path has; 0: no such path */
};

/* The tables that follow each other in `tables`, which ends with NULL. */
struct cabe_route_found cabe_route_find_in(const struct cabe_route *const *tables, enum cabe_http_method method,
                                           const char *path);
/* The same in the server's own tables. */
struct cabe_route_found cabe_route_find(enum cabe_http_method method, const char *path);
/* The tables themselves, for who lists them; ends with NULL. */
const struct cabe_route *const *cabe_route_tables(void);
/* "GET, HEAD, POST"; returns `out`. */
#define CABE_ROUTE_METHODS_MAX 80
const char *cabe_route_methods(unsigned methods, char out[CABE_ROUTE_METHODS_MAX]);
/* Errors of this path have Ollama's form. */
int cabe_route_is_ollama(const char *path);

extern const struct cabe_route cabe_health_routes[];

#endif
