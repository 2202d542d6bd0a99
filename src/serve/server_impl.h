/* The server's own parts, which handlers do not see. */
#ifndef CABE_SERVE_SERVER_IMPL_H
#define CABE_SERVE_SERVER_IMPL_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "base/cancel.h"
#include "serve/access.h"
#include "serve/notify.h"
#include "serve/route.h"
#include "serve/server.h"

#define CABE_SERVER_WHY_MAX 256

/* A start model that did not load. Forgotten when it loads after all, or the operator unloads it. */
struct cabe_start_failure {
    struct cabe_start_failure *next;
    char model[256];
    char reason[256];
    int was_loading; /* the service knows of the failure too */
    atomic_int is_noticed; /* by an operator */
};

/* How far the server has come; only goes up. */
enum cabe_server_stage {
    CABE_SERVER_OPENING, /* HTTP answers, nothing else is there */
    CABE_SERVER_UP,      /* every part is there: released when set, acquired when read */
};

struct cabe_server_impl {
    struct cabe_access *access;
    struct cabe_workers *workers;
    struct cabe_notify notify;
    pthread_t watch;
    int has_watch;
    sem_t wake; /* the watch thread: something is to be looked at; posted by signal handlers too */
    atomic_int stage;
    atomic_int stops;             /* how often cabe_server_stop() was called */
    struct cabe_cancel cancel;    /* of what the watch thread opens */
    atomic_int n_models;          /* resident, at the last look */
    atomic_uint_fast64_t beat_ns; /* when the watch thread last looked */
    uint64_t drain_since_ns;      /* of the loop */
    uint64_t request_prefix;      /* of the ids of this process's requests */
    int activated;                /* sockets came from systemd */
    int is_local;                 /* only this machine reaches the sockets */
    const char *machine_root;     /* for tests: where /proc and /sys are; NULL: here */

    pthread_mutex_t lock;
    /* under lock: */
    char why[CABE_SERVER_WHY_MAX];     /* why it is not ready; "": it is */
    int n_loading;                     /* start models that are not there yet */
    struct cabe_start_failure *failures;
    struct cabe_error error;           /* why the parts could not be opened */
};

/* ---- server_watch.c ---- */
void *cabe_server_watch_main(void *server);
/* Closes what the watch thread opened; it has ended. */
void cabe_server_watch_close(struct cabe_server *server);

/* ---- server.c ---- */
static inline int cabe_server_draining(const struct cabe_server *server)
{
    return atomic_load_explicit(&server->impl->stops, memory_order_relaxed) > 0;
}

static inline int cabe_server_up(const struct cabe_server *server)
{
    return atomic_load_explicit(&server->impl->stage, memory_order_acquire) == CABE_SERVER_UP;
}

/* ---- reply.c ---- */
void cabe_reply_retry_after(struct cabe_http_exchange *exchange, double seconds);

#endif
