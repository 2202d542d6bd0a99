/* Expressions to a tree. */
#include <string.h>

#include "text/template_parser.h"

static const struct tpl_node *read_unary(struct tpl_parser *p, int with_filters);

static const struct tpl_node *constant(struct tpl_parser *p, struct tpl_value value, size_t at)
{
    struct tpl_node *made = cabe_tpl_node(p, TPL_CONST, at);

    if (made)
        made->value = value;
    return made;
}

static int is_tuple_end(const struct tpl_parser *p, const char *end)
{
    return p->now.token == TPL_T_PRINT_END || p->now.token == TPL_T_BLOCK_END ||
           p->now.token == TPL_T_RPAREN || (end && cabe_tpl_is_name(&p->now, end));
}

const struct tpl_node *cabe_tpl_read_tuple(struct tpl_parser *p, tpl_reader read, const char *end,
                                           int in_parentheses)
{
    const struct tpl_node *first = NULL, *last = NULL, *item;
    size_t at = p->now.at;
    int commas = 0, taken;

    while (!is_tuple_end(p, end)) {
        item = read(p);
        if (!item)
            return NULL;
        cabe_tpl_append(&first, &last, item);
        taken = cabe_tpl_take_token(p, TPL_T_COMMA);
        if (taken < 0)
            return NULL;
        if (!taken)
            break;
        commas = 1;
    }
    if (first && !commas)
        return first;
    if (!first && !in_parentheses)
        return cabe_tpl_unexpected(p, "an expression");
    return cabe_tpl_join_nodes(p, TPL_MAKE_TUPLE, 0, at, first, NULL);
}

static const struct tpl_node *read_pair(struct tpl_parser *p)
{
    size_t at = p->now.at;
    const struct tpl_node *key = cabe_tpl_read_expression(p), *value;

    if (!key || !cabe_tpl_expect(p, TPL_T_COLON))
        return NULL;
    value = cabe_tpl_read_expression(p);
    return value ? cabe_tpl_join_nodes(p, TPL_PAIR, 0, at, key, value) : NULL;
}

/* [items] or {pairs}: behind the opening bracket. */
static const struct tpl_node *read_items(struct tpl_parser *p, enum tpl_type type, tpl_reader read,
                                         enum tpl_token closing, size_t at)
{
    const struct tpl_node *first = NULL, *last = NULL, *item;

    while (p->now.token != closing) {
        if (first && !cabe_tpl_expect(p, TPL_T_COMMA))
            return NULL;
        if (p->now.token == closing)
            break;
        item = read(p);
        if (!item)
            return NULL;
        cabe_tpl_append(&first, &last, item);
    }
    return cabe_tpl_next(p) ? cabe_tpl_join_nodes(p, type, 0, at, first, NULL) : NULL;
}

static const struct tpl_node *read_strings(struct tpl_parser *p)
{
    struct tpl_value text = p->now.value;
    size_t at = p->now.at;

    for (;;) {
        if (!cabe_tpl_next(p))
            return NULL;
        if (p->now.token != TPL_T_TEXT)
            return constant(p, text, at);
        if (p->now.value.n > 0) { /* adjacent strings are one */
            char *s = cabe_tpl_take_memory(p, (size_t)text.n + p->now.value.n, 1);

            if (!s)
                return NULL;
            memcpy(s, text.s, text.n);
            memcpy(s + text.n, p->now.value.s, p->now.value.n);
            text.s = s;
            text.n += p->now.value.n;
        }
    }
}

static const struct tpl_node *read_name(struct tpl_parser *p)
{
    struct tpl_lexed name = p->now;

    if (!cabe_tpl_next(p))
        return NULL;
    if (cabe_tpl_is_name(&name, "true") || cabe_tpl_is_name(&name, "True"))
        return constant(p, cabe_tpl_bool(1), name.at);
    if (cabe_tpl_is_name(&name, "false") || cabe_tpl_is_name(&name, "False"))
        return constant(p, cabe_tpl_bool(0), name.at);
    if (cabe_tpl_is_name(&name, "none") || cabe_tpl_is_name(&name, "None"))
        return constant(p, (struct tpl_value){.kind = TPL_NONE}, name.at);
    return cabe_tpl_named(p, TPL_NAME, &name);
}

static const struct tpl_node *read_primary(struct tpl_parser *p)
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
        return cabe_tpl_next(p) ? constant(p, token.value, token.at) : NULL;
    case TPL_T_LPAREN:
        if (!cabe_tpl_next(p))
            return NULL;
        read = cabe_tpl_read_tuple(p, cabe_tpl_read_expression, NULL, 1);
        return read && cabe_tpl_expect(p, TPL_T_RPAREN) ? read : NULL;
    case TPL_T_LBRACKET:
        return cabe_tpl_next(p)
                   ? read_items(p, TPL_MAKE_LIST, cabe_tpl_read_expression, TPL_T_RBRACKET, token.at)
                   : NULL;
    case TPL_T_LBRACE:
        return cabe_tpl_next(p) ? read_items(p, TPL_MAKE_DICT, read_pair, TPL_T_RBRACE, token.at) : NULL;
    default:
        return cabe_tpl_unexpected(p, "an expression");
    }
}

