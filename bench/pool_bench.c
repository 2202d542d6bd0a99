/*
 * What the policies of eviction cost, on made-up requests and a recorded trace: the real pool with a clock of its own,
 * and the real KV store without a model.
 *
 * usage: pool_bench [TRACE.jsonl]   (lines of Mooncake's traces: {"timestamp": ms, "hash_ids": [...], ...})
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/memory.h"
#include "base/threads.h"
#include "kernel/kernel.h"
#include "runtime/kv.h"
#include "runtime/pool.h"

#define N_MODELS 12
#define N_REQUESTS 20000
#define MIB (UINT64_C(1) << 20)

static uint64_t clock_ns;

static uint64_t read_clock(void *self)
{
    (void)self;
    return clock_ns;
}

struct model {
    char name[8];
    uint64_t mib;
    double load_s;
    struct cabe_ledger *ledger;
    uint64_t n_loads;
};

/* From an embedder to a 7 B decoder; some load from a fitted copy, some are made anew, which takes longer by the byte. */
static const struct model sizes[N_MODELS] = {
    {"m0", 25, 0.05, NULL, 0},  {"m1", 90, 0.1, NULL, 0},    {"m2", 95, 0.9, NULL, 0},    {"m3", 130, 0.15, NULL, 0},
    {"m4", 240, 0.3, NULL, 0},  {"m5", 250, 2.5, NULL, 0},   {"m6", 480, 0.6, NULL, 0},   {"m7", 700, 0.8, NULL, 0},
    {"m8", 1100, 1.2, NULL, 0}, {"m9", 1200, 11.0, NULL, 0}, {"m10", 2000, 2.4, NULL, 0}, {"m11", 4100, 4.8, NULL, 0},
};

static enum cabe_status measure_model(void *self, struct cabe_pool_bytes *bytes, struct cabe_error *err)
{
    const struct model *m = self;

    (void)err;
    bytes->resident[CABE_HOST] = m->mib * MIB;
    return CABE_OK;
}

static enum cabe_status load_model(void *self, const struct cabe_cancel *cancel, void **object, struct cabe_error *err)
{
    struct model *m = self;

    (void)cancel;
    clock_ns += (uint64_t)(m->load_s * 1e9);
    m->n_loads++;
    *object = m;
    return cabe_ledger_reserve(m->ledger, CABE_HOST, CABE_PURPOSE_WEIGHTS, m->mib * MIB, m->name, err);
}

static void unload_model(void *object)
{
    struct model *m = object;

    cabe_ledger_release(m->ledger, CABE_HOST, CABE_PURPOSE_WEIGHTS, m->mib * MIB, m->name);
}

struct request {
    uint64_t at_ms;
    int model;
};

/* Seconds of loading for the requests under one policy. */
static double replay(const struct request *requests, size_t n, uint64_t budget, enum cabe_pool_policy policy)
{
    struct cabe_ledger_config ledger_config = {.n_devices = 1, .budget_bytes = {budget}};
    struct cabe_pool_config config = {.policy = policy, .clock = read_clock};
    struct model models[N_MODELS];
    struct cabe_ledger *ledger;
    struct cabe_pool *pool;
    struct cabe_error err;
    double seconds = 0;

    clock_ns = 1;
    memcpy(models, sizes, sizeof models);
    if (cabe_ledger_open(&ledger, &ledger_config, &err) != CABE_OK || cabe_pool_open(&pool, ledger, NULL, &err) != CABE_OK)
        return NAN;
    cabe_pool_configure(pool, &config);
    for (size_t i = 0; i < n; i++) {
        struct model *m = &models[requests[i].model];
        struct cabe_pool_source source = {measure_model, load_model, unload_model, m};
        struct cabe_pool_use *use;

        m->ledger = ledger;
        if (requests[i].at_ms * 1000000 > clock_ns)
            clock_ns = requests[i].at_ms * 1000000;
        if (cabe_pool_acquire(pool, m->name, &source, NULL, &use, &err) != CABE_OK) {
            fprintf(stderr, "%s\n", err.text);
            return NAN;
        }
        cabe_pool_release(pool, use);
    }
    for (int m = 0; m < N_MODELS; m++)
        seconds += (double)models[m].n_loads * models[m].load_s;
    cabe_pool_close(pool);
    cabe_ledger_close(ledger);
    return seconds;
}

