/*
 * A set of byte strings with values, as a double array that lies flat in a block.
 *
 * A state is a number b; its child for byte c is unit b ^ c, where that unit carries the label c. States stay inside
 * blocks of 256 units and the array is a whole number of blocks, so that one bound on b makes every step safe.
 * Unit 0 holds the state of the root. Block 0 is otherwise unused: a leaf's state is 0 and has no child.
 *
 * Owner: the builder's result is cabe_malloc'ed. Thread: reading from any thread.
 */
#ifndef CABE_TEXT_TRIE_H
#define CABE_TEXT_TRIE_H

#include <stddef.h>
#include <stdint.h>

#include "cabe/status.h"

#define CABE_TRIE_NONE (-1)   /* the unit ends no key */
#define CABE_TRIE_UNUSED (-2) /* the unit belongs to no state */
#define CABE_TRIE_KEY_MAX 1024
#define CABE_TRIE_UNITS_MAX (1u << 24)

struct cabe_trie_unit {
    uint32_t state_label; /* state << 8 | label */
    int32_t value;
};

struct cabe_trie_key {
    const char *text;
    uint32_t bytes; /* 1 to CABE_TRIE_KEY_MAX */
    int32_t value;  /* 0 or more */
};

/* Sorts `keys`; of equal ones the last given wins. *n_units is a multiple of 256. */
CABE_CHECKED enum cabe_status cabe_trie_build(struct cabe_trie_key *keys, size_t n_keys,
                                              struct cabe_trie_unit **units, size_t *n_units,
                                              struct cabe_error *err);
/* 1 where no walk can leave the array and every value is below n_values. */
int cabe_trie_is_sound(const struct cabe_trie_unit *units, size_t n_units, uint32_t n_values);

static inline uint32_t cabe_trie_root(const struct cabe_trie_unit *units)
{
    return units[0].state_label >> 8;
}

/* Follows byte c: 0 where there is no child, otherwise 1 with the child's state and value. */
static inline int cabe_trie_step(const struct cabe_trie_unit *units, uint32_t *state, uint8_t c, int32_t *value)
{
    const struct cabe_trie_unit *unit = &units[*state ^ c];

    if ((unit->state_label & 0xFF) != c || unit->value == CABE_TRIE_UNUSED)
        return 0;
    *state = unit->state_label >> 8;
    *value = unit->value;
    return 1;
}

/* The value of exactly these bytes, or CABE_TRIE_NONE. */
int32_t cabe_trie_find(const struct cabe_trie_unit *units, const void *key, size_t bytes);

#endif
