/* Expressions. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "text/template_parts.h"

#define RANGE_MAX 100000 /* the sandbox's */

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

static const char *operator_name(uint32_t op)
{
    switch (op) {
    case TPL_T_ADD:
        return "+";
    case TPL_T_SUB:
        return "-";
    case TPL_T_MUL:
        return "*";
    case TPL_T_DIV:
        return "/";
    case TPL_T_FLOORDIV:
        return "//";
    case TPL_T_MOD:
        return "%";
    default:
        return "** or pow()";
    }
}

static int power(struct tpl_run *run, int64_t base, int64_t exponent, struct tpl_value *out)
{
    int64_t result = 1;

    if (exponent < 0) {
        *out = (struct tpl_value){.kind = TPL_FLOAT, .d = pow((double)base, (double)exponent)};
        return 1;
    }
    if (base == 0 || base == 1 || base == -1)
        exponent = exponent > 2 ? 2 - (exponent & 1) : exponent;
    for (int64_t i = 0; i < exponent; i++)
        if (__builtin_mul_overflow(result, base, &result))
            return cabe_tpl_fail(run, CABE_ERR_UNSUPPORTED, "an integer of more than 64 bits");
    *out = cabe_tpl_int(result);
    return 1;
}

static int int_operation(struct tpl_run *run, uint32_t op, int64_t a, int64_t b, struct tpl_value *out)
{
    int64_t result = 0;
    int over = 0;

    if ((op == TPL_T_DIV || op == TPL_T_FLOORDIV || op == TPL_T_MOD) && b == 0)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "division by zero");
    switch (op) {
    case TPL_T_ADD:
        over = __builtin_add_overflow(a, b, &result);
        break;
    case TPL_T_SUB:
        over = __builtin_sub_overflow(a, b, &result);
        break;
    case TPL_T_MUL:
        over = __builtin_mul_overflow(a, b, &result);
        break;
    case TPL_T_DIV:
        *out = (struct tpl_value){.kind = TPL_FLOAT, .d = (double)a / (double)b};
        return 1;
    case TPL_T_FLOORDIV:
        over = a == INT64_MIN && b == -1;
        result = over ? 0 : a / b - (a % b != 0 && (a < 0) != (b < 0));
        break;
    case TPL_T_MOD:
        result = b == -1 ? 0 : a % b + (a % b != 0 && (a < 0) != (b < 0) ? b : 0);
        break;
    default:
        return power(run, a, b, out);
    }
    if (over)
        return cabe_tpl_fail(run, CABE_ERR_UNSUPPORTED, "an integer of more than 64 bits");
    *out = cabe_tpl_int(result);
    return 1;
}

static int float_operation(struct tpl_run *run, uint32_t op, double a, double b, struct tpl_value *out)
{
    double d;

    if ((op == TPL_T_DIV || op == TPL_T_FLOORDIV || op == TPL_T_MOD) && b == 0)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "float division by zero");
    switch (op) {
    case TPL_T_ADD:
        d = a + b;
        break;
    case TPL_T_SUB:
        d = a - b;
        break;
    case TPL_T_MUL:
        d = a * b;
        break;
    case TPL_T_DIV:
        d = a / b;
        break;
    case TPL_T_FLOORDIV:
        d = floor(a / b);
        break;
    case TPL_T_MOD:
        d = fmod(a, b);
        d += d != 0 && (d < 0) != (b < 0) ? b : 0;
        break;
    default:
        d = pow(a, b);
    }
    *out = (struct tpl_value){.kind = TPL_FLOAT, .d = d};
    return 1;
}

static int add_texts(struct tpl_run *run, const struct tpl_value *a, const struct tpl_value *b,
                     struct tpl_value *out)
{
    struct tpl_out made = {.run = run};
    int safe = a->safe || b->safe;

    if (safe ? !cabe_tpl_escape(&made, a) || !cabe_tpl_escape(&made, b)
             : !cabe_tpl_put_part(&made, a, 0, a->n) || !cabe_tpl_put_part(&made, b, 0, b->n))
        return 0;
    *out = cabe_tpl_taken(&made);
    out->safe = (uint8_t)safe;
    return 1;
}

static int add_lists(struct tpl_run *run, const struct tpl_value *a, const struct tpl_value *b,
                     struct tpl_value *out)
{
    size_t n = a->list->n + b->list->n;

    if (!cabe_tpl_step(run, n / 8) || !cabe_tpl_list(run, (enum tpl_kind)a->kind, n, out))
        return 0;
    memcpy(out->list->items, a->list->items, a->list->n * sizeof *a->list->items);
    memcpy(out->list->items + a->list->n, b->list->items, b->list->n * sizeof *b->list->items);
    out->list->n = n;
    return 1;
}

