#include "fit/seconds.h"

#include <math.h>
#include <stdio.h>

#include "kernel/attention.h"
#include "tensor/pages.h"

const char *cabe_rate_of_product(const char *what, enum cabe_dtype dtype, enum cabe_precision precision,
                                 char out[CABE_RATE_NAME_MAX])
{
    snprintf(out, CABE_RATE_NAME_MAX, "%s %s %s", what, cabe_dtype_name(dtype),
             precision == CABE_PRECISION_HIGH ? "high" : "int8");
    return out;
}

const char *cabe_rate_of_attention(const char *what, int kv_format, char out[CABE_RATE_NAME_MAX])
{
    snprintf(out, CABE_RATE_NAME_MAX, "%s %s", what, cabe_kv_format_name((enum cabe_kv_format)kv_format));
    return out;
}

struct here { /* a machine and how much of it is used */
    const struct cabe_machine *machine;
    int n_threads;
    double f32_s, int8_s, read_s;  /* its limits */
    double ops_share, read_share; /* of what all threads do */
    double cpu;
};

static struct here look_at(const struct cabe_machine *m, int n_threads, struct cabe_tempo tempo)
{
    struct here h = {.machine = m,
                     .n_threads = n_threads > 0 ? n_threads : 1,
                     .f32_s = cabe_machine_ops_s(m, CABE_ARITH_F32, n_threads),
                     .int8_s = cabe_machine_ops_s(m, CABE_ARITH_INT8, n_threads),
                     .read_s = cabe_machine_read_bytes_s(m, n_threads),
                     .ops_share = 1,
                     .read_share = 1,
                     .cpu = tempo.cpu};
    double all_ops = m->limits.all_ops_s[CABE_ARITH_F32], all_read = m->limits.read_all_bytes_s;

    if (all_ops > 0)
        h.ops_share = h.f32_s / all_ops;
    if (all_read > 0)
        h.read_share = h.read_s / all_read;
    h.f32_s *= tempo.cpu;
    h.int8_s *= tempo.cpu;
    h.ops_share *= tempo.cpu;
    h.read_s *= tempo.memory;
    h.read_share *= tempo.memory;
    return h;
}

