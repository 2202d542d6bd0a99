#include "runtime/forecast.h"

#include <math.h>
#include <string.h>

#define SECOND UINT64_C(1000000000)
#define COMING_S 1.0
#define KEEP 0.95        /* of what was measured, beside one more */
#define TELLING 4.0      /* so many that were served tell a rate */
#define GUESS_S 5.0      /* what is expected counts for so many seconds, less with each that was served */
#define EARLY 0.9        /* of what was promised */
#define LATE 1.5         /* times it, and a second */
#define LOOK_NS (SECOND / 10)
#define MISSED_NS (SECOND + SECOND / 4)
#define KEEP_BACK 0.99
#define GUESS 0.9        /* of those that were told least, while nothing is known */
#define INHERIT 4.0      /* so many that are not known count as those that were told less */
#define HALVINGS 40

/* Of the time until it is to begin, what may be expected to be waited. */
#define SHARE 0.33       /* others may come that go before it */
#define SHARE_ALONE 0.5  /* nobody else matters; the rate may fall */
#define SHARE_DUE 0.67   /* it was promised */
#define OWN 1.05         /* times what waits of its class: so little others matter */
#define LOW 0.5          /* of these: the queue runs low, promises or not */

static double between(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (double)(to_ns - from_ns) / 1e9 : 0;
}

/* ---- rates ---- */

void cabe_forecast_came(struct cabe_forecast *f, enum cabe_class class_, double work, int64_t n, uint64_t now_ns)
{
    uint64_t second = now_ns / SECOND;
    unsigned at = (unsigned)(second % CABE_FORECAST_SECONDS);

    if (n == 0)
        f->last_ns = 0; /* there was a pause */
    if (f->came[class_].second[at] != second) {
        f->came[class_].second[at] = second;
        f->came[class_].first_ns[at] = now_ns;
        f->came[class_].work[at] = 0;
        f->came[class_].n[at] = 0;
    }
    f->came[class_].work[at] += work;
    f->came[class_].n[at]++;
}

/* Work a second that came of a class lately: since the first of them, which alone says nothing of the next. */
static double coming(const struct cabe_forecast *f, int class_, uint64_t now_ns)
{
    uint64_t second = now_ns / SECOND, first_ns = now_ns;
    double sum = 0, seconds;
    int64_t n = 0;

    for (int i = 0; i < CABE_FORECAST_SECONDS; i++) {
        uint64_t of = f->came[class_].second[i];

        if (of > second || second - of >= CABE_FORECAST_SECONDS)
            continue;
        sum += f->came[class_].work[i];
        n += f->came[class_].n[i];
        if (f->came[class_].first_ns[i] < first_ns)
            first_ns = f->came[class_].first_ns[i];
    }
    seconds = between(first_ns, now_ns);
    sum *= n > 0 ? (double)(n - 1) / (double)n : 0;
    return sum / (seconds > COMING_S ? seconds : COMING_S);
}

void cabe_forecast_served(struct cabe_forecast *f, double work, int64_t n, uint64_t now_ns)
{
    if (f->last_ns > 0) {
        f->n_served = f->n_served * KEEP + 1;
        f->work = f->work * KEEP + work;
        f->seconds = f->seconds * KEEP + between(f->last_ns, now_ns);
    }
    f->last_ns = n > 0 ? now_ns : 0;
}

void cabe_forecast_forget_rate(struct cabe_forecast *f)
{
    f->n_served = f->work = f->seconds = 0;
    f->last_ns = 0;
}

double cabe_forecast_rate(const struct cabe_forecast *f, double expected, uint64_t now_ns)
{
    double guess_s = GUESS_S * (1 - (1 - KEEP) * f->n_served), each, since;
    double work = f->work + guess_s * expected, seconds = f->seconds + (expected > 0 ? guess_s : 0);

    if (expected <= 0 && f->n_served < TELLING)
        return 0;
    each = f->n_served > 0 ? f->seconds / f->n_served : GUESS_S;
    since = f->last_ns > 0 ? between(f->last_ns, now_ns) : 0;
    seconds += since > 2 * each ? since - 2 * each : 0; /* it has come to a stand */
    return seconds > 0 ? work / seconds : 0;
}

