#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <archive.h>
#include <archive_entry.h>
#include <cmocka.h>
#include <jansson.h>
#include <xxhash.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "text/template.h"

#define TEMPLATES "../shared/data/chat-templates/llama.cpp-templates.tar.gz"

static struct cabe_template_limits limits;

static json_t *load(const char *path)
{
    json_error_t error;
    json_t *document = json_load_file(path, JSON_ALLOW_NUL, &error);

    if (!document)
        fail_msg("%s:%d: %s", path, error.line, error.text);
    return document;
}

static struct cabe_template *compile(const char *text)
{
    struct cabe_template *t;
    struct cabe_error err = {.text = ""};

    if (cabe_template_compile(&t, text, strlen(text), "test", &err) != CABE_OK)
        fail_msg("%s", err.text);
    return t;
}

/* What a template gives, to be freed, or NULL with *err; nothing half-made is left behind. */
static char *render(const char *text, size_t bytes, const json_t *variables, size_t *n,
                    struct cabe_error *err)
{
    struct cabe_template *t;
    char *out = NULL;
    enum cabe_status status = cabe_template_compile(&t, text, bytes, "test", err);

    if (status == CABE_OK)
        status = cabe_template_render(t, variables, &limits, &out, n, err);
    assert_true((status == CABE_OK) == (out != NULL));
    if (status != CABE_OK)
        assert_true(err->text[0] != '\0' && err->status == status);
    for (size_t i = 0, k; status != CABE_OK && err->text[i]; i += k) {
        k = cabe_utf8_length(err->text + i, strlen(err->text + i));
        assert_true(k > 0);
    }
    cabe_template_close(t);
    return out;
}

static void check(const json_t *template, const json_t *variables, const json_t *wanted, const char *what)
{
    struct cabe_error err = {.text = ""};
    size_t n = 0;
    char *got = render(json_string_value(template), json_string_length(template), variables, &n, &err);

    if (json_is_null(wanted) != (got == NULL))
        fail_msg("%s: %.200s\n%s", what, json_string_value(template), got ? got : err.text);
    if (got && (n != json_string_length(wanted) || memcmp(got, json_string_value(wanted), n) != 0))
        fail_msg("%s: %.200s\nwanted %s\ngot    %s", what, json_string_value(template),
                 json_string_value(wanted), got);
    cabe_free(got);
}

static void test_language(void **state)
{
    json_t *document = load("tests/golden/templates.json"), *pair;
    const json_t *values = json_object_get(document, "values");
    size_t i;

    (void)state;
    json_array_foreach(json_object_get(document, "language"), i, pair)
        check(json_array_get(pair, 0), values, json_array_get(pair, 1), "language");
    assert_true(i > 150);
    json_decref(document);
}

/* Conversation k of the hash file's conversations and extras [begin, end). */
static json_t *conversation(const json_t *hashes, size_t begin, size_t end, size_t k)
{
    json_t *variables = json_deep_copy(json_object_get(hashes, "tokens"));

    json_object_set(variables, "messages",
                    json_array_get(json_object_get(hashes, "conversations"), k / (end - begin)));
    json_object_update(variables,
                       json_array_get(json_object_get(hashes, "extras"), begin + k % (end - begin)));
    return variables;
}

static void test_families(void **state)
{
    json_t *document = load("tests/golden/templates.json"),
           *hashes = load("tests/golden/template_hashes.json"), *family;
    const char *name;

    (void)state;
    json_object_foreach(json_object_get(document, "families"), name, family)
    {
        const json_t *results = json_object_get(family, "results");

        assert_int_equal(json_array_size(results),
                         3 * json_array_size(json_object_get(hashes, "conversations")));
        for (size_t k = 0; k < json_array_size(results); k++) {
            json_t *variables = conversation(hashes, 1, 4, k);

            check(json_object_get(family, "template"), variables, json_array_get(results, k), name);
            json_decref(variables);
        }
    }
    json_decref(document);
    json_decref(hashes);
}

