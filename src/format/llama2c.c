/*
 * llama2.c checkpoints (version 0): seven i32, little-endian, then nothing but f32.
 *
 *   width, inner width, layers, heads, key and value heads, vocabulary (negative: the head has weights of its own),
 *   context; then token embedding; for all layers attention norms, all q, all k, all v, all o, all feed-forward norms,
 *   gate, down, up; last norm, two tables of RoPE [context, head / 2] that nobody needs, the head where it is not the embedding.
 *
 * There is no magic number: the file is one when its size is exactly what its header says. The source looks as if a
 * GGUF of architecture "llama" had been opened, for that is what it is. The tokenizer is a file beside it,
 * tok<vocabulary>.bin or tokenizer.bin.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "format/source_parts.h"

#define HEADER_BYTES 28u
#define LAYERS_MAX 1024
#define TOKENIZER_BYTES_MAX (64u << 20)

struct header {
    int32_t width, inner, n_layers, n_heads, n_kv_heads, n_vocab, n_ctx;
    int has_head;
};

static int32_t load_i32(const uint8_t *at)
{
    return (int32_t)(at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24);
}

/* 0 where no checkpoint has such numbers. */
static int read_header(const uint8_t *at, struct header *h)
{
    *h = (struct header){load_i32(at),      load_i32(at + 4),  load_i32(at + 8),  load_i32(at + 12),
                         load_i32(at + 16), load_i32(at + 20), load_i32(at + 24), 0};
    h->has_head = h->n_vocab < 0;
    if (h->has_head && h->n_vocab > INT32_MIN)
        h->n_vocab = -h->n_vocab;
    return h->width > 0 && h->width <= 1 << 17 && h->inner > 0 && h->inner <= 1 << 20 && h->n_layers > 0 &&
           h->n_layers <= LAYERS_MAX && h->n_heads > 0 && h->n_heads <= h->width && h->width % h->n_heads == 0 &&
           h->n_kv_heads > 0 && h->n_kv_heads <= h->n_heads && h->n_heads % h->n_kv_heads == 0 && h->n_vocab > 0 &&
           h->n_vocab <= 1 << 26 && h->n_ctx > 0 && h->n_ctx <= 1 << 24;
}

/* In the order of the file; n_layers of each that is a layer's. */
struct span {
    const char *name; /* after "blk.<i>." where it is a layer's; NULL: nobody needs it */
    int is_layers;
    uint64_t rows, cols; /* rows 0: a vector */
};

#define N_SPANS 13

static void spans_of(const struct header *h, struct span out[N_SPANS])
{
    uint64_t width = (uint64_t)h->width, inner = (uint64_t)h->inner, vocab = (uint64_t)h->n_vocab;
    uint64_t head = width / (uint64_t)h->n_heads, kv = head * (uint64_t)h->n_kv_heads;
    const struct span spans[N_SPANS] = {
        {"token_embd.weight", 0, vocab, width},
        {"attn_norm.weight", 1, 0, width},
        {"attn_q.weight", 1, width, width},
        {"attn_k.weight", 1, kv, width},
        {"attn_v.weight", 1, kv, width},
        {"attn_output.weight", 1, width, width},
        {"ffn_norm.weight", 1, 0, width},
        {"ffn_gate.weight", 1, inner, width},
        {"ffn_down.weight", 1, width, inner},
        {"ffn_up.weight", 1, inner, width},
        {"output_norm.weight", 0, 0, width},
        {NULL, 0, (uint64_t)h->n_ctx, head / 2 * 2},
        {h->has_head ? "output.weight" : NULL, 0, h->has_head ? vocab : 0, h->has_head ? width : 0},
    };

    memcpy(out, spans, sizeof spans);
}

/* No product here can overflow: the header's numbers are bounded. */
static uint64_t span_bytes(const struct span *span)
{
    return 4 * (span->rows ? span->rows : 1) * span->cols;
}

static uint64_t file_bytes(const struct header *h)
{
    struct span spans[N_SPANS];
    uint64_t bytes = HEADER_BYTES;

    spans_of(h, spans);
    for (int i = 0; i < N_SPANS; i++)
        bytes += span_bytes(&spans[i]) * (spans[i].is_layers ? (uint64_t)h->n_layers : 1);
    return bytes;
}

static enum cabe_status add_tensor(struct cabe_source *source, int file, const struct span *span, int layer,
                                   uint64_t offset, struct cabe_error *err)
{
    struct cabe_source_tensor tensor = {.type = "f32", .bytes = span_bytes(span), .offset = offset, .file = file};
    const uint64_t dims[2] = {span->rows, span->cols};
    uint64_t count;
    char name[64];
    int n = span->is_layers ? snprintf(name, sizeof name, "blk.%d.%s", layer, span->name)
                            : snprintf(name, sizeof name, "%s", span->name);

    tensor.name = cabe_source_keep(source, name, (size_t)n);
    if (!tensor.name)
        return cabe_fail(err, CABE_ERR_OOM, "%s: name of a tensor", source->path);
    cabe_source_set_shape(&tensor, span->rows ? dims : dims + 1, span->rows ? 2 : 1, &count);
    return cabe_source_add_tensor(source, &tensor, err);
}

static enum cabe_status add_tensors(struct cabe_source *source, int file, const struct header *h,
                                    struct cabe_error *err)
{
    struct span spans[N_SPANS];
    uint64_t offset = HEADER_BYTES;
    enum cabe_status status = CABE_OK;

