/* Requests for embeddings and their answers, OpenAI's and Ollama's. */
#include "serve/api_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"

#define INPUTS_MAX 4096

void api_embed_clear(struct api_embed *embed)
{
    cabe_free(embed->texts);
    json_decref(embed->body);
    *embed = (struct api_embed){0};
}

static void read_input(struct api_embed *embed, const json_t *input, const char *name, struct api_fault *fault)
{
    size_t n = json_is_array(input) ? json_array_size(input) : 1;

    if (fault->status)
        return;
    if (!input || json_is_null(input)) {
        api_refuse(fault, 400, "missing_required_parameter", name, "%s: wanted a text or an array of texts", name);
        return;
    }
    if (n > INPUTS_MAX || (n == 0 && embed->form == API_EMBED_OPENAI)) {
        api_refuse(fault, 400, "invalid_value", name, "%s: wanted 1 to %d texts, got %zu", name, INPUTS_MAX, n);
        return;
    }
    embed->texts = (struct cabe_text *)cabe_calloc(n ? n : 1, sizeof *embed->texts);
    if (!embed->texts) {
        api_refuse_memory(fault);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *text = json_is_array(input) ? json_array_get(input, i) : input;

        if (json_is_integer(text) || json_is_array(text))
            api_refuse(fault, 400, "unsupported_value", name,
                       "%s: token ids would be another tokenizer's; send text (LangChain: "
                       "check_embedding_ctx_length=False)",
                       name);
        else if (!json_is_string(text))
            api_refuse(fault, 400, "invalid_type", name, "%s[%zu]: wanted a string, got %s", name, i, api_kind(text));
        if (fault->status)
            return;
        embed->texts[i] = (struct cabe_text){json_string_value(text), json_string_length(text)};
    }
    embed->n_texts = n;
}

static void read_prefix(struct api_embed *embed, const struct api_object *object)
{
    const char *word;

    if (!api_get_string(object, "input_type", &word, NULL))
        return;
    if (strcmp(word, "query") == 0 || strcmp(word, "search_query") == 0)
        embed->prefix = CABE_PREFIX_QUERY;
    else if (strcmp(word, "passage") == 0 || strcmp(word, "document") == 0 || strcmp(word, "search_document") == 0)
        embed->prefix = CABE_PREFIX_PASSAGE;
    else
        api_refuse(object->fault, 400, "invalid_value", "input_type", "input_type: wanted query or passage, got '%.40s'",
                   word);
}

static void read_dimensions(struct api_embed *embed, const struct api_object *object)
{
    api_get_integer(object, "dimensions", 1, 1 << 20, &embed->dimensions);
}

void api_read_embeddings(struct api_embed *embed, struct api_fault *fault)
{
    const struct api_object object = {embed->body, "", fault};
    const char *format;

    if (!api_get_string(&object, "model", &embed->model, NULL))
        api_refuse(fault, 400, "missing_required_parameter", "model", "model: wanted the name of a model");
    read_input(embed, json_object_get(embed->body, "input"), "input", fault);
    read_prefix(embed, &object);
    read_dimensions(embed, &object);
    if (api_get_string(&object, "encoding_format", &format, NULL)) {
        embed->base64 = strcmp(format, "base64") == 0;
        if (!embed->base64 && strcmp(format, "float") != 0)
            api_refuse(fault, 400, "invalid_value", "encoding_format",
                       "encoding_format: wanted float or base64, got '%.40s'", format);
    }
}

void api_read_ollama_embed(struct api_embed *embed, struct api_fault *fault)
{
    const struct api_object object = {embed->body, "", fault};
    int old = embed->form == API_EMBED_OLLAMA_OLD;

    embed->model = api_ollama_model(embed->body, fault);
    read_input(embed, json_object_get(embed->body, old ? "prompt" : "input"), old ? "prompt" : "input", fault);
    read_prefix(embed, &object);
    read_dimensions(embed, &object);
    api_read_keep_alive(&object, &embed->keep_alive_s);
}

