/*
 * What must hold whatever happens: every request ends once, nothing is held afterwards, the budget is never passed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <dirent.h>
#include <sys/stat.h>

#include "sanitizer.h"
#include "serve/service_impl.h"
#include "service_setup.h"

#define WRITER "qwen3-f32.gguf"
#define OTHER "mixed-tied.gguf"
#define EMBEDDER "bert-mean-f32.gguf"

static const char *const models[] = {WRITER, OTHER, EMBEDDER, "llama2-f32.gguf", "static-f32"};
#define N_MODELS (sizeof models / sizeof models[0])

static struct cabe_error err;

static void begin(struct fixture *f, uint64_t memory, const struct cabe_service_config *wishes)
{
    if (!open_fixture(f, memory, wishes, &err) || !add_golden(f, models, N_MODELS, &err))
        fail_msg("%s", err.text);
}

static enum cabe_status answer(struct fixture *f, const char *model, int64_t max_new, struct asked *a)
{
    struct cabe_service_ask wish;

    asked_init(a);
    wish = prompt_of(a, model, "once there was a model that wrote", max_new);
    wish.ignore_end = 1;
    if (cabe_service_ask(f->service, &wish, &a->ticket, NULL, &a->err) != CABE_OK)
        return a->err.status;
    wait_ended(a);
    return a->status;
}

static void must_answer(struct fixture *f, const char *model)
{
    struct asked a;

    if (answer(f, model, 5, &a) != CABE_OK)
        fail_msg("%s: %s", model, a.err.text);
    if (a.counts.n_new != 5 || a.finish[0] != CABE_SERVICE_LENGTH)
        fail_msg("%s: %lld tokens, finish %d", model, (long long)a.counts.n_new, (int)a.finish[0]);
    asked_clear(&a);
}

/* ---- cancelled, in every state ---- */

/* What is shown follows within a moment. */
static int64_t pages_used(struct fixture *f, const char *model)
{
    struct cabe_service_model view;
    int64_t used = -1;

    for (int i = 0; i < 1000 && used != 0; i++) {
        assert_int_equal(cabe_service_model(f->service, model, &view, &err), CABE_OK);
        used = view.kv_pages_used;
        usleep(1000);
    }
    return used;
}

static void cancel_and_wait(struct fixture *f, struct asked *a)
{
    cabe_service_cancel(f->service, a->ticket);
    if (!ends_within(a, 20))
        fail_msg("a cancelled request goes on");
    assert_int_equal(a->status, CABE_ERR_CANCELLED);
    assert_int_equal(a->n_ended, 1);
    asked_clear(a);
}

static void test_cancel_while_it_loads(void **state)
{
    struct cabe_service_ask wish;
    struct fixture f;
    struct asked a;

    (void)state;
    for (int us = 0; us < 3000; us += 500) {
        begin(&f, enough(), NULL);
        asked_init(&a);
        wish = prompt_of(&a, WRITER, "once", 100000);
        wish.shift_keep = 0;
        wish.ignore_end = 1;
        assert_int_equal(cabe_service_ask(f.service, &wish, &a.ticket, NULL, &err), CABE_OK);
        usleep((useconds_t)us);
        cancel_and_wait(&f, &a);
        must_answer(&f, WRITER);
        assert_int_equal(close_fixture(&f), 0);
    }
}

