/* Texts from a stream: chunks, ends of lines, cuts, wrong bytes, and the block they lie in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "task/lines.h"

static struct cabe_error err;
static struct cabe_ledger *ledger;

static int start(void **state)
{
    struct cabe_ledger_config config = {.n_devices = 1, .budget_bytes = {64 << 20}};

    (void)state;
    return cabe_ledger_open(&ledger, &config, &err) != CABE_OK;
}

static int stop(void **state)
{
    (void)state;
    cabe_ledger_close(ledger);
    return 0;
}

static uint64_t held(void)
{
    struct cabe_ledger_view view;

    cabe_ledger_read(ledger, &view);
    return view.device[0].used_bytes;
}

static FILE *stream(const char *text, size_t n)
{
    FILE *file = tmpfile();

    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, n, file), n);
    rewind(file);
    return file;
}

/* All lines of a text in chunks of `n_lines`, each followed by '|'; freed by the caller. */
static char *all_lines(const char *text, size_t n, int64_t n_lines, enum cabe_status *status)
{
    FILE *file = stream(text, n), *memory;
    const struct cabe_text *texts;
    struct cabe_lines *lines;
    char *out = NULL;
    size_t out_bytes = 0, count;

    memory = open_memstream(&out, &out_bytes);
    assert_non_null(memory);
    assert_int_equal(cabe_lines_open(&lines, file, "test", n_lines, ledger, &err), CABE_OK);
    assert_int_equal(held(), cabe_lines_bytes(n_lines));
    while ((*status = cabe_lines_next(lines, &texts, &count, &err)) == CABE_OK && count > 0) {
        assert_true((int64_t)count <= n_lines);
        for (size_t i = 0; i < count; i++) {
            fwrite(texts[i].bytes, 1, texts[i].n_bytes, memory);
            fputc('|', memory);
        }
    }
    cabe_lines_close(lines);
    assert_int_equal(held(), 0);
    fclose(memory);
    fclose(file);
    return out;
}

static void lines_are(const char *text, size_t n, const char *wanted)
{
    for (int64_t n_lines = 1; n_lines < 5; n_lines++) {
        enum cabe_status status;
        char *found = all_lines(text, n, n_lines, &status);

        assert_int_equal(status, CABE_OK);
        assert_string_equal(found, wanted);
        free(found);
    }
}

static void ends_of_lines(void **state)
{
    (void)state;
    lines_are("", 0, "");
    lines_are("\n", 1, "|");
    lines_are("a", 1, "a|");
    lines_are("a\n", 2, "a|");
    lines_are("a\nb", 3, "a|b|");
    lines_are("\n\n\n", 3, "|||");
    lines_are("a\r\n\r\nb\r", 7, "a||b|");
    lines_are("a\rb\n", 4, "a\rb|");
    lines_are("\xc3\xa9\n\xe6\x98\xa5", 6, "\xc3\xa9|\xe6\x98\xa5|");
}

static void a_nul_is_a_byte_of_its_line(void **state)
{
    const struct cabe_text *texts;
    struct cabe_lines *lines;
    FILE *file = stream("a\0b\nc", 5);
    size_t n;

    (void)state;
    assert_int_equal(cabe_lines_open(&lines, file, "test", 10, ledger, &err), CABE_OK);
    assert_int_equal(cabe_lines_next(lines, &texts, &n, &err), CABE_OK);
    assert_int_equal(n, 2);
    assert_int_equal(texts[0].n_bytes, 3);
    assert_memory_equal(texts[0].bytes, "a\0b", 3);
    cabe_lines_close(lines);
    fclose(file);
}

/* Around the longest length, with characters of one to four bytes across the cut. */
static void long_lines_are_cut_between_characters(void **state)
{
    static const char *const letters[] = {"a", "\xc3\xa9", "\xe6\x98\xa5", "\xf0\x9f\x99\x82"};
    size_t size = 3 * CABE_TEXT_BYTES_MAX;
    char *text = malloc(size);

    (void)state;
    assert_non_null(text);
    for (size_t l = 0; l < 4; l++)
        for (size_t length = CABE_TEXT_BYTES_MAX - 5; length < CABE_TEXT_BYTES_MAX + 6; length++) {
            size_t n = strlen(letters[l]), at = 0, kept;
            enum cabe_status status;
            char *found;

            while ((at + n) <= length || at % n != 0) {
                memcpy(text + at, letters[l], n);
                at += n;
            }
            kept = at <= CABE_TEXT_BYTES_MAX ? at : CABE_TEXT_BYTES_MAX / n * n;
            memcpy(text + at, "\nnext", 5);
            found = all_lines(text, at + 5, 3, &status);
            if (status != CABE_OK)
                fail_msg("letters of %zu bytes, length %zu: %s", n, length, err.text);
            assert_int_equal(strlen(found), kept + 1 + 5);
            assert_memory_equal(found, text, kept);
            assert_string_equal(found + kept, "|next|");
            free(found);
        }
    free(text);
}

