/*
 * Writing the GGUF container of a fitted copy: the header is sized first, the tensors are written behind it in any
 * pieces, and the header with their checksums comes last.
 */
#ifndef CABE_FIT_CONTAINER_H
#define CABE_FIT_CONTAINER_H

#include <stdint.h>

#include "cabe/status.h"
#include "fit/key.h"

#define CABE_CONTAINER_ALIGN 4096
#define CABE_CONTAINER_TENSORS_MAX 4096

struct cabe_container; /* a file under construction */

struct cabe_container_out { /* where its bytes go */
    enum cabe_status (*append)(void *self, const void *data, uint64_t bytes, struct cabe_error *err);
    enum cabe_status (*rewrite)(void *self, uint64_t offset, const void *data, uint64_t bytes, struct cabe_error *err);
    enum cabe_status (*reserve)(void *self, uint64_t bytes, struct cabe_error *err); /* room, before the work */
    void *self;
};

struct cabe_container_facts { /* metadata */
    const char *source_path;
    const struct cabe_fit_key *key;
    const char *source_hash; /* 32 hex digits, or "" */
    const char *dtype;
    const char *model_json;
};

/* `path` is for messages. */
CABE_CHECKED enum cabe_status cabe_container_open(struct cabe_container **out, const struct cabe_container_out *to,
                                                  const char *path, struct cabe_error *err);
void cabe_container_close(struct cabe_container *container); /* NULL is fine */
/* All tensors are declared, in their order, before the first byte is written. */
CABE_CHECKED enum cabe_status cabe_container_declare(struct cabe_container *container, const char *name,
                                                     uint64_t bytes, struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_container_begin(struct cabe_container *container,
                                                   const struct cabe_container_facts *facts, struct cabe_error *err);
/* Appends to the current tensor; next() must follow when its bytes are complete. */
CABE_CHECKED enum cabe_status cabe_container_write(struct cabe_container *container, const void *data,
                                                   uint64_t bytes, struct cabe_error *err);
/* Zeros up to byte `offset` of the current tensor. */
CABE_CHECKED enum cabe_status cabe_container_pad(struct cabe_container *container, uint64_t offset,
                                                 struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_container_next(struct cabe_container *container, struct cabe_error *err);
/* Writes the header. The file is complete, not yet synced. */
CABE_CHECKED enum cabe_status cabe_container_finish(struct cabe_container *container, struct cabe_error *err);

/* Keys of the metadata. */
#define CABE_KEY_VERSION "cabe.version"
#define CABE_KEY_IDENTITY "cabe.source.identity"
#define CABE_KEY_PATH_HASH "cabe.source.path_hash"
#define CABE_KEY_PATH "cabe.source.path"
#define CABE_KEY_HASH "cabe.source.hash"
#define CABE_KEY_DTYPE "cabe.dtype"
#define CABE_KEY_MODEL "cabe.model"
#define CABE_KEY_CHECKSUMS "cabe.checksums"
#define CABE_KEY_HEADER "cabe.header" /* XXH3 of the header with this value zero; the last key */

/* The checksum that CABE_KEY_HEADER should have in a header of `bytes` (the part before the tensors). */
uint64_t cabe_container_header_sum(const uint8_t *header, uint64_t bytes, uint64_t at);

#endif
