/* Filters and tests. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unicode/uchar.h>

#include "text/template_parts.h"

const struct tpl_value *cabe_tpl_arg(const struct tpl_args *args, size_t index, const char *name)
{
    if (index < args->n)
        return &args->values[index];
    for (size_t i = 0; *name && i < args->n_named; i++)
        if (cabe_tpl_is_text(&args->named[i].key, name))
            return &args->named[i].value;
    return NULL;
}

int cabe_tpl_check_args(struct tpl_run *run, const struct tpl_args *args, const char *what, size_t n_max,
                        const char *const *names)
{
    if (args->n > n_max)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "%s takes at most %zu arguments, not %zu", what, n_max,
                             args->n);
    for (size_t i = 0; i < args->n_named; i++) {
        int known = 0;

        for (size_t k = 0; names && names[k]; k++)
            known |= cabe_tpl_is_text(&args->named[i].key, names[k]);
        if (!known)
            return cabe_tpl_fail(run, CABE_ERR_FORMAT, "%s takes no argument '%.*s'", what,
                                 (int)(args->named[i].key.n < 60 ? args->named[i].key.n : 60),
                                 args->named[i].key.s);
    }
    return 1;
}

struct call {
    struct tpl_run *run;
    const struct tpl_value *in;
    const struct tpl_args *args;
    struct tpl_value *out;
    const char *name;
    int flag;
};

static int true_arg(struct call *c, size_t index, const char *name, int missing)
{
    const struct tpl_value *arg = cabe_tpl_arg(c->args, index, name);

    return arg ? cabe_tpl_truth(c->run, arg) : missing;
}

static int int_arg(struct call *c, size_t index, const char *name, int64_t missing, int64_t *out)
{
    const struct tpl_value *arg = cabe_tpl_arg(c->args, index, name);

    *out = arg ? arg->i : missing;
    if (arg && arg->kind == TPL_UNDEFINED)
        return cabe_tpl_fail_undefined(c->run, arg);
    if (arg && arg->kind != TPL_INT && arg->kind != TPL_BOOL)
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "%s wants an int, not %s", c->name, cabe_tpl_type(arg));
    return 1;
}

/* ---- texts ---- */

static int text_input(struct call *c, struct tpl_value *text)
{
    return cabe_tpl_text_of(c->run, c->in, text);
}

static int do_case(struct call *c)
{
    struct tpl_value text;

    return text_input(c, &text) && cabe_tpl_recase(c->run, &text, (enum tpl_case)c->flag, c->out);
}

static int do_trim(struct call *c)
{
    const struct tpl_value *chars = cabe_tpl_arg(c->args, 0, "chars");
    struct tpl_value text;

    if (!text_input(c, &text))
        return 0;
    chars = chars && chars->kind == TPL_TEXT ? chars : NULL;
    if (!cabe_tpl_step(c->run, (uint64_t)text.n / 16 * (chars ? chars->n : 1)))
        return 0;
    *c->out = cabe_tpl_strip(&text, chars, TPL_BOTH);
    return 1;
}

static int do_string(struct call *c)
{
    return text_input(c, c->out);
}

static int do_safe(struct call *c)
{
    if (!text_input(c, c->out))
        return 0;
    c->out->safe = 1;
    return 1;
}

static int do_escape(struct call *c)
{
    struct tpl_out made = {.run = c->run};
    struct tpl_value text;

    if (!text_input(c, &text))
        return 0;
    if (c->flag)
        text.safe = 0;
    if (!cabe_tpl_escape(&made, &text))
        return 0;
    *c->out = cabe_tpl_taken(&made);
    c->out->safe = 1;
    return 1;
}

static int do_replace(struct call *c)
{
    const struct tpl_value *old = cabe_tpl_arg(c->args, 0, "old"), *with = cabe_tpl_arg(c->args, 1, "new"),
                           *count = cabe_tpl_arg(c->args, 2, "count");
    struct tpl_value text, a, b;

    if (!old || !with)
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "replace wants two texts");
    return text_input(c, &text) && cabe_tpl_text_of(c->run, old, &a) && cabe_tpl_text_of(c->run, with, &b) &&
           cabe_tpl_replace(c->run, &text, &a, &b, count && count->kind == TPL_INT ? count->i : -1, c->out);
}

static int needs_text(struct call *c)
{
    if (c->in->kind == TPL_TEXT)
        return 1;
    if (c->in->kind == TPL_UNDEFINED)
        return cabe_tpl_fail_undefined(c->run, c->in);
    return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "%s wants a str, not %s", c->name, cabe_tpl_type(c->in));
}

