/*
 * Analysis of documents, in its first form: text, sentences, embeddings, repeated ideas.
 *
 * Stages: "read" (spans of sentences), "embed" (rows of an exact index; the encoder is a component), "compare" (the
 * self-join), "report" (pairs, their kind, and groups). The encoder is unloaded, or given back, before the join.
 *
 * A pair's kind: "verbatim" when both say the same words; "edited" when most words are the same; "paraphrase" when
 * only the meaning is near. Groups: task/ideas.h.
 *
 * Owner: who opens it; session and encoder outlive it. Thread: one.
 */
#ifndef CABE_TASK_ANALYZE_H
#define CABE_TASK_ANALYZE_H

#include "fit/plan.h"
#include "task/document.h"
#include "task/encoder.h"

struct cabe_analyze_wishes {
    int rows;         /* enum cabe_dtype of stored embeddings, -1: free */
    float threshold;  /* cosine from which sentences are compared as one idea; 0: the default */
    int min_words;    /* shorter sentences are not compared; 0: the default */
    int per_sentence; /* candidates each sentence keeps; 0: the default */
};

#define CABE_ANALYZE_THRESHOLD 0.70f
#define CABE_ANALYZE_MIN_WORDS 5
#define CABE_ANALYZE_PER_SENTENCE 8

enum cabe_echo { CABE_ECHO_VERBATIM, CABE_ECHO_EDITED, CABE_ECHO_PARAPHRASE };
const char *cabe_echo_name(enum cabe_echo echo);

struct cabe_idea_pair {
    uint32_t a, b; /* sentences, a < b */
    float score;   /* cosine */
    enum cabe_echo echo;
};

struct cabe_idea_group {
    uint32_t first, n; /* members[first .. first + n), in order of the text */
    float score;       /* of its strongest pair */
};

struct cabe_analyze_phase {
    char name[48];
    uint64_t predicted_bytes; /* peak of the process, as the plan says */
    uint64_t measured_bytes;  /* highest resident size in the phase */
    uint64_t start_bytes, end_bytes;
    double seconds, predicted_seconds;
};

struct cabe_analyze_result {
    uint64_t n_sentences; /* all */
    uint64_t n_compared;  /* long enough */
    uint64_t n_tokens;
    const struct cabe_sentence *sentence; /* the compared ones */
    const struct cabe_idea_pair *pair;    /* best first */
    uint64_t n_pairs;
    const struct cabe_idea_group *group; /* strongest first */
    uint64_t n_groups;
    const uint32_t *member;
    const struct cabe_analyze_phase *phase;
    int n_phases;
    uint64_t peak_bytes; /* highest resident size of the run */
};

struct cabe_analyze_job;

/* Opens and counts the documents; reads each once. */
CABE_CHECKED enum cabe_status cabe_analyze_open(struct cabe_analyze_job **out, struct cabe_session *session,
                                                struct cabe_encoder *encoder, const char *const *paths, int n_paths,
                                                const struct cabe_analyze_wishes *wishes, struct cabe_error *err);
void cabe_analyze_close(struct cabe_analyze_job *job); /* NULL is fine */

/*
 * Embeddings by an encoder that belongs to somebody else, who loads it, counts it and lets others use it too: then the
 * job's own is never loaded, and the plan has what is beside it only. Set before the plan is made.
 */
struct cabe_analyze_lender {
    enum cabe_status (*borrow)(void *self, struct cabe_error *err); /* it is there when this returns, ... */
    void (*give_back)(void *self);                                  /* ... and until this is called */
    enum cabe_status (*embed)(void *self, const struct cabe_text *texts, size_t n, enum cabe_prefix prefix, float *rows,
                              uint64_t *n_tokens, struct cabe_error *err);
    void *self;
};
void cabe_analyze_lend(struct cabe_analyze_job *job, const struct cabe_analyze_lender *lender);
/* From here on the job reserves in `ledger`: a share of the session's. Not during a run. */
void cabe_analyze_charge(struct cabe_analyze_job *job, struct cabe_ledger *ledger);

void cabe_analyze_task(struct cabe_analyze_job *job, struct cabe_fit_task *task);
/* News of a run, on its thread; for who shows phases as they go. NULL takes it back. */
struct cabe_analyze_watch {
    void (*begun)(void *self, const char *phase, uint64_t predicted_bytes);
    void (*ended)(void *self, const struct cabe_analyze_phase *phase);
    void *self;
};
void cabe_analyze_watch(struct cabe_analyze_job *job, const struct cabe_analyze_watch *watch);
/* `*result` lives as long as the job. */
CABE_CHECKED enum cabe_status cabe_analyze_run(struct cabe_analyze_job *job, const struct cabe_plan *plan,
                                               struct cabe_analyze_result *result, struct cabe_error *err);
const struct cabe_document *cabe_analyze_document(const struct cabe_analyze_job *job, uint32_t number);

#endif
