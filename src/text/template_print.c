/* Texts that grow, and values as texts: str(), repr(), json.dumps(). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unicode/uchar.h>

#include "text/template_parts.h"

/* ---- texts that grow ---- */

int cabe_tpl_reserve(struct tpl_out *out, size_t n)
{
    size_t wanted = out->n + n, room;
    char *s;

    if (wanted > out->run->limits.output_bytes || wanted > INT32_MAX)
        return cabe_tpl_fail(out->run, CABE_ERR_LIMIT, "a text of more than %llu bytes",
                             (unsigned long long)out->run->limits.output_bytes);
    if (wanted <= out->room)
        return 1;
    room = out->room < 64 ? 64 : out->room * 2;
    room = room < wanted ? wanted : room;
    s = cabe_tpl_grow(&out->run->memory, out->s, out->room, room);
    if (!s)
        return cabe_tpl_no_memory(out->run);
    out->s = s;
    out->room = room;
    return 1;
}

/* Marks for all of out->s. */
static int make_marks(struct tpl_out *out)
{
    uint8_t *mark;

    if (out->mark && out->mark_room >= out->room)
        return 1;
    mark = cabe_tpl_grow(&out->run->memory, out->mark, out->mark_room, out->room);
    if (!mark)
        return cabe_tpl_no_memory(out->run);
    if (!out->mark)
        memset(mark, 0, out->n);
    out->mark = mark;
    out->mark_room = out->room;
    return 1;
}

int cabe_tpl_put(struct tpl_out *out, const char *s, size_t n, const uint8_t *mark)
{
    if (n == 0)
        return 1;
    if (!cabe_tpl_step(out->run, n / 64) || !cabe_tpl_reserve(out, n) ||
        ((mark || out->mark) && !make_marks(out)))
        return 0;
    memcpy(out->s + out->n, s, n);
    if (mark)
        memcpy(out->mark + out->n, mark, n);
    else if (out->mark)
        memset(out->mark + out->n, 0, n);
    out->n += n;
    return 1;
}

int cabe_tpl_put_part(struct tpl_out *out, const struct tpl_value *text, size_t begin, size_t end)
{
    return cabe_tpl_put(out, text->s + begin, end - begin, text->mark ? text->mark + begin : NULL);
}

int cabe_tpl_put_literal(struct tpl_out *out, const char *text)
{
    return cabe_tpl_put(out, text, strlen(text), NULL);
}

struct tpl_value cabe_tpl_taken(const struct tpl_out *out)
{
    return (struct tpl_value){
        .kind = TPL_TEXT, .n = (uint32_t)out->n, .s = out->n ? out->s : "", .mark = out->mark};
}

/* ---- values as texts ---- */

void cabe_tpl_float(char out[CABE_TPL_FLOAT_MAX], double d)
{
    char digits[CABE_TPL_FLOAT_MAX], *e;
    int precision = 1, exponent, n;

    if (isnan(d) || isinf(d)) {
        snprintf(out, CABE_TPL_FLOAT_MAX, "%s", isnan(d) ? "nan" : d > 0 ? "inf" : "-inf");
        return;
    }
    do
        snprintf(digits, sizeof digits, "%.*e", precision - 1, d);
    while (strtod(digits, NULL) != d && ++precision <= 17);
    e = strchr(digits, 'e');
    exponent = atoi(e + 1);
    if (exponent >= -4 && exponent < 16) {
        n = precision - 1 - exponent;
        snprintf(out, CABE_TPL_FLOAT_MAX, "%.*f", n > 1 ? n : 1, d);
        return;
    }
    *e = '\0';
    snprintf(out, CABE_TPL_FLOAT_MAX, "%.24se%c%02d", digits, exponent < 0 ? '-' : '+', abs(exponent));
}

static int is_printable(uint32_t c)
{
    switch (u_charType((UChar32)c)) {
    case U_CONTROL_CHAR:
    case U_FORMAT_CHAR:
    case U_SURROGATE:
    case U_PRIVATE_USE_CHAR:
    case U_UNASSIGNED:
    case U_LINE_SEPARATOR:
    case U_PARAGRAPH_SEPARATOR:
        return 0;
    case U_SPACE_SEPARATOR:
        return c == ' ';
    default:
        return 1;
    }
}

