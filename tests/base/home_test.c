#include "base/home.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/cabe_home_XXXXXX";

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

static void clear(void)
{
    unsetenv("CABE_HOME");
    unsetenv("XDG_DATA_HOME");
    unsetenv("XDG_CACHE_HOME");
    unsetenv("XDG_STATE_HOME");
    setenv("HOME", "/home/nobody-here", 1);
}

static void test_paths(void **state)
{
    char path[CABE_HOME_PATH_MAX];
    struct cabe_error err;

    (void)state;
    clear();
    assert_int_equal(cabe_home_path(path, CABE_HOME_MODELS, &err), CABE_OK);
    assert_string_equal(path, "/home/nobody-here/.local/share/cabe/models");
    assert_int_equal(cabe_home_path(path, CABE_HOME_CACHE, &err), CABE_OK);
    assert_string_equal(path, "/home/nobody-here/.cache/cabe");
    setenv("XDG_STATE_HOME", "/x", 1);
    assert_int_equal(cabe_home_path(path, CABE_HOME_STATE, &err), CABE_OK);
    assert_string_equal(path, "/x/cabe");
    setenv("XDG_STATE_HOME", "relative", 1);
    assert_int_equal(cabe_home_path(path, CABE_HOME_STATE, &err), CABE_OK);
    assert_string_equal(path, "/home/nobody-here/.local/state/cabe");
    setenv("CABE_HOME", "/c", 1);
    assert_int_equal(cabe_home_path(path, CABE_HOME_DATA, &err), CABE_OK);
    assert_string_equal(path, "/c/data");
    clear();
}

static void test_created_private(void **state)
{
    char path[CABE_HOME_PATH_MAX], home[128];
    struct cabe_error err;
    struct stat info;

    (void)state;
    clear();
    snprintf(home, sizeof home, "%s/a/b", folder);
    setenv("CABE_HOME", home, 1);
    assert_int_equal(cabe_home_dir(path, CABE_HOME_MODELS, &err), CABE_OK);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0700);
    assert_int_equal(cabe_home_dir(path, CABE_HOME_MODELS, &err), CABE_OK);
    assert_int_equal(cabe_home_file(path, CABE_HOME_CACHE, "deep/er/file.json", &err), CABE_OK);
    assert_non_null(strstr(path, "/a/b/cache/deep/er/file.json"));
    *strrchr(path, '/') = '\0';
    assert_int_equal(stat(path, &info), 0);
    clear();
}

static void test_refusals(void **state)
{
    char path[CABE_HOME_PATH_MAX], longer[2 * CABE_HOME_PATH_MAX], file[128];
    struct cabe_error err;
    FILE *stream;

    (void)state;
    clear();
    memset(longer, 'a', sizeof longer - 1);
    longer[0] = '/';
    longer[sizeof longer - 1] = '\0';
    setenv("CABE_HOME", longer, 1);
    assert_int_equal(cabe_home_path(path, CABE_HOME_MODELS, &err), CABE_ERR_LIMIT);
    assert_int_equal(cabe_home_file(path, CABE_HOME_MODELS, "x", &err), CABE_ERR_LIMIT);

    snprintf(file, sizeof file, "%s/plain", folder);
    stream = fopen(file, "w");
    assert_non_null(stream);
    fclose(stream);
    assert_int_equal(cabe_make_dirs(file, 0700, &err), CABE_ERR_IO);
    assert_non_null(strstr(err.text, "plain"));
    setenv("CABE_HOME", file, 1);
    assert_int_not_equal(cabe_home_dir(path, CABE_HOME_MODELS, &err), CABE_OK);
    assert_int_equal(cabe_home_file(path, CABE_HOME_MODELS, longer, &err), CABE_ERR_LIMIT);
    clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_created_private),
        cmocka_unit_test(test_refusals),
    };

    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
