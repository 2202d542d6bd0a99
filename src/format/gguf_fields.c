/* Metadata of a GGUF by key. Arrays are read from the file when first asked for, whole, and checked again then. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "format/source_parts.h"

static int compare_key(const void *name, const void *key)
{
    return strcmp(name, ((const struct cabe_gguf_key *)key)->name);
}

/* Walking over an array asks for one key a quarter of a million times. While the source opens there is no guess. */
static const struct cabe_gguf_key *find(const struct cabe_source *source, const char *name)
{
    struct cabe_source_lazy *lazy = source->lazy;
    const struct cabe_gguf_key *key;

    if (source->n_keys == 0)
        return NULL;
    if (lazy) {
        key = &source->keys[atomic_load_explicit(&lazy->last_key, memory_order_relaxed)];
        if (strcmp(name, key->name) == 0)
            return key;
    }
    key = bsearch(name, source->keys, source->n_keys, sizeof *source->keys, compare_key);
    if (lazy && key)
        atomic_store_explicit(&lazy->last_key, (size_t)(key - source->keys), memory_order_relaxed);
    return key;
}

static const struct cabe_gguf_key *find_typed(const struct cabe_source *source, const char *name, int type)
{
    const struct cabe_gguf_key *key = find(source, name);

    return key && key->type == type ? key : NULL;
}

int cabe_source_get_i64(const struct cabe_source *source, const char *name, int64_t *out)
{
    const struct cabe_gguf_key *key = find(source, name);

    if (!key)
        return 0;
    switch (key->type) {
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_U64:
        if (key->value.u > INT64_MAX)
            return 0;
        *out = (int64_t)key->value.u;
        return 1;
    case GGUF_I8:
    case GGUF_I16:
    case GGUF_I32:
    case GGUF_I64:
        *out = key->value.i;
        return 1;
    default:
        return 0;
    }
}

int cabe_source_get_f64(const struct cabe_source *source, const char *name, double *out)
{
    const struct cabe_gguf_key *key = find(source, name);

    if (!key || (key->type != GGUF_F32 && key->type != GGUF_F64))
        return 0;
    *out = key->value.f;
    return 1;
}

int cabe_source_get_bool(const struct cabe_source *source, const char *name, int *out)
{
    const struct cabe_gguf_key *key = find_typed(source, name, GGUF_BOOL);

    if (!key)
        return 0;
    *out = key->value.u != 0;
    return 1;
}

int cabe_source_get_string(const struct cabe_source *source, const char *name, const char **out, size_t *bytes)
{
    const struct cabe_gguf_key *key = find_typed(source, name, GGUF_STRING);

    if (!key)
        return 0;
    *out = key->text;
    *bytes = (size_t)key->n;
    return 1;
}

int cabe_source_get_array(const struct cabe_source *source, const char *name, uint64_t *n)
{
    const struct cabe_gguf_key *key = find_typed(source, name, GGUF_ARRAY);

    if (!key)
        return 0;
    *n = key->n;
    return 1;
}

static uint64_t load(const uint8_t *at, int bytes)
{
    uint64_t value = 0;

    for (int i = bytes - 1; i >= 0; i--)
        value = value << 8 | at[i];
    return value;
}

/* The strings must lie as they did when the file was opened, for array_string() trusts their lengths. */
static int strings_hold(const struct cabe_gguf_key *key, const uint8_t *data)
{
    uint64_t at = 0;

    for (uint64_t i = 0; i < key->n; i++) {
        uint64_t n;

        if ((i % CABE_GGUF_MARK == 0 && key->marks[i / CABE_GGUF_MARK] != at) || key->bytes - at < 8)
            return 0;
        n = load(data + at, 8);
        at += 8;
        if (n > key->bytes - at)
            return 0;
        at += n;
    }
    return at == key->bytes;
}

static enum cabe_status read_elements(const struct cabe_source *source, const struct cabe_gguf_key *key,
                                      uint8_t **out, struct cabe_error *err)
{
    const struct cabe_input *in = &source->files[source->gguf];
    enum cabe_status status = cabe_pages_map((void **)out, key->bytes, 0, err);

    if (status != CABE_OK)
        return cabe_fail_in(err, status, "%s: key '%s'", in->path, key->name);
    status = cabe_input_read(in, key->offset, key->bytes, *out, err);
    if (status == CABE_OK && key->element == GGUF_STRING && !strings_hold(key, *out))
        status = cabe_fail(err, CABE_ERR_CHANGED, "%s: key '%s': strings are not where they were when it was opened",
                           in->path, key->name);
    if (status != CABE_OK) {
        cabe_pages_unmap(*out, key->bytes);
        *out = NULL;
    }
    return status;
}

