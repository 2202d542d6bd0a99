#include <string.h>

#include "text/sentences.h"

static int is_tail(uint8_t byte)
{
    return (byte & 0xC0) == 0x80;
}

/* Bytes of the well-formed sequence at text, 0 where there is none: Unicode's table 3-7. */
static size_t sequence(const uint8_t *text, uint64_t bytes)
{
    uint8_t first = text[0];

    if (first < 0x80)
        return 1;
    if (first >= 0xC2 && first <= 0xDF)
        return bytes >= 2 && is_tail(text[1]) ? 2 : 0;
    if (first >= 0xE0 && first <= 0xEF) {
        uint8_t low = first == 0xE0 ? 0xA0 : 0x80;
        uint8_t high = first == 0xED ? 0x9F : 0xBF;

        return bytes >= 3 && text[1] >= low && text[1] <= high && is_tail(text[2]) ? 3 : 0;
    }
    if (first >= 0xF0 && first <= 0xF4) {
        uint8_t low = first == 0xF0 ? 0x90 : 0x80;
        uint8_t high = first == 0xF4 ? 0x8F : 0xBF;

        return bytes >= 4 && text[1] >= low && text[1] <= high && is_tail(text[2]) && is_tail(text[3]) ? 4 : 0;
    }
    return 0;
}

uint64_t cabe_utf8_valid(const char *text, uint64_t bytes)
{
    const uint8_t *at = (const uint8_t *)text;
    uint64_t i = 0;

    while (i < bytes) {
        uint64_t word;
        size_t step;

        while (i + 8 <= bytes) {
            memcpy(&word, at + i, 8);
            if (word & 0x8080808080808080u)
                break;
            i += 8;
        }
        if (i >= bytes)
            break;
        step = sequence(at + i, bytes - i);
        if (step == 0)
            return i;
        i += step;
    }
    return bytes;
}
