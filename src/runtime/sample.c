#include "runtime/sample.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "runtime/logits.h"

struct cabe_sampler {
    int32_t n_vocab;
    float *adjusted;  /* logits with bias and penalties */
    float *block_max; /* of the row in hand */
    uint64_t *keys;   /* candidates; before there are any, how often a token was in the history */
};

#define BIAS_LIMIT 1e6f

void cabe_sampling_defaults(struct cabe_sampling *params)
{
    *params = (struct cabe_sampling){.temperature = 0.8f,
                                     .top_k = 40,
                                     .top_p = 0.95f,
                                     .min_p = 0.05f,
                                     .repetition_penalty = 1.0f,
                                     .penalty_last_n = 64,
                                     .n_logprobs = -1};
}

static enum cabe_status check_bias(const struct cabe_sampling *params, int32_t n_vocab,
                                   struct cabe_error *err)
{
    if (params->n_bias > CABE_SAMPLE_BIAS_MAX)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "logit_bias: %zu tokens, at most %d", params->n_bias,
                         CABE_SAMPLE_BIAS_MAX);
    for (size_t i = 0; i < params->n_bias; i++) {
        const struct cabe_logit_bias *b = &params->bias[i];

        if (b->token < 0 || b->token >= n_vocab)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "logit_bias: token %d of %d", b->token, n_vocab);
        if (!(b->bias <= BIAS_LIMIT) || (b->bias < -BIAS_LIMIT && b->bias != -INFINITY))
            return cabe_fail(err, CABE_ERR_ARGUMENT,
                             "logit_bias: %g for token %d, wanted -1e6 to 1e6, or -inf", (double)b->bias,
                             b->token);
    }
    return CABE_OK;
}

enum cabe_status cabe_sampling_check(const struct cabe_sampling *params, int32_t n_vocab,
                                     struct cabe_error *err)
{
    const struct {
        const char *name;
        float value, low, high;
    } ranges[] = {
        {"temperature", params->temperature, 0.0f, 100.0f},
        {"top_p", params->top_p, 0.0f, 1.0f},
        {"min_p", params->min_p, 0.0f, 1.0f},
        {"repetition_penalty", params->repetition_penalty, 0.01f, 100.0f},
        {"frequency_penalty", params->frequency_penalty, -100.0f, 100.0f},
        {"presence_penalty", params->presence_penalty, -100.0f, 100.0f},
    };

    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (!(ranges[i].value >= ranges[i].low && ranges[i].value <= ranges[i].high))
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: %g, wanted %g to %g", ranges[i].name,
                             (double)ranges[i].value, (double)ranges[i].low, (double)ranges[i].high);
    if (params->top_k < 0)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "top_k: %d, wanted 0 (off) or more", params->top_k);
    if (params->penalty_last_n < -1)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "penalty_last_n: %d, wanted -1 (all) or more",
                         params->penalty_last_n);
    if (params->n_logprobs < -1 || params->n_logprobs > CABE_SAMPLE_TOP_MAX)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "n_logprobs: %d, wanted -1 (none) to %d", params->n_logprobs,
                         CABE_SAMPLE_TOP_MAX);
    return check_bias(params, n_vocab, err);
}

struct cabe_sampler *cabe_sampler_place(struct cabe_arena *arena, int32_t n_vocab)
{
    struct cabe_sampler *sampler = cabe_arena_take(arena, 1, sizeof *sampler, 64);
    uint64_t n = n_vocab > 0 ? (uint64_t)n_vocab : 0;
    struct cabe_sampler placed = {
        .n_vocab = n_vocab,
        .adjusted = cabe_arena_take(arena, n, sizeof(float), 64),
        .block_max = cabe_arena_take(arena, n / CABE_LOGITS_BLOCK + 1, sizeof(float), 64),
        .keys = cabe_arena_take(arena, n, sizeof(uint64_t), 64),
    };

    if (sampler)
        *sampler = placed;
    return sampler;
}

uint64_t cabe_sampler_measure(int32_t n_vocab)
{
    struct cabe_arena arena = {NULL, 0, 0};

    cabe_sampler_place(&arena, n_vocab);
    return cabe_pages_round(arena.used_bytes);
}

enum cabe_status cabe_sampler_open(struct cabe_sampler **out, int32_t n_vocab, struct cabe_error *err)
{
    struct cabe_arena arena = {NULL, 0, cabe_sampler_measure(n_vocab)};
    void *pages;
    enum cabe_status status;

    *out = NULL;
    if (n_vocab <= 0)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "sampler for %d tokens", n_vocab);
    status = cabe_pages_map(&pages, arena.size_bytes, 0, err);
    if (status != CABE_OK)
        return cabe_fail_in(err, status, "sampler for %d tokens", n_vocab);
    arena.base = pages;
    *out = cabe_sampler_place(&arena, n_vocab);
    return CABE_OK;
}

