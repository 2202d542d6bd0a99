#include "task/document.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t mtime_of(const struct stat *info)
{
    return (uint64_t)info->st_mtim.tv_sec * 1000000000u + (uint64_t)info->st_mtim.tv_nsec;
}

enum cabe_status cabe_document_open(struct cabe_document *document, const char *path, struct cabe_error *err)
{
    struct stat info;

    memset(document, 0, sizeof *document);
    document->path = path;
    document->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (document->fd < 0 || fstat(document->fd, &info) != 0) {
        enum cabe_status status = cabe_fail_errno(err, errno, "%s", path);

        cabe_document_close(document);
        return status;
    }
    if (!S_ISREG(info.st_mode)) {
        cabe_document_close(document);
        return cabe_fail(err, CABE_ERR_ARGUMENT, "%s: not a regular file", path);
    }
    document->n_bytes = (uint64_t)info.st_size;
    document->mtime_ns = mtime_of(&info);
    return CABE_OK;
}

void cabe_document_close(struct cabe_document *document)
{
    if (document->path && document->fd >= 0)
        close(document->fd);
    document->path = NULL;
    document->fd = -1;
}

/* Exactly `n` bytes at `at`, of the file that was opened. */
static enum cabe_status read_at(const struct cabe_document *document, char *out, uint64_t at, size_t n,
                                struct cabe_error *err)
{
    struct stat info;
    size_t done = 0;

    if (fstat(document->fd, &info) != 0 || (uint64_t)info.st_size != document->n_bytes ||
        mtime_of(&info) != document->mtime_ns)
        return cabe_fail(err, CABE_ERR_CHANGED, "%s: changed while it was read", document->path);
    while (done < n) {
        ssize_t got = pread(document->fd, out + done, n - done, (off_t)(at + done));

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return cabe_fail_errno(err, errno, "%s: reading at byte %" PRIu64, document->path, at + done);
        if (got == 0)
            return cabe_fail(err, CABE_ERR_CHANGED, "%s: ends at byte %" PRIu64 ", was %" PRIu64, document->path,
                             at + done, document->n_bytes);
        done += (size_t)got;
    }
    return CABE_OK;
}

/*
 * How many bytes of a full window to take: up to its last paragraph end, else its last line end, else its last space;
 * never half a character.
 */
static size_t cut(const char *window, size_t n)
{
    size_t line = 0, space = 0;

    for (size_t i = n; i > n / 2; i--) {
        char c = window[i - 1];

        if (c == '\n' && i >= 2 && (window[i - 2] == '\n' || (i >= 3 && window[i - 2] == '\r' && window[i - 3] == '\n')))
            return i;
        if (c == '\n' && !line)
            line = i;
        if (c == ' ' && !space)
            space = i;
    }
    if (line || space)
        return line ? line : space;
    for (size_t i = n; i > n - 4; i--)
        if (((unsigned char)window[i - 1] & 0xC0) != 0x80)
            return (unsigned char)window[i - 1] < 0x80 ? i : i - 1;
    return n;
}

struct walk {
    const char *window;
    uint64_t at;   /* offset of the window in the document */
    uint64_t seen; /* bytes of the window whose lines are counted */
    uint32_t line;
    struct cabe_sentence sentence;
    enum cabe_status (*found)(void *self, const struct cabe_sentence *sentence, struct cabe_error *err);
    void *self;
};

static uint32_t count_words(const char *text, uint64_t n)
{
    uint32_t words = 0;
    int in_word = 0;

    for (uint64_t i = 0; i < n; i++) {
        int space = text[i] == ' ' || (text[i] >= '\t' && text[i] <= '\r');

        words += !space && !in_word;
        in_word = !space;
    }
    return words;
}

static void count_lines(struct walk *walk, uint64_t up_to)
{
    for (; walk->seen < up_to; walk->seen++)
        walk->line += walk->window[walk->seen] == '\n';
}

static enum cabe_status on_sentence(void *self, struct cabe_span span, struct cabe_error *err)
{
    struct walk *walk = self;
    struct cabe_sentence *sentence = &walk->sentence;

    count_lines(walk, span.begin);
    sentence->span = (struct cabe_span){walk->at + span.begin, walk->at + span.end};
    sentence->line = walk->line;
    sentence->n_words = count_words(walk->window + span.begin, span.end - span.begin);
    sentence->number++;
    return walk->found(walk->self, sentence, err);
}

enum cabe_status cabe_document_sentences(const struct cabe_document *document, uint32_t number, char *window,
                                         enum cabe_status (*found)(void *self, const struct cabe_sentence *sentence,
                                                                   struct cabe_error *err),
                                         void *self, const struct cabe_cancel *cancel, struct cabe_error *err)
{
    struct walk walk = {.window = window, .line = 1, .found = found, .self = self};

    walk.sentence.document = number;
    while (walk.at < document->n_bytes) {
        uint64_t left = document->n_bytes - walk.at, valid;
        size_t n = left < CABE_DOCUMENT_WINDOW_BYTES ? (size_t)left : (size_t)CABE_DOCUMENT_WINDOW_BYTES;
        enum cabe_status status = read_at(document, window, walk.at, n, err);

        if (status != CABE_OK)
            return status;
        if (cabe_cancelled(cancel))
            return cabe_fail(err, CABE_ERR_CANCELLED, "reading %s was stopped", document->path);
        if (n < left)
            n = cut(window, n);
        valid = cabe_utf8_valid(window, n);
        if (valid < n)
            return cabe_fail(err, CABE_ERR_FORMAT,
                             "%s: byte %" PRIu64 " (0x%02x) is not UTF-8; wanted a text file in UTF-8", document->path,
                             walk.at + valid, (unsigned char)window[valid]);
        walk.seen = 0;
        status = cabe_sentences(window, n, NULL, on_sentence, &walk, err);
        if (status != CABE_OK)
            return cabe_fail_in(err, status, "%s", document->path);
        count_lines(&walk, n);
        walk.at += n;
    }
    return CABE_OK;
}

enum cabe_status cabe_document_read(const struct cabe_document *document, struct cabe_span span, char *out, size_t max,
                                    size_t *n, struct cabe_error *err)
{
    size_t bytes = span.end - span.begin < max ? (size_t)(span.end - span.begin) : max;
    enum cabe_status status = read_at(document, out, span.begin, bytes, err);

    /* Not half a character at the cut. */
    if (status == CABE_OK && bytes < span.end - span.begin)
        bytes = (size_t)cabe_utf8_valid(out, bytes);
    *n = bytes;
    return status;
}
