/* JSONTestSuite, every text as a model's config, as its tokenizer and as a safetensors header. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <archive.h>
#include <archive_entry.h>
#include <cmocka.h>

#include "format/source.h"
#include "format_files.h"

#define SUITE "../shared/data/hostile-json/JSONTestSuite.tar.gz"

static char folder[64];

static void write_weights(void)
{
    struct bytes b = {0};
    char path[256];

    put_safetensors(&b, "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    write_file(path, b.data, b.n);
    bytes_clear(&b);
}

/* The suite's names: y_ must be taken, n_ refused, others are free. A document must be an object or list. */
static int is_wanted(const char *name, const char *text, size_t n)
{
    size_t i = 0;

    while (i < n && strchr(" \t\r\n", text[i]))
        i++;
    return strncmp(name, "y_", 2) == 0 && i < n && (text[i] == '{' || text[i] == '[');
}

static enum cabe_status as_document(const char *name, const char *text, size_t n)
{
    struct cabe_source *source;
    struct cabe_error err = {.text = ""};
    const json_t *json;
    enum cabe_status status;
    char path[256];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    write_file(path, text, n);
    status = cabe_source_open(&source, folder, &err);
    if (status == CABE_OK)
        status = cabe_source_document_get(source, name, &json, &err);
    cabe_source_close(source);
    unlink(path);
    if (status != CABE_OK)
        assert_non_null(strstr(err.text, name));
    return status;
}

static void as_header(const char *text, size_t n)
{
    struct cabe_source *source;
    struct bytes b = {0};
    char path[64];
    int fd;

    put_u64(&b, n);
    put(&b, text, n);
    fd = memory_file(b.data, b.n, path);
    if (cabe_source_open(&source, path, NULL) == CABE_OK)
        assert_int_equal(cabe_source_n_tensors(source), 0);
    cabe_source_close(source);
    close(fd);
    bytes_clear(&b);
}

static void refuses_what_the_suite_refuses(void **state)
{
    struct archive *archive = archive_read_new();
    struct archive_entry *entry;
    static char text[1 << 20];
    int n_texts = 0;

    (void)state;
    archive_read_support_filter_gzip(archive);
    archive_read_support_format_tar(archive);
    assert_int_equal(archive_read_open_filename(archive, SUITE, 65536), ARCHIVE_OK);
    while (archive_read_next_header(archive, &entry) == ARCHIVE_OK) {
        const char *name = strrchr(archive_entry_pathname(entry), '/');
        la_ssize_t n = archive_read_data(archive, text, sizeof text);
        enum cabe_status config, tokenizer;

        if (!name || n < 0 || !strstr(name, ".json"))
            continue;
        name++;
        config = as_document("config.json", text, (size_t)n);
        tokenizer = as_document("tokenizer.json", text, (size_t)n);
        as_header(text, (size_t)n);
        /* A key twice is well-formed JSON, yet no configuration; U+0000 may only be a token. */
        if (is_wanted(name, text, (size_t)n) && !strstr(name, "duplicated") && !strstr(name, "null") &&
            !strstr(name, "u+0000") && !strstr(name, "0000") && (config != CABE_OK || tokenizer != CABE_OK))
            fail_msg("%s: refused", name);
        if (strncmp(name, "n_", 2) == 0 && (config == CABE_OK || tokenizer == CABE_OK))
            fail_msg("%s: taken", name);
        n_texts++;
    }
    archive_read_free(archive);
    printf("%d texts\n", n_texts);
    assert_true(n_texts > 300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(refuses_what_the_suite_refuses)};
    int failed;

    if (access(SUITE, R_OK) != 0) {
        printf("skip: %s is not here\n", SUITE);
        return 77;
    }
    temp_folder(folder);
    write_weights();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_folder(folder);
    return failed;
}
