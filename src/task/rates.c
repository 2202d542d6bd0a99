#include "task/rates.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "device/device.h"
#include "fit/seconds.h"
#include "machine/limits.h"
#include "runtime/sample.h"
#include "tensor/pages.h"

#define WIDTH 1024
#define WEIGHT_BYTES (UINT64_C(96) << 20) /* past the caches */
#define NARROW 256
#define NORMS 32
#define MANY_BYTES (UINT64_C(12) << 20)
#define RUNS 3
#define ROUNDS 5
#define ROUNDS_NS UINT64_C(6000000000) /* none begins after that */
#define VOCABULARY 32768
#define FILE_BYTES (UINT64_C(64) << 20) /* no more than there are weights to read into */
#define FILE_PIECE (UINT64_C(4) << 20)
#define METER_BYTES (UINT64_C(96) << 20)
#define METER_SECONDS .002
#define READINGS_MAX 1024

enum bound { BY_MEMORY, BY_CPU };

struct series { /* of one rate: what the rounds gave */
    char name[CABE_RATE_NAME_MAX];
    enum bound bound;
    double per_s[ROUNDS];
    int n;
};

struct rates {
    const struct cabe_rates_config *config;
    struct cabe_ledger *ledger; /* of this alone: other processes need not see what is gone in seconds */
    struct cabe_team *team;
    struct cabe_device *device;
    uint8_t *weights; /* bytes that are sane numbers in every dtype: scales and values of 17, none of them NaN */
    uint64_t weight_bytes;
    struct series series[CABE_RATES_MAX];
    int n_series;
    double narrow_seconds[ROUNDS], wide_seconds[ROUNDS], node_seconds;
    int n_done, n_all, n_rounds;
    /*
     * On a machine that is shared, memory is read at half the rate a second later. What reading bounds is therefore
     * timed beside a reading of the meter, and counted as if that had been the first of them.
     */
    struct cabe_read_meter *meter;
    double reading[READINGS_MAX]; /* bytes a second */
    int n_readings;
};

static void add_rate(struct rates *r, const char *name, enum bound bound, double amount, double seconds)
{
    struct series *series = r->series;
    int i = 0;

    while (i < r->n_series && strcmp(series[i].name, name) != 0)
        i++;
    if (i == CABE_RATES_MAX || !(seconds > 0) || !(amount > 0))
        return;
    if (i == r->n_series) {
        snprintf(series[i].name, sizeof series[i].name, "%s", name);
        series[i].bound = bound;
        r->n_series++;
    }
    if (series[i].n < ROUNDS)
        series[i].per_s[series[i].n++] = amount / seconds;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, by_size);
    return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

/*
 * The median of the rounds, and of memory the median of all readings: a limit is the best there was, but what work takes
 * is what it usually took.
 */
static void conclude(struct rates *r, struct cabe_limits *limits)
{
    double first = r->reading[0], usual = median(r->reading, r->n_readings);

    add_rate(r, "memory", BY_MEMORY, first, 1);
    for (limits->n_rates = 0; limits->n_rates < r->n_series; limits->n_rates++) {
        struct series *series = &r->series[limits->n_rates];
        struct cabe_work_rate *rate = &limits->rate[limits->n_rates];

        snprintf(rate->name, sizeof rate->name, "%s", series->name);
        rate->per_s = median(series->per_s, series->n) * (series->bound == BY_MEMORY ? usual / first : 1);
    }
}

/* ---- a graph, run ---- */

struct sample { /* one graph, compiled */
    struct cabe_graph *graph;
    struct cabe_buffer *weights, *cache;
    struct cabe_segment_weights segment;
    struct cabe_program *program;
    int64_t symbols[CABE_N_SYMBOLS];
};

static void close_sample(struct sample *s)
{
    cabe_program_close(s->program);
    cabe_buffer_free(s->cache);
    cabe_buffer_free(s->weights);
    cabe_graph_close(s->graph);
}

