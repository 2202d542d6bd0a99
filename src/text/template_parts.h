/*
 * A compiled template and a running one. Internal to the files template*.c.
 *
 * Memory: two bump allocators, one of the template and one of each render; nothing is freed singly. Text
 * values are slices of bytes that never change; beside them lies, where any of it is from outside, one mark a
 * byte.
 *
 * Functions that can fail return 1, or 0 after cabe_tpl_fail().
 */
#ifndef CABE_TEXT_TEMPLATE_PARTS_H
#define CABE_TEXT_TEMPLATE_PARTS_H

#include <stddef.h>
#include <stdint.h>

#include "text/template.h"

/* ---- values ---- */

enum tpl_kind {
    TPL_UNDEFINED,
    TPL_NONE,
    TPL_BOOL,
    TPL_INT,
    TPL_FLOAT,
    TPL_TEXT,
    TPL_LIST,
    TPL_TUPLE,
    TPL_ITER, /* what generators give: walked once */
    TPL_DICT,
    TPL_SPACE, /* namespace() */
    TPL_MACRO,
    TPL_GLOBAL, /* a built-in function */
    TPL_METHOD, /* of a text, list or dict, not yet called */
    TPL_LOOP,
};

struct tpl_value {
    uint8_t kind;
    uint8_t safe; /* a text that |safe or |escape made */
    uint32_t n;   /* bytes of a text */
    union {
        int64_t i;
        double d;
        const char *s;
        struct tpl_list *list;
        struct tpl_dict *dict;
        const struct tpl_missing *missing; /* may be NULL */
        const struct tpl_macro *macro;
        const struct tpl_method *method;
        struct tpl_loop *loop;
    };
    const uint8_t *mark; /* of a text: NULL, or 1 for each byte that is from outside */
};

struct tpl_list {
    size_t n, next; /* next: of TPL_ITER, the item to give */
    struct tpl_value *items;
};

struct tpl_pair {
    struct tpl_value key, value;
};

struct tpl_dict { /* in the order of insertion */
    size_t n, room;
    struct tpl_pair *pairs;
};

struct tpl_missing {  /* why a value is undefined */
    const char *of;   /* "dict object"; NULL: a variable */
    const char *hint; /* the whole message; or NULL */
    struct tpl_value name;
};

struct tpl_macro {
    const struct tpl_node *node, *params, *body;
    struct tpl_scope *scope; /* where it was defined */
};

struct tpl_method {
    struct tpl_value self, name;
};

struct tpl_loop {
    const struct tpl_node *node;
    struct tpl_scope *scope; /* around the loop */
    const struct tpl_list *items;
    size_t index;
    uint32_t depth;
    struct tpl_list *changed; /* arguments of the last changed(); or NULL */
};

/* ---- the tree ---- */