static const struct tpl_node *read_argument(struct tpl_parser *p)
{
    struct tpl_lexed first = p->now;
    struct tpl_node *made;
    int stars = first.token == TPL_T_MUL ? 1 : first.token == TPL_T_POW ? 2 : 0;

    if (stars)
        return cabe_tpl_next(p) ? cabe_tpl_join_nodes(p, TPL_SPREAD, (uint32_t)stars, first.at,
                                                      cabe_tpl_read_expression(p), NULL)
                                : NULL;
    if (first.token == TPL_T_NAME) {
        if (!cabe_tpl_look_ahead(p))
            return NULL;
        if (p->ahead.token == TPL_T_ASSIGN) {
            made = cabe_tpl_node(p, TPL_KEYWORD, first.at);
            if (!made || !cabe_tpl_next(p) || !cabe_tpl_next(p))
                return NULL;
            made->value = first.value;
            made->a = cabe_tpl_read_expression(p);
            return made->a ? made : NULL;
        }
    }
    return cabe_tpl_read_expression(p);
}

/* (arguments); *out may be NULL for none. */
static int read_arguments(struct tpl_parser *p, const struct tpl_node **out)
{
    const struct tpl_node *first = NULL, *last = NULL, *item;
    int named_yet = 0;

    if (!cabe_tpl_expect(p, TPL_T_LPAREN))
        return 0;
    while (p->now.token != TPL_T_RPAREN) {
        size_t at = p->now.at;

        if (first && !cabe_tpl_expect(p, TPL_T_COMMA))
            return 0;
        if (p->now.token == TPL_T_RPAREN)
            break;
        item = read_argument(p);
        if (!item)
            return 0;
        if (named_yet && item->type != TPL_KEYWORD && item->type != TPL_SPREAD) {
            cabe_tpl_fail_node(p, CABE_ERR_FORMAT, at, "an argument without a name behind one with a name");
            return 0;
        }
        named_yet |= item->type == TPL_KEYWORD || item->type == TPL_SPREAD;
        cabe_tpl_append(&first, &last, item);
    }
    *out = first;
    return cabe_tpl_next(p);
}

static int ends_index(const struct tpl_parser *p)
{
    return p->now.token == TPL_T_RBRACKET || p->now.token == TPL_T_COMMA;
}

/* What stands between [ and ]: an expression, or a slice. */
static const struct tpl_node *read_index(struct tpl_parser *p)
{
    const struct tpl_node *part[3] = {NULL, NULL, NULL};
    size_t at = p->now.at;
    struct tpl_node *slice;

    if (p->now.token != TPL_T_COLON) {
        part[0] = cabe_tpl_read_expression(p);
        if (!part[0] || p->now.token != TPL_T_COLON)
            return part[0];
    }
    for (int i = 1; i < 3 && p->now.token == TPL_T_COLON; i++) {
        if (!cabe_tpl_next(p))
            return NULL;
        if (p->now.token == TPL_T_COLON || ends_index(p))
            continue;
        part[i] = cabe_tpl_read_expression(p);
        if (!part[i])
            return NULL;
    }
    slice = cabe_tpl_node(p, TPL_SLICE, at);
    if (slice) {
        slice->a = part[0];
        slice->b = part[1];
        slice->c = part[2];
    }
    return slice;
}

static const struct tpl_node *read_subscript(struct tpl_parser *p, const struct tpl_node *of)
{
    size_t at = p->now.at;
    const struct tpl_node *first = NULL, *last = NULL, *index;

    if (p->now.token == TPL_T_DOT) {
        struct tpl_lexed name;
        struct tpl_node *made;

        if (!cabe_tpl_next(p))
            return NULL;
        name = p->now;
        if (name.token == TPL_T_INT)
            return cabe_tpl_next(p)
                       ? cabe_tpl_join_nodes(p, TPL_ITEM, 0, at, of, constant(p, name.value, name.at))
                       : NULL;
        if (!cabe_tpl_expect(p, TPL_T_NAME))
            return NULL;
        made = cabe_tpl_node(p, TPL_ATTRIBUTE, at);
        if (made) {
            made->a = of;
            made->value = name.value;
        }
        return made;
    }
    if (!cabe_tpl_next(p))
        return NULL;
    while (p->now.token != TPL_T_RBRACKET) {
        if (first && !cabe_tpl_expect(p, TPL_T_COMMA))
            return NULL;
        index = read_index(p);
        if (!index)
            return NULL;
        cabe_tpl_append(&first, &last, index);
    }
    if (!first)
        return cabe_tpl_unexpected(p, "an index");
    if (!cabe_tpl_next(p))
        return NULL;
    if (first->next)
        first = cabe_tpl_join_nodes(p, TPL_MAKE_TUPLE, 0, at, first, NULL);
    return cabe_tpl_join_nodes(p, TPL_ITEM, 0, at, of, first);
}

