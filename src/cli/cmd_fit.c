#include <string.h>

#include "base/json.h"
#include "fit/fitted.h"
#include "options.h"
#include "task/net.h"

static const struct option long_options[] = {
    CLI_COMMON_OPTIONS,
    CLI_MODEL_OPTIONS,
    {"verify", no_argument, NULL, 'v'},
    {"remove", no_argument, NULL, 'r'},
    {NULL, 0, NULL, 0},
};

struct wanted {
    struct cli_options options;
    const char *model;
    int verify, remove;
};

static enum cabe_status verify(const struct cabe_session *session, const char *path,
                               const struct cabe_model_choice *choice, struct cabe_error *err)
{
    struct cabe_fitted_config config = {.path = path, .choice = *choice, .cache_dir = session->cache_dir};
    struct cabe_fitted *fitted;
    enum cabe_status status = cabe_fitted_find(&fitted, &config, err);

    if (status != CABE_OK)
        return status;
    status = cabe_fitted_verify(fitted, err);
    cabe_fitted_close(fitted);
    return status;
}

/* Makes the copy as the first load of any task would. */
static enum cabe_status fit(const struct wanted *w, struct cabe_session *session, json_t **report,
                            struct cabe_error *err)
{
    struct cabe_net net = {0};
    struct cabe_fit_task task;
    const char *copy = "";
    char path[4096];
    uint64_t freed = 0;
    enum cabe_status status = cli_model_path(path, w->model, err);

    if (status == CABE_OK && w->remove) {
        status = cabe_fitted_remove(session->cache_dir, path, &freed, err);
        *report = json_pack("{s:o,s:I}", "model", cabe_json_text(path, strlen(path)), "removed_bytes", (json_int_t)freed);
        return status;
    }
    if (status == CABE_OK)
        status = cabe_net_open(&net, session, path, w->options.wishes.dtype, err);
    if (status == CABE_OK)
        status = cabe_session_settle(session, err);
    if (status == CABE_OK) {
        cabe_session_task(session, &task, "fit");
        cabe_net_plan(&net, w->options.wishes.precision, &task);
        status = cabe_net_fit(&net, &task.preferred, err);
        copy = net.fitted ? cabe_fitted_path(net.fitted) : "";
    }
    if (status == CABE_OK && copy[0] == '(') /* made in memory, and gone with this process */
        status = cabe_fail(err, CABE_ERR_PERMISSION, "%s: no fitted copy could be written to '%s'", path,
                           session->cache_dir);
    if (status == CABE_OK && w->verify)
        status = verify(session, path, &net.choice, err);
    if (status == CABE_OK)
        *report = json_pack("{s:o,s:o,s:s,s:b,s:I}", "model", cabe_json_text(path, strlen(path)), "copy",
                            cabe_json_text(copy, strlen(copy)), "dtype",
                            cabe_dtype_name(net.choice.dtype), "verified", w->verify, "peak_bytes",
                            (json_int_t)cli_peak_bytes());
    cabe_net_close(&net);
    return status;
}

static int run(int argc, char **argv)
{
    struct wanted w = {0};
    struct cabe_session *session;
    struct cabe_error err;
    json_t *report = NULL;
    int option, code = 0;

    cli_options_init(&w.options);
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        int taken = cli_options_take(&w.options, &cabe_cmd_fit, option);

        if (option == CLI_HELP)
            return cli_help(&cabe_cmd_fit);
        if (option == 'v')
            w.verify = 1;
        else if (option == 'r')
            w.remove = 1;
        else if (taken == 0)
            return cli_usage(&cabe_cmd_fit, NULL);
        if (taken < 0)
            return cabe_status_exit_code(CABE_ERR_ARGUMENT);
    }
    if (optind != argc - 1)
        return cli_usage(&cabe_cmd_fit, "wanted one model, got %d words", argc - optind);
    w.model = argv[optind];
    session = cli_session(&w.options, 0, &code);
    if (!session)
        return code;
    if (fit(&w, session, &report, &err) != CABE_OK)
        code = cli_error(w.options.json, &err);
    else if (w.options.json)
        code = cli_print_json(json_incref(report));
    else if (w.remove)
        printf("%s: %lld bytes of fitted copies removed\n", json_string_value(json_object_get(report, "model")),
               (long long)json_integer_value(json_object_get(report, "removed_bytes")));
    else
        printf("%s%s\n", json_string_value(json_object_get(report, "copy")), w.verify ? ": every checksum is right" : "");
    json_decref(report);
    cabe_session_close(session);
    cli_progress_end();
    return code;
}

const struct cabe_command cabe_cmd_fit = {
    .name = "fit",
    .usage = "fit MODEL [--verify] [--remove] [OPTIONS]",
    .summary = "makes a model's fitted copy, so that later starts map it",
    .help = "  --verify            check every checksum of the copy, from disk\n"
            "  --remove            remove the copies of this model\n" CLI_MODEL_HELP CLI_COMMON_HELP,
    .run = run,
};
