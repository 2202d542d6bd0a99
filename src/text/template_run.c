/* Expressions. */
#include <stdio.h>
#include <string.h>

#include "text/template_parts.h"

int cabe_tpl_assign(struct tpl_run *run, struct tpl_scope *scope, uint32_t id, const struct tpl_value *value)
{
    struct tpl_var *var = scope->vars;

    while (var && var->id != id)
        var = var->next;
    if (!var) {
        var = cabe_tpl_new(run, 1, sizeof *var);
        if (!var)
            return 0;
        var->id = id;
        var->next = scope->vars;
        scope->vars = var;
    }
    var->value = *value;
    return 1;
}

const struct tpl_value *cabe_tpl_look(const struct tpl_scope *scope, uint32_t id)
{
    for (; scope; scope = scope->up)
        for (const struct tpl_var *var = scope->vars; var; var = var->next)
            if (var->id == id)
                return &var->value;
    return NULL;
}

static int eval_name(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                     struct tpl_value *out)
{
    const struct tpl_value *found = cabe_tpl_look(scope, node->op);

    if (found) {
        *out = *found;
        return 1;
    }
    if (node->op >= TPL_NAME_RANGE && node->op < TPL_N_NAMES) {
        *out = (struct tpl_value){.kind = TPL_GLOBAL, .i = node->op};
        return 1;
    }
    if (cabe_tpl_is_text(&node->value, "cycler") || cabe_tpl_is_text(&node->value, "joiner") ||
        cabe_tpl_is_text(&node->value, "lipsum"))
        return cabe_tpl_fail(run, CABE_ERR_UNSUPPORTED, "%.*s() is not supported", (int)node->value.n,
                             node->value.s);
    return cabe_tpl_undefined(run, NULL, node->value, out);
}

/* ---- attributes and items ---- */

static int is_one_of(const struct tpl_value *name, const char *const *names)
{
    for (; *names; names++)
        if (cabe_tpl_is_text(name, *names))
            return 1;
    return 0;
}

static int make_method(struct tpl_run *run, const struct tpl_value *self, const struct tpl_value *name,
                       struct tpl_value *out)
{
    struct tpl_method *method = cabe_tpl_new(run, 1, sizeof *method);

    if (!method)
        return 0;
    *method = (struct tpl_method){*self, *name};
    *out = (struct tpl_value){.kind = TPL_METHOD, .method = method};
    return 1;
}

/* What the sandbox does not let a template touch is undefined, and says why. */
static int unsafe(struct tpl_run *run, const struct tpl_value *of, const struct tpl_value *name,
                  struct tpl_value *out)
{
    char *hint = cabe_tpl_new(run, 128, 1);
    struct tpl_missing *missing = cabe_tpl_new(run, 1, sizeof *missing);

    if (!hint || !missing)
        return 0;
    snprintf(hint, 128, "access to attribute '%.*s' of '%s' object is unsafe", (int)name->n, name->s,
             cabe_tpl_type(of));
    *missing = (struct tpl_missing){.hint = hint, .name = *name};
    *out = (struct tpl_value){.kind = TPL_UNDEFINED, .missing = missing};
    return 1;
}

static int loop_attribute(struct tpl_run *run, const struct tpl_value *of, const struct tpl_value *name,
                          struct tpl_value *out)
{
    static const char *const methods[] = {"cycle", "changed", NULL};
    const struct tpl_loop *loop = of->loop;
    int64_t n = (int64_t)loop->items->n, i = (int64_t)loop->index;
    const struct {
        const char *name;
        int64_t value;
    } numbers[] = {{"index0", i},
                   {"index", i + 1},
                   {"revindex", n - i},
                   {"revindex0", n - i - 1},
                   {"length", n},
                   {"depth0", loop->depth},
                   {"depth", (int64_t)loop->depth + 1}};

    for (size_t k = 0; k < sizeof numbers / sizeof numbers[0]; k++)
        if (cabe_tpl_is_text(name, numbers[k].name)) {
            *out = cabe_tpl_int(numbers[k].value);
            return 1;
        }
    if (cabe_tpl_is_text(name, "first") || cabe_tpl_is_text(name, "last")) {
        *out = cabe_tpl_bool(name->s[0] == 'f' ? i == 0 : i == n - 1);
        return 1;
    }
    if (cabe_tpl_is_text(name, "previtem") && i > 0) {
        *out = loop->items->items[i - 1];
        return 1;
    }
    if (cabe_tpl_is_text(name, "nextitem") && i + 1 < n) {
        *out = loop->items->items[i + 1];
        return 1;
    }
    if (is_one_of(name, methods))
        return make_method(run, of, name, out);
    return cabe_tpl_undefined(run, cabe_tpl_object(of), *name, out);
}

