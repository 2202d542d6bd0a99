#include "format/package.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "format/input.h"
#include "format/source_parts.h"

#define BUFFER_BYTES 65536u
#define NAME_BYTES_MAX 1024u
#define DEPTH_MAX 32
#define SMALL_BYTES (1ull << 30) /* unpacked sizes up to here are not held to the ratio */

struct member {
    char *name; /* in the archive */
    uint64_t bytes;
    size_t index;    /* in the archive's order */
    int is_folder;
};

struct cabe_package {
    struct cabe_input in;
    struct member *members; /* sorted by name */
    size_t n_members, capacity;
    char *model;
    int is_gguf;
    struct cabe_package_member *chosen; /* sorted by name too */
    uint32_t *chosen_at;                /* by the archive's order: 1 + index in `chosen`, or 0 */
    size_t n_chosen;
};

/* libarchive reads through these, so that a file that changes meanwhile is noticed. */
struct reader {
    const struct cabe_input *in;
    uint64_t at;
    enum cabe_status status;
    struct cabe_error err;
    uint8_t buffer[BUFFER_BYTES];
};

static la_ssize_t read_some(struct archive *archive, void *self, const void **out)
{
    struct reader *r = self;
    uint64_t left = r->in->bytes - r->at, n = left < BUFFER_BYTES ? left : BUFFER_BYTES;

    *out = r->buffer;
    r->status = cabe_input_read(r->in, r->at, n, r->buffer, &r->err);
    if (r->status != CABE_OK) {
        archive_set_error(archive, EIO, "%s", r->err.text);
        return ARCHIVE_FATAL;
    }
    r->at += n;
    return (la_ssize_t)n;
}

static la_int64_t skip_some(struct archive *archive, void *self, la_int64_t n)
{
    struct reader *r = self;
    uint64_t left = r->in->bytes - r->at;

    (void)archive;
    if (n < 0)
        return ARCHIVE_FATAL;
    if ((uint64_t)n > left)
        n = (la_int64_t)left;
    r->at += (uint64_t)n;
    return n;
}

static la_int64_t seek_to(struct archive *archive, void *self, la_int64_t offset, int whence)
{
    struct reader *r = self;
    la_int64_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? (la_int64_t)r->at : (la_int64_t)r->in->bytes;
    la_int64_t to;

    (void)archive;
    if (__builtin_add_overflow(base, offset, &to) || to < 0 || (uint64_t)to > r->in->bytes)
        return ARCHIVE_FATAL;
    r->at = (uint64_t)to;
    return to;
}

static enum cabe_status archive_fault(const struct cabe_package *package, const struct reader *r,
                                      struct archive *archive, const char *name, struct cabe_error *err)
{
    const char *reason = archive_error_string(archive);

    if (r->status != CABE_OK) {
        if (err)
            *err = r->err;
        return r->status;
    }
    if (archive_errno(archive) == ENOMEM)
        return cabe_fail(err, CABE_ERR_OOM, "%s: reading the archive", package->in.path);
    if (!reason || strncmp(reason, "Unrecognized", 12) == 0)
        reason = "is no zip archive, or a truncated one: its directory of members is not at its end";
    return cabe_fail(err, CABE_ERR_FORMAT, "%s: %s%s%s", package->in.path, name ? name : "", name ? ": " : "",
                     reason);
}

static enum cabe_status open_archive(const struct cabe_package *package, struct reader **reader,
                                     struct archive **archive, struct cabe_error *err)
{
    struct reader *r = cabe_calloc(1, sizeof *r);
    struct archive *a = archive_read_new();

    *reader = NULL;
    *archive = NULL;
    if (!r || !a) {
        cabe_free(r);
        archive_read_free(a);
        return cabe_fail(err, CABE_ERR_OOM, "%s: archive reader", package->in.path);
    }
    r->in = &package->in;
    /* By the central directory alone: what it does not list is not there. */
    archive_read_support_format_zip_seekable(a);
    archive_read_set_read_callback(a, read_some);
    archive_read_set_skip_callback(a, skip_some);
    archive_read_set_seek_callback(a, seek_to);
    archive_read_set_callback_data(a, r);
    if (archive_read_open1(a) != ARCHIVE_OK) {
        enum cabe_status status = archive_fault(package, r, a, NULL, err);

        archive_read_free(a);
        cabe_free(r);
        return status;
    }
    *reader = r;
    *archive = a;
    return CABE_OK;
}

/* The member's name, or NULL where it has none that UTF-8 can say. */
static const char *name_of(struct archive_entry *entry)
{
    const char *name = archive_entry_pathname_utf8(entry);

    return name ? name : archive_entry_pathname(entry);
}

