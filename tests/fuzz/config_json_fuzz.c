/*
 * The documents of a model folder. The first byte says which document the rest is; the folder has a small weight
 * file, and a shard for an index to name.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "format_files.h"
#include "memory_source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = {
    "config.json",           "modules.json",        "1_Pooling/config.json",        "tokenizer_config.json",
    "tokenizer.json",        "special_tokens_map.json", "model.safetensors.index.json", "sentence_bert_config.json",
    "generation_config.json",
};

#define N_NAMES (sizeof names / sizeof names[0])

static char folder[64], dense[96], pooling[96];

static void write_weights(const char *name, const char *tensor)
{
    struct bytes b = {0};
    char header[128], path[256];

    snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", tensor);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    put_safetensors(&b, header, 8);
    write_file(path, b.data, b.n);
    bytes_clear(&b);
}

static void clean(void)
{
    remove_folder(folder);
}

static void set_up(void)
{
    /* In memory where it can be: every input is a file. */
    snprintf(folder, sizeof folder, "%s/cabe-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(folder))
        abort();
    snprintf(dense, sizeof dense, "%s/2_Dense", folder);
    snprintf(pooling, sizeof pooling, "%s/1_Pooling", folder);
    if (mkdir(dense, 0700) != 0 || mkdir(pooling, 0700) != 0)
        abort();
    write_weights("shard-1.safetensors", "a");
    write_weights("2_Dense/model.safetensors", "linear.weight");
    atexit(clean);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cabe_source *source = NULL;
    struct cabe_error err = {.text = ""};
    const char *name = names[size ? data[0] % N_NAMES : 0];
    char path[256], weights[256];
    int sharded = strstr(name, "index") != NULL;

    if (!folder[0])
        set_up();
    snprintf(path, sizeof path, "%s/%s", folder, name);
    snprintf(weights, sizeof weights, "%s/model.safetensors", folder);
    write_file(path, data + (size > 0), size - (size > 0));
    if (sharded)
        unlink(weights);
    else if (access(weights, F_OK) != 0)
        write_weights("model.safetensors", "a");
    if (cabe_source_open(&source, folder, &err) == CABE_OK) {
        const char *document;

        touch_tensors(source);
        for (size_t i = 0; (document = cabe_source_document_name(source, i)); i++)
            cabe_source_document(source, document);
        cabe_source_close(source);
    } else if (err.text[0] == '\0') {
        abort();
    }
    unlink(path);
    return 0;
}
