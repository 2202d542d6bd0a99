#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "fit/seconds.h"
#include "generation.h"
#include "machine/limits.h"
#include "machine/pressure.h"
#include "options.h"
#include "task/generator.h"

enum { OPTION_TESTS = 1, OPTION_REPEATS };

static const struct option long_options[] = {
    CLI_COMMON_OPTIONS,
    CLI_MODEL_OPTIONS,
    {"kv", required_argument, NULL, CLI_KV},
    {"tests", required_argument, NULL, OPTION_TESTS},
    {"repeats", required_argument, NULL, OPTION_REPEATS},
    {NULL, 0, NULL, 0},
};

#define TESTS_MAX 32
#define REPEATS_MAX 100
#define TESTS_DEFAULT "pp512,tg64,tg32@1024,tg32@4096,tg32x8"

struct test {
    char name[32];
    int is_prompt;
    int64_t n, depth;
    int32_t n_seqs;
    double rate[REPEATS_MAX]; /* tokens/s, all sequences together */
    double predicted;         /* tokens/s; 0: not known */
    double predicted_now;     /* on a machine that is as it was around the test; 0: not known */
    double limit[REPEATS_MAX]; /* tokens/s if nothing were done but reading, as fast as memory was read around it; 0: none */
    double read_s[REPEATS_MAX]; /* that rate, in bytes; 0: not measured */
    double cpu[REPEATS_MAX];    /* share of the CPUs' time that others, and the host, did not take */
};

struct bench {
    struct cli_options options;
    struct cli_generation generation;
    const char *model;
    struct test tests[TESTS_MAX];
    int n_tests, repeats;
    struct cabe_generator *generator;
    struct cabe_read_meter *meter; /* NULL: no memory for it */
    struct cabe_pressure_meter pressure;
    uint64_t peak_bytes;           /* of the process before the meter took its memory */
    int32_t *prompt;
};

#define METER_BYTES (UINT64_C(256) << 20)
#define METER_SECONDS 0.2
#define METER_PLACE "read meter"

/* ---- tests: ppN, tgN, tgN@D, tgNxS ---- */

static int take_number(const char **at, int64_t *out)
{
    char *end;

    *out = strtoll(*at, &end, 10);
    if (end == *at || *out < 1 || *out > 1 << 20)
        return 0;
    *at = end;
    return 1;
}

static int take_test(struct test *test, const char *name, size_t length)
{
    const char *at = name + 2;
    int64_t n_seqs = 1;

    memset(test, 0, sizeof *test);
    if (length < 3 || length >= sizeof test->name)
        return 0;
    memcpy(test->name, name, length);
    test->is_prompt = strncmp(name, "pp", 2) == 0;
    if ((!test->is_prompt && strncmp(name, "tg", 2) != 0) || !take_number(&at, &test->n))
        return 0;
    if (at < name + length && *at == '@' && (at++, !take_number(&at, &test->depth)))
        return 0;
    if (at < name + length && *at == 'x' && (at++, test->is_prompt || !take_number(&at, &n_seqs) || n_seqs > 64))
        return 0;
    test->n_seqs = (int32_t)n_seqs;
    return at == name + length;
}

static int take_tests(struct bench *b, const char *list)
{
    for (b->n_tests = 0; *list;) {
        size_t length = strcspn(list, ",");

        if (b->n_tests == TESTS_MAX || !take_test(&b->tests[b->n_tests++], list, length)) {
            cli_usage(&cabe_cmd_bench, "--tests: '%.*s': wanted ppN, ppN@D, tgN, tgN@D or tgNxS, at most %d", (int)length,
                      list, TESTS_MAX);
            return -1;
        }
        list += length + (list[length] == ',');
    }
    return 1;
}

/* ---- measuring ---- */

static int64_t context_of(const struct test *test)
{
    return test->depth + test->n + 2;
}

/* A prompt that says nothing: speed does not depend on it. */
static void fill_prompt(int32_t *prompt, int64_t n, int64_t n_vocab, uint32_t seed)
{
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        prompt[i] = (int32_t)(seed % (uint32_t)(n_vocab < 1000 ? n_vocab : 1000));
    }
}

