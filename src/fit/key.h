/* Identity of a source on disk and the file name of its fitted copy, from stat(2) alone. */
#ifndef CABE_FIT_KEY_H
#define CABE_FIT_KEY_H

#include <stdint.h>

#include "cabe/status.h"
#include "model/model.h"

#define CABE_FIT_LAYOUT_VERSION 2 /* of packed.h, the tokenizer block and the graphs' weight order together */
#define CABE_FIT_NAME_MAX 200

struct cabe_fit_key { /* hashes are below 2^63, so that every reader of GGUF integers can hold them */
    uint64_t bytes;     /* of all files */
    uint64_t mtime_ns;  /* newest */
    uint64_t path_hash; /* of the absolute path */
    uint64_t identity;  /* of everything above, names and sizes of the files, and the layout version */
};

CABE_CHECKED enum cabe_status cabe_fit_key_read(struct cabe_fit_key *key, const char *path, struct cabe_error *err);
/* "<name>-<path>-<identity>-<dtype>.gguf" */
void cabe_fit_key_name(char out[CABE_FIT_NAME_MAX], const struct cabe_fit_key *key, const char *path,
                       const struct cabe_model_choice *choice);

#endif