static const struct tpl_node *read_call(struct tpl_parser *p, const struct tpl_node *callee)
{
    const struct tpl_node *arguments = NULL;
    size_t at = p->now.at;

    return read_arguments(p, &arguments) ? cabe_tpl_join_nodes(p, TPL_CALL, 0, at, callee, arguments) : NULL;
}

/* A filter's or test's name, with dots. */
static int read_dotted(struct tpl_parser *p, struct tpl_node *made)
{
    made->value = p->now.value;
    if (!cabe_tpl_expect(p, TPL_T_NAME))
        return 0;
    while (p->now.token == TPL_T_DOT) {
        struct tpl_value part;

        if (!cabe_tpl_next(p))
            return 0;
        part = p->now.value;
        if (!cabe_tpl_expect(p, TPL_T_NAME))
            return 0;
        made->value.n = (uint32_t)(part.s + part.n - made->value.s);
    }
    return 1;
}

const struct tpl_node *cabe_tpl_read_filter(struct tpl_parser *p, const struct tpl_node *input)
{
    struct tpl_node *made = cabe_tpl_node(p, TPL_FILTER, p->now.at);

    if (!made || !read_dotted(p, made))
        return NULL;
    made->a = input;
    if (p->now.token == TPL_T_LPAREN && !read_arguments(p, &made->b))
        return NULL;
    return made;
}

static const struct tpl_node *read_postfix(struct tpl_parser *p, const struct tpl_node *of)
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
static const struct tpl_node *read_test(struct tpl_parser *p, const struct tpl_node *input)
{
    size_t at = p->now.at;
    int negated = cabe_tpl_take_name(p, "not");
    struct tpl_node *made;

    if (negated < 0)
        return NULL;
    made = cabe_tpl_node(p, TPL_TEST, at);
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
        if (cabe_tpl_is_name(&p->now, "else") || cabe_tpl_is_name(&p->now, "or") ||
            cabe_tpl_is_name(&p->now, "and"))
            break;
        if (cabe_tpl_is_name(&p->now, "is"))
            return cabe_tpl_fail_node(p, CABE_ERR_FORMAT, p->now.at, "a test of a test");
        if (cabe_tpl_is_name(&p->now, "if") ||
            cabe_tpl_is_name(&p->now, "in")) /* a reader's intention; the reference says the same */
            break;
        made->b = read_postfix(p, read_primary(p));
        if (!made->b)
            return NULL;
        break;
    default:
        break;
    }
    return negated ? cabe_tpl_join_nodes(p, TPL_NOT, 0, at, made, NULL) : made;
}

static const struct tpl_node *read_filters(struct tpl_parser *p, const struct tpl_node *of)
{
    while (of) {
        if (p->now.token == TPL_T_PIPE)
            of = cabe_tpl_next(p) ? cabe_tpl_read_filter(p, of) : NULL;
        else if (cabe_tpl_is_name(&p->now, "is"))
            of = cabe_tpl_next(p) ? read_test(p, of) : NULL;
        else if (p->now.token == TPL_T_LPAREN)
            of = read_call(p, of);
        else
            break;
    }
    return of;
}

static const struct tpl_node *read_unary(struct tpl_parser *p, int with_filters)
{
    enum tpl_token token = p->now.token;
    size_t at = p->now.at;
    const struct tpl_node *read;

    if (!cabe_tpl_nest(p))
        return NULL;
    if (token == TPL_T_SUB || token == TPL_T_ADD) {
        read = cabe_tpl_next(p) ? read_unary(p, 0) : NULL;
        read = read ? cabe_tpl_join_nodes(p, token == TPL_T_SUB ? TPL_NEGATE : TPL_PLUS, 0, at, read, NULL)
                    : NULL;
    } else {
        read = read_primary(p);
    }
    read = read_postfix(p, read);
    if (with_filters)
        read = read_filters(p, read);
    p->nesting--;
    return read;
}

static const struct tpl_node *read_operand(struct tpl_parser *p)
{
    return read_unary(p, 1);
}

/* Items with operators of one rank between them, from the left. */
static const struct tpl_node *read_binary(struct tpl_parser *p, tpl_reader read, const enum tpl_token *tokens)
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
        right = cabe_tpl_next(p) ? read(p) : NULL;
        left = right ? cabe_tpl_join_nodes(p, TPL_BINARY, token, at, left, right) : NULL;
    }
    return left;
}

