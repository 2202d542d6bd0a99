#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "format/npy.h"
#include "format_files.h"

static char folder[64], path[128];

static int set_up(void **state)
{
    (void)state;
    temp_folder(folder);
    snprintf(path, sizeof path, "%s/out.npy", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    remove_folder(folder);
    return 0;
}

static int n_files(void)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    int n = 0;

    while ((entry = readdir(dir)))
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(dir);
    return n;
}

static void round_trips(void **state)
{
    (void)state;
    for (int type = CABE_NPY_F32; type <= CABE_NPY_I8; type++) {
        struct cabe_npy_writer *writer;
        struct cabe_npy *npy;
        uint8_t rows[7 * 12], back[7 * 12];
        uint64_t bytes = cabe_npy_item_bytes((enum cabe_npy_type)type);

        for (size_t i = 0; i < sizeof rows; i++)
            rows[i] = (uint8_t)(i * 37);
        assert_int_equal(cabe_npy_create(&writer, path, (enum cabe_npy_type)type, 3, NULL), CABE_OK);
        assert_int_equal(cabe_npy_write(writer, rows, 5, NULL), CABE_OK);
        assert_int_equal(cabe_npy_write(writer, rows + 5 * 3 * bytes, 2, NULL), CABE_OK);
        assert_int_equal(cabe_npy_write(writer, rows, 0, NULL), CABE_OK);
        assert_int_equal(cabe_npy_finish(writer, NULL), CABE_OK);
        assert_int_equal(n_files(), 1);
        assert_int_equal(cabe_npy_open(&npy, path, NULL), CABE_OK);
        assert_int_equal(cabe_npy_type(npy), type);
        assert_int_equal(cabe_npy_n_rows(npy), 7);
        assert_int_equal(cabe_npy_n_columns(npy), 3);
        assert_int_equal(cabe_npy_read(npy, 1, 6, back, NULL), CABE_OK);
        assert_memory_equal(back, rows + 3 * bytes, 6 * 3 * bytes);
        assert_int_equal(cabe_npy_read(npy, 2, 6, back, NULL), CABE_ERR_ARGUMENT);
        assert_int_equal(cabe_npy_read(npy, UINT64_MAX, 2, back, NULL), CABE_ERR_ARGUMENT);
        cabe_npy_close(npy);
    }
}

