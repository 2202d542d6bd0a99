/* What handlers answer and read, over a real connection: a loop whose requests run the case of their path. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "http_client.h"
#include "serve/access.h"
#include "serve/api_impl.h"
#include "serve/server_impl.h"

static struct cabe_serve_config config;
static struct cabe_server server = {.config = &config};
static struct cabe_access *access_keys;
static char answer[1 << 16];

static void reply_case(struct cabe_http_exchange *exchange, const char *name)
{
    struct cabe_service_refusal queue = {.retry_after_s = 2.25}, service = {.retry_after_s = 0.5, .overloaded = 1},
                                never = {0};
    struct api_fault fault = {0};
    struct cabe_error err;
    json_t *json;

    if (strcmp(name, "budget") == 0) {
        cabe_fail(&err, CABE_ERR_BUDGET, "12 bytes missing");
        cabe_reply_status(exchange, &err, NULL);
    } else if (strcmp(name, "queue") == 0) {
        cabe_fail(&err, CABE_ERR_LIMIT, "256 wait");
        cabe_reply_status(exchange, &err, &queue);
    } else if (strcmp(name, "overloaded") == 0) {
        cabe_fail(&err, CABE_ERR_BUSY, "all wait");
        cabe_reply_status(exchange, &err, &service);
    } else if (strcmp(name, "never") == 0) {
        cabe_fail(&err, CABE_ERR_LIMIT, "never");
        cabe_reply_status(exchange, &err, &never);
    } else if (strcmp(name, "denied") == 0) {
        cabe_fail(&err, CABE_ERR_PERMISSION, "not yours");
        cabe_reply_status(exchange, &err, NULL);
    } else if (strcmp(name, "oom") == 0) {
        cabe_fail(&err, CABE_ERR_OOM, "a page");
        cabe_reply_status(exchange, &err, NULL);
    } else if (strcmp(name, "memory") == 0) {
        cabe_reply_no_memory(exchange, "a list");
    } else if (strcmp(name, "fault") == 0) {
        api_refuse_memory(&fault);
        api_reply_fault(exchange, &fault);
    } else if (strcmp(name, "later") == 0) {
        cabe_reply_retry_after(exchange, 7);
        cabe_reply_error(exchange, 503, "draining", NULL, "the server is being stopped");
    } else if (strcmp(name, "absent") == 0) {
        cabe_fail(&err, CABE_ERR_NOT_FOUND, "no model 'x\xff'");
        cabe_reply_status(exchange, &err, NULL);
    } else if (strcmp(name, "worker") == 0) {
        cabe_reply_no_worker(&server, exchange);
    } else if (strcmp(name, "parameter") == 0) {
        cabe_reply_error(exchange, 400, "invalid_value", "temperature", "temperature %g, wanted 0 to 2", 3.0);
    } else if (strcmp(name, "json") == 0) {
        json = cabe_request_json(exchange);
        if (json)
            cabe_reply_json(exchange, 200, json);
    } else if (strcmp(name, "class") == 0) {
        json = cabe_request_json(exchange);
        cabe_reply_json(exchange, 200,
                        json_string(cabe_class_name(cabe_request_class(exchange, json, CABE_CLASS_NORMAL))));
        json_decref(json);
    } else if (strcmp(name, "access") == 0) {
        cabe_reply_json(exchange, 200, json_pack("[i]", (int)cabe_access_check(access_keys, exchange, 0)));
    } else {
        cabe_reply_json(exchange, 200, NULL);
    }
}

static void on_request(void *self, struct cabe_http_exchange *exchange)
{
    const char *path = cabe_http_path(exchange), *slash = strrchr(path, '/');

    (void)self;
    reply_case(exchange, slash + 1);
}

static void *loop(void *http)
{
    struct cabe_error err;

    assert_int_equal(cabe_http_run(http, &err), CABE_OK);
    return NULL;
}

static pthread_t thread;

static int start(void **state)
{
    struct cabe_http_config http = {.host = "127.0.0.1", .request = on_request, .self = &server};

    (void)state;
    cabe_serve_config_defaults(&config);
    config.json_depth = 8;
    snprintf(config.api_keys, sizeof config.api_keys, "one, two-two");
    snprintf(config.cors_origins, sizeof config.cors_origins, "http://a.example,http://b.example:81");
    return cabe_access_open(&access_keys, &config, NULL) != CABE_OK ||
           cabe_http_open(&server.http, &http, NULL) != CABE_OK || pthread_create(&thread, NULL, loop, server.http) != 0;
}

static int stop(void **state)
{
    (void)state;
    cabe_http_stop(server.http, 1);
    pthread_join(thread, NULL);
    cabe_http_close(server.http);
    cabe_access_close(access_keys);
    return 0;
}

static int ask(const char *path, const char *headers, const char *body)
{
    return http_ask(cabe_http_port(server.http), body ? "POST" : "GET", path, headers, body, answer, sizeof answer);
}

static void has(const char *text)
{
    if (!strstr(answer, text))
        fail_msg("no '%s' in: %s", text, answer);
}

static void lacks(const char *text)
{
    if (strstr(answer, text))
        fail_msg("'%s' in: %s", text, answer);
}

static void errors_have_the_form_of_their_route(void **state)
{
    (void)state;
    assert_int_equal(ask("/v1/budget", "", NULL), 507);
    has("{\"error\":{\"message\":\"12 bytes missing\",\"type\":\"server_error\",\"param\":null,"
        "\"code\":\"insufficient_memory\"}}");
    assert_int_equal(ask("/api/budget", "", NULL), 507);
    has("{\"error\":\"12 bytes missing\"}");
    assert_int_equal(ask("/v1/parameter", "", NULL), 400);
    has("\"type\":\"invalid_request_error\",\"param\":\"temperature\",\"code\":\"invalid_value\"");
    has("temperature 3, wanted 0 to 2");
    assert_int_equal(ask("/v1/absent", "", NULL), 404);
    has("no model 'x?'"); /* what is no UTF-8 is replaced */
    assert_int_equal(ask("/v1/denied", "", NULL), 403);
    has("\"permission_error\"");
}

