/* The words of a template, as jinja2's lexer.py has them with trim_blocks and lstrip_blocks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/template_parts.h"

enum state { DATA, PRINT, BLOCK, RAW };

static int fail(struct tpl_lexer *l, size_t at, const char *message)
{
    l->status = cabe_tpl_fail_at(l->template, at, l->err, CABE_ERR_FORMAT, "%s", message);
    return 0;
}

static int starts(const struct tpl_lexer *l, size_t at, const char *text)
{
    size_t n = strlen(text);

    return at <= l->n && l->n - at >= n && memcmp(l->s + at, text, n) == 0;
}

static size_t skip_space(const struct tpl_lexer *l, size_t at)
{
    size_t bytes;

    while (at < l->n && cabe_tpl_is_space(cabe_tpl_code(l->s, l->n, at, &bytes)))
        at += bytes;
    return at;
}

static size_t skip_word(const struct tpl_lexer *l, size_t at, const char *word)
{
    return starts(l, at, word) ? skip_space(l, at + strlen(word)) : SIZE_MAX;
}

/* Goes on behind the end of a tag; *line_starting as the reference's m.group()[-1:] == "\n". */
static void move(struct tpl_lexer *l, size_t to)
{
    l->at = to;
    l->line_starting = to > 0 && l->s[to - 1] == '\n';
}

/* Behind "%}" or "#}" at `at`, whose sign is the byte before it. */
static size_t behind(const struct tpl_lexer *l, size_t at, char sign)
{
    if (sign == '-')
        return skip_space(l, at + 2);
    return sign != '+' && at + 2 < l->n && l->s[at + 2] == '\n' ? at + 3 : at + 2;
}

/* Text before a tag, cut as the tag's sign says. */
static struct tpl_value data_before(const struct tpl_lexer *l, size_t begin, size_t end, char sign,
                                    int is_print)
{
    struct tpl_value text = {.kind = TPL_TEXT, .n = (uint32_t)(end - begin), .s = l->s + begin}, rest;
    size_t line = end;

    if (sign == '-')
        return cabe_tpl_strip(&text, NULL, TPL_RIGHT);
    if (sign == '+' || is_print)
        return text;
    while (line > begin && l->s[line - 1] != '\n')
        line--;
    if (line == begin && !l->line_starting)
        return text;
    rest = (struct tpl_value){.kind = TPL_TEXT, .n = (uint32_t)(end - line), .s = l->s + line};
    if (cabe_tpl_strip(&rest, NULL, TPL_RIGHT).n == 0)
        text.n = (uint32_t)(line - begin);
    return text;
}

static char sign_at(const struct tpl_lexer *l, size_t at)
{
    return at < l->n && (l->s[at] == '-' || l->s[at] == '+') ? l->s[at] : '\0';
}

static int read_comment(struct tpl_lexer *l, size_t begin, size_t at)
{
    for (size_t i = at; i + 1 < l->n; i++)
        if (l->s[i] == '#' && l->s[i + 1] == '}') {
            move(l, behind(l, i, i > at ? l->s[i - 1] : '\0'));
            return 1;
        }
    return fail(l, begin, "a comment without an end, \"#}\"");
}

/* Behind "raw %}" where it stands at `at`, or SIZE_MAX. */
static size_t raw_begin(const struct tpl_lexer *l, size_t at)
{
    at = skip_word(l, skip_space(l, at), "raw");
    if (at == SIZE_MAX)
        return at;
    if (starts(l, at, "-%}"))
        return skip_space(l, at + 3);
    return starts(l, at, "%}") ? at + 2 : SIZE_MAX;
}

/* Data up to the next tag; with no data, *out is the tag's token. */
static int lex_data(struct tpl_lexer *l, struct tpl_lexed *out, int *found)
{
    size_t begin = l->at, at = begin, raw;
    char kind, sign;

    while (at + 1 < l->n &&
           !(l->s[at] == '{' && (l->s[at + 1] == '{' || l->s[at + 1] == '%' || l->s[at + 1] == '#')))
        at++;
    *found = 1;
    if (at + 1 >= l->n) {
        *out = (struct tpl_lexed){.token = begin < l->n ? TPL_T_DATA : TPL_T_END, .at = begin};
        out->value = (struct tpl_value){.kind = TPL_TEXT, .n = (uint32_t)(l->n - begin), .s = l->s + begin};
        l->at = l->n;
        return 1;
    }
    kind = l->s[at + 1];
    sign = sign_at(l, at + 2);
    *out = (struct tpl_lexed){.token = TPL_T_DATA, .at = begin};
    out->value = data_before(l, begin, at, sign, kind == '{');
    if (out->value.n > 0) { /* the tag is read again, with nothing before it */
        l->at = at;
        l->line_starting = 0;
        return 1;
    }
    if (kind == '#') {
        *found = 0;
        return read_comment(l, at, at + 2 + (sign != '\0'));
    }
    raw = kind == '%' ? raw_begin(l, at + 2 + (sign != '\0')) : SIZE_MAX;
    if (raw != SIZE_MAX) {
        *found = 0;
        move(l, raw);
        l->state = RAW;
        return 1;
    }
    *out = (struct tpl_lexed){.token = kind == '{' ? TPL_T_PRINT_BEGIN : TPL_T_BLOCK_BEGIN, .at = at};
    l->state = kind == '{' ? PRINT : BLOCK;
    l->n_closing = 0;
    move(l, at + 2 + (sign != '\0'));
    return 1;
}