/* indent(width=4, first=False, blank=False) */
static int do_indent(struct call *c)
{
    const struct tpl_value *width = cabe_tpl_arg(c->args, 0, "width");
    struct tpl_value text,
        spaces = cabe_tpl_literal("                                                                ");
    struct tpl_out made = {.run = c->run};
    int first = true_arg(c, 1, "first", 0), blank = true_arg(c, 2, "blank", 0);
    size_t begin = 0, end;

    spaces.n = 4;
    if (width && width->kind == TPL_TEXT)
        spaces = *width;
    else if (width && (width->kind != TPL_INT || width->i > 64))
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "indent wants a text or at most 64");
    else if (width)
        spaces.n = width->i < 0 ? 0 : (uint32_t)width->i;
    if (!needs_text(c))
        return 0;
    text = *c->in;
    /* The reference adds a newline at the end, so that splitlines() keeps an empty last line. */
    for (int line = 0; begin <= text.n; line++) {
        const char *newline = memchr(text.s + begin, '\n', text.n - begin);

        end = newline ? (size_t)(newline - text.s) : text.n;
        if ((line > 0 && !cabe_tpl_put_literal(&made, "\n")) || !cabe_tpl_step(c->run, 1))
            return 0;
        if ((line == 0 ? first : (blank || end > begin)) && !cabe_tpl_put_part(&made, &spaces, 0, spaces.n))
            return 0;
        if (!cabe_tpl_put_part(&made, &text, begin, end))
            return 0;
        begin = end + 1;
    }
    *c->out = cabe_tpl_taken(&made);
    return 1;
}

static int do_format(struct call *c)
{
    struct tpl_value text, values;

    if (!text_input(c, &text))
        return 0;
    if (c->args->n_named) {
        if (!cabe_tpl_dict(c->run, TPL_DICT, 0, &values))
            return 0;
        values.dict->pairs = c->args->named;
        values.dict->n = values.dict->room = c->args->n_named;
    } else {
        if (!cabe_tpl_list(c->run, TPL_TUPLE, 0, &values))
            return 0;
        values.list->items = c->args->values;
        values.list->n = c->args->n;
    }
    return cabe_tpl_percent(c->run, &text, &values, c->out);
}

/* truncate(length=255, killwords=False, end="...", leeway=5) */
static int do_truncate(struct call *c)
{
    const struct tpl_value *tail_arg = cabe_tpl_arg(c->args, 2, "end");
    struct tpl_value text, tail = cabe_tpl_literal("..."), part, blank = cabe_tpl_literal(" ");
    struct tpl_out made = {.run = c->run};
    int64_t length, leeway;
    int64_t n;
    size_t end;

    if (!cabe_tpl_length(c->run, c->in, &n) || !int_arg(c, 0, "length", 255, &length) ||
        !int_arg(c, 3, "leeway", 5, &leeway) || (tail_arg && !cabe_tpl_text_of(c->run, tail_arg, &tail)))
        return 0;
    if (length < (int64_t)cabe_tpl_text_length(&tail) || leeway < 0)
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "truncate to less than its end");
    *c->out = *c->in;
    if (n <= length + leeway)
        return 1;
    if (!needs_text(c))
        return 0;
    text = *c->in;
    end = cabe_tpl_text_byte(&text, (size_t)(length - (int64_t)cabe_tpl_text_length(&tail)));
    part = cabe_tpl_text_part(&text, 0, end);
    for (size_t at = end; !true_arg(c, 1, "killwords", 0) && at-- > 0;)
        if (part.s[at] == blank.s[0]) {
            part.n = (uint32_t)at;
            break;
        }
    if (!cabe_tpl_put_part(&made, &part, 0, part.n) || !cabe_tpl_put_part(&made, &tail, 0, tail.n))
        return 0;
    *c->out = cabe_tpl_taken(&made);
    return 1;
}

static int is_url_safe(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           strchr("_.-~/", c) != NULL;
}

static int do_urlencode(struct call *c)
{
    struct tpl_value text;
    struct tpl_out made = {.run = c->run};
    char escape[8];

    if (c->in->kind >= TPL_LIST && c->in->kind <= TPL_DICT)
        return cabe_tpl_fail(c->run, CABE_ERR_UNSUPPORTED, "urlencode of a %s is not supported",
                             cabe_tpl_type(c->in));
    if (!text_input(c, &text))
        return 0;
    for (uint32_t i = 0; i < text.n; i++) {
        snprintf(escape, sizeof escape, "%%%02X", (unsigned)(uint8_t)text.s[i]);
        if (!cabe_tpl_step(c->run, 1) ||
            !(text.s[i] && is_url_safe(text.s[i]) ? cabe_tpl_put_part(&made, &text, i, i + 1u)
                                                  : cabe_tpl_put_literal(&made, escape)))
            return 0;
    }
    *c->out = cabe_tpl_taken(&made);
    return 1;
}

static int do_wordcount(struct call *c)
{
    struct tpl_value text;
    size_t bytes;
    int64_t n = 0;
    int inside = 0;

    if (!text_input(c, &text) || !cabe_tpl_step(c->run, text.n / 16))
        return 0;
    for (size_t at = 0; at < text.n; at += bytes) {
        uint32_t code = cabe_tpl_code(text.s, text.n, at, &bytes);
        int is_word = code == '_' || u_isalnum((UChar32)code);

        n += is_word && !inside;
        inside = is_word;
    }
    *c->out = cabe_tpl_int(n);
    return 1;
}

/* ---- JSON ---- */

