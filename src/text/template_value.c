/* What templates compute with: Python's values, as far as templates meet them. */
#include <stdio.h>
#include <string.h>

#include "text/template_parts.h"

struct tpl_value cabe_tpl_literal(const char *text)
{
    return (struct tpl_value){.kind = TPL_TEXT, .n = (uint32_t)strlen(text), .s = text};
}

struct tpl_value cabe_tpl_bool(int b)
{
    return (struct tpl_value){.kind = TPL_BOOL, .i = b != 0};
}

struct tpl_value cabe_tpl_int(int64_t i)
{
    return (struct tpl_value){.kind = TPL_INT, .i = i};
}

int cabe_tpl_is_text(const struct tpl_value *value, const char *text)
{
    return value->kind == TPL_TEXT && strlen(text) == value->n && memcmp(value->s, text, value->n) == 0;
}

int cabe_tpl_undefined(struct tpl_run *run, const char *of, struct tpl_value name, struct tpl_value *out)
{
    struct tpl_missing *missing = cabe_tpl_new(run, 1, sizeof *missing);

    if (!missing)
        return 0;
    *missing = (struct tpl_missing){.of = of, .name = name};
    *out = (struct tpl_value){.kind = TPL_UNDEFINED, .missing = missing};
    return 1;
}

int cabe_tpl_fail_undefined(struct tpl_run *run, const struct tpl_value *value)
{
    const struct tpl_missing *m = value->missing;
    char name[80] = "";

    if (!m)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "an undefined value is used");
    if (m->hint)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "%s", m->hint);
    if (m->name.kind == TPL_TEXT) {
        size_t n = m->name.n < 70 ? m->name.n : 70;

        while (n > 0 && n < m->name.n && ((uint8_t)m->name.s[n] & 0xC0) == 0x80)
            n--;
        snprintf(name, sizeof name, "%.*s", (int)n, m->name.s);
    } else if (m->name.kind == TPL_INT) {
        snprintf(name, sizeof name, "%lld", (long long)m->name.i);
    }
    if (!m->of)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "'%s' is undefined", name);
    return cabe_tpl_fail(run, CABE_ERR_FORMAT,
                         m->name.kind == TPL_TEXT ? "'%s' has no attribute '%s'" : "'%s' has no element %s",
                         m->of, name);
}

static const char *const type_names[][2] = {
    [TPL_UNDEFINED] = {"Undefined", "Undefined object"},
    [TPL_NONE] = {"NoneType", "None"},
    [TPL_BOOL] = {"bool", "bool object"},
    [TPL_INT] = {"int", "int object"},
    [TPL_FLOAT] = {"float", "float object"},
    [TPL_TEXT] = {"str", "str object"},
    [TPL_LIST] = {"list", "list object"},
    [TPL_TUPLE] = {"tuple", "tuple object"},
    [TPL_ITER] = {"generator", "generator object"},
    [TPL_DICT] = {"dict", "dict object"},
    [TPL_SPACE] = {"Namespace", "jinja2.utils.Namespace object"},
    [TPL_MACRO] = {"Macro", "jinja2.runtime.Macro object"},
    [TPL_GLOBAL] = {"function", "function object"},
    [TPL_METHOD] = {"builtin_function_or_method", "builtin_function_or_method object"},
    [TPL_LOOP] = {"LoopContext", "jinja2.runtime.LoopContext object"},
};

const char *cabe_tpl_type(const struct tpl_value *value)
{
    return type_names[value->kind][0];
}

const char *cabe_tpl_object(const struct tpl_value *value)
{
    return type_names[value->kind][1];
}

/* ---- lists and dicts ---- */

int cabe_tpl_list(struct tpl_run *run, enum tpl_kind kind, size_t room, struct tpl_value *out)
{
    struct tpl_list *list = cabe_tpl_new(run, 1, sizeof *list);

    if (!list)
        return 0;
    list->items = cabe_tpl_new(run, room, sizeof *list->items);
    *out = (struct tpl_value){.kind = (uint8_t)kind, .list = list};
    return list->items != NULL;
}