static int repr_text(struct tpl_out *out, const struct tpl_value *text)
{
    const char *quote = memchr(text->s, '\'', text->n) && !memchr(text->s, '"', text->n) ? "\"" : "'";
    size_t bytes, begin = 0;
    char escape[16];

    if (!cabe_tpl_put_literal(out, quote))
        return 0;
    for (size_t at = 0; at < text->n; at += bytes) {
        uint32_t c = cabe_tpl_code(text->s, text->n, at, &bytes);
        const char *simple = c == '\n'   ? "\\n"
                             : c == '\r' ? "\\r"
                             : c == '\t' ? "\\t"
                             : c == '\\' ? "\\\\"
                                         : NULL;

        if (c == (uint32_t)*quote)
            simple = c == '\'' ? "\\'" : "\\\"";
        else if (!simple && (c < 0x7F ? c >= ' ' : is_printable(c)))
            continue;
        if (!simple)
            snprintf(escape, sizeof escape, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
        if (!cabe_tpl_put_part(out, text, begin, at) || !cabe_tpl_put_literal(out, simple ? simple : escape))
            return 0;
        begin = at + bytes;
    }
    return cabe_tpl_put_part(out, text, begin, text->n) && cabe_tpl_put_literal(out, quote);
}

static int repr_list(struct tpl_out *out, const struct tpl_value *value)
{
    int tuple = value->kind == TPL_TUPLE;

    if (!cabe_tpl_put_literal(out, tuple ? "(" : "["))
        return 0;
    for (size_t i = 0; i < value->list->n; i++)
        if ((i > 0 && !cabe_tpl_put_literal(out, ", ")) || !cabe_tpl_repr(out, &value->list->items[i]))
            return 0;
    return cabe_tpl_put_literal(out, !tuple ? "]" : value->list->n == 1 ? ",)" : ")");
}

static int repr_dict(struct tpl_out *out, const struct tpl_dict *dict)
{
    if (!cabe_tpl_put_literal(out, "{"))
        return 0;
    for (size_t i = 0; i < dict->n; i++)
        if ((i > 0 && !cabe_tpl_put_literal(out, ", ")) || !cabe_tpl_repr(out, &dict->pairs[i].key) ||
            !cabe_tpl_put_literal(out, ": ") || !cabe_tpl_repr(out, &dict->pairs[i].value))
            return 0;
    return cabe_tpl_put_literal(out, "}");
}

/* What is no text, list or dict. */
static int repr_other(struct tpl_out *out, const struct tpl_value *value)
{
    char text[CABE_TPL_FLOAT_MAX + 40];

    switch (value->kind) {
    case TPL_UNDEFINED:
        return cabe_tpl_put_literal(out, "Undefined");
    case TPL_NONE:
        return cabe_tpl_put_literal(out, "None");
    case TPL_BOOL:
        return cabe_tpl_put_literal(out, value->i ? "True" : "False");
    case TPL_INT:
        snprintf(text, sizeof text, "%lld", (long long)value->i);
        return cabe_tpl_put_literal(out, text);
    case TPL_FLOAT:
        cabe_tpl_float(text, value->d);
        return cabe_tpl_put_literal(out, text);
    case TPL_SPACE:
        return cabe_tpl_put_literal(out, "<Namespace ") && repr_dict(out, value->dict) &&
               cabe_tpl_put_literal(out, ">");
    case TPL_LOOP:
        snprintf(text, sizeof text, "<LoopContext %zu/%zu>", value->loop->index + 1, value->loop->items->n);
        return cabe_tpl_put_literal(out, text);
    case TPL_MACRO:
        return cabe_tpl_put_literal(out, "<Macro ") && cabe_tpl_repr(out, &value->macro->node->value) &&
               cabe_tpl_put_literal(out, ">");
    default: /* Python prints an address */
        snprintf(text, sizeof text, "<%s>", cabe_tpl_object(value));
        return cabe_tpl_put_literal(out, text);
    }
}

int cabe_tpl_repr(struct tpl_out *out, const struct tpl_value *value)
{
    int ok;

    if (!cabe_tpl_step(out->run, 1) || !cabe_tpl_enter(out->run))
        return 0;
    switch (value->kind) {
    case TPL_TEXT:
        ok = repr_text(out, value);
        break;
    case TPL_LIST:
    case TPL_TUPLE:
        ok = repr_list(out, value);
        break;
    case TPL_DICT:
        ok = repr_dict(out, value->dict);
        break;
    default:
        ok = repr_other(out, value);
    }
    out->run->depth--;
    return ok;
}

int cabe_tpl_print(struct tpl_out *out, const struct tpl_value *value)
{
    if (value->kind == TPL_TEXT)
        return cabe_tpl_put_part(out, value, 0, value->n);
    return value->kind == TPL_UNDEFINED ? 1 : cabe_tpl_repr(out, value);
}

int cabe_tpl_text_of(struct tpl_run *run, const struct tpl_value *value, struct tpl_value *text)
{
    struct tpl_out out = {.run = run};

    if (value->kind == TPL_TEXT) {
        *text = *value;
        return 1;
    }
    if (!cabe_tpl_print(&out, value))
        return 0;
    *text = cabe_tpl_taken(&out);
    return 1;
}

int cabe_tpl_escape(struct tpl_out *out, const struct tpl_value *text)
{
    static const char from[] = "&<>\"'";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
    size_t begin = 0;

    if (text->safe)
        return cabe_tpl_put_part(out, text, 0, text->n);
    for (size_t at = 0; at < text->n; at++) {
        const char *found = text->s[at] ? strchr(from, text->s[at]) : NULL;

        if (!found)
            continue;
        if (!cabe_tpl_put_part(out, text, begin, at) || !cabe_tpl_put_literal(out, to[found - from]))
            return 0;
        begin = at + 1;
    }
    return cabe_tpl_put_part(out, text, begin, text->n);
}

/* ---- JSON ---- */

static int json_text(struct tpl_out *out, const struct tpl_value *text, int escape_all)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    size_t bytes, begin = 0;
    char escape[16];

    if (!cabe_tpl_put_literal(out, "\""))
        return 0;
    for (size_t at = 0; at < text->n; at += bytes) {
        uint32_t c = cabe_tpl_code(text->s, text->n, at, &bytes);
        const char *simple = c > 0 && c < 0x80 ? strchr(from, (int)c) : NULL;

        if (!simple && c >= ' ' && (!escape_all || c < 0x7F))
            continue;
        if (simple)
            snprintf(escape, sizeof escape, "\\%c", to[simple - from]);
        else if (c >= 0x10000)
            snprintf(escape, sizeof escape, "\\u%04x\\u%04x", 0xD7C0 + (c >> 10), 0xDC00 | (c & 0x3FF));
        else
            snprintf(escape, sizeof escape, "\\u%04x", c);
        if (!cabe_tpl_put_part(out, text, begin, at) || !cabe_tpl_put_literal(out, escape))
            return 0;
        begin = at + bytes;
    }
    return cabe_tpl_put_part(out, text, begin, text->n) && cabe_tpl_put_literal(out, "\"");
}

