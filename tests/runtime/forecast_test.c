/* Waits that are foretold, and promises, on a clock that is made up. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/forecast.h"
#include "runtime/queue.h"

#define SECOND UINT64_C(1000000000)

static uint64_t ns_of(double seconds)
{
    return (uint64_t)(seconds * 1e9) + SECOND; /* 0 means never */
}

static double uniform(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return ((double)(*seed >> 8) + 0.5) / (1 << 24);
}

static void alone_it_waits_for_its_own(void **state)
{
    static struct cabe_forecast f;
    double waiting[CABE_N_CLASSES] = {0};

    (void)state;
    assert_true(fabs(cabe_forecast_wait(&f, waiting, CABE_CLASS_LOW, 3, 1, ns_of(0))) < 1e-6);
    assert_true(fabs(cabe_forecast_wait(&f, waiting, CABE_CLASS_LOW, 3, 0, ns_of(0))) < 1e-6); /* not known */
    for (int c = 0; c < CABE_N_CLASSES; c++) {
        memset(waiting, 0, sizeof waiting);
        waiting[c] = 10;
        assert_true(fabs(cabe_forecast_wait(&f, waiting, (enum cabe_class)c, 3, 2, ns_of(0)) - 5) < 1e-3);
    }
    waiting[CABE_CLASS_HIGH] = 1e9;
    assert_true(cabe_forecast_wait(&f, waiting, CABE_CLASS_HIGH, 1, 1, ns_of(0)) <= CABE_FORECAST_MOST_S);
}

/* Others' work counts up to what their weights give them meanwhile; what they have is not all that they will have. */
static void others_count_by_weight(void **state)
{
    static struct cabe_forecast f;
    double waiting[CABE_N_CLASSES] = {0}, without, with;

    (void)state;
    waiting[CABE_CLASS_HIGH] = 1000;
    waiting[CABE_CLASS_NORMAL] = 4;
    /* NORMAL has a third of the rate: 4 + 1 of its own take 15, its own 1. */
    assert_true(fabs(cabe_forecast_wait(&f, waiting, CABE_CLASS_NORMAL, 1, 1, ns_of(0)) - 14) < 1e-3);
    /* HIGH has all but the 5 that NORMAL wants. */
    assert_true(fabs(cabe_forecast_wait(&f, waiting, CABE_CLASS_NORMAL, 0, 1, ns_of(0)) - 12) < 1e-3);
    waiting[CABE_CLASS_HIGH] = 2;
    without = cabe_forecast_wait(&f, waiting, CABE_CLASS_NORMAL, 1, 1, ns_of(0));
    assert_true(fabs(without - 6) < 1e-3);
    for (int i = 0; i < 80; i++) /* half of what can be done comes of HIGH, and will go on coming */
        cabe_forecast_came(&f, CABE_CLASS_HIGH, 0.05, 1, ns_of(i * 0.1));
    with = cabe_forecast_wait(&f, waiting, CABE_CLASS_NORMAL, 1, 1, ns_of(7.95));
    assert_true(fabs(with - (7 / 0.5 - 1)) < 1);
    assert_true(fabs(cabe_forecast_wait(&f, waiting, CABE_CLASS_NORMAL, 1, 1, ns_of(60)) - without) < 1e-3);
}

static void the_rate_is_of_when_something_waits(void **state)
{
    static struct cabe_forecast f;
    double at = 0;

    (void)state;
    assert_true(cabe_forecast_rate(&f, 0, ns_of(0)) == 0);
    assert_true(fabs(cabe_forecast_rate(&f, 1, ns_of(0)) - 1) < 1e-9);
    for (int i = 0; i < 50; i++) { /* nothing is left each time: that says nothing */
        cabe_forecast_came(&f, CABE_CLASS_NORMAL, 1, 0, ns_of(at));
        cabe_forecast_served(&f, 1, 0, ns_of(at));
        at += 10;
    }
    assert_true(fabs(cabe_forecast_rate(&f, 1, ns_of(at)) - 1) < 1e-9);
    for (int i = 0; i < 50; i++) {
        cabe_forecast_served(&f, 1, 5, ns_of(at));
        at += 2;
    }
    assert_true(fabs(cabe_forecast_rate(&f, 1, ns_of(at)) - 0.5) < 0.03);
    assert_true(cabe_forecast_rate(&f, 1, ns_of(at + 100)) < 0.2); /* nothing was taken for long: it stands */
    cabe_forecast_came(&f, CABE_CLASS_NORMAL, 1, 0, ns_of(at + 100)); /* no: there was nothing */
    assert_true(fabs(cabe_forecast_rate(&f, 1, ns_of(at + 100)) - 0.5) < 0.03);
    cabe_forecast_forget_rate(&f);
    assert_true(fabs(cabe_forecast_rate(&f, 1, ns_of(at + 100)) - 1) < 1e-9);
}

