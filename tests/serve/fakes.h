/*
 * HTTP, workers and replies that a test plays itself: what is sent to an exchange is kept in it.
 *
 * A test that includes this must not reference anything else of http.c, server.c or reply.c.
 */
#ifndef CABE_TESTS_SERVE_FAKES_H
#define CABE_TESTS_SERVE_FAKES_H

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "serve/server.h"

struct cabe_http_exchange {
    pthread_mutex_t lock;
    enum cabe_http_method method;
    const char *path, *body;
    size_t n_body;
    const char *headers[16]; /* name, value, name, value, NULL */
    const char *query[16];
    int is_upgrade;
    int is_gone, is_slow; /* the client has left; reads nothing */
    int n_holds, status, is_ended;
    char type[64], location[128];
    char *sent;
    size_t n_sent;
    void (*gone)(void *self);
    void *gone_self;
};

static inline void fake_open(struct cabe_http_exchange *x)
{
    memset(x, 0, sizeof *x);
    pthread_mutex_init(&x->lock, NULL);
    x->path = "/";
}

static inline void fake_close(struct cabe_http_exchange *x)
{
    free(x->sent);
    pthread_mutex_destroy(&x->lock);
}

static inline void fake_leave(struct cabe_http_exchange *x)
{
    pthread_mutex_lock(&x->lock);
    x->is_gone = 1;
    if (x->gone && !x->is_ended)
        x->gone(x->gone_self);
    pthread_mutex_unlock(&x->lock);
}

/* What was sent so far; the caller frees it. */
static inline char *fake_sent(struct cabe_http_exchange *x)
{
    char *copy;

    pthread_mutex_lock(&x->lock);
    copy = calloc(1, x->n_sent + 1);
    if (x->n_sent)
        memcpy(copy, x->sent, x->n_sent);
    pthread_mutex_unlock(&x->lock);
    return copy;
}

static inline int fake_ended(struct cabe_http_exchange *x)
{
    int ended;

    pthread_mutex_lock(&x->lock);
    ended = x->is_ended;
    pthread_mutex_unlock(&x->lock);
    return ended;
}

static inline const char *fake_find(const char *const *list, const char *name)
{
    for (int i = 0; list[i]; i += 2)
        if (strcmp(list[i], name) == 0)
            return list[i + 1];
    return NULL;
}

static inline void fake_add(struct cabe_http_exchange *x, const void *bytes, size_t n)
{
    x->sent = realloc(x->sent, x->n_sent + n + 1);
    memcpy(x->sent + x->n_sent, bytes, n);
    x->n_sent += n;
}

enum cabe_http_method cabe_http_method(const struct cabe_http_exchange *x)
{
    return x->method;
}

const char *cabe_http_path(const struct cabe_http_exchange *x)
{
    return x->path;
}

const char *cabe_http_header(const struct cabe_http_exchange *x, const char *name)
{
    return fake_find(x->headers, name);
}

const char *cabe_http_query(const struct cabe_http_exchange *x, const char *name)
{
    return fake_find(x->query, name);
}

int cabe_http_charge_more(struct cabe_http_exchange *x, size_t n)
{
    (void)x;
    (void)n;
    return 1;
}

const char *cabe_http_body(const struct cabe_http_exchange *x, size_t *n)
{
    *n = x->n_body;
    return x->body;
}

int cabe_http_is_upgrade(const struct cabe_http_exchange *x)
{
    return x->is_upgrade;
}

void cabe_http_hold(struct cabe_http_exchange *x)
{
    pthread_mutex_lock(&x->lock);
    x->n_holds++;
    pthread_mutex_unlock(&x->lock);
}

void cabe_http_release(struct cabe_http_exchange *x)
{
    pthread_mutex_lock(&x->lock);
    x->n_holds--;
    pthread_mutex_unlock(&x->lock);
}

void cabe_http_set(struct cabe_http_exchange *x, const char *name, const char *value)
{
    if (strcmp(name, "location") == 0)
        snprintf(x->location, sizeof x->location, "%s", value);
}

void cabe_http_begin(struct cabe_http_exchange *x, int status, const char *type)
{
    x->status = status;
    snprintf(x->type, sizeof x->type, "%s", type ? type : "");
}

