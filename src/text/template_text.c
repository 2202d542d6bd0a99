/* Python's str, over UTF-8: lengths and indices count code points. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unicode/ucasemap.h>
#include <unicode/uchar.h>

#include "base/utf8.h"
#include "text/template_parts.h"

int cabe_tpl_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

uint32_t cabe_tpl_code(const char *s, size_t n, size_t at, size_t *bytes)
{
    const uint8_t *b = (const uint8_t *)s + at;

    *bytes = cabe_utf8_length(b, n - at);
    switch (*bytes) {
    case 2:
        return (b[0] & 31u) << 6 | (b[1] & 63u);
    case 3:
        return (b[0] & 15u) << 12 | (b[1] & 63u) << 6 | (b[2] & 63u);
    case 4:
        return (b[0] & 7u) << 18 | (b[1] & 63u) << 12 | (b[2] & 63u) << 6 | (b[3] & 63u);
    default:
        *bytes = 1;
        return b[0];
    }
}

/* The beginning of the character before `at`. */
static size_t before(const char *s, size_t at)
{
    at--;
    while (at > 0 && ((uint8_t)s[at] & 0xC0) == 0x80)
        at--;
    return at;
}

size_t cabe_tpl_text_length(const struct tpl_value *text)
{
    size_t n = 0;

    for (uint32_t i = 0; i < text->n; i++)
        n += ((uint8_t)text->s[i] & 0xC0) != 0x80;
    return n;
}

size_t cabe_tpl_text_byte(const struct tpl_value *text, size_t i)
{
    size_t at = 0;

    for (; at < text->n; at++)
        if (((uint8_t)text->s[at] & 0xC0) != 0x80 && i-- == 0)
            break;
    return at;
}

struct tpl_value cabe_tpl_text_part(const struct tpl_value *text, size_t begin, size_t end)
{
    return (struct tpl_value){.kind = TPL_TEXT,
                              .n = (uint32_t)(end - begin),
                              .s = text->s + begin,
                              .mark = text->mark ? text->mark + begin : NULL};
}

size_t cabe_tpl_text_find(const struct tpl_value *in, const struct tpl_value *what, size_t from)
{
    const char *found;

    if (from > in->n || in->n - from < what->n)
        return SIZE_MAX;
    if (what->n == 0)
        return from;
    found = memmem(in->s + from, in->n - from, what->s, what->n);
    return found ? (size_t)(found - in->s) : SIZE_MAX;
}

static size_t find_last(const struct tpl_value *in, const struct tpl_value *what, size_t end)
{
    for (size_t at = end >= what->n ? end - what->n + 1 : 0; at-- > 0;)
        if (memcmp(in->s + at, what->s, what->n) == 0)
            return at;
    return SIZE_MAX;
}

/* What find_last() can take, in steps. */
static uint64_t last_steps(const struct tpl_value *in, const struct tpl_value *what)
{
    return (uint64_t)in->n * (what->n / 64 + 1) / 16;
}

static int is_stripped(uint32_t c, const struct tpl_value *chars)
{
    size_t bytes;

    if (!chars)
        return cabe_tpl_is_space(c);
    for (size_t at = 0; at < chars->n; at += bytes)
        if (cabe_tpl_code(chars->s, chars->n, at, &bytes) == c)
            return 1;
    return 0;
}

struct tpl_value cabe_tpl_strip(const struct tpl_value *text, const struct tpl_value *chars, int sides)
{
    size_t begin = 0, end = text->n, bytes, last;

    while ((sides & TPL_LEFT) && begin < end &&
           is_stripped(cabe_tpl_code(text->s, end, begin, &bytes), chars))
        begin += bytes;
    while ((sides & TPL_RIGHT) && end > begin) {
        last = before(text->s, end);
        if (!is_stripped(cabe_tpl_code(text->s, end, last, &bytes), chars))
            break;
        end = last;
    }
    return cabe_tpl_text_part(text, begin, end);
}

/* ---- case ---- */

static int is_ascii(const struct tpl_value *text)
{
    for (uint32_t i = 0; i < text->n; i++)
        if ((uint8_t)text->s[i] >= 0x80)
            return 0;
    return 1;
}

static int any_mark(const struct tpl_value *text)
{
    return text->mark && memchr(text->mark, 1, text->n) != NULL;
}

