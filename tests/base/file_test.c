#include "base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/memory.h"
#include "base/process.h"

static char folder[32];
static char path[64];

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/cabe-file-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/out.bin", folder);
    return 0;
}

static int remove_folder(void **state)
{
    char command[80];

    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

static int n_entries(const char *where)
{
    DIR *entries = opendir(where);
    int n = 0;

    assert_non_null(entries);
    for (struct dirent *entry; (entry = readdir(entries));)
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(entries);
    return n;
}

static void assert_content(const char *where, const void *wanted, size_t n)
{
    char *found = malloc(n + 2);
    FILE *file = fopen(where, "rb");

    assert_non_null(file);
    assert_int_equal(fread(found, 1, n + 1, file), n);
    assert_memory_equal(found, wanted, n);
    fclose(file);
    free(found);
}

static struct cabe_outfile *open_file(const char *where)
{
    struct cabe_outfile *file;
    struct cabe_error err = {0};

    if (cabe_outfile_open(&file, where, &err) != CABE_OK)
        fail_msg("%s", err.text);
    return file;
}

static void whole_or_not_there(void **state)
{
    struct cabe_outfile *file = open_file(path);
    struct stat info;
    mode_t mask = umask(0);

    (void)state;
    umask(mask);
    assert_int_equal(cabe_outfile_write(file, "one ", 4, NULL), CABE_OK);
    assert_int_equal(cabe_outfile_write(file, "two", 3, NULL), CABE_OK);
    assert_int_equal(cabe_outfile_bytes(file), 7);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(cabe_outfile_commit(file, NULL), CABE_OK);
    cabe_outfile_close(file);
    assert_content(path, "one two", 7);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0666 & ~mask);
    assert_int_equal(n_entries(folder), 1);

    /* A second time, given up: the first stays. */
    file = open_file(path);
    assert_int_equal(cabe_outfile_write(file, "three", 5, NULL), CABE_OK);
    cabe_outfile_close(file);
    assert_content(path, "one two", 7);
    assert_int_equal(n_entries(folder), 1);

    /* Replaced: the permissions stay. */
    chmod(path, 0640);
    file = open_file(path);
    assert_int_equal(cabe_outfile_commit(file, NULL), CABE_OK);
    cabe_outfile_close(file);
    assert_content(path, "", 0);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0640);
    cabe_outfile_close(NULL);
}

static void big_and_small_writes(void **state)
{
    static uint8_t data[5000000]; /* more than was reserved, and past a huge page */
    struct cabe_outfile *file = open_file(path);
    struct cabe_error err;
    size_t at = 0;

    (void)state;
    srand(3);
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)rand();
    assert_int_equal(cabe_outfile_reserve(file, 4 << 20, NULL), CABE_OK);
    while (at < sizeof data) {
        size_t n = (size_t)rand() % (rand() % 4 ? 100 : 100000);

        n = n < sizeof data - at ? n : sizeof data - at;
        assert_int_equal(cabe_outfile_write(file, data + at, n, NULL), CABE_OK);
        at += n;
    }
    memcpy(data + 70000, "header", 6);
    assert_int_equal(cabe_outfile_write_at(file, 70000, "header", 6, NULL), CABE_OK);
    assert_int_equal(cabe_outfile_write_at(file, sizeof data - 1, "xy", 2, &err), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_outfile_write_at(file, UINT64_MAX, "xy", 2, &err), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_outfile_commit(file, NULL), CABE_OK);
    cabe_outfile_close(file);
    assert_content(path, data, sizeof data);
}

static void links_and_relative_paths(void **state)
{
    char where[64], target[64];
    struct cabe_outfile *file;
    struct stat info;
    char *before = getcwd(NULL, 0);

    (void)state;
    snprintf(target, sizeof target, "%s/target", folder);
    snprintf(where, sizeof where, "%s/link", folder);
    file = open_file(target);
    assert_int_equal(cabe_outfile_commit(file, NULL), CABE_OK);
    cabe_outfile_close(file);
    assert_int_equal(symlink("target", where), 0);
    file = open_file(where);
    assert_int_equal(cabe_outfile_write(file, "through", 7, NULL), CABE_OK);
    assert_int_equal(cabe_outfile_commit(file, NULL), CABE_OK);
    cabe_outfile_close(file);
    assert_content(target, "through", 7);
    assert_int_equal(lstat(where, &info), 0);
    assert_true(S_ISLNK(info.st_mode));

    assert_int_equal(chdir(folder), 0);
    file = open_file("plain");
    assert_int_equal(chdir("/"), 0); /* the folder is held, not its name */
    assert_int_equal(cabe_outfile_write(file, "x", 1, NULL), CABE_OK);
    assert_int_equal(cabe_outfile_commit(file, NULL), CABE_OK);
    cabe_outfile_close(file);
    assert_int_equal(chdir(before), 0);
    snprintf(where, sizeof where, "%s/plain", folder);
    assert_content(where, "x", 1);
    free(before);
}

