/* A client of tests: sends bytes, reads the whole answer. */
#ifndef CABE_TEST_HTTP_CLIENT_H
#define CABE_TEST_HTTP_CLIENT_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A connection to 127.0.0.1, or -1. */
static inline int http_connect(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    struct timeval limit = {20, 0};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Sends and reads until the other side closes; the answer ends with a NUL. Returns its bytes, -1: no connection. */
static inline long http_exchange(int port, const char *bytes, size_t n, char *answer, size_t room)
{
    int fd = http_connect(port);
    size_t got = 0;

    if (fd < 0)
        return -1;
    while (n > 0) {
        ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);

        if (sent <= 0)
            break;
        bytes += sent;
        n -= (size_t)sent;
    }
    while (got + 1 < room) {
        ssize_t more = recv(fd, answer + got, room - 1 - got, 0);

        if (more <= 0)
            break;
        got += (size_t)more;
    }
    answer[got] = '\0';
    close(fd);
    return (long)got;
}

/* One request with a body (NULL: none) and header lines ("x: y\r\n", or ""); returns the status, 0: none. */
static inline int http_ask(int port, const char *method, const char *path, const char *headers, const char *body,
                           char *answer, size_t room)
{
    size_t n = strlen(headers) + strlen(path) + (body ? strlen(body) : 0) + 256;
    char *text = malloc(n);
    int status = 0;

    if (body)
        snprintf(text, n, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n%s",
                 method, path, headers, strlen(body), body);
    else
        snprintf(text, n, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s\r\n", method, path, headers);
    if (http_exchange(port, text, strlen(text), answer, room) > 12)
        status = atoi(answer + 9);
    free(text);
    return status;
}

#endif
