#include "serve/analyze_form.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define BOUNDARY_MAX 70 /* RFC 2046 */
#define HEADERS_MAX 4096
#define PARTS_MAX 256

/* A parameter of a header's value: name=token or name="quoted"; 0: not there, -1: too long or not closed. */
static int parameter(const char *value, size_t n, const char *name, char *out, size_t room)
{
    size_t n_name = strlen(name), at = 0;

    while (at < n) {
        size_t length = 0;
        int quoted;

        while (at < n && value[at] != ';' && value[at] != '"')
            at++;
        if (at < n && value[at] == '"') { /* a quoted value of another parameter */
            for (at++; at < n && value[at] != '"'; at++)
                at += value[at] == '\\' && at + 1 < n;
            at++;
            continue;
        }
        for (at++; at < n && (value[at] == ' ' || value[at] == '\t'); at++)
            continue;
        if (at >= n || n - at <= n_name || strncasecmp(value + at, name, n_name) != 0 || value[at + n_name] != '=')
            continue;
        at += n_name + 1;
        quoted = at < n && value[at] == '"';
        at += (size_t)quoted;
        for (; at < n && (quoted ? value[at] != '"' : value[at] != ';' && value[at] != ' '); at++) {
            if (quoted && value[at] == '\\' && at + 1 < n && value[at + 1] == '"')
                at++; /* browsers escape quotes alone, so that a backslash is one otherwise */
            if (length + 1 >= room)
                return -1;
            out[length++] = value[at];
        }
        if (quoted && at >= n)
            return -1;
        out[length] = '\0';
        return 1;
    }
    return 0;
}

/* The last component of what a client calls its file, without control characters. */
static void keep_base(char *name)
{
    char *slash = strrchr(name, '/'), *other;
    size_t n = 0;

    if (slash)
        memmove(name, slash + 1, strlen(slash + 1) + 1);
    other = strrchr(name, '\\');
    if (other)
        memmove(name, other + 1, strlen(other + 1) + 1);
    for (char *at = name; *at; at++)
        if ((unsigned char)*at >= ' ' && *at != 0x7F)
            name[n++] = *at;
    name[n] = '\0';
}

static enum cabe_status read_headers(const char *headers, size_t n, struct cabe_form_part *part, struct cabe_error *err)
{
    static const char wanted[] = "content-disposition:";
    const char *at = headers, *end = headers + n;

    part->name[0] = part->filename[0] = '\0';
    while (at < end) {
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        size_t length = (size_t)((line_end ? line_end : end) - at);

        if (length > 0 && at[length - 1] == '\r')
            length--;
        if (length >= sizeof wanted - 1 && strncasecmp(at, wanted, sizeof wanted - 1) == 0) {
            if (parameter(at, length, "name", part->name, sizeof part->name) != 1)
                return cabe_fail(err, CABE_ERR_FORMAT, "a part of the form has no name, or a longer one than %d bytes",
                                 CABE_FORM_NAME_MAX - 1);
            if (parameter(at, length, "filename", part->filename, sizeof part->filename) < 0)
                return cabe_fail(err, CABE_ERR_FORMAT, "part '%s': a file name longer than %d bytes", part->name,
                                 CABE_FORM_NAME_MAX - 1);
            keep_base(part->filename);
            return CABE_OK;
        }
        at = line_end ? line_end + 1 : end;
    }
    return cabe_fail(err, CABE_ERR_FORMAT, "a part of the form has no content-disposition");
}

static const char *find(const char *in, size_t n, const char *what, size_t n_what)
{
    return memmem(in, n, what, n_what);
}

enum cabe_status cabe_form_read(const char *type, const char *body, size_t n,
                                enum cabe_status (*each)(void *self, const struct cabe_form_part *part,
                                                         struct cabe_error *err),
                                void *self, struct cabe_error *err)
{
    char line[BOUNDARY_MAX + 8] = "\r\n--";
    const char *at = body, *end = body + n;
    size_t n_line;

    if (parameter(type, strlen(type), "boundary", line + 4, BOUNDARY_MAX + 1) != 1 || line[4] == '\0')
        return cabe_fail(err, CABE_ERR_FORMAT, "content-type: no boundary of 1 to %d characters", BOUNDARY_MAX);
    n_line = strlen(line);
    /* The first boundary has no line end before it. */
    if (n < n_line - 2 || memcmp(at, line + 2, n_line - 2) != 0)
        return cabe_fail(err, CABE_ERR_FORMAT, "the form does not begin with its boundary");
    at += n_line - 2;
    for (int i = 0; i <= PARTS_MAX; i++) {
        struct cabe_form_part part;
        const char *headers_end, *next;
        enum cabe_status status;

        if (end - at >= 2 && memcmp(at, "--", 2) == 0)
            return CABE_OK;
        while (at < end && (*at == ' ' || *at == '\t'))
            at++;
        if (end - at < 2 || memcmp(at, "\r\n", 2) != 0)
            return cabe_fail(err, CABE_ERR_FORMAT, "the form ends in the middle of a boundary");
        at += 2;
        headers_end = find(at, (size_t)(end - at) < HEADERS_MAX ? (size_t)(end - at) : HEADERS_MAX, "\r\n\r\n", 4);
        if (!headers_end)
            return cabe_fail(err, CABE_ERR_FORMAT, "part %d: its headers do not end within %d bytes", i + 1, HEADERS_MAX);
        status = read_headers(at, (size_t)(headers_end - at), &part, err);
        if (status != CABE_OK)
            return status;
        /* From the empty line on, as a part without bytes ends with the line end of that line. */
        next = find(headers_end + 2, (size_t)(end - headers_end) - 2, line, n_line);
        if (!next)
            return cabe_fail(err, CABE_ERR_FORMAT, "part '%s' does not end: the upload is incomplete", part.name);
        part.bytes = headers_end + 4;
        part.n = next >= part.bytes ? (size_t)(next - part.bytes) : 0;
        status = each(self, &part, err);
        if (status != CABE_OK)
            return status;
        at = next + n_line;
    }
    return cabe_fail(err, CABE_ERR_LIMIT, "more than %d parts", PARTS_MAX);
}
