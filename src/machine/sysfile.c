#include "machine/sysfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int join(char out[SYSFILE_PATH_MAX], const char *root, const char *path)
{
    int n = snprintf(out, SYSFILE_PATH_MAX, "%s%s", root ? root : "", path);

    return n > 0 && n < SYSFILE_PATH_MAX;
}

static int open_below(const char *root, const char *path)
{
    char full[SYSFILE_PATH_MAX];

    return join(full, root, path) ? open(full, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
}

static ssize_t read_some(int fd, char *out, size_t n)
{
    ssize_t got;

    do
        got = read(fd, out, n);
    while (got < 0 && errno == EINTR);
    return got;
}

long cabe_sysfile_text(const char *root, const char *path, char *out, size_t n)
{
    int fd = open_below(root, path);
    size_t used = 0;
    ssize_t got = 0;

    out[0] = '\0';
    if (fd < 0)
        return -1;
    while (used < n - 1 && (got = read_some(fd, out + used, n - 1 - used)) > 0)
        used += (size_t)got;
    close(fd);
    while (used > 0 && (out[used - 1] == '\n' || out[used - 1] == ' ' || out[used - 1] == '\0'))
        used--;
    out[used] = '\0';
    return got < 0 ? -1 : (long)used;
}

int cabe_parse_u64(const char **text, uint64_t *value)
{
    const char *at = *text;
    uint64_t sum = 0;

    while (*at == ' ' || *at == '\t')
        at++;
    if (*at < '0' || *at > '9')
        return 0;
    for (; *at >= '0' && *at <= '9'; at++)
        if (__builtin_mul_overflow(sum, 10u, &sum) ||
            __builtin_add_overflow(sum, (unsigned)(*at - '0'), &sum))
            return 0;
    *value = sum;
    *text = at;
    return 1;
}

int cabe_sysfile_u64(const char *root, const char *path, uint64_t *value)
{
    char text[64];
    const char *at = text;

    return cabe_sysfile_text(root, path, text, sizeof text) > 0 && cabe_parse_u64(&at, value) && *at == '\0';
}

int cabe_sysfile_lines(const char *root, const char *path, int (*line)(void *self, char *text), void *self)
{
    char buffer[SYSFILE_LINE_MAX];
    size_t used = 0;
    int skipping = 0, more = 1;
    int fd = open_below(root, path);
    ssize_t got;

    if (fd < 0)
        return -1;
    while (more && (got = read_some(fd, buffer + used, sizeof buffer - 1 - used)) > 0) {
        char *begin = buffer, *end;

        used += (size_t)got;
        buffer[used] = '\0';
        while (more && (end = memchr(begin, '\n', used - (size_t)(begin - buffer)))) {
            *end = '\0';
            more = skipping || line(self, begin);
            skipping = 0;
            begin = end + 1;
        }
        used -= (size_t)(begin - buffer);
        memmove(buffer, begin, used);
        if (used == sizeof buffer - 1) { /* a line that does not fit: its rest is passed over too */
            skipping = 1;
            used = 0;
        }
    }
    if (more && used > 0 && !skipping) {
        buffer[used] = '\0';
        line(self, buffer);
    }
    close(fd);
    return 0;
}

int cabe_sysfile_is_dir(const char *root, const char *path)
{
    char full[SYSFILE_PATH_MAX];
    struct stat info;

    return join(full, root, path) && stat(full, &info) == 0 && S_ISDIR(info.st_mode);
}

int cabe_cpuset_parse(struct cpuset *set, const char *list)
{
    struct cpuset found = {{0}};
    uint64_t first, last;

    *set = found;
    while (cabe_parse_u64(&list, &first)) {
        last = first;
        if (*list == '-') {
            list++;
            if (!cabe_parse_u64(&list, &last))
                return 0;
        }
        if (last < first || last >= CPUSET_MAX)
            return 0;
        for (uint64_t cpu = first; cpu <= last; cpu++)
            cabe_cpuset_add(&found, (int)cpu);
        if (*list != ',')
            break;
        list++;
    }
    while (*list == ' ' || *list == '\t' || *list == '\n')
        list++;
    if (*list != '\0' || cabe_cpuset_first(&found) < 0)
        return 0;
    *set = found;
    return 1;
}

int cabe_cpuset_count(const struct cpuset *set)
{
    int n = 0;

    for (int i = 0; i < CPUSET_MAX / 64; i++)
        n += __builtin_popcountll(set->word[i]);
    return n;
}

int cabe_cpuset_first(const struct cpuset *set)
{
    for (int i = 0; i < CPUSET_MAX / 64; i++)
        if (set->word[i])
            return i * 64 + __builtin_ctzll(set->word[i]);
    return -1;
}

void cabe_cpuset_intersect(struct cpuset *set, const struct cpuset *other)
{
    struct cpuset both;

    for (int i = 0; i < CPUSET_MAX / 64; i++)
        both.word[i] = set->word[i] & other->word[i];
    if (cabe_cpuset_first(&both) >= 0)
        *set = both;
}