enum tpl_type {
    /* expressions */
    TPL_CONST,     /* value */
    TPL_NAME,      /* op: id */
    TPL_MAKE_LIST, /* a: items */
    TPL_MAKE_TUPLE,
    TPL_MAKE_DICT, /* a: TPL_PAIRs */
    TPL_PAIR,      /* a: key, b: value */
    TPL_ATTRIBUTE, /* a, value: name */
    TPL_ITEM,      /* a, b: index or TPL_SLICE */
    TPL_SLICE,     /* a, b, c or NULL */
    TPL_CALL,      /* a, b: arguments, some of them TPL_KEYWORD, TPL_SPREAD */
    TPL_KEYWORD,   /* value: name, a */
    TPL_SPREAD,    /* op: 1 or 2 stars, a */
    TPL_FILTER,    /* a or NULL, value: name, b: arguments */
    TPL_TEST,      /* a, value: name, b: arguments */
    TPL_NOT,       /* a */
    TPL_NEGATE,
    TPL_PLUS,
    TPL_AND, /* a, b */
    TPL_OR,
    TPL_BINARY,          /* op: token, a, b */
    TPL_COMPARE,         /* a, b: TPL_OPERANDs */
    TPL_OPERAND,         /* op: token, a */
    TPL_JOIN,            /* a: items joined by ~ */
    TPL_IF_ELSE,         /* a: condition, b, c or NULL */
    TPL_SPACE_ATTRIBUTE, /* a target: op: id of the namespace, value: name */
    /* statements */
    TPL_DATA,         /* value */
    TPL_PRINT,        /* a */
    TPL_IF,           /* a, b: body, c: else */
    TPL_FOR,          /* a: target, b: what, c: TPL_FOR_PARTS, op: recursive */
    TPL_FOR_PARTS,    /* a: test or NULL, b: body, c: else */
    TPL_SET,          /* a: target, b */
    TPL_SET_BLOCK,    /* a: target, b: filter or NULL, c: body */
    TPL_MACRO_DEF,    /* op: id, value: name, a: TPL_PARAMs, b: body, uses */
    TPL_PARAM,        /* op: id, value: name, a: default or NULL */
    TPL_CALL_BLOCK,   /* a: the call, b: TPL_PARAMs, c: body, uses */
    TPL_FILTER_BLOCK, /* a: filter, b: body */
    TPL_WITH,         /* a: TPL_SETs, b: body */
    TPL_SCOPED,       /* b: body */
    TPL_BREAK,
    TPL_CONTINUE,
};

struct tpl_node {
    uint8_t type;
    uint8_t uses; /* of a macro: bits of enum tpl_uses */
    uint32_t op;
    uint32_t at; /* byte of the source */
    struct tpl_value value;
    const struct tpl_node *a, *b, *c, *next;
};

/* Names known before any template is read; their ids. */
enum tpl_name {
    TPL_NAME_LOOP,
    TPL_NAME_CALLER,
    TPL_NAME_VARARGS,
    TPL_NAME_KWARGS,
    TPL_NAME_RANGE, /* from here on: functions */
    TPL_NAME_DICT,
    TPL_NAME_NAMESPACE,
    TPL_NAME_RAISE,
    TPL_NAME_STRFTIME,
    TPL_N_NAMES,
};
enum tpl_uses { TPL_USES_CALLER = 1, TPL_USES_VARARGS = 2, TPL_USES_KWARGS = 4 };

/* ---- memory ---- */

struct tpl_block;
struct tpl_memory {
    struct tpl_block *blocks; /* the newest first */
    uint64_t used_bytes, limit_bytes;
    int refused; /* by the system, not by the limit */
};
void *cabe_tpl_take(struct tpl_memory *memory, size_t n,
                    size_t item_bytes); /* zeroed, aligned to 8; or NULL */
/* Makes `old` of old_bytes larger, in place where it is the newest. What is new is not zeroed. */
void *cabe_tpl_grow(struct tpl_memory *memory, void *old, size_t old_bytes, size_t new_bytes);
void cabe_tpl_memory_clear(struct tpl_memory *memory);

/* ---- compiling ---- */

struct cabe_template {
    struct tpl_memory memory;
    const char *name;
    const char *source; /* newlines made one */
    size_t n_source;
    struct tpl_value *names; /* by id */
    uint32_t n_names, names_room;
    const struct tpl_node *body;
};

enum tpl_token {
    TPL_T_END,
    TPL_T_DATA,
    TPL_T_PRINT_BEGIN,
    TPL_T_PRINT_END,
    TPL_T_BLOCK_BEGIN,
    TPL_T_BLOCK_END,
    TPL_T_NAME,
    TPL_T_TEXT,
    TPL_T_INT,
    TPL_T_FLOAT,
    TPL_T_ADD,
    TPL_T_SUB,
    TPL_T_MUL,
    TPL_T_DIV,
    TPL_T_FLOORDIV,
    TPL_T_MOD,
    TPL_T_POW,
    TPL_T_TILDE,
    TPL_T_LBRACKET,
    TPL_T_RBRACKET,
    TPL_T_LPAREN,
    TPL_T_RPAREN,
    TPL_T_LBRACE,
    TPL_T_RBRACE,
    TPL_T_EQ,
    TPL_T_NE,
    TPL_T_GT,
    TPL_T_GE,
    TPL_T_LT,
    TPL_T_LE,
    TPL_T_ASSIGN,
    TPL_T_DOT,
    TPL_T_COLON,
    TPL_T_PIPE,
    TPL_T_COMMA,
    TPL_T_SEMICOLON,
    TPL_T_IN, /* only in nodes */
    TPL_T_NOT_IN,
};

