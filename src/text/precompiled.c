/* Sentencepiece's precompiled character map: a darts-clone double array and the strings that it leads to. */
#include <string.h>

#include "text/sentences.h"
#include "text/transform.h"
#include "text/unicode.h"

static size_t unit_child(uint32_t unit) /* darts-clone's offset */
{
    return (size_t)(unit >> 10) << ((unit & (1u << 9)) >> 6);
}

/*
 * What the map has for these bytes: as in the reference, for the shortest of their beginnings that it has. 0 where
 * it has none.
 */
static int charsmap_find(const struct cabe_charsmap *map, const uint8_t *bytes, size_t n, const uint8_t **to,
                         size_t *to_bytes)
{
    size_t node = unit_child(map->units[0]);

    for (size_t i = 0; i < n && bytes[i] != 0; i++) {
        uint32_t unit;

        node ^= bytes[i];
        if (node >= map->n_units)
            return 0;
        unit = map->units[node];
        if ((unit & 0x800000FFu) != bytes[i])
            return 0;
        node ^= unit_child(unit);
        if (unit & 0x100u) {
            size_t at = node < map->n_units ? map->units[node] & 0x7FFFFFFFu : map->string_bytes;
            const uint8_t *end;

            if (at >= map->string_bytes || (map->strings[at] & 0xC0) == 0x80)
                return 0;
            end = memchr(map->strings + at, 0, map->string_bytes - at);
            *to = map->strings + at;
            *to_bytes = end ? (size_t)(end - *to) : map->string_bytes - at;
            return 1;
        }
    }
    return 0;
}

int cabe_charsmap_open(struct cabe_charsmap *map, const void *bytes, size_t n)
{
    uint32_t trie_bytes;

    if (n < 8)
        return 0;
    memcpy(&trie_bytes, bytes, 4);
    if (trie_bytes < 4 || trie_bytes % 4 != 0 || trie_bytes > n - 4)
        return 0;
    map->units = (const uint32_t *)bytes + 1;
    map->n_units = trie_bytes / 4;
    map->strings = (const uint8_t *)bytes + 4 + trie_bytes;
    map->string_bytes = n - 4 - trie_bytes;
    if (cabe_utf8_valid((const char *)map->strings, map->string_bytes) != map->string_bytes)
        return 0;
    for (uint32_t c = 0; c < 128; c++) {
        const uint8_t key = (uint8_t)c;
        const uint8_t *to;
        size_t to_bytes;

        map->ascii[c] = (struct cabe_ascii_rule){0};
        if (charsmap_find(map, &key, 1, &to, &to_bytes))
            map->ascii[c] = (struct cabe_ascii_rule){(uint32_t)(to - map->strings), (uint32_t)to_bytes, 1};
    }
    return 1;
}

struct precompiled {
    struct cabe_transform t;
    int has_held; /* the last character out, whose change may still be made smaller by a deletion after it */
    uint32_t held;
    int32_t held_change;
};

static enum cabe_status hold(struct precompiled *p, uint32_t c, int32_t change, struct cabe_error *err)
{
    enum cabe_status status = p->has_held ? cabe_transform_emit(&p->t, p->held, p->held_change, err) : CABE_OK;

    p->has_held = 1;
    p->held = c;
    p->held_change = change;
    return status;
}

static enum cabe_status substitute(struct precompiled *p, const uint8_t *part, size_t part_bytes,
                                   const uint8_t *to, size_t to_bytes, struct cabe_error *err)
{
    int32_t n_old = 0, n_new = 0;
    enum cabe_status status = CABE_OK;

    for (size_t i = 0; i < part_bytes; i++)
        n_old += (part[i] & 0xC0) != 0x80;
    for (size_t i = 0, step; status == CABE_OK && i < to_bytes; i += step, n_new++)
        status = hold(p, cabe_utf8_get(to + i, &step), n_new >= n_old, err);
    if (n_new < n_old && p->has_held)
        p->held_change -= n_old - n_new;
    for (; n_new < n_old && !p->has_held && p->t.at < p->t.in->n; n_new++)
        cabe_transform_consume(&p->t); /* deleted at the very beginning */
    return status;
}

