/*
 * The cases of attention over KV pages: a level against softmax in double over what it was given (before it went into
 * pages), against scalar over the same pages, and against itself with the queries cut in other ways, bit for bit.
 * Shared by attention_test.c and the emulated run.
 */
#ifndef CABE_TESTS_ATTENTION_CASES_H
#define CABE_TESTS_ATTENTION_CASES_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "kernel/levels.h"

#define GUARD 0xA5
#define GUARD_BYTES 256

static const struct cabe_attention_kernels *under_test;
static uint64_t random_state;

static uint32_t random_u32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}

static float random_unit(void) /* -1 .. 1 */
{
    return (float)((double)random_u32() / 2147483648.0 - 1.0);
}

static int64_t random_below(int64_t n)
{
    return (int64_t)(random_u32() % (uint32_t)n);
}

/* Of a head: one of three as networks mostly have them, the others anything. */
static int32_t any_size(void)
{
    return random_below(3) ? 2 + (int32_t)random_below(100) : 8 * (1 + (int32_t)random_below(12));
}

static void seed_from_environment(void)
{
    const char *text = getenv("CABE_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 10) : (uint64_t)time(NULL);

    random_state = seed * 2654435761u + 88172645463325252u;
    printf("attention: seed %llu (CABE_SEED repeats it)\n", (unsigned long long)seed);
}

/* Memory with guard bytes on both sides, aligned to 64. */
struct block {
    uint8_t *memory, *data;
    size_t bytes;
};

static struct block block_new(size_t bytes)
{
    struct block b = {.bytes = bytes};

    assert_int_equal(posix_memalign((void **)&b.memory, 64, bytes + 2 * GUARD_BYTES), 0);
    memset(b.memory, GUARD, bytes + 2 * GUARD_BYTES);
    b.data = b.memory + GUARD_BYTES;
    return b;
}

static void block_check(const struct block *b)
{
    for (size_t i = 0; i < GUARD_BYTES; i++)
        if (b->memory[i] != GUARD || b->data[b->bytes + i] != GUARD)
            fail_msg("guard byte %zu was written", i);
}

static void block_free(struct block *b)
{
    block_check(b);
    free(b->memory);
}

enum { ANY_FORMAT = CABE_N_KV_FORMATS };

struct setup {
    int32_t dim, group;
    int64_t n_slots; /* keys and values that are written */
    int64_t window;
    int format;    /* of all pages, or ANY_FORMAT: each page has its own two */
    float q_scale; /* queries are in -q_scale..q_scale, the rest in -1..1 */
};

/* One kv head, number 1 of 3 of a page, of a sequence whose pages lie in a buffer from its end to its beginning. */
struct fixture {
    struct setup setup;
    struct cabe_paged paged;
    struct cabe_page *pages;
    int64_t n_pages;
    struct block buffer, q, out, again, scratch;
    float *k, *v; /* [n_slots][dim] */
};

static void place_pages(struct fixture *f)
{
    uint64_t largest = 3 * cabe_kv_pair_bytes(CABE_KV_F32, CABE_KV_F32, f->setup.dim), bytes;

    f->n_pages = (f->setup.n_slots + CABE_PAGE_TOKENS - 1) / CABE_PAGE_TOKENS;
    f->pages = calloc((size_t)f->n_pages, sizeof *f->pages);
    assert_non_null(f->pages);
    bytes = largest * (uint64_t)f->n_pages;
    f->buffer = block_new((size_t)bytes);
    /* What no token was written to is not there, even where it is not a number. */
    memset(f->buffer.data, 0xFF, (size_t)bytes);
    for (int64_t i = 0; i < f->n_pages; i++) {
        int64_t place = f->n_pages - 1 - i;
        int k = f->setup.format, v = k;

        if (k == ANY_FORMAT) {
            k = (int)random_below(CABE_N_KV_FORMATS);
            v = (int)random_below(CABE_N_KV_FORMATS);
        }
        f->pages[i].unit = (uint32_t)((uint64_t)place * largest / CABE_PAGE_UNIT);
        f->pages[i].formats = cabe_page_formats((enum cabe_kv_format)k, (enum cabe_kv_format)v);
    }
}

static void fixture_open(struct fixture *f, const struct setup *setup)
{
    size_t n_kv = (size_t)(setup->n_slots * setup->dim);
    size_t n_q = n_kv * (size_t)setup->group;

    memset(f, 0, sizeof *f);
    f->setup = *setup;
    place_pages(f);
    f->paged = (struct cabe_paged){
        .base = f->buffer.data, .pages = f->pages, .head_dim = setup->dim, .index = 1};
    f->k = malloc(n_kv * sizeof(float));
    f->v = malloc(n_kv * sizeof(float));
    assert_true(f->k && f->v);
    f->q = block_new(n_q * sizeof(float));
    f->out = block_new(n_q * sizeof(float));
    f->again = block_new(n_q * sizeof(float));
    f->scratch = block_new((size_t)cabe_attend_scratch_bytes(setup->group, setup->dim));
    for (size_t i = 0; i < n_kv; i++) {
        f->k[i] = random_unit();
        f->v[i] = random_unit();
    }
    for (size_t i = 0; i < n_q; i++)
        ((float *)(void *)f->q.data)[i] = random_unit() * setup->q_scale;
}

static void fixture_close(struct fixture *f)
{
    block_free(&f->buffer);
    block_free(&f->q);
    block_free(&f->out);
    block_free(&f->again);
    block_free(&f->scratch);
    free(f->pages);
    free(f->k);
    free(f->v);
}

static void write_slots(struct fixture *f, const struct cabe_attention_kernels *kernels, int64_t begin, int64_t end)
{
    int64_t at = begin * f->setup.dim;

    kernels->write(&f->paged, begin, f->k + at, f->v + at, f->setup.dim, end - begin);
}

/* Queries of slots [begin, end); query s is row s of q and out. */
static void attend_slots(struct fixture *f, const struct cabe_attention_kernels *kernels, struct block *out,
                         int64_t begin, int64_t end)
{
    int64_t stride = (int64_t)f->setup.group * f->setup.dim;
    struct cabe_attend attend = {
        .q = (const float *)(const void *)f->q.data + begin * stride,
        .q_stride = stride,
        .out = (float *)(void *)out->data + begin * stride,
        .out_stride = stride,
        .n = end - begin,
        .slot = begin,
        .window = f->setup.window,
        .group = f->setup.group,
        .scale = 1.0f / sqrtf((float)f->setup.dim),
    };

    kernels->attend(&f->paged, &attend, f->scratch.data);
    block_check(&f->scratch);
    block_check(&f->buffer);
}

static void in_double(const struct fixture *f, int64_t slot, int64_t head, double *out)
{
    int32_t dim = f->setup.dim;
    const float *q = (const float *)(const void *)f->q.data + (slot * f->setup.group + head) * dim;
    int64_t first = f->setup.window && slot >= f->setup.window ? slot - f->setup.window + 1 : 0;
    double *w = malloc((size_t)(slot + 1) * sizeof *w), largest = -INFINITY, total = 0.0;

    assert_non_null(w);
    for (int64_t s = first; s <= slot; s++) {
        w[s] = 0.0;
        for (int32_t d = 0; d < dim; d++)
            w[s] += (double)q[d] * (double)f->k[s * dim + d];
        w[s] *= (double)(1.0f / sqrtf((float)dim));
        largest = w[s] > largest ? w[s] : largest;
    }
    memset(out, 0, (size_t)dim * sizeof *out);
    for (int64_t s = first; s <= slot; s++) {
        double weight = exp(w[s] - largest);

        total += weight;
        for (int32_t d = 0; d < dim; d++)
            out[d] += weight * (double)f->v[s * dim + d];
    }
    for (int32_t d = 0; d < dim; d++)
        out[d] /= total;
    free(w);
}

/* Rounding of keys moves scores, and with them every weight: bounds are on what -1..1 come to. */
static void check_against_double(const struct fixture *f, int64_t begin, int64_t end, double bound)
{
    double want[512];

    for (int64_t s = begin; s < end; s++)
        for (int64_t h = 0; h < f->setup.group; h++) {
            const float *got =
                (const float *)(const void *)f->out.data + (s * f->setup.group + h) * f->setup.dim;

            in_double(f, s, h, want);
            for (int32_t d = 0; d < f->setup.dim; d++)
                if (!(fabs((double)got[d] - want[d]) <= bound))
                    fail_msg("dim %d group %d slot %lld: %g, wanted %g", f->setup.dim, f->setup.group,
                             (long long)s, (double)got[d], want[d]);
        }
}

static void check_same(const struct fixture *f, int64_t begin, int64_t end, float bound)
{
    const float *a = (const float *)(const void *)f->out.data, *b = (const float *)(const void *)f->again.data;
    int64_t stride = (int64_t)f->setup.group * f->setup.dim;

    for (int64_t i = begin * stride; i < end * stride; i++)
        if (!(fabsf(a[i] - b[i]) <= bound))
            fail_msg("dim %d group %d window %lld slot %lld: %.9g, wanted %.9g", f->setup.dim, f->setup.group,
                     (long long)f->setup.window, (long long)(i / stride), (double)a[i], (double)b[i]);
}

#define BOUND 4e-6f

static double bound_of(int format)
{
    return format == CABE_KV_F32 ? 4e-6 : format == CABE_KV_F16 ? 2e-3 : 2e-2;
}

static void dims(void **state)
{
    static const int64_t lengths[] = {1, 15, 16, 17, 63, 64, 65, 130};

    static const int32_t sizes[] = {2,  3,  4,  5,  6,  8,  10, 12, 14,  15,  16,  17,  18,  20,  24,  28,  32,  33, 36,
                                    40, 48, 50, 56, 60, 64, 72, 80, 96, 100, 104, 112, 120, 126, 128, 328, 509, 512};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (size_t l = 0; l < sizeof lengths / sizeof lengths[0]; l++)
            for (int format = 0; format <= ANY_FORMAT; format++) {
                struct setup setup = {sizes[i], 1 + (int32_t)random_below(9), lengths[l], 0, format, 4.0f};
                int64_t last = lengths[l] - 1, first = last - random_below(last < 20 ? last + 1 : 20);
                struct fixture f;

                fixture_open(&f, &setup);
                write_slots(&f, under_test, 0, last + 1);
                attend_slots(&f, under_test, &f.out, first, last + 1);
                attend_slots(&f, &cabe_attention_scalar, &f.again, first, last + 1);
                check_same(&f, first, last + 1, BOUND);
                check_against_double(&f, last, last + 1, bound_of(format));
                fixture_close(&f);
            }
}

static void long_context(void **state)
{
    (void)state;
    for (int format = 0; format <= ANY_FORMAT; format++)
        for (int windowed = 0; windowed < 2; windowed++) {
            struct setup setup = {64, 8, 1000, windowed ? 300 : 0, format, 10.0f};
            struct fixture f;

            fixture_open(&f, &setup);
            write_slots(&f, under_test, 0, 1000);
            attend_slots(&f, under_test, &f.out, 990, 1000);
            attend_slots(&f, &cabe_attention_scalar, &f.again, 990, 1000);
            check_same(&f, 990, 1000, BOUND);
            check_against_double(&f, 999, 1000, bound_of(format));
            fixture_close(&f);
        }
}

/* Scores of nearly +-20 and of thousands: softmax of one, equal scores, no overflow. */
static void extreme_scores(void **state)
{
    static const float scales[] = {0.0f, 1e-30f, 10.0f, 1e4f, 1e18f};

    (void)state;
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++) {
        struct setup setup = {64, 3, 200, 0, CABE_KV_F32, scales[i]};
        struct fixture f;

        fixture_open(&f, &setup);
        write_slots(&f, under_test, 0, 200);
        attend_slots(&f, under_test, &f.out, 0, 200);
        attend_slots(&f, &cabe_attention_scalar, &f.again, 0, 200);
        check_same(&f, 0, 200, scales[i] > 20.0f ? 2.1f : BOUND);
        if (scales[i] <= 20.0f)
            check_against_double(&f, 190, 200, 4e-6);
        fixture_close(&f);
    }
}