/* One hash of what a template gives for all conversations. */
static uint64_t hash_all(const json_t *hashes, const char *text, size_t bytes)
{
    size_t n_extras = json_array_size(json_object_get(hashes, "extras")),
           n = n_extras * json_array_size(json_object_get(hashes, "conversations"));
    XXH3_state_t *state = XXH3_createState();
    uint64_t hash;

    XXH3_64bits_reset(state);
    for (size_t k = 0; k < n; k++) {
        json_t *variables = conversation(hashes, 0, n_extras, k);
        struct cabe_error err = {.text = ""};
        size_t out_bytes = 0;
        char *out = render(text, bytes, variables, &out_bytes, &err);
        uint64_t length = out ? out_bytes : UINT64_MAX;

        XXH3_64bits_update(state, &length, sizeof length);
        if (out)
            XXH3_64bits_update(state, out, out_bytes);
        cabe_free(out);
        json_decref(variables);
    }
    hash = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return hash;
}

/* The templates of real models, which are not ours to copy: what jinja2 gives for them is known by hash. */
static void test_real(void **state)
{
    json_t *hashes = load("tests/golden/template_hashes.json");
    const json_t *files = json_object_get(hashes, "files");
    struct archive *tar = archive_read_new();
    struct archive_entry *entry;
    static char text[1 << 16];
    int n_seen = 0;

    (void)state;
    archive_read_support_filter_all(tar);
    archive_read_support_format_all(tar);
    if (archive_read_open_filename(tar, TEMPLATES, 65536) != ARCHIVE_OK) {
        printf("skip: the templates of real models: no %s\n", TEMPLATES);
        archive_read_free(tar);
        json_decref(hashes);
        skip();
    }
    while (archive_read_next_header(tar, &entry) == ARCHIVE_OK) {
        const char *path = archive_entry_pathname(entry),
                   *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
        const char *wanted = json_string_value(json_object_get(files, name));
        la_ssize_t n = archive_read_data(tar, text, sizeof text);
        char got[24];

        if (!wanted)
            continue;
        assert_true(n > 0 && (size_t)n < sizeof text);
        snprintf(got, sizeof got, "%016llx", (unsigned long long)hash_all(hashes, text, (size_t)n));
        if (strcmp(got, wanted) != 0)
            fail_msg("%s: %s, wanted %s", name, got, wanted);
        n_seen++;
    }
    archive_read_free(tar);
    assert_int_equal(n_seen, json_object_size(files));
    json_decref(hashes);
}

/* Errors say where and what. */
static void test_errors(void **state)
{
    static const struct {
        const char *text;
        enum cabe_status status;
        const char *message;
    } cases[] = {
        {"a\nb {{ x.y.z }}", CABE_ERR_FORMAT, "test: line 2, column 7: 'x' is undefined"},
        {"{{ d.zz.y }}", CABE_ERR_FORMAT, "'dict object' has no attribute 'zz'"},
        {"{% if x %}\n{% endfor %}", CABE_ERR_FORMAT, "test: line 2, column 4: \"endfor\", wanted"},
        {"{% if x %}\n", CABE_ERR_FORMAT, "the end of the template, wanted endif"},
        {"{{ 'abc }}", CABE_ERR_FORMAT, "line 1, column 4: a string without an end"},
        {"\xC3\xA9\xC3\xA9 {{ 1 + }}", CABE_ERR_FORMAT, "line 1, column 11: \"}}\", wanted an expression"},
        {"{{ (1] }}", CABE_ERR_FORMAT, "unexpected ']', wanted ')'"},
        {"{{ 1 < 'a' }}", CABE_ERR_FORMAT, "'<' not supported between instances of 'int' and 'str'"},
        {"{{ 'a' + 1 }}", CABE_ERR_FORMAT, "can only concatenate str (not \"int\") to str"},
        {"{{ d|nothing }}", CABE_ERR_FORMAT, "no filter named 'nothing'"},
        {"{{ d is nothing }}", CABE_ERR_FORMAT, "no test named 'nothing'"},
        {"{{ l.append(1) }}", CABE_ERR_FORMAT, "access to attribute 'append' of 'list' object is unsafe"},
        {"{{ raise_exception('turns must alternate') }}", CABE_ERR_ARGUMENT, "test: turns must alternate"},
        {"{% include 'x' %}", CABE_ERR_UNSUPPORTED, "the tag \"include\" is not supported"},
        {"{{ l|groupby('a') }}", CABE_ERR_UNSUPPORTED, "the filter 'groupby' is not supported"},
        {"{{ 9223372036854775807 + 1 }}", CABE_ERR_UNSUPPORTED, "an integer of more than 64 bits"},
        {"a\xFFz", CABE_ERR_FORMAT, "test: byte 1 is not UTF-8"},
    };
    json_t *variables = json_pack("{s:{s:i},s:[i]}", "d", "x", 1, "l", 1);

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cabe_error err = {.text = ""};
        size_t n;

        assert_null(render(cases[i].text, strlen(cases[i].text), variables, &n, &err));
        if (err.status != cases[i].status || !strstr(err.text, cases[i].message))
            fail_msg("%s: %s", cases[i].text, err.text);
    }
    json_decref(variables);
}

