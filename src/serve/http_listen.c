/* Listening sockets: TCP, unix, and those that somebody else opened; accepting. */
#include "serve/http_impl.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

#define BACKLOG 512
#define ACCEPTS_MAX 64 /* of one listener in one turn */
#define PAUSE_NS 100000000u

static enum cabe_status add_listener(struct cabe_http *http, int fd, int is_ours, int is_unix, struct cabe_error *err)
{
    struct cabe_http_listener *l = &http->listeners[http->n_listeners];
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = l};

    *l = (struct cabe_http_listener){.kind = CABE_HTTP_LISTENER,
                                     .fd = fd,
                                     .is_ours = is_ours,
                                     .is_unix = is_unix,
                                     .is_tls = !is_unix && http->tls};
    if (epoll_ctl(http->epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        return cabe_fail_errno(err, errno, "http: listening socket");
    http->n_listeners++;
    return CABE_OK;
}

static int port_of(const struct sockaddr_storage *address)
{
    if (address->ss_family == AF_INET)
        return ntohs(((const struct sockaddr_in *)address)->sin_port);
    if (address->ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)address)->sin6_port);
    return 0;
}

static void note_port(struct cabe_http *http, int fd)
{
    struct sockaddr_storage address = {0};
    socklen_t n = sizeof address;

    if (http->port == 0 && getsockname(fd, (struct sockaddr *)&address, &n) == 0)
        http->port = port_of(&address);
}

/* A socket that listens at `address`; -1 with errno. */
static int listening(int family, const struct sockaddr *address, socklen_t n)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1, saved;

    if (fd < 0)
        return -1;
    if (family != AF_UNIX)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){0}, sizeof(int));
    if (bind(fd, address, n) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

/* Every address of the host; the first must work, the port it got is the others'. */
static enum cabe_status listen_tcp(struct cabe_http *http, struct cabe_error *err)
{
    const struct cabe_http_config *config = &http->config;
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;
    char service[16];
    int code, n = 0;
    enum cabe_status status = CABE_OK;

    if (config->port < 0 || config->port > 65535)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "port %d: 0 to 65535", config->port);
    snprintf(service, sizeof service, "%d", config->port);
    code = getaddrinfo(config->host, service, &hints, &found);
    if (code != 0)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "host %s: %s", config->host, gai_strerror(code));
    for (struct addrinfo *a = found; a && status == CABE_OK && n < CABE_HTTP_LISTEN_MAX - 1; a = a->ai_next) {
        int fd;

        if (a->ai_family == AF_INET)
            ((struct sockaddr_in *)(void *)a->ai_addr)->sin_port = htons((uint16_t)(n ? http->port : config->port));
        else if (a->ai_family == AF_INET6)
            ((struct sockaddr_in6 *)(void *)a->ai_addr)->sin6_port = htons((uint16_t)(n ? http->port : config->port));
        fd = listening(a->ai_family, a->ai_addr, a->ai_addrlen);
        if (fd < 0 && n == 0 && !a->ai_next)
            status = cabe_fail_errno(err, errno, "http: %s port %d", config->host, config->port);
        if (fd < 0)
            continue;
        n++;
        note_port(http, fd);
        status = add_listener(http, fd, 1, 0, err);
        if (status != CABE_OK)
            close(fd);
    }
    freeaddrinfo(found);
    return status;
}

/* 1: the path is a socket that nobody listens on. */
static int is_abandoned(const struct sockaddr_un *address, socklen_t n)
{
    struct stat st;
    int fd, refused;

    if (lstat(address->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return 0;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return 0;
    refused = connect(fd, (const struct sockaddr *)address, n) != 0 && errno == ECONNREFUSED;
    close(fd);
    return refused;
}

static enum cabe_status listen_unix(struct cabe_http *http, struct cabe_error *err)
{
    const char *path = http->config.unix_path;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    enum cabe_status status;
    int fd;

    if (strlen(path) == 0 || strlen(path) >= sizeof address.sun_path)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "unix socket %s: 1 to %zu bytes", path, sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, strlen(path));
    http->unix_path = cabe_strdup(path);
    if (!http->unix_path)
        return cabe_fail(err, CABE_ERR_OOM, "path of a unix socket");
    fd = listening(AF_UNIX, (struct sockaddr *)&address, sizeof address);
    if (fd < 0 && errno == EADDRINUSE && is_abandoned(&address, sizeof address) && unlink(path) == 0)
        fd = listening(AF_UNIX, (struct sockaddr *)&address, sizeof address);
    if (fd < 0) {
        int saved = errno;

        cabe_free(http->unix_path); /* it is not ours to remove */
        http->unix_path = NULL;
        if (saved == EADDRINUSE)
            return cabe_fail(err, CABE_ERR_BUSY, "unix socket %s: in use", path);
        return cabe_fail_errno(err, saved, "unix socket %s", path);
    }
    status = add_listener(http, fd, 1, 1, err);
    if (status != CABE_OK)
        close(fd);
    return status;
}

/* A socket of somebody else's, who also closes it. */
static enum cabe_status listen_given(struct cabe_http *http, int fd, struct cabe_error *err)
{
    struct sockaddr_storage address = {0};
    socklen_t n = sizeof address, n_listens = sizeof(int);
    int listens = 0, flags = fcntl(fd, F_GETFL);

    if (flags < 0 || getsockname(fd, (struct sockaddr *)&address, &n) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n_listens) != 0)
        return cabe_fail_errno(err, errno, "http: descriptor %d", fd);
    if (!listens)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "http: descriptor %d does not listen", fd);
    if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
        return cabe_fail_errno(err, errno, "http: descriptor %d", fd);
    note_port(http, fd);
    return add_listener(http, fd, 0, address.ss_family == AF_UNIX, err);
}

