/*
 * The file of an index: a header of 4096 bytes, then the payload.
 *
 *     0  "CABEIDX1"          8  kind, 16 bytes     24  dtype, 8 bytes     32  metric, 8 bytes   (names, zero-padded)
 *    40  u64 dim            48  u64 rows           56  u64 payload bytes  64  u64 XXH3 of the payload
 *    72  zeros            4088  u64 XXH3 of the 4088 bytes before
 *
 * Numbers are little-endian. Payload of "exact": the rows one after another in their dtype, then for int8 one f32
 * scale a row.
 */
#ifndef CABE_INDEX_FILE_H
#define CABE_INDEX_FILE_H

#define XXH_STATIC_LINKING_ONLY /* the state of a hash on the stack */
#include <stdint.h>
#include <xxhash.h>

#include "base/file.h"
#include "index/index.h"

#define CABE_INDEX_HEADER_BYTES 4096

struct cabe_index_header {
    char kind[17];
    enum cabe_dtype dtype;
    enum cabe_metric metric;
    int64_t dim, n_rows;
    uint64_t payload_bytes, payload_hash;
};

/* Opens `path` and reads and checks its header; the file has the size that the header says. `*fd` is the caller's. */
enum cabe_status cabe_index_file_open(int *fd, struct cabe_index_header *header, const char *path,
                                      struct cabe_error *err);
enum cabe_status cabe_index_file_read(int fd, void *out, uint64_t bytes, uint64_t offset, const char *path,
                                      struct cabe_error *err);

/* A new file is written through this: begin, append payload, end (which syncs and renames) or drop. */
struct cabe_index_writer {
    XXH3_state_t hash;
    struct cabe_outfile *file;
    uint64_t n_bytes;
};

enum cabe_status cabe_index_writer_begin(struct cabe_index_writer *writer, const char *path, struct cabe_error *err);
enum cabe_status cabe_index_writer_append(struct cabe_index_writer *writer, const void *data, uint64_t bytes,
                                          struct cabe_error *err);
/* Fills payload_bytes and payload_hash of `header` itself. */
enum cabe_status cabe_index_writer_end(struct cabe_index_writer *writer, struct cabe_index_header *header,
                                       struct cabe_error *err);
void cabe_index_writer_drop(struct cabe_index_writer *writer); /* always, at last */

/* Whether the payload has the hash of the header; reads in small pieces. */
enum cabe_status cabe_index_file_check(int fd, const struct cabe_index_header *header, const char *path,
                                       struct cabe_error *err);

#endif
