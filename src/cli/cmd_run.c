#include <editline/readline.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/home.h"
#include "base/json.h"
#include "base/memory.h"
#include "generation.h"
#include "options.h"
#include "runtime/monitor.h"
#include "task/generator.h"

enum { OPTION_SYSTEM = 1, OPTION_RAW, OPTION_NO_ECHO };

static const struct option long_options[] = {
    CLI_COMMON_OPTIONS,
    CLI_MODEL_OPTIONS,
    CLI_GENERATION_OPTIONS,
    {"system", required_argument, NULL, OPTION_SYSTEM},
    {"raw", no_argument, NULL, OPTION_RAW},
    {"no-echo", no_argument, NULL, OPTION_NO_ECHO},
    {NULL, 0, NULL, 0},
};

#define PROMPT_BYTES_MAX (16u << 20)
#define HISTORY_LINES 1000

struct message {
    const char *role;
    char *content;
};

struct chat { /* one run of the command */
    struct cli_options options;
    struct cli_generation generation;
    const char *model, *system;
    int raw, no_echo;
    struct cabe_session *session;
    struct cabe_generator *generator;
    const struct cabe_plan *plan;
    struct cabe_monitor *monitor;
    struct cabe_chat_tokens *tokens;
    struct cabe_chat_ids ids;
    struct message *messages;
    size_t n_messages, capacity;
    char *answer; /* of the turn, as it comes */
    size_t n_answer, answer_capacity;
    json_t *answer_tokens;
    uint64_t waited_ns; /* for a prompt to be written */
    double start_ms;    /* from the start of the process until the first prompt began to be computed, less that; 0: not yet */
};

/* ---- prompts ---- */

static enum cabe_status add_message(struct chat *c, const char *role, const char *content, size_t n,
                                    struct cabe_error *err)
{
    char *copy;

    if (c->n_messages == c->capacity) {
        size_t capacity = c->capacity ? 2 * c->capacity : 8;
        struct message *grown = cabe_realloc(c->messages, capacity, sizeof *grown);

        if (!grown)
            return cabe_fail(err, CABE_ERR_OOM, "a conversation of %zu messages", capacity);
        c->messages = grown;
        c->capacity = capacity;
    }
    copy = cabe_malloc(n + 1);
    if (!copy)
        return cabe_fail(err, CABE_ERR_OOM, "a message of %zu bytes", n);
    memcpy(copy, content, n);
    copy[n] = '\0';
    c->messages[c->n_messages++] = (struct message){role, copy};
    return CABE_OK;
}

static void drop_message(struct chat *c)
{
    cabe_free(c->messages[--c->n_messages].content);
}

#define RENDER_BYTES_LEAST (UINT64_C(1) << 20) /* that the process has at hand: CABE_SESSION_SLACK_BYTES */

/*
 * What rendering a template may take: as much as a template may at most, if the budget has it left, else the largest half
 * of a half of that which it has. Reserved until it is rendered; returns the bytes to give back.
 */
static uint64_t reserve_render(const struct chat *c, struct cabe_template_limits *limits)
{
    cabe_template_limits_default(limits);
    for (; limits->memory_bytes > RENDER_BYTES_LEAST; limits->memory_bytes /= 2)
        if (cabe_ledger_reserve(c->session->ledger, CABE_HOST, CABE_PURPOSE_STAGING, limits->memory_bytes, "chat template",
                                NULL) == CABE_OK)
            return limits->memory_bytes;
    return 0;
}

/* The whole conversation as ids; what was there before is in the store and is not computed again. */
static enum cabe_status chat_ids(struct chat *c, struct cabe_error *err)
{
    struct cabe_chat_message *messages = cabe_calloc(c->n_messages, sizeof *messages);
    struct cabe_template_result prompt = {0};
    struct cabe_template_limits limits;
    enum cabe_status status;
    uint64_t reserved;