/* A result is the same bits whatever else is asked for in the call, and whenever the slots after it come. */
static void cut_anywhere(void **state)
{
    static const int32_t groups[] = {1, 2, 3, 4, 5, 7, 8, 16};
    static const int64_t windows[] = {0, 1, 5, 64, 100};

    (void)state;
    for (int round = 0; round < 40; round++) {
        struct setup setup = {any_size(), groups[random_below(8)],
                              1 + random_below(round % 8 ? 200 : 600), windows[random_below(5)],
                              (int)random_below(ANY_FORMAT + 1), 6.0f};
        struct fixture f;
        int64_t n = setup.n_slots;

        fixture_open(&f, &setup);
        for (int64_t s = 0; s < n; s++) { /* a token at a time, as decoding does */
            write_slots(&f, under_test, s, s + 1);
            attend_slots(&f, under_test, &f.out, s, s + 1);
        }
        for (int64_t s = 0, step; s < n; s += step) {
            step = 1 + random_below(n - s < 70 ? n - s : 70);
            attend_slots(&f, under_test, &f.again, s, s + step);
        }
        assert_memory_equal(f.out.data, f.again.data, f.out.bytes);
        attend_slots(&f, &cabe_attention_scalar, &f.again, 0, n);
        check_same(&f, 0, n, BOUND);
        attend_slots(&f, under_test, &f.again, 0, n);
        assert_memory_equal(f.out.data, f.again.data, f.out.bytes);
        fixture_close(&f);
    }
}

