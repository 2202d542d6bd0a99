#include "text/sentences.h"

#include <string.h>

#include <unicode/ubrk.h>
#include <unicode/uloc.h>
#include <unicode/utext.h>

#include "base/memory.h"
#include "text/language.h"
#include "text/unicode.h"

#define PIECE_MAX (64u << 10)
#define LOCALE_MAX 64

typedef enum cabe_status (*found_function)(void *self, struct cabe_span span, struct cabe_error *err);

struct finder {
    const uint8_t *text;
    uint64_t bytes;
    UBreakIterator *breaks;
    UText *view;    /* of `piece` */
    uint8_t *piece; /* PIECE_MAX: the piece at hand, with line ends as spaces */
    found_function found;
    void *self;
};

static enum cabe_status icu_failed(const char *what, UErrorCode code, struct cabe_error *err)
{
    return cabe_fail(err, code == U_MEMORY_ALLOCATION_ERROR ? CABE_ERR_OOM : CABE_ERR_INTERNAL, "sentences: %s: %s",
                     what, u_errorName(code));
}

/* ICU's rules for the language, with its list of abbreviations that do not end a sentence. */
static enum cabe_status open_breaks(UBreakIterator **breaks, const char *language, struct cabe_error *err)
{
    UErrorCode code = U_ZERO_ERROR;
    char locale[LOCALE_MAX] = "";
    int32_t parsed = 0;

    if (language) {
        uloc_forLanguageTag(language, locale, LOCALE_MAX, &parsed, &code);
        if (U_FAILURE(code) || (size_t)parsed != strlen(language))
            return cabe_fail(err, CABE_ERR_ARGUMENT, "language %.40s: not a language tag", language);
        code = U_ZERO_ERROR;
    }
    uloc_setKeywordValue("ss", "standard", locale, LOCALE_MAX, &code);
    if (U_SUCCESS(code))
        *breaks = ubrk_open(UBRK_SENTENCE, locale, NULL, 0, &code);
    return U_FAILURE(code) ? icu_failed("rules", code, err) : CABE_OK;
}

/* The bytes from `at` to the next line end, that included. */
static uint64_t line_end(const struct finder *f, uint64_t at, uint64_t end)
{
    const uint8_t *found = memchr(f->text + at, '\n', (size_t)(end - at));

    return found ? (uint64_t)(found - f->text) + 1 : end;
}

static int is_blank(const struct finder *f, uint64_t begin, uint64_t end)
{
    for (uint64_t i = begin; i < end; i++)
        if (!cabe_char_is_space(f->text[i]) || f->text[i] >= 0x80)
            return 0;
    return 1;
}

/* The end of the paragraph at `at`, or of as much as a piece holds. *is_whole: the paragraph ends there. */
static uint64_t paragraph_end(const struct finder *f, uint64_t at, int *is_whole)
{
    uint64_t stop = f->bytes - at > PIECE_MAX ? at + PIECE_MAX : f->bytes;
    uint64_t line = line_end(f, at, stop);

    *is_whole = 1;
    while (line < stop) {
        uint64_t next = line_end(f, line, stop);

        if (is_blank(f, line, next))
            return line;
        line = next;
    }
    *is_whole = stop == f->bytes;
    while (stop < f->bytes && (f->text[stop] & 0xC0) == 0x80)
        stop--;
    return stop;
}

static struct cabe_span trim(const struct finder *f, uint64_t begin, uint64_t end)
{
    size_t step;

    while (begin < end && cabe_char_is_space(cabe_utf8_get(f->text + begin, &step)))
        begin += step;
    while (end > begin) {
        uint64_t last = end - 1;

        while (last > begin && (f->text[last] & 0xC0) == 0x80)
            last--;
        if (!cabe_char_is_space(cabe_utf8_get(f->text + last, &step)))
            break;
        end = last;
    }
    return (struct cabe_span){begin, end};
}

static enum cabe_status give(const struct finder *f, uint64_t begin, uint64_t end, struct cabe_error *err)
{
    struct cabe_span span = trim(f, begin, end);

    return span.begin < span.end ? f->found(f->self, span, err) : CABE_OK;
}

/* A sentence that fills a whole piece is cut after its last space, if it has one. */
static uint64_t last_space(const struct finder *f, uint64_t begin, uint64_t end)
{
    for (uint64_t i = end; i > begin + (end - begin) / 2; i--)
        if (cabe_char_is_space(f->text[i - 1]) && f->text[i - 1] < 0x80)
            return i;
    return end;
}

/* Gives the sentences of [at, end); *next is where the next piece begins. */
static enum cabe_status take_piece(struct finder *f, uint64_t at, uint64_t end, int is_whole, uint64_t *next,
                                   struct cabe_error *err)
{
    UErrorCode code = U_ZERO_ERROR;
    enum cabe_status status = CABE_OK;
    uint64_t begin = at;
    int32_t boundary;

    for (uint64_t i = at; i < end; i++)
        f->piece[i - at] = f->text[i] == '\n' || f->text[i] == '\r' ? ' ' : f->text[i];
    f->view = utext_openUTF8(f->view, (const char *)f->piece, (int64_t)(end - at), &code);
    if (U_SUCCESS(code))
        ubrk_setUText(f->breaks, f->view, &code);
    if (U_FAILURE(code))
        return icu_failed("text", code, err);
    ubrk_first(f->breaks);
    while (status == CABE_OK && (boundary = ubrk_next(f->breaks)) != UBRK_DONE) {
        uint64_t stop = at + (uint64_t)boundary;

        if (stop >= end && !is_whole && begin > at)
            break; /* it may go on: the next piece begins with it */
        if (stop >= end && !is_whole)
            stop = last_space(f, begin, end);
        status = give(f, begin, stop, err);
        begin = stop;
    }
    *next = is_whole ? end : begin;
    return status;
}

enum cabe_status cabe_sentences(const char *text, uint64_t bytes, const char *language, found_function found,
                                void *self, struct cabe_error *err)
{
    struct finder f = {.text = (const uint8_t *)text, .bytes = bytes, .found = found, .self = self};
    uint64_t at = 0, valid = cabe_utf8_valid(text, bytes);
    enum cabe_status status;

    if (valid < bytes)
        return cabe_fail(err, CABE_ERR_FORMAT, "text: byte %llu (0x%02X) is not well-formed UTF-8",
                         (unsigned long long)valid, (unsigned)f.text[valid]);
    status = open_breaks(&f.breaks, language ? language : cabe_language_guess(text, bytes), err);
    if (status == CABE_OK && !(f.piece = cabe_malloc(PIECE_MAX)))
        status = cabe_fail(err, CABE_ERR_OOM, "sentences: %u bytes", PIECE_MAX);
    if (bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0)
        at = 3; /* the mark of byte order is not text */
    while (status == CABE_OK && at < bytes) {
        int is_whole;
        uint64_t end = paragraph_end(&f, at, &is_whole);

        status = take_piece(&f, at, end, is_whole, &at, err);
    }
    ubrk_close(f.breaks);
    utext_close(f.view);
    cabe_free(f.piece);
    return status;
}