static void compare(const char *name, const struct request *requests, size_t n)
{
    static const int percents[] = {45, 60, 80};
    uint64_t sum = 0;

    for (int m = 0; m < N_MODELS; m++)
        sum += sizes[m].mib * MIB;
    for (size_t p = 0; p < sizeof percents / sizeof percents[0]; p++) {
        printf("%-28s %3d %%", name, percents[p]);
        for (int policy = 0; policy < CABE_N_POOL_POLICIES; policy++)
            printf("  %9.1f", replay(requests, n, sum / 100 * (uint64_t)percents[p], (enum cabe_pool_policy)policy));
        printf("\n");
    }
}

static uint64_t seed = 88172645463325252u;

static double uniform(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (double)(seed >> 11) / 9007199254740992.0;
}

/* Ranks by Zipf's law with exponent 1. */
static int zipf(void)
{
    double sum = 0, at;
    int rank = 0;

    for (int r = 1; r <= N_MODELS; r++)
        sum += 1.0 / r;
    at = uniform() * sum;
    while (rank < N_MODELS - 1 && (at -= 1.0 / (rank + 1)) > 0)
        rank++;
    return rank;
}

static void shuffle(int *order)
{
    for (int i = N_MODELS - 1; i > 0; i--) {
        int j = (int)(uniform() * (i + 1)), swapped = order[i];

        order[i] = order[j];
        order[j] = swapped;
    }
}

enum shape { MIXED, SMALL_FIRST, LARGE_FIRST, PHASES, IN_TURN };

static void make(struct request *requests, enum shape shape)
{
    double at_s = 0;
    int order[N_MODELS];

    for (int i = 0; i < N_MODELS; i++)
        order[i] = shape == LARGE_FIRST ? N_MODELS - 1 - i : i;
    if (shape == MIXED)
        shuffle(order);
    for (int i = 0; i < N_REQUESTS; i++) {
        if (shape == PHASES && i % 1000 == 0)
            shuffle(order);
        at_s -= 3 * log(1 - uniform());
        requests[i] = (struct request){(uint64_t)(at_s * 1e3), shape == IN_TURN ? i % N_MODELS : order[zipf()]};
    }
}

/* ---- the trace ---- */

struct line {
    uint64_t at_ms;
    size_t n;
    uint64_t *block;
};

static struct line *read_trace(const char *path, size_t *n)
{
    FILE *file = fopen(path, "r");
    struct line *lines = NULL;
    char *text = malloc(1 << 20);

    *n = 0;
    while (file && text && fgets(text, 1 << 20, file)) {
        json_t *json = json_loads(text, 0, NULL), *ids = json_object_get(json, "hash_ids");
        struct line line = {(uint64_t)json_integer_value(json_object_get(json, "timestamp")), json_array_size(ids), NULL};

        line.block = calloc(line.n + 1, sizeof *line.block);
        lines = realloc(lines, (*n + 1) * sizeof *lines);
        if (!lines || !line.block)
            abort();
        for (size_t i = 0; i < line.n; i++)
            line.block[i] = (uint64_t)json_integer_value(json_array_get(ids, i));
        lines[(*n)++] = line;
        json_decref(json);
    }
    if (file)
        fclose(file);
    free(text);
    return lines;
}

/* A conversation keeps its model; which one follows from its first block, popular ones for most. */
static void compare_trace(const struct line *lines, size_t n)
{
    struct request *requests = calloc(n, sizeof *requests);
    int order[N_MODELS];

    if (!requests)
        return;
    for (int i = 0; i < N_MODELS; i++)
        order[i] = i;
    shuffle(order);
    for (size_t i = 0; i < n; i++) {
        seed = (lines[i].n ? lines[i].block[0] + 1 : 1) * 0x9E3779B97F4A7C15u;
        (void)uniform(), (void)uniform();
        requests[i] = (struct request){lines[i].at_ms, order[zipf()]};
    }
    compare("mooncake, model by root", requests, n);
    free(requests);
}

/* ---- KV pages: one page stands for a block of the trace ---- */