/* All of it through ICU; from outside where any of it is. */
static int recase_whole(struct tpl_run *run, const struct tpl_value *text, int upper, struct tpl_value *out)
{
    UErrorCode status = U_ZERO_ERROR;
    UCaseMap *map = ucasemap_open("", 0, &status);
    int32_t room = (int32_t)(text->n < 0x10000000 ? text->n * 3 + 8 : 0x7FFFFFFF), n;
    char *s = cabe_tpl_new(run, (size_t)room, 1);
    uint8_t *mark = NULL;

    if (s && any_mark(text)) {
        mark = cabe_tpl_new(run, (size_t)room, 1);
        if (mark)
            memset(mark, 1, (size_t)room);
        else
            s = NULL;
    }
    if (!s || U_FAILURE(status)) {
        ucasemap_close(map);
        return s ? cabe_tpl_no_memory(run) : 0;
    }
    n = (upper ? ucasemap_utf8ToUpper : ucasemap_utf8ToLower)(map, s, room, text->s, (int32_t)text->n,
                                                              &status);
    ucasemap_close(map);
    if (U_FAILURE(status) && status != U_STRING_NOT_TERMINATED_WARNING)
        return cabe_tpl_fail(run, CABE_ERR_LIMIT, "a text of %u bytes is too long for another case", text->n);
    *out = (struct tpl_value){.kind = TPL_TEXT, .n = (uint32_t)n, .s = s, .mark = mark};
    return 1;
}

static size_t put_utf8(char *out, uint32_t c)
{
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const uint8_t lead[] = {0, 0, 0xC0, 0xE0, 0xF0};

    for (size_t i = n; i-- > 1; c >>= 6)
        out[i] = (char)(0x80 | (c & 63));
    out[0] = (char)(lead[n] | c);
    return n;
}

/* What a word begins behind, for the filter title. */
static int is_before_word(uint32_t c)
{
    return cabe_tpl_is_space(c) || (c < 0x80 && c != 0 && strchr("-({[<", (int)c) != NULL);
}

/* Character by character: words as str.title() has them, or the filter; or the first one only. */
static int recase_words(struct tpl_run *run, const struct tpl_value *text, enum tpl_case to,
                        struct tpl_value *out)
{
    struct tpl_out made = {.run = run};
    int inside = 0;
    size_t bytes;
    char s[4];

    for (size_t at = 0; at < text->n; at += bytes) {
        UChar32 c = (UChar32)cabe_tpl_code(text->s, text->n, at, &bytes);
        UChar32 other = inside ? u_tolower(c) : to == TPL_TITLE_FILTER ? u_toupper(c) : u_totitle(c);
        uint8_t mark[4];

        memset(mark, text->mark ? text->mark[at] : 0, sizeof mark);
        if (!cabe_tpl_put(&made, s, put_utf8(s, (uint32_t)other), text->mark ? mark : NULL))
            return 0;
        inside = to == TPL_CAPITALIZE     ? 1
                 : to == TPL_TITLE_FILTER ? !is_before_word((uint32_t)c)
                                          : u_hasBinaryProperty(c, UCHAR_CASED) != 0;
    }
    *out = cabe_tpl_taken(&made);
    return 1;
}

int cabe_tpl_recase(struct tpl_run *run, const struct tpl_value *text, enum tpl_case to,
                    struct tpl_value *out)
{
    char *s;

    if (!cabe_tpl_step(run, text->n / 16))
        return 0;
    if (to >= TPL_CAPITALIZE)
        return recase_words(run, text, to, out);
    if (!is_ascii(text))
        return recase_whole(run, text, to == TPL_UPPER, out);
    s = cabe_tpl_new(run, text->n, 1);
    if (!s)
        return 0;
    for (uint32_t i = 0; i < text->n; i++) {
        char c = text->s[i];

        s[i] = to == TPL_UPPER && c >= 'a' && c <= 'z'   ? (char)(c - 32)
               : to == TPL_LOWER && c >= 'A' && c <= 'Z' ? (char)(c + 32)
                                                         : c;
    }
    *out = (struct tpl_value){.kind = TPL_TEXT, .n = text->n, .s = s, .mark = text->mark};
    return 1;
}

/* ---- replacing, splitting, joining ---- */

int cabe_tpl_replace(struct tpl_run *run, const struct tpl_value *text, const struct tpl_value *old,
                     const struct tpl_value *with, int64_t n_max, struct tpl_value *out)
{
    struct tpl_out made = {.run = run};
    size_t at = 0, found = 0, bytes;

    for (int64_t i = 0; n_max < 0 || i < n_max; i++) {
        if (!cabe_tpl_step(run, 1))
            return 0;
        if (old->n == 0) { /* before each character, and at the end */
            if (i > 0) {
                if (at >= text->n)
                    break;
                cabe_tpl_code(text->s, text->n, at, &bytes);
                if (!cabe_tpl_put_part(&made, text, at, at + bytes))
                    return 0;
                at += bytes;
            }
        } else {
            found = cabe_tpl_text_find(text, old, at);
            if (found == SIZE_MAX)
                break;
            if (!cabe_tpl_put_part(&made, text, at, found))
                return 0;
            at = found + old->n;
        }
        if (!cabe_tpl_put_part(&made, with, 0, with->n))
            return 0;
    }
    if (!cabe_tpl_put_part(&made, text, at, text->n))
        return 0;
    *out = cabe_tpl_taken(&made);
    return cabe_tpl_step(run, text->n / 64);
}

