/* What the service answers is what the model answers alone; and who may ask what. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "service_setup.h"
#include "task/encoder.h"

#define WRITER "qwen3-f32.gguf"
#define EMBEDDER "bert-mean-f32.gguf"

static struct cabe_error err;

static void begin(struct fixture *f, uint64_t memory, const struct cabe_service_config *wishes)
{
    static const char *const models[] = {WRITER, EMBEDDER, "mixed-tied.gguf", "llama2-f32.gguf"};

    if (!open_fixture(f, memory, wishes, &err) || !add_golden(f, models, sizeof models / sizeof models[0], &err))
        fail_msg("%s", err.text);
}

static void ask(struct fixture *f, struct asked *a, struct cabe_service_ask *wish)
{
    a->service = f->service;
    if (cabe_service_ask(f->service, wish, &a->ticket, NULL, &err) != CABE_OK)
        fail_msg("%s", err.text);
}

/* ---- the same answers ---- */

struct alone {
    char text[65536];
    size_t n;
};

static enum cabe_status take_text(void *self, const char *bytes, size_t n, const struct cabe_sampled *sampled,
                                  struct cabe_error *e)
{
    struct alone *alone = self;

    (void)sampled, (void)e;
    memcpy(alone->text + alone->n, bytes, n);
    alone->n += n;
    alone->text[alone->n] = '\0';
    return CABE_OK;
}

static void prompt_number(int i, char out[256])
{
    snprintf(out, 256, "%s number %d is a word of the %d that were", i % 2 ? "This" : "Once upon a time the", i, 3 * i);
}

/* The model by itself, as planned for `n_seqs`. */
static void answer_alone(struct cabe_session *session, const char *model, int n_prompts, const char *const *stop,
                         size_t n_stop, struct alone *out)
{
    struct cabe_generator_wishes wishes = {.dtype = -1, .precision = -1, .kv = -1, .n_seqs = 4};
    static struct cabe_plan plan;
    struct cabe_fit_task task;
    struct cabe_generator *g;
    char path[512], prompt[256];

    golden_path(path, model);
    if (cabe_generator_find(&g, session, path, &wishes, &err) != CABE_OK)
        fail_msg("%s", err.text);
    cabe_generator_task(g, &task);
    assert_int_equal(cabe_session_plan(session, &plan, &task, &err), CABE_OK);
    if (cabe_generator_load(g, &plan.knobs, &err) != CABE_OK)
        fail_msg("%s", err.text);
    for (int i = 0; i < n_prompts; i++) {
        struct cabe_encode_options options = {.add_special = 1, .parse_special = 1};
        struct cabe_generation generation = {.max_new = 40, .shift_keep = -1, .text = take_text, .self = &out[i],
                                             .stop = stop, .n_stop = n_stop};
        struct cabe_encoding encoding = {0};
        struct cabe_generated result;

        prompt_number(i, prompt);
        assert_int_equal(cabe_tokenizer_encode(cabe_generator_tokenizer(g), prompt, strlen(prompt), &options, &encoding,
                                               &err),
                         CABE_OK);
        cabe_sampling_defaults(&generation.sampling);
        generation.sampling.seed = (uint64_t)i;
        generation.ids = encoding.ids;
        generation.n_ids = encoding.n;
        out[i].n = 0;
        if (cabe_generate(g, &generation, NULL, &result, &err) != CABE_OK)
            fail_msg("%s", err.text);
        cabe_encoding_clear(&encoding);
    }
    cabe_generator_close(g);
}