static void test_cancel_running_and_waiting(void **state)
{
    struct cabe_service_config config = {.kv = -1, .dtype = -1, .n_seqs = 1};
    struct cabe_service_stats stats;
    struct cabe_service_ask wish;
    struct asked running, waiting, self;
    struct fixture f;

    (void)state;
    begin(&f, enough(), &config);
    must_answer(&f, WRITER);
    asked_init(&running);
    asked_init(&waiting);
    asked_init(&self);
    wish = prompt_of(&running, WRITER, "once there was one that never ends", 0);
    wish.shift_keep = 0;
    wish.ignore_end = 1;
    assert_int_equal(cabe_service_ask(f.service, &wish, &running.ticket, NULL, &err), CABE_OK);
    wish = prompt_of(&waiting, WRITER, "and one that waits for it", 0);
    assert_int_equal(cabe_service_ask(f.service, &wish, &waiting.ticket, NULL, &err), CABE_OK);
    pthread_mutex_lock(&running.lock);
    while (running.n_tokens < 3)
        pthread_cond_wait(&running.changed, &running.lock);
    pthread_mutex_unlock(&running.lock);
    assert_int_equal(waiting.n_started, 0);
    cancel_and_wait(&f, &waiting);
    assert_int_equal(running.n_ended, 0);
    cancel_and_wait(&f, &running);
    must_answer(&f, WRITER);
    assert_int_equal(pages_used(&f, WRITER), 0);
    self.cancel_at = 4; /* from its own callback */
    self.service = f.service;
    wish = prompt_of(&self, WRITER, "once there was another", 0);
    wish.shift_keep = 0;
    wish.ignore_end = 1;
    pthread_mutex_lock(&self.lock); /* the callback finds the ticket */
    assert_int_equal(cabe_service_ask(f.service, &wish, &self.ticket, NULL, &err), CABE_OK);
    pthread_mutex_unlock(&self.lock);
    wait_ended(&self);
    assert_int_equal(self.status, CABE_ERR_CANCELLED);
    assert_int_equal(self.n_tokens, 4);
    asked_clear(&self);
    cabe_service_stats(f.service, &stats);
    assert_int_equal(stats.n_cancelled, 3);
    assert_int_equal(stats.n_running + stats.n_waiting, 0);
    assert_int_equal(close_fixture(&f), 0);
}

/* A prompt of megabytes is read beside the steps of others. */
static void test_long_prompt(void **state)
{
    struct cabe_service_config config = {.kv = -1, .dtype = -1, .queue_tokens = 100000000};
    size_t n = 3u << 20;
    char *text = malloc(n + 1);
    struct cabe_service_ask wish;
    struct asked longer, a;
    struct fixture f;

    (void)state;
    for (size_t i = 0; i < n; i++)
        text[i] = i % 7 ? (char)('a' + i * i % 26) : ' ';
    text[n] = '\0';
    begin(&f, enough(), &config);
    must_answer(&f, WRITER);
    for (int cancelled = 0; cancelled < 2; cancelled++) {
        asked_init(&longer);
        wish = prompt_of(&longer, WRITER, text, 4);
        assert_int_equal(cabe_service_ask(f.service, &wish, &longer.ticket, NULL, &err), CABE_OK);
        if (cancelled) {
            cancel_and_wait(&f, &longer);
            continue;
        }
        if (answer(&f, WRITER, 5, &a) != CABE_OK)
            fail_msg("%s", a.err.text);
        wait_ended(&longer);
        assert_int_equal(longer.status, CABE_ERR_ARGUMENT); /* longer than the context */
        asked_clear(&longer);
        asked_clear(&a);
    }
    free(text);
    assert_int_equal(close_fixture(&f), 0);
}

static void test_close_with_requests(void **state)
{
    enum { N = 12 };
    struct asked asked[N];
    struct cabe_service_ask wish;
    struct fixture f;

    (void)state;
    for (int us = 0; us <= 20000; us += 5000) {
        begin(&f, enough(), NULL);
        for (int i = 0; i < N; i++) {
            asked_init(&asked[i]);
            wish = prompt_of(&asked[i], models[i % 2], "once there was one that never ends", 0);
            wish.shift_keep = 0;
            wish.ignore_end = 1;
            assert_int_equal(cabe_service_ask(f.service, &wish, &asked[i].ticket, NULL, &err), CABE_OK);
        }
        usleep((useconds_t)us);
        assert_int_equal(close_fixture(&f), 0);
        for (int i = 0; i < N; i++) {
            assert_int_equal(asked[i].n_ended, 1);
            assert_int_equal(asked[i].status, CABE_ERR_CANCELLED);
            asked_clear(&asked[i]);
        }
    }
}

/* ---- limits ---- */