    if (!messages)
        return cabe_fail(err, CABE_ERR_OOM, "a conversation of %zu messages", c->n_messages);
    for (size_t i = 0; i < c->n_messages; i++)
        messages[i] = (struct cabe_chat_message){c->messages[i].role, c->messages[i].content,
                                                 strlen(c->messages[i].content)};
    reserved = reserve_render(c, &limits);
    status = cabe_chat_render(cabe_chat_of(c->tokens), messages, c->n_messages, NULL, 1, NULL, &limits, &prompt, err);
    if (reserved)
        cabe_ledger_release(c->session->ledger, CABE_HOST, CABE_PURPOSE_STAGING, reserved, "chat template");
    if (status == CABE_OK)
        status = cabe_chat_encode(c->tokens, &prompt, &c->ids, err);
    cabe_chat_result_clear(&prompt);
    cabe_free(messages);
    return status;
}

/* ---- one answer ---- */

static enum cabe_status on_text(void *self, const char *bytes, size_t n, const struct cabe_sampled *sampled,
                                struct cabe_error *err)
{
    struct chat *c = self;

    if (sampled && c->answer_tokens)
        json_array_append_new(c->answer_tokens,
                              cli_token_json(&c->generation, cabe_generator_tokenizer(c->generator), sampled));
    if (c->n_answer + n + 1 > c->answer_capacity) {
        size_t capacity = 2 * (c->n_answer + n) + 256;
        char *grown = cabe_realloc(c->answer, capacity, 1);

        if (!grown)
            return cabe_fail(err, CABE_ERR_OOM, "an answer of %zu bytes", capacity);
        c->answer = grown;
        c->answer_capacity = capacity;
    }
    memcpy(c->answer + c->n_answer, bytes, n);
    c->n_answer += n;
    c->answer[c->n_answer] = '\0';
    if (c->options.json)
        return CABE_OK;
    if (fwrite(bytes, 1, n, stdout) != n || fflush(stdout) != 0)
        return cabe_fail_errno(err, errno, "standard output");
    return CABE_OK;
}

static const char *finish_name(const struct cabe_generated *g)
{
    return g->finish == CABE_FINISH_NOT ? "stopped" : cabe_finish_name(g->finish);
}

static void closing_line(const struct chat *c, const struct cabe_generated *g)
{
    int64_t computed = g->n_prompt - g->n_cached;
    char peak[CLI_BYTES_MAX], predicted[CLI_BYTES_MAX];

    fprintf(stderr, "%lld + %lld tokens (%lld from cache), prompt %.1f tokens/s, answer %.1f tokens/s, %s; started in "
                    "%.0f ms; peak %s, predicted %s with all %lld tokens of context\n",
            (long long)g->n_prompt, (long long)g->n_new, (long long)g->n_cached,
            g->prompt_seconds > 0 ? (double)computed / g->prompt_seconds : 0.0,
            g->n_new > 1 && g->new_seconds > 0 ? (double)(g->n_new - 1) / g->new_seconds : 0.0,
            finish_name(g), c->start_ms, cli_format_bytes(cabe_monitor_peak_bytes(c->monitor), peak),
            cli_format_bytes(cli_predicted_bytes(c->plan), predicted),
            (long long)c->plan->knobs.value[CABE_KNOB_CONTEXT]);
}

static void print_answer(const struct chat *c, const struct cabe_generated *g)
{
    int64_t computed = g->n_prompt - g->n_cached;
    json_t *json = json_pack(
        "{s:s,s:I,s:I,s:I,s:f,s:f,s:f,s:f,s:I,s:I,s:I}", "finish", finish_name(g), "prompt_tokens",
        (json_int_t)g->n_prompt, "cached_tokens", (json_int_t)g->n_cached, "new_tokens", (json_int_t)g->n_new,
        "prompt_tokens_per_s", g->prompt_seconds > 0 ? (double)computed / g->prompt_seconds : 0.0, "tokens_per_s",
        g->n_new > 1 && g->new_seconds > 0 ? (double)(g->n_new - 1) / g->new_seconds : 0.0, "first_seconds",
        g->first_seconds, "start_ms", c->start_ms, "context_tokens", (json_int_t)c->plan->knobs.value[CABE_KNOB_CONTEXT],
        "peak_bytes", (json_int_t)cabe_monitor_peak_bytes(c->monitor), "predicted_peak_bytes",
        (json_int_t)cli_predicted_bytes(c->plan));

    json_object_set_new(json, "text", cabe_json_text(c->answer ? c->answer : "", c->n_answer));
    json_object_set(json, "tokens", c->answer_tokens);
    json_object_set_new(json, "plan", cabe_plan_json(c->plan));
    cli_print_json(json);
}

