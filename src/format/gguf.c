/*
 * GGUF, versions 2 and 3: header, metadata, tensor table.
 *
 * The header is read forward through a window. Numbers and strings are kept; of arrays only where they lie, with the
 * offset of every 8th string, so that a vocabulary of 250,000 tokens costs 125 KB until it is asked for. Nothing is
 * allocated from a count alone: lists grow as entries are read, and entries have a least size in the file.
 *
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "format/source_parts.h"

#define VERSION_MIN 2u
#define VERSION_MAX 3u
#define KEYS_MAX 65536u
#define KEY_BYTES_MAX 65535u
#define STRING_BYTES_MAX (64u << 20) /* of one string outside arrays, as long as the largest chat template and more */
#define KEY_LEAST_BYTES 13u          /* length, empty name, type, a byte */
#define TENSOR_LEAST_BYTES 24u       /* length, empty name, n_dims, type, offset */

static const uint8_t value_bytes[GGUF_N_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/* Types of tensors: number in the file, name, elements of a block, bytes of a block. */
static const struct tensor_type {
    uint32_t id;
    const char *name;
    uint32_t block, bytes;
} tensor_types[] = {
    {0, "f32", 1, 4},           {1, "f16", 1, 2},           {2, "q4_0", 32, 18},
    {3, "q4_1", 32, 20},        {6, "q5_0", 32, 22},        {7, "q5_1", 32, 24},
    {8, "q8_0", 32, 34},        {10, "q2_k", 256, 84},      {11, "q3_k", 256, 110},
    {12, "q4_k", 256, 144},     {13, "q5_k", 256, 176},     {14, "q6_k", 256, 210},
    {16, "iq2_xxs", 256, 66},   {17, "iq2_xs", 256, 74},    {18, "iq3_xxs", 256, 98},
    {19, "iq1_s", 256, 50},     {20, "iq4_nl", 32, 18},     {21, "iq3_s", 256, 110},
    {22, "iq2_s", 256, 82},     {23, "iq4_xs", 256, 136},   {24, "i8", 1, 1},
    {25, "i16", 1, 2},          {26, "i32", 1, 4},          {27, "i64", 1, 8},
    {28, "f64", 1, 8},          {29, "iq1_m", 256, 56},     {30, "bf16", 1, 2},
    {34, "tq1_0", 256, 54},     {35, "tq2_0", 256, 66},     {39, "mxfp4", 32, 17},
    {40, "nvfp4", 64, 36},      {41, "q1_0", 128, 18},      {42, "q2_0", 64, 18},
};

static const struct tensor_type *find_type(uint32_t id)
{
    for (size_t i = 0; i < sizeof tensor_types / sizeof tensor_types[0]; i++)
        if (tensor_types[i].id == id)
            return &tensor_types[i];
    return NULL;
}

struct parse {
    struct cabe_source *source;
    struct cabe_window w;
    const char *path;
    uint64_t n_tensors, n_keys, alignment;
    size_t keys_capacity;
    struct cabe_error *err;
};

/* A length and that many bytes; a name when max_bytes is small: no NUL inside. *out is kept by the source. */
static enum cabe_status take_string(struct parse *p, uint64_t max_bytes, int is_name, const char **out, uint64_t *n)
{
    char *text;

    *n = cabe_window_u64(&p->w);
    if (p->w.status != CABE_OK)
        return p->w.status;
    if (*n > cabe_window_left(&p->w))
        return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: %s: length %llu at offset %llu past end %llu", p->path,
                         p->w.where, (unsigned long long)*n, (unsigned long long)p->w.at - 8,
                         (unsigned long long)p->w.in->bytes);
    if (*n > max_bytes)
        return cabe_fail(p->err, CABE_ERR_LIMIT, "%s: %s: length %llu, at most %llu", p->path, p->w.where,
                         (unsigned long long)*n, (unsigned long long)max_bytes);
    text = cabe_source_room(p->source, (size_t)*n);
    if (!text)
        return cabe_fail(p->err, CABE_ERR_OOM, "%s: %s: %llu bytes", p->path, p->w.where, (unsigned long long)*n);
    cabe_window_copy(&p->w, text, *n);
    if (p->w.status == CABE_OK && is_name && memchr(text, 0, (size_t)*n))
        return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: %s '%s': a NUL byte inside", p->path, p->w.where, text);
    *out = text;
    return p->w.status;
}

static enum cabe_status read_header(struct parse *p)
{
    uint8_t magic[4];
    uint32_t version;