void cabe_sampler_close(struct cabe_sampler *sampler)
{
    if (sampler)
        cabe_pages_unmap(sampler, cabe_sampler_measure(sampler->n_vocab));
}

/* Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011. */
double cabe_sample_uniform(uint64_t seed, uint64_t sequence, uint64_t position)
{
    uint32_t c[4] = {(uint32_t)position, (uint32_t)(position >> 32), (uint32_t)sequence,
                     (uint32_t)(sequence >> 32)};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};

    for (int round = 0; round < 10; round++) {
        uint64_t p = (uint64_t)c[0] * 0xD2511F53u, q = (uint64_t)c[2] * 0xCD9E8D57u;
        uint32_t low = (uint32_t)p, c1 = c[1];

        c[0] = (uint32_t)(q >> 32) ^ c1 ^ key[0];
        c[1] = (uint32_t)q;
        c[2] = (uint32_t)(p >> 32) ^ c[3] ^ key[1];
        c[3] = low;
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    return (double)(((uint64_t)c[1] << 32 | c[0]) >> 11) * 0x1p-53;
}

static enum cabe_status scan(struct cabe_sampler *sampler, struct cabe_logits *row, const float *z, int32_t n,
                             struct cabe_error *err)
{
    int32_t bad;

    *row = (struct cabe_logits){.z = z, .n = n, .block_max = sampler->block_max};
    bad = cabe_logits_scan(row);
    if (bad >= 0)
        return cabe_fail(err, CABE_ERR_INTERNAL, "logit %d of %d is %s", bad, n,
                         isnan(z[bad]) ? "not a number" : "infinite");
    if (row->max == -INFINITY)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "all %d logits are -infinity: no token may be drawn", n);
    return CABE_OK;
}

static void penalize(const struct cabe_sampling *params, float *z, int32_t n_vocab, const int32_t *history,
                     size_t n_history, int32_t *counts)
{
    for (size_t i = 0; i < n_history; i++)
        if (history[i] >= 0 && history[i] < n_vocab)
            counts[history[i]] = 0;
    for (size_t i = 0; i < n_history; i++)
        if (history[i] >= 0 && history[i] < n_vocab)
            counts[history[i]]++;
    for (size_t i = 0; i < n_history; i++) {
        int32_t id = history[i];

        if (id < 0 || id >= n_vocab || counts[id] == 0)
            continue;
        z[id] = z[id] > 0 ? z[id] / params->repetition_penalty : z[id] * params->repetition_penalty;
        z[id] -= (float)counts[id] * params->frequency_penalty + params->presence_penalty;
        counts[id] = 0;
    }
}

/* The logits with bias and penalties: `z` itself where there is nothing to do. */
static const float *adjust(struct cabe_sampler *sampler, const struct cabe_sampling *params, const float *z,
                           int32_t n_vocab, const int32_t *history, size_t n_history)
{
    size_t n_last = params->penalty_last_n < 0 || (size_t)params->penalty_last_n > n_history
                        ? n_history
                        : (size_t)params->penalty_last_n;
    int penalties = n_last > 0 && (params->repetition_penalty != 1.0f || params->frequency_penalty != 0.0f ||
                                   params->presence_penalty != 0.0f);

    if (!penalties && params->n_bias == 0)
        return z;
    memcpy(sampler->adjusted, z, (size_t)n_vocab * sizeof *z);
    for (size_t i = 0; i < params->n_bias; i++)
        if (params->bias[i].token >= 0 && params->bias[i].token < n_vocab)
            sampler->adjusted[params->bias[i].token] += params->bias[i].bias;
    if (penalties)
        penalize(params, sampler->adjusted, n_vocab, history + (n_history - n_last), n_last,
                 (int32_t *)(void *)sampler->keys);
    return sampler->adjusted;
}

/* The likeliest tokens by the model's own distribution, whose log-normaliser is *log_mass. */
static void report_top(struct cabe_sampler *sampler, const struct cabe_logits *row, int32_t n_logprobs,
                       struct cabe_sampled *out, double *log_mass)
{
    size_t n = 0;

    *log_mass = (double)row->max + log(cabe_logits_mass(row));
    if (n_logprobs > 0)
        n = cabe_candidates_top(row, (size_t)n_logprobs, sampler->keys);
    cabe_candidates_sort(sampler->keys, n);
    for (size_t i = 0; i < n; i++) {
        int32_t id = cabe_candidate_id(sampler->keys[i]);

        out->top[i] = (struct cabe_token_logprob){id, (float)((double)row->z[id] - *log_mass)};
    }
    out->n_top = (int32_t)n;
}

