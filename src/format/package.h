/*
 * A model inside a zip archive: a Python wheel, or a zip of a model folder.
 *
 * Opening lists the archive and refuses it whole, before anything is written, when a member could do harm: a path
 * that is absolute or climbs out, a link or device, a name twice, sizes beyond the limits. The model is the one
 * folder that holds model.safetensors (or its index), or the one *.gguf.
 *
 * Owner: who opens it. Thread: one at a time.
 */
#ifndef CABE_FORMAT_PACKAGE_H
#define CABE_FORMAT_PACKAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/cancel.h"
#include "cabe/status.h"

struct cabe_package;

struct cabe_package_member {
    const char *name; /* relative to the model: "config.json", "1_Pooling/config.json" */
    uint64_t bytes;   /* unpacked, as the archive says; extraction holds it to that */
};

#define CABE_PACKAGE_MEMBERS_MAX 65536u
#define CABE_PACKAGE_BYTES_MAX (1ull << 40) /* unpacked */
#define CABE_PACKAGE_RATIO_MAX 100u         /* unpacked to packed, where unpacked is over 1 GiB */

/* *is_zip: whether the file begins as a zip does. */
CABE_CHECKED enum cabe_status cabe_package_detect(const char *path, int *is_zip, struct cabe_error *err);
CABE_CHECKED enum cabe_status cabe_package_open(struct cabe_package **out, const char *path, struct cabe_error *err);
void cabe_package_close(struct cabe_package *package); /* NULL is fine */

/* The model's folder in the archive, "" for the root; for a GGUF, the path of the file. */
const char *cabe_package_model(const struct cabe_package *package);
int cabe_package_is_gguf(const struct cabe_package *package);
/* What extraction would write: the model's files, without other frameworks' weights, code and hidden files. */
size_t cabe_package_n_members(const struct cabe_package *package);
const struct cabe_package_member *cabe_package_member(const struct cabe_package *package, size_t index);

/*
 * Writes the members below `folder`, which must exist and be empty, and syncs them. On anything but CABE_OK the
 * caller removes the folder.
 */
CABE_CHECKED enum cabe_status cabe_package_extract(struct cabe_package *package, const char *folder,
                                                   const struct cabe_cancel *cancel,
                                                   const struct cabe_progress *progress, struct cabe_error *err);

#endif
