/*
 * Stop strings in a stream of bytes.
 *
 * Text goes in as it is generated and comes out as soon as it cannot be the beginning of a stop
 * string any more; the first stop string that is complete ends the stream, and nothing of it comes
 * out. Of two that end at the same byte the longer counts. Bytes, not characters: a stop string may
 * begin or end inside a token.
 *
 * Time: linear in the bytes, times the number of stop strings. Nothing is allocated after open.
 * Owner:  who opens it; one per sequence. Thread: one at a time.
 */
#ifndef CABE_RUNTIME_STOP_H
#define CABE_RUNTIME_STOP_H

#include <stddef.h>
#include <stdint.h>

#include "cabe/status.h"

#define CABE_STOP_MAX 16         /* stop strings of a sequence */
#define CABE_STOP_BYTES_MAX 256u /* of one, at least 1 */

struct cabe_stop;

/* Copies the strings; NUL bytes are allowed. n may be 0: then everything passes. */
CABE_CHECKED enum cabe_status cabe_stop_open(struct cabe_stop **out, const char *const *strings,
                                             const size_t *bytes, size_t n, struct cabe_error *err);
void cabe_stop_close(struct cabe_stop *stop); /* NULL is fine */
void cabe_stop_reset(struct cabe_stop *stop); /* for another text */

/*
 * Takes n bytes; writes what may be shown to `out`, which has room for n + CABE_STOP_BYTES_MAX and
 * does not overlap, and returns how many that are. Once stopped, takes and gives nothing.
 */
size_t cabe_stop_push(struct cabe_stop *stop, const char *text, size_t n, char *out);
/* At the end of a text that was not stopped: the bytes held back, fewer than CABE_STOP_BYTES_MAX.
 */
size_t cabe_stop_flush(struct cabe_stop *stop, char *out);
/* The index of the string that ended the stream; -1: none yet. */
int cabe_stop_which(const struct cabe_stop *stop);

#endif
