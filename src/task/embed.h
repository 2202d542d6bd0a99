/*
 * Embedding of many texts, streamed: chunks in, rows out, in bounded memory.
 *
 * Owner: who opens it. Thread: one.
 */
#ifndef CABE_TASK_EMBED_H
#define CABE_TASK_EMBED_H

#include <stdio.h>

#include "fit/plan.h"
#include "task/encoder.h"

#define CABE_EMBED_CHUNK 1000 /* texts encoded at once by default */

struct cabe_embed_job {
    struct cabe_session *session;
    struct cabe_encoder *encoder;
    enum cabe_prefix prefix;
    double n_texts, n_tokens; /* expected, for predicted time; 0: not known */
};

struct cabe_embed_result {
    uint64_t n_texts, n_tokens;
    double seconds;       /* of encoding, reading and writing included */
    double first_seconds; /* until the first chunk was written */
    uint64_t peak_bytes;  /* highest resident size of the run */
};

/* The task of a plan: the encoder, then one stage. */
void cabe_embed_task(struct cabe_embed_job *job, struct cabe_fit_task *task);

/*
 * Reads lines from `in` and gives `write` the rows of each chunk, f32 [n][width], with its texts. The encoder is
 * loaded under the plan's knobs.
 */
struct cabe_embed_sink {
    enum cabe_status (*write)(void *self, const struct cabe_text *texts, const float *rows, size_t n,
                              struct cabe_error *err);
    void *self;
};
CABE_CHECKED enum cabe_status cabe_embed_run(struct cabe_embed_job *job, const struct cabe_plan *plan, FILE *in,
                                             const char *name, const struct cabe_embed_sink *sink,
                                             struct cabe_embed_result *result, struct cabe_error *err);

#endif
