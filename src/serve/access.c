#include "serve/access.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/memory.h"

#define KEY_BYTES 512
#define KEYS_MAX 4096
#define CORS_HEADERS                                                                                                   \
    "authorization, content-type, accept, x-api-key, x-request-id, x-cabe-class, last-event-id, openai-organization, " \
    "openai-project"

struct key {
    size_t n;
    char text[KEY_BYTES];
};

struct cabe_access {
    struct key *keys;
    size_t n_keys, capacity;
    char origins[sizeof((struct cabe_serve_config *)0)->cors_origins];
    int any_origin;
    int must_be_loopback; /* Host */
};

static enum cabe_status add_key(struct cabe_access *a, const char *key, const char *origin, struct cabe_error *err)
{
    size_t n = strlen(key);

    if (n >= KEY_BYTES)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: key %zu has %zu bytes, wanted at most %d", origin, a->n_keys + 1,
                         n, KEY_BYTES - 1);
    if (a->n_keys == KEYS_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: more than %d keys", origin, KEYS_MAX);
    if (a->n_keys == a->capacity) {
        size_t capacity = a->capacity ? 2 * a->capacity : 4;
        struct key *grown = cabe_realloc(a->keys, capacity, sizeof *grown);

        if (!grown)
            return cabe_fail(err, CABE_ERR_OOM, "%zu keys", capacity);
        a->keys = grown;
        a->capacity = capacity;
    }
    a->keys[a->n_keys].n = n;
    memset(a->keys[a->n_keys].text, 0, KEY_BYTES);
    memcpy(a->keys[a->n_keys++].text, key, n);
    return CABE_OK;
}

static enum cabe_status read_keys(struct cabe_access *a, const char *path, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;
    FILE *file = fopen(path, "re");
    char line[2 * KEY_BYTES];

    if (!file)
        return cabe_fail_errno(err, errno, "api_keys: %s", path);
    while (status == CABE_OK && fgets(line, sizeof line, file)) {
        char *begin = line + strspn(line, " \t");
        size_t n = strcspn(begin, "\r\n");

        while (n && (begin[n - 1] == ' ' || begin[n - 1] == '\t'))
            n--;
        begin[n] = '\0';
        if (n && begin[0] != '#')
            status = add_key(a, begin, path, err);
    }
    if (status == CABE_OK && ferror(file))
        status = cabe_fail_errno(err, errno, "api_keys: %s", path);
    fclose(file);
    explicit_bzero(line, sizeof line);
    if (status == CABE_OK && a->n_keys == 0)
        status = cabe_fail(err, CABE_ERR_ARGUMENT, "api_keys: %s has no key", path);
    return status;
}

enum cabe_status cabe_access_open(struct cabe_access **out, const struct cabe_serve_config *config,
                                  struct cabe_error *err)
{
    struct cabe_access *a = cabe_calloc(1, sizeof *a);
    enum cabe_status status = CABE_OK;
    const char *list = config->api_keys;
    char item[KEY_BYTES + 1];

    *out = NULL;
    if (!a)
        return cabe_fail(err, CABE_ERR_OOM, "keys");
    if (list[0] == '@')
        status = read_keys(a, list + 1, err);
    else
        while (status == CABE_OK && cabe_serve_list_next(&list, item, sizeof item))
            status = add_key(a, item, "api_keys", err);
    explicit_bzero(item, sizeof item);
    if (status != CABE_OK) {
        cabe_access_close(a);
        return status;
    }
    snprintf(a->origins, sizeof a->origins, "%s", config->cors_origins);
    list = a->origins;
    while (cabe_serve_list_next(&list, item, sizeof item))
        a->any_origin |= strcmp(item, "*") == 0;
    a->must_be_loopback = a->n_keys == 0 && !a->any_origin && cabe_access_is_loopback(config->host);
    *out = a;
    return CABE_OK;
}

void cabe_access_close(struct cabe_access *a)
{
    if (!a)
        return;
    if (a->keys)
        explicit_bzero(a->keys, a->capacity * sizeof *a->keys);
    cabe_free(a->keys);
    cabe_free(a);
}

