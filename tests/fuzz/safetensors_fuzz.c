/* A safetensors file of any bytes. */
#include <stdint.h>

#include "format/source.h"
#include "memory_source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cabe_source *source = open_memory(data, size);

    if (source) {
        touch_tensors(source);
        cabe_source_close(source);
    }
    return 0;
}
