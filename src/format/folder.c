/*
 * A Hugging Face folder: documents beside weights, which are model.safetensors, shards named by
 * model.safetensors.index.json, or a single GGUF. sentence-transformers' modules.json may put the first module, or
 * more weights, in folders of their own.
 *
 * Names that documents give are followed only inside the folder, by their words: a file of it may be a symbolic
 * link (the hub's cache is made of them), a name may not climb out.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "format/source_parts.h"

#define DOCUMENT_BYTES_MAX (16u << 20)
#define TOKENIZER_BYTES_MAX (256u << 20)
#define MODULES_MAX 64u
#define PATH_BYTES_MAX 4096u

/*
 * `later`: read when asked for. It is large, or a model may do without it, broken as it may be. A document that is not
 * JSON but text is a JSON string.
 */
static const struct {
    const char *name;
    int later;
} document_names[] = {
    {"config.json", 0},           {"sentence_bert_config.json", 0}, {"config_sentence_transformers.json", 0},
    {"tokenizer.json", 1},        {"tokenizer_config.json", 1},     {"special_tokens_map.json", 1},
    {"added_tokens.json", 1},     {"generation_config.json", 1},    {"chat_template.jinja", 1},
};

int cabe_path_is_inside(const char *path)
{
    if (*path == '\0' || *path == '/')
        return 0;
    for (const char *part = path; part; part = strchr(part, '/')) {
        size_t n;

        part += *part == '/';
        n = strcspn(part, "/");
        if (n == 0 || (n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.'))
            return 0;
    }
    return 1;
}

/* "folder/name", or name where folder is "". 0: too long. */
static int join(char out[PATH_BYTES_MAX], const char *folder, const char *name)
{
    int n = *folder ? snprintf(out, PATH_BYTES_MAX, "%s/%s", folder, name)
                    : snprintf(out, PATH_BYTES_MAX, "%s", name);

    return n > 0 && n < (int)PATH_BYTES_MAX;
}

static int is_file(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

struct folder {
    struct cabe_source *source;
    const char *path;
    const char *weights; /* where an index lies, relative; "" for the root */
    struct cabe_error *err;
};

/* The path of a file of the folder. */
static enum cabe_status place(struct folder *f, const char *name, char out[PATH_BYTES_MAX])
{
    if (!join(out, f->path, name))
        return cabe_fail(f->err, CABE_ERR_LIMIT, "%s: path of '%.200s' has more than %u bytes", f->path, name,
                         PATH_BYTES_MAX - 1);
    return CABE_OK;
}

static struct cabe_source_document *find_document(const struct cabe_source *source, const char *name)
{
    for (size_t i = 0; i < source->n_documents; i++)
        if (strcmp(source->documents[i].name, name) == 0)
            return &source->documents[i];
    return NULL;
}

/* Notes a document where there is one, and reads it unless that can wait. */
static enum cabe_status add_document(struct folder *f, const char *module, const char *name, int later)
{
    struct cabe_source *source = f->source;
    struct cabe_source_document document = {.later = later}, *grown;
    char relative[PATH_BYTES_MAX], path[PATH_BYTES_MAX];
    enum cabe_status status;

    if (!join(relative, module, name))
        return cabe_fail(f->err, CABE_ERR_LIMIT, "%s: module '%.200s': its name is too long", f->path, module);
    status = place(f, relative, path);
    if (status != CABE_OK || !is_file(path) || find_document(source, relative))
        return status;
    if (source->n_documents == source->documents_capacity) {
        size_t capacity = source->documents_capacity + 16;

        grown = cabe_realloc(source->documents, capacity, sizeof *grown);
        if (!grown)
            return cabe_fail(f->err, CABE_ERR_OOM, "%s: list of documents", f->path);
        source->documents = grown;
        source->documents_capacity = capacity;
    }
    document.name = cabe_source_keep(source, relative, strlen(relative));
    if (!document.name)
        return cabe_fail(f->err, CABE_ERR_OOM, "%s: list of documents", f->path);
    status = cabe_source_add_file(source, path, &document.file, f->err);
    if (status == CABE_OK && !document.later)
        status = cabe_input_json(&source->files[document.file], 0, source->files[document.file].bytes,
                                 DOCUMENT_BYTES_MAX, CABE_JSON_CLAMP, "JSON", &document.json, f->err);
    if (status == CABE_OK)
        source->documents[source->n_documents++] = document;
    return status;
}

/* The folder of module `i` in modules.json, "" for the root. */
static enum cabe_status module_folder(struct folder *f, const json_t *modules, size_t i, const char **out)
{
    const json_t *module = json_array_get(modules, i), *path = json_object_get(module, "path");

    *out = path ? json_string_value(path) : "";
    if (*out && (strcmp(*out, ".") == 0 || strcmp(*out, "./") == 0)) /* as model2vec writes it */
        *out = "";
    if (!json_is_object(module) || !*out)
        return cabe_fail(f->err, CABE_ERR_FORMAT, "%s: modules.json: module %zu: path is not a string", f->path, i);
    if (!json_is_string(json_object_get(module, "type")))
        return cabe_fail(f->err, CABE_ERR_FORMAT, "%s: modules.json: module %zu: type is not a string", f->path, i);
    if (**out && !cabe_path_is_inside(*out))
        return cabe_fail(f->err, CABE_ERR_FORMAT, "%s: modules.json: module %zu: path '%.200s' leaves the folder",
                         f->path, i, *out);
    return CABE_OK;
}

/* Documents of the modules; each folder that is not the first one's has a config, and perhaps weights, of its own. */
static enum cabe_status read_modules(struct folder *f)
{
    const struct cabe_source_document *document;
    enum cabe_status status = add_document(f, "", "modules.json", 0);
    const json_t *modules;

    document = status == CABE_OK ? find_document(f->source, "modules.json") : NULL;
    if (!document)
        return status;
    modules = document->json;
    if (!json_is_array(modules) || json_array_size(modules) > MODULES_MAX)
        return cabe_fail(f->err, CABE_ERR_FORMAT, "%s: modules.json: wanted an array of at most %u modules", f->path,
                         MODULES_MAX);
    for (size_t i = 0; status == CABE_OK && i < json_array_size(modules); i++) {
        const char *folder;

        status = module_folder(f, modules, i, &folder);
        if (status == CABE_OK && i == 0 && *folder) {
            f->source->module = cabe_source_keep(f->source, folder, strlen(folder));
            if (!f->source->module)
                return cabe_fail(f->err, CABE_ERR_OOM, "%s: modules", f->path);
            for (size_t d = 0; status == CABE_OK && d < sizeof document_names / sizeof document_names[0]; d++)
                status = add_document(f, folder, document_names[d].name, document_names[d].later);
        } else if (status == CABE_OK && *folder) {
            status = add_document(f, folder, "config.json", 0);
        }
    }
    return status;
}

static enum cabe_status add_safetensors(struct folder *f, const char *relative, const char *prefix, int *file)
{
    char path[PATH_BYTES_MAX];
    enum cabe_status status = place(f, relative, path);

    if (status == CABE_OK)
        status = cabe_source_add_file(f->source, path, file, f->err);
    return status == CABE_OK ? cabe_safetensors_read(f->source, *file, prefix, f->err) : status;
}

/* Weights of the modules after the first: their tensors are named "2_Dense/linear.weight". */
static enum cabe_status read_module_weights(struct folder *f)
{
    const struct cabe_source_document *document = find_document(f->source, "modules.json");
    enum cabe_status status = CABE_OK;

    for (size_t i = 1; document && status == CABE_OK && i < json_array_size(document->json); i++) {
        char relative[PATH_BYTES_MAX], path[PATH_BYTES_MAX], prefix[PATH_BYTES_MAX];
        const char *folder;
        int file;

        status = module_folder(f, document->json, i, &folder);
        if (status != CABE_OK || !*folder)
            continue;
        if (!join(relative, folder, "model.safetensors") || !join(prefix, folder, ""))
            return cabe_fail(f->err, CABE_ERR_LIMIT, "%s: module '%.200s': its name is too long", f->path, folder);
        status = place(f, relative, path);
        if (status == CABE_OK && is_file(path))
            status = add_safetensors(f, relative, prefix, &file);
    }
    return status;
}

struct shard {
    const char *name; /* as the index has it */
    int file;
};

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int find_shard(const struct shard *shards, size_t n, const char *name)
{
    for (size_t low = 0, high = n; low < high;) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, shards[middle].name);

        if (order == 0)
            return shards[middle].file;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return -1;
}

/* Opens each shard once. `names`: of every tensor's shard, sorted. */
static enum cabe_status open_shards(struct folder *f, const char *index_name, const char **names, size_t n,
                                    struct shard *shards, size_t *n_shards)
{
    int index_file = f->source->n_files - 1;

    for (size_t i = 0; i < n; i++) {
        char relative[PATH_BYTES_MAX];
        struct shard *shard = &shards[*n_shards];
        enum cabe_status status;

        if (i > 0 && strcmp(names[i], names[i - 1]) == 0)
            continue;
        if (!cabe_path_is_inside(names[i]))
            return cabe_fail(f->err, CABE_ERR_FORMAT, "%s: %s: shard '%.200s' leaves the folder", f->path,
                             index_name, names[i]);
        if (!join(relative, f->weights, names[i]))
            return cabe_fail(f->err, CABE_ERR_LIMIT, "%s: %s: shard '%.200s': its name is too long", f->path,
                             index_name, names[i]);
        if (strcmp(names[i], "model.safetensors.index.json") == 0)
            return cabe_fail(f->err, CABE_ERR_FORMAT, "%s: %s: lists itself as a shard", f->path, index_name);
        shard->name = names[i];
        status = add_safetensors(f, relative, "", &shard->file);
        if (status != CABE_OK)
            return cabe_fail_in(f->err, status, "%s: shard '%.200s'", index_name, names[i]);
        for (int other = index_file; other < shard->file; other++)
            if (f->source->files[other].inode == f->source->files[shard->file].inode &&
                f->source->files[other].device == f->source->files[shard->file].device)
                return cabe_fail(f->err, CABE_ERR_FORMAT, "%s: %s: shard '%.200s' is the same file as %s", f->path,
                                 index_name, names[i], f->source->files[other].path);
        (*n_shards)++;
    }
    return CABE_OK;
}

/* Every tensor of the index is in the shard that the index says. Tensors are not sorted yet. */
static enum cabe_status check_map(struct folder *f, const char *index_name, json_t *map, const struct shard *shards,
                                  size_t n_shards)
{
    size_t n_found = 0, n_wanted = json_object_size(map);

    for (size_t i = 0; i < f->source->n_tensors; i++) {
        const struct cabe_source_tensor *tensor = &f->source->tensors[i];
        const char *shard = json_string_value(json_object_get(map, tensor->name));

        if (!shard)
            return cabe_fail(f->err, CABE_ERR_FORMAT, "%s: %s: does not list tensor '%.200s' of %s", f->path,
                             index_name, tensor->name, f->source->files[tensor->file].path);
        if (find_shard(shards, n_shards, shard) != tensor->file)
            return cabe_fail(f->err, CABE_ERR_FORMAT, "%s: %s: tensor '%.200s' should be in %.200s, is in %s",
                             f->path, index_name, tensor->name, shard, f->source->files[tensor->file].path);
        n_found++;
    }
    if (n_found != n_wanted)
        return cabe_fail(f->err, CABE_ERR_FORMAT, "%s: %s: lists %zu tensors, the shards have %zu", f->path,
                         index_name, n_wanted, n_found);
    return CABE_OK;
}

static enum cabe_status read_map(struct folder *f, const char *index_name, json_t *map)
{
    size_t n = json_object_size(map), i = 0, n_shards = 0;
    const char **names = cabe_calloc(n, sizeof *names);
    struct shard *shards = cabe_calloc(n, sizeof *shards);
    enum cabe_status status = CABE_OK;
    const char *tensor;
    json_t *value;

    if (!names || !shards) {
        status = cabe_fail(f->err, CABE_ERR_OOM, "%s: %s: %zu tensors", f->path, index_name, n);
        goto done;
    }
    json_object_foreach(map, tensor, value) {
        names[i] = json_string_value(value);
        if (!names[i++]) {
            status = cabe_fail(f->err, CABE_ERR_FORMAT, "%s: %s: tensor '%.200s': its shard is not a string",
                               f->path, index_name, tensor);
            goto done;
        }
    }
    if (n > 0)
        qsort(names, n, sizeof *names, compare_names);
    status = open_shards(f, index_name, names, n, shards, &n_shards);
    if (status == CABE_OK)
        status = check_map(f, index_name, map, shards, n_shards);
done:
    cabe_free(names);
    cabe_free(shards);
    return status;
}

static enum cabe_status read_index(struct folder *f, const char *index_name)
{
    char path[PATH_BYTES_MAX];
    json_t *index = NULL, *map;
    enum cabe_status status = place(f, index_name, path);
    int file;

    if (status == CABE_OK)
        status = cabe_source_add_file(f->source, path, &file, f->err);
    if (status == CABE_OK)
        status = cabe_input_json(&f->source->files[file], 0, f->source->files[file].bytes, DOCUMENT_BYTES_MAX, 0,
                                 "JSON", &index, f->err);
    if (status != CABE_OK)
        return status;
    map = json_object_get(index, "weight_map");
    if (json_is_object(map) && json_object_size(map) > 0)
        status = read_map(f, index_name, map);
    else
        status = cabe_fail(f->err, CABE_ERR_FORMAT, "%s: %s: weight_map is missing, empty or not an object", f->path,
                           index_name);
    json_decref(index);
    return status;
}

static int ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);

    return n > m && strcmp(name + n - m, end) == 0;
}

