/*
 * Drawing a token from 49,152 logits, and what the KV store costs around a step: median and least, one
 * thread.
 *
 *     sample_bench
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "runtime/kv.h"
#include "runtime/sample.h"

enum { VOCAB = 49152, ROWS = 16, RUNS = 400, PROMPT = 8192 };

static float logits[ROWS][VOCAB];
static uint64_t tokens[PROMPT + 1];

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void tell(const char *name, uint64_t ns[RUNS])
{
    qsort(ns, RUNS, sizeof *ns, by_value);
    printf("%-44s median %9.2f us, least %9.2f us\n", name, (double)ns[RUNS / 2] / 1e3, (double)ns[0] / 1e3);
}

/* About as a language model's: a wide bell, and a few that stand out. */
static void fill_logits(void)
{
    for (int row = 0; row < ROWS; row++)
        for (int i = 0; i < VOCAB; i++) {
            double u = cabe_sample_uniform(1, (uint64_t)row, (uint64_t)i) + 1e-12;
            double v = cabe_sample_uniform(2, (uint64_t)row, (uint64_t)i);

            logits[row][i] = (float)(2.5 * sqrt(-2 * log(u)) * cos(6.283185307 * v)) + (i % 5000 == row ? 9 : 0);
        }
}

static void check(enum cabe_status status, const struct cabe_error *err)
{
    if (status == CABE_OK)
        return;
    fprintf(stderr, "sample_bench: %s\n", err->text);
    exit(1);
}

static void bench_sampling(const char *name, const struct cabe_sampling *params)
{
    static uint64_t ns[RUNS];
    struct cabe_sampler *sampler;
    struct cabe_sampled sampled;
    struct cabe_error err;
    int32_t history[64];

    for (int i = 0; i < 64; i++)
        history[i] = 700 * i;
    check(cabe_sampler_open(&sampler, VOCAB, &err), &err);
    for (int i = 0; i < RUNS; i++) {
        uint64_t begin = cabe_clock_ns();

        check(cabe_sample(sampler, params, logits[i % ROWS], VOCAB, history, 64, 0, (uint64_t)i, &sampled, &err),
              &err);
        ns[i] = cabe_clock_ns() - begin;
    }
    cabe_sampler_close(sampler);
    tell(name, ns);
}

static void sampling(void)
{
    struct cabe_sampling off, params;

    cabe_sampling_defaults(&params);
    off = params;
    off.top_k = 0;
    off.top_p = 1;
    off.min_p = 0;
    bench_sampling("default: top-k 40, top-p 0.95, min-p 0.05", &params);
    params = off;
    params.temperature = 0;
    bench_sampling("greedy", &params);
    params.n_logprobs = 5;
    bench_sampling("greedy, log-probabilities of 5", &params);
    params = off;
    params.top_k = 40;
    bench_sampling("top-k 40", &params);
    params = off;
    params.top_p = 0.95f;
    bench_sampling("top-p 0.95", &params);
    params = off;
    params.min_p = 0.05f;
    bench_sampling("min-p 0.05", &params);
    bench_sampling("temperature 0.8 alone", &off);
    params = off;
    params.temperature = 0;
    params.repetition_penalty = 1.1f;
    bench_sampling("greedy, repetition penalty of 64", &params);
}

/* A prompt of 8,192 tokens that is cached, and steps of one token. */
static void bench_kv(struct cabe_kv *kv)
{
    static uint64_t match[RUNS], step[RUNS], close[RUNS];
    struct cabe_kv_seq *seq;
    struct cabe_error err;

    for (int i = 0; i <= PROMPT; i++)
        tokens[i] = (uint64_t)(i * 7919 % VOCAB);
    check(cabe_kv_seq_open(&seq, kv, &err), &err);
    check(cabe_kv_seq_reserve(seq, PROMPT, &err), &err);
    cabe_kv_seq_commit(seq, tokens, PROMPT);
    cabe_kv_seq_close(seq);
    for (int i = 0; i < RUNS; i++) {
        uint64_t begin = cabe_clock_ns(), matched, stepped;

        check(cabe_kv_seq_open(&seq, kv, &err), &err);
        if (cabe_kv_seq_match(seq, tokens, PROMPT + 1) != PROMPT)
            exit(1);
        matched = cabe_clock_ns();
        for (uint64_t k = 0; k < 16; k++) {
            uint64_t token = (uint64_t)i * 16 + k;

            check(cabe_kv_seq_reserve(seq, 1, &err), &err);
            cabe_kv_seq_commit(seq, &token, 1);
        }
        stepped = cabe_clock_ns();
        cabe_kv_seq_close(seq);
        close[i] = cabe_clock_ns() - stepped;
        match[i] = matched - begin;
        step[i] = (stepped - matched) / 16;
    }
    tell("kv: match of 8,192 tokens", match);
    tell("kv: reserve and commit of a token", step);
    tell("kv: close of 8,208 tokens", close);
}

static void store(void)
{
    struct cabe_ledger_config ledger_config = {.n_devices = 1, .budget_bytes = {CABE_UNLIMITED}};
    struct cabe_device_config config = {.ledger_device = CABE_HOST};
    struct cabe_kv_config kv_config = {.shape = {1, 1, 64}, .keys = CABE_KV_F16, .values = CABE_KV_F16,
                                       .n_tokens = 2 * PROMPT, .n_seqs = 4, .seq_tokens = 2 * PROMPT};
    struct cabe_team *team;
    struct cabe_kv *kv;
    struct cabe_error err;

    check(cabe_ledger_open(&config.ledger, &ledger_config, &err), &err);
    check(cabe_team_open(&team, 1, &err), &err);
    check(cabe_kernels_choose(&config.kernels, &err), &err);
    config.team = team;
    check(cabe_cpu_device_open(&kv_config.device, &config, &err), &err);
    check(cabe_kv_open(&kv, &kv_config, config.ledger, &err), &err);
    bench_kv(kv);
    cabe_kv_close(kv);
    cabe_device_close(kv_config.device);
    cabe_team_close(team);
    cabe_ledger_close(config.ledger);
}

int main(void)
{
    fill_logits();
    sampling();
    store();
    return 0;
}
