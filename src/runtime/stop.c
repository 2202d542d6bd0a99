/*
 * One automaton (Knuth, Morris, Pratt) a string. The bytes held back are always the first bytes of the string
 * that has matched most, so nothing else is stored.
 */
#include "runtime/stop.h"

#include <string.h>

#include "base/memory.h"

struct pattern {
    uint8_t text[CABE_STOP_BYTES_MAX];
    uint16_t fall[CABE_STOP_BYTES_MAX]; /* [i]: longest proper prefix that ends text[0..i] */
    size_t bytes, matched;
};

struct cabe_stop {
    int which;
    size_t n;
    struct pattern patterns[];
};

enum cabe_status cabe_stop_open(struct cabe_stop **out, const char *const *strings, const size_t *bytes,
                                size_t n, struct cabe_error *err)
{
    struct cabe_stop *stop;

    *out = NULL;
    if (n > CABE_STOP_MAX)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%zu stop strings, at most %d", n, CABE_STOP_MAX);
    for (size_t i = 0; i < n; i++)
        if (bytes[i] == 0 || bytes[i] > CABE_STOP_BYTES_MAX)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "stop string %zu: %zu bytes, wanted 1 to %u", i,
                             bytes[i], CABE_STOP_BYTES_MAX);
    stop = cabe_calloc(1, sizeof *stop + n * sizeof stop->patterns[0]);
    if (!stop)
        return cabe_fail(err, CABE_ERR_OOM, "stop strings");
    stop->n = n;
    stop->which = -1;
    for (size_t i = 0; i < n; i++) {
        struct pattern *p = &stop->patterns[i];

        memcpy(p->text, strings[i], bytes[i]);
        p->bytes = bytes[i];
        for (size_t k = 1, m = 0; k < p->bytes; k++) {
            while (m > 0 && p->text[k] != p->text[m])
                m = p->fall[m - 1];
            m += p->text[k] == p->text[m];
            p->fall[k] = (uint16_t)m;
        }
    }
    *out = stop;
    return CABE_OK;
}

void cabe_stop_close(struct cabe_stop *stop)
{
    cabe_free(stop);
}

void cabe_stop_reset(struct cabe_stop *stop)
{
    stop->which = -1;
    for (size_t i = 0; i < stop->n; i++)
        stop->patterns[i].matched = 0;
}

static const struct pattern *furthest(const struct cabe_stop *stop)
{
    const struct pattern *best = NULL;

    for (size_t i = 0; i < stop->n; i++)
        if (stop->patterns[i].matched > (best ? best->matched : 0))
            best = &stop->patterns[i];
    return best;
}

/* Steps every pattern over one byte; the longest that is now complete, or -1. */
static int step(struct cabe_stop *stop, uint8_t byte)
{
    int complete = -1;

    for (size_t i = 0; i < stop->n; i++) {
        struct pattern *p = &stop->patterns[i];

        while (p->matched > 0 && p->text[p->matched] != byte)
            p->matched = p->fall[p->matched - 1];
        p->matched += p->text[p->matched] == byte;
        if (p->matched == p->bytes && (complete < 0 || p->bytes > stop->patterns[complete].bytes))
            complete = (int)i;
    }
    return complete;
}

size_t cabe_stop_push(struct cabe_stop *stop, const char *text, size_t n, char *out)
{
    const struct pattern *held = furthest(stop);
    size_t n_held = held ? held->matched : 0, n_seen, n_out;

    if (stop->which >= 0)
        return 0;
    if (held)
        memcpy(out, held->text, n_held); /* before a step changes which it is */
    for (n_seen = 0; n_seen < n && stop->which < 0; n_seen++)
        stop->which = step(stop, (uint8_t)text[n_seen]);
    if (n_seen)
        memcpy(out + n_held, text, n_seen);
    n_out = n_held + n_seen;
    if (stop->which >= 0)
        return n_out - stop->patterns[stop->which].bytes;
    held = furthest(stop);
    return n_out - (held ? held->matched : 0);
}

size_t cabe_stop_flush(struct cabe_stop *stop, char *out)
{
    const struct pattern *held = furthest(stop);
    size_t n = held && stop->which < 0 ? held->matched : 0;

    if (n)
        memcpy(out, held->text, n);
    for (size_t i = 0; i < stop->n; i++)
        stop->patterns[i].matched = 0;
    return n;
}

int cabe_stop_which(const struct cabe_stop *stop)
{
    return stop->which;
}
