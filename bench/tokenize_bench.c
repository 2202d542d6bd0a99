/*
 * Tokenizers and sentences over one text, one thread: compile, open, MB/s by line (as embedding does), as one text,
 * back to text, and sentences. Times are of the process's CPU, the least of several runs, so that a busy machine says
 * little.
 *
 *     tokenize_bench MODEL TEXT      (a GGUF file or a model folder; a UTF-8 file)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "text/sentences.h"
#include "text/tokenizer.h"

enum { RUNS = 5 };

struct bench {
    const char *path, *text;
    size_t bytes;
    const struct cabe_source *source;
    void *block;
    size_t block_bytes;
    struct cabe_tokenizer *tokenizer;
    struct cabe_encoding encoding;
    size_t n_tokens, n_sentences, n_decoded;
    char *out;
};

static double cpu_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void check(enum cabe_status status, const struct cabe_error *err)
{
    if (status != CABE_OK) {
        fprintf(stderr, "tokenize_bench: %s\n", err->text);
        exit(1);
    }
}

static void encode(struct bench *b, const char *text, size_t bytes)
{
    const struct cabe_encode_options options = {1, 0, 1};
    struct cabe_error err;

    check(cabe_tokenizer_encode(b->tokenizer, text, bytes, &options, &b->encoding, &err), &err);
    b->n_tokens += b->encoding.n;
}

static void run_compile(struct bench *b)
{
    struct cabe_error err;

    cabe_free(b->block);
    check(cabe_tokenizer_compile(b->source, &b->block, &b->block_bytes, &err), &err);
}

static void run_open(struct bench *b)
{
    struct cabe_error err;

    cabe_tokenizer_close(b->tokenizer);
    check(cabe_tokenizer_open(&b->tokenizer, b->block, b->block_bytes, b->path, &err), &err);
}

static void run_whole(struct bench *b)
{
    encode(b, b->text, b->bytes);
}

/* The tokens of the text as one, put one by one as they are generated. */
static void run_decode(struct bench *b)
{
    struct cabe_decoder decoder = {.special = 1};
    size_t n = 0;

    for (size_t i = 0; i < b->encoding.n; i++)
        n += cabe_decoder_put(&decoder, b->tokenizer, b->encoding.ids[i], b->out);
    b->n_decoded = n + cabe_decoder_end(&decoder, b->out);
}

static void run_lines(struct bench *b)
{
    const char *at = b->text, *end = b->text + b->bytes;

    b->n_tokens = 0;
    while (at < end) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));

        stop = stop ? stop : end;
        encode(b, at, (size_t)(stop - at));
        at = stop + 1;
    }
}

static enum cabe_status count(void *self, struct cabe_span span, struct cabe_error *err)
{
    struct bench *b = self;

    (void)span;
    (void)err;
    b->n_sentences++;
    return CABE_OK;
}

static void run_sentences(struct bench *b)
{
    struct cabe_error err;

    b->n_sentences = 0;
    check(cabe_sentences(b->text, b->bytes, "en", count, b, &err), &err);
}

static double best(struct bench *b, void (*run)(struct bench *b))
{
    double least = 1e9;

    for (int i = 0; i < RUNS; i++) {
        double start = cpu_seconds(), spent;

        run(b);
        spent = cpu_seconds() - start;
        least = spent < least ? spent : least;
    }
    return least;
}

static char *read_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    long size = -1;

    if (file && fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) > 0 && fseek(file, 0, SEEK_SET) == 0 &&
        (text = malloc((size_t)size)) && fread(text, 1, (size_t)size, file) == (size_t)size) {
        fclose(file);
        *bytes = (size_t)size;
        return text;
    }
    fprintf(stderr, "tokenize_bench: %s: cannot be read\n", path);
    exit(1);
}

int main(int argc, char **argv)
{
    struct bench b = {0};
    struct cabe_source *source;
    struct cabe_error err;
    double megabytes, seconds;

    if (argc != 3) {
        fprintf(stderr, "usage: tokenize_bench MODEL TEXT\n");
        return 2;
    }
    b.path = argv[1];
    b.text = read_file(argv[2], &b.bytes);
    check(cabe_source_open(&source, b.path, &err), &err);
    b.source = source;
    megabytes = (double)b.bytes / 1e6;
    seconds = best(&b, run_compile);
    printf("compile    %8.1f ms\n", seconds * 1e3);
    seconds = best(&b, run_open);
    printf("open       %8.2f ms, a block of %zu bytes, %d tokens\n", seconds * 1e3, b.block_bytes,
           cabe_tokenizer_n_tokens(b.tokenizer));
    seconds = best(&b, run_whole);
    printf("one text   %8.1f MB/s\n", megabytes / seconds);
    if (!(b.out = malloc(cabe_decoder_room(b.tokenizer))))
        return 1;
    seconds = best(&b, run_decode);
    printf("decode     %8.1f MB/s, %zu bytes\n", (double)b.n_decoded / 1e6 / seconds, b.n_decoded);
    seconds = best(&b, run_lines);
    printf("lines      %8.1f MB/s, %zu tokens, %zu bytes of work\n", megabytes / seconds, b.n_tokens,
           b.encoding.work_bytes);
    seconds = best(&b, run_sentences);
    printf("sentences  %8.1f MB/s, %zu\n", megabytes / seconds, b.n_sentences);
    free(b.out);
    cabe_encoding_clear(&b.encoding);
    cabe_tokenizer_close(b.tokenizer);
    cabe_free(b.block);
    cabe_source_close(source);
    return 0;
}
