#include "index/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

#define MAGIC "CABEIDX1"
#define HASH_AT (CABE_INDEX_HEADER_BYTES - 8)
#define PIECE_BYTES 65536

static void put_u64(uint8_t *p, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get_u64(const uint8_t *p)
{
    uint64_t value = 0;

    for (int i = 0; i < 8; i++)
        value |= (uint64_t)p[i] << (8 * i);
    return value;
}

static void encode(const struct cabe_index_header *header, uint8_t out[CABE_INDEX_HEADER_BYTES])
{
    memset(out, 0, CABE_INDEX_HEADER_BYTES);
    memcpy(out, MAGIC, 8);
    memcpy(out + 8, header->kind, strlen(header->kind));
    memcpy(out + 24, cabe_dtype_name(header->dtype), strlen(cabe_dtype_name(header->dtype)));
    memcpy(out + 32, cabe_metric_name(header->metric), strlen(cabe_metric_name(header->metric)));
    put_u64(out + 40, (uint64_t)header->dim);
    put_u64(out + 48, (uint64_t)header->n_rows);
    put_u64(out + 56, header->payload_bytes);
    put_u64(out + 64, header->payload_hash);
    put_u64(out + HASH_AT, XXH3_64bits(out, HASH_AT));
}

static enum cabe_status decode(const uint8_t in[CABE_INDEX_HEADER_BYTES], struct cabe_index_header *header,
                               const char *path, struct cabe_error *err)
{
    char dtype[9] = {0}, metric[9] = {0};

    if (memcmp(in, MAGIC, 8) != 0)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: not an index of cabe: it does not begin with " MAGIC,
                         path);
    if (get_u64(in + HASH_AT) != XXH3_64bits(in, HASH_AT))
        return cabe_fail(
            err, CABE_ERR_FORMAT, "%s: the header is damaged: its checksum is %016llx, wanted %016llx", path,
            (unsigned long long)XXH3_64bits(in, HASH_AT), (unsigned long long)get_u64(in + HASH_AT));
    memset(header, 0, sizeof *header);
    memcpy(header->kind, in + 8, 16);
    memcpy(dtype, in + 24, 8);
    memcpy(metric, in + 32, 8);
    header->dtype = cabe_dtype_find(dtype);
    if (header->dtype == CABE_N_DTYPES)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: dtype \"%s\" is not known", path, dtype);
    header->metric =
        strcmp(metric, cabe_metric_name(CABE_METRIC_DOT)) == 0 ? CABE_METRIC_DOT : CABE_METRIC_COSINE;
    if (strcmp(metric, cabe_metric_name(header->metric)) != 0)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: metric \"%s\" is not known", path, metric);
    if (get_u64(in + 40) < 1 || get_u64(in + 40) > CABE_INDEX_DIM_MAX)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: rows of %llu values, wanted 1 to %d", path,
                         (unsigned long long)get_u64(in + 40), CABE_INDEX_DIM_MAX);
    if (get_u64(in + 48) > (uint64_t)CABE_INDEX_ROWS_MAX)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: %llu rows, at most %lld are possible", path,
                         (unsigned long long)get_u64(in + 48), (long long)CABE_INDEX_ROWS_MAX);
    header->dim = (int64_t)get_u64(in + 40);
    header->n_rows = (int64_t)get_u64(in + 48);
    header->payload_bytes = get_u64(in + 56);
    header->payload_hash = get_u64(in + 64);
    return CABE_OK;
}

enum cabe_status cabe_index_file_read(int fd, void *out, uint64_t bytes, uint64_t offset, const char *path,
                                      struct cabe_error *err)
{
    uint8_t *to = out;

    while (bytes > 0) {
        ssize_t n = pread(fd, to, bytes < 1u << 30 ? (size_t)bytes : 1u << 30, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return cabe_fail_errno(err, errno, "%s: reading at byte %llu", path, (unsigned long long)offset);
        if (n == 0)
            return cabe_fail(err, CABE_ERR_CHANGED, "%s: ends at byte %llu, %llu bytes before its end", path,
                             (unsigned long long)offset, (unsigned long long)bytes);
        to += n;
        bytes -= (uint64_t)n;
        offset += (uint64_t)n;
    }
    return CABE_OK;
}

enum cabe_status cabe_index_file_open(int *fd, struct cabe_index_header *header, const char *path,
                                      struct cabe_error *err)
{
    uint8_t bytes[CABE_INDEX_HEADER_BYTES];
    enum cabe_status status;
    struct stat info;

