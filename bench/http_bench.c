/*
 * HTTP alone: small requests a second on one core, alone and beside idle streams, and what an idle stream costs.
 *
 *     http_bench [SECONDS [STREAMS]]      the server on one core, its client on another
 *     http_bench --serve PORT             the server, for another load generator
 */
#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "serve/http.h"

#define CLIENTS 32

static void request(void *self, struct cabe_http_exchange *x)
{
    static const char body[] = "{\"status\":\"ok\"}";

    (void)self;
    if (strcmp(cabe_http_path(x), "/stream") == 0) {
        cabe_http_begin(x, 200, "text/event-stream");
        (void)!cabe_http_send(x, "data: 1\n\n", 9);
    } else {
        cabe_http_reply(x, 200, "application/json", body, sizeof body - 1);
    }
}

static void pin(int core)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET((size_t)core, &set);
    (void)!sched_setaffinity(0, sizeof set, &set);
}

/* Writes its port to `fd` and serves until it is killed. */
static int serve(int port, int fd)
{
    struct cabe_http_config config = {.host = "127.0.0.1", .port = port, .request = request, .n_connections = 100000};
    struct cabe_http *http;
    struct cabe_error err;

    pin(0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (cabe_http_open(&http, &config, &err) != CABE_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    port = cabe_http_port(http);
    if (fd >= 0 && write(fd, &port, sizeof port) != sizeof port)
        return 1;
    return cabe_http_run(http, &err) != CABE_OK;
}

static int dial(int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0) {
        perror("connect");
        exit(1);
    }
    return fd;
}

static void say(int fd, const char *text)
{
    if (send(fd, text, strlen(text), MSG_NOSIGNAL) != (ssize_t)strlen(text))
        exit(1);
}

/* Requests a second of CLIENTS connections, each with one request on its way. */
static double rate(int port, double seconds)
{
    static const char ask[] = "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n";
    int epoll = epoll_create1(0), fds[CLIENTS];
    uint64_t start, now, n = 0;
    struct epoll_event events[CLIENTS];
    char answer[4096];

    for (int i = 0; i < CLIENTS; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fds[i] = dial(port)};

        epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event);
        say(fds[i], ask);
    }
    start = cabe_clock_ns();
    do {
        int ready = epoll_wait(epoll, events, CLIENTS, 1000);

        for (int i = 0; i < ready; i++) {
            if (recv(events[i].data.fd, answer, sizeof answer, 0) <= 0)
                exit(1);
            n++; /* an answer is small: it comes in one piece */
            say(events[i].data.fd, ask);
        }
        now = cabe_clock_ns();
    } while ((double)(now - start) < seconds * 1e9);
    for (int i = 0; i < CLIENTS; i++)
        close(fds[i]);
    close(epoll);
    return (double)n / ((double)(now - start) / 1e9);
}

static long resident(pid_t process)
{
    char path[64];
    long pages = 0;
    FILE *file;

    snprintf(path, sizeof path, "/proc/%d/statm", (int)process);
    file = fopen(path, "r");
    if (!file || fscanf(file, "%*s %ld", &pages) != 1)
        pages = 0;
    if (file)
        fclose(file);
    return pages * sysconf(_SC_PAGESIZE);
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 3;
    int n_streams = argc > 2 ? atoi(argv[2]) : 1000, port = 0, ends[2];
    struct rlimit files;
    char answer[4096];
    long before;
    pid_t server;

    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (argc > 2 && strcmp(argv[1], "--serve") == 0)
        return serve(atoi(argv[2]), -1);
    if (pipe(ends) != 0 || (server = fork()) < 0)
        return 1;
    if (server == 0)
        _exit(serve(0, ends[1]));
    pin(1);
    if (read(ends[0], &port, sizeof port) != sizeof port)
        return 1;
    rate(port, 0.2); /* warm */
    printf("requests/s, %d connections, one core: %.0f\n", CLIENTS, rate(port, seconds));
    before = resident(server);
    for (int i = 0; i < n_streams; i++) {
        int fd = dial(port); /* stays open */

        say(fd, "GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n");
        if (recv(fd, answer, sizeof answer, 0) <= 0)
            return 1;
    }
    printf("an idle stream of %d: %.1f KiB resident\n", n_streams,
           (double)(resident(server) - before) / 1024 / (n_streams > 0 ? n_streams : 1));
    printf("requests/s beside them: %.0f\n", rate(port, seconds));
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    return 0;
}