static int add_part(struct tpl_run *run, struct tpl_list *list, size_t *room, const struct tpl_value *text,
                    size_t begin, size_t end)
{
    struct tpl_value part = cabe_tpl_text_part(text, begin, end);

    return cabe_tpl_step(run, 1) && cabe_tpl_list_add(run, list, room, &part);
}

static int split_at_space(struct tpl_run *run, const struct tpl_value *text, int64_t n_max,
                          struct tpl_list *list)
{
    size_t room = 0, at = 0, begin, bytes;

    for (;;) {
        while (at < text->n && cabe_tpl_is_space(cabe_tpl_code(text->s, text->n, at, &bytes)))
            at += bytes;
        if (at >= text->n)
            return 1;
        begin = at;
        if (n_max >= 0 && (int64_t)list->n >= n_max)
            return add_part(run, list, &room, text, begin, text->n);
        while (at < text->n && !cabe_tpl_is_space(cabe_tpl_code(text->s, text->n, at, &bytes)))
            at += bytes;
        if (!add_part(run, list, &room, text, begin, at))
            return 0;
    }
}

static void reverse(struct tpl_list *list)
{
    for (size_t i = 0; i < list->n / 2; i++) {
        struct tpl_value held = list->items[i];

        list->items[i] = list->items[list->n - 1 - i];
        list->items[list->n - 1 - i] = held;
    }
}

static int rsplit_at_space(struct tpl_run *run, const struct tpl_value *text, int64_t n_max,
                           struct tpl_list *list)
{
    struct tpl_value rest = cabe_tpl_strip(text, NULL, TPL_RIGHT);
    size_t room = 0;

    while (rest.n > 0) {
        size_t begin = rest.n, bytes;

        if (n_max >= 0 && (int64_t)list->n >= n_max)
            begin = 0;
        while (begin > 0) {
            size_t last = before(rest.s, begin);

            if (cabe_tpl_is_space(cabe_tpl_code(rest.s, rest.n, last, &bytes)))
                break;
            begin = last;
        }
        if (!add_part(run, list, &room, &rest, begin, rest.n))
            return 0;
        rest.n = (uint32_t)begin;
        rest = cabe_tpl_strip(&rest, NULL, TPL_RIGHT);
    }
    reverse(list);
    return 1;
}

static int split_at(struct tpl_run *run, const struct tpl_value *text, const struct tpl_value *separator,
                    int64_t n_max, int from_right, struct tpl_list *list)
{
    size_t room = 0, begin = 0, end = text->n, found;

    if (separator->n == 0)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "empty separator");
    if (from_right && !cabe_tpl_step(run, last_steps(text, separator)))
        return 0;
    while (n_max < 0 || (int64_t)list->n < n_max) {
        found = from_right ? find_last(text, separator, end) : cabe_tpl_text_find(text, separator, begin);
        if (found == SIZE_MAX)
            break;
        if (!add_part(run, list, &room, text, from_right ? found + separator->n : begin,
                      from_right ? end : found))
            return 0;
        if (from_right)
            end = found;
        else
            begin = found + separator->n;
    }
    if (!add_part(run, list, &room, text, begin, end))
        return 0;
    if (from_right)
        reverse(list);
    return 1;
}

/* ---- methods ---- */

struct call {
    struct tpl_run *run;
    const struct tpl_value *self;
    const struct tpl_args *args;
    struct tpl_value *out;
    const char *name;
    int flag;
};

static int wanted_text(struct call *c, const struct tpl_value *got)
{
    if (got->kind == TPL_UNDEFINED)
        return cabe_tpl_fail_undefined(c->run, got);
    return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "%s() wants a str, not %s", c->name, cabe_tpl_type(got));
}

/* Argument `index`: a text in *out, NULL where it is left out or None. */
static int text_arg(struct call *c, size_t index, const char *name, const struct tpl_value **out)
{
    const struct tpl_value *arg = cabe_tpl_arg(c->args, index, name);

    *out = arg && arg->kind != TPL_NONE ? arg : NULL;
    return !*out || arg->kind == TPL_TEXT ? 1 : wanted_text(c, arg);
}

static int needed_text(struct call *c, size_t index, const struct tpl_value **out)
{
    static const struct tpl_value none = {.kind = TPL_NONE};

    return text_arg(c, index, "", out) && (*out || wanted_text(c, &none));
}

