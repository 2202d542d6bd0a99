/*
 * The regular expressions by which language models split text before byte-pair encoding, by hand.
 *
 * Most are one family: contractions, words with a character before them, numbers, signs with a space before them and
 * line breaks after them, white space. Alternatives are tried in that order at every place, and every character
 * matches one, so that a piece ends where the next one begins. The others look for runs of one kind of character;
 * text between runs is a piece too. Both see [at, n) as all the text there is.
 */
#include "text/bpe.h"
#include "text/unicode.h"

#define SPACE CABE_CLASS_SPACE
#define LETTER CABE_CLASS_LETTER
#define NUMBER CABE_CLASS_NUMBER
#define MARK CABE_CLASS_MARK
#define PUNCTUATION CABE_CLASS_PUNCTUATION
#define SYMBOL CABE_CLASS_SYMBOL
#define UPPER CABE_CLASS_UPPER
#define LOWER CABE_CLASS_LOWER

struct family {
    uint8_t word;         /* classes of a word */
    uint8_t not_sign;     /* classes that signs are none of */
    uint8_t sign;         /* classes that signs are of; 0: any other */
    uint8_t before;       /* what is not allowed before a word, beside line breaks; 0: a space only */
    uint8_t digits_max;   /* in one number; 0: any, and a space before it */
    uint8_t isolates;     /* digits end the text before them */
    uint8_t contractions; /* 1: lower case, 2: any case, 0: none */
    uint8_t has_breaks;   /* line breaks end white space, and go with the signs before them */
    uint8_t slash;        /* go with signs as well */
    uint8_t cased;        /* words go on from upper to lower case only; 2: with a contraction */
    uint8_t ascii_sign;   /* an ASCII sign begins a word of ASCII letters */
};

static const struct family families[] = {
    [CABE_SPLIT_GPT2] = {.word = LETTER, .not_sign = SPACE | LETTER | NUMBER, .contractions = 1},
    [CABE_SPLIT_GPT2_DIGITS] = {.word = LETTER, .not_sign = SPACE | LETTER | NUMBER, .contractions = 1,
                                .digits_max = 1, .isolates = 1},
    [CABE_SPLIT_LLAMA3] = {.word = LETTER, .not_sign = SPACE | LETTER | NUMBER, .before = LETTER | NUMBER,
                           .contractions = 2, .digits_max = 3, .has_breaks = 1},
    [CABE_SPLIT_QWEN2] = {.word = LETTER, .not_sign = SPACE | LETTER | NUMBER, .before = LETTER | NUMBER,
                          .contractions = 2, .digits_max = 1, .has_breaks = 1},
    [CABE_SPLIT_QWEN35] = {.word = LETTER | MARK, .not_sign = SPACE | LETTER | MARK | NUMBER,
                           .before = LETTER | NUMBER, .contractions = 2, .digits_max = 1, .has_breaks = 1},
    [CABE_SPLIT_GPT4O] = {.word = LETTER | MARK, .not_sign = SPACE | LETTER | NUMBER, .before = LETTER | NUMBER,
                          .digits_max = 3, .has_breaks = 1, .slash = 1, .cased = 2},
    [CABE_SPLIT_TEKKEN] = {.word = LETTER | MARK, .not_sign = SPACE | LETTER | NUMBER, .before = LETTER | NUMBER,
                           .digits_max = 1, .has_breaks = 1, .slash = 1, .cased = 1},
    [CABE_SPLIT_DEEPSEEK3] = {.word = LETTER | MARK, .not_sign = SPACE, .sign = PUNCTUATION | SYMBOL,
                              .before = LETTER | PUNCTUATION | SYMBOL, .has_breaks = 1, .ascii_sign = 1},
};

struct text { /* what a piece is cut from */
    const struct cabe_tokenizer *tokenizer;
    const struct family *family;
    const uint8_t *bytes;
    size_t n;
};

/* The class of the character at `at`, its length in *step; 0 at the end. */
static inline uint8_t class_at(const struct text *t, size_t at, size_t *step)
{
    *step = 1;
    if (at >= t->n)
        return 0;
    if (t->bytes[at] < 0x80)
        return t->tokenizer->byte_class[t->bytes[at]];
    return cabe_class_of(t->tokenizer->classes, cabe_utf8_get(t->bytes + at, step));
}

static inline size_t run_end(const struct text *t, size_t at, uint8_t classes)
{
    size_t step;

    for (; at < t->n; at += step)
        if (!(class_at(t, at, &step) & classes))
            break;
    return at;
}

static int is_break(uint8_t c)
{
    return c == '\r' || c == '\n';
}