static enum cabe_status check_entry(const struct cabe_package *package, struct archive_entry *entry, size_t index,
                                    struct cabe_error *err)
{
    const char *path = package->in.path, *name = name_of(entry);
    size_t n = name ? strlen(name) : 0;
    char plain[NAME_BYTES_MAX + 1];

    if (n == 0 || n > NAME_BYTES_MAX)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: member %zu: a name of %zu bytes, wanted 1 to %u", path, index, n,
                         NAME_BYTES_MAX);
    memcpy(plain, name, n + 1);
    if (n > 1 && plain[n - 1] == '/') /* a folder */
        plain[n - 1] = '\0';
    if (!cabe_path_is_inside(plain) || strchr(plain, '\\'))
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: member '%.200s': its path leaves the folder", path, name);
    if (archive_entry_hardlink(entry) || archive_entry_symlink(entry) ||
        (archive_entry_filetype(entry) != AE_IFREG && archive_entry_filetype(entry) != AE_IFDIR))
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: member '%.200s': is a link or device, wanted a file", path, name);
    if (archive_entry_is_encrypted(entry))
        return cabe_fail(err, CABE_ERR_UNSUPPORTED, "%s: member '%.200s': is encrypted", path, name);
    if (archive_entry_filetype(entry) == AE_IFREG && (!archive_entry_size_is_set(entry) || archive_entry_size(entry) < 0))
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: member '%.200s': its size is not said", path, name);
    return CABE_OK;
}

static enum cabe_status add_member(struct cabe_package *package, struct archive_entry *entry, size_t index,
                                   struct cabe_error *err)
{
    enum cabe_status status = check_entry(package, entry, index, err);
    struct member *member;
    size_t n;

    if (status != CABE_OK)
        return status;
    if (package->n_members == CABE_PACKAGE_MEMBERS_MAX)
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: more than %u members", package->in.path,
                         CABE_PACKAGE_MEMBERS_MAX);
    if (package->n_members == package->capacity) {
        size_t capacity = package->capacity ? 2 * package->capacity : 64;
        struct member *grown = cabe_realloc(package->members, capacity, sizeof *grown);

        if (!grown)
            return cabe_fail(err, CABE_ERR_OOM, "%s: list of %zu members", package->in.path, capacity);
        package->members = grown;
        package->capacity = capacity;
    }
    member = &package->members[package->n_members];
    *member = (struct member){.name = cabe_strdup(name_of(entry)), .index = index};
    if (!member->name)
        return cabe_fail(err, CABE_ERR_OOM, "%s: name of member %zu", package->in.path, index);
    package->n_members++;
    n = strlen(member->name);
    member->is_folder = archive_entry_filetype(entry) == AE_IFDIR || member->name[n - 1] == '/';
    if (member->name[n - 1] == '/')
        member->name[n - 1] = '\0';
    member->bytes = member->is_folder ? 0 : (uint64_t)archive_entry_size(entry);
    return CABE_OK;
}

static int compare_members(const void *a, const void *b)
{
    return strcmp(((const struct member *)a)->name, ((const struct member *)b)->name);
}

/* Nothing on the member's way is a file. */
static enum cabe_status check_way(const struct cabe_package *package, const struct member *member,
                                  struct cabe_error *err)
{
    char way[NAME_BYTES_MAX + 1];
    struct member wanted = {.name = way};
    int depth = 0;

    strcpy(way, member->name);
    for (char *slash = strchr(way, '/'); slash; slash = strchr(slash + 1, '/')) {
        const struct member *found;

        if (++depth > DEPTH_MAX)
            return cabe_fail(err, CABE_ERR_LIMIT, "%s: member '%.200s': more than %d folders deep",
                             package->in.path, member->name, DEPTH_MAX);
        *slash = '\0';
        found = bsearch(&wanted, package->members, package->n_members, sizeof wanted, compare_members);
        if (found && !found->is_folder)
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: member '%.200s' is a file, and the folder of '%.200s'",
                             package->in.path, way, member->name);
        *slash = '/';
    }
    return CABE_OK;
}

static enum cabe_status check_list(struct cabe_package *package, struct cabe_error *err)
{
    uint64_t total = 0;