static int int_arg(struct call *c, size_t index, const char *name, int64_t missing, int64_t *out)
{
    const struct tpl_value *arg = cabe_tpl_arg(c->args, index, name);

    *out = missing;
    if (!arg || (arg->kind == TPL_NONE && index > 0))
        return 1;
    if (arg->kind != TPL_INT && arg->kind != TPL_BOOL)
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "%s() wants an int, not %s", c->name,
                             cabe_tpl_type(arg));
    *out = arg->i;
    return 1;
}

static int do_case(struct call *c)
{
    return cabe_tpl_recase(c->run, c->self, (enum tpl_case)c->flag, c->out);
}

static int do_strip(struct call *c)
{
    const struct tpl_value *chars;

    if (!text_arg(c, 0, "", &chars) ||
        !cabe_tpl_step(c->run, (uint64_t)c->self->n / 16 * (chars ? chars->n : 1)))
        return 0;
    *c->out = cabe_tpl_strip(c->self, chars, c->flag);
    return 1;
}

static int do_split(struct call *c)
{
    const struct tpl_value *separator;
    int64_t n_max;

    if (!text_arg(c, 0, "sep", &separator) || !int_arg(c, 1, "maxsplit", -1, &n_max) ||
        !cabe_tpl_list(c->run, TPL_LIST, 0, c->out) || !cabe_tpl_step(c->run, (uint64_t)c->self->n / 16))
        return 0;
    if (separator)
        return split_at(c->run, c->self, separator, n_max, c->flag, c->out->list);
    return (c->flag ? rsplit_at_space : split_at_space)(c->run, c->self, n_max, c->out->list);
}

static int do_splitlines(struct call *c)
{
    const struct tpl_value *keep = cabe_tpl_arg(c->args, 0, "keepends");
    size_t room = 0, begin = 0, end, bytes;

    if (!cabe_tpl_list(c->run, TPL_LIST, 0, c->out) || !cabe_tpl_step(c->run, (uint64_t)c->self->n / 16))
        return 0;
    for (size_t at = 0; at < c->self->n;) {
        uint32_t code = cabe_tpl_code(c->self->s, c->self->n, at, &bytes);

        end = at;
        at += bytes;
        if (!((code >= 10 && code <= 13) || (code >= 0x1C && code <= 0x1E) || code == 0x85 ||
              code == 0x2028 || code == 0x2029))
            continue;
        if (code == '\r' && at < c->self->n && c->self->s[at] == '\n')
            at++;
        if (!add_part(c->run, c->out->list, &room, c->self, begin,
                      keep && cabe_tpl_truth(c->run, keep) ? at : end))
            return 0;
        begin = at;
    }
    return begin == c->self->n || add_part(c->run, c->out->list, &room, c->self, begin, c->self->n);
}

static int do_join(struct call *c)
{
    const struct tpl_value *of = cabe_tpl_arg(c->args, 0, "");
    struct tpl_out made = {.run = c->run};
    const struct tpl_list *items;

    if (!of)
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "join() wants a list");
    if (!cabe_tpl_items(c->run, of, &items))
        return 0;
    for (size_t i = 0; i < items->n; i++) {
        if (items->items[i].kind != TPL_TEXT)
            return wanted_text(c, &items->items[i]);
        if ((i > 0 && !cabe_tpl_put_part(&made, c->self, 0, c->self->n)) || !cabe_tpl_step(c->run, 1) ||
            !cabe_tpl_put_part(&made, &items->items[i], 0, items->items[i].n))
            return 0;
    }
    *c->out = cabe_tpl_taken(&made);
    return 1;
}

static int do_replace(struct call *c)
{
    const struct tpl_value *old, *with;
    int64_t n_max;

    return needed_text(c, 0, &old) && needed_text(c, 1, &with) && int_arg(c, 2, "count", -1, &n_max) &&
           cabe_tpl_replace(c->run, c->self, old, with, n_max, c->out);
}

static int has_end(const struct tpl_value *text, const struct tpl_value *part, int at_end)
{
    return part->n <= text->n && memcmp(text->s + (at_end ? text->n - part->n : 0), part->s, part->n) == 0;
}

static int do_ends(struct call *c)
{
    const struct tpl_value *arg = cabe_tpl_arg(c->args, 0, ""), *parts = arg;
    size_t n = 1;
    int holds = 0;

    if (arg && arg->kind == TPL_TUPLE) {
        parts = arg->list->items;
        n = arg->list->n;
    }
    if (!arg || c->args->n > 1)
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "%s() wants one argument", c->name);
    for (size_t i = 0; i < n; i++) {
        if (parts[i].kind != TPL_TEXT)
            return wanted_text(c, &parts[i]);
        holds |= has_end(c->self, &parts[i], c->flag);
    }
    *c->out = cabe_tpl_bool(holds);
    return cabe_tpl_step(c->run, n);
}

