#include <getopt.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/memory.h"
#include "cli.h"
#include "http_get.h"

#define DEFAULT_URL "http://127.0.0.1:11500"
#define ROWS_MAX 200
#define COLUMNS_MAX 250

enum { OPT_URL = 300, OPT_KEY, OPT_INTERVAL, OPT_ONCE, OPT_JSON, OPT_HELP };

static const struct option long_options[] = {
    {"url", required_argument, NULL, OPT_URL},           {"key", required_argument, NULL, OPT_KEY},
    {"interval", required_argument, NULL, OPT_INTERVAL}, {"once", no_argument, NULL, OPT_ONCE},
    {"json", no_argument, NULL, OPT_JSON},               {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

/* Lines of one picture: cut to the terminal's width in characters, colours not counted. */
struct screen {
    int columns, rows, n, is_colour;
    char *line[ROWS_MAX];
};

/* ---- numbers of JSON that may be missing ---- */

static const json_t *find(const json_t *json, const char *path)
{
    char name[64];

    while (json && *path) {
        size_t n = strcspn(path, ".");

        snprintf(name, sizeof name, "%.*s", (int)n, path);
        json = json_object_get(json, name);
        path += n + (path[n] == '.');
    }
    return json;
}

static double number(const json_t *json, const char *path)
{
    return json_number_value(find(json, path));
}

/* A server may call a model anything: control characters would be the terminal's. */
static const char *text(const json_t *json, const char *path)
{
    const char *value = json_string_value(find(json, path));

    for (char *at = (char *)(uintptr_t)value; at && *at; at++)
        if ((unsigned char)*at < ' ' || *at == 0x7F)
            *at = '?';
    return value ? value : "";
}

static const char *bytes(double n, char out[CLI_BYTES_MAX])
{
    return cli_format_bytes(n > 0 ? (uint64_t)n : 0, out);
}

static const char *duration(double s, char out[16])
{
    if (s < 1)
        snprintf(out, 16, "%.0f ms", s * 1000);
    else if (s < 100)
        snprintf(out, 16, "%.1f s", s);
    else
        snprintf(out, 16, s < 6000 ? "%.0f min" : "%.0f h", s < 6000 ? s / 60 : s / 3600);
    return out;
}

/* ---- drawing ---- */

static void put(struct screen *screen, const char *format, ...) CABE_PRINTF(2, 3);
static void put(struct screen *screen, const char *format, ...)
{
    char line[2048];
    int columns = 0, in_code = 0;
    size_t at = 0;
    va_list args;

    if (screen->n >= screen->rows || screen->n >= ROWS_MAX)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    for (; line[at]; at++) {
        if (line[at] == 0x1B || in_code) {
            in_code = line[at] != 'm'; /* a colour takes no room */
            continue;
        }
        if (((unsigned char)line[at] & 0xC0) != 0x80 && ++columns > screen->columns)
            break;
    }
    line[at] = '\0';
    if (screen->is_colour && at + 5 < sizeof line)
        strcat(line, "\033[0m");
    screen->line[screen->n] = cabe_strdup(line);
    screen->n += screen->line[screen->n] != NULL;
}

static const char *paint(const struct screen *screen, const char *code)
{
    return screen->is_colour ? code : "";
}

#define BOLD "\033[1m"
#define DIM "\033[2m"
#define PLAIN "\033[0m"
#define GREEN "\033[32m"
#define YELLOW "\033[33m"
#define RED "\033[31m"
#define CYAN "\033[36m"

static void bar(const struct screen *screen, double share, int width, char out[128])
{
    int full = (int)(share * width + 0.5);
    size_t n = 0;

    full = full < 0 ? 0 : full > width ? width : full;
    n += (size_t)snprintf(out, 128, "%s", paint(screen, share > 0.95 ? RED : share > 0.8 ? YELLOW : CYAN));
    for (int i = 0; i < width; i++)
        out[n++] = i < full ? '|' : '.';
    snprintf(out + n, 128 - n, "%s", paint(screen, PLAIN));
}

static void draw_memory(struct screen *screen, const json_t *stats)
{
    const json_t *device, *value;
    const char *name;
    size_t number_of;

    json_array_foreach(find(stats, "now.memory.devices"), number_of, device)
    {
        double budget = number(device, "budget_bytes"), used = number(device, "reserved_bytes");
        char gauge[128], a[CLI_BYTES_MAX], b[CLI_BYTES_MAX], c[CLI_BYTES_MAX], line[512] = "";
        size_t n = 0;

        bar(screen, budget > 0 ? used / budget : 0, screen->columns > 100 ? 50 : 30, gauge);
        put(screen, "%-7s [%s] %s of %s, %.0f %%; %s touched", text(device, "name"), gauge, bytes(used, a),
            bytes(budget, b), budget > 0 ? 100 * used / budget : 0, bytes(number(device, "touched_bytes"), c));
        json_object_foreach((json_t *)(uintptr_t)find(device, "purposes"), name, value)
        {
            if (n < sizeof line - 64)
                n += (size_t)snprintf(line + n, sizeof line - n, "%s%s %s%s%s", n ? "  " : "", name, paint(screen, BOLD),
                                      bytes(json_number_value(value), a), paint(screen, PLAIN));
        }
        put(screen, "        %s", line);
    }
    char rss[CLI_BYTES_MAX], free_[CLI_BYTES_MAX];

    put(screen, "        resident %s, available on the machine %s", bytes(number(stats, "now.memory.rss_bytes"), rss),
        bytes(number(stats, "now.memory.available_bytes"), free_));
}

static void draw_work(struct screen *screen, const json_t *stats)
{
    double queried = number(stats, "service.cache.queried_tokens");
    const json_t *holder = json_array_get(find(stats, "jobs.slots.holders"), 0);
    char held[16], cache[32] = "none yet";

    if (queried > 0)
        snprintf(cache, sizeof cache, "%.1f %%", 100 * number(stats, "service.cache.hit_tokens") / queried);
    put(screen, "%sanswers%s %.0f running, %.0f waiting   %stokens/s%s %.1f   %sprompts/s%s %.0f   %scache%s %s",
        paint(screen, DIM), paint(screen, PLAIN), number(stats, "now.requests.running"),
        number(stats, "now.requests.waiting"), paint(screen, DIM), paint(screen, PLAIN), number(stats, "now.tokens_per_s"),
        paint(screen, DIM), paint(screen, PLAIN), number(stats, "now.prompt_tokens_per_s"), paint(screen, DIM),
        paint(screen, PLAIN), cache);
    put(screen, "%sjobs%s %.0f running, %.0f waiting   %sworkers%s %.0f of %.0f   %sslots%s %.0f of %.0f%s%s%s%s",
        paint(screen, DIM), paint(screen, PLAIN), number(stats, "jobs.running"), number(stats, "jobs.waiting"),
        paint(screen, DIM), paint(screen, PLAIN), number(stats, "workers.busy"), number(stats, "workers.workers"),
        paint(screen, DIM), paint(screen, PLAIN), number(stats, "jobs.slots.held"), number(stats, "jobs.slots.slots"),
        holder ? ": " : "", holder ? text(holder, "name") : "", holder ? ", " : "",
        holder ? duration(number(holder, "held_s"), held) : "");
}

/* Quantiles of a model's answers, "" where it has not answered. */
static void latency_of(const json_t *stats, const char *name, char first[32], char between[32])
{
    const json_t *answer;
    char a[16], b[16];
    size_t i;

    first[0] = between[0] = '\0';
    json_array_foreach(find(stats, "answers"), i, answer)
    {
        if (strcmp(text(answer, "model"), name) != 0 || number(answer, "first_token_s.n") == 0)
            continue;
        snprintf(first, 32, "%s/%s", duration(number(answer, "first_token_s.p50"), a),
                 duration(number(answer, "first_token_s.p95"), b));
        snprintf(between, 32, "%s/%s", duration(number(answer, "between_tokens_s.p50"), a),
                 duration(number(answer, "between_tokens_s.p95"), b));
    }
}

static void draw_model(struct screen *screen, const json_t *stats, const json_t *model)
{
    int width = screen->columns >= 110 ? 36 : 22, is_ready = strcmp(text(model, "state"), "ready") == 0;
    char size[CLI_BYTES_MAX], first[32], between[32];

    latency_of(stats, text(model, "name"), first, between);
    put(screen, "%-*.*s %s%-9s%s %9s %4.0f %4.0f %7.1f  %-13s %-13s", width, width, text(model, "name"),
        paint(screen, is_ready ? GREEN : YELLOW), json_is_true(find(model, "pinned")) ? "pinned" : text(model, "state"),
        paint(screen, PLAIN), bytes(number(model, "bytes"), size), number(model, "running"), number(model, "waiting"),
        number(model, "tokens_per_s"), first, screen->columns >= 96 ? between : "");
}

static void draw_models(struct screen *screen, const json_t *stats)
{
    int width = screen->columns >= 110 ? 36 : 22, n_absent = 0;
    const json_t *model;
    size_t i;

    put(screen, "%s%-*s %-9s %9s %4s %4s %7s  %-13s %-13s", paint(screen, BOLD), width, "MODEL", "STATE", "MEMORY", "RUN",
        "WAIT", "TOK/S", "FIRST 50/95", screen->columns >= 96 ? "NEXT 50/95" : "");
    json_array_foreach(find(stats, "models"), i, model)
    {
        if (strcmp(text(model, "state"), "absent") == 0 && number(model, "waiting") == 0)
            n_absent++;
        else
            draw_model(screen, stats, model);
    }
    if (n_absent > 0)
        put(screen, "%s%d more on disk", paint(screen, DIM), n_absent);
}

static void draw_slow(struct screen *screen, const json_t *stats)
{
    const json_t *slow, *list = find(stats, "slow");
    int width = screen->columns > 100 ? 60 : screen->columns > 60 ? screen->columns - 37 : 20;
    double now = number(stats, "now.time");
    size_t i;

    if (json_array_size(list) == 0)
        return;
    put(screen, "%s", "");
    put(screen, "%s%-16s %-*s %8s %9s", paint(screen, BOLD), "SLOW", width, "", "TIME", "AGO");
    json_array_foreach(list, i, slow)
    {
        char took[16], ago[16];

        put(screen, "%-16.16s %-*.*s %8s %9s", text(slow, "operation"), width, width, text(slow, "detail"),
            duration(number(slow, "seconds"), took), duration(now > number(slow, "time") ? now - number(slow, "time") : 0, ago));
    }
}

static void draw(struct screen *screen, const json_t *stats, const char *url)
{
    char up[16];
    double stalled = number(stats, "service.stalled_s");

    put(screen, "%scabe %s%s  %s  up %s%s%s", paint(screen, BOLD), text(stats, "version"), paint(screen, PLAIN), url,
        duration(number(stats, "uptime_s"), up), paint(screen, stalled > 4 ? RED : PLAIN), stalled > 4 ? "  STALLED" : "");
    put(screen, "%s", "");
    draw_memory(screen, stats);
    put(screen, "%s", "");
    draw_work(screen, stats);
    put(screen, "%s", "");
    draw_models(screen, stats);
    draw_slow(screen, stats);
}

static void show(struct screen *screen, int in_place)
{
    if (in_place)
        fputs("\033[H", stdout);
    for (int i = 0; i < screen->n; i++) {
        printf("%s%s", screen->line[i], in_place ? "\033[K" : "");
        if (!in_place || i + 1 < screen->rows)
            fputs(in_place ? "\r\n" : "\n", stdout);
        cabe_free(screen->line[i]);
    }
    if (in_place)
        fputs("\033[J", stdout);
    fflush(stdout);
    screen->n = 0;
}

/* ---- the terminal ---- */

static struct termios before;

static void open_terminal(void)
{
    struct termios raw;

    tcgetattr(STDIN_FILENO, &before);
    raw = before;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    fputs("\033[?1049h\033[?25l", stdout);
}

static void close_terminal(void)
{
    fputs("\033[?25h\033[?1049l", stdout);
    fflush(stdout);
    tcsetattr(STDIN_FILENO, TCSANOW, &before);
}

static void measure_screen(struct screen *screen, int is_terminal)
{
    struct winsize size;

    screen->columns = 120;
    screen->rows = ROWS_MAX;
    if (is_terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
        screen->columns = size.ws_col < COLUMNS_MAX ? size.ws_col : COLUMNS_MAX;
        screen->rows = size.ws_row < ROWS_MAX ? size.ws_row : ROWS_MAX;
    }
}

/* 1: 'q' was pressed, or a signal came. */
static int wait_key(double seconds)
{
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    char c = 0;

    if (poll(&in, 1, (int)(seconds * 1000)) > 0 && read(STDIN_FILENO, &c, 1) <= 0)
        return 1;
    return cabe_cancelled(&cli_cancel) || c == 'q' || c == 'Q' || c == 3;
}

/* ---- the command ---- */

struct top {
    struct cli_server server;
    const char *url;
    double interval_s;
    int once, json;
};

static enum cabe_status ask(const struct top *top, json_t **stats, struct cabe_error *err)
{
    json_error_t why;
    char *body;
    size_t n;
    enum cabe_status status = cli_http_get(&top->server, "/v1/stats", &body, &n, err);

    if (status != CABE_OK)
        return status;
    *stats = json_loadb(body, n, 0, &why);
    cabe_free(body);
    return *stats ? CABE_OK : cabe_fail(err, CABE_ERR_FORMAT, "%s: this is no cabe server: %s", top->url, why.text);
}

static int watch(const struct top *top)
{
    struct screen screen = {.is_colour = 1};
    int code = 0;

    open_terminal();
    do {
        json_t *stats = NULL;
        struct cabe_error err;

        measure_screen(&screen, 1);
        if (ask(top, &stats, &err) == CABE_OK)
            draw(&screen, stats, top->url);
        else
            put(&screen, "%s%s", RED, err.text); /* it may come back */
        json_decref(stats);
        show(&screen, 1);
    } while (!wait_key(top->interval_s));
    close_terminal();
    return code;
}

static int run_top(const struct top *top)
{
    int is_terminal = isatty(STDOUT_FILENO);
    struct screen screen = {.is_colour = is_terminal && !getenv("NO_COLOR")};
    struct cabe_error err;
    json_t *stats;

    if (ask(top, &stats, &err) != CABE_OK)
        return cli_error(top->json, &err);
    if (top->json)
        return cli_print_json(stats);
    if (top->once || !is_terminal || !isatty(STDIN_FILENO)) {
        measure_screen(&screen, is_terminal);
        screen.rows = ROWS_MAX;
        draw(&screen, stats, top->url);
        json_decref(stats);
        show(&screen, 0);
        return ferror(stdout) ? cabe_status_exit_code(CABE_ERR_IO) : 0;
    }
    json_decref(stats);
    return watch(top);
}

static int run(int argc, char **argv)
{
    struct top top = {.url = getenv("CABE_URL") ? getenv("CABE_URL") : DEFAULT_URL, .interval_s = 1};
    const char *key = getenv("CABE_API_KEY");
    struct cabe_error err;
    int option;
    char *end;

    while ((option = getopt_long(argc, argv, "n:", long_options, NULL)) != -1) {
        switch (option) {
        case OPT_URL:
            top.url = optarg;
            break;
        case OPT_KEY:
            key = optarg;
            break;
        case 'n':
        case OPT_INTERVAL:
            top.interval_s = strtod(optarg, &end);
            if (*end != '\0' || !(top.interval_s >= 0.1 && top.interval_s <= 3600))
                return cli_usage(&cabe_cmd_top, "--interval '%s': wanted seconds from 0.1 to 3600", optarg);
            break;
        case OPT_ONCE:
            top.once = 1;
            break;
        case OPT_JSON:
            top.json = 1;
            break;
        case OPT_HELP:
            return cli_help(&cabe_cmd_top);
        default:
            return cli_usage(&cabe_cmd_top, NULL);
        }
    }
    if (optind < argc)
        return cli_usage(&cabe_cmd_top, "unknown argument '%s'", argv[optind]);
    if (cli_server_parse(&top.server, top.url, &err) != CABE_OK)
        return cli_error(top.json, &err);
    if (key && key[strcspn(key, "\r\n")])
        return cli_usage(&cabe_cmd_top, "--key: a key has no line ends");
    top.server.key = key && key[0] ? key : NULL;
    return run_top(&top);
}

const struct cabe_command cabe_cmd_top = {
    .name = "top",
    .usage = "top [--url URL] [--key KEY] [-n SECONDS] [--once] [--json]",
    .summary = "watches a running server: memory, models, queues",
    .help = "  --url URL           http://HOST:PORT or unix:PATH (default: CABE_URL, " DEFAULT_URL ")\n"
            "  --key KEY           API key (default: CABE_API_KEY)\n"
            "  -n, --interval S    seconds between two looks (default: 1)\n"
            "  --once              one look, and the end\n"
            "  --json              one look as JSON\n",
    .run = run,
};
