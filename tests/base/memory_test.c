#include "base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/clock.h"

static void the_nth_fails(void **state)
{
    uint64_t asked = cabe_memory_count();
    void *pages;
    struct cabe_error err;

    (void)state;
    for (int n = 1; n <= 6; n++) {
        void *blocks[6];

        cabe_memory_fail_at((uint64_t)n);
        blocks[0] = cabe_malloc(10);
        blocks[1] = cabe_calloc(2, 10);
        blocks[2] = cabe_realloc(NULL, 3, 10);
        blocks[3] = cabe_strdup("abc");
        blocks[4] = cabe_aligned_alloc(64, 100);
        if (cabe_pages_map(&blocks[5], 100, 0, &err) != CABE_OK)
            assert_int_equal(err.status, CABE_ERR_OOM);
        for (int i = 0; i < 6; i++) {
            if (i + 1 == n)
                assert_null(blocks[i]);
            else
                assert_non_null(blocks[i]);
            if (i < 5)
                cabe_free(blocks[i]);
        }
        cabe_pages_unmap(blocks[5], 100);
    }
    assert_int_equal(cabe_memory_count() - asked, 36);
    cabe_memory_fail_at(0);
    assert_int_equal(cabe_pages_map(&pages, UINT64_MAX, 0, &err), CABE_ERR_OOM);
    assert_null(pages);
    assert_int_equal(cabe_pages_map(&pages, UINT64_C(1) << 62, 0, &err), CABE_ERR_OOM);
    assert_non_null(strstr(err.text, "4611686018427387904"));
}

static void overflows_are_refused(void **state)
{
    char *block = cabe_malloc(4);

    (void)state;
    memcpy(block, "abc", 4);
    assert_null(cabe_realloc(block, SIZE_MAX / 2, 3));
    assert_null(cabe_calloc(SIZE_MAX / 2, 3));
    assert_string_equal(block, "abc");
    block = cabe_realloc(block, 0, 8);
    assert_non_null(block);
    cabe_free(block);
    cabe_free(NULL);
}

static void pages(void **state)
{
    static const uint64_t sizes[] = {0, 1, 4096, 4097, (2u << 20) - 1, 2u << 20, (5u << 20) + 3};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int populate = 0; populate < 2; populate++) {
            uint64_t bytes = cabe_pages_round(sizes[i]);
            void *mapped;

            assert_true(bytes >= sizes[i] && bytes > 0 && bytes % 4096 == 0);
            assert_int_equal(cabe_pages_map(&mapped, sizes[i], populate, NULL), CABE_OK);
            assert_int_equal((uintptr_t)mapped % (bytes >= 2u << 20 ? 2u << 20 : 4096u), 0);
            for (uint64_t at = 0; at < bytes; at += 512)
                assert_int_equal(((uint8_t *)mapped)[at], 0);
            memset(mapped, 0xAA, bytes);
            cabe_pages_unmap(mapped, sizes[i]);
        }
    assert_true(cabe_pages_round(UINT64_MAX) == UINT64_MAX);
    cabe_pages_unmap(NULL, 5);
    cabe_memory_trim();
}

struct pieces {
    uint8_t *a;
    double *b;
    uint8_t *c;
};

static void place(struct pieces *pieces, struct cabe_arena *arena, uint64_t n)
{
    pieces->a = cabe_arena_take(arena, n, 1, 1);
    pieces->b = cabe_arena_take(arena, n, sizeof(double), 64);
    pieces->c = cabe_arena_take(arena, 1, 1, 4096);
}

static void measures_and_places(void **state)
{
    struct cabe_arena measure = {0}, arena = {0};
    struct pieces pieces;
    void *base;

    (void)state;
    place(&pieces, &measure, 100);
    assert_null(pieces.a);
    assert_int_equal(measure.used_bytes, 4097);
    assert_int_equal(cabe_pages_map(&base, measure.used_bytes, 0, NULL), CABE_OK);
    arena = (struct cabe_arena){.base = base, .size_bytes = measure.used_bytes};
    place(&pieces, &arena, 100);
    assert_int_equal(arena.used_bytes, measure.used_bytes);
    assert_ptr_equal(pieces.a, base);
    assert_ptr_equal(pieces.b, (uint8_t *)base + 128);
    assert_ptr_equal(pieces.c, (uint8_t *)base + 4096);
    cabe_pages_unmap(base, measure.used_bytes);

    measure.used_bytes = 0;
    place(&pieces, &measure, UINT64_MAX / 4);
    assert_true(measure.used_bytes == UINT64_MAX);
}

static void time_goes_on(void **state)
{
    uint64_t before = cabe_clock_ns();
    char stamp[CABE_CLOCK_STAMP_BYTES];

    (void)state;
    for (int i = 0; i < 1000; i++) {
        uint64_t now = cabe_clock_ns();

        assert_true(now >= before);
        before = now;
    }
    cabe_clock_stamp(stamp);
    assert_int_equal(strlen(stamp), 24);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_nth_fails), cmocka_unit_test(overflows_are_refused),
        cmocka_unit_test(pages),         cmocka_unit_test(measures_and_places),
        cmocka_unit_test(time_goes_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
