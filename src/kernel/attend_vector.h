/*
 * Attention over KV pages, over simd.h.
 *
 * Queries times heads of the group are the rows. A pass takes as many rows as there is scratch for, tile by tile of 64
 * slots; in a tile, blocks of BLOCK rows have their scores and their sums of values in registers. Few rows read the
 * stored format as they go; many read a tile that was turned to f32 once. A row runs the same sums either way, alone
 * or in a block: along head_dim for a score, along the slots it sees for a value, one fused multiply-add after another.
 *
 * Slots that a row does not see are left out, not multiplied by 0: they may hold anything. A block goes together over
 * the slots that all of its rows see, the rest of them row by row.
 *
 * Scores are kept times log2 e, so that weights are powers of 2. Between the tiles of a part a row keeps its largest
 * score, its sum of weights and its weighted values; between parts the same of those before, the values in `out`.
 */
#ifndef CABE_KERNEL_ATTEND_VECTOR_H
#define CABE_KERNEL_ATTEND_VECTOR_H

#include <math.h>

#include "kernel/attention_shared.h"
#include "kernel/levels.h"
#include "kernel/simd.h"

#define PER_PAGE (CABE_PAGE_TOKENS / LANES) /* vectors of a channel of keys */
#define TILE_PAGES (CABE_ATTEND_TILE / CABE_PAGE_TOKENS)
#if LANES == 8
#define BLOCK 6 /* rows times two vectors, two of keys or values and one of a row: 15 of 16 registers */
#define EACH_BLOCK(X) X(1) X(2) X(3) X(4) X(5) X(6)
#else
#define BLOCK 12 /* as many chains as two units of latency 4 need, and half as many again */
#define EACH_BLOCK(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)
#endif
#define DIRECT_ROWS 12 /* so many rows at most read pages as they are stored */

struct attend_pass {
    const struct cabe_paged *paged;
    const struct cabe_attend *a;
    int64_t first, n; /* queries */
    int64_t seen;     /* last slot of the sequence that is read */
    float scale;      /* times log2 e */
    float *keys, *values, *scores;
    float *sums, *largest, *total; /* [rows][head_dim], [rows], [rows]: of a part */
    float *top, *all;              /* [rows]: largest and total of the parts before */
};

struct attend_tile {
    int64_t slot;          /* its first */
    int begin, end;        /* of its pages, those that are needed */
    enum cabe_kv_format k_format[TILE_PAGES], v_format[TILE_PAGES]; /* as read: F32 where it was turned */
    const uint8_t *k[TILE_PAGES], *v[TILE_PAGES];
    const uint8_t *k_ahead[TILE_PAGES], *v_ahead[TILE_PAGES]; /* where the same is a tile later */
    const float *k_scale[TILE_PAGES], *v_scale[TILE_PAGES]; /* or NULL */
};

struct attend_rows { /* a block of rows on a tile; slots count from the tile's first */
    int n;
    int64_t row; /* the first, in the pass */
    const float *q[BLOCK];
    float *out[BLOCK], shrink[LANES];
    int64_t begin[BLOCK], end[BLOCK]; /* slots that the row sees */
};

/* LANES elements from `i` on, or the first n of them and zeros. */
SIMD vf page_load(enum cabe_kv_format format, const uint8_t *page, int64_t i, int n)
{
    const float *f32 = (const float *)(const void *)page + i;
    const uint16_t *f16 = (const uint16_t *)(const void *)page + i;
    const int8_t *q8 = (const int8_t *)page + i;
    uint16_t some[LANES] = {0};

    if (format == CABE_KV_F32)
        return n == LANES ? v_load(f32) : v_load_n(f32, n);
    if (format == CABE_KV_F16) {
        if (n == LANES)
            return v_from_f16(f16);
        memcpy(some, f16, (size_t)n * sizeof *some);
        return v_from_f16(some);
    }
    if (n == LANES)
        return v_from_i8(q8);
    memcpy(some, q8, (size_t)n);
    return v_from_i8((const int8_t *)some);
}