    cabe_window_copy(&p->w, magic, sizeof magic);
    version = cabe_window_u32(&p->w);
    if (p->w.status != CABE_OK)
        return p->w.status;
    if (memcmp(magic, "GGUF", 4) != 0)
        return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: magic %02x %02x %02x %02x, wanted \"GGUF\"", p->path,
                         magic[0], magic[1], magic[2], magic[3]);
    if ((version & 0xFFFFu) == 0 && version != 0)
        return cabe_fail(p->err, CABE_ERR_UNSUPPORTED, "%s: is a big-endian GGUF; wanted a little-endian one",
                         p->path);
    if (version < VERSION_MIN || version > VERSION_MAX)
        return cabe_fail(p->err, CABE_ERR_UNSUPPORTED, "%s: GGUF version %u, wanted %u or %u", p->path, version,
                         VERSION_MIN, VERSION_MAX);
    p->n_tensors = cabe_window_u64(&p->w);
    p->n_keys = cabe_window_u64(&p->w);
    if (p->w.status != CABE_OK)
        return p->w.status;
    if (p->n_tensors > cabe_window_left(&p->w) / TENSOR_LEAST_BYTES ||
        p->n_keys > cabe_window_left(&p->w) / KEY_LEAST_BYTES)
        return cabe_fail(p->err, CABE_ERR_FORMAT,
                         "%s: says it has %llu tensors and %llu metadata keys, more than %llu bytes can hold",
                         p->path, (unsigned long long)p->n_tensors, (unsigned long long)p->n_keys,
                         (unsigned long long)p->w.in->bytes);
    if (p->n_tensors > CABE_SOURCE_TENSORS_MAX || p->n_keys > KEYS_MAX)
        return cabe_fail(p->err, CABE_ERR_LIMIT, "%s: %llu tensors and %llu metadata keys, at most %u and %u",
                         p->path, (unsigned long long)p->n_tensors, (unsigned long long)p->n_keys,
                         CABE_SOURCE_TENSORS_MAX, KEYS_MAX);
    return CABE_OK;
}

/* Walks over an array of strings, keeping every 8th offset. */
static enum cabe_status walk_strings(struct parse *p, struct cabe_gguf_key *key)
{
    if (key->n > cabe_window_left(&p->w) / 8)
        return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: key '%s': %llu strings at offset %llu past end %llu", p->path,
                         key->name, (unsigned long long)key->n, (unsigned long long)p->w.at,
                         (unsigned long long)p->w.in->bytes);
    if (key->n > UINT32_MAX / 8)
        return cabe_fail(p->err, CABE_ERR_LIMIT, "%s: key '%s': %llu strings, at most %u", p->path, key->name,
                         (unsigned long long)key->n, UINT32_MAX / 8);
    key->marks = cabe_malloc((size_t)(key->n / CABE_GGUF_MARK + 1) * sizeof *key->marks);
    if (!key->marks)
        return cabe_fail(p->err, CABE_ERR_OOM, "%s: key '%s': offsets of %llu strings", p->path, key->name,
                         (unsigned long long)key->n);
    for (uint64_t i = 0; i < key->n; i++) {
        if (p->w.at - key->offset > UINT32_MAX)
            return cabe_fail(p->err, CABE_ERR_LIMIT, "%s: key '%s': more than %u bytes of strings", p->path,
                             key->name, UINT32_MAX);
        if (i % CABE_GGUF_MARK == 0)
            key->marks[i / CABE_GGUF_MARK] = (uint32_t)(p->w.at - key->offset);
        cabe_window_skip(&p->w, cabe_window_u64(&p->w));
        if (p->w.status != CABE_OK)
            return p->w.status;
    }
    return CABE_OK;
}

static enum cabe_status read_array(struct parse *p, struct cabe_gguf_key *key)
{
    uint32_t element = cabe_window_u32(&p->w);

    key->n = cabe_window_u64(&p->w);
    if (p->w.status != CABE_OK)
        return p->w.status;
    if (element == GGUF_ARRAY)
        return cabe_fail(p->err, CABE_ERR_UNSUPPORTED, "%s: key '%s': an array of arrays", p->path, key->name);
    if (element >= GGUF_N_TYPES)
        return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: key '%s': element type %u, wanted 0 to %d", p->path,
                         key->name, element, GGUF_N_TYPES - 1);
    key->element = (uint8_t)element;
    key->offset = p->w.at;
    if (element == GGUF_STRING) {
        enum cabe_status status = walk_strings(p, key);

        if (status != CABE_OK)
            return status;
    } else {
        if (key->n > cabe_window_left(&p->w) / value_bytes[element])
            return cabe_fail(p->err, CABE_ERR_FORMAT,
                             "%s: key '%s': %llu elements of %u bytes at offset %llu past end %llu", p->path,
                             key->name, (unsigned long long)key->n, value_bytes[element],
                             (unsigned long long)p->w.at, (unsigned long long)p->w.in->bytes);
        cabe_window_skip(&p->w, key->n * value_bytes[element]);
    }
    key->bytes = p->w.at - key->offset;
    return p->w.status;
}