/* The end of 's 't 're 've 'm 'll 'd; `at` where there is none. */
static size_t contraction_end(const struct text *t, size_t at, int any_case)
{
    size_t left = t->n - at;
    uint8_t fold = any_case ? 0x20 : 0, first, second;

    if (left < 2 || t->bytes[at] != '\'')
        return at;
    first = t->bytes[at + 1] | fold;
    if (first == 's' || first == 't' || first == 'm' || first == 'd')
        return at + 2;
    if (left < 3)
        return at;
    second = t->bytes[at + 2] | fold;
    if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l'))
        return at + 3;
    if (any_case && t->bytes[at + 1] == 0xC5 && t->bytes[at + 2] == 0xBF) /* the long s is an s */
        return at + 3;
    return at;
}

/*
 * Cased words: [upper or other]* [lower or other]+, else [upper or other]+ [lower or other]*, where letters without
 * case and marks are both. From `at`; `at` where there is none. *is_lower: the first of the two.
 */
static size_t cased_end(const struct text *t, size_t at, int *is_lower)
{
    size_t end = at, lower = at, step;
    uint8_t class;

    for (; (class = class_at(t, end, &step)) & t->family->word && !(class & LOWER); end += step)
        if (!(class & UPPER))
            lower = end + step; /* the first part may end before it, and the second one take it */
    if (class & LOWER)
        while ((class = class_at(t, end, &step)) & t->family->word && !(class & UPPER))
            lower = end += step;
    *is_lower = lower > at;
    return lower > at ? lower : end;
}

/* A word from `at` on; a mark right before it is part of it, but cannot be before an upper case one. */
static size_t word_end(const struct text *t, size_t at, int has_mark)
{
    const struct family *f = t->family;
    int is_lower;
    size_t end;

    if (!f->cased)
        return run_end(t, at, f->word);
    end = cased_end(t, at, &is_lower);
    if (has_mark && !is_lower)
        end = at;
    if ((end > at || has_mark) && f->cased == 2)
        end = contraction_end(t, end, 1);
    return end;
}

/* A word with what may stand before it; `at` where there is none. */
static size_t prefixed_word_end(const struct text *t, size_t at, uint8_t class, size_t step)
{
    const struct family *f = t->family;
    uint8_t next;
    size_t unused;

    if (f->before == 0) {
        if (class & f->word)
            return run_end(t, at + step, f->word);
        if (t->bytes[at] == ' ' && class_at(t, at + 1, &unused) & f->word)
            return run_end(t, at + 1, f->word);
        return at;
    }
    if (!(class & f->before) && !is_break(t->bytes[at])) {
        next = class_at(t, at + step, &unused);
        if (next & f->word)
            return word_end(t, at + step, (class & f->word) != 0);
    }
    return class & f->word ? word_end(t, at, 0) : at;
}

static int is_sign(const struct family *f, uint8_t class)
{
    return f->sign ? (class & f->sign) != 0 : !(class & f->not_sign);
}

/* Signs, a space before them, breaks after them; `at` where there are none. */
static size_t signs_end(const struct text *t, size_t at)
{
    const struct family *f = t->family;
    size_t end = at + (t->bytes[at] == ' '), begin = end, step;

    while (end < t->n && is_sign(f, class_at(t, end, &step)))
        end += step;
    if (end == begin)
        return at;
    while (f->has_breaks && end < t->n && (is_break(t->bytes[end]) || (f->slash && t->bytes[end] == '/')))
        end++;
    return end;
}

/* White space: to its last line break, or all of it before the end, or all but its last character before others. */
static size_t space_end(const struct text *t, size_t at)
{
    size_t end = at, last = at, after_break = at, step;
    uint8_t class;

    while (end < t->n && (class = class_at(t, end, &step)) & SPACE) {
        last = end;
        end += step;
        if (is_break(t->bytes[last]))
            after_break = end;
    }
    if (t->family->has_breaks && after_break > at)
        return after_break;
    if (end == t->n || last == at)
        return end;
    return t->family->isolates && class & NUMBER ? end : last;
}

static size_t number_end(const struct text *t, size_t at)
{
    size_t step;

    if (t->family->digits_max == 0)
        return run_end(t, at, NUMBER);
    for (uint32_t i = 0; i < t->family->digits_max && class_at(t, at, &step) & NUMBER; i++)
        at += step;
    return at;
}

static int is_ascii_letter(uint8_t c)
{
    return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
}

static size_t family_end(const struct text *t, size_t at)
{
    const struct family *f = t->family;
    size_t step, end;
    uint8_t class = class_at(t, at, &step);

    if (f->contractions && t->bytes[at] == '\'') {
        end = contraction_end(t, at, f->contractions == 2);
        if (end > at)
            return end;
    }
    if (f->ascii_sign && t->bytes[at] < 0x80 && class & (PUNCTUATION | SYMBOL) && at + 1 < t->n &&
        is_ascii_letter(t->bytes[at + 1])) {
        for (end = at + 1; end < t->n && is_ascii_letter(t->bytes[end]);)
            end++;
        return end;
    }
    end = prefixed_word_end(t, at, class, step);
    if (end > at)
        return end;
    if (class & NUMBER && !f->ascii_sign)
        return number_end(t, at);
    if (f->digits_max == 0 && !f->ascii_sign && t->bytes[at] == ' ') {
        size_t unused;

        if (class_at(t, at + 1, &unused) & NUMBER)
            return run_end(t, at + 1, NUMBER);
    }
    end = signs_end(t, at);
    if (end > at)
        return end;
    if (class & SPACE)
        return space_end(t, at);
    return at; /* no alternative matches here */
}

