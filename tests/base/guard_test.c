#include "base/guard.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/threads.h"

#define FILE_BYTES (1u << 20)

struct mapped {
    int fd;
    uint8_t *memory;
    struct cabe_guard *guard;
};

static struct mapped map_file(const char *name, enum cabe_guard_access access)
{
    uint8_t ones[4096];
    char path[] = "/tmp/cabe-guard-XXXXXX";
    int protection = access == CABE_GUARD_WRITE ? PROT_READ | PROT_WRITE : PROT_READ;
    struct mapped mapped = {.fd = mkstemp(path)};
    struct cabe_error err = {0};

    memset(ones, 1, sizeof ones);
    assert_true(mapped.fd >= 0);
    unlink(path);
    for (unsigned at = 0; at < FILE_BYTES; at += sizeof ones)
        assert_int_equal(write(mapped.fd, ones, sizeof ones), sizeof ones);
    mapped.memory = mmap(NULL, FILE_BYTES, protection, MAP_SHARED, mapped.fd, 0);
    assert_ptr_not_equal(mapped.memory, MAP_FAILED);
    if (name)
        assert_int_equal(
            cabe_guard_add(&mapped.guard, mapped.memory, FILE_BYTES, access, mapped.fd, name, &err), CABE_OK);
    return mapped;
}

static void unmap_file(struct mapped *mapped)
{
    cabe_guard_remove(mapped->guard);
    munmap(mapped->memory, FILE_BYTES);
    close(mapped->fd);
}

struct sums {
    const uint8_t *memory;
    uint64_t of_member[8][8];
    int fd_to_cut; /* shortened between two barriers, in the middle of the region */
};

static void sum_body(struct cabe_team *team, int member, void *arg)
{
    struct sums *sums = arg;
    int64_t begin, end;

    if (member == 0 && sums->fd_to_cut >= 0)
        assert_int_equal(ftruncate(sums->fd_to_cut, FILE_BYTES / 4), 0);
    cabe_team_barrier(team, member);
    sums->of_member[member][0] = 0;
    while (cabe_team_next(team, FILE_BYTES, 1 << 14, &begin, &end))
        for (int64_t i = begin; i < end; i++)
            sums->of_member[member][0] += sums->memory[i];
}

static uint64_t sum_with_team(struct cabe_team *team, struct mapped *mapped, int cut)
{
    struct sums sums = {.memory = mapped->memory, .fd_to_cut = cut ? mapped->fd : -1};
    uint64_t total = 0;

    cabe_team_run(team, sum_body, &sums);
    for (int m = 0; m < cabe_team_size(team); m++)
        total += sums.of_member[m][0];
    return total;
}

static void a_file_cut_during_a_region(void **state)
{
    struct mapped cut = map_file("cut.gguf", CABE_GUARD_READ),
                  whole = map_file("whole.gguf", CABE_GUARD_READ);
    struct cabe_team *team;
    struct cabe_error err;

    (void)state;
    assert_int_equal(cabe_team_open(&team, 4, NULL), CABE_OK);
    assert_int_equal(sum_with_team(team, &cut, 0), FILE_BYTES);
    assert_int_equal(cabe_guard_check(cut.guard, &err), CABE_OK);

    assert_int_equal(sum_with_team(team, &cut, 1), FILE_BYTES / 4);
    assert_int_equal(cabe_guard_check(cut.guard, &err), CABE_ERR_CHANGED);
    assert_string_equal(err.text, "cut.gguf: had 1048576 bytes when it was mapped and has 262144 now");
    assert_int_equal(cabe_guard_check_memory(cut.memory + 5000, 10, &err), CABE_ERR_CHANGED);
    assert_int_equal(cabe_guard_check_memory(whole.memory, FILE_BYTES, &err), CABE_OK);
    assert_int_equal(cabe_guard_check(whole.guard, &err), CABE_OK);

    /* A file that has grown back is still not the file that was mapped. */
    assert_int_equal(ftruncate(cut.fd, FILE_BYTES), 0);
    assert_int_equal(cabe_guard_check(cut.guard, &err), CABE_ERR_CHANGED);
    assert_string_equal(err.text, "cut.gguf: a part of the mapped file could not be read");
    cabe_team_close(team);
    unmap_file(&cut);
    unmap_file(&whole);
}

/* Inside its last page a shorter file reads as zeros, without a signal. */
static void a_file_cut_inside_a_page(void **state)
{
    struct mapped cut = map_file("cut.gguf", CABE_GUARD_READ);
    struct cabe_error err;

    (void)state;
    assert_int_equal(ftruncate(cut.fd, FILE_BYTES - 100), 0);
    assert_int_equal(cut.memory[FILE_BYTES - 1], 0);
    assert_int_equal(cabe_guard_check(cut.guard, &err), CABE_ERR_CHANGED);
    unmap_file(&cut);
}