/* Parts that are made in any order and joined are the bits of the whole. */
static void parts_apart(void **state)
{
    static const int64_t windows[] = {0, 1, 100, 256, 300, 700};

    (void)state;
    for (int round = 0; round < 30; round++) {
        struct setup setup = {any_size(), 1 + (int32_t)random_below(9),
                              1 + random_below(1200), windows[random_below(6)], (int)random_below(ANY_FORMAT + 1),
                              6.0f};
        int64_t stride = (int64_t)setup.group * setup.dim, slot = setup.n_slots - 1, first, n, each;
        struct cabe_attend attend = {.q_stride = stride,
                                     .out_stride = stride,
                                     .n = 1,
                                     .slot = slot,
                                     .window = setup.window,
                                     .group = setup.group,
                                     .scale = 1.0f / sqrtf((float)setup.dim)};
        struct fixture f;
        struct block states;

        fixture_open(&f, &setup);
        write_slots(&f, under_test, 0, setup.n_slots);
        attend_slots(&f, under_test, &f.out, slot > 40 ? slot - 40 : 0, slot + 1);
        attend.q = (const float *)(const void *)f.q.data + slot * stride;
        attend.out = (float *)(void *)f.again.data + slot * stride;
        n = cabe_attend_parts(slot, setup.window, &first);
        each = cabe_attend_part_floats(setup.group, setup.dim);
        states = block_new((size_t)(n * each) * sizeof(float));
        for (int64_t i = n; i-- > 0;)
            under_test->part(&f.paged, &attend, first + i, (float *)(void *)states.data + i * each, f.scratch.data);
        under_test->join(&attend, setup.dim, (const float *)(const void *)states.data, n);
        block_check(&f.scratch);
        assert_memory_equal((float *)(void *)f.out.data + slot * stride, attend.out, (size_t)stride * sizeof(float));
        check_against_double(&f, slot, slot + 1, 2 * bound_of(setup.format));
        block_free(&states);
        fixture_close(&f);
    }
}

