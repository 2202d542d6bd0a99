#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "options.h"
#include "task/analyze.h"

#define TEXT_SHOWN 400 /* bytes of a sentence in the report */
#define GROUPS_SHOWN 20 /* of the text report; --all and --json give every one */

enum { OPT_THRESHOLD = 300, OPT_MIN_WORDS, OPT_ALL };

static const struct option long_options[] = {
    CLI_COMMON_OPTIONS,
    CLI_MODEL_OPTIONS,
    {"model", required_argument, NULL, 'm'},
    {"rows", required_argument, NULL, CLI_ROWS},
    {"threshold", required_argument, NULL, OPT_THRESHOLD},
    {"min-words", required_argument, NULL, OPT_MIN_WORDS},
    {"all", no_argument, NULL, OPT_ALL},
    {NULL, 0, NULL, 0},
};

struct analysis {
    struct cli_options options;
    struct cabe_analyze_wishes wishes;
    const char *model;
    const char *const *files;
    int n_files;
    int all;
    struct cabe_analyze_job *job;
    struct cabe_analyze_result result;
};

/* A sentence on one line: white space as single spaces. */
static void sentence_text(const struct analysis *a, uint32_t number, char out[TEXT_SHOWN + 4])
{
    const struct cabe_sentence *sentence = &a->result.sentence[number];
    size_t n = 0, kept = 0;

    if (cabe_document_read(cabe_analyze_document(a->job, sentence->document), sentence->span, out, TEXT_SHOWN, &n,
                           NULL) != CABE_OK)
        n = 0;
    for (size_t i = 0; i < n; i++) {
        int space = (unsigned char)out[i] <= ' ';

        if (!space)
            out[kept++] = out[i];
        else if (kept > 0 && out[kept - 1] != ' ')
            out[kept++] = ' ';
    }
    strcpy(out + kept, sentence->span.end - sentence->span.begin > TEXT_SHOWN ? "..." : "");
}

/* ---- JSON ---- */

static json_t *place_json(const struct analysis *a, uint32_t number)
{
    const struct cabe_sentence *sentence = &a->result.sentence[number];
    const char *path = cabe_analyze_document(a->job, sentence->document)->path;
    char text[TEXT_SHOWN + 4];

    sentence_text(a, number, text);
    return json_pack("{s:o,s:i,s:i,s:I,s:I,s:o}", "file", cabe_json_text(path, strlen(path)), "line",
                     (int)sentence->line, "sentence", (int)sentence->number, "begin",
                     (json_int_t)sentence->span.begin, "end", (json_int_t)sentence->span.end, "text",
                     cabe_json_text(text, strlen(text)));
}

static json_t *pairs_json(const struct analysis *a)
{
    json_t *pairs = json_array();

    for (uint64_t i = 0; i < a->result.n_pairs; i++) {
        const struct cabe_idea_pair *pair = &a->result.pair[i];

        json_array_append_new(pairs, json_pack("{s:f,s:s,s:o,s:o}", "score", (double)pair->score, "kind",
                                               cabe_echo_name(pair->echo), "a", place_json(a, pair->a), "b",
                                               place_json(a, pair->b)));
    }
    return pairs;
}

static json_t *groups_json(const struct analysis *a)
{
    json_t *groups = json_array();

    for (uint64_t g = 0; g < a->result.n_groups; g++) {
        const struct cabe_idea_group *group = &a->result.group[g];
        json_t *members = json_array();

        for (uint32_t i = 0; i < group->n; i++)
            json_array_append_new(members, place_json(a, a->result.member[group->first + i]));
        json_array_append_new(groups,
                              json_pack("{s:f,s:o}", "score", (double)group->score, "members", members));
    }
    return groups;
}

static json_t *phases_json(const struct analysis *a)
{
    json_t *phases = json_array();

    for (int i = 0; i < a->result.n_phases; i++) {
        const struct cabe_analyze_phase *phase = &a->result.phase[i];

        json_array_append_new(
            phases, json_pack("{s:s,s:I,s:I,s:I,s:I,s:f,s:f}", "name", phase->name, "predicted_peak_bytes",
                              (json_int_t)phase->predicted_bytes, "measured_peak_bytes",
                              (json_int_t)phase->measured_bytes, "start_bytes", (json_int_t)phase->start_bytes,
                              "end_bytes", (json_int_t)phase->end_bytes, "seconds", phase->seconds,
                              "predicted_seconds", phase->predicted_seconds));
    }
    return phases;
}