static enum cabe_status answer(struct chat *c, const int32_t *ids, size_t n_ids, const char *extra_stop,
                               struct cabe_error *err)
{
    struct cabe_generation generation = {.ids = ids, .n_ids = n_ids, .text = on_text, .self = c};
    struct cabe_generated result;
    enum cabe_status status;
    int phase;

    cli_generation_fill(&c->generation, extra_stop, &generation);
    c->n_answer = 0;
    json_decref(c->answer_tokens);
    c->answer_tokens = c->options.json ? json_array() : NULL;
    cabe_monitor_begin(c->monitor, "answer", cabe_plan_phase_bytes(c->plan, "answer"), &phase);
    status = cabe_generate(c->generator, &generation, &cli_cancel, &result, err);
    cabe_monitor_end(c->monitor, phase);
    if (c->start_ms <= 0 && result.begun_ns > 0)
        c->start_ms = cli_start_ms(result.begun_ns - c->waited_ns);
    if (!c->options.json && result.n_new > 0)
        putchar('\n');
    fflush(stdout);
    if (status != CABE_OK && (status != CABE_ERR_CANCELLED || result.n_new == 0))
        return status;
    if (c->options.json)
        print_answer(c, &result);
    else
        closing_line(c, &result);
    return status;
}

static enum cabe_status complete(struct chat *c, const char *prompt, size_t n, struct cabe_error *err)
{
    struct cabe_encode_options options = {.add_special = 1, .parse_special = 1};
    struct cabe_encoding encoding = {0};
    enum cabe_status status =
        cabe_tokenizer_encode(cabe_generator_tokenizer(c->generator), prompt, n, &options, &encoding, err);

    if (status == CABE_OK && encoding.n == 0)
        status = cabe_fail(err, CABE_ERR_ARGUMENT, "the prompt is empty");
    if (status == CABE_OK && (int64_t)encoding.n >= c->plan->knobs.value[CABE_KNOB_CONTEXT]) /* before it is repeated */
        status = cabe_fail(err, CABE_ERR_LIMIT, "the prompt has %zu tokens, the context has room for %lld", encoding.n,
                           (long long)c->plan->knobs.value[CABE_KNOB_CONTEXT] - 1);
    if (status == CABE_OK) {
        if (!c->no_echo && !c->options.json) {
            fwrite(prompt, 1, n, stdout);
            fflush(stdout);
        }
        status = answer(c, encoding.ids, encoding.n, NULL, err);
    }
    cabe_encoding_clear(&encoding);
    return status;
}

static enum cabe_status turn(struct chat *c, const char *prompt, size_t n, struct cabe_error *err)
{
    enum cabe_status status;

    if (c->raw)
        return complete(c, prompt, n, err);
    status = add_message(c, "user", prompt, n, err);
    if (status != CABE_OK)
        return status;
    status = chat_ids(c, err);
    if (status == CABE_OK)
        status = answer(c, c->ids.ids, c->ids.n, cabe_chat_stop(cabe_chat_of(c->tokens)), err);
    if (status != CABE_OK && status != CABE_ERR_CANCELLED) {
        drop_message(c);
        return status;
    }
    if (add_message(c, "assistant", c->answer ? c->answer : "", c->n_answer, NULL) != CABE_OK)
        return cabe_fail(err, CABE_ERR_OOM, "the answer");
    return status;
}

/* ---- conversation on a terminal ---- */

static void on_interrupt(int number)
{
    (void)number;
    atomic_store_explicit(&cli_cancel.wanted, 1, memory_order_relaxed);
}

/*
 * While a line is typed Ctrl-C is a key like others, and drops what was typed: of a signal the library may see nothing, or
 * the end. It looks at the terminal anew before each line. An answer is stopped by the signal.
 */
static int no_signals(void)
{
    static char words[] = "setty -d -isig";

    return rl_parse_and_bind(words);
}

static void prepare_editing(void)
{
    static char words[] = "bind ^C em-kill-line";

    rl_initialize();
    rl_parse_and_bind(words);
    rl_pre_input_hook = no_signals;
    using_history();
    stifle_history(HISTORY_LINES);
}

