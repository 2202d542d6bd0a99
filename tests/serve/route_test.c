#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "serve/route.h"

static void handler(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    (void)server;
    (void)exchange;
    (void)tail;
}

static const struct cabe_route first[] = {
    {CABE_HTTP_GET, "/v1/jobs", handler, 0, "list"},
    {CABE_HTTP_POST, "/v1/jobs", handler, 0, "start"},
    {CABE_HTTP_GET, "/v1/jobs/*", handler, 0, "one"},
    {CABE_HTTP_DELETE, "/v1/jobs/*", handler, 0, "cancel"},
    {CABE_HTTP_GET, "/", handler, 0, "page"},
    {CABE_HTTP_GET, NULL, NULL, 0, NULL},
};
static const struct cabe_route second[] = {
    {CABE_HTTP_GET, "/v1/*", handler, 0, "rest"},
    {CABE_HTTP_GET, "/v1/jobs/counts", handler, 0, "counts"},
    {CABE_HTTP_HEAD, "/", handler, 0, "head"},
    {CABE_HTTP_GET, NULL, NULL, 0, NULL},
};
static const struct cabe_route *const tables[] = {first, second, NULL};

static const char *found(enum cabe_http_method method, const char *path, const char **tail, unsigned *methods)
{
    struct cabe_route_found f = cabe_route_find_in(tables, method, path);

    *tail = f.tail;
    *methods = f.methods;
    return f.route ? f.route->summary : "none";
}

static void the_best_pattern_wins(void **state)
{
    const char *tail;
    unsigned methods;

    (void)state;
    assert_string_equal(found(CABE_HTTP_GET, "/v1/jobs", &tail, &methods), "list");
    assert_string_equal(tail, "");
    assert_string_equal(found(CABE_HTTP_POST, "/v1/jobs", &tail, &methods), "start");
    assert_string_equal(found(CABE_HTTP_GET, "/v1/jobs/a/b", &tail, &methods), "one");
    assert_string_equal(tail, "a/b");
    assert_string_equal(found(CABE_HTTP_GET, "/v1/jobs/counts", &tail, &methods), "counts");
    assert_string_equal(found(CABE_HTTP_GET, "/v1/other", &tail, &methods), "rest");
    assert_string_equal(tail, "other");
    assert_string_equal(found(CABE_HTTP_GET, "/v1/jobs/", &tail, &methods), "rest"); /* a star is not nothing */
    assert_string_equal(tail, "jobs/");
    assert_string_equal(found(CABE_HTTP_GET, "/v1/", &tail, &methods), "none");
    assert_int_equal(methods, 0);
    assert_string_equal(found(CABE_HTTP_GET, "/v2", &tail, &methods), "none");
    assert_int_equal(methods, 0);
}

static void methods_are_said(void **state)
{
    const char *tail;
    unsigned methods;
    char text[CABE_ROUTE_METHODS_MAX];

    (void)state;
    assert_string_equal(found(CABE_HTTP_PUT, "/v1/jobs", &tail, &methods), "none");
    assert_string_equal(cabe_route_methods(methods, text), "GET, HEAD, POST, OPTIONS");
    assert_string_equal(found(CABE_HTTP_DELETE, "/v1/jobs/counts", &tail, &methods), "none"); /* not that of the star */
    assert_string_equal(cabe_route_methods(methods, text), "GET, HEAD, OPTIONS");
    assert_string_equal(found(CABE_HTTP_HEAD, "/v1/jobs", &tail, &methods), "list");
    assert_string_equal(found(CABE_HTTP_HEAD, "/", &tail, &methods), "head");
    assert_string_equal(found(CABE_HTTP_GET, "/", &tail, &methods), "page");
    assert_string_equal(cabe_route_methods(~0u, text), "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_pattern_wins),
        cmocka_unit_test(methods_are_said),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