/* Whatever lacked the memory, and whoever noticed: it may be there a moment later. */
static void no_memory_is_one_answer(void **state)
{
    static const char *const paths[] = {"/v1/nothing", "/v1/oom", "/v1/memory", "/v1/fault", NULL};

    (void)state;
    for (int i = 0; paths[i]; i++) {
        assert_int_equal(ask(paths[i], "", NULL), 503);
        has("\"type\":\"overloaded_error\"");
        has("\"code\":\"out_of_memory\"");
        has("retry-after: 1\r\n");
        has("retry-after-ms: 1000\r\n");
    }
    assert_int_equal(ask("/api/nothing", "", NULL), 503);
    has("{\"error\":\"out of memory\"}");
    assert_int_equal(ask("/v1/later", "", NULL), 503); /* who knows better has said so */
    has("retry-after: 7\r\n");
    lacks("retry-after: 1\r\n");
}

static void a_refusal_says_when_to_come_again(void **state)
{
    (void)state;
    assert_int_equal(ask("/v1/queue", "", NULL), 429);
    has("retry-after: 3\r\n");
    has("retry-after-ms: 2250\r\n");
    has("rate_limit_exceeded");
    assert_int_equal(ask("/v1/overloaded", "", NULL), 503);
    has("retry-after: 1\r\n");
    has("retry-after-ms: 500\r\n");
    assert_int_equal(ask("/v1/never", "", NULL), 429);
    lacks("retry-after");
    assert_int_equal(ask("/v1/worker", "", NULL), 503);
    has("no worker of 4 was free within 30 s");
    has("retry-after: 1\r\n");
}

static void bodies_are_checked(void **state)
{
    static char many[3 * CABE_REQUEST_VALUES_MAX];
    size_t n = 0;

    (void)state;
    assert_int_equal(ask("/v1/json", "", "{\"a\": [1, {\"b\": \"[[[[[[[[[[,\\\"{{{{{{{{{{\"}]}"), 200);
    assert_int_equal(ask("/v1/json", "", ""), 400);
    has("the body is empty");
    assert_int_equal(ask("/v1/json", "", "{\"a\": \n  }"), 400);
    has("line 2, column 3");
    assert_int_equal(ask("/v1/json", "", "[1]"), 400);
    has("not an object");
    assert_int_equal(ask("/v1/json", "", "{\"a\": 1, \"a\": 2}"), 400);
    has("duplicate");
    assert_int_equal(ask("/v1/json", "", "{\"a\": [[[[[[[1]]]]]]]}"), 200);
    assert_int_equal(ask("/v1/json", "", "{\"a\": [[[[[[[[1]]]]]]]]}"), 400);
    has("9 levels of nesting, at most 8");
    assert_int_equal(ask("/v1/json", "", "{\"a\": \"\\u0000\"}"), 400);
    n += (size_t)snprintf(many, sizeof many, "{\"a\":[1");
    while (n + 4 < 2 * CABE_REQUEST_VALUES_MAX) {
        many[n++] = ',';
        many[n++] = '1';
    }
    memcpy(many + n, "]}", 3);
    assert_int_equal(ask("/v1/json", "", many), 200);
    memcpy(many + n, ",1,1,1,1,1]}", 13);
    assert_int_equal(ask("/v1/json", "", many), 400);
    has("values, at most 262144 are taken");
}

