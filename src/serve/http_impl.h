/*
 * Inside of the HTTP server: what its files share.
 *
 *     http.c             the loop, listening sockets, wake-ups from other threads, timers, the account of bytes
 *     http_connection.c  a connection: bytes in, requests out, time limits
 *     http_exchange.c    a request and its answer, from any thread
 *     http_websocket.c   frames of a WebSocket
 *     http_tls.c         TLS by OpenSSL
 *     http_parse.c       bytes of HTTP/1.1
 *
 * Everything of a connection belongs to the loop's thread. What other threads may touch is in the exchange, under its
 * lock, or in the loop's inbox, under the inbox's. Locks are taken in the order exchange, inbox or gone_lock; no
 * callback is called under one.
 */
#ifndef CABE_SERVE_HTTP_IMPL_H
#define CABE_SERVE_HTTP_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "serve/http.h"
#include "serve/http_parse.h"

struct ssl_st;
struct ssl_ctx_st;

#define CABE_HTTP_SCRATCH (64u << 10) /* one read; of the loop, not of a connection */
#define CABE_HTTP_MESSAGE_MAX (64u << 10) /* of a WebSocket's client */
#define CABE_HTTP_TIMERS_MAX 8
/* A refused client may still be sending; it must not lose the answer. Without a byte, and in all. */
#define CABE_HTTP_LINGER_NS 2000000000u
#define CABE_HTTP_LINGER_MOST_NS 30000000000u
#define CABE_HTTP_REFUSED_MAX 64 /* connections over the limit that are told so; further ones are just closed */

/* Bytes that grow and are charged. */
struct cabe_http_bytes {
    char *data;
    size_t n, size;
};

enum cabe_http_kind { CABE_HTTP_WAKE, CABE_HTTP_LISTENER, CABE_HTTP_CONNECTION };

struct cabe_http_listener {
    enum cabe_http_kind kind; /* first: what epoll points at */
    int fd;
    int is_ours; /* closed and, for a path, unlinked by us */
    int is_tls, is_unix;
};

enum cabe_http_state {
    CABE_HTTP_STATE_TLS,    /* shaking hands */
    CABE_HTTP_STATE_HEAD,   /* waiting for a request, or in the middle of its head */
    CABE_HTTP_STATE_BODY,   /* of a stated length */
    CABE_HTTP_STATE_CHUNKS, /* chunked */
    CABE_HTTP_STATE_ANSWER, /* the request is with its handler, or its answer on its way */
    CABE_HTTP_STATE_SOCKET, /* a WebSocket */
    CABE_HTTP_STATE_LINGER, /* told and shut; what still comes is thrown away */
    CABE_HTTP_STATE_DEAD
};

struct cabe_http_connection {
    enum cabe_http_kind kind; /* first: what epoll points at */
    int fd;
    struct cabe_http *http;
    struct cabe_http_connection *next, *previous; /* all that are open; `next` also of the dead */
    struct ssl_st *tls;
    enum cabe_http_state state;
    uint32_t events; /* asked of epoll */
    int eof, blocked; /* the client sends no more; the system takes no more */
    int is_refused;   /* over the limit of connections */
    int tls_wants_write;
    struct cabe_http_bytes in; /* what could not be used yet */
    size_t scanned;            /* of it, for the end of a head */
    uint64_t first_ns;         /* first byte of this request; 0: none yet. Beginning of the lingering */
    uint64_t deadline_ns;      /* 0: none */
    struct cabe_http_exchange *exchange; /* from a whole head to the end of its answer */
    struct cabe_http_chunks chunks;
    struct cabe_http_bytes message; /* of a WebSocket, until it is whole */
    int message_open;
    char peer[48];
};

struct cabe_http_exchange {
    atomic_int refs; /* connection, answer that is due, inbox, holders */
    struct cabe_http *http;
    struct cabe_http_connection *connection; /* of the loop's thread; NULL: gone or done */
    struct cabe_http_exchange *next;         /* in the inbox, under its lock; then the loop's */
    int is_queued;                           /* under the inbox's lock */

    uint64_t id, started_ns;
    enum cabe_http_method method;
    int minor, keep_alive, is_upgrade;
    int announced;     /* request() has been called */
    int is_websocket;  /* loop: frames, not chunks */
    uint32_t method_name, path, query, key, n_fields;
    size_t n_query; /* bytes of the decoded query: name NUL value NUL ... */
    size_t n_charged;
    uint64_t body_max;
    struct cabe_http_bytes body;
    char peer[48];

