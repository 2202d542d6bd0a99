#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/utf8.h"

struct cabe_log {
    pthread_mutex_t lock; /* of the stream */
    FILE *stream;
    enum cabe_log_form form;
    enum cabe_log_level level;
};

/* A line that grows; after a refused allocation it stays as it was and `is_lost` says so. */
struct line {
    char *text;
    size_t n, room;
    int is_lost;
};

static const char *const level_names[] = {"debug", "info", "warn", "error"};

static void put_n(struct line *line, const char *text, size_t n)
{
    if (n == 0)
        return;
    if (n > line->room - line->n) {
        size_t room = (line->n + n) * 2;
        char *grown = cabe_realloc(line->text, room, 1);

        if (!grown) {
            line->is_lost = 1;
            return;
        }
        line->text = grown;
        line->room = room;
    }
    memcpy(line->text + line->n, text, n);
    line->n += n;
}

static void put(struct line *line, const char *text)
{
    put_n(line, text, strlen(text));
}

static int is_plain(const char *text, size_t n)
{
    if (n == 0)
        return 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char b = (unsigned char)text[i];

        if (b <= ' ' || b == 0x7F || strchr("\"\\=", b))
            return 0;
        if (b == 0xC2 && i + 1 < n && (unsigned char)text[i + 1] < 0xA0) /* controls U+0080 to U+009F */
            return 0;
    }
    return 1;
}

/* As a JSON string, with every control character escaped: a terminal sees none of them. */
static void put_quoted(struct line *line, const char *text, size_t n)
{
    put(line, "\"");
    for (size_t i = 0; i < n;) {
        size_t length = cabe_utf8_length(text + i, n - i);
        unsigned char b = (unsigned char)text[i];
        char escape[8];

        if (b == '"' || b == '\\') {
            snprintf(escape, sizeof escape, "\\%c", b);
            put(line, escape);
        } else if (length < 2 && (b < ' ' || b >= 0x7F)) {
            snprintf(escape, sizeof escape, "\\u%04x", b);
            put(line, escape);
        } else if (b == 0xC2 && (unsigned char)text[i + 1] < 0xA0) {
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned char)text[i + 1]);
            put(line, escape);
        } else {
            put_n(line, text + i, length);
        }
        i += length ? length : 1;
    }
    put(line, "\"");
}

static void put_string(struct line *line, const char *text, size_t n, int must_quote)
{
    if (!must_quote && is_plain(text, n))
        put_n(line, text, n);
    else
        put_quoted(line, text, n);
}

static void put_value(struct line *line, const json_t *value, int is_inside);

static void put_members(struct line *line, const json_t *value)
{
    const char *key;
    json_t *member;
    size_t i;
    int n = 0;

    put(line, json_is_array(value) ? "[" : "{");
    if (json_is_array(value)) {
        json_array_foreach(value, i, member)
        {
            put(line, n++ ? "," : "");
            put_value(line, member, 1);
        }
    } else {
        json_object_foreach((json_t *)(uintptr_t)value, key, member)
        {
            put(line, n++ ? "," : "");
            put_quoted(line, key, strlen(key));
            put(line, ":");
            put_value(line, member, 1);
        }
    }
    put(line, json_is_array(value) ? "]" : "}");
}

static void put_value(struct line *line, const json_t *value, int is_inside)
{
    char number[40];

    switch (json_typeof(value)) {
    case JSON_STRING:
        put_string(line, json_string_value(value), json_string_length(value), is_inside);
        break;
    case JSON_INTEGER:
        snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        put(line, number);
        break;
    case JSON_REAL:
        snprintf(number, sizeof number, "%.9g", json_real_value(value));
        for (char *at = strchr(number, ','); at; at = NULL)
            *at = '.'; /* the program may have set a locale */
        put(line, number);
        if (!strpbrk(number, ".e"))
            put(line, ".0"); /* a real stays one for who reads it */
        break;
    case JSON_OBJECT:
    case JSON_ARRAY:
        put_members(line, value);
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        put(line, json_is_true(value) ? "true" : "false");
        break;
    default:
        put(line, "null");
    }
}