static void promises(void **state)
{
    static struct cabe_forecast f;
    double waiting[CABE_N_CLASSES] = {0}, left;

    (void)state;
    assert_int_equal(cabe_forecast_promised(&f, 7, ns_of(0), &left), CABE_PROMISED_NOT);
    cabe_forecast_promise(&f, 7, CABE_CLASS_NORMAL, 2, 10, ns_of(0));
    assert_true(fabs(cabe_forecast_wait_promised(&f, waiting, CABE_CLASS_NORMAL, 1, 1, ns_of(1)) - 1.8) < 1e-3); /* most come */
    assert_int_equal(cabe_forecast_promised(&f, 7, ns_of(4), &left), CABE_PROMISED_LATER);
    assert_true(fabs(left - 6) < 1e-6);
    assert_int_equal(cabe_forecast_promised(&f, 8, ns_of(10), &left), CABE_PROMISED_NOT);
    assert_int_equal(cabe_forecast_promised(&f, 7, ns_of(9.5), &left), CABE_PROMISED_NOW);
    assert_int_equal(cabe_forecast_promised(&f, 7, ns_of(11), &left), CABE_PROMISED_NOW); /* whole seconds */
    cabe_forecast_keep(&f, 7, 1);
    assert_int_equal(cabe_forecast_promised(&f, 7, ns_of(11), &left), CABE_PROMISED_NOT);
    assert_int_equal(f.n_kept, 1);
    for (int i = 0; i < 3 * CABE_FORECAST_PROMISES; i++)
        cabe_forecast_promise(&f, (uint64_t)i, CABE_CLASS_LOW, 1, 10, ns_of(20));
    assert_int_equal(f.n_promises, CABE_FORECAST_PROMISES);
    assert_int_equal(cabe_forecast_promised(&f, 1, ns_of(100), &left), CABE_PROMISED_NOT); /* nobody came */
    assert_int_equal(f.n_promises, 0);
    assert_true(cabe_forecast_returning(&f, 10) > 0.8); /* as of those who were told less: not known */
    assert_true(cabe_forecast_returning(&f, 12) < 0.1);
    assert_true(cabe_forecast_returning(&f, 500) < 0.1);
    cabe_forecast_promise(&f, 7, CABE_CLASS_NORMAL, 100, 12, ns_of(200));
    assert_true(cabe_forecast_wait_promised(&f, waiting, CABE_CLASS_NORMAL, 1, 1, ns_of(200)) < 10); /* nor will he */
}

/* ---- a server, and ten times what it can do ---- */

#define FIRST_S 30.0
#define N_ASKS 40000
#define WARM_S 2
#define N_TOLD 1000

struct ask {
    struct cabe_queue_item item;
    double work, real; /* as expected; as it is */
    double at, told_at, told; /* it comes; the first refusal, and what it was told */
    int n_refused;
};

struct world {
    struct cabe_queue queue;
    struct cabe_forecast forecast;
    struct ask *asks;
    size_t n_asks;
    unsigned seed;
    double returning, patience_s; /* share of those that come again, if it is within so many seconds */
    double speed;     /* of the server beside what it is taken for */
    double busy_until, busy_s;
    double longest_wait; /* of those that came after WARM_S */
    double told[N_TOLD]; /* the last ones */
    size_t n_told;
    size_t n_late, n_let_in, n_came_again, n_let_in_again;
};

static int let_in(struct world *w, struct ask *a, uint64_t key, double now)
{
    struct cabe_forecast_ask ask = {.key = key, .class_ = a->item.class_, .work = a->work, .limit_s = FIRST_S};
    double wait_s, told;
    int is_in;

    ask.rate = cabe_forecast_rate(&w->forecast, 1, ns_of(now));
    for (int c = 0; c < CABE_N_CLASSES; c++)
        ask.waiting[c] = w->queue.by_class[c].work;
    is_in = cabe_forecast_admit(&w->forecast, &ask, ns_of(now), &wait_s, &told);
    assert_true(is_in ? wait_s < FIRST_S : told > 0);
    if (!is_in)
        a->told = told;
    return is_in;
}

static void serve(struct world *w, double now)
{
    while (w->queue.n > 0 && w->busy_until <= now) {
        double begin = w->busy_until;
        struct cabe_queue_item *item = cabe_queue_pop(&w->queue, ns_of(begin));
        struct ask *a = CABE_QUEUE_OF(item, struct ask, item);
        double waited = begin - (double)(item->entered_ns - SECOND) / 1e9;

        begin = waited < 0 ? begin - waited : begin;
        cabe_forecast_served(&w->forecast, a->work, w->queue.n, ns_of(begin));
        w->n_late += waited > FIRST_S;
        if (item->entered_ns > ns_of(WARM_S) && waited > w->longest_wait)
            w->longest_wait = waited;
        w->busy_until = begin + a->real / w->speed;
        w->busy_s += a->real / w->speed;
    }
    if (w->busy_until < now)
        w->busy_until = now;
}

