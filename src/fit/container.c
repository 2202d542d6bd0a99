#include "fit/container.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/memory.h"

enum { GGUF_U32 = 4, GGUF_STRING = 8, GGUF_ARRAY = 9, GGUF_U64 = 10, GGML_TYPE_I8 = 24, N_KEYS = 11 };

struct tensor {
    char name[64];
    uint64_t bytes, offset; /* offset behind the header */
    uint64_t sum;
};

struct cabe_container {
    struct cabe_container_out to;
    const char *path;
    struct tensor *tensor;
    uint32_t n_tensors, current;
    uint64_t written; /* of the current tensor */
    uint64_t header_bytes;
    struct cabe_container_facts facts;
    XXH3_state_t *hash; /* of the current tensor */
};

enum cabe_status cabe_container_open(struct cabe_container **out, const struct cabe_container_out *to,
                                     const char *path, struct cabe_error *err)
{
    struct cabe_container *c = cabe_calloc(1, sizeof *c);

    *out = NULL;
    if (!c || !(c->tensor = cabe_calloc(CABE_CONTAINER_TENSORS_MAX, sizeof *c->tensor)) ||
        !(c->hash = XXH3_createState())) {
        cabe_container_close(c);
        return cabe_fail(err, CABE_ERR_OOM, "%s: writer", path);
    }
    c->to = *to;
    c->path = path;
    *out = c;
    return CABE_OK;
}

void cabe_container_close(struct cabe_container *c)
{
    if (!c)
        return;
    XXH3_freeState(c->hash);
    cabe_free(c->tensor);
    cabe_free(c);
}

enum cabe_status cabe_container_declare(struct cabe_container *c, const char *name, uint64_t bytes,
                                        struct cabe_error *err)
{
    struct tensor *tensor;

    if (c->n_tensors == CABE_CONTAINER_TENSORS_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: more than %d tensors", c->path, CABE_CONTAINER_TENSORS_MAX);
    tensor = &c->tensor[c->n_tensors];
    strncpy(tensor->name, name, sizeof tensor->name - 1);
    tensor->bytes = bytes;
    if (c->n_tensors > 0)
        tensor->offset = (tensor[-1].offset + tensor[-1].bytes + CABE_CONTAINER_ALIGN - 1) / CABE_CONTAINER_ALIGN *
                         CABE_CONTAINER_ALIGN;
    c->n_tensors++;
    return CABE_OK;
}

/* ---- the header, measured with base NULL and placed otherwise ---- */

struct header {
    uint8_t *base;
    uint64_t at;
};

static void put(struct header *h, const void *data, size_t bytes)
{
    if (h->base)
        memcpy(h->base + h->at, data, bytes);
    h->at += bytes;
}

static void put_u32(struct header *h, uint32_t value)
{
    put(h, &value, sizeof value);
}

static void put_u64(struct header *h, uint64_t value)
{
    put(h, &value, sizeof value);
}

static void put_string(struct header *h, const char *text)
{
    size_t n = strlen(text);

    put_u64(h, n);
    put(h, text, n);
}

static void put_key_string(struct header *h, const char *key, const char *text)
{
    put_string(h, key);
    put_u32(h, GGUF_STRING);
    put_string(h, text);
}

static void put_key_u64(struct header *h, const char *key, uint64_t value)
{
    put_string(h, key);
    put_u32(h, GGUF_U64);
    put_u64(h, value);
}

static void put_key_u32(struct header *h, const char *key, uint32_t value)
{
    put_string(h, key);
    put_u32(h, GGUF_U32);
    put_u32(h, value);
}

uint64_t cabe_container_header_sum(const uint8_t *header, uint64_t bytes, uint64_t at)
{
    static const uint8_t zero[8];
    XXH3_state_t state;

    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, header, at);
    XXH3_64bits_update(&state, zero, sizeof zero);
    XXH3_64bits_update(&state, header + at + 8, bytes - at - 8);
    return XXH3_64bits_digest(&state);
}