/* The bytes that numpy itself writes for np.zeros((2, 3), '<f4'), header text first. */
static void has_numpys_header(void **state)
{
    static const char text[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
    struct cabe_npy_writer *writer;
    float rows[6] = {0};
    char bytes[152];
    FILE *file;

    (void)state;
    assert_int_equal(cabe_npy_create(&writer, path, CABE_NPY_F32, 3, NULL), CABE_OK);
    assert_int_equal(cabe_npy_write(writer, rows, 2, NULL), CABE_OK);
    assert_int_equal(cabe_npy_finish(writer, NULL), CABE_OK);
    file = fopen(path, "rb");
    assert_int_equal(fread(bytes, 1, sizeof bytes, file), sizeof bytes);
    assert_int_equal(fgetc(file), EOF);
    fclose(file);
    assert_memory_equal(bytes, "\x93NUMPY\1\0\x76\0", 10);
    assert_memory_equal(bytes + 10, text, sizeof text - 1);
    for (size_t i = 10 + sizeof text - 1; i < 127; i++)
        assert_int_equal(bytes[i], ' ');
    assert_int_equal(bytes[127], '\n');
}

static void leaves_nothing_of_what_is_discarded(void **state)
{
    struct cabe_npy_writer *writer;
    struct cabe_error err;
    float row[3] = {1, 2, 3};

    (void)state;
    write_file(path, "old", 3);
    assert_int_equal(cabe_npy_create(&writer, path, CABE_NPY_F32, 3, NULL), CABE_OK);
    assert_int_equal(cabe_npy_write(writer, row, 1, NULL), CABE_OK);
    assert_int_equal(n_files(), 2);
    cabe_npy_discard(writer);
    assert_int_equal(n_files(), 1);
    assert_int_equal(cabe_npy_create(&writer, "/nowhere/x.npy", CABE_NPY_F32, 3, &err), CABE_ERR_NOT_FOUND);
    assert_int_not_equal(cabe_npy_create(&writer, folder, CABE_NPY_F32, 3, &err), CABE_OK);
    /* A device is written to as it is; the count of rows, which comes last, cannot be put at its beginning. */
    assert_int_equal(cabe_npy_create(&writer, "/dev/null", CABE_NPY_F32, 3, &err), CABE_OK);
    assert_int_equal(cabe_npy_finish(writer, &err), CABE_ERR_UNSUPPORTED);
}

static void survives_refused_memory(void **state)
{
    enum cabe_status status = CABE_ERR_OOM;

    (void)state;
    for (uint64_t n = 1; status != CABE_OK; n++) {
        struct cabe_npy_writer *writer = NULL;
        struct cabe_npy *npy = NULL;
        float row[3] = {1, 2, 3};

        assert_true(n < 100);
        cabe_memory_fail_at(n);
        status = cabe_npy_create(&writer, path, CABE_NPY_F32, 3, NULL);
        if (status == CABE_OK)
            status = cabe_npy_write(writer, row, 1, NULL);
        if (status == CABE_OK)
            status = cabe_npy_finish(writer, NULL);
        if (status == CABE_OK)
            status = cabe_npy_open(&npy, path, NULL);
        cabe_memory_fail_at(0);
        assert_true(status == CABE_OK || status == CABE_ERR_OOM);
        assert_true(n_files() <= 1);
        cabe_npy_close(npy);
    }
}

static void check_refused(const char *text, size_t data_bytes, const char *words)
{
    struct cabe_npy *npy;
    struct cabe_error err = {0};
    struct bytes b = {0};

    put(&b, "\x93NUMPY\1\0", 8);
    put_number(&b, strlen(text), 2);
    put(&b, text, strlen(text));
    put_zeros(&b, data_bytes);
    write_file(path, b.data, b.n);
    bytes_clear(&b);
    assert_int_equal(cabe_npy_open(&npy, path, &err), CABE_ERR_FORMAT);
    if (!strstr(err.text, words))
        fail_msg("%s: '%s', wanted '%s'", text, err.text, words);
}

static void refuses_other_files(void **state)
{
    struct cabe_npy *npy;
    struct cabe_error err;

    (void)state;
    check_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 23, "wanted 2 rows of 3 times 4");
    check_refused("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", 24, "fortran_order False");
    check_refused("{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3), }", 24, "descr");
    check_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }", 24, "two dimensions");
    check_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 3), }", 24, "two dimensions");
    check_refused("{'descr': '<f4', 'fortran_order': False, }", 24, "descr, fortran_order and shape");
    check_refused("{'descr': '<f4', 'descr': '<f4', 'shape': (2, 3), }", 24, "once each");
    check_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", 0, "bytes of data");
    check_refused("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 1), }", 0, "two dim");
    check_refused("{", 24, "once each");
    check_refused("", 24, "a dictionary");
    write_file(path, "\x93NUMPY\1\0\xff\xff{}", 12);
    assert_int_equal(cabe_npy_open(&npy, path, &err), CABE_ERR_FORMAT);
    write_file(path, "hello, world", 12);
    assert_int_equal(cabe_npy_open(&npy, path, &err), CABE_ERR_FORMAT);
    write_file(path, "", 0);
    assert_int_equal(cabe_npy_open(&npy, path, &err), CABE_ERR_FORMAT);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(round_trips),
        TEST(has_numpys_header),
        TEST(leaves_nothing_of_what_is_discarded),
        TEST(survives_refused_memory),
        TEST(refuses_other_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