/* A family that leaves characters out: text up to the next match is a piece. */
static size_t sparse_end(const struct text *t, size_t at)
{
    size_t end = family_end(t, at), step;

    if (end > at)
        return end;
    do {
        class_at(t, at, &step);
        at += step;
    } while (at < t->n && family_end(t, at) == at);
    return at;
}

/* ---- runs ---- */

struct span { /* in a list, ascending */
    uint32_t first, last;
};

/* What deepseek-llm takes for letters: those of Latin, Greek, Cyrillic, ... that have case. */
static const struct span deepseek_letters[] = {
    {0x41, 0x5A},       {0x61, 0x7A},       {0xB5, 0xB5},       {0xC0, 0xD6},       {0xD8, 0xF6},
    {0xF8, 0x1BA},      {0x1BC, 0x1BF},     {0x1C4, 0x293},     {0x295, 0x2AF},     {0x370, 0x373},
    {0x376, 0x377},     {0x37B, 0x37D},     {0x37F, 0x37F},     {0x386, 0x386},     {0x388, 0x38A},
    {0x38C, 0x38C},     {0x38E, 0x3A1},     {0x3A3, 0x3F5},     {0x3F7, 0x481},     {0x48A, 0x52F},
    {0x531, 0x556},     {0x10A0, 0x10C5},   {0x13A0, 0x13F5},   {0x13F8, 0x13FD},   {0x1C90, 0x1CBA},
    {0x1CBD, 0x1CBF},   {0x1D00, 0x1D2B},   {0x1D6B, 0x1D77},   {0x1D79, 0x1D9A},   {0x1E00, 0x1F15},
    {0x1F18, 0x1F1D},   {0x1F20, 0x1F45},   {0x1F48, 0x1F4D},   {0x1F50, 0x1F57},   {0x1F59, 0x1F59},
    {0x1F5B, 0x1F5B},   {0x1F5D, 0x1F5D},   {0x1F5F, 0x1F7D},   {0x1F80, 0x1FB4},   {0x1FB6, 0x1FBC},
    {0x1FBE, 0x1FBE},   {0x1FC2, 0x1FC4},   {0x1FC6, 0x1FCC},   {0x1FD0, 0x1FD3},   {0x1FD6, 0x1FDB},
    {0x1FE0, 0x1FEC},   {0x1FF2, 0x1FF4},   {0x1FF6, 0x1FFC},   {0x2102, 0x2102},   {0x2107, 0x2107},
    {0x210A, 0x2113},   {0x2115, 0x2115},   {0x2119, 0x211D},   {0x2124, 0x2124},   {0x2126, 0x2126},
    {0x2128, 0x2128},   {0x212A, 0x212D},   {0x212F, 0x2134},   {0x2139, 0x2139},   {0x213C, 0x213F},
    {0x2145, 0x2149},   {0x214E, 0x214E},   {0x2183, 0x2184},   {0x2C00, 0x2C7B},   {0x2C7E, 0x2CE4},
    {0x2CEB, 0x2CEE},   {0x2CF2, 0x2CF3},   {0xA640, 0xA66D},   {0xA680, 0xA69B},   {0xA722, 0xA76F},
    {0xA771, 0xA787},   {0xA78B, 0xA78E},   {0xAB70, 0xABBF},   {0xFB00, 0xFB06},   {0xFB13, 0xFB17},
    {0xFF21, 0xFF3A},   {0xFF41, 0xFF5A},   {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB},
    {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2}, {0x118A0, 0x118DF}, {0x1E900, 0x1E943},
};
static const struct span deepseek_signs[] = {
    {0x21, 0x2F}, {0x3A, 0x7E}, {0x2018, 0x201F}, {0x3000, 0x3002}, {0xFF01, 0xFF0F}, {0xFF1A, 0xFF5E},
};
static const struct span deepseek_cjk[] = {{0x800, 0x9FA5}, {0xAC00, 0xD7FF}};
static const struct span deepseek3_cjk[] = {{0x3040, 0x30FF}, {0x4E00, 0x9FA5}};
static const struct span ascii_digits[] = {{'0', '9'}};
static const struct span breaks[] = {{'\n', '\n'}, {'\r', '\r'}};