static int do_tojson(struct call *c)
{
    static const struct tpl_value missing_indent = {.kind = TPL_NONE};
    const struct tpl_value *indent = cabe_tpl_arg(c->args, 1, "indent"),
                           *separators = cabe_tpl_arg(c->args, 2, "separators");
    struct tpl_json_form form = {.escape = true_arg(c, 0, "ensure_ascii", 0),
                                 .sort = true_arg(c, 3, "sort_keys", 0),
                                 .comma = cabe_tpl_literal(", "),
                                 .colon = cabe_tpl_literal(": ")};
    struct tpl_out made = {.run = c->run};

    indent = indent ? indent : &missing_indent;
    if (indent->kind == TPL_TEXT) {
        form.pretty = 1;
        form.indent = *indent;
    } else if (indent->kind == TPL_INT || indent->kind == TPL_BOOL) {
        form.pretty = 1;
        form.indent = cabe_tpl_literal("                                ");
        if (indent->i > 32)
            return cabe_tpl_fail(c->run, CABE_ERR_UNSUPPORTED, "tojson with an indent over 32");
        form.indent.n = indent->i < 0 ? 0 : (uint32_t)indent->i;
    } else if (indent->kind != TPL_NONE) {
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "tojson wants an indent of int or str");
    }
    if (form.pretty)
        form.comma.n = 1;
    if (separators && separators->kind != TPL_NONE) {
        const struct tpl_list *list =
            separators->kind == TPL_LIST || separators->kind == TPL_TUPLE ? separators->list : NULL;

        if (!list || list->n != 2 || list->items[0].kind != TPL_TEXT || list->items[1].kind != TPL_TEXT)
            return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "tojson wants two separators");
        form.comma = list->items[0];
        form.colon = list->items[1];
    }
    if (!cabe_tpl_json(&made, c->in, &form))
        return 0;
    *c->out = cabe_tpl_taken(&made);
    return 1;
}

/* ---- numbers ---- */

/* The number that a text is for Python's int(), of any base; 0 where it is none. */
static int parse_int(const struct tpl_value *text, int64_t base, int64_t *out)
{
    struct tpl_value rest = cabe_tpl_strip(text, NULL, TPL_BOTH);
    char s[80], *end, *begin = s;
    size_t n = 0;

    for (uint32_t i = 0; i < rest.n; i++) {
        if (rest.s[i] == '_' && i > 0 && i + 1 < rest.n && rest.s[i - 1] != '_')
            continue;
        if (n + 1 >= sizeof s || cabe_tpl_is_space((uint8_t)rest.s[i]))
            return 0;
        s[n++] = rest.s[i];
    }
    s[n] = '\0';
    if (n > 2 && s[0] == '0' && ((base == 8 && (s[1] | 32) == 'o') || (base == 2 && (s[1] | 32) == 'b')))
        begin += 2;
    if (base < 2 || base > 36 || n == 0)
        return 0;
    *out = strtoll(begin, &end, (int)base);
    return *end == '\0' && end != begin;
}

static int parse_float(const struct tpl_value *text, double *out)
{
    struct tpl_value rest = cabe_tpl_strip(text, NULL, TPL_BOTH);
    char s[400], *end;

    if (rest.n == 0 || rest.n >= sizeof s || memchr(rest.s, 'x', rest.n) || memchr(rest.s, 'X', rest.n))
        return 0;
    memcpy(s, rest.s, rest.n);
    s[rest.n] = '\0';
    *out = strtod(s, &end);
    return *end == '\0' && strlen(s) == rest.n;
}

static int do_int(struct call *c)
{
    const struct tpl_value *missing = cabe_tpl_arg(c->args, 0, "default");
    int64_t base, i;
    double d = NAN;

    if (!int_arg(c, 1, "base", 10, &base))
        return 0;
    if (c->in->kind == TPL_UNDEFINED)
        return cabe_tpl_fail_undefined(c->run, c->in);
    if (c->in->kind == TPL_INT || c->in->kind == TPL_BOOL) {
        *c->out = cabe_tpl_int(c->in->i);
        return 1;
    }
    if (c->in->kind == TPL_TEXT && parse_int(c->in, base, &i)) {
        *c->out = cabe_tpl_int(i);
        return 1;
    }
    if (c->in->kind == TPL_FLOAT)
        d = c->in->d;
    if ((c->in->kind == TPL_TEXT && !parse_float(c->in, &d)) || !(d > -9.2e18 && d < 9.2e18)) {
        *c->out = missing ? *missing : cabe_tpl_int(0);
        return 1;
    }
    *c->out = cabe_tpl_int((int64_t)d);
    return 1;
}

static int do_float(struct call *c)
{
    const struct tpl_value *missing = cabe_tpl_arg(c->args, 0, "default");
    double d = 0;

    if (c->in->kind == TPL_UNDEFINED)
        return cabe_tpl_fail_undefined(c->run, c->in);
    if (c->in->kind == TPL_INT || c->in->kind == TPL_BOOL)
        d = (double)c->in->i;
    else if (c->in->kind == TPL_FLOAT)
        d = c->in->d;
    else if (c->in->kind != TPL_TEXT || !parse_float(c->in, &d)) {
        *c->out = missing ? *missing : (struct tpl_value){.kind = TPL_FLOAT, .d = 0};
        return 1;
    }
    *c->out = (struct tpl_value){.kind = TPL_FLOAT, .d = d};
    return 1;
}

