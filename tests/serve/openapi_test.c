/* The OpenAPI description: it has every route, refers to nothing that is not there, and is the one in docs/. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "serve/api_impl.h"
#include "serve/openapi_impl.h"
#include "serve/route.h"

#define WRITTEN "docs/openapi/openapi.json"

static const char *const methods[] = {"get", "head", "post", "put", "patch", "delete", "options"};

static void test_routes(void **state)
{
    json_t *json = api_openapi_json();
    const struct cabe_route *const *tables = cabe_route_tables();
    size_t n = 0, n_written = 0;
    const char *path, *method;
    json_t *item, *operation;

    (void)state;
    assert_non_null(json);
    for (; *tables; tables++) {
        for (const struct cabe_route *route = *tables; route->path; route++) {
            char name[200];
            size_t bytes = strlen(route->path);

            snprintf(name, sizeof name, "%s", route->path);
            if (name[bytes - 1] == '*')
                snprintf(name + bytes - 1, sizeof name - bytes + 1, "{name}");
            operation = json_object_get(json_object_get(json_object_get(json, "paths"), name), methods[route->method]);
            if (!operation)
                print_message("%s %s is not described\n", methods[route->method], name);
            assert_non_null(operation);
            if (route->flags & CABE_ROUTE_OLLAMA)
                assert_non_null(strstr(json_string_value(json_object_get(operation, "operationId")), "_"));
            assert_true(json_string_length(json_object_get(operation, "summary")) > 0);
            n++;
        }
    }
    json_object_foreach(json_object_get(json, "paths"), path, item)
        json_object_foreach(item, method, operation)
            n_written++;
    assert_int_equal(n, n_written); /* and no two routes are one */
    json_decref(json);
}

static void expect_references(const json_t *json, const json_t *schemas)
{
    const char *key;
    json_t *value;
    size_t i;

    if (json_is_array(json)) {
        json_array_foreach(json, i, value)
            expect_references(value, schemas);
    } else if (json_is_object(json)) {
        const char *reference = json_string_value(json_object_get(json, "$ref"));

        if (reference) {
            assert_int_equal(strncmp(reference, "#/components/schemas/", 21), 0);
            assert_non_null(json_object_get(schemas, reference + 21));
        }
        json_object_foreach((json_t *)(uintptr_t)json, key, value)
            expect_references(value, schemas);
    }
}

static void expect_schemas(const struct openapi_schema *schema, const json_t *schemas)
{
    for (; schema->name; schema++) {
        json_error_t why;
        json_t *one = json_loads(schema->json, JSON_REJECT_DUPLICATES, &why);

        if (!one)
            print_message("%s: %s at %d\n", schema->name, why.text, why.position);
        assert_non_null(one);
        json_decref(one);
        assert_non_null(json_object_get(schemas, schema->name));
    }
}

static void test_schemas(void **state)
{
    json_t *json = api_openapi_json(), *schemas = json_object_get(json_object_get(json, "components"), "schemas");
    size_t n = 0;

    (void)state;
    expect_schemas(openapi_schemas, schemas);
    expect_schemas(openapi_answer_schemas, schemas);
    for (const struct openapi_body *body = openapi_bodies; body->path; body++) {
        assert_non_null(json_object_get(schemas, body->schema));
        assert_non_null(json_object_get(json_object_get(json, "paths"), body->path));
    }
    for (const struct openapi_answer *answer = openapi_answers; answer->path; answer++, n++) {
        struct cabe_route_found found = cabe_route_find(answer->method, answer->path); /* "*" stands for itself */

        assert_non_null(found.route);
        assert_string_equal(found.route->path, answer->path);
        assert_int_equal(found.route->method, answer->method);
    }
    assert_true(n > 30);
    expect_references(json, schemas);
    json_decref(json);
}

/* CABE_WRITE_OPENAPI=1 writes it anew. */
static void test_written(void **state)
{
    json_t *json = api_openapi_json(), *written;
    json_error_t why;

    (void)state;
    if (getenv("CABE_WRITE_OPENAPI"))
        assert_int_equal(json_dump_file(json, WRITTEN, JSON_INDENT(2) | JSON_SORT_KEYS), 0);
    written = json_load_file(WRITTEN, 0, &why);
    if (!written)
        print_message("%s: %s\n", WRITTEN, why.text);
    assert_non_null(written);
    if (!json_equal(json, written))
        print_message("%s is not what the server serves: CABE_WRITE_OPENAPI=1 writes it anew\n", WRITTEN);
    assert_true(json_equal(json, written));
    json_decref(written);
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_routes),
        cmocka_unit_test(test_schemas),
        cmocka_unit_test(test_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
