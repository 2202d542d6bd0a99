#include "serve/analyze_form.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct seen {
    int n;
    struct cabe_form_part part[8];
};

static enum cabe_status see(void *self, const struct cabe_form_part *part, struct cabe_error *err)
{
    struct seen *seen = self;

    (void)err;
    if (seen->n < 8)
        seen->part[seen->n] = *part;
    seen->n++;
    return CABE_OK;
}

static enum cabe_status form(const char *type, const char *body, struct seen *seen, struct cabe_error *err)
{
    memset(seen, 0, sizeof *seen);
    return cabe_form_read(type, body, strlen(body), see, seen, err);
}

static void is_part(const struct seen *seen, int i, const char *name, const char *filename, const char *bytes)
{
    assert_true(i < seen->n);
    assert_string_equal(seen->part[i].name, name);
    assert_string_equal(seen->part[i].filename, filename);
    assert_int_equal(seen->part[i].n, strlen(bytes));
    assert_memory_equal(seen->part[i].bytes, bytes, strlen(bytes));
}

#define TYPE "multipart/form-data; boundary=xYz"
#define PART(name, more, bytes) "--xYz\r\nContent-Disposition: form-data; name=\"" name "\"" more "\r\n\r\n" bytes "\r\n"

static void test_forms(void **state)
{
    struct cabe_error err;
    struct seen seen;

    (void)state;
    assert_int_equal(form(TYPE,
                          PART("model", "", "tiny") PART("file", "; filename=\"C:\\texts\\a \\\"b\\\".txt\"", "one\r\ntwo")
                              PART("empty", "", "") PART("f2", "; filename=../../etc/passwd", "--xY\r\n--") "--xYz--\r\n",
                          &seen, &err),
                     CABE_OK);
    assert_int_equal(seen.n, 4);
    is_part(&seen, 0, "model", "", "tiny");
    is_part(&seen, 1, "file", "a \"b\".txt", "one\r\ntwo");
    is_part(&seen, 2, "empty", "", "");
    is_part(&seen, 3, "f2", "passwd", "--xY\r\n--");
    assert_int_equal(form("multipart/form-data; charset=utf-8; BOUNDARY=\"a b\"",
                          "--a b\r\ncontent-type: text/plain\r\nCONTENT-disposition: form-data; filename=\"x;name=y\"; "
                          "name=z\r\n\r\nq\r\n--a b--",
                          &seen, &err),
                     CABE_OK);
    is_part(&seen, 0, "z", "x;name=y", "q");
    assert_int_equal(form(TYPE, "--xYz--", &seen, &err), CABE_OK);
    assert_int_equal(seen.n, 0);
}

static void test_broken_forms(void **state)
{
    static const char *const bodies[] = {
        "",
        "--",
        "xYz",
        "--xYz",
        "--xYz\r",
        "--xYz\r\n",
        "--xYz\r\n\r\n\r\n",
        "--xYz\r\n\r\nabc\r\n--xYz--",
        "--xYz\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--xYz--",
        "--xYz\r\nContent-Disposition: form-data; name=\"a\r\n\r\nabc\r\n--xYz--",
        "--xYz\r\nContent-Disposition: form-data; name=a\r\n\r\nabc",
        "--xYz\r\nContent-Disposition: form-data; name=a\r\n\r\nabc\r\n--xY",
        "--xYz\r\nContent-Disposition: form-data; name=a\r\n\r\nabc\r\n--xYzz",
        "--xYz\r\nContent-Disposition: form-data; name=a\r\nabc\r\n--xYz--",
        "preamble\r\n--xYz--",
    };
    struct cabe_error err;
    struct seen seen;
    char *many;

    (void)state;
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
        if (form(TYPE, bodies[i], &seen, &err) != CABE_ERR_FORMAT)
            fail_msg("body %zu was taken", i);
    assert_int_equal(form("multipart/form-data", "--xYz--", &seen, &err), CABE_ERR_FORMAT);
    assert_int_equal(form("multipart/form-data; boundary=", "----", &seen, &err), CABE_ERR_FORMAT);
    assert_int_equal(form("multipart/form-data; boundary=\"x", "--x--", &seen, &err), CABE_ERR_FORMAT);
    assert_int_equal(form("multipart/form-data; boundary="
                          "0123456789012345678901234567890123456789012345678901234567890123456789012345",
                          "--0--", &seen, &err),
                     CABE_ERR_FORMAT);
    many = calloc(1, 400 * sizeof PART("a", "", "b"));
    for (int i = 0; i < 300; i++)
        strcat(many, PART("a", "", "b"));
    strcat(many, "--xYz--");
    assert_int_equal(form(TYPE, many, &seen, &err), CABE_ERR_LIMIT);
    free(many);
}

/* Every cut and every changed byte: an answer, and never a byte outside (under a sanitizer, or a page that is not there). */
static void test_mutations(void **state)
{
    static const char body[] =
        PART("model", "", "tiny") PART("file", "; filename=\"a.txt\"", "one\r\ntwo") PART("e", "", "") "--xYz--\r\n";
    static const char odd[] = "\r\n-\";=: \\xX\0\xff";
    struct cabe_error err;
    struct seen seen;

    (void)state;
    for (size_t n = 0; n < sizeof body; n++) {
        char *copy = malloc(n + 1); /* exactly as long as what is read */

        memcpy(copy, body, n);
        (void)!cabe_form_read(TYPE, copy, n, see, &seen, &err);
        for (size_t i = 0; i < n; i++) {
            copy[i] = odd[(i + n) % (sizeof odd - 1)];
            (void)!cabe_form_read(TYPE, copy, n, see, &seen, &err);
            copy[i] = body[i];
        }
        free(copy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_broken_forms),
        cmocka_unit_test(test_mutations),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