static int needs_number(struct call *c)
{
    if (c->in->kind == TPL_INT || c->in->kind == TPL_BOOL || c->in->kind == TPL_FLOAT)
        return 1;
    if (c->in->kind == TPL_UNDEFINED)
        return cabe_tpl_fail_undefined(c->run, c->in);
    return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "%s wants a number, not %s", c->name, cabe_tpl_type(c->in));
}

static int do_abs(struct call *c)
{
    if (!needs_number(c))
        return 0;
    *c->out = *c->in;
    if (c->in->kind == TPL_FLOAT) {
        c->out->d = fabs(c->in->d);
        return 1;
    }
    c->out->kind = TPL_INT;
    if (c->in->i == INT64_MIN)
        return cabe_tpl_fail(c->run, CABE_ERR_UNSUPPORTED, "an integer of more than 64 bits");
    c->out->i = c->in->i < 0 ? -c->in->i : c->in->i;
    return 1;
}

static int do_round(struct call *c)
{
    const struct tpl_value *method = cabe_tpl_arg(c->args, 1, "method");
    int64_t precision;
    char text[400];
    double d, scale;

    if (!needs_number(c) || !int_arg(c, 0, "precision", 0, &precision))
        return 0;
    if (precision < 0 || precision > 15)
        return cabe_tpl_fail(c->run, CABE_ERR_UNSUPPORTED, "round to %lld digits", (long long)precision);
    d = c->in->kind == TPL_FLOAT ? c->in->d : (double)c->in->i;
    scale = pow(10, (double)precision);
    if (!method || cabe_tpl_is_text(method, "common")) {
        snprintf(text, sizeof text, "%.*f", (int)precision, d); /* exact, half to even: as Python rounds */
        d = strtod(text, NULL);
    } else if (cabe_tpl_is_text(method, "ceil") || cabe_tpl_is_text(method, "floor")) {
        d = (method->s[0] == 'c' ? ceil(d * scale) : floor(d * scale)) / scale;
    } else {
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "method must be common, ceil or floor");
    }
    *c->out = (struct tpl_value){.kind = c->in->kind, .d = d};
    if (c->in->kind != TPL_FLOAT && !method)
        *c->out = cabe_tpl_int(c->in->i);
    else
        c->out->kind = TPL_FLOAT;
    return 1;
}

/* ---- lists ---- */

static int do_length(struct call *c)
{
    int64_t n = 0;

    if (!cabe_tpl_length(c->run, c->in, &n))
        return 0;
    *c->out = cabe_tpl_int(n);
    return 1;
}

static int do_list(struct call *c)
{
    const struct tpl_list *items;

    if (!cabe_tpl_items(c->run, c->in, &items) || !cabe_tpl_list(c->run, TPL_LIST, 0, c->out))
        return 0;
    *c->out->list = (struct tpl_list){.n = items->n, .items = items->items};
    return 1;
}

static int do_end(struct call *c)
{
    const struct tpl_list *items;

    if (c->flag && c->in->kind == TPL_ITER)
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "'generator' object is not reversible");
    if (!cabe_tpl_items(c->run, c->in, &items))
        return 0;
    if (items->n == 0)
        return cabe_tpl_undefined(c->run, "list object",
                                  cabe_tpl_literal(c->flag ? "last item" : "first item"), c->out);
    *c->out = items->items[c->flag ? items->n - 1 : 0];
    return 1;
}

static int do_reverse(struct call *c)
{
    const struct tpl_list *items;

    if (!cabe_tpl_items(c->run, c->in, &items))
        return 0;
    if (c->in->kind == TPL_TEXT) {
        struct tpl_out made = {.run = c->run};

        for (size_t i = items->n; i-- > 0;)
            if (!cabe_tpl_put_part(&made, &items->items[i], 0, items->items[i].n))
                return 0;
        *c->out = cabe_tpl_taken(&made);
        return 1;
    }
    if (!cabe_tpl_list(c->run, TPL_ITER, items->n, c->out))
        return 0;
    for (size_t i = items->n; i-- > 0;)
        c->out->list->items[c->out->list->n++] = items->items[i];
    return cabe_tpl_step(c->run, items->n / 8);
}

/* item.a.b.0 */
static int get_path(struct tpl_run *run, const struct tpl_value *of, const struct tpl_value *path,
                    struct tpl_value *out)
{
    size_t begin = 0;

