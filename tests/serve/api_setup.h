/* A sink that keeps what was written, and a service that a test plays by hand. */
#ifndef CABE_TESTS_API_SETUP_H
#define CABE_TESTS_API_SETUP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "serve/api_impl.h"

struct recorder {
    struct api_text text;
    int status, n_begun, n_ended, n_released, n_refused;
    enum cabe_status send; /* what sending answers */
    size_t charged, room; /* taken from the budget; what there is, 0: enough */
    struct api_fault fault;
};

static void record_begin(void *self, const char *type)
{
    struct recorder *r = (struct recorder *)self;

    assert_non_null(type);
    r->n_begun++;
}

static enum cabe_status record_send(void *self, const void *bytes, size_t n)
{
    struct recorder *r = (struct recorder *)self;

    if (r->send == CABE_OK)
        api_put(&r->text, (const char *)bytes, n);
    return r->send;
}

static void record_end(void *self)
{
    ((struct recorder *)self)->n_ended++;
}

static void record_reply(void *self, const char *type, const void *bytes, size_t n)
{
    struct recorder *r = (struct recorder *)self;

    assert_string_equal(type, "application/json");
    r->status = 200;
    api_put(&r->text, (const char *)bytes, n);
}

static void record_refuse(void *self, const struct api_fault *fault, const struct cabe_error *err,
                          const struct cabe_service_refusal *refusal)
{
    struct recorder *r = (struct recorder *)self;

    (void)err;
    (void)refusal;
    r->n_refused++;
    r->status = fault->status;
    r->fault = *fault;
}

static int record_charge(void *self, size_t n)
{
    struct recorder *r = (struct recorder *)self;

    if (r->room && n > r->room - r->charged)
        return 0;
    r->charged += n;
    return 1;
}

static void record_release(void *self, struct api_answer *answer)
{
    (void)answer;
    ((struct recorder *)self)->n_released++;
}

static struct api_sink recorder_sink(struct recorder *r)
{
    return (struct api_sink){.self = r,
                             .begin = record_begin,
                             .send = record_send,
                             .end = record_end,
                             .reply = record_reply,
                             .refuse = record_refuse,
                             .charge = record_charge,
                             .release = record_release};
}

/* ---- the service ---- */

#define ASKED_MAX 32

static struct {
    struct cabe_service_ask ask[ASKED_MAX];
    int n, n_cancelled;
    enum cabe_status refuse; /* what asking answers */
} played;

enum cabe_status cabe_service_ask(struct cabe_service *service, const struct cabe_service_ask *ask,
                                  struct cabe_service_ticket **ticket, struct cabe_service_refusal *refusal,
                                  struct cabe_error *err)
{
    (void)service;
    if (played.refuse != CABE_OK) {
        refusal->retry_after_s = 2;
        return cabe_fail(err, played.refuse, "refused");
    }
    assert_true(played.n < ASKED_MAX);
    played.ask[played.n++] = *ask;
    *ticket = (struct cabe_service_ticket *)&played.ask[played.n - 1];
    return CABE_OK;
}

void cabe_service_cancel(struct cabe_service *service, struct cabe_service_ticket *ticket)
{
    (void)service;
    assert_non_null(ticket);
    played.n_cancelled++;
}

/* Reads a request of `json`; the fault has status 0 when it is fine. */
static void read_request(struct api_request *request, const char *json, api_reader *read, struct api_fault *fault)
{
    json_error_t why;
    json_t *body = json_loads(json, 0, &why);

    if (!body)
        print_message("%s: %s\n", json, why.text);
    assert_non_null(body);
    memset(fault, 0, sizeof *fault);
    api_request_init(request, body);
    read(request, fault);
    if (fault->status)
        assert_true(fault->text[0] && fault->code);
}

/* An answer that has been asked for; the service's side is played.ask[]. */
static struct api_answer *ask_for(struct recorder *r, const char *json, api_reader *read, const struct api_form *form)
{
    struct api_request request;
    struct api_fault fault;
    struct api_sink sink = recorder_sink(r);
    struct api_answer *answer;