static const struct tpl_node *read_power(struct tpl_parser *p)
{
    static const enum tpl_token tokens[] = {TPL_T_POW, TPL_T_END};

    return read_binary(p, read_operand, tokens);
}

static const struct tpl_node *read_product(struct tpl_parser *p)
{
    static const enum tpl_token tokens[] = {TPL_T_MUL, TPL_T_DIV, TPL_T_FLOORDIV, TPL_T_MOD, TPL_T_END};

    return read_binary(p, read_power, tokens);
}

static const struct tpl_node *read_joined(struct tpl_parser *p)
{
    size_t at = p->now.at;
    const struct tpl_node *first = read_product(p), *last = first, *item;

    if (!first || p->now.token != TPL_T_TILDE)
        return first;
    while (p->now.token == TPL_T_TILDE) {
        item = cabe_tpl_next(p) ? read_product(p) : NULL;
        if (!item)
            return NULL;
        cabe_tpl_append(&first, &last, item);
    }
    return cabe_tpl_join_nodes(p, TPL_JOIN, 0, at, first, NULL);
}

static const struct tpl_node *read_sum(struct tpl_parser *p)
{
    static const enum tpl_token tokens[] = {TPL_T_ADD, TPL_T_SUB, TPL_T_END};

    return read_binary(p, read_joined, tokens);
}

/* The comparison that stands here, taken; TPL_T_END: none. 0 where it failed. */
static int take_comparison(struct tpl_parser *p, enum tpl_token *out)
{
    *out = TPL_T_END;
    if (p->now.token >= TPL_T_EQ && p->now.token <= TPL_T_LE) {
        *out = p->now.token;
        return cabe_tpl_next(p);
    }
    if (cabe_tpl_is_name(&p->now, "in")) {
        *out = TPL_T_IN;
        return cabe_tpl_next(p);
    }
    if (!cabe_tpl_is_name(&p->now, "not"))
        return 1;
    if (!cabe_tpl_look_ahead(p))
        return 0;
    if (!cabe_tpl_is_name(&p->ahead, "in"))
        return 1;
    *out = TPL_T_NOT_IN;
    return cabe_tpl_next(p) && cabe_tpl_next(p);
}

static const struct tpl_node *read_compare(struct tpl_parser *p)
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
        right = right ? cabe_tpl_join_nodes(p, TPL_OPERAND, token, at_operator, right, NULL) : NULL;
        if (!right)
            return NULL;
        cabe_tpl_append(&first, &last, right);
    }
    return left && first ? cabe_tpl_join_nodes(p, TPL_COMPARE, 0, at, left, first) : left;
}

static const struct tpl_node *read_not(struct tpl_parser *p)
{
    size_t at = p->now.at;
    const struct tpl_node *read;

    if (!cabe_tpl_is_name(&p->now, "not"))
        return read_compare(p);
    if (!cabe_tpl_nest(p) || !cabe_tpl_next(p))
        return NULL;
    read = read_not(p);
    p->nesting--;
    return read ? cabe_tpl_join_nodes(p, TPL_NOT, 0, at, read, NULL) : NULL;
}

static const struct tpl_node *read_words(struct tpl_parser *p, tpl_reader read, const char *word,
                                         enum tpl_type type)
{
    const struct tpl_node *left = read(p), *right;

    while (left && cabe_tpl_is_name(&p->now, word)) {
        size_t at = p->now.at;

        right = cabe_tpl_next(p) ? read(p) : NULL;
        left = right ? cabe_tpl_join_nodes(p, type, 0, at, left, right) : NULL;
    }
    return left;
}

static const struct tpl_node *read_and(struct tpl_parser *p)
{
    return read_words(p, read_not, "and", TPL_AND);
}

const struct tpl_node *cabe_tpl_read_or(struct tpl_parser *p)
{
    return read_words(p, read_and, "or", TPL_OR);
}

const struct tpl_node *cabe_tpl_read_expression(struct tpl_parser *p)
{
    const struct tpl_node *value;

    if (!cabe_tpl_nest(p))
        return NULL;
    value = cabe_tpl_read_or(p);
    while (value && cabe_tpl_is_name(&p->now, "if")) {
        struct tpl_node *made = cabe_tpl_node(p, TPL_IF_ELSE, p->now.at);
        int has_else;

        if (!made || !cabe_tpl_next(p))
            return NULL;
        made->b = value;
        made->a = cabe_tpl_read_or(p);
        has_else = made->a ? cabe_tpl_take_name(p, "else") : -1;
        if (has_else < 0)
            return NULL;
        if (has_else) {
            made->c = cabe_tpl_read_expression(p);
            if (!made->c)
                return NULL;
        }
        value = made;
    }
    p->nesting--;
    return value;
}