static int repeat(struct tpl_run *run, const struct tpl_value *of, int64_t times, struct tpl_value *out)
{
    struct tpl_out made = {.run = run};
    int text = of->kind == TPL_TEXT;

    times = times < 0 || (text ? of->n : of->list->n) == 0 ? 0 : times;
    if (!text &&
        (times > RANGE_MAX || !cabe_tpl_list(run, (enum tpl_kind)of->kind, (size_t)times * of->list->n, out)))
        return times > RANGE_MAX ? cabe_tpl_fail(run, CABE_ERR_LIMIT, "a list times %lld", (long long)times)
                                 : 0;
    for (int64_t i = 0; i < times; i++) {
        if (!cabe_tpl_step(run, 1))
            return 0;
        for (size_t k = 0; !text && k < of->list->n; k++)
            out->list->items[out->list->n++] = of->list->items[k];
        if (text && !cabe_tpl_put_part(&made, of, 0, of->n))
            return 0;
    }
    if (text)
        *out = cabe_tpl_taken(&made);
    return 1;
}

static int binary(struct tpl_run *run, uint32_t op, const struct tpl_value *a, const struct tpl_value *b,
                  struct tpl_value *out)
{
    int numbers = (is_int(a) || a->kind == TPL_FLOAT) && (is_int(b) || b->kind == TPL_FLOAT);

    if (op == TPL_T_MOD && a->kind == TPL_TEXT)
        return cabe_tpl_percent(run, a, b, out);
    if (a->kind == TPL_UNDEFINED || b->kind == TPL_UNDEFINED)
        return cabe_tpl_fail_undefined(run, a->kind == TPL_UNDEFINED ? a : b);
    if (is_int(a) && is_int(b))
        return int_operation(run, op, a->i, b->i, out);
    if (numbers)
        return float_operation(run, op, is_int(a) ? (double)a->i : a->d, is_int(b) ? (double)b->i : b->d,
                               out);
    if (op == TPL_T_ADD && a->kind == b->kind && a->kind == TPL_TEXT)
        return add_texts(run, a, b, out);
    if (op == TPL_T_ADD && a->kind == b->kind && (a->kind == TPL_LIST || a->kind == TPL_TUPLE))
        return add_lists(run, a, b, out);
    if (op == TPL_T_MUL && is_int(b) && (a->kind == TPL_TEXT || a->kind == TPL_LIST || a->kind == TPL_TUPLE))
        return repeat(run, a, b->i, out);
    if (op == TPL_T_MUL && is_int(a) && (b->kind == TPL_TEXT || b->kind == TPL_LIST || b->kind == TPL_TUPLE))
        return repeat(run, b, a->i, out);
    if (op == TPL_T_ADD && a->kind == TPL_TEXT)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "can only concatenate str (not \"%s\") to str",
                             cabe_tpl_type(b));
    return cabe_tpl_fail(run, CABE_ERR_FORMAT, "unsupported operand type(s) for %s: '%s' and '%s'",
                         operator_name(op), cabe_tpl_type(a), cabe_tpl_type(b));
}

static int eval_binary(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                       struct tpl_value *out)
{
    struct tpl_value a, b;

    if (!cabe_tpl_eval(run, scope, node->a, &a) || !cabe_tpl_eval(run, scope, node->b, &b))
        return 0;
    run->at = node->at;
    return binary(run, node->op, &a, &b, out);
}

static int compare_two(struct tpl_run *run, uint32_t op, const struct tpl_value *a, const struct tpl_value *b,
                       int *holds)
{
    static const char *const names[] = {"==", "!=", ">", ">=", "<", "<="};
    int order;

    if (op == TPL_T_IN || op == TPL_T_NOT_IN) {
        if (!cabe_tpl_contains(run, b, a, holds))
            return 0;
        *holds = *holds == (op == TPL_T_IN);
        return 1;
    }
    if (op == TPL_T_EQ || op == TPL_T_NE) {
        if (!cabe_tpl_equal(run, a, b, holds))
            return 0;
        *holds = *holds == (op == TPL_T_EQ);
        return 1;
    }
    if (!cabe_tpl_order(run, a, b, names[op - TPL_T_EQ], &order))
        return 0;
    *holds = order != 2 && (op == TPL_T_GT   ? order > 0
                            : op == TPL_T_GE ? order >= 0
                            : op == TPL_T_LT ? order < 0
                                             : order <= 0);
    return 1;
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
        if (!compare_two(run, operand->op, &left, &right, &holds))
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
    return node->type == TPL_NEGATE ? int_operation(run, TPL_T_SUB, 0, out->i, out)
                                    : int_operation(run, TPL_T_ADD, 0, out->i, out);
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