static int json_scalar(struct tpl_out *out, const struct tpl_value *value, const struct tpl_json_form *form)
{
    switch (value->kind) {
    case TPL_NONE:
        return cabe_tpl_put_literal(out, "null");
    case TPL_BOOL:
        return cabe_tpl_put_literal(out, value->i ? "true" : "false");
    case TPL_INT:
        return cabe_tpl_repr(out, value);
    case TPL_FLOAT:
        if (isnan(value->d) || isinf(value->d))
            return cabe_tpl_put_literal(out, isnan(value->d) ? "NaN"
                                             : value->d > 0  ? "Infinity"
                                                             : "-Infinity");
        return cabe_tpl_repr(out, value);
    case TPL_TEXT:
        return json_text(out, value, form->escape);
    default:
        return cabe_tpl_fail(out->run, CABE_ERR_FORMAT, "Object of type %s is not JSON serializable",
                             cabe_tpl_type(value));
    }
}

static int new_line(struct tpl_out *out, const struct tpl_json_form *form, int level)
{
    if (!form->pretty)
        return 1;
    if (!cabe_tpl_put_literal(out, "\n"))
        return 0;
    for (int i = 0; i < level; i++)
        if (!cabe_tpl_put_part(out, &form->indent, 0, form->indent.n))
            return 0;
    return 1;
}

