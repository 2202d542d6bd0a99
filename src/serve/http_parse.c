#include "serve/http_parse.h"

#include <string.h>
#include <strings.h>

#include "base/utf8.h"

#define METHOD_MAX 32
#define LENGTH_DIGITS_MAX 18
#define CHUNK_DIGITS_MAX 15
#define OTHERS_MAX (16u << 10) /* extensions and trailers, beside as much again as there is data */

enum { C_TOKEN = 1, C_VALUE = 2 }; /* RFC 9110: tchar; what a field value may hold */

static unsigned char_class(unsigned char c)
{
    /* clang-format off */
    static const uint8_t token[16] = { /* a bit each of 128 characters */
        0x00, 0x00, 0x00, 0x00, 0xFA, 0x6C, 0xFF, 0x03, 0xFE, 0xFF, 0xFF, 0xC7, 0xFF, 0xFF, 0xFF, 0x57};
    /* clang-format on */

    if (c >= 0x80)
        return C_VALUE;
    if (c < 0x20)
        return c == '\t' ? C_VALUE : 0;
    if (c == 0x7F)
        return 0;
    return C_VALUE | (token[c >> 3] >> (c & 7) & 1 ? C_TOKEN : 0);
}

static size_t span(const char *text, size_t n, unsigned class_)
{
    size_t i = 0;

    while (i < n && (char_class((unsigned char)text[i]) & class_))
        i++;
    return i;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

size_t cabe_http_head_end(const char *text, size_t n, size_t *scanned)
{
    size_t at = *scanned;
    const char *lf;

    while (at < n && (lf = memchr(text + at, '\n', n - at)) != NULL) {
        size_t i = (size_t)(lf - text);

        if (i == 0 || text[i - 1] != '\r')
            return CABE_HTTP_MALFORMED;
        if (i >= 2 && text[i - 2] == '\n')
            return i + 1;
        at = i + 1;
    }
    *scanned = n;
    return 0;
}

size_t cabe_http_unescape(char *text, size_t n, int plus)
{
    size_t to = 0;

    for (size_t i = 0; i < n; i++) {
        char c = text[i];

        if (c == '%') {
            int high = i + 2 < n ? hex(text[i + 1]) : -1;
            int low = high >= 0 ? hex(text[i + 2]) : -1;

            if (low < 0 || high * 16 + low == 0)
                return CABE_HTTP_MALFORMED;
            c = (char)(high * 16 + low);
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        text[to++] = c;
    }
    return to;
}

/* ---- the request line ---- */

static enum cabe_http_method method_of(const char *name)
{
    static const char *const names[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};

    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
        if (strcmp(name, names[i]) == 0)
            return (enum cabe_http_method)i;
    return CABE_HTTP_OTHER;
}

/* A decoded path that is text, has no control characters and does not climb. */
static int path_is_fine(const char *path, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t length = cabe_utf8_length(path + i, n - i);

        if (length == 0 || (unsigned char)path[i] < 0x20 || path[i] == 0x7F)
            return 0;
        if (path[i] == '/') {
            const char *s = path + i + 1;
            size_t left = n - i - 1, dots = 0;

            while (dots < left && s[dots] == '.')
                dots++;
            if ((dots == 1 || dots == 2) && (dots == left || s[dots] == '/'))
                return 0;
        }
        i += length;
    }
    return 1;
}

/* An absolute URL, as proxies are sent them, counts for its path. */
static size_t authority_length(const char *target, size_t n)
{
    size_t skip = n >= 7 && strncasecmp(target, "http://", 7) == 0    ? 7
                  : n >= 8 && strncasecmp(target, "https://", 8) == 0 ? 8
                                                                       : 0;

    if (skip == 0)
        return 0;
    while (skip < n && target[skip] != '/' && target[skip] != '?')
        skip++;
    return target[skip - 1] == '/' ? SIZE_MAX : skip; /* no authority at all */
}

/* `target` is followed by a byte that may be written to. */
static int read_target(struct cabe_http_head *head, char *text, char *target, size_t n)
{
    size_t skip = authority_length(target, n), n_path = 0;
    char *query;

    for (size_t i = 0; i < n; i++)
        if ((unsigned char)target[i] <= 0x20 || target[i] == 0x7F || target[i] == '#')
            return 400;
    if (n == 1 && target[0] == '*' && head->method == CABE_HTTP_OPTIONS)
        target[0] = '/';
    if (skip == SIZE_MAX)
        return 400;
    if (skip > 0 && (skip == n || target[skip] == '?'))
        target[--skip] = '/'; /* over the authority's last byte */
    target += skip;
    n -= skip;
    if (n == 0 || target[0] != '/')
        return 400;
    query = memchr(target, '?', n);
    n_path = query ? (size_t)(query - target) : n;
    target[n] = '\0';
    head->query = (uint32_t)((query ? query + 1 : target + n) - text);
    n_path = cabe_http_unescape(target, n_path, 0);
    if (n_path == CABE_HTTP_MALFORMED || !path_is_fine(target, n_path))
        return 400;
    target[n_path] = '\0';
    head->path = (uint32_t)(target - text);
    return 0;
}

/* `line` without its CRLF, which may be written to. */
static int read_request_line(struct cabe_http_head *head, char *text, char *line, size_t n)
{
    size_t n_method = span(line, n, C_TOKEN), n_target;
    char *target = line + n_method + 1, *version;

    if (n_method == 0 || n_method > METHOD_MAX || n_method + 1 >= n || line[n_method] != ' ')
        return 400;
    line[n_method] = '\0';
    head->method_name = (uint32_t)(line - text);
    head->method = method_of(line);
    version = memchr(target, ' ', n - n_method - 1);
    if (!version)
        return 400;
    n_target = (size_t)(version - target);
    version++;
    if (line + n - version != 8 || memcmp(version, "HTTP/", 5) != 0 || version[6] != '.' || version[5] < '0' ||
        version[5] > '9' || version[7] < '0' || version[7] > '9')
        return 400;
    if (version[5] != '1' || version[7] > '1')
        return 505;
    head->minor = version[7] - '0';
    return read_target(head, text, target, n_target);
}

/* ---- fields ---- */

static int read_length(struct cabe_http_head *head, const char *value)
{
    size_t n = strspn(value, "0123456789");

    if (head->has_length || n == 0 || n > LENGTH_DIGITS_MAX || value[n] != '\0')
        return 400;
    head->has_length = 1;
    for (size_t i = 0; i < n; i++)
        head->n_body = head->n_body * 10 + (uint64_t)(value[i] - '0');
    return 0;
}

/* Whether a list, separated by commas, has `word`. */
static int list_has(const char *list, const char *word)
{
    size_t n = strlen(word);

    while (*list) {
        size_t end;

        list += strspn(list, " \t,");
        end = strcspn(list, ",");
        if (strncasecmp(list, word, n) == 0 && strspn(list + n, " \t") + n == end)
            return 1;
        list += end;
    }
    return 0;
}

/* What is known of a connection while its fields are read. */
struct reading {
    int n_hosts, closes, keeps, upgrades, to_websocket, version;
    const char *key;
};

static int base64_key(const char *key)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    return strlen(key) == 24 && strspn(key, digits) == 22 && strcmp(key + 22, "==") == 0;
}

