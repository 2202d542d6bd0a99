/* A GGUF of any bytes: it opens or is refused, and whatever opens can be read. */
#include <stdint.h>
#include <stdlib.h>

#include "format/source.h"
#include "memory_source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void touch_arrays(const struct cabe_source *source)
{
    const char *key, *text;
    uint64_t n;
    int64_t i;
    size_t bytes;
    double d;

    for (size_t k = 0; (key = cabe_source_key(source, k)); k++) {
        cabe_source_get_i64(source, key, &i);
        cabe_source_get_f64(source, key, &d);
        if (!cabe_source_get_array(source, key, &n))
            continue;
        for (uint64_t e = 0; e < n && e < 64; e++) {
            uint64_t at = e < 32 ? e : n - 1 - (e - 32);

            if (cabe_source_array_string(source, key, at, &text, &bytes))
                touch(text, bytes);
            cabe_source_array_i64(source, key, at, &i);
            cabe_source_array_f64(source, key, at, &d);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cabe_source *source = open_memory(data, size);

    if (source) {
        touch_tensors(source);
        touch_arrays(source);
        cabe_source_trim(source);
        touch_arrays(source);
        cabe_source_close(source);
    }
    return 0;
}
