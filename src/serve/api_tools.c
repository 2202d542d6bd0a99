#include "serve/api_impl.h"

#include <string.h>

#include "base/memory.h"

#define MISTRAL "[TOOL_CALLS]"
#define CALLS_MAX 64

/* What stands around calls, by family. Without `close` they go to the end; `keep` bytes of `open` are the calls' own. */
static const struct mark {
    const char *open, *close;
    size_t keep;
} marks[] = {
    {"<tool_call>", "</tool_call>", 0}, /* Qwen, Hermes, SmolLM2 */
    {"<TOOLCALL>", "</TOOLCALL>", 0},   /* Nemotron */
    {"<function=", "</function>", 0},   /* Functionary; Llama 3.1 where its prompt says so */
    {MISTRAL, NULL, 0},
    {"<|python_tag|>", NULL, 0}, /* Llama 3 */
    {"functools[", NULL, 1},     /* Firefunction */
};
#define N_MARKS (sizeof marks / sizeof marks[0])
/* Of Mistral's calls by name; like most marks they are control tokens, which texts do not show. */
static const char *const inner_marks[] = {"[CALL_ID]", "[ARGS]"};

/* ---- calls out of JSON ---- */

static int is_tool(const json_t *tools, const char *name)
{
    size_t i;
    json_t *tool;

    json_array_foreach(tools, i, tool) {
        const char *known = json_string_value(json_object_get(json_object_get(tool, "function"), "name"));

        if (known && strcmp(known, name) == 0)
            return 1;
    }
    return 0;
}

static int add_call(struct api_scan *scan, const char *name, const json_t *arguments)
{
    struct api_call *calls, *call;
    struct api_text text = {0};

    if (!name || !*name || scan->n_calls >= CALLS_MAX || json_is_array(arguments))
        return 0;
    if (scan->bare && scan->tools && !is_tool(scan->tools, name))
        return 0; /* an answer that is JSON, of something that has a name */
    calls = (struct api_call *)cabe_realloc(scan->calls, (size_t)scan->n_calls + 1, sizeof *calls);
    if (!calls)
        return 0;
    scan->calls = calls;
    call = &calls[scan->n_calls];
    if (json_is_string(arguments))
        api_put(&text, json_string_value(arguments), json_string_length(arguments));
    else if (json_is_object(arguments))
        api_put_json(&text, arguments);
    else
        api_puts(&text, "{}");
    api_put(&text, "", 1);
    call->name = cabe_strdup(name);
    call->arguments = text.bytes;
    if (text.failed || !call->name) {
        api_text_clear(&text);
        cabe_free(call->name);
        return 0;
    }
    api_id("", call->id);
    call->id[API_CALL_ID_BYTES] = '\0';
    scan->n_calls++;
    return 1;
}

/* Calls from `first` on are taken back. */
static int take_back(struct api_scan *scan, int first)
{
    while (scan->n_calls > first) {
        scan->n_calls--;
        cabe_free(scan->calls[scan->n_calls].name);
        cabe_free(scan->calls[scan->n_calls].arguments);
    }
    return 0;
}

/* One call out of {"name", "arguments" or "parameters"}, or {"function": that}; 0: it is not one. */
static int take_object(struct api_scan *scan, const json_t *json)
{
    const json_t *function = json_object_get(json, "function"), *arguments;

    if (json_is_object(function))
        json = function;
    arguments = json_object_get(json, "arguments");
    if (!arguments)
        arguments = json_object_get(json, "parameters");
    return add_call(scan, json_string_value(json_object_get(json, "name")), arguments);
}

static size_t skip(const char *bytes, size_t n, const char *which)
{
    size_t at = 0;

    while (at < n && bytes[at] && strchr(which, bytes[at]))
        at++;
    return at;
}

/* A JSON value that is calls: how many bytes it has; 0: it is something else. */
static size_t take_value(struct api_scan *scan, const char *bytes, size_t n)
{
    json_error_t error;
    json_t *json = json_loadb(bytes, n, JSON_DISABLE_EOF_CHECK, &error), *item;
    int taken = 1;
    size_t i;

    if (json_is_array(json)) {
        taken = json_array_size(json) > 0;
        json_array_foreach(json, i, item)
            taken = taken && take_object(scan, item);
    } else {
        taken = json_is_object(json) && take_object(scan, json);
    }
    json_decref(json);
    return taken && error.position > 0 ? (size_t)error.position : 0;
}

