/*
 * Outside bytes as a tokenizer. An input is a tokenizer.json, a zero byte, and text to encode with it; or 'B', then
 * patches (offset, value) to a good compiled block, whose checksums are made right again, so that only the checks of
 * what is inside stand between the patches and the encoder.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "text/block.h"
#include "text/sentences.h"
#include "text/tokenizer.h"

#define TEXT_MAX 8192u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char plain_text[] = "The Lamp\xC3\xA9 lit\xCC\x81 \xE4\xB8\xAD\xE6\x96\x87 <tag> caf\xC3\xA9s x1\xEF\xAC\x81"
                                 "\xE3\x80\xAE\xCC\x80 \xEA\xB0\x80 \xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x91\xA9 [CLS]\r\n";

static void require(int holds)
{
    if (!holds)
        abort();
}

static void encode(const struct cabe_tokenizer *tokenizer, const char *text, size_t bytes)
{
    struct cabe_encode_options options = {1, 0, 1};
    struct cabe_encoding encoding = {0};
    struct cabe_error err;

    for (int i = 0; i < 3; i++, options.max_tokens = 40, options.parse_special = i < 2) {
        if (cabe_tokenizer_encode(tokenizer, text, bytes, &options, &encoding, &err) != CABE_OK)
            continue;
        for (size_t k = 0; k < encoding.n; k++)
            require(encoding.ids[k] >= 0 && encoding.ids[k] < cabe_tokenizer_n_tokens(tokenizer) &&
                    encoding.begin[k] <= bytes && encoding.end[k] <= bytes);
        require(options.max_tokens == 0 || encoding.n <= options.max_tokens);
    }
    cabe_encoding_clear(&encoding);
}

/* Every token in a row: the stream is UTF-8 and stays within its room. */
static void decode(const struct cabe_tokenizer *tokenizer)
{
    struct cabe_decoder decoder = {.special = 1};
    size_t room = cabe_decoder_room(tokenizer), n;
    char *out = cabe_malloc(room);

    require(out != NULL);
    for (int32_t id = -1; id < cabe_tokenizer_n_tokens(tokenizer) && id < 1000; id++) {
        n = cabe_decoder_put(&decoder, tokenizer, id, out);
        require(n <= room && cabe_utf8_valid(out, n) == n);
    }
    n = cabe_decoder_end(&decoder, out);
    require(n <= room && cabe_utf8_valid(out, n) == n);
    cabe_free(out);
}

static void use(const void *block, size_t bytes, const char *text, size_t text_bytes)
{
    struct cabe_tokenizer *tokenizer;
    struct cabe_error err;

    if (cabe_tokenizer_open(&tokenizer, block, bytes, "fuzz", &err) != CABE_OK)
        return;
    encode(tokenizer, text, text_bytes);
    encode(tokenizer, plain_text, sizeof plain_text - 1);
    for (int32_t id = -1; id <= cabe_tokenizer_n_tokens(tokenizer) && id < 1000; id++) {
        size_t n;
        const char *token = cabe_tokenizer_token(tokenizer, id, &n);

        if (token)
            (void)cabe_tokenizer_find(tokenizer, token, n);
    }
    decode(tokenizer);
    cabe_tokenizer_close(tokenizer);
}

static void try_json(const char *json, size_t bytes, const char *text, size_t text_bytes)
{
    json_t *document = json_loadb(json, bytes, JSON_ALLOW_NUL, NULL);
    struct cabe_error err;
    void *block = NULL;
    size_t block_bytes = 0;

    if (document &&
        cabe_tokenizer_compile_json(document, "fuzz.json", &block, &block_bytes, &err) == CABE_OK) {
        struct cabe_tokenizer *tokenizer = NULL;

        require(cabe_tokenizer_open(&tokenizer, block, block_bytes, "fuzz", &err) == CABE_OK);
        cabe_tokenizer_close(tokenizer);
        use(block, block_bytes, text, text_bytes);
    }
    cabe_free(block);
    json_decref(document);
}

