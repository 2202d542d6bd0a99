/* Statements. */
#include <string.h>

#include "text/template_parts.h"

static struct tpl_scope *new_scope(struct tpl_run *run, struct tpl_scope *up)
{
    struct tpl_scope *scope = cabe_tpl_new(run, 1, sizeof *scope);

    if (scope)
        scope->up = up;
    return scope;
}

static int assign(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *target,
                  const struct tpl_value *value);

static int unpack(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *targets,
                  const struct tpl_value *value)
{
    const struct tpl_list *items;
    size_t n = 0, i = 0;

    if (value->kind == TPL_UNDEFINED || !cabe_tpl_items(run, value, &items))
        return value->kind == TPL_UNDEFINED ? cabe_tpl_fail_undefined(run, value) : 0;
    for (const struct tpl_node *target = targets; target; target = target->next)
        n++;
    if (items->n != n)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "%s values to unpack (expected %zu, got %zu)",
                             items->n < n ? "not enough" : "too many", n, items->n);
    for (const struct tpl_node *target = targets; target; target = target->next)
        if (!assign(run, scope, target, &items->items[i++]))
            return 0;
    return 1;
}

static int assign(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *target,
                  const struct tpl_value *value)
{
    const struct tpl_value *space;

    run->at = target->at;
    if (target->type == TPL_NAME)
        return cabe_tpl_assign(run, scope, target->op, value);
    if (target->type == TPL_MAKE_TUPLE)
        return unpack(run, scope, target->a, value);
    space = cabe_tpl_look(scope, target->op);
    if (!space || space->kind != TPL_SPACE)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "cannot assign attribute on non-namespace object");
    if (target->value.n > 0 && target->value.s[0] == '_')
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "a namespace attribute that begins with an underscore");
    return cabe_tpl_dict_set(run, space->dict, &target->value, value);
}

int cabe_tpl_capture(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *body,
                     struct tpl_value *out)
{
    struct tpl_out made = {.run = run}, *outer = run->out;
    struct tpl_scope *inner = new_scope(run, scope);
    enum tpl_flow flow;

    if (!inner)
        return 0;
    run->out = &made;
    flow = cabe_tpl_exec(run, inner, body);
    run->out = outer;
    *out = cabe_tpl_taken(&made);
    return flow != TPL_FAILED;
}

/* Filters over a captured text: `filters` has NULL where its input would be. */
static int apply(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *filters,
                 struct tpl_value *text)
{
    struct tpl_args args;

    if (!filters)
        return 1;
    if (!apply(run, scope, filters->a, text) || !cabe_tpl_eval_args(run, scope, filters->b, &args))
        return 0;
    run->at = filters->at;
    return cabe_tpl_filter(run, &filters->value, text, &args, text);
}

/* ---- macros ---- */

static int make_macro(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                      const struct tpl_node *params, const struct tpl_node *body, struct tpl_value *out)
{
    struct tpl_macro *macro = cabe_tpl_new(run, 1, sizeof *macro);

    if (!macro)
        return 0;
    *macro = (struct tpl_macro){node, params, body, scope};
    *out = (struct tpl_value){.kind = TPL_MACRO, .macro = macro};
    return 1;
}

static const struct tpl_value *find_named(const struct tpl_args *args, const struct tpl_value *name,
                                          size_t *index)
{
    for (*index = 0; *index < args->n_named; ++*index)
        if (args->named[*index].key.n == name->n && memcmp(args->named[*index].key.s, name->s, name->n) == 0)
            return &args->named[*index].value;
    return NULL;
}

static int missing_parameter(struct tpl_run *run, const struct tpl_node *param, struct tpl_value *out)
{
    struct tpl_missing *missing = cabe_tpl_new(run, 1, sizeof *missing);

    if (!missing)
        return 0;
    *missing = (struct tpl_missing){.name = param->value};
    *out = (struct tpl_value){.kind = TPL_UNDEFINED, .missing = missing};
    return 1;
}

