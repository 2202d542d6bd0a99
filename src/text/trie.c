#include "text/trie.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#define BLOCK 256u
#define OPEN_BLOCKS 16u /* free units are looked for in this many newest blocks */
#define NO_UNIT UINT32_MAX

struct range { /* keys [low, high) share their first `depth` bytes, which lead to `unit` */
    uint32_t low, high, depth, unit;
};

struct builder {
    const struct cabe_trie_key *keys;
    struct cabe_trie_unit *units;
    uint8_t *is_state; /* per number: some state is it already */
    uint32_t *next, *prev; /* ring of free units in the open blocks */
    uint32_t free_head;
    uint32_t n_units, capacity;
    struct range *stack;
    size_t n_stack, stack_capacity;
};

static int compare_keys(const void *a, const void *b)
{
    const struct cabe_trie_key *x = a, *y = b;
    uint32_t common = x->bytes < y->bytes ? x->bytes : y->bytes;
    int order = memcmp(x->text, y->text, common);

    if (order != 0)
        return order;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return x->value < y->value ? -1 : x->value > y->value;
}

static int grow_array(void **array, size_t n, size_t item_bytes)
{
    void *grown = cabe_realloc(*array, n, item_bytes);

    if (!grown)
        return 0;
    *array = grown;
    return 1;
}

static void free_unlink(struct builder *b, uint32_t unit)
{
    if (b->next[unit] == unit) {
        b->free_head = NO_UNIT;
    } else {
        b->next[b->prev[unit]] = b->next[unit];
        b->prev[b->next[unit]] = b->prev[unit];
        if (b->free_head == unit)
            b->free_head = b->next[unit];
    }
    b->next[unit] = NO_UNIT;
}

static void free_append(struct builder *b, uint32_t unit)
{
    if (b->free_head == NO_UNIT) {
        b->free_head = b->next[unit] = b->prev[unit] = unit;
        return;
    }
    b->next[unit] = b->free_head;
    b->prev[unit] = b->prev[b->free_head];
    b->next[b->prev[unit]] = unit;
    b->prev[b->free_head] = unit;
}

static enum cabe_status add_block(struct builder *b, struct cabe_error *err)
{
    uint32_t first = b->n_units;

    if (first + BLOCK > CABE_TRIE_UNITS_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT, "vocabulary: more than %u states of its trie", CABE_TRIE_UNITS_MAX);
    if (first + BLOCK > b->capacity) {
        uint32_t capacity = b->capacity ? b->capacity * 2 : 16 * BLOCK;

        if (!grow_array((void **)&b->units, capacity, sizeof *b->units) ||
            !grow_array((void **)&b->is_state, capacity, 1) ||
            !grow_array((void **)&b->next, capacity, sizeof *b->next) ||
            !grow_array((void **)&b->prev, capacity, sizeof *b->prev))
            return cabe_fail(err, CABE_ERR_OOM, "trie of %u units", capacity);
        b->capacity = capacity;
    }
    b->n_units += BLOCK;
    for (uint32_t i = first; i < first + BLOCK; i++) {
        b->units[i] = (struct cabe_trie_unit){.value = CABE_TRIE_UNUSED};
        b->is_state[i] = 0;
        b->next[i] = NO_UNIT;
        if (first > 0)
            free_append(b, i);
    }
    if (first / BLOCK > OPEN_BLOCKS) { /* close the oldest one: searching it again would cost more than it saves */
        uint32_t old = first - OPEN_BLOCKS * BLOCK;

        for (uint32_t i = old; i < old + BLOCK; i++)
            if (b->next[i] != NO_UNIT)
                free_unlink(b, i);
    }
    return CABE_OK;
}

static int fits(const struct builder *b, uint32_t state, const uint8_t *labels, uint32_t n)
{
    if (b->is_state[state])
        return 0;
    for (uint32_t i = 1; i < n; i++)
        if (b->units[state ^ labels[i]].value != CABE_TRIE_UNUSED)
            return 0;
    return 1;
}

static enum cabe_status find_state(struct builder *b, const uint8_t *labels, uint32_t n, uint32_t *state,
                                   struct cabe_error *err)
{
    uint32_t unit = b->free_head;

    if (unit != NO_UNIT)
        do {
            *state = unit ^ labels[0];
            if (fits(b, *state, labels, n))
                return CABE_OK;
            unit = b->next[unit];
        } while (unit != b->free_head);
    *state = b->n_units ^ labels[0];
    return add_block(b, err);
}