static enum cabe_status elements(const struct cabe_source *source, const struct cabe_gguf_key *key,
                                 const uint8_t **out, struct cabe_error *err)
{
    _Atomic(uint8_t *) *slot = &source->lazy->array[key - source->keys];
    uint8_t *data = atomic_load_explicit(slot, memory_order_acquire);
    enum cabe_status status = CABE_OK;

    if (!data) {
        pthread_mutex_lock(&source->lazy->mutex);
        data = atomic_load_explicit(slot, memory_order_relaxed);
        if (!data)
            status = read_elements(source, key, &data, err);
        atomic_store_explicit(slot, data, memory_order_release);
        pthread_mutex_unlock(&source->lazy->mutex);
    }
    *out = data;
    return status;
}

enum cabe_status cabe_source_array_load(const struct cabe_source *source, const char *name, struct cabe_error *err)
{
    const struct cabe_gguf_key *key = find_typed(source, name, GGUF_ARRAY);
    const uint8_t *data;

    if (!key)
        return cabe_fail(err, CABE_ERR_NOT_FOUND, "%s: key '%s': is not an array of the metadata", source->path,
                         name);
    return elements(source, key, &data, err);
}

/* Element i of the array, and its key; NULL where there is none. */
static const uint8_t *element(const struct cabe_source *source, const char *name, uint64_t i,
                              const struct cabe_gguf_key **key)
{
    static const uint8_t value_bytes[GGUF_N_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    const uint8_t *data;

    *key = find_typed(source, name, GGUF_ARRAY);
    if (!*key || i >= (*key)->n || elements(source, *key, &data, NULL) != CABE_OK)
        return NULL;
    if ((*key)->element != GGUF_STRING)
        return data + i * value_bytes[(*key)->element];
    data += (*key)->marks[i / CABE_GGUF_MARK];
    for (uint64_t skip = i % CABE_GGUF_MARK; skip > 0; skip--)
        data += 8 + load(data, 8);
    return data;
}

int cabe_source_array_string(const struct cabe_source *source, const char *name, uint64_t i, const char **out,
                             size_t *bytes)
{
    const struct cabe_gguf_key *key;
    const uint8_t *data = element(source, name, i, &key);

    if (!data || key->element != GGUF_STRING)
        return 0;
    *bytes = (size_t)load(data, 8);
    *out = (const char *)data + 8;
    return 1;
}

int cabe_source_array_f64(const struct cabe_source *source, const char *name, uint64_t i, double *out)
{
    const struct cabe_gguf_key *key;
    const uint8_t *data = element(source, name, i, &key);
    uint64_t bits;
    uint32_t low;
    float f;

    if (!data || (key->element != GGUF_F32 && key->element != GGUF_F64))
        return 0;
    if (key->element == GGUF_F64) {
        bits = load(data, 8);
        memcpy(out, &bits, sizeof bits);
        return 1;
    }
    low = (uint32_t)load(data, 4);
    memcpy(&f, &low, sizeof f);
    *out = (double)f;
    return 1;
}

int cabe_source_array_i64(const struct cabe_source *source, const char *name, uint64_t i, int64_t *out)
{
    const struct cabe_gguf_key *key;
    const uint8_t *data = element(source, name, i, &key);
    uint64_t bits;

    if (!data)
        return 0;
    switch (key->element) {
    case GGUF_BOOL:
    case GGUF_U8:
        *out = data[0];
        return 1;
    case GGUF_I8:
        *out = (int8_t)data[0];
        return 1;
    case GGUF_U16:
        *out = (int64_t)load(data, 2);
        return 1;
    case GGUF_I16:
        *out = (int16_t)load(data, 2);
        return 1;
    case GGUF_U32:
        *out = (int64_t)load(data, 4);
        return 1;
    case GGUF_I32:
        *out = (int32_t)load(data, 4);
        return 1;
    case GGUF_U64:
    case GGUF_I64:
        bits = load(data, 8);
        if (key->element == GGUF_U64 && bits > INT64_MAX)
            return 0;
        *out = (int64_t)bits;
        return 1;
    default:
        return 0;
    }
}
