/* The name of a model from what it comes with; store.h states the order. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "format/source_parts.h"
#include "format/store_parts.h"

#define CARD_BYTES_MAX (256u << 10) /* how far into a model card the heading is looked for */

int cabe_store_name_is_valid(const char *name)
{
    size_t n = strlen(name);

    if (n == 0 || n > CABE_STORE_NAME_MAX || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") != n)
        return 0;
    return isalnum((unsigned char)name[0]) != 0;
}

void cabe_store_name_from(const char *text, size_t bytes, char out[CABE_STORE_NAME_MAX + 1])
{
    size_t n = 0;

    for (size_t i = 0; i < bytes && n < CABE_STORE_NAME_MAX; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c >= 'A' && c <= 'Z')
            c = (unsigned char)(c - 'A' + 'a');
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_'))
            c = '-';
        if ((c == '-' || c == '.' || c == '_') && (n == 0 || (c == '-' && out[n - 1] == '-')))
            continue;
        out[n++] = (char)c;
    }
    while (n > 0 && strchr("-._", out[n - 1]))
        n--;
    out[n] = '\0';
}

static int is_hex(const char *name)
{
    return strlen(name) >= 32 && strspn(name, "0123456789abcdef") == strlen(name);
}

/* Words that folders and files carry whatever model they hold. */
static int is_common(const char *name)
{
    static const char *const words[] = {
        "",           "model",       "models",     "weights",       "data",       "assets",
        "files",      "src",         "main",       "master",        "snapshots",  "snapshot",
        "checkpoint", "checkpoints", "pretrained", "pytorch_model", "ggml-model", "transformer",
        "resources",  "home",        "tmp",        "root",          "downloads",  "unnamed",
    };

    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcmp(name, words[i]) == 0)
            return 1;
    return strncmp(name, "ggml-model-", 11) == 0 || strncmp(name, "model-0", 7) == 0 || is_hex(name);
}

/* Takes the text as the name unless nothing is left of it or it says nothing. */
static int take(const char *text, size_t bytes, char out[CABE_STORE_NAME_MAX + 1])
{
    cabe_store_name_from(text, bytes, out);
    if (!is_common(out))
        return 1;
    out[0] = '\0';
    return 0;
}

int cabe_store_name_of_file(const char *file, const char *end, char out[CABE_STORE_NAME_MAX + 1])
{
    size_t n = strlen(file), m = strlen(end);

    return take(file, n > m && strcmp(file + n - m, end) == 0 ? n - m : n, out);
}

/* "models--org--name" is how the hub's cache calls its folders. */
static int take_folder(const char *name, size_t bytes, char out[CABE_STORE_NAME_MAX + 1])
{
    if (bytes > 8 && strncmp(name, "models--", 8) == 0)
        for (size_t i = bytes - 1; i > 8; i--)
            if (name[i] == '-' && name[i - 1] == '-')
                return take(name + i + 1, bytes - i - 1, out);
    return take(name, bytes, out);
}

int cabe_store_name_of_folder(const char *path, int climb, char out[CABE_STORE_NAME_MAX + 1])
{
    size_t end = strlen(path), begin;

    out[0] = '\0';
    do {
        while (end > 0 && path[end - 1] == '/')
            end--;
        for (begin = end; begin > 0 && path[begin - 1] != '/'; begin--)
            ;
        if (end > begin && take_folder(path + begin, end - begin, out))
            return 1;
        end = begin;
    } while (climb && end > 0);
    return 0;
}

/* The first heading of a Markdown text, where it is one word: "# all-MiniLM-L6-v2". */
static int take_heading(char *text, char out[CABE_STORE_NAME_MAX + 1])
{
    char *rest = text, *line;
    int front = strncmp(text, "---\n", 4) == 0 ? 2 : 0; /* fences of the front matter still to come */

    while ((line = strsep(&rest, "\n"))) {
        size_t n;

        if (front > 0) {
            front -= strcmp(line, "---") == 0;
            continue;
        }
        if (strncmp(line, "# ", 2) != 0)
            continue;
        line += 2 + strspn(line + 2, " ");
        n = strcspn(line, " \t\r");
        return line[n + strspn(line + n, " \t\r")] == '\0' && take(line, n, out);
    }
    return 0;
}

/* A card that is absent or cannot be read names nothing. */
static enum cabe_status take_card(const char *folder, char out[CABE_STORE_NAME_MAX + 1], struct cabe_error *err)
{
    struct cabe_input in;
    char path[CABE_STORE_PATH_MAX], *text;
    enum cabe_status status;
    uint64_t bytes;

    if (snprintf(path, sizeof path, "%s/README.md", folder) >= (int)sizeof path)
        return CABE_OK;
    status = cabe_input_open(&in, path, err);
    if (status != CABE_OK)
        return status == CABE_ERR_OOM ? status : CABE_OK;
    bytes = in.bytes < CARD_BYTES_MAX ? in.bytes : CARD_BYTES_MAX;
    text = cabe_calloc(1, bytes + 1);
    if (!text)
        status = cabe_fail(err, CABE_ERR_OOM, "%s: %llu bytes", path, (unsigned long long)bytes);
    else if (cabe_input_read(&in, 0, bytes, text, NULL) == CABE_OK)
        take_heading(text, out);
    cabe_free(text);
    cabe_input_close(&in);
    return status;
}

enum cabe_status cabe_store_name_of_content(const char *path, char out[CABE_STORE_NAME_MAX + 1],
                                            struct cabe_error *err)
{
    struct cabe_source *source;
    enum cabe_status status = cabe_source_open(&source, path, err);
    const char *text;
    size_t bytes;

    out[0] = '\0';
    if (status != CABE_OK)
        return status;
    if (cabe_source_kind(source) == CABE_SOURCE_GGUF && cabe_source_get_string(source, "general.name", &text, &bytes))
        take(text, bytes, out);
    if (!out[0] && cabe_source_kind(source) == CABE_SOURCE_FOLDER)
        status = take_card(path, out, err);
    text = json_string_value(json_object_get(cabe_source_document(source, "config.json"), "_name_or_path"));
    if (!out[0] && text)
        cabe_store_name_of_folder(text, 0, out);
    cabe_source_close(source);
    return status;
}
