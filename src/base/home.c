#include "base/home.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
    const char *name;   /* under CABE_HOME */
    const char *xdg;    /* variable */
    const char *usual;  /* under HOME, where the variable is not set */
    const char *suffix; /* under the XDG folder */
} kinds[] = {
    [CABE_HOME_MODELS] = {"models", "XDG_DATA_HOME", ".local/share", "cabe/models"},
    [CABE_HOME_DATA] = {"data", "XDG_DATA_HOME", ".local/share", "cabe"},
    [CABE_HOME_CACHE] = {"cache", "XDG_CACHE_HOME", ".cache", "cabe"},
    [CABE_HOME_STATE] = {"state", "XDG_STATE_HOME", ".local/state", "cabe"},
};

static enum cabe_status checked(const char *path, int n, struct cabe_error *err)
{
    if (n < 0 || n >= CABE_HOME_PATH_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT, "%.80s...: path longer than %d bytes", path,
                         CABE_HOME_PATH_MAX - 1);
    return CABE_OK;
}

/* HOME, else the password file's: a daemon or a container may have no HOME. */
static const char *user_home(char *buffer, size_t buffer_bytes)
{
    const char *home = getenv("HOME");
    struct passwd entry, *found = NULL;

    if (home && home[0] == '/')
        return home;
    if (getpwuid_r(getuid(), &entry, buffer, buffer_bytes, &found) == 0 && found && found->pw_dir &&
        found->pw_dir[0] == '/')
        return found->pw_dir;
    return NULL;
}

enum cabe_status cabe_home_path(char out[CABE_HOME_PATH_MAX], enum cabe_home kind, struct cabe_error *err)
{
    const char *home = getenv("CABE_HOME");
    const char *xdg = getenv(kinds[kind].xdg);
    char buffer[4096];

    out[0] = '\0';
    if (home && home[0])
        return checked(home, snprintf(out, CABE_HOME_PATH_MAX, "%s/%s", home, kinds[kind].name), err);
    if (xdg && xdg[0] == '/')
        return checked(xdg, snprintf(out, CABE_HOME_PATH_MAX, "%s/%s", xdg, kinds[kind].suffix), err);
    home = user_home(buffer, sizeof buffer);
    if (!home)
        return cabe_fail(err, CABE_ERR_NOT_FOUND, "no folder for %s: set CABE_HOME or HOME",
                         kinds[kind].name);
    return checked(home,
                   snprintf(out, CABE_HOME_PATH_MAX, "%s/%s/%s", home, kinds[kind].usual, kinds[kind].suffix),
                   err);
}

enum cabe_status cabe_make_dirs(const char *path, unsigned mode, struct cabe_error *err)
{
    char part[CABE_HOME_PATH_MAX];
    struct stat info;
    size_t n = strlen(path);

    if (n == 0 || n >= sizeof part)
        return cabe_fail(err, CABE_ERR_LIMIT, "%.80s...: path of %zu bytes, wanted 1 to %zu", path, n,
                         sizeof part - 1);
    memcpy(part, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (part[i] != '/' && part[i] != '\0')
            continue;
        part[i] = '\0';
        if (mkdir(part, mode) != 0 && errno != EEXIST) {
            int why = errno;

            /* A parent that we may not write but that is there (EROFS, EACCES) is no obstacle. */
            if (stat(part, &info) != 0 || !S_ISDIR(info.st_mode))
                return cabe_fail_errno(err, why, "%s: cannot create this folder", part);
        }
        part[i] = i < n ? '/' : '\0';
    }
    if (stat(path, &info) != 0)
        return cabe_fail_errno(err, errno, "%s", path);
    if (!S_ISDIR(info.st_mode))
        return cabe_fail(err, CABE_ERR_IO, "%s: is there but is not a folder", path);
    return CABE_OK;
}

enum cabe_status cabe_home_dir(char out[CABE_HOME_PATH_MAX], enum cabe_home kind, struct cabe_error *err)
{
    enum cabe_status status = cabe_home_path(out, kind, err);

    return status == CABE_OK ? cabe_make_dirs(out, 0700, err) : status;
}

enum cabe_status cabe_home_file(char out[CABE_HOME_PATH_MAX], enum cabe_home kind, const char *name,
                                struct cabe_error *err)
{
    enum cabe_status status = cabe_home_path(out, kind, err);
    size_t used = strlen(out);
    char *slash;

    if (status == CABE_OK)
        status = checked(out, (int)used + snprintf(out + used, CABE_HOME_PATH_MAX - used, "/%s", name), err);
    if (status != CABE_OK)
        return status;
    slash = strrchr(out, '/');
    *slash = '\0';
    status = cabe_make_dirs(out, 0700, err);
    *slash = '/';
    return status;
}