/* A name, marks, and an object of arguments ('f[ARGS]{"x": 1}', 'f>{"x": 1}'): as above. */
static size_t take_named(struct api_scan *scan, const char *bytes, size_t n)
{
    const char *brace = (const char *)memchr(bytes, '{', n), *end = brace;
    json_error_t error;
    json_t *json;
    char name[128];
    int taken;

    for (size_t i = 0; end && i < sizeof inner_marks / sizeof inner_marks[0]; i++) {
        const char *mark = (const char *)memmem(bytes, (size_t)(end - bytes), inner_marks[i], strlen(inner_marks[i]));

        end = mark ? mark : end;
    }
    while (end && end > bytes && strchr(" \t\r\n>", end[-1]) && end[-1])
        end--;
    if (!end || end == bytes || (size_t)(end - bytes) >= sizeof name)
        return 0;
    memcpy(name, bytes, (size_t)(end - bytes));
    name[end - bytes] = '\0';
    if (strpbrk(name, " \t\r\n\"<>[]{}()"))
        return 0;
    json = json_loadb(brace, n - (size_t)(brace - bytes), JSON_DISABLE_EOF_CHECK, &error);
    taken = json_is_object(json) && add_call(scan, name, json);
    json_decref(json);
    return taken && error.position > 0 ? (size_t)(brace - bytes) + (size_t)error.position : 0;
}

/* All calls of a text with space, ';', ',' or marks between them; 0: it is something else, and none is taken. */
static int take_calls(struct api_scan *scan, const char *bytes, size_t n, int may_be_named)
{
    int first = scan->n_calls;

    for (size_t at = 0;;) {
        size_t used;

        at += skip(bytes + at, n - at, " \t\r\n;,");
        if (at >= n)
            return scan->n_calls > first;
        if (n - at >= strlen(MISTRAL) && memcmp(bytes + at, MISTRAL, strlen(MISTRAL)) == 0) {
            at += strlen(MISTRAL);
            continue;
        }
        if (bytes[at] == '{' || bytes[at] == '[')
            used = take_value(scan, bytes + at, n - at);
        else
            used = may_be_named ? take_named(scan, bytes + at, n - at) : 0;
        if (used == 0)
            return take_back(scan, first);
        at += used;
    }
}

/* ---- text as it comes ---- */

static void drop(struct api_text *text, size_t n)
{
    memmove(text->bytes, text->bytes + n, text->n - n);
    text->n -= n;
}

static void show(struct api_scan *scan, struct api_text *shown, size_t n)
{
    if (n == 0)
        return;
    api_put(shown, scan->held.bytes, n);
    drop(&scan->held, n);
    scan->begun = 1;
}

/* What has been held since the answer's beginning: 1 when it may be calls and nothing else. */
static int may_be_bare(const struct api_text *held)
{
    size_t at = skip(held->bytes, held->n, " \t\r\n"), left = held->n - at;

    return left == 0 || held->bytes[at] == '{' || memcmp(held->bytes + at, "[{", left < 2 ? left : 2) == 0;
}

/* The first mark that is held, as an index from 1; 0: none, and *at is how much is surely none. */
static int find_open(const struct api_text *held, size_t *at)
{
    size_t partial = 0;
    int which = 0;

    for (size_t i = 0; i < N_MARKS; i++) {
        const char *mark = held->n ? (const char *)memmem(held->bytes, held->n, marks[i].open, strlen(marks[i].open)) : NULL;
        size_t some = api_partial(held->bytes, held->n, marks[i].open);

        partial = some > partial ? some : partial;
        if (mark && (!which || (size_t)(mark - held->bytes) < *at)) {
            which = (int)i + 1;
            *at = (size_t)(mark - held->bytes);
        }
    }
    if (!which)
        *at = held->n - partial;
    return which;
}

