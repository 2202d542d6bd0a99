/* Admission by the wait that is foreseen, and time-outs, on a clock that is made up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "serve/service_impl.h"

#define N 400

static struct cabe_service service;
static struct cabe_service_entry entry;
static struct cabe_queue_item items[N];
static int n_items;

static uint64_t at(double seconds)
{
    return (uint64_t)(seconds * 1e9) + UINT64_C(1000000000);
}

/* A model that reads 1,000 tokens a second and writes 500, so that a request of 200 and 100 is 0.4 s of work. */
static int begin(void **state)
{
    (void)state;
    memset(&service, 0, sizeof service);
    memset(&entry, 0, sizeof entry);
    memset(items, 0, sizeof items);
    n_items = 0;
    service.config.first_token_s = 30;
    service.config.stall_s = 30;
    for (int c = 0; c < CABE_N_CLASSES; c++)
        service.config.total_s[c] = 600;
    entry.service = &service;
    entry.kind = 1;
    entry.view.engine.prompt_s = 0.001;
    entry.view.engine.answer_s = 0.002;
    cabe_queue_init(&entry.queue, &(struct cabe_queue_config){.n_max = 256, .tokens_max = 262144});
    return 0;
}

static struct cabe_wait wait_of(enum cabe_class class_, uint64_t key)
{
    return (struct cabe_wait){
        .class_ = class_, .tokens = 200, .work = cabe_wait_work(&entry, 200, 100, 1, 1), .key = key};
}

/* As it would be asked: 1: it waits now. */
static int ask(enum cabe_class class_, uint64_t key, double now, double *retry_s)
{
    struct cabe_wait wait = wait_of(class_, key);
    struct cabe_service_ticket ticket = {.key = key};
    struct cabe_error err;

    cabe_forecast_came(&entry.forecast, class_, wait.work, entry.queue.n, at(now));
    if (cabe_wait_check(&entry, &wait, at(now), retry_s, &err) != CABE_OK) {
        assert_int_equal(err.status, CABE_ERR_LIMIT);
        return 0;
    }
    assert_true(n_items < N);
    assert_int_equal(cabe_queue_push(&entry.queue, &items[n_items], class_, 200, at(now), &err), CABE_OK);
    cabe_wait_begin(&entry, &ticket, 0);
    cabe_queue_weigh(&items[n_items++], wait.work);
    return 1;
}

static void no_prompted(void *self, int32_t choice, const struct cabe_sampled *token, const struct cabe_tokenizer *tokenizer)
{
    (void)self, (void)choice, (void)token, (void)tokenizer;
}

static void work_is_counted(void **state)
{
    struct cabe_service_ask plain = {.max_new = 100, .ignore_end = 1}, scored = {.max_new = -1, .prompted = no_prompted};
    double work;

    (void)state;
    work = cabe_wait_work_ask(&entry, 200, &plain);
    assert_true(work > 0.399 && work < 0.401);
    work = cabe_wait_work_ask(&entry, 200, &scored); /* nothing is written, and each token of the prompt counts as if it were */
    assert_true(work > 0.599 && work < 0.601);
    assert_true(cabe_wait_work(&entry, 200, 100, 1, 1) > 0.399 && cabe_wait_work(&entry, 200, 100, 1, 1) < 0.401);
    assert_true(cabe_wait_work(&entry, 200, 100, 3, 1) > 0.799 && cabe_wait_work(&entry, 200, 100, 3, 1) < 0.801);
    for (int i = 0; i < 100; i++)
        cabe_wait_learn(&entry, 40); /* answers end of themselves */
    assert_true(cabe_wait_work(&entry, 200, 4000, 1, 0) < 0.29);
    assert_true(cabe_wait_work(&entry, 200, 4000, 1, 1) > 8);
    entry.view.context = 2000;
    assert_true(cabe_wait_work(&entry, 1000000, 1, 1, 1) < 2.1); /* it is refused when it has been read */
    assert_true(cabe_wait_left(&entry, 10, 0, 0) == 0);
    assert_true(cabe_wait_left(&entry, 90, 100, 1) == 10);
}

