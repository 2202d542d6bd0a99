/*
 * Models that come and go in the service: those that nobody asks for any more, those that take turns, those that are
 * usually asked for next, and those that are planned beside one in use.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "serve/service_impl.h"
#include "service_setup.h"

#define FIRST "qwen3-f32.gguf"
#define SECOND "mixed-tied.gguf"
#define EMBEDDER "bert-mean-f32.gguf"
#define PATIENCE_S 120 /* of waiting for what comes in a moment, on any machine */

static const char *const models[] = {FIRST, SECOND, EMBEDDER};

static struct cabe_error err;

static void begin(struct fixture *f, uint64_t memory, const struct cabe_service_config *wishes)
{
    if (!open_fixture(f, memory, wishes, &err) || !add_golden(f, models, sizeof models / sizeof models[0], &err))
        fail_msg("%s", err.text);
}

static void must_answer(struct fixture *f, const char *model);
static void must_unload(struct fixture *f, const char *model);
static struct cabe_service_model view_of(struct fixture *f, const char *model);

/* What the first two are with all the room they want and their copies there; the last model on the way. */
static void measure(const struct cabe_service_config *wishes, struct cabe_service_model alone[2])
{
    struct fixture f;

    begin(&f, enough(), wishes);
    for (int i = 0; i < 2; i++) {
        must_answer(&f, models[i]);
        must_unload(&f, models[i]);
        must_answer(&f, models[i]);
        alone[i] = view_of(&f, models[i]);
        must_unload(&f, models[i]);
    }
    assert_int_equal(close_fixture(&f), 0);
}

/* Copies are made, so that from here on models are as they were measured. */
static void make_copies(struct fixture *f)
{
    for (int i = 0; i < 2; i++) {
        must_answer(f, models[i]);
        must_unload(f, models[i]);
    }
}

static void must_answer_for(struct fixture *f, const char *model, double keep_alive_s)
{
    struct cabe_service_ask wish;
    struct asked a;

    asked_init(&a);
    wish = prompt_of(&a, model, "once there was a model that wrote", 5);
    wish.ignore_end = 1;
    wish.keep_alive_s = keep_alive_s;
    if (cabe_service_ask(f->service, &wish, &a.ticket, NULL, &err) != CABE_OK)
        fail_msg("%s: %s", model, err.text);
    if (!ends_within(&a, PATIENCE_S))
        fail_msg("%s: never answered", model);
    if (a.status != CABE_OK)
        fail_msg("%s: %s", model, a.err.text);
    assert_int_equal(a.counts.n_new, 5);
    asked_clear(&a);
}

static void must_answer(struct fixture *f, const char *model)
{
    must_answer_for(f, model, NAN);
}

static struct cabe_service_model view_of(struct fixture *f, const char *model)
{
    struct cabe_service_model view;

    assert_int_equal(cabe_service_model(f->service, model, &view, &err), CABE_OK);
    return view;
}

static void until_state(struct fixture *f, const char *model, enum cabe_service_state state)
{
    for (int i = 0; i < PATIENCE_S * 200 && view_of(f, model).state != state; i++)
        usleep(5000);
    if (view_of(f, model).state != state)
        fail_msg("%s: state %d, wanted %d", model, (int)view_of(f, model).state, (int)state);
}

static void must_unload(struct fixture *f, const char *model)
{
    enum cabe_status status = cabe_service_unload(f->service, model, &err);

    if (status != CABE_OK && status != CABE_ERR_NOT_FOUND)
        fail_msg("%s: %s", model, err.text);
    assert_int_equal(view_of(f, model).state, CABE_SERVICE_ABSENT);
}

static uint64_t held(const struct fixture *f)
{
    struct cabe_ledger_view view;

    cabe_ledger_read(f->session->ledger, &view);
    return view.device[CABE_HOST].used_bytes - f->session->process_bytes;
}

/* ---- keep-alive ---- */

static void test_idle_ones_go(void **state)
{
    struct cabe_service_config config = {.kv = -1, .dtype = -1, .keep_alive_s = 0.05};
    struct cabe_service_stats stats;
    struct fixture f;

    (void)state;
    begin(&f, enough(), &config);
    assert_int_equal(cabe_service_pin(f.service, SECOND, 1, &err), CABE_OK);
    make_copies(&f);
    must_answer(&f, SECOND); /* older, and of the same keep-alive: only its pin keeps it */
    must_answer(&f, FIRST);
    until_state(&f, FIRST, CABE_SERVICE_ABSENT);
    assert_int_equal(view_of(&f, SECOND).state, CABE_SERVICE_READY);
    assert_int_equal(held(&f), view_of(&f, SECOND).bytes);
    must_answer(&f, FIRST); /* and comes back */
    assert_int_equal(view_of(&f, FIRST).n_loads, 3);
    assert_int_equal(cabe_service_pin(f.service, SECOND, 0, &err), CABE_OK);
    until_state(&f, FIRST, CABE_SERVICE_ABSENT);
    until_state(&f, SECOND, CABE_SERVICE_ABSENT);
    cabe_service_stats(f.service, &stats);
    assert_int_equal(stats.pool.n_expired, 3);
    assert_int_equal(stats.pool.n_evictions, 0);
    assert_int_equal(held(&f), 0);
    assert_int_equal(close_fixture(&f), 0);
}

