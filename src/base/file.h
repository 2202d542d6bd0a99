/*
 * Files that are whole or not there.
 *
 * What is written goes into a file beside the target (".cabe-XXXXXXXX.tmp"), is synced, renamed over
 * the target, and the folder is synced. Until commit the target is as it was; close without commit removes
 * the temporary one. One that a killed process left is recognised by its missing lock: cabe_outfile_sweep().
 *
 * A target that exists and is not a plain file (a pipe), or is under /dev/ or /proc/, is written to directly,
 * and one that is a link is followed. An existing target keeps its permission bits.
 *
 * Owner:  who opens closes, committed or not.
 * Thread: one at a time per file.
 */
#ifndef CABE_BASE_FILE_H
#define CABE_BASE_FILE_H

#include <stdint.h>

#include "cabe/status.h"

struct cabe_outfile;

#define CABE_OUTFILE_BUFFER_BYTES (64u * 1024u) /* on the heap, while open */

/* CABE_ERR_NO_SPACE, _PERMISSION (also of a read-only file system), _NOT_FOUND (of the folder), _IO, _OOM. */
CABE_CHECKED enum cabe_status cabe_outfile_open(struct cabe_outfile **out, const char *path,
                                                struct cabe_error *err);
/*
 * Asks the file system for room, so that a full disk is known before the work and not after. May be called
 * once.
 */
CABE_CHECKED enum cabe_status cabe_outfile_reserve(struct cabe_outfile *file, uint64_t bytes,
                                                   struct cabe_error *err);
/* Appends. After an error every later write and the commit give the same error. */
CABE_CHECKED enum cabe_status cabe_outfile_write(struct cabe_outfile *file, const void *data, uint64_t bytes,
                                                 struct cabe_error *err);
/*
 * Overwrites what is already written: a header whose counts are known at the end. Not for pipes:
 * CABE_ERR_UNSUPPORTED.
 */
CABE_CHECKED enum cabe_status cabe_outfile_write_at(struct cabe_outfile *file, uint64_t offset,
                                                    const void *data, uint64_t bytes, struct cabe_error *err);
/* Bytes appended so far. */
uint64_t cabe_outfile_bytes(const struct cabe_outfile *file);
/* Hands what is buffered to the system: what a reader of a pipe is to see now. */
CABE_CHECKED enum cabe_status cabe_outfile_flush(struct cabe_outfile *file, struct cabe_error *err);
/* The target is now what was written, also after a power cut. Close is still the caller's to do. */
CABE_CHECKED enum cabe_status cabe_outfile_commit(struct cabe_outfile *file, struct cabe_error *err);
void cabe_outfile_close(struct cabe_outfile *file); /* NULL is fine */

/*
 * Removes the temporary files in `folder` that no living process is writing and that rest for 10 s; returns
 * how many.
 */
int cabe_outfile_sweep(const char *folder);

#endif
