/* Time. Thread: any. */
#ifndef CABE_BASE_CLOCK_H
#define CABE_BASE_CLOCK_H

#include <stdint.h>

uint64_t cabe_clock_ns(void); /* monotonic, from an arbitrary start */

#define CABE_CLOCK_STAMP_BYTES 25
/* Now, in UTC, as RFC 3339 writes it, to the millisecond: "2026-11-21T03:42:06.123Z". */
void cabe_clock_stamp(char out[CABE_CLOCK_STAMP_BYTES]);

#endif