    *out = *of;
    if (path->kind != TPL_TEXT)
        return cabe_tpl_item(run, of, path, out);
    for (size_t at = 0; at <= path->n; at++) {
        struct tpl_value name, from = *out;
        int64_t index;

        if (at < path->n && path->s[at] != '.')
            continue;
        name = cabe_tpl_text_part(path, begin, at);
        if (name.n > 0 && name.s[0] >= '0' && name.s[0] <= '9' && parse_int(&name, 10, &index))
            name = cabe_tpl_int(index);
        if (!cabe_tpl_item(run, &from, &name, out))
            return 0;
        begin = at + 1;
    }
    return 1;
}

static int do_join(struct call *c)
{
    const struct tpl_value *glue = cabe_tpl_arg(c->args, 0, "d"),
                           *attribute = cabe_tpl_arg(c->args, 1, "attribute");
    struct tpl_value text = cabe_tpl_literal(""), item;
    struct tpl_out made = {.run = c->run};
    const struct tpl_list *items;

    if ((glue && !cabe_tpl_text_of(c->run, glue, &text)) || !cabe_tpl_items(c->run, c->in, &items))
        return 0;
    for (size_t i = 0; i < items->n; i++) {
        item = items->items[i];
        if ((attribute && attribute->kind != TPL_NONE &&
             !get_path(c->run, &items->items[i], attribute, &item)) ||
            (i > 0 && !cabe_tpl_put_part(&made, &text, 0, text.n)) || !cabe_tpl_print(&made, &item) ||
            !cabe_tpl_step(c->run, 1))
            return 0;
    }
    *c->out = cabe_tpl_taken(&made);
    return 1;
}

static int do_default(struct call *c)
{
    const struct tpl_value *value = cabe_tpl_arg(c->args, 0, "default_value");
    int boolean = true_arg(c, 1, "boolean", 0);

    *c->out = *c->in;
    if (c->in->kind == TPL_UNDEFINED || (boolean && !cabe_tpl_truth(c->run, c->in)))
        *c->out = value ? *value : cabe_tpl_literal("");
    return 1;
}

static int make_pairs(struct tpl_run *run, const struct tpl_dict *dict, enum tpl_kind kind,
                      struct tpl_value *out)
{
    if (!cabe_tpl_step(run, dict->n) || !cabe_tpl_list(run, kind, dict->n, out))
        return 0;
    for (size_t i = 0; i < dict->n; i++) {
        struct tpl_value *pair = &out->list->items[i];

        if (!cabe_tpl_list(run, TPL_TUPLE, 2, pair))
            return 0;
        pair->list->items[0] = dict->pairs[i].key;
        pair->list->items[1] = dict->pairs[i].value;
        pair->list->n = 2;
        out->list->n++;
    }
    return 1;
}

static int needs_dict(struct call *c)
{
    if (c->in->kind == TPL_DICT)
        return 1;
    if (c->in->kind == TPL_UNDEFINED)
        return cabe_tpl_fail_undefined(c->run, c->in);
    return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "Can only get item pairs from a mapping.");
}

static int do_items(struct call *c)
{
    if (c->in->kind == TPL_UNDEFINED)
        return cabe_tpl_list(c->run, TPL_ITER, 0, c->out);
    return needs_dict(c) && make_pairs(c->run, c->in->dict, TPL_ITER, c->out);
}

/* ---- sorting ---- */

/* What a value is compared by. */
static int sort_key(struct call *c, const struct tpl_value *item, const struct tpl_value *attribute, int fold,
                    struct tpl_value *key)
{
    *key = *item;
    if (attribute && attribute->kind != TPL_NONE && !get_path(c->run, item, attribute, key))
        return 0;
    return !fold || key->kind != TPL_TEXT || cabe_tpl_recase(c->run, key, TPL_LOWER, key);
}

/* Sorts items by keys, equal ones in the order they came, by merging. */
static int sort_by(struct tpl_run *run, struct tpl_value *items, struct tpl_value *keys, size_t n,
                   int reverse)
{
    struct tpl_value *other = cabe_tpl_new(run, n, 2 * sizeof *other);
    int order;

    if (!other)
        return 0;
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t begin = 0; begin < n; begin += 2 * width) {
            size_t middle = begin + width < n ? begin + width : n,
                   end = middle + width < n ? middle + width : n;
            size_t a = begin, b = middle;

            for (size_t k = begin; k < end; k++) {
                int take_b = a == middle;

                if (a < middle && b < end) {
                    if (!cabe_tpl_step(run, 1) || !cabe_tpl_order(run, &keys[b], &keys[a], "<", &order))
                        return 0;
                    take_b = order != 2 && (reverse ? order > 0 : order < 0);
                }
                other[2 * k] = items[take_b ? b : a];
                other[2 * k + 1] = keys[take_b ? b : a];
                *(take_b ? &b : &a) += 1;
            }
        }
        for (size_t k = 0; k < n; k++) {
            items[k] = other[2 * k];
            keys[k] = other[2 * k + 1];
        }
    }
    return 1;
}

