#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "cli.h"
#include "format/source.h"
#include "options.h"
#include "text/tokenizer.h"

#define TEXT_BYTES_MAX (256u << 20)

enum { OPTION_IDS = 1, OPTION_COUNT, OPTION_DECODE, OPTION_SPECIAL };

static const struct option long_options[] = {
    {"input", required_argument, NULL, 'i'},       {"ids", no_argument, NULL, OPTION_IDS},
    {"count", no_argument, NULL, OPTION_COUNT},    {"decode", no_argument, NULL, OPTION_DECODE},
    {"special", no_argument, NULL, OPTION_SPECIAL}, {"json", no_argument, NULL, CLI_JSON},
    {"help", no_argument, NULL, CLI_HELP},         {NULL, 0, NULL, 0},
};

struct tokenize {
    const char *model, *input, *text;
    int ids, count, decode, special, json;
    char *owned; /* the text, where it was read */
    size_t bytes;
    struct cabe_source *source;
    void *block;
    struct cabe_tokenizer *tokenizer;
    struct cabe_encoding encoding;
};

static enum cabe_status read_text(struct tokenize *t, struct cabe_error *err)
{
    const char *name = t->input && strcmp(t->input, "-") != 0 ? t->input : NULL;
    FILE *in = name ? fopen(name, "rb") : stdin;
    size_t capacity = 1 << 16, n;
    enum cabe_status status = CABE_OK;

    if (!in)
        return cabe_fail_errno(err, errno, "%s", name);
    while (status == CABE_OK) {
        char *grown = cabe_realloc(t->owned, capacity, 1);

        if (!grown) {
            status = cabe_fail(err, CABE_ERR_OOM, "text of %zu bytes", capacity);
            break;
        }
        t->owned = grown;
        n = fread(t->owned + t->bytes, 1, capacity - t->bytes, in);
        t->bytes += n;
        if (n == 0)
            break;
        if (t->bytes == capacity && capacity >= TEXT_BYTES_MAX)
            status = cabe_fail(err, CABE_ERR_LIMIT, "%s: more than %u MiB of text", name ? name : "standard input",
                               TEXT_BYTES_MAX >> 20);
        capacity *= t->bytes == capacity ? 2 : 1;
    }
    if (status == CABE_OK && ferror(in))
        status = cabe_fail_errno(err, errno, "%s", name ? name : "standard input");
    if (name)
        fclose(in);
    t->text = t->owned;
    return status;
}

static enum cabe_status open_tokenizer(struct tokenize *t, struct cabe_error *err)
{
    char path[4096];
    size_t bytes;
    enum cabe_status status = cli_model_path(path, t->model, err);

    if (status == CABE_OK)
        status = cabe_source_open(&t->source, path, err);
    if (status == CABE_OK)
        status = cabe_tokenizer_compile(t->source, &t->block, &bytes, err);
    if (status == CABE_OK)
        status = cabe_tokenizer_open(&t->tokenizer, t->block, bytes, t->model, err);
    return status;
}

/* A token's bytes on one line: what is not a printable ASCII character or UTF-8 is escaped. */
static void print_piece(const char *text, size_t n)
{
    putchar('"');
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c == '\n')
            fputs("\\n", stdout);
        else if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c < 0x20 || c >= 0x7F)
            printf("\\x%02X", c);
        else
            putchar(c);
    }
    putchar('"');
}

/* A token of whole characters is printed as it is. */
static void print_token(const char *text, size_t n)
{
    json_t *string = n > 0 ? json_stringn(text, n) : NULL;
    int is_plain = string != NULL;

    for (size_t i = 0; i < n; i++)
        is_plain &= (unsigned char)text[i] >= 0x20 && text[i] != 0x7F && text[i] != '"' && text[i] != '\\';
    if (is_plain)
        printf("\"%.*s\"", (int)n, text);
    else
        print_piece(text, n);
    json_decref(string);
}

static int print_json(const struct tokenize *t)
{
    const struct cabe_encoding *e = &t->encoding;
    json_t *tokens = json_array();

    for (size_t i = 0; i < e->n && !t->count; i++) {
        size_t n;
        const char *text = cabe_tokenizer_token(t->tokenizer, e->ids[i], &n);

        if (t->ids)
            json_array_append_new(tokens, json_integer(e->ids[i]));
        else
            json_array_append_new(tokens, json_pack("{s:i,s:I,s:I,s:o}", "id", e->ids[i], "begin",
                                                    (json_int_t)e->begin[i], "end", (json_int_t)e->end[i], "text",
                                                    cabe_json_text(text, n)));
    }
    if (t->count) {
        json_decref(tokens);
        return cli_print_json(json_pack("{s:o,s:o}", "n_tokens", cabe_json_count(e->n), "n_bytes",
                                        cabe_json_count(t->bytes)));
    }
    return cli_print_json(json_pack("{s:o,s:o,s:o}", "n_tokens", cabe_json_count(e->n), "n_bytes",
                                    cabe_json_count(t->bytes), t->ids ? "ids" : "tokens", tokens));
}

static int print_tokens(const struct tokenize *t)
{
    const struct cabe_encoding *e = &t->encoding;

    if (t->json)
        return print_json(t);
    if (t->count) {
        printf("%zu\n", e->n);
        return 0;
    }
    for (size_t i = 0; i < e->n; i++) {
        size_t n;
        const char *text = cabe_tokenizer_token(t->tokenizer, e->ids[i], &n);

        if (t->ids) {
            printf("%s%" PRId32, i ? " " : "", e->ids[i]);
            continue;
        }
        printf("%8" PRId32 " %8" PRIu32 " %8" PRIu32 "  ", e->ids[i], e->begin[i], e->end[i]);
        print_token(text, n);
        putchar('\n');
    }
    if (t->ids)
        putchar('\n');
    return 0;
}