/* ---- waiting ---- */

/* What a class gets of `total` when each takes what its weight gives it and no more than it wants. */
static double served(const double wanted[CABE_N_CLASSES], double total, enum cabe_class class_)
{
    double left = total, got[CABE_N_CLASSES] = {0};
    int is_full[CABE_N_CLASSES] = {0};

    for (int round = 0; round < CABE_N_CLASSES; round++) {
        double weights = 0, given = 0;
        int n_filled = 0;

        for (int c = 0; c < CABE_N_CLASSES; c++)
            weights += is_full[c] ? 0 : cabe_class_weight((enum cabe_class)c);
        for (int c = 0; c < CABE_N_CLASSES && weights > 0; c++) {
            double share = left * cabe_class_weight((enum cabe_class)c) / weights;

            if (is_full[c] || wanted[c] > share)
                continue;
            got[c] = wanted[c];
            given += wanted[c];
            is_full[c] = 1;
            n_filled++;
        }
        left -= given;
        if (n_filled > 0)
            continue;
        for (int c = 0; c < CABE_N_CLASSES; c++)
            if (!is_full[c])
                got[c] = left * cabe_class_weight((enum cabe_class)c) / weights;
        break;
    }
    return got[class_];
}

/* Whether all of the class that waits now is served within so many seconds. */
static int is_served(const double waiting[CABE_N_CLASSES], const double come[CABE_N_CLASSES], enum cabe_class class_,
                     double rate, double seconds)
{
    double wanted[CABE_N_CLASSES];

    for (int c = 0; c < CABE_N_CLASSES; c++)
        wanted[c] = waiting[c] + (c == (int)class_ ? 0 : come[c] * seconds);
    return served(wanted, rate * seconds, class_) >= waiting[class_] * (1 - 1e-9);
}

static double wait_of(const double waiting[CABE_N_CLASSES], const double come[CABE_N_CLASSES], enum cabe_class class_,
                      double work, double rate)
{
    double all[CABE_N_CLASSES], low = 0, high = CABE_FORECAST_MOST_S;

    if (rate <= 0)
        return 0;
    for (int c = 0; c < CABE_N_CLASSES; c++)
        all[c] = waiting[c] + (c == (int)class_ ? work : 0);
    if (!is_served(all, come, class_, rate, high))
        return high;
    for (int i = 0; i < HALVINGS; i++) {
        double middle = (low + high) / 2;

        if (is_served(all, come, class_, rate, middle))
            high = middle;
        else
            low = middle;
    }
    high -= work / rate; /* its own time is no waiting */
    return high > 0 ? high : 0;
}

double cabe_forecast_wait(const struct cabe_forecast *f, const double waiting[CABE_N_CLASSES], enum cabe_class class_,
                          double work, double rate, uint64_t now_ns)
{
    double come[CABE_N_CLASSES];

    for (int c = 0; c < CABE_N_CLASSES; c++)
        come[c] = coming(f, c, now_ns);
    return wait_of(waiting, come, class_, work, rate);
}

/* ---- promises ---- */

static int span_of(double told_s)
{
    int span = told_s > 1 ? (int)ceil(4 * log2(told_s)) : 0;

    return span < CABE_FORECAST_SPANS ? span : CABE_FORECAST_SPANS - 1;
}

static void count_back(struct cabe_forecast *f, const struct cabe_promise *p, int came_back)
{
    f->back[p->span].n_known = f->back[p->span].n_known * KEEP_BACK + 1;
    f->back[p->span].n_away = f->back[p->span].n_away * KEEP_BACK + !came_back;
}

/*
 * Of those that are told about as long, but no fewer than come of those that are told a little less: where patience ends
 * some do come, and those would find their room promised to others.
 */