static const struct span ascii_symbols[] = {
    {'$', '$'}, {'+', '+'}, {'<', '>'}, {'^', '^'}, {'`', '`'}, {'|', '|'}, {'~', '~'},
};

struct run {
    uint8_t classes; /* or in */
    const struct span *spans;
    size_t n_spans;
    uint32_t min, max;      /* characters; max 0: any number */
    uint8_t space_before; /* one may be */
};

#define SPANS(list) .spans = (list), .n_spans = sizeof(list) / sizeof(list)[0]

static const struct run runs[CABE_N_SPLIT_RULES] = {
    [CABE_SPLIT_BREAK] = {SPANS(breaks), .min = 1, .max = 1},
    [CABE_SPLIT_LETTERS] = {.classes = LETTER, .min = 1, .space_before = 1},
    [CABE_SPLIT_SIGNS] = {.classes = PUNCTUATION, .min = 1, .space_before = 1},
    [CABE_SPLIT_PUNCTUATION] = {.classes = PUNCTUATION, SPANS(ascii_symbols), .min = 1},
    [CABE_SPLIT_LETTERS_DEEPSEEK] = {SPANS(deepseek_letters), .min = 1, .space_before = 1},
    [CABE_SPLIT_SIGNS_DEEPSEEK] = {SPANS(deepseek_signs), .min = 1, .space_before = 1},
    [CABE_SPLIT_CJK_DEEPSEEK] = {SPANS(deepseek_cjk), .min = 1},
    [CABE_SPLIT_CJK_DEEPSEEK3] = {SPANS(deepseek3_cjk), .min = 1},
    [CABE_SPLIT_DIGIT] = {.classes = NUMBER, .min = 1, .max = 1},
    [CABE_SPLIT_DIGITS] = {.classes = NUMBER, .min = 1},
    [CABE_SPLIT_DIGITS3] = {.classes = NUMBER, .min = 1, .max = 3},
    [CABE_SPLIT_ASCII_DIGITS3] = {SPANS(ascii_digits), .min = 3, .max = 3},
};

static int is_of(const struct text *t, const struct run *run, size_t at, size_t *step)
{
    uint8_t class = class_at(t, at, step);
    uint32_t c;

    if (at >= t->n)
        return 0;
    if (class & run->classes)
        return 1;
    if (run->n_spans == 0)
        return 0;
    c = cabe_utf8_get(t->bytes + at, step);
    for (size_t i = 0; i < run->n_spans && c >= run->spans[i].first; i++)
        if (c <= run->spans[i].last)
            return 1;
    return 0;
}

/* The end of a run that begins at `at`; `at` where none does. */
static size_t run_match(const struct text *t, const struct run *run, size_t at)
{
    size_t end = at, step;
    uint32_t n = 0;

    if (run->space_before && class_at(t, at, &step) & SPACE && is_of(t, run, at + step, &(size_t){0}))
        end += step;
    for (; (run->max == 0 || n < run->max) && is_of(t, run, end, &step); n++)
        end += step;
    return n >= run->min ? end : at;
}

static size_t find_run(const struct text *t, const struct run *run, size_t at)
{
    size_t end = run_match(t, run, at), step;

    if (end > at)
        return end;
    do {
        class_at(t, at, &step);
        at += step;
    } while (at < t->n && run_match(t, run, at) == at);
    return at;
}

/* White space at the end of the text is a piece. */
static size_t last_space(const struct text *t, size_t at)
{
    size_t begin = t->n;

    while (begin > at) {
        size_t before = begin - 1, step;

        while (before > at && (t->bytes[before] & 0xC0) == 0x80)
            before--;
        if (!(class_at(t, before, &step) & SPACE))
            break;
        begin = before;
    }
    return begin > at ? begin : t->n;
}

size_t cabe_split_end(const struct cabe_tokenizer *tokenizer, enum cabe_split_rule rule, const uint8_t *text,
                      size_t at, size_t n)
{
    const struct text t = {tokenizer, &families[rule <= CABE_SPLIT_DEEPSEEK3 ? rule : 0], text, n};

    if (rule < CABE_SPLIT_DEEPSEEK3) {
        size_t end = family_end(&t, at);

        return end > at ? end : n;
    }
    if (rule == CABE_SPLIT_DEEPSEEK3)
        return sparse_end(&t, at);
    return rule == CABE_SPLIT_LAST_SPACE ? last_space(&t, at) : find_run(&t, &runs[rule], at);
}

enum cabe_cut cabe_split_cuts(enum cabe_split_rule rule)
{
    if (rule <= CABE_SPLIT_DEEPSEEK3)
        return CABE_CUT_WORDS;
    return rule == CABE_SPLIT_LETTERS || rule == CABE_SPLIT_LETTERS_DEEPSEEK ? CABE_CUT_LETTERS : CABE_CUT_NONE;
}
