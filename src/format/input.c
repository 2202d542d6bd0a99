#include "format/input.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

#define READ_MAX (1u << 30) /* of one pread(2), which gives at most 2 GiB - 4096 */

static uint64_t mtime_ns(const struct stat *info)
{
    return (uint64_t)info->st_mtim.tv_sec * 1000000000u + (uint64_t)info->st_mtim.tv_nsec;
}

enum cabe_status cabe_input_open(struct cabe_input *in, const char *path, struct cabe_error *err)
{
    enum cabe_status status;
    struct stat info;

    memset(in, 0, sizeof *in);
    /* O_NONBLOCK: a FIFO must be refused, not waited for. */
    in->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (in->fd < 0)
        return cabe_fail_errno(err, errno, "%s", path);
    if (fstat(in->fd, &info) != 0) {
        status = cabe_fail_errno(err, errno, "%s", path);
        goto fail;
    }
    if (!S_ISREG(info.st_mode)) {
        status = cabe_fail(err, CABE_ERR_ARGUMENT, "%s: is %s, wanted a regular file", path,
                           S_ISDIR(info.st_mode) ? "a folder" : "a pipe, socket or device");
        goto fail;
    }
    in->path = cabe_strdup(path);
    if (!in->path) {
        status = cabe_fail(err, CABE_ERR_OOM, "%s: its name", path);
        goto fail;
    }
    in->bytes = (uint64_t)info.st_size;
    in->mtime_ns = mtime_ns(&info);
    in->device = (uint64_t)info.st_dev;
    in->inode = (uint64_t)info.st_ino;
    return CABE_OK;

fail:
    cabe_input_close(in);
    return status;
}

void cabe_input_close(struct cabe_input *in)
{
    if (in->fd >= 0)
        close(in->fd);
    in->fd = -1;
    cabe_free(in->path);
    in->path = NULL;
}

enum cabe_status cabe_input_read(const struct cabe_input *in, uint64_t offset, uint64_t bytes, void *out,
                                 struct cabe_error *err)
{
    uint8_t *to = out;
    struct stat info;

    if (fstat(in->fd, &info) != 0)
        return cabe_fail_errno(err, errno, "%s", in->path);
    if ((uint64_t)info.st_size != in->bytes)
        return cabe_fail(err, CABE_ERR_CHANGED, "%s: has %llu bytes, had %llu when it was opened", in->path,
                         (unsigned long long)info.st_size, (unsigned long long)in->bytes);
    if (mtime_ns(&info) != in->mtime_ns)
        return cabe_fail(err, CABE_ERR_CHANGED, "%s: was written to since it was opened", in->path);
    if (offset > in->bytes || bytes > in->bytes - offset)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: bytes %llu at offset %llu past end %llu", in->path,
                         (unsigned long long)bytes, (unsigned long long)offset, (unsigned long long)in->bytes);
    while (bytes > 0) {
        ssize_t got = pread(in->fd, to, bytes < READ_MAX ? bytes : READ_MAX, (off_t)offset);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return cabe_fail_errno(err, errno, "%s: at offset %llu", in->path, (unsigned long long)offset);
        if (got == 0)
            return cabe_fail(err, CABE_ERR_CHANGED, "%s: ends at byte %llu, had %llu when it was opened", in->path,
                             (unsigned long long)offset, (unsigned long long)in->bytes);
        to += got;
        offset += (uint64_t)got;
        bytes -= (uint64_t)got;
    }
    return CABE_OK;
}

/*
 * Configurations have numbers that stand for "without limit" (model_max_length: 10^30 as a float prints it), which
 * jansson refuses. Written over in place: the length, and with it the places that messages name, stay.
 */
static void clamp_integers(char *text, size_t n)
{
    static const char largest[] = "9223372036854775807";
    int in_text = 0;

    for (size_t i = 0, digits; i < n; i += digits ? digits : 1) {
        digits = 0;
        if (text[i] == '"' || (in_text && text[i] == '\\')) {
            in_text ^= text[i] == '"';
            i += text[i] == '\\';
            continue;
        }
        while (!in_text && i + digits < n && text[i + digits] >= '0' && text[i + digits] <= '9')
            digits++;
        if (digits < 19 || (i > 0 && strchr(".eE+", text[i - 1])) ||
            (i + digits < n && strchr(".eE", text[i + digits])) ||
            (digits == 19 && memcmp(text + i, largest, 19) <= 0))
            continue;
        memset(text + i, '9', 18);
        memset(text + i + 18, ' ', digits - 18);
    }
}