/* `amount` at the named rate, else at `limit`; 0 where neither is known. */
static double seconds_at(const struct here *h, double amount, const char *name, double share, double limit)
{
    double rate = cabe_machine_rate(h->machine, name) * share;

    if (!(rate > 0))
        rate = limit;
    return rate > 0 && amount > 0 ? amount / rate : 0;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/*
 * `n` rows of products, as measured with so many: an output costs something for each of its inputs and something besides,
 * a line through what was measured with few inputs and with many.
 */
static double of_rows(const struct here *h, const struct cabe_graph_work *w, enum cabe_dtype dtype,
                      enum cabe_precision precision, int n, double limit)
{
    const double values = w->matmul_values[dtype][precision], ops = 2 * values * n;
    const double wide = 1.0 / CABE_RATE_WIDE, narrow = 1.0 / CABE_RATE_NARROW;
    double each = values > 0 ? w->matmul_outputs[dtype][precision] / values : wide, a, b; /* outputs an input */
    char name[CABE_RATE_NAME_MAX];

    cabe_rate_of_product(n == CABE_RATE_FEW ? "few_narrow" : "ops_narrow", dtype, precision, name);
    b = cabe_machine_rate(h->machine, name) > 0 ? seconds_at(h, ops, name, h->ops_share, limit) : 0;
    a = seconds_at(h, ops, cabe_rate_of_product(n == CABE_RATE_FEW ? "few" : "ops", dtype, precision, name), h->ops_share,
                   limit);
    each = each > wide ? each : wide;
    return b > a ? a + (b - a) * (each - wide) / (narrow - wide) : a;
}

/*
 * Products with weights of one kind. Measured are one row, a few and many; between them a row more costs what lies
 * between. Where nothing is measured a product is done when it has computed and its weights have been read, at once.
 */
static double of_product(const struct here *h, const struct cabe_graph_work *w, enum cabe_dtype dtype,
                         enum cabe_precision precision)
{
    const double ops = w->matmul_ops[dtype][precision], values = w->matmul_values[dtype][precision];
    const double rows = values > 0 ? ops / (2 * values) : 1, limit = precision == CABE_PRECISION_INT8 ? h->int8_s : h->f32_s;
    char name[CABE_RATE_NAME_MAX];
    double one, few, many;

    one = seconds_at(h, w->matmul_bytes[dtype][precision], cabe_rate_of_product("read", dtype, precision, name),
                     h->read_share, h->read_s);
    many = of_rows(h, w, dtype, precision, CABE_RATE_MANY, limit);
    if (!(cabe_machine_rate(h->machine, cabe_rate_of_product("few", dtype, precision, name)) > 0) || !(values > 0))
        return larger(one, seconds_at(h, ops, "", 1, limit));
    few = larger(one, of_rows(h, w, dtype, precision, CABE_RATE_FEW, limit));
    many = larger(few, many);
    if (rows >= CABE_RATE_MANY)
        return many * rows / CABE_RATE_MANY;
    if (rows >= CABE_RATE_FEW)
        return few + (many - few) * (rows - CABE_RATE_FEW) / (CABE_RATE_MANY - CABE_RATE_FEW);
    return rows > 1 ? one + (few - one) * (rows - 1) / (CABE_RATE_FEW - 1) : one;
}

static double of_products(const struct here *h, const struct cabe_graph_work *w)
{
    double seconds = 0;

    for (int dtype = 0; dtype < CABE_N_DTYPES; dtype++)
        for (int p = 0; p < 2; p++)
            if (w->matmul_ops[dtype][p] > 0)
                seconds += of_product(h, w, (enum cabe_dtype)dtype, (enum cabe_precision)p);
    return seconds;
}

/*
 * One row a sequence. What a slot of a kv head takes is reading it, and then something for every head that shares it: a
 * line through two such numbers of heads, and no less than with the fewer, because then reading is all.
 */
static double of_one_row(const struct here *h, const struct cabe_graph_work *w)
{
    const double heads = w->kv_values > 0 ? w->attention_ops[0] / (2 * w->kv_values) : CABE_RATE_GROUP_FEW;
    char name[CABE_RATE_NAME_MAX];
    double few = seconds_at(h, w->attention_ops[0] * (CABE_RATE_GROUP_FEW / heads),
                            cabe_rate_of_attention("attend", w->kv_format, name), h->read_share, h->f32_s);
    double many = seconds_at(h, w->attention_ops[0] * (CABE_RATE_GROUP_MANY / heads),
                             cabe_rate_of_attention("attend_group", w->kv_format, name), h->read_share, h->f32_s);

    if (!(w->attention_ops[0] > 0))
        return 0;
    if (!(cabe_machine_rate(h->machine, name) > 0))
        return few * heads / CABE_RATE_GROUP_FEW;
    if (heads <= CABE_RATE_GROUP_FEW)
        return few;
    many = larger(few, many);
    return few + (many - few) * (heads - CABE_RATE_GROUP_FEW) / (CABE_RATE_GROUP_MANY - CABE_RATE_GROUP_FEW);
}

/*
 * How much longer it takes than if threads were never left without work: a thread takes a kv head, so that three keep two
 * threads as long as four would; or, of longer contexts, a part, and at most one is waited for.
 */
static double waiting(const struct here *h, const struct cabe_graph_work *w)
{
    double heads = w->attention_heads, threads = h->n_threads, by_heads, by_parts;

    if (!(heads > 0 && w->attention_slots > 0))
        return 1;
    by_heads = ceil(heads / threads) * threads / heads;
    by_parts = 1 + CABE_ATTEND_PART * (threads - 1) / (heads * w->attention_slots);
    return by_heads < by_parts ? by_heads : by_parts;
}

static double of_attention(const struct here *h, const struct cabe_graph_work *w)
{
    char name[CABE_RATE_NAME_MAX];
    double one = of_one_row(h, w) * waiting(h, w);
    double many = seconds_at(h, w->attention_ops[1], cabe_rate_of_attention("attend_rows", w->kv_format, name),
                             h->ops_share, h->f32_s);

    return larger(one + many, h->read_s > 0 ? w->kv_bytes / h->read_s : 0);
}

/* Where the run has one row, one thread does it. */
static double of_others(const struct here *h, const struct cabe_graph_work *w)
{
    double all = seconds_at(h, w->other_ops, "rows", h->ops_share, h->f32_s);

    return w->rows > 0 && cabe_machine_rate(h->machine, "row") > 0
               ? larger(all, seconds_at(h, w->other_ops / w->rows, "row", h->cpu, h->f32_s))
               : all;
}

/*
 * Streamed segments are the last but for a head. The first of them is read while what stays computes, each of the
 * others while the one before it does. To copy out of the page cache, though, is work of a core and of memory, which the
 * products have in full use: that takes its own time.
 */
static double streamed(const struct here *h, const struct cabe_graph_work *w, double computing)
{
    double rate = cabe_machine_rate(h->machine, w->stream_direct ? "disk" : "file"), reading, each, own;

    if (!(rate > 0))
        return 0;
    reading = w->stream_bytes / rate / w->n_streamed;
    own = w->weight_bytes > w->stream_bytes ? w->stream_bytes / w->weight_bytes : 1;
    each = computing * own / w->n_streamed;
    if (!w->stream_direct)
        return computing + w->n_streamed * reading;
    return larger(computing * (1 - own), reading) + (w->n_streamed - 1) * larger(reading, each) + each;
}

double cabe_fit_seconds_at(const struct cabe_machine *machine, int n_threads, const struct cabe_graph_work *w,
                           struct cabe_tempo tempo)
{
    struct here h = look_at(machine, n_threads, tempo);
    double seconds = of_products(&h, w) + of_attention(&h, w);

    seconds += of_others(&h, w);
    seconds += seconds_at(&h, w->n_nodes, "nodes", h.cpu, 0);
    seconds += seconds_at(&h, w->drawn, "draw", h.cpu, 0);
    if (h.read_s > 0 && !(seconds > w->weight_bytes / h.read_s))
        seconds = w->weight_bytes / h.read_s;
    return w->n_streamed > 0 ? streamed(&h, w, seconds) : seconds;
}

double cabe_fit_seconds(const struct cabe_machine *machine, int n_threads, const struct cabe_graph_work *work)
{
    return cabe_fit_seconds_at(machine, n_threads, work, (struct cabe_tempo){1, 1});
}
