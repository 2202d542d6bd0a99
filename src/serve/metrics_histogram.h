/*
 * A histogram of seconds: the buckets that Prometheus reads, and finer ones for quantiles.
 *
 * Fine buckets: eight to each doubling from 1/2^20 s (a microsecond) on, so that a quantile is off by 1/16 at most.
 *
 * Thread: the caller's lock.
 */
#ifndef CABE_SERVE_METRICS_HISTOGRAM_H
#define CABE_SERVE_METRICS_HISTOGRAM_H

#include <stddef.h>
#include <stdint.h>

#define CABE_HISTOGRAM_BOUNDS_MAX 24
#define CABE_HISTOGRAM_FINE 264 /* up to 2^13 s */

struct cabe_bounds {
    double at[CABE_HISTOGRAM_BOUNDS_MAX]; /* rising; the last, infinite one is not written down */
    int n;
};
/* As vLLM has them, so that its dashboards show ours: */
extern const struct cabe_bounds cabe_bounds_first_token, cabe_bounds_between_tokens, cabe_bounds_answer,
    cabe_bounds_page;
extern const struct cabe_bounds cabe_bounds_request, cabe_bounds_operation;

struct cabe_histogram {
    const struct cabe_bounds *bounds;
    uint64_t count[CABE_HISTOGRAM_BOUNDS_MAX + 1]; /* not added up */
    uint64_t n;
    double sum, largest;
    uint64_t fine[CABE_HISTOGRAM_FINE];
};

/* `n` observations of one value. */
void cabe_histogram_add(struct cabe_histogram *histogram, double seconds, uint64_t n);
/* 0 < q < 1; 0 without observations. */
double cabe_histogram_quantile(const struct cabe_histogram *histogram, double q);

#endif