static int do_remove(struct call *c)
{
    const struct tpl_value *part;
    int has;

    if (!needed_text(c, 0, &part))
        return 0;
    has = has_end(c->self, part, c->flag);
    *c->out = cabe_tpl_text_part(c->self, has && !c->flag ? part->n : 0,
                                 c->self->n - (has && c->flag ? part->n : 0));
    return 1;
}

enum { FIND, FIND_LAST, INDEX, COUNT_OF };

static int do_find(struct call *c)
{
    const struct tpl_value *what;
    int64_t from, count = 0, at_code;
    size_t at, begin;

    if (!needed_text(c, 0, &what) || !int_arg(c, 1, "", 0, &from) ||
        !cabe_tpl_step(c->run, last_steps(c->self, what)))
        return 0;
    if (c->args->n > 2 || from < 0)
        return cabe_tpl_fail(c->run, CABE_ERR_UNSUPPORTED, "%s() with an end, or from the end", c->name);
    begin = cabe_tpl_text_byte(c->self, (size_t)from);
    if (c->flag == COUNT_OF) {
        if (what->n == 0)
            count = (int64_t)cabe_tpl_text_length(c->self) + 1;
        for (at = begin; what->n > 0 && (at = cabe_tpl_text_find(c->self, what, at)) != SIZE_MAX;
             at += what->n)
            count++;
        *c->out = cabe_tpl_int(count);
        return 1;
    }
    at = c->flag == FIND_LAST ? find_last(c->self, what, c->self->n)
                              : cabe_tpl_text_find(c->self, what, begin);
    if (at != SIZE_MAX && at < begin)
        at = SIZE_MAX;
    if (at == SIZE_MAX && c->flag == INDEX)
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "substring not found");
    at_code = at == SIZE_MAX
                  ? -1
                  : (int64_t)cabe_tpl_text_length(&(struct tpl_value){.s = c->self->s, .n = (uint32_t)at});
    *c->out = cabe_tpl_int(at_code);
    return 1;
}

static int do_partition(struct call *c)
{
    const struct tpl_value *separator;
    size_t at, n = c->self->n;

    if (!needed_text(c, 0, &separator) || !cabe_tpl_step(c->run, last_steps(c->self, separator)) ||
        !cabe_tpl_list(c->run, TPL_TUPLE, 3, c->out))
        return 0;
    if (separator->n == 0)
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "empty separator");
    at = c->flag ? find_last(c->self, separator, n) : cabe_tpl_text_find(c->self, separator, 0);
    c->out->list->n = 3;
    if (at == SIZE_MAX) {
        c->out->list->items[0] = cabe_tpl_text_part(c->self, 0, c->flag ? 0 : n);
        c->out->list->items[1] = cabe_tpl_literal("");
        c->out->list->items[2] = cabe_tpl_text_part(c->self, c->flag ? 0 : n, n);
        return 1;
    }
    c->out->list->items[0] = cabe_tpl_text_part(c->self, 0, at);
    c->out->list->items[1] = cabe_tpl_text_part(c->self, at, at + separator->n);
    c->out->list->items[2] = cabe_tpl_text_part(c->self, at + separator->n, n);
    return 1;
}

/* Whether every character (and at least one) is of a kind; for cases: no character of the other. */
static int do_is(struct call *c)
{
    int holds = c->self->n > 0, any = 0;
    size_t bytes;

    for (size_t at = 0; holds && at < c->self->n; at += bytes) {
        UChar32 code = (UChar32)cabe_tpl_code(c->self->s, c->self->n, at, &bytes);

        switch (c->flag) {
        case 'd':
            holds = u_isdigit(code) != 0;
            break;
        case 'a':
            holds = u_isalpha(code) != 0;
            break;
        case 'n':
            holds = u_isalpha(code) || u_isdigit(code);
            break;
        case 's':
            holds = cabe_tpl_is_space((uint32_t)code);
            break;
        case 'u':
            holds = !u_hasBinaryProperty(code, UCHAR_LOWERCASE);
            any |= u_hasBinaryProperty(code, UCHAR_UPPERCASE) != 0;
            break;
        default:
            holds = !u_hasBinaryProperty(code, UCHAR_UPPERCASE);
            any |= u_hasBinaryProperty(code, UCHAR_LOWERCASE) != 0;
        }
    }
    *c->out = cabe_tpl_bool(holds && (any || (c->flag != 'u' && c->flag != 'l')));
    return cabe_tpl_step(c->run, (uint64_t)c->self->n / 16);
}

