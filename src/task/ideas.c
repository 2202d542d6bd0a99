#include "task/ideas.h"

#include <string.h>

#define WORDS_MAX 400 /* of a sentence that are compared */
#define EDITED_SHARE 0.6 /* of the words, from which two sentences are one that was edited */

void cabe_ideas_place(struct cabe_ideas *ideas, struct cabe_arena *arena, uint64_t n, uint64_t max_pairs)
{
    ideas->max_pairs = max_pairs;
    ideas->pair = cabe_arena_take(arena, max_pairs, sizeof *ideas->pair, 64);
    ideas->found = cabe_arena_take(arena, max_pairs, sizeof *ideas->found, 64);
    ideas->link = cabe_arena_take(arena, max_pairs, 2 * sizeof *ideas->link, 64);
    ideas->group = cabe_arena_take(arena, n, sizeof *ideas->group, 64);
    ideas->member = cabe_arena_take(arena, n, sizeof *ideas->member, 64);
    ideas->first = cabe_arena_take(arena, n + 1, sizeof *ideas->first, 64);
    ideas->strength = cabe_arena_take(arena, n, sizeof *ideas->strength, 64);
    ideas->order = cabe_arena_take(arena, n, sizeof *ideas->order, 64);
    ideas->taken = cabe_arena_take(arena, n, sizeof *ideas->taken, 64);
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
    int (*after)(const void *a, const void *b, const void *context); /* a comes after b */
    const void *context;
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
        if (child + 1 < n && s->after(s->base + (child + 1) * s->size, s->base + child * s->size, s->context))
            child++;
        if (!s->after(s->base + child * s->size, s->base + at * s->size, s->context))
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

static int pair_after(const void *a, const void *b, const void *context)
{
    const struct cabe_idea_pair *x = a, *y = b;

    (void)context;
    if (x->score != y->score)
        return x->score < y->score;
    return x->a != y->a ? x->a > y->a : x->b > y->b;
}

static int weaker(const void *a, const void *b, const void *context)
{
    const float *strength = context;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return strength[x] != strength[y] ? strength[x] < strength[y] : x > y;
}

static int number_after(const void *a, const void *b, const void *context)
{
    (void)context;
    return *(const uint32_t *)a > *(const uint32_t *)b;
}

static int group_after(const void *a, const void *b, const void *context)
{
    const struct cabe_idea_group *x = a, *y = b;

    (void)context;
    if (x->score != y->score)
        return x->score < y->score;
    return x->n != y->n ? x->n < y->n : x->first > y->first;
}

/* ---- groups ---- */

static void link_pairs(struct cabe_ideas *ideas, uint64_t n)
{
    memset(ideas->first, 0, (n + 1) * sizeof *ideas->first);
    for (uint64_t i = 0; i < n; i++)
        ideas->strength[i] = 0;
    for (uint64_t p = 0; p < ideas->n_pairs; p++) {
        const struct cabe_idea_pair *pair = &ideas->pair[p];

        ideas->first[pair->a + 1]++;
        ideas->first[pair->b + 1]++;
        ideas->strength[pair->a] += pair->score;
        ideas->strength[pair->b] += pair->score;
    }
    for (uint64_t i = 0; i < n; i++)
        ideas->first[i + 1] += ideas->first[i];
    /* Filling moves each start to its end; it is moved back by walking down. */
    for (uint64_t p = 0; p < ideas->n_pairs; p++) {
        ideas->link[ideas->first[ideas->pair[p].a]++] = (uint32_t)p;
        ideas->link[ideas->first[ideas->pair[p].b]++] = (uint32_t)p;
    }
    for (uint64_t i = n; i > 0; i--)
        ideas->first[i] = ideas->first[i - 1];
    ideas->first[0] = 0;
}

/* The centre and its free partners, as a group at the end of the members; undone when it has no partner. */
static void gather(struct cabe_ideas *ideas, uint32_t centre, uint32_t *n_members)
{
    struct cabe_idea_group *group = &ideas->group[ideas->n_groups];
    double sum = 0;

    group->first = *n_members;
    group->n = 1;
    ideas->member[*n_members] = centre;
    for (uint64_t l = ideas->first[centre]; l < ideas->first[centre + 1]; l++) {
        const struct cabe_idea_pair *pair = &ideas->pair[ideas->link[l]];
        uint32_t other = pair->a == centre ? pair->b : pair->a;

        if (ideas->taken[other])
            continue;
        ideas->taken[other] = 1;
        ideas->member[*n_members + group->n++] = other;
        sum += (double)pair->score;
    }
    if (group->n == 1)
        return;
    group->score = (float)(sum / (group->n - 1));
    sort((struct sorting){(char *)(ideas->member + *n_members), sizeof *ideas->member, number_after, NULL}, group->n);
    *n_members += group->n;
    ideas->n_groups++;
}

void cabe_ideas_group(struct cabe_ideas *ideas, uint64_t n)
{
    uint32_t n_members = 0;

    sort((struct sorting){(char *)ideas->pair, sizeof *ideas->pair, pair_after, NULL}, ideas->n_pairs);
    link_pairs(ideas, n);
    for (uint64_t i = 0; i < n; i++)
        ideas->order[i] = (uint32_t)i;
    sort((struct sorting){(char *)ideas->order, sizeof *ideas->order, weaker, ideas->strength}, n);
    memset(ideas->taken, 0, n);
    ideas->n_groups = 0;
    for (uint64_t i = 0; i < n && ideas->strength[ideas->order[i]] > 0; i++) {
        uint32_t centre = ideas->order[i];

        if (ideas->taken[centre])
            continue;
        ideas->taken[centre] = 1;
        gather(ideas, centre, &n_members);
    }
    sort((struct sorting){(char *)ideas->group, sizeof *ideas->group, group_after, NULL}, ideas->n_groups);
}
