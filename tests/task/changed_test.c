/*
 * Files that change under a generator: a model that is cut, written to or replaced before its copy is made, and a copy
 * while it is read. The answer is what it would have been, or an error that names the file; never a signal, never
 * another text, and never a copy of the old weights under the new name.
 */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/memory.h"
#include "task/generator.h"

#define NEW_TOKENS 12
#define CHANGE_AFTER 4

enum change { NOTHING, CUT, CUT_A_LITTLE, WRITTEN_TO, REPLACED, REMOVED, N_CHANGES };

static const char *const change_names[] = {"nothing", "cut", "cut a little", "written to", "replaced", "removed"};

static char root[] = "/tmp/cabe-changed-XXXXXX";
static char model[64], cache[64];
static struct cabe_error err;

static void copy_file(const char *from, const char *to)
{
    char command[700];

    snprintf(command, sizeof command, "cp %s %s", from, to);
    assert_int_equal(system(command), 0);
}

static void change_file(const char *path, enum change change)
{
    char other[400];
    struct stat info;
    int fd;

    assert_int_equal(stat(path, &info), 0);
    snprintf(other, sizeof other, "%s.other", path);
    switch (change) {
    case CUT:
        assert_int_equal(truncate(path, info.st_size / 4), 0);
        break;
    case CUT_A_LITTLE:
        assert_int_equal(truncate(path, info.st_size - 1), 0);
        break;
    case WRITTEN_TO: { /* all of the second half, and the clock of files is coarse */
        struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1000}};
        char *noise = malloc((size_t)info.st_size / 2);

        memset(noise, 0x3c, (size_t)info.st_size / 2);
        fd = open(path, O_WRONLY);
        assert_int_equal(pwrite(fd, noise, (size_t)info.st_size / 2, info.st_size / 2), info.st_size / 2);
        assert_int_equal(futimens(fd, times), 0);
        close(fd);
        free(noise);
        break;
    }
    case REPLACED: /* by another model, in the way that downloads end */
        copy_file(CABE_GOLDEN_MODELS "/mixed.gguf", other);
        assert_int_equal(rename(other, path), 0);
        break;
    case REMOVED:
        assert_int_equal(unlink(path), 0);
        break;
    case NOTHING:
    case N_CHANGES:
        break;
    }
}

/* Path of the only copy, and how many there are. */
static int find_copy(char path[400])
{
    DIR *dir = opendir(cache);
    struct dirent *entry;
    int n = 0;

    while (dir && (entry = readdir(dir)))
        if (entry->d_name[0] != '.') {
            snprintf(path, 400, "%s/%.300s", cache, entry->d_name);
            n++;
        }
    if (dir)
        closedir(dir);
    return n;
}

struct asked {
    enum change change; /* made to the copy behind CHANGE_AFTER tokens */
    int32_t token[NEW_TOKENS];
    int n;
};

static enum cabe_status on_text(void *self, const char *bytes, size_t n, const struct cabe_sampled *sampled,
                                struct cabe_error *error)
{
    struct asked *asked = self;
    char path[400];

    (void)bytes;
    (void)n;
    (void)error;
    if (!sampled)
        return CABE_OK;
    asked->token[asked->n++] = sampled->token;
    if (asked->n == CHANGE_AFTER && asked->change != NOTHING) {
        assert_int_equal(find_copy(path), 1);
        change_file(path, asked->change);
    }
    return CABE_OK;
}

static void open_session(struct cabe_session **session, struct cabe_generator **g)
{
    struct cabe_session_config config = {.memory_bytes = UINT64_C(1) << 30, .n_threads = 2, .cache_dir = cache};
    struct cabe_generator_wishes wishes = {
        .dtype = -1, .precision = -1, .kv = -1, .context = 128, .batch_tokens = 16, .n_seqs = 1};

    if (cabe_session_open(session, &config, 0, &err) != CABE_OK ||
        cabe_generator_find(g, *session, model, &wishes, &err) != CABE_OK)
        fail_msg("%s", err.text);
}

static enum cabe_status load(struct cabe_session *session, struct cabe_generator *g, int64_t stream)
{
    static struct cabe_plan plan;
    struct cabe_fit_task task;

    cabe_generator_task(g, &task);
    assert_int_equal(cabe_session_plan(session, &plan, &task, &err), CABE_OK);
    plan.knobs.value[CABE_KNOB_STREAM] = stream;
    return cabe_generator_load(g, &plan.knobs, &err);
}

static enum cabe_status ask(struct cabe_generator *g, struct asked *asked)
{
    static const int32_t ids[] = {1, 5, 9, 13, 17, 21, 25};
    struct cabe_generation generation = {.ids = ids, .n_ids = 7, .max_new = NEW_TOKENS, .shift_keep = -1,
                                         .ignore_end = 1, .text = on_text, .self = asked};
    struct cabe_generated result;

    cabe_sampling_defaults(&generation.sampling);
    generation.sampling.temperature = 0;
    return cabe_generate(g, &generation, NULL, &result, &err);
}

static void close_all(struct cabe_session *session, struct cabe_generator *g)
{
    struct cabe_ledger_view view;

    cabe_generator_close(g);
    cabe_ledger_read(session->ledger, &view);
    assert_int_equal(view.device[0].used_bytes, session->process_bytes);
    cabe_session_close(session);
}

