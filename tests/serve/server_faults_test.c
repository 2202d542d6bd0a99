/*
 * The whole server, in this process, when memory runs out at any point of a request's way, and when the machine is pressed
 * for memory: every request comes to an end that its form knows, what is answered is right, and nothing is held afterwards.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/memory.h"
#include "http_client.h"
#include "machine_tree.h"
#include "sanitizer.h"
#include "serve/server_impl.h"
#include "serve/service_impl.h"

#define PATIENCE 12000 /* looks of 10 ms, for what comes in a moment */

static char home[] = "/tmp/cabe-server-faults-XXXXXX";
static struct cabe_serve_config config;
static char answer[1 << 18];
static struct cabe_server *server;
static pthread_t thread;
static enum cabe_status ended;
static struct cabe_error err;

static void *run(void *self)
{
    (void)self;
    ended = cabe_server_run(server, &err);
    return NULL;
}

static int ask(const char *method, const char *path, const char *headers, const char *body)
{
    return http_ask(cabe_http_port(server->http), method, path, headers, body, answer, sizeof answer);
}

static void until_status(int wanted, const char *method, const char *path, const char *headers, const char *body)
{
    int status = 0;

    for (int i = 0; i < PATIENCE && (status = ask(method, path, headers, body)) != wanted; i++)
        usleep(10000);
    if (status != wanted)
        fail_msg("%s: %d, wanted %d: %.400s", path, status, wanted, answer);
}

static void start(const char *machine)
{
    FILE *log = fopen("/dev/null", "w"), *shown = stderr;

    stderr = log; /* of the server; the test's own words stay */
    assert_int_equal(cabe_server_open(&server, &config, &err), CABE_OK);
    stderr = shown;
    server->impl->machine_root = machine;
    assert_int_equal(pthread_create(&thread, NULL, run, NULL), 0);
    until_status(200, "GET", "/ready", "", NULL);
}

static void stop(void)
{
    cabe_server_stop(server);
    pthread_join(thread, NULL);
    cabe_server_close(server);
    if (ended != CABE_OK)
        fail_msg("%s", err.text);
}

static int set_up(void **state)
{
    char command[256];

    (void)state;
    json_set_alloc_funcs(cabe_malloc, cabe_free);
    if (!mkdtemp(home))
        return -1;
    setenv("CABE_HOME", home, 1);
    snprintf(command, sizeof command, "python3 tools/golden/make_chat.py %s/chat", home);
    if (system(command) != 0)
        return -1;
    cabe_serve_config_defaults(&config);
    config.port = 0;
    config.memory = UINT64_C(300) << 20;
    config.threads = 1;
    snprintf(config.models, sizeof config.models, "chat=%s/chat,embed=%s", home, CABE_GOLDEN_MODELS "/bert-mean-f32.gguf");
    return 0;
}

static int tear_down(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", home);
    return system(command);
}

/* ---- allocations fail in turn ---- */

static uint64_t used_bytes(void)
{
    struct cabe_ledger_view view;

    cabe_ledger_read(server->session->ledger, &view);
    return view.device[CABE_HOST].used_bytes;
}

/* What the last request opened has been closed. */
static void until_closed(void)
{
    struct cabe_http_stats stats;

    for (int i = 0; i < PATIENCE; i++) {
        cabe_http_stats(server->http, &stats);
        if (stats.n_connections == 0)
            return;
        usleep(10000);
    }
    fail_msg("%d connections stay", (int)stats.n_connections);
}

/* Nothing runs or waits. */
static void until_idle(const char *what, uint64_t n)
{
    struct cabe_service_stats stats;

    for (int i = 0; i < PATIENCE; i++) {
        cabe_service_stats(server->service, &stats);
        if (stats.n_running + stats.n_waiting == 0)
            return;
        usleep(i < 100 ? 200 : 10000);
    }
    fail_msg("%s, allocation %llu: %lld run, %lld wait", what, (unsigned long long)n, (long long)stats.n_running,
             (long long)stats.n_waiting);
}

/* And the ledger has what it had. */
static int is_as_before(uint64_t before)
{
    for (int i = 0; i < 40; i++) {
        if (used_bytes() == before)
            return 1;
        usleep(i < 100 ? 200 : 10000);
    }
    return 0;
}

