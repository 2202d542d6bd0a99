#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

/* In the order of the help; ends with NULL. */
static const struct cabe_command *const commands[] = {
    &cabe_cmd_machine,
    &cabe_cmd_pull,
    &cabe_cmd_list,
    &cabe_cmd_show,
    &cabe_cmd_rm,
    &cabe_cmd_plan,
    &cabe_cmd_fit,
    &cabe_cmd_embed,
    &cabe_cmd_search,
    &cabe_cmd_analyze,
    &cabe_cmd_tokenize,
    &cabe_cmd_run,
    &cabe_cmd_serve,
    &cabe_cmd_top,
    &cabe_cmd_bench,
    NULL,
};

static void print_help(FILE *to)
{
    fprintf(to, "usage: cabe COMMAND [OPTIONS]\n\ncommands:\n");
    for (size_t i = 0; commands[i]; i++)
        fprintf(to, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(to, "\n'cabe COMMAND --help' explains one; 'cabe --version' prints the version.\n");
}

/* The first signal asks for a clean stop; the second one, by then unhandled, ends the process. */
static void on_signal(int number)
{
    (void)number;
    atomic_store_explicit(&cli_cancel.wanted, 1, memory_order_relaxed);
}

static void handle_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN); /* a reader that left is a failed write, with a message */
}

static int run(int argc, char **argv)
{
    static char title[32];

    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
        print_help(argc < 2 ? stderr : stdout);
        return argc < 2 ? cabe_status_exit_code(CABE_ERR_ARGUMENT) : 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("cabe " CABE_VERSION);
        return 0;
    }
    for (size_t i = 0; commands[i]; i++) {
        if (strcmp(argv[1], commands[i]->name) != 0)
            continue;
        if (argc > 2 && strcmp(argv[2], "--help") == 0)
            return cli_help(commands[i]);
        snprintf(title, sizeof title, "cabe %s", commands[i]->name);
        argv[1] = title;
        return commands[i]->run(argc - 1, argv + 1);
    }
    fprintf(stderr, "cabe: no command '%s'; 'cabe --help' lists them\n", argv[1]);
    return cabe_status_exit_code(CABE_ERR_ARGUMENT);
}

int main(int argc, char **argv)
{
    int code;

    cli_started();
    handle_signals();
    code = run(argc, argv);
    /* What the last buffer could not write (a full disk, a reader that left) must not look like success. */
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == 0) {
        perror("cabe: standard output");
        code = cabe_status_exit_code(CABE_ERR_IO);
    }
    return code;
}
