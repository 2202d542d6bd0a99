#include "base/log.h"

#include <locale.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/memory.h"

struct sink {
    char *text;
    size_t n;
    FILE *stream;
    struct cabe_log *log;
};

static void open_sink(struct sink *sink, enum cabe_log_form form, enum cabe_log_level level)
{
    sink->text = NULL;
    sink->n = 0;
    sink->stream = open_memstream(&sink->text, &sink->n);
    assert_non_null(sink->stream);
    assert_int_equal(cabe_log_open(&sink->log, sink->stream, form, level, NULL), CABE_OK);
}

static void close_sink(struct sink *sink)
{
    cabe_log_close(sink->log);
    fclose(sink->stream);
    free(sink->text);
}

/* "2026-11-21T03:42:06.123Z" */
static void assert_stamp(const char *text)
{
    static const char shape[] = "dddd-dd-ddTdd:dd:dd.dddZ";

    for (size_t i = 0; i < sizeof shape - 1; i++)
        if (shape[i] == 'd')
            assert_true(text[i] >= '0' && text[i] <= '9');
        else
            assert_int_equal(text[i], shape[i]);
}

static void json_lines(void **state)
{
    struct sink sink;
    json_error_t why;
    json_t *line;

    (void)state;
    open_sink(&sink, CABE_LOG_JSON, CABE_LOG_DEBUG);
    cabe_log(sink.log, CABE_LOG_WARN, "model_loaded", "{s:s,s:I,s:f,s:b,s:n,s:[i,i],s:{s:s},s:s}", "model",
             "a \"b\"\n\x1b[31m\x7f", "bytes", (json_int_t)91000000, "seconds", 0.25, "warm", 1, "none",
             "list", 1, 2, "inner", "k", "v\xC2\x85", "level", "forged");
    assert_non_null(sink.text);
    assert_int_equal(sink.text[sink.n - 1], '\n');
    assert_null(memchr(sink.text, '\n', sink.n - 1));
    for (size_t i = 0; i < sink.n - 1; i++)
        assert_true((unsigned char)sink.text[i] >= ' ' && sink.text[i] != 0x7F);
    line = json_loads(sink.text, JSON_REJECT_DUPLICATES, &why);
    assert_non_null(line);
    assert_stamp(json_string_value(json_object_get(line, "time")));
    assert_string_equal(json_string_value(json_object_get(line, "level")), "warn");
    assert_string_equal(json_string_value(json_object_get(line, "event")), "model_loaded");
    assert_string_equal(json_string_value(json_object_get(line, "model")), "a \"b\"\n\x1b[31m\x7f");
    assert_int_equal(json_integer_value(json_object_get(line, "bytes")), 91000000);
    assert_true(json_real_value(json_object_get(line, "seconds")) == 0.25);
    assert_true(json_is_true(json_object_get(line, "warm")));
    assert_true(json_is_null(json_object_get(line, "none")));
    assert_int_equal(json_array_size(json_object_get(line, "list")), 2);
    assert_string_equal(json_string_value(json_object_get(json_object_get(line, "inner"), "k")), "v\xC2\x85");
    json_decref(line);
    close_sink(&sink);
}

static void human_lines(void **state)
{
    struct sink sink;

    (void)state;
    open_sink(&sink, CABE_LOG_HUMAN, CABE_LOG_INFO);
    cabe_log(sink.log, CABE_LOG_DEBUG, "unseen", NULL);
    assert_int_equal(sink.n, 0);
    cabe_log(sink.log, CABE_LOG_INFO, "ready", "{s:s,s:s,s:s,s:i,s:f}", "model", "e5-small", "path",
             "/a b/\xC3\xB1\x1b=", "empty", "", "n", -3, "gb", 1.5);
    assert_stamp(sink.text);
    assert_string_equal(sink.text + 24,
                        " info ready model=e5-small path=\"/a b/\xC3\xB1\\u001b=\" empty=\"\" n=-3 gb=1.5\n");
    close_sink(&sink);
}

