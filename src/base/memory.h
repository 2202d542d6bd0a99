/*
 * Memory from the system.
 *
 * Every heap allocation of the library goes through these, so that a test can make the n-th one fail and can
 * count them. Big or long-lived blocks come from cabe_pages_map(): whole pages, zero, given back to the
 * system when unmapped, so that the resident size follows the ledger.
 *
 * Thread: all from any thread.
 */
#ifndef CABE_BASE_MEMORY_H
#define CABE_BASE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "cabe/status.h"

void *cabe_malloc(size_t bytes);                /* NULL when refused; bytes 0 gives a pointer to free */
void *cabe_calloc(size_t n, size_t item_bytes); /* overflow is refused */
void *cabe_realloc(void *old, size_t n,
                   size_t item_bytes); /* overflow is refused, `old` is then still valid */
char *cabe_strdup(const char *text);
void *cabe_aligned_alloc(size_t align,
                         size_t bytes); /* a power of two, at least sizeof(void *); not zeroed */
void cabe_free(void *block);            /* NULL is fine */

/* `bytes` of zeroed pages, aligned to 4096 (2 MiB and huge where it is large). `populate`: resident at once.
 */
CABE_CHECKED enum cabe_status cabe_pages_map(void **out, uint64_t bytes, int populate,
                                             struct cabe_error *err);
void cabe_pages_unmap(void *pages, uint64_t bytes); /* NULL is fine */
/* The bytes that cabe_pages_map() really takes for `bytes`. */
uint64_t cabe_pages_round(uint64_t bytes);
/*
 * Of `bytes` from `pages` (a page's beginning, anonymous memory), what the system has given pages for, by mincore(2): what
 * was never written, or was swapped out, is not in it. Where the system does not say: all of it.
 */
uint64_t cabe_pages_touched(const void *pages, uint64_t bytes);
void cabe_memory_trim(void); /* gives free heap back to the system */

/* How many of these this thread was refused since it began: what libraries that allocate through them (jansson) do not tell
 * apart from bad input. */
uint64_t cabe_memory_refused(void);

/* For tests: the `countdown`-th allocation from now, and that one only, fails (1 = the next; 0 = none). */
void cabe_memory_fail_at(uint64_t countdown);
/* For tests: while `on`, this thread is not refused what cabe_memory_fail_at() says, it only counts as refused. Around
 * libraries that would not survive it. */
void cabe_memory_steadfast(int on);
/* For tests: allocations asked for since the process began, refused ones included. */
uint64_t cabe_memory_count(void);

#endif
