#include "task/ideas.h"

#include <string.h>

#define WORDS_MAX 400 /* of a sentence that are compared */
#define EDITED_SHARE 0.6 /* of the words, from which two sentences are one that was edited */

void cabe_ideas_place(struct cabe_ideas *ideas, struct cabe_arena *arena, uint64_t n, uint64_t max_pairs)
{
    ideas->max_pairs = max_pairs;
    ideas->pair = cabe_arena_take(arena, max_pairs, sizeof *ideas->pair, 64);
    ideas->found = cabe_arena_take(arena, max_pairs, sizeof *ideas->found, 64);
    ideas->group = cabe_arena_take(arena, n, sizeof *ideas->group, 64);
    ideas->member = cabe_arena_take(arena, n, sizeof *ideas->member, 64);
    ideas->of = cabe_arena_take(arena, n, sizeof *ideas->of, 64);
    ideas->founder = cabe_arena_take(arena, n, 2 * sizeof *ideas->founder, 64);
}

/* ---- kinds ---- */

/* Words as hashes, in order: letters and digits with ASCII case folded, other bytes of UTF-8 as they are. */
static int word_hashes(const char *text, size_t n, uint32_t out[WORDS_MAX])
{
    uint32_t hash = 2166136261u;
    int words = 0, length = 0;

    for (size_t i = 0; i <= n && words < WORDS_MAX; i++) {
        unsigned char c = i < n ? (unsigned char)text[i] : ' ';

        if (c >= 'A' && c <= 'Z')
            c = (unsigned char)(c + 32);
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c >= 0xC3) {
            hash = (hash ^ c) * 16777619u;
            length++;
        } else if (c >= 0x80 && length > 0 && (unsigned char)text[i - 1] >= 0xC3) {
            hash = (hash ^ c) * 16777619u; /* the rest of a letter */
        } else if (length > 0 && c != '\'') {
            out[words++] = hash;
            hash = 2166136261u;
            length = 0;
        }
    }
    return words;
}

enum cabe_echo cabe_ideas_echo(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    uint32_t left[WORDS_MAX], right[WORDS_MAX];
    int n = word_hashes(a, a_bytes, left), m = word_hashes(b, b_bytes, right), shared = 0;

    if (n == m && memcmp(left, right, (size_t)n * sizeof *left) == 0)
        return CABE_ECHO_VERBATIM;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < m; k++)
            if (left[i] == right[k]) {
                shared++;
                right[k] = right[--m]; /* each word is matched once */
                break;
            }
    m += shared;
    return n + m > 0 && 2.0 * shared / (n + m) >= EDITED_SHARE ? CABE_ECHO_EDITED : CABE_ECHO_PARAPHRASE;
}

const char *cabe_echo_name(enum cabe_echo echo)
{
    static const char *const names[] = {"verbatim", "edited", "paraphrase"};

    return names[echo];
}

/* ---- sorting in place: qsort() may allocate ---- */

struct sorting {
    char *base;
    size_t size;
    int (*after)(const void *a, const void *b); /* a comes after b */
};

static void swap(const struct sorting *s, uint64_t i, uint64_t k)
{
    char held[64];

    memcpy(held, s->base + i * s->size, s->size);
    memcpy(s->base + i * s->size, s->base + k * s->size, s->size);
    memcpy(s->base + k * s->size, held, s->size);
}

static void sift(const struct sorting *s, uint64_t at, uint64_t n)
{
    for (;;) {
        uint64_t child = 2 * at + 1;

        if (child >= n)
            return;
        if (child + 1 < n && s->after(s->base + (child + 1) * s->size, s->base + child * s->size))
            child++;
        if (!s->after(s->base + child * s->size, s->base + at * s->size))
            return;
        swap(s, at, child);
        at = child;
    }
}

static void sort(struct sorting s, uint64_t n)
{
    for (uint64_t i = n / 2; i-- > 0;)
        sift(&s, i, n);
    for (uint64_t i = n; i-- > 1;) {
        swap(&s, 0, i);
        sift(&s, 0, i);
    }
}

static int pair_after(const void *a, const void *b)
{
    const struct cabe_idea_pair *x = a, *y = b;

    if (x->score != y->score)
        return x->score < y->score;
    return x->a != y->a ? x->a > y->a : x->b > y->b;
}

static int group_after(const void *a, const void *b)
{
    const struct cabe_idea_group *x = a, *y = b;

    if (x->score != y->score)
        return x->score < y->score;
    return x->n != y->n ? x->n < y->n : x->first > y->first;
}

/* ---- groups ---- */

static void found_group(struct cabe_ideas *ideas, const struct cabe_idea_pair *pair)
{
    uint64_t g = ideas->n_groups++;

    ideas->group[g] = (struct cabe_idea_group){.n = 2, .score = pair->score};
    ideas->founder[2 * g] = pair->a;
    ideas->founder[2 * g + 1] = pair->b;
    ideas->of[pair->a] = ideas->of[pair->b] = (uint32_t)g + 1;
}

/* `of` is free, `other` is in a group. The group's score is for now that of its founders. */
static void join_group(struct cabe_ideas *ideas, const struct cabe_idea_pair *pair, uint32_t of, uint32_t other)
{
    uint32_t g = ideas->of[other] - 1;
    const uint32_t *founder = &ideas->founder[2 * (uint64_t)g];

    if ((other != founder[0] && other != founder[1]) || pair->score < ideas->group[g].score - CABE_IDEAS_SPREAD)
        return;
    ideas->of[of] = g + 1;
    ideas->group[g].n++;
}

/* Members of each group side by side, in the order of the text. */
static void list_members(struct cabe_ideas *ideas, uint64_t n)
{
    uint32_t first = 0;

    for (uint64_t g = 0; g < ideas->n_groups; g++) {
        ideas->group[g].first = first;
        first += ideas->group[g].n;
        ideas->group[g].n = 0;
    }
    for (uint64_t i = 0; i < n; i++) {
        struct cabe_idea_group *group;

        if (!ideas->of[i])
            continue;
        group = &ideas->group[ideas->of[i] - 1];
        ideas->member[group->first + group->n++] = (uint32_t)i;
    }
}

void cabe_ideas_group(struct cabe_ideas *ideas, uint64_t n)
{
    sort((struct sorting){(char *)ideas->pair, sizeof *ideas->pair, pair_after}, ideas->n_pairs);
    memset(ideas->of, 0, n * sizeof *ideas->of);
    ideas->n_groups = 0;
    for (uint64_t p = 0; p < ideas->n_pairs; p++) {
        const struct cabe_idea_pair *pair = &ideas->pair[p];
        int a = ideas->of[pair->a] != 0, b = ideas->of[pair->b] != 0;

        if (!a && !b)
            found_group(ideas, pair);
        else if (!a)
            join_group(ideas, pair, pair->a, pair->b);
        else if (!b)
            join_group(ideas, pair, pair->b, pair->a);
    }
    list_members(ideas, n);
    sort((struct sorting){(char *)ideas->group, sizeof *ideas->group, group_after}, ideas->n_groups);
}
