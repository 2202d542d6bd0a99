#include "runtime/engine_chunk.h"

#define FIRST_TOKENS 4
#define TELLING 16 /* so many tokens tell what one costs */
#define LOOK_EVERY 64 /* steps with prompts, then one without */
#define BAD_FOR 64    /* steps: one in so many may be too long because it was tried */
#define OUTLIER 2.0   /* a time is believed up to so many times what was known: the machine has other work too */

static double *alone_of(struct cabe_chunk *chunk, int32_t n_generating)
{
    return &chunk->alone_s[(n_generating < CABE_CHUNK_SEQS ? n_generating : CABE_CHUNK_SEQS) - 1];
}

int64_t cabe_chunk_limit(struct cabe_chunk *chunk, int32_t n_generating, int64_t n_max, double slowdown)
{
    chunk->slowdown = slowdown;
    if (*alone_of(chunk, n_generating) <= 0 || chunk->n_mixed >= LOOK_EVERY)
        return 0;
    if (chunk->n < 1)
        chunk->n = FIRST_TOKENS;
    if (chunk->n > n_max && n_max > 0)
        chunk->n = n_max;
    return n_max < 1 ? 0 : chunk->n;
}

int64_t cabe_chunk_tokens(const struct cabe_chunk *chunk, double seconds, int64_t n_max)
{
    double n = chunk->token_s > 0 ? seconds / chunk->token_s : (double)n_max;

    return n < FIRST_TOKENS ? FIRST_TOKENS < n_max ? FIRST_TOKENS : n_max : n < (double)n_max ? (int64_t)n : n_max;
}

static void learn_alone(struct cabe_chunk *chunk, double *alone_s, double seconds)
{
    if (*alone_s <= 0)
        *alone_s = seconds;
    else
        *alone_s = 0.75 * *alone_s + 0.25 * (seconds < OUTLIER * *alone_s ? seconds : OUTLIER * *alone_s);
    chunk->n_mixed = 0;
}

static void too_long(struct cabe_chunk *chunk, int64_t n, double ratio)
{
    int64_t less = (int64_t)((double)n * (chunk->slowdown - 1) / (ratio - 1));

    chunk->n_bad = n;
    chunk->bad_for = BAD_FOR;
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

void cabe_chunk_learn(struct cabe_chunk *chunk, int32_t n_generating, int64_t n_prompt_tokens, double seconds)
{
    double *alone_s, ratio, token_s;

    if (n_generating == 0) {
        token_s = n_prompt_tokens > 0 ? seconds / (double)n_prompt_tokens : 0;
        if (n_prompt_tokens >= TELLING)
            chunk->token_s = chunk->token_s > 0 ? 0.75 * chunk->token_s + 0.25 * token_s : token_s;
        return;
    }
    alone_s = alone_of(chunk, n_generating);
    if (n_prompt_tokens == 0) {
        learn_alone(chunk, alone_s, seconds);
        return;
    }
    chunk->n_mixed++;
    if (chunk->bad_for > 0 && --chunk->bad_for == 0)
        chunk->n_bad = 0;
    if (*alone_s <= 0)
        return;
    ratio = seconds / *alone_s;
    if (ratio > chunk->slowdown && ratio > 1)
        too_long(chunk, n_prompt_tokens, ratio);
    else if (n_prompt_tokens >= chunk->n)
        grow(chunk);
}