struct form {
    const char *what, *path, *body;
    const char *last; /* the end of a whole answer */
};

static const struct form forms[] = {
    {"a chat, streamed", "/v1/chat/completions",
     "{\"model\":\"chat\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"temperature\":0,\"max_tokens\":6,"
     "\"ignore_eos\":true,\"stream\":true,\"seed\":1,\"stop\":[\"never said\"],\"stream_options\":{\"include_usage\":true}}",
     "data: [DONE]\n\n"},
    {"a chat", "/v1/chat/completions",
     "{\"model\":\"chat\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"temperature\":0,\"max_tokens\":6,"
     "\"ignore_eos\":true,\"logprobs\":true,\"top_logprobs\":2,\"tools\":[{\"type\":\"function\",\"function\":"
     "{\"name\":\"f\",\"parameters\":{}}}]}",
     "}"},
    {"a text of two choices", "/v1/completions",
     "{\"model\":\"chat\",\"prompt\":\"once\",\"temperature\":0,\"max_tokens\":4,\"ignore_eos\":true,\"n\":2,\"echo\":true,"
     "\"logprobs\":1}", "}"},
    {"a chat in Ollama's form", "/api/chat",
     "{\"model\":\"chat\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"options\":{\"temperature\":0,\"num_predict\":4},\"stream\":false}",
     "}"},
    {"a response", "/v1/responses",
     "{\"model\":\"chat\",\"input\":\"hi\",\"temperature\":0,\"max_output_tokens\":4,\"stream\":true}", "}\n\n"},
    {"embeddings", "/v1/embeddings", "{\"model\":\"embed\",\"input\":[\"one\",\"two three\"],\"encoding_format\":\"base64\"}", "}"},
    {"tokens", "/v1/tokenize", "{\"model\":\"chat\",\"text\":\"one two\"}", "}"},
};

/* What differs from answer to answer. */
static void forget(char *text, const char *name)
{
    for (char *at = text; (at = strstr(at, name)) != NULL;) {
        size_t n = strcspn(at += strlen(name), ",}\n");

        memmove(at, at + n, strlen(at + n) + 1);
    }
}

static char *body_of(char *text)
{
    static const char *const names[] = {"\"id\":", "\"created\":", "\"created_at\":", "_duration\":", "\"item_id\":",
                                        "\"cached_tokens\":"};
    char *body = strstr(text, "\r\n\r\n");

    for (size_t i = 0; body && i < sizeof names / sizeof names[0]; i++)
        forget(body, names[i]);
    return body ? body + 4 : text + strlen(text);
}

static int ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);

    return n >= m && memcmp(text + n - m, end, m) == 0;
}

/* An answer is the whole one, or an error in its form; or the connection ends, when there is no memory to say so. */
static void check(const struct form *form, uint64_t n, int status, const char *whole)
{
    const char *body = body_of(answer);
    int has_error = strstr(body, "\"error\"") || strstr(body, "response.failed");

    if (status == 200 && !has_error && strcmp(body, whole) == 0)
        return;
    if (status == 0 && answer[0] == '\0')
        return;
    if (status == 200 && has_error)
        return;
    if ((status == 500 || status == 503) && (has_error || (status == 503 && body[0] == '\0')))
        return; /* even for the words there may be none */
    if (status == 200 && !strstr(answer, "ontent-length") && !ends_with(body, "0\r\n\r\n"))
        return; /* a stream that is cut is seen to be cut: its last chunk never comes */
    while (*body && *body == *whole) {
        body++;
        whole++;
    }
    fail_msg("%s, allocation %llu: status %d, ...%.300s\nwanted ...%.200s", form->what, (unsigned long long)n, status, body,
             whole);
}

