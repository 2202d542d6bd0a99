/* Options of commands that generate text. */
#ifndef CABE_CLI_GENERATION_H
#define CABE_CLI_GENERATION_H

#include <getopt.h>
#include <jansson.h>

#include "cli.h"
#include "options.h"
#include "task/generator.h"

#define CLI_STOP_MAX 16

struct cli_generation {
    struct cabe_sampling sampling;
    struct cabe_generator_wishes wishes;
    int64_t max_new;
    int64_t shift_keep;
    int ignore_end;
    const char *stop[CLI_STOP_MAX];
    size_t n_stop;
};

enum {
    CLI_TEMPERATURE = 1100,
    CLI_TOP_K,
    CLI_TOP_P,
    CLI_MIN_P,
    CLI_REPEAT_PENALTY,
    CLI_FREQUENCY_PENALTY,
    CLI_PRESENCE_PENALTY,
    CLI_SEED,
    CLI_CONTEXT,
    CLI_KV,
    CLI_STOP,
    CLI_SHIFT,
    CLI_IGNORE_EOS,
    CLI_LOGPROBS
};

#define CLI_GENERATION_OPTIONS                                                                                         \
    {"temp", required_argument, NULL, CLI_TEMPERATURE}, {"top-k", required_argument, NULL, CLI_TOP_K},                 \
        {"top-p", required_argument, NULL, CLI_TOP_P}, {"min-p", required_argument, NULL, CLI_MIN_P},                  \
        {"repeat-penalty", required_argument, NULL, CLI_REPEAT_PENALTY},                                               \
        {"frequency-penalty", required_argument, NULL, CLI_FREQUENCY_PENALTY},                                         \
        {"presence-penalty", required_argument, NULL, CLI_PRESENCE_PENALTY},                                           \
        {"seed", required_argument, NULL, CLI_SEED}, {"ctx", required_argument, NULL, CLI_CONTEXT},                    \
        {"kv", required_argument, NULL, CLI_KV}, {"stop", required_argument, NULL, CLI_STOP},                          \
        {"shift", required_argument, NULL, CLI_SHIFT}, {"ignore-eos", no_argument, NULL, CLI_IGNORE_EOS},              \
        {"logprobs", required_argument, NULL, CLI_LOGPROBS}

#define CLI_GENERATION_HELP \
    "  -n N                tokens of an answer at most (default: until it ends or the context is full)\n" \
    "  --temp T            temperature; 0 takes the likeliest token (default 0.8)\n" \
    "  --top-k K           draw from the K likeliest tokens (default 40; 0: off)\n" \
    "  --top-p P           from the likeliest that make up P together (default 0.95; 1: off)\n" \
    "  --min-p P           from those at least P times as likely as the likeliest (default 0.05; 0: off)\n" \
    "  --repeat-penalty R  against tokens that were there before (default 1: off)\n" \
    "  --frequency-penalty F\n" \
    "                      the same, by how often (default 0: off)\n" \
    "  --presence-penalty P\n" \
    "                      the same, once (default 0: off)\n" \
    "  --seed N            the same seed draws the same answer (default 0)\n" \
    "  --stop TEXT         ends the answer before TEXT; may be given up to 15 times\n" \
    "  --ctx N             tokens of context (default: by memory, up to 4096 and what the model knows)\n" \
    "  --shift N           when the context is full drop half of it, behind the first N tokens\n" \
    "  --kv F              keys and values as f32, f16 or q8 (default: f16, q8 where memory is short)\n" \
    "  --ignore-eos        go on after the model's end token\n" \
    "  --logprobs N        with --json: log-probabilities of each token and of the N likeliest\n"

void cli_generation_init(struct cli_generation *generation);
/* As cli_options_take(). */
int cli_generation_take(struct cli_generation *generation, const struct cabe_command *command, int option);
/* What the model options mean for a generator. */
void cli_generation_wishes(struct cli_generation *generation, const struct cli_options *options);
/* Sampling, limits and stops of a prompt; `extra_stop` may be NULL. The stops live as long as `generation`. */
void cli_generation_fill(struct cli_generation *generation, const char *extra_stop, struct cabe_generation *out);
/* A drawn token: its id, or with log-probabilities an object. New reference. */
json_t *cli_token_json(const struct cli_generation *generation, const struct cabe_tokenizer *tokenizer,
                       const struct cabe_sampled *sampled);

#endif
