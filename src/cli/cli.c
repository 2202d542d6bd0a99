#include "cli.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"

struct cabe_cancel cli_cancel;

static uint64_t main_ns, loading_ns; /* the clock when main() began; the time the process had taken by then */

void cli_started(void)
{
    struct timespec spent;

    main_ns = cabe_clock_ns();
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent) == 0)
        loading_ns = (uint64_t)spent.tv_sec * 1000000000u + (uint64_t)spent.tv_nsec;
}

double cli_start_ms(uint64_t ns)
{
    return (double)(ns - main_ns + loading_ns) / 1e6;
}

int cli_error(int json, const struct cabe_error *err)
{
    if (json) {
        json_t *error = json_pack("{s:s,s:o}", "status", cabe_status_name(err->status), "message",
                                  cabe_json_text(err->text, strlen(err->text)));

        if (err->missing_bytes > 0)
            json_object_set_new(error, "missing_bytes", json_integer((json_int_t)err->missing_bytes));
        cli_print_json(json_pack("{s:o}", "error", error));
    }
    fprintf(stderr, "cabe: %s\n", err->text);
    return cabe_status_exit_code(err->status);
}

int cli_usage(const struct cabe_command *command, const char *format, ...)
{
    va_list args;

    if (format) {
        fprintf(stderr, "cabe %s: ", command->name);
        va_start(args, format);
        vfprintf(stderr, format, args);
        va_end(args);
        fputc('\n', stderr);
    }
    fprintf(stderr, "usage: cabe %s\n", command->usage);
    return cabe_status_exit_code(CABE_ERR_ARGUMENT);
}

int cli_help(const struct cabe_command *command)
{
    char *more = command->more_help ? command->more_help() : NULL;

    printf("usage: cabe %s\n\n%c%s.\n\n%s%s", command->usage, toupper((unsigned char)command->summary[0]),
           command->summary + 1, command->help, more ? more : "");
    cabe_free(more);
    return fflush(stdout) == 0 ? 0 : cabe_status_exit_code(CABE_ERR_IO);
}

int cli_print_json(json_t *document)
{
    int failed = !document || json_dumpf(document, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(10)) != 0 ||
                 fputc('\n', stdout) == EOF || fflush(stdout) != 0;

    json_decref(document);
    if (!failed)
        return 0;
    fprintf(stderr, "cabe: the result could not be written to standard output\n");
    return cabe_status_exit_code(CABE_ERR_IO);
}

enum cabe_status cli_parse_bytes(const char *text, uint64_t *bytes, struct cabe_error *err)
{
    static const char *const units[] = {"", "K", "M", "G", "T"};
    char *end;
    double number = strtod(text, &end);

    while (*end == ' ')
        end++;
    for (int i = 0; i < 5; i++) {
        size_t n = strlen(units[i]);
        const char *rest = end + n;
        double scaled = number;

        if (strncasecmp(end, units[i], n) != 0 ||
            !(*rest == '\0' || strcasecmp(rest, "B") == 0 || (n && strcasecmp(rest, "iB") == 0)))
            continue;
        for (int k = 0; k < i; k++)
            scaled *= 1024.0;
        if (end == text || !(scaled >= 1.0) || scaled >= 0x1p63)
            break;
        *bytes = (uint64_t)scaled;
        return CABE_OK;
    }
    return cabe_fail(err, CABE_ERR_ARGUMENT, "'%s' is not a size; wanted something like 512M, 1.5G or 4096", text);
}

const char *cli_format_bytes(uint64_t bytes, char out[CLI_BYTES_MAX])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double number = (double)bytes;
    int unit = 0;

    while (number >= 1023.95 && unit < 6) {
        number /= 1024.0;
        unit++;
    }
    snprintf(out, CLI_BYTES_MAX, unit == 0 ? "%.0f %s" : "%.1f %s", number, units[unit]);
    return out;
}

/* One line that is written over; its state belongs to the one working thread of the program. */
static struct {
    uint64_t begun_ns, shown_ns;
    char what[32];
    int open;
} line;

static void show_bytes(uint64_t done, uint64_t total, double rate)
{
    char text[CLI_BYTES_MAX];

    fputs(cli_format_bytes(done, text), stderr);
    if (total)
        fprintf(stderr, " of %s", cli_format_bytes(total, text));
    if (rate > 0)
        fprintf(stderr, ", %s/s", cli_format_bytes((uint64_t)rate, text));
}

static void show_count(uint64_t done, uint64_t total, const char *unit, double rate)
{
    fprintf(stderr, "%" PRIu64, done);
    if (total)
        fprintf(stderr, " of %" PRIu64, total);
    fprintf(stderr, " %s", unit);
    if (rate > 0)
        fprintf(stderr, ", %.*f/s", rate < 10 ? 1 : 0, rate);
}

static void show_progress(void *self, const char *what, uint64_t done, uint64_t total, const char *unit)
{
    uint64_t now = cabe_clock_ns();
    double seconds, rate;

    (void)self;
    if (strncmp(line.what, what, sizeof line.what - 1) != 0) {
        cli_progress_end();
        snprintf(line.what, sizeof line.what, "%s", what);
        line.begun_ns = now;
        line.shown_ns = 0;
    }
    if (line.shown_ns && now - line.shown_ns < 200000000u && done != total)
        return;
    line.shown_ns = now;
    seconds = (double)(now - line.begun_ns) / 1e9;
    rate = seconds > 0.05 ? (double)done / seconds : 0;
    fprintf(stderr, "\r\033[K%s: ", what);
    if (strcmp(unit, "bytes") == 0)
        show_bytes(done, total, rate);
    else
        show_count(done, total, unit, rate);
    if (rate > 0 && total > done)
        fprintf(stderr, ", %.0f s left", (double)(total - done) / rate);
    fflush(stderr);
    line.open = 1;
}

struct cabe_progress cli_progress(void)
{
    struct cabe_progress progress = {isatty(STDERR_FILENO) ? show_progress : NULL, NULL};

    return progress;
}

void cli_progress_end(void)
{
    if (line.open)
        fputs("\r\033[K", stderr);
    line.open = 0;
    line.what[0] = '\0';
}
