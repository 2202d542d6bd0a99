/* A level against scalar on this very CPU, quickly: every entry, small shapes, tails. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "kernel/kernel.h"
#include "kernel/matmul_level.h"

#define T 19
#define N 40
#define K 448
#define BYTES (768u * 1024u)

struct room { /* places in one aligned block */
    float *x, *weights, *a, *b;
    uint8_t *panels, *scratch, *shared;
};

static struct room room_in(uint8_t *at)
{
    struct room room;

    room.x = (float *)(void *)at;
    room.weights = room.x + T * K;
    room.a = room.weights + N * K;
    room.b = room.a + T * K;
    room.panels = (uint8_t *)(room.b + T * K);
    room.shared = room.panels + 48 * K * 4;
    room.scratch = room.shared + 64 * 1024;
    return room;
}

static void fill(float *x, int64_t n, uint32_t seed)
{
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(int32_t)(seed >> 8) * 0x1p-23f - 1.0f;
    }
}

static int close_to(const float *a, const float *b, int64_t n, float bound)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(a[i] - b[i]) <= bound * (1.0f + fabsf(b[i]))))
            return 0;
    return 1;
}

static void product(const struct cabe_kernels *kernels, const struct room *room, enum cabe_dtype dtype, int64_t k,
                    enum cabe_precision precision, float *out)
{
    const struct cabe_matmul mm = {.w = room->panels,
                                   .dtype = dtype,
                                   .n = N,
                                   .k = k,
                                   .x = room->x,
                                   .t = T,
                                   .x_stride = K,
                                   .out = out,
                                   .out_stride = N,
                                   .bias = room->weights,
                                   .residual = room->x,
                                   .precision = precision};

    cabe_matmul_prepare(kernels, &mm, room->shared, 0, T);
    cabe_matmul_run(kernels, &mm, room->shared, room->scratch, 0, cabe_matmul_tiles(kernels, &mm));
}

static int products_agree(const struct cabe_kernels *kernels, const struct cabe_kernels *scalar, struct room *room)
{
    static const enum cabe_dtype dtypes[] = {CABE_F32, CABE_F16, CABE_BF16, CABE_I8, CABE_Q8_0, CABE_Q4_0};

    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        for (int precision = 0; precision < 2; precision++) {
            if (cabe_matmul_pack(CABE_F32, room->weights, N, dtypes[i], K, 0, 3, room->scratch, room->panels, NULL) !=
                CABE_OK)
                return 0;
            product(kernels, room, dtypes[i], K, (enum cabe_precision)precision, room->a);
            product(scalar, room, dtypes[i], K, (enum cabe_precision)precision, room->b);
            if (memcmp(room->a, room->b, sizeof(float) * T * N) != 0)
                return 0;
        }
    return 1;
}

/* Types that only files have: any bits will do, but for exponents of infinity in the scales. */
static int blocks_agree(const struct cabe_kernels *kernels, const struct cabe_kernels *scalar, struct room *room)
{
    static const enum cabe_dtype dtypes[] = {CABE_Q4_1, CABE_Q4_K, CABE_Q6_K};

    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        for (int precision = 0; precision < 2; precision++) {
            uint64_t bytes = cabe_packed_bytes(dtypes[i], CABE_PANELS, N, 256);

            for (uint64_t at = 0; at < bytes; at++)
                room->panels[at] = (uint8_t)((at * 2654435761u >> 13) & (at % 2 ? 0xB3u : 0xFFu));
            product(kernels, room, dtypes[i], 256, (enum cabe_precision)precision, room->a);
            product(scalar, room, dtypes[i], 256, (enum cabe_precision)precision, room->b);
            if (memcmp(room->a, room->b, sizeof(float) * T * N) != 0)
                return 0;
        }
    return 1;
}

static int conversions_agree(const struct cabe_row_kernels *row, const struct cabe_row_kernels *scalar,
                             struct room *room)
{
    static const enum cabe_dtype dtypes[] = {CABE_F16, CABE_BF16, CABE_Q8_0, CABE_Q4_0};
    static const enum cabe_dtype supers[] = {CABE_Q4_1, CABE_Q4_K, CABE_Q6_K};
    uint8_t *second = room->panels + K * 4;

    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        row->from_f32(dtypes[i], room->x, room->panels, K);
        scalar->from_f32(dtypes[i], room->x, second, K);
        row->to_f32(dtypes[i], second, room->a, K);
        scalar->to_f32(dtypes[i], second, room->b, K);
        if (memcmp(room->panels, second, (size_t)cabe_dtype_bytes(dtypes[i], K)) != 0 ||
            memcmp(room->a, room->b, sizeof(float) * K) != 0)
            return 0;
    }
    memcpy(second, room->x, K * 4);
    for (size_t i = 0; i < K * 4; i++)
        second[i] &= 0xBF; /* so that every f16 in it is a number */
    for (size_t i = 0; i < sizeof supers / sizeof *supers; i++) {
        row->to_f32(supers[i], second, room->a, 256);
        scalar->to_f32(supers[i], second, room->b, 256);
        if (memcmp(room->a, room->b, sizeof(float) * 256) != 0)
            return 0;
    }
    return 1;
}

static int decoder_rows_agree(const struct cabe_row_kernels *row, const struct cabe_row_kernels *scalar,
                              struct room *room)
{
    static const int32_t positions[] = {0, 3, 70000};
    const int64_t n = 4 * (K / 4) - 3;