static int print_json(const struct analysis *a, const struct cabe_plan *plan)
{
    json_t *files = json_array();

    for (int i = 0; i < a->n_files; i++)
        json_array_append_new(files, cabe_json_text(a->files[i], strlen(a->files[i])));
    return cli_print_json(json_pack(
        "{s:o,s:I,s:I,s:I,s:f,s:o,s:o,s:o,s:I,s:o}", "files", files, "sentences", (json_int_t)a->result.n_sentences,
        "compared", (json_int_t)a->result.n_compared, "tokens", (json_int_t)a->result.n_tokens, "threshold",
        (double)a->wishes.threshold, "pairs", pairs_json(a), "groups", groups_json(a), "phases", phases_json(a),
        "peak_bytes", (json_int_t)a->result.peak_bytes, "plan", cabe_plan_json(plan)));
}

/* ---- text ---- */

static enum cabe_echo echo_between(const struct analysis *a, const struct cabe_idea_group *group)
{
    enum cabe_echo best = CABE_ECHO_PARAPHRASE;

    for (uint64_t i = 0; i < a->result.n_pairs; i++) {
        const struct cabe_idea_pair *pair = &a->result.pair[i];
        int members = 0;

        for (uint32_t m = 0; m < group->n; m++)
            members += a->result.member[group->first + m] == pair->a || a->result.member[group->first + m] == pair->b;
        if (members == 2 && pair->echo < best)
            best = pair->echo;
    }
    return best;
}

static void print_groups(const struct analysis *a)
{
    uint64_t shown = a->all || a->result.n_groups < GROUPS_SHOWN ? a->result.n_groups : GROUPS_SHOWN;
    char text[TEXT_SHOWN + 4];

    if (a->result.n_groups == 0)
        printf("No repeated ideas at %.2f or above.\n", (double)a->wishes.threshold);
    for (uint64_t g = 0; g < shown; g++) {
        const struct cabe_idea_group *group = &a->result.group[g];

        printf("%" PRIu64 ". %u times, %.2f, %s\n", g + 1, group->n, (double)group->score,
               cabe_echo_name(echo_between(a, group)));
        for (uint32_t i = 0; i < group->n; i++) {
            const struct cabe_sentence *sentence = &a->result.sentence[a->result.member[group->first + i]];

            sentence_text(a, a->result.member[group->first + i], text);
            printf("   %s:%u  %s\n", cabe_analyze_document(a->job, sentence->document)->path, sentence->line, text);
        }
        putchar('\n');
    }
    if (shown < a->result.n_groups)
        printf("%" PRIu64 " more groups; --all shows them.\n\n", a->result.n_groups - shown);
}

static void print_phases(const struct analysis *a, const struct cabe_plan *plan)
{
    char budget[CLI_BYTES_MAX], peak[CLI_BYTES_MAX], predicted[CLI_BYTES_MAX];

    printf("%-16s %14s %14s %9s %10s\n", "phase", "predicted MiB", "measured MiB", "seconds", "predicted");
    for (int i = 0; i < a->result.n_phases; i++) {
        const struct cabe_analyze_phase *phase = &a->result.phase[i];

        printf("%-16s %14.1f %14.1f %9.2f", phase->name, (double)phase->predicted_bytes / 1048576.0,
               (double)phase->measured_bytes / 1048576.0, phase->seconds);
        if (phase->predicted_seconds >= 0.005)
            printf(" %10.2f", phase->predicted_seconds);
        putchar('\n');
    }
    printf("budget %s, predicted peak %s, measured peak %s: %s\n",
           cli_format_bytes(plan->budget_bytes[CABE_HOST], budget),
           cli_format_bytes(plan->peak_bytes[CABE_HOST], predicted), cli_format_bytes(a->result.peak_bytes, peak),
           a->result.peak_bytes <= plan->budget_bytes[CABE_HOST] ? "kept" : "PASSED");
}

static int print_text(const struct analysis *a, const struct cabe_plan *plan)
{
    printf("%" PRIu64 " sentences in %d %s, %" PRIu64 " compared, %" PRIu64 " pairs in %" PRIu64 " groups\n\n",
           a->result.n_sentences, a->n_files, a->n_files == 1 ? "file" : "files", a->result.n_compared,
           a->result.n_pairs, a->result.n_groups);
    print_groups(a);
    print_phases(a, plan);
    return fflush(stdout) == 0 ? 0 : cabe_status_exit_code(CABE_ERR_IO);
}

/* ---- the run ---- */

static enum cabe_status run_in(struct analysis *a, struct cabe_session *session, struct cabe_encoder **encoder,
                               struct cabe_plan *plan, struct cabe_error *err)
{
    struct cabe_fit_task task;
    char path[4096];
    enum cabe_status status = cli_model_path(path, a->model, err);

