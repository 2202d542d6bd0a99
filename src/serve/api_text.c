#include "serve/api_impl.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/utf8.h"

/* Room for `more` bytes; 0: there is none. */
static int grow(struct api_text *text, size_t more)
{
    size_t wanted, capacity = text->capacity ? text->capacity : 256;
    char *bytes;

    if (text->failed || __builtin_add_overflow(text->n, more, &wanted) || wanted > API_TEXT_MAX) {
        text->failed = 1;
        return 0;
    }
    if (wanted <= text->capacity)
        return 1;
    while (capacity < wanted)
        capacity *= 2;
    bytes = (char *)cabe_realloc(text->bytes, capacity, 1);
    if (!bytes) {
        text->failed = 1;
        return 0;
    }
    text->bytes = bytes;
    text->capacity = capacity;
    return 1;
}

void api_put(struct api_text *text, const char *bytes, size_t n)
{
    if (n == 0 || !grow(text, n))
        return;
    memcpy(text->bytes + text->n, bytes, n);
    text->n += n;
}

void api_puts(struct api_text *text, const char *string)
{
    api_put(text, string, strlen(string));
}

void api_printf(struct api_text *text, const char *format, ...)
{
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0 || !grow(text, (size_t)n + 1)) {
        text->failed = 1;
        return;
    }
    va_start(args, format);
    vsnprintf(text->bytes + text->n, (size_t)n + 1, format, args);
    va_end(args);
    text->n += (size_t)n;
}

static void put_escape(struct api_text *text, unsigned char c)
{
    static const char *const names[32] = {['\b'] = "\\b", ['\t'] = "\\t", ['\n'] = "\\n", ['\f'] = "\\f", ['\r'] = "\\r"};

    if (c == '"')
        api_put(text, "\\\"", 2);
    else if (c == '\\')
        api_put(text, "\\\\", 2);
    else if (c < 32 && names[c])
        api_put(text, names[c], 2);
    else
        api_printf(text, "\\u%04x", c);
}

void api_put_string(struct api_text *text, const char *bytes, size_t n)
{
    size_t from = 0, i = 0;

    if (n == 0) /* an answer without a word has no bytes to point to */
        bytes = "";
    api_put(text, "\"", 1);
    while (i < n) {
        unsigned char c = (unsigned char)bytes[i];
        size_t length = cabe_utf8_length(bytes + i, n - i);

        if (length > 0 && c >= 32 && c != '"' && c != '\\' && c != 127) {
            i += length;
            continue;
        }
        api_put(text, bytes + from, i - from);
        if (length == 0)
            api_puts(text, "\xEF\xBF\xBD");
        else
            put_escape(text, c);
        from = ++i;
    }
    api_put(text, bytes + from, n - from);
    api_put(text, "\"", 1);
}

void api_put_number(struct api_text *text, double value, double low)
{
    if (isinf(value) && value < 0)
        value = low;
    if (!isfinite(value))
        api_puts(text, "null");
    else
        api_printf(text, "%.9g", value);
}

void api_put_json(struct api_text *text, const json_t *json)
{
    size_t n = json_dumpb(json, NULL, 0, JSON_COMPACT | JSON_ENCODE_ANY);

    if (n == 0 || !grow(text, n)) {
        text->failed = 1;
        return;
    }
    text->n += json_dumpb(json, text->bytes + text->n, n, JSON_COMPACT | JSON_ENCODE_ANY);
}

void api_text_clear(struct api_text *text)
{
    cabe_free(text->bytes);
    *text = (struct api_text){0};
}

size_t api_partial(const char *bytes, size_t n, const char *mark)
{
    size_t most = strlen(mark) - 1;

    for (size_t k = n < most ? n : most; k > 0; k--)
        if (memcmp(bytes + n - k, mark, k) == 0)
            return k;
    return 0;
}

const char *api_time(int64_t unix_s, char out[API_TIME_MAX])
{
    struct timespec now = {.tv_sec = (time_t)unix_s};
    struct tm tm;

    if (unix_s <= 0)
        clock_gettime(CLOCK_REALTIME, &now);
    if (!gmtime_r(&now.tv_sec, &tm) || tm.tm_year > 8000) {
        snprintf(out, API_TIME_MAX, "1970-01-01T00:00:00Z");
        return out;
    }
    snprintf(out, API_TIME_MAX, "%04d-%02d-%02dT%02d:%02d:%02d.%06ldZ", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
             tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec / 1000);
    return out;
}

const char *api_id(const char *prefix, char out[API_ID_MAX])
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    unsigned char bytes[32] = {0};
    size_t at = strlen(prefix);

    if (getrandom(bytes, sizeof bytes, GRND_NONBLOCK) != (ssize_t)sizeof bytes) {
        uint64_t now = cabe_clock_ns();

        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = (unsigned char)((now >> (i % 8 * 8)) + i * 37);
    }
    if (at > API_ID_MAX - 33)
        at = API_ID_MAX - 33;
    memcpy(out, prefix, at);
    for (size_t i = 0; i < sizeof bytes && at + 1 < API_ID_MAX; i++)
        out[at++] = letters[bytes[i] % (sizeof letters - 1)];
    out[at] = '\0';
    return out;
}
