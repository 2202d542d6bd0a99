#include "serve/route.h"

#include <stdio.h>
#include <string.h>

/* How well a pattern fits: 0 not; an exact path best, then the longest with "*". */
static size_t fit(const char *pattern, const char *path, const char **tail)
{
    size_t n = strlen(pattern);

    *tail = "";
    if (n && pattern[n - 1] == '*') {
        if (strncmp(pattern, path, n - 1) != 0 || path[n - 1] == '\0')
            return 0;
        *tail = path + n - 1;
        return n;
    }
    return strcmp(pattern, path) == 0 ? (size_t)-1 : 0;
}

struct cabe_route_found cabe_route_find_in(const struct cabe_route *const *list, enum cabe_http_method method,
                                           const char *path)
{
    struct cabe_route_found found = {.tail = ""};
    size_t best = 0;
    int own = 0; /* the route has the very method, not GET for HEAD */

    for (; *list; list++) {
        for (const struct cabe_route *r = *list; r->path; r++) {
            const char *tail;
            size_t fits = fit(r->path, path, &tail);
            int is_own = r->method == method, serves = is_own || (method == CABE_HTTP_HEAD && r->method == CABE_HTTP_GET);

            if (fits == 0 || fits < best)
                continue;
            if (fits > best) { /* what fitted less well does not count */
                found = (struct cabe_route_found){.tail = tail};
                best = fits;
                own = 0;
            }
            found.methods |= 1u << r->method;
            if (r->method == CABE_HTTP_GET)
                found.methods |= 1u << CABE_HTTP_HEAD;
            if (serves && (!found.route || (is_own && !own))) {
                found.route = r;
                own = is_own;
            }
        }
    }
    return found;
}

const char *cabe_route_methods(unsigned methods, char out[CABE_ROUTE_METHODS_MAX])
{
    static const char *const names[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};
    size_t used = 0;

    out[0] = '\0';
    methods |= 1u << CABE_HTTP_OPTIONS;
    for (unsigned m = 0; m < sizeof names / sizeof names[0]; m++)
        if (methods & 1u << m)
            used += (size_t)snprintf(out + used, CABE_ROUTE_METHODS_MAX - used, "%s%s", used ? ", " : "", names[m]);
    return out;
}