int cabe_tpl_list_add(struct tpl_run *run, struct tpl_list *list, size_t *room, const struct tpl_value *item)
{
    if (list->n == *room) {
        size_t wanted = *room < 8 ? 8 : *room * 2;
        struct tpl_value *items =
            cabe_tpl_grow(&run->memory, list->items, *room * sizeof *items, wanted * sizeof *items);

        if (!items)
            return cabe_tpl_no_memory(run);
        list->items = items;
        *room = wanted;
    }
    list->items[list->n++] = *item;
    return 1;
}

int cabe_tpl_dict(struct tpl_run *run, enum tpl_kind kind, size_t room, struct tpl_value *out)
{
    struct tpl_dict *dict = cabe_tpl_new(run, 1, sizeof *dict);

    if (!dict)
        return 0;
    dict->room = room;
    dict->pairs = cabe_tpl_new(run, room, sizeof *dict->pairs);
    *out = (struct tpl_value){.kind = (uint8_t)kind, .dict = dict};
    return dict->pairs != NULL;
}

static int is_number(const struct tpl_value *v)
{
    return v->kind == TPL_BOOL || v->kind == TPL_INT || v->kind == TPL_FLOAT;
}

static double as_double(const struct tpl_value *v)
{
    return v->kind == TPL_FLOAT ? v->d : (double)v->i;
}

const struct tpl_value *cabe_tpl_dict_get(struct tpl_run *run, const struct tpl_dict *dict,
                                          const struct tpl_value *key, int *ok)
{
    *ok = cabe_tpl_step(run, dict->n / 8);
    if (*ok && (key->kind == TPL_LIST || key->kind == TPL_DICT || key->kind == TPL_SPACE))
        *ok = cabe_tpl_fail(run, CABE_ERR_FORMAT, "unhashable type: '%s'", cabe_tpl_type(key));
    for (size_t i = 0; *ok && i < dict->n; i++) {
        const struct tpl_value *other = &dict->pairs[i].key;
        int equal;

        if (key->kind == TPL_TEXT) {
            if (other->kind == TPL_TEXT && other->n == key->n && memcmp(other->s, key->s, key->n) == 0)
                return &dict->pairs[i].value;
            continue;
        }
        *ok = cabe_tpl_equal(run, other, key, &equal);
        if (*ok && equal)
            return &dict->pairs[i].value;
    }
    return NULL;
}

int cabe_tpl_dict_set(struct tpl_run *run, struct tpl_dict *dict, const struct tpl_value *key,
                      const struct tpl_value *value)
{
    int ok;
    struct tpl_value *found = (struct tpl_value *)(uintptr_t)cabe_tpl_dict_get(run, dict, key, &ok);

    if (!ok)
        return 0;
    if (found) {
        *found = *value;
        return 1;
    }
    if (dict->n == dict->room) {
        size_t room = dict->room < 4 ? 4 : dict->room * 2;
        struct tpl_pair *pairs =
            cabe_tpl_grow(&run->memory, dict->pairs, dict->room * sizeof *pairs, room * sizeof *pairs);

        if (!pairs)
            return cabe_tpl_no_memory(run);
        dict->pairs = pairs;
        dict->room = room;
    }
    dict->pairs[dict->n++] = (struct tpl_pair){*key, *value};
    return 1;
}

/* ---- questions ---- */

int cabe_tpl_truth(struct tpl_run *run, const struct tpl_value *value)
{
    (void)run;
    switch (value->kind) {
    case TPL_UNDEFINED:
    case TPL_NONE:
        return 0;
    case TPL_BOOL:
    case TPL_INT:
        return value->i != 0;
    case TPL_FLOAT:
        return value->d != 0;
    case TPL_TEXT:
        return value->n > 0;
    case TPL_LIST:
    case TPL_TUPLE:
        return value->list->n > 0;
    case TPL_DICT:
        return value->dict->n > 0;
    case TPL_LOOP:
        return value->loop->items->n > 0;
    default:
        return 1;
    }
}

