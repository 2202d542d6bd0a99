#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/memory.h"
#include "serve/config.h"

static struct cabe_serve_config config;
static struct cabe_error err;

static char *write_file(const char *text)
{
    static char path[] = "/tmp/cabe-config-XXXXXX";
    static char name[sizeof path];
    int fd;

    memcpy(name, path, sizeof path);
    fd = mkstemp(name);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    return name;
}

static enum cabe_status read_all(const char *file, char *const *environment, const struct cabe_serve_flag *flags,
                                 size_t n_flags)
{
    char *path = file ? write_file(file) : NULL;
    enum cabe_status status = cabe_serve_config_read(&config, path, environment, flags, n_flags, &err);

    if (path)
        unlink(path);
    return status;
}

static void defaults_are_the_documents(void **state)
{
    (void)state;
    assert_int_equal(read_all(NULL, NULL, NULL, 0), CABE_OK);
    assert_string_equal(config.host, "127.0.0.1");
    assert_int_equal(config.port, 11500);
    assert_int_equal(config.workers, 4);
    assert_true(config.worker_wait == 30 && config.generation_timeout == 30 && config.training_timeout == 300);
    assert_true(config.save_load_timeout == 30);
    assert_int_equal(config.max_patterns, 1000);
    assert_int_equal(config.max_backup_patterns, 100);
    assert_int_equal(config.context_window, 6);
    assert_true(config.min_generated == 0.33 && config.activation_threshold == 0.1);
    assert_true(config.frequency_normalization == 5);
    assert_int_equal(config.activation_cache, 1000);
    assert_int_equal(config.cache_key, 20);
    assert_int_equal(config.slow_ms, 100);
    assert_int_equal(config.performance_log, 0);
}

static void presets_have_the_documents_figures(void **state)
{
    static const struct {
        const char *name;
        int64_t workers, patterns, slow_ms, cache;
        int log;
    } wanted[] = {
        {"development", 2, 500, 50, 1000, 1},
        {"production", 8, 2000, 200, 1000, 0},
        {"high_performance", 16, 5000, 10, 5000, 0},
    };

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct cabe_serve_flag flag = {"preset", wanted[i].name};

        assert_int_equal(read_all(NULL, NULL, &flag, 1), CABE_OK);
        assert_string_equal(config.preset, wanted[i].name);
        assert_int_equal(config.workers, wanted[i].workers);
        assert_int_equal(config.max_patterns, wanted[i].patterns);
        assert_int_equal(config.slow_ms, wanted[i].slow_ms);
        assert_int_equal(config.activation_cache, wanted[i].cache);
        assert_int_equal(config.performance_log, wanted[i].log);
        assert_int_equal(config.max_backup_patterns, 100);
        assert_true(config.worker_wait == 30);
    }
}

static void every_variable_of_the_documents_counts(void **state)
{
    char *environment[] = {"THREAD_POOL_MAX_WORKERS=9",
                           "THREAD_POOL_TIMEOUT=31",
                           "MAX_PATTERNS_PER_QUERY=2001",
                           "MAX_BACKUP_PATTERNS=101",
                           "CONTEXT_WINDOW_SIZE=7",
                           "MIN_GENERATED_TOKENS_RATIO=0.34",
                           "ACTIVATION_CACHE_SIZE=1001",
                           "CACHE_KEY_LENGTH=21",
                           "ACTIVATION_THRESHOLD=0.2",
                           "FREQUENCY_NORMALIZATION=5.5",
                           "GENERATION_TIMEOUT=32",
                           "TRAINING_TIMEOUT=301",
                           "SAVE_LOAD_TIMEOUT=33",
                           "ENABLE_PERFORMANCE_LOGGING=true",
                           "LOG_SLOW_OPERATIONS_MS=101",
                           "ENVIRONMENT=production",
                           "CABE_PORT=8080",
                           "CABE_HOME=/nowhere",
                           "CABE_QUEUE_REQUESTS=",
                           NULL};

    (void)state;
    assert_int_equal(read_all(NULL, environment, NULL, 0), CABE_OK);
    assert_int_equal(config.workers, 9);
    assert_true(config.worker_wait == 31);
    assert_int_equal(config.max_patterns, 2001);
    assert_int_equal(config.max_backup_patterns, 101);
    assert_int_equal(config.context_window, 7);
    assert_true(config.min_generated == 0.34);
    assert_int_equal(config.activation_cache, 1001);
    assert_int_equal(config.cache_key, 21);
    assert_true(config.activation_threshold == 0.2 && config.frequency_normalization == 5.5);
    assert_true(config.generation_timeout == 32 && config.training_timeout == 301 && config.save_load_timeout == 33);
    assert_int_equal(config.performance_log, 1);
    assert_int_equal(config.slow_ms, 101);
    assert_string_equal(config.preset, "production");
    assert_int_equal(config.port, 8080);
    assert_int_equal(config.queue_requests, 256);
}