    /* a FIFO does not hang the open; stat refuses it next */
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0)
        return cabe_fail_errno(err, errno, "%s", path);
    if (fstat(*fd, &info) != 0)
        status = cabe_fail_errno(err, errno, "%s", path);
    else if (!S_ISREG(info.st_mode) || info.st_size < CABE_INDEX_HEADER_BYTES)
        status = cabe_fail(err, CABE_ERR_FORMAT, "%s: not an index of cabe: no file of %d bytes or more",
                           path, CABE_INDEX_HEADER_BYTES);
    else
        status = cabe_index_file_read(*fd, bytes, sizeof bytes, 0, path, err);
    if (status == CABE_OK)
        status = decode(bytes, header, path, err);
    if (status == CABE_OK && (uint64_t)info.st_size - CABE_INDEX_HEADER_BYTES != header->payload_bytes)
        status = cabe_fail(err, CABE_ERR_FORMAT, "%s: %llu bytes after the header, wanted %llu", path,
                           (unsigned long long)info.st_size - CABE_INDEX_HEADER_BYTES,
                           (unsigned long long)header->payload_bytes);
    if (status != CABE_OK) {
        close(*fd);
        *fd = -1;
    }
    return status;
}

enum cabe_status cabe_index_file_check(int fd, const struct cabe_index_header *header, const char *path,
                                       struct cabe_error *err)
{
    uint8_t piece[PIECE_BYTES];
    XXH3_state_t hash;

    XXH3_INITSTATE(&hash);
    XXH3_64bits_reset(&hash);
    for (uint64_t done = 0; done < header->payload_bytes;) {
        uint64_t left = header->payload_bytes - done, n = left < sizeof piece ? left : sizeof piece;
        enum cabe_status status =
            cabe_index_file_read(fd, piece, n, CABE_INDEX_HEADER_BYTES + done, path, err);

        if (status != CABE_OK)
            return status;
        XXH3_64bits_update(&hash, piece, (size_t)n);
        done += n;
    }
    if (XXH3_64bits_digest(&hash) != header->payload_hash)
        return cabe_fail(
            err, CABE_ERR_FORMAT, "%s: the rows are damaged: their checksum is %016llx, wanted %016llx", path,
            (unsigned long long)XXH3_64bits_digest(&hash), (unsigned long long)header->payload_hash);
    return CABE_OK;
}

enum cabe_status cabe_index_writer_begin(struct cabe_index_writer *writer, const char *path,
                                         struct cabe_error *err)
{
    static const uint8_t header[CABE_INDEX_HEADER_BYTES]; /* comes at the end */
    enum cabe_status status;

    memset(writer, 0, sizeof *writer);
    XXH3_INITSTATE(&writer->hash);
    XXH3_64bits_reset(&writer->hash);
    status = cabe_outfile_open(&writer->file, path, err);
    return status == CABE_OK ? cabe_outfile_write(writer->file, header, sizeof header, err) : status;
}

enum cabe_status cabe_index_writer_append(struct cabe_index_writer *writer, const void *data, uint64_t bytes,
                                          struct cabe_error *err)
{
    enum cabe_status status = cabe_outfile_write(writer->file, data, bytes, err);

    if (status == CABE_OK) {
        XXH3_64bits_update(&writer->hash, data, (size_t)bytes);
        writer->n_bytes += bytes;
    }
    return status;
}

enum cabe_status cabe_index_writer_end(struct cabe_index_writer *writer, struct cabe_index_header *header,
                                       struct cabe_error *err)
{
    uint8_t bytes[CABE_INDEX_HEADER_BYTES];
    enum cabe_status status;

    header->payload_bytes = writer->n_bytes;
    header->payload_hash = XXH3_64bits_digest(&writer->hash);
    encode(header, bytes);
    status = cabe_outfile_write_at(writer->file, 0, bytes, sizeof bytes, err);
    return status == CABE_OK ? cabe_outfile_commit(writer->file, err) : status;
}

void cabe_index_writer_drop(struct cabe_index_writer *writer)
{
    cabe_outfile_close(writer->file); /* uncommitted, it leaves nothing */
    writer->file = NULL;
}
