/* What the tests of this room share: a machine in small, weights from a seed, a BERT, a run. */
#ifndef CABE_TESTS_DEVICE_FIXTURE_H
#define CABE_TESTS_DEVICE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "device/device.h"

#define ONE(count) ((struct cabe_dim){count, CABE_SYM_ONE, 0})
#define TOKENS ((struct cabe_dim){1, CABE_SYM_TOKENS, 0})
#define SEQUENCES ((struct cabe_dim){1, CABE_SYM_SEQUENCES, 0})
#define OFFSETS ((struct cabe_dim){1, CABE_SYM_SEQUENCES, 1})
#define SIM_LEDGER_DEVICE 1

static struct cabe_error why;
#define OK(call)                                                                                             \
    do {                                                                                                     \
        if ((call) != CABE_OK)                                                                               \
            fail_msg("%s: %s", #call, why.text);                                                             \
    } while (0)

enum kind { ON_CPU, ON_SIM };
enum place { RESIDENT, ADOPTED, STREAMED, MIXED /* every second segment is streamed */ };

struct machine {
    struct cabe_ledger *ledger;
    struct cabe_team *team;
    const struct cabe_kernels *kernels;
    struct cabe_device *device;
    int ledger_device;
};

static inline void machine_open(struct machine *m, enum kind kind, int n_threads, uint64_t cap)
{
    struct cabe_ledger_config ledger = {.n_devices = 2, .budget_bytes = {CABE_UNLIMITED, CABE_UNLIMITED}};
    struct cabe_device_config config;

    memset(m, 0, sizeof *m);
    OK(cabe_ledger_open(&m->ledger, &ledger, &why));
    OK(cabe_team_open(&m->team, n_threads, &why));
    OK(cabe_kernels_choose(&m->kernels, &why));
    m->ledger_device = kind == ON_SIM ? SIM_LEDGER_DEVICE : CABE_HOST;
    config = (struct cabe_device_config){.ledger = m->ledger,
                                         .ledger_device = m->ledger_device,
                                         .team = m->team,
                                         .kernels = m->kernels,
                                         .cap_bytes = cap,
                                         .copy_bytes_per_s = kind == ON_SIM ? 1e9 : 0};
    if (kind == ON_SIM)
        OK(cabe_sim_device_open(&m->device, &config, &why));
    else
        OK(cabe_cpu_device_open(&m->device, &config, &why));
}

static inline uint64_t ledger_used(const struct machine *m, int device)
{
    struct cabe_ledger_view view;

    cabe_ledger_read(m->ledger, &view);
    return view.device[device].used_bytes;
}

/* Everything that was reserved has been given back. */
static inline void machine_close(struct machine *m)
{
    cabe_device_close(m->device);
    assert_int_equal(ledger_used(m, 0), 0);
    assert_int_equal(ledger_used(m, 1), 0);
    cabe_team_close(m->team);
    cabe_ledger_close(m->ledger);
}

static inline uint32_t rnd(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33);
}

static inline float rnd_float(uint64_t *seed)
{
    return (float)((int32_t)(rnd(seed) % 20001) - 10000) / 10000.0f;
}

/*
 * The weights of a graph in host memory, segment after segment as compile wants them, and as the f32 they
 * come from.
 */
struct store {
    uint8_t *memory;
    uint64_t bytes;
    uint64_t offset[64];
    float *plain[256]; /* per value; weights only */
    int32_t n_values;
};

static inline void store_rows(const struct cabe_kernels *kernels, enum cabe_dtype dtype, const float *plain,
                              int64_t rows, int64_t cols, uint8_t *out)
{
    for (int64_t r = 0; r < rows; r++) {
        uint8_t *row = out + (uint64_t)r * cabe_dtype_bytes(dtype, cols);
        float scale;

        if (dtype != CABE_I8) {
            kernels->row.from_f32(dtype, plain + r * cols, row, cols);
            continue;
        }
        scale = kernels->row.to_i8(plain + r * cols, (int8_t *)row, cols);
        memcpy(out + (uint64_t)(rows * cols) + (uint64_t)r * sizeof scale, &scale, sizeof scale);
    }
}

