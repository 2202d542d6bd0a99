/* From pairs to groups, and how the words of two texts are related. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "task/ideas.h"

#define N_MAX 200
#define PAIRS_MAX 2000

static struct cabe_ideas ideas;
static void *block;

static void begin(uint64_t n, uint64_t max_pairs)
{
    struct cabe_arena arena = {0};

    cabe_ideas_place(&ideas, &arena, n, max_pairs);
    block = aligned_alloc(64, (arena.used_bytes + 63) / 64 * 64);
    assert_non_null(block);
    memset(block, 0xA5, arena.used_bytes); /* nothing may depend on what was there */
    arena = (struct cabe_arena){block, 0, arena.used_bytes};
    cabe_ideas_place(&ideas, &arena, n, max_pairs);
    ideas.n_pairs = 0;
}

static void end(void)
{
    free(block);
}

static void pair(uint32_t a, uint32_t b, float score)
{
    ideas.pair[ideas.n_pairs++] = (struct cabe_idea_pair){a, b, score, CABE_ECHO_PARAPHRASE};
}

static void group_is(uint64_t group, const uint32_t *members, uint32_t n, float score)
{
    assert_true(group < ideas.n_groups);
    assert_int_equal(ideas.group[group].n, n);
    assert_memory_equal(ideas.member + ideas.group[group].first, members, n * sizeof *members);
    assert_true(ideas.group[group].score > score - 1e-6f && ideas.group[group].score < score + 1e-6f);
}

static void nothing_gives_nothing(void **state)
{
    (void)state;
    begin(0, 0);
    cabe_ideas_group(&ideas, 0);
    assert_int_equal(ideas.n_groups, 0);
    end();
    begin(5, 10);
    cabe_ideas_group(&ideas, 5);
    assert_int_equal(ideas.n_groups, 0);
    end();
}

static void a_star_is_one_group(void **state)
{
    (void)state;
    begin(5, 10);
    pair(0, 3, 0.8f);
    pair(1, 3, 0.81f);
    pair(3, 4, 0.79f);
    cabe_ideas_group(&ideas, 5);
    assert_int_equal(ideas.n_groups, 1);
    group_is(0, (const uint32_t[]){0, 1, 3, 4}, 4, 0.81f);
    assert_true(ideas.pair[0].score == 0.81f && ideas.pair[2].score == 0.79f); /* best first */
    end();
    begin(5, 10);
    pair(1, 3, 0.99f);
    pair(3, 4, 0.99f - CABE_IDEAS_SPREAD - 0.01f); /* much weaker than what founded the group */
    cabe_ideas_group(&ideas, 5);
    assert_int_equal(ideas.n_groups, 1);
    group_is(0, (const uint32_t[]){1, 3}, 2, 0.99f);
    end();
}

/* 0-1-2-3-4-5: what is far apart is not joined by small steps. */
static void a_chain_is_cut(void **state)
{
    (void)state;
    begin(6, 10);
    for (uint32_t i = 0; i < 5; i++)
        pair(i, i + 1, 0.8f);
    cabe_ideas_group(&ideas, 6);
    assert_int_equal(ideas.n_groups, 2);
    group_is(0, (const uint32_t[]){0, 1, 2}, 3, 0.8f);
    group_is(1, (const uint32_t[]){3, 4, 5}, 3, 0.8f); /* 2 is no founder, so that 3 does not follow it */
    end();
}

static void stronger_groups_come_first(void **state)
{
    (void)state;
    begin(8, 10);
    pair(0, 1, 0.75f);
    pair(2, 3, 0.95f);
    pair(4, 5, 0.75f);
    pair(4, 6, 0.75f);
    cabe_ideas_group(&ideas, 8);
    assert_int_equal(ideas.n_groups, 3);
    group_is(0, (const uint32_t[]){2, 3}, 2, 0.95f);
    group_is(1, (const uint32_t[]){4, 5, 6}, 3, 0.75f); /* a tie: the larger one */
    group_is(2, (const uint32_t[]){0, 1}, 2, 0.75f);
    end();
}

static uint32_t next(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* Whether a and b are paired with the group's score, and everyone else with one of them. */
static int are_founders(float scores[N_MAX][N_MAX], const uint32_t *member, uint32_t n, uint32_t a, uint32_t b,
                        float score)
{
    int all = scores[a][b] == score;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t m = member[i];

        all &= m == a || m == b || scores[a][m] > 0 || scores[m][a] > 0 || scores[b][m] > 0 || scores[m][b] > 0;
    }
    return all;
}