static enum cabe_status step(struct cabe_engine *engine, struct cabe_error *err)
{
    return cabe_engine_step(engine, &cli_cancel, err);
}

/* Seconds of the test; sequences are added, brought to their depth, and then timed. */
static enum cabe_status time_test(struct bench *b, const struct test *test, uint32_t seed, double *seconds,
                                  struct cabe_error *err)
{
    struct cabe_engine *engine = cabe_generator_engine(b->generator);
    int64_t n_prompt = test->is_prompt ? test->depth + test->n : test->depth > 0 ? test->depth : 1, timed = 0;
    struct cabe_request request = {.prompt = b->prompt, .n_prompt = n_prompt, .shift_keep = -1, .fresh = 1};
    enum cabe_status status = CABE_OK;
    struct cabe_engine_view view = {0};
    uint64_t begin_ns;
    int32_t slots[64], n = 0;

    cabe_sampling_defaults(&request.sampling);
    request.sampling.temperature = 0;
    request.max_new = test->is_prompt ? 1 : test->n + 1;
    for (; n < test->n_seqs && status == CABE_OK; n++) {
        fill_prompt(b->prompt, n_prompt, cabe_model_config(cabe_generator_model(b->generator))->n_vocab,
                    seed + (uint32_t)n);
        request.sequence = (uint64_t)n;
        status = cabe_engine_add(engine, &request, &slots[n], err);
    }
    /* A test of decoding begins when every prompt is done and has its first token; one of prompts behind its depth. */
    while (status == CABE_OK) {
        int ready = 1;

        for (int32_t i = 0; i < n; i++) {
            cabe_engine_view(engine, slots[i], &view);
            ready &= test->is_prompt ? view.n_done >= test->depth : view.n_new > 0;
        }
        if (ready)
            break;
        status = step(engine, err);
    }
    timed = test->is_prompt ? view.n_done : 0;
    begin_ns = cabe_clock_ns();
    while (status == CABE_OK && cabe_engine_n_running(engine) > 0)
        status = step(engine, err);
    *seconds = (double)(cabe_clock_ns() - begin_ns) / 1e9;
    if (test->is_prompt) /* what of it was already done when the clock began */
        *seconds *= (double)test->n / (double)(n_prompt - timed);
    for (int32_t i = 0; i < n; i++)
        cabe_engine_remove(engine, slots[i]);
    return status;
}

/* Seconds that a step of `n` tokens is predicted to take; 0: not known. */
static double seconds_of(struct bench *b, const struct cabe_session *session, const struct cabe_knobs *knobs, int64_t n,
                         int64_t n_seqs, int64_t context, struct cabe_tempo tempo)
{
    struct cabe_graph_work work = {0};

    if (cabe_generator_work(b->generator, knobs, n, n_seqs, context, &work, NULL) != CABE_OK)
        return 0;
    return cabe_fit_seconds_at(&session->machine, session->n_threads, &work, tempo);
}

static double prediction_of(struct bench *b, const struct cabe_session *session, const struct cabe_knobs *knobs,
                            const struct test *test, struct cabe_tempo tempo)
{
    int64_t batch = knobs->value[CABE_KNOB_BATCH];
    double seconds = 0, piece;

    if (!test->is_prompt) {
        seconds = seconds_of(b, session, knobs, test->n_seqs, test->n_seqs, test->depth + test->n / 2, tempo);
        return seconds > 0 ? test->n_seqs / seconds : 0;
    }
    for (int64_t done = 0; done < test->n; done += batch) {
        int64_t n = test->n - done < batch ? test->n - done : batch;

        piece = seconds_of(b, session, knobs, n, 1, test->depth + done + n, tempo);
        if (!(piece > 0))
            return 0;
        seconds += piece;
    }
    return (double)test->n / seconds;
}

