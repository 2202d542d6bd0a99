#include "task/lines.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/arena.h"
#include "base/memory.h"
#include "text/sentences.h"

#define TEXT_BYTES (UINT64_C(2) << 20) /* of one chunk; at least one longest line fits */

struct cabe_lines {
    FILE *file;
    const char *name;
    struct cabe_ledger *ledger;
    void *block;
    uint64_t block_bytes;
    struct cabe_text *text;
    char *bytes;
    int64_t max_lines;
    uint64_t line; /* number of the last line read, from 1 */
};

static void place(struct cabe_lines *l, struct cabe_arena *arena, int64_t n_lines)
{
    l->text = cabe_arena_take(arena, (uint64_t)n_lines, sizeof *l->text, 64);
    l->bytes = cabe_arena_take(arena, TEXT_BYTES, 1, 64);
}

uint64_t cabe_lines_bytes(int64_t n_lines)
{
    struct cabe_arena arena = {0};
    struct cabe_lines lines;

    place(&lines, &arena, n_lines);
    return cabe_pages_round(arena.used_bytes);
}

enum cabe_status cabe_lines_open(struct cabe_lines **out, FILE *file, const char *name, int64_t n_lines,
                                 struct cabe_ledger *ledger, struct cabe_error *err)
{
    struct cabe_lines *l = cabe_calloc(1, sizeof *l);
    struct cabe_arena arena = {0};
    enum cabe_status status;

    *out = NULL;
    if (!l)
        return cabe_fail(err, CABE_ERR_OOM, "%s: reader", name);
    l->file = file;
    l->name = name;
    l->max_lines = n_lines;
    status = cabe_ledger_reserve(ledger, CABE_HOST, CABE_PURPOSE_DOCUMENTS, cabe_lines_bytes(n_lines), "lines", err);
    if (status == CABE_OK) {
        l->ledger = ledger;
        l->block_bytes = cabe_lines_bytes(n_lines);
        status = cabe_pages_map(&l->block, l->block_bytes, 0, err);
    }
    if (status != CABE_OK) {
        cabe_lines_close(l);
        return status;
    }
    arena = (struct cabe_arena){l->block, 0, l->block_bytes};
    place(l, &arena, n_lines);
    *out = l;
    return CABE_OK;
}

void cabe_lines_close(struct cabe_lines *l)
{
    if (!l)
        return;
    cabe_pages_unmap(l->block, l->block_bytes);
    if (l->ledger)
        cabe_ledger_release(l->ledger, CABE_HOST, CABE_PURPOSE_DOCUMENTS, l->block_bytes, "lines");
    cabe_free(l);
}

/* One line to `to`, at most CABE_TEXT_BYTES_MAX of it; 0 at the end of the file. */
static int read_line(struct cabe_lines *l, char *to, size_t *n)
{
    int c = getc_unlocked(l->file), any = c != EOF;

    *n = 0;
    while (c != EOF && c != '\n') {
        if (*n < CABE_TEXT_BYTES_MAX)
            to[(*n)++] = (char)c;
        else if (*n == CABE_TEXT_BYTES_MAX && ((unsigned char)c & 0xC0) == 0x80) {
            /* The cut fell inside a character: it goes, and so does the rest of the line. */
            while (*n > 0 && ((unsigned char)to[*n - 1] & 0xC0) == 0x80)
                (*n)--;
            *n -= *n > 0;
            while ((c = getc_unlocked(l->file)) != EOF && c != '\n')
                ;
            break;
        } else {
            while ((c = getc_unlocked(l->file)) != EOF && c != '\n')
                ;
            break;
        }
        c = getc_unlocked(l->file);
    }
    if (*n > 0 && to[*n - 1] == '\r')
        (*n)--;
    return any;
}

enum cabe_status cabe_lines_next(struct cabe_lines *l, const struct cabe_text **texts, size_t *n,
                                 struct cabe_error *err)
{
    uint64_t used = 0;
    size_t count = 0;

    while ((int64_t)count < l->max_lines && used + CABE_TEXT_BYTES_MAX <= TEXT_BYTES) {
        char *to = l->bytes + used;
        size_t bytes;
        uint64_t valid;

        if (!read_line(l, to, &bytes))
            break;
        l->line++;
        valid = cabe_utf8_valid(to, bytes);
        if (valid < bytes)
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: line %" PRIu64 ", byte %" PRIu64 " is not UTF-8", l->name,
                             l->line, valid + 1);
        l->text[count].bytes = to;
        l->text[count++].n_bytes = bytes;
        used += bytes;
    }
    if (ferror(l->file) && errno == EINTR) /* a signal asks for an end while a person has not typed one */
        return cabe_fail(err, CABE_ERR_CANCELLED, "%s: reading was stopped after line %" PRIu64, l->name, l->line);
    if (ferror(l->file))
        return cabe_fail_errno(err, errno, "%s: reading after line %" PRIu64, l->name, l->line);
    *texts = l->text;
    *n = count;
    return CABE_OK;
}
