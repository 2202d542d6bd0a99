/* Who takes part in a step: places, pages and tokens, by class. */
#include "base/clock.h"
#include "runtime/engine_impl.h"

#include <string.h>

#define ATTENTION_TOKENS 4096.0 /* behind so many tokens one costs about twice what the first does */

/* ---- places ---- */

static int is_parked(const struct slot *s)
{
    return s->used && !s->seq;
}

/* Whether it has waited for too long. Only one at a time has the privilege, so that the classes keep their meaning. */
static int is_aged(const struct cabe_engine *e, const struct slot *s, uint64_t now_ns)
{
    for (int32_t i = 0; i < e->n_slots; i++)
        if (e->slots[i].used && e->slots[i].stays)
            return 0;
    return now_ns - s->parked_ns >= CABE_ENGINE_PARK_AGE_NS;
}

static int32_t n_placed(const struct cabe_engine *e)
{
    int32_t n = 0;

    for (int32_t i = 0; i < e->n_slots; i++)
        n += e->slots[i].used && e->slots[i].seq;
    return n;
}

/* Whether it may be parked: a shifted one cannot be computed again as it was. */
static int can_park(const struct slot *s)
{
    return s->used && s->seq && s->finish == CABE_FINISH_NOT && cabe_kv_seq_dropped(s->seq) == 0;
}

/* What it costs to compute again, by page that parking it frees. */
static double price(const struct slot *s)
{
    double n = (double)cabe_kv_seq_length(s->seq);

    return n * (1 + n / 2 / ATTENTION_TOKENS) / (1 + (double)cabe_kv_seq_own_pages(s->seq));
}

static int is_better_victim(const struct slot *s, const struct slot *than)
{
    double a, b;

    if (!than || s->request.class_ != than->request.class_)
        return !than || s->request.class_ > than->request.class_;
    a = price(s);
    b = price(than);
    return a < b || (a <= b && s->order > than->order);
}

/* The one to park for a sequence of `class_`: of a lower class. NULL: none. */
static struct slot *victim_for(const struct cabe_engine *e, enum cabe_class class_)
{
    struct slot *best = NULL;

    for (int32_t i = 0; i < e->n_slots; i++) {
        struct slot *s = &e->slots[i];

        if (can_park(s) && !s->stays && s->request.class_ > class_ && is_better_victim(s, best))
            best = s;
    }
    return best;
}

static void park(struct cabe_engine *e, struct slot *s)
{
    cabe_kv_seq_close(s->seq);
    s->seq = NULL;
    s->chunk = 0;
    s->output = -1;
    s->stays = 0;
    s->parked_ns = cabe_clock_ns();
    s->n_parked++;
    e->stats.n_parked++;
}

/* The parked one that goes on first: those that have waited for too long, then by class, then who joined first. */
static struct slot *next_parked(const struct cabe_engine *e, uint64_t now_ns)
{
    struct slot *best = NULL;

    for (int32_t i = 0; i < e->n_slots; i++) {
        struct slot *s = &e->slots[i];
        int class_, best_class;

        if (!is_parked(s))
            continue;
        class_ = is_aged(e, s, now_ns) ? -1 : (int)s->request.class_;
        best_class = !best ? CABE_N_CLASSES : is_aged(e, best, now_ns) ? -1 : (int)best->request.class_;
        if (class_ < best_class || (class_ == best_class && s->order < best->order))
            best = s;
    }
    return best;
}

/* 1: a free slot, and a place or somebody who gives his up; nobody is parked who comes first. */
int cabe_engine_has_room(const struct cabe_engine *e, enum cabe_class class_)
{
    uint64_t now_ns = cabe_clock_ns();
    const struct slot *parked = next_parked(e, now_ns);
    int is_free = 0;

    for (int32_t i = 0; i < e->n_slots && !is_free; i++)
        is_free = !e->slots[i].used;
    if (!is_free || (parked && (is_aged(e, parked, now_ns) || parked->request.class_ <= class_)))
        return 0;
    return n_placed(e) < e->config.n_seqs || victim_for(e, class_) != NULL;
}

int cabe_engine_make_place(struct cabe_engine *e, enum cabe_class class_)
{
    struct slot *victim;

    if (n_placed(e) < e->config.n_seqs)
        return 0;
    victim = victim_for(e, class_);
    if (victim)
        park(e, victim);
    return victim != NULL;
}

