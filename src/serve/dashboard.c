#include "serve/dashboard.h"

#include "serve/server.h"

/* The page holds all it needs and talks to this server alone; nobody may put it into a frame. */
#define POLICY                                                                                                            \
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "      \
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

static void get_page(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    (void)server;
    (void)tail;
    cabe_http_set(exchange, "content-security-policy", POLICY);
    cabe_http_set(exchange, "x-content-type-options", "nosniff");
    cabe_http_set(exchange, "referrer-policy", "no-referrer");
    cabe_http_set(exchange, "cache-control", "no-cache");
    cabe_http_reply(exchange, 200, "text/html; charset=utf-8", cabe_dashboard_page, cabe_dashboard_page_bytes);
}

const struct cabe_route cabe_dashboard_routes[] = {
    {CABE_HTTP_GET, "/", get_page, CABE_ROUTE_OPEN | CABE_ROUTE_EARLY, "the dashboard"},
    {CABE_HTTP_GET, NULL, NULL, 0, NULL},
};