struct tpl_lexed {
    enum tpl_token token;
    size_t at;
    struct tpl_value value; /* a text for data, names and texts; a number */
};

struct tpl_lexer {
    const char *s;
    size_t n, at;
    int state;         /* 0 data, 1 print, 2 block, 3 raw */
    int line_starting; /* what was read before ended a line */
    char closing[64];  /* brackets that are open */
    size_t n_closing;
    struct tpl_memory *memory;
    struct cabe_template *template;
    struct cabe_error *err;
    enum cabe_status status;
};

/* The next token, in *out. */
int cabe_tpl_lex(struct tpl_lexer *lexer, struct tpl_lexed *out);
/* What a token is called in a message: "'%}'", "name 'x'". */
void cabe_tpl_describe(const struct tpl_lexed *token, char *out, size_t room);
int cabe_tpl_parse(struct cabe_template *template, enum cabe_status *status, struct cabe_error *err);
/* Fails at byte `at` of the source: "NAME: line L, column C: ...". */
enum cabe_status cabe_tpl_fail_at(const struct cabe_template *template, size_t at, struct cabe_error *err,
                                  enum cabe_status status, const char *format, ...) CABE_PRINTF(5, 6);

/* ---- running ---- */

struct tpl_var {
    uint32_t id;
    struct tpl_value value;
    struct tpl_var *next;
};

struct tpl_scope {
    struct tpl_scope *up;
    struct tpl_var *vars;
};

struct tpl_out { /* a text that grows */
    struct tpl_run *run;
    char *s;
    uint8_t *mark;
    size_t n, room, mark_room;
};

struct tpl_run {
    const struct cabe_template *template;
    struct tpl_memory memory;
    struct cabe_template_limits limits;
    uint64_t steps;
    uint32_t depth;
    size_t at; /* of the node that is evaluated */
    struct tpl_out *out;
    const uint8_t *ones; /* marks */
    size_t n_ones;
    enum cabe_status status;
    struct cabe_error *err;
};

struct tpl_args {
    struct tpl_value *values;
    size_t n;
    struct tpl_pair *named;
    size_t n_named;
};

int cabe_tpl_fail(struct tpl_run *run, enum cabe_status status, const char *format, ...) CABE_PRINTF(3, 4);
/* Python's answer to the use of something undefined. */
int cabe_tpl_fail_undefined(struct tpl_run *run, const struct tpl_value *value);
int cabe_tpl_step(struct tpl_run *run, uint64_t n);
int cabe_tpl_enter(struct tpl_run *run); /* one level deeper; run->depth-- leaves */
void *cabe_tpl_new(struct tpl_run *run, size_t n, size_t item_bytes); /* zeroed; NULL has failed the run */
int cabe_tpl_no_memory(struct tpl_run *run);

/* template_value.c */
struct tpl_value cabe_tpl_literal(const char *text); /* of a string that outlives the render */
struct tpl_value cabe_tpl_bool(int b);
struct tpl_value cabe_tpl_int(int64_t i);
int cabe_tpl_undefined(struct tpl_run *run, const char *of, struct tpl_value name, struct tpl_value *out);
int cabe_tpl_list(struct tpl_run *run, enum tpl_kind kind, size_t room, struct tpl_value *out);
int cabe_tpl_list_add(struct tpl_run *run, struct tpl_list *list, size_t *room, const struct tpl_value *item);
int cabe_tpl_dict(struct tpl_run *run, enum tpl_kind kind, size_t room, struct tpl_value *out);
int cabe_tpl_dict_set(struct tpl_run *run, struct tpl_dict *dict, const struct tpl_value *key,
                      const struct tpl_value *value);