static void pipes_and_devices(void **state)
{
    struct cabe_outfile *file;
    struct cabe_error err;
    struct stat info;
    char where[64], text[8];
    int reader;

    (void)state;
    snprintf(where, sizeof where, "%s/pipe", folder);
    assert_int_equal(mkfifo(where, 0600), 0);
    reader = open(where, O_RDONLY | O_NONBLOCK);
    file = open_file(where);
    assert_int_equal(cabe_outfile_reserve(file, 1000, NULL), CABE_OK);
    assert_int_equal(cabe_outfile_write(file, "abc", 3, NULL), CABE_OK);
    assert_int_equal(cabe_outfile_flush(file, NULL), CABE_OK);
    assert_int_equal(read(reader, text, sizeof text), 3);
    assert_int_equal(cabe_outfile_write_at(file, 0, "x", 1, &err), CABE_ERR_UNSUPPORTED);
    assert_int_equal(cabe_outfile_commit(file, NULL), CABE_OK);
    cabe_outfile_close(file);
    close(reader);
    unlink(where);

    file = open_file("/dev/null");
    assert_int_equal(cabe_outfile_write(file, "abc", 3, NULL), CABE_OK);
    assert_int_equal(cabe_outfile_commit(file, NULL), CABE_OK);
    cabe_outfile_close(file);
    assert_int_equal(stat("/dev/null", &info), 0);
    assert_true(S_ISCHR(info.st_mode));

    file = open_file("/dev/full");
    assert_int_equal(cabe_outfile_write(file, "abc", 3, NULL), CABE_OK);
    assert_int_equal(cabe_outfile_commit(file, &err), CABE_ERR_NO_SPACE);
    assert_string_equal(err.text, "/dev/full: writing at byte 0: No space left on device");
    err.text[0] = '\0';
    assert_int_equal(cabe_outfile_write(file, "abc", 3, &err), CABE_ERR_NO_SPACE); /* an error stays */
    assert_non_null(strstr(err.text, "No space"));
    cabe_outfile_close(file);
}

static void wrong_places(void **state)
{
    static const struct {
        const char *path;
        enum cabe_status status;
    } cases[] = {
        {"/nonexistent/folder/x", CABE_ERR_NOT_FOUND},
        {"/tmp", CABE_ERR_IO},
        {"/tmp/", CABE_ERR_IO},
        {"", CABE_ERR_NOT_FOUND},
        {"/dev/null/x", CABE_ERR_NOT_FOUND},
        {"/proc/x", CABE_ERR_NOT_FOUND},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cabe_outfile *file = NULL;
        struct cabe_error err;

        assert_int_equal(cabe_outfile_open(&file, cases[i].path, &err), cases[i].status);
        assert_null(file);
        assert_memory_equal(err.text, cases[i].path, strlen(cases[i].path));
    }
}

/* Runs `body` in a child with a file system of its own; its exit code, or -1 where that is not permitted. */
static int in_own_mounts(const char *options, unsigned long flags, int (*body)(const char *mounted))
{
    char mounted[64];
    pid_t child;
    int result;

    snprintf(mounted, sizeof mounted, "%s/mounted", folder);
    mkdir(mounted, 0755);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
            mount("cabe", mounted, "tmpfs", flags, options) != 0)
            _exit(99);
        _exit(body(mounted));
    }
    assert_true(waitpid(child, &result, 0) == child);
    assert_true(WIFEXITED(result));
    return WEXITSTATUS(result) == 99 ? -1 : WEXITSTATUS(result);
}

static int write_past_the_end(const char *mounted)
{
    static uint8_t block[300000];
    struct cabe_outfile *file;
    struct cabe_error err;
    char where[80];
    enum cabe_status status;

    snprintf(where, sizeof where, "%s/out", mounted);
    if (cabe_outfile_open(&file, where, &err) != CABE_OK)
        return 1;
    if (cabe_outfile_reserve(file, 2 << 20, &err) != CABE_ERR_NO_SPACE || !strstr(err.text, "2097152"))
        return 2;
    cabe_outfile_close(file);
    if (cabe_outfile_open(&file, where, &err) != CABE_OK)
        return 3;
    for (int i = 0; (status = cabe_outfile_write(file, block, sizeof block, &err)) == CABE_OK; i++)
        if (i > 4)
            return 4;
    if (status != CABE_ERR_NO_SPACE || cabe_outfile_commit(file, &err) != CABE_ERR_NO_SPACE)
        return 5;
    cabe_outfile_close(file);
    return n_entries(mounted) == 0 ? 0 : 6;
}

static int write_where_none_may(const char *mounted)
{
    struct cabe_outfile *file;
    struct cabe_error err;
    char where[80];

    snprintf(where, sizeof where, "%s/out", mounted);
    return cabe_outfile_open(&file, where, &err) == CABE_ERR_PERMISSION && strstr(err.text, "Read-only") ? 0
                                                                                                         : 1;
}

static void full_disk(void **state)
{
    int result = in_own_mounts("size=1m", 0, write_past_the_end);

    (void)state;
    if (result < 0) {
        printf("skip: not permitted to mount a small file system\n");
        skip();
    }
    assert_int_equal(result, 0);
}