static void starve(const struct form *form)
{
    static char whole[1 << 17];
    uint64_t before, count, n_failed = 0, n;
    int status;

    for (int i = 0; i < 2; i++) { /* the second time as every later one: with what is cached */
        status = ask("POST", form->path, "x-cabe-class: critical\r\n", form->body);
        if (status != 200)
            fail_msg("%s: %d %.400s", form->what, status, answer);
    }
    snprintf(whole, sizeof whole, "%s", body_of(answer));
    assert_non_null(strstr(whole, form->last));
    until_idle(form->what, 0);
    until_closed();
    before = used_bytes();
    for (n = 1;; n++) {
        count = cabe_memory_count();
        cabe_memory_fail_at(n);
        status = ask("POST", form->path, "x-cabe-class: critical\r\n", form->body);
        cabe_memory_fail_at(0);
        until_idle(form->what, n);
        count = cabe_memory_count() - count;
        check(form, n, status, whole);
        n_failed += status != 200;
        for (int i = 0; !is_as_before(before); i++) { /* a model that lacked memory is loaded anew */
            if (i == 1000)
                fail_msg("%s, allocation %llu: %llu bytes are held, before %llu", form->what, (unsigned long long)n,
                         (unsigned long long)used_bytes(), (unsigned long long)before);
            assert_int_equal(ask("POST", form->path, "x-cabe-class: critical\r\n", form->body), 200);
        }
        if (count < n)
            break;
    }
    until_status(200, "POST", form->path, "x-cabe-class: critical\r\n", form->body);
    assert_string_equal(body_of(answer), whole);
    print_message("%s: %d allocations, %d requests without an answer\n", form->what, (int)n, (int)n_failed);
    assert_true(n_failed > 0);
}

static void allocations_fail_in_turn(void **state)
{
    (void)state;
    start(NULL);
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++)
        starve(&forms[i]);
    stop();
}

/* ---- pressure ---- */

static void put_stall(double some)
{
    tree_put("/proc/pressure/memory", "some avg10=%.2f avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
             some);
}

/* A quick pace: the default takes its time. */
static void hurry(void)
{
    struct cabe_pace_config pace = {.enter_s = 0.01, .leave_s = 0.5, .step_s = 0.01, .max_s = 0.4};

    pthread_mutex_lock(&server->service->lock);
    cabe_pace_init(&server->service->pace, &pace);
    pthread_mutex_unlock(&server->service->lock);
}

/* Stalls of a machine that is a folder: LOW is refused and told when to come again, idle models go, CRITICAL is served. */
static void stalls_for_memory_are_answered(void **state)
{
    const char *body = forms[1].body, *path = forms[1].path;
    struct cabe_service_model view;

    (void)state;
    tree_new();
    tree_memory(16000, 12000);
    put_stall(0);
    start(tree_root);
    hurry();
    assert_int_equal(ask("POST", path, "x-cabe-class: low\r\n", body), 200);
    put_stall(15); /* some, but no pressure yet */
    usleep(1200000);
    assert_int_equal(ask("POST", path, "x-cabe-class: low\r\n", body), 200);
    assert_int_equal(cabe_service_model(server->service, "embed", &view, &err), CABE_OK);
    assert_int_equal(view.state, CABE_SERVICE_READY);
    put_stall(35);
    until_status(503, "POST", path, "x-cabe-class: low\r\n", body);
    assert_non_null(strstr(answer, "pressure"));
    assert_non_null(strstr(answer, "etry-after: "));
    for (int i = 0; i < PATIENCE && view.state != CABE_SERVICE_ABSENT; i++) {
        assert_int_equal(cabe_service_model(server->service, "embed", &view, &err), CABE_OK);
        usleep(10000);
    }
    assert_int_equal(view.state, CABE_SERVICE_ABSENT);
    assert_int_equal(ask("POST", path, "x-cabe-class: critical\r\n", body), 200);
    assert_int_equal(ask("POST", path, "", body), 200); /* NORMAL waits its delay and is served */
    assert_int_equal(ask("GET", "/health", "", NULL), 200);
    assert_int_equal(ask("GET", "/metrics", "", NULL), 200);
    put_stall(0);
    until_status(200, "POST", path, "x-cabe-class: low\r\n", body);
    stop();
    tree_drop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocations_fail_in_turn),
        cmocka_unit_test(stalls_for_memory_are_answered),
    };

    if (TEST_SANITIZED) {
        printf("skip: some thousand requests, each without one allocation, take too long under a sanitizer\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