/* The bits of a value of `type`, sign or precision extended to 64. */
static void widen(struct cabe_gguf_key *key, uint64_t bits)
{
    uint32_t low = (uint32_t)bits;
    float f;

    switch (key->type) {
    case GGUF_I8:
        key->value.i = (int8_t)bits;
        break;
    case GGUF_I16:
        key->value.i = (int16_t)bits;
        break;
    case GGUF_I32:
        key->value.i = (int32_t)bits;
        break;
    case GGUF_F32:
        memcpy(&f, &low, sizeof f);
        key->value.f = (double)f;
        break;
    case GGUF_F64:
        memcpy(&key->value.f, &bits, sizeof bits);
        break;
    default:
        key->value.u = bits;
    }
}

static enum cabe_status read_value(struct parse *p, struct cabe_gguf_key *key)
{
    uint64_t bits = 0;

    if (key->type == GGUF_STRING)
        return take_string(p, STRING_BYTES_MAX, 0, &key->text, &key->n);
    if (key->type == GGUF_ARRAY)
        return read_array(p, key);
    for (int i = 0; i < value_bytes[key->type]; i++)
        bits |= (uint64_t)cabe_window_u8(&p->w) << 8 * i;
    if (p->w.status == CABE_OK && key->type == GGUF_BOOL && bits > 1)
        return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: key '%s': bool %llu, wanted 0 or 1", p->path, key->name,
                         (unsigned long long)bits);
    widen(key, bits);
    return p->w.status;
}

static enum cabe_status read_key(struct parse *p)
{
    struct cabe_source *source = p->source;
    struct cabe_gguf_key *key;
    enum cabe_status status;
    uint64_t name_bytes;
    uint32_t type;

    if (source->n_keys == p->keys_capacity) {
        size_t capacity = p->keys_capacity ? 2 * p->keys_capacity : 64;
        struct cabe_gguf_key *grown = cabe_realloc(source->keys, capacity, sizeof *grown);

        if (!grown)
            return cabe_fail(p->err, CABE_ERR_OOM, "%s: %zu metadata keys", p->path, capacity);
        source->keys = grown;
        p->keys_capacity = capacity;
    }
    key = &source->keys[source->n_keys];
    memset(key, 0, sizeof *key);
    p->w.where = "metadata key";
    status = take_string(p, KEY_BYTES_MAX, 1, &key->name, &name_bytes);
    if (status != CABE_OK)
        return status;
    source->n_keys++;
    type = cabe_window_u32(&p->w);
    if (type >= GGUF_N_TYPES)
        return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: key '%s': type %u, wanted 0 to %d", p->path, key->name, type,
                         GGUF_N_TYPES - 1);
    key->type = (uint8_t)type;
    p->w.where = key->name;
    return p->w.status == CABE_OK ? read_value(p, key) : p->w.status;
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(((const struct cabe_gguf_key *)a)->name, ((const struct cabe_gguf_key *)b)->name);
}

static enum cabe_status read_metadata(struct parse *p)
{
    struct cabe_source *source = p->source;
    int64_t alignment = 32, n_parts = 1;

    for (uint64_t i = 0; i < p->n_keys; i++) {
        enum cabe_status status = read_key(p);

        if (status != CABE_OK)
            return status;
    }
    if (source->n_keys > 0)
        qsort(source->keys, source->n_keys, sizeof *source->keys, compare_keys);
    for (size_t i = 1; i < source->n_keys; i++)
        if (strcmp(source->keys[i - 1].name, source->keys[i].name) == 0)
            return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: key '%s' occurs twice", p->path, source->keys[i].name);
    cabe_source_get_i64(source, "general.alignment", &alignment);
    if (alignment <= 0 || alignment > (1 << 30) || (alignment & (alignment - 1)))
        return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: general.alignment %lld, wanted a power of two", p->path,
                         (long long)alignment);
    p->alignment = (uint64_t)alignment;
    if (cabe_source_get_i64(source, "split.count", &n_parts) && n_parts > 1)
        return cabe_fail(p->err, CABE_ERR_UNSUPPORTED,
                         "%s: is one of %lld parts of a split GGUF; join them into one file first", p->path,
                         (long long)n_parts);
    return CABE_OK;
}

