#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <utime.h>

#include "base/memory.h"
#include "format/source.h"
#include "format/store.h"
#include "zip_files.h"

static char folder[64];

static int set_up(void **state)
{
    char home[80];

    (void)state;
    temp_folder(folder);
    snprintf(home, sizeof home, "%s/home", folder);
    setenv("CABE_HOME", home, 1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    remove_folder(folder);
    return 0;
}

static const char *in_folder(const char *name)
{
    static char path[4][256];
    static int next;

    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[next], "%s/%s", folder, name);
    return path[next];
}

static void make_weights(struct bytes *b)
{
    put_safetensors(b, "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8);
}

static void make_model(const char *name, const char *config)
{
    struct bytes b = {0};
    char path[256];

    assert_int_equal(mkdir(in_folder(name), 0700), 0);
    make_weights(&b);
    snprintf(path, sizeof path, "%s/%s/model.safetensors", folder, name);
    write_file(path, b.data, b.n);
    write_text(in_folder(name), "config.json", config);
    write_text(in_folder(name), "pytorch_model.bin", "pickle");
    bytes_clear(&b);
}

static void make_gguf(const char *name, const char *general_name)
{
    const uint64_t dims[1] = {2};
    struct bytes b = {0};

    gguf_begin(&b, 3, 1, 1);
    gguf_key_text(&b, "general.name", general_name);
    gguf_tensor(&b, "a", 1, dims, 0, 0);
    put_align(&b, 32);
    put_zeros(&b, 32);
    write_file(in_folder(name), b.data, b.n);
    bytes_clear(&b);
}

static void make_wheel(const char *name, const char *inner, const char *card, const char *config)
{
    struct zip zip = {0};
    struct bytes b = {0};
    char path[256];

    make_weights(&b);
    snprintf(path, sizeof path, "%s/model.safetensors", inner);
    zip_add(&zip, path, b.data, b.n);
    snprintf(path, sizeof path, "%s/config.json", inner);
    zip_add_text(&zip, path, config);
    snprintf(path, sizeof path, "%s/README.md", inner);
    zip_add_text(&zip, path, card);
    zip_end(&zip);
    write_file(in_folder(name), zip.out.data, zip.out.n);
    zip_clear(&zip);
    bytes_clear(&b);
}

static int n_in_store(void) /* hidden ones too */
{
    DIR *dir = opendir(in_folder("home/models"));
    struct dirent *entry;
    int n = 0;

    while (dir && (entry = readdir(dir)))
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    if (dir)
        closedir(dir);
    return n;
}

/* Pulls and compares the name that was given; the model is then opened. */
static void check_pull(const struct cabe_store_pull *pull, const char *wanted)
{
    char name[CABE_STORE_NAME_MAX + 1], path[CABE_STORE_PATH_MAX];
    struct cabe_source *source;
    struct cabe_error err;

    if (cabe_store_pull(pull, name, &err) != CABE_OK)
        fail_msg("%s", err.text);
    assert_string_equal(name, wanted);
    assert_int_equal(cabe_store_resolve(name, path, NULL), CABE_OK);
    assert_int_equal(cabe_source_open(&source, path, NULL), CABE_OK);
    assert_int_equal(cabe_source_n_tensors(source), 1);
    cabe_source_close(source);
}

static void check_refused(const struct cabe_store_pull *pull, enum cabe_status wanted, const char *words)
{
    char name[CABE_STORE_NAME_MAX + 1];
    struct cabe_error err = {0};
    int before = n_in_store();
    enum cabe_status status = cabe_store_pull(pull, name, &err);

    if (status != wanted || !strstr(err.text, words))
        fail_msg("%s: '%s', wanted %s: '%s'", cabe_status_name(status), err.text, cabe_status_name(wanted), words);
    assert_int_equal(n_in_store(), before);
}

static void makes_names(void **state)
{
    static const struct {
        const char *text, *name;
    } cases[] = {
        {"all-MiniLM-L6-v2", "all-minilm-l6-v2"}, {"BAAI/bge small (en) v1.5", "baai-bge-small-en-v1.5"},
        {"..hidden", "hidden"},                   {"-x-", "x"},
        {"\xc3\xa9t\xc3\xa9", "t"},               {"///", ""},
        {"", ""},                                 {"a..b__c", "a..b__c"},
    };
    char name[CABE_STORE_NAME_MAX + 1], text[300];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cabe_store_name_from(cases[i].text, strlen(cases[i].text), name);
        assert_string_equal(name, cases[i].name);
        assert_int_equal(cabe_store_name_is_valid(name), name[0] != '\0');
    }
    memset(text, 'x', sizeof text);
    cabe_store_name_from(text, sizeof text, name);
    assert_int_equal(strlen(name), CABE_STORE_NAME_MAX);
    assert_false(cabe_store_name_is_valid("../x"));
    assert_false(cabe_store_name_is_valid(".x"));
    assert_false(cabe_store_name_is_valid("A"));
}

