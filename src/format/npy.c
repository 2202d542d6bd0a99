#include "format/npy.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "format/input.h"

#define HEADER_BYTES 128u /* of our own files: magic, version, length, text, spaces, newline */
#define TEXT_BYTES_MAX 65535u

static const struct {
    const char *descr;
    uint64_t bytes;
} types[] = {{"<f4", 4}, {"<f2", 2}, {"|i1", 1}};

#define N_TYPES (sizeof types / sizeof types[0])

static const uint8_t magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};

uint64_t cabe_npy_item_bytes(enum cabe_npy_type type)
{
    return types[type].bytes;
}

struct cabe_npy_writer {
    struct cabe_outfile *file;
    enum cabe_npy_type type;
    uint64_t n_columns, n_rows;
};

static void make_header(const struct cabe_npy_writer *writer, char out[HEADER_BYTES])
{
    char text[HEADER_BYTES];
    int n = snprintf(text, sizeof text, "{'descr': '%s', 'fortran_order': False, 'shape': (%" PRIu64 ", %" PRIu64 "), }",
                     types[writer->type].descr, writer->n_rows, writer->n_columns);

    memset(out, ' ', HEADER_BYTES); /* at most 49 + 2 * 20 characters of text: it fits */
    memcpy(out, magic, sizeof magic);
    out[6] = 1;
    out[7] = 0;
    out[8] = (char)(HEADER_BYTES - 10);
    out[9] = 0;
    memcpy(out + 10, text, (size_t)n);
    out[HEADER_BYTES - 1] = '\n';
}

enum cabe_status cabe_npy_create(struct cabe_npy_writer **out, const char *path, enum cabe_npy_type type,
                                 uint64_t n_columns, struct cabe_error *err)
{
    struct cabe_npy_writer *writer = cabe_calloc(1, sizeof *writer);
    char header[HEADER_BYTES];
    enum cabe_status status;

    *out = NULL;
    if (!writer)
        return cabe_fail(err, CABE_ERR_OOM, "%s: npy writer", path);
    writer->type = type;
    writer->n_columns = n_columns;
    status = cabe_outfile_open(&writer->file, path, err);
    if (status != CABE_OK) {
        cabe_free(writer);
        return status;
    }
    make_header(writer, header);
    status = cabe_outfile_write(writer->file, header, sizeof header, err);
    if (status != CABE_OK) {
        cabe_npy_discard(writer);
        return status;
    }
    *out = writer;
    return CABE_OK;
}

enum cabe_status cabe_npy_write(struct cabe_npy_writer *writer, const void *rows, uint64_t n_rows,
                                struct cabe_error *err)
{
    enum cabe_status status =
        cabe_outfile_write(writer->file, rows, n_rows * writer->n_columns * types[writer->type].bytes, err);

    if (status == CABE_OK)
        writer->n_rows += n_rows;
    return status;
}

enum cabe_status cabe_npy_finish(struct cabe_npy_writer *writer, struct cabe_error *err)
{
    char header[HEADER_BYTES];
    enum cabe_status status;

    make_header(writer, header);
    status = cabe_outfile_write_at(writer->file, 0, header, sizeof header, err);
    if (status == CABE_OK)
        status = cabe_outfile_commit(writer->file, err);
    cabe_npy_discard(writer);
    return status;
}

void cabe_npy_discard(struct cabe_npy_writer *writer)
{
    if (!writer)
        return;
    cabe_outfile_close(writer->file); /* uncommitted, it leaves nothing */
    cabe_free(writer);
}

struct cabe_npy {
    struct cabe_input in;
    enum cabe_npy_type type;
    uint64_t n_rows, n_columns, data;
};

/* The header is a Python dictionary as numpy prints it: three keys, in any order. */
struct scan {
    const char *at;
    int seen; /* bit per key */
};

static int accept(struct scan *s, const char *word)
{
    size_t n = strlen(word);

    s->at += strspn(s->at, " ");
    if (strncmp(s->at, word, n) != 0)
        return 0;
    s->at += n;
    return 1;
}

static int take_count(struct scan *s, uint64_t *out)
{
    const char *begin;

    s->at += strspn(s->at, " ");
    begin = s->at;
    *out = 0;
    for (; *s->at >= '0' && *s->at <= '9'; s->at++)
        if (__builtin_mul_overflow(*out, 10u, out) || __builtin_add_overflow(*out, (uint64_t)(*s->at - '0'), out))
            return 0;
    return s->at > begin;
}

static int take_type(struct scan *s, struct cabe_npy *npy)
{
    for (size_t i = 0; i < N_TYPES; i++) {
        char quoted[8];

        snprintf(quoted, sizeof quoted, "'%s'", types[i].descr);
        if (accept(s, quoted)) {
            npy->type = (enum cabe_npy_type)i;
            return 1;
        }
    }
    return 0;
}

static enum cabe_status bad_header(const struct cabe_npy *npy, const char *wanted, struct cabe_error *err)
{
    return cabe_fail(err, CABE_ERR_FORMAT, "%s: npy header: wanted %s", npy->in.path, wanted);
}

static enum cabe_status scan_header(struct cabe_npy *npy, const char *text, struct cabe_error *err)
{
    struct scan s = {.at = text};