static enum cabe_status compile(struct rates *r, struct sample *s, struct cabe_error *err)
{
    struct cabe_weights weights = {.segment = &s->segment};
    enum cabe_status status = cabe_graph_finish(s->graph, err);

    if (status == CABE_OK)
        status = cabe_buffer_adopt(&s->weights, r->device, r->weights, r->weight_bytes, err);
    s->segment.buffer = s->weights;
    return status == CABE_OK ? cabe_program_compile(&s->program, r->device, s->graph, s->symbols, &weights,
                                                    "rates", err)
                             : status;
}

/* How fast memory is read now. */
static double read_meter(struct rates *r)
{
    double bytes_s = cabe_read_meter_bytes_s(r->meter, METER_SECONDS);

    if (r->n_readings < READINGS_MAX)
        r->reading[r->n_readings++] = bytes_s;
    return bytes_s;
}

/*
 * Of several runs, in seconds: the median, as if memory were as it was at first; of what the CPU bounds, which nothing
 * but other work slows down, the least. A first run, which finds everything cold, does not count.
 */
static enum cabe_status time_sample(struct rates *r, struct sample *s, enum bound bound, double *seconds,
                                    struct cabe_error *err)
{
    double taken[RUNS];
    int n = r->config->quick ? 1 : RUNS;
    enum cabe_status status = CABE_OK;
    struct cabe_event *event;

    for (int i = -1; i < n && status == CABE_OK; i++) {
        double before = bound == BY_MEMORY ? read_meter(r) : 0;
        uint64_t begin_ns = cabe_clock_ns();

        status = cabe_program_submit(s->program, s->symbols, r->config->cancel, &event, err);
        if (status == CABE_OK)
            status = cabe_event_wait(event, err);
        if (i < 0)
            continue;
        taken[i] = (double)(cabe_clock_ns() - begin_ns) / 1e9;
        if (bound == BY_MEMORY)
            taken[i] *= (before + read_meter(r)) / 2 / r->reading[0];
    }
    if (status != CABE_OK)
        return status;
    *seconds = median(taken, n);
    if (bound == BY_CPU)
        *seconds = taken[0]; /* they are in order now */
    return CABE_OK;
}

static enum cabe_status fill_input(struct sample *s, const char *name, int64_t n, struct cabe_error *err)
{
    float *values = cabe_malloc((size_t)n * sizeof *values);
    enum cabe_status status;

    if (!values)
        return cabe_fail(err, CABE_ERR_OOM, "rates: input of %lld numbers", (long long)n);
    for (int64_t i = 0; i < n; i++)
        values[i] = (float)(i % 17 - 8) / 8;
    status = cabe_program_upload(s->program, cabe_graph_find(s->graph, name), values, (uint64_t)n * sizeof *values, err);
    cabe_free(values);
    return status;
}

/* What is left when nodes are paid for; in a run so short that they would be most of it, half. */
static double without_nodes(const struct rates *r, double seconds, const struct cabe_graph_work *work)
{
    double nodes = work->n_nodes * r->node_seconds;

    return nodes < seconds / 2 ? seconds - nodes : seconds / 2;
}

/* ---- products ---- */

