/*
 * A file that is only read, with pread(2), and that must not change while it is open.
 *
 * Owner: who opens it. Thread: reading from any thread.
 */
#ifndef CABE_FORMAT_INPUT_H
#define CABE_FORMAT_INPUT_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "cabe/status.h"

struct cabe_input {
    int fd;
    char *path; /* as it was given; for messages */
    uint64_t bytes;
    uint64_t mtime_ns;
    uint64_t device, inode;
};

/* Only regular files; `in` need not be initialised and is closed (fd -1) unless CABE_OK. */
CABE_CHECKED enum cabe_status cabe_input_open(struct cabe_input *in, const char *path, struct cabe_error *err);
void cabe_input_close(struct cabe_input *in); /* closing twice is fine */

/* All of [offset, offset + bytes). CABE_ERR_CHANGED: size or time are not what they were when it was opened. */
CABE_CHECKED enum cabe_status cabe_input_read(const struct cabe_input *in, uint64_t offset, uint64_t bytes,
                                              void *out, struct cabe_error *err);

/*
 * The bytes [offset, offset + bytes) as one JSON document: strict, no duplicate keys. `max_bytes` bounds `bytes`
 * before anything is allocated; `flags` are jansson's in addition. `what` names the document in messages.
 */
#define CABE_JSON_CLAMP ((size_t)1 << 62) /* among the flags: integers past 64 bits become 10^18 - 1, not an error */
CABE_CHECKED enum cabe_status cabe_input_json(const struct cabe_input *in, uint64_t offset, uint64_t bytes,
                                              uint64_t max_bytes, size_t flags, const char *what, json_t **out,
                                              struct cabe_error *err);

/*
 * Reads forward through a file, a window at a time, so that a header of any length is parsed in little memory.
 * The first failure stays in `status` and fills `err`; afterwards every take gives zeros, so that a parser may
 * look once after a group of takes.
 */
struct cabe_window {
    const struct cabe_input *in;
    const char *where; /* what is being read, for messages */
    uint64_t at;       /* in the file, of the next byte */
    uint8_t *bytes;    /* of the window */
    uint64_t begin;    /* in the file, of bytes[0] */
    size_t n;
    enum cabe_status status;
    struct cabe_error *err;
};

#define CABE_WINDOW_BYTES 65536u

CABE_CHECKED enum cabe_status cabe_window_open(struct cabe_window *window, const struct cabe_input *in,
                                               struct cabe_error *err);
void cabe_window_close(struct cabe_window *window);
uint32_t cabe_window_u32(struct cabe_window *window); /* little-endian */
uint64_t cabe_window_u64(struct cabe_window *window);
uint8_t cabe_window_u8(struct cabe_window *window);
void cabe_window_copy(struct cabe_window *window, void *out, uint64_t bytes);
void cabe_window_skip(struct cabe_window *window, uint64_t bytes);
/* Bytes of the file that are still ahead. */
uint64_t cabe_window_left(const struct cabe_window *window);

#endif
