/* The engine's body, for its parts: engine.c runs steps, engine_share.c says who takes part in one. */
#ifndef CABE_RUNTIME_ENGINE_IMPL_H
#define CABE_RUNTIME_ENGINE_IMPL_H

#include "runtime/engine.h"
#include "runtime/engine_chunk.h"

struct slot {
    int used;
    enum cabe_finish finish;
    struct cabe_request request;
    struct cabe_kv_seq *seq; /* NULL: parked, or finished */
    int32_t *tokens;  /* [n_ctx + 1]: those in the cache, then those still to be computed */
    int64_t n_tokens;
    int64_t n_prompt, n_cached, n_new;
    int64_t n_dropped; /* by shifts */
    int64_t n_high;   /* tokens computed or cached, the most there were: the rest is computed for the first time */
    uint64_t order;   /* of joining */
    int32_t n_parked;
    uint64_t parked_ns; /* since when */
    int stays;        /* it was parked for too long: nobody parks it again */
    double credit;    /* parts of tokens that it was owed in steps before */
    int64_t chunk;    /* of the present step; 0: not in it */
    int64_t n_scored; /* tokens of the prompt whose score was told, and the first; 0: it is not scored */
    int32_t first_row; /* of logits in the present step, for scores: from here on up to `output`, or n_rows */
    int32_t n_rows;
    int32_t output;   /* row of logits in the present step that is drawn from; -1: none */
};

struct cabe_engine {
    struct cabe_engine_config config;
    cabe_value ids, positions, offsets, starts, page_offsets, pages, rows, logits;
    struct slot *slots; /* [n_slots] */
    int32_t n_slots;
    uint64_t n_joined;
    uint64_t came_ns[CABE_N_CLASSES]; /* when one of the class joined last; 0: never */
    uint64_t met_ns;                  /* when one joined while another ran; 0: never */
    struct cabe_sampler *sampler;
    void *block;
    uint64_t block_bytes;
    struct cabe_engine_stats stats;
    struct cabe_chunk chunk;

    /* Of the present step. */
    int32_t n_generating;
    int64_t n_prompt_tokens;
    int is_scored; /* it has rows for scores: not what other steps take */
    int is_bound; /* by the slowdown: all its prompts are */
    struct cabe_chunk_depth depth; /* of its prompts */
    int32_t *step_ids, *step_positions, *step_offsets, *step_starts, *step_page_offsets, *step_rows;
    struct cabe_page *step_pages;
    uint64_t *identities; /* [n_ctx] */
    float *step_logits;   /* [n_seqs][n_vocab] */
    int64_t symbols[CABE_N_SYMBOLS];
};

/* Tokens that are to be computed before the next is drawn; 1: it generates; 0: nothing, or parked. */
static inline int64_t cabe_engine_pending(const struct slot *s)
{
    return s->used && s->finish == CABE_FINISH_NOT && s->seq ? s->n_tokens - cabe_kv_seq_length(s->seq) : 0;
}

/* Whether the token behind the one at `position` is still to be scored. */
static inline int cabe_engine_scores(const struct slot *s, int64_t position)
{
    return s->n_scored > 0 && position + 1 >= s->n_scored && position + 1 < s->n_prompt;
}

/* Gives the slot a sequence with what the store knows of its tokens. */
enum cabe_status cabe_engine_unpark(struct cabe_engine *e, struct slot *s, struct cabe_error *err);
/* It goes no further: its pages are given up at once, whoever removes it when. */
void cabe_engine_finish(struct slot *s, enum cabe_finish finish);
/* Parks whom a newcomer of `class_` may put out; 0: nobody, or it is not needed. */
int cabe_engine_make_place(struct cabe_engine *e, enum cabe_class class_);
/* Who takes how many tokens of this step: each slot's chunk. Room in the store is reserved. */
void cabe_engine_share(struct cabe_engine *e);

#endif
