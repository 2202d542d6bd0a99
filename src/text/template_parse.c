/* Words to a tree, statements first: the grammar of jinja2's parser.py. Nesting is bounded, so that no
 * template overflows the stack. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "text/template_parser.h"

#define NESTING_MAX 150

static const struct tpl_node *read_body(struct tpl_parser *p, const char *const *ends, int *which);

const struct tpl_node *cabe_tpl_fail_node(struct tpl_parser *p, enum cabe_status status, size_t at,
                                          const char *format, ...)
{
    char message[256];
    va_list list;

    va_start(list, format);
    vsnprintf(message, sizeof message, format, list);
    va_end(list);
    p->status = cabe_tpl_fail_at(p->template, at, p->err, status, "%s", message);
    return NULL;
}

const struct tpl_node *cabe_tpl_unexpected(struct tpl_parser *p, const char *wanted)
{
    char found[96];

    cabe_tpl_describe(&p->now, found, sizeof found);
    return cabe_tpl_fail_node(p, CABE_ERR_FORMAT, p->now.at, "%s, wanted %s", found, wanted);
}

int cabe_tpl_next(struct tpl_parser *p)
{
    if (p->has_ahead) {
        p->now = p->ahead;
        p->has_ahead = 0;
        return 1;
    }
    if (cabe_tpl_lex(&p->lexer, &p->now))
        return 1;
    p->status = p->lexer.status;
    return 0;
}

int cabe_tpl_look_ahead(struct tpl_parser *p)
{
    if (!p->has_ahead && !cabe_tpl_lex(&p->lexer, &p->ahead)) {
        p->status = p->lexer.status;
        return 0;
    }
    p->has_ahead = 1;
    return 1;
}

int cabe_tpl_is_name(const struct tpl_lexed *token, const char *name)
{
    return token->token == TPL_T_NAME && cabe_tpl_is_text(&token->value, name);
}

int cabe_tpl_take_token(struct tpl_parser *p, enum tpl_token token)
{
    if (p->now.token != token)
        return 0;
    return cabe_tpl_next(p) ? 1 : -1;
}

int cabe_tpl_take_name(struct tpl_parser *p, const char *name)
{
    if (!cabe_tpl_is_name(&p->now, name))
        return 0;
    return cabe_tpl_next(p) ? 1 : -1;
}

int cabe_tpl_expect(struct tpl_parser *p, enum tpl_token token)
{
    char wanted[96];
    struct tpl_lexed like = {.token = token};

    if (p->now.token == token)
        return cabe_tpl_next(p);
    cabe_tpl_describe(&like, wanted, sizeof wanted);
    cabe_tpl_unexpected(p, token == TPL_T_NAME ? "a name" : wanted);
    return 0;
}

void *cabe_tpl_take_memory(struct tpl_parser *p, size_t n, size_t item_bytes)
{
    void *taken = cabe_tpl_take(&p->template->memory, n, item_bytes);

    if (!taken)
        p->status = p->template->memory.refused
                        ? cabe_fail(p->err, CABE_ERR_OOM, "%s: its tree", p->template->name)
                        : cabe_fail(p->err, CABE_ERR_LIMIT, "%s: its tree is over %llu bytes",
                                    p->template->name, (unsigned long long)p->template->memory.limit_bytes);
    return taken;
}

struct tpl_node *cabe_tpl_node(struct tpl_parser *p, enum tpl_type type, size_t at)
{
    struct tpl_node *made = cabe_tpl_take_memory(p, 1, sizeof *made);

    if (!made)
        return NULL;
    made->type = (uint8_t)type;
    made->at = (uint32_t)at;
    return made;
}

const struct tpl_node *cabe_tpl_join_nodes(struct tpl_parser *p, enum tpl_type type, uint32_t op, size_t at,
                                           const struct tpl_node *a, const struct tpl_node *b)
{
    struct tpl_node *made;

    if (p->status != CABE_OK)
        return NULL;
    made = cabe_tpl_node(p, type, at);
    if (!made)
        return NULL;
    made->op = op;
    made->a = a;
    made->b = b;
    return made;
}

/* The id of a name. */
static int intern(struct tpl_parser *p, const struct tpl_value *name, uint32_t *id)
{
    struct cabe_template *t = p->template;

    for (*id = 0; *id < t->n_names; ++*id)
        if (t->names[*id].n == name->n && memcmp(t->names[*id].s, name->s, name->n) == 0)
            return 1;
    if (t->n_names == t->names_room) {
        uint32_t room = t->names_room * 2;
        struct tpl_value *names = cabe_tpl_take_memory(p, room, sizeof *names);

        if (!names)
            return 0;
        memcpy(names, t->names, t->n_names * sizeof *names);
        t->names = names;
        t->names_room = room;
    }
    t->names[t->n_names++] = *name;
    return 1;
}