static int equal_lists(struct tpl_run *run, const struct tpl_list *a, const struct tpl_list *b, int *equal)
{
    *equal = a->n == b->n;
    for (size_t i = 0; *equal && i < a->n; i++)
        if (!cabe_tpl_equal(run, &a->items[i], &b->items[i], equal))
            return 0;
    return 1;
}

static int equal_dicts(struct tpl_run *run, const struct tpl_dict *a, const struct tpl_dict *b, int *equal)
{
    *equal = a->n == b->n;
    for (size_t i = 0; *equal && i < a->n; i++) {
        int ok;
        const struct tpl_value *other = cabe_tpl_dict_get(run, b, &a->pairs[i].key, &ok);

        *equal = other != NULL;
        if (!ok || (other && !cabe_tpl_equal(run, &a->pairs[i].value, other, equal)))
            return 0;
    }
    return 1;
}

int cabe_tpl_equal(struct tpl_run *run, const struct tpl_value *a, const struct tpl_value *b, int *equal)
{
    int ok;

    *equal = 0;
    if (is_number(a) && is_number(b)) {
        *equal = a->kind == TPL_FLOAT || b->kind == TPL_FLOAT ? as_double(a) == as_double(b) : a->i == b->i;
        return 1;
    }
    if (a->kind != b->kind)
        return 1;
    switch (a->kind) {
    case TPL_UNDEFINED:
    case TPL_NONE:
        *equal = 1;
        return 1;
    case TPL_TEXT:
        *equal = a->n == b->n && memcmp(a->s, b->s, a->n) == 0;
        return cabe_tpl_step(run, a->n / 64);
    case TPL_LIST:
    case TPL_TUPLE:
    case TPL_DICT:
        if (!cabe_tpl_step(run, 1) || !cabe_tpl_enter(run))
            return 0;
        ok = a->kind == TPL_DICT ? equal_dicts(run, a->dict, b->dict, equal)
                                 : equal_lists(run, a->list, b->list, equal);
        run->depth--;
        return ok;
    case TPL_GLOBAL:
        *equal = a->i == b->i;
        return 1;
    default:
        *equal = a->list == b->list;
        return 1;
    }
}

static int order_lists(struct tpl_run *run, const struct tpl_list *a, const struct tpl_list *b,
                       const char *op, int *order)
{
    for (size_t i = 0; i < a->n && i < b->n; i++) {
        int equal;

        if (!cabe_tpl_equal(run, &a->items[i], &b->items[i], &equal))
            return 0;
        if (!equal)
            return cabe_tpl_order(run, &a->items[i], &b->items[i], op, order);
    }
    *order = a->n < b->n ? -1 : a->n > b->n;
    return 1;
}

int cabe_tpl_order(struct tpl_run *run, const struct tpl_value *a, const struct tpl_value *b, const char *op,
                   int *order)
{
    int ok;

    if (is_number(a) && is_number(b)) {
        if (a->kind == TPL_FLOAT || b->kind == TPL_FLOAT)
            *order = as_double(a) < as_double(b)    ? -1
                     : as_double(a) > as_double(b)  ? 1
                     : as_double(a) == as_double(b) ? 0
                                                    : 2;
        else
            *order = a->i < b->i ? -1 : a->i > b->i;
        return 1;
    }
    if (a->kind == TPL_TEXT && b->kind == TPL_TEXT) {
        *order = memcmp(a->s, b->s, a->n < b->n ? a->n : b->n); /* UTF-8 orders as code points do */
        *order = *order != 0 ? (*order > 0 ? 1 : -1) : a->n < b->n ? -1 : a->n > b->n;
        return cabe_tpl_step(run, a->n / 64);
    }
    if ((a->kind == TPL_LIST || a->kind == TPL_TUPLE) && a->kind == b->kind) {
        if (!cabe_tpl_step(run, 1) || !cabe_tpl_enter(run))
            return 0;
        ok = order_lists(run, a->list, b->list, op, order);
        run->depth--;
        return ok;
    }
    if (a->kind == TPL_UNDEFINED || b->kind == TPL_UNDEFINED)
        return cabe_tpl_fail_undefined(run, a->kind == TPL_UNDEFINED ? a : b);
    return cabe_tpl_fail(run, CABE_ERR_FORMAT, "'%s' not supported between instances of '%s' and '%s'", op,
                         cabe_tpl_type(a), cabe_tpl_type(b));
}