enum cabe_status cabe_http_listen(struct cabe_http *http, struct cabe_error *err)
{
    const struct cabe_http_config *config = &http->config;
    enum cabe_status status = CABE_OK;

    if (config->n_fds < 0 || config->n_fds > CABE_HTTP_LISTEN_MAX)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "http: %d sockets, at most %d", config->n_fds, CABE_HTTP_LISTEN_MAX);
    if (config->host)
        status = listen_tcp(http, err);
    if (status == CABE_OK && config->unix_path)
        status = listen_unix(http, err);
    for (int i = 0; i < config->n_fds && status == CABE_OK; i++)
        status = listen_given(http, config->fds[i], err);
    return status;
}

void cabe_http_listen_close(struct cabe_http *http)
{
    for (int i = 0; i < http->n_listeners; i++) {
        struct cabe_http_listener *l = &http->listeners[i];

        if (http->epoll >= 0)
            epoll_ctl(http->epoll, EPOLL_CTL_DEL, l->fd, NULL);
        if (l->is_ours)
            close(l->fd);
    }
    http->n_listeners = 0;
    if (http->unix_path)
        unlink(http->unix_path);
    cabe_free(http->unix_path);
    http->unix_path = NULL;
}

/* ---- accepting ---- */

static void name_peer(const struct sockaddr_storage *address, char out[48])
{
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;

    if (address->ss_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)address)->sin_addr, out, 48);
    else if (address->ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&six->sin6_addr))
        inet_ntop(AF_INET, &six->sin6_addr.s6_addr[12], out, 48);
    else if (address->ss_family == AF_INET6)
        inet_ntop(AF_INET6, &six->sin6_addr, out, 48);
    else
        snprintf(out, 48, "unix");
}

/* Sends what is small at once, and notices a client whose machine has vanished within about three minutes. */
static void tune(int fd)
{
    static const struct {
        int level, name, value;
    } options[] = {{IPPROTO_TCP, TCP_NODELAY, 1},
                   {SOL_SOCKET, SO_KEEPALIVE, 1},
                   {IPPROTO_TCP, TCP_KEEPIDLE, 60},
                   {IPPROTO_TCP, TCP_KEEPINTVL, 20},
                   {IPPROTO_TCP, TCP_KEEPCNT, 5}};

    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int));
}

/* No descriptor or memory is left: the listener would be ready for ever, so it is left alone for a moment. */
static void pause_accepting(struct cabe_http *http)
{
    for (int i = 0; i < http->n_listeners; i++) {
        struct epoll_event event = {.events = 0, .data.ptr = &http->listeners[i]};

        epoll_ctl(http->epoll, EPOLL_CTL_MOD, http->listeners[i].fd, &event);
    }
    http->accept_again_ns = http->now_ns + PAUSE_NS;
}

void cabe_http_accept_again(struct cabe_http *http)
{
    if (http->accept_again_ns == 0 || http->now_ns < http->accept_again_ns)
        return;
    http->accept_again_ns = 0;
    for (int i = 0; i < http->n_listeners; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &http->listeners[i]};

        epoll_ctl(http->epoll, EPOLL_CTL_MOD, http->listeners[i].fd, &event);
    }
}

void cabe_http_accept(struct cabe_http *http, struct cabe_http_listener *listener)
{
    for (int i = 0; i < ACCEPTS_MAX; i++) {
        struct sockaddr_storage address = {0};
        socklen_t n = sizeof address;
        char peer[48] = "";
        int fd = accept4(listener->fd, (struct sockaddr *)&address, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                cabe_log(http->config.log, CABE_LOG_WARN, "http_accept", "{s:s}", "error", strerror(errno));
                pause_accepting(http);
            }
            if (errno == EINTR || errno == ECONNABORTED)
                continue;
            return;
        }
        if (!listener->is_unix)
            tune(fd);
        name_peer(&address, peer);
        cabe_http_adopt(http, fd, peer, listener->is_tls);
    }
}