/* Every head of a group is what it would be alone. */
static void cut_group(void **state)
{
    struct setup setup = {72, 8, 150, 0, ANY_FORMAT, 6.0f};
    struct fixture f;
    int64_t stride = 8 * 72;

    (void)state;
    fixture_open(&f, &setup);
    write_slots(&f, under_test, 0, 150);
    attend_slots(&f, under_test, &f.out, 0, 150);
    for (int64_t h = 0; h < 8; h++) {
        struct cabe_attend attend = {
            .q = (const float *)(const void *)f.q.data + h * 72,
            .q_stride = stride,
            .out = (float *)(void *)f.again.data + h * 72,
            .out_stride = stride,
            .n = 150,
            .group = 1,
            .scale = 1.0f / sqrtf(72.0f),
        };

        under_test->attend(&f.paged, &attend, f.scratch.data);
    }
    assert_memory_equal(f.out.data, f.again.data, f.out.bytes);
    fixture_close(&f);
}

/* More heads, and more queries, than one pass has room for. */
static void many_rows(void **state)
{
    static const int32_t groups[] = {1, 40, 300};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct setup setup = {16, groups[i], groups[i] == 1 ? 600 : 70, 0, CABE_KV_F16, 6.0f};
        struct fixture f;

        fixture_open(&f, &setup);
        write_slots(&f, under_test, 0, setup.n_slots);
        attend_slots(&f, under_test, &f.out, 0, setup.n_slots);
        attend_slots(&f, &cabe_attention_scalar, &f.again, 0, setup.n_slots);
        check_same(&f, 0, setup.n_slots, BOUND);
        fixture_close(&f);
    }
}

/* A value that is not a number reaches the queries that see it, and no other. */
static void not_a_number(void **state)
{
    (void)state;
    for (int turn = 0; turn < 12; turn++)
        for (int64_t window = 0; window < 80; window += 30) {
            const int values = turn % 2, format = turn / 2 % 3, dim = turn < 6 ? 24 : 10;
            struct setup setup = {dim, 3, 600, window, format, 2.0f};
            const int64_t bad = 75;
            struct fixture f;

            fixture_open(&f, &setup);
            (values ? f.v : f.k)[bad * dim + dim - 1] = NAN;
            write_slots(&f, under_test, 0, 600);
            attend_slots(&f, under_test, &f.out, 0, 600);
            for (int64_t s = 0; s < 600; s++)
                for (int64_t h = 0; h < 3; h++) {
                    float got = ((const float *)(const void *)f.out.data)[(s * 3 + h) * dim + dim - 1];

                    assert_int_equal(isnan(got) != 0, s >= bad && (!window || s - bad < window));
                }
            fixture_close(&f);
        }
}

