/*
 * An arena that measures and places with one function.
 *
 * A placing function takes pieces from an arena in a fixed order. With base == NULL it measures: used_bytes
 * ends as the size the pieces need. With a buffer of that size it places: the same calls hand out the
 * addresses.
 */
#ifndef CABE_BASE_ARENA_H
#define CABE_BASE_ARENA_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

struct cabe_arena {
    uint8_t *base;       /* NULL while measuring; otherwise aligned to at least the largest align asked for */
    uint64_t used_bytes; /* saturates at UINT64_MAX on overflow */
    uint64_t size_bytes; /* of base; ignored while measuring */
};

/* Room for n items of item_bytes, aligned to `align` (a power of two); NULL while measuring. */
static inline void *cabe_arena_take(struct cabe_arena *arena, uint64_t n, uint64_t item_bytes, uint64_t align)
{
    uint64_t start, bytes;

    if (__builtin_add_overflow(arena->used_bytes, align - 1, &start) ||
        __builtin_mul_overflow(n, item_bytes, &bytes) ||
        __builtin_add_overflow(start & ~(align - 1), bytes, &arena->used_bytes)) {
        arena->used_bytes = UINT64_MAX;
        return NULL;
    }
    if (!arena->base)
        return NULL;
    assert(arena->used_bytes <= arena->size_bytes);
    return arena->base + (start & ~(align - 1));
}

#endif
