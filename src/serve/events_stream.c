#include "serve/events_stream.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

#define HEAD_MAX 160 /* what surrounds the data */

enum cabe_stream_form cabe_stream_wanted(const struct cabe_http_exchange *exchange)
{
    const char *accept = cabe_http_header(exchange, "accept");

    if (cabe_http_is_upgrade(exchange))
        return CABE_STREAM_SOCKET;
    if (accept && (strstr(accept, "application/x-ndjson") || strstr(accept, "application/jsonl")))
        return CABE_STREAM_LINES;
    return CABE_STREAM_EVENTS;
}

static void client_left(void *self)
{
    struct cabe_stream *stream = self;

    atomic_store_explicit(&stream->gone, 1, memory_order_relaxed); /* only the wish to stop; carries no data */
    if (stream->left)
        stream->left(stream->self);
}

void cabe_stream_begin(struct cabe_stream *stream, struct cabe_http_exchange *exchange, enum cabe_stream_form form,
                       void (*left)(void *self), void *self)
{
    *stream = (struct cabe_stream){.exchange = exchange, .form = form, .left = left, .self = self};
    cabe_http_hold(exchange);
    if (form == CABE_STREAM_SOCKET)
        cabe_http_begin(exchange, 101, NULL);
    else
        cabe_http_begin(exchange, 200, form == CABE_STREAM_LINES ? "application/x-ndjson" : "text/event-stream");
    cabe_http_on_gone(exchange, client_left, stream);
}

char *cabe_stream_line(const json_t *data)
{
    size_t n = data ? json_dumpb(data, NULL, 0, JSON_COMPACT) : 0;
    char *text = n ? cabe_malloc(n + 1) : NULL;

    if (text)
        text[json_dumpb(data, text, n, JSON_COMPACT)] = '\0';
    return text;
}

enum cabe_status cabe_stream_put(struct cabe_stream *stream, uint64_t id, const char *event, const char *data)
{
    size_t n = strlen(data), room = n + HEAD_MAX;
    enum cabe_status status;
    char *text, number[32] = "";
    int length;

    if (atomic_load_explicit(&stream->gone, memory_order_relaxed))
        return CABE_ERR_CANCELLED;
    text = cabe_malloc(room);
    if (!text)
        return CABE_ERR_OOM;
    if (stream->form == CABE_STREAM_EVENTS) {
        if (id)
            snprintf(number, sizeof number, "id: %" PRIu64 "\n", id);
        length = snprintf(text, room, "event: %.64s\n%sdata: %s\n\n", event, number, data);
    } else {
        if (id)
            snprintf(number, sizeof number, "\"id\":%" PRIu64 ",", id);
        length = snprintf(text, room, "{\"event\":\"%.64s\",%s\"data\":%s}%s", event, number, data,
                          stream->form == CABE_STREAM_LINES ? "\n" : "");
    }
    status = cabe_http_send(stream->exchange, text, (size_t)length);
    cabe_free(text);
    return status;
}

enum cabe_status cabe_stream_beat(struct cabe_stream *stream)
{
    if (atomic_load_explicit(&stream->gone, memory_order_relaxed))
        return CABE_ERR_CANCELLED;
    if (stream->form == CABE_STREAM_EVENTS)
        return cabe_http_send(stream->exchange, ": beat\n\n", 8);
    if (stream->form == CABE_STREAM_LINES)
        return cabe_http_send(stream->exchange, "\n", 1);
    return cabe_http_send(stream->exchange, "{\"event\":\"beat\"}", 16);
}

void cabe_stream_end(struct cabe_stream *stream)
{
    if (!stream->exchange)
        return;
    cabe_http_on_gone(stream->exchange, NULL, NULL);
    cabe_http_end(stream->exchange);
    cabe_http_release(stream->exchange);
    stream->exchange = NULL;
}