static void compare(const char *model)
{
    enum { N = 8 };
    struct alone *alone = calloc(N, sizeof *alone);
    struct asked asked[N];
    struct fixture f;
    static const char *const stop[] = {"zq", "e and"};

    begin(&f, enough(), NULL);
    answer_alone(f.session, model, N, stop, 2, alone);
    for (int i = 0; i < N; i++) {
        char prompt[256];
        struct cabe_service_ask wish;

        asked_init(&asked[i]);
        prompt_number(i, prompt);
        wish = prompt_of(&asked[i], model, prompt, 40);
        wish.sampling.seed = (uint64_t)i;
        wish.stop = stop;
        wish.n_stop = 2;
        wish.class_ = (enum cabe_class)(i % CABE_N_CLASSES);
        ask(&f, &asked[i], &wish);
    }
    for (int i = 0; i < N; i++) {
        wait_ended(&asked[i]);
        if (asked[i].status != CABE_OK)
            fail_msg("%s", asked[i].err.text);
        assert_int_equal(asked[i].n_started, 1);
        assert_int_equal(asked[i].n_finished, 1);
        assert_int_equal(asked[i].n_ended, 1);
        assert_int_equal(asked[i].n_text[0], alone[i].n);
        assert_memory_equal(asked[i].text[0] ? asked[i].text[0] : "", alone[i].text, alone[i].n);
        assert_true(asked[i].counts.n_new > 0 && asked[i].counts.n_prompt > 0);
        asked_clear(&asked[i]);
    }
    free(alone);
    assert_int_equal(close_fixture(&f), 0);
}

static void test_same_answers(void **state)
{
    (void)state;
    compare(WRITER);
    compare("mixed-tied.gguf");
}

/* ---- choices ---- */

static void test_choices(void **state)
{
    struct cabe_service_model view;
    struct asked a, one;
    struct cabe_service_ask wish;
    struct fixture f;
    const char *prompt = "A prompt that is long enough for some pages of its own, so that the choices share them all; "
                         "that it goes on and on is what makes it so.";

    (void)state;
    begin(&f, enough(), NULL);
    asked_init(&a);
    wish = prompt_of(&a, WRITER, prompt, 12);
    wish.n_choices = 7;
    wish.ignore_end = 1;
    ask(&f, &a, &wish);
    wait_ended(&a);
    assert_int_equal(a.status, CABE_OK);
    assert_int_equal(a.n_finished, 7);
    assert_int_equal(a.counts.n_new, 7 * 12);
    assert_true(a.counts.n_cached >= 6 * ((a.counts.n_prompt - 1) / 16) * 16);
    asked_init(&one);
    wish = prompt_of(&one, WRITER, prompt, 12);
    wish.ignore_end = 1;
    ask(&f, &one, &wish);
    wait_ended(&one);
    assert_int_equal(one.finish[0], CABE_SERVICE_LENGTH);
    assert_string_equal(one.text[0], a.text[0]);
    assert_int_equal(cabe_service_model(f.service, WRITER, &view, &err), CABE_OK);
    assert_int_equal(view.state, CABE_SERVICE_READY);
    assert_int_equal(view.n_loads, 1);
    assert_int_equal(view.n_running, 0);
    assert_true(view.bytes > 0 && view.context > 0);
    asked_clear(&a);
    asked_clear(&one);
    assert_int_equal(close_fixture(&f), 0);
}

/* ---- prompts that are scored ---- */

struct heard { /* tokens of the prompt, by choice */
    struct asked asked;
    int n[2], n_unknown[2], n_before_text[2];
    float logprob[2][64];
};

static void on_prompted(void *self, int32_t choice, const struct cabe_sampled *token, const struct cabe_tokenizer *tokenizer)
{
    struct heard *h = self;

    assert_non_null(tokenizer);
    pthread_mutex_lock(&h->asked.lock);
    assert_int_equal(h->asked.n_started, 1);
    assert_int_equal(token->n_top, h->n[choice] ? 2 : 0);
    h->n_unknown[choice] += isnan(token->logprob) != 0;
    h->logprob[choice][h->n[choice]++] = token->logprob;
    h->n_before_text[choice] += h->asked.n_text[choice] == 0;
    pthread_mutex_unlock(&h->asked.lock);
}