/* Layers of a norm and a square product onto what came in, as decoders have them; as many as `bytes` hold. */
static enum cabe_status time_products(struct rates *r, enum cabe_dtype dtype, enum cabe_precision precision,
                                      int64_t width, int64_t rows, uint64_t bytes, struct cabe_graph_work *work,
                                      double *seconds, struct cabe_error *err)
{
    const struct cabe_dim tokens = {1, CABE_SYM_TOKENS, 0}, cols = {width, CABE_SYM_ONE, 0};
    struct sample s = {.symbols = {1, rows, 1}};
    uint64_t each = cabe_packed_bytes(dtype, CABE_PANELS, width, width);
    enum cabe_status status = cabe_graph_open(&s.graph, err);
    cabe_value x, gamma;

    if (status != CABE_OK)
        return status;
    x = cabe_graph_input(s.graph, "x", CABE_F32, tokens, cols);
    gamma = cabe_graph_weight(s.graph, "gamma", CABE_F32, CABE_ROWS, 1, width);
    for (uint64_t i = 0; i < (bytes / each > 0 ? bytes / each : 1); i++) {
        char name[32];
        cabe_value y = cabe_graph_norm(s.graph, x, gamma, CABE_NO_VALUE, CABE_NO_VALUE, CABE_NORM_RMS, 1e-5f);

        snprintf(name, sizeof name, "%d", (int)i);
        x = cabe_graph_matmul(s.graph, y, cabe_graph_weight(s.graph, name, dtype, CABE_PANELS, width, width), CABE_NO_VALUE,
                              x, CABE_ACT_NONE, precision);
    }
    cabe_graph_output(s.graph, x, "y");
    status = compile(r, &s, err);
    if (status == CABE_OK)
        status = fill_input(&s, "x", rows * width, err);
    if (status == CABE_OK)
        status = time_sample(r, &s, rows == 1 ? BY_MEMORY : BY_CPU, seconds, err);
    if (status == CABE_OK)
        cabe_graph_work(s.graph, s.symbols, work);
    close_sample(&s);
    return status;
}

/*
 * What a node costs besides its bytes and operations: the barrier, and memory that stands still around it. It is what
 * many narrow products take longer than few wide ones of as many bytes.
 */
static enum cabe_status measure_nodes(struct rates *r, struct cabe_error *err)
{
    const enum cabe_precision precision = CABE_PRECISION_INT8;
    struct cabe_graph_work narrow_work, wide_work;
    double *narrow = &r->narrow_seconds[r->n_rounds], *wide = &r->wide_seconds[r->n_rounds], ratio;
    enum cabe_status status =
        time_products(r, CABE_Q8_0, precision, NARROW, 1, r->weight_bytes / 3, &narrow_work, narrow, err);

    if (status == CABE_OK)
        status = time_products(r, CABE_Q8_0, precision, WIDTH, 1, r->weight_bytes * 9 / 10, &wide_work, wide, err);
    if (status != CABE_OK)
        return status;
    ratio = narrow_work.matmul_bytes[CABE_Q8_0][precision] / wide_work.matmul_bytes[CABE_Q8_0][precision];
    r->node_seconds = (median(r->narrow_seconds, r->n_rounds + 1) - median(r->wide_seconds, r->n_rounds + 1) * ratio) /
                      (narrow_work.n_nodes - wide_work.n_nodes * ratio);
    if (r->node_seconds < 0)
        r->node_seconds = 0;
    return CABE_OK;
}

static enum cabe_status measure_product(struct rates *r, enum cabe_dtype dtype, enum cabe_precision precision,
                                        struct cabe_error *err)
{
    const struct {
        const char *name;
        int64_t width, rows;
        uint64_t bytes;
    } sizes[] = {{"read", WIDTH, 1, r->weight_bytes * 9 / 10},
                 {"few", CABE_RATE_WIDE, CABE_RATE_FEW, r->weight_bytes / 2},
                 {"ops", CABE_RATE_WIDE, CABE_RATE_MANY, MANY_BYTES},
                 {"few_narrow", CABE_RATE_NARROW, CABE_RATE_FEW, r->weight_bytes / 4},
                 {"ops_narrow", CABE_RATE_NARROW, CABE_RATE_MANY, MANY_BYTES / 2}};
    char name[CABE_RATE_NAME_MAX];
    struct cabe_graph_work work;
    enum cabe_status status = CABE_OK;
    double seconds;

