/* Who takes part in a step: places, pages and tokens, by class. */
#include "base/clock.h"
#include "runtime/engine_impl.h"

#include <string.h>

#define COMES_AGAIN_NS UINT64_C(60000000000) /* a class that came so lately will come again */
#define WORTH_TOKENS 64 /* deep in a prompt a few at a time cost half as much again */
#define ATTENTION_TOKENS 4096.0 /* behind so many tokens one costs about twice what the first does */

/* ---- places ---- */

static int is_parked(const struct slot *s)
{
    return s->used && !s->seq && s->finish == CABE_FINISH_NOT;
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

/* Slots that this class may take: the others leave as many as are in a step, each of which CRITICAL may park. */
static int32_t n_free(const struct cabe_engine *e, enum cabe_class class_)
{
    int32_t n = class_ == CABE_CLASS_CRITICAL ? 0 : -e->config.n_seqs;

    for (int32_t i = 0; i < e->n_slots; i++)
        n += !e->slots[i].used;
    return n;
}

/* A free slot, and a place (1) or somebody who gives his up (2); nobody is parked who comes first. */
int cabe_engine_has_room(const struct cabe_engine *e, enum cabe_class class_)
{
    uint64_t now_ns = cabe_clock_ns();
    const struct slot *parked = next_parked(e, now_ns);

    if (n_free(e, class_) <= 0 || (parked && parked->request.class_ <= class_))
        return 0;
    if (parked && is_aged(e, parked, now_ns)) /* the next free place is its, but no other's is */
        return class_ == CABE_CLASS_CRITICAL && n_placed(e) >= e->config.n_seqs && victim_for(e, class_) ? 2 : 0;
    return n_placed(e) < e->config.n_seqs ? 1 : victim_for(e, class_) ? 2 : 0;
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
    s->n_dropped += dropped;
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
            cabe_engine_finish(s, status == CABE_ERR_LIMIT ? CABE_FINISH_CONTEXT : CABE_FINISH_MEMORY);
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

/* Prompts of these classes; the urgent ones only, or the others. */
struct group {
    enum cabe_class from, to;
    int urgent; /* -1: both */
};

static int is_urgent(const struct slot *s)
{
    return s->request.class_ == CABE_CLASS_CRITICAL && cabe_engine_pending(s) <= CABE_ENGINE_SHORT;
}

static int is_in(const struct slot *s, const struct group *g)
{
    return is_prompt(s) && s->request.class_ >= g->from && s->request.class_ <= g->to &&
           (g->urgent < 0 || is_urgent(s) == g->urgent);
}

static int wants_more(const struct slot *s, const struct group *g)
{
    return is_in(s, g) && s->chunk < cabe_engine_pending(s);
}

/* A class's weight is shared by those of it that want more; `weights` is the sum over the classes. */
static double weigh(const struct cabe_engine *e, const struct group *g, double each[CABE_N_CLASSES])
{
    double weights = 0;
    int n[CABE_N_CLASSES] = {0};

    for (int32_t i = 0; i < e->n_slots; i++)
        if (wants_more(&e->slots[i], g))
            n[e->slots[i].request.class_]++;
    for (int c = 0; c < CABE_N_CLASSES; c++) {
        if (n[c] > 0)
            weights += cabe_class_weight((enum cabe_class)c);
        each[c] = n[c] > 0 ? (double)cabe_class_weight((enum cabe_class)c) / n[c] : 0;
    }
    return weights;
}

/* What is left of `budget` goes one by one to those that are owed most. */
static void give_rest(struct cabe_engine *e, const struct group *g, int64_t budget)
{
    for (; budget > 0; budget--) {
        struct slot *most = NULL;

        for (int32_t i = 0; i < e->n_slots; i++) {
            struct slot *s = &e->slots[i];

            if (wants_more(s, g) && (!most || s->credit > most->credit))
                most = s;
        }
        if (!most)
            return;
        most->credit -= 1;
        most->chunk++;
    }
}

/* `budget` tokens among these prompts, by weight; what one does not want goes to the others. Returns what they took. */
static int64_t share_among(struct cabe_engine *e, const struct group *g, int64_t budget)
{
    double due = (double)budget; /* not credited to anybody yet */
    int64_t taken = 0;

    while (due >= 1 && budget > 0) {
        double each[CABE_N_CLASSES], weights = weigh(e, g, each), credited = due;

        if (weights <= 0)
            break;
        due = 0;
        for (int32_t i = 0; i < e->n_slots; i++) {
            struct slot *s = &e->slots[i];
            int64_t wanted = cabe_engine_pending(s) - s->chunk, take;

            if (!wants_more(s, g))
                continue;
            s->credit += credited * each[s->request.class_] / weights;
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
    give_rest(e, g, budget);
    for (int32_t i = 0; i < e->n_slots; i++)
        taken += is_in(&e->slots[i], g) ? e->slots[i].chunk : 0;
    return taken;
}

/* How deep the prompts are that want to take part, by the weights with which they share. */
static struct cabe_chunk_depth depth_wanted(const struct cabe_engine *e, const struct group *g)
{
    struct cabe_chunk_depth depth = {0};
    double each[CABE_N_CLASSES], weights = weigh(e, g, each);

    for (int32_t i = 0; i < e->n_slots; i++) {
        const struct slot *s = &e->slots[i];

        if (!wants_more(s, g))
            continue;
        depth.mean += (double)cabe_kv_seq_length(s->seq) * each[s->request.class_] / weights;
        depth.sum += (double)cabe_kv_seq_length(s->seq);
    }
    return depth;
}

/* How deep those are that take part. */
static struct cabe_chunk_depth depth_taken(const struct cabe_engine *e)
{
    struct cabe_chunk_depth depth = {0};
    int64_t n = 0;

    for (int32_t i = 0; i < e->n_slots; i++) {
        const struct slot *s = &e->slots[i];

        if (s->chunk == 0 || !is_prompt(s))
            continue;
        n += s->chunk;
        depth.sum += (double)cabe_kv_seq_length(s->seq);
        depth.mean += (double)s->chunk * ((double)cabe_kv_seq_length(s->seq) + (double)s->chunk / 2);
    }
    depth.mean /= n > 0 ? (double)n : 1;
    return depth;
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

/* Whether more important ones than those of the group come now and then. */
static int is_interrupted(const struct cabe_engine *e, const struct group *g)
{
    uint64_t now_ns = cabe_clock_ns();

    for (int c = 0; c < (int)g->from; c++)
        if (e->came_ns[c] > 0 && now_ns - e->came_ns[c] < COMES_AGAIN_NS)
            return 1;
    return 0;
}

/*
 * Who comes joins after the step that runs: where somebody did lately, a step of prompts is no longer than it must be to
 * be worth it, and short where somebody more important may come.
 */
static int64_t bound_alone(const struct cabe_engine *e, const struct group *g, int64_t left)
{
    struct cabe_chunk_depth depth = depth_wanted(e, g);
    double seconds = CABE_CHUNK_LONG_STEPS * e->chunk.alone_s[0];
    int64_t n;

    if (is_interrupted(e, g))
        return cabe_chunk_tokens(&e->chunk, CABE_ENGINE_PIECE_S, &depth, left);
    if (e->met_ns == 0 || cabe_clock_ns() - e->met_ns >= COMES_AGAIN_NS)
        return left;
    n = cabe_chunk_tokens(&e->chunk, seconds > CABE_CHUNK_PIECE_S ? seconds : CABE_CHUNK_PIECE_S, &depth, left);
    return n > WORTH_TOKENS ? n : left < WORTH_TOKENS ? left : WORTH_TOKENS;
}

/*
 * Nobody generates. The most important class takes what it is due, or all that it wants; the others no more than their
 * weights allow beside that, so that a short important prompt is not slowed down by what would fill the step.
 */
static void share_alone(struct cabe_engine *e, int64_t left)
{
    int first = CABE_N_CLASSES, last = 0;
    struct group important, rest;
    double each[CABE_N_CLASSES], weight, others;
    int64_t due, taken;

    for (int32_t i = 0; i < e->n_slots; i++) {
        int class_ = (int)e->slots[i].request.class_;

        if (!is_prompt(&e->slots[i]))
            continue;
        first = class_ < first ? class_ : first;
        last = class_ > last ? class_ : last;
    }
    if (first == CABE_N_CLASSES)
        return;
    important = (struct group){(enum cabe_class)first, (enum cabe_class)first, -1};
    left = bound_alone(e, &important, left);
    if (first == last) {
        (void)share_among(e, &important, left);
        return;
    }
    rest = (struct group){(enum cabe_class)(first + 1), CABE_CLASS_LOW, -1};
    weight = cabe_class_weight((enum cabe_class)first);
    others = weigh(e, &rest, each);
    due = (int64_t)((double)left * weight / (weight + others) + 0.5);
    taken = share_among(e, &important, due);
    due = (int64_t)((double)taken * others / weight + 0.5);
    (void)share_among(e, &rest, due < left - taken ? due : left - taken);
}

/* Short prompts of CRITICAL: nothing else goes in a step with them but what generates, and little beside that. */
static int64_t share_urgent(struct cabe_engine *e, int64_t left)
{
    struct group urgent = {CABE_CLASS_CRITICAL, CABE_CLASS_CRITICAL, 1};

    return share_among(e, &urgent, left);
}

/* Beside those that generate, the most important of which is of class `most`, and n_urgent tokens. */
static void share_beside(struct cabe_engine *e, int64_t left, enum cabe_class most, int64_t n_urgent)
{
    struct group above = {CABE_CLASS_CRITICAL, (enum cabe_class)((int)most - 1), 0}, rest = {most, CABE_CLASS_LOW, 0};
    double slowdown = e->config.slowdown > 0 ? e->config.slowdown : CABE_ENGINE_SLOWDOWN;
    struct cabe_chunk_depth depth = depth_wanted(e, &rest);
    int64_t bound = cabe_chunk_limit(&e->chunk, e->n_generating, &depth, left, slowdown), n_above = 0;

    e->stats.prompt_share = bound;
    if (n_urgent > 0 && e->chunk.is_spaced)
        return;
    if (n_urgent == 0 && most != CABE_CLASS_CRITICAL)
        n_above = share_among(e, &above, bound_alone(e, &above, left - bound));
    e->is_bound = n_above == 0 && n_urgent == 0;
    (void)share_among(e, &rest, bound);
}

/*
 * Prompts that are scored share the rows of logits that are left: whoever else takes part may need one, and each of them
 * gets one.
 */
static void bound_scored(struct cabe_engine *e)
{
    int64_t rows = e->config.n_seqs, n_scored = 0;

    e->is_scored = 0;
    for (int32_t i = 0; i < e->n_slots; i++) {
        const struct slot *s = &e->slots[i];
        int is_scored = s->chunk > 0 && is_prompt(s) && s->n_scored > 0 && s->n_scored < s->n_prompt;

        n_scored += is_scored;
        rows -= s->chunk > 0 && !is_scored;
    }
    for (int32_t i = 0; i < e->n_slots && n_scored > 0; i++) {
        struct slot *s = &e->slots[i];
        int64_t share = rows / n_scored, free;

        if (s->chunk == 0 || !is_prompt(s) || s->n_scored == 0 || s->n_scored == s->n_prompt)
            continue;
        free = s->n_scored - 1 - cabe_kv_seq_length(s->seq); /* computed again, told before */
        free = free > 0 ? free : 0;
        s->chunk = s->chunk < free + share ? s->chunk : free + share;
        rows -= share;
        n_scored--;
        e->is_scored = 1;
    }
}

void cabe_engine_share(struct cabe_engine *e)
{
    int64_t left = e->config.step_tokens, n_urgent;
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
    e->is_bound = 0;
    n_urgent = share_urgent(e, left);
    left -= n_urgent;
    if (e->n_generating > 0 && e->config.slowdown >= 0)
        share_beside(e, left, most_important, n_urgent);
    else if (n_urgent == 0)
        share_alone(e, left);
    bound_scored(e);
    for (int c = 0; c < CABE_N_CLASSES; c++)
        for (int32_t i = 0; i < e->n_slots; i++) {
            struct slot *s = &e->slots[i];

            if ((int)s->request.class_ == c && s->chunk > 0 && is_prompt(s))
                reserve(e, s);
        }
    e->depth = depth_taken(e);
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