    spans_of(h, spans);
    for (int i = 0; i < N_SPANS; i++)
        for (int layer = 0; layer < (spans[i].is_layers ? h->n_layers : 1) && status == CABE_OK; layer++) {
            if (spans[i].name)
                status = add_tensor(source, file, &spans[i], layer, offset, err);
            offset += span_bytes(&spans[i]);
        }
    return status;
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(((const struct cabe_gguf_key *)a)->name, ((const struct cabe_gguf_key *)b)->name);
}

static enum cabe_status add_keys(struct cabe_source *source, const struct header *h, struct cabe_error *err)
{
    const struct cabe_gguf_key keys[] = {
        {.name = "general.architecture", .type = GGUF_STRING, .text = "llama", .n = 5},
        {.name = "llama.attention.head_count", .type = GGUF_I32, .value.i = h->n_heads},
        {.name = "llama.attention.head_count_kv", .type = GGUF_I32, .value.i = h->n_kv_heads},
        {.name = "llama.attention.layer_norm_rms_epsilon", .type = GGUF_F64, .value.f = 1e-5},
        {.name = "llama.block_count", .type = GGUF_I32, .value.i = h->n_layers},
        {.name = "llama.context_length", .type = GGUF_I32, .value.i = h->n_ctx},
        {.name = "llama.embedding_length", .type = GGUF_I32, .value.i = h->width},
        {.name = "llama.feed_forward_length", .type = GGUF_I32, .value.i = h->inner},
        {.name = "llama.rope.dimension_count", .type = GGUF_I32, .value.i = h->width / h->n_heads},
        {.name = "llama.vocab_size", .type = GGUF_I32, .value.i = h->n_vocab},
    };
    size_t n = sizeof keys / sizeof keys[0];

    source->keys = cabe_calloc(n, sizeof *source->keys);
    if (!source->keys)
        return cabe_fail(err, CABE_ERR_OOM, "%s: metadata keys", source->path);
    memcpy(source->keys, keys, sizeof keys);
    source->n_keys = n;
    qsort(source->keys, n, sizeof *source->keys, compare_keys);
    return CABE_OK;
}

/* Beside the checkpoint; its absence is an error only to who wants the tokenizer. */
static enum cabe_status add_tokenizer(struct cabe_source *source, const struct header *h, struct cabe_error *err)
{
    const char *slash = strrchr(source->path, '/');
    int folder = slash ? (int)(slash + 1 - source->path) : 0;
    size_t room = (size_t)folder + 40;
    char *path = cabe_malloc(room);
    enum cabe_status status = CABE_OK;

    if (!path)
        return cabe_fail(err, CABE_ERR_OOM, "%s: path of its tokenizer", source->path);
    for (int i = 0; i < 2; i++) {
        struct stat info;

        if (i == 0)
            snprintf(path, room, "%.*stok%d.bin", folder, source->path, h->n_vocab);
        else
            snprintf(path, room, "%.*stokenizer.bin", folder, source->path);
        if (stat(path, &info) != 0 || !S_ISREG(info.st_mode))
            continue;
        status = cabe_source_add_file(source, path, &source->tokenizer, err);
        break;
    }
    cabe_free(path);
    return status;
}

enum cabe_status cabe_llama2c_read(struct cabe_source *source, int file, int *is_one, struct cabe_error *err)
{
    const struct cabe_input *in = &source->files[file];
    uint8_t bytes[HEADER_BYTES];
    struct header h;
    enum cabe_status status;

    *is_one = 0;
    if (in->bytes < HEADER_BYTES)
        return CABE_OK;
    status = cabe_input_read(in, 0, HEADER_BYTES, bytes, err);
    if (status != CABE_OK || !read_header(bytes, &h))
        return status;
    if (file_bytes(&h) != in->bytes) {
        const char *end = in->path + strlen(in->path);

        if (end - in->path < 4 || strcmp(end - 4, ".bin") != 0)
            return CABE_OK;
        return cabe_fail(err, CABE_ERR_FORMAT,
                         "%s: %llu bytes, but a llama2.c checkpoint with its header (width %d, %d layers, "
                         "vocabulary %d) has %llu",
                         in->path, (unsigned long long)in->bytes, h.width, h.n_layers, h.n_vocab,
                         (unsigned long long)file_bytes(&h));
    }
    *is_one = 1;
    source->kind = CABE_SOURCE_LLAMA2C;
    status = add_keys(source, &h, err);
    if (status == CABE_OK)
        status = add_tensors(source, file, &h, err);
    return status == CABE_OK ? add_tokenizer(source, &h, err) : status;
}

enum cabe_status cabe_source_tokenizer_file(const struct cabe_source *source, void **out, size_t *bytes,
                                            struct cabe_error *err)
{
    const struct cabe_input *in = source->tokenizer > 0 ? &source->files[source->tokenizer] : NULL;
    enum cabe_status status;

    *out = NULL;
    *bytes = 0;
    if (!in)
        return cabe_fail(err, CABE_ERR_NOT_FOUND, "%s: no tokenizer beside it (tok<vocabulary>.bin, tokenizer.bin)",
                         source->path);
    if (in->bytes > TOKENIZER_BYTES_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: %llu bytes, at most %u", in->path, (unsigned long long)in->bytes,
                         TOKENIZER_BYTES_MAX);
    if (!(*out = cabe_malloc((size_t)in->bytes)))
        return cabe_fail(err, CABE_ERR_OOM, "%s: %llu bytes", in->path, (unsigned long long)in->bytes);
    status = cabe_input_read(in, 0, in->bytes, *out, err);
    *bytes = (size_t)in->bytes;
    if (status != CABE_OK) {
        cabe_free(*out);
        *out = NULL;
        *bytes = 0;
    }
    return status;
}
