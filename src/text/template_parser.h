/*
 * The parser's parts that both of its files use: template_parse.c (statements), template_expression.c.
 * Readers return NULL when they have failed; then parser->status says so.
 */
#ifndef CABE_TEXT_TEMPLATE_PARSER_H
#define CABE_TEXT_TEMPLATE_PARSER_H

#include "text/template_parts.h"

struct tpl_parser {
    struct cabe_template *template;
    struct tpl_lexer lexer;
    struct tpl_lexed now, ahead;
    int has_ahead;
    int nesting, loops;
    uint8_t uses; /* of the macro that is read */
    enum cabe_status status;
    struct cabe_error *err;
};

typedef const struct tpl_node *(*tpl_reader)(struct tpl_parser *);

const struct tpl_node *cabe_tpl_fail_node(struct tpl_parser *p, enum cabe_status status, size_t at,
                                          const char *format, ...) CABE_PRINTF(4, 5);
/* "FOUND, wanted WANTED" at the token that stands here. */
const struct tpl_node *cabe_tpl_unexpected(struct tpl_parser *p, const char *wanted);

int cabe_tpl_next(struct tpl_parser *p);
int cabe_tpl_look_ahead(struct tpl_parser *p); /* fills p->ahead */
int cabe_tpl_is_name(const struct tpl_lexed *token, const char *name);
/* Take the token where it is this one: 1 taken, 0 not, -1 failed. */
int cabe_tpl_take_token(struct tpl_parser *p, enum tpl_token token);
int cabe_tpl_take_name(struct tpl_parser *p, const char *name);
int cabe_tpl_expect(struct tpl_parser *p, enum tpl_token token);
/* One level deeper; p->nesting-- leaves. */
int cabe_tpl_nest(struct tpl_parser *p);

/* From the template's memory; NULL has failed. */
void *cabe_tpl_take_memory(struct tpl_parser *p, size_t n, size_t item_bytes);
struct tpl_node *cabe_tpl_node(struct tpl_parser *p, enum tpl_type type, size_t at);
/* A node with up to two children, which must have been read well. */
const struct tpl_node *cabe_tpl_join_nodes(struct tpl_parser *p, enum tpl_type type, uint32_t op, size_t at,
                                           const struct tpl_node *a, const struct tpl_node *b);
/* A node with a name and its id. */
const struct tpl_node *cabe_tpl_named(struct tpl_parser *p, enum tpl_type type, const struct tpl_lexed *name);
/* Puts `item` at the end of a list of nodes. */
void cabe_tpl_append(const struct tpl_node **first, const struct tpl_node **last,
                     const struct tpl_node *item);

const struct tpl_node *cabe_tpl_read_expression(struct tpl_parser *p);
const struct tpl_node *cabe_tpl_read_or(struct tpl_parser *p); /* an expression without if and else */
/* One item, or several with commas: a tuple. `end`: a name that ends it, or NULL. */
const struct tpl_node *cabe_tpl_read_tuple(struct tpl_parser *p, tpl_reader read, const char *end,
                                           int in_parentheses);
/* Behind "|". */
const struct tpl_node *cabe_tpl_read_filter(struct tpl_parser *p, const struct tpl_node *input);

#endif