    memset(&played, 0, sizeof played);
    memset(r, 0, sizeof *r);
    read_request(&request, json, read, &fault);
    if (fault.status)
        print_message("%s: %s\n", json, fault.text);
    assert_int_equal(fault.status, 0);
    answer = api_answer_open(&request, form, &sink, "test-");
    assert_non_null(answer);
    api_answer_ask(answer, NULL);
    return answer;
}

static inline void expect_fault(const char *json, api_reader *read, const char *param, const char *words)
{
    struct api_request request;
    struct api_fault fault;

    read_request(&request, json, read, &fault);
    if (fault.status != 400 || strcmp(fault.param, param) != 0 || !strstr(fault.text, words))
        print_message("%s: %d %s: %s\n", json, fault.status, fault.param, fault.text);
    assert_int_equal(fault.status, 400);
    assert_string_equal(fault.param, param);
    assert_non_null(strstr(fault.text, words));
    api_request_clear(&request);
}

static inline void close_answer(struct recorder *r, struct api_answer *answer)
{
    api_text_clear(&r->text);
    api_answer_release(answer);
}

static void say(int part, int choice, const char *text)
{
    struct cabe_service_ask *ask = &played.ask[part];

    ask->text(ask->self, choice, text, strlen(text), NULL, NULL);
}

/* The end of one prompt's answers: every choice finished, then all of it. */
static void conclude_part(int part, enum cabe_service_finish finish)
{
    struct cabe_service_ask *ask = &played.ask[part];
    const struct cabe_service_counts counts = {.n_prompt = 7, .n_cached = 4, .n_new = 3, .load_s = 0.5};

    for (int32_t i = 0; i < ask->n_choices; i++)
        ask->finished(ask->self, i, finish);
    ask->ended(ask->self, CABE_OK, NULL, &counts);
}

static void start_part(int part)
{
    const struct cabe_service_counts counts = {.n_prompt = 7, .n_cached = 4};

    played.ask[part].started(played.ask[part].self, &counts);
}

/* The nth event or line of a stream that is JSON; NULL: there is none. */
static json_t *nth_json(const struct recorder *r, int nth)
{
    const char *at = r->text.bytes, *end = at + r->text.n;

    while (at && at < end) {
        const char *line_end = (const char *)memchr(at, '\n', (size_t)(end - at));
        const char *from = strncmp(at, "data: ", 6) == 0 ? at + 6 : at;
        json_t *json;

        assert_non_null(line_end);
        json = *from == '{' ? json_loadb(from, (size_t)(line_end - from), 0, NULL) : NULL;
        if (*from == '{')
            assert_non_null(json);
        if (json && nth-- == 0)
            return json;
        json_decref(json);
        at = line_end + 1;
    }
    return NULL;
}

static int has(const struct recorder *r, const char *words)
{
    return r->text.n > 0 && memmem(r->text.bytes, r->text.n, words, strlen(words)) != NULL;
}

static json_t *whole_json(const struct recorder *r)
{
    json_error_t why;
    json_t *json = json_loadb(r->text.bytes ? r->text.bytes : "", r->text.n, 0, &why);

    if (!json)
        print_message("%.*s: %s\n", (int)r->text.n, r->text.bytes, why.text);
    assert_non_null(json);
    return json;
}

/* A field by path: "choices.0.message.content". */
static json_t *at(const json_t *json, const char *path)
{
    char copy[200], *part, *rest = copy;

    snprintf(copy, sizeof copy, "%s", path);
    while (json && (part = strsep(&rest, ".")) != NULL)
        json = *part >= '0' && *part <= '9' ? json_array_get(json, (size_t)atoi(part)) : json_object_get(json, part);
    return (json_t *)(uintptr_t)json;
}

#define assert_text(json, path, text) assert_string_equal(json_string_value(at(json, path)), text)
#define assert_number(json, path, n) assert_int_equal(json_integer_value(at(json, path)), n)

#endif