static int json_value(struct tpl_out *out, const struct tpl_value *value, const struct tpl_json_form *form,
                      int level);

static int json_pair(struct tpl_out *out, const struct tpl_pair *pair, const struct tpl_json_form *form,
                     int level)
{
    struct tpl_value key;

    if (pair->key.kind == TPL_TUPLE)
        return cabe_tpl_fail(out->run, CABE_ERR_FORMAT,
                             "keys must be str, int, float, bool or None, not tuple");
    if (pair->key.kind == TPL_TEXT) {
        key = pair->key;
    } else {
        struct tpl_out made = {.run = out->run};

        if (!json_scalar(&made, &pair->key, form))
            return 0;
        key = cabe_tpl_taken(&made);
    }
    return json_text(out, &key, form->escape) && cabe_tpl_put_part(out, &form->colon, 0, form->colon.n) &&
           json_value(out, &pair->value, form, level);
}

/* Whether pair i comes before pair j when keys are sorted. */
static int sorted_pairs(struct tpl_run *run, const struct tpl_dict *dict, struct tpl_pair **out)
{
    struct tpl_pair *pairs = cabe_tpl_new(run, dict->n, sizeof *pairs);
    int order;

    if (!pairs || !cabe_tpl_step(run, dict->n > 30 ? dict->n * dict->n / 8 : dict->n))
        return 0;
    for (size_t i = 0; i < dict->n; i++) {
        size_t k = i;

        for (; k > 0; k--) {
            if (!cabe_tpl_order(run, &dict->pairs[i].key, &pairs[k - 1].key, "<", &order))
                return 0;
            if (order >= 0)
                break;
            pairs[k] = pairs[k - 1];
        }
        pairs[k] = dict->pairs[i];
    }
    *out = pairs;
    return 1;
}

static int json_container(struct tpl_out *out, const struct tpl_value *value,
                          const struct tpl_json_form *form, int level)
{
    int is_dict = value->kind == TPL_DICT;
    size_t n = is_dict ? value->dict->n : value->list->n;
    struct tpl_pair *pairs = is_dict ? value->dict->pairs : NULL;

    if (n == 0)
        return cabe_tpl_put_literal(out, is_dict ? "{}" : "[]");
    if (is_dict && form->sort && !sorted_pairs(out->run, value->dict, &pairs))
        return 0;
    if (!cabe_tpl_put_literal(out, is_dict ? "{" : "["))
        return 0;
    for (size_t i = 0; i < n; i++) {
        if ((i > 0 && !cabe_tpl_put_part(out, &form->comma, 0, form->comma.n)) ||
            !new_line(out, form, level + 1))
            return 0;
        if (is_dict ? !json_pair(out, &pairs[i], form, level + 1)
                    : !json_value(out, &value->list->items[i], form, level + 1))
            return 0;
    }
    return new_line(out, form, level) && cabe_tpl_put_literal(out, is_dict ? "}" : "]");
}

static int json_value(struct tpl_out *out, const struct tpl_value *value, const struct tpl_json_form *form,
                      int level)
{
    int ok;

    if (!cabe_tpl_step(out->run, 1))
        return 0;
    if (value->kind != TPL_LIST && value->kind != TPL_TUPLE && value->kind != TPL_DICT)
        return json_scalar(out, value, form);
    if (!cabe_tpl_enter(out->run))
        return 0;
    ok = json_container(out, value, form, level);
    out->run->depth--;
    return ok;
}

int cabe_tpl_json(struct tpl_out *out, const struct tpl_value *value, const struct tpl_json_form *form)
{
    return json_value(out, value, form, 0);
}