const struct tpl_node *cabe_tpl_named(struct tpl_parser *p, enum tpl_type type, const struct tpl_lexed *name)
{
    struct tpl_node *made = cabe_tpl_node(p, type, name->at);

    if (!made)
        return NULL;
    made->value = name->value;
    if (!intern(p, &name->value, &made->op))
        return NULL;
    p->uses |= made->op == TPL_NAME_CALLER    ? TPL_USES_CALLER
               : made->op == TPL_NAME_VARARGS ? TPL_USES_VARARGS
               : made->op == TPL_NAME_KWARGS  ? TPL_USES_KWARGS
                                              : 0;
    return made;
}

void cabe_tpl_append(const struct tpl_node **first, const struct tpl_node **last, const struct tpl_node *item)
{
    if (*last)
        ((struct tpl_node *)(uintptr_t)*last)->next = item;
    else
        *first = item;
    *last = item;
}

int cabe_tpl_nest(struct tpl_parser *p)
{
    if (p->nesting == NESTING_MAX) {
        cabe_tpl_fail_node(p, CABE_ERR_LIMIT, p->now.at, "nested deeper than %d", NESTING_MAX);
        return 0;
    }
    p->nesting++;
    return 1;
}

/* A name to assign to. */
static const struct tpl_node *read_target_name(struct tpl_parser *p)
{
    struct tpl_lexed name = p->now;
    const struct tpl_node *made;
    uint8_t uses = p->uses;

    if (!cabe_tpl_expect(p, TPL_T_NAME))
        return NULL;
    if (cabe_tpl_is_name(&name, "true") || cabe_tpl_is_name(&name, "false") ||
        cabe_tpl_is_name(&name, "none") || cabe_tpl_is_name(&name, "True") ||
        cabe_tpl_is_name(&name, "False") || cabe_tpl_is_name(&name, "None"))
        return cabe_tpl_fail_node(p, CABE_ERR_FORMAT, name.at, "\"%.*s\" cannot be assigned to",
                                  (int)name.value.n, name.value.s);
    made = cabe_tpl_named(p, TPL_NAME, &name);
    p->uses = uses; /* assigning is no use */
    return made;
}

/* A name, or an attribute of a namespace, or several in parentheses. */
static const struct tpl_node *read_target_item(struct tpl_parser *p)
{
    const struct tpl_node *of;
    struct tpl_node *made;

    if (p->now.token == TPL_T_LPAREN) {
        if (!cabe_tpl_nest(p) || !cabe_tpl_next(p))
            return NULL;
        of = cabe_tpl_read_tuple(p, read_target_item, NULL, 1);
        p->nesting--;
        return of && cabe_tpl_expect(p, TPL_T_RPAREN) ? of : NULL;
    }
    of = read_target_name(p);
    if (!of || p->now.token != TPL_T_DOT)
        return of;
    made = cabe_tpl_node(p, TPL_SPACE_ATTRIBUTE, of->at);
    if (!made || !cabe_tpl_next(p))
        return NULL;
    made->op = of->op;
    made->a = of;
    made->value = p->now.value;
    return cabe_tpl_expect(p, TPL_T_NAME) ? made : NULL;
}

static int open_body(struct tpl_parser *p)
{
    return cabe_tpl_take_token(p, TPL_T_COLON) >= 0 && cabe_tpl_expect(p, TPL_T_BLOCK_END);
}

/* {% ... %} body {% end %}, the end taken. */
static int read_until(struct tpl_parser *p, const char *end, const struct tpl_node **out)
{
    const char *const ends[] = {end, NULL};
    int which;

    if (!open_body(p))
        return 0;
    *out = read_body(p, ends, &which);
    return p->status == CABE_OK;
}

static const struct tpl_node *read_if(struct tpl_parser *p, size_t at)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct tpl_node *made = cabe_tpl_node(p, TPL_IF, at);
    int which;

    if (!made)
        return NULL;
    made->a = cabe_tpl_read_tuple(p, cabe_tpl_read_or, NULL, 0);
    if (!made->a || !open_body(p))
        return NULL;
    made->b = read_body(p, ends, &which);
    if (p->status != CABE_OK)
        return NULL;
    if (which == 0) {
        if (!cabe_tpl_nest(p))
            return NULL;
        made->c = read_if(p, p->now.at);
        p->nesting--;
        return made->c ? made : NULL;
    }
    if (which == 1 && !read_until(p, "endif", &made->c))
        return NULL;
    return made;
}