    if (!accept(&s, "{"))
        return bad_header(npy, "a dictionary", err);
    while (!accept(&s, "}")) {
        if (accept(&s, "'descr':") && !(s.seen & 1)) {
            if (!take_type(&s, npy))
                return bad_header(npy, "descr '<f4', '<f2' or '|i1'", err);
            s.seen |= 1;
        } else if (accept(&s, "'fortran_order':") && !(s.seen & 2)) {
            if (!accept(&s, "False"))
                return bad_header(npy, "fortran_order False", err);
            s.seen |= 2;
        } else if (accept(&s, "'shape':") && !(s.seen & 4)) {
            if (!accept(&s, "(") || !take_count(&s, &npy->n_rows) || !accept(&s, ",") ||
                !take_count(&s, &npy->n_columns) || (accept(&s, ","), !accept(&s, ")")))
                return bad_header(npy, "a shape of two dimensions", err);
            s.seen |= 4;
        } else {
            return bad_header(npy, "descr, fortran_order and shape, once each", err);
        }
        accept(&s, ",");
    }
    return s.seen == 7 ? CABE_OK : bad_header(npy, "descr, fortran_order and shape", err);
}

static enum cabe_status read_header(struct cabe_npy *npy, struct cabe_error *err)
{
    uint8_t head[12];
    uint64_t bytes, wanted;
    enum cabe_status status;
    char *text;

    if (npy->in.bytes < sizeof head)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: %llu bytes, too few for an npy file", npy->in.path,
                         (unsigned long long)npy->in.bytes);
    status = cabe_input_read(&npy->in, 0, sizeof head, head, err);
    if (status != CABE_OK)
        return status;
    if (memcmp(head, magic, sizeof magic) != 0)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: is not an npy file", npy->in.path);
    if (head[6] < 1 || head[6] > 3)
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: npy version %u, wanted 1 to 3", npy->in.path, head[6]);
    bytes = (uint64_t)head[8] | (uint64_t)head[9] << 8;
    npy->data = 10;
    if (head[6] > 1) {
        bytes |= (uint64_t)head[10] << 16 | (uint64_t)head[11] << 24;
        npy->data = 12;
    }
    if (bytes > TEXT_BYTES_MAX || bytes > npy->in.bytes - npy->data)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: npy header of %llu bytes, at most %u and the file's %llu",
                         npy->in.path, (unsigned long long)bytes, TEXT_BYTES_MAX, (unsigned long long)npy->in.bytes);
    text = cabe_calloc(1, bytes + 1);
    if (!text)
        return cabe_fail(err, CABE_ERR_OOM, "%s: npy header", npy->in.path);
    status = cabe_input_read(&npy->in, npy->data, bytes, text, err);
    if (status == CABE_OK)
        status = scan_header(npy, text, err);
    cabe_free(text);
    npy->data += bytes;
    if (status != CABE_OK)
        return status;
    if (__builtin_mul_overflow(npy->n_rows, npy->n_columns, &wanted) ||
        __builtin_mul_overflow(wanted, types[npy->type].bytes, &wanted) || wanted != npy->in.bytes - npy->data)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: %llu bytes of data, wanted %llu rows of %llu times %llu",
                         npy->in.path, (unsigned long long)(npy->in.bytes - npy->data),
                         (unsigned long long)npy->n_rows, (unsigned long long)npy->n_columns,
                         (unsigned long long)types[npy->type].bytes);
    return CABE_OK;
}

enum cabe_status cabe_npy_open(struct cabe_npy **out, const char *path, struct cabe_error *err)
{
    struct cabe_npy *npy = cabe_calloc(1, sizeof *npy);
    enum cabe_status status;

    *out = NULL;
    if (!npy)
        return cabe_fail(err, CABE_ERR_OOM, "%s: npy handle", path);
    status = cabe_input_open(&npy->in, path, err);
    if (status == CABE_OK)
        status = read_header(npy, err);
    if (status != CABE_OK) {
        cabe_npy_close(npy);
        return status;
    }
    *out = npy;
    return CABE_OK;
}

void cabe_npy_close(struct cabe_npy *npy)
{
    if (!npy)
        return;
    cabe_input_close(&npy->in);
    cabe_free(npy);
}

enum cabe_npy_type cabe_npy_type(const struct cabe_npy *npy)
{
    return npy->type;
}

uint64_t cabe_npy_n_rows(const struct cabe_npy *npy)
{
    return npy->n_rows;
}

uint64_t cabe_npy_n_columns(const struct cabe_npy *npy)
{
    return npy->n_columns;
}

enum cabe_status cabe_npy_read(const struct cabe_npy *npy, uint64_t first_row, uint64_t n_rows, void *out,
                               struct cabe_error *err)
{
    uint64_t row_bytes = npy->n_columns * types[npy->type].bytes;

    if (first_row > npy->n_rows || n_rows > npy->n_rows - first_row)
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: rows %llu to %llu, it has %llu", npy->in.path,
                         (unsigned long long)first_row, (unsigned long long)(first_row + n_rows),
                         (unsigned long long)npy->n_rows);
    return cabe_input_read(&npy->in, npy->data + first_row * row_bytes, n_rows * row_bytes, out, err);
}
