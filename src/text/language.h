/* Which language a text is in, well enough to choose a list of abbreviations. Thread: any. */
#ifndef CABE_TEXT_LANGUAGE_H
#define CABE_TEXT_LANGUAGE_H

#include <stdint.h>

/*
 * "en", "es", "pt", "fr", "it" or "de", by how often its commonest words occur in the beginning of the text; NULL
 * where no language stands out.
 */
const char *cabe_language_guess(const char *text, uint64_t bytes);

#endif
