/* Documents: sentences whatever the window, places, wrong bytes, and files that change. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "task/document.h"

#define SENTENCES_MAX 60000

static struct cabe_error err;
static char path[64];
static char window[CABE_DOCUMENT_WINDOW_BYTES];

struct list {
    struct cabe_sentence at[SENTENCES_MAX];
    size_t n;
};

static struct list found, wanted;

static void put(const char *text, size_t n)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, n, file), n);
    fclose(file);
}

static enum cabe_status keep(void *self, const struct cabe_sentence *sentence, struct cabe_error *error)
{
    struct list *list = self;

    (void)error;
    assert_true(list->n < SENTENCES_MAX);
    list->at[list->n++] = *sentence;
    return CABE_OK;
}

static enum cabe_status keep_span(void *self, struct cabe_span span, struct cabe_error *error)
{
    struct list *list = self;

    (void)error;
    assert_true(list->n < SENTENCES_MAX);
    list->at[list->n++].span = span;
    return CABE_OK;
}

static enum cabe_status read_document(const struct cabe_cancel *cancel)
{
    struct cabe_document document;
    enum cabe_status status;

    found.n = 0;
    assert_int_equal(cabe_document_open(&document, path, &err), CABE_OK);
    status = cabe_document_sentences(&document, 3, window, keep, &found, cancel, &err);
    cabe_document_close(&document);
    cabe_document_close(&document); /* twice is fine */
    return status;
}

/* Sentences of short paragraphs are the same as of the whole text at once, with their lines. */
static void compare_with_whole(const char *text, size_t n)
{
    uint32_t line = 1;
    uint64_t seen = 0;

    put(text, n);
    assert_int_equal(read_document(NULL), CABE_OK);
    wanted.n = 0;
    assert_int_equal(cabe_sentences(text, n, NULL, keep_span, &wanted, &err), CABE_OK);
    assert_int_equal(found.n, wanted.n);
    for (size_t i = 0; i < found.n; i++) {
        for (; seen < wanted.at[i].span.begin; seen++)
            line += text[seen] == '\n';
        if (found.at[i].span.begin != wanted.at[i].span.begin || found.at[i].span.end != wanted.at[i].span.end)
            fail_msg("sentence %zu is at %llu, wanted %llu", i, (unsigned long long)found.at[i].span.begin,
                     (unsigned long long)wanted.at[i].span.begin);
        assert_int_equal(found.at[i].line, line);
        assert_int_equal(found.at[i].number, i + 1);
        assert_int_equal(found.at[i].document, 3);
        assert_true(found.at[i].n_words >= 1);
    }
}

static size_t fill(char *out, size_t n, const char *paragraph_end, unsigned seed)
{
    static const char *const sentences[] = {"The river was silent in winter. ", "Nobody had seen it! ",
                                            "Caf\xc3\xa9s were closed; was it late? ", "\xe6\x98\xa5\xe3\x81\xa7\xe3\x81\x99\xe3\x80\x82 ",
                                            "An engine hummed for 3.5 hours. "};
    size_t at = 0;

    while (at + 200 < n) {
        for (unsigned k = 0; k < 1 + seed % 4; k++) {
            const char *sentence = sentences[(seed >> 3) % 5];

            memcpy(out + at, sentence, strlen(sentence));
            at += strlen(sentence);
            seed = seed * 1664525u + 1013904223u;
        }
        memcpy(out + at, paragraph_end, strlen(paragraph_end));
        at += strlen(paragraph_end);
    }
    return at;
}

static void windows_do_not_change_sentences(void **state)
{
    size_t size = 3 * CABE_DOCUMENT_WINDOW_BYTES + 777;
    char *text = malloc(size);

    (void)state;
    assert_non_null(text);
    compare_with_whole(text, fill(text, size, "\n\n", 1));
    assert_true(found.n > 10000);
    compare_with_whole(text, fill(text, size, "\r\n\r\n", 2));
    for (unsigned seed = 3; seed < 8; seed++) /* other places of the cut */
        compare_with_whole(text, fill(text, CABE_DOCUMENT_WINDOW_BYTES + 100 * seed, "\n\n", seed));
    free(text);
}

