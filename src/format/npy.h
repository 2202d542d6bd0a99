/*
 * NumPy's .npy, version 1.0: a matrix in rows, little-endian, of f32, f16 or int8.
 *
 * The header is 128 bytes with room for any count of rows, so that rows can be streamed and counted at the end.
 *
 * Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
 */
#ifndef CABE_FORMAT_NPY_H
#define CABE_FORMAT_NPY_H

#include <stdint.h>

#include "cabe/status.h"

enum cabe_npy_type { CABE_NPY_F32, CABE_NPY_F16, CABE_NPY_I8 };

uint64_t cabe_npy_item_bytes(enum cabe_npy_type type);

struct cabe_npy_writer;

/* The file appears at `path` by cabe_npy_finish(). Thread: one at a time. */
CABE_CHECKED enum cabe_status cabe_npy_create(struct cabe_npy_writer **out, const char *path,
                                              enum cabe_npy_type type, uint64_t n_columns, struct cabe_error *err);
/* Appends `n_rows` rows, packed. */
CABE_CHECKED enum cabe_status cabe_npy_write(struct cabe_npy_writer *writer, const void *rows, uint64_t n_rows,
                                             struct cabe_error *err);
/* Writes the count of rows, syncs, renames. The writer is freed in any case. */
CABE_CHECKED enum cabe_status cabe_npy_finish(struct cabe_npy_writer *writer, struct cabe_error *err);
void cabe_npy_discard(struct cabe_npy_writer *writer); /* leaves nothing; NULL is fine */

struct cabe_npy;

/* Opens and checks: the file holds exactly the rows its header says. Thread: reading from any. */
CABE_CHECKED enum cabe_status cabe_npy_open(struct cabe_npy **out, const char *path, struct cabe_error *err);
void cabe_npy_close(struct cabe_npy *npy); /* NULL is fine */
enum cabe_npy_type cabe_npy_type(const struct cabe_npy *npy);
uint64_t cabe_npy_n_rows(const struct cabe_npy *npy);
uint64_t cabe_npy_n_columns(const struct cabe_npy *npy);
CABE_CHECKED enum cabe_status cabe_npy_read(const struct cabe_npy *npy, uint64_t first_row, uint64_t n_rows,
                                            void *out, struct cabe_error *err);

#endif
