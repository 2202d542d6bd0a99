/*
 * News for who listens: /v1/events as server-sent events and as a WebSocket. Samples of memory and queues, loads and
 * unloads, jobs, slow operations.
 *
 * The last events are kept for listeners that come back (Last-Event-ID). A listener that reads too slowly is dropped.
 *
 * Thread: every function from any thread.
 */
#ifndef CABE_SERVE_EVENTS_H
#define CABE_SERVE_EVENTS_H

#include "serve/server.h"

CABE_CHECKED enum cabe_status cabe_events_open(struct cabe_events **out, struct cabe_server *server,
                                               struct cabe_error *err);
void cabe_events_close(struct cabe_events *events); /* NULL is fine */
/* Takes the reference to `data`, an object; it gets a "time" (Unix, seconds) if it has none. */
void cabe_events_publish(struct cabe_events *events, const char *event, json_t *data);
size_t cabe_events_n_listeners(struct cabe_events *events);

#endif