static void test_scored(void **state)
{
    static const int64_t new_tokens[] = {-1, 3};
    const char *prompt = "How likely is this text?";
    struct cabe_service_ask wish;
    static struct heard h;
    struct fixture f;

    (void)state;
    begin(&f, enough(), NULL);
    for (size_t i = 0; i < sizeof new_tokens / sizeof new_tokens[0]; i++) {
        h = (struct heard){.n = {0}};
        asked_init(&h.asked);
        wish = prompt_of(&h.asked, WRITER, prompt, new_tokens[i]);
        wish.self = &h;
        wish.prompted = on_prompted;
        wish.sampling.n_logprobs = 2;
        wish.ignore_end = 1;
        wish.n_choices = 2;
        ask(&f, &h.asked, &wish);
        wait_ended(&h.asked);
        assert_int_equal(h.asked.status, CABE_OK);
        assert_int_equal(h.asked.n_started, 1);
        assert_int_equal(h.asked.finish[0], CABE_SERVICE_LENGTH);
        assert_int_equal(h.asked.counts.n_new, new_tokens[i] < 0 ? 0 : 6);
        assert_int_equal(h.asked.n_tokens, h.asked.counts.n_new);
        for (int c = 0; c < 2; c++) {
            assert_int_equal(h.n[c], h.asked.counts.n_prompt);
            assert_int_equal(h.n_before_text[c], h.n[c]);
            assert_int_equal(h.n_unknown[c], 1);
            assert_true(isnan(h.logprob[c][0]));
        }
        assert_memory_equal(h.logprob[0], h.logprob[1], sizeof h.logprob[0]);
        asked_clear(&h.asked);
    }
    for (int scored = 0; scored < 2; scored++) { /* nothing is written, nothing can be scored */
        h = (struct heard){.n = {0}};
        asked_init(&h.asked);
        wish = prompt_of(&h.asked, WRITER, NULL, -1);
        wish.ids = (const int32_t[]){1};
        wish.n_ids = 1;
        wish.self = &h;
        wish.prompted = scored ? on_prompted : NULL;
        ask(&f, &h.asked, &wish);
        wait_ended(&h.asked);
        assert_int_equal(h.asked.status, CABE_OK);
        assert_int_equal(h.asked.n_started, 1);
        assert_int_equal(h.n[0], scored);
        assert_int_equal(h.asked.finish[0], CABE_SERVICE_LENGTH);
        asked_clear(&h.asked);
    }
    assert_int_equal(close_fixture(&f), 0);
}

/* ---- a conversation ---- */

static void test_messages(void **state)
{
    json_t *messages = json_pack("[{s:s, s:s}, {s:s, s:s}]", "role", "system", "content", "You write.", "role", "user",
                                 "content", "Write of the <s> sea.");
    struct cabe_service_ask wish;
    struct asked a[2];
    struct fixture f;

    (void)state;
    begin(&f, enough(), NULL);
    for (int i = 0; i < 2; i++) {
        asked_init(&a[i]);
        wish = prompt_of(&a[i], WRITER, NULL, 9);
        wish.messages = messages;
        wish.ignore_end = 1;
        ask(&f, &a[i], &wish);
        wait_ended(&a[i]);
        if (a[i].status != CABE_OK)
            fail_msg("%s", a[i].err.text);
    }
    assert_int_equal(a[0].counts.n_prompt, a[1].counts.n_prompt);
    assert_int_equal(a[0].n_text[0], a[1].n_text[0]);
    assert_memory_equal(a[0].text[0], a[1].text[0], a[0].n_text[0]);
    assert_int_equal(close_fixture(&f), 0);
    assert_int_equal(messages->refcount, 1);
    json_decref(messages);
    asked_clear(&a[0]);
    asked_clear(&a[1]);
}

/* ---- embeddings ---- */

static void test_embeddings(void **state)
{
    enum { N = 40 };
    static char bytes[N][64];
    struct cabe_text texts[N];
    struct asked asked[N + 2];
    struct fixture f;

    (void)state;
    begin(&f, enough(), NULL);
    for (int i = 0; i < N; i++) {
        snprintf(bytes[i], sizeof bytes[i], "the %dth of the texts, %d", i, i * i);
        texts[i] = (struct cabe_text){bytes[i], strlen(bytes[i])};
    }
    for (int i = 0; i < N + 2; i++) {
        struct cabe_service_embed wish;

        asked_init(&asked[i]);
        wish = i < N ? embed_of(&asked[i], EMBEDDER, &texts[i], 1) : embed_of(&asked[i], EMBEDDER, texts, N);
        if (i == N + 1)
            texts[3] = (struct cabe_text){"\xff\xff no text", 10}; /* who asks for that gets an error, and nobody else */
        wish.class_ = (enum cabe_class)(i % CABE_N_CLASSES);
        if (cabe_service_embed(f.service, &wish, &asked[i].ticket, NULL, &err) != CABE_OK)
            fail_msg("%s", err.text);
    }
    for (int i = 0; i < N + 2; i++)
        wait_ended(&asked[i]);
    assert_int_equal(asked[N].status, CABE_OK);
    assert_int_equal(asked[N + 1].status, CABE_ERR_FORMAT);
    for (int i = 0; i < N; i++) {
        size_t row = (size_t)asked[i].width * sizeof(float);

        assert_int_equal(asked[i].status, CABE_OK);
        assert_memory_equal(asked[i].rows, asked[N].rows + i * asked[N].width, row);
        assert_true(asked[i].embedded_tokens > 2);
    }
    for (int i = 0; i < N + 2; i++)
        asked_clear(&asked[i]);
    assert_int_equal(close_fixture(&f), 0);
}

