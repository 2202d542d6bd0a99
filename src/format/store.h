/*
 * The store: models by short name, each a folder (or a link) of the home's models folder.
 *
 * A name is 1 to 96 bytes of [a-z0-9._-], first a letter or digit. Where none is given it is made from, in this order,
 *
 *     a .gguf file           its file name; general.name where that is a common word ("model.gguf")
 *     a folder, wheel, zip   the folder's name; where that is a common word ("model"), the heading of its model card
 *                            (README.md) if it is one word; _name_or_path of config.json; the wheel's or the parent
 *                            folder's name
 *
 * in lower case, anything else as '-'. Versions and tags of a wheel's file name are cut.
 *
 * A model appears whole or not at all, and a pull never disturbs another: it is made in a hidden folder beside,
 * which holds a lock; a later pull removes what a killed one left.
 *
 * Thread: any; any number of processes.
 */
#ifndef CABE_FORMAT_STORE_H
#define CABE_FORMAT_STORE_H

#include <stddef.h>
#include <stdint.h>

#include "base/cancel.h"
#include "cabe/status.h"

#define CABE_STORE_NAME_MAX 96
#define CABE_STORE_PATH_MAX 4096

int cabe_store_name_is_valid(const char *name);
/* As above from any text: lower case, other bytes as '-'; "" where nothing of it can stay. */
void cabe_store_name_from(const char *text, size_t bytes, char out[CABE_STORE_NAME_MAX + 1]);

struct cabe_store_pull {
    const char *path; /* a folder, a .gguf or .safetensors file, a wheel or zip */
    const char *name; /* NULL: made as above */
    int force;        /* replaces a model of that name */
    int link;         /* a symbolic link to the folder or file instead of a copy */
    const struct cabe_cancel *cancel;
    const struct cabe_progress *progress;
};

/* On CABE_OK `name` is the model's and it opens. CABE_ERR_ARGUMENT where one of that name is there, without force. */
CABE_CHECKED enum cabe_status cabe_store_pull(const struct cabe_store_pull *pull,
                                              char name[CABE_STORE_NAME_MAX + 1], struct cabe_error *err);

/*
 * What a person calls a model, as a path to open: anything with a slash is a path; a name is the store's, or else a
 * file or folder here. CABE_ERR_NOT_FOUND says where it was looked for.
 */
CABE_CHECKED enum cabe_status cabe_store_resolve(const char *name_or_path, char out[CABE_STORE_PATH_MAX],
                                                 struct cabe_error *err);

/* The path of a model of the store by name alone; CABE_ERR_NOT_FOUND, CABE_ERR_ARGUMENT for no name. */
CABE_CHECKED enum cabe_status cabe_store_path(const char *name, char out[CABE_STORE_PATH_MAX],
                                              struct cabe_error *err);

struct cabe_store_entry {
    char name[CABE_STORE_NAME_MAX + 1];
    int is_link;
    char target[CABE_STORE_PATH_MAX]; /* of a link */
};

/* Sorted by name; *out is cabe_malloc'ed. An absent store is an empty one. */
CABE_CHECKED enum cabe_status cabe_store_list(struct cabe_store_entry **out, size_t *n, struct cabe_error *err);

/* Removes the model, or the link but never what it leads to. Only names, no paths. *bytes: what that freed. */
CABE_CHECKED enum cabe_status cabe_store_remove(const char *name, uint64_t *bytes, struct cabe_error *err);

#endif