    if (status == CABE_OK)
        status = cabe_encoder_find(encoder, session, path, &a->options.wishes, err);
    if (status == CABE_OK)
        status = cabe_analyze_open(&a->job, session, *encoder, a->files, a->n_files, &a->wishes, err);
    if (status == CABE_OK)
        status = cabe_session_settle(session, err);
    if (status != CABE_OK)
        return status;
    cabe_analyze_task(a->job, &task);
    status = cabe_session_plan(session, plan, &task, err);
    if (status == CABE_OK)
        status = cabe_plan_refuse(plan, err);
    if (status != CABE_OK)
        return status;
    if (!a->options.json) {
        char peak[CLI_BYTES_MAX], budget[CLI_BYTES_MAX], value[CABE_KNOB_TEXT_MAX];

        fprintf(stderr, "plan: %s of a budget of %s (%s); weights %s\n",
                cli_format_bytes(plan->peak_bytes[CABE_HOST], peak),
                cli_format_bytes(plan->budget_bytes[CABE_HOST], budget), session->budget_reason,
                cabe_knob_text(CABE_KNOB_DTYPE, plan->knobs.value[CABE_KNOB_DTYPE], value));
    }
    return cabe_analyze_run(a->job, plan, &a->result, err);
}

static int take(struct analysis *a, int option)
{
    char *end;

    switch (option) {
    case 'm':
        a->model = optarg;
        return 1;
    case OPT_ALL:
        a->all = 1;
        return 1;
    case OPT_THRESHOLD:
        a->wishes.threshold = strtof(optarg, &end);
        if (*end == '\0' && a->wishes.threshold > 0 && a->wishes.threshold <= 1)
            return 1;
        cli_usage(&cabe_cmd_analyze, "--threshold '%s': wanted a number above 0, at most 1", optarg);
        return -1;
    case OPT_MIN_WORDS:
        a->wishes.min_words = atoi(optarg);
        if (a->wishes.min_words >= 1)
            return 1;
        cli_usage(&cabe_cmd_analyze, "--min-words '%s': wanted a number from 1", optarg);
        return -1;
    default:
        return cli_options_take(&a->options, &cabe_cmd_analyze, option);
    }
}

static int run(int argc, char **argv)
{
    static struct cabe_plan plan;
    struct analysis a = {.wishes = {.threshold = CABE_ANALYZE_THRESHOLD}, .model = "all-minilm-l6-v2"};
    struct cabe_encoder *encoder = NULL;
    struct cabe_session *session;
    struct cabe_error err;
    enum cabe_status status;
    int option, code = 0;

    cli_options_init(&a.options);
    while ((option = getopt_long(argc, argv, "m:", long_options, NULL)) != -1) {
        int taken;

        if (option == CLI_HELP)
            return cli_help(&cabe_cmd_analyze);
        taken = take(&a, option);
        if (taken == 0)
            return cli_usage(&cabe_cmd_analyze, NULL);
        if (taken < 0)
            return cabe_status_exit_code(CABE_ERR_ARGUMENT);
    }
    if (optind == argc)
        return cli_usage(&cabe_cmd_analyze, "wanted at least one text file");
    a.files = (const char *const *)(argv + optind);
    a.n_files = argc - optind;
    a.wishes.rows = a.options.rows;
    session = cli_session(&a.options, 0, &code);
    if (!session)
        return code;
    status = run_in(&a, session, &encoder, &plan, &err);
    cli_progress_end();
    if (status != CABE_OK)
        code = cli_error(a.options.json, &err);
    else
        code = a.options.json ? print_json(&a, &plan) : print_text(&a, &plan);
    cabe_analyze_close(a.job);
    cabe_encoder_close(encoder);
    cabe_session_close(session);
    return code;
}

const struct cabe_command cabe_cmd_analyze = {
    .name = "analyze",
    .usage = "analyze FILE... [--model MODEL] [OPTIONS]",
    .summary = "finds the repeated ideas of texts, with their places",
    .help = "  -m, --model MODEL   encoder of sentences (default: all-minilm-l6-v2)\n"
            "  --threshold X       cosine from which two sentences are one idea (default: 0.70)\n"
            "  --min-words N       shorter sentences are not compared (default: 5)\n"
            "  --rows T            keep embeddings as f32, f16 or int8 (default: by memory)\n"
            "  --all               every group, not only the first 20\n" CLI_MODEL_HELP CLI_COMMON_HELP,
    .run = run,
};
