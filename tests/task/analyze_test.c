/* Analysis and search from their handles: what they find, files that change, stops, and memory that is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "fit/fitted.h"
#include "task/analyze.h"
#include "task/search.h"

#define MODEL CABE_GOLDEN_MODELS "/bert-mean-q4_0.gguf"

static struct cabe_error err;
static char folder[64], text_path[128], cache[128];

static const char text[] = "The old engine hummed in the winter garden all night.\n\n"
                           "Nobody in the market had seen a letter like this.\n"
                           "Yes. No.\n\n"
                           "The old engine hummed in the winter garden all night.\n";

static void put(const char *bytes)
{
    FILE *file = fopen(text_path, "wb");

    assert_non_null(file);
    fputs(bytes, file);
    fclose(file);
}

struct world {
    struct cabe_session *session;
    struct cabe_encoder *encoder;
    struct cabe_cancel cancel;
};

static enum cabe_status begin(struct world *w, const char *cache_dir, struct cabe_error *error)
{
    struct cabe_session_config config = {.memory_bytes = UINT64_C(1) << 30,
                                         .n_threads = 2,
                                         .cache_dir = cache_dir,
                                         .cancel = &w->cancel};
    struct cabe_encoder_wishes wishes = {-1, -1, 64};
    enum cabe_status status = cabe_session_open(&w->session, &config, 0, error);

    return status == CABE_OK ? cabe_encoder_find(&w->encoder, w->session, MODEL, &wishes, error) : status;
}

/* The ledger holds the process and nothing else in the end. */
static void end(struct world *w)
{
    struct cabe_ledger_view view;

    cabe_encoder_close(w->encoder);
    if (w->session) {
        cabe_ledger_read(w->session->ledger, &view);
        assert_int_equal(view.device[0].used_bytes, w->session->process_bytes);
    }
    cabe_session_close(w->session);
}

static enum cabe_status analyze(struct world *w, struct cabe_analyze_job **job, struct cabe_analyze_result *result,
                                const char *between, struct cabe_error *error)
{
    struct cabe_analyze_wishes wishes = {.rows = -1, .threshold = 0.99f};
    const char *paths[] = {text_path};
    static struct cabe_plan plan;
    struct cabe_fit_task task;
    enum cabe_status status = cabe_analyze_open(job, w->session, w->encoder, paths, 1, &wishes, error);

    if (status != CABE_OK)
        return status;
    cabe_analyze_task(*job, &task);
    status = cabe_session_plan(w->session, &plan, &task, error);
    if (between)
        put(between);
    return status == CABE_OK ? cabe_analyze_run(*job, &plan, result, error) : status;
}

static void what_is_repeated_is_found(void **state)
{
    struct cabe_analyze_result result;
    struct cabe_analyze_job *job;
    struct world w = {0};

    (void)state;
    put(text);
    assert_int_equal(begin(&w, cache, &err), CABE_OK);
    assert_int_equal(analyze(&w, &job, &result, NULL, &err), CABE_OK);
    assert_int_equal(result.n_sentences, 5);
    assert_int_equal(result.n_compared, 3);
    assert_int_equal(result.n_groups, 1);
    assert_int_equal(result.group[0].n, 2);
    assert_int_equal(result.sentence[result.member[result.group[0].first]].line, 1);
    assert_int_equal(result.sentence[result.member[result.group[0].first + 1]].line, 6);
    assert_int_equal(result.pair[0].echo, CABE_ECHO_VERBATIM);
    assert_true(result.pair[0].a < result.pair[0].b);
    for (int i = 0; i < result.n_phases; i++)
        assert_true(result.phase[i].seconds >= 0);
    cabe_analyze_close(job);
    end(&w);
}

static void a_file_that_changes_between_count_and_read_is_noticed(void **state)
{
    static const char *const changes[] = {"", "Something else is here now, and it is not the same length.",
                                          "One more sentence is here. "};

    (void)state;
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        struct cabe_analyze_result result;
        struct cabe_analyze_job *job;
        struct world w = {0};

        put(text);
        assert_int_equal(begin(&w, cache, &err), CABE_OK);
        assert_int_equal(analyze(&w, &job, &result, changes[i], &err), CABE_ERR_CHANGED);
        assert_non_null(strstr(err.text, text_path));
        cabe_analyze_close(job);
        end(&w);
    }
}

/* ---- an encoder that is lent, and a share ---- */

struct lender {
    struct cabe_encoder *encoder;
    int n_borrowed, n_given_back, n_texts, fails;
};

static enum cabe_status lend(void *self, struct cabe_error *error)
{
    struct lender *l = self;
    struct cabe_fit_task task = {0};