static void begin_again(void)
{
    char command[200];

    snprintf(command, sizeof command, "rm -rf %s; mkdir %s", cache, cache);
    assert_int_equal(system(command), 0);
    copy_file(CABE_GOLDEN_MODELS "/mixed-tied.gguf", model);
}

static void while_it_writes(void **state)
{
    struct asked wanted = {0};

    (void)state;
    for (int64_t stream = 0; stream < 3; stream++)
        for (int change = NOTHING; change < N_CHANGES; change++) {
            struct asked asked = {.change = (enum change)change};
            struct cabe_generator *g;
            struct cabe_session *session;
            enum cabe_status status;

            begin_again();
            open_session(&session, &g);
            assert_int_equal(load(session, g, stream == 2 ? 100 : stream), CABE_OK);
            status = ask(g, &asked);
            if (stream == 0 && change == NOTHING)
                wanted = asked;
            if (change == NOTHING || change == REPLACED || change == REMOVED) { /* what was open still is */
                assert_int_equal(status, CABE_OK);
                assert_int_equal(asked.n, NEW_TOKENS);
            } else {
                if (status != CABE_ERR_CHANGED || !strstr(err.text, cache))
                    fail_msg("%s, %d streamed: %s: %s", change_names[change], (int)stream, cabe_status_name(status),
                             err.text);
                assert_int_equal(asked.n, CHANGE_AFTER);
            }
            assert_memory_equal(asked.token, wanted.token, (size_t)asked.n * sizeof *asked.token);
            asked.change = NOTHING;
            asked.n = 0;
            if (status != CABE_OK) /* and it stays an error */
                assert_int_equal(ask(g, &asked), CABE_ERR_CHANGED);
            close_all(session, g);
        }
}

/* Between the plan, from headers, and the conversion. */
static void before_its_copy_is_made(void **state)
{
    char path[400];

    (void)state;
    for (int change = CUT; change < N_CHANGES; change++) {
        struct cabe_generator *g;
        struct cabe_session *session;
        enum cabe_status status;

        begin_again();
        open_session(&session, &g);
        change_file(model, (enum change)change);
        status = load(session, g, 0);
        if (status == CABE_OK || !strstr(err.text, model))
            fail_msg("%s: %s: %s", change_names[change], cabe_status_name(status), err.text);
        if (change == REPLACED || change == WRITTEN_TO)
            assert_int_equal(status, CABE_ERR_CHANGED);
        assert_int_equal(find_copy(path), 0);
        close_all(session, g);
    }
}

/* A handle that is loaded again finds the new model, and says so. */
static void before_it_is_loaded_again(void **state)
{
    struct asked asked = {.change = NOTHING};
    struct cabe_generator *g;
    struct cabe_session *session;

    (void)state;
    begin_again();
    open_session(&session, &g);
    assert_int_equal(load(session, g, 0), CABE_OK);
    assert_int_equal(ask(g, &asked), CABE_OK);
    cabe_generator_unload(g);
    change_file(model, REPLACED);
    assert_int_equal(load(session, g, 0), CABE_ERR_CHANGED);
    assert_non_null(strstr(err.text, model));
    close_all(session, g);
}

static void spoil(const char *path, int part, int n_parts)
{
    struct stat info;
    uint8_t byte;
    off_t at;
    int fd = open(path, O_RDWR);

    assert_int_equal(fstat(fd, &info), 0);
    at = info.st_size * part / n_parts + 1;
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x55;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* A byte of the copy, anywhere: the answer is right, or an error, and then the copy is made anew. */
static void a_damaged_copy_does_not_stay(void **state)
{
    enum { PARTS = 48 };
    struct asked wanted = {0};
    int n_errors = 0;

    (void)state;
    begin_again();
    for (int part = -1; part < PARTS; part++) {
        enum cabe_status status = CABE_ERR_FORMAT;
        char path[400];

        if (part >= 0) {
            assert_int_equal(find_copy(path), 1);
            spoil(path, part, PARTS);
        }
        for (int start = 0; start < 2 && status != CABE_OK; start++) {
            struct asked asked = {.change = NOTHING};
            struct cabe_generator *g;
            struct cabe_session *session;

            open_session(&session, &g);
            status = load(session, g, 0);
            if (status == CABE_OK)
                status = ask(g, &asked);
            if (part < 0)
                wanted = asked;
            if (status == CABE_OK)
                assert_memory_equal(asked.token, wanted.token, sizeof asked.token);
            else
                n_errors++;
            close_all(session, g);
        }
        if (status != CABE_OK)
            fail_msg("a byte in part %d of %d: the second start says %s", part, PARTS, err.text);
    }
    assert_true(n_errors > 0);
}

static int begin(void **state)
{
    (void)state;
    if (!mkdtemp(root))
        return -1;
    snprintf(model, sizeof model, "%s/model.gguf", root);
    snprintf(cache, sizeof cache, "%s/cache", root);
    return 0;
}

static int end(void **state)
{
    char command[64];

    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(while_it_writes), cmocka_unit_test(before_its_copy_is_made),
                                       cmocka_unit_test(before_it_is_loaded_again),
                                       cmocka_unit_test(a_damaged_copy_does_not_stay)};

    return cmocka_run_group_tests(tests, begin, end);
}