static void test_full_queue(void **state)
{
    struct cabe_service_config config = {.kv = -1, .dtype = -1, .n_seqs = 1, .queue_requests = 4};
    enum { N = 30 };
    struct cabe_service_refusal refusal = {0};
    struct cabe_service_stats stats;
    struct asked asked[N];
    int taken[N];
    struct fixture f;
    int refused = 0;

    (void)state;
    begin(&f, enough(), &config);
    must_answer(&f, WRITER);
    for (int i = 0; i < N; i++) {
        struct cabe_service_ask wish;
        enum cabe_status status;

        asked_init(&asked[i]);
        wish = prompt_of(&asked[i], WRITER, "once there was one of many", 60);
        wish.ignore_end = 1;
        status = cabe_service_ask(f.service, &wish, &asked[i].ticket, &refusal, &err);
        taken[i] = status == CABE_OK;
        if (taken[i])
            continue;
        assert_int_equal(status, CABE_ERR_LIMIT);
        assert_false(refusal.overloaded);
        assert_true(refusal.retry_after_s > 0 && refusal.retry_after_s <= 600);
        refused++;
    }
    assert_true(refused > 0);
    for (int i = 0; i < N; i++) {
        if (taken[i]) {
            wait_ended(&asked[i]);
            assert_int_equal(asked[i].status, CABE_OK);
        }
        asked_clear(&asked[i]);
    }
    cabe_service_stats(f.service, &stats);
    assert_int_equal(stats.n_refused_requests, refused);
    assert_int_equal(close_fixture(&f), 0);
}

static void test_too_many_tokens(void **state)
{
    struct cabe_service_config config = {.kv = -1, .dtype = -1, .queue_tokens = 2000};
    struct cabe_service_refusal refusal;
    struct cabe_service_ask wish;
    struct asked a, b;
    struct fixture f;
    char text[6000];

    (void)state;
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    begin(&f, enough(), &config);
    asked_init(&a);
    asked_init(&b);
    wish = prompt_of(&a, WRITER, text, 1);
    assert_int_equal(cabe_service_ask(f.service, &wish, &a.ticket, &refusal, &err), CABE_OK); /* it loads first */
    wish = prompt_of(&b, WRITER, text, 1);
    assert_int_equal(cabe_service_ask(f.service, &wish, &b.ticket, &refusal, &err), CABE_ERR_LIMIT);
    assert_true(refusal.retry_after_s > 0);
    wait_ended(&a);
    asked_clear(&a);
    asked_clear(&b);
    assert_int_equal(close_fixture(&f), 0);
}

static void test_time_is_over(void **state)
{
    struct cabe_service_config config = {.kv = -1, .dtype = -1, .n_seqs = 1, .first_token_s = 0.2};
    struct cabe_service_ask wish;
    struct cabe_service_stats stats;
    struct asked running, waiting;
    struct fixture f;

    (void)state;
    config.total_s[CABE_CLASS_NORMAL] = TEST_SANITIZED ? 8 : 3; /* far above the waiting one's limit on a slow machine */
    begin(&f, enough(), &config);
    must_answer(&f, WRITER);
    asked_init(&running);
    asked_init(&waiting);
    wish = prompt_of(&running, WRITER, "once there was one that never ends", 0);
    wish.shift_keep = 0;
    wish.ignore_end = 1;
    assert_int_equal(cabe_service_ask(f.service, &wish, &running.ticket, NULL, &err), CABE_OK);
    pthread_mutex_lock(&running.lock);
    while (running.n_tokens < 1)
        pthread_cond_wait(&running.changed, &running.lock);
    pthread_mutex_unlock(&running.lock);
    wish = prompt_of(&waiting, WRITER, "and one that waits for it", 0);
    assert_int_equal(cabe_service_ask(f.service, &wish, &waiting.ticket, NULL, &err), CABE_OK);
    wait_ended(&running);
    assert_int_equal(running.status, CABE_OK);
    assert_int_equal(running.finish[0], CABE_SERVICE_TIMEOUT);
    assert_true(running.n_text[0] > 0 && running.n_finished == 1);
    wait_ended(&waiting);
    assert_int_equal(waiting.status, CABE_ERR_LIMIT);
    assert_int_equal(waiting.n_text[0], 0);
    cabe_service_stats(f.service, &stats);
    assert_int_equal(stats.n_timed_out, 2);
    asked_clear(&running);
    asked_clear(&waiting);
    assert_int_equal(close_fixture(&f), 0);
}

static void test_too_large(void **state)
{
    struct fixture f;
    struct asked a;

    (void)state;
    begin(&f, cabe_session_process_bytes(2) + (UINT64_C(1) << 20), NULL);
    assert_int_equal(answer(&f, WRITER, 5, &a), CABE_ERR_BUDGET);
    assert_true(a.err.missing_bytes > 0);
    asked_clear(&a);
    assert_int_equal(close_fixture(&f), 0);
}

/* ---- pressure, on a clock of the test's ---- */

