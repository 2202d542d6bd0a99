#include "text/unicode.h"
#include "text/work.h"

static int is_too_long(const struct cabe_tokenizer *tokenizer, const struct cabe_piece *word)
{
    size_t n = 0, max = tokenizer->header->word_characters_max;

    if (word->n <= max)
        return 0;
    for (size_t i = 0; i < word->n && n <= max; i++)
        n += (word->bytes[i] & 0xC0) != 0x80;
    return n > max;
}

/* The end of the longest token at `begin`, its id in *id; `begin` where there is none. */
static size_t longest(const struct cabe_tokenizer *tokenizer, const struct cabe_piece *word, size_t begin,
                      int32_t *id)
{
    uint32_t state = begin == 0 ? cabe_trie_root(tokenizer->trie) : tokenizer->continuing_state;
    size_t max = tokenizer->header->token_bytes_max, end = begin;
    size_t stop = word->n - begin > max ? begin + max : word->n;
    int32_t value;

    if (begin > 0 && !tokenizer->has_continuing)
        return begin;
    for (size_t i = begin; i < stop && cabe_trie_step(tokenizer->trie, &state, word->bytes[i], &value); i++)
        if (value >= 0) {
            *id = value;
            end = i + 1;
        }
    return end;
}

/* The longest token that begins the word, then the longest that continues it; all of the word is unknown if not. */
enum cabe_status cabe_wordpiece(const struct cabe_tokenizer *tokenizer, const struct cabe_piece *word,
                                struct cabe_encoding *encoding, struct cabe_error *err)
{
    size_t before = encoding->n, begin = 0;

    if (!is_too_long(tokenizer, word))
        while (begin < word->n) {
            int32_t id = 0;
            size_t end = longest(tokenizer, word, begin, &id);
            enum cabe_status status;

            if (end == begin)
                break;
            status = cabe_encoding_push(encoding, id, cabe_piece_range(word, begin, end), err);
            if (status != CABE_OK)
                return status;
            begin = end;
        }
    if (begin == word->n)
        return CABE_OK;
    encoding->n = before;
    return cabe_encoding_push(encoding, tokenizer->header->unk_id, cabe_piece_range(word, 0, word->n), err);
}
