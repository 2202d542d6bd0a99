/* The routes of the server: one table a file. */
#include <string.h>

#include "serve/route.h"

static const struct cabe_route *const tables[] = {
    cabe_health_routes,
    cabe_openai_routes,
    cabe_responses_routes,
    cabe_ollama_routes,
    cabe_own_routes,
    cabe_job_routes,
    cabe_observe_routes,
    cabe_event_routes,
    cabe_dashboard_routes,
    NULL,
};

const struct cabe_route *const *cabe_route_tables(void)
{
    return tables;
}

struct cabe_route_found cabe_route_find(enum cabe_http_method method, const char *path)
{
    return cabe_route_find_in(tables, method, path);
}

int cabe_route_is_ollama(const char *path)
{
    struct cabe_route_found found = cabe_route_find(CABE_HTTP_GET, path);

    if (!found.route)
        found = cabe_route_find(CABE_HTTP_POST, path);
    return found.route ? (found.route->flags & CABE_ROUTE_OLLAMA) != 0 : strncmp(path, "/api/", 5) == 0;
}
