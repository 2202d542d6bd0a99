/*
 * What a request would have to wait, and when who is refused for it should come again. Everything under the lock.
 *
 * Let in is what will probably begin well before its time until the first token is over (runtime/forecast.h).
 */
#include "serve/service_impl.h"

#define PROMPT_S 0.001    /* a token, until it was measured: a prompt's, and an answer's */
#define ANSWER_S 0.01
#define ANSWER_TOKENS 256 /* until some were seen */
#define RATE 0.8          /* work a second, until it was measured */
#define LEARN_ANSWER 0.1

/* ---- work ---- */

static double new_tokens(const struct cabe_service_entry *e, int64_t max_new, int ignore_end)
{
    double usual = e->mean_new > 0 ? e->mean_new : ANSWER_TOKENS;

    if (max_new < 0)
        return 0;
    return max_new > 0 && (ignore_end || (double)max_new < usual) ? (double)max_new : usual;
}

double cabe_wait_work(const struct cabe_service_entry *e, int64_t prompt_tokens, int64_t max_new, int32_t n_choices,
                      int ignore_end)
{
    const struct cabe_engine_stats *stats = &e->view.engine;
    double prompt_s = stats->prompt_s > 0 ? stats->prompt_s : PROMPT_S;
    double answer_s = stats->answer_s > 0 ? stats->answer_s : ANSWER_S;

    if (e->view.context > 0 && prompt_tokens > e->view.context) /* it will be refused when it is read */
        prompt_tokens = e->view.context;
    if (n_choices < 1) /* an embedding's */
        return (double)prompt_tokens * prompt_s;
    return (double)prompt_tokens * prompt_s + n_choices * new_tokens(e, max_new, ignore_end) * answer_s;
}

double cabe_wait_work_ask(const struct cabe_service_entry *e, int64_t prompt_tokens, const struct cabe_service_ask *ask)
{
    int32_t n_choices = ask->n_choices > 0 ? ask->n_choices : 1;
    double answer_s = e->view.engine.answer_s > 0 ? e->view.engine.answer_s : ANSWER_S;
    double work = cabe_wait_work(e, prompt_tokens, ask->max_new, n_choices, ask->ignore_end);

    if (!ask->prompted)
        return work;
    if (e->view.context > 0 && prompt_tokens > e->view.context)
        prompt_tokens = e->view.context;
    return work + n_choices * (double)prompt_tokens * answer_s; /* a row of logits each, as if it were written */
}

void cabe_wait_learn(struct cabe_service_entry *e, int64_t n_new)
{
    e->mean_new += (e->mean_new > 0 ? LEARN_ANSWER : 1) * ((double)n_new - e->mean_new);
}

double cabe_wait_left(const struct cabe_service_entry *e, int64_t n_new, int64_t max_new, int ignore_end)
{
    double wanted = new_tokens(e, max_new, ignore_end), left = wanted - (double)n_new;

    if (max_new <= 0)
        return 0; /* it may end at any time */
    if (left < wanted / 4) /* it is longer than usual */
        left = wanted / 4;
    return (double)(max_new - n_new) < left ? (double)(max_new - n_new) : left;
}

/* Seconds of work are done in hardly more seconds, until it is known better. */
static double rate_of(const struct cabe_service_entry *e, uint64_t now_ns)
{
    int is_known = e->view.engine.prompt_s > 0 && e->view.engine.answer_s > 0;

    return cabe_forecast_rate(&e->forecast, is_known ? RATE : 0, now_ns);
}

/* ---- refusals ---- */

static void ask_of(const struct cabe_service_entry *e, const struct cabe_wait *w, uint64_t now_ns,
                   struct cabe_forecast_ask *ask)
{
    *ask = (struct cabe_forecast_ask){.key = w->key,
                                      .class_ = w->class_,
                                      .work = w->work,
                                      .rate = rate_of(e, now_ns),
                                      .place_s = e->place_s[w->class_],
                                      .limit_s = e->service->config.first_token_s};
    for (int c = 0; c < CABE_N_CLASSES; c++)
        ask->waiting[c] = e->queue.by_class[c].work > 0 ? e->queue.by_class[c].work : 0;
}

enum cabe_status cabe_wait_check(struct cabe_service_entry *e, const struct cabe_wait *w, uint64_t now_ns,
                                 double *retry_s, struct cabe_error *err)
{
    struct cabe_forecast_ask ask;
    double wait_s;

    ask_of(e, w, now_ns, &ask);
    if (e->kind == 0 || cabe_forecast_admit(&e->forecast, &ask, now_ns, &wait_s, retry_s))
        return CABE_OK;
    return cabe_fail(err, CABE_ERR_LIMIT, "%lld requests wait: one of class %s would wait %.1f s of the %g s until a first token",
                     (long long)e->queue.n, cabe_class_name(w->class_), wait_s, ask.limit_s);
}

double cabe_wait_full(struct cabe_service_entry *e, const struct cabe_wait *w, uint64_t now_ns)
{
    const struct cabe_queue_config *limits = &e->queue.config;
    struct cabe_forecast_ask ask;
    double work = 0, over = 0;

    ask_of(e, w, now_ns, &ask);
    if (ask.rate <= 0)
        return e->view.load_s > 1 ? e->view.load_s : 1;
    for (int c = 0; c < CABE_N_CLASSES; c++)
        work += ask.waiting[c];
    if (limits->n_max > 0 && e->queue.n >= limits->n_max)
        over = (double)(e->queue.n - limits->n_max + 1) / (double)e->queue.n;
    else if (limits->tokens_max > 0 && e->queue.tokens > 0)
        over = (double)(e->queue.tokens + w->tokens - limits->tokens_max) / (double)e->queue.tokens;
    return cabe_forecast_refuse(&e->forecast, &ask, (over > 0 ? over : 0) * work / ask.rate, now_ns);
}

void cabe_wait_begin(struct cabe_service_entry *e, struct cabe_service_ticket *t, double work)
{
    cabe_forecast_keep(&e->forecast, t->key, 1);
    cabe_queue_weigh(&t->item, work);
}
