#include "serve/events.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/process.h"
#include "machine/pressure.h"
#include "serve/events_stream.h"
#include "serve/metrics.h"

#define KEPT_MAX 256                     /* events for listeners that come back */
#define KEPT_BYTES (UINT64_C(256) << 10) /* their text */
#define LISTENERS_MAX 256
#define BEAT_S 15
#define TYPES_MAX 256

struct kept {
    uint64_t id;
    char event[64];
    char *data;
    size_t bytes;
};

struct listener {
    struct cabe_stream stream;
    char types[TYPES_MAX]; /* ",job,sample,": those that are wanted; "": all */
    uint64_t said_ns;      /* when something was last sent */
    struct listener *next;
};

struct cabe_events {
    struct cabe_server *server;
    pthread_mutex_t lock; /* of everything below; held while events are handed to the loop, which does not wait */
    struct kept kept[KEPT_MAX];
    size_t n_kept, first; /* a ring */
    uint64_t kept_bytes, last_id;
    struct listener *listeners;
    size_t n_listeners;
};

/* ---- what listeners want ---- */

static int wants(const struct listener *listener, const char *event)
{
    char name[72];

    if (!listener->types[0])
        return 1;
    snprintf(name, sizeof name, ",%.64s,", event);
    return strstr(listener->types, name) != NULL;
}

static void drop(struct cabe_events *events, struct listener **at)
{
    struct listener *listener = *at;

    *at = listener->next;
    events->n_listeners--;
    cabe_stream_end(&listener->stream);
    cabe_free(listener);
}

/* To all who want it; who has left or reads too slowly is dropped. Under the lock. */
static void tell(struct cabe_events *events, uint64_t id, const char *event, const char *data)
{
    uint64_t now = cabe_clock_ns();

    for (struct listener **at = &events->listeners; *at;) {
        struct listener *listener = *at;
        enum cabe_status status = CABE_OK;

        if (wants(listener, event)) {
            status = cabe_stream_put(&listener->stream, id, event, data);
            listener->said_ns = now;
        } else if (now - listener->said_ns > BEAT_S * UINT64_C(1000000000)) {
            status = cabe_stream_beat(&listener->stream);
            listener->said_ns = now;
        } else if (atomic_load_explicit(&listener->stream.gone, memory_order_relaxed)) {
            status = CABE_ERR_CANCELLED;
        }
        if (status == CABE_OK || status == CABE_ERR_OOM)
            at = &listener->next;
        else
            drop(events, at);
    }
}

static void forget_first(struct cabe_events *events)
{
    struct kept *kept = &events->kept[events->first];

    events->kept_bytes -= kept->bytes;
    cabe_free(kept->data);
    memset(kept, 0, sizeof *kept);
    events->first = (events->first + 1) % KEPT_MAX;
    events->n_kept--;
}

/* Takes `data`. Under the lock. */
static void keep(struct cabe_events *events, uint64_t id, const char *event, char *data)
{
    size_t bytes = strlen(data) + 1;
    struct kept *kept;

    if (bytes > KEPT_BYTES) {
        cabe_free(data);
        return;
    }
    while (events->n_kept == KEPT_MAX || events->kept_bytes + bytes > KEPT_BYTES)
        forget_first(events);
    kept = &events->kept[(events->first + events->n_kept++) % KEPT_MAX];
    kept->id = id;
    snprintf(kept->event, sizeof kept->event, "%s", event);
    kept->data = data;
    kept->bytes = bytes;
    events->kept_bytes += bytes;
}

static double now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)(now.tv_nsec / 1000000) / 1e3;
}

void cabe_events_publish(struct cabe_events *events, const char *event, json_t *data)
{
    int is_sample = strcmp(event, "sample") == 0; /* the next one replaces it: not kept */
    char *text;
    uint64_t id = 0;

    if (!events) {
        json_decref(data);
        return;
    }
    if (json_is_object(data) && !json_object_get(data, "time"))
        json_object_set_new(data, "time", json_real(now_s()));
    text = cabe_stream_line(data);
    json_decref(data);
    if (!text)
        return;
    pthread_mutex_lock(&events->lock);
    if (!is_sample)
        id = ++events->last_id;
    tell(events, id, event, text);
    if (is_sample)
        cabe_free(text);
    else
        keep(events, id, event, text);
    pthread_mutex_unlock(&events->lock);
}

size_t cabe_events_n_listeners(struct cabe_events *events)
{
    size_t n = 0;

    if (events) {
        pthread_mutex_lock(&events->lock);
        n = events->n_listeners;
        pthread_mutex_unlock(&events->lock);
    }
    return n;
}

/* ---- news of the service ---- */

