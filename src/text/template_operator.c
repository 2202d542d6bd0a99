/* Operators between two values. */
#include <math.h>
#include <string.h>

#include "text/template_parts.h"

#define REPEAT_MAX 100000 /* of a list */

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

int cabe_tpl_int_operation(struct tpl_run *run, uint32_t op, int64_t a, int64_t b, struct tpl_value *out)
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

    if (!cabe_tpl_reserve(&made, (size_t)a->n + b->n))
        return 0;
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
    if (!text && (times > REPEAT_MAX ||
                  !cabe_tpl_list(run, (enum tpl_kind)of->kind, (size_t)times * of->list->n, out)))
        return times > REPEAT_MAX ? cabe_tpl_fail(run, CABE_ERR_LIMIT, "a list times %lld", (long long)times)
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

int cabe_tpl_binary(struct tpl_run *run, uint32_t op, const struct tpl_value *a, const struct tpl_value *b,
                    struct tpl_value *out)
{
    int numbers = (is_int(a) || a->kind == TPL_FLOAT) && (is_int(b) || b->kind == TPL_FLOAT);

    if (op == TPL_T_MOD && a->kind == TPL_TEXT)
        return cabe_tpl_percent(run, a, b, out);
    if (a->kind == TPL_UNDEFINED || b->kind == TPL_UNDEFINED)
        return cabe_tpl_fail_undefined(run, a->kind == TPL_UNDEFINED ? a : b);
    if (is_int(a) && is_int(b))
        return cabe_tpl_int_operation(run, op, a->i, b->i, out);
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

int cabe_tpl_compare(struct tpl_run *run, uint32_t op, const struct tpl_value *a, const struct tpl_value *b,
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
