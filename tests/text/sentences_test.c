#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "text/language.h"
#include "text/sentences.h"

struct list {
    const char *text;
    uint64_t end; /* of the last one */
    uint64_t longest;
    size_t n, stop_after;
    char joined[4096]; /* "[one][two]" */
    size_t n_joined;
};

static enum cabe_status keep(void *self, struct cabe_span span, struct cabe_error *err)
{
    struct list *list = self;
    uint64_t bytes = span.end - span.begin;

    assert_true(span.begin < span.end);
    assert_true(span.begin >= list->end);
    for (uint64_t i = list->end; i < span.begin && list->n > 0; i++)
        assert_non_null(strchr(" \t\r\n\f\v\xC2\xA0\xE2\x80\xA8", list->text[i]));
    list->end = span.end;
    list->n++;
    if (bytes > list->longest)
        list->longest = bytes;
    if (list->n_joined + bytes + 3 < sizeof list->joined)
        list->n_joined += (size_t)snprintf(list->joined + list->n_joined, sizeof list->joined - list->n_joined,
                                           "[%.*s]", (int)bytes, list->text + span.begin);
    return list->n == list->stop_after ? cabe_fail(err, CABE_ERR_CANCELLED, "enough") : CABE_OK;
}

static void check(const char *language, const char *text, const char *wanted)
{
    struct list list = {.text = text};
    struct cabe_error err = {0};

    if (cabe_sentences(text, strlen(text), language, keep, &list, &err) != CABE_OK)
        fail_msg("%s", err.text);
    assert_string_equal(list.joined, wanted);
}

static void test_english(void **state)
{
    (void)state;
    check("en", "", "");
    check("en", " \n\n \t", "");
    check("en", "One. Two! Is it three? Four", "[One.][Two!][Is it three?][Four]");
    check("en", "She met Mr. Smith at 5.30 in Rome. He left.", "[She met Mr. Smith at 5.30 in Rome.][He left.]");
    check("en", "\"Go.\" She went. \xE2\x80\x9CWhy?\xE2\x80\x9D", "[\"Go.\"][She went.][\xE2\x80\x9CWhy?\xE2\x80\x9D]");
    check(NULL, "It costs 3.14 euros. Yes.", "[It costs 3.14 euros.][Yes.]");
}

static void test_spanish_and_portuguese(void **state)
{
    (void)state;
    check("es", "\xC2\xBFQui\xC3\xA9n es? \xC2\xA1" "El Sr. P\xC3\xA9rez! Vino ayer.",
          "[\xC2\xBFQui\xC3\xA9n es?][\xC2\xA1" "El Sr. P\xC3\xA9rez!][Vino ayer.]");
    check("pt", "O ver\xC3\xA3o chegou. N\xC3\xA3o sei! Talvez amanh\xC3\xA3.",
          "[O ver\xC3\xA3o chegou.][N\xC3\xA3o sei!][Talvez amanh\xC3\xA3.]");
    check("pt-BR", "Sim! E voc\xC3\xAA?", "[Sim!][E voc\xC3\xAA?]");
}

static void check_guess(const char *text, const char *wanted)
{
    const char *found = cabe_language_guess(text, strlen(text));

    if (wanted)
        assert_string_equal(found ? found : "none", wanted);
    else
        assert_null(found);
}

static void test_language(void **state)
{
    (void)state;
    check_guess("", NULL);
    check_guess("Mr. Smith", NULL);
    check_guess("12345 67890 !!", NULL);
    check_guess("She saw that the door of the house was open, and he had left with it.", "en");
    check_guess("La puerta del molino y las ventanas se cerraron por el viento, pero lo supimos.", "es");
    check_guess("Uma noite, os pescadores nÃ£o voltaram; ele e ela ficaram em casa com um cÃ£o.", "pt");
    check_guess("Il est dans la maison et les enfants ne sont pas au jardin des voisins.", "fr");
    check_guess("Il figlio della donna non Ã¨ nel giardino di casa, che gli piace.", "it");
    check_guess("Der Mann und die Frau sind nicht mit ihm von zu Hause gekommen, das ist ein Ende.", "de");
    check(NULL, "It was the day that Mr. Hill and his wife came. She was with the dog of Mrs. Low.",
          "[It was the day that Mr. Hill and his wife came.][She was with the dog of Mrs. Low.]");
}

static void test_lines_and_paragraphs(void **state)
{
    (void)state;
    check("en", "A line\nthat goes on\nand ends. Next\n", "[A line\nthat goes on\nand ends.][Next]");
    check("en", "A title\n\nA text", "[A title][A text]");
    check("en", "A title\r\n \t\r\nA text\r\nof two", "[A title][A text\r\nof two]");
    check("en", "\xEF\xBB\xBFMarked. Text.", "[Marked.][Text.]");
    check("en", "a\n\n\n\n\nb\n\n", "[a][b]");
}

static void test_other_scripts(void **state)
{
    (void)state;
    check("zh", "\xE4\xBD\xA0\xE5\xA5\xBD\xE3\x80\x82\xE5\x86\x8D\xE8\xA7\x81\xE3\x80\x82",
          "[\xE4\xBD\xA0\xE5\xA5\xBD\xE3\x80\x82][\xE5\x86\x8D\xE8\xA7\x81\xE3\x80\x82]");
    check("en", "\xF0\x9F\x9A\x80 go. \xF0\x9F\x9A\x80", "[\xF0\x9F\x9A\x80 go.][\xF0\x9F\x9A\x80]");
}

