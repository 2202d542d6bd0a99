#include "http_get.h"

#include <errno.h>
#include <jansson.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/memory.h"

#define ANSWER_MAX (UINT64_C(64) << 20)
#define DEFAULT_PORT "11500"

enum cabe_status cli_server_parse(struct cli_server *server, const char *url, struct cabe_error *err)
{
    const char *at = url, *end, *colon;

    memset(server, 0, sizeof *server);
    if (strncmp(url, "unix:", 5) == 0) {
        if (url[5] == '\0' || strlen(url + 5) >= sizeof server->unix_path)
            return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: wanted a path of 1 to %zu bytes", url,
                             sizeof server->unix_path - 1);
        strcpy(server->unix_path, url + 5);
        strcpy(server->host, "localhost");
        return CABE_OK;
    }
    if (strncasecmp(url, "https://", 8) == 0)
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: TLS is not spoken here; ask over a unix socket, or locally", url);
    if (strncasecmp(url, "http://", 7) == 0)
        at = url + 7;
    end = at + strcspn(at, "/");
    if (at[0] == '[' && (colon = strchr(at, ']')) && colon < end) { /* an IPv6 address */
        at++;
        snprintf(server->host, sizeof server->host, "%.*s", (int)(colon - at), at);
        colon++;
    } else {
        colon = at + strcspn(at, ":/");
        snprintf(server->host, sizeof server->host, "%.*s", (int)(colon - at), at);
    }
    snprintf(server->port, sizeof server->port, "%s", DEFAULT_PORT);
    if (colon < end && *colon == ':')
        snprintf(server->port, sizeof server->port, "%.*s", (int)(end - colon - 1), colon + 1);
    if (!server->host[0] || strspn(server->port, "0123456789") != strlen(server->port) || (*end && strcmp(end, "/") != 0))
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: wanted http://HOST:PORT or unix:PATH", url);
    return CABE_OK;
}

/* ---- the connection ---- */

static void limit_wait(int fd)
{
    const struct timeval wait = {.tv_sec = 10};

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
}

static enum cabe_status connect_unix(const struct cli_server *server, int *fd, struct cabe_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    strcpy(address.sun_path, server->unix_path);
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*fd < 0)
        return cabe_fail_errno(err, errno, "socket");
    limit_wait(*fd);
    if (connect(*fd, (struct sockaddr *)&address, sizeof address) == 0)
        return CABE_OK;
    return cabe_fail_errno(err, errno, "%s", server->unix_path);
}

static enum cabe_status connect_tcp(const struct cli_server *server, int *fd, struct cabe_error *err)
{
    const struct addrinfo wanted = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *list;
    int why = getaddrinfo(server->host, server->port, &wanted, &list), error = 0;

    if (why != 0)
        return cabe_fail(err, CABE_ERR_NOT_FOUND, "%s: %s", server->host, gai_strerror(why));
    for (struct addrinfo *at = list; at; at = at->ai_next) {
        *fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
        if (*fd < 0)
            continue;
        limit_wait(*fd);
        if (connect(*fd, at->ai_addr, at->ai_addrlen) == 0)
            break;
        error = errno;
        close(*fd);
        *fd = -1;
    }
    freeaddrinfo(list);
    return *fd >= 0 ? CABE_OK : cabe_fail_errno(err, error, "no server at %s:%s", server->host, server->port);
}

static enum cabe_status send_all(int fd, const char *text, size_t n, struct cabe_error *err)
{
    while (n > 0) {
        ssize_t sent = send(fd, text, n, MSG_NOSIGNAL);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return cabe_fail_errno(err, errno, "sending");
        text += sent;
        n -= (size_t)sent;
    }
    return CABE_OK;
}

static enum cabe_status receive_all(int fd, char **out, size_t *n, struct cabe_error *err)
{
    size_t room = 0;

    *out = NULL;
    *n = 0;
    for (;;) {
        ssize_t got;

        if (*n + 1 >= room) {
            char *grown = room < ANSWER_MAX ? cabe_realloc(*out, room ? 2 * room : 16384, 1) : NULL;

            if (!grown)
                return cabe_fail(err, CABE_ERR_LIMIT, "an answer of more than %zu bytes", room);
            *out = grown;
            room = room ? 2 * room : 16384;
        }
        got = recv(fd, *out + *n, room - *n - 1, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return cabe_fail_errno(err, errno, "receiving");
        if (got == 0)
            break;
        *n += (size_t)got;
    }
    (*out)[*n] = '\0';
    return CABE_OK;
}

/* ---- the answer ---- */

static enum cabe_status refuse(int status, const char *body, size_t n, struct cabe_error *err)
{
    json_t *json = json_loadb(body, n, 0, NULL), *error = json_object_get(json, "error");
    const char *text = json_is_object(error) ? json_string_value(json_object_get(error, "message")) : json_string_value(error);

    cabe_fail(err, status == 401 || status == 403 ? CABE_ERR_PERMISSION : status == 503 ? CABE_ERR_BUSY : CABE_ERR_IO,
              "the server answers %d%s%.300s", status, text ? ": " : "", text ? text : "");
    json_decref(json);
    return err ? err->status : CABE_ERR_IO;
}

static enum cabe_status read_answer(char *answer, size_t n, char **body, size_t *n_body, struct cabe_error *err)
{
    char *head_end = strstr(answer, "\r\n\r\n");
    const char *length = NULL;
    int status = 0;
    size_t left;

    if (!head_end || sscanf(answer, "HTTP/1.%*1[01] %d", &status) != 1)
        return cabe_fail(err, CABE_ERR_FORMAT, "no HTTP answer");
    left = n - (size_t)(head_end + 4 - answer);
    for (const char *line = answer; line < head_end && line > (char *)1; line = strstr(line, "\r\n") + 2)
        if (strncasecmp(line, "content-length:", 15) == 0)
            length = line + 15;
    if (length && strtoull(length, NULL, 10) != left)
        return cabe_fail(err, CABE_ERR_IO, "the answer is cut: %zu of %s bytes", left, length);
    memmove(answer, head_end + 4, left + 1);
    if (status != 200)
        return refuse(status, answer, left, err);
    *body = answer;
    *n_body = left;
    return CABE_OK;
}

enum cabe_status cli_http_get(const struct cli_server *server, const char *path, char **body, size_t *n,
                              struct cabe_error *err)
{
    char request[1024], *answer = NULL;
    enum cabe_status status;
    size_t n_answer;
    int fd = -1, length;

    *body = NULL;
    length = snprintf(request, sizeof request,
                      "GET %s HTTP/1.1\r\nHost: %s%s%s\r\nConnection: close\r\nAccept: application/json\r\n%s%s%s\r\n", path,
                      strchr(server->host, ':') ? "[" : "", server->host, strchr(server->host, ':') ? "]" : "",
                      server->key ? "Authorization: Bearer " : "", server->key ? server->key : "",
                      server->key ? "\r\n" : "");
    if (length < 0 || (size_t)length >= sizeof request)
        return cabe_fail(err, CABE_ERR_LIMIT, "the key is too long");
    status = server->unix_path[0] ? connect_unix(server, &fd, err) : connect_tcp(server, &fd, err);
    if (status == CABE_OK)
        status = send_all(fd, request, (size_t)length, err);
    if (status == CABE_OK)
        status = receive_all(fd, &answer, &n_answer, err);
    if (status == CABE_OK)
        status = read_answer(answer, n_answer, body, n, err);
    if (fd >= 0)
        close(fd);
    if (status != CABE_OK)
        cabe_free(answer);
    return status;
}