/* What is left of the arguments: varargs, kwargs, caller; or an error. */
static int bind_rest(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_macro *macro,
                     const struct tpl_args *args, size_t n_params, const uint8_t *taken)
{
    uint8_t uses = macro->node->uses;
    struct tpl_value rest, value;

    if (!cabe_tpl_list(run, TPL_TUPLE, args->n, &rest))
        return 0;
    for (size_t i = n_params; i < args->n; i++)
        rest.list->items[rest.list->n++] = args->values[i];
    if (rest.list->n && !(uses & TPL_USES_VARARGS))
        return cabe_tpl_fail(run, CABE_ERR_FORMAT, "macro '%.*s' takes not more than %zu argument(s)",
                             (int)macro->node->value.n, macro->node->value.s, n_params);
    if ((uses & TPL_USES_VARARGS) && !cabe_tpl_assign(run, scope, TPL_NAME_VARARGS, &rest))
        return 0;
    if (!cabe_tpl_dict(run, TPL_DICT, args->n_named, &rest))
        return 0;
    for (size_t i = 0; i < args->n_named; i++) {
        const struct tpl_value *name = &args->named[i].key;

        value = args->named[i].value;
        if (taken[i])
            continue;
        if ((uses & TPL_USES_CALLER) && cabe_tpl_is_text(name, "caller")) {
            if (!cabe_tpl_assign(run, scope, TPL_NAME_CALLER, &value))
                return 0;
        } else if (!(uses & TPL_USES_KWARGS)) {
            return cabe_tpl_fail(run, CABE_ERR_FORMAT, "macro '%.*s' takes no keyword argument '%.*s'",
                                 (int)macro->node->value.n, macro->node->value.s, (int)name->n, name->s);
        } else if (!cabe_tpl_dict_set(run, rest.dict, name, &value)) {
            return 0;
        }
    }
    return !(uses & TPL_USES_KWARGS) || cabe_tpl_assign(run, scope, TPL_NAME_KWARGS, &rest);
}

int cabe_tpl_call_macro(struct tpl_run *run, const struct tpl_macro *macro, const struct tpl_args *args,
                        struct tpl_value *out)
{
    struct tpl_scope *scope = new_scope(run, macro->scope);
    uint8_t *taken = cabe_tpl_new(run, args->n_named, 1);
    size_t n = 0, index;
    int ok;

    if (!scope || !taken || !cabe_tpl_enter(run))
        return 0;
    for (const struct tpl_node *param = macro->params; param; param = param->next, n++) {
        const struct tpl_value *given =
            n < args->n ? &args->values[n] : find_named(args, &param->value, &index);
        struct tpl_value value;

        if (given)
            value = *given;
        if (given && n >= args->n)
            taken[index] = 1;
        if (!given &&
            !(param->a ? cabe_tpl_eval(run, scope, param->a, &value) : missing_parameter(run, param, &value)))
            return 0;
        if (!cabe_tpl_assign(run, scope, param->op, &value))
            return 0;
    }
    if (!bind_rest(run, scope, macro, args, n, taken))
        return 0;
    ok = cabe_tpl_capture(run, scope, macro->body, out);
    run->depth--;
    return ok;
}

static enum tpl_flow exec_call_block(struct tpl_run *run, struct tpl_scope *scope,
                                     const struct tpl_node *node)
{
    struct tpl_value callee, caller, text;
    struct tpl_args args;

    if (!cabe_tpl_eval(run, scope, node->a->a, &callee) ||
        !cabe_tpl_eval_args(run, scope, node->a->b, &args) ||
        !make_macro(run, scope, node, node->b, node->c, &caller))
        return TPL_FAILED;
    args.named[args.n_named].key = cabe_tpl_literal("caller");
    args.named[args.n_named++].value = caller;
    run->at = node->at;
    return cabe_tpl_call(run, &callee, &args, &text) && cabe_tpl_print(run->out, &text) ? TPL_ON : TPL_FAILED;
}

/* ---- loops ---- */

/* The items that pass the loop's test. */
static int filter_items(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                        const struct tpl_list **items)
{
    const struct tpl_list *all = *items;
    struct tpl_value passed, holds;

    if (!cabe_tpl_list(run, TPL_LIST, all->n, &passed))
        return 0;
    for (size_t i = 0; i < all->n; i++) {
        struct tpl_scope *inner = new_scope(run, scope);

        if (!inner || !assign(run, inner, node->a, &all->items[i]) ||
            !cabe_tpl_eval(run, inner, node->c->a, &holds))
            return 0;
        if (cabe_tpl_truth(run, &holds))
            passed.list->items[passed.list->n++] = all->items[i];
    }
    *items = passed.list;
    return 1;
}

static enum tpl_flow exec_loop(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                               const struct tpl_value *over, uint32_t depth)
{
    struct tpl_loop *loop = cabe_tpl_new(run, 1, sizeof *loop);
    struct tpl_value self = {.kind = TPL_LOOP, .loop = loop};
    const struct tpl_list *items;
    struct tpl_scope *inner;

    if (!loop || !cabe_tpl_items(run, over, &items) ||
        (node->c->a && !filter_items(run, scope, node, &items)))
        return TPL_FAILED;
    *loop = (struct tpl_loop){.node = node, .scope = scope, .items = items, .depth = depth};
    for (size_t i = 0; i < items->n; i++) {
        enum tpl_flow flow;

        loop->index = i;
        inner = new_scope(run, scope);
        if (!inner || !cabe_tpl_step(run, 1) || !cabe_tpl_assign(run, inner, TPL_NAME_LOOP, &self) ||
            !assign(run, inner, node->a, &items->items[i]))
            return TPL_FAILED;
        flow = cabe_tpl_exec(run, inner, node->c->b);
        if (flow == TPL_FAILED)
            return TPL_FAILED;
        if (flow == TPL_LEAVE)
            break;
    }
    if (items->n > 0 || !node->c->c)
        return TPL_ON;
    inner = new_scope(run, scope);
    return inner ? cabe_tpl_exec(run, inner, node->c->c) : TPL_FAILED;
}