/* The only *.gguf of the folder into `name`; *n is how many there are. */
static enum cabe_status find_gguf(struct folder *f, char name[256], int *n)
{
    DIR *dir = opendir(f->path);
    struct dirent *entry;

    *n = 0;
    if (!dir)
        return cabe_fail_errno(f->err, errno, "%s", f->path);
    while ((entry = readdir(dir)))
        if (entry->d_name[0] != '.' && ends_with(entry->d_name, ".gguf") && (*n)++ == 0)
            snprintf(name, 256, "%s", entry->d_name);
    closedir(dir);
    return CABE_OK;
}

static enum cabe_status read_gguf(struct folder *f)
{
    char name[256], path[PATH_BYTES_MAX];
    enum cabe_status status;
    int n, file;

    status = find_gguf(f, name, &n);
    if (status != CABE_OK)
        return status;
    if (n > 1)
        return cabe_fail(f->err, CABE_ERR_ARGUMENT, "%s: has %d .gguf files; name one of them", f->path, n);
    status = place(f, n == 1 ? name : "pytorch_model.bin", path);
    if (status == CABE_OK && n == 0 && is_file(path))
        return cabe_fail(f->err, CABE_ERR_UNSUPPORTED,
                         "%s: has its weights as a Python pickle (pytorch_model.bin), wanted model.safetensors",
                         f->path);
    if (status == CABE_OK && n == 0)
        return cabe_fail(f->err, CABE_ERR_NOT_FOUND,
                         "%s: has no weights: no model.safetensors, model.safetensors.index.json or *.gguf", f->path);
    if (status == CABE_OK)
        status = cabe_source_add_file(f->source, path, &file, f->err);
    return status == CABE_OK ? cabe_gguf_read(f->source, file, f->err) : status;
}

