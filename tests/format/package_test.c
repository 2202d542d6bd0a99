#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "format/package.h"
#include "zip_files.h"

static char folder[64], file[128], to[128];
static struct zip zip;

static int set_up(void **state)
{
    (void)state;
    temp_folder(folder);
    snprintf(file, sizeof file, "%s/a.whl", folder);
    snprintf(to, sizeof to, "%s/to", folder);
    assert_int_equal(mkdir(to, 0700), 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    zip_clear(&zip);
    remove_folder(folder);
    return 0;
}

static void finish(void)
{
    zip_end(&zip);
    write_file(file, zip.out.data, zip.out.n);
}

static void check_refused(enum cabe_status wanted, const char *words)
{
    struct cabe_package *package;
    struct cabe_error err = {0};
    enum cabe_status status;

    finish();
    status = cabe_package_open(&package, file, &err);
    if (status != wanted || !strstr(err.text, words))
        fail_msg("%s: '%s', wanted %s: '%s'", cabe_status_name(status), err.text, cabe_status_name(wanted), words);
    assert_null(package);
    zip_clear(&zip);
}

static void add_model(void)
{
    zip_add_text(&zip, "pack/__init__.py", "import this");
    zip_add_text(&zip, "pack/model/config.json", "{}");
    zip_add_text(&zip, "pack/model/model.safetensors", "weights");
    zip_add_text(&zip, "pack/model/pytorch_model.bin", "pickle");
    zip_add_text(&zip, "pack/model/.gitattributes", "x");
    zip_add_text(&zip, "pack/model/onnx/model.onnx", "x");
    zip_add_text(&zip, "pack/model/2_Dense/model.safetensors", "dense");
    zip_add_text(&zip, "pack-1.0.dist-info/METADATA", "Name: pack");
}

static int has(const char *name, const char *text)
{
    char path[256], bytes[64] = "";
    FILE *in;

    snprintf(path, sizeof path, "%s/%s", to, name);
    in = fopen(path, "rb");
    if (!in)
        return 0;
    (void)!fread(bytes, 1, sizeof bytes - 1, in);
    fclose(in);
    return strcmp(bytes, text) == 0;
}

static void finds_and_extracts_the_model(void **state)
{
    struct cabe_package *package;
    struct cabe_error err;
    int is_zip;

    (void)state;
    add_model();
    finish();
    assert_int_equal(cabe_package_detect(file, &is_zip, NULL), CABE_OK);
    assert_true(is_zip);
    if (cabe_package_open(&package, file, &err) != CABE_OK)
        fail_msg("%s", err.text);
    assert_string_equal(cabe_package_model(package), "pack/model");
    assert_false(cabe_package_is_gguf(package));
    assert_int_equal(cabe_package_n_members(package), 3);
    assert_string_equal(cabe_package_member(package, 0)->name, "2_Dense/model.safetensors");
    assert_int_equal(cabe_package_member(package, 0)->bytes, 5);
    assert_null(cabe_package_member(package, 3));
    if (cabe_package_extract(package, to, NULL, NULL, &err) != CABE_OK)
        fail_msg("%s", err.text);
    assert_true(has("config.json", "{}"));
    assert_true(has("model.safetensors", "weights"));
    assert_true(has("2_Dense/model.safetensors", "dense"));
    assert_false(has("pytorch_model.bin", "pickle"));
    cabe_package_close(package);
}

static void finds_a_gguf(void **state)
{
    struct cabe_package *package;

    (void)state;
    zip_add_text(&zip, "pack/a.Q4_0.gguf", "GGUF");
    zip_add_text(&zip, "pack/__init__.py", "");
    finish();
    assert_int_equal(cabe_package_open(&package, file, NULL), CABE_OK);
    assert_true(cabe_package_is_gguf(package));
    assert_string_equal(cabe_package_model(package), "pack/a.Q4_0.gguf");
    assert_int_equal(cabe_package_n_members(package), 1);
    assert_int_equal(cabe_package_extract(package, to, NULL, NULL, NULL), CABE_OK);
    assert_true(has("a.Q4_0.gguf", "GGUF"));
    cabe_package_close(package);
}

static void refuses_what_is_not_one_model(void **state)
{
    (void)state;
    zip_add_text(&zip, "readme", "no model");
    check_refused(CABE_ERR_NOT_FOUND, "has no model");
    check_refused(CABE_ERR_FORMAT, "is no zip archive"); /* an empty one */
    zip_add_text(&zip, "a/model.safetensors", "x");
    zip_add_text(&zip, "b/model.safetensors", "x");
    check_refused(CABE_ERR_ARGUMENT, "more than one model");
    zip_add_text(&zip, "a.gguf", "x");
    zip_add_text(&zip, "b.gguf", "x");
    check_refused(CABE_ERR_ARGUMENT, "more than one model");
}

static void refuses_paths_that_leave(void **state)
{
    static const char *const names[] = {"../x", "/etc/x", "a/../../x", "a/..", "a//b", "./a", "a\\..\\b"};

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        add_model();
        zip_add_text(&zip, names[i], "x");
        check_refused(CABE_ERR_FORMAT, "leaves the folder");
    }
}

