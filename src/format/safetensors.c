/*
 * safetensors: 8 bytes of header length, a JSON header, the data. As strict as the reference reader: the tensors
 * cover the data without hole or overlap.
 *
 * Format: https://github.com/huggingface/safetensors#format
 */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "format/source_parts.h"

#define HEADER_BYTES_MAX 100000000u /* the reference's own limit */

static const struct tensor_type {
    const char *file_name, *name;
    uint32_t bytes;
} tensor_types[] = {
    {"F32", "f32", 4},         {"F16", "f16", 2},         {"BF16", "bf16", 2},
    {"F64", "f64", 8},         {"I8", "i8", 1},           {"U8", "u8", 1},
    {"I32", "i32", 4},         {"I64", "i64", 8},         {"I16", "i16", 2},
    {"U16", "u16", 2},         {"U32", "u32", 4},         {"U64", "u64", 8},
    {"BOOL", "bool", 1},       {"F8_E4M3", "f8_e4m3", 1}, {"F8_E5M2", "f8_e5m2", 1},
    {"F8_E8M0", "f8_e8m0", 1}, {"C64", "c64", 8},
};

struct parse {
    struct cabe_source *source;
    const char *path, *prefix;
    uint64_t data, end; /* of the tensors' bytes in the file */
    int file;
    struct cabe_error *err;
};

static enum cabe_status take_type(struct parse *p, const char *name, const json_t *value,
                                  struct cabe_source_tensor *tensor, uint32_t *bytes)
{
    const char *text = json_string_value(value);

    if (!text)
        return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: tensor '%.200s': dtype is missing or not a string", p->path,
                         name);
    for (size_t i = 0; i < sizeof tensor_types / sizeof tensor_types[0]; i++)
        if (strcmp(text, tensor_types[i].file_name) == 0) {
            tensor->type = tensor_types[i].name;
            *bytes = tensor_types[i].bytes;
            return CABE_OK;
        }
    return cabe_fail(p->err, CABE_ERR_UNSUPPORTED, "%s: tensor '%.200s': dtype '%.32s' is not known", p->path, name,
                     text);
}

static enum cabe_status take_shape(struct parse *p, const char *name, const json_t *value,
                                   struct cabe_source_tensor *tensor, uint64_t *count)
{
    uint64_t dims[4];
    size_t n = json_array_size(value);

    if (!json_is_array(value))
        return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: tensor '%.200s': shape is missing or not an array", p->path,
                         name);
    if (n > 4)
        return cabe_fail(p->err, CABE_ERR_UNSUPPORTED, "%s: tensor '%.200s': %zu dimensions, at most 4", p->path,
                         name, n);
    for (size_t i = 0; i < n; i++) {
        const json_t *dim = json_array_get(value, i);

        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: tensor '%.200s': shape[%zu] is not a count", p->path,
                             name, i);
        dims[i] = (uint64_t)json_integer_value(dim);
    }
    if (!cabe_source_set_shape(tensor, dims, (int)n, count))
        return cabe_fail(p->err, CABE_ERR_FORMAT,
                         "%s: tensor '%.200s': its shape has more elements than can be counted", p->path, name);
    return CABE_OK;
}

/* data_offsets: [begin, end) from the end of the header. */
static enum cabe_status take_place(struct parse *p, const char *name, const json_t *value,
                                   struct cabe_source_tensor *tensor)
{
    const json_t *begin = json_array_get(value, 0), *end = json_array_get(value, 1);
    uint64_t size = p->end - p->data, from, to;

    if (json_array_size(value) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
        return cabe_fail(p->err, CABE_ERR_FORMAT,
                         "%s: tensor '%.200s': data_offsets are not two counts in rising order", p->path, name);
    from = (uint64_t)json_integer_value(begin);
    to = (uint64_t)json_integer_value(end);
    if (to > size)
        return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: tensor '%.200s': data_offsets [%llu, %llu] past end %llu",
                         p->path, name, (unsigned long long)from, (unsigned long long)to, (unsigned long long)size);
    tensor->offset = p->data + from;
    tensor->bytes = to - from;
    return CABE_OK;
}

static char *keep_name(struct parse *p, const char *name)
{
    size_t prefix_bytes = strlen(p->prefix), bytes = strlen(name);
    char *kept = cabe_source_room(p->source, prefix_bytes + bytes);

    if (kept) {
        memcpy(kept, p->prefix, prefix_bytes);
        memcpy(kept + prefix_bytes, name, bytes);
    }
    return kept;
}

