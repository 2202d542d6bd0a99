/* What is called: arguments, the built-in functions, and methods of dicts, lists and loops. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "text/template_parts.h"

#define RANGE_MAX 100000 /* the sandbox's */

static int is_int(const struct tpl_value *v)
{
    return v->kind == TPL_INT || v->kind == TPL_BOOL;
}

static int spread_args(struct tpl_run *run, const struct tpl_node *node, const struct tpl_value *value,
                       struct tpl_args *args, size_t room[2])
{
    const struct tpl_list *items;
    struct tpl_list list = {.n = args->n, .items = args->values};

    if (node->op == 1) {
        if (!cabe_tpl_items(run, value, &items))
            return 0;
        for (size_t i = 0; i < items->n; i++)
            if (!cabe_tpl_step(run, 1) || !cabe_tpl_list_add(run, &list, &room[0], &items->items[i]))
                return 0;
        args->values = list.items;
        args->n = list.n;
        return 1;
    }
    if (value->kind != TPL_DICT)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "argument after ** must be a mapping, not %s",
                             cabe_tpl_type(value));
    if (args->n_named + value->dict->n > room[1]) {
        size_t wanted = args->n_named + value->dict->n + 8;
        struct tpl_pair *named = cabe_tpl_new(run, wanted, sizeof *named);

        if (!named)
            return 0;
        memcpy(named, args->named, args->n_named * sizeof *named);
        args->named = named;
        room[1] = wanted;
    }
    memcpy(args->named + args->n_named, value->dict->pairs, value->dict->n * sizeof *args->named);
    args->n_named += value->dict->n;
    return cabe_tpl_step(run, value->dict->n);
}

int cabe_tpl_eval_args(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *nodes,
                       struct tpl_args *args)
{
    size_t room[2] = {0, 1}; /* of values; of named, one for a caller */
    struct tpl_value value;

    for (const struct tpl_node *n = nodes; n; n = n->next)
        room[n->type == TPL_KEYWORD]++;
    *args = (struct tpl_args){.values = cabe_tpl_new(run, room[0], sizeof *args->values),
                              .named = cabe_tpl_new(run, room[1], sizeof *args->named)};
    if (!args->values || !args->named)
        return 0;
    for (const struct tpl_node *n = nodes; n; n = n->next) {
        if (n->type == TPL_SPREAD) {
            if (!cabe_tpl_eval(run, scope, n->a, &value) || !spread_args(run, n, &value, args, room))
                return 0;
        } else if (n->type == TPL_KEYWORD) {
            if (!cabe_tpl_eval(run, scope, n->a, &value))
                return 0;
            args->named[args->n_named].key = n->value;
            args->named[args->n_named++].value = value;
        } else {
            struct tpl_list list = {.n = args->n, .items = args->values};

            if (!cabe_tpl_eval(run, scope, n, &value) || !cabe_tpl_list_add(run, &list, &room[0], &value))
                return 0;
            args->values = list.items;
            args->n = list.n;
        }
    }
    return 1;
}

static int call_range(struct tpl_run *run, const struct tpl_args *args, struct tpl_value *out)
{
    int64_t bound[3] = {0, 0, 1}, n;

    if (args->n < 1 || args->n > 3 || args->n_named)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "range() wants 1 to 3 arguments, not %zu", args->n);
    for (size_t i = 0; i < args->n; i++) {
        if (args->values[i].kind == TPL_UNDEFINED)
            return cabe_tpl_fail_undefined(run, &args->values[i]);
        if (!is_int(&args->values[i]))
            return cabe_tpl_fail(run, CABE_ERR_FORMAT, "'%s' object cannot be interpreted as an integer",
                                 cabe_tpl_type(&args->values[i]));
        bound[args->n == 1 ? 1 : i] = args->values[i].i;
        if (args->values[i].i > INT64_MAX / 4 || args->values[i].i < INT64_MIN / 4)
            return cabe_tpl_fail(run, CABE_ERR_FORMAT, "a range of such numbers");
    }
    if (bound[2] == 0)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "range() arg 3 must not be zero");
    n = bound[2] > 0 ? (bound[1] - bound[0] + bound[2] - 1) / bound[2]
                     : (bound[0] - bound[1] - bound[2] - 1) / -bound[2];
    n = n < 0 ? 0 : n;
    if (n > RANGE_MAX)
        return cabe_tpl_fail(run, CABE_ERR_LIMIT, "a range of %lld items, at most %d", (long long)n,
                             RANGE_MAX);
    if (!cabe_tpl_step(run, (uint64_t)n / 8) || !cabe_tpl_list(run, TPL_LIST, (size_t)n, out))
        return 0;
    for (int64_t i = 0; i < n; i++)
        out->list->items[i] = cabe_tpl_int(bound[0] + i * bound[2]);
    out->list->n = (size_t)n;
    return 1;
}