/* What getattr() finds; *found 0 where it finds nothing. */
static int native_attribute(struct tpl_run *run, const struct tpl_value *of, const struct tpl_value *name,
                            struct tpl_value *out, int *found)
{
    static const char *const dict_methods[] = {"items", "keys", "values", "get", "copy", NULL};
    static const char *const dict_unsafe[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
    static const char *const list_methods[] = {"count", "index", "copy", NULL};
    static const char *const list_unsafe[] = {"append", "clear",  "pop",    "reverse", "insert",
                                              "sort",   "extend", "remove", NULL};
    static const char *const text_unsupported[] = {"encode",       "expandtabs",  "format_map", "isascii",
                                                   "isidentifier", "isprintable", "istitle",    "maketrans",
                                                   "rindex",       "swapcase",    "translate",  NULL};
    const struct tpl_value *value;

    *found = 1;
    switch (of->kind) {
    case TPL_TEXT:
        if (cabe_tpl_has_text_method(name))
            return make_method(run, of, name, out);
        if (is_one_of(name, text_unsupported))
            return cabe_tpl_fail(run, CABE_ERR_UNSUPPORTED, "the str method '%.*s' is not supported",
                                 (int)name->n, name->s);
        break;
    case TPL_DICT:
        if (is_one_of(name, dict_methods))
            return make_method(run, of, name, out);
        if (is_one_of(name, dict_unsafe))
            return unsafe(run, of, name, out);
        break;
    case TPL_LIST:
    case TPL_TUPLE:
        if (is_one_of(name, list_methods))
            return make_method(run, of, name, out);
        if (of->kind == TPL_LIST && is_one_of(name, list_unsafe))
            return unsafe(run, of, name, out);
        break;
    case TPL_SPACE:
        value = cabe_tpl_dict_get(run, of->dict, name, found);
        if (!*found)
            return 0;
        if (value) {
            *out = *value;
            return 1;
        }
        break;
    case TPL_LOOP:
        return loop_attribute(run, of, name, out);
    case TPL_MACRO:
        if (cabe_tpl_is_text(name, "name")) {
            *out = of->macro->node->value;
            return 1;
        }
        break;
    default:
        break;
    }
    *found = 0;
    return 1;
}

int cabe_tpl_attribute(struct tpl_run *run, const struct tpl_value *of, const struct tpl_value *name,
                       struct tpl_value *out)
{
    const struct tpl_value kept = *of, *value;
    int found;

    if (kept.kind == TPL_UNDEFINED)
        return cabe_tpl_fail_undefined(run, &kept);
    if (!native_attribute(run, &kept, name, out, &found))
        return 0;
    if (found)
        return 1;
    if (kept.kind == TPL_DICT) {
        value = cabe_tpl_dict_get(run, kept.dict, name, &found);
        if (!found)
            return 0;
        if (value) {
            *out = *value;
            return 1;
        }
    }
    return cabe_tpl_undefined(run, cabe_tpl_object(&kept), *name, out);
}

static int index_item(const struct tpl_value *of, int64_t i, struct tpl_value *out)
{
    int64_t n = of->kind == TPL_TEXT ? (int64_t)cabe_tpl_text_length(of) : (int64_t)of->list->n;
    size_t begin, bytes;

    i = i < 0 ? i + n : i;
    if (i < 0 || i >= n)
        return 0;
    if (of->kind == TPL_TEXT) {
        begin = cabe_tpl_text_byte(of, (size_t)i);
        cabe_tpl_code(of->s, of->n, begin, &bytes);
        *out = cabe_tpl_text_part(of, begin, begin + bytes);
    } else {
        *out = of->list->items[i];
    }
    return 1;
}

int cabe_tpl_item(struct tpl_run *run, const struct tpl_value *of, const struct tpl_value *index,
                  struct tpl_value *out)
{
    const struct tpl_value kept = *of, key = *index, *value;
    int found = 0;

