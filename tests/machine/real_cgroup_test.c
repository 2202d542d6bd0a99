/* A real control group of 2 GiB: its limit is the machine's, and a file read or written takes nothing from
 * it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cabe/machine.h"

#define MB (UINT64_C(1) << 20)
#define LIMIT (2048 * MB)
#define FILE_BYTES (384 * MB)

static char group[512];
static const char *skipped; /* why */

static int put(const char *folder, const char *name, const char *value)
{
    char path[640];
    int fd, failed;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    failed = write(fd, value, strlen(value)) != (ssize_t)strlen(value);
    close(fd);
    return failed ? -1 : 0;
}

/* This process's own group of a v1 memory hierarchy, where a child group may be made. */
static void own_v1_group(char *out, size_t n)
{
    char line[512];
    FILE *file = fopen("/proc/self/cgroup", "r");

    snprintf(out, n, "/sys/fs/cgroup/memory");
    while (file && fgets(line, sizeof line, file)) {
        char *path = strstr(line, ":memory:/");

        line[strcspn(line, "\n")] = '\0';
        if (path && strlen(path) > 9)
            snprintf(out, n, "/sys/fs/cgroup/memory%.400s", path + 8);
    }
    if (file)
        fclose(file);
}

static int make_group(void)
{
    char parent[480], value[32];
    int is_v1 = access("/sys/fs/cgroup/memory/memory.limit_in_bytes", F_OK) == 0;

    if (is_v1)
        own_v1_group(parent, sizeof parent);
    else
        snprintf(parent, sizeof parent, "/sys/fs/cgroup");
    snprintf(group, sizeof group, "%s/cabe_test_%ld", parent, (long)getpid());
    if (mkdir(group, 0700) != 0) {
        skipped = errno == ENOENT ? "there is no memory cgroup hierarchy" : "may not make a control group";
        group[0] = '\0';
        return 0;
    }
    snprintf(value, sizeof value, "%llu", (unsigned long long)LIMIT);
    if (put(group, is_v1 ? "memory.limit_in_bytes" : "memory.max", value) != 0) {
        skipped = "may not set the limit of a control group";
        rmdir(group);
        group[0] = '\0';
        return 0;
    }
    return 1;
}

static void drop_group(void)
{
    for (int tries = 0; group[0] && tries < 100 && rmdir(group) != 0 && errno == EBUSY; tries++)
        usleep(20000); /* the kernel still counts a child that has just ended */
}

/* Calls `body` in a child that has entered the group; its answer, or -1. */
static int in_group(int (*body)(void))
{
    int status = 0;
    pid_t child;

    fflush(NULL);
    child = fork();
    if (child == 0) {
        alarm(60);
        _exit(put(group, "cgroup.procs", "0") == 0 ? body() : 99);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

static int probe_limit(void)
{
    struct cabe_machine machine;

    if (cabe_machine_probe(&machine, NULL, NULL) != CABE_OK)
        return 1;
    printf("limit %llu MB by %s, available %llu MB, budget %llu MB\n",
           (unsigned long long)(machine.memory.limit_bytes / MB), machine.memory.limited_by,
           (unsigned long long)(machine.memory.available_bytes / MB),
           (unsigned long long)(cabe_machine_budget(&machine, NULL) / MB));
    fflush(stdout);
    if (machine.memory.limit_bytes > LIMIT)
        return 2;
    if (machine.memory.available_bytes > machine.memory.limit_bytes)
        return 3;
    return cabe_machine_budget(&machine, NULL) < LIMIT ? 0 : 4;
}

/* A folder on a disk: page cache of a tmpfs is memory that cannot be taken back. */
static const char *disk_folder(void)
{
    static const char *const folders[] = {"/var/tmp", "/tmp", "."};
    struct statfs info;

    for (size_t i = 0; i < 3; i++)
        if (statfs(folders[i], &info) == 0 && info.f_type != TMPFS_MAGIC && info.f_type != RAMFS_MAGIC &&
            (uint64_t)info.f_bavail * (uint64_t)info.f_bsize > 2 * FILE_BYTES &&
            access(folders[i], W_OK) == 0)
            return folders[i];
    return NULL;
}

static int fill_page_cache(void)
{
    static char block[1 << 20];
    char path[64];
    struct cabe_machine before, after;
    uint64_t done = 0, change;
    int fd;

    snprintf(path, sizeof path, "%s/cabe_cache_XXXXXX", disk_folder());
    fd = mkstemp(path);
    if (fd < 0)
        return 1;
    unlink(path);
    if (cabe_machine_probe(&before, NULL, NULL) != CABE_OK)
        return 2;
    memset(block, 'x', sizeof block);
    while (done < FILE_BYTES && write(fd, block, sizeof block) == (ssize_t)sizeof block)
        done += sizeof block;
    if (cabe_machine_probe(&after, NULL, NULL) != CABE_OK)
        return 2;
    change = before.memory.available_bytes > after.memory.available_bytes
                 ? before.memory.available_bytes - after.memory.available_bytes
                 : after.memory.available_bytes - before.memory.available_bytes;
    printf("%llu MB of page cache change available memory by %.2f %% (reclaimable %llu MB)\n",
           (unsigned long long)(done / MB), 100.0 * (double)change / (double)before.memory.available_bytes,
           (unsigned long long)(after.memory.reclaimable_bytes / MB));
    fflush(stdout);
    close(fd);
    if (done < FILE_BYTES)
        return 4;
    return change * 20 < before.memory.available_bytes ? 0 : 5;
}

static void test_limit(void **state)
{
    (void)state;
    assert_int_equal(in_group(probe_limit), 0);
}

static void test_page_cache(void **state)
{
    (void)state;
    if (!disk_folder()) {
        printf("skip: no folder on a disk with %llu MB for page cache\n",
               (unsigned long long)(FILE_BYTES / MB));
        skip();
    }
    assert_int_equal(in_group(fill_page_cache), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_page_cache),
    };
    int failed;

    if (!make_group()) {
        printf("skip: %s\n", skipped);
        return 77;
    }
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    drop_group();
    return failed;
}