/* The value of a key, or NULL; sets *ok to 0 where it failed. */
const struct tpl_value *cabe_tpl_dict_get(struct tpl_run *run, const struct tpl_dict *dict,
                                          const struct tpl_value *key, int *ok);
int cabe_tpl_is_text(const struct tpl_value *value, const char *text);
const char *cabe_tpl_type(const struct tpl_value *value);   /* "str" */
const char *cabe_tpl_object(const struct tpl_value *value); /* "str object" */
int cabe_tpl_truth(struct tpl_run *run, const struct tpl_value *value);
int cabe_tpl_equal(struct tpl_run *run, const struct tpl_value *a, const struct tpl_value *b, int *equal);
/* *order -1, 0 or 1, or 2 beside a NaN; fails where Python does not order these two. */
int cabe_tpl_order(struct tpl_run *run, const struct tpl_value *a, const struct tpl_value *b, const char *op,
                   int *order);
int cabe_tpl_contains(struct tpl_run *run, const struct tpl_value *in, const struct tpl_value *item,
                      int *found);
int cabe_tpl_length(struct tpl_run *run, const struct tpl_value *value, int64_t *length);
/* All that iterating gives, as a list that is not to be changed. */
int cabe_tpl_items(struct tpl_run *run, const struct tpl_value *value, const struct tpl_list **out);
int cabe_tpl_from_json(struct tpl_run *run, const json_t *json, int outside, struct tpl_value *out);

/* template_print.c: texts that grow, and values as texts */
int cabe_tpl_reserve(struct tpl_out *out, size_t n); /* room for n bytes more */
int cabe_tpl_put(struct tpl_out *out, const char *s, size_t n, const uint8_t *mark);
int cabe_tpl_put_part(struct tpl_out *out, const struct tpl_value *text, size_t begin, size_t end);
int cabe_tpl_put_literal(struct tpl_out *out, const char *text);
int cabe_tpl_print(struct tpl_out *out, const struct tpl_value *value); /* str(value) */
int cabe_tpl_repr(struct tpl_out *out, const struct tpl_value *value);
int cabe_tpl_escape(struct tpl_out *out, const struct tpl_value *text); /* for HTML */
struct tpl_value cabe_tpl_taken(const struct tpl_out *out);
int cabe_tpl_text_of(struct tpl_run *run, const struct tpl_value *value,
                     struct tpl_value *text); /* str(value) */
#define CABE_TPL_FLOAT_MAX 40
void cabe_tpl_float(char out[CABE_TPL_FLOAT_MAX], double d);
struct tpl_json_form {
    int escape; /* all but ASCII */
    int sort;
    int pretty; /* lines, each indented by `indent` */
    struct tpl_value indent, comma, colon;
};
int cabe_tpl_json(struct tpl_out *out, const struct tpl_value *value, const struct tpl_json_form *form);

/* template_text.c */
int cabe_tpl_is_space(uint32_t c);
/* The code point at s[at] and its bytes; s is UTF-8. */
uint32_t cabe_tpl_code(const char *s, size_t n, size_t at, size_t *bytes);
size_t cabe_tpl_text_length(const struct tpl_value *text);         /* code points */
size_t cabe_tpl_text_byte(const struct tpl_value *text, size_t i); /* of the i-th code point */
struct tpl_value cabe_tpl_text_part(const struct tpl_value *text, size_t begin, size_t end); /* bytes */
size_t cabe_tpl_text_find(const struct tpl_value *in, const struct tpl_value *what,
                          size_t from); /* SIZE_MAX */
