/*
 * The batch engine under want of places and pages: whoever is parked says what it would have said, places and tokens go
 * by class, and what has different salts shares nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "model/model.h"
#include "task/generator.h"

#define NEW_MAX 48
#define PROMPT_MAX 400

static struct cabe_error err;
static char cache[] = "/tmp/cabe-engine-XXXXXX";

struct bench {
    struct cabe_session *session;
    struct cabe_generator *generator;
    struct cabe_engine *engine;
    int32_t n_vocab;
};

static void bench_open(struct bench *b, int64_t context, int64_t batch, int32_t n_seqs, int64_t kv_tokens)
{
    struct cabe_session_config config = {.memory_bytes = UINT64_C(1) << 30, .n_threads = 2, .cache_dir = cache};
    struct cabe_generator_wishes wishes = {.dtype = -1,
                                           .precision = CABE_PRECISION_INT8,
                                           .kv = -1,
                                           .context = context,
                                           .batch_tokens = batch,
                                           .n_seqs = n_seqs,
                                           .kv_tokens = kv_tokens};
    static struct cabe_plan plan;
    struct cabe_fit_task task;
    char path[512];

    snprintf(path, sizeof path, "%s/mixed-tied.gguf", CABE_GOLDEN_MODELS);
    if (cabe_session_open(&b->session, &config, 0, &err) != CABE_OK ||
        cabe_generator_find(&b->generator, b->session, path, &wishes, &err) != CABE_OK)
        fail_msg("%s: %s", path, err.text);
    cabe_generator_task(b->generator, &task);
    assert_int_equal(cabe_session_plan(b->session, &plan, &task, &err), CABE_OK);
    assert_true(plan.fits);
    if (cabe_generator_load(b->generator, &plan.knobs, &err) != CABE_OK)
        fail_msg("%s: %s", path, err.text);
    b->engine = cabe_generator_engine(b->generator);
    b->n_vocab = (int32_t)cabe_model_config(cabe_generator_model(b->generator))->n_vocab;
}

static void bench_close(struct bench *b)
{
    struct cabe_kv_stats stats;

    cabe_kv_stats(cabe_generator_kv(b->generator), &stats);
    assert_int_equal(stats.n_referenced, 0);
    cabe_generator_close(b->generator);
    cabe_session_close(b->session);
}

struct answer {
    int32_t token[NEW_MAX];
    uint64_t logits[NEW_MAX];
    int n, n_logits;
};

static uint64_t hash(const float *row, int32_t n)
{
    uint64_t h = 1469598103934665603u;
    uint32_t bits;

    for (int32_t i = 0; i < n; i++) {
        memcpy(&bits, &row[i], sizeof bits);
        h = (h ^ bits) * 1099511628211u;
    }
    return h;
}

static int on_token(void *self, const struct cabe_sampled *sampled)
{
    struct answer *answer = self;

    answer->token[answer->n++] = sampled->token;
    return 0;
}

static enum cabe_status ask(struct bench *b, int number, int64_t n_prompt, int n_new, enum cabe_class class_,
                            const char *salt, struct answer *answer, int32_t *slot)
{
    int32_t ids[PROMPT_MAX];
    uint32_t state = (uint32_t)number * 2654435761u + 1;
    struct cabe_request request = {.prompt = ids,
                                   .n_prompt = n_prompt,
                                   .max_new = n_new,
                                   .sequence = (uint64_t)number,
                                   .shift_keep = -1,
                                   .class_ = class_,
                                   .token = on_token,
                                   .self = answer};

    assert_true(n_prompt <= PROMPT_MAX && n_new <= NEW_MAX);
    for (int64_t i = 0; i < n_prompt; i++) {
        state = state * 1664525u + 1013904223u;
        ids[i] = (int32_t)((state >> 8) % (uint32_t)b->n_vocab);
    }
    if (salt)
        cabe_kv_salt(salt, strlen(salt), request.salt);
    cabe_sampling_defaults(&request.sampling);
    request.sampling.temperature = number % 2 ? 1.0f : 0;
    request.sampling.seed = 7;
    *answer = (struct answer){.n = 0};
    return cabe_engine_add(b->engine, &request, slot, &err);
}

static void step(struct bench *b)
{
    uint64_t allocations = cabe_memory_count();

    if (cabe_engine_step(b->engine, NULL, &err) != CABE_OK)
        fail_msg("%s", err.text);
    assert_int_equal(cabe_memory_count(), allocations);
}

static enum cabe_finish finish_of(struct bench *b, int32_t slot, struct cabe_engine_view *view)
{
    cabe_engine_view(b->engine, slot, view);
    return view->finish;
}

struct one { /* of many requests */
    int64_t n_prompt;
    int n_new;
    enum cabe_class class_;
    int32_t slot; /* -1: not yet; -2: done */
    struct answer answer;
};

