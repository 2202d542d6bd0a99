/*
 * The program: one file per command, cmd_<name>.c, each with one entry of the table in main.c.
 *
 * A command gets its own words (argv[0] is "cabe NAME", for getopt's messages) and returns an exit code: 0, or that of a
 * status. Results go to standard output, everything else to standard error. With --json a result is one JSON document on
 * standard output and an error is {"error": {"status", "message"}} there.
 */
#ifndef CABE_CLI_CLI_H
#define CABE_CLI_CLI_H

#include <jansson.h>
#include <stdint.h>

#include "base/cancel.h"
#include "cabe/status.h"

struct cabe_command {
    const char *name;
    const char *usage;   /* after "cabe ": "machine [--json] [--describe TEXT] [--measure]" */
    const char *summary; /* one line for the list of commands: "shows this", without a full stop */
    const char *help;    /* options, one a line, ready to print */
    int (*run)(int argc, char **argv);
    char *(*more_help)(void); /* what comes after, to be freed with cabe_free(); may be NULL */
};

extern const struct cabe_command cabe_cmd_machine;
extern const struct cabe_command cabe_cmd_pull;
extern const struct cabe_command cabe_cmd_list;
extern const struct cabe_command cabe_cmd_show;
extern const struct cabe_command cabe_cmd_rm;
extern const struct cabe_command cabe_cmd_plan;
extern const struct cabe_command cabe_cmd_fit;
extern const struct cabe_command cabe_cmd_embed;
extern const struct cabe_command cabe_cmd_search;
extern const struct cabe_command cabe_cmd_analyze;
extern const struct cabe_command cabe_cmd_tokenize;
extern const struct cabe_command cabe_cmd_run;
extern const struct cabe_command cabe_cmd_serve;
extern const struct cabe_command cabe_cmd_top;
extern const struct cabe_command cabe_cmd_bench;

/* Set by SIGINT and SIGTERM; long work looks at it. */
extern struct cabe_cancel cli_cancel;

/* First of all in main(). */
void cli_started(void);
/* Milliseconds from the start of the process to `ns` of cabe_clock_ns(), what the loader did before main() included. */
double cli_start_ms(uint64_t ns);

/* Prints an error as the header says and gives its exit code. */
int cli_error(int json, const struct cabe_error *err);
/* "wrong use": prints a message (NULL: getopt has) and the command's usage to standard error, gives the exit code of
 * ERR_ARGUMENT. */
int cli_usage(const struct cabe_command *command, const char *format, ...) CABE_PRINTF(2, 3);
/* Prints what --help shows; an exit code. */
int cli_help(const struct cabe_command *command);
/* Prints a document and a newline, and releases it; an exit code. */
int cli_print_json(json_t *document);
/* "512M", "1.5G", "2GiB", "4096" to bytes: K, M, G, T count 1024. */
CABE_CHECKED enum cabe_status cli_parse_bytes(const char *text, uint64_t *bytes, struct cabe_error *err);
/* "1.4 GiB"; returns `out`. */
#define CLI_BYTES_MAX 24
const char *cli_format_bytes(uint64_t bytes, char out[CLI_BYTES_MAX]);

/* Progress on standard error with rate and time left, only when it is a terminal. */
struct cabe_progress cli_progress(void);
/* Ends the line that progress left open. */
void cli_progress_end(void);

#endif