static void read_only_disk(void **state)
{
    int result = in_own_mounts("size=1m", MS_RDONLY, write_where_none_may);

    (void)state;
    if (result < 0) {
        printf("skip: not permitted to mount a read-only file system\n");
        skip();
    }
    assert_int_equal(result, 0);
}

static void folders_of_others(void **state)
{
    char where[80];
    pid_t child;
    int result;

    (void)state;
    snprintf(where, sizeof where, "%s/locked", folder);
    assert_int_equal(mkdir(where, 0500), 0);
    strcat(where, "/out");
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct cabe_outfile *file;

        if (geteuid() == 0 && (setegid(65534) != 0 || seteuid(65534) != 0))
            _exit(2);
        _exit(cabe_outfile_open(&file, where, NULL) == CABE_ERR_PERMISSION ? 0 : 1);
    }
    assert_true(waitpid(child, &result, 0) == child);
    assert_int_equal(result, 0);
}

static void leftovers_are_swept(void **state)
{
    static const struct timespec long_ago[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    char mine[64], foreign[64], dead_name[300] = "";
    struct cabe_outfile *living;
    DIR *entries;
    pid_t child;
    int before;

    (void)state;
    snprintf(mine, sizeof mine, "%s/living", folder);
    snprintf(foreign, sizeof foreign, "%s/.cabe-notes.tmp", folder);
    fclose(fopen(foreign, "w"));
    utimensat(AT_FDCWD, foreign, long_ago, 0);
    before = n_entries(folder);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct cabe_outfile *file = open_file(mine);

        if (cabe_outfile_write(file, "x", 1, NULL) == CABE_OK)
            kill(getpid(), SIGKILL);
    }
    waitpid(child, NULL, 0);
    assert_int_equal(n_entries(folder), before + 1);
    assert_int_equal(cabe_outfile_sweep(folder), 0); /* too young */
    living = open_file(mine);
    entries = opendir(folder);
    for (struct dirent *entry; (entry = readdir(entries));)
        if (strncmp(entry->d_name, ".cabe-", 6) == 0) {
            snprintf(dead_name, sizeof dead_name, "%s/%s", folder, entry->d_name);
            utimensat(AT_FDCWD, dead_name, long_ago, 0);
        }
    closedir(entries);
    assert_int_equal(cabe_outfile_sweep(folder), 1);
    assert_int_equal(n_entries(folder), before + 1);
    assert_int_equal(cabe_outfile_commit(living, NULL), CABE_OK);
    cabe_outfile_close(living);
    assert_int_equal(cabe_outfile_sweep("/nonexistent"), 0);
}

static void no_memory(void **state)
{
    (void)state;
    for (uint64_t n = 1;; n++) {
        struct cabe_outfile *file;
        struct cabe_error err = {0};
        enum cabe_status status;

        cabe_memory_fail_at(n);
        status = cabe_outfile_open(&file, path, &err);
        cabe_memory_fail_at(0);
        if (status == CABE_OK) {
            assert_true(n > 3);
            cabe_outfile_close(file);
            break;
        }
        assert_int_equal(status, CABE_ERR_OOM);
        assert_null(file);
        assert_non_null(strstr(err.text, "out.bin"));
    }
}

static void resident_size(void **state)
{
    struct cabe_rss before, after;
    void *pages;
    int may_reset = cabe_rss_reset_high() == 0;

    (void)state;
    assert_int_equal(cabe_rss_read(&before), 0);
    assert_true(before.rss_bytes > 100000 && before.high_bytes >= before.rss_bytes);
    assert_int_equal(cabe_pages_map(&pages, 32 << 20, 1, NULL), CABE_OK);
    assert_int_equal(cabe_rss_read(&after), 0);
    assert_true(after.anon_bytes > before.anon_bytes + (30 << 20));
    assert_true(cabe_rss_exact() == 0 || cabe_rss_exact() + (2 << 20) > after.rss_bytes);
    cabe_pages_unmap(pages, 32 << 20);
    assert_int_equal(cabe_rss_read(&after), 0);
    assert_true(after.anon_bytes < before.anon_bytes + (8 << 20));
    assert_true(after.high_bytes > before.rss_bytes + (30 << 20));
    if (may_reset) {
        assert_int_equal(cabe_rss_reset_high(), 0);
        assert_int_equal(cabe_rss_read(&after), 0);
        assert_true(after.high_bytes < before.rss_bytes + (8 << 20));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_or_not_there),
        cmocka_unit_test(big_and_small_writes),
        cmocka_unit_test(links_and_relative_paths),
        cmocka_unit_test(pipes_and_devices),
        cmocka_unit_test(wrong_places),
        cmocka_unit_test(full_disk),
        cmocka_unit_test(read_only_disk),
        cmocka_unit_test(folders_of_others),
        cmocka_unit_test(leftovers_are_swept),
        cmocka_unit_test(no_memory),
        cmocka_unit_test(resident_size),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