static int do_sort(struct call *c)
{
    const struct tpl_value *attribute = cabe_tpl_arg(c->args, 2, "attribute");
    int reverse = true_arg(c, 0, "reverse", 0), fold = !true_arg(c, 1, "case_sensitive", 0);
    const struct tpl_list *items;
    struct tpl_value *keys;

    if (!cabe_tpl_items(c->run, c->in, &items) || !cabe_tpl_list(c->run, TPL_LIST, items->n, c->out))
        return 0;
    keys = cabe_tpl_new(c->run, items->n, sizeof *keys);
    for (size_t i = 0; keys && i < items->n; i++, c->out->list->n++) {
        c->out->list->items[i] = items->items[i];
        if (!sort_key(c, &items->items[i], attribute, fold, &keys[i]))
            return 0;
    }
    return keys && sort_by(c->run, c->out->list->items, keys, items->n, reverse);
}

/* dictsort(case_sensitive=False, by="key", reverse=False) */
static int do_dictsort(struct call *c)
{
    const struct tpl_value *by = cabe_tpl_arg(c->args, 1, "by");
    int reverse = true_arg(c, 2, "reverse", 0), fold = !true_arg(c, 0, "case_sensitive", 0), column = 0;
    struct tpl_value *keys;

    if (by && !cabe_tpl_is_text(by, "key") && !cabe_tpl_is_text(by, "value"))
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "You can only sort by either \"key\" or \"value\"");
    column = by && cabe_tpl_is_text(by, "value");
    if (!needs_dict(c) || !make_pairs(c->run, c->in->dict, TPL_LIST, c->out))
        return 0;
    keys = cabe_tpl_new(c->run, c->out->list->n, sizeof *keys);
    for (size_t i = 0; keys && i < c->out->list->n; i++)
        if (!sort_key(c, &c->out->list->items[i].list->items[column], NULL, fold, &keys[i]))
            return 0;
    return keys && sort_by(c->run, c->out->list->items, keys, c->out->list->n, reverse);
}

static int do_unique(struct call *c)
{
    const struct tpl_value *attribute = cabe_tpl_arg(c->args, 1, "attribute");
    int fold = !true_arg(c, 0, "case_sensitive", 0);
    const struct tpl_list *items;
    struct tpl_value *keys;

    if (!cabe_tpl_items(c->run, c->in, &items) || !cabe_tpl_list(c->run, TPL_ITER, items->n, c->out))
        return 0;
    keys = cabe_tpl_new(c->run, items->n, sizeof *keys);
    for (size_t i = 0; keys && i < items->n; i++) {
        struct tpl_list *list = c->out->list;
        int known = 0;

        if (!sort_key(c, &items->items[i], attribute, fold, &keys[list->n]))
            return 0;
        for (size_t k = 0; !known && k < list->n; k++)
            if (!cabe_tpl_step(c->run, 1) || !cabe_tpl_equal(c->run, &keys[k], &keys[list->n], &known))
                return 0;
        if (!known)
            list->items[list->n++] = items->items[i];
    }
    return keys != NULL;
}

static int do_extreme(struct call *c)
{
    const struct tpl_value *attribute = cabe_tpl_arg(c->args, 1, "attribute");
    int fold = !true_arg(c, 0, "case_sensitive", 0), order;
    const struct tpl_list *items;
    struct tpl_value best, key;

    if (!cabe_tpl_items(c->run, c->in, &items))
        return 0;
    if (items->n == 0)
        return cabe_tpl_undefined(c->run, "list object", cabe_tpl_literal(c->name), c->out);
    for (size_t i = 0; i < items->n; i++) {
        if (!sort_key(c, &items->items[i], attribute, fold, &key) || !cabe_tpl_step(c->run, 1) ||
            (i > 0 && !cabe_tpl_order(c->run, &key, &best, c->flag ? ">" : "<", &order)))
            return 0;
        if (i == 0 || (order != 2 && (c->flag ? order > 0 : order < 0))) {
            best = key;
            *c->out = items->items[i];
        }
    }
    return 1;
}

static int do_sum(struct call *c)
{
    const struct tpl_value *attribute = cabe_tpl_arg(c->args, 0, "attribute"),
                           *start = cabe_tpl_arg(c->args, 1, "start");
    const struct tpl_list *items;
    struct tpl_value sum = start ? *start : cabe_tpl_int(0), item;
    int is_float;

    if (!cabe_tpl_items(c->run, c->in, &items))
        return 0;
    for (size_t i = 0; i < items->n; i++) {
        if (!sort_key(c, &items->items[i], attribute, 0, &item) || !cabe_tpl_step(c->run, 1))
            return 0;
        if (item.kind < TPL_BOOL || item.kind > TPL_FLOAT || sum.kind < TPL_BOOL || sum.kind > TPL_FLOAT)
            return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "sum of %s and %s", cabe_tpl_type(&sum),
                                 cabe_tpl_type(&item));
        is_float = item.kind == TPL_FLOAT || sum.kind == TPL_FLOAT;
        if (is_float)
            sum.d = (sum.kind == TPL_FLOAT ? sum.d : (double)sum.i) +
                    (item.kind == TPL_FLOAT ? item.d : (double)item.i);
        else if (__builtin_add_overflow(sum.i, item.i, &sum.i))
            return cabe_tpl_fail(c->run, CABE_ERR_UNSUPPORTED, "an integer of more than 64 bits");
        sum.kind = is_float ? TPL_FLOAT : TPL_INT;
    }
    *c->out = sum;
    return 1;
}