    pthread_mutex_t lock;
    struct cabe_http_bytes out;   /* bytes for the client, [sent, n) waiting */
    size_t sent;
    struct cabe_http_bytes extra; /* header lines of the answer */
    int status;                   /* 0: not answered yet */
    int ended, left, broken, finished;
    int unsaid;                   /* the answer's head found no memory: the connection says 503 without any */
    int chunked, bodiless;
    int n_holds, was_held;
    void (*gone)(void *self);
    void *gone_self;
    void (*message)(void *self, const char *text, size_t n);
    void *message_self;
    void (*done)(void *self, struct cabe_http_exchange *exchange);
    void *done_self;

    char *text;                     /* head, then the decoded query */
    struct cabe_http_field fields[]; /* then the text */
};

struct cabe_http_post {
    struct cabe_http_post *next;
    void (*fn)(void *arg);
    void *arg;
};

struct cabe_http_timer {
    void (*fn)(void *self);
    void *self;
    uint64_t every_ns, next_ns;
};

struct cabe_http {
    struct cabe_http_config config; /* with defaults filled in; strings are not kept, see below */
    int epoll;
    struct {
        enum cabe_http_kind kind; /* first */
        int fd;                   /* an eventfd, edge-triggered: never read */
    } wake;
    struct cabe_http_listener listeners[2 * CABE_HTTP_LISTEN_MAX];
    int n_listeners, port;
    uint64_t accept_again_ns; /* after the system had no descriptor left */
    char *unix_path;
    struct ssl_ctx_st *tls;
    void *tls_io; /* how OpenSSL reaches a socket */

    struct cabe_http_connection *connections, *dead;
    struct cabe_http_exchange *serving; /* request() is being called with it */
    int n_connections, n_refused; /* within the limit; over it and being told */
    uint64_t now_ns, next_sweep_ns;
    uint64_t n_ids;
    char *scratch;
    struct cabe_http_timer timers[CABE_HTTP_TIMERS_MAX];
    int n_timers;
    uint64_t stop_ns; /* 0: not stopping */

    atomic_int stop_calls;
    atomic_uint stop_seconds;

    pthread_mutex_t inbox_lock;
    struct cabe_http_exchange *ready, **ready_end;
    struct cabe_http_post *posts, **posts_end;
    int signalled, ended; /* the loop has been woken; it has ended for good */

    pthread_mutex_t gone_lock; /* around the call of gone() */
    pthread_cond_t gone_over;
    struct cabe_http_exchange *gone_of;

    /* Counts that any thread reads. Relaxed: they order nothing. */
    atomic_uint_fast64_t open_connections, accepted, refused, open_exchanges, requests, bytes_in, bytes_out;

    /* The account: what is held is at most what the ledger granted. */
    _Atomic(struct cabe_ledger *) ledger; /* NULL: only counted */
    atomic_uint_fast64_t used, reserved;
    pthread_mutex_t account_lock;
};

/* ---- http.c ---- */

/* Charges `n` bytes; 0: refused. */
int cabe_http_take(struct cabe_http *http, size_t n);
void cabe_http_give(struct cabe_http *http, size_t n);
/* Room for `extra` more bytes, charged; 0: refused, and nothing has changed. */
int cabe_http_bytes_room(struct cabe_http *http, struct cabe_http_bytes *bytes, size_t extra);
int cabe_http_bytes_add(struct cabe_http *http, struct cabe_http_bytes *bytes, const void *data, size_t n);
void cabe_http_bytes_free(struct cabe_http *http, struct cabe_http_bytes *bytes);
/* The loop looks at this exchange soon; 0: it has ended and never will. Any thread. */
int cabe_http_wake_for(struct cabe_http_exchange *exchange);
int cabe_http_on_loop(const struct cabe_http *http); /* 1: this is the loop's thread */
/* Serves a connected socket, which it takes, also when it fails. For the loop's thread, tests and fuzzing. */
struct cabe_http_connection *cabe_http_adopt(struct cabe_http *http, int fd, const char *peer, int is_tls);
/* One turn of the loop, waiting at most `ms` (-1: until something happens). For run(), tests and fuzzing. */
void cabe_http_turn(struct cabe_http *http, int ms);

/* ---- http_listen.c ---- */

