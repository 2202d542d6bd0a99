/* WebSocket (RFC 6455): the handshake, messages both ways, and frames that are refused. */
#include "http_fixture.h"

#define ASK                                                                                                            \
    "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"                         \
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

static struct cabe_http_exchange *_Atomic socket_of_test;
static atomic_int n_messages;
static size_t last_length;

/* "?": a long answer; "end": the end; anything else comes back. */
static void message(void *self, const char *text, size_t n)
{
    struct cabe_http_exchange *x = self;
    static char large[70000];

    last_length = n;
    atomic_fetch_add(&n_messages, 1);
    if (n == 1 && text[0] == '?') {
        memset(large, 'l', sizeof large);
        assert_int_equal(cabe_http_send(x, large, sizeof large), CABE_OK);
    } else if (n == 3 && memcmp(text, "end", 3) == 0) {
        cabe_http_end(x);
    } else {
        assert_int_equal(cabe_http_send(x, text, n), CABE_OK);
    }
}

static void request(struct server *s, struct cabe_http_exchange *x)
{
    if (!cabe_http_is_upgrade(x) || strcmp(cabe_http_path(x), "/ws") != 0) {
        reply_text(x, 404, "no");
        return;
    }
    cabe_http_hold(x);
    cabe_http_on_message(x, message, x);
    cabe_http_on_gone(x, server_gone, s);
    cabe_http_begin(x, 101, NULL);
    atomic_store(&socket_of_test, x);
}

static size_t frame(char *out, int first, const void *payload, size_t n)
{
    static const uint8_t mask[4] = {1, 2, 3, 250};
    size_t at = 2;

    out[0] = (char)first;
    out[1] = (char)(0x80 | (n < 126 ? n : n < 65536 ? 126 : 127));
    if (n >= 65536)
        for (int i = 56; i >= 16; i -= 8)
            out[at++] = (char)((uint64_t)n >> i);
    if (n >= 126) {
        out[at++] = (char)(n >> 8);
        out[at++] = (char)n;
    }
    memcpy(out + at, mask, 4);
    at += 4;
    for (size_t i = 0; i < n; i++)
        out[at + i] = (char)(((const uint8_t *)payload)[i] ^ mask[i & 3]);
    return at + n;
}

static void say(int fd, int first, const void *payload, size_t n)
{
    static char out[200000];

    client_send(fd, out, frame(out, first, payload, n));
}

static void receive(int fd, void *out, size_t n)
{
    size_t got = 0;

    while (got < n) {
        ssize_t more = client_waits(fd, 30000) ? recv(fd, (char *)out + got, n - got, 0) : 0;

        if (more <= 0)
            fail_msg("the server said nothing more, %zu of %zu bytes", got, n);
        got += (size_t)more;
    }
}

/* A frame of the server: its first byte; the payload into `out`. */
static int hear(int fd, char *out, size_t *n)
{
    uint8_t head[10];

    receive(fd, head, 2);
    assert_int_equal(head[1] & 0x80, 0);
    *n = head[1];
    if (head[1] == 126) {
        receive(fd, head + 2, 2);
        *n = (size_t)head[2] << 8 | head[3];
    } else if (head[1] == 127) {
        receive(fd, head + 2, 8);
        *n = (size_t)head[7] << 16 | (size_t)head[8] << 8 | head[9];
    }
    receive(fd, out, *n);
    out[*n] = '\0';
    return head[0];
}