/* The distinct next bytes of a range's keys, and where each one's keys begin. */
static uint32_t collect(const struct builder *b, uint32_t low, const struct range *r, uint8_t *labels,
                        uint32_t *starts)
{
    uint32_t n = 0;

    for (uint32_t i = low; i < r->high; i++) {
        uint8_t label = (uint8_t)b->keys[i].text[r->depth];

        if (n == 0 || labels[n - 1] != label) {
            labels[n] = label;
            starts[n++] = i;
        }
    }
    starts[n] = r->high;
    return n;
}

static enum cabe_status expand(struct builder *b, const struct range *r, struct cabe_error *err)
{
    uint8_t labels[BLOCK];
    uint32_t starts[BLOCK + 1];
    uint32_t low = r->low, n, state = 0;
    enum cabe_status status;

    while (low < r->high && b->keys[low].bytes == r->depth) /* equal keys: the last one's value stays */
        b->units[r->unit].value = b->keys[low++].value;
    n = collect(b, low, r, labels, starts);
    if (n == 0)
        return CABE_OK;
    status = find_state(b, labels, n, &state, err);
    if (status != CABE_OK)
        return status;
    b->is_state[state] = 1;
    b->units[r->unit].state_label |= state << 8;
    if (b->n_stack + n > b->stack_capacity) {
        size_t capacity = 2 * (b->n_stack + n);

        if (!grow_array((void **)&b->stack, capacity, sizeof *b->stack))
            return cabe_fail(err, CABE_ERR_OOM, "trie of %u units", b->n_units);
        b->stack_capacity = capacity;
    }
    for (uint32_t i = n; i-- > 0;) {
        uint32_t unit = state ^ labels[i];

        free_unlink(b, unit);
        b->units[unit] = (struct cabe_trie_unit){labels[i], CABE_TRIE_NONE};
        b->stack[b->n_stack++] = (struct range){starts[i], starts[i + 1], r->depth + 1, unit};
    }
    return CABE_OK;
}

enum cabe_status cabe_trie_build(struct cabe_trie_key *keys, size_t n_keys, struct cabe_trie_unit **units,
                                 size_t *n_units, struct cabe_error *err)
{
    struct builder b = {.keys = keys, .free_head = NO_UNIT};
    enum cabe_status status;

    *units = NULL;
    *n_units = 0;
    if (n_keys > INT32_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT, "vocabulary: %zu keys", n_keys);
    qsort(keys, n_keys, sizeof *keys, compare_keys);
    status = add_block(&b, err);
    if (status == CABE_OK) {
        struct range root = {0, (uint32_t)n_keys, 0, 0};

        status = expand(&b, &root, err);
        b.units[0].value = CABE_TRIE_UNUSED; /* the root is nobody's child */
    }
    while (status == CABE_OK && b.n_stack > 0) {
        struct range r = b.stack[--b.n_stack];

        status = expand(&b, &r, err);
    }
    cabe_free(b.is_state);
    cabe_free(b.next);
    cabe_free(b.prev);
    cabe_free(b.stack);
    if (status != CABE_OK) {
        cabe_free(b.units);
        return status;
    }
    *units = b.units;
    *n_units = b.n_units;
    return CABE_OK;
}

int cabe_trie_is_sound(const struct cabe_trie_unit *units, size_t n_units, uint32_t n_values)
{
    uint32_t state_max = 0;
    int32_t value_max = CABE_TRIE_UNUSED, value_min = CABE_TRIE_NONE;

    if (n_units < BLOCK || n_units % BLOCK != 0 || n_units > CABE_TRIE_UNITS_MAX)
        return 0;
    for (size_t i = 0; i < n_units; i++) {
        uint32_t state = units[i].state_label >> 8;

        state_max = state > state_max ? state : state_max;
        value_max = units[i].value > value_max ? units[i].value : value_max;
        value_min = units[i].value < value_min ? units[i].value : value_min;
    }
    return state_max < n_units && value_min >= CABE_TRIE_UNUSED &&
           (value_max < 0 || (uint32_t)value_max < n_values);
}

int32_t cabe_trie_find(const struct cabe_trie_unit *units, const void *key, size_t bytes)
{
    const uint8_t *at = key;
    uint32_t state = cabe_trie_root(units);
    int32_t value = CABE_TRIE_NONE;

    for (size_t i = 0; i < bytes; i++)
        if (!cabe_trie_step(units, &state, at[i], &value))
            return CABE_TRIE_NONE;
    return value;
}