static void press(struct fixture *f, double *now_s, int seconds, double cpu, double memory)
{
    for (int i = 0; i < seconds; i++)
        cabe_service_pressure_at(f->service, *now_s += 1, cpu, memory);
}

static enum cabe_status ask_of_class(struct fixture *f, enum cabe_class class_, struct cabe_service_refusal *refusal)
{
    struct cabe_service_ask wish;
    enum cabe_status status;
    struct asked a;

    asked_init(&a);
    wish = prompt_of(&a, WRITER, "once there was pressure", 3);
    wish.class_ = class_;
    status = cabe_service_ask(f->service, &wish, &a.ticket, refusal, &err);
    if (status == CABE_OK) {
        wait_ended(&a);
        status = a.status;
    }
    asked_clear(&a);
    return status;
}

static void test_pressure(void **state)
{
    struct cabe_service_refusal refusal;
    struct cabe_service_stats stats;
    double now_s = 1000;
    struct fixture f;

    (void)state;
    begin(&f, enough(), NULL);
    must_answer(&f, WRITER);
    for (int i = 0; i < 100; i++) /* a load that comes and goes in turns of a second is none */
        press(&f, &now_s, 1, i % 2 ? 0.95 : 0.1, 0.5);
    assert_int_equal(ask_of_class(&f, CABE_CLASS_LOW, &refusal), CABE_OK);
    press(&f, &now_s, 30, 0.95, 0.5);
    assert_int_equal(ask_of_class(&f, CABE_CLASS_LOW, &refusal), CABE_ERR_BUSY);
    assert_true(refusal.overloaded && refusal.retry_after_s > 0);
    assert_int_equal(ask_of_class(&f, CABE_CLASS_CRITICAL, &refusal), CABE_OK);
    {
        struct cabe_text text = {"It goes on.", 11};
        struct asked c, d;
        struct cabe_service_embed part;

        asked_init(&c);
        asked_init(&d);
        part = embed_of(&c, EMBEDDER, &text, 1);
        part.class_ = CABE_CLASS_LOW;
        assert_int_equal(cabe_service_embed(f.service, &part, &c.ticket, &refusal, &err), CABE_ERR_BUSY);
        part = embed_of(&d, EMBEDDER, &text, 1); /* what was admitted before goes on */
        part.class_ = CABE_CLASS_LOW;
        part.goes_on = 1;
        assert_int_equal(cabe_service_embed(f.service, &part, &d.ticket, &refusal, &err), CABE_OK);
        wait_ended(&d);
        assert_int_equal(d.status, CABE_OK);
        asked_clear(&c);
        asked_clear(&d);
    }
    press(&f, &now_s, 3, 0.1, 0.1); /* too short to be calm */
    assert_int_equal(ask_of_class(&f, CABE_CLASS_CRITICAL, &refusal), CABE_OK);
    press(&f, &now_s, 300, 0.1, 0.1);
    assert_int_equal(ask_of_class(&f, CABE_CLASS_LOW, &refusal), CABE_OK);
    cabe_service_stats(f.service, &stats);
    assert_int_equal(stats.n_refused_pressure, 2);
    assert_int_equal(close_fixture(&f), 0);
}

/* ---- pins ---- */

static void test_pinned(void **state)
{
    struct cabe_service_config config = {.kv = -1, .dtype = -1, .context = 128, .n_seqs = 1};
    struct cabe_service_model view;
    struct fixture f;
    struct asked a;

    (void)state;
    begin(&f, cabe_session_process_bytes(2) + (UINT64_C(8) << 20), &config);
    assert_int_equal(cabe_service_pin(f.service, WRITER, 1, &err), CABE_OK);
    must_answer(&f, WRITER);
    for (size_t i = 0; i < N_MODELS; i++) {
        (void)answer(&f, models[i], 3, &a); /* some of them find no room */
        asked_clear(&a);
    }
    assert_int_equal(cabe_service_model(f.service, WRITER, &view, &err), CABE_OK);
    assert_int_equal(view.state, CABE_SERVICE_READY);
    assert_int_equal(view.n_loads, 1);
    assert_true(view.pinned);
    assert_int_equal(close_fixture(&f), 0);
}

/* ---- salts ---- */

