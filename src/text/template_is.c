/* Tests: what stands behind "is". */
#include <string.h>

#include "text/template_parts.h"

static int compare(struct tpl_run *run, const struct tpl_value *a, const struct tpl_value *b, int flag,
                   int *holds)
{
    static const char *const names[] = {"==", "!=", "<", "<=", ">", ">="};
    int order;

    if (flag < 2) {
        if (!cabe_tpl_equal(run, a, b, holds))
            return 0;
        *holds = *holds != flag;
        return 1;
    }
    if (!cabe_tpl_order(run, a, b, names[flag], &order))
        return 0;
    *holds = order != 2 && (flag == 2   ? order < 0
                            : flag == 3 ? order <= 0
                            : flag == 4 ? order > 0
                                        : order >= 0);
    return 1;
}

static int text_case(struct tpl_run *run, const struct tpl_value *input, const char *method, int *holds)
{
    static const struct tpl_args none = {NULL, 0, NULL, 0};
    struct tpl_value text, name = cabe_tpl_literal(method), answer;

    if (!cabe_tpl_text_of(run, input, &text) || !cabe_tpl_text_method(run, &text, &name, &none, &answer))
        return 0;
    *holds = (int)answer.i;
    return 1;
}

/* a % b == left */
static int divides(struct tpl_run *run, const struct tpl_value *a, const struct tpl_value *b, int64_t left,
                   int *holds)
{
    struct tpl_value rest;
    int equal;
    const struct tpl_value wanted = cabe_tpl_int(left);

    if (!cabe_tpl_binary(run, TPL_T_MOD, a, b, &rest) || !cabe_tpl_equal(run, &rest, &wanted, &equal))
        return 0;
    *holds = equal;
    return 1;
}

static int kind_test(const struct tpl_value *name, const struct tpl_value *v, int *holds)
{
    uint8_t k = v->kind;
    const struct {
        const char *name;
        int holds;
    } tests[] = {
        {"defined", k != TPL_UNDEFINED},
        {"undefined", k == TPL_UNDEFINED},
        {"none", k == TPL_NONE},
        {"string", k == TPL_TEXT},
        {"mapping", k == TPL_DICT},
        {"boolean", k == TPL_BOOL},
        {"true", k == TPL_BOOL && v->i},
        {"false", k == TPL_BOOL && !v->i},
        {"integer", k == TPL_INT},
        {"float", k == TPL_FLOAT},
        {"number", k == TPL_BOOL || k == TPL_INT || k == TPL_FLOAT},
        {"iterable", k == TPL_UNDEFINED || (k >= TPL_TEXT && k <= TPL_DICT) || k == TPL_LOOP},
        {"sequence", k == TPL_UNDEFINED || k == TPL_TEXT || k == TPL_LIST || k == TPL_TUPLE || k == TPL_DICT},
        {"callable", k == TPL_UNDEFINED || (k >= TPL_MACRO && k <= TPL_LOOP)},
        {"escaped", k == TPL_TEXT && v->safe},
    };

    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        if (cabe_tpl_is_text(name, tests[i].name)) {
            *holds = tests[i].holds;
            return 1;
        }
    return 0;
}

static int binary_test(struct tpl_run *run, const struct tpl_value *name, const struct tpl_value *input,
                       const struct tpl_args *args, int *holds, int *known)
{
    static const struct {
        const char *name;
        int flag;
    } tests[] = {{"eq", 0}, {"==", 0},       {"equalto", 0}, {"ne", 1}, {"!=", 1},     {"lt", 2},
                 {"<", 2},  {"lessthan", 2}, {"le", 3},      {"<=", 3}, {"gt", 4},     {"greaterthan", 4},
                 {">", 4},  {"ge", 5},       {">=", 5},      {"in", 6}, {"sameas", 7}, {"divisibleby", 8}};

    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        const struct tpl_value *b = args->values;

        if (!cabe_tpl_is_text(name, tests[i].name))
            continue;
        *known = 1;
        if (args->n != 1)
            return cabe_tpl_fail(run, CABE_ERR_FORMAT, "the test '%s' wants one argument", tests[i].name);
        if (tests[i].flag < 6)
            return compare(run, input, b, tests[i].flag, holds);
        if (tests[i].flag == 6)
            return cabe_tpl_contains(run, b, input, holds);
        if (tests[i].flag == 8)
            return divides(run, input, b, 0, holds);
        *holds = input->kind == b->kind && (input->kind == TPL_TEXT   ? input->s == b->s && input->n == b->n
                                            : input->kind <= TPL_NONE ? 1
                                                                      : input->i == b->i);
        return 1;
    }
    return 1;
}

int cabe_tpl_test(struct tpl_run *run, const struct tpl_value *name, const struct tpl_value *input,
                  const struct tpl_args *args, int *holds)
{
    struct tpl_value two = cabe_tpl_int(2);
    int known = 0;

    if (name->kind != TPL_TEXT)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "the name of a test is a %s", cabe_tpl_type(name));
    if (kind_test(name, input, holds))
        return cabe_tpl_check_args(run, args, "the test", 0, NULL);
    if (!binary_test(run, name, input, args, holds, &known) || known)
        return known && run->status == CABE_OK;
    if (cabe_tpl_is_text(name, "odd"))
        return divides(run, input, &two, 1, holds);
    if (cabe_tpl_is_text(name, "even"))
        return divides(run, input, &two, 0, holds);
    if (cabe_tpl_is_text(name, "upper"))
        return text_case(run, input, "isupper", holds);
    if (cabe_tpl_is_text(name, "lower"))
        return text_case(run, input, "islower", holds);
    if (cabe_tpl_is_text(name, "filter") || cabe_tpl_is_text(name, "test"))
        return cabe_tpl_fail(run, CABE_ERR_UNSUPPORTED, "the tests 'filter' and 'test' are not supported");
    return cabe_tpl_fail(run, CABE_ERR_FORMAT, "no test named '%.*s'", (int)(name->n < 60 ? name->n : 60),
                         name->s);
}
