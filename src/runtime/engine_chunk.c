#include "runtime/engine_chunk.h"

#define FIRST_TOKENS 4
#define TELLING 16 /* so many tokens tell what one costs when nobody generates */
#define LOOK_EVERY 64 /* steps with prompts, then one without */
#define CERTAIN 2     /* steps one after the other that were too long: one may have been something else */
#define BAD_FOR 64    /* steps: one in so many may be too long because it was tried */
#define OUTLIER 2.0   /* a time is believed up to so many times what was known: the machine has other work too */
#define STEADY 1.1    /* a step without prompts: about the median, it moves so many times at most */
#define RATE 0.3      /* of what was expected wrongly, so much is learned from one step */
#define HEADROOM 1.25 /* tokens may be tried that are expected to take so many times what is left */
#define SMOOTH 0.6    /* a share of the tokens that pieces would give is enough to do without them */

/* ---- what tokens cost ---- */

static double cost_of(const struct cabe_chunk_cost *cost, int64_t n, const struct cabe_chunk_depth *depth)
{
    double mean = depth->mean / CABE_CHUNK_DEPTH, sum = depth->sum / CABE_CHUNK_DEPTH;

    return (double)n * (cost->base + mean * cost->deeper) + sum * cost->read;
}

/* The most tokens that take at most `seconds`; 0: none does. */
static double tokens_in(const struct cabe_chunk_cost *cost, double seconds, const struct cabe_chunk_depth *depth,
                        double n_max)
{
    double each = cost->base + depth->mean / CABE_CHUNK_DEPTH * cost->deeper, n;

    seconds -= depth->sum / CABE_CHUNK_DEPTH * cost->read;
    if (seconds <= 0)
        return 0;
    n = each > 0 ? seconds / each : n_max;
    return n < n_max ? n : n_max;
}

/* Moves what is expected towards what was seen, along what took part in it (Kaczmarz). */
static void learn_cost(struct cabe_chunk_cost *cost, int64_t n, const struct cabe_chunk_depth *depth, double seconds)
{
    double mean = depth->mean / CABE_CHUNK_DEPTH, sum = depth->sum / CABE_CHUNK_DEPTH;
    double tokens = (double)n, expected = cost_of(cost, n, depth), step;

    seconds = seconds > 0 ? seconds : 0;
    if (cost->n_seen++ == 0) { /* a guess: behind 4,096 others one costs twice as much, and its cache as much again */
        cost->base = seconds / (tokens * (1 + mean / 4) + sum / 4);
        cost->deeper = cost->read = cost->base / 4;
        return;
    }
    if (seconds > OUTLIER * expected && expected > 0)
        seconds = OUTLIER * expected;
    step = RATE * (seconds - expected) / (tokens * tokens * (1 + mean * mean) + sum * sum);
    cost->base += step * tokens;
    cost->deeper += step * tokens * mean;
    cost->read += step * sum;
    cost->base = cost->base > 0 ? cost->base : 0;
    cost->deeper = cost->deeper > 0 ? cost->deeper : 0;
    cost->read = cost->read > 0 ? cost->read : 0;
}

/* ---- how many ---- */

static double *alone_of(struct cabe_chunk *chunk, int32_t n_generating)
{
    return &chunk->alone_s[(n_generating < CABE_CHUNK_SEQS ? n_generating : CABE_CHUNK_SEQS) - 1];
}

static int64_t least(double n, int64_t n_max)
{
    return n < (double)n_max ? (n >= 1 ? (int64_t)n : 1) : n_max;
}

static double piece_of(double alone_s, double slowdown)
{
    double share = CABE_CHUNK_SPACED * alone_s * (slowdown - 1), most = CABE_CHUNK_LONG_STEPS * alone_s;

    most = most > CABE_CHUNK_PIECE_S ? most : CABE_CHUNK_PIECE_S;
    return share < most ? share : most;
}

/* Tokens of each step that keeps within the limit, as far as is known; 0: one is too much. */
static double fitting(const struct cabe_chunk *chunk, const struct cabe_chunk_cost *cost, double extra_s,
                      const struct cabe_chunk_depth *depth, int64_t n_max)
{
    double n = tokens_in(cost, HEADROOM * extra_s, depth, (double)n_max);

    if (n < 2 && tokens_in(cost, extra_s, depth, 1) < 1)
        return 0;
    return n < (double)chunk->n ? n : (double)chunk->n;
}

/* Not much more than was seen to take as long as expected. */
static double tried(const struct cabe_chunk *chunk, int64_t n_max)
{
    double n = 4.0 * (double)chunk->n, again = 2.0 * (double)chunk->n_piece;

    n = n > again ? n : again;
    return n < (double)n_max ? n : (double)n_max;
}

