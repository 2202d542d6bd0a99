/*
 * The bytes of a connection, through the real server: once whole, once in pieces. Both must be the same requests.
 *
 * Input: a byte that chooses the pieces, then what the client sends. A request to /ws becomes a WebSocket.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/http_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INPUT_MAX 65536

struct seen {
    uint64_t hash;
    int n_requests, n_messages;
};

static struct seen *seen;

static void note(const void *bytes, size_t n)
{
    const uint8_t *b = bytes;

    for (size_t i = 0; i < n; i++)
        seen->hash = (seen->hash ^ b[i]) * 0x100000001b3u;
    seen->hash = (seen->hash ^ 0x100 ^ n) * 0x100000001b3u;
}

static void note_text(const char *text)
{
    note(text, strlen(text));
}

static void must(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "http fuzz: %s\n", what);
        abort();
    }
}

static void message(void *self, const char *text, size_t n)
{
    (void)self;
    must(n <= CABE_HTTP_MESSAGE_MAX && text[n] == '\0', "a message's end");
    seen->n_messages++;
    note(text, n);
}

/* Whoever has not ended the answer ends it when the client has gone. */
static void gone(void *self)
{
    cabe_http_end(self);
}

static void request(void *self, struct cabe_http_exchange *x)
{
    const char *length = cabe_http_header(x, "content-length"), *path = cabe_http_path(x);
    size_t n;
    const char *body = cabe_http_body(x, &n);

    (void)self;
    seen->n_requests++;
    must(path[0] == '/', "a path's beginning");
    must(!strstr(path, "/../"), "a path that climbs");
    must(!length || strtoull(length, NULL, 10) == n, "a body's length");
    must(!length || !cabe_http_header(x, "transfer-encoding"), "two lengths");
    note_text(cabe_http_method_name(x));
    note_text(path);
    note(body, n);
    for (uint32_t i = 0; i < x->n_fields; i++) {
        const char *name = x->text + x->fields[i].name, *value = x->text + x->fields[i].value;

        must(*name && !strpbrk(name, " \t\r\n:") && !strpbrk(value, "\r\n"), "a field");
        note_text(name);
        note_text(value);
        must(cabe_http_header(x, name) != NULL, "a field's name");
    }
    if (cabe_http_query(x, "q"))
        note_text(cabe_http_query(x, "q"));
    if (cabe_http_is_upgrade(x) && strcmp(path, "/ws") == 0) {
        cabe_http_on_message(x, message, NULL);
        cabe_http_on_gone(x, gone, x);
        cabe_http_begin(x, 101, NULL);
        if (cabe_http_send(x, "hello", 5) != CABE_OK)
            cabe_http_end(x);
    } else if (strcmp(path, "/stream") == 0) {
        cabe_http_begin(x, 200, "text/event-stream");
        (void)!cabe_http_send(x, "data: 1\n\n", 9);
        cabe_http_end(x);
    } else {
        cabe_http_reply(x, 200, "text/plain", body, n < 100 ? n : 100);
    }
}

static void drain(int fd)
{
    static char thrown[65536];

    while (recv(fd, thrown, sizeof thrown, MSG_DONTWAIT) > 0)
        ;
}

static void converse(struct cabe_http *http, const uint8_t *data, size_t size, unsigned seed)
{
    int pair[2];
    size_t at = 0;

    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0, "a pair of sockets");
    must(cabe_http_adopt(http, pair[0], "fuzz", 0) != NULL, "a connection");
    for (unsigned turn = 0; http->connections; turn++) {
        size_t piece = size - at;
        ssize_t put;

        if (seed > 0 && turn < 200) {
            seed = seed * 1103515245u + 12345u;
            piece = 1 + (seed >> 16) % (turn % 3 ? 7 : 300);
            piece = piece < size - at ? piece : size - at;
        }
        put = piece > 0 ? send(pair[1], data + at, piece, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
        if (put > 0)
            at += (size_t)put;
        if (at == size || (put < 0 && errno == EPIPE))
            shutdown(pair[1], SHUT_WR);
        cabe_http_turn(http, 0);
        drain(pair[1]);
        must(turn < 100000, "it hangs");
    }
    close(pair[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct cabe_http *http;
    struct seen whole = {0}, pieces = {0};
    struct cabe_http_config config = {
        .request = request, .header_bytes = 2048, .body_bytes = 8192, .n_connections = 4};

    if (!http)
        must(cabe_http_open(&http, &config, NULL) == CABE_OK, "open");
    if (size < 1 || size > INPUT_MAX)
        return 0;
    seen = &whole;
    converse(http, data + 1, size - 1, 0);
    seen = &pieces;
    converse(http, data + 1, size - 1, 1u + data[0]);
    must(whole.hash == pieces.hash && whole.n_requests == pieces.n_requests, "pieces make a difference");
    return 0;
}