enum cabe_status cabe_input_json(const struct cabe_input *in, uint64_t offset, uint64_t bytes, uint64_t max_bytes,
                                 size_t flags, const char *what, json_t **out, struct cabe_error *err)
{
    enum cabe_status status;
    json_error_t where;
    char *text;

    *out = NULL;
    if (bytes > max_bytes)
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: %s of %llu bytes, at most %llu", in->path, what,
                         (unsigned long long)bytes, (unsigned long long)max_bytes);
    text = cabe_malloc(bytes);
    if (!text)
        return cabe_fail(err, CABE_ERR_OOM, "%s: %s of %llu bytes", in->path, what, (unsigned long long)bytes);
    status = cabe_input_read(in, offset, bytes, text, err);
    if (status == CABE_OK) {
        if (flags & CABE_JSON_CLAMP)
            clamp_integers(text, bytes);
        *out = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | (flags & ~CABE_JSON_CLAMP), &where);
        /* jansson says nothing at all about some of its own failed allocations. */
        if (!*out && (json_error_code(&where) == json_error_out_of_memory || where.text[0] == '\0'))
            status = cabe_fail(err, CABE_ERR_OOM, "%s: %s", in->path, what);
        else if (!*out)
            status = cabe_fail(err, CABE_ERR_FORMAT, "%s: %s: line %d column %d: %s", in->path, what, where.line,
                               where.column, where.text);
    }
    cabe_free(text);
    return status;
}

enum cabe_status cabe_window_open(struct cabe_window *window, const struct cabe_input *in, struct cabe_error *err)
{
    memset(window, 0, sizeof *window);
    window->in = in;
    window->err = err;
    window->where = "header";
    window->bytes = cabe_malloc(CABE_WINDOW_BYTES);
    if (!window->bytes)
        return cabe_fail(err, CABE_ERR_OOM, "%s: a window of %u bytes", in->path, CABE_WINDOW_BYTES);
    return CABE_OK;
}

void cabe_window_close(struct cabe_window *window)
{
    cabe_free(window->bytes);
    window->bytes = NULL;
}

uint64_t cabe_window_left(const struct cabe_window *window)
{
    return window->in->bytes - window->at;
}

/* Makes `bytes` (at most the window) readable at `at`; 0 after a failure. */
static int ahead(struct cabe_window *window, size_t bytes)
{
    uint64_t left = cabe_window_left(window);

    if (window->status != CABE_OK)
        return 0;
    if (window->at >= window->begin && window->at - window->begin <= window->n &&
        window->n - (size_t)(window->at - window->begin) >= bytes)
        return 1;
    if (bytes > left) {
        window->status =
            cabe_fail(window->err, CABE_ERR_FORMAT, "%s: %s: ends at byte %llu, wanted %zu more at offset %llu",
                      window->in->path, window->where, (unsigned long long)window->in->bytes, bytes,
                      (unsigned long long)window->at);
        return 0;
    }
    window->begin = window->at;
    window->n = left < CABE_WINDOW_BYTES ? (size_t)left : CABE_WINDOW_BYTES;
    window->status = cabe_input_read(window->in, window->begin, window->n, window->bytes, window->err);
    return window->status == CABE_OK;
}

void cabe_window_copy(struct cabe_window *window, void *out, uint64_t bytes)
{
    uint8_t *to = out;

    while (bytes > 0) {
        size_t n = bytes < CABE_WINDOW_BYTES ? (size_t)bytes : CABE_WINDOW_BYTES;

        if (!ahead(window, n)) {
            memset(to, 0, bytes);
            return;
        }
        memcpy(to, window->bytes + (window->at - window->begin), n);
        window->at += n;
        to += n;
        bytes -= n;
    }
}

void cabe_window_skip(struct cabe_window *window, uint64_t bytes)
{
    if (window->status != CABE_OK)
        return;
    if (bytes > cabe_window_left(window)) {
        window->status = cabe_fail(window->err, CABE_ERR_FORMAT,
                                   "%s: %s: %llu bytes at offset %llu past end %llu", window->in->path,
                                   window->where, (unsigned long long)bytes, (unsigned long long)window->at,
                                   (unsigned long long)window->in->bytes);
        return;
    }
    window->at += bytes;
}

uint64_t cabe_window_u64(struct cabe_window *window)
{
    const uint8_t *at;
    uint64_t value = 0;

    if (!ahead(window, 8))
        return 0;
    at = window->bytes + (window->at - window->begin);
    for (int i = 7; i >= 0; i--)
        value = value << 8 | at[i];
    window->at += 8;
    return value;
}

uint32_t cabe_window_u32(struct cabe_window *window)
{
    uint8_t at[4];

    cabe_window_copy(window, at, sizeof at);
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

uint8_t cabe_window_u8(struct cabe_window *window)
{
    uint8_t at;

    cabe_window_copy(window, &at, 1);
    return at;
}