    for (int i = 0; i < 5 && status == CABE_OK; i++) {
        status = time_products(r, dtype, precision, sizes[i].width, sizes[i].rows, r->config->quick ? 1 : sizes[i].bytes, &work,
                               &seconds, err);
        if (status == CABE_OK)
            add_rate(r, cabe_rate_of_product(sizes[i].name, dtype, precision, name), i == 0 ? BY_MEMORY : BY_CPU,
                     i == 0 ? work.matmul_bytes[dtype][precision] : work.matmul_ops[dtype][precision],
                     without_nodes(r, seconds, &work));
    }
    return status;
}

static enum cabe_status measure_products(struct rates *r, struct cabe_error *err)
{
    static const enum cabe_dtype dtypes[] = {CABE_F32,  CABE_F16,  CABE_BF16, CABE_I8,  CABE_Q8_0,
                                             CABE_Q4_0, CABE_Q4_1, CABE_Q4_K, CABE_Q6_K};
    enum cabe_status status = CABE_OK;

    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        for (int p = 0; p < 2 && status == CABE_OK; p++) {
            if (p == CABE_PRECISION_INT8 && !cabe_matmul_quantises(dtypes[i], CABE_PRECISION_INT8))
                continue;
            cabe_progress_report(r->config->progress, "measure", (uint64_t)r->n_done++, (uint64_t)r->n_all, "rates");
            status = measure_product(r, dtypes[i], (enum cabe_precision)p, err);
        }
    return status;
}

/* ---- everything else of a layer ---- */

static enum cabe_status measure_rows(struct rates *r, const char *name, int64_t rows, struct cabe_error *err)
{
    const struct cabe_dim tokens = {1, CABE_SYM_TOKENS, 0}, cols = {2 * WIDTH, CABE_SYM_ONE, 0};
    struct sample s = {.symbols = {1, rows, 1}};
    struct cabe_graph_work work;
    enum cabe_status status = cabe_graph_open(&s.graph, err);
    cabe_value x, gamma;
    double seconds;

    if (status != CABE_OK)
        return status;
    x = cabe_graph_input(s.graph, "x", CABE_F32, tokens, cols);
    gamma = cabe_graph_weight(s.graph, "gamma", CABE_F32, CABE_ROWS, 1, 2 * WIDTH);
    for (int i = 0; i < NORMS; i++)
        x = cabe_graph_norm(s.graph, x, gamma, CABE_NO_VALUE, CABE_NO_VALUE, CABE_NORM_RMS, 1e-5f);
    cabe_graph_output(s.graph, cabe_graph_glu(s.graph, x, CABE_ACT_SILU), "y");
    status = compile(r, &s, err);
    if (status == CABE_OK)
        status = fill_input(&s, "x", rows * 2 * WIDTH, err);
    if (status == CABE_OK)
        status = time_sample(r, &s, BY_CPU, &seconds, err);
    if (status == CABE_OK) {
        cabe_graph_work(s.graph, s.symbols, &work);
        add_rate(r, name, BY_CPU, work.other_ops, seconds); /* nodes of rows alone have no barriers between them */
    }
    close_sample(&s);
    return status;
}

/* ---- attention ---- */

#define KV_HEADS 4
#define HEAD_DIM 64
#define KV_BYTES (UINT64_C(64) << 20) /* past the caches */
#define SLOTS 2048
#define ROWS_LAYERS 4 /* computing is all, with many rows */
#define ATTEND_ROWS 64

static struct cabe_graph *attention_graph(const struct cabe_kv_shape *shape, int32_t heads, struct cabe_error *err)
{
    const struct cabe_dim one = {1, CABE_SYM_ONE, 0}, two = {2, CABE_SYM_ONE, 0}, tokens = {1, CABE_SYM_TOKENS, 0};
    const struct cabe_dim sequences = {1, CABE_SYM_SEQUENCES, 0}, ends = {1, CABE_SYM_SEQUENCES, 1};
    const struct cabe_dim pages = {1, CABE_SYM_PAGES, 0};
    const struct cabe_dim cols = {(heads + 2 * KV_HEADS) * HEAD_DIM, CABE_SYM_ONE, 0};
    cabe_value qkv, cache, offsets, starts, page_offsets, table, y = CABE_NO_VALUE;
    struct cabe_graph *g;