static void note_logits(struct bench *b, struct one *one)
{
    const float *logits = one->slot >= 0 ? cabe_engine_logits(b->engine, one->slot) : NULL;

    if (logits)
        one->answer.logits[one->answer.n_logits++] = hash(logits, b->n_vocab);
}

/* All to their ends, each joining as soon as there is room for it. */
static void answer_all(struct bench *b, struct one *all, int n)
{
    struct cabe_engine_view view;
    int n_done = 0;

    for (int i = 0; i < n; i++)
        all[i].slot = -1;
    for (int round = 0; n_done < n; round++) {
        assert_true(round < 200000);
        for (int i = 0; i < n && i <= round / 3; i++)
            if (all[i].slot == -1 && cabe_engine_has_room(b->engine, all[i].class_))
                assert_int_equal(ask(b, i, all[i].n_prompt, all[i].n_new, all[i].class_, NULL, &all[i].answer, &all[i].slot),
                                 CABE_OK);
        step(b);
        for (int i = 0; i < n; i++) {
            note_logits(b, &all[i]);
            if (all[i].slot < 0 || finish_of(b, all[i].slot, &view) == CABE_FINISH_NOT)
                continue;
            assert_int_equal(view.finish, CABE_FINISH_LENGTH);
            assert_int_equal(view.n_new, all[i].n_new);
            assert_int_equal(view.n_done, all[i].n_prompt);
            cabe_engine_remove(b->engine, all[i].slot);
            all[i].slot = -2;
            n_done++;
        }
    }
}

/* A store with room for about a third of them, three places for sixty requests of all classes. */
static void the_parked_say_what_they_would_have_said(void **state)
{
    enum { N = 60 };
    static struct one alone[N], together[N];
    struct cabe_engine_stats stats;
    struct bench b;
    int64_t prompt_tokens = 0;

    (void)state;
    for (int i = 0; i < N; i++) {
        alone[i] = (struct one){.n_prompt = 5 + i * 37 % 150, .n_new = 4 + i * 11 % 44, .class_ = (enum cabe_class)(i * 7 % 4)};
        together[i] = alone[i];
        prompt_tokens += alone[i].n_prompt;
    }
    bench_open(&b, 256, 512, 1, 0);
    for (int i = 0; i < N; i++) {
        struct cabe_engine_view view;

        assert_int_equal(ask(&b, i, alone[i].n_prompt, alone[i].n_new, alone[i].class_, NULL, &alone[i].answer,
                             &alone[i].slot),
                         CABE_OK);
        while (finish_of(&b, alone[i].slot, &view) == CABE_FINISH_NOT) {
            step(&b);
            note_logits(&b, &alone[i]);
        }
        cabe_engine_remove(b.engine, alone[i].slot);
    }
    cabe_engine_stats(b.engine, &stats);
    assert_int_equal(stats.n_parked, 0);
    assert_int_equal(stats.again_tokens, 0);
    bench_close(&b);
    for (int way = 0; way < 2; way++) {
        bench_open(&b, 256, way ? 24 : 64, way ? 6 : 3, way ? 272 : 0);
        answer_all(&b, together, N);
        cabe_engine_stats(b.engine, &stats);
        printf("%s: parked %d times, %d tokens computed again, %d of prompts\n", way ? "few pages" : "few places",
               (int)stats.n_parked, (int)stats.again_tokens, (int)stats.prompt_tokens);
        assert_true(stats.n_parked >= 3 && stats.again_tokens > 0);
        assert_true((int64_t)stats.prompt_tokens <= prompt_tokens);
        for (int i = 0; i < N; i++)
            if (memcmp(&alone[i].answer, &together[i].answer, sizeof alone[i].answer) != 0)
                fail_msg("request %d is answered otherwise", i);
        bench_close(&b);
    }
}