static enum cabe_status read_weights(struct folder *f)
{
    static const char *const index_name = "model.safetensors.index.json";
    const char *modules[] = {"", f->source->module};
    char relative[PATH_BYTES_MAX], path[PATH_BYTES_MAX];
    enum cabe_status status;
    int file;

    for (int i = *f->source->module ? 1 : 0; i >= 0; i--) {
        if (!join(relative, modules[i], "model.safetensors"))
            return cabe_fail(f->err, CABE_ERR_LIMIT, "%s: module '%.200s': its name is too long", f->path,
                             modules[i]);
        status = place(f, relative, path);
        if (status != CABE_OK)
            return status;
        if (is_file(path))
            return add_safetensors(f, relative, "", &file);
        if (!join(relative, modules[i], index_name))
            return cabe_fail(f->err, CABE_ERR_LIMIT, "%s: module '%.200s': its name is too long", f->path,
                             modules[i]);
        status = place(f, relative, path);
        if (status != CABE_OK)
            return status;
        f->weights = modules[i];
        if (is_file(path))
            return read_index(f, relative);
    }
    return read_gguf(f);
}

enum cabe_status cabe_folder_read(struct cabe_source *source, const char *path, struct cabe_error *err)
{
    struct folder f = {.source = source, .path = path, .err = err};
    enum cabe_status status = CABE_OK;

