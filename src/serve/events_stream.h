/*
 * A stream of named events to one client: server-sent events, lines of JSON, or WebSocket messages.
 *
 * Data is JSON on one line. What a client sees of one event:
 *     server-sent events   "event: NAME", "id: N" where there is a number, "data: DATA"
 *     lines, messages      {"event": NAME, "id": N, "data": DATA}
 *
 * Owner: who begins it ends it. Thread: put and end one at a time.
 */
#ifndef CABE_SERVE_EVENTS_STREAM_H
#define CABE_SERVE_EVENTS_STREAM_H

#include <jansson.h>
#include <stdatomic.h>

#include "serve/http.h"

enum cabe_stream_form { CABE_STREAM_EVENTS, CABE_STREAM_LINES, CABE_STREAM_SOCKET };

struct cabe_stream {
    struct cabe_http_exchange *exchange;
    enum cabe_stream_form form;
    atomic_int gone;           /* the client has left */
    void (*left)(void *self); /* then called, on the loop's thread; must not wait. NULL: none */
    void *self;
};

/* What the client asked for: an upgrade, "Accept: application/x-ndjson", or otherwise server-sent events. */
enum cabe_stream_form cabe_stream_wanted(const struct cabe_http_exchange *exchange);
/* Answers 200 (or 101) and holds the exchange. `stream` stays where it is until the end. */
void cabe_stream_begin(struct cabe_stream *stream, struct cabe_http_exchange *exchange, enum cabe_stream_form form,
                       void (*left)(void *self), void *self);
/* `data` as one line of JSON, to be freed with cabe_free(); NULL without memory. The reference stays the caller's. */
char *cabe_stream_line(const json_t *data);
/* `id` 0: none. As cabe_http_send(). CABE_ERR_OOM: nothing was sent. */
CABE_CHECKED enum cabe_status cabe_stream_put(struct cabe_stream *stream, uint64_t id, const char *event,
                                              const char *data);
/* Something to keep proxies from closing a silent connection. */
CABE_CHECKED enum cabe_status cabe_stream_beat(struct cabe_stream *stream);
/* After it has returned `left` is neither running nor will be called. A zeroed stream is fine. */
void cabe_stream_end(struct cabe_stream *stream);

#endif