/* A request may say how long its model stays; one that says nothing leaves it as it is for the model. */
static void test_a_request_says_how_long(void **state)
{
    struct cabe_service_config config = {.kv = -1, .dtype = -1, .keep_alive_s = -1};
    static const struct cabe_text texts[] = {{"one", 3}};
    struct cabe_service_embed wish;
    struct fixture f;
    struct asked a;

    (void)state;
    begin(&f, enough(), &config);
    must_answer(&f, SECOND); /* for ever */
    must_answer_for(&f, FIRST, 0);
    until_state(&f, FIRST, CABE_SERVICE_ABSENT);
    must_answer_for(&f, FIRST, 0.05);
    until_state(&f, FIRST, CABE_SERVICE_ABSENT);
    asked_init(&a);
    wish = embed_of(&a, EMBEDDER, texts, 1);
    wish.keep_alive_s = 0;
    assert_int_equal(cabe_service_embed(f.service, &wish, &a.ticket, NULL, &err), CABE_OK);
    wait_ended(&a);
    assert_int_equal(a.status, CABE_OK);
    asked_clear(&a);
    until_state(&f, EMBEDDER, CABE_SERVICE_ABSENT);
    assert_int_equal(view_of(&f, SECOND).state, CABE_SERVICE_READY);
    assert_int_equal(view_of(&f, SECOND).n_loads, 1);
    assert_int_equal(close_fixture(&f), 0);
}

/* Loaded, or its tokenizer borrowed, and never asked: it is idle from then on. */
static void test_loaded_and_never_asked(void **state)
{
    struct cabe_service_config config = {.kv = -1, .dtype = -1, .keep_alive_s = 0.05};
    struct fixture f;
    int32_t *ids;
    size_t n;

    (void)state;
    begin(&f, enough(), &config);
    assert_int_equal(cabe_service_load(f.service, FIRST, NULL, NULL, &err), CABE_OK);
    for (int i = 0; i < PATIENCE_S * 200 && view_of(&f, FIRST).n_loads == 0; i++)
        usleep(5000);
    until_state(&f, FIRST, CABE_SERVICE_ABSENT);
    assert_int_equal(cabe_service_tokenize(f.service, SECOND, "one two", 7, &ids, &n, &err), CABE_OK);
    cabe_free(ids);
    until_state(&f, SECOND, CABE_SERVICE_ABSENT);
    assert_int_equal(held(&f), 0);
    assert_int_equal(close_fixture(&f), 0);
}

/* ---- turns ---- */

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

struct client {
    struct fixture *f;
    const char *model;
    int n_answered;
};

static void *ask_often(void *self)
{
    struct client *c = self;

    for (int i = 0; i < 12; i++) {
        must_answer(c->f, c->model);
        c->n_answered++;
    }
    return NULL;
}