static void test_salts(void **state)
{
    static const char *const salts[] = {NULL, "a", "b", NULL, "a", ""};
    static const int hits[] = {0, 0, 0, 1, 1, 1};
    const char *prompt = "a prompt of more than one page, so that there is something that could be shared with others "
                         "who ask the same, and that must not be shared with those who may not know";
    struct cabe_service_ask wish;
    struct fixture f;
    struct asked a;
    int n_wrong = 0;

    (void)state;
    begin(&f, enough(), NULL);
    for (int i = 0; i < 6; i++) {
        asked_init(&a);
        wish = prompt_of(&a, WRITER, prompt, 3);
        wish.salt = salts[i];
        assert_int_equal(cabe_service_ask(f.service, &wish, &a.ticket, NULL, &err), CABE_OK);
        wait_ended(&a);
        assert_int_equal(a.status, CABE_OK);
        n_wrong += (a.counts.n_cached > 0) != hits[i];
        asked_clear(&a);
    }
    assert_int_equal(close_fixture(&f), 0);
    assert_int_equal(n_wrong, 0);
}

/* ---- allocations fail in turn ---- */

static void cycle(struct fixture *f, struct asked *a, struct asked *b)
{
    static const struct cabe_text texts[] = {{"one", 3}, {"two and three", 13}};
    struct cabe_service_ask wish;
    struct cabe_service_embed embed;
    int asks, embeds;

    asked_init(a);
    asked_init(b);
    wish = prompt_of(a, WRITER, "once there was a model", 3);
    wish.stop = (const char *const[]){"stop"};
    wish.n_stop = 1;
    wish.salt = "salt";
    wish.n_choices = 2;
    asks = cabe_service_ask(f->service, &wish, &a->ticket, NULL, &a->err) == CABE_OK;
    embed = embed_of(b, EMBEDDER, texts, 2);
    embeds = cabe_service_embed(f->service, &embed, &b->ticket, NULL, &b->err) == CABE_OK;
    if (asks)
        wait_ended(a);
    else
        a->n_ended = -1;
    if (embeds)
        wait_ended(b);
    else
        b->n_ended = -1;
}

static void check_cycle(struct asked *a, struct asked *b, uint64_t n)
{
    struct asked *both[] = {a, b};

    for (int i = 0; i < 2; i++) {
        enum cabe_status status = both[i]->n_ended > 0 ? both[i]->status : both[i]->err.status;

        assert_true(both[i]->n_ended == 1 || both[i]->n_ended == -1);
        if (status != CABE_OK && status != CABE_ERR_OOM && status != CABE_ERR_BUSY)
            fail_msg("allocation %llu: %s", (unsigned long long)n, both[i]->err.text);
        asked_clear(both[i]);
    }
}

static void test_allocations_warm(void **state)
{
    struct asked a, b;
    struct fixture f;
    uint64_t count;

    (void)state;
    begin(&f, enough(), NULL);
    cycle(&f, &a, &b);
    check_cycle(&a, &b, 0);
    for (uint64_t n = 1;; n++) {
        cabe_memory_fail_at(n);
        count = cabe_memory_count();
        cycle(&f, &a, &b);
        count = cabe_memory_count() - count;
        cabe_memory_fail_at(0);
        check_cycle(&a, &b, n);
        if (count < n)
            break;
    }
    must_answer(&f, WRITER);
    assert_int_equal(close_fixture(&f), 0);
}

static void test_allocations_cold(void **state)
{
    uint64_t step = TEST_SANITIZED ? 97 : 13;
    struct asked a, b;
    struct fixture f;
    uint64_t count;

    (void)state;
    begin(&f, enough(), NULL);
    cycle(&f, &a, &b); /* the fitted copies are there from here on */
    check_cycle(&a, &b, 0);
    for (uint64_t n = 1;; n += step) {
        for (size_t i = 0; i < N_MODELS; i++)
            (void)!cabe_service_unload(f.service, models[i], &err);
        cabe_memory_fail_at(n);
        count = cabe_memory_count();
        cycle(&f, &a, &b);
        count = cabe_memory_count() - count;
        cabe_memory_fail_at(0);
        check_cycle(&a, &b, n);
        if (count + step < n)
            break;
    }
    must_answer(&f, WRITER);
    assert_int_equal(close_fixture(&f), 0);
}

/* ---- files that change ---- */