int cabe_tpl_call_loop(struct tpl_run *run, struct tpl_loop *loop, const struct tpl_args *args,
                       struct tpl_value *out)
{
    struct tpl_out made = {.run = run}, *outer = run->out;
    enum tpl_flow flow;

    if (!loop->node->op || args->n != 1)
        return cabe_tpl_fail(run, CABE_ERR_FORMAT,
                             "The loop must have the 'recursive' marker to be called recursively.");
    if (!cabe_tpl_enter(run))
        return 0;
    run->out = &made;
    flow = exec_loop(run, loop->scope, loop->node, &args->values[0], loop->depth + 1);
    run->out = outer;
    run->depth--;
    *out = cabe_tpl_taken(&made);
    return flow != TPL_FAILED;
}

/* ---- all of them ---- */

static enum tpl_flow exec_if(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node)
{
    struct tpl_value condition;

    for (;;) {
        if (!cabe_tpl_eval(run, scope, node->a, &condition))
            return TPL_FAILED;
        if (cabe_tpl_truth(run, &condition))
            return cabe_tpl_exec(run, scope, node->b);
        if (!node->c || node->c->type != TPL_IF || node->c->next)
            return cabe_tpl_exec(run, scope, node->c);
        node = node->c;
    }
}

static enum tpl_flow exec_with(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node)
{
    struct tpl_scope *inner = new_scope(run, scope);
    struct tpl_value value;

    for (const struct tpl_node *set = node->a; inner && set; set = set->next)
        if (!cabe_tpl_eval(run, scope, set->b, &value) || !assign(run, inner, set->a, &value))
            return TPL_FAILED;
    return inner ? cabe_tpl_exec(run, inner, node->b) : TPL_FAILED;
}

static int exec_simple(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node)
{
    struct tpl_value value;

    switch ((enum tpl_type)node->type) {
    case TPL_DATA:
        return cabe_tpl_put_part(run->out, &node->value, 0, node->value.n);
    case TPL_PRINT:
        return cabe_tpl_eval(run, scope, node->a, &value) && cabe_tpl_print(run->out, &value);
    case TPL_SET:
        return cabe_tpl_eval(run, scope, node->b, &value) && assign(run, scope, node->a, &value);
    case TPL_SET_BLOCK:
        return cabe_tpl_capture(run, scope, node->c, &value) && apply(run, scope, node->b, &value) &&
               assign(run, scope, node->a, &value);
    case TPL_FILTER_BLOCK:
        return cabe_tpl_capture(run, scope, node->b, &value) && apply(run, scope, node->a, &value) &&
               cabe_tpl_print(run->out, &value);
    case TPL_MACRO_DEF:
        return make_macro(run, scope, node, node->a, node->b, &value) &&
               cabe_tpl_assign(run, scope, node->op, &value);
    default:
        return cabe_tpl_fail(run, CABE_ERR_INTERNAL, "a statement of type %d", node->type);
    }
}

static enum tpl_flow exec_one(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node)
{
    struct tpl_scope *inner;
    struct tpl_value value;

    switch ((enum tpl_type)node->type) {
    case TPL_IF:
        return exec_if(run, scope, node);
    case TPL_FOR:
        return cabe_tpl_eval(run, scope, node->b, &value) ? exec_loop(run, scope, node, &value, 0)
                                                          : TPL_FAILED;
    case TPL_CALL_BLOCK:
        return exec_call_block(run, scope, node);
    case TPL_WITH:
        return exec_with(run, scope, node);
    case TPL_SCOPED:
        inner = new_scope(run, scope);
        return inner ? cabe_tpl_exec(run, inner, node->b) : TPL_FAILED;
    case TPL_BREAK:
        return TPL_LEAVE;
    case TPL_CONTINUE:
        return TPL_AGAIN;
    default:
        return exec_simple(run, scope, node) ? TPL_ON : TPL_FAILED;
    }
}

enum tpl_flow cabe_tpl_exec(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *body)
{
    enum tpl_flow flow = TPL_ON;

    if (!cabe_tpl_enter(run))
        return TPL_FAILED;
    for (const struct tpl_node *node = body; node && flow == TPL_ON; node = node->next) {
        run->at = node->at;
        flow = cabe_tpl_step(run, 1) ? exec_one(run, scope, node) : TPL_FAILED;
    }
    run->depth--;
    return flow;
}
