/* The inside of the store, shared by its files. Not for other rooms. */
#ifndef CABE_FORMAT_STORE_PARTS_H
#define CABE_FORMAT_STORE_PARTS_H

#include "base/home.h"
#include "format/source.h"
#include "format/store.h"

/* Each gives 1 and a valid name, or 0 and "" where the text is a word common to many models. */
int cabe_store_name_of_file(const char *file, const char *end, char out[CABE_STORE_NAME_MAX + 1]);
/* The last folder of the path; with `climb` the ones above in turn. */
int cabe_store_name_of_folder(const char *path, int climb, char out[CABE_STORE_NAME_MAX + 1]);
/* general.name, the heading of the model card, _name_or_path; "" where none of them says one. */
CABE_CHECKED enum cabe_status cabe_store_name_of_content(const char *path, char out[CABE_STORE_NAME_MAX + 1],
                                                         struct cabe_error *err);

/* Copies what cabe reads of the model at `path` (a folder or file), and its card and licence, into an empty folder. */
CABE_CHECKED enum cabe_status cabe_store_copy(const struct cabe_store_pull *pull, const char *path, const char *to,
                                              struct cabe_error *err);
/* CABE_ERR_NO_SPACE when the file system of `folder` has less free than `bytes`. */
CABE_CHECKED enum cabe_status cabe_store_check_space(const char *folder, uint64_t bytes, struct cabe_error *err);

/* Removes a folder with all in it, or one file or link; adds the files' sizes to *bytes. Links are not followed. */
CABE_CHECKED enum cabe_status cabe_tree_remove(const char *path, uint64_t *bytes, struct cabe_error *err);
/* Makes the names in a folder and all below it last. */
CABE_CHECKED enum cabe_status cabe_tree_sync(const char *path, struct cabe_error *err);

#endif