    if (cabe_graph_open(&g, err) != CABE_OK)
        return NULL;
    qkv = cabe_graph_input(g, "qkv", CABE_F32, tokens, cols);
    offsets = cabe_graph_input(g, "offsets", CABE_I32, one, ends);
    starts = cabe_graph_input(g, "starts", CABE_I32, one, sequences);
    page_offsets = cabe_graph_input(g, "page_offsets", CABE_I32, one, ends);
    table = cabe_graph_input(g, "pages", CABE_I32, pages, two);
    cache = cabe_graph_state(g, "cache", shape);
    for (int layer = 0; layer < shape->n_layers; layer++)
        y = cabe_graph_cached(g, qkv, cache, offsets, starts, page_offsets, table, layer, heads, KV_HEADS, HEAD_DIM, 0.125f,
                              0);
    cabe_graph_output(g, y, "y");
    return g;
}

static enum cabe_status give_pages(struct sample *s, enum cabe_kv_format format, int64_t page_bytes, int32_t rows,
                                   struct cabe_error *err)
{
    struct cabe_page pages[SLOTS / CABE_PAGE_TOKENS];
    int32_t offsets[2] = {0, rows}, start = SLOTS - rows, page_offsets[2] = {0, SLOTS / CABE_PAGE_TOKENS};
    const struct {
        const char *name;
        const void *data;
        uint64_t bytes;
    } inputs[] = {{"offsets", offsets, sizeof offsets},
                  {"starts", &start, sizeof start},
                  {"page_offsets", page_offsets, sizeof page_offsets},
                  {"pages", pages, sizeof pages}};
    enum cabe_status status = CABE_OK;

    for (int i = 0; i < SLOTS / CABE_PAGE_TOKENS; i++)
        pages[i] = (struct cabe_page){(uint32_t)(i * page_bytes / CABE_PAGE_UNIT), cabe_page_formats(format, format)};
    for (size_t i = 0; i < sizeof inputs / sizeof inputs[0] && status == CABE_OK; i++)
        status = cabe_program_upload(s->program, cabe_graph_find(s->graph, inputs[i].name), inputs[i].data,
                                     inputs[i].bytes, err);
    return status;
}

static enum cabe_status measure_attention(struct rates *r, const char *what, enum cabe_kv_format format, int32_t group,
                                          int32_t rows, struct cabe_error *err)
{
    const uint64_t layer_bytes = KV_HEADS * cabe_kv_pair_bytes(format, format, HEAD_DIM) * SLOTS / CABE_PAGE_TOKENS;
    const int32_t n_layers = rows > 1 || r->config->quick ? ROWS_LAYERS : (int32_t)(KV_BYTES / layer_bytes);
    const struct cabe_kv_shape shape = {n_layers, KV_HEADS, HEAD_DIM};
    const enum bound bound = rows > 1 ? BY_CPU : BY_MEMORY;
    struct sample s = {.symbols = {1, rows, 1}};
    uint64_t page_bytes = cabe_page_bytes(format, format, &shape);
    char name[CABE_RATE_NAME_MAX];
    struct cabe_graph_work work;
    enum cabe_status status;
    double seconds;

    s.symbols[CABE_SYM_PAGES] = SLOTS / CABE_PAGE_TOKENS;
    s.graph = attention_graph(&shape, group * KV_HEADS, err);
    if (!s.graph)
        return CABE_ERR_OOM;
    status = compile(r, &s, err);
    if (status == CABE_OK)
        status = cabe_buffer_alloc(&s.cache, r->device, page_bytes * SLOTS / CABE_PAGE_TOKENS, CABE_PURPOSE_KV,
                                   "rates", err);
    if (status == CABE_OK)
        status = cabe_program_bind(s.program, cabe_graph_find(s.graph, "cache"), s.cache, err);
    if (status == CABE_OK)
        status = fill_input(&s, "qkv", rows * (group + 2) * KV_HEADS * HEAD_DIM, err);
    if (status == CABE_OK)
        status = give_pages(&s, format, (int64_t)page_bytes, rows, err);
    if (status == CABE_OK)
        status = time_sample(r, &s, bound, &seconds, err);
    if (status == CABE_OK) {
        cabe_graph_work(s.graph, s.symbols, &work);
        add_rate(r, cabe_rate_of_attention(what, (int)format, name), bound, work.attention_ops[rows > 1],
                 without_nodes(r, seconds, &work));
    }
    close_sample(&s);
    return status;
}