static int put_fill(struct tpl_out *out, const struct tpl_value *fill, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!cabe_tpl_step(out->run, 1) || !cabe_tpl_put_part(out, fill, 0, fill->n))
            return 0;
    return 1;
}

static int do_pad(struct call *c)
{
    struct tpl_value blank = cabe_tpl_literal(c->flag == 'z' ? "0" : " ");
    const struct tpl_value *fill;
    struct tpl_out made = {.run = c->run};
    int64_t width, n, left, sign;

    if (!int_arg(c, 0, "", 0, &width) || !text_arg(c, 1, "", &fill))
        return 0;
    fill = fill ? fill : &blank;
    if (cabe_tpl_text_length(fill) != 1)
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT,
                             "the fill character must be exactly one character long");
    n = width - (int64_t)cabe_tpl_text_length(c->self);
    n = n > 0 ? n : 0;
    left = c->flag == 'l' ? 0 : c->flag == 'c' ? n / 2 + (n & width & 1) : n;
    sign = c->flag == 'z' && c->self->n > 0 && (c->self->s[0] == '-' || c->self->s[0] == '+');
    if (!cabe_tpl_put_part(&made, c->self, 0, (size_t)sign) || !put_fill(&made, fill, left) ||
        !cabe_tpl_put_part(&made, c->self, (size_t)sign, c->self->n) || !put_fill(&made, fill, n - left))
        return 0;
    *c->out = cabe_tpl_taken(&made);
    return 1;
}

/* One field of str.format(): name or number, then .attribute and [index]. */
static int format_field(struct call *c, struct tpl_out *made, struct tpl_value field, int64_t *next)
{
    struct tpl_value value, name;
    const struct tpl_value *arg = NULL;
    size_t at = 0, end;

    while (at < field.n && field.s[at] != '.' && field.s[at] != '[')
        at++;
    if (memchr(field.s, ':', field.n) || memchr(field.s, '!', field.n))
        return cabe_tpl_fail(c->run, CABE_ERR_UNSUPPORTED, "format() with a format in its fields");
    if (at == 0 || (field.s[0] >= '0' && field.s[0] <= '9')) {
        size_t index = at == 0 ? (size_t)(*next)++ : (size_t)strtoul(field.s, NULL, 10);

        arg = index < c->args->n ? &c->args->values[index] : NULL;
    } else {
        for (size_t i = 0; i < c->args->n_named; i++)
            if (c->args->named[i].key.n == at && memcmp(c->args->named[i].key.s, field.s, at) == 0)
                arg = &c->args->named[i].value;
    }
    if (!arg)
        return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "format() has no argument for a field");
    value = *arg;
    while (at < field.n) {
        int index = field.s[at] == '[';

        for (end = at + 1;
             end < field.n && (index ? field.s[end] != ']' : field.s[end] != '.' && field.s[end] != '[');)
            end++;
        name = cabe_tpl_text_part(&field, at + 1, end);
        if (index && name.n > 0 && name.s[0] >= '0' && name.s[0] <= '9')
            name = cabe_tpl_int(strtoll(name.s, NULL, 10));
        if (!(index ? cabe_tpl_item : cabe_tpl_attribute)(c->run, &value, &name, &value))
            return 0;
        at = end + (index && end < field.n);
    }
    return cabe_tpl_print(made, &value);
}

static int do_format(struct call *c)
{
    const struct tpl_value *self = c->self;
    struct tpl_out made = {.run = c->run};
    int64_t next = 0;

    for (size_t at = 0; at < self->n;) {
        const char *brace = self->s + at, *close;
        size_t end = at;

        while (end < self->n && self->s[end] != '{' && self->s[end] != '}')
            end++;
        if (!cabe_tpl_put_part(&made, self, at, end) || !cabe_tpl_step(c->run, 1))
            return 0;
        if (end == self->n)
            break;
        brace = self->s + end;
        if (end + 1 < self->n && brace[1] == *brace) {
            if (!cabe_tpl_put_part(&made, self, end, end + 1))
                return 0;
            at = end + 2;
            continue;
        }
        close = *brace == '{' ? memchr(brace, '}', self->n - end) : NULL;
        if (!close)
            return cabe_tpl_fail(c->run, CABE_ERR_FORMAT, "single '%c' encountered in format string", *brace);
        if (!format_field(c, &made, cabe_tpl_text_part(self, end + 1, (size_t)(close - self->s)), &next))
            return 0;
        at = (size_t)(close - self->s) + 1;
    }
    *c->out = cabe_tpl_taken(&made);
    return 1;
}

