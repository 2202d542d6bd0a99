#include <string.h>

#include "generation.h"
#include "options.h"
#include "task/analyze.h"
#include "task/embed.h"
#include "task/net.h"

static const struct option long_options[] = {
    CLI_COMMON_OPTIONS,
    CLI_MODEL_OPTIONS,
    {"describe", required_argument, NULL, CLI_DESCRIBE},
    {"model", required_argument, NULL, 'm'},
    {"rows", required_argument, NULL, CLI_ROWS},
    {"ctx", required_argument, NULL, CLI_CONTEXT},
    {"kv", required_argument, NULL, CLI_KV},
    {NULL, 0, NULL, 0},
};

struct wanted {
    struct cli_options options;
    struct cli_generation generation;
    const char *model;
    int analyze; /* the task is an analysis of `files`; otherwise embedding */
    char **files;
    int n_files;
};

static enum cabe_status is_generator(const struct wanted *w, struct cabe_session *session, const char *path, int *writes,
                                     struct cabe_error *err)
{
    struct cabe_net net;
    enum cabe_status status = cabe_net_open(&net, session, path, w->options.wishes.dtype, err);

    *writes = status == CABE_OK && cabe_model_config(net.model)->kind == CABE_MODEL_DECODER;
    cabe_net_close(&net);
    return status;
}

static enum cabe_status make(const struct wanted *w, struct cabe_session *session, struct cabe_plan *plan,
                             struct cabe_error *err)
{
    struct cabe_analyze_job *analysis = NULL;
    struct cabe_encoder *encoder = NULL;
    struct cabe_generator *generator = NULL;
    struct cabe_embed_job job = {.session = session};
    struct cabe_fit_task task;
    char path[4096];
    int writes = 0;
    enum cabe_status status = cli_model_path(path, w->model, err);

    if (status == CABE_OK && !w->analyze)
        status = is_generator(w, session, path, &writes, err);
    if (status == CABE_OK)
        status = writes ? cabe_generator_find(&generator, session, path, &w->generation.wishes, err)
                        : cabe_encoder_find(&encoder, session, path, &w->options.wishes, err);
    if (status == CABE_OK)
        status = cabe_session_settle(session, err);
    if (status == CABE_OK && writes) {
        cabe_generator_task(generator, &task);
    } else if (status == CABE_OK && w->analyze) {
        struct cabe_analyze_wishes wishes = {.rows = w->options.rows};

        status = cabe_analyze_open(&analysis, session, encoder, (const char *const *)w->files, w->n_files, &wishes,
                                   err);
        if (status == CABE_OK)
            cabe_analyze_task(analysis, &task);
    } else if (status == CABE_OK) {
        job.encoder = encoder;
        cabe_embed_task(&job, &task);
    }
    if (status == CABE_OK)
        status = cabe_session_plan(session, plan, &task, err);
    cabe_analyze_close(analysis);
    cabe_encoder_close(encoder);
    cabe_generator_close(generator);
    return status;
}

static int show(const struct wanted *w, const struct cabe_plan *plan)
{
    double prompt, answer;
    json_t *json;

    cabe_generator_speed(plan, &prompt, &answer);
    if (w->options.json) {
        json = cabe_plan_json(plan);
        if (prompt > 0)
            json_object_set_new(json, "prompt_tokens_per_s", json_real(prompt));
        if (answer > 0)
            json_object_set_new(json, "tokens_per_s", json_real(answer));
        return cli_print_json(json);
    }
    cabe_plan_print(plan, stdout);
    if (answer > 0)
        printf("\n  predicted: prompt %.0f tokens/s, answer %.1f tokens/s behind %d tokens\n", prompt, answer,
               CABE_GENERATOR_TYPICAL);
    else if (plan->fits && plan->knobs.value[CABE_KNOB_STREAM] > 0)
        puts("\n  predicted: not known for layers from disk; 'cabe machine --measure' finds how fast it is");
    return 0;
}

static int run(int argc, char **argv)
{
    static struct cabe_plan plan;
    struct wanted w = {0};
    struct cabe_session *session;
    struct cabe_error err;
    int option, code = 0;

    cli_options_init(&w.options);
    cli_generation_init(&w.generation);
    while ((option = getopt_long(argc, argv, "m:", long_options, NULL)) != -1) {
        int taken = cli_options_take(&w.options, &cabe_cmd_plan, option);

        if (option == CLI_HELP)
            return cli_help(&cabe_cmd_plan);
        if (taken == 0)
            taken = cli_generation_take(&w.generation, &cabe_cmd_plan, option);
        if (option == 'm')
            w.model = optarg;
        else if (taken == 0)
            return cli_usage(&cabe_cmd_plan, NULL);
        if (taken < 0)
            return cabe_status_exit_code(CABE_ERR_ARGUMENT);
    }
    if (optind == argc)
        return cli_usage(&cabe_cmd_plan, "wanted a model or a task");
    if (strcmp(argv[optind], "analyze") == 0) {
        w.analyze = 1;
        w.files = argv + optind + 1;
        w.n_files = argc - optind - 1;
        if (w.n_files == 0 || !w.model)
            return cli_usage(&cabe_cmd_plan, "the task analyze wants files and --model");
    } else if (optind == argc - 1) {
        w.model = argv[optind];
    } else {
        return cli_usage(&cabe_cmd_plan, "wanted one model, got %d words", argc - optind);
    }
    cli_generation_wishes(&w.generation, &w.options);
    session = cli_session(&w.options, 1, &code);
    if (!session)
        return code;
    if (make(&w, session, &plan, &err) != CABE_OK)
        code = cli_error(w.options.json, &err);
    else
        code = show(&w, &plan);
    cabe_session_close(session);
    if (code == 0 && !plan.fits)
        code = cabe_status_exit_code(CABE_ERR_BUDGET);
    return code;
}

const struct cabe_command cabe_cmd_plan = {
    .name = "plan",
    .usage = "plan MODEL [OPTIONS] | plan analyze FILE... --model MODEL [OPTIONS]",
    .summary = "says what fits and how, before anything is loaded",
    .help = "  --describe TEXT     plan for a machine that is not here: \"8 cores, 16 GB, gpu 6 GB\"\n"
            "  -m, --model MODEL   the model of the task\n"
            "  --rows T            keep stored embeddings as f32, f16 or int8\n"
            "  --ctx N             tokens of context of a model that writes\n"
            "  --kv F              its keys and values as f32, f16 or q8\n" CLI_MODEL_HELP CLI_COMMON_HELP
            "\nThe exit code is 0 when it fits and 6 when it does not.\n",
    .run = run,
};
