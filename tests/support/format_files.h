/* Writers of small GGUF and safetensors files, for tests. They check nothing: hostile files are made with them too. */
#ifndef CABE_TESTS_FORMAT_FILES_H
#define CABE_TESTS_FORMAT_FILES_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct bytes {
    uint8_t *data;
    size_t n, capacity;
};

static inline void put(struct bytes *b, const void *data, size_t n)
{
    if (b->n + n > b->capacity) {
        b->capacity = 2 * (b->n + n) + 64;
        b->data = realloc(b->data, b->capacity);
        if (!b->data)
            abort();
    }
    if (n)
        memcpy(b->data + b->n, data, n);
    b->n += n;
}

static inline void put_number(struct bytes *b, uint64_t value, int n)
{
    for (int i = 0; i < n; i++) {
        uint8_t byte = (uint8_t)(value >> 8 * i);

        put(b, &byte, 1);
    }
}

static inline void put_u32(struct bytes *b, uint32_t value)
{
    put_number(b, value, 4);
}

static inline void put_u64(struct bytes *b, uint64_t value)
{
    put_number(b, value, 8);
}

static inline void put_text(struct bytes *b, const char *text)
{
    put_u64(b, strlen(text));
    put(b, text, strlen(text));
}

static inline void put_zeros(struct bytes *b, size_t n)
{
    static const uint8_t zero;

    while (n--)
        put(b, &zero, 1);
}

static inline void bytes_clear(struct bytes *b)
{
    free(b->data);
    memset(b, 0, sizeof *b);
}

static inline void gguf_begin(struct bytes *b, uint32_t version, uint64_t n_tensors, uint64_t n_keys)
{
    put(b, "GGUF", 4);
    put_u32(b, version);
    put_u64(b, n_tensors);
    put_u64(b, n_keys);
}

/* A key and the number of its type; the value follows. */
static inline void gguf_key(struct bytes *b, const char *key, uint32_t type)
{
    put_text(b, key);
    put_u32(b, type);
}

static inline void gguf_key_u32(struct bytes *b, const char *key, uint32_t value)
{
    gguf_key(b, key, 4);
    put_u32(b, value);
}

static inline void gguf_key_f32(struct bytes *b, const char *key, float value)
{
    gguf_key(b, key, 6);
    put(b, &value, 4);
}

static inline void gguf_key_text(struct bytes *b, const char *key, const char *value)
{
    gguf_key(b, key, 8);
    put_text(b, value);
}

/* The beginning of an array; its elements follow. */
static inline void gguf_key_array(struct bytes *b, const char *key, uint32_t element, uint64_t n)
{
    gguf_key(b, key, 9);
    put_u32(b, element);
    put_u64(b, n);
}

/* `dims` innermost first, as the file has them. */
static inline void gguf_tensor(struct bytes *b, const char *name, uint32_t n_dims, const uint64_t *dims,
                               uint32_t type, uint64_t offset)
{
    put_text(b, name);
    put_u32(b, n_dims);
    for (uint32_t i = 0; i < n_dims; i++)
        put_u64(b, dims[i]);
    put_u32(b, type);
    put_u64(b, offset);
}

static inline void put_align(struct bytes *b, size_t align)
{
    put_zeros(b, (align - b->n % align) % align);
}

static inline void put_safetensors(struct bytes *b, const char *header, size_t data_bytes)
{
    put_u64(b, strlen(header));
    put(b, header, strlen(header));
    for (size_t i = 0; i < data_bytes; i++) {
        uint8_t byte = (uint8_t)i;

        put(b, &byte, 1);
    }
}

/* A file in memory; its descriptor, to be closed, and a path to open it by. */
static inline int memory_file(const void *data, size_t n, char path[64])
{
    int fd = memfd_create("test", MFD_CLOEXEC);

    if (fd < 0 || (n && write(fd, data, n) != (ssize_t)n))
        abort();
    snprintf(path, 64, "/proc/self/fd/%d", fd);
    return fd;
}

static inline void write_file(const char *path, const void *data, size_t n)
{
    FILE *file = fopen(path, "wb");

    if (!file || fwrite(data, 1, n, file) != n || fclose(file) != 0) {
        perror(path);
        abort();
    }
}

/* Makes folder/name with `text`, and the folders on its way. */
static inline void write_text(const char *folder, const char *name, const char *text)
{
    char path[4096];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    write_file(path, text, strlen(text));
}

static inline void temp_folder(char path[64])
{
    snprintf(path, 64, "/tmp/cabe-test-XXXXXX");
    if (!mkdtemp(path))
        abort();
}

static inline void remove_folder(const char *path)
{
    char command[4200];

    snprintf(command, sizeof command, "rm -rf '%s'", path);
    if (system(command) != 0)
        perror(path);
}

#endif
