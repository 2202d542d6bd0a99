/*
 * A sentence encoder: a component of plans, and texts to embeddings when it is loaded.
 *
 * Two lives. As a candidate (cabe_encoder_find) it knows headers only and answers measure() for any knobs. Loaded
 * (cabe_encoder_load) it owns the mapped fitted copy, a compiled program and its batch.
 *
 * Texts are packed end to end up to the batch's tokens; a result does not depend on its neighbours. A text longer
 * than the model takes is cut at the model's limit.
 *
 * Owner: who opens it; the session outlives it. Thread: one.
 */
#ifndef CABE_TASK_ENCODER_H
#define CABE_TASK_ENCODER_H

#include <stdint.h>

#include "cabe/embed.h"
#include "cabe/status.h"
#include "fit/plan.h"
#include "model/model.h"
#include "task/session.h"
#include "text/tokenizer.h"

struct cabe_encoder;

/* Longer texts are cut here before they are tokenised; far above what any model reads. */
#define CABE_TEXT_BYTES_MAX (UINT64_C(64) << 10)

/* What a person fixed; 0 or negative: free. */
struct cabe_encoder_wishes {
    int dtype;     /* enum cabe_dtype, -1: by memory */
    int precision; /* enum cabe_precision, -1: int8 for quantised weights */
    int64_t batch_tokens; /* 0: planned */
};

/* `path`: a model's file or folder. Opens its fitted copy if there is one, else its headers. */
CABE_CHECKED enum cabe_status cabe_encoder_find(struct cabe_encoder **out, struct cabe_session *session,
                                                const char *path, const struct cabe_encoder_wishes *wishes,
                                                struct cabe_error *err);
void cabe_encoder_close(struct cabe_encoder *encoder); /* NULL is fine */

const struct cabe_model_config *cabe_encoder_config(const struct cabe_encoder *encoder);
const struct cabe_model *cabe_encoder_model(const struct cabe_encoder *encoder);

/* Preferred knobs, ladder and pins of an encoder into a task, and the component itself; returns its index. */
int cabe_encoder_plan(struct cabe_encoder *encoder, struct cabe_fit_task *task);
/* Work of encoding `n_tokens` of `n_texts` under the knobs, for predicted time. */
CABE_CHECKED enum cabe_status cabe_encoder_work(struct cabe_encoder *encoder, const struct cabe_knobs *knobs,
                                                double n_tokens, double n_texts, struct cabe_graph_work *work,
                                                struct cabe_error *err);

/* Loads under the knobs of a plan that fits, making the fitted copy first where there is none. */
CABE_CHECKED enum cabe_status cabe_encoder_load(struct cabe_encoder *encoder, const struct cabe_knobs *knobs,
                                                struct cabe_error *err);
/* Loaded. */
const struct cabe_tokenizer *cabe_encoder_tokenizer(const struct cabe_encoder *encoder);
/* Gives back weights, program and batch; it can be loaded again. */
void cabe_encoder_unload(struct cabe_encoder *encoder);

/* Embeds n texts into out[n][width], in order; their tokens are added to *n_tokens (may be NULL). */
CABE_CHECKED enum cabe_status cabe_encoder_encode(struct cabe_encoder *encoder, const struct cabe_text *texts, size_t n,
                                                  enum cabe_prefix prefix, float *out, uint64_t *n_tokens,
                                                  struct cabe_error *err);
/* The same, with the tokens of each text in counts[n]. */
CABE_CHECKED enum cabe_status cabe_encoder_encode_counted(struct cabe_encoder *encoder, const struct cabe_text *texts,
                                                          size_t n, enum cabe_prefix prefix, float *out, int32_t *counts,
                                                          struct cabe_error *err);

#endif