/* Bytes that a step of the test reads for one token of its result; 0: not known, or a prompt. */
static double read_bytes_of(struct bench *b, const struct cabe_knobs *knobs, const struct test *test)
{
    struct cabe_graph_work work = {0};

    if (test->is_prompt || cabe_generator_work(b->generator, knobs, test->n_seqs, test->n_seqs,
                                               test->depth + test->n / 2, &work, NULL) != CABE_OK)
        return 0;
    return (work.weight_bytes + work.kv_bytes) / test->n_seqs;
}

/* Share of the CPUs' time since it was asked before that only this process had a use for. */
static double cpu_left(struct bench *b, const struct cabe_session *session)
{
    const struct cabe_planned planned = {.threads = session->n_threads};
    struct cabe_pressure pressure;

    cabe_pressure_read(&pressure, &b->pressure, &planned, NULL);
    return pressure.cpu_percent >= 0 && pressure.cpu_percent < 100 ? 1 - pressure.cpu_percent / 100 : 1;
}

/* The test once, how fast memory is read before and after it, and what else ran meanwhile. */
static enum cabe_status repeat(struct bench *b, const struct cabe_session *session, const struct cabe_knobs *knobs,
                               struct test *test, int r, struct cabe_error *err)
{
    double bytes = read_bytes_of(b, knobs, test), before = 0, seconds = 0;
    enum cabe_status status;

    if (b->meter)
        before = cabe_read_meter_bytes_s(b->meter, METER_SECONDS);
    (void)cpu_left(b, session);
    status = time_test(b, test, (uint32_t)(r * 64 + 2), &seconds, err);
    if (status != CABE_OK)
        return status;
    test->cpu[r] = cpu_left(b, session);
    test->rate[r] = (double)test->n * test->n_seqs / seconds;
    if (b->meter)
        test->read_s[r] = (before + cabe_read_meter_bytes_s(b->meter, METER_SECONDS)) / 2;
    test->limit[r] = bytes > 0 ? test->read_s[r] / bytes : 0;
    return CABE_OK;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, by_size);
    return values[n / 2];
}

/* What is predicted, and what would be on the machine as it was meanwhile. */
static void predict(struct bench *b, const struct cabe_session *session, const struct cabe_knobs *knobs, struct test *test)
{
    double usual = cabe_machine_rate(&session->machine, "memory"), read_s = median(test->read_s, b->repeats);
    struct cabe_tempo tempo = {1, median(test->cpu, b->repeats)};

    test->predicted = prediction_of(b, session, knobs, test, (struct cabe_tempo){1, 1});
    if (!(usual > 0 && read_s > 0))
        return;
    tempo.memory = read_s / usual;
    test->predicted_now = prediction_of(b, session, knobs, test, tempo);
}

static enum cabe_status measure(struct bench *b, const struct cabe_session *session, const struct cabe_knobs *knobs,
                                struct cabe_error *err)
{
    struct cabe_progress progress = cli_progress();
    enum cabe_status status = CABE_OK;
    double seconds;

    for (int i = 0; i < b->n_tests && status == CABE_OK; i++) {
        struct test warm = b->tests[i];

        warm.n = warm.n < 8 ? warm.n : 8;
        warm.depth = 0;
        status = time_test(b, &warm, 1, &seconds, err);
    }
    for (int r = 0; r < b->repeats; r++)
        for (int i = 0; i < b->n_tests && status == CABE_OK; i++) {
            status = repeat(b, session, knobs, &b->tests[i], r, err);
            cabe_progress_report(&progress, "measuring", (uint64_t)(r * b->n_tests + i + 1),
                                 (uint64_t)(b->repeats * b->n_tests), "tests");
        }
    for (int i = 0; i < b->n_tests && status == CABE_OK; i++)
        predict(b, session, knobs, &b->tests[i]);
    cli_progress_end();
    return status;
}

/* Orders the test's rates; its median share of the limit, or 0. */
static double conclude(struct test *test, int n)
{
    double share[REPEATS_MAX];

    for (int r = 0; r < n; r++)
        share[r] = test->limit[r] > 0 ? test->rate[r] / test->limit[r] : 0;
    qsort(test->rate, (size_t)n, sizeof *test->rate, by_size);
    qsort(test->limit, (size_t)n, sizeof *test->limit, by_size);
    return median(share, n);
}