/* One of each model, with every kind of section. */
static const char *const bases[] = {
    "{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"[UNK]\":0,\"[CLS]\":1,\"the\":2,\"l\":3,\"##amp\":4,\"##e\":5,"
    "\"cafe\":6,\"##s\":7}},\"added_tokens\":[{\"id\":1,\"content\":\"[CLS]\",\"special\":true},{\"id\":8,"
    "\"content\":\"<tag>\",\"lstrip\":true,\"rstrip\":true,\"normalized\":true}],\"normalizer\":{\"type\":"
    "\"BertNormalizer\"},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"post_processor\":{\"type\":"
    "\"BertProcessing\",\"sep\":[\"[UNK]\",0],\"cls\":[\"[CLS]\",1]}}",
    "{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"byte_fallback\":true,\"vocab\":[[\"<unk>\",0],[\"\xE2\x96\x81\",-3],"
    "[\"\xE2\x96\x81he\",-2],[\"l\",-4],[\"amp\",-3.5],[\"fi\",-3],[\"<0xC3>\",-20],[\"<0xA9>\",-20]]},\"normalizer\":"
    "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"},{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" {2,}\"},"
    "\"content\":\" \"},{\"type\":\"Replace\",\"pattern\":{\"String\":\"am\"},\"content\":\"AM\"},{\"type\":\"Lowercase\"},"
    "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\""
    "CAAAAAAEAAAAAAAAAAAA\"}]},\"pre_tokenizer\":{\"type\":\"Metaspace\"}}",
    "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"T\":0,\"h\":1,\"e\":2,\"\xC4\xA0\":3,\"he\":4,\"\xC4\xA0L\":5,\"L\":6,"
    "\"amp\":7,\"a\":8,\"m\":9,\"p\":10,\"am\":11,\"The\":12,\"\xC3\x83\":13,\"\xC2\xA9\":14,\"\xC3\x83\xC2\xA9\":15},"
    "\"merges\":[\"h e\",\"T he\",\"\xC4\xA0 L\",\"a m\",\"am p\",\"\xC3\x83 \xC2\xA9\"]},\"pre_tokenizer\":{\"type\":"
    "\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{N}{1,3}\"}},{\"type\":\"ByteLevel\"}]},"
    "\"post_processor\":{\"type\":\"ByteLevel\"},\"added_tokens\":[{\"id\":16,\"content\":\"<tag>\",\"special\":true}]}",
    "{\"model\":{\"type\":\"BPE\",\"unk_token\":\"u\",\"fuse_unk\":true,\"byte_fallback\":true,\"vocab\":{\"u\":0,"
    "\"\xE2\x96\x81\":1,\"L\":2,\"a\":3,\"\xE2\x96\x81L\":4,\"La\":5,\"<0xC3>\":6,\"<0xA9>\":7,\"m\":8,\"\xE4\xB8\xAD\":9},"
    "\"merges\":[\"\xE2\x96\x81 L\",\"L a\"]},\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\","
    "\"prepend\":\"\xE2\x96\x81\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xE2\x96\x81\"}]},"
    "\"added_tokens\":[{\"id\":10,\"content\":\"<tag>\",\"normalized\":true}]}"};
enum { N_BASES = sizeof bases / sizeof bases[0] };

static void mend(uint8_t *block, size_t bytes)
{
    struct cabe_block_header *header = (struct cabe_block_header *)(void *)block;

    header->magic = CABE_BLOCK_MAGIC;
    header->version = CABE_BLOCK_VERSION;
    header->header_bytes = sizeof *header;
    header->bytes = bytes;
    for (int i = 0; i < CABE_N_SECTIONS; i++) {
        struct cabe_block_section *s = &header->sections[i];

        if (s->offset <= bytes && s->bytes <= bytes - s->offset)
            s->checksum = cabe_block_checksum(block + s->offset, (size_t)s->bytes);
    }
    header->header_checksum = 0;
    header->header_checksum = cabe_block_checksum(header, sizeof *header);
}

static void try_patches(const uint8_t *data, size_t size)
{
    static void *good[N_BASES];
    static size_t good_bytes[N_BASES];
    int which = size > 0 ? data[0] % N_BASES : 0;
    uint8_t *block;

    if (!good[which]) { /* kept for the life of the process */
        json_t *document = json_loads(bases[which], 0, NULL);
        struct cabe_error err;

        require(document != NULL);
        if (cabe_tokenizer_compile_json(document, "base.json", &good[which], &good_bytes[which], &err) != CABE_OK)
            abort();
        json_decref(document);
    }
    block = cabe_malloc(good_bytes[which]);
    require(block != NULL);
    memcpy(block, good[which], good_bytes[which]);
    for (size_t i = 1; i + 4 <= size; i += 4) {
        size_t offset = (size_t)data[i] | (size_t)data[i + 1] << 8 | (size_t)data[i + 2] << 16;

        block[offset % good_bytes[which]] = data[i + 3];
    }
    mend(block, good_bytes[which]);
    use(block, good_bytes[which], plain_text, sizeof plain_text - 1);
    cabe_free(block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *zero = size > 0 ? memchr(data, 0, size) : NULL;
    size_t json_bytes = zero ? (size_t)(zero - data) : size;
    size_t text_bytes = zero ? size - json_bytes - 1 : 0;

    if (size > 0 && data[0] == 'B') {
        try_patches(data + 1, size - 1);
        return 0;
    }
    try_json((const char *)data, json_bytes, zero ? (const char *)zero + 1 : "",
             text_bytes < TEXT_MAX ? text_bytes : TEXT_MAX);
    return 0;
}