static const struct tpl_node *read_for(struct tpl_parser *p, size_t at)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    struct tpl_node *made = cabe_tpl_node(p, TPL_FOR, at), *parts = cabe_tpl_node(p, TPL_FOR_PARTS, at);
    int which, taken;

    if (!made || !parts)
        return NULL;
    made->c = parts;
    made->a = cabe_tpl_read_tuple(p, read_target_item, "in", 0);
    if (!made->a)
        return NULL;
    if (cabe_tpl_take_name(p, "in") <= 0)
        return p->status == CABE_OK ? cabe_tpl_unexpected(p, "\"in\"") : NULL;
    made->b = cabe_tpl_read_tuple(p, cabe_tpl_read_or, "recursive", 0);
    taken = made->b ? cabe_tpl_take_name(p, "if") : -1;
    if (taken < 0)
        return NULL;
    if (taken) {
        parts->a = cabe_tpl_read_expression(p);
        if (!parts->a)
            return NULL;
    }
    taken = cabe_tpl_take_name(p, "recursive");
    if (taken < 0 || !open_body(p))
        return NULL;
    made->op = (uint32_t)taken;
    p->loops++;
    parts->b = read_body(p, ends, &which);
    p->loops--;
    if (p->status != CABE_OK)
        return NULL;
    if (which == 0 && !read_until(p, "endfor", &parts->c))
        return NULL;
    return made;
}

static const struct tpl_node *read_set(struct tpl_parser *p, size_t at)
{
    struct tpl_node *made = cabe_tpl_node(p, TPL_SET, at);
    const struct tpl_node *target;
    int taken;

    if (!made)
        return NULL;
    target = made->a = cabe_tpl_read_tuple(p, read_target_item, NULL, 0);
    taken = target ? cabe_tpl_take_token(p, TPL_T_ASSIGN) : -1;
    if (taken < 0)
        return NULL;
    if (taken) {
        made->b = cabe_tpl_read_tuple(p, cabe_tpl_read_expression, NULL, 0);
        return made->b ? made : NULL;
    }
    made->type = TPL_SET_BLOCK;
    while (p->now.token == TPL_T_PIPE) {
        made->b = cabe_tpl_next(p) ? cabe_tpl_read_filter(p, made->b) : NULL;
        if (!made->b)
            return NULL;
    }
    return read_until(p, "endset", &made->c) ? made : NULL;
}

/* (name, name = default, ...) */
static int read_parameters(struct tpl_parser *p, const struct tpl_node **out)
{
    const struct tpl_node *first = NULL, *last = NULL;
    int defaults = 0, taken;

    if (!cabe_tpl_expect(p, TPL_T_LPAREN))
        return 0;
    while (p->now.token != TPL_T_RPAREN) {
        const struct tpl_node *name;
        struct tpl_node *made;

        if (first && !cabe_tpl_expect(p, TPL_T_COMMA))
            return 0;
        name = read_target_name(p);
        made = name ? cabe_tpl_node(p, TPL_PARAM, name->at) : NULL;
        if (!made)
            return 0;
        made->op = name->op;
        made->value = name->value;
        taken = cabe_tpl_take_token(p, TPL_T_ASSIGN);
        if (taken > 0)
            made->a = cabe_tpl_read_expression(p);
        if (taken < 0 || (taken && !made->a))
            return 0;
        if (defaults && !taken) {
            cabe_tpl_fail_node(p, CABE_ERR_FORMAT, made->at,
                               "a parameter without a default behind one with a default");
            return 0;
        }
        defaults = taken;
        cabe_tpl_append(&first, &last, made);
    }
    *out = first;
    return cabe_tpl_next(p);
}

/* A macro's body: what it uses is noted, and its loops are its own. */
static int read_macro_body(struct tpl_parser *p, const char *end, uint8_t *uses, const struct tpl_node **body)
{
    uint8_t outer_uses = p->uses;
    int outer_loops = p->loops, ok;

    p->uses = 0;
    p->loops = 0;
    ok = read_until(p, end, body);
    *uses = p->uses;
    p->uses = outer_uses;
    p->loops = outer_loops;
    return ok;
}

static const struct tpl_node *read_macro(struct tpl_parser *p, size_t at)
{
    struct tpl_node *made = cabe_tpl_node(p, TPL_MACRO_DEF, at);
    const struct tpl_node *name = made ? read_target_name(p) : NULL;

    if (!name)
        return NULL;
    made->op = name->op;
    made->value = name->value;
    if (!read_parameters(p, &made->a) || !read_macro_body(p, "endmacro", &made->uses, &made->b))
        return NULL;
    return made;
}