    if (kept.kind == TPL_UNDEFINED)
        return cabe_tpl_fail_undefined(run, &kept);
    if (kept.kind == TPL_DICT && key.kind != TPL_LIST && key.kind != TPL_DICT) {
        value = cabe_tpl_dict_get(run, kept.dict, &key, &found);
        if (!found)
            return 0;
        if (value) {
            *out = *value;
            return 1;
        }
    }
    if ((kept.kind == TPL_LIST || kept.kind == TPL_TUPLE || kept.kind == TPL_TEXT) &&
        (key.kind == TPL_INT || key.kind == TPL_BOOL)) {
        if (kept.kind == TPL_TEXT && !cabe_tpl_step(run, kept.n / 32))
            return 0;
        if (index_item(&kept, key.i, out))
            return 1;
    }
    if (key.kind == TPL_TEXT) {
        if (!native_attribute(run, &kept, &key, out, &found))
            return 0;
        if (found)
            return 1;
    }
    return cabe_tpl_undefined(run, cabe_tpl_object(&kept), key, out);
}

/* A part of a slice, as it stands; *given 0 where it is left out or None. */
static int slice_part(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node, int64_t *out,
                      int *given)
{
    struct tpl_value value = {.kind = TPL_NONE};

    if (node && !cabe_tpl_eval(run, scope, node, &value))
        return 0;
    *given = value.kind != TPL_NONE;
    if (*given && value.kind != TPL_INT && value.kind != TPL_BOOL)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "slice indices must be integers or None, not %s",
                             cabe_tpl_type(&value));
    *out = value.i;
    return 1;
}

/* A bound of a slice of n items, clamped to [low, high]. */
static int slice_bound(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node, int64_t n,
                       int64_t low, int64_t high, int64_t missing, int64_t *out)
{
    int given;

    if (!slice_part(run, scope, node, out, &given))
        return 0;
    if (!given) {
        *out = missing;
        return 1;
    }
    if (*out < 0)
        *out = *out < -n ? low : *out + n;
    *out = *out < low ? low : *out > high ? high : *out;
    return 1;
}

static int slice_values(struct tpl_run *run, const struct tpl_value *of, int64_t begin, int64_t end,
                        int64_t step, struct tpl_value *out)
{
    int64_t n = step > 0 ? (end > begin ? (end - begin - 1) / step + 1 : 0)
                         : (begin > end ? (begin - end - 1) / -step + 1 : 0);
    const struct tpl_list *items;
    struct tpl_out made = {.run = run};

    if (!cabe_tpl_step(run, (uint64_t)n / 8))
        return 0;
    if (of->kind == TPL_TEXT && step == 1) {
        size_t from = cabe_tpl_text_byte(of, (size_t)begin);

        *out = n == 0 ? cabe_tpl_text_part(of, 0, 0)
                      : cabe_tpl_text_part(of, from, cabe_tpl_text_byte(of, (size_t)end));
        return cabe_tpl_step(run, of->n / 32);
    }
    if (!cabe_tpl_items(run, of, &items))
        return 0;
    if (of->kind != TPL_TEXT && !cabe_tpl_list(run, (enum tpl_kind)of->kind, (size_t)n, out))
        return 0;
    for (int64_t i = begin; n > 0; i += step, n--) {
        if (of->kind != TPL_TEXT)
            out->list->items[out->list->n++] = items->items[i];
        else if (!cabe_tpl_put_part(&made, &items->items[i], 0, items->items[i].n))
            return 0;
    }
    if (of->kind == TPL_TEXT)
        *out = cabe_tpl_taken(&made);
    return 1;
}

static int eval_slice(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                      const struct tpl_value *of, struct tpl_value *out)
{
    int64_t n = 0, begin, end, step = 1;
    int given;

    if (of->kind == TPL_UNDEFINED)
        return cabe_tpl_fail_undefined(run, of);
    if (of->kind != TPL_TEXT && of->kind != TPL_LIST && of->kind != TPL_TUPLE)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "a slice of a %s", cabe_tpl_type(of));
    if (!cabe_tpl_length(run, of, &n) || !slice_part(run, scope, node->c, &step, &given))
        return 0;
    step = given ? step : 1;
    step = step < -((int64_t)1 << 40) ? -((int64_t)1 << 40)
           : step > (int64_t)1 << 40  ? (int64_t)1 << 40
                                      : step;
    if (step == 0)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "slice step cannot be zero");
    if (step > 0)
        return slice_bound(run, scope, node->a, n, 0, n, 0, &begin) &&
               slice_bound(run, scope, node->b, n, 0, n, n, &end) &&
               slice_values(run, of, begin, end, step, out);
    return slice_bound(run, scope, node->a, n, -1, n - 1, n - 1, &begin) &&
           slice_bound(run, scope, node->b, n, -1, n - 1, -1, &end) &&
           slice_values(run, of, begin, end, step, out);
}

