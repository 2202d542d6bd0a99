#include "cabe/status.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/utf8.h"

static void names_and_codes(void **state)
{
    static const enum cabe_status all[] = {
#define X(symbol, name, exit_code, meaning) CABE_##symbol,
        CABE_STATUS_MAP(X)
#undef X
    };
    size_t n = sizeof all / sizeof all[0];

    (void)state;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++) {
            assert_int_not_equal(cabe_status_exit_code(all[i]), cabe_status_exit_code(all[j]));
            assert_string_not_equal(cabe_status_name(all[i]), cabe_status_name(all[j]));
        }
    assert_int_equal(cabe_status_exit_code(CABE_OK), 0);
    assert_string_equal(cabe_status_name((enum cabe_status)999), "internal");
    assert_int_equal(cabe_status_exit_code((enum cabe_status)999), 1);
    assert_string_equal(cabe_status_meaning(CABE_ERR_CANCELLED), "stopped on request");
}

static void messages(void **state)
{
    struct cabe_error err = {.missing_bytes = 7};

    (void)state;
    assert_int_equal(cabe_fail(&err, CABE_ERR_FORMAT, "%s: offset %d", "a.gguf", 9), CABE_ERR_FORMAT);
    assert_int_equal(err.status, CABE_ERR_FORMAT);
    assert_int_equal(err.missing_bytes, 0);
    assert_string_equal(err.text, "a.gguf: offset 9");
    assert_int_equal(cabe_fail_in(&err, CABE_ERR_CHANGED, "model %d", 3), CABE_ERR_CHANGED);
    assert_int_equal(err.status, CABE_ERR_CHANGED);
    assert_string_equal(err.text, "model 3: a.gguf: offset 9");
    cabe_fail(&err, CABE_ERR_IO, "again: %s", err.text); /* the argument is the message itself */
    assert_string_equal(err.text, "again: model 3: a.gguf: offset 9");
    assert_int_equal(cabe_fail(NULL, CABE_ERR_IO, "x"), CABE_ERR_IO);
    assert_int_equal(cabe_fail_in(NULL, CABE_ERR_IO, "x"), CABE_ERR_IO);
    assert_int_equal(cabe_fail_errno(NULL, EIO, "x"), CABE_ERR_IO);
}

static void errno_chooses_the_status(void **state)
{
    static const struct {
        int number;
        enum cabe_status status;
    } cases[] = {
        {ENOENT, CABE_ERR_NOT_FOUND}, {ENOTDIR, CABE_ERR_NOT_FOUND}, {ENOSPC, CABE_ERR_NO_SPACE},
        {EDQUOT, CABE_ERR_NO_SPACE},  {EACCES, CABE_ERR_PERMISSION}, {EPERM, CABE_ERR_PERMISSION},
        {EROFS, CABE_ERR_PERMISSION}, {ENOMEM, CABE_ERR_OOM},        {EIO, CABE_ERR_IO},
        {99999, CABE_ERR_IO},
    };
    struct cabe_error err;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(cabe_fail_errno(&err, cases[i].number, "%s", "f"), cases[i].status);
        assert_true(strlen(err.text) > 5 && memcmp(err.text, "f: ", 3) == 0);
    }
    cabe_fail_errno(&err, ENOSPC, "out.npy");
    assert_string_equal(err.text, "out.npy: No space left on device");
}

static void hostile_names(void **state)
{
    char name[2000];
    struct cabe_error err;

    (void)state;
    cabe_fail(&err, CABE_ERR_IO, "%s", "a\nb\x1b[0m\x7f\xC3\xB1\xFF\xC3");
    assert_string_equal(err.text, "a?b?[0m?\xC3\xB1??");
    /* Too long: cut between two characters, and said so; at every offset of the cut within a character. */
    for (size_t lead = 0; lead < 5; lead++) {
        memset(name, 'a', lead);
        for (size_t at = lead; at + 4 < sizeof name; at += 4)
            memcpy(name + at, "\xF0\x9F\x98\x80", 4);
        name[sizeof name - 5] = '\0';
        cabe_fail(&err, CABE_ERR_IO, "%s", name);
        assert_true(strlen(err.text) < CABE_ERROR_TEXT_MAX && strlen(err.text) > CABE_ERROR_TEXT_MAX - 8);
        assert_string_equal(err.text + strlen(err.text) - 3, "...");
        assert_null(strchr(err.text, '?'));
        cabe_fail_in(&err, CABE_ERR_IO, "%s", name);
        assert_true(strlen(err.text) < CABE_ERROR_TEXT_MAX);
        assert_null(strchr(err.text, '?'));
        cabe_fail_errno(&err, EIO, "%s", name);
        assert_true(strlen(err.text) < CABE_ERROR_TEXT_MAX);
    }
}

/* Every code point there is, encoded, is one character; every two and three bytes agree with the definition.
 */
static void characters(void **state)
{
    (void)state;
    for (uint32_t c = 0; c < 0x110000; c++) {
        uint8_t b[4];
        size_t n = 0;

        if (c >= 0xD800 && c < 0xE000)
            continue;
        if (c < 0x80) {
            b[n++] = (uint8_t)c;
        } else {
            int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;

            b[n++] = (uint8_t)((0xF0u << (3 - more)) | (c >> (6 * more)));
            while (more-- > 0)
                b[n++] = (uint8_t)(0x80 | ((c >> (6 * more)) & 0x3F));
        }
        if (cabe_utf8_length(b, n) != n || (n > 1 && cabe_utf8_length(b, n - 1) != 0))
            fail_msg("U+%X", (unsigned)c);
    }
    for (uint32_t w = 0; w < 0x1000000; w += 7) {
        const uint8_t b[3] = {(uint8_t)(w >> 16), (uint8_t)(w >> 8), (uint8_t)w};
        uint32_t c = (b[0] & 0xFu) << 12 | (b[1] & 0x3Fu) << 6 | (b[2] & 0x3Fu);
        int is_three = b[0] >> 4 == 0xE && b[1] >> 6 == 2 && b[2] >> 6 == 2 && c >= 0x800 && c >> 11 != 0x1B;

        if ((cabe_utf8_length(b, 3) == 3) != is_three)
            fail_msg("%06X", (unsigned)w);
    }
    assert_int_equal(cabe_utf8_length("", 0), 0);
    assert_int_equal(cabe_utf8_length("\xC0\x80", 2), 0);
    assert_int_equal(cabe_utf8_length("\xF4\x90\x80\x80", 4), 0);
    assert_int_equal(cabe_utf8_cut("abc", 3), 3);
    assert_int_equal(cabe_utf8_cut("ab\xC3\xB1", 3), 2);
    assert_int_equal(cabe_utf8_cut("ab\xC3\xB1", 4), 4);
}

static void json_of_any_text(void **state)
{
    json_t *value = cabe_json_text("a\xED\xA0\x80z", 5);

    (void)state;
    assert_string_equal(json_string_value(value), "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDz");
    json_decref(value);
    value = cabe_json_text("\xC3\xB1", 2);
    assert_string_equal(json_string_value(value), "\xC3\xB1");
    json_decref(value);
    value = cabe_json_text("", 0);
    assert_string_equal(json_string_value(value), "");
    json_decref(value);
    value = cabe_json_count(UINT64_MAX);
    assert_true(json_integer_value(value) == INT64_MAX);
    json_decref(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_codes),
        cmocka_unit_test(messages),
        cmocka_unit_test(errno_chooses_the_status),
        cmocka_unit_test(hostile_names),
        cmocka_unit_test(characters),
        cmocka_unit_test(json_of_any_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