static const struct tpl_node *read_call_block(struct tpl_parser *p, size_t at)
{
    struct tpl_node *made = cabe_tpl_node(p, TPL_CALL_BLOCK, at);

    if (!made || (p->now.token == TPL_T_LPAREN && !read_parameters(p, &made->b)))
        return NULL;
    made->a = cabe_tpl_read_expression(p);
    if (!made->a)
        return NULL;
    if (made->a->type != TPL_CALL)
        return cabe_tpl_fail_node(p, CABE_ERR_FORMAT, made->a->at, "wanted a call");
    return read_macro_body(p, "endcall", &made->uses, &made->c) ? made : NULL;
}

static const struct tpl_node *read_filter_block(struct tpl_parser *p, size_t at)
{
    struct tpl_node *made = cabe_tpl_node(p, TPL_FILTER_BLOCK, at);

    if (!made)
        return NULL;
    made->a = cabe_tpl_read_filter(p, NULL);
    while (made->a && p->now.token == TPL_T_PIPE)
        made->a = cabe_tpl_next(p) ? cabe_tpl_read_filter(p, made->a) : NULL;
    return made->a && read_until(p, "endfilter", &made->b) ? made : NULL;
}

static const struct tpl_node *read_with(struct tpl_parser *p, size_t at)
{
    struct tpl_node *made = cabe_tpl_node(p, TPL_WITH, at), *set;
    const struct tpl_node *first = NULL, *last = NULL;

    if (!made)
        return NULL;
    while (p->now.token != TPL_T_BLOCK_END && p->now.token != TPL_T_COLON) {
        if (first && !cabe_tpl_expect(p, TPL_T_COMMA))
            return NULL;
        set = cabe_tpl_node(p, TPL_SET, p->now.at);
        if (!set)
            return NULL;
        set->a = read_target_item(p);
        if (!set->a || !cabe_tpl_expect(p, TPL_T_ASSIGN))
            return NULL;
        set->b = cabe_tpl_read_expression(p);
        if (!set->b)
            return NULL;
        cabe_tpl_append(&first, &last, set);
    }
    made->a = first;
    return read_until(p, "endwith", &made->b) ? made : NULL;
}

/* {% generation %} and {% block name %}: a scope of its own. */
static const struct tpl_node *read_scoped(struct tpl_parser *p, size_t at, const char *end)
{
    struct tpl_node *made = cabe_tpl_node(p, TPL_SCOPED, at);
    int outer_loops = p->loops;

    if (!made)
        return NULL;
    p->loops = 0;
    if (!read_until(p, end, &made->b))
        return NULL;
    p->loops = outer_loops;
    return made;
}

static const struct tpl_node *read_block(struct tpl_parser *p, size_t at)
{
    const struct tpl_node *made;

    if (!cabe_tpl_expect(p, TPL_T_NAME) || cabe_tpl_take_name(p, "scoped") < 0 ||
        cabe_tpl_take_name(p, "required") < 0)
        return NULL;
    made = read_scoped(p, at, "endblock");
    if (made && p->now.token == TPL_T_NAME && !cabe_tpl_next(p))
        return NULL;
    return made;
}

static const struct tpl_node *read_print(struct tpl_parser *p, size_t at)
{
    const struct tpl_node *first = NULL, *last = NULL, *made;

    (void)at;
    while (p->now.token != TPL_T_BLOCK_END) {
        if (first && !cabe_tpl_expect(p, TPL_T_COMMA))
            return NULL;
        made = cabe_tpl_read_expression(p);
        made = made ? cabe_tpl_join_nodes(p, TPL_PRINT, 0, made->at, made, NULL) : NULL;
        if (!made)
            return NULL;
        cabe_tpl_append(&first, &last, made);
    }
    return cabe_tpl_join_nodes(p, TPL_SCOPED, 0, at, NULL, first);
}

static const struct tpl_node *read_flow(struct tpl_parser *p, size_t at, enum tpl_type type)
{
    if (p->loops == 0)
        return cabe_tpl_fail_node(p, CABE_ERR_FORMAT, at, "\"%s\" outside of a loop",
                                  type == TPL_BREAK ? "break" : "continue");
    return cabe_tpl_join_nodes(p, type, 0, at, NULL, NULL);
}