static enum cabe_status encode(struct tokenize *t, struct cabe_error *err)
{
    const struct cabe_encode_options options = {t->special, 0, t->special};

    return cabe_tokenizer_encode(t->tokenizer, t->text, t->bytes, &options, &t->encoding, err);
}

/* Ids between spaces, commas or brackets, to text. */
static enum cabe_status decode(struct tokenize *t, struct cabe_error *err)
{
    struct cabe_decoder decoder = {.special = (unsigned char)t->special};
    const char *at = t->text, *end = t->text + t->bytes;
    char *out = cabe_malloc(cabe_decoder_room(t->tokenizer));
    size_t n;

    if (!out)
        return cabe_fail(err, CABE_ERR_OOM, "text of a token");
    while (at < end) {
        int64_t id = 0;
        const char *begin = at;

        if (memchr(" \t\r\n,[]", *at, 8)) {
            at++;
            continue;
        }
        while (at < end && *at >= '0' && *at <= '9' && id <= INT32_MAX)
            id = 10 * id + (*at++ - '0');
        if (at == begin || id >= cabe_tokenizer_n_tokens(t->tokenizer)) {
            cabe_free(out);
            return cabe_fail(err, CABE_ERR_ARGUMENT, "--decode: byte %zu: '%.*s': wanted ids from 0 to %d",
                             (size_t)(begin - t->text), (int)(end - begin < 12 ? end - begin : 12), begin,
                             cabe_tokenizer_n_tokens(t->tokenizer) - 1);
        }
        n = cabe_decoder_put(&decoder, t->tokenizer, (int32_t)id, out);
        fwrite(out, 1, n, stdout);
    }
    n = cabe_decoder_end(&decoder, out);
    fwrite(out, 1, n, stdout);
    putchar('\n');
    cabe_free(out);
    return CABE_OK;
}

static int parse(struct tokenize *t, int argc, char **argv)
{
    int option;

    optind = 0;
    opterr = 0;
    while ((option = getopt_long(argc, argv, "i:", long_options, NULL)) != -1)
        switch (option) {
        case 'i':
            t->input = optarg;
            break;
        case OPTION_IDS:
            t->ids = 1;
            break;
        case OPTION_COUNT:
            t->count = 1;
            break;
        case OPTION_DECODE:
            t->decode = 1;
            break;
        case OPTION_SPECIAL:
            t->special = 1;
            break;
        case CLI_JSON:
            t->json = 1;
            break;
        case CLI_HELP:
            return -1;
        default:
            return cli_usage(&cabe_cmd_tokenize, "unknown argument or missing value: '%s'", argv[optind - 1]);
        }
    if (optind < argc)
        t->model = argv[optind++];
    if (optind < argc)
        t->text = argv[optind++];
    if (!t->model)
        return cli_usage(&cabe_cmd_tokenize, "wants a MODEL: a name of 'cabe list' or a path");
    if (optind < argc)
        return cli_usage(&cabe_cmd_tokenize, "one TEXT at a time, '%s' is a second", argv[optind]);
    if (t->text && t->input)
        return cli_usage(&cabe_cmd_tokenize, "wants a TEXT or --input, not both");
    if (t->ids + t->count + t->decode > 1 || (t->decode && t->json))
        return cli_usage(&cabe_cmd_tokenize, "wants one of --ids, --count and --decode; --decode prints text alone");
    t->bytes = t->text ? strlen(t->text) : 0;
    return 0;
}

static int run(int argc, char **argv)
{
    struct tokenize t = {0};
    struct cabe_error err = {0};
    enum cabe_status status = CABE_OK;
    int code = parse(&t, argc, argv);

    if (code != 0)
        return code < 0 ? cli_help(&cabe_cmd_tokenize) : code;
    status = open_tokenizer(&t, &err);
    if (status == CABE_OK && !t.text)
        status = read_text(&t, &err);
    if (status == CABE_OK)
        status = t.decode ? decode(&t, &err) : encode(&t, &err);
    if (status != CABE_OK)
        code = cli_error(t.json, &err);
    else if (!t.decode)
        code = print_tokens(&t);
    cabe_encoding_clear(&t.encoding);
    cabe_tokenizer_close(t.tokenizer);
    cabe_free(t.block);
    cabe_source_close(t.source);
    cabe_free(t.owned);
    return code;
}

const struct cabe_command cabe_cmd_tokenize = {
    .name = "tokenize",
    .usage = "tokenize MODEL [TEXT | -i FILE] [--ids | --count | --decode] [--special] [--json]",
    .summary = "turns a text into a model's tokens, or tokens into text",
    .help = "  TEXT                the text; without it and -i, standard input\n"
            "  -i, --input FILE    read the text from FILE, - for standard input\n"
            "  --ids               ids alone, on one line\n"
            "  --count             how many\n"
            "  --decode            the text is ids: print the text that they stand for\n"
            "  --special           add the special tokens around the text, recognise those written in it, and\n"
            "                      print them when decoding; without it they are plain text\n"
            "  --json              one JSON document\n"
            "  --help              this text\n"
            "\n"
            "Without --ids, --count and --decode: a line for every token, with its id, the bytes of the text that it\n"
            "covers, and its own bytes.\n",
    .run = run,
};