static int open_socket(struct server *s)
{
    char a[4096];
    int fd = client_open(s);

    client_say(fd, ASK);
    assert_int_equal(client_answer(fd, a, sizeof a), 101);
    assert_non_null(strstr(a, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")); /* RFC 6455, 1.3 */
    assert_null(strstr(a, "Transfer-Encoding"));
    return fd;
}

static struct cabe_http_exchange *its_exchange(void)
{
    for (int i = 0; i < 30000 && !atomic_load(&socket_of_test); i++)
        usleep(1000);
    return atomic_exchange(&socket_of_test, NULL);
}

static void test_messages(void **state)
{
    struct server s = {.request = request};
    struct cabe_http_exchange *x;
    static char in[80000], out[80000];
    size_t n;
    int fd, closed;

    (void)state;
    server_start(&s);
    fd = open_socket(&s);
    x = its_exchange();
    say(fd, 0x81, "hello", 5);
    assert_int_equal(hear(fd, in, &n), 0x81);
    assert_string_equal(in, "hello");
    say(fd, 0x81, "", 0);
    assert_int_equal(hear(fd, in, &n), 0x81);
    assert_int_equal(n, 0);
    say(fd, 0x01, "in \xC3", 4); /* in pieces, a ping between, a character cut in two */
    say(fd, 0x89, "ping", 4);
    say(fd, 0x00, "", 0);
    say(fd, 0x8A, "a pong", 6);
    say(fd, 0x80, "\xA1", 1);
    assert_int_equal(hear(fd, in, &n), 0x8A);
    assert_string_equal(in, "ping");
    assert_int_equal(hear(fd, in, &n), 0x81);
    assert_string_equal(in, "in \xC3\xA1");
    memset(out, 'm', 65536);
    for (size_t length = 125; length <= 65536; length = length == 125 ? 126 : length == 126 ? 65535 : length + 1) {
        say(fd, 0x81, out, length);
        assert_int_equal(hear(fd, in, &n), 0x81);
        assert_int_equal(n, length);
        assert_memory_equal(in, out, length);
    }
    say(fd, 0x81, "?", 1);
    assert_int_equal(hear(fd, in, &n), 0x81);
    assert_int_equal(n, 70000);
    assert_int_equal(cabe_http_send(x, "from another thread", 19), CABE_OK);
    assert_int_equal(hear(fd, in, &n), 0x81);
    assert_string_equal(in, "from another thread");
    say(fd, 0x88, "\x03\xE9", 2); /* going away: answered, and gone() */
    assert_int_equal(hear(fd, in, &n), 0x88);
    assert_memory_equal(in, "\x03\xE9", 2);
    assert_true(becomes(&s.n_gone, 1));
    assert_int_equal(cabe_http_send(x, "x", 1), CABE_ERR_CANCELLED);
    client_read(fd, in, sizeof in, 30000, &closed);
    assert_true(closed);
    close(fd);
    cabe_http_end(x);
    cabe_http_release(x);

    fd = open_socket(&s); /* ended by the server */
    x = its_exchange();
    say(fd, 0x81, "end", 3);
    assert_int_equal(hear(fd, in, &n), 0x88);
    assert_memory_equal(in, "\x03\xE8", 2);
    close(fd);
    cabe_http_release(x);
    server_stop(&s);
}

/* A message in the same bytes as the handshake; one byte at a time. */
static void test_bytes_in_any_piece(void **state)
{
    struct server s = {.request = request};
    struct cabe_http_exchange *x;
    char all[1024], in[1024];
    size_t n = strlen(ASK);
    int fd;

    (void)state;
    memcpy(all, ASK, n);
    n += frame(all + n, 0x81, "first", 5);
    n += frame(all + n, 0x81, "second", 6);
    server_start(&s);
    for (int pieces = 0; pieces < 2; pieces++) {
        fd = client_open(&s);
        for (size_t at = 0; at < n; at += pieces ? 1 : n) {
            client_send(fd, all + at, pieces ? 1 : n);
            if (pieces)
                usleep(100);
        }
        assert_int_equal(client_answer(fd, in, sizeof in), 101);
        hear(fd, in, &n);
        assert_string_equal(in, "first");
        hear(fd, in, &n);
        assert_string_equal(in, "second");
        n = strlen(ASK) + 2 * 6 + 11;
        close(fd);
        x = its_exchange();
        assert_true(becomes(&s.n_gone, pieces + 1));
        cabe_http_end(x);
        cabe_http_release(x);
    }
    server_stop(&s);
}

static void test_refused_frames(void **state)
{
    static char large[70000];
    static const struct {
        int code, first;
        const char *payload;
        size_t n;
    } cases[] = {
        {1003, 0x82, "binary", 6},       {1002, 0xC1, "reserved", 8}, {1002, 0x83, "kind", 4}, {1002, 0x8B, "kind", 4},
        {1002, 0x80, "goes on", 7},      {1007, 0x81, "\xC3(", 2},    {1002, 0x09, "ping", 4}, {1002, 0x88, "\x03", 1},
        {1002, 0x88, "\x00\x01", 2},     {1007, 0x81, "\xED\xA0\x80", 3}, {1009, 0x81, large, 65537},
        {1002, 0x89, large, 126},        {1002, 0x88, "\x03\xEE", 2}, {1002, 0x88, "\x03\xE8\xFF", 3},
    };
    struct server s = {.request = request};
    char in[256];
    size_t n;

    (void)state;
    server_start(&s);
    atomic_store(&n_messages, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int fd = open_socket(&s);
        struct cabe_http_exchange *x = its_exchange();

        say(fd, cases[i].first, cases[i].payload, cases[i].n);
        assert_int_equal(hear(fd, in, &n), 0x88);
        assert_int_equal((uint8_t)in[0] << 8 | (uint8_t)in[1], cases[i].code);
        assert_true(becomes(&s.n_gone, (int)i + 1));
        cabe_http_end(x);
        cabe_http_release(x);
        close(fd);
    }
    {
        int fd = open_socket(&s); /* not masked */
        struct cabe_http_exchange *x = its_exchange();

        client_send(fd, "\x81\x02hi", 4);
        assert_int_equal(hear(fd, in, &n), 0x88);
        cabe_http_release(x); /* without an end of its own */
        close(fd);
    }
    {
        int fd = open_socket(&s); /* fragments that add up to too much */
        struct cabe_http_exchange *x = its_exchange();

        say(fd, 0x01, large, 60000);
        say(fd, 0x80, large, 60000);
        assert_int_equal(hear(fd, in, &n), 0x88);
        assert_int_equal((uint8_t)in[0] << 8 | (uint8_t)in[1], 1009);
        cabe_http_release(x);
        close(fd);
    }
    assert_int_equal(atomic_load(&n_messages), 0);
    server_stop(&s);
}

static void test_refused_upgrade(void **state)
{
    struct server s = {.request = request};
    char request_text[] = ASK, a[4096];

    (void)state;
    server_start(&s);
    memcpy(request_text, "GET /no", 7);
    assert_int_equal(client_ask(&s, request_text, a, sizeof a), 404);
    server_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_bytes_in_any_piece),
        cmocka_unit_test(test_refused_frames),
        cmocka_unit_test(test_refused_upgrade),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
