/*
 * What the kernel says about the memory of this process. Thread: any.
 *
 * The kernel keeps these counts per CPU and sums them now and then, so that they may be off by some hundred
 * KiB; cabe_rss_exact() walks the page tables instead.
 */
#ifndef CABE_BASE_PROCESS_H
#define CABE_BASE_PROCESS_H

#include <stdint.h>

struct cabe_rss {
    uint64_t rss_bytes;  /* resident now: anon + file + shared */
    uint64_t high_bytes; /* the highest rss_bytes since the process began or cabe_rss_reset_high() */
    uint64_t anon_bytes;
    uint64_t file_bytes;
    uint64_t shared_bytes; /* tmpfs and shared anonymous */
};

/* Some 20 us. 0, or -1 without /proc: then all are 0. */
int cabe_rss_read(struct cabe_rss *rss);
/* rss_bytes by /proc/self/smaps_rollup: exact, some ms a GiB; 0 where the kernel has none. */
uint64_t cabe_rss_exact(void);
/* Starts a new high-water mark at the present size. 0, or -1 where the system does not permit it. */
int cabe_rss_reset_high(void);

#endif