int64_t cabe_chunk_limit(struct cabe_chunk *chunk, int32_t n_generating, const struct cabe_chunk_depth *depth,
                         int64_t n_max, double slowdown)
{
    const struct cabe_chunk_cost *cost = chunk->beside.n_seen ? &chunk->beside : &chunk->apart;
    double alone_s = *alone_of(chunk, n_generating), extra_s, piece_s, each, pieces, seconds;

    chunk->slowdown = slowdown;
    chunk->is_spaced = 0;
    if (alone_s <= 0 || chunk->n_mixed >= LOOK_EVERY || n_max < 1)
        return 0;
    extra_s = alone_s * (slowdown - 1);
    if (chunk->n < 1)
        chunk->n = cost->n_seen ? least(tokens_in(cost, extra_s, depth, (double)n_max), n_max) : FIRST_TOKENS;
    if (chunk->n > n_max)
        chunk->n = n_max;
    if (slowdown <= 1 || !cost->n_seen)
        return chunk->n;
    piece_s = piece_of(alone_s, slowdown);
    seconds = alone_s + piece_s;
    pieces = tokens_in(cost, piece_s, depth, tried(chunk, n_max));
    each = fitting(chunk, cost, extra_s, depth, n_max);
    if (each >= 1 && each / (slowdown * alone_s) >= SMOOTH * pieces / (seconds + (CABE_CHUNK_SPACED - 1) * alone_s))
        return (int64_t)each;
    chunk->is_spaced = 1;
    return chunk->n_since >= CABE_CHUNK_SPACED - 1 ? least(pieces, n_max) : 0;
}

int64_t cabe_chunk_tokens(const struct cabe_chunk *chunk, double seconds, const struct cabe_chunk_depth *depth,
                          int64_t n_max)
{
    double n = (double)n_max;

    if (chunk->apart.n_seen)
        n = tokens_in(&chunk->apart, seconds, depth, n);
    if (n < FIRST_TOKENS)
        n = FIRST_TOKENS;
    return n < (double)n_max ? (int64_t)n : n_max;
}

double cabe_chunk_prompt_s(const struct cabe_chunk *chunk)
{
    const struct cabe_chunk_cost *cost = chunk->apart.n_seen ? &chunk->apart : &chunk->beside;

    return cost->n_seen ? cost->base + cost->deeper / 4 : 0;
}

double cabe_chunk_answer_s(const struct cabe_chunk *chunk, int32_t n_seqs)
{
    for (int32_t n = n_seqs < CABE_CHUNK_SEQS ? n_seqs : CABE_CHUNK_SEQS; n > 0; n--)
        if (chunk->alone_s[n - 1] > 0)
            return chunk->alone_s[n - 1] / n;
    return 0;
}

/* ---- learning ---- */

static void learn_alone(struct cabe_chunk *chunk, double *alone_s, double seconds)
{
    if (*alone_s <= 0)
        *alone_s = seconds;
    else
        *alone_s *= seconds > STEADY * *alone_s ? STEADY : seconds * STEADY < *alone_s ? 1 / STEADY : seconds / *alone_s;
    chunk->n_mixed = 0;
}

static void too_long(struct cabe_chunk *chunk, int64_t n, double ratio)
{
    int64_t less = (int64_t)((double)n * (chunk->slowdown - 1) / (ratio - 1));

    chunk->n_bad = n;
    chunk->bad_for = BAD_FOR;
    chunk->n_long = 0;
    if (less >= n)
        less = n - 1;
    if (less < n / 2) /* it may have been something else */
        less = n / 2;
    chunk->n = less > 1 ? less : 1;
}

static void grow(struct cabe_chunk *chunk)
{
    if (chunk->n_bad && chunk->bad_for % 4 != 0)
        return;
    chunk->n += chunk->n_bad ? 1 : chunk->n / 4 + 1;
    if (chunk->n_bad && chunk->n >= chunk->n_bad)
        chunk->n = chunk->n_bad > 1 ? chunk->n_bad - 1 : 1;
}

static int next_since(const struct cabe_chunk *chunk)
{
    return chunk->n_since < CABE_CHUNK_SPACED ? chunk->n_since + 1 : chunk->n_since;
}

void cabe_chunk_learn(struct cabe_chunk *chunk, int32_t n_generating, int64_t n_prompt_tokens,
                      const struct cabe_chunk_depth *depth, double seconds)
{
    double *alone_s, ratio;
    int is_long;

    if (n_generating == 0) {
        if (n_prompt_tokens >= TELLING)
            learn_cost(&chunk->apart, n_prompt_tokens, depth, seconds);
        return;
    }
    alone_s = alone_of(chunk, n_generating);
    if (n_prompt_tokens == 0) {
        learn_alone(chunk, alone_s, seconds);
        chunk->n_since = next_since(chunk);
        return;
    }
    chunk->n_mixed++;
    if (chunk->bad_for > 0 && --chunk->bad_for == 0)
        chunk->n_bad = 0;
    if (*alone_s <= 0)
        return;
    learn_cost(&chunk->beside, n_prompt_tokens, depth, seconds - *alone_s);
    ratio = seconds / *alone_s;
    is_long = ratio > chunk->slowdown && ratio > 1;
    chunk->n_since = is_long || chunk->is_spaced ? 0 : next_since(chunk);
    if (chunk->is_spaced) {
        chunk->n_piece = n_prompt_tokens;
        return;
    }
    chunk->n_long = is_long ? chunk->n_long + 1 : 0;
    if (chunk->n_long >= CERTAIN)
        too_long(chunk, n_prompt_tokens, ratio);
    else if (!is_long && n_prompt_tokens >= chunk->n)
        grow(chunk);
}
