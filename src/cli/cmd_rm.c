#include <stdio.h>
#include <string.h>

#include "base/home.h"
#include "base/json.h"
#include "cli.h"
#include "fit/fitted.h"
#include "format/store.h"

struct options {
    const char *model;
    int json, help;
};

static int parse(struct options *options, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            options->json = 1;
        else if (strcmp(argv[i], "--help") == 0)
            options->help = 1;
        else if (argv[i][0] == '-')
            return cli_usage(&cabe_cmd_rm, "unknown argument '%s'", argv[i]);
        else if (options->model)
            return cli_usage(&cabe_cmd_rm, "one NAME at a time, '%s' is a second", argv[i]);
        else
            options->model = argv[i];
    }
    if (!options->model && !options->help)
        return cli_usage(&cabe_cmd_rm, "wants a NAME of 'cabe list'");
    return 0;
}

/* The model and the fitted copies that were made of it; those go first, for they are found by the model's path. */
static enum cabe_status remove_model(const char *name, uint64_t *bytes, uint64_t *fitted_bytes,
                                     struct cabe_error *err)
{
    char path[CABE_STORE_PATH_MAX], cache[CABE_HOME_PATH_MAX];
    enum cabe_status status = cabe_store_path(name, path, err);

    *fitted_bytes = 0;
    if (status != CABE_OK)
        return status;
    if (cabe_home_path(cache, CABE_HOME_CACHE, NULL) == CABE_OK && strlen(cache) + 8 < sizeof cache)
        /* Copies that stay are only a cache; they are evicted in time. */
        (void)!cabe_fitted_remove(strcat(cache, "/fitted"), path, fitted_bytes, NULL);
    return cabe_store_remove(name, bytes, err);
}

static int run(int argc, char **argv)
{
    struct options options = {0};
    char size[CLI_BYTES_MAX];
    struct cabe_error err;
    uint64_t bytes, fitted_bytes;
    int code = parse(&options, argc, argv);

    if (code != 0)
        return code;
    if (options.help)
        return cli_help(&cabe_cmd_rm);
    if (remove_model(options.model, &bytes, &fitted_bytes, &err) != CABE_OK)
        return cli_error(options.json, &err);
    if (options.json)
        return cli_print_json(json_pack("{s:s,s:o,s:o}", "removed", options.model, "bytes", cabe_json_count(bytes),
                                        "fitted_bytes", cabe_json_count(fitted_bytes)));
    printf("removed %s, %s", options.model, cli_format_bytes(bytes, size));
    if (fitted_bytes > 0)
        printf(", and %s of fitted copies", cli_format_bytes(fitted_bytes, size));
    puts("");
    return fflush(stdout) == 0 ? 0 : cabe_status_exit_code(CABE_ERR_IO);
}

const struct cabe_command cabe_cmd_rm = {
    .name = "rm",
    .usage = "rm NAME [--json]",
    .summary = "removes a model from the store, and its fitted copies",
    .help = "  NAME    a name of 'cabe list'; paths are refused. Of a link, only the link goes\n"
            "  --json  one JSON document\n",
    .run = run,
};
