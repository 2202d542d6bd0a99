#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "format/npy.h"
#include "options.h"
#include "task/embed.h"

static const struct option long_options[] = {
    CLI_COMMON_OPTIONS,
    CLI_MODEL_OPTIONS,
    {"input", required_argument, NULL, 'i'},
    {"output", required_argument, NULL, 'o'},
    {"prefix", required_argument, NULL, CLI_PREFIX},
    {"rows", required_argument, NULL, CLI_ROWS},
    {NULL, 0, NULL, 0},
};

struct embed {
    struct cli_options options;
    const char *model, *input, *output;
    FILE *in;
    struct cabe_encoder *encoder;
    int64_t width;
    enum cabe_dtype rows;
    struct cabe_npy_writer *npy; /* one of three: a matrix, ... */
    struct cabe_outfile *jsonl;  /* ... a file of JSON lines, ... */
    int to_stdout;               /* ... or JSON lines on standard output */
    void *packed;                /* a row in the output's dtype */
};

/* ---- outputs ---- */

static enum cabe_status write_npy(struct embed *e, const float *rows, size_t n, struct cabe_error *err)
{
    const struct cabe_row_kernels *kernels = &cabe_kernels_at(CABE_LEVEL_SCALAR)->row;
    enum cabe_status status = CABE_OK;

    if (e->rows == CABE_F32)
        return cabe_npy_write(e->npy, rows, n, err);
    for (size_t i = 0; i < n && status == CABE_OK; i++) {
        const float *row = rows + i * (size_t)e->width;

        if (e->rows == CABE_F16)
            kernels->from_f32(CABE_F16, row, e->packed, e->width);
        else
            kernels->to_i8(row, e->packed, e->width);
        status = cabe_npy_write(e->npy, e->packed, 1, err);
    }
    return status;
}

static enum cabe_status write_json_line(struct embed *e, const struct cabe_text *text, const float *row,
                                        struct cabe_error *err)
{
    json_t *numbers = json_array(), *line;
    char *dump;
    enum cabe_status status = CABE_OK;
    size_t n;

    for (int64_t k = 0; k < e->width; k++)
        json_array_append_new(numbers, json_real((double)row[k]));
    line = json_pack("{s:o,s:o}", "text", cabe_json_text(text->bytes, text->n_bytes), "embedding", numbers);
    dump = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(line);
    if (!dump)
        return cabe_fail(err, CABE_ERR_OOM, "a line of JSON");
    n = strlen(dump);
    if (e->jsonl)
        status = cabe_outfile_write(e->jsonl, dump, n, err);
    else if (fwrite(dump, 1, n, stdout) != n)
        status = cabe_fail_errno(err, errno, "standard output");
    if (status == CABE_OK && e->jsonl)
        status = cabe_outfile_write(e->jsonl, "\n", 1, err);
    else if (status == CABE_OK && putchar('\n') == EOF)
        status = cabe_fail_errno(err, errno, "standard output");
    free(dump);
    return status;
}

static enum cabe_status write_rows(void *self, const struct cabe_text *texts, const float *rows, size_t n,
                                   struct cabe_error *err)
{
    struct embed *e = self;
    enum cabe_status status = CABE_OK;

    if (e->npy)
        return write_npy(e, rows, n, err);
    for (size_t i = 0; i < n && status == CABE_OK; i++)
        status = write_json_line(e, &texts[i], rows + i * (size_t)e->width, err);
    if (status == CABE_OK && e->to_stdout && fflush(stdout) != 0)
        status = cabe_fail_errno(err, errno, "standard output");
    return status;
}

static int ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);

    return n >= k && strcmp(text + n - k, end) == 0;
}

static enum cabe_status open_output(struct embed *e, struct cabe_error *err)
{
    e->packed = cabe_malloc((size_t)e->width * 2);
    if (!e->packed)
        return cabe_fail(err, CABE_ERR_OOM, "output row");
    if (!e->output || strcmp(e->output, "-") == 0) {
        e->to_stdout = 1;
        return CABE_OK;
    }
    if (ends_with(e->output, ".npy"))
        return cabe_npy_create(&e->npy, e->output,
                               e->rows == CABE_F16  ? CABE_NPY_F16
                               : e->rows == CABE_I8 ? CABE_NPY_I8
                                                    : CABE_NPY_F32,
                               (uint64_t)e->width, err);
    if (ends_with(e->output, ".jsonl"))
        return cabe_outfile_open(&e->jsonl, e->output, err);
    return cabe_fail(err, CABE_ERR_ARGUMENT, "-o %s: wanted a name that ends in .npy or .jsonl", e->output);
}

static enum cabe_status close_output(struct embed *e, enum cabe_status status, struct cabe_error *err)
{
    if (status != CABE_OK) {
        cabe_npy_discard(e->npy);
    } else if (e->npy) {
        status = cabe_npy_finish(e->npy, err);
    } else if (e->jsonl) {
        status = cabe_outfile_commit(e->jsonl, err);
    }
    cabe_outfile_close(e->jsonl); /* uncommitted, it leaves nothing */
    e->npy = NULL;
    e->jsonl = NULL;
    return status;
}

/* ---- the run ---- */

