/* A decoder on one thread of the cpu, its pages laid out by hand: from a file to logits. */
#ifndef CABE_TESTS_DECODER_RUN_H
#define CABE_TESTS_DECODER_RUN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "device/device.h"
#include "model/model.h"

#define RUN_TOKENS_MAX 512
#define RUN_PAGES (RUN_TOKENS_MAX / CABE_PAGE_TOKENS)

static struct cabe_error why;
#define OK(call)                                                                                             \
    do {                                                                                                     \
        if ((call) != CABE_OK)                                                                               \
            fail_msg("%s: %s", #call, why.text);                                                             \
    } while (0)

struct decoder_run {
    struct cabe_source *source;
    struct cabe_model *model;
    struct cabe_graph *graph;
    struct cabe_ledger *ledger;
    struct cabe_team *team;
    struct cabe_device *device;
    struct cabe_buffer *weights, *cache;
    struct cabe_program *program;
    uint64_t page_bytes;
    int32_t n_past; /* tokens in the cache */
};

struct decoder_sink {
    struct cabe_buffer *buffer;
    uint64_t at;
};

static inline enum cabe_status decoder_write(void *self, const void *data, uint64_t bytes, struct cabe_error *err)
{
    struct decoder_sink *sink = self;
    enum cabe_status status = cabe_buffer_upload(sink->buffer, sink->at, data, bytes, err);

    sink->at += bytes;
    return status;
}

static inline void decoder_weights(struct decoder_run *run, const struct cabe_model_choice *choice,
                                   struct cabe_segment_weights *segments)
{
    void *work = aligned_alloc(64, (cabe_model_convert_bytes(run->model, choice) + 63) / 64 * 64);
    uint64_t bytes = 0;

    for (int32_t s = 0; s < cabe_graph_n_segments(run->graph); s++) {
        segments[s].offset = bytes;
        bytes += cabe_graph_segment_bytes(run->graph, s);
    }
    OK(cabe_buffer_alloc(&run->weights, run->device, bytes, CABE_PURPOSE_WEIGHTS, "w", &why));
    for (int32_t s = 0; s < cabe_graph_n_segments(run->graph); s++)
        segments[s].buffer = run->weights;
    for (cabe_value v = 0; v < cabe_graph_n_values(run->graph); v++) {
        const struct cabe_value_info *info = cabe_graph_value(run->graph, v);
        struct decoder_sink to = {run->weights, 0};
        struct cabe_model_sink sink = {decoder_write, &to};

        if (info->kind != CABE_WEIGHT)
            continue;
        to.at = segments[info->segment].offset + info->offset;
        OK(cabe_model_convert(run->model, run->source, cabe_model_find(run->model, info->name), choice, work, &sink,
                              &why));
    }
    free(work);
}

/* Pages of f32; `path` is opened, described and converted. */
static inline void decoder_open(struct decoder_run *run, const char *path, const struct cabe_model_choice *choice)
{
    struct cabe_ledger_config ledger = {.n_devices = 1, .budget_bytes = {CABE_UNLIMITED}};
    struct cabe_device_config config = {0};
    struct cabe_segment_weights segments[64] = {{0}};
    struct cabe_weights weights = {.segment = segments};
    struct cabe_kv_shape shape;
    int64_t bounds[CABE_N_SYMBOLS];

    memset(run, 0, sizeof *run);
    for (int i = 0; i < CABE_N_SYMBOLS; i++)
        bounds[i] = 1;
    bounds[CABE_SYM_TOKENS] = bounds[CABE_SYM_OUTPUTS] = 64;
    bounds[CABE_SYM_PAGES] = RUN_PAGES;
    OK(cabe_source_open(&run->source, path, &why));
    OK(cabe_model_describe(&run->model, run->source, &why));
    OK(cabe_model_graph(&run->graph, run->model, choice, 0, &why));
    assert_true(cabe_graph_n_segments(run->graph) <= 64);
    OK(cabe_ledger_open(&run->ledger, &ledger, &why));
    OK(cabe_team_open(&run->team, 1, &why));
    config.ledger = run->ledger;
    config.team = run->team;
    OK(cabe_kernels_choose(&config.kernels, &why));
    OK(cabe_cpu_device_open(&run->device, &config, &why));
    decoder_weights(run, choice, segments);
    shape = cabe_model_kv_shape(run->model);
    run->page_bytes = cabe_page_bytes(CABE_KV_F32, CABE_KV_F32, &shape);
    OK(cabe_buffer_alloc(&run->cache, run->device, RUN_PAGES * run->page_bytes, CABE_PURPOSE_KV, "kv", &why));
    OK(cabe_program_compile(&run->program, run->device, run->graph, bounds, &weights, "p", &why));
    OK(cabe_program_bind(run->program, cabe_graph_find(run->graph, CABE_MODEL_CACHE), run->cache, &why));
}

static inline void decoder_upload(struct decoder_run *run, const char *name, const void *data, uint64_t bytes)
{
    OK(cabe_program_upload(run->program, cabe_graph_find(run->graph, name), data, bytes, &why));
}

/* Runs n <= 64 more tokens; logits of all of them. */
static inline void decoder_step(struct decoder_run *run, const int32_t *ids, int32_t n, float *logits)
{
    int32_t positions[64], rows[64], offsets[2] = {0, n}, n_pages, page_offsets[2] = {0, 0};
    struct cabe_page pages[RUN_PAGES];
    int64_t symbols[CABE_N_SYMBOLS];
    struct cabe_event *event;
    uint64_t vocabulary = (uint64_t)cabe_model_config(run->model)->n_vocab;

    for (int i = 0; i < CABE_N_SYMBOLS; i++)
        symbols[i] = 1;
    for (int32_t i = 0; i < n; i++) {
        positions[i] = run->n_past + i;
        rows[i] = i;
    }
    n_pages = (run->n_past + n + CABE_PAGE_TOKENS - 1) / CABE_PAGE_TOKENS;
    assert_true(n >= 1 && n <= 64 && n_pages <= RUN_PAGES);
    for (int32_t i = 0; i < n_pages; i++) { /* from the last one down */
        pages[i].unit = (uint32_t)((uint64_t)(RUN_PAGES - 1 - i) * run->page_bytes / CABE_PAGE_UNIT);
        pages[i].formats = cabe_page_formats(CABE_KV_F32, CABE_KV_F32);
    }
    page_offsets[1] = n_pages;
    symbols[CABE_SYM_TOKENS] = symbols[CABE_SYM_OUTPUTS] = n;
    symbols[CABE_SYM_PAGES] = n_pages;
    decoder_upload(run, CABE_MODEL_IDS, ids, (uint64_t)n * 4);
    decoder_upload(run, CABE_MODEL_POSITIONS, positions, (uint64_t)n * 4);
    decoder_upload(run, CABE_MODEL_OFFSETS, offsets, sizeof offsets);
    decoder_upload(run, CABE_MODEL_STARTS, &run->n_past, 4);
    decoder_upload(run, CABE_MODEL_PAGE_OFFSETS, page_offsets, sizeof page_offsets);
    decoder_upload(run, CABE_MODEL_PAGES, pages, (uint64_t)n_pages * sizeof pages[0]);
    decoder_upload(run, CABE_MODEL_ROWS, rows, (uint64_t)n * 4);
    OK(cabe_program_submit(run->program, symbols, NULL, &event, &why));
    OK(cabe_event_wait(event, &why));
    OK(cabe_program_download(run->program, cabe_graph_find(run->graph, CABE_MODEL_LOGITS), logits,
                             (uint64_t)n * vocabulary * 4, &why));
    run->n_past += n;
}

static inline void decoder_close(struct decoder_run *run)
{
    cabe_program_close(run->program);
    cabe_buffer_free(run->cache);
    cabe_buffer_free(run->weights);
    cabe_device_close(run->device);
    cabe_team_close(run->team);
    cabe_ledger_close(run->ledger);
    cabe_graph_close(run->graph);
    cabe_model_close(run->model);
    cabe_source_close(run->source);
}

#endif
