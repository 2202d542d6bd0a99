/* How much context a model is loaded with, how long it stays, and what clients are told of where it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "serve/service_impl.h"
#include "service_setup.h"

#define MODEL "long"
#define N_CTX 16384 /* what the model says it was made for */

static struct cabe_error err;

/* A golden model that says it was made for long texts. */
static void make_model(const struct fixture *f, char path[512])
{
    static const char key[] = "qwen3.context_length";
    const uint32_t n_ctx = N_CTX;
    char from[512], *bytes, *at;
    size_t n;
    FILE *file;

    golden_path(from, "qwen3-f32.gguf");
    file = fopen(from, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    n = (size_t)ftell(file);
    rewind(file);
    bytes = malloc(n);
    assert_int_equal(fread(bytes, 1, n, file), n);
    fclose(file);
    at = memmem(bytes, n, key, strlen(key));
    assert_non_null(at);
    memcpy(at + strlen(key) + sizeof(uint32_t), &n_ctx, sizeof n_ctx); /* behind its type */
    snprintf(path, 512, "%s/long.gguf", f->root);
    file = fopen(path, "wb");
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    fclose(file);
    free(bytes);
}

static void begin(struct fixture *f, uint64_t memory, const struct cabe_service_config *wishes)
{
    struct cabe_service_config config = {.kv = -1, .dtype = -1};
    char path[512];

    if (wishes)
        config = *wishes;
    config.first_token_s = config.stall_s = 500; /* a machine that stands still is not what is tested */
    if (!open_fixture(f, memory, &config, &err))
        fail_msg("%s", err.text);
    make_model(f, path);
    if (cabe_service_add(f->service, MODEL, path, &err) != CABE_OK)
        fail_msg("%s", err.text);
}

static void begin_asking(struct fixture *f, struct asked *a, int64_t context, int64_t max_new)
{
    struct cabe_service_ask wish = prompt_of(a, MODEL, "Once upon a time", max_new);

    wish.context = context;
    wish.ignore_end = 1;
    a->service = f->service;
    if (cabe_service_ask(f->service, &wish, &a->ticket, NULL, &err) != CABE_OK)
        fail_msg("%s", err.text);
}

static void look(struct fixture *f, struct cabe_service_model *model)
{
    assert_int_equal(cabe_service_model(f->service, MODEL, model, &err), CABE_OK);
}

static void expect(struct fixture *f, int64_t wished, int64_t context, uint64_t n_loads)
{
    struct cabe_service_model model;
    struct asked a;

    asked_init(&a);
    begin_asking(f, &a, wished, 3);
    wait_ended(&a);
    if (a.status != CABE_OK)
        fail_msg("%s", a.err.text);
    look(f, &model);
    if (model.context != context || model.n_loads != n_loads)
        fail_msg("%lld wished: %lld tokens, %llu loads; wanted %lld and %llu", (long long)wished,
                 (long long)model.context, (unsigned long long)model.n_loads, (long long)context,
                 (unsigned long long)n_loads);
    asked_clear(&a);
}

static void test_it_grows(void **state)
{
    struct cabe_service_model model;
    struct asked running, wishing, next;
    struct fixture f;

    (void)state;
    begin(&f, enough(), NULL);
    expect(&f, 0, 4096, 1);
    expect(&f, 100, 4096, 1);
    expect(&f, 4097, 8192, 2);
    expect(&f, 5000, 8192, 2);
    expect(&f, 0, 8192, 2); /* it does not shrink */

    /* What runs goes on to its end, and then it grows; who comes meanwhile waits for that. */
    asked_init(&running);
    asked_init(&wishing);
    asked_init(&next);
    begin_asking(&f, &running, 0, 200);
    begin_asking(&f, &wishing, 9000, 3);
    begin_asking(&f, &next, 0, 3);
    wait_ended(&running);
    wait_ended(&wishing);
    wait_ended(&next);
    assert_true(running.status == CABE_OK && wishing.status == CABE_OK && next.status == CABE_OK);
    assert_int_equal(running.n_tokens, 200);
    look(&f, &model);
    assert_int_equal(model.context, N_CTX);
    assert_int_equal(model.n_loads, 3);
    expect(&f, 1000000, N_CTX, 3); /* the model was made for no more */
    asked_clear(&running);
    asked_clear(&wishing);
    asked_clear(&next);
    assert_int_equal(close_fixture(&f), 0);
}

/* Where the person who runs the server said how much, that is how much. */
static void test_a_given_context_stays(void **state)
{
    struct cabe_service_config config = {.kv = -1, .dtype = -1, .context = 512};
    struct fixture f;

    (void)state;
    begin(&f, enough(), &config);
    expect(&f, 8192, 512, 1);
    expect(&f, 8192, 512, 1);
    assert_int_equal(close_fixture(&f), 0);
}

/* What memory does not allow is tried once, not with every request. */
static void test_in_vain(void **state)
{
    struct cabe_service_config config = {.kv = -1, .dtype = -1, .n_seqs = 1};
    uint64_t bytes;
    struct cabe_service_model model;
    struct fixture f;

    (void)state;
    if (TEST_SANITIZED)
        skip(); /* what a process has by itself is then no size to count on */
    begin(&f, enough(), &config);
    expect(&f, 0, 4096, 1); /* four times as much does not fit with keys half as large */
    look(&f, &model);
    bytes = f.session->process_bytes + model.peak_bytes + (UINT64_C(1) << 19);
    assert_int_equal(close_fixture(&f), 0);

    begin(&f, bytes, &config);
    for (int i = 0; i < 3; i++) {
        struct asked a;

        asked_init(&a);
        begin_asking(&f, &a, N_CTX, 3);
        wait_ended(&a);
        assert_int_equal(a.status, CABE_OK);
        asked_clear(&a);
        look(&f, &model);
        if (model.context >= N_CTX || model.n_loads != 1)
            fail_msg("%lld tokens, %llu loads", (long long)model.context, (unsigned long long)model.n_loads);
    }
    assert_int_equal(close_fixture(&f), 0);
}

/* The policy by itself, on a clock of the test. */
static void test_when(void **state)
{
    enum { S = 1000000000 };
    struct cabe_service service = {.config = {.first_token_s = 30}};
    struct cabe_service_entry e = {.service = &service, .kind = 1, .view = {.context = 4096, .context_most = 32768}};
    uint64_t now = UINT64_C(100) * S;

    (void)state;
    cabe_queue_init(&e.queue, &(const struct cabe_queue_config){.n_max = 8, .tokens_max = 1000});
    assert_false(cabe_context_grows(&e, now));
    cabe_context_ask(&e, 4096);
    assert_false(cabe_context_grows(&e, now));
    cabe_context_ask(&e, 5000);
    assert_true(cabe_context_grows(&e, now));
    assert_true(cabe_context_grows(&e, now + UINT64_C(9) * S));
    assert_false(cabe_context_grows(&e, now + UINT64_C(11) * S)); /* the others have waited for long enough */
    now += UINT64_C(12) * S;
    cabe_context_ask(&e, 5000);
    assert_false(cabe_context_grows(&e, now));
    now += UINT64_C(60) * S;
    assert_true(cabe_context_grows(&e, now));
    assert_int_equal(cabe_context_wanted(&e), 0); /* nobody who waits asks any more */
    assert_false(cabe_context_grows(&e, now));

    e.view.context = 6000; /* a load that was to have 8192 */
    cabe_context_planned(&e, 8192);
    cabe_context_ask(&e, 8000);
    assert_false(cabe_context_grows(&e, now));
    cabe_context_ask(&e, 20000);
    assert_false(cabe_context_grows(&e, now)); /* nor more than that */
    e.view.context = 32768;
    cabe_context_planned(&e, 65536);
    assert_int_equal(e.context_vain, 0); /* as much as the model was made for */
    cabe_context_ask(&e, INT64_C(1) << 40);
    assert_false(cabe_context_grows(&e, now));
}

/* ---- how long it stays ---- */

static int is_gone_within(struct fixture *f, double seconds)
{
    const struct timespec pause = {0, 20000000};
    struct cabe_service_model model;

    for (double waited = 0; waited < seconds; waited += 0.02) {
        look(f, &model);
        if (model.state == CABE_SERVICE_ABSENT)
            return 1;
        nanosleep(&pause, NULL);
    }
    return 0;
}

static void loaded(void *self, enum cabe_status status, const struct cabe_error *why)
{
    struct asked *a = self;

    pthread_mutex_lock(&a->lock);
    end_asked(a, status, why);
}

static void load(struct fixture *f, double keep_alive_s)
{
    struct asked a;
    struct cabe_service_load wish = {MODEL, keep_alive_s, 0, loaded, &a};

    asked_init(&a);
    assert_int_equal(cabe_service_load_as(f->service, &wish, &err), CABE_OK);
    wait_ended(&a);
    assert_int_equal(a.status, CABE_OK);
    asked_clear(&a);
}

static void test_how_long(void **state)
{
    struct cabe_service_model model;
    struct asked a;
    struct fixture f;

    (void)state;
    begin(&f, enough(), NULL);
    load(&f, 0.1);
    assert_true(is_gone_within(&f, 60));
    load(&f, -1);
    look(&f, &model);
    assert_true(model.keep_alive_s < 0);
    load(&f, (double)NAN); /* says nothing: as it is */
    look(&f, &model);
    assert_true(model.keep_alive_s < 0);
    assert_int_equal(cabe_service_expire(f.service, MODEL, &err), CABE_OK);
    assert_true(is_gone_within(&f, 60));
    assert_int_equal(cabe_service_expire(f.service, MODEL, &err), CABE_OK); /* that it is gone is fine */
    load(&f, (double)NAN); /* a wish went with the model */
    look(&f, &model);
    assert_float_equal(model.keep_alive_s, 300, 0);

    asked_init(&a); /* in use: when that ends */
    begin_asking(&f, &a, 0, 200);
    assert_int_equal(cabe_service_expire(f.service, MODEL, &err), CABE_OK);
    wait_ended(&a);
    assert_int_equal(a.status, CABE_OK);
    assert_int_equal(a.n_tokens, 200);
    assert_true(is_gone_within(&f, 60));
    asked_clear(&a);
    assert_int_equal(close_fixture(&f), 0);
}

/* ---- what is told ---- */

static void test_no_paths(void **state)
{
    struct asked a;
    struct fixture f;
    char path[512];
    struct cabe_service_ask wish;

    (void)state;
    begin(&f, enough(), NULL);
    asked_init(&a);
    wish = prompt_of(&a, "nowhere", "x", 1);
    assert_int_equal(cabe_service_ask(f.service, &wish, &a.ticket, NULL, &err), CABE_ERR_NOT_FOUND);
    assert_string_equal(err.text, "model 'nowhere' not found");
    wish.model = "../long.gguf";
    assert_int_equal(cabe_service_ask(f.service, &wish, &a.ticket, NULL, &err), CABE_ERR_NOT_FOUND);
    snprintf(path, sizeof path, "%s/long.gguf", f.root);
    assert_int_equal(truncate(path, 1000), 0);
    begin_asking(&f, &a, 0, 3);
    wait_ended(&a);
    assert_true(a.status != CABE_OK);
    assert_null(strstr(a.err.text, f.root));
    assert_non_null(strstr(a.err.text, MODEL));
    asked_clear(&a);
    assert_int_equal(close_fixture(&f), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_grows), cmocka_unit_test(test_a_given_context_stays), cmocka_unit_test(test_in_vain),
        cmocka_unit_test(test_when),     cmocka_unit_test(test_how_long),              cmocka_unit_test(test_no_paths),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