static int lex_raw(struct tpl_lexer *l, struct tpl_lexed *out)
{
    *out = (struct tpl_lexed){.token = TPL_T_END, .at = l->at};
    if (l->at >= l->n) /* as the reference has it */
        return 1;
    for (size_t at = l->at; at + 1 < l->n; at++) {
        char sign, end_sign;
        size_t end;

        if (!starts(l, at, "{%"))
            continue;
        sign = sign_at(l, at + 2);
        end = skip_word(l, skip_space(l, at + 2 + (sign != '\0')), "endraw");
        if (end == SIZE_MAX)
            continue;
        end_sign = sign_at(l, end);
        end += end_sign != '\0';
        if (!starts(l, end, "%}"))
            continue;
        *out = (struct tpl_lexed){.token = TPL_T_DATA, .at = l->at};
        out->value = data_before(l, l->at, at, sign, 0);
        move(l, behind(l, end, end_sign));
        l->state = DATA;
        return 1;
    }
    return fail(l, l->at, "raw without endraw");
}

static int is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static int is_word(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (uint8_t)c >= 0x80;
}

/* Digits with single underscores between them; the place behind them, or `at`. */
static size_t digits(const struct tpl_lexer *l, size_t at)
{
    size_t end = at;

    while (end < l->n && (is_digit(l->s[end]) || (l->s[end] == '_' && end > at && end + 1 < l->n &&
                                                  is_digit(l->s[end + 1]) && l->s[end - 1] != '_')))
        end++;
    return end;
}

static int read_float(struct tpl_lexer *l, struct tpl_lexed *out, size_t end)
{
    char text[64];
    size_t n = 0;

    for (size_t i = l->at; i < end; i++)
        if (l->s[i] != '_') {
            if (n + 1 >= sizeof text)
                return fail(l, l->at, "a number of too many digits");
            text[n++] = l->s[i];
        }
    text[n] = '\0';
    out->token = TPL_T_FLOAT;
    out->value = (struct tpl_value){.kind = TPL_FLOAT, .d = strtod(text, NULL)};
    l->at = end;
    return 1;
}

static int lex_number(struct tpl_lexer *l, struct tpl_lexed *out)
{
    size_t end = digits(l, l->at), mantissa = end, exponent;
    int64_t value = 0, base = 10;

    if (l->at == 0 || l->s[l->at - 1] != '.') {
        if (end + 1 < l->n && l->s[end] == '.' && is_digit(l->s[end + 1]))
            mantissa = digits(l, end + 1);
        exponent = mantissa;
        if (exponent < l->n && (l->s[exponent] | 32) == 'e') {
            exponent +=
                1u + (exponent + 1 < l->n && (l->s[exponent + 1] == '+' || l->s[exponent + 1] == '-'));
            if (exponent < l->n && is_digit(l->s[exponent]))
                return read_float(l, out, digits(l, exponent));
        }
        if (mantissa > end)
            return read_float(l, out, mantissa);
    }
    if (end == l->at + 1 && l->s[l->at] == '0' && end + 1 < l->n) {
        char c = (char)(l->s[end] | 32);

        base = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 10;
        if (base != 10)
            for (end++;
                 end < l->n && (is_digit(l->s[end]) || ((l->s[end] | 32) >= 'a' && (l->s[end] | 32) <= 'f') ||
                                l->s[end] == '_');)
                end++;
    }
    for (size_t i = l->at + (base == 10 ? 0 : 2); i < end; i++) {
        int digit = is_digit(l->s[i]) ? l->s[i] - '0' : (l->s[i] | 32) - 'a' + 10;

        if (l->s[i] == '_')
            continue;
        if (digit >= base || __builtin_mul_overflow(value, base, &value) ||
            __builtin_add_overflow(value, digit, &value))
            return fail(l, l->at, "a number that is none, or is past 2^63");
    }
    out->token = TPL_T_INT;
    out->value = (struct tpl_value){.kind = TPL_INT, .i = value};
    l->at = end;
    return 1;
}