static void test_refusals(void **state)
{
    struct list list = {.text = "One. Two. Three.", .stop_after = 2};
    struct cabe_error err = {0};

    (void)state;
    assert_int_equal(cabe_sentences("Fine. \xED\xA0\x80", 9, "en", keep, &list, &err), CABE_ERR_FORMAT);
    assert_non_null(strstr(err.text, "byte 6"));
    assert_int_equal(list.n, 0);
    assert_int_equal(cabe_sentences(list.text, 16, "en", keep, &list, &err), CABE_ERR_CANCELLED);
    assert_int_equal(list.n, 2);
    assert_int_equal(cabe_sentences(list.text, 16, "not a tag", keep, &list, &err), CABE_ERR_ARGUMENT);
    cabe_memory_fail_at(1);
    assert_int_equal(cabe_sentences(list.text, 16, "en", keep, &list, &err), CABE_ERR_OOM);
    cabe_memory_fail_at(0);
}

/* One paragraph far longer than a piece: the same sentences as when each is by itself. */
static void test_long_paragraph(void **state)
{
    static const char sentence[] = "This is the sentence that comes again, caf\xC3\xA9 and all. ";
    size_t n = sizeof sentence - 1, times = 20000;
    char *text = malloc(n * times);
    struct list list = {.text = text};
    struct cabe_error err;

    (void)state;
    assert_non_null(text);
    for (size_t i = 0; i < times; i++)
        memcpy(text + i * n, sentence, n);
    assert_int_equal(cabe_sentences(text, n * times, "en", keep, &list, &err), CABE_OK);
    assert_int_equal(list.n, times);
    assert_int_equal(list.longest, n - 1);
    free(text);
}

static void test_long_sentence_is_cut(void **state)
{
    size_t n = 300000;
    char *text = malloc(n);
    struct list list = {.text = text};
    struct cabe_error err;

    (void)state;
    assert_non_null(text);
    for (size_t i = 0; i < n; i++)
        text[i] = i % 7 == 6 ? ' ' : 'a';
    assert_int_equal(cabe_sentences(text, n, "en", keep, &list, &err), CABE_OK);
    assert_true(list.longest <= 65536 && list.n == 5);
    memset(text, 'a', n);
    list = (struct list){.text = text};
    assert_int_equal(cabe_sentences(text, n, "en", keep, &list, &err), CABE_OK);
    assert_true(list.longest <= 65536 && list.n == 5 && list.end == n);
    free(text);
}

static char *read_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    long size;

    if (!file)
        return NULL;
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    size = ftell(file);
    assert_true(size > 0 && fseek(file, 0, SEEK_SET) == 0);
    text = malloc((size_t)size);
    assert_true(text && fread(text, 1, (size_t)size, file) == (size_t)size);
    fclose(file);
    *bytes = (size_t)size;
    return text;
}

/* Whole novels: every character that is not white space lies in exactly one sentence, of a plausible length. */
static void test_novels(void **state)
{
    static const struct {
        const char *language, *path;
    } novels[] = {{"en", "../shared/data/novels/en_1342_pride_and_prejudice.txt"},
                  {"es", "../shared/data/novels/es_galdos_misericordia.txt"},
                  {"pt", "../shared/data/novels/pt_castelobranco_amor_de_perdicao.txt"}};

    (void)state;
    for (size_t i = 0; i < sizeof novels / sizeof novels[0]; i++) {
        struct list list = {0};
        struct cabe_error err;
        size_t bytes;
        char *text = read_file(novels[i].path, &bytes);

        if (!text) {
            printf("skip: %s is not here\n", novels[i].path);
            continue;
        }
        list.text = text;
        assert_string_equal(cabe_language_guess(text + bytes / 2, bytes / 2), novels[i].language);
        assert_int_equal(cabe_sentences(text, bytes, novels[i].language, keep, &list, &err), CABE_OK);
        printf("%s: %zu sentences of %zu bytes on average, the longest %llu\n", novels[i].language, list.n,
               bytes / list.n, (unsigned long long)list.longest);
        assert_true(bytes / list.n > 40 && bytes / list.n < 250);
        assert_true(list.longest < 5000);
        free(text);
    }
}

static void test_utf8_valid(void **state)
{
    static const struct {
        const char *text;
        uint64_t valid;
    } cases[] = {{"", 0},
                 {"plain ascii, longer than eight", 30},
                 {"\xC3\xA9", 2},
                 {"a\xC3", 1},
                 {"\xC0\x80", 0},
                 {"\xC1\xBF", 0},
                 {"\xE0\x9F\xBF", 0},
                 {"\xE0\xA0\x80", 3},
                 {"\xED\x9F\xBF", 3},
                 {"\xED\xA0\x80", 0},
                 {"\xF0\x8F\xBF\xBF", 0},
                 {"\xF0\x90\x80\x80", 4},
                 {"\xF4\x8F\xBF\xBF", 4},
                 {"\xF4\x90\x80\x80", 0},
                 {"\xF5\x80\x80\x80", 0},
                 {"12345678\x80", 8},
                 {"1234567\xE2\x82", 7},
                 {"\xE2\x82\xAC\xF0\x9F\x98\x80z\xFF", 8}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(cabe_utf8_valid(cases[i].text, strlen(cases[i].text)), cases[i].valid);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_english),
        cmocka_unit_test(test_spanish_and_portuguese),
        cmocka_unit_test(test_language),
        cmocka_unit_test(test_lines_and_paragraphs),
        cmocka_unit_test(test_other_scripts),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_long_paragraph),
        cmocka_unit_test(test_long_sentence_is_cut),
        cmocka_unit_test(test_novels),
        cmocka_unit_test(test_utf8_valid),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
