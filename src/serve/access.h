/*
 * Who may ask: keys, and what browsers may do on behalf of pages.
 *
 * Keys come as "Authorization: Bearer KEY" or "x-api-key: KEY" and are compared in a time that does not depend on where
 * they differ. Without keys everybody who reaches the socket may ask.
 *
 * A browser sends Origin with what a page asks for. Pages of the server itself may ask; pages of other origins only when
 * they are listed, and others are refused (403), so that no page on the web can use a server on this machine. A server
 * without keys that listens on loopback alone also refuses a Host that is not loopback: a name that was bound anew to
 * 127.0.0.1 is of the same origin to the browser.
 *
 * Owner: who opens it. Thread: any, after open.
 */
#ifndef CABE_SERVE_ACCESS_H
#define CABE_SERVE_ACCESS_H

#include "serve/config.h"
#include "serve/http.h"

struct cabe_access;

/* api_keys of the configuration: keys by commas, or @FILE with one a line ('#' begins a comment). No message has a key. */
CABE_CHECKED enum cabe_status cabe_access_open(struct cabe_access **out, const struct cabe_serve_config *config,
                                               struct cabe_error *err);
void cabe_access_close(struct cabe_access *access); /* NULL is fine */
/* Sockets that were handed over are reached from elsewhere too, whatever `host` says: any Host is right. Before the first
 * request. */
void cabe_access_any_host(struct cabe_access *access);
size_t cabe_access_n_keys(const struct cabe_access *access);
/* Whether a key is one of ours; `key` may be NULL. */
int cabe_access_key(const struct cabe_access *access, const char *key, size_t n);

enum cabe_access_answer { CABE_ACCESS_GRANTED, CABE_ACCESS_KEY, CABE_ACCESS_ORIGIN, CABE_ACCESS_HOST };
/* `is_open`: the route needs no key. Adds the CORS headers of an origin that may ask. */
enum cabe_access_answer cabe_access_check(const struct cabe_access *access, struct cabe_http_exchange *exchange,
                                          int is_open);
/* What a preflight is answered with, beside the headers of check(). */
void cabe_access_preflight(const struct cabe_access *access, struct cabe_http_exchange *exchange, const char *methods);

/* For tests: "http://localhost:8080" and Host "localhost:8080" are the same place. */
int cabe_access_same_origin(const char *origin, const char *host);
int cabe_access_is_loopback(const char *host);

#endif