/* Of two that do not fit together each is answered, never both are there, and neither is loaded for each request. */
static void test_two_that_do_not_fit(void **state)
{
    struct cabe_service_config config = {.kv = -1, .dtype = -1, .context = 256, .n_seqs = 1};
    struct cabe_service_model alone[2];
    struct client clients[4];
    struct cabe_service_stats stats;
    pthread_t threads[4];
    struct fixture f;

    (void)state;
    measure(&config, alone);
    begin(&f, cabe_session_process_bytes(2) + larger(alone[0].peak_bytes, alone[1].peak_bytes) + (UINT64_C(256) << 10),
          &config);
    make_copies(&f);
    must_answer(&f, FIRST);
    must_answer(&f, SECOND);
    assert_int_equal(view_of(&f, FIRST).state, CABE_SERVICE_ABSENT);
    for (int i = 0; i < 4; i++) {
        clients[i] = (struct client){&f, i % 2 ? FIRST : SECOND, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, ask_often, &clients[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(clients[i].n_answered, 12);
    }
    cabe_service_stats(f.service, &stats);
    print_message("48 requests, %d loads, %d swaps\n", (int)stats.pool.n_loads, (int)stats.pool.n_swaps);
    assert_int_equal(stats.pool.n_failed_loads, 0);
    assert_true(stats.pool.n_swaps > 0);
    assert_int_equal(stats.pool.n_resident, 1);
    assert_int_equal(close_fixture(&f), 0);
}

/* ---- what is asked for next ---- */

/* Until the pool has noticed: what does not follow soon, on a machine that stands still meanwhile, does not count. */
static void teach(struct fixture *f)
{
    char next[64] = "";
    double likely;

    for (int i = 0; i < 100 && (i < 4 || strcmp(next, SECOND) != 0); i++) {
        must_answer(f, FIRST);
        must_answer(f, SECOND);
        must_unload(f, SECOND);
        (void)cabe_pool_next(cabe_service_pool(f->service), FIRST, next, sizeof next, &likely);
    }
    assert_string_equal(next, SECOND);
    must_unload(f, FIRST);
}

static void test_the_next_one_is_there(void **state)
{
    struct cabe_service_config config = {.kv = -1, .dtype = -1, .context = 256, .n_seqs = 1};
    struct cabe_service_model before;
    struct fixture f;

    (void)state;
    begin(&f, enough(), &config);
    teach(&f);
    before = view_of(&f, SECOND);
    must_answer(&f, FIRST);
    until_state(&f, SECOND, CABE_SERVICE_READY); /* which nobody has asked for */
    assert_int_equal(view_of(&f, SECOND).n_requests, before.n_requests);
    assert_int_equal(view_of(&f, SECOND).n_loads, before.n_loads + 1);
    must_answer(&f, SECOND);
    assert_int_equal(view_of(&f, SECOND).n_loads, before.n_loads + 1);
    assert_int_equal(close_fixture(&f), 0);
}

/* Without room to spare for it nothing is loaded, and nothing goes for a guess. */
static void test_no_room_for_the_next_one(void **state)
{
    struct cabe_service_config config = {.kv = -1, .dtype = -1, .context = 256, .n_seqs = 1};
    struct cabe_service_stats stats;
    struct cabe_service_entry *entry;
    struct fixture f;
    uint64_t n_loads;
    int begun;

    (void)state;
    begin(&f, cabe_session_process_bytes(2) + (UINT64_C(32) << 20), &config); /* for both, but not for more */
    teach(&f);
    n_loads = view_of(&f, SECOND).n_loads;
    must_answer(&f, FIRST); /* the host would have begun it before it answered */
    assert_int_equal(cabe_entry_find(&entry, f.service, SECOND, &err), CABE_OK);
    pthread_mutex_lock(&f.service->lock);
    begun = entry->loads || entry->is_acquiring || entry->view.state != CABE_SERVICE_ABSENT;
    pthread_mutex_unlock(&f.service->lock);
    assert_false(begun);
    assert_int_equal(view_of(&f, SECOND).n_loads, n_loads);
    cabe_service_stats(f.service, &stats);
    assert_int_equal(stats.pool.n_evictions, 0);
    assert_int_equal(close_fixture(&f), 0);
}

/* ---- beside one in use ---- */

static void ask_for_ever(struct fixture *f, const char *model, struct asked *a)
{
    struct cabe_service_ask wish;

    asked_init(a);
    wish = prompt_of(a, model, "once there was one that never ends", 0);
    wish.shift_keep = 0;
    wish.ignore_end = 1;
    assert_int_equal(cabe_service_ask(f->service, &wish, &a->ticket, NULL, &err), CABE_OK);
    pthread_mutex_lock(&a->lock);
    while (a->n_tokens < 3 && !a->n_ended)
        pthread_cond_wait(&a->changed, &a->lock);
    pthread_mutex_unlock(&a->lock);
    assert_int_equal(a->n_ended, 0);
}

/*
 * As large as it would be alone, the second does not fit beside the first, which never ends. It is planned smaller and
 * answers at once; when the first has gone and it is loaded anew, it has all it wants.
 */
static void test_planned_beside_one_in_use(void **state)
{
    struct cabe_service_model both[2], alone, beside;
    struct asked endless;
    struct fixture f;

    (void)state;
    measure(NULL, both);
    alone = both[1];
    begin(&f, cabe_session_process_bytes(2) + both[0].bytes + alone.peak_bytes - (UINT64_C(512) << 10), NULL);
    make_copies(&f);
    ask_for_ever(&f, FIRST, &endless);
    must_answer(&f, SECOND);
    assert_int_equal(endless.n_ended, 0);
    beside = view_of(&f, SECOND);
    assert_true(beside.peak_bytes < alone.peak_bytes);
    print_message("beside: %lld tokens of %d, %llu bytes; alone: %lld of %d, %llu\n", (long long)beside.context,
                  beside.n_seqs, (unsigned long long)beside.bytes, (long long)alone.context, alone.n_seqs,
                  (unsigned long long)alone.bytes);
    cabe_service_cancel(f.service, endless.ticket);
    wait_ended(&endless);
    assert_int_equal(endless.status, CABE_ERR_CANCELLED);
    asked_clear(&endless);
    must_unload(&f, SECOND);
    must_unload(&f, FIRST);
    must_answer(&f, SECOND);
    assert_int_equal(view_of(&f, SECOND).bytes, alone.bytes);
    assert_int_equal(close_fixture(&f), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_idle_ones_go),
        cmocka_unit_test(test_a_request_says_how_long),
        cmocka_unit_test(test_loaded_and_never_asked),
        cmocka_unit_test(test_two_that_do_not_fit),
        cmocka_unit_test(test_the_next_one_is_there),
        cmocka_unit_test(test_no_room_for_the_next_one),
        cmocka_unit_test(test_planned_beside_one_in_use),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