/* ---- refusals ---- */

static void test_refusals(void **state)
{
    struct cabe_service_refusal refusal;
    struct cabe_service_ask wish;
    struct asked a, b;
    struct cabe_service_embed embed;
    struct cabe_text text = {"text", 4};
    struct fixture f;

    (void)state;
    begin(&f, enough(), NULL);
    asked_init(&a);
    asked_init(&b);
    wish = prompt_of(&a, "no-such-model", "x", 1);
    assert_int_equal(cabe_service_ask(f.service, &wish, &a.ticket, &refusal, &err), CABE_ERR_NOT_FOUND);
    wish = prompt_of(&a, WRITER, NULL, 1);
    assert_int_equal(cabe_service_ask(f.service, &wish, &a.ticket, &refusal, &err), CABE_ERR_ARGUMENT);
    wish = prompt_of(&a, EMBEDDER, "to be written", 1); /* not known to embed yet */
    ask(&f, &a, &wish);
    wait_ended(&a);
    assert_int_equal(a.status, CABE_ERR_UNSUPPORTED);
    assert_int_equal(cabe_service_ask(f.service, &wish, &a.ticket, &refusal, &err), CABE_ERR_UNSUPPORTED);
    embed = embed_of(&b, WRITER, &text, 1);
    assert_int_equal(cabe_service_embed(f.service, &embed, &b.ticket, &refusal, &err), CABE_OK);
    wait_ended(&b);
    assert_int_equal(b.status, CABE_ERR_UNSUPPORTED);
    asked_clear(&a);
    asked_init(&a);
    wish = prompt_of(&a, WRITER, NULL, 1);
    {
        static int32_t ids[100000];

        wish.ids = ids;
        wish.n_ids = 100000;
        ask(&f, &a, &wish);
        wait_ended(&a);
        assert_int_equal(a.status, CABE_ERR_ARGUMENT); /* longer than the context */
    }
    cabe_service_drain(f.service);
    wish = prompt_of(&a, WRITER, "x", 1);
    assert_int_equal(cabe_service_ask(f.service, &wish, &a.ticket, &refusal, &err), CABE_ERR_BUSY);
    assert_true(refusal.overloaded && refusal.retry_after_s > 0);
    asked_clear(&a);
    asked_clear(&b);
    assert_int_equal(close_fixture(&f), 0);
}

/* ---- templates that take much ---- */

/* "small", "much" and "monster": 2^(n + 5) bytes at least. */
#define GROWS(n) "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(" n ") %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"
static const char greedy[] = "{% if messages[0].content == 'much' %}" GROWS("17") "{% elif messages[0].content == 'monster' %}" GROWS(
    "30") "{% endif %}{{ messages[0].content }}";

