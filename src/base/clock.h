/* Time. Thread: any. */
#ifndef CABE_BASE_CLOCK_H
#define CABE_BASE_CLOCK_H

#include <stdint.h>

uint64_t cabe_clock_ns(void); /* monotonic, from an arbitrary start */

#endif