/* Calls `change` with the path of every fitted copy. */
static void each_copy(struct fixture *f, void (*change)(const char *path))
{
    char dir[128], path[512];
    struct dirent *entry;
    DIR *d;

    snprintf(dir, sizeof dir, "%s/fitted", f->root);
    d = opendir(dir);
    assert_non_null(d);
    while ((entry = readdir(d))) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        change(path);
    }
    closedir(d);
}

static void truncate_half(const char *path)
{
    struct stat info;

    assert_int_equal(stat(path, &info), 0);
    if (S_ISREG(info.st_mode))
        assert_int_equal(truncate(path, info.st_size / 2), 0);
}

static void test_copy_truncated(void **state)
{
    struct cabe_service_ask wish;
    struct asked a;
    struct fixture f;

    (void)state;
    begin(&f, enough(), NULL);
    must_answer(&f, WRITER);
    asked_init(&a);
    wish = prompt_of(&a, WRITER, "once there was one that never ends", 0);
    wish.shift_keep = 0;
    wish.ignore_end = 1;
    assert_int_equal(cabe_service_ask(f.service, &wish, &a.ticket, NULL, &err), CABE_OK);
    pthread_mutex_lock(&a.lock);
    while (a.n_tokens < 3)
        pthread_cond_wait(&a.changed, &a.lock);
    pthread_mutex_unlock(&a.lock);
    each_copy(&f, truncate_half);
    if (!ends_within(&a, 20))
        fail_msg("an answer from a file that is gone");
    assert_int_equal(a.status, CABE_ERR_CHANGED);
    asked_clear(&a);
    must_answer(&f, WRITER); /* a new copy is made */
    assert_int_equal(close_fixture(&f), 0);
}

static void copy_file(const char *from, const char *to)
{
    char command[1200];

    snprintf(command, sizeof command, "cp '%s' '%s.new' && mv '%s.new' '%s'", from, to, to, to);
    assert_int_equal(system(command), 0);
}

static void family_is(struct fixture *f, const char *family)
{
    static struct cabe_service_model view;

    assert_int_equal(cabe_service_model(f->service, "moved", &view, &err), CABE_OK);
    assert_string_equal(view.family, family);
}

static void test_source_replaced(void **state)
{
    char path[128], golden[512], other[512];
    struct fixture f;
    struct asked a;

    (void)state;
    begin(&f, enough(), NULL);
    snprintf(path, sizeof path, "%s/model.gguf", f.root);
    golden_path(golden, WRITER);
    golden_path(other, OTHER);
    copy_file(golden, path);
    assert_int_equal(cabe_service_add(f.service, "moved", path, &err), CABE_OK);
    must_answer(&f, "moved");
    copy_file(other, path); /* while it is in memory: served as it was, until it is loaded anew */
    must_answer(&f, "moved");
    assert_int_equal(cabe_service_unload(f.service, "moved", &err), CABE_OK);
    must_answer(&f, "moved");
    assert_int_equal(cabe_service_unload(f.service, "moved", &err), CABE_OK);
    assert_int_equal(remove(path), 0);
    assert_true(answer(&f, "moved", 5, &a) != CABE_OK);
    asked_clear(&a);
    copy_file(golden, path);
    must_answer(&f, "moved");
    assert_int_equal(cabe_service_unload(f.service, "moved", &err), CABE_OK);
    assert_int_equal(truncate(path, 1000), 0);
    assert_true(answer(&f, "moved", 5, &a) != CABE_OK);
    asked_clear(&a);
    family_is(&f, ""); /* what can no longer be read of it */
    copy_file(golden, path);
    must_answer(&f, "moved"); /* the load sees the new file first */
    family_is(&f, "qwen3");
    assert_int_equal(close_fixture(&f), 0);
}

/* ---- everything at once ---- */

#define EVENTS (TEST_SANITIZED ? 400 : 1000)
#define WORKERS 4

struct worker {
    struct fixture *f;
    uint32_t seed;
    int n_events, n_ok, n_refused;
};

static uint32_t draw(struct worker *w)
{
    w->seed = w->seed * 1664525u + 1013904223u;
    return w->seed >> 10;
}