static const struct tpl_node *read_statement(struct tpl_parser *p)
{
    static const char *const missing[] = {"include",    "import", "from", "extends",
                                          "autoescape", "trans",  "do",   "debug"};
    struct tpl_lexed name = p->now;

    if (name.token != TPL_T_NAME)
        return cabe_tpl_unexpected(p, "the name of a tag");
    if (!cabe_tpl_next(p))
        return NULL;
    if (cabe_tpl_is_name(&name, "if"))
        return read_if(p, name.at);
    if (cabe_tpl_is_name(&name, "for"))
        return read_for(p, name.at);
    if (cabe_tpl_is_name(&name, "set"))
        return read_set(p, name.at);
    if (cabe_tpl_is_name(&name, "macro"))
        return read_macro(p, name.at);
    if (cabe_tpl_is_name(&name, "call"))
        return read_call_block(p, name.at);
    if (cabe_tpl_is_name(&name, "filter"))
        return read_filter_block(p, name.at);
    if (cabe_tpl_is_name(&name, "with"))
        return read_with(p, name.at);
    if (cabe_tpl_is_name(&name, "generation"))
        return read_scoped(p, name.at, "endgeneration");
    if (cabe_tpl_is_name(&name, "block"))
        return read_block(p, name.at);
    if (cabe_tpl_is_name(&name, "print"))
        return read_print(p, name.at);
    if (cabe_tpl_is_name(&name, "break"))
        return read_flow(p, name.at, TPL_BREAK);
    if (cabe_tpl_is_name(&name, "continue"))
        return read_flow(p, name.at, TPL_CONTINUE);
    for (size_t i = 0; i < sizeof missing / sizeof missing[0]; i++)
        if (cabe_tpl_is_name(&name, missing[i]))
            return cabe_tpl_fail_node(p, CABE_ERR_UNSUPPORTED, name.at, "the tag \"%s\" is not supported",
                                      missing[i]);
    p->now = name;
    return cabe_tpl_unexpected(p, "a tag that exists and may stand here");
}

/* Whether a tag that ends the body stands here; takes it and what follows its name. */
static int take_end(struct tpl_parser *p, const char *const *ends, int *which)
{
    for (int i = 0; ends && ends[i]; i++)
        if (cabe_tpl_is_name(&p->now, ends[i])) {
            *which = i;
            return cabe_tpl_next(p) ? 1 : -1;
        }
    return 0;
}

/*
 * Up to one of `ends` (NULL: the template's end); *which says which one, and the parser is behind its name.
 * NULL is an empty body, or a failure.
 */
static const struct tpl_node *read_body(struct tpl_parser *p, const char *const *ends, int *which)
{
    const struct tpl_node *first = NULL, *last = NULL, *made;
    struct tpl_node *data;
    int ended;

    if (!cabe_tpl_nest(p))
        return NULL;
    for (;;) {
        size_t at = p->now.at;

        if (p->now.token == TPL_T_END) {
            p->nesting--;
            return ends ? cabe_tpl_unexpected(p, ends[1] ? (ends[2] ? ends[2] : ends[1]) : ends[0]) : first;
        }
        if (p->now.token == TPL_T_DATA) {
            data = cabe_tpl_node(p, TPL_DATA, at);
            if (!data)
                return NULL;
            data->value = p->now.value;
            if (!cabe_tpl_next(p))
                return NULL;
            if (data->value.n > 0)
                cabe_tpl_append(&first, &last, data);
        } else if (p->now.token == TPL_T_PRINT_BEGIN) {
            made = cabe_tpl_next(p) ? cabe_tpl_read_tuple(p, cabe_tpl_read_expression, NULL, 0) : NULL;
            made = made ? cabe_tpl_join_nodes(p, TPL_PRINT, 0, at, made, NULL) : NULL;
            if (!made || !cabe_tpl_expect(p, TPL_T_PRINT_END))
                return NULL;
            cabe_tpl_append(&first, &last, made);
        } else {
            if (!cabe_tpl_expect(p, TPL_T_BLOCK_BEGIN))
                return NULL;
            ended = take_end(p, ends, which);
            if (ended) {
                p->nesting--;
                return ended > 0 ? first : NULL;
            }
            made = read_statement(p);
            if (!made || !cabe_tpl_expect(p, TPL_T_BLOCK_END))
                return NULL;
            cabe_tpl_append(&first, &last, made);
        }
    }
}

int cabe_tpl_parse(struct cabe_template *template, enum cabe_status *status, struct cabe_error *err)
{
    struct tpl_parser p = {.template = template,
                           .lexer = {.s = template->source,
                                     .n = template->n_source,
                                     .line_starting = 1,
                                     .memory = &template->memory,
                                     .template = template,
                                     .err = err},
                           .err = err};

    if (cabe_tpl_next(&p))
        template->body = read_body(&p, NULL, NULL);
    *status = p.status;
    return p.status == CABE_OK;
}
