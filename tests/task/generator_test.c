/*
 * What a prompt is answered does not depend on how: threads, pieces of the prompt, company in the batch, pages taken
 * from the cache, device, streaming. Logits are compared to the bit.
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

#define PROMPTS 1000
#define NEW_TOKENS 6
#define PROMPT_MAX 72

struct answer {
    int32_t token[NEW_TOKENS];
    uint64_t logits[NEW_TOKENS]; /* a hash of the row each was drawn from */
    int n;
};

struct way {
    const char *name;
    int n_threads, device, stream;
    int64_t batch_tokens;
    int32_t n_seqs;
    int fresh; /* nothing from the cache */
};

struct asked { /* one prompt on its way */
    int32_t ids[PROMPT_MAX];
    int64_t n;
    struct answer *answer;
    int32_t slot;
};

static struct cabe_error err;

/* Every third prompt begins as another did, so that pages are shared. */
static void make_prompt(struct asked *asked, int index, int32_t n_vocab)
{
    uint32_t state = index % 3 ? (uint32_t)index * 2654435761u : 77u;

    asked->n = 1 + index % (PROMPT_MAX - 1);
    for (int64_t i = 0; i < asked->n; i++) {
        if (index % 3 == 0 && i == 40)
            state = (uint32_t)index;
        state = state * 1664525u + 1013904223u;
        asked->ids[i] = (int32_t)((state >> 8) % (uint32_t)n_vocab);
    }
}

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
    struct asked *asked = self;

    asked->answer->token[asked->answer->n] = sampled->token;
    return 0;
}

static void begin(struct cabe_engine *engine, struct asked *asked, struct answer *answer, int fresh)
{
    struct cabe_request request = {.prompt = asked->ids,
                                   .n_prompt = asked->n,
                                   .max_new = NEW_TOKENS,
                                   .shift_keep = -1,
                                   .fresh = fresh,
                                   .token = on_token,
                                   .self = asked};

    cabe_sampling_defaults(&request.sampling);
    request.sampling.temperature = 0;
    asked->answer = answer;
    answer->n = 0;
    if (cabe_engine_add(engine, &request, &asked->slot, &err) != CABE_OK)
        fail_msg("%s", err.text);
}

/* Answers all prompts, n_seqs at a time, one joining as soon as another has left. */
static void answer_all(struct cabe_generator *g, const struct way *way, int n_prompts, struct answer *answers)
{
    int32_t n_vocab = (int32_t)cabe_model_config(cabe_generator_model(g))->n_vocab;
    struct cabe_engine *engine = cabe_generator_engine(g);
    struct asked *asked = calloc((size_t)way->n_seqs, sizeof *asked);
    struct cabe_engine_view view;
    int next = 0, running = 0;
    uint64_t allocations = 0;

    do {
        for (int32_t s = 0; s < way->n_seqs; s++) {
            if (asked[s].answer || next == n_prompts)
                continue;
            make_prompt(&asked[s], next, n_vocab);
            begin(engine, &asked[s], &answers[next++], way->fresh);
            running++;
        }
        allocations = cabe_memory_count();
        if (cabe_engine_step(engine, NULL, &err) != CABE_OK)
            fail_msg("%s: %s", way->name, err.text);
        assert_int_equal(cabe_memory_count(), allocations); /* a step allocates nothing */
        for (int32_t s = 0; s < way->n_seqs; s++) {
            const float *logits = asked[s].answer ? cabe_engine_logits(engine, asked[s].slot) : NULL;

            if (!asked[s].answer)
                continue;
            if (logits)
                asked[s].answer->logits[asked[s].answer->n++] = hash(logits, n_vocab);
            cabe_engine_view(engine, asked[s].slot, &view);
            if (view.finish == CABE_FINISH_NOT)
                continue;
            assert_int_equal(view.finish, CABE_FINISH_LENGTH);
            cabe_engine_remove(engine, asked[s].slot);
            asked[s].answer = NULL;
            running--;
        }
    } while (running > 0 || next < n_prompts);
    free(asked);
}

