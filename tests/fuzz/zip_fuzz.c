/* A wheel of any bytes: refused, or what it lists is extracted below the folder it is told and nowhere else. */
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/package.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define EXTRACT_BYTES_MAX (1u << 20) /* larger ones only cost time here */

static char folder[64], inner[96];

static int remove_one(const char *path, const struct stat *info, int flag, struct FTW *at)
{
    (void)flag;
    /* A file outside of `inner`, or anything that is no plain file or folder, is an escape. */
    if (at->level == 1 && strcmp(path, inner) != 0)
        abort();
    if (!S_ISREG(info->st_mode) && !S_ISDIR(info->st_mode))
        abort();
    return at->level == 0 ? 0 : remove(path);
}

static void clean(void)
{
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    rmdir(folder);
}

static void extract(struct cabe_package *package)
{
    struct cabe_error err = {.text = ""};
    uint64_t total = 0;

    for (size_t i = 0; i < cabe_package_n_members(package); i++)
        total += cabe_package_member(package, i)->bytes;
    if (total > EXTRACT_BYTES_MAX)
        return;
    if (mkdir(inner, 0700) != 0)
        abort();
    if (cabe_package_extract(package, inner, NULL, NULL, &err) != CABE_OK && err.text[0] == '\0')
        abort();
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cabe_package *package;
    struct cabe_error err = {.text = ""};
    char path[64];
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    if (!folder[0]) {
        /* In memory where it can be: extraction syncs. */
        snprintf(folder, sizeof folder, "%s/cabe-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        if (!mkdtemp(folder))
            abort();
        snprintf(inner, sizeof inner, "%s/inner", folder);
        atexit(clean);
    }
    if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size))
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (cabe_package_open(&package, path, &err) == CABE_OK)
        extract(package);
    else if (err.text[0] == '\0')
        abort();
    cabe_package_close(package);
    close(fd);
    return 0;
}