    for (int act = CABE_ACT_GELU_ERF; act <= CABE_ACT_SILU; act++) {
        row->glu((enum cabe_act)act, room->x, room->x + K, room->a, n);
        scalar->glu((enum cabe_act)act, room->x, room->x + K, room->b, n);
        if (!close_to(room->a, room->b, n, 4e-6f))
            return 0;
    }
    for (int style = CABE_ROPE_ADJACENT; style <= CABE_ROPE_HALVES; style++)
        for (int normed = 0; normed < 2; normed++) {
            struct cabe_rope_heads heads = {.style = (enum cabe_rope)style, .n_heads = 4, .n_kv_heads = 2,
                                            .head_dim = 56, .n_rot = 44, .eps = 1e-6f};
            float *angles = (float *)(void *)room->scratch;

            heads.q_gamma = normed ? room->weights : NULL;
            heads.k_gamma = normed ? room->weights + 56 : NULL;
            scalar->angles(positions, room->weights, 22, 1.0f, angles, 0, 3);
            row->rope(&heads, room->x, angles, room->a, 0, 3);
            scalar->rope(&heads, room->x, angles, room->b, 0, 3);
            if (!close_to(room->a, room->b, 3 * 8 * 56, 1e-5f))
                return 0;
        }
    return 1;
}

static int rows_agree(const struct cabe_row_kernels *row, const struct cabe_row_kernels *scalar, struct room *room)
{
    static const int32_t offsets[] = {0, 7, 7, T};
    const int64_t c = K - 3;

    for (int act = CABE_ACT_NONE; act <= CABE_ACT_TANH; act++) {
        row->act((enum cabe_act)act, room->x, room->a, T * K - 3);
        scalar->act((enum cabe_act)act, room->x, room->b, T * K - 3);
        if (!close_to(room->a, room->b, T * K - 3, 4e-6f))
            return 0;
    }
    for (int norm = CABE_NORM_LAYER; norm <= CABE_NORM_RMS; norm++) {
        row->norm((enum cabe_norm)norm, 1e-5f, room->x, room->weights, room->weights, NULL, room->a, c, 0, T);
        scalar->norm((enum cabe_norm)norm, 1e-5f, room->x, room->weights, room->weights, NULL, room->b, c, 0, T);
        if (!close_to(room->a, room->b, T * c, 1e-5f))
            return 0;
    }
    for (int pool = CABE_POOL_MEAN; pool <= CABE_POOL_LAST; pool++) {
        row->pool((enum cabe_pooling)pool, room->x, offsets, NULL, c, room->a, 0, 3);
        scalar->pool((enum cabe_pooling)pool, room->x, offsets, NULL, c, room->b, 0, 3);
        if (!close_to(room->a, room->b, 3 * c, 1e-5f))
            return 0;
    }
    for (int mask = CABE_MASK_NONE; mask <= CABE_MASK_CAUSAL; mask++) {
        row->attention(room->x, room->x + 32, room->x + 64, K, T, 32, 0.2f, (enum cabe_mask)mask, room->a, 32,
                       room->scratch);
        scalar->attention(room->x, room->x + 32, room->x + 64, K, T, 32, 0.2f, (enum cabe_mask)mask, room->b, 32,
                          room->scratch);
        if (!close_to(room->a, room->b, T * 32, 1e-5f))
            return 0;
    }
    return decoder_rows_agree(row, scalar, room) && conversions_agree(row, scalar, room);
}

/* A few queries over pages of all formats, with and without a window; the first slots are seen by some only. */
static int attention_agrees(const struct cabe_attention_kernels *attention, const struct cabe_attention_kernels *scalar,
                            struct room *room)
{
    struct cabe_page pages[6];
    const struct cabe_paged paged = {.base = room->panels, .pages = pages, .head_dim = 40};
    const int64_t n_slots = 90, n_bytes = 6 * 2 * 40 * CABE_PAGE_TOKENS * 4;
    struct cabe_attend attend = {.q = room->x, .q_stride = 3 * 40, .out_stride = 3 * 40, .n = 20, .slot = n_slots - 20,
                                 .group = 3, .scale = 0.2f};

    for (uint32_t i = 0; i < 6; i++) {
        pages[i].unit = i * 80;
        pages[i].formats = cabe_page_formats((enum cabe_kv_format)(i % 3), (enum cabe_kv_format)(i / 2));
    }
    memset(room->panels, 0, (size_t)n_bytes);
    attention->write(&paged, 0, room->weights, room->weights + n_slots * 40, 40, n_slots);
    memcpy(room->shared + 1024, room->panels, (size_t)n_bytes);
    memset(room->panels, 0, (size_t)n_bytes);
    scalar->write(&paged, 0, room->weights, room->weights + n_slots * 40, 40, n_slots);
    if (memcmp(room->shared + 1024, room->panels, (size_t)n_bytes) != 0)
        return 0;
    for (attend.window = 0; attend.window <= 30; attend.window += 10) {
        attend.out = room->a;
        attention->attend(&paged, &attend, room->scratch);
        attend.out = room->b;
        scalar->attend(&paged, &attend, room->scratch);
        if (!close_to(room->a, room->b, attend.n * attend.out_stride, 1e-5f))
            return 0;
    }
    return 1;
}

int cabe_kernels_selftest(enum cabe_level level)
{
    const struct cabe_kernels *kernels = cabe_kernels_at(level), *scalar = cabe_kernels_at(CABE_LEVEL_SCALAR);
    uint8_t *block;
    struct room room;
    int agree;

    if (!kernels)
        return 0;
    block = cabe_malloc(BYTES + 64);
    if (!block)
        return 0;
    room = room_in(block + (64 - (uintptr_t)block % 64) % 64);
    fill(room.x, T * K, 1);
    fill(room.weights, N * K, 2);
    agree = products_agree(kernels, scalar, &room) && blocks_agree(kernels, scalar, &room) &&
            rows_agree(&kernels->row, &scalar->row, &room) &&
            attention_agrees(&kernels->attention, &scalar->attention, &room);
    cabe_free(block);
    return agree;
}
