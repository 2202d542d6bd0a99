/* Copies a local model into the store: what cabe reads of it, its card and its licence. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/file.h"
#include "base/memory.h"
#include "format/aside.h"
#include "format/source_parts.h"
#include "format/store_parts.h"

#define BUFFER_BYTES (1u << 20)

enum cabe_status cabe_store_check_space(const char *folder, uint64_t bytes, struct cabe_error *err)
{
    struct statvfs info;
    uint64_t left;

    if (statvfs(folder, &info) != 0)
        return CABE_OK; /* writing will tell */
    if (__builtin_mul_overflow((uint64_t)info.f_bavail, (uint64_t)info.f_frsize, &left) || left >= bytes)
        return CABE_OK;
    return cabe_fail(err, CABE_ERR_NO_SPACE, "%s: the model has %llu bytes, the disk %llu left", folder,
                     (unsigned long long)bytes, (unsigned long long)left);
}

struct copy {
    const struct cabe_store_pull *pull;
    const char *to;
    uint8_t *buffer;
    uint64_t done, total;
    struct cabe_error *err;
};

static enum cabe_status copy_bytes(struct copy *c, const struct cabe_input *in, struct cabe_outfile *out)
{
    for (uint64_t at = 0; at < in->bytes;) {
        size_t n = in->bytes - at < BUFFER_BYTES ? (size_t)(in->bytes - at) : BUFFER_BYTES;
        enum cabe_status status = CABE_OK;

        if (cabe_cancelled(c->pull->cancel))
            return cabe_fail(c->err, CABE_ERR_CANCELLED, "%s: stopped on request", c->pull->path);
        status = cabe_input_read(in, at, n, c->buffer, c->err);
        if (status == CABE_OK)
            status = cabe_outfile_write(out, c->buffer, n, c->err);
        if (status != CABE_OK)
            return status;
        at += n;
        c->done += n;
        cabe_progress_report(c->pull->progress, "copy", c->done, c->total, "bytes");
    }
    return CABE_OK;
}

static enum cabe_status copy_file(struct copy *c, const struct cabe_input *in, const char *relative)
{
    char path[CABE_STORE_PATH_MAX];
    struct cabe_outfile *out = NULL;
    enum cabe_status status;
    char *slash;

    if (snprintf(path, sizeof path, "%s/%s", c->to, relative) >= (int)sizeof path)
        return cabe_fail(c->err, CABE_ERR_LIMIT, "%s/%.200s: the path is too long", c->to, relative);
    slash = strrchr(path, '/');
    *slash = '\0';
    status = cabe_make_dirs(path, 0777, c->err);
    *slash = '/';
    if (status == CABE_OK)
        status = cabe_outfile_open(&out, path, c->err);
    if (status != CABE_OK)
        return status;
    status = copy_bytes(c, in, out);
    if (status == CABE_OK)
        status = cabe_outfile_commit(out, c->err);
    cabe_outfile_close(out);
    return status;
}

/* What stands beside the weights and is worth keeping, though nothing opens it. */
static enum cabe_status copy_card(struct copy *c, const char *folder)
{
    static const char *const names[] = {"README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "vocab.txt"};
    enum cabe_status status = CABE_OK;

    for (size_t i = 0; status == CABE_OK && i < sizeof names / sizeof names[0]; i++) {
        char path[CABE_STORE_PATH_MAX];
        struct cabe_input in;

        if (snprintf(path, sizeof path, "%s/%s", folder, names[i]) >= (int)sizeof path ||
            cabe_input_open(&in, path, NULL) != CABE_OK)
            continue;
        c->total += in.bytes;
        status = copy_file(c, &in, names[i]);
        cabe_input_close(&in);
    }
    return status;
}

static const char *last_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

static enum cabe_status copy_all(struct copy *c, const struct cabe_source *source, const char *path, int is_folder)
{
    enum cabe_status status;

    for (int i = 0; i < source->n_files; i++)
        c->total += source->files[i].bytes;
    status = cabe_store_check_space(c->to, c->total, c->err);
    for (int i = 0; status == CABE_OK && i < source->n_files; i++) {
        const struct cabe_input *in = &source->files[i];
        /* A folder's files are named "<path>/<relative>" by who opened them. */
        const char *relative = is_folder ? in->path + strlen(path) + 1
                               : source->kind == CABE_SOURCE_SAFETENSORS ? "model.safetensors"
                                                                         : last_name(in->path);

        status = copy_file(c, in, relative);
    }
    return status == CABE_OK && is_folder ? copy_card(c, path) : status;
}

enum cabe_status cabe_store_copy(const struct cabe_store_pull *pull, const char *path, const char *to,
                                 struct cabe_error *err)
{
    struct copy c = {.pull = pull, .to = to, .err = err};
    struct cabe_source *source;
    enum cabe_status status = cabe_source_open(&source, path, err);
    struct stat info;

    if (status != CABE_OK)
        return status;
    c.buffer = cabe_malloc(BUFFER_BYTES);
    if (!c.buffer)
        status = cabe_fail(err, CABE_ERR_OOM, "%s: buffer", path);
    else
        status = copy_all(&c, source, path, stat(path, &info) == 0 && S_ISDIR(info.st_mode));
    cabe_free(c.buffer);
    cabe_source_close(source);
    return status;
}
