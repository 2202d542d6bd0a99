/* Ids to text. */
#include <string.h>

#include "text/block.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

static const char mark[] = "\xE2\x96\x81"; /* that unigram models have for a space */
static const char replacement[] = "\xEF\xBF\xBD";

static int hex(char c)
{
    return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
}

/* Continuing pieces lose their mark, others get the space that came before them. */
static size_t decode_wordpiece(const struct cabe_tokenizer *t, const char *text, size_t bytes, unsigned flags,
                               char *out)
{
    size_t n = t->header->prefix_bytes, spaces = 0;

    if (n > 0 && bytes > n && memcmp(text, t->strings + t->header->prefix, n) == 0) {
        memcpy(out, text + n, bytes - n);
        return bytes - n;
    }
    if (!(flags & CABE_DECODE_FIRST))
        out[spaces++] = ' ';
    memcpy(out + spaces, text, bytes);
    return spaces + bytes;
}

static size_t decode_unigram(const char *text, size_t bytes, int is_byte, unsigned flags, char *out)
{
    size_t n = 0;

    if (is_byte && bytes == 6) {
        out[0] = (char)(hex(text[3]) << 4 | hex(text[4]));
        return 1;
    }
    for (size_t i = 0; i < bytes;) {
        if (bytes - i >= 3 && memcmp(text + i, mark, 3) == 0) {
            if (i > 0 || !(flags & CABE_DECODE_FIRST))
                out[n++] = ' ';
            i += 3;
        } else {
            out[n++] = text[i++];
        }
    }
    return n;
}

size_t cabe_tokenizer_decode_max(const struct cabe_tokenizer *tokenizer)
{
    return tokenizer->decode_max;
}

size_t cabe_tokenizer_decode(const struct cabe_tokenizer *tokenizer, int32_t id, unsigned flags, char *out)
{
    size_t bytes, skip;
    const char *text = cabe_tokenizer_token(tokenizer, id, &bytes);
    uint8_t kind = text ? tokenizer->kinds[id] : 0;

    if (!text || bytes == 0 || ((kind & CABE_KIND_SPECIAL) && !(flags & CABE_DECODE_SPECIAL)))
        return 0;
    if (kind & CABE_KIND_ADDED) {
        memcpy(out, text, bytes);
        return bytes;
    }
    if (tokenizer->header->model == CABE_MODEL_WORDPIECE)
        return decode_wordpiece(tokenizer, text, bytes, flags, out);
    if (tokenizer->header->model == CABE_MODEL_UNIGRAM)
        return decode_unigram(text, bytes, (kind & CABE_KIND_BYTE) != 0, flags, out);
    skip = (flags & CABE_DECODE_FIRST) && (tokenizer->header->flags & CABE_FLAG_FIRST_SPACE) &&
           !(kind & CABE_KIND_BYTE) && text[0] == ' ';
    memcpy(out, text + skip, bytes - skip);
    return bytes - skip;
}

/* ---- a stream ---- */

/* How many bytes the character has that begins with these n: 0 where none can. Unicode's table 3-7. */
static size_t wanted(const unsigned char *text, size_t n)
{
    unsigned char first = text[0];
    unsigned char low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    unsigned char high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;

    if (first < 0x80)
        return 1;
    if (first < 0xC2 || first > 0xF4 || (n > 1 && (text[1] < low || text[1] > high)))
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((text[i] & 0xC0) != 0x80)
            return 0;
    return cabe_utf8_length(first);
}

size_t cabe_decoder_room(const struct cabe_tokenizer *tokenizer)
{
    return 3 * (tokenizer->decode_max + 4);
}

/* One more byte: gives how many were written. */
static size_t put_byte(struct cabe_decoder *decoder, unsigned char byte, char *out)
{
    size_t n = 0, whole;

    decoder->held[decoder->n_held++] = byte;
    whole = wanted(decoder->held, decoder->n_held);
    if (whole == 0) { /* what came before is no character; the byte may begin one */
        memcpy(out, replacement, 3);
        n = 3;
        if (decoder->n_held == 1) {
            decoder->n_held = 0;
            return n;
        }
        decoder->n_held = 0;
        return n + put_byte(decoder, byte, out + n);
    }
    if (whole == decoder->n_held) {
        memcpy(out, decoder->held, whole);
        decoder->n_held = 0;
        return whole;
    }
    return 0;
}

size_t cabe_decoder_put(struct cabe_decoder *decoder, const struct cabe_tokenizer *tokenizer, int32_t id, char *out)
{
    /* The token's bytes wait at the end of the room: a byte becomes at most three, and what is held one more three. */
    char *bytes = out + cabe_decoder_room(tokenizer) - tokenizer->decode_max;
    unsigned flags = (decoder->is_inside ? 0 : CABE_DECODE_FIRST) | (decoder->special ? CABE_DECODE_SPECIAL : 0);
    size_t n_bytes = cabe_tokenizer_decode(tokenizer, id, flags, bytes), n = 0;

    if (n_bytes > 0 || !cabe_tokenizer_is_special(tokenizer, id))
        decoder->is_inside = 1;
    for (size_t i = 0; i < n_bytes; i++)
        n += put_byte(decoder, (unsigned char)bytes[i], out + n);
    return n;
}

size_t cabe_decoder_end(struct cabe_decoder *decoder, char *out)
{
    size_t n = decoder->n_held > 0 ? 3 : 0;

    memcpy(out, replacement, n);
    decoder->n_held = 0;
    decoder->is_inside = 0;
    return n;
}
