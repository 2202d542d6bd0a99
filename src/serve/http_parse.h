/*
 * HTTP/1.1 as bytes: the head of a request and chunked bodies (RFC 9112), read strictly.
 *
 * What another reader could understand differently is refused, never repaired: lines that end in a bare LF, folded
 * lines, spaces before a colon, NUL and other control characters, two lengths, a length beside a transfer encoding. So
 * there is one way to read a request, whoever stands in front of us.
 *
 * No allocation, no state but the caller's. Thread: any, one at a time per object.
 */
#ifndef CABE_SERVE_HTTP_PARSE_H
#define CABE_SERVE_HTTP_PARSE_H

#include <stddef.h>
#include <stdint.h>

#include "serve/http.h"

#define CABE_HTTP_FIELDS_MAX 100
#define CABE_HTTP_MALFORMED SIZE_MAX

struct cabe_http_field {
    uint32_t name, value; /* offsets of texts that end in NUL; the name in lower case */
};

struct cabe_http_head {
    enum cabe_http_method method;
    int minor; /* of HTTP/1.x: 0 or 1 */
    uint32_t method_name, path, query; /* offsets; path decoded, query as it came, "" where there is none */
    uint32_t n_fields;
    struct cabe_http_field fields[CABE_HTTP_FIELDS_MAX];
    int has_length, has_type, chunked, keep_alive, expects_continue;
    int upgrade;       /* to a WebSocket, with all it needs */
    uint64_t n_body;   /* with has_length */
    uint32_t key;      /* Sec-WebSocket-Key; with upgrade */
};

/*
 * Bytes of the head that begins at `text`, its blank line included; 0: it is not whole yet; CABE_HTTP_MALFORMED: a line
 * ends in a bare LF. `*scanned` is 0 at first, then as the last call left it. `text` must not begin with an empty line.
 */
size_t cabe_http_head_end(const char *text, size_t n, size_t *scanned);
/* Reads the head of `n` bytes, changing it in place. 0, or the HTTP status that refuses it. */
int cabe_http_head_read(struct cabe_http_head *head, char *text, size_t n);

/* Percent escapes, and '+' where `plus`, to bytes, in place; the new length, or CABE_HTTP_MALFORMED: also for %00. */
size_t cabe_http_unescape(char *text, size_t n, int plus);

/* ---- chunked bodies ---- */

struct cabe_http_chunks { /* zero: at the beginning */
    int state;
    int n_digits;
    uint64_t left;     /* of this chunk */
    uint64_t n_data;   /* so far */
    uint64_t n_others; /* bytes of extensions and trailers so far */
};

enum { CABE_HTTP_CHUNKS_MORE = 0, CABE_HTTP_CHUNKS_END = 1 };

/*
 * Reads at most `n` bytes: `*used` of them, up to and including one piece of data, `*piece` [*n_piece]. Call it until
 * everything is used, or it answers CABE_HTTP_CHUNKS_END or an HTTP status that refuses the body.
 */
int cabe_http_chunks_read(struct cabe_http_chunks *chunks, const char *bytes, size_t n, size_t *used,
                          const char **piece, size_t *n_piece);

#endif