static inline void store_open(struct store *store, const struct cabe_graph *graph,
                              const struct cabe_kernels *kernels, uint64_t seed)
{
    memset(store, 0, sizeof *store);
    store->n_values = cabe_graph_n_values(graph);
    assert_true(store->n_values <= 256 && cabe_graph_n_segments(graph) <= 64);
    for (int32_t s = 0; s < cabe_graph_n_segments(graph); s++) {
        store->offset[s] = store->bytes;
        store->bytes += cabe_graph_segment_bytes(graph, s);
    }
    store->memory = aligned_alloc(4096, store->bytes ? store->bytes : 4096);
    memset(store->memory, 0, store->bytes);
    for (cabe_value v = 0; v < store->n_values; v++) {
        const struct cabe_value_info *info = cabe_graph_value(graph, v);
        int64_t rows = info->dim[2].n, cols = info->dim[3].n;
        uint8_t *out = store->memory + store->offset[info->segment] + info->offset;
        float size = 1.0f;

        if (info->kind != CABE_WEIGHT)
            continue;
        store->plain[v] = malloc((size_t)(rows * cols) * sizeof(float));
        if (info->packing == CABE_PANELS)
            while (size * size * (float)cols > 2.0f)
                size /= 2;
        for (int64_t i = 0; i < rows * cols; i++)
            store->plain[v][i] = rnd_float(&seed) * size;
        if (info->packing == CABE_PANELS) {
            uint8_t *scratch = aligned_alloc(64, (cabe_matmul_pack_scratch_bytes(cols) + 63) / 64 * 64 + 64);

            OK(cabe_matmul_pack(CABE_F32, store->plain[v], rows, info->dtype, cols, 0, (rows + 15) / 16,
                                scratch, out, &why));
            free(scratch);
        } else {
            store_rows(kernels, info->dtype, store->plain[v], rows, cols, out);
        }
    }
}

static inline void store_close(struct store *store)
{
    for (int32_t v = 0; v < store->n_values; v++)
        free(store->plain[v]);
    free(store->memory);
}

/* A source that streamed segments are read from, which can fail or ask to stop. */
struct source {
    const struct store *store;
    uint64_t fail_offset; /* UINT64_MAX: never */
    struct cabe_cancel *cancel_at_read;
    int n_reads;
};

static inline enum cabe_status source_read(void *self, uint64_t offset, void *data, uint64_t bytes,
                                           struct cabe_error *err)
{
    struct source *source = self;

    source->n_reads++;
    if (source->cancel_at_read && source->n_reads == 2)
        atomic_store(&source->cancel_at_read->wanted, 1);
    if (source->fail_offset >= offset && source->fail_offset - offset < bytes)
        return cabe_fail(err, CABE_ERR_IO, "weights.bin: offset %llu: no more", (unsigned long long)offset);
    memcpy(data, source->store->memory + offset, bytes);
    return CABE_OK;
}

/* A program with its weights where `place` says. */
struct loaded {
    struct cabe_buffer *weights;
    struct cabe_segment_weights segment[64];
    struct source source;
    struct cabe_program *program;
};

static inline enum cabe_status load(struct loaded *l, const struct machine *m, const struct cabe_graph *graph,
                                    const struct store *store, enum place place, const int64_t *bounds,
                                    struct cabe_error *err)
{
    struct cabe_weights weights = {l->segment, source_read, &l->source};
    enum cabe_status status = CABE_OK;