/* One class alone: as many as begin in time. Who is refused is let in when he was told to come, and not much before. */
static void who_is_let_in(void **state)
{
    double retry_s, more_s;
    int n = 0;

    (void)state;
    while (ask(CABE_CLASS_NORMAL, (uint64_t)n + 1, 0, &retry_s))
        n++;
    assert_true(n * 0.4 / 0.8 > 15 && n * 0.4 / 0.8 < 30); /* seconds, as fast as is taken for */
    assert_true(retry_s < 2);
    assert_false(ask(CABE_CLASS_NORMAL, 1000, 0, &retry_s));
    assert_false(ask(CABE_CLASS_NORMAL, 1001, 0, &more_s));
    assert_true(more_s > retry_s);                              /* he is behind that one */
    assert_false(ask(CABE_CLASS_NORMAL, 1001, 0.1, &more_s));   /* too early: what is left of it */
    assert_true(more_s > 0);
    assert_true(ask(CABE_CLASS_CRITICAL, 2000, 0.1, &retry_s)); /* others' weights are their own */
    for (int i = 0; i < 4; i++) {
        cabe_queue_remove(&items[i]);
        cabe_forecast_served(&entry.forecast, 0.4, entry.queue.n, at(0.1 + 0.5 * i));
    }
    assert_true(ask(CABE_CLASS_NORMAL, 1001, 0.1 + more_s, &retry_s));
    assert_int_equal(entry.forecast.n_kept, 1);
    assert_int_equal(entry.forecast.n_broken, 0);
}

/* Nothing is known, or it is an embedder: only the queue's limits count, and Retry-After is a guess. */
static void without_knowledge(void **state)
{
    struct cabe_wait wait;
    double retry_s;

    (void)state;
    entry.view.engine.prompt_s = entry.view.engine.answer_s = 0;
    for (int i = 0; i < 100; i++)
        assert_true(ask(CABE_CLASS_NORMAL, (uint64_t)i, 0, &retry_s));
    wait = wait_of(CABE_CLASS_NORMAL, 1000);
    assert_true(cabe_wait_full(&entry, &wait, at(0)) == 1);
    entry.view.engine.prompt_s = entry.view.engine.answer_s = 0.01;
    entry.kind = 0;
    assert_true(ask(CABE_CLASS_NORMAL, 1000, 0, &retry_s));
}

/* The queue is full: until the excess is done at the rate that was measured. */
static void a_full_queue(void **state)
{
    struct cabe_wait wait;
    double retry_s;

    (void)state;
    entry.queue.config.n_max = 10;
    for (int i = 0; i < 10; i++)
        assert_true(ask(CABE_CLASS_NORMAL, (uint64_t)i + 1, 0, &retry_s));
    for (int i = 0; i < 200; i++)
        cabe_forecast_served(&entry.forecast, 0.4, 10, at(i * 2));
    wait = wait_of(CABE_CLASS_NORMAL, 1000);
    retry_s = cabe_wait_full(&entry, &wait, at(398));
    assert_true(retry_s > 1 && retry_s < 4); /* one ends in two seconds */
}

/* A long prompt that gets on is no stall; one that does not is. */
static void a_prompt_that_gets_on(void **state)
{
    struct cabe_service_ticket ticket = {.service = &service, .entry = &entry, .class_ = CABE_CLASS_NORMAL};
    struct cabe_error err;

    (void)state;
    ticket.admitted_ns = at(0);
    assert_int_equal(cabe_ticket_overdue(&ticket, at(29), &err), CABE_OK);
    assert_int_equal(cabe_ticket_overdue(&ticket, at(31), &err), CABE_ERR_LIMIT);
    ticket.read_ns = at(100);
    assert_int_equal(cabe_ticket_overdue(&ticket, at(129), &err), CABE_OK);
    assert_int_equal(cabe_ticket_overdue(&ticket, at(131), &err), CABE_ERR_LIMIT);
    ticket.read_ns = at(590);
    assert_int_equal(cabe_ticket_overdue(&ticket, at(601), &err), CABE_ERR_LIMIT); /* the cap of its class */
}

/* A step that computes node after node is long, one that does not hangs. */
static void a_long_step(void **state)
{
    (void)state;
    entry.step_ns = at(1);
    assert_true(cabe_host_alive_ns(&entry) == at(1));
    cabe_cancel_alive(&entry.step_cancel, at(40));
    assert_true(cabe_host_alive_ns(&entry) == at(40));
    entry.step_ns = at(41);
    assert_true(cabe_host_alive_ns(&entry) == at(41));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_long_step, begin),
        cmocka_unit_test_setup(work_is_counted, begin), cmocka_unit_test_setup(who_is_let_in, begin),
        cmocka_unit_test_setup(without_knowledge, begin), cmocka_unit_test_setup(a_full_queue, begin),
        cmocka_unit_test_setup(a_prompt_that_gets_on, begin)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
