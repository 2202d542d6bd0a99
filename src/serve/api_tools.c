#include "serve/api_impl.h"

#include <string.h>

#include "base/memory.h"

#define OPEN "<tool_call>"
#define CLOSE "</tool_call>"
#define MISTRAL "[TOOL_CALLS]"
#define PYTHON "<|python_tag|>"
#define CALLS_MAX 64

/* One call out of {"name", "arguments" or "parameters"}, or {"function": that}; 0: it is not one. */
static int take_call(struct api_scan *scan, const json_t *json)
{
    const json_t *function = json_object_get(json, "function");
    const char *name;
    const json_t *arguments;
    struct api_call *calls, *call;
    struct api_text text = {0};

    if (json_is_object(function))
        json = function;
    name = json_string_value(json_object_get(json, "name"));
    arguments = json_object_get(json, "arguments");
    if (!arguments)
        arguments = json_object_get(json, "parameters");
    if (!name || !*name || scan->n_calls >= CALLS_MAX || (arguments && json_is_array(arguments)))
        return 0;
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
    api_id("call_", call->id);
    scan->n_calls++;
    return 1;
}

/* All values of a text of JSON values, with space, ';' or ',' between them; 0: it is something else, and none is taken. */
static int take_calls(struct api_scan *scan, const char *bytes, size_t n)
{
    int first = scan->n_calls;
    size_t at = 0;

    for (;;) {
        json_error_t error;
        json_t *json;
        int taken = 1;

        while (at < n && strchr(" \t\r\n;,", bytes[at]) && bytes[at])
            at++;
        if (at >= n)
            break;
        json = json_loadb(bytes + at, n - at, JSON_DISABLE_EOF_CHECK, &error);
        if (json_is_array(json)) {
            size_t i;
            json_t *item;

            taken = json_array_size(json) > 0;
            json_array_foreach(json, i, item)
                taken = taken && take_call(scan, item);
        } else {
            taken = json_is_object(json) && take_call(scan, json);
        }
        json_decref(json);
        if (!taken || error.position <= 0) {
            while (scan->n_calls > first) {
                scan->n_calls--;
                cabe_free(scan->calls[scan->n_calls].name);
                cabe_free(scan->calls[scan->n_calls].arguments);
            }
            return 0;
        }
        at += (size_t)error.position;
    }
    return scan->n_calls > first;
}

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

static const char *find(const struct api_text *text, const char *mark)
{
    return text->n ? (const char *)memmem(text->bytes, text->n, mark, strlen(mark)) : NULL;
}

/* Whether the beginning of an answer is, or may become, `mark`. */
static int may_begin(const char *bytes, size_t n, const char *mark)
{
    size_t length = strlen(mark);

    return memcmp(bytes, mark, n < length ? n : length) == 0;
}

/* What has been held since the answer's beginning: 1 when it may be calls and nothing else. */
static int may_be_bare(const struct api_text *held)
{
    size_t at = 0;

    while (at < held->n && strchr(" \t\r\n", held->bytes[at]) && held->bytes[at])
        at++;
    if (at == held->n)
        return 1;
    if (held->bytes[at] == '{')
        return 1;
    return may_begin(held->bytes + at, held->n - at, MISTRAL) || may_begin(held->bytes + at, held->n - at, PYTHON) ||
           may_begin(held->bytes + at, held->n - at, "[{");
}

/* Text up to the next mark, and calls up to its end; as far as what is held goes. */
static void scan_marks(struct api_scan *scan, struct api_text *shown)
{
    for (;;) {
        const char *mark = find(&scan->held, scan->inside ? CLOSE : OPEN);
        size_t at = mark ? (size_t)(mark - scan->held.bytes) : 0;

        if (!scan->inside && !mark) {
            show(scan, shown, scan->held.n - api_partial(scan->held.bytes, scan->held.n, OPEN));
            return;
        }
        if (!scan->inside) {
            show(scan, shown, at);
            scan->inside = 1;
            continue;
        }
        if (!mark)
            return;
        scan->inside = 0;
        if (take_calls(scan, scan->held.bytes + strlen(OPEN), at - strlen(OPEN)))
            drop(&scan->held, at + strlen(CLOSE));
        else
            show(scan, shown, at + strlen(CLOSE));
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

static int is_space(const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n", bytes[i]) || !bytes[i])
            return 0;
    return 1;
}

void api_scan_end(struct api_scan *scan, struct api_text *shown)
{
    size_t at = 0;

    if (!scan->on || scan->held.n == 0)
        return;
    if (scan->bare) {
        while (at < scan->held.n && strchr(" \t\r\n", scan->held.bytes[at]))
            at++;
        if (scan->held.n - at >= strlen(MISTRAL) && may_begin(scan->held.bytes + at, scan->held.n - at, MISTRAL))
            at += strlen(MISTRAL);
        else if (scan->held.n - at >= strlen(PYTHON) && may_begin(scan->held.bytes + at, scan->held.n - at, PYTHON))
            at += strlen(PYTHON);
    } else if (scan->inside) { /* the model stopped before it closed its last call */
        at = strlen(OPEN);
    }
    if ((scan->bare || scan->inside) && take_calls(scan, scan->held.bytes + at, scan->held.n - at))
        scan->held.n = 0;
    else if (scan->n_calls > 0 && is_space(scan->held.bytes, scan->held.n))
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
