#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "cli.h"
#include "serve/server.h"

#define FLAGS_MAX 128

struct wanted {
    struct cabe_serve_flag flags[FLAGS_MAX];
    size_t n_flags;
    const char *config_path;
    int print_config;
    char names[FLAGS_MAX][64];         /* of flags written with "=" */
    char models[sizeof((struct cabe_serve_config *)0)->models]; /* words that are no flags */
};

/* For signal handlers; set before they are. */
static struct cabe_server *running;

/* The first asks for a drain; the second one, of either kind and by then unhandled, ends the process. */
static void on_signal(int number)
{
    (void)number;
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    cabe_server_stop(running);
}

static void handle_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

/* The heap of a process that runs for months: few arenas, and what was large goes back when it is freed, so that what is
 * resident stays what the ledger says. */
static void keep_heap_small(void)
{
#ifdef __GLIBC__
    mallopt(M_ARENA_MAX, 2);
    mallopt(M_MMAP_THRESHOLD, 128 << 10);
    mallopt(M_TRIM_THRESHOLD, 256 << 10);
#endif
}

static int add_model(struct wanted *w, const char *model)
{
    size_t used = strlen(w->models);

    if (used + strlen(model) + 2 > sizeof w->models)
        return cli_usage(&cabe_cmd_serve, "names of models of more than %zu bytes", sizeof w->models - 1);
    snprintf(w->models + used, sizeof w->models - used, "%s%s", used ? "," : "", model);
    return 0;
}

/* One flag of argv[*i], whose value may be the next word; an exit code. */
static int take_flag(struct wanted *w, int argc, char **argv, int *i)
{
    const char *name = argv[*i] + 2, *equals = strchr(name, '='), *value = equals ? equals + 1 : NULL;
    const struct cabe_setting *setting;

    if (w->n_flags == FLAGS_MAX)
        return cli_usage(&cabe_cmd_serve, "more than %d flags", FLAGS_MAX);
    if (equals) {
        if ((size_t)(equals - name) >= sizeof w->names[0])
            return cli_usage(&cabe_cmd_serve, "no setting '%.80s'", name);
        memcpy(w->names[w->n_flags], name, (size_t)(equals - name));
        name = w->names[w->n_flags];
    }
    setting = cabe_setting_find(name);
    if (!setting && strcmp(name, "config") != 0)
        return cli_usage(&cabe_cmd_serve, "no option '--%s'", name);
    if (!value && setting && setting->kind == CABE_SETTING_KIND_BOOL)
        value = "true";
    if (!value && ++*i < argc)
        value = argv[*i];
    if (!value)
        return cli_usage(&cabe_cmd_serve, "--%s: a value is missing", name);
    if (!setting)
        w->config_path = value;
    else
        w->flags[w->n_flags++] = (struct cabe_serve_flag){name, value};
    return 0;
}

static int take_words(struct wanted *w, int argc, char **argv)
{
    int code = 0;

    for (int i = 1; code == 0 && i < argc; i++) {
        if (strcmp(argv[i], "--print-config") == 0)
            w->print_config = 1;
        else if (strncmp(argv[i], "--", 2) == 0)
            code = take_flag(w, argc, argv, &i);
        else
            code = add_model(w, argv[i]);
    }
    if (code == 0 && w->models[0]) {
        for (size_t i = 0; i < w->n_flags; i++)
            if (strcmp(w->flags[i].name, "models") == 0)
                return cli_usage(&cabe_cmd_serve, "models as words and as --models: one of both");
        if (w->n_flags == FLAGS_MAX)
            return cli_usage(&cabe_cmd_serve, "more than %d flags", FLAGS_MAX);
        w->flags[w->n_flags++] = (struct cabe_serve_flag){"models", w->models};
    }
    return code;
}

static void print_address(const struct cabe_serve_config *config, int port)
{
    const char *host = strcmp(config->host, "0.0.0.0") == 0 || strcmp(config->host, "::") == 0 ? "localhost"
                                                                                                : config->host;
    int is_v6 = strchr(host, ':') != NULL;

    if (port)
        printf("cabe listens at http%s://%s%s%s:%d\n", config->tls_certificate[0] ? "s" : "", is_v6 ? "[" : "", host,
               is_v6 ? "]" : "", port);
    if (config->unix_socket[0])
        printf("cabe listens at unix:%s\n", config->unix_socket);
    fflush(stdout);
}

static int serve(const struct cabe_serve_config *config)
{
    struct cabe_error err;
    enum cabe_status status = cabe_server_open(&running, config, &err);

    if (status != CABE_OK)
        return cli_error(0, &err);
    handle_signals();
    print_address(config, cabe_http_port(running->http));
    status = cabe_server_run(running, &err);
    cabe_server_close(running);
    return status == CABE_OK ? 0 : cli_error(0, &err);
}

static int run_wanted(struct wanted *w, struct cabe_serve_config *config)
{
    struct cabe_error err;

    if (cabe_serve_config_read(config, w->config_path, environ, w->flags, w->n_flags, &err) != CABE_OK)
        return cli_error(0, &err);
    return w->print_config ? cli_print_json(cabe_serve_config_json(config)) : serve(config);
}

static int run(int argc, char **argv)
{
    struct wanted *w;
    struct cabe_serve_config *config;
    int code;

    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0)
            return cli_help(&cabe_cmd_serve);
    keep_heap_small();
    w = cabe_calloc(1, sizeof *w);
    config = cabe_malloc(sizeof *config);
    if (!w || !config) {
        struct cabe_error err;

        cabe_fail(&err, CABE_ERR_OOM, "settings");
        code = cli_error(0, &err);
    } else {
        code = take_words(w, argc, argv);
        if (code == 0)
            code = run_wanted(w, config);
    }
    cabe_free(w);
    cabe_free(config);
    return code;
}

const struct cabe_command cabe_cmd_serve = {
    .name = "serve",
    .usage = "serve [MODEL...] [--config FILE] [--print-config] [--SETTING VALUE...]",
    .summary = "serves models over HTTP: OpenAI's, Ollama's and our own API",
    .help = "  MODEL                             to load at the start: NAME, NAME=PATH or PATH\n"
            "  --config FILE                     settings as JSON\n"
            "  --print-config                    print the settings that hold, as such a file, and end\n"
            "  --help                            this text\n"
            "\n"
            "settings; port is --port 8080, CABE_PORT=8080, or in the file \"port\": 8080:\n",
    .run = run,
    .more_help = cabe_serve_config_help,
};
