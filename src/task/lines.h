/*
 * Texts from a stream, one a line, a bounded chunk at a time.
 *
 * Layout: one block, measured and placed by cabe_lines_bytes()'s function: line table, then text.
 * A line longer than CABE_TEXT_BYTES_MAX is kept up to there, cut between characters. Ill-formed UTF-8 is
 * CABE_ERR_FORMAT with line and byte. "\r\n" ends a line as "\n" does; a last line without an end counts.
 */
#ifndef CABE_TASK_LINES_H
#define CABE_TASK_LINES_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "cabe/ledger.h"
#include "task/encoder.h"

struct cabe_lines;

/* Exactly what open() reserves for chunks of up to `n_lines`. */
uint64_t cabe_lines_bytes(int64_t n_lines);
/* `file` stays the caller's; `name` is for messages and outlives the reader. */
CABE_CHECKED enum cabe_status cabe_lines_open(struct cabe_lines **out, FILE *file, const char *name, int64_t n_lines,
                                              struct cabe_ledger *ledger, struct cabe_error *err);
void cabe_lines_close(struct cabe_lines *lines); /* NULL is fine */
/* The next chunk, valid until the next call; *n == 0 at the end. */
CABE_CHECKED enum cabe_status cabe_lines_next(struct cabe_lines *lines, const struct cabe_text **texts, size_t *n,
                                              struct cabe_error *err);

#endif