static double kv_hits(const struct line *lines, size_t n, int64_t n_pages, double half_lives)
{
    struct cabe_ledger_config ledger_config = {.n_devices = 1, .budget_bytes = {CABE_UNLIMITED}};
    struct cabe_kv_config config = {.shape = {.n_layers = 1, .n_heads = 1, .head_dim = 8},
                                    .keys = CABE_KV_F16,
                                    .values = CABE_KV_F16,
                                    .n_tokens = n_pages * CABE_PAGE_TOKENS,
                                    .n_seqs = 1,
                                    .seq_tokens = n_pages * CABE_PAGE_TOKENS};
    struct cabe_device_config device = {.ledger_device = CABE_HOST};
    uint64_t *tokens = calloc((size_t)(n_pages + 1) * CABE_PAGE_TOKENS, sizeof *tokens);
    struct cabe_ledger *ledger;
    struct cabe_team *team;
    struct cabe_kv_seq *seq;
    struct cabe_kv *kv;
    struct cabe_error err;
    double wanted = 0, hit = 0;

    if (!tokens || cabe_ledger_open(&ledger, &ledger_config, &err) != CABE_OK || cabe_team_open(&team, 1, &err) != CABE_OK ||
        cabe_kernels_choose(&device.kernels, &err) != CABE_OK)
        return NAN;
    device.ledger = ledger;
    device.team = team;
    if (cabe_cpu_device_open(&config.device, &device, &err) != CABE_OK || cabe_kv_open(&kv, &config, ledger, &err) != CABE_OK) {
        fprintf(stderr, "%s\n", err.text);
        return NAN;
    }
    cabe_kv_half_life(kv, half_lives * (double)n_pages);
    for (size_t i = 0; i < n; i++) {
        int64_t n_tokens = (int64_t)lines[i].n * CABE_PAGE_TOKENS, matched;

        if ((int64_t)lines[i].n >= n_pages || cabe_kv_seq_open(&seq, kv, &err) != CABE_OK)
            continue;
        for (int64_t t = 0; t < n_tokens; t++)
            tokens[t] = lines[i].block[t / CABE_PAGE_TOKENS];
        matched = cabe_kv_seq_match(seq, tokens, n_tokens + 1);
        wanted += (double)n_tokens;
        hit += (double)matched;
        if (cabe_kv_seq_reserve(seq, n_tokens - matched, &err) == CABE_OK)
            cabe_kv_seq_commit(seq, tokens + matched, n_tokens - matched);
        cabe_kv_seq_close(seq);
    }
    cabe_kv_close(kv);
    cabe_device_close(config.device);
    cabe_team_close(team);
    cabe_ledger_close(ledger);
    free(tokens);
    return 100 * hit / wanted;
}

static void compare_kv(const struct line *lines, size_t n)
{
    static const int64_t capacities[] = {500, 1000, 2000, 5000, 10000, 20000};
    static const double half_lives[] = {0, 0.5, 1, 2, 4, 8};

    printf("\nKV pages: hits in percent of the blocks, by half-life of a use in fills of the store (0: LRU)\n%8s", "blocks");
    for (size_t h = 0; h < sizeof half_lives / sizeof half_lives[0]; h++)
        printf("  %6.1f", half_lives[h]);
    printf("\n");
    for (size_t c = 0; c < sizeof capacities / sizeof capacities[0]; c++) {
        printf("%8d", (int)capacities[c]);
        for (size_t h = 0; h < sizeof half_lives / sizeof half_lives[0]; h++)
            printf("  %6.2f", kv_hits(lines, n, capacities[c], half_lives[h]));
        printf("\n");
    }
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"Zipf", "Zipf, small ones popular", "Zipf, large ones popular",
                                        "Zipf, anew every 1,000", "in turn"};
    static struct request requests[N_REQUESTS];
    struct line *lines = NULL;
    size_t n = 0;

    printf("models: seconds of loading; the budget is a share of what all need\n%-28s %5s", "requests", "share");
    for (int policy = 0; policy < CABE_N_POOL_POLICIES; policy++)
        printf("  %9s", cabe_pool_policy_name((enum cabe_pool_policy)policy));
    printf("\n");
    for (int shape = MIXED; shape <= IN_TURN; shape++) {
        make(requests, (enum shape)shape);
        compare(names[shape], requests, N_REQUESTS);
    }
    if (argc > 1)
        lines = read_trace(argv[1], &n);
    if (n > 0) {
        compare_trace(lines, n);
        compare_kv(lines, n);
    } else {
        printf("skip: no trace given\n");
    }
    for (size_t i = 0; i < n; i++)
        free(lines[i].block);
    free(lines);
    return 0;
}