/* Templates that would never end, or take everything. */
static void test_limits(void **state)
{
    static const char *const endless[] = {
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{{ f(n + 1) + f(n + 1) }}{% endmacro %}{{ f(1) }}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for a in range(100) %}{% set ns.s = ns.s + ns.s %}{% "
        "endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for a in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% for a in range(100000) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' * 1000 }}{% endfor %}",
        "{{ 'x' * 1000000000000 }}",
        "{{ [1] * 1000000000000 }}",
        "{{ range(1000000000) }}",
        "{% set ns = namespace() %}{% set ns.self = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns.a == [ns] }}{{ ns.a }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% set ns = namespace(s='a') %}{% for i in range(22) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"
        "{% for i in range(1000) %}{{ ns.s.rfind('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab') }}{% endfor %}",
        "{{ '%1000000s' % 'a' }}{{ 'a'.center(1000000000) }}",
    };
    json_t *variables = json_object();
    char deep[4096] = "{{ ", *end = deep + 3;
    struct cabe_error err;
    size_t n;

    (void)state;
    for (size_t i = 0; i < sizeof endless / sizeof endless[0]; i++) {
        clock_t begin = clock();

        assert_null(render(endless[i], strlen(endless[i]), variables, &n, &err));
        if (err.status != CABE_ERR_LIMIT)
            fail_msg("%s: %s", endless[i], err.text);
        assert_true((double)(clock() - begin) / CLOCKS_PER_SEC < 60);
    }
    for (int i = 0; i < 1000; i++)
        *end++ = '(';
    assert_null(render(deep, strlen(deep), variables, &n, &err)); /* brackets first */
    assert_int_equal(err.status, CABE_ERR_FORMAT);
    for (end = deep + 3; end < deep + 3000; end += 4)
        memcpy(end, "not ", 5);
    assert_null(render(deep, strlen(deep), variables, &n, &err));
    assert_int_equal(err.status, CABE_ERR_LIMIT);
    json_decref(variables);
}