static const struct method {
    const char *name;
    int (*call)(struct call *);
    int flag;
    size_t n_max;
    const char *names[3];
} methods[] = {
    {"upper", do_case, TPL_UPPER, 0, {0}},
    {"lower", do_case, TPL_LOWER, 0, {0}},
    {"casefold", do_case, TPL_LOWER, 0, {0}},
    {"capitalize", do_case, TPL_CAPITALIZE, 0, {0}},
    {"title", do_case, TPL_TITLE, 0, {0}},
    {"strip", do_strip, TPL_BOTH, 1, {0}},
    {"lstrip", do_strip, TPL_LEFT, 1, {0}},
    {"rstrip", do_strip, TPL_RIGHT, 1, {0}},
    {"split", do_split, 0, 2, {"sep", "maxsplit"}},
    {"rsplit", do_split, 1, 2, {"sep", "maxsplit"}},
    {"splitlines", do_splitlines, 0, 1, {"keepends"}},
    {"join", do_join, 0, 1, {0}},
    {"replace", do_replace, 0, 3, {"count"}},
    {"startswith", do_ends, 0, 3, {0}},
    {"endswith", do_ends, 1, 3, {0}},
    {"removeprefix", do_remove, 0, 1, {0}},
    {"removesuffix", do_remove, 1, 1, {0}},
    {"find", do_find, FIND, 3, {0}},
    {"rfind", do_find, FIND_LAST, 3, {0}},
    {"index", do_find, INDEX, 3, {0}},
    {"count", do_find, COUNT_OF, 3, {0}},
    {"partition", do_partition, 0, 1, {0}},
    {"rpartition", do_partition, 1, 1, {0}},
    {"isdigit", do_is, 'd', 0, {0}},
    {"isdecimal", do_is, 'd', 0, {0}},
    {"isnumeric", do_is, 'd', 0, {0}},
    {"isalpha", do_is, 'a', 0, {0}},
    {"isalnum", do_is, 'n', 0, {0}},
    {"isspace", do_is, 's', 0, {0}},
    {"isupper", do_is, 'u', 0, {0}},
    {"islower", do_is, 'l', 0, {0}},
    {"center", do_pad, 'c', 2, {0}},
    {"ljust", do_pad, 'l', 2, {0}},
    {"rjust", do_pad, 'r', 2, {0}},
    {"zfill", do_pad, 'z', 1, {0}},
    {"format", do_format, 0, SIZE_MAX, {0}},
};

static const struct method *find_method(const struct tpl_value *name)
{
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (cabe_tpl_is_text(name, methods[i].name))
            return &methods[i];
    return NULL;
}

int cabe_tpl_has_text_method(const struct tpl_value *name)
{
    return find_method(name) != NULL;
}

int cabe_tpl_text_method(struct tpl_run *run, const struct tpl_value *self, const struct tpl_value *name,
                         const struct tpl_args *args, struct tpl_value *out)
{
    const struct method *method = find_method(name);
    struct tpl_value kept = *self; /* `out` may be where self is */
    struct call call = {run, &kept, args, out, method ? method->name : "", method ? method->flag : 0};

    if (!method)
        return cabe_tpl_fail(run, CABE_ERR_UNSUPPORTED, "a str method that is not supported");
    if (method->n_max != SIZE_MAX &&
        !cabe_tpl_check_args(run, args, method->name, method->n_max, method->names))
        return 0;
    return method->call(&call);
}

/* ---- "..." % values ---- */

struct directive {
    char flags[8];
    int width, precision; /* -1: none */
    char kind;
};

static int read_count(const struct tpl_value *s, size_t *at)
{
    int n = -1;

    while (*at < s->n && s->s[*at] >= '0' && s->s[*at] <= '9') {
        n = n > 100000000 ? n : (n < 0 ? 0 : n * 10) + (s->s[*at] - '0');
        ++*at;
    }
    return n;
}

static int percent_number(struct tpl_run *run, const struct directive *d, const struct tpl_value *value,
                          struct tpl_out *out)
{
    char format[48], text[512];
    double real = value->kind == TPL_FLOAT ? value->d : (double)value->i;
    int integer = strchr("diuxXo", d->kind) != NULL;

    if (value->kind == TPL_UNDEFINED)
        return cabe_tpl_fail_undefined(run, value);
    if (value->kind != TPL_INT && value->kind != TPL_BOOL && value->kind != TPL_FLOAT)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "%%%c format: a real number is required, not %s", d->kind,
                             cabe_tpl_type(value));
    if ((integer && value->kind == TPL_FLOAT && !(real > -9e18 && real < 9e18)) || d->width > 200 ||
        d->precision > 60 || (!integer && (real > 1e200 || real < -1e200)))
        return cabe_tpl_fail(run, CABE_ERR_UNSUPPORTED, "%%%c of such a width", d->kind);
    snprintf(format, sizeof format, "%%%s*.*%s%c", d->flags, integer ? "ll" : "", d->kind);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    if (integer)
        snprintf(text, sizeof text, format, d->width < 0 ? 0 : d->width, d->precision,
                 value->kind == TPL_FLOAT ? (long long)value->d : (long long)value->i);
    else
        snprintf(text, sizeof text, format, d->width < 0 ? 0 : d->width, d->precision, real);
