#include "tensor/pages.h"

#include <string.h>

#define LARGEST_DIM (INT32_C(1) << 24) /* sizes of a block stay far from overflow below it */

static const char *const names[CABE_N_KV_FORMATS] = {
#define X(symbol, name) [CABE_KV_##symbol] = name,
    CABE_KV_FORMAT_MAP(X)
#undef X
};

const char *cabe_kv_format_name(enum cabe_kv_format format)
{
    return (unsigned)format < CABE_N_KV_FORMATS ? names[format] : "?";
}

enum cabe_kv_format cabe_kv_format_find(const char *name)
{
    for (int format = 0; format < CABE_N_KV_FORMATS; format++)
        if (strcmp(name, names[format]) == 0)
            return (enum cabe_kv_format)format;
    return CABE_N_KV_FORMATS;
}

static uint64_t in_units(uint64_t bytes)
{
    return (bytes + CABE_PAGE_UNIT - 1) / CABE_PAGE_UNIT * CABE_PAGE_UNIT;
}

uint64_t cabe_kv_block_bytes(enum cabe_kv_format format, int32_t head_dim)
{
    uint64_t elements;

    if (head_dim < 0 || head_dim > LARGEST_DIM)
        return UINT64_MAX;
    elements = CABE_PAGE_TOKENS * (uint64_t)head_dim;
    switch (format) {
    case CABE_KV_F32:
        return in_units(elements * sizeof(float));
    case CABE_KV_F16:
        return in_units(elements * sizeof(uint16_t));
    case CABE_KV_Q8:
        return in_units(elements + CABE_PAGE_TOKENS * sizeof(float));
    case CABE_N_KV_FORMATS:
        break;
    }
    return UINT64_MAX;
}

uint64_t cabe_kv_pair_bytes(enum cabe_kv_format keys, enum cabe_kv_format values, int32_t head_dim)
{
    uint64_t k = cabe_kv_block_bytes(keys, head_dim), v = cabe_kv_block_bytes(values, head_dim);

    return k == UINT64_MAX || v == UINT64_MAX ? UINT64_MAX : k + v;
}

uint64_t cabe_page_bytes(enum cabe_kv_format keys, enum cabe_kv_format values, const struct cabe_kv_shape *shape)
{
    uint64_t bytes = cabe_kv_pair_bytes(keys, values, shape->head_dim);

    if (bytes == UINT64_MAX || shape->n_layers < 0 || shape->n_heads < 0 ||
        __builtin_mul_overflow(bytes, (uint64_t)shape->n_layers * (uint64_t)shape->n_heads, &bytes))
        return UINT64_MAX;
    return bytes;
}