static void print_or_dash(int width, double value, const char *format)
{
    char text[32] = "-";

    if (value > 0)
        snprintf(text, sizeof text, format, value);
    printf(" %*s", width, text);
}

static json_t *real_or_null(double value)
{
    return value > 0 ? json_real(value) : json_null();
}

static void report(struct bench *b, const struct cabe_session *session, const struct cabe_plan *plan)
{
    json_t *results = json_array();

    if (!b->options.json)
        printf("%s, %d threads, %s; median of %d\n\n%-12s %10s %10s %10s %10s %10s %10s\n", b->model, session->n_threads,
               session->kernels->name, b->repeats, "test", "tokens/s", "least", "most", "predicted", "at tempo",
               "of limit");
    for (int i = 0; i < b->n_tests; i++) {
        struct test *test = &b->tests[i];
        double share = conclude(test, b->repeats), middle = test->rate[b->repeats / 2], limit = test->limit[b->repeats / 2];

        if (!b->options.json) {
            printf("%-12s %10.2f %10.2f %10.2f", test->name, middle, test->rate[0], test->rate[b->repeats - 1]);
            print_or_dash(10, test->predicted, "%.2f");
            print_or_dash(10, test->predicted_now, "%.2f");
            print_or_dash(10, 100 * share, "%.0f%%");
            putchar('\n');
            continue;
        }
        json_array_append_new(
            results, json_pack("{s:s,s:f,s:f,s:f,s:o,s:o,s:o,s:o}", "test", test->name, "tokens_per_s", middle, "least",
                               test->rate[0], "most", test->rate[b->repeats - 1], "predicted_tokens_per_s",
                               real_or_null(test->predicted), "predicted_at_tempo_tokens_per_s",
                               real_or_null(test->predicted_now), "limit_tokens_per_s", real_or_null(share > 0 ? limit : 0),
                               "share_of_limit", real_or_null(share)));
    }
    if (b->options.json)
        cli_print_json(json_pack("{s:s,s:i,s:s,s:i,s:o,s:I,s:I,s:o}", "model", b->model, "threads", session->n_threads,
                                 "level", session->kernels->name, "repeats", b->repeats, "results", results, "peak_bytes",
                                 (json_int_t)b->peak_bytes, "predicted_peak_bytes",
                                 (json_int_t)cli_predicted_bytes(plan), "plan", cabe_plan_json(plan)));
    else
        json_decref(results);
}

/* Where the budget leaves no room for the meter there is no limit to compare with. */
static void open_meter(struct bench *b, struct cabe_session *session)
{
    struct cabe_error err;

    b->peak_bytes = cli_peak_bytes();
    if (cabe_ledger_reserve(session->ledger, CABE_HOST, CABE_PURPOSE_STAGING, METER_BYTES, METER_PLACE, &err) != CABE_OK)
        return;
    if (cabe_read_meter_open(&b->meter, &session->machine, session->team, METER_BYTES, &err) != CABE_OK)
        cabe_ledger_release(session->ledger, CABE_HOST, CABE_PURPOSE_STAGING, METER_BYTES, METER_PLACE);
}

static void close_meter(struct bench *b, struct cabe_session *session)
{
    uint64_t peak_bytes = cli_peak_bytes() - (b->meter ? METER_BYTES : 0);

    if (peak_bytes > b->peak_bytes)
        b->peak_bytes = peak_bytes;
    if (b->meter)
        cabe_ledger_release(session->ledger, CABE_HOST, CABE_PURPOSE_STAGING, METER_BYTES, METER_PLACE);
    cabe_read_meter_close(b->meter);
    b->meter = NULL;
}

static enum cabe_status run_in(struct bench *b, struct cabe_session *session, struct cabe_error *err)
{
    static struct cabe_plan plan;
    struct cabe_fit_task task;
    char path[4096];
    enum cabe_status status = cli_model_path(path, b->model, err);

