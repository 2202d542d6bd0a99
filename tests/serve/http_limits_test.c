/* Every limit has its status; requests that two readers could understand differently are refused. */
#include "http_fixture.h"

#include "base/memory.h"

#define H "Host: h\r\n"

static void test_malformed(void **state)
{
    static const struct {
        int status;
        const char *request;
    } cases[] = {
        {400, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"},
        {400, "POST /a HTTP/1.1\r\n" H "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
        {400, "POST /a HTTP/1.1\r\n" H "Content-Length: 3\r\nContent-Length: 0\r\n\r\nabc"},
        {400, "POST /a HTTP/1.1\r\n" H "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"},
        {400, "POST /a HTTP/1.1\r\n" H "Content-Length: 3, 3\r\n\r\nabc"},
        {400, "POST /a HTTP/1.1\r\n" H "Content-Length: +3\r\n\r\nabc"},
        {400, "POST /a HTTP/1.1\r\n" H "Content-Length: -1\r\n\r\nabc"},
        {400, "POST /a HTTP/1.1\r\n" H "Content-Length: 3a\r\n\r\nabc"},
        {400, "POST /a HTTP/1.1\r\n" H "Content-Length: 0x3\r\n\r\nabc"},
        {400, "POST /a HTTP/1.1\r\n" H "Content-Length:\r\n\r\nabc"},
        {400, "POST /a HTTP/1.1\r\n" H "Content-Length: 18446744073709551619\r\n\r\nabc"},
        {400, "POST /a HTTP/1.1\r\n" H "Content-Length : 3\r\n\r\nabc"},
        {400, "POST /a HTTP/1.1\r\n" H " Content-Length: 3\r\n\r\nabc"},
        {501, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
        {501, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: identity\r\n\r\n"},
        {501, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"},
        {501, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding:\r\n\r\n"},
        {400, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
        {400, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"},
        {400, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n"},
        {400, "POST /a HTTP/1.0\r\n" H "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
        {400, "GET /a HTTP/1.1\r\n" H "A: b\r\n Content-Length: 3\r\n\r\n"},
        {400, "GET /a HTTP/1.1\r\n" H "A: b\r\n\tc\r\n\r\n"},
        {400, "GET /a HTTP/1.1\nHost: x\n\n"},
        {400, "GET /a HTTP/1.1\r\nHost: x\n\r\n\r\n"},
        {400, "GET /a HTTP/1.1\r\nHost: x\rFoo: bar\r\n\r\n"},
        {400, "GET /a HTTP/1.1\r\nHost: x\r\r\n\r\n"},
        {400, "GET /a HTTP/1.1\r\nHost : x\r\n\r\n"},
        {400, "GET /a HTTP/1.1\r\n" H ": x\r\n\r\n"},
        {400, "GET /a HTTP/1.1\r\n" H "nocolon\r\n\r\n"},
        {400, "GET /a HTTP/1.1\r\n" H "a b: x\r\n\r\n"},
        {400, "GET /a HTTP/1.1\r\n" H "a\x80: x\r\n\r\n"},
        {400, "GET /a HTTP/1.1\r\n" H "A: \x01\r\n\r\n"},
        {400, "GET /a HTTP/1.1\r\n" H "A: \x7f\r\n\r\n"},
        {400, "GET /a HTTP/1.1\r\n\r\n"},
        {400, "GET /a HTTP/1.1\r\n" H H "\r\n"},
        {400, "GET /a HTTP/1.1\r\nHost: a, b\r\n\r\n"},
        {400, "GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n"},
        {400, "GET /a HTTP/1.1\r\n" H "Authorization: a\r\nAuthorization: b\r\n\r\n"},
        {400, "GET  /a HTTP/1.1\r\n" H "\r\n"},
        {400, "GET /a  HTTP/1.1\r\n" H "\r\n"},
        {400, "GET /a\tHTTP/1.1\r\n" H "\r\n"},
        {400, " GET /a HTTP/1.1\r\n" H "\r\n"},
        {400, "GET /a b HTTP/1.1\r\n" H "\r\n"},
        {400, "GET a HTTP/1.1\r\n" H "\r\n"},
        {400, "GET * HTTP/1.1\r\n" H "\r\n"},
        {400, "CONNECT h:1 HTTP/1.1\r\n" H "\r\n"},
        {400, "GET http:// HTTP/1.1\r\n" H "\r\n"},
        {400, "GET /a#b HTTP/1.1\r\n" H "\r\n"},
        {400, "GET /%00 HTTP/1.1\r\n" H "\r\n"},
        {400, "GET /%0a HTTP/1.1\r\n" H "\r\n"},
        {400, "GET /%4 HTTP/1.1\r\n" H "\r\n"},
        {400, "GET /%zz HTTP/1.1\r\n" H "\r\n"},
        {400, "GET /%ff HTTP/1.1\r\n" H "\r\n"},
        {400, "GET /../a HTTP/1.1\r\n" H "\r\n"},
        {400, "GET /a/%2e%2e/b HTTP/1.1\r\n" H "\r\n"},
        {400, "GET /a/.. HTTP/1.1\r\n" H "\r\n"},
        {400, "GET /a?q=%0 HTTP/1.1\r\n" H "\r\n"},
        {400, "GET /a?q=%00 HTTP/1.1\r\n" H "\r\n"},
        {400, "GET /a\r\n" H "\r\n"},
        {400, "GET /a HTTP/1.\r\n" H "\r\n"},
        {400, "GET /a HTTP/11\r\n" H "\r\n"},
        {400, "GET /a http/1.1\r\n" H "\r\n"},
        {400, "GET /a ICE/1.0\r\n" H "\r\n"},
        {505, "GET /a HTTP/1.2\r\n" H "\r\n"},
        {505, "GET /a HTTP/2.0\r\n" H "\r\n"},
        {505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
        {400, "G\x01T /a HTTP/1.1\r\n" H "\r\n"},
        {400, "\x16\x03\x01\x02"},
        {417, "POST /a HTTP/1.1\r\n" H "Expect: tea\r\nContent-Length: 0\r\n\r\n"},
        {411, "POST /a HTTP/1.1\r\n" H "Content-Type: application/json\r\n\r\n"},
        {426, "GET /a HTTP/1.1\r\n" H "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n"
              "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"},
        {400, "GET /a HTTP/1.1\r\n" H "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
              "Sec-WebSocket-Key: short\r\n\r\n"},
        {400, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n;\r\n\r\n"},
        {400, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n"},
        {400, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n"},
        {400, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n"},
        {400, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n"},
        {400, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n"},
        {400, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n1\r\na\n0\r\n\r\n"},
        {400, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n1;a\x01\r\na\r\n0\r\n\r\n"},
        {400, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\na\r\n0\r\n\r\n"},
        {400, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n0\r\n folded\r\n\r\n"},
        {400, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n0\r\nT : x\r\n\r\n"},
        {400, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n0000000000000001\r\na\r\n0\r\n\r\n"},
        {413, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\na\r\n0\r\n\r\n"},
    };
    struct server s = {0};
    char a[4096];

    (void)state;
    server_start(&s);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char request[1024];

        snprintf(request, sizeof request, "%sGET /smuggled HTTP/1.1\r\n" H "\r\n", cases[i].request);
        if (client_ask(&s, request, a, sizeof a) != cases[i].status || strstr(a, "\nHTTP/1.1 ") ||
            !strstr(a, "Connection: close\r\n"))
            fail_msg("case %zu: %s\nanswered: %s", i, cases[i].request, a);
        assert_non_null(strstr(a, "{\"error\":{\"message\":\""));
    }
    assert_int_equal(atomic_load(&s.n_requests), 0);
    server_stop(&s);
}

/* A zero byte in every place of a request. */
static void test_nul(void **state)
{
    static const char request[] = "POST /a?q=1 HTTP/1.1\r\nHost: h\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n";
    struct server s = {0};
    char a[4096];

    (void)state;
    server_start(&s);
    for (size_t i = 0; i < sizeof request - 1; i++) {
        char changed[sizeof request];
        int fd = client_open(&s);

        memcpy(changed, request, sizeof request);
        changed[i] = '\0';
        client_send(fd, changed, sizeof request - 1);
        client_say(fd, "\r\n\r\n");
        assert_int_equal(client_answer(fd, a, sizeof a), 400);
        close(fd);
    }
    assert_int_equal(atomic_load(&s.n_requests), 0);
    server_stop(&s);
}

static void test_accepted(void **state)
{
    static const struct {
        const char *request, *body;
    } cases[] = {
        {"GET http://h/p?q=1 HTTP/1.1\r\n" H "\r\n", "GET /p q=1 0\n"},
        {"GET HTTP://h?q=2 HTTP/1.1\r\n" H "\r\n", "GET / q=2 0\n"},
        {"GET https://h HTTP/1.1\r\n" H "\r\n", "GET / q=- 0\n"},
        {"OPTIONS * HTTP/1.1\r\n" H "\r\n", "OPTIONS / q=- 0\n"},
        {"BREW /pot HTTP/1.1\r\nHost:\r\n\r\n", "BREW /pot q=- 0\n"},
        {"\r\n\r\nGET /a HTTP/1.1\r\nhOST:   h  \t\r\n\r\n", "GET /a q=- 0\n"},
        {"GET /a..b/.c/...?q HTTP/1.1\r\n" H "X: \xff\xfe\t \r\n\r\n", "GET /a..b/.c/... q= 0\n"},
        {"GET /ol\xC3\xA1?q=a%3D%26b&q=2 HTTP/1.1\r\n" H "\r\n", "GET /ol\xC3\xA1 q=a=&b 0\n"},
        {"POST /none HTTP/1.1\r\n" H "\r\n", "POST /none q=- 0\n"},
        {"GET /body HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\nabc", "GET /body q=- 3\n"},
        {"POST /zeros HTTP/1.1\r\n" H "Content-Length: 0003\r\n\r\nabc", "POST /zeros q=- 3\n"},
        {"POST /t HTTP/1.1\r\n" H "Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", "POST /t q=- 0\n"},
        {"GET /h2c HTTP/1.1\r\n" H "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
         "GET /h2c q=- 0\n"},
    };
    struct server s = {0};
    char a[4096];

    (void)state;
    server_start(&s);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (client_ask(&s, cases[i].request, a, sizeof a) != 200 || strcmp(client_body(a), cases[i].body) != 0)
            fail_msg("case %zu: %s\nanswered: %s", i, cases[i].request, a);
    server_stop(&s);
}

static void test_header_bytes(void **state)
{
    struct server s = {.config = {.header_bytes = 1000}};
    char request[4096] = "GET /a HTTP/1.1\r\n" H "X: ", a[4096];
    size_t n = strlen(request);
    int fd;

    (void)state;
    server_start(&s);
    memset(request + n, 'x', 1000 - n - 4);
    memcpy(request + 996, "\r\n\r\n", 5);
    assert_int_equal(client_ask(&s, request, a, sizeof a), 200);
    memcpy(request + 996, "x\r\n\r\n", 6);
    assert_int_equal(client_ask(&s, request, a, sizeof a), 431);
    fd = client_open(&s); /* without an end */
    client_send(fd, request, 990);
    usleep(10000);
    client_say(fd, "xxxxxxxxxxxxxxxxxxxxxxx");
    assert_int_equal(client_answer(fd, a, sizeof a), 431);
    close(fd);
    server_stop(&s);
}

static void test_number_of_fields(void **state)
{
    struct server s = {0};
    char request[4096] = "GET /a HTTP/1.1\r\n" H, a[4096];

    (void)state;
    server_start(&s);
    for (int i = 0; i < 99; i++)
        strcat(request, "a:b\r\n");
    strcat(request, "\r\n");
    assert_int_equal(client_ask(&s, request, a, sizeof a), 200);
    strcpy(request + strlen(request) - 2, "a:b\r\n\r\n");
    assert_int_equal(client_ask(&s, request, a, sizeof a), 431);
    server_stop(&s);
}

static uint64_t limit_of(void *self, const char *path)
{
    (void)self;
    return strcmp(path, "/upload") == 0 ? 3000 : strcmp(path, "/little") == 0 ? 10 : 0;
}

static int body_status(const struct server *s, const char *path, int n, int chunked)
{
    char head[256], body[4096], a[4096];
    int fd = client_open(s), status;

    memset(body, 'b', sizeof body);
    snprintf(head, sizeof head, chunked ? "POST %s HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n%x\r\n"
                                        : "POST %s HTTP/1.1\r\n" H "Content-Length: %d\r\n\r\n", path, n);
    client_say(fd, head);
    client_send(fd, body, (size_t)n);
    if (chunked)
        client_say(fd, "\r\n0\r\n\r\n");
    status = client_answer(fd, a, sizeof a);
    close(fd);
    return status;
}

static void test_body_bytes(void **state)
{
    struct server s = {.config = {.body_bytes = 1000, .body_limit = limit_of}};
    char a[4096];
    int fd;

    (void)state;
    server_start(&s);
    for (int chunked = 0; chunked < 2; chunked++) {
        assert_int_equal(body_status(&s, "/a", 1000, chunked), 200);
        assert_int_equal(body_status(&s, "/a", 1001, chunked), 413);
        assert_int_equal(body_status(&s, "/upload?x", 3000, chunked), 200);
        assert_int_equal(body_status(&s, "/upload", 3001, chunked), 413);
        assert_int_equal(body_status(&s, "/little", 11, chunked), 413);
    }
    fd = client_open(&s); /* refused before it is sent */
    client_say(fd, "POST /a HTTP/1.1\r\n" H "Content-Length: 1073741824\r\nExpect: 100-continue\r\n\r\n");
    assert_int_equal(client_answer(fd, a, sizeof a), 413);
    assert_non_null(strstr(a, "\"code\":\"body_too_large\"")); /* a word, as in every other error */
    close(fd);
    server_stop(&s);
}

/* A client that sends 1 GB all the same gets its answer, and the server does not keep it. */
static void test_gigabyte(void **state)
{
    struct server s = {0};
    char a[4096], *piece = calloc(1, 1 << 20);
    int fd;
    size_t n = 0;

    (void)state;
    server_start(&s);
    fd = client_open(&s);
    client_say(fd, "POST /a HTTP/1.1\r\n" H "Content-Length: 1073741824\r\n\r\n");
    for (; n < 1u << 30 && !client_waits(fd, 0); n += 1 << 20)
        if (send(fd, piece, 1 << 20, MSG_NOSIGNAL) <= 0)
            break;
    assert_int_equal(client_answer(fd, a, sizeof a), 413);
    close(fd);
    free(piece);
    assert_int_equal(atomic_load(&s.n_requests), 0);
    server_stop(&s);
}

static void test_continue(void **state)
{
    struct server s = {0};
    char a[4096];
    int fd = -1;

    (void)state;
    server_start(&s);
    fd = client_open(&s);
    client_say(fd, "POST /echo HTTP/1.1\r\n" H "Content-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    assert_int_equal(client_answer(fd, a, sizeof a), 100);
    client_say(fd, "abc");
    assert_int_equal(client_answer(fd, a, sizeof a), 200);
    assert_string_equal(client_body(a), "abc");
    client_say(fd, "POST /echo HTTP/1.1\r\n" H "Content-Length: 3\r\nExpect: 100-continue\r\n\r\nabc");
    assert_int_equal(client_answer(fd, a, sizeof a), 200); /* it did not wait */
    close(fd);
    server_stop(&s);
}

/* ---- time ---- */

static int drip(const struct server *s, const char *request, double seconds_between, int n_max)
{
    int fd = client_open(s), status = 0;
    char a[4096];

    client_say(fd, request);
    for (int i = 0; i < n_max; i++) {
        if (client_waits(fd, (int)(seconds_between * 1000)))
            break;
        client_say(fd, "a");
    }
    if (client_waits(fd, 30000))
        status = client_answer(fd, a, sizeof a);
    close(fd);
    return status;
}

static void test_slow_clients(void **state)
{
    struct server s = {.config = {.header_s = 1, .body_s = 1, .idle_s = 1}};
    char a[256];
    int fd, closed;

    (void)state;
    server_start(&s);
    assert_int_equal(drip(&s, "GET /a HTTP/1.1\r\nX-", 0.2, 100), 408);
    assert_int_equal(drip(&s, "POST /a HTTP/1.1\r\n" H "Content-Length: 1000\r\n\r\n", 0.2, 100), 408);
    assert_int_equal(drip(&s, "POST /a HTTP/1.1\r\n" H "Content-Length: 1000\r\n\r\nabc", 10, 1), 408);
    assert_int_equal(drip(&s, "POST /a HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\nfff\r\n", 0.2, 100), 408);
    fd = client_open(&s); /* says nothing at all: closed, without a word */
    client_read(fd, a, sizeof a, 30000, &closed);
    assert_true(closed);
    assert_string_equal(a, "");
    close(fd);
    assert_int_equal(atomic_load(&s.n_requests), 0);
    server_stop(&s);
}

static void test_connections(void **state)
{
    struct server s = {.config = {.n_connections = 3}};
    struct cabe_http_stats stats;
    char a[4096];
    int fds[3], fd;

    (void)state;
    server_start(&s);
    for (int i = 0; i < 3; i++) {
        fds[i] = client_open(&s);
        client_say(fds[i], "GET / HTTP/1.1\r\n" H "\r\n");
        assert_int_equal(client_answer(fds[i], a, sizeof a), 200);
    }
    fd = client_open(&s);
    client_say(fd, "GET / HTTP/1.1\r\n" H "\r\n");
    assert_int_equal(client_answer(fd, a, sizeof a), 503);
    assert_non_null(strstr(a, "Retry-After: "));
    close(fd);
    cabe_http_stats(s.http, &stats);
    assert_int_equal(stats.n_refused, 1);
    close(fds[0]);
    for (int i = 0; i < 3000 && stats.n_connections > 2; i++) {
        usleep(10000);
        cabe_http_stats(s.http, &stats);
    }
    fds[0] = client_open(&s);
    client_say(fds[0], "GET / HTTP/1.1\r\n" H "\r\n");
    assert_int_equal(client_answer(fds[0], a, sizeof a), 200);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    server_stop(&s);
}

/* ---- memory ---- */

/* One exchange of each kind; whatever fails, the server goes on. */
static void use(struct server *s)
{
    static const char *const requests[] = {
        "GET /a?q=1 HTTP/1.1\r\n" H "\r\n",
        "POST /echo HTTP/1.1\r\n" H "Content-Length: 5\r\n\r\nhello",
        "POST /echo HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "GET /st",
    };
    static const char rest[] = "ream HTTP/1.1\r\n" H "\r\n";
    char a[4096];

    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        int fd = client_open(s), closed;

        (void)!send(fd, requests[i], strlen(requests[i]), MSG_NOSIGNAL);
        if (i == 3) {
            usleep(1000);
            (void)!send(fd, rest, strlen(rest), MSG_NOSIGNAL); /* it may have been dropped */
        }
        shutdown(fd, SHUT_WR);
        client_read(fd, a, sizeof a, 30000, &closed);
        assert_true(closed);
        close(fd);
    }
}

static void stream(struct server *s, struct cabe_http_exchange *x)
{
    size_t n;
    const char *body = cabe_http_body(x, &n);

    (void)s;
    cabe_http_set(x, "X-A", "b");
    if (strcmp(cabe_http_path(x), "/stream") != 0) {
        cabe_http_reply(x, 200, "text/plain", body, n);
        return;
    }
    cabe_http_begin(x, 200, "text/event-stream");
    (void)!cabe_http_send(x, "data: 1\n\n", 9);
    cabe_http_end(x);
}

static void test_no_memory(void **state)
{
    struct server s = {.request = stream};
    struct cabe_http_stats stats;
    char a[4096];
    uint64_t before, n;

    (void)state;
    server_start(&s);
    before = cabe_memory_count();
    use(&s);
    n = cabe_memory_count() - before;
    assert_true(n > 5);
    for (uint64_t i = 1; i <= n + 2; i++) {
        cabe_memory_fail_at(i);
        use(&s);
        cabe_memory_fail_at(0);
        assert_int_equal(client_ask(&s, "GET /a HTTP/1.1\r\n" H "\r\n", a, sizeof a), 200);
    }
    for (int i = 0; i < 3000; i++) {
        cabe_http_stats(s.http, &stats);
        if (stats.n_connections == 0 && stats.n_exchanges == 0)
            break;
        usleep(10000);
    }
    assert_int_equal(stats.n_exchanges, 0);
    server_stop(&s);

    for (uint64_t i = 1;; i++) { /* opening */
        struct cabe_http *http;
        struct cabe_error err;
        enum cabe_status status;

        cabe_memory_fail_at(i);
        status = cabe_http_open(&http, &s.config, &err);
        cabe_memory_fail_at(0);
        if (status == CABE_OK) {
            cabe_http_close(http);
            break;
        }
        assert_int_equal(status, CABE_ERR_OOM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_nul),
        cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_header_bytes),
        cmocka_unit_test(test_number_of_fields),
        cmocka_unit_test(test_body_bytes),
        cmocka_unit_test(test_gigabyte),
        cmocka_unit_test(test_continue),
        cmocka_unit_test(test_slow_clients),
        cmocka_unit_test(test_connections),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