/* dict() and namespace(): from a mapping or pairs, and names. */
static int call_dict(struct tpl_run *run, enum tpl_kind kind, const struct tpl_args *args,
                     struct tpl_value *out)
{
    const struct tpl_list *items = NULL;

    if (args->n > 1)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "dict expected at most 1 argument, got %zu", args->n);
    if (!cabe_tpl_dict(run, kind, 0, out))
        return 0;
    if (args->n == 1 && args->values[0].kind == TPL_DICT) {
        const struct tpl_dict *from = args->values[0].dict;

        for (size_t i = 0; i < from->n; i++)
            if (!cabe_tpl_dict_set(run, out->dict, &from->pairs[i].key, &from->pairs[i].value))
                return 0;
    } else if (args->n == 1) {
        if (!cabe_tpl_items(run, &args->values[0], &items))
            return 0;
        for (size_t i = 0; i < items->n; i++) {
            const struct tpl_list *pair;

            if (!cabe_tpl_items(run, &items->items[i], &pair))
                return 0;
            if (pair->n != 2)
                return cabe_tpl_fail(run, CABE_ERR_FORMAT, "dict() wants pairs, not %zu items", pair->n);
            if (!cabe_tpl_dict_set(run, out->dict, &pair->items[0], &pair->items[1]))
                return 0;
        }
    }
    for (size_t i = 0; i < args->n_named; i++) {
        if (kind == TPL_SPACE && args->named[i].key.n > 0 && args->named[i].key.s[0] == '_')
            return cabe_tpl_fail(run, CABE_ERR_FORMAT,
                                 "a namespace attribute that begins with an underscore");
        if (!cabe_tpl_dict_set(run, out->dict, &args->named[i].key, &args->named[i].value))
            return 0;
    }
    return 1;
}

static int call_strftime(struct tpl_run *run, const struct tpl_args *args, struct tpl_value *out)
{
    time_t now = run->limits.now ? (time_t)run->limits.now : time(NULL);
    char format[256], text[512];
    struct tm parts;

    if (args->n != 1 || args->values[0].kind != TPL_TEXT || args->values[0].n >= sizeof format)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "strftime_now() wants a format");
    memcpy(format, args->values[0].s, args->values[0].n);
    format[args->values[0].n] = '\0';
    if (!localtime_r(&now, &parts))
        return cabe_tpl_fail(run, CABE_ERR_INTERNAL, "the time cannot be told");
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    if (strftime(text, sizeof text, format, &parts) == 0)
        text[0] = '\0';
#pragma GCC diagnostic pop
    struct tpl_out made = {.run = run};

    if (!cabe_tpl_put_literal(&made, text))
        return 0;
    *out = cabe_tpl_taken(&made);
    return 1;
}

static int call_raise(struct tpl_run *run, const struct tpl_args *args)
{
    struct tpl_value text = cabe_tpl_literal("");

    if (args->n > 0 && !cabe_tpl_text_of(run, &args->values[0], &text))
        return 0;
    run->status = cabe_fail(run->err, CABE_ERR_ARGUMENT, "%s: %.*s", run->template->name,
                            (int)(text.n < 400 ? text.n : 400), text.s);
    return 0;
}

static int call_loop_method(struct tpl_run *run, const struct tpl_method *m, const struct tpl_args *args,
                            struct tpl_value *out)
{
    struct tpl_loop *loop = m->self.loop;
    int same = 0;

    if (cabe_tpl_is_text(&m->name, "cycle")) {
        if (args->n == 0)
            return cabe_tpl_fail(run, CABE_ERR_FORMAT, "no items for cycling given");
        *out = args->values[loop->index % args->n];
        return 1;
    }
    if (loop->changed && loop->changed->n == args->n)
        for (size_t i = 0; i < args->n || (same = 1, 0); i++) {
            int equal;

            if (!cabe_tpl_equal(run, &loop->changed->items[i], &args->values[i], &equal))
                return 0;
            if (!equal)
                break;
        }
    if (!loop->changed)
        loop->changed = cabe_tpl_new(run, 1, sizeof *loop->changed);
    if (!loop->changed)
        return 0;
    *loop->changed = (struct tpl_list){.n = args->n, .items = args->values};
    *out = cabe_tpl_bool(!same);
    return 1;
}