CABE_CHECKED enum cabe_status cabe_http_listen(struct cabe_http *http, struct cabe_error *err);
void cabe_http_listen_close(struct cabe_http *http);
void cabe_http_accept(struct cabe_http *http, struct cabe_http_listener *listener);
void cabe_http_accept_again(struct cabe_http *http); /* after a pause for want of descriptors */

/* ---- http_connection.c ---- */

void cabe_http_connection_event(struct cabe_http_connection *connection, uint32_t events);
/* Its exchange has something to send, or the loop stops: goes on as far as it can. */
void cabe_http_connection_go_on(struct cabe_http_connection *connection);
void cabe_http_connection_check_time(struct cabe_http_connection *connection);
/* Ends it now: its exchange learns that the client is gone. It is freed at the end of the turn. */
void cabe_http_connection_drop(struct cabe_http_connection *connection);
/* Answers what could not become an exchange, and closes. */
void cabe_http_connection_refuse(struct cabe_http_connection *connection, int status);
/* > 0, 0 at the end, -EAGAIN, or another negative errno: it is lost. */
ssize_t cabe_http_connection_read(struct cabe_http_connection *connection, void *bytes, size_t n);
ssize_t cabe_http_connection_write(struct cabe_http_connection *connection, const void *bytes, size_t n);

/* ---- http_exchange.c ---- */

const char *cabe_http_reason(int status);
/* An exchange of a head that was read; NULL: no memory. The text of the head is copied. */
struct cabe_http_exchange *cabe_http_exchange_new(struct cabe_http_connection *connection,
                                                  const struct cabe_http_head *head, const char *text, size_t n);
void cabe_http_exchange_unref(struct cabe_http_exchange *exchange);
/* Loop: a message of a WebSocket's client. */
void cabe_http_exchange_message(struct cabe_http_exchange *exchange, const char *text, size_t n);
/* Puts a control frame behind what waits; 0: no memory, or too much waits already. */
int cabe_http_exchange_frame(struct cabe_http_exchange *exchange, int opcode, const char *bytes, size_t n);
int cabe_http_exchange_has_ended(struct cabe_http_exchange *exchange); /* the answer is whole, if not yet out */
/* Whether it has become a WebSocket. */
int cabe_http_exchange_is_socket(struct cabe_http_exchange *exchange);
/* Sends what waits: 0 nothing waits, 1 the system takes no more, -1 the connection is lost, 2 the answer is out,
 * 3 there is an answer, but no memory to say it. */
int cabe_http_exchange_flush(struct cabe_http_exchange *exchange);
/* Loop: takes the exchange off its connection; tells gone(), if the answer has not ended, and done(). */
void cabe_http_exchange_detach(struct cabe_http_exchange *exchange);
/* Loop: done() that came late, holders that let go without an answer. */
void cabe_http_exchange_attend(struct cabe_http_exchange *exchange);

/* ---- http_websocket.c ---- */

/* Sec-WebSocket-Accept of a key: 28 characters and NUL. */
void cabe_http_websocket_accept(const char *key, char out[32]);
/* Writes the beginning of a frame of the server; at most 10 bytes. */
size_t cabe_http_websocket_frame(char *out, int opcode, size_t n);
/* Reads frames: how many bytes were used; *over: the connection is to end. Messages are handed on. */
size_t cabe_http_websocket_read(struct cabe_http_connection *connection, char *bytes, size_t n, int *over);

enum { CABE_HTTP_TEXT = 1, CABE_HTTP_BINARY = 2, CABE_HTTP_CLOSE = 8, CABE_HTTP_PING = 9, CABE_HTTP_PONG = 10 };

/* ---- http_tls.c ---- */

CABE_CHECKED enum cabe_status cabe_http_tls_open(struct cabe_http *http, const char *certificate, const char *key,
                                                 struct cabe_error *err);
void cabe_http_tls_close(struct cabe_http *http);
int cabe_http_tls_begin(struct cabe_http_connection *connection); /* 0: no memory */
int cabe_http_tls_shake(struct cabe_http_connection *connection); /* 1: done, -EAGAIN, or lost */
ssize_t cabe_http_tls_read(struct cabe_http_connection *connection, void *bytes, size_t n);
ssize_t cabe_http_tls_write(struct cabe_http_connection *connection, const void *bytes, size_t n);
void cabe_http_tls_end(struct cabe_http_connection *connection, int politely);

#endif
