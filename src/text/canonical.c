/* NFD, NFC, NFKD and NFKC with ranges, as the reference does them. */
#include "base/memory.h"
#include "text/transform.h"
#include "text/unicode.h"

static enum cabe_status push_char(struct cabe_normal_chars *list, struct cabe_normal_char item,
                                  struct cabe_error *err)
{
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 64;
        void *grown = cabe_realloc(list->items, capacity, sizeof *list->items);

        if (!grown)
            return cabe_fail(err, CABE_ERR_OOM, "%zu combining characters", capacity);
        list->items = grown;
        list->capacity = capacity;
    }
    list->items[list->n++] = item;
    return CABE_OK;
}

/* Canonical order of a starter and its marks, stable; linear in their number. */
static enum cabe_status sort_pending(struct cabe_encode_work *work, struct cabe_error *err)
{
    struct cabe_normal_chars *list = &work->pending, *sorted = &work->sorted;
    size_t starts[257] = {0};

    if (list->n < 2)
        return CABE_OK;
    if (list->n <= 16) {
        for (size_t i = 1; i < list->n; i++) {
            struct cabe_normal_char item = list->items[i];
            size_t k = i;

            for (; k > 0 && list->items[k - 1].combining_class > item.combining_class; k--)
                list->items[k] = list->items[k - 1];
            list->items[k] = item;
        }
        return CABE_OK;
    }
    sorted->n = 0;
    for (size_t i = 0; i < list->n; i++) {
        enum cabe_status status = push_char(sorted, list->items[i], err);

        if (status != CABE_OK)
            return status;
        starts[list->items[i].combining_class + 1]++;
    }
    for (size_t i = 1; i < 257; i++)
        starts[i] += starts[i - 1];
    for (size_t i = 0; i < sorted->n; i++)
        list->items[starts[sorted->items[i].combining_class]++] = sorted->items[i];
    return CABE_OK;
}

struct composer {
    struct cabe_transform t;
    int composes;
    int has_composee;
    struct cabe_normal_char composee;
    int last_class; /* -1: nothing between the composee and here */
};

static enum cabe_status emit_blocked(struct composer *c, struct cabe_error *err)
{
    struct cabe_normal_chars *blocked = &c->t.work->blocked;
    enum cabe_status status = CABE_OK;

    for (size_t i = 0; status == CABE_OK && i < blocked->n; i++)
        status = cabe_transform_emit(&c->t, blocked->items[i].c, blocked->items[i].change, err);
    blocked->n = 0;
    return status;
}

/* One character in canonical order on its way to composition, as the reference composes. */
static enum cabe_status compose(struct composer *c, struct cabe_normal_char item, struct cabe_error *err)
{
    int item_class = item.combining_class;
    enum cabe_status status;

    if (!c->composes || (!c->has_composee && item_class != 0))
        return cabe_transform_emit(&c->t, item.c, item.change, err);
    if (!c->has_composee) {
        c->has_composee = 1;
        c->composee = item;
        return CABE_OK;
    }
    if (c->last_class < item_class || c->last_class < 0) {
        uint32_t composed = cabe_char_compose(c->composee.c, item.c);

        if (composed != 0) {
            c->composee.c = composed;
            c->composee.change += item.change - 1;
            return CABE_OK;
        }
    }
    if (item_class != 0) {
        c->last_class = item_class;
        return push_char(&c->t.work->blocked, item, err);
    }
    status = cabe_transform_emit(&c->t, c->composee.c, c->composee.change, err);
    if (status == CABE_OK)
        status = emit_blocked(c, err);
    c->composee = item;
    c->last_class = -1;
    return status;
}

static enum cabe_status flush_pending(struct composer *c, struct cabe_error *err)
{
    struct cabe_normal_chars *pending = &c->t.work->pending;
    enum cabe_status status = sort_pending(c->t.work, err);

    for (size_t i = 0; status == CABE_OK && i < pending->n; i++)
        status = compose(c, pending->items[i], err);
    pending->n = 0;
    return status;
}

static enum cabe_status decompose(struct composer *c, uint32_t from, int compatible, struct cabe_error *err)
{
    uint32_t parts[CABE_DECOMPOSITION_MAX];
    int n = 1;
    enum cabe_status status = CABE_OK;

    parts[0] = from;
    if (from >= 0x80)
        n = cabe_char_decompose(from, compatible, parts);
    for (int i = 0; status == CABE_OK && i < n; i++) {
        uint8_t item_class = parts[i] < 0x80 ? 0 : cabe_char_combining_class(parts[i]);
        struct cabe_normal_char item = {parts[i], i > 0, item_class};

        if (item_class == 0)
            status = flush_pending(c, err);
        if (status == CABE_OK)
            status = push_char(&c->t.work->pending, item, err);
    }
    return status;
}

enum cabe_status cabe_canonical(struct cabe_encode_work *work, const struct cabe_piece *in, struct cabe_aligned *out,
                                int compatible, int composes, struct cabe_error *err)
{
    struct composer c = {cabe_transform_begin(work, in, out), composes, 0, {0, 0, 0}, -1};
    enum cabe_status status = CABE_OK;

    work->pending.n = work->blocked.n = 0;
    for (size_t at = 0, step; status == CABE_OK && at < in->n; at += step)
        status = decompose(&c, cabe_utf8_get(in->bytes + at, &step), compatible, err);
    if (status == CABE_OK)
        status = flush_pending(&c, err);
    if (status == CABE_OK && c.has_composee)
        status = cabe_transform_emit(&c.t, c.composee.c, c.composee.change, err);
    return status == CABE_OK ? emit_blocked(&c, err) : status;
}
