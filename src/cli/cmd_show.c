#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cli.h"
#include "format/source.h"
#include "format/store.h"

struct options {
    const char *model;
    int json, tensors, help;
};

static int parse(struct options *options, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            options->json = 1;
        else if (strcmp(argv[i], "--tensors") == 0)
            options->tensors = 1;
        else if (strcmp(argv[i], "--help") == 0)
            options->help = 1;
        else if (argv[i][0] == '-' && argv[i][1])
            return cli_usage(&cabe_cmd_show, "unknown argument '%s'", argv[i]);
        else if (options->model)
            return cli_usage(&cabe_cmd_show, "one MODEL at a time, '%s' is a second", argv[i]);
        else
            options->model = argv[i];
    }
    if (!options->model && !options->help)
        return cli_usage(&cabe_cmd_show, "wants a MODEL: a name of 'cabe list' or a path");
    return 0;
}

/* One GGUF value: numbers, bools and strings as they are, an array as how many it has. */
static json_t *metadata_value(const struct cabe_source *source, const char *key)
{
    const char *text;
    uint64_t n;
    int64_t i;
    size_t bytes;
    double d;
    int flag;

    if (cabe_source_get_i64(source, key, &i))
        return json_integer(i);
    if (cabe_source_get_f64(source, key, &d))
        return d - d == 0 ? json_real(d) : json_null(); /* JSON has no infinity */
    if (cabe_source_get_bool(source, key, &flag))
        return json_boolean(flag);
    if (cabe_source_get_string(source, key, &text, &bytes))
        return cabe_json_text(text, bytes);
    if (cabe_source_get_array(source, key, &n))
        return json_pack("{s:o}", "n", cabe_json_count(n));
    return json_null();
}

static json_t *metadata(const struct cabe_source *source)
{
    json_t *object = json_object();
    const char *key;

    for (size_t i = 0; (key = cabe_source_key(source, i)); i++) {
        json_t *name = cabe_json_text(key, strlen(key));

        if (name)
            json_object_set_new(object, json_string_value(name), metadata_value(source, key));
        json_decref(name);
    }
    return object;
}

/* Documents that say how the model is built; vocabularies are not among them. */
static json_t *documents(const struct cabe_source *source)
{
    json_t *object = json_object();
    const char *name;

    for (size_t i = 0; (name = cabe_source_document_name(source, i)); i++)
        if (strcmp(name, "config.json") == 0 || strcmp(name, "modules.json") == 0 ||
            strcmp(name, "sentence_bert_config.json") == 0 ||
            (strchr(name, '/') && strstr(name, "/config.json")))
            json_object_set_new(object, name, json_deep_copy(cabe_source_document(source, name)));
    return object;
}

/* What kind of tokenizer, and how many tokens it has. */
static json_t *tokenizer(const struct cabe_source *source)
{
    const json_t *model = json_object_get(cabe_source_document(source, "tokenizer.json"), "model");
    const json_t *vocab = json_object_get(model, "vocab"), *type = json_object_get(model, "type");
    const char *text;
    size_t bytes;
    uint64_t n = 0;

    if (cabe_source_get_string(source, "tokenizer.ggml.model", &text, &bytes)) {
        cabe_source_get_array(source, "tokenizer.ggml.tokens", &n);
        return json_pack("{s:o,s:o}", "kind", cabe_json_text(text, bytes), "tokens", cabe_json_count(n));
    }
    if (!model)
        return json_null();
    n = json_is_array(vocab) ? json_array_size(vocab) : json_object_size(vocab);
    if (json_string_value(type))
        text = json_string_value(type);
    else /* files of older libraries leave it out; the shape of the vocabulary tells */
        text = json_is_array(vocab) ? "Unigram" : json_object_get(model, "merges") ? "BPE" : "WordPiece";
    return json_pack("{s:s,s:o}", "kind", text, "tokens", cabe_json_count(n));
}

static json_t *tensors(const struct cabe_source *source)
{
    json_t *list = json_array();

    for (size_t i = 0; i < cabe_source_n_tensors(source); i++) {
        const struct cabe_source_tensor *t = cabe_source_tensor(source, i);
        json_t *shape = json_array();

        for (int d = 4 - t->n_dims; d < 4; d++)
            json_array_append_new(shape, json_integer(t->shape[d]));
        json_array_append_new(list, json_pack("{s:o,s:s,s:o,s:o}", "name", cabe_json_text(t->name, strlen(t->name)),
                                              "dtype", t->type, "shape", shape, "bytes", cabe_json_count(t->bytes)));
    }
    return list;
}