/* Fields that may come only once because two of them would be two requests in one. */
static int is_single(const char *name)
{
    static const char *const names[] = {"authorization", "content-type", "origin", "expect", "sec-websocket-key",
                                        "sec-websocket-version", "range"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return 1;
    return 0;
}

static int note_field(struct cabe_http_head *head, struct reading *r, const char *text, const char *name,
                      const char *value)
{
    if (is_single(name))
        for (uint32_t i = 0; i < head->n_fields; i++)
            if (strcmp(text + head->fields[i].name, name) == 0)
                return 400;
    if (strcmp(name, "host") == 0) {
        r->n_hosts++;
        return strcspn(value, " \t,/@") == strlen(value) ? 0 : 400;
    }
    if (strcmp(name, "content-length") == 0)
        return read_length(head, value);
    if (strcmp(name, "transfer-encoding") == 0) {
        if (head->chunked)
            return 400;
        head->chunked = 1;
        return strcasecmp(value, "chunked") == 0 ? 0 : 501;
    }
    if (strcmp(name, "connection") == 0) {
        r->closes |= list_has(value, "close");
        r->keeps |= list_has(value, "keep-alive");
        r->upgrades |= list_has(value, "upgrade");
    } else if (strcmp(name, "upgrade") == 0) {
        r->to_websocket |= list_has(value, "websocket");
    } else if (strcmp(name, "expect") == 0) {
        head->expects_continue = 1;
        return strcasecmp(value, "100-continue") == 0 ? 0 : 417;
    } else if (strcmp(name, "content-type") == 0) {
        head->has_type = 1;
    } else if (strcmp(name, "sec-websocket-key") == 0) {
        r->key = value;
    } else if (strcmp(name, "sec-websocket-version") == 0) {
        r->version = strcmp(value, "13") == 0 ? 13 : 0;
    }
    return 0;
}

/* `line` without its CRLF, which may be written to. */
static int read_field(struct cabe_http_head *head, struct reading *r, char *text, char *line, size_t n)
{
    size_t n_name = span(line, n, C_TOKEN);
    char *value = line + n_name + 1, *end = line + n;
    int status;

    if (n_name == 0 || n_name == n || line[n_name] != ':')
        return 400;
    if (head->n_fields == CABE_HTTP_FIELDS_MAX)
        return 431;
    for (size_t i = 0; i < n_name; i++)
        if (line[i] >= 'A' && line[i] <= 'Z')
            line[i] = (char)(line[i] | 0x20);
    line[n_name] = '\0';
    if (span(value, (size_t)(end - value), C_VALUE) != (size_t)(end - value))
        return 400;
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    *end = '\0';
    status = note_field(head, r, text, line, value);
    if (status == 0)
        head->fields[head->n_fields++] = (struct cabe_http_field){.name = (uint32_t)(line - text),
                                                                  .value = (uint32_t)(value - text)};
    return status;
}

/* What the fields say together. */
static int conclude(struct cabe_http_head *head, const struct reading *r, const char *text)
{
    if (r->n_hosts > 1 || (r->n_hosts == 0 && head->minor == 1))
        return 400;
    if (head->chunked && (head->has_length || head->minor == 0))
        return 400;
    head->keep_alive = !r->closes && (head->minor == 1 || r->keeps);
    if (head->minor == 0)
        head->expects_continue = 0;
    if (r->upgrades && r->to_websocket && head->minor == 1) {
        if (head->method != CABE_HTTP_GET || head->chunked || head->n_body > 0 || !r->key || !base64_key(r->key))
            return 400;
        if (r->version != 13)
            return 426;
        head->upgrade = 1;
        head->key = (uint32_t)(r->key - text);
    }
    return 0;
}

int cabe_http_head_read(struct cabe_http_head *head, char *text, size_t n)
{
    struct reading r = {0};
    size_t at = 0;
    int status;

    memset(head, 0, offsetof(struct cabe_http_head, fields));
    memset(&head->has_length, 0, sizeof *head - offsetof(struct cabe_http_head, has_length));
    for (int first = 1;; first = 0) {
        char *lf = at < n ? memchr(text + at, '\n', n - at) : NULL;
        size_t length;

        if (!lf || lf == text + at || lf[-1] != '\r')
            return 400;
        length = (size_t)(lf - 1 - (text + at));
        if (length == 0)
            return first ? 400 : conclude(head, &r, text);
        status = first ? read_request_line(head, text, text + at, length)
                       : read_field(head, &r, text, text + at, length);
        if (status != 0)
            return status;
        at = (size_t)(lf + 1 - text);
    }
}

/* ---- chunked bodies ---- */

enum {
    SIZE,
    NAME_START, /* of an extension: ;name, ;name=token or ;name="quoted" */
    NAME,
    VALUE_START,
    VALUE,
    QUOTED,
    QUOTED_PAIR,
    QUOTE_END,
    SIZE_LF,
    DATA,
    DATA_CR,
    DATA_LF,
    TRAILER_START,
    TRAILER_NAME,
    TRAILER_VALUE,
    TRAILER_LF,
    END_LF
};

static int after_size(struct cabe_http_chunks *c, char byte)
{
    int digit = hex(byte);

    if (digit >= 0) {
        if (c->n_digits++ == CHUNK_DIGITS_MAX)
            return 400;
        c->left = c->left * 16 + (uint64_t)digit;
        return 0;
    }
    if (c->n_digits == 0 || (byte != '\r' && byte != ';'))
        return 400;
    c->state = byte == '\r' ? SIZE_LF : NAME_START;
    return 0;
}

static int in_extension(struct cabe_http_chunks *c, char byte)
{
    unsigned class_ = char_class((unsigned char)byte);
    int may_end = c->state == NAME || c->state == VALUE || c->state == QUOTE_END;

    if (++c->n_others > OTHERS_MAX + c->n_data)
        return 400;
    if ((c->state == QUOTED || c->state == QUOTED_PAIR) && !(class_ & C_VALUE))
        return 400;
    if (c->state == QUOTED_PAIR)
        c->state = QUOTED;
    else if (c->state == QUOTED)
        c->state = byte == '"' ? QUOTE_END : byte == '\\' ? QUOTED_PAIR : QUOTED;
    else if (may_end && byte == '\r')
        c->state = SIZE_LF;
    else if (may_end && byte == ';')
        c->state = NAME_START;
    else if (c->state == NAME && byte == '=')
        c->state = VALUE_START;
    else if (c->state == VALUE_START && byte == '"')
        c->state = QUOTED;
    else if (c->state == QUOTE_END || !(class_ & C_TOKEN))
        return 400;
    else if (c->state == NAME_START || c->state == VALUE_START)
        c->state++;
    return 0;
}

/* One byte that is not data. */
static int chunk_byte(struct cabe_http_chunks *c, char byte)
{
    unsigned class_ = char_class((unsigned char)byte);

    switch (c->state) {
    case SIZE:
        return after_size(c, byte);
    case NAME_START:
    case NAME:
    case VALUE_START:
    case VALUE:
    case QUOTED:
    case QUOTED_PAIR:
    case QUOTE_END:
        return in_extension(c, byte);
    case SIZE_LF:
        c->state = c->left > 0 ? DATA : TRAILER_START;
        return byte == '\n' ? 0 : 400;
    case DATA_CR:
        c->state = DATA_LF;
        return byte == '\r' ? 0 : 400;
    case DATA_LF:
        c->state = SIZE;
        c->n_digits = 0;
        return byte == '\n' ? 0 : 400;
    case TRAILER_START:
        c->state = byte == '\r' ? END_LF : TRAILER_NAME;
        return byte == '\r' || (class_ & C_TOKEN) ? 0 : 400;
    case TRAILER_NAME:
        c->state = byte == ':' ? TRAILER_VALUE : TRAILER_NAME;
        if (byte != ':' && !(class_ & C_TOKEN))
            return 400;
        return ++c->n_others > OTHERS_MAX + c->n_data ? 431 : 0;
    case TRAILER_VALUE:
        if (byte == '\r')
            c->state = TRAILER_LF;
        else if (!(class_ & C_VALUE))
            return 400;
        return ++c->n_others > OTHERS_MAX + c->n_data ? 431 : 0;
    case TRAILER_LF:
        c->state = TRAILER_START;
        return byte == '\n' ? 0 : 400;
    default: /* END_LF */
        return byte == '\n' ? CABE_HTTP_CHUNKS_END : 400;
    }
}

int cabe_http_chunks_read(struct cabe_http_chunks *chunks, const char *bytes, size_t n, size_t *used,
                          const char **piece, size_t *n_piece)
{
    size_t at = 0;
    int status = CABE_HTTP_CHUNKS_MORE;

    *n_piece = 0;
    *piece = NULL;
    while (at < n && chunks->state != DATA && status == CABE_HTTP_CHUNKS_MORE)
        status = chunk_byte(chunks, bytes[at++]);
    if (status == CABE_HTTP_CHUNKS_MORE && chunks->state == DATA && at < n) {
        *piece = bytes + at;
        *n_piece = n - at < chunks->left ? n - at : (size_t)chunks->left;
        at += *n_piece;
        chunks->left -= *n_piece;
        chunks->n_data += *n_piece;
        if (chunks->left == 0)
            chunks->state = DATA_CR;
    }
    *used = at;
    return status;
}