/* batch(n, fill): rows of n; slice(n, fill): n columns. */
static int do_batch(struct call *c)
{
    const struct tpl_value *fill = cabe_tpl_arg(c->args, 1, "fill_with");
    const struct tpl_list *items;
    size_t n, n_rows, at = 0;
    int64_t count;

    if (!int_arg(c, 0, c->flag ? "slices" : "linecount", 0, &count) || !cabe_tpl_items(c->run, c->in, &items))
        return 0;
    if (count < 1 || count > 100000)
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "%s wants a number from 1 to 100000", c->name);
    n = (size_t)count;
    n_rows = c->flag ? n : (items->n + n - 1) / n;
    if (!cabe_tpl_step(c->run, n_rows + items->n / 8) || !cabe_tpl_list(c->run, TPL_ITER, n_rows, c->out))
        return 0;
    for (size_t i = 0; i < n_rows; i++) {
        struct tpl_value *row = &c->out->list->items[i];
        size_t wanted = c->flag ? items->n / n + (i < items->n % n) : n,
               here = items->n - at < wanted ? items->n - at : wanted;
        int filled = fill && fill->kind != TPL_NONE;

        if (!cabe_tpl_list(c->run, TPL_LIST, here + (c->flag || filled ? wanted - here + 1 : 0), row))
            return 0;
        for (; row->list->n < here; at++)
            row->list->items[row->list->n++] = items->items[at];
        while (filled && row->list->n < wanted)
            row->list->items[row->list->n++] = *fill;
        if (c->flag && filled && items->n % n && i >= items->n % n)
            row->list->items[row->list->n++] = *fill;
        c->out->list->n++;
    }
    return 1;
}

/* ---- filters of filters and tests ---- */

/* args without the first n. */
static struct tpl_args rest_of(const struct tpl_args *args, size_t n)
{
    struct tpl_args rest = *args;

    n = n < rest.n ? n : rest.n;
    rest.values += n;
    rest.n -= n;
    return rest;
}

/* What map and select walk over: nothing where the input is false, whatever it is. */
static int items_if_true(struct call *c, const struct tpl_list **items)
{
    static const struct tpl_list none = {0, 0, NULL};

    *items = &none;
    return !cabe_tpl_truth(c->run, c->in) || cabe_tpl_items(c->run, c->in, items);
}

/* map("filter", ...), map(attribute="a.b", default=...) */
static int do_map(struct call *c)
{
    const struct tpl_value *attribute = c->args->n == 0 ? cabe_tpl_arg(c->args, 0, "attribute") : NULL,
                           *missing = cabe_tpl_arg(c->args, SIZE_MAX, "default");
    struct tpl_args rest = rest_of(c->args, 1);
    const struct tpl_list *items;

    if (!attribute && c->args->n == 0)
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "map requires a filter argument");
    if (!attribute && c->args->values[0].kind != TPL_TEXT)
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "map wants the name of a filter");
    if (!items_if_true(c, &items) || !cabe_tpl_list(c->run, TPL_ITER, items->n, c->out))
        return 0;
    for (size_t i = 0; i < items->n; i++, c->out->list->n++) {
        struct tpl_value *to = &c->out->list->items[i];

        if (!cabe_tpl_step(c->run, 1) ||
            !(attribute ? get_path(c->run, &items->items[i], attribute, to)
                        : cabe_tpl_filter(c->run, &c->args->values[0], &items->items[i], &rest, to)))
            return 0;
        if (attribute && missing && to->kind == TPL_UNDEFINED)
            *to = *missing;
    }
    return 1;
}

enum { SELECT = 0, REJECT = 1, BY_ATTRIBUTE = 2 };

/* select, reject, selectattr, rejectattr */
static int do_select(struct call *c)
{
    size_t n_before = c->flag & BY_ATTRIBUTE ? 1 : 0;
    struct tpl_args rest = rest_of(c->args, n_before + 1);
    const struct tpl_list *items;
    int holds;

    if (n_before && c->args->n == 0)
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "%s wants an attribute", c->name);
    if (!items_if_true(c, &items) || !cabe_tpl_list(c->run, TPL_ITER, items->n, c->out))
        return 0;
    for (size_t i = 0; i < items->n; i++) {
        struct tpl_value item = items->items[i];

        if (!cabe_tpl_step(c->run, 1) ||
            (n_before && !get_path(c->run, &items->items[i], &c->args->values[0], &item)))
            return 0;
        holds = cabe_tpl_truth(c->run, &item);
        if (c->args->n > n_before && !cabe_tpl_test(c->run, &c->args->values[n_before], &item, &rest, &holds))
            return 0;
        if (holds != (c->flag & REJECT))
            c->out->list->items[c->out->list->n++] = items->items[i];
    }
    return 1;
}