/* The writer with this template as its first field; what follows is moved by whole units of alignment. */
static void add_greedy(struct fixture *f)
{
    static const char key[] = "tokenizer.chat_template";
    char from[512], to[600], text[sizeof greedy + 64];
    uint64_t n_key = sizeof key - 1, n_text = sizeof greedy - 1, n_fields;
    uint32_t type = 8; /* a string */
    static char rest[1 << 20];
    unsigned char head[24];
    FILE *in, *out;
    size_t n;

    memcpy(text, greedy, n_text);
    while ((8 + n_key + 4 + 8 + n_text) % 32 != 0)
        text[n_text++] = ' ';
    golden_path(from, WRITER);
    snprintf(to, sizeof to, "%s/greedy.gguf", f->root);
    in = fopen(from, "rb");
    out = fopen(to, "wb");
    assert_true(in && out && fread(head, 1, sizeof head, in) == sizeof head);
    memcpy(&n_fields, head + 16, 8);
    n_fields++;
    memcpy(head + 16, &n_fields, 8);
    fwrite(head, 1, sizeof head, out);
    fwrite(&n_key, 1, 8, out);
    fwrite(key, 1, n_key, out);
    fwrite(&type, 1, 4, out);
    fwrite(&n_text, 1, 8, out);
    fwrite(text, 1, n_text, out);
    while ((n = fread(rest, 1, sizeof rest, in)) > 0)
        fwrite(rest, 1, n, out);
    assert_int_equal(fclose(out), 0);
    fclose(in);
    assert_int_equal(cabe_service_add(f->service, "greedy", to, &err), CABE_OK);
}

static void say(struct fixture *f, const char *what, enum cabe_status wanted, const char *words)
{
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", what);
    struct cabe_service_ask wish;
    struct asked a;

    asked_init(&a);
    wish = prompt_of(&a, "greedy", NULL, 2);
    wish.messages = messages;
    ask(f, &a, &wish);
    wait_ended(&a);
    if (a.status != wanted || (words && !strstr(a.err.text, words)))
        fail_msg("'%s': %s: %s", what, cabe_status_name(a.status), a.err.text);
    asked_clear(&a);
    json_decref(messages);
}

/* Each render is on the ledger with all that it may take; what the ledger has not is refused in words. */
static void test_greedy_templates(void **state)
{
    struct cabe_service_config wishes = {.kv = -1, .dtype = -1, .context = 64, .n_seqs = 1};
    struct cabe_ledger_view view;
    struct cabe_ledger *ledger;
    struct fixture f;
    uint64_t rest;

    (void)state;
    begin(&f, enough(), &wishes);
    ledger = f.session->ledger;
    add_greedy(&f);
    say(&f, "small", CABE_OK, NULL);
    cabe_ledger_mark(ledger);
    say(&f, "small", CABE_OK, NULL);
    cabe_ledger_read(ledger, &view);
    assert_in_range(view.device[0].purpose_high_bytes[CABE_PURPOSE_STAGING], 100u << 10, 1u << 20);
    say(&f, "much", CABE_OK, NULL);
    cabe_ledger_read(ledger, &view);
    assert_in_range(view.device[0].purpose_high_bytes[CABE_PURPOSE_STAGING], 64u << 20, 96u << 20);
    say(&f, "monster", CABE_ERR_ARGUMENT, "needs more than");

    rest = cabe_ledger_free_bytes(ledger, 0) - (4u << 20);
    assert_int_equal(cabe_ledger_reserve(ledger, 0, CABE_PURPOSE_KV, rest, "others", &err), CABE_OK);
    say(&f, "small", CABE_OK, NULL);
    say(&f, "much", CABE_ERR_BUSY, "the budget has no more than");
    assert_int_equal(cabe_ledger_reserve(ledger, 0, CABE_PURPOSE_KV, (4u << 20) - 65536, "others", &err), CABE_OK);
    say(&f, "small", CABE_ERR_BUSY, "no memory to render the chat template now");
    cabe_ledger_release(ledger, 0, CABE_PURPOSE_KV, rest + (4u << 20) - 65536, "others");
    say(&f, "small", CABE_OK, NULL);
    cabe_ledger_read(ledger, &view);
    assert_int_equal(view.device[0].purpose_bytes[CABE_PURPOSE_STAGING], 0);
    assert_int_equal(close_fixture(&f), 0);
}