    source->kind = CABE_SOURCE_FOLDER;
    for (size_t i = 0; status == CABE_OK && i < sizeof document_names / sizeof document_names[0]; i++)
        status = add_document(&f, "", document_names[i].name, document_names[i].later);
    if (status == CABE_OK)
        status = read_modules(&f);
    if (status == CABE_OK)
        status = read_weights(&f);
    if (status == CABE_OK)
        status = read_module_weights(&f);
    return status;
}

void cabe_folder_clear(struct cabe_source *source)
{
    for (size_t i = 0; i < source->n_documents; i++)
        json_decref(source->documents[i].json);
    cabe_free(source->documents);
    source->documents = NULL;
    source->n_documents = 0;
}

static enum cabe_status load_text(const struct cabe_input *in, json_t **out, struct cabe_error *err)
{
    enum cabe_status status;
    char *text;

    if (in->bytes > DOCUMENT_BYTES_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: text of %llu bytes, at most %u", in->path,
                         (unsigned long long)in->bytes, DOCUMENT_BYTES_MAX);
    if (!(text = cabe_malloc((size_t)in->bytes)))
        return cabe_fail(err, CABE_ERR_OOM, "%s: text of %llu bytes", in->path, (unsigned long long)in->bytes);
    status = cabe_input_read(in, 0, in->bytes, text, err);
    if (status == CABE_OK && !(*out = json_stringn(text, (size_t)in->bytes))) {
        *out = json_stringn_nocheck("", 0); /* memory, or the text itself? */
        status = *out ? cabe_fail(err, CABE_ERR_FORMAT, "%s: not UTF-8", in->path)
                      : cabe_fail(err, CABE_ERR_OOM, "%s: text", in->path);
        json_decref(*out);
        *out = NULL;
    }
    cabe_free(text);
    return status;
}