/* What memory is like around a load, in the log and as news, under the names that the documents give. */
static void memory_event(struct cabe_events *events, const char *when, const char *model)
{
    struct cabe_pressure_meter meter = {0};
    struct cabe_planned planned = {0};
    struct cabe_pressure pressure;
    struct cabe_rss rss = {0};
    char event[64];
    json_t *fields;

    (void)cabe_rss_read(&rss);
    cabe_pressure_read(&pressure, &meter, &planned, NULL);
    snprintf(event, sizeof event, "memory_usage_%s_model_load", when);
    fields = json_pack("{s:o,s:f,s:f}", "model", cabe_json_text(model, strlen(model)), "rss_gb",
                       (double)rss.rss_bytes / 1073741824.0, "available_gb",
                       (double)pressure.available_bytes / 1073741824.0);
    cabe_log_fields(events->server->log, CABE_LOG_INFO, event, fields);
    cabe_events_publish(events, event, fields);
}

static void on_service(void *self, enum cabe_service_event event, const char *model, double seconds)
{
    static const char *const names[] = {"model_loading",  "model_loaded", "model_load_failed",
                                        "model_unloaded", "preempted",    "timed_out"};
    struct cabe_events *events = self;

    if ((unsigned)event >= sizeof names / sizeof *names)
        return;
    if (event == CABE_SERVICE_EVENT_LOADING)
        memory_event(events, "before", model);
    if (event == CABE_SERVICE_EVENT_LOADED) {
        memory_event(events, "after", model);
        cabe_metrics_operation(events->server->metrics, "load", model, seconds);
    }
    cabe_events_publish(events, names[event], json_pack("{s:s,s:f}", "model", model, "seconds", seconds));
}

/* ---- open, close ---- */

enum cabe_status cabe_events_open(struct cabe_events **out, struct cabe_server *server, struct cabe_error *err)
{
    struct cabe_events *events = cabe_calloc(1, sizeof *events);

    *out = NULL;
    if (!events)
        return cabe_fail(err, CABE_ERR_OOM, "events");
    events->server = server;
    pthread_mutex_init(&events->lock, NULL);
    if (server->service)
        cabe_service_on_event(server->service, on_service, events);
    *out = events;
    return CABE_OK;
}

void cabe_events_close(struct cabe_events *events)
{
    if (!events)
        return;
    pthread_mutex_lock(&events->lock); /* the service, which would call us, is closed by now */
    while (events->listeners)
        drop(events, &events->listeners);
    while (events->n_kept)
        forget_first(events);
    pthread_mutex_unlock(&events->lock);
    pthread_mutex_destroy(&events->lock);
    cabe_free(events);
}

/* ---- /v1/events ---- */

/* Where a listener was: header Last-Event-ID, or ?since= for those who cannot set it. */
static int since(const struct cabe_http_exchange *exchange, uint64_t *id)
{
    const char *text = cabe_http_header(exchange, "last-event-id");
    char *end;

    if (!text)
        text = cabe_http_query(exchange, "since");
    if (!text || text[0] < '0' || text[0] > '9')
        return 0;
    *id = strtoull(text, &end, 10);
    return *end == '\0';
}

static void replay(struct cabe_events *events, struct listener *listener, uint64_t after)
{
    /* A number from before a restart says nothing about us: all that is kept is news then. */
    if (after > events->last_id)
        after = 0;
    for (size_t i = 0; i < events->n_kept; i++) {
        const struct kept *kept = &events->kept[(events->first + i) % KEPT_MAX];

        if (kept->id > after && wants(listener, kept->event) &&
            cabe_stream_put(&listener->stream, kept->id, kept->event, kept->data) != CABE_OK)
            return; /* the next event finds out why */
    }
}

static void get_events(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail)
{
    struct cabe_events *events = server->events;
    const char *types = cabe_http_query(exchange, "types");
    struct listener *listener = cabe_calloc(1, sizeof *listener);
    uint64_t after = 0;

    (void)tail;
    if (!listener) {
        cabe_reply_no_memory(exchange, "a listener");
        return;
    }
    if (types && snprintf(listener->types, sizeof listener->types, ",%s,", types) >= (int)sizeof listener->types) {
        cabe_free(listener);
        cabe_reply_error(exchange, 400, "too_long", "types", "types: longer than %d characters", TYPES_MAX);
        return;
    }
    pthread_mutex_lock(&events->lock);
    if (events->n_listeners >= LISTENERS_MAX) {
        pthread_mutex_unlock(&events->lock);
        cabe_free(listener);
        cabe_reply_error(exchange, 503, "busy", NULL, "%d listeners are here already", LISTENERS_MAX);
        return;
    }
    listener->said_ns = cabe_clock_ns();
    cabe_stream_begin(&listener->stream, exchange,
                      cabe_http_is_upgrade(exchange) ? CABE_STREAM_SOCKET : cabe_stream_wanted(exchange), NULL, NULL);
    listener->next = events->listeners;
    events->listeners = listener;
    events->n_listeners++;
    if (since(exchange, &after))
        replay(events, listener, after);
    else if (cabe_stream_beat(&listener->stream) != CABE_OK)
        drop(events, &events->listeners);
    pthread_mutex_unlock(&events->lock);
}

const struct cabe_route cabe_event_routes[] = {
    {CABE_HTTP_GET, "/v1/events", get_events, 0,
     "news: samples of memory and queues, loads, jobs, slow operations; a stream, or a WebSocket"},
    {0, NULL, NULL, 0, NULL},
};
