#include "serve/notify.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FIRST_FD 3 /* SD_LISTEN_FDS_START */

/* A decimal count of the environment; -1: none. */
static long long variable(const char *name)
{
    const char *text = getenv(name);
    char *end;
    long long value;

    if (!text || !text[0])
        return -1;
    errno = 0;
    value = strtoll(text, &end, 10);
    return *end == '\0' && errno == 0 && value >= 0 ? value : -1;
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t n = strlen(path);
    int fd;

    if ((path[0] != '/' && path[0] != '@') || n < 2 || n >= sizeof address.sun_path)
        return -1;
    memcpy(address.sun_path, path, n);
    if (path[0] == '@') /* a name without a file */
        address.sun_path[0] = '\0';
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address,
                           (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (path[0] != '@'))) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

void cabe_notify_open(struct cabe_notify *notify)
{
    const char *path = getenv("NOTIFY_SOCKET");
    long long us = variable("WATCHDOG_USEC"), pid = variable("WATCHDOG_PID");

    *notify = (struct cabe_notify){.fd = path ? connect_to(path) : -1};
    if (notify->fd >= 0 && us > 0 && (pid < 0 || pid == getpid()))
        notify->watchdog_ms = us / 1000 < 86400000 ? (unsigned)(us / 1000) : 86400000;
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
}

void cabe_notify_close(struct cabe_notify *notify)
{
    if (notify->fd >= 0)
        close(notify->fd);
    notify->fd = -1;
}

void cabe_notify_send(const struct cabe_notify *notify, const char *format, ...)
{
    char text[512];
    va_list args;
    int n;

    if (notify->fd < 0)
        return;
    va_start(args, format);
    n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n > 0) /* whoever does not read it misses it */
        (void)!send(notify->fd, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int is_listening_stream(int fd)
{
    int type = 0, listens = 0;
    socklen_t n = sizeof type, m = sizeof listens;

    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) == 0 && type == SOCK_STREAM &&
           getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &m) == 0 && listens;
}

int cabe_listen_is_local(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_storage room;
    } address = {0};
    socklen_t n = sizeof address;

    if (getsockname(fd, &address.any, &n) != 0)
        return 0;
    if (address.any.sa_family == AF_INET)
        return ntohl(address.v4.sin_addr.s_addr) >> 24 == 127;
    if (address.any.sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&address.v6.sin6_addr);
    return address.any.sa_family == AF_UNIX;
}

enum cabe_status cabe_listen_fds(int *fds, int n_max, int *n, struct cabe_error *err)
{
    long long pid = variable("LISTEN_PID"), count = variable("LISTEN_FDS");

    *n = 0;
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    if (pid != getpid() || count <= 0)
        return CABE_OK;
    if (count > n_max)
        return cabe_fail(err, CABE_ERR_LIMIT, "LISTEN_FDS: %lld sockets, at most %d are taken", count, n_max);
    for (int fd = FIRST_FD; fd < FIRST_FD + (int)count; fd++) {
        if (!is_listening_stream(fd))
            return cabe_fail(err, CABE_ERR_ARGUMENT, "LISTEN_FDS: descriptor %d is not a listening stream socket", fd);
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 || fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0)
            return cabe_fail_errno(err, errno, "LISTEN_FDS: descriptor %d", fd);
        fds[(*n)++] = fd;
    }
    return CABE_OK;
}