static void returning(const struct cabe_forecast *f, double share[CABE_FORECAST_SPANS])
{
    double last = GUESS;

    for (int i = 0; i < CABE_FORECAST_SPANS; i++) {
        double own = (f->back[i].n_known - f->back[i].n_away + INHERIT * last) / (f->back[i].n_known + INHERIT);

        share[i] = own > last ? own : last;
        last = own;
    }
}

static void take_off(struct cabe_forecast *f, const struct cabe_promise *p)
{
    f->promised[p->class_][p->span] -= (double)p->work;
}

static void forget(struct cabe_forecast *f, int i)
{
    struct cabe_promise *p = &f->promises[i];

    if (!p->is_missed)
        take_off(f, p);
    *p = f->promises[--f->n_promises];
    if (f->n_promises == 0)
        memset(f->promised, 0, sizeof f->promised); /* exactly */
}

/* From when on, and until when it is good: nobody's clock is exact, and whole seconds are what many clients know. */
static uint64_t from_of(const struct cabe_promise *p)
{
    return p->at_ns - (uint64_t)((1 - EARLY) * (double)p->told_s * 1e9);
}

static uint64_t until_of(const struct cabe_promise *p)
{
    return p->at_ns + (uint64_t)(((LATE - 1) * (double)p->told_s + 1) * 1e9);
}

/* Who has not come a second after he could will not come. He may all the same, as long as the promise is good. */
static void forget_late(struct cabe_forecast *f, uint64_t now_ns)
{
    if (now_ns < f->looked_ns + LOOK_NS)
        return;
    f->looked_ns = now_ns;
    for (int i = f->n_promises - 1; i >= 0; i--) {
        struct cabe_promise *p = &f->promises[i];

        if (!p->is_missed && now_ns > p->at_ns + MISSED_NS) {
            p->is_missed = 1;
            take_off(f, p);
            f->n_stayed_away++;
            count_back(f, p, 0);
        }
        if (now_ns > until_of(p))
            forget(f, i);
    }
}

double cabe_forecast_returning(const struct cabe_forecast *f, double told_s)
{
    double share[CABE_FORECAST_SPANS];

    returning(f, share);
    return share[span_of(told_s)];
}

double cabe_forecast_wait_promised(struct cabe_forecast *f, const double waiting[CABE_N_CLASSES],
                                   enum cabe_class class_, double work, double rate, uint64_t now_ns)
{
    double all[CABE_N_CLASSES], share[CABE_FORECAST_SPANS];

    forget_late(f, now_ns);
    returning(f, share);
    for (int c = 0; c < CABE_N_CLASSES; c++) {
        all[c] = waiting[c];
        for (int i = 0; i < CABE_FORECAST_SPANS; i++)
            all[c] += f->promised[c][i] > 0 ? share[i] * f->promised[c][i] : 0;
    }
    return cabe_forecast_wait(f, all, class_, work, rate, now_ns);
}

static int first_missed(const struct cabe_forecast *f)
{
    int i = 0;

    while (i < f->n_promises && !f->promises[i].is_missed)
        i++;
    return i;
}

/* Of whom it is least likely that he comes, less than of one who is told `told_s`. */
static int least_likely(const struct cabe_forecast *f, double told_s)
{
    double share[CABE_FORECAST_SPANS], least;
    int at = CABE_FORECAST_PROMISES;

    returning(f, share);
    least = share[span_of(told_s)];
    for (int i = 0; i < f->n_promises; i++)
        if (share[f->promises[i].span] < least) {
            least = share[f->promises[i].span];
            at = i;
        }
    return at;
}

static int find(const struct cabe_forecast *f, uint64_t key)
{
    for (int i = 0; i < f->n_promises; i++)
        if (f->promises[i].key == key)
            return i;
    return -1;
}

enum cabe_promised cabe_forecast_promised(struct cabe_forecast *f, uint64_t key, uint64_t now_ns, double *seconds)
{
    int at;