/*
 * Pages of a head lie far from each other, so the processor does not foresee them. Whoever reads a page asks for one a
 * tile later as it goes; all at once would fill the queue of misses.
 */
SIMD void page_fetch(enum cabe_kv_format format, const uint8_t *ahead, int64_t i)
{
    __builtin_prefetch(ahead + i * (format == CABE_KV_F32 ? 4 : format == CABE_KV_F16 ? 2 : 1));
}

SIMD void turn_page(enum cabe_kv_format format, const uint8_t *page, const uint8_t *ahead, float *out, int64_t n)
{
    for (int64_t i = 0; i < n; i += CABE_PAGE_TOKENS) { /* n is 16 times head_dim */
        page_fetch(format, ahead, i);
#pragma GCC unroll 2
        for (int v = 0; v < PER_PAGE; v++)
            v_store(out + i + v * LANES, page_load(format, page, i + v * LANES, LANES));
    }
}

static void turn_block(const struct kv_block *block, const uint8_t *ahead, float *out, int64_t n)
{
    if (block->format == CABE_KV_F16)
        turn_page(CABE_KV_F16, block->at, ahead, out, n);
    else
        turn_page(CABE_KV_Q8, block->at, ahead, out, n);
}

/* The pages of the tile at `slot`, as far as slots [first, last] of the sequence go. */
static void tile_open(const struct attend_pass *p, struct attend_tile *t, int64_t slot, int64_t first, int64_t last,
                      int direct)
{
    int32_t dim = p->paged->head_dim;
    int64_t n = (int64_t)dim * CABE_PAGE_TOKENS;

    t->slot = slot;
    t->begin = first > slot ? (int)((first - slot) / CABE_PAGE_TOKENS) : 0;
    t->end = last < slot + CABE_ATTEND_TILE ? (int)((last - slot) / CABE_PAGE_TOKENS) + 1 : TILE_PAGES;
    for (int i = t->begin; i < t->end; i++) {
        const struct cabe_page *page = &p->paged->pages[slot / CABE_PAGE_TOKENS + i];
        int goes_on = slot + CABE_ATTEND_TILE + i * CABE_PAGE_TOKENS <= p->seen;
        const struct cabe_page *next = goes_on ? page + TILE_PAGES : page;
        struct kv_block k = kv_block(p->paged, page, 0), v = kv_block(p->paged, page, 1);

        t->k_scale[i] = k.format == CABE_KV_Q8 ? kv_scales(&k, dim) : NULL;
        t->v_scale[i] = v.format == CABE_KV_Q8 ? kv_scales(&v, dim) : NULL;
        t->k[i] = k.at;
        t->v[i] = v.at;
        t->k_ahead[i] = kv_block(p->paged, next, 0).at;
        t->v_ahead[i] = kv_block(p->paged, next, 1).at;
        if (!direct && k.format != CABE_KV_F32) {
            turn_block(&k, t->k_ahead[i], p->keys + i * n, n);
            t->k[i] = t->k_ahead[i] = (const uint8_t *)(p->keys + i * n);
            k.format = CABE_KV_F32;
        }
        if (!direct && v.format != CABE_KV_F32) {
            turn_block(&v, t->v_ahead[i], p->values + i * n, n);
            t->v[i] = t->v_ahead[i] = (const uint8_t *)(p->values + i * n);
            v.format = CABE_KV_F32;
        }
        t->k_format[i] = k.format;
        t->v_format[i] = v.format;
    }
}

