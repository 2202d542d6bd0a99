/*
 * Reads the tokenizer.bin of llama2.c: a SentencePiece model's tokens with their scores, spaces for its marks.
 *
 * i32 the longest token's bytes; then for every token f32 score, i32 bytes, the bytes. Little-endian.
 */
#include <string.h>

#include "base/memory.h"
#include "text/spec.h"
#include "text/tokenizer.h"

enum { ID_UNKNOWN, ID_BEGIN, ID_END, ID_BYTES, N_FIRST = ID_BYTES + 256 };

static uint32_t load_u32(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static enum cabe_status read_tokens(struct cabe_spec *spec, const uint8_t *file, size_t bytes, uint32_t n_vocab,
                                    struct cabe_error *err)
{
    size_t at = 4;

    for (uint32_t i = 0; i < n_vocab; i++) {
        struct cabe_spec_token *token;
        uint32_t length, bits;
        float score;
        enum cabe_status status;

        if (at > bytes || bytes - at < 8 || (length = load_u32(file + at + 4)) > bytes - at - 8)
            return cabe_fail(err, CABE_ERR_FORMAT, "%s: token %u of %u: past the end of %zu bytes", spec->name, i,
                             n_vocab, bytes);
        status = cabe_spec_token(spec, i, &token, err);
        if (status != CABE_OK)
            return status;
        bits = load_u32(file + at);
        memcpy(&score, &bits, sizeof score);
        *token = (struct cabe_spec_token){(const char *)file + at + 8, length, (double)score, 0};
        at += 8 + length;
    }
    if (at != bytes)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: %zu bytes after token %u, the last", spec->name, bytes - at,
                         n_vocab - 1);
    return CABE_OK;
}

static enum cabe_status read_file(struct cabe_spec *spec, const uint8_t *file, size_t bytes, uint32_t n_vocab,
                                  struct cabe_error *err)
{
    enum cabe_status status;

    if (bytes < 4 || n_vocab < N_FIRST || n_vocab >= CABE_SPEC_TOKENS_MAX)
        return cabe_fail(err, CABE_ERR_FORMAT, "%s: %zu bytes for %u tokens: wanted %d tokens at least", spec->name,
                         bytes, n_vocab, N_FIRST);
    status = read_tokens(spec, file, bytes, n_vocab, err);
    if (status != CABE_OK)
        return status;
    if (!(spec->added = cabe_calloc(ID_BYTES, sizeof *spec->added)))
        return cabe_fail(err, CABE_ERR_OOM, "%s: added tokens", spec->name);
    for (int32_t i = 0; i < ID_BYTES; i++)
        spec->added[spec->n_added++] =
            (struct cabe_spec_added){spec->tokens[i].text, spec->tokens[i].bytes, i, CABE_ADDED_SPECIAL};
    spec->model = CABE_MODEL_BPE;
    spec->flags = CABE_FLAG_BY_SCORE | CABE_FLAG_BYTE_FALLBACK | CABE_FLAG_FIRST_SPACE;
    spec->unk_id = ID_UNKNOWN;
    spec->roles[CABE_TOKEN_BOS] = ID_BEGIN;
    spec->roles[CABE_TOKEN_EOS] = ID_END;
    status = cabe_spec_step(
        spec, 0, (struct cabe_step){.kind = CABE_PRE_SPACES, .flags = CABE_META_PREPEND_BEGIN | CABE_META_WORDS}, err);
    return status == CABE_OK ? cabe_spec_special(spec, 0, ID_BEGIN, err) : status;
}

enum cabe_status cabe_tokenizer_compile_llama2c(const void *file, size_t file_bytes, uint32_t n_vocab,
                                                const char *name, void **block, size_t *bytes,
                                                struct cabe_error *err)
{
    struct cabe_spec spec = cabe_spec_new(name);
    enum cabe_status status = read_file(&spec, file, file_bytes, n_vocab, err);

    *block = NULL;
    *bytes = 0;
    if (status == CABE_OK) {
        cabe_spec_roles(&spec, NULL);
        status = cabe_spec_compile(&spec, block, bytes, err);
    }
    cabe_spec_clear(&spec);
    return status;
}
