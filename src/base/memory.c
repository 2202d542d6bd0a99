#include "base/memory.h"

#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE (2u << 20)
#define PIECE_PAGES 4096u /* that are asked for at once: the system answers with a byte for each */

/* Relaxed: they count, they order nothing. */
static atomic_uint_fast64_t n_asked;
static atomic_uint_fast64_t fail_countdown;
static _Thread_local uint64_t n_refused;
static _Thread_local int is_steadfast;

static int is_told_to_fail(void)
{
    uint_fast64_t left = atomic_load_explicit(&fail_countdown, memory_order_relaxed);

    atomic_fetch_add_explicit(&n_asked, 1, memory_order_relaxed);
    while (left > 0)
        if (atomic_compare_exchange_weak_explicit(&fail_countdown, &left, left - 1, memory_order_relaxed,
                                                  memory_order_relaxed))
            return left == 1 && !(is_steadfast && ++n_refused);
    return 0;
}

/* A block, or the note that there is none. */
static void *noted(void *block)
{
    n_refused += block == NULL;
    return block;
}

uint64_t cabe_memory_refused(void)
{
    return n_refused;
}

void cabe_memory_steadfast(int on)
{
    is_steadfast = on;
}

void cabe_memory_fail_at(uint64_t countdown)
{
    atomic_store_explicit(&fail_countdown, countdown, memory_order_relaxed);
}

uint64_t cabe_memory_count(void)
{
    return atomic_load_explicit(&n_asked, memory_order_relaxed);
}

void *cabe_malloc(size_t bytes)
{
    return noted(is_told_to_fail() ? NULL : malloc(bytes ? bytes : 1));
}

void *cabe_calloc(size_t n, size_t item_bytes)
{
    return noted(is_told_to_fail() ? NULL : calloc(n ? n : 1, item_bytes ? item_bytes : 1));
}

void *cabe_realloc(void *old, size_t n, size_t item_bytes)
{
    size_t bytes;

    if (is_told_to_fail() || __builtin_mul_overflow(n, item_bytes, &bytes))
        return noted(NULL);
    return noted(realloc(old, bytes ? bytes : 1));
}

char *cabe_strdup(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = cabe_malloc(bytes);

    return copy ? memcpy(copy, text, bytes) : NULL;
}

void *cabe_aligned_alloc(size_t align, size_t bytes)
{
    void *block;

    return noted(is_told_to_fail() || posix_memalign(&block, align, bytes ? bytes : 1) != 0 ? NULL : block);
}

void cabe_free(void *block)
{
    free(block);
}

void cabe_memory_trim(void)
{
    malloc_trim(0);
}

/* Of this machine; at least 4096 and at most HUGE_PAGE wherever cabe runs. */
static uint64_t page_bytes(void)
{
    static atomic_uint_fast64_t known;
    uint64_t bytes = atomic_load_explicit(&known, memory_order_relaxed);

    if (bytes == 0) {
        bytes = (uint64_t)sysconf(_SC_PAGESIZE);
        atomic_store_explicit(&known, bytes, memory_order_relaxed);
    }
    return bytes;
}

uint64_t cabe_pages_round(uint64_t bytes)
{
    uint64_t page = page_bytes();

    if (bytes > UINT64_MAX - page)
        return UINT64_MAX;
    return bytes ? (bytes + page - 1) / page * page : page;
}

/* An address range that begins on a huge page when it is large enough to hold one. */
static void *map_aligned(uint64_t bytes)
{
    uint64_t span = bytes + HUGE_PAGE;
    uint8_t *start, *aligned;

    if (bytes < HUGE_PAGE) {
        start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        return start == MAP_FAILED ? NULL : start;
    }
    start = mmap(NULL, span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    aligned = (uint8_t *)(((uintptr_t)start + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    if (aligned > start)
        munmap(start, (size_t)(aligned - start));
    if (aligned + bytes < start + span)
        munmap(aligned + bytes, (size_t)(start + span - (aligned + bytes)));
    return aligned;
}

/* Makes the pages resident; -1 when the system has no memory for them. */
static int populate_pages(uint8_t *pages, uint64_t bytes)
{
    if (madvise(pages, bytes, MADV_POPULATE_WRITE) == 0)
        return 0;
    if (errno != EINVAL)
        return -1;
    /* A kernel before 5.14 does not know the call. */
    for (uint64_t at = 0; at < bytes; at += page_bytes())
        ((volatile uint8_t *)pages)[at] = 0;
    return 0;
}

enum cabe_status cabe_pages_map(void **out, uint64_t bytes, int populate, struct cabe_error *err)
{
    uint64_t rounded = cabe_pages_round(bytes);
    void *pages;

    *out = NULL;
    if (rounded > SIZE_MAX / 2 || is_told_to_fail() || !(pages = map_aligned(rounded)))
        return cabe_fail(err, CABE_ERR_OOM, "the system refused %llu bytes of memory",
                         (unsigned long long)bytes);
    /* Whole huge pages only: a tail smaller than one would be rounded up past what the ledger was told. */
    if (rounded >= HUGE_PAGE)
        madvise(pages, rounded / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    if (populate && populate_pages(pages, rounded) != 0) {
        munmap(pages, rounded);
        return cabe_fail(err, CABE_ERR_OOM, "the system could not populate %llu bytes of memory",
                         (unsigned long long)bytes);
    }
    *out = pages;
    return CABE_OK;
}

void cabe_pages_unmap(void *pages, uint64_t bytes)
{
    if (pages)
        munmap(pages, cabe_pages_round(bytes));
}

/* Of n pages; all of them where the system does not say. */
static size_t count_touched(uint8_t *pages, size_t n)
{
    unsigned char answer[PIECE_PAGES];
    size_t n_touched = 0;

    if (mincore(pages, n * page_bytes(), answer) != 0)
        return n;
    for (size_t i = 0; i < n; i++)
        n_touched += answer[i] & 1;
    return n_touched;
}

uint64_t cabe_pages_touched(const void *pages, uint64_t bytes)
{
    uint8_t *at = (uint8_t *)(uintptr_t)pages;
    uint64_t n_pages = cabe_pages_round(bytes) / page_bytes(), touched;
    size_t n_touched = 0;

    for (uint64_t i = 0; bytes > 0 && i < n_pages; i += PIECE_PAGES)
        n_touched += count_touched(at + i * page_bytes(), n_pages - i < PIECE_PAGES ? (size_t)(n_pages - i) : PIECE_PAGES);
    touched = n_touched * page_bytes();
    return touched < bytes ? touched : bytes;
}