/* A text without any place to cut: no byte is lost, no character is halved. */
static void a_text_without_ends_is_cut_between_characters(void **state)
{
    static const char *const letters[] = {"a", "\xc3\xa9", "\xe6\x98\xa5", "\xf0\x9f\x99\x82"};
    size_t size = 2 * CABE_DOCUMENT_WINDOW_BYTES + 100;
    char *text = malloc(size);

    (void)state;
    assert_non_null(text);
    for (size_t l = 0; l < 4; l++)
        for (size_t shift = 0; shift < 4; shift++) {
            size_t n = strlen(letters[l]), at = 0;

            while (at < shift)
                text[at++] = 'x';
            for (; at + n <= size; at += n)
                memcpy(text + at, letters[l], n);
            put(text, at);
            if (read_document(NULL) != CABE_OK)
                fail_msg("%s, shift %zu: %s", letters[l], shift, err.text);
            assert_true(found.n >= 2);
            assert_int_equal(found.at[0].span.begin, 0);
            assert_int_equal(found.at[found.n - 1].span.end, at);
            for (size_t i = 1; i < found.n; i++)
                assert_int_equal(found.at[i].span.begin, found.at[i - 1].span.end);
        }
    free(text);
}

static void a_wrong_byte_is_named(void **state)
{
    size_t size = CABE_DOCUMENT_WINDOW_BYTES + 5000, n;
    char *text = malloc(size), expected[32];

    (void)state;
    assert_non_null(text);
    n = fill(text, size, "\n\n", 5);
    for (size_t at = 0; at < n; at = at * 3 + 1) {
        char held = text[at];

        if ((unsigned char)held >= 0x80)
            continue;
        text[at] = (char)0xFF;
        put(text, n);
        assert_int_equal(read_document(NULL), CABE_ERR_FORMAT);
        snprintf(expected, sizeof expected, "byte %zu ", at);
        if (!strstr(err.text, expected) || !strstr(err.text, path))
            fail_msg("byte %zu is wrong: %s", at, err.text);
        text[at] = held;
    }
    free(text);
}

static void empty_and_odd_files(void **state)
{
    struct cabe_document document;

    (void)state;
    put("", 0);
    assert_int_equal(read_document(NULL), CABE_OK);
    assert_int_equal(found.n, 0);
    put("\n \n\t\n", 5);
    assert_int_equal(read_document(NULL), CABE_OK);
    assert_int_equal(found.n, 0);
    put("One.", 4);
    assert_int_equal(read_document(NULL), CABE_OK);
    assert_int_equal(found.n, 1);
    assert_int_equal(cabe_document_open(&document, "/tmp", &err), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_document_open(&document, "/dev/null", &err), CABE_ERR_ARGUMENT);
    assert_int_equal(cabe_document_open(&document, "/tmp/no such file", &err), CABE_ERR_NOT_FOUND);
    cabe_document_close(&document);
}

static void a_file_that_changes_is_noticed(void **state)
{
    struct cabe_document document;
    char out[100];
    size_t n;

    (void)state;
    put("The first sentence. The second one.", 35);
    assert_int_equal(cabe_document_open(&document, path, &err), CABE_OK);
    assert_int_equal(cabe_document_read(&document, (struct cabe_span){4, 9}, out, sizeof out, &n, &err), CABE_OK);
    assert_int_equal(n, 5);
    assert_memory_equal(out, "first", 5);
    put("The first sentence, but longer now. The second one.", 51);
    assert_int_equal(cabe_document_read(&document, (struct cabe_span){4, 9}, out, sizeof out, &n, &err),
                     CABE_ERR_CHANGED);
    assert_non_null(strstr(err.text, path));
    found.n = 0;
    assert_int_equal(cabe_document_sentences(&document, 0, window, keep, &found, NULL, &err), CABE_ERR_CHANGED);
    cabe_document_close(&document);
}

static void a_text_is_cut_between_characters(void **state)
{
    struct cabe_document document;
    char out[16];
    size_t n;

    (void)state;
    put("ab\xe6\x98\xa5z", 6);
    assert_int_equal(cabe_document_open(&document, path, &err), CABE_OK);
    for (size_t max = 0; max <= 6; max++) {
        assert_int_equal(cabe_document_read(&document, (struct cabe_span){0, 6}, out, max, &n, &err), CABE_OK);
        assert_int_equal(n, max == 3 || max == 4 ? 2 : max);
    }
    cabe_document_close(&document);
}

static void a_stop_is_heard(void **state)
{
    struct cabe_cancel cancel = {.wanted = 1};

    (void)state;
    put("One. Two.", 9);
    assert_int_equal(read_document(&cancel), CABE_ERR_CANCELLED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_do_not_change_sentences),
        cmocka_unit_test(a_text_without_ends_is_cut_between_characters),
        cmocka_unit_test(a_wrong_byte_is_named),
        cmocka_unit_test(empty_and_odd_files),
        cmocka_unit_test(a_file_that_changes_is_noticed),
        cmocka_unit_test(a_text_is_cut_between_characters),
        cmocka_unit_test(a_stop_is_heard),
    };
    int failed, fd;

    snprintf(path, sizeof path, "/tmp/cabe-document-XXXXXX");
    fd = mkstemp(path);
    if (fd < 0)
        return 1;
    close(fd);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