static size_t put_code(char *out, uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 63));
        out[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63));
    out[3] = (char)(0x80 | (c & 63));
    return 4;
}

/* The number of up to n_max digits at `at`; *n: how many there are. */
static uint32_t read_digits(const struct tpl_lexer *l, size_t at, size_t end, int base, size_t n_max,
                            size_t *n)
{
    uint32_t value = 0;

    for (*n = 0; *n < n_max && at + *n < end; (*n)++) {
        char c = l->s[at + *n];
        int digit = is_digit(c) ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : 99;

        if (digit >= base)
            break;
        value = value * (uint32_t)base + (uint32_t)digit;
    }
    return value;
}

/* One escape behind a backslash; writes to `out`, returns the place behind it, 0 where it is wrong. */
static size_t unescape(struct tpl_lexer *l, size_t at, size_t end, char *out, size_t *n_out)
{
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *simple = strchr(from, l->s[at]);
    size_t n_wanted = l->s[at] == 'x' ? 2 : l->s[at] == 'u' ? 4 : l->s[at] == 'U' ? 8 : 0, n;
    uint32_t code;

    if (l->s[at] == '\n')
        return at + 1;
    if (l->s[at] != '\0' && simple) {
        out[(*n_out)++] = to[simple - from];
        return at + 1;
    }
    if (n_wanted) {
        code = read_digits(l, at + 1, end, 16, n_wanted, &n);
        if (n != n_wanted || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
            fail(l, at, "an escape that is no character");
            return 0;
        }
        *n_out += put_code(out + *n_out, code);
        return at + 1 + n;
    }
    if (l->s[at] == 'N') {
        l->status = cabe_tpl_fail_at(l->template, at, l->err, CABE_ERR_UNSUPPORTED,
                                     "characters by name, \"\\N{...}\"");
        return 0;
    }
    code = read_digits(l, at, end, 8, 3, &n);
    if (n > 0) {
        *n_out += put_code(out + *n_out, code);
        return at + n;
    }
    out[(*n_out)++] = '\\';
    return at;
}

static int lex_text(struct tpl_lexer *l, struct tpl_lexed *out)
{
    char quote = l->s[l->at], *text;
    size_t begin = l->at + 1, end = begin, n = 0;
    int escapes = 0;

    while (end < l->n && l->s[end] != quote) {
        escapes |= l->s[end] == '\\';
        end += l->s[end] == '\\' ? 2 : 1;
    }
    if (end >= l->n)
        return fail(l, l->at, "a string without an end");
    out->token = TPL_T_TEXT;
    out->value = (struct tpl_value){.kind = TPL_TEXT, .n = (uint32_t)(end - begin), .s = l->s + begin};
    l->at = end + 1;
    if (!escapes)
        return 1;
    text = cabe_tpl_take(l->memory, end - begin + 4, 1);
    if (!text) {
        l->status = cabe_fail(l->err, l->memory->refused ? CABE_ERR_OOM : CABE_ERR_LIMIT, "%s: its strings",
                              l->template->name);
        return 0;
    }
    for (size_t i = begin; i < end;) {
        if (l->s[i] != '\\') {
            text[n++] = l->s[i++];
            continue;
        }
        i = unescape(l, i + 1, end, text, &n);
        if (i == 0)
            return 0;
    }
    out->value.s = text;
    out->value.n = (uint32_t)n;
    return 1;
}

static const struct {
    char text[3];
    uint8_t token;
} operators[] = {
    {"//", TPL_T_FLOORDIV}, {"**", TPL_T_POW},      {"==", TPL_T_EQ},    {"!=", TPL_T_NE},
    {">=", TPL_T_GE},       {"<=", TPL_T_LE},       {"+", TPL_T_ADD},    {"-", TPL_T_SUB},
    {"/", TPL_T_DIV},       {"*", TPL_T_MUL},       {"%", TPL_T_MOD},    {"~", TPL_T_TILDE},
    {"[", TPL_T_LBRACKET},  {"]", TPL_T_RBRACKET},  {"(", TPL_T_LPAREN}, {")", TPL_T_RPAREN},
    {"{", TPL_T_LBRACE},    {"}", TPL_T_RBRACE},    {">", TPL_T_GT},     {"<", TPL_T_LT},
    {"=", TPL_T_ASSIGN},    {".", TPL_T_DOT},       {":", TPL_T_COLON},  {"|", TPL_T_PIPE},
    {",", TPL_T_COMMA},     {";", TPL_T_SEMICOLON},
};

