#include "runtime/logits.h"

#include <math.h>
#include <string.h>

typedef float v4 __attribute__((vector_size(16)));
typedef int32_t i4 __attribute__((vector_size(16)));

#define SMALL 32 /* sorted by insertion */

static inline v4 load(const float *z)
{
    v4 v;

    memcpy(&v, z, sizeof v);
    return v;
}

static inline v4 choose(i4 mask, v4 yes, v4 no)
{
    return (v4)((mask & (i4)yes) | (~mask & (i4)no));
}

static inline v4 all(float x)
{
    return (v4){x, x, x, x};
}

/* e^x for x <= 0, within 2e-7 + |x| 1e-7 relative; 0 below -87. */
static inline v4 exp4(v4 x)
{
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it leaves a whole number */
    v4 t = x * 1.44269504f, whole, part, p;
    i4 normal = t > all(-126.0f);

    t = choose(normal, t, all(0.0f));
    whole = (t + round) - round;
    part = t - whole;
    p = part * 1.53458124e-4f + 1.33999309e-3f;
    p = p * part + 9.61848907e-3f;
    p = p * part + 5.55032864e-2f;
    p = p * part + 2.40226462e-1f;
    p = p * part + 6.93147182e-1f;
    p = p * part + 1.0f;
    p *= (v4)((__builtin_convertvector(whole, i4) + 127) << 23);
    return (v4)(normal & (i4)p);
}

/* The maximum of a whole block; *below stays all ones while everything is below +infinity. */
static inline float block_max(const float *z, i4 *below)
{
    v4 m[4], infinity = all(INFINITY);
    float best;

    for (int k = 0; k < 4; k++) {
        m[k] = load(z + 4 * k);
        *below &= m[k] < infinity;
    }
    for (int i = 16; i < CABE_LOGITS_BLOCK; i += 16)
        for (int k = 0; k < 4; k++) {
            v4 x = load(z + i + 4 * k);

            *below &= x < infinity;
            m[k] = choose(x > m[k], x, m[k]);
        }
    for (int k = 1; k < 4; k++)
        m[0] = choose(m[k] > m[0], m[k], m[0]);
    best = m[0][0];
    for (int k = 1; k < 4; k++)
        best = m[0][k] > best ? m[0][k] : best;
    return best;
}

int32_t cabe_logits_scan(struct cabe_logits *row)
{
    const float *z = row->z;
    i4 below = {-1, -1, -1, -1};
    int all_below, block = 0;

    row->n_blocks = cabe_logits_n_blocks(row->n);
    for (int32_t b = 0; b < row->n / CABE_LOGITS_BLOCK; b++)
        row->block_max[b] = block_max(z + b * CABE_LOGITS_BLOCK, &below);
    if (row->n % CABE_LOGITS_BLOCK) {
        float tail[CABE_LOGITS_BLOCK];
        int32_t begin = row->n - row->n % CABE_LOGITS_BLOCK;

        for (int32_t i = 0; i < CABE_LOGITS_BLOCK; i++)
            tail[i] = begin + i < row->n ? z[begin + i] : -INFINITY;
        row->block_max[row->n_blocks - 1] = block_max(tail, &below);
    }
    all_below = below[0] & below[1] & below[2] & below[3];
    for (int32_t i = 0; !all_below && i < row->n; i++)
        if (!(z[i] < INFINITY))
            return i;
    for (int32_t b = 1; b < row->n_blocks; b++)
        if (row->block_max[b] > row->block_max[block])
            block = b;
    row->max = row->block_max[block];
    row->best = block * CABE_LOGITS_BLOCK;
    while (z[row->best] != row->max)
        row->best++;
    return -1;
}

