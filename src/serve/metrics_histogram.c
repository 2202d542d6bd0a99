#include "serve/metrics_histogram.h"

#include <math.h>

#define PER_DOUBLING 8
#define FIRST_EXPONENT (-20)

const struct cabe_bounds cabe_bounds_first_token = {
    {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560},
    22};
const struct cabe_bounds cabe_bounds_between_tokens = {
    {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80}, 19};
const struct cabe_bounds cabe_bounds_answer = {
    {0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680}, 21};
const struct cabe_bounds cabe_bounds_page = {
    {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800}, 21};
const struct cabe_bounds cabe_bounds_request = {
    {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300}, 17};
const struct cabe_bounds cabe_bounds_operation = {
    {0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800}, 15};

static int fine_of(double seconds)
{
    int exponent, at;
    double part;

    if (!(seconds > 0))
        return 0;
    part = frexp(seconds, &exponent); /* 0.5 <= part < 1 */
    at = (exponent - 1 - FIRST_EXPONENT) * PER_DOUBLING + (int)((part - 0.5) * 2 * PER_DOUBLING);
    return at < 0 ? 0 : at >= CABE_HISTOGRAM_FINE ? CABE_HISTOGRAM_FINE - 1 : at;
}

/* The middle of a fine bucket. */
static double middle_of(int fine)
{
    double base = ldexp(1.0, fine / PER_DOUBLING + FIRST_EXPONENT);

    return base * (1.0 + ((double)(fine % PER_DOUBLING) + 0.5) / PER_DOUBLING);
}

void cabe_histogram_add(struct cabe_histogram *histogram, double seconds, uint64_t n)
{
    int i = 0;

    if (n == 0 || !isfinite(seconds))
        return;
    if (seconds < 0)
        seconds = 0;
    while (i < histogram->bounds->n && seconds > histogram->bounds->at[i])
        i++;
    histogram->count[i] += n;
    histogram->n += n;
    histogram->sum += seconds * (double)n;
    if (seconds > histogram->largest)
        histogram->largest = seconds;
    histogram->fine[fine_of(seconds)] += n;
}

double cabe_histogram_quantile(const struct cabe_histogram *histogram, double q)
{
    double wanted = q * (double)histogram->n;
    uint64_t seen = 0;

    for (int i = 0; i < CABE_HISTOGRAM_FINE; i++) {
        seen += histogram->fine[i];
        if (histogram->fine[i] > 0 && (double)seen >= wanted)
            return fmin(middle_of(i), histogram->largest);
    }
    return 0;
}
