/*
 * How long what is asked now would wait in a queue, and what who is sent away is told.
 *
 * Work is counted in seconds that it is expected to take of what serves the queue (or in any unit whose rate is then
 * measured). The wait: what waits of the same class, and what the others' weights give them of the rate meanwhile, of
 * what waits of them and of what has come of them lately and will go on coming.
 *
 * Who is refused is told when there will be room, and that is a promise: it is remembered by a key of what was asked, later
 * ones queue up behind it as far as those who were promised do come back, and who comes back in time is let in before
 * others. Who comes too early is told what is left of it. How many come back is learned by what they were told: who is
 * told more than he will wait does not come, and nobody is told to wait for him.
 *
 * Owner: a plain value, zeroed at first. Thread: one at a time (the caller's lock). Time is the caller's.
 */
#ifndef CABE_RUNTIME_FORECAST_H
#define CABE_RUNTIME_FORECAST_H

#include <stdint.h>

#include "base/class.h"

#define CABE_FORECAST_SECONDS 8
#define CABE_FORECAST_PROMISES 4096
#define CABE_FORECAST_MOST_S 600.0
#define CABE_FORECAST_LEAST_S 0.1
#define CABE_FORECAST_SPANS 38 /* up to a second, four to each doubling */

struct cabe_promise {
    uint64_t key, at_ns;
    float told_s, work;
    uint8_t class_, span;
    uint8_t is_missed; /* counted as not coming back */
};

struct cabe_forecast {
    double n_served, work, seconds; /* while more waited, lately: those before count for less */
    uint64_t last_ns;               /* when something was served last; 0: nothing has waited since */
    struct {
        uint64_t second[CABE_FORECAST_SECONDS], first_ns[CABE_FORECAST_SECONDS];
        double work[CABE_FORECAST_SECONDS];
        int64_t n[CABE_FORECAST_SECONDS];
    } came[CABE_N_CLASSES];
    struct cabe_promise promises[CABE_FORECAST_PROMISES];
    int n_promises;
    uint64_t looked_ns; /* for those that are late */
    double promised[CABE_N_CLASSES][CABE_FORECAST_SPANS]; /* work of those that may still come, by what they were told */
    struct {
        double n_known, n_away; /* those that came back or did not, lately; of them, those that did not */
    } back[CABE_FORECAST_SPANS];
    uint64_t n_promised, n_kept, n_broken, n_stayed_away;
};

/* Something has come, whether it is let in or not, to a queue in which n wait. */
void cabe_forecast_came(struct cabe_forecast *forecast, enum cabe_class class_, double work, int64_t n, uint64_t now_ns);
/* Something has been served and has ended, while n wait: of when it is taken too little can be told, places fill first. */
void cabe_forecast_served(struct cabe_forecast *forecast, double work, int64_t n, uint64_t now_ns);

/* Work a second while something waits; `expected` where it was not measured enough (0: not known). */
void cabe_forecast_forget_rate(struct cabe_forecast *forecast); /* what has ended lately was not served */
double cabe_forecast_rate(const struct cabe_forecast *forecast, double expected, uint64_t now_ns);

/*
 * Seconds that one of `work` would wait behind waiting[] of each class, at most CABE_FORECAST_MOST_S; 0 at rate 0.
 */
double cabe_forecast_wait(const struct cabe_forecast *forecast, const double waiting[CABE_N_CLASSES],
                          enum cabe_class class_, double work, double rate, uint64_t now_ns);
/* The same, behind those too that were promised room and will come back for it. */
double cabe_forecast_wait_promised(struct cabe_forecast *forecast, const double waiting[CABE_N_CLASSES],
                                   enum cabe_class class_, double work, double rate, uint64_t now_ns);

struct cabe_forecast_ask {
    uint64_t key;
    enum cabe_class class_;
    double work;
    double waiting[CABE_N_CLASSES]; /* work */
    double rate;                    /* cabe_forecast_rate() */
    double place_s;                 /* until it could begin if nothing waited */
    double limit_s;                 /* it is to begin within */
};
/*
 * Whether it is let in: it will probably begin in a good part of its time, or was promised that there is room; `*wait_s`
 * is what it will wait. If not, `*retry_s` is what it is told, and promised.
 */
int cabe_forecast_admit(struct cabe_forecast *forecast, const struct cabe_forecast_ask *ask, uint64_t now_ns,
                        double *wait_s, double *retry_s);
/* The same for one that is refused for another reason, which is gone in `seconds`: what it is told. */
double cabe_forecast_refuse(struct cabe_forecast *forecast, const struct cabe_forecast_ask *ask, double seconds,
                            uint64_t now_ns);

enum cabe_promised {
    CABE_PROMISED_NOT,
    CABE_PROMISED_LATER, /* it is too early */
    CABE_PROMISED_NOW
};
/*
 * The share of those that were promised room in so many seconds which does come back: of those that were told about as
 * long, and as far as these are few, of those that were told less.
 */
double cabe_forecast_returning(const struct cabe_forecast *forecast, double told_s);
/* What was promised to `key`; LATER: `*seconds` to go. */
enum cabe_promised cabe_forecast_promised(struct cabe_forecast *forecast, uint64_t key, uint64_t now_ns, double *seconds);
/* There will be room in so many seconds. */
void cabe_forecast_promise(struct cabe_forecast *forecast, uint64_t key, enum cabe_class class_, double work,
                           double seconds, uint64_t now_ns);
/* It came back in time, and was let in or not. */
void cabe_forecast_keep(struct cabe_forecast *forecast, uint64_t key, int was_let_in);

#endif