double cabe_logits_mass(const struct cabe_logits *row)
{
    double mass = 0;
    int32_t i = 0;

    for (; i + CABE_LOGITS_BLOCK <= row->n; i += CABE_LOGITS_BLOCK) {
        v4 sum = all(0.0f);

        for (int32_t k = 0; k < CABE_LOGITS_BLOCK; k += 4)
            sum += exp4(load(row->z + i + k) - row->max);
        mass += (double)(sum[0] + sum[1] + (sum[2] + sum[3]));
    }
    for (; i < row->n; i++)
        mass += (double)exp4(all(row->z[i] - row->max))[0];
    return mass;
}

double cabe_logits_mass_from(const struct cabe_logits *row, float floor, struct cabe_weigh weigh, int32_t *n)
{
    double mass = 0;

    *n = 0;
    for (int32_t b = 0; b < row->n_blocks; b++) {
        const float *z = row->z + b * CABE_LOGITS_BLOCK;
        float tail[CABE_LOGITS_BLOCK];
        v4 sum = all(0.0f);
        i4 count = {0, 0, 0, 0};

        if (row->block_max[b] < floor)
            continue;
        if ((b + 1) * CABE_LOGITS_BLOCK > row->n) {
            for (int32_t i = 0; i < CABE_LOGITS_BLOCK; i++)
                tail[i] = b * CABE_LOGITS_BLOCK + i < row->n ? z[i] : -INFINITY;
            z = tail;
        }
        for (int32_t k = 0; k < CABE_LOGITS_BLOCK; k += 4) {
            v4 x = load(z + k);
            i4 in = x >= all(floor);

            sum += (v4)(in & (i4)exp4((x - weigh.max) / weigh.temperature));
            count -= in;
        }
        mass += (double)(sum[0] + sum[1] + (sum[2] + sum[3]));
        *n += count[0] + count[1] + count[2] + count[3];
    }
    return mass;
}

/* Bits of a float as an integer that orders as the floats do; both zeros are one. */
static inline uint32_t order(float x)
{
    uint32_t bits;

    x += 0.0f;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static inline uint64_t candidate(float logit, int32_t id)
{
    return (uint64_t)order(logit) << 32 | (uint32_t)~id;
}

float cabe_candidate_logit(uint64_t key)
{
    uint32_t bits = (uint32_t)(key >> 32);
    float x;

    bits = bits & 0x80000000u ? bits & 0x7FFFFFFFu : ~bits;
    memcpy(&x, &bits, sizeof x);
    return x;
}

size_t cabe_candidates_from(const struct cabe_logits *row, float floor, uint64_t *keys)
{
    size_t n = 0;

    for (int32_t b = 0; b < row->n_blocks; b++) {
        int32_t begin = b * CABE_LOGITS_BLOCK,
                end = b + 1 < row->n_blocks ? begin + CABE_LOGITS_BLOCK : row->n;

        if (row->block_max[b] < floor)
            continue;
        for (int32_t i = begin; i < end; i++) { /* n <= i: there is room for one that is not kept */
            keys[n] = candidate(row->z[i], i);
            n += row->z[i] >= floor && row->z[i] > -INFINITY;
        }
    }
    return n;
}

size_t cabe_candidates_top(const struct cabe_logits *row, size_t k, uint64_t *keys)
{
    static const struct cabe_weigh count = {0, 0};
    float floor = -INFINITY;
    size_t n;

    if (k < (size_t)row->n_blocks) { /* k blocks have a highest: k logits are at least the k-th of these */
        for (int32_t b = 0; b < row->n_blocks; b++)
            keys[b] = candidate(row->block_max[b], b);
        n = cabe_candidates_prefix(keys, (size_t)row->n_blocks, count, (double)k, 0);
        floor = cabe_candidate_logit(keys[n - 1]);
    }
    n = cabe_candidates_from(row, floor, keys);
    return n ? cabe_candidates_prefix(keys, n, count, (double)k, 0) : 0;
}

static inline v4 weights(const uint64_t *keys, struct cabe_weigh weigh)
{
    v4 z = {cabe_candidate_logit(keys[0]), cabe_candidate_logit(keys[1]), cabe_candidate_logit(keys[2]),
            cabe_candidate_logit(keys[3])};

    return exp4((z - weigh.max) / weigh.temperature);
}

static inline double weight(uint64_t key, struct cabe_weigh weigh)
{
    if (weigh.temperature == 0.0f)
        return 1;
    return (double)exp4(all((cabe_candidate_logit(key) - weigh.max) / weigh.temperature))[0];
}

double cabe_candidates_mass(const uint64_t *keys, size_t n, struct cabe_weigh weigh)
{
    double mass = 0;
    size_t i = 0;

    if (weigh.temperature == 0.0f)
        return (double)n;
    for (; i + 4 <= n; i += 4) {
        v4 w = weights(keys + i, weigh);

        mass += (double)w[0] + (double)w[1] + ((double)w[2] + (double)w[3]);
    }
    for (; i < n; i++)
        mass += weight(keys[i], weigh);
    return mass;
}

void cabe_candidates_sort(uint64_t *keys, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        uint64_t key = keys[i];
        size_t k = i;

        for (; k > 0 && keys[k - 1] < key; k--)
            keys[k] = keys[k - 1];
        keys[k] = key;
    }
}