/* As long as before, but no longer what was mapped. */
static void a_file_that_is_written_to(void **state)
{
    struct mapped file = map_file("a.gguf", CABE_GUARD_READ), own = map_file("registry", CABE_GUARD_WRITE);
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1000}};
    struct cabe_error err;

    (void)state;
    assert_int_equal(futimens(own.fd, times), 0);
    assert_int_equal(cabe_guard_check(own.guard, &err), CABE_OK);
    assert_int_equal(cabe_guard_check(file.guard, &err), CABE_OK);
    assert_int_equal(pwrite(file.fd, "x", 1, 5), 1);
    assert_int_equal(futimens(file.fd, times), 0); /* the clock of files is coarse */
    assert_int_equal(cabe_guard_check(file.guard, &err), CABE_ERR_CHANGED);
    assert_string_equal(err.text, "a.gguf: was written to after it was mapped");
    unmap_file(&file);
    unmap_file(&own);
}

static void a_writable_mapping(void **state)
{
    struct mapped cut = map_file("registry", CABE_GUARD_WRITE);
    struct cabe_error err;

    (void)state;
    assert_int_equal(ftruncate(cut.fd, 0), 0);
    cut.memory[5] = 7;
    cut.memory[FILE_BYTES - 1] = 8;
    assert_int_equal(cut.memory[5], 7);
    assert_int_equal(cabe_guard_check(cut.guard, &err), CABE_ERR_CHANGED);
    unmap_file(&cut);
}

static void slots_are_used_again(void **state)
{
    static struct cabe_guard *guards[CABE_GUARD_MAX];
    struct mapped file = map_file(NULL, CABE_GUARD_READ);
    struct cabe_guard *extra;
    struct cabe_error err;

    (void)state;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < CABE_GUARD_MAX; i++)
            assert_int_equal(
                cabe_guard_add(&guards[i], file.memory, FILE_BYTES, CABE_GUARD_READ, -1, "x", &err), CABE_OK);
        assert_int_equal(cabe_guard_add(&extra, file.memory, FILE_BYTES, CABE_GUARD_READ, -1, "a.gguf", &err),
                         CABE_ERR_LIMIT);
        assert_null(extra);
        assert_string_equal(err.text, "a.gguf: 1024 files are mapped already");
        for (int i = 0; i < CABE_GUARD_MAX; i++)
            cabe_guard_remove(guards[i]);
    }
    assert_int_equal(cabe_guard_add(&extra, NULL, 1, CABE_GUARD_READ, -1, "a", &err), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_guard_add(&extra, file.memory, 1, CABE_GUARD_READ, 9999, "a", &err), CABE_ERR_IO);
    cabe_guard_remove(NULL);
    unmap_file(&file);
}

/* Runs `body` in a child and returns how it ended. */
static int end_of(void (*body)(void))
{
    pid_t child = fork();
    int result;

    assert_true(child >= 0);
    if (child == 0) {
        body();
        _exit(0);
    }
    assert_true(waitpid(child, &result, 0) == child);
    return result;
}

static void touch_foreign(void)
{
    struct mapped guarded = map_file("a", CABE_GUARD_READ), foreign = map_file(NULL, CABE_GUARD_READ);

    signal(SIGALRM, SIG_DFL);
    alarm(20); /* a handler that loops would hang */
    if (ftruncate(foreign.fd, 0) != 0 || guarded.memory[0] != 1)
        _exit(3);
    _exit(foreign.memory[FILE_BYTES / 2] + 4);
}

static void foreign_handler(int number)
{
    (void)number;
    _exit(42);
}

static struct sigaction ours;

static void chaining_handler(int number)
{
    siginfo_t info = {.si_code = 1};

    ours.sa_sigaction(number, &info, NULL);
}

static void touch_foreign_with_default(void)
{
    signal(SIGBUS, SIG_DFL);
    touch_foreign();
}

static void touch_foreign_with_handler(void)
{
    signal(SIGBUS, foreign_handler);
    touch_foreign();
}

static void touch_foreign_with_ours_below(void)
{
    struct mapped first = map_file("a", CABE_GUARD_READ);

    /* Theirs calls ours, ours calls theirs: it must end. */
    sigaction(SIGBUS, NULL, &ours);
    signal(SIGBUS, chaining_handler);
    if (first.memory[0] != 1)
        _exit(3);
    touch_foreign();
}

static void foreign_faults_go_on(void **state)
{
    int result = end_of(touch_foreign_with_default);

    (void)state;
    assert_true(WIFSIGNALED(result) && WTERMSIG(result) == SIGBUS);
    result = end_of(touch_foreign_with_handler);
    assert_true(WIFEXITED(result) && WEXITSTATUS(result) == 42);
    result = end_of(touch_foreign_with_ours_below);
    assert_true(WIFSIGNALED(result) && WTERMSIG(result) == SIGBUS);
}

static void be_sent_the_signal(void)
{
    signal(SIGBUS, SIG_DFL);
    map_file("a", CABE_GUARD_READ);
    kill(getpid(), SIGBUS);
    usleep(100000);
}

static void a_sent_signal_ends_us(void **state)
{
    int result = end_of(be_sent_the_signal);

    (void)state;
    assert_true(WIFSIGNALED(result) && WTERMSIG(result) == SIGBUS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(foreign_faults_go_on),       cmocka_unit_test(a_sent_signal_ends_us),
        cmocka_unit_test(a_file_cut_during_a_region), cmocka_unit_test(a_file_cut_inside_a_page),
        cmocka_unit_test(a_file_that_is_written_to), cmocka_unit_test(a_writable_mapping),         cmocka_unit_test(slots_are_used_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