/* What is typed; to be freed with free(). NULL: the end. */
static char *read_line(struct chat *c)
{
    uint64_t begin_ns = cabe_clock_ns();
    char *line = readline("> ");

    if (!line)
        fputc('\n', stderr);
    c->waited_ns += cabe_clock_ns() - begin_ns;
    return line;
}

static enum cabe_status converse(struct chat *c, struct cabe_error *err)
{
    struct sigaction action = {.sa_handler = on_interrupt};
    char path[CABE_HOME_PATH_MAX] = "";
    enum cabe_status status = CABE_OK;
    char *line;

    sigaction(SIGINT, &action, NULL); /* stops an answer, not the program */
    prepare_editing();
    if (cabe_home_file(path, CABE_HOME_CACHE, "history", NULL) == CABE_OK)
        read_history(path);
    fprintf(stderr, "%s: an empty line or Ctrl-D ends, Ctrl-C stops an answer or drops a line\n", c->model);
    while ((line = read_line(c))) {
        if (!line[0]) {
            free(line);
            break;
        }
        add_history(line);
        atomic_store_explicit(&cli_cancel.wanted, 0, memory_order_relaxed);
        status = turn(c, line, strlen(line), err);
        free(line);
        if (status == CABE_ERR_CANCELLED)
            fputs("(stopped)\n", stderr);
        else if (status == CABE_ERR_LIMIT || status == CABE_ERR_FORMAT || status == CABE_ERR_ARGUMENT)
            cli_error(0, err); /* of this turn alone */
        else if (status != CABE_OK)
            return status;
        status = CABE_OK;
    }
    if (path[0])
        write_history(path);
    return status;
}

/* ---- the command ---- */

static enum cabe_status read_prompt(char **out, size_t *n, struct cabe_error *err)
{
    size_t capacity = 1 << 16, got;
    char *text = NULL, *grown;

    *n = 0;
    do {
        grown = *n + 1 < capacity && text ? text : cabe_realloc(text, capacity *= 2, 1);
        if (!grown || capacity > 2 * PROMPT_BYTES_MAX) {
            cabe_free(grown ? grown : text);
            return cabe_fail(err, CABE_ERR_LIMIT, "standard input: more than %u MiB", PROMPT_BYTES_MAX >> 20);
        }
        text = grown;
        got = fread(text + *n, 1, capacity - *n - 1, stdin);
        *n += got;
    } while (got > 0);
    while (*n > 0 && text[*n - 1] == '\n')
        (*n)--;
    *out = text;
    return CABE_OK;
}

static enum cabe_status talk(struct chat *c, const char *prompt, struct cabe_error *err)
{
    uint64_t begin_ns;
    char *text = NULL;
    size_t n = 0;
    enum cabe_status status = CABE_OK;

    if (!cabe_tokenizer_chat_template(cabe_generator_tokenizer(c->generator), &n))
        c->raw = 1;
    if (!c->raw)
        status = cabe_chat_tokens_open(&c->tokens, cabe_generator_tokenizer(c->generator), err);
    if (status == CABE_OK && !c->raw && c->system)
        status = add_message(c, "system", c->system, strlen(c->system), err);
    if (status != CABE_OK)
        return status;
    if (prompt)
        return turn(c, prompt, strlen(prompt), err);
    if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && !c->options.json)
        return converse(c, err);
    begin_ns = cabe_clock_ns();
    status = read_prompt(&text, &n, err);
    c->waited_ns += cabe_clock_ns() - begin_ns;
    if (status == CABE_OK)
        status = turn(c, text, n, err);
    cabe_free(text);
    return status;
}

static void warn_of_context(const struct chat *c)
{
    int64_t trained = cabe_model_config(cabe_generator_model(c->generator))->decoder.n_ctx;

    if (c->generation.wishes.context > trained && trained > 0)
        fprintf(stderr, "cabe run: --ctx %lld: the model was trained on %lld tokens; expect nonsense behind them\n",
                (long long)c->generation.wishes.context, (long long)trained);
}

static enum cabe_status load(struct chat *c, struct cabe_error *err)
{
    struct cabe_monitor_config config = {.ledger = c->session->ledger,
                                         .log = c->session->log,
                                         .limit_bytes = c->session->machine.memory.limit_bytes};
    enum cabe_status status = cabe_monitor_open(&c->monitor, &config, err);
    int phase;