static void place_header(const struct cabe_container *c, struct header *h)
{
    const struct cabe_container_facts *facts = &c->facts;
    uint64_t sum_at;

    put(h, "GGUF", 4);
    put_u32(h, 3);
    put_u64(h, c->n_tensors);
    put_u64(h, N_KEYS);
    put_key_string(h, "general.architecture", "cabe");
    put_key_u32(h, "general.alignment", CABE_CONTAINER_ALIGN);
    put_key_u32(h, CABE_KEY_VERSION, CABE_FIT_LAYOUT_VERSION);
    put_key_string(h, CABE_KEY_PATH, facts->source_path);
    put_key_u64(h, CABE_KEY_IDENTITY, facts->key->identity);
    put_key_u64(h, CABE_KEY_PATH_HASH, facts->key->path_hash);
    put_key_string(h, CABE_KEY_HASH, facts->source_hash);
    put_key_string(h, CABE_KEY_DTYPE, facts->dtype);
    put_key_string(h, CABE_KEY_MODEL, facts->model_json);
    put_string(h, CABE_KEY_CHECKSUMS);
    put_u32(h, GGUF_ARRAY);
    put_u32(h, GGUF_U64);
    put_u64(h, c->n_tensors);
    for (uint32_t i = 0; i < c->n_tensors; i++)
        put_u64(h, c->tensor[i].sum);
    put_key_u64(h, CABE_KEY_HEADER, 0);
    sum_at = h->at - 8;
    for (uint32_t i = 0; i < c->n_tensors; i++) {
        put_string(h, c->tensor[i].name);
        put_u32(h, 1);
        put_u64(h, c->tensor[i].bytes);
        put_u32(h, GGML_TYPE_I8);
        put_u64(h, c->tensor[i].offset);
    }
    h->at = (h->at + CABE_CONTAINER_ALIGN - 1) / CABE_CONTAINER_ALIGN * CABE_CONTAINER_ALIGN;
    if (h->base) {
        uint64_t sum = cabe_container_header_sum(h->base, h->at, sum_at);

        memcpy(h->base + sum_at, &sum, sizeof sum);
    }
}

/* ---- bytes ---- */

/* Zeros, `bytes` of them: between tensors, and where the header will be. */
static enum cabe_status append_zeros(const struct cabe_container *c, uint64_t bytes, struct cabe_error *err)
{
    static const uint8_t zeros[CABE_CONTAINER_ALIGN];
    enum cabe_status status = CABE_OK;

    for (; bytes > 0 && status == CABE_OK; bytes -= bytes < sizeof zeros ? bytes : sizeof zeros)
        status = c->to.append(c->to.self, zeros, bytes < sizeof zeros ? bytes : sizeof zeros, err);
    return status;
}

enum cabe_status cabe_container_begin(struct cabe_container *c, const struct cabe_container_facts *facts,
                                      struct cabe_error *err)
{
    struct header measure = {NULL, 0};
    const struct tensor *last = &c->tensor[c->n_tensors - 1];
    enum cabe_status status;

    c->facts = *facts;
    place_header(c, &measure);
    c->header_bytes = measure.at;
    XXH3_64bits_reset(c->hash);
    /* A full disk is known before the work, not after it. */
    status = c->to.reserve(c->to.self, c->header_bytes + last->offset + last->bytes, err);
    return status == CABE_OK ? append_zeros(c, c->header_bytes, err) : status;
}

enum cabe_status cabe_container_write(struct cabe_container *c, const void *data, uint64_t bytes,
                                      struct cabe_error *err)
{
    struct tensor *tensor = &c->tensor[c->current];
    enum cabe_status status;

    if (c->current == c->n_tensors || bytes > tensor->bytes - c->written)
        return cabe_fail(err, CABE_ERR_INTERNAL, "%s: %s: more than the %llu bytes declared", c->path, tensor->name,
                         (unsigned long long)tensor->bytes);
    status = c->to.append(c->to.self, data, bytes, err);
    if (status != CABE_OK)
        return status;
    XXH3_64bits_update(c->hash, data, bytes);
    c->written += bytes;
    return CABE_OK;
}

enum cabe_status cabe_container_pad(struct cabe_container *c, uint64_t offset, struct cabe_error *err)
{
    static const uint8_t zeros[CABE_CONTAINER_ALIGN];
    enum cabe_status status = CABE_OK;

    while (status == CABE_OK && c->written < offset) {
        uint64_t left = offset - c->written;

        status = cabe_container_write(c, zeros, left < sizeof zeros ? left : sizeof zeros, err);
    }
    return status;
}

enum cabe_status cabe_container_next(struct cabe_container *c, struct cabe_error *err)
{
    struct tensor *tensor = &c->tensor[c->current];

    if (c->written != tensor->bytes)
        return cabe_fail(err, CABE_ERR_INTERNAL, "%s: %s: %llu bytes of %llu declared", c->path, tensor->name,
                         (unsigned long long)c->written, (unsigned long long)tensor->bytes);
    tensor->sum = XXH3_64bits_digest(c->hash) & INT64_MAX;
    XXH3_64bits_reset(c->hash);
    c->written = 0;
    c->current++;
    if (c->current == c->n_tensors)
        return CABE_OK;
    return append_zeros(c, tensor[1].offset - tensor->offset - tensor->bytes, err);
}

enum cabe_status cabe_container_finish(struct cabe_container *c, struct cabe_error *err)
{
    struct header header = {cabe_calloc(1, c->header_bytes), 0};
    enum cabe_status status;

    if (!header.base)
        return cabe_fail(err, CABE_ERR_OOM, "%s: header of %llu bytes", c->path, (unsigned long long)c->header_bytes);
    place_header(c, &header);
    status = c->to.rewrite(c->to.self, 0, header.base, c->header_bytes, err);
    cabe_free(header.base);
    return status;
}
