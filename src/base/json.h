/*
 * What jansson leaves open: text of unknown origin, and counts of 64 bits.
 *
 * jansson allocates with malloc(); a test that wants its allocations to fail hands it cabe_malloc and
 * cabe_free through json_set_alloc_funcs(). Every function here returns a new reference, or NULL without
 * memory.
 */
#ifndef CABE_BASE_JSON_H
#define CABE_BASE_JSON_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A string of `n` bytes; each byte that is not UTF-8 becomes U+FFFD, so that no file name makes a report
 * fail.
 */
json_t *cabe_json_text(const char *text, size_t n);
/* A count; one past 2^63 - 1, the largest that JSON's integers hold here, becomes that. */
json_t *cabe_json_count(uint64_t count);

#endif