/* Opens the model in this way and answers; the ledger is exact afterwards. Returns tokens taken from the cache. */
static uint64_t run(const char *model, const char *cache, const struct way *way, int dtype, int precision, int n_prompts,
                    struct answer *answers)
{
    struct cabe_session_config config = {.memory_bytes = UINT64_C(1) << 30,
                                         .n_threads = way->n_threads,
                                         .device = way->device ? CABE_DEVICE_SIM : CABE_DEVICE_CPU,
                                         .cache_dir = cache};
    struct cabe_generator_wishes wishes = {.dtype = dtype,
                                           .precision = precision,
                                           .kv = -1,
                                           .context = 128,
                                           .batch_tokens = way->batch_tokens,
                                           .n_seqs = way->n_seqs};
    static struct cabe_plan plan;
    struct cabe_ledger_view view;
    struct cabe_generator *g = NULL;
    struct cabe_session *session;
    struct cabe_fit_task task;
    struct cabe_kv_stats stats;
    char path[512];

    snprintf(path, sizeof path, "%s/%s", CABE_GOLDEN_MODELS, model);
    if (cabe_session_open(&session, &config, 0, &err) != CABE_OK ||
        cabe_generator_find(&g, session, path, &wishes, &err) != CABE_OK)
        fail_msg("%s: %s", path, err.text);
    cabe_generator_task(g, &task);
    assert_int_equal(cabe_session_plan(session, &plan, &task, &err), CABE_OK);
    assert_true(plan.fits);
    plan.knobs.value[CABE_KNOB_STREAM] = way->stream;
    if (cabe_generator_load(g, &plan.knobs, &err) != CABE_OK)
        fail_msg("%s: %s", path, err.text);
    answer_all(g, way, n_prompts, answers);
    cabe_kv_stats(cabe_generator_kv(g), &stats);
    assert_int_equal(stats.n_referenced, 0);
    cabe_generator_close(g);
    cabe_ledger_read(session->ledger, &view);
    assert_int_equal(view.device[0].used_bytes, session->process_bytes);
    cabe_session_close(session);
    return stats.hit_tokens;
}

static void compare(const char *model, int dtype, int precision, int n_prompts)
{
    static const struct way ways[] = {
        {"alone, cold, one piece", 1, 0, 0, 512, 1, 1}, {"two threads", 2, 0, 0, 512, 1, 1},
        {"in small pieces", 2, 0, 0, 7, 1, 1},          {"eight at a time", 2, 0, 0, 512, 8, 1},
        {"from the cache", 2, 0, 0, 512, 1, 0},         {"five, pieces, cache", 2, 0, 0, 24, 5, 0},
        {"another device", 2, 1, 0, 64, 3, 0},          {"streamed", 2, 0, 100, 64, 4, 0},
        {"streamed in part", 2, 0, 2, 64, 4, 0},
        {"another device, streamed in part", 2, 1, 1, 64, 4, 0},
    };
    struct answer *first = calloc((size_t)n_prompts, sizeof *first), *other = calloc((size_t)n_prompts, sizeof *other);
    char cache[] = "/tmp/cabe-generator-XXXXXX";
    char command[64];

    assert_non_null(mkdtemp(cache));
    for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++) {
        uint64_t hits = run(model, cache, &ways[w], dtype, precision, n_prompts, w ? other : first);

        assert_true(ways[w].fresh ? hits == 0 : hits > 0);
        for (int i = 0; i < n_prompts && w; i++)
            if (memcmp(&first[i], &other[i], sizeof first[i]) != 0)
                fail_msg("%s, %s: prompt %d is answered otherwise", model, ways[w].name, i);
    }
    snprintf(command, sizeof command, "rm -rf %s", cache);
    assert_int_equal(system(command), 0);
    free(first);
    free(other);
}

static void test_int8(void **state)
{
    (void)state;
    compare("mixed-tied.gguf", -1, CABE_PRECISION_INT8, PROMPTS);
}

static void test_high(void **state)
{
    (void)state;
    compare("mixed.gguf", -1, CABE_PRECISION_HIGH, PROMPTS / 10);
}

static void test_families(void **state)
{
    static const char *const families[] = {"llama2-f32.gguf", "llama3-f32.gguf", "qwen2-f32.gguf",
                                           "qwen3-f32.gguf",  "llama-4-f32.gguf", "qwen3-12-f32.gguf"};

    (void)state;
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
        compare(families[i], i % 2 ? CABE_I8 : CABE_F32, -1, PROMPTS / 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_int8), cmocka_unit_test(test_high),
                                       cmocka_unit_test(test_families)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
