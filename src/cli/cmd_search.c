#include <errno.h>
#include <string.h>

#include "base/json.h"
#include "options.h"
#include "task/search.h"

static const struct option long_options[] = {
    CLI_COMMON_OPTIONS,
    CLI_MODEL_OPTIONS,
    {"input", required_argument, NULL, 'i'},
    {"top", required_argument, NULL, 'k'},
    {"rows", required_argument, NULL, CLI_ROWS},
    {NULL, 0, NULL, 0},
};

struct search {
    struct cli_options options;
    const char *model, *input;
    char **queries;
    int n_queries;
    int64_t k;
};

static json_t *hit_json(const struct cabe_search_hit *hit)
{
    return json_pack("{s:f,s:I,s:o}", "score", (double)hit->score, "line", (json_int_t)hit->line, "text",
                     cabe_json_text(hit->text, hit->n_bytes));
}

static int print(const struct search *s, const struct cabe_search_result *result)
{
    json_t *all = json_array();

    for (int q = 0; q < s->n_queries; q++) {
        json_t *hits = json_array();

        if (!s->options.json)
            printf("%s%s\n", q ? "\n" : "", s->queries[q]);
        for (int64_t i = 0; i < result->n_hits[q]; i++) {
            const struct cabe_search_hit *hit = &result->hit[q * s->k + i];

            if (s->options.json)
                json_array_append_new(hits, hit_json(hit));
            else
                printf("  %.4f  %s:%llu  %.*s\n", (double)hit->score, s->input, (unsigned long long)hit->line,
                       (int)hit->n_bytes, hit->text);
        }
        json_array_append_new(all, json_pack("{s:o,s:o}", "query", cabe_json_text(s->queries[q], strlen(s->queries[q])),
                                        "hits", hits));
    }
    if (s->options.json)
        return cli_print_json(json_pack("{s:o,s:I,s:I}", "results", all, "lines", (json_int_t)result->n_lines,
                                        "peak_bytes", (json_int_t)cli_peak_bytes()));
    json_decref(all);
    return fflush(stdout) == 0 ? 0 : cabe_status_exit_code(CABE_ERR_IO);
}

static enum cabe_status run_in(struct search *s, struct cabe_session *session, int *code, struct cabe_error *err)
{
    static struct cabe_plan plan;
    struct cabe_encoder *encoder = NULL;
    struct cabe_search_job *job = NULL;
    struct cabe_search_result result;
    struct cabe_fit_task task;
    struct cabe_search_wishes wishes = {s->options.rows, s->k};
    char path[4096];
    enum cabe_status status = cli_model_path(path, s->model, err);

    if (status == CABE_OK)
        status = cabe_encoder_find(&encoder, session, path, &s->options.wishes, err);
    if (status == CABE_OK)
        status = cabe_search_open(&job, session, encoder, s->input, (const char *const *)s->queries, s->n_queries,
                                  &wishes, err);
    if (status == CABE_OK)
        status = cabe_session_settle(session, err);
    if (status == CABE_OK) {
        cabe_search_task(job, &task);
        status = cabe_session_plan(session, &plan, &task, err);
    }
    if (status == CABE_OK)
        status = cabe_plan_refuse(&plan, err);
    if (status == CABE_OK)
        status = cabe_search_run(job, &plan, &result, err);
    cli_progress_end();
    if (status == CABE_OK)
        *code = print(s, &result);
    cabe_search_close(job);
    cabe_encoder_close(encoder);
    return status;
}

static int run(int argc, char **argv)
{
    struct search s = {.k = 10};
    struct cabe_session *session;
    struct cabe_error err;
    int option, code = 0;
    char *end;

    cli_options_init(&s.options);
    while ((option = getopt_long(argc, argv, "i:k:", long_options, NULL)) != -1) {
        int taken = option == 'i' || option == 'k' ? 1 : cli_options_take(&s.options, &cabe_cmd_search, option);

        if (option == CLI_HELP)
            return cli_help(&cabe_cmd_search);
        if (option == 'i')
            s.input = optarg;
        if (option == 'k') {
            s.k = strtol(optarg, &end, 10);
            if (*end != '\0' || s.k < 1 || s.k > 10000)
                return cli_usage(&cabe_cmd_search, "--top '%s': wanted a number from 1 to 10000", optarg);
        }
        if (taken == 0)
            return cli_usage(&cabe_cmd_search, NULL);
        if (taken < 0)
            return cabe_status_exit_code(CABE_ERR_ARGUMENT);
    }
    if (argc - optind < 2 || !s.input)
        return cli_usage(&cabe_cmd_search, "wanted a model, at least one query, and -i FILE");
    s.model = argv[optind];
    s.queries = argv + optind + 1;
    s.n_queries = argc - optind - 1;
    session = cli_session(&s.options, 0, &code);
    if (!session)
        return code;
    if (run_in(&s, session, &code, &err) != CABE_OK)
        code = cli_error(s.options.json, &err);
    cabe_session_close(session);
    return code;
}

const struct cabe_command cabe_cmd_search = {
    .name = "search",
    .usage = "search MODEL QUERY... -i FILE [-k N] [OPTIONS]",
    .summary = "finds the lines of a file nearest in meaning to queries",
    .help = "  -i, --input FILE    texts, one a line, UTF-8\n"
            "  -k, --top N         lines for each query (default: 10)\n"
            "  --rows T            keep embeddings as f32, f16 or int8 (default: by memory)\n" CLI_MODEL_HELP CLI_COMMON_HELP,
    .run = run,
};