/* What step 6 and the draw itself leave: below it a logit is not likely enough, or weighs 0. */
static float floor_of(const struct cabe_sampling *params, const struct cabe_logits *row)
{
    float nothing = row->max - 87.0f * params->temperature;
    float floor = params->min_p > 0.0f ? row->max + logf(params->min_p) : nothing;

    return fmaxf(floor, nothing);
}

/* Steps 4 to 6, where there is a top_k or a top_p: leaves in sampler->keys what may be drawn. */
static size_t filter(struct cabe_sampler *sampler, const struct cabe_sampling *params,
                     const struct cabe_logits *row, float floor)
{
    struct cabe_weigh one = {row->max, 1.0f};
    int by_p = params->top_p < 1.0f;
    uint64_t *keys = sampler->keys;
    size_t n, n_left = 0;

    if (params->top_k > 0 && params->top_k < row->n) {
        n = cabe_candidates_top(row, (size_t)params->top_k, keys);
        if (by_p)
            n = cabe_candidates_prefix(
                keys, n, one, cabe_candidates_mass(keys, n, one) * (double)params->top_p, 0);
    } else { /* each step leaves the beginning of one order: min_p may go before top_p */
        n = cabe_candidates_best(row, floor, one, cabe_logits_mass(row) * (double)params->top_p, 0, keys);
    }
    for (size_t i = 0; i < n; i++) {
        keys[n_left] = keys[i];
        n_left += cabe_candidate_logit(keys[i]) >= floor;
    }
    return n_left;
}

static int32_t draw(struct cabe_sampler *sampler, const struct cabe_sampling *params,
                    const struct cabe_logits *row, double uniform, int32_t *n_kept)
{
    struct cabe_weigh weigh = {row->max, params->temperature};
    float floor = floor_of(params, row);
    double mass;
    size_t n;

    if ((params->top_k > 0 && params->top_k < row->n) || params->top_p < 1.0f) {
        n = filter(sampler, params, row, floor);
        *n_kept = (int32_t)n;
        mass = cabe_candidates_mass(sampler->keys, n, weigh);
        n = cabe_candidates_prefix(sampler->keys, n, weigh, uniform * mass, 1);
    } else { /* in one order again: only the part before the drawn one is sought */
        mass = cabe_logits_mass_from(row, floor, weigh, n_kept);
        n = cabe_candidates_best(row, floor, weigh, uniform * mass, 1, sampler->keys);
    }
    return cabe_candidate_id(sampler->keys[n - 1]);
}

enum cabe_status cabe_sample(struct cabe_sampler *sampler, const struct cabe_sampling *params,
                             const float *logits, int32_t n_vocab, const int32_t *history, size_t n_history,
                             uint64_t sequence, uint64_t position, struct cabe_sampled *out,
                             struct cabe_error *err)
{
    struct cabe_logits row;
    const float *adjusted;
    double log_mass = NAN;
    enum cabe_status status;

    out->n_top = 0;
    if (n_vocab <= 0 || n_vocab > sampler->n_vocab)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%d logits for a sampler of %d", n_vocab, sampler->n_vocab);
    if (params->n_logprobs >= 0) {
        status = scan(sampler, &row, logits, n_vocab, err);
        if (status != CABE_OK)
            return status;
        report_top(sampler, &row, params->n_logprobs, out, &log_mass);
    }
    adjusted = adjust(sampler, params, logits, n_vocab, history, n_history);
    if (params->n_logprobs < 0 || adjusted != logits) {
        status = scan(sampler, &row, adjusted, n_vocab, err);
        if (status != CABE_OK)
            return status;
    }
    out->n_kept = 1;
    out->token = row.best;
    if (params->temperature > 0.0f)
        out->token =
            draw(sampler, params, &row, cabe_sample_uniform(params->seed, sequence, position), &out->n_kept);
    out->logprob = (float)((double)logits[out->token] - log_mass);
    return CABE_OK;
}

enum cabe_status cabe_sample_score(struct cabe_sampler *sampler, const float *logits, int32_t n_vocab, int32_t token,
                                   int32_t n_logprobs, struct cabe_sampled *out, struct cabe_error *err)
{
    struct cabe_logits row;
    double log_mass;
    enum cabe_status status;

    out->n_top = 0;
    if (n_vocab <= 0 || n_vocab > sampler->n_vocab || token < 0 || token >= n_vocab)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "token %d of %d logits, for a sampler of %d", token, n_vocab,
                         sampler->n_vocab);
    status = scan(sampler, &row, logits, n_vocab, err);
    if (status != CABE_OK)
        return status;
    report_top(sampler, &row, n_logprobs, out, &log_mass);
    out->token = token;
    out->n_kept = 1;
    out->logprob = (float)((double)logits[token] - log_mass);
    return CABE_OK;
}