int cabe_tpl_contains(struct tpl_run *run, const struct tpl_value *in, const struct tpl_value *item,
                      int *found)
{
    const struct tpl_list *items;
    int ok;

    *found = 0;
    if (in->kind == TPL_TEXT) {
        if (item->kind != TPL_TEXT)
            return cabe_tpl_fail(run, CABE_ERR_FORMAT,
                                 "'in <string>' requires string as left operand, not %s",
                                 cabe_tpl_type(item));
        *found = cabe_tpl_text_find(in, item, 0) != SIZE_MAX;
        return cabe_tpl_step(run, in->n / 32);
    }
    if (in->kind == TPL_DICT) {
        *found = cabe_tpl_dict_get(run, in->dict, item, &ok) != NULL;
        return ok;
    }
    if (in->kind != TPL_LIST && in->kind != TPL_TUPLE && in->kind != TPL_ITER && in->kind != TPL_UNDEFINED)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "argument of type '%s' is not iterable",
                             cabe_tpl_type(in));
    if (!cabe_tpl_items(run, in, &items) || !cabe_tpl_step(run, items->n / 8))
        return 0;
    for (size_t i = 0; !*found && i < items->n; i++)
        if (!cabe_tpl_equal(run, &items->items[i], item, found))
            return 0;
    return 1;
}

int cabe_tpl_length(struct tpl_run *run, const struct tpl_value *value, int64_t *length)
{
    switch (value->kind) {
    case TPL_UNDEFINED:
        *length = 0;
        return 1;
    case TPL_TEXT:
        *length = (int64_t)cabe_tpl_text_length(value);
        return cabe_tpl_step(run, value->n / 64);
    case TPL_LIST:
    case TPL_TUPLE:
        *length = (int64_t)value->list->n;
        return 1;
    case TPL_DICT:
        *length = (int64_t)value->dict->n;
        return 1;
    case TPL_LOOP:
        *length = (int64_t)value->loop->items->n;
        return 1;
    default:
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "object of type '%s' has no len()", cabe_tpl_type(value));
    }
}

/* The characters of a text, or the keys of a dict. */
static int spread(struct tpl_run *run, const struct tpl_value *value, const struct tpl_list **out)
{
    struct tpl_value made;
    size_t n = value->kind == TPL_TEXT ? cabe_tpl_text_length(value) : value->dict->n, at = 0, bytes;

    if (!cabe_tpl_step(run, n / 8) || !cabe_tpl_list(run, TPL_LIST, n, &made))
        return 0;
    for (size_t i = 0; i < n; i++) {
        if (value->kind == TPL_DICT) {
            made.list->items[i] = value->dict->pairs[i].key;
            continue;
        }
        cabe_tpl_code(value->s, value->n, at, &bytes);
        made.list->items[i] = cabe_tpl_text_part(value, at, at + bytes);
        at += bytes;
    }
    made.list->n = n;
    *out = made.list;
    return 1;
}

int cabe_tpl_items(struct tpl_run *run, const struct tpl_value *value, const struct tpl_list **out)
{
    static const struct tpl_list none = {0, 0, NULL};
    struct tpl_list *rest;

    switch (value->kind) {
    case TPL_UNDEFINED:
        *out = &none;
        return 1;
    case TPL_LIST:
    case TPL_TUPLE:
        *out = value->list;
        return 1;
    case TPL_ITER:
        rest = cabe_tpl_new(run, 1, sizeof *rest);
        if (!rest)
            return 0;
        *rest = (struct tpl_list){.n = value->list->n - value->list->next,
                                  .items = value->list->items + value->list->next};
        value->list->next = value->list->n;
        *out = rest;
        return 1;
    case TPL_TEXT:
    case TPL_DICT:
        return spread(run, value, out);
    default:
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "'%s' object is not iterable", cabe_tpl_type(value));
    }
}