static void the_later_source_counts(void **state)
{
    const char *file = "{\"port\": 1001, \"host\": \"::1\", \"workers\": 5, \"preset\": \"production\", "
                       "\"models\": [\"a\", \"b\"], \"memory\": \"1.5G\", \"keep_alive\": \"5m\", \"slow_ms\": 7, "
                       "\"performance_log\": true, \"min_generated\": 0.5}";
    char *environment[] = {"CABE_PORT=1002", "THREAD_POOL_MAX_WORKERS=6", "CABE_WORKERS=7", NULL};
    struct cabe_serve_flag flags[] = {{"port", "1003"}, {"queue-requests", "3"}};

    (void)state;
    assert_int_equal(read_all(file, NULL, NULL, 0), CABE_OK);
    assert_int_equal(config.port, 1001);
    assert_int_equal(config.workers, 5); /* a setting goes before the preset of its own file */
    assert_int_equal(config.max_patterns, 2000);
    assert_int_equal(config.slow_ms, 7);
    assert_string_equal(config.models, "a,b");
    assert_int_equal(config.memory, UINT64_C(3) << 29);
    assert_true(config.keep_alive == 300 && config.min_generated == 0.5);
    assert_int_equal(config.performance_log, 1);
    assert_int_equal(read_all(file, environment, NULL, 0), CABE_OK);
    assert_int_equal(config.port, 1002);
    assert_int_equal(config.workers, 7); /* our own name goes before the documents' */
    assert_int_equal(read_all(file, environment, flags, 2), CABE_OK);
    assert_int_equal(config.port, 1003);
    assert_int_equal(config.queue_requests, 3);
    assert_string_equal(config.host, "::1");
    {
        struct cabe_serve_flag preset = {"preset", "development"};

        assert_int_equal(read_all(file, NULL, &preset, 1), CABE_OK);
        assert_string_equal(config.preset, "development");
        assert_int_equal(config.max_patterns, 500);
        assert_int_equal(config.workers, 5);
    }
}

static void wrong(const char *name, const char *value, const char *pattern)
{
    char flag_name[64];
    struct cabe_serve_flag flag = {name, value};

    snprintf(flag_name, sizeof flag_name, "--%s", name);
    assert_int_equal(read_all(NULL, NULL, &flag, 1), CABE_ERR_ARGUMENT);
    if (!strstr(err.text, pattern))
        fail_msg("'%s' lacks '%s'", err.text, pattern);
}

static void errors_name_the_setting_its_origin_and_its_range(void **state)
{
    char *environment[] = {"CABE_PORT=http", NULL}, *preset[] = {"ENVIRONMENT=staging", NULL};

    (void)state;
    wrong("port", "70000", "--port: port '70000', wanted a whole number from 0 to 65535");
    wrong("port", "-1", "0 to 65535");
    wrong("port", "0x10", "port '0x10'");
    wrong("port", " 1", "port ' 1'");
    wrong("port", "", "port ''");
    wrong("port", "99999999999999999999", "wanted");
    wrong("workers", "65", "1 to 64");
    wrong("workers", "0", "1 to 64");
    wrong("min-generated", "1.1", "from 0 to 1");
    wrong("min-generated", "nan", "from 0 to 1");
    wrong("min-generated", "0.5s", "from 0 to 1");
    wrong("frequency-normalization", "inf", "wanted");
    wrong("performance-log", "maybe", "true or false");
    wrong("body", "12", "at least 1K");
    wrong("body", "12Q", "a size");
    wrong("memory", "-1", "a size");
    wrong("memory", "9e30", "a size");
    wrong("drain", "-1", "a time from 0 to 86400");
    wrong("keep-alive", "-2", "a time from -1");
    wrong("preset", "fast", "development, production or high_performance");
    wrong("kv", "q5", "f32, f16 or q8");
    wrong("eviction", "fifo", "cost, lru, lfu or largest");
    wrong("tls-key", "a.pem", "tls_key without tls_certificate");
    wrong("no-such", "1", "no setting 'no-such'");
    wrong("host", "a\nb", "control character");
    assert_int_equal(read_all(NULL, environment, NULL, 0), CABE_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "CABE_PORT: port 'http'"));
    assert_int_equal(read_all(NULL, preset, NULL, 0), CABE_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "ENVIRONMENT: preset 'staging'"));
}

