#include <stdio.h>
#include <string.h>

#include "format/source_parts.h"

const char *cabe_source_document_name(const struct cabe_source *source, size_t index)
{
    return index < source->n_documents ? source->documents[index].name : NULL;
}

const char *cabe_source_key(const struct cabe_source *source, size_t index)
{
    return index < source->n_keys ? source->keys[index].name : NULL;
}

/* Whether modules.json begins with a static embedding. */
static int is_static(const struct cabe_source *source)
{
    const json_t *module = json_array_get(cabe_source_document(source, "modules.json"), 0);
    const char *type = json_string_value(json_object_get(module, "type"));

    return type && strstr(type, "StaticEmbedding") != NULL;
}

static void find_architecture(const struct cabe_source *source, char out[64])
{
    const json_t *config = cabe_source_document(source, "config.json");
    const char *text = json_string_value(json_object_get(config, "model_type"));
    size_t bytes;

    if (!text)
        text = json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    if (source->n_keys > 0 && cabe_source_get_string(source, "general.architecture", &text, &bytes))
        snprintf(out, 64, "%.*s", (int)(bytes < 63 ? bytes : 63), text);
    else
        snprintf(out, 64, "%s", is_static(source) ? "static" : text ? text : "?");
}

void cabe_source_summarise(const struct cabe_source *source, struct cabe_source_summary *out)
{
    struct {
        const char *type;
        uint64_t bytes;
    } seen[64];
    size_t n_seen = 0, most = 0;

    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < source->n_tensors; i++) {
        const struct cabe_source_tensor *t = &source->tensors[i];
        size_t k = 0;

        while (k < n_seen && strcmp(seen[k].type, t->type) != 0)
            k++;
        if (k == n_seen && n_seen < sizeof seen / sizeof seen[0]) {
            seen[n_seen].type = t->type;
            seen[n_seen++].bytes = 0;
        }
        if (k < n_seen)
            seen[k].bytes += t->bytes;
        out->n_params += (uint64_t)(t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3]);
    }
    for (size_t k = 1; k < n_seen; k++)
        if (seen[k].bytes > seen[most].bytes)
            most = k;
    out->type = n_seen ? seen[most].type : "?";
    for (int i = 0; i < source->n_files; i++)
        out->bytes += source->files[i].bytes;
    out->n_files = source->n_files;
    snprintf(out->format, sizeof out->format, "%s", source->kind == CABE_SOURCE_GGUF ? "gguf"
                                                           : source->kind == CABE_SOURCE_LLAMA2C ? "llama2.c"
                                                                                                 : "safetensors");
    find_architecture(source, out->architecture);
}
