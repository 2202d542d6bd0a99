/* Words to a tree: the grammar of jinja2's parser.py. Nesting is bounded, so that no template overflows the
 * stack. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "text/template_parts.h"

#define NESTING_MAX 150

struct parser {
    struct cabe_template *template;
    struct tpl_lexer lexer;
    struct tpl_lexed now, ahead;
    int has_ahead;
    int nesting, loops;
    uint8_t uses; /* of the macro that is read */
    enum cabe_status status;
    struct cabe_error *err;
};

typedef const struct tpl_node *(*reader)(struct parser *);

static const struct tpl_node *read_expression(struct parser *p);
static const struct tpl_node *read_or(struct parser *p);
static const struct tpl_node *read_unary(struct parser *p, int with_filters);
static const struct tpl_node *read_body(struct parser *p, const char *const *ends, int *which);

static const struct tpl_node *fail_node(struct parser *p, enum cabe_status status, size_t at,
                                        const char *format, ...) CABE_PRINTF(4, 5);

static const struct tpl_node *fail_node(struct parser *p, enum cabe_status status, size_t at,
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

static const struct tpl_node *unexpected(struct parser *p, const char *wanted)
{
    char found[96];

    cabe_tpl_describe(&p->now, found, sizeof found);
    return fail_node(p, CABE_ERR_FORMAT, p->now.at, "%s, wanted %s", found, wanted);
}

static int next(struct parser *p)
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

static int look(struct parser *p)
{
    if (!p->has_ahead && !cabe_tpl_lex(&p->lexer, &p->ahead)) {
        p->status = p->lexer.status;
        return 0;
    }
    p->has_ahead = 1;
    return 1;
}

static int is_name(const struct tpl_lexed *token, const char *name)
{
    return token->token == TPL_T_NAME && cabe_tpl_is_text(&token->value, name);
}

/* Takes the token where it is this one: 1 taken, 0 not, -1 failed. */
static int take(struct parser *p, enum tpl_token token)
{
    if (p->now.token != token)
        return 0;
    return next(p) ? 1 : -1;
}

static int take_name(struct parser *p, const char *name)
{
    if (!is_name(&p->now, name))
        return 0;
    return next(p) ? 1 : -1;
}

static int expect(struct parser *p, enum tpl_token token)
{
    char wanted[96];
    struct tpl_lexed like = {.token = token};

    if (p->now.token == token)
        return next(p);
    cabe_tpl_describe(&like, wanted, sizeof wanted);
    unexpected(p, token == TPL_T_NAME ? "a name" : wanted);
    return 0;
}

/* From the template's memory; NULL has failed. */
static void *take_memory(struct parser *p, size_t n, size_t item_bytes)
{
    void *taken = cabe_tpl_take(&p->template->memory, n, item_bytes);

    if (!taken)
        p->status = p->template->memory.refused
                        ? cabe_fail(p->err, CABE_ERR_OOM, "%s: its tree", p->template->name)
                        : cabe_fail(p->err, CABE_ERR_LIMIT, "%s: its tree is over %llu bytes",
                                    p->template->name, (unsigned long long)p->template->memory.limit_bytes);
    return taken;
}

static struct tpl_node *node(struct parser *p, enum tpl_type type, size_t at)
{
    struct tpl_node *made = take_memory(p, 1, sizeof *made);

    if (!made)
        return NULL;
    made->type = (uint8_t)type;
    made->at = (uint32_t)at;
    return made;
}

/* A node with up to two children, which must have been read well. */
static const struct tpl_node *join(struct parser *p, enum tpl_type type, uint32_t op, size_t at,
                                   const struct tpl_node *a, const struct tpl_node *b)
{
    struct tpl_node *made;

    if (p->status != CABE_OK)
        return NULL;
    made = node(p, type, at);
    if (!made)
        return NULL;
    made->op = op;
    made->a = a;
    made->b = b;
    return made;
}

/* The id of a name. */
static int intern(struct parser *p, const struct tpl_value *name, uint32_t *id)
{
    struct cabe_template *t = p->template;

    for (*id = 0; *id < t->n_names; ++*id)
        if (t->names[*id].n == name->n && memcmp(t->names[*id].s, name->s, name->n) == 0)
            return 1;
    if (t->n_names == t->names_room) {
        uint32_t room = t->names_room * 2;
        struct tpl_value *names = take_memory(p, room, sizeof *names);

        if (!names)
            return 0;
        memcpy(names, t->names, t->n_names * sizeof *names);
        t->names = names;
        t->names_room = room;
    }
    t->names[t->n_names++] = *name;
    return 1;
}

static const struct tpl_node *named(struct parser *p, enum tpl_type type, const struct tpl_lexed *name)
{
    struct tpl_node *made = node(p, type, name->at);

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

/* Puts `item` at the end of a list of nodes. */
static void append(const struct tpl_node **first, const struct tpl_node **last, const struct tpl_node *item)
{
    if (*last)
        ((struct tpl_node *)(uintptr_t)*last)->next = item;
    else
        *first = item;
    *last = item;
}

static int enter(struct parser *p)
{
    if (p->nesting == NESTING_MAX) {
        fail_node(p, CABE_ERR_LIMIT, p->now.at, "nested deeper than %d", NESTING_MAX);
        return 0;
    }
    p->nesting++;
    return 1;
}

/* ---- expressions ---- */

static const struct tpl_node *constant(struct parser *p, struct tpl_value value, size_t at)
{
    struct tpl_node *made = node(p, TPL_CONST, at);

    if (made)
        made->value = value;
    return made;
}

static int is_tuple_end(const struct parser *p, const char *end)
{
    return p->now.token == TPL_T_PRINT_END || p->now.token == TPL_T_BLOCK_END ||
           p->now.token == TPL_T_RPAREN || (end && is_name(&p->now, end));
}

/* One item, or several with commas: a tuple. `end`: a name that ends it, or NULL. */
static const struct tpl_node *read_tuple(struct parser *p, reader read, const char *end, int in_parentheses)
{
    const struct tpl_node *first = NULL, *last = NULL, *item;
    size_t at = p->now.at;
    int commas = 0, taken;

    while (!is_tuple_end(p, end)) {
        item = read(p);
        if (!item)
            return NULL;
        append(&first, &last, item);
        taken = take(p, TPL_T_COMMA);
        if (taken < 0)
            return NULL;
        if (!taken)
            break;
        commas = 1;
    }
    if (first && !commas)
        return first;
    if (!first && !in_parentheses)
        return unexpected(p, "an expression");
    return join(p, TPL_MAKE_TUPLE, 0, at, first, NULL);
}

static const struct tpl_node *read_pair(struct parser *p)
{
    size_t at = p->now.at;
    const struct tpl_node *key = read_expression(p), *value;

    if (!key || !expect(p, TPL_T_COLON))
        return NULL;
    value = read_expression(p);
    return value ? join(p, TPL_PAIR, 0, at, key, value) : NULL;
}

/* [items] or {pairs}: behind the opening bracket. */
static const struct tpl_node *read_items(struct parser *p, enum tpl_type type, reader read,
                                         enum tpl_token closing, size_t at)
{
    const struct tpl_node *first = NULL, *last = NULL, *item;

    while (p->now.token != closing) {
        if (first && !expect(p, TPL_T_COMMA))
            return NULL;
        if (p->now.token == closing)
            break;
        item = read(p);
        if (!item)
            return NULL;
        append(&first, &last, item);
    }
    return next(p) ? join(p, type, 0, at, first, NULL) : NULL;
}

static const struct tpl_node *read_strings(struct parser *p)
{
    struct tpl_value text = p->now.value;
    size_t at = p->now.at;

    for (;;) {
        if (!next(p))
            return NULL;
        if (p->now.token != TPL_T_TEXT)
            return constant(p, text, at);
        if (p->now.value.n > 0) { /* adjacent strings are one */
            char *s = take_memory(p, (size_t)text.n + p->now.value.n, 1);

            if (!s)
                return NULL;
            memcpy(s, text.s, text.n);
            memcpy(s + text.n, p->now.value.s, p->now.value.n);
            text.s = s;
            text.n += p->now.value.n;
        }
    }
}

static const struct tpl_node *read_name(struct parser *p)
{
    struct tpl_lexed name = p->now;

    if (!next(p))
        return NULL;
    if (is_name(&name, "true") || is_name(&name, "True"))
        return constant(p, cabe_tpl_bool(1), name.at);
    if (is_name(&name, "false") || is_name(&name, "False"))
        return constant(p, cabe_tpl_bool(0), name.at);
    if (is_name(&name, "none") || is_name(&name, "None"))
        return constant(p, (struct tpl_value){.kind = TPL_NONE}, name.at);
    return named(p, TPL_NAME, &name);
}

static const struct tpl_node *read_primary(struct parser *p)
{
    const struct tpl_node *read;
    struct tpl_lexed token = p->now;

    switch (token.token) {
    case TPL_T_NAME:
        return read_name(p);
    case TPL_T_TEXT:
        return read_strings(p);
    case TPL_T_INT:
    case TPL_T_FLOAT:
        return next(p) ? constant(p, token.value, token.at) : NULL;
    case TPL_T_LPAREN:
        if (!next(p))
            return NULL;
        read = read_tuple(p, read_expression, NULL, 1);
        return read && expect(p, TPL_T_RPAREN) ? read : NULL;
    case TPL_T_LBRACKET:
        return next(p) ? read_items(p, TPL_MAKE_LIST, read_expression, TPL_T_RBRACKET, token.at) : NULL;
    case TPL_T_LBRACE:
        return next(p) ? read_items(p, TPL_MAKE_DICT, read_pair, TPL_T_RBRACE, token.at) : NULL;
    default:
        return unexpected(p, "an expression");
    }
}

static const struct tpl_node *read_argument(struct parser *p)
{
    struct tpl_lexed first = p->now;
    struct tpl_node *made;
    int stars = first.token == TPL_T_MUL ? 1 : first.token == TPL_T_POW ? 2 : 0;

    if (stars)
        return next(p) ? join(p, TPL_SPREAD, (uint32_t)stars, first.at, read_expression(p), NULL) : NULL;
    if (first.token == TPL_T_NAME) {
        if (!look(p))
            return NULL;
        if (p->ahead.token == TPL_T_ASSIGN) {
            made = node(p, TPL_KEYWORD, first.at);
            if (!made || !next(p) || !next(p))
                return NULL;
            made->value = first.value;
            made->a = read_expression(p);
            return made->a ? made : NULL;
        }
    }
    return read_expression(p);
}

/* (arguments); *out may be NULL for none. */
static int read_arguments(struct parser *p, const struct tpl_node **out)
{
    const struct tpl_node *first = NULL, *last = NULL, *item;
    int named_yet = 0;

    if (!expect(p, TPL_T_LPAREN))
        return 0;
    while (p->now.token != TPL_T_RPAREN) {
        size_t at = p->now.at;

        if (first && !expect(p, TPL_T_COMMA))
            return 0;
        if (p->now.token == TPL_T_RPAREN)
            break;
        item = read_argument(p);
        if (!item)
            return 0;
        if (named_yet && item->type != TPL_KEYWORD && item->type != TPL_SPREAD) {
            fail_node(p, CABE_ERR_FORMAT, at, "an argument without a name behind one with a name");
            return 0;
        }
        named_yet |= item->type == TPL_KEYWORD || item->type == TPL_SPREAD;
        append(&first, &last, item);
    }
    *out = first;
    return next(p);
}

static int ends_index(const struct parser *p)
{
    return p->now.token == TPL_T_RBRACKET || p->now.token == TPL_T_COMMA;
}

/* What stands between [ and ]: an expression, or a slice. */
static const struct tpl_node *read_index(struct parser *p)
{
    const struct tpl_node *part[3] = {NULL, NULL, NULL};
    size_t at = p->now.at;
    struct tpl_node *slice;

    if (p->now.token != TPL_T_COLON) {
        part[0] = read_expression(p);
        if (!part[0] || p->now.token != TPL_T_COLON)
            return part[0];
    }
    for (int i = 1; i < 3 && p->now.token == TPL_T_COLON; i++) {
        if (!next(p))
            return NULL;
        if (p->now.token == TPL_T_COLON || ends_index(p))
            continue;
        part[i] = read_expression(p);
        if (!part[i])
            return NULL;
    }
    slice = node(p, TPL_SLICE, at);
    if (slice) {
        slice->a = part[0];
        slice->b = part[1];
        slice->c = part[2];
    }
    return slice;
}

static const struct tpl_node *read_subscript(struct parser *p, const struct tpl_node *of)
{
    size_t at = p->now.at;
    const struct tpl_node *first = NULL, *last = NULL, *index;

    if (p->now.token == TPL_T_DOT) {
        struct tpl_lexed name;
        struct tpl_node *made;

        if (!next(p))
            return NULL;
        name = p->now;
        if (name.token == TPL_T_INT)
            return next(p) ? join(p, TPL_ITEM, 0, at, of, constant(p, name.value, name.at)) : NULL;
        if (!expect(p, TPL_T_NAME))
            return NULL;
        made = node(p, TPL_ATTRIBUTE, at);
        if (made) {
            made->a = of;
            made->value = name.value;
        }
        return made;
    }
    if (!next(p))
        return NULL;
    while (p->now.token != TPL_T_RBRACKET) {
        if (first && !expect(p, TPL_T_COMMA))
            return NULL;
        index = read_index(p);
        if (!index)
            return NULL;
        append(&first, &last, index);
    }
    if (!first)
        return unexpected(p, "an index");
    if (!next(p))
        return NULL;
    if (first->next)
        first = join(p, TPL_MAKE_TUPLE, 0, at, first, NULL);
    return join(p, TPL_ITEM, 0, at, of, first);
}

static const struct tpl_node *read_call(struct parser *p, const struct tpl_node *callee)
{
    const struct tpl_node *arguments = NULL;
    size_t at = p->now.at;

    return read_arguments(p, &arguments) ? join(p, TPL_CALL, 0, at, callee, arguments) : NULL;
}

/* A filter's or test's name, with dots. */
static int read_dotted(struct parser *p, struct tpl_node *made)
{
    made->value = p->now.value;
    if (!expect(p, TPL_T_NAME))
        return 0;
    while (p->now.token == TPL_T_DOT) {
        if (!next(p))
            return 0;
        made->value.n = (uint32_t)(p->now.value.s + p->now.value.n - made->value.s);
        if (!expect(p, TPL_T_NAME))
            return 0;
    }
    return 1;
}

/* Behind "|". */
static const struct tpl_node *read_filter(struct parser *p, const struct tpl_node *input)
{
    struct tpl_node *made = node(p, TPL_FILTER, p->now.at);

    if (!made || !read_dotted(p, made))
        return NULL;
    made->a = input;
    if (p->now.token == TPL_T_LPAREN && !read_arguments(p, &made->b))
        return NULL;
    return made;
}

static const struct tpl_node *read_postfix(struct parser *p, const struct tpl_node *of)
{
    while (of) {
        if (p->now.token == TPL_T_DOT || p->now.token == TPL_T_LBRACKET)
            of = read_subscript(p, of);
        else if (p->now.token == TPL_T_LPAREN)
            of = read_call(p, of);
        else
            break;
    }
    return of;
}

/* Behind "is". */
static const struct tpl_node *read_test(struct parser *p, const struct tpl_node *input)
{
    size_t at = p->now.at;
    int negated = take_name(p, "not");
    struct tpl_node *made;

    if (negated < 0)
        return NULL;
    made = node(p, TPL_TEST, at);
    if (!made || !read_dotted(p, made))
        return NULL;
    made->a = input;
    switch (p->now.token) {
    case TPL_T_LPAREN:
        if (!read_arguments(p, &made->b))
            return NULL;
        break;
    case TPL_T_NAME:
    case TPL_T_TEXT:
    case TPL_T_INT:
    case TPL_T_FLOAT:
    case TPL_T_LBRACKET:
    case TPL_T_LBRACE:
        if (is_name(&p->now, "else") || is_name(&p->now, "or") || is_name(&p->now, "and"))
            break;
        if (is_name(&p->now, "is"))
            return fail_node(p, CABE_ERR_FORMAT, p->now.at, "a test of a test");
        if (is_name(&p->now, "if") ||
            is_name(&p->now, "in")) /* a reader's intention; the reference says the same */
            break;
        made->b = read_postfix(p, read_primary(p));
        if (!made->b)
            return NULL;
        break;
    default:
        break;
    }
    return negated ? join(p, TPL_NOT, 0, at, made, NULL) : made;
}

static const struct tpl_node *read_filters(struct parser *p, const struct tpl_node *of)
{
    while (of) {
        if (p->now.token == TPL_T_PIPE)
            of = next(p) ? read_filter(p, of) : NULL;
        else if (is_name(&p->now, "is"))
            of = next(p) ? read_test(p, of) : NULL;
        else if (p->now.token == TPL_T_LPAREN)
            of = read_call(p, of);
        else
            break;
    }
    return of;
}

static const struct tpl_node *read_unary(struct parser *p, int with_filters)
{
    enum tpl_token token = p->now.token;
    size_t at = p->now.at;
    const struct tpl_node *read;

    if (!enter(p))
        return NULL;
    if (token == TPL_T_SUB || token == TPL_T_ADD) {
        read = next(p) ? read_unary(p, 0) : NULL;
        read = read ? join(p, token == TPL_T_SUB ? TPL_NEGATE : TPL_PLUS, 0, at, read, NULL) : NULL;
    } else {
        read = read_primary(p);
    }
    read = read_postfix(p, read);
    if (with_filters)
        read = read_filters(p, read);
    p->nesting--;
    return read;
}

static const struct tpl_node *read_operand(struct parser *p)
{
    return read_unary(p, 1);
}

/* Items with operators of one rank between them, from the left. */
static const struct tpl_node *read_binary(struct parser *p, reader read, const enum tpl_token *tokens)
{
    const struct tpl_node *left = read(p), *right;

    while (left) {
        enum tpl_token token = p->now.token;
        size_t at = p->now.at;
        int i = 0;

        while (tokens[i] != TPL_T_END && tokens[i] != token)
            i++;
        if (tokens[i] == TPL_T_END)
            break;
        right = next(p) ? read(p) : NULL;
        left = right ? join(p, TPL_BINARY, token, at, left, right) : NULL;
    }
    return left;
}

static const struct tpl_node *read_power(struct parser *p)
{
    static const enum tpl_token tokens[] = {TPL_T_POW, TPL_T_END};

    return read_binary(p, read_operand, tokens);
}

static const struct tpl_node *read_product(struct parser *p)
{
    static const enum tpl_token tokens[] = {TPL_T_MUL, TPL_T_DIV, TPL_T_FLOORDIV, TPL_T_MOD, TPL_T_END};

    return read_binary(p, read_power, tokens);
}

static const struct tpl_node *read_joined(struct parser *p)
{
    size_t at = p->now.at;
    const struct tpl_node *first = read_product(p), *last = first, *item;

    if (!first || p->now.token != TPL_T_TILDE)
        return first;
    while (p->now.token == TPL_T_TILDE) {
        item = next(p) ? read_product(p) : NULL;
        if (!item)
            return NULL;
        append(&first, &last, item);
    }
    return join(p, TPL_JOIN, 0, at, first, NULL);
}

static const struct tpl_node *read_sum(struct parser *p)
{
    static const enum tpl_token tokens[] = {TPL_T_ADD, TPL_T_SUB, TPL_T_END};

    return read_binary(p, read_joined, tokens);
}

/* The comparison that stands here, taken; TPL_T_END: none. 0 where it failed. */
static int take_comparison(struct parser *p, enum tpl_token *out)
{
    *out = TPL_T_END;
    if (p->now.token >= TPL_T_EQ && p->now.token <= TPL_T_LE) {
        *out = p->now.token;
        return next(p);
    }
    if (is_name(&p->now, "in")) {
        *out = TPL_T_IN;
        return next(p);
    }
    if (!is_name(&p->now, "not"))
        return 1;
    if (!look(p))
        return 0;
    if (!is_name(&p->ahead, "in"))
        return 1;
    *out = TPL_T_NOT_IN;
    return next(p) && next(p);
}

static const struct tpl_node *read_compare(struct parser *p)
{
    size_t at = p->now.at;
    const struct tpl_node *left = read_sum(p), *first = NULL, *last = NULL, *right;

    while (left) {
        size_t at_operator = p->now.at;
        enum tpl_token token;

        if (!take_comparison(p, &token))
            return NULL;
        if (token == TPL_T_END)
            break;
        right = read_sum(p);
        right = right ? join(p, TPL_OPERAND, token, at_operator, right, NULL) : NULL;
        if (!right)
            return NULL;
        append(&first, &last, right);
    }
    return left && first ? join(p, TPL_COMPARE, 0, at, left, first) : left;
}

static const struct tpl_node *read_not(struct parser *p)
{
    size_t at = p->now.at;
    const struct tpl_node *read;

    if (!is_name(&p->now, "not"))
        return read_compare(p);
    if (!enter(p) || !next(p))
        return NULL;
    read = read_not(p);
    p->nesting--;
    return read ? join(p, TPL_NOT, 0, at, read, NULL) : NULL;
}

static const struct tpl_node *read_words(struct parser *p, reader read, const char *word, enum tpl_type type)
{
    const struct tpl_node *left = read(p), *right;

    while (left && is_name(&p->now, word)) {
        size_t at = p->now.at;

        right = next(p) ? read(p) : NULL;
        left = right ? join(p, type, 0, at, left, right) : NULL;
    }
    return left;
}

static const struct tpl_node *read_and(struct parser *p)
{
    return read_words(p, read_not, "and", TPL_AND);
}

static const struct tpl_node *read_or(struct parser *p)
{
    return read_words(p, read_and, "or", TPL_OR);
}

static const struct tpl_node *read_expression(struct parser *p)
{
    const struct tpl_node *value;

    if (!enter(p))
        return NULL;
    value = read_or(p);
    while (value && is_name(&p->now, "if")) {
        struct tpl_node *made = node(p, TPL_IF_ELSE, p->now.at);
        int has_else;

        if (!made || !next(p))
            return NULL;
        made->b = value;
        made->a = read_or(p);
        has_else = made->a ? take_name(p, "else") : -1;
        if (has_else < 0)
            return NULL;
        if (has_else) {
            made->c = read_expression(p);
            if (!made->c)
                return NULL;
        }
        value = made;
    }
    p->nesting--;
    return value;
}

/* ---- statements ---- */

/* A name to assign to. */
static const struct tpl_node *read_target_name(struct parser *p)
{
    struct tpl_lexed name = p->now;
    const struct tpl_node *made;
    uint8_t uses = p->uses;

    if (!expect(p, TPL_T_NAME))
        return NULL;
    if (is_name(&name, "true") || is_name(&name, "false") || is_name(&name, "none") ||
        is_name(&name, "True") || is_name(&name, "False") || is_name(&name, "None"))
        return fail_node(p, CABE_ERR_FORMAT, name.at, "\"%.*s\" cannot be assigned to", (int)name.value.n,
                         name.value.s);
    made = named(p, TPL_NAME, &name);
    p->uses = uses; /* assigning is no use */
    return made;
}

/* A name, or an attribute of a namespace, or several in parentheses. */
static const struct tpl_node *read_target_item(struct parser *p)
{
    const struct tpl_node *of;
    struct tpl_node *made;

    if (p->now.token == TPL_T_LPAREN) {
        if (!enter(p) || !next(p))
            return NULL;
        of = read_tuple(p, read_target_item, NULL, 1);
        p->nesting--;
        return of && expect(p, TPL_T_RPAREN) ? of : NULL;
    }
    of = read_target_name(p);
    if (!of || p->now.token != TPL_T_DOT)
        return of;
    made = node(p, TPL_SPACE_ATTRIBUTE, of->at);
    if (!made || !next(p))
        return NULL;
    made->op = of->op;
    made->a = of;
    made->value = p->now.value;
    return expect(p, TPL_T_NAME) ? made : NULL;
}

static int open_body(struct parser *p)
{
    return take(p, TPL_T_COLON) >= 0 && expect(p, TPL_T_BLOCK_END);
}

/* {% ... %} body {% end %}, the end taken. */
static int read_until(struct parser *p, const char *end, const struct tpl_node **out)
{
    const char *const ends[] = {end, NULL};
    int which;

    if (!open_body(p))
        return 0;
    *out = read_body(p, ends, &which);
    return p->status == CABE_OK;
}

static const struct tpl_node *read_if(struct parser *p, size_t at)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct tpl_node *made = node(p, TPL_IF, at);
    int which;

    if (!made)
        return NULL;
    made->a = read_tuple(p, read_or, NULL, 0);
    if (!made->a || !open_body(p))
        return NULL;
    made->b = read_body(p, ends, &which);
    if (p->status != CABE_OK)
        return NULL;
    if (which == 0) {
        if (!enter(p))
            return NULL;
        made->c = read_if(p, p->now.at);
        p->nesting--;
        return made->c ? made : NULL;
    }
    if (which == 1 && !read_until(p, "endif", &made->c))
        return NULL;
    return made;
}

static const struct tpl_node *read_for(struct parser *p, size_t at)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    struct tpl_node *made = node(p, TPL_FOR, at), *parts = node(p, TPL_FOR_PARTS, at);
    int which, taken;

    if (!made || !parts)
        return NULL;
    made->c = parts;
    made->a = read_tuple(p, read_target_item, "in", 0);
    if (!made->a)
        return NULL;
    if (take_name(p, "in") <= 0)
        return p->status == CABE_OK ? unexpected(p, "\"in\"") : NULL;
    made->b = read_tuple(p, read_or, "recursive", 0);
    taken = made->b ? take_name(p, "if") : -1;
    if (taken < 0)
        return NULL;
    if (taken) {
        parts->a = read_expression(p);
        if (!parts->a)
            return NULL;
    }
    taken = take_name(p, "recursive");
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

static const struct tpl_node *read_set(struct parser *p, size_t at)
{
    struct tpl_node *made = node(p, TPL_SET, at);
    const struct tpl_node *target;
    int taken;

    if (!made)
        return NULL;
    target = made->a = read_tuple(p, read_target_item, NULL, 0);
    taken = target ? take(p, TPL_T_ASSIGN) : -1;
    if (taken < 0)
        return NULL;
    if (taken) {
        made->b = read_tuple(p, read_expression, NULL, 0);
        return made->b ? made : NULL;
    }
    made->type = TPL_SET_BLOCK;
    while (p->now.token == TPL_T_PIPE) {
        made->b = next(p) ? read_filter(p, made->b) : NULL;
        if (!made->b)
            return NULL;
    }
    return read_until(p, "endset", &made->c) ? made : NULL;
}

/* (name, name = default, ...) */
static int read_parameters(struct parser *p, const struct tpl_node **out)
{
    const struct tpl_node *first = NULL, *last = NULL;
    int defaults = 0, taken;

    if (!expect(p, TPL_T_LPAREN))
        return 0;
    while (p->now.token != TPL_T_RPAREN) {
        const struct tpl_node *name;
        struct tpl_node *made;

        if (first && !expect(p, TPL_T_COMMA))
            return 0;
        name = read_target_name(p);
        made = name ? node(p, TPL_PARAM, name->at) : NULL;
        if (!made)
            return 0;
        made->op = name->op;
        made->value = name->value;
        taken = take(p, TPL_T_ASSIGN);
        if (taken > 0)
            made->a = read_expression(p);
        if (taken < 0 || (taken && !made->a))
            return 0;
        if (defaults && !taken) {
            fail_node(p, CABE_ERR_FORMAT, made->at,
                      "a parameter without a default behind one with a default");
            return 0;
        }
        defaults = taken;
        append(&first, &last, made);
    }
    *out = first;
    return next(p);
}

/* A macro's body: what it uses is noted, and its loops are its own. */
static int read_macro_body(struct parser *p, const char *end, uint8_t *uses, const struct tpl_node **body)
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

static const struct tpl_node *read_macro(struct parser *p, size_t at)
{
    struct tpl_node *made = node(p, TPL_MACRO_DEF, at);
    const struct tpl_node *name = made ? read_target_name(p) : NULL;

    if (!name)
        return NULL;
    made->op = name->op;
    made->value = name->value;
    if (!read_parameters(p, &made->a) || !read_macro_body(p, "endmacro", &made->uses, &made->b))
        return NULL;
    return made;
}

static const struct tpl_node *read_call_block(struct parser *p, size_t at)
{
    struct tpl_node *made = node(p, TPL_CALL_BLOCK, at);

    if (!made || (p->now.token == TPL_T_LPAREN && !read_parameters(p, &made->b)))
        return NULL;
    made->a = read_expression(p);
    if (!made->a)
        return NULL;
    if (made->a->type != TPL_CALL)
        return fail_node(p, CABE_ERR_FORMAT, made->a->at, "wanted a call");
    return read_macro_body(p, "endcall", &made->uses, &made->c) ? made : NULL;
}

static const struct tpl_node *read_filter_block(struct parser *p, size_t at)
{
    struct tpl_node *made = node(p, TPL_FILTER_BLOCK, at);

    if (!made)
        return NULL;
    made->a = read_filter(p, NULL);
    while (made->a && p->now.token == TPL_T_PIPE)
        made->a = next(p) ? read_filter(p, made->a) : NULL;
    return made->a && read_until(p, "endfilter", &made->b) ? made : NULL;
}

static const struct tpl_node *read_with(struct parser *p, size_t at)
{
    struct tpl_node *made = node(p, TPL_WITH, at), *set;
    const struct tpl_node *first = NULL, *last = NULL;

    if (!made)
        return NULL;
    while (p->now.token != TPL_T_BLOCK_END && p->now.token != TPL_T_COLON) {
        if (first && !expect(p, TPL_T_COMMA))
            return NULL;
        set = node(p, TPL_SET, p->now.at);
        if (!set)
            return NULL;
        set->a = read_target_item(p);
        if (!set->a || !expect(p, TPL_T_ASSIGN))
            return NULL;
        set->b = read_expression(p);
        if (!set->b)
            return NULL;
        append(&first, &last, set);
    }
    made->a = first;
    return read_until(p, "endwith", &made->b) ? made : NULL;
}

/* {% generation %} and {% block name %}: a scope of its own. */
static const struct tpl_node *read_scoped(struct parser *p, size_t at, const char *end)
{
    struct tpl_node *made = node(p, TPL_SCOPED, at);
    int outer_loops = p->loops;

    if (!made)
        return NULL;
    p->loops = 0;
    if (!read_until(p, end, &made->b))
        return NULL;
    p->loops = outer_loops;
    return made;
}

static const struct tpl_node *read_block(struct parser *p, size_t at)
{
    const struct tpl_node *made;

    if (!expect(p, TPL_T_NAME) || take_name(p, "scoped") < 0 || take_name(p, "required") < 0)
        return NULL;
    made = read_scoped(p, at, "endblock");
    if (made && p->now.token == TPL_T_NAME && !next(p))
        return NULL;
    return made;
}

static const struct tpl_node *read_print(struct parser *p, size_t at)
{
    const struct tpl_node *first = NULL, *last = NULL, *made;

    (void)at;
    while (p->now.token != TPL_T_BLOCK_END) {
        if (first && !expect(p, TPL_T_COMMA))
            return NULL;
        made = read_expression(p);
        made = made ? join(p, TPL_PRINT, 0, made->at, made, NULL) : NULL;
        if (!made)
            return NULL;
        append(&first, &last, made);
    }
    return join(p, TPL_SCOPED, 0, at, NULL, first);
}

static const struct tpl_node *read_flow(struct parser *p, size_t at, enum tpl_type type)
{
    if (p->loops == 0)
        return fail_node(p, CABE_ERR_FORMAT, at, "\"%s\" outside of a loop",
                         type == TPL_BREAK ? "break" : "continue");
    return join(p, type, 0, at, NULL, NULL);
}

static const struct tpl_node *read_statement(struct parser *p)
{
    static const char *const missing[] = {"include",    "import", "from", "extends",
                                          "autoescape", "trans",  "do",   "debug"};
    struct tpl_lexed name = p->now;

    if (name.token != TPL_T_NAME)
        return unexpected(p, "the name of a tag");
    if (!next(p))
        return NULL;
    if (is_name(&name, "if"))
        return read_if(p, name.at);
    if (is_name(&name, "for"))
        return read_for(p, name.at);
    if (is_name(&name, "set"))
        return read_set(p, name.at);
    if (is_name(&name, "macro"))
        return read_macro(p, name.at);
    if (is_name(&name, "call"))
        return read_call_block(p, name.at);
    if (is_name(&name, "filter"))
        return read_filter_block(p, name.at);
    if (is_name(&name, "with"))
        return read_with(p, name.at);
    if (is_name(&name, "generation"))
        return read_scoped(p, name.at, "endgeneration");
    if (is_name(&name, "block"))
        return read_block(p, name.at);
    if (is_name(&name, "print"))
        return read_print(p, name.at);
    if (is_name(&name, "break"))
        return read_flow(p, name.at, TPL_BREAK);
    if (is_name(&name, "continue"))
        return read_flow(p, name.at, TPL_CONTINUE);
    for (size_t i = 0; i < sizeof missing / sizeof missing[0]; i++)
        if (is_name(&name, missing[i]))
            return fail_node(p, CABE_ERR_UNSUPPORTED, name.at, "the tag \"%s\" is not supported", missing[i]);
    p->now = name;
    return unexpected(p, "a tag that exists and may stand here");
}

/* Whether a tag that ends the body stands here; takes it and what follows its name. */
static int take_end(struct parser *p, const char *const *ends, int *which)
{
    for (int i = 0; ends && ends[i]; i++)
        if (is_name(&p->now, ends[i])) {
            *which = i;
            return next(p) ? 1 : -1;
        }
    return 0;
}

/*
 * Up to one of `ends` (NULL: the template's end); *which says which one, and the parser is behind its name.
 * NULL is an empty body, or a failure.
 */
static const struct tpl_node *read_body(struct parser *p, const char *const *ends, int *which)
{
    const struct tpl_node *first = NULL, *last = NULL, *made;
    struct tpl_node *data;
    int ended;

    if (!enter(p))
        return NULL;
    for (;;) {
        size_t at = p->now.at;

        if (p->now.token == TPL_T_END) {
            p->nesting--;
            return ends ? unexpected(p, ends[1] ? (ends[2] ? ends[2] : ends[1]) : ends[0]) : first;
        }
        if (p->now.token == TPL_T_DATA) {
            data = node(p, TPL_DATA, at);
            if (!data)
                return NULL;
            data->value = p->now.value;
            if (!next(p))
                return NULL;
            if (data->value.n > 0)
                append(&first, &last, data);
        } else if (p->now.token == TPL_T_PRINT_BEGIN) {
            made = next(p) ? read_tuple(p, read_expression, NULL, 0) : NULL;
            made = made ? join(p, TPL_PRINT, 0, at, made, NULL) : NULL;
            if (!made || !expect(p, TPL_T_PRINT_END))
                return NULL;
            append(&first, &last, made);
        } else {
            if (!expect(p, TPL_T_BLOCK_BEGIN))
                return NULL;
            ended = take_end(p, ends, which);
            if (ended) {
                p->nesting--;
                return ended > 0 ? first : NULL;
            }
            made = read_statement(p);
            if (!made || !expect(p, TPL_T_BLOCK_END))
                return NULL;
            append(&first, &last, made);
        }
    }
}

int cabe_tpl_parse(struct cabe_template *template, enum cabe_status *status, struct cabe_error *err)
{
    struct parser p = {.template = template,
                       .lexer = {.s = template->source,
                                 .n = template->n_source,
                                 .line_starting = 1,
                                 .memory = &template->memory,
                                 .template = template,
                                 .err = err},
                       .err = err};

    if (next(&p))
        template->body = read_body(&p, NULL, NULL);
    *status = p.status;
    return p.status == CABE_OK;
}