static json_t *describe(const struct options *options, const struct cabe_source *source)
{
    const char *path = cabe_source_path(source);
    struct cabe_source_summary summary;
    json_t *model;

    cabe_source_summarise(source, &summary);
    model = json_pack("{s:o,s:o,s:s,s:s,s:s,s:o,s:o,s:i,s:o}", "name",
                      cabe_json_text(options->model, strlen(options->model)), "path",
                      cabe_json_text(path, strlen(path)), "format", summary.format, "architecture",
                      summary.architecture, "dtype", summary.type, "parameters", cabe_json_count(summary.n_params),
                      "bytes", cabe_json_count(summary.bytes), "files", summary.n_files, "n_tensors",
                      cabe_json_count(cabe_source_n_tensors(source)));
    if (!model)
        return NULL;
    json_object_set_new(model, "tokenizer", tokenizer(source));
    json_object_set_new(model, cabe_source_kind(source) == CABE_SOURCE_GGUF ? "metadata" : "documents",
                        cabe_source_kind(source) == CABE_SOURCE_GGUF ? metadata(source) : documents(source));
    if (options->tensors)
        json_object_set_new(model, "tensors", tensors(source));
    return model;
}

/* A value on one line; long texts (chat templates) are cut. */
static void print_value(const char *key, const json_t *value)
{
    const json_t *n = json_object_get(value, "n");
    char *text;

    if (n) {
        printf("    %-44s [%" JSON_INTEGER_FORMAT "]\n", key, json_integer_value(n));
        return;
    }
    text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));
    if (text)
        printf("    %-44s %.160s%s\n", key, text, strlen(text) > 160 ? "..." : "");
    free(text); /* jansson's */
}

static void print_group(const char *title, json_t *object)
{
    const char *key;
    json_t *value;

    printf("\n  %s\n", title);
    json_object_foreach(object, key, value) print_value(key, value);
}

static int print(const struct options *options, const struct cabe_source *source, json_t *model)
{
    json_t *token = json_object_get(model, "tokenizer"), *docs = json_object_get(model, "documents"), *value;
    struct cabe_source_summary summary;
    char size[CLI_BYTES_MAX];
    const char *key;

    cabe_source_summarise(source, &summary);
    printf("%s\n  %-14s %s\n  %-14s %s\n  %-14s %s\n", options->model, "path", cabe_source_path(source), "format",
           summary.format, "architecture", summary.architecture);
    printf("  %-14s %" PRIu64 " in %zu tensors, mostly %s\n", "parameters", summary.n_params,
           cabe_source_n_tensors(source), summary.type);
    printf("  %-14s %s in %d file%s\n", "size", cli_format_bytes(summary.bytes, size), summary.n_files,
           summary.n_files == 1 ? "" : "s");
    if (json_is_object(token))
        printf("  %-14s %s, %" JSON_INTEGER_FORMAT " tokens\n", "tokenizer",
               json_string_value(json_object_get(token, "kind")), json_integer_value(json_object_get(token, "tokens")));
    if (docs) {
        json_object_foreach(docs, key, value) if (json_is_object(value)) print_group(key, value);
    } else {
        print_group("metadata", json_object_get(model, "metadata"));
    }
    if (options->tensors)
        printf("\n  tensors\n");
    for (size_t i = 0; options->tensors && i < cabe_source_n_tensors(source); i++) {
        const struct cabe_source_tensor *t = cabe_source_tensor(source, i);

        printf("    %-44s %-8s [", t->name, t->type);
        for (int d = 4 - t->n_dims; d < 4; d++)
            printf("%s%" PRId64, d > 4 - t->n_dims ? ", " : "", t->shape[d]);
        printf("] %" PRIu64 "\n", t->bytes);
    }
    return fflush(stdout) == 0 ? 0 : cabe_status_exit_code(CABE_ERR_IO);
}

static int run(int argc, char **argv)
{
    struct options options = {0};
    char path[CABE_STORE_PATH_MAX];
    struct cabe_source *source;
    struct cabe_error err;
    enum cabe_status status;
    json_t *model;
    int code = parse(&options, argc, argv);

    if (code != 0)
        return code;
    if (options.help)
        return cli_help(&cabe_cmd_show);
    status = cabe_store_resolve(options.model, path, &err);
    if (status == CABE_OK)
        status = cabe_source_open(&source, path, &err);
    if (status != CABE_OK)
        return cli_error(options.json, &err);
    model = describe(&options, source);
    if (options.json) {
        code = cli_print_json(model);
    } else {
        code = print(&options, source, model);
        json_decref(model);
    }
    cabe_source_close(source);
    return code;
}

const struct cabe_command cabe_cmd_show = {
    .name = "show",
    .usage = "show MODEL [--tensors] [--json]",
    .summary = "shows what a model's files say: architecture, configuration, tokenizer, tensors",
    .help = "  MODEL      a name of 'cabe list', or the path of a folder or file\n"
            "  --tensors  every tensor with its dtype, shape and bytes\n"
            "  --json     one JSON document\n",
    .run = run,
};
