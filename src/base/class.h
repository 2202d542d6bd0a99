/*
 * The class of a piece of work: what it may take before others, everywhere where work waits.
 *
 * One class governs a request's place in queues, its share of steps, when it is preempted and how long its pages are
 * kept. Within a class: first in, first out.
 */
#ifndef CABE_BASE_CLASS_H
#define CABE_BASE_CLASS_H

/* symbol, name in messages, headers and JSON, weight: its share of a contended resource beside the others' */
#define CABE_CLASS_MAP(X)        \
    X(CRITICAL, "critical", 16)  \
    X(HIGH, "high", 8)           \
    X(NORMAL, "normal", 4)       \
    X(LOW, "low", 1)

enum cabe_class {
#define X(symbol, name, weight) CABE_CLASS_##symbol,
    CABE_CLASS_MAP(X)
#undef X
    CABE_N_CLASSES
};

static inline const char *cabe_class_name(enum cabe_class class_)
{
    static const char *const names[] = {
#define X(symbol, name, weight) name,
        CABE_CLASS_MAP(X)
#undef X
    };

    return (unsigned)class_ < CABE_N_CLASSES ? names[class_] : "?";
}

static inline unsigned cabe_class_weight(enum cabe_class class_)
{
    static const unsigned weights[] = {
#define X(symbol, name, weight) weight,
        CABE_CLASS_MAP(X)
#undef X
    };

    return weights[class_];
}

#endif