/* More text than a chunk holds comes in more chunks, in order. */
static void large_texts_come_in_chunks(void **state)
{
    size_t line = CABE_TEXT_BYTES_MAX - 1, n_lines = 100;
    char *text = malloc((line + 1) * n_lines);
    const struct cabe_text *texts;
    struct cabe_lines *lines;
    size_t n, seen = 0, chunks = 0;
    FILE *file;

    (void)state;
    assert_non_null(text);
    for (size_t i = 0; i < n_lines; i++) {
        memset(text + i * (line + 1), (int)('a' + i % 26), line);
        text[(i + 1) * (line + 1) - 1] = '\n';
    }
    file = stream(text, (line + 1) * n_lines);
    assert_int_equal(cabe_lines_open(&lines, file, "test", 1000, ledger, &err), CABE_OK);
    while (cabe_lines_next(lines, &texts, &n, &err) == CABE_OK && n > 0) {
        for (size_t i = 0; i < n; i++, seen++) {
            assert_int_equal(texts[i].n_bytes, line);
            assert_int_equal(texts[i].bytes[line - 1], 'a' + seen % 26);
        }
        chunks++;
    }
    assert_int_equal(seen, n_lines);
    assert_true(chunks > 2);
    cabe_lines_close(lines);
    fclose(file);
    free(text);
}

static void a_wrong_byte_has_a_line_and_a_place(void **state)
{
    static const struct {
        const char *text, *place;
    } cases[] = {{"\xff", "line 1, byte 1 "},        {"ok\nok\nab\x80", "line 3, byte 3 "},
                 {"\xc3", "line 1, byte 1 "},        {"a\n\xe6\x98\nb", "line 2, byte 1 "},
                 {"\xed\xa0\x80", "line 1, byte 1 "}, {"x\xc0\xaf", "line 1, byte 2 "}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        enum cabe_status status;

        free(all_lines(cases[i].text, strlen(cases[i].text), 2, &status));
        assert_int_equal(status, CABE_ERR_FORMAT);
        if (!strstr(err.text, cases[i].place) || strncmp(err.text, "test", 4) != 0)
            fail_msg("case %zu: %s", i, err.text);
    }
}

static void memory_may_be_refused(void **state)
{
    FILE *file = stream("a\n", 2);
    struct cabe_lines *lines;
    int n = 1;

    (void)state;
    for (;; n++) {
        enum cabe_status status;

        cabe_memory_fail_at((uint64_t)n);
        status = cabe_lines_open(&lines, file, "test", 10, ledger, &err);
        cabe_memory_fail_at(0);
        if (status == CABE_OK)
            break;
        assert_int_equal(status, CABE_ERR_OOM);
        assert_null(lines);
        assert_int_equal(held(), 0);
    }
    assert_true(n > 1);
    cabe_lines_close(lines);
    assert_int_equal(cabe_lines_open(&lines, file, "test", INT64_C(1) << 22, ledger, &err), CABE_ERR_BUDGET);
    assert_int_equal(held(), 0);
    fclose(file);
    file = fopen("/tmp", "r"); /* a folder opens, and cannot be read */
    if (file) {
        const struct cabe_text *texts;
        size_t count;

        assert_int_equal(cabe_lines_open(&lines, file, "test", 10, ledger, &err), CABE_OK);
        assert_int_equal(cabe_lines_next(lines, &texts, &count, &err), CABE_ERR_IO);
        cabe_lines_close(lines);
        fclose(file);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends_of_lines),
        cmocka_unit_test(a_nul_is_a_byte_of_its_line),
        cmocka_unit_test(long_lines_are_cut_between_characters),
        cmocka_unit_test(large_texts_come_in_chunks),
        cmocka_unit_test(a_wrong_byte_has_a_line_and_a_place),
        cmocka_unit_test(memory_may_be_refused),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