static int is_text(const char *name)
{
    size_t n = strlen(name);

    return n >= 6 && strcmp(name + n - 6, ".jinja") == 0;
}

static enum cabe_status load_document(const struct cabe_source *source, size_t i, const json_t **out,
                                      struct cabe_error *err)
{
    const struct cabe_source_document *document = &source->documents[i];
    const struct cabe_input *in = &source->files[document->file];
    json_t *json = atomic_load_explicit(&source->lazy->json[i], memory_order_acquire);
    enum cabe_status status = CABE_OK;

    if (!json) {
        pthread_mutex_lock(&source->lazy->mutex);
        json = atomic_load_explicit(&source->lazy->json[i], memory_order_relaxed);
        /* Vocabularies may hold U+0000 as a token. */
        if (!json && is_text(document->name))
            status = load_text(in, &json, err);
        else if (!json)
            status = cabe_input_json(in, 0, in->bytes, TOKENIZER_BYTES_MAX, JSON_ALLOW_NUL | CABE_JSON_CLAMP, "JSON",
                                     &json, err);
        atomic_store_explicit(&source->lazy->json[i], json, memory_order_release);
        pthread_mutex_unlock(&source->lazy->mutex);
    }
    *out = json;
    return status;
}

enum cabe_status cabe_source_document_get(const struct cabe_source *source, const char *name, const json_t **out,
                                          struct cabe_error *err)
{
    char relative[PATH_BYTES_MAX];
    const struct cabe_source_document *document = find_document(source, name);

    *out = NULL;
    if (!document && *source->module && join(relative, source->module, name))
        document = find_document(source, relative);
    if (!document)
        return cabe_fail(err, CABE_ERR_NOT_FOUND, "%s: has no %.200s", source->path, name);
    if (document->later)
        return load_document(source, (size_t)(document - source->documents), out, err);
    *out = document->json;
    return CABE_OK;
}

const json_t *cabe_source_document(const struct cabe_source *source, const char *name)
{
    const json_t *json;

    return cabe_source_document_get(source, name, &json, NULL) == CABE_OK ? json : NULL;
}