#pragma GCC diagnostic pop
    return cabe_tpl_put_literal(out, text);
}

static int percent_text(struct tpl_run *run, const struct directive *d, const struct tpl_value *value,
                        struct tpl_out *out)
{
    struct tpl_out made = {.run = run};
    struct tpl_value text, blank = cabe_tpl_literal(" ");
    int64_t pad;

    if (!(d->kind == 'r' ? cabe_tpl_repr : cabe_tpl_print)(&made, value))
        return 0;
    text = cabe_tpl_taken(&made);
    if (d->precision >= 0)
        text.n = (uint32_t)cabe_tpl_text_byte(&text, (size_t)d->precision);
    pad = d->width - (int64_t)cabe_tpl_text_length(&text);
    return (strchr(d->flags, '-') || put_fill(out, &blank, pad)) &&
           cabe_tpl_put_part(out, &text, 0, text.n) && (!strchr(d->flags, '-') || put_fill(out, &blank, pad));
}

/* Behind "%": the directive, and the value it takes. */
static int read_directive(struct tpl_run *run, const struct tpl_value *s, size_t *at, struct directive *d,
                          const struct tpl_value *values, size_t *next, const struct tpl_value **value)
{
    size_t n_flags = 0, begin;
    int ok = 1;

    *d = (struct directive){.width = -1, .precision = -1};
    *value = NULL;
    if (*at < s->n && s->s[*at] == '(') {
        struct tpl_value key;

        for (begin = ++*at; *at < s->n && s->s[*at] != ')';)
            ++*at;
        key = cabe_tpl_text_part(s, begin, *at);
        *value = values->kind == TPL_DICT ? cabe_tpl_dict_get(run, values->dict, &key, &ok) : NULL;
        if (!*value)
            return ok && cabe_tpl_fail(run, CABE_ERR_FORMAT, "a format asks for a key that is not there");
        *at += *at < s->n;
    }
    while (*at < s->n && s->s[*at] && strchr("-+ 0#", s->s[*at]) && n_flags < sizeof d->flags - 1)
        d->flags[n_flags++] = s->s[(*at)++];
    d->width = read_count(s, at);
    if (*at < s->n && s->s[*at] == '.') {
        ++*at;
        d->precision = read_count(s, at);
        d->precision = d->precision < 0 ? 0 : d->precision;
    }
    if (*at >= s->n)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "incomplete format");
    d->kind = s->s[(*at)++];
    if (d->kind == '%' || *value)
        return 1;
    if (values->kind == TPL_TUPLE ? *next >= values->list->n : *next > 0)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "not enough arguments for format string");
    *value = values->kind == TPL_TUPLE ? &values->list->items[*next] : values;
    ++*next;
    return 1;
}

int cabe_tpl_percent(struct tpl_run *run, const struct tpl_value *format, const struct tpl_value *values,
                     struct tpl_value *out)
{
    struct tpl_out made = {.run = run};
    const struct tpl_value *value;
    struct directive d;
    size_t next = 0, at = 0;

    while (at < format->n) {
        const char *percent = memchr(format->s + at, '%', format->n - at);
        size_t end = percent ? (size_t)(percent - format->s) : format->n;
        int ok;

        if (!cabe_tpl_put_part(&made, format, at, end) || !cabe_tpl_step(run, 1))
            return 0;
        at = end + 1;
        if (!percent)
            break;
        if (!read_directive(run, format, &at, &d, values, &next, &value))
            return 0;
        if (d.kind == '%')
            ok = cabe_tpl_put_literal(&made, "%");
        else if (d.kind == 's' || d.kind == 'r')
            ok = percent_text(run, &d, value, &made);
        else if (d.kind && strchr("diuxXofFeEgG", d.kind))
            ok = percent_number(run, &d, value, &made);
        else
            ok = cabe_tpl_fail(run, CABE_ERR_FORMAT, "unsupported format character in a format");
        if (!ok)
            return 0;
    }
    if (values->kind == TPL_TUPLE ? next < values->list->n
                                  : next == 0 && values->kind != TPL_DICT && values->kind != TPL_LIST &&
                                        values->kind != TPL_UNDEFINED)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "not all arguments converted during string formatting");
    *out = cabe_tpl_taken(&made);
    return 1;
}