static void classes_come_from_header_and_body(void **state)
{
    static const struct {
        const char *headers, *body, *wanted;
    } cases[] = {
        {"", "{}", "\"normal\""},
        {"x-cabe-class: low\r\n", "{\"priority\": -5}", "\"low\""},
        {"x-cabe-class: best\r\n", "{\"priority\": \"high\"}", "\"high\""},
        {"", "{\"priority\": -2}", "\"critical\""},
        {"", "{\"priority\": -1}", "\"high\""},
        {"", "{\"priority\": 0, \"service_tier\": \"flex\"}", "\"normal\""},
        {"", "{\"priority\": 3}", "\"low\""},
        {"", "{\"service_tier\": \"priority\"}", "\"high\""},
        {"", "{\"service_tier\": \"flex\"}", "\"low\""},
        {"", "{\"service_tier\": 7, \"priority\": []}", "\"normal\""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(ask("/v1/class", cases[i].headers, cases[i].body), 200);
        has(cases[i].wanted);
    }
}

static void only_who_has_a_key_is_let_in(void **state)
{
    (void)state;
    assert_true(cabe_access_key(access_keys, "one", 3));
    assert_true(cabe_access_key(access_keys, "two-two", 7));
    assert_false(cabe_access_key(access_keys, "two", 3));
    assert_false(cabe_access_key(access_keys, "two-two-", 8));
    assert_false(cabe_access_key(access_keys, "", 0));
    assert_false(cabe_access_key(access_keys, NULL, 0));
    assert_false(cabe_access_key(access_keys, "one\0", 4));
    ask("/v1/access", "", NULL);
    has("[1]");
    ask("/v1/access", "Authorization: bearer  two-two\r\n", NULL);
    has("[0]");
    ask("/v1/access", "x-api-key: one\r\n", NULL);
    has("[0]");
    ask("/v1/access", "Authorization: Basic b25lOg==\r\n", NULL);
    has("[1]");
}

static void pages_of_other_origins_are_not(void **state)
{
    (void)state;
    ask("/v1/access", "x-api-key: one\r\nOrigin: http://evil.example\r\n", NULL);
    has("[2]");
    lacks("access-control");
    ask("/v1/access", "x-api-key: one\r\nOrigin: null\r\n", NULL);
    has("[2]");
    ask("/v1/access", "x-api-key: one\r\nOrigin: http://b.example:81\r\n", NULL);
    has("[0]");
    has("access-control-allow-origin: http://b.example:81\r\n");
    ask("/v1/access", "x-api-key: one\r\nOrigin: http://localhost\r\n", NULL); /* Host is the same */
    has("[0]");
    assert_true(cabe_access_is_loopback("localhost:8080"));
    assert_true(cabe_access_is_loopback("127.0.0.1"));
    assert_true(cabe_access_is_loopback("[::1]:80"));
    assert_true(cabe_access_is_loopback("::1"));
    assert_false(cabe_access_is_loopback("127.evil.example"));
    assert_false(cabe_access_is_loopback("localhost.evil.example"));
    assert_false(cabe_access_is_loopback("example.org:80"));
    assert_false(cabe_access_is_loopback(""));
}

/* ---- what a body becomes in memory ---- */

#define BLOCK_BYTES 16 /* of the allocator, for each block */

static size_t held, held_most;

static void *counted_malloc(size_t n)
{
    size_t *block = malloc(n + BLOCK_BYTES);

    if (!block)
        return NULL;
    *block = n + BLOCK_BYTES;
    held += *block;
    held_most = held > held_most ? held : held_most;
    return (char *)block + BLOCK_BYTES;
}

static void counted_free(void *at)
{
    size_t *block = at ? (size_t *)(void *)((char *)at - BLOCK_BYTES) : NULL;

    if (block)
        held -= *block;
    free(block);
}

static void a_body_is_charged_what_it_takes(void **state)
{
    static const char *const pieces[] = {"1", "\"\"", "[]", "{}", "[[]]", "{\"a\":1}", "{\"a\":{}}", "\"some words of a text\"",
                                         "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{}}}}}}", "[[[[[[]]]]]]", "{\"a\":[{\"b\":[{}]}]}"};
    enum { N_PIECES = sizeof pieces / sizeof pieces[0], N = 5000 };
    char *text = malloc(N * 64);
    int64_t depth, values;

    (void)state;
    for (int i = 0; i < 2 * N_PIECES; i++) { /* as items of an array, and of an object */
        int is_object = i >= N_PIECES;
        size_t n = (size_t)sprintf(text, is_object ? "{" : "[");
        uint64_t bytes;
        json_t *json;

        for (int k = 0; k < N; k++) {
            if (is_object)
                n += (size_t)sprintf(text + n, "\"%d\":", k);
            n += (size_t)sprintf(text + n, "%s%s", pieces[i % N_PIECES], k + 1 < N ? "," : is_object ? "}" : "]");
        }
        bytes = cabe_request_extent(text, n, &depth, &values);
        json_set_alloc_funcs(counted_malloc, counted_free);
        held = held_most = 0;
        json = json_loadb(text, n, 0, NULL);
        if (!json || held_most > bytes)
            fail_msg("%.40s...: %zu bytes, %llu were charged", text, held_most, (unsigned long long)bytes);
        json_decref(json);
        json_set_alloc_funcs(malloc, free);
        assert_int_equal(held, 0);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_have_the_form_of_their_route), cmocka_unit_test(a_refusal_says_when_to_come_again),
        cmocka_unit_test(bodies_are_checked),                  cmocka_unit_test(classes_come_from_header_and_body),
        cmocka_unit_test(only_who_has_a_key_is_let_in),        cmocka_unit_test(pages_of_other_origins_are_not),
        cmocka_unit_test(a_body_is_charged_what_it_takes),     cmocka_unit_test(no_memory_is_one_answer),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