static int balance(struct tpl_lexer *l, char c)
{
    char message[64] = "unexpected ' '";

    if (c == '(' || c == '[' || c == '{') {
        if (l->n_closing == sizeof l->closing)
            return fail(l, l->at, "more than 64 brackets in each other");
        l->closing[l->n_closing++] = (char)(c == '(' ? ')' : c == '[' ? ']' : '}');
    } else if (c == ')' || c == ']' || c == '}') {
        message[12] = c;
        if (l->n_closing == 0)
            return fail(l, l->at, message);
        if (l->closing[--l->n_closing] != c) {
            strcat(message, ", wanted ' '");
            message[24] = l->closing[l->n_closing];
            return fail(l, l->at, message);
        }
    }
    return 1;
}

static int lex_operator(struct tpl_lexer *l, struct tpl_lexed *out)
{
    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++)
        if (starts(l, l->at, operators[i].text)) {
            out->token = operators[i].token;
            if (!balance(l, operators[i].text[0]))
                return 0;
            l->at += strlen(operators[i].text);
            return 1;
        }
    return fail(l, l->at, "a character that does not belong here");
}

static int lex_tag(struct tpl_lexer *l, struct tpl_lexed *out)
{
    const char *end = l->state == PRINT ? "}}" : "%}";
    char sign;

    l->at = skip_space(l, l->at);
    *out = (struct tpl_lexed){.token = TPL_T_END, .at = l->at};
    if (l->at >= l->n)
        return 1;
    sign = sign_at(l, l->at);
    if (l->n_closing == 0 && (sign == '-' || (sign == '+' && l->state == BLOCK)) &&
        starts(l, l->at + 1, end)) {
        out->token = l->state == PRINT ? TPL_T_PRINT_END : TPL_T_BLOCK_END;
        move(l, behind(l, l->at + 1, sign));
        l->state = DATA;
        return 1;
    }
    if (l->n_closing == 0 && starts(l, l->at, end)) {
        out->token = l->state == PRINT ? TPL_T_PRINT_END : TPL_T_BLOCK_END;
        move(l, behind(l, l->at, l->state == PRINT ? '+' : '\0'));
        l->state = DATA;
        return 1;
    }
    if (is_digit(l->s[l->at]))
        return lex_number(l, out);
    if (is_word(l->s[l->at])) {
        size_t begin = l->at;

        while (l->at < l->n && is_word(l->s[l->at]))
            l->at++;
        out->token = TPL_T_NAME;
        out->value = (struct tpl_value){.kind = TPL_TEXT, .n = (uint32_t)(l->at - begin), .s = l->s + begin};
        return 1;
    }
    if (l->s[l->at] == '"' || l->s[l->at] == '\'')
        return lex_text(l, out);
    return lex_operator(l, out);
}

int cabe_tpl_lex(struct tpl_lexer *l, struct tpl_lexed *out)
{
    int found = 1;

    do {
        if (l->state == PRINT || l->state == BLOCK)
            return lex_tag(l, out);
        if (l->state == RAW)
            return lex_raw(l, out);
        if (!lex_data(l, out, &found))
            return 0;
    } while (!found);
    return 1;
}

void cabe_tpl_describe(const struct tpl_lexed *token, char *out, size_t room)
{
    static const char *const fixed[] = {[TPL_T_END] = "the end of the template",
                                        [TPL_T_DATA] = "text",
                                        [TPL_T_PRINT_BEGIN] = "\"{{\"",
                                        [TPL_T_PRINT_END] = "\"}}\"",
                                        [TPL_T_BLOCK_BEGIN] = "\"{%\"",
                                        [TPL_T_BLOCK_END] = "\"%}\"",
                                        [TPL_T_TEXT] = "a string",
                                        [TPL_T_INT] = "a number",
                                        [TPL_T_FLOAT] = "a number"};
    size_t n;

    if (token->token == TPL_T_NAME) {
        n = token->value.n < 60 ? token->value.n : 60;
        while (n > 0 && n < token->value.n && ((uint8_t)token->value.s[n] & 0xC0) == 0x80)
            n--;
        snprintf(out, room, "\"%.*s\"", (int)n, token->value.s);
        return;
    }
    if ((size_t)token->token < sizeof fixed / sizeof fixed[0] && fixed[token->token]) {
        snprintf(out, room, "%s", fixed[token->token]);
        return;
    }
    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++)
        if (operators[i].token == token->token)
            snprintf(out, room, "\"%s\"", operators[i].text);
}