    memset(l, 0, sizeof *l);
    l->source = (struct source){.store = store, .fail_offset = UINT64_MAX};
    if (place == ADOPTED) {
        status = cabe_buffer_adopt(&l->weights, m->device, store->memory, store->bytes, err);
    } else if (place != STREAMED) {
        status =
            cabe_buffer_alloc(&l->weights, m->device, store->bytes, CABE_PURPOSE_WEIGHTS, "weights", err);
        if (status == CABE_OK)
            status = cabe_buffer_upload(l->weights, 0, store->memory, store->bytes, err);
    }
    if (status != CABE_OK)
        return status;
    for (int32_t s = 0; s < cabe_graph_n_segments(graph); s++)
        l->segment[s] = (struct cabe_segment_weights){
            place == STREAMED || (place == MIXED && s % 2) ? NULL : l->weights, store->offset[s]};
    return cabe_program_compile(&l->program, m->device, graph, bounds, &weights, "test", err);
}

static inline void unload(struct loaded *l)
{
    cabe_program_close(l->program);
    cabe_buffer_free(l->weights);
}

/* Sequences end to end: what is given and what comes out. */
#define BATCH_TOKENS 600
#define BATCH_SEQUENCES 40
struct batch {
    int64_t symbols[CABE_N_SYMBOLS];
    int32_t ids[BATCH_TOKENS], positions[BATCH_TOKENS], offsets[BATCH_SEQUENCES + 1];
    float embeddings[BATCH_SEQUENCES * 64], states[BATCH_TOKENS * 64];
};

static const int64_t batch_bounds[CABE_N_SYMBOLS] = {1, BATCH_TOKENS, BATCH_SEQUENCES};

static inline int sequence_length(int which)
{
    static const int lengths[] = {5, 1, 33, 17, 64, 2, 8, 40, 16, 3, 21, 9};

    return lengths[which % 12];
}

static inline void batch_add(struct batch *batch, int which)
{
    int64_t t = batch->symbols[CABE_SYM_TOKENS], s = batch->symbols[CABE_SYM_SEQUENCES];
    uint64_t seed = (uint64_t)which + 1;

    for (int i = 0; i < sequence_length(which); i++, t++) {
        batch->ids[t] = (int32_t)(rnd(&seed) % 50);
        batch->positions[t] = i;
    }
    batch->symbols[CABE_SYM_TOKENS] = t;
    batch->symbols[CABE_SYM_SEQUENCES] = s + 1;
    batch->offsets[s + 1] = (int32_t)t;
}

static inline void bert_weight_name(char name[64], int layer, const char *what)
{
    snprintf(name, 64, "blk.%d.%s", layer, what);
}

static inline cabe_value panels(struct cabe_graph *g, int layer, const char *what, enum cabe_dtype dtype,
                                int64_t n, int64_t k)
{
    char name[64];

    bert_weight_name(name, layer, what);
    return cabe_graph_weight(g, name, dtype, CABE_PANELS, n, k);
}

static inline cabe_value vector(struct cabe_graph *g, int layer, const char *what, int64_t n)
{
    char name[64];

    bert_weight_name(name, layer, what);
    return cabe_graph_weight(g, name, CABE_F32, CABE_ROWS, 1, n);
}