/* Whether there are pages for all its tokens, and one more for each that runs. */
static int has_pages(const struct cabe_engine *e, const struct slot *s, int32_t n_running)
{
    struct cabe_kv_stats stats;

    cabe_kv_stats(e->config.kv, &stats);
    return stats.n_pages - stats.n_referenced >= s->n_tokens / CABE_PAGE_TOKENS + 1 + n_running;
}

static void unpark_some(struct cabe_engine *e)
{
    uint64_t now_ns = cabe_clock_ns();
    struct cabe_error err;
    struct slot *s;
    int32_t n;

    while ((n = n_placed(e)) < e->config.n_seqs && (s = next_parked(e, now_ns)) && (n == 0 || has_pages(e, s, n))) {
        s->stays = is_aged(e, s, now_ns);
        if (cabe_engine_unpark(e, s, &err) != CABE_OK)
            return;
    }
}

/* ---- pages ---- */

/* A full context: half of what may go is dropped, in whole pages. */
static enum cabe_status shift(struct slot *s, struct cabe_error *err)
{
    int64_t length = cabe_kv_seq_length(s->seq);
    int64_t keep = (s->request.shift_keep + CABE_PAGE_TOKENS - 1) / CABE_PAGE_TOKENS * CABE_PAGE_TOKENS;
    int64_t pages = (length - keep) / 2 / CABE_PAGE_TOKENS, dropped = pages * CABE_PAGE_TOKENS;
    enum cabe_status status;

    if (pages < 1)
        return cabe_fail(err, CABE_ERR_LIMIT, "nothing can be dropped behind the first %lld tokens", (long long)keep);
    status = cabe_kv_seq_shift(s->seq, keep, pages, err);
    if (status != CABE_OK)
        return status;
    memmove(s->tokens + keep, s->tokens + keep + dropped, (size_t)(s->n_tokens - keep - dropped) * sizeof *s->tokens);
    s->n_tokens -= dropped;
    s->n_high -= dropped;
    return CABE_OK;
}

/*
 * Whom to park so that `s` gets pages: who is of a lower class; else the youngest of its own class, which may be itself;
 * else itself, if others run that will end. NULL: nobody.
 */
static struct slot *victim_for_pages(const struct cabe_engine *e, struct slot *s)
{
    struct slot *victim = victim_for(e, s->request.class_), *youngest = can_park(s) ? s : NULL;
    int32_t n_others = 0;

    if (victim)
        return victim;
    for (int32_t i = 0; i < e->n_slots; i++) {
        struct slot *other = &e->slots[i];

        if (other == s || !other->used || !other->seq || other->finish != CABE_FINISH_NOT)
            continue;
        n_others++;
        if (can_park(other) && !other->stays && other->request.class_ == s->request.class_ &&
            (!youngest || other->order > youngest->order))
            youngest = other;
    }
    return n_others > 0 ? youngest : NULL;
}

/* Room for the slot's chunk. Without any it is parked, or finished, and leaves the step. */
static void reserve(struct cabe_engine *e, struct slot *s)
{
    struct cabe_error err;
    enum cabe_status status;
    struct slot *victim;

    while ((status = cabe_kv_seq_reserve(s->seq, s->chunk, &err)) != CABE_OK) {
        if (status == CABE_ERR_LIMIT && s->request.shift_keep >= 0 && shift(s, &err) == CABE_OK)
            continue;
        victim = status == CABE_ERR_BUDGET ? victim_for_pages(e, s) : NULL;
        if (!victim) {
            s->finish = status == CABE_ERR_LIMIT ? CABE_FINISH_CONTEXT : CABE_FINISH_MEMORY;
            s->chunk = 0;
            return;
        }
        park(e, victim);
        if (victim == s)
            return;
    }
}

/* ---- tokens ---- */

static int is_prompt(const struct slot *s)
{
    return cabe_engine_pending(s) > 1;
}

static int wants_more(const struct slot *s, enum cabe_class from, enum cabe_class to)
{
    return is_prompt(s) && s->chunk < cabe_engine_pending(s) && s->request.class_ >= from && s->request.class_ <= to;
}

/* What is left of `budget` goes one by one to those that are owed most. */
static void give_rest(struct cabe_engine *e, enum cabe_class from, enum cabe_class to, int64_t budget)
{
    for (; budget > 0; budget--) {
        struct slot *most = NULL;

        for (int32_t i = 0; i < e->n_slots; i++) {
            struct slot *s = &e->slots[i];

            if (wants_more(s, from, to) && (!most || s->credit > most->credit))
                most = s;
        }
        if (!most)
            return;
        most->credit -= 1;
        most->chunk++;
    }
}