    l->n_borrowed++;
    cabe_encoder_plan(l->encoder, &task);
    return l->fails ? cabe_fail(error, CABE_ERR_BUSY, "not now") : cabe_encoder_load(l->encoder, &task.preferred, error);
}

static void take_back(void *self)
{
    struct lender *l = self;

    l->n_given_back++;
    cabe_encoder_unload(l->encoder);
}

static enum cabe_status embed_for(void *self, const struct cabe_text *texts, size_t n, enum cabe_prefix prefix, float *rows,
                                  uint64_t *n_tokens, struct cabe_error *error)
{
    struct lender *l = self;

    l->n_texts += (int)n;
    return cabe_encoder_encode(l->encoder, texts, n, prefix, rows, n_tokens, error);
}

/* It finds the same; its plan has what is beside the encoder, all of that from a share, and not a byte more. */
static void an_encoder_may_be_lent(void **state)
{
    struct cabe_analyze_wishes wishes = {.rows = -1, .threshold = 0.99f};
    struct cabe_analyze_result result;
    struct cabe_encoder_wishes encoder_wishes = {-1, -1, 64};
    const char *paths[] = {text_path};
    struct cabe_analyze_job *job;
    struct cabe_ledger *share;
    struct cabe_ledger_view view;
    static struct cabe_plan plan;
    struct cabe_fit_task task;
    struct lender l = {0};
    struct cabe_analyze_lender lender = {lend, take_back, embed_for, &l};
    struct world w = {0};
    uint64_t bytes;

    (void)state;
    put(text);
    assert_int_equal(begin(&w, cache, &err), CABE_OK);
    assert_int_equal(cabe_encoder_find(&l.encoder, w.session, MODEL, &encoder_wishes, &err), CABE_OK);
    assert_int_equal(cabe_analyze_open(&job, w.session, w.encoder, paths, 1, &wishes, &err), CABE_OK);
    cabe_analyze_lend(job, &lender);
    cabe_analyze_task(job, &task);
    assert_int_equal(cabe_session_plan(w.session, &plan, &task, &err), CABE_OK);
    assert_non_null(cabe_plan_phase_find(&plan, "model_load"));
    for (int i = 0; i < plan.n_phases; i++)
        assert_int_equal(plan.phase[i].bytes.bytes[CABE_HOST][CABE_PURPOSE_WEIGHTS], 0);
    bytes = plan.peak_bytes[CABE_HOST] - w.session->process_bytes;

    for (int round = 0; round < 3; round++) { /* one page too few; a lender that has nothing; as planned */
        int fits = round > 0, lends = round > 1;

        assert_int_equal(cabe_ledger_open_share(&share, w.session->ledger, bytes - (fits ? 0 : 4096), "analysis", &err),
                         CABE_OK);
        cabe_analyze_charge(job, share);
        l.fails = fits && !lends;
        assert_int_equal(cabe_analyze_run(job, &plan, &result, &err), !fits    ? CABE_ERR_BUDGET
                                                                        : lends ? CABE_OK
                                                                                : CABE_ERR_BUSY);
        cabe_ledger_read(share, &view);
        if (!lends) {
            assert_int_equal(view.device[0].used_bytes, 0);
            cabe_ledger_close(share);
        }
    }
    assert_true(view.device[0].high_bytes <= bytes);
    assert_int_equal(l.n_borrowed, 3);
    assert_int_equal(l.n_given_back, 2);
    assert_int_equal(l.n_texts, 3); /* the first round ends before */
    assert_int_equal(result.n_groups, 1);
    assert_int_equal(result.pair[0].echo, CABE_ECHO_VERBATIM);
    cabe_analyze_close(job);
    cabe_ledger_close(share);
    cabe_encoder_close(l.encoder);
    end(&w);
}

static void a_stop_ends_it(void **state)
{
    struct cabe_analyze_result result;
    struct cabe_analyze_job *job;
    struct world w = {0};

    (void)state;
    put(text);
    assert_int_equal(begin(&w, cache, &err), CABE_OK);
    atomic_store(&w.cancel.wanted, 1);
    assert_int_equal(analyze(&w, &job, &result, NULL, &err), CABE_ERR_CANCELLED);
    assert_null(job);
    end(&w);
}

