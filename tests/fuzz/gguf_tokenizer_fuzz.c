/*
 * A GGUF of any bytes as a tokenizer: it compiles or is refused, and what compiles encodes and decodes. The llama2.c
 * reader gets the same bytes.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "memory_source.h"
#include "text/sentences.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char plain_text[] = "<s>Once upon a time,  I'll\r\n\n 1234 caf\xC3\xA9 \xE2\x96\x81 \xE4\xB8\xAD\xE6\x96\x87"
                                 "\xF0\x9F\x91\xA9 ABCdef\xC2\xA0 \xE3\x80\x80x<|im_end|> \t";

static void require(int holds)
{
    if (!holds)
        abort();
}

static void use(const struct cabe_tokenizer *tokenizer, const struct cabe_encode_options *options)
{
    struct cabe_encoding encoding = {0};
    struct cabe_decoder decoder = {.special = 1};
    size_t room = cabe_decoder_room(tokenizer), n;
    char *out = cabe_malloc(room);
    struct cabe_error err;

    require(out != NULL);
    if (cabe_tokenizer_encode(tokenizer, plain_text, sizeof plain_text - 1, options, &encoding, &err) == CABE_OK)
        for (size_t i = 0; i < encoding.n; i++) {
            require(encoding.ids[i] >= 0 && encoding.ids[i] < cabe_tokenizer_n_tokens(tokenizer) &&
                    encoding.begin[i] <= encoding.end[i] && encoding.end[i] < sizeof plain_text);
            n = cabe_decoder_put(&decoder, tokenizer, encoding.ids[i], out);
            require(n <= room && cabe_utf8_valid(out, n) == n);
        }
    for (int role = 0; role < CABE_N_TOKEN_ROLES; role++)
        require(cabe_tokenizer_special(tokenizer, (enum cabe_token_role)role) < cabe_tokenizer_n_tokens(tokenizer));
    cabe_free(out);
    cabe_encoding_clear(&encoding);
}

static void open_and_use(void *block, size_t bytes)
{
    static const struct cabe_encode_options all = {1, 0, 1}, none = {0, 0, 0};
    struct cabe_tokenizer *tokenizer = NULL;
    struct cabe_error err;

    require(cabe_tokenizer_open(&tokenizer, block, bytes, "fuzz", &err) == CABE_OK);
    use(tokenizer, &all);
    use(tokenizer, &none);
    cabe_tokenizer_close(tokenizer);
    cabe_free(block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cabe_source *source = open_memory(data, size);
    struct cabe_error err;
    size_t bytes = 0;
    void *block = NULL;

    if (source) {
        uint64_t bound = cabe_tokenizer_bound(source);

        if (cabe_tokenizer_compile(source, &block, &bytes, &err) == CABE_OK) {
            require(bytes <= bound);
            open_and_use(block, bytes);
        }
        cabe_source_close(source);
    }
    if (size > 4 && cabe_tokenizer_compile_llama2c(data, size, 262, "fuzz", &block, &bytes, &err) == CABE_OK)
        open_and_use(block, bytes);
    return 0;
}
