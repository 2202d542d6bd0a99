/*
 * KV pages: how keys and values of a sequence lie in memory, and the table that says where.
 *
 * A page holds 16 tokens of one sequence for every layer and kv head. Its position in a buffer and the formats of its
 * keys and values are in the page table, so one sequence may mix formats. In a page, blocks of one layer and head
 * follow each other, layer by layer, keys before values, each filled up to a multiple of 64 bytes (a head size that is
 * a multiple of 4 needs no filling):
 *
 *   keys    [head_dim][16 tokens], so that one load has the 16 tokens of a channel
 *   values  [16 tokens][head_dim]
 *
 *   F32, F16  elements.
 *   Q8        signed bytes in -127..127; behind them f32 scales [16], one a token: value = byte * scale.
 *
 * A page of zeros is valid in every format.
 */
#ifndef CABE_TENSOR_PAGES_H
#define CABE_TENSOR_PAGES_H

#include <stdint.h>

#define CABE_PAGE_TOKENS 16
#define CABE_PAGE_UNIT 64 /* bytes; pages begin at multiples of it */
#define CABE_HEAD_DIM_MAX 512

/* symbol, name */
#define CABE_KV_FORMAT_MAP(X) X(F32, "f32") X(F16, "f16") X(Q8, "q8")

enum cabe_kv_format {
#define X(symbol, name) CABE_KV_##symbol,
    CABE_KV_FORMAT_MAP(X)
#undef X
    CABE_N_KV_FORMATS
};

const char *cabe_kv_format_name(enum cabe_kv_format format);
enum cabe_kv_format cabe_kv_format_find(const char *name); /* or CABE_N_KV_FORMATS */

struct cabe_kv_shape {
    int32_t n_layers, n_heads, head_dim; /* kv heads; head_dim at most CABE_HEAD_DIM_MAX */
};

/* An entry of a page table, as graphs take it: i32 [pages, 2]. */
struct cabe_page {
    uint32_t unit;    /* offset in the buffer, in CABE_PAGE_UNIT bytes */
    uint32_t formats; /* cabe_page_formats() */
};

static inline uint32_t cabe_page_formats(enum cabe_kv_format keys, enum cabe_kv_format values)
{
    return (uint32_t)keys | (uint32_t)values << 8;
}

/* Bytes of one block of 16 tokens of one head; of both blocks; of a whole page (UINT64_MAX on overflow). */
uint64_t cabe_kv_block_bytes(enum cabe_kv_format format, int32_t head_dim);
uint64_t cabe_kv_pair_bytes(enum cabe_kv_format keys, enum cabe_kv_format values, int32_t head_dim);
uint64_t cabe_page_bytes(enum cabe_kv_format keys, enum cabe_kv_format values, const struct cabe_kv_shape *shape);

#endif
