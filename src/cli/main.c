#include <stdio.h>
#include <string.h>

#include "cli.h"

/* In the order of the help; ends with NULL. */
static const struct cabe_command *const commands[] = {
    NULL,
};

static void print_help(FILE *to)
{
    fprintf(to, "usage: cabe COMMAND [OPTIONS]\n\ncommands:\n");
    for (size_t i = 0; commands[i]; i++)
        fprintf(to, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(to, "\n'cabe COMMAND --help' explains one; 'cabe --version' prints the version.\n");
}

int main(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
        print_help(argc < 2 ? stderr : stdout);
        return argc < 2 ? cabe_status_exit_code(CABE_ERR_ARGUMENT) : 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("cabe " CABE_VERSION);
        return 0;
    }
    for (size_t i = 0; commands[i]; i++)
        if (strcmp(argv[1], commands[i]->name) == 0)
            return commands[i]->run(argc - 1, argv + 1);
    fprintf(stderr, "cabe: no command '%s'; 'cabe --help' lists them\n", argv[1]);
    return cabe_status_exit_code(CABE_ERR_ARGUMENT);
}