enum tpl_sides { TPL_LEFT = 1, TPL_RIGHT = 2, TPL_BOTH = 3 };
struct tpl_value cabe_tpl_strip(const struct tpl_value *text, const struct tpl_value *chars, int sides);
enum tpl_case { TPL_UPPER, TPL_LOWER, TPL_CAPITALIZE, TPL_TITLE, TPL_TITLE_FILTER };
int cabe_tpl_recase(struct tpl_run *run, const struct tpl_value *text, enum tpl_case to,
                    struct tpl_value *out);
int cabe_tpl_replace(struct tpl_run *run, const struct tpl_value *text, const struct tpl_value *old,
                     const struct tpl_value *with, int64_t n_max, struct tpl_value *out);
/* "%s" % values; `values`: a tuple, or one. */
int cabe_tpl_percent(struct tpl_run *run, const struct tpl_value *format, const struct tpl_value *values,
                     struct tpl_value *out);
/* *known is 0 where a text has no such method. */
int cabe_tpl_text_method(struct tpl_run *run, const struct tpl_value *self, const struct tpl_value *name,
                         const struct tpl_args *args, struct tpl_value *out);
int cabe_tpl_has_text_method(const struct tpl_value *name);

/* template_filter.c */
const struct tpl_value *cabe_tpl_arg(const struct tpl_args *args, size_t index, const char *name);
/* Takes from args what the filter or method may take; fails where there are more, or names that it does not
 * have. */
int cabe_tpl_check_args(struct tpl_run *run, const struct tpl_args *args, const char *what, size_t n_max,
                        const char *const *names);
int cabe_tpl_filter(struct tpl_run *run, const struct tpl_value *name, const struct tpl_value *input,
                    const struct tpl_args *args, struct tpl_value *out);

/* template_is.c */
int cabe_tpl_test(struct tpl_run *run, const struct tpl_value *name, const struct tpl_value *input,
                  const struct tpl_args *args, int *holds);

/* template_operator.c; `op`: a token */
int cabe_tpl_int_operation(struct tpl_run *run, uint32_t op, int64_t a, int64_t b, struct tpl_value *out);
int cabe_tpl_binary(struct tpl_run *run, uint32_t op, const struct tpl_value *a, const struct tpl_value *b,
                    struct tpl_value *out);
int cabe_tpl_compare(struct tpl_run *run, uint32_t op, const struct tpl_value *a, const struct tpl_value *b,
                     int *holds);

/* template_call.c */
int cabe_tpl_eval_args(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *nodes,
                       struct tpl_args *args);
int cabe_tpl_call(struct tpl_run *run, const struct tpl_value *callee, const struct tpl_args *args,
                  struct tpl_value *out);

/* template_run.c */
int cabe_tpl_attribute(struct tpl_run *run, const struct tpl_value *of, const struct tpl_value *name,
                       struct tpl_value *out);
int cabe_tpl_item(struct tpl_run *run, const struct tpl_value *of, const struct tpl_value *index,
                  struct tpl_value *out);
int cabe_tpl_eval(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *node,
                  struct tpl_value *out);
int cabe_tpl_assign(struct tpl_run *run, struct tpl_scope *scope, uint32_t id, const struct tpl_value *value);
const struct tpl_value *cabe_tpl_look(const struct tpl_scope *scope, uint32_t id); /* or NULL */

/* template_exec.c */
enum tpl_flow { TPL_FAILED, TPL_ON, TPL_LEAVE, TPL_AGAIN };
enum tpl_flow cabe_tpl_exec(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *body);
/* What a body prints, as a text. */
int cabe_tpl_capture(struct tpl_run *run, struct tpl_scope *scope, const struct tpl_node *body,
                     struct tpl_value *out);
int cabe_tpl_call_macro(struct tpl_run *run, const struct tpl_macro *macro, const struct tpl_args *args,
                        struct tpl_value *out);
int cabe_tpl_call_loop(struct tpl_run *run, struct tpl_loop *loop, const struct tpl_args *args,
                       struct tpl_value *out);

#endif