/* Every allocation of the whole way refused in turn: an error or the right result, and an exact ledger. */
static void every_allocation_may_fail(void **state)
{
    uint64_t n, failed = 0, freed;

    (void)state;
    put(text);
    for (int first = 0; first < 2; first++) /* with a copy in the cache; made in memory each time */
        for (n = 1;; n++) {
            struct cabe_analyze_job *job = NULL;
            struct cabe_analyze_result result;
            struct world w = {0};
            uint64_t before = cabe_memory_count();
            enum cabe_status status;

            cabe_memory_fail_at(n);
            status = begin(&w, first ? "" : cache, &err);
            if (status == CABE_OK)
                status = analyze(&w, &job, &result, NULL, &err);
            cabe_memory_fail_at(0);
            if (status == CABE_OK)
                assert_int_equal(result.n_groups, 1);
            else if (status != CABE_ERR_OOM)
                fail_msg("allocation %llu: %s", (unsigned long long)n, err.text);
            failed += status != CABE_OK;
            cabe_analyze_close(job);
            end(&w);
            if (cabe_memory_count() - before < n)
                break;
        }
    print_message("%llu allocations refused in turn\n", (unsigned long long)failed);
    assert_true(failed > 100);
    assert_int_equal(cabe_fitted_remove(cache, NULL, &freed, &err), CABE_OK);
}

static enum cabe_status search(struct world *w, struct cabe_search_job **job, struct cabe_search_result *result,
                               const char *between, struct cabe_error *error)
{
    static const char *const queries[] = {"a letter in the market", "The old engine hummed in the winter garden all night."};
    struct cabe_search_wishes wishes = {-1, 3};
    static struct cabe_plan plan;
    struct cabe_fit_task task;
    enum cabe_status status = cabe_search_open(job, w->session, w->encoder, text_path, queries, 2, &wishes, error);

    if (status != CABE_OK)
        return status;
    cabe_search_task(*job, &task);
    status = cabe_session_plan(w->session, &plan, &task, error);
    if (between)
        put(between);
    return status == CABE_OK ? cabe_search_run(*job, &plan, result, error) : status;
}

static void search_finds_and_notices_changes(void **state)
{
    struct cabe_search_result result;
    struct cabe_search_job *job;

    (void)state;
    for (int changed = 0; changed < 3; changed++) {
        struct world w = {0};
        enum cabe_status status;

        put(text);
        assert_int_equal(begin(&w, cache, &err), CABE_OK);
        status = search(&w, &job, &result, changed == 1 ? "one line\n" : changed == 2 ? "1\n2\n3\n4\n5\n6\n7\n8\n" : NULL,
                        &err);
        if (changed) {
            if (status != CABE_ERR_CHANGED)
                fail_msg("other lines than were counted: status %d, %s", (int)status, err.text);
        } else {
            assert_int_equal(status, CABE_OK);
            assert_int_equal(result.n_lines, 6);
            assert_int_equal(result.n_hits[1], 3);
            assert_int_equal(result.hit[3].line, 1); /* lines 1 and 6 are the same: the first of them first */
            assert_int_equal(result.hit[4].line, 6);
            assert_memory_equal(result.hit[3].text, "The old engine", 14);
        }
        cabe_search_close(job);
        end(&w);
    }
}

static void every_allocation_of_a_search_may_fail(void **state)
{
    (void)state;
    put(text);
    for (uint64_t n = 1;; n++) {
        struct cabe_search_job *job = NULL;
        struct cabe_search_result result;
        struct world w = {0};
        uint64_t before = cabe_memory_count();
        enum cabe_status status;

        cabe_memory_fail_at(n);
        status = begin(&w, cache, &err);
        if (status == CABE_OK)
            status = search(&w, &job, &result, NULL, &err);
        cabe_memory_fail_at(0);
        if (status != CABE_OK && status != CABE_ERR_OOM)
            fail_msg("allocation %llu: %s", (unsigned long long)n, err.text);
        cabe_search_close(job);
        end(&w);
        if (cabe_memory_count() - before < n)
            break;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_repeated_is_found),
        cmocka_unit_test(a_file_that_changes_between_count_and_read_is_noticed),
        cmocka_unit_test(an_encoder_may_be_lent),
        cmocka_unit_test(a_stop_ends_it),
        cmocka_unit_test(search_finds_and_notices_changes),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(every_allocation_of_a_search_may_fail),
    };
    uint64_t freed;
    int failed;

    snprintf(folder, sizeof folder, "/tmp/cabe-analyze-XXXXXX");
    if (!mkdtemp(folder))
        return 1;
    snprintf(text_path, sizeof text_path, "%s/text.txt", folder);
    snprintf(cache, sizeof cache, "%s", folder);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (cabe_fitted_remove(cache, NULL, &freed, NULL) == CABE_OK) /* the text as well */
        rmdir(folder);
    return failed;
}