static void names_models_by_what_they_come_with(void **state)
{
    (void)state;
    make_model("Tiny_Model", "{\"_name_or_path\":\"org/other\"}");
    check_pull(&(struct cabe_store_pull){.path = in_folder("Tiny_Model/")}, "tiny_model");
    check_pull(&(struct cabe_store_pull){.path = in_folder("Tiny_Model/model.safetensors"), .force = 1}, "tiny_model");
    make_model("model", "{\"_name_or_path\":\"org/From-Config\"}");
    check_pull(&(struct cabe_store_pull){.path = in_folder("model")}, "from-config");
    write_text(in_folder("model"), "README.md", "---\n# not: this\n---\ntext\n# From-Card\n");
    check_pull(&(struct cabe_store_pull){.path = in_folder("model")}, "from-card");
    make_gguf("Some-Q4_0.gguf", "General");
    check_pull(&(struct cabe_store_pull){.path = in_folder("Some-Q4_0.gguf")}, "some-q4_0");
    make_gguf("ggml-model-f16.gguf", "General Name");
    check_pull(&(struct cabe_store_pull){.path = in_folder("ggml-model-f16.gguf")}, "general-name");
    make_wheel("gt_tiny-0.1.0-py3-none-any.whl", "gt_tiny/model", "# Tiny-L6\n", "{\"_name_or_path\":\"org/base\"}");
    check_pull(&(struct cabe_store_pull){.path = in_folder("gt_tiny-0.1.0-py3-none-any.whl")}, "tiny-l6");
    make_wheel("b_tiny-0.1.0-py3-none-any.whl", "b_tiny/model", "# A tiny model\n", "{}");
    check_pull(&(struct cabe_store_pull){.path = in_folder("b_tiny-0.1.0-py3-none-any.whl")}, "b_tiny");
    make_wheel("c.zip", "Named-Model", "", "{}");
    check_pull(&(struct cabe_store_pull){.path = in_folder("c.zip")}, "named-model");
    check_pull(&(struct cabe_store_pull){.path = in_folder("c.zip"), .name = "my.own"}, "my.own");
    assert_int_not_equal(access(in_folder("home/models/tiny_model/model.safetensors"), R_OK), -1);
    assert_int_equal(access(in_folder("home/models/tiny_model/pytorch_model.bin"), R_OK), -1);
}

static void replaces_only_by_force(void **state)
{
    (void)state;
    make_model("one", "{\"v\":1}");
    make_model("two", "{\"v\":2}");
    check_pull(&(struct cabe_store_pull){.path = in_folder("one"), .name = "m"}, "m");
    check_refused(&(struct cabe_store_pull){.path = in_folder("two"), .name = "m"}, CABE_ERR_ARGUMENT, "--force");
    check_pull(&(struct cabe_store_pull){.path = in_folder("two"), .name = "m", .force = 1}, "m");
    assert_int_equal(n_in_store(), 1);
    check_pull(&(struct cabe_store_pull){.path = in_folder("one"), .name = "m", .force = 1, .link = 1}, "m");
    check_refused(&(struct cabe_store_pull){.path = in_folder("two"), .name = "m", .link = 1}, CABE_ERR_ARGUMENT, "m");
    check_pull(&(struct cabe_store_pull){.path = in_folder("two"), .name = "m", .force = 1}, "m");
    assert_int_equal(n_in_store(), 1);
    assert_int_equal(access(in_folder("one/config.json"), R_OK), 0);
}

static void leaves_nothing_of_a_pull_that_fails(void **state)
{
    struct cabe_cancel cancel = {.wanted = 1};

    (void)state;
    make_model("m", "{}");
    check_refused(&(struct cabe_store_pull){.path = in_folder("absent")}, CABE_ERR_NOT_FOUND, "absent");
    check_refused(&(struct cabe_store_pull){.path = in_folder("m"), .name = "../m"}, CABE_ERR_ARGUMENT, "no name");
    check_refused(&(struct cabe_store_pull){.path = in_folder("m"), .cancel = &cancel}, CABE_ERR_CANCELLED, "stopped");
    make_wheel("w.whl", "w/model", "", "{\"a\":");
    check_refused(&(struct cabe_store_pull){.path = in_folder("w.whl")}, CABE_ERR_FORMAT, "config.json");
    check_refused(&(struct cabe_store_pull){.path = in_folder("w.whl"), .link = 1}, CABE_ERR_ARGUMENT, "archive");
    write_text(folder, "text.gguf", "hello, hello, hello");
    check_refused(&(struct cabe_store_pull){.path = in_folder("text.gguf")}, CABE_ERR_FORMAT, "begins with");
    assert_int_equal(chmod(in_folder("home/models"), 0500), 0);
    if (geteuid() != 0)
        check_refused(&(struct cabe_store_pull){.path = in_folder("m")}, CABE_ERR_PERMISSION, "models");
    assert_int_equal(chmod(in_folder("home/models"), 0700), 0);
}

