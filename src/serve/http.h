/*
 * HTTP: one event loop, behind it exchanges that any thread may answer.
 *
 * The loop accepts connections (TCP, TLS, unix socket, sockets handed over by systemd), reads a whole request within
 * limits, and calls request() with an exchange. Whoever has the exchange answers it, at once or later and from any
 * thread: cabe_http_reply() with a whole body, or cabe_http_begin(), cabe_http_send()... and cabe_http_end() for a
 * stream. A client that leaves is noticed at once: gone() is called and sends are refused. One that closes only its
 * sending side counts as gone too, unless its answer is already whole: the two look the same from here.
 *
 * Limits, each answered with its own status: header bytes 431, body bytes 413 (before it is read, where its length is
 * said), a body without a length 411, connections 503, time for the header and body 408; requests that could be read in
 * two ways 400, transfer encodings other than chunked 501. A body may take body_s without a byte, and in all header_s +
 * body_s and a second for each KiB. Unsent bytes of a stream are limited by stream_bytes; a client that takes none of
 * them for body_s is gone.
 *
 * WebSocket: a request that asks for an upgrade is offered to request() too; cabe_http_is_upgrade() says so.
 * cabe_http_begin() with status 101 accepts: from then on cabe_http_send() is one text message, and messages of the
 * client go to message(). Any other answer refuses.
 *
 * Owner: see each function. Thread: cabe_http_run() owns the loop's thread; request(), message() and gone() are called
 * on it and must not wait. Everything on an exchange: any thread, one at a time per exchange, unless stated.
 */
#ifndef CABE_SERVE_HTTP_H
#define CABE_SERVE_HTTP_H

#include <stddef.h>
#include <stdint.h>

#include "base/log.h"
#include "cabe/ledger.h"
#include "cabe/status.h"

struct cabe_http;
struct cabe_http_exchange;

#define CABE_HTTP_LISTEN_MAX 8

struct cabe_http_config {
    const char *host; /* address to listen on; NULL: no TCP */
    int port;         /* 0: one that is free; cabe_http_port() says which */
    const char *unix_path; /* NULL: none; a socket that nobody listens on is replaced */
    const int *fds;        /* listening sockets that exist already (socket activation) */
    int n_fds;
    const char *tls_certificate, *tls_key; /* files; NULL: no TLS. TCP only */
    uint64_t header_bytes; /* of one request; 0: 16 KiB */
    uint64_t body_bytes;   /* of one request; 0: 32 MiB. body_limit() may say less or more for a path */
    uint64_t stream_bytes; /* unsent of one exchange; 0: 1 MiB */
    int n_connections;     /* 0: 4096 */
    unsigned header_s, body_s, idle_s; /* seconds; 0: 10, 60 without a byte, 75 */
    /* Of a path, before the body is read; 0: body_bytes. May be NULL. */
    uint64_t (*body_limit)(void *self, const char *path);
    void (*request)(void *self, struct cabe_http_exchange *exchange);
    void *self;
    struct cabe_ledger *ledger; /* NETWORK; may be NULL */
    struct cabe_log *log;       /* may be NULL */
};

CABE_CHECKED enum cabe_status cabe_http_open(struct cabe_http **out, const struct cabe_http_config *config,
                                             struct cabe_error *err);
/* Every exchange must have been released, or be the loop's alone. NULL is fine. */
void cabe_http_close(struct cabe_http *http);
int cabe_http_port(const struct cabe_http *http); /* 0: no TCP */
/* Serves until cabe_http_stop(). */
CABE_CHECKED enum cabe_status cabe_http_run(struct cabe_http *http, struct cabe_error *err);
/* Stops accepting; connections end when their exchange has; run() returns when none is left or after `seconds`. Any
 * thread, and a signal handler. A second call ends at once. */
void cabe_http_stop(struct cabe_http *http, unsigned seconds);
/* Calls fn(arg) on the loop's thread soon. Any thread. */
CABE_CHECKED enum cabe_status cabe_http_post(struct cabe_http *http, void (*fn)(void *arg), void *arg);
/* Calls fn(self) on the loop's thread about every `ms` until close; at most 8 of them, before run(). */
CABE_CHECKED enum cabe_status cabe_http_every(struct cabe_http *http, unsigned ms, void (*fn)(void *self), void *self);

/* Charges what it holds, and from now on what it will hold, until close; for a ledger that was not there at open. Once,
 * any thread, also while it serves. */
CABE_CHECKED enum cabe_status cabe_http_charge(struct cabe_http *http, struct cabe_ledger *ledger,
                                               struct cabe_error *err);