/* items(), keys(), values(), get() and copy() of a dict. */
static int call_dict_method(struct tpl_run *run, const struct tpl_method *m, const struct tpl_args *args,
                            struct tpl_value *out)
{
    const struct tpl_dict *dict = m->self.dict;
    const struct tpl_value *found;
    int ok, items = cabe_tpl_is_text(&m->name, "items"), keys = cabe_tpl_is_text(&m->name, "keys");

    if (cabe_tpl_is_text(&m->name, "get")) {
        if (args->n < 1 || args->n > 2 || args->n_named)
            return cabe_tpl_fail(run, CABE_ERR_FORMAT, "get() wants 1 or 2 arguments");
        found = cabe_tpl_dict_get(run, dict, &args->values[0], &ok);
        *out = found ? *found : args->n == 2 ? args->values[1] : (struct tpl_value){.kind = TPL_NONE};
        return ok;
    }
    if (args->n || args->n_named)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "%.*s() takes no arguments", (int)m->name.n, m->name.s);
    if (cabe_tpl_is_text(&m->name, "copy")) {
        *out = m->self; /* it cannot change */
        return 1;
    }
    if (items) {
        static const struct tpl_args none = {NULL, 0, NULL, 0};
        struct tpl_value name = cabe_tpl_literal("items");

        if (!cabe_tpl_filter(run, &name, &m->self, &none, out))
            return 0;
        out->kind = TPL_LIST;
        return 1;
    }
    if (!cabe_tpl_step(run, dict->n / 8) || !cabe_tpl_list(run, TPL_LIST, dict->n, out))
        return 0;
    for (size_t i = 0; i < dict->n; i++)
        out->list->items[out->list->n++] = keys ? dict->pairs[i].key : dict->pairs[i].value;
    return 1;
}

static int call_list_method(struct tpl_run *run, const struct tpl_method *m, const struct tpl_args *args,
                            struct tpl_value *out)
{
    int64_t count = 0;
    int equal;

    if (cabe_tpl_is_text(&m->name, "copy")) {
        *out = m->self;
        return 1;
    }
    if (args->n != 1)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "%.*s() wants one argument", (int)m->name.n, m->name.s);
    for (size_t i = 0; i < m->self.list->n; i++) {
        if (!cabe_tpl_step(run, 1) || !cabe_tpl_equal(run, &m->self.list->items[i], &args->values[0], &equal))
            return 0;
        count += equal;
        if (equal && m->name.s[0] == 'i') {
            *out = cabe_tpl_int((int64_t)i);
            return 1;
        }
    }
    if (m->name.s[0] == 'i')
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "a value is not in list");
    *out = cabe_tpl_int(count);
    return 1;
}

int cabe_tpl_call(struct tpl_run *run, const struct tpl_value *callee, const struct tpl_args *args,
                  struct tpl_value *out)
{
    const struct tpl_value kept = *callee;

    switch (kept.kind) {
    case TPL_MACRO:
        return cabe_tpl_call_macro(run, kept.macro, args, out);
    case TPL_LOOP:
        return cabe_tpl_call_loop(run, kept.loop, args, out);
    case TPL_METHOD:
        switch (kept.method->self.kind) {
        case TPL_TEXT:
            return cabe_tpl_text_method(run, &kept.method->self, &kept.method->name, args, out);
        case TPL_DICT:
            return call_dict_method(run, kept.method, args, out);
        case TPL_LOOP:
            return call_loop_method(run, kept.method, args, out);
        default:
            return call_list_method(run, kept.method, args, out);
        }
    case TPL_GLOBAL:
        switch (kept.i) {
        case TPL_NAME_RANGE:
            return call_range(run, args, out);
        case TPL_NAME_DICT:
            return call_dict(run, TPL_DICT, args, out);
        case TPL_NAME_NAMESPACE:
            return call_dict(run, TPL_SPACE, args, out);
        case TPL_NAME_STRFTIME:
            return call_strftime(run, args, out);
        default:
            return call_raise(run, args);
        }
    case TPL_UNDEFINED:
        return cabe_tpl_fail_undefined(run, &kept);
    default:
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "'%s' object is not callable", cabe_tpl_type(&kept));
    }
}