static void places_go_by_class(void **state)
{
    struct answer low[2], high, critical, second;
    struct cabe_engine_view view;
    int32_t slot[5];
    struct bench b;

    (void)state;
    bench_open(&b, 128, 64, 2, 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(ask(&b, i, 20, 20, CABE_CLASS_LOW, NULL, &low[i], &slot[i]), CABE_OK);
    for (int i = 0; i < 3; i++)
        step(&b);
    assert_false(cabe_engine_has_room(b.engine, CABE_CLASS_LOW));
    assert_int_equal(ask(&b, 9, 20, 20, CABE_CLASS_LOW, NULL, &high, &slot[2]), CABE_ERR_LIMIT);
    assert_true(cabe_engine_has_room(b.engine, CABE_CLASS_HIGH));
    assert_int_equal(ask(&b, 2, 20, 8, CABE_CLASS_HIGH, NULL, &high, &slot[2]), CABE_OK);
    assert_int_equal(ask(&b, 3, 20, 4, CABE_CLASS_CRITICAL, NULL, &critical, &slot[3]), CABE_OK);
    assert_false(cabe_engine_has_room(b.engine, CABE_CLASS_HIGH)); /* four are as many as the others have */
    assert_int_equal(cabe_engine_has_room(b.engine, CABE_CLASS_CRITICAL), 2);
    assert_int_equal(ask(&b, 4, 20, 4, CABE_CLASS_CRITICAL, NULL, &second, &slot[4]), CABE_OK);
    assert_false(cabe_engine_has_room(b.engine, CABE_CLASS_CRITICAL)); /* nobody of a lower class is in a step */
    assert_int_equal(cabe_engine_n_running(b.engine), 5);
    for (int i = 0; i < 2; i++) {
        cabe_engine_view(b.engine, slot[i], &view);
        assert_true(view.parked && view.n_parked == 1);
        assert_null(cabe_engine_logits(b.engine, slot[i]));
    }
    while (finish_of(&b, slot[3], &view) == CABE_FINISH_NOT || finish_of(&b, slot[4], &view) == CABE_FINISH_NOT)
        step(&b);
    cabe_engine_remove(b.engine, slot[3]);
    cabe_engine_remove(b.engine, slot[4]);
    assert_false(cabe_engine_has_room(b.engine, CABE_CLASS_NORMAL)); /* a parked one comes first */
    step(&b);
    assert_false(cabe_engine_has_room(b.engine, CABE_CLASS_LOW));
    assert_int_equal(cabe_engine_has_room(b.engine, CABE_CLASS_NORMAL), 2);
    cabe_engine_view(b.engine, slot[0], &view);
    assert_false(view.parked); /* who joined first */
    cabe_engine_view(b.engine, slot[1], &view);
    assert_true(view.parked);
    cabe_engine_remove(b.engine, slot[1]); /* a parked one can leave too */
    while (finish_of(&b, slot[0], &view) == CABE_FINISH_NOT || finish_of(&b, slot[2], &view) == CABE_FINISH_NOT)
        step(&b);
    assert_int_equal(high.n, 8);
    assert_int_equal(low[0].n, 20);
    for (int i = 0; i < 3; i++)
        cabe_engine_remove(b.engine, slot[i]);
    bench_close(&b);
}

/* Prompts of different classes share a step by weight; those of one class share its. */
static void prompts_share_by_weight(void **state)
{
    static const enum cabe_class classes[] = {CABE_CLASS_HIGH, CABE_CLASS_NORMAL, CABE_CLASS_NORMAL, CABE_CLASS_LOW};
    struct cabe_engine_view view[4];
    struct answer answer;
    int32_t slot[4];
    struct bench b;

    (void)state;
    bench_open(&b, 512, 16, 4, 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(ask(&b, i, 400, 1, classes[i], NULL, &answer, &slot[i]), CABE_OK);
    for (int i = 0; i < 26; i++)
        step(&b);
    for (int i = 0; i < 4; i++)
        cabe_engine_view(b.engine, slot[i], &view[i]);
    assert_int_equal(view[0].n_done + view[1].n_done + view[2].n_done + view[3].n_done, 26 * 16);
    for (int i = 0; i < 4; i++) {
        int n_of_class = classes[i] == CABE_CLASS_NORMAL ? 2 : 1;
        int64_t wanted = 26 * 16 * (int64_t)cabe_class_weight(classes[i]) / n_of_class / (8 + 4 + 1);

        assert_true(view[i].n_done >= wanted - 6 && view[i].n_done <= wanted + 6);
        cabe_engine_remove(b.engine, slot[i]);
    }
    bench_close(&b);
}

static void salts_share_nothing(void **state)
{
    static const char *const salts[] = {NULL, NULL, "a", "a", "b", NULL};
    static const int wants_hit[] = {0, 1, 0, 1, 0, 1};
    struct cabe_engine_view view;
    struct answer first, answer;
    struct bench b;

    (void)state;
    bench_open(&b, 512, 256, 1, 0);
    for (int i = 0; i < 6; i++) {
        int32_t slot;

        assert_int_equal(ask(&b, 1, 100, 3, CABE_CLASS_NORMAL, salts[i], &answer, &slot), CABE_OK);
        while (finish_of(&b, slot, &view) == CABE_FINISH_NOT)
            step(&b);
        assert_int_equal(view.n_cached, wants_hit[i] ? 96 : 0);
        cabe_engine_remove(b.engine, slot);
        if (i == 0)
            first = answer;
        assert_memory_equal(&first, &answer, sizeof first);
    }
    bench_close(&b);
}

/* An answer is being written; a long prompt joins: it is taken in pieces, and a more important one is not. */
static void a_long_prompt_comes_in_pieces(void **state)
{
    struct cabe_engine_view view;
    struct answer writing, prompt;
    int32_t slot[2];

    (void)state;
    for (int important = 0; important < 2; important++) {
        struct bench b;
        int n_steps = 0;

        bench_open(&b, 512, 512, 2, 0);
        assert_int_equal(ask(&b, 1, 10, 48, CABE_CLASS_NORMAL, NULL, &writing, &slot[0]), CABE_OK);
        for (int i = 0; i < 8; i++)
            step(&b);
        assert_int_equal(ask(&b, 2, 400, 1, important ? CABE_CLASS_HIGH : CABE_CLASS_NORMAL, NULL, &prompt, &slot[1]), CABE_OK);
        while (finish_of(&b, slot[1], &view) == CABE_FINISH_NOT) {
            step(&b);
            n_steps++;
        }
        assert_int_equal(finish_of(&b, slot[0], &view), n_steps < 40 ? CABE_FINISH_NOT : CABE_FINISH_LENGTH);
        if (important)
            assert_int_equal(n_steps, 1);
        else
            assert_true(n_steps > 2);
        for (int i = 0; i < 2; i++)
            cabe_engine_remove(b.engine, slot[i]);
        bench_close(&b);
    }
}

/* Sequences that have finished and are not removed yet hold no pages: those that are parked go on. */
static void the_finished_hold_nothing(void **state)
{
    struct answer answers[6];
    struct cabe_engine_view view;
    int32_t slot[6];
    struct bench b;

    (void)state;
    bench_open(&b, 64, 64, 6, 96);
    for (int i = 0; i < 6; i++)
        assert_int_equal(ask(&b, i, 30, 30, CABE_CLASS_NORMAL, NULL, &answers[i], &slot[i]), CABE_OK);
    for (int i = 0; cabe_engine_n_running(b.engine) > 0; i++) {
        assert_true(i < 10000);
        step(&b);
    }
    for (int i = 0; i < 6; i++) {
        assert_int_equal(finish_of(&b, slot[i], &view), CABE_FINISH_LENGTH);
        assert_int_equal(view.n_done, 30);
        assert_int_equal(answers[i].n, 30);
        cabe_engine_remove(b.engine, slot[i]);
    }
    bench_close(&b);
}

/* A context that is no number of pages: there are pages for every sequence's last one. */
static void pages_for_all(void **state)
{
    struct answer answers[8];
    struct cabe_engine_stats stats;
    struct cabe_engine_view view;
    int32_t slot[8];
    struct bench b;

    (void)state;
    bench_open(&b, 35, 64, 8, 0);
    for (int i = 0; i < 8; i++)
        assert_int_equal(ask(&b, i, 2, 33, CABE_CLASS_NORMAL, NULL, &answers[i], &slot[i]), CABE_OK);
    while (cabe_engine_n_running(b.engine) > 0)
        step(&b);
    cabe_engine_stats(b.engine, &stats);
    assert_int_equal(stats.n_parked, 0);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(finish_of(&b, slot[i], &view), CABE_FINISH_LENGTH);
        cabe_engine_remove(b.engine, slot[i]);
    }
    bench_close(&b);
}

#define SCORED_MAX 128
#define N_TOP 3

struct scores {
    int32_t token[SCORED_MAX], top[SCORED_MAX][N_TOP];
    float logprob[SCORED_MAX];
    int n, n_drawn, end_at; /* the callback ends it when so many were told; 0: never */
};

static int put_score(struct scores *scores, const struct cabe_sampled *sampled)
{
    assert_true(scores->n < SCORED_MAX && sampled->n_top == N_TOP);
    scores->token[scores->n] = sampled->token;
    scores->logprob[scores->n] = sampled->logprob;
    for (int i = 0; i < N_TOP; i++)
        scores->top[scores->n][i] = sampled->top[i].token;
    return ++scores->n == scores->end_at;
}

static int on_scored(void *self, const struct cabe_sampled *sampled)
{
    struct scores *scores = self;

    assert_int_equal(scores->n_drawn, 0);
    return put_score(scores, sampled);
}

static int on_drawn(void *self, const struct cabe_sampled *sampled)
{
    struct scores *scores = self;

    scores->n_drawn++;
    return put_score(scores, sampled);
}

static void score(struct bench *b, const int32_t *ids, int64_t n, int64_t max_new, int scored, struct scores *scores,
                  int32_t *slot)
{
    struct cabe_request request = {.prompt = ids,
                                   .n_prompt = n,
                                   .max_new = max_new,
                                   .shift_keep = -1,
                                   .class_ = CABE_CLASS_LOW,
                                   .token = on_drawn,
                                   .scored = scored ? on_scored : NULL,
                                   .self = scores};

    cabe_sampling_defaults(&request.sampling);
    request.sampling.temperature = 0;
    request.sampling.n_logprobs = N_TOP;
    if (cabe_engine_add(b->engine, &request, slot, &err) != CABE_OK)
        fail_msg("%s", err.text);
}

static void until_finished(struct bench *b, int32_t slot, enum cabe_finish wanted)
{
    struct cabe_engine_view view;

    while (finish_of(b, slot, &view) == CABE_FINISH_NOT)
        step(b);
    assert_int_equal(view.finish, wanted);
    cabe_engine_remove(b->engine, slot);
}

static void same_scores(const struct scores *a, const struct scores *b, int from, int n)
{
    for (int i = from; i < from + n; i++)
        if (a->token[i] != b->token[i] || memcmp(&a->logprob[i], &b->logprob[i], sizeof a->logprob[i]) != 0 ||
            memcmp(a->top[i], b->top[i], sizeof a->top[i]) != 0)
            fail_msg("token %d is scored otherwise", i);
}

/* What a model wrote is scored as it was when it was drawn; alone, beside others, in pieces, parked and computed again. */
static void prompts_are_scored(void **state)
{
    enum { PROMPT = 20, NEW = 60, ALL = PROMPT + NEW, OTHERS = 24 };
    static struct one others[OTHERS];
    static struct scores drawn, alone, two[2], more;
    struct cabe_engine_stats stats;
    struct bench b;
    int32_t ids[ALL], slot, slots[2];

    (void)state;
    bench_open(&b, 256, 64, 1, 0);
    for (int i = 0; i < PROMPT; i++)
        ids[i] = (i * 37 + 11) % b.n_vocab;
    drawn.n = PROMPT - 1; /* where they come in the scores */
    score(&b, ids, PROMPT, NEW, 0, &drawn, &slot);
    until_finished(&b, slot, CABE_FINISH_LENGTH);
    memcpy(ids + PROMPT, drawn.token + PROMPT - 1, sizeof(int32_t) * NEW);

    score(&b, ids, ALL, -1, 1, &alone, &slot); /* of which the store knows the beginning */
    until_finished(&b, slot, CABE_FINISH_LENGTH);
    assert_int_equal(alone.n, ALL - 1);
    assert_int_equal(alone.n_drawn, 0);
    same_scores(&alone, &drawn, PROMPT - 1, NEW);

    score(&b, ids, PROMPT, 5, 1, &more, &slot); /* and goes on */
    until_finished(&b, slot, CABE_FINISH_LENGTH);
    assert_int_equal(more.n, PROMPT - 1 + 5);
    same_scores(&more, &alone, 0, PROMPT - 1 + 5);
    more = (struct scores){.end_at = 7};
    score(&b, ids, ALL, -1, 1, &more, &slot);
    until_finished(&b, slot, CABE_FINISH_STOP);
    assert_int_equal(more.n, 7);
    more = (struct scores){.n = 0};
    score(&b, ids, 1, -1, 1, &more, &slot); /* nothing comes before its only token */
    until_finished(&b, slot, CABE_FINISH_LENGTH);
    assert_int_equal(more.n, 0);
    bench_close(&b);

    for (int n_seqs = 3; n_seqs <= 6; n_seqs += 3) {
        bench_open(&b, 256, n_seqs == 3 ? 64 : 24, n_seqs, 272);
        for (int i = 0; i < 2; i++) {
            two[i] = (struct scores){.n = 0};
            score(&b, ids, ALL, -1, 1, &two[i], &slots[i]);
        }
        for (int i = 0; i < 5; i++)
            step(&b);
        for (int i = 0; i < OTHERS; i++)
            others[i] = (struct one){.n_prompt = 5 + i * 37 % 150, .n_new = 4 + i * 11 % 44, .class_ = CABE_CLASS_NORMAL};
        answer_all(&b, others, OTHERS);
        for (int i = 0; i < 2; i++) {
            until_finished(&b, slots[i], CABE_FINISH_LENGTH);
            assert_int_equal(two[i].n, ALL - 1);
            same_scores(&two[i], &alone, 0, ALL - 1);
        }
        cabe_engine_stats(b.engine, &stats);
        assert_true(stats.n_parked > 0);
        bench_close(&b);
    }
}

static int make_cache(void **state)
{
    (void)state;
    return mkdtemp(cache) ? 0 : -1;
}

static int remove_cache(void **state)
{
    char command[64];

    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", cache);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_parked_say_what_they_would_have_said), cmocka_unit_test(places_go_by_class),
        cmocka_unit_test(prompts_share_by_weight),                  cmocka_unit_test(salts_share_nothing),
        cmocka_unit_test(a_long_prompt_comes_in_pieces),
        cmocka_unit_test(the_finished_hold_nothing), cmocka_unit_test(pages_for_all),
        cmocka_unit_test(prompts_are_scored),
    };

    return cmocka_run_group_tests(tests, make_cache, remove_cache);
}