    if (status != CABE_OK)
        return status;
    cabe_monitor_begin(c->monitor, "model_load", cabe_plan_phase_bytes(c->plan, "model_load"), &phase);
    status = cabe_generator_load(c->generator, &c->plan->knobs, err);
    cabe_monitor_end(c->monitor, phase);
    if (status == CABE_OK)
        cabe_monitor_ready(c->monitor);
    return status;
}

static enum cabe_status run_in(struct chat *c, struct cabe_session *session, const char *prompt, struct cabe_error *err)
{
    static struct cabe_plan plan;
    struct cabe_fit_task task;
    char path[4096];
    enum cabe_status status = cli_model_path(path, c->model, err);

    c->session = session;
    if (status == CABE_OK)
        status = cabe_generator_find(&c->generator, session, path, &c->generation.wishes, err);
    if (status == CABE_OK)
        status = cabe_session_settle(session, err);
    if (status != CABE_OK)
        return status;
    cabe_generator_task(c->generator, &task);
    status = cabe_session_plan(session, &plan, &task, err);
    if (status == CABE_OK)
        status = cabe_plan_refuse(&plan, err);
    c->plan = &plan;
    if (status == CABE_OK)
        warn_of_context(c);
    if (status == CABE_OK)
        status = load(c, err);
    cli_progress_end();
    return status == CABE_OK ? talk(c, prompt, err) : status;
}

static void clear(struct chat *c)
{
    while (c->n_messages > 0)
        drop_message(c);
    cabe_free(c->messages);
    cabe_free(c->answer);
    json_decref(c->answer_tokens);
    cabe_chat_ids_clear(&c->ids);
    cabe_chat_tokens_close(c->tokens);
    cabe_generator_close(c->generator);
    cabe_monitor_close(c->monitor);
}

static int run(int argc, char **argv)
{
    struct chat c = {0};
    struct cabe_session *session;
    struct cabe_error err;
    enum cabe_status status;
    int option, code = 0;

    cli_options_init(&c.options);
    cli_generation_init(&c.generation);
    while ((option = getopt_long(argc, argv, "n:", long_options, NULL)) != -1) {
        int taken = cli_options_take(&c.options, &cabe_cmd_run, option);

        if (option == CLI_HELP)
            return cli_help(&cabe_cmd_run);
        if (taken == 0)
            taken = cli_generation_take(&c.generation, &cabe_cmd_run, option);
        if (option == OPTION_SYSTEM)
            c.system = optarg;
        else if (option == OPTION_RAW)
            c.raw = 1;
        else if (option == OPTION_NO_ECHO)
            c.no_echo = 1;
        else if (taken == 0)
            return cli_usage(&cabe_cmd_run, NULL);
        if (taken < 0)
            return cabe_status_exit_code(CABE_ERR_ARGUMENT);
    }
    if (optind >= argc || optind + 2 < argc)
        return cli_usage(&cabe_cmd_run, "wanted a model and at most one prompt, got %d words", argc - optind);
    c.model = argv[optind];
    cli_generation_wishes(&c.generation, &c.options);
    session = cli_session(&c.options, 0, &code);
    if (session) {
        status = run_in(&c, session, optind + 1 < argc ? argv[optind + 1] : NULL, &err);
        clear(&c);
        cabe_session_close(session);
        if (status != CABE_OK)
            code = cli_error(c.options.json, &err);
    }
    return code;
}

const struct cabe_command cabe_cmd_run = {
    .name = "run",
    .usage = "run MODEL [PROMPT] [OPTIONS]",
    .summary = "chats with a model, or lets it go on with a text",
    .help = "  PROMPT              one question, answered on standard output; without it the prompt is read from\n"
            "                      standard input, or a conversation begins where that is a terminal\n"
            "  --system TEXT       the system message of the chat\n"
            "  --raw               no chat: the model goes on with the prompt (models without a chat template\n"
            "                      always do)\n"
            "  --no-echo           do not repeat the prompt before what the model adds to it\n" CLI_GENERATION_HELP
                CLI_MODEL_HELP CLI_COMMON_HELP,
    .run = run,
};