static enum cabe_status measure_attentions(struct rates *r, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;

    for (int format = 0; format < CABE_N_KV_FORMATS && status == CABE_OK; format++) {
        const enum cabe_kv_format kv = (enum cabe_kv_format)format;

        status = measure_attention(r, "attend", kv, CABE_RATE_GROUP_FEW, 1, err);
        if (status == CABE_OK)
            status = measure_attention(r, "attend_group", kv, CABE_RATE_GROUP_MANY, 1, err);
        if (status == CABE_OK)
            status = measure_attention(r, "attend_rows", kv, CABE_RATE_GROUP_FEW, ATTEND_ROWS, err);
    }
    return status;
}

/* ---- drawing ---- */

static enum cabe_status measure_draw(struct rates *r, struct cabe_error *err)
{
    int n = r->config->quick ? 1 : RUNS;
    struct cabe_sampling sampling;
    struct cabe_sampled sampled;
    struct cabe_sampler *sampler;
    double taken[RUNS];
    float *logits = cabe_malloc(VOCABULARY * sizeof *logits);
    enum cabe_status status = cabe_sampler_open(&sampler, VOCABULARY, err);

    if (status == CABE_OK && !logits)
        status = cabe_fail(err, CABE_ERR_OOM, "rates: logits");
    cabe_sampling_defaults(&sampling);
    for (uint32_t i = 0; status == CABE_OK && i < VOCABULARY; i++)
        logits[i] = (float)(i * 2654435761u >> 16) / 4096.0f;
    for (int i = -1; i < n && status == CABE_OK; i++) {
        uint64_t begin_ns = cabe_clock_ns();

        status = cabe_sample(sampler, &sampling, logits, VOCABULARY, NULL, 0, 0, (uint64_t)(i + 1), &sampled, err);
        if (i >= 0)
            taken[i] = (double)(cabe_clock_ns() - begin_ns) / 1e9;
    }
    if (status == CABE_OK)
        add_rate(r, "draw", BY_CPU, VOCABULARY, median(taken, n));
    cabe_sampler_close(sampler);
    cabe_free(logits);
    return status;
}

/* ---- files ---- */

static double time_reading(int fd, uint8_t *to, uint64_t bytes)
{
    uint64_t begin_ns = cabe_clock_ns();

    for (uint64_t at = 0; at < bytes; at += FILE_PIECE)
        if (pread(fd, to + at, FILE_PIECE, (off_t)at) != (ssize_t)FILE_PIECE)
            return 0;
    return (double)(cabe_clock_ns() - begin_ns) / 1e9;
}

