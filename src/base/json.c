#include "base/json.h"

#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"

#define REPLACEMENT "\xEF\xBF\xBD"

json_t *cabe_json_text(const char *text, size_t n)
{
    size_t n_bad = 0, at = 0, bytes;
    json_t *value;
    char *mended;

    for (size_t i = 0; i < n;) {
        size_t length = cabe_utf8_length(text + i, n - i);

        n_bad += length == 0;
        i += length ? length : 1;
    }
    if (n_bad == 0)
        return json_stringn(text, n);
    if (__builtin_mul_overflow(n_bad, strlen(REPLACEMENT), &bytes) ||
        __builtin_add_overflow(bytes, n, &bytes) || !(mended = (char *)cabe_malloc(bytes)))
        return NULL;
    for (size_t i = 0; i < n;) {
        size_t length = cabe_utf8_length(text + i, n - i);

        memcpy(mended + at, length ? text + i : REPLACEMENT, length ? length : strlen(REPLACEMENT));
        at += length ? length : strlen(REPLACEMENT);
        i += length ? length : 1;
    }
    value = json_stringn(mended, at);
    cabe_free(mended);
    return value;
}

json_t *cabe_json_count(uint64_t count)
{
    return json_integer(count > INT64_MAX ? INT64_MAX : (json_int_t)count);
}
