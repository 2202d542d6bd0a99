/*
 * A guard over mapped files: a file that shrinks under us fails the request that read it, and names the file.
 *
 * Reading a page that a mapped file no longer has raises SIGBUS on whatever thread reads. For guarded memory
 * the handler puts zero pages there, notes it, and lets the reader go on; nothing jumps out of a running
 * kernel. Who asked for the work checks at its end, and throws the result away:
 *
 *     status = cabe_team_run(...);
 *     if (cabe_guard_check(guard, err) != CABE_OK) ...          // the owner of the mapping
 *     if (cabe_guard_check_memory(weights, bytes, err) != ...)  // who only has an address
 *
 * cabe_guard_add() installs the handler where another is in place; faults outside guarded memory go to the
 * handler that was there before, or end the process as they always did. A system call that reads a missing
 * page does not raise the signal but answers EFAULT; then, too, ask the guard why.
 *
 * Owner:  who mapped the file; it removes the guard before it unmaps.
 * Thread: every function from any thread; add and remove take a lock, checks do not.
 */
#ifndef CABE_BASE_GUARD_H
#define CABE_BASE_GUARD_H

#include <stdint.h>

#include "cabe/status.h"

#define CABE_GUARD_MAX 1024 /* guarded mappings at one time */

struct cabe_guard;

enum cabe_guard_access { CABE_GUARD_READ, CABE_GUARD_WRITE };

/*
 * Guards `bytes` at `memory`, which mmap() gave for `fd`; `name` is copied (cut to 255 bytes). The descriptor
 * may be closed afterwards; -1: none, then a file that shrank within its last page is not noticed.
 * CABE_ERR_LIMIT: too many.
 */
CABE_CHECKED enum cabe_status cabe_guard_add(struct cabe_guard **out, void *memory, uint64_t bytes,
                                             enum cabe_guard_access access, int fd, const char *name,
                                             struct cabe_error *err);
void cabe_guard_remove(struct cabe_guard *guard); /* NULL is fine */

/*
 * CABE_ERR_CHANGED, naming the file, when it has become shorter since cabe_guard_add(), a page could not be read, or
 * somebody has written to what is only read here.
 */
CABE_CHECKED enum cabe_status cabe_guard_check(const struct cabe_guard *guard, struct cabe_error *err);
/* The same for every guard that overlaps `bytes` at `memory`; CABE_OK when there is none. */
CABE_CHECKED enum cabe_status cabe_guard_check_memory(const void *memory, uint64_t bytes,
                                                      struct cabe_error *err);

#endif