/* time level event key=value...; or one JSON object that begins with the same three. */
static void compose(struct line *line, enum cabe_log_form form, const char *stamp, enum cabe_log_level level,
                    const char *event, const json_t *fields)
{
    int is_json = form == CABE_LOG_JSON;
    const char *key;
    json_t *value;

    put(line, is_json ? "{\"time\":\"" : "");
    put(line, stamp);
    put(line, is_json ? "\",\"level\":\"" : " ");
    put(line, level_names[level]);
    put(line, is_json ? "\",\"event\":" : " ");
    put_string(line, event, strlen(event), is_json);
    json_object_foreach((json_t *)(uintptr_t)fields, key, value)
    {
        if (strcmp(key, "time") == 0 || strcmp(key, "level") == 0 || strcmp(key, "event") == 0)
            continue;
        put(line, is_json ? "," : " ");
        put_string(line, key, strlen(key), is_json);
        put(line, is_json ? ":" : "=");
        put_value(line, value, is_json);
    }
    put(line, is_json ? "}\n" : "\n");
}

/* What is written when there is no memory for more. */
static int compose_short(char *out, size_t room, enum cabe_log_form form, const char *stamp,
                         enum cabe_log_level level)
{
    return snprintf(out, room,
                    form == CABE_LOG_JSON
                        ? "{\"time\":\"%s\",\"level\":\"%s\",\"event\":\"log_out_of_memory\"}\n"
                        : "%s %s log_out_of_memory\n",
                    stamp, level_names[level]);
}

enum cabe_status cabe_log_open(struct cabe_log **out, FILE *stream, enum cabe_log_form form,
                               enum cabe_log_level level, struct cabe_error *err)
{
    struct cabe_log *log = cabe_malloc(sizeof *log);

    *out = NULL;
    if (!log)
        return cabe_fail(err, CABE_ERR_OOM, "log: %zu bytes", sizeof *log);
    *log = (struct cabe_log){.stream = stream, .form = form, .level = level};
    pthread_mutex_init(&log->lock, NULL);
    *out = log;
    return CABE_OK;
}

void cabe_log_close(struct cabe_log *log)
{
    if (!log)
        return;
    pthread_mutex_destroy(&log->lock);
    cabe_free(log);
}

int cabe_log_wants(const struct cabe_log *log, enum cabe_log_level level)
{
    return log && level >= log->level && (size_t)level < sizeof level_names / sizeof level_names[0];
}

void cabe_log_fields(struct cabe_log *log, enum cabe_log_level level, const char *event, const json_t *fields)
{
    char stamp[CABE_CLOCK_STAMP_BYTES], spare[128];
    struct line line = {0};

    if (!cabe_log_wants(log, level))
        return;
    cabe_clock_stamp(stamp);
    compose(&line, log->form, stamp, level, event, fields);
    if (line.is_lost) {
        cabe_free(line.text);
        line.text = spare;
        line.n = (size_t)compose_short(spare, sizeof spare, log->form, stamp, level);
    }
    pthread_mutex_lock(&log->lock);
    /* A log that cannot be written must not stop the work. */
    if (fwrite(line.text, 1, line.n, log->stream) == line.n)
        fflush(log->stream);
    pthread_mutex_unlock(&log->lock);
    if (line.text != spare)
        cabe_free(line.text);
}

void cabe_log(struct cabe_log *log, enum cabe_log_level level, const char *event, const char *fields, ...)
{
    json_error_t why;
    json_t *packed = NULL;
    va_list args;

    /* A reference that "o" hands over is taken also when nothing is written. */
    if (!cabe_log_wants(log, level) && !(fields && strchr(fields, 'o')))
        return;
    if (fields) {
        va_start(args, fields);
        packed = json_vpack_ex(&why, 0, fields, args);
        va_end(args);
        if (!packed)
            packed = json_pack("{s:s}", "fields_lost", why.text);
    }
    cabe_log_fields(log, level, event, packed);
    json_decref(packed);
}
