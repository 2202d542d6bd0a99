/* Opening bytes as a model file, and touching all that can be read of it; for fuzz targets. */
#ifndef CABE_TESTS_MEMORY_SOURCE_H
#define CABE_TESTS_MEMORY_SOURCE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "format/source.h"

static volatile unsigned touched; /* so that the reads stay */

static inline void touch(const void *data, size_t n)
{
    const unsigned char *bytes = data;

    for (size_t i = 0; i < n; i++)
        touched += bytes[i];
}

/* NULL where it is refused, with a reason. */
static inline struct cabe_source *open_memory(const uint8_t *data, size_t size)
{
    struct cabe_source *source = NULL;
    struct cabe_error err = {.text = ""};
    char path[64];
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size))
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (cabe_source_open(&source, path, &err) != CABE_OK && err.text[0] == '\0')
        abort();
    close(fd);
    return source;
}

/* Everything a header promised must be there. */
static inline void touch_tensors(const struct cabe_source *source)
{
    struct cabe_source_summary summary;
    static uint8_t bytes[4096];

    cabe_source_summarise(source, &summary);
    for (size_t i = 0; i < cabe_source_n_tensors(source); i++) {
        const struct cabe_source_tensor *t = cabe_source_tensor(source, i);
        uint64_t n = t->bytes < sizeof bytes ? t->bytes : sizeof bytes;

        if (cabe_source_find(source, t->name) != t ||
            cabe_source_read(source, t, t->bytes - n, n, bytes, NULL) != CABE_OK)
            abort();
        touch(bytes, (size_t)n);
        touch(t->type, strlen(t->type));
    }
}

#endif