    if (package->n_members > 0)
        qsort(package->members, package->n_members, sizeof *package->members, compare_members);
    for (size_t i = 0; i < package->n_members; i++) {
        const struct member *member = &package->members[i];
        enum cabe_status status = check_way(package, member, err);

        if (status != CABE_OK)
            return status;
        if (i > 0 && strcmp(member[-1].name, member->name) == 0)
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: member '%.200s' occurs twice", package->in.path,
                             member->name);
        if (__builtin_add_overflow(total, member->bytes, &total) || total > CABE_PACKAGE_BYTES_MAX)
            return cabe_fail(err, CABE_ERR_LIMIT, "%s: unpacks to more than %llu bytes", package->in.path,
                             CABE_PACKAGE_BYTES_MAX);
    }
    if (total > SMALL_BYTES && total / CABE_PACKAGE_RATIO_MAX > package->in.bytes)
        return cabe_fail(err, CABE_ERR_LIMIT, "%s: %llu bytes unpack to %llu, more than %u times as many",
                         package->in.path, (unsigned long long)package->in.bytes, (unsigned long long)total,
                         CABE_PACKAGE_RATIO_MAX);
    return CABE_OK;
}

static enum cabe_status list_members(struct cabe_package *package, struct cabe_error *err)
{
    struct archive_entry *entry;
    struct archive *archive;
    struct reader *reader;
    enum cabe_status status = open_archive(package, &reader, &archive, err);
    int got = ARCHIVE_EOF;

    for (size_t i = 0; status == CABE_OK && (got = archive_read_next_header(archive, &entry)) == ARCHIVE_OK; i++)
        status = add_member(package, entry, i, err);
    if (status == CABE_OK && got != ARCHIVE_EOF)
        status = archive_fault(package, reader, archive, NULL, err);
    archive_read_free(archive);
    cabe_free(reader);
    return status == CABE_OK ? check_list(package, err) : status;
}

static const char *last_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

static int ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);

    return n > m && strcmp(name + n - m, end) == 0;
}

/* 1 where `inner` lies in `outer` or below ("": everything does). */
static int is_below(const char *inner, size_t inner_bytes, const char *outer, size_t outer_bytes)
{
    return outer_bytes == 0 || (inner_bytes >= outer_bytes && memcmp(inner, outer, outer_bytes) == 0 &&
                                (inner_bytes == outer_bytes || inner[outer_bytes] == '/'));
}

/* Bytes of the member's path that make a model of it: its folder, all of it for a GGUF; -1: it makes none. */
static ptrdiff_t model_bytes(const struct member *member)
{
    const char *name = last_name(member->name);

    if (member->is_folder)
        return -1;
    if (ends_with(name, ".gguf"))
        return (ptrdiff_t)strlen(member->name);
    if (strcmp(name, "model.safetensors") != 0 && strcmp(name, "model.safetensors.index.json") != 0)
        return -1;
    return name > member->name ? name - member->name - 1 : 0;
}

/* The model with the shortest path, below which all others lie (a module may have weights of its own). */
static enum cabe_status find_model(struct cabe_package *package, struct cabe_error *err)
{
    const struct member *best = NULL;
    ptrdiff_t best_bytes = 0, bytes;

    for (size_t i = 0; i < package->n_members; i++) {
        bytes = model_bytes(&package->members[i]);
        if (bytes >= 0 && (!best || bytes < best_bytes)) {
            best = &package->members[i];
            best_bytes = bytes;
        }
    }
    if (!best)
        return cabe_fail(err, CABE_ERR_NOT_FOUND,
                         "%s: has no model: no model.safetensors, model.safetensors.index.json or *.gguf in it",
                         package->in.path);
    for (size_t i = 0; i < package->n_members; i++) {
        bytes = model_bytes(&package->members[i]);
        if (bytes >= 0 && !is_below(package->members[i].name, (size_t)bytes, best->name, (size_t)best_bytes))
            return cabe_fail(err, CABE_ERR_ARGUMENT,
                             "%s: has more than one model (%.100s, %.100s); unpack it and name one of them",
                             package->in.path, best->name, package->members[i].name);
    }
    package->is_gguf = best_bytes > 0 && best->name[best_bytes] == '\0';
    package->model = cabe_calloc(1, (size_t)best_bytes + 1);
    if (!package->model)
        return cabe_fail(err, CABE_ERR_OOM, "%s: path of its model", package->in.path);
    memcpy(package->model, best->name, (size_t)best_bytes);
    return CABE_OK;
}