/* Scores of `rows` rows against a page, each 64 from the next in `out`. */
SIMD void score_page(int rows, enum cabe_kv_format format, const struct attend_rows *block, const uint8_t *page,
                     const uint8_t *ahead, int64_t dim, const vf factor[PER_PAGE], float *out)
{
    vf s[BLOCK][PER_PAGE];

#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < PER_PAGE; v++)
            s[r][v] = v_zero();
    for (int64_t d = 0; d < dim; d++) {
        vf k[PER_PAGE];

        page_fetch(format, ahead, d * CABE_PAGE_TOKENS);
#pragma GCC unroll 2
        for (int v = 0; v < PER_PAGE; v++)
            k[v] = page_load(format, page, d * CABE_PAGE_TOKENS + v * LANES, LANES);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            vf x = v_set(block->q[r][d]);

#pragma GCC unroll 2
            for (int v = 0; v < PER_PAGE; v++)
                s[r][v] = v_fma(x, k[v], s[r][v]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < PER_PAGE; v++)
            v_store(out + r * CABE_ATTEND_TILE + v * LANES, v_mul(s[r][v], factor[v]));
}

SIMD void score_format(enum cabe_kv_format format, const struct attend_rows *block, const uint8_t *page,
                       const uint8_t *ahead, int64_t dim, const vf factor[PER_PAGE], float *out)
{
    switch (block->n) {
#define X(rows)                                                                                                        \
    case rows:                                                                                                         \
        score_page(rows, format, block, page, ahead, dim, factor, out);                                                \
        break;
        EACH_BLOCK(X)
#undef X
    }
}

static void score(const struct attend_pass *p, const struct attend_tile *t, const struct attend_rows *block)
{
    int begin = (int)(block->begin[0] / CABE_PAGE_TOKENS);
    int end = (int)((block->end[block->n - 1] - 1) / CABE_PAGE_TOKENS) + 1;
    int64_t dim = p->paged->head_dim;

    for (int i = begin; i < end; i++) {
        float *out = p->scores + i * CABE_PAGE_TOKENS;
        vf factor[PER_PAGE];

        for (int v = 0; v < PER_PAGE; v++) {
            factor[v] = v_set(p->scale);
            if (t->k_scale[i])
                factor[v] = v_mul(factor[v], v_load(t->k_scale[i] + v * LANES));
        }
        if (t->k_format[i] == CABE_KV_F32)
            score_format(CABE_KV_F32, block, t->k[i], t->k_ahead[i], dim, factor, out);
        else if (t->k_format[i] == CABE_KV_F16)
            score_format(CABE_KV_F16, block, t->k[i], t->k_ahead[i], dim, factor, out);
        else
            score_format(CABE_KV_Q8, block, t->k[i], t->k_ahead[i], dim, factor, out);
    }
}

/* Largest of a row's scores of slots [begin, end); the others of these pages become -infinity. */
SIMD float largest_score(float *w, int64_t begin, int64_t end)
{
    vf low = v_set(-INFINITY), most[PER_PAGE];

#pragma GCC unroll 2
    for (int v = 0; v < PER_PAGE; v++)
        most[v] = low;
    for (int64_t g = begin / CABE_PAGE_TOKENS * CABE_PAGE_TOKENS; g < end; g += CABE_PAGE_TOKENS)
#pragma GCC unroll 2
        for (int v = 0; v < PER_PAGE; v++) {
            int64_t at = g + v * LANES;
            vf y = v_load(w + at);

            if (at < begin)
                y = v_first(low, y, begin - at < LANES ? begin - at : LANES);
            if (at + LANES > end)
                y = v_first(y, low, end > at ? end - at : 0);
            if (at < begin || at + LANES > end)
                v_store(w + at, y);
            most[v] = v_max(y, most[v]);
        }
    return v_largest(v_max(most[0], most[PER_PAGE - 1]));
}

/* Scores of these pages to weights relative to `top`, times the scales of values; returns their sum without these. */
SIMD float to_weights(const struct attend_tile *t, float *w, int64_t begin, int64_t end, float top)
{
    vf sum[PER_PAGE], most = v_set(top);

#pragma GCC unroll 2
    for (int v = 0; v < PER_PAGE; v++)
        sum[v] = v_zero();
    for (int64_t page = begin / CABE_PAGE_TOKENS; page * CABE_PAGE_TOKENS < end; page++)
#pragma GCC unroll 2
        for (int v = 0; v < PER_PAGE; v++) {
            float *at = w + page * CABE_PAGE_TOKENS + v * LANES;
            vf weight = v_exp2(v_sub(v_load(at), most));

            sum[v] = v_add(sum[v], weight);
            if (t->v_scale[page])
                weight = v_mul(weight, v_load(t->v_scale[page] + v * LANES));
            v_store(at, weight);
        }
    return v_sum(PER_PAGE == 1 ? sum[0] : v_add(sum[0], sum[PER_PAGE - 1]));
}

/* Turns the block's scores into weights relative to each row's largest so far; `shrink` is for its older sums. */
static void weigh(const struct attend_pass *p, const struct attend_tile *t, struct attend_rows *block)
{
    float largest[LANES] = {0.0f}, sum[LANES] = {0.0f};
    vf old = v_load_n(p->largest + block->row, block->n), new, shrink;

    for (int r = 0; r < block->n; r++) {
        float *w = p->scores + r * CABE_ATTEND_TILE;

        if (block->end[r] - block->begin[r] == CABE_ATTEND_TILE)
            largest[r] = largest_score(w, 0, CABE_ATTEND_TILE);
        else
            largest[r] = largest_score(w, block->begin[r], block->end[r]);
    }
    new = v_max(v_load(largest), old);
    shrink = v_exp2(v_sub(old, new));
    v_store(largest, new);
    v_store(block->shrink, shrink);
    for (int r = 0; r < block->n; r++) {
        float *w = p->scores + r * CABE_ATTEND_TILE;

        if (block->end[r] - block->begin[r] == CABE_ATTEND_TILE)
            sum[r] = to_weights(t, w, 0, CABE_ATTEND_TILE, largest[r]);
        else
            sum[r] = to_weights(t, w, block->begin[r], block->end[r], largest[r]);
    }
    v_store_n(p->largest + block->row, new, block->n);
    v_store_n(p->total + block->row, v_fma(v_load_n(p->total + block->row, block->n), shrink, v_load(sum)), block->n);
}

/* Adds weighted values of slots [begin, end) to channels [d, d + n) of rows [r0, r0 + rows); n <= vectors * LANES. */
SIMD void mix_columns(int rows, int vectors, int n, enum cabe_kv_format format, const struct attend_rows *block,
                      int r0, const struct attend_tile *t, int64_t begin, int64_t end, const float *weights,
                      int64_t d, int64_t dim)
{
    const int last = n - (vectors - 1) * LANES; /* channels of the last vector */
    vf s[BLOCK][2];

#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            const float *out = block->out[r0 + r] + d + v * LANES;

            s[r][v] = v_mul(v + 1 < vectors || last == LANES ? v_load(out) : v_load_n(out, last),
                            v_set(block->shrink[r0 + r]));
        }
    for (int64_t slot = begin; slot < end;) {
        int64_t stop = (slot / CABE_PAGE_TOKENS + 1) * CABE_PAGE_TOKENS;
        const uint8_t *page = t->v[slot / CABE_PAGE_TOKENS], *ahead = t->v_ahead[slot / CABE_PAGE_TOKENS];
        int64_t at = slot % CABE_PAGE_TOKENS * dim + d;

        for (stop = stop < end ? stop : end; slot < stop; slot++, at += dim) {
            vf x[2];

            page_fetch(format, ahead, at);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
                x[v] = page_load(format, page, at + v * LANES, v + 1 < vectors ? LANES : last);
#pragma GCC unroll 12
            for (int r = 0; r < rows; r++) {
                vf w = v_set(weights[r * CABE_ATTEND_TILE + slot]);

#pragma GCC unroll 2
                for (int v = 0; v < vectors; v++)
                    s[r][v] = v_fma(w, x[v], s[r][v]);
            }
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            float *out = block->out[r0 + r] + d + v * LANES;

            if (v + 1 < vectors || last == LANES)
                v_store(out, s[r][v]);
            else
                v_store_n(out, s[r][v], last);
        }
}

SIMD void mix_rows(int rows, enum cabe_kv_format format, const struct attend_rows *block, int r0,
                   const struct attend_tile *t, int64_t begin, int64_t end, const float *weights, int64_t dim)
{
    int64_t d = 0;

    for (; d + 16 <= dim; d += 16)
        mix_columns(rows, PER_PAGE, 16, format, block, r0, t, begin, end, weights, d, dim);
    if (d + 8 <= dim)
        mix_columns(rows, 1, 8, format, block, r0, t, begin, end, weights, d, dim);
}

SIMD void mix_format(enum cabe_kv_format format, const struct attend_rows *block, int r0, int n,
                     const struct attend_tile *t, int64_t begin, int64_t end, const float *weights, int64_t dim)
{
    switch (n) {
#define X(rows)                                                                                                        \
    case rows:                                                                                                         \
        mix_rows(rows, format, block, r0, t, begin, end, weights, dim);                                            \
        break;
        EACH_BLOCK(X)
#undef X
    }
}

/* Rows [r0, r0 + n) of the block take slots [begin, end), pages of one format at a time. */
static void mix(const struct attend_pass *p, const struct attend_tile *t, struct attend_rows *block, int r0, int n,
                int64_t begin, int64_t end)
{
    const float *w = p->scores + r0 * CABE_ATTEND_TILE;
    int64_t dim = p->paged->head_dim;

    while (begin < end) {
        int page = (int)(begin / CABE_PAGE_TOKENS);
        enum cabe_kv_format format = t->v_format[page];
        int64_t stop;

        while (++page * CABE_PAGE_TOKENS < end && t->v_format[page] == format)
            ;
        stop = page * CABE_PAGE_TOKENS < end ? page * CABE_PAGE_TOKENS : end;
        if (format == CABE_KV_F32)
            mix_format(CABE_KV_F32, block, r0, n, t, begin, stop, w, dim);
        else if (format == CABE_KV_F16)
            mix_format(CABE_KV_F16, block, r0, n, t, begin, stop, w, dim);
        else
            mix_format(CABE_KV_Q8, block, r0, n, t, begin, stop, w, dim);
        for (int r = r0; r < r0 + n; r++)
            block->shrink[r] = 1.0f;
        begin = stop;
    }
}

/*
 * The last channels, fewer than 8, which mix_rows() leaves. Lanes past them hold the next slot's and are not stored.
 * Apart from mix(), whose loops are then the same code at the same places as if all heads were multiples of 8.
 */
static __attribute__((noinline, cold)) void mix_rest(const struct attend_pass *p, const struct attend_tile *t,
                                                     const struct attend_rows *block, int r0, int n, int64_t begin,
                                                     int64_t end)
{
    const int64_t dim = p->paged->head_dim, d = dim / 8 * 8, n_page = CABE_PAGE_TOKENS * dim;
    const float *weights = p->scores + r0 * CABE_ATTEND_TILE;
    vf s[BLOCK];

    for (int r = 0; r < n; r++)
        s[r] = v_mul(v_load_n(block->out[r0 + r] + d, dim - d), v_set(block->shrink[r0 + r]));
    for (int64_t slot = begin; slot < end; slot++) {
        int64_t page = slot / CABE_PAGE_TOKENS, at = slot % CABE_PAGE_TOKENS * dim + d;
        int there = n_page - at < LANES ? (int)(n_page - at) : LANES;
        vf x;

        if (t->v_format[page] == CABE_KV_F32)
            x = page_load(CABE_KV_F32, t->v[page], at, there);
        else if (t->v_format[page] == CABE_KV_F16)
            x = page_load(CABE_KV_F16, t->v[page], at, there);
        else
            x = page_load(CABE_KV_Q8, t->v[page], at, there);
        for (int r = 0; r < n; r++)
            s[r] = v_fma(v_set(weights[r * CABE_ATTEND_TILE + slot]), x, s[r]);
    }
    for (int r = 0; r < n; r++)
        v_store_n(block->out[r0 + r] + d, s[r], dim - d);
}

static void mix_all(const struct attend_pass *p, const struct attend_tile *t, struct attend_rows *block, int r0, int n,
                    int64_t begin, int64_t end)
{
    if (p->paged->head_dim % 8 != 0 && begin < end)
        mix_rest(p, t, block, r0, n, begin, end);
    mix(p, t, block, r0, n, begin, end);
}

static void attend_block(const struct attend_pass *p, const struct attend_tile *t, int64_t row, int n)
{
    const struct cabe_attend *a = p->a;
    int64_t begin = 0, end = CABE_ATTEND_TILE, i = p->first + row / a->group, h = row % a->group;
    struct attend_rows block;

    block.n = n;
    block.row = row;
    for (int r = 0; r < n; r++, h++) {
        int64_t head, from, to;

        if (h == a->group) {
            h = 0;
            i++;
        }
        head = h * p->paged->head_dim;
        from = first_slot(a, i) - t->slot;
        to = a->slot + i + 1 - t->slot;
        block.q[r] = a->q + i * a->q_stride + head;
        block.out[r] = p->sums + (row + r) * p->paged->head_dim;
        block.begin[r] = from > 0 ? from : 0;
        block.end[r] = to < CABE_ATTEND_TILE ? to : CABE_ATTEND_TILE;
        begin = block.begin[r] > begin ? block.begin[r] : begin;
        end = block.end[r] < end ? block.end[r] : end;
    }
    score(p, t, &block);
    weigh(p, t, &block);
    if (begin >= end) /* nothing that all see */
        begin = end = CABE_ATTEND_TILE;
    for (int r = 0; r < n; r++)
        mix_all(p, t, &block, r, 1, block.begin[r], begin < block.end[r] ? begin : block.end[r]);
    mix_all(p, t, &block, 0, n, begin, end);
    for (int r = 0; r < n; r++)
        mix_all(p, t, &block, r, 1, end, block.end[r]);
}

/* The queries of the pass that see slots of the tile, in blocks of rows of nearly one size. */
static void attend_tile(const struct attend_pass *p, const struct attend_tile *t)
{
    const struct cabe_attend *a = p->a;
    int64_t begin = t->slot - a->slot - p->first, end = p->n, n_blocks, n;

    begin = begin > 0 ? begin : 0;
    while (end > begin && first_slot(a, p->first + end - 1) >= t->slot + CABE_ATTEND_TILE)
        end--;
    begin *= a->group;
    end *= a->group;
    n = end - begin;
    n_blocks = (n + BLOCK - 1) / BLOCK;
    for (int64_t b = 0; b < n_blocks; b++) {
        int64_t from = begin + n * b / n_blocks;

        attend_block(p, t, from, (int)(begin + n * (b + 1) / n_blocks - from));
    }
}

/* One row's part to what the parts before it gave: of the first it is a copy. */
static void join_row(float *out, float *top, float *all, const float *sums, float largest, float total, int64_t dim)
{
    vf most, before, now;
    float scales[LANES];
    int64_t d = 0;

    if (total == 0.0f) /* the row sees nothing of it */
        return;
    if (*all == 0.0f) {
        memcpy(out, sums, (size_t)dim * sizeof *out);
        *top = largest;
        *all = total;
        return;
    }
    most = v_max(v_set(largest), v_set(*top));
    before = v_exp2(v_sub(v_set(*top), most));
    now = v_exp2(v_sub(v_set(largest), most));
    v_store(scales, v_fma(v_set(*all), before, v_mul(v_set(total), now)));
    *all = scales[0];
    v_store(scales, most);
    *top = scales[0];
    for (; d + LANES <= dim; d += LANES)
        v_store(out + d, v_fma(v_load(out + d), before, v_mul(v_load(sums + d), now)));
    if (d < dim)
        v_store_n(out + d, v_fma(v_load_n(out + d, dim - d), before, v_mul(v_load_n(sums + d, dim - d), now)), dim - d);
}

static void finish_row(float *out, const float *sums, int64_t dim, float total)
{
    vf inverse = v_set(1.0f / total);
    int64_t d = 0;

    for (; d + LANES <= dim; d += LANES)
        v_store(out + d, v_mul(v_load(sums + d), inverse));
    if (d < dim)
        v_store_n(out + d, v_mul(v_load_n(sums + d, dim - d), inverse), dim - d);
}

/* Slots [first, last] of a part, for the rows of the pass that see some of them. */
static void attend_part(const struct attend_pass *p, int64_t first, int64_t last)
{
    int64_t rows = p->n * p->a->group;
    struct attend_tile t;

    for (int64_t row = 0; row < rows; row++) {
        p->largest[row] = -INFINITY;
        p->total[row] = 0.0f;
    }
    memset(p->sums, 0, (size_t)(rows * p->paged->head_dim) * sizeof *p->sums);
    for (int64_t slot = first / CABE_ATTEND_TILE * CABE_ATTEND_TILE; slot <= last; slot += CABE_ATTEND_TILE) {
        tile_open(p, &t, slot, first, last, rows <= DIRECT_ROWS);
        attend_tile(p, &t);
    }
}

static void attend_pass(const struct attend_pass *p)
{
    const struct cabe_attend *a = p->a;
    int64_t dim = p->paged->head_dim, rows = p->n * a->group;
    int64_t first = first_slot(a, p->first), last = p->seen;

    for (int64_t row = 0; row < rows; row++)
        p->all[row] = 0.0f;
    while (first <= last) {
        int64_t end = (first / CABE_ATTEND_PART + 1) * CABE_ATTEND_PART;
        int is_last = end > last;

        attend_part(p, first, is_last ? last : end - 1);
        for (int64_t row = 0; row < rows; row++) {
            float *out = a->out + (p->first + row / a->group) * a->out_stride + row % a->group * dim;
            const float *sums = p->sums + row * dim;

            if (is_last && p->all[row] == 0.0f) { /* all that it sees is one part */
                finish_row(out, sums, dim, p->total[row]);
                continue;
            }
            join_row(out, &p->top[row], &p->all[row], sums, p->largest[row], p->total[row], dim);
            if (is_last)
                finish_row(out, out, dim, p->all[row]);
        }
        first = end;
    }
}

static struct attend_pass open_pass(const struct cabe_paged *paged, const struct cabe_attend *a, void *scratch)
{
    int64_t rows = cabe_attend_rows(a->group) * a->group, tile = CABE_ATTEND_TILE * (int64_t)paged->head_dim;
    struct attend_pass p = {.paged = paged, .a = a, .scale = a->scale * 1.44269504088896340736f, .keys = scratch};

    p.values = p.keys + tile;
    p.scores = p.values + tile;
    p.sums = p.scores + ATTEND_SCORES;
    p.largest = p.sums + rows * paged->head_dim;
    p.total = p.largest + rows;
    p.top = p.total + rows;
    p.all = p.top + rows;
    return p;
}

static void attend(const struct cabe_paged *paged, const struct cabe_attend *a, void *scratch)
{
    struct attend_pass p = open_pass(paged, a, scratch);
    int64_t most = cabe_attend_rows(a->group);

    for (p.first = 0; p.first < a->n; p.first += most) {
        p.n = a->n - p.first < most ? a->n - p.first : most;
        p.seen = a->slot + p.first + p.n - 1;
        attend_pass(&p);
    }
}

/* The state: sums of all heads of the group, their largest scores, their totals. */
static void part(const struct cabe_paged *paged, const struct cabe_attend *a, int64_t number, float *state,
                 void *scratch)
{
    struct attend_pass p = open_pass(paged, a, scratch);
    int64_t first = number * CABE_ATTEND_PART, last = first + CABE_ATTEND_PART - 1, seen = first_slot(a, 0);

    p.n = 1;
    p.seen = a->slot;
    p.sums = state;
    p.largest = state + (int64_t)a->group * paged->head_dim;
    p.total = p.largest + a->group;
    attend_part(&p, seen > first ? seen : first, last < a->slot ? last : a->slot);
}

static void join(const struct cabe_attend *a, int32_t head_dim, const float *states, int64_t n_parts)
{
    const int64_t each = cabe_attend_part_floats(a->group, head_dim);

    for (int64_t h = 0; h < a->group; h++) {
        float *out = a->out + h * head_dim, top = 0.0f, all = 0.0f;

        for (int64_t i = 0; i < n_parts; i++) {
            const float *state = states + i * each, *largest = state + (int64_t)a->group * head_dim;

            join_row(out, &top, &all, state + h * head_dim, largest[h], largest[a->group + h], head_dim);
        }
        finish_row(out, out, head_dim, all);
    }
}

#endif