enum cabe_status cabe_http_send(struct cabe_http_exchange *x, const void *bytes, size_t n)
{
    enum cabe_status status = CABE_OK;

    pthread_mutex_lock(&x->lock);
    if (x->is_gone)
        status = CABE_ERR_CANCELLED;
    else if (x->is_slow)
        status = CABE_ERR_LIMIT;
    else
        fake_add(x, bytes, n);
    pthread_mutex_unlock(&x->lock);
    return status;
}

void cabe_http_end(struct cabe_http_exchange *x)
{
    pthread_mutex_lock(&x->lock);
    x->is_ended = 1;
    pthread_mutex_unlock(&x->lock);
}

void cabe_http_on_gone(struct cabe_http_exchange *x, void (*gone)(void *self), void *self)
{
    pthread_mutex_lock(&x->lock);
    x->gone = gone;
    x->gone_self = self;
    if (gone && x->is_gone)
        gone(self);
    pthread_mutex_unlock(&x->lock);
}

void cabe_http_reply(struct cabe_http_exchange *x, int status, const char *type, const void *body, size_t n)
{
    pthread_mutex_lock(&x->lock);
    x->status = status;
    snprintf(x->type, sizeof x->type, "%s", type ? type : "");
    if (n)
        fake_add(x, body, n);
    x->is_ended = 1;
    pthread_mutex_unlock(&x->lock);
}

void cabe_http_stats(const struct cabe_http *http, struct cabe_http_stats *stats)
{
    (void)http;
    memset(stats, 0, sizeof *stats);
}

void cabe_reply_json(struct cabe_http_exchange *x, int status, json_t *json)
{
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

    cabe_http_reply(x, text ? status : 500, "application/json", text ? text : "", text ? strlen(text) : 0);
    free(text);
    json_decref(json);
}

void cabe_reply_error(struct cabe_http_exchange *x, int status, const char *code, const char *param, const char *format,
                      ...)
{
    char text[512];
    va_list args;

    (void)param;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    cabe_reply_json(x, status, json_pack("{s:{s:s,s:s?}}", "error", "message", text, "code", code));
}

void cabe_reply_status(struct cabe_http_exchange *x, const struct cabe_error *err,
                       const struct cabe_service_refusal *refusal)
{
    (void)refusal;
    cabe_reply_error(x, err->status == CABE_ERR_NOT_FOUND ? 404 : err->status == CABE_ERR_NO_SPACE ? 507 : 500,
                     cabe_status_name(err->status), NULL, "%s", err->text);
}

void cabe_reply_no_memory(struct cabe_http_exchange *x, const char *what)
{
    cabe_reply_error(x, 503, "out_of_memory", NULL, "%s", what);
}

void cabe_reply_no_worker(struct cabe_server *server, struct cabe_http_exchange *x)
{
    (void)server;
    cabe_reply_error(x, 503, "overloaded", NULL, "no worker");
}

json_t *cabe_request_json(struct cabe_http_exchange *x)
{
    return json_loadb(x->body, x->n_body, 0, NULL);
}

enum cabe_class cabe_request_class(const struct cabe_http_exchange *x, const json_t *body, enum cabe_class fallback)
{
    (void)x;
    (void)body;
    return fallback;
}

enum cabe_status cabe_server_later_or(struct cabe_server *server, void (*fn)(void *arg), void (*expired)(void *arg),
                                      void *arg)
{
    (void)server;
    (void)expired;
    fn(arg);
    return CABE_OK;
}

void cabe_server_workers(struct cabe_server *server, struct cabe_workers_stats *stats)
{
    (void)server;
    memset(stats, 0, sizeof *stats);
    stats->n_workers = 4;
}

/* Calls the route of a table as the server would. */
static inline void fake_call(struct cabe_server *server, const struct cabe_route *routes, struct cabe_http_exchange *x,
                             enum cabe_http_method method, const char *path)
{
    x->method = method;
    x->path = path;
    for (; routes->path; routes++) {
        size_t n = strlen(routes->path);
        int is_open = routes->path[n - 1] == '*';

        if (routes->method != method)
            continue;
        if (is_open ? strncmp(routes->path, path, n - 1) == 0 : strcmp(routes->path, path) == 0) {
            routes->handler(server, x, is_open ? path + n - 1 : "");
            return;
        }
    }
    x->status = 404;
}

#endif
