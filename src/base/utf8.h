/* The shape of UTF-8 (RFC 3629): enough to keep foreign bytes out of messages, logs and JSON. */
#ifndef CABE_BASE_UTF8_H
#define CABE_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

/*
 * Bytes of the character that begins at `text`, of which `n` bytes may be read; 0: not a character, or n is
 * 0.
 */
static inline size_t cabe_utf8_length(const void *text, size_t n)
{
    const uint8_t *b = (const uint8_t *)text;
    uint8_t low = 0x80,
            high = 0xBF; /* what the second byte may be: no overlong forms, surrogates, past U+10FFFF */
    size_t length;

    if (n == 0)
        return 0;
    if (b[0] < 0x80)
        return 1;
    if (b[0] < 0xC2 || b[0] > 0xF4)
        return 0;
    length = b[0] < 0xE0 ? 2 : b[0] < 0xF0 ? 3 : 4;
    if (b[0] == 0xE0)
        low = 0xA0;
    else if (b[0] == 0xED)
        high = 0x9F;
    else if (b[0] == 0xF0)
        low = 0x90;
    else if (b[0] == 0xF4)
        high = 0x8F;
    if (n < length || b[1] < low || b[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if ((b[i] & 0xC0) != 0x80)
            return 0;
    return length;
}

/* The most bytes of `text`, at most `n_max`, that end between two characters. */
static inline size_t cabe_utf8_cut(const char *text, size_t n_max)
{
    size_t n = 0;

    while (n <= n_max && text[n] != '\0')
        n++;
    if (n <= n_max)
        return n;
    for (n = n_max; n > 0 && ((uint8_t)text[n] & 0xC0) == 0x80;)
        n--;
    return n;
}

#endif