static void survives_refused_memory(void **state)
{
    enum cabe_status status = CABE_ERR_OOM;

    (void)state;
    make_wheel("w.whl", "w/model", "# tiny\n", "{}");
    for (uint64_t n = 1; status != CABE_OK; n++) {
        char name[CABE_STORE_NAME_MAX + 1];

        assert_true(n < 300);
        cabe_memory_fail_at(n);
        status = cabe_store_pull(&(struct cabe_store_pull){.path = in_folder("w.whl")}, name, NULL);
        cabe_memory_fail_at(0);
        if (status != CABE_OK && status != CABE_ERR_OOM)
            fail_msg("allocation %llu: %s", (unsigned long long)n, cabe_status_name(status));
        assert_int_equal(n_in_store(), status == CABE_OK);
    }
}

static void lists_and_removes(void **state)
{
    struct cabe_store_entry *entries;
    struct cabe_error err;
    uint64_t bytes;
    size_t n;

    (void)state;
    assert_int_equal(cabe_store_list(&entries, &n, NULL), CABE_OK);
    assert_int_equal(n, 0);
    make_model("b", "{}");
    check_pull(&(struct cabe_store_pull){.path = in_folder("b")}, "b");
    check_pull(&(struct cabe_store_pull){.path = in_folder("b"), .name = "a", .link = 1}, "a");
    assert_int_equal(cabe_store_list(&entries, &n, NULL), CABE_OK);
    assert_int_equal(n, 2);
    assert_string_equal(entries[0].name, "a");
    assert_true(entries[0].is_link);
    assert_string_equal(entries[0].target, in_folder("b"));
    assert_false(entries[1].is_link);
    cabe_free(entries);
    assert_int_equal(cabe_store_remove("a", &bytes, &err), CABE_OK);
    assert_int_equal(bytes, 0);
    assert_int_equal(access(in_folder("b/config.json"), R_OK), 0);
    assert_int_equal(cabe_store_remove("b", &bytes, &err), CABE_OK);
    assert_true(bytes > 8);
    assert_int_equal(cabe_store_remove("b", &bytes, &err), CABE_ERR_NOT_FOUND);
    assert_int_equal(cabe_store_remove("../b", &bytes, &err), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_store_remove(".", &bytes, &err), CABE_ERR_ARGUMENT);
    assert_int_equal(n_in_store(), 0);
    assert_int_equal(access(in_folder("b/config.json"), R_OK), 0);
}

static void resolves_names_and_paths(void **state)
{
    char path[CABE_STORE_PATH_MAX];
    struct cabe_error err;

    (void)state;
    make_model("m", "{}");
    assert_int_equal(cabe_store_resolve(in_folder("m"), path, NULL), CABE_OK);
    assert_string_equal(path, in_folder("m"));
    assert_int_equal(cabe_store_resolve(in_folder("absent"), path, &err), CABE_ERR_NOT_FOUND);
    assert_int_equal(cabe_store_resolve("m", path, &err), CABE_ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "cabe list"));
    check_pull(&(struct cabe_store_pull){.path = in_folder("m")}, "m");
    assert_int_equal(cabe_store_resolve("m", path, NULL), CABE_OK);
    assert_string_equal(path, in_folder("home/models/m"));
    assert_int_equal(cabe_store_resolve("", path, &err), CABE_ERR_NOT_FOUND);
}

/* A hidden folder that nobody locks is an earlier pull's, once it is old enough to have been locked. */
static void sweeps_what_a_killed_pull_left(void **state)
{
    static const char left[] = "home/models/.pull.1.0.0.part";

    (void)state;
    make_model("m", "{}");
    check_pull(&(struct cabe_store_pull){.path = in_folder("m")}, "m");
    assert_int_equal(mkdir(in_folder(left), 0700), 0);
    write_text(in_folder(left), "config.json", "{}");
    check_pull(&(struct cabe_store_pull){.path = in_folder("m"), .name = "n"}, "n");
    assert_int_equal(n_in_store(), 3); /* young: it may be about to take its lock */
}

/* Of processes that pull one name at once, one wins, the others are told, and nothing else stays. */
static void lets_one_of_many_pulls_win(void **state)
{
    int n_won = 0;

    (void)state;
    make_model("m", "{}");
    for (int i = 0; i < 6; i++) {
        pid_t child = fork();

        if (child == 0) {
            char name[CABE_STORE_NAME_MAX + 1];

            _exit((int)cabe_store_pull(&(struct cabe_store_pull){.path = in_folder("m")}, name, NULL));
        }
        assert_true(child > 0);
    }
    for (int i = 0; i < 6; i++) {
        int code;

        assert_true(wait(&code) > 0);
        assert_true(WIFEXITED(code));
        assert_true(WEXITSTATUS(code) == CABE_OK || WEXITSTATUS(code) == CABE_ERR_ARGUMENT);
        n_won += WEXITSTATUS(code) == CABE_OK;
    }
    assert_int_equal(n_won, 1);
    assert_int_equal(n_in_store(), 1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(makes_names),
        TEST(names_models_by_what_they_come_with),
        TEST(replaces_only_by_force),
        TEST(leaves_nothing_of_a_pull_that_fails),
        TEST(survives_refused_memory),
        TEST(lists_and_removes),
        TEST(resolves_names_and_paths),
        TEST(sweeps_what_a_killed_pull_left),
        TEST(lets_one_of_many_pulls_win),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