/* As streamed weights are read: pieces of 4 MiB, one behind the other, past the page cache or out of it. */
static void measure_files(struct rates *r)
{
    uint64_t bytes = r->config->quick ? FILE_PIECE : FILE_BYTES;
    char path[1100];
    int fd, direct;

    if (!r->config->folder ||
        snprintf(path, sizeof path, "%s/cabe-rates-XXXXXX", r->config->folder) >= (int)sizeof path || (fd = mkstemp(path)) < 0)
        return;
    direct = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    unlink(path);
    for (uint64_t at = 0; at < bytes; at += FILE_PIECE)
        if (pwrite(fd, r->weights, FILE_PIECE, (off_t)at) != (ssize_t)FILE_PIECE)
            bytes = 0;
    if (bytes > 0 && fdatasync(fd) == 0) {
        time_reading(fd, r->weights, bytes);
        for (int i = 0; i < ROUNDS; i++)
            add_rate(r, "file", BY_CPU, (double)bytes, time_reading(fd, r->weights, bytes));
        if (direct >= 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0)
            for (int i = 0; i < ROUNDS; i++)
                add_rate(r, "disk", BY_CPU, (double)bytes, time_reading(direct, r->weights, bytes));
    }
    if (direct >= 0)
        close(direct);
    close(fd);
}

static enum cabe_status one_round(struct rates *r, struct cabe_error *err)
{
    enum cabe_status status = measure_nodes(r, err);

    if (status == CABE_OK)
        status = measure_products(r, err);
    if (status == CABE_OK)
        status = measure_rows(r, "row", 1, err);
    if (status == CABE_OK)
        status = measure_rows(r, "rows", CABE_RATE_MANY, err);
    return status == CABE_OK ? measure_attentions(r, err) : status;
}

static enum cabe_status open_device(struct rates *r, const struct cabe_machine *machine, struct cabe_error *err)
{
    struct cabe_ledger_config ledger = {.n_devices = 1, .budget_bytes = {CABE_UNLIMITED}};
    struct cabe_device_config device = {.ledger_device = CABE_HOST};
    enum cabe_status status = cabe_kernels_choose(&device.kernels, err);

    if (status == CABE_OK)
        status = cabe_ledger_open(&r->ledger, &ledger, err);
    if (status == CABE_OK)
        status = cabe_team_open(&r->team, cabe_machine_threads(machine), err);
    if (status != CABE_OK)
        return status;
    device.ledger = r->ledger;
    device.team = r->team;
    status = cabe_cpu_device_open(&r->device, &device, err);
    if (status == CABE_OK)
        status = cabe_read_meter_open(&r->meter, machine, r->team, METER_BYTES, err);
    if (status == CABE_OK)
        read_meter(r);
    return status;
}

enum cabe_status cabe_rates_measure(struct cabe_machine *machine, const struct cabe_rates_config *config,
                                    struct cabe_error *err)
{
    struct rates r = {.config = config, .n_all = ROUNDS * 16, .weight_bytes = config->quick ? UINT64_C(20) << 20 : WEIGHT_BYTES};
    void *memory = NULL;
    uint64_t begin_ns;
    enum cabe_status status = open_device(&r, machine, err);

    if (status == CABE_OK)
        status = cabe_pages_map(&memory, r.weight_bytes, 1, err);
    if (status == CABE_OK) {
        r.weights = memory;
        memset(r.weights, 0x11, r.weight_bytes);
    }
    /* On a busy machine a round takes long: then there are fewer of them. */
    for (begin_ns = cabe_clock_ns(); r.n_rounds < (config->quick ? 1 : ROUNDS) && status == CABE_OK &&
                                     (r.n_rounds == 0 || cabe_clock_ns() - begin_ns < ROUNDS_NS);
         r.n_rounds++)
        status = one_round(&r, err);
    if (status == CABE_OK)
        status = measure_draw(&r, err);
    if (status == CABE_OK) {
        add_rate(&r, "nodes", BY_CPU, 1, r.node_seconds);
        measure_files(&r);
        conclude(&r, &machine->limits);
    }
    cabe_pages_unmap(memory, r.weight_bytes);
    cabe_read_meter_close(r.meter);
    cabe_device_close(r.device);
    cabe_team_close(r.team);
    cabe_ledger_close(r.ledger);
    return status;
}