static void summary(const struct embed *e, const struct cabe_plan *plan, const struct cabe_embed_result *result)
{
    double rate = result->seconds > 0 ? (double)result->n_texts / result->seconds : 0;
    char peak[CLI_BYTES_MAX], predicted[CLI_BYTES_MAX];
    json_t *json;

    if (!e->options.json || e->to_stdout) {
        fprintf(stderr, "%llu texts, %llu tokens in %.2f s: %.0f texts/s; peak %s, predicted %s\n",
                (unsigned long long)result->n_texts, (unsigned long long)result->n_tokens, result->seconds, rate,
                cli_format_bytes(result->peak_bytes, peak),
                cli_format_bytes(cli_predicted_bytes(plan), predicted));
        return;
    }
    json = json_pack("{s:I,s:I,s:I,s:f,s:f,s:f,s:I,s:I,s:o}", "texts", (json_int_t)result->n_texts, "tokens",
                     (json_int_t)result->n_tokens, "width", (json_int_t)e->width, "seconds", result->seconds,
                     "first_seconds", result->first_seconds, "texts_per_s", rate, "peak_bytes",
                     (json_int_t)result->peak_bytes, "predicted_peak_bytes",
                     (json_int_t)cli_predicted_bytes(plan), "plan", cabe_plan_json(plan));
    json_object_set_new(json, "output", cabe_json_text(e->output, strlen(e->output)));
    cli_print_json(json);
}

static enum cabe_status run_in(struct embed *e, struct cabe_session *session, struct cabe_error *err)
{
    static struct cabe_plan plan;
    struct cabe_embed_job job = {.session = session};
    struct cabe_embed_sink sink = {write_rows, e};
    struct cabe_embed_result result;
    struct cabe_fit_task task;
    char path[4096];
    enum cabe_status status = cli_model_path(path, e->model, err);

    if (status == CABE_OK)
        status = cabe_encoder_find(&e->encoder, session, path, &e->options.wishes, err);
    if (status == CABE_OK)
        status = cabe_session_settle(session, err);
    if (status != CABE_OK)
        return status;
    job.encoder = e->encoder;
    job.prefix = e->options.prefix >= 0 ? (enum cabe_prefix)e->options.prefix : CABE_PREFIX_NONE;
    e->width = cabe_encoder_config(e->encoder)->width;
    cabe_embed_task(&job, &task);
    status = cabe_session_plan(session, &plan, &task, err);
    if (status == CABE_OK)
        status = cabe_plan_refuse(&plan, err);
    if (status == CABE_OK)
        status = open_output(e, err);
    if (status == CABE_OK)
        status = cabe_embed_run(&job, &plan, e->in, e->input ? e->input : "standard input", &sink, &result, err);
    status = close_output(e, status, err);
    cli_progress_end();
    if (status == CABE_OK)
        summary(e, &plan, &result);
    return status;
}

static int run(int argc, char **argv)
{
    struct embed e = {.rows = CABE_F32};
    struct cabe_session *session;
    struct cabe_error err;
    enum cabe_status status;
    int option, code = 0;

    cli_options_init(&e.options);
    while ((option = getopt_long(argc, argv, "i:o:", long_options, NULL)) != -1) {
        int taken = cli_options_take(&e.options, &cabe_cmd_embed, option);

        if (option == CLI_HELP)
            return cli_help(&cabe_cmd_embed);
        if (option == 'i')
            e.input = optarg;
        else if (option == 'o')
            e.output = optarg;
        else if (taken == 0)
            return cli_usage(&cabe_cmd_embed, NULL);
        if (taken < 0)
            return cabe_status_exit_code(CABE_ERR_ARGUMENT);
    }
    if (optind != argc - 1)
        return cli_usage(&cabe_cmd_embed, "wanted one model, got %d words", argc - optind);
    e.model = argv[optind];
    if (e.options.rows >= 0)
        e.rows = (enum cabe_dtype)e.options.rows;
    e.in = e.input ? fopen(e.input, "re") : stdin;
    if (!e.in) {
        cabe_fail_errno(&err, errno, "%s", e.input);
        return cli_error(e.options.json, &err);
    }
    session = cli_session(&e.options, 0, &code);
    if (session) {
        status = run_in(&e, session, &err);
        cabe_encoder_close(e.encoder);
        cabe_session_close(session);
        cabe_free(e.packed);
        if (status != CABE_OK)
            code = cli_error(e.options.json, &err);
    }
    if (e.input)
        fclose(e.in);
    return code;
}

const struct cabe_command cabe_cmd_embed = {
    .name = "embed",
    .usage = "embed MODEL [-i FILE] [-o FILE.npy|FILE.jsonl] [OPTIONS]",
    .summary = "turns texts, one a line, into vectors",
    .help = "  -i, --input FILE    texts, one a line, UTF-8 (default: standard input)\n"
            "  -o, --output FILE   .npy, or .jsonl; it appears whole or not at all (default: JSON lines on\n"
            "                      standard output, as they come)\n"
            "  --prefix P          query, passage or none (default): what the model was trained to see first\n"
            "  --rows T            f32 (default), f16 or int8 rows in a .npy\n" CLI_MODEL_HELP CLI_COMMON_HELP,
    .run = run,
};