/* Where what closes the present mark begins; it is looked for in what is new only. 0: not there. */
static size_t find_close(struct api_scan *scan)
{
    const struct mark *mark = &marks[scan->inside - 1];
    size_t open = strlen(mark->open), n = mark->close ? strlen(mark->close) : 0;
    size_t from = scan->n_looked > open + n ? scan->n_looked - n : open;
    const char *close = NULL;

    if (n > 0 && scan->held.n > from)
        close = (const char *)memmem(scan->held.bytes + from, scan->held.n - from, mark->close, n);
    scan->n_looked = scan->held.n;
    return close ? (size_t)(close - scan->held.bytes) : 0;
}

/* The calls of the present mark, whose content ends at `end`. */
static int take_inside(struct api_scan *scan, size_t end)
{
    const struct mark *mark = &marks[scan->inside - 1];
    size_t from = strlen(mark->open) - mark->keep;
    int may_be_named = strcmp(mark->open, MISTRAL) == 0 || mark->open[strlen(mark->open) - 1] == '=';

    return take_calls(scan, scan->held.bytes + from, end - from, may_be_named);
}

/* Text up to the next mark, and calls up to its end; as far as what is held goes. */
static void scan_marks(struct api_scan *scan, struct api_text *shown)
{
    for (;;) {
        size_t at = 0;

        if (!scan->inside) {
            scan->inside = find_open(&scan->held, &at);
            scan->n_looked = 0;
            show(scan, shown, at);
            if (!scan->inside)
                return;
        }
        at = find_close(scan);
        if (at == 0)
            return;
        if (take_inside(scan, at))
            drop(&scan->held, at + strlen(marks[scan->inside - 1].close));
        else
            show(scan, shown, at + strlen(marks[scan->inside - 1].close));
        scan->inside = 0;
    }
}

void api_scan_put(struct api_scan *scan, const char *bytes, size_t n, struct api_text *shown)
{
    if (!scan->on) {
        api_put(shown, bytes, n);
        return;
    }
    if (n == 0)
        return;
    api_put(&scan->held, bytes, n);
    if (scan->held.failed)
        return;
    if (!scan->begun && !scan->inside && scan->n_calls == 0) {
        scan->bare = may_be_bare(&scan->held);
        if (scan->bare)
            return;
    }
    scan_marks(scan, shown);
}

static int is_same(const char *text, size_t n, const char *mark)
{
    return text && n == strlen(mark) && memcmp(text, mark, n) == 0;
}

void api_scan_token(struct api_scan *scan, const struct cabe_tokenizer *tokenizer, int32_t token, struct api_text *shown)
{
    const char *text;
    size_t n;
    int is_mark = 0;

    if (!scan->on || !cabe_tokenizer_is_special(tokenizer, token))
        return;
    text = cabe_tokenizer_token(tokenizer, token, &n);
    for (size_t i = 0; i < N_MARKS; i++)
        is_mark |= is_same(text, n, marks[i].open) || (marks[i].close && is_same(text, n, marks[i].close));
    for (size_t i = 0; i < sizeof inner_marks / sizeof inner_marks[0]; i++)
        is_mark |= scan->inside && is_same(text, n, inner_marks[i]);
    if (is_mark)
        api_scan_put(scan, text, n, shown);
}

void api_scan_end(struct api_scan *scan, struct api_text *shown)
{
    int taken = 0;

    if (!scan->on || scan->held.n == 0)
        return;
    if (scan->inside) /* to its end, or the model stopped before it closed its last call */
        taken = take_inside(scan, scan->held.n);
    else if (scan->bare)
        taken = take_calls(scan, scan->held.bytes, scan->held.n, 0);
    if (taken || (scan->n_calls > 0 && skip(scan->held.bytes, scan->held.n, " \t\r\n") == scan->held.n))
        scan->held.n = 0;
    show(scan, shown, scan->held.n);
}

void api_scan_clear(struct api_scan *scan)
{
    for (int i = 0; i < scan->n_calls; i++) {
        cabe_free(scan->calls[i].name);
        cabe_free(scan->calls[i].arguments);
    }
    cabe_free(scan->calls);
    api_text_clear(&scan->held);
    *scan = (struct api_scan){0};
}
