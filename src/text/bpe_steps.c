/*
 * The steps of BPE models, so changed that text need not be rewritten for them.
 *
 * SentencePiece models have a mark for a space, and their tokenizer.json rewrites every space of a text to it. Here the
 * vocabulary is rewritten instead, once; of a text only real marks are.
 */
#include <string.h>

#include "text/bpe.h"
#include "text/spec.h"

static const char mark[] = "\xE2\x96\x81";

static int is_string(const struct cabe_spec *spec, uint32_t begin, uint32_t bytes, const char *text)
{
    return bytes == strlen(text) && memcmp(spec->strings + begin, text, bytes) == 0;
}

/* A normaliser that rewrites marks, in place of one that rewrites spaces or at the end. */
static enum cabe_status rewrite_marks(struct cabe_spec *spec, struct cabe_step *step, struct cabe_error *err)
{
    struct cabe_step reverse = {.kind = CABE_NORM_REPLACE, .a_bytes = 3, .b_bytes = 1};
    enum cabe_status status = cabe_spec_string(spec, mark, 3, &reverse.a, err);

    if (status == CABE_OK)
        status = cabe_spec_string(spec, " ", 1, &reverse.b, err);
    spec->has_marks = 1;
    if (status != CABE_OK || !step)
        return status == CABE_OK ? cabe_spec_step(spec, 1, reverse, err) : status;
    *step = reverse;
    return CABE_OK;
}

static enum cabe_status change_metaspace(struct cabe_spec *spec, struct cabe_step *step, struct cabe_error *err)
{
    if (!is_string(spec, step->a, step->a_bytes, mark))
        return cabe_fail(err, CABE_ERR_UNSUPPORTED,
                         "%s: pre_tokenizer Metaspace: replacement: not supported; supported with BPE: U+2581",
                         spec->name);
    *step = (struct cabe_step){.kind = CABE_PRE_SPACES, .flags = step->flags | CABE_META_WORDS};
    if (step->flags & (CABE_META_PREPEND_ALWAYS | CABE_META_PREPEND_FIRST))
        spec->flags |= CABE_FLAG_FIRST_SPACE;
    return rewrite_marks(spec, NULL, err);
}

/* Prepend of a mark puts a space. */
static enum cabe_status change_prepend(struct cabe_spec *spec, struct cabe_step *step, struct cabe_error *err)
{
    if (!is_string(spec, step->b, step->b_bytes, mark))
        return CABE_OK;
    spec->flags |= CABE_FLAG_FIRST_SPACE;
    step->b_bytes = 1;
    return cabe_spec_string(spec, " ", 1, &step->b, err);
}

static enum cabe_status change_normalizers(struct cabe_spec *spec, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;
    int rewrites = 0;

    for (size_t i = 0; status == CABE_OK && i < spec->n_normalizers; i++) {
        struct cabe_step *step = &spec->normalizers[i];

        if (step->kind != CABE_NORM_REPLACE || !is_string(spec, step->a, step->a_bytes, " ") ||
            !is_string(spec, step->b, step->b_bytes, mark))
            continue;
        status = rewrite_marks(spec, step, err);
        rewrites = 1;
    }
    for (size_t i = 0; status == CABE_OK && rewrites && i < spec->n_normalizers; i++)
        if (spec->normalizers[i].kind == CABE_NORM_PREPEND)
            status = change_prepend(spec, &spec->normalizers[i], err);
    return status;
}

/* Digits one by one before GPT-2's rule are one rule. */
static void join_digits(struct cabe_spec *spec)
{
    for (size_t i = 0; i + 1 < spec->n_pretokenizers; i++) {
        struct cabe_step *step = &spec->pretokenizers[i];
        int is_digit = (step->kind == CABE_PRE_DIGITS && (step->flags & CABE_DIGITS_SINGLE)) ||
                       (step->kind == CABE_PRE_SPLIT && step->number == CABE_SPLIT_DIGIT);

        if (!is_digit || step[1].kind != CABE_PRE_SPLIT || step[1].number != CABE_SPLIT_GPT2)
            continue;
        *step = (struct cabe_step){.kind = CABE_PRE_SPLIT, .number = CABE_SPLIT_GPT2_DIGITS};
        spec->n_pretokenizers--;
        memmove(step + 1, step + 2, (spec->n_pretokenizers - i - 1) * sizeof *step);
    }
}

enum cabe_status cabe_spec_bpe_steps(struct cabe_spec *spec, struct cabe_error *err)
{
    enum cabe_status status = CABE_OK;

    join_digits(spec);
    if (spec->flags & CABE_FLAG_BYTE_LEVEL)
        return CABE_OK;
    for (size_t i = 0; status == CABE_OK && i < spec->n_pretokenizers; i++)
        if (spec->pretokenizers[i].kind == CABE_PRE_METASPACE)
            status = change_metaspace(spec, &spec->pretokenizers[i], err);
    if (status == CABE_OK && !spec->has_marks)
        status = change_normalizers(spec, err);
    if (status == CABE_OK && spec->n_pretokenizers == 0)
        status = cabe_spec_step(spec, 0, (struct cabe_step){.kind = CABE_PRE_SPACES, .flags = CABE_META_WORDS}, err);
    return status;
}
