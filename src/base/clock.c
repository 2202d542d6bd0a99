#include "base/clock.h"

#include <stdio.h>
#include <time.h>

uint64_t cabe_clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void cabe_clock_stamp(char out[CABE_CLOCK_STAMP_BYTES])
{
    struct timespec now;
    struct tm utc;
    char text[80]; /* whatever the clock says; a year of five digits is cut, not written past the end */

    clock_gettime(CLOCK_REALTIME, &now);
    if (!gmtime_r(&now.tv_sec, &utc))
        utc = (struct tm){.tm_year = 70, .tm_mday = 1};
    snprintf(text, sizeof text, "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ", utc.tm_year + 1900, utc.tm_mon + 1,
             utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, now.tv_nsec / 1000000);
    snprintf(out, CABE_CLOCK_STAMP_BYTES, "%.24s", text);
}