static enum cabe_status precompiled_cluster(const struct cabe_charsmap *map, struct precompiled *p,
                                            const uint8_t *bytes, size_t n, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;
    const uint8_t *to;
    size_t to_bytes;

    if (n < 6 && charsmap_find(map, bytes, n, &to, &to_bytes))
        return substitute(p, bytes, n, to, to_bytes, err);
    for (size_t i = 0, step; status == CABE_OK && i < n; i += step) {
        uint32_t c = cabe_utf8_get(bytes + i, &step);

        if (charsmap_find(map, bytes + i, step, &to, &to_bytes))
            status = substitute(p, bytes + i, step, to, to_bytes, err);
        else
            status = hold(p, c, 0, err);
    }
    return status;
}

static int is_plain(const struct cabe_tokenizer *tokenizer, uint32_t c)
{
    if (c < CABE_CHARACTERS)
        return (tokenizer->characters[c] & CABE_CHARACTER_PLAIN) != 0;
    return cabe_char_is_unified(c) || cabe_char_is_plain(c);
}

/* How many bytes of plain ASCII from `at` stay as they are, whatever follows them. */
static size_t untouched(const struct cabe_charsmap *map, const struct cabe_piece *in, size_t at)
{
    size_t end = at;

    while (end < in->n && in->bytes[end] < 0x80 && !map->ascii[in->bytes[end]].is_mapped)
        end++;
    if (end > at && end < in->n && in->bytes[end] >= 0x80)
        end--; /* the last one may be in a cluster with what follows */
    if (end > at && end < in->n && in->bytes[end] == '\n' && in->bytes[end - 1] == '\r')
        end--;
    return end - at;
}

static size_t cluster_bytes(const struct cabe_tokenizer *tokenizer, const struct cabe_piece *in, size_t at)
{
    size_t step, unused;
    uint32_t c = cabe_utf8_get(in->bytes + at, &step);

    if (is_plain(tokenizer, c) &&
        (at + step == in->n || is_plain(tokenizer, cabe_utf8_get(in->bytes + at + step, &unused))))
        return step;
    return cabe_grapheme_end(in->bytes, in->n, at) - at;
}

enum cabe_status cabe_precompiled(const struct cabe_tokenizer *tokenizer, struct cabe_encode_work *work,
                                  const struct cabe_piece *in, struct cabe_aligned *out, struct cabe_error *err)
{
    const struct cabe_charsmap *map = &tokenizer->charsmap;
    struct precompiled p = {cabe_transform_begin(work, in, out), 0, 0, 0};
    enum cabe_status status = CABE_OK;
    size_t at = 0, consumed = 0;

    while (status == CABE_OK && at < in->n) {
        size_t n = untouched(map, in, at);

        if (n > 1) { /* all but the last, which a deletion may follow */
            if (p.has_held)
                status = cabe_transform_emit(&p.t, p.held, p.held_change, err);
            p.has_held = 0;
            if (status == CABE_OK)
                status = cabe_aligned_reserve(out, n, err);
            if (status != CABE_OK)
                break;
            consumed = p.t.at;
            for (size_t i = 0; i < n - 1; i++) {
                out->bytes[out->n] = in->bytes[at + i];
                out->align[out->n++] = cabe_piece_align(in, consumed + i, 1);
            }
            p.t.at = consumed + n - 1;
            p.t.last = cabe_piece_align(in, p.t.at - 1, 1);
            at += n - 1;
            status = hold(&p, in->bytes[at++], 0, err);
            continue;
        }
        n = cluster_bytes(tokenizer, in, at);
        status = precompiled_cluster(map, &p, in->bytes + at, n, err);
        at += n;
    }
    if (status == CABE_OK && p.has_held)
        status = cabe_transform_emit(&p.t, p.held, p.held_change, err);
    return status;
}