/* Bytes of the tensor from its type and shape; its rows must be whole blocks. */
static enum cabe_status size_tensor(struct parse *p, struct cabe_source_tensor *tensor,
                                    const struct tensor_type *type, uint64_t count)
{
    uint64_t row = (uint64_t)tensor->shape[3];

    if (row % type->block)
        return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: tensor '%s': rows of %llu, wanted a multiple of %u for %s",
                         p->path, tensor->name, (unsigned long long)row, type->block, type->name);
    if (__builtin_mul_overflow(count / type->block, (uint64_t)type->bytes, &tensor->bytes))
        return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: tensor '%s': its size overflows", p->path, tensor->name);
    if (tensor->offset % p->alignment)
        return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: tensor '%s': offset %llu, wanted a multiple of %llu", p->path,
                         tensor->name, (unsigned long long)tensor->offset, (unsigned long long)p->alignment);
    tensor->type = type->name;
    return CABE_OK;
}

static enum cabe_status read_tensor(struct parse *p, int file)
{
    struct cabe_source_tensor tensor = {.file = file};
    uint64_t dims[4] = {1, 1, 1, 1}, name_bytes, count;
    const struct tensor_type *type;
    uint32_t n_dims, type_id;
    enum cabe_status status;

    p->w.where = "tensor name";
    status = take_string(p, CABE_SOURCE_NAME_MAX, 1, &tensor.name, &name_bytes);
    if (status != CABE_OK)
        return status;
    p->w.where = tensor.name;
    n_dims = cabe_window_u32(&p->w);
    if (n_dims > 4)
        return cabe_fail(p->err, CABE_ERR_UNSUPPORTED, "%s: tensor '%s': %u dimensions, at most 4", p->path,
                         tensor.name, n_dims);
    for (uint32_t i = 0; i < n_dims; i++) /* the file has the innermost first */
        dims[n_dims - 1 - i] = cabe_window_u64(&p->w);
    type_id = cabe_window_u32(&p->w);
    tensor.offset = cabe_window_u64(&p->w);
    if (p->w.status != CABE_OK)
        return p->w.status;
    if (!cabe_source_set_shape(&tensor, dims, (int)n_dims, &count))
        return cabe_fail(p->err, CABE_ERR_FORMAT,
                         "%s: tensor '%s': shape [%llu, %llu, %llu, %llu] has more elements than can be counted",
                         p->path, tensor.name, (unsigned long long)dims[0], (unsigned long long)dims[1],
                         (unsigned long long)dims[2], (unsigned long long)dims[3]);
    type = find_type(type_id);
    if (!type)
        return cabe_fail(p->err, CABE_ERR_UNSUPPORTED, "%s: tensor '%s': type %u is not known; supported: f32, f16, bf16, q8_0, q4_0, q4_1, q4_k, q6_k",
                         p->path, tensor.name, type_id);
    status = size_tensor(p, &tensor, type, count);
    return status == CABE_OK ? cabe_source_add_tensor(p->source, &tensor, p->err) : status;
}

/* Offsets count from the aligned end of the header: makes them the file's and checks them against its end. */
static enum cabe_status place_tensors(struct parse *p, size_t first)
{
    uint64_t end = p->w.in->bytes, data = (p->w.at + p->alignment - 1) & ~(p->alignment - 1);

    for (size_t i = first; i < p->source->n_tensors; i++) {
        struct cabe_source_tensor *tensor = &p->source->tensors[i];

        if (data > end || tensor->offset > end - data)
            return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: tensor '%s': offset %llu past end %llu", p->path,
                             tensor->name, (unsigned long long)tensor->offset, (unsigned long long)end);
        tensor->offset += data;
        if (tensor->bytes > end - tensor->offset)
            return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: tensor '%s': %llu bytes at offset %llu past end %llu",
                             p->path, tensor->name, (unsigned long long)tensor->bytes,
                             (unsigned long long)tensor->offset, (unsigned long long)end);
    }
    return CABE_OK;
}

enum cabe_status cabe_gguf_read(struct cabe_source *source, int file, struct cabe_error *err)
{
    struct parse p = {.source = source, .path = source->files[file].path, .err = err};
    size_t first = source->n_tensors;
    enum cabe_status status = cabe_window_open(&p.w, &source->files[file], err);

    source->gguf = file;
    source->kind = CABE_SOURCE_GGUF;
    if (status == CABE_OK)
        status = read_header(&p);
    if (status == CABE_OK)
        status = read_metadata(&p);
    for (uint64_t i = 0; status == CABE_OK && i < p.n_tensors; i++)
        status = read_tensor(&p, file);
    if (status == CABE_OK)
        status = place_tensors(&p, first);
    cabe_window_close(&p.w);
    return status;
}

void cabe_gguf_clear(struct cabe_source *source)
{
    for (size_t i = 0; i < source->n_keys; i++)
        cabe_free(source->keys[i].marks);
    cabe_free(source->keys);
    source->keys = NULL;
    source->n_keys = 0;
}
