/* The description of a model in a fitted copy: read, and its graph built. */
#include <stdint.h>

#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct cabe_model_choice choices[] = {{CABE_F32, CABE_PRECISION_HIGH}, {CABE_I8, CABE_PRECISION_INT8}};
    json_t *json = json_loadb((const char *)data, size, 0, NULL);
    struct cabe_model *model;
    struct cabe_error err;

    if (json && cabe_model_from_json(&model, json, "fuzz", &err) == CABE_OK) {
        for (int i = 0; i < 2; i++) {
            struct cabe_graph *graph;

            if (cabe_model_graph(&graph, model, &choices[i], 3 * i, &err) == CABE_OK)
                cabe_graph_close(graph);
        }
        cabe_model_close(model);
    }
    json_decref(json);
    return 0;
}
