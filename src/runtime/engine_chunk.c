#include "runtime/engine_chunk.h"

#define FIRST_TOKENS 8  /* a first guess */
#define LOOK_EVERY 64   /* steps with prompts, then one without */
#define GROW 1.5        /* at most so much more than last time: what is not measured yet may be dear */
#define OUTLIER 2.0     /* a time is believed up to so many times what was known: the machine has other work too */

static double *alone_of(struct cabe_chunk *chunk, int32_t n_generating)
{
    return &chunk->alone_s[(n_generating < CABE_CHUNK_SEQS ? n_generating : CABE_CHUNK_SEQS) - 1];
}

int64_t cabe_chunk_limit(struct cabe_chunk *chunk, int32_t n_generating, int64_t n_max, double slowdown)
{
    double alone_s = *alone_of(chunk, n_generating), n;

    if (alone_s <= 0 || chunk->n_mixed >= LOOK_EVERY)
        return 0;
    n = chunk->token_s > 0 ? (slowdown - 1) * alone_s / chunk->token_s : FIRST_TOKENS;
    if (chunk->n_last > 0 && n > GROW * (double)chunk->n_last + 1)
        n = GROW * (double)chunk->n_last + 1;
    chunk->n_last = n < 1 ? 1 : n < (double)n_max ? (int64_t)n : n_max;
    return chunk->n_last;
}

static double smooth(double known, double seconds)
{
    if (known <= 0)
        return seconds;
    return 0.75 * known + 0.25 * (seconds < OUTLIER * known ? seconds : OUTLIER * known);
}

void cabe_chunk_learn(struct cabe_chunk *chunk, int32_t n_generating, int64_t n_prompt_tokens, double seconds)
{
    double *alone_s = alone_of(chunk, n_generating), token_s;

    if (n_prompt_tokens == 0) {
        *alone_s = smooth(*alone_s, seconds);
        chunk->n_mixed = 0;
        return;
    }
    chunk->n_mixed++;
    if (*alone_s <= 0)
        return;
    token_s = (seconds - *alone_s) / (double)n_prompt_tokens;
    if (token_s < *alone_s / 4096) /* as good as nothing */
        token_s = *alone_s / 4096;
    chunk->token_s = smooth(chunk->token_s, token_s);
}