/* ---- from JSON ---- */

/* A role is used to build control tokens; one that is a plain word can build no other than was meant. */
static int is_plain_word(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') || (s[i] >= '0' && s[i] <= '9') ||
              s[i] == '_' || s[i] == '-'))
            return 0;
    return n > 0 && n <= 64;
}

static int mark(struct tpl_run *run, struct tpl_value *text)
{
    if (text->n > run->n_ones) {
        size_t n = text->n < 4096 ? 4096 : text->n;
        uint8_t *ones = cabe_tpl_new(run, n, 1);

        if (!ones)
            return 0;
        memset(ones, 1, n);
        run->ones = ones;
        run->n_ones = n;
    }
    text->mark = run->ones;
    return 1;
}

static int object_from_json(struct tpl_run *run, const json_t *json, int outside, struct tpl_value *out)
{
    const char *key;
    size_t key_bytes;
    json_t *item;

    if (!cabe_tpl_dict(run, TPL_DICT, json_object_size(json), out))
        return 0;
    json_object_keylen_foreach((json_t *)(uintptr_t)json, key, key_bytes, item)
    {
        struct tpl_pair *pair = &out->dict->pairs[out->dict->n];
        int trusted = outside && key_bytes == 4 && memcmp(key, "role", 4) == 0 && json_is_string(item) &&
                      is_plain_word(json_string_value(item), json_string_length(item));

        pair->key = (struct tpl_value){.kind = TPL_TEXT, .n = (uint32_t)key_bytes, .s = key};
        if ((outside && !mark(run, &pair->key)) ||
            !cabe_tpl_from_json(run, item, outside && !trusted, &pair->value))
            return 0;
        out->dict->n++;
    }
    return 1;
}

static int array_from_json(struct tpl_run *run, const json_t *json, int outside, struct tpl_value *out)
{
    size_t n = json_array_size(json);

    if (!cabe_tpl_list(run, TPL_LIST, n, out))
        return 0;
    for (size_t i = 0; i < n; i++, out->list->n++)
        if (!cabe_tpl_from_json(run, json_array_get(json, i), outside, &out->list->items[i]))
            return 0;
    return 1;
}

int cabe_tpl_from_json(struct tpl_run *run, const json_t *json, int outside, struct tpl_value *out)
{
    int ok;

    switch (json_typeof(json)) {
    case JSON_NULL:
        *out = (struct tpl_value){.kind = TPL_NONE};
        return 1;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = cabe_tpl_bool(json_is_true(json));
        return 1;
    case JSON_INTEGER:
        *out = cabe_tpl_int(json_integer_value(json));
        return 1;
    case JSON_REAL:
        *out = (struct tpl_value){.kind = TPL_FLOAT, .d = json_real_value(json)};
        return 1;
    case JSON_STRING:
        if (json_string_length(json) > run->limits.output_bytes || json_string_length(json) > INT32_MAX)
            return cabe_tpl_fail(run, CABE_ERR_LIMIT, "a text of %zu bytes, at most %llu",
                                 json_string_length(json), (unsigned long long)run->limits.output_bytes);
        *out = (struct tpl_value){
            .kind = TPL_TEXT, .n = (uint32_t)json_string_length(json), .s = json_string_value(json)};
        return outside ? mark(run, out) : 1;
    default:
        if (!cabe_tpl_step(run, 1) || !cabe_tpl_enter(run))
            return 0;
        ok = json_is_object(json) ? object_from_json(run, json, outside, out)
                                  : array_from_json(run, json, outside, out);
        run->depth--;
        return ok;
    }
}