static void same_pages(void **state)
{
    (void)state;
    for (int32_t dim = 2; dim <= 512; dim += dim < 24 ? 1 : dim < 200 ? 11 : 52)
        for (int format = 0; format <= ANY_FORMAT; format++) {
            struct setup setup = {dim, 1, 53, 0, format, 1.0f};
            struct fixture f;
            struct block first;

            fixture_open(&f, &setup);
            f.k[3] = 1e-38f;
            f.v[5] = 65520.0f;
            memset(f.k + 7 * dim, 0, (size_t)dim * sizeof(float));
            first = block_new(f.buffer.bytes);
            write_slots(&f, &cabe_attention_scalar, 0, 53);
            memcpy(first.data, f.buffer.data, first.bytes);
            memset(f.buffer.data, 0xFF, first.bytes);
            for (int64_t s = 0; s < 53; s += 9)
                write_slots(&f, under_test, s, s + 9 < 53 ? s + 9 : 53);
            assert_memory_equal(first.data, f.buffer.data, first.bytes);
            block_free(&first);
            fixture_close(&f);
        }
}

/* One page with nothing behind it: that nothing there is read, the build with sanitizers sees. */
static void end_of_buffer(void **state)
{
    (void)state;
    for (int32_t dim = 1; dim <= 40; dim++)
        for (int format = 0; format < CABE_N_KV_FORMATS; format++) {
            const enum cabe_kv_format as = (enum cabe_kv_format)format;
            const struct cabe_page page = {0, cabe_page_formats(as, as)};
            struct cabe_attend attend = {
                .q_stride = dim, .out_stride = dim, .n = CABE_PAGE_TOKENS, .group = 1, .scale = 1.0f};
            struct cabe_paged paged = {.pages = &page, .head_dim = dim};
            float rows[40 * CABE_PAGE_TOKENS], first[40 * CABE_PAGE_TOKENS], out[40 * CABE_PAGE_TOKENS];
            struct block scratch = block_new((size_t)cabe_attend_scratch_bytes(1, dim));
            void *memory;

            assert_int_equal(posix_memalign(&memory, 64, (size_t)cabe_kv_pair_bytes(as, as, dim)), 0);
            paged.base = memory;
            for (int i = 0; i < dim * CABE_PAGE_TOKENS; i++)
                rows[i] = random_unit();
            attend.q = rows;
            attend.out = first;
            under_test->write(&paged, 0, rows, rows, dim, CABE_PAGE_TOKENS);
            under_test->attend(&paged, &attend, scratch.data); /* more rows than read pages as they are stored */
            for (attend.slot = 0, attend.n = 1; attend.slot < CABE_PAGE_TOKENS; attend.slot++) {
                attend.q = rows + attend.slot * dim;
                attend.out = out + attend.slot * dim;
                under_test->attend(&paged, &attend, scratch.data);
            }
            assert_memory_equal(first, out, (size_t)(dim * CABE_PAGE_TOKENS) * sizeof(float));
            block_free(&scratch);
            free(memory);
        }
}

static void q8_bound(void **state)
{
    struct setup setup = {64, 1, 16, 0, CABE_KV_Q8, 1.0f};
    const float *scales;
    const int8_t *keys;
    struct fixture f;

    (void)state;
    fixture_open(&f, &setup);
    write_slots(&f, under_test, 0, 16);
    keys = (const int8_t *)f.buffer.data + cabe_kv_pair_bytes(CABE_KV_Q8, CABE_KV_Q8, 64);
    scales = (const float *)(const void *)(keys + 1024);
    for (int j = 0; j < 16; j++) {
        float largest = 0.0f;

        for (int d = 0; d < 64; d++) {
            float x = f.k[j * 64 + d], back = (float)keys[d * 16 + j] * scales[j];

            largest = fabsf(x) > largest ? fabsf(x) : largest;
            assert_true(fabsf(x - back) <= scales[j] * 0.50001f);
        }
        assert_true(scales[j] == largest / 127.0f);
    }
    fixture_close(&f);
}

static int run_cases(const struct cabe_attention_kernels *kernels, const char *name)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dims),         cmocka_unit_test(long_context), cmocka_unit_test(extreme_scores),
        cmocka_unit_test(cut_anywhere), cmocka_unit_test(cut_group),    cmocka_unit_test(many_rows),
        cmocka_unit_test(not_a_number), cmocka_unit_test(same_pages),   cmocka_unit_test(q8_bound),
        cmocka_unit_test(parts_apart),  cmocka_unit_test(end_of_buffer),
    };

    printf("level %s\n", name);
    under_test = kernels;
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

#endif