/* A BERT of width 64: embeddings, `n_layers` layers in segments of their own, pooling. */
static inline struct cabe_graph *bert_open(int n_layers, enum cabe_dtype dtype, enum cabe_precision precision)
{
    struct cabe_graph *g;
    struct cabe_error err;
    cabe_value ids, positions, offsets, h, type;
    const int64_t c = 64, f = 192;

    if (cabe_graph_open(&g, &err) != CABE_OK)
        return NULL;
    ids = cabe_graph_input(g, "ids", CABE_I32, ONE(1), TOKENS);
    positions = cabe_graph_input(g, "positions", CABE_I32, TOKENS, ONE(1));
    offsets = cabe_graph_input(g, "offsets", CABE_I32, OFFSETS, ONE(1));
    h = cabe_graph_gather(g, cabe_graph_weight(g, "words", CABE_F16, CABE_ROWS, 50, c), ids, CABE_NO_VALUE);
    type = cabe_graph_weight(g, "type", CABE_F32, CABE_ROWS, 1, c);
    h = cabe_graph_add(
        g, h,
        cabe_graph_add(g,
                       cabe_graph_gather(g, cabe_graph_weight(g, "places", CABE_F32, CABE_ROWS, 80, c),
                                         positions, CABE_NO_VALUE),
                       type));
    h = cabe_graph_norm(g, h, vector(g, -1, "norm", c), vector(g, -1, "beta", c), CABE_NO_VALUE,
                        CABE_NORM_LAYER, 1e-12f);
    for (int i = 0; i < n_layers; i++) {
        cabe_value a, u;
        char name[32];

        snprintf(name, sizeof name, "layer %d", i);
        cabe_graph_segment(g, name);
        a = cabe_graph_matmul(g, h, panels(g, i, "qkv", dtype, 3 * c, c), vector(g, i, "qkv.b", 3 * c),
                              CABE_NO_VALUE, CABE_ACT_NONE, precision);
        a = cabe_graph_attention(g, a, offsets, 4, 4, 16, 0.25f, CABE_MASK_NONE);
        a = cabe_graph_matmul(g, a, panels(g, i, "out", dtype, c, c), vector(g, i, "out.b", c), h,
                              CABE_ACT_NONE, precision);
        h = cabe_graph_norm(g, a, vector(g, i, "n1", c), vector(g, i, "n1.b", c), CABE_NO_VALUE,
                            CABE_NORM_LAYER, 1e-12f);
        u = cabe_graph_matmul(g, h, panels(g, i, "up", dtype, f, c), vector(g, i, "up.b", f), CABE_NO_VALUE,
                              CABE_ACT_GELU_ERF, precision);
        u = cabe_graph_matmul(g, u, panels(g, i, "down", dtype, c, f), vector(g, i, "down.b", c),
                              CABE_NO_VALUE, CABE_ACT_NONE, precision);
        h = cabe_graph_norm(g, u, vector(g, i, "n2", c), vector(g, i, "n2.b", c), h, CABE_NORM_LAYER, 1e-12f);
    }
    cabe_graph_output(g, h, "states");
    h = cabe_graph_unit(g, cabe_graph_pool(g, h, offsets, CABE_NO_VALUE, CABE_POOL_MEAN), 1e-12f);
    cabe_graph_output(g, h, "embeddings");
    if (cabe_graph_finish(g, &err) == CABE_OK)
        return g;
    cabe_graph_close(g);
    return NULL;
}

static inline enum cabe_status batch_give(struct cabe_program *program, const struct cabe_graph *g,
                                          const struct batch *b, struct cabe_error *err)
{
    uint64_t ids_bytes = (uint64_t)b->symbols[CABE_SYM_TOKENS] * 4;
    enum cabe_status status;

    if ((status = cabe_program_upload(program, cabe_graph_find(g, "ids"), b->ids, ids_bytes, err)) !=
            CABE_OK ||
        (status = cabe_program_upload(program, cabe_graph_find(g, "positions"), b->positions, ids_bytes,
                                      err)) != CABE_OK)
        return status;
    return cabe_program_upload(program, cabe_graph_find(g, "offsets"), b->offsets,
                               (uint64_t)b->symbols[CABE_SYM_SEQUENCES] * 4 + 4, err);
}

static inline enum cabe_status batch_run(struct cabe_program *program, const struct cabe_graph *g,
                                         struct batch *b, const struct cabe_cancel *cancel,
                                         struct cabe_error *err)
{
    struct cabe_event *event;
    enum cabe_status status;

    if ((status = batch_give(program, g, b, err)) != CABE_OK ||
        (status = cabe_program_submit(program, b->symbols, cancel, &event, err)) != CABE_OK ||
        (status = cabe_event_wait(event, err)) != CABE_OK ||
        (status = cabe_program_download(program, cabe_graph_find(g, "embeddings"), b->embeddings,
                                        (uint64_t)b->symbols[CABE_SYM_SEQUENCES] * 64 * 4, err)) != CABE_OK)
        return status;
    return cabe_program_download(program, cabe_graph_find(g, "states"), b->states,
                                 (uint64_t)b->symbols[CABE_SYM_TOKENS] * 64 * 4, err);
}

#endif
