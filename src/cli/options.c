#include "options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/process.h"
#include "format/store.h"

void cli_options_init(struct cli_options *options)
{
    memset(options, 0, sizeof *options);
    options->rows = -1;
    options->prefix = -1;
    options->wishes.dtype = -1;
    options->wishes.precision = -1;
}

static int take_number(const struct cabe_command *command, const char *name, long max, long *out)
{
    char *end;

    *out = strtol(optarg, &end, 10);
    if (*end == '\0' && end != optarg && *out >= 1 && *out <= max)
        return 1;
    cli_usage(command, "--%s '%s': wanted a number from 1 to %ld", name, optarg, max);
    return -1;
}

static int take_bytes(const struct cabe_command *command, const char *name, const char *text, uint64_t *out)
{
    struct cabe_error err;

    if (cli_parse_bytes(text, out, &err) == CABE_OK)
        return 1;
    cli_usage(command, "--%s: %s", name, err.text);
    return -1;
}

static int take_device(struct cli_options *options, const struct cabe_command *command)
{
    if (strcmp(optarg, "cpu") == 0)
        return 1;
    if (strncmp(optarg, "sim", 3) == 0 && (optarg[3] == '\0' || optarg[3] == ':')) {
        options->device = CABE_DEVICE_SIM;
        return optarg[3] ? take_bytes(command, "device", optarg + 4, &options->device_cap_bytes) : 1;
    }
    cli_usage(command, "--device '%s': wanted cpu or sim[:SIZE]", optarg);
    return -1;
}

static int take_dtype(const struct cabe_command *command, const char *name, const enum cabe_dtype *allowed, int n,
                      int *out)
{
    char list[80] = "";
    enum cabe_dtype dtype = cabe_dtype_find(optarg);

    for (int i = 0; i < n; i++) {
        if (allowed[i] == dtype) {
            *out = (int)dtype;
            return 1;
        }
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", cabe_dtype_name(allowed[i]));
    }
    cli_usage(command, "--%s '%s': wanted one of %s", name, optarg, list);
    return -1;
}

enum cabe_prefix cli_prefix_find(const char *name)
{
    static const char *const names[] = {"none", "query", "passage"};

    for (int i = 0; i < 3; i++)
        if (strcmp(names[i], name) == 0)
            return (enum cabe_prefix)i;
    return (enum cabe_prefix)-1;
}

int cli_options_take(struct cli_options *options, const struct cabe_command *command, int option)
{
    static const enum cabe_dtype weights[] = {CABE_F32, CABE_F16, CABE_BF16, CABE_I8, CABE_Q8_0, CABE_Q4_0};
    static const enum cabe_dtype rows[] = {CABE_F32, CABE_F16, CABE_I8};
    long number;
    int taken = 1;

    switch (option) {
    case CLI_MEMORY:
        return take_bytes(command, "memory", optarg, &options->memory_bytes);
    case CLI_THREADS:
        taken = take_number(command, "threads", CABE_TEAM_MAX, &number);
        options->n_threads = (int)number;
        return taken;
    case CLI_BATCH:
        taken = take_number(command, "batch", 1 << 20, &number);
        options->wishes.batch_tokens = number;
        return taken;
    case CLI_JSON:
        options->json = 1;
        return 1;
    case CLI_VERBOSE:
        options->verbose = 1;
        return 1;
    case CLI_DESCRIBE:
        options->describe = optarg;
        return 1;
    case CLI_DEVICE:
        return take_device(options, command);
    case CLI_DTYPE:
        return take_dtype(command, "dtype", weights, 6, &options->wishes.dtype);
    case CLI_ROWS:
        return take_dtype(command, "rows", rows, 3, &options->rows);
    case CLI_PRECISION:
        options->wishes.precision = strcmp(optarg, "high") == 0   ? CABE_PRECISION_HIGH
                                    : strcmp(optarg, "int8") == 0 ? CABE_PRECISION_INT8
                                                                  : -1;
        if (options->wishes.precision >= 0)
            return 1;
        cli_usage(command, "--precision '%s': wanted high or int8", optarg);
        return -1;
    case CLI_PREFIX:
        options->prefix = (int)cli_prefix_find(optarg);
        if (options->prefix >= 0)
            return 1;
        cli_usage(command, "--prefix '%s': wanted query, passage or none", optarg);
        return -1;
    default:
        return 0;
    }
}

/* The log of the one session a command opens; lives to the end of the process. */
static struct cabe_log *verbose_log;

struct cabe_session *cli_session(const struct cli_options *options, int plan_only, int *exit_code)
{
    struct cabe_session_config config = {.memory_bytes = options->memory_bytes,
                                         .n_threads = options->n_threads,
                                         .device = options->device,
                                         .device_cap_bytes = options->device_cap_bytes,
                                         .cancel = &cli_cancel,
                                         .progress = cli_progress()};
    struct cabe_session *session = NULL;
    struct cabe_machine machine;
    struct cabe_error err;
    enum cabe_status status = CABE_OK;

    if (options->describe) {
        status = cabe_machine_describe(&machine, options->describe, &err);
        config.machine = &machine;
    }
    if (status == CABE_OK && options->verbose && !verbose_log)
        status = cabe_log_open(&verbose_log, stderr, CABE_LOG_JSON, CABE_LOG_INFO, &err);
    config.log = verbose_log;
    if (status == CABE_OK)
        status = cabe_session_open(&session, &config, plan_only, &err);
    if (status != CABE_OK)
        *exit_code = cli_error(options->json, &err);
    return session;
}

uint64_t cli_peak_bytes(void)
{
    struct cabe_rss rss;

    return cabe_rss_read(&rss) == 0 ? rss.high_bytes : 0;
}

uint64_t cli_predicted_bytes(const struct cabe_plan *plan)
{
    uint64_t sum = 0;

    for (int d = 0; d < plan->n_devices; d++)
        sum += plan->peak_bytes[d];
    return sum;
}

enum cabe_status cli_model_path(char out[4096], const char *name, struct cabe_error *err)
{
    return cabe_store_resolve(name, out, err);
}