/* What others hold goes away some time: "not now", not "never". */
static void test_room_for_embeddings(void **state)
{
    enum { N = 512, LEFT = 32 << 10 };
    struct cabe_text texts[N];
    struct cabe_service_embed wish;
    struct cabe_ledger *ledger;
    struct fixture f;
    struct asked a;
    uint64_t rest;

    (void)state;
    for (int i = 0; i < N; i++)
        texts[i] = (struct cabe_text){"one", 3};
    begin(&f, enough(), NULL);
    ledger = f.session->ledger;
    assert_int_equal(cabe_service_borrow(f.service, EMBEDDER, NULL, &err), CABE_OK);
    rest = cabe_ledger_free_bytes(ledger, 0) - LEFT;
    assert_int_equal(cabe_ledger_reserve(ledger, 0, CABE_PURPOSE_KV, rest, "others", &err), CABE_OK);
    asked_init(&a);
    wish = embed_of(&a, EMBEDDER, texts, N);
    assert_int_equal(cabe_service_embed(f.service, &wish, &a.ticket, NULL, &err), CABE_OK);
    wait_ended(&a);
    if (a.status != CABE_ERR_BUSY || !strstr(a.err.text, "no room for it now"))
        fail_msg("%s: %s", cabe_status_name(a.status), a.err.text);
    cabe_ledger_release(ledger, 0, CABE_PURPOSE_KV, rest, "others");
    a.n_ended = 0;
    assert_int_equal(cabe_service_embed(f.service, &wish, &a.ticket, NULL, &err), CABE_OK);
    wait_ended(&a);
    assert_int_equal(a.status, CABE_OK);
    cabe_service_give_back(f.service, EMBEDDER);
    asked_clear(&a);
    assert_int_equal(close_fixture(&f), 0);
}

/* ---- borrowed models ---- */

static struct cabe_service_model view_of(struct fixture *f, const char *name)
{
    static struct cabe_service_model model;

    assert_int_equal(cabe_service_model(f->service, name, &model, &err), CABE_OK);
    return model;
}

static void embed_once(struct fixture *f, struct asked *a, const struct cabe_service_embed *wish)
{
    a->n_ended = 0;
    assert_int_equal(cabe_service_embed(f->service, wish, &a->ticket, NULL, &err), CABE_OK);
    wait_ended(a);
}

/* It is loaded once, shared with requests, held while it is borrowed, and free afterwards. */
static void test_borrowed(void **state)
{
    struct cabe_service_config wishes = {.kv = -1, .dtype = -1, .keep_alive_s = 1e-3};
    struct cabe_text texts[2] = {{"The harbour froze.", 18}, {"Nobody remembered it.", 21}};
    struct cabe_service_embed wish;
    struct asked a, b;
    struct fixture f;
    float *rows;
    uint64_t bytes;

    (void)state;
    begin(&f, enough(), &wishes);
    assert_int_equal(cabe_service_load_bytes(f.service, EMBEDDER, &bytes, &err), CABE_OK);
    assert_true(bytes > 0);
    assert_int_equal(cabe_service_borrow(f.service, EMBEDDER, NULL, &err), CABE_OK);
    assert_int_equal(cabe_service_load_bytes(f.service, EMBEDDER, &bytes, &err), CABE_OK);
    assert_int_equal(bytes, 0); /* it is there */
    assert_int_equal(view_of(&f, EMBEDDER).state, CABE_SERVICE_READY);
    assert_int_equal(cabe_service_unload(f.service, EMBEDDER, &err), CABE_ERR_BUSY);
    assert_int_equal(cabe_pool_unload_idle(cabe_service_pool(f.service)), 0);

    asked_init(&a);
    wish = embed_of(&a, EMBEDDER, texts, 2);
    embed_once(&f, &a, &wish); /* a request of others */
    assert_int_equal(a.status, CABE_OK);
    asked_init(&b);
    wish = embed_of(&b, EMBEDDER, texts, 2);
    rows = calloc(2 * (size_t)a.width, sizeof *rows);
    wish.rows = rows;
    wish.width = a.width;
    embed_once(&f, &b, &wish);
    assert_int_equal(b.status, CABE_OK);
    assert_memory_equal(rows, a.rows, 2 * (size_t)a.width * sizeof *rows);
    wish.width = a.width + 1; /* another model came in its place */
    b.n_rows = 0;
    embed_once(&f, &b, &wish);
    assert_int_equal(b.status, CABE_ERR_CHANGED);

    for (int i = 0; i < 200 && view_of(&f, EMBEDDER).state == CABE_SERVICE_READY; i++)
        nanosleep(&(struct timespec){0, 1000000}, NULL); /* longer than it is kept alive */
    assert_int_equal(view_of(&f, EMBEDDER).n_loads, 1);
    assert_int_equal(cabe_service_borrow(f.service, EMBEDDER, NULL, &err), CABE_OK); /* by a second one */
    cabe_service_give_back(f.service, EMBEDDER);
    assert_int_equal(cabe_service_unload(f.service, EMBEDDER, &err), CABE_ERR_BUSY);
    cabe_service_give_back(f.service, EMBEDDER);
    for (int i = 0; i < 5000 && view_of(&f, EMBEDDER).state != CABE_SERVICE_ABSENT; i++)
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    assert_int_equal(view_of(&f, EMBEDDER).state, CABE_SERVICE_ABSENT);
    free(rows);
    asked_clear(&a);
    asked_clear(&b);
    assert_int_equal(close_fixture(&f), 0);
}