    for (int i = 0; i < b->n_tests; i++) {
        if (context_of(&b->tests[i]) > b->generation.wishes.context)
            b->generation.wishes.context = context_of(&b->tests[i]);
        if (b->tests[i].n_seqs > b->generation.wishes.n_seqs)
            b->generation.wishes.n_seqs = b->tests[i].n_seqs;
    }
    if (status == CABE_OK)
        status = cabe_generator_find(&b->generator, session, path, &b->generation.wishes, err);
    if (status == CABE_OK)
        status = cabe_session_settle(session, err);
    if (status != CABE_OK)
        return status;
    cabe_generator_task(b->generator, &task);
    status = cabe_session_plan(session, &plan, &task, err);
    if (status == CABE_OK)
        status = cabe_plan_refuse(&plan, err);
    if (status == CABE_OK)
        status = cabe_generator_load(b->generator, &plan.knobs, err);
    if (status == CABE_OK)
        status = cabe_generator_check(b->generator, err);
    b->prompt = cabe_calloc((size_t)b->generation.wishes.context, sizeof *b->prompt);
    if (status == CABE_OK && !b->prompt)
        status = cabe_fail(err, CABE_ERR_OOM, "a prompt of %lld tokens", (long long)b->generation.wishes.context);
    if (status == CABE_OK)
        open_meter(b, session);
    if (status == CABE_OK)
        status = measure(b, session, &plan.knobs, err);
    close_meter(b, session);
    if (status == CABE_OK)
        report(b, session, &plan);
    return status;
}

static int run(int argc, char **argv)
{
    struct bench b = {.repeats = 3};
    struct cabe_session *session;
    struct cabe_error err;
    enum cabe_status status;
    int option, code = 0;

    cli_options_init(&b.options);
    cli_generation_init(&b.generation);
    (void)take_tests(&b, TESTS_DEFAULT);
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        int taken = cli_options_take(&b.options, &cabe_cmd_bench, option);

        if (option == CLI_HELP)
            return cli_help(&cabe_cmd_bench);
        if (taken == 0)
            taken = cli_generation_take(&b.generation, &cabe_cmd_bench, option);
        if (option == OPTION_TESTS)
            taken = take_tests(&b, optarg);
        else if (option == OPTION_REPEATS)
            taken = (b.repeats = atoi(optarg)) >= 1 && b.repeats <= REPEATS_MAX
                        ? 1
                        : (cli_usage(&cabe_cmd_bench, "--repeats %s: wanted 1 to %d", optarg, REPEATS_MAX), -1);
        if (taken == 0)
            return cli_usage(&cabe_cmd_bench, NULL);
        if (taken < 0)
            return cabe_status_exit_code(CABE_ERR_ARGUMENT);
    }
    if (optind != argc - 1)
        return cli_usage(&cabe_cmd_bench, "wanted one model, got %d words", argc - optind);
    b.model = argv[optind];
    cli_generation_wishes(&b.generation, &b.options);
    session = cli_session(&b.options, 0, &code);
    if (session) {
        status = run_in(&b, session, &err);
        cabe_free(b.prompt);
        cabe_generator_close(b.generator);
        cabe_session_close(session);
        if (status != CABE_OK)
            code = cli_error(b.options.json, &err);
    }
    return code;
}

const struct cabe_command cabe_cmd_bench = {
    .name = "bench",
    .usage = "bench MODEL [--tests LIST] [--repeats N] [OPTIONS]",
    .summary = "measures how fast a model writes, beside the machine's limit",
    .help = "  --tests LIST        ppN: a prompt of N tokens; tgN: decoding N tokens; @D: behind D tokens of context;\n"
            "                      xS: S sequences at a time (default " TESTS_DEFAULT ")\n"
            "  --repeats N         of every test, in turn (default 3)\n"
            "  --kv F              keys and values as f32, f16 (default) or q8\n"
            "  'at tempo' is what is predicted with memory as fast as it was read around the test, and with the CPU time\n"
            "  that other work and the host left meanwhile: a shared machine is another one from minute to minute.\n"
            "  The limit is what decoding would reach if it did nothing but read the bytes that a step needs, as fast\n"
            "  as memory is read before and after the test (256 MiB of the budget; '-': there was no room for it).\n" CLI_MODEL_HELP CLI_COMMON_HELP,
    .run = run,
};
