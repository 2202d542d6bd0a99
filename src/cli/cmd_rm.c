#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "cli.h"
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

static int run(int argc, char **argv)
{
    struct options options = {0};
    char size[CLI_BYTES_MAX];
    struct cabe_error err;
    uint64_t bytes;
    int code = parse(&options, argc, argv);

    if (code != 0)
        return code;
    if (options.help)
        return cli_help(&cabe_cmd_rm);
    if (cabe_store_remove(options.model, &bytes, &err) != CABE_OK)
        return cli_error(options.json, &err);
    if (options.json)
        return cli_print_json(json_pack("{s:s,s:o}", "removed", options.model, "bytes", cabe_json_count(bytes)));
    printf("removed %s, %s\n", options.model, cli_format_bytes(bytes, size));
    return fflush(stdout) == 0 ? 0 : cabe_status_exit_code(CABE_ERR_IO);
}

const struct cabe_command cabe_cmd_rm = {
    .name = "rm",
    .usage = "rm NAME [--json]",
    .summary = "removes a model from the store; of a link, the link alone",
    .help = "  NAME    a name of 'cabe list'; paths are refused\n"
            "  --json  one JSON document\n",
    .run = run,
};