struct cabe_http_stats {
    uint64_t n_connections, n_accepted, n_refused; /* open now; ever; over the limit */
    uint64_t n_exchanges, n_requests;              /* open now; ever */
    uint64_t bytes_in, bytes_out;
};
void cabe_http_stats(const struct cabe_http *http, struct cabe_http_stats *stats); /* any thread */

/* ---- the request; strings and body live as long as the exchange is held ---- */

enum cabe_http_method {
    CABE_HTTP_GET,
    CABE_HTTP_HEAD,
    CABE_HTTP_POST,
    CABE_HTTP_PUT,
    CABE_HTTP_PATCH,
    CABE_HTTP_DELETE,
    CABE_HTTP_OPTIONS,
    CABE_HTTP_OTHER
};
void *cabe_http_self(const struct cabe_http_exchange *exchange); /* of the configuration */
enum cabe_http_method cabe_http_method(const struct cabe_http_exchange *exchange);
const char *cabe_http_method_name(const struct cabe_http_exchange *exchange);
const char *cabe_http_path(const struct cabe_http_exchange *exchange); /* decoded, begins with '/', no query */
/* A parameter of the query, decoded; NULL: not there. */
const char *cabe_http_query(const struct cabe_http_exchange *exchange, const char *name);
/* A header by its lower-case name, the first where it came more than once; NULL: not there. What must be alone (host,
 * authorization, content-type, origin, lengths) is refused with 400 when it comes twice. */
const char *cabe_http_header(const struct cabe_http_exchange *exchange, const char *name);
const char *cabe_http_body(const struct cabe_http_exchange *exchange, size_t *n_bytes);
const char *cabe_http_peer(const struct cabe_http_exchange *exchange); /* address, or "unix" */
uint64_t cabe_http_started_ns(const struct cabe_http_exchange *exchange); /* cabe_clock_ns() of its first byte */
uint64_t cabe_http_id(const struct cabe_http_exchange *exchange);         /* counts from 1 */
int cabe_http_is_upgrade(const struct cabe_http_exchange *exchange);

/* ---- the answer ---- */

/* Adds a header to the answer, before reply() or begin(). Copied; a value with control characters is left out. */
void cabe_http_set(struct cabe_http_exchange *exchange, const char *name, const char *value);
int cabe_http_is_set(const struct cabe_http_exchange *exchange, const char *name);
/* The whole answer; the body is copied. `type` may be NULL without a body. HEAD sends the header alone. */
void cabe_http_reply(struct cabe_http_exchange *exchange, int status, const char *type, const void *body, size_t n);
/* The beginning of a stream: chunked; an event stream gets the headers that keep proxies from buffering it. */
void cabe_http_begin(struct cabe_http_exchange *exchange, int status, const char *type);
/* CABE_ERR_CANCELLED: the client is gone. CABE_ERR_LIMIT: it reads too slowly, stream_bytes are waiting; nothing of
 * this piece was taken. */
CABE_CHECKED enum cabe_status cabe_http_send(struct cabe_http_exchange *exchange, const void *bytes, size_t n);
void cabe_http_end(struct cabe_http_exchange *exchange);
/* The end of a stream that lacks something: the connection ends without the last chunk, so that it does not look whole. */
void cabe_http_cut(struct cabe_http_exchange *exchange);
size_t cabe_http_unsent(struct cabe_http_exchange *exchange);
int cabe_http_status(const struct cabe_http_exchange *exchange); /* answered with; 0: not yet */

/*
 * Calls gone(self) on the loop's thread when the client leaves before the answer's end; at once, on this thread, when
 * it has already left. One at a time: another call replaces it, NULL takes it back. After the call that takes it back
 * has returned gone() is neither running nor will be called: on another thread it waits for that, so hold no lock there
 * that gone() takes.
 */
void cabe_http_on_gone(struct cabe_http_exchange *exchange, void (*gone)(void *self), void *self);
/* Messages of a WebSocket client, whole, at most 64 KiB. Set before begin(101). */
void cabe_http_on_message(struct cabe_http_exchange *exchange,
                          void (*message)(void *self, const char *text, size_t n), void *self);
/* Calls done(self, exchange) once when the answer has been handed to the system or the client is gone; for metrics and
 * logs, on the loop's thread. */
void cabe_http_on_done(struct cabe_http_exchange *exchange,
                       void (*done)(void *self, struct cabe_http_exchange *exchange), void *self);

/* request() has the exchange until reply() or end(); who uses it after that, or on another thread, holds it. When the last
 * holder lets go of an exchange that has no answer, it is answered 500, or cut off where a stream had begun. */
void cabe_http_hold(struct cabe_http_exchange *exchange);
/* What the one who answers makes of the request, on the ledger until the exchange's end; 0: refused. */
int cabe_http_charge_more(struct cabe_http_exchange *exchange, size_t n);
void cabe_http_release(struct cabe_http_exchange *exchange);

#endif
