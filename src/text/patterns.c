/* Names and regular expressions of the ways to split text that cabe knows. */
#include <string.h>

#include "text/bpe.h"

static const struct cabe_pre pres[] = {
    {" gpt-2 phi-2 olmo mpt jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert ",
     {CABE_SPLIT_GPT2}, 0, 0},
    {" smollm starcoder refact command-r codeshell exaone minerva-7b ", {CABE_SPLIT_GPT2_DIGITS}, 0, 0},
    {" llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 ", {CABE_SPLIT_LLAMA3}, 1, 1},
    {" dbrx smaug-bpe chatglm-bpe ", {CABE_SPLIT_LLAMA3}, 0, 0},
    {" qwen2 deepseek-r1-qwen stablelm2 megrez ", {CABE_SPLIT_QWEN2}, 0, 0},
    {" qwen35 ", {CABE_SPLIT_QWEN35}, 0, 0},
    {" gpt-4o llama4 ", {CABE_SPLIT_GPT4O}, 0, 0},
    {" tekken ", {CABE_SPLIT_TEKKEN}, 1, 1},
    {" deepseek-v3 hunyuan-dense ", {CABE_SPLIT_DIGITS3, CABE_SPLIT_CJK_DEEPSEEK3, CABE_SPLIT_DEEPSEEK3}, 0, 0},
    {" deepseek-llm ",
     {CABE_SPLIT_BREAK, CABE_SPLIT_LETTERS_DEEPSEEK, CABE_SPLIT_SIGNS_DEEPSEEK, CABE_SPLIT_LAST_SPACE,
      CABE_SPLIT_CJK_DEEPSEEK, CABE_SPLIT_DIGITS},
     0, 0},
    {" deepseek-coder ",
     {CABE_SPLIT_BREAK, CABE_SPLIT_LETTERS, CABE_SPLIT_SIGNS, CABE_SPLIT_CJK_DEEPSEEK, CABE_SPLIT_DIGIT},
     0, 0},
    {" falcon ", {CABE_SPLIT_PUNCTUATION, CABE_SPLIT_GPT2, CABE_SPLIT_ASCII_DIGITS3}, 0, 0},
    {" default ", {CABE_SPLIT_PUNCTUATION, CABE_SPLIT_GPT2, CABE_SPLIT_DIGITS, CABE_SPLIT_ASCII_DIGITS3}, 0, 0},
};

const char cabe_pre_names[] = "gpt-2, smollm, starcoder, refact, command-r, llama-bpe, qwen2, qwen35, gpt-4o, tekken, "
                              "deepseek-llm, deepseek-coder, deepseek-v3, falcon, mpt, stablelm2, olmo, default";

const struct cabe_pre *cabe_pre_find(const char *name, size_t bytes)
{
    for (size_t i = 0; i < sizeof pres / sizeof pres[0] && bytes > 0; i++)
        for (const char *at = pres[i].names; (at = strchr(at, ' ')) && at[1]; at++)
            if (strcspn(at + 1, " ") == bytes && memcmp(at + 1, name, bytes) == 0)
                return &pres[i];
    return NULL;
}

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define BEFORE "[^\\r\\n\\p{L}\\p{N}]?"
#define SIGNS " ?[^\\s\\p{L}\\p{N}]+"

static const struct {
    const char *regex;
    enum cabe_split_rule rule;
} regexes[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|" SIGNS "|\\s+(?!\\S)|\\s+", CABE_SPLIT_GPT2},
    {"'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+|" SIGNS "|\\s+(?!\\S)|\\s+", CABE_SPLIT_GPT2},
    {CONTRACTIONS "|" BEFORE "\\p{L}+|\\p{N}{1,3}|" SIGNS "[\\r\\n]*|" SPACES, CABE_SPLIT_LLAMA3},
    {CONTRACTIONS "|" BEFORE "\\p{L}+|\\p{N}|" SIGNS "[\\r\\n]*|" SPACES, CABE_SPLIT_QWEN2},
    {CONTRACTIONS "|" BEFORE "[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES,
     CABE_SPLIT_QWEN35},
    {BEFORE UPPER "*" LOWER "+" CONTRACTIONS "?|" BEFORE UPPER "+" LOWER "*" CONTRACTIONS "?|\\p{N}{1,3}|" SIGNS
     "[\\r\\n/]*|" SPACES, CABE_SPLIT_GPT4O},
    {BEFORE UPPER "*" LOWER "+|" BEFORE UPPER "+" LOWER "*|\\p{N}|" SIGNS "[\\r\\n/]*|" SPACES, CABE_SPLIT_TEKKEN},
    {"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?"
     "[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES, CABE_SPLIT_DEEPSEEK3},
    {"[\\r\\n]", CABE_SPLIT_BREAK},
    {"\\s?\\p{L}+", CABE_SPLIT_LETTERS},
    {"\\s?\\p{P}+", CABE_SPLIT_SIGNS},
    {"\\s+$", CABE_SPLIT_LAST_SPACE},
    {"[\xE4\xB8\x80-\xE9\xBE\xA5\xE0\xA0\x80-\xE4\xB8\x80\xEA\xB0\x80-\xED\x9F\xBF]+", CABE_SPLIT_CJK_DEEPSEEK},
    {"[\xE4\xB8\x80-\xE9\xBE\xA5\xE3\x81\x80-\xE3\x82\x9F\xE3\x82\xA0-\xE3\x83\xBF]+", CABE_SPLIT_CJK_DEEPSEEK3},
    {"\\p{N}", CABE_SPLIT_DIGIT},
    {"\\p{N}+", CABE_SPLIT_DIGITS},
    {"\\p{N}{1,3}", CABE_SPLIT_DIGITS3},
    {"[0-9][0-9][0-9]", CABE_SPLIT_ASCII_DIGITS3},
};

/* Whether a regular expression is that one; line breaks may be themselves or written \\r and \\n. */
static int is_regex(const char *text, size_t bytes, const char *regex)
{
    const char *end = text + bytes;

    for (; text < end; text++) {
        if ((*text == '\r' || *text == '\n') && regex[0] == '\\' && regex[1] == (*text == '\r' ? 'r' : 'n'))
            regex += 2;
        else if (*regex == 0 || *regex++ != *text)
            return 0;
    }
    return *regex == 0;
}

enum cabe_split_rule cabe_split_find(const char *regex, size_t bytes)
{
    for (size_t i = 0; i < sizeof regexes / sizeof regexes[0]; i++)
        if (is_regex(regex, bytes, regexes[i].regex))
            return regexes[i].rule;
    return 0;
}
