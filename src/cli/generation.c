#include "generation.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "tensor/pages.h"

void cli_generation_init(struct cli_generation *g)
{
    *g = (struct cli_generation){.shift_keep = -1, .wishes = {.dtype = -1, .precision = -1, .kv = -1}};
    cabe_sampling_defaults(&g->sampling);
}

static int take_number(const struct cabe_command *command, const char *name, double least, double most, double *out)
{
    char *end;

    errno = 0;
    *out = strtod(optarg, &end);
    if (errno || end == optarg || *end || !(*out >= least && *out <= most)) {
        cli_usage(command, "%s %s: wanted a number from %g to %g", name, optarg, least, most);
        return -1;
    }
    return 1;
}

static int take_whole(const struct cabe_command *command, const char *name, int64_t least, int64_t most, int64_t *out)
{
    char *end;

    errno = 0;
    *out = strtoll(optarg, &end, 10);
    if (errno || end == optarg || *end || *out < least || *out > most) {
        cli_usage(command, "%s %s: wanted a whole number from %lld to %lld", name, optarg, (long long)least,
                  (long long)most);
        return -1;
    }
    return 1;
}

static int take_float(const struct cabe_command *command, const char *name, double least, double most, float *out)
{
    double value;
    int taken = take_number(command, name, least, most, &value);

    *out = (float)value;
    return taken;
}

static int take_kv(struct cli_generation *g, const struct cabe_command *command)
{
    enum cabe_kv_format format = cabe_kv_format_find(optarg);

    if (format == CABE_N_KV_FORMATS) {
        cli_usage(command, "--kv %s: wanted f32, f16 or q8", optarg);
        return -1;
    }
    g->wishes.kv = (int)format;
    return 1;
}

static int take_stop(struct cli_generation *g, const struct cabe_command *command)
{
    if (g->n_stop == CLI_STOP_MAX - 1 || !optarg[0] || strlen(optarg) > 256) {
        cli_usage(command, "--stop: at most %d texts of 1 to 256 bytes", CLI_STOP_MAX - 1);
        return -1;
    }
    g->stop[g->n_stop++] = optarg;
    return 1;
}

int cli_generation_take(struct cli_generation *g, const struct cabe_command *command, int option)
{
    struct cabe_sampling *s = &g->sampling;
    int64_t whole = 0;
    int taken;

    switch (option) {
    case 'n':
        return take_whole(command, "-n", 1, INT32_MAX, &g->max_new);
    case CLI_TEMPERATURE:
        return take_float(command, "--temp", 0, 100, &s->temperature);
    case CLI_TOP_K:
        taken = take_whole(command, "--top-k", 0, INT32_MAX, &whole);
        s->top_k = (int32_t)whole;
        return taken;
    case CLI_TOP_P:
        return take_float(command, "--top-p", 0, 1, &s->top_p);
    case CLI_MIN_P:
        return take_float(command, "--min-p", 0, 1, &s->min_p);
    case CLI_REPEAT_PENALTY:
        return take_float(command, "--repeat-penalty", 0.01, 100, &s->repetition_penalty);
    case CLI_FREQUENCY_PENALTY:
        return take_float(command, "--frequency-penalty", -100, 100, &s->frequency_penalty);
    case CLI_PRESENCE_PENALTY:
        return take_float(command, "--presence-penalty", -100, 100, &s->presence_penalty);
    case CLI_SEED:
        taken = take_whole(command, "--seed", 0, INT64_MAX, &whole);
        s->seed = (uint64_t)whole;
        return taken;
    case CLI_CONTEXT:
        return take_whole(command, "--ctx", 16, INT32_MAX / 2, &g->wishes.context);
    case CLI_KV:
        return take_kv(g, command);
    case CLI_STOP:
        return take_stop(g, command);
    case CLI_SHIFT:
        return take_whole(command, "--shift", 0, INT32_MAX, &g->shift_keep);
    case CLI_IGNORE_EOS:
        g->ignore_end = 1;
        return 1;
    case CLI_LOGPROBS:
        taken = take_whole(command, "--logprobs", 0, CABE_SAMPLE_TOP_MAX, &whole);
        s->n_logprobs = (int32_t)whole;
        return taken;
    default:
        return 0;
    }
}

void cli_generation_wishes(struct cli_generation *g, const struct cli_options *options)
{
    g->wishes.dtype = options->wishes.dtype;
    g->wishes.precision = options->wishes.precision;
    g->wishes.batch_tokens = options->wishes.batch_tokens;
}

void cli_generation_fill(struct cli_generation *g, const char *extra_stop, struct cabe_generation *out)
{
    out->sampling = g->sampling;
    out->max_new = g->max_new;
    out->shift_keep = g->shift_keep;
    out->ignore_end = g->ignore_end;
    out->stop = g->stop;
    out->n_stop = g->n_stop;
    if (extra_stop)
        g->stop[out->n_stop++] = extra_stop;
}

static json_t *logprob_json(const struct cabe_tokenizer *tokenizer, int32_t token, double logprob)
{
    size_t n = 0;
    const char *text = cabe_tokenizer_token(tokenizer, token, &n);
    json_t *json = json_pack("{s:i}", "id", (int)token);

    json_object_set_new(json, "token", cabe_json_text(text ? text : "", n));
    json_object_set_new(json, "logprob", isfinite(logprob) ? json_real(logprob) : json_null());
    return json;
}

json_t *cli_token_json(const struct cli_generation *g, const struct cabe_tokenizer *tokenizer,
                       const struct cabe_sampled *sampled)
{
    json_t *json, *top;

    if (g->sampling.n_logprobs < 0)
        return json_integer(sampled->token);
    json = logprob_json(tokenizer, sampled->token, (double)sampled->logprob);
    top = json_array();
    for (int32_t i = 0; i < sampled->n_top; i++)
        json_array_append_new(top, logprob_json(tokenizer, sampled->top[i].token, (double)sampled->top[i].logprob));
    json_object_set_new(json, "top", top);
    return json;
}