static void come(struct world *w, struct ask *a, double now)
{
    size_t i = (size_t)(a - w->asks);
    enum cabe_class class_ = a->item.class_;
    int again = a->n_refused > 0;

    w->n_came_again += (size_t)again;
    cabe_forecast_came(&w->forecast, class_, a->work, w->queue.n, ns_of(now));
    if (!let_in(w, a, i + 1, now)) {
        if (uniform(&w->seed) < w->returning && a->told <= w->patience_s)
            a->at = now + a->told;
        else
            a->at = INFINITY;
        w->told[w->n_told++ % N_TOLD] = a->told;
        if (a->n_refused++ == 0)
            a->told_at = now + a->told;
        return;
    }
    cabe_forecast_keep(&w->forecast, i + 1, 1);
    assert_int_equal(cabe_queue_push(&w->queue, &a->item, class_, 200, ns_of(now), NULL), CABE_OK);
    cabe_queue_weigh(&a->item, a->work);
    a->at = INFINITY;
    w->n_let_in++;
    w->n_let_in_again += (size_t)again;
}

/* Asks of 0.3 s each on average, ten times as many as can be served for so many seconds, then those who still come again. */
static void overload(struct world *w, double seconds)
{
    double next = 0, now = 0;

    w->asks = calloc(N_ASKS, sizeof *w->asks);
    assert_non_null(w->asks);
    cabe_queue_init(&w->queue, &(struct cabe_queue_config){0});
    while (now < seconds) {
        struct ask *a = NULL;
        double at = next;

        for (size_t i = 0; i < w->n_asks; i++)
            if (w->asks[i].at < at) {
                a = &w->asks[i];
                at = a->at;
            }
        now = at;
        serve(w, now);
        if (!a) {
            double draw = uniform(&w->seed);

            assert_true(w->n_asks < N_ASKS);
            a = &w->asks[w->n_asks++];
            a->item.class_ = draw < 0.02 ? CABE_CLASS_CRITICAL : draw < 0.2 ? CABE_CLASS_HIGH
                                                             : draw < 0.8 ? CABE_CLASS_NORMAL
                                                                          : CABE_CLASS_LOW;
            a->work = 0.3;
            a->real = 0.6 * uniform(&w->seed);
            next -= log(uniform(&w->seed)) * 0.03;
        }
        come(w, a, now);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median_told(struct world *w)
{
    qsort(w->told, N_TOLD, sizeof w->told[0], by_value);
    return w->told[N_TOLD / 2];
}

static void close_world(struct world *w)
{
    free(w->asks);
    memset(w, 0, sizeof *w);
}

/* What is let in begins in time, the server is never idle, and who comes again when told to is let in. */
static void what_is_let_in_is_served(void **state)
{
    static const double returning[] = {0, 0.3, 1}, speeds[] = {1, 0.75, 1.5};
    static struct world w;

    (void)state;
    for (size_t r = 0; r < 3; r++)
        for (size_t s = 0; s < 3; s++) {
            size_t n_came_again = 0, n_let_in_again = 0, n_late = 0;

            for (unsigned seed = 7; seed < 10; seed++) {
                w.seed = seed;
                w.returning = returning[r];
                w.patience_s = INFINITY;
                w.speed = speeds[s];
                overload(&w, 120);
                n_late += w.n_late;
                n_came_again += w.n_came_again;
                n_let_in_again += w.n_let_in_again;
                printf("%3.0f %% come again, %.2f as fast as taken for: %zu of %zu let in, %zu late, then the longest wait %.1f s, "
                       "busy %.1f %%, %zu of %zu let in when they came again\n",
                       100 * w.returning, w.speed, w.n_let_in, w.n_asks, w.n_late, w.longest_wait, 100 * w.busy_s / 120,
                       w.n_let_in_again, w.n_came_again);
                assert_true(w.longest_wait < FIRST_S);
                assert_true(w.busy_s > 0.98 * 120);
                close_world(&w);
            }
            /* Of the first second, when little was known. */
            assert_true(n_late <= (speeds[s] < 1 ? 14u : 5u));
            assert_true((double)n_let_in_again >= (speeds[s] < 1 ? 0.75 : 0.88) * (double)n_came_again);
        }
}

/* Who is told more than he will wait does not come again: later ones are not told to wait for him. */
static void patience_is_learned(void **state)
{
    static const double patience[] = {0, 5, 25, 100};
    static struct world w;

    (void)state;
    for (size_t p = 0; p < 4; p++) {
        w.seed = 7;
        w.returning = 1;
        w.speed = 1;
        w.patience_s = patience[p];
        overload(&w, 240);
        printf("they wait up to %g s: at last told %.1f s (median), %zu let in, %zu late, busy %.1f %%, %zu of %zu let in when "
               "they came again\n",
               w.patience_s, median_told(&w), w.n_let_in, w.n_late, 100 * w.busy_s / 240, w.n_let_in_again, w.n_came_again);
        assert_true(median_told(&w) <= 2.2 * w.patience_s + 2);
        assert_true((double)w.n_let_in_again >= 0.84 * (double)w.n_came_again);
        assert_true(w.busy_s > 0.98 * 240 && w.n_late <= 8);
        close_world(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alone_it_waits_for_its_own), cmocka_unit_test(others_count_by_weight),
        cmocka_unit_test(the_rate_is_of_when_something_waits), cmocka_unit_test(promises),
        cmocka_unit_test(what_is_let_in_is_served),
        cmocka_unit_test(patience_is_learned)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
