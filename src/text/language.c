#include "text/language.h"

#include <stddef.h>
#include <string.h>

#define LOOK_BYTES (16u << 10)
#define WORD_MAX 8

/* Words that are common in one of these languages and rare in the others, in UTF-8, between spaces. */
static const struct {
    const char *tag, *words;
} languages[] = {
    {"en", " the and of was that his with had it you he she is were "},
    {"es", " el los las y del por una pero con se su lo \xC3\xA9l muy "},
    {"pt", " os um uma da dos das em ao n\xC3\xA3o ele ela mais com seu \xC3\xA0 "},
    {"fr", " le les des et est dans une du au pas qui ne il "},
    {"it", " il di gli della che non \xC3\xA8 nel alla si le "},
    {"de", " der die und das ist nicht ein eine mit von zu den er sie "},
};
enum { N_LANGUAGES = sizeof languages / sizeof languages[0] };

static int is_letter(unsigned char c)
{
    return c >= 0x80 || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static void count_word(const char *word, size_t n, unsigned counts[N_LANGUAGES])
{
    char spaced[WORD_MAX + 3] = " ";

    for (size_t i = 0; i < n; i++)
        spaced[i + 1] = (char)(word[i] >= 'A' && word[i] <= 'Z' ? word[i] + 32 : word[i]);
    spaced[n + 1] = ' ';
    spaced[n + 2] = 0;
    for (int i = 0; i < N_LANGUAGES; i++)
        counts[i] += strstr(languages[i].words, spaced) != NULL;
}

const char *cabe_language_guess(const char *text, uint64_t bytes)
{
    size_t n = bytes < LOOK_BYTES ? (size_t)bytes : LOOK_BYTES, begin = 0;
    unsigned counts[N_LANGUAGES] = {0}, n_words = 0, first = 0, second = 0;
    int best = 0;

    for (size_t i = 0; i <= n; i++) {
        if (i < n && is_letter((unsigned char)text[i]))
            continue;
        n_words += i > begin;
        if (i > begin && i - begin <= WORD_MAX)
            count_word(text + begin, i - begin, counts);
        begin = i + 1;
    }
    for (int i = 0; i < N_LANGUAGES; i++) {
        if (counts[i] > first) {
            second = first;
            first = counts[i];
            best = i;
        } else if (counts[i] > second) {
            second = counts[i];
        }
    }
    return first >= 3 && first * 20 >= n_words && first * 2 >= second * 3 ? languages[best].tag : NULL;
}
