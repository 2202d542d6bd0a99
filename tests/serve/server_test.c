/* The server put together, on a port of its own, in this process. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/memory.h"
#include "http_client.h"
#include "serve/server.h"

static char home[] = "/tmp/cabe-server-XXXXXX";
static struct cabe_serve_config config;
static char answer[1 << 16];

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(home))
        return -1;
    setenv("CABE_HOME", home, 1);
    cabe_serve_config_defaults(&config);
    config.port = 0;
    config.memory = UINT64_C(300) << 20;
    config.threads = 1;
    return !freopen("/dev/null", "w", stderr); /* the server's log */
}

static int tear_down(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", home);
    return system(command);
}

struct running {
    struct cabe_server *server;
    pthread_t thread;
    enum cabe_status status;
    struct cabe_error err;
};

static void *run(void *self)
{
    struct running *r = self;

    r->status = cabe_server_run(r->server, &r->err);
    return NULL;
}

static void start(struct running *r)
{
    assert_int_equal(cabe_server_open(&r->server, &config, &r->err), CABE_OK);
    assert_int_equal(pthread_create(&r->thread, NULL, run, r), 0);
}

static int get(const struct running *r, const char *path)
{
    return http_ask(cabe_http_port(r->server->http), "GET", path, "", NULL, answer, sizeof answer);
}

static void until_ready(const struct running *r)
{
    int status = 0;

    for (int i = 0; i < 1000 && (status = get(r, "/ready")) != 200; i++)
        usleep(10000);
    assert_int_equal(status, 200);
}

static void it_starts_answers_and_ends(void **state)
{
    struct running r = {0};

    (void)state;
    start(&r);
    assert_int_equal(get(&r, "/health"), 200);
    assert_non_null(strstr(answer, "\"thread_pool_active\":true"));
    until_ready(&r);
    assert_int_equal(get(&r, "/nowhere"), 404);
    cabe_server_stop(r.server);
    pthread_join(r.thread, NULL);
    assert_int_equal(r.status, CABE_OK);
    cabe_server_close(r.server);
}

static void a_start_model_that_fails_is_named(void **state)
{
    struct running r = {0};
    int status = 0;

    (void)state;
    snprintf(config.models, sizeof config.models, "nowhere-at-all, gone=%s/gone.gguf", home);
    start(&r);
    for (int i = 0; i < 500; i++) {
        status = get(&r, "/ready");
        if (strstr(answer, "gone") && !strstr(answer, "loading"))
            break;
        usleep(10000);
    }
    config.models[0] = '\0';
    assert_int_equal(status, 503);
    assert_non_null(strstr(answer, "gone"));
    assert_int_equal(get(&r, "/health"), 200);
    cabe_server_stop(r.server);
    pthread_join(r.thread, NULL);
    assert_int_equal(r.status, CABE_OK);
    cabe_server_close(r.server);
}

static void a_budget_too_small_ends_it_with_the_reason(void **state)
{
    struct running r = {0};
    uint64_t memory = config.memory;

    (void)state;
    config.memory = 1 << 20;
    start(&r);
    pthread_join(r.thread, NULL);
    config.memory = memory;
    assert_int_equal(r.status, CABE_ERR_BUDGET);
    assert_true(r.err.missing_bytes > 0);
    cabe_server_close(r.server);
}

static void no_memory_at_open_is_an_error(void **state)
{
    (void)state;
    for (uint64_t n = 1; n < 1000; n++) {
        struct cabe_server *server;
        enum cabe_status status;

        cabe_memory_fail_at(n);
        status = cabe_server_open(&server, &config, NULL);
        cabe_memory_fail_at(0);
        if (status == CABE_OK) {
            cabe_server_close(server);
            return;
        }
        assert_int_equal(status, CABE_ERR_OOM);
        assert_null(server);
    }
    fail_msg("a thousand allocations at open");
}

/* What cannot be opened behind HTTP ends the server with its reason, or is done without. */
static void no_memory_behind_it_is_no_crash(void **state)
{
    (void)state;
    for (uint64_t n = 1; n < 60; n++) {
        struct running r = {0};

        assert_int_equal(cabe_server_open(&r.server, &config, &r.err), CABE_OK);
        cabe_memory_fail_at(n);
        assert_int_equal(pthread_create(&r.thread, NULL, run, &r), 0);
        usleep(20000);
        cabe_memory_fail_at(0);
        cabe_server_stop(r.server);
        pthread_join(r.thread, NULL);
        cabe_server_close(r.server);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_starts_answers_and_ends),
        cmocka_unit_test(a_start_model_that_fails_is_named),
        cmocka_unit_test(a_budget_too_small_ends_it_with_the_reason),
        cmocka_unit_test(no_memory_at_open_is_an_error),
        cmocka_unit_test(no_memory_behind_it_is_no_crash),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