static inline void swap(uint64_t *a, uint64_t *b)
{
    uint64_t held = *a;

    *a = *b;
    *b = held;
}

/*
 * Parts keys into those above one of them, that one, and those below; returns where it is, never the last
 * place. It is the middle one of three at places that no order of logits was made for. n >= 3, no two keys
 * are equal.
 */
static size_t part(uint64_t *keys, size_t n)
{
    uint64_t hash = (n ^ keys[n / 2]) * 0x9E3779B97F4A7C15u, pivot;
    size_t third = n / 3, n_above = 0;
    uint64_t *a = &keys[(hash >> 40) % third], *b = &keys[third + (hash >> 20) % third],
             *c = &keys[2 * third + (hash >> 4) % third];

    if (*a < *b)
        swap(a, b);
    if (*b < *c)
        swap(b, c);
    if (*a < *b)
        swap(a, b);
    pivot = *b;
    swap(b, &keys[n - 1]);
    for (size_t i = 0; i < n - 1; i++) {
        uint64_t key = keys[i];

        keys[i] = keys[n_above];
        keys[n_above] = key;
        n_above += key > pivot;
    }
    swap(&keys[n_above], &keys[n - 1]);
    return n_above;
}

size_t cabe_candidates_prefix(uint64_t *keys, size_t n, struct cabe_weigh weigh, double target, int over)
{
    size_t begin = 0, end = n;
    double above = 0; /* the mass of keys[0..begin) */

    while (end - begin > SMALL) {
        size_t middle = begin + part(keys + begin, end - begin) + 1;
        double mass = above + cabe_candidates_mass(keys + begin, middle - begin, weigh);

        if (over ? mass > target : mass >= target) {
            end = middle;
        } else {
            begin = middle;
            above = mass;
        }
    }
    cabe_candidates_sort(keys + begin, end - begin);
    for (size_t i = begin; i < end; i++) {
        above += weight(keys[i], weigh);
        if (over ? above > target : above >= target)
            return i + 1;
    }
    return end;
}

size_t cabe_candidates_best(const struct cabe_logits *row, float floor, struct cabe_weigh weigh, double target,
                            int over, uint64_t *keys)
{
    for (float depth = 3; depth < 30; depth *= 2) {
        float from = weigh.max - depth * weigh.temperature;
        double mass;
        int32_t n;

        if (from <= floor)
            break;
        mass = cabe_logits_mass_from(row, from, weigh, &n);
        if (over ? mass > target : mass >= target) {
            floor = from;
            break;
        }
    }
    return cabe_candidates_prefix(keys, cabe_candidates_from(row, floor, keys), weigh, target, over);
}
