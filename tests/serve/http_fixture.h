/* A server on its own thread, a client that writes bytes and reads answers. */
#ifndef CABE_TESTS_HTTP_FIXTURE_H
#define CABE_TESTS_HTTP_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "serve/http.h"

struct server {
    struct cabe_http *http;
    struct cabe_http_config config;
    pthread_t thread;
    int port;
    atomic_int n_requests, n_gone, n_done, last_status;
    void (*request)(struct server *server, struct cabe_http_exchange *exchange);
    struct cabe_http_exchange *_Atomic kept; /* of /keep, held */
};

static inline void *server_main(void *arg)
{
    struct server *s = arg;

    assert_int_equal(cabe_http_run(s->http, NULL), CABE_OK);
    return NULL;
}

static inline void server_gone(void *self)
{
    atomic_fetch_add(&((struct server *)self)->n_gone, 1);
}

static inline void server_done(void *self, struct cabe_http_exchange *exchange)
{
    struct server *s = self;

    atomic_store(&s->last_status, cabe_http_status(exchange));
    atomic_fetch_add(&s->n_done, 1);
}

static inline void reply_text(struct cabe_http_exchange *x, int status, const char *text)
{
    cabe_http_reply(x, status, "text/plain", text, strlen(text));
}

/* /echo: the body; /keep: held for the test; anything else: method, path, query "q", length of the body. */
static inline void server_request(void *self, struct cabe_http_exchange *x)
{
    struct server *s = self;
    const char *path = cabe_http_path(x);
    size_t n;
    const char *body = cabe_http_body(x, &n);
    char text[256];

    atomic_fetch_add(&s->n_requests, 1);
    cabe_http_on_done(x, server_done, s);
    if (s->request) {
        s->request(s, x);
    } else if (strcmp(path, "/echo") == 0) {
        cabe_http_reply(x, 200, "application/octet-stream", body, n);
    } else if (strcmp(path, "/keep") == 0) {
        cabe_http_hold(x);
        cabe_http_on_gone(x, server_gone, s);
        atomic_store(&s->kept, x);
    } else {
        const char *q = cabe_http_query(x, "q");

        snprintf(text, sizeof text, "%s %.64s q=%.32s %zu\n", cabe_http_method_name(x), path, q ? q : "-", n);
        reply_text(x, 200, text);
    }
}

static inline void server_open(struct server *s)
{
    struct cabe_error err = {0};

    s->config.host = s->config.host || s->config.unix_path || s->config.n_fds ? s->config.host : "127.0.0.1";
    s->config.request = server_request;
    s->config.self = s;
    if (cabe_http_open(&s->http, &s->config, &err) != CABE_OK)
        fail_msg("%s", err.text);
    s->port = cabe_http_port(s->http);
}

static inline void server_start(struct server *s)
{
    server_open(s);
    assert_int_equal(pthread_create(&s->thread, NULL, server_main, s), 0);
}

static inline void server_stop(struct server *s)
{
    cabe_http_stop(s->http, 0);
    assert_int_equal(pthread_join(s->thread, NULL), 0);
    cabe_http_close(s->http);
}

/* ---- the client ---- */

static inline int client_open(const struct server *s)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)s->port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static inline void client_send(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t put = send(fd, bytes, n, MSG_NOSIGNAL);

        assert_true(put > 0);
        bytes += put;
        n -= (size_t)put;
    }
}

static inline void client_say(int fd, const char *text)
{
    client_send(fd, text, strlen(text));
}

/* 1: something can be read, or the end has come, within `ms`. */
static inline int client_waits(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, ms) == 1;
}

/* What comes until the end, or until nothing came for `ms`; NUL behind it. *closed: the server ended it. */
static inline size_t client_read(int fd, char *out, size_t size, int ms, int *closed)
{
    size_t n = 0;

    *closed = 0;
    while (n + 1 < size && client_waits(fd, ms)) {
        ssize_t got = recv(fd, out + n, size - 1 - n, 0);

        if (got <= 0) {
            *closed = 1;
            break;
        }
        n += (size_t)got;
    }
    out[n] = '\0';
    return n;
}

/* One whole answer with Content-Length, no more; its status. */
static inline int client_answer(int fd, char *out, size_t size)
{
    size_t n = 0, want = SIZE_MAX;

    while (n < want && n + 1 < size) {
        ssize_t got;
        char *end;

        if (!client_waits(fd, 30000))
            fail_msg("no answer within 30 s");
        got = recv(fd, out + n, want == SIZE_MAX ? 1 : want - n, 0);
        if (got <= 0)
            return 0;
        n += (size_t)got;
        out[n] = '\0';
        end = want == SIZE_MAX ? strstr(out, "\r\n\r\n") : NULL;
        if (end) {
            const char *length = strstr(out, "Content-Length: ");

            want = (size_t)(end + 4 - out) + (length ? strtoul(length + 16, NULL, 10) : 0);
        }
    }
    return atoi(out + 9);
}

static inline const char *client_body(const char *answer)
{
    const char *end = strstr(answer, "\r\n\r\n");

    return end ? end + 4 : "";
}

/* One request on a connection of its own; the status, 0 where there was no answer. */
static inline int client_ask(const struct server *s, const char *request, char *out, size_t size)
{
    int fd = client_open(s), closed;

    client_say(fd, request);
    shutdown(fd, SHUT_WR);
    client_read(fd, out, size, 30000, &closed);
    close(fd);
    return strncmp(out, "HTTP/1.1 ", 9) == 0 ? atoi(out + 9) : 0;
}

/* Waits until *value is `wanted`, at most 30 s. */
static inline int becomes(atomic_int *value, int wanted)
{
    for (int i = 0; i < 30000 && atomic_load(value) != wanted; i++)
        usleep(1000);
    return atomic_load(value) == wanted;
}

static inline struct cabe_http_exchange *kept(struct server *s)
{
    for (int i = 0; i < 30000 && !atomic_load(&s->kept); i++)
        usleep(1000);
    assert_non_null(atomic_load(&s->kept));
    return atomic_exchange(&s->kept, NULL);
}

#endif