static void random_ask(struct worker *w)
{
    struct cabe_service_ask wish;
    struct cabe_error e;
    struct asked a;
    char prompt[64];

    asked_init(&a);
    a.service = w->f->service;
    snprintf(prompt, sizeof prompt, "once number %u there was a model", draw(w) % 8);
    wish = prompt_of(&a, models[draw(w) % N_MODELS], prompt, 1 + draw(w) % 12);
    wish.class_ = (enum cabe_class)(draw(w) % CABE_N_CLASSES);
    wish.n_choices = 1 + (int32_t)(draw(w) % 3);
    if (cabe_service_ask(w->f->service, &wish, &a.ticket, NULL, &e) == CABE_OK) {
        if (draw(w) % 3 == 0) {
            struct timespec pause = {0, (long)(draw(w) % 3000000)};

            nanosleep(&pause, NULL);
            pthread_mutex_lock(&a.lock); /* not after it has ended: then its ticket is gone */
            if (!a.n_ended)
                cabe_service_cancel(w->f->service, a.ticket);
            pthread_mutex_unlock(&a.lock);
        }
        wait_ended(&a);
        w->n_ok += a.status == CABE_OK;
    } else {
        w->n_refused++;
    }
    asked_clear(&a);
}

static void random_embed(struct worker *w)
{
    static const struct cabe_text texts[] = {{"one", 3}, {"two and three", 13}, {"four", 4}};
    struct cabe_service_embed wish;
    struct cabe_error e;
    struct asked a;

    asked_init(&a);
    wish = embed_of(&a, draw(w) % 2 ? EMBEDDER : "static-f32", texts, 1 + draw(w) % 3);
    if (cabe_service_embed(w->f->service, &wish, &a.ticket, NULL, &e) == CABE_OK) {
        wait_ended(&a);
        w->n_ok += a.status == CABE_OK;
    }
    asked_clear(&a);
}

static void *work(void *self)
{
    struct worker *w = self;
    struct cabe_error e;

    for (int i = 0; i < w->n_events; i++) {
        const char *model = models[draw(w) % N_MODELS];
        struct cabe_ledger_view view;
        int32_t *ids;
        size_t n;

        switch (draw(w) % 8) {
        case 0:
            (void)!cabe_service_load(w->f->service, model, NULL, NULL, &e);
            break;
        case 1:
            (void)!cabe_service_unload(w->f->service, model, &e);
            break;
        case 2:
            (void)!cabe_service_pin(w->f->service, WRITER, (int)(draw(w) % 2), &e);
            break;
        case 3:
            if (cabe_service_tokenize(w->f->service, model, "a text", 6, &ids, &n, &e) == CABE_OK)
                cabe_free(ids);
            break;
        case 4:
            random_embed(w);
            break;
        default:
            random_ask(w);
        }
        cabe_ledger_read(w->f->session->ledger, &view);
        if (view.device[0].used_bytes > view.device[0].budget_bytes)
            return self; /* the count of events tells */
    }
    w->n_events = 0;
    return self;
}

static void test_random_events(void **state)
{
    struct cabe_service_config config = {.kv = -1, .dtype = -1, .context = 128, .n_seqs = 2, .queue_requests = 8};
    struct worker workers[WORKERS];
    pthread_t threads[WORKERS];
    struct fixture f;
    uint32_t seed = (uint32_t)time(NULL);
    int n_ok = 0;

    (void)state;
    print_message("seed %u\n", seed);
    begin(&f, cabe_session_process_bytes(2) + (UINT64_C(10) << 20), &config); /* not all of them at a time */
    for (int i = 0; i < WORKERS; i++) {
        workers[i] = (struct worker){&f, seed + (uint32_t)i, EVENTS / WORKERS, 0, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].n_events, 0);
        n_ok += workers[i].n_ok;
    }
    print_message("%d answered\n", n_ok);
    assert_true(n_ok > 0);
    assert_int_equal(close_fixture(&f), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cancel_while_it_loads),
        cmocka_unit_test(test_cancel_running_and_waiting),
        cmocka_unit_test(test_long_prompt),
        cmocka_unit_test(test_close_with_requests),
        cmocka_unit_test(test_full_queue),
        cmocka_unit_test(test_too_many_tokens),
        cmocka_unit_test(test_time_is_over),
        cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_pressure),
        cmocka_unit_test(test_pinned),
        cmocka_unit_test(test_salts),
        cmocka_unit_test(test_allocations_warm),
        cmocka_unit_test(test_allocations_cold),
        cmocka_unit_test(test_copy_truncated),
        cmocka_unit_test(test_source_replaced),
        cmocka_unit_test(test_random_events),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
