/*
 * A file that appears whole or not at all: written beside its place, synced, renamed.
 *
 * Owner: who opens it, until finish or discard. Thread: one at a time.
 */
#ifndef CABE_FORMAT_OUTPUT_H
#define CABE_FORMAT_OUTPUT_H

#include <stddef.h>
#include <stdint.h>

#include "cabe/status.h"

struct cabe_output {
    int fd;
    char *path;  /* where it will appear; links followed */
    char *aside; /* where it is written: ".<name>.<pid>.<n>.part" in the same folder */
    uint64_t bytes;
};

/* `path` may exist as a regular file, which is then replaced; a device, pipe or folder is CABE_ERR_ARGUMENT. */
CABE_CHECKED enum cabe_status cabe_output_open(struct cabe_output *out, const char *path, struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_output_write(struct cabe_output *out, const void *data, size_t bytes,
                                                struct cabe_error *err);
/* Over bytes already written. */
CABE_CHECKED enum cabe_status cabe_output_rewrite(struct cabe_output *out, uint64_t offset, const void *data,
                                                  size_t bytes, struct cabe_error *err);
/* Syncs and renames; when that fails nothing of it stays. Either way the output is closed. */
CABE_CHECKED enum cabe_status cabe_output_finish(struct cabe_output *out, struct cabe_error *err);
void cabe_output_discard(struct cabe_output *out); /* closing twice is fine */

/* "<folder of path>/.<name>.<pid>.<n>.part", which no other call of any process gives; NULL when memory is refused. */
char *cabe_path_aside(const char *path);
/* Makes a rename in the folder of `path` last. */
CABE_CHECKED enum cabe_status cabe_sync_folder_of(const char *path, struct cabe_error *err);

#endif