static void put_base64(struct api_text *out, const unsigned char *bytes, size_t n)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (size_t i = 0; i < n; i += 3) {
        unsigned word = (unsigned)bytes[i] << 16;
        char four[4];

        if (i + 1 < n)
            word |= (unsigned)bytes[i + 1] << 8;
        if (i + 2 < n)
            word |= bytes[i + 2];
        four[0] = letters[word >> 18];
        four[1] = letters[word >> 12 & 63];
        four[2] = i + 1 < n ? letters[word >> 6 & 63] : '=';
        four[3] = i + 2 < n ? letters[word & 63] : '=';
        api_put(out, four, 4);
    }
}

/* A number that reads back as the same f32; the usual sizes without printf, which is most of an answer's time. */
static void put_float(struct api_text *out, float value)
{
    double size = fabs((double)value);
    uint64_t fixed;
    char text[32];
    int at = (int)sizeof text;

    if (!(size >= 1e-3 && size < 100)) {
        api_put_number(out, (double)value, 0);
        return;
    }
    fixed = (uint64_t)(size * 1e11 + 0.5);
    for (int i = 0; i < 11 || fixed > 0 || i == 11; i++) {
        if (i == 11)
            text[--at] = '.';
        text[--at] = (char)('0' + fixed % 10);
        fixed /= 10;
    }
    if (value < 0)
        text[--at] = '-';
    api_put(out, text + at, sizeof text - (size_t)at);
}

/* f32, little-endian as every machine that this runs on. */
static void put_row(struct api_text *out, const float *row, int64_t width, int base64)
{
    if (base64) {
        api_puts(out, "\"");
        put_base64(out, (const unsigned char *)row, (size_t)width * sizeof *row);
        api_puts(out, "\"");
        return;
    }
    api_puts(out, "[");
    for (int64_t i = 0; i < width; i++) {
        if (i)
            api_puts(out, ",");
        put_float(out, row[i]);
    }
    api_puts(out, "]");
}

void api_put_embeddings(const struct api_embed *embed, const float *rows, int64_t width, uint64_t n_tokens,
                        struct api_text *out, struct api_fault *fault)
{
    if (embed->dimensions > 0 && embed->dimensions != width) {
        api_refuse(fault, 400, "invalid_value", "dimensions",
                   "dimensions: %s gives %lld, and was not trained to be cut to %lld", embed->model, (long long)width,
                   (long long)embed->dimensions);
        return;
    }
    if (embed->form == API_EMBED_OLLAMA_OLD) {
        api_puts(out, "{\"embedding\":");
        put_row(out, rows, embed->n_texts ? width : 0, 0);
        api_puts(out, "}");
        return;
    }
    api_puts(out, embed->form == API_EMBED_OLLAMA ? "{\"model\":" : "{\"object\":\"list\",\"model\":");
    api_put_string(out, embed->model, strlen(embed->model));
    api_puts(out, embed->form == API_EMBED_OLLAMA ? ",\"embeddings\":[" : ",\"data\":[");
    for (size_t i = 0; i < embed->n_texts; i++) {
        if (i)
            api_puts(out, ",");
        if (embed->form == API_EMBED_OPENAI)
            api_printf(out, "{\"object\":\"embedding\",\"index\":%zu,\"embedding\":", i);
        put_row(out, rows + i * (size_t)width, width, embed->base64);
        if (embed->form == API_EMBED_OPENAI)
            api_puts(out, "}");
    }
    if (embed->form == API_EMBED_OLLAMA)
        api_printf(out, "],\"total_duration\":%llu,\"load_duration\":0,\"prompt_eval_count\":%llu}",
                   (unsigned long long)(cabe_clock_ns() - embed->begun_ns), (unsigned long long)n_tokens);
    else
        api_printf(out, "],\"usage\":{\"prompt_tokens\":%llu,\"total_tokens\":%llu}}", (unsigned long long)n_tokens,
                   (unsigned long long)n_tokens);
}