/* Other frameworks' weights, code and hidden files stay in the archive. */
static int is_wanted(const char *relative)
{
    static const char *const other_ends[] = {".bin", ".onnx", ".h5",  ".msgpack", ".ot", ".pt",
                                             ".pth", ".ckpt", ".pkl", ".py",      ".pyc"};
    static const char *const other_folders[] = {"onnx/", "openvino/", "coreml/", "__pycache__/"};

    if (relative[0] == '.' || strstr(relative, "/."))
        return 0;
    for (size_t i = 0; i < sizeof other_ends / sizeof other_ends[0]; i++)
        if (ends_with(relative, other_ends[i]))
            return 0;
    for (size_t i = 0; i < sizeof other_folders / sizeof other_folders[0]; i++)
        if (strncmp(relative, other_folders[i], strlen(other_folders[i])) == 0)
            return 0;
    return 1;
}

static enum cabe_status choose_members(struct cabe_package *package, struct cabe_error *err)
{
    size_t folder_bytes = strlen(package->model);

    package->chosen = cabe_calloc(package->n_members, sizeof *package->chosen);
    package->chosen_at = cabe_calloc(package->n_members, sizeof *package->chosen_at);
    if (!package->chosen || !package->chosen_at)
        return cabe_fail(err, CABE_ERR_OOM, "%s: list of %zu members", package->in.path, package->n_members);
    for (size_t i = 0; i < package->n_members; i++) {
        const struct member *member = &package->members[i];
        const char *relative;

        if (package->is_gguf && strcmp(member->name, package->model) != 0)
            continue;
        if (member->is_folder || !is_below(member->name, strlen(member->name), package->model, folder_bytes))
            continue;
        relative = package->is_gguf ? last_name(member->name) : member->name + folder_bytes + (folder_bytes > 0);
        if (!is_wanted(relative))
            continue;
        package->chosen[package->n_chosen++] = (struct cabe_package_member){relative, member->bytes};
        package->chosen_at[member->index] = (uint32_t)package->n_chosen;
    }
    return CABE_OK;
}

enum cabe_status cabe_package_detect(const char *path, int *is_zip, struct cabe_error *err)
{
    struct cabe_input in;
    uint8_t head[4] = {0};
    enum cabe_status status = cabe_input_open(&in, path, err);

    if (status == CABE_OK && in.bytes >= sizeof head)
        status = cabe_input_read(&in, 0, sizeof head, head, err);
    *is_zip = memcmp(head, "PK\3\4", 4) == 0;
    cabe_input_close(&in);
    return status;
}

enum cabe_status cabe_package_open(struct cabe_package **out, const char *path, struct cabe_error *err)
{
    struct cabe_package *package = cabe_calloc(1, sizeof *package);
    enum cabe_status status;

    *out = NULL;
    if (!package)
        return cabe_fail(err, CABE_ERR_OOM, "%s: package handle", path);
    status = cabe_input_open(&package->in, path, err);
    if (status == CABE_OK)
        status = list_members(package, err);
    if (status == CABE_OK)
        status = find_model(package, err);
    if (status == CABE_OK)
        status = choose_members(package, err);
    if (status != CABE_OK) {
        cabe_package_close(package);
        return status;
    }
    *out = package;
    return CABE_OK;
}

void cabe_package_close(struct cabe_package *package)
{
    if (!package)
        return;
    for (size_t i = 0; i < package->n_members; i++)
        cabe_free(package->members[i].name);
    cabe_free(package->members);
    cabe_free(package->chosen);
    cabe_free(package->chosen_at);
    cabe_free(package->model);
    cabe_input_close(&package->in);
    cabe_free(package);
}

const char *cabe_package_model(const struct cabe_package *package)
{
    return package->model;
}

int cabe_package_is_gguf(const struct cabe_package *package)
{
    return package->is_gguf;
}

size_t cabe_package_n_members(const struct cabe_package *package)
{
    return package->n_chosen;
}

const struct cabe_package_member *cabe_package_member(const struct cabe_package *package, size_t index)
{
    return index < package->n_chosen ? &package->chosen[index] : NULL;
}

struct extraction {
    struct cabe_package *package;
    struct archive *archive;
    struct reader *reader;
    const char *folder;
    const struct cabe_cancel *cancel;
    const struct cabe_progress *progress;
    uint64_t done, total;
    uint8_t *buffer;
    struct cabe_error *err;
};

/* Creates the file and the folders on its way; the folder was empty, so whatever exists was made here. */
static enum cabe_status create(struct extraction *x, const char *relative, int *fd)
{
    size_t folder_bytes = strlen(x->folder) + 1;
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/%s", x->folder, relative);

