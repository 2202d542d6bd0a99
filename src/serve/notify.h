/*
 * systemd: sockets that it hands over, and news to it. By its documented protocols (sd_listen_fds(3), sd_notify(3)), which
 * are two variables and a datagram.
 *
 * Thread: open at the start; send from any.
 */
#ifndef CABE_SERVE_NOTIFY_H
#define CABE_SERVE_NOTIFY_H

#include <stdint.h>

#include "cabe/status.h"

struct cabe_notify {
    int fd; /* -1: nobody listens */
    unsigned watchdog_ms; /* a "WATCHDOG=1" is wanted at least this often; 0: none */
};

/* Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of the environment. Without them, or where it fails, nothing is
 * sent. */
void cabe_notify_open(struct cabe_notify *notify);
void cabe_notify_close(struct cabe_notify *notify);
/* "READY=1\nSTATUS=..."; never waits. */
void cabe_notify_send(const struct cabe_notify *notify, const char *format, ...) CABE_PRINTF(2, 3);

/* Listening stream sockets handed to this process, at most n_max; takes them out of the environment. Something else than
 * such a socket is an error. */
CABE_CHECKED enum cabe_status cabe_listen_fds(int *fds, int n_max, int *n, struct cabe_error *err);
/* Whether only this machine reaches the socket: a unix one, or one bound to a loopback address. */
int cabe_listen_is_local(int fd);

#endif
