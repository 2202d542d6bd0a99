/* Greedy stories of the small real models, where the data is there. */
#include <math.h>
#include <unistd.h>

#include "base/memory.h"
#include "decoder_run.h"
#include "text/tokenizer.h"

#define DATA "../shared/data/"
#define N_TOKENS 200
#define TEXT_BYTES 4096

static float logits[64 * 4096];

static int32_t likeliest(const float *row, int64_t n)
{
    int64_t best = 0;

    for (int64_t i = 1; i < n; i++)
        best = row[i] > row[best] ? i : best;
    return (int32_t)best;
}

/* The text of `n` tokens that follow the prompt's; `first`: logits of the first of them. */
static void generate(const char *path, const char *prompt, int n, const float *first, char text[TEXT_BYTES])
{
    const struct cabe_encode_options options = {.add_special = 1};
    struct cabe_encoding encoding = {0};
    static const struct cabe_model_choice f32 = {CABE_F32, CABE_PRECISION_HIGH};
    struct cabe_tokenizer *tokenizer;
    struct cabe_decoder decoder = {0};
    struct decoder_run run;
    void *block;
    size_t bytes, at = 0;
    int32_t id, n_rows;
    int64_t n_vocab;

    decoder_open(&run, path, &f32);
    n_vocab = cabe_model_config(run.model)->n_vocab;
    OK(cabe_tokenizer_compile(run.source, &block, &bytes, &why));
    assert_true(bytes <= cabe_tokenizer_bound(run.source));
    OK(cabe_tokenizer_open(&tokenizer, block, bytes, path, &why));
    OK(cabe_tokenizer_encode(tokenizer, prompt, strlen(prompt), &options, &encoding, &why));
    n_rows = (int32_t)encoding.n;
    assert_true(n_rows * n_vocab <= (int64_t)(sizeof logits / sizeof logits[0]));
    decoder_step(&run, encoding.ids, n_rows, logits);
    for (int i = 0; first && i < 5; i++)
        assert_true(fabsf(logits[(n_rows - 1) * n_vocab + i] - first[i]) < 1e-3f);
    decoder.is_inside = n_rows > 1;
    for (int i = 0; i < n; i++) {
        id = likeliest(logits + (n_rows - 1) * n_vocab, n_vocab);
        if (cabe_tokenizer_is_end(tokenizer, id) || at + cabe_decoder_room(tokenizer) >= TEXT_BYTES)
            break;
        at += cabe_decoder_put(&decoder, tokenizer, id, text + at);
        decoder_step(&run, &id, 1, logits);
        n_rows = 1;
    }
    text[at] = '\0';
    cabe_encoding_clear(&encoding);
    cabe_tokenizer_close(tokenizer);
    cabe_free(block);
    decoder_close(&run);
}

/* The file from `mark` on. */
static char *read_text(const char *path, const char *mark, char text[TEXT_BYTES])
{
    FILE *file = fopen(path, "r");
    size_t n;
    char *at;

    assert_non_null(file);
    n = fread(text, 1, TEXT_BYTES - 1, file);
    fclose(file);
    text[n] = '\0';
    at = strstr(text, mark);
    assert_non_null(at);
    return at;
}

static void stories260k(void **state)
{
    static const char model[] = DATA "llm-stories260k/stories260K.bin";
    static char file[TEXT_BYTES], text[TEXT_BYTES];
    const char *want;

    (void)state;
    if (access(model, R_OK) != 0)
        skip();
    want = read_text(DATA "llm-stories260k/golden-greedy.stories260K.md", "Once upon a time", file);
    generate(model, "", N_TOKENS, NULL, text);
    assert_true(strlen(text) > 400);
    if (strncmp(text, want, strlen(text)) != 0)
        fail_msg("found: %s\nwanted: %.*s", text, (int)strlen(text), want);
}

static void tinystories656k(void **state)
{
    static const char model[] = DATA "llm-tinystories656k", prompt[] = "Once upon a time";
    static const float first[5] = {-1.5303f, -5.0576f, -3.0376f, -4.4768f, 3.6512f};
    static char file[TEXT_BYTES], text[TEXT_BYTES];
    const char *want;

    (void)state;
    if (access(model, R_OK) != 0)
        skip();
    want = read_text(DATA "llm-tinystories656k/derived-greedy.txt", prompt, file) + strlen(prompt);
    generate(model, prompt, 60, first, text);
    if (strncmp(text, want, strlen(text)) != 0 || strlen(want) > strlen(text) + 1)
        fail_msg("found: %s\nwanted: %s", text, want);
}

/* Random weights, two heads of 4: what transformers 5.23.0 says, in f64 over the file's own weights. */
static void random_llama2(void **state)
{
    static const char model[] = DATA "llm-random-gguf/llama-2-tiny-random.gguf";
    static const float first[5] = {-0.04544751f, -0.05319971f, -0.08911357f, 0.0703635f, -0.03720477f};
    static const char want[] =
        "ernalrightarrow \u043f\u043e\u043f\u0443development Gar(), successo status heutigen\u0e42 zesificate "
        "successo status heutigen\u0e42gele Harttekupsolog\u0415fahrt\u043d\u0438\u043a\u0438iza\u00e7\u00e3ountaException "
        "inwonersleb Ele";
    static char text[TEXT_BYTES];

    (void)state;
    if (access(model, R_OK) != 0)
        skip();
    generate(model, "Once upon a time", 30, first, text);
    if (strcmp(text, want) != 0)
        fail_msg("found: %s\nwanted: %s", text, want);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(stories260k),
        cmocka_unit_test(tinystories656k),
        cmocka_unit_test(random_llama2),
    };

    if (access(DATA, R_OK) != 0) {
        printf("skip: no %s\n", DATA);
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