static void files_are_checked(void **state)
{
    static const struct {
        const char *text, *pattern;
        enum cabe_status status;
    } files[] = {
        {"{\"port\": 1,", ":1:", CABE_ERR_FORMAT},
        {"[]", "object of settings", CABE_ERR_FORMAT},
        {"{\"port\": 1, \"port\": 2}", "duplicate", CABE_ERR_FORMAT},
        {"{\"porto\": 1}", "no setting 'porto'", CABE_ERR_ARGUMENT},
        {"{\"port\": [1]}", "list", CABE_ERR_ARGUMENT},
        {"{\"port\": null}", "null or an object", CABE_ERR_ARGUMENT},
        {"{\"port\": 1.5}", "port '1.5'", CABE_ERR_ARGUMENT},
        {"{\"models\": [\"a,b\"]}", "without a comma", CABE_ERR_ARGUMENT},
        {"{\"preset\": \"x\"}", "preset 'x'", CABE_ERR_ARGUMENT},
        {"{\"preset\": 5}", "preset '5'", CABE_ERR_ARGUMENT},
        {"{\"host\": {}}", "null or an object", CABE_ERR_ARGUMENT},
    };

    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        assert_int_equal(read_all(files[i].text, NULL, NULL, 0), files[i].status);
        if (!strstr(err.text, files[i].pattern))
            fail_msg("%s: '%s' lacks '%s'", files[i].text, err.text, files[i].pattern);
    }
    assert_int_equal(cabe_serve_config_read(&config, "/nowhere/at/all", NULL, NULL, 0, &err), CABE_ERR_NOT_FOUND);
}

static void what_is_printed_can_be_read(void **state)
{
    struct cabe_serve_flag flags[] = {{"preset", "high_performance"}, {"memory", "700M"}, {"models", "a, b"},
                                      {"keep-alive", "-1"},           {"kv", "q8"},       {"eviction", "lru"},
                                      {"api-keys", "secret,other"}};
    static struct cabe_serve_config before;
    json_t *shown;
    char *text;

    (void)state;
    assert_int_equal(read_all(NULL, NULL, flags, 7), CABE_OK);
    before = config;
    shown = cabe_serve_config_json(&config);
    text = json_dumps(shown, JSON_INDENT(2));
    assert_null(strstr(text, "secret"));
    assert_int_equal(read_all(text, NULL, NULL, 0), CABE_OK);
    memset(before.api_keys, 0, sizeof before.api_keys);
    assert_memory_equal(&config, &before, sizeof before);
    cabe_free(text);
    json_decref(shown);
}

static void a_key_is_in_no_message(void **state)
{
    char keys[1200];
    struct cabe_serve_flag flag = {"api-keys", keys};

    (void)state;
    memset(keys, 's', sizeof keys);
    keys[sizeof keys - 1] = '\0';
    assert_int_equal(read_all(NULL, NULL, &flag, 1), CABE_ERR_ARGUMENT);
    assert_null(strstr(err.text, "sss"));
}

static void help_has_every_setting(void **state)
{
    char *help = cabe_serve_config_help();

    (void)state;
    assert_non_null(help);
    assert_non_null(strstr(help, "--queue-requests N "));
    assert_non_null(strstr(help, "[11500]"));
    assert_non_null(strstr(help, "(THREAD_POOL_MAX_WORKERS)"));
    cabe_free(help);
}

static void lists_are_taken_apart(void **state)
{
    const char *list = " a, ,b ,,c", *none = " , ,";
    char item[8];

    (void)state;
    assert_true(cabe_serve_list_next(&list, item, sizeof item));
    assert_string_equal(item, "a");
    assert_true(cabe_serve_list_next(&list, item, sizeof item));
    assert_string_equal(item, "b");
    assert_true(cabe_serve_list_next(&list, item, sizeof item));
    assert_string_equal(item, "c");
    assert_false(cabe_serve_list_next(&list, item, sizeof item));
    assert_false(cabe_serve_list_next(&none, item, sizeof item));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_the_documents),
        cmocka_unit_test(presets_have_the_documents_figures),
        cmocka_unit_test(every_variable_of_the_documents_counts),
        cmocka_unit_test(the_later_source_counts),
        cmocka_unit_test(errors_name_the_setting_its_origin_and_its_range),
        cmocka_unit_test(files_are_checked),
        cmocka_unit_test(what_is_printed_can_be_read),
        cmocka_unit_test(a_key_is_in_no_message),
        cmocka_unit_test(help_has_every_setting),
        cmocka_unit_test(lists_are_taken_apart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
