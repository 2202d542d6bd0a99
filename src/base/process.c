#include "base/process.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The whole of a small file of /proc; -1 where there is none. */
static int read_proc(const char *path, char *text, size_t room)
{
    size_t n = 0;
    ssize_t got;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return -1;
    while (n < room - 1 && (got = read(fd, text + n, room - 1 - n)) > 0)
        n += (size_t)got;
    close(fd);
    text[n] = '\0';
    return n > 0 ? 0 : -1;
}

/* Of a line "\nName:   123 kB"; 0 when there is no such line. */
static uint64_t field_bytes(const char *text, const char *name)
{
    const char *at = strstr(text, name);

    return at ? strtoull(at + strlen(name), NULL, 10) * 1024 : 0;
}

int cabe_rss_read(struct cabe_rss *rss)
{
    char text[4096];

    *rss = (struct cabe_rss){0};
    if (read_proc("/proc/self/status", text, sizeof text) != 0)
        return -1;
    rss->rss_bytes = field_bytes(text, "\nVmRSS:");
    rss->high_bytes = field_bytes(text, "\nVmHWM:");
    rss->anon_bytes = field_bytes(text, "\nRssAnon:");
    rss->file_bytes = field_bytes(text, "\nRssFile:");
    rss->shared_bytes = field_bytes(text, "\nRssShmem:");
    /* The two are read at different moments. */
    if (rss->high_bytes < rss->rss_bytes)
        rss->high_bytes = rss->rss_bytes;
    return rss->rss_bytes > 0 ? 0 : -1;
}

uint64_t cabe_rss_exact(void)
{
    char text[2048];

    if (read_proc("/proc/self/smaps_rollup", text, sizeof text) != 0)
        return 0;
    return field_bytes(text, "\nRss:");
}

int cabe_rss_reset_high(void)
{
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    int result;

    if (fd < 0)
        return -1;
    result = write(fd, "5", 1) == 1 ? 0 : -1;
    close(fd);
    return result;
}
