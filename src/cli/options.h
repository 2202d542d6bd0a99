/* Options that all commands on models take, and the session they ask for. */
#ifndef CABE_CLI_OPTIONS_H
#define CABE_CLI_OPTIONS_H

#include <getopt.h>

#include "cli.h"
#include "task/encoder.h"
#include "task/session.h"

struct cli_options {
    uint64_t memory_bytes;
    int n_threads;
    int json;
    int verbose;
    const char *describe; /* "8 cores, 16 GB": plan for that machine */
    enum cabe_device_kind device;
    uint64_t device_cap_bytes;
    int rows; /* enum cabe_dtype of stored embeddings; -1: free */
    struct cabe_encoder_wishes wishes;
    int prefix; /* enum cabe_prefix, -1: the command's default */
};

/* For struct option: a command adds its own after these, with values below 256. */
enum {
    CLI_MEMORY = 1000,
    CLI_THREADS,
    CLI_JSON,
    CLI_VERBOSE,
    CLI_DESCRIBE,
    CLI_DEVICE,
    CLI_ROWS,
    CLI_DTYPE,
    CLI_PRECISION,
    CLI_BATCH,
    CLI_PREFIX,
    CLI_HELP
};

#define CLI_COMMON_OPTIONS                                                                                   \
    {"memory", required_argument, NULL, CLI_MEMORY}, {"threads", required_argument, NULL, CLI_THREADS},      \
        {"json", no_argument, NULL, CLI_JSON}, {"verbose", no_argument, NULL, CLI_VERBOSE},                  \
        {"device", required_argument, NULL, CLI_DEVICE}, {"help", no_argument, NULL, CLI_HELP}
#define CLI_MODEL_OPTIONS                                                                                    \
    {"dtype", required_argument, NULL, CLI_DTYPE}, {"precision", required_argument, NULL, CLI_PRECISION},    \
        {"batch", required_argument, NULL, CLI_BATCH}

#define CLI_COMMON_HELP                                                                                      \
    "  --memory SIZE       budget of the whole process, as 512M or 1.5G (default: what the machine allows)\n" \
    "  --threads N         threads (default: physical cores that may be used)\n"                            \
    "  --device D          cpu, or sim[:SIZE], a simulated device with memory of its own\n"                 \
    "  --json              results and errors as JSON\n"                                                    \
    "  --verbose           events of the library on standard error, as JSON lines\n"                        \
    "  --help              this text\n"
#define CLI_MODEL_HELP                                                                                       \
    "  --dtype T           weights as f32, f16, bf16, int8, q8_0 or q4_0 (default: by memory; quantised\n"   \
    "                      files keep theirs)\n"                                                            \
    "  --precision P       activations of quantised products: int8 (default) or high (f32)\n"               \
    "  --batch N           tokens of one run at most\n"

void cli_options_init(struct cli_options *options);
/*
 * Takes an option value from getopt_long(). 1: taken. 0: not one of these. -1: wrong; a message and usage were
 * printed.
 */
int cli_options_take(struct cli_options *options, const struct cabe_command *command, int option);
/* Opens the session; prints the error and gives 0 when it fails. */
struct cabe_session *cli_session(const struct cli_options *options, int plan_only, int *exit_code);
/* A name in the store or a path, to a path. */
CABE_CHECKED enum cabe_status cli_model_path(char out[4096], const char *name, struct cabe_error *err);
enum cabe_prefix cli_prefix_find(const char *name); /* or -1 */

/* Peak resident size of this process so far. */
uint64_t cli_peak_bytes(void);
/* What the plan says it will be: with a simulated device its memory is this process's too. */
uint64_t cli_predicted_bytes(const struct cabe_plan *plan);

#endif