/* ---- operators ---- */

static int is_int(const struct tpl_value *v)
{
    return v->kind == TPL_INT || v->kind == TPL_BOOL;
}

static int eval_binary(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                       struct tpl_value *out)
{
    struct tpl_value a, b;

    if (!cabe_tpl_eval(run, scope, node->a, &a) || !cabe_tpl_eval(run, scope, node->b, &b))
        return 0;
    run->at = node->at;
    return cabe_tpl_binary(run, node->op, &a, &b, out);
}

static int eval_compare(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                        struct tpl_value *out)
{
    struct tpl_value left, right;
    int holds = 1;

    if (!cabe_tpl_eval(run, scope, node->a, &left))
        return 0;
    for (const struct tpl_node *operand = node->b; operand && holds; operand = operand->next) {
        if (!cabe_tpl_eval(run, scope, operand->a, &right))
            return 0;
        run->at = operand->at;
        if (!cabe_tpl_compare(run, operand->op, &left, &right, &holds))
            return 0;
        left = right;
    }
    *out = cabe_tpl_bool(holds);
    return 1;
}

static int eval_sign(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                     struct tpl_value *out)
{
    if (!cabe_tpl_eval(run, scope, node->a, out))
        return 0;
    run->at = node->at;
    if (out->kind == TPL_UNDEFINED)
        return cabe_tpl_fail_undefined(run, out);
    if (out->kind == TPL_FLOAT) {
        out->d = node->type == TPL_NEGATE ? -out->d : out->d;
        return 1;
    }
    if (!is_int(out))
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "bad operand type for unary %c: '%s'",
                             node->type == TPL_NEGATE ? '-' : '+', cabe_tpl_type(out));
    return node->type == TPL_NEGATE ? cabe_tpl_int_operation(run, TPL_T_SUB, 0, out->i, out)
                                    : cabe_tpl_int_operation(run, TPL_T_ADD, 0, out->i, out);
}

static int eval_join(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                     struct tpl_value *out)
{
    struct tpl_out made = {.run = run};
    struct tpl_value item;

    for (const struct tpl_node *part = node->a; part; part = part->next)
        if (!cabe_tpl_eval(run, scope, part, &item) || !cabe_tpl_print(&made, &item))
            return 0;
    *out = cabe_tpl_taken(&made);
    return 1;
}

/* ---- calls ---- */

static int eval_call(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                     struct tpl_value *out)
{
    struct tpl_value callee;
    struct tpl_args args;

    if (!cabe_tpl_eval(run, scope, node->a, &callee) || !cabe_tpl_eval_args(run, scope, node->b, &args))
        return 0;
    run->at = node->a->at;
    return cabe_tpl_call(run, &callee, &args, out);
}

static int eval_filter(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                       struct tpl_value *out)
{
    struct tpl_value input;
    struct tpl_args args;

    if (!cabe_tpl_eval(run, scope, node->a, &input) || !cabe_tpl_eval_args(run, scope, node->b, &args))
        return 0;
    run->at = node->at;
    return cabe_tpl_filter(run, &node->value, &input, &args, out);
}

static int eval_test(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                     struct tpl_value *out)
{
    struct tpl_value input;
    struct tpl_args args;
    int holds = 0;

    if (!cabe_tpl_eval(run, scope, node->a, &input) || !cabe_tpl_eval_args(run, scope, node->b, &args))
        return 0;
    run->at = node->at;
    if (!cabe_tpl_test(run, &node->value, &input, &args, &holds))
        return 0;
    *out = cabe_tpl_bool(holds);
    return 1;
}

/* ---- the rest ---- */

static int eval_list(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                     struct tpl_value *out)
{
    size_t n = 0;

    for (const struct tpl_node *item = node->a; item; item = item->next)
        n++;
    if (!cabe_tpl_list(run, node->type == TPL_MAKE_LIST ? TPL_LIST : TPL_TUPLE, n, out))
        return 0;
    for (const struct tpl_node *item = node->a; item; item = item->next)
        if (!cabe_tpl_eval(run, scope, item, &out->list->items[out->list->n++]))
            return 0;
    return 1;
}