static int do_attr(struct call *c)
{
    const struct tpl_value *name = cabe_tpl_arg(c->args, 0, "name");

    if (!name || name->kind != TPL_TEXT)
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "attr wants a name");
    if (c->in->kind == TPL_DICT) /* of an object only, not an item of it */
        return cabe_tpl_undefined(c->run, cabe_tpl_object(c->in), *name, c->out);
    return cabe_tpl_attribute(c->run, c->in, name, c->out);
}

static const struct filter {
    const char *name;
    int (*call)(struct call *);
    int flag;
    size_t n_max;
    const char *names[5];
} filters[] = {
    {"abs", do_abs, 0, 0, {0}},
    {"attr", do_attr, 0, 1, {"name"}},
    {"batch", do_batch, 0, 2, {"linecount", "fill_with"}},
    {"capitalize", do_case, TPL_CAPITALIZE, 0, {0}},
    {"count", do_length, 0, 0, {0}},
    {"d", do_default, 0, 2, {"default_value", "boolean"}},
    {"default", do_default, 0, 2, {"default_value", "boolean"}},
    {"dictsort", do_dictsort, 0, 3, {"case_sensitive", "by", "reverse"}},
    {"e", do_escape, 0, 0, {0}},
    {"escape", do_escape, 0, 0, {0}},
    {"first", do_end, 0, 0, {0}},
    {"float", do_float, 0, 1, {"default"}},
    {"forceescape", do_escape, 1, 0, {0}},
    {"format", do_format, 0, SIZE_MAX, {0}},
    {"indent", do_indent, 0, 3, {"width", "first", "blank"}},
    {"int", do_int, 0, 2, {"default", "base"}},
    {"items", do_items, 0, 0, {0}},
    {"join", do_join, 0, 2, {"d", "attribute"}},
    {"last", do_end, 1, 0, {0}},
    {"length", do_length, 0, 0, {0}},
    {"list", do_list, 0, 0, {0}},
    {"lower", do_case, TPL_LOWER, 0, {0}},
    {"map", do_map, 0, SIZE_MAX, {0}},
    {"max", do_extreme, 1, 2, {"case_sensitive", "attribute"}},
    {"min", do_extreme, 0, 2, {"case_sensitive", "attribute"}},
    {"reject", do_select, REJECT, SIZE_MAX, {0}},
    {"rejectattr", do_select, REJECT | BY_ATTRIBUTE, SIZE_MAX, {0}},
    {"replace", do_replace, 0, 3, {"old", "new", "count"}},
    {"reverse", do_reverse, 0, 0, {0}},
    {"round", do_round, 0, 2, {"precision", "method"}},
    {"safe", do_safe, 0, 0, {0}},
    {"select", do_select, SELECT, SIZE_MAX, {0}},
    {"selectattr", do_select, SELECT | BY_ATTRIBUTE, SIZE_MAX, {0}},
    {"slice", do_batch, 1, 2, {"slices", "fill_with"}},
    {"sort", do_sort, 0, 3, {"reverse", "case_sensitive", "attribute"}},
    {"string", do_string, 0, 0, {0}},
    {"sum", do_sum, 0, 2, {"attribute", "start"}},
    {"title", do_case, TPL_TITLE_FILTER, 0, {0}},
    {"tojson", do_tojson, 0, 4, {"ensure_ascii", "indent", "separators", "sort_keys"}},
    {"trim", do_trim, 0, 1, {"chars"}},
    {"truncate", do_truncate, 0, 4, {"length", "killwords", "end", "leeway"}},
    {"unique", do_unique, 0, 2, {"case_sensitive", "attribute"}},
    {"upper", do_case, TPL_UPPER, 0, {0}},
    {"urlencode", do_urlencode, 0, 0, {0}},
    {"wordcount", do_wordcount, 0, 0, {0}},
};

static const char *const unsupported_filters[] = {
    "center", "filesizeformat", "groupby", "pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr"};

int cabe_tpl_filter(struct tpl_run *run, const struct tpl_value *name, const struct tpl_value *input,
                    const struct tpl_args *args, struct tpl_value *out)
{
    struct tpl_value kept = *input;
    int ok;

    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++) {
        const struct filter *f = &filters[i];
        struct call call = {run, &kept, args, out, f->name, f->flag};

        if (!cabe_tpl_is_text(name, f->name))
            continue;
        if (f->n_max != SIZE_MAX && !cabe_tpl_check_args(run, args, f->name, f->n_max, f->names))
            return 0;
        if (!cabe_tpl_enter(run)) /* map may name itself */
            return 0;
        ok = f->call(&call);
        run->depth--;
        return ok;
    }
    for (size_t i = 0; i < sizeof unsupported_filters / sizeof unsupported_filters[0]; i++)
        if (cabe_tpl_is_text(name, unsupported_filters[i]))
            return cabe_tpl_fail(run, CABE_ERR_UNSUPPORTED, "the filter '%s' is not supported",
                                 unsupported_filters[i]);
    return cabe_tpl_fail(run, CABE_ERR_FORMAT, "no filter named '%.*s'", (int)(name->n < 60 ? name->n : 60),
                         name->s);
}
