#include "serve/events.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/memory.h"
#include "fakes.h"

void cabe_service_on_event(struct cabe_service *service,
                           void (*event)(void *self, enum cabe_service_event event, const char *model, double seconds),
                           void *self);
static void (*told)(void *self, enum cabe_service_event event, const char *model, double seconds);
static void *told_self;

void cabe_service_on_event(struct cabe_service *service,
                           void (*event)(void *self, enum cabe_service_event event, const char *model, double seconds),
                           void *self)
{
    (void)service;
    told = event;
    told_self = self;
}

void cabe_metrics_operation(struct cabe_metrics *metrics, const char *name, const char *detail, double seconds);
void cabe_metrics_operation(struct cabe_metrics *metrics, const char *name, const char *detail, double seconds)
{
    (void)metrics;
    (void)detail;
    (void)seconds;
    assert_string_equal(name, "load");
}

static struct cabe_server server = {.service = (struct cabe_service *)&server};

static struct cabe_events *open_events(void)
{
    assert_int_equal(cabe_events_open(&server.events, &server, NULL), CABE_OK);
    return server.events;
}

static void listen(struct cabe_http_exchange *x)
{
    fake_call(&server, cabe_event_routes, x, CABE_HTTP_GET, "/v1/events");
}

static void has(struct cabe_http_exchange *x, const char *text)
{
    char *sent = fake_sent(x);

    if (!strstr(sent, text))
        fail_msg("'%s' is not in '%s'", text, sent);
    free(sent);
}

static void has_not(struct cabe_http_exchange *x, const char *text)
{
    char *sent = fake_sent(x);

    if (strstr(sent, text))
        fail_msg("'%s' is in '%s'", text, sent);
    free(sent);
}

static void test_listeners_hear(void **state)
{
    struct cabe_events *events = open_events();
    struct cabe_http_exchange all, some, lines, socket;

    (void)state;
    fake_open(&all);
    fake_open(&some);
    fake_open(&lines);
    fake_open(&socket);
    some.query[0] = "types";
    some.query[1] = "job,slow";
    lines.headers[0] = "accept";
    lines.headers[1] = "application/x-ndjson";
    socket.is_upgrade = 1;
    listen(&all);
    listen(&some);
    listen(&lines);
    listen(&socket);
    assert_int_equal(cabe_events_n_listeners(events), 4);
    assert_int_equal(all.status, 200);
    assert_int_equal(socket.status, 101);
    assert_string_equal(all.type, "text/event-stream");
    cabe_events_publish(events, "job", json_pack("{s:s,s:i}", "id", "a", "time", 5));
    cabe_events_publish(events, "sample", json_pack("{s:i,s:i}", "x", 1, "time", 5));
    told(told_self, CABE_SERVICE_EVENT_LOADED, "m", 1.5);
    has(&all, "event: job\nid: 1\ndata: {\"id\":\"a\",\"time\":5}\n\n");
    has(&all, "event: sample\ndata: {\"x\":1,\"time\":5}\n\n");
    has(&all, "event: model_loaded\n");
    has(&all, "event: memory_usage_after_model_load\n");
    has(&all, "\"rss_gb\":");
    has(&some, "event: job\n");
    has_not(&some, "sample");
    has(&lines, "{\"event\":\"job\",\"id\":1,\"data\":{\"id\":\"a\",\"time\":5}}\n");
    has(&socket, "{\"event\":\"sample\",\"data\":{\"x\":1,\"time\":5}}");
    cabe_events_close(events);
    assert_int_equal(all.n_holds, 0);
    assert_true(all.is_ended && some.is_ended && lines.is_ended && socket.is_ended);
    fake_close(&all);
    fake_close(&some);
    fake_close(&lines);
    fake_close(&socket);
}

static void test_who_comes_back_misses_nothing(void **state)
{
    struct cabe_events *events = open_events();
    struct cabe_http_exchange x;
    char text[32];

    (void)state;
    for (int i = 1; i <= 300; i++)
        cabe_events_publish(events, "job", json_pack("{s:i,s:i}", "n", i, "time", 5));
    fake_open(&x);
    x.headers[0] = "last-event-id";
    x.headers[1] = "298";
    listen(&x);
    has_not(&x, "{\"n\":298,");
    has(&x, "id: 299\ndata: {\"n\":299,");
    has(&x, "{\"n\":300,");
    cabe_events_publish(events, "job", json_pack("{s:i,s:i}", "n", 301, "time", 5));
    has(&x, "id: 301\n");
    fake_leave(&x);
    cabe_events_publish(events, "job", json_pack("{}"));
    assert_int_equal(cabe_events_n_listeners(events), 0);
    fake_close(&x);

    /* From before a restart: all that is kept, the last 256. */
    fake_open(&x);
    x.headers[0] = "last-event-id";
    x.headers[1] = "100000";
    listen(&x);
    has_not(&x, "\"n\":40,");
    snprintf(text, sizeof text, "{\"n\":%d,", 60);
    has(&x, text);
    cabe_events_close(events);
    fake_close(&x);
}

static void test_the_slow_and_the_gone_are_dropped(void **state)
{
    struct cabe_events *events = open_events();
    struct cabe_http_exchange slow, gone;

    (void)state;
    fake_open(&slow);
    fake_open(&gone);
    listen(&slow);
    listen(&gone);
    slow.is_slow = 1;
    fake_leave(&gone);
    cabe_events_publish(events, "job", json_pack("{}"));
    assert_int_equal(cabe_events_n_listeners(events), 0);
    assert_true(slow.is_ended && gone.is_ended);
    assert_int_equal(slow.n_holds + gone.n_holds, 0);
    fake_close(&slow);
    fake_close(&gone);
    fake_open(&gone);
    gone.is_gone = 1; /* before it was answered */
    listen(&gone);
    assert_int_equal(cabe_events_n_listeners(events), 0);
    fake_close(&gone);
    cabe_events_close(events);
}

static void test_limits(void **state)
{
    struct cabe_events *events = open_events();
    static struct cabe_http_exchange many[260];
    int n_refused = 0;
    char *big = malloc(300000);

    (void)state;
    for (int i = 0; i < 260; i++) {
        fake_open(&many[i]);
        listen(&many[i]);
        n_refused += many[i].status == 503;
    }
    assert_int_equal(n_refused, 4);
    memset(big, 'x', 299999);
    big[299999] = '\0';
    cabe_events_publish(events, "big", json_pack("{s:s}", "x", big)); /* told, but too large to be kept */
    assert_true(many[0].n_sent > 299999);
    free(big);
    cabe_events_close(events);
    for (int i = 0; i < 260; i++)
        fake_close(&many[i]);
    cabe_events_publish(NULL, "job", json_pack("{}")); /* before there is a server */
}

static void test_without_memory(void **state)
{
    (void)state;
    for (uint64_t n = 1; n < 12; n++) {
        struct cabe_http_exchange x;

        server.events = NULL;
        fake_open(&x);
        cabe_memory_fail_at(n);
        if (cabe_events_open(&server.events, &server, NULL) == CABE_OK) {
            listen(&x);
            cabe_events_publish(server.events, "job", json_pack("{}"));
            cabe_events_publish(server.events, "job", json_pack("{}"));
        }
        cabe_memory_fail_at(0);
        cabe_events_close(server.events);
        assert_int_equal(x.n_holds, 0);
        fake_close(&x);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_listeners_hear),
        cmocka_unit_test(test_who_comes_back_misses_nothing),
        cmocka_unit_test(test_the_slow_and_the_gone_are_dropped),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_without_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