/* Which bytes came from outside, through what templates do to them. */
static void test_marks(void **state)
{
    static const struct {
        const char *text, *wanted; /* in `wanted` [ and ] stand around what is from outside */
    } cases[] = {
        {"<{{ m.content }}>", "<[  Ab\n<x> ]>"},
        {"<{{ m.content|trim }}>", "<[Ab\n<x>]>"},
        {"{{ '<' + m.content.strip() + '>' }}", "<[Ab\n<x>]>"},
        {"{{ m.content.split('b')[0] ~ '-' ~ m.content[2:4] }}", "[  A]-[Ab]"},
        {"{{ m.content|tojson }}", "\"[  Ab]\\n[<x> ]\""},
        {"{{ m.content|upper|trim }}{{ m.content.lower()[2] }}", "[AB\n<X>a]"},
        {"{{ m.content|replace('A', 'yy')|trim }}", "yy[b\n<x>]"},
        {"{{ m.content|escape|trim }}", "[Ab\nx ]"},
        {"{{ [m.content, 'in', m.content]|join(',')|length }}", "22"},
        {"{% for c in m.content|trim %}{{ c }}.{% endfor %}", "[A].[b].[\n].[<].[x].[>]."},
        {"{{ m.content|trim|reverse }}|{{ (m.content|trim)[::-1] }}", "[>x<\nbA]|[>x<\nbA]"},
        {"{% set x %}({{ m.content|trim }}){% endset %}{{ x|upper }}", "([AB\n<X>])"},
        {"{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(m.content|trim)|title }}", "<[Ab\n<X>]>"},
        {"{{ '%s|%5s' % (m.content|trim, 'in') }}{{ '{}'.format(m.content[2]) }}", "[Ab\n<x>]|   in[A]"},
        {"{{ m.role }}{{ m.odd }}{{ bos }}", "user[<odd>]<s>"},
        {"{{ m|tojson }}",
         "{\"[content]\": \"[  Ab]\\n[<x> ]\", \"[role]\": \"user\", \"[odd]\": \"[<odd>]\"}"},
        {"{{ {'a': m.content|trim} }}", "{'a': '[Ab]\\n[<x>]'}"},
        {"{{ m.content|trim|indent(2, true) }}", "  [Ab]\n  [<x>]"},
        {"{{ m.accent|upper }}", "[\xC3\x89T\xC3\x89]"},
    };
    const char *const outside[] = {"m", NULL};
    json_t *variables = json_pack("{s:{s:s,s:s,s:s},s:s}", "m", "content", "  Ab\n<x> ", "role", "user",
                                  "odd", "<odd>", "bos", "<s>");

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cabe_template *t = compile(cases[i].text);
        struct cabe_template_result result;
        struct cabe_error err = {.text = ""};
        char got[400];
        size_t n = 0, range = 0;

        if (strstr(cases[i].text, "accent"))
            json_object_set_new(json_object_get(variables, "m"), "accent", json_string("\xC3\xA9t\xC3\xA9"));
        if (cabe_template_render_marked(t, variables, outside, NULL, &result, &err) != CABE_OK)
            fail_msg("%s", err.text);
        for (size_t k = 0; k <= result.bytes; k++) {
            if (range < result.n_outside && result.outside[range].end == k) {
                got[n++] = ']';
                range++;
            }
            if (range < result.n_outside && result.outside[range].begin == k)
                got[n++] = '[';
            if (k < result.bytes)
                got[n++] = result.text[k];
        }
        got[n] = '\0';
        if (strstr(cases[i].text, "escape")) /* its own characters are inside */
            assert_string_equal(got, "[Ab\n]&lt;[x]&gt;");
        else
            assert_string_equal(got, cases[i].wanted);
        cabe_template_result_clear(&result);
        cabe_template_close(t);
    }
    json_decref(variables);
}

/* The n-th allocation fails, for every n: an error, and nothing is leaked (the sanitizer looks). */
static void test_no_memory(void **state)
{
    json_t *document = load("tests/golden/templates.json"),
           *hashes = load("tests/golden/template_hashes.json");
    const json_t *template =
        json_object_get(json_object_get(json_object_get(document, "families"), "qwen"), "template");
    json_t *variables = conversation(hashes, 0, 6, 4 * 6 + 2);
    struct cabe_error err;
    char *out = NULL;
    size_t bytes;

    (void)state;
    for (uint64_t n = 1; !out && n < 1000; n++) {
        cabe_memory_fail_at(n);
        out = render(json_string_value(template), json_string_length(template), variables, &bytes, &err);
        if (!out)
            assert_int_equal(err.status, CABE_ERR_OOM);
    }
    cabe_memory_fail_at(0);
    assert_non_null(out);
    cabe_free(out);
    json_decref(variables);
    json_decref(document);
    json_decref(hashes);
}

static int set_up(void **state)
{
    (void)state;
    setenv("TZ", "UTC", 1);
    tzset();
    cabe_template_limits_default(&limits);
    limits.now = 1700000000;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_language),  cmocka_unit_test(test_families), cmocka_unit_test(test_real),
        cmocka_unit_test(test_errors),    cmocka_unit_test(test_limits),   cmocka_unit_test(test_marks),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, set_up, NULL);
}