/* `budget` tokens among the prompts of these classes, by weight; what one does not want goes to the others. */
static void share_among(struct cabe_engine *e, enum cabe_class from, enum cabe_class to, int64_t budget)
{
    double due = (double)budget; /* not credited to anybody yet */

    while (due >= 1 && budget > 0) {
        double weights = 0, credited = due;

        for (int32_t i = 0; i < e->n_slots; i++)
            if (wants_more(&e->slots[i], from, to))
                weights += cabe_class_weight(e->slots[i].request.class_);
        if (weights <= 0)
            return;
        due = 0;
        for (int32_t i = 0; i < e->n_slots; i++) {
            struct slot *s = &e->slots[i];
            int64_t wanted = cabe_engine_pending(s) - s->chunk, take;

            if (!wants_more(s, from, to))
                continue;
            s->credit += credited * cabe_class_weight(s->request.class_) / weights;
            take = s->credit >= (double)wanted ? wanted : s->credit > 0 ? (int64_t)s->credit : 0;
            take = take < budget ? take : budget;
            s->chunk += take;
            s->credit -= (double)take;
            budget -= take;
            if (take < wanted)
                continue;
            due += s->credit; /* it wants no more */
            s->credit = 0;
        }
    }
    give_rest(e, from, to, budget);
}

/* Those that generate take one token each; the important ones reserve first. */
static void share_generating(struct cabe_engine *e)
{
    for (int c = 0; c < CABE_N_CLASSES; c++)
        for (int32_t i = 0; i < e->n_slots; i++) {
            struct slot *s = &e->slots[i];

            if ((int)s->request.class_ != c || cabe_engine_pending(s) != 1)
                continue;
            s->chunk = 1;
            reserve(e, s);
        }
}

static void share_prompts(struct cabe_engine *e, int64_t left, enum cabe_class most_important)
{
    int64_t bound = left;

    e->is_bound = e->n_generating > 0 && e->config.slowdown >= 0;
    if (e->is_bound)
        bound = cabe_chunk_limit(&e->chunk, e->n_generating, left,
                                 e->config.slowdown > 0 ? e->config.slowdown : CABE_ENGINE_SLOWDOWN);
    e->stats.prompt_share = bound;
    if (!e->is_bound) {
        share_among(e, CABE_CLASS_CRITICAL, CABE_CLASS_LOW, left);
        return;
    }
    for (int32_t i = 0; i < e->n_slots; i++)
        if (is_prompt(&e->slots[i]) && e->slots[i].request.class_ < most_important)
            e->is_bound = 0;
    if (!e->is_bound) /* more important than all that generate: they wait for it */
        share_among(e, CABE_CLASS_CRITICAL, (enum cabe_class)((int)most_important - 1), left - bound);
    share_among(e, e->is_bound ? CABE_CLASS_CRITICAL : most_important, CABE_CLASS_LOW, bound);
}

void cabe_engine_share(struct cabe_engine *e)
{
    int64_t left = e->config.step_tokens;
    enum cabe_class most_important = CABE_CLASS_LOW;

    unpark_some(e);
    for (int32_t i = 0; i < e->n_slots; i++) {
        e->slots[i].chunk = 0;
        e->slots[i].output = -1;
    }
    share_generating(e);
    e->n_generating = 0;
    for (int32_t i = 0; i < e->n_slots; i++) {
        const struct slot *s = &e->slots[i];

        if (s->chunk == 0)
            continue;
        e->n_generating++;
        most_important = s->request.class_ < most_important ? s->request.class_ : most_important;
        left--;
    }
    share_prompts(e, left, most_important);
    for (int c = 0; c < CABE_N_CLASSES; c++)
        for (int32_t i = 0; i < e->n_slots; i++) {
            struct slot *s = &e->slots[i];

            if ((int)s->request.class_ == c && s->chunk > 0 && is_prompt(s))
                reserve(e, s);
        }
    e->n_prompt_tokens = 0;
    e->n_generating = 0;
    for (int32_t i = 0; i < e->n_slots; i++) {
        const struct slot *s = &e->slots[i];

        if (s->chunk > 0 && is_prompt(s))
            e->n_prompt_tokens += s->chunk;
        else
            e->n_generating += s->chunk > 0;
    }
}
