/* multipart/form-data: the first line of the input is the type, the rest the body. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "serve/analyze_form.h"

static enum cabe_status see(void *self, const struct cabe_form_part *part, struct cabe_error *err)
{
    size_t *sum = self;

    (void)err;
    if (part->n && (part->bytes[0] | part->bytes[part->n - 1]))
        *sum += part->n;
    if (strlen(part->name) >= sizeof part->name || strchr(part->filename, '/'))
        abort();
    return CABE_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *line = size ? memchr(data, '\n', size) : NULL;
    char type[256] = "";
    struct cabe_error err;
    size_t sum = 0;

    if (!line || (size_t)(line - data) >= sizeof type)
        return 0;
    memcpy(type, data, (size_t)(line - data));
    (void)!cabe_form_read(type, (const char *)line + 1, size - (size_t)(line + 1 - data), see, &sum, &err);
    return 0;
}
