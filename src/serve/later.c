/* Handlers that run on a worker thread. */
#include <string.h>

#include "base/memory.h"
#include "serve/server.h"

struct later {
    struct cabe_server *server;
    struct cabe_http_exchange *exchange;
    cabe_handler *handler;
    char tail[];
};

static void run_later(void *arg)
{
    struct later *later = (struct later *)arg;

    later->handler(later->server, later->exchange, later->tail);
    cabe_http_release(later->exchange);
    cabe_free(later);
}

static void expire_later(void *arg)
{
    struct later *later = (struct later *)arg;

    cabe_reply_no_worker(later->server, later->exchange);
    cabe_http_release(later->exchange);
    cabe_free(later);
}

void cabe_handle_later(struct cabe_server *server, struct cabe_http_exchange *exchange, const char *tail,
                       cabe_handler *handler)
{
    size_t n = strlen(tail) + 1;
    struct later *later = (struct later *)cabe_malloc(sizeof *later + n);

    if (!later) {
        cabe_reply_no_memory(exchange, "a request for a worker");
        return;
    }
    *later = (struct later){.server = server, .exchange = exchange, .handler = handler};
    memcpy(later->tail, tail, n);
    cabe_http_hold(exchange);
    if (cabe_server_later_or(server, run_later, expire_later, later) == CABE_OK)
        return;
    cabe_reply_error(exchange, 503, "overloaded", NULL, "all workers are busy, and as many requests wait as may");
    cabe_http_release(exchange);
    cabe_free(later);
}