static void what_cannot_be_packed(void **state)
{
    struct sink sink;

    (void)state;
    open_sink(&sink, CABE_LOG_HUMAN, CABE_LOG_DEBUG);
    cabe_log(sink.log, CABE_LOG_ERROR, "odd", "{s:s}", "name", "\xFF\xFE");
    assert_non_null(strstr(sink.text, " error odd fields_lost="));
    cabe_log(sink.log, CABE_LOG_ERROR, "mended", "{s:o}", "name",
             cabe_json_text("a\xFF"
                            "b",
                            3));
    assert_non_null(strstr(sink.text, " error mended name=a\xEF\xBF\xBD"
                                      "b\n"));
    cabe_log(sink.log, CABE_LOG_ERROR, "bare", NULL);
    assert_non_null(strstr(sink.text, " error bare\n"));
    cabe_log(NULL, CABE_LOG_ERROR, "nowhere", "{s:s}", "a", "b");
    cabe_log(NULL, CABE_LOG_ERROR, "nowhere", "{s:o}", "a", json_string("taken all the same"));
    assert_false(cabe_log_wants(NULL, CABE_LOG_ERROR));
    close_sink(&sink);
    cabe_log_close(NULL);
}

static void a_locale_with_commas(void **state)
{
    struct sink sink;

    (void)state;
    if (!setlocale(LC_NUMERIC, "de_DE.UTF-8") && !setlocale(LC_NUMERIC, "es_ES.UTF-8")) {
        printf("skip: no locale with a decimal comma on this machine\n");
        skip();
    }
    open_sink(&sink, CABE_LOG_HUMAN, CABE_LOG_DEBUG);
    cabe_log(sink.log, CABE_LOG_INFO, "x", "{s:f}", "gb", 1.5);
    setlocale(LC_NUMERIC, "C");
    assert_non_null(strstr(sink.text, "gb=1.5\n"));
    close_sink(&sink);
}

#define N_LINES 500

static void *write_lines(void *arg)
{
    char text[200];

    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    for (int i = 0; i < N_LINES; i++)
        cabe_log(arg, CABE_LOG_INFO, "line", "{s:s}", "text", text);
    return NULL;
}

static void lines_are_whole(void **state)
{
    struct sink sink;
    pthread_t threads[4];
    int n = 0;

    (void)state;
    open_sink(&sink, CABE_LOG_JSON, CABE_LOG_DEBUG);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, sink.log), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (char *at = sink.text, *end; (end = strchr(at, '\n')); at = end + 1, n++) {
        assert_int_equal(end - at, (ptrdiff_t)strcspn(sink.text, "\n"));
        assert_memory_equal(at, "{\"time\"", 7);
    }
    assert_int_equal(n, 4 * N_LINES);
    close_sink(&sink);
}

/* Every allocation of a line refused in turn, jansson's too: a line is written all the same. */
static void no_memory(void **state)
{
    static const enum cabe_log_form forms[] = {CABE_LOG_HUMAN, CABE_LOG_JSON};
    struct cabe_log *log;
    struct cabe_error err;

    (void)state;
    cabe_memory_fail_at(1);
    assert_int_equal(cabe_log_open(&log, stderr, CABE_LOG_JSON, CABE_LOG_INFO, &err), CABE_ERR_OOM);
    assert_null(log);
    json_set_alloc_funcs(cabe_malloc, cabe_free);
    for (int f = 0; f < 2; f++)
        for (uint64_t n = 1;; n++) {
            struct sink sink;
            uint64_t asked;

            open_sink(&sink, forms[f], CABE_LOG_DEBUG);
            asked = cabe_memory_count();
            cabe_memory_fail_at(n);
            cabe_log(sink.log, CABE_LOG_INFO, "event", "{s:s,s:i,s:o}", "a", "some text", "b", 5, "c",
                     cabe_json_text("\xFF", 1));
            cabe_memory_fail_at(0);
            asked = cabe_memory_count() - asked;
            assert_true(sink.n > 0 && sink.text[sink.n - 1] == '\n');
            assert_non_null(strstr(sink.text, asked >= n || forms[f] ? "" : "c=\xEF\xBF\xBD"));
            close_sink(&sink);
            if (asked < n)
                break;
        }
    json_set_alloc_funcs(malloc, free);
}

static void a_stream_that_is_full(void **state)
{
    FILE *full = fopen("/dev/full", "w");
    struct cabe_log *log;

    (void)state;
    assert_non_null(full);
    assert_int_equal(cabe_log_open(&log, full, CABE_LOG_JSON, CABE_LOG_INFO, NULL), CABE_OK);
    cabe_log(log, CABE_LOG_INFO, "event", NULL);
    cabe_log_close(log);
    fclose(full);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_lines),
        cmocka_unit_test(human_lines),
        cmocka_unit_test(what_cannot_be_packed),
        cmocka_unit_test(a_locale_with_commas),
        cmocka_unit_test(lines_are_whole),
        cmocka_unit_test(no_memory),
        cmocka_unit_test(a_stream_that_is_full),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
