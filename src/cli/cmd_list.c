#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "cli.h"
#include "format/source.h"
#include "format/store.h"

struct options {
    int json, help;
};

static int parse(struct options *options, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            options->json = 1;
        else if (strcmp(argv[i], "--help") == 0)
            options->help = 1;
        else
            return cli_usage(&cabe_cmd_list, "unknown argument '%s'", argv[i]);
    }
    return 0;
}

/* Headers alone. A model that does not open is listed with the reason. */
static enum cabe_status summarise(const char *name, struct cabe_source_summary *out, char path[CABE_STORE_PATH_MAX],
                                  struct cabe_error *err)
{
    struct cabe_source *source;
    enum cabe_status status = cabe_store_resolve(name, path, err);

    if (status == CABE_OK)
        status = cabe_source_open(&source, path, err);
    if (status != CABE_OK)
        return status;
    cabe_source_summarise(source, out);
    cabe_source_close(source);
    return CABE_OK;
}

static json_t *describe(const struct cabe_store_entry *entry)
{
    struct cabe_source_summary summary;
    char path[CABE_STORE_PATH_MAX];
    struct cabe_error err;
    json_t *model;

    if (summarise(entry->name, &summary, path, &err) == CABE_OK)
        model = json_pack("{s:s,s:s,s:s,s:s,s:o,s:o}", "name", entry->name, "format", summary.format, "architecture",
                          summary.architecture, "dtype", summary.type, "parameters",
                          cabe_json_count(summary.n_params), "bytes", cabe_json_count(summary.bytes));
    else
        model = json_pack("{s:s,s:o}", "name", entry->name, "error", cabe_json_text(err.text, strlen(err.text)));
    if (model)
        json_object_set_new(model, "path", cabe_json_text(path, strlen(path)));
    if (model && entry->is_link)
        json_object_set_new(model, "link", cabe_json_text(entry->target, strlen(entry->target)));
    return model;
}

static const char *format_count(uint64_t n, char out[16])
{
    const char *units[] = {"", "K", "M", "G", "T"};
    double number = (double)n;
    int unit = 0;

    for (; number >= 999.95 && unit < 4; unit++)
        number /= 1000.0;
    snprintf(out, 16, unit ? "%.1f %s" : "%.0f%s", number, units[unit]);
    return out;
}

static void print_entry(const struct cabe_store_entry *entry)
{
    struct cabe_source_summary summary;
    char path[CABE_STORE_PATH_MAX], size[CLI_BYTES_MAX], count[16];
    struct cabe_error err;

    if (summarise(entry->name, &summary, path, &err) != CABE_OK) {
        printf("%-32s  %s\n", entry->name, err.text);
        return;
    }
    printf("%-32s  %-12s  %-12s  %-6s  %9s  %10s%s%s\n", entry->name, summary.format, summary.architecture,
           summary.type, format_count(summary.n_params, count), cli_format_bytes(summary.bytes, size),
           entry->is_link ? "  -> " : "", entry->is_link ? entry->target : "");
}

static int run(int argc, char **argv)
{
    struct options options = {0};
    struct cabe_store_entry *entries;
    struct cabe_error err;
    size_t n;
    int code = parse(&options, argc, argv);

    if (code != 0)
        return code;
    if (options.help)
        return cli_help(&cabe_cmd_list);
    if (cabe_store_list(&entries, &n, &err) != CABE_OK)
        return cli_error(options.json, &err);
    if (options.json) {
        json_t *models = json_array();

        for (size_t i = 0; i < n; i++)
            json_array_append_new(models, describe(&entries[i]));
        code = cli_print_json(json_pack("{s:o}", "models", models));
    } else {
        if (n > 0)
            printf("%-32s  %-12s  %-12s  %-6s  %9s  %10s\n", "name", "format", "architecture", "dtype", "params",
                   "size");
        else
            fprintf(stderr, "no models yet; 'cabe pull PATH' takes one in\n");
        for (size_t i = 0; i < n; i++)
            print_entry(&entries[i]);
        code = fflush(stdout) == 0 ? 0 : cabe_status_exit_code(CABE_ERR_IO);
    }
    cabe_free(entries);
    return code;
}

const struct cabe_command cabe_cmd_list = {
    .name = "list",
    .usage = "list [--json]",
    .summary = "lists the models of the store",
    .help = "  --json  one JSON document\n",
    .run = run,
};