    forget_late(f, now_ns);
    at = find(f, key);
    if (at < 0)
        return CABE_PROMISED_NOT;
    *seconds = between(now_ns, f->promises[at].at_ns);
    return now_ns >= from_of(&f->promises[at]) ? CABE_PROMISED_NOW : CABE_PROMISED_LATER;
}

void cabe_forecast_promise(struct cabe_forecast *f, uint64_t key, enum cabe_class class_, double work, double seconds,
                           uint64_t now_ns)
{
    int at = f->n_promises;

    f->n_promised++;
    if (at == CABE_FORECAST_PROMISES)
        at = first_missed(f);
    if (at == CABE_FORECAST_PROMISES && (at = least_likely(f, seconds)) < CABE_FORECAST_PROMISES)
        take_off(f, &f->promises[at]);
    if (at == CABE_FORECAST_PROMISES)
        return; /* it will be as if it came anew */
    f->n_promises += at == f->n_promises;
    f->promises[at] = (struct cabe_promise){.key = key,
                                            .at_ns = now_ns + (uint64_t)(seconds * 1e9),
                                            .told_s = (float)seconds,
                                            .work = (float)work,
                                            .class_ = (uint8_t)class_,
                                            .span = (uint8_t)span_of(seconds)};
    f->promised[class_][f->promises[at].span] += (double)f->promises[at].work; /* as it is taken off again */
}

void cabe_forecast_keep(struct cabe_forecast *f, uint64_t key, int was_let_in)
{
    int at = find(f, key);

    if (at < 0)
        return;
    if (!f->promises[at].is_missed)
        count_back(f, &f->promises[at], 1);
    forget(f, at);
    f->n_kept += was_let_in != 0;
    f->n_broken += was_let_in == 0;
}

/* ---- who is let in ---- */

/* What it is told: what it was told before, or a new promise. */
static double promise(struct cabe_forecast *f, const struct cabe_forecast_ask *a, double seconds, uint64_t now_ns)
{
    double left_s;

    if (cabe_forecast_promised(f, a->key, now_ns, &left_s) == CABE_PROMISED_LATER)
        return left_s;
    cabe_forecast_keep(f, a->key, 0);
    seconds = seconds < CABE_FORECAST_LEAST_S ? CABE_FORECAST_LEAST_S : seconds;
    seconds = seconds > CABE_FORECAST_MOST_S ? CABE_FORECAST_MOST_S : seconds;
    cabe_forecast_promise(f, a->key, a->class_, a->work, seconds, now_ns);
    return seconds;
}

int cabe_forecast_admit(struct cabe_forecast *f, const struct cabe_forecast_ask *a, uint64_t now_ns, double *wait_s,
                        double *retry_s)
{
    double own_s, ahead_s, all_s, left_s, share;
    int is_due = cabe_forecast_promised(f, a->key, now_ns, &left_s) == CABE_PROMISED_NOW;

    *wait_s = *retry_s = 0;
    if (a->rate <= 0)
        return 1;
    own_s = a->waiting[a->class_] / a->rate;
    ahead_s = cabe_forecast_wait(f, a->waiting, a->class_, a->work, a->rate, now_ns);
    all_s = a->place_s + cabe_forecast_wait_promised(f, a->waiting, a->class_, a->work, a->rate, now_ns);
    share = ahead_s <= OWN * own_s ? SHARE_ALONE : SHARE;
    *wait_s = ahead_s += a->place_s;
    if (all_s <= share * a->limit_s || ahead_s <= (is_due ? SHARE_DUE : LOW * share) * a->limit_s)
        return 1;
    *retry_s = promise(f, a, all_s - share * a->limit_s, now_ns);
    return 0;
}

double cabe_forecast_refuse(struct cabe_forecast *f, const struct cabe_forecast_ask *a, double seconds, uint64_t now_ns)
{
    seconds += cabe_forecast_wait_promised(f, a->waiting, a->class_, a->work, a->rate, now_ns) -
               cabe_forecast_wait(f, a->waiting, a->class_, a->work, a->rate, now_ns);
    return promise(f, a, seconds, now_ns);
}