    if (n < 0 || n >= (int)sizeof path)
        return cabe_fail(x->err, CABE_ERR_LIMIT, "%s/%.200s: the path is too long", x->folder, relative);
    for (char *slash = strchr(path + folder_bytes, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(path, 0777) != 0 && errno != EEXIST)
            return cabe_fail_errno(x->err, errno, "%s", path);
        *slash = '/';
    }
    *fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    return *fd < 0 ? cabe_fail_errno(x->err, errno, "%s", path) : CABE_OK;
}

static enum cabe_status write_all(struct extraction *x, int fd, const uint8_t *data, size_t bytes,
                                  const char *relative)
{
    while (bytes > 0) {
        ssize_t n = write(fd, data, bytes);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return cabe_fail_errno(x->err, n < 0 ? errno : EIO, "%s/%s", x->folder, relative);
        data += n;
        bytes -= (size_t)n;
    }
    return CABE_OK;
}

static enum cabe_status copy_data(struct extraction *x, int fd, const struct cabe_package_member *member)
{
    uint64_t left = member->bytes;

    for (;;) {
        la_ssize_t n;
        enum cabe_status status;

        if (cabe_cancelled(x->cancel))
            return cabe_fail(x->err, CABE_ERR_CANCELLED, "%s: stopped on request", x->package->in.path);
        n = archive_read_data(x->archive, x->buffer, BUFFER_BYTES);
        if (n < 0)
            return archive_fault(x->package, x->reader, x->archive, member->name, x->err);
        if (n == 0)
            break;
        if ((uint64_t)n > left)
            return cabe_fail(x->err, CABE_ERR_FORMAT, "%s: member '%.200s': has more than the %llu bytes it says",
                             x->package->in.path, member->name, (unsigned long long)member->bytes);
        status = write_all(x, fd, x->buffer, (size_t)n, member->name);
        if (status != CABE_OK)
            return status;
        left -= (uint64_t)n;
        x->done += (uint64_t)n;
        cabe_progress_report(x->progress, "unpack", x->done, x->total, "bytes");
    }
    if (left > 0)
        return cabe_fail(x->err, CABE_ERR_FORMAT, "%s: member '%.200s': ends %llu bytes before the %llu it says",
                         x->package->in.path, member->name, (unsigned long long)left,
                         (unsigned long long)member->bytes);
    return CABE_OK;
}

static enum cabe_status extract_member(struct extraction *x, const struct cabe_package_member *member)
{
    int fd;
    enum cabe_status status = create(x, member->name, &fd);

    if (status != CABE_OK)
        return status;
    status = copy_data(x, fd, member);
    if (status == CABE_OK && fsync(fd) != 0)
        status = cabe_fail_errno(x->err, errno, "%s/%s: sync", x->folder, member->name);
    if (close(fd) != 0 && status == CABE_OK)
        status = cabe_fail_errno(x->err, errno, "%s/%s: close", x->folder, member->name);
    return status;
}

static enum cabe_status extract_all(struct extraction *x)
{
    struct archive_entry *entry;
    size_t n_done = 0;
    int got = ARCHIVE_EOF;

    for (size_t i = 0; (got = archive_read_next_header(x->archive, &entry)) == ARCHIVE_OK; i++) {
        uint32_t chosen = i < x->package->n_members ? x->package->chosen_at[i] : 0;
        enum cabe_status status;

        if (chosen == 0)
            continue;
        status = extract_member(x, &x->package->chosen[chosen - 1]);
        if (status != CABE_OK)
            return status;
        n_done++;
    }
    if (got != ARCHIVE_EOF)
        return archive_fault(x->package, x->reader, x->archive, NULL, x->err);
    if (n_done != x->package->n_chosen)
        return cabe_fail(x->err, CABE_ERR_CHANGED, "%s: had %zu members of the model, now has %zu",
                         x->package->in.path, x->package->n_chosen, n_done);
    return CABE_OK;
}

enum cabe_status cabe_package_extract(struct cabe_package *package, const char *folder,
                                      const struct cabe_cancel *cancel, const struct cabe_progress *progress,
                                      struct cabe_error *err)
{
    struct extraction x = {.package = package, .folder = folder, .cancel = cancel, .progress = progress, .err = err};
    enum cabe_status status = open_archive(package, &x.reader, &x.archive, err);

    if (status != CABE_OK)
        return status;
    for (size_t i = 0; i < package->n_chosen; i++)
        x.total += package->chosen[i].bytes;
    x.buffer = cabe_malloc(BUFFER_BYTES);
    status = x.buffer ? extract_all(&x) : cabe_fail(err, CABE_ERR_OOM, "%s: buffer", package->in.path);
    cabe_free(x.buffer);
    archive_read_free(x.archive);
    cabe_free(x.reader);
    return status;
}