/* Any order of the pairs gives the same; a sentence is in one group at most; members are paired with a founder. */
static void any_order_gives_the_same(void **state)
{
    static struct cabe_idea_pair first_pair[PAIRS_MAX];
    static struct cabe_idea_group first_group[N_MAX];
    static uint32_t first_member[N_MAX];
    uint32_t seed = 7;

    (void)state;
    for (int round = 0; round < 20; round++) {
        static float scores[N_MAX][N_MAX];
        uint64_t n_pairs = 0, n_groups = 0, n_members = 0;

        memset(scores, 0, sizeof scores);
        for (int i = 0; i < 40 + 20 * round; i++) {
            uint32_t a = next(&seed) % N_MAX, b = next(&seed) % N_MAX;

            if (a != b)
                scores[a < b ? a : b][a < b ? b : a] = 0.72f + (float)(next(&seed) % 5) * 0.05f; /* many ties */
        }
        for (int order = 0; order < 3; order++) {
            uint8_t seen[N_MAX] = {0};

            begin(N_MAX, PAIRS_MAX);
            for (uint32_t a = 0; a < N_MAX; a++)
                for (uint32_t b = a + 1; b < N_MAX; b++)
                    if (scores[a][b] > 0)
                        pair(a, b, scores[a][b]);
            for (uint64_t i = ideas.n_pairs; order > 0 && i > 1; i--) {
                uint64_t k = next(&seed) % i;
                struct cabe_idea_pair held = ideas.pair[i - 1];

                ideas.pair[i - 1] = ideas.pair[k];
                ideas.pair[k] = held;
            }
            cabe_ideas_group(&ideas, N_MAX);
            for (uint64_t g = 0; g < ideas.n_groups; g++) {
                const uint32_t *member = ideas.member + ideas.group[g].first;
                uint32_t n = ideas.group[g].n;
                int founded = 0;

                assert_true(n >= 2);
                for (uint32_t i = 0; i < n; i++) {
                    assert_false(seen[member[i]]);
                    seen[member[i]] = 1;
                    assert_true(i == 0 || member[i - 1] < member[i]);
                }
                for (uint32_t i = 0; i < n; i++)
                    for (uint32_t k = i + 1; k < n; k++)
                        founded |= are_founders(scores, member, n, member[i], member[k], ideas.group[g].score);
                assert_true(founded);
            }
            if (order == 0) {
                n_pairs = ideas.n_pairs;
                n_groups = ideas.n_groups;
                memcpy(first_pair, ideas.pair, n_pairs * sizeof *first_pair);
                memcpy(first_group, ideas.group, n_groups * sizeof *first_group);
                for (uint64_t g = 0; g < n_groups; g++)
                    n_members += first_group[g].n;
                memcpy(first_member, ideas.member, n_members * sizeof *first_member);
            } else {
                assert_int_equal(ideas.n_groups, n_groups);
                assert_memory_equal(ideas.pair, first_pair, n_pairs * sizeof *first_pair);
                assert_memory_equal(ideas.group, first_group, n_groups * sizeof *first_group);
                assert_memory_equal(ideas.member, first_member, n_members * sizeof *first_member);
            }
            end();
        }
    }
}

static enum cabe_echo echo(const char *a, const char *b)
{
    enum cabe_echo one = cabe_ideas_echo(a, strlen(a), b, strlen(b)), other = cabe_ideas_echo(b, strlen(b), a, strlen(a));

    assert_int_equal(one, other);
    return one;
}

static void echoes(void **state)
{
    static char long_a[6000], long_b[6000];

    (void)state;
    assert_int_equal(echo("The cat sat.", "the  CAT, sat!"), CABE_ECHO_VERBATIM);
    assert_int_equal(echo("", ""), CABE_ECHO_VERBATIM);
    assert_int_equal(echo("...", "!?"), CABE_ECHO_VERBATIM);
    assert_int_equal(echo("The cat sat on the mat", "The cat sat on a mat"), CABE_ECHO_EDITED);
    assert_int_equal(echo("on the mat the cat sat", "the cat sat on the mat"), CABE_ECHO_EDITED); /* other order */
    assert_int_equal(echo("The cat sat on the mat", "A feline rested upon some rug"), CABE_ECHO_PARAPHRASE);
    assert_int_equal(echo("words", ""), CABE_ECHO_PARAPHRASE);
    assert_int_equal(echo("don't go", "dont go"), CABE_ECHO_VERBATIM);
    assert_int_equal(echo("\xc3\xa9t\xc3\xa9 chaud", "\xc3\xa9t\xc3\xa9, chaud"), CABE_ECHO_VERBATIM);
    assert_int_equal(echo("\xc3\xa9t\xc3\xa9", "\xc3\xa0t\xc3\xa0"), CABE_ECHO_PARAPHRASE);
    assert_int_equal(echo("a a a a b", "b b b b a"), CABE_ECHO_PARAPHRASE); /* each word is matched once */
    for (size_t i = 0; i + 12 < sizeof long_a; i += 12) { /* more words than are compared */
        memcpy(long_a + i, "one two six ", 12);
        memcpy(long_b + i, "one two six ", 12);
    }
    long_b[sizeof long_b - 30] = 'x';
    assert_int_equal(echo(long_a, long_b), CABE_ECHO_VERBATIM);
    assert_string_equal(cabe_echo_name(CABE_ECHO_EDITED), "edited");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_gives_nothing), cmocka_unit_test(a_star_is_one_group),
        cmocka_unit_test(a_chain_is_cut),        cmocka_unit_test(stronger_groups_come_first),
        cmocka_unit_test(any_order_gives_the_same), cmocka_unit_test(echoes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