static void refuses_other_dangers(void **state)
{
    (void)state;
    add_model();
    zip_add_text(&zip, "pack/model/config.json", "{}");
    check_refused(CABE_ERR_FORMAT, "'pack/model/config.json' occurs twice");
    add_model();
    zip_add_text(&zip, "pack/model", "x");
    check_refused(CABE_ERR_FORMAT, "'pack/model' is a file, and the folder of");
    add_model();
    zip_add_text(&zip, "a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a", "x");
    check_refused(CABE_ERR_LIMIT, "folders deep");
    add_model();
    zip_add_as(&zip, "pack/model/link", "/etc/passwd", 11, 0120777, 11);
    check_refused(CABE_ERR_FORMAT, "is a link or device");
    add_model();
    zip_add_as(&zip, "bomb", "x", 1, 0100644, 0xFFFFFFFE);
    check_refused(CABE_ERR_LIMIT, "times as many");
}

/* A member that has other than it says fails its extraction. */
static void refuses_sizes_that_lie(void **state)
{
    static const uint32_t said[] = {3, 30};

    (void)state;
    for (size_t i = 0; i < sizeof said / sizeof said[0]; i++) {
        struct cabe_package *package;
        struct cabe_error err;

        zip_add_as(&zip, "model.safetensors", "weights", 7, 0100644, said[i]);
        finish();
        if (cabe_package_open(&package, file, &err) == CABE_OK)
            assert_int_not_equal(cabe_package_extract(package, to, NULL, NULL, &err), CABE_OK);
        assert_true(err.text[0] != '\0');
        cabe_package_close(package);
        zip_clear(&zip);
        remove_folder(to);
        assert_int_equal(mkdir(to, 0700), 0);
    }
}

static void survives_damage(void **state)
{
    struct cabe_package *package;
    struct bytes *b = &zip.out;
    char path[64];

    (void)state;
    add_model();
    finish();
    for (size_t n = 0; n < b->n; n++) {
        int fd = memory_file(b->data, n, path);

        assert_int_not_equal(cabe_package_open(&package, path, NULL), CABE_OK);
        close(fd);
    }
    for (size_t i = 0; i < b->n; i++) {
        int fd;

        b->data[i] ^= (uint8_t)(1 << i % 8);
        fd = memory_file(b->data, b->n, path);
        if (cabe_package_open(&package, path, NULL) == CABE_OK && i % 16 == 0) { /* each syncs its files */
            enum cabe_status status = cabe_package_extract(package, to, NULL, NULL, NULL);

            assert_true(status != CABE_ERR_INTERNAL);
            remove_folder(to);
            assert_int_equal(mkdir(to, 0700), 0);
        }
        cabe_package_close(package);
        close(fd);
        b->data[i] ^= (uint8_t)(1 << i % 8);
    }
}

static void stops_on_request(void **state)
{
    struct cabe_cancel cancel = {.wanted = 1};
    struct cabe_package *package;

    (void)state;
    add_model();
    finish();
    assert_int_equal(cabe_package_open(&package, file, NULL), CABE_OK);
    assert_int_equal(cabe_package_extract(package, to, &cancel, NULL, NULL), CABE_ERR_CANCELLED);
    cabe_package_close(package);
}

static void notices_an_archive_that_changes(void **state)
{
    struct cabe_package *package;
    struct cabe_error err;

    (void)state;
    add_model();
    finish();
    assert_int_equal(cabe_package_open(&package, file, NULL), CABE_OK);
    assert_int_equal(truncate(file, 100), 0);
    assert_int_equal(cabe_package_extract(package, to, NULL, NULL, &err), CABE_ERR_CHANGED);
    cabe_package_close(package);
}

static void survives_refused_memory(void **state)
{
    enum cabe_status status = CABE_ERR_OOM;

    (void)state;
    add_model();
    finish();
    for (uint64_t n = 1; status != CABE_OK; n++) {
        struct cabe_package *package = NULL;

        assert_true(n < 200);
        cabe_memory_fail_at(n);
        status = cabe_package_open(&package, file, NULL);
        if (status == CABE_OK)
            status = cabe_package_extract(package, to, NULL, NULL, NULL);
        cabe_memory_fail_at(0);
        assert_true(status == CABE_OK || status == CABE_ERR_OOM);
        cabe_package_close(package);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(finds_and_extracts_the_model),
        TEST(finds_a_gguf),
        TEST(refuses_what_is_not_one_model),
        TEST(refuses_paths_that_leave),
        TEST(refuses_other_dangers),
        TEST(refuses_sizes_that_lie),
        TEST(survives_damage),
        TEST(stops_on_request),
        TEST(notices_an_archive_that_changes),
        TEST(survives_refused_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