static int eval_dict(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                     struct tpl_value *out)
{
    struct tpl_value key, value;

    if (!cabe_tpl_dict(run, TPL_DICT, 4, out))
        return 0;
    for (const struct tpl_node *pair = node->a; pair; pair = pair->next)
        if (!cabe_tpl_eval(run, scope, pair->a, &key) || !cabe_tpl_eval(run, scope, pair->b, &value) ||
            !cabe_tpl_dict_set(run, out->dict, &key, &value))
            return 0;
    return 1;
}

static int eval_if_else(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                        struct tpl_value *out)
{
    struct tpl_value condition;
    struct tpl_missing *missing;

    if (!cabe_tpl_eval(run, scope, node->a, &condition))
        return 0;
    if (cabe_tpl_truth(run, &condition))
        return cabe_tpl_eval(run, scope, node->b, out);
    if (node->c)
        return cabe_tpl_eval(run, scope, node->c, out);
    missing = cabe_tpl_new(run, 1, sizeof *missing);
    if (!missing)
        return 0;
    missing->hint = "the inline if-expression evaluated to false and no else section was defined";
    *out = (struct tpl_value){.kind = TPL_UNDEFINED, .missing = missing};
    return 1;
}

static int eval_item(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                     struct tpl_value *out)
{
    struct tpl_value of, index;

    if (!cabe_tpl_eval(run, scope, node->a, &of))
        return 0;
    run->at = node->at;
    if (node->b->type == TPL_SLICE)
        return eval_slice(run, scope, node->b, &of, out);
    if (!cabe_tpl_eval(run, scope, node->b, &index))
        return 0;
    run->at = node->at;
    return cabe_tpl_item(run, &of, &index, out);
}

static int eval_word(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                     struct tpl_value *out)
{
    if (!cabe_tpl_eval(run, scope, node->a, out))
        return 0;
    if (node->type == TPL_NOT) {
        *out = cabe_tpl_bool(!cabe_tpl_truth(run, out));
        return 1;
    }
    if (cabe_tpl_truth(run, out) == (node->type == TPL_OR))
        return 1;
    return cabe_tpl_eval(run, scope, node->b, out);
}

static int eval_any(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                    struct tpl_value *out)
{
    switch ((enum tpl_type)node->type) {
    case TPL_CONST:
        *out = node->value;
        return 1;
    case TPL_NAME:
        return eval_name(run, scope, node, out);
    case TPL_MAKE_LIST:
    case TPL_MAKE_TUPLE:
        return eval_list(run, scope, node, out);
    case TPL_MAKE_DICT:
        return eval_dict(run, scope, node, out);
    case TPL_ATTRIBUTE:
        if (!cabe_tpl_eval(run, scope, node->a, out))
            return 0;
        run->at = node->at;
        return cabe_tpl_attribute(run, out, &node->value, out);
    case TPL_ITEM:
        return eval_item(run, scope, node, out);
    case TPL_CALL:
        return eval_call(run, scope, node, out);
    case TPL_FILTER:
        return eval_filter(run, scope, node, out);
    case TPL_TEST:
        return eval_test(run, scope, node, out);
    case TPL_NOT:
    case TPL_AND:
    case TPL_OR:
        return eval_word(run, scope, node, out);
    case TPL_NEGATE:
    case TPL_PLUS:
        return eval_sign(run, scope, node, out);
    case TPL_BINARY:
        return eval_binary(run, scope, node, out);
    case TPL_COMPARE:
        return eval_compare(run, scope, node, out);
    case TPL_JOIN:
        return eval_join(run, scope, node, out);
    case TPL_IF_ELSE:
        return eval_if_else(run, scope, node, out);
    default: /* a slice among several indices */
        return cabe_tpl_fail(run, CABE_ERR_UNSUPPORTED, "an expression that is not supported here");
    }
}

int cabe_tpl_eval(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                  struct tpl_value *out)
{
    int ok;

    run->at = node->at;
    if (!cabe_tpl_step(run, 1) || !cabe_tpl_enter(run))
        return 0;
    ok = eval_any(run, scope, node, out);
    run->depth--;
    return ok;
}