static enum cabe_status take_tensor(struct parse *p, const char *name, const json_t *value)
{
    struct cabe_source_tensor tensor = {.file = p->file};
    uint64_t count = 0, bytes;
    uint32_t item_bytes = 0;
    enum cabe_status status;

    if (!json_is_object(value))
        return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: tensor '%.200s': is not an object", p->path, name);
    if (strlen(name) > CABE_SOURCE_NAME_MAX)
        return cabe_fail(p->err, CABE_ERR_LIMIT, "%s: tensor '%.200s...': a name of %zu bytes, at most %u", p->path,
                         name, strlen(name), CABE_SOURCE_NAME_MAX);
    status = take_type(p, name, json_object_get(value, "dtype"), &tensor, &item_bytes);
    if (status == CABE_OK)
        status = take_shape(p, name, json_object_get(value, "shape"), &tensor, &count);
    if (status == CABE_OK)
        status = take_place(p, name, json_object_get(value, "data_offsets"), &tensor);
    if (status != CABE_OK)
        return status;
    if (__builtin_mul_overflow(count, (uint64_t)item_bytes, &bytes) || bytes != tensor.bytes)
        return cabe_fail(p->err, CABE_ERR_FORMAT,
                         "%s: tensor '%.200s': data_offsets span %llu bytes, wanted %llu elements of %u", p->path,
                         name, (unsigned long long)tensor.bytes, (unsigned long long)count, item_bytes);
    tensor.name = keep_name(p, name);
    if (!tensor.name)
        return cabe_fail(p->err, CABE_ERR_OOM, "%s: tensor '%.200s': its name", p->path, name);
    return cabe_source_add_tensor(p->source, &tensor, p->err);
}

static int compare_places(const void *a, const void *b)
{
    const struct cabe_source_tensor *x = a, *y = b;

    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* an empty one stands before its neighbour */
}

static enum cabe_status check_cover(struct parse *p, size_t first)
{
    struct cabe_source_tensor *tensors = p->source->tensors;
    size_t n = p->source->n_tensors;
    uint64_t at = p->data;

    if (n > first)
        qsort(tensors + first, n - first, sizeof *tensors, compare_places);
    for (size_t i = first; i < n; i++) {
        if (tensors[i].offset != at)
            return cabe_fail(p->err, CABE_ERR_FORMAT,
                             "%s: tensor '%.200s': data_offsets begin at %llu, wanted %llu, where the one before ends",
                             p->path, tensors[i].name, (unsigned long long)(tensors[i].offset - p->data),
                             (unsigned long long)(at - p->data));
        at += tensors[i].bytes;
    }
    if (at != p->end)
        return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: tensors end at byte %llu, the file at %llu", p->path,
                         (unsigned long long)at, (unsigned long long)p->end);
    return CABE_OK;
}

static enum cabe_status take_header(struct parse *p, json_t *header)
{
    size_t first = p->source->n_tensors;
    const char *name;
    json_t *value;

    if (!json_is_object(header))
        return cabe_fail(p->err, CABE_ERR_FORMAT, "%s: the header is not an object", p->path);
    json_object_foreach(header, name, value) {
        enum cabe_status status;

        if (strcmp(name, "__metadata__") == 0)
            continue;
        status = take_tensor(p, name, value);
        if (status != CABE_OK)
            return status;
    }
    return check_cover(p, first);
}

enum cabe_status cabe_safetensors_read(struct cabe_source *source, int file, const char *prefix,
                                       struct cabe_error *err)
{
    const struct cabe_input *in = &source->files[file];
    struct parse p = {.source = source, .path = in->path, .prefix = prefix, .end = in->bytes, .file = file,
                      .err = err};
    uint8_t length[8];
    uint64_t header_bytes = 0;
    enum cabe_status status;
    json_t *header;

    if (in->bytes < sizeof length)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: %llu bytes, too few for the length of a safetensors header",
                         in->path, (unsigned long long)in->bytes);
    status = cabe_input_read(in, 0, sizeof length, length, err);
    if (status != CABE_OK)
        return status;
    for (int i = 7; i >= 0; i--)
        header_bytes = header_bytes << 8 | length[i];
    if (header_bytes > in->bytes - sizeof length)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: header of %llu bytes past end %llu", in->path,
                         (unsigned long long)header_bytes, (unsigned long long)in->bytes);
    p.data = sizeof length + header_bytes;
    status = cabe_input_json(in, sizeof length, header_bytes, HEADER_BYTES_MAX, 0, "header", &header, err);
    if (status != CABE_OK)
        return status;
    status = take_header(&p, header);
    json_decref(header);
    return status;
}