void cabe_access_any_host(struct cabe_access *a)
{
    a->must_be_loopback = 0;
}

size_t cabe_access_n_keys(const struct cabe_access *a)
{
    return a->n_keys;
}

/* Every byte of every key is looked at, whatever was given: the time says nothing about them. */
int cabe_access_key(const struct cabe_access *a, const char *key, size_t n)
{
    char given[KEY_BYTES] = {0};
    unsigned found = 0;

    if (!key)
        n = 0;
    if (n > 0 && n < KEY_BYTES)
        memcpy(given, key, n);
    for (size_t k = 0; k < a->n_keys; k++) {
        unsigned char differ = a->keys[k].n != n;

        for (size_t i = 0; i < KEY_BYTES; i++)
            differ |= (unsigned char)(((const volatile char *)given)[i] ^ a->keys[k].text[i]);
        found |= differ == 0;
    }
    explicit_bzero(given, sizeof given);
    return found && n > 0;
}

static int has_key(const struct cabe_access *a, struct cabe_http_exchange *exchange)
{
    const char *key = cabe_http_header(exchange, "authorization");

    if (key && strncasecmp(key, "bearer ", 7) == 0) {
        key += 7;
        key += strspn(key, " ");
    } else {
        key = cabe_http_header(exchange, "x-api-key");
    }
    return cabe_access_key(a, key, key ? strlen(key) : 0);
}

/* ---- browsers ---- */

int cabe_access_same_origin(const char *origin, const char *host)
{
    const char *place = strstr(origin, "://");

    return place && host && strcasecmp(place + 3, host) == 0;
}

/* "localhost", "127.1.2.3", "[::1]", "::1", each with a port or without. */
int cabe_access_is_loopback(const char *host)
{
    size_t n = host[0] == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");

    if (strcmp(host, "::1") == 0 || (n == 5 && strncmp(host, "[::1]", 5) == 0))
        return 1;
    if (n == 9 && strncasecmp(host, "localhost", 9) == 0)
        return 1;
    return n > 4 && strncmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") == n;
}

static int is_listed(const struct cabe_access *a, const char *origin)
{
    const char *list = a->origins;
    char item[sizeof a->origins];

    while (cabe_serve_list_next(&list, item, sizeof item))
        if (strcmp(item, "*") == 0 || strcasecmp(item, origin) == 0)
            return 1;
    return 0;
}

enum cabe_access_answer cabe_access_check(const struct cabe_access *a, struct cabe_http_exchange *exchange, int is_open)
{
    const char *origin = cabe_http_header(exchange, "origin"), *host = cabe_http_header(exchange, "host");

    if (a->must_be_loopback && host && host[0] && strcmp(cabe_http_peer(exchange), "unix") != 0 &&
        !cabe_access_is_loopback(host))
        return CABE_ACCESS_HOST;
    if (origin && !cabe_access_same_origin(origin, host)) {
        if (!is_listed(a, origin))
            return CABE_ACCESS_ORIGIN;
        cabe_http_set(exchange, "access-control-allow-origin", a->any_origin ? "*" : origin);
        cabe_http_set(exchange, "access-control-expose-headers", "x-request-id, retry-after, retry-after-ms");
        if (!a->any_origin)
            cabe_http_set(exchange, "vary", "origin");
    }
    return is_open || a->n_keys == 0 || has_key(a, exchange) ? CABE_ACCESS_GRANTED : CABE_ACCESS_KEY;
}

void cabe_access_preflight(const struct cabe_access *a, struct cabe_http_exchange *exchange, const char *methods)
{
    const char *headers = cabe_http_header(exchange, "access-control-request-headers");

    (void)a;
    cabe_http_set(exchange, "access-control-allow-methods", methods);
    /* Clients send many of their own (x-stainless-...); what an origin that is listed asks for is let through. */
    cabe_http_set(exchange, "access-control-allow-headers", headers && strlen(headers) < 1024 ? headers : CORS_HEADERS);
    cabe_http_set(exchange, "access-control-max-age", "600");
}
