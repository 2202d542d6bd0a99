#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "runtime/stop.h"

static struct cabe_stop *open_strings(const char *const *strings, size_t n)
{
    struct cabe_stop *stop;
    struct cabe_error err;
    size_t bytes[CABE_STOP_MAX];

    for (size_t i = 0; i < n; i++)
        bytes[i] = strlen(strings[i]);
    assert_int_equal(cabe_stop_open(&stop, strings, bytes, n, &err), CABE_OK);
    return stop;
}

static void test_holds_back(void **state)
{
    static const char *const strings[] = {"</s>", "User:"};
    struct cabe_stop *stop = open_strings(strings, 2);
    char out[CABE_STOP_BYTES_MAX + 64];

    (void)state;
    assert_int_equal(cabe_stop_push(stop, "one <", 5, out), 4);
    assert_memory_equal(out, "one ", 4);
    assert_int_equal(cabe_stop_push(stop, "/s", 2, out), 0);
    assert_int_equal(cabe_stop_push(stop, " two Us", 7, out), 8);
    assert_memory_equal(out, "</s two ", 8);
    assert_int_equal(cabe_stop_push(stop, "", 0, out), 0);
    assert_int_equal(cabe_stop_push(stop, "er", 2, out), 0);
    assert_int_equal(cabe_stop_which(stop), -1);
    assert_int_equal(cabe_stop_flush(stop, out), 4);
    assert_memory_equal(out, "User", 4);
    cabe_stop_reset(stop);
    assert_int_equal(cabe_stop_push(stop, "<<</s> more", 11, out), 2);
    assert_memory_equal(out, "<<", 2);
    assert_int_equal(cabe_stop_which(stop), 0);
    assert_int_equal(cabe_stop_push(stop, "later", 5, out), 0);
    assert_int_equal(cabe_stop_flush(stop, out), 0);
    cabe_stop_close(stop);
}

static void test_longest_of_two(void **state)
{
    static const char *const strings[] = {"\n", "\n\nQ\n", "Q\n"};
    struct cabe_stop *stop = open_strings(strings + 1, 2);
    char out[CABE_STOP_BYTES_MAX + 64];

    (void)state;
    assert_int_equal(cabe_stop_push(stop, "a\n\n\nQ\n", 6, out), 2);
    assert_int_equal(cabe_stop_which(stop), 0);
    cabe_stop_close(stop);
    stop = open_strings(strings, 3); /* the first to be complete, though another had matched more */
    assert_int_equal(cabe_stop_push(stop, "a\n\nQ\n", 5, out), 1);
    assert_int_equal(cabe_stop_which(stop), 0);
    cabe_stop_close(stop);
}

/* What a search of the whole text would say. */
static size_t expect(const char *text, size_t n, const char *const *strings, size_t n_strings, int *which)
{
    *which = -1;
    for (size_t end = 1; end <= n; end++)
        for (size_t i = 0; i < n_strings; i++) {
            size_t bytes = strlen(strings[i]);

            if (bytes <= end && memcmp(text + end - bytes, strings[i], bytes) == 0 &&
                (*which < 0 || bytes > strlen(strings[*which])))
                *which = (int)i;
            if (i + 1 == n_strings && *which >= 0)
                return end - strlen(strings[*which]);
        }
    return n;
}

/* Random texts of two letters in random pieces, with strings that overlap themselves and each other. */
static void test_as_a_search(void **state)
{
    unsigned seed = 7;

    (void)state;
    for (int round = 0; round < 3000; round++) {
        char storage[4][10], text[200], out[200 + CABE_STOP_BYTES_MAX], shown[500];
        const char *strings[4];
        size_t n_strings = 1 + (size_t)rand_r(&seed) % 4, n = (size_t)rand_r(&seed) % 200, n_shown = 0,
               n_wanted;
        struct cabe_stop *stop;
        int which;

        for (size_t i = 0; i < n_strings; i++) {
            size_t bytes = 3 + (size_t)rand_r(&seed) % 7;

            for (size_t k = 0; k < bytes; k++)
                storage[i][k] = "ab"[rand_r(&seed) >> 4 & 1];
            storage[i][bytes] = '\0';
            strings[i] = storage[i];
        }
        for (size_t k = 0; k < n; k++)
            text[k] = "ab"[rand_r(&seed) >> 4 & 1];
        stop = open_strings(strings, n_strings);
        for (size_t at = 0; at < n;) {
            size_t piece = 1 + (size_t)rand_r(&seed) % 9, n_out;

            piece = piece < n - at ? piece : n - at;
            n_out = cabe_stop_push(stop, text + at, piece, out);
            memcpy(shown + n_shown, out, n_out);
            n_shown += n_out;
            at += piece;
        }
        n_shown += cabe_stop_flush(stop, shown + n_shown);
        n_wanted = expect(text, n, strings, n_strings, &which);
        assert_int_equal(n_shown, n_wanted);
        assert_memory_equal(shown, text, n_wanted);
        if (which < 0)
            assert_int_equal(cabe_stop_which(stop), -1);
        else /* of equal strings any */
            assert_string_equal(strings[cabe_stop_which(stop)], strings[which]);
        cabe_stop_close(stop);
    }
}

static void test_refusals(void **state)
{
    static const char long_string[CABE_STOP_BYTES_MAX + 1] = "x";
    const char *strings[CABE_STOP_MAX + 1];
    size_t bytes[CABE_STOP_MAX + 1];
    struct cabe_stop *stop;
    struct cabe_error err;

    (void)state;
    for (size_t i = 0; i <= CABE_STOP_MAX; i++) {
        strings[i] = long_string;
        bytes[i] = CABE_STOP_BYTES_MAX;
    }
    assert_int_equal(cabe_stop_open(&stop, strings, bytes, CABE_STOP_MAX + 1, &err), CABE_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "17 stop strings"));
    bytes[2] = CABE_STOP_BYTES_MAX + 1;
    assert_int_equal(cabe_stop_open(&stop, strings, bytes, 3, &err), CABE_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "stop string 2: 257 bytes"));
    bytes[2] = 0;
    assert_int_equal(cabe_stop_open(&stop, strings, bytes, 3, &err), CABE_ERR_ARGUMENT);
    assert_null(stop);
    cabe_memory_fail_at(1);
    assert_int_equal(cabe_stop_open(&stop, strings, bytes, 2, &err), CABE_ERR_OOM);
    cabe_memory_fail_at(0);
    assert_int_equal(cabe_stop_open(&stop, NULL, NULL, 0, &err), CABE_OK);
    cabe_stop_close(stop);
    cabe_stop_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_holds_back),
        cmocka_unit_test(test_longest_of_two),
        cmocka_unit_test(test_as_a_search),
        cmocka_unit_test(test_refusals),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