static void test_not_to_be_borrowed(void **state)
{
    struct cabe_cancel cancel = {.wanted = 1};
    struct fixture f;

    (void)state;
    begin(&f, enough(), NULL);
    assert_int_equal(cabe_service_borrow(f.service, "no-such-model", NULL, &err), CABE_ERR_NOT_FOUND);
    assert_int_equal(cabe_service_borrow(f.service, WRITER, NULL, &err), CABE_ERR_UNSUPPORTED);
    assert_int_equal(cabe_service_borrow(f.service, EMBEDDER, &cancel, &err), CABE_ERR_CANCELLED);
    for (int i = 0; i < 5000 && cabe_service_unload(f.service, WRITER, NULL) == CABE_ERR_BUSY; i++)
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    assert_int_equal(view_of(&f, WRITER).state, CABE_SERVICE_ABSENT);
    assert_int_equal(close_fixture(&f), 0);
}

/* Where a load waits for its room it is given up between two runs; the borrower's next one brings it back. */
static void test_borrowed_and_wanted(void **state)
{
    struct cabe_service_config wishes = {.kv = -1, .dtype = -1, .context = 64, .n_seqs = 1};
    struct cabe_text text = {"The harbour froze.", 18};
    uint64_t free_bytes, writer_bytes, taken_bytes;
    struct cabe_service_ask ask_one;
    struct cabe_service_embed wish;
    struct asked a, b;
    struct fixture f;

    (void)state;
    begin(&f, enough(), &wishes);
    assert_int_equal(cabe_service_load_bytes(f.service, WRITER, &writer_bytes, &err), CABE_OK);
    assert_int_equal(cabe_service_borrow(f.service, EMBEDDER, NULL, &err), CABE_OK);
    free_bytes = cabe_ledger_free_bytes(f.session->ledger, 0);
    taken_bytes = free_bytes - (writer_bytes - view_of(&f, EMBEDDER).bytes / 4);
    assert_true(taken_bytes < free_bytes);
    assert_int_equal(cabe_ledger_reserve(f.session->ledger, 0, CABE_PURPOSE_KV, taken_bytes, "others", &err), CABE_OK);
    asked_init(&a);
    ask_one = prompt_of(&a, WRITER, "The", 4);
    assert_int_equal(cabe_service_ask(f.service, &ask_one, &a.ticket, NULL, &err), CABE_OK);
    wait_ended(&a);
    assert_int_equal(a.status, CABE_OK);
    assert_int_equal(view_of(&f, EMBEDDER).state, CABE_SERVICE_ABSENT);
    asked_init(&b);
    wish = embed_of(&b, EMBEDDER, &text, 1);
    embed_once(&f, &b, &wish);
    assert_int_equal(b.status, CABE_OK);
    assert_int_equal(view_of(&f, EMBEDDER).n_loads, 2);
    cabe_service_give_back(f.service, EMBEDDER);
    cabe_ledger_release(f.session->ledger, 0, CABE_PURPOSE_KV, taken_bytes, "others");
    asked_clear(&a);
    asked_clear(&b);
    assert_int_equal(close_fixture(&f), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_answers),
        cmocka_unit_test(test_choices),
        cmocka_unit_test(test_scored),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_embeddings),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_greedy_templates),
        cmocka_unit_test(test_room_for_embeddings),
        cmocka_unit_test(test_borrowed),
        cmocka_unit_test(test_not_to_be_borrowed),
        cmocka_unit_test(test_borrowed_and_wanted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
