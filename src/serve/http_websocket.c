/* WebSocket (RFC 6455): text messages both ways, ping, close. No extensions. */
#include "serve/http_impl.h"

#include <openssl/evp.h>
#include <string.h>

#include "base/utf8.h"

#define CONTROL_MAX 125
enum { FINAL = 0x80, RESERVED = 0x70, MASKED = 0x80 };
enum { BAD_FRAME = 1002, BAD_KIND = 1003, BAD_TEXT = 1007, TOO_LARGE = 1009, NO_MEMORY = 1011 };

void cabe_http_websocket_accept(const char *key, char out[32])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    unsigned char digest[EVP_MAX_MD_SIZE] = {0};
    char text[24 + sizeof guid];

    memcpy(text, key, 24);
    memcpy(text + 24, guid, sizeof guid);
    EVP_Digest(text, 24 + sizeof guid - 1, digest, NULL, EVP_sha1(), NULL);
    EVP_EncodeBlock((unsigned char *)out, digest, 20);
}

size_t cabe_http_websocket_frame(char *out, int opcode, size_t n)
{
    out[0] = (char)(FINAL | opcode);
    if (n <= CONTROL_MAX) {
        out[1] = (char)n;
        return 2;
    }
    if (n <= 0xFFFF) {
        out[1] = 126;
        out[2] = (char)(n >> 8);
        out[3] = (char)n;
        return 4;
    }
    out[1] = 127;
    for (int i = 0; i < 8; i++)
        out[2 + i] = (char)((uint64_t)n >> (56 - 8 * i));
    return 10;
}

struct frame {
    int final, opcode;
    size_t n_head, n; /* bytes before the payload, and of it */
    uint8_t mask[4];
};

/* 0: it is not whole yet; 1: it is; otherwise a code to close with. */
static int read_frame(struct frame *frame, const uint8_t *bytes, size_t n)
{
    uint64_t length;
    size_t at = 2;
    int is_control;

    if (n < 2)
        return 0;
    frame->final = (bytes[0] & FINAL) != 0;
    frame->opcode = bytes[0] & 0x0F;
    is_control = frame->opcode >= CABE_HTTP_CLOSE;
    length = bytes[1] & 0x7F;
    if ((bytes[0] & RESERVED) || !(bytes[1] & MASKED) || (is_control && (length > CONTROL_MAX || !frame->final)))
        return BAD_FRAME;
    if (length >= 126) {
        size_t wide = length == 126 ? 2 : 8;

        if (n < at + wide)
            return 0;
        length = 0;
        for (size_t i = 0; i < wide; i++)
            length = length << 8 | bytes[at + i];
        at += wide;
        if (length < (wide == 2 ? 126u : 65536u))
            return BAD_FRAME;
    }
    if (length > CABE_HTTP_MESSAGE_MAX)
        return TOO_LARGE;
    if (n < at + 4 || n - at - 4 < length)
        return 0;
    memcpy(frame->mask, bytes + at, 4);
    frame->n_head = at + 4;
    frame->n = (size_t)length;
    return 1;
}

static int is_text(const char *text, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t length = cabe_utf8_length(text + i, n - i);

        if (length == 0)
            return 0;
        i += length;
    }
    return 1;
}

/* A piece of a message; hands it on when it is whole. 0, or a code to close with. */
static int take_data(struct cabe_http_connection *c, const struct frame *frame, const char *payload)
{
    struct cabe_http_bytes *message = &c->message;

    if (frame->opcode == CABE_HTTP_BINARY)
        return BAD_KIND;
    if ((frame->opcode == CABE_HTTP_TEXT) == c->message_open)
        return BAD_FRAME;
    if (message->n + frame->n > CABE_HTTP_MESSAGE_MAX)
        return TOO_LARGE;
    if (!cabe_http_bytes_room(c->http, message, frame->n + 1))
        return NO_MEMORY;
    memcpy(message->data + message->n, payload, frame->n);
    message->n += frame->n;
    c->message_open = !frame->final;
    if (!frame->final)
        return 0;
    if (!is_text(message->data, message->n))
        return BAD_TEXT;
    message->data[message->n] = '\0';
    cabe_http_exchange_message(c->exchange, message->data, message->n);
    cabe_http_bytes_free(c->http, message);
    return 0;
}

/* The code of a client's farewell that we answer with; malformed ones get BAD_FRAME. */
static int code_of_close(const char *payload, size_t n)
{
    int code = n >= 2 ? (uint8_t)payload[0] << 8 | (uint8_t)payload[1] : 1000;
    int known = (code >= 1000 && code <= 1011 && code != 1004 && code != 1005 && code != 1006) ||
                (code >= 3000 && code <= 4999);

    return n == 1 || !known || (n > 2 && !is_text(payload + 2, n - 2)) ? BAD_FRAME : code;
}

/* 0, or a code to close with. */
static int take_frame(struct cabe_http_connection *c, const struct frame *frame, char *payload)
{
    for (size_t i = 0; i < frame->n; i++)
        payload[i] = (char)(payload[i] ^ frame->mask[i & 3]);
    switch (frame->opcode) {
    case 0:
    case CABE_HTTP_TEXT:
    case CABE_HTTP_BINARY:
        return take_data(c, frame, payload);
    case CABE_HTTP_CLOSE:
        return code_of_close(payload, frame->n);
    case CABE_HTTP_PING:
        return cabe_http_exchange_frame(c->exchange, CABE_HTTP_PONG, payload, frame->n) ? 0 : NO_MEMORY;
    case CABE_HTTP_PONG:
        return 0;
    default:
        return BAD_FRAME;
    }
}

size_t cabe_http_websocket_read(struct cabe_http_connection *c, char *bytes, size_t n, int *over)
{
    size_t used = 0;

    while (used < n) {
        struct frame frame;
        int code = read_frame(&frame, (const uint8_t *)bytes + used, n - used);

        if (code == 0)
            break;
        if (code == 1) {
            code = take_frame(c, &frame, bytes + used + frame.n_head);
            used += frame.n_head + frame.n;
        }
        if (code != 0) {
            char farewell[2] = {(char)(code >> 8), (char)code};

            (void)!cabe_http_exchange_frame(c->exchange, CABE_HTTP_CLOSE, farewell, sizeof farewell);
            *over = 1;
            return n;
        }
    }
    return used;
}
