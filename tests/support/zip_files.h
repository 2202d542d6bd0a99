/* A writer of zip archives, stored without compression, that writes what it is told: hostile ones too. */
#ifndef CABE_TESTS_ZIP_FILES_H
#define CABE_TESTS_ZIP_FILES_H

#include "format_files.h"

struct zip {
    struct bytes out, directory;
    unsigned n;
};

static inline uint32_t zip_crc(const uint8_t *data, size_t n)
{
    uint32_t crc = ~0u;

    for (size_t i = 0; i < n; i++) {
        crc ^= data[i];
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

/* `mode`: as stat(2) has it, 0 for none; `said`: the size that the headers say. */
static inline void zip_add_as(struct zip *zip, const char *name, const void *data, size_t n, unsigned mode,
                              uint32_t said)
{
    uint32_t offset = (uint32_t)zip->out.n, crc = zip_crc(data, n);

    put(&zip->out, "PK\3\4", 4);
    put_number(&zip->out, 20, 2);
    put_number(&zip->out, 0, 8); /* flags, method, time, date */
    put_u32(&zip->out, crc);
    put_u32(&zip->out, said);
    put_u32(&zip->out, said);
    put_number(&zip->out, strlen(name), 2);
    put_number(&zip->out, 0, 2);
    put(&zip->out, name, strlen(name));
    put(&zip->out, data, n);

    put(&zip->directory, "PK\1\2", 4);
    put_number(&zip->directory, 3 << 8 | 20, 2); /* made by Unix */
    put_number(&zip->directory, 20, 2);
    put_number(&zip->directory, 0, 8);
    put_u32(&zip->directory, crc);
    put_u32(&zip->directory, said);
    put_u32(&zip->directory, said);
    put_number(&zip->directory, strlen(name), 2);
    put_number(&zip->directory, 0, 8); /* extra, comment, disk, internal attributes */
    put_u32(&zip->directory, mode << 16);
    put_u32(&zip->directory, offset);
    put(&zip->directory, name, strlen(name));
    zip->n++;
}

static inline void zip_add(struct zip *zip, const char *name, const void *data, size_t n)
{
    zip_add_as(zip, name, data, n, 0100644, (uint32_t)n);
}

static inline void zip_add_text(struct zip *zip, const char *name, const char *text)
{
    zip_add(zip, name, text, strlen(text));
}

/* Ends the archive; zip->out is the file. */
static inline void zip_end(struct zip *zip)
{
    size_t offset = zip->out.n;

    put(&zip->out, zip->directory.data, zip->directory.n);
    put(&zip->out, "PK\5\6", 4);
    put_u32(&zip->out, 0);
    put_number(&zip->out, zip->n, 2);
    put_number(&zip->out, zip->n, 2);
    put_u32(&zip->out, (uint32_t)zip->directory.n);
    put_u32(&zip->out, (uint32_t)offset);
    put_number(&zip->out, 0, 2);
}

static inline void zip_clear(struct zip *zip)
{
    bytes_clear(&zip->out);
    bytes_clear(&zip->directory);
    zip->n = 0;
}

#endif
