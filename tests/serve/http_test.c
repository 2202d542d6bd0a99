/* Requests and answers, whole and streamed, from the loop and from other threads. */
#include "http_fixture.h"

#include <sys/stat.h>
#include <sys/un.h>

static void test_get_post_keep_alive(void **state)
{
    struct server s = {0};
    char a[4096];
    int fd;

    (void)state;
    server_start(&s);
    fd = client_open(&s);
    for (int i = 0; i < 3; i++) {
        client_say(fd, "GET /a%20b/c?x=1&q=o+l%C3%A1&z HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_int_equal(client_answer(fd, a, sizeof a), 200);
        assert_string_equal(client_body(a), "GET /a b/c q=o l\xC3\xA1 0\n");
        assert_non_null(strstr(a, "\r\nDate: "));
        client_say(fd, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe");
        client_say(fd, "llo");
        assert_int_equal(client_answer(fd, a, sizeof a), 200);
        assert_string_equal(client_body(a), "hello");
        client_say(fd, "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n"
                       "00a\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n");
        assert_int_equal(client_answer(fd, a, sizeof a), 200);
        assert_string_equal(client_body(a), "abc0123456789");
    }
    client_say(fd, "HEAD /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    {
        int closed;

        client_read(fd, a, sizeof a, 30000, &closed);
        assert_true(closed);
        assert_non_null(strstr(a, "Content-Length: 14\r\n"));
        assert_non_null(strstr(a, "Connection: close\r\n"));
        assert_string_equal(client_body(a), "");
    }
    close(fd);
    assert_int_equal(atomic_load(&s.n_requests), 10);
    assert_true(becomes(&s.n_done, 10));
    server_stop(&s);
}

static void test_http_1_0(void **state)
{
    struct server s = {0};
    char a[4096];
    int fd;

    (void)state;
    server_start(&s);
    assert_int_equal(client_ask(&s, "GET /a HTTP/1.0\r\n\r\n", a, sizeof a), 200);
    assert_non_null(strstr(a, "Connection: close\r\n"));
    fd = client_open(&s);
    for (int i = 0; i < 2; i++) {
        client_say(fd, "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_int_equal(client_answer(fd, a, sizeof a), 200);
        assert_non_null(strstr(a, "Connection: keep-alive\r\n"));
    }
    close(fd);
    server_stop(&s);
}

static void test_pipelined(void **state)
{
    struct server s = {0};
    char *a = malloc(1 << 20), *ask = malloc(1 << 20), *at = ask;
    int fd, closed, n = 0;

    (void)state;
    server_start(&s);
    fd = client_open(&s);
    for (int i = 0; i < 2000; i++)
        at += sprintf(at, i % 2 ? "GET /%d HTTP/1.1\r\nHost: h\r\n\r\n"
                                : "POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nGET ", i);
    at += sprintf(at, "GET /end HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    client_send(fd, ask, (size_t)(at - ask));
    client_read(fd, a, 1 << 20, 30000, &closed);
    assert_true(closed);
    for (char *p = a; (p = strstr(p, "HTTP/1.1 200 OK\r\n")) != NULL; p += 10) {
        char want[64];

        snprintf(want, sizeof want, n == 2000 ? "GET /end q=- 0\n" : n % 2 ? "GET /%d q=- 0\n" : "POST /%d q=- 4\n", n);
        assert_memory_equal(client_body(p), want, strlen(want));
        n++;
    }
    assert_int_equal(n, 2001);
    close(fd);
    free(a);
    free(ask);
    server_stop(&s);
}

/* While the first of two is being answered the second waits, and comes to no harm. */
static void test_pipelined_behind_a_slow_one(void **state)
{
    struct server s = {0};
    struct cabe_http_exchange *x;
    char a[4096];
    int fd;

    (void)state;
    server_start(&s);
    fd = client_open(&s);
    client_say(fd, "GET /keep HTTP/1.1\r\nHost: h\r\n\r\nPOST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\na");
    x = kept(&s);
    client_say(fd, "bc");
    usleep(20000);
    assert_int_equal(atomic_load(&s.n_requests), 1);
    reply_text(x, 202, "slow");
    cabe_http_release(x);
    assert_int_equal(client_answer(fd, a, sizeof a), 202);
    assert_string_equal(client_body(a), "slow");
    assert_int_equal(client_answer(fd, a, sizeof a), 200);
    assert_string_equal(client_body(a), "abc");
    close(fd);
    server_stop(&s);
}

/* ---- streams ---- */

struct streaming {
    struct cabe_http_exchange *x;
    int n, refused;
    pthread_t thread;
};

static void *stream_main(void *arg)
{
    struct streaming *t = arg;
    char text[64];

    cabe_http_set(t->x, "X-Test", "one");
    cabe_http_set(t->x, "X-Bad", "two\r\nInjected: 1");
    cabe_http_begin(t->x, 200, "text/event-stream");
    for (int i = 0; i < t->n && !t->refused; i++) {
        size_t n = (size_t)snprintf(text, sizeof text, "data: %d\n\n", i);

        t->refused = cabe_http_send(t->x, text, n) != CABE_OK;
    }
    cabe_http_end(t->x);
    cabe_http_release(t->x);
    return NULL;
}

static void test_stream_from_a_thread(void **state)
{
    struct server s = {0};
    struct streaming t = {.n = 5000};
    char *a = malloc(1 << 20), *at;
    int fd, closed;

    (void)state;
    s.config.stream_bytes = 8u << 20;
    server_start(&s);
    fd = client_open(&s);
    client_say(fd, "GET /keep HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    t.x = kept(&s);
    assert_int_equal(pthread_create(&t.thread, NULL, stream_main, &t), 0);
    client_read(fd, a, 1 << 20, 30000, &closed);
    pthread_join(t.thread, NULL);
    assert_int_equal(t.refused, 0);
    assert_non_null(strstr(a, "Transfer-Encoding: chunked\r\n"));
    assert_non_null(strstr(a, "X-Accel-Buffering: no\r\n"));
    assert_non_null(strstr(a, "X-Test: one\r\n"));
    assert_null(strstr(a, "Injected"));
    at = (char *)client_body(a);
    for (int i = 0; i < t.n; i++) {
        char want[64], chunk[80];

        snprintf(want, sizeof want, "data: %d\n\n", i);
        snprintf(chunk, sizeof chunk, "%zx\r\n%s\r\n", strlen(want), want);
        assert_memory_equal(at, chunk, strlen(chunk));
        at += strlen(chunk);
    }
    assert_string_equal(at, "0\r\n\r\n");
    assert_int_equal(atomic_load(&s.n_gone), 0);
    close(fd);
    free(a);
    server_stop(&s);
}

static void test_stream_to_http_1_0(void **state)
{
    struct server s = {0};
    struct streaming t = {.n = 3};
    char a[4096];
    int fd, closed;

    (void)state;
    server_start(&s);
    fd = client_open(&s);
    client_say(fd, "GET /keep HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    t.x = kept(&s);
    stream_main(&t);
    client_read(fd, a, sizeof a, 30000, &closed);
    assert_true(closed);
    assert_string_equal(client_body(a), "data: 0\n\ndata: 1\n\ndata: 2\n\n");
    close(fd);
    server_stop(&s);
}

/* ---- clients that leave ---- */

static void test_client_leaves(void **state)
{
    struct server s = {0};
    struct cabe_http_exchange *x;
    int fd;

    (void)state;
    server_start(&s);
    fd = client_open(&s);
    client_say(fd, "GET /keep HTTP/1.1\r\nHost: h\r\n\r\n");
    x = kept(&s);
    cabe_http_begin(x, 200, "text/event-stream");
    assert_int_equal(cabe_http_send(x, "data: 1\n\n", 9), CABE_OK);
    close(fd);
    assert_true(becomes(&s.n_gone, 1));
    assert_int_equal(cabe_http_send(x, "data: 2\n\n", 9), CABE_ERR_CANCELLED);
    assert_true(becomes(&s.n_done, 1));
    cabe_http_on_gone(x, server_gone, &s); /* has left already: at once */
    assert_int_equal(atomic_load(&s.n_gone), 2);
    cabe_http_end(x);
    cabe_http_release(x);

    fd = client_open(&s); /* before an answer has begun; the holder lets go without one */
    client_say(fd, "GET /keep HTTP/1.1\r\nHost: h\r\n\r\n");
    x = kept(&s);
    close(fd);
    assert_true(becomes(&s.n_gone, 3));
    cabe_http_release(x);

    fd = client_open(&s); /* gone() taken back is not called */
    client_say(fd, "GET /keep HTTP/1.1\r\nHost: h\r\n\r\n");
    x = kept(&s);
    cabe_http_on_gone(x, NULL, NULL);
    close(fd);
    assert_true(becomes(&s.n_done, 3));
    assert_int_equal(atomic_load(&s.n_gone), 3);
    reply_text(x, 200, "for nobody");
    cabe_http_release(x);
    server_stop(&s);
}

static void test_holder_lets_go(void **state)
{
    struct server s = {0};
    struct cabe_http_exchange *x;
    char a[4096];
    int fd, closed;

    (void)state;
    server_start(&s);
    fd = client_open(&s);
    client_say(fd, "GET /keep HTTP/1.1\r\nHost: h\r\n\r\n");
    x = kept(&s);
    cabe_http_release(x);
    assert_int_equal(client_answer(fd, a, sizeof a), 500);
    client_say(fd, "GET /keep HTTP/1.1\r\nHost: h\r\n\r\n");
    x = kept(&s);
    cabe_http_begin(x, 200, "text/plain");
    assert_int_equal(cabe_http_send(x, "half", 4), CABE_OK);
    cabe_http_release(x);
    client_read(fd, a, sizeof a, 30000, &closed);
    assert_true(closed); /* and not as if it were whole */
    assert_null(strstr(a, "\r\n0\r\n"));
    close(fd);
    server_stop(&s);
}

/* A client that does not read: the limit holds, and after some time it counts as gone. */
static void test_client_does_not_read(void **state)
{
    struct server s = {.config = {.stream_bytes = 100000, .body_s = 2}};
    struct cabe_http_exchange *x;
    enum cabe_status status = CABE_OK;
    int was_full = 0;
    char piece[1000] = {'x'};
    int fd, small = 4096;

    (void)state;
    server_start(&s);
    fd = client_open(&s);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    client_say(fd, "GET /keep HTTP/1.1\r\nHost: h\r\n\r\n");
    x = kept(&s);
    cabe_http_begin(x, 200, "text/plain");
    while (status != CABE_ERR_CANCELLED) { /* the system's buffers are filled first */
        status = cabe_http_send(x, piece, sizeof piece);
        assert_true(cabe_http_unsent(x) <= 100000);
        if (status == CABE_ERR_LIMIT) {
            was_full = 1;
            usleep(5000);
        }
    }
    assert_true(was_full);
    assert_true(becomes(&s.n_gone, 1));
    assert_int_equal(cabe_http_send(x, piece, sizeof piece), CABE_ERR_CANCELLED);
    cabe_http_end(x);
    cabe_http_release(x);
    close(fd);
    server_stop(&s);
}

/* ---- the loop ---- */

static void count(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

static void *post_main(void *arg)
{
    struct server *s = arg;

    for (int i = 0; i < 1000; i++)
        assert_int_equal(cabe_http_post(s->http, count, &s->n_gone), CABE_OK);
    return NULL;
}

static void test_posts_and_timers(void **state)
{
    struct server s = {0};
    atomic_int n_ticks = 0;
    pthread_t threads[4];

    (void)state;
    server_open(&s);
    assert_int_equal(cabe_http_every(s.http, 10, count, &n_ticks), CABE_OK);
    for (int i = 1; i < 8; i++)
        assert_int_equal(cabe_http_every(s.http, 100000, count, &n_ticks), CABE_OK);
    assert_int_equal(cabe_http_every(s.http, 10, count, &n_ticks), CABE_ERR_LIMIT);
    assert_int_equal(cabe_http_post(s.http, count, &s.n_gone), CABE_OK);
    assert_int_equal(pthread_create(&s.thread, NULL, server_main, &s), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, post_main, &s), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_true(becomes(&s.n_gone, 4001));
    for (int i = 0; i < 3000 && atomic_load(&n_ticks) < 5; i++)
        usleep(10000);
    assert_true(atomic_load(&n_ticks) >= 5);
    cabe_http_stop(s.http, 0);
    pthread_join(s.thread, NULL);
    assert_int_equal(cabe_http_post(s.http, count, &s.n_gone), CABE_ERR_CANCELLED);
    cabe_http_close(s.http);
}

/* What runs may end; who only keeps a connection open is sent away; nobody new comes in. */
static void test_drain(void **state)
{
    struct server s = {0};
    struct cabe_http_exchange *x;
    char a[4096];
    int fd, idle, closed;
    struct sockaddr_in to = {.sin_family = AF_INET};

    (void)state;
    server_start(&s);
    idle = client_open(&s);
    client_say(idle, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(client_answer(idle, a, sizeof a), 200);
    fd = client_open(&s);
    client_say(fd, "GET /keep HTTP/1.1\r\nHost: h\r\n\r\n");
    x = kept(&s);
    cabe_http_stop(s.http, 30);
    client_read(idle, a, sizeof a, 30000, &closed);
    assert_true(closed);
    close(idle);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons((uint16_t)s.port);
    idle = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(idle, (struct sockaddr *)&to, sizeof to), -1);
    close(idle);
    reply_text(x, 200, "last");
    cabe_http_release(x);
    assert_int_equal(client_answer(fd, a, sizeof a), 200);
    assert_non_null(strstr(a, "Connection: close"));
    close(fd);
    pthread_join(s.thread, NULL);
    cabe_http_close(s.http);
}

/* The time to drain is over, or it is stopped twice: who is left is gone. */
static void test_stop_twice(void **state)
{
    struct server s = {0};
    struct cabe_http_exchange *x;
    int fd;

    (void)state;
    server_start(&s);
    fd = client_open(&s);
    client_say(fd, "GET /keep HTTP/1.1\r\nHost: h\r\n\r\n");
    x = kept(&s);
    cabe_http_stop(s.http, 600);
    cabe_http_stop(s.http, 600);
    pthread_join(s.thread, NULL);
    assert_int_equal(atomic_load(&s.n_gone), 1);
    assert_int_equal(cabe_http_send(x, "x", 1), CABE_ERR_CANCELLED);
    cabe_http_release(x);
    close(fd);
    cabe_http_close(s.http);
}

/* ---- sockets ---- */

static int connect_unix(const char *path)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(to.sun_path, sizeof to.sun_path, "%s", path);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static void test_unix_socket(void **state)
{
    struct server s = {0}, second = {0};
    struct cabe_error err;
    struct stat st;
    struct sockaddr_un left = {.sun_family = AF_UNIX};
    char folder[] = "/tmp/cabe-http-XXXXXX", path[64], a[4096];
    int fd;

    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/socket", folder);
    snprintf(left.sun_path, sizeof left.sun_path, "%s", path);
    fd = socket(AF_UNIX, SOCK_STREAM, 0); /* one that a dead server left behind */
    assert_int_equal(bind(fd, (struct sockaddr *)&left, sizeof left), 0);
    close(fd);
    s.config.unix_path = path;
    server_start(&s);
    assert_int_equal(s.port, 0);
    fd = connect_unix(path);
    client_say(fd, "GET /u HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(client_answer(fd, a, sizeof a), 200);
    close(fd);
    second.config.unix_path = path;
    second.config.request = server_request;
    assert_int_equal(cabe_http_open(&second.http, &second.config, &err), CABE_ERR_BUSY);
    server_stop(&s);
    assert_int_equal(stat(path, &st), -1);
    rmdir(folder);
}

static void test_given_socket(void **state)
{
    struct server s = {0};
    struct sockaddr_in at = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char a[4096];
    struct cabe_error err;

    (void)state;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    s.config.fds = &fd;
    s.config.n_fds = 1;
    s.config.request = server_request;
    assert_int_equal(cabe_http_open(&s.http, &s.config, &err), CABE_ERR_ARGUMENT);
    assert_int_equal(listen(fd, 8), 0);
    server_start(&s);
    assert_true(s.port > 0);
    assert_int_equal(client_ask(&s, "GET / HTTP/1.1\r\nHost: h\r\n\r\n", a, sizeof a), 200);
    server_stop(&s);
    assert_int_equal(close(fd), 0); /* it stayed ours */
}

static uint64_t network_bytes(const struct cabe_ledger *ledger)
{
    struct cabe_ledger_view view;

    cabe_ledger_read(ledger, &view);
    return view.device[CABE_HOST].purpose_bytes[CABE_PURPOSE_NETWORK];
}

/* A ledger that comes later; a body that does not fit it is refused, and all comes back at the end. */
static void test_charge(void **state)
{
    struct server s = {0};
    struct cabe_ledger_config config = {.n_devices = 1, .budget_bytes = {4u << 20}};
    struct cabe_ledger *ledger, *small;
    struct cabe_error err;
    char a[4096], head[128];
    int fd, n;

    (void)state;
    assert_int_equal(cabe_ledger_open(&ledger, &config, &err), CABE_OK);
    config.budget_bytes[0] = 1000;
    assert_int_equal(cabe_ledger_open(&small, &config, &err), CABE_OK);
    server_start(&s);
    assert_int_equal(cabe_http_charge(s.http, small, &err), CABE_ERR_BUDGET);
    assert_int_equal(network_bytes(small), 0);
    assert_int_equal(cabe_http_charge(s.http, ledger, &err), CABE_OK);
    assert_true(network_bytes(ledger) >= 64 << 10);
    assert_int_equal(cabe_http_charge(s.http, ledger, &err), CABE_ERR_ARGUMENT);
    assert_int_equal(client_ask(&s, "GET / HTTP/1.1\r\nHost: h\r\n\r\n", a, sizeof a), 200);
    fd = client_open(&s);
    n = snprintf(head, sizeof head, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", 8 << 20);
    client_send(fd, head, (size_t)n);
    for (int i = 0; i < 8 << 20; i += (int)sizeof a)
        if (send(fd, a, sizeof a, MSG_NOSIGNAL) <= 0)
            break;
    assert_int_equal(client_answer(fd, a, sizeof a), 503);
    close(fd);
    assert_true(network_bytes(ledger) <= 4u << 20);
    assert_int_equal(client_ask(&s, "GET / HTTP/1.1\r\nHost: h\r\n\r\n", a, sizeof a), 200);
    server_stop(&s);
    assert_int_equal(network_bytes(ledger), 0);
    cabe_ledger_close(ledger);
    cabe_ledger_close(small);
}

static void takes_all_first(struct server *s, struct cabe_http_exchange *x)
{
    (void)s;
    for (size_t n = 8u << 20; n > 0; n /= 2)
        while (cabe_http_charge_more(x, n)) {
        }
    if (strcmp(cabe_http_path(x), "/stream") == 0) {
        cabe_http_begin(x, 200, "text/plain");
        (void)!cabe_http_send(x, "a", 1);
        cabe_http_end(x);
    } else {
        cabe_http_set(x, "x-more", "1");
        reply_text(x, 200, "a");
    }
}

/* An answer that finds no memory, not even for its head, is one that says so. */
static void test_no_memory_to_answer(void **state)
{
    static const char *const requests[] = {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET /stream HTTP/1.1\r\nHost: h\r\n\r\n"};
    struct server s = {.request = takes_all_first};
    struct cabe_ledger_config config = {.n_devices = 1, .budget_bytes = {1u << 20}};
    struct cabe_ledger *ledger;
    struct cabe_error err;
    char a[4096];

    (void)state;
    assert_int_equal(cabe_ledger_open(&ledger, &config, &err), CABE_OK);
    server_start(&s);
    assert_int_equal(cabe_http_charge(s.http, ledger, &err), CABE_OK);
    for (int i = 0; i < 4; i++) {
        int fd = client_open(&s);

        client_say(fd, requests[i % 2]);
        assert_int_equal(client_answer(fd, a, sizeof a), 503);
        assert_non_null(strstr(a, "Retry-After: "));
        assert_memory_equal(client_body(a), "{\"error\":", 9);
        close(fd);
    }
    server_stop(&s);
    assert_int_equal(network_bytes(ledger), 0);
    cabe_ledger_close(ledger);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_get_post_keep_alive),
        cmocka_unit_test(test_http_1_0),
        cmocka_unit_test(test_pipelined),
        cmocka_unit_test(test_pipelined_behind_a_slow_one),
        cmocka_unit_test(test_stream_from_a_thread),
        cmocka_unit_test(test_stream_to_http_1_0),
        cmocka_unit_test(test_client_leaves),
        cmocka_unit_test(test_holder_lets_go),
        cmocka_unit_test(test_client_does_not_read),
        cmocka_unit_test(test_posts_and_timers),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_stop_twice),
        cmocka_unit_test(test_unix_socket),
        cmocka_unit_test(test_given_socket),
        cmocka_unit_test(test_charge),
        cmocka_unit_test(test_no_memory_to_answer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
